"""The mesh itself: its border, the coarse twin, and joints as fixed averages of vertices."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.optimize
import scipy.sparse

TRIANGLES = 1538
BORDER_EDGES = 16
# A joint is an average of this many vertices around it, some of which may weigh nothing.
NEAREST = 72
SPREADING = 0.5


def straighten_border(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Move the wrist's border into one plane across the forearm, so that it can be continued without a jagged seam."""
    edges, counts = mesh_edges(faces)
    border = np.unique(edges[counts == 1])
    vertices = vertices.copy()
    vertices[border, 0] = vertices[border, 0].max()
    return vertices


def mesh_edges(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edges (E, 2) of a mesh, each once, and of how many triangles each is part."""
    pairs = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    return np.unique(np.sort(pairs, axis=1), axis=0, return_counts=True)


def mesh_average(faces: np.ndarray, count: int) -> scipy.sparse.csr_matrix:
    """(V, V) matrix that replaces each vertex by the mean of its neighbours."""
    pairs = mesh_edges(faces)[0]
    graph = scipy.sparse.coo_matrix((np.ones(len(pairs)), pairs.T), shape=(count, count)).tocsr()
    graph = graph + graph.T
    return scipy.sparse.diags(1 / np.asarray(graph.sum(axis=1)).ravel()) @ graph


def shorten_border(vertices: np.ndarray, faces: np.ndarray, edges_left: int) -> np.ndarray:
    """Collapse the shortest edges of the wrist's border until it has `edges_left`; the mesh stays a disk."""
    faces = faces.copy()
    while True:
        edges, counts = mesh_edges(faces)
        border = edges[counts == 1]
        if len(border) <= edges_left:
            return faces
        lengths = np.linalg.norm(vertices[border[:, 0]] - vertices[border[:, 1]], axis=1)
        for keep, drop in border[np.argsort(lengths)]:
            merged = np.where(faces == drop, keep, faces)
            merged = merged[[len(set(face)) == 3 for face in merged.tolist()]]
            left_counts = mesh_edges(merged)[1]
            if (left_counts <= 2).all() and (left_counts == 1).sum() == len(border) - 1:
                faces = merged
                break
        else:
            raise RuntimeError("no border edge can be collapsed")


def decimate(vertices: np.ndarray, faces: np.ndarray, kept: np.ndarray) -> tuple[Any, np.ndarray]:
    """Quadric decimation with the border kept.

    Args:
        kept: vertices of the dense mesh that some vertex of the coarse one shall be.

    Returns:
        A sparse (V', V) map from any per-vertex values of the dense mesh, and the new faces.
    """
    import fast_simplification
    import open3d as o3d

    shortened = shorten_border(vertices, faces, BORDER_EDGES)
    used = np.unique(shortened)
    renumber = np.full(len(vertices), -1)
    renumber[used] = np.arange(len(used))
    simplify: Any = fast_simplification.simplify
    points, triangles = simplify(
        vertices[used].astype(np.float32),
        renumber[shortened].astype(np.int32),
        target_count=TRIANGLES,
        agg=2.0,
        preserve_border=True,
    )
    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(o3d.core.Tensor(vertices.astype(np.float32)), o3d.core.Tensor(faces.astype(np.uint32)))
    nearest = scene.compute_closest_points(o3d.core.Tensor(points.astype(np.float32)))
    triangle_ids = nearest["primitive_ids"].numpy().astype(np.int64)
    u, v = nearest["primitive_uvs"].numpy().astype(np.float64).T
    barycentric = np.stack([1 - u - v, u, v], axis=1)
    rows = np.repeat(np.arange(len(points)), 3)
    carry = scipy.sparse.coo_matrix((barycentric.ravel(), (rows, faces[triangle_ids].ravel())), shape=(len(points), len(vertices))).tolil()
    for vertex in kept:
        nearest_row = np.linalg.norm(points - vertices[vertex], axis=1).argmin()
        carry[nearest_row] = 0
        carry[nearest_row, vertex] = 1
    return carry.tocsr(), triangles.astype(np.int32)


def keep_strongest(weights: np.ndarray, count: int = 4) -> np.ndarray:
    """At most `count` joints a vertex; rows sum to 1."""
    weights = np.clip(weights, 0, None)
    np.put_along_axis(weights, np.argsort(-weights, axis=1, kind="stable")[:, count:], 0, axis=1)
    return weights / weights.sum(axis=1, keepdims=True)


def regress_joints(vertices: np.ndarray, joints: np.ndarray, moved: np.ndarray, moved_joints: np.ndarray) -> np.ndarray:
    """Fixed averages of near vertices, none of them negative, that lie where the joints are.

    Args:
        vertices: (V, 3) of the template.
        joints: (16, 3) of the template, which are hit to a micrometre.
        moved: (N, V, 3) the hand in other shapes and poses, which are hit as well as averages can.
        moved_joints: (N, 16, 3).

    Returns:
        (16, V) rows sum to 1.
    """
    regressor = np.zeros((len(joints), len(vertices)))
    for joint, where in enumerate(joints):
        near = np.argsort(np.linalg.norm(vertices - where, axis=1), kind="stable")[:NEAREST]
        exact = np.vstack([1e3 * (vertices[near] - where).T, np.ones(NEAREST)])
        offsets = (moved[:, near] - moved_joints[:, None, joint]).transpose(0, 2, 1).reshape(-1, NEAREST)
        soft = 1e3 * offsets / np.sqrt(len(moved))
        # Spreading the weight costs little and keeps a joint from hanging on a few vertices.
        rows = np.vstack([1e4 * exact, soft, SPREADING * np.eye(NEAREST)])
        wanted = np.zeros(len(rows))
        wanted[len(exact) - 1] = 1e4
        regressor[joint, near] = scipy.optimize.nnls(rows, wanted, maxiter=100 * NEAREST)[0]
    return regressor / regressor.sum(axis=1, keepdims=True)
