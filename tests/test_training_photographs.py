"""Photographs: packed, cropped, drawn and learnt from by their landmarks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pack_photographs
import pytest
import torch
from generated_photographs import SIZE_PX, make_photographs
from generated_shards import GeneratedShards

from handmesh.errors import UserError
from handmesh.geometry.camera import camera_from_focal
from handmesh.geometry.crop import CROP_PADDING, look_at_points, take_crop
from handmesh.hand_model import HandModel
from handmesh.hand_model.landmarks import landmarks_m
from handmesh.photographs import LABEL_DTYPE, MANIFEST, PADDING, TRAINING, VALIDATION, Origin, PhotographReader, write_photographs
from handmesh.training.augment import augment, augment_sources
from handmesh.training.command import AugmentConfig, DataConfig, LossWeights, SourceConfig
from handmesh.training.data import Batch, TrainingData, deal_draws, open_data
from handmesh.training.layer import HandLayer
from handmesh.training.losses import label_counts, loss_terms, measure_errors, pose_prediction, total_loss, translation_to_weak_perspective
from handmesh.training.model import Prediction
from handmesh.training.photographs import PhotographSource, capped_fractions

STILL = AugmentConfig(camera_probability=0.0, roll_probability=0.0)
LIVELY = AugmentConfig(camera_probability=1.0, roll_probability=1.0)


def source_of(reader: PhotographReader, hand_model: HandModel, config: AugmentConfig = STILL, size_px: int = SIZE_PX) -> PhotographSource:
    return PhotographSource(reader, hand_model, size_px, 1024, config)


def read(source: PhotographSource, is_mirrored: bool = False) -> Batch:
    count = len(source)
    return source.read(np.arange(count), np.full(count, is_mirrored), np.arange(count))


# Files


def test_what_was_packed_is_read(tmp_path, hand_model):
    reader = make_photographs(tmp_path, hand_model)
    assert len(reader) == 40 and reader.size_px == 2 * SIZE_PX and reader.hand_model is None
    assert reader.origins == (Origin("many", "MIT", 0.3), Origin("few", "CC BY 4.0"))
    assert sorted([*reader.of_split(TRAINING), *reader.of_split(VALIDATION)]) == list(range(40))
    assert reader.images(np.array([3, 0])).shape == (2, 2 * SIZE_PX, 2 * SIZE_PX, 3)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / MANIFEST).unlink(), "cannot be read"),
        (lambda folder: (folder / MANIFEST).write_text("{"), "damaged"),
        (lambda folder: (folder / MANIFEST).write_text('{"format": "handmesh-photographs-0"}'), "format 'handmesh-photographs-0'"),
        (lambda folder: (folder / "images.npy").write_bytes(b"\x93NUMPY"), "damaged"),
        (lambda folder: np.save(folder / "labels.npy", np.zeros(3, LABEL_DTYPE)), "as many labels"),
        (lambda folder: np.save(folder / "labels.npy", np.zeros(40)), "as many labels"),
    ],
)
def test_damaged_folders_get_one_line(tmp_path, hand_model, damage, says):
    make_photographs(tmp_path, hand_model)
    damage(tmp_path)
    with pytest.raises(UserError, match=says) as caught:
        PhotographReader(tmp_path)
    assert "\n" not in str(caught.value)


def make_originals(folder: Path, **changes: object) -> list[np.ndarray]:
    """A right and a left hand, the second the first one's mirror image, and an image without one; returns their landmarks."""
    rng = np.random.default_rng(1)
    folder.mkdir()
    image = np.zeros((100, 140, 3), np.uint8)
    right_px = rng.uniform((40, 30), (90, 75), (21, 2))
    for x, y in right_px:
        cv2.circle(image, (round(x), round(y)), 2, (255, 255, 255), -1)
    left_px = right_px * (-1, 1) + (139, 0)
    for name, picture in (("right.png", image), ("left.png", image[:, ::-1]), ("none.png", np.full((64, 64, 3), 90, np.uint8))):
        cv2.imwrite(str(folder / name), picture)
    common = {"split": "train", "source": "here", "licence": "MIT", "score": 0.99, "stretched": False}
    rows = [
        {**common, "file": "right.png", "is_right": True, "landmarks_px": [[x, y, 0.0] for x, y in right_px], **changes},
        {**common, "file": "left.png", "is_right": False, "landmarks_px": left_px.tolist(), "stretched": True, "score": 0.8},
    ]
    (folder / "hands.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "negatives.jsonl").write_text(json.dumps({**common, "file": "none.png", "split": "validation"}) + "\n")
    return [right_px, left_px]


def test_packing_keeps_landmarks_on_the_image_and_turns_left_hands_round(tmp_path):
    make_originals(tmp_path / "from")
    pack_photographs.main([str(tmp_path / "from"), str(tmp_path / "to"), "--size", "96"])
    reader = PhotographReader(tmp_path / "to")
    assert len(reader) == 3 and reader.labels["presence"].tolist() == [1, 1, 0]
    assert reader.labels["split"].tolist() == [TRAINING, TRAINING, VALIDATION]
    images, labels = reader.images(np.arange(3)).astype(int), reader.labels
    assert np.abs(labels["landmarks_px"][0] - labels["landmarks_px"][1]).max() < 1e-3
    assert np.abs(images[0] - images[1]).max() <= 2
    for image, label in zip(images[:2], labels[:2], strict=True):
        assert np.ptp(label["landmarks_px"], axis=0).max() == pytest.approx(96 / PADDING, rel=0.01)
        columns, rows = np.round(label["landmarks_px"]).astype(int).T
        assert image[rows, columns].min() > 150 and image.mean() < 80
    assert (images[2] == 90).all()
    assert labels["has_side"].tolist() == [True, False, False]
    assert labels["weight_landmarks"].tolist() == [1.0, pack_photographs.STRETCHED_WEIGHT, 0.0]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"landmarks_px": [[1, 2]]}, "21 landmarks"),
        ({"landmarks_px": [[float("nan"), 2]] * 21}, "21 landmarks"),
        ({"landmarks_px": [[1, 2]] * 20 + [[1]]}, "21 landmarks"),
        ({"landmarks_px": [[5, 5]] * 21}, "apart"),
        ({"split": "test"}, "got 'test'"),
        ({"file": "gone.png"}, "gone.png"),
        ({"file": "hands.jsonl"}, "cannot be read"),
    ],
)
def test_originals_that_cannot_be_packed_get_one_line_and_leave_nothing(tmp_path, changes, says):
    make_originals(tmp_path / "from", **changes)
    with pytest.raises(UserError, match=says) as caught:
        pack_photographs.main([str(tmp_path / "from"), str(tmp_path / "to")])
    assert "\n" not in str(caught.value) and not (tmp_path / "to").exists()


