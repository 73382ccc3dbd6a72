"""Hands that move as a script says, through the estimator: steadiness, lag, identities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from handmesh.estimator import HandMeshEstimator
from handmesh.geometry.camera import camera_from_fov, project
from handmesh.hand_model import HandModel
from handmesh.records import Hand
from handmesh.skeleton import ROOT
from handmesh.synthetic.clip import CLIP_FOV_DEG, Pose, script_frames, true_joints_m
from handmesh.synthetic.scripts import crossing_hands, entering_hand, leaving_hand, still_hand, sweeping_hand
from handmesh.synthetic.surface import HandSurface

FPS = 30.0
SIZE = (640, 480)
CAMERA = camera_from_fov(*SIZE, CLIP_FOV_DEG)
# Standard deviation of a webcam's noise indoors, in 0..255.
NOISE = 4.0
SPEED_M_S = 1.0
STILL_POSES = ("open", "relaxed", "fist", "point")
# Filters and the shape have settled by then.
_SETTLED_S = 2.0
_STILL_FRAMES, _SWEEP_FRAMES, _CROSSING_FRAMES, _LEAVING_FRAMES, _ENTERING_FRAMES = 210, 150, 150, 150, 90
# Seconds in which a hand enters: any phase of a search that runs every half second, after the first hand has settled.
_ENTERS_S = (1.0, 2.0)
# A sweep goes one way in 0.32 s: a lag beyond half of that could as well be a lead.
_LONGEST_LAG_S = 0.15
# A hand with more of its joints in the open than this should be seen.
_VISIBLE = 0.7
# A hand is awaited from when so many of its joints are in the open.
_HALF = 0.5
# Farther from every true hand than this, in sides of its box, a hand is nobody's.
_STRAY = 0.5


@dataclass(frozen=True)
class Clip:
    """Rendered frames (H, W, 3) uint8 RGB without noise, and what is true in each."""

    frames: list[np.ndarray]
    script: list[Sequence[Pose]]


@dataclass(frozen=True)
class Steadiness:
    """One strength of smoothing.

    Attributes:
        jitter_mm: root mean square distance of a still open hand's joints from their mean, in the camera.
        relative_jitter_mm: the same of joints relative to the middle knuckle.
        worst_jitter_mm: as `jitter_mm`, of the shakiest of `STILL_POSES`.
        lag_ms, depth_lag_ms: how late a hand at 1 m/s is, across the picture and along the view.
    """

    smooth: float
    jitter_mm: float
    relative_jitter_mm: float
    worst_jitter_mm: float
    lag_ms: float
    depth_lag_ms: float


@dataclass(frozen=True)
class Identities:
    """What became of the hands of one clip, in frames.

    Attributes:
        swaps: hands shown under the identity of another one.
        ids: identities that were given to the two hands.
        wrong_sides: hands shown as the other side.
        doubles: frames in which one hand came twice.
        missed: visible hands that were not shown.
        strays: hands that were shown where there is none.
        delays: from when half of a hand's joints are in the open until it is shown, each time that this begins after the first frame and
            the hand does not hide again before; up to the end of the clip where it is never shown.
    """

    frames: int
    swaps: int
    ids: int
    wrong_sides: int
    doubles: int
    missed: int
    strays: int
    delays: tuple[int, ...] = ()


class Studio:
    """Renders scripts, and shows them to estimators with a camera's noise."""

    def __init__(self, model: HandModel) -> None:
        self._model = model
        self._surface = HandSurface.of(model)

    def still(self, kind: str) -> Clip:
        """A hand that does not move: one frame, shown again and again."""
        (moment,) = still_hand(self._surface, 1, kind)
        (frame,) = script_frames(self._surface, [moment], 0, SIZE)
        return Clip([frame] * _STILL_FRAMES, [moment] * _STILL_FRAMES)

    def sweep(self, axis: int) -> Clip:
        """A hand at `SPEED_M_S`, to and fro along an axis of the camera."""
        return self._clip(sweeping_hand(self._surface, _SWEEP_FRAMES, FPS, SPEED_M_S, axis), 0)

    def crossing(self, seed: int) -> Clip:
        """Two hands that change places twice."""
        return self._clip(crossing_hands(self._surface, _CROSSING_FRAMES, seed=seed), seed)

    def leaving(self, seed: int) -> Clip:
        """Two hands, of which one leaves and comes back."""
        return self._clip(list(leaving_hand(self._surface, _LEAVING_FRAMES, FPS, seed=seed)), seed)

    def entering(self, seed: int) -> Clip:
        """A hand, and a second one that comes in from the left, the right or below."""
        enters_s = np.random.default_rng([seed, 13]).uniform(*_ENTERS_S)
        return self._clip(list(entering_hand(self._surface, _ENTERING_FRAMES, FPS, enters_s, seed % 3, seed)), seed)

    def steadiness(self, smooth: float, stills: Sequence[Clip], across: Clip, along: Clip) -> Steadiness:
        """Follow one hand in each clip with this much smoothing; the first of `stills` is of the open hand."""
        jitters_mm = [self._jitter_mm(clip, smooth) for clip in stills]
        lags_ms = [1e3 * self._lag_s(clip, smooth, axis) for clip, axis in ((across, 0), (along, 2))]
        return Steadiness(smooth, *jitters_mm[0], max(in_camera for in_camera, _ in jitters_mm), *lags_ms)

    def identities(self, clip: Clip, smooth: float, seed: int) -> Identities:
        """Hold the hands of every frame against the truth."""
        owners: dict[int, int] = {}
        swaps = wrong_sides = doubles = missed = strays = 0
        delays: list[int] = []
        awaited_since: dict[int, int] = {}
        were_open: set[int] | None = None
        for frame, hands in self._follow(clip, smooth, seed):
            poses = clip.script[frame]
            truths_px = [project(true_joints_m(self._model, pose), CAMERA) for pose in poses]
            shown: list[int] = []
            for hand in hands:
                distances = [np.linalg.norm(hand.keypoints_px - truth, axis=1).mean() / np.ptp(truth, axis=0).max() for truth in truths_px]
                nearest = int(np.argmin(distances))
                if distances[nearest] > _STRAY:
                    strays += 1
                    continue
                side = int(poses[nearest].is_right)
                shown.append(side)
                wrong_sides += hand.is_right != poses[nearest].is_right
                swaps += owners.setdefault(hand.track_id, side) != side
            doubles += len(shown) - len(set(shown))
            open_shares = {int(pose.is_right): _visible_share(index, truths_px, poses) for index, pose in enumerate(poses)}
            missed += sum(side not in shown and share > _VISIBLE for side, share in open_shares.items())
            are_open = {side for side, share in open_shares.items() if share >= _HALF}
            awaited_since |= dict.fromkeys(are_open - (are_open if were_open is None else were_open), frame)
            delays += [frame - awaited_since[side] for side in awaited_since.keys() & are_open & set(shown)]
            awaited_since = {side: since for side, since in awaited_since.items() if side in are_open and side not in shown}
            were_open = are_open
        delays += [len(clip.frames) - since for since in awaited_since.values()]
        return Identities(len(clip.frames), swaps, len(owners), wrong_sides, doubles, missed, strays, tuple(delays))

    def _clip(self, script: list[list[Pose]], seed: int) -> Clip:
        return Clip(list(script_frames(self._surface, script, seed, SIZE)), list(script))

    def _follow(self, clip: Clip, smooth: float, seed: int) -> Iterator[tuple[int, list[Hand]]]:
        rng = np.random.default_rng([seed, 11])
        with HandMeshEstimator(hand_model=self._model, camera=CAMERA, smooth=smooth, threads=1) as estimator:
            for index, frame in enumerate(clip.frames):
                noise = rng.normal(0, NOISE, frame.shape)
                yield index, estimator.track(cv2.convertScaleAbs(np.maximum(frame + noise, 0)), index / FPS)

    def _jitter_mm(self, clip: Clip, smooth: float) -> tuple[float, float]:
        """In the camera, and relative to the middle knuckle."""
        joints_m = np.array([hands[0].joints_m for _, hands in self._follow(clip, smooth, 0) if hands])[round(FPS * _SETTLED_S) :]

        def spread_mm(points_m: np.ndarray) -> float:
            return 1e3 * float(np.sqrt(((points_m - points_m.mean(axis=0)) ** 2).sum(axis=-1).mean()))

        return spread_mm(joints_m), spread_mm(joints_m - joints_m[:, ROOT, None])

    def _lag_s(self, clip: Clip, smooth: float, axis: int) -> float:
        """The delay of the truth that fits the hand's path best, up to an offset and a factor."""
        found = [(index / FPS, hands[0].joints_m[ROOT, axis]) for index, hands in self._follow(clip, smooth, 0) if hands]
        times_s, seen_m = np.array(found).T
        true_m = np.array([moment[0].place_m[axis] for moment in clip.script])
        return best_delay(times_s, seen_m, np.arange(len(true_m)) / FPS, true_m)


