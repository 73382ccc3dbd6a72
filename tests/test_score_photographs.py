"""tools/score_photographs.py: a network that knows the hand scores nothing, known errors score what they are."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import score_network
import score_photographs
from generated_shards import GeneratedShards

from handmesh.errors import UserError
from handmesh.geometry.camera import camera_from_focal, project, translation_to_weak_perspective
from handmesh.geometry.crop import camera_to_crop, crop_points
from handmesh.hand_model.landmarks import landmarks_m
from handmesh.hand_model.skinning import skin
from handmesh.photographs import LABEL_DTYPE, TRAINING, VALIDATION, Origin, PhotographReader, write_photographs
from handmesh.records import HandParams
from handmesh.runtime import DEFAULT_MODEL
from handmesh.skeleton import ROOT

STORED_PX, SIZE_PX, COUNT = 128, 64, 12


@pytest.fixture
def made(tmp_path, hand_model):
    """Photographs whose landmarks are exactly where the offsets put them, and the hands that they show."""
    shards = GeneratedShards(hand_model, COUNT, STORED_PX)
    truth = shards.labels(np.arange(COUNT))
    labels = np.zeros(COUNT, LABEL_DTYPE)
    labels["rotmats"], labels["split"], labels["split"][1] = np.eye(3), VALIDATION, TRAINING
    labels["file"] = [f"{index}.jpg".encode() for index in range(COUNT)]
    labels["origin"] = np.arange(COUNT) % 2
    camera = camera_from_focal(STORED_PX, STORED_PX, 3.0 * STORED_PX)
    for index in np.flatnonzero(truth["presence"] != 0):
        rotmats, betas = posed(truth[index])
        joints_m = hand_model.joints(skin(hand_model, rotmats, betas))
        joints_m = joints_m - joints_m[ROOT] + truth["root_m"][index]
        labels["landmarks_px"][index] = project(landmarks_m(joints_m, rotmats[0], rotmats, is_right=True), camera)
        labels["focal_px"][index], labels["presence"][index], labels["has_side"][index] = camera.fx, 1, True
    write_photographs(tmp_path, shards.images(np.arange(COUNT)), labels, [Origin("a", "MIT"), Origin("b", "MIT")])
    return PhotographReader(tmp_path), truth


def posed(label) -> tuple[np.ndarray, np.ndarray]:
    return label["rotmats"].astype(float), label["betas"].astype(float)


class TrueNetwork:
    """Stands for a Predictor that is asked about the validation split in order."""

    def __init__(self, reader: PhotographReader, truth: np.ndarray, shift_m=(0.0, 0.0, 0.0), **said):
        self.info = SimpleNamespace(input_size_px=SIZE_PX)
        self._answers = []
        for index in reader.of_split(VALIDATION):
            label, image = reader.labels[index], reader.images(np.array([index]))[0]
            if not label["presence"]:
                self._answers.append([HandParams(np.tile(np.eye(3), (16, 1, 1)), np.zeros(10), np.array([1.0, 0, 0]), 0.2, 0.0)])
                continue
            camera = camera_from_focal(STORED_PX, STORED_PX, float(label["focal_px"]))
            crop = crop_points(label["landmarks_px"], image, camera, SIZE_PX)
            rotmats, betas = posed(truth[index])
            rotmats[0] = crop.R_camera_crop.T @ rotmats[0]
            root_m = camera_to_crop(truth["root_m"][index].astype(float) + shift_m, crop)
            params = HandParams(rotmats, betas, translation_to_weak_perspective(root_m, crop.camera.fx, SIZE_PX), 0.9, 2.0)
            params = replace(params, **said)
            self._answers.append([params, replace(params, right_logit=-params.right_logit)])
        self._answers.reverse()

    def __call__(self, crops):
        answer = self._answers.pop()
        assert len(crops) == len(answer)
        return answer


def test_a_network_that_knows_the_hands_agrees(made, hand_model):
    reader, truth = made
    scores = score_photographs.score_photographs(reader, hand_model, TrueNetwork(reader, truth), {"0.jpg"})
    hands = [index for index in reader.of_split(VALIDATION) if reader.labels["presence"][index]]
    assert scores.moved == pytest.approx(0, abs=1e-4) and len(scores.moved) == len(hands)
    # Its keypoints as they are lie elsewhere.
    assert scores.plain.min() > 0.01
    assert scores.is_checked.tolist() == [index == 0 for index in hands]
    assert scores.origins.tolist() == ["ab"[index % 2] for index in hands]
    assert scores.side_hit.all() and scores.present_hit.all() and scores.absent_hit.tolist() == [1.0] * (COUNT - 1 - len(hands))
    assert score_photographs.summary(scores)["side"] == 1


def test_a_hand_elsewhere_is_as_far_off_as_it_is(made, hand_model):
    reader, truth = made
    network = TrueNetwork(reader, truth, shift_m=(0.01, 0.0, 0.0), presence=0.3, right_logit=-1.0)
    scores = score_photographs.score_photographs(reader, hand_model, network, set())
    hands = [index for index in reader.of_split(VALIDATION) if reader.labels["presence"][index]]
    boxes_px = np.ptp(reader.labels["landmarks_px"][hands], axis=1).max(axis=1)
    expected = 0.01 * 3 * STORED_PX / truth["root_m"][hands, 2] / boxes_px
    assert scores.moved == pytest.approx(expected, rel=0.15)
    assert not scores.present_hit.any() and not scores.side_hit.any()
    table = score_photographs.photograph_table(scores)
    assert [row[0] for row in table.rows] == ["all", "a", "b", "without a hand"]
    assert table.rows[0][2] == f"{np.median(scores.moved):.4f}" and table.rows[0][-1] == "0.0"


def test_the_tool_scores_the_embedded_network(made, tmp_path, capsys):
    numbers = tmp_path / "numbers.json"
    score_network.main([str(DEFAULT_MODEL), "--photographs", str(tmp_path), "--json", str(numbers)])
    assert "labels checked by eye" not in capsys.readouterr().out
    assert '"moved_50"' in numbers.read_text()


def test_the_table_of_checked_photographs_is_read(tmp_path):
    assert len(score_photographs.read_checked(score_photographs.CHECKED)) > 100
    (tmp_path / "table.csv").write_text("file\na\n")
    with pytest.raises(UserError, match="columns file and checked"):
        score_photographs.read_checked(tmp_path / "table.csv")
    with pytest.raises(UserError, match="columns file and checked"):
        score_photographs.read_checked(tmp_path / "gone.csv")
