"""Runs one exported network: crops in, hand parameters out. Never imports torch."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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
# Crops go through the network in batches of these sizes, each compiled when it is first needed; static is 8-25 % faster than dynamic.
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
        path: an ONNX file or an OpenVINO IR (.xml, with its .bin beside it) written by `handmesh-export`; None for the embedded network.
        hand_model_id: the model that will be posed; None accepts any.
        runtime: "openvino" or "onnxruntime", which reads ONNX files alone.
        precision: of the computation, never implicit. "bf16" needs OpenVINO and costs up to 1 mm. None: what the file was made for, which
            is f32 unless it was exported with bf16. What a file holds as int8 is computed as such in either.
        threads: of the network; 0 lets the runtime choose.

    Attributes:
        precision: that is computed in.

    Raises:
        UserError: a file that is missing, broken, or made for something else.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        hand_model_id: str | None = None,
        runtime: Runtime = "openvino",
        precision: Precision | None = None,
        threads: int = 0,
    ) -> None:
        self.path = DEFAULT_MODEL if path is None else Path(path)
        self.info = read_network_info(self.path, hand_model_id)
        self.precision: Precision = precision or ("bf16" if self.info.metadata.get("precision") == "bf16" else "f32")
        if runtime == "onnxruntime" and self.path.suffix == ".xml":
            raise UserError(f"expected an .onnx file with --runtime onnxruntime, got '{self.path}'; leave --runtime out")
        if runtime == "onnxruntime" and self.precision != "f32":
            raise UserError(f"expected --precision f32 with --runtime onnxruntime, got {self.precision}; use --runtime openvino for it")
        if runtime == "openvino":
            self._compile = _openvino_compiler(self.path, self.info.input_size_px, self.precision, threads)
        else:
            self._compile = _onnxruntime_compiler(self.path, threads)
        self._networks: dict[int, Network] = {}
        # The smallest always, so that a file that cannot run is refused here.
        self.prepare(1)

    def prepare(self, *batch_sizes: int) -> None:
        """Compile for so many crops at once now, rather than with the first such call.

        Args:
            batch_sizes: out of `BATCH_SIZES`.
        """
        for size in batch_sizes:
            if size not in BATCH_SIZES:
                raise ValueError(f"expected batch sizes out of {BATCH_SIZES}, got {size}")
            if size not in self._networks:
                self._networks[size] = self._compile(size)

    def __call__(self, crops: np.ndarray) -> list[HandParams]:
        """Predict hands.

        Args:
            crops: (N, S, S, 3) uint8 RGB with S = `info.input_size_px`; N may be 0.

        Returns:
            N parameters.
        """
        return outputs_to_params(self.outputs(crops)) if len(crops) else []

    def outputs(self, crops: np.ndarray) -> dict[str, np.ndarray]:
        """What the network gives for one crop or more, before it is made into parameters: `OUTPUTS` by name, each (N, ...)."""
        expect_crops(crops, self.info.input_size_px)
        parts = []
        for batch in split_batches(crops):
            self.prepare(len(batch))
            parts.append(self._networks[len(batch)](batch))
        return parts[0] if len(parts) == 1 else {name: np.concatenate([part[name] for part in parts]) for name in OUTPUTS}


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
        UserError: no file, neither ONNX nor an OpenVINO IR with both of its files, no handmesh metadata, another format or crop rule, or
            another hand model.
    """
    what = "an .xml (with its .bin) or .onnx file of handmesh-export" if path.suffix == ".xml" else "a network's .onnx file"
    metadata = read_metadata(path, what, {"hand_model": str, "input_size_px": int, "variant": str})
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


