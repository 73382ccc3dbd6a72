"""How long a fresh process takes until there is a mesh, and where that time goes; everything is seen from outside."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import handmesh
from handmesh.errors import UserError

FIRST_MESH_BAR_MS = 2500.0
PEAK_BAR_MB = 900.0
# The loop's stages until there is a mesh, and after.
_TO_MESH = ("read", "detect", "find", "crop", "network", "mesh")
_AFTER_MESH = ("overlay", "write")

# What `handmesh-demo` has to do, one thing after the other: name -> code, in one process. `asked` holds the settings.
STEPS = {
    "flags": "from handmesh.config import parse_flags\n"
    "from handmesh.live.command import DemoCommand\n"
    "parse_flags(DemoCommand, [], 'handmesh-demo')",
    "import estimator": "from handmesh.estimator import HandMeshEstimator",
    "import runtime": "__import__(asked['runtime'])",
    "hand model": "estimator = HandMeshEstimator(\n"
    "    asked['model'], asked['hand_model'], runtime=asked['runtime'], precision=asked['precision'], max_hands=asked['max_hands'],\n"
    "    landmarks=asked['landmarks'], answer=asked['answer'], head=asked['head'])",
    "network, detector": "estimator.prepare()",
    "read picture": "from handmesh.live.sources import read_picture\nimage = read_picture(asked['input'])",
    "first hands": "hands = estimator(image)",
    "load overlay": "from handmesh.render.overlay import draw_overlay, prepare_overlay\nprepare_overlay()",
    "first overlay": "from handmesh.geometry.camera import ASSUMED_FOV_DEG, camera_from_fov\n"
    "draw_overlay(image, hands, estimator.hand_model, camera_from_fov(image.shape[1], image.shape[0], ASSUMED_FOV_DEG))",
    "close": "estimator.close()",
}
_RUN_STEPS = """
import json, sys, time
room = {"asked": json.loads(sys.argv[1])}
times_ms = []
for code in json.loads(sys.argv[2]):
    start = time.perf_counter()
    exec(code, room)
    times_ms.append(1e3 * (time.perf_counter() - start))
