"""Where the landmark network looks: a region is a virtual camera turned with the hand.

It looks at the middle of the hand and is rolled until the hand points up, so that wherever in the picture a hand is seen, and however
it is turned in the picture's plane, the network sees the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from handmesh.geometry.camera import project, unproject
from handmesh.geometry.crop import crop_to_camera
from handmesh.records import Camera, Crop
from handmesh.skeleton import JOINTS

# Side of the square that the landmark networks read.
REGION_PX = 224

# Side of a region over the larger side of what it is made around, and how far it moves towards the fingers, over that one's height:
# those of MediaPipe's graphs (palm_detection_detection_to_roi and hand_landmark_landmarks_to_roi).
_PALM_SIDE, _PALM_SHIFT = 2.6, 0.5
_LANDMARKS_SIDE, _LANDMARKS_SHIFT = 2.0, 0.1

# Fingertips move too much: the box is that of the palm, the thumb and the fingers' first joints.
_BOXED = [0, 1, 2, 3, 5, 6, 9, 10, 13, 14, 17, 18]
_WRIST, _INDEX, _MIDDLE, _RING = (_BOXED.index(JOINTS.index(name)) for name in ("wrist", "index_mcp", "middle_mcp", "ring_mcp"))
# Keypoints of a palm: the wrist, and where the middle finger begins.
_PALM_WRIST, _PALM_MIDDLE = 0, 2

# A region is in place when its middle is off by less than this share of its side.
_CENTRED = 1e-6
_ROUNDS = 8


def region_from_landmarks(points_px: np.ndarray, camera: Camera, size_px: int = REGION_PX) -> tuple[Camera, np.ndarray]:
    """The region of a hand whose 21 landmarks are known, from the frame before or from a first look.

    The wrist-to-knuckles direction points up; the square has twice the larger side of the box of palm and first finger joints in
    that frame, and its middle lies a tenth of the box's height above the box's.

    Args:
        points_px: (21, 2) pixels of the full picture in `skeleton.JOINTS` order.
        camera: the full camera.
        size_px: side S of the region.

    Returns:
        The region's camera, and the (3, 3) rotation `R_camera_crop` with the roll in it; for `geometry.crop.take_crop`.
    """
    return _settle(unproject(points_px[_BOXED], camera), _landmarks_square, camera, size_px)


def region_from_palm(box_px: np.ndarray, keypoints_px: np.ndarray, camera: Camera, size_px: int = REGION_PX) -> tuple[Camera, np.ndarray]:
    """The region of a hand whose palm was found.

    The direction from the wrist to the middle finger's knuckle points up; the square has 2.6 times the box's larger side, and its middle
    lies half of the box's height above the box's.

    Args:
        box_px: (4,) x0, y0, x1, y1 in pixels of the full picture; its four edge middles stand for it.
        keypoints_px: (7, 2).
        camera: the full camera.
        size_px: side S of the region.

    Returns:
        As `region_from_landmarks`.
    """
    x0, y0, x1, y1 = box_px
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    points_px = np.array([(x0, y), (x1, y), (x, y0), (x, y1), keypoints_px[_PALM_WRIST], keypoints_px[_PALM_MIDDLE]])
    return _settle(unproject(points_px, camera), _palm_square, camera, size_px)


def region_to_picture(points_px: np.ndarray, region: Crop, camera: Camera) -> np.ndarray:
    """Pixels (..., 2) of a region as the network sees it, mirrored or not, in the full picture."""
    return project(crop_to_camera(unproject(points_px, region.camera), region), camera)


# (N, 2) points at unit depth -> middle x, y, side, and the sine and cosine of the turn clockwise from upright
_Square = Callable[[np.ndarray], tuple[float, float, float, float, float]]


def _settle(rays: np.ndarray, square: _Square, camera: Camera, size_px: int) -> tuple[Camera, np.ndarray]:
    """The virtual camera in which the square of rays (N, 3) is upright and in the middle."""
    R_camera_crop = _looking_at(*rays.mean(axis=0).tolist())
    x, y, side, sine, cosine = _seen_square(rays, R_camera_crop, square)
    # A fixed point, as in `geometry.crop.look_at_points`.
    for _ in range(_ROUNDS):
        if max(abs(x), abs(y)) < _CENTRED * side:
            break
        R_camera_crop = _looking_at(*(R_camera_crop @ (x, y, 1.0)).tolist())
        x, y, side, sine, cosine = _seen_square(rays, R_camera_crop, square)
    # What points right in the region as it is turned, and what points down.
    R_camera_crop = R_camera_crop @ np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])
    focal_px, middle_px = size_px / max(side, 1e-9), (size_px - 1) / 2
    return Camera(focal_px, focal_px, middle_px, middle_px, size_px, size_px, is_known=camera.is_known), R_camera_crop


def _looking_at(x: float, y: float, z: float) -> np.ndarray:
    """`rotation.shortest_arc` from the viewing axis, written out: regions ask for it several times a hand and frame."""
    length = math.sqrt(x * x + y * y + z * z)
    x, y, z = x / length, y / length, z / length
    a, b = x / (1 + z), y / (1 + z)
    return np.array([[1 - a * x, -a * y, x], [-a * y, 1 - b * y, y], [-x, -y, z]])


def _seen_square(rays: np.ndarray, R_camera_crop: np.ndarray, square: _Square) -> tuple[float, float, float, float, float]:
    seen = rays @ R_camera_crop
    return square(seen[:, :2] / seen[:, 2:])


def _turn(wrist: np.ndarray, knuckles: np.ndarray) -> tuple[float, float]:
    """Sine and cosine of the angle by which wrist to knuckles is turned clockwise from upright."""
    x, y = (knuckles - wrist).tolist()
    length = math.hypot(x, y)
    return (x / length, -y / length) if length else (0.0, 1.0)


def _landmarks_square(points: np.ndarray) -> tuple[float, float, float, float, float]:
    sine, cosine = _turn(points[_WRIST], (points[_INDEX] + points[_RING]) / 4 + points[_MIDDLE] / 2)
    # Columns: right and down in the turned frame.
    turned = points @ np.array([[cosine, -sine], [sine, cosine]])
    (x0, y0), (x1, y1) = turned.min(axis=0).tolist(), turned.max(axis=0).tolist()
    x, y = (x0 + x1) / 2, (y0 + y1) / 2 - _LANDMARKS_SHIFT * (y1 - y0)
    return cosine * x - sine * y, sine * x + cosine * y, _LANDMARKS_SIDE * max(x1 - x0, y1 - y0), sine, cosine


def _palm_square(points: np.ndarray) -> tuple[float, float, float, float, float]:
    sine, cosine = _turn(points[4], points[5])
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = points[:4].tolist()
    width, height = math.hypot(bx - ax, by - ay), math.hypot(dx - cx, dy - cy)
    x, y = (ax + bx + cx + dx) / 4 + _PALM_SHIFT * height * sine, (ay + by + cy + dy) / 4 - _PALM_SHIFT * height * cosine
    return x, y, _PALM_SIDE * max(width, height), sine, cosine
