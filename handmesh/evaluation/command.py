"""`handmesh-eval`: its flags, and what it does with them. Three modes: measure a network, score a file of predictions, compare scores."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from handmesh import __version__
from handmesh.detection.landmarks import LandmarkKind
from handmesh.errors import UserError
from handmesh.estimator import DEFAULT_LANDMARKS, Answer, HandMeshEstimator
from handmesh.evaluation.baselines import Baseline, predict_baseline
from handmesh.evaluation.comparison import Samples, comparison_table, read_samples, told_apart
from handmesh.evaluation.corruptions import Robustness, measure_robustness, robustness_table, robustness_to_json
from handmesh.evaluation.datasets import open_data
from handmesh.evaluation.files import find_turned_axes, read_predictions, write_predictions
from handmesh.evaluation.predict import Change, CropNetwork, predict, predict_with_head
from handmesh.evaluation.records import CropMode, EvaluationSet, Predictions, Tta
from handmesh.evaluation.scores import METRIC, Scores, official_text, score, scores_to_json
from handmesh.hand_model import HandModel, load_hand_model
from handmesh.head import HEADS, read_head_info
from handmesh.runtime import DEFAULT_MODEL, Precision, Predictor
from handmesh.wholefile import replacing

if TYPE_CHECKING:
    from handmesh.evaluation.report import Entry, Report

EvalRuntime = Literal["openvino", "onnxruntime", "torch"]
DEFAULT = "default"
# Read by people first; all the others are in the report.
HEADLINE = ("pa_mpjpe_mm", "pa_mpvpe_mm", "f_5mm_aligned", "f_15mm_aligned", "mpjpe_root_mm", "keypoints_share")
# Distribution -> what is imported of it.
_PACKAGES = {
    **{name: name for name in ("numpy", "scipy", "openvino", "onnxruntime", "torch", "timm")},
    "opencv-contrib-python": "cv2",
}


@dataclass(frozen=True)
class EvalCommand:
    """Measure hands on labelled pictures: FreiHAND's benchmark, a set of handmesh-synth, or data of your own.

    With --data a network predicts all hands and is scored. With --pred and --gt anybody's pred.json is scored. With --compare
    methods that were scored here stand side by side, in the terminal. OUT gets scores.json, scores.txt and report.html, and with --data
    pred.json and pred.zip.
    """

    data: Path | None = None
    """FreiHAND's folder (with evaluation_xyz.json), a set of handmesh-synth --format freihand, or what --reader reads."""
    model: str = DEFAULT
    """Network: an .onnx or .xml of handmesh-export, a .pt of handmesh-train, or "default", the one that comes with the package."""
    runtime: EvalRuntime | None = None
    """What runs it; without it torch for a .pt, else openvino. A .pt with another runtime is exported first."""
    precision: Precision | None = None
    """Arithmetic of the network; bf16 with openvino alone. Without it what the file was exported for, else f32."""
    threads: int = 0
    """Of the network; 0 lets the runtime choose."""
    hand_model: str | None = None
    """Hand model: "open", "mano", or the path of an npz; without it, the one that the network was trained with."""
    crop: CropMode | None = None
    """centre: METRO's, the middle 180 of 224 px. gt: around true keypoints. detector: MediaPipe's. Default: centre on FreiHAND, else gt."""
    answer: Answer = "network"
    """Whose parameters: the network's, FreiHAND's set-up, or those of the head that reads MediaPipe's landmark network as well."""
    head: Path | None = None
    """With --answer head: a head of handmesh-train configs/head.yaml for --model; without it, the embedded one."""
    landmarks: LandmarkKind | None = None
    """With --answer head: MediaPipe's landmark network that is read; without it, that of --head, or full."""
    tta: Tta = "none"
    """Looks at each picture: one, METRO's 95 (19 rotations, 5 scales), or a few that are worth most."""
    baselines: tuple[Baseline, ...] = ()
    """Measure these too: the mean hand, all zeros, MediaPipe's world landmarks (joints only)."""
    corruptions: tyro.conf.FlagCreatePairsOff[bool] = False
    """Measure again under ten corruptions at five severities: 51 times as long."""
    every: int = 1
    """Only every n-th hand."""
    reader: Path | None = None
    """Python file with open_data(path) that reads --data or --gt."""
    pred: Path | None = None
    """Score this pred.json (or a .zip of it): [xyz, verts] in metres, in the order of the data."""
    gt: Path | None = None
    """Truth for --pred: as --data, but evaluation_xyz.json and evaluation_verts.json are enough (the first for joints alone)."""
    as_is: tyro.conf.FlagCreatePairsOff[bool] = False
    """Score --pred even where it looks like a mistake (another unit, joint order, side, or mesh)."""
    other_topology: tyro.conf.FlagCreatePairsOff[bool] = False
    """Vertices of --pred are of another mesh than the truth's: no vertex is compared with its twin."""
    compare: tuple[Path, ...] = ()
    """Two or more scores.json, or folders with one (or, with --gt, pred.json), side by side, with paired bootstrap intervals."""
    block: int = 1
    """Neighbouring hands that --compare draws together, for data whose neighbours show one moment."""
    name: str | None = None
    """Of the method, in tables; without it, the file's."""
    out: Path = Path("handmesh_eval")
    """Folder for everything that is written."""


