"""The network: a FastViT trunk from timm and a head that gives the parameters of one hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from handmesh.errors import UserError
from handmesh.geometry.rotation import rotmat_to_rot6d
from handmesh.hand_model.skinning import HandModel
from handmesh.skeleton import JOINTS, MANO_JOINTS
from handmesh.training.command import Head, ModelConfig

VARIANTS = ("fastvit_t8", "fastvit_t12", "fastvit_s12", "fastvit_sa12", "fastvit_sa24", "fastvit_sa36", "fastvit_ma36")

# background, 16 joints, forearm
PART_CLASSES = 18

# Of ImageNet, in 0..255, because `pretrained` weights expect them.
_MEAN = (123.675, 116.28, 103.53)
_STD = (58.395, 57.12, 57.375)

_ROT6D, _BETAS, _CAMERA = 6 * len(MANO_JOINTS), 10, 3
_OUTPUTS = _ROT6D + _BETAS + _CAMERA + 2
# A hand 0.19 m long that fills 1 / CROP_PADDING of its crop: 2 / (1.5 * 0.19) half-crops per metre.
_TYPICAL_S = 7.0
# Standard deviations over crops, so that the last layer's outputs are all of one size.
_S_SPREAD, _T_SPREAD_M, _DEPTH_SPREAD_M = 0.3, 0.1, 0.05


@dataclass
class Prediction:
    """What the network says about N crops.

    Attributes:
        rot6d: (N, 96) raw 6D rotations of the 16 joints; the first is the hand's in the crop camera.
        betas: (N, 10) in standard deviations.
        camera: (N, 3) weak-perspective (s, tx, ty); see `geometry.camera.weak_perspective_to_translation`.
        presence_logit: (N,) > 0 where there is a hand.
        right_logit: (N,) > 0 where it looks like a right hand.
        keypoints: (N, 21, 2) from heat maps, in -1..1 over the crop (keypoint head only).
        heatmap_logits: (N, 21, S/8, S/8) where each keypoint is, before the softmax (keypoint head, while training).
        parts_logits: (N, 18, S/4, S/4) body part of each pixel (dense heads, while training).
        depth_m: (N, S/4, S/4) z of each pixel's skin minus that of the root joint (dense heads, while training).
        features: (N, C) mean of the trunk's final map.
    """

    rot6d: Tensor
    betas: Tensor
    camera: Tensor
    presence_logit: Tensor
    right_logit: Tensor
    keypoints: Tensor | None = None
    heatmap_logits: Tensor | None = None
    parts_logits: Tensor | None = None
    depth_m: Tensor | None = None
    features: Tensor | None = None


class HandNet(nn.Module):
    """Pictures of hands to parameters.

    Args:
        variant: one of `VARIANTS`.
        head: "pooled" is the FastViT paper's (one global average, one linear layer); "keypoint" looks at the
            features around 21 keypoints that it finds by heat maps.
        size_px: side S of the square crops, a multiple of 32.
        pretrained: start from timm's ImageNet weights (downloaded once).
        drop_path: rate of stochastic depth.
        dense: draw the hand's parts and depth while training, for what the trunk learns from that.
        overparameterized: FastViT's additional branches while training. Fused, both forms are the same network.

    Raises:
        UserError: unknown variant, unfit size, or ImageNet weights that cannot be had or do not fit.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        variant: str = "fastvit_t8",
        head: Head = "keypoint",
        size_px: int = 128,
        pretrained: bool = False,
        drop_path: float = 0.0,
        dense: bool = True,
        overparameterized: bool = True,
    ):
        super().__init__()
        if size_px % 32 or not 64 <= size_px <= 512:
            raise UserError(f"expected a crop size that is a multiple of 32 from 64 to 512 px, got {size_px}")
        if pretrained and not overparameterized:
            raise UserError(
                "expected model.overparameterized with model.pretrained, because ImageNet's weights are spread over the additional "
                "branches, got false; set one of the two differently"
            )
        self.size_px = size_px
        self.backbone: Any = create_backbone(variant, pretrained, drop_path)
        if not overparameterized:
            drop_branches(self.backbone)
        channels = [info["num_chs"] for info in self.backbone.feature_info]
        features = self.backbone.num_features
        self.head = PooledHead(channels, features, dense) if head == "pooled" else KeypointHead(channels, features, size_px, dense)
        self.register_buffer("mean", torch.tensor(_MEAN), persistent=False)
        self.register_buffer("std", torch.tensor(_STD), persistent=False)

    def start_at(self, hand_model: HandModel) -> None:
        """Let the untrained network answer with the model's relaxed hand."""
        mean = torch.tensor(rotmat_to_rot6d(hand_model.mean_rotmats()), dtype=torch.float32).flatten()
        with torch.no_grad():
            self.head.output.bias[:_ROT6D] = mean

    def forward(self, crops: Tensor) -> Prediction:
        """Args:
        crops: (N, S, S, 3) RGB in 0..255, uint8 or floating point.
        """
        dtype = self.mean.dtype
        # .contiguous(): this layout is the one in which the backward pass is safe on every CPU (channels_last is not).
        x = ((crops.to(dtype) - self.mean) / self.std).permute(0, 3, 1, 2).contiguous()
        x = self.backbone.stem(x)
        maps = []
        for stage in self.backbone.stages:
            x = stage(x)
            maps.append(x)
        return self.head(maps, self.backbone.final_conv(x))


