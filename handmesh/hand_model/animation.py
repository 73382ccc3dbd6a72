"""Hands that move, as one glb: a skinned mesh with 16 joints for each, and the camera that saw them.

glTF skins like MANO, by linear blending, but knows no pose correctives: those become morph targets, or are left out. What that costs is
measured with every file. Axes are glTF's (y up, z backwards), lengths metres, time 0 the first frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from handmesh.errors import UserError
from handmesh.geometry.rotation import mirror_rotmat, rotmat_to_rotvec
from handmesh.hand_model.gltf import TRIANGLES, VERTICES, GlbBuffer
from handmesh.hand_model.meshfile import GLTF_FROM_CAMERA, SKIN_RGB, vertex_normals
from handmesh.hand_model.skinning import HandModel, mirror_points, shape_hand, skin
from handmesh.records import Camera
from handmesh.skeleton import MANO_JOINTS, MANO_PARENTS
from handmesh.wholefile import replacing

_CHUNK = 64
# Nothing nearer is drawn.
_NEAREST_M = 0.01


@dataclass(frozen=True)
class HandMotion:
    """One hand in the frames of a video that it is in.

    Attributes:
        name: unique among the hands of a file.
        is_right: True for a right hand.
        frames: (T,) which frames of the video, growing.
        T_camera_wrist: (T, 4, 4) pose of the wrist, as in `Hand`.
        rotmats: (T, 16, 3, 3) of the right-hand model, as in `HandParams`; the first of each is not used.
        betas: (T, 10) in standard deviations.
        scale: (T,) the hand is so many times what the model gives.
    """

    name: str
    is_right: bool
    frames: np.ndarray
    T_camera_wrist: np.ndarray
    rotmats: np.ndarray
    betas: np.ndarray
    scale: np.ndarray


@dataclass(frozen=True)
class Difference:
    """Distances between the file's vertices and those of `skinning.skin`, over all hands, frames and vertices; millimetres."""

    mean_mm: float
    max_mm: float


def motion_vertices(model: HandModel, motion: HandMotion) -> np.ndarray:
    """(T, V, 3) the mesh of every frame in metres, camera frame: `Hand.vertices_m` again."""
    return _vertices_and_wrists(model, motion)[0]


def save_animation(
    motions: Sequence[HandMotion],
    times_s: np.ndarray,
    model: HandModel,
    camera: Camera,
    path: str | Path,
    *,
    correctives: bool = False,
    advance: Callable[[int], None] | None = None,
) -> Difference:
    """Write hands as an animated glb.

    Each hand has the shape that it has in the median of its frames: the one it holds, where it holds one. It is scaled to nothing
    while it is not in view. Left hands are mirrored meshes with mirrored rotations. The file's camera has no distortion, and its
    principal point is in the middle, since glTF knows no other.

    Args:
        motions: the hands.
        times_s: (F,) of the video's frames, growing.
        model: that the hands were posed with.
        camera: that saw them.
        path: ends in .glb; written to a temporary name and renamed.
        correctives: write MANO's linear pose correctives as morph targets, and changes of a hand's shape as more of them and as moving
            joints: the file's hand is then ours to rounding.
        advance: told how many frames of how many hands are done, now and then.

    Returns:
        How far the file's hands are from ours.

    Raises:
        UserError: no hands, or another ending.
    """
    path = Path(path)
    if path.suffix.lower() != ".glb":
        raise UserError(f"expected an animation that ends in .glb, got '{path}'; change the ending")
    if not motions:
        raise UserError(f"expected at least one hand for '{path}', got none; an animation needs frames with hands")
    model = model.astype(np.float64)
    writer = _Writer(model, times_s - times_s[0])
    mean_mm, max_mm, total = 0.0, 0.0, sum(len(motion.frames) for motion in motions)
    for motion in motions:
        rig = bind_rig(model, motion, correctives)
        writer.add_hand(motion, rig)
        for part in _slices(len(motion.frames)):
            ours_m = motion_vertices(model, _part_of(motion, part)) @ GLTF_FROM_CAMERA
            distances_mm = 1e3 * np.linalg.norm(_rig_vertices(model, rig, part) - ours_m, axis=-1)
            mean_mm += distances_mm.mean(axis=1).sum() / total
            max_mm = max(max_mm, float(distances_mm.max()))
            if advance is not None:
                advance(len(distances_mm))
    data = writer.to_glb(camera)
    with replacing(path) as temporary:
        temporary.write_bytes(data)
    return Difference(float(mean_mm), max_mm)


