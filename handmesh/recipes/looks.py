"""Looks at hands whose pose or landmarks are known: regions as they occur in use, and what the networks see in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from handmesh.detection.landmarks import LandmarkAnswer, LandmarkKind, LandmarkNetwork
from handmesh.detection.regions import region_from_landmarks
from handmesh.geometry.camera import camera_from_focal, project
from handmesh.geometry.crop import camera_to_crop, crop_points, take_crop
from handmesh.geometry.rotation import rotmat_2d
from handmesh.hand_model import HandModel
from handmesh.hand_model.landmarks import landmarks_m
from handmesh.hand_model.skinning import skin
from handmesh.head import ANSWER_SIZE, answer_in_region
from handmesh.looks import LABEL_DTYPE, Looks
from handmesh.photographs import VALIDATION, PhotographReader
from handmesh.records import Camera, Crop
from handmesh.runtime import Predictor
from handmesh.skeleton import ROOT
from handmesh.synthetic.scene import LABEL_DTYPE as RENDERED_DTYPE
from handmesh.synthetic.scene import presence_of

RENDERED, PHOTOGRAPHS = 0, 1
_AT_ONCE = 16
# How far off the points that a region is made around are: a region made from the frame before, one that is badly placed, and one that
# has lost the hand. Standard deviations of the shift in sides of the hand's box, of the logarithm of the size, and of the turn in degrees.
_PLACEMENTS = ((0.03, 0.05, 4.0), (0.1, 0.15, 20.0), (0.6, 0.3, 60.0))
_CHANCES = (0.64, 0.32, 0.04)
# Of each point by itself, in sides of the box.
_POINT_NOISE = 0.015
# Looks mirrored wrongly, so that the side can be told.
_WRONG_SIDE = 0.12


@dataclass(frozen=True)
class Subject:
    """A hand in an image, or none.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        camera: of the image.
        points_px: (21, 2) where regions are made around: MediaPipe's landmarks, or where it would put them.
        label: () looks.LABEL_DTYPE with what does not depend on the look; `points_px` in the image, and pose in its camera.
        visible: (21,) bool: which of the label's points are in the image and not hidden.
    """

    image: np.ndarray
    camera: Camera
    points_px: np.ndarray
    label: np.ndarray
    visible: np.ndarray


def rendered_subjects(images: np.ndarray, labels: np.ndarray, model: HandModel, first: int, is_validation: bool) -> Iterator[Subject]:
    """Hands of a shard of rendered images (N, S, S, 3) with labels (N,) `synthetic.scene.LABEL_DTYPE`.

    Args:
        first: number of the first image.
    """
    assert labels.dtype == RENDERED_DTYPE
    size = images.shape[1]
    for index, (image, row) in enumerate(zip(images, labels, strict=True)):
        label = np.zeros((), LABEL_DTYPE)
        label["source"], label["image"], label["is_validation"], label["right"] = RENDERED, first + index, is_validation, -1
        has_hand = bool(np.any(row["keypoints_px"]))
        camera = camera_from_focal(size, size, float(row["focal_px"]) if row["focal_px"] > 0 else 2.0 * size)
        if not has_hand:
            yield Subject(np.array(image), camera, _random_points(np.random.default_rng(first + index), size), label, np.zeros(21, bool))
            continue
        rotmats, betas = row["rotmats"].astype(np.float64), row["betas"].astype(np.float64)
        joints_m = model.joints(skin(model, rotmats, betas))
        joints_m = joints_m - joints_m[ROOT] + row["root_m"]
        for name in ("rotmats", "betas", "root_m"):
            label[name] = row[name]
        label["points_px"], label["has_params"], label["right"] = row["keypoints_px"], 1, 1
        yield Subject(
            np.array(image),
            camera,
            project(landmarks_m(joints_m, rotmats[0], rotmats, is_right=True), camera),
            label,
            row["visible"].astype(bool),
        )


def photograph_subjects(reader: PhotographReader, rows: np.ndarray) -> Iterator[Subject]:
    """Hands of packed photographs by row."""
    size = reader.size_px
    for index in rows.tolist():
        row, image = reader.labels[index], reader.images(np.array([index]))[0]
        label = np.zeros((), LABEL_DTYPE)
        label["source"], label["image"], label["right"] = PHOTOGRAPHS, index, -1
        label["is_validation"] = row["split"] == VALIDATION
        if row["presence"] == 0:
            camera = camera_from_focal(size, size, 2.0 * size)
            yield Subject(image, camera, _random_points(np.random.default_rng(index), size), label, np.zeros(21, bool))
            continue
        label["points_px"], label["landmark_weight"] = row["landmarks_px"], row["weight_landmarks"]
        label["right"] = 1 if row["has_side"] else -1
        camera = camera_from_focal(size, size, float(row["focal_px"]))
        yield Subject(image, camera, row["landmarks_px"].astype(np.float64), label, np.ones(21, bool))


def look(
    subjects: Iterator[Subject],
    networks: dict[LandmarkKind, LandmarkNetwork],
    predictor: Predictor,
    looks_each: int,
    seed: int,
) -> dict[LandmarkKind, Looks]:
    """What the networks see of each subject, `looks_each` times.

    Args:
        networks: landmark networks; all of them see the same regions.
        predictor: the hand network.
        seed: decides the regions, together with the number of the image.
    """
    rows: list[tuple[Crop, Crop, np.ndarray]] = []
    seen: dict[LandmarkKind, list[LandmarkAnswer]] = {kind: [] for kind in networks}
    answers, labels = [], []

    def flush() -> None:
        regions = np.stack([region.image for region, _, _ in rows])
        for kind, network in networks.items():
            seen[kind].append(network(regions))
        for (region, crop, label), params in zip(rows, predictor(np.stack([crop.image for _, crop, _ in rows])), strict=True):
            answers.append(answer_in_region(params, crop, region))
            labels.append(label)
        rows.clear()

    for subject in subjects:
        for number in range(looks_each):
            rng = np.random.default_rng([seed, int(subject.label["source"]), int(subject.label["image"]), number])
            rows.append(_look_once(subject, rng, predictor.info.input_size_px))
            if len(rows) == _AT_ONCE:
                flush()
    if rows:
        flush()
    answer = np.array(answers, np.float16).reshape(-1, ANSWER_SIZE)
    return {
        kind: Looks(
            np.concatenate([each.pooled for each in parts]).astype(np.float16),
            np.concatenate([each.map for each in parts]).astype(np.float16),
            answer,
            np.array(labels, LABEL_DTYPE),
        )
        for kind, parts in seen.items()
    }


def _look_once(subject: Subject, rng: np.random.Generator, crop_size_px: int) -> tuple[Crop, Crop, np.ndarray]:
    """A region and a crop of one subject, both mirrored or both not, and the region's label."""
    is_wrong_side = subject.label["right"] == 1 and rng.random() < _WRONG_SIDE
    placement = _PLACEMENTS[rng.choice(len(_PLACEMENTS), p=_CHANCES)]
    points_px = _misplaced(subject.points_px, placement, rng)
    around = subject.label["points_px"].astype(np.float64) if np.any(subject.label["points_px"]) else subject.points_px
    crop = crop_points(_misplaced(around, placement, rng), subject.image, subject.camera, crop_size_px, is_wrong_side)
    region = take_crop(subject.image, subject.camera, *region_from_landmarks(points_px, subject.camera), is_wrong_side)
    return region, crop, _label_in(subject, region)


