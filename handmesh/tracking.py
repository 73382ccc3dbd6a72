"""Whose hand is whose from frame to frame, which side each one is, where the next crop looks, and when a hand is lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from handmesh.records import Detection, Hand

# A lost hand that comes back near where it was within this time gets its old identity, and anywhere where it is the only one of its side.
_PATIENCE_S = 3.0
# How much of the evidence for a side is kept from detection to detection.
_MEMORY = 0.9
# Votes on the side. The detector is right more often but asked rarely: in a second of frames the network says a little less than it.
_DETECTOR_VOTE = 2.0
_NETWORK_VOTE = 0.05
# A detection of the other side is so much farther from a track, in sides of the box.
_OTHER_SIDE = 0.5
# Less evidence than this is no certainty.
_SURE_OF_SIDE = 1.0
# The network must doubt a hand in so many frames in a row before it is lost, or be this sure in one.
_DOUBTS = 3
_SURELY_ABSENT = 0.05
# How often the detector looks while all hands are followed, while one may be missing or is in doubt, and while one has just been lost.
_CHECK_EVERY_S = 1.0
_SEARCH_EVERY_S = 0.5
_RECOVER_EVERY_S = 0.15
_RECOVER_S = 1.5
# A hand that only the network sees is no longer believed after this time.
_UNCONFIRMED_S = 2.0
# The crop starts anew from the detector's landmarks where what is followed lies farther from them, in sides of the box.
_ASTRAY = 0.35
# Where they are farther apart than this, the detector looks again soon.
_DISAGREES = 0.1
# Two followed hands are one where their keypoints lie this close, in sides of the box.
_SAME_HAND = 0.2
# Nearer than this, a crop may show the other hand: what it says about its side is no evidence.
_CROWDED = 0.7
# How much of the newest motion is believed, and how far ahead a crop may be moved by it, in sides of the box.
_NEW_MOTION = 0.5
_FARTHEST_AHEAD = 0.4
# A jump that is this much longer than another, in sides of the box, went to a hand that is not its own.
_JUMPED = 0.1


@dataclass(frozen=True)
class Track:
    """One hand over time.

    Attributes:
        id: stays with the hand.
        detection: the newest.
        seen_s: when the hand was in view last.
        right_evidence: summed votes; positive for a right hand.
        confirmed_s: when the detector saw it last.
        keypoints_px: (21, 2) where the network saw it last; None when only the detector has.
        disagreement: how far the network's keypoints were from the newest detection's, in sides of its box.
        velocity_px_s: (2,) of its middle, low-passed.
        surprise: how far the newest keypoints lie from where they were expected, in sides of the box.
        agrees: the newest crop looked like the side that it was mirrored for: the logit, positive for yes.
        doubts: frames in a row in which the network saw no hand.
        is_lost: out of view; remembered for a while.
    """

    id: int
    detection: Detection
    seen_s: float
    right_evidence: float
    confirmed_s: float = 0.0
    keypoints_px: np.ndarray | None = None
    disagreement: float = 0.0
    velocity_px_s: np.ndarray = field(default_factory=lambda: np.zeros(2))
    surprise: float = 0.0
    agrees: float = 0.0
    doubts: int = 0
    is_lost: bool = False

    @property
    def is_right(self) -> bool:
        """The current belief, by which crops are mirrored."""
        return self.right_evidence >= 0

    @property
    def points_px(self) -> np.ndarray | None:
        """(21, 2) what the next crop is made around; None where only the detection's box is known."""
        return self.detection.landmarks_px if self.keypoints_px is None else self.keypoints_px

    def ahead_px(self, time_s: float) -> np.ndarray:
        """(2,) how far the hand has probably moved since it was seen."""
        shift_px = self.velocity_px_s * (time_s - self.seen_s)
        farthest_px = _FARTHEST_AHEAD * _side_px(self.box_px)
        return shift_px * min(1.0, farthest_px / max(float(np.linalg.norm(shift_px)), 1e-9))

    @property
    def box_px(self) -> np.ndarray:
        """(4,) x0, y0, x1, y1 around where the hand was last."""
        if self.keypoints_px is None:
            return np.asarray(self.detection.box_px, dtype=np.float64)
        return np.concatenate([self.keypoints_px.min(axis=0), self.keypoints_px.max(axis=0)])


