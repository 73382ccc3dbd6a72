"""A person's hand in the rest pose: flat, fingers along -x, palm -y, thumb +z, joints where published bones put them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.interpolate

from handmesh.geometry.rotation import rotvec_to_rotmat, shortest_arc
from handmesh.hand_model.articulation import FIRST_JOINTS, LONG_FINGERS, unit
from handmesh.hand_model.skinning import chain_joints
from handmesh.skeleton import FINGERS, MANO_JOINTS
from open_hand.surface import mesh_average

# Mean adult hand, wrist crease to middle fingertip, both sexes: (183 + 166) / 2 mm.
HAND_LENGTH_M = 0.1745
# Bones in mm, Buryanov & Kotiuk 2010, Int. J. Morphol. 28(3):755, from the joint nearest the palm outwards; the last
# holds the distal phalanx and the pulp over it.
BONES_MM = {
    "thumb": (46.2, 31.6, 21.7 + 5.7),
    "index": (39.8, 22.4, 15.8 + 3.8),
    "middle": (44.6, 26.3, 17.4 + 4.0),
    "ring": (41.4, 25.7, 17.3 + 4.0),
    "little": (32.7, 18.1, 16.0 + 3.7),
}
# From the knuckle to the tip of the middle finger over hand length: third metacarpal and chain are 64.6 and 92.3 mm in
# the same paper, and from the wrist's crease to that metacarpal's base are about 24 mm: 92.3 / (24 + 64.6 + 92.3).
CHAIN_TO_LENGTH = 0.51
# Flexion creases lie a little nearer the palm than the joints under them.
CREASE_BEFORE_PIP_M, CREASE_BEFORE_DIP_M = 0.002, 0.004
# Directions of the straightened fingers in the palm's plane, degrees towards the thumb.
REST_FAN_DEG = {"index": 4.0, "middle": 0.0, "ring": -5.0, "little": -11.0}
# Where the thumb's metacarpal meets the wrist, in metres of a hand of HAND_LENGTH_M.
TRAPEZIUM_M = np.array([-0.0195, -0.005, 0.0165])
# The thumb of the source stands far in front of the palm: turned back about the fingers' direction.
THUMB_BACK_DEG = 14.0


@dataclass(frozen=True)
class Person:
    """One hand: vertices (V, 3), joints (16, 3), fingertips (5, 3) in metres."""

    vertices: np.ndarray
    joints: np.ndarray
    tips: np.ndarray


def bones_m(finger: str) -> np.ndarray:
    """(3,) bones of the mean hand."""
    return np.array(BONES_MM[finger]) * CHAIN_TO_LENGTH * HAND_LENGTH_M / sum(BONES_MM["middle"])


def stand_up(person: Person) -> Person:
    """Fingers along -x, palm towards -y, thumb at +z, the wrist in the origin, metres at about adult size."""
    joints = person.joints
    along = joints[MANO_JOINTS.index("middle_mcp")] - joints[0]
    across = joints[MANO_JOINTS.index("index_mcp")] - joints[MANO_JOINTS.index("little_mcp")]
    x = -unit(along)
    z = unit(across - x * (x @ across))
    R = np.stack([x, np.cross(z, x), z])
    vertices, joints, tips = ((points - person.joints[0]) @ R.T for points in (person.vertices, person.joints, person.tips))
    scale = HAND_LENGTH_M / -vertices[:, 0].min()
    return Person(vertices * scale, joints * scale, tips * scale)


def move_knuckles(joints: np.ndarray) -> np.ndarray:
    """The source's knuckles sit at the finger webs; real ones 0.42 of a proximal phalanx nearer the wrist. (16, 3)."""
    joints = joints.copy()
    for finger in LONG_FINGERS:
        mcp = FIRST_JOINTS[finger]
        joints[mcp] += 0.42 * np.linalg.norm(joints[mcp + 1] - joints[mcp]) * unit(joints[0] - joints[mcp])
    return joints


