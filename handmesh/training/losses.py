"""What a prediction costs, and the same errors in units that people read."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from handmesh.skeleton import ROOT
from handmesh.training.command import LossWeights
from handmesh.training.data import Batch
from handmesh.training.layer import HandLayer, rot6d_to_rotmat
from handmesh.training.model import Prediction

# Projection stays finite while an untrained network puts hands into the lens.
_NEAREST_M = 0.05


@dataclass(frozen=True)
class Posed:
    """N hands in the crop camera.

    Attributes:
        vertices_m: (N, V, 3) relative to the root joint.
        joints_m: (N, 21, 3) relative to the root joint.
        keypoints_px: (N, 21, 2) where the crop camera sees the joints.
    """

    vertices_m: Tensor
    joints_m: Tensor
    keypoints_px: Tensor


def weak_perspective_to_translation(camera: Tensor, focal_px: Tensor, crop_size_px: int) -> Tensor:
    """Twin of `geometry.camera.weak_perspective_to_translation`: (N, 3) and (N,) to (N, 3) metres."""
    return torch.cat([camera[:, 1:], 2 * focal_px[:, None] / (crop_size_px * camera[:, :1])], dim=1)


def translation_to_weak_perspective(translation_m: Tensor, focal_px: Tensor, crop_size_px: int) -> Tensor:
    """Inverse of `weak_perspective_to_translation`."""
    return torch.cat([2 * focal_px[:, None] / (crop_size_px * translation_m[:, 2:]), translation_m[:, :2]], dim=1)


def pose_hands(layer: HandLayer, rotmats: Tensor, betas: Tensor, root_m: Tensor, focal_px: Tensor, crop_size_px: int) -> Posed:
    """Skin hands, place them by their root joint and look at them.

    Args:
        rotmats: (N, 16, 3, 3).
        betas: (N, 10).
        root_m: (N, 3) in the crop camera.
        focal_px: (N,) of the crop camera.
    """
    vertices_m = layer(rotmats, betas)
    joints_m = layer.joints(vertices_m)
    root_in_model_m = joints_m[:, ROOT : ROOT + 1]
    vertices_m, joints_m = vertices_m - root_in_model_m, joints_m - root_in_model_m
    placed_m = joints_m + root_m[:, None]
    depth_m = placed_m[..., 2:].clamp(min=_NEAREST_M)
    keypoints_px = placed_m[..., :2] / depth_m * focal_px[:, None, None] + (crop_size_px - 1) / 2
    return Posed(vertices_m, joints_m, keypoints_px)


def pose_target(layer: HandLayer, batch: Batch) -> Posed:
    """The true hands of a batch; meaningless where `batch.has_params` is false."""
    with torch.no_grad():
        return pose_hands(layer, batch.rotmats, batch.betas, batch.root_m, batch.focal_px, batch.crops.shape[1])


def pose_prediction(layer: HandLayer, prediction: Prediction, batch: Batch) -> Posed:
    """The hands that a network saw."""
    size = batch.crops.shape[1]
    rotmats = rot6d_to_rotmat(prediction.rot6d.view(-1, 16, 6))
    root_m = weak_perspective_to_translation(prediction.camera, batch.focal_px, size)
    return pose_hands(layer, rotmats, prediction.betas, root_m, batch.focal_px, size)


def loss_terms(layer: HandLayer, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
    """Each term of the loss before weighting, by its name in `LossWeights`; a mean over the samples that it holds for.

    Args:
        layer: of the hand model that the labels are for, in the prediction's precision.
        prediction, batch: of the same N crops.
    """
    size = batch.crops.shape[1]
    posed, target = pose_prediction(layer, prediction, batch), pose_target(layer, batch)
    mine = batch.has_params
    # Where there is no hand the labels are zeros, of which the logarithm below would not be finite.
    focal_px = torch.where(mine, batch.focal_px, float(size))
    camera = translation_to_weak_perspective(torch.where(mine[:, None], batch.root_m, 1.0), focal_px, size)

    def l1(ours: Tensor, theirs: Tensor) -> Tensor:
        return _mean((ours - theirs).abs().flatten(1).mean(1), mine)

    terms = {
        "vertices": l1(posed.vertices_m, target.vertices_m),
        "joints": l1(posed.joints_m, target.joints_m),
        "keypoints_2d": l1(posed.keypoints_px / size, batch.keypoints_px / size),
        "rotmats": l1(rot6d_to_rotmat(prediction.rot6d.view(-1, 16, 6)), batch.rotmats),
        "betas": l1(prediction.betas, batch.betas),
        "camera_scale": l1(prediction.camera[:, :1].log(), camera[:, :1].log()),
        "camera_shift": l1(prediction.camera[:, 1:], camera[:, 1:]),
        "presence": _mean(_bce(prediction.presence_logit, batch.presence), batch.presence >= 0),
        "right": _mean(_bce(prediction.right_logit, batch.right), batch.right >= 0),
    }
    if prediction.keypoints is not None:
        # -1..1 from edge to edge; half of that distance is in crops.
        truth = (2 * batch.keypoints_px + 1) / size - 1
        inside = (truth.abs() < 1).all(-1) & mine[:, None]
        terms["heatmaps"] = _mean((prediction.keypoints - truth).abs().mean(-1) / 2, inside)
        if prediction.heatmap_logits is not None:
            terms["heatmap_cells"] = _mean(cell_cross_entropy(prediction.heatmap_logits, truth), inside)
    if prediction.parts_logits is not None:
        terms["parts"] = _mean(cross_entropy(prediction.parts_logits.float(), batch.parts, reduction="none").mean((1, 2)), mine)
    return terms


def cell_cross_entropy(logits: Tensor, points: Tensor) -> Tensor:
    """How surprised heat maps are by points: cross-entropy with each point shared bilinearly among its four nearest cells.

    It teaches where to look much sooner than the soft-argmax alone, whose gradient is weak while the map is flat.

    Args:
        logits: (N, K, H, W) before the softmax over the H x W cells.
        points: (N, K, 2) in -1..1 from the crop's edge to its other edge; beyond the middle of the outer cells they count as there.

    Returns:
        (N, K) in nats.
    """
    height, width = logits.shape[2:]
    extent = torch.tensor([width, height], device=points.device)
    cells = ((points + 1) * extent / 2 - 0.5).clamp(min=torch.zeros(2, device=points.device), max=extent - 1.0)
    low = cells.floor().minimum(extent - 2.0)
    share = cells - low
    log_shares = logits.float().flatten(2).log_softmax(-1)
    surprise = torch.zeros_like(log_shares[..., 0])
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        weight = (share[..., 0] if dx else 1 - share[..., 0]) * (share[..., 1] if dy else 1 - share[..., 1])
        index = ((low[..., 1] + dy) * width + low[..., 0] + dx).long()
        surprise = surprise - weight * log_shares.gather(2, index[..., None])[..., 0]
    return surprise


def total_loss(terms: dict[str, Tensor], weights: LossWeights) -> Tensor:
    """The weighted sum."""
    return torch.stack([getattr(weights, name) * term for name, term in terms.items()]).sum()


@dataclass(frozen=True)
class Errors:
    """Errors of each of N predictions; nan where a sample has no such label.

    Attributes:
        pa_mpjpe_mm: (N,) mean joint distance after the best similarity.
        mpjpe_mm: (N,) mean joint distance relative to the root joint.
        keypoints_share: (N,) mean 2D distance over the larger side of the true keypoints' box.
        presence_hit, right_hit: (N,) 1 where the logit has the right sign.
    """

    pa_mpjpe_mm: Tensor
    mpjpe_mm: Tensor
    keypoints_share: Tensor
    presence_hit: Tensor
    right_hit: Tensor


@torch.no_grad()
def measure_errors(layer: HandLayer, prediction: Prediction, batch: Batch) -> Errors:
    """The errors of a batch."""
    posed, target = pose_prediction(layer, prediction, batch), pose_target(layer, batch)
    box_px = (batch.keypoints_px.amax(1) - batch.keypoints_px.amin(1)).amax(1)

    def where(values: Tensor, holds: Tensor) -> Tensor:
        return torch.where(holds, values, torch.nan)

    def distance(ours: Tensor, theirs: Tensor) -> Tensor:
        return (ours - theirs).norm(dim=-1).mean(1)

    return Errors(
        pa_mpjpe_mm=where(1e3 * distance(align_points(posed.joints_m, target.joints_m), target.joints_m), batch.has_params),
        mpjpe_mm=where(1e3 * distance(posed.joints_m, target.joints_m), batch.has_params),
        keypoints_share=where(distance(posed.keypoints_px, batch.keypoints_px) / box_px, batch.has_params),
        presence_hit=where(((prediction.presence_logit > 0) == (batch.presence == 1)).float(), batch.presence >= 0),
        right_hit=where(((prediction.right_logit > 0) == (batch.right == 1)).float(), batch.right >= 0),
    )


def align_points(source: Tensor, target: Tensor) -> Tensor:
    """Each source moved by the similarity (rotation, scale, shift; no reflection) that brings it closest (Umeyama 1991).

    Args:
        source, target: (N, K, 3).

    Returns:
        (N, K, 3).
    """
    source_mean, target_mean = source.mean(1, keepdim=True), target.mean(1, keepdim=True)
    a, b = source - source_mean, target - target_mean
    u, singular, vh = torch.linalg.svd(b.mT @ a)
    sign = torch.ones_like(singular)
    sign[:, 2] = torch.det(u @ vh).sign()
    rotmats = (u * sign[:, None]) @ vh
    scale = (singular * sign).sum(1) / a.square().sum((1, 2)).clamp(min=1e-12)
    return scale[:, None, None] * a @ rotmats.mT + target_mean


def _bce(logits: Tensor, labels: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(logits, labels.clamp(min=0).to(logits.dtype), reduction="none")


def _mean(values: Tensor, holds: Tensor) -> Tensor:
    """Mean where it holds, 0 if nowhere. A where, not a product: a sample without a label must not pass on a nan."""
    return torch.where(holds, values, 0).sum() / holds.sum().clamp(min=1)
