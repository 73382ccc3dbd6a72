"""Which pictures come when, and that labels follow what is done to them on the way from shards."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_hand_model
from generated_shards import GeneratedShards

from handmesh.errors import UserError
from handmesh.hand_model import HandModel
from handmesh.hand_model.skinning import skin
from handmesh.skeleton import ROOT
from handmesh.synthetic import shards as shards_format
from handmesh.synthetic.config import PictureSet
from handmesh.synthetic.scene import Sample
from handmesh.synthetic.sets import open_set, plan_manifest
from handmesh.synthetic.shards import ShardWriter
from handmesh.training.command import DataConfig, SourceConfig
from handmesh.training.data import Batch, ShardSource, TrainingData, divide_draws, open_data, permuted, prefetch, read_shards


@pytest.fixture
def shards(hand_model) -> GeneratedShards:
    return GeneratedShards(hand_model)


def read(shards: GeneratedShards, model: HandModel, count: int, is_mirrored: bool = False, size_px: int = 64) -> Batch:
    return read_shards(shards, model, model, np.arange(count), np.full(count, is_mirrored), size_px)


def is_same(one: Batch, other: Batch) -> bool:
    """The same samples; posing more hands at once may round otherwise."""

    def equal(name: str, value: torch.Tensor) -> bool:
        theirs = getattr(other, name)
        return torch.allclose(value, theirs, rtol=0, atol=1e-6) if name in ("joints_m", "vertices_m") else torch.equal(value, theirs)

    return all(equal(name, value) for name, value in vars(one).items())


def projected(batch: Batch) -> torch.Tensor:
    placed_m = batch.joints_m + batch.root_m[:, None]
    return placed_m[..., :2] / placed_m[..., 2:] * batch.focal_px[:, None, None] + (batch.crops.shape[1] - 1) / 2


# Order


@pytest.mark.parametrize("count", [1, 7, 32])
def test_each_thing_comes_once_an_epoch_and_epochs_differ(count):
    order = permuted(3, 0, np.arange(4 * count), count).reshape(4, count)
    assert (np.sort(order, axis=1) == np.arange(count)).all()
    if count > 7:
        assert len({tuple(epoch) for epoch in order}) == 4
        assert not np.array_equal(order[0], permuted(4, 0, np.arange(count), count))
        assert not np.array_equal(order[0], permuted(3, 1, np.arange(count), count))


@pytest.mark.parametrize("share", [0.0, 0.1, 1 / 3, 0.5, 0.999999, 1.0])
def test_draws_are_dealt_out_evenly_and_each_stream_counts_its_own(share):
    draws = np.arange(10_000)
    is_first, number = divide_draws(draws, share)
    assert (number[is_first] == np.arange(is_first.sum())).all()
    assert (number[~is_first] == np.arange((~is_first).sum())).all()
    assert np.abs(np.cumsum(is_first) - share * (draws + 1)).max() <= 1 + 1e-6 * len(draws)
    far = np.array([10**12])
    assert abs(divide_draws(far, share)[1][0] - 10**12 * (share if divide_draws(far, share)[0][0] else 1 - share)) <= 1e6


def test_every_picture_is_shown_once_an_epoch(shards):
    data = shards.data(batch_size=8, validation_pictures=8)
    epochs = [torch.cat([data.batch(0, step).index for step in range(start, start + 3)]) for start in (0, 3)]
    for epoch in epochs:
        assert epoch.sort().values.tolist() == list(range(8, 32))
    assert not torch.equal(*epochs)


def two_sources(hand_model: HandModel, share: float = 0.25) -> TrainingData:
    first, second = (GeneratedShards(hand_model, count, seed=count).source(4) for count in (20, 33))
    return TrainingData([first, second], (share, 1 - share), 8, 0.4)


@pytest.mark.parametrize("rows", [[slice(0, 4), slice(4, 8)], [slice(0, 1), slice(1, 6), slice(6, 8)], [slice(0, 8, 2), slice(1, 8, 2)]])
def test_any_portions_of_a_step_hold_the_same_pictures(hand_model, rows):
    data = two_sources(hand_model)
    for step in (0, 1, 7):
        whole = data.batch(5, step)
        for some in rows:
            assert is_same(data.batch(5, step, some), whole.rows(some))
        parts = Batch.join([data.batch(5, step, some) for some in rows])
        order = torch.cat([torch.arange(8)[some] for some in rows])
        assert is_same(parts, whole.rows(order))


def test_two_sources_keep_their_shares_and_say_where_a_picture_is_from(hand_model):
    data = two_sources(hand_model, 0.3)
    batches = [data.batch(0, step) for step in range(20)]
    source = torch.cat([batch.source for batch in batches])
    assert (source == 0).sum() == 48
    assert all(abs(int((batch.source == 0).sum()) - 2.4) < 1 for batch in batches)
    # An epoch of each source: 16 and 29 pictures to train on.
    index = torch.cat([batch.index for batch in batches])
    assert len(index[source == 0][:16].unique()) == 16 and len(index[source == 1][:29].unique()) == 29
    for number, shards in enumerate((GeneratedShards(hand_model, 20, seed=20), GeneratedShards(hand_model, 33, seed=33))):
        shown = Batch.join(batches)
        mine = shown.rows((shown.source == number) & (shown.right == 1))
        assert len(mine) and torch.equal(mine.crops, torch.from_numpy(shards.images(mine.index.numpy())))


def test_batches_depend_on_seed_and_step_alone(shards):
    data = shards.data(batch_size=4)
    for readers in (1, 3):
        ahead = list(islice(prefetch(data, 5, 2, slice(None), ahead=3, readers=readers), 6))
        assert all(is_same(batch, shards.data(batch_size=4).batch(5, 2 + number)) for number, batch in enumerate(ahead))
    assert not torch.equal(ahead[0].crops, data.batch(6, 2).crops)


def test_what_a_reading_thread_raises_arrives(shards):
    def fail() -> None:
        raise UserError("the disk is gone")

    data = shards.data()
    shards.on_read = fail
    with pytest.raises(UserError, match="the disk is gone"):
        next(prefetch(data, 0, 0, slice(None), ahead=2, readers=2))


def test_held_out_pictures_are_never_trained_on_and_always_the_same(shards):
    data = shards.data(validation_pictures=8)
    held_out = [Batch.join(list(data.validation_batches(size))) for size in (3, 8, 100)]
    assert held_out[0].index.tolist() == list(range(8))
    assert is_same(held_out[0], held_out[1]) and is_same(held_out[0], held_out[2])
    there = held_out[0].presence == 1
    assert held_out[0].right[there].tolist() == [0 if number % 4 == 3 else 1 for number in np.flatnonzero(there.numpy())]
    trained = torch.cat([data.batch(0, step).index for step in range(30)])
    assert trained.min() == 8 and len(data) == 24


def test_several_folders_are_one(hand_model):
    folders = [GeneratedShards(hand_model, count, seed=count) for count in (12, 20)]
    source = ShardSource([shards.folder() for shards in folders], hand_model, 64, 4)
    batch = source.read(np.arange(28)[::-1], np.zeros(28, bool), np.zeros(28, np.int64))
    expected = np.concatenate([folders[0].images(np.arange(4, 12)), folders[1].images(np.arange(20))])
    assert np.array_equal(batch.crops.numpy(), expected[::-1])
    assert batch.index.tolist() == list(range(4, 32))[::-1]


def test_upright_hands_come_as_often_as_asked(shards):
    # Turned so that -x, where fingers point at rest, is up (-y).
    shards._labels["rotmats"][::2, 0] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]

    def upright(share: float) -> torch.Tensor:
        data = TrainingData([shards.source(4, upright_share=share)], (1,), 16, 0.0)
        batch = Batch.join([data.batch(0, step) for step in range(6)])
        return (batch.presence == 1) & (-batch.rotmats[:, 0, 1, 0] < -0.5)

    natural = upright(0.0).float().mean()
    assert upright(1.0).all() and 0.2 < natural < 0.6
    assert abs(upright(0.5).float().mean() - (0.5 + 0.5 * natural)) < 0.1


# Labels


@pytest.mark.parametrize("size_px", [64, 32])
def test_joints_project_onto_keypoints(shards, hand_model, size_px):
    batch = read(shards, hand_model, 32, size_px=size_px)
    assert batch.has_joints.sum() > 10
    assert (projected(batch) - batch.keypoints_px)[batch.has_joints].abs().max() < 1e-3


def test_vertices_are_what_the_parameters_pose(shards, hand_model):
    batch = read(shards, hand_model, 32)
    mine = batch.has_params
    assert torch.equal(mine, batch.presence == 1) and torch.equal(mine, batch.has_vertices) and torch.equal(mine, batch.has_joints)
    vertices_m = skin(hand_model.astype(np.float64), batch.rotmats[mine].double().numpy(), batch.betas[mine].double().numpy())
    joints_m = hand_model.joints(vertices_m)
    assert np.abs(vertices_m - joints_m[:, ROOT : ROOT + 1] - batch.vertices_m[mine].numpy()).max() < 1e-6
    assert np.abs(joints_m - joints_m[:, ROOT : ROOT + 1] - batch.joints_m[mine].numpy()).max() < 1e-6


def test_labels_that_do_not_hold_are_zeros(shards, hand_model):
    batch = Batch.join([read(shards, hand_model, 32), read(shards, hand_model, 32, is_mirrored=True)])
    flags = {
        "keypoints_px": "has_keypoints",
        "joints_m": "has_joints",
        "root_m": "has_joints",
        "rotmats": "has_params",
        "betas": "has_params",
        "vertices_m": "has_vertices",
        "parts": "has_dense",
        "depth_m": "has_dense",
    }
    for name, flag in flags.items():
        holds = getattr(batch, flag)
        assert holds.any() and not getattr(batch, name)[~holds].any(), name
        assert getattr(batch, name)[holds].flatten(1).any(dim=1).all(), name
    assert (batch.focal_px[~batch.has_keypoints] == 64).all() and (batch.focal_px[batch.has_keypoints] == 192).all()


def test_mirrored_pictures_keep_what_is_seen_and_no_hand_to_pose(shards, hand_model):
    plain, mirrored = (read(shards, hand_model, 12, is_mirrored) for is_mirrored in (False, True))
    assert torch.equal(mirrored.crops, plain.crops.flip(2))
    for name in ("parts", "depth_m"):
        assert torch.equal(getattr(mirrored, name), getattr(plain, name).flip(2)), name
    there = plain.presence == 1
    assert torch.equal(mirrored.presence, plain.presence) and torch.equal(mirrored.has_keypoints, plain.has_keypoints)
    back = mirrored.keypoints_px[there] * torch.tensor([-1.0, 1.0]) + torch.tensor([63.0, 0.0])
    torch.testing.assert_close(back, plain.keypoints_px[there])
    assert torch.equal(mirrored.has_dense, there)
    assert not (mirrored.has_joints | mirrored.has_params | mirrored.has_vertices).any()
    assert torch.equal(mirrored.right, torch.where(there, 0, -1)) and torch.equal(plain.right, torch.where(there, 1, -1))


def test_smaller_crops_keep_their_labels(shards, hand_model):
    whole, half = (read(shards, hand_model, 8, size_px=size) for size in (64, 32))
    assert half.crops.shape[1:3] == (32, 32) and half.parts.shape[1:] == half.depth_m.shape[1:] == (8, 8)
    there = whole.has_keypoints
    torch.testing.assert_close(half.focal_px[there] * 2, whole.focal_px[there])
    torch.testing.assert_close((half.keypoints_px[there] - 15.5) * 2, whole.keypoints_px[there] - 31.5)
    mean = whole.crops.float().reshape(8, 32, 2, 32, 2, 3).mean((2, 4))
    assert (half.crops.float() - mean).abs().max() <= 1
    # Parts are names, not amounts: each cell is one of the four that it stands for, and its depth is that one's.
    cells, depths = (value.reshape(8, 8, 2, 8, 2).permute(0, 1, 3, 2, 4).flatten(3) for value in (whole.parts, whole.depth_m))
    assert ((cells == half.parts[..., None]) & (depths == half.depth_m[..., None])).any(-1).all()


def test_shards_of_another_hand_model_teach_by_joints_alone(shards, hand_model):
    other = random_hand_model(50).astype(np.float32)
    mine = shards.data(16, mirror_share=0.25).batch(0, 0)
    theirs = shards.data(16, mirror_share=0.25, trained=other).batch(0, 0)
    for name in ("crops", "joints_m", "root_m", "keypoints_px", "parts", "depth_m", "has_joints", "has_keypoints", "has_dense", "right"):
        assert torch.equal(getattr(mine, name), getattr(theirs, name)), name
    assert mine.has_params.any() and not (theirs.has_params | theirs.has_vertices).any()
    assert theirs.vertices_m.shape == (16, 50, 3) and not theirs.vertices_m.any() and not theirs.rotmats.any()
    assert any("joints alone" in line and other.id in line for line in shards.data(trained=other).notes())
    assert not any("joints alone" in line for line in shards.data().notes())


# From disk


@pytest.fixture
def folder(shards, hand_model, tmp_path, monkeypatch) -> Path:
    """The same pictures as handmesh-synth would leave them, of which the last shard is not complete."""
    monkeypatch.setattr(shards_format, "SHARD_PICTURES", 12)
    monkeypatch.setattr("handmesh.synthetic.sets.BLOCK_PICTURES", 6)
    pictures = PictureSet(count=32)
    pictures = replace(pictures, pictures=replace(pictures.pictures, size_px=64))
    writer = ShardWriter(tmp_path, open_set(tmp_path, plan_manifest(pictures, hand_model)))

    def draw(index: int, version: int) -> Sample:
        row = np.array([index])
        images, labels, parts, depth_m = shards.images(row), shards.labels(row), shards.parts(row), shards.depth(row)
        return Sample(images[0], labels[0], parts[0], depth_m[0], np.zeros((64, 64), np.uint8))

    for block in writer.todo()[:4]:
        writer.begin(block)
        writer.job.write(block, draw)
        writer.done(block)
    return tmp_path


def test_folders_on_disk_are_read_as_they_are(folder, shards, hand_model):
    config = DataConfig(sources=(SourceConfig(folders=(folder, folder)),), batch_size=10, validation_pictures=4)
    data = open_data(config, hand_model, 64)
    assert len(data) == 44
    batch = data.batch(1, 0)
    again = ShardSource([shards.folder(), shards.folder()], hand_model, 64, 4)
    where = batch.index.numpy()
    expected = again._read(np.where(where < 24, where, where + 8), (batch.right == 0).numpy())
    present = batch.presence == 1
    for name in ("crops", "rotmats", "vertices_m", "parts", "depth_m", "keypoints_px"):
        assert torch.equal(getattr(batch, name)[present], getattr(expected, name)[present]), name
    assert any("44 pictures" in line for line in data.notes())
    assert len(open_data(replace(config, upright_share=0.5), hand_model, 32).batch(0, 0).crops[0]) == 32


def test_the_open_hands_shards_train_another_model_by_joints(folder):
    other = random_hand_model(50).astype(np.float32)
    data = open_data(DataConfig(sources=(SourceConfig(folders=(folder,)),), batch_size=10, validation_pictures=4), other, 64)
    assert data.batch(0, 0).has_joints.any() and not data.batch(0, 0).has_params.any()


def test_unfit_folders_get_one_line(folder, shards, hand_model):
    def rejected(message: str, **changes) -> None:
        with pytest.raises(UserError, match=message) as caught:
            source = SourceConfig(folders=(changes.pop("folder", folder),))
            open_data(DataConfig(sources=(source,), **{"validation_pictures": 4, **changes}), hand_model, 64)
        assert "\n" not in str(caught.value)

    rejected("more than data.validation_pictures = 24", validation_pictures=24)
    rejected("with a manifest.json", folder=folder / "nowhere")
    with pytest.raises(UserError, match="model.size_px = 128"):
        shards.source(size_px=128)
    with pytest.raises(UserError, match="at least one folder"):
        ShardSource([], hand_model, 64, 4)
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace(hand_model.id, "somebody's hand"))
    rejected(f"expected pictures of '{hand_model.id}' in .*, got 'somebody's hand'")


def test_a_batch_is_moved_cut_and_joined_whole(shards):
    batch = shards.batch(6)
    assert len(batch) == 6
    assert is_same(Batch.join([batch.rows(slice(0, 2)), batch.rows(slice(2, 6))]), batch.to("cpu"))
    assert is_same(batch.rows(np.array([5, 0])), batch.rows(torch.tensor([5, 0])))
    assert torch.equal(batch.rows([5, 0]).crops[1], batch.crops[0])
