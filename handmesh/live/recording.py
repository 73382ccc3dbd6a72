"""Recordings of hands: the json lines of `handmesh-demo --save json` read back, and the same as arrays, as a table, as hands again.

The lines are described in docs/recording.md. A hand is followed by its number; a track is that number on one side, so that a hand whose
side was mistaken for a while is two tracks. A hand that left and came back is one track with frames left out.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from handmesh.errors import UserError, one_line
from handmesh.geometry.camera import project
from handmesh.hand_model.animation import HandMotion, continuous_quats, motion_vertices
from handmesh.hand_model.landmarks import landmarks_m
from handmesh.hand_model.skinning import HandModel
from handmesh.records import Camera, Hand, HandParams
from handmesh.skeleton import JOINTS
from handmesh.wholefile import replacing

SCHEMAS = ("handmesh.hands/1", "handmesh.hands/2")


@dataclass(frozen=True)
class Track:
    """One hand in the T frames that it is in; fields as in `Hand` and `HandParams`, frame after frame.

    Attributes:
        id: the hand's number.
        is_right: True for a right hand.
        frames: (T,) rows of `Recording.times_s`, growing.
        times_s: (T,) of those frames.
        T_camera_wrist: (T, 4, 4).
        rotmats: (T, 16, 3, 3) of the right-hand model; the first of each is the hand's in its crop.
        betas: (T, 10).
        weak_cameras: (T, 3), `HandParams.camera`.
        presence, right_logit, score: (T,).
        scale: (T,); 1 in recordings of the first version.
        joints_m: (T, 21, 3).
        keypoints_px: (T, 21, 2).
        box_px: (T, 4).
    """

    id: int
    is_right: bool
    frames: np.ndarray
    times_s: np.ndarray
    T_camera_wrist: np.ndarray
    rotmats: np.ndarray
    betas: np.ndarray
    weak_cameras: np.ndarray
    presence: np.ndarray
    right_logit: np.ndarray
    score: np.ndarray
    scale: np.ndarray
    joints_m: np.ndarray
    keypoints_px: np.ndarray
    box_px: np.ndarray

    @property
    def name(self) -> str:
        """ "right_0"."""
        return f"{'right' if self.is_right else 'left'}_{self.id}"

    @property
    def motion(self) -> HandMotion:
        """What moves the hand model."""
        return HandMotion(self.name, self.is_right, self.frames, self.T_camera_wrist, self.rotmats, self.betas, self.scale)


@dataclass(frozen=True)
class Recording:
    """The hands of a video.

    Attributes:
        hand_model: id of the model that the hands were posed with.
        camera: of the first frame.
        numbers: (F,) the source's numbers of the frames, growing.
        times_s: (F,) since the source's first frame, growing.
        tracks: by number, then left before right.
        is_cut: the last line was not whole, and is left out: the writer was killed.
    """

    hand_model: str
    camera: Camera
    numbers: np.ndarray
    times_s: np.ndarray
    tracks: tuple[Track, ...]
    is_cut: bool

    @property
    def duration_s(self) -> float:
        """From the first frame to the last."""
        return float(self.times_s[-1] - self.times_s[0])


def read_recording(path: str | Path, advance: Callable[[int], None] | None = None) -> Recording:
    """Read the json lines of a video.

    Args:
        path: hands.jsonl, of the schemas "handmesh.hands/1" and "/2".
        advance: told how many bytes were read, line by line.

    Raises:
        UserError: no such file, or a line that is no frame; a last line without its end is left out instead.
    """
    path = Path(path)
    try:
        with path.open("rb") as lines:
            return _recording_of(lines, path, advance or (lambda _: None))
    except OSError as error:
        raise UserError(f"expected a recording, got '{path}', which cannot be read: {one_line(error)}; check the path") from error


def select(recording: Recording, track: int | None = None, start_s: float | None = None, end_s: float | None = None) -> Recording:
    """Some of a recording's hands and frames; times and numbers stay what they are.

    Args:
        track: a hand's number; None for all.
        start_s, end_s: times of the first and last frame, both included; None for the recording's.

    Raises:
        UserError: no such hand, or no frame between the times.
    """
    known = sorted({each.id for each in recording.tracks})
    if track is not None and track not in known:
        raise UserError(f"expected --track to be one of {', '.join(map(str, known)) or 'none: there are no hands'}, got {track}")
    first_s, last_s = float(recording.times_s[0]), float(recording.times_s[-1])
    start_s, end_s = first_s if start_s is None else start_s, last_s if end_s is None else end_s
    is_kept = (recording.times_s >= start_s) & (recording.times_s <= end_s)
    if not is_kept.any():
        raise UserError(
            f"expected frames between --start {start_s:g} and --end {end_s:g} s, got none; the recording has {first_s:g} to {last_s:g} s"
        )
    rows = np.cumsum(is_kept) - 1
    tracks = [each for each in recording.tracks if track in (None, each.id)]
    kept = [
        replace(_rows_of(each, is_kept[each.frames]), frames=rows[each.frames[is_kept[each.frames]]])
        for each in tracks
        if is_kept[each.frames].any()
    ]
    return replace(recording, numbers=recording.numbers[is_kept], times_s=recording.times_s[is_kept], tracks=tuple(kept))


def check_hand_model(recording: Recording, model: HandModel) -> None:
    """Make sure that the recording's hands were posed with this model.

    Raises:
        UserError: they were not.
    """
    if recording.hand_model != model.id:
        raise UserError(f"expected the hand model of the recording, '{recording.hand_model}', got '{model.id}'; give it with --hand-model")


def frames_of_hands(recording: Recording, model: HandModel) -> Iterator[tuple[int, list[Hand]]]:
    """Row by row, the hands of a frame as the estimator gave them, from left to right, with their meshes.

    Raises:
        UserError: the hands were posed with another model.
    """
    check_hand_model(recording, model)
    model = model.astype(np.float64)
    rows_of_tracks = [{int(frame): index for index, frame in enumerate(track.frames)} for track in recording.tracks]
    for frame in range(len(recording.times_s)):
        seen = [(track, rows[frame]) for track, rows in zip(recording.tracks, rows_of_tracks, strict=True) if frame in rows]
        hands = [_hand(track, index, model, recording.camera) for track, index in seen]
        yield frame, sorted(hands, key=lambda hand: float(hand.box_px[0] + hand.box_px[2]))


def write_csv(recording: Recording, path: str | Path) -> None:
    """One line a hand a frame, in the order of time: time, hand, wrist and 21 joints, metres in the camera's axes."""
    wrist = [f"wrist_{axis}_m" for axis in "xyz"] + [f"wrist_q{part}" for part in "wxyz"]
    joints = [f"{joint}_{axis}_m" for joint in JOINTS for axis in "xyz"]
    rows = []
    for track in recording.tracks:
        positions_m = track.T_camera_wrist[:, :3, 3]
        quats_wxyz = np.roll(continuous_quats(track.T_camera_wrist[:, :3, :3]), 1, axis=-1)
        numbers = np.concatenate([positions_m, quats_wxyz, track.joints_m.reshape(-1, 63)], axis=1)
        side = "right" if track.is_right else "left"
        rows += [
            (int(frame), [int(recording.numbers[frame]), f"{time_s:.6f}", track.id, side, f"{score:.4f}", *(f"{x:.6f}" for x in line)])
            for frame, time_s, score, line in zip(track.frames, track.times_s, track.score, numbers, strict=True)
        ]
    rows.sort(key=lambda row: row[0])
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["frame", "time_s", "track_id", "side", "score", *wrist, *joints])
        writer.writerows(line for _, line in rows)


