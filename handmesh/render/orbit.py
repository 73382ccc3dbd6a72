"""The hands in space, seen from a free viewpoint that is turned with a mouse: drawn on the CPU, without GL or a display.

Points are in the frame of the camera that took the picture: x right, y down, z forward.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from handmesh.geometry.camera import camera_from_fov, project, unproject
from handmesh.records import Camera, Hand
from handmesh.render.overlay import draw_overlay
from handmesh.skeleton import BONES, ROOT

if TYPE_CHECKING:
    from handmesh.hand_model import HandModel

VIEW_FOV_DEG = 45.0
_BACKGROUND_RGB = (24, 26, 30)
_GRID_RGB = (58, 62, 70)
_TEXT_RGB = (120, 126, 138)
_FRUSTUM_RGB = (232, 196, 92)
_BONE_RGB = (250, 250, 250)
_NEAR_M = 0.02
_FRUSTUM_DEPTH_M = 0.12
_FLOOR_M = 0.25
_GRID_STEP_M = 0.1
_GRID_HALF_WIDTH_M = 0.5
_GRID_DEPTH_M = 1.0
_PITCH_LIMIT_DEG = 85.0
_DISTANCES_M = (0.1, 5.0)
# The target closes in on the hands like exp(-t / this): slow enough that their jitter does not move the view.
_FOLLOW_S = 1.5
# cv2's lines take coordinates in 1/16 of a pixel.
_SHIFT = 4


@dataclass(frozen=True)
class Orbit:
    """A viewpoint on a sphere around a target.

    Attributes:
        yaw_deg: 0 looks along the camera's own z; positive moves the eye to the camera's left.
        pitch_deg: how far the eye looks down.
        distance_m: from the eye to the target.
        target_m: what is in the middle of the view, x y z in the camera's frame.
    """

    yaw_deg: float = -35.0
    pitch_deg: float = 22.0
    distance_m: float = 1.0
    target_m: tuple[float, float, float] = (0.0, 0.0, 0.35)

    def turned(self, dx: float, dy: float) -> Orbit:
        """Dragged by so many degrees to the right and down; never over the pole."""
        pitch_deg = min(_PITCH_LIMIT_DEG, max(-_PITCH_LIMIT_DEG, self.pitch_deg + dy))
        return replace(self, yaw_deg=(self.yaw_deg + dx + 180.0) % 360.0 - 180.0, pitch_deg=pitch_deg)

    def zoomed(self, factor: float) -> Orbit:
        """`factor` times as far away, within sensible limits."""
        return replace(self, distance_m=min(_DISTANCES_M[1], max(_DISTANCES_M[0], self.distance_m * factor)))

    def moved(self, right_m: float, down_m: float) -> Orbit:
        """What is seen moves by so many metres to the right and down on the screen."""
        x, y, z = np.array(self.target_m) - self.R_view_camera.T @ (right_m, down_m, 0.0)
        return replace(self, target_m=(float(x), float(y), float(z)))

    @property
    def R_view_camera(self) -> np.ndarray:
        """(3, 3) turns directions of the camera into the view (x right, y down, z forward)."""
        yaw, pitch = math.radians(self.yaw_deg), math.radians(self.pitch_deg)
        sin_yaw, cos_yaw, sin_pitch, cos_pitch = math.sin(yaw), math.cos(yaw), math.sin(pitch), math.cos(pitch)
        right = (cos_yaw, 0.0, -sin_yaw)
        down = (-sin_yaw * sin_pitch, cos_pitch, -cos_yaw * sin_pitch)
        forward = (sin_yaw * cos_pitch, sin_pitch, cos_yaw * cos_pitch)
        return np.array([right, down, forward])

    def to_view(self, points_m: np.ndarray) -> np.ndarray:
        """(..., 3) points of the camera's frame in the view's."""
        return (np.asarray(points_m) - self.target_m) @ self.R_view_camera.T + (0.0, 0.0, self.distance_m)


def follow(orbit: Orbit, hands: Sequence[Hand], dt_s: float) -> Orbit:
    """The orbit with its target drawn slowly towards the middle of the hands; as it is without hands.

    Args:
        dt_s: since the target was last moved, not negative.
    """
    if not hands:
        return orbit
    middle_m = np.mean([hand.joints_m[ROOT] for hand in hands], axis=0)
    share = 1.0 - math.exp(-dt_s / _FOLLOW_S)
    x, y, z = np.array(orbit.target_m) * (1.0 - share) + middle_m * share
    return replace(orbit, target_m=(float(x), float(y), float(z)))


def draw_view(
    hands: Sequence[Hand],
    hand_model: HandModel,
    camera: Camera,
    orbit: Orbit,
    width: int,
    height: int,
    *,
    picture_rgb: np.ndarray | None = None,
    draws_bones: bool = False,
) -> np.ndarray:
    """Hands, floor and camera in space.

    Args:
        hands: in the frame of `camera`, made by `hand_model`.
        camera: whose frustum is drawn.
        width, height: of the view, in pixels.
        picture_rgb: (H, W, 3) uint8, hung into the frustum.
        draws_bones: draw the skeletons over the hands.

    Returns:
        (height, width, 3) uint8.
    """
    view = camera_from_fov(width, height, VIEW_FOV_DEG)
    image = np.empty((height, width, 3), np.uint8)
    # Much faster than numpy's broadcast of three bytes.
    cv2.rectangle(image, (0, 0), (width, height), _BACKGROUND_RGB, cv2.FILLED)
    _draw_grid(image, orbit, view)
    corners_m = _frustum_corners(camera)
    hands_z_m = [float(orbit.to_view(hand.joints_m[ROOT])[2]) for hand in hands]
    is_frustum_behind = not hands or float(orbit.to_view(corners_m.mean(axis=0))[2]) > min(hands_z_m)
    if is_frustum_behind:
        _draw_frustum(image, corners_m, orbit, view, picture_rgb)
    seen = [replace(hand, vertices_m=orbit.to_view(hand.vertices_m)) for hand in hands]
    image = draw_overlay(image, seen, hand_model, view, in_place=True)
    if not is_frustum_behind:
        _draw_frustum(image, corners_m, orbit, view, picture_rgb)
    if draws_bones:
        for hand in hands:
            _draw_lines(image, orbit.to_view(hand.joints_m[np.array(BONES)]), view, _BONE_RGB)
    return image


def _frustum_corners(camera: Camera) -> np.ndarray:
    """(4, 3) of the picture's outline in space, clockwise from its upper left."""
    right, bottom = camera.width - 0.5, camera.height - 0.5
    rays = unproject(np.array([(-0.5, -0.5), (right, -0.5), (right, bottom), (-0.5, bottom)]), camera)
    return rays / rays[:, 2:] * _FRUSTUM_DEPTH_M


