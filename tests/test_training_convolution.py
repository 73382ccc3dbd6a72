"""Quick convolutions are torch's own, to rounding."""

import copy

import pytest
import torch
from torch import nn

from handmesh.training.convolution import DepthwiseConv2d, PointwiseConv2d, quicken
from handmesh.training.model import HandNet

# channels, kernels a channel (0: pointwise), kernel, stride, side
SHAPES = [
    (6, 1, 7, 1, 9), (6, 2, 7, 2, 8), (5, 1, 7, 2, 11), (4, 1, 5, 1, 2), (6, 1, 3, 1, 8), (6, 1, 3, 2, 7), (6, 2, 3, 1, 4),
    (6, 1, 1, 1, 8), (6, 1, 1, 2, 8), (8, 1, 7, 1, 40), (6, 0, 1, 1, 4), (6, 0, 1, 1, 16), (6, 0, 1, 2, 32),
]  # fmt: skip


def _convolution(channels: int, multiplier: int, kernel: int, stride: int, bias: bool) -> nn.Conv2d:
    groups, out = (channels, channels * multiplier) if multiplier else (1, 2 * channels + 1)
    return nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=bias)


def _run(module: nn.Module, x: torch.Tensor, weights: torch.Tensor, bf16: bool) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        y = module(x)
    gradients = torch.autograd.grad((y.to(weights.dtype) * weights).sum(), [x, *module.parameters()])
    return [y, *gradients]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_same_outputs_and_gradients(shape, bf16, bias):
    torch.manual_seed(0)
    channels, multiplier, kernel, stride, side = shape
    plain = _convolution(channels, multiplier, kernel, stride, bias)
    quick = nn.Sequential(copy.deepcopy(plain))
    assert quicken(quick) == 1
    assert isinstance(quick[0], DepthwiseConv2d if multiplier else PointwiseConv2d)
    x = torch.randn(5, channels, side, side + 1)
    weights = torch.randn_like(plain(x))
    # Rounding of 8200 summands grows as the root of their number; with bf16 it is that of factors and results alone.
    limit = (3 if bf16 else 90) * torch.finfo(torch.bfloat16 if bf16 else torch.float32).eps
    for ours, theirs in zip(_run(quick, x, weights, bf16), _run(plain.double(), x.double(), weights.double(), False), strict=True):
        assert (ours - theirs).abs().max() < limit * theirs.abs().max()
        assert ours.shape == theirs.shape


def test_the_same_call_gives_the_same_bits():
    torch.manual_seed(0)
    conv = DepthwiseConv2d(16, 16, 7, padding=3, groups=16)
    x, weights = torch.randn(9, 16, 12, 12), torch.randn(9, 16, 12, 12)
    first, second = _run(conv, x, weights, True), _run(conv, x, weights, True)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_others_stay_as_they_are():
    others = nn.Sequential(
        nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4), nn.Conv2d(4, 4, 4, padding=2, groups=4),
        nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 8, 1, groups=2), nn.Conv2d(4, 4, 3, padding=1, groups=4, padding_mode="reflect"),
    )  # fmt: skip
    assert quicken(others) == 0


def test_a_network_learns_the_same_and_keeps_its_names():
    torch.manual_seed(0)
    plain = HandNet(size_px=64).train()
    quick = copy.deepcopy(plain)
    assert quicken(quick) > 60
    assert list(quick.state_dict()) == list(plain.state_dict())
    crops = torch.randint(0, 255, (4, 64, 64, 3), dtype=torch.uint8)
    gradients = []
    for net in (plain, quick):
        prediction = net(crops)
        (prediction.rot6d.square().sum() + prediction.camera.square().sum()).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]))
    assert (gradients[0] - gradients[1]).norm() < 1e-3 * gradients[0].norm()
