"""Looking at sets of pictures: contact sheets, statistics, and what a detector thinks of them."""

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest

from handmesh.errors import UserError
from handmesh.geometry.rotation import rotvec_to_rotmat
from handmesh.hand_model.articulation import FLEXION, POSES, Anatomy, angles_to_rotmats
from handmesh.hand_model.skinning import skin
from handmesh.records import Detection
from handmesh.skeleton import JOINTS, MANO_JOINTS, ROOT
from handmesh.synthetic.poses import UPRIGHT_PALM
from handmesh.synthetic.scene import LABEL_DTYPE, NO_POSE, POSE_KINDS
from handmesh.synthetic.sheet import ABSENT_RGB, FINGER_RGB, UNSCORED_RGB, draw_sheet, mark_labels
from handmesh.synthetic.stats import draw_stats, mean_hand_errors_mm, measure_set, stats_table, tone_step, view_directions

SIZE = 96


def load_tool(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).resolve().parent.parent / "tools" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def asking():
    return load_tool("ask_detector")


def hand_label(model, pose="spread", turn=UPRIGHT_PALM, root_m=(0.0, 0.0, 0.6), focal_px=1.6 * SIZE, width=SIZE, height=SIZE):
    """A present hand's label, as the renderer would write it."""
    label = np.zeros((), LABEL_DTYPE)
    rotmats = angles_to_rotmats(Anatomy.of(model), POSES[pose].angles_deg())
    rotmats[0] = turn
    label["rotmats"], label["root_m"], label["focal_px"] = rotmats, root_m, focal_px
    joints_m = model.joints(skin(model, rotmats, np.zeros(10)))
    placed_m = joints_m - joints_m[ROOT] + root_m
    label["keypoints_px"] = placed_m[:, :2] / placed_m[:, 2:] * focal_px + ((width - 1) / 2, (height - 1) / 2)
    label["visible"], label["presence"], label["seen"], label["pose"] = 1, 1, 1, POSE_KINDS.index("spread")
    return label


def no_hand_label():
    label = np.zeros((), LABEL_DTYPE)
    label["rotmats"], label["pose"] = np.eye(3), NO_POSE
    return label


