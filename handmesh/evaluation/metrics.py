"""The measures of hands, vectorised over all of them. Metres in and out; `scores` puts them together.

The official alignment and counts are those of FreiHAND's evaluation script (Zimmermann et al. 2019, eval.py and utils/eval_util.py),
written anew; tests/slow_freihand_metric.py states them a second time, one hand at a time.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
from scipy.spatial import KDTree

from handmesh.geometry.alignment import Similarity, fit_similarity

# Of PCK curves and the area under them: 0 to 50 mm.
PCK_THRESHOLDS_M = np.linspace(0.0, 0.05, 100)
F_THRESHOLDS_M = (0.005, 0.015)
# The official script adds this to the norms that it divides by.
_OFFICIAL_EPSILON = 1e-8


def distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(..., K) Euclidean distances of (..., K, 3) points."""
    return np.sqrt(np.square(first - second).sum(axis=-1))


def relative_to(points_m: np.ndarray, origin_m: np.ndarray) -> np.ndarray:
    """(N, K, 3) less each hand's (N, 3)."""
    return points_m - origin_m[:, None]


def fit_officially(prediction: np.ndarray, truth: np.ndarray) -> Similarity:
    """FreiHAND's alignment: both centred and divided by their norms, an orthogonal Procrustes fit that may mirror, and back.

    Args:
        prediction, truth: (N, K, 3) f64.
    """
    fit = fit_similarity(prediction, truth, may_mirror=True)
    norm = np.linalg.norm((prediction - fit.source_mean[:, None]).reshape(len(prediction), -1), axis=1)
    return replace(fit, scale=fit.scale * np.square(norm / (norm + _OFFICIAL_EPSILON)))


def pck_curve(errors_m: np.ndarray) -> np.ndarray:
    """(100,) share of (N, K) errors within each of `PCK_THRESHOLDS_M`, both ends of the interval included."""
    first = np.searchsorted(PCK_THRESHOLDS_M, errors_m.ravel(), side="left")
    return np.cumsum(np.bincount(first, minlength=len(PCK_THRESHOLDS_M) + 1)[:-1]) / max(errors_m.size, 1)


def pck_auc(errors_m: np.ndarray) -> np.ndarray:
    """(N,) area in 0..1 under each hand's PCK curve of its (N, K) errors, by trapezoids.

    The mean over hands is the official area: mean over keypoints of the area under the curve over hands.
    """
    weights = np.full(len(PCK_THRESHOLDS_M), 1.0)
    weights[[0, -1]] = 0.5
    # What an error gains from all thresholds that are not below it.
    gains = np.append(np.cumsum((weights / weights.sum())[::-1])[::-1], 0.0)
    return gains[np.searchsorted(PCK_THRESHOLDS_M, errors_m, side="left")].mean(axis=-1)


def f_scores(
    prediction_m: np.ndarray,
    truth_m: np.ndarray,
    thresholds_m: Sequence[float] = F_THRESHOLDS_M,
    same_topology: bool = False,
) -> np.ndarray:
    """(N, T) harmonic mean of precision and recall: the shares of either cloud's points nearer than a threshold to the other cloud.

    Args:
        prediction_m, truth_m: (N, V, 3) and (N, W, 3).
        thresholds_m: T of them; a distance counts where it is strictly smaller.
        same_topology: points of one index are the same place, V = W. The score is the same either way; this way is faster, as a point
            whose twin is near enough need not look for a neighbour.
    """
    thresholds = np.asarray(thresholds_m, np.float64)

    def one(index: int) -> np.ndarray:
        a, b = prediction_m[index], truth_m[index]
        bound = distances(a, b) if same_topology else None
        precision, recall = _shares_near(a, b, thresholds, bound), _shares_near(b, a, thresholds, bound)
        both = precision + recall
        return 2 * precision * recall / np.where(both > 0, both, 1.0)

    # SciPy's trees run without the interpreter's lock.
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return np.array(list(threads.map(one, range(len(prediction_m))))).reshape(len(prediction_m), len(thresholds))


def _shares_near(points: np.ndarray, others: np.ndarray, thresholds: np.ndarray, bound: np.ndarray | None) -> np.ndarray:
    """(T,) shares of points (V, 3) that have one of others (W, 3) nearer than each threshold.

    Args:
        bound: (V,) no more than which the nearest distance is; None where nothing is known.
    """
    if bound is None:
        near = _nearest(points, others, thresholds.max())
    else:
        near = bound.copy()
        unsure = near >= thresholds.min()
        near[unsure] = _nearest(points[unsure], others, thresholds.max())
    return (near[:, None] < thresholds).mean(axis=0)


def _nearest(points: np.ndarray, others: np.ndarray, limit: float) -> np.ndarray:
    """(V,) distances to the nearest of others; infinity where that is not below the limit."""
    if not len(points):
        return np.zeros(0)
    return KDTree(others, leafsize=16, compact_nodes=False, balanced_tree=False).query(points, distance_upper_bound=limit)[0]


def acceleration_errors(prediction_m: np.ndarray, truth_m: np.ndarray, sequence: np.ndarray, rate_hz: float) -> np.ndarray:
    """Mean distance between predicted and true accelerations of the joints (Kanazawa et al. 2019), in m/s^2.

    Args:
        prediction_m, truth_m: (N, K, 3) frames in order.
        sequence: (N,) number of the video that each frame belongs to; frames of a video follow each other.
        rate_hz: frames a second.

    Returns:
        (M,), one for each frame with a neighbour on both sides in its video.
    """
    inner = (sequence[:-2] == sequence[1:-1]) & (sequence[1:-1] == sequence[2:])

    def acceleration(points: np.ndarray) -> np.ndarray:
        return (points[:-2] - 2 * points[1:-1] + points[2:])[inner] * rate_hz**2

    return distances(acceleration(prediction_m), acceleration(truth_m)).mean(axis=-1)


def projected(points_m: np.ndarray, K: np.ndarray) -> np.ndarray:
    """(N, P, 2) pixels of (N, P, 3) points by cameras (N, 3, 3); points that are not in front are put a millimetre before the camera."""
    seen = points_m @ K.swapaxes(1, 2)
    return seen[..., :2] / np.maximum(seen[..., 2:], 1e-3)
