"""A hand model by itself, drawn for documents and for `handmesh-hand show`: parallel rays, soft light, no display."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from handmesh.geometry.rotation import MIRROR_X
from handmesh.hand_model.meshfile import vertex_normals

Direction = tuple[float, float, float]
View = Literal["palm", "back", "thumb", "little", "front"]
VIEWS: dict[str, tuple[Direction, Direction]] = {
    # (towards the eye, up) in MANO's rest frame: fingers -x, palm -y, thumb +z.
    "palm": ((0, -1, 0), (-1, 0, 0)),
    "back": ((0, 1, 0), (-1, 0, 0)),
    "thumb": ((0, 0, 1), (-1, 0, 0)),
    "little": ((0, 0, -1), (-1, 0, 0)),
    "front": ((-1, -0.25, 0), (0, 1, 0)),
}
SKIN_RGB = (0.93, 0.70, 0.58)
BACK_FACE_RGB = (0.25, 0.35, 0.9)
_INK = (70, 70, 70)
_SAMPLES = 2
# Skin within this distance takes light from a place: fingers darken where they touch.
_SHADE_REACH_M = 0.03
_SHADE_RAYS = 48


@dataclass(frozen=True)
class Frame:
    """What a portrait shows: `width_m` metres of the hand's frame around `centre_m` (3,)."""

    centre_m: np.ndarray
    width_m: float

    @staticmethod
    def around(vertices_m: Sequence[np.ndarray], margin: float = 1.06) -> Frame:
        """A frame that holds all of these hands (V, 3) in every view along an axis."""
        points = np.concatenate(vertices_m)
        low, high = points.min(axis=0), points.max(axis=0)
        return Frame((low + high) / 2, float(margin * (high - low).max()))


def draw_portrait(
    vertices_m: np.ndarray,
    faces: np.ndarray,
    view: View | str | tuple[Direction, Direction],
    frame: Frame,
    size_px: int = 320,
    vertex_rgb: np.ndarray | None = None,
) -> np.ndarray:
    """One hand on white.

    Args:
        vertices_m: (V, 3) in the model's frame.
        faces: (F, 3) counter-clockwise from outside; triangles seen from behind are drawn blue, so that holes and folds show.
        view: a name in `VIEWS`, or (towards the eye, up); `left_view` for a left hand.
        frame: what fits into the picture.
        size_px: side of the square picture.
        vertex_rgb: (V, 3) in 0..1; None for plain skin.

    Returns:
        (size_px, size_px, 3) uint8 RGB.
    """
    import open3d as o3d

    towards, right, up = _axes(VIEWS[view] if isinstance(view, str) else view)
    count = _SAMPLES * size_px
    steps = (np.arange(count) + 0.5) / count - 0.5
    across, down = np.meshgrid(steps * frame.width_m, -steps * frame.width_m)
    start = frame.centre_m + 2 * frame.width_m * towards + across[..., None] * right + down[..., None] * up
    rays = np.concatenate([start, np.broadcast_to(-towards, start.shape)], axis=-1).astype(np.float32)
    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(o3d.core.Tensor(vertices_m.astype(np.float32)), o3d.core.Tensor(faces.astype(np.uint32)))
    hits = scene.cast_rays(o3d.core.Tensor(rays))
    is_hit = np.isfinite(hits["t_hit"].numpy())
    corners = faces[hits["primitive_ids"].numpy()[is_hit]]
    u, v = hits["primitive_uvs"].numpy()[is_hit].T
    weights = np.stack([1 - u - v, u, v], axis=1)[..., None]

    vertex_n = vertex_normals(vertices_m, faces)
    normals = (vertex_n[corners] * weights).sum(axis=1)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    openness = (_openness(scene, vertices_m, vertex_n)[corners] * weights[..., 0]).sum(axis=1)
    is_back = (hits["primitive_normals"].numpy()[is_hit] @ towards) < 0
    colours = np.full((len(vertices_m), 3), SKIN_RGB) if vertex_rgb is None else vertex_rgb
    rgb = (colours[corners] * weights).sum(axis=1) * _light(normals, openness, towards, right, up)[:, None]
    rgb[is_back] = BACK_FACE_RGB
    image = np.ones((count, count, 3))
    image[is_hit] = np.clip(rgb, 0, 1)
    small = image.reshape(size_px, _SAMPLES, size_px, _SAMPLES, 3).mean(axis=(1, 3))
    return (255 * small).round().astype(np.uint8)


