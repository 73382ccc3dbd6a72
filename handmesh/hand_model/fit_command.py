"""`handmesh-hand fit`: one model's hands, as files hold them, become another model's parameters."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from handmesh.errors import UserError, one_line
from handmesh.hand_model.assets import NPZ_FAULTS, load_hand_model
from handmesh.hand_model.fit import FitResult, LeftHandError, fit_pose
from handmesh.hand_model.skinning import HandModel, mirror_points, skin
from handmesh.skeleton import JOINTS, ROOT
from handmesh.wholefile import replacing

_AT_ONCE = 64
# Fewer hands than this are done before a bar could be read.
_BAR_FROM = 200
_ENDINGS = (".npz", ".json", ".jsonl")
# Beyond it a shape is no hand's, and far beyond no number's.
LARGEST_BETA = 20.0
# Bytes. The usual limit is 255, and a file is first written under a longer name.
_LONGEST_NAME = 240


@dataclass(frozen=True)
class FitCommand:
    """Find the parameters of a hand model whose joints lie nearest to given ones: open hand to MANO, and back.

    Left hands are fitted as their mirror images, as everywhere in handmesh: the parameters are the right-hand model's.
    The result holds, for N hands: rotmats (N, 16, 3, 3), betas (N, 10), transl_m (N, 3); root_m (N, 3) and joints_m
    (N, 21, 3) where the input's joints are (with --from: where its rotmats pose them); residual_mm (N, 21), is_right,
    track_id, frame (N,), hand_model.
    """

    input: Annotated[str, tyro.conf.arg(metavar="PATH")]
    """What handmesh-demo wrote with --save json or npz (a file, or a video's folder of them), or an npz with joints_m (N, 21, 3)."""
    to: str = "mano"
    """Hand model to fit: open, open-dense, mano, or an npz."""
    from_model: Annotated[str | None, tyro.conf.arg(aliases=["--from"])] = None
    """Hand model that poses the input's rotmats and betas; without it, the input's joints_m are fitted."""
    out: Path = Path("fitted.npz")
    """Where the parameters go."""
    left: tyro.conf.FlagCreatePairsOff[bool] = False
    """All hands of the input are left ones; only for an input that does not say."""


@dataclass(frozen=True)
class HandArrays:
    """N hands of a file: what is None, it does not say.

    Attributes:
        frame: (N,) which frame of the input a hand is in.
        joints_m: (N, 21, 3) in `skeleton.JOINTS` order.
        rotmats: (N, 16, 3, 3), and betas (N, 10): of the right-hand model.
        is_right, track_id: (N,).
    """

    frame: np.ndarray
    joints_m: np.ndarray | None = None
    rotmats: np.ndarray | None = None
    betas: np.ndarray | None = None
    is_right: np.ndarray | None = None
    track_id: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.frame)


# Of one hand. The arrays that count in a file.
_SHAPES = {"frame": (), "joints_m": (len(JOINTS), 3), "rotmats": (16, 3, 3), "betas": (10,), "is_right": (), "track_id": ()}
_KINDS = {"frame": np.int64, "is_right": bool, "track_id": np.int64}


def run_fit(command: FitCommand) -> None:
    """Read, fit, write, and say how near the joints came.

    Raises:
        UserError: a file that holds no hands, a hand model that is not there, a place that cannot be written to.
    """
    if not command.input:
        raise UserError("expected --input as a file or folder that handmesh-demo --save json,npz wrote, got ''; '.' is the current folder")
    hands = read_hands(Path(command.input))
    if not len(hands):
        raise UserError(f"expected hands in '{command.input}', which holds none; give another --input")
    if command.left and hands.is_right is not None:
        raise UserError(f"'{command.input}' says which of its hands are left ones; leave --left out")
    if command.out.suffix != ".npz":
        raise UserError(f"expected --out to end in .npz, got '{command.out}'; choose another name")
    check_place(command.out)
    is_right = np.full(len(hands), not command.left) if hands.is_right is None else hands.is_right
    model = load_hand_model(command.to)
    targets_m = _targets(hands, is_right, command)
    try:
        result = _fit_with_bar(model, targets_m)
    except LeftHandError as error:
        raise UserError(_other_side(command, hands, error)) from error
    arrays = _fitted_arrays(model, hands, is_right, result, is_mirrored=command.from_model is None)
    try:
        with replacing(command.out) as temporary:
            np.savez(temporary, **arrays)
    except OSError as error:
        raise UserError(f"expected to write '{command.out}', but {one_line(error)}; give another --out") from error
    print(residual_summary(result.residual_mm, model.id))
    print(f"wrote {command.out}")


