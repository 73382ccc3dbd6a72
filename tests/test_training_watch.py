"""What people look at: no row twice, curves that follow the numbers, hands drawn where they are and always the same ones."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from generated_shards import GeneratedShards
from torch import nn

from handmesh.errors import UserError
from handmesh.geometry.rotation import rotvec_to_rotmat
from handmesh.training import watch
from handmesh.training.data import Batch
from handmesh.training.layer import HandLayer
from handmesh.training.losses import Errors, translation_to_weak_perspective
from handmesh.training.model import Prediction
from handmesh.training.watch import MetricsFile, Watch, draw_curves, draw_overlays, draw_tile, pick_hands, read_metrics

ERRORS = dict.fromkeys((field.name for field in fields(Errors)), 0.5)


class Oracle(nn.Module):
    """A network that answers with the labels of one batch."""

    def __init__(self, batch: Batch):
        super().__init__()
        self.batch = batch

    def forward(self, crops: torch.Tensor) -> Prediction:
        batch = self.batch
        assert len(crops) == len(batch)
        return Prediction(
            rot6d=torch.cat([batch.rotmats[..., 0], batch.rotmats[..., 1]], dim=-1).flatten(1),
            betas=batch.betas,
            camera=translation_to_weak_perspective(batch.root_m, batch.focal_px, crops.shape[1]),
            presence_logit=torch.full((len(batch),), 4.0),
            right_logit=torch.full((len(batch),), 4.0),
        )


@pytest.fixture(autouse=True)
def no_tensorboard(monkeypatch) -> None:
    monkeypatch.setattr(watch, "_summary_writer", lambda folder, keep: None)


@pytest.fixture(scope="module")
def layer(hand_model) -> HandLayer:
    return HandLayer(hand_model)


@pytest.fixture
def batches(hand_model) -> list[Batch]:
    """What validation sees: right hands, left ones, empty crops."""
    return list(GeneratedShards(hand_model, count=60).data(validation_pictures=48).validation_batches(10))


def train_row(pictures: int) -> dict[str, Any]:
    return {"pictures": pictures, "minutes": 0.1, "learning_rate": 1e-3, "pictures_per_s": 50.0, "loss": 3.0, "vertices": 0.01, **ERRORS}


def numbers(path: Path) -> list[tuple[str, int]]:
    return [(row["split"], int(row["pictures"])) for row in read_metrics(path)]


def test_no_row_is_there_twice_after_going_on(tmp_path, hand_model, layer):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    for out in (whole, resumed):
        out.mkdir()
    one = Watch(whole, layer, hand_model)
    for pictures in range(10, 90, 10):
        one.step(train_row(pictures))
        if pictures % 20 == 0:
            one.validated(pictures, 0.1, ERRORS, Oracle, [])  # pyright: ignore[reportArgumentType]
    # Saved at 30, killed at 60 in the middle of a row; goes on from 30.
    first = Watch(resumed, layer, hand_model)
    for pictures in range(10, 60, 10):
        first.step(train_row(pictures))
        if pictures % 20 == 0:
            first.validated(pictures, 0.1, ERRORS, Oracle, [])  # pyright: ignore[reportArgumentType]
    with (resumed / "metrics.csv").open("a", encoding="utf-8") as file:
        file.write("train,6")
    second = Watch(resumed, layer, hand_model, keep=30)
    assert numbers(resumed / "metrics.csv") == [("train", 10), ("train", 20), ("validation", 20), ("train", 30)]
    for pictures in range(40, 90, 10):
        second.step(train_row(pictures))
        if pictures % 20 == 0:
            second.validated(pictures, 0.1, ERRORS, Oracle, [])  # pyright: ignore[reportArgumentType]
    assert (resumed / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()


def test_a_new_training_starts_a_new_table(tmp_path, hand_model, layer):
    Watch(tmp_path, layer, hand_model).step(train_row(10))
    Watch(tmp_path, layer, hand_model).step(train_row(20))
    assert numbers(tmp_path / "metrics.csv") == [("train", 20)]


def test_the_table_reads_as_it_was_written(tmp_path):
    table = MetricsFile(tmp_path / "metrics.csv", keep=False)
    table.write({"split": "train", "pictures": 64, "loss": 1 / 3, "waiting_share": 0.25, "teacher_vertices": 0.125})
    table.write({"split": "validation", "pictures": 64, "pa_mpvpe_mm": 7.0})
    with (tmp_path / "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["split"] for row in rows] == ["train", "validation"]
    assert float(rows[0]["loss"]) == pytest.approx(1 / 3, rel=1e-5) and rows[0]["pa_mpvpe_mm"] == ""
    assert (rows[0]["teacher_vertices"], rows[1]["pa_mpvpe_mm"]) == ("0.125", "7")
    with pytest.raises(ValueError, match="surprise"):
        table.write({"split": "train", "pictures": 1, "surprise": 1.0})


def test_an_older_table_gets_the_columns_of_now(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("split,pictures,loss,forgotten\ntrain,10,2.5,1\ntrain,20,2.25,1\n", encoding="utf-8")
    table = MetricsFile(path, keep=True)
    table.drop_after(10)
    table.write({"split": "train", "pictures": 12, "loss": 2.0})
    rows = read_metrics(path)
    assert [(row["pictures"], row["loss"]) for row in rows] == [("10", "2.5"), ("12", "2")]
    assert tuple(rows[0]) == MetricsFile.columns


def test_foreign_tables_get_one_line(tmp_path):
    (tmp_path / "metrics.csv").write_text("name,age\nx,3\n", encoding="utf-8")
    with pytest.raises(UserError, match="columns split and pictures") as caught:
        MetricsFile(tmp_path / "metrics.csv", keep=True).drop_after(10)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="cannot be read"):
        draw_curves(tmp_path / "none.csv", tmp_path / "curves.png")


def test_the_same_16_hands_every_time(tmp_path, hand_model, layer, batches):
    picked = pick_hands(iter(batches), 16)
    assert picked is not None and len(picked) == 16
    assert picked.presence.eq(1).all() and picked.right.eq(1).all()
    assert len(set(picked.index.tolist())) == 16
    # From all over, not the first 16, and the same however the pictures come in batches.
    wanted = [int(batch.index[row]) for batch in batches for row in range(len(batch)) if batch.right[row] == 1]
    assert max(picked.index.tolist()) > sorted(wanted)[16]
    again = pick_hands(iter([Batch.join(batches)]), 16)
    assert again is not None and torch.equal(again.index, picked.index)

    asked: list[torch.Tensor] = []

    class Recorder(Oracle):
        def forward(self, crops: torch.Tensor) -> Prediction:
            asked.append(crops)
            return super().forward(crops)

    def never() -> Iterator[Batch]:
        raise AssertionError("read again")
        yield

    recorder, one = Recorder(picked), Watch(tmp_path, layer, hand_model)
    one.validated(1000, 1.0, ERRORS, recorder, batches)
    one.validated(2000, 2.0, ERRORS, recorder, never())
    # So does a run that goes on; sheets of later than it goes on from are gone.
    one.validated(3000, 3.0, ERRORS, recorder, never())
    Watch(tmp_path, layer, hand_model, keep=2000).validated(2500, 2.5, ERRORS, recorder, batches)
    assert all(torch.equal(crops, picked.crops) for crops in asked) and len(asked) == 4
    assert [path.name for path in sorted((tmp_path / "overlays").iterdir())] == ["000001000.jpg", "000002000.jpg", "000002500.jpg"]
    sheet = cv2.imread(str(tmp_path / "overlays" / "000001000.jpg"))
    assert sheet is not None and min(sheet.shape[:2]) > 4 * 200


def test_hands_come_from_every_source(batches):
    other = [replace(batch, source=torch.ones_like(batch.source)) for batch in batches]
    picked = pick_hands([*batches, *other], 16)
    assert picked is not None and picked.source.tolist() == 8 * [0] + 8 * [1]
    few = pick_hands(batches[:1], 16)
    assert few is not None and 0 < len(few) < 10
    assert pick_hands([], 16) is None
    assert pick_hands([batches[0].rows(batches[0].right != 1)], 16) is None


def test_a_right_answer_is_drawn_where_the_hand_is(hand_model):
    """A hand of known place over grey: what changed is where the mesh is, nowhere else."""
    size, focal_px = 128, 300.0
    rotmats = hand_model.mean_rotmats().copy()
    rotmats[0] = rotvec_to_rotmat(np.array([-np.pi / 2, 0.0, 0.0]))
    layer = HandLayer(hand_model)
    vertices_m = layer(torch.tensor(rotmats, dtype=torch.float32)[None], torch.zeros(1, 10))
    joints_m = layer.joints(vertices_m)[0].numpy()
    placed_m = vertices_m[0].numpy() - joints_m[9] + (0.02, -0.03, 0.7)
    joints_m = joints_m - joints_m[9] + (0.02, -0.03, 0.7)
    keypoints_px = joints_m[:, :2] / joints_m[:, 2:] * focal_px + (size - 1) / 2
    crop = np.full((size, size, 3), 128, np.uint8)
    tile = draw_tile(crop, placed_m, hand_model.faces, focal_px, np.full((21, 2), -50.0), None)
    scale = len(tile) / size
    changed = np.abs(tile.astype(int) - 128).max(-1) > 8

    points_px = placed_m[:, :2] / placed_m[:, 2:] * focal_px + (size - 1) / 2
    at = (keypoints_px + 0.5) * scale - 0.5
    # Joints are inside of the hand.
    assert changed[at[:, 1].round().astype(int), at[:, 0].round().astype(int)].all()
    rows, columns = np.nonzero(changed)
    box = (np.array([columns.min(), rows.min(), columns.max(), rows.max()]) + 0.5) / scale - 0.5
    assert np.abs(box - [*points_px.min(0), *points_px.max(0)]).max() < 1.5
    # The side that is seen is drawn as a surface, not as lines.
    hull = np.zeros(changed.shape, np.uint8)
    cv2.fillPoly(hull, [cv2.convexHull(((points_px + 0.5) * scale - 0.5).round().astype(np.int32))], (1,))
    assert 0.5 < (changed & (hull > 0)).sum() / hull.sum() <= 1


def test_a_right_answers_keypoints_fall_on_the_true_ones(hand_model, layer, batches):
    picked = pick_hands(batches, 4)
    assert picked is not None
    sheet = draw_overlays(Oracle(picked), layer, hand_model.faces, picked, "title")
    wrong = replace(picked, keypoints_px=picked.keypoints_px + 6.0)
    moved = draw_overlays(Oracle(picked), layer, hand_model.faces, wrong, "title")
    other_title = draw_overlays(Oracle(picked), layer, hand_model.faces, picked, "another one")
    assert sheet.shape == moved.shape and sheet.dtype == np.uint8
    # Rings move with the truth; the predicted dots stay.
    assert (sheet != moved).any()
    assert (sheet[60:] == other_title[60:]).all() and (sheet[:40] != other_title[:40]).any()


def test_a_hand_behind_the_camera_is_no_trouble(hand_model):
    rng = np.random.default_rng(0)
    vertices_m = rng.normal(0, 1, hand_model.template_m.shape)
    tile = draw_tile(np.zeros((64, 64, 3), np.uint8), vertices_m, hand_model.faces, 200.0, 1e9 * rng.normal(size=(21, 2)), None)
    assert tile.shape == (240, 240, 3)


def test_curves_follow_the_numbers(tmp_path):
    def curves(scale: float, name: str, rows: int = 60) -> np.ndarray:
        table = MetricsFile(tmp_path / "metrics.csv", keep=False)
        for number in range(1, rows + 1):
            loss = scale * (1 + 1 / number)
            errors = dict.fromkeys((field.name for field in fields(Errors)), 1 / (scale * number + 1))
            table.write({**train_row(64 * number), "split": "train", "loss": loss, "vertices": loss / 100, **errors})
            if number % 10 == 0:
                table.write({"split": "validation", "pictures": 64 * number, "minutes": 0.1, **errors})
        draw_curves(tmp_path / "metrics.csv", tmp_path / name)
        picture = cv2.imread(str(tmp_path / name))
        assert picture is not None
        return picture

    one = curves(1.0, "one.png")
    assert one.shape[1] > 1000 and one.std() > 5
    assert (curves(1.0, "same.png") == one).all()
    assert (curves(3.0, "other.png") != one).any()


@pytest.mark.parametrize("rows", [0, 1])
def test_curves_of_hardly_any_numbers(tmp_path, hand_model, layer, rows, recwarn):
    one = Watch(tmp_path, layer, hand_model)
    for number in range(rows):
        one.step(train_row(number + 1))
    one.close()
    assert (tmp_path / "curves.png").stat().st_size > 1000
    assert not [str(warning.message) for warning in recwarn if issubclass(warning.category, UserWarning)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "metrics.csv"]


def test_tensorboard_gets_the_same_numbers(tmp_path, hand_model, layer, batches, monkeypatch):
    scalars: list[tuple[str, float, int]] = []
    pictures: list[tuple[str, int]] = []

    class Writer:
        def add_scalar(self, name: str, value: float, at: int) -> None:
            scalars.append((name, value, at))

        def add_image(self, name: str, picture: np.ndarray, at: int, dataformats: str) -> None:
            assert dataformats == "HWC" and picture.ndim == 3
            pictures.append((name, at))

        def close(self) -> None:
            scalars.append(("closed", 0.0, 0))

    kept: list[int | None] = []
    monkeypatch.setattr(watch, "_summary_writer", lambda folder, keep: kept.append(keep) or Writer())
    picked = pick_hands(batches, 16)
    assert picked is not None
    Watch(tmp_path, layer, hand_model, keep=5)
    one = Watch(tmp_path, layer, hand_model)
    one.step({"pictures": 8, "loss": 2.5, "right_hit": float("nan")})
    one.validated(8, 0.5, {"pa_mpjpe_mm": 7.5}, Oracle(picked), batches)
    one.close()
    assert kept == [5, None] and pictures == [("overlays", 8)]
    assert scalars == [("train/loss", 2.5, 8), ("validation/minutes", 0.5, 8), ("validation/pa_mpjpe_mm", 7.5, 8), ("closed", 0.0, 0)]
