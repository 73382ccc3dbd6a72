"""What a prediction costs, and the same errors in units that people read."""

from __future__ import annotations

from dataclasses import dataclass, replace

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
# Landmarks nearer than this, in crops, pull less and less: they are not more exact.
_LANDMARK_SPREAD = 0.01
# Yes-or-no terms in which both answers count alike, and how much rarer the rarer one may be for that.
_BALANCED = ("presence", "right")
_LARGEST_RATIO = 8.0


@dataclass(frozen=True)
class Posed:
    """N hands in the crop camera.

    Attributes:
        vertices_m: (N, V, 3) relative to the root joint.
        joints_m: (N, 21, 3) relative to the root joint.
        keypoints_px: (N, 21, 2) where the crop camera sees the joints.
        landmarks_px: (N, 21, 2) where it sees them moved to a detector's landmarks (`HandLayer.landmarks`).
    """

    vertices_m: Tensor
    joints_m: Tensor
    keypoints_px: Tensor
    landmarks_px: Tensor


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

    def project(points_m: Tensor) -> Tensor:
        placed_m = points_m + root_m[:, None]
        depth_m = placed_m[..., 2:].clamp(min=_NEAREST_M)
        return placed_m[..., :2] / depth_m * focal_px[:, None, None] + (crop_size_px - 1) / 2

    return Posed(vertices_m, joints_m, project(joints_m), project(layer.landmarks(joints_m, rotmats)))


def pose_prediction(layer: HandLayer, prediction: Prediction, batch: Batch) -> Posed:
    """The hands that a network saw."""
    size = batch.crops.shape[1]
    rotmats = rot6d_to_rotmat(prediction.rot6d.view(-1, 16, 6))
    root_m = weak_perspective_to_translation(prediction.camera, batch.focal_px, size)
    return pose_hands(layer, rotmats, prediction.betas, root_m, batch.focal_px, size)


def label_counts(batch: Batch) -> dict[str, Tensor]:
    """How many samples each term of the loss holds for, () float each, from the labels alone.

    Heat maps and landmarks count keypoints inside the crop, and what has a weight counts by it. Presence and handedness, which
    `loss_terms` balances, count each answer by itself: presence_0, presence_1, right_0, right_1. Counts of parts of a batch add up to the
    whole's.
    """
    joints = batch.has_joints.sum()
    params = torch.where(batch.has_params, batch.param_weight, 0.0).sum()
    sought = torch.where(_sought(batch), _keypoint_weight(batch), 0.0).sum()
    counts = {
        "vertices": batch.has_vertices.sum(),
        **dict.fromkeys(("joints", "keypoints_2d", "camera_scale", "camera_shift"), joints),
        **dict.fromkeys(("rotmats", "betas"), params),
        "landmarks": torch.where(_landmarks_inside(batch), batch.landmark_weight[:, None], 0.0).sum(),
        **dict.fromkeys(("heatmaps", "heatmap_cells"), sought),
        "parts": batch.has_dense.sum(),
        "depth": (batch.has_dense & (batch.parts > 0).any((1, 2))).sum(),
        **{f"{name}_{answer}": (getattr(batch, name) == answer).sum() for name in _BALANCED for answer in (0, 1)},
    }
    return {name: count.float() for name, count in counts.items()}


