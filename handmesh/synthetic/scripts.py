"""Scripts for `clip.script_frames` with known truth: what a tracker and a smoother are measured on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from handmesh.geometry.rotation import rotmat_to_rotvec, rotvec_to_rotmat
from handmesh.synthetic.clip import Pose
from handmesh.synthetic.poses import UPRIGHT_PALM
from handmesh.synthetic.surface import HandSurface

_SWEEP_M = 0.16
_HEIGHT_M = 0.02


def still_hand(surface: HandSurface, count: int, kind: str = "open", seed: int = 0, distance_m: float = 0.5) -> list[list[Pose]]:
    """One right hand that does not move."""
    rotmats = _upright(surface, kind, seed)
    return [[Pose(rotmats, np.array([0.0, _HEIGHT_M, distance_m]), True)]] * count


def sweeping_hand(
    surface: HandSurface,
    count: int,
    fps: float,
    speed_m_s: float,
    axis: int = 0,
    kind: str = "open",
    seed: int = 0,
    distance_m: float = 0.6,
) -> list[list[Pose]]:
    """One right hand that goes to and fro at a constant speed.

    Args:
        axis: 0 across the picture, 2 along the view.
    """
    rotmats = _upright(surface, kind, seed)
    direction = np.eye(3)[axis]
    travelled = speed_m_s * np.arange(count) / fps / (2 * _SWEEP_M) + 0.5
    # A triangle wave in -1..1 that starts in the middle.
    offset = 1 - 2 * np.abs(travelled % 2 - 1)
    middle = np.array([0.0, _HEIGHT_M, distance_m])
    return [[Pose(rotmats, middle + _SWEEP_M * step * direction, True)] for step in offset]


def crossing_hands(surface: HandSurface, count: int, crossings: int = 2, seed: int = 0, depth_gap_m: float = 0.1) -> list[list[Pose]]:
    """A right and a left hand that change places, one before the other, while both go through everyday poses.

    Args:
        crossings: how often they do.
        depth_gap_m: how much farther away the left hand is.
    """
    rng = np.random.default_rng([seed, 7])
    poses = {side: [surface.poses.of_kind(rng, kind).rotmats for kind in ("open", "relaxed", "point", "open")] for side in (True, False)}
    script = []
    for frame in range(count):
        t = frame / max(count - 1, 1)
        # Rests at both ends, then an eased way to the other side.
        across = np.cos(np.pi * _steps(t, crossings))
        moment = []
        for is_right in (True, False):
            sign = 1 if is_right else -1
            rotmats = _blend(poses[is_right], t).copy()
            rotmats[0] = _tilted(0.12 * np.sin(2 * np.pi * t + sign), 0.1 * np.sin(4 * np.pi * t), 0.2 * np.sin(2 * np.pi * t))
            depth = 0.42 if is_right else 0.42 + depth_gap_m
            x = -sign * 0.14 * across * depth / 0.42
            moment.append(Pose(rotmats, np.array([x, _HEIGHT_M + 0.012 * sign, depth]), is_right))
        script.append(moment)
    return script


def leaving_hand(surface: HandSurface, count: int, fps: float, away_s: float = 1.0, seed: int = 0) -> Iterator[list[Pose]]:
    """Two hands, of which the left one sinks out of the picture, stays away and comes back."""
    rotmats = {side: _upright(surface, "open", seed + side) for side in (True, False)}
    middle_s = count / fps / 2
    for frame in range(count):
        out = np.clip((away_s / 2 + 0.3 - abs(frame / fps - middle_s)) / 0.3, 0, 1)
        left = Pose(rotmats[False], np.array([0.12, _HEIGHT_M + 0.4 * out, 0.46]), False)
        yield [Pose(rotmats[True], np.array([-0.12, _HEIGHT_M, 0.46]), True), *([left] if out < 1 else [])]


def entering_hand(surface: HandSurface, count: int, fps: float, enters_s: float, side: int = 1, seed: int = 0) -> Iterator[list[Pose]]:
    """A right hand, and a left one that comes into the picture and stays.

    Args:
        enters_s: when it is half way in.
        side: 0 from the left edge of the picture, 1 from the right one, 2 from below.
    """
    rotmats = {is_right: _upright(surface, "open", seed + is_right) for is_right in (True, False)}
    rest_m = np.array([0.12 if side else -0.12, _HEIGHT_M, 0.46])
    away_m = np.array([(-0.3, 0.0, 0.0), (0.3, 0.0, 0.0), (0.0, 0.4, 0.0)][side])
    for frame in range(count):
        out = np.clip(0.5 - (frame / fps - enters_s) / 0.3, 0, 1)
        left = Pose(rotmats[False], rest_m + out * away_m, False)
        yield [Pose(rotmats[True], rest_m * (-1, 1, 1), True), *([left] if out < 1 else [])]


def _upright(surface: HandSurface, kind: str, seed: int) -> np.ndarray:
    rotmats = surface.poses.of_kind(np.random.default_rng([seed, 5]), kind).rotmats.copy()
    rotmats[0] = _tilted(0.05, 0.1, 0.1)
    return rotmats


def _tilted(in_picture: float, tipped: float, about_forearm: float) -> np.ndarray:
    about_z, about_x = rotvec_to_rotmat(np.array([0.0, 0.0, in_picture])), rotvec_to_rotmat(np.array([tipped, 0.0, 0.0]))
    return (about_z @ about_x @ UPRIGHT_PALM @ rotvec_to_rotmat(np.array([about_forearm, 0.0, 0.0]))).astype(np.float32)


def _steps(t: float, count: int) -> float:
    """A stair from 0 to `count` with eased steps and rests between."""
    at = np.clip(t, 0, 1) * count
    low = min(int(at), count - 1)
    s = np.clip((at - low - 0.2) / 0.6, 0, 1)
    return low + s * s * (3 - 2 * s)


def _blend(keys: list[np.ndarray], t: float) -> np.ndarray:
    at = np.clip(t, 0, 1) * (len(keys) - 1)
    low = min(int(at), len(keys) - 2)
    start, end = keys[low], keys[low + 1]
    return start @ rotvec_to_rotmat(((at - low) * rotmat_to_rotvec(np.swapaxes(start, -1, -2) @ end)).astype(np.float32))
