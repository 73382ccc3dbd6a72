"""Where results go: files in one output folder, by kind.

| kind | a picture NAME | a video or camera |
|---|---|---|
| overlay | NAME_overlay.png | overlay.mkv |
| json | NAME.json | hands.jsonl, one line a frame |
| npz | NAME.npz | npz/000000.npz, ... |
| obj, ply, glb | NAME.obj, ... | obj/000000.obj, ...; no file where there is no hand |
| mask | NAME_mask.png | mask.mkv, grey, lossless (FFV1) |
| animation | - | hands.glb at the end, from hands.jsonl, which is written too |

Streams stay readable when the program is killed: matroska needs no index at its end, a line is written whole, and
there is one npz a frame because an unfinished zip cannot be read.

json, schema "handmesh.hands/2": the object of one frame.
    schema, hand_model (its id), frame (index), name, time_s,
    camera: fx, fy, cx, cy, width, height, distortion, is_known,
    hands: a list of
        track_id, is_right, score, scale, box_px [4], keypoints_px [21][2], landmarks_px [21][2], joints_m [21][3],
        keypoint_spread_m [21] or null, T_camera_wrist [4][4],
        params: rotmats [16][3][3], betas [10], camera [3], presence, right_logit (the right-hand model in the crop camera).
Version 1 had no scale: it was 1. docs/recording.md explains every field.

npz: the same with the meshes, N hands: vertices_m (N, V, 3), joints_m (N, 21, 3), keypoints_px and landmarks_px (N, 21, 2),
T_camera_wrist (N, 4, 4), rotmats (N, 16, 3, 3), betas (N, 10), box_px (N, 4), score, scale, is_right, track_id (N,), faces (F, 3) of a
right hand (flip each row for a left one), K (3, 3), distortion, time_s.

mask: 0 for none, i + 1 for the i-th hand of the frame.
"""

from __future__ import annotations

import difflib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from errno import ENOSPC
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from handmesh.errors import UserError
from handmesh.hand_model.meshfile import MESH_FORMATS, save_meshes
from handmesh.hand_model.skinning import HandModel
from handmesh.live.sources import Frame, Source
from handmesh.quiet import quiet_stderr
from handmesh.records import Camera, Hand
from handmesh.wholefile import replacing

SCHEMA = "handmesh.hands/2"
KINDS = ("overlay", "json", "npz", *MESH_FORMATS, "mask", "animation")
JSON_LINES, ANIMATION = "hands.jsonl", "hands.glb"
# OpenCV does not say when a video could not be written, so the disk is watched.
_LEAST_FREE_BYTES = 4_000_000
# A live recording repeats a frame to keep time, but never for longer than this.
_LONGEST_REPEAT_S = 5.0


@dataclass(frozen=True)
class Shot:
    """Everything there is to write about one frame.

    Attributes:
        overlay_rgb: (H, W, 3) uint8, when somebody wants it.
        mask: (H, W) uint8, when somebody wants it.
    """

    frame: Frame
    hands: Sequence[Hand]
    camera: Camera
    overlay_rgb: np.ndarray | None = None
    mask: np.ndarray | None = None


class Sink(Protocol):
    """Takes shots, raises OSError when it cannot write, and leaves what it wrote readable."""

    def write(self, shot: Shot) -> None: ...

    def close(self) -> None: ...


def parse_kinds(text: str) -> tuple[str, ...]:
    """ "overlay,json" -> ("overlay", "json").

    Raises:
        UserError: a kind that does not exist; names the nearest.
    """
    kinds = tuple(dict.fromkeys(kind.strip().lower() for kind in text.split(",") if kind.strip()))
    for kind in kinds:
        if kind not in KINDS:
            near = difflib.get_close_matches(kind, KINDS, n=1, cutoff=0.3)
            hint = f"did you mean {near[0]}?" if near else "leave it out"
            raise UserError(f"expected --save to list some of {','.join(KINDS)}, got {kind!r}; {hint}")
    return kinds


