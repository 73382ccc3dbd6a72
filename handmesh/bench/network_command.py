"""`handmesh-bench network`, `resolution` and `layers`: the network by itself. Imports nothing slow, so that --help is quick."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from handmesh.bench import canvas, charts
from handmesh.bench.matmul import Arithmetic, Peak, best_product
from handmesh.bench.networks import (
    BASELINE,
    WAYS,
    NotHereError,
    Run,
    Subject,
    Way,
    arithmetic_of,
    check_variants,
    forget_compiled,
    prepare,
    random_net,
    read_graph,
    subject_of_file,
    subject_of_variant,
)
from handmesh.bench.records import Report, Timing, check_counts, print_report, time_in_turn, usable_cores
from handmesh.config import config_to_dict
from handmesh.errors import UserError
from handmesh.training.command import Head

_RANDOM = "The weights are random: time does not depend on them."
_NODES_IN_TABLE = 12


@dataclass(frozen=True)
class NetworkCommand:
    """Time the network alone, in every way that this machine can run it."""

    variants: tuple[str, ...] = ()
    """timm's names; none: fastvit_t8 where torch is installed, else the embedded network."""
    head: Head = "keypoint"
    """Of the variants."""
    size_px: int = 224
    """Side of the crops, a multiple of 32. A --model has its own."""
    batches: tuple[int, ...] = (1, 2, 8)
    """Crops in one run."""
    ways: tuple[Way, ...] = WAYS
    """How to run it. One that is not possible here becomes a note with the reason."""
    threads: int = 0
    """Of the CPU; 0: all cores that this process may use."""
    rounds: int = 10
    """Turns that each way has, of 10 timed runs each."""
    model: str | None = None
    """Time an exported .onnx or .xml file ('default': the embedded one) on the runtimes instead. Needs no torch."""
    against: Literal["torch"] | None = None
    """Ratios to the fused form in eager torch, also when it is not among the --ways, and for the variant of a --model."""
    out: Path = Path("bench_out")
    """Folder of network.json and network.png."""

    def __post_init__(self) -> None:
        if self.model is not None and self.variants:
            raise UserError(f"expected --variants or --model, got both ({' '.join(self.variants)} and {self.model}); leave one out")
        check_counts(self, "batches", "rounds", "size_px")
        if not self.batches or not self.ways:
            raise UserError("expected at least one of --batches and one of --ways, got none; leave the flag out for all")
        _check_threads(self.threads)


@dataclass(frozen=True)
class ResolutionCommand:
    """Time the trunk against the side of the picture, training form and fused, in eager torch."""

    variants: tuple[str, ...] = ("fastvit_t8",)
    """timm's names."""
    sizes_px: tuple[int, ...] = (224, 256, 384, 512, 768, 1024)
    """Sides of the pictures, multiples of 32."""
    threads: int = 0
    """Of the CPU; 0: all cores that this process may use."""
    rounds: int = 5
    """Turns that each form has, of 10 timed runs each."""
    out: Path = Path("bench_out")
    """Folder of resolution.json and resolution.png."""

    def __post_init__(self) -> None:
        check_counts(self, "sizes_px", "rounds")
        if not self.variants or not self.sizes_px:
            raise UserError("expected at least one of --variants and one of --sizes-px, got none; leave the flag out for the default")
        for size_px in self.sizes_px:
            if size_px % 32:
                raise UserError(f"expected --sizes-px in multiples of 32, got {size_px}")
        _check_threads(self.threads)


@dataclass(frozen=True)
class LayersCommand:
    """Show where the network's time goes: each node of it, by kind of work and by stage, in OpenVINO."""

    variant: str = "fastvit_ma36"
    """timm's name."""
    head: Head = "keypoint"
    """Of the variant."""
    size_px: int = 224
    """Side of the crops, a multiple of 32. A --model has its own."""
    precision: Literal["f32", "bf16"] = "f32"
    """Of the computation."""
    model: str | None = None
    """Look into an exported .onnx or .xml file ('default': the embedded one) instead. Needs no torch."""
    threads: int = 0
    """Of the CPU; 0: all cores that this process may use."""
    rounds: int = 10
    """Turns, of 10 runs each."""
    out: Path = Path("bench_out")
    """Folder of layers.json and layers.png."""

    def __post_init__(self) -> None:
        check_counts(self, "rounds", "size_px")
        _check_threads(self.threads)


