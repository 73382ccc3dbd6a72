"""The best similarity between two sets of points: what every aligned score rests on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Similarity:
    """x -> scale * rotmat @ (x - source_mean) + target_mean, one for each of N.

    Attributes:
        scale: (N,), not negative.
        rotmats: (N, 3, 3) orthogonal; of determinant -1 where it mirrors.
        source_mean, target_mean: (N, 3).
    """

    scale: np.ndarray
    rotmats: np.ndarray
    source_mean: np.ndarray
    target_mean: np.ndarray

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Move (N, K, 3)."""
        turned = (points - self.source_mean[:, None]) @ self.rotmats.swapaxes(1, 2)
        return self.scale[:, None, None] * turned + self.target_mean[:, None]

    @property
    def mirrors(self) -> np.ndarray:
        """(N,) bool, True where it is a reflection."""
        return np.linalg.det(self.rotmats) < 0


def fit_similarity(source: np.ndarray, target: np.ndarray, may_mirror: bool = False) -> Similarity:
    """What brings each source closest to its target in the sum of squares (Umeyama 1991, equations 39 to 42).

    Args:
        source, target: (N, K, 3) float64. A source whose points are all one has scale 0: it comes to lie in the target's middle.
        may_mirror: let it be a reflection where that is closer.
    """
    source_mean, target_mean = source.mean(axis=1), target.mean(axis=1)
    a, b = source - source_mean[:, None], target - target_mean[:, None]
    u, singular, vt = np.linalg.svd(b.swapaxes(1, 2) @ a)
    if not may_mirror:
        sign = np.ones_like(singular)
        sign[:, 2] = np.sign(np.linalg.det(u @ vt))
        u, singular = u * sign[:, None], singular * sign
    scale = singular.sum(axis=1) / np.maximum(np.square(a).sum(axis=(1, 2)), np.finfo(a.dtype).tiny)
    return Similarity(scale, u @ vt, source_mean, target_mean)


def procrustes(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Each source (N, K, 3) moved by the similarity without reflection that brings it closest to its target."""
    return fit_similarity(source, target)(source)
