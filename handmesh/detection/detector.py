"""Where the hands of a picture are, which side they are, and 21 landmarks of each: palms first, then a look at each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from handmesh.detection.landmarks import LandmarkAnswer, LandmarkKind, LandmarkNetwork
from handmesh.detection.palm import DEFAULT_CONFIDENCE, Palm, PalmDetector
from handmesh.detection.regions import region_from_palm, region_to_picture
from handmesh.geometry.camera import ASSUMED_FOV_DEG, camera_from_fov
from handmesh.geometry.crop import crop_to_camera, take_crop
from handmesh.records import Camera, Crop, Detection
from handmesh.runtime import Precision, Runtime

# Two detections are one hand where their boxes overlap and their landmarks lie this close, in sides of the box.
_SAME_HAND_IOU = 0.5
_SAME_HAND_DISTANCE = 0.25


class HandDetector:
    """Finds the hands of single pictures by MediaPipe's two networks. May be called from several threads.

    Example:
        detector = HandDetector()
        for detection in detector(image_rgb): ...

    Args:
        max_hands: most hands to return.
        min_confidence: least score of a palm, and least presence of a hand in its region, in 0..1.
        kind: of the landmark network; not used where one is given.
        runtime, precision, threads: of both networks, see `PalmDetector` and `LandmarkNetwork`.
        landmarks: one that others use too; None makes one.

    Raises:
        UserError: a network's file is not to be had (see `files.network_path`), or OpenVINO cannot run it.
    """

    def __init__(
        self,
        max_hands: int = 2,
        min_confidence: float = DEFAULT_CONFIDENCE,
        kind: LandmarkKind = "full",
        *,
        runtime: Runtime = "openvino",
        precision: Precision = "f32",
        threads: int = 0,
        landmarks: LandmarkNetwork | None = None,
    ) -> None:
        self.landmarks = LandmarkNetwork(kind, runtime, precision, threads) if landmarks is None else landmarks
        self.find_palms = PalmDetector(runtime, precision, threads, min_confidence)
        self._max_hands = max_hands
        self._min_confidence = min_confidence

    def __call__(self, image_rgb: np.ndarray, camera: Camera | None = None) -> list[Detection]:
        """Hands of one picture, the surest first.

        Args:
            image_rgb: (H, W, 3) uint8, upright and not mirrored.
            camera: of this picture; None assumes `ASSUMED_FOV_DEG`.

        Returns:
            At most `max_hands` detections; no hand comes twice. `world_landmarks_m` are in the camera's axes.
        """
        image_rgb = np.ascontiguousarray(image_rgb)
        height, width = image_rgb.shape[:2]
        if camera is None:
            camera = camera_from_fov(width, height, ASSUMED_FOV_DEG, is_known=False)
        palms = self.find_palms(image_rgb)[: self._max_hands]
        return look_at_palms(self.landmarks, image_rgb, camera, palms, self._min_confidence)

    def look(
        self, image_rgb: np.ndarray, camera: Camera, regions: Sequence[tuple[Camera, np.ndarray]]
    ) -> tuple[LandmarkAnswer, list[Crop]]:
        """What the landmark network says about given regions, whatever it is.

        Args:
            image_rgb: (H, W, 3) uint8.
            camera: of this picture.
            regions: one or more of `region_from_landmarks` or `region_from_palm`.

        Returns:
            The answer, and the regions as they were seen, none mirrored.
        """
        crops = [take_crop(image_rgb, camera, *region) for region in regions]
        return self.landmarks(np.stack([crop.image for crop in crops])), crops


def look_at_palms(
    landmarks: LandmarkNetwork, image_rgb: np.ndarray, camera: Camera, palms: Sequence[Palm], min_confidence: float
) -> list[Detection]:
    """The hands whose palms were found in a picture, or in one shortly before.

    Args:
        landmarks: looks at each.
        image_rgb: (H, W, 3) uint8.
        camera: of this picture.
        palms: any number.
        min_confidence: least presence of a hand, in 0..1.

    Returns:
        The surest first; no hand comes twice.
    """
    if not palms:
        return []
    crops = [take_crop(image_rgb, camera, *region_from_palm(palm.box_px, palm.keypoints_px, camera)) for palm in palms]
    answer = landmarks(np.stack([crop.image for crop in crops]))
    return merge_duplicates(
        [_detection(answer, row, crop, camera) for row, crop in enumerate(crops) if answer.presence[row] >= min_confidence]
    )


def merge_duplicates(detections: Sequence[Detection]) -> list[Detection]:
    """Keep the surest of detections that are the same hand, whatever side each believes it is; surest first."""
    kept: list[Detection] = []
    for detection in sorted(detections, key=lambda detection: -detection.score):
        if not any(_is_same_hand(detection, other) for other in kept):
            kept.append(detection)
    return kept


def _detection(answer: LandmarkAnswer, row: int, crop: Crop, camera: Camera) -> Detection:
    landmarks_px = region_to_picture(answer.points_px[row, :, :2], crop, camera)
    box_px = np.concatenate([landmarks_px.min(axis=0), landmarks_px.max(axis=0)])
    right = float(answer.right[row])
    world_landmarks_m = crop_to_camera(answer.world_m[row].astype(np.float64), crop)
    return Detection(box_px, right >= 0.5, max(right, 1 - right), landmarks_px, world_landmarks_m)


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
