"""Fitting a hand model to joints: its own, another model's, moved, noisy, and wrong ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from handmesh.errors import UserError
from handmesh.geometry.rotation import rotmat_to_rotvec, rotvec_to_rotmat
from handmesh.hand_model import HandModel
from handmesh.hand_model.fit import convert_params, fit_pose
from handmesh.hand_model.skinning import mirror_points, skin
from handmesh.records import HandParams
from handmesh.skeleton import BONES, JOINTS, MANO_JOINTS


def random_hands(model: HandModel, count: int, seed: int = 0, most_deg: float = 60.0) -> tuple[np.ndarray, np.ndarray]:
    """Rotations up to `most_deg` from the mean pose at each joint, about any axis; any global turn; any betas."""
    rng = np.random.default_rng(seed)
    axes = rng.normal(0, 1, (count, 16, 3))
    axes /= np.linalg.norm(axes, axis=-1, keepdims=True)
    rotmats = model.mean_rotmats() @ rotvec_to_rotmat(axes * np.radians(rng.uniform(0, most_deg, (count, 16, 1))))
    rotmats[:, 0] = rotvec_to_rotmat(axes[:, 0] * rng.uniform(0, np.pi, (count, 1)))
    return rotmats, rng.normal(0, 1, (count, 10))


def joints_of(model: HandModel, rotmats: np.ndarray, betas: np.ndarray) -> np.ndarray:
    return model.joints(skin(model, rotmats, betas))


def stretched(model: HandModel) -> HandModel:
    """Another person's proportions in another model's mesh: longer, narrower, thicker."""
    return replace(model, id="stretched", template_m=model.template_m * np.array([1.1, 1.05, 0.92], model.template_m.dtype))


def shrunk(model: HandModel) -> HandModel:
    """The same proportions, smaller than betas like to say."""
    scale = np.float32(0.8)
    return replace(
        model, template_m=scale * model.template_m, shape_dirs=scale * model.shape_dirs, pose_dirs=scale * model.pose_dirs, id="shrunk"
    )


def distance_mm(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return 1e3 * np.linalg.norm(a - b, axis=-1)


def test_a_models_own_joints_are_reached(hand_model: HandModel) -> None:
    rotmats, betas = random_hands(hand_model, 24)
    joints_m = joints_of(hand_model, rotmats, betas) + np.array([0.3, -0.2, 0.8])
    fit = fit_pose(hand_model, joints_m)
    assert fit.mean_mm.max() < 0.5, f"worst hand is {fit.mean_mm.max():.2f} mm off on average"
    assert fit.max_mm.max() < 2.0
    # The residual is what anyone would measure from the parameters, and they are rotations.
    measured_m = joints_of(hand_model, fit.rotmats, fit.betas) + fit.transl[:, None]
    np.testing.assert_allclose(distance_mm(measured_m, joints_m), fit.residual_mm, atol=1e-3)
    np.testing.assert_allclose(fit.rotmats @ np.swapaxes(fit.rotmats, -1, -2), np.broadcast_to(np.eye(3), fit.rotmats.shape), atol=1e-9)
    assert np.linalg.det(fit.rotmats).min() > 0.999


def test_random_arrays_are_fitted_too(mano_sized_model: HandModel) -> None:
    # Nothing of a hand's anatomy is relied on; and every joint of this model depends on all vertices.
    rotmats, betas = random_hands(mano_sized_model, 4, most_deg=20)
    fit = fit_pose(mano_sized_model, joints_of(mano_sized_model, rotmats, 0.3 * betas))
    measured_m = joints_of(mano_sized_model, fit.rotmats, fit.betas) + fit.transl[:, None]
    np.testing.assert_allclose(distance_mm(measured_m, joints_of(mano_sized_model, rotmats, 0.3 * betas)), fit.residual_mm, atol=1e-6)
    assert fit.mean_mm.max() < 0.5


def test_the_relaxed_hand_is_its_own_fit(hand_model: HandModel) -> None:
    mean = hand_model.mean_rotmats()
    fit = fit_pose(hand_model, joints_of(hand_model, mean, np.zeros(10, np.float32)))
    angle_deg = np.degrees(np.linalg.norm(rotmat_to_rotvec(np.swapaxes(mean, -1, -2) @ fit.rotmats), axis=-1))
    assert angle_deg.max() < 0.05
    assert np.abs(fit.betas).max() < 1e-2
    assert fit.max_mm < 0.01
    np.testing.assert_allclose(fit.transl, 0, atol=1e-5)


def test_fingers_do_not_twist_without_need(hand_model: HandModel) -> None:
    # A hand that only bends: a straight finger's turn about itself is not in its joints, and the prior must settle it.
    rotmats, betas = random_hands(hand_model, 16, most_deg=0)
    fit = fit_pose(hand_model, joints_of(hand_model, rotmats, betas))
    angle_deg = np.degrees(np.linalg.norm(rotmat_to_rotvec(np.swapaxes(rotmats, -1, -2) @ fit.rotmats), axis=-1))
    assert angle_deg[:, 1:].max() < 15, f"{MANO_JOINTS[1 + angle_deg[:, 1:].max(axis=0).argmax()]}: {angle_deg[:, 1:].max():.0f} degrees"


def test_the_fit_is_a_minimum(hand_model: HandModel) -> None:
    # No small move of the hand brings the joints nearer: closed-form derivatives, told by trying.
    rotmats, betas = random_hands(hand_model, 1, seed=3)
    joints_m = joints_of(hand_model, rotmats, betas)[0] + np.random.default_rng(1).normal(0, 2e-3, (21, 3))
    model = hand_model.astype(np.float64)
    fit = fit_pose(model, joints_m, joint_sd_mm=0.05)

    def squares(rotmats: np.ndarray, betas: np.ndarray, transl: np.ndarray) -> float:
        return float(np.sum((joints_of(model, rotmats, betas) + transl - joints_m) ** 2))

    least = squares(fit.rotmats, fit.betas, fit.transl)
    rng = np.random.default_rng(2)
    for _ in range(40):
        turned = fit.rotmats @ rotvec_to_rotmat(rng.normal(0, 0.02, (16, 3)))
        moved = squares(turned, fit.betas + rng.normal(0, 0.1, 10), fit.transl + rng.normal(0, 1e-3, 3))
        assert moved > least * 0.99


@pytest.mark.parametrize("other", [stretched, shrunk])
@pytest.mark.parametrize("fit_shape", [True, False])
def test_parameters_of_one_model_become_anothers(hand_model: HandModel, other: Callable[[HandModel], HandModel], fit_shape: bool) -> None:
    target = other(hand_model)
    rotmats, betas = random_hands(hand_model, 1, seed=5, most_deg=30)
    params = HandParams(rotmats[0], betas[0] * 0.5, np.array([5.0, 0, 0]), 1.0, 1.0)
    fit = convert_params(hand_model, params, target, fit_shape=fit_shape)
    source_m = joints_of(hand_model, params.rotmats, params.betas)
    fitted_m = joints_of(target, fit.rotmats, fit.betas) + fit.transl
    np.testing.assert_allclose(distance_mm(fitted_m, source_m), fit.residual_mm, atol=1e-3)
    assert fit.mean_mm == pytest.approx(fit.residual_mm.mean())
    assert fit.max_mm == pytest.approx(fit.residual_mm.max())
    # Better than the same parameters on the other model, wherever that is put best; less so when all people are average.
    same_m = joints_of(target, params.rotmats, params.betas)
    same_m = same_m + (source_m - same_m).mean(axis=0)
    assert fit.mean_mm < (0.7 if fit_shape else 0.8) * distance_mm(same_m, source_m).mean()


def test_there_and_back_again(hand_model: HandModel) -> None:
    target = stretched(hand_model)
    rotmats, betas = random_hands(hand_model, 1, seed=6, most_deg=30)
    params = HandParams(rotmats[0], 0.5 * betas[0], np.array([5.0, 0, 0]), 1.0, 1.0)
    there = convert_params(hand_model, params, target)
    back = convert_params(target, replace(params, rotmats=there.rotmats, betas=there.betas), hand_model)
    joints_m = joints_of(hand_model, back.rotmats, back.betas) + back.transl + there.transl
    # As far as both ways' residuals allow.
    assert distance_mm(joints_m, joints_of(hand_model, params.rotmats, params.betas)).mean() < there.mean_mm + back.mean_mm + 1e-3


def test_a_known_shape_stays(hand_model: HandModel) -> None:
    rotmats, betas = random_hands(hand_model, 3)
    joints_m = joints_of(hand_model, rotmats, betas)
    fit = fit_pose(hand_model, joints_m, fit_shape=False, betas=betas)
    np.testing.assert_array_equal(fit.betas, betas)
    assert fit.mean_mm.max() < 0.5
    mean_shape = fit_pose(hand_model, joints_m, fit_shape=False)
    np.testing.assert_array_equal(mean_shape.betas, np.zeros((3, 10)))
    assert (mean_shape.mean_mm > fit.mean_mm).all()


def test_bones_get_the_given_lengths(hand_model: HandModel) -> None:
    rotmats, betas = random_hands(hand_model, 8, most_deg=40)
    joints_m = joints_of(hand_model, rotmats, betas)
    fit = fit_pose(hand_model, joints_m)
    fitted_m = joints_of(hand_model, fit.rotmats, fit.betas)
    children, parents = np.array(BONES).T
    wanted_mm, found_mm = (distance_mm(each[:, children], each[:, parents]) for each in (joints_m, fitted_m))
    assert np.abs(wanted_mm - found_mm).max() < 1.5


def test_noise_costs_what_it_is(hand_model: HandModel) -> None:
    rotmats, betas = random_hands(hand_model, 12, most_deg=30)
    noise_m = np.random.default_rng(0).normal(0, 1e-3, (12, 21, 3))
    means_mm = [fit_pose(hand_model, joints_of(hand_model, rotmats, betas) + k * noise_m).mean_mm.mean() for k in (0, 1, 2, 4, 8)]
    assert means_mm == sorted(means_mm)
    # Below the noise itself (1.6 mm on average for a deviation of 1 mm), for parameters take some of it up.
    assert means_mm[1] < 1.6


def test_the_fit_moves_along(hand_model: HandModel) -> None:
    rotmats, betas = random_hands(hand_model, 4, most_deg=40)
    joints_m = joints_of(hand_model, rotmats, betas).astype(np.float64) + np.random.default_rng(0).normal(0, 1e-3, (4, 21, 3))
    turn, shift_m = rotvec_to_rotmat(np.array([2.1, -1.0, 0.8])), np.array([0.5, -2.0, 3.0])
    here, there = fit_pose(hand_model, joints_m), fit_pose(hand_model, joints_m @ turn.T + shift_m)
    here_m = skin(hand_model, here.rotmats, here.betas) + here.transl[:, None]
    there_m = skin(hand_model, there.rotmats, there.betas) + there.transl[:, None]
    assert distance_mm(here_m @ turn.T + shift_m, there_m).max() < 0.01
    np.testing.assert_allclose(there.rotmats[:, 1:], here.rotmats[:, 1:], atol=1e-5)
    np.testing.assert_allclose(there.rotmats[:, 0], turn @ here.rotmats[:, 0], atol=1e-5)
    np.testing.assert_allclose(there.residual_mm, here.residual_mm, atol=1e-3)


@pytest.mark.parametrize("batch", [(), (0,), (1,), (3, 1, 2), (70,)])
def test_batches_are_fitted_as_if_one_by_one(hand_model: HandModel, batch: tuple[int, ...]) -> None:
    rotmats, betas = random_hands(hand_model, int(np.prod(batch)), most_deg=20)
    joints_m = np.stack([hand_model.joints(skin(hand_model, *hand)) for hand in zip(rotmats, betas, strict=True)] or [np.zeros((21, 3))])
    joints_m = joints_m[: len(rotmats)].reshape(*batch, 21, 3)
    fit = fit_pose(hand_model, joints_m)
    shapes = (fit.rotmats.shape, fit.betas.shape, fit.transl.shape, fit.residual_mm.shape, fit.iterations.shape)
    assert shapes == ((*batch, 16, 3, 3), (*batch, 10), (*batch, 3), (*batch, 21), batch)
    if fit.residual_mm.size:
        last = tuple(size - 1 for size in batch)
        np.testing.assert_allclose(fit.rotmats[last], fit_pose(hand_model, joints_m[last]).rotmats, atol=1e-6)


@pytest.mark.parametrize("most_deg", [0, 40])
def test_left_hands_are_told(hand_model: HandModel, most_deg: float) -> None:
    rotmats, betas = random_hands(hand_model, 6, most_deg=most_deg)
    joints_m = joints_of(hand_model, rotmats, betas)
    for joints in joints_m:
        with pytest.raises(UserError, match="right hands, got a left one"):
            fit_pose(hand_model, mirror_points(joints))
        # A right hand's are not taken for a left one's, were they ever so noisy.
        fit_pose(hand_model, joints + np.random.default_rng(0).normal(0, 8e-3, joints.shape))
    # One left hand among right ones is named.
    joints_m[4] = mirror_points(joints_m[4])
    with pytest.raises(UserError, match="hand 4 of 6"):
        fit_pose(hand_model, joints_m)


# Each with a word of what to do about it.
BAD_JOINTS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "16 joints": (lambda joints_m: joints_m[:16], "order"),
    "pixels": (lambda joints_m: joints_m[:, :2], "order"),
    "millimetres": (lambda joints_m: 1e3 * joints_m, "to metres"),
    "centimetres": (lambda joints_m: 1e2 * joints_m, "to metres"),
    "huge": (lambda joints_m: 1e300 * joints_m, "to metres"),
    "as large as numbers get": (lambda joints_m: np.sign(joints_m) * 1.7e308, "to metres"),
    "zeros": (lambda joints_m: joints_m * 0, "in one place"),
    "one place": (lambda joints_m: joints_m * 0 + 0.3, "in one place"),
    "one line": (lambda joints_m: joints_m[:, :1] * np.array([0.6, 0.0, 0.8]), "on one line"),
    "complex": (lambda joints_m: joints_m + 0.01j, "real"),
    "not finite": (lambda joints_m: np.where(np.arange(21)[:, None] == 7, np.nan, joints_m), "finite"),
}


@pytest.mark.parametrize("fault", BAD_JOINTS)
@pytest.mark.filterwarnings("error")
def test_bad_joints_are_refused_in_one_line(fault: str, hand_model: HandModel) -> None:
    change, says = BAD_JOINTS[fault]
    with pytest.raises(UserError, match="expected") as caught:
        fit_pose(hand_model, change(hand_model.joints(hand_model.template_m).astype(np.float64)))
    assert "\n" not in str(caught.value) and says in str(caught.value)


@pytest.mark.parametrize("joint_sd_mm", [0.0, -1.0, np.inf, np.nan])
def test_a_deviation_is_positive_and_finite(joint_sd_mm: float, hand_model: HandModel) -> None:
    with pytest.raises(UserError, match="joint_sd_mm"):
        fit_pose(hand_model, hand_model.joints(hand_model.template_m), joint_sd_mm=joint_sd_mm)


@pytest.mark.parametrize("fit_shape", [True, False])
@pytest.mark.parametrize("betas", [np.full(10, np.nan), np.zeros(9), np.zeros((2, 10))])
def test_betas_to_start_from_are_checked(betas: np.ndarray, fit_shape: bool, hand_model: HandModel) -> None:
    with pytest.raises(UserError, match=r"expected.*betas"):
        fit_pose(hand_model, hand_model.joints(hand_model.template_m), betas=betas, fit_shape=fit_shape)


def test_the_joints_are_the_models_in_freihands_order(hand_model: HandModel) -> None:
    # Two joints changed places: no hand has them so.
    joints_m = hand_model.joints(skin(hand_model, hand_model.mean_rotmats(), np.zeros(10, np.float32)))
    swapped_m = joints_m.copy()
    a, b = JOINTS.index("index_tip"), JOINTS.index("little_tip")
    swapped_m[[a, b]] = joints_m[[b, a]]
    assert fit_pose(hand_model, swapped_m).mean_mm > 5 * fit_pose(hand_model, joints_m).mean_mm + 1
