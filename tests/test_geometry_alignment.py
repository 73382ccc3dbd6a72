"""The best similarity: undone exactly, never a reflection, better than its neighbours, equal to SciPy's."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from handmesh.geometry.alignment import procrustes
from handmesh.geometry.rotation import rotvec_to_rotmat


def hands(count, seed=0):
    """Points as large as hands, in metres."""
    return np.random.default_rng(seed).normal(0, 0.05, (count, 21, 3))


@pytest.mark.parametrize("scale", [1e-7, 1e-3, 1.0, 10.0])
def test_a_similarity_is_undone(scale):
    rng = np.random.default_rng(1)
    points = hands(4)
    moved = scale * points @ rotvec_to_rotmat(rng.normal(0, 2, (4, 3))).swapaxes(1, 2) + rng.normal(0, 1, (4, 1, 3))
    assert np.abs(procrustes(points, moved) - moved).max() < 1e-12 * max(scale, 1.0) * 10


def test_a_mirrored_hand_is_not_undone():
    points = hands(4)
    mirrored = points * (-1, 1, 1)
    assert np.linalg.norm(procrustes(points, mirrored) - mirrored, axis=-1).mean(axis=1).min() > 0.01


def test_no_similarity_near_it_does_better():
    rng = np.random.default_rng(2)
    source, target = hands(4), hands(4, seed=3)
    aligned, middle = procrustes(source, target), target.mean(axis=1, keepdims=True)
    best = np.square(aligned - target).sum()
    for _ in range(20):
        turn = rotvec_to_rotmat(rng.normal(0, 0.01, 3))
        for other in ((aligned - middle) @ turn.T + middle, aligned + rng.normal(0, 1e-3, 3), middle + 1.01 * (aligned - middle)):
            assert np.square(other - target).sum() > best


def test_it_turns_as_scipy_does():
    source, target = hands(3), hands(3, seed=4)
    for aligned, a, b in zip(procrustes(source, target), source, target, strict=True):
        a, b = a - a.mean(axis=0), b - b.mean(axis=0)
        turned = Rotation.align_vectors(b, a)[0].apply(a)
        scale = (turned * b).sum() / np.square(turned).sum()
        assert aligned - aligned.mean(axis=0) == pytest.approx(scale * turned, abs=1e-9)


def test_flat_and_straight_points_align_and_a_single_point_lands_in_the_middle():
    points = hands(3)
    points[0, :, 2] = 0
    points[1, :, 1:] = 0
    points[2] = 0.1
    turned = points @ rotvec_to_rotmat(np.array([0.3, -1.0, 2.0])).T + 1
    assert procrustes(points[:2], turned[:2]) == pytest.approx(turned[:2], abs=1e-12)
    assert procrustes(points[2:], hands(1)) == pytest.approx(np.broadcast_to(hands(1).mean(axis=1, keepdims=True), (1, 21, 3)), abs=1e-12)
