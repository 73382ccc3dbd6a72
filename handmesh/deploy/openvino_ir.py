"""A network as OpenVINO's IR: an .xml file with its weights in a .bin beside it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from handmesh.deploy.job import Job, Written
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
    model = core.read_model(job.form.onnx)
    if job.precision == "int8":
        assert job.calibration is not None
        model = quantize(model, job.calibration)
    # bf16 has fewer digits than fp16: such a file loses nothing by half the size.
    halved = job.precision in ("fp16", "bf16")
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / job.out.name
        save(model, trial, job.metadata_text(0.0), halved)
        distance = job.checked_mm(f"the OpenVINO file ({job.precision})", Predictor(trial).outputs(job.form.crops))
    save(model, job.out, job.metadata_text(distance), halved)
    return Written(job.out, "this file", distance)


def save(model: Any, out: Path, metadata: str, halved: bool) -> None:
    """Write both files of an `openvino.Model`, each by a temporary name; the .xml, which is what others look for, last.

    Args:
        metadata: becomes the "handmesh" entry of its rt_info.
        halved: store weights in fp16.
    """
    import openvino

    model.set_rt_info(metadata, METADATA_KEY)
    with replacing(out) as temporary, replacing(out.with_suffix(".bin")):
        openvino.save_model(model, temporary, compress_to_fp16=halved)