def prepare_output(output: Path, source: Source) -> None:
    """Make the folder and make sure, before any work is done, that it takes files and holds none of the input.

    Raises:
        UserError: it does not, or it does.
    """
    probe = output / f".handmesh_{os.getpid()}"
    try:
        output.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"expected a folder to write to, but {output}: {error.strerror}; give another --output") from error
    read = Path(source.label)
    if (read.is_dir() and read.resolve() == output.resolve()) or read.resolve() == (output / "overlay.mkv").resolve():
        raise UserError(f"the output would be written over the input {read}; give another --output")


def open_sinks(kinds: Sequence[str], output: Path, source: Source, hand_model: HandModel) -> list[Sink]:
    """The sinks for `--save`; see the table above.

    Raises:
        UserError: a file or folder cannot be made.
    """
    try:
        return _open_stream_sinks(kinds, output, source, hand_model) if source.is_stream else _open_picture_sinks(kinds, output, hand_model)
    except OSError as error:
        raise UserError(f"expected to write to {error.filename}, but: {error.strerror}; give another --output") from error


def _open_picture_sinks(kinds: Sequence[str], output: Path, hand_model: HandModel) -> list[Sink]:
    endings = {"overlay": "_overlay.png", "mask": "_mask.png"}
    return [FileSink(_file_writer(kind, hand_model), _named(output, endings.get(kind, f".{kind}"))) for kind in kinds]


def _open_stream_sinks(kinds: Sequence[str], output: Path, source: Source, hand_model: HandModel) -> list[Sink]:
    sinks: list[Sink] = []
    if {"json", "animation"} & set(kinds):
        sinks.append(JsonLinesSink(output / JSON_LINES, hand_model.id))
    for kind in kinds:
        if kind in ("overlay", "mask"):
            sinks.append(VideoSink(output / f"{kind}.mkv", source.frame_rate, source.is_live, shows_mask=kind == "mask"))
        elif kind not in ("json", "animation"):
            folder = output / kind
            folder.mkdir(exist_ok=True)
            sinks.append(FileSink(_file_writer(kind, hand_model), _named(folder, f".{kind}")))
    return sinks


class FileSink:
    """One file a frame.

    Args:
        write_file: writes a shot to a path.
        path_of: where a frame's file goes.
    """

    def __init__(self, write_file: Callable[[Shot, Path], None], path_of: Callable[[Frame], Path]) -> None:
        self._write_file = write_file
        self._path_of = path_of

    def write(self, shot: Shot) -> None:
        """Write the shot's file whole, or not at all."""
        self._write_file(shot, self._path_of(shot.frame))

    def close(self) -> None:
        """Nothing stays open."""


