"""Hands drawn over a picture by casting rays on the CPU (Open3D's RaycastingScene): no GL, no display.

Rays come from `geometry.camera.unproject`, so every camera that the rest of handmesh knows (fx != fy, off-centre
principal point, distortion) is drawn with the same half pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from handmesh.geometry.camera import project, unproject
from handmesh.hand_model.meshfile import vertex_normals
from handmesh.records import Camera, Hand

if TYPE_CHECKING:
    from handmesh.hand_model import HandModel

# Linear-looking sRGB in 0..1: warm for right hands, cool for left ones.
RIGHT_RGB = (0.96, 0.67, 0.50)
LEFT_RGB = (0.47, 0.70, 0.95)
OPACITY = 0.88

# Boxes of more pixels are cast at a lower resolution and enlarged, so that time per hand is bounded.
_MAX_RAYS = 320 * 320
# Vertices nearer than this have no usable projection.
_NEAR_M = 0.01
# Where a silhouette crosses a pixel, it is sampled at these four places (a rotated grid) instead of its centre.
_SUBPIXELS = np.array([[-0.375, -0.125], [0.125, -0.375], [0.375, 0.125], [-0.125, 0.375]])
# Towards the key light, in camera axes: from above, from the left, from behind the camera.
_KEY_LIGHT = np.array([-0.45, -0.75, -0.5], dtype=np.float32) / np.linalg.norm([-0.45, -0.75, -0.5])


def draw_overlay(image_rgb: np.ndarray, hands: Sequence[Hand], hand_model: HandModel, camera: Camera) -> np.ndarray:
    """Shaded meshes over a picture. Hands hide each other by depth.

    Args:
        image_rgb: (H, W, 3) uint8; it is not changed.
        hands: in the frame of `camera`; parts outside of the picture or behind the camera are left out.
        hand_model: the model that made the hands.
        camera: the camera of the picture.

    Returns:
        (H, W, 3) uint8.
    """
    drawn = image_rgb.copy()
    if not hands:
        return drawn
    scene = _build_scene(hands, hand_model)
    regions = [region for hand in hands if (region := _region_of(hand, camera, (image_rgb.shape[0], image_rgb.shape[1])))]
    for region in regions:
        x0, y0, x1, y1 = region.box
        planes = _render_box(scene, camera, regions, region.box)
        if planes.shape[1:] != (y1 - y0, x1 - x0):
            planes = np.stack([cv2.resize(plane, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR) for plane in planes])
        # Always over the given picture: where two boxes overlap, both hold the same hands.
        through = cv2.merge([1 - planes[3]] * 3)
        under = cv2.multiply(image_rgb[y0:y1, x0:x1], through, dtype=cv2.CV_32F)
        drawn[y0:y1, x0:x1] = cv2.add(under, cv2.merge(list(planes[:3])), dtype=cv2.CV_8U)
    return drawn


def draw_mask(shape_hw: tuple[int, int], hands: Sequence[Hand], hand_model: HandModel, camera: Camera) -> np.ndarray:
    """Which hand is in front at each pixel's centre.

    Args:
        shape_hw: height and width of the picture.
        hands: at most 255, in the frame of `camera`.

    Returns:
        (H, W) uint8: 0 for none, i + 1 for `hands[i]`.
    """
    mask = np.zeros(shape_hw, np.uint8)
    if not hands:
        return mask
    scene = _build_scene(hands, hand_model)
    regions = [region for hand in hands if (region := _region_of(hand, camera, shape_hw))]
    for region in regions:
        x0, y0, x1, y1 = region.box
        rows, columns = np.nonzero(_grid_mask(regions, region.box, x1 - x0, y1 - y0))
        rows, columns = rows + y0, columns + x0
        for start in range(0, len(rows), 4 * _MAX_RAYS):
            some = slice(start, start + 4 * _MAX_RAYS)
            hits = _cast(scene, np.stack([columns[some], rows[some]], axis=-1), camera)
            mask[rows[some], columns[some]] = scene.label_of_triangle[hits.triangles]
    return mask


@dataclass(frozen=True)
class _Scene:
    """All hands as one soup of T triangles: Embree's structure, and what is looked up by triangle.

    The light is computed at vertices and interpolated: a hand's triangles are a few pixels wide, and there are
    fifty times fewer vertices than pixels.
    """

    embree: object
    corner_rgba: np.ndarray  # (3, 4, T + 1) float32 premultiplied, colours in 0..255; nothing at T, which stands for a miss
    label_of_triangle: np.ndarray  # (T + 1,) uint8 1 + index into the hands; 0 at T


@dataclass(frozen=True)
class _Hits:
    """What N rays met first: triangle (N,), T for none, and barycentric (u, v) of its corners 1 and 2 (N, 2)."""

    triangles: np.ndarray
    uvs: np.ndarray


def _build_scene(hands: Sequence[Hand], hand_model: HandModel) -> _Scene:
    import open3d as o3d

    vertices, triangles, corner_rgba, labels = [], [], [], []
    count = 0
    for label, hand in enumerate(hands, start=1):
        faces = hand_model.faces_for(hand.is_right)
        vertices_m = np.asarray(hand.vertices_m, np.float32)
        vertices.append(vertices_m)
        triangles.append((faces + count).astype(np.uint32))
        corner_rgba.append(_light(vertices_m, vertex_normals(vertices_m, faces), hand.is_right)[faces])
        labels.append(np.full(len(faces), label, np.uint8))
        count += len(vertices_m)
    embree = o3d.t.geometry.RaycastingScene()
    embree.add_triangles(o3d.core.Tensor(np.concatenate(vertices)), o3d.core.Tensor(np.concatenate(triangles)))
    corner_rgba.append(np.zeros((1, 3, 4), np.float32))
    labels.append(np.zeros(1, np.uint8))
    planes = np.ascontiguousarray(np.concatenate(corner_rgba).transpose(1, 2, 0))
    return _Scene(embree, planes, np.concatenate(labels))


def _light(vertices_m: np.ndarray, normals: np.ndarray, is_right: bool) -> np.ndarray:
    """(V, 4) float32 premultiplied colours: ambient, headlight, key light, a slight rim and a soft gloss."""
    to_eye = -vertices_m / np.maximum(np.linalg.norm(vertices_m, axis=-1, keepdims=True), 1e-9)
    facing = np.clip(np.sum(normals * to_eye, axis=-1, keepdims=True), 0, 1)
    key = np.clip(normals @ _KEY_LIGHT[:, None], 0, 1)
    skin = np.array(RIGHT_RGB if is_right else LEFT_RGB)
    rgb = skin * (0.22 + 0.36 * facing + 0.50 * key) + 0.20 * (1 - facing) ** 3 + 0.10 * key**16
    alpha = np.ones_like(facing)
    return (OPACITY * np.concatenate([255 * np.clip(rgb, 0, 1), alpha], axis=-1)).astype(np.float32)


@dataclass(frozen=True)
class _Region:
    """The pixels that may show a hand."""

    box: tuple[int, int, int, int]  # x0, y0, x1, y1, ends excluded
    hull_px: np.ndarray | None  # (N, 2) convex outline in pixels of the picture; None for the whole box


def _region_of(hand: Hand, camera: Camera, shape_hw: tuple[int, int]) -> _Region | None:
    """Where a hand may be seen; None when nowhere."""
    height, width = shape_hw
    depths_m = hand.vertices_m[:, 2]
    if depths_m.max() < _NEAR_M:
        return None
    if depths_m.min() < _NEAR_M:
        return _Region((0, 0, width, height), None)
    pixels = project(hand.vertices_m, camera)
    # A pixel's margin for the silhouette's subpixel samples. Clipped as floats: near the camera they are huge.
    low, high = np.floor(pixels.min(axis=0)) - 1, np.ceil(pixels.max(axis=0)) + 2
    x0, y0, x1, y1 = (int(v) for v in np.clip([*low, *high], 0, [width, height, width, height]))
    if x1 <= x0 or y1 <= y0:
        return None
    is_huge = max(np.abs(low).max(), np.abs(high).max()) > 1e6
    return _Region((x0, y0, x1, y1), None if is_huge else cv2.convexHull(pixels.astype(np.float32))[:, 0])


def _grid_mask(regions: Sequence[_Region], box: tuple[int, int, int, int], w: int, h: int) -> np.ndarray:
    """(h, w) uint8, not 0 where a w x h grid over the box samples any of the regions."""
    x0, y0, x1, y1 = box
    mask = np.zeros((h, w), np.uint8)
    for region in regions:
        if region.hull_px is None:
            return np.ones((h, w), np.uint8)
        outline = (region.hull_px - (x0, y0) + 0.5) * (w / (x1 - x0), h / (y1 - y0)) - 0.5
        outline = outline.round().astype(np.int32)
        cv2.fillConvexPoly(mask, outline, (1,))
        # The outline was rounded: a thick line around it gives the margin back.
        cv2.polylines(mask, [outline], True, (1,), thickness=3)
    return mask


def _cast(scene: _Scene, pixels: np.ndarray, camera: Camera) -> _Hits:
    """Rays through N pixels (N, 2), fractions allowed."""
    import open3d as o3d

    rays = np.zeros((len(pixels), 6), np.float32)
    rays[:, 3:] = unproject(pixels, camera)
    hits = scene.embree.cast_rays(o3d.core.Tensor.from_numpy(rays))  # pyright: ignore[reportAttributeAccessIssue]
    miss = np.uint32(len(scene.label_of_triangle) - 1)
    return _Hits(np.minimum(hits["primitive_ids"].numpy(), miss), hits["primitive_uvs"].numpy())


def _shade(scene: _Scene, hits: _Hits) -> np.ndarray:
    """(4, N) float32 premultiplied colours of what N rays met."""
    corners = np.take(scene.corner_rgba, hits.triangles.astype(np.intp), axis=2)
    u, v = np.ascontiguousarray(hits.uvs.T)
    return corners[0] * (1 - u - v) + corners[1] * u + corners[2] * v


def _render_box(scene: _Scene, camera: Camera, regions: Sequence[_Region], box: tuple[int, int, int, int]) -> np.ndarray:
    """(4, h, w) float32, colour in 0..255 times alpha and alpha in 0..1; h, w are the box's or, if that is large, fewer."""
    x0, y0, x1, y1 = box
    step = max(1.0, np.sqrt((x1 - x0) * (y1 - y0) / _MAX_RAYS))
    w, h = max(1, round((x1 - x0) / step)), max(1, round((y1 - y0) / step))
    step_x, step_y = (x1 - x0) / w, (y1 - y0) / h
    # Samples in the middle of their cells: what cv2.resize assumes when it enlarges them.
    xs = x0 + (np.arange(w) + 0.5) * step_x - 0.5
    ys = y0 + (np.arange(h) + 0.5) * step_y - 0.5

    rows, columns = np.nonzero(_grid_mask(regions, box, w, h))
    hits = _cast(scene, np.stack([xs[columns], ys[rows]], axis=-1), camera)
    planes = np.zeros((4, h, w), np.float32)
    planes[:, rows, columns] = _shade(scene, hits)

    labels = np.zeros((h, w), np.uint8)
    labels[rows, columns] = scene.label_of_triangle[hits.triangles]
    rows, columns = np.nonzero(cv2.morphologyEx(labels, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)))
    if len(rows):
        around = np.stack([xs[columns], ys[rows]], axis=-1)[:, None] + _SUBPIXELS * (step_x, step_y)
        samples = _shade(scene, _cast(scene, around.reshape(-1, 2), camera))
        planes[:, rows, columns] = samples.reshape(4, -1, len(_SUBPIXELS)).mean(axis=2)
    return planes
