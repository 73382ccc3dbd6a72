"""Things around a hand: before it, behind it, in it, instead of it, and the person it belongs to.

    occluder(rng, look, middle_m, extent_m) -> list[Mesh]
    things_behind(rng, look, middle_m, extent_m, count) -> list[Mesh]
    held(rng, look, centre_m, axis, radius_m, is_ball=False, reach_m=(0.2, 0.2)) -> list[Mesh]
    handless(rng, look, config, middle_m, extent_m, tone) -> list[Mesh]
    person(rng, look, tone, middle_m) -> list[Mesh]

`rng` decides what there is, its size and its place, `look` colours and materials alone: with another `look` every vertex
stays where it is.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable

import numpy as np

from handmesh.geometry.rotation import rotvec_to_rotmat
from handmesh.synthetic.config import SynthConfig
from handmesh.synthetic.material import plain_material, random_material, random_rgb
from handmesh.synthetic.people import figure
from handmesh.synthetic.poses import random_rotation
from handmesh.synthetic.shapes import (
    box,
    coloured,
    ellipsoid,
    fabric,
    glossy,
    joined,
    limb,
    metal,
    placed,
    revolved,
    screen_rgb,
    sheet,
    slab,
)
from handmesh.synthetic.skin import Skin, skin_rgb
from handmesh.synthetic.surface import Mesh

Rng = np.random.Generator

# Nothing is put nearer to the camera than this.
_NEAREST_M = 0.09
# Own frame (z up) to the camera (y down), front (-y) towards the camera.
_UPRIGHT = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])


def _other_skin(look: Rng) -> Skin:
    """Skin of somebody else."""
    material = plain_material(
        noise_low=0.06, freq_low=400.0, noise_high=0.04, freq_high=3000.0, specular=look.uniform(0.02, 0.1), shininess=20.0, wrap=0.25
    )
    return Skin(skin_rgb(look.uniform(0, 1)).astype(np.float64), material)


# --- Things of their natural size, around the origin, z up.

Maker = Callable[[Rng, Rng], list[Mesh]]


def _vessel(rng: Rng, look: Rng, radius: float, height: float, taper: float, wall: float) -> Mesh:
    """An open vessel; its outside may carry a band of another colour."""
    low, high = rng.uniform(0.1, 0.45), rng.uniform(0.5, 0.9)
    body, inside = random_rgb(look), random_rgb(look)
    band = random_rgb(look) if look.random() < 0.4 else body
    inside = body if look.random() < 0.6 else inside
    z = np.array([0, 0, 0.02, low, low, high, high, 1.0, 1.0, 0.98, 0.5, 0.06, 0.06]) * height - height / 2
    outer = radius * (1 + (taper - 1) * (1 - (z / height + 0.5)))
    r = outer.copy()
    r[0], r[-1] = 0.0, 0.0
    r[1] *= 0.92
    r[8:12] -= wall
    colours = np.stack([*[body] * 4, band, band, body, body, *[inside] * 5])
    return revolved(
        np.stack([np.maximum(r, 0), z], axis=1), colours, glossy(look) if look.random() < 0.6 else random_material(look, radius)
    )


def _mug(rng: Rng, look: Rng) -> list[Mesh]:
    radius, height = rng.uniform(0.035, 0.047), rng.uniform(0.075, 0.11)
    body = _vessel(rng, look, radius, height, rng.uniform(0.8, 1.0), 0.004)
    angle = np.linspace(-np.pi / 2, np.pi / 2, 8)
    out, up = rng.uniform(0.018, 0.03), height * rng.uniform(0.26, 0.36)
    path = np.stack([0.92 * radius + out * np.cos(angle) * 1.15, np.zeros(8), up * np.sin(angle)], axis=1)
    handle = limb(path, rng.uniform(0.004, 0.0065), body.albedo[0], body.material, columns=8)
    return [joined([body, handle])]


def _glass(rng: Rng, look: Rng) -> list[Mesh]:
    return [_vessel(rng, look, rng.uniform(0.03, 0.045), rng.uniform(0.08, 0.16), rng.uniform(0.65, 1.0), 0.002)]


def _bowl(rng: Rng, look: Rng) -> list[Mesh]:
    radius, depth = rng.uniform(0.06, 0.12), rng.uniform(0.3, 0.75)
    t = np.linspace(0, np.pi / 2, 7)
    outer = np.stack([radius * np.sin(t), -radius * depth * np.cos(t)], axis=1)
    inner = outer[::-1] * (1 - 0.05) + [0, 0.004]
    inner[-1, 0] = 0.0
    rgb = random_rgb(look)
    colours = np.repeat([rgb, rgb if look.random() < 0.6 else random_rgb(look)], 7, axis=0)
    return [revolved(np.concatenate([outer, inner]), colours, glossy(look), columns=22)]


def _plate(rng: Rng, look: Rng) -> list[Mesh]:
    radius = rng.uniform(0.08, 0.14)
    profile = np.array([[0, 0], [0.6, 0], [1, 0.12], [1, 0.14], [0.62, 0.03], [0, 0.03]]) * radius
    rgb = random_rgb(look)
    rim = rgb if look.random() < 0.6 else random_rgb(look)
    return [revolved(profile, np.stack([rgb, rgb, rim, rim, rgb, rgb]), glossy(look), columns=24)]


def _can_mesh(look: Rng, radius: float, height: float) -> Mesh:
    half = height / 2
    rim = min(0.006, 0.2 * radius)
    profile = [
        (0, -half),
        (radius - rim, -half),
        (radius, -half + rim),
        (radius, half - rim),
        (radius - rim, half),
        (radius - 1.6 * rim, half),
    ]
    profile += [(radius - 1.7 * rim, half - 0.5 * rim), (0, half - 0.5 * rim)]
    steel, material = metal(look)
    label = random_rgb(look)
    if look.random() < 0.4:
        material = glossy(look)
    colours = np.stack([steel, steel, label, label, steel, steel, steel, steel])
    return revolved(np.array(profile), colours, material)


def _can(rng: Rng, look: Rng) -> list[Mesh]:
    return [_can_mesh(look, rng.uniform(0.026, 0.04), rng.uniform(0.09, 0.17))]


def _bottle_mesh(rng: Rng, look: Rng, radius: float, height: float) -> Mesh:
    half, neck = height / 2, radius * rng.uniform(0.28, 0.55)
    shoulder = rng.uniform(0.05, 0.3) * height
    cap = half - rng.uniform(0.012, 0.03)
    label_low, label_high = -half + height * rng.uniform(0.1, 0.3), shoulder - height * rng.uniform(0.02, 0.15)
    ease = np.linspace(0, 1, 5)[1:]
    to_neck = shoulder + (cap - 0.02 - shoulder) * rng.uniform(0.3, 1.0)
    slope = np.stack([radius + (neck - radius) * (0.5 - 0.5 * np.cos(np.pi * ease)), shoulder + (to_neck - shoulder) * ease], axis=1)
    profile = [
        (0, -half),
        (0.93 * radius, -half),
        (radius, -half + 0.07 * radius),
        (radius, label_low),
        (radius, label_low),
        (radius, label_high),
    ]
    profile += [
        (radius, label_high),
        (radius, shoulder),
        *map(tuple, slope),
        (neck, cap),
        (1.15 * neck, cap),
        (1.15 * neck, half),
        (0, half),
    ]
    body, label, lid = random_rgb(look), random_rgb(look), random_rgb(look)
    label = body if look.random() < 0.3 else label
    colours = np.stack([*[body] * 4, label, label, *[body] * (3 + len(slope)), lid, lid, lid])
    return revolved(np.array(profile), colours, glossy(look))


def _bottle(rng: Rng, look: Rng) -> list[Mesh]:
    return [_bottle_mesh(rng, look, rng.uniform(0.025, 0.045), rng.uniform(0.15, 0.3))]


def _ball(rng: Rng, look: Rng) -> list[Mesh]:
    return [_ball_mesh(look, rng.uniform(0.025, 0.1))]


def _ball_mesh(look: Rng, radius: float) -> Mesh:
    first = random_rgb(look)
    second = random_rgb(look) if look.random() < 0.4 else first
    rows = 12
    bands = look.integers(1, 4)
    colours = np.where((np.arange(rows) // bands % 2)[:, None] == 0, first, second)
    return ellipsoid(np.full(3, radius), 1.0, colours, random_material(look, radius), rows=rows, columns=18)


def _pen_mesh(rng: Rng, look: Rng, radius: float, length: float) -> Mesh:
    """A pen with a tip, and a cap or an end of another colour."""
    half = length / 2
    tip, end = half - rng.uniform(1.5, 4) * radius, -half + rng.uniform(0.02, 0.45) * length
    profile = [
        (0, -half),
        (0.9 * radius, -half),
        (radius, -half + 0.3 * radius),
        (radius, end),
        (radius, end),
        (radius, tip),
        (0.3 * radius, half - radius),
        (0, half),
    ]
    body, other, point = random_rgb(look), random_rgb(look), random_rgb(look)
    colours = np.stack([*[other] * 4, body, body, point, point])
    return revolved(np.array(profile), colours, glossy(look), columns=10)


def _pen(rng: Rng, look: Rng) -> list[Mesh]:
    return [_pen_mesh(rng, look, rng.uniform(0.003, 0.009), rng.uniform(0.12, 0.19))]


def _vase(rng: Rng, look: Rng) -> list[Mesh]:
    """A lamp's foot, a vase, a chess piece: some smooth profile."""
    height, radius = rng.uniform(0.08, 0.3), rng.uniform(0.02, 0.07)
    knots = np.clip(rng.normal(0.7, 0.3, 6), 0.2, 1.3) * radius
    t = np.linspace(0, 1, 14)
    r = np.interp(t, np.linspace(0, 1, 6), knots)
    r = np.convolve(np.pad(r, 1, mode="edge"), [0.25, 0.5, 0.25], mode="valid")
    z = (t - 0.5) * height
    profile = np.stack([np.concatenate([[0], r, [0]]), np.concatenate([z[:1], z, z[-1:]])], axis=1)
    rgb = random_rgb(look)
    colours = np.broadcast_to(rgb, (16, 3)).copy()
    if look.random() < 0.4:
        start = look.integers(2, 10)
        colours[start : start + 4] = random_rgb(look)
    return [revolved(profile, colours, random_material(look, radius))]


