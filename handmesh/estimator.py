"""A picture in, hands out: detector, virtual-camera crops, network, mesh; the last three twice."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from handmesh.detection import HandDetector
from handmesh.errors import UserError
from handmesh.geometry.camera import ASSUMED_FOV_DEG, camera_from_fov, project, weak_perspective_to_translation
from handmesh.geometry.crop import crop_box, crop_points, crop_to_camera
from handmesh.geometry.rotation import mirror_rotmat
from handmesh.hand_model import HandModel, load_hand_model
from handmesh.hand_model.skinning import skin_at
from handmesh.records import Camera, Crop, Detection, Hand, HandParams
from handmesh.runtime import Precision, Predictor, Runtime
from handmesh.skeleton import WRIST
from handmesh.timing import StageTimes
from handmesh.tracking import Track, Tracker

_log = logging.getLogger("handmesh")


class HandMeshEstimator:
    """Finds hands and gives each one's mesh in the picture's camera.

    Example:
        estimator = HandMeshEstimator()
        for hand in estimator(image_rgb):
            print(hand.is_right, hand.vertices_m.shape)

    Args:
        model: an exported network (.onnx); None for the embedded one.
        hand_model: "open", "mano", the path of an npz, or a `HandModel`; must be the one the network was trained with.
        runtime: "openvino" or "onnxruntime".
        precision: "f32" or, with OpenVINO, "bf16".
        max_hands: how many hands are looked for.
        camera: the camera of all pictures; None assumes `ASSUMED_FOV_DEG` and says so once.
        threads: of the network; 0 lets the runtime choose.

    Attributes:
        hand_model: the `HandModel` that is posed; its `faces` make `Hand.vertices_m` a mesh.
        times: seconds spent in the stages detect, crop, network and mesh.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        hand_model: str | Path | HandModel = "open",
        *,
        runtime: Runtime = "openvino",
        precision: Precision = "f32",
        max_hands: int = 2,
        camera: Camera | None = None,
        threads: int = 0,
    ) -> None:
        self.hand_model = hand_model if isinstance(hand_model, HandModel) else load_hand_model(hand_model)
        self.times = StageTimes()
        self._predictor = Predictor(model, self.hand_model.id, runtime, precision, threads)
        self._max_hands = max_hands
        self._camera = camera
        self._detectors: dict[bool, HandDetector] = {}  # by is_video
        self._tracker = Tracker()

    def __call__(self, image_rgb: np.ndarray, camera: Camera | None = None, detections: Sequence[Detection] | None = None) -> list[Hand]:
        """The hands of one picture, from left to right.

        Args:
            image_rgb: (H, W, 3) uint8, RGB, upright.
            camera: of this picture; None for the estimator's.
            detections: hands found by other means; None runs the detector.
        """
        _check_image(image_rgb)
        with self.times.stage("detect"):
            if detections is None:
                detections = self._detector(is_video=False)(image_rgb)
        detections = sorted(detections, key=lambda detection: detection.box_px[0] + detection.box_px[2])
        # A tracker of its own: nothing is carried from one picture to the next.
        tracker = Tracker()
        return self._hands(image_rgb, self._camera_for(image_rgb, camera), tracker, tracker.update(detections, 0.0))

    def track(self, image_rgb: np.ndarray, time_s: float, camera: Camera | None = None) -> list[Hand]:
        """The hands of the next frame of a video.

        Args:
            image_rgb: (H, W, 3) uint8, RGB, upright.
            time_s: time of the frame; each later than the one before.
            camera: of this frame; None for the estimator's.
        """
        _check_image(image_rgb)
        with self.times.stage("detect"):
            detections = self._detector(is_video=True)(image_rgb, time_s)
        tracks = self._tracker.update(detections, time_s)
        return self._hands(image_rgb, self._camera_for(image_rgb, camera), self._tracker, tracks)

    def prepare(self, is_video: bool) -> None:
        """Load the detector now rather than with the first picture (or, with `is_video`, frame)."""
        self._detector(is_video)

    def reset(self) -> None:
        """Forget the video so far: the next `track` starts another one."""
        self._tracker = Tracker()
        if detector := self._detectors.pop(True, None):
            detector.close()

    def close(self) -> None:
        """Give the detectors' threads back."""
        while self._detectors:
            self._detectors.popitem()[1].close()

    def __enter__(self) -> HandMeshEstimator:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _detector(self, is_video: bool) -> HandDetector:
        if is_video not in self._detectors:
            self._detectors[is_video] = HandDetector(max_hands=self._max_hands, is_video=is_video)
        return self._detectors[is_video]

    def _camera_for(self, image_rgb: np.ndarray, camera: Camera | None) -> Camera:
        height, width = image_rgb.shape[:2]
        if camera is None:
            camera = self._camera
        if camera is None:
            _log.warning("no camera given: assuming a field of view of %g degrees along the larger side", ASSUMED_FOV_DEG)
            camera = self._camera = camera_from_fov(width, height, ASSUMED_FOV_DEG, is_known=False)
        if (camera.width, camera.height) == (width, height):
            return camera
        if camera.is_known:
            raise UserError(
                f"expected a picture of {camera.width} x {camera.height} pixels, the size of the camera, got {width} x {height}; "
                "resize the camera with geometry.crop.resize_camera"
            )
        return camera_from_fov(width, height, ASSUMED_FOV_DEG, is_known=False)

    def _hands(self, image_rgb: np.ndarray, camera: Camera, tracker: Tracker, tracks: Sequence[Track]) -> list[Hand]:
        if not tracks:
            return []
        hands = self._look(image_rgb, camera, tracks, [track.detection.landmarks_px for track in tracks])
        # A second look, half way between the detector's landmarks and what the network saw: the detector's differ by
        # pixels between a picture and its mirror image, and the answer should not.
        points_px = [_half_way(track.detection, hand) for track, hand in zip(tracks, hands, strict=True)]
        hands = self._look(image_rgb, camera, tracks, points_px)
        for track, hand in zip(tracks, hands, strict=True):
            tracker.vote(track, hand.params)
        return hands

    def _look(self, image_rgb: np.ndarray, camera: Camera, tracks: Sequence[Track], points_px: Sequence[np.ndarray | None]) -> list[Hand]:
        """Crop around points (or the detection's box), predict all crops together, and pose the model."""
        size = self._predictor.info.input_size_px
        with self.times.stage("crop"):
            crops = [
                crop_box(track.detection.box_px, image_rgb, camera, size, is_mirrored=not track.is_right)
                if points is None
                else crop_points(points, image_rgb, camera, size, is_mirrored=not track.is_right)
                for track, points in zip(tracks, points_px, strict=True)
            ]
        with self.times.stage("network"):
            predictions = self._predictor(np.stack([crop.image for crop in crops]))
        with self.times.stage("mesh"):
            return [
                place_hand(self.hand_model, params, crop, camera, track)
                for track, crop, params in zip(tracks, crops, predictions, strict=True)
            ]


