"""How long each stage of a loop takes."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Iterator
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
        self._stages.update({name: other._stages[name] for name in names or other.names})

    def table(self) -> list[tuple[str, int, float, float, float]]:
        """Rows of (stage, calls, median ms, 95th percentile ms, share of all stages' time in 0..1)."""
        total_s = sum(stage.total_s for stage in self._stages.values()) or 1.0
        rows = []
        for name, stage in self._stages.items():
            median_s, p95_s = np.percentile(stage.newest_s, (50, 95))
            rows.append((name, stage.calls, 1e3 * float(median_s), 1e3 * float(p95_s), stage.total_s / total_s))
        return rows