def _lamp(rng: Rng, look: Rng) -> list[Mesh]:
    foot = _vase(rng, look)[0]
    top = float(foot.vertices_m[:, 2].max())
    low, high, tall = rng.uniform(0.06, 0.14), rng.uniform(0.03, 0.09), rng.uniform(0.08, 0.18)
    profile = np.array([[0, top], [low, top], [high, top + tall], [0, top + tall]])
    return [foot, revolved(profile, np.array([0.75, 0.68, 0.55]) * look.uniform(0.4, 1.2), plain_material(wrap=0.4))]


def _slab_thing(
    rng: Rng, look: Rng, half_m: tuple[float, float, float], corner_m: float, edge_m: float, bezel_m: float, has_screen: bool
) -> list[Mesh]:
    half = np.array(half_m) * rng.uniform(0.92, 1.08, 3)
    body = random_rgb(look)
    panel = screen_rgb(look) if has_screen else (random_rgb(look) if look.random() < 0.5 else body)
    material = glossy(look) if has_screen or look.random() < 0.3 else random_material(look, float(half.max()))
    return [slab(half, corner_m, edge_m, body, panel, bezel_m, material)]


def _phone(rng: Rng, look: Rng) -> list[Mesh]:
    return _slab_thing(rng, look, (0.036, 0.0042, 0.075), 0.009, 0.0015, rng.uniform(0.001, 0.005), True)


