"""What tools that hold a network against MediaPipe on a video have in common: the frames, and the distance."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from handmesh.errors import UserError
from handmesh.records import Detection


def frames_rgb(path: str | Path, every: int = 1) -> Iterator[tuple[float, np.ndarray]]:
    """Seconds and RGB pictures of every n-th frame.

    Raises:
        UserError: not a video.
    """
    video = cv2.VideoCapture(str(path))
    try:
        index = 0
        while True:
            good, image = video.read()
            if not good:
                if index == 0:
                    raise UserError(f"expected a video, got '{path}', which does not open; give a file that OpenCV can read")
                return
            if index % every == 0:
                yield index / (video.get(cv2.CAP_PROP_FPS) or 30.0), cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
            index += 1
    finally:
        video.release()


def distance_over_box(points_px: np.ndarray, detection: Detection) -> float:
    """Mean distance of 21 points to the detector's landmarks over the larger side of its box."""
    assert detection.landmarks_px is not None
    side_px = (detection.box_px[2:] - detection.box_px[:2]).max()
    return float(np.linalg.norm(points_px - detection.landmarks_px, axis=1).mean() / side_px)
