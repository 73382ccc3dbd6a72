"""Whose hand is whose from frame to frame, which side each one is, where the next look goes, and when a hand is lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from handmesh.records import Detection
from handmesh.skeleton import JOINTS

# A lost hand that comes back near where it was within this time gets its old identity, and anywhere where it is the only one of its side.
_PATIENCE_S = 3.0
# Evidence for a side: of the hand that is found, of a frame in which only the hand network looked, and of a second of frames in which the
# landmark network did, which is right far more often. No more of it is kept: a side that was taken for the other is put right in a third
# of a second.
_FOUND_VOTE = 2.0
_NETWORK_VOTE = 0.05
_LANDMARK_VOTES_PER_S, _LONGEST_VOTE_S = 6.0, 1 / 3
_MOST_EVIDENCE = 2.0
# A detection of the other side is so much farther from a track, in sides of the box.
_OTHER_SIDE = 0.5
# Less evidence than this is no certainty.
_SURE_OF_SIDE = 1.0
# A hand must be in doubt in so many frames in a row before it is lost, or be surely absent in one.
_DOUBTS = 3
_SURELY_ABSENT = 0.05
# Two followed hands are one where their keypoints lie this close, in sides of the box.
_SAME_HAND = 0.2
# Nearer than this, a crop may show the other hand: what it says about its side is no evidence for it; but as sure as this of the side of
# the other one, the landmark network looks at that one.
_CROWDED = 0.7
_OTHERS_LOGIT = -2.0
# Beside another hand, keypoints that are expected to be this far off are not its own: 2 mm is usual on its own hand, 9 off it (LOG.md).
_ASTRAY_M = 0.008
# A palm is that of a followed hand where their keypoints lie this close, in sides of the hand's box; and which of the hand's they are.
_SAME_PALM = 0.4
_OF_PALM = [JOINTS.index(name) for name in ("wrist", "index_mcp", "middle_mcp", "ring_mcp", "little_mcp", "thumb_cmc", "thumb_mcp")]
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
        confirmed_s: when the landmark network saw it last.
        keypoints_px: (21, 2) where its mesh was last; None when it has only been found.
        landmarks_px: (21, 2) where MediaPipe would put its landmarks, likewise.
        velocity_px_s: (2,) of its middle, low-passed.
        surprise: how far the newest keypoints lie from where they were expected, in sides of the box.
        agrees: the newest crop looked like the side that it was mirrored for: the logit, positive for yes.
        doubts: frames in a row in which no hand was seen.
        is_lost: out of view; remembered for a while.
    """

    id: int
    detection: Detection
    seen_s: float
    right_evidence: float
    confirmed_s: float = 0.0
    keypoints_px: np.ndarray | None = None
    landmarks_px: np.ndarray | None = None
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


@dataclass(frozen=True)
class Observation:
    """What was seen where a track's hand was expected.

    Attributes:
        keypoints_px: (21, 2) of its mesh.
        landmarks_px: (21, 2) what the next region is made around.
        presence: in 0..1, whether there was a hand.
        right_logit: > 0 where the picture, mirrored by the track's belief, looked like a right hand.
        has_landmarks: the landmark network looked: it says presence and side, too.
        spread_m: how far off the keypoints are expected to be, metres; None where that is not known.
    """

    keypoints_px: np.ndarray
    landmarks_px: np.ndarray
    presence: float
    right_logit: float
    has_landmarks: bool
    spread_m: float | None = None


