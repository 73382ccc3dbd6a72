"""Training form -> fused -> ONNX, each step compared with the one before in millimetres."""

from __future__ import annotations

import copy
import json
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import torch
from torch import Tensor, nn

from handmesh import __version__
from handmesh.deploy.command import Weights
from handmesh.errors import UserError
from handmesh.geometry.crop import CROP_RULE
from handmesh.geometry.rotation import rot6d_to_rotmat
from handmesh.hand_model import HandModel, load_hand_model
from handmesh.hand_model.skinning import skin
from handmesh.runtime import INPUT, METADATA_FORMAT, METADATA_KEY, OUTPUTS
from handmesh.skeleton import JOINTS, MANO_JOINTS, ROOT
from handmesh.training.checkpoint import Checkpoint, load_checkpoint, net_from_checkpoint
from handmesh.training.model import HandNet
from handmesh.wholefile import replacing

PARITY_PICTURES = 64
# Mean vertex distance to the training form in f64, in millimetres.
FUSED_F64_LIMIT_MM = 1e-6
FILE_LIMIT_MM: dict[Weights, float] = {"f32": 0.01, "fp16": 0.1}

_OPSET = 18


@dataclass(frozen=True)
class ExportReport:
    """How far an exported network is from the trained one.

    Attributes:
        pictures: how many were compared.
        fused_f64_mm: mean vertex distance of the fused network in double precision.
        file_mm: mean vertex distance of the file, run by ONNX Runtime.
        size_mb: of the file.
    """

    pictures: int
    fused_f64_mm: float
    file_mm: float
    size_mb: float


class DeployNet(nn.Module):
    """A fused network as it is exported: a tuple of `runtime.OUTPUTS`, and nothing that only training needs."""

    def __init__(self, net: HandNet):
        super().__init__()
        self.net = net

    def forward(self, crops: Tensor) -> tuple[Tensor, ...]:
        """Crops (N, S, S, 3) uint8 to `runtime.OUTPUTS`."""
        prediction = self.net(crops)
        return tuple(getattr(prediction, name) for name in OUTPUTS)


def export_checkpoint(checkpoint_path: Path, out: Path, weights: Weights = "f32", hand_model: str = "open") -> ExportReport:
    """Export a checkpoint's averaged weights.

    Raises:
        UserError: a bad checkpoint, another hand model, a file beyond its parity limit, or an unwritable one.
    """
    if out.suffix != ".onnx":
        raise UserError(f"expected --out to end in .onnx, got '{out}'")
    checkpoint = load_checkpoint(checkpoint_path)
    model = load_hand_model(hand_model)
    if model.id != checkpoint.hand_model:
        raise UserError(f"expected the hand model '{checkpoint.hand_model}' of '{checkpoint_path}', got '{model.id}'; give --hand-model")
    return export_net(net_from_checkpoint(checkpoint), model, out, weights, checkpoint_metadata(checkpoint))


def export_net(net: HandNet, model: HandModel, out: Path, weights: Weights, metadata: dict[str, Any]) -> ExportReport:
    """Fuse, convert, compare and write.

    Args:
        net: the training form, in evaluation mode and f32.
        model: the hand whose parameters it gives.
        out: where the file goes, by a temporary name.
        weights: how they are stored.
        metadata: becomes the file's "handmesh" entry, with the parity added.

    Raises:
        UserError: beyond a parity limit, or unwritable.
    """
    crops = parity_pictures(net.size_px)
    trained = copy.deepcopy(net).eval().double()
    fused = fuse(trained)
    reference_m = vertices_of(model, _run_torch(trained, crops))
    fused_f64_mm = _distance_mm(vertices_of(model, _run_torch(fused, crops)), reference_m)
    _check_parity("the fused network in f64", fused_f64_mm, FUSED_F64_LIMIT_MM)

    proto = to_onnx(fused.float())
    if weights == "fp16":
        store_weights_in_fp16(proto)
    file_mm = _distance_mm(vertices_of(model, run_onnx(proto.SerializeToString(), crops)), reference_m)
    _check_parity(f"the ONNX file with {weights} weights", file_mm, FILE_LIMIT_MM[weights])

    entry = proto.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, json.dumps({**metadata, "weights": weights, "parity_mm": file_mm})
    data = proto.SerializeToString()
    _write(data, out)
    return ExportReport(len(crops), fused_f64_mm, file_mm, len(data) / 1e6)


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


