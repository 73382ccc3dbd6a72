"""How a hand's joints bend: axes, angles in degrees, limits and named poses, for any model in MANO's rest frame.

That frame has fingers along -x, the palm towards -y and the thumb at +z.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from functools import cached_property

import numpy as np

from handmesh.geometry.rotation import rotvec_to_rotmat
from handmesh.hand_model.skinning import HandModel
from handmesh.skeleton import FINGERS, MANO_JOINTS

# The joint nearest the palm of each finger, as an index into MANO_JOINTS.
FIRST_JOINTS = {finger: MANO_JOINTS.index("thumb_cmc" if finger == "thumb" else f"{finger}_mcp") for finger in FINGERS}
LONG_FINGERS = FINGERS[1:]
# On the open hand, between the thinnest direction of its thumb's tip and the direction of the index knuckle.
THUMB_PAD_FROM_KNUCKLE_DEG = 48.7
# Out of the palm.
PALM = np.array([0.0, -1.0, 0.0])

# Columns of an array of joint angles.
FLEXION, ABDUCTION, TWIST = range(3)

# Where the five angles of `ThumbPose` are in an array of joint angles.
_ROOT = FIRST_JOINTS["thumb"] - 1
THUMB_COLUMNS = ([_ROOT, _ROOT, _ROOT, _ROOT + 1, _ROOT + 2], [FLEXION, ABDUCTION, TWIST, FLEXION, FLEXION])

# (lowest, highest) degrees of flexion, abduction and twist from the flat rest pose. Abduction is positive towards the
# thumb's side for fingers and away from the palm's plane for the thumb. Flexion and extension of the fingers and of the
# thumb's MCP and IP: rounded from the American Academy of Orthopaedic Surgeons, Joint Motion: Method of Measuring and
# Recording (1965), with some degrees more where fists and hands at rest need them. Sideways motion, twist, and the thumb's
# CMC, which is counted from the rest pose: choices without a table.
_MCP = ((-45.0, 90.0), (-25.0, 25.0), (-8.0, 8.0))
_PIP = ((-8.0, 110.0), (0.0, 0.0), (0.0, 0.0))
_DIP = ((-10.0, 90.0), (0.0, 0.0), (0.0, 0.0))
LIMITS_DEG: dict[str, tuple[tuple[float, float], ...]] = {
    **{f"{finger}_{joint}": limits for finger in LONG_FINGERS for joint, limits in (("mcp", _MCP), ("pip", _PIP), ("dip", _DIP))},
    "thumb_cmc": ((-30.0, 50.0), (-40.0, 40.0), (-45.0, 15.0)),
    "thumb_mcp": ((-10.0, 60.0), (-12.0, 12.0), (-5.0, 5.0)),
    "thumb_ip": ((-20.0, 80.0), (0.0, 0.0), (0.0, 0.0)),
}


@dataclass(frozen=True)
class FingerPose:
    """Degrees of one long finger: flexion of its joints from the palm outwards, and spread towards the thumb."""

    mcp: float = 0.0
    pip: float = 0.0
    dip: float = 0.0
    spread: float = 0.0


@dataclass(frozen=True)
class ThumbPose:
    """Degrees of the thumb: the CMC's three, then flexion of MCP and IP."""

    flexion: float = 0.0
    abduction: float = 0.0
    twist: float = 0.0
    mcp: float = 0.0
    ip: float = 0.0


@dataclass(frozen=True)
class NamedPose:
    """A whole hand that has a name."""

    thumb: ThumbPose
    index: FingerPose
    middle: FingerPose
    ring: FingerPose
    little: FingerPose

    def angles_deg(self) -> np.ndarray:
        """(15, 3) as `angles_to_rotmats` takes them."""
        fingers = np.array([astuple(getattr(self, finger)) for finger in LONG_FINGERS]).T
        return join_angles(*fingers, thumb=np.array(astuple(self.thumb)))


