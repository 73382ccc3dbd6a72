"""A picture in, hands out: palms are found, three networks look at each hand, its mesh is posed; in videos hands are followed."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import get_args

import numpy as np

from handmesh.detection.detector import look_at_palms
from handmesh.detection.landmarks import LandmarkKind, LandmarkNetwork
from handmesh.detection.palm import DEFAULT_CONFIDENCE, Palm, PalmDetector
from handmesh.errors import UserError
from handmesh.geometry.camera import ASSUMED_FOV_DEG, camera_from_fov
from handmesh.geometry.rotation import rotmat_2d
from handmesh.hand_model import HandModel, load_hand_model
from handmesh.head import HEADS, Answer, Head, LandmarkChoice, read_head_info
from handmesh.palm_search import PalmSearch
from handmesh.perception import Perception, Sight, Target, misfit_of
from handmesh.placement import match_keypoints, mean_pose, params_to_pose, pose_hand
from handmesh.records import Camera, Detection, Hand, PlacedPose
from handmesh.runtime import BATCH_SIZES, Precision, Predictor, Runtime
from handmesh.skeleton import FINGERS, JOINTS, WRIST
from handmesh.smoothing import DEFAULT_SMOOTH, HandFilter, ShapeEstimate
from handmesh.timing import StageTimes
from handmesh.tracking import Track, Tracker, beside

_log = logging.getLogger("handmesh")

DEFAULT_LANDMARKS: LandmarkKind = "full"

# With landmarks "off" the landmark network looks at a followed hand so often.
_CHECK_EVERY_S = 1.0
# Side of the part of a picture in which a box's palm is looked for, over the box's.
_AROUND_BOX = 1.5
# How far a picture's region is turned for another look at its hand. The mean of four looks is nearer on photographs (LOG.md).
_ASIDE_RAD = math.radians(20)
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
        model: an exported hand network (.onnx); None for the embedded one.
        hand_model: "open", "mano", the path of an npz, or a `HandModel`; must be the one the network was trained with.
        landmarks: the landmark network that looks at every hand: "full", "lite", or "off", where it only helps to find hands; None for
            that of `head`, or "full".
        answer: whose parameters the hands have: "head", which reads the landmark network and, in pictures, the hand network; or "network",
            the hand network alone. With landmarks "off", and where the head was made for another network or hand model, which is said, it
            is the network's.
        head: a head's file; None for the embedded one of the landmark network.
        runtime: "openvino" or "onnxruntime"; MediaPipe's networks run on OpenVINO in either.
        precision: of the networks: "f32" or, with OpenVINO, "bf16"; None for what the hand network's file says. The head's is f32.
        max_hands: how many hands are looked for.
        min_confidence: what a palm's score and the presence of a new hand must reach, 0..1.
        camera: the camera of all pictures; None assumes `ASSUMED_FOV_DEG` and says so once.
        threads: of each network; 0 lets the runtime choose.
        is_live: frames given to `track` come from a camera: they never wait for the palm detector. Without it they do where that makes the
            same video give the same hands every time.
        smooth: how much `track` smooths, 0 (nothing) to 1, or None; see `smooth` below.
        hand_length_mm: from the wrist joint to the tip of the middle finger of a flat hand: makes sizes and distances true, not average.

    Attributes:
        hand_model: the `HandModel` that is posed; its `faces` make `Hand.vertices_m` a mesh.
        times: seconds spent in the stages detect (palms; in videos a thread of its own), find (a first look at a palm's hand), landmarks
            (the landmark network, in a thread of its own), crop, network, head, mesh and smooth.

    Raises:
        UserError: an argument that is none that there is, or a head that does not fit.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        hand_model: str | Path | HandModel = "open",
        *,
        landmarks: LandmarkChoice | None = None,
        answer: Answer = "head",
        head: str | Path | None = None,
        runtime: Runtime = "openvino",
        precision: Precision | None = None,
        max_hands: int = 2,
        min_confidence: float = DEFAULT_CONFIDENCE,
        camera: Camera | None = None,
        threads: int = 0,
        is_live: bool = False,
        smooth: float | None = DEFAULT_SMOOTH,
        hand_length_mm: float | None = None,
    ) -> None:
        self.smooth = smooth
        if hand_length_mm is not None and not _SHORTEST_MM <= hand_length_mm <= _LONGEST_MM:
            raise UserError(f"expected a hand length of {_SHORTEST_MM} to {_LONGEST_MM} mm, got {hand_length_mm:g}")
        named = (("landmarks", landmarks, LandmarkChoice), ("answer", answer, Answer))
        for name, value, choices in (*named, ("runtime", runtime, Runtime), ("precision", precision, Precision)):
            if value is not None and value not in get_args(choices):
                raise UserError(f"expected {name} as one of {', '.join(get_args(choices))}, got {value!r}")
        if not 0 <= min_confidence <= 1:
            raise UserError(f"expected a least confidence of 0 to 1, got {min_confidence:g}")
        if max_hands < 1:
            raise UserError(f"expected max_hands of at least 1, got {max_hands}")
        if threads < 0:
            raise UserError(f"expected threads of at least 0, got {threads}; 0 lets the runtime choose")
        self.hand_model = hand_model if isinstance(hand_model, HandModel) else load_hand_model(hand_model)
        self.times = StageTimes()
        self._predictor = Predictor(model, self.hand_model.id, runtime, precision, threads)
        self._runtime: Runtime = runtime
        self._threads = threads
        self._landmarks: LandmarkChoice | None = landmarks
        self._answer: Answer = "network" if landmarks == "off" else answer
        self._head_path = None if head is None else Path(head)
        self._max_hands = max_hands
        self._min_confidence = min_confidence
        self._camera = camera
        self._landmark_network: LandmarkNetwork | None = None
        self._look: Perception | None = None
        self._palms: PalmDetector | None = None
        self._loading_palms = Lock()
        self._search = PalmSearch(self._load_palms, is_live, self.times)
        self._newest_s: float | None = None
        self._tracker = Tracker(max_hands)
        self._hand_length_m = None if hand_length_mm is None else hand_length_mm / 1e3
        self._memories: dict[int, _Memory] = {}
        if self._head_path is not None:
            if self._answer == "network":
                raise UserError("expected a head where the head answers, got one with landmarks off or answer network; leave it out")
            # Now, so that one that does not fit is refused here.
            self._perception()

    @property
    def smooth(self) -> float | None:
        """How much `track` smooths: 1 most, 0 not at all but for the shape, which is the track's; None gives each frame as it was seen."""
        return self._smooth

    @smooth.setter
    def smooth(self, smooth: float | None) -> None:
        if smooth is not None and not 0 <= smooth <= 1:
            raise UserError(f"expected smoothing of 0 to 1, got {smooth:g}; 0 is off")
        self._smooth = smooth

    def __call__(
        self,
        image_rgb: np.ndarray,
        camera: Camera | None = None,
        detections: Sequence[Detection] | None = None,
        *,
        keeps_sides: bool = False,
    ) -> list[Hand]:
        """The hands of one picture, from left to right.

        Where the head answers, each hand is the mean of four looks at it, in regions that differ, weighted by how far off the head expects
        its keypoints to be.

        Args:
            image_rgb: (H, W, 3) uint8, RGB, upright.
            camera: of this picture; None for the estimator's.
            detections: hands found by other means, their landmarks, if any, where MediaPipe puts them; None runs the detector.
            keeps_sides: each hand is of the side that its detection says, whatever the landmark network sees.

        Raises:
            UserError: another kind of image, one that is not of the camera's size, or a detection without a place.
        """
        _check_image(image_rgb)
        camera = self._camera_for(image_rgb, camera)
        look = self._perception()
        if detections is None:
            detections = self._find(look, image_rgb, camera, self._find_palms(image_rgb)[: self._max_hands])
        else:
            _check_detections(detections)
        detections = sorted(detections, key=lambda detection: detection.box_px[0] + detection.box_px[2])
        # A tracker of its own: nothing is carried from one picture to the next.
        tracks = Tracker().update(detections, 0.0)
        if self._landmarks == "off":
            sights = look(image_rgb, camera, [Target(track, track.points_px, None) for track in tracks])
        else:
            sights = self._look_closely(look, image_rgb, camera, tracks, keeps_sides)
        if look.head is None:
            sights = self._look_again(look, image_rgb, camera, sights)
            answers = [(sight, params_to_pose(sight.params, sight.crop)) for sight in sights]
        else:
            answers = [_mean_of(looks) for looks in self._look_around(look, image_rgb, camera, sights)]
        with self.times.stage("mesh"):
            return [self._posed(sight, pose, camera) for sight, pose in answers]

    def track(self, image_rgb: np.ndarray, time_s: float, camera: Camera | None = None) -> list[Hand]:
        """The hands of the next frame of a video, from left to right.

        The landmark network looks where the hand's mesh was in the frame before, and on along its way. The head reads it alone: the hand
        network, which answers where `answer` asks for it, brings nothing here for its time (LOG.md). The palm detector, in a thread of its
        own, looks for others about ten times a second while fewer than `max_hands` are followed. A hand that hides behind another, or
        leaves and comes back within seconds, keeps its `track_id`. Its shape is estimated in its first second and held from then on; its
        pose and place are smoothed.

        Args:
            image_rgb: (H, W, 3) uint8, RGB, upright.
            time_s: time of the frame; each later than the one before. An earlier one starts another video.
            camera: of this frame; None for the estimator's.

        Raises:
            UserError: another kind of image, one that is not of the camera's size, or a time that is no finite number.
        """
        _check_image(image_rgb)
        if not math.isfinite(time_s):
            raise UserError(f"expected the time of a frame in seconds, got {time_s:g}; count frames where there is no clock")
        camera = self._camera_for(image_rgb, camera)
        if self._newest_s is not None and time_s < self._newest_s:
            self.reset()
        self._newest_s = time_s
        look = self._perception()
        self._find_new_hands(look, image_rgb, time_s, camera)
        targets = [self._target(track, time_s) for track in self._tracker.in_view]
        sights = look(image_rgb, camera, targets, runs_hand_network=look.head is None)
        if look.head is None:
            new = [row for row, sight in enumerate(sights) if sight.track.keypoints_px is None]
            for row, again in zip(new, self._look_again(look, image_rgb, camera, [sights[row] for row in new]), strict=True):
                sights[row] = replace(sights[row], crop=again.crop, params=again.params)
        seen = [sight for sight in sights if self._tracker.follow(sight.track, sight.seen, time_s)]
        self._tracker.drop_twins()
        kept = {track.id for track in self._tracker.in_view}
        seen = [sight for sight in seen if sight.track.id in kept]
        with self.times.stage("smooth"):
            hands = [self._steady(sight, params_to_pose(sight.params, sight.crop), camera, time_s) for sight in seen]
        self._memories = {key: memory for key, memory in self._memories.items() if key in self._tracker.known}
        return sorted(hands, key=_middle_x)

    def prepare(self, is_video: bool = False) -> None:
        """Load the networks now rather than with the first picture.

        Args:
            is_video: those that `track` needs.
        """
        loading = self._search.prepare()
        # Of a video, also those for two hands at once: a second hand must not wait for them.
        batches = BATCH_SIZES if is_video and self._max_hands > 1 else (1,)
        look = self._perception()
        look.landmarks().prepare(*batches)
        if look.head is None or not is_video:
            self._predictor.prepare(*batches)
        loading.result()

    def reset(self) -> None:
        """Forget the video so far: the next `track` starts another one."""
        self._search.reset()
        self._tracker, self._memories, self._newest_s = Tracker(self._max_hands), {}, None

    def close(self) -> None:
        """Give the thread back; the estimator cannot be called again."""
        self._search.close()
        if self._look is not None:
            self._look.close()

    def __enter__(self) -> HandMeshEstimator:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _perception(self) -> Perception:
        """What looks, with the landmark network that was asked for, or that the given head reads."""
        if self._look is None:
            kind = DEFAULT_LANDMARKS
            if self._landmarks is not None and self._landmarks != "off":
                kind = self._landmarks
            elif self._head_path is not None:
                kind = read_head_info(self._head_path).landmarks
            self._look = Perception(self.hand_model, self._predictor, partial(self._load_landmarks, kind), self._head(kind), self.times)
        return self._look

    def _head(self, kind: LandmarkKind) -> Head | None:
        if self._answer == "network":
            return None
        head = Head(HEADS[kind] if self._head_path is None else self._head_path, self._runtime)
        misfit = misfit_of(head, kind, self._predictor, self.hand_model)
        if misfit is None:
            return head
        if self._head_path is not None:
            raise UserError(
                f"expected a head that fits, but '{self._head_path}' {misfit}; "
                "use it with that, or make one with handmesh-train configs/head.yaml"
            )
        _log.warning("the hand network answers alone: the head %s", misfit)
        return None

    def _load_landmarks(self, kind: LandmarkKind) -> LandmarkNetwork:
        if self._landmark_network is None:
            self._landmark_network = LandmarkNetwork(kind, self._runtime, self._predictor.precision, self._threads)
        return self._landmark_network

    def _load_palms(self) -> PalmDetector:
        with self._loading_palms:
            if self._palms is None:
                self._palms = PalmDetector(self._runtime, self._predictor.precision, self._threads, self._min_confidence)
            return self._palms

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

    def _find_new_hands(self, look: Perception, image_rgb: np.ndarray, time_s: float, camera: Camera) -> None:
        """Take in what the palm detector has found, and ask it about this frame if that is due."""
        followed = self._tracker.followed
        missing = self._max_hands - len(followed)
        palms = self._search(image_rgb, time_s, followed, missing > 0)[:missing]
        if palms:
            self._tracker.update(beside(self._find(look, image_rgb, camera, palms), followed, time_s), time_s)

    def _target(self, track: Track, time_s: float) -> Target:
        """Where a track's hand should be in the next frame."""
        ahead_px = track.ahead_px(time_s)
        region_px = track.detection.landmarks_px if track.landmarks_px is None else track.landmarks_px + ahead_px
        looks = self._landmarks != "off" or time_s - track.confirmed_s >= _CHECK_EVERY_S
        return Target(track, _to_look_at(track, ahead_px), region_px if looks else None)

    def _look_closely(
        self, look: Perception, image_rgb: np.ndarray, camera: Camera, tracks: Sequence[Track], keeps_sides: bool
    ) -> list[Sight]:
        """All networks at the hands of a picture, from landmarks that are given or found here, each hand taken for the side that it is."""
        targets = [Target(track, track.detection.landmarks_px, track.detection.landmarks_px) for track in tracks]
        boxed = [row for row, target in enumerate(targets) if target.region_px is None]
        for row, target in zip(
            boxed, self._search_boxes(look, image_rgb, camera, [tracks[row] for row in boxed], keeps_sides), strict=True
        ):
            targets[row] = target
        return look(image_rgb, camera, targets) if keeps_sides else _settle_sides(look, image_rgb, camera, targets)

    def _search_boxes(
        self, look: Perception, image_rgb: np.ndarray, camera: Camera, tracks: Sequence[Track], keeps_sides: bool
    ) -> list[Target]:
        """Landmarks of hands of which only a box is known: by the hand network's answer, else by the palm in the box."""
        first = look(image_rgb, camera, [Target(track, None, None) for track in tracks])
        targets = [Target(sight.track, sight.seen.keypoints_px, sight.seen.landmarks_px) for sight in first]
        second = look(image_rgb, camera, targets) if keeps_sides else _settle_sides(look, image_rgb, camera, targets)
        for row, sight in enumerate(second):
            if sight.points_presence >= self._min_confidence:
                targets[row] = Target(sight.track, sight.points_px, sight.points_px)
            elif (found := self._find_in_box(look, image_rgb, camera, sight.track.detection.box_px)) is not None:
                track = sight.track
                if not keeps_sides:
                    track = replace(track, right_evidence=found.score if found.is_right else -found.score)
                targets[row] = Target(track, found.landmarks_px, found.landmarks_px)
        return targets

    def _find_in_box(self, look: Perception, image_rgb: np.ndarray, camera: Camera, box_px: np.ndarray) -> Detection | None:
        """The surest hand whose palm lies in a box."""
        middle, half = (box_px[:2] + box_px[2:]) / 2, _AROUND_BOX * (box_px[2:] - box_px[:2]).max() / 2
        height, width = image_rgb.shape[:2]
        x0, y0 = np.clip(middle - half, 0, (width - 1, height - 1)).astype(int)
        x1, y1 = np.clip(middle + half + 1, (x0 + 1, y0 + 1), (width, height)).astype(int)
        shift_px = np.array([x0, y0])
        palms = [
            replace(palm, box_px=palm.box_px + np.tile(shift_px, 2), keypoints_px=palm.keypoints_px + shift_px)
            for palm in self._find_palms(image_rgb[y0:y1, x0:x1])
        ]
        inside = [palm for palm in palms if (box_px[:2] <= (at := palm.keypoints_px.mean(axis=0))).all() and (at <= box_px[2:]).all()]
        return next(iter(self._find(look, image_rgb, camera, inside[:1])), None)

    def _find(self, look: Perception, image_rgb: np.ndarray, camera: Camera, palms: Sequence[Palm]) -> list[Detection]:
        """The hands of palms, the surest first."""
        if not palms:
            return []
        with self.times.stage("find"):
            return look_at_palms(look.landmarks(), image_rgb, camera, palms, self._min_confidence)

    def _find_palms(self, image_rgb: np.ndarray) -> list[Palm]:
        with self.times.stage("detect"):
            return self._load_palms()(image_rgb)

    def _look_again(self, look: Perception, image_rgb: np.ndarray, camera: Camera, sights: Sequence[Sight]) -> list[Sight]:
        """A second look of the hand network at hands that have just been found, half way between their landmarks and what it saw.

        Landmarks differ by pixels between a picture and its mirror image, and the answer should not.
        """
        return look(image_rgb, camera, [Target(sight.track, _half_way(sight), None) for sight in sights])

    def _look_around(self, look: Perception, image_rgb: np.ndarray, camera: Camera, sights: Sequence[Sight]) -> list[list[Sight]]:
        """Each of a picture's hands as it was seen, and in regions around the head's answer and turned to either side."""
        around = [[sight.seen.landmarks_px, *(_turned(sight.points_px, turn) for turn in (_ASIDE_RAD, -_ASIDE_RAD))] for sight in sights]
        more = [
            look(image_rgb, camera, [Target(sight.track, points_px, points_px) for sight, points_px in zip(sights, of_look, strict=True)])
            for of_look in zip(*around, strict=True)
        ]
        return [list(of_hand) for of_hand in zip(sights, *more, strict=True)]

    def _steady(self, sight: Sight, pose: PlacedPose, camera: Camera, time_s: float) -> Hand:
        """The hand as it is shown: with its track's shape, smoothed, at its true size."""
        if self._smooth is None:
            return self._posed(sight, pose, camera)
        memory = self._memories.setdefault(sight.track.id, _Memory())
        betas = memory.shape.update(pose.betas, sight.params.presence, time_s - memory.time_s)
        # The same picture of a larger hand is that of one farther away.
        farther = self.hand_model.extent_m(betas) / self.hand_model.extent_m(pose.betas)
        held = replace(pose, betas=betas, root_m=farther * pose.root_m)
        # And of other proportions it is to look as the frame's own did.
        held = match_keypoints(self.hand_model.for_joints, held, sight.seen.keypoints_px, camera)
        pose = memory.filter(held, time_s, self._smooth, sight.params.spread_m)
        memory.time_s = time_s
        return self._posed(sight, pose, camera)

    def _posed(self, sight: Sight, pose: PlacedPose, camera: Camera) -> Hand:
        """The hand of a pose, at its true size."""
        return pose_hand(self.hand_model, pose, sight.params, sight.crop, camera, sight.track, self._scale_of(pose.betas))

    def _scale_of(self, betas: np.ndarray) -> float:
        return 1.0 if self._hand_length_m is None else self._hand_length_m / self.hand_model.length_m(betas)


