"""Packs photographs of hands with MediaPipe's landmarks into the folder that training and scores read (handmesh/photographs.py).

    python tools/pack_photographs.py SOURCE OUT [--size 128]

SOURCE holds hands.jsonl and, for images without a hand, negatives.jsonl. A line of hands.jsonl needs `file` (an image beside it), `split`
("train" or "validation"), `source`, `licence`, `is_right`, `score` (of the side), `stretched` and `landmarks_px` (21 points, pixels of the
file); one of negatives.jsonl needs `file`, `split`, `source` and `licence`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.progress import track

from handmesh.cli import guard
from handmesh.errors import UserError, one_line
from handmesh.freihand import read_picture
from handmesh.geometry.camera import camera_from_focal
from handmesh.geometry.crop import look_at_points, take_crop
from handmesh.photographs import (
    FOCAL_OVER_SIZE,
    LABEL_DTYPE,
    PADDING,
    TRAINING,
    VALIDATION,
    Origin,
    write_photographs,
)  # fmt: skip

SPLITS = {"train": TRAINING, "validation": VALIDATION}
# Many photographs of few people.
LARGEST_FRACTIONS = {"emre": 0.15}
# Below this score the side is left out, and with it what the landmarks say about a right hand.
SURE_SIDE = 0.9
# Width and height of stretched photographs may not fit.
STRETCHED_WEIGHT = 0.5


def read_lines(path: Path, needed: Sequence[str]) -> list[dict[str, Any]]:
    """The objects of a .jsonl file.

    Raises:
        UserError: no such file, a line that is not JSON, or one that lacks a key.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"expected a file of JSON lines, got '{path}', which cannot be read ({one_line(error)}); name its folder"
        ) from error
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            missing = [key for key in needed if key not in row]
        except (ValueError, TypeError) as error:
            raise UserError(f"expected an object in line {number} of '{path}', got '{line[:40]}'; mend the line") from error
        if missing:
            raise UserError(f"expected {', '.join(needed)} in line {number} of '{path}', which lacks {', '.join(missing)}; add it")
        if row["split"] not in SPLITS:
            raise UserError(f"expected split {' or '.join(SPLITS)} in line {number} of '{path}', got '{row['split']}'; mend the line")
        rows.append(row)
    return rows


def landmarks_of(row: dict[str, Any]) -> np.ndarray:
    """(21, 2) pixels of the file.

    Raises:
        UserError: not 21 points, or all at one place.
    """
    try:
        landmarks_px = np.array(row["landmarks_px"], float)[:, :2]
    except (ValueError, TypeError, IndexError):
        landmarks_px = np.zeros(0)
    if landmarks_px.shape != (21, 2) or not np.isfinite(landmarks_px).all():
        raise UserError(f"expected 21 landmarks (x, y) of '{row['file']}', got '{str(row['landmarks_px'])[:40]}'; mend hands.jsonl")
    if np.ptp(landmarks_px, axis=0).max() < 1:
        raise UserError(f"expected landmarks of '{row['file']}' that lie apart, got all within a pixel; mend hands.jsonl")
    return landmarks_px


def pack_hand(image_rgb: np.ndarray, landmarks_px: np.ndarray, is_right: bool, size_px: int) -> tuple[np.ndarray, np.ndarray, float]:
    """The stored square of a hand.

    Args:
        image_rgb: (H, W, 3) uint8.
        landmarks_px: (21, 2) pixels of the image.
        is_right: left hands are mirrored.
        size_px: side S of the square.

    Returns:
        (S, S, 3) uint8 RGB, the landmarks (21, 2) in its pixels, and its focal length in pixels.
    """
    height, width = image_rgb.shape[:2]
    box_px = np.ptp(landmarks_px, axis=0).max()
    camera = camera_from_focal(width, height, float(FOCAL_OVER_SIZE * PADDING * box_px))
    crop = take_crop(image_rgb, camera, *look_at_points(landmarks_px, camera, size_px, PADDING), not is_right)
    rays = np.concatenate([(landmarks_px - (camera.cx, camera.cy)) / (camera.fx, camera.fy), np.ones((len(landmarks_px), 1))], axis=1)
    seen = rays @ crop.R_camera_crop
    packed_px = seen[:, :2] / seen[:, 2:] * crop.camera.fx + (size_px - 1) / 2
    if not is_right:
        packed_px[:, 0] = size_px - 1 - packed_px[:, 0]
    return crop.image, packed_px, crop.camera.fx


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="pack_photographs", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path, help="folder of hands.jsonl")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--size", type=int, default=128, help="side of the stored squares in pixels")
    arguments = parser.parse_args(argv)
    if not 32 <= arguments.size <= 512 or arguments.size % 4:
        raise UserError(f"expected --size in 32..512 that is a multiple of 4, got {arguments.size}; 128 fits crops of 96 px")
    hands = read_lines(
        arguments.source / "hands.jsonl", ("file", "split", "source", "licence", "is_right", "score", "stretched", "landmarks_px")
    )
    negatives = arguments.source / "negatives.jsonl"
    rows = [*hands, *(read_lines(negatives, ("file", "split", "source", "licence")) if negatives.is_file() else [])]
    if not rows:
        raise UserError(f"expected hands in '{arguments.source / 'hands.jsonl'}', got an empty file; give another folder")
    licences = {row["source"]: row["licence"] for row in rows}
    origins = [Origin(name, licence, LARGEST_FRACTIONS.get(name)) for name, licence in sorted(licences.items())]
    number_of = {origin.name: number for number, origin in enumerate(origins)}

    images = np.zeros((len(rows), arguments.size, arguments.size, 3), np.uint8)
    labels = np.zeros(len(rows), LABEL_DTYPE)
    labels["rotmats"] = np.eye(3)
    for index, row in enumerate(track(rows, "packing")):
        image_rgb = cv2.cvtColor(read_picture(arguments.source / row["file"], cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        label = labels[index]
        label["file"] = Path(row["file"]).name.encode()
        label["origin"], label["split"] = number_of[row["source"]], SPLITS[row["split"]]
        if index >= len(hands):
            images[index] = cv2.resize(image_rgb, images.shape[1:3], interpolation=cv2.INTER_AREA)
            continue
        landmarks_px = landmarks_of(row)
        images[index], label["landmarks_px"], label["focal_px"] = pack_hand(image_rgb, landmarks_px, row["is_right"], arguments.size)
        label["presence"] = 1
        label["weight_landmarks"] = STRETCHED_WEIGHT if row["stretched"] else 1.0
        label["has_side"] = row["score"] >= SURE_SIDE
    write_photographs(arguments.out, images, labels, origins)
    print(f"'{arguments.out}': {len(hands)} hands, {len(rows) - len(hands)} images without one, {images.nbytes / 1e6:.0f} MB")


if __name__ == "__main__":
    sys.exit(guard("pack_photographs", main))
