"""Meshes on disk: obj, ply and glb through trimesh."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from handmesh.hand_model.skinning import HandModel
from handmesh.records import Hand
from handmesh.wholefile import replacing

MESH_FORMATS = ("obj", "ply", "glb")
_SKIN_RGBA = {True: (222, 173, 145, 255), False: (145, 173, 222, 255)}


def save_meshes(hands: Sequence[Hand], model: HandModel, path: str | Path) -> None:
    """Write the hands of one picture as one file, in metres.

    obj and ply keep the camera's axes (x right, y down, z forward). glb has y up and z backwards, as its
    standard says, so the hands stand upright in a viewer.

    Args:
        path: ends in .obj, .ply or .glb; written to a temporary name and renamed.
    """
    import trimesh

    path = Path(path)
    axes = np.diag([1.0, -1.0, -1.0]) if path.suffix == ".glb" else np.eye(3)
    scene = trimesh.Scene()
    for index, hand in enumerate(hands):
        colours = np.tile(np.array(_SKIN_RGBA[hand.is_right], np.uint8), (len(hand.vertices_m), 1))
        faces = model.faces_for(hand.is_right)
        mesh = trimesh.Trimesh(hand.vertices_m @ axes, faces, vertex_colors=colours, process=False)
        name = f"{'right' if hand.is_right else 'left'}_{index}"
        scene.add_geometry(mesh, node_name=name, geom_name=name)
    # One file, one mesh for the formats that know no scenes.
    content: Any = scene if path.suffix == ".glb" else scene.to_mesh()
    data = content.export(file_type=path.suffix[1:])
    with replacing(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)
