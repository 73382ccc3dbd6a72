"""Identities, sides, what is lost and when the detector is asked."""

from __future__ import annotations

import numpy as np
import pytest

from handmesh.records import Detection, Hand, HandParams
from handmesh.tracking import Track, Tracker

_NO_ROTATION = np.tile(np.eye(3), (16, 1, 1))
_UNIT_POINTS = np.random.default_rng(0).uniform(size=(21, 2))
_UNIT_POINTS[:2] = (0, 0), (1, 1)
FRAME_S = 1 / 30


def _at(x: float, y: float = 200.0, is_right: bool = True, score: float = 0.9, side: float = 100.0, landmarks: bool = False) -> Detection:
    points_px = (x, y) + side * _UNIT_POINTS
    return Detection(np.array([x, y, x + side, y + side]), is_right, score, points_px if landmarks else None)


def _hand(track: Track, x: float, right_logit: float = 4.0, presence: float = 0.9, y: float = 200.0) -> Hand:
    """What a network might have seen in a track's crop."""
    params = HandParams(_NO_ROTATION, np.zeros(10), np.array([7.0, 0, 0]), presence, right_logit)
    keypoints_px = (x, y) + 100 * _UNIT_POINTS
    return Hand(np.zeros((3, 3)), np.zeros((21, 3)), keypoints_px, np.eye(4), params, track.box_px, 0.9, track.is_right, track.id)


def test_a_moving_hand_keeps_its_id():
    tracker = Tracker()
    ids = {tracker.update([_at(5.0 * frame)], frame / 30)[0].id for frame in range(60)}
    assert ids == {0}


def test_ids_follow_hands_whatever_their_order():
    tracker = Tracker()
    left, right = tracker.update([_at(0), _at(400)], 0.0)
    swapped = tracker.update([_at(405), _at(8)], FRAME_S)
    assert [track.id for track in swapped] == [right.id, left.id]


def test_one_track_never_owns_two_hands():
    tracker = Tracker()
    tracker.update([_at(100)], 0.0)
    tracks = tracker.update([_at(95), _at(112)], FRAME_S)
    assert len({track.id for track in tracks}) == 2
    assert tracks[0].id == 0  # the nearer one


def test_a_far_hand_is_a_new_one():
    tracker = Tracker()
    (first,) = tracker.update([_at(0)], 0.0)
    (other,) = tracker.update([_at(500)], FRAME_S)
    assert other.id != first.id


@pytest.mark.parametrize(("gap_s", "is_same"), [(0.3, True), (4.0, False)])
def test_a_lost_hand_is_remembered_for_a_while(gap_s, is_same):
    tracker = Tracker()
    (before,) = tracker.update([_at(0)], 0.0)
    assert not tracker.follow(before, _hand(before, 0, presence=0.01), 0.0)
    assert tracker.in_view == []
    (after,) = tracker.update([_at(10)], gap_s)
    assert (after.id == before.id) == is_same
    assert tracker.in_view == [after]


def test_the_next_crop_is_where_the_mesh_was():
    tracker = Tracker()
    (track,) = tracker.update([_at(0, landmarks=True)], 0.0)
    assert track.points_px is track.detection.landmarks_px
    for frame in range(1, 10):
        hand = _hand(track, 30.0 * frame)
        assert tracker.follow(track, hand, frame * FRAME_S)
        (track,) = tracker.in_view
        assert track.points_px is hand.keypoints_px
        assert track.box_px == pytest.approx([30.0 * frame, 200, 30.0 * frame + 100, 300])
    # Far from where it was first found, the detector still knows it, by where it was followed to.
    assert tracker.update([_at(280.0)], 10 * FRAME_S)[0].id == track.id


def test_presence_decides_that_a_hand_is_lost():
    tracker = Tracker()
    (track,) = tracker.update([_at(0, landmarks=True)], 0.0)
    seen = _hand(track, 5.0)
    assert tracker.follow(track, seen, FRAME_S)
    # One doubt, and another, are forgiven; the crop stays where the hand was seen.
    for frame in (2, 3):
        assert tracker.follow(track, _hand(track, 60.0, presence=0.4), frame * FRAME_S)
        assert tracker.in_view[0].points_px is seen.keypoints_px
    assert not tracker.follow(track, _hand(track, 60.0, presence=0.4), 4 * FRAME_S)
    assert tracker.in_view == []


