"""How much of the machine's speed is left when a training reads its pictures, augments them, averages weights and writes its log.

    python tools/time_training.py SHARDS [--size-px 96] [--batch 32] [--steps 40] [--rounds 3] [--plain]

Compares pictures/s of `handmesh-train` with those of forward, loss, backward and step on one batch that stays in memory, in turns, and
gives the median ratio. --plain measures the batch in memory with torch's own convolutions as well.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

from handmesh.cli import guard
from handmesh.hand_model import load_hand_model
from handmesh.training.command import DataConfig, ModelConfig, ScheduleConfig, SourceConfig, TrainCommand
from handmesh.training.convolution import quicken
from handmesh.training.data import open_data
from handmesh.training.layer import HandLayer
from handmesh.training.loop import train
from handmesh.training.losses import loss_terms, total_loss
from handmesh.training.model import build_net
from handmesh.training.optimizer import parameter_groups

# Of each measurement: the first steps compile and fill caches.
_WARM_UP_STEPS = 8


def main(arguments: Sequence[str]) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("shards", type=Path, help="folder that handmesh-synth filled")
    parser.add_argument("--size-px", type=int, default=96)
    parser.add_argument("--batch", type=int, default=32, help="pictures a step")
    parser.add_argument("--steps", type=int, default=40, help="steps of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="how often both are measured")
    parser.add_argument("--plain", action="store_true", help="also measure torch's own convolutions")
    options = parser.parse_args(arguments)
    command = TrainCommand(
        model=ModelConfig(size_px=options.size_px),
        data=DataConfig(sources=(SourceConfig(folders=(options.shards,)),), batch_size=options.batch, validation_pictures=0),
        log_every_batches=options.steps,
        schedule=ScheduleConfig(pictures=(_WARM_UP_STEPS + options.steps) * options.batch),
    )
    rates: dict[str, list[float]] = {"in memory": [], "training": [], "in memory, torch's own convolutions": []}
    for _ in range(options.rounds):
        rates["in memory"].append(rate_in_memory(command, options.steps, is_quick=True))
        rates["training"].append(rate_of_training(command, options.steps))
        if options.plain:
            rates["in memory, torch's own convolutions"].append(rate_in_memory(command, options.steps, is_quick=False))
    for name, values in rates.items():
        if values:
            ratio = median(value / base for value, base in zip(values, rates["in memory"], strict=True))
            print(f"{name:35}  {median(values):8.1f} pictures/s  {ratio:6.1%} of in memory")


def rate_in_memory(command: TrainCommand, steps: int, is_quick: bool) -> float:
    """Pictures/s of forward, loss, backward and step on one batch."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_hand_model(command.hand_model)
    batch = open_data(command.data, model, command.model.size_px).batch(0, 0, slice(0, command.data.batch_size)).to(device)
    net, layer = build_net(command.model).to(device).train(), HandLayer(model).to(device)
    if is_quick and device.type == "cpu":
        quicken(net)
    optimizer = torch.optim.AdamW(parameter_groups(net, command.schedule), lr=1e-4, fused=True)
    for step in range(_WARM_UP_STEPS + steps):
        if step == _WARM_UP_STEPS:
            _wait(device)
            started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16):
            prediction = net(batch.crops)
        total_loss(loss_terms(layer, prediction, batch), command.loss).backward()
        optimizer.step()
        optimizer.zero_grad()
    _wait(device)
    return steps * len(batch) / (time.perf_counter() - started)


def rate_of_training(command: TrainCommand, steps: int) -> float:
    """Pictures/s of the whole loop between its first and its second line, in which all has been compiled."""

    with tempfile.TemporaryDirectory() as folder:
        schedule = replace(command.schedule, pictures=2 * steps * command.data.batch_size)
        train(replace(command, out=Path(folder) / "run", schedule=schedule))
        with (Path(folder) / "run" / "metrics.csv").open(encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == "train"]
    return float(rows[1]["pictures_per_s"])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    sys.exit(guard("time_training", main))
