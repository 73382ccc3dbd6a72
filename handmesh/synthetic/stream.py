"""Rendered images without end, in shared memory: processes draw ahead of a reader into one file. Needs no torch.

Image `number` is a function of the configuration, the seed and its number alone. The first `validation` images stay; the others share
a ring, in which an image takes the place of the one `ring` numbers before it. The file outlives the processes: who opens it again with
the same plan finds there what was rendered.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import multiprocessing
import os
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from handmesh.config import config_to_dict
from handmesh.errors import UserError, one_line
from handmesh.hand_model import HandModel, load_hand_model
from handmesh.synthetic.config import SynthConfig
from handmesh.synthetic.light import load_places
from handmesh.synthetic.scene import LABEL_DTYPE, PARTS_STRIDE, PICTURES, render_sample
from handmesh.synthetic.surface import HandSurface
from handmesh.synthetic.workers import become_worker, compile_once

BLOCK_IMAGES = 16
FILE_NAME, PLAN_NAME = "rendered.bin", "rendered.json"
_POLL_S = 0.005
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class StreamPlan:
    """Everything that decides the images and where they lie.

    Attributes:
        pictures: how they are drawn; square.
        seed: other seeds give other images.
        hand_model: as for `load_hand_model`.
        hdri: folder of panoramas; None for procedural rooms.
        validation: how many images stay, a multiple of BLOCK_IMAGES.
        ring: how many others are kept, a multiple of BLOCK_IMAGES.
    """

    pictures: SynthConfig
    seed: int
    hand_model: str
    hdri: Path | None
    validation: int
    ring: int

    def __post_init__(self) -> None:
        for name in ("validation", "ring"):
            value = getattr(self, name)
            if value % BLOCK_IMAGES or value < 0 or (name == "ring" and not value):
                raise UserError(f"expected {name} as a multiple of {BLOCK_IMAGES}, got {value}; round it")
        if self.pictures.width_px != self.pictures.size_px:
            raise UserError("expected square images to train on, got others; set aspect to 1")

    def sha256(self) -> str:
        """Names the plan, with the renderer and the names of the panoramas."""
        hdri = sorted(path.name for path in self.hdri.glob("*.hdr")) if self.hdri else None
        plan = {**config_to_dict(replace(self, hdri=None)), "hdri": hdri, "renderer": PICTURES}
        return hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()

    def slots(self, numbers: np.ndarray) -> np.ndarray:
        """(N,) int64 where the images of these numbers (N,) lie."""
        return np.where(numbers < self.validation, numbers, self.validation + (numbers - self.validation) % self.ring)


def bytes_an_image(size_px: int) -> int:
    """Room that an image takes with its labels."""
    coarse = size_px // PARTS_STRIDE
    return 3 * size_px**2 + 3 * coarse**2 + LABEL_DTYPE.itemsize + 1


class _Arrays:
    """The file's arrays, mapped. `stamps` holds for each block of slots the number of the block of images there plus 1, or 0."""

    def __init__(self, plan: StreamPlan, path: Path) -> None:
        count, size = plan.validation + plan.ring, plan.pictures.size_px
        coarse = size // PARTS_STRIDE
        kinds: dict[str, tuple[Any, tuple[int, ...]]] = {
            "stamps": (np.int64, (count // BLOCK_IMAGES,)),
            "images": (np.uint8, (count, size, size, 3)),
            "parts": (np.uint8, (count, coarse, coarse)),
            "depth": (np.float16, (count, coarse, coarse)),
            "labels": (LABEL_DTYPE, (count,)),
        }
        # Each array begins on a page.
        sizes = [-(-np.dtype(kind).itemsize * int(np.prod(shape)) // mmap.PAGESIZE) * mmap.PAGESIZE for kind, shape in kinds.values()]
        self.bytes = sum(sizes)
        if not path.exists():
            with path.open("wb") as file:
                # Reserved at once: a full disk is then an error here, and not a bus error later.
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, self.bytes)
                else:
                    file.truncate(self.bytes)
        starts = np.cumsum([0, *sizes])[:-1].tolist()
        arrays = {
            name: np.memmap(path, kind, "r+", start, shape) for (name, (kind, shape)), start in zip(kinds.items(), starts, strict=True)
        }
        self.stamps, self.images, self.parts = arrays["stamps"], arrays["images"], arrays["parts"]
        self.depth, self.labels = arrays["depth"], arrays["labels"]


class ImageStream:
    """Rendered images by number; a `training.data.Shards`, whose readers wait for what is not there yet.

    Args:
        plan: of the images.
        folder: of the file, best in memory (/dev/shm). What another plan left there is overwritten.
        workers: processes.

    Raises:
        UserError: no room, or no panoramas.
    """

    def __init__(self, plan: StreamPlan, folder: Path, workers: int) -> None:
        self.plan, self.workers = plan, workers
        self.hand_model: HandModel = load_hand_model(plan.hand_model)
        self._path = folder / FILE_NAME
        # Read here too, so that a bad folder is said at once and not by every worker.
        self._places = load_places(plan.hdri, None, plan.pictures)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            note = folder / PLAN_NAME
            if not self._path.exists() or not note.exists() or json.loads(note.read_text())["sha256"] != plan.sha256():
                self._path.unlink(missing_ok=True)
                note.write_text(json.dumps({"sha256": plan.sha256()}) + "\n")
            self._arrays = _Arrays(plan, self._path)
        except (OSError, ValueError, KeyError) as error:
            needed = (plan.validation + plan.ring) * bytes_an_image(plan.pictures.size_px) / 1e9
            self._path.unlink(missing_ok=True)
            raise UserError(
                f"expected room for {needed:.1f} GB of images in '{folder}', got: {one_line(error)}; choose another or fewer"
            ) from error
        context = multiprocessing.get_context("spawn")
        self._context = context
        # Position in the order of rendering: blocks of validation, then the others from `_first` on.
        self._next, self._limit, self._first = context.Value("q", 0), context.Value("q", 0), context.Value("q", -1)
        self._drawn, self._is_over = context.Value("q", 0), context.Event()
        self._processes: list[Any] = []
        self._lock = threading.Lock()

    def want(self, low: int, high: int) -> None:
        """Let the processes render images number `low` to `high` - 1, in order; the first call starts them.

        Later calls only raise `high`. Images before the lowest that a reader still asks for may be overwritten: at most `plan.ring` lie
        between that and `high`.
        """
        with self._lock:
            held_out = self.plan.validation // BLOCK_IMAGES
            if not self._processes:
                self._first.value = max(low, self.plan.validation) // BLOCK_IMAGES
            self._limit.value = max(self._limit.value, held_out + max(0, -(-high // BLOCK_IMAGES) - self._first.value))
            if not self._processes:
                self._start()

    def drawn(self) -> int:
        """How many images this object's processes have rendered."""
        return self._drawn.value

    def wait_for(self, numbers: np.ndarray) -> None:
        """Until all images of these numbers (N,) are there.

        Raises:
            UserError: a process that renders died.
        """
        blocks = np.unique(numbers // BLOCK_IMAGES)
        places = self.plan.slots(blocks * BLOCK_IMAGES) // BLOCK_IMAGES
        looked_at = time.monotonic()
        while (self._arrays.stamps[places] != blocks + 1).any():
            if time.monotonic() - looked_at > 1:
                looked_at = time.monotonic()
                self.check()
            time.sleep(_POLL_S)

    def __len__(self) -> int:
        """How many images the file holds."""
        return self.plan.validation + self.plan.ring

    def check(self) -> None:
        """Raises:
        UserError: a process that renders died, or none was started.
        """
        if not self._processes or any(process.exitcode is not None for process in self._processes):
            raise UserError("expected all rendering processes to live, but one died, perhaps for memory; use fewer --workers")

    def images(self, idx: np.ndarray, /) -> np.ndarray:
        """(N, S, S, 3) uint8."""
        return self._read(self._arrays.images, idx)

    def parts(self, idx: np.ndarray, /) -> np.ndarray:
        """(N, S/4, S/4) uint8."""
        return self._read(self._arrays.parts, idx)

    def depth(self, idx: np.ndarray, /) -> np.ndarray:
        """(N, S/4, S/4) float16."""
        return self._read(self._arrays.depth, idx)

    def labels(self, idx: np.ndarray, /) -> np.ndarray:
        """(N,) LABEL_DTYPE."""
        return self._read(self._arrays.labels, idx)

    def close(self) -> None:
        """End the processes; the file stays."""
        self._is_over.set()
        for process in self._processes:
            process.join()
        self._processes = []

    def _read(self, array: np.ndarray, idx: np.ndarray) -> np.ndarray:
        self.wait_for(idx)
        return np.asarray(array[self.plan.slots(idx)])

    def _start(self) -> None:
        compile_once(self.hand_model, self.plan.pictures, self._places, self.plan.seed)
        arguments = (self.plan, self._path, self._first, self._next, self._limit, self._drawn, self._is_over)
        before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
        # Read when a process loads its libraries. Sums depend on the number of threads in their last bits.
        os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
        try:
            for _ in range(self.workers):
                process = self._context.Process(target=_work, args=arguments, daemon=True)
                process.start()
                self._processes.append(process)
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def _work(plan: StreamPlan, path: Path, first: Any, following: Any, limit: Any, drawn: Any, is_over: Any) -> None:
    """What a process does: take the next block, render it, stamp it."""
    become_worker()
    # The process that trains must never wait for a core.
    if hasattr(os, "nice"):
        os.nice(10)
    arrays = _Arrays(plan, path)
    surface, places = HandSurface.of(load_hand_model(plan.hand_model)), load_places(plan.hdri, None, plan.pictures)
    held_out = plan.validation // BLOCK_IMAGES
    while not is_over.is_set():
        with following.get_lock():
            position = following.value
            is_mine = position < limit.value
            if is_mine:
                following.value += 1
        if not is_mine:
            time.sleep(_POLL_S)
            continue
        block = position if position < held_out else first.value + position - held_out
        slot = int(plan.slots(np.array(block * BLOCK_IMAGES)))
        if arrays.stamps[slot // BLOCK_IMAGES] == block + 1:
            continue
        arrays.stamps[slot // BLOCK_IMAGES] = 0
        for offset in range(BLOCK_IMAGES):
            sample = render_sample(surface, plan.pictures, places, plan.seed, block * BLOCK_IMAGES + offset)
            arrays.images[slot + offset], arrays.parts[slot + offset] = sample.image, sample.parts
            arrays.depth[slot + offset], arrays.labels[slot + offset] = sample.depth_m, sample.label
        arrays.stamps[slot // BLOCK_IMAGES] = block + 1
        with drawn.get_lock():
            drawn.value += BLOCK_IMAGES
