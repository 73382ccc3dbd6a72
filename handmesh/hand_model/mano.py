"""MANO's own files, as they are downloaded or as people convert them, to a checked right-hand `HandModel`.

Every byte is taken as a stranger's: pickles go through `unpickle`, archives are read in memory and never unpacked,
and sizes are bounded before anything is allocated. Knows the layout of MANO's files, not MANO's numbers.
"""

from __future__ import annotations

import io
import math
import os
import stat
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from handmesh.errors import UserError, one_line
from handmesh.geometry.rotation import mirror_rotmat, mirror_rotvec
from handmesh.hand_model.assets import load_hand_model
from handmesh.hand_model.skinning import HandModel, check_model, mirror_points
from handmesh.hand_model.unpickle import LARGEST_FILE_BYTES, read_pickle
from handmesh.skeleton import FREIHAND_TIP_VERTICES, MANO_JOINTS, MANO_PARENTS

# MANO's shape components carry no names.
MANO_BETA_NAMES = tuple(f"component {number}" for number in range(1, 11))

# The id says which file a model came from, not MANO's version, which the files do not tell.
MANO_ID = "mano-right"
MANO_FROM_LEFT_ID = "mano-right-from-left"

_FILE_NAMES = ("mano_right.pkl", "mano_left.pkl")
_VERTICES = 778
_SHAPES = {
    "v_template": (_VERTICES, 3),
    "shapedirs": (_VERTICES, 3, 10),
    "posedirs": (_VERTICES, 3, 135),
    "J_regressor": (16, _VERTICES),
    "weights": (_VERTICES, 16),
    "f": (1538, 3),
    "kintree_table": (2, 16),
    "hands_mean": (45,),
    "hands_components": (45, 45),
}
_INDICES = ("f", "kintree_table")
# What these say must be so, for the arrays to mean what they do here.
_TEXTS = {"bs_style": "lbs", "bs_type": "lrotmin"}
# The parent of the wrist, an unsigned -1.
_NO_PARENT = 4294967295
# A hand at rest, in metres, along its longest side; millimetres and centimetres are far outside.
_LENGTH_M = (0.1, 0.4)
_LARGEST_VALUE = 1000.0

_FOLDER_LEVELS = 3
_MOST_FOLDERS = 5000
_MOST_MEMBERS = 10_000
_ARCHIVE_FAULTS = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError, struct.error)

SHAPE_BUG = "the x row of its shapedirs has the wrong sign (smplx issue 48); where you use that file elsewhere, negate shapedirs[:, 0, :]"


@dataclass(frozen=True)
class ManoImport:
    """What an import found.

    Attributes:
        model: the right hand, single precision.
        source: the file that it came from, in words.
        was_left: True where it is a mirrored left hand.
        notes: what the user should know, a line each.
    """

    model: HandModel
    source: str
    was_left: bool
    notes: tuple[str, ...]


def read_mano(path: str | Path) -> ManoImport:
    """Read MANO from what its user has.

    Args:
        path: MANO_RIGHT.pkl or MANO_LEFT.pkl, MANO's zip archive, a folder that holds them, or an npz: a hand model as
            `save_hand_model` writes it, or arrays under MANO's names. The right hand is taken where there are both.

    Raises:
        UserError: nothing there, or not MANO: says what was expected and what came.
    """
    path = Path(path)
    if os.path.isdir(path):
        return _choose({str(found): partial(_read_file, found) for found in _find_in_folder(path)})
    head = _head(path)
    if head.startswith(b"PK"):
        names = _check_archive(path)
        found = [min(matches, key=len) for wanted in _FILE_NAMES if (matches := [n for n in names if _file_name(n) == wanted])]
        if not found and any(name.endswith(".npy") for name in names):
            return _read_npz(path, names)
        if not found:
            raise UserError(f"expected MANO_RIGHT.pkl in '{path}', whose {len(names)} files have none; give MANO's mano_v1_2.zip")
        return _choose({f"{path}: {name}": partial(_read_member, path, name) for name in found})
    if head.startswith((b"<", b"\r\n<", b"\n<")):
        raise UserError(f"expected MANO in '{path}', but it is a web page: log in, then download it again")
    return _choose({str(path): partial(_read_file, path)})


# Files


def _head(path: Path) -> bytes:
    if not os.path.isfile(path):
        raise UserError(f"expected MANO_RIGHT.pkl, mano_v1_2.zip, a folder or an npz, got '{path}', which is not there")
    try:
        with path.open("rb") as file:
            return file.read(8)
    except OSError as error:
        raise UserError(f"expected MANO in '{path}', which cannot be read ({one_line(error)})") from error


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(LARGEST_FILE_BYTES + 1)
    except OSError as error:
        raise UserError(f"expected MANO in '{path}', which cannot be read ({one_line(error)})") from error


