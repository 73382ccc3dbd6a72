"""People as a webcam sees them behind a hand: head with hair and features, neck, and a torso in clothes."""

from __future__ import annotations

from bisect import bisect

import numpy as np

from handmesh.geometry.rotation import rotvec_to_rotmat
from handmesh.synthetic.material import plain_material, random_rgb, smoothstep
from handmesh.synthetic.shapes import circle, ellipsoid, fabric, glossy, joined, limb, placed, tube
from handmesh.synthetic.skin import Skin
from handmesh.synthetic.surface import Mesh

Rng = np.random.Generator

# Skin is seen from farther away than the hand's: its grain is coarser, or it would flicker.
_GRAIN = 0.3
# Columns of a head: angle from the front, more of them on the face. Rows go from the crown (-y) to the chin.
_HEAD_ROWS, _HEAD_COLUMNS = 14, 17
_HEAD_TURN = np.linspace(-1, 1, _HEAD_COLUMNS, endpoint=False)
_HEAD_ANGLE = np.pi + np.pi * np.sign(_HEAD_TURN) * np.abs(_HEAD_TURN) ** 1.4
_HEAD_THETA = np.linspace(0, np.pi, _HEAD_ROWS)
# Unit directions (R, C, 3): x right, y down, z away from the camera; counter-clockwise about +y.
_HEAD = np.stack(
    [
        np.sin(_HEAD_THETA)[:, None] * np.sin(_HEAD_ANGLE),
        np.repeat(-np.cos(_HEAD_THETA)[:, None], _HEAD_COLUMNS, axis=1),
        np.sin(_HEAD_THETA)[:, None] * np.cos(_HEAD_ANGLE),
    ],
    axis=-1,
)
_HEAD[[0, -1], :, 0] = _HEAD[[0, -1], :, 2] = 0.0
_FRONT, _DOWN, _SIDE = np.maximum(-1.0 * _HEAD[..., 2], 0), _HEAD[..., 1], np.abs(_HEAD[..., 0])
_BACK = np.maximum(_HEAD[..., 2], 0)
_TORSO_M = np.array(
    [
        # Below the neck, half width, half depth.
        *([-0.03, 0.0, 0.0], [-0.03, 0.058, 0.056], [0.0, 0.075, 0.066], [0.025, 0.13, 0.08], [0.055, 0.175, 0.095], [0.1, 0.2, 0.108]),
        *([0.18, 0.195, 0.115], [0.3, 0.18, 0.118], [0.5, 0.175, 0.12], [1.3, 0.2, 0.14], [1.3, 0.0, 0.0]),
    ]
)
_HAIR_STYLES = ("bald", "buzz", "short", "short", "parted", "long", "long", "curly", "tied", "scarf", "cap")


def figure(rng: Rng, look: Rng, tone: Skin, head_m: np.ndarray) -> list[Mesh]:
    """A head around `head_m`, on a neck and a torso."""
    size = rng.uniform(0.92, 1.08)
    lean = rotvec_to_rotmat(rng.normal(0, 1, 3) * (0.08, 0.2, 0.1))
    turn = lean @ rotvec_to_rotmat(rng.normal(0, 1, 3) * (0.16, 0.35, 0.1))
    head = [placed(mesh, turn * size, head_m) for mesh in _head(rng, look, tone)]
    neck_m = head_m + size * (lean @ np.array([0.0, 0.145, 0.03]))
    return [*head, *[placed(mesh, lean * size, neck_m) for mesh in _body(rng, look, tone)]]