def _draw_frustum(image: np.ndarray, corners_m: np.ndarray, orbit: Orbit, view: Camera, picture_rgb: np.ndarray | None) -> None:
    corners_m = orbit.to_view(corners_m)
    if picture_rgb is not None and corners_m[:, 2].min() > _NEAR_M:
        _hang_picture(image, picture_rgb, project(corners_m, view))
    apex_m = np.broadcast_to(orbit.to_view(np.zeros(3)), corners_m.shape)
    edges_m = np.stack([corners_m, np.roll(corners_m, 1, axis=0)], axis=1)
    _draw_lines(image, np.concatenate([np.stack([apex_m, corners_m], axis=1), edges_m]), view, _FRUSTUM_RGB)


def _hang_picture(image: np.ndarray, picture_rgb: np.ndarray, corners_px: np.ndarray) -> None:
    h, w = picture_rgb.shape[:2]
    outline = np.array([(-0.5, -0.5), (w - 0.5, -0.5), (w - 0.5, h - 0.5), (-0.5, h - 0.5)], np.float32)
    homography = cv2.getPerspectiveTransform(outline, corners_px.astype(np.float32))
    cv2.warpPerspective(picture_rgb, homography, (image.shape[1], image.shape[0]), dst=image, borderMode=cv2.BORDER_TRANSPARENT)


def _draw_grid(image: np.ndarray, orbit: Orbit, view: Camera) -> None:
    _draw_lines(image, orbit.to_view(_GRID_M), view, _GRID_RGB)
    for z in np.arange(0.5, _GRID_DEPTH_M + 1e-9, 0.5):
        _write_at(image, orbit.to_view(np.array([_GRID_HALF_WIDTH_M, _FLOOR_M, z])), view, f"{z:.1f} m")


def _grid_lines() -> np.ndarray:
    """(N, 2, 3) the floor's."""
    across = np.arange(-round(_GRID_HALF_WIDTH_M / _GRID_STEP_M), round(_GRID_HALF_WIDTH_M / _GRID_STEP_M) + 1) * _GRID_STEP_M
    along = np.arange(round(_GRID_DEPTH_M / _GRID_STEP_M) + 1) * _GRID_STEP_M
    lines = [[(x, _FLOOR_M, 0.0), (x, _FLOOR_M, _GRID_DEPTH_M)] for x in across]
    return np.array(lines + [[(-_GRID_HALF_WIDTH_M, _FLOOR_M, z), (_GRID_HALF_WIDTH_M, _FLOOR_M, z)] for z in along])


_GRID_M = _grid_lines()


def _write_at(image: np.ndarray, point_m: np.ndarray, view: Camera, text: str) -> None:
    if point_m[2] < _NEAR_M:
        return
    x, y = project(point_m[None], view)[0]
    if 0 <= x < view.width and 0 <= y < view.height:
        cv2.putText(image, text, (round(x) + 4, round(y) + 4), cv2.FONT_HERSHEY_SIMPLEX, 0.4, _TEXT_RGB, 1, cv2.LINE_AA)


def _draw_lines(image: np.ndarray, ends_m: np.ndarray, view: Camera, rgb: tuple[int, int, int]) -> None:
    """Lines between pairs of points (N, 2, 3) of the view's frame, cut where they come too near to the eye."""
    ends_m = ends_m[ends_m[..., 2].max(axis=1) > _NEAR_M]
    z_m, backwards = ends_m[..., 2], ends_m[:, ::-1]
    share = np.clip((_NEAR_M - z_m) / np.where(z_m < _NEAR_M, backwards[..., 2] - z_m, 1.0), 0.0, 1.0)
    pixels = project(ends_m + share[..., None] * (backwards - ends_m), view)
    for start, end in np.clip(np.rint(pixels * 2**_SHIFT), -(2**24), 2**24).astype(int).tolist():
        cv2.line(image, start, end, rgb, 1, cv2.LINE_AA, _SHIFT)
