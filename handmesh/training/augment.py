"""Changes to a batch of crops that keep its labels right: another virtual camera, another light."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from handmesh.training.command import AugmentConfig
from handmesh.training.data import Batch

Uniform = Callable[..., Tensor]


def augment(batch: Batch, config: AugmentConfig, generator: torch.Generator) -> Batch:
    """All changes of the configuration; crops become float32.

    Args:
        batch: with uint8 crops.
        generator: of random numbers, on the batch's device.
    """
    device, n = batch.crops.device, len(batch)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=device)

    if config.camera_probability > 0:
        chosen = uniform(n) < config.camera_probability
        roll_rad = torch.deg2rad(config.roll_deg * (2 * uniform(n) - 1)) * chosen
        zoom = 1 + config.zoom * (2 * uniform(n) - 1) * chosen
        batch = move_camera(batch, roll_rad, zoom)
    crops = batch.crops.float()
    if config.colour_probability > 0:
        crops = _recolour(crops, config.colour_probability, uniform)
    if config.noise_probability > 0:
        sigma = config.noise * uniform(n) * (uniform(n) < config.noise_probability)
        noise = torch.randn(crops.shape, generator=generator, device=device)
        crops = crops + sigma[:, None, None, None] * noise
    if config.cutout_probability > 0:
        crops = _cut_out(crops, config.cutout_probability, uniform)
    return replace(batch, crops=crops.clamp(0, 255))


def move_camera(batch: Batch, roll_rad: Tensor, zoom: Tensor) -> Batch:
    """The pictures of a camera rolled about its axis and with another focal length.

    Args:
        roll_rad: (N,) the hand turns clockwise in the picture by this.
        zoom: (N,) focal length over the old one.
    """
    n, size, _, _ = batch.crops.shape
    cos, sin = roll_rad.cos(), roll_rad.sin()
    zero, one = torch.zeros_like(cos), torch.ones_like(cos)
    R_new_old = torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], dim=-1).view(n, 3, 3)
    # Where in the old picture (-1..1 from edge to edge) each pixel of the new one comes from.
    sampled = torch.stack([cos, sin, zero, -sin, cos, zero], dim=-1).view(n, 2, 3) / zoom.view(n, 1, 1)
    pixels = grid_sample(
        batch.crops.permute(0, 3, 1, 2).float().contiguous(),
        affine_grid(sampled, [n, 3, size, size], align_corners=False),
        mode="bilinear",
        align_corners=False,
    )
    parts = grid_sample(
        batch.parts[:, None].float(),
        affine_grid(sampled, [n, 1, *batch.parts.shape[1:]], align_corners=False),
        mode="nearest",
        align_corners=False,
    )
    middle_px = (size - 1) / 2
    keypoints_px = (batch.keypoints_px - middle_px) @ R_new_old[:, :2, :2].mT * zoom.view(n, 1, 1) + middle_px
    rotmats = torch.cat([R_new_old[:, None] @ batch.rotmats[:, :1], batch.rotmats[:, 1:]], dim=1)
    return replace(
        batch,
        crops=pixels.permute(0, 2, 3, 1),
        parts=parts[:, 0].long(),
        rotmats=rotmats,
        root_m=(R_new_old @ batch.root_m.unsqueeze(-1)).squeeze(-1),
        focal_px=batch.focal_px * zoom,
        keypoints_px=keypoints_px,
    )


def _recolour(crops: Tensor, probability: float, uniform: Uniform) -> Tensor:
    n = len(crops)
    chosen = (uniform(n) < probability).float()[:, None]
    contrast = 1 + 0.35 * (2 * uniform(n, 1) - 1) * chosen
    white = 1 + 0.15 * (2 * uniform(n, 3) - 1) * chosen
    shift = 35 * (2 * uniform(n, 1) - 1) * chosen
    gain = contrast * white
    middle = crops.mean((1, 2))
    # In one pass over the pixels: contrast about the picture's mean, then brightness.
    return crops * gain[:, None, None, :] + (middle * (1 - contrast) + shift)[:, None, None, :]


def _cut_out(crops: Tensor, probability: float, uniform: Uniform) -> Tensor:
    n, size, _, _ = crops.shape
    chosen = uniform(n) < probability
    centre = uniform(n, 2) * size
    half = size * (0.05 + 0.15 * uniform(n, 2)) * chosen[:, None]
    pixels = torch.arange(size, device=crops.device) + 0.5
    inside = (pixels - centre[:, :, None]).abs() < half[:, :, None]
    mask = (inside[:, 1, :, None] & inside[:, 0, None, :]).unsqueeze(-1)
    colour = 255 * uniform(n, 1, 1, 3)
    return torch.where(mask, colour, crops)
