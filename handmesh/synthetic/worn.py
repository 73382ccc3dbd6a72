"""What a hand wears: an arm with its elbow, sleeves, watches, bracelets and rings.

    wear(rng, look, surface, config, vertices_m, tone, rotmats, part, eye_m=(0, 0, 0)) -> list[Mesh]
    bent_arm(surface, vertices_m, R_camera_hand, bend, elbow_bend) -> Arm
    arm_mesh(surface, arm, vertices_m, skin, part, end_m=None) -> Mesh
    sleeve_mesh(rng, look, arm, sleeve, part) -> Mesh

`rng` decides forms and places, `look` colours and materials alone. Along an arm, `s` is the distance in metres from the hand's open
border, negative over the hand; around it, an angle runs from the back of the hand (0) to the thumb's side (pi / 2).
"""

from __future__ import annotations

from bisect import bisect
from dataclasses import dataclass

import numpy as np

from handmesh.geometry.rotation import nearest_rotmat
from handmesh.skeleton import MANO_JOINTS
from handmesh.synthetic.config import SynthConfig
from handmesh.synthetic.material import plain_material, random_material, random_rgb, smoothstep
from handmesh.synthetic.shapes import fabric, metal, placed, revolved, tube
from handmesh.synthetic.skin import Skin
from handmesh.synthetic.surface import HandSurface, Mesh

Rng = np.random.Generator

_CAMERA_M = np.zeros(3)
# The wrist's bend is spread over this far beyond the border, the elbow's this far to both sides.
_WRIST_EASE_M, _ELBOW_EASE_M = 0.035, 0.045
# Girth over the wrist's less one, over the forearm's swelling, at distances over the elbow's: thickest below the elbow, and a shoulder.
_GIRTH_AT = np.array([0.0, 0.1, 0.3, 0.5, 0.7, 0.85, 1.0, 1.15, 1.6, 2.3])
_GIRTH = np.array([0.0, 0.0, 0.3, 0.75, 1.0, 0.95, 0.75, 0.8, 1.15, 1.5])
_UPPER_ARM_M = 0.3
# How deep a cuff's lining is seen.
_LINING_M = 0.018
_RING_COLUMNS = 18
_CANDIDATES = 5