def _half_way(detection: Detection, hand: Hand) -> np.ndarray:
    """(21, 2) between the detector's landmarks, where it gave any, and the hand's keypoints."""
    return hand.keypoints_px if detection.landmarks_px is None else (detection.landmarks_px + hand.keypoints_px) / 2


def place_hand(model: HandModel, params: HandParams, crop: Crop, camera: Camera, track: Track) -> Hand:
    """Pose the model and bring it from the crop into the picture's camera.

    Args:
        params: what the network said about `crop`.
        camera: of the full picture.
        track: whose hand it is.
    """
    root_m = weak_perspective_to_translation(params.camera, crop.camera.fx, crop.camera.width)
    vertices_m, joints_m = (crop_to_camera(points_m, crop) for points_m in skin_at(model, params, root_m))
    R_crop_wrist = mirror_rotmat(params.rotmats[0]) if crop.is_mirrored else params.rotmats[0]
    T_camera_wrist = np.eye(4)
    T_camera_wrist[:3, :3] = crop.R_camera_crop @ R_crop_wrist
    T_camera_wrist[:3, 3] = joints_m[WRIST]
    return Hand(
        vertices_m=vertices_m,
        joints_m=joints_m,
        keypoints_px=project(joints_m, camera),
        T_camera_wrist=T_camera_wrist,
        params=params,
        box_px=np.asarray(track.detection.box_px, dtype=np.float64),
        score=track.detection.score * params.presence,
        is_right=not crop.is_mirrored,
        track_id=track.id,
    )


def _check_image(image_rgb: np.ndarray) -> None:
    if image_rgb.ndim != 3 or image_rgb.shape[2] != 3 or image_rgb.dtype != np.uint8 or not image_rgb.size:
        raise UserError(f"expected an RGB picture (H, W, 3) of uint8, got {image_rgb.shape} of {image_rgb.dtype}; convert it first")
