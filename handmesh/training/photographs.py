"""Photographs with a detector's landmarks as a source of training crops."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from handmesh.errors import UserError
from handmesh.geometry.crop import CROP_PADDING, mirror_picture
from handmesh.hand_model import HandModel
from handmesh.photographs import PADDING, TRAINING, VALIDATION, PhotographReader
from handmesh.training.augment import move_camera, other_cameras
from handmesh.training.command import AugmentConfig
from handmesh.training.data import Batch, deal_draws, empty_batch, mirrored_to_validate, permuted

# Orders of the photographs of each origin, apart from those of other sources.
_STREAM = 1000


class PhotographSource:
    """Photographs: 2D landmarks, presence and handedness, and hand model parameters where they are given.

    A training crop is what a camera that is zoomed, turned and rolled as `augment` says sees of the stored square, which is larger than
    the crop; black borders are rare. What else `augment` changes is left to the loop.

    Args:
        photographs: packed.
        hand_model: that is trained; parameters for another one are left out.
        size_px: side of the crops.
        validation_pictures: so many of the validation split are scored at most, evenly over it.
        augment: of photographs.

    Raises:
        UserError: nothing to train on.
    """

    name = "photographs"

    def __init__(
        self, photographs: PhotographReader, hand_model: HandModel, size_px: int, validation_pictures: int, augment: AugmentConfig
    ) -> None:
        self._photographs, self._hand_model, self._size_px = photographs, hand_model, size_px
        self._cameras = augment
        self.augment: AugmentConfig | None = replace(augment, camera_probability=0.0, roll_probability=0.0)
        labels = photographs.labels
        self._training = photographs.of_split(TRAINING)
        held_out = photographs.of_split(VALIDATION)
        self._held_out = held_out[np.unique(np.linspace(0, len(held_out) - 1, min(validation_pictures, len(held_out))).astype(int))]
        if not len(self._training):
            raise UserError(f"expected photographs to train on in '{photographs.folder}', got none; pack them again")
        # Hands by origin, then all that show none.
        has_hand = labels["presence"] != 0
        groups = [(has_hand & (labels["origin"] == number), each.largest_fraction) for number, each in enumerate(photographs.origins)]
        members = [(np.flatnonzero(group[self._training]), largest) for group, largest in [*groups, (~has_hand, None)]]
        there = [(rows, largest) for rows, largest in members if len(rows)]
        self._groups = [rows for rows, _ in there]
        self._fractions = capped_fractions([len(rows) for rows, _ in there], [largest for _, largest in there])

    def __len__(self) -> int:
        """How many photographs there are to train on."""
        return len(self._training)

    def picks(self, seed: int, draws: np.ndarray) -> np.ndarray:
        """See `data.Source`. Each origin comes as often as it has photographs, up to its largest fraction."""
        which, numbers = deal_draws(draws, self._fractions)
        picks = np.empty(len(draws), np.int64)
        for number, group in enumerate(self._groups):
            mine = which == number
            picks[mine] = group[permuted(seed, _STREAM + number, numbers[mine], len(group))]
        return picks

    def read(self, picks: np.ndarray, is_mirrored: np.ndarray, seeds: np.ndarray) -> Batch:
        """See `data.Source`. Random is the camera."""
        draws = [np.random.default_rng(seed) for seed in seeds.tolist()]
        chances = torch.tensor(np.array([rng.random(2) for rng in draws], np.float32))
        normal = torch.tensor(np.array([rng.normal(size=4) for rng in draws], np.float32))
        return self.crop(self.stored(self._training[picks], is_mirrored), chances, normal)

    def validation(self, size: int) -> Iterator[Batch]:
        """See `data.Source`."""
        for start in range(0, len(self._held_out), size):
            numbers = np.arange(start, min(start + size, len(self._held_out)))
            yield self.crop(self.stored(self._held_out[numbers], mirrored_to_validate(numbers)))

    def notes(self) -> list[str]:
        """See `data.Source`."""
        reader, origins = self._photographs, len(self._photographs.origins)
        lines = [f"photographs: {len(self)} of {origins} origins to train on, {len(self._held_out)} of their validation split scored"]
        if reader.hand_model not in (None, self._hand_model.id):
            lines.append(f"photographs: parameters are those of '{reader.hand_model}', '{self._hand_model.id}' learns by landmarks alone")
        return lines

    def stored(self, indices: np.ndarray, is_mirrored: np.ndarray) -> Batch:
        """The stored squares (S px) by index with their labels, some of them mirrored, before a crop is taken."""
        reader = self._photographs
        labels, images = reader.labels[indices], reader.images(indices)
        images[is_mirrored] = mirror_picture(images[is_mirrored])
        batch = empty_batch(len(indices), reader.size_px, len(self._hand_model.template_m))
        batch.crops.copy_(torch.from_numpy(images))
        has_hand = labels["presence"] != 0
        has_landmarks = labels["weight_landmarks"] > 0
        landmarks_px = labels["landmarks_px"].copy()
        landmarks_px[is_mirrored, :, 0] = reader.size_px - 1 - landmarks_px[is_mirrored, :, 0]
        _fill(batch.focal_px, labels["focal_px"], has_hand)
        _fill(batch.keypoints_px, landmarks_px, has_landmarks)
        _fill(batch.landmark_weight, labels["weight_landmarks"], has_landmarks)
        batch.has_keypoints.copy_(torch.from_numpy(has_landmarks))
        has_params = (labels["weight_params"] > 0) & ~is_mirrored
        if reader.hand_model == self._hand_model.id:
            _fill(batch.rotmats, labels["rotmats"], has_params)
            _fill(batch.betas, labels["betas"], has_params)
            _fill(batch.param_weight, labels["weight_params"], has_params)
            batch.has_params.copy_(torch.from_numpy(has_params))
        batch.presence.copy_(torch.from_numpy(labels["presence"].astype(np.int64)))
        batch.right.copy_(torch.from_numpy(np.where(has_hand & labels["has_side"], ~is_mirrored, -1).astype(np.int64)))
        batch.index.copy_(torch.from_numpy(indices.astype(np.int64)))
        return batch

    def crop(self, stored: Batch, chances: Tensor | None = None, normal: Tensor | None = None) -> Batch:
        """Crops of the network's size out of stored squares; without random numbers those of run time.

        Args:
            stored: as of `stored`.
            chances: (N, 2) evenly in 0..1: whether a camera is moved, and whether it is rolled.
            normal: (N, 4) as for `augment.other_cameras`.
        """
        n, size, device = len(stored), stored.crops.shape[1], stored.crops.device
        zoom = torch.full((n,), PADDING / CROP_PADDING, device=device)
        R_new_old = torch.eye(3, device=device).expand(n, 3, 3)
        if chances is not None and normal is not None:
            is_moved, is_rolled = chances[:, 0] < self._cameras.camera_probability, chances[:, 1] < self._cameras.roll_probability
            # Shifts are given in crops, which the stored square is larger than.
            shrunk = torch.cat([normal[:, :2], normal[:, 2:] * CROP_PADDING / PADDING], dim=1)
            R_new_old, factor = other_cameras(is_moved, is_rolled, shrunk, stored.focal_px, size, self._cameras)
            zoom = zoom * factor
        moved = move_camera(stored, R_new_old, zoom, self._size_px)
        return replace(moved, crops=moved.crops.round().clamp(0, 255).to(torch.uint8))


def capped_fractions(counts: Sequence[int], largest: Sequence[float | None]) -> list[float]:
    """Fractions in proportion to counts, none larger than its largest; what is cut off goes to the others in proportion.

    Raises:
        UserError: the largest fractions leave no way to make up a whole.
    """
    fractions = np.array(counts, float) / sum(counts)
    limits = np.array([1.0 if limit is None else limit for limit in largest])
    if limits.sum() < 1:
        raise UserError(f"expected largest fractions of the photographs' origins that reach 1 together, got {limits.sum():g}; raise them")
    is_capped = np.zeros(len(fractions), bool)
    while (over := (fractions > limits) & ~is_capped).any():
        is_capped |= over
        free = np.where(is_capped, 0.0, counts)
        fractions = np.where(is_capped, limits, free * (1 - limits[is_capped].sum()) / max(free.sum(), 1.0))
    return fractions.tolist()


def _fill(target: Tensor, values: np.ndarray, holds: np.ndarray) -> None:
    target[torch.from_numpy(holds)] = torch.from_numpy(values[holds])
