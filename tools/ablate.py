"""What parts of the network are worth: small trainings that differ in one thing, at equal pictures seen, as a table.

    python tools/ablate.py --shards DIR [--shards DIR ...] --pictures N --size-px S --out DIR [--only NAME ...] [--config FILE.yaml]

Runs handmesh-train once for each variant, with the same seed, pictures and schedule, and reads the averaged weights' errors on the
held-out pictures from its metrics.csv. Each run has its settings in OUT/NAME.yaml. A run that is complete is not repeated, one that was
stopped goes on, and OUT/ablation.md holds the table of those that are complete. Sets must be complete. Needs the `train` extra.
"""

from __future__ import annotations

import argparse
import functools
import math
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from score_tables import TextTable, to_markdown, to_rich

from handmesh.cli import guard
from handmesh.config import config_to_dict, load_config
from handmesh.errors import UserError
from handmesh.synthetic.shards import ShardReader
from handmesh.training.checkpoint import LAST_NAME
from handmesh.training.command import ModelConfig, SourceConfig, TrainCommand
from handmesh.training.watch import METRICS_NAME, read_metrics
from handmesh.wholefile import replacing

TABLE_NAME = "ablation.md"
# Columns of metrics.csv, their headings, factors and digits.
_ERRORS = (
    ("pa_mpjpe_mm", "PA-MPJPE mm", 1, 2),
    ("pa_mpvpe_mm", "PA-MPVPE mm", 1, 2),
    ("keypoints_share", "2D % of box", 100, 2),
    ("presence_hit", "presence %", 100, 1),
    ("right_hit", "side %", 100, 1),
)


@dataclass(frozen=True)
class Variant:
    """One training.

    Attributes:
        says: what it is, for the table.
        changes: fields of `ModelConfig` that differ from the first variant's.
    """

    says: str
    changes: Mapping[str, Any] = field(default_factory=dict)


VARIANTS = {
    "base": Variant("keypoint head, dense heads, over-parameterised T8"),
    "pooled": Variant("pooled head", {"head": "pooled"}),
    "no_dense": Variant("without dense heads", {"dense": False}),
    "no_branches": Variant("without over-parameterisation", {"overparameterized": False}),
    "s12": Variant("S12: convolutions in stage 4", {"variant": "fastvit_s12"}),
    "sa12": Variant("SA12: attention in stage 4", {"variant": "fastvit_sa12"}),
}
_BASE = {"variant": "fastvit_t8", "head": "keypoint", "dense": True, "overparameterized": True}


@dataclass(frozen=True)
class Result:
    """What one run came to.

    Attributes:
        pictures: seen.
        errors: last validation's values by the names of metrics.csv; nan for none.
        pictures_per_s: median over the training.
    """

    pictures: int
    errors: dict[str, float]
    pictures_per_s: float


