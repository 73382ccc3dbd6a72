"""Rendered videos of hands before a plain room, as a webcam sees them: the embedded demo clip, and any script of poses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from handmesh.errors import UserError
from handmesh.geometry.camera import camera_from_fov
from handmesh.geometry.rotation import rotmat_to_rotvec, rotvec_to_rotmat
from handmesh.hand_model import HandModel
from handmesh.hand_model.skinning import mirror_points, skin
from handmesh.skeleton import MANO_JOINTS, ROOT
from handmesh.synthetic import raster
from handmesh.synthetic.config import SynthConfig
from handmesh.synthetic.light import Light, gamma_table
from handmesh.synthetic.material import plain_material
from handmesh.synthetic.poses import UPRIGHT_PALM
from handmesh.synthetic.scene import draw, place_mesh
from handmesh.synthetic.skin import Skin, skin_material, skin_rgb
from handmesh.synthetic.surface import HandSurface, Mesh, hand_mesh
from handmesh.synthetic.worn import Sleeve, arm_mesh, bent_arm, sleeve_mesh
from handmesh.wholefile import replacing

_SUPERSAMPLE = 2
_DISTANCE_M = 0.46
CLIP_FOV_DEG = 65.0
_SECOND_HAND_FROM = 0.45
_RIGHT_KINDS = ("open", "fist", "point", "pinch", "open", "count", "ok", "open")
_LEFT_KINDS = ("relaxed", "open", "point", "thumbs_up", "open")
_SKIN = SynthConfig(relief=(0.5, 0.5), speckle=(0.2, 0.2), varnish=0.0, occlusion_strength=(0.7, 0.7), cast_shadow=1.0)
_SLEEVE = Sleeve(start_m=0.045, thickness_m=0.006, slack_m=0.008, cuff_m=0.0, fold_m=0.002, wave=4.0, roll_m=0.0)
_CLOTH_RGB = np.array([0.045, 0.09, 0.16], np.float32)
_CLOTH = plain_material(noise_low=0.05, freq_low=40.0, noise_high=0.1, freq_high=900.0)


@dataclass(frozen=True)
class Pose:
    """One hand of a script.

    Attributes:
        rotmats: (16, 3, 3) of the right-hand model; the first is the hand's in the camera, for a left hand as a mirror x -> -x shows it.
        place_m: (3,) where its middle knuckle is in the camera.
        is_right: the side.
    """

    rotmats: np.ndarray
    place_m: np.ndarray
    is_right: bool


def render_clip(
    path: Path, model: HandModel, seed: int = 0, seconds: float = 6.0, fps: int = 30, size: tuple[int, int] = (640, 480)
) -> None:
    """Write an mp4: first one hand, then a right and a left one, moving through everyday poses.

    Args:
        path: ends in .mp4; written to a temporary name and renamed.
        size: width and height in pixels.

    Raises:
        UserError: OpenCV cannot write it there.
    """
    path = Path(path)
    with replacing(path) as temporary:
        writer = cv2.VideoWriter(str(temporary), cv2.VideoWriter.fourcc(*"mp4v"), fps, size)
        if not writer.isOpened():
            raise UserError(f"expected a place for an mp4, got '{path}', which OpenCV cannot write; choose another folder")
        try:
            for frame in clip_frames(model, seed, round(seconds * fps), size):
                writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        finally:
            writer.release()


def clip_frames(model: HandModel, seed: int, count: int, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """The frames (H, W, 3) uint8 RGB of `render_clip`."""
    rng = np.random.default_rng([seed, 0])
    surface = HandSurface.of(model)
    right, left = _keys(rng, surface, _RIGHT_KINDS), _keys(rng, surface, _LEFT_KINDS)
    return script_frames(surface, (_demo_moment(right, left, frame / max(count - 1, 1)) for frame in range(count)), seed, size)


def script_frames(surface: HandSurface, script: Iterable[Sequence[Pose]], seed: int, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Frames (H, W, 3) uint8 RGB of hands that do what a script says, seen with a field of view of `CLIP_FOV_DEG`.

    Args:
        script: the hands of each frame.
        seed: of the room and the skin.
        size: width and height in pixels.
    """
    width, height = size
    room = _room(np.random.default_rng([seed, 1]), width, height)
    light = _room_light()
    material = skin_material(np.random.default_rng([seed, 2]), 0.35, _SKIN)
    material[raster.M_NOISE_LOW], material[raster.M_NOISE_HIGH], material[raster.M_SPECULAR] = 0.05, 0.03, 0.04
    tone = Skin(skin_rgb(0.36, 0.9), material)
    focal_px = camera_from_fov(width, height, CLIP_FOV_DEG).fx * _SUPERSAMPLE
    fine = (width * _SUPERSAMPLE, height * _SUPERSAMPLE)
    table = gamma_table()
    for poses in script:
        meshes = [mesh for pose in poses for mesh in _person(surface, tone, pose)]
        picture = draw(surface, meshes, light, focal_px, fine, np.random.default_rng([seed, 3]), _SKIN)
        rgb = cv2.resize(picture.rgb, size, interpolation=cv2.INTER_AREA)
        alpha = cv2.resize(picture.alpha, size, interpolation=cv2.INTER_AREA)
        linear = rgb + room * (1 - alpha)[..., None]
        shown = raster.to_display(linear, np.ones(3, np.float32), table)
        yield cv2.convertScaleAbs(shown, alpha=255)


