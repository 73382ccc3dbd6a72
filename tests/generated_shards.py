"""Shards of noise with consistent labels, in memory: what training's tests feed instead of rendered pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from handmesh.geometry.rotation import rotvec_to_rotmat
from handmesh.hand_model import HandModel
from handmesh.hand_model.skinning import skin
from handmesh.skeleton import ROOT
from handmesh.synthetic.scene import LABEL_DTYPE, NO_POSE, POSE_KINDS
from handmesh.training.data import Batch, ShardFolder, ShardSource, TrainingData


class GeneratedShards:
    """Noise pictures; `on_read` is called before each batch of pictures is handed out."""

    def __init__(self, model: HandModel, count: int = 32, size_px: int = 64, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.on_read: Callable[[], None] = lambda: None
        self._model = model
        self._images = rng.integers(0, 256, (count, size_px, size_px, 3), dtype=np.uint8)
        self._parts = rng.integers(0, 18, (count, size_px // 4, size_px // 4)).astype(np.uint8)
        self._depth = np.where(self._parts > 0, rng.normal(0, 0.05, self._parts.shape), 0).astype(np.float16)
        labels = np.zeros(count, LABEL_DTYPE)
        labels["rotmats"] = rotvec_to_rotmat(rng.normal(0, 0.4, (count, 16, 3)))
        labels["betas"] = rng.normal(0, 1, (count, 10))
        labels["root_m"] = rng.uniform((-0.03, -0.03, 0.6), (0.03, 0.03, 0.9), (count, 3))
        labels["focal_px"] = 3.0 * size_px
        joints_m = model.joints(skin(model.astype(np.float64), labels["rotmats"].astype(np.float64), labels["betas"].astype(np.float64)))
        placed_m = joints_m - joints_m[:, ROOT : ROOT + 1] + labels["root_m"][:, None]
        labels["keypoints_px"] = placed_m[..., :2] / placed_m[..., 2:] * 3.0 * size_px + (size_px - 1) / 2
        labels["visible"], labels["seen"] = 1, 1
        labels["tone"], labels["pose"] = rng.uniform(0, 1, count), rng.integers(0, len(POSE_KINDS), count)
        # As the renderer: some without a hand, whose labels are zeros, and some that are not scored.
        labels["presence"] = np.resize([1, 1, 1, 0, 1, -1], count)
        empty = labels["presence"] == 0
        for name in ("root_m", "focal_px", "keypoints_px", "visible", "betas", "tone", "seen"):
            labels[name][empty] = 0
        labels["rotmats"][empty], labels["pose"][empty] = np.eye(3), NO_POSE
        self._labels = labels

    def __len__(self) -> int:
        return len(self._labels)

    def images(self, idx: np.ndarray, /) -> np.ndarray:
        self.on_read()
        return self._images[idx]

    def parts(self, idx: np.ndarray, /) -> np.ndarray:
        return self._parts[idx]

    def depth(self, idx: np.ndarray, /) -> np.ndarray:
        return self._depth[idx]

    def labels(self, idx: np.ndarray, /) -> np.ndarray:
        return self._labels[idx]

    def folder(self, path: str = "generated") -> ShardFolder:
        """The same, as a `ShardSource` takes it."""
        return ShardFolder(Path(path), self, self._model)

    def source(
        self, validation_pictures: int = 8, upright_share: float = 0.0, size_px: int | None = None, trained: HandModel | None = None
    ) -> ShardSource:
        """The same, as `TrainingData` takes it; for the hand model that made the labels, or another."""
        size_px = size_px or self._images.shape[1]
        return ShardSource([self.folder()], trained or self._model, size_px, validation_pictures, upright_share)

    def data(
        self, batch_size: int = 8, validation_pictures: int = 8, mirror_share: float = 0.25, trained: HandModel | None = None
    ) -> TrainingData:
        """The same, as the training loop takes it."""
        return TrainingData([self.source(validation_pictures, trained=trained)], (1,), batch_size, mirror_share)

    def batch(self, size: int = 16, mirror_share: float = 0.0, trained: HandModel | None = None) -> Batch:
        """The first batch of training pictures."""
        return self.data(size, mirror_share=mirror_share, trained=trained).batch(0, 0)