class Tracker:
    """Follows hands by what the network saw, and takes in what the detector finds.

    Args:
        max_hands: most hands in view; None for any number.
    """

    def __init__(self, max_hands: int | None = None) -> None:
        self._tracks: dict[int, Track] = {}
        self._next_id = 0
        self._max_hands = max_hands
        self._lost_s: float | None = None

    @property
    def in_view(self) -> list[Track]:
        """The hands to look at in this frame."""
        return [track for track in self._tracks.values() if not track.is_lost]

    @property
    def known(self) -> frozenset[int]:
        """The ids of all hands that are in view or may come back."""
        return frozenset(self._tracks)

    def update(self, detections: Sequence[Detection], time_s: float, then: Sequence[Track] = ()) -> list[Track]:
        """Take in what the detector found: the nearest pair first, never farther apart than a hand's own size.

        Args:
            detections: of one frame.
            time_s: now; not before that of the last call.
            then: the tracks as they were in the detector's frame, where that is not the newest.

        Returns:
            One track for each detection, in the same order; all are in view, unless there are more than `max_hands`.
        """
        alive = {key: track for key, track in self._tracks.items() if not track.is_lost or time_s - track.seen_s <= _PATIENCE_S}
        owner = _match(alive, detections, {track.id: track.box_px for track in then})
        keypoints_then_px = {track.id: track.keypoints_px for track in then}
        tracks = []
        for index, detection in enumerate(detections):
            # Of hands that hide each other the detector, too, says the wrong side.
            weight = 0.0 if index in owner and _is_crowded(alive[owner[index]], self.in_view) else _DETECTOR_VOTE
            vote = weight * (detection.score if detection.is_right else -detection.score)
            if index in owner:
                track = _confirm(alive[owner[index]], detection, time_s, vote, keypoints_then_px.get(owner[index]))
            else:
                track = Track(self._next_id, detection, time_s, vote, time_s)
                self._next_id += 1
            tracks.append(track)
        self._tracks = alive | {track.id: track for track in tracks}
        self._forget(time_s)
        return tracks

    def follow(self, track: Track, hand: Hand, time_s: float) -> bool:
        """Note what the network saw in a frame.

        Args:
            track: whose crop it was.
            hand: what was in it. `hand.params.right_logit` says whether the crop, mirrored by the track's belief, looked like a right
                hand; `hand.params.presence` whether there was a hand.
            time_s: of the frame.

        Returns:
            False when the hand is lost.
        """
        if not _is_crowded(track, self.in_view):
            self.vote(track, hand.params.right_logit)
        newest = self._tracks[track.id]
        presence = hand.params.presence
        if presence >= 0.5:
            self._tracks[track.id] = replace(_moved(newest, hand.keypoints_px, time_s), agrees=hand.params.right_logit, doubts=0)
            return True
        # The crop stays where the hand was: what is seen in a crop without a hand leads nowhere.
        doubts = newest.doubts + 1
        is_lost = doubts >= _DOUBTS or presence < _SURELY_ABSENT
        self._tracks[track.id] = replace(newest, velocity_px_s=np.zeros(2), doubts=doubts, is_lost=is_lost)
        if is_lost:
            self._lost_s = time_s
        return not is_lost

    def vote(self, track: Track, right_logit: float) -> None:
        """Let the network say whether the crop, mirrored by the track's belief, looked like a right hand."""
        vote = _NETWORK_VOTE * float(np.tanh(right_logit / 2)) * (1 if track.is_right else -1)
        newest = self._tracks[track.id]
        self._tracks[track.id] = replace(newest, right_evidence=newest.right_evidence + vote)

    def drop_twins(self, time_s: float) -> None:
        """Of two tracks that have come to follow the same hand, lose the one whose hand it is not.

        A hand that goes behind another leaves its crop to it. Its track waits for its hand as any lost one does.
        """
        kept: list[Track] = []
        for track in sorted(self.in_view, key=lambda track: track.id):
            twin = next((other for other in kept if _is_same_hand(track, other)), None)
            if twin is not None:
                loser = _stranger(twin, track)
                self._tracks[loser.id] = replace(loser, is_lost=True)
                self._lost_s = time_s
                kept = [other for other in kept if other.id != loser.id]
                if loser is track:
                    continue
            kept.append(track)

    def wants_detector(self, time_s: float, asked_s: float | None) -> bool:
        """Whether the detector should look at this frame: at the start, when a hand is lost, and now and then.

        Args:
            time_s: of the frame.
            asked_s: when it was asked last; None for never.
        """
        hands = self.in_view
        if not hands or asked_s is None or (self._lost_s is not None and self._lost_s >= asked_s):
            return True
        is_complete = self._max_hands is not None and len(hands) >= self._max_hands
        is_confirmed = all(
            track.confirmed_s >= asked_s and track.disagreement < _DISAGREES and abs(track.right_evidence) >= _SURE_OF_SIDE
            for track in hands
        )
        if is_complete and is_confirmed:
            return time_s - asked_s >= _CHECK_EVERY_S
        is_recovering = not is_complete and self._lost_s is not None and time_s - self._lost_s < _RECOVER_S
        return time_s - asked_s >= (_RECOVER_EVERY_S if is_recovering else _SEARCH_EVERY_S)

    def _forget(self, time_s: float) -> None:
        """Lose hands that the detector has not confirmed for long, and those beyond `max_hands`, the least confirmed first."""
        hands = sorted(self.in_view, key=lambda track: -track.confirmed_s)
        most = len(hands) if self._max_hands is None else self._max_hands
        for rank, track in enumerate(hands):
            if rank >= most or time_s - track.confirmed_s > _UNCONFIRMED_S:
                self._tracks[track.id] = replace(track, is_lost=True)


