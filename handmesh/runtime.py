"""Runs one exported network: crops in, hand parameters out. Never imports torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from handmesh.errors import UserError
from handmesh.geometry.crop import CROP_RULE
from handmesh.geometry.rotation import rot6d_to_rotmat
from handmesh.hand_model.assets import ASSETS
from handmesh.records import HandParams
from handmesh.skeleton import JOINTS, ROOT

DEFAULT_MODEL = ASSETS / "hand_t8.onnx"
METADATA_KEY = "handmesh"
METADATA_FORMAT = 1
INPUT = "crops"
OUTPUTS = ("rot6d", "betas", "camera", "presence_logit", "right_logit")
# Static batch sizes that are compiled at load; static is 8-25 % faster than dynamic.
BATCH_SIZES = (2, 1)

Runtime = Literal["openvino", "onnxruntime"]
Precision = Literal["f32", "bf16"]

# crops (N, S, S, 3) uint8 -> the five OUTPUTS by name, each (N, ...) float32
Network = Callable[[np.ndarray], dict[str, np.ndarray]]


@dataclass(frozen=True)
class NetworkInfo:
    """What an exported network says about itself.

    Attributes:
        hand_model: id of the hand model that its parameters pose.
        input_size_px: side S of the crops it reads.
        variant: timm's name of the backbone.
        metadata: everything in the file's "handmesh" entry.
    """

    hand_model: str
    input_size_px: int
    variant: str
    metadata: dict[str, Any]


class Predictor:
    """One exported network on one runtime.

    Args:
        path: an ONNX file written by `handmesh-export`.
        hand_model_id: the model that will be posed; None accepts any.
        runtime: "openvino" or "onnxruntime".
        precision: of the computation, never implicit. "bf16" needs OpenVINO and costs up to 1 mm.
        threads: of the network; 0 lets the runtime choose.

    Raises:
        UserError: a file that is missing, broken, or made for something else.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        hand_model_id: str | None = None,
        runtime: Runtime = "openvino",
        precision: Precision = "f32",
        threads: int = 0,
    ) -> None:
        self.path = DEFAULT_MODEL if path is None else Path(path)
        self.info = read_network_info(self.path, hand_model_id)
        if runtime == "onnxruntime" and precision != "f32":
            raise UserError(f"expected --precision f32 with --runtime onnxruntime, got {precision}; use --runtime openvino for it")
        if runtime == "openvino":
            self._networks = _load_openvino(self.path, self.info.input_size_px, precision, threads)
        else:
            self._networks = _load_onnxruntime(self.path, threads)

    def __call__(self, crops: np.ndarray) -> list[HandParams]:
        """Predict hands.

        Args:
            crops: (N, S, S, 3) uint8 RGB with S = `info.input_size_px`; N may be 0.

        Returns:
            N parameters.
        """
        expect_crops(crops, self.info.input_size_px)
        return [params for batch in _split(crops) for params in outputs_to_params(self._networks[len(batch)](batch))]


def expect_crops(crops: np.ndarray, size_px: int) -> None:
    """What every network reads: (N, S, S, 3) uint8.

    Raises:
        ValueError: something else.
    """
    if crops.shape[1:] != (size_px, size_px, 3) or crops.dtype != np.uint8:
        raise ValueError(f"expected crops of shape (N, {size_px}, {size_px}, 3) uint8, got {crops.shape} {crops.dtype}")


def read_network_info(path: Path, hand_model_id: str | None = None) -> NetworkInfo:
    """Read and check an exported network's metadata, without a runtime.

    Raises:
        UserError: no file, no ONNX, no handmesh metadata, another format or crop rule, or another hand model.
    """
    if not path.is_file():
        raise UserError(f"expected a network's .onnx file, got '{path}', which does not exist; leave --model out for the embedded one")
    try:
        text = _read_metadata_props(path.read_bytes()).get(METADATA_KEY)
        metadata = json.loads(text) if text is not None else None
        if metadata is not None and not {"hand_model", "input_size_px", "variant"} <= set(dict(metadata)):
            raise ValueError("incomplete")
    except OSError as error:
        raise UserError(f"expected a network's .onnx file, got '{path}', which cannot be read ({error.strerror})") from error
    except (ValueError, IndexError, TypeError) as error:
        raise UserError(f"expected a network's .onnx file, got '{path}', which is corrupted; export it again") from error
    if metadata is None:
        raise UserError(f"expected a network exported by handmesh-export, got '{path}', which has no handmesh metadata; export it again")
    expected = {"format": METADATA_FORMAT, "crop_rule": CROP_RULE, "root": JOINTS[ROOT]}
    for key, value in expected.items():
        if metadata.get(key) != value:
            raise UserError(f"expected a network with {key} {value}, got {metadata.get(key)} in '{path}'; export it with this version")
    if hand_model_id is not None and metadata["hand_model"] != hand_model_id:
        raise UserError(
            f"expected a network for the hand model '{hand_model_id}', got one for '{metadata['hand_model']}' in '{path}'; "
            "choose the --hand-model it was trained with; handmesh-hand fit turns its hands into another model's"
        )
    return NetworkInfo(metadata["hand_model"], metadata["input_size_px"], metadata["variant"], metadata)


