"""The networks that look at hands whose place is known: landmark network, hand network and head, and what the three say together."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from handmesh.detection.landmarks import LandmarkAnswer, LandmarkKind, LandmarkNetwork
from handmesh.detection.regions import REGION_PX, region_from_landmarks, region_to_picture
from handmesh.geometry.crop import crop_box, crop_points, take_crop
from handmesh.hand_model import HandModel
from handmesh.head import Head
from handmesh.placement import params_to_points
from handmesh.records import Camera, Crop, HandParams
from handmesh.runtime import Predictor
from handmesh.timing import StageTimes
from handmesh.tracking import Observation, Track

_LARGEST_LOGIT = 12.0


@dataclass(frozen=True)
class Target:
    """Where to look for a track's hand.

    Attributes:
        track: whose hand it is; pictures are mirrored by its belief.
        crop_px: (N, 2) what the hand network's crop is made around; None for the box of the track's detection.
        region_px: (21, 2) landmarks that the landmark network's region is made around; None where it does not look.
    """

    track: Track
    crop_px: np.ndarray | None
    region_px: np.ndarray | None


@dataclass(frozen=True)
class Sight:
    """What was seen of a target.

    Attributes:
        track: the target's.
        crop: what `params` are about.
        params: the head's where it answers, else the hand network's.
        seen: what the tracker needs.
        points_px: (21, 2) the landmark network's own landmarks in the picture; None where it did not look.
        points_presence: in 0..1, whether it saw a hand there; 0 where it did not look.
    """

    track: Track
    crop: Crop
    params: HandParams
    seen: Observation
    points_px: np.ndarray | None = None
    points_presence: float = 0.0


class Perception:
    """Looks at hands.

    Args:
        hand_model: the model that is posed.
        predictor: the hand network.
        landmarks: gives the landmark network; not called before it is to look.
        head: made for the two and the model; None where the hand network answers.
        times: where the stages landmarks (a thread of its own), crop, network, head and mesh are counted.

    Attributes:
        landmarks, head: the above.
    """

    def __init__(
        self,
        hand_model: HandModel,
        predictor: Predictor,
        landmarks: Callable[[], LandmarkNetwork],
        head: Head | None,
        times: StageTimes,
    ) -> None:
        self._model = hand_model.for_joints
        self._predictor = predictor
        self.landmarks = landmarks
        self.head = head
        self._times = times
        # The two networks look side by side: each is too small for more than a core or two.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="handmesh landmarks")

    def __call__(self, image_rgb: np.ndarray, camera: Camera, targets: Sequence[Target], *, runs_hand_network: bool = True) -> list[Sight]:
        """Look at all targets of a picture together.

        Args:
            image_rgb: (H, W, 3) uint8.
            camera: of this picture.
            runs_hand_network: False where the head is to read the landmark network alone: there is one, and all targets have regions.
        """
        if not targets:
            return []
        rows = [row for row, target in enumerate(targets) if target.region_px is not None]
        looking = [targets[row] for row in rows]
        shown: dict[int, tuple[Crop, HandParams]] = {}
        asked = None
        if runs_hand_network:
            beside = self._thread.submit(self._look_at_regions, image_rgb, camera, looking) if rows else None
            with self._times.stage("crop"):
                crops = [self._crop(image_rgb, camera, target) for target in targets]
            with self._times.stage("network"):
                said = self._predictor(np.stack([crop.image for crop in crops]))
            shown = dict(enumerate(zip(crops, said, strict=True)))
            asked = [(said[row], crops[row]) for row in rows]
            answer, regions = (None, []) if beside is None else beside.result()
        else:
            answer, regions = self._look_at_regions(image_rgb, camera, looking)
        if answer is not None and self.head is not None:
            with self._times.stage("head"):
                shown |= dict(zip(rows, zip(regions, self.head(answer, regions, asked), strict=True), strict=True))
        with self._times.stage("mesh"):
            sights = []
            for row, target in enumerate(targets):
                index = rows.index(row) if row in rows else None
                looked = None if answer is None or index is None else (answer, index, regions[index])
                sights.append(self._sight(target.track, *shown[row], camera, looked))
            return sights

    def close(self) -> None:
        """Give the thread back."""
        self._thread.shutdown()

    def _look_at_regions(self, image_rgb: np.ndarray, camera: Camera, targets: Sequence[Target]) -> tuple[LandmarkAnswer, list[Crop]]:
        with self._times.stage("landmarks"):
            regions = [self._region(image_rgb, camera, target) for target in targets]
            return self.landmarks()(np.stack([region.image for region in regions])), regions

    def _crop(self, image_rgb: np.ndarray, camera: Camera, target: Target) -> Crop:
        size, is_mirrored = self._predictor.info.input_size_px, not target.track.is_right
        if target.crop_px is None:
            return crop_box(target.track.detection.box_px, image_rgb, camera, size, is_mirrored)
        return crop_points(target.crop_px, image_rgb, camera, size, is_mirrored)

    def _region(self, image_rgb: np.ndarray, camera: Camera, target: Target) -> Crop:
        assert target.region_px is not None
        return take_crop(image_rgb, camera, *region_from_landmarks(target.region_px, camera, REGION_PX), not target.track.is_right)

    def _sight(
        self, track: Track, crop: Crop, params: HandParams, camera: Camera, looked: tuple[LandmarkAnswer, int, Crop] | None
    ) -> Sight:
        keypoints_px, landmarks_px = params_to_points(self._model, params, crop, camera)
        if looked is None:
            seen = Observation(keypoints_px, landmarks_px, params.presence, params.right_logit, has_landmarks=False)
            return Sight(track, crop, params, seen)
        answer, row, region = looked
        points_px = region_to_picture(answer.points_px[row, :, :2], region, camera)
        # Of a hand that the head answers for, the mesh is where the landmarks are; the hand network's may be beside them.
        around_px = points_px if self.head is None else landmarks_px
        presence = (float(answer.presence[row]) + params.presence) / 2
        spread_m = None if params.spread_m is None else float(np.median(params.spread_m))
        seen = Observation(keypoints_px, around_px, presence, _logit(float(answer.right[row])), has_landmarks=True, spread_m=spread_m)
        return Sight(track, crop, params, seen, points_px, float(answer.presence[row]))


def misfit_of(head: Head, kind: LandmarkKind, predictor: Predictor, hand_model: HandModel) -> str | None:
    """What a head was made for, where that is not what it would be used with; None for one that fits.

    Args:
        kind: of the landmark network that it will read.
        predictor: the hand network that it will read.
        hand_model: that it will pose.
    """
    pairs = {
        "landmark network": (head.info.landmarks, kind),
        "hand model": (head.info.hand_model, hand_model.id),
        "hand network": (head.info.network_sha256[:12], hashlib.sha256(predictor.path.read_bytes()).hexdigest()[:12]),
    }
    return next((f"was made for the {what} {has}, not {needs}" for what, (has, needs) in pairs.items() if has != needs), None)


def _logit(probability: float) -> float:
    return float(np.clip(np.log(max(probability, 1e-9) / max(1 - probability, 1e-9)), -_LARGEST_LOGIT, _LARGEST_LOGIT))
