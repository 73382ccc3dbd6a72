"""What every format's writer is given, and what it gives back."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from handmesh.deploy.command import Precision
from handmesh.deploy.graph import arrange, fuse
from handmesh.deploy.onnx_graph import to_onnx
from handmesh.deploy.parity import FUSED_F64_LIMIT_MM, LIMIT_MM, check_parity, distance_mm, run_torch, vertices_of
from handmesh.hand_model import HandModel
from handmesh.training.model import HandNet


@dataclass(frozen=True)
class Form:
    """A fused network beside what its training form says, for files of it to be compared with.

    Attributes:
        fused: in f32.
        arranged: the same as it goes into graphs, in f32.
        model: the hand that is posed.
        crops: (N, S, S, 3) uint8 to compare on.
        reference_m: (N, V, 3) the training form's vertices for them, in f64.
        fused_f64_mm: mean vertex distance of the arranged network in f64.
    """

    fused: HandNet
    arranged: HandNet
    model: HandModel
    crops: np.ndarray
    reference_m: np.ndarray
    fused_f64_mm: float

    @cached_property
    def onnx(self) -> bytes:
        """Its graph, made when it is first asked for."""
        return to_onnx(self.fused).SerializeToString()


@dataclass(frozen=True)
class Job:
    """One file to write.

    Attributes:
        form: the network.
        out: where the file goes.
        precision: of its weights (fp16) or of its arithmetic.
        metadata: its "handmesh" entry, as yet without the parity.
        calibration: (M, S, S, 3) uint8, for int8 alone.
    """

    form: Form
    out: Path
    precision: Precision
    metadata: dict[str, Any]
    calibration: np.ndarray | None = None

    def checked_mm(self, what: str, outputs: dict[str, np.ndarray]) -> float:
        """Mean vertex distance to the training form of what something gave for `form.crops`.

        Raises:
            UserError: beyond the limit of the precision.
        """
        distance = distance_mm(vertices_of(self.form.model, outputs), self.form.reference_m)
        check_parity(what, distance, LIMIT_MM[self.precision], len(self.form.crops), self.precision)
        return distance

    def metadata_text(self, parity_mm: float) -> str:
        """The entry as it is written."""
        return json.dumps({**self.metadata, "parity_mm": parity_mm})


@dataclass(frozen=True)
class Written:
    """What a format's writer did.

    Attributes:
        path: the file, or what stands in for it where the format's own tool is missing.
        compared: what the distance is of.
        distance_mm: mean vertex distance to the training form.
        notes: sentences for people.
    """

    path: Path
    compared: str
    distance_mm: float
    notes: tuple[str, ...] = ()


def fuse_and_compare(net: HandNet, model: HandModel, crops: np.ndarray) -> Form:
    """Fuse a network in f64, compare it with its training form there, and bring it to f32.

    Args:
        net: the training form.
        model: the hand whose parameters it gives.
        crops: (N, S, S, 3) uint8 to compare on.

    Raises:
        UserError: beyond the limit.
    """
    trained = copy.deepcopy(net).eval().double()
    fused = fuse(trained)
    reference_m = vertices_of(model, run_torch(trained, crops))
    fused_f64_mm = distance_mm(vertices_of(model, run_torch(arrange(fused), crops)), reference_m)
    check_parity("the fused network in f64", fused_f64_mm, FUSED_F64_LIMIT_MM, len(crops), "f32")
    fused = fused.float()
    return Form(fused, arrange(fused), model, crops, reference_m, fused_f64_mm)