# Flags of each mode; what is given beyond them would do nothing.
_MODES = {
    "--compare": {"compare", "block", "gt", "as_is", "other_topology", "reader"},
    "--pred": {"pred", "gt", "as_is", "other_topology", "name", "baselines", "hand_model", "crop", "every", "reader", "out"},
    "--data": {
        *("data", "model", "runtime", "precision", "threads", "hand_model", "crop", "tta", "baselines", "corruptions"),
        *("answer", "head", "landmarks"),
        *("every", "name", "reader", "out"),
    },
}


def run_eval(command: EvalCommand, argv: tuple[str, ...] = ()) -> None:
    """Do what the flags say, and print the headline.

    Args:
        argv: the flags as they were given, for the report.

    Raises:
        UserError: bad flags, data, network or predictions, or a folder that cannot be written.
    """
    mode = _mode_of(command)
    if mode == "--compare":
        _compare(command)
    else:
        _measure(command, mode, argv)


def _mode_of(command: EvalCommand) -> str:
    mode = "--compare" if command.compare else "--pred" if command.pred else "--data"
    if mode == "--data" and command.data is None:
        raise UserError(
            "expected --data DIR (and --model), --pred FILE --gt DIR, or --compare A B; without FreiHAND draw a set of your own: "
            "handmesh-synth --format freihand --count 500 --out DIR"
        )
    given = {field.name for field in dataclasses.fields(command) if getattr(command, field.name) != field.default}
    unused = given - _MODES[mode]
    if mode == "--compare" and command.gt is None:
        unused |= given & {"as_is", "other_topology", "reader"}
    if mode == "--pred" and not command.baselines:
        unused |= given & {"crop"}
    if spare := sorted(unused):
        flags = ", ".join("--" + name.replace("_", "-") for name in spare)
        raise UserError(f"expected no {flags} here, which would do nothing with {mode}; leave it out")
    if mode == "--pred" and command.gt is None:
        raise UserError("expected --gt DIR beside --pred, got none; give the folder that holds the truth")
    if command.every < 1 or command.block < 1:
        raise UserError(f"expected --every and --block from 1 on, got {command.every} and {command.block}; leave them out")
    if command.threads < 0:
        raise UserError(f"expected --threads from 0 on, got {command.threads}; 0 lets the runtime choose")
    if command.answer == "head" and (command.tta != "none" or command.runtime == "torch" or Path(command.model).suffix == ".pt"):
        raise UserError("expected an exported network and --tta none with --answer head, got others; export the checkpoint first")
    if command.answer == "network" and (command.head is not None or command.landmarks is not None):
        raise UserError("expected neither --head nor --landmarks without --answer head, which they are of; add it, or leave them out")
    if mode == "--compare" and len(command.compare) < 2:
        raise UserError("expected two files or more after --compare, got one; handmesh-eval --pred scores a single one")
    return mode


