"""Methods side by side on the same hands: paired differences with bootstrap intervals (Efron and Tibshirani 1993)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from handmesh.errors import UserError, one_line
from handmesh.evaluation.scores import METRIC, METRICS, SCORES_FORMAT, why_missing

if TYPE_CHECKING:
    from rich.table import Table

DRAWS = 10_000
# Of a millimetre, a pixel, or a share.
_SAME = 1e-4
# Of draws that differ by chance alone, this share lies outside an interval.
_OUTSIDE = 0.05
# Draws times blocks of hands that are held at a time: some tens of megabytes.
_HELD = 1 << 20


@dataclass(frozen=True)
class Difference:
    """How much two methods differ on the same hands, in the metric's own unit (before `Metric.factor`).

    Attributes:
        metric: its name in `scores.METRICS`.
        first, second: their means over hands.
        difference: second - first.
        low, high: ends of its 95 % interval.
        share_better: share of hands for which the second is better; a tie counts half.
    """

    metric: str
    first: float
    second: float
    difference: float
    low: float
    high: float
    share_better: float

    @property
    def verdict(self) -> str:
        """ "better" or "worse" where the second is so beyond chance, "unclear" where the interval holds 0."""
        if self.low <= 0 <= self.high:
            return "unclear"
        return "better" if (self.difference < 0) == METRIC[self.metric].lower_is_better else "worse"


class Samples(NamedTuple):
    """What `scores.json` says of one method.

    Attributes:
        name: of the method.
        samples: (N,) of each metric, one value a hand.
        data: name of what it was measured on.
        extras: everything else in the file, without `samples`; `extras["data"]` holds the number of hands and the truth's checksum.
    """

    name: str
    samples: dict[str, np.ndarray]
    data: str
    extras: dict[str, Any]


def compare(
    first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray], draws: int = DRAWS, seed: int = 0, block: int = 1
) -> list[Difference]:
    """Paired bootstrap: hands are drawn with replacement, the same ones for both methods.

    Args:
        first, second: (N,) of each metric, one value a hand, in the same order.
        draws: how often N hands are drawn.
        seed: other seeds give other draws; the same one the same numbers.
        block: neighbours that are drawn together. Pictures that show one moment, or one person, are not independent, and single hands
            (1) then give intervals that are too narrow; take about as many as show one moment. The last block may be shorter.

    Returns:
        One for each metric of `scores.METRICS` that both have, in that order. The intervals are percentiles of the drawn differences.

    Raises:
        UserError: other numbers of hands, values that are not finite, or fewer than two blocks.
    """
    names = [metric.name for metric in METRICS if metric.name in first and metric.name in second]
    if not names:
        return []
    ours, theirs = (_columns(samples, names) for samples in (first, second))
    if ours.shape != theirs.shape:
        raise UserError(f"expected the same hands twice, got {len(ours)} and {len(theirs)}; score both methods on the same data")
    if len(ours) < 2:
        raise UserError(f"expected two hands or more to compare methods on, got {len(ours)}; score both on more")
    if not 1 <= block <= len(ours) / 2:
        raise UserError(f"expected blocks of 1 to {len(ours) // 2} hands (half of {len(ours)}), got {block}; give a smaller --block")
    apart = theirs - ours
    # What files round away is no difference.
    apart[np.abs(apart) < _SAME] = 0.0
    drawn = _drawn_means(apart, draws, seed, block)
    low, high = np.percentile(drawn, [50 * _OUTSIDE, 100 - 50 * _OUTSIDE], axis=0)
    signs = np.array([-1.0 if METRIC[name].lower_is_better else 1.0 for name in names])
    shares = (1 + np.sign(apart * signs)).mean(axis=0) / 2
    columns = (ours.mean(axis=0), theirs.mean(axis=0), apart.mean(axis=0), low, high, shares)
    return [Difference(name, *map(float, row)) for name, row in zip(names, np.stack(columns, axis=1), strict=True)]


def _columns(samples: Mapping[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
    """(N, M) f64."""
    lengths = {name: len(samples[name]) for name in names}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{length} of {name}" for name, length in lengths.items())
        raise UserError(f"expected one value a hand for every metric, got {said}; score the method again")
    values = np.stack([np.asarray(samples[name], np.float64) for name in names], axis=1)
    bad = ~np.isfinite(values)
    if bad.any():
        index, column = np.argwhere(bad)[0]
        raise UserError(
            f"expected finite values to compare, got {values[index, column]} for {names[column]} of hand {index}; score it again"
        )
    return values


def _drawn_means(values: np.ndarray, draws: int, seed: int, block: int) -> np.ndarray:
    """(draws, M) means of (N, M) over blocks of rows that are drawn with replacement."""
    starts = np.arange(0, len(values), block)
    sums, sizes = np.add.reduceat(values, starts), np.diff(starts, append=len(values)).astype(np.float64)
    count = len(starts)
    rng, means = np.random.default_rng(seed), []
    at_once = max(1, _HELD // count)
    for start in range(0, draws, at_once):
        some = min(at_once, draws - start)
        drawn = rng.integers(0, count, (some, count)) + count * np.arange(some)[:, None]
        times = np.bincount(drawn.ravel(), minlength=some * count).reshape(some, count).astype(np.float64)
        means.append((times @ sums) / (times @ sizes)[:, None])
    return np.concatenate(means)


def told_apart(methods: Sequence[Samples], paths: Sequence[Path]) -> list[Samples]:
    """Methods of one name get their file's folder put before it, or their number where that is the same too."""
    names = [method.name for method in methods]
    if len(set(names)) < len(names):
        names = [f"{path.resolve().parent.name}/{name}" for path, name in zip(paths, names, strict=True)]
    if len(set(names)) < len(names):
        names = [f"{number}: {name}" for number, name in enumerate(names, start=1)]
    return [method._replace(name=name) for method, name in zip(methods, names, strict=True)]


