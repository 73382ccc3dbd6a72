"""Changes to a batch of crops that keep its labels right: another virtual camera, other light, a worse lens, something in the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from handmesh.skeleton import ROOT
from handmesh.training.command import AugmentConfig
from handmesh.training.data import Batch

# Shares of the joints inside the crop: at least so many and a hand is present, fewer than so many and it is not.
_PRESENT_SHARE, _ABSENT_SHARE = 0.5, 0.3
# A zoom limit of 1 would let the focal length vanish.
_SMALLEST_ZOOM = 0.1
# Rays that a turned camera sees at a right angle or behind it are thrown far out of the picture.
_NEAREST_RAY = 1e-3
# Larger side of the box around a hand's joints, where nothing says how far away the hand is.
_TYPICAL_HAND_M = 0.15


def augment(batch: Batch, config: AugmentConfig, random: torch.Generator) -> Batch:
    """All changes of the configuration, in the order in which a camera makes them: pose of the camera, something in
    front of it, focus, exposure, noise.

    Args:
        batch: with uint8 crops; it is left as it is.
        random: on the batch's device; the result is a function of the batch and of its state.

    Returns:
        The batch with float32 crops in 0..255, stored plane by plane (a view), as the network reads them.
    """
    n, size = batch.crops.shape[:2]
    # Memory of its own, changed in place from here on.
    planes = torch.empty((n, 3, size, size), device=batch.crops.device).copy_(batch.crops.permute(0, 3, 1, 2))
    batch = _move_some_cameras(batch, planes, config, random)
    _cut_out(planes, config, random)
    _blur(planes, config, random)
    _recolour(planes, config, random)
    _add_noise(planes, config, random)
    if config.colour_probability > 0 or config.noise_probability > 0:
        planes.clamp_(0, 255)
    return replace(batch, crops=planes.permute(0, 2, 3, 1))


def augment_sources(batch: Batch, configs: Sequence[AugmentConfig], random: torch.Generator) -> Batch:
    """`augment`, with settings of its own for each source.

    Args:
        batch: with uint8 crops; `source` says which of `configs` is a sample's.
        configs: of the sources, by number; equal ones are applied together.
        random: as for `augment`.
    """
    if len(set(configs)) == 1:
        return augment(batch, configs[0], random)
    number = torch.tensor([configs.index(config) for config in configs], device=batch.source.device)[batch.source]
    rows = {config: (number == configs.index(config)).nonzero()[:, 0] for config in configs}
    parts = [augment(batch.rows(row), config, random) for config, row in rows.items() if len(row)]
    return Batch.join(parts).rows(torch.cat(list(rows.values())).argsort())


def turn_camera(roll_rad: Tensor, shift: Tensor, focal_px: Tensor, size_px: int) -> Tensor:
    """The rotation of a crop camera that is turned off its hand and then rolled about its axis.

    Args:
        roll_rad: (N,) the hand turns clockwise in the picture by this.
        shift: (N, 2) the point, in crops right of and below the middle, that the turned camera looks at.
        focal_px: (N,) before a zoom.
        size_px: side of the crop.

    Returns:
        (N, 3, 3) `R_new_old`: points of the old camera to the new one.
    """
    axis = torch.cat([shift * size_px / focal_px[:, None], torch.ones_like(shift[:, :1])], dim=1)
    a, b, c = (axis / axis.norm(dim=1, keepdim=True)).unbind(1)
    # The shortest arc from +z to (a, b, c), transposed.
    R_turned_old = torch.stack([1 - a * a / (1 + c), -a * b / (1 + c), -a, -a * b / (1 + c), 1 - b * b / (1 + c), -b, a, b, c], dim=1)
    cos, sin = roll_rad.cos(), roll_rad.sin()
    zero, one = torch.zeros_like(cos), torch.ones_like(cos)
    R_new_turned = torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], dim=1)
    return R_new_turned.view(-1, 3, 3) @ R_turned_old.view(-1, 3, 3)


def other_cameras(
    is_moved: Tensor, is_rolled: Tensor, normal: Tensor, focal_px: Tensor, size_px: int, config: AugmentConfig
) -> tuple[Tensor, Tensor]:
    """Cameras as the settings vary them, for `move_camera`.

    Args:
        is_moved: (N,) bool: zoomed and shifted.
        is_rolled: (N,) bool.
        normal: (N, 4) standard normal numbers for roll, zoom and the two shifts.
        focal_px: (N,) of the cameras as they are.
        size_px: side of the crops.

    Returns:
        (N, 3, 3) `R_new_old`, and (N,) factors of the focal length.
    """
    roll_rad = torch.deg2rad(config.roll_sd_deg * normal[:, 0] * is_rolled)
    zoom = (1 + config.zoom_sd * normal[:, 1] * is_moved).clamp(max(1 - config.zoom_limit, _SMALLEST_ZOOM), 1 + config.zoom_limit)
    shift = config.shift_sd * normal[:, 2:] * is_moved[:, None]
    return turn_camera(roll_rad, shift, focal_px, size_px), zoom


def move_camera(batch: Batch, R_new_old: Tensor, zoom: Tensor, size_px: int | None = None) -> Batch:
    """What a crop camera at the same place sees that is turned and has another focal length.

    Pixels from outside of the old picture are black, their parts background. The depth of mirrored pictures, whose
    hands' distance is unknown, is that of a hand of typical size: a turn by t changes the depth of what is x beside
    the root by sin(t) x, and a third of that may be wrong (0.6 mm at x = 0.1 m, the default shift and f = 3 S).

    Args:
        R_new_old: (N, 3, 3) points of the old camera to the new one.
        zoom: (N,) focal length over the old one, both in sides of the crop.
        size_px: side of the new crops; None for that of the old ones.

    Returns:
        The batch with float32 crops (a view of planes); its presence may only go down, see `_judge_presence`.
    """
    size = batch.crops.shape[1]
    new_size = size if size_px is None else size_px
    focal_px = batch.focal_px * zoom * (new_size / size)
    # Pixels in -1..1 from edge to edge are rays times 2 f / S.
    to_old, to_ray = 2 * batch.focal_px / size, new_size / (2 * focal_px)
    one = torch.ones_like(zoom)
    H_old_new = R_new_old.mT * torch.stack([to_old, to_old, one], dim=1)[:, :, None] * torch.stack([to_ray, to_ray, one], dim=1)[:, None]

    planes = batch.crops.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    planes = grid_sample(planes, _sampled_points(H_old_new, new_size), mode="bilinear", align_corners=False)
    dense = torch.stack([batch.parts.float(), _depth_after_turn(batch, R_new_old)], dim=1)
    dense = grid_sample(dense, _sampled_points(H_old_new, dense.shape[-1] * new_size // size), mode="nearest", align_corners=False)

    rays = (batch.keypoints_px - (size - 1) / 2) / batch.focal_px[:, None, None]
    rays = torch.cat([rays, torch.ones_like(rays[..., :1])], dim=2) @ R_new_old.mT
    keypoints_px = rays[..., :2] / rays[..., 2:].clamp(min=_NEAREST_RAY) * focal_px[:, None, None] + (new_size - 1) / 2
    moved = replace(
        batch,
        crops=planes.permute(0, 2, 3, 1),
        focal_px=focal_px,
        keypoints_px=keypoints_px,
        joints_m=batch.joints_m @ R_new_old.mT,
        root_m=(R_new_old @ batch.root_m.unsqueeze(-1)).squeeze(-1),
        rotmats=torch.cat([R_new_old[:, None] @ batch.rotmats[:, :1], batch.rotmats[:, 1:]], dim=1),
        vertices_m=batch.vertices_m @ R_new_old.mT,
        parts=dense[:, 0].long(),
        depth_m=dense[:, 1],
    )
    return _judge_presence(moved, _share_inside(batch.keypoints_px, size))


def _sampled_points(H_old_new: Tensor, side: int) -> Tensor:
    """(N, side, side, 2) where in the old picture, in -1..1 from edge to edge, each pixel of the new one comes from."""
    middles = (torch.arange(side, device=H_old_new.device) + 0.5) * 2 / side - 1
    x, y, w = (row[:, 0, None, None] * middles + (row[:, 1, None] * middles + row[:, 2, None])[..., None] for row in H_old_new.unbind(1))
    inverse = w.clamp_(min=_NEAREST_RAY).reciprocal_()
    return torch.stack([x.mul_(inverse), y.mul_(inverse)], dim=-1)


def _depth_after_turn(batch: Batch, R_new_old: Tensor) -> Tensor:
    """(N, S/4, S/4) each old pixel's z in the new camera minus the root joint's; 0 where there is no hand."""
    size, side = batch.crops.shape[1], batch.depth_m.shape[1]
    # r z, with r = (third row of R) . ray, for the pixel and for the root: (d + z_root) r - z_root r_root.
    slope = R_new_old[:, 2]
    middles = ((torch.arange(side, device=slope.device) + 0.5) / side - 0.5) * size
    per_pixel = slope[:, :2] / batch.focal_px[:, None]
    r = per_pixel[:, 0, None, None] * middles + (per_pixel[:, 1, None] * middles + slope[:, 2, None])[..., None]
    r_root = ((batch.keypoints_px[:, ROOT] - (size - 1) / 2) * per_pixel).sum(1) + slope[:, 2]
    box_px = (batch.keypoints_px.amax(1) - batch.keypoints_px.amin(1)).amax(1).clamp(min=1.0)
    root_z_m = torch.where(batch.has_joints, batch.root_m[:, 2], _TYPICAL_HAND_M * batch.focal_px / box_px)
    depth_m = batch.depth_m * r + root_z_m[:, None, None] * (r - r_root[:, None, None])
    return torch.where(batch.parts > 0, depth_m, 0.0)


def _share_inside(keypoints_px: Tensor, size_px: int) -> Tensor:
    """(N,) share of the keypoints that lie in the crop."""
    return ((keypoints_px > -0.5) & (keypoints_px < size_px - 0.5)).all(-1).float().mean(1)


def _judge_presence(batch: Batch, share_before: Tensor) -> Batch:
    """Presence after keypoints have left the crop.

    Which joints were hidden is not known any more, so presence only goes down: to 0, without any label, where fewer
    than 30 % of the keypoints are left, and to -1 where fewer than half are.
    """
    share = _share_inside(batch.keypoints_px, batch.crops.shape[1])
    fewer = batch.has_keypoints & (share < share_before)
    is_gone, is_rest = fewer & (share < _ABSENT_SHARE), fewer & (share < _PRESENT_SHARE)
    presence = torch.where(is_rest & (batch.presence == 1), -1, batch.presence)
    holds = {name: getattr(batch, name) & ~is_gone for name in ("has_keypoints", "has_joints", "has_params", "has_vertices", "has_dense")}
    return replace(batch, presence=torch.where(is_gone, 0, presence), right=torch.where(is_gone, -1, batch.right), **holds)


def _move_some_cameras(batch: Batch, planes: Tensor, config: AugmentConfig, random: torch.Generator) -> Batch:
    """Warps the chosen pictures of `planes` (N, 3, S, S) in place, and returns the batch with their labels moved."""
    n, size = batch.crops.shape[:2]
    is_moved, is_rolled = _chosen(n, config.camera_probability, random), _chosen(n, config.roll_probability, random)
    rows = (is_moved | is_rolled).nonzero()[:, 0]
    if not len(rows):
        return batch
    normal = torch.randn((n, 4), generator=random, device=random.device)[rows]
    chosen = batch.rows(rows)
    moved = move_camera(chosen, *other_cameras(is_moved[rows], is_rolled[rows], normal, chosen.focal_px, size, config))
    planes.index_copy_(0, rows, moved.crops.permute(0, 3, 1, 2))
    labels = [field.name for field in fields(Batch) if field.name != "crops"]
    return replace(batch, **{name: getattr(batch, name).index_copy(0, rows, getattr(moved, name)) for name in labels})


def _cut_out(planes: Tensor, config: AugmentConfig, random: torch.Generator) -> None:
    """Paints a rectangle of one colour over the chosen pictures."""
    n, _, size, _ = planes.shape
    rows = _chosen(n, config.cutout_probability, random).nonzero()[:, 0]
    if not len(rows):
        return
    middle, side, colour = _uniform((len(rows), 7), random).split([2, 2, 3], dim=1)
    half_px = 0.5 * size * config.cutout * (0.25 + 0.75 * side)
    pixels = torch.arange(size, device=planes.device) + 0.5
    inside = (pixels - size * middle[:, :, None]).abs() < half_px[:, :, None]
    mask = inside[:, None, 1, :, None] & inside[:, None, 0, None, :]
    planes.index_copy_(0, rows, torch.where(mask, 255 * colour[:, :, None, None], planes[rows]))


def _blur(planes: Tensor, config: AugmentConfig, random: torch.Generator) -> None:
    """Gaussian blur of the chosen pictures, each with its own sigma; at the edges only pixels of the picture count."""
    n, _, size, _ = planes.shape
    rows = _chosen(n, config.blur_probability, random).nonzero()[:, 0]
    if not len(rows):
        return
    sigma_px = (config.blur_px * _uniform((len(rows), 1, 1), random)).clamp(min=1e-2)
    pixels = torch.arange(size, device=planes.device)
    weights = (-0.5 * ((pixels - pixels[:, None]) / sigma_px).square()).exp()
    weights = (weights / weights.sum(2, keepdim=True))[:, None]
    # A separable filter of any width is a matrix product on each side.
    planes.index_copy_(0, rows, weights @ planes[rows] @ weights.mT)


def _recolour(planes: Tensor, config: AugmentConfig, random: torch.Generator) -> None:
    """Contrast about each channel's mean, then brightness, then a gain for each channel."""
    n = len(planes)
    is_chosen = _chosen(n, config.colour_probability, random)
    if config.colour_probability == 0:
        return
    draws = (2 * _uniform((n, 5), random) - 1) * is_chosen[:, None]
    contrast, shift = 1 + config.contrast * draws[:, :1], config.brightness * draws[:, 1:2]
    white = 1 + config.channel_gain * draws[:, 2:]
    offset = white * ((1 - contrast) * planes.mean((2, 3)) + shift)
    planes.mul_((contrast * white)[:, :, None, None]).add_(offset[:, :, None, None])


def _add_noise(planes: Tensor, config: AugmentConfig, random: torch.Generator) -> None:
    """Normal noise in the chosen pictures, each with its own standard deviation."""
    n = len(planes)
    rows = _chosen(n, config.noise_probability, random).nonzero()[:, 0]
    if not len(rows):
        return
    sigma = config.noise * _uniform((len(rows), 1, 1, 1), random)
    noise = torch.randn((len(rows), *planes.shape[1:]), generator=random, device=random.device)
    planes.index_add_(0, rows, noise.mul_(sigma))


def _chosen(n: int, probability: float, random: torch.Generator) -> Tensor:
    """(n,) bool, each true with the probability."""
    return _uniform((n,), random) < probability


def _uniform(shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=random, device=random.device)