def _head(rng: Rng, look: Rng, tone: Skin) -> list[Mesh]:
    """Around the middle of the head: x right, y down, the face towards -z."""
    wide, tall, deep = np.array([0.081, 0.116, 0.1]) * rng.normal(1, 0.04, 3)
    jaw = rng.uniform(0.12, 0.34)
    low = np.maximum(_DOWN, 0)
    points = _HEAD * (wide, tall, deep)
    points[..., 0] *= 1 - jaw * low**1.5
    # The skull ends above the neck, the face is flat and its chin juts out.
    points[..., 2] -= 0.5 * deep * low**2 * (_HEAD[..., 2] + 0.15)
    points[..., 2] *= 1 - 0.1 * _FRONT
    points[..., 2] -= 0.008 * np.exp(-(((_DOWN - 0.9) / 0.12) ** 2)) * _FRONT
    socket = np.exp(-(((_DOWN + 0.08) / 0.13) ** 2) - ((_SIDE - 0.42) / 0.2) ** 2) * (_FRONT > 0)
    points[..., 2] += 0.007 * socket
    rgb = tone.rgb * look.uniform(0.9, 1.1)
    flushed = np.exp(-(((_DOWN - 0.25) / 0.25) ** 2) - ((_SIDE - 0.5) / 0.25) ** 2) * _FRONT
    colours = rgb * (1 - np.array([0.0, 0.1, 0.09]) * flushed[..., None]) * (1 - 0.25 * socket[..., None])
    face = tube(points, _GRAIN * points, colours, tone.material)
    front = float(-points[..., 2].min())
    eye_x, eye_y = 0.42 * wide, -0.1 * tall
    # Columns: across, down and outwards along its bridge, and thick.
    nose = np.array([[0.011, 0, 0], [0, 0.024, -0.007], [0, 0.006, 0.011]]).T * rng.uniform((0.85, 0.85, 0.85), (1.4, 1.1, 1.15))
    parts = [
        face,
        ellipsoid(nose, 1.0, rgb * (1, 0.96, 0.96), tone.material, rows=6, columns=8, centre_m=np.array([0, 0.13 * tall, 0.002 - front])),
        *(
            ellipsoid(
                np.array([0.007, 0.029, 0.017]), 1.0, rgb * (1, 0.9, 0.9), tone.material, 6, 8, np.array([s * 0.98 * wide, 0.0, 0.012])
            )
            for s in (-1, 1)
        ),
    ]
    meshes = [joined(parts), _features(rng, look, rgb, eye_x, eye_y, tall, front)]
    hair_rgb = _hair_rgb(look)
    style = _HAIR_STYLES[rng.integers(len(_HAIR_STYLES))]
    meshes += _hair(rng, look, points, style, hair_rgb, front)
    if rng.random() < 0.22:
        on = smoothstep(0, 1, (_DOWN - rng.uniform(0.3, 0.5)) / 0.2) * smoothstep(0, 1, (_FRONT + 0.25) / 0.4)
        on *= 1 - np.exp(-(((_DOWN - 0.52) / 0.1) ** 2) - (_SIDE / 0.2) ** 2)
        grown = points * (1 + (0.09 + rng.uniform(0.0, 0.12)) * on[..., None] - 0.06)
        meshes.append(tube(grown, grown * (1, 0.3, 1), hair_rgb * 0.9, _hair_material(look)))
    if rng.random() < 0.28:
        meshes.append(_glasses(rng, look, eye_x, eye_y, wide, front))
    return meshes


def _hair_rgb(look: Rng) -> np.ndarray:
    shades = ((0.008, 0.007, 0.006), (0.03, 0.018, 0.01), (0.09, 0.05, 0.025), (0.3, 0.19, 0.08), (0.16, 0.05, 0.02), (0.4, 0.39, 0.37))
    dyed = look.random() < 0.04
    return random_rgb(look) if dyed else np.array(shades[bisect((0.34, 0.6, 0.77, 0.87, 0.91), look.random())]) * look.uniform(0.7, 1.4)


def _hair_material(look: Rng) -> np.ndarray:
    return plain_material(
        noise_low=0.25, freq_low=260.0, noise_high=0.25, freq_high=900.0, specular=look.uniform(0.01, 0.08), shininess=14.0
    )


