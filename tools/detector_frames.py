"""The frames of a video, for tools that hold a network against MediaPipe on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from handmesh.errors import UserError


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
