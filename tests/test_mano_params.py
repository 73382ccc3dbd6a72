"""What MANO's parameters mean, told by smplx on the same arrays: no file of MANO's or FreiHAND's is needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from measures import max_mm

from handmesh.errors import UserError
from handmesh.geometry.camera import camera_from_fov
from handmesh.geometry.rotation import rotmat_to_rotvec, rotvec_to_rotmat
from handmesh.hand_model import HandModel
from handmesh.hand_model.mano_params import (
    FreiHandParams,
    freihand_points,
    freihand_to_params,
    params_to_freihand,
    pca_to_pose,
    pose_to_pca,
    pose_to_rotmats,
    rotmats_to_pose,
    to_mano,
)
from handmesh.hand_model.skinning import skin, skin_at
from handmesh.hand_model.smplx_bridge import from_smplx, to_smplx
from handmesh.placement import place_hand
from handmesh.records import Crop, Detection, Hand, HandParams
from handmesh.skeleton import FREIHAND_TIP_VERTICES, JOINTS, MANO_JOINTS, MANO_PARENTS, ROOT
from handmesh.tracking import Track

CAMERA = camera_from_fov(640, 480, 65)
FEATURE_SIGNS = np.tile(np.array([[1, -1, -1], [-1, 1, 1], [-1, 1, 1]]).ravel(), 15)


def mano_file(model: HandModel, is_right: bool = True, has_sign_bug: bool = False) -> dict[str, Any]:
    """The arrays of MANO_RIGHT, or of the MANO_LEFT that mirrors it, as smplx reads them; mirrored here entry by entry."""
    side = np.array([1.0 if is_right else -1.0, 1.0, 1.0])
    rotvec_side = np.tile([1.0, 1.0, 1.0] if is_right else [1.0, -1.0, -1.0], 15)
    return {
        "v_template": model.template_m * side,
        "shapedirs": model.shape_dirs * (np.ones(3) if has_sign_bug else side)[:, None],
        "posedirs": model.pose_dirs * side[:, None] * (np.ones(135) if is_right else FEATURE_SIGNS),
        "J_regressor": model.joint_regressor,
        "weights": model.skin_weights,
        "f": model.faces if is_right else model.faces[:, ::-1],
        "kintree_table": np.stack([np.array(MANO_PARENTS), np.arange(16)]).astype(np.int64),
        "hands_components": model.pose_components * rotvec_side,
        "hands_mean": model.mean_pose.ravel() * rotvec_side,
    }


def smplx_layer(kind: str, arrays: dict[str, Any], **options: Any) -> Any:
    torch = pytest.importorskip("torch")
    smplx = pytest.importorskip("smplx")
    struct = pytest.importorskip("smplx.utils").Struct(**arrays)
    return getattr(smplx, kind)("", data_struct=struct, dtype=torch.float64, **options)


def said_by(layer: Any, **arguments: np.ndarray) -> np.ndarray:
    """(N, V, 3) vertices."""
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        return layer(**{name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arguments.items()}).vertices.numpy()


def random_arguments(n: int, seed: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "global_orient": rng.normal(0, 1, (n, 3)),
        "hand_pose": rng.normal(0, 0.3, (n, 45)),
        "betas": rng.normal(0, 1.5, (n, 10)),
        "transl": rng.normal(0, 0.3, (n, 3)),
    }


# Poses


@pytest.mark.parametrize("flat_hand_mean", [True, False])
@pytest.mark.parametrize("num_pca_comps", [None, 6, 20, 45])
def test_matrices_are_those_of_smplx(mano_sized_model: HandModel, flat_hand_mean: bool, num_pca_comps: int | None) -> None:
    use_pca = num_pca_comps is not None
    options = {"use_pca": use_pca, "flat_hand_mean": flat_hand_mean} | ({"num_pca_comps": num_pca_comps} if use_pca else {})
    arguments = random_arguments(3)
    if use_pca:
        arguments["hand_pose"] = arguments["hand_pose"][:, :num_pca_comps]
    expected_m = said_by(smplx_layer("MANO", mano_file(mano_sized_model), **options), **arguments)
    rotmats = pose_to_rotmats(
        mano_sized_model, arguments["global_orient"], arguments["hand_pose"], use_pca=use_pca, flat_hand_mean=flat_hand_mean
    )
    vertices_m = skin(mano_sized_model, rotmats, arguments["betas"]) + arguments["transl"][:, None]
    error_mm = max_mm(vertices_m, expected_m)
    assert error_mm < 1e-3, f"{error_mm:.2g} mm from smplx"
    # The options matter by centimetres: this test would see them swapped.
    other = pose_to_rotmats(
        mano_sized_model, arguments["global_orient"], arguments["hand_pose"], use_pca=use_pca, flat_hand_mean=not flat_hand_mean
    )
    assert max_mm(skin(mano_sized_model, other, arguments["betas"]) + arguments["transl"][:, None], expected_m) > 5


def test_the_matrix_layer_takes_absolute_matrices(mano_sized_model: HandModel) -> None:
    arguments = random_arguments(2)
    rotmats = pose_to_rotmats(mano_sized_model, arguments["global_orient"], arguments["hand_pose"], flat_hand_mean=False)
    layer = smplx_layer("MANOLayer", mano_file(mano_sized_model), flat_hand_mean=False)
    arguments |= {"global_orient": rotmats[:, :1], "hand_pose": rotmats[:, 1:]}
    expected_m = said_by(smplx_layer("MANO", mano_file(mano_sized_model), use_pca=False), **random_arguments(2))
    assert max_mm(said_by(layer, **arguments), expected_m) < 1e-3


@pytest.mark.parametrize("flat_hand_mean", [True, False])
@pytest.mark.parametrize("batch", [(), (1,), (3, 1, 2)])
def test_poses_round_trip(mano_sized_model: HandModel, batch: tuple[int, ...], flat_hand_mean: bool) -> None:
    rng = np.random.default_rng(5)
    global_orient, hand_pose = rng.normal(0, 0.8, (*batch, 3)), rng.normal(0, 0.3, (*batch, 45))
    rotmats = pose_to_rotmats(mano_sized_model, global_orient, hand_pose, flat_hand_mean=flat_hand_mean)
    assert rotmats.shape == (*batch, 16, 3, 3)
    back = rotmats_to_pose(mano_sized_model, rotmats, flat_hand_mean=flat_hand_mean)
    np.testing.assert_allclose(back[0], global_orient, atol=1e-9)
    np.testing.assert_allclose(back[1], hand_pose, atol=1e-9)


def test_zero_offsets_are_the_mean_pose(mano_sized_model: HandModel) -> None:
    np.testing.assert_allclose(pose_to_rotmats(mano_sized_model, np.zeros(3), np.zeros(45)), mano_sized_model.mean_rotmats(), atol=1e-12)
    flat = pose_to_rotmats(mano_sized_model, np.zeros(3), np.zeros(45), flat_hand_mean=True)
    np.testing.assert_allclose(flat, np.broadcast_to(np.eye(3), (16, 3, 3)), atol=1e-12)


@pytest.mark.parametrize("num_pca_comps", [1, 6, 45])
def test_pca_coefficients_round_trip(mano_sized_model: HandModel, num_pca_comps: int) -> None:
    # Components of any length and angle: only that they are independent is relied on.
    mixing = np.random.default_rng(0).normal(0, 1, (45, 45))
    model = replace(mano_sized_model, pose_components=mixing @ mano_sized_model.pose_components)
    coefficients = np.random.default_rng(6).normal(0, 0.3, (2, 4, num_pca_comps))
    back, residual_rad = pose_to_pca(model, pca_to_pose(model, coefficients), num_pca_comps)
    np.testing.assert_allclose(back, coefficients, atol=1e-6)
    assert residual_rad.shape == (2, 4)
    assert residual_rad.max() < 1e-6


def test_pca_says_what_it_leaves_out(mano_sized_model: HandModel) -> None:
    hand_pose = np.random.default_rng(7).normal(0, 0.3, (5, 45))
    residuals = []
    for count in (2, 10, 30, 45):
        coefficients, residual_rad = pose_to_pca(mano_sized_model, hand_pose, count)
        left_out = (hand_pose - pca_to_pose(mano_sized_model, coefficients)).reshape(5, 15, 3)
        np.testing.assert_allclose(residual_rad, np.linalg.norm(left_out, axis=-1).max(axis=-1), atol=1e-9)
        # Nothing that the components span is left: least squares.
        assert np.abs(left_out.reshape(5, 45) @ mano_sized_model.pose_components[:count].T).max() < 1e-9
        residuals.append(np.linalg.norm(left_out))
    assert residuals == sorted(residuals, reverse=True)
    assert residuals[0] > 1
    assert residuals[-1] < 1e-9


BAD_POSES: dict[str, Callable[[HandModel], object]] = {
    "short hand_pose": lambda model: pose_to_rotmats(model, np.zeros(3), np.zeros(44)),
    "matrices": lambda model: pose_to_rotmats(model, np.zeros((3, 3)), np.zeros((15, 3, 3))),
    "a single number": lambda model: pose_to_rotmats(model, np.array(0.0), np.zeros(45)),
    "too many components": lambda model: pose_to_pca(model, np.zeros(45), 46),
    "no component": lambda model: pose_to_pca(model, np.zeros(45), 0),
    "a model without components": lambda model: pca_to_pose(replace(model, pose_components=np.zeros((0, 45))), np.zeros(6)),
    "one PCA coefficient without a list": lambda model: pca_to_pose(model, np.array(3.0)),
    "one coefficient as a pose": lambda model: pose_to_rotmats(model, np.zeros(3), np.array(3.0), use_pca=True),
    "K of another shape": lambda model: freihand_to_params(model, random_freihand(1)[0], np.zeros((4, 3))),
    "3 entries of 2 cameras": lambda model: freihand_to_params(model, random_freihand(3)[0], random_freihand(2)[1]),
    "62 numbers": lambda model: freihand_to_params(model, np.zeros(62), np.eye(3)),
    "no scale": lambda model: freihand_to_params(model, np.zeros(61), np.eye(3)),
    "behind the camera": lambda model: params_to_freihand(
        model, FreiHandParams(model.mean_rotmats(), np.zeros(10), np.array([0, 0, -0.5])), np.eye(3)
    ),
}


@pytest.mark.parametrize("fault", BAD_POSES)
def test_bad_parameters_are_refused_in_one_line(fault: str, mano_sized_model: HandModel) -> None:
    with pytest.raises(UserError, match="expected") as caught:
        BAD_POSES[fault](mano_sized_model)
    assert "\n" not in str(caught.value)


# FreiHAND


def random_freihand(n: int, seed: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """(n, 61) entries and (n, 3, 3) intrinsics of the dataset's form."""
    rng = np.random.default_rng(seed)
    focal = rng.uniform(400, 600, n)
    K = np.zeros((n, 3, 3))
    K[:, 0, 0] = K[:, 1, 1] = focal
    K[:, :2, 2] = rng.uniform(100, 124, (n, 2))
    K[:, 2, 2] = 1
    pose, betas = rng.normal(0, 0.3, (n, 48)), rng.normal(0, 1, (n, 10))
    return np.concatenate([pose, betas, rng.uniform(80, 140, (n, 2)), rng.uniform(500, 1500, (n, 1))], axis=1), K