class _Memory:
    """What is carried from frame to frame of one track."""

    def __init__(self) -> None:
        self.shape = ShapeEstimate()
        self.filter = HandFilter()
        self.time_s = -math.inf


def _to_look_at(track: Track, ahead_px: np.ndarray) -> np.ndarray | None:
    """What the next crop is made around: where a hand that is followed should be, and how far its bent fingers may have come by then.

    A crop around a fist has no room for a finger that points, which the network then never sees.
    """
    if track.keypoints_px is None:
        return track.points_px
    wrist, knuckles, tips = (track.keypoints_px[index] for index in (WRIST, _KNUCKLES, _FINGERTIPS))
    straight = knuckles + _FINGER_OVER_PALM * (knuckles - wrist)
    return np.concatenate([track.keypoints_px, tips + _READY * (straight - tips)]) + ahead_px


def _settle_sides(look: Perception, image_rgb: np.ndarray, camera: Camera, targets: Sequence[Target]) -> list[Sight]:
    """Look, and look at the mirror image where the landmark network sees the other side, and believe the surer of the two."""
    sights = look(image_rgb, camera, targets)
    wrong = [row for row, sight in enumerate(sights) if sight.seen.has_landmarks and sight.seen.right_logit < 0]
    turned = [replace(targets[row], track=_other_side(targets[row].track)) for row in wrong]
    for row, other in zip(wrong, look(image_rgb, camera, turned), strict=True):
        if other.seen.right_logit > sights[row].seen.right_logit:
            sights[row] = other
    return sights


