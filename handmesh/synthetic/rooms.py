"""Rooms, outdoor places and table tops made up by arithmetic: panoramas and backgrounds for those who have none.

A place is a shell (four walls, or ground and sky) with boxes and ellipsoids in it, seen by one ray a pixel from the origin.
Metres, x right, y down, z forward.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import cv2
import numba
import numpy as np

from handmesh.geometry.rotation import rotvec_to_rotmat
from handmesh.synthetic.material import random_rgb

_HEIGHT = 384
_TILE = 16
_SEED = 20
_BOX, _BALL = 0, 1
(PLAIN, PLANKS, TILES, BRICKS, STRIPES, CLOTH, BOOKS, PAINTING, SCREEN, WINDOW, WOOD, LEAVES, FOLDS, FACADE, GRASS, PANELS) = range(16)
# Of each pattern: how fast its broad noise changes along and across, and its fine noise (0 for none); times a metre or its scale.
_GRAIN = np.full((16, 3), (1.3, 1.3, 0.0))
_GRAIN[[PLANKS, WOOD, TILES, BRICKS, CLOTH]] = (3, 40, 0), (3, 40, 0), (3, 3, 0), (20, 20, 0), (1, 1, 60)
_GRAIN[[PAINTING, WINDOW, LEAVES, FACADE, GRASS]] = (1, 1.5, 3), (2.5, 0, 9), (1, 1, 2.7), (0.3, 0.3, 0), (0.5, 0.5, 14)

_jit = numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")


@dataclass
class _Place:
    """A scene while it is being furnished.

    Attributes:
        room: (x0, x1, ceiling y, floor y, z0, z1) metres around the camera; outdoors only the floor counts.
        things: rows of shape, centre (3), half extents (3), sine and cosine of the turn about y, row of `coats`.
        coats: rows of pattern, two colours (3 + 3), scale, seed, glow.
        lights: rows of position (3), colour (3), width; the first casts shadows. Outdoors the position is a far one.
    """

    room: np.ndarray
    is_outdoor: bool = False
    things: list[list[float]] = field(default_factory=list)
    coats: list[list[float]] = field(default_factory=list)
    lights: list[list[float]] = field(default_factory=list)
    sky: np.ndarray = field(default_factory=lambda: np.zeros((4, 3)))

    def coat(self, pattern: int, first: np.ndarray, second: np.ndarray | None = None, scale: float = 1.0, glow: float = 0.0) -> int:
        self.coats.append([pattern, *first, *(first if second is None else second), scale, 7.31 * len(self.coats), glow])
        return len(self.coats) - 1

    def put(self, shape: int, centre: tuple[float, float, float], half: tuple[float, float, float], yaw: float, coat: int) -> None:
        self.things.append([shape, *centre, *half, math.sin(yaw), math.cos(yaw), coat])


def room_pictures(count: int) -> Iterator[np.ndarray]:
    """The same places every time, (H, 2H, 3) f32 linear and equirectangular: mostly rooms by day and in the evening, some outdoors."""
    makers = (_indoors, _indoors, _indoors, _outdoors)
    for k in range(count):
        yield _render(makers[k % 4](np.random.default_rng([_SEED, k])))


def _render(place: _Place) -> np.ndarray:
    """(H, 2H, 3) f32 linear, first column along +z."""
    rgb = np.empty((_HEIGHT, 2 * _HEIGHT, 3), np.float32)
    things = np.array(place.things, np.float32).reshape(-1, 10)
    # Two spheres each: as seen from the camera, and around the thing.
    reach = np.linalg.norm(things[:, 4:7], axis=1)
    distance = np.linalg.norm(things[:, 1:4], axis=1)
    near = np.where(distance > reach, np.sqrt(np.maximum(1 - (reach / np.maximum(distance, 1e-6)) ** 2, 0)), -1) - 1e-4
    cones = np.column_stack([things[:, 1:4] / np.maximum(distance, 1e-6)[:, None], near, reach]).astype(np.float32)
    lights = np.array(place.lights, np.float32)
    coats = np.array(place.coats, np.float32)
    # What glows, and what is small or flat on a wall, casts no shadow that would be missed.
    casters = np.flatnonzero((coats[things[:, 9].astype(int), 9] == 0) & (reach > 0.2) & (np.minimum(things[:, 4], things[:, 6]) > 0.035))
    _cast(place.room.astype(np.float32), place.is_outdoor, things, cones, casters, coats, lights, place.sky.astype(np.float32), rgb)
    return rgb


def _muted(rng: np.random.Generator, low: float, high: float, colour: float) -> np.ndarray:
    """(3,) linear albedo of about a brightness, its tint at most `colour`."""
    tint = rng.normal(0, 1, 3)
    # Warm and cool more than green and violet, and weak more often than strong.
    tint = np.array([1.0, 0.0, -1.0]) * tint[0] + 0.35 * np.array([-0.5, 1.0, -0.5]) * tint[1]
    return np.clip(rng.uniform(low, high) * np.exp(colour * rng.random() ** 0.7 * tint / (np.abs(tint).max() + 1e-6)), 0.01, 0.9)


def _wood(rng: np.random.Generator) -> np.ndarray:
    return np.array([0.45, 0.26, 0.12]) ** rng.uniform(0.6, 1.7) * rng.uniform(0.8, 1.2)


def _indoors(rng: np.random.Generator) -> _Place:
    width, depth, high, eye = rng.uniform(3.2, 8), rng.uniform(3.5, 9), rng.uniform(2.4, 3.4), rng.uniform(1.05, 1.6)
    across, along = rng.uniform(0.25, 0.75, 2)
    place = _Place(np.array([-across * width, (1 - across) * width, eye - high, eye, -along * depth, (1 - along) * depth]))
    wood = _wood(rng)
    floors = (
        (PLANKS, wood, 0.7 * wood, rng.uniform(0.1, 0.22)),
        (TILES, _muted(rng, 0.2, 0.6, 0.2), _muted(rng, 0.1, 0.4, 0.1), rng.uniform(0.3, 0.7)),
        (CLOTH, _muted(rng, 0.08, 0.35, 0.6), _muted(rng, 0.05, 0.3, 0.6), rng.uniform(0.2, 0.8)),
    )
    pattern, first, second, scale = floors[rng.choice(3, p=(0.5, 0.25, 0.25))]
    place.coat(pattern, first, second, scale)
    has_panels = rng.random() < 0.3
    place.coat(PANELS if has_panels else PLAIN, _muted(rng, 0.5, 0.85, 0.04), None, 0.6)
    paint = _muted(rng, 0.3, 0.8, 0.35)
    walls = (
        (PLAIN, paint, paint, 1.0),
        (STRIPES, paint, np.clip(paint * rng.uniform(0.75, 1.1), 0, 0.9), rng.uniform(0.06, 0.3)),
        (BRICKS, np.array([0.36, 0.16, 0.1]) * rng.uniform(0.7, 1.5), _muted(rng, 0.35, 0.6, 0.05), 0.24),
        (PANELS, paint, 0.8 * paint, rng.uniform(0.5, 1.2)),
    )
    for accent in (False, False, True, False):
        # One wall in four may have another paper.
        pattern, first, second, scale = walls[rng.choice(4, p=(0.25, 0.25, 0.3, 0.2)) if accent and rng.random() < 0.6 else 0]
        place.coat(pattern, first, second, scale)
    is_evening = rng.random() < 0.3
    _light_room(rng, place, is_evening)
    for wall in range(4):
        _furnish_wall(rng, place, wall)
    _furnish_floor(rng, place)
    # Walls send light back: the ambient of a room is that of its paint.
    level = 0.08 if is_evening else rng.uniform(0.10, 0.3)
    place.sky[0] = level * (0.6 + 0.4 * paint / paint.max())
    return place


def _wall_frame(place: _Place, wall: int) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Of a wall: its middle on the floor plan (x, z), the direction along it, the yaw of what stands at it and its half length."""
    x0, x1, _, _, z0, z1 = place.room
    middles = [((x0 + x1) / 2, z1), (x1, (z0 + z1) / 2), ((x0 + x1) / 2, z0), (x0, (z0 + z1) / 2)]
    # The yaw turns local z to point into the room.
    yaw = [math.pi, -math.pi / 2, 0.0, math.pi / 2][wall]
    half = (x1 - x0) / 2 if wall % 2 == 0 else (z1 - z0) / 2
    return np.array(middles[wall]), np.array([math.cos(yaw), -math.sin(yaw)]), yaw, half


