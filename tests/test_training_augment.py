"""What augmentation shows is what its labels say, and what it was not asked to change it leaves alone."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from generated_shards import GeneratedShards

from handmesh.geometry.crop import take_crop
from handmesh.records import Camera
from handmesh.skeleton import ROOT
from handmesh.training.augment import augment, move_camera, turn_camera
from handmesh.training.command import AugmentConfig
from handmesh.training.data import Batch, empty_batch
from handmesh.training.layer import HandLayer

CHANGES = ("camera", "roll", "colour", "noise", "blur", "cutout")
OFF = {f"{name}_probability": 0.0 for name in CHANGES}


def only(**settings: float) -> AugmentConfig:
    """Nothing but what is asked for."""
    return AugmentConfig(**{**OFF, **settings})


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_cameras(batch: Batch, zoom_from: float = 0.8) -> tuple[torch.Tensor, torch.Tensor]:
    """A rotation (N, 3, 3) and a zoom (N,) for each sample, larger than augmentation's."""
    n, size = batch.crops.shape[:2]
    shift = 0.3 * torch.randn(n, 2, generator=seeded())
    return turn_camera(torch.linspace(-2.0, 2.0, n), shift, batch.focal_px, size), torch.linspace(zoom_from, 1.3, n)


@pytest.fixture
def batch(hand_model) -> Batch:
    """16 samples: hands, mirrored hands, no hands and some not scored."""
    return GeneratedShards(hand_model).batch(16, 0.3)


def test_a_moved_camera_sees_the_labels_that_it_gives(hand_model, batch):
    # As wide as a crop camera gets, so that the perspective counts.
    batch = replace(batch, focal_px=batch.focal_px / 3)
    middle_px = (batch.crops.shape[1] - 1) / 2
    placed_m = batch.joints_m + batch.root_m[:, None]
    seen_px = placed_m[..., :2] / placed_m[..., 2:] * batch.focal_px[:, None, None] + middle_px
    batch = replace(batch, keypoints_px=torch.where(batch.has_joints[:, None, None], seen_px, batch.keypoints_px))
    moved = move_camera(batch, *some_cameras(batch))
    mine = batch.has_joints
    assert mine.sum() > 4
    placed_m = (moved.joints_m + moved.root_m[:, None])[mine]
    seen_px = placed_m[..., :2] / placed_m[..., 2:] * moved.focal_px[mine, None, None] + middle_px
    assert (seen_px - moved.keypoints_px[mine]).abs().max() < 1e-3
    assert (moved.keypoints_px - batch.keypoints_px)[mine].abs().amax((1, 2)).min() > 3
    layer = HandLayer(hand_model)
    vertices_m = layer(moved.rotmats, moved.betas)
    joints_m = layer.joints(vertices_m)
    assert (joints_m - joints_m[:, ROOT : ROOT + 1] - moved.joints_m)[mine].abs().max() < 1e-6
    assert (vertices_m - joints_m[:, ROOT : ROOT + 1] - moved.vertices_m)[mine].abs().max() < 1e-6


def test_a_moved_camera_sees_the_crop_that_the_runtime_would_cut():
    n, size = 8, 64
    rng = np.random.default_rng(0)
    # Smooth, so that two ways to interpolate agree, and bright, so that black borders are seen.
    waves = np.stack([np.add.outer(a * np.arange(size), b * np.arange(size)) for a, b in rng.uniform(-0.15, 0.15, (3 * n, 2))])
    images = np.round(180 + 60 * np.sin(waves)).astype(np.uint8).reshape(n, 3, size, size).transpose(0, 2, 3, 1)
    batch = replace(empty_batch(n, size, 1), crops=torch.tensor(images.copy()))
    R_new_old, zoom = some_cameras(batch, zoom_from=1.0)
    moved = move_camera(batch, R_new_old, zoom)
    middle_px = (size - 1) / 2
    for sample in range(n):
        old_camera = Camera(float(size), float(size), middle_px, middle_px, size, size)
        focal_px = size * float(zoom[sample])
        new_camera = Camera(focal_px, focal_px, middle_px, middle_px, size, size)
        crop = take_crop(images[sample], old_camera, new_camera, R_new_old[sample].numpy().T.astype(np.float64))
        difference = np.abs(crop.image.astype(np.float32) - moved.crops[sample].numpy())
        # Bilinear weights in 1/32 over there; the black border is a step of 240.
        assert difference.max() < 12 and difference.mean() < 1
        assert (crop.image == 0).all(-1).any()


