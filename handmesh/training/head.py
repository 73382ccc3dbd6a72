"""Trains the head that turns what a landmark network sees into a hand's parameters. Reads looks from memory; read `train_head` first."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, gelu

from handmesh.config import config_to_dict
from handmesh.errors import UserError, one_line
from handmesh.geometry.rotation import rotmat_to_rot6d
from handmesh.hand_model.skinning import HandModel
from handmesh.head import ANSWER_SIZE, TYPICAL_S
from handmesh.looks import Looks
from handmesh.training.command import check_amounts, check_positive, check_shares
from handmesh.training.layer import HandLayer, rot6d_to_rotmat
from handmesh.training.losses import Posed, align_points, pose_hands, weak_perspective_to_translation
from handmesh.training.optimizer import update_average
from handmesh.wholefile import replacing

# Half-crops per metre of a hand in its region, its log's spread; and of the aim in half-crops: so that outputs are of one size.
_SCALE_SPREAD, _AIM_SPREAD = 1.0, 0.5
_ROT6D, _BETAS, _POINTS = 96, 10, 21
_OUTPUTS = _ROT6D + _BETAS + 3 + 2 + _POINTS
# What is expected of keypoints before anything is learnt, and the least and largest that is ever said.
_TYPICAL_SPREAD_M, _LEAST_LOG, _LARGEST_LOG = 0.005, -3.0, 3.5
# Mean distance of a two-dimensional normal distribution over its standard deviation along an axis.
_DISTANCE_OVER_SPREAD = float(np.sqrt(np.pi / 2))
_FARTHEST_INPUT = 8.0
# Of the averaged weights, which are measured and exported.
_AVERAGE_DECAY = 0.998


@dataclass(frozen=True)
class HeadLossWeights:
    """What each term of the loss counts."""

    joints: float = 200.0
    """L1 of 3D joints from the root, metres."""
    keypoints: float = 40.0
    """L1 of keypoints, in sides of the region."""
    rotmats: float = 4.0
    """L1 of rotation matrices."""
    betas: float = 0.02
    """L1 of shape."""
    scale: float = 1.0
    """L1 of the logarithm of the weak camera's scale."""
    landmarks: float = 60.0
    """Distance of the keypoints, moved to a detector's landmarks, to these, in sides of the region (photographs)."""
    betas_of_photographs: float = 0.01
    """Squared shape where only landmarks are known."""
    presence: float = 0.3
    """Cross-entropy of presence."""
    right: float = 0.3
    """Cross-entropy of the side."""
    spread: float = 0.05
    """How well the expected errors fit."""

    def __post_init__(self) -> None:
        check_amounts(self, *(item.name for item in fields(self)))


@dataclass(frozen=True)
class HeadTraining:
    """How a head is trained."""

    width: int = 320
    """Of the hidden layers."""
    map_channels: int = 24
    """That the map is squeezed to."""
    steps: int = 4500
    """Batches."""
    batch_size: int = 512
    """Rendered looks in a batch."""
    photographs: int = 384
    """Looks at photographs in a batch, where there are any."""
    learning_rate: float = 1.5e-3
    """AdamW's, at its highest; one cycle."""
    weight_decay: float = 0.02
    """Of all weights."""
    noise: float = 0.05
    """On the standardised inputs while training."""
    drop_answer: float = 0.4
    """Fraction of looks that come without the hand network's answer."""
    dropout: float = 0.1
    """In the hidden layers; twice as much on the map."""
    seed: int = 0
    """Decides weights, batches and noise."""
    loss: HeadLossWeights = HeadLossWeights()

    def __post_init__(self) -> None:
        check_positive(self, "width", "map_channels", "steps", "batch_size", "learning_rate")
        check_amounts(self, "photographs", "weight_decay", "noise", "seed")
        check_shares(self, "drop_answer", "dropout")
        if self.dropout > 0.5:
            raise UserError(f"expected dropout of at most 0.5, got {self.dropout:g}; the map has twice as much")


