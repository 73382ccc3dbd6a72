"""Draw docs/gallery: animations of rendered clips with what the embedded network makes of them.

    python tools/draw_gallery.py [NAME ...] [--out docs/gallery]

Everything that is shown is the estimator's answer, never the truth. The clips are rendered by `synthetic.clip`, with a webcam's noise.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from rich.progress import track

from handmesh.bench.motion import CAMERA, FPS, NOISE, SIZE
from handmesh.cli import guard
from handmesh.errors import UserError
from handmesh.estimator import HandMeshEstimator
from handmesh.hand_model import HandModel, load_hand_model
from handmesh.live.command import DEMO_CLIP
from handmesh.live.sources import open_source
from handmesh.records import Hand
from handmesh.render.orbit import Orbit, draw_view, follow
from handmesh.render.overlay import draw_overlay
from handmesh.skeleton import ROOT
from handmesh.synthetic.clip import script_frames
from handmesh.synthetic.scripts import crossing_hands, leaving_hand, still_hand
from handmesh.synthetic.surface import HandSurface
from handmesh.wholefile import replacing

# One frame of the animation for so many of the clip.
_STEP = 3
_PANEL = (360, 270)
_QUALITY = 62
# Over the clip, the viewpoint goes this far to either side.
_SWAY_DEG = 35.0


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"which to draw, of {', '.join(GALLERY)}; all without")
    parser.add_argument("--out", type=Path, default=Path("docs/gallery"), help="folder to write to")
    arguments = parser.parse_args(argv)
    if unknown := [name for name in arguments.names if name not in GALLERY]:
        raise UserError(f"expected names of {', '.join(GALLERY)}, got '{unknown[0]}'")
    model = load_hand_model("open")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.names or GALLERY:
        _write(list(track(GALLERY[name](model), name)), arguments.out / f"{name}.webp")


def draw_demo(model: HandModel) -> Iterator[np.ndarray]:
    """The embedded clip: everyday poses of one hand, then of two."""
    yield from _beside(model, (frame.image_rgb for frame in open_source(str(DEMO_CLIP), None)))


def draw_crossing(model: HandModel) -> Iterator[np.ndarray]:
    """Two hands that change places twice, one behind the other."""
    surface = HandSurface.of(model)
    yield from _beside(model, _noisy(script_frames(surface, crossing_hands(surface, 180, seed=2), 2, SIZE)))


def draw_leaving(model: HandModel) -> Iterator[np.ndarray]:
    """A hand that leaves the picture and comes back."""
    surface = HandSurface.of(model)
    yield from _beside(model, _noisy(script_frames(surface, leaving_hand(surface, 120, FPS, seed=1), 1, SIZE)))


def draw_smoothing(model: HandModel) -> Iterator[np.ndarray]:
    """A hand that does not move, under a webcam's noise: unsmoothed on the left, with the default smoothing on the right."""
    surface = HandSurface.of(model)
    (frame,) = script_frames(surface, still_hand(surface, 1), 0, SIZE)
    frames = list(_noisy([frame] * 120))
    followed = [[hands for _, hands in _follow(model, frames, smooth)] for smooth in (0.0, 0.5)]
    target = followed[1][-1][0].joints_m[ROOT]
    # From the side, where distance is seen.
    orbit = Orbit(-80.0, 5.0, 0.35, (float(target[0]), float(target[1]), float(target[2])))
    for index in range(30, len(frames), 2):
        views = [draw_view(hands[index], model, CAMERA, orbit, *_PANEL, draws_bones=True) for hands in followed]
        for view, text in zip(views, ("--smooth 0", "--smooth 0.5 (default)"), strict=True):
            cv2.putText(view, text, (10, 22), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (235, 235, 235), 1, cv2.LINE_AA)
        yield np.concatenate(views, axis=1)


GALLERY: dict[str, Callable[[HandModel], Iterator[np.ndarray]]] = {
    "demo": draw_demo,
    "crossing": draw_crossing,
    "leaving": draw_leaving,
    "smoothing": draw_smoothing,
}


def _beside(model: HandModel, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The overlay, and beside it the hands in space from a viewpoint that sways."""
    followed = list(_follow(model, frames, 0.5))
    orbit = Orbit(distance_m=0.8)
    for index, (image, hands) in enumerate(followed):
        orbit = follow(orbit, hands, 1 / FPS if index else 100.0)
        if index % _STEP:
            continue
        sway_deg = _SWAY_DEG * np.sin(2 * np.pi * index / len(followed))
        overlay = cv2.resize(draw_overlay(image, hands, model, CAMERA), _PANEL, interpolation=cv2.INTER_AREA)
        view = draw_view(hands, model, CAMERA, replace(orbit, yaw_deg=sway_deg), *_PANEL, picture_rgb=image)
        yield np.concatenate([overlay, view], axis=1)


def _follow(model: HandModel, frames: Iterable[np.ndarray], smooth: float) -> Iterator[tuple[np.ndarray, list[Hand]]]:
    with HandMeshEstimator(hand_model=model, camera=CAMERA, smooth=smooth) as estimator:
        for index, image in enumerate(frames):
            yield image, estimator.track(image, index / FPS)


def _noisy(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    for frame in frames:
        yield cv2.convertScaleAbs(np.maximum(frame + rng.normal(0, NOISE, frame.shape), 0))


def _write(pictures: Sequence[np.ndarray], path: Path) -> None:
    first, *others = map(Image.fromarray, pictures)
    with replacing(path) as temporary:
        step_ms = round(1e3 * _STEP / FPS)
        first.save(temporary, "WEBP", save_all=True, append_images=others, duration=step_ms, loop=0, quality=_QUALITY, method=4)
    print(f"{path}: {len(pictures)} frames, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    sys.exit(guard("draw_gallery", main))