def read_samples(path: Path) -> Samples:
    """What `handmesh-eval` wrote about a method.

    Args:
        path: scores.json.

    Raises:
        UserError: no such file, one that ends early or holds something else, or values that are not one finite number a hand.
    """
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"expected scores.json of handmesh-eval in '{path}' ({error.strerror}); score a method first") from error
    except ValueError as error:
        raise UserError(
            f"expected scores.json of handmesh-eval in '{path}', but it is not whole JSON ({one_line(error)}); score the method again"
        ) from error
    found = entries.get("format") if isinstance(entries, dict) else None
    if found != SCORES_FORMAT:
        got = f"the form {found!r}" if found else "a list (a pred.json?)" if isinstance(entries, list) else "no form"
        raise UserError(
            f"expected scores.json of handmesh-eval ({SCORES_FORMAT}) in '{path}', got {got}; score the method with --pred first"
        )
    samples = entries.pop("samples", None)
    data = entries.get("data")
    if not isinstance(data, dict) or not {"name", "hands", "sha256"} <= set(data) or not isinstance(samples, dict):
        raise UserError(f"expected data and samples in '{path}', got {sorted(entries)}; score the method again")
    return Samples(
        str(entries.get("name", Path(path).stem)),
        {name: _one_a_hand(path, name, values, data["hands"]) for name, values in samples.items()},
        str(data["name"]),
        entries,
    )


def _one_a_hand(path: Path, name: str, values: Any, hands: int) -> np.ndarray:
    try:
        array = np.array(values, np.float64)
    except (ValueError, TypeError) as error:
        raise UserError(f"expected numbers for {name} in '{path}', got {one_line(error)}; score the method again") from error
    if array.shape != (hands,):
        raise UserError(f"expected {hands} values of {name} in '{path}', one a hand, got {array.shape}; score the method again")
    bad = np.flatnonzero(~np.isfinite(array))
    if len(bad):
        raise UserError(f"expected finite values of {name} in '{path}', got {array[bad[0]]} for hand {bad[0]}; score the method again")
    return array


