"""What refining by landmarks gains and costs: on a rendered set, in space; on a video, in the picture and in milliseconds.

    python tools/measure_refine.py --set DIR [--every N] [--video VIDEO]
    python tools/measure_refine.py --offsets DIR

A set is one of handmesh-synth in FreiHAND's layout, of whole frames. The detector looks at each; its hand nearest to the labelled one is
estimated as at run time, without and with refining. Behind ± is half of the 95 % interval of the mean paired difference. --offsets prints
the table of `refine.LANDMARK_OFFSETS_M`: where in the frame of the joint that carries it each of the detector's landmarks lies, by least
squares over the set's hands. Measure offsets on another set than the one that judges them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detector_frames import frames_rgb
from rich.progress import track
from score_network import mean_of, true_hand

from handmesh.bench.loop import distance_over_box
from handmesh.cli import guard
from handmesh.detection import HandDetector
from handmesh.errors import UserError
from handmesh.estimator import HandMeshEstimator
from handmesh.geometry.alignment import procrustes
from handmesh.geometry.camera import ASSUMED_FOV_DEG, camera_from_focal, camera_from_fov, unproject
from handmesh.hand_model import HandModel, load_hand_model
from handmesh.hand_model.skinning import chain_joints
from handmesh.records import Camera, Detection, Hand
from handmesh.refine import OWNERS
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
    parser.add_argument("--set", type=Path, help="rendered set to measure on")
    parser.add_argument("--video", help="video to measure on")
    parser.add_argument("--offsets", type=Path, help="rendered set to take the landmarks' offsets from")
    parser.add_argument("--every", type=int, default=1, help="take every n-th picture or frame")
    arguments = parser.parse_args(argv)
    if arguments.every < 1:
        raise UserError(f"expected --every from 1 on, got {arguments.every}; leave it out")
    if not (arguments.set or arguments.video or arguments.offsets):
        raise UserError("expected --set, --video or --offsets, got none of them")
    model = load_hand_model("open")
    if arguments.offsets:
        print_offsets(measure_offsets(model, seen_hands(arguments.offsets, arguments.every)))
    if arguments.set:
        measure_set(model, arguments.set, arguments.every)
    if arguments.video:
        measure_video(arguments.video, arguments.every)


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
    """(21, 3) metres; see `refine.LANDMARK_OFFSETS_M`."""
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


def measure_set(model: HandModel, folder: Path, every: int) -> None:
    """Print what refining changes in space."""
    rows = []
    with HandMeshEstimator(hand_model=model, refine="nothing") as plain, HandMeshEstimator(hand_model=model) as refining:
        for seen in seen_hands(folder, every):
            rows.append([_errors(model, estimator(seen.image, seen.camera, [seen.detection])[0], seen) for estimator in (plain, refining)])
        values = np.array(rows)
        for column, name in enumerate(_ERRORS):
            off, on = values[:, 0, column], values[:, 1, column]
            change = mean_of(on - off)
            print(f"{name:<42}{off.mean():9.3f}{on.mean():9.3f}   {change.value:+.3f} ± {change.half_width:.3f}")
        print(_cost(refining))


_ERRORS = (
    "PA-MPJPE mm",
    "MPJPE from the root mm",
    "MPJPE in the camera mm",
    "keypoints to the truth, % of the box",
    "keypoints to the landmarks, % of the box",
)


def _errors(model: HandModel, hand: Hand, seen: Seen) -> tuple[float, ...]:
    true_m = true_hand(model, seen.label, seen.is_left)[1].astype(np.float64)
    ours_m = hand.joints_m.astype(np.float64)

    def mean_mm(points_m: np.ndarray, others_m: np.ndarray) -> float:
        return 1e3 * float(np.linalg.norm(points_m - others_m, axis=1).mean())

    box_px = np.ptp(seen.label["keypoints_px"], axis=0).max()
    return (
        mean_mm(procrustes(ours_m[None], true_m[None])[0], true_m),
        mean_mm(ours_m - ours_m[ROOT], true_m - true_m[ROOT]),
        mean_mm(ours_m, true_m),
        100 * float(np.linalg.norm(hand.keypoints_px - seen.label["keypoints_px"], axis=1).mean() / box_px),
        100 * distance_over_box(hand.keypoints_px, seen.detection),
    )


def measure_video(path: str, every: int) -> None:
    """Print what refining changes in the picture, and how fast the hand trembles, with `track` and its smoothing."""
    detector = HandDetector(max_hands=1)
    for is_refining in (False, True):
        distances, joints_m = [], []
        with HandMeshEstimator(max_hands=1, refine="all" if is_refining else "pictures") as estimator:
            for time_s, image in track(frames_rgb(path, every), "frames"):
                camera = camera_from_fov(image.shape[1], image.shape[0], ASSUMED_FOV_DEG, is_known=False)
                hands, detections = estimator.track(image, time_s, camera), detector(image)
                if hands and detections:
                    distances.append(distance_over_box(hands[0].keypoints_px, detections[0]))
                    joints_m.append(hands[0].joints_m - hands[0].joints_m[ROOT])
            name = "refined" if is_refining else "plain"
            # Second differences: what moves evenly does not count.
            tremble_mm = 1e3 * np.linalg.norm(np.diff(joints_m, n=2, axis=0), axis=-1).mean()
            median, p95 = 100 * np.percentile(distances, (50, 95))
            print(f"{name}: {median:.2f} % of the box from the landmarks (95 %: {p95:.2f}),")
            print(f"  joints from the root change their way by {tremble_mm:.2f} mm a frame; {_cost(estimator)}")


def _cost(estimator: HandMeshEstimator) -> str:
    if not estimator.times.calls("refine"):
        return "no refining"
    median_ms, p95_ms = estimator.times.percentiles_ms("refine", (50, 95))
    return f"refining takes {median_ms:.2f} ms a hand (95 %: {p95_ms:.2f})"


def _distance(detection: Detection, label: np.ndarray) -> float:
    """From a detection to a label, mean over the landmarks, in sides of the label's box."""
    assert detection.landmarks_px is not None
    box_px = np.ptp(label["keypoints_px"], axis=0).max()
    return float(np.linalg.norm(detection.landmarks_px - label["keypoints_px"], axis=1).mean() / box_px)


if __name__ == "__main__":
    sys.exit(guard("measure_refine", main))