def as_mano(model: HandModel) -> HandModel:
    return replace(model, tip_vertices=np.array(FREIHAND_TIP_VERTICES))


def test_freihand_entries_give_the_points_of_smplx(mano_sized_model: HandModel) -> None:
    torch = pytest.importorskip("torch")
    lbs = pytest.importorskip("smplx.lbs").lbs
    model = as_mano(mano_sized_model)
    entries, K = random_freihand(4)
    pose = entries[:, :48].copy()
    pose[:, 3:] += model.mean_pose.ravel()
    arrays = (
        *(entries[:, 48:58], pose, model.template_m, model.shape_dirs, model.pose_dirs.reshape(-1, 135).T),
        *(model.joint_regressor, np.array(MANO_PARENTS), model.skin_weights),
    )
    posed, chain = (x.numpy() for x in lbs(*(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays)))
    # FreiHAND's own order of MANO's 16 joints and five tips, written down once here against the names.
    joints = np.concatenate([model.joint_regressor @ posed, posed[:, [744, 320, 443, 555, 672]]], axis=1)
    joints = joints[:, [0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20]]
    (u, v), s = entries[:, 58:60].T, entries[:, 60]
    root = np.stack([(u - K[:, 0, 2]) / s, (v - K[:, 1, 2]) / s, (K[:, 0, 0] + K[:, 1, 1]) / 2 / s], axis=1)
    shift = (root - joints[:, 9])[:, None]

    params = freihand_to_params(model, entries, K)
    vertices_m, joints_m = freihand_points(model, params)
    assert max_mm(vertices_m, posed + shift) < 1e-3
    assert max_mm(joints_m, joints + shift) < 1e-3
    # Regressed from the posed mesh, and not the joints of the chain that smplx returns.
    in_our_order = [JOINTS.index(name) for name in MANO_JOINTS]
    assert max_mm(joints_m[:, in_our_order], chain + shift) > 1
    # The root is seen where the entry says.
    uvz = np.einsum("nij,nj->ni", K, joints_m[:, ROOT])
    np.testing.assert_allclose(uvz[:, :2] / uvz[:, 2:], entries[:, 58:60], atol=1e-9)
    # One hand of them through the same door as the estimator's.
    one = HandParams(params.rotmats[1], params.betas[1], np.zeros(3), 1.0, 1.0)
    assert max_mm(skin_at(model, one, params.root_m[1])[0], vertices_m[1]) < 1e-9