def _file_name(name: str) -> str:
    return PurePosixPath(name).name.lower()


def _find_in_folder(folder: Path) -> list[Path]:
    """The right hand's file, then the left's, of those that are there; the nearest to the top of each."""
    found: dict[str, Path] = {}
    level, seen = [folder], 0
    for _ in range(_FOLDER_LEVELS + 1):
        deeper: list[Path] = []
        for place in level:
            seen += 1
            if seen > _MOST_FOLDERS:
                raise UserError(f"expected MANO's folder, got '{folder}', which has more than {_MOST_FOLDERS} folders; name a smaller one")
            try:
                entries = sorted(os.scandir(place), key=lambda entry: entry.name)
            except OSError:
                # Folders of others on the way.
                continue
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    deeper.append(Path(entry.path))
                elif entry.name.lower() in _FILE_NAMES and entry.is_file():
                    found.setdefault(entry.name.lower(), Path(entry.path))
        level = deeper
    if not found:
        raise UserError(
            f"expected MANO_RIGHT.pkl in '{folder}' or at most {_FOLDER_LEVELS} folders below, which have none; name the file itself"
        )
    return [found[name] for name in _FILE_NAMES if name in found]


def _check_archive(path: Path) -> list[str]:
    """The names of a zip's files; refuses what an honest archive does not have, although nothing is ever unpacked."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except _ARCHIVE_FAULTS as error:
        raise UserError(f"expected MANO's zip or an npz, got '{path}', which cannot be read ({one_line(error)}); get it again") from error
    if len(members) > _MOST_MEMBERS:
        raise UserError(f"expected MANO's zip, got '{path}' with {len(members)} files; give mano_v1_2.zip")
    for member in members:
        name = member.filename.replace("\\", "/")
        is_outside = name.startswith("/") or ":" in name or ".." in name.split("/") or not name.isprintable()
        if is_outside or stat.S_ISLNK(member.external_attr >> 16):
            raise UserError(f"expected MANO's zip, got '{path}', where {name[:60]!a} leads out of the archive: refused")
    return [member.filename for member in members if not member.filename.endswith("/")]


def _read_member(path: Path, name: str) -> bytes:
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.getinfo(name)
            if member.file_size > LARGEST_FILE_BYTES:
                raise ValueError(f"it would have {member.file_size >> 20} MB, MANO's files have 4 MB")
            if member.flag_bits & 1:
                raise ValueError("it is encrypted")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"it is compressed by method {member.compress_type}")
            with archive.open(member) as stream:
                return stream.read(LARGEST_FILE_BYTES + 1)
    except _ARCHIVE_FAULTS as error:
        raise UserError(f"expected {name[:60]!a} in '{path}', which cannot be read ({one_line(error)}); get it again") from error


def _read_npz(path: Path, names: list[str]) -> ManoImport:
    total_bytes, entries = 0, {}
    for name in names:
        data = _read_member(path, name)
        total_bytes += len(data)
        if total_bytes > LARGEST_FILE_BYTES:
            raise UserError(f"expected MANO's arrays in '{path}', got more than {LARGEST_FILE_BYTES >> 20} MB; MANO has 4 MB")
        entries[name.removesuffix(".npy")] = _read_npy(data, f"{path}: {name}")
    if "template_m" not in entries:
        return _choose_arrays({str(path): _check_arrays(entries, str(path))})
    model = load_hand_model(path)
    if not model.id.startswith(MANO_ID):
        raise UserError(f"expected MANO in '{path}', got the hand model '{model.id}'; use it with --hand-model '{path}', without an import")
    return ManoImport(model, str(path), model.id == MANO_FROM_LEFT_ID, ())


def _read_npy(data: bytes, where: str) -> np.ndarray:
    """One array; its size is checked before numpy, which believes the header, makes it."""
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        elif version == (2, 0):
            shape, is_fortran, dtype = np.lib.format.read_array_header_2_0(stream)
        else:
            raise ValueError(f"it has version {version} of the format")
        if dtype.kind not in "biufU":
            raise ValueError("it is a pickled object: import the original .pkl instead")
        if math.prod(shape) * dtype.itemsize != len(data) - stream.tell() or not dtype.itemsize:
            raise ValueError("it has another size than it claims")
        return np.frombuffer(data, dtype, offset=stream.tell()).reshape(shape, order="F" if is_fortran else "C")
    except (ValueError, TypeError, SyntaxError, tokenize.TokenError, RecursionError, MemoryError) as error:
        raise UserError(f"expected an array of numbers in '{where}', but {one_line(error)}") from error


# Arrays


@dataclass(frozen=True)
class _ManoHand:
    """One of MANO's two hands in its own frame: `HandModel`'s arrays, of either side."""

    template_m: np.ndarray
    shape_dirs: np.ndarray
    pose_dirs: np.ndarray
    joint_regressor: np.ndarray
    skin_weights: np.ndarray
    faces: np.ndarray
    mean_pose: np.ndarray
    pose_components: np.ndarray


def _choose(files: Mapping[str, Callable[[], bytes]]) -> ManoImport:
    """The model of the files found; one that cannot be read only stops the import where nothing else is left."""
    hands: dict[str, _ManoHand] = {}
    faults: dict[str, UserError] = {}
    for source, read in files.items():
        try:
            hands[source] = _check_arrays(read_pickle(read(), source), source)
        except UserError as fault:
            faults[source] = fault
    if not hands or (len(hands) == 1 and faults and not _is_right(next(iter(hands.values())))):
        raise next(iter(faults.values()))
    return _choose_arrays(hands, tuple(f"not read: {fault}" for fault in faults.values()))


def _choose_arrays(hands: Mapping[str, _ManoHand], notes: tuple[str, ...] = ()) -> ManoImport:
    rights = [source for source, hand in hands.items() if _is_right(hand)]
    lefts = [source for source in hands if source not in rights]
    right = hands[rights[0]] if rights else None
    messages = list(notes)
    for source in hands:
        named, is_right = _file_name(source.replace("\\", "/")), source in rights
        if ("left" in named and is_right) or ("right" in named and not is_right):
            side, direction = ("right", "-x") if is_right else ("left", "+x")
            messages.append(f"'{source}' is a {side} hand, whatever its name says: its fingers point along {direction}; taken as one")
    for source in lefts:
        left = hands[source]
        if not has_shape_bug(left.template_m, left.shape_dirs, None if right is None else right.shape_dirs):
            continue
        messages.append(f"'{source}': {SHAPE_BUG}{'; mended in the copy made here' if right is None else ''}")
        hands = {**hands, source: replace(left, shape_dirs=left.shape_dirs * np.array([-1.0, 1.0, 1.0])[:, None])}
    if right is not None:
        return ManoImport(_model(right, MANO_ID, rights[0]), rights[0], False, tuple(messages))
    return ManoImport(_model(_mirror(hands[lefts[0]]), MANO_FROM_LEFT_ID, lefts[0]), lefts[0], True, tuple(messages))


def _check_arrays(entries: Mapping[str, np.ndarray | str], where: str) -> _ManoHand:
    """Raises UserError, in one line, for whatever MANO's files do not have."""

    def wrong(what: str) -> UserError:
        return UserError(f"expected MANO's arrays in '{where}', but {what}; give the original file")

    missing = [name for name in _SHAPES if name not in entries]
    if missing:
        raise wrong(f"it has no {', '.join(missing)}")
    arrays: dict[str, np.ndarray] = {}
    for name, shape in _SHAPES.items():
        array = entries[name]
        if not isinstance(array, np.ndarray) or array.dtype.kind not in ("iu" if name in _INDICES else "f"):
            raise wrong(f"{name} is not an array of {'indices' if name in _INDICES else 'real numbers'}")
        if array.shape != shape:
            raise wrong(f"{name} is {array.shape}, expected {shape}")
        arrays[name] = array.astype(np.int64 if name in _INDICES else np.float64)
        if name not in _INDICES and not (np.abs(arrays[name]) < _LARGEST_VALUE).all():
            raise wrong(f"{name} holds values that are not finite or far from any hand's")
    for name, expected in _TEXTS.items():
        if name in entries and str(entries[name]) != expected:
            raise wrong(f"{name} is {str(entries[name])[:20]!a}, expected '{expected}'")
    parents, joints = arrays["kintree_table"]
    if tuple(np.where(parents == _NO_PARENT, -1, parents)) != MANO_PARENTS or tuple(joints) != tuple(range(len(MANO_JOINTS))):
        raise wrong("kintree_table is another skeleton's")
    if arrays["f"].min() < 0 or arrays["f"].max() >= _VERTICES:
        raise wrong(f"f names vertices outside 0..{_VERTICES - 1}")
    length_m = np.ptp(arrays["v_template"], axis=0).max()
    if not _LENGTH_M[0] < length_m < _LENGTH_M[1]:
        raise wrong(f"its hand is {length_m:.3g} m long at rest, expected {_LENGTH_M[0]} to {_LENGTH_M[1]} m")
    for name in ("J_regressor", "weights"):
        if np.abs(arrays[name].sum(axis=1) - 1).max() > 1e-3:
            raise wrong(f"rows of {name} do not sum to 1")
    hand = _ManoHand(
        template_m=arrays["v_template"],
        shape_dirs=arrays["shapedirs"],
        pose_dirs=arrays["posedirs"],
        joint_regressor=arrays["J_regressor"],
        skin_weights=arrays["weights"],
        faces=arrays["f"],
        mean_pose=arrays["hands_mean"].reshape(15, 3),
        pose_components=arrays["hands_components"],
    )
    fingers, thumb = _directions(hand)
    if abs(fingers[0]) < 0.7 or thumb[2] < 0.7:
        raise wrong(f"its hand is turned: fingers point along {_show(fingers)}, the thumb's side along {_show(thumb)}, expected x and z")
    return hand


