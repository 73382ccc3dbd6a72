"""Light from all around, and what stands behind the hand: panoramas or procedural pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from handmesh.errors import UserError
from handmesh.geometry.rotation import rotvec_to_rotmat
from handmesh.synthetic import raster
from handmesh.synthetic.poses import random_rotation
from handmesh.synthetic.surface import random_rgb, srgb_to_linear

LUMINANCE = np.array([0.2126, 0.7152, 0.0722], dtype=np.float32)
_PANORAMA_HEIGHT = 512


@dataclass(frozen=True)
class Panorama:
    """An equirectangular picture of all around, white-balanced, mean luminance 1.

    Attributes:
        rgb: (H, 2H, 3) f32 linear, y down.
        ambient: (3, 4, 4) quadratic forms of the light that falls on a surface, by its normal in the panorama's frame.
    """

    rgb: np.ndarray
    ambient: np.ndarray


def load_panoramas(folder: Path | None) -> tuple[Panorama, ...]:
    """Read a folder's .hdr files in the order of their names; None gives none.

    Raises:
        UserError: no such folder, no .hdr file in it, or one that cannot be read.
    """
    if folder is None:
        return ()
    paths = sorted(Path(folder).glob("*.hdr")) if Path(folder).is_dir() else []
    if not paths:
        raise UserError(
            f"expected a folder of equirectangular .hdr files, got '{folder}', which has none; leave --hdri out to draw backgrounds"
        )
    return tuple(_load_panorama(path) for path in paths)


def _load_panorama(path: Path) -> Panorama:
    bgr = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    if bgr is None or bgr.ndim != 3:
        raise UserError(f"expected an equirectangular .hdr picture, got '{path}', which cannot be read; remove it from the folder")
    rgb = cv2.resize(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), (2 * _PANORAMA_HEIGHT, _PANORAMA_HEIGHT), interpolation=cv2.INTER_AREA)
    rgb = np.maximum(rgb.astype(np.float32), 0)
    upright = np.sin((np.arange(_PANORAMA_HEIGHT) + 0.5) / _PANORAMA_HEIGHT * np.pi)[:, None]
    # The sun is some thousand times the sky: it counts as light, but not without bound.
    bright = np.minimum(rgb, 60 * np.median(rgb @ LUMINANCE))
    mean = (bright * upright[..., None]).sum(axis=(0, 1)) / (upright.sum() * bright.shape[1])
    # A camera's white balance takes most of the tint of a place away, not all.
    rgb = rgb / (mean**0.85 * (mean @ LUMINANCE) ** 0.15)
    rgb = np.minimum(rgb, 60 * np.median(rgb @ LUMINANCE)).astype(np.float32)
    return Panorama(rgb, irradiance(rgb))


def irradiance(rgb: np.ndarray) -> np.ndarray:
    """(3, 4, 4) quadratic forms of irradiance over pi (Ramamoorthi & Hanrahan 2001) of an equirectangular (H, 2H, 3)."""
    small = cv2.resize(rgb, (64, 32), interpolation=cv2.INTER_AREA).astype(np.float64)
    lat = (np.arange(32) + 0.5) / 32 * np.pi - np.pi / 2
    lon = (np.arange(64) + 0.5) / 64 * 2 * np.pi
    x = np.cos(lat)[:, None] * np.sin(lon)
    y = np.repeat(np.sin(lat)[:, None], 64, axis=1)
    z = np.cos(lat)[:, None] * np.cos(lon)
    area = np.cos(lat)[:, None] * (np.pi / 32) ** 2
    basis = np.stack(
        [
            *(0.282095 * np.ones_like(x), 0.488603 * y, 0.488603 * z, 0.488603 * x),
            *(1.092548 * x * y, 1.092548 * y * z, 0.315392 * (3 * z * z - 1), 1.092548 * x * z, 0.546274 * (x * x - y * y)),
        ]
    )
    lengths = np.einsum("nhw,hwc,hw->cn", basis, small, area)
    c1, c2, c3, c4, c5 = 0.429043, 0.511664, 0.743125, 0.886227, 0.247708
    forms = [
        [
            [c1 * q[8], c1 * q[4], c1 * q[7], c2 * q[3]],
            [c1 * q[4], -c1 * q[8], c1 * q[5], c2 * q[1]],
            [c1 * q[7], c1 * q[5], c3 * q[6], c2 * q[2]],
            [c2 * q[3], c2 * q[1], c2 * q[2], c4 * q[0] - c5 * q[6]],
        ]
        for q in lengths
    ]
    return np.array(forms) / np.pi


@dataclass(frozen=True)
class Light:
    """All light on a hand, in the camera's frame, scaled so that a surface towards the camera gets about 1.

    Attributes:
        ambient: (3, 4, 4) f32.
        direction: (3,) f32 unit, towards the lamp.
        rgb: (3,) f32 the lamp's strength.
    """

    ambient: np.ndarray
    direction: np.ndarray
    rgb: np.ndarray


def sample_light(rng: np.random.Generator, panorama: Panorama | None, R_world_camera: np.ndarray) -> Light:
    """Light of a panorama (turned with the background, or on its own) or of a soft sky, and one lamp."""
    if panorama is None:
        ambient = _soft_sky(rng)
        R_light_camera = rotvec_to_rotmat(rng.normal(0, 0.5, 3))
    else:
        ambient = panorama.ambient
        R_light_camera = R_world_camera if rng.random() < 0.6 else random_rotation(rng)
    turn = np.eye(4)
    turn[:3, :3] = R_light_camera
    ambient = turn.T @ ambient @ turn
    # Lamps hang above more often than they stand below (y is down), and in front more often than behind.
    direction = rng.normal(0, 1, 3) + np.array([0.0, -0.8, -0.7])
    direction /= np.linalg.norm(direction)
    strength = rng.uniform(0, 1.6) if rng.random() < 0.8 else 0.0
    tint = 1 + rng.normal(0, 0.05) * np.array([1.0, 0.1, -1.0])
    normals = np.array([[0.0, 0, -1, 1], [0.6, 0, -0.8, 1], [-0.6, 0, -0.8, 1], [0, -0.6, -0.8, 1]])
    facing = np.einsum("ni,cij,nj->nc", normals, ambient, normals).mean(axis=0) @ LUMINANCE
    ambient = ambient / max(facing, 0.05)
    scale = 1 / (1 + strength * max(0.3, -0.7 * direction[2]))
    return Light((ambient * scale).astype(np.float32), direction.astype(np.float32), (strength * scale * tint).astype(np.float32))


def _soft_sky(rng: np.random.Generator) -> np.ndarray:
    """(3, 4, 4) forms: even light, more of it from one side, mildly tinted."""
    forms = np.zeros((3, 4, 4))
    side = rng.normal(0, 1, 3) + np.array([0.0, -1.0, -0.5])
    side *= rng.uniform(0, 0.35) / np.linalg.norm(side)
    tint = 1 + rng.normal(0, 0.04) * np.array([1.0, 0.0, -1.0])
    forms[:, 3, 3] = tint
    forms[:, :3, 3] = forms[:, 3, :3] = tint[:, None] * side
    return forms


def panorama_background(rng: np.random.Generator, panorama: Panorama, R_world_camera: np.ndarray, size_px: int) -> np.ndarray:
    """(S, S, 3) f32 linear view of a panorama; its field of view is its own, not the hand's."""
    rgb = np.empty((size_px, size_px, 3), np.float32)
    focal_px = size_px * np.exp(rng.uniform(np.log(0.6), np.log(3.0)))
    raster.look_through(panorama.rgb, R_world_camera, focal_px, size_px, rgb)
    return rgb


