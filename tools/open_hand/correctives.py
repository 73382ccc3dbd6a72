"""Pose correctives: what plain skinning gets wrong at each joint, measured and put into MANO's 9 features a joint.

Skinning draws the outside of a bent finger in and lets its inside pass through itself. Here every vertex turns about
the joint by its share of the angle, which keeps its distance to the joint (as dual quaternions would: Kavan et al.
2007), and flesh on the inside stops at the plane that halves the angle, where it meets itself. What that squeezes out
swells the finger around the joint, so that its volume stays.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from handmesh.geometry.rotation import rotvec_to_rotmat
from handmesh.hand_model.articulation import FIRST_JOINTS, LONG_FINGERS, Anatomy, unit
from handmesh.hand_model.meshfile import vertex_normals
from handmesh.hand_model.skinning import chain_joints
from handmesh.skeleton import FINGERS, MANO_JOINTS, MANO_PARENTS
from open_hand.surface import mesh_average

ANGLES_DEG = np.array([-25.0, 20.0, 40.0, 60.0, 75.0, 90.0, 100.0, 105.0])
THUMB_ROOT = FIRST_JOINTS["thumb"]
ROOT_ANGLES_DEG = np.array([-40.0, -25.0, -10.0, 10.0, 25.0, 40.0, 50.0])
# Softness of the meeting of flesh, in metres.
SOFTNESS_M = 0.0008
# Half of the gap that stays between the two sides.
GAP_M = 0.0006
# Rounds of averaging offsets with their neighbours': more in the palm, for the webs between fingers.
SMOOTHING, PALM_SMOOTHING = 1, 5
# Length along the finger over which squeezed-out flesh spreads.
SWELLING_M, THENAR_M = 0.010, 0.028
# At the knuckles most of the flesh belongs to the palm, and no swelling of the finger alone would make up for it.
MOST_SWELLING_MM = {"cmc": 5.0, "mcp": 1.5, "pip": 4.0, "dip": 4.0, "ip": 4.0}


@dataclass(frozen=True)
class Flesh:
    """What bends: vertices (V, 3), joints (16, 3), weights (V, 16), faces (F, 3), outward normals (V, 3)."""

    vertices: np.ndarray
    joints: np.ndarray
    weights: np.ndarray
    faces: np.ndarray
    normals: np.ndarray

    @staticmethod
    def of(vertices: np.ndarray, joints: np.ndarray, weights: np.ndarray, faces: np.ndarray) -> Flesh:
        """With its normals."""
        return Flesh(vertices, joints, weights, faces, vertex_normals(vertices, faces).astype(np.float64))

    def finger_faces(self, finger: str) -> np.ndarray:
        """Triangles that are more finger than palm."""
        first = FIRST_JOINTS[finger]
        own = self.weights[:, first : first + 3].sum(axis=1)
        return self.faces[(own[self.faces] > 0.5).all(axis=1)]


def pose_correctives(flesh: Flesh, anatomy: Anatomy) -> np.ndarray:
    """(V, 3, 135) offsets at rest per entry of (rotmat - identity) of the 15 finger joints."""
    dirs = np.zeros((len(flesh.vertices), 3, len(MANO_JOINTS) - 1, 3, 3))
    knuckles = [FIRST_JOINTS[finger] for finger in LONG_FINGERS]
    hinges = [FIRST_JOINTS[finger] + k for finger in FINGERS for k in (1, 2)]
    for joints in ([joint] for joint in hinges):
        _add_features(dirs, joints, _fit(flesh, anatomy, joints, [joints]), anatomy)
    # Skin between two fingers moves with both: they are bent one by one and, as is usual, together.
    _add_features(dirs, knuckles, _fit(flesh, anatomy, knuckles, [*([joint] for joint in knuckles), knuckles, knuckles]), anatomy)
    # The thumb's root turns about two axes, and the thenar that it turns meets nothing.
    sideways = _about_abduction(anatomy, THUMB_ROOT)
    _add_features(dirs, [THUMB_ROOT], _fit(flesh, anatomy, [THUMB_ROOT], [[THUMB_ROOT]], ROOT_ANGLES_DEG), anatomy)
    _add_features(dirs, [THUMB_ROOT], _fit(flesh, sideways, [THUMB_ROOT], [[THUMB_ROOT]], ROOT_ANGLES_DEG), sideways)
    return dirs.reshape(len(flesh.vertices), 3, -1)


def _about_abduction(anatomy: Anatomy, joint: int) -> Anatomy:
    """The same hand with one joint's abduction in the place of its flexion."""
    axes, pads = anatomy.flexion_axes.copy(), anatomy.pads.copy()
    axes[joint], pads[joint] = anatomy.frames[joint - 1][:, 0], anatomy.flexion_axes[joint]
    return replace(anatomy, flexion_axes=axes, pads=pads)


