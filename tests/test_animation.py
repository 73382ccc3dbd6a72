"""Animated files are read back from their bytes and played by the rules of their formats: the hands must be where handmesh has them."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from measures import max_mm, signed_volume_m3

from handmesh.errors import UserError
from handmesh.geometry.camera import camera_from_fov, project
from handmesh.geometry.rotation import mirror_rotmat, rotvec_to_rotmat
from handmesh.hand_model import HandModel
from handmesh.hand_model.animation import HandMotion, motion_vertices, save_animation
from handmesh.hand_model.bvh import save_bvh
from handmesh.hand_model.skinning import chain_joints, mirror_points, shape_hand, skin
from handmesh.records import Camera
from handmesh.skeleton import FINGERS, MANO_JOINTS, MANO_PARENTS

CAMERA = Camera(fx=500, fy=480, cx=319.5, cy=239.5, width=640, height=480)
GLTF_AXES = np.array([1.0, -1.0, -1.0])
TIMES_S = 3.5 + np.cumsum([0.0, 0.03, 0.04, 0.03, 0.05, 0.03, 0.03, 0.04])


@dataclass(frozen=True)
class Moving:
    """A hand's motion and, by means of its own, the vertices of its frames in the camera."""

    motion: HandMotion
    vertices_m: np.ndarray


def moving_hand(
    model: HandModel,
    is_right: bool = True,
    scale: float = 1.0,
    frames: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7),
    shape_noise: float = 0.0,
    name: str = "hand",
    seed: int = 0,
) -> Moving:
    """A hand that turns through more than half a turn, bends its fingers and wanders."""
    rng = np.random.default_rng(seed)
    model = model.astype(np.float64)
    steps = np.linspace(0, 1, len(TIMES_S))[list(frames), None]
    fingers = model.mean_pose + (0.5 * rng.normal(size=(2, 15, 3)) * np.stack([1 - steps, steps], axis=1)[..., None]).sum(axis=1)
    rotmats = rotvec_to_rotmat(np.concatenate([np.tile([-1.4, 0.2, 0.3], (len(frames), 1, 1)), fingers], axis=1))
    rotmats[:, 0] = rotvec_to_rotmat(steps * np.array([0.0, 4.5, 0.0])) @ rotmats[:, 0]
    betas = rng.normal(size=10) + shape_noise * rng.normal(size=(len(frames), 10))
    vertices_m = skin(model, rotmats, betas)
    vertices_m = scale * (vertices_m if is_right else mirror_points(vertices_m)) + np.array([0.05, -0.02, 0.5]) + steps[:, None] * 0.1
    T_camera_wrist = np.tile(np.eye(4), (len(frames), 1, 1))
    T_camera_wrist[:, :3, :3] = rotmats[:, 0] if is_right else mirror_rotmat(rotmats[:, 0])
    T_camera_wrist[:, :3, 3] = model.joints(vertices_m)[:, 0]
    # What the network says about the crop is not where the hand is.
    rotmats[:, 0] = np.eye(3)
    return Moving(HandMotion(name, is_right, np.array(frames), T_camera_wrist, rotmats, betas, np.full(len(frames), scale)), vertices_m)


