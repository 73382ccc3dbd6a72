"""FreiHAND's pictures as training reads them: crops, labels, the split, other backgrounds, sets of handmesh-synth in its layout."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from generated_freihand import SIZE_PX, make_freihand, mano_shaped_model
from generated_shards import GeneratedShards

from handmesh.errors import UserError
from handmesh.freihand import FreiHand
from handmesh.geometry.camera import project
from handmesh.geometry.crop import look_at_points
from handmesh.hand_model import HandModel
from handmesh.hand_model.skinning import skin
from handmesh.records import Camera
from handmesh.skeleton import ROOT
from handmesh.synthetic.config import PictureSet
from handmesh.synthetic.freihand_layout import LayoutWriter
from handmesh.synthetic.scene import Sample
from handmesh.synthetic.sets import open_set, plan_manifest
from handmesh.training.command import DataConfig, SourceConfig
from handmesh.training.data import Batch, TrainingData, open_data
from handmesh.training.freihand import FreiHandSource, look_at, put_before

HANDS, VERSIONS, CROP_PX = 24, 4, 64


@pytest.fixture(scope="module")
def mano() -> HandModel:
    return mano_shaped_model()


@pytest.fixture(scope="module")
def folder(mano, tmp_path_factory) -> Path:
    return make_freihand(tmp_path_factory.mktemp("freihand"), mano, HANDS, VERSIONS)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    photos = tmp_path_factory.mktemp("photos")
    cv2.imwrite(str(photos / "white.png"), np.full((50, 80, 3), 255, np.uint8))
    return photos


def config_of(folder: Path, **changes) -> DataConfig:
    source = SourceConfig("freihand", (folder,))
    return DataConfig(**{"sources": (source,), "validation_pictures": 8, "batch_size": 16, **changes})


def source_of(config: DataConfig, hand_model: HandModel, size_px: int) -> FreiHandSource:
    return FreiHandSource(config.sources[0].folders[0], config, hand_model, size_px)


def read(source: FreiHandSource, is_mirrored: bool = False) -> Batch:
    """All training pictures."""
    return source.read(np.arange(len(source)), np.full(len(source), is_mirrored), np.arange(len(source)))


def projected(batch: Batch) -> torch.Tensor:
    placed_m = (batch.joints_m + batch.root_m[:, None]).double()
    return placed_m[..., :2] / placed_m[..., 2:] * batch.focal_px[:, None, None] + (batch.crops.shape[1] - 1) / 2


# Crops and labels


@pytest.mark.parametrize("crop", ["keypoints", "fixed"])
def test_joints_project_onto_keypoints(folder, mano, crop):
    batch = read(source_of(config_of(folder, freihand_crop=crop), mano, CROP_PX))
    assert batch.has_joints.all() and (projected(batch) - batch.keypoints_px).abs().max() < 1e-3


def test_labels_are_freihands_own_turned_into_the_crop(folder, mano):
    """Distances do not turn, and neither does what the joints look like from the vertices."""
    batch, pictures = read(source_of(config_of(folder), mano, CROP_PX)), FreiHand(folder)
    hand = batch.index.numpy() % HANDS
    xyz_m, verts_m = pictures.xyz_m[hand], pictures.verts_m[hand]

    def lengths(points_m, vertices_m) -> np.ndarray:
        return np.linalg.norm(points_m[:, ::4, None] - vertices_m[:, None, ::50], axis=-1)

    assert np.abs(lengths(batch.joints_m.numpy(), batch.vertices_m.numpy()) - lengths(xyz_m, verts_m)).max() < 1e-6
    np.testing.assert_allclose(np.linalg.norm(batch.root_m, axis=1), np.linalg.norm(xyz_m[:, ROOT], axis=1), rtol=1e-6)
    assert not batch.joints_m[:, ROOT].any()
    np.testing.assert_allclose(mano.joints(batch.vertices_m.numpy()), batch.joints_m.numpy(), atol=1e-6)


def test_parameters_pose_the_vertices(folder, mano):
    batch = read(source_of(config_of(folder), mano, CROP_PX))
    assert batch.has_params.all() and batch.has_vertices.all() and not batch.has_dense.any()
    posed_m = skin(mano, batch.rotmats.numpy(), batch.betas.numpy())
    posed_m = posed_m - mano.joints(posed_m)[:, ROOT : ROOT + 1]
    assert 1e3 * np.linalg.norm(posed_m - batch.vertices_m.numpy(), axis=-1).max() < 0.01


def test_the_fixed_crop_is_metros_and_the_other_holds_all_keypoints(folder, mano):
    pictures = FreiHand(folder)
    close, fixed = (read(source_of(config_of(folder, freihand_crop=crop), mano, 180)) for crop in ("keypoints", "fixed"))
    assert close.keypoints_px.min() > 25 and close.keypoints_px.max() < 154
    extent = np.ptp(close.keypoints_px.numpy(), axis=1).max(axis=1)
    np.testing.assert_allclose(extent, 180 / 1.5, rtol=1e-4)
    # The middle 180 px at their own size: the same pixels, but for a turn of less than a degree.
    for row in range(0, len(fixed), 9):
        middle = pictures.image(int(fixed.index[row]))[22:-22, 22:-22].astype(float)
        assert np.abs(middle - fixed.crops[row].numpy())[4:-4, 4:-4].mean() < 4


def test_many_cameras_at_once_are_those_that_are_made_one_by_one(folder):
    pictures = FreiHand(folder)
    R, focal_px = look_at(pictures.xyz_m, CROP_PX)
    for hand in range(HANDS):
        K = pictures.K[hand]
        camera = Camera(K[0, 0], K[1, 1], K[0, 2], K[1, 2], SIZE_PX, SIZE_PX)
        alone, R_alone = look_at_points(project(pictures.xyz_m[hand], camera), camera, CROP_PX)
        np.testing.assert_allclose(R[hand], R_alone, atol=1e-9)
        np.testing.assert_allclose(focal_px[hand], alone.fx, rtol=1e-9)


def test_pictures_show_what_the_labels_say(folder, mano):
    """Hands are light and backgrounds dark in these pictures."""
    batch = read(source_of(config_of(folder), mano, CROP_PX))
    light = batch.crops.float().amax(-1)
    x, y = batch.keypoints_px.round().long().unbind(-1)
    at_joints = light[torch.arange(len(batch))[:, None], y, x]
    corners = light[:, :3, :3].amax((1, 2))
    assert (at_joints.median(1).values > corners).float().mean() > 0.95


def test_mirrored_crops_are_left_hands(folder, mano):
    source = source_of(config_of(folder), mano, CROP_PX)
    plain, mirrored = read(source), read(source, is_mirrored=True)
    assert torch.equal(mirrored.crops, plain.crops.flip(2))
    torch.testing.assert_close(mirrored.keypoints_px[..., 0], CROP_PX - 1 - plain.keypoints_px[..., 0])
    assert torch.equal(mirrored.keypoints_px[..., 1], plain.keypoints_px[..., 1])
    assert (mirrored.right == 0).all() and (plain.right == 1).all() and (mirrored.presence == 1).all()
    assert not (mirrored.has_joints | mirrored.has_params | mirrored.has_vertices).any() and mirrored.has_keypoints.all()
    assert not any(value.any() for value in (mirrored.joints_m, mirrored.rotmats, mirrored.vertices_m, mirrored.betas, mirrored.root_m))


# Which pictures


def test_no_hand_is_both_trained_on_and_held_out(folder, mano):
    data = open_data(config_of(folder), mano, CROP_PX)
    held_out = Batch.join(list(data.validation_batches(3)))
    trained = torch.cat([data.batch(0, step).index for step in range(6)])
    assert len(data) + len(held_out) == HANDS * VERSIONS and len(trained[: len(data)].unique()) == len(data)
    hands = {int(index) % HANDS for index in held_out.index}
    assert len(held_out) == VERSIONS * len(hands) == 8
    assert not hands & {int(index) % HANDS for index in trained}
    assert held_out.right.tolist() == [0 if number % 4 == 3 else 1 for number in range(8)]


def test_freihand_and_shards_share_each_batch(folder, mano):
    shards = GeneratedShards(mano, size_px=CROP_PX)
    data = TrainingData([source_of(config_of(folder), mano, CROP_PX), shards.source()], (3, 1), 16, 0.25)
    for step in range(3):
        batch = data.batch(0, step)
        assert (batch.source == 0).sum() == 12
        assert not batch.has_dense[batch.source == 0].any()
        parts = Batch.join([data.batch(0, step, slice(start, start + 4)) for start in range(0, 16, 4)])
        assert torch.equal(parts.crops, batch.crops) and torch.equal(parts.has_params, batch.has_params)
    assert any("each batch: 75% FreiHAND, 25% shards" in line for line in data.notes())


# Hand models


def test_without_mano_joints_alone_supervise(folder, hand_model):
    source = source_of(config_of(folder), hand_model, CROP_PX)
    batch = read(source)
    assert batch.has_joints.all() and batch.has_keypoints.all() and not (batch.has_params | batch.has_vertices).any()
    assert batch.vertices_m.shape[1] == len(hand_model.template_m) and not batch.vertices_m.any()
    assert any("FreiHAND without MANO: joints alone supervise" in line for line in source.notes())


def test_the_gap_between_parameters_and_vertices_is_measured(folder, mano, tmp_path):
    lines = source_of(config_of(folder), mano, CROP_PX).notes()
    assert any("0.00 mm from their vertices" in line for line in lines) and not any("warning" in line for line in lines)
    # The trap of a hand model without FreiHAND's mean pose, and vertices that are 2 mm off for one hand.
    flat = source_of(config_of(folder), replace(mano, mean_pose=np.zeros_like(mano.mean_pose)), CROP_PX)
    assert any("warning" in line for line in flat.notes())
    shutil.copytree(folder, tmp_path / "moved")
    path = tmp_path / "moved" / "training_verts.json"
    verts_m = np.array(json.loads(path.read_text()))
    verts_m[5, :, 0] += 0.002
    path.write_text(json.dumps(verts_m.tolist()))
    moved = source_of(config_of(tmp_path / "moved"), mano, CROP_PX).notes()
    assert any(f"{2 / HANDS:.2f} mm from their vertices, 2.00 mm at most" in line for line in moved)
    assert any("warning" in line for line in moved)


# Backgrounds


def test_another_background_changes_nothing_on_the_hand(folder):
    pictures = FreiHand(folder)
    white = np.full((SIZE_PX, SIZE_PX, 3), 255, np.uint8)
    kernel = np.ones((9, 9), np.uint8)
    for picture in (0, 5, 5 + HANDS):
        image, mask = pictures.image(picture), pictures.mask(picture)
        shown = put_before(image, mask, white)
        inner, outer = cv2.erode(mask.astype(np.uint8), kernel) > 0, cv2.dilate(mask.astype(np.uint8), kernel) == 0
        assert inner.sum() > 100 and np.array_equal(shown[inner], image[inner])
        assert (shown[outer] == 255).all()


def test_backgrounds_come_as_often_as_asked_and_go_by_the_mask_of_the_first_version(folder, mano, photos, tmp_path):
    plain = read(source_of(config_of(folder), mano, CROP_PX))

    def changed(share: float, root: Path = folder) -> torch.Tensor:
        source = source_of(config_of(root, backgrounds=photos, background_share=share), mano, CROP_PX)
        return (read(source).crops != plain.crops).flatten(1).any(1)

    assert not changed(0.0).any() and changed(1.0).all() and 0.3 < changed(0.5).float().mean() < 0.7
    shutil.copytree(folder, tmp_path / "masked")
    for path in (tmp_path / "masked" / "training" / "mask").iterdir():
        cv2.imwrite(str(path), np.full((SIZE_PX, SIZE_PX), 255, np.uint8))
    assert not changed(1.0, tmp_path / "masked").any()
    held_out = [
        Batch.join(list(source_of(config_of(folder, background_share=1.0, **more), mano, CROP_PX).validation(8)))
        for more in ({}, {"backgrounds": photos})
    ]
    assert torch.equal(held_out[0].crops, held_out[1].crops)


def test_the_same_row_gets_the_same_background_in_any_portion(folder, mano, photos, tmp_path):
    for number in range(6):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.random.default_rng(number).integers(0, 256, (90, 70, 3)).astype(np.uint8))
    data = open_data(config_of(folder, backgrounds=tmp_path, background_share=0.7), mano, CROP_PX)
    whole = data.batch(3, 2)
    parts = Batch.join([data.batch(3, 2, slice(start, start + 8)) for start in (0, 8)])
    assert torch.equal(whole.crops, parts.crops)


# Sets of handmesh-synth


def make_set(folder: Path, model: HandModel, count: int = 20, **shares: float) -> Path:
    """Pictures of noise with the labels of right hands, of which `kind_of` has some stored as left ones, and some without a hand."""
    pictures = PictureSet(format="freihand", count=count, versions=4)
    pictures = replace(pictures, pictures=replace(pictures.pictures, size_px=64, **shares))
    writer = LayoutWriter(folder, open_set(folder, plan_manifest(pictures, model)), pictures, model)
    shards = GeneratedShards(model, 6 * count)

    def draw(index: int, version: int) -> Sample:
        is_hand = shares.get("negative_share", 0) == 0 or writer.job.kinds[index] != 2
        label = shards.labels(np.array([6 * index + (0 if is_hand else 3)]))[0]
        coarse = np.random.default_rng([index, version]).integers(0, 256, (8, 8, 3)).astype(np.uint8)
        image = cv2.resize(coarse, (64, 64), interpolation=cv2.INTER_LINEAR)
        return Sample(image, label, np.zeros((16, 16), np.uint8), np.zeros((16, 16), np.float16), np.full((64, 64), 255, np.uint8))

    for block in writer.todo():
        writer.begin(block)
        writer.job.write(block, draw)
        writer.done(block)
    writer.close()
    return folder


def test_a_left_hand_is_read_as_the_right_hand_that_was_drawn(hand_model, tmp_path):
    right, left = (
        read(source_of(config_of(make_set(tmp_path / str(share), hand_model, left_share=share, negative_share=0.0)), hand_model, 32))
        for share in (0.0, 1.0)
    )
    assert len(left) == len(right) > 20 and left.has_params.all() and (left.right == 1).all()
    for name in ("keypoints_px", "joints_m", "root_m", "rotmats", "betas", "vertices_m", "focal_px"):
        torch.testing.assert_close(getattr(left, name), getattr(right, name), rtol=1e-5, atol=1e-5)
    # JPEG knows left from right.
    assert (left.crops.float() - right.crops.float()).abs().mean() < 2
    posed_m = skin(hand_model, left.rotmats.numpy(), left.betas.numpy())
    assert np.abs(posed_m - hand_model.joints(posed_m)[:, ROOT : ROOT + 1] - left.vertices_m.numpy()).max() < 1e-5


def test_all_kinds_of_a_set_are_read(hand_model, mano, tmp_path):
    make_set(tmp_path / "set", hand_model, count=30, left_share=0.4, negative_share=0.3)
    source = source_of(config_of(tmp_path / "set", validation_pictures=10), hand_model, 32)
    batch = read(source)
    everything = Batch.join([batch, *source.validation(4)])
    assert sorted(everything.index.tolist()) == list(range(120))
    empty = batch.presence == 0
    assert empty.any() and empty.float().mean() < 0.5
    assert torch.equal(batch.has_params, ~empty) and torch.equal(batch.right, torch.where(empty, -1, 1))
    assert not batch.keypoints_px[empty].any() and (batch.focal_px[empty] == 32).all()
    assert (batch.crops[empty].float().flatten(1).std(1) > 10).all()
    assert any("0.00 mm from their vertices" in line for line in source.notes())
    other = source_of(config_of(tmp_path / "set", validation_pictures=10), mano, 32)
    assert not read(other).has_params.any() and any("without open-hand" in line for line in other.notes())


# Errors


def test_unfit_folders_get_one_line(folder, mano, hand_model, photos, tmp_path):
    def rejected(message: str, config: DataConfig) -> None:
        with pytest.raises(UserError, match=message) as caught:
            read(source_of(config, mano, CROP_PX))
        assert "\n" not in str(caught.value)

    rejected("give the folder that holds 'training'", config_of(tmp_path / "nowhere"))
    rejected("more than data.validation_pictures = 96", config_of(folder, validation_pictures=HANDS * VERSIONS))
    rejected("expected hands", config_of(make_set(tmp_path / "empty", hand_model, count=4, negative_share=1.0)))
    rejected("expected a folder of photos", config_of(folder, backgrounds=tmp_path / "none"))
    torn = tmp_path / "photos"
    torn.mkdir()
    (torn / "torn.png").write_bytes((photos / "white.png").read_bytes()[:40])
    rejected("torn.png', which cannot be read", config_of(folder, backgrounds=torn, background_share=1.0))
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "training" / "mask" / "00000007.jpg").unlink()
    rejected("00000007.jpg", config_of(tmp_path / "copy", backgrounds=photos, background_share=1.0))
    (tmp_path / "copy" / "training_verts.json").unlink()
    rejected("training_verts.json", config_of(tmp_path / "copy"))
