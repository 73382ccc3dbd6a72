"""Exported networks: what is refused, in one line, and that both runtimes say the same."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from handmesh import HandMeshEstimator
from handmesh.detection import HandDetector
from handmesh.errors import UserError
from handmesh.geometry.camera import camera_from_fov
from handmesh.hand_model import load_hand_model
from handmesh.hand_model.assets import ASSETS
from handmesh.hand_model.skinning import skin
from handmesh.head import HEADS, Head, read_head_info
from handmesh.runtime import DEFAULT_MODEL, METADATA_KEY, Predictor, read_network_info
from handmesh.skeleton import ROOT

CAMERA = camera_from_fov(640, 480, 60)


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    size = read_network_info(DEFAULT_MODEL).input_size_px
    return np.random.default_rng(0).integers(0, 256, (5, size, size, 3), dtype=np.uint8)


def _with_metadata(path: Path, source: Path = DEFAULT_MODEL, **changes) -> Path:
    """A copy of an embedded network whose metadata says something else; no changes take the entry away."""
    proto = onnx.load(str(source))
    (entry,) = [entry for entry in proto.metadata_props if entry.key == METADATA_KEY]
    if changes:
        entry.value = json.dumps({**json.loads(entry.value), **changes})
    else:
        proto.metadata_props.remove(entry)
    onnx.save(proto, str(path))
    return path


def test_the_embedded_network_is_for_the_open_hand():
    info = read_network_info(DEFAULT_MODEL, load_hand_model("open").id)
    assert info.variant.startswith("fastvit_") and info.input_size_px % 32 == 0
    assert info.metadata["parity_mm"] <= 0.1


def test_metadata_is_what_onnx_reads(tmp_path):
    path = _with_metadata(tmp_path / "other.onnx", variant="fastvit_ü")
    assert read_network_info(path).variant == "fastvit_ü"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "no handmesh metadata"),
        ({"format": 99}, "expected a network with format 1, got 99"),
        ({"crop_rule": "tight"}, "crop_rule"),
        ({"root": "wrist"}, "root"),
        ({"hand_model": "mano-right"}, "for 'mano-right'"),
        ({"hand_model": 7}, "no hand_model"),
        ({"input_size_px": "96"}, "no input_size_px"),
    ],
)
def test_another_kind_of_network_is_refused(tmp_path, changes, says):
    path = _with_metadata(tmp_path / "other.onnx", **changes)
    with pytest.raises(UserError, match=says) as caught:
        Predictor(path, load_hand_model("open").id)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"hello, this is text\n" * 50, DEFAULT_MODEL.read_bytes()[:5000], DEFAULT_MODEL.read_bytes()[5000:]]
)
def test_a_broken_file_is_one_line(tmp_path, content):
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.onnx") as caught:
        Predictor(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
@pytest.mark.parametrize(("source", "load"), [(DEFAULT_MODEL, Predictor), (HEADS["lite"], Head)])
def test_a_graph_that_no_runtime_runs_is_one_line(tmp_path, source, load, runtime):
    proto = onnx.load(str(source))
    proto.graph.node[len(proto.graph.node) // 2].op_type = "NoSuchOperator"
    path = tmp_path / "odd.onnx"
    onnx.save(proto, str(path))
    with pytest.raises(UserError, match=r"odd\.onnx"):
        load(path, runtime=runtime)


@pytest.mark.parametrize(
    "changes",
    [{"network_sha256": 7}, {"landmarks": "medium"}, {"landmarks": ["full"]}, {"head_format": 0}],
    ids=str,
)
def test_a_head_that_says_something_else_is_refused(tmp_path, changes):
    path = _with_metadata(tmp_path / "head.onnx", HEADS["lite"], **changes)
    with pytest.raises(UserError, match=r"head\.onnx"):
        read_head_info(path)


@pytest.mark.parametrize(("source", "load", "expected"), [(DEFAULT_MODEL, Head, "a head"), (HEADS["lite"], Predictor, "a network")])
def test_a_file_of_another_kind_is_called_that_and_not_corrupted(source, load, expected):
    with pytest.raises(UserError, match=f"expected {expected}.*of another kind"):
        load(source)


@pytest.mark.parametrize("text", ["[1, 2]", "{}", '{"format": 1}', "no json", "null"])
def test_odd_metadata_is_one_line(tmp_path, text):
    proto = onnx.load(str(DEFAULT_MODEL))
    for entry in proto.metadata_props:
        entry.value = text
    onnx.save(proto, str(tmp_path / "odd.onnx"))
    with pytest.raises(UserError, match=r"odd\.onnx"):
        Predictor(tmp_path / "odd.onnx")


def test_the_embedded_network_names_no_machine():
    data = DEFAULT_MODEL.read_bytes()
    assert b"site-packages" not in data and str(Path(__file__).parents[1]).encode() not in data


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        Predictor(tmp_path / "none.onnx")


def test_precision_is_never_implicit():
    with pytest.raises(UserError, match="--precision f32 with --runtime onnxruntime"):
        Predictor(runtime="onnxruntime", precision="bf16")


def test_both_runtimes_say_the_same(crops):
    model = load_hand_model("open").astype(np.float64)

    def vertices_m(runtime):
        return np.stack([skin(model, params.rotmats.astype(np.float64), params.betas) for params in Predictor(runtime=runtime)(crops)])

    distance_mm = 1e3 * np.linalg.norm(vertices_m("openvino") - vertices_m("onnxruntime"), axis=-1).mean()
    assert distance_mm < 0.01


@pytest.mark.parametrize("landmarks", ["off", "full", "lite"])
def test_what_bf16_costs(landmarks):
    """On hands of the embedded clip: the hand network alone, and the head, which learnt from looks in both precisions."""
    video = cv2.VideoCapture(str(ASSETS / "demo_clip.mp4"))
    detector = HandDetector()
    with HandMeshEstimator(landmarks=landmarks) as full, HandMeshEstimator(landmarks=landmarks, precision="bf16") as half:
        distances_mm = []
        for index in range(0, 180, 12):
            video.set(cv2.CAP_PROP_POS_FRAMES, index)
            image_rgb = np.ascontiguousarray(video.read()[1][..., ::-1])
            detections = detector(image_rgb)
            for one, other in zip(full(image_rgb, CAMERA, detections), half(image_rgb, CAMERA, detections), strict=True):
                root_m = [hand.joints_m[ROOT] for hand in (one, other)]
                distances_mm += [1e3 * np.linalg.norm((one.vertices_m - root_m[0]) - (other.vertices_m - root_m[1]), axis=1).mean()]
    assert len(distances_mm) > 10 and np.mean(distances_mm) < 1.0


def test_batches_do_not_mix(crops):
    predictor = Predictor()
    together, alone = predictor(crops), [predictor(crop[None])[0] for crop in crops]
    for one, other in zip(together, alone, strict=True):
        assert one.rotmats == pytest.approx(other.rotmats, abs=1e-4) and one.camera == pytest.approx(other.camera, abs=1e-4)
    assert predictor(crops[:0]) == []


def test_outputs_are_rotations_and_probabilities(crops):
    for params in Predictor()(crops):
        assert params.rotmats @ params.rotmats.transpose(0, 2, 1) == pytest.approx(np.tile(np.eye(3), (16, 1, 1)), abs=1e-5)
        assert np.linalg.det(params.rotmats) == pytest.approx(np.ones(16), abs=1e-5)
        assert 0 <= params.presence <= 1 and params.camera[0] > 0


def test_crops_of_another_size_are_refused(crops):
    with pytest.raises(ValueError, match="expected crops of shape"):
        Predictor()(crops[:, :-32])
