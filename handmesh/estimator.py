"""A picture in, hands out: detector, virtual-camera crops, network, mesh; in videos the detector only now and then."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

import numpy as np

from handmesh.detection import HandDetector
from handmesh.errors import UserError
from handmesh.geometry.camera import ASSUMED_FOV_DEG, camera_from_fov
from handmesh.geometry.crop import crop_box, crop_points
from handmesh.hand_model import HandModel, load_hand_model
from handmesh.placement import params_to_pose, place_hand, pose_hand
from handmesh.records import Camera, Crop, Detection, Hand, HandParams, PlacedPose
from handmesh.runtime import Precision, Predictor, Runtime
from handmesh.skeleton import FINGERS, JOINTS, WRIST
from handmesh.smoothing import DEFAULT_SMOOTH, HandFilter, ShapeEstimate
from handmesh.timing import StageTimes
from handmesh.tracking import Track, Tracker

_log = logging.getLogger("handmesh")

# Where frames are not live, an answer is taken in so many frames after it was asked for, ready or not: the same video, the same hands.
_ANSWER_AFTER_FRAMES = 4
# Of all fingers but the thumb.
_KNUCKLES = [JOINTS.index(f"{finger}_mcp") for finger in FINGERS[1:]]
_FINGERTIPS = [JOINTS.index(f"{finger}_tip") for finger in FINGERS[1:]]
# A straight finger's length over the distance from the wrist to its knuckle, about.
_FINGER_OVER_PALM = 0.9
# The share of the way from a bent finger to a straight one that a followed crop makes room for.
# More of it, and the network believes in fingers that are not there: it reads some of the pose from how the crop is framed.
_READY = 0.2
# Hands of all people but infants, with room for measuring otherwise.
_SHORTEST_MM, _LONGEST_MM = 80.0, 300.0


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
        precision: "f32" or, with OpenVINO, "bf16"; None for what the network's file says.
        max_hands: how many hands are looked for.
        camera: the camera of all pictures; None assumes `ASSUMED_FOV_DEG` and says so once.
        threads: of the network; 0 lets the runtime choose.
        is_live: frames given to `track` come from a camera: they never wait for the detector. Without it they do where that makes the
            same video give the same hands every time.
        smooth: how much `track` smooths, 0 (nothing) to 1, or None; see `smooth` below.
        hand_length_mm: from the wrist joint to the tip of the middle finger of a flat hand: makes sizes and distances true, not average.

    Attributes:
        hand_model: the `HandModel` that is posed; its `faces` make `Hand.vertices_m` a mesh.
        times: seconds spent in the stages detect (a thread of its own), crop, network, mesh and smooth.

    Raises:
        UserError: `smooth` or `hand_length_mm` is none that there is.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        hand_model: str | Path | HandModel = "open",
        *,
        runtime: Runtime = "openvino",
        precision: Precision | None = None,
        max_hands: int = 2,
        camera: Camera | None = None,
        threads: int = 0,
        is_live: bool = False,
        smooth: float | None = DEFAULT_SMOOTH,
        hand_length_mm: float | None = None,
    ) -> None:
        self.smooth = smooth
        if hand_length_mm is not None and not _SHORTEST_MM <= hand_length_mm <= _LONGEST_MM:
            raise UserError(f"expected a hand length of {_SHORTEST_MM} to {_LONGEST_MM} mm, got {hand_length_mm:g}")
        self.hand_model = hand_model if isinstance(hand_model, HandModel) else load_hand_model(hand_model)
        self.times = StageTimes()
        self._predictor = Predictor(model, self.hand_model.id, runtime, precision, threads)
        self._max_hands = max_hands
        self._camera = camera
        self._is_live = is_live
        self._threads = threads
        self._detector: HandDetector | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="handmesh detector")
        self._answer: Future[list[Detection]] | None = None
        self._asked_s: float | None = None
        self._newest_s: float | None = None
        self._tracks_then: list[Track] = []
        self._frames_since_asked = 0
        self._tracker = Tracker(max_hands)
        self._hand_length_m = None if hand_length_mm is None else hand_length_mm / 1e3
        self._memories: dict[int, _Memory] = {}

    @property
    def smooth(self) -> float | None:
        """How much `track` smooths: 1 most, 0 not at all but for the shape, which is the track's; None gives each frame as it was seen."""
        return self._smooth

    @smooth.setter
    def smooth(self, smooth: float | None) -> None:
        if smooth is not None and not 0 <= smooth <= 1:
            raise UserError(f"expected smoothing of 0 to 1, got {smooth:g}; 0 is off")
        self._smooth = smooth

    def __call__(self, image_rgb: np.ndarray, camera: Camera | None = None, detections: Sequence[Detection] | None = None) -> list[Hand]:
        """The hands of one picture, from left to right.

        Args:
            image_rgb: (H, W, 3) uint8, RGB, upright.
            camera: of this picture; None for the estimator's.
            detections: hands found by other means, their landmarks, if any, where MediaPipe puts them; None runs the detector.
        """
        _check_image(image_rgb)
        if detections is None:
            detections = self._thread.submit(self._detect, image_rgb).result()
        detections = sorted(detections, key=lambda detection: detection.box_px[0] + detection.box_px[2])
        camera = self._camera_for(image_rgb, camera)
        # A tracker of its own: nothing is carried from one picture to the next.
        tracks = Tracker().update(detections, 0.0)
        sights = self._look(image_rgb, camera, tracks, [track.points_px for track in tracks])
        sights = self._look_again(image_rgb, camera, sights)
        poses = [params_to_pose(sight.params, sight.crop) for sight in sights]
        with self.times.stage("mesh"):
            return [self._posed(sight, pose, camera) for sight, pose in zip(sights, poses, strict=True)]

    def track(self, image_rgb: np.ndarray, time_s: float, camera: Camera | None = None) -> list[Hand]:
        """The hands of the next frame of a video, from left to right.

        Each crop looks where the hand's mesh was in the frame before, and on along its way. The detector, in a thread of its own, is asked
        at the start, when a hand is lost (which the network's presence says), and now and then to find others and to check on those that
        are followed. A hand that hides behind another, or leaves and comes back within seconds, keeps its `track_id`. Its shape is
        estimated in its first second and held from then on; its pose and place are smoothed.

        Args:
            image_rgb: (H, W, 3) uint8, RGB, upright.
            time_s: time of the frame; each later than the one before. An earlier one starts another video.
            camera: of this frame; None for the estimator's.
        """
        _check_image(image_rgb)
        camera = self._camera_for(image_rgb, camera)
        self._consult_detector(image_rgb, time_s)
        tracks = self._tracker.in_view
        sights = self._look(image_rgb, camera, tracks, [_to_look_at(track, time_s) for track in tracks])
        new = [index for index, track in enumerate(tracks) if track.keypoints_px is None]
        for index, sight in zip(new, self._look_again(image_rgb, camera, [sights[index] for index in new]), strict=True):
            sights[index] = sight
        seen = [sight for sight in sights if self._tracker.follow(sight.track, sight.hand, time_s)]
        self._tracker.drop_twins(time_s)
        kept = {track.id for track in self._tracker.in_view}
        seen = [sight for sight in seen if sight.track.id in kept]
        poses = [params_to_pose(sight.params, sight.crop) for sight in seen]
        with self.times.stage("smooth"):
            hands = [self._steady(sight, pose, camera, time_s) for sight, pose in zip(seen, poses, strict=True)]
        self._memories = {key: memory for key, memory in self._memories.items() if key in self._tracker.known}
        return sorted(hands, key=_middle_x)

    def prepare(self) -> None:
        """Load the detector and the network now rather than with the first picture."""
        loading = self._thread.submit(self._load_detector)
        self._predictor.prepare(1)
        loading.result()

    def reset(self) -> None:
        """Forget the video so far: the next `track` starts another one."""
        if self._answer is not None:
            wait([self._answer])
        self._tracker, self._tracks_then, self._memories = Tracker(self._max_hands), [], {}
        self._answer, self._asked_s, self._newest_s, self._frames_since_asked = None, None, None, 0

    def close(self) -> None:
        """Give the detector's threads back; the estimator cannot be called again."""
        self._thread.shutdown()
        self._detector = None

    def __enter__(self) -> HandMeshEstimator:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _load_detector(self) -> HandDetector:
        if self._detector is None:
            self._detector = HandDetector(max_hands=self._max_hands, threads=self._threads)
        return self._detector

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

    def _consult_detector(self, image_rgb: np.ndarray, time_s: float) -> None:
        """Take in the detector's answer if it is due, and ask about this frame if that is needed."""
        if self._newest_s is not None and time_s < self._newest_s:
            self.reset()
        self._newest_s = time_s
        self._frames_since_asked += 1
        if self._answer is not None:
            has_hands = bool(self._tracker.in_view)
            is_due = self._answer.done() if self._is_live else (not has_hands or self._frames_since_asked >= _ANSWER_AFTER_FRAMES)
            if is_due:
                # Taken out first: a detector that fails once must not fail for ever.
                answer, self._answer = self._answer, None
                self._tracker.update(answer.result(), time_s, self._tracks_then)
        if self._answer is None and self._tracker.wants_detector(time_s, self._asked_s):
            self._asked_s, self._frames_since_asked, self._tracks_then = time_s, 0, self._tracker.in_view
            waits = not self._is_live and not self._tracker.in_view
            # The caller may draw on the picture while the detector still looks at it.
            answer = self._thread.submit(self._detect, image_rgb if waits else image_rgb.copy())
            if waits:
                self._tracker.update(answer.result(), time_s)
            else:
                self._answer = answer

    def _detect(self, image_rgb: np.ndarray) -> list[Detection]:
        detector = self._load_detector()
        with self.times.stage("detect"):
            return detector(image_rgb)

    def _look_again(self, image_rgb: np.ndarray, camera: Camera, sights: Sequence[_Sight]) -> list[_Sight]:
        """A second look at hands that the detector has just found, half way between its landmarks and what the network saw.

        The detector's landmarks differ by pixels between a picture and its mirror image, and the answer should not.
        """
        points_px = [_half_way(sight.track.detection, sight.hand) for sight in sights]
        return self._look(image_rgb, camera, [sight.track for sight in sights], points_px)

    def _look(self, image_rgb: np.ndarray, camera: Camera, tracks: Sequence[Track], points_px: Sequence[np.ndarray | None]) -> list[_Sight]:
        """Crop around points (or the detection's box), predict all crops together, and pose the model's joints."""
        if not tracks:
            return []
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
                _Sight(track, crop, place_hand(self.hand_model.for_joints, params, crop, camera, track), params)
                for track, crop, params in zip(tracks, crops, predictions, strict=True)
            ]

    def _steady(self, sight: _Sight, pose: PlacedPose, camera: Camera, time_s: float) -> Hand:
        """The hand as it is shown: with its track's shape, smoothed, at its true size."""
        if self._smooth is None:
            return self._posed(sight, pose, camera)
        memory = self._memories.setdefault(sight.track.id, _Memory())
        betas = memory.shape.update(pose.betas, sight.params.presence, time_s - memory.time_s)
        # The same picture of a larger hand is that of one farther away.
        farther = self.hand_model.extent_m(betas) / self.hand_model.extent_m(pose.betas)
        pose = memory.filter(replace(pose, betas=betas, root_m=farther * pose.root_m), time_s, self._smooth)
        memory.time_s = time_s
        return self._posed(sight, pose, camera)

    def _posed(self, sight: _Sight, pose: PlacedPose, camera: Camera) -> Hand:
        """The hand of a pose, at its true size."""
        return pose_hand(self.hand_model, pose, sight.params, sight.crop, camera, sight.track, self._scale_of(pose.betas))

    def _scale_of(self, betas: np.ndarray) -> float:
        return 1.0 if self._hand_length_m is None else self._hand_length_m / self.hand_model.length_m(betas)


