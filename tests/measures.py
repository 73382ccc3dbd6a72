"""What tests measure on meshes: distances, volumes, and how deep a mesh reaches into itself."""

from __future__ import annotations

import numpy as np

# Exits are looked for this far from a vertex.
REACH_M = 0.02


def max_mm(a: np.ndarray, b: np.ndarray) -> float:
    """Largest distance between two sets of points in metres, in millimetres."""
    assert a.shape == b.shape
    return 1e3 * float(np.linalg.norm(np.asarray(a, np.float64) - np.asarray(b, np.float64), axis=-1).max())


def signed_volume_m3(points_m: np.ndarray, faces: np.ndarray) -> float:
    """What a surface encloses, its hole closed by a fan; positive when triangles are counter-clockwise from outside."""
    points_m, faces = closed(np.asarray(points_m, np.float64), faces)
    a, b, c = (points_m[faces[:, corner]] - points_m.mean(axis=0) for corner in range(3))
    return float(np.einsum("ni,ni->", a, np.cross(b, c)) / 6)


def self_penetration_mm(posed_m: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices that lie inside another part of their own mesh, and how far.

    A point just outside of a clean surface has winding number 0; where surfaces overlap it has 1 or more. Depth is the
    way out: to the nearest skin that faces the vertex's own, or to the nearest that is itself outside.

    Args:
        posed_m: (V, 3) the mesh.
        faces: (F, 3) counter-clockwise from outside; the wrist's hole is closed here.

    Returns:
        Indices (N,) of vertices inside, and their depths (N,) in mm.
    """
    count = len(posed_m)
    posed_m, faces = closed(posed_m.astype(np.float64), faces)
    normals = _vertex_normals(posed_m, faces)
    outside = posed_m + 1e-4 * normals
    inside = np.flatnonzero(_winding_numbers(outside[:count], posed_m[faces]) > 0.5)
    corners = posed_m[faces]
    middles, face_normals = corners.mean(axis=1), _face_normals(corners)
    near = np.linalg.norm(middles[None] - posed_m[inside, None], axis=-1).min(axis=0, initial=np.inf) < REACH_M
    is_exposed = np.zeros(len(faces), bool)
    above = middles[near] + 1e-4 * face_normals[near] / np.linalg.norm(face_normals[near], axis=1, keepdims=True)
    is_exposed[near] = _winding_numbers(above, corners) < 0.5
    depths = []
    for vertex in inside:
        exits = near & (faces != vertex).all(axis=1) & (is_exposed | (face_normals @ normals[vertex] < 0))
        closest = _closest_points(posed_m[vertex], corners[exits])
        leaves = np.einsum("fi,fi->f", closest - posed_m[vertex], face_normals[exits]) > 0
        gaps = np.linalg.norm(closest - posed_m[vertex], axis=1)
        depths.append(1e3 * gaps[leaves].min(initial=REACH_M))
    return inside, np.array(depths)


def closed(points: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A mesh with its open border closed by triangles to the border's middle; itself where there is none."""
    directed = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    there = set(map(tuple, directed.tolist()))
    rim = [(end, start) for start, end in there if (end, start) not in there]
    if not rim:
        return points, faces
    middle = points[[start for start, _ in rim]].mean(axis=0)
    cap = np.array([(start, end, len(points)) for start, end in rim])
    return np.vstack([points, middle]), np.vstack([faces, cap])


def _face_normals(triangles: np.ndarray) -> np.ndarray:
    return np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])


def _vertex_normals(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    normals = np.zeros_like(points)
    for corner in range(3):
        np.add.at(normals, faces[:, corner], _face_normals(points[faces]))
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-20)


def _winding_numbers(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Solid angles of all triangles over 4 pi (van Oosterom & Strackee 1983)."""
    numbers = np.zeros(len(points))
    for start in range(0, len(points), 64):
        a, b, c = (triangles[None, :, k] - points[start : start + 64, None] for k in range(3))
        la, lb, lc = (np.sqrt(np.einsum("pfi,pfi->pf", v, v)) for v in (a, b, c))
        above = np.einsum("pfi,pfi->pf", a, np.cross(b, c))
        ab, bc, ca = (np.einsum("pfi,pfi->pf", u, v) for u, v in ((a, b), (b, c), (c, a)))
        numbers[start : start + 64] = np.arctan2(above, la * lb * lc + ab * lc + bc * la + ca * lb).sum(axis=1) / (2 * np.pi)
    return numbers


def _closest_points(point: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """(F, 3) nearest to one point on each triangle: its plane's foot where that is inside, else the best of three edges."""
    a, b, c = triangles[:, 0], triangles[:, 1], triangles[:, 2]
    ab, ac, ap = b - a, c - a, point - a
    d00, d01, d11 = (np.einsum("fi,fi->f", u, v) for u, v in ((ab, ab), (ab, ac), (ac, ac)))
    d20, d21 = np.einsum("fi,fi->f", ap, ab), np.einsum("fi,fi->f", ap, ac)
    area = np.maximum(d00 * d11 - d01 * d01, 1e-30)
    v, w = (d11 * d20 - d01 * d21) / area, (d00 * d21 - d01 * d20) / area
    best = a + v[:, None] * ab + w[:, None] * ac
    gap = np.where((v >= 0) & (w >= 0) & (v + w <= 1), np.linalg.norm(best - point, axis=1), np.inf)
    for start, end in ((a, b), (b, c), (c, a)):
        edge = end - start
        t = np.clip(np.einsum("fi,fi->f", point - start, edge) / np.maximum(np.einsum("fi,fi->f", edge, edge), 1e-30), 0, 1)
        candidate = start + t[:, None] * edge
        distance = np.linalg.norm(candidate - point, axis=1)
        best[distance < gap] = candidate[distance < gap]
        gap = np.minimum(gap, distance)
    return best
