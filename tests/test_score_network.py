"""tools/score_network.py: a perfect network scores nothing, known errors score what they are, and the tables hold their numbers."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from handmesh.cli import guard
from handmesh.errors import UserError
from handmesh.geometry.camera import translation_to_weak_perspective
from handmesh.geometry.crop import camera_to_crop
from handmesh.geometry.rotation import MIRROR_X, rotvec_to_rotmat
from handmesh.hand_model.skinning import mirror_points, skin
from handmesh.records import Hand, HandParams
from handmesh.runtime import DEFAULT_MODEL
from handmesh.skeleton import ROOT
from handmesh.synthetic.manifest import FREIHAND
from handmesh.synthetic.poses import UPRIGHT_PALM
from handmesh.synthetic.scene import LABEL_DTYPE, NO_POSE, POSE_KINDS

TOOLS = Path(__file__).resolve().parent.parent / "tools"
SIZE = 96
IDENTITY = np.eye(3)


@pytest.fixture(scope="module")
def tools():
    sys.path.insert(0, str(TOOLS))
    try:
        import score_network
        import score_tables
        import score_video
    finally:
        sys.path.remove(str(TOOLS))
    return SimpleNamespace(network=score_network, tables=score_tables, video=score_video)


def made_labels(model, presences, left=(), seed=0):
    """(N,) LABEL_DTYPE of random hands, off-centre; presence 0 is a hand for the first of them and none for the others."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(len(presences), LABEL_DTYPE)
    labels["rotmats"], labels["pose"], labels["presence"] = np.eye(3), NO_POSE, presences
    is_empty = np.array(presences) == 0
    is_empty[np.flatnonzero(is_empty)[:1]] = False
    for index in np.flatnonzero(~is_empty):
        label = labels[index]
        label["rotmats"] = rotvec_to_rotmat(rng.normal(0, 0.4, (16, 3)))
        label["rotmats"][0] = rotvec_to_rotmat(rng.normal(0, 0.5, 3)) @ UPRIGHT_PALM
        label["betas"], label["root_m"], label["focal_px"] = rng.normal(0, 1, 10), rng.uniform((-0.1, -0.1, 0.5), (0.1, 0.1, 0.9)), 160
        label["tone"], label["seen"], label["pose"], label["visible"] = rng.random(), rng.random(), rng.integers(len(POSE_KINDS)), 1
        joints_m = model.joints(skin(model, label["rotmats"], label["betas"]))
        placed_m = joints_m - joints_m[ROOT] + label["root_m"]
        label["keypoints_px"] = placed_m[:, :2] / placed_m[:, 2:] * 160 + (SIZE - 1) / 2
        if index in left:
            label["keypoints_px"][:, 0] = SIZE - 1 - label["keypoints_px"][:, 0]
    return labels


class MadePictures:
    """A `sheet.Pictures` of labels and noise."""

    def __init__(self, labels, left=()):
        self._labels, self._left = labels, set(left)

    def __len__(self):
        return len(self._labels)

    def labels(self):
        return self._labels

    def is_left(self, index):
        return index in self._left

    def image(self, index):
        return np.random.default_rng(index).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def seen_params(label, is_left, crop, presence=1.0, right_logit=2.0, turn=IDENTITY):
    """The truth about a picture in the frame of its crop, from the picture's own frame turned by `turn` about the root."""
    mirror = MIRROR_X if is_left else IDENTITY
    root_m = camera_to_crop(label["root_m"].astype(np.float64) @ mirror, crop)
    # Columns of a rotation are directions, and a mirror comes before and after.
    R_seen = camera_to_crop((turn @ mirror @ label["rotmats"][0]).T, crop).T
    rotmats = label["rotmats"].astype(np.float64)
    rotmats[0] = R_seen
    camera = translation_to_weak_perspective(root_m, crop.camera.fx, crop.camera.width)
    return HandParams(rotmats, label["betas"].astype(np.float64), camera, presence, right_logit)


class TrueNetwork:
    """Stands for a Predictor that knows the labels: it finds the picture by its crop."""

    def __init__(self, tools, pictures, **said):
        self.info = SimpleNamespace(input_size_px=64, variant="true", hand_model="open-hand-2")
        self._said = said
        self._crops = {}
        for index, label in enumerate(pictures.labels()):
            crop = tools.network.crop_picture(pictures.image(index), label, pictures.is_left(index), 64)
            self._crops[crop.image.tobytes()] = (label, pictures.is_left(index), crop)

    def __call__(self, crops):
        label, is_left, crop = self._crops[crops[0].tobytes()]
        if label["presence"] == 0:
            return [HandParams(label["rotmats"], label["betas"], np.array([1.0, 0, 0]), 0.2, 0.0)]
        params = seen_params(label, is_left, crop, **self._said)
        return [params, replace(params, right_logit=-params.right_logit)][: len(crops)]