@dataclass
class HeadPrediction:
    """What a head says about N regions; see `records.HandParams`."""

    rot6d: Tensor
    betas: Tensor
    camera: Tensor
    presence_logit: Tensor
    right_logit: Tensor
    spread_m: Tensor


class HeadNet(nn.Module):
    """A perceptron on the pooled vector, the squeezed map and the hand network's answer.

    Args:
        pooled_size, map_channels: of the landmark network.
        settings: the rest.
    """

    pooled_mean: Tensor
    pooled_std: Tensor
    map_mean: Tensor
    map_std: Tensor
    answer_mean: Tensor
    answer_std: Tensor
    start: Tensor

    def __init__(self, pooled_size: int, map_channels: int, settings: HeadTraining):
        super().__init__()
        width, squeezed = settings.width, settings.map_channels
        self.pooled = nn.Linear(pooled_size, width)
        self.squeeze = nn.Conv2d(map_channels, squeezed, 1)
        self.map = nn.Sequential(nn.GELU(), nn.Flatten(), nn.Dropout(2 * settings.dropout), nn.Linear(49 * squeezed, width, bias=False))
        self.answer = nn.Linear(ANSWER_SIZE + 1, width, bias=False)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Dropout(settings.dropout), nn.Linear(width, width))
            for _ in range(2)
        )
        self.last = nn.Linear(width, _OUTPUTS)
        with torch.no_grad():
            self.last.weight.mul_(0.05)
            self.last.bias.zero_()
        sizes = {"pooled": (pooled_size,), "map": (map_channels, 1, 1), "answer": (ANSWER_SIZE,)}
        for name, shape in sizes.items():
            self.register_buffer(f"{name}_mean", torch.zeros(shape))
            self.register_buffer(f"{name}_std", torch.ones(shape))
        self.register_buffer("start", torch.tensor([1.0, 0, 0, 0, 1, 0]).repeat(16))

    def standardise_by(self, looks: Looks, rows: np.ndarray, params_rows: np.ndarray) -> None:
        """Take means and deviations of the inputs from some looks, and the mean pose from those with parameters."""
        values = {"pooled": looks.pooled[rows].astype(np.float32), "answer": looks.answer[rows].astype(np.float32)}
        values["map"] = np.moveaxis(looks.map[rows].astype(np.float32), 1, 0).reshape(looks.map.shape[1], -1).T
        for name, array in values.items():
            mean, std = array.mean(0), array.std(0) + 1e-3
            for part, vector in (("mean", mean), ("std", std)):
                buffer: Tensor = getattr(self, f"{name}_{part}")
                buffer.copy_(torch.from_numpy(vector).view(buffer.shape))
        mean_rotmats = looks.labels["rotmats"][params_rows].mean(0)
        self.start.copy_(torch.from_numpy(rotmat_to_rot6d(mean_rotmats).reshape(-1)))

    def forward(self, pooled: Tensor, feature_map: Tensor, answer: Tensor, has_answer: Tensor, noise: float = 0.0) -> HeadPrediction:
        """Predict.

        Args:
            pooled: (N, P).
            feature_map: (N, C, 7, 7).
            answer: (N, 111), by `head.answer_in_region`.
            has_answer: (N, 1) 1 or 0.
            noise: standard deviation added to the standardised inputs (to the map once it is squeezed).
        """

        def standard(value: Tensor, name: str) -> Tensor:
            return ((value - getattr(self, f"{name}_mean")) / getattr(self, f"{name}_std")).clamp(-_FARTHEST_INPUT, _FARTHEST_INPUT)

        def noisy(value: Tensor) -> Tensor:
            return value + noise * torch.randn_like(value) if noise else value

        answered = has_answer * noisy(standard(answer, "answer"))
        # The map is squeezed first: noise on all of it would take as long as the rest of a step.
        squeezed = noisy(self.squeeze(standard(feature_map, "map")))
        hidden = self.pooled(noisy(standard(pooled, "pooled"))) + self.map(squeezed)
        hidden = hidden + self.answer(torch.cat([answered, has_answer], 1))
        for block in self.blocks:
            hidden = hidden + block(hidden)
        out = self.last(gelu(hidden))
        rot6d, betas, place, logits, spread = out.split([_ROT6D, _BETAS, 3, 2, _POINTS], 1)
        s = TYPICAL_S * torch.exp(_SCALE_SPREAD * place[:, :1])
        camera = torch.cat([s, _AIM_SPREAD * place[:, 1:] / s], 1)
        spread_m = _TYPICAL_SPREAD_M * torch.exp((5 * spread).clamp(_LEAST_LOG, _LARGEST_LOG))
        return HeadPrediction(self.start + rot6d, betas, camera, logits[:, 0], logits[:, 1], spread_m)


