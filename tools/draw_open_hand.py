"""Draws the pictures in docs/open_hand/: named poses, what each beta does, three people, the dense twin and its masks.

python tools/draw_open_hand.py OUTDIR
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from handmesh.hand_model import HandModel, load_hand_model
from handmesh.hand_model.articulation import POSES, Anatomy, angles_to_rotmats
from handmesh.hand_model.assets import MASKS, load_surface_detail
from handmesh.hand_model.population import Sex, sample_betas
from handmesh.hand_model.skinning import shape_hand, skin
from handmesh.render.hand_command import breadth_of_mm
from handmesh.render.portrait import SKIN_RGB, Frame, caption, crop_white, draw_portrait, grid
from handmesh.skeleton import JOINTS
from handmesh.wholefile import replacing

SHOWN_POSES = ("rest", "fist", "point", "pinch", "spread", "thumbs_up", "ok")
COLOURS = 256
# Palm, nail, crease, knuckle.
MASK_RGB = ((0.86, 0.36, 0.33), (0.25, 0.45, 0.90), (0.10, 0.10, 0.10), (0.25, 0.65, 0.30))


def posed(model: HandModel, pose: str, betas: np.ndarray) -> np.ndarray:
    """(V, 3) metres."""
    return skin(model, angles_to_rotmats(Anatomy.of(model), POSES[pose].angles_deg()), betas)


def draw_poses(model: HandModel) -> np.ndarray:
    """Rows are views, columns poses, all at one scale."""
    hands_m = [posed(model, pose, np.zeros(10)) for pose in SHOWN_POSES]
    frame = Frame.around(hands_m)
    views = {"palm": "palm", "back": "back", "thumb": "thumb side"}
    rows = [crop_white([draw_portrait(hand_m, model.faces, view, frame, 285) for hand_m in hands_m], axes=[0]) for view in views]
    columns = []
    for pose, cells in zip(SHOWN_POSES, zip(*rows, strict=True), strict=True):
        tall = max(cell.shape[0] for cell in cells)
        padded = [np.pad(cell, ((tall - cell.shape[0], 0), (0, 0), (0, 0)), constant_values=255) for cell in cells]
        words = [f"{pose.replace('_', ' ')}, {view}" for view in views.values()]
        columns.append([caption(cell, each) for cell, each in zip(crop_white(padded, axes=[1], margin_px=12), words, strict=True)])
    return np.concatenate([np.concatenate(column) for column in columns], axis=1)


def draw_betas(model: HandModel) -> np.ndarray:
    """Two betas a row, each from two sides at -2, 0 and +2; redder where the beta moves the skin more, by its own measure."""
    values = (-2, 0, 2)
    mean_m = posed(model, "rest", np.zeros(10))
    hands_m = [posed(model, "rest", value * np.eye(10)[beta]) for beta in range(10) for value in values]
    frame = Frame.around(hands_m, margin=1.02)
    moved_mm = 1e3 * np.linalg.norm(np.reshape(hands_m, (10, len(values), -1, 3)) - mean_m, axis=-1)
    full_red_mm = moved_mm.max(axis=(1, 2))
    colours = [reddened_rgb(share) for share in (moved_mm / full_red_mm[:, None, None]).reshape(len(hands_m), -1)]
    # Cut alike over all betas, so that they can be compared.
    by_view = [
        crop_white([draw_portrait(hand_m, model.faces, view, frame, 220, rgb) for hand_m, rgb in zip(hands_m, colours, strict=True)])
        for view in ("palm", "thumb")
    ]
    blocks = []
    for beta, name in enumerate(model.beta_names):
        cells = [
            caption(cells[beta * len(values) + i], f"{value:+d}" if value else "0", 22)
            for cells in by_view
            for i, value in enumerate(values)
        ]
        blocks.append(caption(grid([cells]), f"beta {beta}: {name.replace('_', ' ')}, full red at {full_red_mm[beta]:.1f} mm", 30))
    whole = grid([blocks[row : row + 2] for row in range(0, len(blocks), 2)], gap_px=14)
    return caption(whole, "red: how far the skin is from the mean hand's; full red is each beta's own largest distance", 30)


def reddened_rgb(share: np.ndarray) -> np.ndarray:
    """(V, 3) colours between skin, where `share` (V,) is 0, and red, where it is 1."""
    return (1 - share[:, None]) * np.array(SKIN_RGB) + share[:, None] * np.array([0.85, 0.16, 0.12])


def draw_shapes(model: HandModel) -> np.ndarray:
    people = {
        "woman, 5th percentile": percentile_betas(model, "female", 5),
        "mean of all adults": np.zeros(10),
        "man, 95th percentile": percentile_betas(model, "male", 95),
    }
    hands_m = [posed(model, "rest", betas) for betas in people.values()]
    frame = Frame.around(hands_m)
    by_view = [
        crop_white([draw_portrait(hand_m, model.faces, view, frame, 290) for hand_m in hands_m]) for view in ("palm", "back", "thumb")
    ]
    blocks = []
    for index, (words, betas) in enumerate(people.items()):
        length_mm, breadth_mm = measures_mm(model, betas)
        text = f"{words}: wrist to tip {length_mm:.0f} mm, breadth {breadth_mm:.0f} mm"
        blocks.append(caption(grid([[cells[index] for cells in by_view]]), text, 30))
    return grid([blocks], gap_px=10)


def measures_mm(model: HandModel, betas: np.ndarray) -> tuple[float, float]:
    """Length from the wrist joint to the middle fingertip, and breadth as calipers find it."""
    joints_m = model.joints(shape_hand(model, betas)[0])
    wrist, tip = (joints_m[JOINTS.index(name)] for name in ("wrist", "middle_tip"))
    return 1e3 * float(np.linalg.norm(tip - wrist)), breadth_of_mm(model, betas)


def percentile_betas(model: HandModel, sex: Sex, percentile: float) -> np.ndarray:
    """(10,) the mean of those near a percentile of hand length in their sex."""
    crowd = sample_betas(np.random.default_rng(0), sex, 2000)
    lengths_mm = np.array([measures_mm(model, betas)[0] for betas in crowd])
    near = np.abs(np.argsort(np.argsort(lengths_mm)) - percentile / 100 * len(crowd)) < 0.01 * len(crowd)
    return crowd[near].mean(axis=0)


def draw_dense() -> np.ndarray:
    """The dense twin's skin, the same with its masks in colours, and its texture coordinates over the texture's square."""
    model, detail = load_hand_model("open-dense"), load_surface_detail()
    colours = np.tile(SKIN_RGB, (len(model.template_m), 1))
    for mask, rgb in zip(detail.masks.T[..., None], MASK_RGB, strict=True):
        colours = colours * (1 - 0.8 * mask) + 0.8 * mask * np.array(rgb)
    frame = Frame.around([model.template_m])
    cells = [draw_portrait(model.template_m, model.faces, view, frame, 380, rgb) for rgb in (None, colours) for view in ("palm", "back")]
    close = Frame(model.template_m[model.tip_vertices[2]] + np.array([0.022, 0.0, 0.0]), 0.07)
    cells.append(draw_portrait(model.template_m, model.faces, "back", close, 380))
    # Drawn large and shrunk: lines of a third of a pixel.
    side = 3 * 380
    corners = (np.clip(detail.uv * (1, -1) + (0, 1), 0, 1) * (side - 1)).round().astype(np.int32)[detail.uv_faces]
    texture = np.full((side, side, 3), 255, np.uint8)
    cv2.polylines(texture, list(corners), True, (90, 90, 90), 1, cv2.LINE_AA)
    texture = cv2.resize(texture, (380, 380), interpolation=cv2.INTER_AREA)
    masks = [f"masks: {', '.join(MASKS[::2])}", f"masks: {', '.join(MASKS[1::2])}"]
    words = ["palm", "back", *masks, "nails", "texture coordinates (islands side by side)"]
    captioned = [caption(cell, each) for cell, each in zip([*cells, texture], words, strict=True)]
    return grid([captioned[:3], captioned[3:]])


def save_small(image: np.ndarray, path: Path) -> None:
    """A png with a palette: a third of the bytes."""
    with replacing(path) as temporary:
        Image.fromarray(image).quantize(COLOURS, kmeans=2, dither=Image.Dither.NONE).save(temporary, optimize=True)
    print(f"{path}: {image.shape[1]} x {image.shape[0]} px, {path.stat().st_size / 1e3:.0f} kB")


def main(arguments: Sequence[str]) -> None:
    if len(arguments) != 1:
        sys.exit("usage: python tools/draw_open_hand.py OUTDIR")
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    model = load_hand_model("open")
    for name, draw in (("poses", draw_poses), ("betas", draw_betas), ("shapes", draw_shapes)):
        save_small(draw(model), folder / f"{name}.png")
    save_small(draw_dense(), folder / "dense.png")


if __name__ == "__main__":
    main(sys.argv[1:])