def build_net(config: ModelConfig) -> HandNet:
    """The network that the settings describe."""
    return HandNet(config.variant, config.head, config.size_px, config.pretrained, config.drop_path, config.dense, config.overparameterized)


class _Head(nn.Module):
    """What both heads share: a stride-8 map fused from the trunk's strides 8, 16 and 32, and the dense heads on it.

    Args:
        channels: of the trunk's four stages (strides 4, 8, 16, 32).
        width: channels of the fused map; 0 for no such map.
        dense: draw parts and depth while training.
    """

    # Names that checkpoints may lack as a whole, because they were written before those modules were there.
    _newer_than_checkpoints: tuple[str, ...] = ()

    def __init__(self, channels: list[int], width: int, dense: bool):
        super().__init__()
        self.dense = dense
        if width:
            self.laterals = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels[1:])
            self.fuse_maps = _conv_block(width, width)
        if dense:
            self.parts_coarse = nn.Conv2d(width, 4 * PART_CLASSES, 1)
            self.parts_fine = nn.Conv2d(channels[0], PART_CLASSES, 1)
            self.depth_coarse = nn.Conv2d(width, 4, 1)
            self.depth_fine = nn.Conv2d(channels[0], 1, 1)

    def fused_map(self, maps: list[Tensor]) -> Tensor:
        """(N, width, S/8, S/8) of the four stages' maps."""
        fused = None
        # From the coarsest to the finest.
        for lateral, features in zip(reversed(self.laterals), reversed(maps[1:]), strict=True):
            aligned = lateral(features)
            fused = aligned if fused is None else aligned + nn.functional.interpolate(fused, scale_factor=2.0, mode="nearest")
        assert fused is not None
        return self.fuse_maps(fused)

    def draw(self, prediction: Prediction, fused: Tensor, maps: list[Tensor]) -> None:
        """Add parts and depth to a prediction."""
        prediction.parts_logits = nn.functional.pixel_shuffle(self.parts_coarse(fused), 2) + self.parts_fine(maps[0])
        depth = nn.functional.pixel_shuffle(self.depth_coarse(fused), 2) + self.depth_fine(maps[0])
        prediction.depth_m = _DEPTH_SPREAD_M * _at_least_single(depth[:, 0])

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        own = {prefix + name: value for name, value in self.state_dict().items() if name.startswith(self._newer_than_checkpoints)}
        if not own.keys() & state_dict.keys():
            state_dict.update(own)
        super()._load_from_state_dict(state_dict, prefix, *rest)