def _at_wall(
    place: _Place, wall: int, along: float, away: float, height: float, half: tuple[float, float, float], coat: int, shape: int = _BOX
) -> None:
    """Put a thing at a wall: `along` it from its middle, `away` from it into the room, its middle `height` above the floor."""
    middle, side, yaw, _ = _wall_frame(place, wall)
    x, z = middle + along * side + (away + half[2]) * np.array([math.sin(yaw), math.cos(yaw)])
    place.put(shape, (x, place.room[3] - height, z), half, yaw, coat)


def _light_room(rng: np.random.Generator, place: _Place, is_evening: bool) -> None:
    """Windows, ceiling lamps, and what they send into the room."""
    ceiling, floor = place.room[2], place.room[3]
    day = np.array([0.9, 1.0, 1.15]) * (0.012 if is_evening else rng.uniform(5, 22))
    warm = np.array([1.3, 1.0, 0.6]) ** rng.uniform(0.2, 1.2)
    frame = _muted(rng, 0.4, 0.85, 0.1)
    curtain = _muted(rng, 0.2, 0.75, 0.4)
    walls = rng.permutation(4)[: rng.integers(1, 3)]
    for wall in walls:
        middle, side, yaw, half = _wall_frame(place, wall)
        wide, tall = rng.uniform(0.5, 1.1), rng.uniform(0.5, 0.8)
        sill = rng.uniform(0.15, 0.9)
        count = max(1, min(3, int(half / wide / 1.3)))
        view = place.coat(WINDOW, day, frame, rng.uniform(0.5, 1.0), 1.0)
        folds = place.coat(FOLDS, curtain, 0.7 * curtain, rng.uniform(0.08, 0.16))
        for k in range(count):
            along = (k + 0.5 - count / 2) * 2 * half / count
            up = min(sill + tall, floor - ceiling - tall - 0.1)
            _at_wall(place, wall, along, 0.0, up, (wide, tall, 0.03), view)
            if rng.random() < 0.5:
                for end in (-1, 1):
                    _at_wall(place, wall, along + end * (wide + 0.12), 0.05, up - 0.05, (0.2, tall + 0.2, 0.05), folds)
            x, z = middle + along * side + 0.35 * np.array([math.sin(yaw), math.cos(yaw)])
            if not is_evening:
                place.lights.append([x, floor - up, z, *(0.3 * day * wide * tall), 0.3 * wide])
    has_lamps = is_evening or rng.random() < 0.5
    glow = rng.uniform(15, 50) if has_lamps else 0.6
    bulb = place.coat(PLAIN, warm, None, 1.0, glow)
    shade = place.coat(CLOTH, np.array([0.8, 0.7, 0.5]), None, 1.0, 1.5 if has_lamps else 0.0)
    x0, x1, _, _, z0, z1 = place.room
    kind = rng.integers(3)
    for _ in range(2 if kind == 0 else 3 if kind == 1 else 1):
        x, z = rng.uniform(0.7 * x0, 0.7 * x1), rng.uniform(0.7 * z0, 0.7 * z1)
        if kind == 0:
            place.put(_BOX, (x, ceiling + 0.03, z), (0.08, 0.03, 0.6), 0.0, bulb)
        elif kind == 1:
            place.put(_BALL, (x, ceiling + 0.05, z), (0.11, 0.06, 0.11), 0.0, bulb)
        else:
            place.put(_BALL, (x, ceiling + 0.65, z), (0.07, 0.07, 0.07), 0.0, bulb)
            place.put(_BALL, (x, ceiling + 0.55, z), (0.24, 0.14, 0.24), 0.0, shade)
            place.put(_BOX, (x, ceiling + 0.25, z), (0.01, 0.25, 0.01), 0.0, shade)
        if has_lamps:
            place.lights.append([x, ceiling + 0.75, z, *(warm * rng.uniform(0.5, 1.1)), 0.15])
    if not place.lights:
        place.lights.append([0.0, ceiling + 0.3, 0.0, *warm, 0.3])
    if is_evening or rng.random() < 0.3:
        # A floor lamp in a corner.
        x, z = 0.85 * place.room[rng.integers(2)], 0.85 * place.room[4 + rng.integers(2)]
        lit = place.coat(CLOTH, warm, 0.9 * warm, 1.0, 8.0)
        place.put(_BALL, (x, floor - 1.5, z), (0.2, 0.17, 0.2), 0.0, lit)
        place.put(_BOX, (x, floor - 0.7, z), (0.015, 0.7, 0.015), 0.0, shade)
        place.lights.append([x, floor - 1.5, z, *(0.5 * warm), 0.2])


