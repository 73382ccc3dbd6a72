"""How much faster the exported network is than the fused one in eager torch: batch 1, in turns, medians.

    python tools/time_network.py [--variant fastvit_t8] [--head keypoint] [--size-px 224] [--threads 2] [--rounds 20]

The weights are random: time does not depend on them. Needs the `train` extra.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from handmesh.deploy.export import DeployNet, export_net, fuse
from handmesh.geometry.crop import CROP_RULE
from handmesh.hand_model import load_hand_model
from handmesh.runtime import METADATA_FORMAT, Predictor
from handmesh.skeleton import JOINTS, ROOT
from handmesh.training.command import Head
from handmesh.training.model import HandNet

RUNS_A_TURN = 10


def build_runners(variant: str, head: Head, size_px: int, threads: int) -> dict[str, Callable[[], object]]:
    """What is timed: one crop through each form of the same network."""
    torch.manual_seed(0)
    model = load_hand_model()
    net = HandNet(variant, head, size_px)
    net.start_at(model)
    net.eval()
    crop = np.random.default_rng(0).integers(0, 256, (1, size_px, size_px, 3), dtype=np.uint8)
    tensor = torch.from_numpy(crop)
    trained, fused = DeployNet(net).eval(), DeployNet(fuse(net.double()).float()).eval()
    metadata = {
        "format": METADATA_FORMAT,
        "hand_model": model.id,
        "crop_rule": CROP_RULE,
        "input_size_px": size_px,
        "root": JOINTS[ROOT],
        "variant": variant,
    }
    net.float()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        export_net(net, model, path, "f32", metadata)
        predictors = {
            "ONNX Runtime f32": Predictor(path, runtime="onnxruntime", threads=threads),
            "OpenVINO f32": Predictor(path, threads=threads),
            "OpenVINO bf16": Predictor(path, precision="bf16", threads=threads),
        }
    return {
        "torch eager, train form": lambda: trained(tensor),
        "torch eager, fused": lambda: fused(tensor),
        **{name: lambda predictor=predictor: predictor(crop) for name, predictor in predictors.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--variant", default="fastvit_t8")
    parser.add_argument("--head", default="keypoint", choices=("keypoint", "pooled"))
    parser.add_argument("--size-px", type=int, default=224)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    runners = build_runners(arguments.variant, arguments.head, arguments.size_px, arguments.threads)
    milliseconds: dict[str, list[float]] = {name: [] for name in runners}
    with torch.inference_mode():
        for _ in range(arguments.rounds):
            for name, run in runners.items():
                # The first runs of a turn warm up: the threads of whoever ran before still spin.
                for index in range(5 + RUNS_A_TURN):
                    start = time.perf_counter()
                    run()
                    if index >= 5:
                        milliseconds[name].append(1e3 * (time.perf_counter() - start))
    baseline = np.median(milliseconds["torch eager, fused"])
    what = f"{arguments.variant}, {arguments.head} head, {arguments.size_px} px"
    print(f"{what}, batch 1, {arguments.threads} threads, {arguments.rounds} rounds of {RUNS_A_TURN} runs in turn")
    for name, values in milliseconds.items():
        median, p95 = np.percentile(values, (50, 95))
        print(f"{name:<26} median {median:7.2f} ms   p95 {p95:7.2f} ms   {baseline / median:5.2f} x")


if __name__ == "__main__":
    main()