class PooledHead(_Head):
    """The FastViT paper's: global average, then one linear layer. The dense heads see the trunk through a narrow fused map."""

    _newer_than_checkpoints = ("laterals", "fuse_maps", "parts", "depth")

    def __init__(self, channels: list[int], features: int, dense: bool = True, width: int = 64):
        super().__init__(channels, width if dense else 0, dense)
        self.output = _output_layer(features)

    def forward(self, maps: list[Tensor], final: Tensor) -> Prediction:
        pooled = final.mean((2, 3))
        prediction = Prediction(*_split(self.output(pooled)), features=pooled)
        if self.dense and self.training:
            self.draw(prediction, self.fused_map(maps), maps)
        return prediction


class KeypointHead(_Head):
    """Finds 21 keypoints by heat maps, looks at the features there, and regresses from those.

    A softmax over the positions of each of 21 heat maps is at once the keypoint's soft-argmax and the weights with
    which its feature vector is gathered, so sampling is one matrix product.

    Args:
        channels: of the trunk's four stages (strides 4, 8, 16, 32).
        features: channels of the trunk's final map.
        size_px: side of the crop.
        dense: draw parts and depth while training.
    """

    _newer_than_checkpoints = ("depth",)

    grid: Tensor

    def __init__(
        self,
        channels: list[int],
        features: int,
        size_px: int,
        dense: bool = True,
        width: int = 128,
        keypoint_width: int = 32,
        hidden: int = 512,
    ):
        super().__init__(channels, width, dense)
        self.heatmaps = nn.Conv2d(width, len(JOINTS), 1)
        self.log_temperature = nn.Parameter(torch.zeros(()))
        self.keypoint_features = nn.Linear(width, keypoint_width)
        self.mlp = nn.Sequential(
            nn.Linear(len(JOINTS) * (keypoint_width + 2) + features, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU()
        )
        self.output = _output_layer(hidden)
        # Centres of the stride-8 cells, -1..1 from the crop's edge to its other edge.
        centres = (torch.arange(size_px // 8) + 0.5) * 16 / size_px - 1
        grid = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), dim=-1).view(-1, 2)
        self.register_buffer("grid", grid, persistent=False)

    def forward(self, maps: list[Tensor], final: Tensor) -> Prediction:
        fused = self.fused_map(maps)
        heatmap_logits = self.heatmaps(fused) * self.log_temperature.exp()
        attention = heatmap_logits.flatten(2).softmax(-1)
        # Not a matrix product, which autocast would round to half a pixel.
        keypoints = (attention.unsqueeze(-1) * self.grid).sum(2)
        gathered = attention.to(fused.dtype) @ fused.flatten(2).transpose(1, 2)
        seen = self.keypoint_features(gathered).flatten(1)
        pooled = final.mean((2, 3))
        hidden = self.mlp(torch.cat([seen, keypoints.flatten(1), pooled], dim=1))
        prediction = Prediction(*_split(self.output(hidden)), keypoints=keypoints, features=pooled)
        if self.training:
            prediction.heatmap_logits = heatmap_logits
            if self.dense:
                self.draw(prediction, fused, maps)
        return prediction


class SingleBranch(nn.Module):
    """One convolution and its normalisation: what is left of a block of FastViT's without the additional branches.

    Args:
        branch: timm's ConvNormAct, the one with the largest kernel.
        gate, act: what follows the branches in the block.
    """

    def __init__(self, branch: Any, gate: nn.Module, act: nn.Module):
        super().__init__()
        self.conv: nn.Conv2d = branch.conv
        self.norm: Any = branch.bn
        self.gate, self.act = gate, act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.gate(self.norm(self.conv(x))))

    def reparameterize(self) -> None:
        """What timm calls to fuse: the normalisation goes into the convolution."""
        self.conv, self.norm = fuse_conv_bn_eval(self.conv, self.norm), nn.Identity()


