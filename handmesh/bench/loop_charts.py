"""Plots of what `handmesh-bench loop`, `folder` and `startup` measured, as PNG."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from handmesh.bench.records import Report
from handmesh.errors import UserError
from handmesh.wholefile import replacing

# One hue, told apart by lightness: also readable without colours.
_STRONG, _MIDDLE, _PALE, _INK = "#0b3c6f", "#4f86bd", "#b9cfe4", "#222222"
_WIDTH_IN, _DPI = 10.0, 100
_BAR_IN = 0.32


def draw_loop(report: Report, path: Path) -> None:
    """One panel for each contender: its stages and latencies, a bar to the median and a whisker to the 95th percentile.

    Raises:
        UserError: it cannot be written.
    """
    panels = []
    for row in report.rows:
        if row["by"] == "loop":
            against = [
                f"{row[key]:.2f} x {name}"
                for key, name in (("vs_mediapipe", "mediapipe"), ("vs_detector_every_frame", "detector-every-frame"))
                if row[key] is not None
            ]
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
    with _figure(path, [len(rows) for _, rows in panels]) as axes:
        for axis, (title, rows) in zip(axes, panels, strict=True):
            start_ms = 0.0
            for index, row in enumerate(rows):
                axis.barh(index, row["median_ms"], left=start_ms, color=_STRONG if row["median_ms"] >= 50 else _MIDDLE, height=0.7)
                start_ms += row["median_ms"]
                _label(axis, start_ms, index, f"{row['median_ms']:.0f}")
            axis.set_title(f"{title}: {start_ms / 1e3:.2f} s", loc="left")
            _name_bars(axis, [row["name"] for row in rows])
        for x, text in ((mesh["median_ms"], "first mesh"), (mesh["bar_ms"], "at most")):
            axes[0].axvline(x, color=_INK, linewidth=1, linestyle="-" if text == "first mesh" else ":")
            axes[0].annotate(f"{text} {x:.0f}", (x, -0.5), (-4, 0), textcoords="offset points", ha="right", va="top", color=_INK)
        longest = max(axis.get_xlim()[1] for axis in axes)
        for axis in axes:
            axis.set_xlim(0, 1.08 * longest)
        axes[-1].set_xlabel("ms after the start of the process (medians of the parts)")


def _draw_stages(panels: Sequence[tuple[str, Sequence[dict[str, Any]]]], path: Path) -> None:
    longest_ms = max(row["p95_ms"] for _, rows in panels for row in rows)
    with _figure(path, [len(rows) for _, rows in panels]) as axes:
        for axis, (title, rows) in zip(axes, panels, strict=True):
            for index, row in enumerate(rows):
                axis.barh(index, row["p50_ms"], color=_STRONG if row["by"] == "stage" else _PALE, height=0.7)
                ends_ms = [row["p50_ms"], row["p95_ms"]]
                axis.plot(ends_ms, [index, index], color=_INK, linewidth=1.2, marker="|", markevery=[1], markersize=7)
                share = "" if row["share"] is None else f", {100 * row['share']:.0f} % of the time"
                calls = f", {row['calls']} calls" if row["by"] == "stage" else ""
                text = f"{row['p50_ms']:.1f} ms{calls}{share}"
                _label(axis, row["p95_ms"], index, text)
            axis.set_title(title, loc="left")
            axis.set_xlim(0, 1.5 * longest_ms)
            _name_bars(axis, [f"latency to {row['name']}" if row["by"] == "latency" else row["name"] for row in rows])
        axes[-1].set_xlabel("ms a call (whisker: 95th percentile)")


def _label(axis: Any, x: float, y: float, text: str) -> None:
    white = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    axis.annotate(text, (x, y), (6, 0), textcoords="offset points", va="center", color=_INK, bbox=white)


def _name_bars(axis: Any, names: Sequence[str]) -> None:
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -0.6)


@contextmanager
def _figure(path: Path, bars: Sequence[int]) -> Iterator[list[Any]]:
    """Panels below each other with room for so many bars each; written when the body ends. No window system is asked for."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style: Any = {"font.size": 11, "axes.titlesize": 12, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True}
    with rc_context(style):
        height_in = 0.5 + sum(0.6 + _BAR_IN * count for count in bars)
        figure = Figure(figsize=(_WIDTH_IN, height_in), dpi=_DPI, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(bars), 1, squeeze=False, height_ratios=[1 + count for count in bars])
        yield [across[0] for across in axes]
        try:
            with replacing(path) as temporary:
                figure.savefig(temporary)
        except OSError as error:
            raise UserError(f"expected to write '{path}', but that failed ({error.strerror}); choose another --out") from error
