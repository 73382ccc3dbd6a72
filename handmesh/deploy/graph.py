"""A trained network fused, and arranged for the runtimes: the same function with less work."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from handmesh.runtime import OUTPUTS
from handmesh.training.model import HandNet, KeypointHead, PooledHead, Prediction
from handmesh.training.model import _split as split_outputs


class DeployNet(nn.Module):
    """A network as it is exported: a tuple of `runtime.OUTPUTS`, and nothing that only training needs."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, crops: Tensor) -> tuple[Tensor, ...]:
        """Crops (N, S, S, 3) uint8 to `runtime.OUTPUTS`."""
        prediction = self.net(crops)
        return tuple(getattr(prediction, name) for name in OUTPUTS)


def fuse(net: HandNet) -> HandNet:
    """A copy with the trunk's parallel branches and their normalisation merged (Vasu et al. 2023, section 3.2).

    Args:
        net: the training form in evaluation mode; fuse in f64 and convert afterwards.
    """
    from timm.utils.model import reparameterize_model

    # On the trunk alone: timm also replaces any module of ours that happens to have a method called fuse.
    fused = copy.deepcopy(net)
    with torch.no_grad():
        fused.backbone = reparameterize_model(fused.backbone, inplace=True)
    return fused.eval()


class SplitDepthwise(nn.Module):
    """A grouped convolution that gives two channels for each of its input's, as two depthwise ones.

    Runtimes have fast kernels for one output channel a group and slow ones for two (OpenVINO: 1.3 to 3 times slower).
    The output's channels come in `order`: all first ones, then all second ones.
    """

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        assert conv.bias is not None and is_doubling(conv)
        self.halves = nn.ModuleList(nn.Conv2d(conv.in_channels, conv.in_channels, **_geometry(conv)).to(conv.weight) for _ in range(2))
        for index, half in enumerate(self.halves):
            half.weight = nn.Parameter(conv.weight[index::2])
            half.bias = nn.Parameter(conv.bias[index::2])

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([half(x) for half in self.halves], dim=1)

    @staticmethod
    def order(channels: int) -> Tensor:
        """(channels,) which of the grouped convolution's channels each of the output's is."""
        return torch.arange(channels).view(-1, 2).T.flatten()


class ConvAttention(nn.Module):
    """timm's `Attention` with 1 x 1 convolutions, so that maps keep their layout and the shortcut joins the last of them.

    The scale of the products is in the queries' weights.
    """

    def __init__(self, attention: Any):
        super().__init__()
        dim = attention.proj.in_features
        self.heads: int = attention.num_heads
        weights, biases = list(attention.qkv.weight.chunk(3)), list(attention.qkv.bias.chunk(3))
        weights[0], biases[0] = weights[0] * attention.scale, biases[0] * attention.scale
        self.queries, self.keys, self.values = (_pointwise(*pair) for pair in zip(weights, biases, strict=True))
        self.proj = _pointwise(attention.proj.weight, attention.proj.bias)
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]

        def tokens(values: Tensor) -> Tensor:
            return values.permute(0, 2, 3, 1).reshape(-1, height * width, self.heads, self.dim // self.heads)

        queries = tokens(self.queries(x)).permute(0, 2, 1, 3)
        keys = tokens(self.keys(x)).permute(0, 2, 3, 1)
        values = tokens(self.values(x)).permute(0, 2, 1, 3)
        seen = (queries @ keys).softmax(-1) @ values
        seen = seen.permute(0, 2, 1, 3).reshape(-1, height, width, self.dim).permute(0, 3, 1, 2)
        return self.proj(seen)


class ArrangedKeypointHead(nn.Module):
    """`KeypointHead` for evaluation, without copies of its map: the temperature is in the heat maps' kernel, sums are products."""

    grid: Tensor

    def __init__(self, head: KeypointHead):
        super().__init__()
        self.head = head
        temperature = head.log_temperature.exp()
        self.heatmaps = _pointwise(head.heatmaps.weight * temperature, _bias(head.heatmaps) * temperature)
        self.register_buffer("grid", head.grid, persistent=False)

    def forward(self, maps: list[Tensor], final: Tensor) -> Prediction:
        head = self.head
        fused = head.fused_map(maps)
        attention = self.heatmaps(fused).flatten(2).softmax(-1)
        keypoints = attention @ self.grid
        gathered = attention @ fused.permute(0, 2, 3, 1).flatten(1, 2)
        seen = head.keypoint_features(gathered).flatten(1)
        hidden = head.mlp(torch.cat([seen, keypoints.flatten(1), final.mean((2, 3))], dim=1))
        return Prediction(*split_outputs(head.output(hidden)))


def arrange(fused: HandNet) -> HandNet:
    """A copy that computes the same with less work for a runtime, in the precision of `fused`; merged in f64.

    - Grouped convolutions that double the channels become two depthwise ones (`SplitDepthwise`).
    - Normalisations that `fuse` leaves go into the layer beside them. Layer scales stay: runtimes merge them when they load the file,
      and kernels that are stored in fp16 lose less without them.
    - Attention works on maps (`ConvAttention`); the keypoint head keeps its map's layout (`ArrangedKeypointHead`).

    Args:
        fused: what `fuse` gave.
    """
    from timm.models.fastvit import AttentionBlock, ConvMlp, PatchEmbed

    dtype = next(fused.parameters()).dtype
    net = copy.deepcopy(fused).double()
    with torch.no_grad():
        for module in list(net.backbone.modules()):
            if isinstance(module, ConvMlp):
                _fuse_norm(module)
            if isinstance(module, AttentionBlock):
                _arrange_attention(module)
            if isinstance(module, PatchEmbed):
                _split_downsample(module)
        _split_final(net)
        if isinstance(net.head, KeypointHead):
            net.head = ArrangedKeypointHead(net.head)  # pyright: ignore[reportAttributeAccessIssue]
    return net.to(dtype).eval()


def is_doubling(conv: Any) -> bool:
    """Whether it is a convolution with one input and two output channels a group."""
    return isinstance(conv, nn.Conv2d) and conv.groups == conv.in_channels > 1 and conv.out_channels == 2 * conv.in_channels


def _geometry(conv: nn.Conv2d) -> dict[str, Any]:
    return {"kernel_size": conv.kernel_size, "stride": conv.stride, "padding": conv.padding, "groups": conv.in_channels}


def _pointwise(weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """A 1 x 1 convolution of a matrix (out, in) or its kernel."""
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], 1).to(weight)
    conv.weight, conv.bias = nn.Parameter(weight.reshape(conv.weight.shape)), nn.Parameter(bias.clone())
    return conv


