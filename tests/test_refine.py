"""Refining by landmarks: the reduced model and its derivatives are exact, landmarks are reached, limits and beliefs are kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from handmesh.geometry.camera import camera_from_fov, project
from handmesh.geometry.rotation import mirror_rotmat, rotmat_to_rotvec, rotvec_to_rotmat
from handmesh.hand_model.articulation import POSES, Anatomy, angles_to_rotmats, limits_deg, rotmats_to_angles
from handmesh.hand_model.skinning import HandModel, mirror_points, skin
from handmesh.records import Camera, PlacedPose
from handmesh.refine import KeypointModel, Refiner, angles_and_slopes
from handmesh.skeleton import ROOT

CAMERA = camera_from_fov(640, 480, 65)
BENT = Camera(620.0, 540.0, 350.0, 210.0, 640, 480, distortion=(-0.15, 0.04, 0.001, -0.002))
NO_OFFSETS = np.zeros((21, 3))


@pytest.fixture(scope="module")
def exact(hand_model: HandModel) -> HandModel:
    return hand_model.astype(np.float64)


@pytest.fixture(scope="module")
def refiner(exact: HandModel) -> Refiner:
    return Refiner(exact, offsets_m=NO_OFFSETS)


def _random(seed: int, turn_rad: float = 0.4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rotvec_to_rotmat(rng.normal(0, turn_rad, (16, 3))), rng.normal(0, 1, 10)


def _joints_m(model: HandModel, pose: PlacedPose) -> np.ndarray:
    """(21, 3) in the camera."""
    joints_m = model.joints(skin(model, pose.rotmats, pose.betas))
    joints_m = joints_m if pose.is_right else mirror_points(joints_m)
    return joints_m - joints_m[ROOT] + pose.root_m


def _placed(model: HandModel, name: str = "relaxed", tilt: tuple[float, float, float] = (-1.2, 0.3, 0.2)) -> PlacedPose:
    rotmats = angles_to_rotmats(Anatomy.of(model), POSES[name].angles_deg()).copy()
    rotmats[0] = rotvec_to_rotmat(np.array(tilt))
    return PlacedPose(rotmats, np.zeros(10), np.array([0.03, -0.02, 0.5]), True)


def _mistaken(model: HandModel, pose: PlacedPose, seed: int = 0) -> PlacedPose:
    """What a network could have said: fingers bent by 10 degrees more or less, the hand turned and moved."""
    rng = np.random.default_rng(seed)
    angles_deg = rotmats_to_angles(Anatomy.of(model), pose.rotmats)
    angles_deg[:, 0] += rng.normal(0, 10, 15)
    rotmats = angles_to_rotmats(Anatomy.of(model), np.clip(angles_deg, *limits_deg())).copy()
    rotmats[0] = pose.rotmats[0] @ rotvec_to_rotmat(rng.normal(0, 0.08, 3))
    return replace(pose, rotmats=rotmats, root_m=pose.root_m + (0.008, -0.006, 0.02))


def _mirrored(pose: PlacedPose) -> PlacedPose:
    rotmats = pose.rotmats
    return replace(pose, rotmats=rotmats, root_m=pose.root_m * (-1, 1, 1), is_right=not pose.is_right)


def _off_px(model: HandModel, pose: PlacedPose, landmarks_px: np.ndarray, camera: Camera = CAMERA) -> float:
    return float(np.linalg.norm(project(_joints_m(model, pose), camera) - landmarks_px, axis=1).mean())


@pytest.mark.parametrize("seed", range(3))
def test_the_reduced_model_has_the_same_keypoints(exact: HandModel, tiny_hand_model: HandModel, seed: int):
    rotmats, betas = _random(seed)
    for model in (exact, tiny_hand_model):
        keypoints_m = KeypointModel.of(model).keypoints(rotmats, betas)
        np.testing.assert_allclose(keypoints_m, model.joints(skin(model, rotmats, betas)), atol=1e-12)


def test_offsets_move_keypoints_with_their_joints(exact: HandModel):
    rotmats, betas = _random(1)
    offsets_m = np.random.default_rng(0).normal(0, 0.005, (21, 3))
    moved = KeypointModel.of(exact, offsets_m).keypoints(rotmats, betas) - KeypointModel.of(exact).keypoints(rotmats, betas)
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1), np.linalg.norm(offsets_m, axis=1), atol=1e-12)
    # The wrist's turns with the hand.
    np.testing.assert_allclose(moved[0], rotmats[0] @ offsets_m[0], atol=1e-12)


@pytest.mark.parametrize("seed", range(2))
def test_derivatives_are_those_of_small_steps(exact: HandModel, tiny_hand_model: HandModel, seed: int):
    rotmats, betas = _random(seed)
    step = 1e-6
    for model in (exact, tiny_hand_model):
        keypoints = KeypointModel.of(model)
        linear = keypoints.linearise(rotmats, betas)
        np.testing.assert_allclose(linear.points_m, keypoints.keypoints(rotmats, betas), atol=1e-14)
        for joint in range(16):
            for axis in range(3):
                turn = np.zeros((16, 3))
                turn[joint, axis] = step
                ends = [keypoints.keypoints(rotmats @ rotvec_to_rotmat(sign * turn), betas) for sign in (1, -1)]
                np.testing.assert_allclose(linear.by_rotation[:, :, joint, axis], (ends[0] - ends[1]) / (2 * step), atol=1e-8)
        for beta in range(10):
            shift = step * np.eye(10)[beta]
            ends = [keypoints.keypoints(rotmats, betas + sign * shift) for sign in (1, -1)]
            np.testing.assert_allclose(linear.by_betas[:, :, beta], (ends[0] - ends[1]) / (2 * step), atol=1e-8)


def test_slopes_of_angles_are_those_of_small_steps(exact: HandModel):
    anatomy = Anatomy.of(exact)
    rng = np.random.default_rng(0)
    angles_deg = rng.uniform((-20, -15, -15), (80, 15, 15), (15, 3))
    rotmats = angles_to_rotmats(anatomy, angles_deg)
    angles, slopes = angles_and_slopes(anatomy, rotmats)
    np.testing.assert_allclose(np.degrees(angles), angles_deg, atol=1e-9)
    frames, step = np.concatenate([np.eye(3)[None], anatomy.frames]), 1e-6
    for axis in range(3):
        turn = np.broadcast_to(step * np.eye(3)[axis], (16, 3))
        rotvecs = (frames @ turn[..., None])[..., 0]
        ends = [np.radians(rotmats_to_angles(anatomy, rotmats @ rotvec_to_rotmat(sign * rotvecs))) for sign in (1, -1)]
        np.testing.assert_allclose(slopes[:, :, axis], (ends[0] - ends[1]) / (2 * step), atol=1e-7)


@pytest.mark.parametrize("name", ["spread", "relaxed", "fist", "point", "ok"])
@pytest.mark.parametrize("camera", [CAMERA, BENT], ids=["plain", "bent"])
def test_exact_landmarks_bring_the_hand_nearer_in_the_picture_and_in_space(exact, refiner, name: str, camera: Camera):
    truth = _placed(exact, name)
    landmarks_px = project(_joints_m(exact, truth), camera)
    before_m = after_m = 0.0
    for seed in range(4):
        start = _mistaken(exact, truth, seed)
        refined = refiner(start, landmarks_px, camera)
        assert _off_px(exact, refined, landmarks_px, camera) < 0.35 * _off_px(exact, start, landmarks_px, camera)
        centred = [_joints_m(exact, pose) - pose.root_m for pose in (truth, start, refined)]
        before_m += np.linalg.norm(centred[1] - centred[0], axis=1).mean()
        after_m += np.linalg.norm(centred[2] - centred[0], axis=1).mean()
    assert after_m < 0.8 * before_m


def test_joints_stay_within_their_limits(exact: HandModel, refiner: Refiner):
    truth = _placed(exact, "spread")
    # Fingers seen farther from each other than any hand can spread them.
    landmarks_px = project(_joints_m(exact, truth), CAMERA)
    landmarks_px[[8, 12, 16, 20]] += np.array([[60, 0], [30, -40], [-40, -40], [-80, 0]])
    refined = refiner(truth, landmarks_px, CAMERA)
    assert refined is not truth
    low, high = limits_deg()
    angles_deg = rotmats_to_angles(Anatomy.of(exact), refined.rotmats)
    assert (angles_deg > low - 0.01).all() and (angles_deg < high + 0.01).all()
    # A joint that was beyond them may stay there.
    angles_deg[3, 0] = high[3, 0] + 8
    beyond = replace(truth, rotmats=np.concatenate([truth.rotmats[:1], angles_to_rotmats(Anatomy.of(exact), angles_deg)[1:]]))
    kept = refiner(beyond, project(_joints_m(exact, beyond), CAMERA), CAMERA)
    assert rotmats_to_angles(Anatomy.of(exact), kept.rotmats)[3, 0] == pytest.approx(high[3, 0] + 8, abs=0.5)


def test_one_wild_landmark_hardly_matters(exact: HandModel, refiner: Refiner):
    truth = _placed(exact)
    start = _mistaken(exact, truth)
    landmarks_px = project(_joints_m(exact, truth), CAMERA)
    wild_px = landmarks_px.copy()
    wild_px[8] += (250, 100)
    apart_m = np.linalg.norm(
        _joints_m(exact, refiner(start, wild_px, CAMERA)) - _joints_m(exact, refiner(start, landmarks_px, CAMERA)), axis=1
    )
    others = [index for index in range(21) if index not in (6, 7, 8)]
    assert apart_m[others].max() < 0.008


def test_a_left_hand_is_the_mirror_image(exact: HandModel, refiner: Refiner):
    truth = _placed(exact)
    start = _mistaken(exact, truth)
    centred = replace(CAMERA, cx=320.0)
    landmarks_px = project(_joints_m(exact, truth), centred)
    right = refiner(start, landmarks_px, centred)
    left = refiner(_mirrored(start), np.array([640.0, 0.0]) + landmarks_px * (-1, 1), centred)
    np.testing.assert_allclose(left.rotmats, right.rotmats, atol=1e-8)
    np.testing.assert_allclose(left.root_m, right.root_m * (-1, 1, 1), atol=1e-9)
    assert not left.is_right
    # A mirrored turn is no other turn of the model.
    assert np.abs(mirror_rotmat(left.rotmats[0]) - left.rotmats[0]).max() > 0.1


def test_a_held_shape_is_held(exact: HandModel, refiner: Refiner):
    truth = replace(_placed(exact), betas=np.linspace(-1, 1, 10))
    landmarks_px = project(_joints_m(exact, truth), CAMERA)
    start = replace(_mistaken(exact, truth), betas=np.zeros(10))
    assert (refiner(start, landmarks_px, CAMERA, holds_shape=True).betas == 0).all()
    assert np.abs(refiner(start, landmarks_px, CAMERA).betas).max() > 0.05


def test_landmarks_that_agree_change_nothing(exact: HandModel, refiner: Refiner):
    pose = _placed(exact)
    refined = refiner(pose, project(_joints_m(exact, pose), CAMERA), CAMERA)
    turns = rotmat_to_rotvec(np.swapaxes(pose.rotmats, -1, -2) @ refined.rotmats)
    assert np.abs(turns).max() < 1e-6 and np.abs(refined.root_m - pose.root_m).max() < 1e-8


@pytest.mark.parametrize("landmarks_px", [np.full((21, 2), 300.0), np.full((21, 2), 1e7), np.full((21, 2), np.nan)])
def test_absurd_landmarks_leave_a_hand(exact: HandModel, refiner: Refiner, landmarks_px: np.ndarray):
    pose = _placed(exact)
    refined = refiner(pose, landmarks_px, CAMERA)
    assert np.isfinite(refined.rotmats).all() and np.isfinite(refined.root_m).all() and np.isfinite(refined.betas).all()
    assert 0.2 < refined.root_m[2] < 1.2


def test_precision_is_kept(hand_model: HandModel):
    pose = _placed(hand_model)
    single = replace(pose, rotmats=pose.rotmats.astype(np.float32), betas=pose.betas.astype(np.float32))
    landmarks_px = project(_joints_m(hand_model, pose), CAMERA) + 5
    refined = Refiner(hand_model)(single, landmarks_px, CAMERA)
    assert refined.rotmats.dtype == refined.betas.dtype == np.float32