@pytest.mark.parametrize("batch", [(), (1,), (3, 1, 2)])
def test_freihand_entries_round_trip(mano_sized_model: HandModel, batch: tuple[int, ...]) -> None:
    entries, K = random_freihand(int(np.prod(batch)))
    # Two focal lengths: the mean of both places the root, as in FreiHAND's own code.
    K[:, 1, 1] += 7
    entries, K = entries.reshape(*batch, 61), K.reshape(*batch, 3, 3)
    params = freihand_to_params(mano_sized_model, entries, K)
    assert params.rotmats.shape == (*batch, 16, 3, 3)
    assert params.root_m.shape == (*batch, 3)
    np.testing.assert_allclose(params.root_m[..., 2] * entries[..., 60], (K[..., 0, 0] + K[..., 1, 1]) / 2)
    np.testing.assert_allclose(params_to_freihand(mano_sized_model, params, K), entries, atol=1e-9)


def test_entries_of_one_camera_share_its_intrinsics(mano_sized_model: HandModel) -> None:
    entries, K = random_freihand(3)
    together = freihand_to_params(mano_sized_model, entries, K[0])
    np.testing.assert_allclose(together.root_m[2], freihand_to_params(mano_sized_model, entries[2], K[0]).root_m)
    np.testing.assert_allclose(params_to_freihand(mano_sized_model, together, K[0]), entries, atol=1e-9)


