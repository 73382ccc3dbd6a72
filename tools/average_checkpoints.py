"""The mean of several checkpoints' averaged weights, of trainings that went on from each other: often better than each of them.

    python tools/average_checkpoints.py OUT.pt FIRST.pt SECOND.pt ...

Method: model soups (Wortsman et al. 2022, arXiv 2203.05482), uniform. The rest of the file is the last checkpoint's, without its optimiser.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from handmesh.cli import guard
from handmesh.errors import UserError
from handmesh.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint


def average(checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    """The uniform mean.

    Raises:
        UserError: networks or hand models that differ.
    """
    last = checkpoints[-1]
    for other in checkpoints:
        if other.hand_model != last.hand_model or {n: v.shape for n, v in other.ema.items()} != {n: v.shape for n, v in last.ema.items()}:
            raise UserError("expected checkpoints of one network and one hand model, got different ones; average those of one training")
    ema = {name: _mean([other.ema[name] for other in checkpoints]) for name in last.ema}
    return replace(last, ema=ema, model={}, optimizer={}, student_map={})


def _mean(values: Sequence[Tensor]) -> Tensor:
    last = values[-1]
    return (sum((each.double() for each in values[:-1]), last.double()) / len(values)).to(last.dtype) if last.is_floating_point() else last


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    arguments = parser.parse_args(argv)
    save_checkpoint(average([load_checkpoint(path) for path in arguments.checkpoints]), arguments.out)
    print(f"'{arguments.out}': the mean of {len(arguments.checkpoints)} checkpoints")


if __name__ == "__main__":
    sys.exit(guard("average_checkpoints", main))
