"""The whole loop on a video, pass after pass, in turn with what it is held against."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import cv2
import numpy as np

from handmesh.errors import UserError
from handmesh.geometry.camera import ASSUMED_FOV_DEG, camera_from_fov
from handmesh.hand_model.skinning import HandModel
from handmesh.live.background import InBackground
from handmesh.live.loop import Artist, Estimator, Wishes, run_loop
from handmesh.live.sinks import Shot
from handmesh.live.sources import Frame, Source, open_source
from handmesh.records import Camera, Detection, Hand
from handmesh.timing import StageTimes

Rival = Literal["mediapipe", "detector-every-frame", "as-seen"]

OURS = "handmesh"
# Frames that run before each pass and are not counted: threads start, caches fill.
WARM_UP_FRAMES = 30
PERCENTS = (50, 95, 99)
# The detector's hand has no counterpart where the nearest is farther than this, in sides of its box.
_OTHER_HAND = 0.5


@dataclass(frozen=True)
class Pass:
    """One way through the frames.

    Attributes:
        duration_s: from the first read to the end of the last frame.
        done_s: when each frame was done, since the start.
        times: of the stages. In the loop they overlap.
        latency: from a frame read to its result, by name of the result.
        keypoints_px: of each frame, (21, 2) for each hand seen.
        detections: of each frame, what MediaPipe's networks saw; None where it was not asked every time.
        megapixels: of all frames together.
    """

    duration_s: float
    done_s: tuple[float, ...]
    times: StageTimes
    latency: StageTimes
    keypoints_px: tuple[tuple[np.ndarray, ...], ...]
    detections: tuple[tuple[Detection, ...], ...] | None = None
    megapixels: float = 0.0

    @property
    def frames(self) -> int:
        """How many there were."""
        return len(self.done_s)

    @property
    def frames_s(self) -> float:
        """Frames per second."""
        return self.frames / self.duration_s

    @property
    def frame_ms(self) -> np.ndarray:
        """(frames,) from the end of the frame before (or the start) to the end of each."""
        return 1e3 * np.diff(self.done_s, prepend=0.0)


@dataclass(frozen=True)
class Contender:
    """What takes part.

    Attributes:
        name: `OURS` or a `Rival`.
        max_hands: most hands that it looks for.
        run: one pass; always starts afresh, and closes the source.
    """

    name: str
    max_hands: int
    run: Callable[[Source], Pass]


class Resettable(Estimator, Protocol):
    """An estimator whose video can be started over."""

    def reset(self) -> None: ...


class Detector(Protocol):
    """Finds the hands of one frame of a video after the other."""

    def __call__(self, image_rgb: np.ndarray, time_s: float) -> list[Detection]: ...

    def close(self) -> None: ...


class DetectorEveryFrame:
    """The estimator with the detector asked in each frame: crops come from its landmarks, nothing from the mesh before.

    Args:
        estimator: a `HandMeshEstimator`; not closed here.
        detector: (image_rgb, camera) -> its hands; `detection.HandDetector` is one.

    Attributes:
        detections: of each frame since the last `reset`.
    """

    def __init__(self, estimator: Any, detector: Callable[[np.ndarray, Camera | None], list[Detection]]) -> None:
        self.hand_model: HandModel = estimator.hand_model
        self.times: StageTimes = estimator.times
        self.detections: list[tuple[Detection, ...]] = []
        self._estimator = estimator
        self._detector = detector

    def __call__(self, image_rgb: np.ndarray, camera: Camera | None = None) -> list[Hand]:
        """The hands of one picture."""
        return self._estimator(image_rgb, camera)

    def track(self, image_rgb: np.ndarray, time_s: float, camera: Camera | None = None) -> list[Hand]:
        """The hands of the next frame."""
        with self.times.stage("detect"):
            detections = self._detector(image_rgb, camera)
        self.detections.append(tuple(detections))
        return self._estimator(image_rgb, camera, detections)

    def reset(self) -> None:
        """Start another video."""
        self.detections = []


class BesideMirror:
    """A source whose frames have their mirror images on their right: two hands where there was one."""

    def __init__(self, source: Source) -> None:
        self.label = source.label
        self.is_stream = source.is_stream
        self.is_live = source.is_live
        self.frame_rate = source.frame_rate
        self.skipped = 0
        self.length = source.length
        self._source = source

    def __iter__(self) -> Iterator[Frame]:
        for frame in self._source:
            yield replace(frame, image_rgb=cv2.hconcat([frame.image_rgb, cv2.flip(frame.image_rgb, 1)]), arrived_s=time.perf_counter())

    def close(self) -> None:
        """Close the source."""
        self._source.close()


class Paced:
    """A video's frames at the video's own rate, as from a camera: nobody waits for whoever takes them."""

    is_live = True
    skipped = 0
    length: int | None = None

    def __init__(self, source: Source) -> None:
        self.label = source.label
        self.is_stream = source.is_stream
        self.frame_rate = source.frame_rate
        self._source = source

    def __iter__(self) -> Iterator[Frame]:
        start_s = time.perf_counter()
        for frame in self._source:
            time.sleep(max(0.0, start_s + frame.time_s - time.perf_counter()))
            yield replace(frame, arrived_s=time.perf_counter())

    def close(self) -> None:
        """Close the source."""
        self._source.close()


class FirstFrames:
    """The first `most` frames of a source."""

    def __init__(self, source: Source, most: int) -> None:
        self.label = source.label
        self.is_stream = source.is_stream
        self.is_live = source.is_live
        self.frame_rate = source.frame_rate
        self.skipped = 0
        self.length = None if source.length is None else min(most, source.length)
        self._source = source
        self._most = most

    def __iter__(self) -> Iterator[Frame]:
        return islice(self._source, self._most)

    def close(self) -> None:
        """Close the source."""
        self._source.close()


def open_frames(where: str, most: int | None = None) -> Source:
    """The frames of a video file, or its first `most`.

    Raises:
        UserError: it cannot be read, or is no video with an end.
    """
    source = open_source(where, None)
    if source.is_live or not source.is_stream:
        source.close()
        raise UserError(f"expected a video file for --input, got '{where}'; for pictures there is handmesh-bench folder")
    return source if most is None else FirstFrames(source, most)


def run_through_loop(source: Source, estimator: Resettable, artist: Artist | None) -> Pass:
    """What `handmesh-demo` does between its source and its files; nothing is encoded or shown.

    Args:
        artist: draws overlays; None draws nothing.

    Raises:
        UserError: the source failed.
    """
    estimator.reset()
    estimator.times.clear()
    listener = _Listener()
    wishes = Wishes(Path(), draws_overlay=artist is not None)
    listener.start_s = time.perf_counter()
    report = run_loop(source, estimator, _assumed_camera, [listener], artist or _NO_ARTIST, wishes)
    if report.error is not None:
        raise report.error
    if report.end == "interrupted":
        raise KeyboardInterrupt
    detections = tuple(estimator.detections) if isinstance(estimator, DetectorEveryFrame) else None
    return Pass(
        # Both by the listener's clock, which starts before the loop's.
        listener.done_s[-1] if listener.done_s else report.duration_s,
        tuple(listener.done_s),
        report.times,
        report.latency,
        tuple(listener.keypoints_px),
        detections,
        listener.megapixels,
    )


def run_mediapipe(source: Source, detector: Detector) -> Pass:
    """MediaPipe alone, at its best: read ahead by a thread, as ours; nothing is drawn.

    Args:
        source: the same decoder and conversion to RGB as the loop's.
        detector: one that has seen no frame yet; closed here.
    """
    times, latency = StageTimes(), StageTimes()
    done_s, detections = [], []
    start = time.perf_counter()
    try:
        with InBackground(_timed(source, times)) as frames:
            for frame in frames:
                with times.stage("detect"):
                    detections.append(tuple(detector(frame.image_rgb, frame.time_s)))
                now = time.perf_counter()
                latency.add("landmarks", now - frame.arrived_s)
                done_s.append(now - start)
        duration_s = time.perf_counter() - start
    finally:
        source.close()
        detector.close()
    keypoints_px = tuple(tuple(each.landmarks_px for each in found if each.landmarks_px is not None) for found in detections)
    return Pass(duration_s, tuple(done_s), times, latency, keypoints_px, tuple(detections))


def _timed(source: Source, times: StageTimes) -> Iterator[Frame]:
    frames = iter(source)
    while True:
        with times.stage("read"):
            frame = next(frames, None)
        if frame is None:
            return
        yield frame


def run_in_turn(
    contenders: Sequence[Contender], open_source: Callable[[int | None], Source], rounds: int, warm_up_frames: int = WARM_UP_FRAMES
) -> list[list[Pass]]:
    """Every contender in every round, so that a machine's noise meets all alike.

    Args:
        open_source: (most) -> the frames from the start, all of them for None.
        warm_up_frames: run right before each pass and forgotten.

    Returns:
        For each contender, its passes by round.
    """
    passes: list[list[Pass]] = [[] for _ in contenders]
    for _ in range(rounds):
        for contender, mine in zip(contenders, passes, strict=True):
            if warm_up_frames:
                contender.run(open_source(warm_up_frames))
            mine.append(contender.run(open_source(None)))
    return passes


def distance_over_box(points_px: np.ndarray, detection: Detection) -> float:
    """Mean distance of (21, 2) points to the detector's landmarks over the larger side of its box."""
    assert detection.landmarks_px is not None
    side_px = (detection.box_px[2:] - detection.box_px[:2]).max()
    return float(np.linalg.norm(points_px - detection.landmarks_px, axis=1).mean() / side_px)