def _tablet(rng: Rng, look: Rng) -> list[Mesh]:
    return _slab_thing(rng, look, (0.085, 0.004, 0.12), 0.01, 0.0015, rng.uniform(0.004, 0.012), True)


def _book(rng: Rng, look: Rng) -> list[Mesh]:
    half = np.array([rng.uniform(0.05, 0.11), rng.uniform(0.004, 0.022), 0.0])
    half[2] = half[0] * rng.uniform(1.2, 1.6)
    cover = _slab_thing(rng, look, tuple(half), 0.001, 0.0006, rng.uniform(0.004, 0.03), False)
    pages = box(
        half * (1.0, 0.8, 1.0) + (0.0006, 0, 0.0006), np.full(3, look.uniform(0.4, 0.75)), plain_material(noise_low=0.05, freq_low=900.0)
    )
    return [*cover, pages]


def _remote(rng: Rng, look: Rng) -> list[Mesh]:
    return _slab_thing(rng, look, (0.022, 0.009, rng.uniform(0.06, 0.1)), 0.006, 0.003, 0.003, False)


def _card(rng: Rng, look: Rng) -> list[Mesh]:
    return _slab_thing(rng, look, (0.0428, 0.0006, 0.027), 0.003, 0.0002, rng.uniform(0.001, 0.012), False)


def _packet(rng: Rng, look: Rng) -> list[Mesh]:
    return _slab_thing(
        rng, look, tuple(rng.uniform((0.025, 0.01, 0.035), (0.1, 0.05, 0.15))), 0.0015, 0.0008, rng.uniform(0.002, 0.02), False
    )


def _monitor(rng: Rng, look: Rng) -> list[Mesh]:
    half = rng.uniform(0.18, 0.35)
    screen = _slab_thing(rng, look, (half, 0.012, half * 0.58), 0.004, 0.002, rng.uniform(0.004, 0.015), True)
    rgb, material = np.full(3, look.uniform(0.01, 0.4)), glossy(look)
    stand = box(np.array([0.025, 0.012, 0.1]), rgb, material)
    return [*screen, placed(stand, np.eye(3), np.array([0, 0.03, -0.58 * half - 0.06]))]