class Tracker:
    """Follows hands by what was seen where they were expected, and takes in what is found.

    Args:
        max_hands: most hands in view; None for any number.
    """

    def __init__(self, max_hands: int | None = None) -> None:
        self._tracks: dict[int, Track] = {}
        self._next_id = 0
        self._max_hands = max_hands

    @property
    def in_view(self) -> list[Track]:
        """The hands to look at in this frame."""
        return [track for track in self._tracks.values() if not track.is_lost]

    @property
    def known(self) -> frozenset[int]:
        """The ids of all hands that are in view or may come back."""
        return frozenset(self._tracks)

    @property
    def followed(self) -> list[Track]:
        """The hands in view that nobody doubts."""
        return [track for track in self.in_view if track.doubts == 0]

    def update(self, detections: Sequence[Detection], time_s: float) -> list[Track]:
        """Take in hands that were found beside those that are followed.

        One that is near a hand in doubt, or near where one was lost, is that hand: the nearest pair first, never farther apart than a
        hand's own size. A lost hand that is the only one of its side is known wherever it comes back.

        Args:
            detections: of one frame.
            time_s: now; not before that of the last call.

        Returns:
            One track for each detection, in the same order; all are in view, unless there are more than `max_hands`.
        """
        self._tracks = {key: track for key, track in self._tracks.items() if not track.is_lost or time_s - track.seen_s <= _PATIENCE_S}
        owner = _match({key: track for key, track in self._tracks.items() if track.is_lost or track.doubts}, detections)
        tracks = []
        for index, detection in enumerate(detections):
            vote = _FOUND_VOTE * (detection.score if detection.is_right else -detection.score)
            if index in owner:
                track = _found_again(self._tracks[owner[index]], detection, time_s, vote)
            else:
                track = Track(self._next_id, detection, time_s, vote, time_s)
                self._next_id += 1
            tracks.append(track)
        self._tracks |= {track.id: track for track in tracks}
        self._keep_to_most()
        return tracks

    def follow(self, track: Track, seen: Observation, time_s: float) -> bool:
        """Note what was seen in a frame.

        Args:
            track: whose hand was expected.
            seen: where it was.
            time_s: of the frame.

        Returns:
            False when the hand is lost.
        """
        newest = self._tracks[track.id]
        if seen.presence >= 0.5:
            near = [other for other in self.in_view if other.id != track.id and _distance(newest.box_px, other.box_px) < _CROWDED]
            others = [other for other in near if other.agrees > 0]
            shows_other_side = seen.has_landmarks and seen.right_logit < _OTHERS_LOGIT
            is_astray = seen.spread_m is not None and seen.spread_m > _ASTRAY_M
            if (others and is_astray) or (shows_other_side and any(other.is_right != newest.is_right for other in others)):
                # Its hand has gone behind another, and this is the other.
                self._tracks[track.id] = replace(newest, is_lost=True)
                return False
            if not near:
                newest = _after_vote(newest, track.is_right, seen, time_s)
            confirmed_s = time_s if seen.has_landmarks else newest.confirmed_s
            self._tracks[track.id] = replace(_moved(newest, seen, time_s), confirmed_s=confirmed_s, agrees=seen.right_logit, doubts=0)
            return True
        # The crop stays where the hand was: what is seen in a crop without a hand leads nowhere.
        doubts = newest.doubts + 1
        is_lost = doubts >= _DOUBTS or seen.presence < _SURELY_ABSENT
        self._tracks[track.id] = replace(newest, velocity_px_s=np.zeros(2), doubts=doubts, is_lost=is_lost)
        return not is_lost

    def drop_twins(self) -> None:
        """Of two tracks that have come to follow the same hand, lose the one whose hand it is not.

        A hand that goes behind another leaves its crop to it. Its track waits for its hand as any lost one does.
        """
        kept: list[Track] = []
        for track in sorted(self.in_view, key=lambda track: track.id):
            twin = next((other for other in kept if _is_same_hand(track, other)), None)
            if twin is not None:
                loser = _stranger(twin, track)
                self._tracks[loser.id] = replace(loser, is_lost=True)
                kept = [other for other in kept if other.id != loser.id]
                if loser is track:
                    continue
            kept.append(track)

    def _keep_to_most(self) -> None:
        """Lose hands beyond `max_hands`: those in doubt, then those that were seen longest ago."""
        hands = sorted(self.in_view, key=lambda track: (track.doubts, -track.confirmed_s))
        for track in hands[self._max_hands :] if self._max_hands is not None else []:
            self._tracks[track.id] = replace(track, is_lost=True)


def is_followed(palm_px: np.ndarray, tracks: Sequence[Track]) -> bool:
    """Whether a palm is that of one of these hands.

    Args:
        palm_px: (7, 2) keypoints, see `detection.Palm`.
        tracks: as they were when the palm was seen.
    """
    for track in tracks:
        points_px = track.points_px if track.landmarks_px is None else track.landmarks_px
        if points_px is not None and np.linalg.norm(points_px[_OF_PALM] - palm_px, axis=1).mean() < _SAME_PALM * _side_px(track.box_px):
            return True
    return False


