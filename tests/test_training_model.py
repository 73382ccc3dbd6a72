"""The networks: every weight learns, fusing changes nothing, bad choices get one line."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from generated_shards import GeneratedShards
from torch import nn

from handmesh.deploy.export import DeployNet, fuse, parity_pictures, vertices_of
from handmesh.errors import UserError
from handmesh.geometry.rotation import rotmat_to_rot6d
from handmesh.runtime import OUTPUTS
from handmesh.training.command import LossWeights
from handmesh.training.layer import HandLayer
from handmesh.training.losses import loss_terms, total_loss
from handmesh.training.model import VARIANTS, HandNet, KeypointHead

SIZE_PX = 64


def trained_looking(variant: str, head: Literal["pooled", "keypoint"] = "keypoint") -> HandNet:
    """Random weights with normalisation statistics as unlike the initial ones as training makes them."""
    torch.manual_seed(0)
    net = HandNet(variant, head, SIZE_PX)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    for name, parameter in net.named_parameters():
        if "layer_scale" in name:
            nn.init.uniform_(parameter, 0.05, 0.2)
    for module in net.head.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=2 / module.in_features**0.5)
    return net.eval().double()


def outputs_of(net: HandNet, crops: torch.Tensor) -> dict[str, np.ndarray]:
    with torch.no_grad():
        return {name: value.numpy() for name, value in zip(OUTPUTS, DeployNet(net)(crops), strict=True)}


@pytest.mark.parametrize("variant", VARIANTS)
def test_fusing_changes_nothing(variant, hand_model):
    net = trained_looking(variant)
    fused = fuse(net)
    crops = torch.from_numpy(parity_pictures(SIZE_PX)[:3])
    ours, theirs = outputs_of(net, crops), outputs_of(fused, crops)
    assert sum(p.numel() for p in fused.parameters()) < sum(p.numel() for p in net.parameters())
    vertices, fused_vertices = vertices_of(hand_model, ours), vertices_of(hand_model, theirs)
    # The outputs depend on the picture by millimetres, so that an error in fusing would show.
    assert np.linalg.norm(vertices[0] - vertices[1], axis=-1).mean() > 0.001
    assert 1e3 * np.linalg.norm(vertices - fused_vertices, axis=-1).mean() <= 1e-6
    for name in OUTPUTS:
        assert np.abs(ours[name] - theirs[name]).max() < 1e-9 * max(1.0, np.abs(ours[name]).max())


@pytest.mark.parametrize("head", ["pooled", "keypoint"])
def test_every_parameter_has_a_gradient(head, hand_model):
    torch.manual_seed(0)
    net = HandNet("fastvit_t8", head, SIZE_PX)
    batch = GeneratedShards(hand_model).folders().training_batch(0, 0, 8, 0.2)
    total_loss(loss_terms(HandLayer(hand_model), net(batch.crops), batch), LossWeights()).backward()
    without = [name for name, parameter in net.named_parameters() if parameter.grad is None or not parameter.grad.abs().sum() > 0]
    assert without == []


def test_dense_outputs_exist_only_while_training():
    net = HandNet("fastvit_t8", "keypoint", SIZE_PX)
    crops = torch.zeros((2, SIZE_PX, SIZE_PX, 3), dtype=torch.uint8)
    prediction = net(crops)
    assert prediction.parts_logits.shape == (2, 18, SIZE_PX // 4, SIZE_PX // 4)
    assert net.eval()(crops).parts_logits is None


@pytest.mark.parametrize("head", ["pooled", "keypoint"])
def test_starts_at_the_relaxed_hand(head, hand_model):
    torch.manual_seed(0)
    net = HandNet("fastvit_t8", head, SIZE_PX).eval()
    net.start_at(hand_model)
    prediction = net(torch.full((1, SIZE_PX, SIZE_PX, 3), 128, dtype=torch.uint8))
    expected = rotmat_to_rot6d(hand_model.mean_rotmats()).flatten()
    assert np.abs(prediction.rot6d[0].detach().numpy() - expected).max() < 0.2
    assert prediction.betas.abs().max() < 0.2
    # A hand 0.15 to 0.25 m long fills two thirds of the crop.
    assert 2 / (1.5 * 0.25) < prediction.camera[0, 0] < 2 / (1.5 * 0.15)
    assert prediction.camera[0, 1:].abs().max() < 0.02


def test_keypoints_are_where_the_heat_is():
    head = KeypointHead([48, 96, 192, 384], 768, SIZE_PX)
    # All attention on one cell: row 2, column 5 of the stride-8 map, whose middle is pixel 8 * (5 + 0.5) - 0.5.
    x, y = head.grid.view(SIZE_PX // 8, SIZE_PX // 8, 2)[2, 5]
    assert ((x + 1) * SIZE_PX - 1) / 2 == pytest.approx(8 * 5.5 - 0.5)
    assert ((y + 1) * SIZE_PX - 1) / 2 == pytest.approx(8 * 2.5 - 0.5)


def test_bad_choices_get_one_line(monkeypatch):
    with pytest.raises(UserError, match="fastvit_ma36, got 'resnet50'"):
        HandNet("resnet50")
    with pytest.raises(UserError, match="multiple of 32"):
        HandNet(size_px=100)

    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("timm.create_model", offline)
    with pytest.raises(UserError, match="ImageNet weights of fastvit_t8"):
        HandNet(pretrained=True)
