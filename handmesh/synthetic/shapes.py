"""Meshes of simple solids and what they are made of: surfaces of revolution, slabs, ellipsoids, limbs, sheets.

Each is built in its own frame, z up and metres, as rings of points joined into a closed tube, whose ends are rings that shrink to
a point or a line. Functions that take `look` choose colours and materials, never forms.
"""

from __future__ import annotations

from bisect import bisect
from functools import lru_cache

import numpy as np

from handmesh.synthetic import raster
from handmesh.synthetic.material import plain_material, random_material, random_rgb
from handmesh.synthetic.surface import Mesh

Rng = np.random.Generator

# Edges of a profile that turn by more than this are sharp.
_SHARP_COS = np.cos(np.radians(35))


@lru_cache(maxsize=512)
def tube_faces(rings: int, columns: int, edges: tuple[int, ...] = ()) -> np.ndarray:
    """(F, 3) i32 of rings joined one after the other; columns turn counter-clockwise about the way from the first ring to the last.

    `edges` are rings that lie where the next one does: a sharp edge, with nothing between the two.
    """
    bands = [ring for ring in range(rings - 1) if ring not in edges]
    ring, i = np.meshgrid(bands, np.arange(columns), indexing="ij")
    a, b = ring * columns + i, ring * columns + (i + 1) % columns
    c, d = a + columns, b + columns
    faces = np.stack([a, b, d, a, d, c], axis=-1).reshape(-1, 3).astype(np.int32)
    faces.setflags(write=False)
    return faces


def tube(
    rings_m: np.ndarray, texture_m: np.ndarray, rgb: np.ndarray, material: np.ndarray, part: int = 0, edges: tuple[int, ...] = ()
) -> Mesh:
    """A mesh of rings.

    Args:
        rings_m: (R, C, 3) in the camera or in the thing's own frame.
        texture_m: (R, C, 3) where noise and stripes are looked up.
        rgb: linear albedo: (3,), (R, 3) for every ring or (R, C, 3).
        part: label.
        edges: as for `tube_faces`.
    """
    rings, columns = rings_m.shape[:2]
    count = rings * columns
    faces = tube_faces(rings, columns, edges)
    colours = np.asarray(rgb, np.float32)
    if colours.ndim == 2:
        colours = colours[:, None]
    albedo = np.empty((rings, columns, 3), np.float32)
    albedo[:] = colours
    return Mesh(
        rings_m.reshape(count, 3).astype(np.float32),
        faces,
        texture_m.reshape(count, 3).astype(np.float32),
        albedo.reshape(count, 3),
        np.full(count, part, np.uint8),
        np.full(len(faces), -1, np.int32),
        material,
    )


def placed(mesh: Mesh, R_camera_own: np.ndarray, centre_m: np.ndarray) -> Mesh:
    """A mesh turned and moved into the camera's frame."""
    vertices = mesh.vertices_m @ R_camera_own.T.astype(np.float32) + np.asarray(centre_m, np.float32)
    return Mesh(vertices, mesh.faces, mesh.texture_m, mesh.albedo, mesh.part, mesh.detail, mesh.material)


def joined(meshes: list[Mesh]) -> Mesh:
    """Meshes of one material as one."""
    starts = np.cumsum([0] + [len(mesh.vertices_m) for mesh in meshes])
    return Mesh(
        np.concatenate([mesh.vertices_m for mesh in meshes]),
        np.concatenate([mesh.faces + start for mesh, start in zip(meshes, starts[:-1], strict=True)]).astype(np.int32),
        np.concatenate([mesh.texture_m for mesh in meshes]),
        np.concatenate([mesh.albedo for mesh in meshes]),
        np.concatenate([mesh.part for mesh in meshes]),
        np.concatenate([mesh.detail for mesh in meshes]),
        meshes[0].material,
    )


# --- Shapes, in their own frame.