def check_place(out: Path) -> None:
    """Refuse a place before the work whose result could not be written there.

    Raises:
        UserError: no such folder, or too long a name.
    """
    if not os.path.isdir(out.parent):
        raise UserError(f"expected --out in a folder that exists, got '{out}'; make the folder first")
    length = len(os.fsencode(out.name))
    if length > _LONGEST_NAME:
        raise UserError(f"expected --out with a name of at most {_LONGEST_NAME} bytes, got one of {length}; choose a shorter one")


def residual_summary(residual_mm: np.ndarray, model_id: str) -> str:
    """Two lines on the fits (N, 21), in millimetres: over all joints, and the joint that fits worst."""
    count = len(residual_mm)
    by_joint_mm = residual_mm.mean(axis=0)
    worst = int(by_joint_mm.argmax())
    hand, joint = np.unravel_index(residual_mm.argmax(), residual_mm.shape)
    where = f" (hand {hand})" if count > 1 else ""
    return (
        f"{count} {'hand' if count == 1 else 'hands'} as {model_id}: joints are {residual_mm.mean():.2f} mm from the input's on average\n"
        f"worst joint {JOINTS[worst]} with {by_joint_mm[worst]:.2f} mm; largest {residual_mm[hand, joint]:.2f} mm at {JOINTS[joint]}{where}"
    )


def read_hands(path: Path) -> HandArrays:
    """The hands of a file of handmesh-demo, of a folder of them, or of anybody's npz with arrays of the same names.

    Args:
        path: .npz, .json, .jsonl, or a folder with .npz or .json.

    Raises:
        UserError: nothing there, nothing that may be read, another format, arrays of other shapes.
    """
    try:
        if os.path.isdir(path):
            files = sorted(file for file in path.iterdir() if file.suffix in _ENDINGS and os.path.isfile(file))
        elif os.path.isfile(path):
            files = [path]
        else:
            raise UserError(f"expected --input as a file or folder of handmesh-demo --save json,npz, got '{path}', which is not there")
        parts = [each for number, file in enumerate(files) for each in _read_file(file, number)]
    except (OSError, MemoryError) as error:
        raise UserError(f"expected to read '{path}', but {one_line(error)}; give another --input") from error
    return _joined(parts, path)


def _read_file(path: Path, frame: int) -> Iterator[HandArrays]:
    if path.suffix == ".npz":
        yield _from_npz(path, frame)
    elif path.suffix == ".json":
        yield _from_json(_json(path.read_bytes(), str(path)), frame, str(path))
    elif path.suffix == ".jsonl":
        for number, line in enumerate(path.read_bytes().splitlines()):
            where = f"{path}, line {number + 1}"
            yield _from_json(_json(line, where), number, where)
    else:
        raise UserError(f"expected --input to end in {', '.join(_ENDINGS)}, got '{path}'; write one with handmesh-demo --save npz")


def _json(text: bytes, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"expected json of handmesh-demo in '{where}', which does not parse: {one_line(error)}") from error


