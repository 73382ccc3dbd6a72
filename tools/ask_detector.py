"""Whether MediaPipe's networks believe a set of rendered pictures: how often they find the hand, how near their landmarks are to labels.

    python tools/ask_detector.py SET [--confidence 0.3] [--every N] [--pad SHARE] [--worst worst.png]

Asked is every picture whose hand is present. A hand counts as found when the mean distance of a detection's 21 landmarks
to the labels' keypoints is below 0.3 of the larger side of the keypoints' box, whichever side the detection says it is.
Detector and labels do not mean the very same points by a joint, so distances are given twice: as they are, and with one
offset per joint taken away, the median over the set in a frame that turns with the hand (see `to_hand_frame`).
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from rich.progress import track

from handmesh.detection import HandDetector
from handmesh.errors import UserError
from handmesh.records import Detection
from handmesh.skeleton import BONES, JOINTS, ROOT, WRIST
from handmesh.synthetic import shares
from handmesh.synthetic.scene import POSE_KINDS
from handmesh.synthetic.sets import open_pictures
from handmesh.synthetic.sheet import Pictures, tiled, write_png, write_words
from handmesh.synthetic.stats import TONE_STEPS, tone_step

FOUND_DISTANCE = 0.3
# A share of fewer says little.
FEW_HANDS = 20
MAX_HANDS = 4

_BOX_STEPS = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, np.inf)
_INDEX, _LITTLE = JOINTS.index("index_mcp"), JOINTS.index("little_mcp")
_LABEL_RGB, _DETECTOR_RGB = (60, 230, 60), (240, 40, 40)
_SHEET_COLUMNS, _SHEET_ROWS, _TILE_PX = 8, 3, 240


@dataclass(frozen=True)
class Answers:
    """What the detector said about N hands.

    Attributes:
        indices: (N,) of the pictures.
        labels: (N,) LABEL_DTYPE.
        landmarks_px: (N, 21, 2) of the detection nearest to the label; nan where there was none.
        says_right: (N,) bool, which side that detection says; False where there was none.
        is_right: (N,) bool, which side it is.
    """

    indices: np.ndarray
    labels: np.ndarray
    landmarks_px: np.ndarray
    says_right: np.ndarray
    is_right: np.ndarray

    @property
    def distance(self) -> np.ndarray:
        """(N,) mean distance of the landmarks over the larger side of the labels' box; infinite where there was no detection."""
        distance = np.linalg.norm(self.landmarks_px - self.labels["keypoints_px"], axis=-1).mean(axis=1) / box_sides_px(self.labels)
        return np.where(np.isnan(distance), np.inf, distance)

    @property
    def is_found(self) -> np.ndarray:
        """(N,) bool."""
        return self.distance < FOUND_DISTANCE


def box_sides_px(labels: np.ndarray) -> np.ndarray:
    """(N,) larger sides of the keypoints' boxes of (N,) LABEL_DTYPE."""
    return np.ptp(labels["keypoints_px"], axis=1).max(axis=1).astype(np.float64)


def nearest_detection(detections: Sequence[Detection], keypoints_px: np.ndarray) -> Detection | None:
    """The detection whose landmarks are nearest on average to (21, 2) keypoints."""

    def distance_px(detection: Detection) -> float:
        assert detection.landmarks_px is not None
        return float(np.linalg.norm(detection.landmarks_px - keypoints_px, axis=1).mean())

    return min(detections, key=distance_px, default=None)


def to_hand_frame(keypoints_px: np.ndarray) -> np.ndarray:
    """Rotations, some with a reflection, from each picture to a frame that turns with its hand.

    In that frame wrist to middle knuckle points up, and the index knuckle is to the left of the little one's: palms and
    backs, right hands and left ones fall on each other, so that what is constant in it belongs to the hand.

    Args:
        keypoints_px: (N, 21, 2), x right, y down.

    Returns:
        (N, 2, 2) matrices M: M @ v is a vector of the picture in the hand's frame.
    """
    up = keypoints_px[:, ROOT] - keypoints_px[:, WRIST]
    up = up / np.maximum(np.linalg.norm(up, axis=1, keepdims=True), 1e-9)
    right = np.stack([-up[:, 1], up[:, 0]], axis=1)
    across = keypoints_px[:, _LITTLE] - keypoints_px[:, _INDEX]
    right *= np.where(np.sum(across * right, axis=1) < 0, -1.0, 1.0)[:, None]
    return np.stack([right, -up], axis=1)