@lru_cache(maxsize=64)
def circle(columns: int) -> np.ndarray:
    """(C, 2) unit circle."""
    phi = np.arange(columns) * 2 * np.pi / columns
    return np.stack([np.cos(phi), np.sin(phi)], axis=1)


def revolved(profile_m: np.ndarray, rgb: np.ndarray, material: np.ndarray, columns: int = 18) -> Mesh:
    """A surface of revolution about z.

    Args:
        profile_m: (P, 2) radius and height, walked so that outside is on its right as the radius points right: up the outer side.
        rgb: (3,) or (P, 3).
    """
    profile = np.asarray(profile_m, np.float64)
    steps = np.diff(profile, axis=0)
    steps /= np.maximum(np.hypot(steps[:, 0], steps[:, 1]), 1e-12)[:, None]
    is_edge = (profile[1:] == profile[:-1]).all(axis=1)
    is_sharp = ((steps[1:] * steps[:-1]).sum(axis=1) < _SHARP_COS) & ~is_edge[1:] & ~is_edge[:-1]
    repeats = np.ones(len(profile), int)
    repeats[1:-1] += is_sharp
    edges = np.cumsum(repeats)[:-1] - 1
    edges = np.concatenate([edges[is_edge], edges[1:][is_sharp] - 1])
    colours = np.repeat(np.broadcast_to(np.asarray(rgb), (len(profile), 3)), repeats, axis=0)
    profile = np.repeat(profile, repeats, axis=0)
    rings = np.empty((len(profile), columns, 3))
    rings[..., :2] = profile[:, None, :1] * circle(columns)
    rings[..., 2] = profile[:, 1:]
    return tube(rings, rings, colours, material, edges=tuple(edges.tolist()))


@lru_cache(maxsize=64)
def _rounded_square(corner_share: float) -> np.ndarray:
    """(20, 2) outline with sides at +-1 and corners rounded by `corner_share` of the half side, counter-clockwise."""
    phi = np.arange(4) * np.pi / 2 + np.pi / 4
    arc = np.linspace(-np.pi / 4, np.pi / 4, 5)
    corner = np.stack([np.sign(np.cos(phi)), np.sign(np.sin(phi))], axis=1)[:, None]
    angles = phi[:, None] + arc
    return (corner * (1 - corner_share) + corner_share * np.stack([np.cos(angles), np.sin(angles)], axis=-1)).reshape(-1, 2)


def slab(
    half_m: np.ndarray, corner_m: float, edge_m: float, rgb: np.ndarray, face_rgb: np.ndarray, bezel_m: float, material: np.ndarray
) -> Mesh:
    """A box with rounded corners: thin along y, tall along z; its front (-y) has a panel of another colour.

    Args:
        half_m: (3,) half sides along x, y and z.
        corner_m: radius of the four corners of the outline.
        edge_m: bevel around front and back.
        rgb, face_rgb: (3,) of body and panel.
        bezel_m: rim around the panel.
    """
    half_x, half_y, half_z = half_m
    small = min(half_x, half_z)
    outline = _rounded_square(round(float(np.clip(corner_m / small, 0.02, 1.0)), 2))
    # Corners stay circles on long slabs: shift them out instead of stretching them.
    shape = np.sign(outline) * (np.array([half_x, half_z]) - small) + outline * small
    edge = min(edge_m, 0.9 * half_y)
    inset = np.array([half_x, half_z])

    def ring(depth: float, shrink_m: float) -> np.ndarray:
        flat = shape * np.maximum(1 - shrink_m / inset, 0.0)
        # Counter-clockwise in (x, z) is clockwise seen along +y: walked from the front (-y) to the back it faces outwards.
        return np.stack([flat[:, 0], np.full(len(flat), depth), flat[:, 1]], axis=1)[::-1]

    bezel = min(bezel_m + edge, 0.6 * small)
    rings = [
        np.broadcast_to([0.0, -half_y, 0.0], (len(shape), 3)),
        *(ring(-half_y, bezel), ring(-half_y, bezel), ring(-half_y, edge), ring(-half_y, edge)),
        *(ring(-half_y + edge, 0.0), ring(-half_y + edge, 0.0), ring(half_y - edge, 0.0), ring(half_y - edge, 0.0)),
        *(ring(half_y, edge), ring(half_y, edge)),
        np.broadcast_to([0.0, half_y, 0.0], (len(shape), 3)),
    ]
    rings = np.stack(rings)
    colours = np.repeat([face_rgb, rgb], [2, len(rings) - 2], axis=0)
    return tube(rings, rings, colours, material, edges=(1, 3, 5, 7, 9))