print()
print(json.dumps(times_ms))
"""


@dataclass(frozen=True)
class Start:
    """One fresh process from its start to its end.

    Attributes:
        written_ms: until the file that was waited for had its content; None without one.
        ended_ms: until the process had ended.
        peak_mb: most resident memory; None where the system does not tell.
        output: what it wrote to stdout.
    """

    written_ms: float | None
    ended_ms: float
    peak_mb: float | None
    output: str


def watch_process(command: Sequence[str], written: Path | None = None) -> Start:
    """Run a command in a fresh process and watch it from outside.

    The clock starts just before the process is asked for. `written` counts from the moment in which its content was complete, by its
    time of modification (some systems round that down by up to 10 ms); it must not exist before. Nobody looks while the process runs,
    so looking costs nothing.

    Raises:
        UserError: the command fails, or did not write the file.
    """
    folder = str(Path(handmesh.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH"))))}
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as complaints:
        start_ns, start = time.time_ns(), time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=complaints, env=environment)
        peak_mb = _wait(process)
        ended_ms = 1e3 * (time.perf_counter() - start)
        texts = []
        for file in (out, complaints):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    if process.returncode:
        last = (texts[1].strip().splitlines() or ["it says nothing"])[-1]
        raise UserError(f"expected to time a fresh process, but it failed with exit code {process.returncode}: {last}")
    if written is None:
        return Start(None, ended_ms, peak_mb, texts[0])
    if not written.is_file():
        raise UserError(f"expected a fresh process to write {written.name}, but it did not; run handmesh-demo on this picture by hand")
    return Start(1e-6 * (written.stat().st_mtime_ns - start_ns), ended_ms, peak_mb, texts[0])


def python_command(code: str, *arguments: str) -> list[str]:
    """A fresh Python that runs this code as an installed script would be run: the current folder holds no modules."""
    return [sys.executable, "-P", "-c", code, *arguments]


def parse_profile(text: str) -> dict[str, float]:
    """Stage -> ms, calls x median, of the table that `handmesh-demo --profile` prints: exact for one or two calls."""
    found = re.findall(r"^(\w+) +(\d+) +([\d.]+) +[\d.]+ +[\d.]+ %$", text, flags=re.MULTILINE)
    return {name: int(calls) * float(median_ms) for name, calls, median_ms in found}


def split_start(start: Start, python_ms: float) -> tuple[dict[str, float], dict[str, float]]:
    """What happened when in one run of `handmesh-demo --profile` on a picture.

    The moments of the picture's stages are counted back from the file: what each thread hands to the next costs well below a millisecond.

    Args:
        start: of a run that wrote the overlay.
        python_ms: a Python that does nothing.

    Returns:
        Moments since the start ("first mesh", "overlay drawn", "overlay written", "process ended") and parts that add up to the last.

    Raises:
        UserError: no hand was seen.
    """
    stages = parse_profile(start.output)
    if not {"network", "mesh", "overlay"} <= set(stages):
        raise UserError("expected a picture with a hand for --input, but none was seen in it; give another picture")
    assert start.written_ms is not None
    drawn_ms = start.written_ms - stages["write"]
    mesh_ms = drawn_ms - stages["overlay"]
    ready_ms = mesh_ms - sum(stages.get(name, 0.0) for name in _TO_MESH)
    moments = {"first mesh": mesh_ms, "overlay drawn": drawn_ms, "overlay written": start.written_ms, "process ended": start.ended_ms}
    parts = {
        "python": python_ms,
        "imports, loading": ready_ms - python_ms,
        **{name: stages[name] for name in (*_TO_MESH, *_AFTER_MESH) if name in stages},
        "exit": start.ended_ms - start.written_ms,
    }
    return moments, parts


def time_steps(asked: Mapping[str, Any]) -> dict[str, float]:
    """ms of each of `STEPS` in a fresh process, one after the other and nothing at the same time.

    Args:
        asked: input, model, hand_model, runtime, precision, max_hands, landmarks, answer, head.

    Raises:
        UserError: a step fails.
    """
    start = watch_process(python_command(_RUN_STEPS, json.dumps(asked), json.dumps(list(STEPS.values()))))
    return dict(zip(STEPS, json.loads(start.output.strip().splitlines()[-1]), strict=True))


def startup_rows(
    moments: Sequence[Mapping[str, float]],
    parts: Sequence[Mapping[str, float]],
    steps: Sequence[Mapping[str, float]],
    peaks_mb: Sequence[float],
) -> list[dict[str, Any]]:
    """Median and 95th percentile over runs of all that was measured; `by` is "moment", "part", "step" or "memory"."""
    bars_ms = {"first mesh": FIRST_MESH_BAR_MS}
    keys = ("by", "name", "median_ms", "p95_ms", "bar_ms", "median_mb", "worst_mb", "bar_mb", "runs")
    rows = []
    for by, runs in (("moment", moments), ("part", parts), ("step", steps)):
        for name in dict.fromkeys(name for run in runs for name in run):
            values = [run[name] for run in runs if name in run]
            row = {"by": by, "name": name, "median_ms": float(np.median(values)), "p95_ms": float(np.percentile(values, 95))}
            rows.append({**dict.fromkeys(keys), **row, "bar_ms": bars_ms.get(name) if by == "moment" else None, "runs": len(values)})
    if peaks_mb:
        row = {"by": "memory", "name": "peak", "median_mb": float(np.median(peaks_mb)), "worst_mb": max(peaks_mb), "bar_mb": PEAK_BAR_MB}
        rows.append({**dict.fromkeys(keys), **row, "runs": len(peaks_mb)})
    return rows


def _wait(process: subprocess.Popen[bytes]) -> float | None:
    """Wait for a process's end; its peak memory in MB where it can be known."""
    if not hasattr(os, "wait4"):
        process.wait()
        return None
    import resource

    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Between its birth and its first instruction a process counts as large as its parent.
    if usage.ru_maxrss <= own:
        return None
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