def distances_without_offset(landmarks_px: np.ndarray, keypoints_px: np.ndarray, sides_px: np.ndarray) -> np.ndarray:
    """(N,) mean distances over the box's side, after one constant offset per joint is taken away.

    Args:
        landmarks_px, keypoints_px: (N, 21, 2).
        sides_px: (N,) larger side of the keypoints' box, the unit in which an offset is constant.
    """
    residual = (landmarks_px - keypoints_px) / sides_px[:, None, None]
    in_hand = np.einsum("nab,nkb->nka", to_hand_frame(keypoints_px), residual)
    return np.linalg.norm(in_hand - np.median(in_hand, axis=0), axis=-1).mean(axis=1)


def ask(pictures: Pictures, detect: Callable[[np.ndarray], Sequence[Detection]], every: int, pad: float) -> Answers:
    """Ask a detector about every n-th hand that is present.

    Args:
        detect: gives the detections of an (H, W, 3) uint8 RGB picture.
        pad: width of the margin around each picture, over its height, into which its border is drawn out: a palm detector
            misses hands that fill the picture.
    """
    labels = np.asarray(pictures.labels())
    indices = np.flatnonzero(labels["presence"] == 1)[::every]
    landmarks_px = np.full((len(indices), len(JOINTS), 2), np.nan)
    says_right = np.zeros(len(indices), bool)
    for row, index in enumerate(track(indices.tolist(), "pictures")):
        image = pictures.image(index)
        margin = round(pad * len(image))
        padded = cv2.copyMakeBorder(image, margin, margin, margin, margin, cv2.BORDER_REPLICATE) if margin else image
        keypoints_px = labels["keypoints_px"][index] + margin
        nearest = nearest_detection(detect(padded), keypoints_px)
        if nearest is not None and nearest.landmarks_px is not None:
            landmarks_px[row] = nearest.landmarks_px - margin
            says_right[row] = nearest.is_right
    is_right = np.array([not pictures.is_left(index) for index in indices.tolist()], bool)
    return Answers(indices, labels[indices], landmarks_px, says_right, is_right)


def report(answers: Answers, height_px: int, edge_on: np.ndarray, thirds: np.ndarray) -> str:
    """The answers as text.

    Args:
        height_px: of the pictures.
        edge_on: (N,) bool.
        thirds: (N,) third of the Monk scale, 0 the lightest.
    """
    found, distance = answers.is_found, answers.distance
    if not found.any():
        return f"0 of {len(found)} hands found"
    kept = answers.labels[found]
    bare = np.full(len(found), np.nan)
    bare[found] = distances_without_offset(answers.landmarks_px[found], kept["keypoints_px"], box_sides_px(kept))
    agree = np.mean(answers.says_right[found] == answers.is_right[found])
    lines = [
        f"{found.sum()} of {len(found)} hands found: {found.mean():.1%} ({np.isinf(distance).sum()} without a detection, "
        f"{(~found & np.isfinite(distance)).sum()} with one elsewhere)",
        f"distance over the box           median {np.median(distance[found]):.4f}  95 % {np.percentile(distance[found], 95):.4f}",
        f"without an offset per joint     median {np.median(bare[found]):.4f}  95 % {np.percentile(bare[found], 95):.4f}",
        f"side as labelled                {agree:.1%} of those found",
        "",
        f"{'':24}{'hands':>7}{'found':>9}{'median':>9}{'no offset':>11}",
    ]

    def rows(groups: dict[str, np.ndarray]) -> tuple[float, float]:
        """Add a line for each group of hands; returns the lowest found share of those with FEW_HANDS or more, and its standard error."""
        lowest = (1.0, 0.0)
        for name, members in groups.items():
            if not members.any():
                continue
            seen = found & members
            middle = f"{np.median(distance[seen]):9.4f}{np.median(bare[seen]):11.4f}" if seen.any() else ""
            lines.append(f"{name:24}{members.sum():7d}{found[members].mean():9.1%}{middle}")
            share = float(found[members].mean())
            if members.sum() >= FEW_HANDS:
                lowest = min(lowest, (share, float(np.sqrt(share * (1 - share) / members.sum()))))
        return lowest

    worst_third = rows({f"{name} third of tones": thirds == third for third, name in enumerate(("light", "middle", "dark"))})
    steps = tone_step(answers.labels["tone"])
    worst_step = rows({f"Monk step {step + 1}": steps == step for step in range(TONE_STEPS)})
    rows({"edge-on": edge_on, "not edge-on": ~edge_on})
    rows({f"pose {kind}": answers.labels["pose"] == number for number, kind in enumerate(POSE_KINDS)})
    box_share = box_sides_px(answers.labels) / height_px
    bounds = itertools.pairwise(_BOX_STEPS)
    rows({f"box {low:.1f}-{high:.1f} of height": (box_share >= low) & (box_share < high) for low, high in bounds})
    rows({"right hands": answers.is_right, "left hands": ~answers.is_right})
    lines.append("")
    worst = (("third of tones", worst_third), ("Monk step", worst_step)) if len(found) >= TONE_STEPS * FEW_HANDS else ()
    for name, (share, error) in worst:
        lines.append(f"worst {name}: {100 * (found.mean() - share):.1f} points below the mean (standard error {100 * error:.1f})")
    return "\n".join(lines)