def true_joints_m(model: HandModel, pose: Pose) -> np.ndarray:
    """(21, 3) where the joints of a pose are in the camera, in `skeleton.JOINTS` order."""
    joints_m = model.joints(skin(model, pose.rotmats.astype(np.float32), np.zeros(10, np.float32)))
    joints_m = joints_m - joints_m[ROOT]
    return (joints_m if pose.is_right else mirror_points(joints_m)) + pose.place_m


def _demo_moment(right: list[np.ndarray], left: list[np.ndarray], t: float) -> list[Pose]:
    poses = [_right_moment(right, t)]
    if t > _SECOND_HAND_FROM:
        poses.append(_left_moment(left, (t - _SECOND_HAND_FROM) / (1 - _SECOND_HAND_FROM)))
    return poses


def _keys(rng: np.random.Generator, surface: HandSurface, kinds: tuple[str, ...]) -> list[np.ndarray]:
    return [surface.poses.of_kind(rng, kind).rotmats for kind in kinds]


def _between(keys: list[np.ndarray], t: float) -> np.ndarray:
    """The pose at t in 0..1: held at each key, then an eased turn of every joint towards the next."""
    at = np.clip(t, 0, 1) * (len(keys) - 1)
    low = min(int(at), len(keys) - 2)
    s = np.clip((at - low - 0.25) / 0.6, 0, 1)
    s = s * s * (3 - 2 * s)
    start, end = keys[low], keys[low + 1]
    step = rotmat_to_rotvec(np.swapaxes(start, -1, -2) @ end)
    return start @ rotvec_to_rotmat((s * step).astype(np.float32))


def _right_moment(keys: list[np.ndarray], t: float) -> Pose:
    rotmats = _between(keys, t).copy()
    # A slow wave, and one look at the back of the hand while it is open.
    turned = np.pi * np.exp(-(((t - 0.58) / 0.07) ** 2)) * 0.9
    rotmats[0] = _turn(0.25 * np.sin(2 * np.pi * 1.5 * t) + 0.08, 0.2 * np.sin(2 * np.pi * t), turned + 0.3 * np.sin(2 * np.pi * 1.2 * t))
    place = np.array(
        [-0.02 - 0.10 * _ease((t - 0.36) / 0.12), 0.0 + 0.02 * np.sin(2 * np.pi * 2 * t), _DISTANCE_M + 0.05 * np.sin(2 * np.pi * 0.8 * t)]
    )
    return Pose(rotmats, place, True)


def _left_moment(keys: list[np.ndarray], t: float) -> Pose:
    rotmats = _between(keys, t).copy()
    rotmats[0] = _turn(0.15 * np.sin(2 * np.pi * 1.2 * t), 0.15 * np.sin(2 * np.pi * t + 1), 0.4 * np.sin(2 * np.pi * 0.9 * t))
    rise = 0.28 * (1 - _ease(t / 0.16))
    return Pose(rotmats, np.array([0.125, rise + 0.01 + 0.015 * np.sin(2 * np.pi * 1.5 * t), _DISTANCE_M + 0.02]), False)


def _turn(in_picture: float, tipped: float, about_forearm: float) -> np.ndarray:
    about_z = rotvec_to_rotmat(np.array([0.0, 0.0, in_picture]))
    about_x = rotvec_to_rotmat(np.array([tipped, 0.0, 0.0]))
    return (about_z @ about_x @ UPRIGHT_PALM @ rotvec_to_rotmat(np.array([about_forearm, 0.0, 0.0]))).astype(np.float32)