def test_a_network_that_knows_the_labels_makes_no_errors(tools, hand_model):
    labels, left = made_labels(hand_model, [1, 1, 0, -1, 1, 0, 0], left := (1, 2)), left
    pictures = MadePictures(labels, left)
    scores = tools.network.score_set(pictures, "made", hand_model, TrueNetwork(tools, pictures))
    assert scores.pictures == 6 and scores.is_left.tolist() == [False, True, False]
    for name in ("pa_mpjpe_mm", "pa_mpvpe_mm", "mpjpe_mm", "mpvpe_mm"):
        assert scores.hands[name] == pytest.approx(0, abs=1e-3)
    assert scores.hands["keypoints_share"] == pytest.approx(0, abs=1e-4)
    for name in ("f_5mm", "f_15mm", "presence_hit", "right_hit"):
        assert scores.hands[name].tolist() == [1.0] * 3
    assert scores.hands["auc"] == pytest.approx(1, abs=0.01)
    assert scores.hidden_hit.tolist() == [1.0] and scores.empty_hit.tolist() == [1.0, 1.0]


def test_a_turned_hand_is_wrong_until_it_is_aligned(tools, hand_model):
    labels = made_labels(hand_model, [1, 1])
    pictures, turn = MadePictures(labels, (1,)), rotvec_to_rotmat(np.array([0.0, 0.5, 0.0]))
    labels["keypoints_px"][1, :, 0] = SIZE - 1 - labels["keypoints_px"][1, :, 0]
    scores = tools.network.score_set(pictures, "made", hand_model, TrueNetwork(tools, pictures, turn=turn, presence=0.4, right_logit=-1.0))
    assert scores.hands["pa_mpjpe_mm"] == pytest.approx(0, abs=1e-3)
    for index, is_left in enumerate((False, True)):
        joints_m = tools.network.true_hand(hand_model, labels[index], is_left)[1].astype(np.float64)
        around_m = joints_m - joints_m[ROOT]
        expected_mm = 1e3 * np.linalg.norm(around_m @ turn.T - around_m, axis=1).mean()
        assert scores.hands["mpjpe_mm"][index] == pytest.approx(expected_mm, abs=1e-3) and expected_mm > 5
    assert not scores.hands["presence_hit"].any() and not scores.hands["right_hit"].any()


def test_a_left_hand_is_the_mirror_image_of_what_its_label_poses(tools, hand_model):
    label = made_labels(hand_model, [1])[0]
    right, left = (tools.network.true_hand(hand_model, label, is_left) for is_left in (False, True))
    assert np.array_equal(left[1], mirror_points(right[1])) and right[1][ROOT] == pytest.approx(label["root_m"], abs=1e-6)


def test_a_left_hand_is_shown_mirrored(tools, hand_model):
    label, image = made_labels(hand_model, [1])[0], MadePictures([]).image(0)
    plain, mirrored = (tools.network.crop_picture(image, label, is_left, 64) for is_left in (False, True))
    assert np.array_equal(mirrored.image, plain.image[:, ::-1]) and mirrored.is_mirrored and not plain.is_mirrored


def test_keypoints_are_measured_in_boxes(tools, hand_model):
    label = made_labels(hand_model, [1])[0]
    vertices_m, joints_m = tools.network.true_hand(hand_model, label, False)
    params = HandParams(label["rotmats"], label["betas"], np.array([1.0, 0, 0]), 1.0, 1.0)
    box_px = np.ptp(label["keypoints_px"], axis=0).max()
    keypoints_px = label["keypoints_px"] + np.array([0.06, -0.08]) * box_px
    hand = Hand(vertices_m, joints_m, keypoints_px, keypoints_px, np.eye(4), params, np.zeros(4), 1.0, True)
    row = np.array(tools.network.score_hand(hand_model, hand, label, False, -1.0), tools.network.SCORE_DTYPE)
    assert row["keypoints_share"] == pytest.approx(0.1, rel=1e-4) and row["mpjpe_mm"] == pytest.approx(0, abs=1e-3)


def test_every_takes_every_nth_picture_and_a_set_without_hands_is_refused(tools, hand_model):
    pictures = MadePictures(made_labels(hand_model, [1, 0, 1, 0, 1, 0]))
    network = TrueNetwork(tools, pictures)
    assert len(tools.network.score_set(pictures, "made", hand_model, network, every=4).hands) == 2
    nobody = MadePictures(made_labels(hand_model, [0, 0]))
    with pytest.raises(UserError, match="without one"):
        tools.network.score_set(nobody, "made", hand_model, TrueNetwork(tools, nobody))


