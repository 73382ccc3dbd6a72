"""A network as an ONNX graph: what ONNX Runtime and OpenVINO read, and what other formats are made from."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence

import numpy as np
import onnx
import torch
from torch import nn

from handmesh.deploy.graph import DeployNet, arrange
from handmesh.runtime import INPUT, OUTPUTS
from handmesh.training.model import HandNet

_OPSET = 18


def to_onnx(fused: HandNet) -> onnx.ModelProto:
    """The graph with uint8 crops in, `runtime.OUTPUTS` out and a free batch size.

    Args:
        fused: what `graph.fuse` gave, in f32; it is arranged for runtimes first.
    """
    crops = torch.zeros((2, fused.size_px, fused.size_px, 3), dtype=torch.uint8)
    return trace(DeployNet(arrange(fused)).eval(), {INPUT: crops}, OUTPUTS)


def trace(module: nn.Module, inputs: dict[str, torch.Tensor], outputs: Sequence[str]) -> onnx.ModelProto:
    """The graph of a module with a free batch size.

    Args:
        module: in evaluation mode; gives a tuple.
        inputs: by name, in the module's order, each (N, ...) with N of at least 2.
        outputs: their names, in order.
    """
    exporter_log = logging.getLogger("torch.onnx")
    level = exporter_log.level
    exporter_log.setLevel(logging.ERROR)
    batch = torch.export.Dim("batch")
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # torch warns about its own plans, which say nothing about this network.
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                tuple(inputs.values()),
                input_names=list(inputs),
                output_names=list(outputs),
                opset_version=_OPSET,
                dynamo=True,
                dynamic_shapes=tuple({0: batch} for _ in inputs),
                verbose=False,
            )
    finally:
        exporter_log.setLevel(level)
    assert program is not None
    proto = program.model_proto
    forget_origins(proto)
    onnx.checker.check_model(proto)
    return proto


def forget_origins(proto: onnx.ModelProto) -> None:
    """Remove what the exporter notes about the code: stack traces with the paths of the machine that exported."""
    graph = proto.graph
    for part in (graph, *graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output, *proto.functions):
        part.doc_string = ""
        del part.metadata_props[:]


def store_weights_in_fp16(proto: onnx.ModelProto) -> None:
    """Keep kernels and matrices in half precision, each with a cast to f32 that runtimes fold when they load it.

    Vectors (biases, normalisation) stay in f32: they are small, and statistics can leave fp16's range.
    """
    casts = []
    for tensor in proto.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) < 2:
            continue
        name, values = tensor.name, onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}_fp16"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}_fp16"], [name], to=onnx.TensorProto.FLOAT, name=f"{name}_to_f32"))
    nodes = [*casts, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    # What the exporter noted about the initializers' types holds no longer.
    names = {cast.output[0] for cast in casts}
    kept = [info for info in proto.graph.value_info if info.name not in names]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(kept)
    onnx.checker.check_model(proto)


def run_onnx(data: bytes, crops: np.ndarray) -> dict[str, np.ndarray]:
    """`runtime.OUTPUTS` of a serialised graph, by ONNX Runtime in f32."""
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return dict(zip(OUTPUTS, (np.asarray(value) for value in session.run(list(OUTPUTS), {INPUT: crops})), strict=True))
