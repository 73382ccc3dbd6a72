"""`handmesh-synth`: draw a set of labelled pictures on all cores."""

from __future__ import annotations

import errno
import itertools
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from handmesh.config import load_config
from handmesh.errors import UserError, one_line
from handmesh.hand_model import HandModel, load_hand_model
from handmesh.synthetic import freihand_layout, sets, shards
from handmesh.synthetic.config import PictureSet
from handmesh.synthetic.freihand_layout import LayoutWriter
from handmesh.synthetic.light import Places, load_places, panorama_paths
from handmesh.synthetic.scene import Sample, render_sample
from handmesh.synthetic.shards import ShardWriter
from handmesh.synthetic.sheet import draw_sheet
from handmesh.synthetic.stats import draw_stats, stats_table
from handmesh.synthetic.surface import HandSurface
from handmesh.synthetic.workers import become_worker, compile_once
from handmesh.threads import one_thread

_FEW_PICTURES = 400


@dataclass(frozen=True)
class SynthCommand:
    """Draw labelled pictures of hands. Run it again with the same arguments to finish a set that was cut short.

    Flags that are given count more than the file of --config, and that more than the defaults: 100,000 pictures in shards, 128 px.

    Attributes:
        out: folder to write; new, empty, or the set that the same arguments began.
        count: number of pictures, before other colourings.
        seed: other seeds give other pictures.
        size: height of a picture in pixels, a multiple of 4.
        hand_model: "open", "open-dense", "mano" (after handmesh-mano import), or the path of a hand model's npz.
        hdri: folder of equirectangular .hdr panoramas for light and backgrounds; procedural rooms without it.
        backgrounds: folder of photos to see behind hands.
        workers: processes; 0 for one a core. The pictures do not depend on it.
        config: a YAML file with count, seed, format, versions and everything about the pictures; see handmesh.synthetic.config.PictureSet.
        format: "shards" for training, "freihand" for the layout of FreiHAND.
        versions: colourings of each hand, 1 or 4; more than one in FreiHAND's layout alone.
        sheet: also write a contact sheet of the first pictures, with and without labels, to this PNG.
        stats: also write the distributions of angles, views, skin, visibility and sizes to this PNG.
    """

    out: Path
    count: int | None = None
    seed: int | None = None
    size: int | None = None
    hand_model: str = "open"
    hdri: Path | None = None
    backgrounds: Path | None = None
    workers: int = 0
    config: Path | None = None
    format: Literal["freihand", "shards"] | None = None
    versions: Literal[1, 4] | None = None
    sheet: Path | None = None
    stats: Path | None = None


def run_synth(command: SynthCommand) -> None:
    """Do what a `SynthCommand` says.

    Raises:
        UserError: a bad number, file, folder or hand model; a set that is not the frozen one; another set in the folder; no space left.
    """
    for flag, path in (("--sheet", command.sheet), ("--stats", command.stats)):
        if path is not None:
            _check_png(flag, path)
    pictures = choose_pictures(command)
    model = load_hand_model(command.hand_model)
    # Read here too, so that a bad folder is said at once and not by every worker.
    places = load_places(command.hdri, command.backgrounds, pictures.pictures)
    panoramas = panorama_paths(command.hdri, pictures.pictures) if command.hdri else []
    plan = sets.plan_manifest(pictures, model, panoramas, places.photos)
    if pictures.sha256 and pictures.sha256 != plan["recipe_sha256"]:
        raise _not_frozen(command, plan)
    with _disk_errors(command.out):
        if not (command.out / sets.MANIFEST).exists():
            # Before anything is made: a set too large is asked for anew, with other numbers.
            _check_space(command.out, pictures, model, pictures.count)
        manifest = sets.open_set(command.out, plan)
        writer = ShardWriter(command.out, manifest) if pictures.format == "shards" else LayoutWriter(command.out, manifest, pictures, model)
        todo = writer.todo()
        if todo:
            _check_space(command.out, pictures, model, sum(map(len, todo)))
            _draw_blocks(command, pictures, writer, todo, model, places)
        writer.close()
    if command.sheet is not None:
        draw_sheet(sets.open_pictures(command.out), command.sheet)
    if command.stats is not None:
        print(stats_table(draw_stats(sets.open_pictures(command.out), command.stats, model)))


def choose_pictures(command: SynthCommand) -> PictureSet:
    """The file's set, or the default one, with what the flags change.

    Raises:
        UserError: a bad file, number or combination.
    """
    pictures = load_config(PictureSet, command.config) if command.config is not None else PictureSet()
    flags = {name: getattr(command, name) for name in ("count", "seed", "format", "versions")}
    pictures = replace(pictures, **{name: value for name, value in flags.items() if value is not None})
    if command.size is not None:
        pictures = replace(pictures, pictures=replace(pictures.pictures, size_px=command.size))
    for name, value, least in (("count", pictures.count, 1), ("seed", pictures.seed, 0), ("workers", command.workers, 0)):
        if value < least:
            raise UserError(f"expected --{name} of at least {least}, got {value}; change it")
    if pictures.format == "shards" and pictures.pictures.width_px != pictures.pictures.size_px:
        got = f"{pictures.pictures.width_px} x {pictures.pictures.size_px}"
        raise UserError(f"expected square pictures for shards, got {got}; set aspect to 1, or choose --format freihand")
    if pictures.format == "shards" and pictures.versions != 1:
        raise UserError(f"expected one version of each picture in shards, got {pictures.versions}; choose --format freihand")
    return pictures


