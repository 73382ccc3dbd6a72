"""Data to measure on: FreiHAND's split, rendered sets, and readers of others."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from generated_freihand import SIZE_PX, make_freihand, mano_shaped_model
from test_synthetic_shards import without_renderer

from handmesh.errors import UserError
from handmesh.evaluation.datasets import FREIHAND_TOPOLOGY, open_data
from handmesh.evaluation.records import EvaluationSet
from handmesh.hand_model.skinning import mirror_points
from handmesh.synthetic.command import SynthCommand, run_synth
from handmesh.synthetic.freihand_layout import LayoutReader

MY_DATASET = Path(__file__).parents[1] / "demo" / "my_dataset.py"


@pytest.fixture(scope="module")
def freihand(tmp_path_factory):
    return make_freihand(tmp_path_factory.mktemp("freihand"), mano_shaped_model(), count=4, versions=1, evaluation=6)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """Noise in the layout of handmesh-synth: right hands, left hands and pictures without one."""
    folder = tmp_path_factory.mktemp("rendered") / "some set"
    with pytest.MonkeyPatch.context() as patch:
        without_renderer(patch)
        run_synth(SynthCommand(out=folder, count=30, size=32, format="freihand", workers=1))
    return folder


def test_freihand_is_its_evaluation_split(freihand):
    data = open_data(freihand)
    assert len(data) == 6 and data.topology == FREIHAND_TOPOLOGY and data.crop == "centre" and not data.left().any()
    truth = np.array(json.loads((freihand / "evaluation_verts.json").read_text()))
    # Not rounded to single precision: official numbers are exact.
    assert np.array_equal(data.vertices_m, truth) and data.vertices_m.dtype == np.float64
    assert data.picture(3).shape == (SIZE_PX, SIZE_PX, 3)
    stored = cv2.imread(str(freihand / "evaluation/rgb/00000003.jpg"))[..., ::-1]
    assert np.array_equal(data.picture(3), stored)


def test_truth_alone_is_enough_to_score_others(freihand, tmp_path):
    for name in ("xyz", "verts"):
        shutil.copy(freihand / f"evaluation_{name}.json", tmp_path)
    data = open_data(tmp_path, truth_only=True)
    assert np.array_equal(data.joints_m, open_data(freihand).joints_m) and data.K is None
    for ask, what in ((lambda: data.picture(0), "pictures"), (data.cameras, "cameras")):
        with pytest.raises(UserError, match=f"expected {what}"):
            ask()


def test_freihand_without_annotations_names_the_archive(freihand, tmp_path):
    shutil.copy(freihand / "evaluation_K.json", tmp_path)
    with pytest.raises(UserError, match="annotated evaluation archive"):
        open_data(tmp_path)


def test_a_rendered_set_is_its_present_hands_in_order(rendered, hand_model):
    data = open_data(rendered)
    reader = LayoutReader(rendered)
    labels = reader.labels()
    present = np.flatnonzero(labels["presence"] == 1)
    assert len(data) == len(present) and data.topology == hand_model.id and data.name == "some set" and data.crop == "gt"
    assert data.left().tolist() == [reader.is_left(index) for index in present]
    assert data.left().any() and not data.left().all()
    for row, index in enumerate(present):
        assert np.array_equal(data.picture(row), reader.image(index))
        seen = data.joints_m[row] @ data.cameras()[row].T
        np.testing.assert_allclose(seen[:, :2] / seen[:, 2:], labels["keypoints_px"][index], atol=1e-2)
        # A mesh of the model's: its own regressor gives the joints, mirrored for left hands.
        side = mirror_points if data.left()[row] else np.asarray
        np.testing.assert_allclose(hand_model.joints(side(data.vertices_m[row])), side(data.joints_m[row]), atol=1e-5)


def test_every_nth_hand_keeps_everything_together(rendered):
    data = open_data(rendered)
    some = data.every(3)
    assert len(some) == -(-len(data) // 3)
    for row in range(len(some)):
        assert np.array_equal(some.picture(row), data.picture(3 * row)) and np.array_equal(some.joints_m[row], data.joints_m[3 * row])
        assert some.left()[row] == data.left()[3 * row]


@pytest.fixture
def mine(tmp_path, freihand):
    data = open_data(freihand)
    hands = []
    for index in range(len(data)):
        cv2.imwrite(str(tmp_path / f"{index}.png"), data.picture(index)[..., ::-1])
        hand = {"file": f"{index}.png", "K": data.cameras()[index].tolist(), "joints_m": data.joints_m[index].tolist(), "is_left": False}
        hands.append(hand)
    (tmp_path / "hands.json").write_text(json.dumps(hands))
    return tmp_path


def test_a_reader_of_ones_own_is_one_short_file(mine, freihand):
    data = open_data(mine, MY_DATASET)
    assert np.allclose(data.joints_m, open_data(freihand).joints_m) and data.vertices_m is None
    assert np.array_equal(data.picture(2), open_data(freihand).picture(2))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def other(): pass", "expected a function open_data"),
        ("def open_data(path): return 3", "to give an EvaluationSet, got int"),
        ("def open_data(path):\n    return {}['key']", "got KeyError, line 2"),
        ("def open_data(path): return open(path / 'hands.json')", "got FileNotFoundError"),
        ("value = 1 / 0", "got ZeroDivisionError"),
        ("import nothing_of_this_name", "nothing_of_this_name"),
        ("def open_data(:", "got SyntaxError"),
    ],
)
def test_bad_readers_are_one_line(tmp_path, text, said):
    reader = tmp_path / "reader.py"
    reader.write_text(text)
    with pytest.raises(UserError, match=said):
        open_data(tmp_path, reader)


def test_readers_are_modules_like_any_other(tmp_path, freihand):
    """With dataclasses, and with a file beside them."""
    (tmp_path / "beside.py").write_text("CROP = 'detector'")
    reader = tmp_path / "reader.py"
    reader.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nimport numpy as np\nimport beside\n"
        "from handmesh.evaluation.records import EvaluationSet\n@dataclass\nclass Entry:\n    at: int\n"
        "def open_data(path): return EvaluationSet('x', np.random.rand(2, 21, 3), None, None, crop=beside.CROP)\n"
    )
    assert open_data(tmp_path, reader).crop == "detector"


@pytest.mark.parametrize("picture", [None, np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3)), 1 / 3])
def test_pictures_of_a_reader_are_checked(freihand, picture):
    data = replace(open_data(freihand), image=lambda index: picture)
    with pytest.raises(UserError, match="picture 2 of 'FreiHAND' as"):
        data.picture(2)
    with pytest.raises(UserError, match="picture 2 of 'FreiHAND', got KeyError"):
        replace(data, image=lambda index: {}[index]).picture(2)


def test_no_reader_no_folder_nothing_known(tmp_path):
    with pytest.raises(UserError, match="which is none"):
        open_data(tmp_path / "nowhere")
    with pytest.raises(UserError, match="got neither"):
        open_data(tmp_path)
    with pytest.raises(UserError, match="for --reader"):
        open_data(tmp_path, tmp_path / "none.py")


def test_a_set_without_hands_is_refused(rendered, tmp_path):
    copy = tmp_path / "set"
    shutil.copytree(rendered, copy)
    for folder in (copy, copy / "left"):
        side = json.loads((folder / "training_side.json").read_text())
        (folder / "training_side.json").write_text(json.dumps([{**entry, "presence": 0} for entry in side]))
    with pytest.raises(UserError, match="none that are present"):
        open_data(copy)


def test_records_refuse_arrays_that_do_not_fit():
    joints_m = np.random.default_rng(0).uniform(0.4, 0.5, (3, 21, 3))
    good = EvaluationSet("x", joints_m, None, None)
    for changes, said in (
        ({"joints_m": np.ones((3, 20, 3))}, r"joints_m of shape \(3, 21, 3\)"),
        ({"joints_m": np.ones((0, 21, 3))}, "got none"),
        ({"K": np.ones((2, 3, 3))}, "K of shape"),
        ({"vertices_m": np.ones((3, 5))}, "vertices_m of shape"),
        ({"is_left": np.zeros(2, bool)}, "is_left of shape"),
        ({"is_left": ["yes", "no"]}, "is_left of shape"),
        ({"joints_m": "joints"}, "array of numbers"),
        ({"joints_m": np.ones((3, 21, 3))}, "all one point at index 0"),
        ({"vertices_m": np.ones((3, 5, 3))}, "both or neither"),
        ({"crop": "center"}, "got 'center'"),
        ({"K": np.tile(np.eye(3)[[1, 0, 2]], (3, 1, 1))}, "transposed"),
        ({"K": np.tile(np.eye(3), (3, 1, 1)), "joints_m": -joints_m}, "before the camera"),
        ({"joints_m": np.where(np.arange(3)[:, None, None] == 1, np.nan, joints_m)}, "at index 1"),
    ):
        with pytest.raises(UserError, match=said):
            replace(good, **changes)