def _confirm(track: Track, detection: Detection, time_s: float, vote: float, keypoints_then_px: np.ndarray | None) -> Track:
    """The track after the detector saw its hand."""
    keypoints_px, disagreement = None if track.is_lost else track.keypoints_px, 0.0
    if keypoints_px is not None and detection.landmarks_px is not None:
        offsets_px = detection.landmarks_px - (keypoints_px if keypoints_then_px is None else keypoints_then_px)
        disagreement = float(np.linalg.norm(offsets_px, axis=1).mean() / max(_side_px(detection.box_px), 1e-6))
        # A crop that is made around a wrong answer can give that answer again and again: half way to the detector's, as in a first look.
        keypoints_px = None if disagreement > _ASTRAY else keypoints_px + offsets_px / 2
    return replace(
        track,
        detection=detection,
        # Of the keypoints, from which the next crop is foreseen.
        seen_s=time_s if keypoints_px is None else track.seen_s,
        velocity_px_s=np.zeros(2) if keypoints_px is None else track.velocity_px_s,
        right_evidence=_MEMORY * track.right_evidence + vote,
        confirmed_s=time_s,
        keypoints_px=keypoints_px,
        disagreement=disagreement,
        doubts=0,
        is_lost=False,
    )


def _match(alive: dict[int, Track], detections: Sequence[Detection], boxes_then_px: dict[int, np.ndarray]) -> dict[int, int]:
    """Index of a detection -> id of its track: the nearest pair first, then hands that come back where nobody expected them."""
    # Where they were in the detector's frame: by now they may be where another one was.
    boxes_px = {key: track.box_px for key, track in alive.items()} | boxes_then_px
    owner: dict[int, int] = {}
    pairs = []
    for key, track in alive.items():
        for index, detection in enumerate(detections):
            distance = _distance(boxes_px[key], detection.box_px)
            is_other_side = track.is_right != detection.is_right and abs(track.right_evidence) >= _SURE_OF_SIDE
            if distance < 1:
                pairs.append((distance + _OTHER_SIDE * is_other_side, key, index))
    for _, key, index in sorted(pairs):
        if key not in owner.values() and index not in owner:
            owner[index] = key
    for is_right in (True, False):
        # A side that is in view already does not come back a second time.
        waiting = [key for key, track in alive.items() if track.is_right == is_right and key not in owner.values()]
        found = [index for index, detection in enumerate(detections) if detection.is_right == is_right and index not in owner]
        if len(waiting) == len(found) == 1 and alive[waiting[0]].is_lost:
            owner[found[0]] = waiting[0]
    return owner


def _moved(track: Track, keypoints_px: np.ndarray, time_s: float) -> Track:
    """The track after its hand was seen again."""
    if track.keypoints_px is None or time_s <= track.seen_s:
        return replace(track, keypoints_px=keypoints_px, seen_s=time_s, surprise=0.0)
    shift_px = keypoints_px.mean(axis=0) - track.keypoints_px.mean(axis=0)
    surprise = float(np.linalg.norm(shift_px - track.ahead_px(time_s))) / max(_side_px(track.box_px), 1e-6)
    velocity_px_s = track.velocity_px_s + _NEW_MOTION * (shift_px / (time_s - track.seen_s) - track.velocity_px_s)
    return replace(track, keypoints_px=keypoints_px, seen_s=time_s, velocity_px_s=velocity_px_s, surprise=surprise)


def _stranger(older: Track, younger: Track) -> Track:
    """Which of two tracks on one hand does not belong there: it looks like the other side, or it jumped, or it came later."""
    if (older.agrees > 0) != (younger.agrees > 0):
        return older if younger.agrees > 0 else younger
    if abs(older.surprise - younger.surprise) > _JUMPED:
        return older if older.surprise > younger.surprise else younger
    return younger


def _is_crowded(track: Track, hands: Sequence[Track]) -> bool:
    """Another hand is so near that a crop of the one may show the other."""
    return any(other.id != track.id and _distance(track.box_px, other.box_px) < _CROWDED for other in hands)


def _is_same_hand(a: Track, b: Track) -> bool:
    if a.keypoints_px is None or b.keypoints_px is None:
        return False
    distance_px = np.linalg.norm(a.keypoints_px - b.keypoints_px, axis=1).mean()
    return bool(distance_px < _SAME_HAND * max(_side_px(a.box_px), _side_px(b.box_px)))


def _side_px(box_px: np.ndarray) -> float:
    return float((box_px[2:] - box_px[:2]).max())


def _distance(a_px: np.ndarray, b_px: np.ndarray) -> float:
    """Distance of two boxes' middles over the larger of their sides: 1 is about a hand's length."""
    middles = [(box_px[:2] + box_px[2:]) / 2 for box_px in (a_px, b_px)]
    return float(np.linalg.norm(middles[0] - middles[1]) / max(_side_px(a_px), _side_px(b_px), 1e-6))