class JsonLinesSink:
    """One line of json a frame, on the disk as soon as `write` returns."""

    def __init__(self, path: Path, hand_model_id: str) -> None:
        self._file = path.open("wb", buffering=0)
        self._hand_model_id = hand_model_id

    def write(self, shot: Shot) -> None:
        """Append a line; a line that does not fit on the disk is taken back."""
        line = json.dumps(shot_to_json(shot, self._hand_model_id), separators=(",", ":")).encode() + b"\n"
        end = self._file.tell()
        try:
            if self._file.write(line) != len(line):
                raise OSError(ENOSPC, os.strerror(ENOSPC))
        except OSError:
            with suppress(OSError):
                self._file.truncate(end)
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class VideoSink:
    """The overlays as a video, MPEG-4 in matroska; or the masks, FFV1, which loses nothing.

    Args:
        path: ends in .mkv.
        frame_rate: frames per second of the video.
        keeps_time: repeat or leave out frames so that the video runs as fast as the time stamps of the shots.
        shows_mask: masks rather than overlays.
    """

    def __init__(self, path: Path, frame_rate: float, keeps_time: bool = False, shows_mask: bool = False) -> None:
        self._path = path
        self._shows_mask = shows_mask
        # MPEG-4 counts time in at most 65535 ticks a second, which fast fractional rates (119.88) do not divide.
        self._frame_rate = round(frame_rate, 1) if frame_rate > 60 else frame_rate
        self._keeps_time = keeps_time
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._written = 0

    def write(self, shot: Shot) -> None:
        """Append the shot's overlay, or its mask."""
        image_bgr = self._picture_of(shot)
        if self._writer is None:
            self._size = (image_bgr.shape[1], image_bgr.shape[0])
            self._writer = self._open()
        writer = self._writer
        if (image_bgr.shape[1], image_bgr.shape[0]) != self._size:
            image_bgr = cv2.resize(image_bgr, self._size, interpolation=cv2.INTER_NEAREST if self._shows_mask else cv2.INTER_LINEAR)
        if shutil.disk_usage(self._path.parent).free < _LEAST_FREE_BYTES:
            raise OSError(ENOSPC, os.strerror(ENOSPC))
        repeats = 1
        if self._keeps_time:
            due = int(shot.frame.time_s * self._frame_rate + 0.5) + 1
            repeats = int(np.clip(due - self._written, 0, _LONGEST_REPEAT_S * self._frame_rate))
            self._written = max(due, self._written)
        for _ in range(repeats):
            writer.write(image_bgr)

    def close(self) -> None:
        """Write the last frames and close the file."""
        if self._writer is not None:
            self._writer.release()
            self._writer = None

    def _picture_of(self, shot: Shot) -> np.ndarray:
        if self._shows_mask:
            assert shot.mask is not None
            return shot.mask
        assert shot.overlay_rgb is not None
        return cv2.cvtColor(shot.overlay_rgb, cv2.COLOR_RGB2BGR)

    def _open(self) -> cv2.VideoWriter:
        fourcc = cv2.VideoWriter.fourcc(*("FFV1" if self._shows_mask else "mp4v"))
        with quiet_stderr():
            writer = cv2.VideoWriter(str(self._path), cv2.CAP_FFMPEG, fourcc, self._frame_rate, self._size, not self._shows_mask)
        if not writer.isOpened():
            kind = "mask" if self._shows_mask else "overlay"
            raise UserError(
                f"expected to write {self._path} at {self._size[0]}x{self._size[1]}, but no video can be; leave {kind} out of --save"
            )
        return writer


def shot_to_json(shot: Shot, hand_model_id: str) -> dict[str, Any]:
    """The object of one frame, as the module's head describes it. Metres to 0.01 mm, pixels to 0.01."""
    return {
        "schema": SCHEMA,
        "hand_model": hand_model_id,
        "frame": shot.frame.index,
        "name": shot.frame.name,
        "time_s": round(shot.frame.time_s, 6),
        "camera": asdict(shot.camera),
        "hands": [_hand_to_json(hand) for hand in shot.hands],
    }


def write_png(image: np.ndarray, path: Path) -> None:
    """(H, W, 3) RGB or (H, W) uint8 to a png, under a temporary name until it is whole."""
    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    encoded = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 2])[1]
    with replacing(path) as temporary:
        temporary.write_bytes(encoded.tobytes())


def save_snapshot(shot: Shot, output: Path, hand_model: HandModel) -> list[Path]:
    """The overlay of one moment as snapshot_NAME.png, and its hands, if any, as snapshot_NAME.glb."""
    assert shot.overlay_rgb is not None
    picture, mesh = (output / f"snapshot_{shot.frame.name}.{ending}" for ending in ("png", "glb"))
    write_png(shot.overlay_rgb, picture)
    if not shot.hands:
        return [picture]
    save_meshes(shot.hands, hand_model, mesh)
    return [picture, mesh]


def _named(folder: Path, ending: str) -> Callable[[Frame], Path]:
    return lambda frame: folder / f"{frame.name}{ending}"