@dataclass(frozen=True)
class _Sight:
    """A track's crop and what the network saw in it, as it is; the vertices of `hand` are those of `HandModel.for_joints`."""

    track: Track
    crop: Crop
    hand: Hand
    params: HandParams


class _Memory:
    """What is carried from frame to frame of one track."""

    def __init__(self) -> None:
        self.shape = ShapeEstimate()
        self.filter = HandFilter()
        self.time_s = -math.inf


def _to_look_at(track: Track, time_s: float) -> np.ndarray | None:
    """What the next crop is made around: where a hand that is followed should be, and how far its bent fingers may have come by then.

    A crop around a fist has no room for a finger that points, which the network then never sees.
    """
    if track.keypoints_px is None:
        return track.points_px
    wrist, knuckles, tips = (track.keypoints_px[index] for index in (WRIST, _KNUCKLES, _FINGERTIPS))
    straight = knuckles + _FINGER_OVER_PALM * (knuckles - wrist)
    return np.concatenate([track.keypoints_px, tips + _READY * (straight - tips)]) + track.ahead_px(time_s)


def _half_way(detection: Detection, hand: Hand) -> np.ndarray:
    """(21, 2) between the detector's landmarks, where it gave any, and the hand's keypoints."""
    return hand.keypoints_px if detection.landmarks_px is None else (detection.landmarks_px + hand.keypoints_px) / 2


def _middle_x(hand: Hand) -> float:
    return float(hand.box_px[0] + hand.box_px[2])


def _check_image(image_rgb: np.ndarray) -> None:
    if image_rgb.ndim != 3 or image_rgb.shape[2] != 3 or image_rgb.dtype != np.uint8 or not image_rgb.size:
        raise UserError(f"expected an RGB picture (H, W, 3) of uint8, got {image_rgb.shape} of {image_rgb.dtype}; convert it first")
