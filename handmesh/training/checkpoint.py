"""Checkpoints: one file with the weights, the optimiser, and what is needed to know what they are."""

from __future__ import annotations

import math
import pickle
import struct
import subprocess
import zipfile
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from handmesh.config import config_from_dict, config_hash, config_to_dict
from handmesh.errors import UserError, one_line
from handmesh.training.command import AugmentConfig, TrainCommand
from handmesh.training.model import HandNet, build_net
from handmesh.wholefile import replacing

LAST_NAME = "last.pt"
BEST_NAME = "best.pt"

FORMAT = "handmesh-checkpoint-2"
# Without `best`, `student_map` and the depth head, and with settings of augmentation that are no more.
_OLD_FORMAT = "handmesh-checkpoint-1"


@dataclass(frozen=True)
class Checkpoint:
    """A training at one moment.

    Attributes:
        config: what it was started with (`config_to_dict` of a TrainCommand).
        hand_model: id of the hand model whose parameters are learned.
        commit: of the code, or "unknown".
        step, pictures, seconds: how far it is.
        model, ema, optimizer: state dicts; `ema` holds the averaged weights that are exported. The other two are empty in
            what `save_weights` wrote and in files of the old format.
        best: lowest validation score so far, in millimetres; infinite before the first.
        student_map: state dict of the linear map from the network's features to its teacher's; empty without a teacher.
        data_sizes: pictures to train on by source, which the order of pictures depends on; empty where it was not written down.
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
    best: float = math.inf
    student_map: dict[str, Any] = field(default_factory=dict)
    data_sizes: dict[str, int] = field(default_factory=dict)

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


def save_weights(checkpoint: Checkpoint, path: Path) -> None:
    """Write the averaged weights alone, in half precision, in the same format: enough to export, or to start another training from."""
    command = checkpoint.command()
    # Where its author keeps files is nobody's business.
    command = replace(
        command,
        out=_without_folder(command.out),
        hand_model=str(_without_folder(Path(command.hand_model))),
        init_from=command.init_from and _without_folder(command.init_from),
        distill=replace(command.distill, teacher=command.distill.teacher and _without_folder(command.distill.teacher)),
        data=replace(
            command.data,
            sources=tuple(replace(source, folders=tuple(map(_without_folder, source.folders))) for source in command.data.sources),
            backgrounds=command.data.backgrounds and _without_folder(command.data.backgrounds),
        ),
    )
    ema = {name: _halved(values) for name, values in checkpoint.ema.items()}
    save_checkpoint(replace(checkpoint, config=config_to_dict(command), model={}, ema=ema, optimizer={}, student_map={}), path)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; nothing in the file is executed.

    Raises:
        UserError: no such file, torn, or not a checkpoint of this program.
    """
    if not path.is_file():
        raise UserError(f"expected a checkpoint, got '{path}', which is no file; train one with handmesh-train")
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except (
        OSError, RuntimeError, ValueError, EOFError, LookupError, TypeError, AttributeError, struct.error, zipfile.BadZipFile,
        pickle.UnpicklingError,
    ) as error:  # fmt: skip
        raise UserError(f"expected a checkpoint in '{path}', but it is torn or not one ({type(error).__name__}); use another") from error
    if isinstance(values, dict) and values.get("format") == _OLD_FORMAT:
        values = _from_old_format(values)
    names = [field.name for field in fields(Checkpoint)]
    if isinstance(values, dict):
        values.setdefault("data_sizes", {})
    if not isinstance(values, dict) or values.get("format") != FORMAT or sorted(values) != sorted(["format", *names]):
        found = values.get("format", "no format") if isinstance(values, dict) else type(values).__name__
        raise UserError(f"expected a {FORMAT} file in '{path}', got {found}; use one that handmesh-train wrote")
    return Checkpoint(**{name: values[name] for name in names})


def net_from_checkpoint(checkpoint: Checkpoint) -> HandNet:
    """The network with its averaged weights, in evaluation mode.

    Raises:
        UserError: the weights are not this network's.
    """
    net = build_net(replace(checkpoint.command().model, pretrained=False, drop_path=0.0))
    load_weights(net, checkpoint.ema, "the checkpoint's averaged weights")
    return net.eval()


def load_weights(net: HandNet, state: dict[str, Any], what: str) -> None:
    """Strict: every weight must be there, and of the right shape."""
    try:
        net.load_state_dict(state, strict=True)
    except RuntimeError as error:
        reason = one_line(error)[:160]
        raise UserError(
            f"expected {what} to fit the configured network, but: {reason}; check model.variant, head, dense and overparameterized"
        ) from error


# What a checkpoint cannot be taken apart from: shapes of weights, groups of the optimiser, and where in its data a step is.
_FIXED_SETTINGS = (
    *("model.variant", "model.head", "model.size_px", "model.dense", "model.overparameterized"),
    *("data.batch_size", "data.validation_pictures", "schedule.layer_decay", "seed"),
    # A trained map from features to features belongs to its teacher.
    "distill.teacher",
)
# What the weights do not depend on.
_FREE_SETTINGS = (
    *("out", "resume", "init_from", "log_every_batches", "validate_every_pictures", "save_every_minutes", "keep_every_pictures"),
    *("data.prefetch_batches", "data.readers", "model.pretrained"),
)


def changed_settings(before: TrainCommand, now: TrainCommand, path: Path) -> list[str]:
    """What going on with other settings changes, as "name old -> new"; settings that the weights do not depend on are not told.

    Args:
        before: of the checkpoint.
        now: to go on with.
        path: of the checkpoint.

    Raises:
        UserError: a change that the checkpoint's weights, optimiser or order of pictures do not fit.
    """
    old, new = _flat(config_to_dict(before)), _flat(config_to_dict(now))
    changed = [name for name in new if old[name] != new[name] and name not in _FREE_SETTINGS]
    for name in filter(_FIXED_SETTINGS.__contains__, changed):
        raise UserError(
            f"expected {name} {old[name]} to go on with '{path}', got {new[name]}; set it back, or start anew with --init-from {path} "
            "and another --out"
        )
    return [f"{name} {old[name]} -> {new[name]}" for name in changed]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


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


def _from_old_format(values: dict[str, Any]) -> dict[str, Any]:
    """What format 1 held, as format 2 has it; its optimiser does not fit today's groups."""
    known = {setting.name for setting in fields(AugmentConfig)}
    config = values.get("config", {})
    augment = {name: value for name, value in config.get("augment", {}).items() if name in known}
    emptied = {"model": {}, "optimizer": {}, "student_map": {}}
    return {**values, **emptied, "format": FORMAT, "config": {**config, "augment": augment}, "best": math.inf}


def _without_folder(path: Path) -> Path:
    return Path(path.name) if path.is_absolute() else path


def _halved(values: torch.Tensor) -> torch.Tensor:
    """In half precision, unless these are counts or too large for it."""
    if not values.is_floating_point():
        return values
    half = values.half()
    return half if torch.isfinite(half).all() else values
