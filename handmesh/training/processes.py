"""The processes of one training: on which devices they run, what they agree on, and which of them speaks."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch

from handmesh.errors import UserError
from handmesh.training.command import TrainCommand

LOCK_NAME = ".lock"

Result = TypeVar("Result")


def check_devices(command: TrainCommand) -> None:
    """Refuse what this machine cannot do, before anything is started.

    Raises:
        UserError: no such device, or not so many; a batch that does not divide; what only GPUs do.
    """
    kind = device_kind(command)
    if kind == "cuda":
        there = torch.cuda.device_count()
        if there < command.devices:
            raise UserError(f"expected {command.devices} GPUs for --devices, this machine has {there}; lower it, or use --device cpu")
    else:
        if command.compile:
            raise UserError(
                "expected a GPU for --compile, got the CPU, where compiled convolutions crash in the backward pass; leave it out"
            )
        if command.sync_bn:
            raise UserError("expected GPUs for --sync-bn, got the CPU, where torch has no such normalisation; leave it out")
    if torch.distributed.is_torchelastic_launched():
        started = (int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"]) // int(os.environ["LOCAL_WORLD_SIZE"]))
        if started != (command.devices, command.nodes):
            raise UserError(
                f"expected --devices {started[0]} --nodes {started[1]}, as torchrun started, got --devices {command.devices} "
                f"--nodes {command.nodes}; make them agree"
            )
    elif command.nodes > 1:
        raise UserError(
            f"expected torchrun for --nodes {command.nodes}; start on each machine: torchrun --nnodes {command.nodes} "
            f"--nproc-per-node {command.devices} --rdzv-backend c10d --rdzv-endpoint HOST:29500 --no-python handmesh-train ..."
        )
    elif command.devices > 1 and _main_module_name() is None and not Path(sys.argv[0]).is_file():
        raise UserError(
            f"expected to start {command.devices} processes of '{sys.argv[0]}', which is no file; start them with "
            f"torchrun --nproc-per-node {command.devices} --no-python handmesh-train ..."
        )
    pieces = command.devices * command.nodes * command.schedule.accumulate
    if command.data.batch_size % pieces:
        raise UserError(
            f"expected data.batch_size that divides by devices x nodes x schedule.accumulate = {pieces}, got {command.data.batch_size}; "
            f"set it to {-(-command.data.batch_size // pieces) * pieces}"
        )


def device_kind(command: TrainCommand) -> str:
    """ "cuda" or "cpu"."""
    has_gpu = torch.cuda.is_available()
    if command.device == "cuda" and not has_gpu:
        raise UserError("expected a GPU for --device cuda, but torch finds none; use --device cpu, or install a torch with CUDA")
    return "cuda" if has_gpu and command.device != "cpu" else "cpu"


def launch(command: TrainCommand) -> Any:
    """A Lightning Fabric on the devices that are asked for; with several, this process is one of many from here on."""
    from lightning.fabric import Fabric

    # It would announce its precision and its processes on every start.
    for name in ("fabric.utilities.rank_zero", "pytorch.utilities.rank_zero", "fabric.utilities.distributed"):
        logging.getLogger(f"lightning.{name}").setLevel(logging.WARNING)
    is_one = command.devices * command.nodes == 1
    fabric = Fabric(
        accelerator=device_kind(command),
        devices=command.devices,
        num_nodes=command.nodes,
        strategy="auto" if is_one else "ddp",
        precision="bf16-mixed" if command.precision == "bf16" else "32-true",
    )
    if not is_one:
        fabric.launch()
    return fabric


def refuse(fabric: Any, message: str) -> NoReturn:
    """Every process stops here; the first says why."""
    if fabric.is_global_zero:
        raise UserError(message)
    # Not a failure: the launcher would kill the first process for it, perhaps before it has spoken.
    raise SystemExit(0)


def on_first(fabric: Any, work: Callable[[], Result]) -> Result | None:
    """What `work` returns, which the first process does while the others wait; None in those.

    Raises:
        UserError: that of `work`.
    """
    result, failure = None, None
    if fabric.is_global_zero:
        try:
            result = work()
        except UserError as error:
            failure = str(error)
    failure = fabric.broadcast(failure)
    if failure is not None:
        refuse(fabric, failure)
    return result


def agree(fabric: Any, seconds: float, is_interrupted: bool) -> tuple[float, bool]:
    """The first process's clock, and whether any process was interrupted."""
    if fabric.world_size == 1:
        return seconds, is_interrupted
    values = torch.tensor([seconds if fabric.is_global_zero else 0.0, float(is_interrupted)], dtype=torch.float64, device=fabric.device)
    seconds, interrupts = fabric.all_reduce(values, reduce_op="sum").tolist()
    return seconds, interrupts > 0


def mean_over_processes(fabric: Any, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Each () value's mean over the processes."""
    if fabric.world_size == 1:
        return values
    means = fabric.all_reduce(torch.stack([value.detach() for value in values.values()]), reduce_op="mean")
    return dict(zip(values, means.unbind(), strict=True))


def from_all(fabric: Any, value: Result) -> list[Result]:
    """Every process's value, by rank."""
    values: list[Any] = [value]
    if fabric.world_size > 1:
        values = [None] * fabric.world_size
        torch.distributed.all_gather_object(values, value)
    return values


@contextmanager
def locked(fabric: Any, folder: Path) -> Iterator[None]:
    """Hold a folder for one training; the system lets it go when the process dies, however it does. Not on Windows.

    Raises:
        UserError: another training holds it.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    def lock() -> Any:
        file = (folder / LOCK_NAME).open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise UserError(
                f"expected '{folder}' for this training alone, but another one writes there; wait for it, or choose another --out"
            ) from None
        return file

    file = on_first(fabric, lock)
    try:
        yield
    finally:
        if file is not None:
            file.close()


@contextmanager
def until_interrupted() -> Iterator[Callable[[], bool]]:
    """Yields a function that says whether Ctrl-C (or SIGTERM) came; a second Ctrl-C interrupts as usual."""
    came = []

    def note(number: int, frame: Any) -> None:
        came.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def resume_command() -> str:
    """What to type to go on."""
    program, arguments = Path(sys.argv[0]).name, sys.argv[1:]
    if program != "handmesh-train":
        return "the same command with --resume"
    return shlex.join([program, *arguments] if "--resume" in arguments else [program, *arguments, "--resume"])


def _main_module_name() -> str | None:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec and spec.name
