"""`handmesh-bench soak`: does the demo grow, or leave something over, in a long run? Imports nothing slow, so that --help is quick."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handmesh.bench import canvas
from handmesh.bench.records import Report, check_counts, print_report
from handmesh.config import config_to_dict
from handmesh.errors import UserError
from handmesh.hand_model.assets import ASSETS

if TYPE_CHECKING:
    from handmesh.bench.soak import Soak

Row = dict[str, Any]

DEMO_CLIP = ASSETS / "demo_clip.mp4"
MOST_GROWTH_MB = 20.0
_COLUMNS = {
    "name": "run",
    "frames": "frames",
    "frames_s": "frames/s",
    "rss_settled_mb": "MB settled",
    "rss_most_mb": "MB at most",
    "rss_end_mb": "MB at the end",
    "growth_mb": "growth MB",
    "slope_mb": "MB/10,000 frames",
    "threads_settled": "threads",
    "more_threads": "more",
    "handles_settled": "handles",
    "more_handles": "more",
    "verdict": "verdict",
}


@dataclass(frozen=True)
class SoakCommand:
    """Run the loop of handmesh-demo on a video that starts over and over, and watch memory, threads and open files; then unplug a camera.

    The loop draws overlays and writes json lines; no window. Linux only.
    """

    input: str | None = None
    """Video file; without it, the clip that comes with the package."""
    frames: int = 20_000
    """Frames of the looped video."""
    unplugs: int = 50
    """How often a camera is unplugged and comes back in the second run, which shows the same video; 0 leaves it out."""
    max_hands: int = 2
    """Most hands to look for."""
    model: Path | None = None
    """Network from handmesh-export; without it, the one that comes with the package."""
    hand_model: str = "open"
    """Hand model that the network was trained with: "open", "mano", or the path of an npz."""
    out: Path = Path("bench_out")
    """Folder of soak.json and soak.png."""

    def __post_init__(self) -> None:
        check_counts(self, "frames", "max_hands")
        if self.unplugs < 0:
            raise UserError(f"expected --unplugs of at least 0, got {self.unplugs}")


def run_soak(command: SoakCommand) -> Report:
    """Run, print a table, write soak.json and soak.png. What is beyond a bar is marked and said; it is no error.

    Raises:
        UserError: bad input, or a system that does not tell what a process holds.
    """
    from handmesh.bench.soak import FAILED_OPENINGS, FRAMES_A_PLUG, SETTLED_FRAMES, soak, unplugged
    from handmesh.estimator import HandMeshEstimator
    from handmesh.live.command import network_threads
    from handmesh.live.loop import Artist
    from handmesh.live.sources import open_source
    from handmesh.render.overlay import draw_mask, draw_overlay, prepare_overlay

    where = command.input or str(DEMO_CLIP)
    source = open_source(where, None, loops=True)
    prepare_overlay()
    artist = Artist(partial(draw_overlay, in_place=True), draw_mask)
    settled = min(SETTLED_FRAMES, command.frames // 4)
    runs: dict[str, Soak] = {}
    kept = {"model": command.model, "hand_model": command.hand_model}
    options: dict[str, Any] = {**kept, "max_hands": command.max_hands, "threads": network_threads(is_stream=True)}
    with HandMeshEstimator(**options) as estimator:
        estimator.prepare(is_video=True)
        runs["looped video"] = soak(source, estimator, artist, command.frames, settled)
    if command.unplugs:
        with HandMeshEstimator(**options, is_live=True) as estimator:
            estimator.prepare(is_video=True)
            frames = command.unplugs * FRAMES_A_PLUG
            # The last plug is not pulled: as many frames follow as before each.
            source = unplugged(where, command.unplugs)
            runs["unplugged camera"] = soak(source, estimator, artist, frames + FRAMES_A_PLUG, frames // 10)
    rows = [soak_row(name, run) for name, run in runs.items()]
    notes = [
        f"Counted from frame {settled:,} of the video on; the bar is {MOST_GROWTH_MB:g} MB, and not one thread or handle more.",
        *_unplug_notes(runs, command.unplugs, FAILED_OPENINGS),
        *(f"{row['name']}: {row['verdict']}." for row in rows),
    ]
    report = Report("soak", {**config_to_dict(command), "input": command.input or "demo clip"}, rows, notes)
    written = canvas.write(report, command.out, draw_soak)
    print_report(replace(report, notes=[]), _COLUMNS, "A long run")
    print(*report.notes, f"written: {written}", sep="\n")
    return report


def soak_row(name: str, run: Soak) -> Row:
    """What a run held when it had settled, at its end, before and after it.

    `samples` are lists of frames, seconds, MB, threads, handles.
    """
    first, last = run.settled[0], run.settled[-1]
    return {
        "name": name,
        "frames": run.after.frames,
        "frames_s": run.after.frames / run.duration_s,
        "settled_frames": first.frames,
        "rss_settled_mb": first.rss_mb,
        "rss_most_mb": first.rss_mb + run.growth_mb,
        "rss_end_mb": last.rss_mb,
        "growth_mb": run.growth_mb,
        "slope_mb": run.slope_mb,
        "threads_before": run.before.threads,
        "threads_settled": first.threads,
        "threads_end": last.threads,
        "threads_after": run.after.threads,
        "more_threads": run.more_threads,
        "handles_before": run.before.handles,
        "handles_settled": first.handles,
        "handles_end": last.handles,
        "handles_after": run.after.handles,
        "more_handles": run.more_handles,
        "verdict": verdict(run),
        "samples": [
            [sample.frames, round(sample.at_s, 3), round(sample.rss_mb, 2), sample.threads, sample.handles] for sample in run.samples
        ],
    }


def verdict(run: Soak) -> str:
    """ "holds", or what is beyond its bar."""
    beyond = []
    if run.growth_mb >= MOST_GROWTH_MB:
        beyond.append(f"grew by {run.growth_mb:.1f} MB, at most {MOST_GROWTH_MB:g}")
    if run.more_threads > 0:
        beyond.append(f"{run.more_threads} threads more")
    if run.more_handles > 0:
        beyond.append(f"{run.more_handles} handles more")
    return "BEYOND: " + ", ".join(beyond) if beyond else "holds"


def draw_soak(report: Report, path: Path) -> None:
    """Memory, threads and handles over the frames, a column of panels for each run.

    Raises:
        UserError: it cannot be written.
    """
    panels = (("memory, MB", 2), ("threads", 3), ("open files", 4))
    with canvas.figure(path, len(panels), len(report.rows), 7.5, height_ratios=[2, 1, 1]) as lines:
        for column, row in enumerate(report.rows):
            frames = [sample[0] for sample in row["samples"]]
            for line, (heading, key) in zip(lines, panels, strict=True):
                axis = line[column]
                values = [sample[key] for sample in row["samples"]]
                axis.plot(frames, values, color=canvas.STRONG, linewidth=1.5)
                axis.axvline(row["settled_frames"], color=canvas.INK, linewidth=1, linestyle=":")
                axis.set_ylim(0, 1.25 * max(values))
                axis.locator_params(axis="x", nbins=5)
                axis.grid(color="#dddddd", linewidth=0.8)
                if column == 0:
                    axis.set_ylabel(heading)
            memory = lines[0][column]
            memory.axhline(row["rss_settled_mb"] + MOST_GROWTH_MB, color=canvas.MIDDLE, linewidth=1, linestyle="--")
            memory.set_title(f"{row['name']}: {row['growth_mb']:+.1f} MB, {row['frames_s']:.0f} frames/s", loc="left")
            lines[-1][column].set_xlabel("frames (dotted: from here it counts; dashed: the bar)")


def _unplug_notes(runs: dict[str, Soak], unplugs: int, failed_openings: int) -> list[str]:
    run = runs.get("unplugged camera")
    if run is None:
        return []
    gone, back = (sum(line.endswith(words) for line in run.messages) for words in ("Ctrl-C ends", "is back"))
    return [
        f"The camera was unplugged {unplugs} times and not found at the first {failed_openings} attempts each time: "
        f"it was said to be away {gone} times and back {back} times."
    ]
