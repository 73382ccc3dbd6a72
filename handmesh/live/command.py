"""`handmesh-demo`: its flags, and what it does with them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from handmesh.detection.palm import DEFAULT_CONFIDENCE
from handmesh.errors import UserError
from handmesh.geometry.camera import ASSUMED_FOV_DEG
from handmesh.hand_model.assets import ASSETS
from handmesh.head import Answer, LandmarkChoice
from handmesh.live.convert_command import write_animation
from handmesh.live.intrinsics import CameraChoice
from handmesh.live.loop import Artist, LoopReport, Screen, Wishes, merge_times, run_loop
from handmesh.live.recorder import Recorder
from handmesh.live.sinks import ANIMATION, JSON_LINES, open_sinks, parse_kinds, prepare_output
from handmesh.live.sources import Source, open_source
from handmesh.live.stream import STDOUT, open_stream, parse_stream
from handmesh.runtime import Precision, Runtime
from handmesh.smoothing import DEFAULT_SMOOTH
from handmesh.timing import StageTimes

if TYPE_CHECKING:
    from handmesh.estimator import HandMeshEstimator

WEB_PORT = 8080
DEMO_CLIP = ASSETS / "demo_clip.mp4"


@dataclass(frozen=True)
class DemoCommand:
    """Find hands in pictures, videos or a camera, and write or show their 3D meshes.

    Without --camera and --input it runs on a clip that comes with the package. In the window, q or Esc quits, s saves a snapshot with
    its mesh, the space bar pauses, r starts and stops a recording, 3 shows and hides the 3D view, which the mouse turns.
    """

    camera: int | str | None = None
    """Camera to watch: 0 is the first; a device path works too."""
    input: str | None = None
    """Picture (up to 100 megapixels), folder of pictures, video file, or URL (http, rtsp)."""
    output: Path = Path("handmesh_out")
    """Folder for everything that is written."""
    save: str = "overlay"
    """What to write, separated by commas: overlay, json, npz, obj, ply, glb, mask, and for videos animation (hands.glb, with bones)."""
    loop: tyro.conf.FlagCreatePairsOff[bool] = False
    """Play a video file again and again."""
    web: int | None = None
    """Show a page, instead of a window, to whoever opens the address that is printed: on this computer, at this port (bare --web: 8080)."""
    stream: str | None = None
    """Send every frame's hands to other programs as json: udp://HOST:PORT, or stdout."""
    no_window: tyro.conf.FlagCreatePairsOff[bool] = False
    """Open no window."""
    max_hands: int = 2
    """Most hands to look for."""
    min_confidence: float = DEFAULT_CONFIDENCE
    """How sure a new hand must be, 0 to 1: less finds more, also where there is none."""
    fov: float | None = None
    """Field of view of the camera along the larger side of the picture, in degrees."""
    focal: float | None = None
    """Focal length of the camera, in pixels of the picture."""
    intrinsics: Path | None = None
    """Calibration file: OpenCV's yaml or json, ROS's camera_info, or a 3 x 3 matrix in json; scaled to the picture."""
    smooth: float = DEFAULT_SMOOTH
    """How much videos are smoothed: 0 not at all, 1 most (and latest)."""
    hand_length_mm: float | None = None
    """Length of the hands from the wrist to the tip of the middle finger; makes sizes and distances true rather than an average adult's."""
    mirror: tyro.conf.FlagCreatePairsOff[bool] = False
    """Show and save the overlay like a mirror (selfie view); hands, meshes and masks stay unmirrored."""
    size: str | None = None
    """Size to ask the camera for, like 1280x720."""
    fps: float | None = None
    """Frames per second to ask the camera for."""
    landmarks: LandmarkChoice | None = None
    """MediaPipe's landmark network that looks at every hand: full, lite (faster, and sees less well) or off; full without it."""
    answer: Answer = "head"
    """Whose answer is shown: the head's, which reads the landmark network and, in pictures, the hand network; or the hand network's."""
    head: Path | None = None
    """Head: an .onnx file by handmesh-train configs/head.yaml; without it, the one that comes with the package, for its network."""
    model: Path | None = None
    """Hand network: an ONNX file from handmesh-export; without it, the one that comes with the package."""
    hand_model: str = "open"
    """Hand model: "open", "mano" (after handmesh-mano import), or the path of an npz; the one that the network was trained with."""
    runtime: Runtime = "openvino"
    """What runs hand network and head; MediaPipe's networks run on OpenVINO."""
    precision: Precision | None = None
    """Arithmetic of the networks, by default the hand network's file's; bf16 is faster on CPUs that have it (OpenVINO only)."""
    threads: int = 0
    """Threads of each network; 0 takes half of the cores, and two at least, for streams (drawing needs the others), all for pictures."""
    profile: tyro.conf.FlagCreatePairsOff[bool] = False
    """At the end, print how long each stage took."""