def _furnish_wall(rng: np.random.Generator, place: _Place, wall: int) -> None:
    half = _wall_frame(place, wall)[3]
    high = place.room[3] - place.room[2]
    wood = _wood(rng)
    timber = place.coat(WOOD, wood, 0.6 * wood, rng.uniform(0.05, 0.12))
    white = place.coat(PLAIN, _muted(rng, 0.6, 0.85, 0.04))
    _at_wall(place, wall, 0.0, 0.0, 0.05, (half, 0.05, 0.01), white)
    along = -half + rng.uniform(0.1, 0.5)
    while along < half - 0.5:
        kind = rng.choice(7, p=(0.2, 0.16, 0.18, 0.14, 0.12, 0.1, 0.1))
        wide = rng.uniform(0.4, 0.9)
        middle = along + wide
        if middle + wide > half:
            break
        if kind == 0:
            _shelf(rng, place, wall, middle, wide, min(rng.uniform(0.9, 2.1), high - 0.2), timber)
        elif kind == 1:
            coat = timber if rng.random() < 0.5 else white
            _at_wall(place, wall, middle, 0.0, 1.02, (0.47, 1.02, 0.03), coat)
            metal = place.coat(PLAIN, np.array([0.5, 0.48, 0.45]))
            _at_wall(place, wall, middle + 0.38, 0.06, 1.0, (0.06, 0.012, 0.02), metal)
        elif kind == 2:
            for _ in range(rng.integers(1, 4)):
                art = place.coat(PAINTING, _muted(rng, 0.05, 0.7, 1.0), _muted(rng, 0.05, 0.7, 1.0), rng.uniform(0.15, 0.5))
                size = rng.uniform(0.12, 0.4, 2)
                _at_wall(place, wall, middle + rng.normal(0, 0.25), 0.0, rng.uniform(1.3, 1.8), (size[0], size[1], 0.015), art)
        elif kind == 3:
            _sofa(rng, place, wall, middle, max(wide, 0.8))
        elif kind == 4:
            _plant(rng, place, wall, middle)
        elif kind == 5:
            _at_wall(place, wall, middle, 0.0, 0.45, (wide, 0.45, 0.22), timber)
            _clutter(rng, place, wall, middle, wide, 0.9, 0.2)
        else:
            _desk(rng, place, wall, middle, max(wide, 0.6), timber)
        along = middle + wide + rng.uniform(0.05, 0.7)


def _shelf(rng: np.random.Generator, place: _Place, wall: int, middle: float, wide: float, tall: float, timber: int) -> None:
    boards = max(2, int(tall / 0.36))
    back = place.coat(PLAIN, _muted(rng, 0.1, 0.6, 0.2))
    _at_wall(place, wall, middle, 0.0, tall / 2, (wide, tall / 2, 0.01), back)
    for end in (-1, 1):
        _at_wall(place, wall, middle + end * wide, 0.0, tall / 2, (0.015, tall / 2, 0.15), timber)
    for k in range(boards + 1):
        height = k * tall / boards
        _at_wall(place, wall, middle, 0.0, height, (wide, 0.012, 0.15), timber)
        if k < boards and rng.random() < 0.85:
            books = place.coat(BOOKS, _muted(rng, 0.1, 0.5, 0.5), None, rng.uniform(0.025, 0.045))
            share, size = rng.uniform(0.4, 0.95), rng.uniform(0.11, 0.14)
            _at_wall(
                place,
                wall,
                middle + (1 - share) * wide * rng.choice([-0.9, 0.9]),
                0.02,
                height + 0.012 + size,
                (share * wide, size, 0.1),
                books,
            )


def _sofa(rng: np.random.Generator, place: _Place, wall: int, middle: float, wide: float) -> None:
    rgb = _muted(rng, 0.05, 0.5, 0.7)
    cloth = place.coat(CLOTH, rgb, 0.85 * rgb, 0.05)
    _at_wall(place, wall, middle, 0.1, 0.22, (wide, 0.22, 0.42), cloth)
    _at_wall(place, wall, middle, 0.1, 0.55, (wide, 0.3, 0.12), cloth)
    for end in (-1, 1):
        _at_wall(place, wall, middle + end * wide, 0.1, 0.3, (0.11, 0.3, 0.44), cloth)
    for _ in range(rng.integers(1, 4)):
        pillow = place.coat(STRIPES, _muted(rng, 0.1, 0.7, 1.0), _muted(rng, 0.1, 0.7, 1.0), rng.uniform(0.05, 0.15))
        _at_wall(place, wall, middle + rng.uniform(-0.8, 0.8) * wide, 0.25, 0.62, (0.22, 0.2, 0.1), pillow, _BALL)


def _plant(rng: np.random.Generator, place: _Place, wall: int, middle: float) -> None:
    pot = place.coat(PLAIN, _muted(rng, 0.1, 0.6, 0.6))
    green = np.array([0.06, 0.2, 0.04]) * rng.uniform(0.6, 1.6)
    leaves = place.coat(LEAVES, green, 1.8 * green, rng.uniform(0.04, 0.1))
    tall = rng.uniform(0.5, 1.6)
    _at_wall(place, wall, middle, 0.15, 0.18, (0.16, 0.18, 0.16), pot)
    _at_wall(place, wall, middle, 0.3, tall / 2, (0.015, tall / 2, 0.015), pot)
    for _ in range(5):
        size = rng.uniform(0.14, 0.32)
        _at_wall(
            place, wall, middle + rng.normal(0, 0.15), rng.uniform(0.0, 0.3), tall + rng.normal(0, 0.18), (size, size, size), leaves, _BALL
        )


def _desk(rng: np.random.Generator, place: _Place, wall: int, middle: float, wide: float, timber: int) -> None:
    _at_wall(place, wall, middle, 0.02, 0.73, (wide, 0.02, 0.36), timber)
    for end in (-1, 1):
        _at_wall(place, wall, middle + end * (wide - 0.04), 0.04, 0.36, (0.025, 0.36, 0.34), timber)
    dark = place.coat(PLAIN, np.full(3, rng.uniform(0.02, 0.2)))
    screen = place.coat(SCREEN, _muted(rng, 0.4, 0.8, 0.3), _muted(rng, 0.05, 0.5, 0.8), 0.1, rng.uniform(0.8, 2.5))
    at = middle + rng.uniform(-0.2, 0.2) * wide
    _at_wall(place, wall, at, 0.12, 1.12, (0.29, 0.18, 0.015), dark)
    _at_wall(place, wall, at, 0.151, 1.12, (0.275, 0.165, 0.002), screen)
    _at_wall(place, wall, at, 0.12, 0.85, (0.03, 0.1, 0.02), dark)
    _at_wall(place, wall, at, 0.42, 0.765, (0.21, 0.01, 0.07), place.coat(TILES, np.full(3, 0.08), np.full(3, 0.3), 0.02))
    _clutter(rng, place, wall, middle, wide, 0.75, 0.3)
    # A chair before it.
    seat = place.coat(CLOTH, _muted(rng, 0.03, 0.4, 0.6), None, 0.05)
    off = rng.uniform(-0.3, 0.3)
    _at_wall(place, wall, middle + off, 0.6, 0.48, (0.23, 0.04, 0.23), seat)
    _at_wall(place, wall, middle + off, 1.05, 0.82, (0.22, 0.25, 0.03), seat)
    _at_wall(place, wall, middle + off, 0.8, 0.22, (0.03, 0.22, 0.03), dark)


def _clutter(rng: np.random.Generator, place: _Place, wall: int, middle: float, wide: float, height: float, deep: float) -> None:
    """Small things that lie and stand on something."""
    for _ in range(rng.integers(3, 8)):
        coat = place.coat(PLAIN, _muted(rng, 0.03, 0.75, 1.0))
        half = rng.uniform(0.02, 0.12, 3) * (1, 1, 0.6)
        if rng.random() < 0.4:
            half[1] = 0.015
        shape = _BALL if rng.random() < 0.25 else _BOX
        at, away = middle + rng.uniform(-0.9, 0.9) * wide, rng.uniform(0.0, deep)
        _at_wall(place, wall, at, away, height + half[1], (half[0], half[1], half[2]), coat, shape)