def join_angles(mcp: np.ndarray, pip: np.ndarray, dip: np.ndarray, spread: np.ndarray, thumb: np.ndarray) -> np.ndarray:
    """Finger by finger to joint by joint; leading axes are broadcast.

    Args:
        mcp, pip, dip: (..., 4) flexion of `LONG_FINGERS` in degrees.
        spread: (..., 4) towards the thumb.
        thumb: (..., 5) in the order of `ThumbPose`.

    Returns:
        (..., 15, 3) as `angles_to_rotmats` takes them.
    """
    batch = np.broadcast_shapes(*(part.shape[:-1] for part in (mcp, pip, dip, spread, thumb)))
    angles = np.zeros((*batch, len(MANO_JOINTS) - 1, 3))
    first = np.array([FIRST_JOINTS[finger] - 1 for finger in LONG_FINGERS])
    for step, flexion in enumerate((mcp, pip, dip)):
        angles[..., first + step, FLEXION] = flexion
    angles[..., first, ABDUCTION] = spread
    angles[..., *THUMB_COLUMNS] = thumb
    return angles


_FOLDED = (FingerPose(86, 107, 82, -1), FingerPose(87, 104, 80, 1), FingerPose(76, 98, 76, 4))
POSES = {
    "rest": NamedPose(ThumbPose(), FingerPose(), FingerPose(), FingerPose(), FingerPose()),
    # The normal resting cascade: flexion rises towards the little finger.
    "relaxed": NamedPose(
        ThumbPose(6, 4, -4, 10, 14), FingerPose(18, 28, 12), FingerPose(22, 32, 14), FingerPose(26, 36, 16, 1), FingerPose(28, 36, 16, 3)
    ),
    "fist": NamedPose(ThumbPose(24, 40, -20, 40, 30), FingerPose(87, 106, 80), *_FOLDED),
    "point": NamedPose(ThumbPose(37, 40, -19, 25, 16), FingerPose(9, 5, 3, 2), *_FOLDED),
    "pinch": NamedPose(
        ThumbPose(46, 38, -21, -6, -12),
        FingerPose(72, 34, 22),
        FingerPose(44, 50, 26),
        FingerPose(48, 52, 28, 2),
        FingerPose(52, 50, 28, 4),
    ),
    "spread": NamedPose(
        ThumbPose(-24, -14, 0, 0, -8),
        FingerPose(-6, 0, 0, 14),
        FingerPose(-4, 0, 0, 1),
        FingerPose(-4, 0, 0, -9),
        FingerPose(-4, 0, 0, -20),
    ),
    "thumbs_up": NamedPose(ThumbPose(-26, -30, 5, -4, -12), FingerPose(87, 106, 80), *_FOLDED),
    "ok": NamedPose(
        ThumbPose(38, 24, -14, 0, -14), FingerPose(57, 53, 26), FingerPose(14, 12, 6, 2), FingerPose(6, 8, 4, -5), FingerPose(0, 6, 2, -12)
    ),
}


