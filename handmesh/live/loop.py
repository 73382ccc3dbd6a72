"""The loop of `handmesh-demo`: source -> estimator -> overlay -> files and window.

The four overlap: reading, estimating and drawing each have a thread, and files and screen have the main one. From files every frame comes
through; from cameras the newest that is there when the estimator is ready. The main thread never waits for a source without looking at the
screen's keys.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from threadpoolctl import threadpool_limits

from handmesh.errors import UserError
from handmesh.geometry.crop import mirror_picture
from handmesh.hand_model.skinning import HandModel
from handmesh.live.background import InBackground
from handmesh.live.recorder import Recorder
from handmesh.live.sinks import Shot, Sink, save_snapshot
from handmesh.live.sources import Frame, Source
from handmesh.live.stream import ReaderLeft
from handmesh.records import Camera, Hand
from handmesh.timing import StageTimes

_QUIT_KEYS = ("q", "escape")
# How often a screen that has nothing new to show looks for keys.
_IDLE_S = 1 / 30
_NOTHING_YET_RGB = np.full((480, 640, 3), 40, np.uint8)
# How long a device that does not answer can hold up the end.
_PATIENCE_S = 2.0


class Estimator(Protocol):
    """What the loop needs of a `HandMeshEstimator`."""

    hand_model: HandModel
    times: StageTimes

    def __call__(self, image_rgb: np.ndarray, camera: Camera | None = None) -> list[Hand]: ...

    def track(self, image_rgb: np.ndarray, time_s: float, camera: Camera | None = None) -> list[Hand]: ...


class Screen(Protocol):
    """What the loop needs of a window or a page."""

    def show(self, picture_rgb: np.ndarray, hands: Sequence[Hand], camera: Camera | None) -> str | None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Artist:
    """Draws hands.

    Attributes:
        overlay: (image_rgb, hands, hand_model, camera) -> (H, W, 3) uint8; may draw on the picture that it is given.
        mask: ((H, W), hands, hand_model, camera) -> (H, W) uint8.
    """

    overlay: Callable[[np.ndarray, Sequence[Hand], HandModel, Camera], np.ndarray]
    mask: Callable[[tuple[int, int], Sequence[Hand], HandModel, Camera], np.ndarray]


@dataclass(frozen=True)
class Wishes:
    """What the user asked the loop for.

    Attributes:
        output: folder for snapshots.
        is_mirrored: flip the overlay, on the screen and in files, like a mirror; the hands stay as they are.
        draws_overlay: an overlay is needed even without a window.
        draws_mask: masks are needed.
        recorder: what "r" starts and stops; None where nothing can be recorded.
        say: tells the user.
        times: the loop's stages are counted here.
    """

    output: Path
    is_mirrored: bool = False
    draws_overlay: bool = False
    draws_mask: bool = False
    recorder: Recorder | None = None
    say: Callable[[str], None] = print
    times: StageTimes = field(default_factory=StageTimes)


@dataclass(frozen=True)
class LoopReport:
    """How a run went.

    Attributes:
        frames, frames_with_hands: counts.
        duration_s: wall time from the first read to the last write.
        end: "finished", "quit" (a key, or the reader of a stream has left), "interrupted" (Ctrl-C) or "failed" (see `error`).
        error: why it failed.
        times: the loop's and the estimator's stages. They overlap, so they add up to more than the duration.
        latency: from a frame's arrival until its hands are there ("mesh"), and until it is drawn ("overlay").
    """

    frames: int
    frames_with_hands: int
    duration_s: float
    end: str
    error: UserError | None
    times: StageTimes
    latency: StageTimes


def run_loop(
    source: Source,
    estimator: Estimator,
    camera_of: Callable[[int, int], Camera],
    sinks: Sequence[Sink],
    artist: Artist,
    wishes: Wishes,
    screen: Screen | None = None,
) -> LoopReport:
    """Run until the source ends, a key or Ctrl-C is pressed, or something fails; close source, sinks and screen.

    Args:
        camera_of: (width, height) -> the camera of pictures of that size.
    """
    loop = _Loop(estimator, camera_of, sinks, artist, wishes, screen)
    end, error = "finished", None
    start = time.perf_counter()
    try:
        with ExitStack() as stack:
            # One hand is too little for two cores: BLAS's second thread would spin until the next frame, at the cost of all other stages.
            stack.enter_context(threadpool_limits(1, user_api="blas"))
            for part in (source, *sinks, screen, wishes.recorder):
                if part is not None:
                    stack.callback(part.close)
            end = loop.run(source)
    except UserError as failure:
        end, error = "failed", failure
    except KeyboardInterrupt:
        end = "interrupted"
    except ReaderLeft:
        end = "quit"
    duration_s = (loop.idle_from_s or time.perf_counter()) - start
    return LoopReport(loop.frames, loop.frames_with_hands, duration_s, end, error, merge_times(loop.times, estimator.times), loop.latency)


class _Loop:
    """The state of one run."""

    def __init__(
        self,
        estimator: Estimator,
        camera_of: Callable[[int, int], Camera],
        sinks: Sequence[Sink],
        artist: Artist,
        wishes: Wishes,
        screen: Screen | None,
    ) -> None:
        self.times = wishes.times
        self.latency = StageTimes()
        self.frames = 0
        self.frames_with_hands = 0
        self.idle_from_s: float | None = None  # when all was done but the looking
        self._is_paused = False
        self._paused_s = 0.0
        self._estimator = estimator
        self._camera_of = camera_of
        self._sinks = sinks
        self._artist = artist
        self._wishes = wishes
        self._screen = screen

    def run(self, source: Source) -> str:
        """All frames; returns "finished" or "quit"."""
        shot = None
        with ExitStack() as stages, _progress(source) as progress:
            frames = stages.enter_context(InBackground(self._read(source), newest_only=source.is_live, patience_s=_PATIENCE_S))
            estimates = stages.enter_context(InBackground(self._estimate(frames, source.is_stream)))
            shots = stages.enter_context(InBackground(self._draw(estimates)))
            # Stopped from the far end they would wait for each other.
            for stage in (shots, estimates, frames):
                stages.callback(stage.stop)
            # First, or its thread might wait for a camera that never comes back.
            stages.callback(source.close)
            task = progress.add_task("hands", total=source.length, speed="")
            start = time.perf_counter()
            while True:
                try:
                    newest = shots.take(_IDLE_S)
                except StopIteration:
                    break
                if newest is None:
                    if self._look_at_keys(shot) == "quit":
                        return "quit"
                    continue
                shot = newest
                self.frames += 1
                self.frames_with_hands += bool(shot.hands)
                self._write(shot)
                _advance(progress, task, self.frames, start)
                if self._show(shot, None if source.is_live else start + shot.frame.time_s) == "quit":
                    return "quit"
        if self._screen is not None:
            self.idle_from_s = time.perf_counter()
        # A picture stays on the screen until it is dismissed; a video was already seen.
        while self._screen is not None and shot is not None and not source.is_stream:
            time.sleep(_IDLE_S)
            if self._look_at_keys(shot) == "quit":
                return "quit"
        return "finished"

    def _read(self, source: Source) -> Iterator[Frame]:
        frames = iter(source)
        while True:
            with self.times.stage("read"):
                frame = next(frames, None)
            if frame is None:
                return
            yield frame

    def _estimate(self, frames: Iterable[Frame], is_stream: bool) -> Iterator[Shot]:
        for frame in frames:
            image = frame.image_rgb
            camera = self._camera_of(image.shape[1], image.shape[0])
            hands = self._estimator.track(image, frame.time_s, camera) if is_stream else self._estimator(image, camera)
            self.latency.add("mesh", time.perf_counter() - frame.arrived_s)
            yield Shot(frame, hands, camera)

    def _draw(self, shots: Iterable[Shot]) -> Iterator[Shot]:
        model = self._estimator.hand_model
        for shot in shots:
            image = shot.frame.image_rgb
            overlay, mask = None, None
            if self._wishes.draws_mask:
                with self.times.stage("mask"):
                    mask = self._artist.mask((image.shape[0], image.shape[1]), shot.hands, model, shot.camera)
            if self._wishes.draws_overlay or self._screen is not None:
                with self.times.stage("overlay"):
                    overlay = self._artist.overlay(image, shot.hands, model, shot.camera)
                    overlay = mirror_picture(overlay) if self._wishes.is_mirrored else overlay
                self.latency.add("overlay", time.perf_counter() - shot.frame.arrived_s)
            yield replace(shot, overlay_rgb=overlay, mask=mask)

    def _write(self, shot: Shot) -> None:
        recorder = self._wishes.recorder
        if not self._sinks and (recorder is None or not recorder.is_on):
            return
        with self.times.stage("write"), _disk_errors(self._wishes.output):
            for sink in self._sinks:
                sink.write(shot)
            if recorder is not None:
                recorder.write(shot)

    def _show(self, shot: Shot, due_s: float | None) -> str | None:
        """Show the shot, obey the keyboard, and stay with it while the user pauses, and until its time has come.

        Args:
            due_s: when the next frame may come, by `time.perf_counter`; None for at once.

        Returns:
            "quit" when the user wants that.
        """
        if self._screen is None:
            return None
        with self.times.stage("show"):
            key = self._screen.show(_overlay_of(shot), shot.hands, shot.camera)
        did = self._obey(key, shot)
        while did != "quit" and (self._is_paused or (due_s is not None and time.perf_counter() - self._paused_s < due_s)):
            before_s = time.perf_counter()
            time.sleep(_IDLE_S if due_s is None else min(_IDLE_S, max(0.0, due_s + self._paused_s - before_s)))
            did = self._look_at_keys(shot)
            self._paused_s += time.perf_counter() - before_s if self._is_paused else 0.0
        return did

    def _look_at_keys(self, shot: Shot | None) -> str | None:
        """Show what is still the newest shot, or that there is none yet, and obey."""
        if self._screen is None:
            return None
        if shot is None:
            # A camera may take seconds, and a window that does not answer until then looks hung.
            return "quit" if self._screen.show(_NOTHING_YET_RGB, [], None) in _QUIT_KEYS else None
        return self._obey(self._screen.show(_overlay_of(shot), shot.hands, shot.camera), shot)

    def _obey(self, key: str | None, shot: Shot) -> str | None:
        if key == "s":
            with _disk_errors(self._wishes.output):
                saved = save_snapshot(shot, self._wishes.output, self._estimator.hand_model)
            self._wishes.say(f"saved {' '.join(map(str, saved))}")
        if key == " ":
            self._is_paused = not self._is_paused
        if key == "r" and self._wishes.recorder is not None:
            with _disk_errors(self._wishes.output):
                self._wishes.say(self._wishes.recorder.toggle())
        return "quit" if key in _QUIT_KEYS else None


@contextmanager
def _disk_errors(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot write to {output}: {reason}; what is there can be read, make room and run again") from error


def merge_times(loop: StageTimes, estimator: StageTimes) -> StageTimes:
    """All stages in the order in which a frame meets them."""
    merged = StageTimes()
    merged.include(loop, "read")
    merged.include(estimator)
    merged.include(loop)
    return merged


def _overlay_of(shot: Shot) -> np.ndarray:
    assert shot.overlay_rgb is not None
    return shot.overlay_rgb


def _progress(source: Source) -> Progress:
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True, disable=source.is_live or not console.is_terminal)


def _advance(progress: Progress, task: TaskID, frames: int, start: float) -> None:
    progress.update(task, completed=frames, speed=f"{frames / (time.perf_counter() - start):.1f} frames/s")