def _furnish_floor(rng: np.random.Generator, place: _Place) -> None:
    """A rug, a table with things on it, chairs."""
    x0, x1, _, floor, z0, z1 = place.room
    wood = _wood(rng)
    timber = place.coat(WOOD, wood, 0.6 * wood, rng.uniform(0.05, 0.12))
    if rng.random() < 0.5:
        rug = place.coat(
            TILES if rng.random() < 0.5 else STRIPES, _muted(rng, 0.05, 0.5, 1.0), _muted(rng, 0.05, 0.6, 1.0), rng.uniform(0.1, 0.4)
        )
        place.put(_BOX, (rng.uniform(0.5 * x0, 0.5 * x1), floor, rng.uniform(0.5 * z0, 0.5 * z1)), (1.1, 0.01, 0.8), rng.uniform(0, 3), rug)
    for _ in range(rng.integers(1, 3)):
        angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(0.95, 1.7)
        x = float(np.clip(far * math.sin(angle), x0 + 0.6, x1 - 0.6))
        z = float(np.clip(far * math.cos(angle), z0 + 0.6, z1 - 0.6))
        if x * x + z * z < 0.8:
            continue
        yaw = rng.uniform(0, np.pi)
        high = rng.choice([0.45, 0.74])
        wide, deep = rng.uniform(0.35, 0.6), rng.uniform(0.3, 0.45)
        place.put(_BOX, (x, floor - high, z), (wide, 0.02, deep), yaw, timber)
        for sx in (-1, 1):
            for sz in (-1, 1):
                lx, lz = sx * (wide - 0.05), sz * (deep - 0.05)
                leg = (x + math.cos(yaw) * lx + math.sin(yaw) * lz, floor - high / 2, z - math.sin(yaw) * lx + math.cos(yaw) * lz)
                place.put(_BOX, leg, (0.025, high / 2, 0.025), yaw, timber)
        for _ in range(rng.integers(2, 7)):
            half = rng.uniform(0.02, 0.1, 3)
            coat = place.coat(PLAIN, _muted(rng, 0.03, 0.75, 1.0))
            at = (x + rng.uniform(-0.25, 0.25), floor - high - 0.02 - half[1], z + rng.uniform(-0.25, 0.25))
            place.put(_BALL if rng.random() < 0.3 else _BOX, at, (half[0], half[1], half[2]), rng.uniform(0, 3), coat)


def _outdoors(rng: np.random.Generator) -> _Place:
    eye = rng.uniform(1.3, 1.7)
    place = _Place(np.array([-1e4, 1e4, -1e4, eye, -1e4, 1e4]), is_outdoor=True)
    is_town = rng.random() < 0.5
    stone = _muted(rng, 0.2, 0.45, 0.1)
    if is_town:
        place.coat(TILES, stone, 0.7 * stone, rng.uniform(0.3, 0.9))
    else:
        green = np.array([0.1, 0.17, 0.05]) * rng.uniform(0.7, 1.4)
        place.coat(GRASS, green, np.array([0.2, 0.17, 0.08]), rng.uniform(0.5, 2.0))
    height, heading = np.radians(rng.uniform(8, 65)), rng.uniform(0, 2 * np.pi)
    sun = np.array([np.cos(height) * np.sin(heading), -np.sin(height), np.cos(height) * np.cos(heading)])
    is_cloudy = rng.random() < 0.3
    strength = 0.0 if is_cloudy else rng.uniform(1.5, 3.5)
    colour = np.array([1.0, 0.93, 0.8]) ** (0.5 / np.sin(height))
    place.lights.append([*(1000 * sun), *(strength * colour), 5.0])
    zenith = np.array([0.75, 0.8, 0.85]) if is_cloudy else np.array([0.22, 0.42, 0.85]) * rng.uniform(0.7, 1.2)
    horizon = np.array([0.8, 0.85, 0.9]) * (0.6 + 0.4 * colour)
    hills = np.array([0.1, 0.16, 0.08]) * rng.uniform(0.6, 1.2)
    place.sky = np.stack([zenith, horizon, hills, np.array([rng.uniform(0.1, 0.9), rng.uniform(0.02, 0.15), 0.0 if is_cloudy else 1.0])])
    bark = place.coat(WOOD, np.array([0.14, 0.1, 0.07]), np.array([0.07, 0.05, 0.03]), 0.1)
    for _ in range(rng.integers(3, 8) if is_town else rng.integers(10, 24)):
        angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(3, 20)
        x, z, tall = far * math.sin(angle), far * math.cos(angle), rng.uniform(1.8, 4)
        green = np.array([0.07, 0.16, 0.03]) * rng.uniform(0.6, 1.7) * np.array([rng.uniform(0.8, 2.0), 1, 1])
        leaves = place.coat(LEAVES, green, 1.7 * green, rng.uniform(0.12, 0.3))
        place.put(_BOX, (x, eye - tall / 2, z), (0.12, tall / 2, 0.12), rng.uniform(0, 3), bark)
        for _ in range(4):
            size = rng.uniform(0.7, 1.5)
            shift = rng.normal(0, 0.6, 3)
            place.put(_BALL, (x + shift[0], eye - tall - 0.4 + shift[1], z + shift[2]), (size, 0.8 * size, size), 0.0, leaves)
    if is_town:
        for k in range(rng.integers(5, 9)):
            angle = 2 * np.pi * k / 8 + rng.normal(0, 0.15)
            far, wide, tall = rng.uniform(9, 22), rng.uniform(3, 6), rng.uniform(3, 9)
            front = place.coat(
                FACADE, _muted(rng, 0.2, 0.6, 0.3) * np.array([1.1, 1.0, 0.88]), _muted(rng, 0.02, 0.15, 0.3), rng.uniform(1.6, 3.0)
            )
            place.put(
                _BOX, (far * math.sin(angle), eye - tall, far * math.cos(angle)), (wide, tall, wide), angle + rng.normal(0, 0.2), front
            )
    for _ in range(rng.integers(2, 7)):
        # Benches, walls, cars: long boxes.
        angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(2.5, 8)
        half = (rng.uniform(0.4, 1.9), rng.uniform(0.2, 0.6), rng.uniform(0.2, 0.7))
        hedge = np.array([0.06, 0.13, 0.03]) * rng.uniform(0.7, 1.5)
        if rng.random() < 0.5:
            coat = place.coat(GRASS, hedge, 0.5 * hedge, 0.2)
        else:
            coat = place.coat(PANELS if rng.random() < 0.5 else WOOD, _muted(rng, 0.05, 0.6, 0.6), _muted(rng, 0.05, 0.4, 0.3), 0.3)
        place.put(_BOX, (far * math.sin(angle), eye - half[1], far * math.cos(angle)), half, rng.uniform(0, 3), coat)
    return place


