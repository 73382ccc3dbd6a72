"""A trained head as an ONNX file, compared with it in millimetres before it is written."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from handmesh import __version__
from handmesh.deploy.onnx_graph import store_weights_in_fp16, trace
from handmesh.deploy.parity import LIMIT_MM, check_parity, distance_mm, vertices_of
from handmesh.hand_model import HandModel
from handmesh.head import HEAD_OUTPUTS, INPUTS
from handmesh.looks import Looks
from handmesh.runtime import METADATA_KEY
from handmesh.training.head import HeadNet
from handmesh.wholefile import replacing


class _Deployed(nn.Module):
    """The outputs as a tuple, in the order of `HEAD_OUTPUTS`."""

    def __init__(self, net: HeadNet):
        super().__init__()
        self.net = net

    def forward(self, pooled: Tensor, feature_map: Tensor, answer: Tensor, has_answer: Tensor) -> tuple[Tensor, ...]:
        prediction = self.net(pooled, feature_map, answer, has_answer)
        return tuple(getattr(prediction, name) for name in HEAD_OUTPUTS)


def export_head(net: HeadNet, model: HandModel, looks: Looks, rows: np.ndarray, metadata: dict[str, Any], out: Path) -> float:
    """Write a head with its weights in half precision.

    Args:
        net: in evaluation mode.
        model: whose parameters it gives.
        looks: to compare on.
        rows: (N,) of these.
        metadata: becomes the file's "handmesh" entry, with version and parity added.
        out: the .onnx file, by a temporary name.

    Returns:
        Mean vertex distance to the trained head in f64, in millimetres.

    Raises:
        UserError: beyond the limit of `parity.LIMIT_MM` for fp16.
    """
    import onnxruntime

    inputs = [getattr(looks, name)[rows].astype(np.float32) for name in INPUTS[:3]] + [np.ones((len(rows), 1), np.float32)]
    tensors = tuple(torch.from_numpy(value) for value in inputs)
    proto = trace(_Deployed(net).eval(), dict(zip(INPUTS, tensors, strict=True)), HEAD_OUTPUTS)
    store_weights_in_fp16(proto)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    values = session.run(list(HEAD_OUTPUTS), dict(zip(INPUTS, inputs, strict=True)))
    with torch.no_grad():
        exact = _Deployed(copy.deepcopy(net).double())(*(each.double() for each in tensors))
    theirs, ours = (
        dict[str, np.ndarray](zip(HEAD_OUTPUTS, map(np.asarray, each), strict=True))
        for each in (values, [value.numpy() for value in exact])
    )
    distance = distance_mm(vertices_of(model, theirs), vertices_of(model, ours))
    check_parity("the head's file (fp16)", distance, LIMIT_MM["fp16"], len(rows), "fp16")
    entry = proto.metadata_props.add()
    entry.key = METADATA_KEY
    entry.value = json.dumps({**metadata, "version": __version__, "parity_mm": distance}, sort_keys=True)
    with replacing(out) as temporary:
        temporary.write_bytes(proto.SerializeToString())
    return distance