def _features(rng: Rng, look: Rng, rgb: np.ndarray, eye_x: float, eye_y: float, tall: float, front: float) -> Mesh:
    """Eyes, brows and mouth."""
    material = plain_material(specular=0.15, shininess=40.0)
    open_m, brow_m = rng.uniform(0.0055, 0.009), rng.uniform(0.002, 0.0045)
    brow_y = eye_y - rng.uniform(0.015, 0.022)
    iris = np.array(((0.012, 0.008, 0.006), (0.04, 0.02, 0.01), (0.05, 0.09, 0.12))[look.integers(3)])
    brows = 0.6 * np.minimum(_hair_rgb(look), 0.12) + 0.25 * rgb
    lips = rgb * np.array([0.88, 0.66, 0.66])
    parts = []
    for s in (-1, 1):
        eye = np.array([s * eye_x, eye_y, 0.012 - 0.9 * front])
        parts.append(ellipsoid(np.array([0.0165, open_m, 0.009]), 1.0, 0.1 + 0.45 * rgb, material, 5, 8, eye))
        parts.append(ellipsoid(np.array([0.0066, min(open_m, 0.0066), 0.004]), 1.0, iris, material, 5, 6, eye - [0, 0, 0.0062]))
        brow = rotvec_to_rotmat(np.array([0, 0, s * rng.normal(-0.03, 0.08)])) * np.array([0.019, brow_m, 0.006])
        parts.append(ellipsoid(brow, 1.0, brows, material, 4, 6, np.array([s * eye_x * 1.03, brow_y, 0.005 - 0.9 * front])))
    mouth = np.array([rng.uniform(0.02, 0.028), rng.uniform(0.004, 0.01), 0.008])
    parts.append(ellipsoid(mouth, 1.0, lips, material, 5, 8, np.array([0, 0.5 * tall, 0.008 - 0.92 * front])))
    return joined(parts)


def _hair(rng: Rng, look: Rng, points: np.ndarray, style: str, rgb: np.ndarray, front: float) -> list[Mesh]:
    """A cap of hair, cloth or both that reaches out of the head where it grows and hides inside of it elsewhere."""
    if style == "bald":
        return []
    up = -1.0 * _DOWN
    # Positive where hair grows: above the forehead, behind the ears, down to the neck.
    line = up * 1.1 + (_HEAD[..., 2] + 0.25) * 0.85 - rng.uniform(0.22, 0.38)
    if style in ("long", "scarf"):
        line = np.maximum(line, _HEAD[..., 2] * 1.2 + rng.uniform(0.2, 0.4) * _SIDE + 0.1)
    if style == "scarf":
        line = np.maximum(line, 0.95 - ((_SIDE / 0.62) ** 2 + ((_DOWN - 0.12) / 0.8) ** 2) ** -1 * _FRONT)
    on = smoothstep(0, 1, line / 0.22)
    thick = {"buzz": 0.05, "short": 0.16, "parted": 0.2, "long": 0.17, "curly": 0.36, "tied": 0.1, "scarf": 0.12, "cap": 0.1}[style]
    thick *= rng.uniform(0.8, 1.3)
    uneven = 1 + rng.normal(0, 0.16 if style == "curly" else 0.07, on.shape)
    grown = points * (1 - 0.06 + (0.06 + thick * uneven * (0.75 + 0.5 * np.maximum(up, 0))) * on)[..., None]
    grown[0], grown[-1] = grown[0].mean(axis=0), grown[-1].mean(axis=0)
    if style == "parted":
        grown[..., 0] += 0.012 * np.maximum(up, 0) * rng.choice((-1.0, 1.0))
    if style in ("long", "scarf"):
        fall = rng.uniform(0.03, 0.16) if style == "long" else 0.07
        hanging = on * smoothstep(0, 1, (_DOWN - 0.05) / 0.6)
        grown[..., 1] += fall * hanging
        grown[..., 0] *= 1 + 0.5 * hanging
        grown[..., 2] += 0.02 * hanging
    if style == "scarf":
        return [tube(grown, grown, random_rgb(look), fabric(look))]
    if style == "cap":
        rgb, material = random_rgb(look), fabric(look)
        brim = ellipsoid(np.array([0.07, 0.004, 0.06]), 1.0, rgb, material, 6, 12, np.array([0, -0.062, -front - 0.015]))
        return [joined([tube(grown, grown, rgb, material), brim])]
    hair = tube(grown, grown * (1, 0.25, 1), rgb, _hair_material(look))
    if style != "tied":
        return [hair]
    where = np.array([0, -0.08, 0.085]) if rng.random() < 0.5 else np.array([0, 0.03, 0.125])
    knot = ellipsoid(np.array([0.034, 0.034 if where[1] < 0 else 0.09, 0.034]), 1.0, rgb, hair.material, 7, 10, where)
    return [joined([hair, knot])]