def sample_view(rng: np.random.Generator) -> np.ndarray:
    """(3, 3) R_world_camera of somebody holding a camera: any heading, some pitch, a little roll."""
    heading, pitch, roll = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.4), rng.normal(0, 0.2)
    return (
        rotvec_to_rotmat(np.array([0, heading, 0.0])) @ rotvec_to_rotmat(np.array([pitch, 0, 0])) @ rotvec_to_rotmat(np.array([0, 0, roll]))
    )


def procedural_background(rng: np.random.Generator, size_px: int, skin: np.ndarray) -> np.ndarray:
    """(S, S, 3) f32 linear: a gradient, then shapes, stripes and stains, some of them in the colour of skin."""
    s = size_px
    corners = np.stack([random_rgb(rng), random_rgb(rng)]) if rng.random() < 0.5 else random_rgb(rng) * rng.uniform(0.5, 1.3, (2, 1))
    turned = rng.random() < 0.5
    ramp = np.linspace(0, 1, s, dtype=np.float32)[:, None, None]
    column = (corners[0] * (1 - ramp) + corners[1] * ramp).astype(np.float32)
    picture = np.ascontiguousarray(np.broadcast_to(column.transpose(1, 0, 2) if turned else column, (s, s, 3)))
    if rng.random() < 0.7:
        for _ in range(rng.integers(1, 12)):
            _draw_shape(rng, picture, skin * rng.uniform(0.5, 1.2) if rng.random() < 0.15 else random_rgb(rng))
    if rng.random() < 0.3:
        # A striped or chequered cloth.
        angle, period = rng.uniform(0, np.pi), rng.uniform(4, 40)
        x = np.arange(s, dtype=np.float32)
        wave = np.sin((np.cos(angle) * x[None] + np.sin(angle) * x[:, None]) * (2 * np.pi / period) + rng.uniform(0, 6)) * rng.uniform(
            2, 20
        )
        picture += np.clip(wave, 0, 1)[..., None] * (random_rgb(rng) - picture) * rng.uniform(0.3, 1)
        picture = picture.astype(np.float32)
    if rng.random() < 0.6:
        cells = int(rng.integers(3, 40))
        stains = cv2.resize(rng.normal(0, 1, (cells, cells)).astype(np.float32), (s, s), interpolation=cv2.INTER_CUBIC)
        picture *= np.clip(1 + rng.uniform(0.05, 0.4) * stains, 0.1, 3)[..., None]
    if rng.random() < 0.5:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.5, 6))
    return np.ascontiguousarray(picture, dtype=np.float32)