def _file_writer(kind: str, hand_model: HandModel) -> Callable[[Shot, Path], None]:
    def write_overlay(shot: Shot, path: Path) -> None:
        assert shot.overlay_rgb is not None
        write_png(shot.overlay_rgb, path)

    def write_mask(shot: Shot, path: Path) -> None:
        assert shot.mask is not None
        write_png(shot.mask, path)

    def write_json(shot: Shot, path: Path) -> None:
        text = json.dumps(shot_to_json(shot, hand_model.id), indent=1)
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def write_npz(shot: Shot, path: Path) -> None:
        arrays = _shot_to_arrays(shot, hand_model)
        with replacing(path) as temporary:
            np.savez(temporary, **arrays)

    def write_mesh(shot: Shot, path: Path) -> None:
        if shot.hands:
            save_meshes(shot.hands, hand_model, path)

    return {"overlay": write_overlay, "mask": write_mask, "json": write_json, "npz": write_npz}.get(kind, write_mesh)


def _hand_to_json(hand: Hand) -> dict[str, Any]:
    return {
        "track_id": hand.track_id,
        "is_right": bool(hand.is_right),
        "score": round(float(hand.score), 4),
        "scale": round(float(hand.scale), 5),
        "box_px": rounded(hand.box_px, 2),
        "keypoints_px": rounded(hand.keypoints_px, 2),
        "landmarks_px": rounded(hand.landmarks_px, 2),
        "joints_m": rounded(hand.joints_m, 5),
        "keypoint_spread_m": spread_to_json(hand),
        "T_camera_wrist": rounded(hand.T_camera_wrist, 6),
        "params": {
            "rotmats": rounded(hand.params.rotmats, 6),
            "betas": rounded(hand.params.betas, 5),
            "camera": rounded(hand.params.camera, 6),
            "presence": round(float(hand.params.presence), 4),
            "right_logit": round(float(hand.params.right_logit), 4),
        },
    }


def _shot_to_arrays(shot: Shot, hand_model: HandModel) -> dict[str, Any]:
    def stacked(values: list, shape: tuple[int, ...]) -> np.ndarray:
        return np.array(values, np.float32).reshape(len(values), *shape)

    hands = shot.hands
    return {
        "vertices_m": stacked([hand.vertices_m for hand in hands], hand_model.template_m.shape),
        "joints_m": stacked([hand.joints_m for hand in hands], (21, 3)),
        "keypoints_px": stacked([hand.keypoints_px for hand in hands], (21, 2)),
        "landmarks_px": stacked([hand.landmarks_px for hand in hands], (21, 2)),
        "T_camera_wrist": stacked([hand.T_camera_wrist for hand in hands], (4, 4)),
        "rotmats": stacked([hand.params.rotmats for hand in hands], (16, 3, 3)),
        "betas": stacked([hand.params.betas for hand in hands], (10,)),
        "box_px": stacked([hand.box_px for hand in hands], (4,)),
        "score": stacked([hand.score for hand in hands], ()),
        "scale": stacked([hand.scale for hand in hands], ()),
        "is_right": np.array([hand.is_right for hand in hands], bool),
        "track_id": np.array([hand.track_id for hand in hands], np.int64),
        "faces": hand_model.faces,
        "K": shot.camera.K,
        "distortion": np.array(shot.camera.distortion),
        "time_s": np.array(shot.frame.time_s),
    }


def spread_to_json(hand: Hand) -> list | None:
    """How far off each keypoint is expected to be, in metres at the hand's true size; None where the network does not say."""
    return None if hand.params.spread_m is None else rounded(hand.scale * hand.params.spread_m, 5)


def rounded(values: np.ndarray, decimals: int) -> list:
    """Nested lists with so many decimals: what json files hold."""
    return np.round(np.asarray(values, np.float64), decimals).tolist()
