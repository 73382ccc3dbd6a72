"""Whose hand is whose from frame to frame, and which side each one is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from handmesh.records import Detection, HandParams

# A track survives this long without a detection.
_PATIENCE_S = 0.5
# How much of the evidence for a side is kept from frame to frame.
_MEMORY = 0.9
# The network's vote on the side counts this much of the detector's.
_NETWORK_VOTE = 0.5


@dataclass(frozen=True)
class Track:
    """One hand over time.

    Attributes:
        id: stays with the hand.
        detection: the newest.
        seen_s: when it was detected last.
        right_evidence: summed votes; positive for a right hand.
    """

    id: int
    detection: Detection
    seen_s: float
    right_evidence: float

    @property
    def is_right(self) -> bool:
        """The current belief, by which crops are mirrored."""
        return self.right_evidence >= 0


class Tracker:
    """Gives detections their identities: the nearest pair first, never farther apart than a hand's own size."""

    def __init__(self) -> None:
        self._tracks: dict[int, Track] = {}
        self._next_id = 0

    def update(self, detections: Sequence[Detection], time_s: float) -> list[Track]:
        """Assign the detections of one frame.

        Args:
            detections: of this frame.
            time_s: its time; not before that of the last call.

        Returns:
            One track for each detection, in the same order.
        """
        alive = {key: track for key, track in self._tracks.items() if time_s - track.seen_s <= _PATIENCE_S}
        pairs = sorted(
            (_distance(track.detection, detection), key, index)
            for key, track in alive.items()
            for index, detection in enumerate(detections)
        )
        owner: dict[int, int] = {}
        for distance, key, index in pairs:
            if distance < 1 and key not in owner.values() and index not in owner:
                owner[index] = key
        tracks = []
        for index, detection in enumerate(detections):
            vote = detection.score if detection.is_right else -detection.score
            if index in owner:
                old = alive[owner[index]]
                track = replace(old, detection=detection, seen_s=time_s, right_evidence=_MEMORY * old.right_evidence + vote)
            else:
                track = Track(self._next_id, detection, time_s, vote)
                self._next_id += 1
            tracks.append(track)
        self._tracks = alive | {track.id: track for track in tracks}
        return tracks

    def vote(self, track: Track, params: HandParams) -> None:
        """Let the network say whether the crop, mirrored by the track's belief, looked like a right hand."""
        looks_as_believed = np.tanh(params.right_logit / 2)
        vote = _NETWORK_VOTE * float(looks_as_believed) * (1 if track.is_right else -1)
        newest = self._tracks[track.id]
        self._tracks[track.id] = replace(newest, right_evidence=newest.right_evidence + vote)


def _distance(a: Detection, b: Detection) -> float:
    """Distance of two boxes' middles over the larger of their sides: 1 is about a hand's length."""

    def middle(detection: Detection) -> np.ndarray:
        return (detection.box_px[:2] + detection.box_px[2:]) / 2

    sides = np.concatenate([a.box_px[2:] - a.box_px[:2], b.box_px[2:] - b.box_px[:2]])
    return float(np.linalg.norm(middle(a) - middle(b)) / max(sides.max(), 1e-6))