def table_top(look: np.random.Generator, width_px: int, height_px: int, skin_rgb: np.ndarray) -> np.ndarray:
    """A wall, floor, cloth or table seen from near by, with things on it or without.

    Args:
        skin_rgb: (3,) linear albedo that some of the things have.

    Returns:
        (H, W, 3) f32 linear, brightest 1.
    """
    first, wood = random_rgb(look), _wood(look)
    # Large areas have weaker colours than small things.
    first = first + look.uniform(0.2, 0.8) * (first.mean() - first)
    second = np.clip(first * look.uniform(0.6, 1.5) if look.random() < 0.7 else random_rgb(look), 0.01, 0.9)
    coats = (
        (WOOD, wood, 0.6 * wood, look.uniform(0.05, 0.15)),
        (PLAIN, first, first, 1.0),
        (CLOTH, first, second, look.uniform(0.02, 0.3)),
        (FOLDS, first, 0.6 * first, look.uniform(0.06, 0.25)),
        (PLANKS, wood, 0.6 * wood, look.uniform(0.1, 0.2)),
        (TILES, first, second, look.uniform(0.05, 0.3)),
        (STRIPES, first, second, look.uniform(0.01, 0.08)),
        (GRASS, np.array([0.1, 0.17, 0.05]), np.array([0.2, 0.17, 0.08]), 0.3),
        (BRICKS, np.array([0.36, 0.16, 0.1]), np.array([0.45, 0.44, 0.42]), 0.22),
        (BOOKS, first, first, look.uniform(0.02, 0.04)),
    )
    pattern, one, other, scale = coats[look.choice(len(coats), p=(0.22, 0.22, 0.14, 0.1, 0.06, 0.06, 0.04, 0.04, 0.06, 0.06))]
    coat = np.array([pattern, *one, *other, scale, look.integers(1000), 0.0], np.float32)
    # Walls are seen straight on, table tops aslant; the farthest row stays below the horizon.
    slant = 0.0 if pattern in (BRICKS, BOOKS) or look.random() < 0.3 else look.uniform(0.2, 0.95)
    R_plane_camera = rotvec_to_rotmat(np.array([-slant, 0.0, 0.0])) @ rotvec_to_rotmat(np.array([0.0, 0.0, look.normal(0, 0.15)]))
    distance_m, focal_px = look.uniform(0.35, 1.2), height_px * look.uniform(1.3, 2.5)
    # Half the pixels are enough for what is mostly out of focus.
    small = np.empty(((height_px + 1) // 2, (width_px + 1) // 2, 3), np.float32)
    lit = np.array([*look.normal(0, 0.35, 2), *look.normal(0, 0.3, 2)], np.float32)
    _paint_plane(coat, R_plane_camera.astype(np.float32), np.float32(distance_m), np.float32(focal_px / 2), lit, small)
    # Square roots are near enough to what is seen for edges to look smooth, which cv2 does on bytes alone.
    picture = cv2.resize(np.sqrt(np.clip(small, 0, 1)) * np.float32(255), (width_px, height_px), interpolation=cv2.INTER_LINEAR).astype(
        np.uint8
    )
    if pattern not in (BRICKS, BOOKS, GRASS) and look.random() < 0.75:
        for _ in range(look.integers(1, 7)):
            _lay(look, picture, skin_rgb)
    return np.square(picture.astype(np.float32) / np.float32(255))


def _lay(look: np.random.Generator, picture: np.ndarray, skin_rgb: np.ndarray) -> None:
    """Draw a paper, keyboard, phone, cup, pen, pebble or patch of skin, with a shadow, onto square-root bytes."""
    height, width = picture.shape[:2]
    unit, turn = height / 2, look.uniform(0, 2 * np.pi)
    middle = look.uniform(-0.1, 1.1, 2) * (width, height)
    side, up = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])

    def corners(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
        at = middle + np.array([[x0], [x1], [x1], [x0]]) * side + np.array([[y0], [y0], [y1], [y1]]) * up
        return np.round(16 * at).astype(np.int32)

    def fill(points: np.ndarray, rgb: np.ndarray) -> None:
        cv2.fillConvexPoly(picture, points, tuple((255 * np.sqrt(np.clip(rgb, 0, 1))).tolist()), cv2.LINE_AA, 4)

    kind = look.choice(6, p=(0.24, 0.14, 0.16, 0.2, 0.12, 0.14))
    half = unit * look.uniform(0.2, 0.7) * np.array([1.0, look.uniform(0.5, 1.0)])
    rgb = skin_rgb * look.uniform(0.5, 1.2) if look.random() < 0.15 else random_rgb(look)
    shadow = 0.3 * picture[min(max(int(middle[1]), 0), height - 1), min(max(int(middle[0]), 0), width - 1)].astype(float) ** 2 / 255**2
    if kind == 3 or kind == 5:
        # Cups from above, plates, pebbles.
        squeeze = (float(half[0]), float(half[0] * look.uniform(0.6, 1.0))) if kind == 3 else (float(half[0]), float(half[1]))
        for shift, size, colour in ((0.06 * unit, 1.03, shadow), (0.0, 1.0, rgb), (0.0, 0.8, rgb * look.uniform(0.4, 1.3))):
            at = tuple(np.round(16 * (middle + shift)).astype(int).tolist())
            axes = tuple(round(8 * size * part) for part in squeeze)
            colour = tuple((255 * np.sqrt(np.clip(colour, 0, 1))).tolist())
            cv2.ellipse(picture, at, axes, float(np.degrees(turn)), 0, 360, colour, -1, cv2.LINE_AA, 4)
        return
    if kind == 4:
        half[1] = unit * look.uniform(0.015, 0.05)
    off = 0.04 * unit
    fill(corners(-half[0] + off, -half[1] + off, half[0] + off, half[1] + off), shadow)
    if kind == 0:
        fill(corners(-half[0], -half[1], half[0], half[1]), np.full(3, look.uniform(0.5, 0.85)))
        ink, line = np.full(3, look.uniform(0.02, 0.3)), look.uniform(0.05, 0.09) * unit
        for k in range(1, int(2 * half[1] / line) - 1):
            y = -half[1] + k * line
            fill(corners(-0.85 * half[0], y, look.uniform(-0.3, 0.85) * half[0], y + 0.35 * line), ink)
    elif kind == 1:
        dark, key = look.uniform(0.01, 0.4), look.uniform(0.09, 0.14) * unit
        half = np.array([10.4 * key, 2.7 * key]) / 2 * look.uniform(0.8, 1.6)
        fill(corners(-half[0], -half[1], half[0], half[1]), np.full(3, dark))
        for row in range(int(2 * half[1] / key)):
            for column in range(int(2 * half[0] / key)):
                x, y = -half[0] + (column + 0.1) * key, -half[1] + (row + 0.1) * key
                fill(corners(x, y, x + 0.8 * key, y + 0.8 * key), np.full(3, 0.6 * dark if dark > 0.15 else 2 * dark + 0.03))
    else:
        fill(corners(-half[0], -half[1], half[0], half[1]), rgb)
        if kind == 2:
            fill(corners(-0.9 * half[0], -0.85 * half[1], 0.9 * half[0], 0.85 * half[1]), random_rgb(look))


@_jit
def _paint_plane(coat, R_plane_camera, distance_m, focal_px, lit, picture):
    """A coat on a plane across the view at `distance_m`: (H, W, 3) f32; `lit` are slopes of its light across and down, and of its tint."""
    height, width = picture.shape[0], picture.shape[1]
    middle_x, middle_y = 0.5 * (width - 1), 0.5 * (height - 1)
    colour = np.empty(3)
    big = np.float32(1e3)
    for y in range(height):
        for x in range(width):
            cx, cy = (x - middle_x) / focal_px, (y - middle_y) / focal_px
            px = R_plane_camera[0, 0] * cx + R_plane_camera[0, 1] * cy + R_plane_camera[0, 2]
            py = R_plane_camera[1, 0] * cx + R_plane_camera[1, 1] * cy + R_plane_camera[1, 2]
            pz = R_plane_camera[2, 0] * cx + R_plane_camera[2, 1] * cy + R_plane_camera[2, 2]
            far = distance_m / max(pz, np.float32(0.1))
            half_v = np.float32(0.15) if coat[0] == BOOKS else big
            v = far * py
            if coat[0] == BOOKS:
                v -= np.float32(0.3) * math.floor(v / np.float32(0.3) + np.float32(0.5))
            _paint(coat, far * px, v, big, half_v, colour)
            a, b = (x - middle_x) / middle_y, (y - middle_y) / middle_y
            for k in range(3):
                picture[y, x, k] = colour[k] * max(
                    1 + lit[0] * a + lit[1] * b + (k - 1) * np.float32(0.1) * (lit[2] * a + lit[3] * b), 0.15
                )


@_jit
def _chance(x, y, z):
    """An even number of 0..1 for each cell of whole numbers."""
    n = np.uint32(np.int64(x) * 73856093 + np.int64(y) * 19349663 + np.int64(z) * 83492791)
    n = (n ^ (n >> np.uint32(15))) * np.uint32(2246822519)
    n = np.uint32(n) ^ (np.uint32(n) >> np.uint32(13))
    n = np.uint32(n * np.uint32(3266489917))
    n = n ^ (n >> np.uint32(16))
    return np.float32(n & np.uint32(0xFFFF)) / np.float32(65535.0)


@_jit
def _clouds(x, y, z):
    """Smooth noise of 0..1 in the plane, one sheet for each whole z."""
    ix, iy = math.floor(x), math.floor(y)
    fx, fy = x - ix, y - iy
    fx, fy = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy)
    low = _chance(ix, iy, z) * (1 - fx) + _chance(ix + 1, iy, z) * fx
    high = _chance(ix, iy + 1, z) * (1 - fx) + _chance(ix + 1, iy + 1, z) * fx
    return low * (1 - fy) + high * fy


