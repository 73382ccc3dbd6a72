"""Plots of what `handmesh-bench loop`, `folder` and `startup` measured, as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from handmesh.bench.canvas import INK, MIDDLE, PALE, STRONG, figure, label
from handmesh.bench.records import Report

_BAR_IN = 0.32


def draw_loop(report: Report, path: Path) -> None:
    """One panel for each contender: its stages and latencies, a bar to the median and a whisker to the 95th percentile.

    Raises:
        UserError: it cannot be written.
    """
    panels = []
    for row in report.rows:
        if row["by"] == "loop":
            ratios = {name: row[f"vs_{name.replace('-', '_')}"] for name in ("mediapipe", "detector-every-frame", "as-seen")}
            against = [f"{ratio:.2f} x {name}" for name, ratio in ratios.items() if ratio is not None]
            speed = f"{row['contender']}, max hands {row['max_hands']}: {row['frames_s']:.1f} frames/s"
            panels.append(("; ".join((speed, *against)), []))
        else:
            panels[-1][1].append(row)
    _draw_stages(panels, path)


def draw_folder(report: Report, path: Path) -> None:
    """Stages and latency of a folder, a bar to the median and a whisker to the 95th percentile.

    Raises:
        UserError: it cannot be written.
    """
    whole, *stages = report.rows
    title = f"{whole['calls']} pictures: {whole['pictures_s']:.1f} pictures/s, {whole['megapixels_s']:.1f} megapixels/s"
    _draw_stages([(title, stages)], path)


def draw_startup(report: Report, path: Path) -> None:
    """What comes when after the start of a process: each part begins where the one above it ends.

    Raises:
        UserError: it cannot be written.
    """
    panels = [
        ("handmesh-demo on a picture", [row for row in report.rows if row["by"] == "part"]),
        ("the same work step by step, nothing at the same time", [row for row in report.rows if row["by"] == "step"]),
    ]
    mesh = next(row for row in report.rows if (row["by"], row["name"]) == ("moment", "first mesh"))
    with _stack(path, [len(rows) for _, rows in panels]) as lines:
        axes = [across[0] for across in lines]
        for axis, (title, rows) in zip(axes, panels, strict=True):
            start_ms = 0.0
            for index, row in enumerate(rows):
                axis.barh(index, row["median_ms"], left=start_ms, color=STRONG if row["median_ms"] >= 50 else MIDDLE, height=0.7)
                start_ms += row["median_ms"]
                label(axis, start_ms, index, f"{row['median_ms']:.0f}")
            axis.set_title(f"{title}: {start_ms / 1e3:.2f} s", loc="left")
            _name_bars(axis, [row["name"] for row in rows])
        for x, text in ((mesh["median_ms"], "first mesh"), (mesh["bar_ms"], "at most")):
            axes[0].axvline(x, color=INK, linewidth=1, linestyle="-" if text == "first mesh" else ":")
            axes[0].annotate(f"{text} {x:.0f}", (x, -0.5), (-4, 0), textcoords="offset points", ha="right", va="top", color=INK)
        longest = max(axis.get_xlim()[1] for axis in axes)
        for axis in axes:
            axis.set_xlim(0, 1.08 * longest)
        axes[-1].set_xlabel("ms after the start of the process (medians of the parts)")


def _draw_stages(panels: Sequence[tuple[str, Sequence[dict[str, Any]]]], path: Path) -> None:
    longest_ms = max(row["p95_ms"] for _, rows in panels for row in rows)
    with _stack(path, [len(rows) for _, rows in panels]) as lines:
        axes = [across[0] for across in lines]
        for axis, (title, rows) in zip(axes, panels, strict=True):
            for index, row in enumerate(rows):
                axis.barh(index, row["p50_ms"], color=STRONG if row["by"] == "stage" else PALE, height=0.7)
                ends_ms = [row["p50_ms"], row["p95_ms"]]
                axis.plot(ends_ms, [index, index], color=INK, linewidth=1.2, marker="|", markevery=[1], markersize=7)
                share = "" if row["share"] is None else f", {100 * row['share']:.0f} % of the time"
                calls = f", {row['calls']} calls" if row["by"] == "stage" else ""
                text = f"{row['p50_ms']:.1f} ms{calls}{share}"
                label(axis, row["p95_ms"], index, text)
            axis.set_title(title, loc="left")
            axis.set_xlim(0, 1.5 * longest_ms)
            _name_bars(axis, [f"latency to {row['name']}" if row["by"] == "latency" else row["name"] for row in rows])
        axes[-1].set_xlabel("ms a call (whisker: 95th percentile)")


def _name_bars(axis: Any, names: Sequence[str]) -> None:
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -0.6)


def _stack(path: Path, bars: Sequence[int]) -> AbstractContextManager[list[list[Any]]]:
    """Panels below each other with room for so many bars each."""
    return figure(path, len(bars), 1, 0.5 + sum(0.6 + _BAR_IN * count for count in bars), height_ratios=[1 + count for count in bars])