def test_an_entry_seen_by_many_cameras_is_many_hands(mano_sized_model: HandModel) -> None:
    entries, K = random_freihand(4)
    together = freihand_to_params(mano_sized_model, entries[0], K)
    assert (together.rotmats.shape, together.betas.shape, together.root_m.shape) == ((4, 16, 3, 3), (4, 10), (4, 3))
    for index in range(4):
        alone = freihand_to_params(mano_sized_model, entries[0], K[index])
        for name in ("rotmats", "betas", "root_m"):
            np.testing.assert_array_equal(getattr(together, name)[index], getattr(alone, name))
    np.testing.assert_allclose(params_to_freihand(mano_sized_model, together, K), np.tile(entries[0], (4, 1)), atol=1e-9)
    one = freihand_to_params(mano_sized_model, entries[0], K[0])
    assert params_to_freihand(mano_sized_model, one, K).shape == (4, 61)
    together.betas[0] = 0


def test_a_model_without_components_says_so(mano_sized_model: HandModel) -> None:
    model = replace(mano_sized_model, pose_components=np.zeros((0, 45)))
    with pytest.raises(UserError, match=f"'{model.id}'.* no components"):
        pca_to_pose(model, np.zeros(6))


# Either side in the camera


def placed_hand(model: HandModel, is_right: bool) -> Hand:
    """A hand as the estimator places it from a turned, perhaps mirrored, crop; parameters in its own double precision."""
    rng = np.random.default_rng(9)
    rotmats = rotvec_to_rotmat(rng.normal(0, 0.4, (16, 3)))
    params = HandParams(rotmats, rng.normal(0, 1.5, 10), np.array([5.0, 0.01, -0.02]), 1.0, 1.0)
    crop = Crop(np.zeros((8, 8, 3), np.uint8), camera_from_fov(8, 8, 20), rotvec_to_rotmat(np.array([0.3, -0.4, 0.1])), not is_right)
    detection = Detection(np.zeros(4), is_right, 1.0)
    return place_hand(model, params, crop, CAMERA, Track(0, detection, 0.0, 1.0 if is_right else -1.0))


@pytest.mark.parametrize("is_right", [True, False])
@pytest.mark.parametrize("flat_hand_mean", [True, False])
def test_smplx_draws_the_hand_from_its_mano_parameters(mano_sized_model: HandModel, is_right: bool, flat_hand_mean: bool) -> None:
    hand = placed_hand(mano_sized_model, is_right)
    params = to_mano(hand, mano_sized_model, flat_hand_mean=flat_hand_mean)
    assert (params.is_right, params.flat_hand_mean) == (is_right, flat_hand_mean)
    layer = smplx_layer(
        "MANO", mano_file(mano_sized_model, is_right), is_rhand=is_right, use_pca=False, flat_hand_mean=params.flat_hand_mean
    )
    error_mm = max_mm(said_by(layer, **params.keywords())[0], hand.vertices_m)
    assert error_mm < 1e-3, f"{error_mm:.2g} mm from smplx"
    # The wrist's pose for robots is the same rotation.
    np.testing.assert_allclose(rotvec_to_rotmat(params.global_orient), hand.T_camera_wrist[:3, :3], atol=1e-9)


