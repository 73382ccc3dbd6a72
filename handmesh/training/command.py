"""Everything that `handmesh-train` can be told, and what it runs. Imports no torch, so that --help is quick."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from handmesh.config import parse_config
from handmesh.errors import UserError

Head = Literal["pooled", "keypoint"]
Precision = Literal["f32", "bf16"]
FreiHandCrop = Literal["keypoints", "fixed"]
SourceKind = Literal["shards", "freihand", "photographs"]


def check_shares(config: object, *names: str) -> None:
    """Refuse a configuration whose named settings are not within 0..1."""
    for name in names:
        value = getattr(config, name)
        if not 0 <= value <= 1:
            raise UserError(f"expected {name} in 0..1, got {value:g}; it is a share")


def check_amounts(config: object, *names: str) -> None:
    """Refuse a configuration whose named settings are not finite and at least 0."""
    for name in names:
        value = getattr(config, name)
        if not (math.isfinite(value) and value >= 0):
            raise UserError(f"expected a finite {name} of at least 0, got {value:g}; 0 leaves it out")


def check_positive(config: object, *names: str) -> None:
    """Refuse a configuration whose named settings are not positive and finite, or None."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise UserError(f"expected a positive {name}, got {value}; leave it out for the default")


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    variant: str = "fastvit_t8"
    """One of timm's FastViT: fastvit_t8, t12, s12, sa12, sa24, sa36, ma36 (each with the prefix)."""
    head: Head = "keypoint"
    """pooled: global average and one linear layer, as in the paper. keypoint: guided by heat maps."""
    size_px: int = 128
    """Side of the square crop; a multiple of 32. Larger pictures are averaged down to it."""
    pretrained: bool = False
    """Start from timm's ImageNet weights (downloaded once)."""
    drop_path: float = 0.0
    """Rate of stochastic depth; worth it for the large variants."""
    dense: bool = True
    """Heads that draw the parts of the hand and their depth while training; they are left out of the export."""
    overparameterized: bool = True
    """FastViT's additional branches while training; without them each block has the one convolution that is left after fusing."""
    freeze_norm: bool = False
    """Batch normalisation keeps its statistics: for fine-tuning with small batches."""

    def __post_init__(self) -> None:
        if not 0 <= self.drop_path < 1:
            raise UserError(f"expected drop_path of at least 0 and below 1, got {self.drop_path:g}; 0.1 to 0.3 are usual")


@dataclass(frozen=True)
class AugmentConfig:
    """What is changed on the fly, beside what the renderer varied. Labels follow."""

    camera_probability: float = 0.5
    """Share of pictures seen by another virtual camera: zoomed and shifted."""
    zoom_sd: float = 0.1
    """Standard deviation of the focal length's factor around 1."""
    zoom_limit: float = 0.25
    """The factor stays in 1 - limit to 1 + limit."""
    shift_sd: float = 0.05
    """How far the camera is turned off the hand, each way, in crops."""
    roll_probability: float = 0.4
    """Share of pictures whose camera is rolled."""
    roll_sd_deg: float = 30.0
    """Standard deviation of the roll."""
    colour_probability: float = 0.8
    """Share of pictures with another brightness, contrast and white."""
    contrast: float = 0.35
    """Times 1 - contrast to 1 + contrast about the picture's mean."""
    brightness: float = 35.0
    """Up to so much darker or lighter, in 0..255."""
    channel_gain: float = 0.15
    """Each channel times 1 - gain to 1 + gain."""
    noise_probability: float = 0.3
    """Share of pictures with noise."""
    noise: float = 8.0
    """Largest standard deviation of the noise, in 0..255."""
    blur_probability: float = 0.1
    """Share of pictures out of focus."""
    blur_px: float = 1.5
    """Largest standard deviation of that blur, in pixels of the crop."""
    cutout_probability: float = 0.2
    """Share of pictures with a rectangle painted over."""
    cutout: float = 0.4
    """Largest side of the rectangle, in crops."""

    def __post_init__(self) -> None:
        check_shares(self, *(item.name for item in fields(self) if item.name.endswith("_probability")), "zoom_limit")
        amounts = ("zoom_sd", "shift_sd", "roll_sd_deg", "contrast", "brightness", "channel_gain", "noise", "blur_px", "cutout")
        check_amounts(self, *amounts)