def test_lines_that_are_no_objects_or_lack_something_get_one_line(tmp_path):
    make_originals(tmp_path / "from")
    path = tmp_path / "from" / "hands.jsonl"
    for text, says in (("{", "an object in line 1"), ("[]", "lacks file"), ('{"file": "a"}', "lacks split"), ("", "empty")):
        path.write_text(text)
        (tmp_path / "from" / "negatives.jsonl").unlink(missing_ok=True)
        with pytest.raises(UserError, match=says):
            pack_photographs.main([str(tmp_path / "from"), str(tmp_path / "to")])
    with pytest.raises(UserError, match="--size"):
        pack_photographs.main([str(tmp_path / "from"), str(tmp_path / "to"), "--size", "30"])


# Crops


@pytest.mark.parametrize("is_mirrored", [False, True])
@pytest.mark.parametrize("config", [STILL, LIVELY])
@pytest.mark.parametrize("size_px", [SIZE_PX, 96])
def test_landmarks_stay_on_what_they_mark(tmp_path, hand_model, is_mirrored, config, size_px):
    batch = read(source_of(make_photographs(tmp_path, hand_model), hand_model, config, size_px), is_mirrored)
    assert batch.crops.shape[1:] == (size_px, size_px, 3) and batch.crops.dtype == torch.uint8
    assert batch.parts.shape[1:] == batch.depth_m.shape[1:] == (size_px // 4, size_px // 4)
    seen = 0
    for crop, points, holds in zip(batch.crops.numpy(), batch.keypoints_px.numpy(), batch.has_keypoints, strict=True):
        inside = ((points > 1) & (points < size_px - 2)).all(axis=1)
        columns, rows = np.round(points[inside]).astype(int).T
        assert not holds or crop[rows, columns].min() > 120
        seen += len(columns) if holds else 0
    assert seen > 300


def test_without_chance_the_crop_is_that_of_run_time(tmp_path, hand_model):
    reader = make_photographs(tmp_path, hand_model)
    # As many pixels as the stored square has there: the two ways to resample agree.
    size_px = round(2 * SIZE_PX * CROP_PADDING / PADDING)
    source = source_of(reader, hand_model, size_px=size_px)
    batch = Batch.join(list(source.validation(3)))
    assert sorted(batch.index.tolist()) == reader.of_split(VALIDATION).tolist()
    for row in np.flatnonzero((batch.right == 1).numpy()):
        label, image = reader.labels[batch.index[row]], reader.images(batch.index[row : row + 1].numpy())[0]
        camera = camera_from_focal(2 * SIZE_PX, 2 * SIZE_PX, float(label["focal_px"]))
        crop_camera, R_camera_crop = look_at_points(label["landmarks_px"], camera, size_px)
        crop = take_crop(image, camera, crop_camera, R_camera_crop)
        assert np.abs(crop.image.astype(int) - batch.crops[row].numpy()).max() <= 3
        assert float(batch.focal_px[row]) == pytest.approx(crop_camera.fx, rel=1e-3)
        box_px = np.ptp(batch.keypoints_px[row].numpy(), axis=0).max()
        assert box_px == pytest.approx(size_px / CROP_PADDING, rel=1e-3)


def test_held_out_photographs_are_never_trained_on(tmp_path, hand_model):
    reader = make_photographs(tmp_path, hand_model)
    trained = set(read(source_of(reader, hand_model)).index.tolist())
    assert trained == set(reader.of_split(TRAINING).tolist())
    few = PhotographSource(reader, hand_model, SIZE_PX, 3, STILL)
    held_out = [batch.index.tolist() for batch in few.validation(8)]
    assert len(held_out) == 1 and len(held_out[0]) == 3 and not trained & set(held_out[0])
    assert list(PhotographSource(reader, hand_model, SIZE_PX, 0, STILL).validation(8)) == []
    labels = reader.labels.copy()
    labels["split"] = VALIDATION
    write_photographs(tmp_path / "none", reader.images(np.arange(40)), labels, reader.origins)
    with pytest.raises(UserError, match="photographs to train on"):
        source_of(PhotographReader(tmp_path / "none"), hand_model)


def test_mirrored_photographs_teach_the_side_and_presence_alone(tmp_path, hand_model):
    reader = make_photographs(tmp_path, hand_model, with_params=True)
    plain, mirrored = (read(source_of(reader, hand_model), is_mirrored) for is_mirrored in (False, True))
    has_hand = torch.from_numpy(reader.labels["presence"][plain.index.numpy()] == 1)
    assert torch.equal(plain.right, torch.where(has_hand, 1, -1)) and torch.equal(mirrored.right, torch.where(has_hand, 0, -1))
    assert torch.equal(plain.presence, has_hand.long()) and torch.equal(mirrored.presence, has_hand.long())
    assert torch.equal(plain.has_params, has_hand) and not mirrored.has_params.any()
    counts = label_counts(mirrored)
    assert counts["landmarks"] == counts["heatmaps"] == counts["rotmats"] == 0 < counts["right_0"]
    assert (mirrored.keypoints_px[has_hand] * torch.tensor([-1.0, 1.0]) + torch.tensor([SIZE_PX - 1.0, 0.0])).allclose(
        plain.keypoints_px[has_hand], atol=1e-3
    )


def test_parameters_of_another_hand_model_are_left_out(tmp_path, hand_model):
    reader = make_photographs(tmp_path, hand_model, with_params=True)
    source = source_of(reader, replace(hand_model, id="somebody's"))
    assert not read(source).has_params.any() and any("landmarks alone" in line for line in source.notes())
    assert not any("landmarks alone" in line for line in source_of(reader, hand_model).notes())


# Draws


def test_draws_are_dealt_out_by_weights():
    draws = np.arange(30_000)
    weights = (3.0, 0.5, 1.5, 1.0)
    which, numbers = deal_draws(draws, weights)
    for stream, weight in enumerate(weights):
        mine = which == stream
        assert np.array_equal(numbers[mine], np.arange(mine.sum()))
        assert np.abs(np.cumsum(mine) - weight / 6 * (draws + 1)).max() < 4
    # Whatever portions are asked for.
    parts = [deal_draws(draws[start::7], weights) for start in range(7)]
    for start, (streams, rows) in enumerate(parts):
        assert np.array_equal(streams, which[start::7]) and np.array_equal(rows, numbers[start::7])


def test_no_origin_is_drawn_more_often_than_allowed(tmp_path, hand_model):
    reader = make_photographs(tmp_path, hand_model)
    source = source_of(reader, hand_model)
    picks = source.picks(3, np.arange(3000))
    labels = reader.labels[reader.of_split(TRAINING)][picks]
    has_hand = labels["presence"] == 1
    there = reader.labels[reader.of_split(TRAINING)]
    assert ((there["presence"] == 1) & (there["origin"] == 0)).mean() > 0.5
    assert (has_hand & (labels["origin"] == 0)).mean() == pytest.approx(0.3, abs=0.01)
    few, nobody = ((there["presence"] == 1) & (there["origin"] == 1)).sum(), (there["presence"] == 0).sum()
    assert (has_hand & (labels["origin"] == 1)).mean() == pytest.approx(0.7 * few / (few + nobody), abs=0.01)
    assert len(np.unique(picks)) == len(source)
    assert np.array_equal(source.picks(3, np.arange(100, 200)), picks[100:200]) and not np.array_equal(
        source.picks(4, np.arange(3000)), picks
    )


def test_fractions_keep_their_limits_and_make_a_whole():
    assert capped_fractions([6, 2, 2], [None, None, None]) == pytest.approx([0.6, 0.2, 0.2])
    assert capped_fractions([6, 2, 2], [0.2, None, None]) == pytest.approx([0.2, 0.4, 0.4])
    # What the first gives up takes the second beyond its own limit.
    assert capped_fractions([6, 3, 1], [0.2, 0.4, None]) == pytest.approx([0.2, 0.4, 0.4])
    assert capped_fractions([6, 4], [0.5, 0.5]) == pytest.approx([0.5, 0.5])
    with pytest.raises(UserError, match="reach 1 together"):
        capped_fractions([6, 4], [0.5, 0.4])


def test_any_number_of_sources_make_a_batch(tmp_path, hand_model):
    reader = make_photographs(tmp_path, hand_model)
    shards = [GeneratedShards(hand_model, 32, SIZE_PX, seed) for seed in (0, 1)]
    sources = [shards[0].source(8), source_of(reader, hand_model, LIVELY), shards[1].source(8)]
    data = TrainingData(sources, (2, 1, 1), 16, 0.25)
    assert data.names == ("shards", "photographs", "shards 2") and len(data) == 24 + len(sources[1]) + 24
    assert any("50% shards, 25% photographs, 25% shards 2" in line for line in data.notes())
    for step in (0, 5):
        batch = data.batch(0, step)
        assert [int((batch.source == number).sum()) for number in range(3)] == [8, 4, 4]
        parts = Batch.join([data.batch(0, step, slice(start, start + 4)) for start in range(0, 16, 4)])
        assert torch.equal(parts.crops, batch.crops) and torch.equal(parts.keypoints_px, batch.keypoints_px)
    assert {int(batch.source[0]) for batch in data.validation_batches(4)} == {0, 1, 2}


def test_a_configuration_names_its_photographs(tmp_path, hand_model):
    make_photographs(tmp_path, hand_model)
    config = DataConfig((SourceConfig("photographs", (tmp_path,)),), batch_size=8, photograph_augment=LIVELY)
    data = open_data(config, hand_model, SIZE_PX)
    assert len(data) == 32 and data.batch(0, 0).landmark_weight.any()
    # The camera has been moved; what else is changed is the loop's to do.
    assert data.sources[0].augment == replace(LIVELY, camera_probability=0.0, roll_probability=0.0)
    for message, make in {
        "positive weight": lambda: SourceConfig(weight=0.0),
        "at least one folder": lambda: SourceConfig(folders=()),
        "one folder": lambda: SourceConfig("photographs", (tmp_path, tmp_path)),
        "at least one source": lambda: DataConfig(sources=()),
    }.items():
        with pytest.raises(UserError, match=message):
            make()


def test_each_source_is_augmented_by_its_own_settings(tmp_path, hand_model):
    batch = GeneratedShards(hand_model).batch(16)
    batch = replace(batch, source=torch.arange(16) % 2)
    off = {f"{name}_probability": 0.0 for name in ("camera", "roll", "colour", "noise", "blur", "cutout")}
    still, noisy = AugmentConfig(**off), AugmentConfig(**{**off, "noise_probability": 1.0})
    changed = augment_sources(batch, [still, noisy], torch.Generator().manual_seed(0))
    assert torch.equal(changed.index, batch.index) and torch.equal(changed.source, batch.source)
    differs = (changed.crops - batch.crops.float()).abs().flatten(1).amax(1) > 0
    assert torch.equal(differs, batch.source == 1)
    same = augment_sources(batch, [noisy, noisy], torch.Generator().manual_seed(0))
    assert torch.equal(same.crops, augment(batch, noisy, torch.Generator().manual_seed(0)).crops)


# Learning


@pytest.fixture
def posed(hand_model) -> tuple[Batch, Prediction]:
    """Right hands of which only landmarks are labelled, exactly where the offsets put them, and the prediction that is true."""
    full = GeneratedShards(hand_model, 12, SIZE_PX).batch(8)
    full = full.rows(full.has_joints.nonzero()[:, 0])
    layer = HandLayer(hand_model)
    truth = Prediction(
        rot6d=torch.cat([full.rotmats[..., 0], full.rotmats[..., 1]], dim=-1).flatten(1),
        betas=full.betas,
        camera=translation_to_weak_perspective(full.root_m, full.focal_px, SIZE_PX),
        presence_logit=torch.full((len(full),), 9.0),
        right_logit=torch.full((len(full),), 9.0),
        keypoints=(2 * full.keypoints_px + 1) / SIZE_PX - 1,
    )
    landmarks_px = pose_prediction(layer, truth, full).landmarks_px
    nothing = torch.zeros(len(full), dtype=torch.bool)
    flags = dict.fromkeys(("has_joints", "has_params", "has_vertices", "has_dense"), nothing)
    return replace(full, **flags, keypoints_px=landmarks_px, landmark_weight=torch.ones(len(full))), truth


def test_landmarks_are_where_the_runtime_has_them(hand_model, posed):
    batch, _ = posed
    joints_m = HandLayer(hand_model).joints(HandLayer(hand_model)(batch.rotmats, batch.betas))
    moved_m = HandLayer(hand_model).landmarks(joints_m, batch.rotmats)
    for row in range(len(batch)):
        rotmats = batch.rotmats[row].double().numpy()
        expected_m = landmarks_m(joints_m[row].double().numpy(), rotmats[0], rotmats, is_right=True)
        assert np.abs(moved_m[row].numpy() - expected_m).max() < 1e-6
    assert (moved_m - joints_m).norm(dim=-1).max() > 0.01


def test_a_true_hand_pays_nothing_for_its_landmarks_nor_its_heat_maps(hand_model, posed):
    batch, truth = posed
    layer = HandLayer(hand_model)
    terms = loss_terms(layer, truth, batch)
    assert terms["landmarks"] < 1e-6 and terms["heatmaps"] < 1e-5
    assert measure_errors(layer, truth, batch).landmarks_share.max() < 1e-4
    # Compared as if they were the model's own keypoints, they would cost.
    own = replace(batch, landmark_weight=torch.zeros(len(batch)))
    assert loss_terms(layer, truth, own)["heatmaps"] > 0.005
    assert measure_errors(layer, truth, own).landmarks_share.isnan().all()


def test_a_hand_is_pulled_to_its_landmarks(hand_model, posed):
    batch, truth = posed
    layer = HandLayer(hand_model)
    start = {name: getattr(truth, name).clone() for name in ("rot6d", "betas", "camera")}
    start["rot6d"] += 0.15 * torch.randn(start["rot6d"].shape, generator=torch.Generator().manual_seed(0))
    start["camera"] = start["camera"] * torch.tensor([1.1, 1.0, 1.0])
    learnt = {name: value.requires_grad_() for name, value in start.items()}
    guess = replace(truth, **learnt)
    before = measure_errors(layer, guess, batch).landmarks_share.mean().item()
    optimizer = torch.optim.Adam(learnt.values(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        total_loss({"landmarks": loss_terms(layer, guess, batch)["landmarks"]}, LossWeights()).backward()
        optimizer.step()
    assert measure_errors(layer, guess, batch).landmarks_share.mean().item() < 0.15 * before


def test_a_far_outlier_pulls_no_harder_than_a_near_point(hand_model, posed):
    batch, truth = posed
    layer = HandLayer(hand_model)

    def pull(error_px: float) -> float:
        wrong = batch.keypoints_px.clone()
        wrong[0, 8, 0] += error_px
        camera = truth.camera.clone().requires_grad_()
        term = loss_terms(layer, replace(truth, camera=camera), replace(batch, keypoints_px=wrong.clamp(0, SIZE_PX - 1)))["landmarks"]
        return torch.autograd.grad(term, camera)[0][0].norm().item()

    assert pull(-12.0) < 1.5 * pull(-4.0)


def test_labels_count_by_their_weights(hand_model, posed):
    batch, truth = posed
    layer = HandLayer(hand_model)
    weight = torch.linspace(0.2, 1.0, len(batch))
    shifted = replace(batch, keypoints_px=batch.keypoints_px + torch.linspace(1.0, 6.0, len(batch))[:, None, None])
    alone = [loss_terms(layer, replace(truth, **rows(truth, row)), shifted.rows([row])) for row in range(len(batch))]
    inside = torch.stack([label_counts(shifted.rows([row]))["landmarks"] for row in range(len(batch))])
    for name in ("landmarks", "heatmaps"):
        values = torch.stack([terms[name] for terms in alone])
        weighted = loss_terms(layer, truth, replace(shifted, landmark_weight=weight))[name]
        assert weighted.item() == pytest.approx(((values * inside * weight).sum() / (inside * weight).sum()).item(), rel=1e-4)
    has_params = torch.ones(len(batch), dtype=torch.bool)
    known = replace(batch, has_params=has_params, param_weight=weight, betas=batch.betas + torch.arange(len(batch))[:, None])
    expected = (weight * torch.arange(len(batch))).sum() / weight.sum()
    assert loss_terms(layer, truth, known)["betas"].item() == pytest.approx(expected.item(), rel=1e-4)


def rows(prediction: Prediction, row: int) -> dict[str, torch.Tensor]:
    return {name: value[row : row + 1] for name, value in vars(prediction).items() if value is not None}


def test_landmarks_outside_of_the_crop_are_not_compared(hand_model, posed):
    batch, truth = posed
    far = batch.keypoints_px.clone()
    far[:, 4] = 2.0 * SIZE_PX
    assert label_counts(replace(batch, keypoints_px=far))["landmarks"] == label_counts(batch)["landmarks"] - len(batch)
    assert loss_terms(HandLayer(hand_model), truth, replace(batch, keypoints_px=far))["landmarks"] < 1e-6