@dataclass(frozen=True)
class HeadErrors:
    """A head on looks that it was not trained on.

    Attributes:
        pa_mpjpe_mm, mpjpe_mm, log_scale: of rendered hands: mean joint distance after the best similarity, from the root, and mean error
            of the logarithm of the weak camera's scale.
        plain, moved: median and 95th percentile, over photographs, of the mean distance of keypoints as they are, and moved, to the
            landmarks, over the larger side of their box.
        spread_ratio: mean distance of keypoints over what was expected; 1 where the expectation is right.
        presence, right: fractions that were said right.
    """

    pa_mpjpe_mm: float
    mpjpe_mm: float
    log_scale: float
    plain: tuple[float, float]
    moved: tuple[float, float]
    spread_ratio: float
    presence: float
    right: float

    def __str__(self) -> str:
        photographs = f"photographs {self.plain[0]:.4f}/{self.plain[1]:.3f} moved {self.moved[0]:.4f}/{self.moved[1]:.3f}"
        rendered = f"rendered {self.pa_mpjpe_mm:.2f} PA {self.mpjpe_mm:.2f} mm, log scale {self.log_scale:.4f}"
        return f"{rendered}; {photographs}; presence {self.presence:.3f} side {self.right:.3f}; spread {self.spread_ratio:.2f}"


