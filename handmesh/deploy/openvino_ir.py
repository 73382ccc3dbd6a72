"""A network as OpenVINO's IR: an .xml file with its weights in a .bin beside it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import onnx

from handmesh.deploy.job import Job, Written
from handmesh.deploy.onnx_graph import store_weights_in_fp16
from handmesh.deploy.quantize import quantize
from handmesh.errors import UserError
from handmesh.runtime import METADATA_KEY, Predictor
from handmesh.wholefile import replacing


def write(job: Job) -> Written:
    """Write an IR of any precision, and compare what OpenVINO computes from it.

    Raises:
        UserError: beyond the parity limit, or bf16 on a CPU that does not compute in it.
        OSError: it cannot be written.
    """
    import openvino

    core = openvino.Core()
    if job.precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise UserError(
            "expected a CPU that computes in bf16, to compare the file with the trained network; export fp16, or export elsewhere"
        )
    model = core.read_model(_graph(job))
    if job.precision == "int8":
        assert job.calibration is not None
        model = quantize(model, job.calibration)
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / job.out.name
        save(model, trial, job.metadata_text(0.0))
        distance = job.checked_mm(f"the OpenVINO file ({job.precision})", Predictor(trial).outputs(job.form.crops))
    save(model, job.out, job.metadata_text(distance))
    return Written(job.out, "this file", distance)


def save(model: Any, out: Path, metadata: str) -> None:
    """Write both files of an `openvino.Model`, each by a temporary name; the .xml, which is what others look for, last.

    Args:
        metadata: becomes the "handmesh" entry of its rt_info.
    """
    import openvino

    model.set_rt_info(metadata, METADATA_KEY)
    with replacing(out) as temporary, replacing(out.with_suffix(".bin")):
        openvino.save_model(model, temporary, compress_to_fp16=False)


def _graph(job: Job) -> bytes:
    """The ONNX graph, with kernels in half precision where that is asked for or loses nothing: bf16 has fewer digits than fp16.

    OpenVINO's own compression would halve the biases too, which costs twice the distance.
    """
    if job.precision not in ("fp16", "bf16"):
        return job.form.onnx
    proto = onnx.load_from_string(job.form.onnx)
    store_weights_in_fp16(proto)
    return proto.SerializeToString()
