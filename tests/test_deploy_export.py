"""From a few steps of training to a file that the runtime reads, with the distance stated in millimetres."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from generated_shards import GeneratedShards

from handmesh.config import parse_flags
from handmesh.deploy import calibration, onnx_graph, parity, tensorrt_engine
from handmesh.deploy.calibration import read_calibration
from handmesh.deploy.command import ExportCommand, Format, Precision, run_export
from handmesh.deploy.export import export_net, write_form
from handmesh.deploy.graph import DeployNet, SplitDepthwise, arrange, fuse, is_doubling
from handmesh.deploy.job import Form, fuse_and_compare
from handmesh.deploy.parity import noise_pictures, vertices_of
from handmesh.errors import UserError
from handmesh.geometry.crop import CROP_RULE
from handmesh.hand_model import load_hand_model
from handmesh.hand_model.assets import save_hand_model
from handmesh.hand_model.skinning import skin
from handmesh.runtime import OUTPUTS, Predictor, read_network_info
from handmesh.synthetic.command import SynthCommand, run_synth
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
def form(checkpoint_path) -> Form:
    """The same network, fused once for all files of it."""
    return fuse_and_compare(net_from_checkpoint(load_checkpoint(checkpoint_path)), load_hand_model("open"), noise_pictures(64, 64))


@pytest.fixture(scope="module")
def metadata(network_path) -> dict:
    return read_network_info(network_path).metadata


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    return noise_pictures(64, 5)


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
        "precision": "f32",
        "commit": checkpoint.commit,
        "config_hash": checkpoint.config_hash(),
    }
    assert {key: info.metadata[key] for key in expected} == expected
    assert 0 <= info.metadata["parity_mm"] <= 0.01


def test_nothing_of_training_is_in_the_graph(network_path):
    graph = onnx.load(network_path).graph
    assert [value.name for value in graph.input] == ["crops"]
    assert [value.name for value in graph.output] == list(OUTPUTS)
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert left_of_training(graph) == []


def left_of_training(graph: onnx.GraphProto) -> list[str]:
    return [tensor.name for tensor in graph.initializer if any(part in tensor.name for part in ("parts", "depth", "conv_scale", "norm."))]


def test_a_network_without_additional_branches_is_exported_alike(tmp_path, hand_model, monkeypatch):
    monkeypatch.setattr(parity, "PARITY_PICTURES", 4)
    torch.manual_seed(0)
    net = build_net(ModelConfig(head="pooled", size_px=64, overparameterized=False)).eval()
    report = export_net(net, hand_model, tmp_path / "x.onnx", "f32", {})
    assert report.fused_f64_mm <= 1e-6 and report.file_mm <= 0.01
    graph = onnx.load(tmp_path / "x.onnx").graph
    assert left_of_training(graph) == []
    # The narrow map that dense heads look at is theirs alone.
    assert not [tensor.name for tensor in graph.initializer if "laterals" in tensor.name or "fuse_maps" in tensor.name]


@pytest.mark.parametrize(("variant", "head"), [("fastvit_t8", "keypoint"), ("fastvit_t8", "pooled"), ("fastvit_sa12", "keypoint")])
def test_the_arranged_network_is_the_fused_one(variant, head):
    net = lively(build_net(ModelConfig(variant=variant, head=head, size_px=64)))
    fused = fuse(net.double())
    arranged = arrange(fused)
    crops = torch.from_numpy(noise_pictures(64, 3))
    with torch.no_grad():
        ours, theirs = DeployNet(arranged)(crops), DeployNet(fused)(crops)
    for one, other in zip(ours, theirs, strict=True):
        assert (one - other).abs().max() <= 1e-9 * max(1.0, float(other.std(dim=0).max()))
        assert other.std(dim=0).max() > 1e-3
    # What runtimes are slow at is gone: two channels of one, and normalisation by itself.
    assert any(is_doubling(module) for module in fused.modules())
    assert not any(is_doubling(module) for module in arranged.modules())
    assert not [name for name, module in arranged.backbone.named_modules() if isinstance(module, torch.nn.BatchNorm2d)]


def lively(net):
    """Normalisation, scales and the last layer of a network that has seen something, so that every term of the arrangement counts."""
    torch.manual_seed(0)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 2)
                module.bias.normal_(0, 0.3)
            if isinstance(getattr(module, "gamma", None), torch.nn.Parameter):
                module.gamma.uniform_(0.2, 0.6)
        if hasattr(net.head, "log_temperature"):
            net.head.log_temperature.fill_(0.7)
        net.head.output.weight.mul_(30)
    return net.eval()


def test_two_depthwise_convolutions_are_a_doubling_one():
    conv = torch.nn.Conv2d(6, 12, 7, stride=2, padding=3, groups=6)
    x = torch.rand(2, 6, 9, 9)
    assert torch.allclose(SplitDepthwise(conv)(x), conv(x)[:, SplitDepthwise.order(12)], atol=1e-6)


def test_half_precision_weights_stay_within_their_limit(network_path, hand_model):
    proto = onnx.load(network_path)
    pictures = noise_pictures(64, 64)
    full = vertices_of(hand_model, onnx_graph.run_onnx(proto.SerializeToString(), pictures))
    onnx_graph.store_weights_in_fp16(proto)
    data = proto.SerializeToString()
    half = vertices_of(hand_model, onnx_graph.run_onnx(data, pictures))
    distance_mm = 1e3 * np.linalg.norm(half - full, axis=-1).mean()
    assert 0 < distance_mm <= 0.1
    assert len(data) < 0.6 * network_path.stat().st_size


FILES: tuple[tuple[Format, Precision, str, float], ...] = (
    ("onnx", "fp16", ".onnx", 0.1),
    ("openvino", "f32", ".xml", 0.01),
    ("openvino", "fp16", ".xml", 0.1),
    ("openvino", "bf16", ".xml", 1),
    ("openvino", "int8", ".xml", 2),
)


@pytest.mark.parametrize(("file_format", "precision", "suffix", "limit_mm"), FILES)
def test_each_file_is_the_trained_network(form, metadata, hand_model, tmp_path, file_format, precision, suffix, limit_mm):
    if precision == "int8":
        pytest.importorskip("nncf", reason="int8 needs nncf, of the export extra")
    if precision == "bf16":
        _skip_without_bf16()
    pictures = noise_pictures(64, 24, seed=1) if precision == "int8" else None
    out = tmp_path / f"hand{suffix}"
    report = write_form(form, out, precision, metadata, file_format, pictures)
    assert {path.name for path in tmp_path.iterdir()} == ({"hand.xml", "hand.bin"} if suffix == ".xml" else {"hand.onnx"})
    predictor = Predictor(out, hand_model.id)
    info = predictor.info
    assert (info.hand_model, info.input_size_px, info.variant) == (hand_model.id, 64, "fastvit_t8")
    assert info.metadata == {**metadata, "precision": precision, "parity_mm": report.file_mm}
    assert predictor.precision == ("bf16" if precision == "bf16" else "f32")
    # The reported distance is that of what the runtime gives for the file, and it moves with the pictures far more than that.
    ours_m = vertices_of(hand_model, predictor.outputs(form.crops))
    distance_mm = 1e3 * np.linalg.norm(ours_m - form.reference_m, axis=-1).mean()
    assert distance_mm <= limit_mm and report.limit_mm == limit_mm
    assert distance_mm == pytest.approx(report.file_mm, rel=0.05, abs=1e-3)


def test_files_differ_in_size_and_exactness(form, metadata, tmp_path):
    pytest.importorskip("nncf", reason="int8 needs nncf, of the export extra")
    pictures = noise_pictures(64, 24, seed=1)
    reports = {
        precision: write_form(
            form, tmp_path / f"{precision}.xml", precision, metadata, "openvino", pictures if precision == "int8" else None
        )
        for precision in ("f32", "fp16", "int8")
    }
    assert reports["f32"].size_mb > 1.7 * reports["fp16"].size_mb > 1.7 * reports["int8"].size_mb
    assert reports["f32"].file_mm < reports["fp16"].file_mm < reports["int8"].file_mm


def test_an_ir_without_its_weights_is_one_line(form, metadata, tmp_path):
    write_form(form, tmp_path / "hand.xml", "f32", metadata, "openvino")
    text = (tmp_path / "hand.xml").read_bytes()
    (tmp_path / "hand.bin").rename(tmp_path / "other.bin")
    with pytest.raises(UserError, match=r"hand\.bin' beside 'hand.xml'"):
        Predictor(tmp_path / "hand.xml")
    (tmp_path / "hand.bin").write_bytes(b"")
    with pytest.raises(UserError, match="refuses"):
        Predictor(tmp_path / "hand.xml")
    (tmp_path / "other.bin").rename(tmp_path / "hand.bin")
    for broken in (b"", text[: len(text) // 2], b"<?xml?></net>"):
        (tmp_path / "hand.xml").write_bytes(broken)
        with pytest.raises(UserError, match=r"hand\.xml"):
            Predictor(tmp_path / "hand.xml")
    (tmp_path / "hand.xml").write_bytes(text)
    with pytest.raises(UserError, match="expected an .onnx file with --runtime onnxruntime"):
        Predictor(tmp_path / "hand.xml", runtime="onnxruntime")
    assert len(Predictor(tmp_path / "hand.xml")(noise_pictures(64, 1))) == 1


def test_a_core_ml_package_takes_a_picture(form, metadata, tmp_path):
    coremltools = pytest.importorskip("coremltools", reason="Core ML needs coremltools, of the export extra")
    report = write_form(form, tmp_path / "hand.mlpackage", "fp16", metadata, "coreml")
    assert 0 < report.file_mm <= 0.1 and "needs a Mac" in report.notes[0]
    assert [path.name for path in tmp_path.iterdir()] == ["hand.mlpackage"]
    spec = coremltools.models.MLModel(str(tmp_path / "hand.mlpackage"), skip_model_load=True).get_spec()
    image = spec.description.input[0].type.imageType
    assert (image.width, image.height) == (64, 64) and image.colorSpace == image.ColorSpace.Value("RGB")
    assert [output.name for output in spec.description.output] == list(OUTPUTS)
    assert json.loads(spec.description.metadata.userDefined["handmesh"])["parity_mm"] == report.file_mm
    # Once more over the old one: a package is a folder.
    write_form(form, tmp_path / "hand.mlpackage", "f32", metadata, "coreml")
    assert [path.name for path in tmp_path.iterdir()] == ["hand.mlpackage"]


def test_tensorrt_starts_from_the_onnx_file(form, metadata, tmp_path, monkeypatch):
    monkeypatch.setattr(tensorrt_engine, "find_spec", lambda name: None)
    report = write_form(form, tmp_path / "hand.engine", "fp16", metadata, "tensorrt")
    assert report.path == tmp_path / "hand.onnx" and [path.name for path in tmp_path.iterdir()] == ["hand.onnx"]
    assert len(Predictor(report.path)(noise_pictures(64, 1))) == 1
    words = shlex.split(report.notes[0].partition("run: ")[2])
    assert words[0] == "trtexec" and f"--onnx={report.path}" in words and "--fp16" in words
    assert "--minShapes=crops:1x64x64x3" in words and "\n" not in report.notes[0]


def test_files_are_compared_on_drawn_hands_which_are_always_the_same(monkeypatch):
    monkeypatch.setattr(parity, "PARITY_PICTURES", 3)
    pictures = parity.parity_pictures(64)
    assert pictures.shape == (3, 64, 64, 3) and pictures.dtype == np.uint8
    assert (pictures == parity.parity_pictures(64)).all()
    assert min(pictures.std(axis=(1, 2, 3))) > 10 and np.abs(pictures[0].astype(int) - pictures[1]).mean() > 10


@pytest.mark.parametrize(("file_format", "suffix"), [("onnx", ".onnx"), ("openvino", ".xml"), ("coreml", ".mlpackage")])
def test_a_file_beyond_its_limit_is_not_written(form, metadata, tmp_path, file_format, suffix):
    if file_format == "coreml":
        pytest.importorskip("coremltools", reason="Core ML needs coremltools, of the export extra")
    moved = replace(form, reference_m=form.reference_m + 1e-4)
    with pytest.raises(UserError, match="within 0.01 mm") as caught:
        write_form(moved, tmp_path / f"x{suffix}", "f32", metadata, file_format)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_weights_that_are_no_numbers_are_not_written(hand_model, tmp_path, monkeypatch):
    monkeypatch.setattr(parity, "PARITY_PICTURES", 2)
    net = build_net(ModelConfig(head="pooled", size_px=64)).eval()
    torch.nn.init.constant_(net.head.output.bias, float("nan"))
    with pytest.raises(UserError, match="got nan mm; nothing was written"):
        export_net(net, hand_model, tmp_path / "x.onnx", "f32", {})
    assert not list(tmp_path.iterdir())


def test_calibration_pictures_are_not_those_it_is_measured_on(tmp_path):
    for number in range(90):
        picture = np.full((40, 50, 3), number, np.uint8)
        picture[:, :5] = picture[:, 45:] = 255
        cv2.imwrite(str(tmp_path / f"{number:03}.png"), picture[..., ::-1])
    to_calibrate, held_out = read_calibration(tmp_path, 32)
    assert to_calibrate.shape == (26, 32, 32, 3) and held_out.shape == (64, 32, 32, 3)
    shades = [set(np.unique(crops)) for crops in (to_calibrate, held_out)]
    assert not shades[0] & shades[1] and shades[0] | shades[1] == set(range(90))


@pytest.mark.parametrize("drawn_as", ["shards", "freihand"])
def test_calibration_reads_rendered_sets(tmp_path, monkeypatch, drawn_as):
    monkeypatch.setattr(calibration, "PARITY_PICTURES", 4)
    monkeypatch.setattr(calibration, "_FEWEST", 5)
    run_synth(SynthCommand(out=tmp_path / "set", count=12, size=64, format=drawn_as, workers=1))
    to_calibrate, held_out = read_calibration(tmp_path / "set", 96)
    assert held_out.shape == (4, 96, 96, 3) and 1 <= len(to_calibrate) <= 8
    assert all(crop.std() > 5 for crop in (*to_calibrate, *held_out))


def test_bad_requests_get_one_line(checkpoint_path, tmp_path, hand_model):
    def says(match: str, **flags) -> None:
        with pytest.raises(UserError, match=match) as caught:
            run_export(ExportCommand(**{"checkpoint": checkpoint_path, **flags}))
        assert "\n" not in str(caught.value)

    says("end in .onnx", out=tmp_path / "x.bin")
    says("end in .xml with --format openvino", out=tmp_path / "x.onnx", format="openvino")
    says("is no file", checkpoint=tmp_path / "none.pt", out=tmp_path / "x.onnx")
    says("--format openvino --precision bf16", out=tmp_path / "x.onnx", precision="bf16")
    says("--format openvino --precision int8", out=tmp_path / "x.onnx", precision="int8")
    says("export --precision fp16", format="coreml", precision="int8")
    says("export --precision fp16 or bf16", format="tensorrt", precision="int8")
    says("expected --calibration DIR", format="openvino", precision="int8")
    says("expected no --calibration", calibration=tmp_path)
    says("which is none", format="openvino", precision="int8", calibration=tmp_path / "none")
    says("expected at least 80 pictures .* got 0", format="openvino", precision="int8", calibration=tmp_path)
    save_hand_model(replace(hand_model, id="another-hand"), tmp_path / "hand.npz")
    says("got 'another-hand'", out=tmp_path / "x.onnx", hand_model=str(tmp_path / "hand.npz"))


def test_the_checkpoint_is_the_first_argument(capsys):
    command = parse_flags(ExportCommand, ["runs/x/last.pt", "--format", "openvino", "--precision", "fp16"], "handmesh-export")
    assert command == ExportCommand(Path("runs/x/last.pt"), precision="fp16", format="openvino")
    with pytest.raises(UserError):
        parse_flags(ExportCommand, [], "handmesh-export")


def _skip_without_bf16() -> None:
    import openvino

    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU does not compute in bf16")