def test_doubts_that_pass_are_forgotten():
    tracker = Tracker()
    (track,) = tracker.update([_at(0)], 0.0)
    for frame in range(30):
        assert tracker.follow(track, _hand(track, 0.0, presence=0.9 if frame % 3 == 2 else 0.4), frame * FRAME_S)


def test_what_has_gone_astray_starts_anew_from_the_detector():
    tracker = Tracker()
    (track,) = tracker.update([_at(0, landmarks=True)], 0.0)
    tracker.follow(track, _hand(track, 80.0), FRAME_S)
    (track,) = tracker.update([_at(0, landmarks=True)], 2 * FRAME_S)
    assert track.points_px is track.detection.landmarks_px
    tracker.follow(track, _hand(track, 10.0), 3 * FRAME_S)
    (track,) = tracker.update([_at(0, landmarks=True)], 4 * FRAME_S)
    assert track.points_px is track.keypoints_px is not None


def test_an_old_answer_finds_a_fast_hand_where_it_was_then():
    tracker = Tracker(max_hands=1)
    (track,) = tracker.update([_at(0, landmarks=True)], 0.0)
    tracker.follow(track, _hand(track, 0.0), 0.0)
    then = tracker.in_view
    for frame in range(1, 5):
        tracker.follow(track, _hand(track, 60.0 * frame), frame * FRAME_S)
    (found,) = tracker.update([_at(4.0, landmarks=True)], 4 * FRAME_S, then)
    assert found.id == track.id and tracker.in_view == [found]
    assert found.points_px == pytest.approx((242.0, 200.0) + 100 * _UNIT_POINTS)


def test_hands_that_crossed_meanwhile_keep_their_ids():
    tracker = Tracker(max_hands=2)
    left, right = tracker.update([_at(0, is_right=False), _at(300)], 0.0)
    then = tracker.in_view
    tracker.follow(left, _hand(left, 300.0), FRAME_S)
    tracker.follow(right, _hand(right, 0.0), FRAME_S)
    tracks = tracker.update([_at(0, is_right=False), _at(300)], 2 * FRAME_S, then)
    assert [track.id for track in tracks] == [left.id, right.id]


def test_the_detector_is_asked_at_once_when_one_of_two_is_lost():
    tracker = Tracker(max_hands=2)
    one, other = tracker.update([_at(0), _at(300)], 0.0)
    tracker.follow(other, _hand(other, 300.0), FRAME_S)
    assert not tracker.wants_detector(FRAME_S, 0.0)
    tracker.follow(one, _hand(one, 0.0, presence=0.0), FRAME_S)
    assert tracker.wants_detector(2 * FRAME_S, 0.0)
    assert not tracker.wants_detector(3 * FRAME_S, 2 * FRAME_S)


def test_a_confirmed_crop_moves_half_way_to_the_detector():
    """By what they differed in the detector's own frame: the hand has moved on since."""
    tracker = Tracker()
    (track,) = tracker.update([_at(0, landmarks=True)], 0.0)
    tracker.follow(track, _hand(track, 10.0), FRAME_S)
    then = tracker.in_view
    tracker.follow(track, _hand(track, 50.0), 5 * FRAME_S)
    (track,) = tracker.update([_at(4.0, landmarks=True)], 6 * FRAME_S, then)
    assert track.points_px == pytest.approx((47.0, 200.0) + 100 * _UNIT_POINTS)
    assert track.disagreement == pytest.approx(0.06)


def test_a_hand_that_only_the_network_sees_is_not_believed_for_ever():
    tracker = Tracker(max_hands=2)
    (track,) = tracker.update([_at(0)], 0.0)
    for frame in range(1, 120):
        if not tracker.in_view:
            break
        tracker.follow(track, _hand(track, 0.0), frame * FRAME_S)
        if frame % 15 == 0:
            tracker.update([], frame * FRAME_S)
    assert 1.5 < frame * FRAME_S < 3


def test_there_are_never_more_hands_than_wanted():
    tracker = Tracker(max_hands=1)
    tracker.update([_at(0)], 0.0)
    (new,) = tracker.update([_at(500)], 1.0)
    assert tracker.in_view == [new]  # of two, the one that the detector sees now


def test_two_tracks_on_one_hand_become_one():
    tracker = Tracker()
    older, younger = tracker.update([_at(0), _at(150)], 0.0)
    tracker.follow(older, _hand(older, 70.0), FRAME_S)
    tracker.follow(younger, _hand(younger, 150.0), FRAME_S)
    tracker.drop_twins(FRAME_S)
    assert len(tracker.in_view) == 2
    tracker.follow(younger, _hand(younger, 75.0), 2 * FRAME_S)
    tracker.drop_twins(2 * FRAME_S)
    assert [track.id for track in tracker.in_view] == [older.id]