def run_network(command: NetworkCommand) -> Report:
    """Time, print a table, write network.json and network.png.

    Raises:
        UserError: an unknown variant, an unfit size, a file that is no network, or an unwritable folder.
        ModuleNotFoundError: torch is needed and not installed.
    """
    threads = command.threads or usable_cores()
    ways = tuple(dict.fromkeys((*command.ways, *((BASELINE,) if command.against else ()))))
    notes, rows, refused = [], [], {}
    peaks: dict[tuple[str, Arithmetic], Peak | None] = {}
    with tempfile.TemporaryDirectory() as folder:
        for subject in _subjects(command, Path(folder)):
            for batch in command.batches:
                forget_compiled()
                runs: dict[Way, Run] = {}
                for way in ways:
                    try:
                        runs[way] = prepare(subject, way, batch, threads)
                    except NotHereError as reason:
                        refused.setdefault(str(reason), {})[way] = None
                timings = time_in_turn({**runs}, command.rounds)
                for way in runs:
                    asked = _device_of(way), arithmetic_of(way, subject)
                    if asked not in peaks:
                        peaks[asked] = best_product(asked[1], asked[0], threads)
                    rows.append(_network_row(subject, way, batch, timings[way], timings.get(BASELINE), peaks[asked]))
    if not rows:
        raise UserError(f"expected at least one of --ways to be possible, but {'; '.join(refused)}")
    if not _is_file(command):
        notes.append(_RANDOM)
    notes += [f"Not timed: {', '.join(these)}: {reason}." for reason, these in refused.items()]
    for (device, arithmetic), peak in peaks.items():
        if peak is None:
            notes.append(f"No share of a peak for {arithmetic} on {device}: nothing that is installed multiplies matrices in it.")
        else:
            notes.append(
                f"Best {arithmetic} matrix product in this run: {peak.gflops:.0f} GFLOP/s ({peak.how}, {peak.size} x {peak.size})."
            )
    settings = {**config_to_dict(command), "threads": threads}
    report = Report("network", settings, rows, notes)
    columns = {
        "network": "network",
        "size_px": "px",
        "batch": "batch",
        "way": "way",
        "median_ms": "median ms",
        "p95_ms": "p95 ms",
        "pictures_s": "pictures/s",
        "vs_torch_fused": "x torch-fused",
        "gflops": "GFLOP/s",
        "peak_share": "of the peak",
    }
    written = canvas.write(report, command.out, charts.draw_network)
    print_report(report, columns, f"One run of the network, {threads} threads")
    print(f"written: {written}")
    return report


def run_resolution(command: ResolutionCommand) -> Report:
    """Time, print a table, write resolution.json and resolution.png.

    As figure 2 of Vasu et al. 2023 (FastViT) shows what the fused RepMixer saves over the side of the picture.

    Raises:
        UserError: an unknown variant or an unwritable folder.
        ModuleNotFoundError: torch is not installed.
    """
    import torch
    from timm.utils.model import reparameterize_model

    from handmesh.training.model import create_backbone

    check_variants(command.variants)
    threads = command.threads or usable_cores()
    torch.set_num_threads(threads)
    rows = []
    for variant in command.variants:
        torch.manual_seed(0)
        trained = create_backbone(variant, False, 0.0).eval()
        forms = {"train form": trained, "fused": reparameterize_model(trained, inplace=False)}
        for size_px in command.sizes_px:
            picture = torch.rand(1, 3, size_px, size_px)
            timings = time_in_turn({form: _inference(net, picture) for form, net in forms.items()}, command.rounds)
            for form, timing in timings.items():
                rows.append(
                    {
                        "variant": variant,
                        "size_px": size_px,
                        "form": form,
                        "median_ms": timing.median_ms,
                        "p95_ms": timing.p95_ms,
                        "fastest_ms": min(timing.samples_ms),
                        "vs_train_form": timings["train form"].median_ms / timing.median_ms,
                        "runs": len(timing.samples_ms),
                    }
                )
    notes = [_RANDOM, "The trunk alone, one picture, f32, eager torch."]
    report = Report("resolution", {**config_to_dict(command), "threads": threads}, rows, notes)
    columns = {
        "variant": "trunk",
        "size_px": "px",
        "form": "form",
        "median_ms": "median ms",
        "p95_ms": "p95 ms",
        "vs_train_form": "x train form",
    }
    written = canvas.write(report, command.out, charts.draw_resolution)
    print_report(report, columns, f"One picture through the trunk, {threads} threads")
    print(f"written: {written}")
    return report