def box(half_m: np.ndarray, rgb: np.ndarray, material: np.ndarray) -> Mesh:
    """A box of one colour with its edges hardly broken; `half_m` (3,) half sides."""
    return slab(half_m, 0.0, 0.0006, rgb, rgb, 0.01, material)


@lru_cache(maxsize=16)
def _sphere(rows: int, columns: int) -> np.ndarray:
    """(R, C, 3) unit sphere, from -z to z."""
    theta = np.linspace(np.pi, 0, rows)
    points = np.empty((rows, columns, 3))
    points[..., :2] = np.sin(theta)[:, None, None] * circle(columns)
    points[..., 2] = np.cos(theta)[:, None]
    points[[0, -1], :, :2] = 0.0
    return points


def ellipsoid(
    axes_m: np.ndarray,
    power: float,
    rgb: np.ndarray,
    material: np.ndarray,
    rows: int = 9,
    columns: int = 14,
    centre_m: np.ndarray | None = None,
) -> Mesh:
    """A superellipsoid: power 1 is an ellipsoid, towards 0 a rounded box. `axes_m` (3,) are half axes, or (3, 3) columns."""
    points = _sphere(rows, columns)
    if power != 1:
        points = np.sign(points) * np.abs(points) ** power
    axes = np.asarray(axes_m)
    points = points @ axes.T if axes.ndim == 2 else points * axes
    if centre_m is not None:
        points = points + centre_m
    return tube(points, points, rgb, material)


