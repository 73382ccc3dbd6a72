"""The hand detector: sides, coordinates, duplicates, and that it says what MediaPipe's own package says."""

import importlib.util
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from handmesh.bench.tasks import TasksDetector
from handmesh.detection import HandDetector, merge_duplicates
from handmesh.detection.landmarks import LandmarkNetwork
from handmesh.detection.palm import Letterbox, Palm
from handmesh.detection.regions import REGION_PX, region_from_palm
from handmesh.errors import UserError
from handmesh.geometry.camera import camera_from_fov
from handmesh.hand_model.assets import ASSETS
from handmesh.records import Detection

# MediaPipe's package turns the first region so much beyond upright: it takes its 90 degrees for radians.
TASKS_TURN_RAD = 90 - np.pi / 2

needs_mediapipe = pytest.mark.skipif(importlib.util.find_spec("mediapipe") is None, reason="mediapipe is not installed to compare with")


@pytest.fixture(scope="module")
def detector():
    return HandDetector(max_hands=2, threads=1)


@pytest.fixture(scope="module")
def clip_frames():
    video = cv2.VideoCapture(str(ASSETS / "demo_clip.mp4"))
    frames = []
    while (found := video.read())[0]:
        frames.append(np.ascontiguousarray(found[1][..., ::-1]))
    return frames[:: len(frames) // 12]


def _at(x, y, side=100.0, is_right=True, score=0.9, seed=0):
    landmarks = np.random.default_rng(seed).uniform(0, side, (21, 2)) + (x, y)
    return Detection(np.concatenate([landmarks.min(axis=0), landmarks.max(axis=0)]), is_right, score, landmarks)


def _side_px(hand):
    return (hand.box_px[2:] - hand.box_px[:2]).max()


def _distance(hand, landmarks_px):
    return np.linalg.norm(hand.landmarks_px - landmarks_px, axis=-1).mean() / _side_px(hand)


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


@pytest.mark.parametrize("shape", [(1, 600), (600, 1), (1, 1), (300, 200), (1500, 2000)])
def test_pictures_without_hands(detector, capfd, shape):
    assert detector(np.full((*shape, 3), 120, np.uint8)) == []
    assert capfd.readouterr().err == ""


def test_a_right_hand_is_called_right(detector):
    """The first 40 % of the clip show a right hand alone, in a picture that is no mirror."""
    video = cv2.VideoCapture(str(ASSETS / "demo_clip.mp4"))
    count = int(0.4 * video.get(cv2.CAP_PROP_FRAME_COUNT))
    sides = []
    for index in range(0, count, 4):
        video.set(cv2.CAP_PROP_POS_FRAMES, index)
        sides += [hand.is_right for hand in detector(video.read()[1][..., ::-1])]
    assert len(sides) >= count // 8 and np.mean(sides) >= 0.9


def test_a_flipped_picture_gives_the_other_side_mirrored(detector, clip_frames):
    distances, sides = [], []
    for frame in clip_frames:
        plain, flipped = detector(frame), detector(frame[:, ::-1])
        for hand in plain:
            mirrored_px = hand.landmarks_px * (-1, 1) + (frame.shape[1] - 1, 0)
            nearest = min(flipped, key=lambda other: _distance(other, mirrored_px), default=None)
            if nearest is not None and _distance(nearest, mirrored_px) < 0.2:
                distances.append(_distance(nearest, mirrored_px))
                sides.append(hand.is_right != nearest.is_right)
    assert len(sides) >= len(clip_frames) // 2, "hardly any hand was found in both"
    assert np.mean(sides) >= 0.9 and np.median(distances) < 0.04


def test_boxes_are_tight_and_in_pixels(detector, clip_frames):
    found = [hand for frame in clip_frames for hand in detector(frame)]
    height, width = clip_frames[0].shape[:2]
    for hand in found:
        assert np.allclose(hand.box_px, [*hand.landmarks_px.min(axis=0), *hand.landmarks_px.max(axis=0)])
        assert 0.5 <= hand.score <= 1
        assert hand.world_landmarks_m.shape == (21, 3) and 0.08 < np.linalg.norm(np.ptp(hand.world_landmarks_m, axis=0)) < 0.4
    middles = np.array([hand.landmarks_px.mean(axis=0) for hand in found])
    assert len(found) >= len(clip_frames) and (middles > 0).all() and (middles < (width, height)).all() and middles.max() > 2


def test_world_landmarks_lie_in_the_pictures_axes(detector, clip_frames):
    """In space, too, a hand points where it points in the picture: from wrist to middle knuckle."""
    cosines = []
    for frame in clip_frames:
        for hand in detector(frame):
            seen, in_space = (points[9] - points[0] for points in (hand.landmarks_px, hand.world_landmarks_m[:, :2]))
            cosines.append(seen @ in_space / np.linalg.norm(seen) / np.linalg.norm(in_space))
    assert np.median(cosines) > 0.95


def test_the_camera_decides_how_regions_look_but_hardly_where_hands_are(detector, clip_frames):
    height, width = clip_frames[0].shape[:2]
    for frame in clip_frames[::4]:
        wide = detector(frame, camera_from_fov(width, height, 100))
        for hand in detector(frame, camera_from_fov(width, height, 30)):
            assert min(_distance(other, hand.landmarks_px) for other in wide) < 0.05


def test_no_more_hands_than_asked_for(clip_frames):
    one = HandDetector(max_hands=1, threads=1)
    counts = [len(one(frame)) for frame in clip_frames]
    assert max(counts) == 1


def test_presence_is_asked_for(detector, clip_frames):
    strict = HandDetector(min_confidence=1.0, threads=1, landmarks=detector.landmarks)
    assert strict.landmarks is detector.landmarks
    assert all(strict(frame) == [] for frame in clip_frames[:3])


def test_given_regions_are_looked_at_whatever_is_in_them(detector, clip_frames):
    frame = clip_frames[0]
    camera = camera_from_fov(frame.shape[1], frame.shape[0], 60)
    palm = detector.find_palms(frame)[0]
    nowhere = Palm(np.array([500.0, 20, 540, 60]), np.tile([[520.0, 60]], (7, 1)) - np.arange(7)[:, None] * (0, 5), 1.0)
    regions = [region_from_palm(each.box_px, each.keypoints_px, camera) for each in (palm, nowhere)]
    answer, crops = detector.look(frame, camera, regions)
    assert answer.presence[0] > 0.5 > answer.presence[1]
    assert len(crops) == 2 and crops[0].image.shape == (REGION_PX, REGION_PX, 3)


def test_threads_may_share_it(detector, clip_frames):
    expected = [detector(frame) for frame in clip_frames]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(detector, clip_frames))
    for one, other in zip(expected, found, strict=True):
        assert [hand.is_right for hand in one] == [hand.is_right for hand in other]
        assert all(np.allclose(a.landmarks_px, b.landmarks_px, atol=0.01) for a, b in zip(one, other, strict=True))


