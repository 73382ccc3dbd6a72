"""The networks that are timed, and the ways to run them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from handmesh.bench.macs import count_macs
from handmesh.bench.matmul import Arithmetic
from handmesh.errors import UserError, one_line

Way = Literal[
    "torch-train",
    "torch-fused",
    "torch-channels-last",
    "torch-compile",
    "onnxruntime",
    "openvino-f32",
    "openvino-bf16",
    "openvino-int8",
    "cuda-eager-f32",
    "cuda-eager-bf16",
    "cuda-eager-fp16",
    "cuda-compile-f32",
    "cuda-compile-bf16",
    "cuda-compile-fp16",
    "cuda-graph-f32",
    "cuda-graph-bf16",
    "cuda-graph-fp16",
]
WAYS: tuple[Way, ...] = get_args(Way)
BASELINE: Way = "torch-fused"
_CALIBRATION_PICTURES = 4

Run = Callable[[], object]


class NotHereError(Exception):
    """A way that this machine, these packages or this network do not allow; the reason in one line."""


@dataclass(frozen=True)
class Subject:
    """One network that is timed.

    Attributes:
        name: variant or name of the file.
        size_px: side S of its crops.
        path: its graph as .onnx or .xml: uint8 crops (N, S, S, 3) in.
        macs: multiply-adds of one crop.
        trained: the training form (`training.model.HandNet`, evaluation mode, f32), or None for a file.
        is_int8: the file is quantised.
        forms: what was made of it and is needed again, such as the fused form.
    """

    name: str
    size_px: int
    path: Path
    macs: int
    trained: Any = None
    is_int8: bool = False
    forms: dict[str, Any] = field(default_factory=dict, compare=False)

    def form(self, name: str, make: Callable[[], Any]) -> Any:
        """The form of that name, made when it is first asked for."""
        if name not in self.forms:
            self.forms[name] = make()
        return self.forms[name]


def check_variants(variants: tuple[str, ...]) -> None:
    """Raises:
    UserError: one that FastViT does not have.
    """
    from handmesh.training.model import VARIANTS

    for variant in variants:
        if variant not in VARIANTS:
            raise UserError(f"expected --variants out of {', '.join(VARIANTS)}, got '{variant}'")


def random_net(variant: str, head: Any, size_px: int) -> Any:
    """The training form of a `HandNet` with random weights, in evaluation mode.

    Raises:
        UserError: an unknown variant or an unfit size.
        ModuleNotFoundError: the `train` extra is not installed.
    """
    import torch

    from handmesh.training.model import HandNet

    check_variants((variant,))
    torch.manual_seed(0)
    return HandNet(variant, head, size_px).eval()


def subject_of_variant(variant: str, head: Any, size_px: int, folder: Path) -> Subject:
    """A network with random weights, and its export in `folder`.

    Raises:
        UserError: an unknown variant or an unfit size.
        ModuleNotFoundError: the `train` extra is not installed.
    """
    from handmesh.deploy.onnx_graph import to_onnx

    trained = random_net(variant, head, size_px)
    fused = fuse_in_f64(trained)
    path = folder / f"{variant}.onnx"
    path.write_bytes(to_onnx(fused).SerializeToString())
    return Subject(variant, size_px, path, _macs_of(path, size_px), trained, forms={"fused": fused})


def subject_of_file(path: Path) -> Subject:
    """An exported network.

    Raises:
        UserError: no such file, or none that reads crops.
    """
    model = read_graph(path)
    shape = model.input(0).get_partial_shape() if len(model.inputs) == 1 else None
    if shape is None or shape.rank.get_length() != 4 or shape[1].is_dynamic or shape[1] != shape[2] or str(shape[3]) != "3":
        raise UserError(f"expected a network that reads crops (N, S, S, 3), as handmesh-export writes it, got '{path}'")
    size_px = shape[1].get_length()
    is_int8 = any(operation.get_type_name() == "FakeQuantize" for operation in model.get_ops())
    return Subject(path.stem, size_px, path, _macs_of(path, size_px), is_int8=is_int8)


def fuse_in_f64(trained: Any) -> Any:
    """The fused form of a `HandNet`, merged in double precision, in f32."""
    import copy

    from handmesh.deploy.graph import fuse

    return fuse(copy.deepcopy(trained).double()).float()


def read_graph(path: Path) -> Any:
    """The `openvino.Model` of an .onnx or .xml file.

    Raises:
        UserError: it is missing or broken.
    """
    if not path.is_file() or path.suffix not in (".onnx", ".xml"):
        raise UserError(f"expected --model to be an .onnx or .xml file of handmesh-export, or 'default', got '{path}'")
    try:
        return _core().read_model(path)
    except RuntimeError as error:
        raise UserError(f"expected a network that OpenVINO can read, got '{path}', which it refuses; export it again") from error


def arithmetic_of(way: Way, subject: Subject) -> Arithmetic:
    """What a way multiplies in."""
    last = way.rsplit("-", 1)[-1]
    if subject.is_int8 and not way.startswith(("torch", "cuda")):
        return "int8"
    return last if last in get_args(Arithmetic) else "f32"  # pyright: ignore[reportReturnType]


def prepare(subject: Subject, way: Way, batch: int, threads: int) -> Run:
    """What runs `batch` random crops through a network in one way: crops in, all outputs computed.

    Args:
        threads: of the CPU.

    Raises:
        NotHereError: it cannot run here.
    """
    crops = np.random.default_rng(0).integers(0, 256, (batch, subject.size_px, subject.size_px, 3), dtype=np.uint8)
    if way == "onnxruntime":
        return _onnxruntime_run(subject, crops, threads)
    if way.startswith("openvino"):
        return _openvino_run(subject, way.removeprefix("openvino-"), crops, threads)
    if subject.trained is None:
        raise NotHereError(f"'{subject.path.name}' is an exported network, which torch does not run; give --variants instead of --model")
    if way.startswith("cuda"):
        return _cuda_run(subject, way, crops)
    return _torch_run(subject, way, crops, threads)


def forget_compiled() -> None:
    """Let torch.compile start afresh: after 8 networks of one kind it would run the next ones uncompiled, without a word."""
    if find_spec("torch") is not None:
        import torch

        torch.compiler.reset()


@cache
def _core() -> Any:
    import openvino

    return openvino.Core()


def _macs_of(path: Path, size_px: int) -> int:
    model = read_graph(path)
    model.reshape([1, size_px, size_px, 3])
    return count_macs(model)


def _deployed(net: Any) -> Any:
    from handmesh.deploy.graph import DeployNet

    return DeployNet(net).eval()


def _fused(subject: Subject) -> Any:
    return subject.form("fused", lambda: fuse_in_f64(subject.trained))


def _torch_run(subject: Subject, way: Way, crops: np.ndarray, threads: int) -> Run:
    import copy

    import torch

    torch.set_num_threads(threads)
    tensor = torch.from_numpy(crops)
    match way:
        case "torch-train":
            net = _deployed(subject.trained)
        case "torch-fused":
            net = _deployed(_fused(subject))
        case "torch-channels-last":
            # Of the weights: convolutions then choose the layout for the activations too.
            net = subject.form(way, lambda: _deployed(copy.deepcopy(_fused(subject))).to(memory_format=torch.channels_last))
        case _:
            net = torch.compile(_deployed(_fused(subject)), dynamic=False)

    def run() -> object:
        with torch.inference_mode():
            return net(tensor)

    if way == "torch-compile":
        _first_run(run, "torch.compile failed")
    return run


def _cuda_run(subject: Subject, way: Way, crops: np.ndarray) -> Run:
    """Crops are on the card already and outputs stay there; a run ends when the card has finished."""
    import copy

    import torch

    if not torch.cuda.is_available():
        raise NotHereError("torch finds no CUDA device here")
    _, how, precision = way.split("-")
    # Else f32 convolutions round to 10 bits.
    torch.backends.cudnn.allow_tf32 = False
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    net = _deployed(copy.deepcopy(_fused(subject))).to("cuda", dtype, memory_format=torch.channels_last)
    tensor = torch.from_numpy(crops).to("cuda")

    def eager() -> object:
        with torch.inference_mode():
            outputs = net(tensor)
        torch.cuda.synchronize()
        return outputs

    if how == "eager":
        return eager
    if how == "compile":
        net = torch.compile(net, dynamic=False)
        _first_run(eager, "torch.compile failed")
        return eager
    # A stream of its own and a few runs before the capture: https://pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            eager()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode(), torch.cuda.graph(graph):
        outputs = net(tensor)

    def replay() -> object:
        graph.replay()
        torch.cuda.synchronize()
        return outputs

    return replay


def _first_run(run: Run, what: str) -> None:
    """Compilers work when they are first called, and need much that a machine may not have."""
    try:
        run()
    except (RuntimeError, OSError) as error:
        raise NotHereError(f"{what}: {type(error).__name__}: {one_line(error)[:200]}") from error


def _openvino_run(subject: Subject, precision: str, crops: np.ndarray, threads: int) -> Run:
    import openvino

    if precision == "bf16" and "BF16" not in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise NotHereError("this CPU does not compute in bf16")
    if subject.is_int8 and precision != "int8":
        raise NotHereError(f"'{subject.path.name}' is quantised to int8")
    if precision == "int8" and not subject.is_int8:
        model = subject.form("int8", lambda: quantize_for_timing(read_graph(subject.path), subject.size_px)).clone()
    else:
        model = read_graph(subject.path)
    model.reshape(list(crops.shape))
    hint = "f32" if precision == "int8" else precision
    compiled = _core().compile_model(
        model, "CPU", {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    )
    request = compiled.create_infer_request()
    request.set_input_tensor(openvino.Tensor(crops))
    return request.infer


def quantize_for_timing(model: Any, size_px: int) -> Any:
    """An int8 form whose ranges come from random pictures, which time does not depend on.

    Args:
        model: an `openvino.Model` of crops (N, S, S, 3) uint8.

    Raises:
        NotHereError: nncf is not installed.
    """
    if find_spec("nncf") is None:
        raise NotHereError('nncf is not installed; run: pip install "handmesh[export]"')
    from handmesh.deploy.quantize import quantize

    return quantize(model, np.random.default_rng(0).integers(0, 256, (_CALIBRATION_PICTURES, size_px, size_px, 3), dtype=np.uint8))


def _onnxruntime_run(subject: Subject, crops: np.ndarray, threads: int) -> Run:
    if subject.path.suffix != ".onnx":
        raise NotHereError(f"ONNX Runtime reads no {subject.path.suffix} file")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.add_free_dimension_override_by_name("batch", len(crops))
    session = onnxruntime.InferenceSession(subject.path.read_bytes(), options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: crops}
    return lambda: session.run(None, feed)
