"""When the palm detector looks, and when its answer is taken in."""

from __future__ import annotations

import threading
from concurrent.futures import wait

import numpy as np
import pytest

from handmesh.detection.palm import Palm, letterbox
from handmesh.palm_search import PalmSearch
from handmesh.records import Detection
from handmesh.timing import StageTimes
from handmesh.tracking import Track

_POINTS_PX = np.random.default_rng(0).uniform(100, 200, (21, 2))
_OF_PALM = [0, 5, 9, 13, 17, 1, 2]


def _palm(x: float) -> Palm:
    keypoints_px = _POINTS_PX[_OF_PALM] + (x, 0)
    return Palm(np.concatenate([keypoints_px.min(axis=0), keypoints_px.max(axis=0)]), keypoints_px, 0.9)


def _track(x: float) -> Track:
    points_px = _POINTS_PX + (x, 0)
    box_px = np.concatenate([points_px.min(axis=0), points_px.max(axis=0)])
    return Track(0, Detection(box_px, True, 0.9, points_px), 0.0, 1.0, keypoints_px=points_px, landmarks_px=points_px)


class _Detector:
    """Finds the palm that the frame's first pixel tells of."""

    def __init__(self):
        self.seen: list[int] = []
        self.may_answer = threading.Event()
        self.may_answer.set()

    def run(self, small):
        assert self.may_answer.wait(60)
        self.seen.append(int(small.square[96, 96, 0]))
        return [_palm(float(self.seen[-1]))]


@pytest.fixture
def detector():
    return _Detector()


def _frame(value: int) -> np.ndarray:
    return np.full((48, 64, 3), value, np.uint8)


def _run(detector, followed, is_live=False, count=12, fps=30.0, is_wanted=True):
    """What comes back in each frame: the numbers of the frames in which it was seen."""
    search, answers = PalmSearch(lambda: detector, is_live, StageTimes()), []
    for index in range(count):
        palms = search(_frame(index), index / fps, followed, is_wanted)
        answers.append([round(float(palm.keypoints_px[0, 0] - _POINTS_PX[0, 0])) for palm in palms])
        if is_live and search._answer is not None:
            wait([search._answer])
    search.close()
    return answers


def test_files_are_searched_ten_times_a_second_and_answered_in_the_next_frame(detector):
    far = [_track(500.0)]
    answers = _run(detector, far)
    assert detector.seen == [0, 3, 6, 9]
    assert answers == [[], [0], [], [], [3], [], [], [6], [], [], [9], []]
    for fps, frames in ((25.0, [0, 3, 6, 9]), (10.0, list(range(12))), (60.0, [0, 6])):
        detector.seen.clear()
        _run(detector, far, fps=fps)
        assert detector.seen == frames


def test_where_nothing_is_followed_a_file_waits_for_the_answer(detector):
    assert _run(detector, []) == [[0], [], [], [3], [], [], [6], [], [], [9], [], []]


def test_a_camera_takes_answers_when_they_are_there(detector):
    assert _run(detector, [], is_live=True)[:5] == [[], [0], [], [], [3]]
    detector.may_answer.clear()
    search = PalmSearch(lambda: detector, True, StageTimes())
    assert [search(_frame(9), index / 30, [], True) for index in range(5)] == [[]] * 5
    detector.may_answer.set()
    search.close()


def test_palms_of_hands_that_were_followed_then_are_left_out(detector):
    search = PalmSearch(lambda: detector, False, StageTimes())
    moved = [_track(0.0), _track(200.0), _track(200.0)]
    palms = [search(_frame(0), index / 30, [track], True) for index, track in enumerate(moved)]
    assert palms == [[], [], []]
    assert search(_frame(0), 0.1, moved[:0], True)
    search.close()


def test_nobody_looks_while_no_hand_is_missing(detector):
    assert _run(detector, [_track(500.0)], is_wanted=False) == [[]] * 12
    assert detector.seen == []


def test_another_video_is_searched_at_once(detector):
    search = PalmSearch(lambda: detector, False, StageTimes())
    search(_frame(1), 100.0, [_track(500.0)], True)
    search.reset()
    assert search(_frame(2), 0.0, [], True)
    assert detector.seen == [1, 2]
    search.close()


def test_the_picture_is_read_before_the_call_returns(detector):
    detector.may_answer.clear()
    search, image = PalmSearch(lambda: detector, True, StageTimes()), _frame(7)
    search(image, 0.0, [], True)
    image[:] = 0
    detector.may_answer.set()
    search.close()
    assert detector.seen == [7] and letterbox(_frame(7)).square[96, 96, 0] == 7