def test_the_detector_is_asked_at_the_start_when_a_hand_is_lost_and_now_and_then():
    tracker = Tracker(max_hands=1)
    assert tracker.wants_detector(0.0, None)
    (track,) = tracker.update([_at(0)], 0.0)
    asked, asked_s = [], 0.0
    for frame in range(1, 91):
        time_s = frame * FRAME_S
        tracker.follow(track, _hand(track, 0.0), time_s)
        if tracker.wants_detector(time_s, asked_s):
            asked.append(frame)
            asked_s = time_s
            tracker.update([_at(0)], time_s)
    assert asked == [30, 60, 90]
    tracker.follow(track, _hand(track, 0.0, presence=0.0), 91 * FRAME_S)
    assert tracker.wants_detector(91 * FRAME_S, asked_s)


@pytest.mark.parametrize("why", ["another hand may come", "not confirmed", "the side is in doubt", "they disagree"])
def test_the_detector_is_asked_more_often_while_something_is_open(why):
    tracker = Tracker(max_hands=2 if why == "another hand may come" else 1)
    (track,) = tracker.update([_at(0)], 0.0)
    tracker.follow(track, _hand(track, 0.0, -40.0 if why == "the side is in doubt" else 4.0), 0.0)
    asked_s = 0.0
    if why == "not confirmed":
        asked_s = 1.0
        tracker.update([], asked_s)
    if why == "they disagree":
        tracker.update([_at(15.0, landmarks=True)], 0.0)
    if why == "the side is in doubt":
        for _ in range(30):
            tracker.vote(track, -4.0)
    assert not tracker.wants_detector(asked_s + 0.4, asked_s)
    assert tracker.wants_detector(asked_s + 0.6, asked_s)


def test_one_wrong_side_does_not_flip_a_hand():
    tracker = Tracker()
    for frame in range(10):
        tracker.update([_at(0, is_right=True)], frame / 30)
    (track,) = tracker.update([_at(0, is_right=False)], 11 / 30)
    assert track.is_right


def test_a_side_that_persists_wins():
    tracker = Tracker()
    tracker.update([_at(0, is_right=True)], 0.0)
    for frame in range(1, 10):
        (track,) = tracker.update([_at(0, is_right=False)], frame / 30)
    assert not track.is_right


@pytest.mark.parametrize("is_right", [False, True])
def test_the_network_decides_when_the_detector_cannot(is_right):
    """A detector that answers left and right in turn, once in a second, and a network that always sees the same hand."""
    tracker = Tracker()
    for frame in range(300):
        if frame % 30 == 0:
            tracker.update([_at(0, is_right=frame % 60 == 0)], frame * FRAME_S)
        (track,) = tracker.in_view
        # The crop is mirrored by the belief: a left hand believed left looks like a right one.
        tracker.vote(track, 4.0 if track.is_right == is_right else -4.0)
        if frame > 150:
            assert tracker.in_view[0].is_right == is_right


def test_a_detector_that_is_sure_is_not_overruled_by_the_network():
    tracker = Tracker()
    for frame in range(300):
        if frame % 30 == 0:
            tracker.update([_at(0, is_right=True)], frame * FRAME_S)
        tracker.vote(tracker.in_view[0], -4.0)
        assert tracker.in_view[0].is_right


def _two_that_meet() -> tuple[Tracker, Track, Track]:
    """A right hand, and a left one whose crop has just come to show the right one."""
    tracker = Tracker(max_hands=2)
    right, left = tracker.update([_at(0), _at(300, is_right=False)], 0.0)
    for frame in range(1, 10):
        tracker.follow(right, _hand(right, 30.0 * frame), frame * FRAME_S)
        tracker.follow(left, _hand(left, 300.0), frame * FRAME_S)
        tracker.drop_twins(frame * FRAME_S)
    assert [track.id for track in tracker.in_view] == [right.id, left.id]
    tracker.follow(right, _hand(right, 300.0), 10 * FRAME_S)
    # It looks like the wrong side now.
    tracker.follow(left, _hand(left, 302.0, right_logit=-3.0), 10 * FRAME_S)
    tracker.drop_twins(10 * FRAME_S)
    return tracker, right, left


