"""What benchmarks measure, how runs take turns, and the one file format and table that all of them share."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from handmesh import __version__
from handmesh.errors import UserError
from handmesh.wholefile import replacing

SCHEMA = "handmesh.bench/1"
_PACKAGES = ("numpy", "openvino", "onnxruntime", "torch", "timm", "mediapipe", "opencv-contrib-python")


@dataclass(frozen=True)
class Timing:
    """Wall-clock times of one thing that was run many times.

    Attributes:
        name: what was run.
        samples_ms: one time a run, in the order in which they were measured.
    """

    name: str
    samples_ms: tuple[float, ...]

    def percentile_ms(self, percent: float) -> float:
        """The time that `percent` of the runs do not exceed."""
        return float(np.percentile(self.samples_ms, percent))

    @property
    def median_ms(self) -> float:
        """Half of the runs are faster."""
        return self.percentile_ms(50)

    @property
    def p95_ms(self) -> float:
        """19 of 20 runs are faster."""
        return self.percentile_ms(95)


@dataclass(frozen=True)
class Report:
    """One benchmark's results.

    Attributes:
        what: "network", "loop", "smoothing", ...: the benchmark's name on the command line; names the files.
        settings: what was asked for.
        rows: one result each, all with the same keys; times in ms, named *_ms.
        notes: sentences for people, such as what could not be measured and why.
        machine: where it was measured.
    """

    what: str
    settings: dict[str, Any]
    rows: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=lambda: describe_machine())


def time_in_turn(runs: Mapping[str, Callable[[], object]], rounds: int, runs_a_turn: int = 10, warm_up: int = 5) -> dict[str, Timing]:
    """Time several things on one noisy machine: all of them in every round, so that noise meets them alike.

    Args:
        runs: name -> what to run.
        rounds: how often each has its turn.
        runs_a_turn: timed runs in one turn.
        warm_up: runs before them that are not timed: the threads of whoever ran before still spin.
    """
    samples_ms: dict[str, list[float]] = {name: [] for name in runs}
    for _ in track(range(rounds), "rounds", console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()):
        for name, run in runs.items():
            for _ in range(warm_up):
                run()
            for _ in range(runs_a_turn):
                start = time.perf_counter()
                run()
                samples_ms[name].append(1e3 * (time.perf_counter() - start))
    return {name: Timing(name, tuple(values)) for name, values in samples_ms.items()}


def describe_machine() -> dict[str, Any]:
    """Processor, cores that this process may use, system and versions of what computes."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "cores": usable_cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "handmesh": __version__,
        "packages": versions,
    }


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_counts(command: object, *names: str) -> None:
    """Fields that hold a count, or several, or None for no limit.

    Raises:
        UserError: one below 1.
    """
    for name in names:
        values = getattr(command, name)
        for value in values if isinstance(values, tuple) else (values,):
            if value is not None and value < 1:
                raise UserError(f"expected {flag_of(name)} of at least 1, got {value}")


def flag_of(name: str) -> str:
    """What a field is called on the command line."""
    return f"--{name.replace('_', '-')}"


def write_report(report: Report, folder: Path) -> Path:
    """`WHAT.json` in a folder that is made if it is missing.

    Raises:
        UserError: it cannot be written.
    """
    target = folder / f"{report.what}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(target) as temporary:
            temporary.write_text(json.dumps({"schema": SCHEMA, **asdict(report)}, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"expected to write {target}, but that failed ({error.strerror}); choose another --out") from error
    return target


def print_report(report: Report, columns: Mapping[str, str], title: str) -> None:
    """A table on the terminal.

    Args:
        columns: key of a row -> heading; floats get three digits that count, None a dash.
        title: of the table.
    """
    # No narrower than its numbers when nobody looks (a pipe, a log).
    console = Console(width=None if sys.stdout.isatty() else 160)
    table = Table(title=title, title_justify="left")
    for index, heading in enumerate(columns.values()):
        table.add_column(heading, justify="left" if index == 0 else "right")
    for row in report.rows:
        table.add_row(*(_cell(row.get(key)) for key in columns))
    console.print(table)
    for note in report.notes:
        console.print(note, highlight=False)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        # Never 1.88e+03.
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")
    return str(value)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
