"""FreiHAND's metric stated a second time: one hand, one keypoint, one threshold at a time. Shares nothing with handmesh.evaluation."""

from __future__ import annotations

import math

import numpy as np
from scipy.linalg import orthogonal_procrustes


def official_scores(xyz: np.ndarray, verts: np.ndarray, xyz_true: np.ndarray, verts_true: np.ndarray) -> dict[str, float]:
    """The twelve numbers of scores.txt.

    Args:
        xyz, xyz_true: (N, 21, 3) metres.
        verts, verts_true: (N, V, 3).
    """
    scores = {}
    for name, ours, true in (("xyz", xyz, xyz_true), ("mesh", verts, verts_true)):
        for key, points in (("", ours), ("al_", [aligned(one, other) for one, other in zip(ours, true, strict=True)])):
            errors = [[math.dist(p, q) for p, q in zip(one, other, strict=True)] for one, other in zip(points, true, strict=True)]
            scores[f"{name}_{key}mean3d"] = 100 * mean_of_keypoints(errors)
            scores[f"{name}_{key}auc3d"] = area_under_curve(errors)
    for mm in (5, 15):
        for key, move in (("f_score", lambda one, other: one), ("f_al_score", aligned)):
            values = [f_score(move(one, other), other, mm / 1000) for one, other in zip(verts, verts_true, strict=True)]
            scores[f"{key}_{mm}"] = sum(values) / len(values)
    return scores


def aligned(ours: np.ndarray, true: np.ndarray) -> np.ndarray:
    """(K, 3) centred, divided by the norm, turned (or mirrored) by SciPy's orthogonal Procrustes, scaled and put back."""
    true_middle, our_middle = true.mean(0), ours.mean(0)
    true_size = np.linalg.norm(true - true_middle) + 1e-8
    our_size = np.linalg.norm(ours - our_middle) + 1e-8
    unit = (ours - our_middle) / our_size
    rotation, scale = orthogonal_procrustes((true - true_middle) / true_size, unit)
    return unit @ rotation.T * scale * true_size + true_middle


def mean_of_keypoints(errors: list[list[float]]) -> float:
    """Mean over hands of each keypoint, then over keypoints."""
    means = []
    for keypoint in range(len(errors[0])):
        means.append(sum(hand[keypoint] for hand in errors) / len(errors))
    return sum(means) / len(means)


def area_under_curve(errors: list[list[float]]) -> float:
    """Of each keypoint's share within 0 to 50 mm, by trapezoids over 100 thresholds; then the mean over keypoints."""
    thresholds = [float(t) for t in np.linspace(0, 0.05, 100)]
    areas = []
    for keypoint in range(len(errors[0])):
        curve = []
        for threshold in thresholds:
            curve.append(sum(1 for hand in errors if hand[keypoint] <= threshold) / len(errors))
        area = sum((b - a) * (p + q) / 2 for a, b, p, q in zip(thresholds, thresholds[1:], curve, curve[1:], strict=False))
        areas.append(area / thresholds[-1])
    return sum(areas) / len(areas)


def f_score(ours: np.ndarray, true: np.ndarray, threshold: float) -> float:
    """Of one hand: nearest neighbours both ways, every pair of points looked at."""
    to_true, to_ours = nearest(ours, true), nearest(true, ours)
    precision = sum(1 for distance in to_true if distance < threshold) / len(to_true)
    recall = sum(1 for distance in to_ours if distance < threshold) / len(to_ours)
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def nearest(points: np.ndarray, others: np.ndarray) -> list[float]:
    """The distance of each point to the nearest of the others."""
    return [float(np.sqrt(((others - point) ** 2).sum(axis=1)).min()) for point in points]