def _add_features(dirs: np.ndarray, joints: list[int], offsets: np.ndarray, anatomy: Anatomy) -> None:
    """Add offsets (V, 3, len(joints), 2) per sine and per (1 - cosine) of flexion to the features of the joints."""
    for number, joint in enumerate(joints):
        K = _cross_matrix(anatomy.flexion_axes[joint])
        # K and K K are at right angles, each of squared length 2: this undoes R - I = sin K + (1 - cos) K K.
        sine, cosine = np.moveaxis(offsets[:, :, number, :, None, None], 2, 0)
        dirs[:, :, joint - 1] += 0.5 * sine * K + 0.5 * cosine * (K @ K)


def _fit(
    flesh: Flesh, anatomy: Anatomy, joints: list[int], bent_together: list[list[int]], angles_deg: np.ndarray = ANGLES_DEG
) -> np.ndarray:
    """(V, 3, len(joints), 2) offsets per sine and (1 - cosine) of each joint's flexion that come nearest to the targets."""
    offsets, features = [], []
    for bent in bent_together:
        for angle in np.radians(angles_deg):
            offsets.append(_offset(flesh, anatomy, bent, angle))
            row = np.zeros((len(joints), 2))
            row[np.isin(joints, bent)] = np.sin(angle), 1 - np.cos(angle)
            features.append(row.ravel())
    solution = np.linalg.lstsq(np.stack(features), np.stack(offsets).reshape(len(offsets), -1), rcond=None)[0]
    return np.moveaxis(solution.reshape(len(joints), 2, -1, 3), (2, 3), (0, 1))


def _offset(flesh: Flesh, anatomy: Anatomy, bent: list[int], angle: float) -> np.ndarray:
    """(V, 3) what must be added at rest so that skinning bends these joints well."""
    rotmats = np.tile(np.eye(3), (len(MANO_JOINTS), 1, 1))
    rotmats[bent] = rotvec_to_rotmat(anatomy.flexion_axes[bent] * angle)
    average = mesh_average(flesh.faces, len(flesh.vertices))
    offset = unskin(hinge_target(flesh, anatomy, bent, angle), flesh.joints, flesh.weights, rotmats) - flesh.vertices
    is_in_palm = bent[0] in FIRST_JOINTS.values()
    for _ in range(PALM_SMOOTHING if is_in_palm else SMOOTHING):
        offset = 0.5 * offset + 0.5 * (average @ offset)
    for joint in bent:
        offset = offset + _swelling(flesh, anatomy, joint, offset, rotmats)
    return offset


def _swelling(flesh: Flesh, anatomy: Anatomy, joint: int, offset: np.ndarray, rotmats: np.ndarray) -> np.ndarray:
    """(V, 3) what gives a finger back the volume that bending, with `offset` added at rest, takes from it."""
    finger = next(finger for finger in FINGERS if 0 <= joint - FIRST_JOINTS[finger] < 3)
    if joint == THUMB_ROOT:
        # The thenar has no border with the palm: the whole hand's volume counts, and the ball of the thumb swells.
        faces = flesh.faces
        ball = (flesh.joints[joint] + flesh.joints[joint + 1]) / 2
        of_fingers = sum(flesh.weights[:, _with_descendants(FIRST_JOINTS[each])].sum(axis=1) for each in LONG_FINGERS)
        near = np.exp(-((np.linalg.norm(flesh.vertices - ball, axis=1) / THENAR_M) ** 2)) * np.clip(1 - 3 * of_fingers, 0, 1)
    else:
        faces = flesh.finger_faces(finger)
        distance = (flesh.vertices - flesh.joints[joint]) @ anatomy.frames[joint - 1][:, 1]
        near = np.exp(-((distance / SWELLING_M) ** 2)) * np.isin(np.arange(len(distance)), faces)
        # Not on the soft side, where flesh already meets flesh.
        near *= np.clip(1 - 1.5 * np.maximum(flesh.normals @ anatomy.pads[joint], 0), 0, 1)
    swelling = 1e-3 * near[:, None] * flesh.normals
    volume = enclosed_volume(flesh.vertices, faces)

    def gain(millimetres: float) -> float:
        posed = reskin(flesh.vertices + offset + millimetres * swelling, flesh.joints, flesh.weights, rotmats)
        return enclosed_volume(posed, faces) / volume - 1

    # Volume grows almost linearly with the swelling: two secant steps are enough.
    at_zero, at_one = gain(0.0), gain(1.0)
    amount = -at_zero / (at_one - at_zero)
    most = MOST_SWELLING_MM[MANO_JOINTS[joint].removeprefix(f"{finger}_")]
    return float(np.clip(amount - gain(amount) / (at_one - at_zero), -most, most)) * swelling


