"""Hands drawn over a picture by a z-buffer on the CPU: no GL, no display, one core.

Vertices go through `geometry.camera.project`, so every camera that the rest of handmesh knows (fx != fy, off-centre principal point,
distortion) is drawn with the same half pixel. Triangles are a few pixels wide: between projected vertices their edges are straight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from handmesh.geometry.camera import project, unproject
from handmesh.records import Camera, Hand

if TYPE_CHECKING:
    from handmesh.hand_model import HandModel

# Linear-looking sRGB in 0..1: warm for right hands, cool for left ones.
RIGHT_RGB = np.array([0.96, 0.67, 0.50], np.float32)
LEFT_RGB = np.array([0.47, 0.70, 0.95], np.float32)
OPACITY = 0.88

# Triangles with a vertex nearer than this are left out: it has no usable projection.
_NEAR_M = 0.01
# Nor one that is projected farther away than single precision can place.
_FARTHEST_PX = 1e6
# Where a lens bends rays back on themselves, a pixel's ray misses the vertex that was projected there by more than this.
_FOLDED = 0.01
# Towards the key light, in camera axes: from above, from the left, from behind the camera.
_KEY_LIGHT = (np.array([-0.45, -0.75, -0.5]) / np.linalg.norm([-0.45, -0.75, -0.5])).astype(np.float32)


def draw_overlay(image_rgb: np.ndarray, hands: Sequence[Hand], hand_model: HandModel, camera: Camera, in_place: bool = False) -> np.ndarray:
    """Shaded meshes over a picture. Hands hide each other by depth.

    Args:
        image_rgb: (H, W, 3) uint8.
        hands: in the frame of `camera`; parts outside of the picture or behind the camera are left out.
        hand_model: the model that made the hands.
        camera: the camera of the picture.
        in_place: draw on `image_rgb` itself, where it can be written to.

    Returns:
        (H, W, 3) uint8: `image_rgb`, or a copy of it.
    """
    can_draw = in_place and image_rgb.flags.writeable and image_rgb.flags.c_contiguous
    drawn = image_rgb if can_draw else image_rgb.copy(order="C")
    for scene in _build_scenes(hands, hand_model, camera, (image_rgb.shape[0], image_rgb.shape[1])):
        from handmesh.render.raster import blend_triangles, light_vertices

        colours = np.concatenate(
            [
                light_vertices(
                    np.ascontiguousarray(hands[index].vertices_m, np.float32),
                    np.ascontiguousarray(hand_model.faces_for(hands[index].is_right), np.int32),
                    RIGHT_RGB if hands[index].is_right else LEFT_RGB,
                    _KEY_LIGHT,
                )
                for index in scene.hands
            ]
        )
        blend_triangles(drawn, scene.screen, scene.faces, colours, OPACITY, scene.box)
    return drawn


def draw_mask(shape_hw: tuple[int, int], hands: Sequence[Hand], hand_model: HandModel, camera: Camera) -> np.ndarray:
    """Which hand is in front at each pixel's centre.

    Args:
        shape_hw: height and width of the picture.
        hands: at most 255, in the frame of `camera`.

    Returns:
        (H, W) uint8: 0 for none, i + 1 for `hands[i]`.
    """
    if len(hands) > 255:
        raise ValueError(f"expected at most 255 hands, got {len(hands)}")
    mask = np.zeros(shape_hw, np.uint8)
    for scene in _build_scenes(hands, hand_model, camera, shape_hw):
        from handmesh.render.raster import label_pixels

        labels = np.repeat(np.array(scene.hands, np.uint8) + 1, len(hand_model.faces))
        label_pixels(mask, scene.screen, scene.faces, labels, scene.box)
    return mask


def prepare_overlay() -> None:
    """Load what draws, so that the first picture costs what the others do; where it was never compiled, that takes seconds."""
    from handmesh.render.raster import prepare

    prepare()


@dataclass(frozen=True)
class _Scene:
    """Hands that may hide each other as one mesh on the screen: see `raster.blend_triangles`."""

    hands: tuple[int, ...]  # which
    screen: np.ndarray  # (V, 3) float32
    faces: np.ndarray  # (F, 3) int32
    box: tuple[int, int, int, int]


def _build_scenes(hands: Sequence[Hand], hand_model: HandModel, camera: Camera, shape_hw: tuple[int, int]) -> list[_Scene]:
    """One scene for each hand in the picture; those whose boxes meet are one."""
    scenes: list[_Scene] = []
    for index, hand in enumerate(hands):
        screen = _to_screen(np.asarray(hand.vertices_m), camera)
        box = _box_of(screen, shape_hw)
        if box is not None:
            scenes.append(_Scene((index,), screen, hand_model.faces_for(hand.is_right).astype(np.int32), box))
    merged: list[_Scene] = []
    for scene in scenes:
        # Boxes grow as they are joined, so that those which were apart before may meet now.
        while meeting := [other for other in merged if _meet(scene.box, other.box)]:
            merged = [other for other in merged if other not in meeting]
            scene = _join([*meeting, scene])
        merged.append(scene)
    return merged


def _box_of(screen: np.ndarray, shape_hw: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """The pixels that may show a mesh; None where there are none."""
    seen = screen[screen[:, 2] > 0, :2]
    if not len(seen):
        return None
    height, width = shape_hw
    # A pixel's margin for the outline's samples. Clipped as floats: near the camera they are huge.
    x0, y0, x1, y1 = np.clip([*np.floor(seen.min(axis=0)) - 1, *np.ceil(seen.max(axis=0)) + 2], 0, [width, height, width, height])
    return (int(x0), int(y0), int(x1), int(y1)) if x1 > x0 and y1 > y0 else None


def _meet(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _join(scenes: Sequence[_Scene]) -> _Scene:
    starts = np.cumsum([0, *(len(scene.screen) for scene in scenes[:-1])])
    boxes = np.array([scene.box for scene in scenes])
    x0, y0, x1, y1 = (int(end) for end in (*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0)))
    return _Scene(
        tuple(index for scene in scenes for index in scene.hands),
        np.concatenate([scene.screen for scene in scenes]),
        np.concatenate([scene.faces + np.int32(start) for scene, start in zip(scenes, starts, strict=True)]),
        (x0, y0, x1, y1),
    )


def _to_screen(vertices_m: np.ndarray, camera: Camera) -> np.ndarray:
    """(V, 3) float32 pixels and 1/z; 0 instead of 1/z for vertices that the camera cannot see, wherever it points."""
    is_seen = vertices_m[:, 2] >= _NEAR_M
    points_m = np.where(is_seen[:, None], vertices_m, (0.0, 0.0, 1.0))
    pixels = project(points_m, camera)
    if camera.distortion:
        is_seen &= np.abs(unproject(pixels, camera) - points_m / points_m[:, 2:]).max(axis=1) < _FOLDED
    # Comparisons with what is no number are False, so such vertices count as unseen too.
    is_seen &= np.abs(pixels).max(axis=1) < _FARTHEST_PX
    return np.column_stack([np.where(is_seen[:, None], pixels, 0), np.where(is_seen, 1 / points_m[:, 2], 0)]).astype(np.float32)
