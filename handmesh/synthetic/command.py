"""`handmesh-synth`: draw a set of labelled pictures on all cores."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path

import cv2
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from handmesh.errors import UserError
from handmesh.hand_model import HandModel, load_hand_model
from handmesh.synthetic import shards
from handmesh.synthetic.config import SynthConfig
from handmesh.synthetic.light import load_panoramas
from handmesh.synthetic.scene import Sample, render_sample
from handmesh.synthetic.sheet import draw_sheet
from handmesh.synthetic.surface import HandSurface


@dataclass(frozen=True)
class SynthCommand:
    """Draw labelled pictures of hands for training. Run it again with the same arguments to finish a set that was cut short.

    Attributes:
        out: folder to write; new, empty, or the set that the same arguments began.
        count: number of pictures.
        seed: other seeds give other pictures.
        size: side of a picture in pixels, a multiple of 4.
        hdri: folder of equirectangular .hdr panoramas for light and backgrounds; procedural ones without it.
        hand_model: "open", "mano" (after handmesh-mano import), or the path of a hand model's npz.
        workers: processes; 0 for one a core.
        sheet: also write a contact sheet of the first pictures, with and without labels, to this PNG.
    """

    out: Path
    count: int = 100_000
    seed: int = 0
    size: int = 128
    hdri: Path | None = None
    hand_model: str = "open"
    workers: int = 0
    sheet: Path | None = None


def run_synth(command: SynthCommand) -> None:
    """Do what a `SynthCommand` says.

    Raises:
        UserError: a bad number, folder or hand model; another set in the folder; no space left.
    """
    if command.count < 1 or command.seed < 0 or command.workers < 0:
        got = f"{command.count}, {command.seed}, {command.workers}"
        raise UserError(f"expected --count of at least 1, --seed and --workers of at least 0, got {got}; change them")
    if command.sheet is not None and not command.sheet.parent.is_dir():
        raise UserError(f"expected --sheet in a folder that exists, got '{command.sheet}'; make the folder first")
    config = SynthConfig(size_px=command.size)
    model = load_hand_model(command.hand_model)
    # Loaded here too, so that a bad folder is said at once and not by every worker.
    panoramas = load_panoramas(command.hdri)
    names = sorted(path.name for path in command.hdri.glob("*.hdr")) if command.hdri else []
    manifest = shards.open_set(command.out, shards.plan_manifest(model, config, names, command.count, command.seed))
    counts = shards.shard_counts(command.count)
    complete = {entry["name"] for entry in manifest["shards"]}
    todo = [shard for shard in range(len(counts)) if shards.shard_name(shard) not in complete]
    _check_space(command.out, config, sum(counts[shard] for shard in todo))
    if todo:
        # One picture here fills numba's cache before the workers start, which would all compile otherwise.
        render_sample(model, replace(config, negative_share=0.0, panorama_share=1.0), panoramas[:1], command.seed, 0)
        del panoramas
        _draw_shards(command, config, manifest, counts, todo)
    if command.sheet is not None:
        draw_sheet(shards.ShardReader(command.out), command.sheet)


def _check_space(folder: Path, config: SynthConfig, pictures: int) -> None:
    needed = pictures * (config.size_px**2 * 3 * 1.03 + shards.LABEL_DTYPE.itemsize)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"expected {needed / 1e9:.1f} GB free for {pictures} pictures in '{folder}', but {free / 1e9:.1f} GB are left; free more"
        )


def _draw_shards(command: SynthCommand, config: SynthConfig, manifest: dict, counts: list[int], todo: list[int]) -> None:
    context = multiprocessing.get_context("spawn")
    drawn = context.Value("q", sum(entry["count"] for entry in manifest["shards"]))
    start = drawn.value
    workers = min(command.workers or os.cpu_count() or 1, len(todo))
    stop = context.Event()
    setup = (command.hand_model, command.hdri, config, command.seed, command.out, drawn, stop)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TimeRemainingColumn())
    with (
        _one_thread_each(),
        ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=setup) as pool,
        Progress(*columns, refresh_per_second=2, speed_estimate_period=120) as progress,
    ):
        bar = progress.add_task("pictures", total=command.count, completed=start, rate="")
        pending = {pool.submit(_draw_shard, shard, counts[shard]) for shard in todo}
        try:
            while pending:
                done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                elapsed = progress.tasks[0].elapsed or 1e-9
                progress.update(bar, completed=drawn.value, rate=f"{(drawn.value - start) / elapsed:.0f}/s")
                for future in done:
                    manifest["shards"] = sorted([*manifest["shards"], future.result()], key=lambda entry: entry["name"])
                    shards.write_manifest(command.out, manifest)
        except OSError as error:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            cure = "free some and run again" if error.errno == errno.ENOSPC else "choose another --out"
            raise UserError(f"expected to write pictures to '{command.out}', but: {error.strerror}; {cure}") from error
        except BrokenProcessPool as error:
            raise UserError(
                "expected all workers to live, but one was killed, perhaps for memory; run again with fewer --workers"
            ) from error
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Workers inherit these: numpy's small products are slower on several threads, and the cores are taken."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@dataclass(frozen=True)
class _Worker:
    """What a worker process keeps between shards."""

    surface: HandSurface
    panoramas: tuple
    config: SynthConfig
    seed: int
    out: Path
    drawn: Synchronized
    stop: Event


class _StoppedError(Exception):
    """Another worker failed, or the user ended it."""


_worker: _Worker | None = None


def _start_worker(hand_model: str, hdri: Path | None, config: SynthConfig, seed: int, out: Path, drawn: Synchronized, stop: Event) -> None:
    global _worker
    cv2.setNumThreads(1)
    model: HandModel = load_hand_model(hand_model)
    _worker = _Worker(HandSurface.of(model), load_panoramas(hdri), config, seed, out, drawn, stop)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent cannot tell its workers to stop."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _draw_shard(shard: int, count: int) -> dict:
    worker = _worker
    assert worker is not None

    def draw(index: int) -> Sample:
        if worker.stop.is_set():
            raise _StoppedError
        return render_sample(worker.surface, worker.config, worker.panoramas, worker.seed, index)

    def drawn() -> None:
        with worker.drawn.get_lock():
            worker.drawn.value += 1

    return shards.write_shard(worker.out, shard, worker.config.size_px, count, draw, drawn)
