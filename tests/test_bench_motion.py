"""Steadiness, lag and identities: the yardsticks themselves, what they say of a filter, and two hands that cross."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from handmesh.bench import motion as motion_module
from handmesh.bench.motion import CAMERA, FPS, SIZE, Clip, Studio, best_delay
from handmesh.bench.motion_command import SmoothingCommand, TrackingCommand, run_smoothing, run_tracking
from handmesh.errors import UserError
from handmesh.geometry.camera import project
from handmesh.records import Hand, HandParams
from handmesh.synthetic.clip import true_joints_m
from handmesh.synthetic.scripts import crossing_hands, entering_hand, leaving_hand, still_hand, sweeping_hand


@pytest.fixture(scope="module")
def studio(hand_model):
    return Studio(hand_model)


def _shown(model, pose, track_id, is_right=None, shift_m=(0.0, 0.0, 0.0)) -> Hand:
    joints_m = true_joints_m(model, pose) + shift_m
    params = HandParams(pose.rotmats, np.zeros(10), np.array([5.0, 0, 0]), 0.9, 2.0)
    side = pose.is_right if is_right is None else is_right
    points_px = project(joints_m, CAMERA)
    return Hand(joints_m, joints_m, points_px, points_px, np.eye(4), params, np.zeros(4), 0.9, side, track_id)


def _scripted(studio, monkeypatch, answer, script):
    """What the yardstick says of an estimator that answers `answer(frame, poses)`."""

    class Estimator:
        def __init__(self, **_):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def track(self, image_rgb, time_s):
            frame = round(time_s * FPS)
            return answer(frame, script[frame])

    monkeypatch.setattr(motion_module, "HandMeshEstimator", Estimator)
    blank = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    return studio.identities(Clip([blank] * len(script), script), 0.5, 0)


def test_a_delay_is_found_to_a_millisecond():
    times_s = np.arange(150) / 30
    truth = np.abs(times_s % 0.64 - 0.32)
    for delay_s in (0.0, 0.023, 0.08):
        late = 0.1 + 1.2 * np.interp(times_s - delay_s, times_s, truth)
        assert best_delay(times_s, late, times_s, truth) == pytest.approx(delay_s, abs=0.001)


def test_identities_are_counted(studio, hand_model, monkeypatch):
    script = [list(poses) for poses in crossing_hands(studio._surface, 20, crossings=1)]
    ideal = _scripted(studio, monkeypatch, lambda _, poses: [_shown(hand_model, pose, int(pose.is_right)) for pose in poses], script)
    assert (ideal.frames, ideal.swaps, ideal.ids, ideal.wrong_sides, ideal.doubles, ideal.missed, ideal.strays) == (20, 0, 2, 0, 0, 0, 0)

    def exchanged(frame, poses):
        return [_shown(hand_model, pose, int(pose.is_right ^ (frame >= 15))) for pose in poses]

    assert _scripted(studio, monkeypatch, exchanged, script).swaps == 10

    def wrong(frame, poses):
        return [_shown(hand_model, pose, int(pose.is_right), is_right=True) for pose in poses]

    assert _scripted(studio, monkeypatch, wrong, script).wrong_sides == 20

    def renamed(frame, poses):
        return [_shown(hand_model, pose, 2 * (frame // 10) + pose.is_right) for pose in poses]

    assert _scripted(studio, monkeypatch, renamed, script).ids == 4

    def twice(frame, poses):
        return [_shown(hand_model, poses[0], 1), _shown(hand_model, poses[0], 5)]

    found = _scripted(studio, monkeypatch, twice, script)
    # The other hand is hidden in the middle of the clip alone.
    assert found.doubles == 20 and 10 <= found.missed < 20

    def astray(frame, poses):
        return [_shown(hand_model, pose, int(pose.is_right), shift_m=(0.0, -0.2, 0.0)) for pose in poses]

    assert _scripted(studio, monkeypatch, astray, script).strays == 40


def test_delays_run_from_half_a_hand_to_its_first_mesh(studio, hand_model, monkeypatch):
    script = list(entering_hand(studio._surface, 30, FPS, 0.5))
    opens = next(
        frame
        for frame, poses in enumerate(script)
        if len(poses) > 1
        and motion_module._visible_share(1, [project(true_joints_m(hand_model, pose), CAMERA) for pose in poses], poses) >= 0.5
    )

    def delays(is_shown):
        shown = lambda frame, poses: [_shown(hand_model, pose, int(pose.is_right)) for pose in poses if is_shown(frame, pose.is_right)]  # noqa: E731
        return _scripted(studio, monkeypatch, shown, script).delays

    # The hand that is there from the start is not awaited, whenever it is shown.
    assert delays(lambda frame, is_right: not is_right or frame > 20) == (0,)
    assert delays(lambda frame, is_right: is_right or frame >= opens + 4) == (4,)
    assert delays(lambda frame, is_right: is_right) == (30 - opens,)
    # One that hides before it is shown is awaited anew.
    hiding = [*script[: opens + 1], *[poses[:1] for poses in script[opens + 1 : 25]], *script[25:]]
    script = hiding
    assert delays(lambda frame, is_right: is_right or frame >= 27) == (2,)


def test_scripts_do_what_they_say(studio):
    surface = studio._surface
    (one,) = {tuple(moment[0].place_m) for moment in still_hand(surface, 5)}
    assert one[2] == 0.5
    places_m = np.array([moment[0].place_m for moment in sweeping_hand(surface, 60, FPS, 1.0, axis=2)])
    speeds_m_s = np.abs(np.diff(places_m[:, 2])) * FPS
    # But where it turns round.
    assert np.median(speeds_m_s) == pytest.approx(1.0) and np.ptp(places_m[:, 0]) == 0 and np.ptp(places_m[:, 2]) > 0.3
    crossing = crossing_hands(surface, 50, crossings=2)
    order = [np.sign(right.place_m[0] - left.place_m[0]) for right, left in crossing]
    assert order[0] == order[-1] == -order[25]
    assert [len(moment) for moment in leaving_hand(surface, 90, FPS)].count(1) == pytest.approx(30, abs=2)
    for side, axis, sign in ((0, 0, -1), (1, 0, 1), (2, 1, 1)):
        entering = list(entering_hand(surface, 60, FPS, 1.0, side))
        ways_m = np.array([moment[1].place_m for moment in entering if len(moment) > 1])
        assert [len(moment) for moment in entering[:25]] == [1] * 25 and len(entering[-1]) == 2
        assert sign * (ways_m[0] - ways_m[-1])[axis] > 0.25 and not entering[-1][1].is_right and entering[-1][0].is_right
        assert entering[-1][0].place_m[0] * entering[-1][1].place_m[0] < 0


def test_two_hands_that_cross_keep_their_identities(studio, monkeypatch):
    monkeypatch.setattr(motion_module, "_CROSSING_FRAMES", 75)
    found = studio.identities(studio.crossing(0), 0.5, 0)
    assert (found.swaps, found.ids, found.wrong_sides, found.doubles, found.strays) == (0, 2, 0, 0, 0)
    assert found.missed < 15


def test_a_still_hand_is_steadier_and_still_in_time(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(motion_module, "_STILL_FRAMES", 100)
    monkeypatch.setattr(motion_module, "STILL_POSES", ("open", "relaxed"))
    monkeypatch.setattr(motion_module, "_SWEEP_FRAMES", 60)
    report = run_smoothing(SmoothingCommand((0.0, 0.5), tmp_path))
    off, default = report.rows
    assert default["worst_jitter_mm"] >= default["jitter_mm"]
    assert default["jitter_mm"] < off["jitter_mm"] / 2 and default["relative_jitter_mm"] < off["relative_jitter_mm"]
    assert abs(off["lag_ms"]) < 10 and default["lag_ms"] < 40 and default["depth_lag_ms"] < 40
    assert json.loads((tmp_path / "smoothing.json").read_text())["rows"] == report.rows
    assert (tmp_path / "smoothing.png").stat().st_size > 10_000
    assert "lag ms" in capsys.readouterr().out


def test_a_table_of_identities_is_written(tmp_path, monkeypatch, capsys):
    row = motion_module.Identities(150, 0, 2, 0, 0, 3, 0)
    monkeypatch.setattr(Studio, "crossing", lambda self, seed: None)
    monkeypatch.setattr(Studio, "leaving", lambda self, seed: None)
    monkeypatch.setattr(Studio, "entering", lambda self, seed: None)
    monkeypatch.setattr(Studio, "identities", lambda self, clip, smooth, seed: replace(row, missed=seed, delays=(3 * seed, 6)[: seed + 1]))
    report = run_tracking(TrackingCommand(2, 0.5, tmp_path))
    assert [(each["clip"], each["missed"]) for each in report.rows] == [
        ("crossing 0", 0),
        ("crossing 1", 1),
        ("leaving 0", 0),
        ("leaving 1", 1),
        ("entering 0", 0),
        ("entering 1", 1),
    ]
    assert [each["latest_ms"] for each in report.rows[:2]] == [0, 200]
    written = json.loads((tmp_path / "tracking.json").read_text())
    assert written["rows"][1]["delays"] == [3, 6] and written["notes"] == report.notes
    said = capsys.readouterr().out
    assert "crossing 0" in said and "entering: 3 hands came into the open and were shown 100 ms later (median; 200 ms at worst)." in said


@pytest.mark.parametrize(
    ("run", "says"),
    [
        (lambda out: run_smoothing(SmoothingCommand((), out)), "got none"),
        (lambda out: run_smoothing(SmoothingCommand((1.5,), out)), "got 1.5"),
        (lambda out: run_tracking(TrackingCommand(0, 0.5, out)), "--clips"),
        (lambda out: run_tracking(TrackingCommand(1, -1.0, out)), "--smooth"),
    ],
)
def test_wrong_settings_are_one_line(run, says, tmp_path):
    with pytest.raises(UserError, match=says):
        run(tmp_path)