def _picture_frame(rng: Rng, look: Rng) -> list[Mesh]:
    half = rng.uniform(0.06, 0.25)
    return _slab_thing(rng, look, (half, 0.01, half * rng.uniform(0.6, 1.5)), 0.001, 0.002, half * rng.uniform(0.06, 0.25), False)


def _pebble(rng: Rng, look: Rng) -> list[Mesh]:
    size = rng.uniform(0.02, 0.09)
    return [ellipsoid(size * rng.uniform(0.35, 1.0, 3), rng.uniform(0.3, 1.0), *coloured(look, size))]


def _cushion(rng: Rng, look: Rng) -> list[Mesh]:
    size = rng.uniform(0.15, 0.3)
    return [ellipsoid(size * np.array([1.0, 0.35, 1.0]), rng.uniform(0.4, 0.7), *coloured(look, size), rows=11, columns=18)]


def _cloth(rng: Rng, look: Rng) -> list[Mesh]:
    """A towel, a curtain or a sheet of paper."""
    half = rng.uniform(0.06, 0.25, 2)
    u, w = np.meshgrid(np.linspace(-1, 1, 13), np.linspace(-1, 1, 11), indexing="ij")
    heights = sum(
        rng.normal(0, 0.05) * half[0] * np.sin(rng.uniform(1, 7) * u + rng.uniform(-2, 2) * w + rng.uniform(0, 6.3)) for _ in range(3)
    )
    return [sheet(heights + rng.normal(0, 0.15) * half[0] * u**2, half, 0.0012, random_rgb(look), fabric(look))]


def _wavy(rng: Rng, length_m: float, wave_m: float, points: int = 16) -> np.ndarray:
    """(K, 3) a line along z that wanders."""
    t = np.linspace(-0.5, 0.5, points)
    x = sum(rng.normal(0, wave_m) * np.sin(rng.uniform(2, 9) * t + rng.uniform(0, 6.3)) for _ in range(2))
    y = rng.normal(0, wave_m) * np.sin(rng.uniform(2, 9) * t + rng.uniform(0, 6.3))
    return np.stack([x, y, t * length_m], axis=1)


def _cable(rng: Rng, look: Rng) -> list[Mesh]:
    return [limb(_wavy(rng, rng.uniform(0.4, 0.9), 0.04, 20), rng.uniform(0.0012, 0.004), *coloured(look, 0.02), columns=6)]


def _stick(rng: Rng, look: Rng) -> list[Mesh]:
    path = _wavy(rng, rng.uniform(0.25, 0.8), rng.choice([0.0, 0.004]), 6)
    return [limb(path, rng.uniform(0.002, 0.009), *coloured(look, 0.02), columns=8, round_ends=False)]


def _bar(rng: Rng, look: Rng) -> list[Mesh]:
    """A rail, a table leg or a board, long enough to cross a picture."""
    half = np.array([rng.uniform(0.008, 0.03), rng.uniform(0.004, 0.02), 0.6])
    rgb = random_rgb(look)
    return [slab(half, rng.uniform(0.0005, 0.006), 0.001, rgb, rgb, 0.0, random_material(look, 0.05))]


def _other_arm(rng: Rng, look: Rng) -> list[Mesh]:
    """Somebody's forearm and upper arm, bare or in a sleeve, from edge to edge of the picture."""
    bend, turn = rng.uniform(0.0, 0.9), rng.uniform(0, 2 * np.pi)
    at = np.linspace(-0.45, 0.45, 12)
    sideways = bend * 0.35 * (np.sqrt(at**2 + 0.03) - 0.48)
    path = np.stack([np.cos(turn) * sideways, np.sin(turn) * sideways, at], axis=1)
    radii = np.interp(at, [-0.45, -0.25, -0.05, 0.05, 0.45], np.array([0.026, 0.03, 0.042, 0.042, 0.05])) * rng.uniform(0.85, 1.15)
    skin = _other_skin(look)
    arm = limb(path, radii, skin.rgb, skin.material, oval=rng.uniform(0.85, 1.15))
    if rng.random() < 0.5:
        return [arm]
    start = rng.integers(1, 8)
    folds = radii[start:] + rng.uniform(0.004, 0.012) + rng.normal(0, 0.002, 12 - start)
    return [arm, limb(path[start:], folds, random_rgb(look), fabric(look), round_ends=False)]


