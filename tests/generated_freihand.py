"""A small folder of exactly FreiHAND's layout, with made-up hands that can be learnt from their pictures."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import cv2
import numpy as np
from generated_mano import mano_pickle, right_arrays

from handmesh.geometry.rotation import rotvec_to_rotmat
from handmesh.hand_model import HandModel
from handmesh.hand_model.mano import read_mano
from handmesh.hand_model.mano_params import FreiHandParams, freihand_points, params_to_freihand
from handmesh.skeleton import BONES, ROOT

SIZE_PX = 224
_FOCAL_PX = 480.0
# Of a finger, against its bones' 25 mm.
_RADIUS_M = 0.009
# Each bone's own colour, which versions tint.
_PALETTE = np.random.default_rng(0).uniform(100, 255, (len(BONES), 3))


def mano_shaped_model() -> HandModel:
    """A right hand of MANO's sizes and id, through the importer that reads MANO."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "MANO_RIGHT.pkl"
        path.write_bytes(mano_pickle(right_arrays()))
        return read_mano(path).model


def make_freihand(folder: Path, model: HandModel, count: int = 16, versions: int = 4, seed: int = 0, evaluation: int = 0) -> Path:
    """Write a training split, and an evaluation split when asked for.

    Args:
        folder: is made if it is not there.
        model: whose parameters, vertices and joints are written.
        count: hands of the training split.
        versions: colourings of each of them.
        evaluation: hands of the evaluation split.

    Returns:
        The folder.
    """
    _make_split(folder, "training", model, count, versions, np.random.default_rng([seed, 0]))
    if evaluation:
        _make_split(folder, "evaluation", model, evaluation, 1, np.random.default_rng([seed, 1]))
    return folder


def random_hands(model: HandModel, count: int, rng: np.random.Generator) -> tuple[FreiHandParams, np.ndarray]:
    """Hands inside the picture of cameras like FreiHAND's: parameters in the camera, and K (count, 3, 3)."""
    rotvecs = np.concatenate([np.zeros((1, 3)), model.mean_pose]) + rng.normal(0, 0.2, (count, 16, 3))
    # The palm or the back towards the camera, rolled any way, tilted a little.
    roll = rotvec_to_rotmat(np.stack([np.zeros(count), np.zeros(count), rng.uniform(-np.pi, np.pi, count)], axis=1))
    facing = rotvec_to_rotmat(np.array([-np.pi / 2, 0, 0]) * rng.choice([-1, 1], (count, 1)))
    rotmats = rotvec_to_rotmat(rotvecs)
    rotmats[:, 0] = roll @ rotvec_to_rotmat(rng.normal(0, 0.3, (count, 3))) @ facing
    focal_px = _FOCAL_PX * rng.uniform(0.95, 1.1, count)
    K = np.zeros((count, 3, 3))
    K[:, 0, 0], K[:, 1, 1], K[:, 2, 2] = focal_px, 1.002 * focal_px, 1
    K[:, :2, 2] = SIZE_PX / 2 + rng.uniform(-4, 4, (count, 2))
    root_m = np.concatenate([rng.uniform(-0.01, 0.01, (count, 2)), rng.uniform(0.42, 0.52, (count, 1))], axis=1)
    return FreiHandParams(rotmats, rng.normal(0, 0.7, (count, 10)), root_m), K


def _make_split(folder: Path, split: str, model: HandModel, count: int, versions: int, rng: np.random.Generator) -> None:
    model = model.astype(np.float64)
    params, K = random_hands(model, count, rng)
    verts_m, xyz_m = freihand_points(model, params)
    entries = {
        "K": K,
        "mano": params_to_freihand(model, params, K)[:, None],
        "xyz": xyz_m,
        "verts": verts_m,
        "scale": np.linalg.norm(xyz_m[:, ROOT] - xyz_m[:, ROOT + 1], axis=1),
    }
    for name in ("rgb", "mask") if split == "training" else ("rgb",):
        (folder / split / name).mkdir(parents=True, exist_ok=True)
    for name, values in entries.items():
        (folder / f"{split}_{name}.json").write_text(json.dumps(values.tolist()))
    for hand in range(count):
        for version in range(versions):
            picture, mask = draw_hand(xyz_m[hand], K[hand], _PALETTE * rng.uniform(0.6, 1.0, 3), _background(rng))
            _write(folder / split / "rgb" / f"{hand + version * count:08d}.jpg", picture)
            if version == 0 and split == "training":
                _write(folder / split / "mask" / f"{hand:08d}.jpg", mask)


def _background(rng: np.random.Generator) -> np.ndarray:
    """(S, S, 3) uint8, dark and smooth."""
    return cv2.resize(rng.integers(0, 90, (4, 4, 3)).astype(np.uint8), (SIZE_PX, SIZE_PX), interpolation=cv2.INTER_LINEAR)


def draw_hand(xyz_m: np.ndarray, K: np.ndarray, palette: np.ndarray, background: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bones as thick lines, the nearest last, lighter where they are nearer.

    Args:
        xyz_m: (21, 3) joints in the camera.
        palette: (20, 3) 0..255, a colour a bone.
        background: (H, W, 3) uint8.

    Returns:
        (H, W, 3) uint8 picture, and (H, W) uint8 mask, 255 on the hand.
    """
    picture, mask = background.copy(), np.zeros(background.shape[:2], np.uint8)
    seen = xyz_m @ K.T
    uv_px = np.rint(seen[:, :2] / seen[:, 2:]).astype(int)
    depth_m = xyz_m[np.array(BONES)].mean(axis=1)[:, 2]
    for bone in np.argsort(-depth_m):
        child, parent = BONES[bone]
        shade = np.clip(1 - (depth_m[bone] - depth_m.min()) / 0.15, 0.4, 1)
        thickness = max(1, round(2 * _RADIUS_M * K[0, 0] / depth_m[bone]))
        start, end = uv_px[child].tolist(), uv_px[parent].tolist()
        cv2.line(picture, start, end, (shade * palette[bone]).tolist(), thickness, cv2.LINE_AA)
        cv2.line(mask, start, end, (255,), thickness)
    return picture, mask


def _write(path: Path, picture: np.ndarray) -> None:
    path.write_bytes(cv2.imencode(".jpg", picture, (cv2.IMWRITE_JPEG_QUALITY, 95))[1].tobytes())