def _draw_shape(rng: np.random.Generator, picture: np.ndarray, rgb: np.ndarray) -> None:
    s = len(picture)
    colour = tuple(float(c) for c in rgb)
    middle = tuple(int(v) for v in rng.uniform(0, s, 2))
    kind = rng.integers(4)
    if kind == 0:
        cv2.ellipse(
            picture, middle, (int(rng.uniform(2, s / 3)), int(rng.uniform(2, s / 3))), rng.uniform(0, 180), 0, 360, colour, -1, cv2.LINE_AA
        )
    elif kind == 1:
        box = cv2.boxPoints((middle, tuple(rng.uniform(3, s / 1.5, 2).tolist()), float(rng.choice([0.0, rng.uniform(0, 90)]))))
        cv2.fillConvexPoly(picture, box.astype(np.int32), colour, cv2.LINE_AA)
    elif kind == 2:
        cv2.line(picture, middle, tuple(int(v) for v in rng.uniform(0, s, 2)), colour, int(rng.integers(1, 14)), cv2.LINE_AA)
    else:
        cv2.fillPoly(picture, [rng.uniform(-0.2 * s, 1.2 * s, (5, 2)).astype(np.int32)], colour, cv2.LINE_AA)


def gamma_table() -> np.ndarray:
    """(4097,) f32: linear light 0..1 to sRGB 0..1."""
    shown = np.linspace(0, 1, 1024)
    return np.interp(np.linspace(0, 1, 4097), srgb_to_linear(shown), shown).astype(np.float32)