_SMALL: tuple[Maker, ...] = (
    _mug,
    _glass,
    _bowl,
    _can,
    _bottle,
    _ball,
    _vase,
    _phone,
    _book,
    _remote,
    _packet,
    _pebble,
    _tablet,
    _card,
    _plate,
)
_LARGE: tuple[Maker, ...] = (_lamp, _monitor, _picture_frame, _cushion, _cloth, _book, _bottle, _tablet)
_THIN: tuple[Maker, ...] = (_pen, _stick, _stick, _cable)


# --- Where things go.


def _resting_turn(rng: Rng) -> np.ndarray:
    """Upright and turned towards the camera, more or less: (3, 3) own frame to the camera."""
    tilt = rotvec_to_rotmat(rng.normal(0, 1, 3) * (0.35, 0.0, 0.15))
    return tilt @ _UPRIGHT @ rotvec_to_rotmat(np.array([0.0, 0.0, rng.normal(0, 0.8)]))


def _turned(meshes: list[Mesh], R_camera_own: np.ndarray) -> list[Mesh]:
    return [placed(mesh, R_camera_own, np.zeros(3)) for mesh in meshes]


def _moved(meshes: list[Mesh], shift_m: np.ndarray) -> list[Mesh]:
    return [placed(mesh, np.eye(3), shift_m) for mesh in meshes]


def _extremes(meshes: list[Mesh], direction: np.ndarray) -> tuple[float, float]:
    """Least and greatest coordinate of the vertices along a direction."""
    along = np.concatenate([mesh.vertices_m @ direction.astype(np.float32) for mesh in meshes])
    return float(along.min()), float(along.max())


def occluder(rng: Rng, look: Rng, middle_m: np.ndarray, extent_m: float) -> list[Mesh]:
    """Something between the camera and the hand that hides a part of it.

    Args:
        middle_m: (3,) the hand's middle in the camera.
        extent_m: the hand's size.
    """
    kind = bisect((0.5, 0.7, 0.86), rng.random())
    if kind == 1:
        thin = [_THIN[rng.integers(len(_THIN))](rng, look) for _ in range(1 + (rng.random() < 0.3))]
        return [mesh for own in thin for mesh in _across(rng, own, middle_m, extent_m)]
    if kind == 2:
        return _before(rng, _other_arm(rng, look), middle_m, extent_m, (0.2, 0.55), is_long=True)
    if kind == 3:
        return _before(rng, _bar(rng, look), middle_m, extent_m, (0.2, 0.55), is_long=True)
    return _before(rng, _SMALL[rng.integers(len(_SMALL))](rng, look), middle_m, extent_m, (0.25, 0.62))


def _before(
    rng: Rng, meshes: list[Mesh], middle_m: np.ndarray, extent_m: float, reach: tuple[float, float], is_long: bool = False
) -> list[Mesh]:
    """Things put before the hand so that they cover about `reach` of its width, from one side of it."""
    angle = rng.uniform(0, 2 * np.pi)
    side = np.array([np.cos(angle), np.sin(angle), 0.0])
    if is_long:
        # Across the line of sight and along the edge of what it covers.
        along = np.array([-side[1], side[0], rng.normal(0, 0.25)])
        turn = _axis_turn(rng, along)
    else:
        turn = _resting_turn(rng) if rng.random() < 0.5 else random_rotation(rng)
    meshes = _turned(meshes, turn)
    near, far = _extremes(meshes, np.array([0.0, 0.0, 1.0]))
    depth = float(middle_m[2])
    gap = rng.uniform(0.02, max(0.03, 0.3 * depth)) + 0.25 * extent_m
    distance = max(depth - gap - far, _NEAREST_M - near, 0.35 * depth)
    scale = distance / depth
    # The edge that faces the hand's middle, seen at the hand's depth.
    edge = -_extremes(meshes, side)[0] / scale
    offset = extent_m * (0.35 - 0.7 * rng.uniform(*reach)) + edge
    across = np.array([-side[1], side[0], 0.0]) * rng.normal(0, 0.12) * extent_m
    return _moved(meshes, (np.array([*middle_m[:2], 0.0]) + side * offset + across) * scale + np.array([0, 0, distance]))


def _across(rng: Rng, meshes: list[Mesh], middle_m: np.ndarray, extent_m: float) -> list[Mesh]:
    """Long thin things put across the hand."""
    angle = rng.uniform(0, 2 * np.pi)
    along = np.array([np.cos(angle), np.sin(angle), rng.normal(0, 0.4)])
    meshes = _turned(meshes, _axis_turn(rng, along))
    depth = float(middle_m[2])
    distance = max(depth - 0.25 * extent_m - rng.uniform(0.03, max(0.04, 0.3 * depth)), _NEAREST_M, 0.4 * depth)
    place = middle_m + np.array([-along[1], along[0], 0.0]) * rng.uniform(-0.25, 0.25) * extent_m + along * rng.normal(0, 0.2) * extent_m
    return _moved(meshes, np.array([*place[:2] * distance / depth, distance]))