def flatten(person: Person, weights: np.ndarray) -> Person:
    """Straighten the four fingers into the palm's plane and bring the thumb towards it, by skinning."""
    joints = person.joints
    rotmats = np.tile(np.eye(3), (len(MANO_JOINTS), 1, 1))
    for finger, fan_deg in REST_FAN_DEG.items():
        mcp = FIRST_JOINTS[finger]
        bones = np.diff(np.stack([*joints[mcp : mcp + 3], person.tips[FINGERS.index(finger)]]), axis=0)
        fan = np.radians(fan_deg)
        straight = np.array([-np.cos(fan), 0.0, np.sin(fan)])
        turned = np.eye(3)
        for k in range(3):
            rotmats[mcp + k] = shortest_arc(bones[k], turned.T @ straight)
            turned = turned @ rotmats[mcp + k]
    rotmats[FIRST_JOINTS["thumb"]] = rotvec_to_rotmat(np.array([-np.radians(THUMB_BACK_DEG), 0, 0]))
    world, posed = chain_joints(joints, rotmats)
    shifts = posed - (world @ joints[..., None])[..., 0]
    moved = np.einsum("vj,jab,vb->va", weights, world, person.vertices) + weights @ shifts
    last = [FIRST_JOINTS[finger] + 2 for finger in FINGERS]
    tips = np.einsum("jab,jb->ja", world[last], person.tips) + shifts[last]
    scale = HAND_LENGTH_M / -moved[:, 0].min()
    return Person(moved * scale, posed * scale, tips * scale)


def place_joints(person: Person, belongs: np.ndarray) -> Person:
    """Move creases and joints of a flat hand to where the bones of `BONES_MM` end, counted from the fingertips.

    Args:
        belongs: (V, 5) share of each finger in each vertex, thumb to little.
    """
    vertices, joints, tips = person.vertices.copy(), person.joints.copy(), person.tips.copy()
    for finger in LONG_FINGERS:
        number, mcp = FINGERS.index(finger), FIRST_JOINTS[finger]
        own = belongs[:, number]
        along = unit(joints[mcp + 2] - joints[mcp])
        u = (vertices - joints[mcp]) @ along
        end = u[own > 0.8].max()
        stock_pip, stock_dip = ((joints[mcp + k] - joints[mcp]) @ along for k in (1, 2))
        proximal, middle, distal = bones_m(finger)
        dip, pip = end - distal, end - distal - middle
        web = 0.45 * stock_pip
        knots = np.array([-1.0, web, stock_pip, stock_dip, end, 1.0])
        moved_to = np.array([-1.0, web, pip - CREASE_BEFORE_PIP_M, dip - CREASE_BEFORE_DIP_M, end, 1.0])
        warp = scipy.interpolate.PchipInterpolator(knots, moved_to - knots)
        vertices += (own * warp(u))[:, None] * along
        u = (vertices - joints[mcp]) @ along
        origin = joints[mcp]
        tips[number] = vertices[np.where(own > 0.8, u, -1).argmax()]
        outer = tips[number]
        for k, where, bone in ((2, dip, distal), (1, pip, middle)):
            joints[mcp + k] = _at_distance(_ring_middle(vertices, own, u, where, along, origin), outer, bone, along)
            outer = joints[mcp + k]
        # The knuckle lies on the finger's axis, nearer the back of the hand than its palm.
        knuckle = joints[mcp + 1] - proximal * along
        near = np.linalg.norm((vertices - knuckle)[:, [0, 2]], axis=1) < 0.010
        top, bottom = vertices[near, 1].max(), vertices[near, 1].min()
        height = top - 0.45 * (top - bottom)
        knuckle[1] = height
        joints[mcp] = joints[mcp + 1] + proximal * unit(knuckle - joints[mcp + 1])
    return _place_thumb(Person(vertices, joints, tips), belongs[:, 0])


def _at_distance(point: np.ndarray, end: np.ndarray, distance: float, along: np.ndarray) -> np.ndarray:
    """`point` moved along `along` until it lies `distance` from `end`."""
    offset = end - point
    across = offset - (offset @ along) * along
    return end - across - np.sqrt(distance**2 - across @ across) * along


