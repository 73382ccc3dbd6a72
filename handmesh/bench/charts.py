"""Plots of what `handmesh-bench network`, `resolution` and `layers` measured, as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from handmesh.bench.canvas import INK, MIDDLE, PALE, STRONG, figure, label
from handmesh.bench.records import Report

_FORM_STYLES: dict[str, dict[str, Any]] = {
    "train form": {"color": MIDDLE, "marker": "s", "linestyle": "--"},
    "fused": {"color": STRONG, "marker": "o"},
}


def draw_network(report: Report, path: Path) -> None:
    """One panel for each network and batch, one bar for each way: the median, a whisker to the 95th percentile.

    Raises:
        UserError: it cannot be written.
    """
    networks, batches = (list(dict.fromkeys(row[key] for row in report.rows)) for key in ("network", "batch"))
    ways = list(dict.fromkeys(row["way"] for row in report.rows))
    height = 0.7 + len(networks) * (0.75 + 0.3 * len(ways))
    with figure(path, len(networks), len(batches), height, share_y=True) as axes:
        for across, network in zip(axes, networks, strict=True):
            for axis, batch in zip(across, batches, strict=True):
                rows = {row["way"]: row for row in report.rows if (row["network"], row["batch"]) == (network, batch)}
                _draw_bars(axis, ways, rows)
                axis.set_title(f"batch {batch}", loc="left")
            across[0].set_title(f"{network}, {next(iter(rows.values()))['size_px']} px, batch {batches[0]}", loc="left")
            across[0].set_yticks(range(len(ways)), ways)
        for axis in axes[-1]:
            axis.set_xlabel("ms a run (whisker: 95th percentile)")


def draw_resolution(report: Report, path: Path) -> None:
    """Time over the side of the picture, one panel for each variant, both forms.

    Raises:
        UserError: it cannot be written.
    """
    variants = list(dict.fromkeys(row["variant"] for row in report.rows))
    columns = min(len(variants), 2)
    lines = -(-len(variants) // columns)
    with figure(path, lines, columns, 0.6 + 3.8 * lines, share_y=True) as axes:
        cells = [axis for across in axes for axis in across]
        for axis in cells[len(variants) :]:
            axis.set_visible(False)
        for axis, variant in zip(cells[: len(variants)], variants, strict=True):
            for form, style in _FORM_STYLES.items():
                rows = [row for row in report.rows if (row["variant"], row["form"]) == (variant, form)]
                sides, medians = [row["size_px"] for row in rows], [row["median_ms"] for row in rows]
                over = [row["p95_ms"] - row["median_ms"] for row in rows]
                axis.errorbar(sides, medians, yerr=[[0] * len(rows), over], label=form, capsize=3, elinewidth=1, linewidth=2, **style)
            fused = [row for row in report.rows if (row["variant"], row["form"]) == (variant, "fused")]
            # Sides grow by factors; so do their distances.
            axis.set_xscale("log")
            axis.set_xticks([row["size_px"] for row in fused], [f"{row['size_px']}\n{row['vs_train_form']:.2g} x" for row in fused])
            axis.set_xticks([], minor=True)
            axis.set_title(f"trunk of {variant}", loc="left")
            axis.set_ylim(bottom=0)
            axis.grid(color="#dddddd", linewidth=0.8)
            axis.set_xlabel("side of the picture, px\n(below: fused is so many times faster; whisker: 95th percentile)")
        for across in axes:
            across[0].set_ylabel("time of one picture, ms")
        cells[0].legend(frameon=False, loc="upper left")


def draw_layers(report: Report, path: Path) -> None:
    """Share of the time by kind of work and by stage, with the speed that each reaches.

    Raises:
        UserError: it cannot be written.
    """
    groups = [[row for row in report.rows if row["by"] == by] for by in ("kind", "stage")]
    with figure(path, 1, 2, 1.2 + 0.36 * max(map(len, groups))) as axes:
        for axis, rows, title in zip(axes[0], groups, ("by kind of work", "by stage"), strict=True):
            times_ms = [row["time_ms"] for row in rows]
            axis.barh(range(len(rows)), times_ms, color=[STRONG if row["gmacs"] else PALE for row in rows], height=0.7)
            for index, row in enumerate(rows):
                speed = f", {row['gflops']:.0f} GFLOP/s" if row["gflops"] else ""
                label(axis, row["time_ms"], index, f"{100 * row['share']:.0f} %{speed}")
            axis.set_yticks(range(len(rows)), [row["name"] for row in rows])
            axis.invert_yaxis()
            axis.set_xlim(0, 1.75 * max(times_ms))
            axis.set_xlabel("time of one picture, ms")
            axis.set_title(f"{report.settings['network']}, {report.settings['precision']}: {title}", loc="left")


def _draw_bars(axis: Any, ways: Sequence[str], rows: dict[str, dict[str, Any]]) -> None:
    for index, way in enumerate(ways):
        if way not in rows:
            continue
        median_ms, p95_ms = rows[way]["median_ms"], rows[way]["p95_ms"]
        color = PALE if way.startswith("torch") else MIDDLE if way.startswith("cuda") else STRONG
        axis.barh(index, median_ms, color=color, height=0.7)
        axis.plot([median_ms, p95_ms], [index, index], color=INK, linewidth=1.2, marker="|", markevery=[1], markersize=7)
        label(axis, p95_ms, index, _three_digits(median_ms))
    axis.set_xlim(0, 1.35 * max(row["p95_ms"] for row in rows.values()))
    axis.set_ylim(len(ways) - 0.4, -0.6)


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"
