"""The one loop: pictures in, checkpoint out. Read `train`, then `_Training.run`, from top to bottom."""

from __future__ import annotations

import copy
import json
import math
import os
import shlex
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor, nn

from handmesh.config import config_to_dict
from handmesh.errors import UserError, one_line
from handmesh.hand_model import HandModel, load_hand_model
from handmesh.training.augment import augment_sources
from handmesh.training.checkpoint import (
    BEST_NAME,
    LAST_NAME,
    Checkpoint,
    changed_settings,
    current_commit,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from handmesh.training.command import ScheduleConfig, TrainCommand
from handmesh.training.convolution import quicken
from handmesh.training.data import Batch, TrainingData, open_data, prefetch
from handmesh.training.distill import Teacher, teacher_terms
from handmesh.training.layer import HandLayer
from handmesh.training.losses import Errors, label_counts, loss_terms, measure_errors, total_loss
from handmesh.training.model import HandNet, Prediction, build_net
from handmesh.training.optimizer import learning_rate_at, parameter_groups, schedule_progress, set_learning_rate, update_average
from handmesh.training.processes import (
    agree,
    check_devices,
    from_all,
    launch,
    locked,
    mean_over_processes,
    on_first,
    refuse,
    resume_command,
    until_interrupted,
)
from handmesh.training.watch import Watch
from handmesh.wholefile import replacing

# From here on it is said how to wait less.
_LONG_WAIT_SHARE = 0.1


def train(command: TrainCommand, data: TrainingData | None = None, stop_at: float = math.inf) -> Path:
    """Train until the schedule ends, Ctrl-C, or a loss that is no number.

    With several devices this runs once in each process; the first of them writes the files and speaks.

    Args:
        command: everything there is to choose.
        data: the pictures; opened from `command.data` if None.
        stop_at: time of `time.monotonic` after which it stops as at Ctrl-C, to go on another time.

    Returns:
        Path of the checkpoint.

    Raises:
        UserError: bad settings, data or checkpoint; a loss that is no number; another training in the same folder.
    """
    check_devices(command)
    _prepare_folder(command)
    hand_model = load_hand_model(command.hand_model)
    data = data or open_data(command.data, hand_model, command.model.size_px)
    fabric = launch(command)
    with locked(fabric, command.out):
        return _Training(fabric, command, hand_model, data).run(stop_at)


class Learner(nn.Module):
    """What is trained: the network, and with a teacher the linear map from its features to the teacher's."""

    def __init__(self, net: HandNet, student_map: nn.Linear | None):
        super().__init__()
        self.net, self.student_map = net, student_map

    def forward(self, crops: Tensor) -> Prediction:
        return self.net(crops)


class _Training:
    """One process's part of a training: everything that it consists of, at the place where the last checkpoint left it."""

    def __init__(self, fabric: Any, command: TrainCommand, hand_model: HandModel, data: TrainingData):
        self.fabric, self.command, self.hand_model, self.data = fabric, command, hand_model, data
        self.path = command.out / LAST_NAME
        self.console = Console(soft_wrap=True, markup=False, quiet=not fabric.is_global_zero)
        self.commit = current_commit()
        self.step, self.pictures, self.best = 0, 0, math.inf
        seconds_before = 0.0
        share = command.data.batch_size // fabric.world_size
        self.rows = slice(fabric.global_rank * share, (fabric.global_rank + 1) * share)
        self.layer = HandLayer(hand_model).to(fabric.device)
        self.random = torch.Generator(fabric.device)

        checkpoint = load_checkpoint(self.path) if command.resume else None
        self.data_sizes = {name: len(source) for name, source in zip(data.names, data.sources, strict=True)}
        self.augments = [source.augment or command.augment for source in data.sources]
        changes = _check_fits(checkpoint, command, hand_model, self.data_sizes, self.path) if checkpoint else []
        self._seed()
        self.net = net = _new_net(command, hand_model)
        if fabric.device.type == "cpu":
            quicken(net)
        self.teacher = Teacher(command.distill.teacher, hand_model, fabric.device) if command.distill.teacher else None
        self.student_map = self.teacher.student_map(net) if self.teacher else None
        self.average = copy.deepcopy(net).eval().requires_grad_(False).to(fabric.device)
        if checkpoint:
            load_weights(net, checkpoint.model, f"'{self.path}'")
            load_weights(self.average, checkpoint.ema, f"'{self.path}'")
            if self.student_map is not None:
                self.student_map.load_state_dict(checkpoint.student_map)
        if command.sync_bn:
            from timm.layers.norm_act import convert_sync_batchnorm

            self.net = net = cast(HandNet, convert_sync_batchnorm(net))
        if command.compile:
            net.compile()
        learner = Learner(net, self.student_map).to(fabric.device)
        others = [self.student_map] if self.student_map is not None else []
        groups = parameter_groups(net, command.schedule, *others)
        self.optimizer = torch.optim.AdamW(groups, lr=command.schedule.learning_rate, fused=True)
        self.model, self.fabric_optimizer = fabric.setup(learner, self.optimizer)
        _train_mode(learner, command.model.freeze_norm)
        if checkpoint:
            self.optimizer.load_state_dict(checkpoint.optimizer)
            # The groups are the same; how much they decay is the settings' to say.
            for group, fresh in zip(self.optimizer.param_groups, groups, strict=True):
                group["weight_decay"] = fresh["weight_decay"]
            self.step, self.pictures = checkpoint.step, checkpoint.pictures
            # Of other held-out pictures another score is the best.
            self.best = math.inf if any(change.startswith("data.") for change in changes) else checkpoint.best
            seconds_before = checkpoint.seconds
        self._started = time.monotonic() - seconds_before
        self._say_what_this_is(changes)

    def run(self, stop_at: float = math.inf) -> Path:
        """From where it is to the end."""
        command, fabric, schedule = self.command, self.fabric, self.command.schedule
        # Of the first process, so that all save at the same steps.
        first_s, _ = agree(fabric, self.seconds(), False)
        if reason := _what_ended(schedule, self.pictures, first_s):
            self.console.print(f"'{self.path}' had {reason} already; to go on, set a longer schedule")
            return self.path
        keep = self.pictures if command.resume else None
        watch = on_first(fabric, lambda: Watch(command.out, self.layer, self.hand_model, keep))
        batches = prefetch(
            self.data, command.seed, self.step, self.rows, command.data.prefetch_batches, command.data.readers
        )  # fmt: skip
        saved_s = first_s
        waited_s = logged_waited_s = 0.0
        logged_at, logged_pictures = time.monotonic(), self.pictures
        validated_pictures, logged_steps = -1, 0
        sums: dict[str, Tensor] = {}
        with _progress(self.console) as progress, until_interrupted() as is_interrupted, closing(batches):
            task = progress.add_task("", total=1.0, rate=0.0, left="?", pictures=self.pictures, loss="", validation="")
            while True:
                seconds, must_stop = agree(fabric, self.seconds(), is_interrupted() or time.monotonic() >= stop_at)
                done = schedule_progress(schedule, self.pictures, seconds)
                if done >= 1 or must_stop:
                    break
                asked_at = time.monotonic()
                batch = next(batches).to(fabric.device)
                waited_s += time.monotonic() - asked_at
                # Every random choice of a step depends on seed, step and process alone, so resuming changes nothing.
                self._seed()
                batch = augment_sources(batch, self.augments, self.random)

                learning_rate = learning_rate_at(schedule, done, self.pictures)
                set_learning_rate(self.optimizer, learning_rate)
                own_terms, prediction, part = self._forward_and_backward(batch)
                terms = mean_over_processes(fabric, own_terms)
                norm = fabric.clip_gradients(self.model, self.fabric_optimizer, max_norm=schedule.clip_norm, error_if_nonfinite=False)
                loss, norm = torch.stack([total_loss(terms, command.loss), norm]).tolist()
                if not (math.isfinite(loss) and math.isfinite(norm)):
                    self._stop_at(batch, own_terms, loss, norm)
                self.fabric_optimizer.step()
                self.fabric_optimizer.zero_grad()
                self.step, self.pictures = self.step + 1, self.pictures + command.data.batch_size
                update_average(self.average, self.net, schedule.ema_decay, self.step)

                sums = {name: sums.get(name, 0.0) + term for name, term in {"loss": torch.tensor(loss), **terms}.items()}
                logged_steps += 1
                now = time.monotonic()
                rate = (self.pictures - logged_pictures) / max(now - logged_at, 1e-9)
                left = _time_left(schedule, self.pictures, seconds, rate)
                progress.update(task, completed=done, rate=rate, left=left, pictures=self.pictures, loss=f"loss {loss:.3f}")
                if self.step % command.log_every_batches == 0 and watch is not None:
                    errors = mean_errors([measure_errors(self.layer, prediction, part)])
                    waiting = (waited_s - logged_waited_s) / max(now - logged_at, 1e-9)
                    means = {name: total.item() / logged_steps for name, total in sums.items()}
                    watch.step(
                        {"pictures": self.pictures, "minutes": seconds / 60, "learning_rate": learning_rate, "pictures_per_s": rate,
                         "waiting_share": waiting, **means, **errors}
                    )  # fmt: skip
                    sums, logged_steps = {}, 0
                    if not self.console.is_terminal:
                        self.console.print(
                            f"{self.pictures:>9} pictures  {done:4.0%}  {rate:5.1f}/s  {left} left  {waiting:3.0%} waiting for pictures  "
                            f"loss {means['loss']:.3f}  {_words(errors)}", highlight=False,
                        )  # fmt: skip
                    logged_at, logged_pictures, logged_waited_s = now, self.pictures, waited_s
                if self._passes(command.validate_every_pictures):
                    words = on_first(fabric, lambda: self._validate(watch))
                    validated_pictures = self.pictures
                    progress.update(task, validation=words or "")
                    logged_at, logged_pictures, logged_waited_s = time.monotonic(), self.pictures, waited_s
                if command.keep_every_pictures and self._passes(command.keep_every_pictures):
                    on_first(fabric, lambda: self._save(f"pictures-{self.pictures:09d}.pt"))
                if seconds - saved_s >= 60 * command.save_every_minutes:
                    on_first(fabric, lambda: self._save(LAST_NAME))
                    saved_s = seconds

            spent_s = max(self.seconds() - first_s, 1e-9)
            reason = _what_ended(schedule, self.pictures, seconds)
            if reason and validated_pictures != self.pictures:
                on_first(fabric, lambda: self._validate(watch))
            on_first(fabric, lambda: self._save(LAST_NAME))
        if watch is not None:
            watch.close()
        advice = "; a larger data.readers may help" if waited_s > _LONG_WAIT_SHARE * spent_s else ""
        self.console.print(f"{waited_s / spent_s:.1%} of the time went by waiting for pictures{advice}", highlight=False)
        if reason:
            model = "" if command.hand_model == "open" else f" --hand-model {shlex.quote(command.hand_model)}"
            export = f"handmesh-export {shlex.quote(str(self.path))}{model} --out hand.onnx"
            self.console.print(f"finished: {reason}; '{self.path}'; next: {export}")
        else:
            self.console.print(f"stopped after {self.pictures} pictures; to go on from '{self.path}': {resume_command()}")
        return self.path

    def seconds(self) -> float:
        """Time spent, with that of the runs that this one goes on from."""
        return time.monotonic() - self._started

    def _forward_and_backward(self, batch: Batch) -> tuple[dict[str, Tensor], Prediction, Batch]:
        """Gradients of the global batch's loss, in `schedule.accumulate` parts.

        Returns:
            This process's terms of the loss, of which the mean over processes is the global batch's; the last part, predicted and true.
        """
        # Divided by the number of processes, because DDP takes the mean of their gradients, not the sum.
        counts = mean_over_processes(self.fabric, label_counts(batch))
        parts = self.command.schedule.accumulate
        size = len(batch) // parts
        sums: dict[str, Tensor] = {}
        for number in range(parts):
            part = batch.rows(slice(number * size, (number + 1) * size))
            with self.fabric.no_backward_sync(self.model, enabled=number < parts - 1):
                prediction = self.model(part.crops)
                terms = loss_terms(self.layer, prediction, part, counts)
                if self.teacher is not None and self.student_map is not None:
                    with self.fabric.autocast():
                        shown = self.teacher.predict(part)
                    terms |= teacher_terms(self.layer, prediction, shown, self.student_map, part, counts)
                self.fabric.backward(total_loss(terms, self.command.loss))
            sums = {name: sums.get(name, 0.0) + term.detach() for name, term in terms.items()}
        return sums, prediction, part

    def _seed(self) -> None:
        seed = int(np.random.SeedSequence([self.command.seed % 2**64, self.step, self.fabric.global_rank]).generate_state(1)[0])
        torch.manual_seed(seed)
        self.random.manual_seed(seed)

    def _passes(self, every_pictures: int) -> bool:
        """Whether the last step passed a multiple of so many pictures."""
        return self.pictures // every_pictures > (self.pictures - self.command.data.batch_size) // every_pictures

    def _validate(self, watch: Any) -> str:
        """Errors of the averaged weights on the held-out pictures; keeps the weights if they are the best. Returns a line about it."""
        size = self.command.data.batch_size
        errors = validate(self.average, self.layer, self.data, size)
        if not errors:
            return ""
        watch.validated(self.pictures, self.seconds() / 60, errors, self.average, self.data.validation_batches(size))
        if errors["pa_mpjpe_mm"] < self.best:
            self.best = errors["pa_mpjpe_mm"]
            self._save(BEST_NAME)
        self.console.print(f"{self.pictures:>9} pictures  validation  {_words(errors)}", highlight=False)
        return f"validation {errors['pa_mpjpe_mm']:.1f} mm"

    def _save(self, name: str) -> None:
        student_map = self.student_map.state_dict() if self.student_map is not None else {}
        save_checkpoint(
            Checkpoint(
                config=config_to_dict(replace(self.command, resume=False)),
                hand_model=self.hand_model.id,
                commit=self.commit,
                step=self.step,
                pictures=self.pictures,
                seconds=self.seconds(),
                model=self.net.state_dict(),
                ema=self.average.state_dict(),
                optimizer=self.optimizer.state_dict(),
                best=self.best,
                student_map=student_map,
                data_sizes=self.data_sizes,
            ),
            self.command.out / name,
        )

    def _stop_at(self, batch: Batch, own_terms: dict[str, Tensor], loss: float, norm: float) -> None:
        """Write down the batch whose loss or gradient is no number, of all processes, and stop.

        Raises:
            UserError: always.
        """
        pictures = [
            {"source": self.data.names[source], "index": index}
            for source, index in zip(batch.source.tolist(), batch.index.tolist(), strict=True)
        ]
        own = {
            "rank": self.fabric.global_rank,
            "terms": {name: _plain(term.item()) for name, term in own_terms.items()},
            "pictures": pictures,
        }
        ranks = from_all(self.fabric, own)
        path = self.command.out / f"bad-batch-{self.step}.json"

        def write() -> None:
            # JSON has no nan.
            report = {
                "step": self.step,
                "pictures": self.pictures,
                "seed": self.command.seed,
                "loss": _plain(loss),
                "gradient_norm": _plain(norm),
                "ranks": ranks,
            }
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")

        on_first(self.fabric, write)
        what = f"loss, got {loss}" if not math.isfinite(loss) else f"gradient, got one of length {norm}"
        advice = "go on from what was saved last with --resume" if self.path.is_file() else "start again in another --out"
        refuse(
            self.fabric,
            f"expected a finite {what} after {self.pictures} pictures; '{path}' names the pictures; if these are sound, {advice} "
            "and a lower --schedule.learning-rate",
        )

    def _say_what_this_is(self, changes: list[str]) -> None:
        model, fabric = self.command.model, self.fabric
        for line in self.data.notes():
            self.console.print(line, highlight=False)
        if changes:
            self.console.print(f"going on with other settings than before: {', '.join(changes)}", highlight=False)
        weights = sum(parameter.numel() for parameter in self.net.parameters()) / 1e6
        devices = f"{fabric.world_size} x {fabric.device.type}" if fabric.world_size > 1 else f"{fabric.device}"
        self.console.print(
            f"{len(self.data)} pictures, {model.variant} with {model.head} head, {weights:.1f} M weights, {devices}, "
            f"{self.command.precision}, {torch.get_num_threads()} threads; checkpoint {self.path}"
        )


def mean_errors(batches: list[Errors]) -> dict[str, float]:
    """Mean over all samples that have the label; nan where none has."""
    return {field.name: torch.cat([getattr(errors, field.name) for errors in batches]).nanmean().item() for field in fields(Errors)}


@torch.no_grad()
def validate(net: nn.Module, layer: HandLayer, data: TrainingData, batch_size: int) -> dict[str, float]:
    """Mean errors on the held-out pictures, in f32; nothing if none is held out."""
    device = layer.template_m.device
    batches = (batch.to(device) for batch in data.validation_batches(batch_size))
    errors = [measure_errors(layer, net(batch.crops), batch) for batch in batches]
    return mean_errors(errors) if errors else {}


def _new_net(command: TrainCommand, hand_model: HandModel) -> HandNet:
    """The network before the first step."""
    needs_imagenet = command.model.pretrained and command.init_from is None and not command.resume
    net = build_net(replace(command.model, pretrained=needs_imagenet))
    net.start_at(hand_model)
    if command.init_from is not None and not command.resume:
        load_weights(net, load_checkpoint(command.init_from).ema, f"'{command.init_from}'")
    return net


def _train_mode(module: nn.Module, freeze_norm: bool) -> None:
    """Training mode; normalisation whose statistics are frozen stays in evaluation mode, though its scales go on learning."""
    module.train()
    if freeze_norm:
        for part in module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.eval()


def _check_fits(checkpoint: Checkpoint, command: TrainCommand, hand_model: HandModel, data_sizes: dict[str, int], path: Path) -> list[str]:
    """What going on from a checkpoint changes, in words."""
    if checkpoint.hand_model != hand_model.id:
        raise UserError(
            f"expected a checkpoint for hand model '{hand_model.id}', but '{path}' is for '{checkpoint.hand_model}'; use another"
        )
    if not checkpoint.model or not checkpoint.optimizer:
        raise UserError(
            f"expected a whole checkpoint, but '{path}' holds averaged weights alone, or is of an old format; start from it with "
            f"--init-from {path} and another --out"
        )
    changes = changed_settings(checkpoint.command(), command, path)
    if checkpoint.data_sizes and checkpoint.data_sizes != data_sizes:
        before, now = (", ".join(f"{count} of {name}" for name, count in sizes.items()) for sizes in (checkpoint.data_sizes, data_sizes))
        changes.append(f"data.pictures {before} -> {now} (they come in another order)")
    return changes


def _words(errors: dict[str, float]) -> str:
    landmarks = errors["landmarks_share"]
    of_photographs = "" if math.isnan(landmarks) else f"landmarks {landmarks:.3f} of the box, "
    return (
        f"PA-MPJPE {errors['pa_mpjpe_mm']:.1f} mm, MPJPE {errors['mpjpe_mm']:.1f} mm, 2D {errors['keypoints_share']:.3f} of the box, "
        f"{of_photographs}presence {errors['presence_hit']:.1%}, right {errors['right_hit']:.1%}"
    )


def _what_ended(schedule: ScheduleConfig, pictures: int, seconds: float) -> str:
    """Why the training is over, in words; nothing while it is not."""
    if pictures >= schedule.pictures:
        return f"seen all {pictures} pictures"
    if schedule.max_minutes is not None and seconds >= 60 * schedule.max_minutes:
        return f"used its max_minutes = {schedule.max_minutes:g}, {pictures} pictures seen"
    return ""


def _time_left(schedule: ScheduleConfig, pictures: int, seconds: float, rate: float) -> str:
    left_s = (schedule.pictures - pictures) / max(rate, 1e-9)
    if schedule.max_minutes is not None:
        left_s = min(left_s, 60 * schedule.max_minutes - seconds)
    minutes = max(0, round(left_s / 60))
    return f"{minutes // 60}:{minutes % 60:02d} h" if minutes >= 60 else f"{minutes} min"


def _plain(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _prepare_folder(command: TrainCommand) -> None:
    path = command.out / LAST_NAME
    if path.is_file() and not command.resume:
        raise UserError(f"expected no checkpoint in '{command.out}', but '{path}' is there; add --resume to go on, or choose another --out")
    try:
        command.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"expected to make the folder '{command.out}', but that failed ({one_line(error)}); choose another --out"
        ) from error
    if not os.access(command.out, os.W_OK):
        raise UserError(f"expected to write into '{command.out}', but may not; choose another --out")


@contextmanager
def _progress(console: Console) -> Iterator[Progress]:
    """What a terminal shows of a running training."""
    with Progress(
        BarColumn(), TextColumn("{task.percentage:.1f} %"), TextColumn("{task.fields[pictures]} pictures"),
        TextColumn("{task.fields[rate]:.1f}/s"), TimeElapsedColumn(), TextColumn("{task.fields[left]} left"),
        TextColumn("{task.fields[loss]}"), TextColumn("{task.fields[validation]}"),
        console=console, disable=not console.is_terminal or console.quiet,
    ) as progress:  # fmt: skip
        yield progress
