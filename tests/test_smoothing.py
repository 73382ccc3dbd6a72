"""Filters: what is still gets steady, what moves is not late, and rotations stay rotations."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from handmesh.geometry.rotation import rotmat_to_rotvec, rotvec_to_rotmat
from handmesh.records import PlacedPose
from handmesh.smoothing import DEFAULT_SMOOTH, HandFilter, ShapeEstimate

FPS = 30.0
STILL = PlacedPose(rotvec_to_rotmat(np.random.default_rng(3).normal(0, 0.7, (16, 3))), np.zeros(10), np.array([0.1, -0.05, 0.5]), True)


def _filtered(poses: list[PlacedPose], smooth: float, fps: float = FPS) -> list[PlacedPose]:
    hand_filter = HandFilter()
    return [hand_filter(pose, frame / fps, smooth) for frame, pose in enumerate(poses)]


def _noisy(count: int, turn_rad: float = 0.02, place_m: float = 0.001, seed: int = 0) -> list[PlacedPose]:
    rng = np.random.default_rng(seed)
    return [
        replace(
            STILL,
            rotmats=STILL.rotmats @ rotvec_to_rotmat(rng.normal(0, turn_rad, (16, 3))),
            root_m=STILL.root_m + rng.normal(0, place_m, 3),
        )
        for _ in range(count)
    ]


def _spread(poses: list[PlacedPose]) -> tuple[float, float]:
    """Root mean square of turns (rad) and of places (m) about the mean."""
    turns = np.array([rotmat_to_rotvec(np.swapaxes(STILL.rotmats, -1, -2) @ pose.rotmats) for pose in poses])
    places = np.array([pose.root_m for pose in poses])
    return float(turns.std(axis=0).mean()), float(places.std(axis=0).mean())


def test_no_smoothing_changes_nothing():
    poses = _noisy(20)
    assert all(one is other for one, other in zip(_filtered(poses, 0.0), poses, strict=True))


def test_more_smoothing_is_steadier():
    poses = _noisy(300)
    spreads = [_spread(_filtered(poses, smooth)[90:]) for smooth in (0.0, 0.25, DEFAULT_SMOOTH, 0.75, 1.0)]
    for less, more in itertools.pairwise(spreads):
        assert more[0] < less[0] and more[1] < less[1]
    # 0.02 rad and 1 mm are more than heads waver by, but noise, not motion.
    assert spreads[2][0] < spreads[0][0] / 2 and spreads[2][1] < spreads[0][1] / 2
    # What a head's joints waver by at most (LOG.md): to a third and less.
    shaky, steady = (_spread(_filtered(_noisy(300, 0.006), smooth)[90:]) for smooth in (0.0, DEFAULT_SMOOTH))
    assert steady[0] < shaky[0] / 3


def test_a_hand_that_is_surely_seen_is_followed_more_closely():
    poses = _noisy(300)
    spreads = []
    for spread_mm in (None, 8.0, 2.0, 1.2, 0.5):
        hand_filter, spread_m = HandFilter(), None if spread_mm is None else np.full(21, 1e-3 * spread_mm)
        spreads.append(_spread([hand_filter(pose, frame / FPS, DEFAULT_SMOOTH, spread_m) for frame, pose in enumerate(poses)][90:]))
    assert spreads[0] == spreads[1] == spreads[2]
    for less, more in itertools.pairwise(spreads[2:]):
        assert more[0] > less[0] and more[1] > less[1]


@pytest.mark.parametrize("fps", [30.0, 60.0])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_hand_at_one_metre_a_second_is_hardly_late(axis: int, fps: float):
    start_m, velocity_m_s = np.array([0.0, 0.0, 0.5]), np.eye(3)[axis]
    poses = [replace(STILL, root_m=start_m + frame / fps * velocity_m_s) for frame in range(round(fps / 2))]
    late_m = (poses[-1].root_m - _filtered(poses, DEFAULT_SMOOTH, fps)[-1].root_m)[axis]
    assert 0 < late_m < 0.040


def test_a_finger_that_bends_fast_is_hardly_late():
    speed_rad_s = 8.0
    turns = np.zeros((15, 16, 3))
    turns[:, 2, 2] = speed_rad_s * np.arange(15) / FPS
    poses = [replace(STILL, rotmats=STILL.rotmats @ rotvec_to_rotmat(turn)) for turn in turns]
    last = _filtered(poses, DEFAULT_SMOOTH)[-1]
    late_rad = np.linalg.norm(rotmat_to_rotvec(last.rotmats[2].T @ poses[-1].rotmats[2]))
    assert 0 < late_rad / speed_rad_s < 0.040
    # The others did not move.
    assert np.allclose(last.rotmats[5], STILL.rotmats[5])


def test_a_spinning_hand_is_followed_all_the_way_round():
    """Filters on rotation vectors or angles jump where they wrap around."""
    spin = np.array([0.0, 0.0, 1.0]) * 2 * np.pi * 1.2 / FPS
    poses = [replace(STILL, rotmats=rotvec_to_rotmat(frame * spin) @ STILL.rotmats) for frame in range(90)]
    shown = _filtered(poses, DEFAULT_SMOOTH)
    for pose, one in zip(poses, shown, strict=True):
        assert np.linalg.norm(rotmat_to_rotvec(one.rotmats[0].T @ pose.rotmats[0])) < 0.6
        assert np.allclose(one.rotmats @ np.swapaxes(one.rotmats, -1, -2), np.eye(3), atol=1e-9)


def test_turning_the_camera_turns_the_result():
    """Law: rotations are filtered as rotations, whatever the axes are."""
    turn = rotvec_to_rotmat(np.array([0.4, -1.1, 2.0]))
    poses = _noisy(40, turn_rad=0.2)
    turned = [replace(pose, rotmats=np.concatenate([turn @ pose.rotmats[:1], pose.rotmats[1:]])) for pose in poses]
    for one, other in zip(_filtered(poses, 0.7), _filtered(turned, 0.7), strict=True):
        assert np.allclose(turn @ one.rotmats[0], other.rotmats[0], atol=1e-9)


def test_a_hand_that_was_away_starts_anew():
    hand_filter = HandFilter()
    for frame in range(10):
        hand_filter(STILL, frame / FPS, 1.0)
    elsewhere = replace(STILL, root_m=STILL.root_m + (0.004, 0, 0))
    assert hand_filter(elsewhere, 10 / FPS, 1.0).root_m[0] < STILL.root_m[0] + 0.001
    assert hand_filter(elsewhere, 10 / FPS + 1.0, 1.0) is elsewhere
    # So does one whose clock was set back.
    assert hand_filter(STILL, 0.0, 1.0) is STILL


def test_what_the_first_frame_had_wrong_is_soon_forgotten():
    wrong = replace(STILL, rotmats=STILL.rotmats @ rotvec_to_rotmat(np.full((16, 3), 0.05)), root_m=STILL.root_m + (0.0, 0.0, 0.005))
    shown = _filtered([wrong] + [STILL] * 29, 1.0)[-1]
    # As in a mean of 30 frames.
    assert 0 < shown.root_m[2] - STILL.root_m[2] < 0.005 / 20
    assert np.linalg.norm(rotmat_to_rotvec(np.swapaxes(STILL.rotmats, -1, -2) @ shown.rotmats), axis=1).max() < 0.05 * 3**0.5 / 20


def test_the_shape_is_the_mean_of_a_sure_second_and_then_held():
    shape, rng = ShapeEstimate(), np.random.default_rng(0)
    seen = rng.normal(size=(60, 10))
    shapes = [shape.update(betas, 0.95, 1 / FPS) for betas in seen]
    assert np.allclose(shapes[9], seen[:10].mean(axis=0))
    assert not np.allclose(shapes[20], shapes[28])
    assert shape.is_held and (shapes[31] == shapes[59]).all()
    assert np.allclose(shapes[59], seen[:31].mean(axis=0), atol=0.05)


def test_what_the_network_doubts_does_not_shape_the_hand():
    shape = ShapeEstimate()
    sure = np.ones(10)
    shape.update(sure, 0.95, 1 / FPS)
    for _ in range(50):
        betas = shape.update(-5 * sure, 0.6, 1 / FPS)
    assert np.allclose(betas, sure) and not shape.is_held
    # A first frame has to do, however doubtful.
    assert np.allclose(ShapeEstimate().update(sure, 0.55, np.inf), sure)