def write_npz(recording: Recording, path: str | Path) -> None:
    """The whole recording as arrays: F frames, and N rows, each a hand in a frame, in the order of time.

    numbers and times_s (F,); row_frame (N,) indices into them; row_time_s, track_id, is_right, score, presence, right_logit, scale (N,);
    T_camera_wrist (N, 4, 4), rotmats (N, 16, 3, 3), betas (N, 10), weak_cameras (N, 3), joints_m (N, 21, 3), keypoints_px (N, 21, 2),
    box_px (N, 4); hand_model; K (3, 3), distortion, picture_size_px (width, height).
    """
    tracks, camera = recording.tracks, recording.camera
    frames = np.concatenate([track.frames for track in tracks]) if tracks else np.zeros(0, np.int64)
    order = np.argsort(frames, kind="stable")

    def joined(values: list[np.ndarray], shape: tuple[int, ...] = ()) -> np.ndarray:
        return np.concatenate(values)[order] if values else np.zeros((0, *shape))

    arrays = {name: joined([getattr(track, name) for track in tracks], shape) for name, shape in _HAND_SHAPES.items()}
    with replacing(path) as temporary:
        np.savez_compressed(
            temporary,
            numbers=recording.numbers,
            times_s=recording.times_s,
            row_frame=frames[order],
            row_time_s=recording.times_s[frames[order]],
            track_id=joined([np.full(len(track.frames), track.id) for track in tracks]).astype(np.int64),
            is_right=joined([np.full(len(track.frames), track.is_right) for track in tracks]).astype(bool),
            hand_model=np.array(recording.hand_model),
            K=camera.K,
            distortion=np.array(camera.distortion, np.float64),
            picture_size_px=np.array([camera.width, camera.height]),
            **arrays,
        )


