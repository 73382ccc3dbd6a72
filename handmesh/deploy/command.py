"""Everything that `handmesh-export` can be told, and what it runs. Imports no torch, so that --help is quick."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Weights = Literal["f32", "fp16"]


@dataclass(frozen=True)
class ExportCommand:
    """Fuse a checkpoint's network, compare it with its training form, and write it as ONNX."""

    checkpoint: Path
    """last.pt of handmesh-train."""
    out: Path
    """The .onnx file."""
    precision: Weights = "f32"
    """How weights are stored; fp16 halves the file, computation stays f32."""
    hand_model: str = "open"
    """'open', or the path of the npz of the hand model that the network was trained for."""


def run_export(command: ExportCommand) -> Path:
    """Export, and say how far the file is from the network that was trained.

    Raises:
        UserError: a bad checkpoint, another hand model, a file beyond its parity limit, or an unwritable one.
    """
    from handmesh.deploy.export import export_checkpoint

    report = export_checkpoint(command.checkpoint, command.out, command.precision, command.hand_model)
    print(
        f"{command.out}: {report.size_mb:.1f} MB, {command.precision} weights; mean vertex distance to the trained network over "
        f"{report.pictures} pictures: fused f64 {report.fused_f64_mm:.1e} mm, this file {report.file_mm:.1e} mm"
    )
    return command.out
