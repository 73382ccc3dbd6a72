"""Checkpoints: one file with the weights, the optimiser, and what is needed to know what they are."""

from __future__ import annotations

import pickle
import subprocess
import zipfile
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from handmesh.config import config_from_dict, config_hash
from handmesh.errors import UserError, one_line
from handmesh.training.command import TrainCommand
from handmesh.training.model import HandNet
from handmesh.wholefile import replacing

FORMAT = "handmesh-checkpoint-1"


@dataclass(frozen=True)
class Checkpoint:
    """A training at one moment.

    Attributes:
        config: what it was started with (`config_to_dict` of a TrainCommand).
        hand_model: id of the hand model whose parameters are learned.
        commit: of the code, or "unknown".
        step, pictures, seconds: how far it is.
        model, ema, optimizer: state dicts; `ema` holds the averaged weights that are exported.
    """

    config: dict[str, Any]
    hand_model: str
    commit: str
    step: int
    pictures: int
    seconds: float
    model: dict[str, Any]
    ema: dict[str, Any]
    optimizer: dict[str, Any]

    def command(self) -> TrainCommand:
        """The settings, checked."""
        return config_from_dict(TrainCommand, self.config, "the checkpoint")

    def config_hash(self) -> str:
        """12 hexadecimal digits that name the settings, wherever the run was kept."""
        return config_hash(replace(self.command(), out=Path(), resume=False))


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write to a temporary name beside `path`, then rename: a crash leaves the old file whole."""
    values = {field.name: getattr(checkpoint, field.name) for field in fields(Checkpoint)}
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            torch.save({"format": FORMAT, **values}, file)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"expected to write the checkpoint '{path}', but that failed ({one_line(error)}); free the disk or choose another --out"
        ) from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; nothing in the file is executed.

    Raises:
        UserError: no such file, torn, or not a checkpoint of this program.
    """
    if not path.is_file():
        raise UserError(f"expected a checkpoint, got '{path}', which is no file; train one with handmesh-train")
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise UserError(f"expected a checkpoint in '{path}', but it is torn or not one ({type(error).__name__}); use another") from error
    names = [field.name for field in fields(Checkpoint)]
    if not isinstance(values, dict) or values.get("format") != FORMAT or sorted(values) != sorted(["format", *names]):
        found = values.get("format", "no format") if isinstance(values, dict) else type(values).__name__
        raise UserError(f"expected a {FORMAT} file in '{path}', got {found}; use one that handmesh-train wrote")
    return Checkpoint(**{name: values[name] for name in names})


def net_from_checkpoint(checkpoint: Checkpoint) -> HandNet:
    """The network with its averaged weights, in evaluation mode.

    Raises:
        UserError: the weights are not this network's.
    """
    model = checkpoint.command().model
    net = HandNet(model.variant, model.head, model.size_px)
    load_weights(net, checkpoint.ema, "the checkpoint's averaged weights")
    return net.eval()


def load_weights(net: HandNet, state: dict[str, Any], what: str) -> None:
    """Strict: every weight must be there, and of the right shape."""
    try:
        net.load_state_dict(state, strict=True)
    except RuntimeError as error:
        reason = one_line(error)[:160]
        raise UserError(f"expected {what} to fit the configured network, but: {reason}; check model.variant, head and size_px") from error


def current_commit() -> str:
    """The commit of the code that runs, with "+" where files differ from it; "unknown" outside a repository."""
    folder = Path(__file__).resolve().parent
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"],
            cwd=folder, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return answer.stdout.strip() or "unknown"