@dataclass(frozen=True)
class SourceConfig:
    """A dataset to train on."""

    kind: SourceKind = "shards"
    """shards: images of handmesh-synth. freihand: a folder in FreiHAND's layout. photographs: what tools/pack_photographs.py packed."""
    folders: tuple[Path, ...] = (Path("data/synthetic"),)
    """Where it is: several folders of shards are one source; FreiHAND (the folder that holds training/) and photographs are one folder."""
    weight: float = 1.0
    """Its fraction of each batch is this over the sum of all sources' weights."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise UserError(f"expected a positive weight of a source, got {self.weight:g}; leave a source out to train without it")
        if not self.folders:
            raise UserError(f"expected at least one folder for a source of kind '{self.kind}', got none; give its folders")
        if self.kind != "shards" and len(self.folders) != 1:
            raise UserError(
                f"expected one folder for a source of kind '{self.kind}', got {len(self.folders)}; list each as a source of its own"
            )


@dataclass(frozen=True)
class DataConfig:
    """The images."""

    sources: tuple[SourceConfig, ...] = (SourceConfig(),)
    """Datasets that each batch is drawn from, by their weights. On the command line by number: --data.sources.0.folders DIR."""
    freihand_crop: FreiHandCrop = "keypoints"
    """keypoints: the box around the annotated keypoints, as at run time. fixed: METRO's, the middle 180 px of every picture."""
    backgrounds: Path | None = None
    """Folder of pictures to put behind FreiHAND's hands, by their masks."""
    background_share: float = 0.5
    """Share of FreiHAND's pictures that get one of them."""
    batch_size: int = 64
    """Pictures a step, over all devices together."""
    mirror_share: float = 0.25
    """Share of pictures shown mirrored: they teach handedness and where keypoints are, but no parameters."""
    upright_share: float = 0.0
    """Share of each batch of shards drawn from hands that point up, as webcams see them; the rest is drawn from all."""
    photograph_augment: AugmentConfig = field(default_factory=AugmentConfig)
    """What is changed of photographs, instead of `augment`: they are few, and no renderer varied them."""
    validation_pictures: int = 1024
    """So many pictures are never trained on: the first of the first folder of shards; of FreiHAND all versions of a few hands. Of
    photographs at most so many of their own validation split are scored, which is never trained on."""
    prefetch_batches: int = 4
    """How many batches wait ready."""
    readers: int = 1
    """Threads that read them."""

    def __post_init__(self) -> None:
        check_positive(self, "batch_size", "prefetch_batches", "readers")
        check_shares(self, "background_share", "mirror_share", "upright_share")
        if self.validation_pictures < 0:
            raise UserError(f"expected at least 0 validation_pictures, got {self.validation_pictures}; 0 holds out none")
        if not self.sources:
            raise UserError("expected at least one source in data.sources, got none; handmesh-synth makes images for one")


@dataclass(frozen=True)
class LossWeights:
    """Weight of each loss term; a term's unit is in its comment. 0 leaves a term out."""

    vertices: float = 40.0
    """L1 in metres, relative to the root joint."""
    joints: float = 40.0
    """L1 in metres, relative to the root joint."""
    keypoints_2d: float = 8.0
    """L1 of the projected joints, in crops."""
    landmarks: float = 8.0
    """Charbonnier distance of the keypoints, moved by LANDMARK_OFFSETS_M, to a detector's landmarks, in crops (photographs)."""
    rotmats: float = 1.0
    """L1 of the matrices' entries."""
    betas: float = 0.05
    """L1 in standard deviations."""
    camera_scale: float = 0.5
    """Absolute logarithm of the ratio of s."""
    camera_shift: float = 10.0
    """L1 of tx, ty in metres."""
    heatmaps: float = 8.0
    """L1 of the heat maps' keypoints, in crops; for keypoints inside the crop."""
    heatmap_cells: float = 0.3
    """Cross-entropy of the heat maps against the cells around each keypoint."""
    parts: float = 0.3
    """Cross-entropy of the parts of the hand."""
    depth: float = 5.0
    """L1 in metres of each pixel's depth behind the root joint, on the hand."""
    presence: float = 0.2
    """Binary cross-entropy."""
    right: float = 0.3
    """Binary cross-entropy."""
    teacher_parameters: float = 1.0
    """L1 to the teacher's rotation matrices, betas and camera (distill.teacher alone)."""
    teacher_vertices: float = 40.0
    """L1 in metres to the teacher's vertices, relative to the root joint."""
    teacher_features: float = 1.0
    """1 - cosine between the teacher's final features and a linear map of the student's."""

    def __post_init__(self) -> None:
        check_amounts(self, *(term.name for term in fields(self)))


