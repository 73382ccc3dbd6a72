"""The one loop: shards in, checkpoint out. Read `train` from top to bottom."""

from __future__ import annotations

import copy
import csv
import logging
import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch import nn

from handmesh.config import config_to_dict
from handmesh.errors import UserError
from handmesh.hand_model import HandModel, load_hand_model
from handmesh.training.augment import augment
from handmesh.training.checkpoint import Checkpoint, current_commit, load_checkpoint, load_weights, save_checkpoint
from handmesh.training.command import LossWeights, ScheduleConfig, TrainCommand
from handmesh.training.data import ShardFolders, prefetch_batches, shard_opener
from handmesh.training.layer import HandLayer
from handmesh.training.losses import Errors, loss_terms, measure_errors, total_loss
from handmesh.training.model import HandNet

CHECKPOINT_NAME = "last.pt"
METRICS_NAME = "metrics.csv"


def train(command: TrainCommand, folders: ShardFolders | None = None) -> Path:
    """Train until the schedule ends, Ctrl-C, or a loss that is no number.

    Args:
        command: everything there is to choose.
        folders: the pictures; opened from `command.data` if None.

    Returns:
        Path of the checkpoint.

    Raises:
        UserError: bad settings, data or checkpoint; a loss that is no number.
    """
    from lightning.fabric import Fabric

    # It would announce its precision on every start.
    logging.getLogger("lightning.fabric.utilities.rank_zero").setLevel(logging.WARNING)
    console = Console(soft_wrap=True)
    hand_model = load_hand_model(command.hand_model)
    data, model = command.data, command.model
    folders = folders or ShardFolders(data.shards, model.size_px, data.validation_pictures, shard_opener(hand_model.id), data.upright_share)
    path = _prepare_folder(command)
    commit = current_commit()

    precision = "bf16-mixed" if command.precision == "bf16" else "32-true"
    fabric = Fabric(accelerator=command.device, devices=1, precision=precision)
    torch.manual_seed(command.seed)
    net = HandNet(model.variant, model.head, model.size_px, model.pretrained, model.drop_path)
    net.start_at(hand_model)
    layer = HandLayer(hand_model).to(fabric.device)
    if command.init_from is not None:
        load_weights(net, load_checkpoint(command.init_from).ema, f"'{command.init_from}'")
    optimizer = torch.optim.AdamW(decay_groups(net, command.schedule.weight_decay), lr=command.schedule.learning_rate)
    average = copy.deepcopy(net).eval().requires_grad_(False).to(fabric.device)
    fabric_net, fabric_optimizer = fabric.setup(net, optimizer)
    step, pictures, seconds_before = 0, 0, 0.0
    if command.resume:
        checkpoint = _load_for(hand_model, path)
        load_weights(net, checkpoint.model, f"'{path}'")
        load_weights(average, checkpoint.ema, f"'{path}'")
        optimizer.load_state_dict(checkpoint.optimizer)
        step, pictures, seconds_before = checkpoint.step, checkpoint.pictures, checkpoint.seconds
    random = torch.Generator(fabric.device)
    started = time.monotonic()

    def seconds() -> float:
        return seconds_before + time.monotonic() - started

    def save() -> None:
        state = (net.state_dict(), average.state_dict(), optimizer.state_dict())
        save_checkpoint(
            Checkpoint(config_to_dict(replace(command, resume=False)), hand_model.id, commit, step, pictures, seconds(), *state), path
        )

    console.print(
        f"{len(folders)} pictures, {model.variant} with {model.head} head, {sum(p.numel() for p in net.parameters()) / 1e6:.1f} M weights, "
        f"{fabric.device}, {command.precision}, {torch.get_num_threads()} threads; checkpoint {path}"
    )
    metrics = MetricsFile(path.with_name(METRICS_NAME), keep=command.resume)
    batches = prefetch_batches(folders, command.seed, step, data.batch_size, data.mirror_share, data.prefetch_batches)
    saved_at = logged_at = time.monotonic()
    logged_pictures = pictures
    next_validation = (pictures // command.validate_every_pictures + 1) * command.validate_every_pictures
    with _progress(console) as progress, _until_interrupted() as interrupted, closing(batches):
        task = progress.add_task("", total=1.0, rate=0.0, left="?")
        while (done := schedule_progress(command.schedule, pictures, seconds())) < 1 and not interrupted():
            batch = next(batches).to(fabric.device)
            # Every random choice of a step depends on the seed and the step alone, so resuming changes nothing.
            torch.manual_seed(1_000_003 * command.seed + step)
            random.manual_seed(1_000_003 * command.seed + step)
            batch = augment(batch, command.augment, random)

            learning_rate = learning_rate_at(command.schedule, done, pictures)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            prediction = fabric_net(batch.crops)
            terms = loss_terms(layer, prediction, batch)
            loss = total_loss(terms, command.loss)
            if not math.isfinite(loss.item()):
                raise UserError(
                    f"expected a finite loss, got {loss.item()} after {pictures} pictures; go on from what was saved last in "
                    f"'{command.out}' with --resume and a lower --schedule.learning-rate"
                )
            fabric.backward(loss)
            fabric.clip_gradients(fabric_net, fabric_optimizer, max_norm=command.schedule.clip_norm)
            fabric_optimizer.step()
            fabric_optimizer.zero_grad()
            step, pictures = step + 1, pictures + len(batch)
            update_average(average, net, command.schedule.ema_decay, step)

            now = time.monotonic()
            if step % command.log_every_batches == 0:
                rate = (pictures - logged_pictures) / (now - logged_at)
                logged_at, logged_pictures = now, pictures
                progress.update(task, completed=done, rate=rate, left=_time_left(command.schedule, pictures, seconds(), rate))
                errors = mean_errors([measure_errors(layer, prediction, batch)])
                values = {name: term.item() for name, term in terms.items()}
                metrics.write(
                    {"split": "train", "pictures": pictures, "minutes": seconds() / 60, "learning_rate": learning_rate,
                     "pictures_per_s": rate, "loss": loss.item(), **values, **errors}
                )  # fmt: skip
                if not console.is_terminal:
                    left = _time_left(command.schedule, pictures, seconds(), rate)
                    console.print(
                        f"{pictures:>9} pictures  {rate:5.1f}/s  {left} left  loss {loss.item():.3f}  {_words(errors)}", highlight=False
                    )
            if pictures >= next_validation:
                next_validation += command.validate_every_pictures
                _validate(average, layer, folders, command, pictures, seconds(), metrics, console)
                logged_at, logged_pictures = time.monotonic(), pictures
            if now - saved_at > 60 * command.save_every_minutes:
                save()
                saved_at = now
    save()
    if schedule_progress(command.schedule, pictures, seconds()) < 1:
        console.print(f"stopped after {pictures} pictures; the same command with --resume goes on from '{path}'")
    else:
        _validate(average, layer, folders, command, pictures, seconds(), metrics, console)
        console.print(f"finished after {pictures} pictures: '{path}'; next: handmesh-export --checkpoint {path}")
    return path


def schedule_progress(schedule: ScheduleConfig, pictures: int, seconds: float) -> float:
    """How much of the training is over, in 0..1: the larger of its share of pictures and of time."""
    share = pictures / schedule.pictures
    return share if schedule.max_minutes is None else max(share, seconds / (60 * schedule.max_minutes))


def learning_rate_at(schedule: ScheduleConfig, progress: float, pictures: int) -> float:
    """Linear warm-up by pictures, then a cosine by progress."""
    low, high = schedule.final_learning_rate, schedule.learning_rate
    cosine = low + (high - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return cosine * min(1.0, (pictures + 1) / max(1, schedule.warmup_pictures))


def decay_groups(net: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters for the optimiser: matrices and kernels decay; biases, normalisation and scales do not."""
    # FastViT's layer scales are (C, 1, 1): three axes, but one value a channel.
    decaying = [p for p in net.parameters() if p.ndim in (2, 4)]
    rest = [p for p in net.parameters() if p.ndim not in (2, 4)]
    return [{"params": decaying, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


@torch.no_grad()
def update_average(average: nn.Module, net: nn.Module, decay: float, step: int) -> None:
    """Exponential moving average of weights and of normalisation statistics; a short memory at first."""
    decay = min(decay, (1 + step) / (10 + step))
    state = net.state_dict()
    for name, mean in average.state_dict().items():
        if mean.is_floating_point():
            mean.lerp_(state[name], 1 - decay)
        else:
            mean.copy_(state[name])


def mean_errors(batches: list[Errors]) -> dict[str, float]:
    """Mean over all samples that have the label."""
    return {field.name: torch.cat([getattr(errors, field.name) for errors in batches]).nanmean().item() for field in fields(Errors)}


@torch.no_grad()
def validate(net: nn.Module, layer: HandLayer, folders: ShardFolders, batch_size: int) -> dict[str, float]:
    """Mean errors on the held-out pictures, in f32."""
    device = layer.template_m.device
    return mean_errors(
        [measure_errors(layer, net(batch.crops), batch) for batch in (b.to(device) for b in folders.validation_batches(batch_size))]
    )


class MetricsFile:
    """A table of numbers that grows while training runs, readable up to the last row.

    Args:
        path: of the csv file.
        keep: go on with the rows that are there.
    """

    columns = (
        *("split", "pictures", "minutes", "learning_rate", "pictures_per_s", "loss"),
        *(field.name for field in fields(LossWeights)),
        *(field.name for field in fields(Errors)),
    )

    def __init__(self, path: Path, keep: bool):
        self._path = path
        if not (keep and path.is_file()):
            path.write_text(",".join(self.columns) + "\n", encoding="utf-8")

    def write(self, row: dict[str, Any]) -> None:
        """Append one row; columns that it lacks stay empty."""
        rounded = {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()}
        with self._path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns).writerow(rounded)


def _validate(average: nn.Module, layer: HandLayer, folders: ShardFolders, command: TrainCommand, pictures: int,
              seconds: float, metrics: MetricsFile, console: Console) -> None:  # fmt: skip
    if command.data.validation_pictures == 0:
        return
    errors = validate(average, layer, folders, command.data.batch_size)
    metrics.write({"split": "validation", "pictures": pictures, "minutes": seconds / 60, **errors})
    console.print(f"{pictures:>9} pictures  validation  {_words(errors)}", highlight=False)


def _words(errors: dict[str, float]) -> str:
    return (
        f"PA-MPJPE {errors['pa_mpjpe_mm']:.1f} mm, MPJPE {errors['mpjpe_mm']:.1f} mm, 2D {errors['keypoints_share']:.3f} of the box, "
        f"presence {errors['presence_hit']:.1%}, right {errors['right_hit']:.1%}"
    )


def _time_left(schedule: ScheduleConfig, pictures: int, seconds: float, rate: float) -> str:
    left_s = (schedule.pictures - pictures) / max(rate, 1e-9)
    if schedule.max_minutes is not None:
        left_s = min(left_s, 60 * schedule.max_minutes - seconds)
    minutes = max(0, round(left_s / 60))
    return f"{minutes // 60}:{minutes % 60:02d} h"


def _prepare_folder(command: TrainCommand) -> Path:
    path = command.out / CHECKPOINT_NAME
    if path.is_file() and not command.resume:
        raise UserError(f"expected no checkpoint in '{command.out}', but '{path}' is there; add --resume to go on, or choose another --out")
    try:
        command.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"expected to make the folder '{command.out}', but that failed ({error.strerror}); choose another --out") from error
    if not os.access(command.out, os.W_OK):
        raise UserError(f"expected to write into '{command.out}', but may not; choose another --out")
    return path


def _load_for(hand_model: HandModel, path: Path) -> Checkpoint:
    checkpoint = load_checkpoint(path)
    if checkpoint.hand_model != hand_model.id:
        raise UserError(
            f"expected a checkpoint for hand model '{hand_model.id}', but '{path}' is for '{checkpoint.hand_model}'; use another"
        )
    return checkpoint


def _progress(console: Console) -> Progress:
    return Progress(
        BarColumn(), TextColumn("{task.percentage:.1f} %"), TextColumn("{task.fields[rate]:.1f} pictures/s"),
        TimeElapsedColumn(), TextColumn("{task.fields[left]} left"), console=console, disable=not console.is_terminal,
    )  # fmt: skip


@contextmanager
def _until_interrupted() -> Iterator[Any]:
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