def _measure(command: EvalCommand, mode: str, argv: tuple[str, ...]) -> None:
    from handmesh.evaluation.report import Entry, Report

    folder = command.gt if mode == "--pred" else command.data
    assert folder is not None
    whole = open_data(folder, command.reader, truth_only=mode == "--pred" and not command.baselines)
    data = whole.every(command.every)
    _prepare(command.out)
    files = {}
    crop = command.crop or data.crop
    robustness = None
    if command.pred is not None:
        predictions = read_predictions(command.pred, whole, command.as_is, command.other_topology).every(command.every)
        scores = score(predictions, data)
        if turned := find_turned_axes(predictions, data):
            scores = dataclasses.replace(scores, warnings=(*scores.warnings, turned))
        entry = Entry(_name(command, command.pred.stem), "predictions from a file", predictions, scores)
        files["predictions"] = command.pred
        model = _model_for(command.hand_model, data.topology)
    else:
        files["network"] = _model_file(command)
        with _open_network(command, files["network"]) as (network, setting):
            model = load_hand_model(command.hand_model or _hand_model_of(network.info.hand_model))
            if network.info.hand_model != model.id:
                raise UserError(
                    f"expected a network for the hand model '{model.id}', got one for '{network.info.hand_model}'; "
                    "give --hand-model the one it was trained with"
                )
            with _answering(command, files["network"], network, model, crop) as (answer, by_whom):
                entry = _measure_network(command, data, answer, crop, f"{by_whom}, {setting}")
                if command.corruptions:
                    robustness = _measure_robustness(data, answer, entry.scores)
    baselines = tuple(_measure_baseline(name, data, model, crop) for name in command.baselines)

    # Wide enough for the headings, also where the output goes into a file.
    console = Console(width=max(110, Console().width))
    console.print(_headline(data, (entry, *baselines)))
    for warning in entry.scores.warnings:
        print(f"warning: {warning}")
    if robustness is not None:
        console.print(robustness_table(robustness))
    report = Report(
        data=data,
        entry=entry,
        baselines=baselines,
        robustness=robustness,
        command=_printable(shlex.join(("handmesh-eval", *argv))),
        versions=_versions(files),
        every=command.every,
        faces=_faces_of(entry.predictions.topology, model),
        truth_faces=_faces_of(data.topology, model),
    )
    _write_results(command, report)


# (data, change, label beside the progress bar) -> hands
Answering = Callable[[EvaluationSet, Change | None, str], Predictions]


@contextmanager
def _answering(command: EvalCommand, path: Path, network: CropNetwork, model: HandModel, crop: CropMode) -> Iterator[tuple[Answering, str]]:
    """What predicts, the network or the head beside it, and whose answer that is in words."""
    if command.answer == "network":
        yield lambda data, change, label: predict(data, network, model, crop, command.tta, change, label), "the network's answer"
        return
    head, runtime = command.head or HEADS[command.landmarks or DEFAULT_LANDMARKS], command.runtime or "openvino"
    landmarks = command.landmarks or read_head_info(head).landmarks
    assert runtime != "torch"
    with HandMeshEstimator(
        path,
        model,
        landmarks=landmarks,
        head=head,
        runtime=runtime,
        precision=command.precision,
        threads=command.threads,
    ) as estimator:
        yield (
            lambda data, change, label: predict_with_head(data, estimator, crop, change, label),
            f"the head's answer ({head.name}, MediaPipe's landmark network {landmarks})",
        )


def _measure_network(command: EvalCommand, data: EvaluationSet, answer: Answering, crop: CropMode, setting: str) -> Entry:
    from handmesh.evaluation.report import Entry

    start = time.perf_counter()
    predictions = answer(data, None, "hands")
    between = time.perf_counter()
    scores = score(predictions, data)
    end = time.perf_counter()
    print(f"{len(data)} hands: predicted in {between - start:.1f} s, scored in {end - between:.1f} s")
    if predictions.found is not None:
        found, count = int(predictions.found.sum()), len(data)
        line = f"MediaPipe's networks found {found} of {count} hands; the others were cropped in the middle of the picture"
        scores = dataclasses.replace(scores, warnings=(*scores.warnings, line))
    if command.model == DEFAULT and crop == "centre":
        line = "the embedded network was taught on crops around the hand, not on the middle of the picture: --crop gt or detector suit it"
        scores = dataclasses.replace(scores, warnings=(*scores.warnings, line))
    return Entry(
        _name(command, _model_file(command).name), f"crop {crop}, test-time augmentation {command.tta}, {setting}", predictions, scores
    )


