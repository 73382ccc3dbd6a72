"""`handmesh-bench smoothing` and `handmesh-bench tracking`. Imports nothing slow, so that --help is quick."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from handmesh.bench import canvas
from handmesh.bench.records import Report, check_counts, print_report
from handmesh.config import config_to_dict
from handmesh.errors import UserError
from handmesh.smoothing import DEFAULT_SMOOTH

_SMOOTHING_COLUMNS = {
    "smooth": "--smooth",
    "jitter_mm": "jitter mm",
    "relative_jitter_mm": "of the pose mm",
    "worst_jitter_mm": "shakiest pose mm",
    "lag_ms": "lag ms",
    "depth_lag_ms": "in depth ms",
}
_TRACKING_COLUMNS = {
    "clip": "clip",
    "frames": "frames",
    "swaps": "swaps",
    "ids": "identities",
    "wrong_sides": "wrong sides",
    "doubles": "doubles",
    "missed": "missed",
    "strays": "strays",
    "latest_ms": "latest ms",
}
_MOST_JITTER_MM, _MOST_LAG_MS = 0.5, 40.0
_TICKS_MM = (0.1, 0.2, 0.5, 1, 2, 5)


@dataclass(frozen=True)
class SmoothingCommand:
    """How steady a still hand is, and how late one at 1 m/s: rendered clips with a webcam's noise, 30 frames/s, for each --smooth.

    Writes smoothing.json and smoothing.png. Jitter is the root mean square distance of joints from their mean, of an open hand and of the
    shakiest of four poses; lag is the delay that fits best.
    """

    strengths: tuple[float, ...] = (0.0, 0.25, DEFAULT_SMOOTH, 0.75, 1.0)
    """Values of --smooth, in 0..1."""
    out: Path = Path("bench_out")
    """Folder of smoothing.json and smoothing.png."""


@dataclass(frozen=True)
class TrackingCommand:
    """Whether hands keep their identities and how soon they are shown: rendered clips of two hands that cross, of one that leaves and comes
    back, and of a second one that enters.

    Writes tracking.json. Counts are of hands in frames. A hand that comes into the open is late by the time from when half of its joints
    are in the open until it is shown.
    """

    clips: int = 4
    """Clips of each kind, with other poses each."""
    smooth: float = DEFAULT_SMOOTH
    """As of handmesh-demo."""
    out: Path = Path("bench_out")
    """Folder of tracking.json."""


def run_smoothing(command: SmoothingCommand) -> Report:
    """Measure, print, plot, and write.

    Raises:
        UserError: a strength that is none, or a folder that cannot be written.
    """
    if not command.strengths:
        raise UserError("expected --strengths to list values in 0..1, got none")
    for smooth in command.strengths:
        if not 0 <= smooth <= 1:
            raise UserError(f"expected --strengths in 0..1, got {smooth:g}")

    from rich.progress import track

    from handmesh.bench.motion import STILL_POSES, Studio
    from handmesh.hand_model import load_hand_model

    studio = Studio(load_hand_model("open"))
    stills = [studio.still(kind) for kind in STILL_POSES]
    sweeps = [studio.sweep(axis) for axis in track((0, 2), "rendering")]
    rows = [asdict(studio.steadiness(smooth, stills, *sweeps)) for smooth in track(command.strengths, "following")]
    report = Report("smoothing", config_to_dict(command), rows)
    default = next((row for row in rows if row["smooth"] == DEFAULT_SMOOTH), None)
    if default is not None:
        holds = default["jitter_mm"] < _MOST_JITTER_MM and max(default["lag_ms"], default["depth_lag_ms"]) < _MOST_LAG_MS
        report.notes.append(f"The default {'is' if holds else 'is NOT'} below {_MOST_JITTER_MM} mm and {_MOST_LAG_MS:g} ms.")
    written = canvas.write(report, command.out, draw_smoothing)
    print_report(report, _SMOOTHING_COLUMNS, "Jitter of a still hand and lag of one at 1 m/s")
    print(f"written: {written}")
    return report


def run_tracking(command: TrackingCommand) -> Report:
    """Measure, print, and write.

    Raises:
        UserError: bad counts, or a folder that cannot be written.
    """
    check_counts(command, "clips")
    if not 0 <= command.smooth <= 1:
        raise UserError(f"expected --smooth in 0..1, got {command.smooth:g}")

    from rich.progress import track

    from handmesh.bench.motion import FPS, Studio
    from handmesh.bench.records import write_report
    from handmesh.hand_model import load_hand_model

    studio = Studio(load_hand_model("open"))
    kinds = {"crossing": studio.crossing, "leaving": studio.leaving, "entering": studio.entering}
    rows = []
    delays: dict[str, list[int]] = {name: [] for name in kinds}
    for name, seed in track([(name, seed) for name in kinds for seed in range(command.clips)], "following"):
        identities = studio.identities(kinds[name](seed), command.smooth, seed)
        delays[name] += identities.delays
        latest_ms = 1e3 * max(identities.delays) / FPS if identities.delays else None
        rows.append({"clip": f"{name} {seed}", **asdict(identities), "latest_ms": latest_ms})
    report = Report("tracking", config_to_dict(command), rows)
    report.notes.append("Missed: visible hands (7 of 10 joints in the open) that were not shown, while the detector looks for them again.")
    report.notes.extend(_delay_note(name, np.array(of_kind) / FPS) for name, of_kind in delays.items() if of_kind)
    written = write_report(report, command.out)
    print_report(report, _TRACKING_COLUMNS, "Two hands that cross; of which one leaves and comes back; of which one enters")
    print(f"written: {written}")
    return report


def _delay_note(name: str, delays_s: np.ndarray) -> str:
    median_ms, worst_ms = 1e3 * np.median(delays_s), 1e3 * delays_s.max()
    return f"{name}: {len(delays_s)} hands came into the open and were shown {median_ms:.0f} ms later (median; {worst_ms:.0f} ms at worst)."


def draw_smoothing(report: Report, path: Path) -> None:
    """Jitter against lag, a point for each strength.

    Raises:
        UserError: it cannot be written.
    """
    with canvas.figure(path, 1, 2, 4.2) as ((across, along),):
        for axis, key, title in ((across, "lag_ms", "across the picture"), (along, "depth_lag_ms", "along the view")):
            x, y = [row[key] for row in report.rows], [row["jitter_mm"] for row in report.rows]
            axis.plot(x, y, "o-", color=canvas.STRONG, label="open hand")
            axis.plot(x, [row["worst_jitter_mm"] for row in report.rows], ".:", color=canvas.PALE, label="shakiest of four poses")
            for row, lag_ms, jitter_mm in zip(report.rows, x, y, strict=True):
                canvas.label(axis, lag_ms, jitter_mm, _name(row["smooth"]))
            axis.axhline(_MOST_JITTER_MM, color=canvas.PALE, linewidth=1)
            axis.axvline(_MOST_LAG_MS, color=canvas.PALE, linewidth=1)
            axis.set_xlabel("lag of a hand at 1 m/s [ms]")
            axis.set_ylabel("jitter of a still hand [mm RMS]")
            axis.set_yscale("log")
            axis.set_yticks(_TICKS_MM, map(str, _TICKS_MM))
            axis.minorticks_off()
            axis.margins(x=0.25)
            axis.set_title(title)
            axis.legend(frameon=False)


def _name(smooth: float) -> str:
    return {0.0: "off", DEFAULT_SMOOTH: "default", 1.0: "max"}.get(smooth, f"{smooth:g}")