def read_metadata(path: Path, what: str, keys: Mapping[str, type]) -> dict[str, Any]:
    """The "handmesh" entry of an ONNX file or an OpenVINO IR.

    Args:
        what: the file is expected to be, for messages.
        keys: that the entry must have, and of which type.

    Raises:
        UserError: no file, one that is damaged, or one without such an entry.
    """
    if not path.is_file():
        raise UserError(f"expected {what}, got '{path}', which does not exist; leave the flag out for the embedded one")
    if path.suffix == ".xml" and not path.with_suffix(".bin").is_file():
        raise UserError(
            f"expected the weights '{path.with_suffix('.bin')}' beside '{path.name}', which are not there; keep the two together"
        )
    try:
        data = path.read_bytes()
        text = _read_rt_info(data) if path.suffix == ".xml" else _read_metadata_props(data).get(METADATA_KEY)
        metadata = dict(json.loads(text)) if text is not None else {}
    except OSError as error:
        raise UserError(f"expected {what}, got '{path}', which cannot be read ({error.strerror})") from error
    except (ValueError, IndexError, TypeError) as error:
        raise UserError(f"expected {what}, got '{path}', which is corrupted; export it again") from error
    if text is None:
        raise UserError(f"expected {what}, got '{path}', which has no handmesh metadata; give another file, or export it again")
    for key, kind in keys.items():
        if not isinstance(metadata.get(key), kind):
            raise UserError(
                f"expected {what}, got '{path}', whose metadata has no {key} ({kind.__name__}): it is of another kind; give another file"
            )
    return metadata


def _read_metadata_props(data: bytes) -> dict[str, str]:
    """The metadata_props of an ONNX ModelProto (field 14 in onnx.proto): key (1) and value (2) strings."""
    props = {}
    for number, value in _protobuf_fields(data):
        if number == 14:
            entry = {key: bytes(text).decode() for key, text in _protobuf_fields(value)}
            props[entry.get(1, "")] = entry.get(2, "")
    return props


def _read_rt_info(data: bytes) -> str | None:
    """The "handmesh" entry of an OpenVINO IR's rt_info: an attribute's value near the end of the file."""
    if not data.rstrip().endswith(b"</net>"):
        raise ValueError("no network, or truncated")
    found = re.search(rb'<handmesh value="([^"]*)"', data)
    return html.unescape(found[1].decode()) if found else None


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


def _openvino_compiler(path: Path, size: int, precision: Precision, threads: int) -> Callable[[int], Network]:
    import openvino

    core = openvino.Core()
    config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    if threads:
        config["INFERENCE_NUM_THREADS"] = threads
    with _openvino_can(path):
        model = core.read_model(path)

    def compile_for(batch: int) -> Network:
        with _openvino_can(path):
            model.reshape([batch, size, size, 3])
            return _openvino_network(core.compile_model(model, "CPU", config))

    return compile_for


@contextmanager
def _openvino_can(path: Path) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise UserError(f"expected a network that OpenVINO can run, got '{path}', which it refuses; export it again") from error


def _openvino_network(compiled: Any) -> Network:
    request = compiled.create_infer_request()
    crops_in = request.get_input_tensor(0).data
    outputs = {name: request.get_tensor(compiled.output(name)).data for name in OUTPUTS}

    def network(crops: np.ndarray) -> dict[str, np.ndarray]:
        crops_in[...] = crops
        request.infer()
        # Views of memory that the next call overwrites.
        return {name: values.copy() for name, values in outputs.items()}

    return network


def _onnxruntime_compiler(path: Path, threads: int) -> Callable[[int], Network]:
    import onnxruntime

    def compile_for(batch: int) -> Network:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_free_dimension_override_by_name("batch", batch)
        session = onnxruntime_session(path, options, "a network")

        def network(crops: np.ndarray) -> dict[str, np.ndarray]:
            values = session.run(list(OUTPUTS), {INPUT: crops})
            return {name: np.asarray(value) for name, value in zip(OUTPUTS, values, strict=True)}

        return network

    return compile_for


def onnxruntime_session(path: Path, options: Any, what: str) -> Any:
    """An `onnxruntime.InferenceSession` of a file.

    Args:
        options: `onnxruntime.SessionOptions`.
        what: the file is expected to be, for messages.

    Raises:
        UserError: ONNX Runtime cannot run it.
    """
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, InvalidGraph, InvalidProtobuf  # pyright: ignore

    # It would write on the terminal what the error below says.
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    except (Fail, InvalidArgument, InvalidGraph, InvalidProtobuf) as error:
        raise UserError(f"expected {what} that ONNX Runtime can run, got '{path}', which it refuses; export it again") from error


def split_batches(crops: np.ndarray) -> Iterator[np.ndarray]:
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