def worst_sheet(pictures: Pictures, answers: Answers) -> np.ndarray:
    """Hands that were missed above, hands found with the farthest landmarks below; labels green, the detector's landmarks red."""
    distance, room = answers.distance, _SHEET_COLUMNS * _SHEET_ROWS
    missed = np.flatnonzero(~answers.is_found)
    missed = missed[np.unique(np.linspace(0, len(missed) - 1, min(room, len(missed))).astype(int))]
    farthest = np.flatnonzero(answers.is_found)
    farthest = farthest[np.argsort(-distance[farthest])][:room]
    empty = [np.zeros((_TILE_PX, _TILE_PX, 3), np.uint8)]
    halves = [[_worst_tile(pictures, answers, row) for row in rows] or empty for rows in (missed.tolist(), farthest.tolist())]
    gap = np.full((12, _SHEET_COLUMNS * _TILE_PX, 3), 255, np.uint8)
    above, below = (tiled(half, _SHEET_COLUMNS, _SHEET_ROWS) for half in halves)
    return np.concatenate([above, gap, below])


def _worst_tile(pictures: Pictures, answers: Answers, row: int) -> np.ndarray:
    """The square around one hand, with labels and landmarks."""
    image, label = pictures.image(int(answers.indices[row])), answers.labels[row]
    keypoints_px = label["keypoints_px"].astype(np.float64)
    middle = (keypoints_px.min(axis=0) + keypoints_px.max(axis=0)) / 2
    side = min(1.6 * float(np.ptp(keypoints_px, axis=0).max()), float(max(image.shape[:2])))
    scale = _TILE_PX / side
    shift = (_TILE_PX - 1) / 2 - middle * scale
    matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
    tile = cv2.warpAffine(image, matrix, (_TILE_PX, _TILE_PX), flags=cv2.INTER_LINEAR)
    for points_px, rgb in ((keypoints_px, _LABEL_RGB), (answers.landmarks_px[row], _DETECTOR_RGB)):
        if np.isfinite(points_px).all():
            points = np.clip(np.rint((points_px * scale + shift) * 16), -100_000, 100_000).astype(int)
            for child, parent in BONES:
                cv2.line(tile, points[child].tolist(), points[parent].tolist(), rgb, 1, cv2.LINE_AA, 4)
    kind = POSE_KINDS[label["pose"]] if label["pose"] < len(POSE_KINDS) else ""
    apart = f" {answers.distance[row]:.2f}" if np.isfinite(answers.distance[row]) else ""
    write_words(tile, f"{answers.indices[row]} {kind}{apart}")
    return tile


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("set", type=Path, help="folder of a set, in either layout")
    parser.add_argument("--confidence", type=float, default=0.3, help="of detection and of presence")
    parser.add_argument("--every", type=int, default=1, help="take every n-th hand")
    parser.add_argument(
        "--pad", type=float, default=0.0, help="draw each picture's border out by this share of its height; for crops, which a hand fills"
    )
    parser.add_argument("--worst", type=Path, help="PNG of hands missed (above) and of those with the farthest landmarks (below)")
    arguments = parser.parse_args()
    if arguments.every < 1 or arguments.pad < 0:
        parser.error(f"expected --every of at least 1 and --pad of at least 0, got {arguments.every} and {arguments.pad:g}")
    if not 0 <= arguments.confidence <= 1:
        parser.error(f"expected --confidence in 0..1, got {arguments.confidence:g}")
    if arguments.worst is not None and not arguments.worst.parent.is_dir():
        parser.error(f"expected --worst in a folder that exists, got '{arguments.worst}'")
    try:
        pictures = open_pictures(arguments.set)
        detector = HandDetector(max_hands=MAX_HANDS, min_confidence=arguments.confidence)
        answers = ask(pictures, detector, arguments.every, arguments.pad)
        if not len(answers.indices):
            parser.error(f"expected hands in '{arguments.set}', but none is present")
        print(report(answers, len(pictures.image(0)), shares.edge_on(answers.labels), shares.monk_third(answers.labels)))
        if arguments.worst is not None:
            write_png(worst_sheet(pictures, answers), arguments.worst, "--worst")
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