class Glb:
    """A glb, read and played as the specification says, in double precision."""

    def __init__(self, path: Path) -> None:
        data = path.read_bytes()
        magic, version, length = struct.unpack_from("<4sII", data)
        assert (magic, version, length) == (b"glTF", 2, len(data))
        text_length, text_kind = struct.unpack_from("<I4s", data, 12)
        assert text_kind == b"JSON" and text_length % 4 == 0
        self.tree = json.loads(data[20 : 20 + text_length])
        binary_length, binary_kind = struct.unpack_from("<I4s", data, 20 + text_length)
        assert binary_kind == b"BIN\0" and binary_length == self.tree["buffers"][0]["byteLength"]
        self._binary = data[28 + text_length :]
        assert len(self._binary) == binary_length and binary_length % 4 == 0

    @cache  # noqa: B019
    def values(self, index: int) -> np.ndarray:
        accessor = self.tree["accessors"][index]
        width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4, "MAT4": 16}[accessor["type"]]
        count = accessor["count"]
        values = np.zeros((count, width))
        if "bufferView" in accessor:
            values = self._view(accessor["bufferView"], accessor["componentType"]).reshape(count, width).astype(np.float64)
        if "sparse" in accessor:
            sparse = accessor["sparse"]
            rows = self._view(sparse["indices"]["bufferView"], sparse["indices"]["componentType"])
            values[rows] = self._view(sparse["values"]["bufferView"], accessor["componentType"]).reshape(sparse["count"], width)
        if "min" in accessor:
            np.testing.assert_array_equal(values.min(axis=0), accessor["min"])
            np.testing.assert_array_equal(values.max(axis=0), accessor["max"])
        if width == 16:
            return values.reshape(count, 4, 4).swapaxes(1, 2)
        return values[:, 0] if width == 1 else values

    def node(self, name: str) -> int:
        (index,) = [index for index, node in enumerate(self.tree["nodes"]) if node["name"] == name]
        return index

    @cache  # noqa: B019
    def channels(self) -> list[tuple[int, str, np.ndarray, np.ndarray, str]]:
        """(node, path, times, values, interpolation) of each channel."""
        (animation,) = self.tree["animations"]
        found = []
        for channel in animation["channels"]:
            sampler = animation["samplers"][channel["sampler"]]
            times, values = self.values(sampler["input"]), self.values(sampler["output"])
            found.append((channel["target"]["node"], channel["target"]["path"], times, values, sampler["interpolation"]))
        return found

    def pose(self, time_s: float) -> list[dict[str, np.ndarray]]:
        """The properties of every node at a time."""
        nodes = [
            {
                "translation": np.array(node.get("translation", (0.0, 0, 0))),
                "rotation": np.array(node.get("rotation", (0.0, 0, 0, 1))),
                "scale": np.array(node.get("scale", (1.0, 1, 1))),
            }
            for node in self.tree["nodes"]
        ]
        for node, path, times, values, interpolation in self.channels():
            after = int(np.searchsorted(times, time_s, side="right"))
            before, after = max(after - 1, 0), min(after, len(times) - 1)
            values = values.reshape(len(times), -1)
            share = (
                0.0
                if before == after or interpolation == "STEP"
                else np.clip((time_s - times[before]) / (times[after] - times[before]), 0, 1)
            )
            nodes[node][path] = (
                slerp(values[before], values[after], share) if path == "rotation" else (1 - share) * values[before] + share * values[after]
            )
        return nodes

    def vertices_m(self, name: str, time_s: float) -> np.ndarray:
        """(V, 3) a skinned mesh at a time, in the scene."""
        nodes, mesh_node = self.pose(time_s), self.node(name)
        node = self.tree["nodes"][mesh_node]
        (primitive,) = self.tree["meshes"][node["mesh"]]["primitives"]
        points_m = self.values(primitive["attributes"]["POSITION"])
        if "targets" in primitive:
            for target, weight in zip(primitive["targets"], nodes[mesh_node]["weights"], strict=True):
                points_m = points_m + weight * self.values(target["POSITION"])
        skin_ = self.tree["skins"][node["skin"]]
        matrices = self._world(nodes)[skin_["joints"]] @ self.values(skin_["inverseBindMatrices"])
        blended = np.zeros((len(points_m), 4, 4))
        for index in range(sum(key.startswith("JOINTS_") for key in primitive["attributes"])):
            joints = self.values(primitive["attributes"][f"JOINTS_{index}"]).astype(int)
            weights = self.values(primitive["attributes"][f"WEIGHTS_{index}"])
            blended += (weights[..., None, None] * matrices[joints]).sum(axis=1)
        return (blended[:, :3, :3] @ points_m[..., None])[..., 0] + blended[:, :3, 3]

    def faces(self, name: str) -> np.ndarray:
        (primitive,) = self.tree["meshes"][self.tree["nodes"][self.node(name)]["mesh"]]["primitives"]
        return self.values(primitive["indices"]).astype(int).reshape(-1, 3)

    def _world(self, nodes: list[dict[str, np.ndarray]]) -> np.ndarray:
        world = np.tile(np.eye(4), (len(nodes), 1, 1))

        def place(index: int, above: np.ndarray) -> None:
            local = np.eye(4)
            local[:3, :3] = quat_to_rotmat(nodes[index]["rotation"]) * nodes[index]["scale"]
            local[:3, 3] = nodes[index]["translation"]
            world[index] = above @ local
            for child in self.tree["nodes"][index].get("children", ()):
                place(child, world[index])

        for root in self.tree["scenes"][self.tree["scene"]]["nodes"]:
            place(root, np.eye(4))
        return world

    def _view(self, index: int, component_type: int) -> np.ndarray:
        view = self.tree["bufferViews"][index]
        dtype = {5121: np.uint8, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}[component_type]
        assert view["byteOffset"] % 4 == 0
        return np.frombuffer(self._binary, dtype, view["byteLength"] // np.dtype(dtype).itemsize, view["byteOffset"])


def quat_to_rotmat(quat: np.ndarray) -> np.ndarray:
    vector, w = quat[:3], quat[3]
    skew = np.array([[0, -vector[2], vector[1]], [vector[2], 0, -vector[0]], [-vector[1], vector[0], 0]])
    return np.eye(3) + 2 * w * skew + 2 * skew @ skew


def slerp(start: np.ndarray, end: np.ndarray, share: float) -> np.ndarray:
    angle = np.arccos(np.clip(start @ end, -1, 1))
    if angle < 1e-6:
        return start
    return (np.sin((1 - share) * angle) * start + np.sin(share * angle) * end) / np.sin(angle)


def played_mm(path: Path, moving: Moving, vertices_m: np.ndarray | None = None) -> float:
    """Largest distance between the file's vertices and a hand's, over its frames."""
    glb = Glb(path)
    times_s = (TIMES_S - TIMES_S[0]).astype(np.float32).astype(np.float64)
    expected = moving.vertices_m if vertices_m is None else vertices_m
    played = [glb.vertices_m(moving.motion.name, times_s[frame]) * GLTF_AXES for frame in moving.motion.frames]
    return max_mm(np.stack(played), expected)


@pytest.mark.parametrize("is_right", [True, False])
@pytest.mark.parametrize("scale", [1.0, 1.13])
def test_a_motion_is_the_hand_again(is_right: bool, scale: float, hand_model: HandModel) -> None:
    moving = moving_hand(hand_model, is_right, scale, shape_noise=0.3)
    error_mm = max_mm(motion_vertices(hand_model.astype(np.float64), moving.motion), moving.vertices_m)
    assert error_mm < 1e-6, f"{error_mm:.2g} mm"


@pytest.mark.parametrize("is_right", [True, False])
@pytest.mark.parametrize("scale", [1.0, 1.13])
@pytest.mark.parametrize("shape_noise", [0.0, 0.3])
def test_with_correctives_the_file_is_our_skinning(
    is_right: bool, scale: float, shape_noise: float, hand_model: HandModel, tmp_path: Path
) -> None:
    moving = moving_hand(hand_model, is_right, scale, shape_noise=shape_noise)
    difference = save_animation([moving.motion], TIMES_S, hand_model, CAMERA, tmp_path / "a.glb", correctives=True)
    error_mm = played_mm(tmp_path / "a.glb", moving)
    assert error_mm < 1e-3, f"the file's hand is {error_mm:.2g} mm from ours"
    assert difference.max_mm == pytest.approx(error_mm, abs=1e-4)


@pytest.mark.parametrize("is_right", [True, False])
@pytest.mark.parametrize("scale", [1.0, 1.13])
def test_without_correctives_the_file_is_plain_skinning_and_says_how_far_that_is(
    is_right: bool, scale: float, hand_model: HandModel, tmp_path: Path
) -> None:
    moving = moving_hand(hand_model, is_right, scale)
    difference = save_animation([moving.motion], TIMES_S, hand_model, CAMERA, tmp_path / "a.glb")
    error_mm = played_mm(tmp_path / "a.glb", moving)
    assert 0.5 < error_mm < 15 and difference.max_mm == pytest.approx(error_mm, abs=1e-3)
    assert 0 < difference.mean_mm < difference.max_mm
    # Of a model that has no correctives, nothing is lost.
    plain = replace(hand_model, pose_dirs=np.zeros_like(hand_model.pose_dirs))
    moving = moving_hand(plain, is_right, scale)
    save_animation([moving.motion], TIMES_S, plain, CAMERA, tmp_path / "b.glb")
    assert played_mm(tmp_path / "b.glb", moving) < 1e-3


@pytest.mark.parametrize("is_right", [True, False])
def test_no_influence_is_lost(is_right: bool, tiny_hand_model: HandModel, tmp_path: Path) -> None:
    # All 16 joints move each of its vertices.
    moving = moving_hand(tiny_hand_model, is_right, shape_noise=0.2)
    save_animation([moving.motion], TIMES_S, tiny_hand_model, CAMERA, tmp_path / "a.glb", correctives=True)
    assert played_mm(tmp_path / "a.glb", moving) < 2e-3
    (primitive,) = Glb(tmp_path / "a.glb").tree["meshes"][0]["primitives"]
    assert "WEIGHTS_3" in primitive["attributes"]


def test_the_shape_that_is_held_is_the_files(hand_model: HandModel, tmp_path: Path) -> None:
    moving = moving_hand(hand_model)
    betas = moving.motion.betas.copy()
    betas[:3] += np.array([[1.0], [0.5], [0.2]])
    save_animation([replace(moving.motion, betas=betas)], TIMES_S, hand_model, CAMERA, tmp_path / "a.glb")
    glb = Glb(tmp_path / "a.glb")
    (primitive,) = glb.tree["meshes"][0]["primitives"]
    assert max_mm(glb.values(primitive["attributes"]["POSITION"]), shape_hand(hand_model, moving.motion.betas[-1])[0]) < 1e-3


def test_the_skeleton_is_the_models(hand_model: HandModel, tmp_path: Path) -> None:
    hands = [moving_hand(hand_model, True, name="right_0"), moving_hand(hand_model, False, name="left_3", seed=1)]
    save_animation([hand.motion for hand in hands], TIMES_S, hand_model, CAMERA, tmp_path / "a.glb")
    glb = Glb(tmp_path / "a.glb")
    parents = {child: index for index, node in enumerate(glb.tree["nodes"]) for child in node.get("children", ())}
    names = [node["name"] for node in glb.tree["nodes"]]
    assert len(set(names)) == len(names)
    for hand, skin_ in zip(hands, glb.tree["skins"], strict=True):
        joints = skin_["joints"]
        assert [names[joint] for joint in joints] == [f"{hand.motion.name}_{joint}" for joint in MANO_JOINTS]
        assert [joints.index(parents[joint]) if joint in parents else -1 for joint in joints] == list(MANO_PARENTS)
        assert skin_["skeleton"] == joints[0]
        rest_joints_m = shape_hand(hand_model, hand.motion.betas[0])[1] * (1 if hand.motion.is_right else np.array([-1, 1, 1]))
        assert max_mm(-glb.values(skin_["inverseBindMatrices"])[:, :3, 3], rest_joints_m) < 1e-3


def test_both_sides_face_outwards_and_are_told_by_colour(hand_model: HandModel, tmp_path: Path) -> None:
    hands = [moving_hand(hand_model, True, name="right_0"), moving_hand(hand_model, False, name="left_1", seed=1)]
    save_animation([hand.motion for hand in hands], TIMES_S, hand_model, CAMERA, tmp_path / "a.glb")
    glb = Glb(tmp_path / "a.glb")
    for hand in hands:
        for time_s in (0.0, 0.1):
            assert signed_volume_m3(glb.vertices_m(hand.motion.name, time_s), glb.faces(hand.motion.name)) > 5e-5
        (primitive,) = glb.tree["meshes"][glb.tree["nodes"][glb.node(hand.motion.name)]["mesh"]]["primitives"]
        red, _, blue, alpha = glb.tree["materials"][primitive["material"]]["pbrMetallicRoughness"]["baseColorFactor"]
        assert alpha == 1 and (red > blue) == hand.motion.is_right
        normals = glb.values(primitive["attributes"]["NORMAL"])
        np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)
        points = glb.values(primitive["attributes"]["POSITION"])
        assert signed_volume_m3(points + 0.002 * normals, glb.faces(hand.motion.name)) > signed_volume_m3(
            points, glb.faces(hand.motion.name)
        )
    # A mirrored mesh, not a mirroring node: many programs cannot animate those.
    assert all(min(node.get("scale", (1,))) > 0 for node in glb.tree["nodes"])


