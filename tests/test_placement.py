"""From crops to cameras and back; true sizes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from handmesh.geometry.camera import camera_from_fov, project, unproject
from handmesh.geometry.crop import look_at_points
from handmesh.geometry.rotation import rotvec_to_rotmat
from handmesh.hand_model import load_hand_model
from handmesh.hand_model.landmarks import LANDMARK_OFFSETS_M
from handmesh.placement import match_keypoints, mean_pose, params_to_points, params_to_pose, place_hand, pose_hand
from handmesh.records import Camera, Crop, Detection, HandParams, PlacedPose
from handmesh.skeleton import JOINTS, MANO_JOINTS, MANO_PARENTS, ROOT, WRIST
from handmesh.tracking import Track

CAMERAS = [camera_from_fov(640, 480, 65), Camera(500, 620, 280.5, 260, 640, 480, (0.1, -0.05, 0.001, 0.002))]
MIDDLE_TIP = JOINTS.index("middle_tip")


@pytest.fixture(scope="module")
def model():
    return load_hand_model("open").astype(np.float64)


def _world(camera: Camera, is_right: bool, seed: int = 0) -> tuple[HandParams, Crop, Track]:
    rng = np.random.default_rng(seed)
    points_px = rng.uniform((380, 100), (600, 300), (21, 2))
    crop_camera, R_camera_crop = look_at_points(points_px, camera, 96)
    crop = Crop(np.zeros((96, 96, 3), np.uint8), crop_camera, R_camera_crop, not is_right)
    rotmats = rotvec_to_rotmat(rng.normal(0, 0.5, (16, 3)))
    params = HandParams(rotmats, rng.normal(size=10), np.array([7.0, 0.01, -0.02]), 0.9, 2.0)
    return params, crop, Track(3, Detection(np.array([380.0, 100, 600, 300]), is_right, 0.8, points_px), 0.0, 1.0 if is_right else -1.0)


@pytest.mark.parametrize("camera", CAMERAS)
@pytest.mark.parametrize("is_right", [True, False])
def test_a_pose_in_the_camera_is_what_the_network_saw_in_the_crop(model, camera, is_right):
    params, crop, track = _world(camera, is_right)
    pose = params_to_pose(params, crop)
    hand = pose_hand(model, pose, params, crop, camera, track)
    assert hand.is_right == pose.is_right == is_right and hand.track_id == 3
    for name in ("rotmats", "betas", "camera"):
        assert np.allclose(getattr(hand.params, name), getattr(params, name), atol=1e-9)
    assert np.allclose(hand.joints_m[ROOT], pose.root_m) and np.allclose(hand.T_camera_wrist[:3, 3], hand.joints_m[WRIST])
    assert np.linalg.det(hand.T_camera_wrist[:3, :3]) == pytest.approx(1)
    # The crop camera and the full one see the root along the same ray.
    ray = unproject(project(hand.joints_m[ROOT], camera), camera)
    assert np.allclose(np.cross(ray, hand.joints_m[ROOT]), 0, atol=1e-6)


@pytest.mark.parametrize("is_right", [True, False])
def test_a_larger_hand_farther_away_looks_the_same(model, is_right):
    params, crop, track = _world(CAMERAS[1], is_right)
    plain = place_hand(model, params, crop, CAMERAS[1], track)
    large = pose_hand(model, params_to_pose(params, crop), params, crop, CAMERAS[1], track, scale=1.25)
    assert plain.scale == 1 and large.scale == 1.25
    assert np.allclose(large.keypoints_px, plain.keypoints_px, atol=1e-6)
    for name in ("vertices_m", "joints_m"):
        assert np.allclose(getattr(large, name), 1.25 * getattr(plain, name))
    assert np.allclose(large.T_camera_wrist[:3, 3], 1.25 * plain.T_camera_wrist[:3, 3])
    assert np.allclose(large.T_camera_wrist[:3, :3], plain.T_camera_wrist[:3, :3])


@pytest.mark.parametrize("camera", CAMERAS)
@pytest.mark.parametrize("is_right", [True, False])
def test_a_hand_is_turned_and_moved_to_its_keypoints(model, camera, is_right):
    params, crop, track = _world(camera, is_right)
    pose = params_to_pose(params, crop)
    seen_px = pose_hand(model, pose, params, crop, camera, track).keypoints_px
    same = match_keypoints(model, pose, seen_px, camera)
    assert np.allclose(same.rotmats, pose.rotmats, atol=1e-6) and np.allclose(same.root_m, pose.root_m, atol=1e-6)
    # A turn and a shift are undone, and other bones are placed better.
    turned = replace(pose, rotmats=pose.rotmats.copy(), root_m=pose.root_m + (0.005, -0.004, 0.01))
    turned.rotmats[0] = rotvec_to_rotmat(np.array([0.04, -0.05, 0.06])) @ pose.rotmats[0]
    for other, at_most in ((turned, 0.15), (replace(pose, betas=pose.betas + 0.5), 0.8)):
        off_px = [
            np.linalg.norm(pose_hand(model, each, params, crop, camera, track).keypoints_px - seen_px, axis=1).mean()
            for each in (other, match_keypoints(model, other, seen_px, camera))
        ]
        assert off_px[1] < at_most * off_px[0]


@pytest.mark.parametrize("camera", CAMERAS)
@pytest.mark.parametrize("is_right", [True, False])
def test_landmarks_are_a_function_of_the_returned_hand_alone(model, camera, is_right):
    params, crop, track = _world(camera, is_right, seed=3)
    hand = pose_hand(model, params_to_pose(params, crop), params, crop, camera, track, scale=1.25)
    # Of the right-hand model: a left hand is its mirror image.
    mirror = np.diag([1.0 if is_right else -1.0, 1.0, 1.0])
    world = [mirror @ hand.T_camera_wrist[:3, :3] @ mirror]
    for joint in range(1, 16):
        world.append(world[MANO_PARENTS[joint]] @ hand.params.rotmats[joint])
    carriers = [MANO_JOINTS.index(name if name in MANO_JOINTS else name.replace("tip", last(name))) for name in JOINTS]
    moved_m = [
        joint_m + hand.scale * mirror @ world[carrier] @ offset_m
        for joint_m, carrier, offset_m in zip(hand.joints_m, carriers, LANDMARK_OFFSETS_M, strict=True)
    ]
    assert np.abs(project(np.array(moved_m), camera) - hand.landmarks_px).max() < 0.01
    assert np.linalg.norm(hand.landmarks_px - hand.keypoints_px, axis=1).max() > 1


@pytest.mark.parametrize("is_right", [True, False])
def test_points_without_a_mesh_are_the_hands(model, is_right):
    params, crop, track = _world(CAMERAS[1], is_right, seed=5)
    hand = place_hand(model, params, crop, CAMERAS[1], track)
    for of in (model, model.for_joints):
        keypoints_px, landmarks_px = params_to_points(of, params, crop, CAMERAS[1])
        assert np.allclose(keypoints_px, hand.keypoints_px, atol=1e-6) and np.allclose(landmarks_px, hand.landmarks_px, atol=1e-6)


def last(tip: str) -> str:
    return "ip" if tip.startswith("thumb") else "dip"


def test_lengths_and_extents_are_those_of_the_flat_hand(model):
    from handmesh.hand_model.skinning import skin

    rng = np.random.default_rng(1)
    flat = np.tile(np.eye(3), (16, 1, 1))
    for betas in (np.zeros(10), *rng.normal(size=(3, 10))):
        joints_m = model.joints(skin(model, flat, betas))
        assert model.length_m(betas) == pytest.approx(np.linalg.norm(joints_m[MIDDLE_TIP] - joints_m[WRIST]))
        rest_m = model.rest_joints_m + model.joint_shape_dirs @ betas
        assert model.extent_m(betas) == pytest.approx(np.sqrt(((rest_m - rest_m.mean(axis=0)) ** 2).sum(axis=1).mean()), rel=1e-5)
    larger = np.eye(10)[model.beta_names.index("size")]
    assert model.extent_m(larger) / model.extent_m(0 * larger) == pytest.approx(
        model.length_m(larger) / model.length_m(0 * larger), rel=0.02
    )


def test_the_mean_of_poses_lies_between_them_where_weights_say():
    axis = np.random.default_rng(1).normal(size=(16, 3))
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    poses = [PlacedPose(rotvec_to_rotmat(angle * axis), np.full(10, angle), np.array([0, angle, 1.0]), False) for angle in (-0.1, 0.3)]
    middle, nearer = (mean_pose(poses, np.array(weights)) for weights in ([1, 1], [1, 3]))
    for pose, angle in ((middle, 0.1), (nearer, 0.2)):
        # The mean of matrices is that of angles but for their third powers.
        assert np.allclose(pose.rotmats, rotvec_to_rotmat(angle * axis), atol=2e-3)
        assert np.allclose(pose.rotmats @ pose.rotmats.swapaxes(1, 2), np.eye(3))
        assert np.allclose(pose.betas, angle) and np.allclose(pose.root_m, (0, angle, 1)) and not pose.is_right
