"""Mesh files come back from trimesh with the scale, side, order, normals and colours that went in."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from measures import max_mm, signed_volume_m3

from handmesh.errors import UserError
from handmesh.geometry.camera import camera_from_fov
from handmesh.hand_model import HandModel
from handmesh.hand_model.meshfile import MESH_FORMATS, mesh_format, save_mesh, save_meshes, vertex_normals
from handmesh.hand_model.skinning import mirror_points
from handmesh.records import Hand

CAMERA = camera_from_fov(640, 480, 65)
# glb has y up and z towards the viewer.
AXES = {"obj": np.ones(3), "ply": np.ones(3), "glb": np.array([1.0, -1.0, -1.0])}


def load_parts(path: Path) -> dict[str, Any]:
    """The meshes of a file by name; obj and ply hold one."""
    trimesh = pytest.importorskip("trimesh")
    loaded = trimesh.load(path, process=False)
    if isinstance(loaded, trimesh.Trimesh):
        return {"": loaded}
    for node in loaded.graph.nodes_geometry:
        assert np.allclose(loaded.graph[node][0], np.eye(4)), "a node that moves its mesh"
    return dict(loaded.geometry)


def normals_of(vertices_m: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Each triangle in turn, in double precision."""
    sums = np.zeros(vertices_m.shape)
    for triangle in faces:
        a, b, c = vertices_m[triangle].astype(np.float64)
        sums[triangle] += np.cross(b - a, c - a)
    return sums / np.linalg.norm(sums, axis=1, keepdims=True)


@pytest.mark.parametrize("extension", MESH_FORMATS)
@pytest.mark.parametrize("is_right", [True, False])
def test_a_hand_comes_back_as_it_went(
    extension: str, is_right: bool, hand_model: HandModel, make_hand: Callable[..., Hand], tmp_path: Path
) -> None:
    hand = make_hand(hand_model, CAMERA, root_m=(0.05, -0.02, 0.5), is_right=is_right)
    path = tmp_path / f"a hand ü.{extension}"
    save_meshes([hand], hand_model, path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    ((name, mesh),) = load_parts(path).items()
    assert name in ("", "right_0" if is_right else "left_0")
    # Vertex by vertex: the scale and the order are kept.
    vertices_m = np.asarray(mesh.vertices) * AXES[extension]
    error_mm = max_mm(vertices_m, hand.vertices_m)
    assert error_mm < 0.01, f"the file is {error_mm:.2g} mm off"
    # The side: outward triangles are the right hand's, or those of its mirror image.
    np.testing.assert_array_equal(mesh.faces, hand_model.faces_for(is_right))
    assert signed_volume_m3(np.asarray(mesh.vertices), np.asarray(mesh.faces)) > 5e-5
    # Normals are the file's own (trimesh's are other means), of unit length, and outward with the triangles.
    normals = np.asarray(mesh.vertex_normals)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-3)
    agreement = np.sum(normals * normals_of(np.asarray(mesh.vertices), np.asarray(mesh.faces)), axis=1)
    assert agreement.min() > 0.9
    red, green, blue, alpha = np.asarray(mesh.visual.vertex_colors)[0]
    assert alpha == 255 and (red > green > blue if is_right else blue > green > red)


@pytest.mark.parametrize("extension", MESH_FORMATS)
def test_the_side_can_be_told_from_the_file_alone(
    extension: str, hand_model: HandModel, make_hand: Callable[..., Hand], tmp_path: Path
) -> None:
    # Palm normal, fingers and thumb: right-handed on a right hand only. Fingers curl towards the palm.
    for is_right in (True, False):
        path = tmp_path / f"hand.{extension}"
        save_meshes([make_hand(hand_model, CAMERA, is_right=is_right)], hand_model, path)
        (mesh,) = load_parts(path).values()
        joints_m = hand_model.joints(np.asarray(mesh.vertices, np.float32))
        fingers, thumb = joints_m[9] - joints_m[0], joints_m[5] - joints_m[17]
        curl = joints_m[12] - joints_m[9] - fingers
        assert (np.cross(thumb, fingers) @ curl > 0) == is_right


