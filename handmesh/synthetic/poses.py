"""Hand poses and hand orientations, sampled within what a healthy hand can do (`hand_model.articulation.LIMITS_DEG`).

DIP following PIP by about 0.6 is textbook. What holds the mesh apart is not modelled: a fingertip may sink a little
into another.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields, replace

import numpy as np

from handmesh.geometry.rotation import rotvec_to_rotmat
from handmesh.hand_model.articulation import (
    FIRST_JOINTS,
    POSES,
    THUMB_COLUMNS,
    Anatomy,
    angles_to_rotmats,
    join_angles,
    limits_deg,
    unit,
)
from handmesh.hand_model.skinning import chain_joints
from handmesh.skeleton import FINGERS
from handmesh.synthetic.config import PoseMixture

_THUMB = FIRST_JOINTS["thumb"]
_KINDS = tuple(field.name for field in fields(PoseMixture))
# Positive turns towards the thumb: fingers spread by these when the hand opens.
_SPREAD = np.array([1.0, 0.15, -0.7, -1.3])


@dataclass(frozen=True)
class HandAngles:
    """Joint angles in degrees; finger arrays in the order of `LONG_FINGERS`.

    Attributes:
        mcp, pip, dip: (..., 4) flexion.
        spread: (..., 4) towards the thumb.
        thumb: (..., 5) flexion, abduction and twist of the CMC, flexion of MCP and IP.
    """

    mcp: np.ndarray
    pip: np.ndarray
    dip: np.ndarray
    spread: np.ndarray
    thumb: np.ndarray

    def joint_angles(self) -> np.ndarray:
        """(..., 15, 3) as `articulation.angles_to_rotmats` takes them; leading axes are broadcast."""
        return join_angles(self.mcp, self.pip, self.dip, self.spread, self.thumb)


THUMB_LOW_DEG, THUMB_HIGH_DEG = (limit[THUMB_COLUMNS] for limit in limits_deg())
_THUMB_OUT, _THUMB_REST, _THUMB_TUCKED, _THUMB_UP, _THUMB_OPPOSED = (
    np.array(astuple(POSES[name].thumb)) for name in ("spread", "relaxed", "fist", "thumbs_up", "ok")
)


def sample_pose(rng: np.random.Generator, anatomy: Anatomy, mixture: PoseMixture) -> np.ndarray:
    """(16, 3, 3) f32 parent-relative rotations of one pose; the first is the identity (see `sample_orientation`)."""
    weights = np.array(astuple(mixture))
    kind = _KINDS[int(np.searchsorted(np.cumsum(weights) / weights.sum(), rng.random(), side="right"))]
    return pose_of_kind(rng, anatomy, kind)


def pose_of_kind(rng: np.random.Generator, anatomy: Anatomy, kind: str) -> np.ndarray:
    """One pose of a kind named in `PoseMixture`, varied: (16, 3, 3) f32."""
    curl, thumb, spread_deg = _outline(rng, kind)
    curl = curl + rng.normal(0, 0.05, 4)
    # MCP and PIP curl together but not equally; the DIP follows the PIP.
    tilt = rng.normal(0, 0.12)
    mcp = 85 * np.clip(curl + tilt + rng.normal(0, 0.06, 4), -0.28, 1.05)
    pip = 105 * np.clip(curl - tilt + rng.normal(0, 0.06, 4), -0.06, 1.04)
    dip = np.clip(pip * (rng.uniform(0.45, 0.75) + rng.normal(0, 0.05, 4)), -8, 80)
    if kind == "random" and rng.random() < 0.4:
        # Hooks and tables: the big knuckles on their own.
        mcp = 85 * np.clip(rng.uniform(-0.25, 1) + rng.normal(0, 0.1, 4), -0.25, 1.05)
    spread = (_SPREAD * spread_deg + rng.normal(0, 2.5, 4)) * (1 - 0.75 * np.clip(mcp / 85, 0, 1))
    thumb = np.clip(thumb + rng.normal(0, 1, 5) * (5, 5, 3, 6, 8), THUMB_LOW_DEG, THUMB_HIGH_DEG)
    angles = HandAngles(mcp, pip, dip, spread, thumb)
    if kind in ("pinch", "ok"):
        angles = _close_pinch(rng, anatomy, angles)
    rotmats = angles_to_rotmats(anatomy, angles.joint_angles())
    noise = rng.normal(0, np.radians(1.5), (15, 3))
    rotmats[1:] = rotmats[1:] @ rotvec_to_rotmat(noise)
    return rotmats.astype(np.float32)


def _outline(rng: np.random.Generator, kind: str) -> tuple[np.ndarray, np.ndarray, float]:
    """Curl 0..1 of the long fingers, the thumb's five angles, and the spread in degrees."""
    folded = rng.uniform(0.78, 1.0, 4)
    straight = rng.uniform(-0.08, 0.12, 4)
    if kind == "relaxed":
        return rng.uniform(0.08, 0.5) + np.array([-0.06, 0.0, 0.04, 0.06]), _THUMB_REST, rng.uniform(-5, 4)
    if kind == "open":
        return straight - rng.uniform(0, 0.12), _THUMB_OUT * rng.uniform(0.2, 1.1), rng.uniform(-6, 14)
    if kind == "fist":
        return folded, _THUMB_TUCKED if rng.random() < 0.75 else _THUMB_REST, rng.uniform(-5, -2)
    if kind == "point":
        thumb = (_THUMB_TUCKED, _THUMB_OUT, _THUMB_REST)[rng.integers(3)]
        return np.concatenate([straight[:1], folded[1:]]), thumb, rng.uniform(-4, 2)
    if kind == "pinch":
        others = rng.uniform(0, 0.8) + np.array([-0.05, 0.0, 0.05])
        return np.concatenate([[rng.uniform(0.3, 0.55)], others]), _THUMB_OPPOSED, rng.uniform(-4, 8)
    if kind == "ok":
        return (
            np.array([rng.uniform(0.42, 0.58), 0.18, 0.08, 0.0]) + rng.normal(0, 0.06, 4) * (0, 1, 1, 1),
            _THUMB_OPPOSED,
            rng.uniform(0, 10),
        )
    if kind == "count":
        chosen = rng.random(4) < 0.5
        thumb = _THUMB_OUT if rng.random() < 0.5 else _THUMB_TUCKED
        return np.where(chosen, straight, folded), thumb, rng.uniform(-4, 10)
    if kind == "thumbs_up":
        return folded, _THUMB_UP, rng.uniform(-5, -2)
    if kind == "grasp":
        return rng.uniform(0.25, 0.7) + np.array([0.0, 0.02, 0.05, 0.05]), np.array([14, 26, -10, 18, 22.0]), rng.uniform(-4, 6)
    curl = np.where(rng.random(4) < 0.5, rng.uniform(-0.15, 1.0, 4), rng.uniform(-0.1, 1.0))
    return curl, rng.uniform(THUMB_LOW_DEG, THUMB_HIGH_DEG), rng.uniform(-6, 14)


