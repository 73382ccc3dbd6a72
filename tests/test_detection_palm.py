"""Palms: what the network's numbers mean, which answers are one palm, and where they are in the picture."""

import cv2
import numpy as np
import pytest

from handmesh.detection.palm import PalmDetector, decode_palms, letterbox, merge_palms
from handmesh.hand_model.assets import ASSETS

ANSWERS, NUMBERS, SIDE_PX = 2016, 18, 192


@pytest.fixture(scope="module")
def detector():
    return PalmDetector(threads=1)


@pytest.fixture(scope="module")
def frame():
    """The clip's first frame: a right hand alone."""
    return np.ascontiguousarray(cv2.VideoCapture(str(ASSETS / "demo_clip.mp4")).read()[1][..., ::-1])


def decode_slowly(numbers, logits, min_confidence):
    """The same as `decode_palms`, answer by answer as MediaPipe describes its anchors: stride 8, then three times stride 16, two each."""
    anchors = []
    for stride, many in ((8, 2), (16, 6)):
        cells = SIDE_PX // stride
        for row in range(cells):
            for column in range(cells):
                anchors += [((column + 0.5) / cells, (row + 0.5) / cells)] * many
    found, scores = [], []
    for (x, y), of_palm, logit in zip(anchors, numbers, logits, strict=True):
        score = 1 / (1 + np.exp(-min(max(float(logit), -100), 100)))
        if score < min_confidence:
            continue
        middle_x, middle_y, width, height = of_palm[:4] / SIDE_PX + (x, y, 0, 0)
        corners = [(middle_x - width / 2, middle_y - height / 2), (middle_x + width / 2, middle_y + height / 2)]
        keypoints = [(of_palm[k] / SIDE_PX + x, of_palm[k + 1] / SIDE_PX + y) for k in range(4, NUMBERS, 2)]
        found.append(corners + keypoints)
        scores.append(score)
    return np.array(found).reshape(-1, 9, 2), np.array(scores)


@pytest.mark.parametrize("min_confidence", [0.01, 0.5, 0.9, 1.0])
def test_numbers_are_decoded_as_by_a_plain_loop(min_confidence):
    rng = np.random.default_rng(0)
    numbers, logits = rng.normal(0, 30, (ANSWERS, NUMBERS)).astype(np.float32), rng.normal(-3, 3, ANSWERS).astype(np.float32)
    logits[:2] = 1000, -1000
    (points, scores), (slow_points, slow_scores) = (decode(numbers, logits, min_confidence) for decode in (decode_palms, decode_slowly))
    assert len(scores) == len(slow_scores) >= 1
    assert np.allclose(scores, slow_scores) and np.allclose(points, slow_points, atol=1e-6)


def square_at(x, y, side=0.1):
    """(9, 2) two corners and seven keypoints."""
    return np.array([(x, y), (x + side, y + side), *[(x + side / 2, y + k * side / 7) for k in range(7)]])


def test_answers_that_overlap_are_one_palm_and_their_weighted_mean():
    points = np.stack([square_at(0.2, 0.2), square_at(0.22, 0.2), square_at(0.7, 0.5)])
    merged, scores = merge_palms(points, np.array([0.6, 0.9, 0.7]))
    assert scores.tolist() == [0.9, 0.7]
    assert np.allclose(merged[0], (0.6 * points[0] + 0.9 * points[1]) / 1.5) and np.allclose(merged[1], points[2])


def test_neighbours_of_neighbours_are_not_swept_along():
    """Only what overlaps the surest is its palm; what is left is another one."""
    points = np.stack([square_at(0.2, 0.2), square_at(0.25, 0.2), square_at(0.30, 0.2)])
    merged, scores = merge_palms(points, np.array([0.9, 0.8, 0.7]))
    assert scores.tolist() == [0.9, 0.7] and np.allclose(merged[1], points[2])


def test_the_order_of_answers_does_not_matter():
    rng = np.random.default_rng(0)
    points = np.stack([square_at(*rng.uniform(0, 0.9, 2)) for _ in range(60)])
    scores = rng.uniform(0.5, 1, 60)
    order = rng.permutation(60)
    (one, one_scores), (other, other_scores) = merge_palms(points, scores), merge_palms(points[order], scores[order])
    assert np.allclose(one, other) and np.allclose(one_scores, other_scores)
    assert (np.diff(one_scores) <= 0).all() and len(one) < 60
    assert merge_palms(one, one_scores)[0].shape[1:] == (9, 2)


def test_nothing_and_boxes_without_area():
    merged, scores = merge_palms(np.empty((0, 9, 2)), np.empty(0))
    assert merged.shape == (0, 9, 2) and len(scores) == 0
    merged, scores = merge_palms(np.zeros((2, 9, 2)), np.array([0.6, 0.5]))
    assert len(merged) == 2 and np.isfinite(merged).all()


@pytest.mark.parametrize("shape", [(480, 640), (640, 480), (100, 100), (1, 600), (600, 1), (1, 1), (37, 1001)])
def test_pictures_are_put_into_the_middle_of_the_square(shape):
    height, width = shape
    small = letterbox(np.full((*shape, 3), 200, np.uint8))
    square, scale, offset_px = small.square, small.scale, small.offset_px
    assert square.shape == (SIDE_PX, SIDE_PX, 3) and square.dtype == np.uint8
    rows, columns = np.nonzero(square[..., 0])
    low, high = np.array([columns.min(), rows.min()]), np.array([columns.max(), rows.max()]) + 1
    corners = np.array([(0, 0), (width, height)]) * scale + offset_px
    assert np.abs(corners - (low, high)).max() <= 1
    assert np.abs(corners.mean(axis=0) - SIDE_PX / 2).max() <= 0.5


def test_palms_are_where_they_are_in_the_picture(detector, frame):
    (palm,) = detector(frame)
    assert palm.score >= 0.5 and palm.keypoints_px.shape == (7, 2)
    # A frame in a larger grey one: the same palm, moved.
    larger = np.full((700, 900, 3), 127, np.uint8)
    larger[120:600, 30:670] = frame
    (moved,) = detector(larger)
    side_px = (palm.box_px[2:] - palm.box_px[:2]).max()
    assert np.abs(moved.box_px - palm.box_px - (30, 120, 30, 120)).max() < 0.2 * side_px
    assert np.abs(moved.keypoints_px - palm.keypoints_px - (30, 120)).max() < 0.2 * side_px
    # Fingers up: the middle knuckle is above the wrist.
    assert palm.keypoints_px[2, 1] < palm.keypoints_px[0, 1]


def test_confidence_is_asked_for(frame):
    palms = PalmDetector(threads=1, min_confidence=0.05)(frame)
    assert [palm.score for palm in palms] == sorted((palm.score for palm in palms), reverse=True)
    assert PalmDetector(threads=1, min_confidence=1.0)(frame) == []


@pytest.mark.parametrize("shape", [(1, 600), (600, 1), (1, 1), (300, 200), (1500, 2000)])
def test_blank_pictures_have_none(detector, shape):
    assert detector(np.full((*shape, 3), 120, np.uint8)) == []
