"""Skinning, hand model files, smplx layers, and the embedded open hand."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from measures import max_mm

from handmesh.errors import UserError
from handmesh.geometry.rotation import mirror_rotmat, rotvec_to_rotmat
from handmesh.hand_model import HandModel, load_hand_model
from handmesh.hand_model.assets import save_hand_model
from handmesh.hand_model.skinning import check_model, mirror_points, skin, skin_at
from handmesh.hand_model.smplx_bridge import from_smplx
from handmesh.records import HandParams
from handmesh.skeleton import BONES, FROM_MANO_AND_TIPS, JOINTS, MANO_JOINTS, MANO_PARENTS, ROOT, TIPS


def random_pose(batch: tuple[int, ...] = (), seed: int = 1, angle_rad: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rotvec_to_rotmat(rng.normal(0, angle_rad, (*batch, 16, 3))), rng.normal(0, 1.5, (*batch, 10))


def identities(batch: tuple[int, ...] = ()) -> np.ndarray:
    return np.broadcast_to(np.eye(3), (*batch, 16, 3, 3)).copy()


# Skinning


def test_the_random_model_is_a_valid_one(tiny_hand_model: HandModel) -> None:
    assert check_model(tiny_hand_model) == []
    assert np.abs(tiny_hand_model.pose_dirs).max() > 0
    assert np.abs(tiny_hand_model.mean_pose).max() > 0


@pytest.mark.parametrize("batch", [(), (1,), (3, 1, 2)])
def test_zero_pose_and_shape_give_the_template(tiny_hand_model: HandModel, batch: tuple[int, ...]) -> None:
    vertices_m = skin(tiny_hand_model, identities(batch), np.zeros((*batch, 10)))
    assert max_mm(vertices_m, np.broadcast_to(tiny_hand_model.template_m, vertices_m.shape)) < 1e-9


def test_betas_move_the_template_linearly(tiny_hand_model: HandModel) -> None:
    for beta in range(10):
        betas = 2.0 * np.eye(10)[beta]
        moved_m = skin(tiny_hand_model, identities(), betas)
        assert max_mm(moved_m, tiny_hand_model.template_m + 2.0 * tiny_hand_model.shape_dirs[..., beta]) < 1e-9


def test_turning_the_wrist_turns_the_hand_about_the_wrist(tiny_hand_model: HandModel) -> None:
    rotmats, betas = random_pose()
    turn = rotvec_to_rotmat(np.array([0.4, -1.2, 0.7]))
    wrist_m = tiny_hand_model.joint_regressor[0] @ (tiny_hand_model.template_m + tiny_hand_model.shape_dirs @ betas)
    turned = rotmats.copy()
    turned[0] = turn @ rotmats[0]
    expected_m = (skin(tiny_hand_model, rotmats, betas) - wrist_m) @ turn.T + wrist_m
    assert max_mm(skin(tiny_hand_model, turned, betas), expected_m) < 1e-9


def test_a_joint_moves_only_what_hangs_on_it(tiny_hand_model: HandModel) -> None:
    # One vertex for each joint, no correctives: bending the ring finger's middle joint leaves the other fingers alone.
    model = replace(tiny_hand_model, skin_weights=np.eye(16)[np.arange(40) % 16], pose_dirs=np.zeros_like(tiny_hand_model.pose_dirs))
    rotmats = identities()
    rotmats[MANO_JOINTS.index("ring_pip")] = rotvec_to_rotmat(np.array([0.0, 0.0, 1.0]))
    moved = np.linalg.norm(skin(model, rotmats, np.zeros(10)) - model.template_m, axis=-1) > 1e-9
    assert {MANO_JOINTS[vertex % 16] for vertex in np.flatnonzero(moved)} == {"ring_pip", "ring_dip"}


def test_batches_are_skinned_as_if_one_by_one(tiny_hand_model: HandModel) -> None:
    rotmats, betas = random_pose((3, 1, 2))
    together_m = skin(tiny_hand_model, rotmats, betas)
    for index in np.ndindex(3, 1, 2):
        assert max_mm(together_m[index], skin(tiny_hand_model, rotmats[index], betas[index])) < 1e-9


def test_single_precision_stays_single_and_close(tiny_hand_model: HandModel) -> None:
    rotmats, betas = random_pose((4,))
    single_m = skin(tiny_hand_model.astype(np.float32), rotmats.astype(np.float32), betas.astype(np.float32))
    assert single_m.dtype == np.float32
    error_mm = max_mm(single_m, skin(tiny_hand_model, rotmats, betas))
    assert error_mm < 1e-3, f"single precision is {error_mm:.2g} mm off"


def test_joints_come_in_the_order_of_their_names(tiny_hand_model: HandModel) -> None:
    # A model whose i-th articulated joint is at x = i, and whose tips are at x = 100, 101, ...
    vertices_m = np.zeros((40, 3))
    vertices_m[:16, 0] = np.arange(16)
    vertices_m[20:25, 0] = 100 + np.arange(5)
    model = replace(tiny_hand_model, joint_regressor=np.eye(16, 40), tip_vertices=np.arange(20, 25))
    for name, (x, _, _) in zip(JOINTS, model.joints(vertices_m), strict=True):
        assert x == (100 + TIPS.index(name) if name in TIPS else MANO_JOINTS.index(name))
    assert model.joints(np.zeros((3, 1, 2, 40, 3))).shape == (3, 1, 2, 21, 3)


def test_skeleton_tables_are_consistent() -> None:
    assert sorted(FROM_MANO_AND_TIPS) == list(range(21))
    assert len({child for child, _ in BONES}) == 20
    # Parents come before their children, or the kinematic chain would read what it has not written.
    assert all(parent < child for child, parent in enumerate(MANO_PARENTS))
    assert JOINTS[ROOT] == "middle_mcp"


def test_skin_at_puts_the_root_where_it_is_told(tiny_hand_model: HandModel) -> None:
    rotmats, betas = random_pose()
    params = HandParams(rotmats, betas, np.array([5.0, 0, 0]), 1.0, 1.0)
    root_m = np.array([0.1, -0.2, 0.7])
    vertices_m, joints_m = skin_at(tiny_hand_model, params, root_m)
    assert max_mm(joints_m[ROOT], root_m) < 1e-9
    assert max_mm(tiny_hand_model.joints(vertices_m), joints_m) < 1e-9


def test_a_left_hand_is_the_mirror_image(tiny_hand_model: HandModel) -> None:
    # Mirroring a posed right hand = posing the mirrored model with mirrored rotations.
    rotmats, betas = random_pose()
    mirror = np.array([-1.0, 1.0, 1.0])
    features = np.outer(np.outer(mirror, mirror).ravel(), mirror).reshape(9, 3)  # sign of each pose feature for x, y, z
    left = replace(
        tiny_hand_model,
        template_m=mirror_points(tiny_hand_model.template_m),
        shape_dirs=tiny_hand_model.shape_dirs * mirror[:, None],
        pose_dirs=tiny_hand_model.pose_dirs * np.tile(features.T, (1, 15)),
    )
    assert max_mm(skin(left, mirror_rotmat(rotmats), betas), mirror_points(skin(tiny_hand_model, rotmats, betas))) < 1e-9


# smplx


def test_skinning_is_smplx_lbs(tiny_hand_model: HandModel) -> None:
    torch = pytest.importorskip("torch")
    lbs = pytest.importorskip("smplx.lbs").lbs
    model = tiny_hand_model
    rotmats, betas = random_pose((5,))

    def tensor(array: np.ndarray) -> Any:
        return torch.from_numpy(np.ascontiguousarray(array))

    vertices_m, joints_m = lbs(
        tensor(betas),
        tensor(rotmats),
        tensor(model.template_m),
        tensor(model.shape_dirs),
        tensor(model.pose_dirs.reshape(-1, 135).T),
        tensor(model.joint_regressor),
        tensor(np.array(MANO_PARENTS)),
        tensor(model.skin_weights),
        pose2rot=False,
    )
    error_mm = max_mm(skin(model, rotmats, betas), vertices_m.numpy())
    assert error_mm < 1e-6, f"vertices are {error_mm:.2g} mm from smplx"
    assert joints_m.shape == (5, 16, 3)


def smplx_arrays(model: HandModel) -> dict[str, Any]:
    """The same hand as smplx would load it from a MANO file."""
    return {
        "v_template": model.template_m,
        "shapedirs": model.shape_dirs,
        "posedirs": model.pose_dirs,
        "J_regressor": model.joint_regressor,
        "weights": model.skin_weights,
        "f": model.faces,
        "kintree_table": np.stack([np.array(MANO_PARENTS), np.arange(16)]).astype(np.int64),
        "hands_components": np.eye(45),
        "hands_mean": model.mean_pose.ravel(),
    }


def smplx_layer(kind: str, model: HandModel, **options: Any) -> Any:
    torch = pytest.importorskip("torch")
    smplx = pytest.importorskip("smplx")
    struct = pytest.importorskip("smplx.utils").Struct(**smplx_arrays(model))
    return getattr(smplx, kind)("", data_struct=struct, dtype=torch.float64, **options)


def test_from_smplx_gives_the_layers_vertices(mano_sized_model: HandModel) -> None:
    torch = pytest.importorskip("torch")
    rotmats, betas = random_pose((2,))
    layer = smplx_layer("MANOLayer", mano_sized_model)
    said = layer(torch.from_numpy(betas), torch.from_numpy(rotmats[:, :1]), torch.from_numpy(rotmats[:, 1:]))
    bridged = from_smplx(layer)
    assert check_model(bridged) == []
    assert max_mm(skin(bridged, rotmats, betas), said.vertices.numpy()) < 1e-6


def test_from_smplx_keeps_the_mean_pose(mano_sized_model: HandModel) -> None:
    torch = pytest.importorskip("torch")
    # smplx.MANO takes finger rotations relative to the mean pose, handmesh absolute ones.
    layer = smplx_layer("MANO", mano_sized_model, use_pca=False, flat_hand_mean=False)
    fingers = np.random.default_rng(3).normal(0, 0.4, (15, 3))
    wrist = np.array([[0.3, -0.8, 0.2]])
    with torch.no_grad():
        said = layer(torch.zeros(1, 10).double(), torch.from_numpy(wrist), torch.from_numpy(fingers.reshape(1, 45)))
    bridged = from_smplx(layer)
    rotmats = rotvec_to_rotmat(np.concatenate([wrist, bridged.mean_pose + fingers]))
    assert max_mm(skin(bridged, rotmats, np.zeros(10)), said.vertices.numpy()[0]) < 1e-6


def test_from_smplx_refuses_left_hands(mano_sized_model: HandModel) -> None:
    with pytest.raises(UserError, match="right-hand"):
        from_smplx(smplx_layer("MANOLayer", mano_sized_model, is_rhand=False))


# Files


def test_files_round_trip_and_are_the_same_bytes_twice(tiny_hand_model: HandModel, tmp_path: Path) -> None:
    model = tiny_hand_model.astype(np.float32)
    save_hand_model(model, tmp_path / "a.npz")
    loaded = load_hand_model(tmp_path / "a.npz")
    save_hand_model(loaded, tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert loaded.id == model.id
    for name in ("template_m", "shape_dirs", "pose_dirs", "joint_regressor", "skin_weights", "faces", "tip_vertices", "mean_pose"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(model, name))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.npz", "b.npz"]


def _without_a_key(model: HandModel, path: Path) -> None:
    save_hand_model(model, path)
    with zipfile.ZipFile(path) as whole:
        kept = {name: whole.read(name) for name in whole.namelist() if name != "pose_dirs.npy"}
    with zipfile.ZipFile(path, "w") as part:
        for name, data in kept.items():
            part.writestr(name, data)


def _with_nan(model: HandModel, path: Path) -> None:
    template_m = model.template_m.copy()
    template_m[3, 1] = np.nan
    save_hand_model(replace(model, template_m=template_m), path)


def _truncated(model: HandModel, path: Path) -> None:
    save_hand_model(model, path)
    path.write_bytes(path.read_bytes()[:-200])


def _with_a_flipped_byte(model: HandModel, path: Path) -> None:
    save_hand_model(model, path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def _with_pickles(model: HandModel, path: Path) -> None:
    values = {name: getattr(model, name) for name in ("shape_dirs", "pose_dirs", "joint_regressor", "skin_weights", "faces")}
    np.savez(path, id=model.id, template_m=np.array([{"a": 1}]), tip_vertices=model.tip_vertices, mean_pose=model.mean_pose, **values)


def _with_a_member(name: str, member: bytes) -> Callable[[HandModel, Path], None]:
    def write(model: HandModel, path: Path) -> None:
        save_hand_model(model, path)
        with zipfile.ZipFile(path) as whole:
            kept = {each: whole.read(each) for each in whole.namelist()}
        with zipfile.ZipFile(path, "w") as changed:
            for each, data in (kept | {name: member}).items():
                changed.writestr(each, data)

    return write


def _npy_header(shape: tuple[int, ...]) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"shape": shape, "fortran_order": False, "descr": "<f8"})
    return header.getvalue()


BROKEN: dict[str, Callable[[HandModel, Path], object]] = {
    "missing key": _without_a_key,
    "wrong shape": lambda model, path: save_hand_model(replace(model, shape_dirs=model.shape_dirs[..., :7]), path),
    "no vertices": lambda model, path: save_hand_model(replace(model, template_m=np.zeros(0)), path),
    "face out of range": lambda model, path: save_hand_model(replace(model, faces=model.faces + 39), path),
    "weights that do not sum to 1": lambda model, path: save_hand_model(replace(model, skin_weights=model.skin_weights * 1.1), path),
    "not finite": _with_nan,
    "truncated": _truncated,
    "flipped byte": _with_a_flipped_byte,
    "pickled": _with_pickles,
    "claims 458 TiB": _with_a_member("template_m.npy", _npy_header((21 * 10**12, 3))),
    "claims more than counts hold": _with_a_member("template_m.npy", _npy_header((10**30, 3))),
    "words for numbers": lambda model, path: save_hand_model(replace(model, template_m=model.template_m.astype(str)), path),
    "complex": lambda model, path: save_hand_model(replace(model, shape_dirs=model.shape_dirs * 1j), path),
    "faces of floats": lambda model, path: save_hand_model(replace(model, faces=model.faces + 0.5), path),
    "text": lambda _, path: path.write_text("not a hand"),
    "empty": lambda _, path: path.write_bytes(b""),
    "a bare array": lambda _, path: np.save(path.open("wb"), np.zeros(3)),
    "nothing there": lambda _, path: None,
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_files_are_refused_in_one_line(fault: str, tiny_hand_model: HandModel, tmp_path: Path) -> None:
    path = tmp_path / "hand.npz"
    BROKEN[fault](tiny_hand_model, path)
    with pytest.raises(UserError) as caught:
        load_hand_model(path)
    message = str(caught.value)
    assert "\n" not in message
    assert "hand.npz" in message
    assert "expected" in message


def test_a_name_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(UserError, match="which is no file"):
        load_hand_model("x" * 300)
