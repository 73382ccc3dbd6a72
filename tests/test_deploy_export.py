"""From a few steps of training to a file that the runtime reads, with the distance stated in millimetres."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from generated_shards import GeneratedShards

from handmesh.deploy import export
from handmesh.deploy.command import ExportCommand, run_export
from handmesh.errors import UserError
from handmesh.geometry.crop import CROP_RULE
from handmesh.hand_model import load_hand_model
from handmesh.hand_model.assets import save_hand_model
from handmesh.hand_model.skinning import skin
from handmesh.runtime import Predictor, read_network_info
from handmesh.training.checkpoint import load_checkpoint, net_from_checkpoint
from handmesh.training.command import DataConfig, ModelConfig, ScheduleConfig, TrainCommand
from handmesh.training.layer import rot6d_to_rotmat
from handmesh.training.loop import train
from handmesh.training.model import build_net


@pytest.fixture(scope="module")
def checkpoint_path(tmp_path_factory) -> Path:
    """Five steps, with a learning rate that moves the outputs away from the relaxed hand."""
    command = TrainCommand(
        out=tmp_path_factory.mktemp("run"),
        device="cpu",
        precision="f32",
        model=ModelConfig(size_px=64),
        data=DataConfig(batch_size=4, validation_pictures=8),
        schedule=ScheduleConfig(pictures=20, warmup_pictures=0, learning_rate=1e-2),
    )
    return train(command, GeneratedShards(load_hand_model("open")).data(command.data.batch_size))


@pytest.fixture(scope="module")
def network_path(checkpoint_path) -> Path:
    return run_export(ExportCommand(checkpoint_path, checkpoint_path.with_name("hand.onnx")))


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    return export.parity_pictures(64)[:5]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_runtime_gives_the_trained_networks_mesh(checkpoint_path, network_path, crops, hand_model, runtime):
    net = net_from_checkpoint(load_checkpoint(checkpoint_path))
    with torch.no_grad():
        theirs = net(torch.from_numpy(crops))
    expected = skin(hand_model, rot6d_to_rotmat(theirs.rot6d.view(-1, 16, 6)).numpy(), theirs.betas.numpy())
    params = Predictor(network_path, hand_model.id, runtime)(crops)
    ours = np.stack([skin(hand_model, each.rotmats, each.betas) for each in params])
    assert 1e3 * np.linalg.norm(ours - expected, axis=-1).mean() <= 0.01
    assert np.allclose([each.camera for each in params], theirs.camera.numpy(), atol=1e-4)
    assert np.allclose([each.presence for each in params], theirs.presence_logit.sigmoid().numpy(), atol=1e-4)
    assert np.allclose([each.right_logit for each in params], theirs.right_logit.numpy(), atol=1e-3)


def test_the_file_says_what_it_is(checkpoint_path, network_path, hand_model):
    info = read_network_info(network_path, hand_model.id)
    checkpoint = load_checkpoint(checkpoint_path)
    assert (info.hand_model, info.input_size_px, info.variant) == (hand_model.id, 64, "fastvit_t8")
    expected = {
        "format": 1,
        "crop_rule": CROP_RULE,
        "root": "middle_mcp",
        "head": "keypoint",
        "weights": "f32",
        "commit": checkpoint.commit,
        "config_hash": checkpoint.config_hash(),
    }
    assert {key: info.metadata[key] for key in expected} == expected
    assert 0 <= info.metadata["parity_mm"] <= 0.01


def test_nothing_of_training_is_in_the_graph(network_path):
    graph = onnx.load(network_path).graph
    assert [value.name for value in graph.input] == ["crops"]
    assert [value.name for value in graph.output] == list(export.OUTPUTS)
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert left_of_training(graph) == []


def left_of_training(graph: onnx.GraphProto) -> list[str]:
    return [tensor.name for tensor in graph.initializer if any(part in tensor.name for part in ("parts", "depth", "conv_scale", "norm."))]


def test_a_network_without_additional_branches_is_exported_alike(tmp_path, hand_model, monkeypatch):
    monkeypatch.setattr(export, "PARITY_PICTURES", 4)
    torch.manual_seed(0)
    net = build_net(ModelConfig(head="pooled", size_px=64, overparameterized=False)).eval()
    report = export.export_net(net, hand_model, tmp_path / "x.onnx", "f32", {})
    assert report.fused_f64_mm <= 1e-6 and report.file_mm <= 0.01
    graph = onnx.load(tmp_path / "x.onnx").graph
    assert left_of_training(graph) == []
    # The narrow map that dense heads look at is theirs alone.
    assert not [tensor.name for tensor in graph.initializer if "laterals" in tensor.name or "fuse_maps" in tensor.name]


def test_half_precision_weights_stay_within_their_limit(network_path, hand_model):
    proto = onnx.load(network_path)
    pictures = export.parity_pictures(64)
    full = export.vertices_of(hand_model, export.run_onnx(proto.SerializeToString(), pictures))
    export.store_weights_in_fp16(proto)
    data = proto.SerializeToString()
    half = export.vertices_of(hand_model, export.run_onnx(data, pictures))
    distance_mm = 1e3 * np.linalg.norm(half - full, axis=-1).mean()
    assert 0 < distance_mm <= 0.1
    assert len(data) < 0.6 * network_path.stat().st_size


def test_a_file_beyond_its_limit_is_not_written(checkpoint_path, network_path, hand_model, tmp_path, monkeypatch):
    net = net_from_checkpoint(load_checkpoint(checkpoint_path))
    proto = onnx.load(network_path)
    bias = next(tensor for tensor in proto.graph.initializer if tensor.name.endswith("head.output.bias"))
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(0.01), bias.name))
    monkeypatch.setattr(export, "to_onnx", lambda fused: proto)
    monkeypatch.setattr(export, "PARITY_PICTURES", 4)
    with pytest.raises(UserError, match="within 0.01 mm") as caught:
        export.export_net(net, hand_model, tmp_path / "x.onnx", "f32", {})
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_bad_requests_get_one_line(checkpoint_path, tmp_path, hand_model):
    with pytest.raises(UserError, match="end in .onnx"):
        run_export(ExportCommand(checkpoint_path, tmp_path / "x.bin"))
    with pytest.raises(UserError, match="is no file"):
        run_export(ExportCommand(tmp_path / "none.pt", tmp_path / "x.onnx"))
    save_hand_model(replace(hand_model, id="another-hand"), tmp_path / "hand.npz")
    with pytest.raises(UserError, match="got 'another-hand'"):
        run_export(ExportCommand(checkpoint_path, tmp_path / "x.onnx", hand_model=str(tmp_path / "hand.npz")))
