"""Steady hands: One Euro filters on rotations and place, and one shape for the whole life of a track."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from handmesh.geometry.rotation import rotmat_to_rotvec, rotvec_to_rotmat
from handmesh.records import PlacedPose

DEFAULT_SMOOTH = 0.5

# Of the filters at `DEFAULT_SMOOTH`, chosen on rendered clips and a real one (LOG.md): the cutoff of what is still in Hz, how much it rises
# with speed, and the speeds that noise reaches, below which it hardly does. Of joints; of where the hand is seen, then of how far away.
_TURN_HZ, _TURN_HZ_PER_RAD_S, _TREMBLE_RAD_S = 0.15, 30.0, 4.0
_PLACE_HZ, _PLACE_HZ_PER_M_S, _TREMBLE_M_S = np.array([2.5, 0.25]), np.array([40.0, 16.0]), np.array([0.02, 0.1])
# A hand whose keypoints are expected to be off by less is followed more closely: cutoffs grow with the square, up to so many times.
_SURE_M, _MOST_SURE = 0.002, 4.0
# Of the filter of the speed itself.
_SPEED_HZ = 2.0
# The strongest smoothing leaves these shares of the default's cutoffs, of still and of moving hands.
_LEAST_STILL, _LEAST_MOVING = 0.3, 0.25
# A hand that was away for longer starts anew.
_LONGEST_GAP_S = 0.3
# The shape is estimated from frames in which the network is so sure of a hand, and held once they make up so much time.
_SURE_OF_HAND = 0.8
_SHAPE_S = 1.0
# A frame that comes late stands for no more than this.
_LONGEST_FRAME_S = 0.1


class ShapeEstimate:
    """The betas of one track: their mean over its first sure second, held from then on."""

    def __init__(self) -> None:
        self._sum, self._seen_s = np.zeros(10), 0.0

    @property
    def is_held(self) -> bool:
        """No frame changes the shape any more."""
        return self._seen_s >= _SHAPE_S

    def update(self, betas: np.ndarray, presence: float, dt_s: float) -> np.ndarray:
        """Take in a frame.

        Args:
            betas: (10,) that the network saw.
            presence: its probability that there is a hand.
            dt_s: time that the frame stands for.

        Returns:
            (10,) the track's shape.
        """
        if not self.is_held and (presence >= _SURE_OF_HAND or self._seen_s == 0):
            dt_s = float(np.clip(dt_s, 1e-3, _LONGEST_FRAME_S))
            self._sum, self._seen_s = self._sum + dt_s * betas, self._seen_s + dt_s
        return self._sum / self._seen_s


class HandFilter:
    """One Euro filters (Casiez et al., CHI 2012) of one hand: its 16 rotations as rotations, where it is seen, and its distance.

    The cutoffs rise with the square of small speeds rather than with the speed: noise, too, has one. A rotation goes along the shortest way
    to the new one. The place is split into the direction in which the camera sees it and the logarithm of its distance, because one camera
    sees the first far better than the second. The first frames are averaged, so that what the very first one had wrong is soon forgotten.
    """

    def __init__(self) -> None:
        self._state: _State | None = None

    def __call__(self, pose: PlacedPose, time_s: float, smooth: float, spread_m: np.ndarray | None = None) -> PlacedPose:
        """The smoothed pose of the next frame; its betas are those of `pose`.

        Args:
            pose: what was measured.
            time_s: of the frame. After a gap, or where it is not later than the last one, the filter starts anew.
            smooth: 0 changes nothing, 1 smooths most.
            spread_m: (21,) how far off the keypoints are expected to be, metres; None where that is not known.
        """
        place = _place(pose.root_m)
        state = self._state
        dt_s = 0.0 if state is None else time_s - state.time_s
        if state is None or not 0 < dt_s <= _LONGEST_GAP_S or smooth <= 0:
            self._state = _State(time_s, pose.rotmats, place, pose.rotmats, place, np.zeros((16, 3)), np.zeros(3), 1)
            return pose
        sureness = 1.0 if spread_m is None else float(np.clip((_SURE_M / np.median(spread_m)) ** 2, 1.0, _MOST_SURE))
        still, moving = (sureness * strength for strength in _strengths(smooth))
        # From what was measured before, and from what was shown, to what is measured now.
        turns = _turn(np.stack([state.seen_rotmats, state.rotmats]), pose.rotmats)
        # The speed of what is measured, not of what is shown: the lag of the second would pass for motion.
        share = _share(_SPEED_HZ, dt_s)
        spin_rad_s = state.spin_rad_s + share * (turns[0] / dt_s - state.spin_rad_s)
        drift_s = state.drift_s + share * ((place - state.seen_place) / dt_s - state.drift_s)

        turn_hz = still * _TURN_HZ + moving * _TURN_HZ_PER_RAD_S * _above(np.linalg.norm(spin_rad_s, axis=1), _TREMBLE_RAD_S)
        least = 1 / (state.frames + 1)
        rotmats = state.rotmats @ rotvec_to_rotmat(np.maximum(least, _share(turn_hz, dt_s))[:, None] * turns[1])
        speed_m_s = pose.root_m[2] * np.array([np.hypot(drift_s[0], drift_s[1]), abs(drift_s[2])])
        aim_hz, depth_hz = still * _PLACE_HZ + moving * _PLACE_HZ_PER_M_S * _above(speed_m_s, _TREMBLE_M_S)
        shown = state.place + np.maximum(least, _share(np.array([aim_hz, aim_hz, depth_hz]), dt_s)) * (place - state.place)
        self._state = _State(time_s, rotmats, shown, pose.rotmats, place, spin_rad_s, drift_s, state.frames + 1)
        z_m = np.exp(shown[2])
        return replace(pose, rotmats=rotmats, root_m=np.array([shown[0] * z_m, shown[1] * z_m, z_m]))


@dataclass(frozen=True)
class _State:
    """After so many frames: rotations and place as shown and as measured ("seen"), and the filtered speeds of the second."""

    time_s: float
    rotmats: np.ndarray
    place: np.ndarray
    seen_rotmats: np.ndarray
    seen_place: np.ndarray
    spin_rad_s: np.ndarray
    drift_s: np.ndarray
    frames: int


def _strengths(smooth: float) -> tuple[float, float]:
    """Factors of the cutoffs of what is still and of how they rise with speed: 1 by default, without end towards 0."""
    less = (1 - smooth) / smooth
    return less**1.5 + _LEAST_STILL * smooth, less**0.75 + _LEAST_MOVING * smooth


def _share(cutoff_hz: np.ndarray | float, dt_s: float) -> np.ndarray:
    """How far a low-pass filter goes towards a new value (Casiez et al., equation 3)."""
    turns = 2 * np.pi * dt_s * np.asarray(cutoff_hz)
    return turns / (turns + 1)


def _above(speed: np.ndarray, tremble: np.ndarray | float) -> np.ndarray:
    """The speed, but far less of what is below the speed of noise."""
    return speed**2 / (speed + tremble)


def _turn(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(..., 16, 3) rotation vectors from one rotation to the other."""
    return rotmat_to_rotvec(np.swapaxes(start, -1, -2) @ end)


def _place(root_m: np.ndarray) -> np.ndarray:
    """(3,) x / z, y / z and log z."""
    x, y, z = root_m
    return np.array([x / z, y / z, np.log(z)])
