"""Single hands to look at: the picture, the prediction over it, and both hands from the side. Rays are cast on the CPU (Open3D)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from handmesh.errors import UserError
from handmesh.evaluation.metrics import projected
from handmesh.evaluation.records import EvaluationSet, Predictions
from handmesh.geometry.alignment import fit_similarity
from handmesh.geometry.camera import camera_from_matrix
from handmesh.geometry.crop import look_at_points, take_crop
from handmesh.hand_model.meshfile import vertex_normals
from handmesh.records import Camera
from handmesh.skeleton import BONES

PREDICTION_RGB = (0.33, 0.62, 0.98)
TRUTH_RGB = (0.66, 0.67, 0.69)
_NO_PICTURE_GREY = 120
_NO_FOCAL_PX = 1000.0
_OPACITY = 0.85
# Of the hand in front, in the view from the side.
_FRONT_OPACITY = 0.62
_SAMPLES = 2
_NEAR_M = 0.01
# Hands that lie in each other would flicker between two colours.
_TIE_M = 2e-4
_KEY_LIGHT = np.array([-0.45, -0.75, -0.5]) / np.linalg.norm([-0.45, -0.75, -0.5])
# From the crop's axes to those of an eye beside the hand, on the camera's right: away from the camera is right, up stays up.
_SIDE_FROM_CROP = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])


@dataclass(frozen=True)
class Case:
    """Three square pictures of one hand.

    Attributes:
        index: of the hand in its set.
        picture: (S, S, 3) uint8, the crop around the true keypoints.
        overlay: (S, S, 3) uint8, the prediction over it.
        side: (S, S, 4) uint8 RGBA, truth in grey and the aligned prediction in colour, seen from 90 degrees to the right of the
            camera, which is at the left; transparent elsewhere.
        has_picture: False where the picture could not be read; grey stands for it.
        is_outside: no part of the prediction is in the crop.
    """

    index: int
    picture: np.ndarray
    overlay: np.ndarray
    side: np.ndarray
    has_picture: bool
    is_outside: bool


def choose_worst(errors: np.ndarray, count: int) -> np.ndarray:
    """Indices of the `count` largest of (N,) errors, largest first; of equal ones the first."""
    return np.argsort(-errors, kind="stable")[:count]


def choose_random(total: int, count: int, seed: int = 0) -> np.ndarray:
    """`count` different indices below `total` in order, always the same ones; all where there are fewer."""
    return np.sort(np.random.default_rng(seed).permutation(total)[:count])


def draw_case(
    data: EvaluationSet,
    predictions: Predictions,
    index: int,
    faces: np.ndarray | None,
    truth_faces: np.ndarray | None,
    is_placed: bool,
    size_px: int = 208,
) -> Case:
    """One hand; a mesh where triangles are known, else its bones.

    Args:
        faces, truth_faces: (F, 3) triangles of the predicted and of the true mesh of right hands; None for bones.
        is_placed: whether predictions are in the picture's camera. Those that are not are drawn where they are aligned to the truth.
    """
    image, true_joints_m = _read(data, index), data.joints_m[index]
    # Where no camera is known there is no picture either, and the crop's camera does not depend on the other's pixels.
    K = np.diag([_NO_FOCAL_PX, _NO_FOCAL_PX, 1.0]) if data.K is None else data.K[index]
    height, width = (round(2 * K[1, 2] + 1), round(2 * K[0, 2] + 1)) if image is None else image.shape[:2]
    camera = camera_from_matrix(K, max(width, 1), max(height, 1))
    true_px = projected(true_joints_m[None], K[None])[0]
    crop_camera, R_camera_crop = look_at_points(true_px, camera, size_px)
    if image is None:
        picture = np.full((size_px, size_px, 3), _NO_PICTURE_GREY, np.uint8)
    else:
        picture = take_crop(image, camera, crop_camera, R_camera_crop).image

    fit = fit_similarity(predictions.joints_m[index][None].astype(np.float64), true_joints_m[None])
    is_left = bool(data.left()[index])
    ours = _Shape.of(predictions.joints_m[index], predictions.vertices_m, index, faces, is_left, PREDICTION_RGB)
    truth = _Shape.of(true_joints_m, data.vertices_m, index, truth_faces, is_left, TRUTH_RGB)
    aligned = ours.moved(lambda points_m: fit(points_m[None])[0])
    shown = (ours if is_placed else aligned).moved(lambda points_m: points_m @ R_camera_crop)
    rgba = _draw_seen(shown, crop_camera)
    alpha = _OPACITY * rgba[..., 3:]
    overlay = picture * (1 - alpha) + 255 * _OPACITY * rgba[..., :3]
    R_camera_side = R_camera_crop @ _SIDE_FROM_CROP.T
    beside = [shape.moved(lambda points_m: points_m @ R_camera_side) for shape in (truth, aligned)]
    side = _draw_beside(beside[0], beside[1], size_px)
    return Case(index, picture, _bytes(overlay / 255), _bytes(_straight(side)), image is not None, not rgba[..., 3].any())


@dataclass(frozen=True)
class _Shape:
    """A hand as it is drawn: joints_m (21, 3), and vertices_m (V, 3) with faces (F, 3) where it is a mesh."""

    joints_m: np.ndarray
    vertices_m: np.ndarray | None
    faces: np.ndarray | None
    rgb: tuple[float, float, float]

    @staticmethod
    def of(
        joints_m: np.ndarray,
        every_vertices_m: np.ndarray | None,
        index: int,
        faces: np.ndarray | None,
        is_left: bool,
        rgb: tuple[float, float, float],
    ) -> _Shape:
        if every_vertices_m is None or faces is None:
            return _Shape(joints_m, None, None, rgb)
        return _Shape(joints_m, every_vertices_m[index], faces[:, ::-1] if is_left else faces, rgb)

    def moved(self, move: Callable[[np.ndarray], np.ndarray]) -> _Shape:
        return _Shape(move(self.joints_m), None if self.vertices_m is None else move(self.vertices_m), self.faces, self.rgb)

    @property
    def points_m(self) -> np.ndarray:
        return self.joints_m if self.vertices_m is None else self.vertices_m


def _read(data: EvaluationSet, index: int) -> np.ndarray | None:
    """The picture; None where it is not there, as when only numbers were brought."""
    if data.image is None:
        return None
    try:
        return data.picture(index)
    except UserError:
        return None


def _draw_seen(shape: _Shape, camera: Camera) -> np.ndarray:
    """(S, S, 4) premultiplied 0..1: a hand in the crop's frame as its camera sees it."""
    size = camera.width
    if shape.vertices_m is not None:
        steps = _steps(size) - camera.cx
        x, y = np.meshgrid(steps / camera.fx, steps / camera.fy)
        rays = np.zeros((*x.shape, 6), np.float32)
        rays[..., 3:] = np.stack([x, y, np.ones_like(x)], axis=-1)
        rgba, _ = _cast(shape, rays)
        return _averaged(rgba)
    depths_m = shape.joints_m[:, 2]
    pixels = shape.joints_m[:, :2] / np.maximum(depths_m, _NEAR_M)[:, None] * (camera.fx, camera.fy) + (camera.cx, camera.cy)
    canvas = np.zeros((_SAMPLES * size, _SAMPLES * size, 4), np.float32)
    _draw_bones(canvas, [(shape, (pixels + 0.5) * _SAMPLES, depths_m)], depths_m > _NEAR_M)
    return _averaged(canvas)