class _Rows:
    """Looks as tensors, by rows."""

    def __init__(self, looks: Looks, size_px: int):
        self.looks, self.size_px = looks, size_px

    def inputs(self, rows: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        return tuple(torch.from_numpy(array[rows]).float() for array in (self.looks.pooled, self.looks.map, self.looks.answer))  # pyright: ignore[reportReturnType]

    def label(self, name: str, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(self.looks.labels[name][rows]))


def train_head(
    looks: Looks,
    hand_model: HandModel,
    size_px: int,
    settings: HeadTraining,
    say: Callable[[int, HeadErrors | None], None] = lambda step, errors: None,
    score_every: int = 1000,
) -> tuple[HeadNet, HeadErrors]:
    """Train a head.

    Args:
        looks: of rendered hands (`has_params`), photographs (`landmark_weight`), and regions without a hand.
        size_px: side of the regions.
        say: told after each step; with the errors on the validation looks where they were measured.

    Raises:
        UserError: nothing to train on, or to measure on.
    """
    torch.manual_seed(settings.seed)
    labels, rng = looks.labels, np.random.default_rng(settings.seed)
    is_photograph = labels["landmark_weight"] > 0
    is_rendered = ~is_photograph & (labels["has_params"] | (labels["source"] == 0)).astype(bool)
    training = labels["is_validation"] == 0
    rendered, photographs = np.flatnonzero(training & is_rendered), np.flatnonzero(training & ~is_rendered)
    if not (labels["has_params"][rendered] == 1).any():
        raise UserError("expected looks at hands whose parameters are known, got none; render more")
    if not (labels["has_params"][~training] == 1).any():
        raise UserError("expected such looks that are not trained on, got none; set aside more of the rendered images")
    net = HeadNet(looks.pooled.shape[1], looks.map.shape[1], settings)
    some = rng.choice(np.flatnonzero(training), min(8192, int(training.sum())), replace=False)
    net.standardise_by(looks, some, rendered[labels["has_params"][rendered] == 1][:20000])
    # Joints alone are compared: posing all vertices would take most of the time.
    layer, rows = HandLayer(hand_model.for_joints), _Rows(looks, size_px)
    optimizer = torch.optim.AdamW(net.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=settings.steps + 1, pct_start=0.05)
    average = copy.deepcopy(net).eval().requires_grad_(False)
    errors = None
    for step in range(settings.steps):
        picked = rng.choice(rendered, min(settings.batch_size, len(rendered)), replace=False)
        if len(photographs):
            picked = np.concatenate([picked, rng.choice(photographs, min(settings.photographs, len(photographs)), replace=False)])
        loss = _loss(net, layer, rows, picked, settings)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        update_average(average, net, _AVERAGE_DECAY, step)
        errors = None
        if (step + 1) % score_every == 0 or step + 1 == settings.steps:
            errors = measure_head(average, layer, rows)
        say(step, errors)
    assert errors is not None
    return average, errors


def _posed(layer: HandLayer, prediction: HeadPrediction, focal_px: Tensor, size_px: int) -> tuple[Tensor, Posed]:
    rotmats = rot6d_to_rotmat(prediction.rot6d.view(-1, 16, 6))
    root_m = weak_perspective_to_translation(prediction.camera, focal_px, size_px)
    return rotmats, pose_hands(layer, rotmats, prediction.betas, root_m, focal_px, size_px)


def _loss(net: HeadNet, layer: HandLayer, rows: _Rows, picked: np.ndarray, settings: HeadTraining) -> Tensor:
    """Of one batch: each term is a mean over the looks that it holds for."""
    weights, size = settings.loss, rows.size_px
    label = {name: rows.label(name, picked) for name in rows.looks.labels.dtype.names or ()}
    has_answer = (torch.rand(len(picked), 1) >= settings.drop_answer).float()
    prediction = net(*rows.inputs(picked), has_answer, settings.noise)
    known, seen = label["has_params"] == 1, label["landmark_weight"] > 0
    focal_px = torch.where(label["focal_px"] > 0, label["focal_px"], 2.0 * size)
    rotmats, posed = _posed(layer, prediction, focal_px, size)
    with torch.no_grad():
        truth = pose_hands(layer, label["rotmats"][known], label["betas"][known], label["root_m"][known], focal_px[known], size)
        true_s = 2 * focal_px / (size * label["root_m"][:, 2].clamp(min=0.05))
    terms = [
        weights.joints * (posed.joints_m[known] - truth.joints_m).abs().mean(),
        weights.keypoints * (posed.keypoints_px[known] - label["points_px"][known]).abs().clamp(max=size).mean() / size,
        weights.rotmats * (rotmats[known] - label["rotmats"][known]).abs().mean(),
        weights.betas * (prediction.betas[known] - label["betas"][known]).abs().mean(),
        weights.scale * (prediction.camera[known, 0].log() - true_s[known].log()).abs().mean(),
    ]
    distance_px = torch.where(known[:, None], (posed.keypoints_px - label["points_px"]).norm(dim=-1), 0.0)
    if seen.any():
        to_landmarks = (posed.landmarks_px[seen] - label["points_px"][seen]).norm(dim=-1).clamp(max=size)
        weight = label["landmark_weight"][seen, None]
        terms.append(weights.landmarks * (weight * to_landmarks).mean() / size)
        terms.append(weights.betas_of_photographs * prediction.betas[seen].square().mean())
        distance_px = distance_px.index_put((torch.nonzero(seen)[:, 0],), to_landmarks)
    # A wrong keypoint is not to be excused by its expected error: the first gets no gradient from here.
    off_m = distance_px.detach() * 2 / (size * prediction.camera[:, :1].detach())
    expected = off_m / (_DISTANCE_OVER_SPREAD * prediction.spread_m) + prediction.spread_m.log() - np.log(_TYPICAL_SPREAD_M)
    terms.append(weights.spread * expected[known | seen].mean())
    for name, weight in (("presence", weights.presence), ("right", weights.right)):
        answers = label[name]
        holds = answers >= 0
        logits = getattr(prediction, f"{name}_logit")[holds]
        terms.append(weight * binary_cross_entropy_with_logits(logits, answers[holds].float()))
    return torch.stack(terms).sum()


@torch.no_grad()
def measure_head(net: nn.Module, layer: HandLayer, rows: _Rows, with_answer: bool = True) -> HeadErrors:
    """Errors on the validation looks of a head in evaluation mode."""
    held_out = np.flatnonzero(rows.looks.labels["is_validation"] == 1)
    found: dict[str, list[Tensor]] = {name: [] for name in ("pa", "mp", "scale", "plain", "moved", "ratio", "presence", "right")}
    for start in range(0, len(held_out), 1024):
        picked = held_out[start : start + 1024]
        label = {name: rows.label(name, picked) for name in rows.looks.labels.dtype.names or ()}
        prediction: HeadPrediction = net(*rows.inputs(picked), torch.full((len(picked), 1), float(with_answer)))
        known, seen, size = label["has_params"] == 1, label["landmark_weight"] > 0, rows.size_px
        focal_px = torch.where(label["focal_px"] > 0, label["focal_px"], 2.0 * size)
        _, posed = _posed(layer, prediction, focal_px, size)
        if known.any():
            truth = pose_hands(layer, label["rotmats"][known], label["betas"][known], label["root_m"][known], focal_px[known], size)
            found["pa"].append((align_points(posed.joints_m[known], truth.joints_m) - truth.joints_m).norm(dim=-1).mean(1))
            found["mp"].append((posed.joints_m[known] - truth.joints_m).norm(dim=-1).mean(1))
            true_s = 2 * focal_px / (size * label["root_m"][:, 2].clamp(min=0.05))
            found["scale"].append((prediction.camera[known, 0].log() - true_s[known].log()).abs())
        box_px = (label["points_px"].amax(1) - label["points_px"].amin(1)).amax(1)
        plain, moved = ((points - label["points_px"]).norm(dim=-1) for points in (posed.keypoints_px, posed.landmarks_px))
        found["plain"].append(plain.mean(1)[seen] / box_px[seen])
        found["moved"].append(moved.mean(1)[seen] / box_px[seen])
        expected_px = _DISTANCE_OVER_SPREAD * prediction.spread_m * size * prediction.camera[:, :1] / 2
        found["ratio"].append((plain / expected_px)[known].mean(1))
        for name in ("presence", "right"):
            holds = label[name] >= 0
            found[name].append(((getattr(prediction, f"{name}_logit") > 0) == (label[name] == 1))[holds].float())
    all_of = {name: torch.cat(parts).double().numpy() if parts else np.full(1, np.nan) for name, parts in found.items()}

    def quantiles(values: np.ndarray) -> tuple[float, float]:
        return (float(np.median(values)), float(np.quantile(values, 0.95))) if len(values) else (float("nan"), float("nan"))

    return HeadErrors(
        pa_mpjpe_mm=1e3 * float(all_of["pa"].mean()),
        mpjpe_mm=1e3 * float(all_of["mp"].mean()),
        log_scale=float(all_of["scale"].mean()),
        plain=quantiles(all_of["plain"]),
        moved=quantiles(all_of["moved"]),
        spread_ratio=float(all_of["ratio"].mean()),
        presence=float(all_of["presence"].mean()),
        right=float(all_of["right"].mean()),
    )


def save_head(net: HeadNet, settings: HeadTraining, metadata: dict[str, Any], path: Path) -> None:
    """Write a head's weights whole, or not at all.

    Raises:
        UserError: they cannot be written.
    """
    try:
        with replacing(path) as temporary:
            torch.save({"weights": net.state_dict(), "training": config_to_dict(settings), "metadata": metadata}, temporary)
    except (OSError, RuntimeError) as error:
        raise UserError(f"expected to write the head '{path}', but that failed ({one_line(error)}); free the disk") from error