def test_no_code_of_mediapipe_runs():
    code = """
import sys
import numpy as np
from handmesh.detection import HandDetector
HandDetector()(np.zeros((60, 80, 3), np.uint8))
sys.exit(any(name.partition(".")[0] == "mediapipe" for name in sys.modules))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# What MediaPipe's own package says of the same pictures.


@pytest.fixture(scope="module")
def tasks():
    made = TasksDetector(max_hands=2)
    yield made
    made.close()


@needs_mediapipe
def test_hands_are_those_of_mediapipes_package(detector, tasks, clip_frames):
    distances, sides, missed = [], [], 0
    for frame in clip_frames:
        ours = detector(frame)
        for hand in tasks(frame):
            nearest = min(ours, key=lambda other: _distance(hand, other.landmarks_px), default=None)
            if nearest is None or _distance(hand, nearest.landmarks_px) > 0.5:
                missed += 1
                continue
            distances.append(_distance(hand, nearest.landmarks_px))
            sides.append(hand.is_right == nearest.is_right)
    assert missed == 0 and np.mean(sides) > 0.95
    assert np.median(distances) < 0.03


@needs_mediapipe
def test_landmarks_are_those_of_mediapipes_package_in_its_own_regions(tasks, clip_frames, monkeypatch):
    """With its own sampling of the picture and its own regions, which have no perspective, nothing is left of the difference."""
    monkeypatch.setattr("handmesh.detection.palm.letterbox", _tasks_letterbox)
    detector = HandDetector(max_hands=2, threads=1)
    distances = []
    for frame in clip_frames:
        looks = [_tasks_look(detector.landmarks, frame, palm) for palm in detector.find_palms(frame)]
        distances += [min(_distance(hand, landmarks_px) for landmarks_px in looks) for hand in tasks(frame)]
    assert len(distances) >= len(clip_frames) and np.median(distances) < 0.005 and np.max(distances) < 0.03


def _tasks_letterbox(image):
    """Bilinear samples, not averaged; the first column at 0 rather than half a cell further on."""
    height, width = image.shape[:2]
    step, side = max(height, width) / 192, 192
    offset = (side - np.array([width, height]) / step) / 2
    M = np.array([[step, 0, -offset[0] * step], [0, step, -offset[1] * step]])
    square = cv2.warpAffine(image, M, (side, side), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return Letterbox(square, np.full(2, 1 / step), offset)


def _tasks_look(network: LandmarkNetwork, image, palm):
    """(21, 2) landmarks seen in the turned square of the picture that MediaPipe's package cuts out for a palm."""
    box, (wrist, middle) = palm.box_px + 0.5, palm.keypoints_px[[0, 2]] + 0.5
    up = middle - wrist
    angle = TASKS_TURN_RAD + np.arctan2(up[0], -up[1])
    right, down = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    size = box[2:] - box[:2]
    centre = (box[:2] + box[2:]) / 2 - 0.5 * size[1] * down
    axes = np.stack([right, down], axis=1) * 2.6 * size.max() / REGION_PX
    corner = centre - axes @ np.full(2, REGION_PX / 2)
    M = np.concatenate([axes, corner[:, None]], axis=1)
    region = cv2.warpAffine(image, M, (REGION_PX, REGION_PX), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return (network(region[None]).points_px[0, :, :2] + 0.5) @ axes.T + corner - 0.5


@needs_mediapipe
def test_mediapipes_package_is_silent_and_needs_times_of_videos(capfd):
    detector = TasksDetector(max_hands=1, is_video=True)
    image = np.zeros((60, 80, 3), np.uint8)
    for time_s in (0.0, 0.0, 0.5, 0.2):  # MediaPipe itself refuses times that do not grow
        assert detector(image, time_s) == []
    with pytest.raises(ValueError, match="time_s"):
        detector(image)
    detector.close()
    assert capfd.readouterr().err == ""


def test_without_mediapipes_package_the_comparison_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    with pytest.raises(UserError, match="pip install mediapipe") as error:
        TasksDetector()
    assert "\n" not in str(error.value)