def test_keys_are_the_recordings_times_and_quaternions_turn_the_short_way(hand_model: HandModel, tmp_path: Path) -> None:
    moving = moving_hand(hand_model)
    save_animation([moving.motion], TIMES_S, hand_model, CAMERA, tmp_path / "a.glb", correctives=True)
    glb = Glb(tmp_path / "a.glb")
    paths, least_w = set(), 1.0
    for _, path, times, values, interpolation in glb.channels():
        paths.add(path)
        assert interpolation == "LINEAR"
        np.testing.assert_allclose(times, TIMES_S - TIMES_S[0], atol=1e-6)
        if path == "rotation":
            np.testing.assert_allclose(np.linalg.norm(values, axis=1), 1, atol=1e-6)
            assert (np.sum(values[1:] * values[:-1], axis=1) > 0).all()
            least_w = min(least_w, values[:, 3].min())
    assert paths == {"rotation", "translation", "weights"}
    assert least_w < 0, "this motion never asked for the other quaternion"
    # In the middle between two keys, the hand is near the middle between the two hands.
    halfway_s = float(TIMES_S[2] + TIMES_S[3]) / 2 - TIMES_S[0]
    middle = moving.vertices_m[2:4].mean(axis=0)
    assert max_mm(glb.vertices_m("hand", halfway_s) * GLTF_AXES, middle) < 0.1 * max_mm(moving.vertices_m[2], moving.vertices_m[3])


