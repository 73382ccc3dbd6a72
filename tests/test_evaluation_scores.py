"""The benchmark's numbers: equal to a slow second statement of them, and to what geometry says they must be."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import slow_freihand_metric
from scipy.spatial.transform import Rotation

from handmesh.errors import UserError
from handmesh.evaluation import metrics
from handmesh.evaluation.records import EvaluationSet, Predictions
from handmesh.evaluation.scores import METRIC, METRICS, OFFICIAL, official_text, proper_name, score, scores_to_json, why_missing
from handmesh.geometry.alignment import fit_similarity
from handmesh.skeleton import JOINTS, ROOT

HANDS, VERTICES = 12, 60


def make_set(rng: np.random.Generator, count: int = HANDS, **changes) -> EvaluationSet:
    """Point clouds the size of hands, half a metre away."""
    middle_m = np.column_stack([rng.uniform(-0.05, 0.05, (count, 2)), rng.uniform(0.4, 0.7, count)])
    vertices_m = middle_m[:, None] + rng.normal(0, 0.03, (count, VERTICES, 3))
    joints_m = middle_m[:, None] + rng.normal(0, 0.03, (count, len(JOINTS), 3))
    K = np.tile(np.array([[480.0, 0, 111], [0, 490, 113], [0, 0, 1]]), (count, 1, 1))
    data = EvaluationSet("clouds", joints_m, K, None, vertices_m, "clouds")
    return dataclasses.replace(data, **changes)


def predictions_of(data: EvaluationSet, move) -> Predictions:
    assert data.vertices_m is not None
    return Predictions(move(data.joints_m), move(data.vertices_m), data.topology)


def noisy(sd_m: float, rng: np.random.Generator):
    return lambda points_m: points_m + rng.normal(0, sd_m, points_m.shape)


MOVES = {
    "random": lambda rng: lambda points_m: rng.normal(0, 0.05, points_m.shape),
    "noisy": lambda rng: noisy(0.006, rng),
    "nearly right": lambda rng: noisy(0.0005, rng),
    "scaled": lambda rng: lambda points_m: noisy(0.004, rng)(1.7 * points_m),
    "mirrored": lambda rng: lambda points_m: noisy(0.003, rng)(points_m * (-1, 1, 1)),
    "root-relative": lambda rng: lambda points_m: noisy(0.003, rng)(points_m - points_m.mean(axis=1, keepdims=True)),
    "all one point": lambda rng: lambda points_m: np.zeros_like(points_m),
}


@pytest.mark.parametrize("kind", MOVES)
def test_official_numbers_equal_the_slow_statement(kind):
    rng = np.random.default_rng(4)
    data = make_set(rng)
    predictions = predictions_of(data, MOVES[kind](rng))
    ours = score(predictions, data).official
    slow = slow_freihand_metric.official_scores(predictions.joints_m, predictions.vertices_m, data.joints_m, data.vertices_m)
    assert list(ours) == list(OFFICIAL) and set(slow) == set(ours)
    for key, value in slow.items():
        assert ours[key] == pytest.approx(value, abs=1e-9), key


def test_a_moved_turned_and_scaled_copy_has_no_aligned_error():
    rng = np.random.default_rng(0)
    data = make_set(rng)
    rotmats = Rotation.random(HANDS, random_state=1).as_matrix()
    predictions = predictions_of(data, lambda points_m: 0.6 * points_m @ rotmats.swapaxes(1, 2) + (0.1, 0.2, 0.9))
    scores = score(predictions, data)
    for name in ("pa_mpjpe_mm", "pa_mpvpe_mm", "pa_mpjpe_proper_mm", "pa_mpvpe_proper_mm"):
        assert scores.mean(name) < 1e-4
    assert scores.mean("f_5mm_aligned") == 1 and scores.mean("auc_joints_aligned_proper") == pytest.approx(1, abs=0.01)
    assert scores.mean("mpjpe_root_mm") > 10 and not scores.warnings


def test_a_mirrored_hand_is_found_out():
    data = make_set(np.random.default_rng(1))
    scores = score(predictions_of(data, lambda points_m: points_m * (-1, 1, 1)), data)
    assert scores.mean("pa_mpjpe_mm") < 1e-4 and scores.mean("f_5mm_aligned") == 1
    assert scores.mean("pa_mpjpe_proper_mm") > 5 and scores.mean("f_5mm_aligned_proper") < 0.9
    assert any("mirrors 12 of 12" in warning for warning in scores.warnings)


def test_twins_are_the_same_where_nothing_mirrors():
    rng = np.random.default_rng(2)
    data = make_set(rng)
    scores = score(predictions_of(data, noisy(0.003, rng)), data)
    for name in OFFICIAL.values():
        if proper_name(name) in METRIC:
            np.testing.assert_allclose(scores.samples[name], scores.samples[proper_name(name)], rtol=1e-5, atol=1e-7)


def test_shifts_are_measured_where_they_belong():
    data = make_set(np.random.default_rng(3))
    shift_m = np.array([0.003, 0.0, 0.004])
    scores = score(predictions_of(data, lambda points_m: points_m + shift_m), data)
    for name in ("mpjpe_root_mm", "mpvpe_root_mm", "mpjpe_wrist_mm", "mpvpe_wrist_mm"):
        assert scores.mean(name) == pytest.approx(0, abs=1e-9)
    for name in ("translation_mm", "mpjpe_camera_mm", "mpvpe_camera_mm"):
        assert scores.mean(name) == pytest.approx(5, abs=1e-9)
    assert scores.mean("depth_mm") == pytest.approx(4, abs=1e-9)


def test_one_wrong_joint_is_named():
    data = make_set(np.random.default_rng(3))
    tip = JOINTS.index("index_tip")
    joints_m = data.joints_m.copy()
    joints_m[:, tip] += (0, 0.021, 0)
    scores = score(Predictions(joints_m), data)
    assert scores.joint_errors_root_mm[tip] == pytest.approx(21) and np.delete(scores.joint_errors_root_mm, tip).max() < 1e-9
    assert scores.mean("mpjpe_root_mm") == pytest.approx(1)
    assert max(scores.finger_errors_mm, key=scores.finger_errors_mm.__getitem__) == "index"


def test_pixels_are_those_of_the_camera():
    data = make_set(np.random.default_rng(5))
    depth_m = data.joints_m[..., 2:]
    joints_m = data.joints_m + np.concatenate([4 * depth_m / 480, 3 * depth_m / 490, 0 * depth_m], axis=2)
    scores = score(Predictions(joints_m), data)
    assert scores.mean("keypoints_px") == pytest.approx(5)
    pixels = metrics.projected(data.joints_m, data.cameras())
    np.testing.assert_allclose(scores.samples["keypoints_share"], 5 / np.ptp(pixels, axis=1).max(axis=1))


def test_a_mesh_of_another_topology_has_no_twins():
    rng = np.random.default_rng(6)
    data = make_set(rng)
    assert data.vertices_m is not None
    order = rng.permutation(VERTICES)
    other = Predictions(data.joints_m.copy(), data.vertices_m[:, order], "another")
    scores = score(other, data)
    assert scores.mean("pa_mpvpe_mm") is None and scores.pck_vertices is None and scores.f_alignment == "joints"
    assert why_missing("pa_mpvpe_mm", scores.f_alignment) == "n/a (topology)" and why_missing("keypoints_px", "joints") == "n/a"
    alone = score(Predictions(data.joints_m.copy()), data)
    assert "mesh_al_mean3d: n/a (no mesh)" in official_text(alone) and "xyz_al_mean3d: 0.000000" in official_text(alone)
    # The same cloud in another order: F sees no difference.
    assert scores.mean("f_5mm") == 1 and scores.mean("f_5mm_aligned") == pytest.approx(1)
    assert "mesh_al_mean3d: n/a (topology)" in official_text(scores) and "f_al_score_5: 1.000000" in official_text(scores)
    fewer = score(Predictions(data.joints_m.copy(), data.vertices_m[:, : VERTICES // 2], "another"), data)
    assert 0.5 < fewer.mean("f_5mm") < 1


def test_topology_only_saves_time():
    rng = np.random.default_rng(7)
    truth_m = rng.normal(0, 0.03, (5, 200, 3))
    for sd_m in (0.001, 0.006, 0.02):
        ours_m = truth_m + rng.normal(0, sd_m, truth_m.shape)
        known, unknown = (metrics.f_scores(ours_m, truth_m, same_topology=same) for same in (True, False))
        np.testing.assert_array_equal(known, unknown)


def test_pck_counts_its_thresholds():
    # An error on a threshold counts for it, one above it does not.
    on = metrics.PCK_THRESHOLDS_M[[0, 40, 99]]
    curve = metrics.pck_curve(on[:, None])
    assert curve[0] == pytest.approx(1 / 3) and curve[39] == pytest.approx(1 / 3) and curve[40] == pytest.approx(2 / 3) and curve[99] == 1
    assert metrics.pck_curve(np.nextafter(on, 1)[:, None])[40] == pytest.approx(1 / 3)
    area = np.trapezoid if hasattr(np, "trapezoid") else np.trapz
    errors_m = np.random.default_rng(8).gamma(2, 0.01, (50, 21))
    expected = area(metrics.pck_curve(errors_m), metrics.PCK_THRESHOLDS_M) / 0.05
    assert metrics.pck_auc(errors_m).mean() == pytest.approx(expected, abs=1e-12)


def test_f_is_of_both_ways():
    line_m = np.stack([np.arange(8) * 0.125, np.zeros(8), np.zeros(8)], axis=1)[None]
    # All of four points are near, half of eight: 2 * 1 * 0.5 / 1.5.
    assert metrics.f_scores(line_m[:, :4], line_m, (0.01,))[0, 0] == pytest.approx(2 / 3)
    assert metrics.f_scores(line_m, line_m[:, :4], (0.01,))[0, 0] == pytest.approx(2 / 3)
    assert metrics.f_scores(line_m[:, :4] + 10, line_m, (0.01,))[0, 0] == 0


def test_distances_at_the_threshold_of_f_do_not_count():
    truth_m = np.zeros((1, 1, 3))
    for offset, expected in ((0.005, 0.0), (np.nextafter(0.005, 0), 1.0)):
        assert metrics.f_scores(truth_m + (offset, 0, 0), truth_m, (0.005,))[0, 0] == expected


def test_acceleration_belongs_to_videos():
    rng = np.random.default_rng(9)
    count, rate_hz = 20, 25.0
    sequence = np.repeat([0, 1], count // 2)
    data = make_set(rng, count, sequence=sequence, rate_hz=rate_hz)
    time_s = np.arange(count) / rate_hz
    # A jump between the videos is no acceleration, nor is a constant speed.
    steady = data.joints_m + (0.3 * time_s + sequence)[:, None, None]
    assert score(Predictions(steady), data).acceleration_mm_s2 == pytest.approx(0, abs=1e-6)
    pushed = data.joints_m + np.array([1.0, 0, 0]) * (0.5 * 2.0 * time_s**2)[:, None, None]
    assert score(Predictions(pushed), data).mean("acceleration_mm_s2") == pytest.approx(2000)
    assert score(Predictions(steady), dataclasses.replace(data, sequence=None)).acceleration_mm_s2 is None


def test_a_similarity_says_whether_it_mirrors():
    rng = np.random.default_rng(10)
    points = rng.normal(size=(4, 30, 3))
    mirrored = points * np.array([1, 1, -1])
    assert fit_similarity(mirrored, points, may_mirror=True).mirrors.all()
    assert not fit_similarity(mirrored, points).mirrors.any() and not fit_similarity(points, points, may_mirror=True).mirrors.any()


def test_blocks_do_not_show(monkeypatch):
    rng = np.random.default_rng(11)
    data = make_set(rng, 23)
    predictions = predictions_of(data, noisy(0.01, rng))
    whole = score(predictions, data)
    monkeypatch.setattr("handmesh.evaluation.scores._BLOCK", 5)
    parts = score(predictions, data)
    for metric in METRICS:
        assert parts.mean(metric.name) == pytest.approx(whole.mean(metric.name)) if whole.mean(metric.name) is not None else True
    np.testing.assert_allclose(parts.pck_joints, whole.pck_joints)
    np.testing.assert_allclose(parts.joint_errors_mm, whole.joint_errors_mm)


@pytest.mark.parametrize("what", ["joints_m", "vertices_m"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused_with_their_index(what, value):
    data = make_set(np.random.default_rng(12))
    predictions = predictions_of(data, np.copy)
    getattr(predictions, what)[7, 3, 1] = value
    with pytest.raises(UserError, match="prediction 7"):
        score(predictions, data)


def test_another_number_of_hands_is_refused():
    data = make_set(np.random.default_rng(12))
    with pytest.raises(UserError, match=r"\(12, 21, 3\).*\(11, 21, 3\)"):
        score(Predictions(data.joints_m[1:]), data)


def test_the_file_of_scores_holds_every_hand():
    rng = np.random.default_rng(13)
    data = make_set(rng)
    scores = score(predictions_of(data, noisy(0.01, rng)), data)
    values = scores_to_json("mine", scores, data)
    assert set(values["samples"]) == {metric.name for metric in METRICS} - {"acceleration_mm_s2"}
    for name, samples in values["samples"].items():
        assert len(samples) == HANDS and np.mean(samples) == pytest.approx(values["scores"][name])
    assert values["official"]["xyz_al_mean3d"] == pytest.approx(values["scores"]["pa_mpjpe_mm"] / 10)
    assert values["joint_errors_mm"][JOINTS[ROOT]] == pytest.approx(scores.joint_errors_mm[ROOT])


def test_the_official_file_has_its_keys_in_order():
    rng = np.random.default_rng(14)
    data = make_set(rng)
    lines = official_text(score(predictions_of(data, noisy(0.01, rng)), data)).splitlines()
    assert [line.split(": ")[0] for line in lines] == [
        "xyz_mean3d",
        "xyz_auc3d",
        "xyz_al_mean3d",
        "xyz_al_auc3d",
        "mesh_mean3d",
        "mesh_auc3d",
        "mesh_al_mean3d",
        "mesh_al_auc3d",
        "f_score_5",
        "f_al_score_5",
        "f_score_15",
        "f_al_score_15",
    ]
    assert all(len(line.split(": ")[1].split(".")[1]) == 6 for line in lines)