def expect_same_data(methods: Sequence[Samples]) -> None:
    """All were measured on the same hands.

    Raises:
        UserError: they were not.
    """
    first = methods[0]
    for other in methods[1:]:
        # Not by name: folders are renamed.
        for key, what in (("hands", "number of hands"), ("sha256", "truth")):
            ours, theirs = first.extras["data"][key], other.extras["data"][key]
            if ours != theirs:
                shown = [str(value)[:12] for value in (ours, theirs)] if key == "sha256" else [f"'{value}'" for value in (ours, theirs)]
                raise UserError(
                    f"expected methods measured on the same {what}, got {shown[0]} for '{first.name}' and {shown[1]} for '{other.name}'; "
                    "score both on one of them"
                )


def compare_all(methods: Sequence[Samples], draws: int = DRAWS, seed: int = 0, block: int = 1) -> list[list[Difference]]:
    """`compare` of the first method with each of the others.

    Args:
        methods: two or more.

    Raises:
        UserError: fewer, other data, or what `compare` raises.
    """
    if len(methods) < 2:
        raise UserError(f"expected two methods or more to compare, got {len(methods)}; give another scores.json")
    expect_same_data(methods)
    return [compare(methods[0].samples, other.samples, draws, seed, block) for other in methods[1:]]


def comparison_table(methods: Sequence[Samples], draws: int = DRAWS, seed: int = 0, block: int = 1) -> Table:
    """Methods side by side: means, and each one's difference from the first with its 95 % interval.

    Args:
        methods: two or more.
        draws, seed, block: see `compare`.

    Raises:
        UserError: see `compare_all`.
    """
    from rich.markup import escape
    from rich.table import Table

    by_metric = [{each.metric: each for each in differences} for differences in compare_all(methods, draws, seed, block)]
    notes = []
    for other, differences in zip(methods[1:], by_metric, strict=True):
        if (theirs := other.extras.get("f_alignment")) != (ours := methods[0].extras.get("f_alignment")) and ours and theirs:
            for name in [name for name in differences if name.startswith("f_") and "aligned" in name]:
                del differences[name]
            notes.append(f"F of '{escape(other.name)}' is aligned by the {theirs}, not the {ours}: no difference is taken.")
    drawn = "hands" if block == 1 else f"blocks of {block} hands"
    table = Table(
        title=f"{escape(methods[0].data)}, {methods[0].extras['data']['hands']} hands",
        caption=(
            f"Difference from '{escape(methods[0].name)}' with its 95 % interval (paired bootstrap, {draws} draws of {drawn}); in brackets "
            "the share of hands that are better. Colours where the interval leaves out 0: green better, red worse. " + " ".join(notes)
        ),
    )
    table.add_column("")
    table.add_column(escape(methods[0].name), justify="right")
    for other in methods[1:]:
        table.add_column(escape(other.name), justify="right")
        table.add_column("difference", justify="right")
    for metric in METRICS:
        if not any(metric.name in method.samples for method in methods):
            continue
        row = [f"{metric.heading} {'↓' if metric.lower_is_better else '↑'}", _mean_text(methods[0], metric.name)]
        for other, differences in zip(methods[1:], by_metric, strict=True):
            row += [_mean_text(other, metric.name), _difference_text(differences.get(metric.name))]
        table.add_row(*row)
    return table


def _mean_text(method: Samples, name: str) -> str:
    values = method.samples.get(name)
    if values is None:
        return why_missing(name, method.extras.get("f_alignment"))
    return METRIC[name].shown(float(values.mean()))


def _difference_text(difference: Difference | None) -> str:
    if difference is None:
        return ""
    metric = METRIC[difference.metric]
    # One digit more than of the means, so that small differences show.
    difference_text, low, high = (
        f"{_unsigned_zero(metric.factor * value, metric.digits + 1):+.{metric.digits + 1}f}"
        for value in (difference.difference, difference.low, difference.high)
    )
    text = rf"{difference_text} \[{low}, {high}] ({100 * difference.share_better:.0f} %)"
    colour = {"better": "green", "worse": "red"}.get(difference.verdict)
    return f"[{colour}]{text}[/{colour}]" if colour else text


def _unsigned_zero(value: float, digits: int) -> float:
    """Not "-0.00"."""
    rounded = round(value, digits)
    return math.copysign(rounded, 1.0) if rounded == 0 else rounded