def _axis_turn(rng: Rng, axis: np.ndarray) -> np.ndarray:
    """(3, 3) that brings z to `axis`, turned about it at random."""
    third = np.asarray(axis, np.float64) / np.linalg.norm(axis)
    first = np.cross(third, rng.normal(0, 1, 3))
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(third, first), third], axis=1)


def things_behind(rng: Rng, look: Rng, middle_m: np.ndarray, extent_m: float, count: int) -> list[Mesh]:
    """`count` things farther from the camera than the hand, near it in the picture; arguments as for `occluder`."""
    meshes: list[Mesh] = []
    for _ in range(count):
        makers = _LARGE if rng.random() < 0.35 else _SMALL
        own = makers[rng.integers(len(makers))](rng, look)
        own = _turned(own, _resting_turn(rng) if rng.random() < 0.7 else random_rotation(rng))
        near, _ = _extremes(own, np.array([0.0, 0.0, 1.0]))
        distance = float(middle_m[2]) + 0.55 * extent_m - near + rng.exponential(0.25 if makers is _SMALL else 0.5)
        sight = np.array([*(middle_m[:2] + rng.normal(0, 0.55, 2) * extent_m), middle_m[2]]) / middle_m[2]
        meshes += _moved(own, sight * distance)
    return meshes


# --- In the hand.


def held(
    rng: Rng,
    look: Rng,
    centre_m: np.ndarray,
    axis: np.ndarray,
    radius_m: float,
    is_ball: bool = False,
    reach_m: tuple[float, float] = (0.2, 0.2),
) -> list[Mesh]:
    """Something that fits a grip: nowhere farther from the grip's axis than its radius, nor longer than it has room for.

    Args:
        centre_m: (3,) the grip's middle in the camera.
        axis: (3,) unit, along the grip.
        radius_m: from the axis to the skin.
        is_ball: the grip is round on all sides; what is longer than it is thick does not fit.
        reach_m: (2,) room from the middle against and along the axis.
    """
    back, ahead = min(float(reach_m[0]), 0.14), min(float(reach_m[1]), 0.14)
    if is_ball or back + ahead < max(2.5 * radius_m, 0.03):
        own = _held_lump(rng, look, radius_m)
    else:
        low, high = -back * rng.uniform(0.6, 1.0), ahead * rng.uniform(0.6, 1.0)
        if radius_m < 0.011:
            makers = (_held_pen, _held_pen, _held_tool, _held_tool)
        elif radius_m < 0.021:
            makers = (_held_tool, _held_tool, _held_tool, _held_pen, _held_slab, _held_can)
        else:
            makers = (_held_can, _held_vessel, _held_bottle, _held_slab, _held_slab, _held_tool)
        own = makers[rng.integers(len(makers))](rng, look, radius_m, low, high)
    return _moved(_turned(own, _axis_turn(rng, axis)), centre_m)


def _held_lump(rng: Rng, look: Rng, radius: float) -> list[Mesh]:
    """A ball, an egg, a die or a lid."""
    kind = rng.integers(4)
    if kind < 2:
        return [_ball_mesh(look, radius)]
    if kind == 2:
        return [ellipsoid(radius * rng.uniform(0.7, 1.0, 3), 1.0, *coloured(look, radius), rows=11, columns=16)]
    half = rng.uniform(0.4, 1.0, 3)
    rgb = random_rgb(look)
    return [slab(half * radius / np.linalg.norm(half), 0.1 * radius, 0.05 * radius, rgb, rgb, 0.0, glossy(look))]


def _between(meshes: list[Mesh], low: float, high: float) -> list[Mesh]:
    """Things around the origin, slid so that their middle is that of a span."""
    return _moved(meshes, np.array([0.0, 0.0, (low + high) / 2]))


def _held_pen(rng: Rng, look: Rng, radius: float, low: float, high: float) -> list[Mesh]:
    own = _pen_mesh(rng, look, radius, high - low)
    return _between([own if rng.random() < 0.5 else placed(own, np.diag([1.0, -1.0, -1.0]), np.zeros(3))], low, high)


def _held_can(rng: Rng, look: Rng, radius: float, low: float, high: float) -> list[Mesh]:
    return _between([_can_mesh(look, radius, high - low)], low, high)


def _held_vessel(rng: Rng, look: Rng, radius: float, low: float, high: float) -> list[Mesh]:
    return _between([_vessel(rng, look, radius, min(high - low, 0.16), rng.uniform(0.7, 1.0), 0.003)], low, high)


