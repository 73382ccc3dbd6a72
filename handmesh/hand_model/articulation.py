"""How a hand's joints bend: axes measured on the rest pose of any model in MANO's rest frame (fingers -x, palm -y, thumb +z)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from handmesh.hand_model.skinning import HandModel
from handmesh.skeleton import FINGERS, MANO_JOINTS

# The joint nearest the palm of each finger, as an index into MANO_JOINTS.
FIRST_JOINTS = {finger: MANO_JOINTS.index("thumb_cmc" if finger == "thumb" else f"{finger}_mcp") for finger in FINGERS}
# Out of the palm. A positive turn about its opposite moves a finger towards the thumb's side.
PALM = np.array([0.0, -1.0, 0.0])


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
        joints_m = model.joint_regressor @ model.template_m
        tips_m = model.template_m[model.tip_vertices]
        axes, pads = np.zeros((16, 3)), np.zeros((16, 3))
        for finger in FINGERS:
            first = FIRST_JOINTS[finger]
            ends = [joints_m[first + 1], joints_m[first + 2], tips_m[FINGERS.index(finger)]]
            pad = _thumb_pad(model, joints_m, tips_m) if finger == "thumb" else PALM
            for joint, end in zip(range(first, first + 3), ends, strict=True):
                axis = np.cross(unit(end - joints_m[joint]), pad)
                axes[joint] = unit(axis)
                pads[joint] = unit(np.cross(axis, end - joints_m[joint]))
        return Anatomy(joints_m, tips_m, axes, pads)


def _thumb_pad(model: HandModel, joints_m: np.ndarray, tips_m: np.ndarray) -> np.ndarray:
    """A fingertip is wider than thick: its thinnest direction, across the bone, on the side of the other fingers (-z)."""
    last = FIRST_JOINTS["thumb"] + 2
    along = unit(tips_m[0] - joints_m[last])
    points = model.template_m[model.skin_weights[:, last] > 0.9] - joints_m[last]
    points = points - np.outer(points @ along, along)
    thin = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)[2][1]
    return -thin * np.sign(thin[2])


def unit(v: np.ndarray) -> np.ndarray:
    """(3,) of length one."""
    return v / np.linalg.norm(v)
