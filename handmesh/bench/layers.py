"""Where a network's time goes: OpenVINO's own clock of each node, by kind of work and by stage of the network."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from handmesh.bench.macs import macs_by_operation, operation_macs

STAGES = ("stem", "stage 1", "stage 2", "stage 3", "stage 4", "final convolution", "head")
# What the names of weights contain -> index in STAGES.
_STAGE_OF_WEIGHTS = ((r"backbone\.stem", 0), (r"backbone\.stages\.(\d)", 1), (r"backbone\.final_conv", 5), (r"\bhead\.", 6))

_KINDS = {
    "FullyConnected": "matrix product",
    "MatMul": "matrix product",
    "ScaledDotProductAttention": "attention",
    "Softmax": "softmax",
    "Reorder": "reorder, transpose",
    "Transpose": "reorder, transpose",
    "Reshape": "reorder, transpose",
    "Concatenation": "reorder, transpose",
    "Split": "reorder, transpose",
    "Gather": "reorder, transpose",
    "Eltwise": "elementwise",
    "Subgraph": "elementwise",
    "Convert": "elementwise",
    "FakeQuantize": "elementwise",
    "Reduce": "pooling, resizing",
    "Pooling": "pooling, resizing",
    "Interpolate": "pooling, resizing",
}


@dataclass(frozen=True)
class Node:
    """One node of the compiled network.

    Attributes:
        name: of the last operation that it does.
        kind: of its work, such as "convolution 1x1".
        stage: one of `STAGES`.
        ms: mean of the middle half of its times.
        macs: multiply-adds.
        how: the kernel that computes it.
    """

    name: str
    kind: str
    stage: str
    ms: float
    macs: int
    how: str


def profile_nodes(model: Any, precision: str, threads: int, runs: int, warm_up: int = 10) -> list[Node]:
    """Run a network and read the clock of each of its nodes.

    Args:
        model: an `openvino.Model` with static shapes and one input of crops, uint8.
        precision: "f32" or "bf16".
        threads: of the CPU.
        runs: how often.

    Returns:
        The nodes that were executed, in their order. Their times hold no waiting between nodes.
    """
    import openvino

    stage_of_operation = operation_stages(model)
    kind_of_operation = {operation.get_friendly_name(): operation.get_type_name() for operation in model.get_ops()}
    macs_of_operation = macs_by_operation(model)
    config = {
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "PERF_COUNT": True,
    }
    compiled = openvino.Core().compile_model(model, "CPU", config)
    request = compiled.create_infer_request()
    shape = list(model.input(0).get_shape())
    request.set_input_tensor(openvino.Tensor(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)))
    for _ in range(warm_up):
        request.infer()
    times_ms: dict[str, list[float]] = {}
    for _ in range(runs):
        request.infer()
        for entry in request.get_profiling_info():
            times_ms.setdefault(entry.node_name, []).append(1e3 * entry.real_time.total_seconds())

    nodes, stages = [], {}
    for node in compiled.get_runtime_model().get_ordered_ops():
        name, info = node.get_friendly_name(), {key: value.value for key, value in node.get_rt_info().items()}
        originals = [text for text in info["originalLayersNames"].split(",") if text]
        ranks = [stage_of_operation.get(original, 0) for original in originals]
        ranks += [stages[value.get_node().get_friendly_name()] for value in node.input_values()]
        stages[name] = max(ranks, default=0)
        mean_ms = middle_mean(times_ms.get(name, [0.0]))
        if not mean_ms or info["layerType"] in ("Input", "Output", "Const"):
            continue
        inputs = [tuple(value.get_shape()) for value in node.input_values()]
        kind = work_kind(info["layerType"], inputs, {kind_of_operation.get(original, "") for original in originals})
        if info["layerType"] == "Subgraph":
            # One kernel for several operations, such as both products of an attention and the softmax between them.
            macs = sum(macs_of_operation.get(original, 0) for original in originals)
        else:
            macs = operation_macs(info["layerType"], inputs, tuple(node.output(0).get_shape()))
        nodes.append(Node(name, kind, STAGES[stages[name]], mean_ms, macs, info["primitiveType"]))
    return nodes


def operation_stages(model: Any) -> dict[str, int]:
    """Index in `STAGES` of each operation: the last stage whose weights it, or anything before it, has seen."""
    stages: dict[str, int] = {}
    for operation in model.get_ordered_ops():
        name = operation.get_friendly_name()
        before = [stages[value.get_node().get_friendly_name()] for value in operation.input_values()]
        stages[name] = max([_stage_of_weights(name), *before])
    return stages


def _stage_of_weights(name: str) -> int:
    for pattern, stage in _STAGE_OF_WEIGHTS:
        found = re.search(pattern, name)
        if found is not None:
            return stage + int(found[1]) if found.groups() else stage
    return 0


def work_kind(layer_type: str, inputs: Sequence[Sequence[int]], operations: Iterable[str]) -> str:
    """What a node does.

    Args:
        layer_type: OpenVINO's.
        inputs: shapes; the second is the weight's.
        operations: types of the operations of the graph as read that it does.
    """
    if layer_type == "Convolution":
        height, width = inputs[1][-2:]
        return f"{'depthwise' if len(inputs[1]) == 5 else 'convolution'} {height}x{width}"
    kind = _KINDS.get(layer_type, layer_type)
    if kind != "elementwise":
        return kind
    return "attention" if "Softmax" in operations else "GELU" if "Gelu" in operations else kind


def middle_mean(values: Sequence[float]) -> float:
    """Mean of the middle half: OpenVINO's clock counts whole microseconds, and others' work makes outliers."""
    low, high = np.percentile(values, (25, 75))
    array = np.asarray(values)
    return float(array[(array >= low) & (array <= high)].mean())


def rows_by(nodes: Sequence[Node], key: str) -> list[dict[str, Any]]:
    """Nodes put together, the slowest group first (stages in the network's order).

    Args:
        key: "kind", "stage", or "node" for each by itself.
    """
    groups: dict[str, list[Node]] = {}
    for node in nodes:
        groups.setdefault(node.name if key == "node" else getattr(node, key), []).append(node)
    total_ms = sum(node.ms for node in nodes)
    rows = []
    for name, members in groups.items():
        ms, macs = sum(node.ms for node in members), sum(node.macs for node in members)
        rows.append(
            {
                "by": key,
                "name": name,
                "kind": _only({node.kind for node in members}),
                "stage": _only({node.stage for node in members}),
                "nodes": len(members),
                "time_ms": ms,
                "share": ms / total_ms,
                "gmacs": 1e-9 * macs,
                "gflops": 2e-6 * macs / ms if macs else None,
                "kernel": _only({node.how for node in members}),
            }
        )
    if key == "stage":
        return sorted(rows, key=lambda row: STAGES.index(row["name"]))
    return sorted(rows, key=lambda row: -row["time_ms"])


def _only(values: set[str]) -> str | None:
    return next(iter(values)) if len(values) == 1 else None
