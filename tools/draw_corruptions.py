"""Draws docs/corruptions.jpg: every corruption of the robustness test at every severity, on a hand of the embedded clip.

    python tools/draw_corruptions.py docs/corruptions.jpg [--frame N]

The hand's keypoints are those of the embedded network.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from handmesh.cli import guard
from handmesh.errors import UserError
from handmesh.estimator import HandMeshEstimator
from handmesh.evaluation.corruptions import CORRUPTIONS, SEVERITIES
from handmesh.evaluation.predict import Changed
from handmesh.geometry.camera import camera_from_fov
from handmesh.geometry.crop import look_at_points, resize_camera, take_crop
from handmesh.geometry.rotation import rotvec_to_rotmat
from handmesh.hand_model.assets import ASSETS
from handmesh.records import Camera
from handmesh.render.portrait import caption, grid
from handmesh.wholefile import replacing

FRAME = 150
TILE_PX, GAP_PX = 168, 4
# Of the hand's box in the picture that is harmed: as in FreiHAND.
HAND_PX = 128
JPEG_QUALITY = 86


def read_hand(frame: int) -> tuple[np.ndarray, Camera, np.ndarray]:
    """A frame of the clip at such a size that its first hand is HAND_PX large, its camera, and the hand's (21, 2) keypoints.

    Raises:
        UserError: there is no such frame, or no hand in it.
    """
    video = cv2.VideoCapture(str(ASSETS / "demo_clip.mp4"))
    # The clip is a stream, in which nothing can be sought.
    for _ in range(frame):
        video.grab()
    was_read, image_bgr = video.read()
    if not was_read:
        raise UserError(f"expected the number of one of the clip's frames, got {frame}; choose a smaller one")
    image = np.ascontiguousarray(image_bgr[..., ::-1])
    camera = camera_from_fov(image.shape[1], image.shape[0], 60)
    with HandMeshEstimator(camera=camera) as estimator:
        hands = estimator(image)
    if not hands:
        raise UserError(f"expected a hand in frame {frame} of the clip, found none; choose another frame")
    keypoints_px = hands[0].keypoints_px
    scale = HAND_PX / float(np.ptp(keypoints_px, axis=0).max())
    width, height = (round(side * scale) for side in (camera.width, camera.height))
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    return image, resize_camera(camera, width, height), (keypoints_px + 0.5) * (width / camera.width, height / camera.height) - 0.5


def draw_corruptions(image: np.ndarray, camera: Camera, keypoints_px: np.ndarray) -> np.ndarray:
    """Rows are corruptions, the first column is clean, the others are severities; each is the crop that a network sees."""
    crop_camera, R_camera_crop = look_at_points(keypoints_px, camera, TILE_PX)

    def tile(changed: Changed, words: str) -> np.ndarray:
        R_camera_rolled = R_camera_crop @ rotvec_to_rotmat(np.array([0.0, 0.0, changed.roll_rad]))
        return caption(take_crop(changed.image, camera, crop_camera, R_camera_rolled).image, words)

    rows = []
    for row, corruption in enumerate(CORRUPTIONS):
        tiles = [tile(Changed(image), corruption.name)]
        for severity, strength in zip(SEVERITIES, corruption.strengths, strict=True):
            # Another index in each row: no two look at the same chance.
            tiles.append(tile(corruption.at(severity)(row, image, keypoints_px), f"{severity}: {strength:g}"))
        rows.append(tiles)
    return grid(rows, GAP_PX)


def run(argv: Sequence[str]) -> None:
    """Draw what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path, help="the picture, .jpg")
    parser.add_argument("--frame", type=int, default=FRAME, help="of the embedded clip")
    arguments = parser.parse_args(argv)
    picture = draw_corruptions(*read_hand(arguments.frame))
    with replacing(arguments.out) as temporary:
        if not cv2.imwrite(str(temporary), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]):
            raise UserError(f"expected a .jpg or .png to write, got {arguments.out}; choose another name")
    print(f"written: {arguments.out}")


if __name__ == "__main__":
    sys.exit(guard("draw_corruptions", run))
