"""`handmesh-train configs/head.yaml`: renders hands, lets the networks look at them, trains heads on what they saw, and exports these."""

from __future__ import annotations

import hashlib
import multiprocessing
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from handmesh.config import config_to_dict
from handmesh.deploy.head import export_head
from handmesh.detection.landmarks import LandmarkKind, LandmarkNetwork
from handmesh.detection.regions import REGION_PX
from handmesh.errors import UserError, one_line
from handmesh.hand_model import load_hand_model
from handmesh.head import FORMAT
from handmesh.looks import read_looks, write_manifest, write_shard
from handmesh.photographs import PhotographReader
from handmesh.recipes.looks import Subject, look, photograph_subjects, rendered_subjects
from handmesh.runtime import DEFAULT_MODEL, Precision, Predictor
from handmesh.synthetic.command import SynthCommand, run_synth
from handmesh.synthetic.config import SynthConfig
from handmesh.synthetic.light import panorama_paths
from handmesh.synthetic.shards import ShardReader
from handmesh.synthetic.workers import become_worker
from handmesh.training.head import HeadErrors, HeadTraining, save_head, train_head
from handmesh.wholefile import replacing

# Images that are rendered, looked at and deleted together, and looks that a process writes together: what an interruption costs.
_PART, _SLICE = 8192, 1024


@dataclass(frozen=True)
class HeadCommand:
    """Make the heads of a hand network: render, look, train, export. Run it again to go on where it was interrupted."""

    recipe: Literal["head"] = "head"
    """Marks the file as one of this recipe."""
    out: Path = Path("runs/head")
    """Folder of the looks, the weights (head_full.pt ...) and the exported heads (head_full.onnx ...)."""
    network: Path | None = None
    """The exported hand network that the heads are for (.onnx); the embedded one without it."""
    hand_model: str = "open"
    """'open', 'mano', or the path of a hand model's npz: the network's."""
    landmarks: tuple[LandmarkKind, ...] = ("full", "lite")
    """MediaPipe's landmark networks; a head for each."""
    precisions: tuple[Precision, ...] = ("f32", "bf16")
    """Of the networks while they look, by turns: a head that has seen one alone is worse in the other."""
    images: int = 122_880
    """Rendered images, 224 px or so."""
    validation_images: int = 2048
    """Of these, the last ones, are not trained on."""
    looks: int = 2
    """Regions around each rendered hand."""
    photographs: Path | None = None
    """Packed photographs (tools/pack_photographs.py --size 224), whose landmarks teach in 2D."""
    photograph_looks: int = 4
    """Regions around each photographed hand."""
    hdri: Path | None = None
    """Folder of panoramas, as for handmesh-synth."""
    seed: int = 0
    """Decides images, regions, weights and batches."""
    workers: int = 0
    """Processes; 0 for one a core."""
    pictures: SynthConfig = field(default_factory=SynthConfig)
    """What is rendered."""
    training: HeadTraining = field(default_factory=HeadTraining)
    """How a head is trained."""

    def __post_init__(self) -> None:
        for name in ("images", "validation_images", "looks", "photograph_looks"):
            if getattr(self, name) < 1:
                raise UserError(f"expected {name} of at least 1, got {getattr(self, name)}; change it")
        if self.validation_images >= self.images:
            raise UserError(f"expected fewer validation_images than images, got {self.validation_images} of {self.images}; change one")
        for name in ("workers", "seed"):
            if getattr(self, name) < 0:
                raise UserError(f"expected {name} of at least 0, got {getattr(self, name)}; change it")
        for name in ("landmarks", "precisions"):
            if not getattr(self, name):
                raise UserError(f"expected {name} as a list of one or both, got none; add one")


def make_heads(command: HeadCommand) -> list[Path]:
    """Do all of it, or what is missing.

    Returns:
        Paths of the exported heads.

    Raises:
        UserError: a bad network, folder or hand model; looks of other settings in the folder; a folder that cannot be written, a full disk.
    """
    network = command.network or DEFAULT_MODEL
    model = load_hand_model(command.hand_model)
    Predictor(network, model.id)
    look_at_all(command)
    made = []
    for kind in command.landmarks:
        out = command.out / f"head_{kind}.onnx"
        made.append(out)
        if out.exists():
            print(f"{out} is there already; delete it to train it again")
            continue
        looks = read_looks(sorted(folder.parent for folder in (command.out / "looks" / kind).glob("*/labels.npy")))
        with _bar(f"head for {kind}", command.training.steps) as (advance, say):

            def report(step: int, errors: HeadErrors | None, advance: Any = advance, say: Any = say) -> None:
                advance()
                if errors is not None:
                    say(f"step {step + 1}: {errors}")

            net, errors = train_head(looks, model, REGION_PX, command.training, report)
        metadata = {
            "head_format": FORMAT,
            "landmarks": kind,
            "hand_model": model.id,
            "network_sha256": hashlib.sha256(network.read_bytes()).hexdigest(),
            "region_px": REGION_PX,
            "looks": len(looks),
            "errors": config_to_dict(errors),
        }
        save_head(net, command.training, metadata, out.with_suffix(".pt"))
        held_out = np.flatnonzero(looks.labels["is_validation"] & looks.labels["has_params"])[:64]
        with _disk_errors(command.out):
            distance_mm = export_head(net, model, looks, held_out, metadata, out)
        print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, {distance_mm:.4f} mm from the trained head; {errors}")
    return made