def _close_pinch(rng: np.random.Generator, anatomy: Anatomy, angles: HandAngles) -> HandAngles:
    """Of many thumbs near the given one, and index flexions near the given one, take those whose tips come closest."""
    count, folds = 160, 24
    thumbs = np.clip(angles.thumb + rng.normal(0, 1, (count, 5)) * (12, 14, 8, 14, 16), THUMB_LOW_DEG, THUMB_HIGH_DEG)
    shift = rng.normal(0, 1, (folds, 2)) * (12, 14)
    mcp, pip = np.tile(angles.mcp, (folds, 1)), np.tile(angles.pip, (folds, 1))
    mcp[:, 0] += shift[:, 0]
    pip[:, 0] = np.clip(pip[:, 0] + shift[:, 1], 5, 105)

    thumb_tips = _pulps(anatomy, replace(angles, thumb=thumbs), 0)
    index_tips = _pulps(anatomy, replace(angles, mcp=mcp, pip=pip), 1)
    gaps = np.linalg.norm(thumb_tips[:, None] - index_tips[None], axis=-1)
    best_thumb, best_index = np.unravel_index(np.argmin(gaps), gaps.shape)
    return replace(angles, mcp=mcp[best_index], pip=pip[best_index], thumb=thumbs[best_thumb])


def _pulps(anatomy: Anatomy, angles: HandAngles, finger: int) -> np.ndarray:
    """(N, 3) middles of a finger's soft pad in N poses."""
    rotmats = angles_to_rotmats(anatomy, angles.joint_angles())
    joints_m = np.broadcast_to(anatomy.joints_m, (len(rotmats), *anatomy.joints_m.shape))
    world, posed_m = chain_joints(joints_m, rotmats)
    last = FIRST_JOINTS[FINGERS[finger]] + 2
    return posed_m[:, last] + world[:, last] @ _pulp(anatomy, finger)


def _pulp(anatomy: Anatomy, finger: int) -> np.ndarray:
    """From a finger's last joint to the middle of its soft pad, at rest."""
    last = FIRST_JOINTS[FINGERS[finger]] + 2
    bone = anatomy.tips_m[finger] - anatomy.joints_m[last]
    return 0.75 * bone + 0.007 * anatomy.pads[last]


# Turns the rest pose (fingers -x, palm -y, thumb +z) into fingers up, palm to the camera: x down, y away, z right.
UPRIGHT_PALM = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


def sample_orientation(rng: np.random.Generator, frontal_share: float) -> np.ndarray:
    """(3, 3) rotation of the hand in the camera: upright views of palm and back, or anything."""
    if rng.random() >= frontal_share:
        return random_rotation(rng)
    side = np.pi * float(rng.integers(2))
    # About the forearm, then in the picture, then towards the camera.
    about_forearm = rotvec_to_rotmat(np.array([side + np.radians(rng.normal(0, 32)), 0.0, 0.0]))
    in_picture = rotvec_to_rotmat(np.array([0.0, 0.0, np.radians(rng.normal(0, 35))]))
    tipped = rotvec_to_rotmat(np.array([np.radians(rng.normal(0, 28)), 0.0, 0.0]))
    return in_picture @ tipped @ UPRIGHT_PALM @ about_forearm


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    """(3, 3) evenly over all rotations, from an even quaternion."""
    w, x, y, z = unit(rng.normal(0, 1, 4))
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