def enclosed_volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    """Volume within a surface whose one open border is closed by a fan."""
    directed = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    there = set(map(tuple, directed.tolist()))
    rim = [start for start, end in there if (end, start) not in there]
    # Cones from the fan's middle: the fan itself then holds nothing.
    a, b, c = (vertices[faces[:, corner]] - vertices[rim].mean(axis=0) for corner in range(3))
    return float(np.einsum("ni,ni->", a, np.cross(b, c)) / 6)


def hinge_target(flesh: Flesh, anatomy: Anatomy, bent: list[int], angle: float) -> np.ndarray:
    """Where vertices (V, 3) should go when joints side by side bend by `angle` radians."""
    shares = np.stack([flesh.weights[:, _with_descendants(joint)].sum(axis=1) for joint in bent], axis=1)
    share = shares.sum(axis=1)
    # Between two fingers, a vertex turns about an axis between theirs.
    distances = np.linalg.norm(flesh.vertices[:, None] - flesh.joints[bent], axis=-1)
    nearness = (shares + 1e-3) * np.exp(-(distances - distances.min(axis=1, keepdims=True)) / 0.006)
    nearness /= nearness.sum(axis=1, keepdims=True)
    centre = nearness @ flesh.joints[bent]
    axis = _unit_rows(nearness @ anatomy.flexion_axes[bent])
    pad = _unit_rows(nearness @ anatomy.pads[bent])
    bone = np.cross(pad, axis)
    offset = flesh.vertices - centre
    turned = _turn(offset, axis, angle * share)
    # In the frame half way, flesh of either side may not cross the plane through the axis.
    half = _turn(turned, axis, np.full(len(turned), -angle / 2))
    along, height = (half * bone).sum(axis=1), (half * pad).sum(axis=1)
    side = np.where(share < 0.5, -1.0, 1.0)
    kept = side * (SOFTNESS_M * np.logaddexp(0, side * along / SOFTNESS_M) + GAP_M)
    across = np.abs((offset * axis).sum(axis=1))
    inside = np.clip(height / 0.002, 0, 1) * np.clip((0.016 - across) / 0.005, 0, 1) * (angle > 0 and bent != [THUMB_ROOT])
    inside *= np.clip((0.022 - np.abs((offset * bone).sum(axis=1))) / 0.006, 0, 1)
    half = half + (inside * (kept - along))[:, None] * bone
    return centre + _turn(half, axis, np.full(len(turned), angle / 2))


def reskin(rest: np.ndarray, joints: np.ndarray, weights: np.ndarray, rotmats: np.ndarray) -> np.ndarray:
    """Skin corrected vertices (V, 3)."""
    matrices, shifts = _blended(joints, weights, rotmats)
    return np.einsum("vab,vb->va", matrices, rest) + shifts


def unskin(posed: np.ndarray, joints: np.ndarray, weights: np.ndarray, rotmats: np.ndarray) -> np.ndarray:
    """Vertices at rest (V, 3) that skinning takes to `posed`."""
    matrices, shifts = _blended(joints, weights, rotmats)
    return np.linalg.solve(matrices, (posed - shifts)[..., None])[..., 0]


def _blended(joints: np.ndarray, weights: np.ndarray, rotmats: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    world, posed_joints = chain_joints(joints, rotmats)
    shifts = posed_joints - (world @ joints[..., None])[..., 0]
    return np.einsum("vj,jab->vab", weights, world), weights @ shifts


def _with_descendants(joint: int) -> list[int]:
    found = [joint]
    for child, parent in enumerate(MANO_PARENTS):
        if parent in found:
            found.append(child)
    return found


def _turn(points: np.ndarray, axes: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Each point (N, 3) about its own axis (N, 3) by its own angle (N,)."""
    return (rotvec_to_rotmat(axes * angles[:, None]) @ points[..., None])[..., 0]


def _unit_rows(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _cross_matrix(axis: np.ndarray) -> np.ndarray:
    x, y, z = unit(axis)
    return np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
