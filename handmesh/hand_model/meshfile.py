"""Meshes on disk: obj, ply and glb through trimesh, in metres, with normals and colours at the vertices."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from handmesh.errors import UserError
from handmesh.hand_model.skinning import HandModel
from handmesh.records import Hand
from handmesh.wholefile import replacing

MESH_FORMATS = ("obj", "ply", "glb")
SKIN_RGB = {True: (0.87, 0.68, 0.57), False: (0.57, 0.68, 0.87)}
# From the camera's axes to glTF's (y up, z towards the viewer): half a turn about x.
GLTF_FROM_CAMERA = np.diag([1.0, -1.0, -1.0])


def save_meshes(hands: Sequence[Hand], model: HandModel, path: str | Path) -> None:
    """Write the hands of one picture as one file.

    obj and ply keep the camera's axes (x right, y down, z forward). glb has y up and z backwards, as its
    standard says, so the hands stand upright in a viewer. Vertices keep the model's order, hand after hand.

    Args:
        path: ends in .obj, .ply or .glb; written to a temporary name and renamed.

    Raises:
        UserError: another ending.
    """
    axes = GLTF_FROM_CAMERA if mesh_format(path) == "glb" else np.eye(3)
    parts = []
    for index, hand in enumerate(hands):
        vertices_m, faces = hand.vertices_m @ axes, model.faces_for(hand.is_right)
        name = f"{'right' if hand.is_right else 'left'}_{index}"
        parts.append(_Part(name, vertices_m, faces, vertex_normals(vertices_m, faces), _rgba(len(vertices_m), SKIN_RGB[hand.is_right])))
    _write(parts, path)


def save_mesh(
    vertices_m: np.ndarray,
    faces: np.ndarray,
    path: str | Path,
    *,
    normals: np.ndarray | None = None,
    vertex_rgb: np.ndarray | None = None,
    is_right: bool = True,
) -> None:
    """Write one mesh with its own coordinates, in every format: a hand model's rest frame has y up as glTF wants it.

    Args:
        vertices_m: (V, 3), whose order is kept.
        faces: (F, 3) counter-clockwise from outside (`HandModel.faces_for`).
        path: as in `save_meshes`.
        normals: (V, 3) unit; None for `vertex_normals`.
        vertex_rgb: (V, 3) or (3,) in 0..1; None for the side's colour.
        is_right: names the mesh in a glb, and picks its colour.

    Raises:
        UserError: another ending.
    """
    if normals is None:
        normals = vertex_normals(vertices_m, faces)
    rgba = _rgba(len(vertices_m), SKIN_RGB[is_right] if vertex_rgb is None else vertex_rgb)
    _write([_Part("right" if is_right else "left", vertices_m, faces, normals, rgba)], path)


def mesh_format(path: str | Path) -> str:
    """The format that a path's ending names, in lower case.

    Raises:
        UserError: it is none of `MESH_FORMATS`.
    """
    ending = Path(path).suffix[1:].lower()
    if ending not in MESH_FORMATS:
        near = difflib.get_close_matches(ending, MESH_FORMATS, n=1, cutoff=0.3)
        hint = f"did you mean .{near[0]}?" if near else "change the ending"
        raise UserError(f"expected a mesh file that ends in {', '.join(f'.{name}' for name in MESH_FORMATS)}, got '{path}'; {hint}")
    return ending


def vertex_normals(vertices_m: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(V, 3) unit normals, the mean of the triangles around a vertex weighted by their area; 0 for a vertex without any."""
    a, b, c = (np.asarray(vertices_m, np.float64)[faces[:, corner]] for corner in range(3))
    face_normals = np.cross(b - a, c - a)
    sums = [np.bincount(faces.ravel(), np.repeat(face_normals[:, axis], 3), len(vertices_m)) for axis in range(3)]
    normals = np.stack(sums, axis=-1)
    return (normals / np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-20)).astype(np.float32)


@dataclass(frozen=True)
class _Part:
    """A mesh with a name: vertices_m (V, 3), faces (F, 3), normals (V, 3), rgba (V, 4) uint8."""

    name: str
    vertices_m: np.ndarray
    faces: np.ndarray
    normals: np.ndarray
    rgba: np.ndarray

    def to_trimesh(self) -> Any:
        import trimesh

        return trimesh.Trimesh(self.vertices_m, self.faces, vertex_normals=self.normals, vertex_colors=self.rgba, process=False)


def _joined(parts: Sequence[_Part]) -> _Part:
    """All parts as one: trimesh's own way to join meshes makes normals of its own."""
    starts = np.cumsum([0, *(len(part.vertices_m) for part in parts)])
    faces = np.concatenate([part.faces + start for part, start in zip(parts, starts[:-1], strict=True)])
    vertices_m, normals, rgba = (np.concatenate([getattr(part, name) for part in parts]) for name in ("vertices_m", "normals", "rgba"))
    return _Part(" ".join(part.name for part in parts), vertices_m, faces, normals, rgba)


def _rgba(count: int, rgb: np.ndarray | Sequence[float]) -> np.ndarray:
    rgba = np.full((count, 4), 255, np.uint8)
    rgba[:, :3] = np.round(255 * np.clip(rgb, 0, 1))
    return rgba


def _write(parts: Sequence[_Part], path: str | Path) -> None:
    import trimesh

    ending = mesh_format(path)
    if ending == "glb":
        scene = trimesh.Scene()
        for part in parts:
            scene.add_geometry(part.to_trimesh(), node_name=part.name, geom_name=part.name)
        data: Any = scene.export(file_type="glb", include_normals=True)
    elif ending == "ply":
        data = _joined(parts).to_trimesh().export(file_type="ply", vertex_normal=True)
    else:
        data = _joined(parts).to_trimesh().export(file_type="obj", include_normals=True, header="handmesh, metres")
    with replacing(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)
