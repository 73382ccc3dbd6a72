"""Projection, its inverse, assumed cameras, and weak perspective to translation and back."""

from __future__ import annotations

import cv2
import numpy as np

from handmesh.errors import UserError
from handmesh.records import Camera

# Between a laptop's webcam (about 65 degrees) and a phone's main camera (about 70), measured along the larger side.
ASSUMED_FOV_DEG = 65.0


def camera_from_fov(width: int, height: int, fov_deg: float, is_known: bool = True) -> Camera:
    """A camera with square pixels and its principal point in the middle of the picture.

    Args:
        width, height: picture size in pixels.
        fov_deg: field of view along the larger side, in degrees.
        is_known: False when the field of view is a guess.

    Raises:
        UserError: the field of view is not between 1 and 179 degrees.
    """
    if not 1 <= fov_deg <= 179:
        raise UserError(f"expected a field of view of 1 to 179 degrees, got {fov_deg:g}; give --fov along the larger side")
    focal_px = 0.5 * max(width, height) / np.tan(np.radians(fov_deg) / 2)
    return camera_from_focal(width, height, focal_px, is_known)


def camera_from_focal(width: int, height: int, focal_px: float, is_known: bool = True) -> Camera:
    """A camera with square pixels, focal length in pixels, and its principal point in the middle."""
    if not focal_px > 0:
        raise UserError(f"expected a positive focal length in pixels, got {focal_px:g}; give --focal in pixels")
    return Camera(float(focal_px), float(focal_px), (width - 1) / 2, (height - 1) / 2, width, height, is_known=is_known)


def camera_from_matrix(K: np.ndarray, width: int, height: int) -> Camera:
    """The camera of a picture of that size with intrinsics (3, 3), without skew."""
    return Camera(float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2]), width, height)


def project(points_m: np.ndarray, camera: Camera) -> np.ndarray:
    """Where a camera sees points.

    Args:
        points_m: (..., 3) in the camera's frame, z > 0.

    Returns:
        (..., 2) pixels, distortion included.
    """
    points_m = np.asarray(points_m)
    if camera.distortion:
        flat = np.ascontiguousarray(points_m.reshape(-1, 1, 3), dtype=np.float64)
        pixels = cv2.projectPoints(flat, np.zeros(3), np.zeros(3), camera.K, np.array(camera.distortion))[0]
        return pixels.reshape(*points_m.shape[:-1], 2)
    return points_m[..., :2] / points_m[..., 2:] * (camera.fx, camera.fy) + (camera.cx, camera.cy)


def unproject(pixels: np.ndarray, camera: Camera) -> np.ndarray:
    """Rays through pixels.

    Args:
        pixels: (..., 2).

    Returns:
        (..., 3) directions in the camera's frame with z = 1, distortion removed.
    """
    pixels = np.asarray(pixels, dtype=np.float64)
    if camera.distortion:
        flat = np.ascontiguousarray(pixels.reshape(-1, 1, 2))
        xy = cv2.undistortPoints(flat, camera.K, np.array(camera.distortion)).reshape(pixels.shape)
    else:
        xy = (pixels - (camera.cx, camera.cy)) / (camera.fx, camera.fy)
    return np.concatenate([xy, np.ones_like(xy[..., :1])], axis=-1)


def weak_perspective_to_translation(camera: np.ndarray, focal_px: float, crop_size_px: int) -> np.ndarray:
    """Place a root-relative hand so that a pinhole camera draws it where the network saw it.

    Args:
        camera: (..., 3) `(s, tx, ty)`; `s` in half-crops per metre, positive; `tx, ty` in metres, x right, y down.
        focal_px: focal length of the crop camera.
        crop_size_px: side of the square crop that `focal_px` belongs to.

    Returns:
        (..., 3) translation of the root joint in metres in the crop camera: x right, y down, z forward.
    """
    z = 2 * focal_px / (crop_size_px * camera[..., :1])
    return np.concatenate([camera[..., 1:], z], axis=-1)


def translation_to_weak_perspective(translation_m: np.ndarray, focal_px: float, crop_size_px: int) -> np.ndarray:
    """Inverse of `weak_perspective_to_translation`: (..., 3) metres to (..., 3) `(s, tx, ty)`."""
    s = 2 * focal_px / (crop_size_px * translation_m[..., 2:])
    return np.concatenate([s, translation_m[..., :2]], axis=-1)