def distances_to(reference: Pass, judged: Pass) -> tuple[np.ndarray, int]:
    """How far a pass's hands are from MediaPipe's, over the same frames.

    Returns:
        (matched,) distances of the nearest hand to each of MediaPipe's, over its box; and how many of MediaPipe's have none near.
    """
    assert reference.detections is not None
    distances, missed = [], 0
    for detections, hands_px in zip(reference.detections, judged.keypoints_px, strict=True):
        for detection in detections:
            nearest = min((distance_over_box(points_px, detection) for points_px in hands_px), default=np.inf)
            if nearest < _OTHER_HAND:
                distances.append(nearest)
            else:
                missed += 1
    return np.array(distances), missed


def time_over_one_hand(many: Sequence[Pass], one: Sequence[Pass], hands: int) -> float | None:
    """Time of `hands` over time of one, on the frames where the former sees all of them; the median over rounds.

    A frame's time is that between the end of the frame before and its own end.

    Returns:
        None where they are never seen together.
    """
    ratios = []
    for both, single in zip(many, one, strict=True):
        sees_all = np.array([len(seen) >= hands for seen in both.keypoints_px], bool)
        if sees_all.any():
            ratios.append(both.frame_ms[sees_all].sum() / single.frame_ms[sees_all].sum())
    return float(np.median(ratios)) if ratios else None


