"""What makes a labelled picture hard, as functions on arrays of labels: for statistics and for evaluation sets.

All take labels of any shape (...) with the fields of `scene.LABEL_DTYPE` and answer with arrays (...). Pictures without a hand
are False everywhere (NaN degrees, third -1).
"""

from __future__ import annotations

import numpy as np

from handmesh.hand_model.articulation import FIRST_JOINTS, FLEXION, LONG_FINGERS, PALM, Anatomy, rotmats_to_angles

# Half of the way from the relaxed hand (24 degrees) to a tight fist (91) is 58; a hand with three fingers folded and one straight
# has about 69, with two folded 46: at 60, at least three fingers are curled.
FIST_DEG = 60.0
# |palm's normal . ray to the hand| below this: within 20.5 degrees of the hand's thin side.
EDGE_ON_COSINE = 0.35
OCCLUDED_JOINTS = 4
OCCLUDED_SEEN = 0.75
MONK_THIRDS = 3
_LONG_ROWS = np.array([FIRST_JOINTS[finger] - 1 + step for finger in LONG_FINGERS for step in range(3)])


def has_hand(labels: np.ndarray) -> np.ndarray:
    """Bool: a hand was drawn, whatever can be seen of it."""
    return labels["focal_px"] > 0


def mean_flexion_deg(rotmats: np.ndarray, anatomy: Anatomy) -> np.ndarray:
    """Mean flexion (...) in degrees of the twelve joints of the long fingers, from parent-relative rotations (..., 16, 3, 3)."""
    angles = rotmats_to_angles(anatomy, np.asarray(rotmats, np.float64))
    return angles[..., _LONG_ROWS, FLEXION].mean(axis=-1)


def fist_like(labels: np.ndarray, anatomy: Anatomy) -> np.ndarray:
    """Bool: long fingers curled by at least `FIST_DEG` on average: fists, thumbs-up, pointing, tight grasps."""
    return has_hand(labels) & (mean_flexion_deg(labels["rotmats"], anatomy) >= FIST_DEG)


def palm_cosine(labels: np.ndarray) -> np.ndarray:
    """-1 where the palm faces the camera, 1 where the back does, 0 edge-on; NaN without a hand."""
    normal = labels["rotmats"][..., 0, :, :].astype(np.float64) @ PALM
    root = labels["root_m"].astype(np.float64)
    distance = np.linalg.norm(root, axis=-1)
    cosine = (normal * root).sum(axis=-1) / np.maximum(distance, 1e-9)
    return np.where(has_hand(labels), cosine, np.nan)


def edge_on(labels: np.ndarray) -> np.ndarray:
    """Bool: the camera sees the hand's thin side (`EDGE_ON_COSINE`)."""
    return np.abs(palm_cosine(labels)) < EDGE_ON_COSINE


def joints_inside(labels: np.ndarray, width_px: int, height_px: int) -> np.ndarray:
    """(..., 21) bool: joints inside the picture, whose pixels' centres are 0 .. side - 1."""
    xy = labels["keypoints_px"]
    return (xy > -0.5).all(axis=-1) & (xy[..., 0] < width_px - 0.5) & (xy[..., 1] < height_px - 0.5)


def truncated(labels: np.ndarray, width_px: int, height_px: int) -> np.ndarray:
    """Bool: a hand with a joint outside of the picture."""
    return has_hand(labels) & ~joints_inside(labels, width_px, height_px).all(axis=-1)


def occluded(labels: np.ndarray, width_px: int, height_px: int) -> np.ndarray:
    """Bool: things hide `OCCLUDED_JOINTS` joints inside the picture or more, or a quarter of a hand that is whole in the picture.

    `seen` cannot tell what is outside from what is hidden, so that it counts only where no joint is outside.
    """
    inside = joints_inside(labels, width_px, height_px)
    hidden = (inside & (labels["visible"] == 0)).sum(axis=-1)
    is_covered = inside.all(axis=-1) & (labels["seen"] < OCCLUDED_SEEN)
    return has_hand(labels) & ((hidden >= OCCLUDED_JOINTS) | is_covered)


def monk_third(labels: np.ndarray) -> np.ndarray:
    """Int: 0 the lightest third of the Monk scale, 2 the darkest; -1 without a hand."""
    third = np.clip(np.floor(labels["tone"] * MONK_THIRDS), 0, MONK_THIRDS - 1).astype(np.int64)
    return np.where(has_hand(labels), third, -1)