def _ease(t: float) -> float:
    t = float(np.clip(t, 0, 1))
    return t * t * (3 - 2 * t)


def _person(surface: HandSurface, tone: Skin, pose: Pose) -> list[Mesh]:
    """Hand, forearm and sleeve of one side, placed by the middle knuckle."""
    vertices_m = skin(surface.drawn, pose.rotmats, np.zeros(10, np.float32))
    knuckle = (surface.drawn.joint_regressor @ vertices_m)[MANO_JOINTS.index("middle_mcp")]
    vertices_m = vertices_m - knuckle
    arm = bent_arm(surface, vertices_m, pose.rotmats[0], np.array([0.0, 0.0, 0.12]), np.zeros(3))
    # The same folds in every frame.
    cloth = sleeve_mesh(np.random.default_rng(1), np.random.default_rng(1), arm, _SLEEVE, 0)
    cloth = replace(cloth, albedo=np.broadcast_to(_CLOTH_RGB, cloth.vertices_m.shape), material=_CLOTH)
    meshes = [hand_mesh(surface, vertices_m, tone), arm_mesh(surface, arm, vertices_m, tone, 0, 0.08), cloth]
    return [place_mesh(mesh, pose.place_m, not pose.is_right) for mesh in meshes]


def _room_light() -> Light:
    """Bright even light, more of it from above, and a window at the upper left."""
    forms = np.zeros((3, 4, 4), np.float32)
    forms[:, 3, 3] = 0.62
    forms[:, 1, 3] = forms[:, 3, 1] = -0.10
    forms[:, 2, 3] = forms[:, 3, 2] = -0.06
    direction = np.array([-0.55, -0.6, -0.58])
    return Light(forms, (direction / np.linalg.norm(direction)).astype(np.float32), np.array([0.78, 0.75, 0.70], np.float32))


def _room(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """(H, W, 3) f32 linear: a wall with light from a window, a shelf with books, a plant, a desk; out of focus."""
    w, h = width, height
    x, y = np.meshgrid(np.linspace(0, 1, w, dtype=np.float32), np.linspace(0, 1, h, dtype=np.float32))
    room = np.array([0.50, 0.455, 0.395], np.float32) * (1.08 - 0.45 * np.hypot(x - 0.15, 0.8 * (y - 0.1)))[..., None]

    def box(x0: float, y0: float, x1: float, y1: float, rgb: tuple[float, float, float]) -> None:
        cv2.rectangle(room, (int(x0 * w), int(y0 * h)), (int(x1 * w), int(y1 * h)), rgb, -1, cv2.LINE_AA)

    box(0.03, 0.05, 0.24, 0.52, (0.55, 0.52, 0.47))
    box(0.045, 0.07, 0.225, 0.5, (0.72, 0.82, 0.92))
    box(0.13, 0.07, 0.142, 0.5, (0.55, 0.52, 0.47))
    shelf = (0.19, 0.115, 0.06)
    for top in (0.2, 0.44):
        left = 0.68
        while left < 0.95:
            thick, tall = rng.uniform(0.012, 0.03), rng.uniform(0.10, 0.16)
            book = rng.uniform(0.06, 0.35) * (0.5 + np.array([rng.uniform(0, 1), rng.uniform(0.2, 0.7), rng.uniform(0, 1)]))
            box(left, top - tall, left + thick, top, tuple(book.tolist()))
            left += thick + (0.05 if rng.random() < 0.12 else 0.002)
        box(0.66, top, 0.98, top + 0.022, shelf)
    box(0.0, 0.82, 1.0, 1.0, (0.24, 0.155, 0.09))
    box(0.0, 0.82, 1.0, 0.828, (0.34, 0.23, 0.14))
    box(0.30, 0.70, 0.36, 0.83, (0.40, 0.20, 0.13))
    for _ in range(26):
        tip = (0.33 + rng.normal(0, 0.05), 0.56 + rng.normal(0, 0.06))
        green = rng.uniform(0.5, 1.2) * np.array([0.06, 0.17, 0.05])
        cv2.line(
            room, (int(0.33 * w), int(0.71 * h)), (int(tip[0] * w), int(tip[1] * h)), tuple(green.tolist()), max(2, w // 110), cv2.LINE_AA
        )
    room = cv2.GaussianBlur(room, (0, 0), w / 130)
    return room.astype(np.float32)
