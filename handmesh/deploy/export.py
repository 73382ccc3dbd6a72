"""Training form -> fused -> a runtime's file, each compared with the training form in millimetres before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from handmesh import __version__
from handmesh.deploy import coreml, onnx_file, openvino_ir, tensorrt_engine
from handmesh.deploy.calibration import read_calibration
from handmesh.deploy.command import SUFFIXES, Format, Precision
from handmesh.deploy.graph import DeployNet, fuse
from handmesh.deploy.job import Form, Job, Written, fuse_and_compare
from handmesh.deploy.onnx_graph import to_onnx
from handmesh.deploy.parity import LIMIT_MM, parity_pictures, vertices_of
from handmesh.errors import UserError
from handmesh.geometry.crop import CROP_RULE
from handmesh.hand_model import HandModel, load_hand_model
from handmesh.runtime import METADATA_FORMAT
from handmesh.skeleton import JOINTS, ROOT
from handmesh.training.checkpoint import Checkpoint, load_checkpoint, net_from_checkpoint
from handmesh.training.model import HandNet

# The steps by themselves, for those who measure them.
__all__ = ["DeployNet", "ExportReport", "checkpoint_metadata", "export_checkpoint", "export_net", "fuse"]
__all__ += ["to_onnx", "vertices_of", "write_form"]

# What a format cannot hold, and what to take instead.
_REFUSED: dict[tuple[Format, Precision], str] = {
    ("onnx", "bf16"): "ONNX on a CPU; export --format openvino --precision bf16, or run an f32 file with handmesh-demo --precision bf16",
    ("onnx", "int8"): "ONNX; export --format openvino --precision int8 --calibration DIR",
    ("coreml", "bf16"): "Core ML; export --precision fp16",
    ("coreml", "int8"): "Core ML; export --precision fp16",
    ("tensorrt", "int8"): "TensorRT; export --precision fp16 or bf16",
}


@dataclass(frozen=True)
class ExportReport:
    """How far an exported network is from the trained one.

    Attributes:
        path: of the file, or of what stands in for it where the format's own tool is missing.
        pictures: how many were compared.
        fused_f64_mm: mean vertex distance of the fused network, arranged for runtimes, in double precision.
        compared: what the next number is of.
        file_mm: mean vertex distance of the file.
        limit_mm: that it kept.
        size_mb: of the file, with its weights.
        notes: sentences for people.
    """

    path: Path
    pictures: int
    fused_f64_mm: float
    compared: str
    file_mm: float
    limit_mm: float
    size_mb: float
    notes: tuple[str, ...] = ()


def export_checkpoint(
    checkpoint_path: Path,
    out: Path,
    precision: Precision = "f32",
    hand_model: str = "open",
    file_format: Format = "onnx",
    calibration: Path | None = None,
) -> ExportReport:
    """Export a checkpoint's averaged weights.

    Args:
        calibration: folder of pictures, for int8 alone; see `calibration.read_calibration`.

    Raises:
        UserError: flags that do not go together, a bad checkpoint, another hand model, no pictures, a file beyond its parity limit, or an
            unwritable one.
    """
    _check_flags(out, precision, file_format, calibration)
    checkpoint = load_checkpoint(checkpoint_path)
    model = load_hand_model(hand_model)
    if model.id != checkpoint.hand_model:
        raise UserError(f"expected the hand model '{checkpoint.hand_model}' of '{checkpoint_path}', got '{model.id}'; give --hand-model")
    net = net_from_checkpoint(checkpoint)
    pictures = None if calibration is None else read_calibration(calibration, net.size_px)
    return export_net(net, model, out, precision, checkpoint_metadata(checkpoint), file_format, pictures)


def export_net(
    net: HandNet,
    model: HandModel,
    out: Path,
    precision: Precision,
    metadata: dict[str, Any],
    file_format: Format = "onnx",
    pictures: tuple[np.ndarray, np.ndarray] | None = None,
) -> ExportReport:
    """Fuse, convert, compare and write.

    Args:
        net: the training form, in evaluation mode and f32.
        model: the hand whose parameters it gives.
        out: where the file goes, by a temporary name.
        precision: of its weights (fp16) or of its arithmetic.
        metadata: becomes the file's "handmesh" entry, with precision and parity added.
        pictures: for int8: (N, S, S, 3) to calibrate with and (M, S, S, 3) to compare on, uint8. Other precisions are compared on
            `parity_pictures`.

    Raises:
        UserError: beyond a parity limit, a format that cannot hold the precision, or an unwritable file.
    """
    _check_flags(out, precision, file_format, pictures)
    calibration, crops = (None, parity_pictures(net.size_px)) if pictures is None else pictures
    return write_form(fuse_and_compare(net, model, crops), out, precision, metadata, file_format, calibration)


def write_form(
    form: Form,
    out: Path,
    precision: Precision,
    metadata: dict[str, Any],
    file_format: Format = "onnx",
    calibration: np.ndarray | None = None,
) -> ExportReport:
    """Convert, compare and write: `export_net` of a network that is fused already.

    Raises:
        UserError: as `export_net`.
    """
    _check_flags(out, precision, file_format, calibration)
    writers: dict[Format, Callable[[Job], Written]] = {
        "onnx": onnx_file.write,
        "openvino": openvino_ir.write,
        "coreml": coreml.write,
        "tensorrt": tensorrt_engine.write,
    }
    job = Job(form, out, precision, {**metadata, "precision": precision}, calibration)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        written = writers[file_format](job)
    except OSError as error:
        raise UserError(f"expected to write '{out}', but that failed ({error.strerror}); choose another --out") from error
    return ExportReport(
        path=written.path,
        pictures=len(form.crops),
        fused_f64_mm=form.fused_f64_mm,
        compared=written.compared,
        file_mm=written.distance_mm,
        limit_mm=LIMIT_MM[precision],
        size_mb=size_of(written.path) / 1e6,
        notes=written.notes,
    )


def checkpoint_metadata(checkpoint: Checkpoint) -> dict[str, Any]:
    """What an exported file says about where it came from, for the runtime to check and people to read."""
    command = checkpoint.command()
    return {
        "format": METADATA_FORMAT,
        "version": __version__,
        "hand_model": checkpoint.hand_model,
        "crop_rule": CROP_RULE,
        "input_size_px": command.model.size_px,
        "root": JOINTS[ROOT],
        "variant": command.model.variant,
        "head": command.model.head,
        "pictures": checkpoint.pictures,
        "commit": checkpoint.commit,
        "config_hash": checkpoint.config_hash(),
    }


def size_of(path: Path) -> int:
    """Bytes of a file or folder; of an IR with its weights."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size + (path.with_suffix(".bin").stat().st_size if path.suffix == ".xml" else 0)


def _check_flags(out: Path, precision: Precision, file_format: Format, pictures: object) -> None:
    if out.suffix != SUFFIXES[file_format]:
        raise UserError(f"expected --out to end in {SUFFIXES[file_format]} with --format {file_format}, got '{out}'")
    if (file_format, precision) in _REFUSED:
        raise UserError(f"expected another --precision than {precision} for {_REFUSED[file_format, precision]}")
    if precision == "int8" and pictures is None:
        raise UserError(
            "expected --calibration DIR with --precision int8, got none; give pictures like those that it will see "
            "(a set of handmesh-synth, FreiHAND, or a folder of crops)"
        )
    if precision != "int8" and pictures is not None:
        raise UserError(f"expected no --calibration with --precision {precision}, which would do nothing; leave it out")