def _not_frozen(command: SynthCommand, plan: dict[str, Any]) -> UserError:
    flags = [f"--{name}" for name in ("count", "seed", "size", "format", "versions") if getattr(command, name) is not None]
    if flags:
        return UserError(
            f"expected the frozen set of '{command.config}', got {', '.join(flags)} as well; "
            "leave that out, or take sha256 out of a copy of the file"
        )
    return UserError(
        f"expected the frozen set of '{command.config}', but these pictures would be others; "
        f"compare the panoramas' bytes ({', '.join(entry['name'] for entry in plan['panoramas']) or 'none'}), "
        f"--backgrounds ({plan['backgrounds']['count']}), the hand model ({plan['hand_model']}) and the renderer ({plan['renderer']}), "
        "or take sha256 out of a copy of the file"
    )


def _check_png(flag: str, path: Path) -> None:
    if not path.parent.is_dir():
        raise UserError(f"expected {flag} in a folder that exists, got '{path}'; make the folder first")
    if path.suffix.lower() != ".png" or path.is_dir():
        raise UserError(f"expected {flag} as the name of a .png file, got '{path}'; change it")


def _check_space(folder: Path, pictures: PictureSet, model: HandModel, count: int) -> None:
    width, height = pictures.pictures.width_px, pictures.pictures.size_px
    if pictures.format == "shards":
        needed = count * shards.bytes_a_picture(height)
    else:
        needed = count * freihand_layout.bytes_a_picture(width, height, pictures.versions, len(model.template_m))
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise UserError(
            f"expected {needed / 1e9:.1f} GB free for {count} pictures in '{folder}', but {free / 1e9:.1f} GB are left; "
            "free more, or ask for fewer or smaller pictures"
        )


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """What happens to a disk while pictures are drawn, in one line."""
    try:
        yield
    except OSError as error:
        cure = "free some and run again" if error.errno == errno.ENOSPC else "mend that or choose another --out"
        raise UserError(f"expected to write pictures to '{folder}', but: {error.strerror or one_line(error)}; {cure}") from error


def _draw_blocks(
    command: SynthCommand, pictures: PictureSet, writer: sets.SetWriter, todo: list[range], model: HandModel, places: Places
) -> None:
    """Draw what is left, with a progress bar."""
    total = sum(map(len, todo)) * pictures.versions
    # Workers take seconds to start: few pictures are sooner drawn here.
    workers = min(command.workers or (1 if total < _FEW_PICTURES else os.cpu_count() or 1), len(todo))
    if workers == 1:
        blocks = _drawn_here(_painter_of(model, places, pictures, writer.job), todo, writer.begin)
    else:
        compile_once(model, pictures.pictures, places, pictures.seed)
        task = _Task(command.hand_model, command.hdri, command.backgrounds, pictures, writer.job)
        blocks = _drawn_by_processes(task, todo, workers, writer.begin)
    versions, drawn = pictures.versions, 0
    there = pictures.count - sum(map(len, todo))
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, refresh_per_second=2, speed_estimate_period=120) as progress, closing(blocks):
        bar = progress.add_task("pictures", total=pictures.count * versions, completed=there * versions, rate="starting")
        try:
            for block in blocks:
                writer.done(block)
                drawn += len(block) * versions
                rate = f"{drawn / (progress.tasks[0].elapsed or 1e-9):.0f}/s"
                progress.update(bar, advance=len(block) * versions, rate=rate)
        except KeyboardInterrupt:
            progress.stop()
            at = there * versions + drawn
            print(
                f"stopped at {at} of {pictures.count * versions} pictures; the same command goes on from there", file=sys.stderr, flush=True
            )
            raise


# Draws a block and gives it back.
_Painter = Callable[[range], range]


def _painter_of(model: HandModel, places: Places, pictures: PictureSet, job: sets.BlockJob) -> _Painter:
    surface = HandSurface.of(model)

    def draw(index: int, version: int) -> Sample:
        return render_sample(surface, pictures.pictures, places, pictures.seed, index, version)

    def paint(block: range) -> range:
        # Sums of products depend on the number of threads in their last bits, and workers have one core each.
        with one_thread():
            job.write(block, draw)
        return block

    return paint


def _drawn_here(paint: _Painter, todo: list[range], begin: Callable[[range], None]) -> Generator[range, None, None]:
    for block in todo:
        begin(block)
        yield paint(block)


@dataclass(frozen=True)
class _Task:
    """What a worker process has to know, whatever the block."""

    hand_model: str
    hdri: Path | None
    backgrounds: Path | None
    pictures: PictureSet
    job: sets.BlockJob


def _drawn_by_processes(task: _Task, todo: list[range], workers: int, begin: Callable[[range], None]) -> Generator[range, None, None]:
    """Blocks as they are finished, in any order."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(task,)) as pool:
        waiting, pending = iter(todo), set[Future[range]]()
        try:
            while True:
                # Few at a time, so that it does not matter how many there are in all.
                for block in itertools.islice(waiting, 3 * workers - len(pending)):
                    begin(block)
                    pending.add(pool.submit(_paint, block))
                if not pending:
                    return
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        except BrokenProcessPool as error:
            raise UserError(
                "expected all workers to live, but one was killed, perhaps for memory; run again with fewer --workers"
            ) from error
        finally:
            # After an error or Ctrl-C: what is being drawn is finished, the rest is left to the next run.
            pool.shutdown(wait=False, cancel_futures=True)


_painter: _Painter | None = None


def _start_worker(task: _Task) -> None:
    global _painter
    become_worker()
    places = load_places(task.hdri, task.backgrounds, task.pictures.pictures)
    _painter = _painter_of(load_hand_model(task.hand_model), places, task.pictures, task.job)


def _paint(block: range) -> range:
    assert _painter is not None
    return _painter(block)