@pytest.mark.parametrize("frames", [(1, 2, 5, 6), (2,), (0, 1, 2)])
def test_a_hand_is_nowhere_while_it_is_away(frames: tuple[int, ...], hand_model: HandModel, tmp_path: Path) -> None:
    moving = moving_hand(hand_model, scale=1.1, frames=frames)
    save_animation([moving.motion], TIMES_S, hand_model, CAMERA, tmp_path / "a.glb", correctives=True)
    assert played_mm(tmp_path / "a.glb", moving) < 1e-3
    glb = Glb(tmp_path / "a.glb")
    times_s = TIMES_S - TIMES_S[0]
    for frame, time_s in enumerate(times_s):
        size_m = np.ptp(glb.vertices_m("hand", time_s + 1e-4), axis=0).max()
        assert (size_m > 0.05) == (frame in moving.motion.frames), f"frame {frame}"
    # It hides at once, not little by little; and the animation lasts as long as the video.
    assert np.ptp(glb.vertices_m("hand", times_s[3] - 1e-4), axis=0).max() > 0.05
    assert max(times.max() for _, _, times, _, _ in glb.channels()) == pytest.approx(times_s[-1])


def test_a_scale_that_settles_is_followed(hand_model: HandModel, tmp_path: Path) -> None:
    settled = moving_hand(hand_model, scale=1.1)
    growing = moving_hand(hand_model, scale=1.0)
    T_camera_wrist, scale = settled.motion.T_camera_wrist.copy(), settled.motion.scale.copy()
    T_camera_wrist[:2], scale[:2] = growing.motion.T_camera_wrist[:2], 1.0
    vertices_m = np.concatenate([growing.vertices_m[:2], settled.vertices_m[2:]])
    motion = replace(settled.motion, T_camera_wrist=T_camera_wrist, scale=scale)
    save_animation([motion], TIMES_S, hand_model, CAMERA, tmp_path / "a.glb", correctives=True)
    assert played_mm(tmp_path / "a.glb", settled, vertices_m) < 1e-3