@_jit
def _rough(x, y, z):
    """Three octaves of noise, 0..1."""
    return 0.55 * _clouds(x, y, z) + 0.3 * _clouds(2.1 * x, 2.1 * y, z + 1) + 0.15 * _clouds(4.3 * x, 4.3 * y, z + 2)


@_jit
def _paint(coat, u, v, half_u, half_v, out):
    """Colour of a coat at (u, v) metres from the middle of a face of half extents (half_u, half_v); `out` (3,)."""
    pattern, scale, seed = int(coat[0]), coat[7], int(coat[8])
    mix, dark = 0.0, 1.0
    per_m = 1 / scale if pattern in (CLOTH, PAINTING, LEAVES, GRASS) else 1.0
    broad = _rough(_GRAIN[pattern, 0] * per_m * u + 5, _GRAIN[pattern, 1] * per_m * v + 9, seed)
    fine = 0.5
    if _GRAIN[pattern, 2] > 0:
        # Threads and blades have a size of their own.
        per_m = 1.0 if pattern in (CLOTH, GRASS) else per_m
        fine = _rough(_GRAIN[pattern, 2] * per_m * u, _GRAIN[pattern, 2] * per_m * v, seed + 5)
    if pattern == PLAIN:
        dark = 0.9 + 0.2 * broad
    elif pattern in (PLANKS, WOOD):
        row = math.floor(v / scale)
        shift = 3 * _chance(row, 0, seed)
        length = 1.1 if pattern == PLANKS else 40.0
        board = math.floor(u / length + shift)
        mix = 0.6 * _chance(row, board, seed) + 0.5 * (broad - 0.4)
        if pattern == PLANKS:
            edge_v, edge_u = v / scale - row, u / length + shift - board
            if edge_v < 0.04 or edge_u < 0.006:
                dark = 0.45
    elif pattern == TILES:
        a, b = u / scale, v / scale
        ia, ib = math.floor(a), math.floor(b)
        dark = 0.88 + 0.24 * _chance(ia, ib, seed)
        mix = 1.0 if a - ia < 0.04 or b - ib < 0.04 else 0.2 * broad
    elif pattern == BRICKS:
        b = v / (0.32 * scale)
        ib = math.floor(b)
        a = u / scale + 0.5 * (ib & 1)
        ia = math.floor(a)
        dark = 0.7 + 0.55 * _chance(ia, ib, seed) + 0.2 * (broad - 0.5)
        mix = 1.0 if a - ia < 0.05 or b - ib < 0.14 else 0.0
    elif pattern == STRIPES:
        a = u / scale
        mix = 1.0 if a - math.floor(a) < 0.5 else 0.0
        dark = 0.95 + 0.1 * broad
    elif pattern == CLOTH:
        mix = 0.7 * broad
        dark = 0.75 + 0.5 * fine
    elif pattern == BOOKS:
        a = u / scale + 1.2 * _clouds(u / scale, 0.0, seed)
        ia = math.floor(a)
        tall = 0.6 + 0.4 * _chance(ia, 1, seed)
        if (half_v - v) / (2 * half_v) > tall or a - ia < 0.08:
            out[0] = out[1] = out[2] = 0.015
            return
        hue = 6 * _chance(ia, 2, seed)
        grey, value = _chance(ia, 3, seed), 0.06 + 0.5 * _chance(ia, 4, seed) ** 2
        for k in range(3):
            pure = min(max(abs((hue + 4 * k) % 6 - 3) - 1, 0.0), 1.0)
            out[k] = value * (1 - 0.75 * grey * (1 - pure))
        band = v / half_v
        if abs(band - 0.4 * _chance(ia, 5, seed)) < 0.08:
            for k in range(3):
                out[k] = 0.6 - 0.5 * out[k]
        return
    elif pattern == PAINTING:
        rim = min(half_u - abs(u), half_v - abs(v))
        if rim < 0.02:
            out[0], out[1], out[2] = 0.08, 0.06, 0.04
            return
        if rim < 0.05:
            out[0] = out[1] = out[2] = 0.75
            return
        mix = 1.0 if broad > 0.5 + 0.3 * v / half_v else 0.0
        mix = 0.75 * mix + 0.25 * fine
        dark = 1.3 - 0.6 * fine
    elif pattern == SCREEN:
        row, part = math.floor(v / 0.018), math.floor(u / 0.13)
        line = 0.02 + 0.11 * _chance(row, part, seed)
        is_text = (row & 1) == 0 and u - 0.13 * part < line and abs(u) < 0.9 * half_u
        mix = 0.8 if is_text else 0.0
        if v < -0.88 * half_v or u < -half_u + 0.12 * half_u * (seed % 4):
            mix = 1.0
    elif pattern == WINDOW:
        rim = min(half_u - abs(u), half_v - abs(v))
        bar = min(abs(u - 2 * half_u * scale + half_u), abs(u))
        if rim < 0.06 or bar < 0.025 or (scale > 0.75 and abs(v + 0.2 * half_v) < 0.02):
            for k in range(3):
                out[k] = coat[4 + k] * 0.25
            return
        # Sky above, something green or built below.
        skyline = 0.35 + 0.5 * (broad - 0.5)
        level = 1.0 - 0.25 * (v / half_v)
        if v > skyline * half_v:
            level = 0.12 + 0.35 * fine
            out[0], out[1], out[2] = coat[1] * level, coat[2] * level * 1.05, coat[3] * level * 0.6
            return
        dark = level
    elif pattern == LEAVES:
        mix = broad
        dark = 0.35 + 1.1 * fine**1.5
    elif pattern == FOLDS:
        wave = math.sin(2 * math.pi * (u / scale + 0.6 * _clouds(2 * u, 0.7 * v, seed)))
        dark = 0.75 + 0.25 * wave
        mix = 0.5 - 0.5 * wave
    elif pattern == FACADE:
        a, b = u / scale, v / (1.1 * scale)
        ia, ib = math.floor(a), math.floor(b)
        fa, fb = a - ia, b - ib
        dark = 0.85 + 0.3 * broad
        if 0.28 < fa < 0.72 and 0.25 < fb < 0.8:
            mix = 1.0
            dark = 0.5 + 2.5 * _chance(ia, ib, seed) ** 3
        elif 0.24 < fa < 0.76 and 0.21 < fb < 0.84:
            dark = 1.4
    elif pattern == GRASS:
        mix = min(max(2.2 * broad - 0.8, 0.0), 1.0)
        dark = 0.55 + 0.9 * fine
    elif pattern == PANELS:
        a, b = u / scale, v / scale
        fa, fb = a - math.floor(a), b - math.floor(b)
        dark = 0.6 if fa < 0.02 or fb < 0.02 else 0.95 + 0.1 * broad
    for k in range(3):
        out[k] = max((coat[1 + k] * (1 - mix) + coat[4 + k] * mix) * dark, 0.003)