def look_at_all(command: HeadCommand) -> None:
    """Render and look until all looks are there.

    Raises:
        UserError: as `make_heads`.
    """
    network = command.network or DEFAULT_MODEL
    made_of = {
        "network_sha256": hashlib.sha256(network.read_bytes()).hexdigest(),
        **{name: getattr(command, name) for name in ("hand_model", "images", "validation_images", "looks", "photograph_looks", "seed")},
        "photographs": command.photographs is not None,
        "precisions": list(command.precisions),
        "panoramas": [] if command.hdri is None else [path.name for path in panorama_paths(command.hdri, command.pictures)],
        "pictures": config_to_dict(command.pictures),
    }
    # All that is read is checked before anything is written.
    reader = None if command.photographs is None else PhotographReader(command.photographs)
    with _disk_errors(command.out):
        for kind in command.landmarks:
            write_manifest(command.out / "looks" / kind, made_of)
    if reader is not None and command.photographs is not None:
        _look_at(command, "photographs", _slices(0, len(reader), "photograph"), command.photographs)
    for part, start in enumerate(range(0, command.images, _PART)):
        count = min(_PART, command.images - start)
        # What is trained on and what is not never share a slice.
        middle = min(max(start, command.images - command.validation_images), start + count)
        slices = [*_slices(start, middle, "image"), *_slices(middle, start + count, "image")]
        slices = [each for each in slices if not _is_there(command, each)]
        if not slices:
            continue
        folder = command.out / f"images-{part:03d}"
        settings = command.out / "images.yaml"
        with _disk_errors(command.out):
            _write_settings(settings, command)
        run_synth(
            SynthCommand(
                folder,
                count=count,
                seed=1000 * command.seed + part,
                config=settings,
                hdri=command.hdri,
                hand_model=command.hand_model,
                workers=command.workers,
            )
        )
        _look_at(command, f"looks at images {start} to {start + count - 1}", slices, folder)
        shutil.rmtree(folder)


@dataclass(frozen=True)
class _Slice:
    """Subjects `start` to `stop` - 1 of all images or photographs."""

    name: str
    start: int
    stop: int


def _slices(start: int, stop: int, name: str) -> list[_Slice]:
    return [_Slice(f"{name}-{low:07d}", low, min(low + _SLICE, stop)) for low in range(start, stop, _SLICE)]


def _is_there(command: HeadCommand, each: _Slice) -> bool:
    return all((command.out / "looks" / kind / each.name).exists() for kind in command.landmarks)


def _look_at(command: HeadCommand, what: str, slices: Sequence[_Slice], folder: Path) -> None:
    missing = [each for each in slices if not _is_there(command, each)]
    if not missing:
        return
    # Here once, so that a download happens once and a bad file is said at once.
    for kind in command.landmarks:
        LandmarkNetwork(kind, threads=1)
    workers = command.workers or multiprocessing.cpu_count()
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(min(workers, len(missing)), context, become_worker) as pool,
        _bar(what, len(missing)) as (advance, _),
    ):
        for _ in pool.map(_look_at_slice, [command] * len(missing), missing, [folder] * len(missing)):
            advance()


def _look_at_slice(command: HeadCommand, each: _Slice, folder: Path) -> None:
    """What a process does."""
    precision = command.precisions[each.start // _SLICE % len(command.precisions)]
    networks: dict[LandmarkKind, LandmarkNetwork] = {
        kind: LandmarkNetwork(kind, precision=precision, threads=1) for kind in command.landmarks
    }
    model = load_hand_model(command.hand_model)
    predictor = Predictor(command.network, model.id, precision=precision, threads=1)
    is_photograph = each.name.startswith("photograph")
    looks_each = command.photograph_looks if is_photograph else command.looks
    seen = look(_subjects(command, each, folder), networks, predictor, looks_each, command.seed)
    for kind, looks in seen.items():
        target = command.out / "looks" / kind / each.name
        if not target.exists():
            with _disk_errors(command.out):
                write_shard(looks, target)


def _subjects(command: HeadCommand, each: _Slice, folder: Path) -> Iterator[Subject]:
    if each.name.startswith("photograph"):
        return photograph_subjects(PhotographReader(folder), np.arange(each.start, each.stop))
    reader, model = ShardReader(folder), load_hand_model(command.hand_model)
    rows = np.arange(each.start, each.stop) - each.start // _PART * _PART
    return rendered_subjects(reader.images(rows), reader.labels(rows), model, each.start, is_held_out(command, each))


def is_held_out(command: HeadCommand, each: _Slice) -> bool:
    """Whether a slice of rendered images is not trained on."""
    return each.start >= command.images - command.validation_images


def _write_settings(path: Path, command: HeadCommand) -> None:
    import yaml

    with replacing(path) as temporary:
        temporary.write_text(yaml.safe_dump({"pictures": config_to_dict(command.pictures)}), encoding="utf-8")


@contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"expected a folder that can be written, got '{out}' ({one_line(error)}); choose another --out, or make room and run again"
        ) from error


@contextmanager
def _bar(what: str, total: int) -> Iterator[tuple[Callable[[], None], Callable[[str], None]]]:
    """A progress bar: what advances it, and what prints a line above it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=total)
        yield lambda: progress.advance(task), progress.console.print