def test_one_can_look_through_the_camera(hand_model: HandModel, tmp_path: Path) -> None:
    moving = moving_hand(hand_model)
    save_animation([moving.motion], TIMES_S, hand_model, CAMERA, tmp_path / "a.glb", correctives=True)
    glb = Glb(tmp_path / "a.glb")
    node = glb.tree["nodes"][glb.node("camera")]
    assert set(node) == {"name", "camera"}
    perspective = glb.tree["cameras"][node["camera"]]["perspective"]
    points_m = glb.vertices_m("hand", 0.0)
    height = np.tan(perspective["yfov"] / 2)
    x, y = points_m[:, 0] / -points_m[:, 2] / (height * perspective["aspectRatio"]), points_m[:, 1] / -points_m[:, 2] / height
    # Pixel centres are integers.
    seen_px = np.stack([(x + 1) / 2 * CAMERA.width, (1 - y) / 2 * CAMERA.height], axis=1) - 0.5
    np.testing.assert_allclose(seen_px, project(moving.vertices_m[0], CAMERA), atol=0.01)


def test_targets_that_do_nothing_are_left_out_and_zeros_are_not_stored(hand_model: HandModel, tmp_path: Path) -> None:
    moving = moving_hand(hand_model)
    save_animation([moving.motion], TIMES_S, hand_model, CAMERA, tmp_path / "a.glb", correctives=True)
    glb = Glb(tmp_path / "a.glb")
    (primitive,) = glb.tree["meshes"][0]["primitives"]
    targets = [glb.values(target["POSITION"]) for target in primitive["targets"]]
    assert len(targets) <= 135 and all(target.any() for target in targets)
    assert len(glb.tree["meshes"][0]["extras"]["targetNames"]) == len(targets) == len(glb.tree["meshes"][0]["weights"])
    assert (tmp_path / "a.glb").stat().st_size < 0.5 * sum(target.size * 4 for target in targets)


