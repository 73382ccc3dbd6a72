"""Everything that `handmesh-train` can be told, and what it runs. Imports no torch, so that --help is quick."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from handmesh.config import parse_config
from handmesh.errors import UserError

Head = Literal["pooled", "keypoint"]
Precision = Literal["f32", "bf16"]


def _check_positive(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not value > 0:
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


@dataclass(frozen=True)
class DataConfig:
    """The pictures."""

    shards: tuple[Path, ...] = (Path("data/synthetic"),)
    """Folders of shards; new shards are noticed while training runs."""
    batch_size: int = 64
    mirror_share: float = 0.2
    """Share of pictures shown mirrored: they teach only that they are no right hands."""
    upright_share: float = 0.0
    """Share of each batch drawn from hands that point up, as webcams see them; the rest is drawn from all."""
    validation_pictures: int = 1024
    """The first so many of the first folder are never trained on."""
    prefetch_batches: int = 4
    """How many batches wait ready."""

    def __post_init__(self) -> None:
        _check_positive(self, "batch_size")


@dataclass(frozen=True)
class AugmentConfig:
    """What is changed on the fly, beside what the renderer varied."""

    camera_probability: float = 0.5
    """Share of pictures whose virtual camera is rolled and zoomed."""
    roll_deg: float = 30.0
    zoom: float = 0.1
    """Focal length times 1 - zoom to 1 + zoom."""
    colour_probability: float = 0.8
    """Share of pictures with another brightness, contrast and white."""
    noise_probability: float = 0.3
    noise: float = 8.0
    """Largest standard deviation of the noise, in 0..255."""
    cutout_probability: float = 0.2
    """Share of pictures with a rectangle painted over."""


@dataclass(frozen=True)
class LossWeights:
    """Weight of each loss term; a term's unit is in its comment. 0 leaves a term out."""

    vertices: float = 40.0
    """L1 in metres, relative to the root joint."""
    joints: float = 40.0
    """L1 in metres, relative to the root joint."""
    keypoints_2d: float = 8.0
    """L1 of the projected joints, in crops."""
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
    presence: float = 0.2
    """Binary cross-entropy."""
    right: float = 0.3
    """Binary cross-entropy."""


@dataclass(frozen=True)
class ScheduleConfig:
    """How long, and how fast."""

    pictures: int = 1_000_000
    """Length of the training, in pictures seen."""
    max_minutes: float | None = None
    """Ends the schedule by then if the pictures are not seen before."""
    warmup_pictures: int = 20_000
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-6
    weight_decay: float = 0.05
    """Not on biases and normalisation."""
    clip_norm: float = 5.0
    ema_decay: float = 0.9995
    """Of the averaged weights that are validated and exported; approached gradually."""

    def __post_init__(self) -> None:
        _check_positive(self, "pictures", "max_minutes")


@dataclass(frozen=True)
class TrainCommand:
    """Train a network on rendered pictures."""

    out: Path = Path("runs/train")
    """Folder of the checkpoint (last.pt) and the numbers (metrics.csv)."""
    hand_model: str = "open"
    """'open', 'mano', or the path of the npz of the hand model that the pictures were rendered with."""
    precision: Precision = "bf16"
    """bf16: autocast; the weights stay f32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = 0
    log_every_batches: int = 50
    validate_every_pictures: int = 50_000
    save_every_minutes: float = 5.0
    init_from: Path | None = None
    """A checkpoint whose averaged weights start this training, with a fresh schedule; it may be for another hand model."""
    resume: bool = False
    """Go on with out/last.pt."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossWeights = field(default_factory=LossWeights)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)

    def __post_init__(self) -> None:
        _check_positive(self, "log_every_batches", "validate_every_pictures", "save_every_minutes")


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