def test_the_left_files_sign_bug_shows_with_betas(mano_sized_model: HandModel) -> None:
    hand = placed_hand(mano_sized_model, is_right=False)
    params = to_mano(hand, mano_sized_model)
    layer = smplx_layer("MANO", mano_file(mano_sized_model, is_right=False, has_sign_bug=True), is_rhand=False, use_pca=False)
    assert max_mm(said_by(layer, **params.keywords())[0], hand.vertices_m) > 5
    # The cure that the docstring gives.
    layer.shapedirs[:, 0, :] *= -1
    assert max_mm(said_by(layer, **params.keywords())[0], hand.vertices_m) < 1e-3


def test_another_models_hand_is_refused(mano_sized_model: HandModel, tiny_hand_model: HandModel) -> None:
    hand = placed_hand(mano_sized_model, is_right=True)
    for other in (tiny_hand_model, replace(mano_sized_model, template_m=1.01 * mano_sized_model.template_m)):
        with pytest.raises(UserError, match="expected a hand posed with"):
            to_mano(hand, other)


def test_single_precision_hands_are_not_another_models(hand_model: HandModel) -> None:
    hand = placed_hand(hand_model, is_right=False)
    params = to_mano(replace(hand, vertices_m=hand.vertices_m.astype(np.float32)), hand_model)
    np.testing.assert_allclose(np.linalg.det(rotvec_to_rotmat(params.global_orient)), 1, atol=1e-6)


# smplx layers of our own models


def test_layers_round_trip(hand_model: HandModel, mano_sized_model: HandModel) -> None:
    pytest.importorskip("smplx")
    for model in (hand_model, mano_sized_model.astype(np.float32)):
        back = from_smplx(to_smplx(model), model.id)
        assert back.id == model.id
        for name in (
            *("template_m", "shape_dirs", "pose_dirs", "joint_regressor", "skin_weights"),
            *("faces", "tip_vertices", "mean_pose", "pose_components"),
        ):
            np.testing.assert_array_equal(getattr(back, name), getattr(model, name), err_msg=name)
            assert getattr(back, name).dtype == getattr(model, name).dtype


@pytest.mark.parametrize("is_right", [True, False])
def test_the_open_hand_is_the_same_in_smplx(hand_model: HandModel, is_right: bool, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("smplx")
    hand = placed_hand(hand_model, is_right)
    layer = to_smplx(hand_model, is_rhand=is_right)
    assert capsys.readouterr().out == ""
    arguments = {name: value.astype(np.float32) for name, value in to_mano(hand, hand_model).keywords().items()}
    error_mm = max_mm(said_by(layer, **arguments)[0], hand.vertices_m)
    # Single precision.
    assert error_mm < 0.01, f"{error_mm:.2g} mm from our skinning"


def test_our_left_layer_is_the_mirrored_file(mano_sized_model: HandModel) -> None:
    torch = pytest.importorskip("torch")
    for flat_hand_mean in (True, False):
        options = {"is_rhand": False, "flat_hand_mean": flat_hand_mean, "use_pca": True, "num_pca_comps": 12}
        arguments = random_arguments(2) | {"hand_pose": random_arguments(2)["hand_pose"][:, :12]}
        expected_m = said_by(smplx_layer("MANO", mano_file(mano_sized_model, is_right=False), **options), **arguments)
        ours = to_smplx(mano_sized_model, dtype=torch.float64, **options)
        assert max_mm(said_by(ours, **arguments), expected_m) < 1e-6
        np.testing.assert_array_equal(ours.faces, mano_sized_model.faces[:, ::-1])


def test_pca_needs_components(mano_sized_model: HandModel) -> None:
    pytest.importorskip("smplx")
    with pytest.raises(UserError, match="expected at most 3 PCA components"):
        to_smplx(replace(mano_sized_model, pose_components=mano_sized_model.pose_components[:3]), use_pca=True)
    assert to_smplx(mano_sized_model, use_pca=True).hand_pose.shape == (1, 6)


def test_mirroring_a_rotation_vector_mirrors_its_matrix() -> None:
    mirror = np.diag([-1.0, 1.0, 1.0])
    a, b, c = 0.3, -0.7, 0.5
    mirrored = mirror @ rotvec_to_rotmat(np.array([a, b, c])) @ mirror
    np.testing.assert_allclose(rotmat_to_rotvec(mirrored), [a, -b, -c], atol=1e-12)
