"""MediaPipe's palm detector: where in a whole picture there are palms."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock

import cv2
import numpy as np

from handmesh.detection.compiled import compile_for_pictures, output_named, read_network
from handmesh.runtime import Precision, Runtime

# Least score of a palm, and least presence of a hand there, where nobody says.
DEFAULT_CONFIDENCE = 0.5
# Side of the square that the network reads.
_SIDE_PX = 192
# Anchors are the middles of the cells of two grids, in the order of the network's answers: cells a side, anchors in each cell.
_GRIDS = ((24, 2), (12, 6))
_ANCHORS = np.concatenate(
    [
        np.repeat((np.stack(np.meshgrid(np.arange(cells), np.arange(cells)), axis=-1).reshape(-1, 2) + 0.5) / cells, many, axis=0)
        for cells, many in _GRIDS
    ]
)
_KEYPOINTS = 7
_NUMBERS = 4 + 2 * _KEYPOINTS
# By the file's own names: middle, size and keypoints of each palm from its anchor, and how sure each is.
_ANSWERS = {"Identity": [1, len(_ANCHORS), _NUMBERS], "Identity_1": [1, len(_ANCHORS), 1]}
# Answers whose boxes overlap the surest one's by more than this (intersection over union) are of the same palm.
_SAME_PALM_IOU = 0.3


@dataclass(frozen=True)
class Palm:
    """A palm that was found.

    Attributes:
        box_px: (4,) x0, y0, x1, y1 in the picture.
        keypoints_px: (7, 2): the wrist, where index, middle, ring and little finger begin, and two of the thumb.
        score: in 0..1.
    """

    box_px: np.ndarray
    keypoints_px: np.ndarray
    score: float


class PalmDetector:
    """MediaPipe's palm detector (Apache-2.0), run by OpenVINO. May be called from several threads; they wait for each other.

    Args:
        runtime: of the project's networks. ONNX Runtime reads no .tflite files, so this network runs on OpenVINO in either.
        precision: of the computation, never implicit: "f32" or "bf16".
        threads: of the network; 0 lets the runtime choose.
        min_confidence: least score of a palm, in 0..1.

    Raises:
        UserError: its file is not to be had (see `files.network_path`), or OpenVINO cannot run it.
    """

    def __init__(
        self, runtime: Runtime = "openvino", precision: Precision = "f32", threads: int = 0, min_confidence: float = DEFAULT_CONFIDENCE
    ) -> None:
        model = read_network("palm_detection_full")
        for name, shape in _ANSWERS.items():
            output_named(model, name, shape)
        self._network = compile_for_pictures(model, list(_ANSWERS), 1, precision, threads)
        self._min_confidence = min_confidence
        self._lock = Lock()

    def __call__(self, image_rgb: np.ndarray) -> list[Palm]:
        """The palms of one picture, the surest first.

        Args:
            image_rgb: (H, W, 3) uint8, upright.
        """
        return self.run(letterbox(image_rgb))

    def run(self, small: Letterbox) -> list[Palm]:
        """The palms of a picture that has been made small."""
        with self._lock:
            numbers, logits = self._network(small.square[None])
        points, scores = decode_palms(numbers[0], logits[0, :, 0], self._min_confidence)
        # Counted from the corners of pixels until here.
        points_px = (points * _SIDE_PX - small.offset_px) / small.scale - 0.5
        return [
            Palm(each_px[:2].reshape(4), each_px[2:], float(score)) for each_px, score in zip(*merge_palms(points_px, scores), strict=True)
        ]


@dataclass(frozen=True)
class Letterbox:
    """A picture in the middle of the network's square, its sides in proportion, on black.

    Attributes:
        square: (192, 192, 3) uint8.
        scale, offset_px: (2,) lead from the picture to the square, in pixels counted from their corners.
    """

    square: np.ndarray
    scale: np.ndarray
    offset_px: np.ndarray


def letterbox(image_rgb: np.ndarray) -> Letterbox:
    """What the palm detector needs of a picture (H, W, 3) uint8, which may change from then on."""
    height, width = image_rgb.shape[:2]
    share = _SIDE_PX / max(height, width)
    size = np.maximum(np.round(np.array([width, height]) * share), 1).astype(int)
    x, y = left_top = (_SIDE_PX - size) // 2
    square = np.zeros((_SIDE_PX, _SIDE_PX, 3), np.uint8)
    if share <= 0.5:
        # Halved first, which takes a third of the time of averaging all at once.
        image_rgb = cv2.resize(image_rgb, (max(1, width // 2), max(1, height // 2)), interpolation=cv2.INTER_AREA)
    # Averaged, not sampled: small palms that Tasks' sampling misses are found.
    inside = square[y : y + size[1], x : x + size[0]]
    inside[...] = cv2.resize(image_rgb, size.tolist(), interpolation=cv2.INTER_AREA if share < 1 else cv2.INTER_LINEAR)
    return Letterbox(square, size / (width, height), left_top)


def decode_palms(numbers: np.ndarray, logits: np.ndarray, min_confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """What the network's numbers mean, where it is sure enough.

    Args:
        numbers: (2016, 18) in pixels of the square: the box's middle from the anchor, its width and height, the keypoints from the anchor.
        logits: (2016,).

    Returns:
        (M, 9, 2) in sides of the square: two corners of the box, then the keypoints; and (M,) scores, in the network's order.
    """
    scores = 1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -100, 100)))
    sure = np.flatnonzero(scores >= min_confidence)
    pairs = numbers[sure].astype(np.float64).reshape(-1, _NUMBERS // 2, 2) / _SIDE_PX
    middle, half = pairs[:, 0] + _ANCHORS[sure], pairs[:, 1] / 2
    keypoints = pairs[:, 2:] + _ANCHORS[sure, None]
    return np.concatenate([(middle - half)[:, None], (middle + half)[:, None], keypoints], axis=1), scores[sure]


def merge_palms(points: np.ndarray, scores: np.ndarray, same_iou: float = _SAME_PALM_IOU) -> tuple[np.ndarray, np.ndarray]:
    """One palm of answers that overlap: their mean, weighted by score (weighted non-maximum suppression).

    Args:
        points: (M, 9, 2) two corners of each box, then keypoints.
        scores: (M,) > 0.

    Returns:
        (P, 9, 2), and the (P,) scores of the surest of each, the surest first.
    """
    left = np.argsort(-scores, kind="stable")
    merged, surest = [], []
    while len(left):
        # With itself it overlaps wholly, even where it has no area.
        same = _iou(points[left], points[left[0]]) > same_iou
        same[0] = True
        members = left[same]
        merged.append(np.average(points[members], axis=0, weights=scores[members]))
        surest.append(scores[left[0]])
        left = left[~same]
    return np.array(merged).reshape(-1, *points.shape[1:]), np.array(surest)


def _iou(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """(M,) intersection over union of boxes with one; each (..., 2 corners or more, 2)."""
    common = np.prod(np.maximum(np.minimum(boxes[:, 1], box[1]) - np.maximum(boxes[:, 0], box[0]), 0), axis=-1)
    whole = np.prod(boxes[:, 1] - boxes[:, 0], axis=-1) + np.prod(box[1] - box[0]) - common
    return common / np.maximum(whole, 1e-12)