def beside(detections: Sequence[Detection], tracks: Sequence[Track], time_s: float) -> list[Detection]:
    """The detections of a frame that are none of the hands which are followed into it."""

    def is_one(detection: Detection, track: Track) -> bool:
        points_px = track.points_px if track.landmarks_px is None else track.landmarks_px
        if points_px is None or detection.landmarks_px is None:
            return False
        distance_px = np.linalg.norm(points_px + track.ahead_px(time_s) - detection.landmarks_px, axis=1).mean()
        return bool(distance_px < _SAME_HAND * max(_side_px(track.box_px), _side_px(detection.box_px)))

    return [detection for detection in detections if not any(is_one(detection, track) for track in tracks)]


def _after_vote(track: Track, believed_right: bool, seen: Observation, time_s: float) -> Track:
    """The track after a frame told its side."""
    weight = _LANDMARK_VOTES_PER_S * min(time_s - track.confirmed_s, _LONGEST_VOTE_S) if seen.has_landmarks else _NETWORK_VOTE
    vote = weight * float(np.tanh(seen.right_logit / 2)) * (1 if believed_right else -1)
    return replace(track, right_evidence=float(np.clip(track.right_evidence + vote, -_MOST_EVIDENCE, _MOST_EVIDENCE)))


def _found_again(track: Track, detection: Detection, time_s: float, vote: float) -> Track:
    """The track of a hand that was in doubt or lost, from where it was found."""
    return replace(
        track,
        detection=detection,
        seen_s=time_s,
        velocity_px_s=np.zeros(2),
        right_evidence=float(np.clip(track.right_evidence + vote, -_MOST_EVIDENCE, _MOST_EVIDENCE)),
        confirmed_s=time_s,
        keypoints_px=None,
        landmarks_px=None,
        doubts=0,
        is_lost=False,
    )


def _match(tracks: dict[int, Track], detections: Sequence[Detection]) -> dict[int, int]:
    """Index of a detection -> id of its track: the nearest pair first, then hands that come back where nobody expected them."""
    owner: dict[int, int] = {}
    pairs = []
    for key, track in tracks.items():
        for index, detection in enumerate(detections):
            distance = _distance(track.box_px, detection.box_px)
            is_other_side = track.is_right != detection.is_right and abs(track.right_evidence) >= _SURE_OF_SIDE
            if distance < 1:
                pairs.append((distance + _OTHER_SIDE * is_other_side, key, index))
    for _, key, index in sorted(pairs):
        if key not in owner.values() and index not in owner:
            owner[index] = key
    for is_right in (True, False):
        # A side that is in view already does not come back a second time.
        waiting = [key for key, track in tracks.items() if track.is_right == is_right and key not in owner.values()]
        found = [index for index, detection in enumerate(detections) if detection.is_right == is_right and index not in owner]
        if len(waiting) == len(found) == 1 and tracks[waiting[0]].is_lost:
            owner[found[0]] = waiting[0]
    return owner


def _moved(track: Track, seen: Observation, time_s: float) -> Track:
    """The track after its hand was seen again."""
    track, before = replace(track, keypoints_px=seen.keypoints_px, landmarks_px=seen.landmarks_px, seen_s=time_s, surprise=0.0), track
    if before.keypoints_px is None or time_s <= before.seen_s:
        return track
    shift_px = seen.keypoints_px.mean(axis=0) - before.keypoints_px.mean(axis=0)
    surprise = float(np.linalg.norm(shift_px - before.ahead_px(time_s))) / max(_side_px(before.box_px), 1e-6)
    velocity_px_s = before.velocity_px_s + _NEW_MOTION * (shift_px / (time_s - before.seen_s) - before.velocity_px_s)
    return replace(track, velocity_px_s=velocity_px_s, surprise=surprise)


def _stranger(older: Track, younger: Track) -> Track:
    """Which of two tracks on one hand does not belong there: it looks like the other side, or it jumped, or it came later."""
    if (older.agrees > 0) != (younger.agrees > 0):
        return older if younger.agrees > 0 else younger
    if abs(older.surprise - younger.surprise) > _JUMPED:
        return older if older.surprise > younger.surprise else younger
    return younger


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
