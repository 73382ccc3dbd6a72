"""Where MediaPipe's landmarks lie on a posed hand: the model's keypoints, moved by one constant table."""

from __future__ import annotations

import numpy as np

from handmesh.geometry.rotation import mirror_rotmat
from handmesh.hand_model.skinning import chain_joints, mirror_points
from handmesh.skeleton import BONES, JOINTS, MANO_JOINTS

# From the model's keypoints to MediaPipe's landmarks, each in the frame of the joint that carries it; measured on pictures rendered for
# it: tools/measure_offsets.py (LOG.md).
# fmt: off
LANDMARK_OFFSETS_M = 1e-3 * np.array(
    [
        (-10.5, -2.3, -1.4),  # wrist
        (-8.3, -5.8, 11.1),  # thumb_cmc
        (-3.0, -0.4, -0.5),  # thumb_mcp
        (-1.0, 0.1, -5.1),  # thumb_ip
        (5.3, 2.4, -5.1),  # thumb_tip
        (-0.8, -0.6, -0.4),  # index_mcp
        (3.4, -1.3, -0.9),  # index_pip
        (4.7, -1.9, -1.1),  # index_dip
        (7.5, -2.3, -0.9),  # index_tip
        (-3.2, -1.5, 0.6),  # middle_mcp
        (2.6, -2.1, -0.8),  # middle_pip
        (4.4, -3.5, -0.1),  # middle_dip
        (7.6, -4.4, 0.6),  # middle_tip
        (-4.7, -1.7, 0.3),  # ring_mcp
        (0.9, -2.3, -0.4),  # ring_pip
        (3.1, -3.4, 1.3),  # ring_dip
        (7.9, -2.2, 1.9),  # ring_tip
        (-7.5, -0.7, -0.3),  # little_mcp
        (-0.1, -1.1, -0.1),  # little_pip
        (0.7, -2.6, 1.4),  # little_dip
        (6.8, -1.8, 2.6),  # little_tip
    ]
)
# fmt: on


def _owners() -> np.ndarray:
    """(21,) the MANO joint whose turning carries each of JOINTS: its own, or the one below a fingertip."""
    below = {JOINTS[child]: JOINTS[parent] for child, parent in BONES}
    return np.array([MANO_JOINTS.index(name if name in MANO_JOINTS else below[name]) for name in JOINTS])


OWNERS = _owners()


def landmarks_m(joints_m: np.ndarray, R_camera_wrist: np.ndarray, rotmats: np.ndarray, is_right: bool, scale: float = 1.0) -> np.ndarray:
    """Where MediaPipe would put its landmarks on a hand in the camera.

    Args:
        joints_m: (21, 3) in the camera, at the hand's true size.
        R_camera_wrist: (3, 3) the rotation in `Hand.T_camera_wrist`.
        rotmats: (16, 3, 3) of the right-hand model, as in `Hand.params`; the first is not read.
        is_right: False for a left hand, the mirror image of the model.
        scale: `Hand.scale`.

    Returns:
        (21, 3) metres in the camera.
    """
    first = R_camera_wrist if is_right else mirror_rotmat(R_camera_wrist)
    world, _ = chain_joints(np.zeros((len(MANO_JOINTS), 3)), np.concatenate([first[None], rotmats[1:]]).astype(np.float64))
    shifts_m = (world[OWNERS] @ LANDMARK_OFFSETS_M[..., None])[..., 0]
    return joints_m + scale * (shifts_m if is_right else mirror_points(shifts_m))
