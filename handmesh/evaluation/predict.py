"""Hands for the pictures of an `EvaluationSet`: one look at each or several, brought back into the picture's camera.

Pictures are read and cropped in a thread, a few dozen crops ahead of the network, so that no more are ever held.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from handmesh.detection import HandDetector
from handmesh.estimator import HandMeshEstimator
from handmesh.evaluation.records import CropMode, EvaluationSet, Predictions, Tta
from handmesh.geometry.alignment import procrustes
from handmesh.geometry.camera import camera_from_matrix, project, weak_perspective_to_translation
from handmesh.geometry.crop import CROP_PADDING, FIXED_SHARE, crop_to_camera, look_at_box, look_at_points, middle_box, take_crop
from handmesh.geometry.rotation import rotvec_to_rotmat
from handmesh.hand_model import HandModel
from handmesh.hand_model.skinning import skin
from handmesh.records import Camera, Crop, Detection, HandParams
from handmesh.runtime import NetworkInfo
from handmesh.skeleton import JOINTS, ROOT

# Crops that the network is given at once; twice as many wait for it.
_CROPS_AT_ONCE = 32
_CHUNKS_AHEAD = 2

Item = TypeVar("Item")
Made = TypeVar("Made")


class CropNetwork(Protocol):
    """Crops in, hand parameters out; `runtime.Predictor` is one."""

    info: NetworkInfo

    def __call__(self, crops: np.ndarray, /) -> list[HandParams]:
        """N parameters for (N, S, S, 3) uint8 RGB, S = `info.input_size_px`."""
        ...


@dataclass(frozen=True)
class Changed:
    """What became of one picture.

    Attributes:
        image: (H, W, 3) uint8 RGB, as large as before.
        roll_rad: the crop's camera is turned so much about its viewing axis; labels stay in the picture's camera.
    """

    image: np.ndarray
    roll_rad: float = 0.0


class Change(Protocol):
    """Something done to pictures before they are cropped."""

    def __call__(self, index: int, image: np.ndarray, keypoints_px: np.ndarray, /) -> Changed:
        """Change one picture.

        Args:
            index: of the picture in its set.
            image: (H, W, 3) uint8 RGB.
            keypoints_px: (21, 2) where the true joints are.
        """
        ...


@dataclass(frozen=True)
class Look:
    """How one crop of several differs from the plain one.

    Attributes:
        roll_rad: turn of the crop's camera about its viewing axis.
        scale: the crop sees this many times the plain one's side.
    """

    roll_rad: float = 0.0
    scale: float = 1.0


def _looks(rolls_deg: Iterable[int], scales: Iterable[float]) -> tuple[Look, ...]:
    """Every roll at every scale, the plain look first."""
    looks = [Look(float(np.radians(roll)), scale) for roll in rolls_deg for scale in scales]
    return tuple(sorted(looks, key=lambda look: look != Look()))


# METRO's: its code turns the crop and multiplies the side of the box by the scale.
LOOKS: dict[Tta, tuple[Look, ...]] = {
    "none": (Look(),),
    "metro": _looks(range(-90, 91, 10), (0.7, 0.8, 0.9, 1.0, 1.1)),
    "fast": _looks((0,), (0.8, 0.9, 1.0, 1.1)),
}


def predict(
    data: EvaluationSet,
    network: CropNetwork,
    model: HandModel,
    crop: CropMode,
    tta: Tta = "none",
    change: Change | None = None,
    label: str = "hands",
) -> Predictions:
    """Every picture through a network.

    Left hands are shown to the network as mirrored crops. Which hands are left is what the data says, with `crop="detector"` too: the
    detector says only where the hand is.

    Args:
        data: pictures with K; the true joints place the crop with "gt", and are otherwise only handed to `change`.
        network: made for `model`.
        model: the hand that its parameters pose.
        crop: "gt" is the rule that networks are trained by, around the true keypoints; "centre" METRO's fixed square in the middle of
            the picture; "detector" the rule around the landmarks of the surest hand that MediaPipe's networks find in the (changed)
            picture, and "centre" where they find none.
        tta: test-time augmentation: "none" one look; "metro" 95 looks, rolls of 0, ±10 ... ±90 degrees times crops that see 0.7, 0.8,
            0.9, 1.0 and 1.1 of the side (METRO's code multiplies its box, so this does); each look's mesh and joints are aligned to
            the plain look by one similarity without reflection, and averaged; "fast" four looks, unrolled crops that see 0.8, 0.9, 1.0
            and 1.1 of the side, done alike.
        change: done to each picture first.
        label: beside the progress bar.

    Returns:
        Hands in the pictures' cameras; `found` says where the detector found one.

    Raises:
        UserError: no pictures or cameras, a picture that cannot be read, or no detector to be had.
    """
    count, looks = len(data), LOOKS[tta]
    at_once = max(1, _CROPS_AT_ONCE // len(looks))
    chunks = [range(start, min(start + at_once, count)) for start in range(0, count, at_once)]
    points_m = np.empty((count, len(model.template_m) + len(JOINTS), 3))
    found = np.ones(count, bool)
    detector = HandDetector(max_hands=1) if crop == "detector" else None

    def crop_pictures(rows: range) -> list[tuple[list[Crop], bool]]:
        return [crop_picture(data, index, crop, looks, network.info.input_size_px, detector, change) for index in rows]

    with progress_bar() as bar:
        task = bar.add_task(label, total=count)
        for rows, seen in _in_advance(crop_pictures, chunks):
            crops = [one for of_picture, _ in seen for one in of_picture]
            params = network(np.stack([one.image for one in crops]))
            placed_m = place_hands(model, params, crops).reshape(len(rows), len(looks), -1, 3)
            points_m[rows.start : rows.stop] = [average_looks(of_picture) for of_picture in placed_m]
            found[rows.start : rows.stop] = [was_found for _, was_found in seen]
            bar.advance(task, len(rows))
    joints_m, vertices_m = points_m[:, : len(JOINTS)], points_m[:, len(JOINTS) :]
    return Predictions(joints_m, vertices_m, model.id, found if detector else None)


def predict_with_head(
    data: EvaluationSet, estimator: HandMeshEstimator, crop: CropMode, change: Change | None = None, label: str = "hands"
) -> Predictions:
    """Every picture through the estimator, which lets the head answer: from a box, as `predict` places its crops.

    Which hands are left is what the data says. The estimator turns its regions upright, so a `change` that rolls the crop changes
    only the hand network's part.

    Raises:
        UserError: as `predict`.
    """
    count, model = len(data), estimator.hand_model
    joints_m, vertices_m = np.empty((count, len(JOINTS), 3)), np.empty((count, len(model.template_m), 3))
    found = np.ones(count, bool)
    detector = HandDetector(max_hands=1) if crop == "detector" else None
    with progress_bar() as bar:
        for index in bar.track(range(count), description=label):
            image = data.picture(index)
            camera = camera_of(data.cameras()[index], image)
            keypoints_px = project(data.joints_m[index], camera)
            if change is not None:
                image = change(index, image, keypoints_px).image
            detections = detector(image, camera) if detector else []
            found[index] = crop != "detector" or bool(detections)
            box_px, landmarks_px = middle_box(camera, FIXED_SHARE / CROP_PADDING), None
            if crop == "gt":
                box_px = np.concatenate([keypoints_px.min(axis=0), keypoints_px.max(axis=0)])
            elif detections:
                box_px, landmarks_px = detections[0].box_px, detections[0].landmarks_px
            detection = Detection(box_px, not data.left()[index], 1.0, landmarks_px)
            (hand,) = estimator(image, camera, [detection], keeps_sides=True)
            joints_m[index], vertices_m[index] = hand.joints_m, hand.vertices_m
    return Predictions(joints_m, vertices_m, model.id, found if detector else None)


def crop_picture(
    data: EvaluationSet,
    index: int,
    mode: CropMode,
    looks: Sequence[Look],
    size_px: int,
    detector: Callable[[np.ndarray, Camera], list[Detection]] | None,
    change: Change | None,
) -> tuple[list[Crop], bool]:
    """One picture as the network is to see it.

    Args:
        index: of the picture in `data`.
        looks: one crop for each.
        size_px: side S of the crops.
        detector: asked with "detector" alone.

    Returns:
        The crops, and whether the detector, if asked, found a hand.
    """
    image = data.picture(index)
    camera = camera_of(data.cameras()[index], image)
    keypoints_px = project(data.joints_m[index], camera)
    changed = change(index, image, keypoints_px) if change else Changed(image)
    if changed.image.shape != image.shape:
        raise ValueError(f"expected a changed picture of shape {image.shape}, got {changed.image.shape}")

    points_px = keypoints_px if mode == "gt" else None
    if mode == "detector" and detector:
        detections = detector(changed.image, camera)
        points_px = detections[0].landmarks_px if detections else None
    if points_px is None:
        crop_camera, R_camera_crop = look_at_box(middle_box(camera), camera, size_px, padding=1.0)
    else:
        crop_camera, R_camera_crop = look_at_points(points_px, camera, size_px)

    is_left = bool(data.left()[index])
    crops = []
    for look in looks:
        R_crop_rolled = rotvec_to_rotmat(np.array([0.0, 0.0, changed.roll_rad + look.roll_rad]))
        look_camera = replace(crop_camera, fx=crop_camera.fx / look.scale, fy=crop_camera.fy / look.scale)
        crops.append(take_crop(changed.image, camera, look_camera, R_camera_crop @ R_crop_rolled, is_left))
    return crops, mode != "detector" or points_px is not None


def camera_of(K: np.ndarray, image: np.ndarray) -> Camera:
    """The camera of a picture (H, W, 3) with intrinsics (3, 3)."""
    return camera_from_matrix(K, image.shape[1], image.shape[0])


def place_hands(model: HandModel, params: Sequence[HandParams], crops: Sequence[Crop]) -> np.ndarray:
    """`placement.place_hand` of many hands at once, their points alone.

    Returns:
        (N, 21 + V, 3) joints, then vertices, in the pictures' cameras, metres.
    """
    vertices_m = skin(model, np.stack([each.rotmats for each in params]), np.stack([each.betas for each in params]))
    points_m = np.concatenate([model.joints(vertices_m), vertices_m], axis=1)
    points_m = points_m - points_m[:, ROOT : ROOT + 1]
    placed_m = np.empty(points_m.shape)
    for row, (each, crop) in enumerate(zip(params, crops, strict=True)):
        root_m = weak_perspective_to_translation(each.camera, crop.camera.fx, crop.camera.width)
        placed_m[row] = crop_to_camera(points_m[row] + root_m, crop)
    return placed_m


def average_looks(points_m: np.ndarray) -> np.ndarray:
    """One hand of several looks at it.

    Args:
        points_m: (L, P, 3) in the picture's camera, the plain look first.

    Returns:
        (P, 3): the mean after each was moved onto the plain look by the similarity, without reflection, that brings it closest.
    """
    if len(points_m) == 1:
        return points_m[0]
    return procrustes(points_m, np.broadcast_to(points_m[0], points_m.shape)).mean(axis=0)


def progress_bar() -> Progress:
    """A bar on stderr that is gone when it is full; none where stderr is a file."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _in_advance(make: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[tuple[Item, Made]]:
    """Every item with what is made of it, in order; the next few are made in a thread meanwhile."""
    waiting = deque()
    with ThreadPoolExecutor(1) as pool:
        for item in items:
            waiting.append((item, pool.submit(make, item)))
            if len(waiting) > _CHUNKS_AHEAD:
                first, future = waiting.popleft()
                yield first, future.result()
        for item, future in waiting:
            yield item, future.result()
