"""How long skinning takes in numpy, a hand: one at a time and in batches, beside a matrix product of known size.

    python tools/time_skinning.py [--hand-model open] [--rounds 40]

In turns, medians. The product of two 256 x 256 f32 matrices is there to compare machines and moments by.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from handmesh.geometry.rotation import rotvec_to_rotmat
from handmesh.hand_model import load_hand_model
from handmesh.hand_model.skinning import skin

RUNS_A_TURN = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hand-model", default="open")
    parser.add_argument("--rounds", type=int, default=40)
    arguments = parser.parse_args()
    model = load_hand_model(arguments.hand_model)
    rng = np.random.default_rng(0)
    rotmats = rotvec_to_rotmat(rng.normal(0, 0.4, (64, 16, 3))).astype(np.float32)
    betas = rng.normal(0, 1, (64, 10)).astype(np.float32)
    square = rng.normal(0, 1, (256, 256)).astype(np.float32)
    runs: dict[str, tuple[int, Callable[[], object]]] = {
        "one hand": (1, lambda: skin(model, rotmats[0], betas[0])),
        "batches of 8": (8, lambda: skin(model, rotmats[:8], betas[:8])),
        "batches of 64": (64, lambda: skin(model, rotmats, betas)),
        "256 x 256 product": (1, lambda: square @ square),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(arguments.rounds):
        for name, (hands, run) in runs.items():
            for _ in range(RUNS_A_TURN):
                start = time.perf_counter()
                run()
                seconds[name].append((time.perf_counter() - start) / hands)
    product = float(np.median(seconds["256 x 256 product"]))
    print(f"{model.id}, {len(model.template_m)} vertices")
    for name, values in seconds.items():
        median = float(np.median(values))
        print(f"{name:<32}{1e3 * median:8.3f} ms{median / product:8.2f} products")


if __name__ == "__main__":
    main()
