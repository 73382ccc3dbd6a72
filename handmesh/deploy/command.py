"""Everything that `handmesh-export` can be told, and what it runs. Imports no torch, so that --help is quick."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console

Format = Literal["onnx", "openvino", "coreml", "tensorrt"]
Precision = Literal["f32", "fp16", "bf16", "int8"]

SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "openvino": ".xml", "coreml": ".mlpackage", "tensorrt": ".engine"}


@dataclass(frozen=True)
class ExportCommand:
    """Fuse a checkpoint's network, write it for a runtime, and say how far it is from its training form."""

    checkpoint: tyro.conf.Positional[Path]
    """last.pt of handmesh-train."""
    out: Path | None = None
    """The file; without it, the checkpoint's name with the format's ending: .onnx, .xml (and .bin), .mlpackage or .engine."""
    precision: Precision = "f32"
    """fp16: weights stored in half. bf16: computed in bf16. int8: quantised, needs --calibration. See docs/deploy.md for who takes what."""
    hand_model: str = "open"
    """'open', or the path of the npz of the hand model that the network was trained for."""
    format: Format = "onnx"
    """onnx and openvino are what handmesh runs; coreml is for Apple's devices, tensorrt for NVIDIA's."""
    calibration: Path | None = None
    """Pictures for int8: a set of handmesh-synth, FreiHAND's folder, or a folder of crops. 364 of them are used."""


def run_export(command: ExportCommand) -> Path:
    """Export, and say how far the file is from the network that was trained.

    Raises:
        UserError: flags that do not go together, a bad checkpoint, another hand model, no pictures to calibrate with, a file beyond its
            parity limit, or an unwritable one.
    """
    from handmesh.deploy.export import export_checkpoint

    out = command.out or command.checkpoint.with_suffix(SUFFIXES[command.format])
    with Console(stderr=True).status("fusing, converting and comparing: about a minute"):
        report = export_checkpoint(command.checkpoint, out, command.precision, command.hand_model, command.format, command.calibration)
    print(
        f"{report.path}: {report.size_mb:.1f} MB, {command.format} {command.precision}; mean vertex distance to the trained network over "
        f"{report.pictures} pictures{' held out from calibration' if command.precision == 'int8' else ''}: "
        f"fused f64 {report.fused_f64_mm:.1e} mm, {report.compared} {report.file_mm:.1e} mm (limit {report.limit_mm:g})"
    )
    for note in report.notes:
        print(note)
    return report.path