def _measure_robustness(data: EvaluationSet, answer: Answering, clean: Scores) -> Robustness:
    def scored(change: Change | None, label: str) -> Scores:
        # All that is asked are joints.
        return score(dataclasses.replace(answer(data, change, label), vertices_m=None, topology=None), data)

    return measure_robustness(data, scored, clean=clean)


def _measure_baseline(name: Baseline, data: EvaluationSet, model: HandModel, crop: CropMode) -> Entry:
    from handmesh.evaluation.report import Entry

    predictions = predict_baseline(name, data, model, crop)
    heading = {"mean": "mean hand", "zero": "zeros", "mediapipe": "MediaPipe, world landmarks"}[name]
    setting = "baseline"
    if predictions.found is not None:
        setting = f"baseline; found in {predictions.found.mean():.1%}, else the mean hand"
        print(f"MediaPipe as a baseline: {setting.partition('; ')[2]}")
    return Entry(heading, setting, predictions, score(predictions, data))


def _model_file(command: EvalCommand) -> Path:
    path = DEFAULT_MODEL if command.model == DEFAULT else Path(command.model)
    if not path.is_file():
        raise UserError(
            f"expected an .onnx or .xml of handmesh-export or a .pt of handmesh-train for --model, got '{path}', which does not exist"
        )
    return path


def _name(command: EvalCommand, otherwise: str) -> str:
    return _printable(command.name or otherwise)


def _printable(text: str) -> str:
    """Bytes of arguments and file names that are no text become question marks."""
    return text.encode("utf-8", "replace").decode()


@contextmanager
def _open_network(command: EvalCommand, path: Path) -> Iterator[tuple[CropNetwork, str]]:
    """The network of a file, run as the flags say, and how that is in words."""
    is_checkpoint = path.suffix == ".pt"
    runtime = command.runtime or ("torch" if is_checkpoint else "openvino")
    if runtime == "torch":
        if not is_checkpoint:
            raise UserError(
                f"expected a .pt of handmesh-train with --runtime torch, got '{path}'; leave --runtime out, or give a checkpoint "
                "(the embedded network's is weights/hand_t8.pt in the repository)"
            )
        if command.precision not in (None, "f32") or command.threads:
            raise UserError("expected neither --precision nor --threads with torch, which runs in f32 on all cores; leave them out")
        from handmesh.evaluation.torch_network import TorchNetwork

        yield TorchNetwork(path, None), "torch f32"
        return
    with tempfile.TemporaryDirectory() as folder:
        if is_checkpoint:
            from handmesh.deploy.export import export_checkpoint
            from handmesh.training.checkpoint import load_checkpoint

            exported = Path(folder) / f"{path.stem}.onnx"
            export_checkpoint(path, exported, "f32", command.hand_model or _hand_model_of(load_checkpoint(path).hand_model))
            path = exported
        predictor = Predictor(path, None, runtime, command.precision, command.threads)
        names = {"openvino": "OpenVINO", "onnxruntime": "ONNX Runtime"}
        quantised = ", int8 file" if predictor.info.metadata.get("precision") == "int8" else ""
        yield predictor, f"{names[runtime]} {predictor.precision}{quantised}"


def _hand_model_of(model_id: str) -> str:
    """The name of a hand model that comes with the package or was imported; an id of another must be given as an npz."""
    return "mano" if model_id.startswith("mano") else "open"


def _model_for(name: str | None, topology: str | None) -> HandModel:
    """The hand to draw with where no network names one: the truth's, where it is there, else the open hand."""
    try:
        return load_hand_model(name or _hand_model_of(topology or ""))
    except UserError:
        if name is not None:
            raise
        return load_hand_model("open")


def _faces_of(topology: str | None, model: HandModel) -> np.ndarray | None:
    """Triangles of a mesh, where the hand model is at hand."""
    return model.faces if topology == model.id else None