def test_a_hand_that_goes_behind_another_is_lost_not_doubled():
    tracker, right, left = _two_that_meet()
    assert [track.id for track in tracker.in_view] == [right.id]
    assert {right.id, left.id} <= tracker.known
    # However old it is: the crop that looks like the wrong side is not its own.
    tracker = Tracker(max_hands=2)
    left, right = tracker.update([_at(300, is_right=False), _at(0)], 0.0)
    tracker.follow(left, _hand(left, 301.0, right_logit=-3.0), FRAME_S)
    tracker.follow(right, _hand(right, 300.0), FRAME_S)
    tracker.drop_twins(FRAME_S)
    assert [track.id for track in tracker.in_view] == [right.id]


def test_a_hand_that_comes_out_from_behind_another_is_the_same_hand():
    tracker, right, left = _two_that_meet()
    for frame in range(11, 15):
        tracker.follow(right, _hand(right, 30.0 * frame), frame * FRAME_S)
    found = tracker.update([_at(420), _at(180, is_right=False)], 15 * FRAME_S)
    assert [track.id for track in found] == [right.id, left.id]
    assert [track.is_right for track in found] == [True, False]


def test_of_two_right_hands_the_one_that_jumped_is_not_its_own():
    tracker = Tracker(max_hands=2)
    still, moving = tracker.update([_at(300), _at(0)], 0.0)
    for frame in range(1, 10):
        tracker.follow(still, _hand(still, 300.0), frame * FRAME_S)
        tracker.follow(moving, _hand(moving, 30.0 * frame), frame * FRAME_S)
        tracker.drop_twins(frame * FRAME_S)
    tracker.follow(still, _hand(still, 315.0), 10 * FRAME_S)
    tracker.follow(moving, _hand(moving, 302.0), 10 * FRAME_S)
    tracker.drop_twins(10 * FRAME_S)
    assert [track.id for track in tracker.in_view] == [moving.id]


def test_hands_that_touch_do_not_change_sides():
    tracker = Tracker(max_hands=2)
    right, left = tracker.update([_at(0), _at(60, is_right=False)], 0.0)
    for frame in range(1, 200):
        tracker.follow(right, _hand(right, 0.0, right_logit=-4.0), frame * FRAME_S)
        tracker.follow(left, _hand(left, 60.0, right_logit=-4.0), frame * FRAME_S)
        if frame % 30 == 0:
            tracker.update([_at(0, is_right=False), _at(60, is_right=True)], frame * FRAME_S)
    assert [track.is_right for track in tracker.in_view] == [True, False]


def test_a_hand_that_comes_back_elsewhere_is_known_by_its_side():
    def come_back(is_right: bool, after_s: float) -> tuple[int, int]:
        tracker = Tracker(max_hands=2)
        right, left = tracker.update([_at(0), _at(300, is_right=False)], 0.0)
        tracker.follow(right, _hand(right, 0.0), FRAME_S)
        tracker.follow(left, _hand(left, 300.0, presence=0.0), FRAME_S)
        found = tracker.update([_at(0), _at(700, is_right=is_right)], after_s)
        return left.id, found[1].id

    same, other = come_back(False, 1.0)
    assert same == other
    for is_right, after_s in ((True, 1.0), (False, 5.0)):
        same, other = come_back(is_right, after_s)
        assert same != other


def test_the_next_crop_is_ahead_of_a_moving_hand():
    tracker = Tracker()
    (track,) = tracker.update([_at(0)], 0.0)
    for frame in range(1, 12):
        tracker.follow(track, _hand(track, 15.0 * frame), frame * FRAME_S)
    (track,) = tracker.in_view
    assert track.ahead_px(12 * FRAME_S) == pytest.approx((15, 0), abs=0.1)
    # Never far: a hand turns back within frames.
    assert np.linalg.norm(track.ahead_px(60 * FRAME_S)) < 50
    # A confirmation does not stop it.
    (track,) = tracker.update([_at(165.0, landmarks=True)], 11 * FRAME_S)
    assert track.ahead_px(12 * FRAME_S) == pytest.approx((15, 0), abs=0.1)


def test_a_lost_hand_is_searched_for_more_often():
    tracker = Tracker(max_hands=2)
    right, left = tracker.update([_at(0), _at(300, is_right=False)], 0.0)
    tracker.follow(right, _hand(right, 0.0), FRAME_S)
    tracker.follow(left, _hand(left, 300.0, presence=0.0), FRAME_S)
    assert tracker.wants_detector(0.3, 0.1)
    tracker.update([_at(0)], 3.0)
    assert not tracker.wants_detector(3.2, 3.0)