class SingleBranchMixer(nn.Module):
    """`x + scale * norm(conv(x))`: FastViT's RepMixer without the branches that are there to be fused.

    Args:
        mixer: depthwise, with nothing after its normalisation.
        scale: timm's LayerScale2d.
    """

    def __init__(self, mixer: SingleBranch, scale: Any):
        super().__init__()
        self.mixer, self.scale = mixer, scale
        self.fused_conv: nn.Conv2d | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.fused_conv is not None:
            return self.fused_conv(x)
        return x + self.scale(self.mixer(x))

    def reparameterize(self) -> None:
        """What timm calls to fuse: normalisation, scale and shortcut go into the depthwise kernel."""
        conv: nn.Conv2d = fuse_conv_bn_eval(self.mixer.conv, self.mixer.norm)
        assert conv.bias is not None
        middle_y, middle_x = (side // 2 for side in conv.kernel_size)
        with torch.no_grad():
            gamma = self.scale.gamma.flatten()
            conv.weight.mul_(gamma[:, None, None, None])
            conv.bias.mul_(gamma)
            conv.weight[:, 0, middle_y, middle_x] += 1
        del self.mixer, self.scale
        self.fused_conv = conv


def create_backbone(variant: str, pretrained: bool, drop_path: float) -> nn.Module:
    """timm's FastViT without its classifier.

    Raises:
        UserError: as `HandNet`.
    """
    import timm

    if variant not in VARIANTS:
        raise UserError(f"expected a variant out of {', '.join(VARIANTS)}, got '{variant}'")
    try:
        return timm.create_model(variant, pretrained=pretrained, num_classes=0, global_pool="", drop_path_rate=drop_path)
    except (OSError, RuntimeError, ValueError) as error:
        if not pretrained:
            raise
        raise UserError(
            f"expected to download ImageNet weights of {variant} once, but that failed ({type(error).__name__}); "
            "go online, or set model.pretrained to false"
        ) from error


def drop_branches(trunk: nn.Module) -> None:
    """Take FastViT's train-time over-parameterisation out of a fresh trunk, in place.

    Each multi-branch block keeps its largest convolution with one normalisation. Fused, the network is what it would have
    been with them. Stochastic depth, shortcuts and layer scales stay.
    """
    from timm.models.fastvit import MobileOneBlock, ReparamLargeKernelConv, RepMixer

    def single(block: Any) -> nn.Module | None:
        if isinstance(block, RepMixer):
            mixer = single(block.mixer)
            assert isinstance(mixer, SingleBranch)
            return SingleBranchMixer(mixer, block.layer_scale)
        if isinstance(block, ReparamLargeKernelConv):
            return SingleBranch(block.large_conv, block.se, block.act)
        if isinstance(block, MobileOneBlock) and block.conv_kxk is not None:
            return SingleBranch(block.conv_kxk[0], block.se, block.act)
        return None

    for name, child in trunk.named_children():
        replacement = single(child)
        if replacement is None:
            drop_branches(child)
        else:
            setattr(trunk, name, replacement)


def _conv_block(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False), nn.BatchNorm2d(channels_out), nn.GELU())


def _output_layer(features: int) -> nn.Linear:
    layer = nn.Linear(features, _OUTPUTS)
    nn.init.normal_(layer.weight, std=0.1 / features**0.5)
    nn.init.zeros_(layer.bias)
    with torch.no_grad():
        layer.bias[:_ROT6D] = torch.tensor([1.0, 0, 0, 0, 1, 0]).repeat(len(MANO_JOINTS))
    return layer


def _split(raw: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    rot6d, betas, camera, presence, right = _at_least_single(raw).split([_ROT6D, _BETAS, _CAMERA, 1, 1], dim=1)
    s = _TYPICAL_S * (_S_SPREAD * camera[:, :1]).exp()
    return rot6d, betas, torch.cat([s, _T_SPREAD_M * camera[:, 1:]], dim=1), presence[:, 0], right[:, 0]


def _at_least_single(values: Tensor) -> Tensor:
    """Autocast leaves half precision; parameters and losses want more."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