def variant_command(base: TrainCommand, name: str, shards: Sequence[Path], pictures: int, size_px: int, out: Path) -> TrainCommand:
    """The settings of one run: `base`'s, without what would make runs differ in more than the variant.

    Fresh weights, no end by the clock, no teacher; a warm-up of at most a tenth; validation once, at the end.
    """
    schedule = replace(
        base.schedule, pictures=pictures, max_minutes=None, warmup_pictures=min(base.schedule.warmup_pictures, pictures // 10)
    )
    return replace(
        base,
        out=out / name,
        init_from=None,
        resume=False,
        validate_every_pictures=pictures,
        model=replace(base.model, size_px=size_px, pretrained=False, **{**_BASE, **VARIANTS[name].changes}),
        data=replace(base.data, sources=(SourceConfig(folders=tuple(shards)),)),
        distill=replace(base.distill, teacher=None),
        schedule=schedule,
    )


def read_result(metrics: Path, pictures: int) -> Result | None:
    """The result of a run that saw all its pictures and was validated after; None for one that is not there or not complete.

    Raises:
        UserError: a table without the columns that are needed.
    """
    if not metrics.is_file():
        return None
    rows = read_metrics(metrics)
    finals = [row for row in rows if row["split"] == "validation" and int(row["pictures"]) >= pictures]
    if not finals:
        return None
    missing = [name for name, *_ in _ERRORS if name not in finals[-1]]
    if missing:
        raise UserError(f"expected {', '.join(missing)} in '{metrics}', which lacks them; delete that run and train it again")
    errors = {name: float(finals[-1][name] or math.nan) for name, *_ in _ERRORS}
    speeds = [float(row["pictures_per_s"]) for row in rows if row["split"] == "train" and row["pictures_per_s"]]
    return Result(int(finals[-1]["pictures"]), errors, statistics.median(speeds) if speeds else math.nan)


def keep_settings(path: Path, command: TrainCommand) -> None:
    """Write a run's settings, or see that those of its beginning are the same.

    Raises:
        UserError: they differ.
    """
    text = yaml.safe_dump(config_to_dict(command), sort_keys=False)
    if path.is_file():
        if yaml.safe_load(path.read_text(encoding="utf-8")) != yaml.safe_load(text):
            raise UserError(f"expected the settings that '{path}' began with, but others were given; repeat those, or choose another --out")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def run_training(settings: Path, resume: bool) -> None:
    """One handmesh-train in a process of its own; after Ctrl-C it is given the time to save.

    Raises:
        UserError: it failed, and has said why.
    """
    program = "import sys; from handmesh.cli import train; sys.argv[0] = 'handmesh-train'; train()"
    with subprocess.Popen([sys.executable, "-c", program, str(settings), *(["--resume"] if resume else [])]) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.wait()
            raise
    if code:
        raise UserError(f"expected handmesh-train {settings} to succeed, but it ended with {code}; see its message above")


@functools.cache
def count_weights(model: ModelConfig) -> tuple[int, int]:
    """Numbers that are learnt, and those that are left when the branches are fused and the dense heads left out."""
    from handmesh.deploy.export import fuse
    from handmesh.training.model import build_net

    def count(config: ModelConfig, is_fused: bool) -> int:
        net = build_net(replace(config, pretrained=False)).eval()
        return sum(weight.numel() for weight in (fuse(net) if is_fused else net).parameters())

    return count(model, is_fused=False), count(replace(model, dense=False), is_fused=True)


def result_table(runs: Mapping[str, tuple[TrainCommand, Result]]) -> TextTable:
    """One row for each complete run."""
    rows = []
    for name, (command, result) in runs.items():
        trained, exported = count_weights(command.model)
        values = [f"{factor * result.errors[key]:.{digits}f}" if result.errors[key] == result.errors[key] else "-"
                  for key, _, factor, digits in _ERRORS]  # fmt: skip
        counts = [f"{trained / 1e6:.2f}", f"{exported / 1e6:.2f}"]
        rows.append((f"{name}: {VARIANTS[name].says}", *values, f"{result.pictures_per_s:.0f}", *counts, str(result.pictures)))
    headings = [heading for _, heading, _, _ in _ERRORS]
    size_px = next(iter(runs.values()))[0].model.size_px
    columns = ("", *headings, "pictures/s", "M weights", "M exported", "pictures seen")
    return TextTable(f"Trained alike at {size_px} px, averaged weights on the held-out pictures", columns, tuple(rows))


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="ablate", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shards", type=Path, action="append", required=True, help="folder of handmesh-synth; may be repeated")
    parser.add_argument("--pictures", type=int, required=True, help="that each run sees")
    parser.add_argument("--size-px", type=int, default=64, help="side of the crops")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"), help="folder of the runs and of the table")
    parser.add_argument("--only", choices=tuple(VARIANTS), action="append", help="this variant; may be repeated; all if left out")
    parser.add_argument("--config", type=Path, default=Path("configs/synthetic_t8.yaml"), help="settings that all runs share")
    arguments = parser.parse_args(argv)
    if arguments.pictures < 1:
        raise UserError(f"expected --pictures of at least 1, got {arguments.pictures}; a hundred thousand begin to say something")

    # A set that still grows would show each run other pictures.
    for folder in arguments.shards:
        ShardReader(folder)

    base, out, console = load_config(TrainCommand, arguments.config), arguments.out, Console(width=190)
    chosen = [name for name in VARIANTS if name in (arguments.only or VARIANTS)]
    for name in chosen:
        command = variant_command(base, name, arguments.shards, arguments.pictures, arguments.size_px, out)
        settings, metrics = out / f"{name}.yaml", command.out / METRICS_NAME
        keep_settings(settings, command)
        if read_result(metrics, arguments.pictures) is not None:
            console.print(f"{name}: complete")
            continue
        console.print(f"{name}: {VARIANTS[name].says}")
        run_training(settings, resume=(command.out / LAST_NAME).is_file())
        if read_result(metrics, arguments.pictures) is None:
            raise UserError(f"expected {arguments.pictures} pictures of '{name}', but it stopped before; the same command goes on")
        write_table(base, arguments.shards, arguments.pictures, arguments.size_px, out)
    console.print(to_rich(write_table(base, arguments.shards, arguments.pictures, arguments.size_px, out)))


def write_table(base: TrainCommand, shards: Sequence[Path], pictures: int, size_px: int, out: Path) -> TextTable:
    """The table of all variants that are complete by now, also into OUT/ablation.md."""
    commands = {name: variant_command(base, name, shards, pictures, size_px, out) for name in VARIANTS}
    results = {name: read_result(command.out / METRICS_NAME, pictures) for name, command in commands.items()}
    table = result_table({name: (commands[name], result) for name, result in results.items() if result is not None})
    with replacing(out / TABLE_NAME) as temporary:
        temporary.write_text(to_markdown(table), encoding="utf-8")
    return table


if __name__ == "__main__":
    sys.exit(guard("ablate", main))
