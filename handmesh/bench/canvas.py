"""What all plots of benchmarks share: colours, a page of panels, labels beside bars."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from handmesh.bench.records import Report, write_report
from handmesh.errors import UserError
from handmesh.wholefile import replacing

# One hue, told apart by lightness: also readable without colours.
STRONG, MIDDLE, PALE, INK = "#0b3c6f", "#4f86bd", "#b9cfe4", "#222222"
_WIDTH_IN, _DPI = 10.0, 100
NO_MATPLOTLIB = 'no plot: matplotlib is not installed; run: pip install "handmesh[train]"'


def write(report: Report, out: Path, draw: Callable[[Report, Path], None]) -> Path:
    """The JSON and, where it can be drawn, the plot.

    Raises:
        UserError: one of them cannot be written.
    """
    can_draw = find_spec("matplotlib") is not None
    if not can_draw:
        report.notes.append(NO_MATPLOTLIB)
    written = write_report(report, out)
    if can_draw:
        draw(report, out / f"{report.what}.png")
    return written


def label(axis: Any, x: float, y: float, text: str) -> None:
    """Text right of a point."""
    white = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    axis.annotate(text, (x, y), (6, 0), textcoords="offset points", va="center", color=INK, bbox=white)


@contextmanager
def figure(
    path: Path, lines: int, columns: int, height_in: float, share_y: bool = False, height_ratios: Sequence[float] | None = None
) -> Iterator[list[list[Any]]]:
    """Axes to draw on, in lines; written when the body ends. No window system is asked for.

    Raises:
        UserError: it cannot be written.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style: Any = {"font.size": 11, "axes.titlesize": 12, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True}
    with rc_context(style):
        page = Figure(figsize=(_WIDTH_IN, height_in), dpi=_DPI, layout="constrained")
        FigureCanvasAgg(page)
        axes = page.subplots(lines, columns, squeeze=False, sharey="row" if share_y else False, height_ratios=height_ratios)
        yield [list(across) for across in axes]
        try:
            with replacing(path) as temporary:
                page.savefig(temporary)
        except OSError as error:
            raise UserError(f"expected to write '{path}', but that failed ({error.strerror}); choose another --out") from error
