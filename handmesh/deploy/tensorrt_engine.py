"""A network as a TensorRT engine, which fits one kind of NVIDIA card; from the ONNX file, which is written beside it."""

from __future__ import annotations

import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx

from handmesh.deploy.command import Precision
from handmesh.deploy.job import Job, Written
from handmesh.deploy.onnx_file import with_metadata
from handmesh.errors import UserError
from handmesh.runtime import INPUT
from handmesh.wholefile import replacing

# Smallest, usual and largest number of crops.
BATCHES = (1, 2, 32)


def write(job: Job) -> Written:
    """Write the ONNX file, and the engine where TensorRT is installed.

    The parity is that of the ONNX file, which is in f32: an engine's own arithmetic is not measured.

    Raises:
        UserError: beyond the parity limit, or TensorRT refuses.
        OSError: it cannot be written.
    """
    data, distance = with_metadata(job, onnx.load_from_string(job.form.onnx))
    path = job.out.with_suffix(".onnx")
    with replacing(path) as temporary:
        temporary.write_bytes(data)
    compared = f"{path.name} in f32, which TensorRT starts from,"
    if find_spec("tensorrt") is None:
        command = trtexec_command(path, job.out, job.form.fused.size_px, job.precision)
        return Written(path, compared, distance, (f"TensorRT is not installed here; where it is, run: {command}",))
    with replacing(job.out) as temporary:
        temporary.write_bytes(build(data, job.form.fused.size_px, job.precision))
    return Written(job.out, compared, distance, (f"{path} is beside it; the engine fits this card and this version of TensorRT alone",))


def trtexec_command(onnx_path: Path, engine_path: Path, size_px: int, precision: Precision) -> str:
    """What makes the engine with TensorRT's own program."""
    shapes = [f"--{name}Shapes={INPUT}:{batch}x{size_px}x{size_px}x3" for name, batch in zip(("min", "opt", "max"), BATCHES, strict=True)]
    flags = {"fp16": ["--fp16"], "bf16": ["--bf16"]}.get(precision, ["--noTF32"])
    return shlex.join(["trtexec", f"--onnx={onnx_path}", f"--saveEngine={engine_path}", *shapes, *flags])


def build(data: bytes, size_px: int, precision: Precision) -> bytes:
    """A serialised engine.

    Args:
        data: the ONNX graph.

    Raises:
        UserError: TensorRT cannot read or build it.
    """
    import tensorrt  # pyright: ignore[reportMissingImports]

    log: Any = tensorrt.Logger(tensorrt.Logger.ERROR)
    builder = tensorrt.Builder(log)
    network = builder.create_network()
    parser = tensorrt.OnnxParser(network, log)
    if not parser.parse(data):
        raise UserError(f"expected a graph that TensorRT {tensorrt.__version__} reads, but it says: {parser.get_error(0)}")
    config = builder.create_builder_config()
    config.clear_flag(tensorrt.BuilderFlag.TF32)
    if precision != "f32":
        config.set_flag(tensorrt.BuilderFlag.FP16 if precision == "fp16" else tensorrt.BuilderFlag.BF16)
    profile = builder.create_optimization_profile()
    profile.set_shape(INPUT, *((batch, size_px, size_px, 3) for batch in BATCHES))
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise UserError(
            f"expected TensorRT {tensorrt.__version__} to build an engine of {precision}, but it gave none; try --precision f32"
        )
    return bytes(engine)
