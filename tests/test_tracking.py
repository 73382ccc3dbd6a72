"""Identities and sides over time."""

from __future__ import annotations

import numpy as np
import pytest

from handmesh.records import Detection, HandParams
from handmesh.tracking import Tracker

_NO_ROTATION = np.tile(np.eye(3), (16, 1, 1))


def _at(x: float, y: float = 200.0, is_right: bool = True, score: float = 0.9, side: float = 100.0) -> Detection:
    return Detection(np.array([x, y, x + side, y + side]), is_right, score)


def _says(right_logit: float) -> HandParams:
    return HandParams(_NO_ROTATION, np.zeros(10), np.array([7.0, 0, 0]), 0.9, right_logit)


def test_a_moving_hand_keeps_its_id():
    tracker = Tracker()
    ids = {tracker.update([_at(5.0 * frame)], frame / 30)[0].id for frame in range(60)}
    assert ids == {0}


def test_ids_follow_hands_whatever_their_order():
    tracker = Tracker()
    left, right = tracker.update([_at(0), _at(400)], 0.0)
    swapped = tracker.update([_at(405), _at(8)], 1 / 30)
    assert [track.id for track in swapped] == [right.id, left.id]


def test_one_track_never_owns_two_hands():
    tracker = Tracker()
    tracker.update([_at(100)], 0.0)
    tracks = tracker.update([_at(95), _at(112)], 1 / 30)
    assert len({track.id for track in tracks}) == 2
    assert tracks[0].id == 0  # the nearer one


def test_a_far_hand_is_a_new_one():
    tracker = Tracker()
    (first,) = tracker.update([_at(0)], 0.0)
    (other,) = tracker.update([_at(500)], 1 / 30)
    assert other.id != first.id


@pytest.mark.parametrize(("gap_s", "is_same"), [(0.3, True), (2.0, False)])
def test_a_lost_hand_is_remembered_for_a_while(gap_s, is_same):
    tracker = Tracker()
    (before,) = tracker.update([_at(0)], 0.0)
    assert tracker.update([], gap_s / 2) == []
    (after,) = tracker.update([_at(10)], gap_s)
    assert (after.id == before.id) == is_same


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


def test_the_network_decides_when_the_detector_cannot():
    """A detector that answers left and right in turn, and a network that sees a left hand."""
    tracker = Tracker()
    for frame in range(40):
        (track,) = tracker.update([_at(0, is_right=frame % 2 == 0)], frame / 30)
        # The crop is mirrored by the belief: a left hand believed left looks like a right one.
        tracker.vote(track, _says(-4.0 if track.is_right else 4.0))
    assert not track.is_right