@dataclass(frozen=True)
class Anatomy:
    """What poses need to know of a hand model at rest.

    Attributes:
        joints_m: (16, 3) in `MANO_JOINTS` order.
        tips_m: (5, 3) thumb to little.
        flexion_axes: (16, 3) unit; a positive turn curls the finger. The wrist's row is zero.
        pads: (16, 3) unit; the direction that the finger's soft side faces.
    """

    joints_m: np.ndarray
    tips_m: np.ndarray
    flexion_axes: np.ndarray
    pads: np.ndarray

    @staticmethod
    def of(model: HandModel) -> Anatomy:
        """Measure a model: long fingers flex towards the palm, the thumb towards its own flat side that faces the fingers."""
        return Anatomy.measure(model.rest_joints_m, model.template_m[model.tip_vertices])

    @staticmethod
    def measure(joints_m: np.ndarray, tips_m: np.ndarray) -> Anatomy:
        """As `of`, from joints (16, 3) and tips (5, 3) alone: meshes that share them bend alike."""
        axes, pads = np.zeros((16, 3)), np.zeros((16, 3))
        for finger in FINGERS:
            first = FIRST_JOINTS[finger]
            ends = [joints_m[first + 1], joints_m[first + 2], tips_m[FINGERS.index(finger)]]
            pad = _thumb_pad(joints_m, tips_m) if finger == "thumb" else PALM
            for joint, end in zip(range(first, first + 3), ends, strict=True):
                axis = np.cross(unit(end - joints_m[joint]), pad)
                axes[joint] = unit(axis)
                pads[joint] = unit(np.cross(axis, end - joints_m[joint]))
        return Anatomy(joints_m, tips_m, axes, pads)

    @cached_property
    def frames(self) -> np.ndarray:
        """(15, 3, 3) right-handed columns: abduction axis, along the bone, flexion axis."""
        a, p = self.flexion_axes[1:], self.pads[1:]
        return np.stack([-p, np.cross(p, a), a], axis=-1)


def angles_to_rotmats(anatomy: Anatomy, angles_deg: np.ndarray) -> np.ndarray:
    """Parent-relative rotations of joint angles: flexion first, then twist about the bone, then abduction.

    Args:
        angles_deg: (..., 15, 3) flexion, abduction, twist of `MANO_JOINTS[1:]`.

    Returns:
        (..., 16, 3, 3) with an identity for the wrist.
    """
    axes = np.moveaxis(anatomy.frames, -1, 0)
    angles = np.radians(angles_deg)[..., None]
    abduct, twist, flex = (rotvec_to_rotmat(angles[..., k, :] * axes[row]) for row, k in enumerate((ABDUCTION, TWIST, FLEXION)))
    fingers = abduct @ twist @ flex
    wrist = np.broadcast_to(np.eye(3), (*fingers.shape[:-3], 1, 3, 3))
    return np.concatenate([wrist, fingers], axis=-3)


def rotmats_to_angles(anatomy: Anatomy, rotmats: np.ndarray) -> np.ndarray:
    """Inverse of `angles_to_rotmats` for twists below 90 degrees.

    Args:
        rotmats: (..., 16, 3, 3) parent-relative; the wrist's is left out.

    Returns:
        (..., 15, 3) degrees of flexion, abduction, twist.
    """
    frames = anatomy.frames
    local = frames.swapaxes(-1, -2) @ rotmats[..., 1:, :, :] @ frames
    flexion = np.arctan2(-local[..., 0, 1], local[..., 0, 0])
    abduction = np.arctan2(-local[..., 1, 2], local[..., 2, 2])
    twist = np.arcsin(np.clip(local[..., 0, 2], -1, 1))
    return np.degrees(np.stack([flexion, abduction, twist], axis=-1))


def limits_deg() -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest joint angles, (15, 3) each, in the order of `MANO_JOINTS[1:]`."""
    table = np.array([LIMITS_DEG[joint] for joint in MANO_JOINTS[1:]])
    return table[..., 0], table[..., 1]


def _thumb_pad(joints_m: np.ndarray, tips_m: np.ndarray) -> np.ndarray:
    """The soft side of the thumb: turned about its last bone from the index knuckle towards the palm."""
    last = FIRST_JOINTS["thumb"] + 2
    along = unit(tips_m[0] - joints_m[last])
    knuckle = joints_m[FIRST_JOINTS["index"]] - joints_m[last]
    across = unit(knuckle - (knuckle @ along) * along)
    turn = np.radians(THUMB_PAD_FROM_KNUCKLE_DEG)
    return np.cos(turn) * across + np.sin(turn) * np.cross(along, across)


def unit(v: np.ndarray) -> np.ndarray:
    """(3,) of length one."""
    return v / np.linalg.norm(v)