def _held_bottle(rng: Rng, look: Rng, radius: float, low: float, high: float) -> list[Mesh]:
    return _between([_bottle_mesh(rng, look, radius, high - low)], low, high)


def _held_slab(rng: Rng, look: Rng, radius: float, low: float, high: float) -> list[Mesh]:
    """A phone, a box or a remote whose cross-section fits into the grip."""
    flat = rng.uniform(0.12, 0.75)
    half = np.array([radius * np.cos(flat), radius * np.sin(flat), (high - low) / 2])
    is_phone = rng.random() < 0.5
    panel = screen_rgb(look) if is_phone else random_rgb(look)
    own = slab(
        half, min(0.008, 0.25 * half[0]), min(0.002, 0.4 * half[1]), random_rgb(look), panel, rng.uniform(0.001, 0.006), glossy(look)
    )
    return _between([own], low, high)


def _held_tool(rng: Rng, look: Rng, radius: float, low: float, high: float) -> list[Mesh]:
    """A handle, and where it leaves the hand a head wider than the grip: hammer, brush, torch, spatula, knife, microphone."""
    waist = rng.uniform(0.75, 1.0)
    profile = np.array([(0, low), (0.9, low), (1.0, low + 0.005), (waist, 0.3 * low), (1.0, 0.5 * high), (0.85, high), (0, high)])
    profile[:, 0] *= radius
    meshes = [revolved(profile, *coloured(look, 0.05), columns=12)]
    kind = rng.integers(5)
    end = np.array([0, 0, high])
    if high < 0.05:
        return meshes
    if kind == 0:
        half = np.array([rng.uniform(0.03, 0.06), 0.011, 0.012])
        meshes.append(placed(box(half, *metal(look)), np.eye(3), end + [0, 0, 0.012]))
    elif kind == 1:
        meshes.append(
            ellipsoid(np.array([0.03, 0.012, 0.04]) * rng.uniform(0.7, 1.3), 0.5, *coloured(look, 0.02), centre_m=end + [0, 0, 0.04])
        )
    elif kind == 2:
        head, long = max(1.3 * radius, 0.012), rng.uniform(0.03, 0.06)
        steel, material = metal(look)
        cone = np.array([(0, -0.01), (0.8 * radius, -0.01), (head, long), (0, long)])
        meshes.append(placed(revolved(cone, steel, material, columns=14), np.eye(3), end))
    elif kind == 3:
        half = np.array([rng.uniform(0.008, 0.035), 0.0012, rng.uniform(0.04, 0.09)])
        rgb, material = metal(look)
        meshes.append(placed(slab(half, 0.6 * half[0], 0.0003, rgb, rgb, 0.001, material), np.eye(3), end + [0, 0, half[2] - 0.004]))
    else:
        size = max(1.2 * radius, 0.01) * rng.uniform(1.0, 1.8)
        meshes.append(ellipsoid(np.full(3, size), 1.0, *coloured(look, size), centre_m=end + [0, 0, 0.9 * size]))
    return meshes


def person(rng: Rng, look: Rng, tone: Skin, middle_m: np.ndarray) -> list[Mesh]:
    """Head and shoulders behind the hand, facing the camera as people before a webcam do.

    Args:
        tone: the hand's skin.
        middle_m: (3,) the hand's middle in the camera.
    """
    distance = rng.uniform(0.1, 0.6)
    # Hands are held beside the chest or the face, seldom above the head.
    side = rng.choice((-1.0, 1.0)) * abs(rng.normal(0.17, 0.13))
    head = middle_m + np.array([side, rng.normal(-0.16, 0.16), 0.12 + distance])
    return figure(rng, look, tone, head)


# --- Instead of the hand.


