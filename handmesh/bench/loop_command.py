"""`handmesh-bench loop`, `folder` and `startup`: the whole program. Imports nothing slow, so that --help is quick."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from handmesh.bench import canvas, loop_charts
from handmesh.bench.records import Report, check_counts, flag_of, print_report
from handmesh.config import config_to_dict
from handmesh.errors import UserError
from handmesh.hand_model.assets import ASSETS
from handmesh.head import Answer, LandmarkChoice
from handmesh.runtime import Precision, Runtime

if TYPE_CHECKING:
    from handmesh.bench.loop import Contender
    from handmesh.estimator import HandMeshEstimator
    from handmesh.live.loop import Artist
    from handmesh.live.sources import Source

Row = dict[str, Any]

DEMO_CLIP = ASSETS / "demo_clip.mp4"
# Pictures that stand for a folder of the user's, and frames of the clip between them.
_CLIP_PICTURES, _CLIP_STEP = 60, 3
# No stage of ours takes this long for one frame.
_STANDSTILL_MS = 2000.0
_BY_STAGE = {"name": "stage", "calls": "calls", "p50_ms": "p50 ms", "p95_ms": "p95 ms", "p99_ms": "p99 ms", "share": "of the time"}


@dataclass(frozen=True)
class _NetworkFlags:
    model: Path | None = None
    """Network from handmesh-export; without it, the one that comes with the package."""
    hand_model: str = "open"
    """Hand model that the network was trained with: "open", "mano", or the path of an npz."""
    runtime: Runtime = "openvino"
    """What runs the network."""
    precision: Precision | None = None
    """Arithmetic of the networks; by default what the hand network's file says."""
    landmarks: LandmarkChoice | None = None
    """Landmark network, as for handmesh-demo: full, lite or off."""
    answer: Answer = "head"
    """Whose answer, as for handmesh-demo."""
    head: Path | None = None
    """Head from handmesh-train configs/head.yaml; without it, the one that comes with the package."""


