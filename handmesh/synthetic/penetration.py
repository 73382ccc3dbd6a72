"""How deep a posed hand reaches into itself, fast: balls that fill the flesh at rest and move with the bones.

Knows joints and a mesh at rest; not the blend shapes of poses, so that it is right to a millimetre or two.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from handmesh.hand_model import HandModel
from handmesh.hand_model.articulation import ABDUCTION, FIRST_JOINTS, FLEXION, TWIST, Anatomy
from handmesh.hand_model.meshfile import vertex_normals
from handmesh.skeleton import MANO_PARENTS

# Skin presses in where it touches. Balls reach deeper than skin does: on the open hand 4 mm between them are 2 to 3 mm of the mesh.
TOUCH_M = 0.0032
_LEAST_RADIUS_M, _MOST_RADIUS_M = 0.003, 0.02
# A ball stands for the skin this close to its own surface.
_COVERS_M = 0.0008
_PARENTS = np.array(MANO_PARENTS, np.int32)
_THUMB = FIRST_JOINTS["thumb"]
_FLEXION, _ABDUCTION, _TWIST = FLEXION, ABDUCTION, TWIST


@dataclass(frozen=True)
class Flesh:
    """Balls inside a hand at rest, with N balls and P pairs that must not overlap.

    Attributes:
        joints_m: (16, 3) at rest.
        frames: (15, 3, 3) from `Anatomy.frames`.
        centres_m, radii_m: (N, 3) and (N,).
        bones, shares: (N, 2) the two joints that move a ball, the stronger first, and how much each does.
        pairs: (P, 2) balls of parts that are not neighbours; those with the thumb come first.
        thumb_pairs: how many do.
        allowed_m: (P,) how much each pair overlaps at rest already.
    """

    joints_m: np.ndarray
    frames: np.ndarray
    centres_m: np.ndarray
    radii_m: np.ndarray
    bones: np.ndarray
    shares: np.ndarray
    pairs: np.ndarray
    thumb_pairs: int
    allowed_m: np.ndarray

    @staticmethod
    def of(model: HandModel, anatomy: Anatomy) -> Flesh:
        """Fill a model's template with balls."""
        points = model.template_m.astype(np.float64)
        centres, radii = _inner_balls(points, vertex_normals(points, model.faces))
        chosen, covers = _covering(points, centres, radii)
        centres, radii = centres[chosen], radii[chosen]
        weights = covers[chosen] @ model.skin_weights.astype(np.float64)
        bones = np.argsort(-weights, axis=1)[:, :2].astype(np.int32)
        shares = np.take_along_axis(weights, bones.astype(np.int64), axis=1)
        shares /= shares.sum(axis=1, keepdims=True)
        first, second = np.triu_indices(len(radii), 1)
        a, b = bones[first, 0], bones[second, 0]
        apart = (a != b) & (_PARENTS[a] != b) & (_PARENTS[b] != a)
        is_thumb = (a >= _THUMB) | (b >= _THUMB)
        order = np.concatenate([np.flatnonzero(apart & is_thumb), np.flatnonzero(apart & ~is_thumb)])
        pairs = np.stack([first[order], second[order]], axis=1).astype(np.int32)
        gaps = np.linalg.norm(centres[pairs[:, 0]] - centres[pairs[:, 1]], axis=1)
        allowed = np.maximum(radii[pairs].sum(axis=1) - gaps, 0)
        thumb_pairs = int((apart & is_thumb).sum())
        joints = np.ascontiguousarray(anatomy.joints_m, np.float64)
        frames = np.ascontiguousarray(anatomy.frames, np.float64)
        return Flesh(joints, frames, np.ascontiguousarray(centres), np.ascontiguousarray(radii), bones, shares, pairs, thumb_pairs, allowed)

    def bones_of(self, angles_deg: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """World rotations (16, 3, 3) and shifts (16, 3) of joint angles (15, 3): a point x of bone k goes to R[k] x + t[k]."""
        rotmats, shifts = np.empty((16, 3, 3)), np.empty((16, 3))
        pose_bones(angles_deg, self.frames, self.joints_m, rotmats, shifts)
        return rotmats, shifts

    def posed(self, angles_deg: np.ndarray) -> np.ndarray:
        """(N, 3) centres in a pose with joint angles (15, 3)."""
        centres = np.empty_like(self.centres_m)
        pose_balls(*self.bones_of(angles_deg), self.centres_m, self.bones, self.shares, centres)
        return centres

    def overlap_m(self, angles_deg: np.ndarray) -> tuple[float, float]:
        """Deepest overlap of the thumb with the rest, and of the rest with itself, beyond that of the hand at rest."""
        centres = self.posed(angles_deg)
        k = self.thumb_pairs
        return (
            deepest_m(centres, self.radii_m, self.pairs[:k], self.allowed_m[:k]),
            deepest_m(centres, self.radii_m, self.pairs[k:], self.allowed_m[k:]),
        )


def _inner_balls(points: np.ndarray, normals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centres (V, 3) and radii (V,) of the largest ball that touches the skin at each vertex from inside."""
    between = points[None] - points[:, None]
    inwards = -np.einsum("vwi,vi->vw", between, normals)
    squares = np.einsum("vwi,vwi->vw", between, between)
    radii = np.where(inwards > 1e-5, squares / np.maximum(2 * inwards, 1e-9), np.inf).min(axis=1)
    radii = np.clip(radii, 1e-4, _MOST_RADIUS_M)
    return points - radii[:, None] * normals, radii


def _covering(points: np.ndarray, centres: np.ndarray, radii: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Few balls that stand for nearly all of the skin: indices, and (V, V) which vertices each ball covers."""
    reach = np.linalg.norm(points[None] - centres[:, None], axis=-1) - radii[:, None]
    covers = (np.abs(reach) < _COVERS_M) & (radii[:, None] > _LEAST_RADIUS_M)
    left, chosen = np.ones(len(points), bool), []
    while True:
        gains = (covers & left).sum(axis=1)
        best = int(np.argmax(gains))
        if gains[best] < 2:
            return np.array(chosen), covers.astype(np.float64)
        chosen.append(best)
        left &= ~covers[best]


@numba.njit(cache=True)
def _turn(axis: np.ndarray, angle: float, out: np.ndarray) -> None:
    c, s = np.cos(angle), np.sin(angle)
    x, y, z = axis
    d = 1 - c
    out[0, 0], out[0, 1], out[0, 2] = c + x * x * d, x * y * d - z * s, x * z * d + y * s
    out[1, 0], out[1, 1], out[1, 2] = y * x * d + z * s, c + y * y * d, y * z * d - x * s
    out[2, 0], out[2, 1], out[2, 2] = z * x * d - y * s, z * y * d + x * s, c + z * z * d


@numba.njit(cache=True)
def _product(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    for i in range(3):
        for j in range(3):
            out[i, j] = a[i, 0] * b[0, j] + a[i, 1] * b[1, j] + a[i, 2] * b[2, j]


@numba.njit(cache=True)
def pose_bones(angles_deg: np.ndarray, frames: np.ndarray, joints_m: np.ndarray, rotmats: np.ndarray, shifts_m: np.ndarray) -> None:
    """Forward kinematics of joint angles (15, 3) with the wrist at rest, as `articulation.angles_to_rotmats` turns them."""
    rotmats[0] = np.eye(3)
    shifts_m[0] = 0.0
    a, b, c = np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3))
    for k in range(1, 16):
        p = _PARENTS[k]
        _turn(frames[k - 1, :, 0], np.radians(angles_deg[k - 1, _ABDUCTION]), a)
        _product(rotmats[p], a, b)
        _turn(frames[k - 1, :, 1], np.radians(angles_deg[k - 1, _TWIST]), a)
        _product(b, a, c)
        _turn(frames[k - 1, :, 2], np.radians(angles_deg[k - 1, _FLEXION]), a)
        _product(c, a, rotmats[k])
        for i in range(3):
            place = shifts_m[p, i]
            for j in range(3):
                place += (rotmats[p, i, j] - rotmats[k, i, j]) * joints_m[k, j]
            shifts_m[k, i] = place


@numba.njit(cache=True)
def pose_balls(
    rotmats: np.ndarray, shifts_m: np.ndarray, centres_m: np.ndarray, bones: np.ndarray, shares: np.ndarray, out: np.ndarray
) -> None:
    """Linear blend skinning of ball centres (N, 3) by two bones each."""
    for n in range(len(out)):
        for i in range(3):
            value = 0.0
            for side in range(2):
                k = bones[n, side]
                x = shifts_m[k, i]
                for j in range(3):
                    x += rotmats[k, i, j] * centres_m[n, j]
                value += shares[n, side] * x
            out[n, i] = value


@numba.njit(cache=True)
def deepest_m(centres_m: np.ndarray, radii_m: np.ndarray, pairs: np.ndarray, allowed_m: np.ndarray) -> float:
    """Largest overlap of any pair beyond what it may; 0 for none."""
    worst = 0.0
    for n in range(len(pairs)):
        i, j = pairs[n]
        reach = radii_m[i] + radii_m[j] - allowed_m[n] - worst
        dx, dy, dz = centres_m[i, 0] - centres_m[j, 0], centres_m[i, 1] - centres_m[j, 1], centres_m[i, 2] - centres_m[j, 2]
        square = dx * dx + dy * dy + dz * dz
        if reach > 0 and square < reach * reach:
            worst += reach - np.sqrt(square)
    return worst


@numba.njit(cache=True)
def _from_thing(point: np.ndarray, centre: np.ndarray, axis: np.ndarray, outwards: np.ndarray) -> float:
    """Distance of a point from an endless can's axis, or from a ball's centre (axis 0); `outwards` (3,) is set to the direction."""
    along = 0.0
    for i in range(3):
        along += (point[i] - centre[i]) * axis[i]
    square = 0.0
    for i in range(3):
        outwards[i] = point[i] - centre[i] - along * axis[i]
        square += outwards[i] * outwards[i]
    distance = np.sqrt(square)
    for i in range(3):
        outwards[i] /= max(distance, 1e-9)
    return distance


@numba.njit(cache=True)
def sunk_m(centres_m: np.ndarray, radii_m: np.ndarray, which: np.ndarray, centre: np.ndarray, axis: np.ndarray, radius: float) -> float:
    """How deep the deepest of some balls is inside an endless can (unit axis) or a ball (axis 0); negative for a gap."""
    worst, outwards = -np.inf, np.empty(3)
    for n in which:
        worst = max(worst, radii_m[n] + radius - _from_thing(centres_m[n], centre, axis, outwards))
    return worst


@numba.njit(cache=True)
def best_touch(
    candidates_deg: np.ndarray,
    costs: np.ndarray,
    hand: tuple,
    pair_range: tuple,
    thumb_balls: np.ndarray,
    pad: tuple,
    goal: tuple,
    gap_m: float,
    thing: tuple,
    touch_m: float,
) -> tuple[int, float]:
    """Of many poses, the one whose thumb pad comes best to a place.

    Args:
        candidates_deg: (C, 15, 3) joint angles.
        costs: (C,) squared metres that each costs already.
        hand: (frames, joints_m, centres_m, radii_m, bones, shares, pairs, allowed_m) of `Flesh`.
        pair_range: (first, last) of the pairs that are to be free.
        thumb_balls: (B,) balls that must stay out of the thing.
        pad, goal: (joint, offset_m (3,), direction (3,)) of skin at rest that are to meet, face to face; a goal with joint -1 is
            the thing's surface.
        gap_m: how far the goal is to be in front of the pad.
        thing: (centre, axis, radius_m); radius 0 for none.

    Returns:
        Index and cost.
    """
    frames, joints_m, centres_m, radii_m, bones, shares, pairs, allowed_m = hand
    pad_joint, pad_offset, pad_direction = pad
    goal_joint, goal_offset, goal_direction = goal
    centre, axis, radius = thing
    rotmats, shifts, posed = np.empty((16, 3, 3)), np.empty((16, 3)), np.empty_like(centres_m)
    at, faces, outwards = np.empty(3), np.empty(3), np.empty(3)
    best, least = 0, np.inf
    for c in range(len(candidates_deg)):
        pose_bones(candidates_deg[c], frames, joints_m, rotmats, shifts)
        cost, facing = costs[c], 0.0
        for i in range(3):
            at[i], faces[i] = shifts[pad_joint, i], 0.0
            for j in range(3):
                at[i] += rotmats[pad_joint, i, j] * pad_offset[j]
                faces[i] += rotmats[pad_joint, i, j] * pad_direction[j]
        if goal_joint >= 0:
            for i in range(3):
                x, d = shifts[goal_joint, i], 0.0
                for j in range(3):
                    x += rotmats[goal_joint, i, j] * goal_offset[j]
                    d += rotmats[goal_joint, i, j] * goal_direction[j]
                facing += d * faces[i]
                cost += (x - at[i] - gap_m * faces[i]) ** 2
        else:
            cost += (_from_thing(at, centre, axis, outwards) - radius) ** 2
            for i in range(3):
                facing += outwards[i] * faces[i]
        cost += (0.012 * max(0.0, facing + 0.6)) ** 2
        if cost >= least:
            continue
        pose_balls(rotmats, shifts, centres_m, bones, shares, posed)
        deep = deepest_m(posed, radii_m, pairs[pair_range[0] : pair_range[1]], allowed_m[pair_range[0] : pair_range[1]])
        cost += 30 * max(0.0, deep - touch_m) ** 2
        if radius > 0:
            cost += 30 * max(0.0, sunk_m(posed, radii_m, thumb_balls, centre, axis, radius) - 0.5 * touch_m) ** 2
        if cost < least:
            best, least = c, cost
    return best, least


@numba.njit(cache=True)
def close_finger(
    angles_deg: np.ndarray, first: int, most_deg: np.ndarray, dip_share: float, hand: tuple, balls: np.ndarray, thing: tuple, touch_m: float
) -> None:
    """Flex a finger's MCP, then its PIP and DIP, until it touches a thing; `angles_deg` (15, 3) is changed.

    Args:
        first: row of the finger's MCP.
        most_deg: (2,) where MCP and PIP stop.
        dip_share: flexion of the DIP over the PIP's.
        balls: (B,) those of the finger.
    """
    frames, joints_m, centres_m, radii_m, bones, shares, _, _ = hand
    centre, axis, radius = thing
    rotmats, shifts = np.empty((16, 3, 3)), np.empty((16, 3))
    own_centres, own_radii, own_bones, own_shares = centres_m[balls], radii_m[balls], bones[balls], shares[balls]
    posed, which = np.empty_like(own_centres), np.arange(len(balls))
    for step in range(2):
        pose_bones(angles_deg, frames, joints_m, rotmats, shifts)
        pose_balls(rotmats, shifts, own_centres, own_bones, own_shares, posed)
        most_m = max(touch_m, sunk_m(posed, own_radii, which, centre, axis, radius) + 0.0005)
        while angles_deg[first + step, _FLEXION] < most_deg[step]:
            before = angles_deg[first + step, _FLEXION]
            angles_deg[first + step, _FLEXION] = before + 3.0
            if step == 1:
                angles_deg[first + 2, _FLEXION] = (before + 3.0) * dip_share
            pose_bones(angles_deg, frames, joints_m, rotmats, shifts)
            pose_balls(rotmats, shifts, own_centres, own_bones, own_shares, posed)
            if sunk_m(posed, own_radii, which, centre, axis, radius) > most_m:
                angles_deg[first + step, _FLEXION] = before
                if step == 1:
                    angles_deg[first + 2, _FLEXION] = before * dip_share
                break