def _other_side(track: Track) -> Track:
    return replace(track, right_evidence=-1.0 if track.is_right else 1.0)


def _half_way(sight: Sight) -> np.ndarray:
    """(21, 2) between the landmarks by which a hand was found, if any, and its mesh's keypoints."""
    found_px = sight.track.detection.landmarks_px if sight.points_px is None else sight.points_px
    return sight.seen.keypoints_px if found_px is None else (found_px + sight.seen.keypoints_px) / 2


def _turned(points_px: np.ndarray | None, turn_rad: float) -> np.ndarray:
    """(21, 2) turned about their middle; the landmark network has looked."""
    assert points_px is not None
    middle = points_px.mean(axis=0)
    return (points_px - middle) @ rotmat_2d(turn_rad).T + middle


def _mean_of(looks: Sequence[Sight]) -> tuple[Sight, PlacedPose]:
    """The first of some looks of the head at a hand, and the mean pose of all, weighted by how sure it was of each."""
    poses = [params_to_pose(look.params, look.crop) for look in looks]
    spreads_m = np.array([look.params.spread_m for look in looks], dtype=np.float64)
    sureness = 1 / np.median(spreads_m, axis=1) ** 2
    spread_m = np.sqrt(np.average(np.square(spreads_m), axis=0, weights=sureness))
    return replace(looks[0], params=replace(looks[0].params, spread_m=spread_m)), mean_pose(poses, sureness)


def _middle_x(hand: Hand) -> float:
    return float(hand.box_px[0] + hand.box_px[2])


def _check_image(image_rgb: np.ndarray) -> None:
    if image_rgb.ndim != 3 or image_rgb.shape[2] != 3 or image_rgb.dtype != np.uint8 or not image_rgb.size:
        raise UserError(f"expected an RGB picture (H, W, 3) of uint8, got {image_rgb.shape} of {image_rgb.dtype}; convert it first")


def _check_detections(detections: Sequence[Detection]) -> None:
    for detection in detections:
        box_px = np.asarray(detection.box_px, dtype=np.float64)
        if box_px.shape != (4,) or not np.isfinite(box_px).all() or not (box_px[:2] < box_px[2:]).all():
            raise UserError(f"expected detections with boxes x0 < x1, y0 < y1 in pixels, got {box_px.tolist()}; leave such a detection out")
        if detection.landmarks_px is None:
            continue
        landmarks_px = np.asarray(detection.landmarks_px, dtype=np.float64)
        if landmarks_px.shape != (len(JOINTS), 2) or not np.isfinite(landmarks_px).all():
            raise UserError(f"expected {len(JOINTS)} finite landmarks (x, y) of a detection, got {landmarks_px.shape}; leave them out")