def best_delay(times_s: np.ndarray, seen: np.ndarray, true_times_s: np.ndarray, true: np.ndarray) -> float:
    """By how many seconds a path comes after another, by least squares up to an offset and a factor; to 0.5 ms.

    Args:
        times_s, seen: (N,) the late path.
        true_times_s, true: (M,) the other.
    """
    inside = (times_s > _LONGEST_LAG_S) & (times_s < true_times_s[-1] - _LONGEST_LAG_S)

    def misfit(delay_s: float) -> float:
        moved = np.interp(times_s[inside] - delay_s, true_times_s, true)
        return 1 - float(np.corrcoef(moved, seen[inside])[0, 1])

    delays_s = np.arange(-_LONGEST_LAG_S, _LONGEST_LAG_S, 0.0005)
    return float(delays_s[np.argmin([misfit(delay_s) for delay_s in delays_s])])


def _visible_share(index: int, truths_px: Sequence[np.ndarray], poses: Sequence[Pose]) -> float:
    """Share of a hand's joints that are in the picture and not behind a nearer hand's outline."""
    points_px = truths_px[index]
    is_open = ((points_px >= 0) & (points_px < SIZE)).all(axis=1)
    for other, truth_px in enumerate(truths_px):
        if poses[other].place_m[2] < poses[index].place_m[2]:
            outline = cv2.convexHull(truth_px.astype(np.float32))
            is_open &= np.array([cv2.pointPolygonTest(outline, (float(x), float(y)), False) < 0 for x, y in points_px])
    return float(is_open.mean())
