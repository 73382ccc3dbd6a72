"""MediaPipe Tasks as it is, for comparison: nothing else runs code of that package."""

from __future__ import annotations

import io
import zipfile

import cv2
import numpy as np

from handmesh.detection.files import NetworkName, network_path
from handmesh.errors import UserError
from handmesh.quiet import quiet_stderr
from handmesh.records import Detection
from handmesh.skeleton import JOINTS

# Names inside the zip that MediaPipe reads.
_PARTS: dict[str, NetworkName] = {"hand_detector.tflite": "palm_detection_full", "hand_landmarks_detector.tflite": "hand_landmark_full"}

# MediaPipe looks at 192 and 224 pixels: a larger picture only costs time.
_LARGEST_SIDE_PX = 1920


class TasksDetector:
    """MediaPipe's hand landmarker with its full networks.

    Args:
        max_hands: most hands to return. In videos one is faster: with two, a missing hand is searched for again.
        is_video: pictures are frames of one video in order, so that a hand is followed rather than searched for.
        min_confidence: what to believe, in 0..1.

    Raises:
        UserError: the package is not installed, or its networks are not to be had.
    """

    def __init__(self, max_hands: int = 2, is_video: bool = False, min_confidence: float = 0.5) -> None:
        with quiet_stderr():
            try:
                import mediapipe
                from mediapipe.tasks.python import BaseOptions, vision
            except ImportError as error:
                raise UserError("expected the package mediapipe to compare with; run: pip install mediapipe==0.10.21") from error
        task = _task()
        with quiet_stderr():
            options = vision.HandLandmarkerOptions(
                base_options=BaseOptions(model_asset_buffer=task),
                running_mode=vision.RunningMode.VIDEO if is_video else vision.RunningMode.IMAGE,
                num_hands=max_hands,
                min_hand_detection_confidence=min_confidence,
                min_hand_presence_confidence=min_confidence,
                min_tracking_confidence=min_confidence,
            )
            self._landmarker = vision.HandLandmarker.create_from_options(options)
            self._new_picture = lambda image: mediapipe.Image(mediapipe.ImageFormat.SRGB, image)
            self._is_video = is_video
            self._time_ms = -1
            # The networks' own warnings come with the first picture.
            self._landmarks(np.zeros((64, 64, 3), np.uint8), 0.0)

    def __call__(self, image_rgb: np.ndarray, time_s: float | None = None) -> list[Detection]:
        """Hands of one picture, as MediaPipe gives them.

        Args:
            image_rgb: (H, W, 3) uint8, upright and not mirrored.
            time_s: when the frame was taken; needed with `is_video`. Times that do not grow are moved on by 1 ms.
        """
        height, width = image_rgb.shape[:2]
        scale = _LARGEST_SIDE_PX / max(height, width)
        if scale < 1:
            small = (max(1, round(width * scale)), max(1, round(height * scale)))
            image_rgb = cv2.resize(image_rgb, small, interpolation=cv2.INTER_AREA)
        return [
            _detection(landmarks, world_landmarks, handedness[0], width, height)
            for landmarks, world_landmarks, handedness in self._landmarks(np.ascontiguousarray(image_rgb), time_s)
        ]

    def close(self) -> None:
        """Free the networks; the detector cannot be called again."""
        with quiet_stderr():
            self._landmarker.close()

    def _landmarks(self, image_rgb: np.ndarray, time_s: float | None) -> list[tuple]:
        picture = self._new_picture(image_rgb)
        if self._is_video:
            if time_s is None:
                raise ValueError("a detector with is_video needs time_s with every frame")
            self._time_ms = max(self._time_ms + 1, round(1e3 * time_s))
            result = self._landmarker.detect_for_video(picture, self._time_ms)
        else:
            result = self._landmarker.detect(picture)
        return list(zip(result.hand_landmarks, result.hand_world_landmarks, result.handedness, strict=True))


def _task() -> bytes:
    """A zip of the two networks, as MediaPipe reads it."""
    task = io.BytesIO()
    with zipfile.ZipFile(task, "w", zipfile.ZIP_STORED) as archive:
        for name, network in _PARTS.items():
            archive.write(network_path(network), name)
    return task.getvalue()


def _detection(landmarks: list, world_landmarks: list, handedness, width: int, height: int) -> Detection:
    normalised = np.array([(point.x, point.y) for point in landmarks])
    if len(normalised) != len(JOINTS):
        raise ValueError(f"expected {len(JOINTS)} landmarks from MediaPipe, got {len(normalised)}")
    landmarks_px = normalised * (width, height) - 0.5
    box_px = np.concatenate([landmarks_px.min(axis=0), landmarks_px.max(axis=0)])
    world_landmarks_m = np.array([(point.x, point.y, point.z) for point in world_landmarks])
    return Detection(box_px, handedness.category_name == "Right", float(handedness.score), landmarks_px, world_landmarks_m)