def handless(rng: Rng, look: Rng, config: SynthConfig, middle_m: np.ndarray, extent_m: float, tone: Skin) -> list[Mesh]:
    """What a false detection would crop: faces, bare arms, elbows, empty cuffs, feet, knees, cloth, things, or nothing.

    Args:
        config: how often things are behind.
        middle_m, extent_m: where a hand would be, and its size.
    """
    kind = bisect((0.2, 0.4, 0.5, 0.64, 0.74, 0.9), rng.random())
    meshes: list[Mesh] = []
    if kind == 0:
        meshes = figure(rng, look, tone, middle_m + np.array([*rng.normal(0, 0.3, 2), 0.1]) * extent_m)
    elif kind == 1:
        meshes = _bent_limb(rng, tone.rgb, tone.material, rng.uniform(0.022, 0.05), middle_m, extent_m)
        if rng.random() < 0.4:
            meshes = [meshes[0], *_bent_limb(rng, random_rgb(look), fabric(look), rng.uniform(0.03, 0.06), middle_m, extent_m)]
    elif kind == 2:
        meshes = _empty_cuff(rng, look, middle_m, extent_m)
    elif kind == 3:
        meshes = _moved(_turned([_foot(rng, tone)], random_rotation(rng)), middle_m + np.array([*rng.normal(0, 0.2, 2), 0.6]) * extent_m)
    elif kind == 4:
        meshes = _moved(_turned(_cloth(rng, look), random_rotation(rng)), middle_m + np.array([*rng.normal(0, 0.4, 2), 0.8]) * extent_m)
    elif kind == 5:
        own = _SMALL[rng.integers(len(_SMALL))](rng, look)
        meshes = _moved(_turned(own, random_rotation(rng)), middle_m + np.array([*rng.normal(0, 0.3, 2), 0.5]) * extent_m)
    if rng.random() < min(1.0, 2 * config.object_behind):
        meshes += things_behind(rng, look, middle_m, extent_m, int(rng.integers(1, 4)))
    return meshes


def _bent_limb(rng: Rng, rgb: np.ndarray, material: np.ndarray, radius: float, middle_m: np.ndarray, extent_m: float) -> list[Mesh]:
    """An elbow or a knee near the middle; both ends leave the picture."""
    bend, reach = rng.uniform(0.0, 1.6), rng.uniform(0.35, 0.5)
    t = np.linspace(-1, 1, 17)
    x = reach * np.sin(bend / 2) * (np.sqrt(t**2 + 0.03) - 0.17)
    path = np.stack([x, np.zeros(17), reach * np.cos(bend / 2) * t], axis=1)
    radii = radius * np.interp(t, [-1, -0.4, -0.1, 0.0, 0.1, 0.5, 1], [0.75, 1.0, 0.97, 1.04, 1.0, 1.15, 1.2])
    turn = _axis_turn(rng, np.array([*rng.normal(0, 1, 2), rng.normal(0, 0.3)]))
    centre = middle_m + np.array([*rng.normal(0, 0.25, 2), 0.4]) * extent_m
    return _moved(_turned([limb(path, radii, rgb, material, columns=16, oval=rng.uniform(0.8, 1.2))], turn), centre)


def _empty_cuff(rng: Rng, look: Rng, middle_m: np.ndarray, extent_m: float) -> list[Mesh]:
    """A sleeve that ends in the picture, its hand drawn in or hidden."""
    radius = rng.uniform(0.03, 0.05)
    at = np.linspace(0, 0.6, 14)
    r = radius * (1 + 0.5 * at) + rng.normal(0, 0.0025, 14)
    profile = [(0, 0.03), (0.8 * r[0], 0.02), (0.93 * r[0], 0.0), *zip(r, at, strict=True), (0, at[-1])]
    rgb = random_rgb(look)
    own = revolved(np.array(profile), np.repeat([0.4 * rgb, rgb], [2, 16], axis=0), fabric(look))
    turn = _axis_turn(rng, np.array([*rng.normal(0, 1, 2), rng.uniform(-0.2, 0.8)]))
    return _moved(_turned([own], turn), middle_m + np.array([*rng.normal(0, 0.2, 2), 0.3]) * extent_m)


def _foot(rng: Rng, tone: Skin) -> Mesh:
    """Sole, heel, ankle and five toes."""
    t = np.linspace(0, 1, 7)
    sole = np.stack([np.zeros(7), 0.02 * (1 - t), -0.1 + 0.2 * t], axis=1)
    meshes = [limb(sole, np.interp(t, [0, 0.35, 0.75, 1], [0.033, 0.036, 0.043, 0.038]), tone.rgb, tone.material, columns=14, oval=0.5)]
    leg = np.stack([np.zeros(5), np.linspace(0.02, 0.3, 5), -0.085 - 0.01 * np.arange(5)], axis=1)
    meshes.append(limb(leg, np.array([0.03, 0.032, 0.035, 0.045, 0.052]), tone.rgb, tone.material))
    for toe in range(5):
        size = 0.014 if toe == 0 else 0.0098 - 0.0007 * toe
        start = np.array([-0.031 + 0.0155 * toe, -0.002, 0.112 - 0.007 * toe])
        path = start + np.linspace(0, 1, 4)[:, None] * np.array([0.0, -0.005, 0.03 - 0.003 * toe]) * rng.uniform(0.8, 1.1)
        meshes.append(limb(path, size, tone.rgb, tone.material, columns=8))
    return joined(meshes)