@dataclass(frozen=True)
class Rig:
    """A hand as bones and morph targets: what a file of it says. Single precision, its own side, glTF's axes.

    Attributes:
        rest_m: (V, 3) mesh at rest.
        joints_m: (16, 3) joints at rest.
        faces: (F, 3).
        targets_m: (K, V, 3) what a morph target of weight 1 adds to the mesh at rest.
        target_names: K names.
        quats_xyzw: (T, 16, 4) parent-relative rotations, without jumps of sign.
        translations_m: (T, 16, 3) of each joint in its parent; the wrist's in the scene.
        scales: (T,) of the wrist, 1 for the size at rest.
        weights: (T, K) of the morph targets.
    """

    rest_m: np.ndarray
    joints_m: np.ndarray
    faces: np.ndarray
    targets_m: np.ndarray
    target_names: tuple[str, ...]
    quats_xyzw: np.ndarray
    translations_m: np.ndarray
    scales: np.ndarray
    weights: np.ndarray


def bind_rig(model: HandModel, motion: HandMotion, correctives: bool) -> Rig:
    """Make bones and targets of a hand's motion; `correctives` as in `save_animation`."""
    to_side = (lambda points: points) if motion.is_right else mirror_points
    # Of an exactly held shape, the median is that shape.
    held_betas, held_scale = np.median(motion.betas, axis=0), float(np.median(motion.scale))
    rest_m, joints_m = (held_scale * to_side(points) for points in shape_hand(model, held_betas))
    changes = (motion.betas - held_betas) if correctives else np.zeros((len(motion.frames), 10))

    # A mesh at rest that is of another shape has its joints elsewhere. The bones are bound to those of the held shape, so that each has to
    # stand where its turn about the held joint does what its turn about the joint of the frame would: R (x - J') + p' = R (x - J) + q.
    joint_changes_m = held_scale * to_side((changes @ model.joint_shape_dirs.reshape(-1, 10).T).reshape(-1, 16, 3))
    rotmats = _own_rotmats(motion)
    wrists_m = _chain_wrists(model, motion) @ GLTF_FROM_CAMERA
    translations_m = np.empty((len(motion.frames), 16, 3))
    for joint, parent in enumerate(MANO_PARENTS):
        turned_m = (rotmats[:, joint] @ joint_changes_m[:, joint, :, None])[..., 0]
        if parent < 0:
            translations_m[:, joint] = wrists_m - (motion.scale / held_scale)[:, None] * turned_m
        else:
            bone_m = joints_m[joint] - joints_m[parent]
            translations_m[:, joint] = bone_m + joint_changes_m[:, joint] - turned_m

    targets_m, names, weights = np.zeros((0, *rest_m.shape)), (), np.zeros((len(motion.frames), 0))
    if correctives:
        targets_m = held_scale * to_side(np.concatenate([model.pose_dirs, model.shape_dirs], axis=2).transpose(2, 0, 1))
        names = (*_pose_feature_names(), *(f"shape_{name}" for name in model.beta_names))
        features = (motion.rotmats[:, 1:] - np.eye(3)).reshape(-1, 135)
        weights = np.concatenate([features, changes], axis=1)
        # Both would do nothing.
        kept = np.flatnonzero(np.any(targets_m, axis=(1, 2)) & np.any(weights, axis=0))
        targets_m, names, weights = targets_m[kept], tuple(names[index] for index in kept), weights[:, kept]

    def single(values: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(values, np.float32)

    return Rig(
        rest_m=single(rest_m),
        joints_m=single(joints_m),
        faces=model.faces_for(motion.is_right),
        targets_m=single(targets_m),
        target_names=names,
        quats_xyzw=single(continuous_quats(rotmats)),
        translations_m=single(translations_m),
        scales=single(motion.scale / held_scale),
        weights=single(weights),
    )


def _rig_vertices(model: HandModel, rig: Rig, part: slice) -> np.ndarray:
    """(n, V, 3) of some frames by glTF's rules: morph, then blend joint matrices times inverse bind matrices."""
    world = np.zeros((len(rig.scales[part]), 16, 4, 4))
    quats, translations_m = rig.quats_xyzw[part].astype(np.float64), rig.translations_m[part].astype(np.float64)
    world[:, :, :3, :3], world[:, :, :3, 3], world[:, :, 3, 3] = quat_to_rotmat(quats), translations_m, 1
    world[:, 0, :3, :3] *= rig.scales[part, None, None]
    for joint, parent in enumerate(MANO_PARENTS):
        if parent >= 0:
            world[:, joint] = world[:, parent] @ world[:, joint]
    world[..., :3, 3] -= (world[..., :3, :3] @ rig.joints_m[..., None])[..., 0]
    rest_m = rig.rest_m + np.tensordot(rig.weights[part].astype(np.float64), rig.targets_m, axes=1)
    blended = np.tensordot(world[..., :3, :], _normalized(model.skin_weights).astype(np.float64), axes=(1, 1))
    return np.einsum("nijv,nvj->nvi", blended[:, :, :3], rest_m) + blended[:, :, 3].transpose(0, 2, 1)


def _own_rotmats(motion: HandMotion) -> np.ndarray:
    """(T, 16, 3, 3) parent-relative rotations of the hand's own side, the wrist's in glTF's axes."""
    fingers = motion.rotmats[:, 1:] if motion.is_right else mirror_rotmat(motion.rotmats[:, 1:])
    return np.concatenate([(GLTF_FROM_CAMERA @ motion.T_camera_wrist[:, :3, :3])[:, None], fingers], axis=1)


def _vertices_and_wrists(model: HandModel, motion: HandMotion) -> tuple[np.ndarray, np.ndarray]:
    """(T, V, 3) vertices, and (T, 3) where the kinematic chain starts; metres, camera frame.

    The wrist that poses are given for is regressed from the posed mesh, a little beside the joint that the hand turns about.
    """
    R_camera_wrist = motion.T_camera_wrist[:, :3, :3]
    rotmats = motion.rotmats.copy()
    rotmats[:, 0] = R_camera_wrist if motion.is_right else mirror_rotmat(R_camera_wrist)
    posed_m = skin(model, rotmats, motion.betas)
    start_m = model.rest_joints_m[0] + motion.betas @ model.joint_shape_dirs[0].T
    if not motion.is_right:
        posed_m, start_m = mirror_points(posed_m), mirror_points(start_m)
    wrist_m = model.joint_regressor[0] @ posed_m
    scale = motion.scale[:, None]
    shift_m = motion.T_camera_wrist[:, :3, 3] - scale * wrist_m
    return scale[..., None] * posed_m + shift_m[:, None], scale * start_m + shift_m


def _chain_wrists(model: HandModel, motion: HandMotion) -> np.ndarray:
    parts = [_vertices_and_wrists(model, _part_of(motion, part))[1] for part in _slices(len(motion.frames))]
    return np.concatenate(parts)


def _part_of(motion: HandMotion, part: slice) -> HandMotion:
    arrays = ("frames", "T_camera_wrist", "rotmats", "betas", "scale")
    return replace(motion, **{name: getattr(motion, name)[part] for name in arrays})


def _slices(count: int) -> Iterator[slice]:
    for start in range(0, count, _CHUNK):
        yield slice(start, min(start + _CHUNK, count))


def continuous_quats(rotmats: np.ndarray) -> np.ndarray:
    """(T, ..., 3, 3) as unit quaternions (T, ..., 4), x y z w; of the two that mean the same, the one near that of the frame before."""
    rotvecs = rotmat_to_rotvec(rotmats)
    angles = np.linalg.norm(rotvecs, axis=-1, keepdims=True)
    quats = np.concatenate([rotvecs * np.sinc(angles / (2 * np.pi)) / 2, np.cos(angles / 2)], axis=-1)
    turns = np.where(np.sum(quats[1:] * quats[:-1], axis=-1, keepdims=True) < 0, -1.0, 1.0)
    quats[1:] *= np.cumprod(turns, axis=0)
    return quats


def quat_to_rotmat(quats_xyzw: np.ndarray) -> np.ndarray:
    """(..., 4) unit quaternions to (..., 3, 3)."""
    x, y, z, w = np.moveaxis(quats_xyzw, -1, 0)
    rows = [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        *(2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        *(2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    ]
    return np.stack(rows, axis=-1).reshape(*quats_xyzw.shape[:-1], 3, 3)


def _pose_feature_names() -> Iterator[str]:
    for joint in MANO_JOINTS[1:]:
        for row in range(3):
            for column in range(3):
                yield f"{joint}_{row}{column}"


class _Writer:
    """Collects hands into one glTF tree.

    Args:
        model: of all hands.
        times_s: (F,) from 0.
    """

    def __init__(self, model: HandModel, times_s: np.ndarray) -> None:
        self._model = model
        self._times_s = times_s.astype(np.float32)
        if len(times_s) > 1 and np.diff(self._times_s).min() <= 0:
            raise UserError("expected times that grow in single precision, got equal ones; convert a shorter part with --start and --end")
        self._buffer = GlbBuffer()
        self._nodes: list[dict[str, Any]] = []
        self._roots: list[int] = []
        self._meshes: list[dict[str, Any]] = []
        self._skins: list[dict[str, Any]] = []
        self._materials: list[dict[str, Any]] = []
        self._channels: list[dict[str, Any]] = []
        self._samplers: list[dict[str, Any]] = []

    def add_hand(self, motion: HandMotion, rig: Rig) -> None:
        """A mesh node and 16 joint nodes, and how they move."""
        mesh_node, first = len(self._nodes), len(self._nodes) + 1
        self._nodes.append({"name": motion.name, "mesh": self._add_mesh(motion, rig), "skin": len(self._skins)})
        for joint, name in enumerate(MANO_JOINTS):
            node: dict[str, Any] = {
                "name": f"{motion.name}_{name}",
                "translation": rig.translations_m[0, joint].tolist(),
                "rotation": rig.quats_xyzw[0, joint].tolist(),
            }
            children = [first + child for child, parent in enumerate(MANO_PARENTS) if parent == joint]
            self._nodes.append({**node, "children": children} if children else node)
        self._roots += [mesh_node, first]

        binds = np.tile(np.eye(4, dtype=np.float32), (16, 1, 1))
        binds[:, :3, 3] = -rig.joints_m
        self._skins.append({"inverseBindMatrices": self._buffer.add(binds), "joints": list(range(first, first + 16)), "skeleton": first})

        for joint in range(16):
            self._move(first + joint, "rotation", motion.frames, rig.quats_xyzw[:, joint])
            translations_m = rig.translations_m[:, joint]
            if joint == 0 or np.any(translations_m != translations_m[0]):
                self._move(first + joint, "translation", motion.frames, translations_m)
        if rig.weights.shape[1]:
            self._move(mesh_node, "weights", motion.frames, rig.weights)
        self._show(first, motion.frames, rig.scales)

    def to_glb(self, camera: Camera) -> bytes:
        """The file."""
        self._roots.append(len(self._nodes))
        self._nodes.append({"name": "camera", "camera": 0})
        perspective = {
            "yfov": float(2 * np.arctan(camera.height / (2 * camera.fy))),
            "aspectRatio": (camera.width / camera.fx) / (camera.height / camera.fy),
            "znear": _NEAREST_M,
        }
        tree = {
            "asset": {"version": "2.0", "generator": "handmesh"},
            "scene": 0,
            "scenes": [{"nodes": self._roots}],
            "nodes": self._nodes,
            "meshes": self._meshes,
            "skins": self._skins,
            "materials": self._materials,
            "cameras": [{"type": "perspective", "perspective": perspective}],
            "animations": [{"name": "hands", "channels": self._channels, "samplers": self._samplers}],
        }
        return self._buffer.to_glb(tree)

    def _add_mesh(self, motion: HandMotion, rig: Rig) -> int:
        attributes = {
            "POSITION": self._buffer.add(rig.rest_m, VERTICES, with_range=True),
            "NORMAL": self._buffer.add(vertex_normals(rig.rest_m, rig.faces), VERTICES),
        }
        for index, (joints, weights) in enumerate(_influences(self._model.skin_weights)):
            attributes[f"JOINTS_{index}"] = self._buffer.add(joints, VERTICES)
            attributes[f"WEIGHTS_{index}"] = self._buffer.add(weights, VERTICES)
        index_type = np.uint16 if len(rig.rest_m) <= 0xFFFF else np.uint32
        primitive: dict[str, Any] = {
            "attributes": attributes,
            "indices": self._buffer.add(rig.faces.astype(index_type).ravel(), TRIANGLES),
            "material": self._material(motion.is_right),
        }
        mesh: dict[str, Any] = {"name": motion.name, "primitives": [primitive]}
        if len(rig.targets_m):
            primitive["targets"] = [{"POSITION": self._buffer.add_sparse(target)} for target in rig.targets_m]
            mesh |= {"weights": rig.weights[0].tolist(), "extras": {"targetNames": list(rig.target_names)}}
        self._meshes.append(mesh)
        return len(self._meshes) - 1

    def _material(self, is_right: bool) -> int:
        material = {
            "name": f"{'right' if is_right else 'left'}_skin",
            "pbrMetallicRoughness": {"baseColorFactor": [*_linear(SKIN_RGB[is_right]), 1.0], "metallicFactor": 0.0, "roughnessFactor": 0.6},
        }
        if material not in self._materials:
            self._materials.append(material)
        return self._materials.index(material)

    def _move(self, node: int, what: str, frames: np.ndarray, values: np.ndarray, interpolation: str = "LINEAR") -> None:
        times = self._buffer.add(self._times_s[frames], with_range=True)
        output = self._buffer.add(values.ravel() if what == "weights" else values)
        self._channels.append({"sampler": len(self._samplers), "target": {"node": node, "path": what}})
        self._samplers.append({"input": times, "output": output, "interpolation": interpolation})

    def _show(self, wrist: int, frames: np.ndarray, scales: np.ndarray) -> None:
        """Scale the wrist, and with it all: to nothing in frames without the hand."""
        factors = np.zeros(len(self._times_s), np.float32)
        factors[frames] = scales
        # The first key, every change, and the last, so that the animation is as long as the video.
        keys = np.unique(np.r_[0, 1 + np.flatnonzero(np.diff(factors)), len(factors) - 1])
        self._nodes[wrist]["scale"] = [float(scales[0])] * 3
        if np.any(factors != 1):
            self._move(wrist, "scale", keys, np.repeat(factors[keys, None], 3, axis=1), "STEP")


def _linear(rgb: Sequence[float]) -> list[float]:
    """sRGB in 0..1 as light, which glTF's factors are (IEC 61966-2-1, above its linear foot)."""
    return [((value + 0.055) / 1.055) ** 2.4 for value in rgb]


def _normalized(skin_weights: np.ndarray) -> np.ndarray:
    """(V, 16) float32 whose rows sum to 1, as glTF wants them."""
    return (skin_weights / skin_weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _influences(skin_weights: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Joints (V, 4) uint8 and their weights (V, 4) float32, the strongest four first, then the next, until all are named."""
    order = np.argsort(-skin_weights, axis=1, kind="stable")
    weights = np.take_along_axis(_normalized(skin_weights), order, axis=1)
    # What single precision rounds to nothing is no influence, and names no joint.
    joints = np.where(weights > 0, order, 0).astype(np.uint8)
    most = int(np.count_nonzero(weights, axis=1).max())
    for start in range(0, most, 4):
        yield np.ascontiguousarray(joints[:, start : start + 4]), np.ascontiguousarray(weights[:, start : start + 4])
