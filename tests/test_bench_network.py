"""The network's benchmark: turns, counting, shares, what is refused, and what a machine without torch still gets."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import openvino
import pytest
from openvino import opset13 as ops

from handmesh.bench import layers, matmul, networks
from handmesh.bench.canvas import NO_MATPLOTLIB
from handmesh.bench.macs import count_macs
from handmesh.bench.matmul import best_product
from handmesh.bench.network_command import (
    LayersCommand,
    NetworkCommand,
    ResolutionCommand,
    _network_row,
    run_layers,
    run_network,
    run_resolution,
)
from handmesh.bench.records import Report, Timing, time_in_turn
from handmesh.cli import missing_part
from handmesh.config import parse_flags
from handmesh.errors import UserError
from handmesh.runtime import DEFAULT_MODEL

VARIANT, SIDE_PX = "fastvit_t8", 64


@pytest.fixture(autouse=True)
def _small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul, "CPU_SIZES", (512,))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads that wait for each other make a busy machine very slow. The benchmark sets torch's for the whole process."""
    if find_spec("torch") is None:
        yield
        return
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> networks.Subject:
    pytest.importorskip("timm")
    return networks.subject_of_variant(VARIANT, "keypoint", SIDE_PX, tmp_path_factory.mktemp("network"))


@pytest.fixture
def no_second_export(monkeypatch: pytest.MonkeyPatch, subject: networks.Subject) -> None:
    """An export takes seconds; this module needs one."""
    monkeypatch.setattr("handmesh.bench.network_command.subject_of_variant", lambda *_: subject)


def without(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)


def check_written(report: Report, folder: Path) -> None:
    """Every row has the same keys, the file holds the report, and its plot is 1000 px wide."""
    assert {tuple(row) for row in report.rows} == {tuple(report.rows[0])}
    written = json.loads((folder / f"{report.what}.json").read_text())
    assert (written["rows"], written["notes"], written["what"]) == (report.rows, report.notes, report.what)
    plot = cv2.imread(str(folder / f"{report.what}.png"))
    assert plot is not None and plot.shape[1] == 1000 and plot.std() > 5


# --- turns and counting ---


def test_all_run_equally_often_and_in_turns() -> None:
    log: list[str] = []
    timings = time_in_turn({name: lambda name=name: log.append(name) for name in "abc"}, rounds=3, runs_a_turn=4, warm_up=2)
    assert Counter(log) == {"a": 18, "b": 18, "c": 18}
    turns = [log[start : start + 6] for start in range(0, len(log), 6)]
    assert [set(turn) for turn in turns] == [{"a"}, {"b"}, {"c"}] * 3
    assert {name: len(timing.samples_ms) for name, timing in timings.items()} == {"a": 12, "b": 12, "c": 12}


def test_macs_of_a_small_graph() -> None:
    rng = np.random.default_rng(0)

    def weight(*shape: int):
        return ops.constant(rng.random(shape, np.float32))

    pictures = ops.parameter([2, 3, 8, 8], np.float32)
    wide = ops.convolution(pictures, weight(4, 3, 3, 3), [2, 2], [1, 1], [1, 1], [1, 1])
    deep = ops.group_convolution(wide, weight(2, 3, 2, 1, 1), [1, 1], [0, 0], [0, 0], [1, 1])
    flat = ops.reshape(ops.relu(deep), ops.constant(np.array([2, 6, 16])), False)
    product = ops.matmul(flat, weight(2, 5, 6), True, True)
    model = openvino.Model([product], [pictures], "small")
    by_hand = 2 * 4 * 4 * 4 * (3 * 3 * 3) + 2 * 6 * 4 * 4 * 2 + 2 * 16 * 5 * 6
    assert count_macs(model) == by_hand