@_jit
def _meet(thing, ox, oy, oz, dx, dy, dz):
    """Where a ray enters a box or ellipsoid: distance (negative for a miss) and the axis of the face, 3 for a ball."""
    s, c = thing[7], thing[8]
    px, py, pz = ox - thing[1], oy - thing[2], oz - thing[3]
    lx, ly, lz = (c * px - s * pz) / thing[4], py / thing[5], (s * px + c * pz) / thing[6]
    ex, ey, ez = (c * dx - s * dz) / thing[4], dy / thing[5], (s * dx + c * dz) / thing[6]
    if thing[0] == _BALL:
        a, b = ex * ex + ey * ey + ez * ez, lx * ex + ly * ey + lz * ez
        root = b * b - a * (lx * lx + ly * ly + lz * lz - 1)
        return (-(b + math.sqrt(root)) / a if root > 0 else -1.0), 3
    tiny = np.float32(1e-9)
    ex, ey, ez = (ex if abs(ex) > tiny else tiny), (ey if abs(ey) > tiny else tiny), (ez if abs(ez) > tiny else tiny)
    x0, x1 = -lx / ex - abs(1 / ex), -lx / ex + abs(1 / ex)
    y0, y1 = -ly / ey - abs(1 / ey), -ly / ey + abs(1 / ey)
    z0, z1 = -lz / ez - abs(1 / ez), -lz / ez + abs(1 / ez)
    enter, leave = max(x0, y0, z0), min(x1, y1, z1)
    if enter > leave:
        return -1.0, 0
    return enter, (0 if enter == x0 else 1 if enter == y0 else 2)


@_jit
def _is_hole(coat, x, y, z):
    """Between leaves there is air."""
    if int(coat[0]) != LEAVES:
        return False
    scale = coat[7]
    return 0.5 * _clouds((x + z) / scale, y / scale, int(coat[8])) + 0.5 * _clouds((x - z) / scale, 1.3 * y / scale, int(coat[8]) + 1) > 0.5