def run_layers(command: LayersCommand) -> Report:
    """Profile, print tables, write layers.json and layers.png.

    Raises:
        UserError: an unknown variant, an unfit size, a file that is no network, or an unwritable folder.
        ModuleNotFoundError: a variant is asked for and torch is not installed.
    """
    from handmesh.bench.layers import profile_nodes, rows_by

    threads = command.threads or usable_cores()
    with tempfile.TemporaryDirectory() as folder:
        if command.model is None:
            subject = subject_of_variant(command.variant, command.head, command.size_px, Path(folder))
        else:
            subject = subject_of_file(_model_path(command.model))
        way: Way = "openvino-int8" if subject.is_int8 else "openvino-bf16" if command.precision == "bf16" else "openvino-f32"
        try:
            run = prepare(subject, way, 1, threads)
        except NotHereError as reason:
            raise UserError(f"expected a --precision that can be computed here, got {command.precision}: {reason}") from reason
        whole = time_in_turn({way: run}, command.rounds)[way]
        graph = read_graph(subject.path)
        graph.reshape([1, subject.size_px, subject.size_px, 3])
        nodes = profile_nodes(graph, command.precision, threads, 10 * command.rounds)
    rows = [row for by in ("kind", "stage", "node") for row in rows_by(nodes, by)]
    notes = [_RANDOM] if command.model is None else []
    together_ms = sum(node.ms for node in nodes)
    notes.append(f"The nodes take {together_ms:.2f} ms together; the whole network, without the clocks, {whole.median_ms:.2f} ms (median).")
    peak = best_product(arithmetic_of(way, subject), "cpu", threads)
    if peak is not None:
        notes.append(f"Best matrix product in this run: {peak.gflops:.0f} GFLOP/s ({peak.how}, {peak.size} x {peak.size}).")
    report = Report(
        "layers",
        {**config_to_dict(command), "threads": threads, "network": subject.name, "size_px": subject.size_px},
        rows,
        notes,
    )
    title = f"{subject.name}, {subject.size_px} px, {command.precision}, {threads} threads"
    numbers = {"time_ms": "ms", "share": "share", "nodes": "nodes", "gmacs": "GMACs", "gflops": "GFLOP/s"}
    slowest = [row for row in rows if row["by"] == "node"][:_NODES_IN_TABLE]
    written = canvas.write(report, command.out, charts.draw_layers)
    for by, table, more, below in (
        (f"node, the {len(slowest)} slowest", slowest, {"kind": "kind", "stage": "stage"}, []),
        ("stage", [row for row in rows if row["by"] == "stage"], {}, []),
        ("kind of work", [row for row in rows if row["by"] == "kind"], {}, report.notes),
    ):
        print_report(replace(report, rows=table, notes=below), {"name": by, **more, **numbers}, title)
    print(f"written: {written}")
    return report


def _subjects(command: NetworkCommand, folder: Path) -> Iterator[Subject]:
    """The networks one by one: each is large."""
    if _is_file(command):
        yield _file_subject(command)
        return
    variants = command.variants or ("fastvit_t8",)
    check_variants(variants)
    for variant in variants:
        yield subject_of_variant(variant, command.head, command.size_px, folder)


def _is_file(command: NetworkCommand) -> bool:
    return command.model is not None or (not command.variants and find_spec("torch") is None)


def _file_subject(command: NetworkCommand) -> Subject:
    from handmesh.runtime import read_network_info

    path = _model_path(command.model or "default")
    subject = subject_of_file(path)
    if command.against is None:
        return subject
    info = read_network_info(path)
    return replace(subject, trained=random_net(info.variant, info.metadata.get("head", "keypoint"), subject.size_px))


def _model_path(model: str) -> Path:
    from handmesh.runtime import DEFAULT_MODEL

    return DEFAULT_MODEL if model == "default" else Path(model)


def _network_row(subject: Subject, way: Way, batch: int, timing: Timing, baseline: Timing | None, peak: Peak | None) -> dict[str, Any]:
    gflops = 2e-6 * subject.macs * batch / timing.median_ms
    return {
        "network": subject.name,
        "size_px": subject.size_px,
        "batch": batch,
        "way": way,
        "median_ms": timing.median_ms,
        "p95_ms": timing.p95_ms,
        "fastest_ms": min(timing.samples_ms),
        "pictures_s": 1e3 * batch / timing.median_ms,
        "vs_torch_fused": baseline.median_ms / timing.median_ms if baseline else None,
        "gmacs": 1e-9 * subject.macs,
        "gflops": gflops,
        "peak_gflops": peak.gflops if peak else None,
        "peak_share": gflops / peak.gflops if peak else None,
        "runs": len(timing.samples_ms),
    }


def _inference(net: Any, picture: Any) -> Run:
    import torch

    def run() -> object:
        with torch.inference_mode():
            return net(picture)

    return run


def _device_of(way: Way) -> Literal["cpu", "cuda"]:
    return "cuda" if way.startswith("cuda") else "cpu"


def _check_threads(threads: int) -> None:
    if threads < 0:
        raise UserError(f"expected --threads of at least 0, got {threads}; 0 takes all cores")
