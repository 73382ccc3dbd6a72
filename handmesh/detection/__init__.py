"""Where the hands of a picture are, which side they are, and 21 landmarks of each: MediaPipe's hand landmarker.

One code path serves mediapipe 0.10.21 and 0.10.30 and later: the Tasks API with a `hand_landmarker.task`, a zip
of two networks. The older wheel carries the two; for the newer the file is downloaded once.
"""

from __future__ import annotations

import hashlib
import http.client
import importlib.util
import io
import sys
import urllib.request
import zipfile
from pathlib import Path

import cv2
import numpy as np

from handmesh.detection.files import cache_folder
from handmesh.errors import UserError
from handmesh.quiet import quiet_stderr
from handmesh.records import Detection
from handmesh.skeleton import JOINTS
from handmesh.wholefile import replacing

TASK_URL = "https://storage.googleapis.com/mediapipe-models/hand_landmarker/hand_landmarker/float16/1/hand_landmarker.task"
TASK_SHA256 = "fbc2a30080c3c557093b5ddfc334698132eb341044ccee322ccf8bcf3607cde1"
_DOWNLOAD_TIMEOUT_S = 30

# Name inside the task file, and where mediapipe 0.10.21 keeps the same network.
_TASK_PARTS = {
    "hand_detector.tflite": "modules/palm_detection/palm_detection_full.tflite",
    "hand_landmarks_detector.tflite": "modules/hand_landmark/hand_landmark_full.tflite",
}

# MediaPipe looks at 192 and 224 pixels: a larger picture only costs time.
_LARGEST_SIDE_PX = 1920
# Two detections are one hand where their boxes overlap and their landmarks lie this close, in sides of the box.
_SAME_HAND_IOU = 0.5
_SAME_HAND_DISTANCE = 0.25


class HandDetector:
    """Finds hands.

    Example:
        detector = HandDetector()
        for detection in detector(image_rgb): ...

    Args:
        max_hands: most hands to return. In videos one is faster: with two, a missing hand is searched for again.
        is_video: pictures are frames of one video in order, so that a hand is followed rather than searched for.
        min_confidence: what to believe, in 0..1.

    Raises:
        UserError: the model file is neither in the cache nor in the installed mediapipe and cannot be downloaded.
    """

    def __init__(self, max_hands: int = 2, is_video: bool = False, min_confidence: float = 0.5) -> None:
        task = hand_landmarker_task()
        with quiet_stderr():
            import mediapipe
            from mediapipe.tasks.python import BaseOptions, vision

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
        """Hands of one picture, the surest first.

        Args:
            image_rgb: (H, W, 3) uint8, upright and not mirrored.
            time_s: when the frame was taken; needed with `is_video`. Times that do not grow are moved on by 1 ms.

        Returns:
            At most `max_hands` detections; no hand comes twice.
        """
        height, width = image_rgb.shape[:2]
        scale = _LARGEST_SIDE_PX / max(height, width)
        if scale < 1:
            small = (max(1, round(width * scale)), max(1, round(height * scale)))
            image_rgb = cv2.resize(image_rgb, small, interpolation=cv2.INTER_AREA)
        detections = [
            _detection(landmarks, world_landmarks, handedness[0], width, height)
            for landmarks, world_landmarks, handedness in self._landmarks(np.ascontiguousarray(image_rgb), time_s)
        ]
        return merge_duplicates(detections)

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


def merge_duplicates(detections: list[Detection]) -> list[Detection]:
    """Keep the surest of detections that are the same hand, whatever side each believes it is; surest first."""
    kept: list[Detection] = []
    for detection in sorted(detections, key=lambda detection: -detection.score):
        if not any(_is_same_hand(detection, other) for other in kept):
            kept.append(detection)
    return kept


def hand_landmarker_task() -> bytes:
    """The bytes of MediaPipe's `hand_landmarker.task`: cached, put together from the wheel, or downloaded once.

    Raises:
        UserError: none of the three works; says where to put the file.
    """
    cached = cache_folder() / "hand_landmarker.task"
    if cached.is_file():
        task = cached.read_bytes()
        if not _is_task(task):
            raise UserError(f"{cached} is not a hand landmarker model (a zip of {' and '.join(_TASK_PARTS)}); delete it and run again")
        return task
    return _task_from_wheel() or _download_task(cached)


def _detection(landmarks: list, world_landmarks: list, handedness, width: int, height: int) -> Detection:
    normalised = np.array([(point.x, point.y) for point in landmarks])
    if len(normalised) != len(JOINTS):
        raise ValueError(f"expected {len(JOINTS)} landmarks from MediaPipe, got {len(normalised)}")
    landmarks_px = normalised * (width, height) - 0.5
    box_px = np.concatenate([landmarks_px.min(axis=0), landmarks_px.max(axis=0)])
    world_landmarks_m = np.array([(point.x, point.y, point.z) for point in world_landmarks])
    return Detection(box_px, handedness.category_name == "Right", float(handedness.score), landmarks_px, world_landmarks_m)


def _is_same_hand(a: Detection, b: Detection) -> bool:
    low, high = np.maximum(a.box_px[:2], b.box_px[:2]), np.minimum(a.box_px[2:], b.box_px[2:])
    areas = [float(np.prod(detection.box_px[2:] - detection.box_px[:2])) for detection in (a, b)]
    common = float(np.prod(np.maximum(high - low, 0)))
    if common < _SAME_HAND_IOU * (sum(areas) - common):
        return False
    if a.landmarks_px is None or b.landmarks_px is None:
        return True
    side_px = max((a.box_px[2:] - a.box_px[:2]).max(), (b.box_px[2:] - b.box_px[:2]).max())
    distance_px = np.linalg.norm(a.landmarks_px - b.landmarks_px, axis=-1).mean()
    return bool(distance_px < _SAME_HAND_DISTANCE * side_px)


def _is_task(data: bytes) -> bool:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as task:
            return set(_TASK_PARTS) <= set(task.namelist())
    except zipfile.BadZipFile:
        return False


def _task_from_wheel() -> bytes | None:
    spec = importlib.util.find_spec("mediapipe")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("expected the package mediapipe, which finds the hands; run: pip install mediapipe")
    wheel = Path(next(iter(spec.submodule_search_locations)))
    parts = {name: wheel / place for name, place in _TASK_PARTS.items()}
    if not all(part.is_file() for part in parts.values()):
        return None
    task = io.BytesIO()
    with zipfile.ZipFile(task, "w", zipfile.ZIP_STORED) as archive:
        for name, part in parts.items():
            archive.write(part, name)
    return task.getvalue()


def _download_task(target: Path) -> bytes:
    by_hand = f"download {TASK_URL} on another machine and save it as {target}"
    print(f"downloading MediaPipe's hand landmarker once (7.5 MB) to {target}", file=sys.stderr)
    try:
        with urllib.request.urlopen(TASK_URL, timeout=_DOWNLOAD_TIMEOUT_S) as reply:
            task = reply.read()
    except (OSError, http.client.HTTPException) as error:
        raise UserError(f"this mediapipe carries no hand landmarker and the download failed ({error}); {by_hand}") from error
    found = hashlib.sha256(task).hexdigest()
    if found != TASK_SHA256:
        raise UserError(f"the downloaded hand landmarker has the checksum {found[:16]}..., expected {TASK_SHA256[:16]}...; {by_hand}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as temporary:
            temporary.write_bytes(task)
    except OSError as error:
        print(
            f"cannot keep the download in {target.parent} ({error.strerror}); set HANDMESH_CACHE to a folder to write to", file=sys.stderr
        )
    return task
