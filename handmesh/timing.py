"""How long each stage of a loop takes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


class StageTimes:
    """Collects wall-clock seconds by stage name.

    Example:
        times = StageTimes()
        with times.stage("detect"):
            ...
        print(times.table())
    """

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the body of a `with`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name].append(time.perf_counter() - start)

    def table(self) -> list[tuple[str, int, float, float, float]]:
        """Rows of (stage, calls, median ms, 95th percentile ms, share of all stages' time in 0..1)."""
        total = sum(sum(values) for values in self.seconds.values()) or 1.0
        return [
            (name, len(values), 1e3 * float(np.median(values)), 1e3 * float(np.percentile(values, 95)), sum(values) / total)
            for name, values in self.seconds.items()
        ]