def _from_json(value: Any, frame: int, where: str) -> HandArrays:
    try:
        hands = value["hands"]
        columns = {
            "frame": [value["frame"] for _ in hands] if "frame" in value else [frame for _ in hands],
            "joints_m": [hand["joints_m"] for hand in hands],
            "rotmats": [hand["params"]["rotmats"] for hand in hands],
            "betas": [hand["params"]["betas"] for hand in hands],
            "is_right": [hand["is_right"] for hand in hands],
            "track_id": [hand["track_id"] for hand in hands],
        }
    except (KeyError, TypeError) as error:
        raise UserError(f"expected json of handmesh-demo in '{where}', but part of it is missing ({one_line(error)})") from error
    return _checked(columns, len(hands), where)


def _from_npz(path: Path, frame: int) -> HandArrays:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise UserError(
                f"expected an npz of hands, got '{path}', which holds a single array; save it with np.savez(path, joints_m=...)"
            )
        with loaded as arrays:
            columns = {name: arrays[name] for name in _SHAPES if name in arrays}
    except NPZ_FAULTS as error:
        raise UserError(f"expected an npz of hands, got '{path}', which cannot be read ({one_line(error)}); make it again") from error
    if not columns.keys() & {"joints_m", "rotmats"}:
        raise UserError(f"expected joints_m (N, 21, 3), or rotmats and betas, in '{path}', which has neither; write it with --save npz")
    count = len(np.atleast_1d(columns["joints_m" if "joints_m" in columns else "rotmats"]))
    # Last, and without memory of its own: a file may claim any number of hands until the others are checked.
    columns.setdefault("frame", np.broadcast_to(frame, count))
    return _checked(columns, count, str(path))


def _checked(columns: dict[str, Any], count: int, where: str) -> HandArrays:
    arrays = {}
    for name, values in columns.items():
        shape = _SHAPES[name]
        expected = f"{name} ({', '.join(map(str, ('N', *shape)))})"
        try:
            array = np.asarray(values)
        except (TypeError, ValueError, OverflowError) as error:
            raise UserError(f"expected {expected} in '{where}', which holds something else ({one_line(error)})") from error
        if array.size and array.dtype.kind not in "biuf":
            raise UserError(f"expected {expected} in '{where}', got {array.dtype} values; save real numbers")
        if array.shape != (count, *shape) and (count or array.size):
            raise UserError(f"expected {expected} in '{where}', got {array.shape}; write it with handmesh-demo --save npz")
        if not np.isfinite(array).all():
            raise UserError(f"expected finite numbers in '{where}', but {name} holds others; leave such hands out")
        with np.errstate(invalid="ignore"):
            converted = array.astype(_KINDS.get(name, np.float64)).reshape(count, *shape)
        if name in _KINDS and (converted != array.reshape(converted.shape)).any():
            kind = "true or false (1 or 0)" if name == "is_right" else "whole numbers"
            raise UserError(f"expected {name} in '{where}' as {kind}, got others; mend {name}")
        arrays[name] = converted
    return HandArrays(**arrays)


def _joined(parts: Sequence[HandArrays], path: Path) -> HandArrays:
    parts = [part for part in parts if len(part)]
    columns = {}
    for name in (field.name for field in fields(HandArrays)) if parts else ():
        values = [getattr(part, name) for part in parts]
        missing = sum(value is None for value in values)
        if 0 < missing < len(values):
            raise UserError(f"expected {name} in all files of '{path}' or in none, but {missing} of {len(values)} lack it")
        if not missing:
            columns[name] = np.concatenate(values)
    return HandArrays(**columns) if columns else HandArrays(np.zeros(0, np.int64))


def _targets(hands: HandArrays, is_right: np.ndarray, command: FitCommand) -> np.ndarray:
    """(N, 21, 3) joints of right hands: left ones mirrored."""
    if command.from_model is None:
        if hands.joints_m is None:
            raise UserError(f"'{command.input}' has no joints_m; name the hand model of its rotmats and betas with --from")
        return np.where(is_right[:, None, None], hands.joints_m, mirror_points(hands.joints_m))
    if hands.rotmats is None or hands.betas is None:
        raise UserError(f"--from needs rotmats and betas, which '{command.input}' does not have; leave --from out to fit its joints_m")
    _check_params(hands.rotmats, hands.betas, command.input)
    source = load_hand_model(command.from_model)
    return _joints_m(source, hands.rotmats, hands.betas)