def _glasses(rng: Rng, look: Rng, eye_x: float, eye_y: float, wide: float, front: float) -> Mesh:
    """Two rims, a bridge and temples; dark lenses now and then."""
    rgb = np.full(3, look.uniform(0.005, 0.03)) if look.random() < 0.6 else random_rgb(look)
    material = glossy(look)
    across, down, thick = 0.022 * rng.uniform(0.85, 1.2), 0.017 * rng.uniform(0.8, 1.25), rng.uniform(0.0009, 0.0022)
    z = -front - 0.006
    phi = np.linspace(0, 2 * np.pi, 13)
    is_dark = rng.random() < 0.2
    parts = []
    for s in (-1, 1):
        ring = np.stack([s * eye_x + across * np.cos(phi), eye_y + down * np.sin(phi), z + 0.0 * phi], axis=1)
        parts.append(limb(ring, thick, rgb, material, columns=4, round_ends=False))
        if is_dark:
            parts.append(
                ellipsoid(np.array([across, down, 0.002]), 1.0, np.full(3, 0.006), material, 5, 10, np.array([s * eye_x, eye_y, z]))
            )
        temple = np.array([[s * (eye_x + across), eye_y, z], [s * (wide + 0.004), eye_y, -0.5 * front], [s * (wide + 0.004), eye_y, 0.01]])
        parts.append(limb(temple, thick, rgb, material, columns=4, round_ends=False))
    bridge = np.array([[across - eye_x, eye_y, z], [0, eye_y - 0.002, z - 0.003], [eye_x - across, eye_y, z]])
    parts.append(limb(bridge, thick, rgb, material, columns=4, round_ends=False))
    return joined(parts)


def _body(rng: Rng, look: Rng, tone: Skin) -> list[Mesh]:
    """Neck, torso and upper arms around the pit of the neck: x right, y down, the chest towards -z."""
    rgb, material = random_rgb(look), fabric(look, 1)
    broad = rng.uniform(0.88, 1.12)
    columns = 20
    around = circle(columns)
    # Boxier than an ellipse; counter-clockwise about +y.
    square = np.sign(around) * np.abs(around) ** 0.8
    rings = np.empty((len(_TORSO_M), columns, 3))
    rings[..., 0] = _TORSO_M[:, 1:2] * broad * square[:, 1]
    rings[..., 1] = _TORSO_M[:, :1]
    rings[..., 2] = _TORSO_M[:, 2:3] * square[:, 0] + 0.1 * np.maximum(_TORSO_M[:, :1], 0) ** 0.7 * 0.2
    # The neckline dips in front, and folds cross the belly.
    rings[1:4, :, 1] += rng.uniform(0.0, 0.07) * np.maximum(-square[:, 0], 0) ** 2 * np.array([[1.0], [0.9], [0.3]])
    rings[5:10, :, 2] += rng.normal(0, 0.004, (5, columns))
    colours = np.broadcast_to(rgb, rings.shape).copy()
    if look.random() < 0.4:
        colours[:4] = random_rgb(look)
    if look.random() < 0.25:
        # An open jacket, buttons or a tie.
        colours[:, (np.abs(square[:, 1]) < look.uniform(0.1, 0.45)) & (square[:, 0] < 0)] = random_rgb(look)
    torso = tube(rings, rings, colours, material)
    sleeves = []
    for s in (-1, 1):
        out, ahead = rng.uniform(0.01, 0.1), rng.normal(-0.02, 0.06)
        t = np.linspace(0, 1, 5)
        path = np.stack([s * (0.16 * broad + out * t), 0.1 + 0.75 * t, 0.02 + ahead * t], axis=1)
        sleeves.append(limb(path, np.array([0.05, 0.054, 0.05, 0.047, 0.045]) * broad, rgb, material, columns=8))
    neck = np.array([[0.0, 0.05, 0.005], [0.0, 0.0, 0.0], [0.0, -0.05, -0.005], [0.0, -0.1, -0.012]])
    skin = limb(neck, np.array([0.07, 0.058, 0.054, 0.054]), tone.rgb * 0.95, tone.material, columns=10)
    meshes = [joined([torso, *sleeves]), skin]
    if rng.random() < 0.35:
        turn = np.linspace(0, 2 * np.pi, 15)
        collar = np.stack([0.066 * np.sin(turn), -0.012 + 0.03 * np.maximum(-np.cos(turn), 0), 0.062 * np.cos(turn)], axis=1)
        meshes.append(
            limb(collar, rng.uniform(0.008, 0.016), random_rgb(look) if look.random() < 0.4 else rgb, material, columns=6, round_ends=False)
        )
    return meshes
