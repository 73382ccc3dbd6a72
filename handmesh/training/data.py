"""Batches of labelled crops from shards, in an order that is a function of the seed and the step alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from itertools import count
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
from torch import Tensor

from handmesh.errors import UserError
from handmesh.geometry.crop import mirror_picture


class Shards(Protocol):
    """What is read: `handmesh.synthetic.shards.ShardReader`, or anything with its methods.

    images (n, S, S, 3) uint8; parts (n, S/4, S/4) uint8, 0 background, 1..16 joint + 1, 17 forearm; labels a structured
    array with rotmats (16, 3, 3), betas (10), root_m (3), focal_px, keypoints_px (21, 2), visible (21), presence (1, 0 or
    -1 for not scored). All hands are right hands.
    """

    def __len__(self) -> int: ...
    def images(self, idx: np.ndarray, /) -> np.ndarray: ...
    def parts(self, idx: np.ndarray, /) -> np.ndarray: ...
    def labels(self, idx: np.ndarray, /) -> np.ndarray: ...


@dataclass(frozen=True)
class Batch:
    """N crops and what is in them, in the crop camera.

    Attributes:
        crops: (N, S, S, 3) RGB in 0..255, uint8 until augmented, then float32.
        rotmats: (N, 16, 3, 3) parent-relative.
        betas: (N, 10).
        root_m: (N, 3) position of the root joint.
        focal_px: (N,) of the crop camera; its principal point is (S - 1) / 2.
        keypoints_px: (N, 21, 2).
        parts: (N, S/4, S/4) int64 classes.
        has_params: (N,) bool: a right hand that is there; only then do the labels above it hold.
        presence: (N,) 1 or 0, or -1 where it is not scored.
        right: (N,) 1 for a right hand, 0 for a mirrored one, -1 where there is no hand to judge.
    """

    crops: Tensor
    rotmats: Tensor
    betas: Tensor
    root_m: Tensor
    focal_px: Tensor
    keypoints_px: Tensor
    parts: Tensor
    has_params: Tensor
    presence: Tensor
    right: Tensor

    def __len__(self) -> int:
        return len(self.crops)

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return Batch(**{field.name: getattr(self, field.name).to(device, non_blocking=True) for field in fields(self)})


def read_batch(shards: Shards, indices: np.ndarray, is_mirrored: np.ndarray, size_px: int) -> Batch:
    """Pictures by index, some of them mirrored (x -> S-1-x); those keep no label but that they are no right hands.

    Args:
        indices: (N,) of the pictures.
        is_mirrored: (N,) bool.
        size_px: side of the batch's pictures, at most that of the shards'; larger ones are averaged down.
    """
    images, parts = np.array(shards.images(indices)), np.array(shards.parts(indices))
    labels = shards.labels(indices)
    scale = size_px / images.shape[1]
    if scale != 1:
        images = np.stack([cv2.resize(image, (size_px, size_px), interpolation=cv2.INTER_AREA) for image in images])
        side = round(scale * parts.shape[1])
        parts = np.stack([cv2.resize(part, (side, side), interpolation=cv2.INTER_NEAREST_EXACT) for part in parts])
    images[is_mirrored] = mirror_picture(images[is_mirrored])
    presence = labels["presence"].reshape(-1).astype(np.int64)
    there = presence == 1

    def floats(name: str) -> Tensor:
        return torch.from_numpy(np.array(labels[name], dtype=np.float32))

    return Batch(
        crops=torch.from_numpy(images),
        rotmats=floats("rotmats"),
        betas=floats("betas"),
        root_m=floats("root_m"),
        focal_px=floats("focal_px").reshape(-1) * scale,
        # Pixel centres are integers: (x + 0.5) scales.
        keypoints_px=(floats("keypoints_px") + 0.5) * scale - 0.5,
        parts=torch.from_numpy(parts.astype(np.int64)),
        has_params=torch.from_numpy(there & ~is_mirrored),
        presence=torch.from_numpy(presence),
        right=torch.from_numpy(np.where(there, ~is_mirrored, -1).astype(np.int64)),
    )


def points_up(labels: np.ndarray) -> np.ndarray:
    """(N,) bool: a hand is there whose fingers (-x at rest) point up in the picture (-y), within 60 degrees."""
    return (labels["presence"].reshape(-1) == 1) & (-labels["rotmats"][:, 0, 1, 0] < -0.5)


class ShardFolders:
    """Several folders of shards, some of which may still be growing.

    Training draws from all but the first `validation_pictures` of the first folder.

    Args:
        folders: at least one.
        size_px: side of the batches' pictures; those of the shards may be larger.
        validation_pictures: how many are held out.
        open_folder: makes a `Shards` of a folder, as `shard_opener` does.
        upright_share: share of training pictures drawn from those that `points_up`.

    Raises:
        UserError: no pictures, too few, or too small ones.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        size_px: int,
        validation_pictures: int,
        open_folder: Callable[[Path], Shards],
        upright_share: float = 0.0,
    ):
        self._open = open_folder
        self._folders = list(folders)
        self._held_out = validation_pictures
        self._readers: list[Shards] = []
        self._size_px = size_px
        self._upright_share = upright_share
        self._upright = np.zeros(0, np.int64)
        if not self._folders:
            raise UserError("expected at least one folder of shards in data.shards, got none")
        self.refresh()
        first = self._readers[0]
        if len(first) <= validation_pictures:
            raise UserError(
                f"expected more than data.validation_pictures = {validation_pictures} pictures in '{self._folders[0]}', "
                f"got {len(first)}; render more, or hold out fewer"
            )
        for folder, reader in zip(self._folders, self._readers, strict=True):
            side = reader.images(np.arange(1)).shape[1] if len(reader) else size_px
            if side < size_px:
                raise UserError(
                    f"expected pictures of at least model.size_px = {size_px} px in '{folder}', got {side} px; set it to {side}"
                )

    def refresh(self) -> None:
        """Notice shards that were added."""
        known = sum(map(len, self._readers))
        self._readers = [self._open(folder) for folder in self._folders]
        if self._upright_share > 0 and sum(map(len, self._readers)) != known:
            upright = np.concatenate([points_up(reader.labels(np.arange(len(reader)))) for reader in self._readers])
            self._upright = np.flatnonzero(upright[self._held_out :]) + self._held_out

    def __len__(self) -> int:
        """How many pictures there are to train on."""
        return sum(map(len, self._readers)) - self._held_out

    def training_batch(self, seed: int, step: int, size: int, mirror_share: float) -> Batch:
        """The batch of a step: the same for the same seed, step and shards."""
        rng = np.random.default_rng([seed, step])
        picks = rng.choice(len(self), size, replace=len(self) < size) + self._held_out
        if len(self._upright):
            picks = np.where(rng.random(size) < self._upright_share, rng.choice(self._upright, size), picks)
        return self._read(np.sort(picks), rng.random(size) < mirror_share)

    def validation_batches(self, size: int) -> Iterator[Batch]:
        """The held-out pictures in order; every fourth one mirrored."""
        for start in range(0, self._held_out, size):
            picks = np.arange(start, min(start + size, self._held_out))
            yield self._read(picks, picks % 4 == 3)

    def _read(self, picks: np.ndarray, is_mirrored: np.ndarray) -> Batch:
        batches, start = [], 0
        for reader in self._readers:
            mine = (picks >= start) & (picks < start + len(reader))
            if mine.any():
                batches.append(read_batch(reader, picks[mine] - start, is_mirrored[mine], self._size_px))
            start += len(reader)
        if len(batches) == 1:
            return batches[0]
        return Batch(**{field.name: torch.cat([getattr(batch, field.name) for batch in batches]) for field in fields(Batch)})


