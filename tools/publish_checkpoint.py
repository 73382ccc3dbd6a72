"""The averaged weights of a training alone, in half precision: small enough to publish, and to fine-tune or export from.

    python tools/publish_checkpoint.py runs/synthetic_t8/best.pt hand_t8.pt

Needs the `train` extra.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from handmesh.cli import guard
from handmesh.errors import UserError
from handmesh.training.checkpoint import load_checkpoint, save_weights


def publish(argv: Sequence[str]) -> None:
    if len(argv) != 2:
        raise UserError(f"expected CHECKPOINT and OUT, got {len(argv)} arguments; see the top of this file")
    out = Path(argv[1])
    save_weights(load_checkpoint(Path(argv[0])), out)
    print(f"'{out}', {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    sys.exit(guard("publish_checkpoint", publish))