def stage_rows(passes: Sequence[Pass]) -> list[dict[str, Any]]:
    """Stages and latencies of one contender: calls, percentiles, share of the wall time; medians over its passes.

    A latency has no share; overlapping stages' shares add up to more than 1.
    """
    rows = []
    for by, records in (("stage", [each.times for each in passes]), ("latency", [each.latency for each in passes])):
        names = dict.fromkeys(name for record in records for name in record.names)
        for name in names:
            # The loop counts who listens at its end as a file.
            if (by, name) == ("stage", _LISTENING):
                continue
            known = [(record, each) for record, each in zip(records, passes, strict=True) if record.calls(name)]
            percentiles = np.median([record.percentiles_ms(name, PERCENTS) for record, _ in known], axis=0)
            share = float(np.median([record.total_s(name) / each.duration_s for record, each in known]))
            rows.append(
                {
                    "by": by,
                    "name": name,
                    "calls": int(np.median([record.calls(name) for record, _ in known])),
                    **{f"p{percent}_ms": float(value) for percent, value in zip(PERCENTS, percentiles, strict=True)},
                    "share": share if by == "stage" else None,
                }
            )
    return rows


def loop_rows(contenders: Sequence[Contender], passes: Sequence[Sequence[Pass]]) -> list[dict[str, Any]]:
    """Each contender's loop, stages and latencies, all with the same keys.

    A row of `by` "loop" holds frames/s (the median over rounds, and each round's), ratios to the rivals of the same `max_hands` (medians of
    the rounds' ratios; above 1 is faster), the time against one hand, and the distance to MediaPipe's landmarks where it was run.
    """
    where = {(contender.name, contender.max_hands): mine for contender, mine in zip(contenders, passes, strict=True)}
    rows = []
    for contender, mine in zip(contenders, passes, strict=True):
        rivals = {rival: where.get((rival, contender.max_hands)) for rival in get_args(Rival)}
        one = where.get((contender.name, 1)) if contender.max_hands > 1 else None
        whole = {
            "by": "loop",
            "name": "all of it",
            "calls": mine[0].frames,
            **{f"p{percent}_ms": float(np.median([np.percentile(each.frame_ms, percent) for each in mine])) for percent in PERCENTS},
            "frames_s": float(np.median([each.frames_s for each in mine])),
            "rounds_frames_s": [each.frames_s for each in mine],
            "vs_mediapipe": _times_faster(mine, rivals["mediapipe"]),
            "vs_detector_every_frame": _times_faster(mine, rivals["detector-every-frame"]),
            "vs_as_seen": _times_faster(mine, rivals["as-seen"]),
            "time_vs_one_hand": time_over_one_hand(mine, one, contender.max_hands) if one else None,
            "worst_ms": max(float(each.frame_ms.max()) for each in mine),
            "seen_share": float(np.mean([bool(seen) for each in mine for seen in each.keypoints_px])),
            **_accuracy(contender, mine, rivals["mediapipe"] or rivals["detector-every-frame"]),
        }
        every_key = dict.fromkeys(("by", "contender", "max_hands", *whole, "share"))
        rows += [{**every_key, **row, "contender": contender.name, "max_hands": contender.max_hands} for row in (whole, *stage_rows(mine))]
    return rows