@pytest.mark.parametrize("frames", [(0,), (0, 1, 2, 3, 4, 5, 6, 7)])
def test_a_single_frame_is_an_animation(frames: tuple[int, ...], hand_model: HandModel, tmp_path: Path) -> None:
    moving = moving_hand(hand_model, frames=(0,))
    save_animation([moving.motion], TIMES_S[list(frames)], hand_model, CAMERA, tmp_path / "a.glb")
    assert len(Glb(tmp_path / "a.glb").vertices_m("hand", 0.0)) == len(hand_model.template_m)


def test_bad_input_leaves_no_file(hand_model: HandModel, tmp_path: Path) -> None:
    moving = moving_hand(hand_model)
    for motions, name, complaint in (([], "a.glb", "at least one hand"), ([moving.motion], "a.gltf", "ends in .glb")):
        with pytest.raises(UserError, match=complaint):
            save_animation(motions, TIMES_S, hand_model, CAMERA, tmp_path / name)
    with pytest.raises(UserError, match="single precision"):
        save_animation([moving.motion], np.array([0, *(1e6 + TIMES_S[1:])]), hand_model, CAMERA, tmp_path / "a.glb")
    assert not list(tmp_path.iterdir())


def test_khronos_finds_no_fault(hand_model: HandModel, tiny_hand_model: HandModel, tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node to run gltf-validator")
    found = subprocess.run([node, "-e", "require('gltf-validator')"], capture_output=True, env=os.environ)
    if found.returncode:
        pytest.skip("no gltf-validator in NODE_PATH (npm install gltf-validator)")
    code = (
        "const v = require('gltf-validator'), fs = require('fs');"
        "v.validateBytes(new Uint8Array(fs.readFileSync(process.argv[1]))).then(r => console.log(JSON.stringify(r.issues)));"
    )
    tiny = moving_hand(tiny_hand_model, shape_noise=0.2)
    hands = [moving_hand(hand_model, True, 1.1, (1, 2, 5), 0.2, "right_0"), moving_hand(hand_model, False, name="left_1")]
    motions = [hand.motion for hand in hands]
    save_animation(motions, TIMES_S, hand_model, CAMERA, tmp_path / "plain.glb")
    save_animation(motions, TIMES_S, hand_model, CAMERA, tmp_path / "exact.glb", correctives=True)
    save_animation([tiny.motion], TIMES_S, tiny_hand_model, CAMERA, tmp_path / "many_influences.glb", correctives=True)
    for path in sorted(tmp_path.glob("*.glb")):
        issues = json.loads(subprocess.run([node, "-e", code, str(path)], capture_output=True, text=True, check=True, timeout=60).stdout)
        assert issues["numErrors"] == issues["numWarnings"] == 0, (path.name, issues["messages"][:5])


def read_bvh(path: Path) -> tuple[list[dict[str, Any]], np.ndarray, float]:
    """Joints (name, parent, offset, channels, tip) in the file's order, the table of the motion, and the frame time."""
    tokens = path.read_text().split()
    joints: list[dict[str, Any]] = []
    open_: list[int] = []
    index = tokens.index("HIERARCHY") + 1
    is_tip = False
    while tokens[index] != "MOTION":
        token = tokens[index]
        if token in ("ROOT", "JOINT"):
            joints.append({"name": tokens[index + 1], "parent": open_[-1] if open_ else -1})
            index += 2
        elif token == "End":
            is_tip = True
            index += 2
        elif token == "{":
            if not is_tip:
                open_.append(len(joints) - 1)
            index += 1
        elif token == "}":
            if is_tip:
                is_tip = False
            else:
                open_.pop()
            index += 1
        elif token == "OFFSET":
            joints[-1]["tip" if is_tip else "offset"] = np.array(tokens[index + 1 : index + 4], float)
            index += 4
        else:
            assert token == "CHANNELS"
            count = int(tokens[index + 1])
            joints[-1]["channels"] = tokens[index + 2 : index + 2 + count]
            index += 2 + count
    assert not open_ and tokens[index + 1] == "Frames:" and tokens[index + 3 : index + 5] == ["Frame", "Time:"]
    table = np.array(tokens[index + 6 :], float).reshape(int(tokens[index + 2]), -1)
    return joints, table, float(tokens[index + 5])


def bvh_positions_cm(joints: list[dict[str, Any]], row: np.ndarray) -> dict[str, np.ndarray]:
    """Joints and fingertips of one frame by the rules of the format: channels are applied in the order of the file."""
    world: list[np.ndarray] = []
    found = {}
    start = 0
    for joint in joints:
        local = np.eye(4)
        local[:3, 3] = joint["offset"]
        for channel, value in zip(joint["channels"], row[start : start + len(joint["channels"])], strict=True):
            step, axis = np.eye(4), "XYZ".index(channel[0])
            if channel.endswith("position"):
                step[axis, 3] = value
            else:
                step[:3, :3] = rotvec_to_rotmat(np.radians(value) * np.eye(3)[axis])
            local = local @ step
        start += len(joint["channels"])
        world.append(world[joint["parent"]] @ local if joint["parent"] >= 0 else local)
        found[joint["name"]] = world[-1][:3, 3]
        if "tip" in joint:
            found[f"{joint['name']}_end"] = (world[-1] @ np.append(joint["tip"], 1))[:3]
    assert start == len(row)
    return found


@pytest.mark.parametrize("is_right", [True, False])
def test_a_bvh_has_the_bones_of_the_hand(is_right: bool, hand_model: HandModel, tmp_path: Path) -> None:
    times_s = 2.0 + np.arange(8) / 25
    moving = moving_hand(hand_model, is_right, 1.1, name="hand")
    save_bvh(moving.motion, times_s, hand_model, tmp_path / "a.bvh")
    joints, table, step_s = read_bvh(tmp_path / "a.bvh")
    assert len(table) == 8 and step_s == pytest.approx(1 / 25)
    parents = {joint["name"]: joints[joint["parent"]]["name"] if joint["parent"] >= 0 else None for joint in joints}
    assert parents == {
        f"hand_{name}": f"hand_{MANO_JOINTS[parent]}" if parent >= 0 else None
        for name, parent in zip(MANO_JOINTS, MANO_PARENTS, strict=True)
    }
    # The kinematic chain of the model, placed by the mesh.
    model = hand_model.astype(np.float64)
    motion = moving.motion
    for row in range(8):
        rotmats = motion.rotmats[row].copy()
        R_camera_wrist = motion.T_camera_wrist[row, :3, :3]
        rotmats[0] = R_camera_wrist if is_right else mirror_rotmat(R_camera_wrist)
        mesh_m, (rest_m, rest_joints_m) = skin(model, rotmats, motion.betas[row]), shape_hand(model, motion.betas[row])
        world, chain_m = chain_joints(rest_joints_m, rotmats)
        tips_m = {
            finger: chain_m[joint] + world[joint] @ (rest_m[tip] - rest_joints_m[joint])
            for finger, tip in zip(FINGERS, model.tip_vertices, strict=True)
            for joint in [MANO_JOINTS.index(f"{finger}_ip" if finger == "thumb" else f"{finger}_dip")]
        }
        sided = (lambda points: points) if is_right else mirror_points
        shift_m = (moving.vertices_m[row] - 1.1 * sided(mesh_m)).mean(axis=0)
        found = bvh_positions_cm(joints, table[row])
        for index, name in enumerate(MANO_JOINTS):
            expected_cm = 100 * (1.1 * sided(chain_m[index]) + shift_m) * GLTF_AXES
            np.testing.assert_allclose(found[f"hand_{name}"], expected_cm, atol=1e-3)
        for finger, tip_m in tips_m.items():
            expected_cm = 100 * (1.1 * sided(tip_m) + shift_m) * GLTF_AXES
            end = f"hand_{finger}_{'ip' if finger == 'thumb' else 'dip'}_end"
            np.testing.assert_allclose(found[end], expected_cm, atol=1e-3)
    # Angles do not jump by full turns.
    assert np.abs(np.diff(table[:, 3:], axis=0)).max() <= 180


def test_a_bvh_makes_times_even_and_keeps_a_hand_that_is_away(hand_model: HandModel, tmp_path: Path) -> None:
    moving = moving_hand(hand_model, frames=(1, 2, 5, 6))
    times_s = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.9])
    save_bvh(moving.motion, times_s, hand_model, tmp_path / "a.bvh")
    _, table, step_s = read_bvh(tmp_path / "a.bvh")
    assert step_s == pytest.approx(0.1) and len(table) == 10
    np.testing.assert_allclose(table[[0, 3, 4]], table[[1, 2, 2]], atol=1e-3)
    np.testing.assert_allclose(table[7:], table[[6, 6, 6]], atol=1e-3)
    assert np.abs(table[5] - table[4]).max() > 0.1


