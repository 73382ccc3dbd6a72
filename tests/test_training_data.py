"""Batches and their augmentation keep pictures and labels together."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from generated_shards import GeneratedShards

from handmesh.errors import UserError
from handmesh.training.augment import augment, move_camera
from handmesh.training.command import AugmentConfig
from handmesh.training.data import Batch, ShardFolders, prefetch_batches, read_batch
from handmesh.training.layer import HandLayer
from handmesh.training.losses import pose_target


@pytest.fixture
def shards(hand_model):
    return GeneratedShards(hand_model)


@pytest.fixture
def batch(shards) -> Batch:
    return shards.folders().training_batch(0, 0, 16, 0.0)


def test_mirrored_pictures_say_only_that_they_are_no_right_hands(shards):
    mirrored = np.arange(12) % 2 == 1
    batch = read_batch(shards, np.arange(12), mirrored, 64)
    plain = read_batch(shards, np.arange(12), np.zeros(12, dtype=bool), 64)
    assert torch.equal(batch.crops[1::2], plain.crops[1::2].flip(2)) and torch.equal(batch.crops[::2], plain.crops[::2])
    assert not batch.has_params[1::2].any()
    assert torch.equal(batch.presence, plain.presence)
    there = batch.presence == 1
    assert torch.equal(batch.right, torch.where(there, torch.tensor(~mirrored).long(), -1))


def test_held_out_pictures_are_never_trained_on(shards):
    folders = shards.folders(validation_pictures=8)
    held_out = torch.cat([batch.crops for batch in folders.validation_batches(3)])
    assert np.array_equal(held_out.numpy()[:3], shards.images(np.arange(3))) and len(held_out) == 8
    seen = {bytes(crop.numpy()) for step in range(30) for crop in folders.training_batch(0, step, 8, 0.0).crops}
    assert len(seen) == len(folders) == 24
    assert not seen & {bytes(crop.numpy()) for crop in held_out}


def test_batches_depend_on_seed_and_step_alone(shards):
    ahead = [batch.crops for batch in islice(prefetch_batches(shards.folders(), 5, 2, 4, 0.3, ahead=3), 4)]
    again = [shards.folders().training_batch(5, step, 4, 0.3).crops for step in range(2, 6)]
    assert all(torch.equal(a, b) for a, b in zip(ahead, again, strict=True))
    assert not torch.equal(ahead[0], ahead[1])


def test_several_folders_are_one(hand_model):
    parts = {Path("a"): GeneratedShards(hand_model, 12, seed=1), Path("b"): GeneratedShards(hand_model, 20, seed=2)}
    folders = ShardFolders(list(parts), 64, 4, parts.__getitem__)
    batch = folders.training_batch(0, 0, 28, 0.0)
    expected = np.concatenate([parts[Path("a")].images(np.arange(4, 12)), parts[Path("b")].images(np.arange(20))])
    assert np.array_equal(batch.crops.numpy(), expected)


def test_unfit_folders_get_one_line(shards):
    with pytest.raises(UserError, match="more than data.validation_pictures = 32"):
        shards.folders(validation_pictures=32)
    with pytest.raises(UserError, match="model.size_px = 128"):
        ShardFolders([Path("x")], 128, 4, lambda _: shards)
    with pytest.raises(UserError, match="at least one folder"):
        ShardFolders([], 64, 4, lambda _: shards)


def test_what_the_reading_thread_raises_arrives(shards):
    def fail() -> None:
        raise UserError("the disk is gone")

    folders = shards.folders()
    shards.on_read = fail
    with pytest.raises(UserError, match="the disk is gone"):
        next(prefetch_batches(folders, 0, 0, 4, 0.0, ahead=2))


def test_a_moved_camera_sees_the_labels_that_it_gives(hand_model, batch):
    roll, zoom = torch.linspace(-2.0, 2.0, len(batch)), torch.linspace(0.8, 1.3, len(batch))
    moved = move_camera(batch, roll, zoom)
    mine = batch.has_params
    seen = pose_target(HandLayer(hand_model), moved).keypoints_px
    assert (seen - moved.keypoints_px)[mine].abs().max() < 1e-3
    assert (moved.keypoints_px - batch.keypoints_px)[mine].abs().max() > 5


def test_pictures_and_parts_move_with_the_keypoints(batch):
    crops, parts = torch.zeros_like(batch.crops), torch.zeros_like(batch.parts)
    # A 4 x 4 pixel square that is one cell of the parts: columns 40..43, rows 24..27.
    crops[:, 24:28, 40:44] = 255
    parts[:, 6, 10] = 7
    where = torch.tensor([41.5, 25.5]).repeat(len(batch), 21, 1)
    n = len(batch)
    drawn = Batch(**{**vars(batch), "crops": crops, "parts": parts, "keypoints_px": where})
    moved = move_camera(drawn, torch.linspace(-2.0, 2.0, n), torch.linspace(0.9, 1.2, n))
    light = moved.crops.sum(-1)
    pixels = torch.arange(64.0)
    x = (light.sum(1) * pixels).sum(1) / light.sum((1, 2))
    y = (light.sum(2) * pixels).sum(1) / light.sum((1, 2))
    assert (torch.stack([x, y], dim=-1) - moved.keypoints_px[:, 0]).abs().max() < 0.3
    for sample in range(n):
        row, column = (moved.parts[sample] == 7).nonzero().float().mean(0)
        centre = torch.stack([4 * column + 1.5, 4 * row + 1.5])
        assert (centre - moved.keypoints_px[sample, 0]).abs().max() < 4


def test_a_camera_that_stays_changes_nothing(batch):
    still = move_camera(batch, torch.zeros(len(batch)), torch.ones(len(batch)))
    for name, value in vars(batch).items():
        assert torch.allclose(getattr(still, name).float(), value.float(), atol=1e-2), name


def test_augmentation_can_be_turned_off_and_stays_in_range(batch):
    off = AugmentConfig(camera_probability=0, colour_probability=0, noise_probability=0, cutout_probability=0)
    assert torch.equal(augment(batch, off, torch.Generator()).crops, batch.crops.float())
    always = AugmentConfig(camera_probability=1, colour_probability=1, noise_probability=1, cutout_probability=1)
    crops = augment(batch, always, torch.Generator().manual_seed(0)).crops
    assert crops.min() >= 0 and crops.max() <= 255 and (crops - batch.crops.float()).abs().flatten(1).mean(1).min() > 1


@pytest.mark.parametrize("alone", ["camera", "colour", "noise", "cutout"])
def test_each_change_has_its_own_probability(batch, alone):
    values = {f"{name}_probability": float(name == alone) for name in ("camera", "colour", "noise", "cutout")}
    generator = torch.Generator().manual_seed(1)
    moved = augment(batch, AugmentConfig(**values), generator)
    assert (moved.crops - batch.crops.float()).abs().max() > 1
    assert torch.equal(moved.rotmats, batch.rotmats) == (alone != "camera")


def test_smaller_crops_keep_their_labels(shards, hand_model):
    """Halving a picture halves its focal length, and its labels still project to its keypoints."""
    picks, plain = np.arange(8), np.zeros(8, bool)
    whole, half = (read_batch(shards, picks, plain, size) for size in (64, 32))
    assert half.crops.shape[1:3] == (32, 32)
    assert half.parts.shape[1] * 2 == whole.parts.shape[1]
    torch.testing.assert_close(half.focal_px * 2, whole.focal_px)
    there = whole.has_params
    middle = [(len(batch.crops[0]) - 1) / 2 for batch in (whole, half)]
    torch.testing.assert_close((half.keypoints_px[there] - middle[1]) * 2, whole.keypoints_px[there] - middle[0])
    mean = whole.crops.float().reshape(8, 32, 2, 32, 2, 3).mean((2, 4))
    assert (half.crops.float() - mean).abs().max() <= 1


def test_upright_hands_come_as_often_as_asked(shards):
    # Turned so that -x, where fingers point at rest, is up (-y).
    shards._labels["rotmats"][::2, 0] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    folders = ShardFolders([Path("generated")], 64, 4, lambda _: shards, upright_share=1.0)
    for step in range(4):
        batch = folders.training_batch(0, step, 16, 0.0)
        fingers = -batch.rotmats[:, 0, :, 0]
        assert (batch.presence == 1).all() and (fingers[:, 1] < -0.5).all()
    anything = ShardFolders([Path("generated")], 64, 4, lambda _: shards).training_batch(0, 0, 16, 0.0)
    assert not (-anything.rotmats[:, 0, 1, 0] < -0.5).all()