def _read_metadata_props(data: bytes) -> dict[str, str]:
    """The metadata_props of an ONNX ModelProto (field 14 in onnx.proto): key (1) and value (2) strings."""
    props = {}
    for number, value in _protobuf_fields(data):
        if number == 14:
            entry = {key: bytes(text).decode() for key, text in _protobuf_fields(value)}
            props[entry.get(1, "")] = entry.get(2, "")
    return props


def _protobuf_fields(data: bytes | memoryview) -> Iterator[tuple[int, memoryview]]:
    """The length-delimited fields of one protobuf message; others are passed over."""
    view, position = memoryview(data), 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = view[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    while position < len(view):
        key = varint()
        match key & 7:
            case 0:
                varint()
            case 1:
                position += 8
            case 2:
                length = varint()
                if position + length > len(view):
                    raise ValueError("truncated")
                yield key >> 3, view[position : position + length]
                position += length
            case 5:
                position += 4
            case _:
                raise ValueError("not protobuf")


def _load_openvino(path: Path, size: int, precision: Precision, threads: int) -> dict[int, Network]:
    import openvino

    core = openvino.Core()
    config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    if threads:
        config["INFERENCE_NUM_THREADS"] = threads
    try:
        model = core.read_model(path)
        networks = {}
        for batch in BATCH_SIZES:
            model.reshape([batch, size, size, 3])
            networks[batch] = _openvino_network(core.compile_model(model, "CPU", config))
        return networks
    except RuntimeError as error:
        raise UserError(f"expected a network that OpenVINO can run, got '{path}', which it refuses; export it again") from error


def _openvino_network(compiled: Any) -> Network:
    request = compiled.create_infer_request()
    outputs = {name: compiled.output(name) for name in OUTPUTS}

    def network(crops: np.ndarray) -> dict[str, np.ndarray]:
        results = request.infer([crops])
        # OpenVINO hands out views of memory that the next call overwrites.
        return {name: results[output].copy() for name, output in outputs.items()}

    return network


def _load_onnxruntime(path: Path, threads: int) -> dict[int, Network]:
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, InvalidGraph, InvalidProtobuf  # pyright: ignore

    def load(batch: int) -> Network:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        options.add_free_dimension_override_by_name("batch", batch)
        session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])

        def network(crops: np.ndarray) -> dict[str, np.ndarray]:
            values = session.run(list(OUTPUTS), {INPUT: crops})
            return {name: np.asarray(value) for name, value in zip(OUTPUTS, values, strict=True)}

        return network

    try:
        return {batch: load(batch) for batch in BATCH_SIZES}
    except (Fail, InvalidArgument, InvalidGraph, InvalidProtobuf) as error:
        raise UserError(f"expected a network that ONNX Runtime can run, got '{path}', which it refuses; export it again") from error


def _split(crops: np.ndarray) -> Iterator[np.ndarray]:
    """Batches of the compiled sizes, largest first."""
    start = 0
    for batch in BATCH_SIZES:
        while len(crops) - start >= batch:
            yield crops[start : start + batch]
            start += batch


def outputs_to_params(outputs: dict[str, np.ndarray]) -> list[HandParams]:
    """What a network's outputs say about N crops.

    Args:
        outputs: the five `OUTPUTS`: (N, 96), (N, 10), (N, 3), and (N,) or (N, 1) twice.

    Returns:
        N parameters, of the outputs' own precision.
    """
    rotmats = rot6d_to_rotmat(outputs["rot6d"].reshape(-1, 16, 6))
    presence = 1 / (1 + np.exp(-outputs["presence_logit"].reshape(-1).astype(np.float64)))
    right_logit = outputs["right_logit"].reshape(-1)
    return [
        HandParams(rotmats[i], outputs["betas"][i], outputs["camera"][i], float(presence[i]), float(right_logit[i]))
        for i in range(len(rotmats))
    ]