class MadePictures:
    """Grey pictures with given labels; `sheet.Pictures`."""

    def __init__(self, labels, lefts=(), width=SIZE, height=SIZE, is_mask=False):
        self._labels, self._lefts = np.array(labels, LABEL_DTYPE), set(lefts)
        self._shape, self._is_mask = (height, width), is_mask

    def __len__(self):
        return len(self._labels)

    def image(self, index):
        return np.full((*self._shape, 3), 100 + index % 100, np.uint8)

    def label(self, index):
        return self._labels[index]

    def labels(self):
        return self._labels

    def is_left(self, index):
        return index in self._lefts

    def overlay(self, index):
        height, width = self._shape
        return np.zeros((height, width) if self._is_mask else (height // 4, width // 4), np.uint8)


def read_rgb(path):
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def test_a_sheet_shows_pictures_plain_and_with_labels(hand_model, tmp_path):
    label = hand_label(hand_model)
    draw_sheet(MadePictures([label, no_hand_label()]), tmp_path / "sheet.png")
    sheet = read_rgb(tmp_path / "sheet.png")
    # As many rows as are needed.
    below = len(sheet) - SIZE
    assert sheet.shape[1] == 10 * SIZE and SIZE < below < 1.3 * SIZE
    assert np.all(sheet[:SIZE, :SIZE] == 100) and np.all(sheet[:SIZE, SIZE : 2 * SIZE] == 101) and not sheet[:SIZE, 2 * SIZE :].any()
    x, y = np.rint(label["keypoints_px"]).astype(int).T
    assert np.all(sheet[below + y, x].min(axis=-1) > 180)
    assert list(tmp_path.iterdir()) == [tmp_path / "sheet.png"]


def test_wide_frames_are_scaled_and_their_labels_with_them(hand_model, tmp_path):
    width, height = 1280, 720
    label = hand_label(hand_model, focal_px=900.0, width=width, height=height)
    draw_sheet(MadePictures([label], width=width, height=height, is_mask=True), tmp_path / "sheet.png")
    sheet = read_rgb(tmp_path / "sheet.png")
    assert sheet.shape[1] <= 2400
    scale = sheet.shape[1] / 5 / width
    marked = sheet[len(sheet) - round(height * scale) :]
    x, y = np.rint((label["keypoints_px"] + 0.5) * scale - 0.5).astype(int).T
    assert np.all(marked[y, x].min(axis=-1) > 150)


def test_hidden_joints_are_hollow_and_frames_say_what_is_absent(hand_model):
    image, empty = np.full((SIZE, SIZE, 3), 100, np.uint8), np.zeros((SIZE // 4, SIZE // 4), np.uint8)
    label = hand_label(hand_model)
    thumb = JOINTS.index("thumb_tip")
    x, y = np.rint(label["keypoints_px"][thumb]).astype(int)
    assert mark_labels(image, empty, label)[y, x].min() > 200
    label["visible"][thumb] = 0
    assert mark_labels(image, empty, label)[y, x].min() < 200
    assert np.any(mark_labels(image, empty, label, is_left=True) != mark_labels(image, empty, label))
    label["presence"] = -1
    assert tuple(mark_labels(image, empty, label)[1, SIZE // 2]) == UNSCORED_RGB
    assert tuple(mark_labels(image, empty, no_hand_label())[1, SIZE // 2]) == ABSENT_RGB


def test_overlays_tint_what_they_cover():
    image = np.full((SIZE, SIZE, 3), 100, np.uint8)
    for overlay in (np.zeros((SIZE, SIZE), np.uint8), np.zeros((SIZE // 4, SIZE // 4), np.uint8)):
        overlay[: len(overlay) // 2] = 1 if len(overlay) == SIZE else MANO_JOINTS.index("index_mcp") + 1
        label = hand_label_outside()
        marked = mark_labels(image, overlay, label)
        assert np.any(marked[SIZE // 4, SIZE // 2] != 100) and np.all(marked[3 * SIZE // 4, SIZE // 2] == 100)


def hand_label_outside():
    label = no_hand_label()
    label["presence"] = 1
    return label


def test_a_folder_that_is_not_there_is_one_line(hand_model, tmp_path):
    with pytest.raises(UserError, match="--sheet"):
        draw_sheet(MadePictures([no_hand_label()]), tmp_path / "no" / "sheet.png")
    with pytest.raises(UserError, match="--stats"):
        draw_stats(MadePictures([hand_label(hand_model)]), tmp_path / "no" / "stats.png", hand_model)


def test_numbers_of_a_set_made_by_hand(hand_model, tmp_path):
    labels = [hand_label(hand_model, "fist"), *(hand_label(hand_model, "spread") for _ in range(2)), no_hand_label()]
    for label, tone in zip(labels[:3], (0.0, 0.5, 1.0), strict=True):
        label["tone"] = tone
    labels[0]["visible"][JOINTS.index("wrist")] = 0
    labels[1]["visible"][1:6] = 0
    labels[2]["keypoints_px"] += (0.4 * SIZE, 0)
    labels[0]["pose"] = POSE_KINDS.index("fist")
    unscored = hand_label(hand_model)
    unscored["presence"] = -1
    pictures = MadePictures([*labels, unscored], lefts={1})
    measures = draw_stats(pictures, tmp_path / "stats.png", hand_model)
    assert measures.pictures == 5
    assert measures.sides == pytest.approx({"right hands": 0.6, "left hands": 0.2, "no hand": 0.2})
    assert measures.presence == pytest.approx({"present": 0.6, "absent": 0.2, "not scored": 0.2})
    assert measures.pose_shares["fist"] == pytest.approx(1 / 3) and measures.pose_shares["spread"] == pytest.approx(2 / 3)
    assert measures.visible.mean(axis=0)[0] == pytest.approx(2 / 3)
    assert measures.tone_shares[[0, 5, 9]] == pytest.approx(1 / 3)
    assert measures.focal_share == pytest.approx(1.6)
    expected = np.ptp(labels[1]["keypoints_px"], axis=0).max() / SIZE
    assert measures.box_share[1] == pytest.approx(expected)
    assert np.abs(measures.angles_deg[0] - POSES["fist"].angles_deg()).max() < 1e-2
    assert measures.beyond_limits == 0
    assert measures.shares["fist-like"] == pytest.approx(1 / 3)
    for name in ("occluded", "truncated", "light third", "middle third", "dark third"):
        assert measures.shares[name] == pytest.approx(1 / 3), name
    assert measures.shares["edge-on"] == 0
    page = read_rgb(tmp_path / "stats.png")
    assert np.any((page == 255).all(axis=-1)) and all(np.any((page == column).all(axis=-1)) for column in (FINGER_RGB[0], FINGER_RGB[4]))
    table = stats_table(measures)
    assert "20.0% of the pictures" in table and f"{measures.pa_mpjpe_mm.mean():.2f} mm" in table


def test_angles_beyond_their_limits_are_counted(hand_model):
    label = hand_label(hand_model)
    angles = POSES["rest"].angles_deg()
    angles[MANO_JOINTS.index("index_pip") - 1, FLEXION] = 150.0
    label["rotmats"] = angles_to_rotmats(Anatomy.of(hand_model), angles)
    assert measure_set(MadePictures([label]), hand_model).beyond_limits == pytest.approx(1 / 45)


def test_statistics_need_a_hand(hand_model):
    with pytest.raises(UserError, match="without one"):
        measure_set(MadePictures([no_hand_label()] * 2), hand_model)


def test_tone_steps():
    assert tone_step(np.array([0.0, 0.099, 0.1, 0.95, 1.0])).tolist() == [0, 0, 1, 9, 9]


def test_the_palm_turned_to_the_camera_is_seen_from_the_palm(hand_model):
    # Fingers -x, palm -y, thumb +z.
    label = hand_label(hand_model)
    assert view_directions(label[None]) == pytest.approx(np.array([[0.0, -1.0, 0.0]]), abs=1e-6)
    label["rotmats"][0] = UPRIGHT_PALM @ rotvec_to_rotmat(np.array([np.pi, 0, 0]))
    assert view_directions(label[None]) == pytest.approx(np.array([[0.0, 1.0, 0.0]]), abs=1e-6)
    # Fingers, upright in the picture, tipped towards the camera.
    label["rotmats"][0] = rotvec_to_rotmat(np.array([np.pi / 2, 0, 0])) @ UPRIGHT_PALM
    assert view_directions(label[None]) == pytest.approx(np.array([[-1.0, 0.0, 0.0]]), abs=1e-6)


def test_the_mean_hand_scores_nothing_on_itself(hand_model):
    labels = np.stack([hand_label(hand_model), hand_label(hand_model, "fist")])
    labels["rotmats"][0, 1:] = hand_model.mean_rotmats()[1:]
    labels["rotmats"][0, 0] = rotvec_to_rotmat(np.array([0.4, -2.0, 1.0]))
    errors_mm = mean_hand_errors_mm(labels, hand_model)
    assert errors_mm[0] < 1e-3 and 10 < errors_mm[1] < 60


def detection(landmarks_px, is_right=True):
    box_px = np.concatenate([landmarks_px.min(axis=0), landmarks_px.max(axis=0)])
    return Detection(box_px, is_right, 0.9, landmarks_px)


def test_the_detection_at_the_hand_is_taken(asking, hand_model):
    keypoints_px = hand_label(hand_model)["keypoints_px"].astype(float)
    far, near = detection(keypoints_px + 60), detection(keypoints_px + 2)
    assert asking.nearest_detection([far, near], keypoints_px) is near
    assert asking.nearest_detection([], keypoints_px) is None


def test_asking_finds_misses_and_mistakes(asking, hand_model):
    labels = [hand_label(hand_model) for _ in range(4)] + [no_hand_label()]
    side_px = float(np.ptp(labels[0]["keypoints_px"], axis=0).max())
    pictures = MadePictures(labels, lefts={1})

    def detect(image):
        # The margin around a picture 96 px high is half of that.
        margin = (len(image) - SIZE) // 2
        index = int(image[len(image) // 2, 0, 0]) - 100
        landmarks_px = labels[index]["keypoints_px"].astype(float) + margin
        if index == 2:
            return []
        decoys = [detection(landmarks_px - margin)] if margin else []
        return [*decoys, detection(landmarks_px + ((0.4 if index == 3 else 0.1) * side_px, 0), is_right=True)]

    for pad in (0.0, 0.5):
        answers = asking.ask(pictures, detect, every=1, pad=pad)
        assert answers.indices.tolist() == [0, 1, 2, 3]
        assert answers.is_found.tolist() == [True, True, False, False]
        assert answers.distance[[0, 1, 3]] == pytest.approx([0.1, 0.1, 0.4], abs=1e-5) and np.isinf(answers.distance[2])
    text = asking.report(answers, SIZE, np.zeros(4, bool), np.zeros(4, int))
    assert "2 of 4 hands found: 50.0% (1 without a detection, 1 with one elsewhere)" in text
    assert "50.0% of those found" in text and "median 0.1000" in text
    assert asking.worst_sheet(pictures, answers).any()
    assert asking.ask(pictures, detect, every=2, pad=0.0).indices.tolist() == [0, 2]


def test_a_constant_offset_of_the_hand_is_taken_away_whatever_its_turn_side_and_size(asking, hand_model):
    rng = np.random.default_rng(1)
    keypoints_px = np.stack([hand_label(hand_model)["keypoints_px"].astype(float)] * 6)
    offset = rng.normal(0, 0.05, (21, 2))
    angles, sizes, flips = rng.uniform(0, 2 * np.pi, 6), rng.uniform(0.5, 4, 6), np.array([1, -1, 1, -1, 1, -1.0])
    turns = np.array(
        [[[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]] @ np.diag([flip, 1]) for a, flip in zip(angles, flips, strict=True)]
    )
    # One unit of the offset is a side of the box of the hand that was not turned.
    sides_px = sizes * np.ptp(keypoints_px[0], axis=0).max()
    moved = np.einsum("nab,nkb->nka", turns * sizes[:, None, None], keypoints_px)
    landmarks = moved + np.einsum("nab,nkb->nka", turns * sides_px[:, None, None], np.broadcast_to(offset, (6, 21, 2)))
    assert asking.distances_without_offset(landmarks, moved, sides_px) == pytest.approx(0, abs=1e-9)
    assert asking.distances_without_offset(moved, moved, sides_px) == pytest.approx(0, abs=1e-9)
    landmarks[0] += 0.2 * sides_px[0]
    distances = asking.distances_without_offset(landmarks, moved, sides_px)
    assert distances[0] > 0.2 and distances[1:] == pytest.approx(0, abs=1e-9)


def test_the_hand_frame_has_the_middle_knuckle_up_and_the_index_left(asking, hand_model):
    keypoints_px = hand_label(hand_model)["keypoints_px"].astype(float)
    both = np.stack([keypoints_px, keypoints_px * (-1, 1)])
    in_hand = np.einsum("nab,nkb->nka", asking.to_hand_frame(both), both - both[:, :1])
    assert np.all(in_hand[:, ROOT, 1] < 0) and in_hand[:, ROOT, 0] == pytest.approx(0, abs=1e-9)
    assert np.all(in_hand[:, JOINTS.index("index_mcp"), 0] < in_hand[:, JOINTS.index("little_mcp"), 0])
