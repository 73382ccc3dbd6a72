"""A network as an ONNX file."""

from __future__ import annotations

import onnx

from handmesh.deploy.job import Job, Written
from handmesh.deploy.onnx_graph import run_onnx, store_weights_in_fp16
from handmesh.runtime import METADATA_KEY
from handmesh.wholefile import replacing


def write(job: Job) -> Written:
    """Write an .onnx file of f32 or fp16.

    Raises:
        UserError: beyond the parity limit.
        OSError: it cannot be written.
    """
    proto = onnx.load_from_string(job.form.onnx)
    if job.precision == "fp16":
        store_weights_in_fp16(proto)
    data, distance = with_metadata(job, proto)
    with replacing(job.out) as temporary:
        temporary.write_bytes(data)
    return Written(job.out, "this file", distance)


def with_metadata(job: Job, proto: onnx.ModelProto) -> tuple[bytes, float]:
    """The serialised graph with its "handmesh" entry, and its parity in mm by ONNX Runtime."""
    distance = job.checked_mm(f"the ONNX file ({job.precision})", run_onnx(proto.SerializeToString(), job.form.crops))
    entry = proto.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, job.metadata_text(distance)
    return proto.SerializeToString(), distance