@pytest.mark.parametrize(
    ("variant", "attention_macs", "published_gmacs"),
    [
        ("fastvit_t8", 0, 0.70),
        # Two blocks, each with two products of all 8 x 8 places with all others over 512 channels.
        ("fastvit_sa12", 2 * 2 * 64 * 64 * 512, 1.96),
    ],
)
def test_macs_of_a_trunk_are_those_of_its_shapes_and_near_the_published(variant: str, attention_macs: int, published_gmacs: float) -> None:
    """One picture of 256 px; timm's published numbers also count normalisation and the like."""
    torch, timm = pytest.importorskip("torch"), pytest.importorskip("timm")
    trunk = timm.utils.model.reparameterize_model(timm.create_model(variant, num_classes=0, global_pool="").eval())
    pictures = torch.zeros(1, 3, 256, 256)
    macs = [attention_macs]
    for module in trunk.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            # Each output is a sum over one row or filter of the weight.
            module.register_forward_hook(lambda module, _, output: macs.append(output.numel() * module.weight[0].numel()))
    with torch.no_grad():
        trunk(pictures)
        by_hand = sum(macs)
        model = openvino.convert_model(trunk, example_input=pictures)
    model.reshape(list(pictures.shape))
    assert count_macs(model) == by_hand
    assert 1e-9 * by_hand == pytest.approx(published_gmacs, rel=0.03)


def test_speed_and_share_of_a_row() -> None:
    subject = networks.Subject("net", 64, Path("net.onnx"), macs=3_000_000)
    timing, baseline = Timing("x", (2.0, 2.0)), Timing("y", (6.0,))
    row = _network_row(subject, "onnxruntime", 4, timing, baseline, matmul.Peak(24.0, 512, "by hand"))
    assert (row["gflops"], row["peak_share"], row["pictures_s"]) == pytest.approx((12.0, 0.5, 2000.0))
    assert row["vs_torch_fused"] == pytest.approx(3.0)
    unknown = _network_row(subject, "onnxruntime", 4, timing, None, None)
    assert unknown["vs_torch_fused"] is unknown["peak_share"] is None


def test_the_best_product_is_the_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"slow": 4.0, "fast": 1.0}
    monkeypatch.setattr(matmul, "_cpu_products", lambda *_: [(how, lambda how=how: how) for how in seconds])
    monkeypatch.setattr(matmul, "_shortest_s", lambda run: seconds[run()])
    peak = best_product("f32", "cpu", 1, (1000,))
    assert peak == matmul.Peak(2.0, 1000, "fast")


def test_nothing_multiplies_in_an_arithmetic_that_the_cpu_lacks() -> None:
    assert best_product("fp16", "cpu", 1) is None or "FP16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


# --- network ---


