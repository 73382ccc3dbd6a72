"""In which directions a hand's joints bend: axes derived from the rest pose of any model with MANO's joints."""

from __future__ import annotations

import numpy as np

from handmesh.hand_model.skinning import HandModel
from handmesh.skeleton import JOINTS, MANO_JOINTS


def palm_axes(model: HandModel) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of the rest pose: out of the palm, and from the little finger's knuckle to the index finger's."""
    joints_m = model.joints(model.template_m)
    index, middle, little = (joints_m[JOINTS.index(f"{finger}_mcp")] for finger in ("index", "middle", "little"))
    along = middle - joints_m[JOINTS.index("wrist")]
    palm = np.cross(index - little, along)  # of a right hand
    palm /= np.linalg.norm(palm)
    radial = np.cross(along, palm)
    return palm, radial / np.linalg.norm(radial)


def joint_axes(model: HandModel) -> tuple[np.ndarray, np.ndarray]:
    """Each finger joint's own axes in the rest pose, so that a splayed finger still curls in its own plane.

    Returns:
        flexion (16, 3): a positive angle about it curls towards the palm (for the thumb: towards the little finger
            and the palm). abduction (16, 3): a positive angle about it moves towards the thumb's side (the thumb:
            away from the palm). The wrist's
            rows are zero.
    """
    joints_m = model.joints(model.template_m)
    palm, radial = palm_axes(model)
    flexion, abduction = np.zeros((2, len(MANO_JOINTS), 3))
    for index, joint in enumerate(MANO_JOINTS[1:], start=1):
        start = JOINTS.index(joint)
        bone = joints_m[start + 1] - joints_m[start]
        bone = bone / np.linalg.norm(bone)
        towards = palm - radial if joint.startswith("thumb") else palm
        flexion[index] = _axis_towards(bone, towards)
        # Sideways is at right angles to the curl: for the thumb, away from the palm.
        sideways = radial + palm if joint.startswith("thumb") else radial
        abduction[index] = _axis_towards(bone, sideways)
    return flexion, abduction


def _axis_towards(bone: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The axis about which a small positive turn moves `bone` towards `target`."""
    axis = np.cross(bone, target)
    return axis / np.linalg.norm(axis)