# Fields of `Track` that come from the lines: where in a hand's object they are, and their shapes.
_HAND_SHAPES: dict[str, tuple[int, ...]] = {
    "T_camera_wrist": (4, 4),
    "rotmats": (16, 3, 3),
    "betas": (10,),
    "weak_cameras": (3,),
    "presence": (),
    "right_logit": (),
    "score": (),
    "scale": (),
    "joints_m": (21, 3),
    "keypoints_px": (21, 2),
    "box_px": (4,),
}
_IN_PARAMS = {"rotmats": "rotmats", "betas": "betas", "weak_cameras": "camera", "presence": "presence", "right_logit": "right_logit"}


_CUT = object()


class _LineError(Exception):
    """What is wrong with a line: "expected ..., got ..."."""


def _recording_of(lines: Iterable[bytes], path: Path, advance: Callable[[int], None]) -> Recording:
    frames: list[dict[str, Any]] = []
    rows: dict[tuple[int, bool], list[tuple[int, dict[str, np.ndarray]]]] = {}
    camera, is_cut = None, False
    for number, line in enumerate(lines, 1):
        advance(len(line))
        try:
            frame = _json_of(line)
            if frame is _CUT:
                is_cut = True
                break
            _check_frame(frame, frames[-1] if frames else None)
            camera = camera or _camera_of(frame["camera"])
            for key, hand in _hands_of(frame["hands"], has_scale=frame["schema"] != SCHEMAS[0]).items():
                rows.setdefault(key, []).append((len(frames), hand))
        except _LineError as fault:
            raise UserError(f"{fault} in line {number} of '{path}'; a recording is the hands.jsonl of handmesh-demo --save json") from fault
        frames.append({name: frame[name] for name in ("frame", "time_s", "hand_model")})
    if camera is None:
        raise UserError(f"expected frames in '{path}', got none; a recording is the hands.jsonl of handmesh-demo --save json")
    times_s = np.array([frame["time_s"] for frame in frames], np.float64)
    tracks = tuple(_track(*key, rows[key], times_s) for key in sorted(rows))
    return Recording(frames[0]["hand_model"], camera, np.array([frame["frame"] for frame in frames]), times_s, tracks, is_cut)


def _json_of(line: bytes) -> Any:
    """The object of a line, or `_CUT` for one that ends in the middle, as that of a writer that was killed does."""
    try:
        return json.loads(line)
    except ValueError as error:
        if not line.endswith(b"\n"):
            return _CUT
        raise _LineError(f"expected a frame in json, got {_shown(line.decode(errors='replace').strip())}") from error


def _check_frame(frame: Any, before: dict[str, Any] | None) -> None:
    if not isinstance(frame, dict) or frame.get("schema") not in SCHEMAS:
        came = frame.get("schema", "no schema") if isinstance(frame, dict) else frame
        raise _LineError(f"expected a frame of schema {' or '.join(SCHEMAS)}, got {_shown(came)}")
    for name, kind in (("frame", int), ("time_s", (int, float)), ("hand_model", str), ("camera", dict), ("hands", list)):
        if not isinstance(_entry(frame, name), kind) or isinstance(frame[name], bool):
            raise _LineError(f"expected '{name}' as docs/recording.md has it, got {_shown(frame[name])}")
    _numbers(frame, "time_s", ())
    if before is None:
        return
    if frame["hand_model"] != before["hand_model"]:
        raise _LineError(f"expected the hand model of the lines before, '{before['hand_model']}', got '{frame['hand_model']}'")
    for name in ("frame", "time_s"):
        if not frame[name] > before[name]:
            raise _LineError(f"expected '{name}' to grow from {before[name]}, got {frame[name]}")