@dataclass(frozen=True)
class Arm:
    """An arm from the border of the hand over the elbow towards the shoulder.

    Attributes:
        middle_m: (3,) the border's middle in the camera.
        R_camera_hand: (3, 3) of the wrist.
        bend: (3,) rotation vector, in the hand's frame, of the forearm against the hand.
        elbow_bend: (3,) rotation vector, in the forearm's frame, of the upper arm against it.
        elbow_m: distance from the border to the elbow.
        swelling: girth at its thickest over the wrist's, less one.
        oval: (2,) of the forearm's section, how much longer than wide, and the direction in which it is longer at the border.
        twist: how far that direction turns up to the elbow, in radians.
        angle: (L,) of the border's vertices, ascending.
        radius_m: (L,) of the border's vertices.
        along_m: (L,) how far they are in front of their middle.
        path_s, path_m: (K,) and (K, 3) the middle line, relative to `middle_m`.
    """

    middle_m: np.ndarray
    R_camera_hand: np.ndarray
    bend: np.ndarray
    elbow_bend: np.ndarray
    elbow_m: float
    swelling: float
    oval: tuple[float, float]
    twist: float
    angle: np.ndarray
    radius_m: np.ndarray
    along_m: np.ndarray
    path_s: np.ndarray
    path_m: np.ndarray

    @property
    def end_m(self) -> float:
        """Where the arm ends, at the shoulder."""
        return self.elbow_m + _UPPER_ARM_M

    def turns(self, s: np.ndarray) -> np.ndarray:
        """(K, 3, 3) from the local frame, x along the arm and y the back of the hand's side, to the camera."""
        return self.R_camera_hand @ _turns(self.bend, self.elbow_bend, self.elbow_m, s)

    def centres_m(self, s: np.ndarray) -> np.ndarray:
        """(K, 3) of the middle line in the camera."""
        return self.middle_m + np.stack([np.interp(s, self.path_s, self.path_m[:, k]) for k in range(3)], axis=1)

    def section_m(self, s: np.ndarray, angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Radius of the skin and how far it is along the arm, (K, C) each: the hand's border that becomes an oval."""
        radius = np.interp(angle, self.angle, self.radius_m, period=2 * np.pi)
        along = np.interp(angle, self.angle, self.along_m, period=2 * np.pi)
        mean = float(self.radius_m.mean())
        girth = 1 + self.swelling * np.interp(s, _GIRTH_AT * self.elbow_m, _GIRTH)[:, None]
        far = smoothstep(0, 1, (s - 0.01) / (0.55 * self.elbow_m))[:, None]
        direction = self.oval[1] + self.twist * np.clip(s / self.elbow_m, 0, 1)[:, None]
        oval = mean * (1 + self.oval[0] * np.cos(2 * (angle - direction)))
        return girth * ((1 - far) * radius + far * oval), (1 - far) * along

    def rings_m(self, s: np.ndarray, angle: np.ndarray, off_m: np.ndarray | float) -> np.ndarray:
        """(K, C, 3) points in the camera that stand `off_m` (broadcast to (K, C)) off the skin."""
        radius, along = self.section_m(s, angle)
        radius = radius + off_m
        local = np.stack([along, radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
        return self.centres_m(s)[:, None] + local @ np.swapaxes(self.turns(s), 1, 2)


def _turns(bend: np.ndarray, elbow_bend: np.ndarray, elbow_m: float, s: np.ndarray) -> np.ndarray:
    """(K, 3, 3) from the arm's local frame at `s` to the hand's frame."""
    at_elbow = _part_of(elbow_bend, np.clip((s - elbow_m) / (2 * _ELBOW_EASE_M) + 0.5, 0, 1))
    return _part_of(bend, np.clip(s / _WRIST_EASE_M, 0, 1)) @ at_elbow


def _part_of(rotvec: np.ndarray, share: np.ndarray) -> np.ndarray:
    """(K, 3, 3) rotations by shares (K,) of one rotation vector."""
    angle = float(np.sqrt(rotvec @ rotvec))
    x, y, z = rotvec / max(angle, 1e-12)
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turned = (angle * share)[:, None, None]
    return np.eye(3) + np.sin(turned) * skew + (1 - np.cos(turned)) * (skew @ skew)


_PATH_S = np.concatenate([[-0.04, 0.0], np.arange(1, 7) * 0.006, np.linspace(0.05, 0.6, 34)])
_PATH_STEPS = np.diff(_PATH_S)
_PATH_MIDDLES = _PATH_S[1:] - _PATH_STEPS / 2


def bent_arm(
    surface: HandSurface,
    vertices_m: np.ndarray,
    R_camera_hand: np.ndarray,
    bend: np.ndarray,
    elbow_bend: np.ndarray,
    elbow_m: float = 0.23,
    swelling: float = 0.6,
    oval: tuple[float, float] = (0.06, 1.5),
    twist: float = 0.0,
) -> Arm:
    """The arm of a posed hand; `vertices_m` (V, 3) of the drawn right hand, all else as in `Arm`."""
    border = vertices_m[surface.loop].astype(np.float64)
    middle = border.mean(axis=0)
    R = np.asarray(R_camera_hand, np.float64)
    local = (border - middle) @ R
    angle, radius = np.arctan2(local[:, 2], local[:, 1]), np.hypot(local[:, 1], local[:, 2])
    order = np.argsort(angle)
    path = _path(bend, elbow_bend, elbow_m) @ R.T
    return Arm(middle, R, bend, elbow_bend, elbow_m, swelling, oval, twist, angle[order], radius[order], local[order, 0], _PATH_S, path)


def _path(bend: np.ndarray, elbow_bend: np.ndarray, elbow_m: float) -> np.ndarray:
    """(K, 3) the middle line at `_PATH_S`, from the border's middle and in the hand's frame."""
    steps = _turns(bend, elbow_bend, elbow_m, _PATH_MIDDLES)[:, :, 0] * _PATH_STEPS[:, None]
    path = np.concatenate([np.zeros((1, 3)), np.cumsum(steps, axis=0)])
    return path - path[1]


def sample_arm(rng: Rng, surface: HandSurface, vertices_m: np.ndarray, R_camera_hand: np.ndarray, eye_m: np.ndarray = _CAMERA_M) -> Arm:
    """An arm for a posed hand: of some that wrist and elbow can do, the one that is least in the way.

    Args:
        vertices_m: (V, 3) of the drawn right hand.
        R_camera_hand: (3, 3) of the wrist.
        eye_m: (3,) the camera in the frame of `vertices_m`, which looks along z.
    """
    R = np.asarray(R_camera_hand, np.float64)
    elbow_m = rng.uniform(0.2, 0.26)
    swelling, oval, twist = rng.uniform(0.35, 0.85), (rng.uniform(0.0, 0.12), rng.uniform(1.1, 2.0)), rng.uniform(-1.0, 1.0)
    hand_m = vertices_m.mean(axis=0) - eye_m
    start_m = vertices_m[surface.loop].mean(axis=0) - eye_m
    best, least = (np.zeros(3), np.zeros(3)), np.inf
    for _ in range(_CANDIDATES):
        # Flexion is about the thumb's direction, and hands rest a little extended; they lean to the little finger's side.
        bend = np.clip(rng.normal((0.0, 0.05, 0.1), (0.06, 0.16, 0.36)), (-0.1, -0.35, -0.9), (0.1, 0.5, 0.9))
        # The shoulder lies on the thumb's side of a forearm in the middle between palm up and palm down.
        side, flexed = rng.uniform(-np.pi / 2, np.pi / 2), rng.uniform(0.1, 2.1)
        elbow_bend = flexed * np.array([0.0, -np.cos(side), np.sin(side)])
        cost = _in_the_way(_path(bend, elbow_bend, elbow_m) @ R.T + start_m, hand_m)
        if cost < least:
            best, least = (bend, elbow_bend), cost
    return bent_arm(surface, vertices_m, R, *best, elbow_m, swelling, oval, twist)


def _in_the_way(path_m: np.ndarray, hand_m: np.ndarray) -> float:
    """How much an arm along (K, 3) hides the hand at (3,), comes too near to the camera, or ends inside of the picture."""
    far = path_m[8:]
    z = np.maximum(far[:, 2], 0.03)
    beside = np.hypot(*(far[:, :2] / z[:, None] - hand_m[:2] / max(hand_m[2], 0.05)).T) * hand_m[2]
    hides = np.where(z < hand_m[2] - 0.02, np.exp(-((beside / 0.1) ** 2)), 0.0).mean()
    near = np.maximum(0.12 - far[:, 2], 0).mean() * np.exp(-((beside[-1] / 0.3) ** 2))
    return 3 * hides + 30 * near + np.exp(-((beside[-1] / 0.25) ** 2))


def arm_mesh(surface: HandSurface, arm: Arm, vertices_m: np.ndarray, skin: Skin, part: int, end_m: float | None = None) -> Mesh:
    """The bare arm, which starts with the hand's own border vertices.

    Args:
        vertices_m: (V, 3) of the hand.
        part: label of its vertices.
        end_m: where it is cut, when the rest is covered.
    """
    end = arm.end_m if end_m is None else min(end_m, arm.end_m)
    border = vertices_m[surface.loop].astype(np.float64)
    local = (border - arm.middle_m) @ arm.R_camera_hand
    angle = np.arctan2(local[:, 2], local[:, 1])
    elbow = arm.elbow_m
    s = np.array([0.007, 0.014, 0.021, 0.028, 0.035, 0.05, 0.3 * elbow, 0.5 * elbow, 0.7 * elbow, elbow - 0.04, elbow - 0.015])
    s = np.concatenate([s, elbow + np.array([0.015, 0.04, 0.08, 0.16, 0.24])])
    s = np.append(s[s < end - 0.004], end)
    rings = arm.rings_m(s, angle, 0.0)
    # A lip inside of the hand leaves no crack at the border; a dome closes the other end.
    lip = border - 0.06 * (border - arm.middle_m) - 0.003 * arm.R_camera_hand[:, 0]
    onwards = 0.6 * float(arm.radius_m.mean()) * arm.turns(s[-1:])[0, :, 0]
    last = rings[-1].mean(axis=0)
    dome = [last + 0.7 * (rings[-1] - last) + 0.7 * onwards, np.broadcast_to(last + onwards, border.shape)]
    bottom = np.broadcast_to(lip.mean(axis=0), border.shape)
    rings = np.concatenate([[bottom, lip, border], rings, dome])
    where = np.concatenate([[-0.003, -0.003, 0.0], s, [end + 0.02, end + 0.03]])
    texture = surface.drawn.template_m[surface.loop] + where[:, None, None] * np.array([1.0, 0, 0])
    return tube(rings, texture, skin.rgb, skin.material, part)


# --- Sleeves.


@dataclass(frozen=True)
class Sleeve:
    """How cloth lies on an arm.

    Attributes:
        start_m: where its opening is.
        thickness_m: how far the cloth stands off the skin at the opening.
        slack_m: how much farther it stands off beyond the cuff.
        cuff_m: length of the cuff, 0 for none.
        fold_m: depth of the folds.
        wave: rings of the mesh from fold to fold.
        roll_m: thickness of the rolled-up end, 0 for none.
    """

    start_m: float
    thickness_m: float
    slack_m: float
    cuff_m: float
    fold_m: float
    wave: float
    roll_m: float


def sample_sleeve(rng: Rng) -> Sleeve:
    """A tight shirt, a shirt with cuffs, a pullover or hoodie, a coat, or one of them rolled or pushed up."""
    kind = bisect((0.2, 0.45, 0.7, 0.82), rng.random())
    start = rng.uniform(-0.012, 0.03) if rng.random() < 0.65 else rng.uniform(0.03, 0.09)
    wave = rng.uniform(2.6, 6.0)
    if kind == 0:
        return Sleeve(start, rng.uniform(0.0015, 0.003), rng.uniform(0, 0.002), 0.0, rng.uniform(0, 0.0008), wave, 0.0)
    if kind == 1:
        return Sleeve(
            start, rng.uniform(0.003, 0.007), rng.uniform(0.003, 0.01), rng.uniform(0.04, 0.065), rng.uniform(0.001, 0.003), wave, 0.0
        )
    if kind == 2:
        return Sleeve(
            start, rng.uniform(0.003, 0.006), rng.uniform(0.006, 0.016), rng.uniform(0.03, 0.07), rng.uniform(0.0015, 0.004), wave, 0.0
        )
    if kind == 3:
        return Sleeve(start, rng.uniform(0.007, 0.013), rng.uniform(0.003, 0.02), 0.0, rng.uniform(0.001, 0.004), wave, 0.0)
    start = rng.uniform(0.07, 0.2)
    return Sleeve(
        start, rng.uniform(0.004, 0.009), rng.uniform(0.002, 0.01), 0.0, rng.uniform(0.001, 0.0035), wave, rng.uniform(0.0, 0.009)
    )


_SLEEVE_COLUMNS = 24
_SLEEVE_ANGLE = np.arange(_SLEEVE_COLUMNS) * 2 * np.pi / _SLEEVE_COLUMNS
_FORE_SLEEVE, _SHORT_SLEEVE = np.linspace(0, 1, 22), np.linspace(0, 1, 9)


def sleeve_mesh(rng: Rng, look: Rng, arm: Arm, sleeve: Sleeve, part: int) -> Mesh:
    """Cloth from its opening to the shoulder, closed; rings are denser near the opening, where folds gather."""
    steps = _FORE_SLEEVE if sleeve.start_m < arm.elbow_m else _SHORT_SLEEVE
    s = sleeve.start_m + 0.004 + (arm.end_m + 0.012 - sleeve.start_m) * steps**1.5
    ring = np.arange(len(s))[:, None]
    first, second = rng.uniform(0, 2 * np.pi, 2)
    wander = rng.uniform(0.5, 2.5) * np.cos(_SLEEVE_ANGLE - first) + rng.uniform(0, 1.5) * np.cos(2 * _SLEEVE_ANGLE - second)
    folds = np.sin(2 * np.pi * ring / sleeve.wave + wander) + rng.normal(0, 0.35, (len(s), _SLEEVE_COLUMNS))
    beyond = smoothstep(0, 1, (s - sleeve.start_m - sleeve.cuff_m) / 0.02)[:, None] if sleeve.cuff_m else np.ones((len(s), 1))
    # Cloth hangs: most of the slack is on one side.
    hang = 1 + 0.6 * np.cos(_SLEEVE_ANGLE - second)
    grown = smoothstep(0, 1, (s - sleeve.start_m) / 0.08)[:, None]
    off = sleeve.thickness_m + beyond * (sleeve.slack_m * hang * grown + np.maximum(sleeve.fold_m * folds, 0.0008 - sleeve.thickness_m))
    if sleeve.roll_m:
        rolls = np.abs(np.sin(np.pi * (s - sleeve.start_m) / 0.022)) * (s < sleeve.start_m + 0.044)
        off = off + sleeve.roll_m * rolls[:, None]
    else:
        off[0] = sleeve.thickness_m
    # The lining, from the skin inside to the opening's edge.
    deep, edge = np.array([sleeve.start_m + _LINING_M]), np.array([sleeve.start_m])
    inner = arm.rings_m(deep, _SLEEVE_ANGLE, -0.0015)
    inside = np.broadcast_to(inner.mean(axis=1, keepdims=True), inner.shape)
    rim = arm.rings_m(np.repeat(edge, 2), _SLEEVE_ANGLE, np.array([[max(sleeve.thickness_m - 0.0012, 0.0004)], [sleeve.thickness_m]]))
    outer = arm.rings_m(s, _SLEEVE_ANGLE, off)
    end = np.broadcast_to(outer[-1:].mean(axis=1, keepdims=True), inner.shape)
    rings = np.concatenate([inside, inner, rim, outer, end])
    where = np.concatenate([deep, deep, edge, edge, s, s[-1:]])
    radius, _ = arm.section_m(where, _SLEEVE_ANGLE)
    texture = np.stack(
        [np.broadcast_to(where[:, None], radius.shape), radius * np.cos(_SLEEVE_ANGLE), radius * np.sin(_SLEEVE_ANGLE)], axis=-1
    )
    rgb = random_rgb(look)
    colours = np.broadcast_to(rgb, (len(rings), 3)).copy()
    colours[:3] *= 0.5
    if look.random() < 0.2:
        colours[3:][where[3:] < sleeve.start_m + max(sleeve.cuff_m, 0.012)] = random_rgb(look)
    return tube(rings, texture, colours, fabric(look, 0), part)


# --- Bands.

_BAND_ANGLE = np.arange(28) * 2 * np.pi / 28


def _band(
    arm: Arm,
    s_m: float,
    half_m: np.ndarray,
    off_m: np.ndarray,
    lean_m: np.ndarray | float,
    rgb: np.ndarray,
    material: np.ndarray,
    part: int,
) -> Mesh:
    """A closed loop around the arm with an elliptic cross-section.

    Args:
        s_m: where.
        half_m: (2,) half width along the arm and half thickness.
        off_m: (C,) of the cross-section's middle off the skin.
        lean_m: (C,) added to `s_m`.
        rgb: (3,) or (C, 3).
    """
    section = np.linspace(0, 2 * np.pi, 9)[:-1]
    angle = _BAND_ANGLE
    around = np.stack([np.cos(section), np.sin(section)], axis=1)
    around = np.sign(around) * np.abs(around) ** 0.6
    centre = arm.rings_m(np.array([s_m]), angle, off_m)[0]
    turn = arm.turns(np.array([s_m]))[0]
    outwards = np.stack([np.zeros(len(angle)), np.cos(angle), np.sin(angle)], axis=1) @ turn.T
    along = turn[:, 0]
    # Columns go around the section, rings around the arm, and the last ring is the first.
    rings = centre[:, None] + half_m[0] * around[None, :, :1] * along + half_m[1] * around[None, :, 1:] * outwards[:, None]
    rings += (np.broadcast_to(lean_m, len(angle))[:, None] * along)[:, None]
    texture = np.empty_like(rings)
    texture[..., 0] = half_m[0] * around[:, 0]
    texture[..., 1] = (0.03 * np.cos(angle))[:, None] + half_m[1] * around[:, 1]
    texture[..., 2] = (0.03 * np.sin(angle))[:, None]
    colours = np.broadcast_to(rgb, (len(angle), 3))
    return _loop(rings, texture, colours, material, part)


def _loop(rings: np.ndarray, texture: np.ndarray, rgb: np.ndarray, material: np.ndarray, part: int) -> Mesh:
    """A torus: rings (R, C, 3) whose last joins the first."""
    close = np.append(np.arange(len(rings)), 0)
    return tube(rings[close], texture[close], rgb[close], material, part)


def band_meshes(rng: Rng, look: Rng, arm: Arm, s_m: float, part: int) -> list[Mesh]:
    """A watch, or bangles, cords and beads, `s_m` beyond the border."""
    if rng.random() < 0.5:
        return _watch(rng, look, arm, s_m, part)
    meshes = []
    for number in range(rng.integers(1, 4)):
        thick, wide = rng.uniform(0.0008, 0.0022), rng.uniform(0.0008, 0.006)
        kind = rng.integers(3)
        slack = rng.uniform(0.0, 0.004)
        tilt = rng.normal(0, 0.005) * np.cos(_BAND_ANGLE - rng.uniform(0, 2 * np.pi))
        rgb, material = metal(look) if look.random() < 0.5 else (random_rgb(look), random_material(look, 0.02))
        if kind == 2:
            # Beads: the cord's thickness goes up and down.
            second = random_rgb(look)
            rgb = np.where((np.arange(28) % 4 < 2)[:, None], rgb, second)
            wide = thick = rng.uniform(0.0025, 0.0045)
        off = thick - 0.0003 + slack * (0.5 + 0.5 * np.cos(_BAND_ANGLE - rng.uniform(0, 2 * np.pi)))
        place = s_m + 0.009 * number
        meshes.append(_band(arm, place, np.array([wide, thick]), off, tilt, rgb, material, part))
    return meshes


def _watch(rng: Rng, look: Rng, arm: Arm, s_m: float, part: int) -> list[Mesh]:
    """A strap and, on the back of the wrist, seldom inside, a round or square case."""
    half = rng.uniform(0.007, 0.012)
    strap_rgb, strap_material = metal(look) if look.random() < 0.3 else (random_rgb(look) * 0.7, random_material(look, 0.03))
    strap = _band(arm, s_m, np.array([half, 0.0013]), np.full(28, 0.001), 0.0, strap_rgb, strap_material, part)
    angle = np.array([rng.normal(0, 0.15) + (np.pi if rng.random() < 0.08 else 0.0)])
    radius, height = rng.uniform(0.014, 0.022), rng.uniform(0.006, 0.011)
    turn = arm.turns(np.array([s_m]))[0]
    up = turn @ np.array([0.0, np.cos(angle[0]), np.sin(angle[0])])
    frame = np.stack([turn[:, 0], np.cross(up, turn[:, 0]), up], axis=1)
    # It rests on the skin's highest point under it.
    foot = arm.rings_m(np.array([s_m]), angle, -0.0005)[0, 0]
    case_rgb, case_material = metal(look)
    dial = np.full(3, look.uniform(0.003, 0.02)) if look.random() < 0.6 else random_rgb(look)
    rim = rng.uniform(0.75, 0.93)
    profile = np.array([(0, 0), (0.9, 0), (1, 0.25), (1, 0.75), (rim + 0.03, 1.0), (rim, 1.0), (rim, 0.97), (0, 0.97)]) * (radius, height)
    colours = np.stack([case_rgb] * 6 + [dial] * 2)
    case = revolved(profile, colours, case_material, columns=20)
    if rng.random() < 0.45:
        square = np.concatenate([case.vertices_m[:, :2], case.vertices_m[:, 2:]], axis=1)
        reach = np.abs(square[:, :2]).max(axis=1)
        round_ = np.hypot(square[:, 0], square[:, 1])
        # A circle pushed most of the way to its square.
        grow = 1 + 0.75 * (round_ / np.maximum(reach, 1e-9) - 1)
        square[:, :2] *= (grow * 0.9)[:, None] * (rng.uniform(1.0, 1.2), 1.0)
        case = Mesh(square.astype(np.float32), case.faces, case.texture_m, case.albedo, case.part, case.detail, case.material)
    case = placed(case, frame, foot)
    return [
        strap,
        Mesh(case.vertices_m, case.faces, case.texture_m, case.albedo, np.full_like(case.part, part), case.detail, case.material),
    ]


# --- Rings on fingers.

_RING_FINGERS = ("ring", "ring", "ring", "middle", "index", "index", "little", "thumb")


def finger_rings(rng: Rng, look: Rng, surface: HandSurface, vertices_m: np.ndarray, is_labelled: bool) -> list[Mesh]:
    """One to three rings, each fitted around the posed first segment of a finger; labelled as that segment or not at all.

    Args:
        vertices_m: (V, 3) of the drawn hand.
    """
    meshes, worn = [], set()
    for _ in range(1 + bisect((0.75, 0.93), rng.random())):
        finger = _RING_FINGERS[rng.integers(len(_RING_FINGERS))]
        if finger not in worn:
            worn.add(finger)
            meshes += ring_meshes(rng, look, surface, vertices_m, finger, is_labelled)
    return meshes


def ring_meshes(rng: Rng, look: Rng, surface: HandSurface, vertices_m: np.ndarray, finger: str, is_labelled: bool) -> list[Mesh]:
    """A ring around one finger, with or without a stone."""
    joint = MANO_JOINTS.index("thumb_mcp" if finger == "thumb" else f"{finger}_mcp")
    start, end = (surface.drawn.joint_regressor[joint : joint + 2] @ vertices_m).astype(np.float64)
    axis = (end - start) / np.linalg.norm(end - start)
    # Beyond the web of the fingers.
    share = rng.uniform(0, 0.12) + {"thumb": 0.46, "little": 0.72}.get(finger, 0.62)
    points = phalanx_points(surface, vertices_m, joint, start + share * (end - start), axis)
    half, thick = rng.uniform(0.0011, 0.0032), rng.uniform(0.0007, 0.0011)
    has_stone, stone_m = rng.random() < 0.25, rng.uniform(0.0025, 0.005)
    lean = rng.normal(0, 0.08, 2)
    rgb, material = metal(look)
    stone_rgb = random_rgb(look)
    if len(points) < 5:
        return []
    # Towards the back of the finger, by the skin's own normal at rest.
    back = _back_of(surface, vertices_m, joint)
    first = back - axis * (back @ axis)
    first /= np.linalg.norm(first)
    frame = np.stack([first, np.cross(axis, first), axis], axis=1)
    local = (points - start) @ frame
    centre = (local[:, :2].min(axis=0) + local[:, :2].max(axis=0)) / 2
    angle = np.arange(_RING_COLUMNS) * 2 * np.pi / _RING_COLUMNS
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    # It touches the skin's tangents all around, its inner side a hair below them.
    radii = (circle @ (local[:, :2] - centre).T).max(axis=1, keepdims=True) + thick - 0.0004
    section = np.linspace(0, 2 * np.pi, 7)[:-1]
    around = np.stack([np.cos(section), np.sin(section)], axis=1)
    around = np.sign(around) * np.abs(around) ** 0.7
    rings = np.empty((_RING_COLUMNS, len(section), 3))
    rings[..., :2] = (circle * radii)[:, None] + thick * around[:, 1:] * circle[:, None]
    rings[..., 2] = half * around[:, 0] + (circle * radii @ lean)[:, None]
    offset = np.append(centre, share * np.linalg.norm(end - start))
    part = int(surface.parts.dtype.type(joint + 1)) if is_labelled else 0
    colours = np.broadcast_to(rgb, (_RING_COLUMNS, 3))
    meshes = [_loop((rings + offset) @ frame.T + start, rings, colours, material, part)]
    if has_stone:
        top = start + frame @ (offset + [radii[0, 0] + 0.5 * stone_m, 0, 0])
        profile = np.array([(0, -1.0), (0.55, -1.0), (1, -0.1), (0.7, 0.5), (0, 0.5)]) * stone_m
        stone = revolved(profile, stone_rgb, plain_material(specular=1.2, shininess=60.0), columns=8)
        stone = placed(stone, np.stack([frame[:, 1], frame[:, 2], first], axis=1), top)
        meshes.append(
            Mesh(stone.vertices_m, stone.faces, stone.texture_m, stone.albedo, np.full_like(stone.part, part), stone.detail, stone.material)
        )
    return meshes


def phalanx_points(surface: HandSurface, vertices_m: np.ndarray, joint: int, at_m: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """(N, 3) vertices of a finger's segment within 4 mm of a plane across it."""
    own = vertices_m[surface.parts == joint + 1].astype(np.float64)
    along = (own - at_m) @ axis
    across = np.linalg.norm(own - at_m - along[:, None] * axis, axis=1)
    return own[(np.abs(along) < 0.004) & (across < 0.016)]


def _back_of(surface: HandSurface, vertices_m: np.ndarray, joint: int) -> np.ndarray:
    """(3,) away from the soft side of a segment: the turn from rest to pose of its vertices' spread, by least squares (Kabsch 1976)."""
    chosen = surface.parts == joint + 1
    rest, posed = surface.drawn.template_m[chosen].astype(np.float64), vertices_m[chosen].astype(np.float64)
    R = nearest_rotmat((posed - posed.mean(axis=0)).T @ (rest - rest.mean(axis=0)))
    return R @ -surface.anatomy.pads[joint]


# --- All of it.


def wear(
    rng: Rng,
    look: Rng,
    surface: HandSurface,
    config: SynthConfig,
    vertices_m: np.ndarray,
    tone: Skin,
    rotmats: np.ndarray,
    part: int,
    eye_m: np.ndarray = _CAMERA_M,
) -> list[Mesh]:
    """The arm of a hand, and what arm and hand wear.

    Args:
        vertices_m: (V, 3) of the drawn right hand in the camera.
        rotmats: (16, 3, 3) of its pose, the first that of the wrist in the camera.
        part: label of arm, sleeve and bands; 0 labels nothing, rings included.
        eye_m: (3,) the camera in the frame of `vertices_m`, for a hand that is moved later: minus the shift, x flipped if it is mirrored.
    """
    arm = sample_arm(rng, surface, vertices_m, rotmats[0], eye_m)
    meshes: list[Mesh] = []
    bare_m = arm.end_m
    if rng.random() < config.sleeve:
        sleeve = sample_sleeve(rng)
        meshes.append(sleeve_mesh(rng, look, arm, sleeve, part))
        bare_m = sleeve.start_m
    elif rng.random() < 0.7:
        short = Sleeve(arm.elbow_m + rng.uniform(0.05, 0.16), rng.uniform(0.003, 0.012), rng.uniform(0, 0.01), 0.0, 0.002, 3.0, 0.0)
        meshes.append(sleeve_mesh(rng, look, arm, short, part))
        bare_m = short.start_m
    meshes.insert(0, arm_mesh(surface, arm, vertices_m, tone, part, max(bare_m + 0.03, 0.04)))
    if rng.random() < config.band:
        place = rng.uniform(0.004, 0.03)
        if bare_m > place + 0.03:
            meshes += band_meshes(rng, look, arm, place, part)
    if rng.random() < config.ring:
        meshes += finger_rings(rng, look, surface, vertices_m, part > 0)
    return meshes
