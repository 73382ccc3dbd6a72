"""How far a network's 2D keypoints are from the landmarks of MediaPipe's networks on a video, and what a mean hand scores.

    python tools/compare_to_detector.py VIDEO [--model FILE.onnx] [--every N]

Prints the share of frames with a hand, the share of right hands, the distance of `keypoints_px` to the detector's
landmarks over the larger side of their box (median and 95th percentile over frames), the same for the model's mean
hand placed in the same box, and how the mirrored video agrees with the plain one. This is the whole live pipeline, with its second
look; `tools/score_network.py --video` is the network alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np
from detector_frames import frames_rgb
from rich.progress import track

from handmesh.bench.loop import distance_over_box
from handmesh.cli import guard
from handmesh.detection import HandDetector
from handmesh.errors import UserError
from handmesh.estimator import HandMeshEstimator
from handmesh.geometry.camera import ASSUMED_FOV_DEG, camera_from_fov
from handmesh.geometry.crop import mirror_picture
from handmesh.hand_model.skinning import HandModel, skin
from handmesh.records import Hand


def mean_hand_px(model: HandModel, box_px: np.ndarray, flip: bool) -> np.ndarray:
    """(21, 2) relaxed hand with fingers up, palm (or back) to the camera, filling the box along its larger side."""
    joints_m = model.joints(skin(model, model.mean_rotmats(), np.zeros(10, np.float32)))
    # The rest pose points along -x with the thumb at +z: up becomes -y, the thumb goes right, or left when flipped.
    flat = np.stack([-joints_m[:, 2] if flip else joints_m[:, 2], joints_m[:, 0]], axis=1)
    low, high = flat.min(axis=0), flat.max(axis=0)
    scale = (box_px[2:] - box_px[:2]).max() / (high - low).max()
    return (flat - (low + high) / 2) * scale + (box_px[:2] + box_px[2:]) / 2


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("video")
    parser.add_argument("--model", help="an exported network; the embedded one if left out")
    parser.add_argument("--every", type=int, default=1, help="take every n-th frame")
    arguments = parser.parse_args(argv)
    if arguments.every < 1:
        raise UserError(f"expected --every from 1 on, got {arguments.every}; leave it out")

    estimator = HandMeshEstimator(arguments.model, max_hands=1)
    detector = HandDetector(max_hands=1)
    frames = found = rights = flipped_sides = 0
    ours, means, flip_px, presence, looks_right = [], {False: [], True: []}, [], [], []
    for _, image in track(frames_rgb(arguments.video, arguments.every), "frames"):
        frames += 1
        height, width = image.shape[:2]
        camera = camera_from_fov(width, height, ASSUMED_FOV_DEG, is_known=False)
        detections = detector(image, camera)
        if not detections:
            continue
        detection = detections[0]
        hand = estimator(image, camera, [detection])[0]
        found += 1
        rights += hand.is_right
        presence.append(hand.params.presence)
        looks_right.append(hand.params.right_logit > 0)
        ours.append(distance_over_box(hand.keypoints_px, detection))
        for flip, scores in means.items():
            scores.append(distance_over_box(mean_hand_px(estimator.hand_model, detection.box_px, flip), detection))
        flipped_image = mirror_picture(image)
        for flipped in estimator(flipped_image, camera, detector(flipped_image, camera)):
            flipped_sides += flipped.is_right != hand.is_right
            flip_px.append(flip_difference_px(hand, flipped, width))

    if not found:
        raise UserError(f"expected a hand in '{arguments.video}', but the detector finds none in {frames} frames; give another video")
    print(f"{frames} frames, a hand in {found / frames:.1%}, a right hand in {rights / found:.1%} of those")
    print(f"ours      median {np.median(ours):.4f}  95 % {np.percentile(ours, 95):.4f}  of the box")
    print(f"mean hand median {min(np.median(scores) for scores in means.values()):.4f}")
    print(f"presence  median {np.median(presence):.3f}, above one half in {np.mean(np.array(presence) > 0.5):.1%}")
    print(f"handedness logit agrees with the detector in {np.mean(looks_right):.1%}")
    print(f"mirrored  the other side in {flipped_sides / max(len(flip_px), 1):.1%}, median difference {np.median(flip_px):.3f} px")


def flip_difference_px(hand: Hand, flipped: Hand, width: int) -> float:
    """Mean distance of a hand's keypoints to the mirrored ones of its mirror image."""
    return float(np.linalg.norm(flipped.keypoints_px * (-1, 1) + (width - 1, 0) - hand.keypoints_px, axis=1).mean())


if __name__ == "__main__":
    sys.exit(guard("compare_to_detector", main))
