"""What needs no network of ours: nothing, the mean hand, and MediaPipe's own 3D."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from generated_freihand import mano_shaped_model

from handmesh.detection import HandDetector
from handmesh.evaluation.baselines import MeanHand, place_by_landmarks, predict_baseline
from handmesh.evaluation.predict import LOOKS, camera_of, crop_picture
from handmesh.evaluation.records import EvaluationSet
from handmesh.geometry.camera import camera_from_fov, project, unproject
from handmesh.geometry.crop import CROP_PADDING, camera_to_crop
from handmesh.hand_model.assets import ASSETS
from handmesh.hand_model.skinning import mirror_points
from handmesh.skeleton import BONES, JOINTS

WRIST, INDEX, MIDDLE, LITTLE = (JOINTS.index(name) for name in ("wrist", "index_mcp", "middle_mcp", "little_mcp"))


def a_set(is_left: np.ndarray, seed: int = 0) -> EvaluationSet:
    """Points for hands, before nothing."""
    rng, count = np.random.default_rng(seed), len(is_left)
    joints_m = rng.uniform(-0.07, 0.07, (count, 21, 3)) + rng.uniform((-0.05, -0.05, 0.5), (0.05, 0.05, 0.8), (count, 1, 3))
    K = np.tile(np.array([[300.0, 0, 99.5], [0, 310, 79.5], [0, 0, 1]]), (count, 1, 1))
    return EvaluationSet("points", joints_m, K, lambda index: np.zeros((160, 200, 3), np.uint8), is_left=is_left)


def test_zero_is_zero(hand_model):
    data = a_set(np.zeros(3, bool))
    nothing = predict_baseline("zero", data, hand_model, "gt")
    assert nothing.joints_m.shape == (3, 21, 3) and not nothing.joints_m.any()
    assert nothing.vertices_m is None and nothing.topology is None
    with_mesh = replace(data, vertices_m=np.ones((3, 5, 3)), topology="five")
    nothing = predict_baseline("zero", with_mesh, hand_model, "gt")
    assert nothing.vertices_m is not None and nothing.vertices_m.shape == (3, 5, 3) and not nothing.vertices_m.any()
    assert nothing.topology == "five"


@pytest.mark.parametrize("crop", ["gt", "centre"])
@pytest.mark.parametrize("is_mano", [False, True])
def test_the_mean_hand_fills_the_middle_of_its_crop(hand_model, crop, is_mano):
    model = mano_shaped_model() if is_mano else hand_model
    data = a_set(np.array([False, True, False, True]))
    predictions = predict_baseline("mean", data, model, crop)
    assert predictions.vertices_m is not None and predictions.topology == model.id
    for row, is_left in enumerate(data.left()):
        (seen,), _ = crop_picture(data, row, crop, LOOKS["none"], 100, None, None)
        # As the network sees it, a left hand is a right one.
        joints_m = camera_to_crop(predictions.joints_m[row], seen)
        keypoints_px = project(joints_m, seen.camera)
        low, high = keypoints_px.min(axis=0), keypoints_px.max(axis=0)
        assert (high - low).max() == pytest.approx(100 / CROP_PADDING, rel=0.1)
        assert np.abs((low + high) / 2 - 49.5).max() < 5
        assert keypoints_px[MIDDLE, 1] < keypoints_px[WRIST, 1] - 30
        assert keypoints_px[INDEX, 0] > keypoints_px[LITTLE, 0] + 10
        # It is the palm that is seen, of a right or of a left hand.
        middle, index = predictions.joints_m[row, [MIDDLE, INDEX]] - predictions.joints_m[row, WRIST]
        assert np.sign(np.cross(index, middle)[2]) == (1 if is_left else -1)


def test_the_mean_hand_is_the_same_hand_everywhere(hand_model):
    data = a_set(np.array([False, True, False]))
    joints_m = predict_baseline("mean", data, hand_model, "gt").joints_m
    lengths_m = np.linalg.norm(np.diff(joints_m[:, np.array(BONES)], axis=2), axis=-1)
    assert np.allclose(lengths_m, lengths_m[:1], atol=1e-6) and lengths_m.min() > 0.01 and lengths_m.max() < 0.12
    # Nothing of the picture counts.
    one, other = MeanHand(hand_model)(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8))
    assert one is other


def test_left_mean_hands_are_mirrored_right_ones(hand_model):
    right = a_set(np.zeros(3, bool))
    left = replace(right, joints_m=mirror_points(right.joints_m), is_left=np.ones(3, bool))
    one, other = (predict_baseline("mean", data, hand_model, "gt") for data in (right, left))
    assert np.allclose(mirror_points(one.joints_m), other.joints_m, atol=1e-6)
    assert one.vertices_m is not None and other.vertices_m is not None
    assert np.allclose(mirror_points(one.vertices_m), other.vertices_m, atol=1e-6)


def test_points_are_placed_where_they_were_seen():
    rng = np.random.default_rng(0)
    camera = camera_from_fov(640, 480, 60)
    points_m, moved_m = rng.uniform(-0.1, 0.1, (21, 3)), np.array([0.1, -0.05, 0.6])
    rays = unproject(project(points_m + moved_m, camera), camera)
    assert np.allclose(place_by_landmarks(points_m, rays), moved_m, atol=1e-12)
    noisy = rays + rng.normal(0, 1e-3, rays.shape) * (1, 1, 0)
    assert np.linalg.norm(place_by_landmarks(points_m, noisy) - moved_m) < 0.02


@pytest.fixture(scope="module")
def clip_frame() -> np.ndarray:
    video = cv2.VideoCapture(str(ASSETS / "demo_clip.mp4"))
    video.set(cv2.CAP_PROP_POS_FRAMES, 60)
    return cv2.cvtColor(video.read()[1], cv2.COLOR_BGR2RGB)


def test_mediapipes_hand_is_seen_where_its_landmarks_are(clip_frame, hand_model):
    height, width = clip_frame.shape[:2]
    camera = camera_from_fov(width, height, 60)
    blank = np.full_like(clip_frame, 90)
    joints_m = np.random.default_rng(0).uniform(-0.05, 0.05, (3, 21, 3)) + (0, 0, 0.6)
    data = EvaluationSet(
        "clip",
        joints_m,
        np.tile(camera.K, (3, 1, 1)),
        lambda index: (blank, clip_frame, blank)[index],
        is_left=np.array([False, False, True]),
    )
    predictions = predict_baseline("mediapipe", data, hand_model, "detector")
    assert predictions.vertices_m is None and predictions.topology is None
    assert predictions.found is not None and predictions.found.tolist() == [False, True, False]

    (detection,) = HandDetector(max_hands=1)(clip_frame, camera)
    assert detection.landmarks_px is not None and detection.world_landmarks_m is not None
    side_px = (detection.box_px[2:] - detection.box_px[:2]).max()
    found_m = predictions.joints_m[1]
    assert np.linalg.norm(project(found_m, camera_of(camera.K, clip_frame)) - detection.landmarks_px, axis=1).mean() < 0.05 * side_px
    assert np.allclose(found_m - found_m[0], detection.world_landmarks_m - detection.world_landmarks_m[0])
    assert found_m[:, 2].min() > 0.2 and found_m[:, 2].max() < 2 and 0.1 < np.linalg.norm(np.ptp(found_m, axis=0)) < 0.3
    # What was not found is the mean hand in the middle, of the side that the data says.
    mean = predict_baseline("mean", data, hand_model, "centre")
    assert np.allclose(predictions.joints_m[[0, 2]], mean.joints_m[[0, 2]])
    assert not np.allclose(mean.joints_m[0], mean.joints_m[2])


def test_world_landmarks_turned_in_depth_fit_worse(clip_frame):
    """z grows away from the camera, as here: the other sign does not fit the picture as well."""
    camera = camera_from_fov(clip_frame.shape[1], clip_frame.shape[0], 60)
    (detection,) = HandDetector(max_hands=1)(clip_frame, camera)
    assert detection.landmarks_px is not None and detection.world_landmarks_m is not None
    rays = unproject(detection.landmarks_px, camera)
    errors_px = []
    for sign in (1, -1):
        points_m = detection.world_landmarks_m * (1, 1, sign)
        seen_px = project(points_m + place_by_landmarks(points_m, rays), camera)
        errors_px.append(np.linalg.norm(seen_px - detection.landmarks_px, axis=1).mean())
    assert errors_px[0] < 0.8 * errors_px[1]