def _bias(layer: nn.Conv2d | nn.Linear) -> Tensor:
    assert layer.bias is not None
    return layer.bias


def _fuse_norm(mlp: Any) -> None:
    """FastViT's feed-forward block keeps the normalisation of its depthwise convolution when it is fused."""
    block = mlp.conv
    block.conv, block.bn = fuse_conv_bn_eval(block.conv, block.bn), nn.Identity()


def _arrange_attention(block: Any) -> None:
    """`attend(norm(x))` without the normalisation."""
    norm, attention = block.norm, block.token_mixer
    gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    shift = norm.bias - gain * norm.running_mean
    qkv = nn.Linear(attention.qkv.in_features, attention.qkv.out_features).to(gain)
    bias = 0 if attention.qkv.bias is None else attention.qkv.bias
    qkv.weight, qkv.bias = nn.Parameter(attention.qkv.weight * gain), nn.Parameter(attention.qkv.weight @ shift + bias)
    attention.qkv, block.norm = qkv, nn.Identity()
    block.token_mixer = ConvAttention(attention)


def _conv_name(block: Any) -> str:
    """Where a fused block keeps its one convolution: timm's blocks, and those without additional branches."""
    return "reparam_conv" if hasattr(block, "reparam_conv") else "conv"


def _split_downsample(embed: Any) -> None:
    """The strided convolution between two stages; its channels' order goes into the 1 x 1 convolution that follows."""
    wide, narrow = embed.proj[0], embed.proj[1]
    name = _conv_name(wide)
    conv = getattr(wide, name)
    following: nn.Conv2d = getattr(narrow, _conv_name(narrow))
    if not is_doubling(conv) or not isinstance(getattr(wide, "se", nn.Identity()), nn.Identity) or following.groups != 1:
        return
    setattr(wide, name, SplitDepthwise(conv))
    following.weight = nn.Parameter(following.weight[:, SplitDepthwise.order(conv.out_channels)])


def _split_final(net: HandNet) -> None:
    """The trunk's last convolution; its channels' order goes through the gate into the layer that reads the pooled map."""
    block: Any = net.backbone.final_conv
    name = _conv_name(block)
    conv = getattr(block, name)
    reader: Any = net.head.output if isinstance(net.head, PooledHead) else net.head.mlp[0]
    if not is_doubling(conv):
        return
    order = SplitDepthwise.order(conv.out_channels)
    setattr(block, name, SplitDepthwise(conv))
    gate: Any = getattr(block, "se", None) or getattr(block, "gate", nn.Identity())
    if not isinstance(gate, nn.Identity):
        gate.fc1.weight = nn.Parameter(gate.fc1.weight[:, order])
        gate.fc2.weight, gate.fc2.bias = nn.Parameter(gate.fc2.weight[order]), nn.Parameter(gate.fc2.bias[order])
    first = reader.in_features - len(order)
    weight = reader.weight.clone()
    weight[:, first:] = reader.weight[:, first + order]
    reader.weight = nn.Parameter(weight)
