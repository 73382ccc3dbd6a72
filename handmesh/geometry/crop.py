"""A crop is a virtual camera that looks at the hand. The one place that makes crops and that mirrors."""

from __future__ import annotations

import cv2
import numpy as np

from handmesh.geometry.camera import project, unproject
from handmesh.geometry.rotation import MIRROR_X, shortest_arc
from handmesh.records import Camera, Crop

# A crop's side over the larger side of the hand's joints, both measured in the crop camera.
CROP_PADDING = 1.5
# The rule's name, written into every exported network: a network sees only crops made by the rule it was trained on.
CROP_RULE = f"virtual-camera-{CROP_PADDING:g}"
# Side of the square that METRO (Lin et al. 2021) cuts out of the middle of FreiHAND's 224 px, over theirs.
FIXED_SHARE = 180 / 224

_FORWARD = np.array([0.0, 0.0, 1.0])
# A box is in the middle of its crop when it is off by less than this share of its side.
_CENTRED = 1e-9
# A hand this many times larger than its crop is averaged over blocks first, so that thin fingers do not alias. Within 48 dB of a crop that
# averages 64 samples a pixel, in a quarter of the time of one that averages 4 (LOG.md).
_AVERAGE_FROM = 2.0
# Distortion is worked out at every so many pixels of a crop, and for so many more beyond its rim.
_MAP_STEP, _MAP_RIM = 4, 1


def look_at_points(points_px: np.ndarray, camera: Camera, size_px: int, padding: float = CROP_PADDING) -> tuple[Camera, np.ndarray]:
    """The virtual camera whose S x S picture holds the points, turned towards the middle of them.

    The middle and the extent are those of the points' bounding box in the virtual camera itself, so that the
    answer does not depend on where in the full picture the hand is.

    Args:
        points_px: (N, 2) pixels of the full picture, N >= 2 and not all the same.
        camera: the full camera.
        size_px: side S of the crop.
        padding: side of the crop over the larger side of the points' box.

    Returns:
        The crop camera, and the (3, 3) rotation `R_camera_crop`.
    """
    rays = unproject(points_px, camera)
    R_camera_crop = shortest_arc(_FORWARD, rays.min(axis=0) + rays.max(axis=0))
    # A fixed point: the box's middle in the virtual camera lies on its axis. It converges by a factor of ten and more a round.
    for _ in range(8):
        middle, extent = _seen_box(rays, R_camera_crop)
        if np.abs(middle).max() < _CENTRED * extent:
            break
        R_camera_crop = shortest_arc(_FORWARD, R_camera_crop @ np.array([*middle, 1.0]))
    _, extent = _seen_box(rays, R_camera_crop)
    focal_px = size_px / (padding * max(extent, 1e-9))
    middle_px = (size_px - 1) / 2
    crop_camera = Camera(focal_px, focal_px, middle_px, middle_px, size_px, size_px, is_known=camera.is_known)
    return crop_camera, R_camera_crop


def _seen_box(rays: np.ndarray, R_camera_crop: np.ndarray) -> tuple[np.ndarray, float]:
    """Middle (2,) and larger side of the box around rays (N, 3), at unit depth of a turned camera."""
    seen = rays @ R_camera_crop
    xy = seen[:, :2] / seen[:, 2:]
    low, high = xy.min(axis=0), xy.max(axis=0)
    return (low + high) / 2, float((high - low).max())


def look_at_box(box_px: np.ndarray, camera: Camera, size_px: int, padding: float = CROP_PADDING) -> tuple[Camera, np.ndarray]:
    """`look_at_points` for a box (x0, y0, x1, y1): its four edge middles stand for the hand."""
    x0, y0, x1, y1 = box_px
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    return look_at_points(np.array([[x0, y], [x1, y], [x, y0], [x, y1]]), camera, size_px, padding)


def middle_box(camera: Camera, share: float = FIXED_SHARE) -> np.ndarray:
    """(x0, y0, x1, y1) of a square in the middle of the picture, for `look_at_box` with padding 1.

    Args:
        camera: whose picture it is.
        share: side of the square over the smaller side of the picture; METRO's by default.
    """
    half = share * min(camera.width, camera.height) / 2
    x, y = (camera.width - 1) / 2, (camera.height - 1) / 2
    return np.array([x - half, y - half, x + half, y + half])