def _ring_middle(vertices: np.ndarray, own: np.ndarray, u: np.ndarray, where: float, along: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Middle of a finger's cross-section at `where` along it: of its extents, which do not depend on how vertices lie."""
    ring = vertices[(own > 0.8) & (np.abs(u - where) < 0.005)] - origin
    side = unit(np.cross(along, [0.0, 1.0, 0.0]))
    up = np.cross(side, along)
    middle = [(np.max(ring @ axis) + np.min(ring @ axis)) / 2 for axis in (side, up)]
    return origin + where * along + middle[0] * side + middle[1] * up


def _place_thumb(person: Person, own: np.ndarray) -> Person:
    vertices, joints, tips = person.vertices, person.joints.copy(), person.tips.copy()
    cmc = FIRST_JOINTS["thumb"]
    metacarpal, proximal, distal = bones_m("thumb")
    along = unit(person.tips[0] - joints[cmc + 2])
    tips[0] = vertices[np.where(own > 0.9, (vertices - joints[cmc + 2]) @ along, -1).argmax()]
    joints[cmc + 2] = tips[0] + distal * unit(joints[cmc + 2] - tips[0])
    joints[cmc + 1] = joints[cmc + 2] + proximal * unit(joints[cmc + 1] - joints[cmc + 2])
    joints[cmc] = joints[cmc + 1] + metacarpal * unit(TRAPEZIUM_M - joints[cmc + 1])
    return Person(vertices, joints, tips)


def skin_weights(vertices: np.ndarray, joints: np.ndarray, belongs: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Weights around the placed joints. (V, 16), rows sum to 1.

    Along a finger each joint shares over a stretch of about its own radius; in the palm the knuckles and the thumb's
    metacarpal fade in with distance from their bones.
    """
    weights = np.zeros((len(vertices), len(MANO_JOINTS)))
    along, away = {}, {}
    for finger in FINGERS:
        first = FIRST_JOINTS[finger]
        bone = joints[first + 1] - joints[first]
        t = (vertices - joints[first]) @ bone / (bone @ bone)
        along[finger] = t * np.linalg.norm(bone)
        away[finger] = np.linalg.norm(vertices - joints[first] - np.clip(t, -0.6, 1)[:, None] * bone, axis=1)
    distances = np.stack([away[finger] for finger in LONG_FINGERS], axis=1)
    nearest = np.exp(-(distances - distances.min(axis=1, keepdims=True)) / 0.0035)
    nearest /= nearest.sum(axis=1, keepdims=True)
    long_share = belongs[:, 1:].sum(axis=1, keepdims=True)
    is_finger = smooth_step((long_share - 0.2) / 0.5)
    share = (1 - is_finger) * nearest + is_finger * belongs[:, 1:] / np.maximum(long_share, 1e-9)

    # The thumb's ray: all of the free thumb, and of the thenar what lies around the metacarpal.
    cmc = FIRST_JOINTS["thumb"]
    ray = smooth_step((along["thumb"] + 0.006) / 0.030) * smooth_step((0.034 - away["thumb"]) / 0.022)
    thumb = np.maximum(belongs[:, 0], ray * (1 - is_finger[:, 0]) * smooth_step((distances.min(axis=1) - 0.008) / 0.014))
    for number, finger in enumerate(LONG_FINGERS):
        first = FIRST_JOINTS[finger]
        out = share[:, number] * smooth_step((along[finger] + 0.009) / 0.019) * (1 - thumb)
        _share_along(weights, vertices, joints, first, out, (0.0050, 0.0042))
    _share_along(weights, vertices, joints, cmc, thumb, (0.0075, 0.0055))
    weights[:, 0] = np.clip(1 - weights[:, 1:].sum(axis=1), 0, 1)
    return smooth_over_mesh(weights, faces, rounds=3)


def _share_along(weights: np.ndarray, vertices: np.ndarray, joints: np.ndarray, first: int, share: np.ndarray, half_m: tuple) -> None:
    """Give a finger's share to its three joints, each handing over within +- half_m of the next joint."""
    past = []
    for k, half in ((1, half_m[0]), (2, half_m[1])):
        incoming = unit(joints[first + k] - joints[first + k - 1])
        outgoing = unit(joints[first + k + 1] - joints[first + k]) if k == 1 else incoming
        distance = (vertices - joints[first + k]) @ unit(incoming + outgoing)
        past.append(smooth_step((distance + half) / (2 * half)))
    weights[:, first] = share * (1 - past[0])
    weights[:, first + 1] = share * past[0] * (1 - past[1])
    weights[:, first + 2] = share * past[0] * past[1]


def smooth_step(x: np.ndarray) -> np.ndarray:
    """0 below 0, 1 above 1, smooth between."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def smooth_over_mesh(weights: np.ndarray, faces: np.ndarray, rounds: int) -> np.ndarray:
    """Weights averaged with their neighbours' `rounds` times; rows sum to 1."""
    average = mesh_average(faces, len(weights))
    for _ in range(rounds):
        weights = 0.5 * weights + 0.5 * (average @ weights)
    return weights / weights.sum(axis=1, keepdims=True)
