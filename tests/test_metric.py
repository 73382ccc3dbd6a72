"""Metres: a rendered hand of known place through cameras of all kinds, and a known length that settles the scale."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from handmesh.estimator import HandMeshEstimator
from handmesh.geometry.camera import camera_from_fov, project, unproject
from handmesh.records import Camera, Detection
from handmesh.skeleton import ROOT, WRIST
from handmesh.synthetic.clip import CLIP_FOV_DEG, Pose, script_frames, true_joints_m
from handmesh.synthetic.scripts import still_hand
from handmesh.synthetic.surface import HandSurface

SIZE = (640, 480)
DRAWN_BY = camera_from_fov(*SIZE, CLIP_FOV_DEG)
# fx and fy differ by a quarter, the principal point is far from the middle, straight lines are bent.
CALIBRATED = Camera(560.0, 450.0, 350.0, 210.0, *SIZE, distortion=(-0.18, 0.05, 0.002, -0.001, 0.0))


@pytest.fixture(scope="module")
def scene(hand_model):
    """Two hands at half a metre: a picture by `DRAWN_BY`, and its poses."""
    surface = HandSurface.of(hand_model)
    ((right,),) = still_hand(surface, 1)
    poses = [replace(right, place_m=np.array([-0.11, 0.02, 0.5])), Pose(right.rotmats, np.array([0.11, 0.0, 0.56]), False)]
    return next(script_frames(surface, [poses], 0, SIZE)), poses


def _seen_by(camera: Camera, picture: np.ndarray) -> np.ndarray:
    """What another camera at the same place would have taken."""
    pixels = np.stack(np.meshgrid(np.arange(camera.width), np.arange(camera.height)), axis=-1)
    sources = project(unproject(pixels, camera), DRAWN_BY).astype(np.float32)
    return cv2.remap(picture, sources[..., 0], sources[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _hands(hand_model, picture, taken_by, camera, poses, hand_length_mm=None):
    """Right hand and left hand as estimated for `camera`, found where they are in what `taken_by` took."""
    detections = []
    for pose in poses:
        landmarks_px = project(true_joints_m(hand_model, pose), taken_by)
        box_px = np.concatenate([landmarks_px.min(axis=0), landmarks_px.max(axis=0)])
        detections.append(Detection(box_px=box_px, score=1.0, is_right=pose.is_right, landmarks_px=landmarks_px))
    with HandMeshEstimator(hand_model=hand_model, hand_length_mm=hand_length_mm) as estimator:
        hands = {hand.is_right: hand for hand in estimator(picture, camera, detections)}
    return hands[True], hands[False]


def _off(hand_model, hand, pose) -> float:
    """How far the hand's root is from the truth, over its distance."""
    truth_m = true_joints_m(hand_model, pose)[ROOT]
    return float(np.linalg.norm(hand.joints_m[ROOT] - truth_m) / np.linalg.norm(truth_m))


def _gap_m(hands) -> float:
    return float(np.linalg.norm(hands[0].joints_m[WRIST] - hands[1].joints_m[WRIST]))


def test_any_calibrated_camera_puts_both_hands_where_they_are(hand_model, scene):
    picture, poses = scene
    bent = _seen_by(CALIBRATED, picture)
    plain = _hands(hand_model, picture, DRAWN_BY, DRAWN_BY, poses)
    calibrated = _hands(hand_model, bent, CALIBRATED, CALIBRATED, poses)
    for one, other, pose in zip(plain, calibrated, poses, strict=True):
        assert _off(hand_model, one, pose) < 0.05 and _off(hand_model, other, pose) < 0.05
        assert np.linalg.norm(one.joints_m[ROOT] - other.joints_m[ROOT]) < 0.01
        assert np.abs(project(other.joints_m, CALIBRATED) - other.keypoints_px).max() < 1e-3
    # One space: the way from hand to hand is that of the scene.
    true_gap_m = np.linalg.norm(np.subtract(*(true_joints_m(hand_model, pose)[WRIST] for pose in poses)))
    assert _gap_m(plain) == pytest.approx(true_gap_m, rel=0.03) and _gap_m(calibrated) == pytest.approx(true_gap_m, rel=0.03)
    # All of that is the calibration's doing.
    mistaken = _hands(hand_model, bent, CALIBRATED, DRAWN_BY, poses)
    assert min(_off(hand_model, hand, pose) for hand, pose in zip(mistaken, poses, strict=True)) > 0.06
    assert _gap_m(mistaken) > 1.1 * true_gap_m


def test_the_length_of_the_hand_settles_the_scale(hand_model, scene):
    picture, poses = scene
    length_mm = 1e3 * hand_model.length_m(np.zeros(10))
    true, larger = (_hands(hand_model, picture, DRAWN_BY, DRAWN_BY, poses, share * length_mm) for share in (1.0, 1.25))
    for one, other, pose in zip(true, larger, poses, strict=True):
        assert _off(hand_model, one, pose) < 0.05
        # The same picture shows a larger hand farther away.
        np.testing.assert_allclose(other.vertices_m, 1.25 * one.vertices_m, rtol=1e-5)
        np.testing.assert_allclose(other.keypoints_px, one.keypoints_px, atol=1e-3)
        assert other.scale == pytest.approx(1.25 * one.scale)
        np.testing.assert_allclose(other.T_camera_wrist[:3, 3], other.joints_m[WRIST], rtol=1e-5)
    assert _gap_m(larger) == pytest.approx(1.25 * _gap_m(true), rel=1e-5)
