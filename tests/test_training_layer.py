"""The torch layer is the numpy skinning, and both are smplx's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from handmesh.geometry import rotation
from handmesh.hand_model.skinning import skin
from handmesh.skeleton import MANO_PARENTS
from handmesh.training.layer import HandLayer, rot6d_to_rotmat


def some_poses(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rotation.rotvec_to_rotmat(rng.normal(0, 0.6, (n, 16, 3))), rng.normal(0, 1.5, (n, 10))


def test_equals_numpy(tiny_hand_model):
    rotmats, betas = some_poses(5)
    layer = HandLayer(tiny_hand_model, torch.float64)
    vertices = layer(torch.tensor(rotmats), torch.tensor(betas))
    expected = skin(tiny_hand_model, rotmats, betas)
    assert vertices.shape == (5, 40, 3)
    assert np.abs(vertices.numpy() - expected).max() < 1e-9
    assert np.abs(layer.joints(vertices).numpy() - tiny_hand_model.joints(expected)).max() < 1e-9


def test_single_precision_costs_less_than_a_micrometre(hand_model):
    rotmats, betas = some_poses(5)
    layer = HandLayer(hand_model)
    vertices = layer(torch.tensor(rotmats, dtype=torch.float32), torch.tensor(betas, dtype=torch.float32))
    assert np.abs(vertices.numpy() - skin(hand_model.astype(np.float64), rotmats, betas)).max() < 1e-6


def test_both_equal_smplx(mano_sized_model):
    lbs = pytest.importorskip("smplx.lbs").lbs
    model = mano_sized_model
    rotmats, betas = some_poses(3)
    v = len(model.template_m)
    theirs, _ = lbs(
        torch.tensor(betas),
        torch.tensor(rotmats),
        torch.tensor(model.template_m)[None],
        torch.tensor(model.shape_dirs),
        torch.tensor(model.pose_dirs.reshape(v * 3, 135).T.copy()),
        torch.tensor(model.joint_regressor),
        torch.tensor(MANO_PARENTS),
        torch.tensor(model.skin_weights),
        pose2rot=False,
    )
    ours = HandLayer(model, torch.float64)(torch.tensor(rotmats), torch.tensor(betas))
    assert np.abs(ours.numpy() - theirs.numpy()).max() < 1e-6
    assert np.abs(skin(model, rotmats, betas) - theirs.numpy()).max() < 1e-6


def test_gradients(tiny_hand_model):
    rotmats, betas = some_poses(1)
    layer = HandLayer(tiny_hand_model, torch.float64)
    inputs = torch.tensor(rotmats, requires_grad=True), torch.tensor(betas, requires_grad=True)
    assert torch.autograd.gradcheck(lambda r, b: layer.joints(layer(r, b)), inputs)


def test_rot6d_equals_numpy():
    rot6d = np.random.default_rng(2).normal(size=(7, 16, 6))
    ours = rot6d_to_rotmat(torch.tensor(rot6d)).numpy()
    assert np.abs(ours - rotation.rot6d_to_rotmat(rot6d)).max() < 1e-12
    assert np.abs(rot6d_to_rotmat(torch.tensor(rotation.rotmat_to_rot6d(ours))).numpy() - ours).max() < 1e-12