@dataclass(frozen=True)
class LoopCommand(_NetworkFlags):
    """Time the whole loop of handmesh-demo on a video: overlay on, nothing encoded, no window."""

    input: str | None = None
    """Video file; without it, the clip that comes with the package."""
    frames: int | None = None
    """Use only so many frames at its start."""
    beside_mirror: tyro.conf.FlagCreatePairsOff[bool] = False
    """Put each frame's mirror image on its right, so that a video of one hand shows two."""
    paced: tyro.conf.FlagCreatePairsOff[bool] = False
    """Hand frames over at the video's own rate, as a camera does, and skip those that find the loop busy: for latency."""
    max_hands: tuple[int, ...] = (1,)
    """Most hands to look for. Several, like "1 2", run in turn and are compared."""
    against: tuple[Literal["mediapipe", "detector-every-frame", "as-seen"], ...] = ()
    """What has its turns in the same run: MediaPipe's own package alone, read ahead by a thread as ours and with nothing drawn; the loop
    with the detector and four looks in every frame, as images have them; or the loop that shows each frame's hands as seen, neither
    smoothed nor with a held shape. Each gives a ratio of frames/s, the first two the distance of our keypoints to MediaPipe's landmarks."""
    threads: int = 0
    """Of the network; 0 takes as many as handmesh-demo does for streams."""
    rounds: int = 3
    """Turns that each has; every turn is the whole video."""
    out: Path = Path("bench_out")
    """Folder of loop.json and loop.png."""

    def __post_init__(self) -> None:
        check_counts(self, "rounds", "max_hands", "frames")
        for name in ("max_hands", "against"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise UserError(f"expected different values for {flag_of(name)}, got {' '.join(map(str, values))}; leave one out")
        if not self.max_hands:
            raise UserError("expected at least one number for --max-hands, got none; leave the flag out for 2")
        if self.paced and (self.against or len(self.max_hands) > 1):
            raise UserError(
                "expected --paced with one number for --max-hands and nothing --against, since frames are skipped; leave it out"
            )
        _check_threads(self.threads)


@dataclass(frozen=True)
class FolderCommand(_NetworkFlags):
    """Time the way from a folder of pictures to their meshes; nothing is drawn or written."""

    input: Path | None = None
    """Folder of pictures; without it, frames of the clip that comes with the package, as jpg."""
    max_hands: int = 2
    """Most hands to look for."""
    threads: int = 0
    """Of the network; 0 lets the runtime choose."""
    rounds: int = 3
    """How often the folder is gone through."""
    out: Path = Path("bench_out")
    """Folder of folder.json and folder.png."""

    def __post_init__(self) -> None:
        check_counts(self, "rounds", "max_hands")
        _check_threads(self.threads)


@dataclass(frozen=True)
class StartupCommand(_NetworkFlags):
    """Time from the start of `handmesh-demo --input PICTURE` to its first mesh and its overlay, and its memory."""

    input: Path | None = None
    """Picture with a hand; without it, a frame of the clip that comes with the package."""
    max_hands: int = 2
    """Most hands to look for."""
    runs: int = 10
    """Fresh processes that are timed, after one that is not."""
    out: Path = Path("bench_out")
    """Folder of startup.json and startup.png."""

    def __post_init__(self) -> None:
        check_counts(self, "runs", "max_hands")


def run_loop_bench(command: LoopCommand) -> Report:
    """Time, print tables, write loop.json and loop.png.

    Raises:
        UserError: bad input.
    """
    from handmesh.bench.loop import OURS, WARM_UP_FRAMES, BesideMirror, Paced, loop_rows, open_frames, run_in_turn

    where = command.input or _clip()
    open_frames(where).close()
    with ExitStack() as stack:
        contenders = [_contender(name, max_hands, command, stack) for max_hands in command.max_hands for name in (OURS, *command.against)]

        def frames(most: int | None) -> Source:
            source = open_frames(where, _least(most, command.frames))
            source = BesideMirror(source) if command.beside_mirror else source
            return Paced(source) if command.paced else source

        passes = run_in_turn(contenders, frames, command.rounds)
    rows = loop_rows(contenders, passes)
    notes = [
        f"Before each turn {WARM_UP_FRAMES} frames were run and are not counted.",
        "All numbers are medians over the rounds. Stages overlap in threads: their shares of the time add up to more than 1.",
        "Frames come at the video's own rate; those that found the loop busy are not counted."
        if command.paced
        else "Frames come as fast as they are taken, so latency holds what a frame waits for the ones before it.",
        *_loop_notes(rows, command.input or "the clip"),
    ]
    report = Report("loop", {**config_to_dict(command), "input": where if command.input else "demo clip"}, rows, notes)
    totals = {"contender": "contender", "max_hands": "max hands", "calls": "frames", "frames_s": "frames/s", "seen_share": "with hands"}
    for key, heading in (
        ("vs_mediapipe", "x mediapipe"),
        ("vs_detector_every_frame", "x every frame"),
        ("vs_as_seen", "x as seen"),
        ("time_vs_one_hand", "time/one hand"),
        ("distance_median", "distance p50"),
        ("distance_p95", "p95, boxes"),
        ("missed_share", "missed"),
    ):
        if any(row[key] is not None for row in rows):
            totals[key] = heading
    print_report(replace(report, rows=[row for row in rows if row["by"] == "loop"], notes=[]), totals, "The whole loop")
    for contender in contenders:
        its = [row for row in rows if (row["contender"], row["max_hands"]) == (contender.name, contender.max_hands)]
        _print_stages(report, its, f"{contender.name}, max hands {contender.max_hands}")
    return _finish(report, command.out, loop_charts.draw_loop)


def run_folder(command: FolderCommand) -> Report:
    """Time, print a table, write folder.json and folder.png.

    Raises:
        UserError: bad input.
    """
    import numpy as np

    from handmesh.bench.loop import PERCENTS, run_through_loop, stage_rows
    from handmesh.live.sources import open_source

    with tempfile.TemporaryDirectory() as temporary:
        folder = command.input or _clip_pictures(Path(temporary))
        if not folder.is_dir():
            raise UserError(f"expected a folder of pictures for --input, got '{folder}'; for a video there is handmesh-bench loop")
        # Before a network is loaded.
        open_source(str(folder), None).close()
        with _estimator(command, command.max_hands) as estimator:
            passes = [run_through_loop(open_source(str(folder), None), estimator, None) for _ in range(1 + command.rounds)][1:]
    whole = {
        "by": "folder",
        "name": "all of it",
        "calls": passes[0].frames,
        **{f"p{percent}_ms": float(np.median([np.percentile(each.frame_ms, percent) for each in passes])) for percent in PERCENTS},
        "pictures_s": float(np.median([each.frames_s for each in passes])),
        "megapixels_s": float(np.median([each.megapixels / each.duration_s for each in passes])),
        "seen_share": float(np.mean([bool(seen) for each in passes for seen in each.keypoints_px])),
    }
    rows = [{**dict.fromkeys((*whole, "share")), **row} for row in (whole, *stage_rows(passes))]
    notes = [
        "Once through the folder before the first round is not counted. Stages overlap in threads: their shares add up to more than 1.",
        *_no_hands_note(whole["seen_share"], str(folder) if command.input else "the clip"),
    ]
    report = Report("folder", {**config_to_dict(command), "input": str(command.input or "demo clip")}, rows, notes)
    totals = {"calls": "pictures", "pictures_s": "pictures/s", "megapixels_s": "megapixels/s", "seen_share": "with hands"}
    print_report(replace(report, rows=rows[:1], notes=[]), totals, "A folder of pictures")
    _print_stages(report, rows[1:], "Stages")
    return _finish(report, command.out, loop_charts.draw_folder)


def run_startup(command: StartupCommand) -> Report:
    """Time fresh processes, print a table, write startup.json and startup.png.

    Raises:
        UserError: bad input, a picture without a hand, or a process that fails.
    """
    from handmesh.bench.startup import STEPS, python_command, split_start, startup_rows, time_steps, watch_process
    from handmesh.live.sources import read_picture

    moments, parts, steps, peaks_mb = [], [], [], []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        picture = (command.input or _clip_pictures(folder / "clip", 1) / "000000.jpg").resolve()
        read_picture(picture)
        asked = {**config_to_dict(command), "input": str(picture)}
        for run in range(1 + command.runs):
            python_ms = watch_process(python_command("pass")).ended_ms
            output = folder / f"run{run}"
            start = watch_process(_demo_command(command, picture, output), output / f"{picture.stem}_overlay.png")
            its_moments, its_parts = split_start(start, python_ms)
            its_steps = time_steps(asked)
            if run == 0:
                first_ms = its_moments["first mesh"]
                continue
            moments.append(its_moments)
            parts.append(its_parts)
            steps.append({"python": python_ms, **its_steps})
            if start.peak_mb is not None:
                peaks_mb.append(start.peak_mb)
    rows = startup_rows(moments, parts, steps, peaks_mb)
    notes = [
        f"One run came before and is not counted: first mesh after {first_ms:.0f} ms.",
        f"Steps: the same work by {len(STEPS)} calls one after the other in a process of its own; nothing overlaps.",
        *([] if peaks_mb else ["Peak memory: this system, or a process as large as this one, does not tell."]),
    ]
    report = Report("startup", {**asked, "input": str(command.input or "demo clip")}, rows, notes)
    columns = {"name": "until", "median_ms": "median ms", "p95_ms": "p95 ms", "bar_ms": "bar ms", "runs": "runs"}
    tables = {"moment": ("From the start of handmesh-demo", "until"), "part": ("Its parts", "part"), "step": ("Steps", "step")}
    for by, (title, heading) in tables.items():
        its = [row for row in rows if row["by"] == by]
        print_report(replace(report, rows=its, notes=[]), {**columns, "name": heading}, title)
    memory = [row for row in rows if row["by"] == "memory"]
    if memory:
        columns = {"name": "memory", "median_mb": "median MB", "worst_mb": "worst MB", "bar_mb": "bar MB"}
        print_report(replace(report, rows=memory, notes=[]), columns, "Memory")
    return _finish(report, command.out, loop_charts.draw_startup)


def _contender(name: str, max_hands: int, command: LoopCommand, stack: ExitStack) -> Contender:
    from handmesh.bench.loop import Contender, DetectorEveryFrame, run_mediapipe, run_through_loop
    from handmesh.bench.tasks import TasksDetector
    from handmesh.detection import HandDetector
    from handmesh.live.command import network_threads

    if name == "mediapipe":
        return Contender(name, max_hands, lambda source: run_mediapipe(source, TasksDetector(max_hands, is_video=True)))
    estimator = stack.enter_context(_estimator(command, max_hands))
    if name == "as-seen":
        estimator.smooth = None
    artist = _artist()
    if name == "detector-every-frame":
        asking = DetectorEveryFrame(estimator, HandDetector(max_hands, threads=command.threads or network_threads(is_stream=True)))
        return Contender(name, max_hands, lambda source: run_through_loop(source, asking, artist))
    return Contender(name, max_hands, lambda source: run_through_loop(source, estimator, artist))


def _estimator(command: LoopCommand | FolderCommand, max_hands: int) -> HandMeshEstimator:
    from handmesh.estimator import HandMeshEstimator
    from handmesh.live.command import network_threads

    estimator = HandMeshEstimator(
        command.model,
        command.hand_model,
        landmarks=command.landmarks,
        answer=command.answer,
        head=command.head,
        runtime=command.runtime,
        precision=command.precision,
        max_hands=max_hands,
        threads=command.threads or network_threads(is_stream=isinstance(command, LoopCommand)),
        is_live=isinstance(command, LoopCommand) and command.paced,
    )
    estimator.prepare(isinstance(command, LoopCommand))
    return estimator


def _artist() -> Artist:
    """As `handmesh-demo` draws."""
    from handmesh.live.loop import Artist
    from handmesh.render.overlay import draw_mask, draw_overlay, prepare_overlay

    prepare_overlay()
    return Artist(partial(draw_overlay, in_place=True), draw_mask)


def _demo_command(command: StartupCommand, picture: Path, output: Path) -> list[str]:
    from handmesh.bench.startup import python_command

    flags = {
        "--input": picture,
        "--output": output,
        "--max-hands": command.max_hands,
        "--model": command.model,
        "--hand-model": command.hand_model,
        "--runtime": command.runtime,
        "--precision": command.precision,
        "--landmarks": command.landmarks,
        "--answer": command.answer,
        "--head": command.head,
    }
    given = [str(word) for flag, value in flags.items() if value is not None for word in (flag, value)]
    return python_command("from handmesh.cli import demo; demo()", *given, "--no-window", "--profile")


def _clip() -> str:
    if not DEMO_CLIP.is_file():
        raise UserError("expected --input: this copy of handmesh comes without its demo clip")
    return str(DEMO_CLIP)


def _clip_pictures(folder: Path, most: int = _CLIP_PICTURES) -> Path:
    """Frames of the clip as 000000.jpg, ... in a new folder."""
    import cv2

    from handmesh.bench.loop import open_frames

    folder.mkdir(exist_ok=True)
    source = open_frames(_clip(), _CLIP_STEP * most)
    try:
        for frame in source:
            if frame.index % _CLIP_STEP == 0:
                cv2.imwrite(str(folder / f"{frame.name}.jpg"), cv2.cvtColor(frame.image_rgb, cv2.COLOR_RGB2BGR))
    finally:
        source.close()
    return folder


def _loop_notes(rows: list[Row], where: str) -> list[str]:
    """Sentences on what the rows of whole loops say, or cannot say."""
    loops = {(row["contender"], row["max_hands"]): row for row in rows if row["by"] == "loop"}
    notes = []
    worst_ms = max(row["worst_ms"] for row in loops.values())
    if worst_ms > _STANDSTILL_MS:
        notes.append(
            f"One frame took {worst_ms / 1e3:.1f} s: the machine stood still, which spoils that round; run again with more --rounds."
        )
    for (name, max_hands), row in loops.items():
        if name != "handmesh":
            continue
        notes += _no_hands_note(row["seen_share"], where)
        every = loops.get(("detector-every-frame", max_hands))
        if every is not None and row["distance_median"] is not None and every["distance_median"]:
            ratio = row["distance_median"] / every["distance_median"]
            notes.append(f"Max hands {max_hands}: the distance to MediaPipe is {ratio:.3f} x that of the detector in every frame.")
        if max_hands > 1 and ("handmesh", 1) in loops and row["time_vs_one_hand"] is None:
            notes.append(f"No frame of {where} shows {max_hands} hands at a time: no ratio to the time of one.")
    return list(dict.fromkeys(notes))


def _no_hands_note(seen_share: float, where: str) -> list[str]:
    return [] if seen_share else [f"No hand was seen in {where}: these are the times of reading and of the detector."]


def _print_stages(report: Report, rows: list[Row], title: str) -> None:
    named = [{**row, "name": f"latency to {row['name']}" if row["by"] == "latency" else row["name"]} for row in rows]
    print_report(replace(report, rows=named, notes=[]), _BY_STAGE, title)


def _finish(report: Report, out: Path, draw: Callable[[Report, Path], None]) -> Report:
    """Write, plot, and print the notes."""
    written = canvas.write(report, out, draw)
    print(*report.notes, f"written: {written}", sep="\n")
    return report


def _least(*counts: int | None) -> int | None:
    return min((count for count in counts if count is not None), default=None)


def _check_threads(threads: int) -> None:
    if threads < 0:
        raise UserError(f"expected --threads of at least 0, got {threads}; leave it out")