@dataclass(frozen=True)
class DistillConfig:
    """A larger network that shows how."""

    teacher: Path | None = None
    """Checkpoint of the teacher, of the same hand model; it may read larger crops."""


@dataclass(frozen=True)
class ScheduleConfig:
    """How long, and how fast."""

    pictures: int = 1_000_000
    """Length of the training, in pictures seen."""
    max_minutes: float | None = None
    """Ends the schedule by then if the pictures are not seen before. Such a run depends on the machine's speed."""
    shape: Literal["cosine", "step"] = "cosine"
    """cosine: down to the final rate. step: to the final rate at once, half way (METRO)."""
    warmup_pictures: int = 20_000
    """The rate rises over so many pictures."""
    learning_rate: float = 1e-3
    """AdamW's, at its highest."""
    final_learning_rate: float = 1e-6
    """At the end."""
    layer_decay: float = 1.0
    """Each layer of the trunk learns this much slower than the next (timm); 1 for all alike."""
    weight_decay: float = 0.05
    """Not on biases and normalisation."""
    clip_norm: float = 5.0
    """Longer gradients are shortened to this."""
    accumulate: int = 1
    """Parts that a device's share of a batch is worked through in, for want of memory."""
    ema_decay: float = 0.9995
    """Of the averaged weights that are validated and exported; approached gradually."""

    def __post_init__(self) -> None:
        check_positive(self, "pictures", "max_minutes", "learning_rate", "layer_decay", "clip_norm", "accumulate")
        check_shares(self, "layer_decay", "ema_decay")
        check_amounts(self, "warmup_pictures", "final_learning_rate", "weight_decay")


@dataclass(frozen=True)
class TrainCommand:
    """Train a network on rendered images, FreiHAND, photographs, or any mixture of them."""

    out: Path = Path("runs/train")
    """Folder of the checkpoints (last.pt, best.pt), the numbers (metrics.csv, TensorBoard) and pictures of how it went."""
    hand_model: str = "open"
    """'open', 'mano', or the path of a hand model's npz: the one whose parameters are learnt. Pictures labelled with another model's
    parameters teach by their joints alone."""
    precision: Precision = "bf16"
    """bf16: autocast; the weights stay f32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU if there is one."""
    devices: int = 1
    """GPUs (or processes, on the CPU) on each machine."""
    nodes: int = 1
    """Machines; start the command on each with torchrun."""
    sync_bn: bool = False
    """Batch normalisation over all devices' pictures together (GPUs)."""
    compile: bool = False
    """torch.compile the network (GPUs)."""
    seed: int = 0
    """Decides first weights, order of pictures and augmentation."""
    log_every_batches: int = 50
    """Steps between two lines of metrics.csv."""
    validate_every_pictures: int = 50_000
    """How often the averaged weights are scored on the held-out pictures."""
    save_every_minutes: float = 5.0
    """How often last.pt is written."""
    keep_every_pictures: int | None = None
    """Also keep a checkpoint of its own every so many pictures."""
    init_from: Path | None = None
    """A checkpoint whose averaged weights start this training, with a fresh schedule; it may be for another hand model."""
    resume: bool = False
    """Go on with out/last.pt."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossWeights = field(default_factory=LossWeights)
    distill: DistillConfig = field(default_factory=DistillConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)

    def __post_init__(self) -> None:
        check_positive(
            self, "log_every_batches", "validate_every_pictures", "save_every_minutes", "keep_every_pictures", "devices", "nodes"
        )


def parse_train(argv: Sequence[str]) -> TrainCommand:
    """`handmesh-train FILE.yaml [--field value ...]`: see `config.parse_config`."""
    return parse_config(TrainCommand, argv, "handmesh-train")


def run_train(command: TrainCommand) -> Path:
    """Train, and say where the checkpoint is.

    Raises:
        UserError: bad settings, data or checkpoint; a loss that is no number.
    """
    from handmesh.training.loop import train

    return train(command)
