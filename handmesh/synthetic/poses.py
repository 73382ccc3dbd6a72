"""Hand poses and hand orientations, sampled within what a healthy hand can do.

Flexion of 85, 105 and 75 degrees at MCP, PIP and DIP, and DIP following PIP by about 0.6, are textbook ranges of
motion (American Academy of Orthopaedic Surgeons, Joint Motion). What holds the mesh apart is not modelled: a
fingertip may sink a little into another.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields

import numpy as np

from handmesh.geometry.rotation import rotvec_to_rotmat
from handmesh.hand_model.articulation import FIRST_JOINTS, Anatomy, unit
from handmesh.skeleton import FINGERS
from handmesh.synthetic.config import PoseMixture

LONG_FINGERS = FINGERS[1:]
_THUMB = FIRST_JOINTS["thumb"]
_KINDS = tuple(field.name for field in fields(PoseMixture))
# Positive turns towards the thumb about y: fingers spread by these when the hand opens.
_SPREAD = np.array([1.0, 0.15, -0.7, -1.3])


@dataclass(frozen=True)
class HandAngles:
    """Joint angles in degrees; finger arrays in the order of `LONG_FINGERS`.

    Attributes:
        mcp, pip, dip: (4,) flexion.
        spread: (4,) towards the thumb.
        thumb: (5,) CMC towards the palm, CMC flexion, CMC twist, MCP flexion, IP flexion.
    """

    mcp: np.ndarray
    pip: np.ndarray
    dip: np.ndarray
    spread: np.ndarray
    thumb: np.ndarray


THUMB_LOW_DEG = np.array([-35.0, -25.0, -15.0, -10.0, -20.0])
THUMB_HIGH_DEG = np.array([40.0, 30.0, 25.0, 55.0, 80.0])
_THUMB_OUT = np.array([-26.0, -14.0, 0.0, 2.0, -4.0])
_THUMB_REST = np.array([-4.0, 2.0, 0.0, 10.0, 12.0])
_THUMB_TUCKED = np.array([22.0, 14.0, 8.0, 34.0, 42.0])
_THUMB_UP = np.array([-30.0, -18.0, 0.0, 0.0, -8.0])


def angles_to_rotmats(anatomy: Anatomy, angles: HandAngles) -> np.ndarray:
    """(16, 3, 3) parent-relative rotations with an identity for the wrist."""
    degrees, axes = np.zeros(16), anatomy.flexion_axes
    for row, finger in enumerate(LONG_FINGERS):
        first = FIRST_JOINTS[finger]
        degrees[first : first + 3] = angles.mcp[row], angles.pip[row], angles.dip[row]
    degrees[_THUMB : _THUMB + 3] = angles.thumb[[1, 3, 4]]
    bone = unit(anatomy.joints_m[_THUMB + 1] - anatomy.joints_m[_THUMB])
    turns = np.zeros((6, 3))
    turns[:4, 1] = angles.spread
    turns[4, 0] = angles.thumb[0]
    turns[5] = bone * angles.thumb[2]
    rotmats = rotvec_to_rotmat(np.radians(np.concatenate([axes * degrees[:, None], turns])))
    out = rotmats[:16]
    for row, finger in enumerate(LONG_FINGERS):
        out[FIRST_JOINTS[finger]] = rotmats[16 + row] @ out[FIRST_JOINTS[finger]]
    out[_THUMB] = rotmats[20] @ rotmats[21] @ out[_THUMB]
    return out


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
    thumb = np.clip(thumb + rng.normal(0, 1, 5) * (5, 4, 3, 6, 8), THUMB_LOW_DEG, THUMB_HIGH_DEG)
    angles = HandAngles(mcp, pip, dip, spread, thumb)
    if kind in ("pinch", "ok"):
        angles = _close_pinch(rng, anatomy, angles)
    rotmats = angles_to_rotmats(anatomy, angles)
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
        return np.concatenate([[rng.uniform(0.3, 0.55)], others]), _THUMB_REST, rng.uniform(-4, 8)
    if kind == "ok":
        return np.array([rng.uniform(0.42, 0.58), 0.18, 0.08, 0.0]) + rng.normal(0, 0.06, 4) * (0, 1, 1, 1), _THUMB_REST, rng.uniform(0, 10)
    if kind == "count":
        chosen = rng.random(4) < 0.5
        thumb = _THUMB_OUT if rng.random() < 0.5 else _THUMB_TUCKED
        return np.where(chosen, straight, folded), thumb, rng.uniform(-4, 10)
    if kind == "thumbs_up":
        return folded, _THUMB_UP, rng.uniform(-5, -2)
    if kind == "grasp":
        return rng.uniform(0.25, 0.7) + np.array([0.0, 0.02, 0.05, 0.05]), np.array([24, 4, 6, 18, 22.0]), rng.uniform(-4, 6)
    curl = np.where(rng.random(4) < 0.5, rng.uniform(-0.15, 1.0, 4), rng.uniform(-0.1, 1.0))
    return curl, rng.uniform(THUMB_LOW_DEG, THUMB_HIGH_DEG), rng.uniform(-6, 14)


def _close_pinch(rng: np.random.Generator, anatomy: Anatomy, angles: HandAngles) -> HandAngles:
    """Of many thumbs near the given one, and index flexions near the given one, take those whose tips come closest."""
    count = 160
    thumbs = np.clip(angles.thumb + rng.normal(0, 1, (count, 5)) * (16, 12, 8, 16, 18), THUMB_LOW_DEG, THUMB_HIGH_DEG)
    bone = unit(anatomy.joints_m[_THUMB + 1] - anatomy.joints_m[_THUMB])
    axes = anatomy.flexion_axes[_THUMB : _THUMB + 3]
    turn_x = rotvec_to_rotmat(np.radians(thumbs[:, :1] * np.array([1.0, 0, 0])))
    twist = rotvec_to_rotmat(np.radians(thumbs[:, 2:3] * bone))
    flex = rotvec_to_rotmat(np.radians(thumbs[:, [1, 3, 4], None] * axes))
    joints = anatomy.joints_m
    cmc = turn_x @ twist @ flex[:, 0]
    mcp = cmc @ flex[:, 1]
    thumb_tips = joints[_THUMB] + cmc @ (joints[_THUMB + 1] - joints[_THUMB]) + mcp @ (joints[_THUMB + 2] - joints[_THUMB + 1])
    thumb_tips = thumb_tips + (mcp @ flex[:, 2]) @ _pulp(anatomy, 0)

    shift = rng.normal(0, 1, (24, 2)) * (12, 14)
    first = FIRST_JOINTS["index"]
    chain = np.stack([angles.mcp[0] + shift[:, 0], np.clip(angles.pip[0] + shift[:, 1], 5, 105), np.full(24, angles.dip[0])], axis=1)
    flex = rotvec_to_rotmat(np.radians(chain[:, :, None] * anatomy.flexion_axes[first : first + 3]))
    mcp = rotvec_to_rotmat(np.radians(np.array([0.0, angles.spread[0], 0.0]))) @ flex[:, 0]
    pip = mcp @ flex[:, 1]
    index_tips = joints[first] + mcp @ (joints[first + 1] - joints[first]) + pip @ (joints[first + 2] - joints[first + 1])
    index_tips = index_tips + (pip @ flex[:, 2]) @ _pulp(anatomy, 1)

    gaps = np.linalg.norm(thumb_tips[:, None] - index_tips[None], axis=-1)
    best_thumb, best_index = np.unravel_index(np.argmin(gaps), gaps.shape)
    mcp_deg, pip_deg = angles.mcp.copy(), angles.pip.copy()
    mcp_deg[0], pip_deg[0] = chain[best_index, :2]
    return HandAngles(mcp_deg, pip_deg, angles.dip, angles.spread, thumbs[best_thumb])


def _pulp(anatomy: Anatomy, finger: int) -> np.ndarray:
    """From a finger's last joint to the middle of its soft pad, at rest."""
    last = (_THUMB if finger == 0 else FIRST_JOINTS[FINGERS[finger]]) + 2
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