def run_demo(command: DemoCommand) -> None:
    """Do what the flags say and print a summary.

    Raises:
        UserError: bad input, or a camera or disk that failed on the way (after the summary).
        KeyboardInterrupt: Ctrl-C (after the summary).
    """
    kinds = parse_kinds(command.save)
    if command.max_hands < 1:
        raise UserError(f"expected --max-hands of at least 1, got {command.max_hands}")
    if not 0 <= command.min_confidence <= 1:
        raise UserError(f"expected --min-confidence of 0 to 1, got {command.min_confidence:g}")
    if command.threads < 0:
        raise UserError(f"expected --threads of at least 0, got {command.threads}")
    if command.stream is not None:
        parse_stream(command.stream)
    cameras = CameraChoice(command.fov, command.focal, command.intrinsics)
    source = open_source(_input(command), command.camera, _parse_size(command.size), command.fps, command.loop)
    with ExitStack() as stack:
        stack.callback(source.close)
        prepare_output(command.output, source)
        if "animation" in kinds and not source.is_stream:
            raise UserError("--save animation needs a video or a camera; glb saves the hands of a picture")

        # Slow to import and to load: only once everything cheap is known to be right.
        from handmesh.estimator import HandMeshEstimator
        from handmesh.render.overlay import draw_mask, draw_overlay, prepare_overlay

        estimator = stack.enter_context(
            HandMeshEstimator(
                command.model,
                command.hand_model,
                landmarks=command.landmarks,
                answer=command.answer,
                head=command.head,
                runtime=command.runtime,
                precision=command.precision,
                max_hands=command.max_hands,
                min_confidence=command.min_confidence,
                threads=command.threads or network_threads(source.is_stream),
                is_live=source.is_live,
                smooth=command.smooth,
                hand_length_mm=command.hand_length_mm,
            )
        )
        stream = None
        if command.stream is not None:
            stream = open_stream(command.stream, estimator.hand_model, source.is_live)
            if command.stream == STDOUT:
                stack.enter_context(redirect_stdout(sys.stderr))
        if not cameras.is_known:
            print(f"camera unknown: assuming a field of view of {ASSUMED_FOV_DEG:g} degrees (set --fov, --focal or --intrinsics)")
        times = StageTimes()
        screen = _open_screen(command, estimator, times)
        draws = screen is not None or bool({"overlay", "mask"} & set(kinds))
        with ThreadPoolExecutor(1) as thread:
            if draws and source.is_stream:
                # Before the clock starts, so that the first frame costs what the others do. A picture's mesh need not wait for it.
                thread.submit(prepare_overlay)
            estimator.prepare(source.is_stream)
        sinks = [*open_sinks(kinds, command.output, source, estimator.hand_model), *([stream] if stream else [])]
        # Nobody needs the plain picture after its hands are known.
        artist = Artist(partial(draw_overlay, in_place=True), draw_mask)
        recorder = Recorder(command.output, source, estimator.hand_model) if screen is not None and source.is_stream else None
        wishes = Wishes(command.output, command.mirror, "overlay" in kinds, "mask" in kinds, recorder, times=times)
        report = run_loop(source, estimator, cameras.camera, sinks, artist, wishes, screen)
        if report.frames:
            print(summary(report, source, command.output if kinds else None))
        if command.profile:
            print(profile_table(report))
        if "animation" in kinds and report.frames_with_hands:
            write_animation(command.output / JSON_LINES, estimator.hand_model, command.output / ANIMATION)
    if report.error is not None:
        raise report.error
    if report.end == "interrupted":
        raise KeyboardInterrupt


