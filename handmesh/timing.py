"""How long each stage of a loop takes."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

# Percentiles are of so many of the newest calls, so that a camera can run for days.
_REMEMBERED_CALLS = 10_000


@dataclass
class _Stage:
    calls: int = 0
    total_s: float = 0.0
    newest_s: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED_CALLS))


class StageTimes:
    """Collects wall-clock time by stage name.

    Example:
        times = StageTimes()
        with times.stage("detect"):
            ...
        print(times.table())
    """

    def __init__(self) -> None:
        self._stages: dict[str, _Stage] = defaultdict(_Stage)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the body of a `with`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        """Count one call of a stage."""
        stage = self._stages[name]
        stage.calls += 1
        stage.total_s += seconds
        stage.newest_s.append(seconds)

    @property
    def names(self) -> tuple[str, ...]:
        """The stages, in the order in which they were first met."""
        return tuple(self._stages)

    def include(self, other: StageTimes, *names: str) -> None:
        """Take over another's stages (all, or those named), in its order, after one's own."""
        self._stages.update({name: other._stages[name] for name in names or other.names if name in other._stages})

    def calls(self, name: str) -> int:
        """How often a stage ran; 0 for one that was never met."""
        return self._stages[name].calls if name in self._stages else 0

    def total_s(self, name: str) -> float:
        """Seconds spent in a stage, all calls together; 0 for one that was never met."""
        return self._stages[name].total_s if name in self._stages else 0.0

    def percentiles_ms(self, name: str, percents: Sequence[float]) -> tuple[float, ...]:
        """For each percent, the time that so many of a stage's newest calls do not exceed.

        Raises:
            KeyError: the stage was never met.
        """
        if name not in self._stages:
            raise KeyError(name)
        return tuple(1e3 * float(value) for value in np.percentile(list(self._stages[name].newest_s), percents))

    def clear(self) -> None:
        """Forget all stages."""
        self._stages.clear()

    def table(self) -> list[tuple[str, int, float, float, float]]:
        """Rows of (stage, calls, median ms, 95th percentile ms, share of all stages' time in 0..1)."""
        # Copies, made in one step each: other threads go on counting.
        stages = list(self._stages.items())
        total_s = sum(stage.total_s for _, stage in stages) or 1.0
        rows = []
        for name, stage in stages:
            median_ms, p95_ms = self.percentiles_ms(name, (50, 95))
            rows.append((name, stage.calls, median_ms, p95_ms, stage.total_s / total_s))
        return rows