@pytest.mark.parametrize("extension", MESH_FORMATS)
def test_two_hands_share_a_file(extension: str, hand_model: HandModel, make_hand: Callable[..., Hand], tmp_path: Path) -> None:
    hands = [make_hand(hand_model, CAMERA, root_m=(x, 0, 0.5), is_right=x > 0) for x in (-0.1, 0.1)]
    path = tmp_path / f"both.{extension}"
    save_meshes(hands, hand_model, path)
    parts = load_parts(path)
    if extension == "glb":
        assert list(parts) == ["left_0", "right_1"]
    vertices_m, normals = (np.concatenate([getattr(mesh, name) for mesh in parts.values()]) for name in ("vertices", "vertex_normals"))
    assert max_mm(vertices_m * AXES[extension], np.concatenate([hand.vertices_m for hand in hands])) < 0.01
    expected = np.concatenate([normals_of(hand.vertices_m, hand_model.faces_for(hand.is_right)) for hand in hands])
    assert np.sum(normals * AXES[extension] * expected, axis=1).min() > 0.9
    assert sum(len(mesh.faces) for mesh in parts.values()) == 2 * len(hand_model.faces)
    if extension != "glb":
        faces, v = np.asarray(parts[""].faces), len(hand_model.template_m)
        np.testing.assert_array_equal(faces, np.concatenate([hand_model.faces_for(False), hand_model.faces_for(True) + v]))


@pytest.mark.parametrize("extension", [*MESH_FORMATS, "GLB"])
@pytest.mark.parametrize("is_right", [True, False])
def test_one_mesh_keeps_its_own_coordinates_in_every_format(extension: str, is_right: bool, hand_model: HandModel, tmp_path: Path) -> None:
    vertices_m = hand_model.template_m if is_right else mirror_points(hand_model.template_m)
    faces = hand_model.faces_for(is_right)
    path = tmp_path / f"hand.{extension}"
    save_mesh(vertices_m, faces, path, is_right=is_right)
    ((name, mesh),) = load_parts(path).items()
    assert name in ("", "right" if is_right else "left")
    assert max_mm(np.asarray(mesh.vertices), vertices_m) < 0.01
    np.testing.assert_array_equal(mesh.faces, faces)
    assert np.sum(np.asarray(mesh.vertex_normals) * normals_of(vertices_m, faces), axis=1).min() > 0.9


@pytest.mark.parametrize("extension", MESH_FORMATS)
def test_given_normals_and_colours_are_written(extension: str, hand_model: HandModel, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    normals, rgb = rng.normal(0, 1, (len(hand_model.template_m), 3)), rng.uniform(-0.2, 1.2, (len(hand_model.template_m), 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    path = tmp_path / f"hand.{extension}"
    save_mesh(hand_model.template_m, hand_model.faces, path, normals=normals, vertex_rgb=rgb)
    (mesh,) = load_parts(path).values()
    np.testing.assert_allclose(mesh.vertex_normals, normals, atol=1e-3)
    colours = np.asarray(mesh.visual.vertex_colors)[:, :3]
    assert np.abs(colours - 255 * np.clip(rgb, 0, 1)).max() <= 1


def test_normals_point_out_of_a_sphere() -> None:
    sphere = pytest.importorskip("trimesh").creation.icosphere(subdivisions=3, radius=0.05)
    vertices, faces = np.asarray(sphere.vertices), np.asarray(sphere.faces)
    assert np.sum(vertex_normals(vertices + 0.3, faces) * vertices / 0.05, axis=1).min() > 0.999
    assert np.sum(vertex_normals(mirror_points(vertices), faces[:, ::-1]) * mirror_points(vertices) / 0.05, axis=1).min() > 0.999


def test_other_endings_are_refused_in_one_line(hand_model: HandModel, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"did you mean \.glb\?"):
        save_mesh(hand_model.template_m, hand_model.faces, tmp_path / "hand.gltf")
    with pytest.raises(UserError, match=r"ends in \.obj, \.ply, \.glb"):
        mesh_format("hand")
    assert list(tmp_path.iterdir()) == []


def test_scipy_is_not_needed(tmp_path: Path) -> None:
    code = f"""
import sys
sys.modules["scipy"] = None
from handmesh.hand_model import load_hand_model
from handmesh.hand_model.meshfile import MESH_FORMATS, save_mesh
model = load_hand_model()
for extension in MESH_FORMATS:
    save_mesh(model.template_m, model.faces, {str(tmp_path)!r} + "/hand." + extension)
"""
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert finished.returncode == 0, finished.stderr
    assert len(list(tmp_path.iterdir())) == len(MESH_FORMATS)
