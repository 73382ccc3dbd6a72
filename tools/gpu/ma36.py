"""A few minutes of configs/freihand_ma36.yaml on generated images in FreiHAND's layout: how fast, whether it learns, and fused parity."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path
from statistics import mean, median
from typing import Any, Literal

import numpy as np
import torch

from handmesh.config import load_config
from handmesh.deploy.graph import DeployNet, fuse
from handmesh.deploy.parity import distance_mm, noise_pictures, vertices_of
from handmesh.hand_model import load_hand_model
from handmesh.runtime import OUTPUTS
from handmesh.synthetic.command import SynthCommand, run_synth
from handmesh.training.checkpoint import load_checkpoint, net_from_checkpoint
from handmesh.training.command import SourceConfig, TrainCommand
from handmesh.training.loop import train
from handmesh.training.watch import METRICS_NAME

ROOT = Path(__file__).resolve().parents[2]
# METRO's training: https://arxiv.org/abs/2012.09760
_FREIHAND_IMAGES, _EPOCHS = 130_240, 200
_HANDS, _SIZE_PX = 512, 224
_PARITY_IMAGES = 8


def try_ma36(
    out: Path, device: Literal["cpu", "cuda"], minutes: float, workers: int, hands: int = _HANDS, batch_size: int | None = None
) -> None:
    """Render hands of the open hand model, which has MANO's sizes, train, and print.

    Args:
        out: folder, made anew.
        minutes: of training.
        workers: processes that render.
        hands: images to render.
        batch_size: None for the configuration's.
    """
    shutil.rmtree(out, ignore_errors=True)
    run_synth(SynthCommand(out / "freihand", count=hands, size=_SIZE_PX, format="freihand", versions=1, workers=workers))
    command = load_config(TrainCommand, ROOT / "configs/freihand_ma36.yaml")
    data = replace(
        command.data,
        sources=(SourceConfig("freihand", (out / "freihand",)),),
        validation_pictures=hands // 16,
        batch_size=batch_size or command.data.batch_size,
    )
    command = replace(
        command, out=out / "run", hand_model="open", device=device, model=replace(command.model, pretrained=False), data=data,
        schedule=replace(command.schedule, max_minutes=minutes), log_every_batches=5,
    )  # fmt: skip
    path = train(command)
    with (command.out / METRICS_NAME).open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train"]
    if rows:
        rate = median(float(row["pictures_per_s"]) for row in (rows[1:] or rows))
        quarter = max(1, len(rows) // 4)
        first, last = (mean(float(row["loss"]) for row in part) for part in (rows[:quarter], rows[-quarter:]))
        hours = _FREIHAND_IMAGES * _EPOCHS / rate / 3600
        print(
            f"freihand_ma36, batch {command.data.batch_size}: {rate:.0f} images/s; loss {first:.3f} in the first quarter, {last:.3f} in "
            f"the last; {_EPOCHS} epochs of {_FREIHAND_IMAGES} images would take {hours:.1f} hours"
        )
    for name, distance in parity_mm(net_from_checkpoint(load_checkpoint(path)), device).items():
        print(f"freihand_ma36, fused {name} to trained f64: {distance:.2g} mm, mean vertex distance over {_PARITY_IMAGES} images")
    shutil.rmtree(out / "freihand")


def parity_mm(trained: Any, device: str) -> dict[str, float]:
    """Mean vertex distance of the fused forms to the trained one in double precision."""
    model = load_hand_model("open")
    crops = torch.from_numpy(noise_pictures(trained.size_px, _PARITY_IMAGES)).to(device)
    trained = trained.double().to(device)

    def vertices_m(net: Any) -> np.ndarray:
        with torch.inference_mode():
            outputs = DeployNet(net)(crops)
        return vertices_of(model, {name: values.double().cpu().numpy() for name, values in zip(OUTPUTS, outputs, strict=True)})

    truth = vertices_m(trained)
    types = {"f64": torch.float64, "f32": torch.float32, "bf16": torch.bfloat16}
    return {name: distance_mm(vertices_m(fuse(trained).to(dtype)), truth) for name, dtype in types.items()}
