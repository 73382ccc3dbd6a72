"""The example of the README's size runs, with and without hands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

from handmesh.hand_model.assets import ASSETS

ONE_IMAGE = Path(__file__).parents[1] / "demo" / "one_image.py"


def test_one_image(tmp_path):
    video = cv2.VideoCapture(str(ASSETS / "demo_clip.mp4"))
    cv2.imwrite(str(tmp_path / "hand.png"), video.read()[1])
    cv2.imwrite(str(tmp_path / "blank.png"), np.full((240, 320, 3), 90, np.uint8))
    for name, has_hand in (("hand", True), ("blank", False)):
        mesh = tmp_path / f"{name}.glb"
        done = subprocess.run([sys.executable, ONE_IMAGE, tmp_path / f"{name}.png", mesh], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert mesh.exists() == has_hand and ("right hand" in done.stdout) == has_hand
