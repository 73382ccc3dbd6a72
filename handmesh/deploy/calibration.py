"""Crops to calibrate a quantised network with, and others to measure it on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from handmesh.deploy.parity import PARITY_PICTURES
from handmesh.errors import UserError

CALIBRATION_PICTURES = 300
# Fewer tell too little about the ranges.
_FEWEST = PARITY_PICTURES + 16
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")

# What there is, and how to get the crop (any side, 3) uint8 RGB of one.
_Pictures = tuple[int, Callable[[int], np.ndarray]]


def read_calibration(folder: Path, size_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of a folder, drawn evenly, as the network sees them: up to 300 to calibrate with, and 64 others to measure on.

    Args:
        folder: shards of handmesh-synth; FreiHAND's folder or a set of handmesh-synth --format freihand, cropped around the hands; or a
            folder of pictures that are crops already.
        size_px: side of the crops.

    Returns:
        (N, S, S, 3) and (64, S, S, 3) uint8.

    Raises:
        UserError: no such folder, a broken set, or fewer than 80 pictures.
    """
    count, crop = _open(folder, size_px)
    if count < _FEWEST:
        raise UserError(
            f"expected at least {_FEWEST} pictures in '{folder}' ({PARITY_PICTURES} of them are only measured on), got {count}; "
            "give --calibration a larger set"
        )
    chosen = np.linspace(0, count - 1, min(count, CALIBRATION_PICTURES + PARITY_PICTURES)).round().astype(int)
    chosen = np.random.default_rng(0).permutation(chosen)
    crops = np.stack([_of_side(crop(int(index)), size_px) for index in chosen])
    return crops[PARITY_PICTURES:], crops[:PARITY_PICTURES]


def _open(folder: Path, size_px: int) -> _Pictures:
    from handmesh.freihand import FreiHand
    from handmesh.synthetic.manifest import FREIHAND, MANIFEST, read_manifest
    from handmesh.synthetic.shards import ShardReader

    if not folder.is_dir():
        raise UserError(f"expected a folder of pictures for --calibration, got '{folder}', which is none; draw a set with handmesh-synth")
    if (folder / MANIFEST).is_file() and read_manifest(folder).get("format") != FREIHAND:
        shards = ShardReader(folder, allow_partial=True)
        return len(shards), shards.image
    if (folder / MANIFEST).is_file() or (folder / "evaluation_K.json").is_file():
        return _labelled(folder, size_px)
    if (folder / "training_K.json").is_file():
        files = FreiHand(folder)
        return files.count, lambda index: _crop_of(files.image(index), files.K[index], files.xyz_m[index], False, size_px)
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
    return len(paths), lambda index: _read_square(paths[index])


def _labelled(folder: Path, size_px: int) -> _Pictures:
    from handmesh.evaluation.datasets import open_data

    data = open_data(folder)
    K, image, is_left = data.K, data.image, data.left()
    if K is None or image is None:
        raise UserError(f"expected pictures and cameras in '{folder}', got none; give --calibration a set with both")
    return len(data), lambda index: _crop_of(image(index), K[index], data.joints_m[index], bool(is_left[index]), size_px)


def _crop_of(image: np.ndarray, K: np.ndarray, joints_m: np.ndarray, is_left: bool, size_px: int) -> np.ndarray:
    from handmesh.geometry.camera import camera_from_matrix, project
    from handmesh.geometry.crop import crop_points

    camera = camera_from_matrix(K, image.shape[1], image.shape[0])
    return crop_points(project(joints_m, camera), image, camera, size_px, is_mirrored=is_left).image


def _read_square(path: Path) -> np.ndarray:
    """A picture's middle square."""
    from handmesh.freihand import read_picture

    image = read_picture(path, cv2.IMREAD_COLOR)[..., ::-1]
    side = min(image.shape[:2])
    top, left = ((length - side) // 2 for length in image.shape[:2])
    return image[top : top + side, left : left + side]


def _of_side(image: np.ndarray, size_px: int) -> np.ndarray:
    shrinks = image.shape[0] > size_px
    return cv2.resize(np.ascontiguousarray(image), (size_px, size_px), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
