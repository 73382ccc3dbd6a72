"""The table of `hand_model.landmarks.LANDMARK_OFFSETS_M`: where MediaPipe puts its landmarks, in the frames of the joints that carry them.

    python tools/measure_offsets.py DIR [--every N]

By least squares over the hands of a rendered set: one of handmesh-synth in FreiHAND's layout, of whole frames. The detector looks at each;
its hand nearest to the labelled one counts. Measure offsets on another set than the one that judges them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import track
from score_network import true_hand

from handmesh.cli import guard
from handmesh.detection import HandDetector
from handmesh.errors import UserError
from handmesh.geometry.camera import camera_from_focal, unproject
from handmesh.hand_model import HandModel, load_hand_model
from handmesh.hand_model.landmarks import OWNERS
from handmesh.hand_model.skinning import chain_joints
from handmesh.records import Camera, Detection
from handmesh.skeleton import JOINTS, ROOT
from handmesh.synthetic import shares
from handmesh.synthetic.freihand_layout import LayoutReader

# The detector's hand is another one where it lies farther off, in sides of the label's box.
_OTHER_HAND = 0.35
# Of iteratively reweighted least squares (Huber), in sides of the box.
_HUBER, _ROUNDS = 0.04, 10
# Offsets along the view are seen little: this many metres are as good as one Huber unit of misfit.
_PRIOR_M = 0.02


@dataclass(frozen=True)
class Seen:
    """A labelled hand that the detector found.

    Attributes:
        image, camera: of the whole frame.
        label: () LABEL_DTYPE.
        is_left: of the label.
        detection: of that hand.
    """

    image: np.ndarray
    camera: Camera
    label: np.ndarray
    is_left: bool
    detection: Detection


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("set", type=Path, help="rendered set to measure on")
    parser.add_argument("--every", type=int, default=1, help="take every n-th picture")
    arguments = parser.parse_args(argv)
    if arguments.every < 1:
        raise UserError(f"expected --every from 1 on, got {arguments.every}; leave it out")
    print_offsets(measure_offsets(load_hand_model("open"), seen_hands(arguments.set, arguments.every)))


def seen_hands(folder: Path, every: int) -> Iterator[Seen]:
    """The labelled hands that the detector finds."""
    pictures = LayoutReader(folder)
    labels = np.asarray(pictures.labels())
    detector = HandDetector(max_hands=2)
    chosen = [index for index in range(0, len(labels), every) if labels["presence"][index] == 1 and shares.has_hand(labels[index])]
    found = 0
    for index in track(chosen, folder.name):
        image, label = pictures.image(index), labels[index]
        nearest = min(detector(image), key=lambda detection: _distance(detection, label), default=None)
        if nearest is not None and _distance(nearest, label) < _OTHER_HAND:
            found += 1
            camera = camera_from_focal(image.shape[1], image.shape[0], float(label["focal_px"]))
            yield Seen(image, camera, label, bool(pictures.is_left(index)), nearest)
    print(f"{folder.name}: the detector found {found} of {len(chosen)} hands")


def measure_offsets(model: HandModel, hands: Iterator[Seen]) -> np.ndarray:
    """(21, 3) metres; see `hand_model.landmarks.LANDMARK_OFFSETS_M`."""
    designs, misfits = [], []
    for seen in hands:
        rotmats, betas, root_m = (np.asarray(seen.label[name], np.float64) for name in ("rotmats", "betas", "root_m"))
        world, _ = chain_joints(model.rest_joints_m + model.joint_shape_dirs @ betas, rotmats)
        # In the mirrored camera a left hand is a right one.
        mirror = np.array([-1.0 if seen.is_left else 1.0, 1.0])
        joints_m = true_hand(model, seen.label, False)[1].astype(np.float64)
        assert seen.detection.landmarks_px is not None
        landmarks = mirror * unproject(seen.detection.landmarks_px, seen.camera)[:, :2]
        at = joints_m[:, :2] / joints_m[:, 2:]
        # Of x / z and y / z, over the box's side.
        scale = 1 / np.ptp(at, axis=0).max()
        slopes = np.zeros((len(JOINTS), 2, 3))
        slopes[:, 0, 0] = slopes[:, 1, 1] = 1
        slopes[:, :, 2] = -at
        designs.append(scale / joints_m[:, 2, None, None] * slopes @ world[OWNERS])
        misfits.append(scale * (landmarks - at))
        assert np.abs(joints_m[ROOT] - root_m).max() < 1e-3
    design, misfit = np.array(designs), np.array(misfits)
    offsets_m = np.zeros((len(JOINTS), 3))
    for _ in range(_ROUNDS):
        left = np.linalg.norm(misfit - np.einsum("njac,jc->nja", design, offsets_m), axis=-1)
        weights = np.minimum(1, _HUBER / np.maximum(left, 1e-9))
        normal = np.einsum("nj,njac,njad->jcd", weights, design, design) + (_HUBER / _PRIOR_M) ** 2 * np.eye(3)
        offsets_m = np.linalg.solve(normal, np.einsum("nj,njac,nja->jc", weights, design, misfit)[..., None])[..., 0]
    print(f"misfit of a landmark, sides of the box, median: {np.median(np.linalg.norm(misfit, axis=-1)):.4f} -> {np.median(left):.4f}")
    return offsets_m


def print_offsets(offsets_m: np.ndarray) -> None:
    for name, offset_m in zip(JOINTS, offsets_m, strict=True):
        x, y, z = (round(1e3 * float(value), 1) + 0.0 for value in offset_m)
        print(f"        ({x}, {y}, {z}),  # {name}")


def _distance(detection: Detection, label: np.ndarray) -> float:
    """From a detection to a label, mean over the landmarks, in sides of the label's box."""
    assert detection.landmarks_px is not None
    box_px = np.ptp(label["keypoints_px"], axis=0).max()
    return float(np.linalg.norm(detection.landmarks_px - label["keypoints_px"], axis=1).mean() / box_px)


if __name__ == "__main__":
    sys.exit(guard("measure_offsets", main))
