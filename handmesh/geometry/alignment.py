"""The best similarity between two sets of points: what every aligned score rests on."""

from __future__ import annotations

import numpy as np


def procrustes(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Each source moved by the similarity (rotation, scale, shift; no reflection) that brings it closest (Umeyama 1991).

    Args:
        source, target: (N, K, 3) float64.

    Returns:
        (N, K, 3). A source whose points are all one comes to lie in the target's middle.
    """
    target_mean = target.mean(axis=1, keepdims=True)
    a, b = source - source.mean(axis=1, keepdims=True), target - target_mean
    u, singular, vt = np.linalg.svd(b.swapaxes(1, 2) @ a)
    sign = np.ones_like(singular)
    sign[:, 2] = np.sign(np.linalg.det(u @ vt))
    rotmats = (u * sign[:, None]) @ vt
    scale = (singular * sign).sum(axis=1) / np.maximum(np.square(a).sum(axis=(1, 2)), np.finfo(a.dtype).tiny)
    return scale[:, None, None] * a @ rotmats.swapaxes(1, 2) + target_mean