def _show(direction: np.ndarray) -> str:
    return f"({', '.join(f'{value:.1f}' for value in direction)})"


def _directions(hand: _ManoHand) -> tuple[np.ndarray, np.ndarray]:
    """Where the fingers point at rest and where the thumb's side is, as unit vectors."""
    joints_m = hand.joint_regressor @ hand.template_m
    at = {name: joints_m[index] for index, name in enumerate(MANO_JOINTS)}
    towards = np.stack([at["middle_dip"] - at["wrist"], at["index_mcp"] - at["little_mcp"]])
    lengths = np.linalg.norm(towards, axis=1, keepdims=True)
    fingers, thumb = np.divide(towards, lengths, out=np.zeros_like(towards), where=lengths > 0)
    return fingers, thumb


def _is_right(hand: _ManoHand) -> bool:
    """In MANO's rest frame both hands have the palm towards -y and the thumb towards +z; fingers tell left from right."""
    return bool(_directions(hand)[0][0] < 0)


def has_shape_bug(template_m: np.ndarray, shape_dirs: np.ndarray, right_shape_dirs: np.ndarray | None = None) -> bool:
    """Whether a left hand moves along x as a right one does.

    Beside the right hand's, the left's directions are either the same (wrong) or mirrored. Alone: people with longer
    hands have broader ones, so over random betas the hand's growth along the fingers (x) and across (y, z) vary
    together; with the wrong sign in x, a longer hand is a narrower one.

    Args:
        template_m: (V, 3) the left hand at rest, fingers along +x.
        shape_dirs: (V, 3, 10) of the left hand.
        right_shape_dirs: (V, 3, 10) of the right hand, where it is at hand.
    """
    if right_shape_dirs is not None:
        x, right_x = shape_dirs[:, 0], right_shape_dirs[:, 0]
        return bool(np.linalg.norm(x - right_x) < np.linalg.norm(x + right_x))
    centred_m = template_m - template_m.mean(axis=0)
    # (3, 10) growth along each axis per beta; betas are independent with variance one, so the sum is a covariance.
    growth = np.einsum("vi,vik->ik", centred_m, shape_dirs)
    return bool(growth[0] @ (growth[1] + growth[2]) < 0)


