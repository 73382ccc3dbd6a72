"""How long an overlay takes on 1280 x 720: one and two hands of 150, 300 and 600 px, drawn in turn, medians.

python tools/time_overlay.py [--rounds 20]
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np

from handmesh.bench.records import Timing, time_in_turn
from handmesh.geometry.camera import camera_from_fov, project
from handmesh.hand_model import load_hand_model
from handmesh.hand_model.skinning import skin
from handmesh.records import Hand, HandParams
from handmesh.render.overlay import draw_overlay, prepare_overlay

CAMERA = camera_from_fov(1280, 720, 65)
SIDES_PX = (150, 300, 600)


def upright_hand(side_px: float) -> Hand:
    """The relaxed hand, palm to the camera, whose larger side is so many pixels."""
    model = load_hand_model()
    params = HandParams(model.mean_rotmats(), np.zeros(10), np.array([7.0, 0, 0]), 1.0, 4.0)
    rest_m = skin(model, params.rotmats, params.betas)
    # The rest pose points along -x with the palm at -y: fingers up, palm to the camera.
    vertices_m = np.stack([-rest_m[:, 2], rest_m[:, 0], rest_m[:, 1]], axis=1)
    extent_m = np.ptp(vertices_m[:, :2], axis=0).max()
    vertices_m = vertices_m - vertices_m.mean(axis=0) + (0, 0, CAMERA.fx * extent_m / side_px)
    joints_m = model.joints(vertices_m)
    return Hand(vertices_m, joints_m, project(joints_m, CAMERA), np.eye(4), params, np.zeros(4), 1.0, True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    prepare_overlay()
    model, image = load_hand_model(), np.full((720, 1280, 3), 90, np.uint8)
    runs = {}
    for side_px in SIDES_PX:
        hand = upright_hand(side_px)
        shift_m = (0.6 * np.ptp(hand.vertices_m[:, 0]), 0, 0)
        pair = [replace(hand, vertices_m=hand.vertices_m + np.multiply(sign, shift_m)) for sign in (-1, 1)]
        for hands in ([hand], pair):
            name = f"{len(hands)} x {side_px} px"
            runs[name] = lambda hands=hands: draw_overlay(image, hands, model, CAMERA, in_place=True)
    timings: dict[str, Timing] = time_in_turn(runs, arguments.rounds)
    for name, timing in timings.items():
        print(f"{name:<12} median {timing.median_ms:6.2f} ms   p95 {timing.p95_ms:6.2f} ms")


if __name__ == "__main__":
    main()