def take_crop(image: np.ndarray, camera: Camera, crop_camera: Camera, R_camera_crop: np.ndarray, is_mirrored: bool = False) -> Crop:
    """The picture that a virtual camera at the same centre would have taken.

    Args:
        image: (H, W, 3) uint8.
        camera: the camera of `image`.
        crop_camera, R_camera_crop: from `look_at_points` or `look_at_box`.
        is_mirrored: flip the crop, x -> S-1-x, so that a left hand looks like a right one.

    Returns:
        The crop; what lies outside of `image` is black.
    """
    size = crop_camera.width
    source = image
    shrink = max(camera.fx, camera.fy) / crop_camera.fx
    if shrink >= _AVERAGE_FROM:
        source, camera = _shrink_around_crop(image, camera, crop_camera, R_camera_crop, 2 ** int(np.log2(shrink)))
    if camera.distortion:
        where = bent_map(crop_camera, R_camera_crop, camera)
        picture = cv2.remap(source, where, np.empty(0), cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    else:
        H_picture_crop = camera.K @ R_camera_crop @ crop_camera.inverse_K
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        picture = cv2.warpPerspective(source, H_picture_crop, (size, size), flags=flags)
    return Crop(mirror_picture(picture) if is_mirrored else picture, crop_camera, R_camera_crop, is_mirrored)


def bent_map(crop_camera: Camera, R_camera_crop: np.ndarray, camera: Camera) -> np.ndarray:
    """Where in the picture of a camera with distortion each pixel of a crop lies.

    Distortion is smooth: it is worked out at every `_MAP_STEP`-th pixel, which was most of the cost of such a crop, and linear between.

    Returns:
        (S, S, 2) float32 pixels, off by hundredths of one at most.
    """
    size, rim = crop_camera.width, _MAP_RIM * _MAP_STEP
    cells = -(-size // _MAP_STEP) + 2 * _MAP_RIM
    # Middles of cells, as cv2.resize takes them.
    nodes = (np.arange(cells) + 0.5) * _MAP_STEP - 0.5 - rim
    rays = unproject(np.stack(np.meshgrid(nodes, nodes), axis=-1), crop_camera) @ R_camera_crop.T
    coarse = project(rays, camera).astype(np.float32)
    fine = cv2.resize(coarse, (cells * _MAP_STEP, cells * _MAP_STEP), interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(fine[rim : rim + size, rim : rim + size])


def _shrink_around_crop(
    image: np.ndarray, camera: Camera, crop_camera: Camera, R_camera_crop: np.ndarray, factor: int
) -> tuple[np.ndarray, Camera]:
    """The part of the picture that a crop shows, averaged over `factor` x `factor` pixels, and that part's camera."""
    size = crop_camera.width
    corners = np.array([(x, y) for x in (-0.5, size - 0.5) for y in (-0.5, size - 0.5)])
    rays = unproject(corners, crop_camera) @ R_camera_crop.T
    height, width = image.shape[:2]
    low, high = np.zeros(2), np.array([width, height])
    # Distortion bends the outline, and far outside of the picture even back into it: then all of the picture is taken.
    if rays[:, 2].min() > 0 and not camera.distortion:
        pixels = project(rays, camera)
        low, high = pixels.min(axis=0) - 2 * factor, pixels.max(axis=0) + 2 * factor
    x0, y0, x1, y1 = np.clip([*low, *high], 0, [width, height, width, height]).astype(int)
    # Whole blocks, as far as the picture goes.
    x0, y0 = x0 // factor * factor, y0 // factor * factor
    x1, y1 = (min(end, -(-stop // factor) * factor) for stop, end in ((x1, width), (y1, height)))
    if x1 <= x0 or y1 <= y0:
        return np.zeros((1, 1, 3), np.uint8), camera
    part = Camera(camera.fx, camera.fy, camera.cx - x0, camera.cy - y0, int(x1 - x0), int(y1 - y0), camera.distortion, camera.is_known)
    small = (max(1, round((x1 - x0) / factor)), max(1, round((y1 - y0) / factor)))
    return cv2.resize(image[y0:y1, x0:x1], small, interpolation=cv2.INTER_AREA), resize_camera(part, *small)


def crop_points(points_px: np.ndarray, image: np.ndarray, camera: Camera, size_px: int, is_mirrored: bool = False) -> Crop:
    """`look_at_points`, then `take_crop`."""
    return take_crop(image, camera, *look_at_points(points_px, camera, size_px), is_mirrored)


def crop_box(box_px: np.ndarray, image: np.ndarray, camera: Camera, size_px: int, is_mirrored: bool = False) -> Crop:
    """`look_at_box`, then `take_crop`."""
    return take_crop(image, camera, *look_at_box(box_px, camera, size_px), is_mirrored)


def resize_camera(camera: Camera, width: int, height: int) -> Camera:
    """The camera of the same picture resized; pixel centres stay at integers, so (x + 0.5) scales."""
    sx, sy = width / camera.width, height / camera.height
    return Camera(
        camera.fx * sx,
        camera.fy * sy,
        (camera.cx + 0.5) * sx - 0.5,
        (camera.cy + 0.5) * sy - 0.5,
        width,
        height,
        camera.distortion,
        camera.is_known,
    )


def mirror_picture(image: np.ndarray) -> np.ndarray:
    """x -> W-1-x for (..., H, W, C)."""
    return np.ascontiguousarray(image[..., ::-1, :])


def crop_to_camera(points_m: np.ndarray, crop: Crop) -> np.ndarray:
    """Points (..., 3) from the frame of the crop as the network sees it (mirrored or not) to the full camera."""
    R_camera_seen = crop.R_camera_crop @ MIRROR_X if crop.is_mirrored else crop.R_camera_crop
    return points_m @ R_camera_seen.T


def camera_to_crop(points_m: np.ndarray, crop: Crop) -> np.ndarray:
    """Inverse of `crop_to_camera`."""
    R_camera_seen = crop.R_camera_crop @ MIRROR_X if crop.is_mirrored else crop.R_camera_crop
    return points_m @ R_camera_seen