def loss_terms(layer: HandLayer, prediction: Prediction, batch: Batch, counts: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Each term of the loss before weighting, by its name in `LossWeights`: the sum over the samples that it holds
    for, over how many there are.

    Landmarks are compared with the keypoints moved to where a detector sees them, on right hands, inside the crop. Heat maps seek the
    hand model's keypoints, so from landmarks the predicted hand's own displacement is taken away, as it is, without a gradient.

    A sample without a label of a kind adds nothing to that term, whatever its label says. Terms whose prediction is
    missing (heads that the network lacks or that only train) are left out; terms of weight 0 are not, so that every
    parameter gets a gradient, which DDP wants.

    Presence and handedness are binary cross-entropies in which both answers count alike: each sample of the rarer
    one has the weight of (number of the other) / (its own number), at most 8, of a sample of the other; the sum is
    over the sum of the weights. The weights are functions of the counts alone.

    Args:
        layer: of the hand model that the labels are for, in the prediction's precision.
        prediction, batch: of the same N crops.
        counts: `label_counts` of the whole batch of which these crops are a part, so that the terms, and their
            gradients, of the parts add up to the whole's. Over D devices whose gradients are averaged: the global
            counts over D, which may be fractions. None: of these crops.
    """
    size = batch.crops.shape[1]
    counts = label_counts(batch) if counts is None else counts
    # A nan of a label that does not hold must not even be multiplied by a zero.
    batch = without_unknown(batch)
    posed = pose_prediction(layer, prediction, batch)
    camera = translation_to_weak_perspective(batch.root_m, batch.focal_px, size)

    def over_count(name: str, values: Tensor, holds: Tensor) -> Tensor:
        return _ratio(torch.where(holds, values, 0.0).sum(), counts[name])

    def l1(name: str, ours: Tensor, theirs: Tensor, holds: Tensor, weight: Tensor | float = 1.0) -> Tensor:
        return over_count(name, weight * (ours - theirs).abs().flatten(1).mean(1), holds)

    def balanced(name: str, logits: Tensor, labels: Tensor) -> Tensor:
        of_0, of_1 = answer_weights(counts[f"{name}_0"], counts[f"{name}_1"])
        surprise = binary_cross_entropy_with_logits(logits, (labels == 1).to(logits.dtype), reduction="none")
        weighted = torch.where(labels == 1, of_1, of_0) * surprise
        return _ratio(torch.where(labels >= 0, weighted, 0.0).sum(), of_0 * counts[f"{name}_0"] + of_1 * counts[f"{name}_1"])

    terms = {
        "vertices": l1("vertices", posed.vertices_m, batch.vertices_m, batch.has_vertices),
        "joints": l1("joints", posed.joints_m, batch.joints_m, batch.has_joints),
        "keypoints_2d": l1("keypoints_2d", posed.keypoints_px / size, batch.keypoints_px / size, batch.has_joints),
        "landmarks": over_count(
            "landmarks",
            batch.landmark_weight[:, None] * _charbonnier((posed.landmarks_px - batch.keypoints_px) / size),
            _landmarks_inside(batch),
        ),
        "rotmats": l1("rotmats", rot6d_to_rotmat(prediction.rot6d.view(-1, 16, 6)), batch.rotmats, batch.has_params, batch.param_weight),
        "betas": l1("betas", prediction.betas, batch.betas, batch.has_params, batch.param_weight),
        "camera_scale": l1("camera_scale", prediction.camera[:, :1].log(), camera[:, :1].log(), batch.has_joints),
        "camera_shift": l1("camera_shift", prediction.camera[:, 1:], camera[:, 1:], batch.has_joints),
        **{name: balanced(name, getattr(prediction, f"{name}_logit"), getattr(batch, name)) for name in _BALANCED},
    }
    if prediction.keypoints is not None:
        displaced_px = torch.where(_are_landmarks(batch)[:, None, None], (posed.landmarks_px - posed.keypoints_px).detach(), 0.0)
        truth, sought, weight = _in_crop(batch.keypoints_px - displaced_px, size), _sought(batch), _keypoint_weight(batch)
        # Edge to edge is 2; half of it is in crops.
        terms["heatmaps"] = over_count("heatmaps", weight * (prediction.keypoints - truth).abs().mean(-1) / 2, sought)
        if prediction.heatmap_logits is not None:
            terms["heatmap_cells"] = over_count("heatmap_cells", weight * cell_cross_entropy(prediction.heatmap_logits, truth), sought)
    if prediction.parts_logits is not None:
        surprise = cross_entropy(prediction.parts_logits.float(), batch.parts, reduction="none").mean((1, 2))
        terms["parts"] = over_count("parts", surprise, batch.has_dense)
    if prediction.depth_m is not None:
        on_hand = batch.parts > 0
        error_m = torch.where(on_hand, (prediction.depth_m.float() - batch.depth_m).abs(), 0.0).sum((1, 2))
        terms["depth"] = over_count("depth", error_m / on_hand.sum((1, 2)).clamp(min=1), batch.has_dense)
    return terms


def without_unknown(batch: Batch) -> Batch:
    """The batch with zeros for labels that do not hold (ones for positions, S for focal lengths), whatever stood there."""
    size = batch.crops.shape[1]

    def where(holds: Tensor, labels: Tensor, otherwise: float = 0.0) -> Tensor:
        return torch.where(holds.view(-1, *(1,) * (labels.ndim - 1)), labels, otherwise)

    return replace(
        batch,
        focal_px=where(batch.has_joints | _are_landmarks(batch), batch.focal_px, float(size)),
        landmark_weight=where(batch.has_keypoints, batch.landmark_weight),
        param_weight=where(batch.has_params, batch.param_weight, 1.0),
        keypoints_px=where(batch.has_keypoints, batch.keypoints_px),
        joints_m=where(batch.has_joints, batch.joints_m),
        root_m=where(batch.has_joints, batch.root_m, 1.0),
        rotmats=where(batch.has_params, batch.rotmats),
        betas=where(batch.has_params, batch.betas),
        vertices_m=where(batch.has_vertices, batch.vertices_m),
        parts=where(batch.has_dense, batch.parts, 0),
        depth_m=where(batch.has_dense, batch.depth_m),
    )


def answer_weights(of_0: Tensor, of_1: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of a sample of each answer, from how many there are: equal totals, unless one is 8 times rarer and more.

    Returns:
        Those of the answers 0 and 1; that of the more frequent answer is 1.
    """
    ratio = (of_1.clamp(min=1e-9) / of_0.clamp(min=1e-9)).clamp(1 / _LARGEST_RATIO, _LARGEST_RATIO)
    return ratio.clamp(min=1.0), ratio.reciprocal().clamp(min=1.0)


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
        pa_mpvpe_mm: (N,) mean vertex distance after the best similarity, which is not that of the joints.
        mpjpe_mm: (N,) mean joint distance relative to the root joint.
        keypoints_share: (N,) mean 2D distance over the larger side of the true keypoints' box.
        landmarks_share: (N,) that of the keypoints moved to a detector's landmarks, to these.
        presence_hit, right_hit: (N,) 1 where the logit has the right sign.
    """

    pa_mpjpe_mm: Tensor
    pa_mpvpe_mm: Tensor
    mpjpe_mm: Tensor
    keypoints_share: Tensor
    landmarks_share: Tensor
    presence_hit: Tensor
    right_hit: Tensor


@torch.no_grad()
def measure_errors(layer: HandLayer, prediction: Prediction, batch: Batch) -> Errors:
    """The errors of a batch."""
    batch = without_unknown(batch)
    posed = pose_prediction(layer, prediction, batch)
    box_px = (batch.keypoints_px.amax(1) - batch.keypoints_px.amin(1)).amax(1)

    def where(values: Tensor, holds: Tensor) -> Tensor:
        return torch.where(holds, values, torch.nan)

    def distance(ours: Tensor, theirs: Tensor) -> Tensor:
        return (ours - theirs).norm(dim=-1).mean(1)

    def aligned_mm(ours: Tensor, theirs: Tensor) -> Tensor:
        return 1e3 * distance(align_points(ours, theirs), theirs)

    return Errors(
        pa_mpjpe_mm=where(aligned_mm(posed.joints_m, batch.joints_m), batch.has_joints),
        pa_mpvpe_mm=where(aligned_mm(posed.vertices_m, batch.vertices_m), batch.has_vertices),
        mpjpe_mm=where(1e3 * distance(posed.joints_m, batch.joints_m), batch.has_joints),
        keypoints_share=where(distance(posed.keypoints_px, batch.keypoints_px) / box_px, batch.has_joints),
        landmarks_share=where(distance(posed.landmarks_px, batch.keypoints_px) / box_px, _are_landmarks(batch)),
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


def _in_crop(keypoints_px: Tensor, size_px: int) -> Tensor:
    """(N, 21, 2) keypoints in -1..1 from the crop's edge to its other edge."""
    return (2 * keypoints_px + 1) / size_px - 1


def _inside(batch: Batch) -> Tensor:
    """(N, 21) bool: a known keypoint inside the crop."""
    return (_in_crop(batch.keypoints_px, batch.crops.shape[1]).abs() < 1).all(-1) & batch.has_keypoints[:, None]


def _are_landmarks(batch: Batch) -> Tensor:
    """(N,) bool: keypoints are a detector's landmarks, of a right hand, which alone can be compared with the hand model's."""
    return batch.has_keypoints & (batch.landmark_weight > 0) & (batch.right == 1)


def _landmarks_inside(batch: Batch) -> Tensor:
    """(N, 21) bool: such a landmark, inside the crop."""
    return _inside(batch) & _are_landmarks(batch)[:, None]


def _sought(batch: Batch) -> Tensor:
    """(N, 21) bool: a keypoint that heat maps are to find: the hand model's, or one that follows from a landmark."""
    return _inside(batch) & ((batch.landmark_weight == 0) | _are_landmarks(batch))[:, None]


def _keypoint_weight(batch: Batch) -> Tensor:
    """(N, 1) how much a sample's keypoints count."""
    return torch.where(batch.landmark_weight > 0, batch.landmark_weight, 1.0)[:, None]


def _charbonnier(distances: Tensor) -> Tensor:
    """(N, 21) length of (N, 21, 2), smooth at zero (Charbonnier et al. 1994): a far outlier pulls no harder than a near point."""
    return (distances.square().sum(-1) + _LANDMARK_SPREAD**2).sqrt() - _LANDMARK_SPREAD


def _ratio(total: Tensor, count: Tensor) -> Tensor:
    # Where nothing was counted the total is 0. No max(1, count): shares of a global count may be fractions.
    return total / torch.where(count > 0, count, 1.0)
