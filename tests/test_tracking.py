"""Identities, sides, what is lost, and what is new."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from handmesh.records import Detection
from handmesh.tracking import Observation, Track, Tracker, beside, is_followed

_UNIT_POINTS = np.random.default_rng(0).uniform(size=(21, 2))
_UNIT_POINTS[:2] = (0, 0), (1, 1)
FRAME_S = 1 / 30


def _at(x: float, y: float = 200.0, is_right: bool = True, score: float = 0.9, side: float = 100.0, landmarks: bool = False) -> Detection:
    points_px = (x, y) + side * _UNIT_POINTS
    return Detection(np.array([x, y, x + side, y + side]), is_right, score, points_px if landmarks else None)


def _seen(x: float, right_logit: float = 4.0, presence: float = 0.9, y: float = 200.0, landmarks: bool = True) -> Observation:
    """What might have been seen where a hand was expected."""
    points_px = (x, y) + 100 * _UNIT_POINTS
    return Observation(points_px, points_px, presence, right_logit, landmarks)


def test_hands_beside_a_followed_one_are_new_ones():
    tracker = Tracker()
    (first,) = tracker.update([_at(0)], 0.0)
    (other,) = tracker.update([_at(60)], FRAME_S)
    assert other.id != first.id and tracker.in_view == [first, other]


def test_ids_follow_hands_in_doubt_whatever_their_order():
    tracker = Tracker()
    left, right = tracker.update([_at(0), _at(400)], 0.0)
    for track, x in ((left, 0), (right, 400)):
        assert tracker.follow(track, _seen(x, presence=0.4), FRAME_S)
    assert tracker.followed == []
    found = tracker.update([_at(405), _at(8)], 2 * FRAME_S)
    assert [track.id for track in found] == [right.id, left.id]
    assert len(tracker.followed) == 2


def test_one_track_never_owns_two_hands():
    tracker = Tracker()
    (track,) = tracker.update([_at(100)], 0.0)
    tracker.follow(track, _seen(100, presence=0.4), FRAME_S)
    tracks = tracker.update([_at(95), _at(112)], 2 * FRAME_S)
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
    assert not tracker.follow(before, _seen(0, presence=0.01), 0.0)
    assert tracker.in_view == []
    (after,) = tracker.update([_at(10)], gap_s)
    assert (after.id == before.id) == is_same
    assert tracker.in_view == [after]


def test_the_next_crop_is_where_the_mesh_was():
    tracker = Tracker()
    (track,) = tracker.update([_at(0, landmarks=True)], 0.0)
    assert track.points_px is track.detection.landmarks_px
    for frame in range(1, 10):
        seen = _seen(30.0 * frame)
        assert tracker.follow(track, seen, frame * FRAME_S)
        (track,) = tracker.in_view
        assert track.points_px is seen.keypoints_px and track.landmarks_px is seen.landmarks_px
        assert track.box_px == pytest.approx([30.0 * frame, 200, 30.0 * frame + 100, 300])
    # Far from where it was first found it is still known, by where it was followed to.
    assert not tracker.follow(track, _seen(0.0, presence=0.0), 10 * FRAME_S)
    assert tracker.update([_at(280.0)], 11 * FRAME_S)[0].id == track.id


def test_presence_decides_that_a_hand_is_lost():
    tracker = Tracker()
    (track,) = tracker.update([_at(0, landmarks=True)], 0.0)
    seen = _seen(5.0)
    assert tracker.follow(track, seen, FRAME_S)
    # One doubt, and another, are forgiven; the crop stays where the hand was seen.
    for frame in (2, 3):
        assert tracker.follow(track, _seen(60.0, presence=0.4), frame * FRAME_S)
        assert tracker.in_view[0].points_px is seen.keypoints_px
    assert not tracker.follow(track, _seen(60.0, presence=0.4), 4 * FRAME_S)
    assert tracker.in_view == []


def test_doubts_that_pass_are_forgotten():
    tracker = Tracker()
    (track,) = tracker.update([_at(0)], 0.0)
    for frame in range(30):
        assert tracker.follow(track, _seen(0.0, presence=0.9 if frame % 3 == 2 else 0.4), frame * FRAME_S)


def test_there_are_never_more_hands_than_wanted():
    tracker = Tracker(max_hands=1)
    tracker.update([_at(0)], 0.0)
    (new,) = tracker.update([_at(500)], 1.0)
    assert tracker.in_view == [new]  # of two, the one that the detector sees now


def test_two_tracks_on_one_hand_become_one():
    tracker = Tracker()
    older, younger = tracker.update([_at(0), _at(150)], 0.0)
    tracker.follow(older, _seen(70.0), FRAME_S)
    tracker.follow(younger, _seen(150.0), FRAME_S)
    tracker.drop_twins()
    assert len(tracker.in_view) == 2
    tracker.follow(younger, _seen(75.0), 2 * FRAME_S)
    tracker.drop_twins()
    assert [track.id for track in tracker.in_view] == [older.id]


def test_the_hand_in_doubt_goes_first():
    tracker = Tracker(max_hands=2)
    one, other = tracker.update([_at(0), _at(300)], 0.0)
    tracker.follow(one, _seen(0), FRAME_S)
    tracker.follow(other, _seen(300, presence=0.4), FRAME_S)
    (new,) = tracker.update([_at(600, is_right=False)], 2 * FRAME_S)
    assert [track.id for track in tracker.in_view] == [one.id, new.id]


@pytest.mark.parametrize("landmarks", [True, False])
def test_one_wrong_frame_does_not_flip_a_hand_and_many_do(landmarks):
    tracker = Tracker()
    (track,) = tracker.update([_at(0)], 0.0)
    frames = 0
    while track.is_right:
        frames += 1
        # The picture, mirrored by the belief, looks like the other side.
        tracker.follow(track, _seen(0, right_logit=-6.0, landmarks=landmarks), frames * FRAME_S)
        (track,) = tracker.in_view
    # The landmark network is right more often, and believed sooner.
    assert 5 < frames < 15 if landmarks else 30 < frames < 60
    # It stays what it was turned to while it looks like that.
    for frame in range(frames + 1, frames + 60):
        tracker.follow(track, _seen(0, right_logit=4.0, landmarks=landmarks), frame * FRAME_S)
        (track,) = tracker.in_view
        assert not track.is_right


def test_a_landmark_network_that_looks_once_a_second_is_believed_as_much():
    tracker = Tracker()
    (track,) = tracker.update([_at(0)], 0.0)
    tracker.follow(track, _seen(0, right_logit=-6.0), 1.0)
    tracker.follow(track, _seen(0, right_logit=-6.0), 2.0)
    assert not tracker.in_view[0].is_right


def test_a_picture_without_a_hand_says_nothing_about_its_side():
    tracker = Tracker()
    (track,) = tracker.update([_at(0)], 0.0)
    tracker.follow(track, _seen(0, right_logit=-6.0, presence=0.4), 1.0)
    tracker.follow(track, _seen(0, right_logit=-6.0, presence=0.4), 2.0)
    assert tracker.in_view[0].right_evidence == track.right_evidence


def test_evidence_of_minutes_is_no_harder_to_turn():
    tracker = Tracker()
    (track,) = tracker.update([_at(0)], 0.0)
    for frame in range(1, 2000):
        tracker.follow(track, _seen(0), frame * FRAME_S)
    frames = 0
    while tracker.in_view[0].is_right:
        frames += 1
        tracker.follow(track, _seen(0, right_logit=-6.0), (2000 + frames) * FRAME_S)
    assert frames < 15


def test_the_landmark_network_confirms_a_hand():
    tracker = Tracker()
    (track,) = tracker.update([_at(0)], 0.0)
    tracker.follow(track, _seen(0), 0.5)
    assert tracker.in_view[0].confirmed_s == 0.5
    tracker.follow(track, _seen(0, landmarks=False), 0.6)
    tracker.follow(track, _seen(0, presence=0.4), 0.7)
    assert tracker.in_view[0].confirmed_s == 0.5


def _palm(x: float) -> np.ndarray:
    """Keypoints of the palm of the hand at (x, 200)."""
    return (x, 200.0) + 100 * _UNIT_POINTS[[0, 5, 9, 13, 17, 1, 2]]


def test_palms_of_followed_hands_are_not_new():
    tracker = Tracker()
    (track,) = tracker.update([_at(0, landmarks=True)], 0.0)
    for frame in range(4):
        assert is_followed(_palm(3.0), tracker.followed) and not is_followed(_palm(80.0), tracker.followed)
        tracker.follow(track, _seen(0), frame * FRAME_S)
    # Where a hand is in doubt, its palm is news.
    tracker.follow(track, _seen(0, presence=0.4), 4 * FRAME_S)
    assert not is_followed(_palm(3.0), tracker.followed)


def test_what_is_found_on_a_followed_hand_is_not_beside_it():
    tracker = Tracker()
    (track,) = tracker.update([_at(0, landmarks=True)], 0.0)
    for frame in range(1, 12):
        tracker.follow(track, _seen(20.0 * frame), frame * FRAME_S)
    own, other = _at(238, landmarks=True), _at(400, landmarks=True)
    # By where it is expected now, not by where it was.
    assert beside([own, other], tracker.followed, 12 * FRAME_S) == [other]
    assert beside([_at(205, landmarks=True)], tracker.followed, 12 * FRAME_S)


def _two_that_meet() -> tuple[Tracker, Track, Track]:
    """A right hand, and a left one whose crop has just come to show the right one."""
    tracker = Tracker(max_hands=2)
    right, left = tracker.update([_at(0), _at(300, is_right=False)], 0.0)
    for frame in range(1, 10):
        tracker.follow(right, _seen(30.0 * frame), frame * FRAME_S)
        tracker.follow(left, _seen(300.0), frame * FRAME_S)
        tracker.drop_twins()
    assert [track.id for track in tracker.in_view] == [right.id, left.id]
    tracker.follow(right, _seen(300.0), 10 * FRAME_S)
    # It looks like the wrong side now.
    tracker.follow(left, _seen(302.0, right_logit=-3.0), 10 * FRAME_S)
    tracker.drop_twins()
    return tracker, right, left


def test_a_hand_that_goes_behind_another_is_lost_not_doubled():
    tracker, right, left = _two_that_meet()
    assert [track.id for track in tracker.in_view] == [right.id]
    assert {right.id, left.id} <= tracker.known
    # However old it is: the crop that looks like the wrong side is not its own.
    tracker = Tracker(max_hands=2)
    left, right = tracker.update([_at(300, is_right=False), _at(0)], 0.0)
    tracker.follow(left, _seen(301.0, right_logit=-3.0), FRAME_S)
    tracker.follow(right, _seen(300.0), FRAME_S)
    tracker.drop_twins()
    assert [track.id for track in tracker.in_view] == [right.id]


@pytest.mark.parametrize(
    ("far", "is_other_right", "right_logit", "is_lost"),
    [(0, False, -4.0, True), (0, False, -1.0, False), (0, True, -4.0, False), (200, False, -4.0, False)],
)
def test_a_region_that_shows_the_other_hand_is_not_its_own(far, is_other_right, right_logit, is_lost):
    """Before the two meet: a hand beside the mesh would be shown as the hidden one."""
    tracker = Tracker()
    hidden, other = tracker.update([_at(0), _at(50 + far, is_right=is_other_right)], 0.0)
    for frame, logit in ((1, 4.0), (2, right_logit)):
        assert tracker.follow(other, _seen(50.0 + far), frame * FRAME_S)
        assert tracker.follow(hidden, _seen(0.0, right_logit=logit), frame * FRAME_S) != (is_lost and frame == 2)
    assert (hidden.id in {track.id for track in tracker.in_view}) != is_lost
    assert hidden.id in tracker.known


@pytest.mark.parametrize(("far", "spread_mm", "is_lost"), [(0, None, False), (0, 3, False), (0, 20, True), (200, 20, False)])
def test_beside_another_hand_keypoints_that_may_be_anywhere_are_not_its_own(far, spread_mm, is_lost):
    tracker = Tracker()
    hidden, other = tracker.update([_at(0), _at(50 + far)], 0.0)
    assert tracker.follow(other, _seen(50.0 + far), FRAME_S)
    seen = replace(_seen(0.0), spread_m=None if spread_mm is None else 1e-3 * spread_mm)
    assert tracker.follow(hidden, seen, FRAME_S) != is_lost
    assert (hidden.id in {track.id for track in tracker.in_view}) != is_lost


def test_a_hand_that_comes_out_from_behind_another_is_the_same_hand():
    tracker, right, left = _two_that_meet()
    for frame in range(11, 15):
        tracker.follow(right, _seen(30.0 * frame), frame * FRAME_S)
    (found,) = tracker.update([_at(180, is_right=False)], 15 * FRAME_S)
    assert found.id == left.id and not found.is_right
    assert [track.id for track in tracker.in_view] == [right.id, left.id]


def test_of_two_right_hands_the_one_that_jumped_is_not_its_own():
    tracker = Tracker(max_hands=2)
    still, moving = tracker.update([_at(300), _at(0)], 0.0)
    for frame in range(1, 10):
        tracker.follow(still, _seen(300.0), frame * FRAME_S)
        tracker.follow(moving, _seen(30.0 * frame), frame * FRAME_S)
        tracker.drop_twins()
    tracker.follow(still, _seen(315.0), 10 * FRAME_S)
    tracker.follow(moving, _seen(302.0), 10 * FRAME_S)
    tracker.drop_twins()
    assert [track.id for track in tracker.in_view] == [moving.id]


def test_hands_that_touch_do_not_change_sides():
    tracker = Tracker(max_hands=2)
    right, left = tracker.update([_at(0), _at(60, is_right=False)], 0.0)
    for frame in range(1, 200):
        tracker.follow(right, _seen(0.0, right_logit=-4.0), frame * FRAME_S)
        tracker.follow(left, _seen(60.0, right_logit=-4.0), frame * FRAME_S)
    assert [track.is_right for track in tracker.in_view] == [True, False]


def test_a_hand_that_comes_back_elsewhere_is_known_by_its_side():
    def come_back(is_right: bool, after_s: float) -> tuple[int, int]:
        tracker = Tracker(max_hands=2)
        right, left = tracker.update([_at(0), _at(300, is_right=False)], 0.0)
        tracker.follow(right, _seen(0.0), FRAME_S)
        tracker.follow(left, _seen(300.0, presence=0.0), FRAME_S)
        (found,) = tracker.update([_at(700, is_right=is_right)], after_s)
        return left.id, found.id

    same, other = come_back(False, 1.0)
    assert same == other
    for is_right, after_s in ((True, 1.0), (False, 5.0)):
        same, other = come_back(is_right, after_s)
        assert same != other


def test_the_next_crop_is_ahead_of_a_moving_hand():
    tracker = Tracker()
    (track,) = tracker.update([_at(0)], 0.0)
    for frame in range(1, 12):
        tracker.follow(track, _seen(15.0 * frame), frame * FRAME_S)
    (track,) = tracker.in_view
    assert track.ahead_px(12 * FRAME_S) == pytest.approx((15, 0), abs=0.1)
    # Never far: a hand turns back within frames.
    assert np.linalg.norm(track.ahead_px(60 * FRAME_S)) < 50