def test_pictures_and_parts_move_with_the_keypoints(batch):
    n = len(batch)
    crops, parts = torch.zeros_like(batch.crops), torch.zeros_like(batch.parts)
    # A square of 8 x 8 pixels that is four cells of the parts: columns 36..43, rows 20..27.
    crops[:, 20:28, 36:44] = 255
    parts[:, 5:7, 9:11] = 7
    where = torch.tensor([39.5, 23.5]).repeat(n, 21, 1)
    drawn = replace(batch, crops=crops, parts=parts, keypoints_px=where)
    R_new_old = turn_camera(torch.linspace(-2.0, 2.0, n), torch.linspace(-0.2, 0.2, n)[:, None].repeat(1, 2), batch.focal_px, 64)
    moved = move_camera(drawn, R_new_old, torch.linspace(0.9, 1.2, n))
    light = moved.crops.sum(-1)
    pixels = torch.arange(64.0)
    x = (light.sum(1) * pixels).sum(1) / light.sum((1, 2))
    y = (light.sum(2) * pixels).sum(1) / light.sum((1, 2))
    assert (torch.stack([x, y], dim=-1) - moved.keypoints_px[:, 0]).abs().max() < 0.3
    for sample in range(n):
        row, column = (moved.parts[sample] == 7).nonzero().float().mean(0)
        centre = torch.stack([4 * column + 1.5, 4 * row + 1.5])
        assert (centre - moved.keypoints_px[sample, 0]).abs().max() < 4


