"""How long FreiHAND's metrics take for 3,960 hands, beside two loops over hands in the same run.

    python tools/time_metrics.py [--hands 3960] [--loop-hands 60] [--repeats 3]

Hands are the open hand in random poses (778 vertices), predictions are off by about 8 mm, as a network's are. The loops, over fewer hands
and scaled up: "plain" is tests/slow_freihand_metric.py, one hand, keypoint and threshold at a time; "one hand at a time" does with numpy
and SciPy's trees what FreiHAND's script does, a hand after the other. Runs are interleaved; medians are printed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.linalg import orthogonal_procrustes
from scipy.spatial import KDTree

from handmesh.cli import guard
from handmesh.errors import UserError
from handmesh.evaluation.metrics import F_THRESHOLDS_M, PCK_THRESHOLDS_M
from handmesh.evaluation.records import EvaluationSet, Predictions
from handmesh.evaluation.scores import score
from handmesh.geometry.rotation import rotvec_to_rotmat
from handmesh.hand_model import load_hand_model
from handmesh.hand_model.skinning import skin

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from slow_freihand_metric import official_scores  # pyright: ignore[reportMissingImports]

_NOISE_RAD = 0.12


def make_hands(count: int) -> tuple[EvaluationSet, Predictions]:
    """Random hands half a metre away, and predictions of them."""
    model, rng = load_hand_model("open"), np.random.default_rng(0)
    rotvecs = rng.normal(0, 0.3, (count, 16, 3))
    betas = rng.normal(0, 1, (count, 10))
    clouds = []
    for noise_rad in (0.0, _NOISE_RAD):
        rotmats = rotvec_to_rotmat(rotvecs + noise_rad * rng.normal(size=rotvecs.shape))
        vertices_m = np.stack([skin(model, *params) for params in zip(rotmats, betas, strict=True)]).astype(np.float64) + (0, 0, 0.5)
        clouds.append((np.stack([model.joints(points_m) for points_m in vertices_m]).astype(np.float64), vertices_m))
    (joints_m, vertices_m), (our_joints_m, our_vertices_m) = clouds
    data = EvaluationSet("made", joints_m, None, None, vertices_m, model.id)
    return data, Predictions(our_joints_m, our_vertices_m, model.id)


def first(data: EvaluationSet, predictions: Predictions, count: int) -> tuple[np.ndarray, ...]:
    """Predicted joints and vertices, true joints and vertices of the first hands."""
    assert predictions.vertices_m is not None and data.vertices_m is not None
    return tuple(points_m[:count] for points_m in (predictions.joints_m, predictions.vertices_m, data.joints_m, data.vertices_m))


def one_at_a_time(ours_m: np.ndarray, our_mesh_m: np.ndarray, true_m: np.ndarray, true_mesh_m: np.ndarray) -> dict[str, float]:
    """FreiHAND's twelve numbers, one hand after the other."""
    scores = {}
    for name, ours, true in (("xyz", ours_m, true_m), ("mesh", our_mesh_m, true_mesh_m)):
        aligned = np.array([_align(one, other) for one, other in zip(ours, true, strict=True)])
        for key, points in (("", ours), ("al_", aligned)):
            errors_m = np.array([np.linalg.norm(one - other, axis=1) for one, other in zip(points, true, strict=True)])
            scores[f"{name}_{key}mean3d"] = 100 * errors_m.mean()
            curves = np.array([[np.mean(joint <= threshold) for threshold in PCK_THRESHOLDS_M] for joint in errors_m.T])
            scores[f"{name}_{key}auc3d"] = float(((curves[:, 1:] + curves[:, :-1]) / 2).sum(axis=1).mean() / (len(PCK_THRESHOLDS_M) - 1))
    for threshold_m in F_THRESHOLDS_M:
        for key, move in (("f_score", lambda one, other: one), ("f_al_score", _align)):
            values = [_f(move(one, other), other, threshold_m) for one, other in zip(our_mesh_m, true_mesh_m, strict=True)]
            scores[f"{key}_{round(1e3 * threshold_m)}"] = float(np.mean(values))
    return scores


def _align(ours: np.ndarray, true: np.ndarray) -> np.ndarray:
    a, b = true - true.mean(axis=0), ours - ours.mean(axis=0)
    a_norm, b_norm = np.linalg.norm(a) + 1e-8, np.linalg.norm(b) + 1e-8
    rotation, scale = orthogonal_procrustes(a / a_norm, b / b_norm)
    return b / b_norm @ rotation.T * scale * a_norm + true.mean(axis=0)


def _f(ours: np.ndarray, true: np.ndarray, threshold: float) -> float:
    precision = float(np.mean(KDTree(true).query(ours)[0] < threshold))
    recall = float(np.mean(KDTree(ours).query(true)[0] < threshold))
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def timed(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="time_metrics", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hands", type=int, default=3960)
    parser.add_argument("--loop-hands", type=int, default=60, help="hands that the loops go over; their times are scaled up")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args(argv)
    if min(arguments.hands, arguments.loop_hands, arguments.repeats) < 1 or arguments.loop_hands > arguments.hands:
        raise UserError("expected --hands, --loop-hands and --repeats from 1 on, and no more loop hands than hands; leave them out")
    data, predictions = make_hands(arguments.hands)
    few = first(data, predictions, arguments.loop_hands)
    up = arguments.hands / arguments.loop_hands
    works = {
        "handmesh, every metric": (1.0, lambda: score(predictions, data)),
        "one hand at a time, the official twelve": (up, lambda: one_at_a_time(*few)),
        "plain, the official twelve": (up, lambda: official_scores(*few)),
    }
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(arguments.repeats):
        for name, (scale, work) in works.items():
            times[name].append(scale * timed(work))
    medians = {name: statistics.median(values) for name, values in times.items()}
    ours_s = medians["handmesh, every metric"]
    table = Table(title=f"{arguments.hands} hands, median of {arguments.repeats}", title_justify="left")
    for heading in ("", "seconds", "times handmesh"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, seconds in medians.items():
        table.add_row(name, f"{seconds:.1f}", f"{seconds / ours_s:.1f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    sys.exit(guard("time_metrics", main))
