"""The networks: every weight learns, fusing changes nothing, bad choices get one line."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from generated_shards import GeneratedShards
from torch import nn

from handmesh.deploy.export import DeployNet, fuse, vertices_of
from handmesh.deploy.parity import noise_pictures
from handmesh.errors import UserError
from handmesh.geometry.rotation import rotmat_to_rot6d
from handmesh.hand_model import HandModel
from handmesh.runtime import OUTPUTS
from handmesh.training.command import Head, LossWeights, ModelConfig
from handmesh.training.layer import HandLayer
from handmesh.training.losses import loss_terms, total_loss
from handmesh.training.model import VARIANTS, HandNet, KeypointHead, PooledHead, Prediction, build_net

SIZE_PX = 64


def trained_looking(variant: str, head: Head = "keypoint", overparameterized: bool = True) -> HandNet:
    """Random weights with normalisation statistics as unlike the initial ones as training makes them."""
    torch.manual_seed(0)
    net = HandNet(variant, head, SIZE_PX, overparameterized=overparameterized)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            # The next pass sets the statistics.
            module.momentum = 1.0
    for name, parameter in net.named_parameters():
        if "layer_scale" in name or name.endswith("scale.gamma"):
            nn.init.uniform_(parameter, 0.05, 0.2)
    for module in net.head.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=2 / module.in_features**0.5)
    with torch.no_grad():
        net(torch.from_numpy(noise_pictures(SIZE_PX, 4)))
    return net.eval().double()


def outputs_of(net: HandNet, crops: torch.Tensor) -> dict[str, np.ndarray]:
    with torch.no_grad():
        return {name: value.numpy() for name, value in zip(OUTPUTS, DeployNet(net)(crops), strict=True)}


def check_fusing(net: HandNet, hand_model: HandModel, pictures: int = 3) -> HandNet:
    """Compare a network with its fused form, which is returned."""
    fused = fuse(net)
    crops = torch.from_numpy(noise_pictures(SIZE_PX, pictures))
    ours, theirs = outputs_of(net, crops), outputs_of(fused, crops)
    vertices, fused_vertices = vertices_of(hand_model, ours), vertices_of(hand_model, theirs)
    # The outputs depend on the picture by millimetres, so that an error in fusing would show.
    assert np.linalg.norm(vertices[0] - vertices[1], axis=-1).mean() > 0.001
    assert 1e3 * np.linalg.norm(vertices - fused_vertices, axis=-1).mean() <= 1e-6
    for name in OUTPUTS:
        assert np.abs(ours[name] - theirs[name]).max() < 1e-9 * max(1.0, np.abs(ours[name]).max())
    return fused


def weights_of(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize("variant", VARIANTS)
def test_fusing_changes_nothing(variant, hand_model):
    net = trained_looking(variant)
    fused = check_fusing(net, hand_model, pictures=2)
    assert weights_of(fused.backbone) < weights_of(net.backbone)


@pytest.mark.parametrize(("variant", "head"), [("fastvit_t8", "keypoint"), ("fastvit_sa12", "pooled"), ("fastvit_s12", "keypoint")])
def test_without_the_additional_branches_it_fuses_to_the_same_form(variant, head, hand_model):
    net = trained_looking(variant, head, overparameterized=False)
    fused = check_fusing(net, hand_model)
    whole = trained_looking(variant, head)
    shapes = [sorted(tuple(p.shape) for p in each.backbone.parameters()) for each in (fused, fuse(whole))]
    assert shapes[0] == shapes[1]
    assert weights_of(fused.backbone) < weights_of(net.backbone) < weights_of(whole.backbone)
    # Of a block's parallel convolutions one is left: no two see the same input with kernels of different sizes.
    names = "\n".join(name for name, _ in net.named_modules())
    assert not any(branch in names for branch in ("conv_scale", "identity", "small_conv", "conv_kxk"))


@pytest.mark.parametrize(
    ("head", "dense", "overparameterized"),
    [("pooled", True, True), ("keypoint", True, True), ("pooled", False, True), ("keypoint", False, False)],
)
def test_every_parameter_has_a_gradient(head, dense, overparameterized, hand_model):
    torch.manual_seed(0)
    net = HandNet("fastvit_t8", head, SIZE_PX, dense=dense, overparameterized=overparameterized)
    batch = GeneratedShards(hand_model).batch(8, mirror_share=0.2)
    total_loss(loss_terms(HandLayer(hand_model), net(batch.crops), batch), LossWeights()).backward()
    without = [name for name, parameter in net.named_parameters() if parameter.grad is None or not parameter.grad.abs().sum() > 0]
    assert without == []


def test_learns_a_batch_without_the_additional_branches(hand_model):
    torch.manual_seed(0)
    net, layer = HandNet("fastvit_t8", "pooled", SIZE_PX, overparameterized=False), HandLayer(hand_model)
    batch = GeneratedShards(hand_model).batch(8)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        loss = total_loss(loss_terms(layer, net(batch.crops), batch), LossWeights())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("head", ["pooled", "keypoint"])
def test_dense_outputs_exist_only_while_training(head):
    crops = torch.zeros((2, SIZE_PX, SIZE_PX, 3), dtype=torch.uint8)
    net = HandNet("fastvit_t8", head, SIZE_PX)
    prediction = net(crops)
    assert prediction.parts_logits.shape == (2, 18, SIZE_PX // 4, SIZE_PX // 4)
    assert prediction.depth_m.shape == (2, SIZE_PX // 4, SIZE_PX // 4)
    # Depths of a hand before anything is learnt: centimetres, not metres.
    assert prediction.depth_m.abs().mean() < 0.1
    assert prediction.features.shape == (2, net.backbone.num_features)
    prediction = net.eval()(crops)
    assert prediction.parts_logits is None and prediction.depth_m is None
    sparse = HandNet("fastvit_t8", head, SIZE_PX, dense=False)
    prediction = sparse(crops)
    assert prediction.parts_logits is None and prediction.depth_m is None
    assert not [name for name in sparse.state_dict() if "parts" in name or "depth" in name]


def test_dense_heads_change_no_answer():
    """What only trains does not reach what is exported."""
    net = HandNet("fastvit_t8", "pooled", SIZE_PX).eval()
    sparse = HandNet("fastvit_t8", "pooled", SIZE_PX, dense=False).eval()
    sparse.load_state_dict({name: value for name, value in net.state_dict().items() if name in sparse.state_dict()})
    crops = torch.from_numpy(noise_pictures(SIZE_PX, 2))
    for name, value in outputs_of(net, crops).items():
        assert np.array_equal(value, outputs_of(sparse, crops)[name])


def test_depth_is_drawn_where_the_map_says():
    """One cell of the coarse map is 2 x 2 pixels of the picture of depths, at the same place."""
    head = PooledHead([48, 96, 192, 384], 768)
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    nn.init.ones_(head.depth_coarse.weight)
    fused = torch.zeros(1, 64, 8, 8)
    fused[0, :, 2, 5] = 1
    prediction = Prediction(*(torch.zeros(1, 1) for _ in range(5)))
    head.draw(prediction, fused, [torch.zeros(1, 48, 16, 16)])
    assert prediction.depth_m is not None
    drawn = torch.nonzero(prediction.depth_m[0]).tolist()
    assert drawn == [[4, 10], [4, 11], [5, 10], [5, 11]]


def test_weights_from_before_the_depth_head_load_strictly():
    net = HandNet("fastvit_t8", "keypoint", SIZE_PX)
    other = HandNet("fastvit_t8", "keypoint", SIZE_PX)
    older = {name: value for name, value in net.state_dict().items() if "depth" not in name}
    fresh = other.state_dict()["head.depth_coarse.weight"].clone()
    other.load_state_dict(older, strict=True)
    assert all(torch.equal(other.state_dict()[name], value) for name, value in older.items())
    assert torch.equal(other.head.depth_coarse.weight, fresh)
    # Anything else that is missing, a part of the head too, is still refused.
    for missing in ("head.parts_fine.bias", "head.output.bias", "backbone.stem.0.conv_kxk.0.conv.weight"):
        with pytest.raises(RuntimeError, match=re.escape(missing)):
            other.load_state_dict({name: value for name, value in older.items() if name != missing}, strict=True)
    missing = "head.depth_fine.bias"
    with pytest.raises(RuntimeError, match=re.escape(missing)):
        other.load_state_dict({name: value for name, value in net.state_dict().items() if name != missing}, strict=True)


def test_weights_of_a_pooled_head_from_before_its_dense_heads_load_strictly():
    net = HandNet("fastvit_t8", "pooled", SIZE_PX)
    older = HandNet("fastvit_t8", "pooled", SIZE_PX, dense=False).state_dict()
    net.load_state_dict(older, strict=True)
    assert torch.equal(net.head.output.weight, older["head.output.weight"])
    with pytest.raises(RuntimeError, match=r"head\.output\.weight"):
        net.load_state_dict({name: value for name, value in older.items() if "output" not in name}, strict=True)


def test_settings_reach_the_network():
    config = ModelConfig("fastvit_s12", "pooled", 96, drop_path=0.2, dense=False, overparameterized=False)
    net = build_net(config)
    assert isinstance(net.head, PooledHead) and net.size_px == 96 and net.backbone.num_features == 1024
    assert max(getattr(module, "drop_prob", 0) or 0 for module in net.modules()) == pytest.approx(0.2)
    names = list(net.state_dict())
    assert not any("parts" in name or "conv_scale" in name for name in names)
    names = list(build_net(ModelConfig()).state_dict())
    assert any("depth" in name for name in names) and any("conv_scale" in name for name in names)


def test_the_largest_trains_with_the_pooled_head():
    torch.manual_seed(0)
    net = HandNet("fastvit_ma36", "pooled", SIZE_PX, drop_path=0.2)
    prediction = net(torch.from_numpy(noise_pictures(SIZE_PX, 1)))
    (prediction.rot6d.sum() + prediction.parts_logits.mean() + prediction.depth_m.mean()).backward()
    reached = [parameter for parameter in net.backbone.parameters() if parameter.grad is not None and parameter.grad.abs().sum() > 0]
    # Stochastic depth leaves out some blocks.
    assert len(reached) > 0.5 * len(list(net.backbone.parameters()))
    assert all(parameter.grad.isfinite().all() for parameter in reached)


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

    with pytest.raises(UserError, match="set one of the two differently"):
        HandNet(pretrained=True, overparameterized=False)

    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("timm.create_model", offline)
    with pytest.raises(UserError, match="ImageNet weights of fastvit_t8"):
        HandNet(pretrained=True)
