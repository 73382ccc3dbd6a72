"""Trains on one GPU with rendered images that all cores draw meanwhile, and photographs: see docs/training.md.

    sh tools/gpu/train.sh DATA OUT --minutes 28 --stop-after 9.5 [--ma36-minutes 2] [--latency-minutes 2] [--device cpu]

DATA is the folder of tools/gpu/pack.sh. Run again with the same OUT, on the same machine, it goes on where it stopped.
Imports nothing heavy at its top: the processes that render import it, too.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from handmesh.cli import guard
from handmesh.config import load_config
from handmesh.errors import UserError
from handmesh.training.command import TrainCommand
from handmesh.wholefile import replacing

if TYPE_CHECKING:
    from handmesh.synthetic.stream import ImageStream
    from handmesh.training.data import TrainingData

ROOT = Path(__file__).resolve().parents[2]
STATE_NAME, WEIGHTS_NAME = "gpu.json", "weights.pt"
# Before the end of --stop-after: for the last checkpoint, the weights and the scores.
_RESERVED_S = 20.0
_BASE_BATCH, _BASE_EMA_BATCH = 256, 64
# An image is seen so many times at least.
_FEWEST_VIEWS = 3
# Of the renderer's measured rate: what is left keeps it ahead.
_USED_RATE = 0.95
_WARM_UP_STEPS, _MEASURED_S = 5, 2.0


@dataclass(frozen=True)
class GpuRun:
    """What a YAML file for this tool holds.

    Attributes:
        pictures: a file of handmesh.synthetic.config.PictureSet: how images are drawn, and their seed.
        rendered_weight, photographs_weight: of the two sources.
        first: rendered images before the first step.
        capacity: rendered images on the device at most.
        ahead: rendered images that wait in memory at most, beside those on the device.
        batch_sizes: of which the one with the most images a second is chosen.
        train: everything else; learning_rate is that of 256 images a step, ema_decay that of 64.
    """

    pictures: Path = Path("configs/pictures_train.yaml")
    rendered_weight: float = 0.65
    photographs_weight: float = 0.35
    first: int = 8192
    capacity: int = 163_840
    ahead: int = 16_384
    batch_sizes: tuple[int, ...] = (512, 1024, 2048)
    train: TrainCommand = field(default_factory=TrainCommand)


@dataclass(frozen=True)
class Measured:
    """What is measured once, when a training begins, and kept: the training is a function of it.

    Attributes:
        batch_size: images a step.
        compile: whether torch.compile helped.
        step_rate: images/s of forward, loss, backward and step on one batch in memory.
        render_rate: images/s of all processes that render.
        growth: of the window of rendered images (`pool.Window`).
    """

    batch_size: int
    compile: bool
    step_rate: float
    render_rate: float
    growth: int


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="train.sh", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of tools/gpu/pack.sh")
    parser.add_argument("out", type=Path, help="folder of the checkpoints and numbers")
    parser.add_argument("--minutes", type=float, help="length of the whole training, over all runs; without it the file's")
    parser.add_argument(
        "--stop-after", type=float, default=math.inf, help="minutes after which this run has stopped, to go on another time"
    )
    parser.add_argument("--config", type=Path, default=ROOT / "tools/gpu/train.yaml", help="YAML file of the settings")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that render")
    parser.add_argument("--memory", type=Path, help="folder for rendered images; without it /dev/shm if it has room, or else OUT")
    parser.add_argument("--ma36-minutes", type=float, default=0.0, help="minutes to train configs/freihand_ma36.yaml on generated images")
    parser.add_argument("--latency-minutes", type=float, default=0.0, help="minutes to measure the latency of T8, SA12 and MA36")
    arguments = parser.parse_args(argv)
    started = time.monotonic()
    for name in ("minutes", "stop_after", "workers"):
        value = getattr(arguments, name)
        if value is not None and not value > 0:
            raise UserError(f"expected a positive --{name.replace('_', '-')}, got {value:g}; change it")
    import torch

    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise UserError("expected a GPU, but torch finds none; add --device cpu to run without one")
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name() if arguments.device == 'cuda' else 'CPU'}, {os.cpu_count()} cores")
    if arguments.latency_minutes > 0:
        from latency import measure_latency

        measure_latency(arguments.device, arguments.latency_minutes)
    if arguments.ma36_minutes > 0:
        from ma36 import try_ma36

        try_ma36(arguments.out / "ma36", arguments.device, arguments.ma36_minutes, arguments.workers)
    train_here(arguments, started + 60 * arguments.stop_after)


def train_here(arguments: argparse.Namespace, deadline: float) -> None:
    """Begin a training or go on with it, until its end or `deadline` (time.monotonic).

    Raises:
        UserError: bad settings or data, or no room.
    """
    import torch
    from packing import unpack

    from handmesh.hand_model import load_hand_model
    from handmesh.photographs import PhotographReader
    from handmesh.synthetic.config import PictureSet
    from handmesh.synthetic.stream import BLOCK_IMAGES, ImageStream, StreamPlan, bytes_an_image
    from handmesh.training.checkpoint import LAST_NAME, load_checkpoint, save_weights
    from handmesh.training.data import TrainingData
    from handmesh.training.loop import train
    from handmesh.training.optimizer import schedule_progress
    from handmesh.training.pool import PhotographPool, RenderedPool, Window

    torch.backends.cudnn.benchmark = True
    if arguments.device == "cuda":
        # The cores are the renderer's.
        torch.set_num_threads(1)
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    run = load_config(GpuRun, arguments.config)
    pictures = load_config(PictureSet, _from_root(run.pictures))
    held_out = run.train.data.validation_pictures // BLOCK_IMAGES * BLOCK_IMAGES
    ring = -(-(run.capacity + run.ahead) // BLOCK_IMAGES) * BLOCK_IMAGES
    needed = (held_out + ring) * bytes_an_image(pictures.pictures.size_px)
    memory = arguments.memory or roomy_folder(out, needed)
    photographs, hdri = unpack(arguments.data, memory / "data")
    plan = StreamPlan(pictures.pictures, pictures.seed, run.train.hand_model, hdri, held_out, ring)
    hand_model = load_hand_model(run.train.hand_model)
    command = replace(
        run.train, out=out, device=arguments.device, resume=(out / LAST_NAME).is_file(),
        init_from=run.train.init_from and _from_root(run.train.init_from),
        schedule=replace(run.train.schedule, max_minutes=arguments.minutes or run.train.schedule.max_minutes),
    )  # fmt: skip
    stream = ImageStream(plan, memory, arguments.workers)
    try:
        state = out / STATE_NAME
        if command.resume and not state.is_file():
            raise UserError(f"expected '{state}' beside '{out / LAST_NAME}', got none; choose another OUT")
        if state.is_file():
            measured = Measured(**json.loads(state.read_text()))
        else:
            measured = measure(run, command, stream)
            with replacing(state) as temporary:
                temporary.write_text(json.dumps(vars(measured), indent=1) + "\n")
        command = scaled(command, measured)
        size, device = command.model.size_px, arguments.device
        pool = RenderedPool(stream, Window(run.first, run.capacity, measured.growth), hand_model, size, device)
        reader = PhotographReader(photographs)
        photos = PhotographPool(reader, hand_model, size, command.data.validation_pictures, command.data.photograph_augment, device)
        weights = [run.rendered_weight, run.photographs_weight]
        data = TrainingData([pool, photos], weights, command.data.batch_size, command.data.mirror_share)
        rows_before = len(train_rows(out))
        began, drawn_before = time.monotonic(), stream.drawn()
        path = train(command, data, deadline - _RESERVED_S)
        seconds, drawn = time.monotonic() - began, stream.drawn() - drawn_before
        checkpoint = load_checkpoint(path)
        save_weights(checkpoint, out / WEIGHTS_NAME)
        say_result(out, train_rows(out)[rows_before:], measured, drawn / seconds)
        say_scores(checkpoint, data, device)
        is_over = schedule_progress(command.schedule, checkpoint.pictures, checkpoint.seconds) >= 1
    finally:
        stream.close()
    if is_over and arguments.memory is None and memory != out:
        shutil.rmtree(memory)


def roomy_folder(out: Path, needed_bytes: int) -> Path:
    """In memory if there is room, or was when this training began; else OUT."""
    name = f"handmesh-{hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:12]}"
    shared = Path("/dev/shm")
    is_roomy = shared.is_dir() and os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > 1.1 * needed_bytes
    return shared / name if is_roomy or (shared / name).exists() else out / "rendered"


def measure(run: GpuRun, command: TrainCommand, stream: ImageStream) -> Measured:
    """Rates of the steps and, meanwhile, of the renderer; says how long it took."""
    started = time.monotonic()
    held_out = stream.plan.validation
    stream.want(held_out, held_out + stream.plan.ring)
    # Until all processes have begun.
    while stream.drawn() < 16 * stream.workers:
        time.sleep(0.1)
        stream.check()
    rendering_since, drawn = time.monotonic(), stream.drawn()
    print(f"the renderer began after {rendering_since - started:.0f} s")
    rates = {size: step_rate(command, size, is_compiled=False) for size in run.batch_sizes}
    best = max(rates, key=lambda size: rates[size])
    print(", ".join(f"batch {size}: {rate:.0f} images/s" for size, rate in rates.items()))
    is_compiled, rate = False, rates[best]
    if command.device == "cuda":
        compiling = time.monotonic()
        try:
            compiled = step_rate(command, best, is_compiled=True)
        except Exception as error:
            # A missing compiler, or a fault of this version: training works without.
            print(f"torch.compile failed: {type(error).__name__}: {str(error).splitlines()[0][:200]}")
        else:
            print(f"compiled, batch {best}: {compiled:.0f} images/s after {time.monotonic() - compiling:.0f} s")
            is_compiled, rate = compiled > 1.02 * rate, max(compiled, rate)
    while stream.drawn() - drawn < 16 * stream.workers and stream.drawn() < held_out + stream.plan.ring:
        time.sleep(0.1)
    render_rate = (stream.drawn() - drawn) / (time.monotonic() - rendering_since)
    of_rendered = run.rendered_weight / (run.rendered_weight + run.photographs_weight)
    views = max(rate * of_rendered / max(_USED_RATE * render_rate, 1e-9), _FEWEST_VIEWS)
    print(
        f"batch {best}, {'compiled' if is_compiled else 'eager'}: {rate:.0f} images/s; the renderer {render_rate:.0f} images/s: "
        f"each image is seen {views:.0f} times; measured in {time.monotonic() - started:.0f} s"
    )
    return Measured(best, is_compiled, rate, render_rate, round(1e6 / views))


def step_rate(command: TrainCommand, batch_size: int, is_compiled: bool) -> float:
    """Images/s of forward, loss, backward and step on one batch in the device's memory; 0 where it has too little."""
    import torch

    from handmesh.hand_model import load_hand_model
    from handmesh.training.convolution import quicken
    from handmesh.training.data import empty_batch
    from handmesh.training.layer import HandLayer
    from handmesh.training.losses import loss_terms, total_loss
    from handmesh.training.model import build_net
    from handmesh.training.optimizer import parameter_groups

    device = torch.device(command.device)
    model = load_hand_model(command.hand_model)
    batch = empty_batch(batch_size, command.model.size_px, len(model.template_m)).to(device)
    batch.crops.random_(0, 256)
    net, layer = build_net(replace(command.model, pretrained=False)).to(device).train(), HandLayer(model).to(device)
    if device.type == "cpu":
        quicken(net)
    if is_compiled:
        net.compile()
    optimizer = torch.optim.AdamW(parameter_groups(net, command.schedule), lr=1e-6, fused=True)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=command.precision == "bf16"):
            prediction = net(batch.crops)
        total_loss(loss_terms(layer, prediction, batch), command.loss).backward()
        optimizer.step()
        optimizer.zero_grad()

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    try:
        for _ in range(_WARM_UP_STEPS):
            step()
        wait()
        started, steps = time.perf_counter(), 0
        while time.perf_counter() - started < _MEASURED_S:
            step()
            wait()
            steps += 1
        return steps * batch_size / (time.perf_counter() - started)
    except torch.cuda.OutOfMemoryError:
        return 0.0