def with_bare_flags(arguments: Sequence[str]) -> list[str]:
    """The same arguments, where `--web` without a port gets the one that it then stands for."""
    given = list(arguments)
    if "--web" in given:
        after = given.index("--web") + 1
        if after == len(given) or given[after].startswith("-"):
            given.insert(after, str(WEB_PORT))
    return given


def network_threads(is_stream: bool) -> int:
    """Threads that a network gets when nobody says: half of the cores in streams, but two where there are, and 0 (as many as it likes) for
    pictures.

    In streams the stages overlap, and with all of many cores for the network they would wait for each other. Of two cores the network,
    which takes most of the time, needs both (LOG.md).
    """
    if not is_stream:
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, max(2, cores // 2))


def summary(report: LoopReport, source: Source, output: Path | None) -> str:
    """One line on a run."""
    rate = report.frames / report.duration_s if report.duration_s > 0 else 0.0
    share = report.frames_with_hands / max(report.frames, 1)
    what = "frames" if source.is_stream else "pictures"
    parts = [f"{report.frames} {what}, {rate:.1f} {what}/s, hands in {100 * share:.0f} %"]
    if source.skipped:
        parts.append(f"{source.skipped} {'file' if source.skipped == 1 else 'files'} skipped")
    parts.append(f"output in {output}" if output is not None else "nothing saved")
    return "; ".join(parts)


def profile_table(report: LoopReport) -> str:
    """Stages of the loop: calls, median and 95th percentile in ms, share of the time."""
    rows = [f"{'stage':<10}{'calls':>8}{'median ms':>12}{'p95 ms':>10}{'share':>8}"]
    for name, calls, median_ms, p95_ms, share in report.times.table():
        rows.append(f"{name:<10}{calls:>8}{median_ms:>12.2f}{p95_ms:>10.2f}{100 * share:>6.1f} %")
    return "\n".join(rows)


def _input(command: DemoCommand) -> str | None:
    if command.camera is not None or command.input is not None:
        return command.input
    if not DEMO_CLIP.is_file():
        raise UserError("expected --camera or --input: this copy of handmesh comes without its demo clip")
    return str(DEMO_CLIP)


def _parse_size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)[xX](\d+)", text.strip())
    if match is None or 0 in (sides := (int(match[1]), int(match[2]))):
        raise UserError(f"expected --size as WIDTHxHEIGHT, like 1280x720, got {text!r}")
    return sides


def _open_screen(command: DemoCommand, estimator: HandMeshEstimator, times: StageTimes) -> Screen | None:
    if command.web is not None:
        from handmesh.render.web import open_page

        def set_smooth(smooth: float) -> None:
            estimator.smooth = smooth

        def table() -> list[tuple[str, int, float, float, float]]:
            return merge_times(times, estimator.times).table()

        page = open_page(command.web, estimator.hand_model, table, set_smooth, command.smooth)
        print(f"open {page.address} in a browser of this computer; Ctrl-C ends")
        return page
    if command.no_window:
        return None
    from handmesh.render.window import NoDisplay, open_window

    try:
        return open_window("handmesh", estimator.hand_model)
    except NoDisplay as error:
        print(f"{error}; going on without a window")
        return None