def _headline(data: EvaluationSet, entries: tuple[Entry, ...]) -> Table:
    from handmesh.evaluation.report import shown

    table = Table(title=escape(f"{data.name}, {len(data)} {'hand' if len(data) == 1 else 'hands'}"), title_justify="left")
    table.add_column("")
    for name in HEADLINE:
        table.add_column(METRIC[name].heading, justify="right")
    for entry in entries:
        table.add_row(escape(entry.name), *(shown(METRIC[name], entry, data) for name in HEADLINE))
    return table


def _write_results(command: EvalCommand, report: Report) -> None:
    """All files, each whole or not at all; the page is made before any is written."""
    from handmesh.evaluation.report import report_html

    out, entry, data = command.out, report.entry, report.data
    more: dict[str, Any] = {"setting": entry.setting, "topology": entry.predictions.topology, "every": command.every}
    more |= {"command": report.command, "versions": report.versions}
    if entry.predictions.found is not None:
        more["found"] = float(entry.predictions.found.mean())
    if report.baselines:
        more["baselines"] = {each.name: {name: each.scores.mean(name) for name in METRIC} for each in report.baselines}
    if report.robustness is not None:
        more["robustness"] = robustness_to_json(report.robustness)
    print(f"{data.name}, {len(data)} hands: writing files and drawing the report")
    texts = {
        "scores.json": json.dumps(scores_to_json(entry.name, entry.scores, data, **more), allow_nan=False) + "\n",
        "scores.txt": official_text(entry.scores),
        "report.html": report_html(report),
    }
    written = list(texts)
    try:
        if command.pred is None and command.every == 1:
            write_predictions(out / "pred.json", entry.predictions)
            written += ["pred.json", "pred.zip"]
        for name, text in texts.items():
            with replacing(out / name) as temporary:
                temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise _cannot_write(out, error) from error
    if command.every > 1 and command.pred is None:
        print("no pred.json is written: the official form wants every hand, leave --every out for it")
    if "pred.json" not in written and command.pred is None and (out / "pred.json").exists():
        print(f"warning: pred.json in {out} is of an earlier run")
    print(f"written: {', '.join(sorted(written))} in {out}")


def _compare(command: EvalCommand) -> None:
    paths = [path / "scores.json" if path.is_dir() else path for path in command.compare]
    if len({path.resolve() for path in paths}) < len(paths):
        raise UserError("expected different files after --compare, got one twice; give each method's own")
    methods = told_apart([_read_method(command, path) for path in paths], paths)
    Console(width=max(120, Console().width)).print(comparison_table(methods, block=command.block))


def _read_method(command: EvalCommand, path: Path) -> Samples:
    """Scores of a file, or of the predictions that it holds."""
    if command.gt is None or _holds_scores(path):
        return read_samples(path)
    data = open_data(command.gt, command.reader, truth_only=True)
    scores = score(read_predictions(path, data, command.as_is, command.other_topology), data)
    values = scores_to_json(path.stem, scores, data)
    return Samples(path.stem, scores.samples, data.name, {key: value for key, value in values.items() if key != "samples"})


def _holds_scores(path: Path) -> bool:
    """Scores are an object, predictions a list or an archive."""
    try:
        with path.open("rb") as file:
            return file.read(64).lstrip()[:1] == b"{"
    except OSError as error:
        raise UserError(f"expected a scores.json or pred.json, got '{path}' ({error.strerror}); give a file that is there") from error


def _prepare(out: Path) -> None:
    """Make the folder, and see before the long work whether it can be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise _cannot_write(out, error) from error


def _cannot_write(out: Path, error: OSError) -> UserError:
    return UserError(f"expected a folder that can be written for --out, got '{out}' ({error.strerror or error}); choose another")


def _versions(files: dict[str, Path]) -> dict[str, str]:
    """Programs that took part, and checksums of files."""
    found = {"handmesh": __version__, "Python": platform.python_version()}
    for package, module in _PACKAGES.items():
        if module in sys.modules:
            found[package] = importlib.metadata.version(package)
    for what, path in files.items():
        with path.open("rb") as file:
            found[f"SHA-256 of the {what}"] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
