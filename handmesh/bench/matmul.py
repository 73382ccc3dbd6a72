"""The best matrix product that this machine shows right now: what a network's speed is a share of."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np

Arithmetic = Literal["f32", "bf16", "fp16", "int8"]

CPU_SIZES = (512, 1024, 2048)
# A large card needs large matrices to fill it.
CUDA_SIZES = (2048, 4096, 8192)
_REPEATS = 4


@dataclass(frozen=True)
class Peak:
    """The fastest of several matrix products.

    Attributes:
        gflops: 2 * size**3 over its shortest time, in 1e9 a second (for int8: operations).
        size: of the square matrices.
        how: what computed it.
    """

    gflops: float
    size: int
    how: str


def best_product(arithmetic: Arithmetic, device: Literal["cpu", "cuda"], threads: int, sizes: Sequence[int] = ()) -> Peak | None:
    """The fastest product of square matrices by anything that is installed.

    Args:
        arithmetic: of the factors; sums may be more precise.
        device: "cpu" tries OpenVINO and, where it is installed, torch; "cuda" torch.
        threads: of the CPU.
        sizes: of the matrices; none for `CPU_SIZES` or `CUDA_SIZES`.

    Returns:
        None where nothing here computes with that arithmetic.
    """
    products = _torch_cuda_products if device == "cuda" else _cpu_products
    peaks = [
        Peak(2e-9 * size**3 / _shortest_s(run), size, how)
        for size in sizes or (CUDA_SIZES if device == "cuda" else CPU_SIZES)
        for how, run in products(arithmetic, size, threads)
    ]
    return max(peaks, key=lambda peak: peak.gflops, default=None)


def _shortest_s(run: Callable[[], object]) -> float:
    run()
    times_s = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        run()
        times_s.append(time.perf_counter() - start)
    return min(times_s)


def _cpu_products(arithmetic: Arithmetic, size: int, threads: int) -> Iterator[tuple[str, Callable[[], object]]]:
    run = _openvino_product(arithmetic, size, threads)
    if run is not None:
        yield f"OpenVINO {arithmetic}", run
    if arithmetic in ("f32", "bf16") and find_spec("torch") is not None:
        import torch

        torch.set_num_threads(threads)
        left, right = (torch.rand(size, size).to(_torch_type(arithmetic)) for _ in range(2))
        yield f"torch {arithmetic}", lambda: left @ right


def _torch_cuda_products(arithmetic: Arithmetic, size: int, threads: int) -> Iterator[tuple[str, Callable[[], object]]]:
    import torch

    if arithmetic == "int8" or not torch.cuda.is_available():
        return
    left, right = (torch.rand(size, size, device="cuda").to(_torch_type(arithmetic)) for _ in range(2))

    def run() -> None:
        torch.matmul(left, right)
        torch.cuda.synchronize()

    yield f"torch {arithmetic} on {torch.cuda.get_device_name()}", run


def _torch_type(arithmetic: Arithmetic) -> Any:
    import torch

    return {"f32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[arithmetic]


def _openvino_product(arithmetic: Arithmetic, size: int, threads: int) -> Callable[[], object] | None:
    """A product with a constant right side, as in a network; None where OpenVINO is not, or would compute it otherwise."""
    if find_spec("openvino") is None:
        return None
    import openvino
    from openvino import opset13 as ops

    core = openvino.Core()
    if arithmetic != "f32" and arithmetic.upper() not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return None
    rng = np.random.default_rng(0)
    left: Any = ops.parameter([size, size], np.float32)
    if arithmetic == "int8":
        low, high = (ops.constant(np.float32(value)) for value in (-1.28, 1.27))
        rounded: Any = ops.fake_quantize(left, low, high, low, high, 256)
        weights = ops.convert(ops.constant(rng.integers(-127, 128, (size, size)).astype(np.int8)), "f32")
        right = ops.multiply(weights, ops.constant(np.full((size, 1), 0.01, np.float32)))
    else:
        rounded, right = left, ops.constant(rng.random((size, size), np.float32))
    make_model: Any = openvino.Model
    model = make_model([ops.matmul(rounded, right, False, True)], [left], "product")
    hint = {"int8": "f32", "fp16": "f16"}.get(arithmetic, arithmetic)
    compiled = core.compile_model(
        model, "CPU", {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    )
    if arithmetic == "int8" and not _multiplies_int8(compiled):
        return None
    request = compiled.create_infer_request()
    request.set_input_tensor(openvino.Tensor(rng.random((size, size), np.float32)))
    return request.infer


def _multiplies_int8(compiled: Any) -> bool:
    for node in compiled.get_runtime_model().get_ops():
        info = node.get_rt_info()
        if info["layerType"].value in ("FullyConnected", "MatMul"):
            return info["runtimePrecision"].value in ("i8", "u8")
    return False
