"""Hands that no network of ours predicted, so that a reader sees what a number means."""

from __future__ import annotations

from typing import Literal

import numpy as np

from handmesh.detection import HandDetector
from handmesh.evaluation.predict import camera_of, predict, progress_bar
from handmesh.evaluation.records import CropMode, EvaluationSet, Predictions
from handmesh.geometry.camera import unproject
from handmesh.geometry.crop import CROP_PADDING
from handmesh.hand_model import HandModel
from handmesh.hand_model.skinning import skin
from handmesh.records import HandParams
from handmesh.runtime import NetworkInfo
from handmesh.skeleton import ROOT

Baseline = Literal["mean", "zero", "mediapipe"]

# Columns are where the model's axes point in the crop: fingers (-x) up, palm (-y) to the camera, and so a right thumb (+z) to the right.
_R_CROP_FACING = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
# The mean hand does not look at its crop.
_UNSEEN_SIZE_PX = 32


def predict_baseline(name: Baseline, data: EvaluationSet, model: HandModel, crop: CropMode) -> Predictions:
    """What a method without any training on such data gives.

    Args:
        name: "zero": every point in the camera's centre, with as many vertices as the data has.
            "mean": the relaxed hand of mean shape, palm to the camera and fingers up in the crop, as `MeanHand`.
            "mediapipe": the 21 world landmarks of MediaPipe's networks, joints alone, whatever side they believe the hand is;
            moved to where `place_by_landmarks` says. Where it finds none: joints of "mean", and `found` says no.
        data: pictures with K. Which hands are left is what the data says.
        model: the mean hand's; not used by "zero".
        crop: where the mean hand is put; not used by "zero".

    Raises:
        UserError: no pictures or cameras, a picture that cannot be read, or no detector to be had.
    """
    if name == "zero":
        vertices_m = None if data.vertices_m is None else np.zeros_like(data.vertices_m)
        return Predictions(np.zeros_like(data.joints_m), vertices_m, data.topology)
    if name == "mean":
        return predict(data, MeanHand(model), model, crop, label="mean hand")
    return _predict_mediapipe(data, model, crop)


class MeanHand:
    """A `predict.CropNetwork` that says the same of every crop: a relaxed hand in its middle.

    The hand's joints fill 1 / CROP_PADDING of the crop's side, as they do in crops around keypoints; to a few per cent, since a
    network does not know its crop's focal length and the hand is not flat.

    Args:
        model: posed by its mean pose and mean shape; in MANO's rest frame, fingers -x and palm -y.
    """

    def __init__(self, model: HandModel) -> None:
        self.info = NetworkInfo(model.id, _UNSEEN_SIZE_PX, "mean hand", {})
        rotmats = model.mean_rotmats().astype(np.float64)
        rotmats[0] = _R_CROP_FACING
        betas = np.zeros(10)
        self._params = HandParams(rotmats, betas, _camera_around(model, rotmats, betas), 1.0, 1.0)

    def __call__(self, crops: np.ndarray, /) -> list[HandParams]:
        """The same parameters N times for (N, S, S, 3)."""
        return [self._params] * len(crops)


def _camera_around(model: HandModel, rotmats: np.ndarray, betas: np.ndarray) -> np.ndarray:
    """(3,) weak-perspective (s, tx, ty) that puts the middle of the joints' box in the middle of the crop."""
    joints_m = model.joints(skin(model, rotmats, betas))
    joints_m = joints_m - joints_m[ROOT]
    low_m, high_m = joints_m[:, :2].min(axis=0), joints_m[:, :2].max(axis=0)
    # s is in half-crops per metre: the larger side is 2 / CROP_PADDING of them.
    scale = 2 / (CROP_PADDING * (high_m - low_m).max())
    return np.array([scale, *(-(low_m + high_m) / 2)])


def place_by_landmarks(points_m: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """The translation that makes points appear where they were seen, by linear least squares.

    A point (X, Y, Z) moved by (x, y, z) is seen along the ray (a, b, 1) where X + x = a (Z + z) and Y + y = b (Z + z). Both are
    linear in the translation: x - a z = a Z - X and y - b z = b Z - Y, two equations a point.

    Args:
        points_m: (P, 3) about any origin, P >= 2, in axes parallel to the camera's.
        rays: (P, 3) with z = 1, where each was seen, as `geometry.camera.unproject` gives them.

    Returns:
        (3,) metres.
    """
    one, zero = np.ones(len(rays)), np.zeros(len(rays))
    a, b = rays[:, 0], rays[:, 1]
    left = np.concatenate([np.stack([one, zero, -a], axis=1), np.stack([zero, one, -b], axis=1)])
    right = np.concatenate([a * points_m[:, 2] - points_m[:, 0], b * points_m[:, 2] - points_m[:, 1]])
    return np.linalg.lstsq(left, right, rcond=None)[0]


def _predict_mediapipe(data: EvaluationSet, model: HandModel, crop: CropMode) -> Predictions:
    joints_m, found = np.empty_like(data.joints_m), np.zeros(len(data), bool)
    detector = HandDetector(max_hands=1)
    with progress_bar() as bar:
        for index in bar.track(range(len(data)), description="MediaPipe"):
            image = data.picture(index)
            camera = camera_of(data.cameras()[index], image)
            detections = detector(image, camera)
            if not detections:
                continue
            landmarks_px, points_m = detections[0].landmarks_px, detections[0].world_landmarks_m
            assert landmarks_px is not None and points_m is not None
            joints_m[index] = points_m + place_by_landmarks(points_m, unproject(landmarks_px, camera))
            found[index] = True
    if not found.all():
        missed = data.take(np.flatnonzero(~found))
        joints_m[~found] = predict_baseline("mean", missed, model, "centre" if crop == "detector" else crop).joints_m
    return Predictions(joints_m, found=found)