def _joints_m(model: HandModel, rotmats: np.ndarray, betas: np.ndarray) -> np.ndarray:
    """(N, 21, 3) joints of posed hands, some at a time: meshes of a whole video would fill the memory."""
    chunks = [slice(first, first + _AT_ONCE) for first in range(0, len(rotmats), _AT_ONCE)]
    return np.concatenate([model.joints(skin(model, rotmats[chunk], betas[chunk])) for chunk in chunks])


def _check_params(rotmats: np.ndarray, betas: np.ndarray, where: str) -> None:
    is_turn = (np.abs(rotmats) < 1.01).all(axis=(1, 2, 3))
    near = np.where(is_turn[:, None, None, None], rotmats, 0)
    is_turn &= (np.abs(near @ np.swapaxes(near, -1, -2) - np.eye(3)) < 0.01).all(axis=(1, 2, 3))
    is_turn &= (np.linalg.det(near) > 0).all(axis=1)
    if not is_turn.all():
        raise UserError(f"expected rotmats of rotations in '{where}', but those of hand {is_turn.argmin()} are none; mend it")
    if np.abs(betas).max() > LARGEST_BETA:
        raise UserError(
            f"expected betas from {-LARGEST_BETA:g} to {LARGEST_BETA:g} in '{where}', got {np.abs(betas).max():g}; make it again"
        )


def _other_side(command: FitCommand, hands: HandArrays, error: LeftHandError) -> str:
    """What to do about a hand that fits much better mirrored."""
    which = f"hand {error.hand} of '{command.input}' fits much better mirrored"
    if command.from_model is not None:
        return f"expected a right hand's model with --from, but {which} as '{command.to}'; give another --from or --to"
    if hands.is_right is not None:
        return f"expected is_right to say which hands are right ones, but {which}; mend is_right in the file"
    if command.left:
        return f"expected joints of left hands, but {which}; leave --left out"
    return f"expected joints of right hands, but {which}; if all are left hands, add --left; if some are, save is_right (N,) with them"


def _fit_with_bar(model: HandModel, targets_m: np.ndarray) -> FitResult:
    columns = (TextColumn("fitting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=len(targets_m) < _BAR_FROM) as progress:
        bar = progress.add_task("hands", total=len(targets_m))
        results = []
        for first in range(0, len(targets_m), _AT_ONCE):
            try:
                results.append(fit_pose(model, targets_m[first : first + _AT_ONCE]))
            except LeftHandError as error:
                raise LeftHandError(first + error.hand, len(targets_m)) from error
            except UserError as error:
                # It counts from the first that it was given.
                raise UserError(f"hands from number {first} on: {error}" if first else str(error)) from error
            progress.advance(bar, len(results[-1].betas))
    return FitResult(*(np.concatenate([getattr(result, field.name) for result in results]) for field in fields(FitResult)))


def _fitted_arrays(
    model: HandModel, hands: HandArrays, is_right: np.ndarray, result: FitResult, is_mirrored: bool
) -> dict[str, np.ndarray | str]:
    joints_m = _joints_m(model, result.rotmats, result.betas) + result.transl[:, None]
    if is_mirrored:
        joints_m = np.where(is_right[:, None, None], joints_m, mirror_points(joints_m))
    arrays: dict[str, np.ndarray | str] = {
        "rotmats": result.rotmats,
        "betas": result.betas,
        "transl_m": result.transl,
        "root_m": joints_m[:, ROOT],
        "joints_m": joints_m,
        "residual_mm": result.residual_mm,
        "is_right": is_right,
        "frame": hands.frame,
        "hand_model": model.id,
    }
    return arrays if hands.track_id is None else {**arrays, "track_id": hands.track_id}