def test_pictures_without_a_hand_give_the_square_in_their_middle(tools):
    image = np.random.default_rng(0).integers(0, 256, (64, 100, 3), dtype=np.uint8)
    crop = tools.network.crop_picture(image, np.zeros((), LABEL_DTYPE), False, 64)
    assert np.abs(crop.image[2:-2, 2:-2].astype(int) - image[2:-2, 20:80]).max() <= 1


@pytest.mark.parametrize("is_share", [False, True])
def test_nineteen_of_twenty_intervals_hold_the_truth(tools, is_share):
    rng = np.random.default_rng(0)
    draws = (rng.random((1000, 100)) < 0.9).astype(float) if is_share else rng.exponential(0.9, (1000, 100))
    means = [tools.network.mean_of(draw, is_share) for draw in draws]
    assert 0.91 < np.mean([abs(mean.value - 0.9) <= mean.half_width for mean in means]) < 0.98


def test_few_hits_are_no_certainty_and_none_have_no_mean(tools):
    few, many = (tools.network.mean_of(np.ones(count), is_share=True) for count in (5, 500))
    assert few.half_width > 0.2 > 0.01 > many.half_width > 0
    empty = tools.network.mean_of(np.zeros(0))
    assert math.isnan(empty.value) and empty.count == 0


def test_balanced_presence_weighs_both_answers_alike(tools):
    mean, network = tools.network.Mean, tools.network
    both = network.balanced(mean(1.0, 0.03, 900), mean(0.5, 0.04, 100))
    assert both.value == 0.75 and both.half_width == pytest.approx(0.025) and both.count == 1000


def test_each_grouping_divides_all_hands(tools, hand_model):
    labels = made_labels(hand_model, [1] * 200)
    rng = np.random.default_rng(1)
    labels["rotmats"][:, 0] = rotvec_to_rotmat(rng.normal(0, 2, (200, 3)))
    labels["seen"][:4], labels["tone"][:2] = (0.0, 0.4, 0.7, 1.0), (0.0, 1.0)
    groups = tools.network.groups_of(labels, rng.random(200) < 0.5)
    assert set(groups) == {"Monk tone", "pose", "view", "fingers", "share seen", "side"}
    for by, masks in groups.items():
        assert (np.sum(list(masks.values()), axis=0) == 1).all(), by
        assert all(mask.any() for mask in masks.values()), by
    assert groups["share seen"]["0.9-1"][3] and groups["share seen"]["0-0.4"][:2].all() and groups["share seen"]["0.4-0.7"][2]


def test_views_are_what_the_camera_sees(tools, hand_model):
    turns = {
        "palm": np.zeros(3),
        "back": np.array([0, np.pi, 0]),
        "edge-on": np.array([0, np.pi / 2, 0]),
        "pointing at the camera": np.array([np.pi / 2, 0, 0]),
        "pointing away": np.array([-np.pi / 2, 0, 0]),
    }
    labels = made_labels(hand_model, [1] * len(turns))
    labels["root_m"] = (0, 0, 0.6)
    labels["rotmats"][:, 0] = [rotvec_to_rotmat(turn) @ UPRIGHT_PALM for turn in turns.values()]
    groups = tools.network.groups_of(labels, np.zeros(len(turns), bool))
    for index, view in enumerate(turns):
        assert groups["view"][view][index], view
    assert groups["fingers"]["up in the picture"].tolist() == [True, True, True, False, False]


def test_jitter_is_how_far_the_joints_move(tools, hand_model):
    angle = 0.01

    def swinging(crops):
        turns = [rotvec_to_rotmat(np.array([0, 0, angle * (-1) ** index])) for index in range(len(crops))]
        return [HandParams(np.stack([turn, *[np.eye(3)] * 15]), np.zeros(10), np.array([1.0, 0, 0]), 1.0, 1.0) for turn in turns]

    joints_m = hand_model.joints(hand_model.template_m).astype(np.float64)
    around_m = (joints_m - joints_m[ROOT])[:, :2]
    expected_mm = 1e3 * math.sin(angle) * math.sqrt(np.square(around_m).sum(axis=1).mean())
    assert tools.video.jitter_rms_mm(np.zeros((8, 8, 3), np.uint8), hand_model, swinging) == pytest.approx(expected_mm, rel=1e-4)


