"""The network: a FastViT trunk from timm and a head that gives the parameters of one hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from handmesh.errors import UserError
from handmesh.geometry.rotation import rotmat_to_rot6d
from handmesh.hand_model.skinning import HandModel
from handmesh.skeleton import JOINTS, MANO_JOINTS
from handmesh.training.command import Head

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
_S_SPREAD, _T_SPREAD_M = 0.3, 0.1


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
        parts_logits: (N, 18, S/4, S/4) body part of each pixel (keypoint head, while training).
    """

    rot6d: Tensor
    betas: Tensor
    camera: Tensor
    presence_logit: Tensor
    right_logit: Tensor
    keypoints: Tensor | None = None
    heatmap_logits: Tensor | None = None
    parts_logits: Tensor | None = None


class HandNet(nn.Module):
    """Pictures of hands to parameters.

    Args:
        variant: one of `VARIANTS`.
        head: "pooled" is the FastViT paper's (one global average, one linear layer); "keypoint" looks at the
            features around 21 keypoints that it finds by heat maps.
        size_px: side S of the square crops, a multiple of 32.
        pretrained: start from timm's ImageNet weights (downloaded once).
        drop_path: rate of stochastic depth.

    Raises:
        UserError: unknown variant, unfit size, or ImageNet weights that cannot be had.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, variant: str = "fastvit_t8", head: Head = "keypoint", size_px: int = 128, pretrained: bool = False, drop_path: float = 0.0
    ):
        super().__init__()
        if size_px % 32 or not 64 <= size_px <= 512:
            raise UserError(f"expected a crop size that is a multiple of 32 from 64 to 512 px, got {size_px}")
        self.size_px = size_px
        self.backbone: Any = create_backbone(variant, pretrained, drop_path)
        channels = [info["num_chs"] for info in self.backbone.feature_info]
        features = self.backbone.num_features
        self.head = PooledHead(features) if head == "pooled" else KeypointHead(channels, features, size_px)
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


class PooledHead(nn.Module):
    """The FastViT paper's: global average, then one linear layer."""

    def __init__(self, features: int):
        super().__init__()
        self.output = _output_layer(features)

    def forward(self, maps: list[Tensor], final: Tensor) -> Prediction:
        return Prediction(*_split(self.output(final.mean((2, 3)))))


class KeypointHead(nn.Module):
    """Finds 21 keypoints by heat maps, looks at the features there, and regresses from those.

    A stride-8 map is fused from the trunk's strides 8, 16 and 32. A softmax over the positions of each of 21
    heat maps is at once the keypoint's soft-argmax and the weights with which its feature vector is gathered,
    so sampling is one matrix product.

    Args:
        channels: of the trunk's four stages (strides 4, 8, 16, 32).
        features: channels of the trunk's final map.
        size_px: side of the crop.
    """

    grid: Tensor

    def __init__(self, channels: list[int], features: int, size_px: int, width: int = 128, keypoint_width: int = 32, hidden: int = 512):
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels[1:])
        self.fuse_maps = _conv_block(width, width)
        self.heatmaps = nn.Conv2d(width, len(JOINTS), 1)
        self.log_temperature = nn.Parameter(torch.zeros(()))
        self.keypoint_features = nn.Linear(width, keypoint_width)
        self.mlp = nn.Sequential(
            nn.Linear(len(JOINTS) * (keypoint_width + 2) + features, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU()
        )
        self.output = _output_layer(hidden)
        self.parts_coarse = nn.Conv2d(width, 4 * PART_CLASSES, 1)
        self.parts_fine = nn.Conv2d(channels[0], PART_CLASSES, 1)
        # Centres of the stride-8 cells, -1..1 from the crop's edge to its other edge.
        centres = (torch.arange(size_px // 8) + 0.5) * 16 / size_px - 1
        grid = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), dim=-1).view(-1, 2)
        self.register_buffer("grid", grid, persistent=False)

    def forward(self, maps: list[Tensor], final: Tensor) -> Prediction:
        fused = None
        # From the coarsest to the finest.
        for lateral, features in zip(reversed(self.laterals), reversed(maps[1:]), strict=True):
            aligned = lateral(features)
            fused = aligned if fused is None else aligned + nn.functional.interpolate(fused, scale_factor=2.0, mode="nearest")
        assert fused is not None
        fused = self.fuse_maps(fused)
        heatmap_logits = self.heatmaps(fused) * self.log_temperature.exp()
        attention = heatmap_logits.flatten(2).softmax(-1)
        # Not a matrix product, which autocast would round to half a pixel.
        keypoints = (attention.unsqueeze(-1) * self.grid).sum(2)
        gathered = attention.to(fused.dtype) @ fused.flatten(2).transpose(1, 2)
        seen = self.keypoint_features(gathered).flatten(1)
        hidden = self.mlp(torch.cat([seen, keypoints.flatten(1), final.mean((2, 3))], dim=1))
        prediction = Prediction(*_split(self.output(hidden)), keypoints=keypoints)
        if self.training:
            prediction.heatmap_logits = heatmap_logits
            coarse = nn.functional.pixel_shuffle(self.parts_coarse(fused), 2)
            prediction.parts_logits = coarse + self.parts_fine(maps[0])
        return prediction


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
    # Autocast leaves half precision here; parameters and losses want single.
    raw = raw.float() if raw.dtype in (torch.bfloat16, torch.float16) else raw
    rot6d, betas, camera, presence, right = raw.split([_ROT6D, _BETAS, _CAMERA, 1, 1], dim=1)
    s = _TYPICAL_S * (_S_SPREAD * camera[:, :1]).exp()
    return rot6d, betas, torch.cat([s, _T_SPREAD_M * camera[:, 1:]], dim=1), presence[:, 0], right[:, 0]
