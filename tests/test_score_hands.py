"""tools/score_hands.py: an estimator that knows the hands scores nothing, known errors score what they are."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import score_hands
from generated_shards import GeneratedShards
from score_hands import Pipeline, Worst, main, read_listed, read_reference, score_boxes, score_frames, score_photographs, score_video
from score_network import true_hand

from handmesh.errors import UserError
from handmesh.geometry.camera import camera_from_focal, project
from handmesh.records import Detection, Hand, HandParams

COUNT, SIZE_PX = 12, 64
LEFT = frozenset({2, 6})


class MadePictures:
    """A `sheet.Pictures` of generated labels; every image is one grey, the number of the image."""

    def __init__(self, hand_model):
        self._labels = GeneratedShards(hand_model, COUNT, SIZE_PX).labels(np.arange(COUNT))
        for index in LEFT:
            self._labels["keypoints_px"][index, :, 0] = SIZE_PX - 1 - self._labels["keypoints_px"][index, :, 0]

    def __len__(self):
        return COUNT

    def labels(self):
        return self._labels

    def is_left(self, index):
        return index in LEFT

    def image(self, index):
        return np.full((SIZE_PX, SIZE_PX, 3), index, np.uint8)


def hand_of(model, label, is_left) -> Hand:
    """The labelled hand as an estimator gives it."""
    vertices_m, joints_m = true_hand(model, label, is_left)
    points_px = project(joints_m, camera_from_focal(SIZE_PX, SIZE_PX, 3.0 * SIZE_PX))
    params = HandParams(label["rotmats"], label["betas"], np.array([1.0, 0, 0]), 0.9, 1.0)
    return Hand(vertices_m, joints_m, points_px, points_px, np.eye(4), params, np.zeros(4), 0.9, not is_left)


class TrueEstimator:
    """Knows every image by its grey, and what to change of its hand; sees nothing in those of `blind_to`."""

    def __init__(self, model, pictures, change=lambda hand: hand, blind_to=(), strays=()):
        self._model, self._pictures, self._change, self._blind_to, self._strays = model, pictures, change, blind_to, strays
        self.detections = []

    def __call__(self, image_rgb, camera=None, detections=None, *, keeps_sides=False):
        index = int(image_rgb[0, 0, 0])
        self.detections.extend(detections or [])
        label = self._pictures.labels()[index]
        if label["presence"] == 0:
            label, index = self._pictures.labels()[0], 0 if index in self._strays else -1
        if index < 0 or index in self._blind_to:
            return []
        return [self._change(hand_of(self._model, label, self._pictures.is_left(index)))]

    def track(self, image_rgb, time_s, camera=None):
        raise NotImplementedError


@pytest.fixture
def pictures(hand_model):
    return MadePictures(hand_model)


def moved(hand: Hand, shift_m=(0.0, 0.0, 0.0), scale=1.0) -> Hand:
    return replace(hand, vertices_m=scale * hand.vertices_m + shift_m, joints_m=scale * hand.joints_m + shift_m, scale=scale)


def test_whole_frames(hand_model, pictures):
    def scored(listed=None, **estimator):
        return score_frames(
            pictures, listed, 1, Worst("strays"), Pipeline(TrueEstimator(hand_model, pictures, **estimator), hand_model), Worst("")
        )

    hands = int((pictures.labels()["presence"] == 1).sum())
    exact = scored()
    assert (exact["hands"], exact["found %"], exact["hands asked for"], exact["of them missed"]) == (hands, 100, hands, 0)
    for name in ("PA-MPJPE mm", "MPJPE from the root mm", "place error mm", "... true length given mm"):
        assert exact[name] == pytest.approx(0, abs=1e-3)
    assert exact["side %"] == 100 and exact["a hand in them %"] == 0 and exact["images without a hand"] == 2
    assert exact["... size alone mm"] > 5

    nearer = scored(change=lambda hand: moved(hand, shift_m=(0, 0, -0.03)))
    assert nearer["PA-MPJPE mm"] == pytest.approx(0, abs=1e-3) and nearer["MPJPE from the root mm"] == pytest.approx(0, abs=1e-3)
    assert nearer["place error mm"] == pytest.approx(30, abs=1e-3)
    # A size that is known in another way than by betas.
    larger = scored(change=lambda hand: moved(hand, scale=1.1))
    assert larger["place error mm"] > 50 and larger["... true length given mm"] == pytest.approx(0, abs=1e-3)

    blind = scored(listed=frozenset({0, 1, 4}), blind_to=(1,), strays=(3,))
    assert (blind["hands asked for"], blind["of them missed"], blind["a hand in them %"]) == (3, 1, 50)
    assert blind["found %"] == pytest.approx(100 * (hands - 1) / hands)
    with pytest.raises(UserError, match="none is found"):
        scored(listed=frozenset({1}), blind_to=(1,))


def test_a_hand_elsewhere_is_not_found(hand_model, pictures):
    def elsewhere(hand):
        return replace(hand, keypoints_px=hand.keypoints_px + np.array([0.4 * np.ptp(hand.keypoints_px, axis=0).max(), 0]))

    with pytest.raises(UserError, match="none is found"):
        score_frames(pictures, None, 1, Worst(""), Pipeline(TrueEstimator(hand_model, pictures, elsewhere), hand_model), Worst(""))


def test_boxes_and_sides_are_the_labels(hand_model, pictures):
    estimator = TrueEstimator(hand_model, pictures, change=lambda hand: replace(hand, is_right=True), blind_to=(0,))
    scores = score_boxes(pictures, 1, Pipeline(estimator, hand_model), Worst(""))
    present = np.flatnonzero(pictures.labels()["presence"] == 1)
    assert (scores["hands"], scores["missed"]) == (len(present), 1)
    assert [detection.is_right for detection in estimator.detections] == [index not in LEFT for index in present]
    keypoints_px = pictures.labels()["keypoints_px"][present[1]]
    np.testing.assert_allclose(estimator.detections[1].box_px, [*keypoints_px.min(axis=0), *keypoints_px.max(axis=0)], atol=1e-4)
    assert all(detection.landmarks_px is None for detection in estimator.detections)
    assert scores["side %"] == pytest.approx(100 * (1 - sum(index in LEFT for index in present) / (len(present) - 1)))


class Teller:
    """Says what it is told of each call."""

    def __init__(self, answer):
        self._answer = answer
        self.calls = []

    def __call__(self, image_rgb, camera=None, detections=None, *, keeps_sides=False):
        self.calls.append(detections)
        return self._answer(len(self.calls) - 1)

    def track(self, image_rgb, time_s, camera=None):
        return self(image_rgb)

    def prepare(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.fixture
def photographs(tmp_path):
    """Two hands to validate with and one to train on, the second a left one, and two images without a hand; with the landmarks."""
    landmarks_px = np.random.default_rng(0).uniform(20, 80, (3, 21, 2)).round(2)
    image = np.zeros((100, 100, 3), np.uint8)
    hands = []
    for index, split in enumerate(("validation", "train", "validation")):
        cv2.imwrite(str(tmp_path / f"{index}.png"), image)
        hands.append({"file": f"{index}.png", "split": split, "is_right": index < 2, "landmarks_px": landmarks_px[index].tolist()})
    cv2.imwrite(str(tmp_path / "none.png"), image)
    (tmp_path / "hands.jsonl").write_text("\n".join(map(json.dumps, hands)))
    (tmp_path / "negatives.jsonl").write_text("\n".join([json.dumps({"file": "none.png", "split": "validation"})] * 2))
    return tmp_path, landmarks_px


@pytest.fixture
def hand(hand_model, make_hand) -> Hand:
    return make_hand(hand_model, camera_from_focal(100, 100, 300.0))


def shown(hand, points_px, is_right=True, presence=0.9) -> Hand:
    return replace(hand, landmarks_px=points_px, is_right=is_right, params=replace(hand.params, presence=presence))


def answers_to(photographs_px, hand):
    """Right about the first hand and its side; the mirror image of the second is missed; sure of a hand in one of the empty images."""
    flipped_px = photographs_px * (-1, 1) + (99, 0)
    answers = [
        [shown(hand, photographs_px[0] + (0, 0.1 * np.ptp(photographs_px[0], axis=0).max()))],
        [shown(hand, flipped_px[0], is_right=False)],
        [shown(hand, photographs_px[2], is_right=True)],
        [],
        [shown(hand, photographs_px[0], presence=0.2)],
        [shown(hand, photographs_px[0], presence=0.8)],
    ]
    return Teller(answers.__getitem__)


def test_photographs(photographs, hand_model, hand):
    folder, landmarks_px = photographs
    estimator = answers_to(landmarks_px, hand)
    scores = score_photographs(folder, 1, Pipeline(estimator, hand_model), Worst(""))
    assert scores["hands"] == 2 and scores["missed"] == 0
    assert scores["D median"] == pytest.approx(0.05) and scores["D 95 %"] == pytest.approx(0.095)
    assert scores["side, both orientations %"] == 50 and scores["present %"] == 100
    assert scores["images without a hand"] == 2 and scores["no hand seen in them %"] == 50
    # A box without landmarks and without its side, of the image and of its mirror image.
    (image,), (flipped,) = estimator.calls[:2]
    assert image.is_right and flipped.is_right and image.landmarks_px is None
    np.testing.assert_allclose(flipped.box_px[[2, 0]], 99 - image.box_px[[0, 2]])


def test_a_missed_hand_counts_as_one(photographs, hand_model):
    scores = score_photographs(photographs[0], 1, Pipeline(Teller(lambda _: []), hand_model), Worst(""))
    assert (scores["D median"], scores["missed"], scores["side, both orientations %"], scores["present %"]) == (1, 2, 0, 0)
    assert scores["no hand seen in them %"] == 100


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "video.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 100, (64, 64))
    for _ in range(4):
        writer.write(np.zeros((64, 64, 3), np.uint8))
    writer.release()
    return path


def test_a_video(video, hand_model, hand):
    points_px = np.random.default_rng(0).uniform(20, 40, (21, 2))
    side_px = np.ptp(points_px, axis=0).max()
    # Two hands in the first frame, none in the last.
    reference = [np.array([points_px, points_px + 2 * side_px]), points_px[None], points_px[None], np.zeros((0, 21, 2))]
    near, far = (shown(hand, points_px + (0, share * side_px)) for share in (0.02, 0.3))
    answers = [[far, near], [near], [far], [near]]
    worst = Worst("")
    scores = score_video(video, reference, False, Pipeline(Teller(answers.__getitem__), hand_model), worst)
    # Of the far one's four hands: 0.02, missed, 0.02, 0.3.
    assert scores["hands of the reference"] == 4 and scores["missed"] == 1 and scores["frames in which only we see a hand"] == 1
    assert scores["D median"] == pytest.approx(0.16)
    again = score_video(video, reference, True, Pipeline(Teller(answers.__getitem__), hand_model), Worst(""))
    assert again["SHA-256 of all answers"] == scores["SHA-256 of all answers"]
    other = [[replace(near, joints_m=near.joints_m + 1e-4)], *answers[1:]]
    changed = score_video(video, reference, False, Pipeline(Teller(other.__getitem__), hand_model), Worst(""))
    assert changed["SHA-256 of all answers"] != scores["SHA-256 of all answers"]
    assert worst.sheet().shape[1] == 1500


def test_the_reference_is_kept(video, tmp_path, monkeypatch):
    points_px = np.random.default_rng(0).uniform(20, 40, (21, 2))
    found = [[Detection(np.zeros(4), True, 1.0, points_px)], [], [Detection(np.zeros(4), True, 1.0, points_px + k) for k in (0, 9)], []]

    class Detector:
        def __init__(self, max_hands):
            self._answers = iter(found)

        def __call__(self, image):
            return next(self._answers)

        def close(self):
            pass

    monkeypatch.setattr(score_hands, "TasksDetector", Detector)
    cache = tmp_path / "reference.npz"
    made = read_reference(video, cache)
    monkeypatch.setattr(score_hands, "TasksDetector", None)
    kept = read_reference(video, cache)
    assert [len(hands) for hands in made] == [len(hands) for hands in kept] == [1, 0, 2, 0]
    np.testing.assert_array_equal(kept[2][1], points_px + 9)
    other = tmp_path / "other.avi"
    other.write_bytes(video.read_bytes() + b" ")
    with pytest.raises(UserError, match="another video"):
        read_reference(other, cache)
    cache.write_bytes(b"no npz")
    with pytest.raises(UserError, match="delete it"):
        read_reference(video, cache)
    monkeypatch.setattr(score_hands, "TasksDetector", Detector)
    monkeypatch.setattr(Detector, "__call__", lambda self, image: [])
    with pytest.raises(UserError, match="finds none"):
        read_reference(video, None)


def test_the_ten_worst_are_kept():
    worst, drawn = Worst("title"), []

    def draw(value):
        drawn.append(value)
        return np.full((300, 300, 3), value, np.uint8)

    for value in (*range(20, 40), *range(20)):
        worst.add(value, value, lambda value=value: draw(value))
    sheet = worst.sheet()
    assert sheet.shape == (28 + 600, 1500, 3)
    assert sheet[28::300, ::300, 0].ravel().tolist() == list(range(39, 29, -1))
    # What cannot be among them is not drawn.
    assert max(drawn) == 39 and min(drawn) == 20
    # One of each group, the worst.
    worst.add(32, 31.5, lambda: draw(0))
    worst.add(33, 100, lambda: draw(100))
    assert worst.sheet()[28::300, ::300, 0].ravel().tolist() == [100, 39, 38, 37, 36, 35, 34, 32, 31, 30]


def test_the_command(photographs, tmp_path, monkeypatch, hand, capsys):
    folder, landmarks_px = photographs
    asked = {}

    def estimator(model, hand_model, **settings):
        asked.update(settings)
        return answers_to(landmarks_px, hand)

    monkeypatch.setattr(score_hands, "HandMeshEstimator", estimator)
    flags = ["--landmarks", "lite", "--precision", "bf16", "--json", str(tmp_path / "scores.json"), "--sheet", str(tmp_path / "worst.png")]
    main(["--photographs", str(folder), *flags])
    assert asked == {"is_live": False, "max_hands": 2, "threads": 0, "landmarks": "lite", "precision": "bf16"}
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["photographs"]["D median"] == pytest.approx(0.05) and scores["settings"]["landmarks"] == "lite"
    assert "side, both orientations %" in capsys.readouterr().out
    assert cv2.imread(str(tmp_path / "worst.png")).shape == (28 + 300, 1500, 3)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "something to look at"),
        (["--video", "x", "--every", "0"], "--every"),
        (["--video", "x", "--listed", "y"], "--frames with --listed"),
        (["--frames", "x", "--reference", "y"], "--video with --reference"),
        (["--video", "x", "--sheet", "gone/y.png"], "make its folder first"),
        (["--photographs", "gone"], "hands.jsonl"),
    ],
)
def test_wrong_settings_are_one_line(flags, says):
    with pytest.raises(UserError, match=says):
        main(flags)


def test_a_list_is_numbers(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("3\n14\n")
    assert read_listed(path) == {3, 14}
    path.write_text("3 a")
    with pytest.raises(UserError, match="--listed"):
        read_listed(path)