def test_noise_has_the_spread_that_is_said(tools, hand_model):
    seen = []

    def still(crops):
        seen.append(crops)
        return [HandParams(np.tile(np.eye(3), (16, 1, 1)), np.zeros(10), np.array([1.0, 0, 0]), 1.0, 1.0)] * len(crops)

    assert tools.video.jitter_rms_mm(np.full((32, 32, 3), 128, np.uint8), hand_model, still) == pytest.approx(0, abs=1e-9)
    assert seen[0].astype(float).std(axis=0).mean() == pytest.approx(4, rel=0.02) and len(seen[0]) == 100


def made_video(path, frames=3):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 30, (SIZE, SIZE))
    for index in range(frames):
        writer.write(MadePictures([]).image(index))
    writer.release()
    return path


def test_no_video_and_no_such_frame_are_said(tools, hand_model, tmp_path):
    (tmp_path / "words.mp4").write_text("no video")
    with pytest.raises(UserError, match="expected a video"):
        tools.video.measure_jitter(tmp_path / "words.mp4", 0, hand_model, None)
    with pytest.raises(UserError, match="behind its end"):
        tools.video.measure_jitter(made_video(tmp_path / "short.mp4"), 7, hand_model, None)


def test_a_document_keeps_what_is_around_the_marks(tools, tmp_path):
    card = tmp_path / "card.md"
    card.write_text(f"# Card\n\nbefore\n{tools.tables.BEGIN}\nold\n{tools.tables.END}\nbehind\n", encoding="utf-8")
    for _ in range(2):
        tools.tables.write_between_marks(card, "new\n")
        text = card.read_text(encoding="utf-8")
        assert text == f"# Card\n\nbefore\n{tools.tables.BEGIN}\nnew\n{tools.tables.END}\nbehind\n"
    card.write_text("no marks", encoding="utf-8")
    with pytest.raises(UserError, match="lacks them"):
        tools.tables.write_between_marks(card, "new")
    assert card.read_text(encoding="utf-8") == "no marks"


@pytest.fixture
def made_set(tmp_path, hand_model):
    """Noise in the layout that the tool reads, with a right hand, a left hand, and none."""
    folder = tmp_path / "made"
    labels = made_labels(hand_model, [1, 1, 0, 1, 0], left=(1,))
    kinds = np.array([0, 1, 2, 0, 2], np.uint8)
    numbers = [0, 0, 0, 1, 1]
    for index, (kind, number) in enumerate(zip(kinds, numbers, strict=True)):
        rgb = folder / (".", "left", "negative")[kind] / "training" / "rgb"
        rgb.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(rgb / f"{number:08d}.jpg"), MadePictures(labels).image(index))
    np.save(folder / "labels.npy", labels)
    np.save(folder / "kinds.npy", kinds)
    manifest = {"format": FREIHAND, "count": 5, "versions": 1, "size_px": SIZE, "width_px": SIZE, "hand_model": hand_model.id}
    (folder / "manifest.json").write_text(json.dumps({**manifest, "pieces": [{"name": "all", "count": 5}]}))
    return folder


def test_the_tool_from_files_to_files(tools, made_set, tmp_path, capsys):
    card, numbers = tmp_path / "card.md", tmp_path / "scores.json"
    tools.network.main([str(DEFAULT_MODEL), "--set", str(made_set), "--threads", "1", "--json", str(numbers), "--card", str(card)])
    printed, text = capsys.readouterr().out, card.read_text(encoding="utf-8")
    found = json.loads(numbers.read_text())["sets"][0]
    assert found["pictures"] == 5 and found["all"]["pa_mpjpe_mm"]["count"] == 3 and found["groups"]["side"]["left"]["auc"]["count"] == 1
    assert found["presence"]["absent"]["count"] == 2
    mean_mm = f"{found['all']['pa_mpjpe_mm']['value']:.2f}"
    assert mean_mm in printed and mean_mm in text and "**made by group**" in text and DEFAULT_MODEL.name in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {3, 13}


def test_bad_requests_are_one_line(tools, made_set, tmp_path, capsys, monkeypatch):
    (tmp_path / "card.md").write_text("no marks", encoding="utf-8")
    manifest = made_set / "manifest.json"
    cases = {
        "something to look at": [],
        "--every from 1": ["--set", str(made_set), "--every", "0"],
        "lacks them": ["--set", str(made_set), "--card", str(tmp_path / "card.md")],
        "a set of the hand model": ["--set", str(made_set)],
    }
    manifest.write_text(manifest.read_text().replace("open-hand-", "another-"))
    for words, flags in cases.items():
        monkeypatch.setattr(sys, "argv", ["score_network", str(DEFAULT_MODEL), *flags])
        assert guard("score_network", tools.network.main) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1