def fuse(net: HandNet) -> HandNet:
    """A copy with the trunk's parallel branches and their normalisation merged (Vasu et al. 2023, section 3.2).

    Args:
        net: the training form in evaluation mode; fuse in f64 and convert afterwards.
    """
    from timm.utils.model import reparameterize_model

    # On the trunk alone: timm also replaces any module of ours that happens to have a method called fuse.
    fused = copy.deepcopy(net)
    with torch.no_grad():
        fused.backbone = reparameterize_model(fused.backbone, inplace=True)
    return fused.eval()


def to_onnx(net: HandNet) -> onnx.ModelProto:
    """The graph with uint8 crops in, `runtime.OUTPUTS` out and a free batch size."""
    crops = torch.zeros((2, net.size_px, net.size_px, 3), dtype=torch.uint8)
    exporter_log = logging.getLogger("torch.onnx")
    level = exporter_log.level
    exporter_log.setLevel(logging.ERROR)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # torch warns about its own plans, which say nothing about this network.
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                DeployNet(net).eval(),
                (crops,),
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                opset_version=_OPSET,
                dynamo=True,
                dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}},
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


def parity_pictures(size_px: int) -> np.ndarray:
    """(64, S, S, 3) uint8 pictures with structure at all scales, always the same."""
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(PARITY_PICTURES):
        layers = [cv2.resize(rng.random((side, side, 3)), (size_px, size_px), interpolation=cv2.INTER_CUBIC) for side in (2, 4, 8, 16, 32)]
        picture = np.tensordot(rng.dirichlet(np.ones(5)), np.stack(layers), axes=1)
        pictures.append((255 * np.clip(rng.uniform(0.5, 1.5) * picture, 0, 1)).astype(np.uint8))
    return np.stack(pictures)


def vertices_of(model: HandModel, outputs: dict[str, np.ndarray]) -> np.ndarray:
    """(N, V, 3) metres: what the outputs pose, in the model's frame, in double precision."""
    rot6d = outputs["rot6d"].astype(np.float64).reshape(-1, len(MANO_JOINTS), 6)
    return skin(model.astype(np.float64), rot6d_to_rotmat(rot6d), outputs["betas"].astype(np.float64))


def run_onnx(data: bytes, crops: np.ndarray) -> dict[str, np.ndarray]:
    """`runtime.OUTPUTS` of a serialised graph, by ONNX Runtime in f32."""
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return dict(zip(OUTPUTS, (np.asarray(value) for value in session.run(list(OUTPUTS), {INPUT: crops})), strict=True))


def _run_torch(net: HandNet, crops: np.ndarray) -> dict[str, np.ndarray]:
    with torch.no_grad():
        outputs = [DeployNet(net)(batch) for batch in torch.from_numpy(crops).split(16)]
    return {name: torch.cat([values[index] for values in outputs]).numpy() for index, name in enumerate(OUTPUTS)}


def _distance_mm(ours_m: np.ndarray, theirs_m: np.ndarray) -> float:
    return float(1e3 * np.linalg.norm(ours_m - theirs_m, axis=-1).mean())


def _check_parity(what: str, distance_mm: float, limit_mm: float) -> None:
    # Not "distance > limit": a distance that is no number must fail.
    if not distance_mm <= limit_mm:
        raise UserError(
            f"expected {what} within {limit_mm:g} mm of the trained one over {PARITY_PICTURES} pictures, got {distance_mm:.3g} mm; "
            "nothing was written: check that the training converged to finite weights, or store them as f32"
        )


def _write(data: bytes, out: Path) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise UserError(f"expected to write '{out}', but that failed ({error.strerror}); choose another --out") from error