def wall(size: int, n: int, has_joints: bool) -> tuple[Batch, torch.Tensor, torch.Tensor]:
    """Crops of a plane normal . X = distance that fills the picture; a root joint on it, keypoints 0.12 m apart around it."""
    normal, distance_m = torch.tensor([0.1, -0.05, 1.0]), torch.tensor(0.5)
    z_m = wall_z_m(size, torch.full((n,), float(size)), normal.repeat(n, 1), distance_m)
    root_m = torch.tensor([0.04, 0.02, float(distance_m - 0.1 * 0.04 + 0.05 * 0.02)]).repeat(n, 1)
    around_m = root_m[:, None] + 0.06 * torch.tensor([[-1.0, -1, 0], [1, 1, 0], [0, 0, 0]])[torch.arange(21) % 3]
    around_m[:, ROOT] = root_m
    truths = torch.ones(n, dtype=torch.bool)
    parts = torch.ones(n, size // 4, size // 4, dtype=torch.int64)
    parts[:, :5] = 0
    batch = replace(
        empty_batch(n, size, 1),
        keypoints_px=around_m[..., :2] / around_m[..., 2:] * size + (size - 1) / 2,
        root_m=root_m if has_joints else torch.zeros(n, 3),
        depth_m=torch.where(parts > 0, z_m - root_m[:, 2, None, None], 0.0),
        parts=parts,
        has_keypoints=truths, has_dense=truths, has_joints=truths & has_joints,
    )  # fmt: skip
    return batch, normal, root_m


def wall_z_m(size: int, focal_px: torch.Tensor, normal: torch.Tensor, distance_m: torch.Tensor) -> torch.Tensor:
    """(N, S/4, S/4) z of a plane at the middle of each cell."""
    middles = 4 * torch.arange(size // 4) + 1.5 - (size - 1) / 2
    y, x = torch.meshgrid(middles, middles, indexing="ij")
    rays = torch.stack([x, y, torch.zeros_like(x)], dim=-1) / focal_px[:, None, None, None] + torch.tensor([0.0, 0, 1])
    return distance_m / (rays * normal[:, None, None]).sum(-1)


@pytest.mark.parametrize("has_joints", [True, False])
def test_depth_is_that_of_the_new_camera(has_joints):
    size, n = 256, 6
    batch, normal, root_m = wall(size, n, has_joints)
    around = torch.arange(6.0)
    R_new_old = turn_camera(torch.linspace(-1.0, 1.0, n), 0.2 * torch.stack([around.cos(), around.sin()], dim=1), batch.focal_px, size)
    moved = move_camera(batch, R_new_old, torch.linspace(0.9, 1.1, n))
    truth_m = wall_z_m(size, moved.focal_px, normal @ R_new_old.mT, torch.tensor(0.5)) - (R_new_old @ root_m[..., None])[:, 2, :, None]
    error_m = torch.where(moved.parts > 0, (moved.depth_m - truth_m).abs(), 0.0)
    assert torch.where(moved.parts > 0, (moved.depth_m - batch.depth_m).abs(), 0.0).amax((1, 2)).min() > 0.05
    # Half a cell is 4 mm, and the plane is never steeper than 1 in 3. A hand of 0.12 m that is taken for one of 0.15 m
    # adds a quarter of what the turn changes: sin(t) x, with x up to 0.4 m at the corners.
    assert error_m.max() < 2.5e-3 + (0.0 if has_joints else 0.25 * 0.196 * 0.4)
    assert (moved.depth_m[moved.parts == 0] == 0).all() and (moved.depth_m[moved.parts > 0] != 0).all()


def test_a_camera_that_stays_changes_nothing(batch):
    n = len(batch)
    still = move_camera(batch, turn_camera(torch.zeros(n), torch.zeros(n, 2), batch.focal_px, 64), torch.ones(n))
    for field in fields(Batch):
        before, after = getattr(batch, field.name), getattr(still, field.name)
        assert torch.allclose(after.float(), before.float(), atol=1e-2 if field.name in ("crops", "keypoints_px") else 1e-6), field.name


def test_a_turned_camera_looks_at_the_shift(batch):
    shift = torch.tensor([[0.2, -0.1]]).repeat(len(batch), 1)
    there_px = (shift * 64 + 31.5)[:, None].repeat(1, 21, 1)
    R_new_old = turn_camera(torch.linspace(-2.0, 2.0, len(batch)), shift, batch.focal_px, 64)
    assert (move_camera(replace(batch, keypoints_px=there_px), R_new_old, batch.focal_px / 100).keypoints_px - 31.5).abs().max() < 1e-3
    assert (R_new_old @ R_new_old.mT - torch.eye(3)).abs().max() < 1e-6 and (torch.det(R_new_old) > 0).all()


def test_presence_goes_down_with_keypoints_that_leave():
    size = 64
    # x of 21 keypoints: 60 stays in the crop when the camera turns half a crop to the right, 10 leaves it.
    stay = {"most": 13, "some": 8, "few": 4, "was_few": 4, "unscored": 4, "hidden": 8, "nobody": 0, "no_keypoints": 4}
    keypoints_px = torch.full((len(stay), 21, 2), 31.5)
    for row, (kind, count) in enumerate(stay.items()):
        gone = -500.0 if kind == "was_few" else 10.0
        keypoints_px[row, :, 0] = torch.tensor([60.0] * count + [gone] * (21 - count))
    holds = torch.tensor([kind not in ("nobody", "no_keypoints") for kind in stay])
    presence = torch.tensor([{"unscored": -1, "hidden": 0, "nobody": 0}.get(kind, 1) for kind in stay])
    names = [field.name for field in fields(Batch) if field.name.startswith("has_")]
    batch = replace(
        empty_batch(len(stay), size, 1), keypoints_px=keypoints_px, presence=presence,
        right=torch.where(holds, 1, -1), **dict.fromkeys(names, holds),
    )  # fmt: skip
    R_new_old = turn_camera(torch.zeros(len(stay)), torch.tensor([[0.5, 0.0]]).repeat(len(stay), 1), batch.focal_px, size)
    moved = move_camera(batch, R_new_old, torch.ones(len(stay)))
    assert moved.presence.tolist() == [1, -1, 0, 1, 0, 0, 0, 1]
    assert moved.right.tolist() == [1, 1, -1, 1, -1, 1, -1, -1]
    for name in names:
        assert getattr(moved, name).tolist() == [True, True, False, True, False, True, False, False], name


def test_nothing_is_changed_that_is_off(batch):
    same = augment(batch, only(), seeded())
    assert same.crops.dtype == torch.float32 and same.crops.shape == batch.crops.shape
    for field in fields(Batch):
        assert torch.equal(getattr(same, field.name), getattr(batch, field.name).to(getattr(same, field.name).dtype)), field.name


@pytest.mark.parametrize("alone", CHANGES)
def test_each_change_has_its_own_probability(batch, alone):
    kept = {field.name: getattr(batch, field.name).clone() for field in fields(Batch)}
    changed = augment(batch, only(**{f"{alone}_probability": 0.5}), seeded(1))
    difference = (changed.crops - batch.crops).abs().flatten(1).amax(1)
    assert 3 <= (difference > 0).sum() <= 13 and difference.max() > 1
    labels_moved = ((changed.keypoints_px != batch.keypoints_px).any(2).any(1)) & batch.has_keypoints
    assert torch.equal(labels_moved, (difference > 0) & batch.has_keypoints & (alone in ("camera", "roll")))
    assert all(torch.equal(getattr(batch, name), value) for name, value in kept.items())


def test_the_generator_decides_everything(batch):
    everything = AugmentConfig(**dict.fromkeys(OFF, 1.0))
    first, again, other = (augment(batch, everything, seeded(seed)) for seed in (3, 3, 4))
    assert all(torch.equal(getattr(first, field.name), getattr(again, field.name)) for field in fields(Batch))
    assert not torch.equal(first.crops, other.crops) and not torch.equal(first.keypoints_px, other.keypoints_px)
    assert first.crops.min() >= 0 and first.crops.max() <= 255
    assert (first.crops - batch.crops).abs().flatten(1).mean(1).min() > 1


def test_the_camera_moves_as_far_as_configured():
    n, size = 2000, 32
    batch = replace(empty_batch(n, size, 1), focal_px=torch.full((n,), 100.0), root_m=torch.tensor([0.0, 0, 1]).repeat(n, 1))
    moved = augment(batch, only(camera_probability=1.0, zoom_sd=0.2, zoom_limit=0.25, shift_sd=0.05), seeded())
    zoom = moved.focal_px / 100
    assert zoom.min().item() == pytest.approx(0.75) and zoom.max().item() == pytest.approx(1.25)
    assert ((zoom - 1).abs() < 0.1).float().mean().item() == pytest.approx(0.383, abs=0.04)
    # Where the old axis went, in old crops.
    shift = moved.root_m[:, :2] / moved.root_m[:, 2:] * 100 / size
    assert shift.std(0).sub(0.05).abs().max() < 0.005 and shift.mean(0).abs().max() < 0.005
    assert (moved.rotmats == 0).all()
    rolled = augment(replace(batch, root_m=torch.tensor([1.0, 0, 1]).repeat(n, 1)), only(roll_probability=1.0, roll_sd_deg=20.0), seeded())
    assert torch.rad2deg(torch.atan2(rolled.root_m[:, 1], rolled.root_m[:, 0])).std().item() == pytest.approx(20, rel=0.1)
    assert torch.equal(rolled.focal_px, batch.focal_px)


@pytest.fixture
def grey() -> Batch:
    """64 noisy pictures far from black and white."""
    values = torch.randint(100, 150, (64, 32, 32, 3), generator=seeded(), dtype=torch.uint8)
    return replace(empty_batch(64, 32, 1), crops=values)


def test_colour_is_brightness_contrast_and_gain(grey):
    still = {"colour_probability": 1.0, "brightness": 0.0, "contrast": 0.0, "channel_gain": 0.0}
    before = grey.crops.float()
    shift = augment(grey, only(**{**still, "brightness": 35.0}), seeded()).crops - before
    assert (shift - shift[:, :1, :1, :1]).abs().max() < 1e-3 and 30 < shift.abs().max() <= 35
    after = augment(grey, only(**{**still, "contrast": 0.35}), seeded()).crops
    ratio = after.std((1, 2)) / before.std((1, 2))
    assert (after.mean((1, 2)) - before.mean((1, 2))).abs().max() < 1e-2
    assert 0.65 <= ratio.min() < 0.7 and 1.3 < ratio.max() <= 1.3501
    ratio = augment(grey, only(**{**still, "channel_gain": 0.15}), seeded()).crops / before
    assert (ratio - ratio[:, :1, :1]).abs().max() < 1e-4 and 0.84 < ratio.min() < 0.87 and 1.13 < ratio.max() < 1.16
    assert ratio.std(-1).max() > 0.05
    # The gain comes last: contrast does not change by how much a channel's mean is multiplied.
    both = augment(grey, only(**{**still, "contrast": 0.35, "channel_gain": 0.15}), seeded()).crops
    assert (both.mean((1, 2)) / before.mean((1, 2)) - 1).abs().max() < 0.1501


def test_noise_is_at_most_as_strong_as_configured(grey):
    noise = augment(grey, only(noise_probability=1.0, noise=8.0), seeded()).crops - grey.crops
    spread = noise.std((1, 2, 3))
    assert 7 < spread.max() < 8.4 and spread.min() < 1 and noise.mean((1, 2, 3)).abs().max() < 0.5


def test_blur_is_gaussian_and_ends_at_the_edge():
    n, size = 64, 32
    crops = torch.zeros(n, size, size, 3, dtype=torch.uint8)
    crops[:, 16, 16] = 255
    blurred = augment(replace(empty_batch(n, size, 1), crops=crops), only(blur_probability=1.0, blur_px=1.5), seeded()).crops
    assert (blurred.sum((1, 2)) - 255).abs().max() < 0.1
    squares = (torch.arange(32.0) - 16).square()
    for axis in (1, 2):
        variance = (blurred.sum(axis) * squares[:, None]).sum(1) / 255
        assert 1.3**2 < variance.max() <= 1.5**2 + 1e-3 and variance.min() < 0.3
    flat = augment(replace(empty_batch(n, size, 1), crops=torch.full_like(crops, 90)), only(blur_probability=1.0), seeded()).crops
    assert (flat - 90).abs().max() < 1e-3


def test_a_cutout_is_one_rectangle_of_one_colour(grey):
    changed = augment(grey, only(cutout_probability=1.0, cutout=0.4), seeded()).crops
    sides = []
    for before, after in zip(grey.crops.float(), changed, strict=True):
        mask = (after != before).any(-1)
        rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        assert mask.sum() == len(rows) * len(columns) > 0
        assert len(after[mask].unique(dim=0)) == 1
        sides += [len(rows), len(columns)]
    assert 11 <= max(sides) <= 0.4 * 32 + 1
