"""Charts as SVG text for one HTML page. Colours and fonts are classes of `STYLE`, so that a chart follows light and dark.

Every drawing is about 440 units wide: it is meant to be shown 350 to 600 px wide, where its text stays readable.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

# Heat is one hue whose opacity says how much, so that every eye, and either scheme, sees the same order.
STYLE = """
:root{--page:#f4f6f8;--surface:#fff;--ink:#171b21;--muted:#59636f;--line:#dde2e8;--accent:#0a5fc2;--soft:#e8f0fa;
--heat:#b33f06;--heat-ink:#fff;--hand:#e9edf1;--other:#7c8794;--warn:#8a5200;--warn-page:#fff6e5}
@media (prefers-color-scheme:dark){:root{--page:#0e1115;--surface:#161a20;--ink:#e7eaee;--muted:#9aa5b2;--line:#2b323b;--accent:#62aeff;
--soft:#17263a;--heat:#ffb45c;--heat-ink:#14171b;--hand:#242b34;--other:#8792a0;--warn:#ffc46b;--warn-page:#2a2112}}
svg.chart{display:block;width:100%;max-width:560px;height:auto;margin:0 auto;
font:13px system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
.chart text{fill:var(--ink);font-variant-numeric:tabular-nums}.chart .dim{fill:var(--muted)}.chart .strong{font-weight:600}
.chart .small{font-size:11.5px}.chart .tiny{font-size:10px}
.chart .grid{stroke:var(--line);stroke-width:1;fill:none}.chart .axis{stroke:var(--muted);stroke-width:1;fill:none}
.chart .line{fill:none;stroke:var(--other);stroke-width:1.5;stroke-linejoin:round}
.chart .line.main{stroke:var(--accent);stroke-width:2.5}
.chart .bar{fill:var(--accent)}.chart .bar.other{fill:var(--other)}
.chart .mark{stroke:var(--ink);stroke-width:1.5;stroke-dasharray:4 3}
.chart .hand{fill:var(--hand);stroke:var(--line);stroke-width:1.5;stroke-linejoin:round}
.chart .bone{stroke:var(--other);stroke-width:1.2;opacity:.7}
.chart .base{fill:var(--surface)}.chart .heat{fill:var(--heat)}.chart .ring{fill:none;stroke:var(--heat);stroke-width:1.2}
.chart text.on-warm{fill:#14171b}.chart text.on-hot{fill:var(--heat-ink)}
"""

_Scale = Callable[[float], float]
_WIDTH = 440
# How lines of other methods differ from each other without colour.
_DASHES = ("6 3", "2 3", "9 3 2 3", "1 2", "12 4")
_NAME_LETTERS = 36
# Width of a letter, about.
_LETTER = 7.6


@dataclass(frozen=True)
class Line:
    """One curve: its name in the legend, what stands behind the name, and (K,) values."""

    name: str
    note: str
    values: np.ndarray


def round_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` multiples of 1, 2 or 5 times a power of ten that lie in low..high."""
    if not high > low:
        return [low]
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(step * power for step in (1, 2, 5, 10) if step * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(k * step, 10) for k in range(first, last + 1)]


def line_chart(x: np.ndarray, lines: Sequence[Line], title: str, x_label: str, y_label: str) -> str:
    """Curves of shares over (K,) x from 0; the first line is the one that matters.

    Args:
        lines: values in 0..1, shown in percent; one that is not finite breaks its line.
    """
    left, top, plot_w, plot_h = 46, 12, _WIDTH - 58, 206
    x_of, y_of = _scale(0.0, float(x[-1]), left, left + plot_w), _scale(0.0, 1.0, top + plot_h, top)
    parts = [*_x_axis(x_of, round_ticks(0, float(x[-1])), top, top + plot_h, x_label), *_y_label(y_label, top + plot_h / 2)]
    for tick in (0, 0.25, 0.5, 0.75, 1.0):
        y = y_of(tick)
        parts.append(f'<path class="grid" d="M{_n(left)} {_n(y)}H{_n(left + plot_w)}"/>')
        parts.append(_text(left - 6, y + 4, f"{100 * tick:g}", "dim", "end"))
    styles = [_line_style(number) for number in range(len(lines))]
    for line, style in reversed(list(zip(lines, styles, strict=True))):
        parts.append(f'<path {style} d="{_path(x, line.values, x_of, y_of)}"><title>{_safe(line.name)} {_safe(line.note)}</title></path>')
    y = top + plot_h + 58
    for line, style in zip(lines, styles, strict=True):
        parts += [
            f'<path {style} d="M{left} {_n(y - 4)}h26"/>',
            _text(left + 34, y, _short(line.name), "strong" if line is lines[0] else ""),
        ]
        parts.append(_text(left + plot_w, y, line.note, "dim", "end"))
        y += 18
    about = "; ".join(f"{line.name}: {line.note}" for line in lines)
    return _svg(y - 6, title, about, parts)


def histogram(values: np.ndarray, title: str, x_label: str, y_label: str, marks: Sequence[tuple[str, float]] = ()) -> str:
    """How often (N,) values from 0 occur. A long tail is counted beyond the last bar, and said so.

    Args:
        marks: values to point out, each with what it is.
    """
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    top, left, plot_w, plot_h = 16 + 18 * len(marks), 46, _WIDTH - 58, 206 - 18 * len(marks)
    typical = float(np.quantile(values, 0.99)) if len(values) else 0.0
    high = max(1.15 * typical, *(1.05 * value for _, value in marks), 1e-6)
    ticks = round_ticks(0, high, 30)
    step = ticks[1] - ticks[0]
    edges = np.arange(math.ceil(high / step - 1e-9) + 1) * step
    high = float(edges[-1])
    counts = np.histogram(values, edges)[0]
    beyond = int((values > high).sum())
    most = max(int(counts.max()), 1)
    x_of, y_of = _scale(0.0, high, left, left + plot_w), _scale(0.0, most, top + plot_h, top)
    parts = [*_x_axis(x_of, round_ticks(0, high), top, top + plot_h, x_label), *_y_label(y_label, top + plot_h / 2)]
    for tick in sorted({int(tick) for tick in round_ticks(0, most, 4)}):
        parts.append(f'<path class="grid" d="M{_n(left)} {_n(y_of(tick))}H{_n(left + plot_w)}"/>')
        parts.append(_text(left - 6, y_of(tick) + 4, str(tick), "dim", "end"))
    for count, start, end in zip(counts, edges[:-1], edges[1:], strict=True):
        if count:
            x0, x1, y = x_of(start) + 0.5, x_of(end) - 0.5, y_of(count)
            box = f'x="{_n(x0)}" y="{_n(y)}" width="{_n(x1 - x0)}" height="{_n(top + plot_h - y)}"'
            parts.append(f'<rect class="bar" {box}><title>{start:.4g} to {end:.4g}: {count}</title></rect>')
    # From the right: each name keeps clear of the line at its right, and each line ends below the names of those farther right.
    room = float(_WIDTH)
    for number, (name, value) in enumerate(sorted(marks, key=lambda mark: -mark[1])):
        x, y = x_of(value), 14 + 18 * number
        parts.append(f'<path class="mark" d="M{_n(x)} {_n(y - 10)}V{_n(top + plot_h)}"/>')
        is_before = x + 6 + _LETTER * len(name) > room
        parts.append(_text(x + (-6 if is_before else 6), y, name, "strong", "end" if is_before else "start"))
        room = x
    if beyond:
        parts.append(_text(left + plot_w, top + 14, f"{beyond} more beyond {high:.4g}", "dim", "end"))
    return _svg(top + plot_h + 46, title, "; ".join(name for name, _ in marks), parts)


def bar_chart(names: Sequence[str], lines: Sequence[Line], title: str, x_label: str, digits: int = 1) -> str:
    """Lying bars: for each name, one bar of each line, the first strong.

    Args:
        lines: (len(names),) values each, not negative.
    """
    left, top, plot_w = 62, 8, _WIDTH - 62 - 46
    thick = [14 if number == 0 else 9 for number in range(len(lines))]
    group_h = sum(thick) + 3 * len(lines) + 8
    high = max([float(np.nanmax(line.values)) for line in lines if np.isfinite(line.values).any()], default=1.0) or 1.0
    x_of = _scale(0.0, high, left, left + plot_w)
    bottom = top + group_h * len(names)
    parts = _x_axis(x_of, round_ticks(0, high), top, bottom, x_label)
    for row, name in enumerate(names):
        y = top + row * group_h + 4
        parts.append(_text(left - 8, y + 11.5, name, "", "end"))
        for number, line in enumerate(lines):
            value = float(line.values[row])
            if not math.isfinite(value):
                continue
            box = f'x="{_n(left)}" y="{_n(y)}" width="{_n(x_of(value) - left)}" height="{thick[number]}"'
            parts.append(
                f'<rect {_bar_style(number)} {box} rx="1.5"><title>{_safe(name)}, {_safe(line.name)}: {value:.{digits}f}</title></rect>'
            )
            text, kind = f"{value:.{digits}f}", "strong" if number == 0 else "tiny dim"
            parts.append(_text(x_of(value) + 5, y + thick[number] / 2 + (4.5 if number == 0 else 3.5), text, kind))
            y += thick[number] + 3
    y = bottom + 54
    for number, line in enumerate(lines):
        parts.append(f'<rect {_bar_style(number)} x="{left}" y="{_n(y - 9)}" width="26" height="9" rx="1.5"/>')
        parts.append(_text(left + 34, y, _short(line.name), "strong" if number == 0 else ""))
        y += 18
    about = "; ".join(f"{name} {value:.{digits}f}" for name, value in zip(names, lines[0].values, strict=True) if math.isfinite(value))
    return _svg(y - 6, title, about, parts)


def heat_map(rows: Sequence[str], columns: Sequence[str], values: np.ndarray, title: str, column_label: str, digits: int = 2) -> str:
    """A number in every cell, heat by its logarithm from 1 on.

    Args:
        values: (len(rows), len(columns)), 1 for no change; one that is not finite is "n/a".
    """
    left, top, cell_h = 122, 44, 30
    cell_w = (_WIDTH - left - 6) / len(columns)
    known = values[np.isfinite(values)]
    hottest = math.log(max(float(known.max()) if known.size else 1.0, 1.25))
    parts = [_text(left + cell_w * len(columns) / 2, 14, column_label, "dim", "middle")]
    parts += [_text(left + (number + 0.5) * cell_w, top - 10, name, "dim", "middle") for number, name in enumerate(columns)]
    for row, name in enumerate(rows):
        y = top + row * cell_h
        parts.append(_text(left - 8, y + cell_h / 2 + 4, _short(name, 16), "", "end"))
        for column, of_column in enumerate(columns):
            x, value = left + column * cell_w, float(values[row, column])
            box = f'x="{_n(x + 1)}" y="{_n(y + 1)}" width="{_n(cell_w - 2)}" height="{cell_h - 2}" rx="3"'
            if not math.isfinite(value):
                parts.append(_text(x + cell_w / 2, y + cell_h / 2 + 4, "n/a", "dim", "middle"))
                continue
            heat = min(max(math.log(max(value, 1e-9)) / hottest, 0.0), 1.0)
            label = f"{_safe(name)}, {_safe(of_column)}: {value:.{digits}f}"
            parts.append(f'<rect class="heat" {box} fill-opacity="{0.06 + 0.94 * heat:.3f}"><title>{label}</title></rect>')
            parts.append(_text(x + cell_w / 2, y + cell_h / 2 + 4, f"{value:.{digits}f}", _on_heat(heat), "middle"))
    return _svg(top + cell_h * len(rows) + 6, title, "", parts)


def hand_diagram(
    outline: Sequence[np.ndarray],
    points: np.ndarray,
    bones: Sequence[tuple[int, int]],
    names: Sequence[str],
    values: np.ndarray,
    title: str,
) -> str:
    """A hand with a value at each of its joints: the disc grows and heats with it.

    Args:
        outline: polygons (P, 2), x right, y down, in any unit.
        points: (J, 2) joints in the same.
        bones: pairs of joints.
        names: J of them.
        values: (J,) not negative; one that is not finite is "n/a".
    """
    every = np.concatenate([*outline, points])
    low, size = every.min(axis=0), np.ptp(every, axis=0)
    height = 480
    scale = min((_WIDTH - 40) / size[0], (height - 40) / size[1])
    shift = (np.array([_WIDTH, height]) - scale * size) / 2 - scale * low
    parts = []
    for polygon in outline:
        corners = "L".join(f"{_n(x)} {_n(y)}" for x, y in polygon * scale + shift)
        parts.append(f'<path class="hand" d="M{corners}Z"/>')
    at = points * scale + shift
    for child, parent in bones:
        ends = [f'{name}{end}="{_n(at[joint][axis])}"' for end, joint in ((1, child), (2, parent)) for axis, name in enumerate("xy")]
        parts.append(f'<line class="bone" {" ".join(ends)}/>')
    hottest = float(np.nanmax(values)) if np.isfinite(values).any() else 1.0
    for (x, y), name, value in zip(at, names, values, strict=True):
        known = math.isfinite(value)
        heat = float(value) / hottest if known and hottest > 0 else 0.0
        radius, text = 11.5 + 4.5 * math.sqrt(heat), (f"{value:.1f}" if value < 99.95 else f"{value:.0f}") if known else "n/a"
        circle = f'cx="{_n(x)}" cy="{_n(y)}" r="{_n(radius)}"'
        opacity = f'fill-opacity="{0.06 + 0.94 * heat:.3f}"'
        label = f"{_safe(name)}: {text}"
        parts.append(f'<circle class="base" {circle}/><circle class="heat" {circle} {opacity}><title>{label}</title></circle>')
        parts.append(f'<circle class="ring" {circle}/>{_text(x, y + 4, text, f"small {_on_heat(heat)}".strip(), "middle")}')
    about = "; ".join(f"{name} {value:.1f}" for name, value in zip(names, values, strict=True) if math.isfinite(value))
    return _svg(height, title, about, parts)


def _svg(height: float, title: str, about: str, parts: Sequence[str]) -> str:
    box = f'viewBox="0 0 {_WIDTH} {_n(height)}"'
    described = f"<desc>{_safe(about)}</desc>" if about else ""
    named = f"<title>{_safe(title)}</title>{described}"
    return f'<svg class="chart" {box} role="img" aria-label="{_safe(title)}">{named}{"".join(parts)}</svg>'


def _n(value: float) -> str:
    """A coordinate.

    Raises:
        ValueError: it is not finite, which no picture can show.
    """
    if not math.isfinite(value):
        raise ValueError(f"expected a finite coordinate, got {value}")
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text x="{_n(x)}" y="{_n(y)}"{named} text-anchor="{anchor}">{_safe(text)}</text>'


def _safe(text: str) -> str:
    """Text for XML: without its control characters, which even escaped are no XML."""
    return escape("".join(letter if letter.isprintable() else " " for letter in text))


def _short(text: str, letters: int = _NAME_LETTERS) -> str:
    return text if len(text) <= letters else f"{text[: letters - 1]}…"


def _scale(low: float, high: float, start: float, end: float) -> _Scale:
    """The straight map of low..high to start..end."""
    return lambda value: start + (float(value) - low) / (high - low) * (end - start)


def _path(x: np.ndarray, values: np.ndarray, x_of: _Scale, y_of: _Scale) -> str:
    """Straight lines through the points whose value is finite."""
    text, is_down = [], False
    for at, value in zip(x, values, strict=True):
        if not math.isfinite(value):
            is_down = False
            continue
        text.append(f"{'L' if is_down else 'M'}{_n(x_of(at))} {_n(y_of(value))}")
        is_down = True
    return "".join(text)


def _line_style(number: int) -> str:
    return 'class="line main"' if number == 0 else f'class="line" stroke-dasharray="{_DASHES[(number - 1) % len(_DASHES)]}"'


def _bar_style(number: int) -> str:
    return 'class="bar"' if number == 0 else f'class="bar other" fill-opacity="{max(0.8 - 0.2 * (number - 1), 0.4):.2f}"'


def _x_axis(x_of: _Scale, ticks: Sequence[float], top: float, bottom: float, label: str) -> list[str]:
    parts = []
    for tick in ticks:
        parts.append(f'<path class="grid" d="M{_n(x_of(tick))} {_n(top)}V{_n(bottom)}"/>')
        parts.append(_text(x_of(tick), bottom + 16, f"{tick:g}", "dim", "middle"))
    first, last = x_of(ticks[0]), x_of(ticks[-1])
    parts.append(f'<path class="axis" d="M{_n(first)} {_n(bottom)}H{_n(last)}"/>')
    parts.append(_text((first + last) / 2, bottom + 34, label, "dim", "middle"))
    return parts


def _y_label(label: str, middle: float) -> list[str]:
    return [f'<text class="dim" transform="translate(12 {_n(middle)}) rotate(-90)" text-anchor="middle">{_safe(label)}</text>']


def _on_heat(heat: float) -> str:
    """The class of text on a heat, so that it contrasts in both schemes."""
    return "on-hot" if heat > 0.78 else "on-warm" if heat > 0.56 else ""
