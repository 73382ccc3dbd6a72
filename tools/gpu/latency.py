"""Latency of FastViT T8, SA12 and MA36, as far as time allows, and its fraction of what the device's matrix products reach."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch

from handmesh.bench.matmul import Arithmetic, best_product
from handmesh.bench.networks import WAYS, NotHereError, Subject, Way, arithmetic_of, forget_compiled, fuse_in_f64, prepare, random_net

# Side of the crops; MA36 as in the FastViT paper.
VARIANTS = {"fastvit_t8": 96, "fastvit_sa12": 224, "fastvit_ma36": 224}
BATCHES = (1, 64)
_CPU_WAYS: tuple[Way, ...] = ("torch-train", "torch-fused")
_WARM_UP, _RUNS, _LONGEST_S = 3, 50, 2.0


def measure_latency(device: Literal["cpu", "cuda"], minutes: float) -> None:
    """Print a table; what there was no time for is left out and named. Compiling takes longest and comes last."""
    deadline = time.monotonic() + 60 * minutes
    threads = torch.get_num_threads()
    ways: list[Way] = [way for way in WAYS if way.startswith("cuda")] if device == "cuda" else list(_CPU_WAYS)
    ways.sort(key=lambda way: "compile" in way)
    peaks: dict[Arithmetic, float] = {}
    for arithmetic in dict.fromkeys(way.rsplit("-", 1)[-1] if device == "cuda" else "f32" for way in ways):
        peak = best_product(arithmetic, device, threads)  # pyright: ignore[reportArgumentType]
        if peak is not None:
            peaks[arithmetic] = peak.gflops  # pyright: ignore[reportArgumentType]
            print(f"largest matrix product: {peak.gflops / 1e3:.2f} TFLOP/s ({peak.how}, {peak.size})")
    subjects = [subject_of(variant, size_px) for variant, size_px in VARIANTS.items()]
    left_out = []
    print(f"{'network':14}{'way':20}{'batch':>6}{'ms':>10}{'images/s':>11}{'of peak':>9}")
    for way, subject, batch in itertools.product(ways, subjects, BATCHES):
        if time.monotonic() > deadline:
            left_out.append(f"{subject.name} {way} {batch}")
            continue
        try:
            seconds = latency_s(subject, way, batch, threads)
        except NotHereError as error:
            print(f"{subject.name:14}{way:20}{batch:6}  {error}")
            continue
        flops = 2 * subject.macs * batch / seconds
        peak = peaks.get(arithmetic_of(way, subject))
        of_peak = f"{flops / 1e9 / peak:9.1%}" if peak else ""
        print(f"{subject.name:14}{way:20}{batch:6}{1e3 * seconds:10.3f}{batch / seconds:11.0f}{of_peak}")
    if left_out:
        print(f"no time for {len(left_out)} more: {', '.join(left_out)}")


def latency_s(subject: Subject, way: Way, batch: int, threads: int) -> float:
    """Median seconds of a run, the crops being on the device.

    Raises:
        NotHereError: this way does not run here.
    """
    forget_compiled()
    run = prepare(subject, way, batch, threads)
    for _ in range(_WARM_UP):
        run()
    times_s: list[float] = []
    started = time.perf_counter()
    while len(times_s) < _RUNS and time.perf_counter() - started < _LONGEST_S:
        before = time.perf_counter()
        run()
        times_s.append(time.perf_counter() - before)
    return median(times_s)


def subject_of(variant: str, size_px: int) -> Subject:
    """A network with random weights and the keypoint head."""
    trained: Any = random_net(variant, "keypoint", size_px)
    fused = fuse_in_f64(trained)
    return Subject(variant, size_px, Path(), macs_of(fused, size_px), trained, forms={"fused": fused})


def macs_of(net: torch.nn.Module, size_px: int) -> int:
    """Multiply-adds of one crop in convolutions and linear layers; attention's own products (0.2 % of SA12's) are left out."""
    macs: list[int] = []

    def count(layer: Any, _: Any, output: torch.Tensor) -> None:
        # Each output is a sum over one filter or row of the weight.
        macs.append(output.numel() * layer.weight[0].numel())

    hooks = [layer.register_forward_hook(count) for layer in net.modules() if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear)]
    with torch.inference_mode():
        net(torch.zeros(1, size_px, size_px, 3, dtype=torch.uint8))
    for hook in hooks:
        hook.remove()
    return sum(macs)