# Often enough to use pictures soon after they are rendered, rare enough to cost nothing.
_REFRESH_EVERY_STEPS = 500


def prefetch_batches(
    folders: ShardFolders, seed: int, first_step: int, size: int, mirror_share: float, ahead: int
) -> Generator[Batch, None, None]:
    """Endless training batches from `first_step` on, read by a thread that stays `ahead` of the caller."""

    def read(step: int) -> Batch:
        if step % _REFRESH_EVERY_STEPS == 0 and step > first_step:
            folders.refresh()
        return folders.training_batch(seed, step, size, mirror_share)

    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
    try:
        waiting: deque[Future[Batch]] = deque()
        for step in count(first_step):
            waiting.append(pool.submit(read, step))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def shard_opener(hand_model_id: str) -> Callable[[Path], Shards]:
    """Opens folders that handmesh-synth filled, or still fills, with pictures of one hand model."""
    from handmesh.synthetic.shards import ShardReader

    def open_folder(folder: Path) -> Shards:
        reader = ShardReader(folder, allow_partial=True)
        found = reader.manifest["hand_model"]
        if found != hand_model_id:
            raise UserError(f"expected pictures of hand model '{hand_model_id}' in '{folder}', got '{found}'; set hand_model to that model")
        return reader

    return open_folder