def limb(
    path_m: np.ndarray,
    radii_m: np.ndarray | float,
    rgb: np.ndarray,
    material: np.ndarray,
    columns: int = 12,
    oval: float = 1.0,
    round_ends: bool = True,
) -> Mesh:
    """A tube of changing thickness along a path.

    Args:
        path_m: (K, 3) without sharp turns.
        radii_m: (K,) or one for all.
        rgb: (3,) or (K, 3).
        oval: one diameter of the cross-section over the other.
        round_ends: two more rings make each end a dome, otherwise it is cut flat.
    """
    path, radii = np.asarray(path_m, np.float64), np.broadcast_to(np.asarray(radii_m, np.float64), len(path_m))
    tangents = np.gradient(path, axis=0)
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    reference = np.eye(3)[np.argmin(np.abs(tangents).max(axis=0))]
    first = _cross(tangents, reference)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = _cross(tangents, first)
    # Ends: a dome or a flat cap, then a point.
    depth = np.array([1.0, 0.7, 0.0]) if round_ends else np.zeros(3)
    size = np.array([0.0, 0.72, 1.0]) if round_ends else np.array([0.0, 1.0, 1.0])
    count = len(path)
    pick = np.concatenate([[0, 0, 0], np.arange(1, count - 1), [count - 1] * 3])
    shift, scale = np.zeros(len(pick)), np.ones(len(pick))
    shift[:3], shift[-3:] = -depth * radii[0] * 0.7, depth[::-1] * radii[-1] * 0.7
    scale[:3], scale[-3:] = size, size[::-1]
    around = circle(columns)
    across = around[:, :1] * first[pick][:, None] * oval + around[:, 1:] * second[pick][:, None]
    rings = (path[pick] + shift[:, None] * tangents[pick])[:, None] + (radii[pick] * scale)[:, None, None] * across
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    texture = np.empty_like(rings)
    texture[..., :2] = (radii[pick] * scale)[:, None, None] * around
    texture[..., 2] = (length[pick] + shift)[:, None]
    colours = np.asarray(rgb)
    return tube(rings, texture, colours[pick] if colours.ndim == 2 else colours, material)


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cross product over the last axis; for few vectors `np.cross` takes several times as long."""
    (ax, ay, az), (bx, by, bz) = a.T, b.T
    return np.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], axis=-1)


def sheet(heights_m: np.ndarray, half_m: np.ndarray, thickness_m: float, rgb: np.ndarray, material: np.ndarray) -> Mesh:
    """A cloth-like leaf in x and z, bent along y.

    Args:
        heights_m: (U, W) y of its middle at even steps of x and z.
        half_m: (2,) half sides along x and z.
    """
    rows, columns = heights_m.shape
    x, z = np.meshgrid(np.linspace(-half_m[0], half_m[0], rows), np.linspace(-half_m[1], half_m[1], columns), indexing="ij")
    middle = np.stack([x, heights_m, z], axis=-1)
    away = np.array([0.0, thickness_m / 2, 0.0])
    rings = np.concatenate([middle + away, (middle - away)[:, ::-1]], axis=1)
    # Both sides meet at the first and the last ring.
    line = np.concatenate([middle, middle[:, ::-1]], axis=1)
    rings = np.concatenate([line[:1], rings, line[-1:]])
    return tube(rings, rings, rgb, material)


# --- Materials.


def metal(look: Rng) -> tuple[np.ndarray, np.ndarray]:
    """Albedo and material of steel, black metal, brass or gold."""
    tint = ((0.35, 0.35, 0.37), (0.03, 0.03, 0.03), (0.45, 0.3, 0.1), (0.5, 0.26, 0.16))[bisect((0.55, 0.7, 0.92), look.random())]
    rgb = np.array(tint) * look.uniform(0.5, 1.3)
    return rgb, plain_material(noise_low=0.08, freq_low=150.0, specular=look.uniform(0.35, 1.2), shininess=look.uniform(12, 90))


def screen_rgb(look: Rng) -> np.ndarray:
    """Mostly dark glass, sometimes lit."""
    return random_rgb(look) * 1.2 if look.random() < 0.25 else np.full(3, look.uniform(0.003, 0.02)) * (1, 1, 1.15)


def glossy(look: Rng) -> np.ndarray:
    """The material row of plastic, varnish, glaze or glass."""
    return plain_material(noise_low=look.uniform(0, 0.05), freq_low=80.0, specular=look.uniform(0.1, 0.6), shininess=look.uniform(20, 120))


def coloured(look: Rng, size_m: float) -> tuple[np.ndarray, np.ndarray]:
    """Albedo and material of a thing of about `size_m`: even and glossy or dull, or with any pattern."""
    if look.random() < 0.4:
        return random_rgb(look), random_material(look, size_m)
    return random_rgb(look), glossy(look) if look.random() < 0.5 else fabric(look)


def fabric(look: Rng, along: int = 2) -> np.ndarray:
    """The material row of clothes: a weave or a knit, some of them striped across an axis of the thing's own frame."""
    material = plain_material(
        noise_low=look.uniform(0.0, 0.1),
        freq_low=look.uniform(20, 150),
        noise_high=look.uniform(0.0, 0.18),
        freq_high=look.uniform(250, 1300),
        specular=look.uniform(0, 0.03),
        shininess=8.0,
        wrap=look.uniform(0.1, 0.3),
    )
    if look.random() < 0.2:
        direction = np.eye(3)[along] if look.random() < 0.7 else look.normal(0, 1, 3)
        material[raster.M_STRIPE] = look.uniform(0.4, 1)
        vector = direction / np.linalg.norm(direction) * look.uniform(120, 700)
        material[raster.M_STRIPE_VECTOR : raster.M_STRIPE_VECTOR + 3] = vector
        material[raster.M_STRIPE_RGB : raster.M_STRIPE_RGB + 3] = random_rgb(look)
    return material
