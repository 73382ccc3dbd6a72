"""`handmesh-convert`: from the json lines of a recording to an animation, arrays, a table, a skeleton, or a mesh for every frame."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from handmesh.errors import UserError, one_line
from handmesh.hand_model.animation import Difference, save_animation
from handmesh.hand_model.assets import load_hand_model
from handmesh.hand_model.bvh import save_bvh
from handmesh.hand_model.meshfile import save_meshes
from handmesh.hand_model.skinning import HandModel
from handmesh.live.recording import Recording, check_hand_model, frames_of_hands, read_recording, select, write_csv, write_npz

FORMATS = ("glb", "npz", "csv", "bvh")


@dataclass(frozen=True)
class ConvertCommand:
    """Turn a recording of hands into files that other programs read.

    The ending of --out says what: .glb is one animated, skinned mesh with its skeleton for each hand; .bvh the skeletons alone, in
    centimetres; .npz everything as arrays; .csv a table with one line a hand a frame. With --per-frame, --out is a folder of meshes.
    """

    recording: tyro.conf.Positional[Path]
    """hands.jsonl of handmesh-demo --save json; one that was cut off by a kill will do."""
    out: Path
    """File that ends in .glb, .npz, .csv or .bvh; with --per-frame a folder."""
    per_frame: Literal["obj", "ply", "glb"] | None = None
    """Write a mesh file for every frame with hands, in this format."""
    hand_model: str = "open"
    """Hand model that the recording was made with: "open", "mano" (after handmesh-mano import), or the path of an npz."""
    track: int | None = None
    """Number of the one hand to convert; all without it."""
    start: float | None = None
    """First time to convert, in seconds of the recording."""
    end: float | None = None
    """Last time to convert, in seconds of the recording."""
    correctives: tyro.conf.FlagCreatePairsOff[bool] = False
    """In a glb, add pose correctives as up to 145 morph targets: exact, but a larger file that not every viewer shows."""


@dataclass(frozen=True)
class AnimationReport:
    """What `write_animation` wrote.

    Attributes:
        difference: of the file's vertices to those of `skinning.skin`.
        size_bytes: of the file.
    """

    difference: Difference
    size_bytes: int


def run_convert(command: ConvertCommand) -> None:
    """Do what the flags say and print one line.

    Raises:
        UserError: a bad recording, model, hand, time or ending, or a disk that cannot be written to.
    """
    kind = _kind(command)
    with _progress("read", _size_bytes(command.recording)) as advance:
        recording = read_recording(command.recording, advance)
    recording = select(recording, command.track, command.start, command.end)
    if not recording.tracks:
        raise UserError(f"expected hands in '{command.recording}', got {len(recording.times_s)} frames without any; nothing to convert")
    try:
        print(_summary(recording, _convert(command, kind, recording)))
    except OSError as error:
        raise UserError(f"expected to write '{command.out}', but: {error.strerror or one_line(error)}; give another --out") from error


def write_animation(recording: Recording | Path, model: HandModel, path: Path, *, correctives: bool = False) -> AnimationReport | None:
    """Write a recording as one animated glb; see `hand_model.animation.save_animation`.

    Args:
        recording: or the path of its json lines.
        model: that the hands were posed with.
        path: ends in .glb.
        correctives: add pose correctives as morph targets.

    Returns:
        None, and there is no file, where no frame has a hand.

    Raises:
        UserError: a bad recording, or one of another hand model, or another ending, or a disk that cannot be written to.
    """
    if isinstance(recording, Path):
        if recording.is_file() and not recording.stat().st_size:
            return None
        recording = read_recording(recording)
    check_hand_model(recording, model)
    if not recording.tracks:
        return None
    motions = [track.motion for track in recording.tracks]
    with _progress("animate", sum(len(motion.frames) for motion in motions)) as advance:
        try:
            difference = save_animation(motions, recording.times_s, model, recording.camera, path, correctives=correctives, advance=advance)
        except OSError as error:
            reason = error.strerror or one_line(error)
            raise UserError(f"expected to write '{path}', but: {reason}; the recording is whole, turn it with handmesh-convert") from error
    return AnimationReport(difference, path.stat().st_size)


def _kind(command: ConvertCommand) -> str:
    """What to write: one of `FORMATS`, or "meshes"."""
    ending = command.out.suffix[1:].lower()
    if command.per_frame is not None:
        if command.out.is_file() or ending in FORMATS:
            raise UserError(f"expected a folder as --out with --per-frame, got '{command.out}'; leave the ending out")
        kind = "meshes"
    elif ending not in FORMATS:
        near = difflib.get_close_matches(ending, FORMATS, n=1, cutoff=0.5)
        hint = f"did you mean .{near[0]}?" if near else "change the ending, or ask for meshes with --per-frame"
        raise UserError(f"expected --out to end in {', '.join(f'.{name}' for name in FORMATS)}, got '{command.out}'; {hint}")
    else:
        kind = ending
    if command.correctives and kind != "glb":
        raise UserError(f"expected --correctives with an --out that ends in .glb, got '{command.out}'; leave --correctives out")
    if command.out.exists() and command.recording.exists() and command.out.samefile(command.recording):
        raise UserError(f"'{command.out}' would be written over the recording; give another --out")
    return kind


def _convert(command: ConvertCommand, kind: str, recording: Recording) -> str:
    """Write the files, and say which."""
    if kind in ("npz", "csv"):
        (write_npz if kind == "npz" else write_csv)(recording, command.out)
        return _described(command.out)
    model = load_hand_model(command.hand_model)
    check_hand_model(recording, model)
    if kind == "glb":
        report = write_animation(recording, model, command.out, correctives=command.correctives)
        assert report is not None
        difference = report.difference
        away = f"{difference.mean_mm:.2g} mm (mean) and {difference.max_mm:.2g} mm (max) from handmesh's own skinning"
        return f"{_described(command.out)}; {away}"
    if kind == "bvh":
        paths = [command.out.with_stem(_stem(command.out, track.name, len(recording.tracks))) for track in recording.tracks]
        for track, path in zip(recording.tracks, paths, strict=True):
            save_bvh(track.motion, recording.times_s, model, path)
        return ", ".join(map(_described, paths))
    assert command.per_frame is not None
    return _write_meshes(recording, model, command.out, command.per_frame)


def _write_meshes(recording: Recording, model: HandModel, folder: Path, ending: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    written = 0
    with _progress("meshes", len(recording.times_s)) as advance:
        for frame, hands in frames_of_hands(recording, model):
            if hands:
                save_meshes(hands, model, folder / f"{recording.numbers[frame]:06d}.{ending}")
                written += 1
            advance(1)
    return f"{written} {ending} files in {folder}"


def _stem(path: Path, name: str, count: int) -> str:
    """A bvh holds one hand: of several, each file has the hand's name behind its own."""
    return path.stem if count == 1 else f"{path.stem}_{name}"


def _described(path: Path) -> str:
    return f"{path} ({path.stat().st_size / 1e6:.2f} MB)"


def _summary(recording: Recording, written: str) -> str:
    frames, hands = len(recording.times_s), ", ".join(track.name for track in recording.tracks)
    cut = "; the recording's last line was cut off and left out" if recording.is_cut else ""
    return f"{frames} frame{'s' * (frames != 1)} of {recording.duration_s:.2f} s, {hands}: {written}{cut}"


def _size_bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal's stderr; yields what is told how much was done."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda amount: progress.advance(task, amount)