def _label_in(subject: Subject, region: Crop) -> np.ndarray:
    """The label of a look: pose, place and points in the region."""
    label, size = subject.label.copy(), region.camera.width
    label["focal_px"] = region.camera.fx
    if not np.any(label["points_px"]):
        label["presence"] = 0
        return label
    inside = subject.visible.copy()
    H_region_image = region.camera.K @ region.R_camera_crop.T @ subject.camera.inverse_K
    ahead = np.concatenate([label["points_px"], np.ones((21, 1))], axis=1) @ H_region_image.T
    points_px = ahead[:, :2] / ahead[:, 2:]
    inside &= (ahead[:, 2] > 0) & np.all((points_px > -0.5) & (points_px < size - 0.5), axis=1)
    label["presence"] = presence_of(inside)
    if region.is_mirrored:
        label["right"] = 0
    holds = label["presence"] == 1 and not region.is_mirrored
    if label["presence"] != 1:
        label["right"] = -1
    label["points_px"] = points_px
    if label["has_params"]:
        rotmats = label["rotmats"].astype(np.float64)
        rotmats[0] = region.R_camera_crop.T @ rotmats[0]
        label["rotmats"], label["root_m"] = rotmats, camera_to_crop(label["root_m"].astype(np.float64), region)
    if not holds:
        label["has_params"], label["landmark_weight"] = 0, 0
    return label


def _misplaced(points_px: np.ndarray, placement: tuple[float, float, float], rng: np.random.Generator) -> np.ndarray:
    """Points (21, 2) moved, scaled and turned together, and each a little by itself."""
    shift, size, turn_deg = placement
    side_px = np.ptp(points_px, axis=0).max()
    angle = np.radians(turn_deg) * rng.normal()
    turn = np.exp(size * rng.normal()) * rotmat_2d(angle)
    middle = points_px.mean(axis=0)
    moved = (points_px - middle) @ turn.T + middle + shift * side_px * rng.normal(size=2)
    return moved + _POINT_NOISE * side_px * rng.normal(size=points_px.shape)


def _random_points(rng: np.random.Generator, size_px: int) -> np.ndarray:
    """(21, 2) points to make a region around where there is no hand: a flat hand's outline somewhere in the image."""
    side_px = size_px * rng.uniform(0.35, 0.8)
    finger, along = np.divmod(np.arange(20), 4)
    x, y = (finger - 2) * 0.15, -0.35 - 0.15 * along
    points = np.concatenate([[[0.0, 0.0]], np.stack([x, y], axis=1)]) * side_px
    angle = rng.uniform(-np.pi, np.pi)
    return (points - points.mean(axis=0)) @ rotmat_2d(angle).T + rng.uniform(0.3, 0.7, 2) * size_px
