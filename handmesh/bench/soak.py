"""The demo's loop for a long time, and with a camera that is unplugged again and again: what grows, and what is left over."""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import cv2
import numpy as np

from handmesh.bench.loop import FirstFrames
from handmesh.errors import UserError
from handmesh.live.intrinsics import CameraChoice
from handmesh.live.loop import Artist, Estimator, Wishes, run_loop
from handmesh.live.sinks import Shot, open_sinks
from handmesh.live.sources import Capture, LiveSource, Source

# What is allocated before this many frames is not growth: caches, threads, the first hands.
SETTLED_FRAMES = 1000
# How many frames a camera sends before it is unplugged, how fast, and how often it then is not found.
FRAMES_A_PLUG, PLUG_FRAMES_S, FAILED_OPENINGS = 10, 60.0, 2
_SAMPLES = 400
_PROC = Path("/proc/self")


@dataclass(frozen=True)
class Sample:
    """What this process holds at one moment.

    Attributes:
        frames: how many had come out of the loop.
        at_s: since the start of the run.
        rss_mb: resident memory, in 1e6 bytes.
        threads: of Python and of native code.
        handles: open file descriptors.
    """

    frames: int
    at_s: float
    rss_mb: float
    threads: int
    handles: int


@dataclass(frozen=True)
class Soak:
    """One long run.

    Attributes:
        before, after: just before the loop started and after it was closed.
        samples: while it ran, after the first frame and at even distances.
        settled_frames: growth counts from here.
        duration_s: of the loop.
        messages: lines that a camera printed.
    """

    before: Sample
    samples: tuple[Sample, ...]
    after: Sample
    settled_frames: int
    duration_s: float
    messages: tuple[str, ...] = ()

    @property
    def settled(self) -> tuple[Sample, ...]:
        """The samples that count: at least the last."""
        return tuple(sample for sample in self.samples[:-1] if sample.frames >= self.settled_frames) + self.samples[-1:]

    @property
    def growth_mb(self) -> float:
        """From the first settled sample to the highest: what the system takes back later does not hide it."""
        return max(sample.rss_mb for sample in self.settled) - self.settled[0].rss_mb

    @property
    def slope_mb(self) -> float:
        """MB in 10,000 frames, of the straight line through the settled samples (least squares)."""
        if len(self.settled) < 2:
            return 0.0
        frames = np.array([sample.frames for sample in self.settled], np.float64)
        return float(1e4 * np.polyfit(frames - frames.mean(), [sample.rss_mb for sample in self.settled], 1)[0])

    @property
    def more_threads(self) -> int:
        """How many more at the end than when settled; medians, since a video that starts anew has more for a moment."""
        return self._more([sample.threads for sample in self.settled])

    @property
    def more_handles(self) -> int:
        """As `more_threads`, of open file descriptors."""
        return self._more([sample.handles for sample in self.settled])

    def _more(self, counts: Sequence[int]) -> int:
        few = max(1, len(counts) // 10)
        return round(float(np.median(counts[-few:]) - np.median(counts[:few])))


def take_sample(frames: int, start_s: float) -> Sample:
    """What this process holds now.

    Args:
        start_s: by `time.perf_counter`.

    Raises:
        UserError: the system does not tell.
    """
    try:
        pages = int((_PROC / "statm").read_text().split()[1])
        threads, handles = len(os.listdir(_PROC / "task")), len(os.listdir(_PROC / "fd"))
    except OSError as error:
        raise UserError("expected a system that tells what a process holds (/proc/self of Linux), but it does not; run it there") from error
    # The folder that is being listed is open, too.
    return Sample(frames, time.perf_counter() - start_s, pages * os.sysconf("SC_PAGE_SIZE") / 1e6, threads, handles - 1)


def soak(source: Source, estimator: Estimator, artist: Artist, frames: int, settled_frames: int = SETTLED_FRAMES) -> Soak:
    """The loop of `handmesh-demo` with an overlay and json lines, without a window.

    Args:
        source: of at least `frames` frames; closed here.
        frames: how many are read from it.
        settled_frames: growth counts from here.

    Raises:
        UserError: the source failed, or the system does not tell what a process holds.
    """
    source = FirstFrames(source, frames)
    start_s = time.perf_counter()
    # The first call makes arrays of its own.
    take_sample(0, start_s)
    before = take_sample(0, start_s)
    listener = _Listener(start_s, max(1, frames // _SAMPLES))
    messages = StringIO()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sinks = [*open_sinks(["json"], folder, source, estimator.hand_model), listener]
        with redirect_stderr(messages) if source.is_live else nullcontext():
            report = run_loop(source, estimator, CameraChoice().camera, sinks, artist, Wishes(folder, draws_overlay=True))
    if report.error is not None:
        raise report.error
    if report.end == "interrupted":
        raise KeyboardInterrupt
    gc.collect()
    after = take_sample(report.frames, start_s)
    return Soak(before, tuple(listener.samples), after, settled_frames, report.duration_s, tuple(messages.getvalue().splitlines()))


def unplugged(video: str, plugs: int) -> Source:
    """A camera that shows a video and is unplugged after every `FRAMES_A_PLUG` frames, `plugs` times; each time it is found again."""
    turns = _turns(video)
    return LiveSource(lambda: next(turns), "the camera of the soak", retry_s=0.001)


class _Plugged:
    """A camera for a few frames."""

    def __init__(self, video: str) -> None:
        self._capture = cv2.VideoCapture(video, cv2.CAP_FFMPEG)
        self._left = FRAMES_A_PLUG

    def isOpened(self) -> bool:
        return self._capture.isOpened()

    def get(self, propId: int, /) -> float:
        return self._capture.get(propId)

    def grab(self) -> bool:
        time.sleep(1 / PLUG_FRAMES_S)
        self._left -= 1
        return self._left >= 0 and self._capture.grab()

    def retrieve(self) -> tuple[bool, np.ndarray]:
        return self._capture.retrieve()

    def release(self) -> None:
        self._capture.release()


def _turns(video: str) -> Iterator[Capture]:
    while True:
        yield _Plugged(video)
        for _ in range(FAILED_OPENINGS):
            yield cv2.VideoCapture(os.devnull, cv2.CAP_FFMPEG)


class _Listener:
    """A sink that samples the process every few frames."""

    def __init__(self, start_s: float, every: int) -> None:
        self.samples: list[Sample] = []
        self._start_s = start_s
        self._every = every
        self._frames = 0

    def write(self, shot: Shot) -> None:
        self._frames += 1
        if self._frames % self._every == 0 or self._frames == 1:
            self.samples.append(take_sample(self._frames, self._start_s))

    def close(self) -> None:
        """Nothing stays open."""