def _camera_of(values: dict[str, Any]) -> Camera:
    numbers = {name: float(_numbers(values, name, ())) for name in ("fx", "fy", "cx", "cy", "width", "height")}
    if min(numbers["fx"], numbers["fy"], numbers["width"], numbers["height"]) <= 0:
        raise _LineError("expected a camera with a positive focal length and size, got another")
    distortion = _entry(values, "distortion")
    sizes = {name: int(numbers.pop(name)) for name in ("width", "height")}
    if not isinstance(distortion, list):
        raise _LineError(f"expected 'distortion' as a list, got {_shown(distortion)}")
    coefficients = tuple(_numbers(values, "distortion", (len(distortion),)).tolist())
    return Camera(**numbers, **sizes, distortion=coefficients, is_known=bool(_entry(values, "is_known")))


def _hands_of(hands: list[Any], has_scale: bool) -> dict[tuple[int, bool], dict[str, np.ndarray]]:
    """The arrays of each hand by number and side."""
    found = {}
    for hand in hands:
        if not isinstance(hand, dict):
            raise _LineError(f"expected a hand, got {_shown(hand)}")
        identity, is_right, params = (_entry(hand, name) for name in ("track_id", "is_right", "params"))
        if type(identity) is not int or type(is_right) is not bool or not isinstance(params, dict):
            raise _LineError(f"expected a hand's track_id, is_right and params, got {_shown([identity, is_right, params])}")
        if (identity, is_right) in found:
            raise _LineError(f"expected each hand once, got track {identity} twice")
        arrays = {}
        for name, shape in _HAND_SHAPES.items():
            if name == "scale" and not has_scale:
                arrays[name] = np.ones(())
            else:
                arrays[name] = _numbers(params, _IN_PARAMS[name], shape) if name in _IN_PARAMS else _numbers(hand, name, shape)
        found[identity, is_right] = arrays
    return found


def _entry(values: dict[str, Any], name: str) -> Any:
    if name not in values:
        raise _LineError(f"expected '{name}', got only {_shown(', '.join(values))}")
    return values[name]


def _numbers(values: dict[str, Any], name: str, shape: tuple[int, ...]) -> np.ndarray:
    """An entry as an array of numbers."""
    value = _entry(values, name)
    expected = f"numbers of shape {shape}" if shape else "a number"
    try:
        array = np.array(value, np.float64)
    except (TypeError, ValueError) as error:
        raise _LineError(f"expected '{name}' to be {expected}, got {_shown(value)}") from error
    if array.shape != shape or not np.isfinite(array).all():
        raise _LineError(f"expected '{name}' to be {expected}, got {_shown(value)}")
    return array


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return f"'{text}'" if len(text) <= 60 else f"'{text[:57]}...'"


def _track(identity: int, is_right: bool, rows: list[tuple[int, dict[str, np.ndarray]]], times_s: np.ndarray) -> Track:
    frames = np.array([frame for frame, _ in rows])
    arrays = {name: np.stack([hand[name] for _, hand in rows]) for name in _HAND_SHAPES}
    return Track(id=identity, is_right=is_right, frames=frames, times_s=times_s[frames], **arrays)


def _rows_of(track: Track, which: np.ndarray | slice) -> Track:
    """Some of a track's frames."""
    return replace(track, **{name: getattr(track, name)[which] for name in ("frames", "times_s", *_HAND_SHAPES)})


def _hand(track: Track, index: int, model: HandModel, camera: Camera) -> Hand:
    one = _rows_of(track, slice(index, index + 1))
    return Hand(
        vertices_m=motion_vertices(model, one.motion)[0],
        joints_m=one.joints_m[0],
        keypoints_px=one.keypoints_px[0],
        landmarks_px=project(
            landmarks_m(one.joints_m[0], one.T_camera_wrist[0, :3, :3], one.rotmats[0], track.is_right, float(one.scale[0])), camera
        ),
        T_camera_wrist=one.T_camera_wrist[0],
        params=HandParams(one.rotmats[0], one.betas[0], one.weak_cameras[0], float(one.presence[0]), float(one.right_logit[0])),
        box_px=one.box_px[0],
        score=float(one.score[0]),
        is_right=track.is_right,
        track_id=track.id,
        scale=float(one.scale[0]),
    )