def _draw_beside(truth: _Shape, ours: _Shape, size: int) -> np.ndarray:
    """(S, S, 4) premultiplied 0..1: two hands seen along the third axis by parallel rays, in a frame that holds both."""
    points_m = np.concatenate([truth.points_m, ours.points_m])
    low_m, high_m = points_m.min(axis=0), points_m.max(axis=0)
    middle_m, width_m = (low_m + high_m) / 2, 1.08 * float((high_m - low_m)[:2].max()) + 1e-6
    steps = ((_steps(size) + 0.5) / size - 0.5) * width_m
    x, y = np.meshgrid(middle_m[0] + steps, middle_m[1] + steps)
    rays = np.zeros((*x.shape, 6), np.float32)
    rays[..., :3] = np.stack([x, y, np.full_like(x, low_m[2] - 0.1)], axis=-1)
    rays[..., 5] = 1
    meshes = [_cast(shape, rays) for shape in (truth, ours) if shape.vertices_m is not None]
    canvas = _one_behind_the_other(meshes) if meshes else np.zeros((*x.shape, 4), np.float32)
    bones = []
    for shape in (truth, ours):
        if shape.vertices_m is None:
            pixels = ((shape.joints_m - middle_m)[:, :2] / width_m + 0.5) * size * _SAMPLES
            bones.append((shape, pixels, shape.joints_m[:, 2]))
    _draw_bones(canvas, bones, np.ones(len(truth.joints_m), bool))
    return _averaged(canvas)


