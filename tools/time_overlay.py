"""How long an overlay takes on 1280 x 720: one and two hands of 150, 300 and 600 px, against ray casting, drawn in turn, medians.

python tools/time_overlay.py [--rounds 20]

CPU is that of all threads. The rays are Open3D's, one a pixel of the hands' boxes: no edge is smoothed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from handmesh.bench.records import time_in_turn
from handmesh.geometry.camera import camera_from_fov, project, unproject
from handmesh.hand_model import HandModel, load_hand_model
from handmesh.hand_model.skinning import skin
from handmesh.records import Hand, HandParams
from handmesh.render.overlay import OPACITY, draw_overlay, prepare_overlay

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
    points_px = project(joints_m, CAMERA)
    return Hand(vertices_m, joints_m, points_px, points_px, np.eye(4), params, np.zeros(4), 1.0, True)


def cast_overlay(image_rgb: np.ndarray, hands: Sequence[Hand], hand_model: HandModel) -> None:
    """Grey hands over a picture, in place, by rays through the pixels of each hand's box."""
    import open3d as o3d

    scene = o3d.t.geometry.RaycastingScene()
    for hand in hands:
        faces = hand_model.faces_for(hand.is_right).astype(np.uint32)
        scene.add_triangles(o3d.core.Tensor(np.asarray(hand.vertices_m, np.float32)), o3d.core.Tensor(faces))
    for hand in hands:
        pixels = project(hand.vertices_m, CAMERA)
        (x0, y0), (x1, y1) = np.floor(pixels.min(axis=0)).astype(int), np.ceil(pixels.max(axis=0)).astype(int) + 1
        x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, CAMERA.width), min(y1, CAMERA.height)
        rays = np.zeros((y1 - y0, x1 - x0, 6), np.float32)
        rays[..., 3:] = unproject(np.stack(np.meshgrid(np.arange(x0, x1), np.arange(y0, y1)), axis=-1), CAMERA)
        hits = scene.cast_rays(o3d.core.Tensor(rays))
        is_hit = np.isfinite(hits["t_hit"].numpy())
        facing = np.abs(hits["primitive_normals"].numpy()[is_hit][:, 2:])
        part = image_rgb[y0:y1, x0:x1]
        part[is_hit] = (1 - OPACITY) * part[is_hit] + OPACITY * 255 * facing


def cpu_ms(run: Callable[[], object], count: int = 50) -> float:
    """Of all threads, in one run."""
    start = time.process_time()
    for _ in range(count):
        run()
    return 1e3 * (time.process_time() - start) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    prepare_overlay()
    model, image = load_hand_model(), np.full((720, 1280, 3), 90, np.uint8)
    runs: dict[str, Callable[[], object]] = {}
    for side_px in SIDES_PX:
        hand = upright_hand(side_px)
        shift_m = (0.6 * np.ptp(hand.vertices_m[:, 0]), 0, 0)
        pair = [replace(hand, vertices_m=hand.vertices_m + np.multiply(sign, shift_m)) for sign in (-1, 1)]
        for hands in ([hand], pair):
            name = f"{len(hands)} x {side_px} px"
            runs[name] = lambda hands=hands: draw_overlay(image, hands, model, CAMERA, in_place=True)
            runs[f"{name}, rays"] = lambda hands=hands: cast_overlay(image, hands, model)
    timings = time_in_turn(runs, arguments.rounds)
    for name, run in runs.items():
        timing = timings[name]
        print(f"{name:<18} median {timing.median_ms:6.2f} ms   p95 {timing.p95_ms:6.2f} ms   CPU {cpu_ms(run):6.2f} ms")


if __name__ == "__main__":
    main()
