"""The hand detector: sides, coordinates, duplicates, and where its model comes from."""

import hashlib
import io
import urllib.request
import zipfile
from pathlib import Path
from urllib.error import URLError

import cv2
import numpy as np
import pytest

import handmesh
from handmesh import detection
from handmesh.detection import HandDetector, cache_folder, hand_landmarker_task, merge_duplicates
from handmesh.errors import UserError
from handmesh.hand_model.assets import ASSETS
from handmesh.records import Detection

CLIP = Path(handmesh.__file__).parent / "assets" / "demo_clip.mp4"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    """No test reads or fills the user's cache, except for the model of a newer mediapipe."""
    if detection._task_from_wheel() is not None:
        monkeypatch.setenv("HANDMESH_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def detector():
    made = HandDetector(max_hands=2)
    yield made
    made.close()


@pytest.fixture(scope="module")
def clip_frames():
    if not CLIP.is_file():
        pytest.skip("the demo clip is not in this checkout")
    capture = cv2.VideoCapture(str(CLIP))
    frames = []
    while (found := capture.read())[0]:
        frames.append(np.ascontiguousarray(found[1][..., ::-1]))
    return frames[:: max(1, len(frames) // 10)]


def _at(x, y, side=100.0, is_right=True, score=0.9, seed=0):
    landmarks = np.random.default_rng(seed).uniform(0, side, (21, 2)) + (x, y)
    return Detection(np.concatenate([landmarks.min(axis=0), landmarks.max(axis=0)]), is_right, score, landmarks)


def test_no_hand_comes_twice():
    sure, same, far = _at(0, 0), _at(4, 3, is_right=False, score=0.6), _at(300, 0, score=0.7)
    assert merge_duplicates([same, far, sure]) == [sure, far]
    assert merge_duplicates([]) == []


def test_two_hands_in_one_place_are_two():
    # Clasped hands share a box, but their landmarks differ.
    assert len(merge_duplicates([_at(0, 0, seed=0), _at(0, 0, seed=1)])) == 2


def test_boxes_without_landmarks_are_merged_by_overlap():
    box = np.array([0.0, 0, 100, 100])
    detections = [Detection(box, True, 0.5), Detection(box + 10, True, 0.8), Detection(box + 80, True, 0.4)]
    assert [found.score for found in merge_duplicates(detections)] == [0.8, 0.4]


@pytest.mark.parametrize("shape", [(1, 600), (600, 1), (1, 1), (300, 200), (2500, 3000)])
def test_pictures_without_hands(detector, capfd, shape):
    assert detector(np.full((*shape, 3), 120, np.uint8)) == []
    assert capfd.readouterr().err == ""


def test_mediapipe_is_silent(capfd):
    HandDetector(max_hands=1, is_video=True).close()
    assert capfd.readouterr().err == ""


def test_videos_need_times():
    detector = HandDetector(max_hands=1, is_video=True)
    image = np.zeros((60, 80, 3), np.uint8)
    for time_s in (0.0, 0.0, 0.5, 0.2):  # MediaPipe itself refuses times that do not grow
        assert detector(image, time_s) == []
    with pytest.raises(ValueError, match="time_s"):
        detector(image)
    detector.close()


def test_a_right_hand_is_called_right():
    """The first 40 % of the clip show a right hand alone, in a picture that is no mirror."""
    video = cv2.VideoCapture(str(ASSETS / "demo_clip.mp4"))
    count = int(0.4 * video.get(cv2.CAP_PROP_FRAME_COUNT))
    detector = HandDetector(max_hands=1, is_video=True)
    sides = []
    for index in range(0, count, 4):
        video.set(cv2.CAP_PROP_POS_FRAMES, index)
        image_rgb = cv2.cvtColor(video.read()[1], cv2.COLOR_BGR2RGB)
        sides += [hand.is_right for hand in detector(image_rgb, index / 30)]
    detector.close()
    assert len(sides) >= count // 8 and np.mean(sides) >= 0.9


def test_a_flipped_picture_gives_the_other_side_mirrored(detector, clip_frames):
    differences_px, sides = [], []
    for frame in clip_frames:
        plain, flipped = detector(frame), detector(np.ascontiguousarray(frame[:, ::-1]))
        for hand in plain:
            mirrored_px = hand.landmarks_px * (-1, 1) + (frame.shape[1] - 1, 0)
            distances = [np.linalg.norm(other.landmarks_px - mirrored_px, axis=-1).mean() for other in flipped]
            if distances and min(distances) < 0.2 * (hand.box_px[2:] - hand.box_px[:2]).max():
                differences_px.append(min(distances))
                sides.append(hand.is_right != flipped[int(np.argmin(distances))].is_right)
    assert len(sides) >= len(clip_frames) // 2, "hardly any hand was found in both"
    assert np.mean(sides) >= 0.9
    assert np.median(differences_px) < 4


def test_boxes_are_tight_and_in_pixels(detector, clip_frames):
    found = [hand for frame in clip_frames for hand in detector(frame)]
    assert found
    height, width = clip_frames[0].shape[:2]
    for hand in found:
        assert np.allclose(hand.box_px, [*hand.landmarks_px.min(axis=0), *hand.landmarks_px.max(axis=0)])
        assert 0 < hand.score <= 1
    middles = np.array([hand.landmarks_px.mean(axis=0) for hand in found])
    assert (middles > 0).all() and (middles < (width, height)).all() and middles.max() > 2


def test_the_model_is_a_zip_of_two_networks():
    with zipfile.ZipFile(io.BytesIO(hand_landmarker_task())) as task:
        assert set(task.namelist()) == {"hand_detector.tflite", "hand_landmarks_detector.tflite"}
        assert all(entry.compress_type == zipfile.ZIP_STORED for entry in task.infolist())


def test_a_model_in_the_cache_wins(tmp_path, monkeypatch):
    monkeypatch.setenv("HANDMESH_CACHE", str(tmp_path))
    with zipfile.ZipFile(tmp_path / "hand_landmarker.task", "w") as task:
        task.writestr("hand_detector.tflite", "a")
        task.writestr("hand_landmarks_detector.tflite", "b")
    assert hand_landmarker_task() == (tmp_path / "hand_landmarker.task").read_bytes()
    (tmp_path / "hand_landmarker.task").write_text("half a download")
    with pytest.raises(UserError, match="delete it"):
        hand_landmarker_task()


def test_offline_says_what_to_download_and_where_to_put_it(tmp_path, monkeypatch, capsys):
    def no_network(*_arguments, **_options):
        raise URLError("no network")

    monkeypatch.setenv("HANDMESH_CACHE", str(tmp_path))
    monkeypatch.setattr(detection, "_task_from_wheel", lambda: None)
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    with pytest.raises(UserError) as error:
        hand_landmarker_task()
    assert detection.TASK_URL in str(error.value) and str(tmp_path / "hand_landmarker.task") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_download_is_checked_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("HANDMESH_CACHE", str(tmp_path / "new"))
    monkeypatch.setattr(detection, "_task_from_wheel", lambda: None)
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_arguments, **_options: io.BytesIO(b"something else"))
    with pytest.raises(UserError, match="checksum"):
        hand_landmarker_task()
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr(detection, "TASK_SHA256", hashlib.sha256(b"something else").hexdigest())
    assert hand_landmarker_task() == b"something else"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["hand_landmarker.task"]


def test_the_cache_is_where_the_user_says(monkeypatch, tmp_path):
    monkeypatch.setenv("HANDMESH_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("HANDMESH_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "handmesh"