def _mirror(hand: _ManoHand) -> _ManoHand:
    """The other hand: everything seen in the mirror x -> -x. Its own inverse."""

    def mirror_dirs(dirs: np.ndarray) -> np.ndarray:
        return np.moveaxis(mirror_points(np.moveaxis(dirs, 1, -1)), -1, 1)

    # A mirrored rotation's entries are the rotation's, some negated; so are the directions that they weigh.
    pose_dirs = mirror_rotmat(mirror_dirs(hand.pose_dirs).reshape(-1, 3, 15, 3, 3)).reshape(hand.pose_dirs.shape)
    return replace(
        hand,
        template_m=mirror_points(hand.template_m),
        shape_dirs=mirror_dirs(hand.shape_dirs),
        pose_dirs=pose_dirs,
        faces=hand.faces[:, ::-1],
        mean_pose=mirror_rotvec(hand.mean_pose),
        pose_components=mirror_rotvec(hand.pose_components.reshape(-1, 15, 3)).reshape(-1, 45),
    )


def _model(hand: _ManoHand, model_id: str, where: str) -> HandModel:
    model = HandModel(
        id=model_id,
        tip_vertices=np.array(FREIHAND_TIP_VERTICES, np.int32),
        beta_names=MANO_BETA_NAMES,
        **{field.name: getattr(hand, field.name) for field in fields(hand)},
    )
    model = replace(model.astype(np.float32), faces=np.ascontiguousarray(hand.faces, np.int32))
    faults = check_model(model)
    if faults:
        raise UserError(f"expected MANO's arrays in '{where}', but {'; '.join(faults)}; give the original file")
    return model