def scaled(command: TrainCommand, measured: Measured) -> TrainCommand:
    """The command for the measured batch: its learning rate by the square root, its average over as many images."""
    schedule = command.schedule
    rate = schedule.learning_rate * math.sqrt(measured.batch_size / _BASE_BATCH)
    decay = schedule.ema_decay ** (measured.batch_size / _BASE_EMA_BATCH)
    return replace(
        command,
        compile=measured.compile,
        data=replace(command.data, batch_size=measured.batch_size),
        schedule=replace(schedule, learning_rate=rate, ema_decay=decay),
    )


def train_rows(out: Path) -> list[dict[str, str]]:
    """The lines of metrics.csv about training."""
    from handmesh.training.watch import METRICS_NAME

    path = out / METRICS_NAME
    if not path.is_file():
        return []
    with path.open(encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["split"] == "train"]


def say_result(out: Path, rows: Sequence[dict[str, str]], measured: Measured, render_rate: float) -> None:
    print(f"'{out / WEIGHTS_NAME}', {(out / WEIGHTS_NAME).stat().st_size / 1e6:.1f} MB: the averaged weights in half precision")
    # The first line holds what happens once: choosing kernels, compiling.
    rows = rows[1:] or rows
    if not rows:
        print("too few steps to say a rate")
        return
    rate, waiting = (median(float(row[name]) for row in rows) for name in ("pictures_per_s", "waiting_share"))
    print(
        f"{rate:.0f} images/s, {rate / measured.step_rate:.1%} of {measured.step_rate:.0f} images/s on one batch in memory; "
        f"{waiting:.1%} of the time waiting; the renderer {render_rate:.0f} images/s"
    )


def say_scores(checkpoint: Any, data: TrainingData, device: str) -> None:
    """Errors of the averaged weights on the held-out images, source by source."""
    from handmesh.hand_model import load_hand_model
    from handmesh.training.checkpoint import net_from_checkpoint
    from handmesh.training.data import TrainingData
    from handmesh.training.layer import HandLayer
    from handmesh.training.loop import validate

    net = net_from_checkpoint(checkpoint).to(device)
    layer = HandLayer(load_hand_model(checkpoint.command().hand_model)).to(device)
    for name, source in zip(data.names, data.sources, strict=True):
        errors = validate(net, layer, TrainingData([source], [1.0], data.batch_size, 0.0), data.batch_size)
        words = ", ".join(f"{key} {value:.4g}" for key, value in errors.items() if math.isfinite(value))
        print(f"after {checkpoint.pictures} images, {name}: {words or 'nothing held out'}")


def _from_root(path: Path) -> Path:
    return path if path.is_absolute() else ROOT / path


if __name__ == "__main__":
    sys.exit(guard("train.sh", main))