@_jit
def _cast(room, is_outdoor, things, cones, casters, coats, lights, sky, rgb):
    """Fill (H, 2H, 3) with what the camera at the origin sees all around."""
    height, width = rgb.shape[0], rgb.shape[1]
    colour = np.empty(3)
    lons = (np.arange(width) + 0.5) / width * 2 * math.pi
    sin_lon, cos_lon = np.sin(lons).astype(np.float32), np.cos(lons).astype(np.float32)
    # What a tile of the picture may show, so that few things are tried for each pixel.
    listed = np.empty(len(things), np.int64)
    wide = np.float32(0.72 * _TILE / height * math.pi)
    for tile in range((height // _TILE) * (width // _TILE)):
        top, left = _TILE * (tile // (width // _TILE)), _TILE * (tile % (width // _TILE))
        lat, lon = (top + 0.5 * _TILE) / height * math.pi - math.pi / 2, (left + 0.5 * _TILE) / width * 2 * math.pi
        dx, dy, dz = np.float32(math.cos(lat) * math.sin(lon)), np.float32(math.sin(lat)), np.float32(math.cos(lat) * math.cos(lon))
        count = 0
        for i in range(len(things)):
            angle = math.acos(min(max(cones[i, 3], np.float32(-1)), np.float32(1))) + wide
            if angle > math.pi or dx * cones[i, 0] + dy * cones[i, 1] + dz * cones[i, 2] >= math.cos(angle):
                listed[count] = i
                count += 1
        for pixel in range(_TILE * _TILE):
            row, column = top + pixel // _TILE, left + pixel % _TILE
            lat = (row + 0.5) / height * math.pi - math.pi / 2
            flat = np.float32(math.cos(lat))
            dx, dy, dz = flat * sin_lon[column], np.float32(math.sin(lat)), flat * cos_lon[column]
            lon = lons[column]
            # The shell.
            best, hit, axis = np.float32(1e9), -1, 1
            if is_outdoor:
                if dy > 1e-4:
                    best = room[3] / dy
            else:
                tx = (room[1] if dx > 0 else room[0]) / (dx if abs(dx) > 1e-9 else np.float32(1e-9))
                ty = (room[3] if dy > 0 else room[2]) / (dy if abs(dy) > 1e-9 else np.float32(1e-9))
                tz = (room[5] if dz > 0 else room[4]) / (dz if abs(dz) > 1e-9 else np.float32(1e-9))
                best = min(tx, ty, tz)
                axis = 0 if best == tx else 1 if best == ty else 2
            for n in range(count):
                i = listed[n]
                if dx * cones[i, 0] + dy * cones[i, 1] + dz * cones[i, 2] < cones[i, 3]:
                    continue
                t, face = _meet(things[i], np.float32(0), np.float32(0), np.float32(0), dx, dy, dz)
                if 1e-3 < t < best and not _is_hole(coats[int(things[i, 9])], t * dx, t * dy, t * dz):
                    best, hit, axis = np.float32(t), i, face
            if best > 1e8:
                _heaven(dx, dy, dz, lon, sky, lights, colour)
                for k in range(3):
                    rgb[row, column, k] = colour[k]
                continue
            x, y, z = best * dx, best * dy, best * dz
            near_corner = np.float32(1.0)
            if hit >= 0:
                thing = things[hit]
                coat = coats[int(thing[9])]
                s, c = thing[7], thing[8]
                px, py, pz = x - thing[1], y - thing[2], z - thing[3]
                lx, lz = c * px - s * pz, s * px + c * pz
                mx, my, mz = np.float32(0), np.float32(0), np.float32(0)
                if axis == 0:
                    u, v, half_u, half_v = lz, py, thing[6], thing[5]
                    mx = np.float32(1 if lx > 0 else -1)
                elif axis == 1:
                    u, v, half_u, half_v = lx, lz, thing[4], thing[6]
                    my = np.float32(1 if py > 0 else -1)
                elif axis == 2:
                    u, v, half_u, half_v = lx, py, thing[4], thing[5]
                    mz = np.float32(1 if lz > 0 else -1)
                else:
                    u, v, half_u, half_v = lx + np.float32(0.6) * lz, py, thing[4], thing[5]
                    mx, my, mz = lx / thing[4] ** 2, py / thing[5] ** 2, lz / thing[6] ** 2
                    norm = 1 / math.sqrt(mx * mx + my * my + mz * mz + 1e-12)
                    mx, my, mz = mx * norm, my * norm, mz * norm
                nx, ny, nz = c * mx + s * mz, my, -s * mx + c * mz
                near_corner = np.float32(0.55 + 0.45 * min(1.0, (room[3] - y) / 0.3 + 0.25))
            else:
                nx, ny, nz = np.float32(0), np.float32(0), np.float32(0)
                half_u = half_v = np.float32(1e3)
                if axis == 1:
                    coat = coats[0 if dy > 0 or is_outdoor else 1]
                    u, v = x, z
                    ny = np.float32(-1 if dy > 0 else 1)
                    edge = min(min(x - room[0], room[1] - x), min(z - room[4], room[5] - z))
                elif axis == 0:
                    coat = coats[2 if dx > 0 else 3]
                    u, v = z, y
                    nx = np.float32(-1 if dx > 0 else 1)
                    edge = min(min(y - room[2], room[3] - y), min(z - room[4], room[5] - z))
                else:
                    coat = coats[4 if dz > 0 else 5]
                    u, v = x, y
                    nz = np.float32(-1 if dz > 0 else 1)
                    edge = min(min(y - room[2], room[3] - y), min(x - room[0], room[1] - x))
                near_corner = np.float32(1 - 0.4 * math.exp(-edge / 0.25))
            _paint(coat, u, v, half_u, half_v, colour)
            glow = coat[9]
            if glow > 0:
                for k in range(3):
                    rgb[row, column, k] = colour[k] * glow
                continue
            sky_share = np.float32((0.7 - 0.3 * ny) * near_corner)
            for k in range(3):
                rgb[row, column, k] = sky_share * (0.9 * sky[0, k] if is_outdoor else sky[0, k])
            for i in range(len(lights)):
                qx, qy, qz = lights[i, 0] - x, lights[i, 1] - y, lights[i, 2] - z
                far = math.sqrt(qx * qx + qy * qy + qz * qz)
                lambert = (nx * qx + ny * qy + nz * qz) / far
                if hit >= 0 and axis == 3:
                    lambert = 0.8 * lambert + 0.2
                if lambert <= 0:
                    continue
                strength = lambert if is_outdoor else lambert / (0.4 + far * far)
                if i == 0:
                    # The edge of a shadow is soft: each pixel sees another point of the lamp.
                    qx += lights[i, 6] * (_chance(column, row, 1) - np.float32(0.5))
                    qy += lights[i, 6] * (_chance(column, row, 2) - np.float32(0.5))
                    qz += lights[i, 6] * (_chance(column, row, 3) - np.float32(0.5))
                    qx, qy, qz = np.float32(qx / far), np.float32(qy / far), np.float32(qz / far)
                    # A thing right before a lamp is smaller than it and does not take all of its light.
                    reach_m = 0.98 * far if is_outdoor else far - np.float32(0.7)
                    for j in casters:
                        ax, ay, az = things[j, 1] - x, things[j, 2] - y, things[j, 3] - z
                        along = ax * qx + ay * qy + az * qz
                        radius = cones[j, 4]
                        if along < -radius or ax * ax + ay * ay + az * az - along * along > radius * radius or j == hit:
                            continue
                        t, _ = _meet(things[j], x, y, z, qx, qy, qz)
                        if 0.01 < t < reach_m and not _is_hole(coats[int(things[j, 9])], x + t * qx, y + t * qy, z + t * qz):
                            strength = 0.0
                            break
                if strength > 0:
                    for k in range(3):
                        rgb[row, column, k] += np.float32(strength * lights[i, 3 + k])
            haze = np.float32(1 - math.exp(-best / 120)) if is_outdoor else np.float32(0)
            for k in range(3):
                rgb[row, column, k] = rgb[row, column, k] * np.float32(colour[k]) * (1 - haze) + haze * np.float32(0.7) * sky[1, k]


@_jit
def _heaven(dx, dy, dz, lon, sky, lights, colour):
    """Sky with clouds, a sun with its glow, and hills at the horizon."""
    up = max(-dy, np.float32(0))
    ridge = (
        0.25 * sky[3, 1]
        + sky[3, 1] * (0.6 * math.sin(2 * lon + 40 * sky[3, 0]) + 0.4 * math.sin(5 * lon) + 0.15 * math.sin(23 * lon)) * 0.6
    )
    if -dy < ridge:
        for k in range(3):
            colour[k] = sky[2, k] * (0.7 + 0.6 * _rough(40 * lon, 60 * dy, 5)) * 0.7 + 0.3 * sky[1, k]
        return
    fade = math.exp(-4.0 * up)
    over = up + 0.12
    cloud = min(max(3 * (_rough(1.2 * dx / over + 9, 1.2 * dz / over + 9, 11) - 0.75 + 0.5 * sky[3, 0]), 0.0), 1.0) * min(1.0, 6 * up)
    far = math.sqrt(lights[0, 0] ** 2 + lights[0, 1] ** 2 + lights[0, 2] ** 2)
    near = (dx * lights[0, 0] + dy * lights[0, 1] + dz * lights[0, 2]) / far
    disc = 1200.0 if near > 0.9996 else 0.0
    glow = 0.5 * math.exp(-(1 - near) * 25) + 4 * math.exp(-(1 - near) * 900)
    for k in range(3):
        base = sky[0, k] * (1 - fade) + sky[1, k] * fade
        colour[k] = base * (1 - cloud) + cloud * 1.05 + lights[0, 3 + k] * (glow + disc) * sky[3, 2]