def _one_behind_the_other(meshes: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Rendered hands (rgba, depth) as one, the nearer one half transparent where it hides the other; the second one where they tie."""
    if len(meshes) == 1:
        return meshes[0][0]
    (first, first_depth), (second, second_depth) = meshes
    is_nearer = (second_depth < first_depth + _TIE_M)[..., None]
    front, back = np.where(is_nearer, second, first), np.where(is_nearer, first, second)
    through = np.where(back[..., 3:] > 0, _FRONT_OPACITY, 1.0)
    return front * through + back * (1 - through * front[..., 3:])


def _cast(shape: _Shape, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What rays (H, W, 6) meet: (H, W, 4) colours in 0..1, 0 for nothing, and (H, W) how far, infinity for nothing."""
    import open3d as o3d

    assert shape.vertices_m is not None and shape.faces is not None
    vertices_m, faces = np.ascontiguousarray(shape.vertices_m, np.float32), np.ascontiguousarray(shape.faces).astype(np.uint32)
    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(o3d.core.Tensor(vertices_m), o3d.core.Tensor(faces))
    hits = scene.cast_rays(o3d.core.Tensor.from_numpy(rays))  # pyright: ignore[reportAttributeAccessIssue]
    depth = hits["t_hit"].numpy()
    is_hit = np.isfinite(depth)
    u, v = hits["primitive_uvs"].numpy()[is_hit].T
    corners = vertex_normals(vertices_m, shape.faces)[shape.faces[hits["primitive_ids"].numpy()[is_hit]]]
    normals = corners[:, 0] * (1 - u - v)[:, None] + corners[:, 1] * u[:, None] + corners[:, 2] * v[:, None]
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    to_eye = -rays[..., 3:][is_hit]
    to_eye = to_eye / np.linalg.norm(to_eye, axis=1, keepdims=True)
    # A mesh that is inside out, or folded, is lit as well.
    is_back = (hits["primitive_normals"].numpy()[is_hit] * to_eye).sum(axis=1) < 0
    normals[is_back] *= -1
    facing, key = np.clip((normals * to_eye).sum(axis=1), 0, 1), np.clip(normals @ _KEY_LIGHT, 0, 1)
    light = 0.26 + 0.42 * facing + 0.42 * key
    rgba = np.zeros((*depth.shape, 4), np.float32)
    rgba[is_hit, :3] = np.clip(np.array(shape.rgb) * light[:, None] + 0.08 * (key**12)[:, None], 0, 1)
    rgba[is_hit, 3] = 1
    return rgba, depth


def _draw_bones(canvas: np.ndarray, hands: Sequence[tuple[_Shape, np.ndarray, np.ndarray]], is_drawn: np.ndarray) -> None:
    """Bones over a canvas (H, W, 4), far ones first; each has a dark rim, so that crossings can be read.

    Args:
        hands: each with its joints' pixels (21, 2) on the canvas and depths (21,).
        is_drawn: (21,) joints that can be drawn.
    """
    bones = [
        (float(depths[[a, b]].mean()) - number * _TIE_M, shape.rgb, pixels[a], pixels[b])
        for number, (shape, pixels, depths) in enumerate(hands)
        for a, b in BONES
        if is_drawn[[a, b]].all()
    ]
    thick = max(2, round(canvas.shape[0] / 50))
    for _, rgb, start, end in sorted(bones, key=lambda bone: -bone[0]):
        # OpenCV's coordinates are 32-bit integers; what is far out is clipped to something still outside.
        first, last = (np.clip(point, -1e5, 1e5).astype(int).tolist() for point in (start, end))
        for colour, extra in (([*(0.35 * value for value in rgb), 1.0], 3), ([*rgb, 1.0], 0)):
            cv2.line(canvas, first, last, colour, thick + extra)
            for point in (first, last):
                cv2.circle(canvas, point, round(0.8 * thick) + extra // 2, colour, -1)


def _steps(size: int) -> np.ndarray:
    """(samples * S,) places along a row of S pixels whose first one's centre is 0."""
    return (np.arange(_SAMPLES * size) + 0.5) / _SAMPLES - 0.5


def _averaged(rgba: np.ndarray) -> np.ndarray:
    size = len(rgba) // _SAMPLES
    return rgba.reshape(size, _SAMPLES, size, _SAMPLES, 4).mean(axis=(1, 3))


def _straight(rgba: np.ndarray) -> np.ndarray:
    """From premultiplied colours to plain ones."""
    return np.concatenate([rgba[..., :3] / np.maximum(rgba[..., 3:], 1e-6), rgba[..., 3:]], axis=-1)


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.round(255 * np.clip(values, 0, 1)).astype(np.uint8)