def left_view(view: View | str | tuple[Direction, Direction]) -> tuple[Direction, Direction]:
    """The view of a left hand (`skinning.mirror_points`) that mirrors the same view of the right hand."""
    towards, up = VIEWS[view] if isinstance(view, str) else view
    return _mirrored(towards), _mirrored(up)


def caption(image: np.ndarray, text: str, height_px: int = 26) -> np.ndarray:
    """The picture (H, W, 3) with a strip of text under it, centred; the text shrinks to the picture's width."""
    from PIL import Image, ImageDraw, ImageFont

    width = image.shape[1]
    strip = Image.new("RGB", (width, height_px), "white")
    draw = ImageDraw.Draw(strip)
    size_px = 0.62 * height_px
    font = ImageFont.load_default(size_px)
    length = draw.textlength(text, font=font)
    if length > 0.96 * width:
        font = ImageFont.load_default(size_px * 0.96 * width / length)
    draw.text((width / 2, height_px / 2), text, fill=_INK, font=font, anchor="mm")
    return np.concatenate([image, np.asarray(strip)])


def grid(rows: Sequence[Sequence[np.ndarray]], gap_px: int = 0) -> np.ndarray:
    """Rows of pictures (H, W, 3) of one size as one picture, with white between them."""

    def padded(image: np.ndarray) -> np.ndarray:
        return np.pad(image, ((0, gap_px), (0, gap_px), (0, 0)), constant_values=255)

    whole = np.concatenate([np.concatenate([padded(image) for image in row], axis=1) for row in rows])
    return whole[: whole.shape[0] - gap_px, : whole.shape[1] - gap_px]


def crop_white(images: Sequence[np.ndarray], axes: Sequence[int] = (0, 1), margin_px: int = 4) -> list[np.ndarray]:
    """Pictures of one size, cut alike to what is not white in any of them: in height (axis 0), in width (axis 1), or both."""
    used = np.any([(image < 255).any(axis=-1) for image in images], axis=0)
    if not used.any():
        return list(images)
    spans = [slice(None), slice(None)]
    for axis in axes:
        where = np.flatnonzero(used.any(axis=1 - axis))
        spans[axis] = slice(max(0, where[0] - margin_px), where[-1] + 1 + margin_px)
    return [image[spans[0], spans[1]] for image in images]


def _mirrored(direction: Direction) -> Direction:
    x, y, z = (MIRROR_X @ direction).tolist()
    return (x, y, z)


def _axes(view: tuple[Direction, Direction]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    towards, up = (np.array(direction, np.float64) for direction in view)
    towards /= np.linalg.norm(towards)
    right = np.cross(up, towards)
    right /= np.linalg.norm(right)
    return towards, right, np.cross(towards, right)


def _openness(scene: Any, vertices_m: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """(V,) 1 where a vertex sees the sky all around its normal, less where near skin hides it (ambient occlusion)."""
    import open3d as o3d

    # Evenly over the sphere: a Fibonacci lattice.
    k = np.arange(_SHADE_RAYS) + 0.5
    z, turn = 1 - 2 * k / _SHADE_RAYS, np.pi * (1 + 5**0.5) * k
    sky = np.stack([np.sqrt(1 - z**2) * np.cos(turn), np.sqrt(1 - z**2) * np.sin(turn), z], axis=1)
    cosines = np.maximum(normals @ sky.T, 0)
    vertex, ray = np.nonzero(cosines > 0.05)
    start = vertices_m[vertex] + 5e-4 * normals[vertex]
    hits = scene.cast_rays(o3d.core.Tensor(np.concatenate([start, sky[ray]], axis=1).astype(np.float32)))
    hidden = np.clip(1 - hits["t_hit"].numpy() / _SHADE_REACH_M, 0, 1) * cosines[vertex, ray]
    totals = np.bincount(vertex, cosines[vertex, ray], len(vertices_m))
    return 1 - np.bincount(vertex, hidden, len(vertices_m)) / np.maximum(totals, 1e-9)


def _light(normals: np.ndarray, openness: np.ndarray, towards: np.ndarray, right: np.ndarray, up: np.ndarray) -> np.ndarray:
    """(N,) brightness: ambient, a key light from above on the left, a weak fill from the right; all weaker in folds."""
    light = np.full(len(normals), 0.20)
    # Far from the eye's direction, so that shallow shapes such as knuckles cast their own shade.
    for direction, share in ((0.55 * towards + 0.7 * up - 0.75 * right, 0.66), (0.6 * towards + 0.8 * right, 0.22), (towards, 0.22)):
        light += share * np.clip(normals @ (direction / np.linalg.norm(direction)), 0, 1)
    return light * (0.3 + 0.7 * openness)