def _accuracy(contender: Contender, mine: Sequence[Pass], reference: Sequence[Pass] | None) -> dict[str, float | None]:
    keys = ("distance_median", "distance_p95", "missed_share")
    if reference is None or contender.name == "mediapipe":
        return dict.fromkeys(keys)
    judged = [distances_to(theirs, ours) for theirs, ours in zip(reference, mine, strict=True)]
    distances = np.concatenate([found for found, _ in judged])
    missed = sum(count for _, count in judged)
    if not len(distances):
        return dict.fromkeys(keys)
    values = float(np.median(distances)), float(np.percentile(distances, 95)), missed / (missed + len(distances))
    return dict(zip(keys, values, strict=True))


def _times_faster(mine: Sequence[Pass], theirs: Sequence[Pass] | None) -> float | None:
    if theirs is None or theirs is mine:
        return None
    return float(np.median([ours.frames_s / other.frames_s for ours, other in zip(mine, theirs, strict=True)]))


def _assumed_camera(width: int, height: int) -> Camera:
    return camera_from_fov(width, height, ASSUMED_FOV_DEG, is_known=False)


# The loop's stage in which its sinks are called.
_LISTENING = "write"


class _Listener:
    """Stands at the end of the loop in place of files, and notes what came when."""

    def __init__(self) -> None:
        self.start_s = 0.0
        self.done_s: list[float] = []
        self.keypoints_px: list[tuple[np.ndarray, ...]] = []
        self.megapixels = 0.0

    def write(self, shot: Shot) -> None:
        self.done_s.append(time.perf_counter() - self.start_s)
        self.keypoints_px.append(tuple(hand.keypoints_px for hand in shot.hands))
        self.megapixels += shot.frame.image_rgb.shape[0] * shot.frame.image_rgb.shape[1] / 1e6

    def close(self) -> None:
        """Nothing is open."""


def _draws_nothing(*_: object) -> np.ndarray:
    raise AssertionError("nobody asked for a drawing")


_NO_ARTIST = Artist(_draws_nothing, _draws_nothing)