def test_a_bvh_is_right_where_two_of_its_axes_are_one(hand_model: HandModel, tmp_path: Path) -> None:
    moving = moving_hand(hand_model)
    rotmats = moving.motion.rotmats.copy()
    quarter = rotvec_to_rotmat(np.array([0, np.pi / 2, 0]))
    rotmats[:, 4] = rotvec_to_rotmat(np.array([0.3, 0, 0])) @ quarter
    save_bvh(replace(moving.motion, rotmats=rotmats), TIMES_S, hand_model, tmp_path / "a.bvh")
    joints, table, _ = read_bvh(tmp_path / "a.bvh")
    index = [joint["name"] for joint in joints].index(f"hand_{MANO_JOINTS[4]}")
    z, y, x = np.radians(table[0, 3 + 3 * index : 6 + 3 * index])
    product = rotvec_to_rotmat(np.array([0, 0, z])) @ rotvec_to_rotmat(np.array([0, y, 0])) @ rotvec_to_rotmat(np.array([x, 0, 0]))
    np.testing.assert_allclose(product, rotmats[0, 4], atol=1e-5)


def test_the_camera_of_an_upright_picture_is_upright(hand_model: HandModel, tmp_path: Path) -> None:
    save_animation([moving_hand(hand_model).motion], TIMES_S, hand_model, camera_from_fov(480, 640, 65), tmp_path / "a.glb")
    perspective = Glb(tmp_path / "a.glb").tree["cameras"][0]["perspective"]
    assert np.degrees(perspective["yfov"]) == pytest.approx(65, abs=0.1) and perspective["aspectRatio"] == pytest.approx(0.75)