def test_network_reports_every_way_or_says_why_not(no_second_export: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ways: tuple[networks.Way, ...] = (
        "torch-train",
        "torch-fused",
        "torch-channels-last",
        "onnxruntime",
        "openvino-f32",
        "openvino-bf16",
        "openvino-int8",
        "cuda-eager-bf16",
        "cuda-graph-fp16",
    )
    report = run_network(NetworkCommand((VARIANT,), size_px=SIDE_PX, batches=(1, 2), ways=ways, rounds=1, threads=1, out=tmp_path))
    check_written(report, tmp_path)
    notes, timed = " ".join(report.notes), {row["way"] for row in report.rows}
    assert all(way in timed or way in notes for way in ways)
    assert Counter(row["batch"] for row in report.rows) == {1: len(timed), 2: len(timed)}
    assert all(row["vs_torch_fused"] == 1 for row in report.rows if row["way"] == "torch-fused")
    assert all(row["peak_share"] > 0 for row in report.rows)
    assert "random" in notes
    assert "openvino-f32" in capsys.readouterr().out


def test_cuda_without_a_card_is_a_note(subject: networks.Subject) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a card")
    with pytest.raises(networks.NotHereError, match="no CUDA device"):
        networks.prepare(subject, "cuda-compile-f32", 1, 1)


def test_all_forms_say_the_same(subject: networks.Subject) -> None:
    expected = networks.prepare(subject, "torch-train", 2, 1)()
    others = {way: networks.prepare(subject, way, 2, 1)() for way in ("torch-fused", "torch-channels-last", "onnxruntime", "openvino-f32")}
    for way, outputs in others.items():
        # OpenVINO answers by output, in the same order.
        values = list(outputs.values()) if way.startswith("openvino") else outputs
        for ours, theirs in zip(values, expected, strict=True):
            np.testing.assert_allclose(np.asarray(ours), theirs.numpy(), atol=1e-4, err_msg=way)


def test_a_compiler_that_fails_is_a_reason_in_one_line(subject: networks.Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        raise RuntimeError("no C++ compiler\nwas found")

    monkeypatch.setattr("torch.compile", lambda net, **_: failing)
    with pytest.raises(networks.NotHereError, match=r"^torch.compile failed: RuntimeError: no C\+\+ compiler was found$"):
        networks.prepare(subject, "torch-compile", 1, 1)


def test_int8_without_nncf_names_the_extra(subject: networks.Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    without("nncf", monkeypatch)
    with pytest.raises(networks.NotHereError, match=r"handmesh\[export\]"):
        networks.prepare(replace(subject, forms={}), "openvino-int8", 1, 1)


def test_an_int8_file_runs_in_nothing_else(subject: networks.Subject) -> None:
    with pytest.raises(networks.NotHereError, match="int8"):
        networks.prepare(replace(subject, is_int8=True), "openvino-f32", 1, 1)
    assert networks.arithmetic_of("onnxruntime", replace(subject, is_int8=True)) == "int8"


def test_without_torch_the_embedded_network_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without("torch", monkeypatch)
    ways: tuple[networks.Way, ...] = ("onnxruntime", "openvino-f32", "torch-fused")
    report = run_network(NetworkCommand(batches=(1,), ways=ways, rounds=1, threads=1, out=tmp_path))
    assert [(row["network"], row["way"]) for row in report.rows] == [
        (DEFAULT_MODEL.stem, "onnxruntime"),
        (DEFAULT_MODEL.stem, "openvino-f32"),
    ]
    assert any("torch-fused" in note for note in report.notes)
    assert not any("random" in note for note in report.notes)


def test_a_file_against_torch(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    command = NetworkCommand(model="default", batches=(1,), ways=("openvino-f32",), rounds=1, threads=1, against="torch", out=tmp_path)
    report = run_network(command)
    assert [row["way"] for row in report.rows] == ["openvino-f32", "torch-fused"]
    assert report.rows[0]["vs_torch_fused"] == pytest.approx(report.rows[1]["median_ms"] / report.rows[0]["median_ms"])


@pytest.mark.parametrize(
    ("run", "command"),
    [
        (run_network, NetworkCommand((VARIANT,))),
        (run_network, NetworkCommand(model="default", against="torch")),
        (run_resolution, ResolutionCommand()),
        (run_layers, LayersCommand()),
    ],
)
def test_without_torch_the_rest_names_the_extra(run, command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without("torch", monkeypatch)
    with pytest.raises(ModuleNotFoundError) as raised:
        run(replace(command, out=tmp_path))
    assert "handmesh[train]" in (missing_part(raised.value) or "")


# --- bad input ---


@pytest.mark.parametrize(
    ("cls", "flags"),
    [
        (NetworkCommand, ["--ways", "abacus"]),
        (NetworkCommand, ["--rounds", "0"]),
        (NetworkCommand, ["--batches", "1", "0"]),
        (NetworkCommand, ["--threads", "-1"]),
        (NetworkCommand, ["--model", "default", "--variants", VARIANT]),
        (ResolutionCommand, ["--sizes-px", "100"]),
        (LayersCommand, ["--precision", "int8"]),
    ],
)
def test_bad_flags_are_refused_in_one_line(cls: type, flags: list[str]) -> None:
    with pytest.raises(UserError) as raised:
        parse_flags(cls, flags, "handmesh-bench")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("run", "command"),
    [
        (run_network, NetworkCommand(("fastvit_t9",))),
        (run_resolution, ResolutionCommand(("fastvit_t9",))),
        (run_layers, LayersCommand("fastvit_t9")),
    ],
)
def test_an_unknown_variant_is_refused_in_one_line(run, command, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    with pytest.raises(UserError, match=r"fastvit_ma36, got 'fastvit_t9'$"):
        run(replace(command, out=tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_network_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    with pytest.raises(UserError, match="got"):
        networks.subject_of_file(other)
    other.write_bytes(b"no network")
    with pytest.raises(UserError, match="refuses"):
        networks.subject_of_file(other)
    parameter = ops.parameter([1, 3, 8, 8], np.float32)
    openvino.save_model(openvino.Model([ops.relu(parameter)], [parameter], "other"), tmp_path / "other.xml")
    with pytest.raises(UserError, match="reads crops"):
        networks.subject_of_file(tmp_path / "other.xml")


# --- resolution ---


def test_resolution_compares_the_forms_at_every_side(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    report = run_resolution(ResolutionCommand((VARIANT,), (64, 96), rounds=1, threads=1, out=tmp_path))
    check_written(report, tmp_path)
    assert [(row["size_px"], row["form"]) for row in report.rows] == [(side, form) for side in (64, 96) for form in ("train form", "fused")]
    assert all(row["vs_train_form"] == 1 for row in report.rows if row["form"] == "train form")


# --- layers ---


def test_layers_account_for_all_time_and_work(tmp_path: Path) -> None:
    report = run_layers(LayersCommand(model="default", rounds=1, threads=1, out=tmp_path))
    check_written(report, tmp_path)
    macs = networks.subject_of_file(DEFAULT_MODEL).macs
    for by in ("kind", "stage", "node"):
        rows = [row for row in report.rows if row["by"] == by]
        assert sum(row["share"] for row in rows) == pytest.approx(1)
        assert 1e9 * sum(row["gmacs"] for row in rows) == pytest.approx(macs)
    assert [row["name"] for row in report.rows if row["by"] == "stage"] == list(layers.STAGES)
    assert {"convolution 1x1", "depthwise 7x7", "depthwise 3x3", "matrix product"} <= {row["name"] for row in report.rows}


def test_the_work_of_a_fused_attention_is_counted() -> None:
    pictures = ops.parameter([1, 64, 64, 3], np.uint8)
    tokens = ops.reshape(ops.convert(pictures, "f32"), ops.constant(np.array([1, 64, 4, 48])), False)
    queries, keys = (ops.transpose(tokens, ops.constant(np.array(order))) for order in ((0, 2, 1, 3), (0, 2, 3, 1)))
    seen = ops.matmul(ops.softmax(ops.matmul(queries, keys, False, False), -1), queries, False, False)
    nodes = layers.profile_nodes(openvino.Model([seen], [pictures], "attention"), "f32", 1, 4)
    assert sum(node.macs for node in nodes) == 2 * 4 * 64 * 64 * 48
    assert layers.work_kind("Subgraph", [], {"MatMul", "Softmax"}) == "attention"


def test_without_matplotlib_there_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without("matplotlib", monkeypatch)
    report = run_layers(LayersCommand(model="default", rounds=1, threads=1, out=tmp_path))
    assert NO_MATPLOTLIB in report.notes
    assert [path.name for path in tmp_path.iterdir()] == ["layers.json"]


def test_the_middle_mean_ignores_outliers() -> None:
    assert layers.middle_mean([1.0, 2.0, 2.0, 3.0, 900.0]) == pytest.approx(7 / 3)
    assert layers.middle_mean([5.0]) == 5.0
