"""Read folders in FreiHAND's layout: FreiHAND itself (Zimmermann et al. 2019), and sets that `handmesh-synth` writes in it.

Knows no hand model: what the 61 numbers of a hand mean is in `hand_model.mano_params.freihand_to_params`.

    ROOT/training/rgb/%08d.jpg                    all pictures; the first `count` of them, and again for each recolouring
    ROOT/training/mask/%08d.jpg                   of the first `count`
    ROOT/training_{K,scale,xyz,verts,mano}.json   lists of `count` entries
    ROOT/training_side.json                       in sets of handmesh-synth alone
"""

from __future__ import annotations

import functools
import json
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Literal

import cv2
import numpy as np

from handmesh.errors import UserError
from handmesh.skeleton import JOINTS

# What an entry of each file is; None where any length will do.
ENTRY_SHAPES: dict[str, tuple[int | None, ...]] = {
    "K": (3, 3),
    "scale": (),
    "xyz": (len(JOINTS), 3),
    "verts": (None, 3),
    "mano": (1, 61),
}
_CHUNK_BYTES = 1 << 22
_ALL_BUT_STRUCTURE = bytes(set(range(256)) - set(b"[],"))
# A hand of more than this was not measured in metres.
_LARGEST_HAND_M = 1.0
# Neighbours in the file may show one moment from several sides.
_NEIGHBOURS = 32


@dataclass(frozen=True)
class Annotation:
    """What is known of one hand. Camera axes are x right, y down, z forward.

    Attributes:
        K: (3, 3) intrinsics in pixels.
        xyz_m: (21, 3) joints in `skeleton.JOINTS` order.
        verts_m: (V, 3) vertices.
        mano: (61,) as `hand_model.mano_params.freihand_to_params` takes them.
        scale_m: length of the bone between joints 9 and 10.
    """

    K: np.ndarray
    xyz_m: np.ndarray
    verts_m: np.ndarray
    mano: np.ndarray
    scale_m: float


@dataclass(frozen=True)
class Side:
    """What `handmesh-synth` adds about one picture.

    Attributes:
        index: of the picture in its set, whatever the folder.
        is_right: None where there is no hand.
        presence: 1, 0, or -1 for not scored.
        visible: (21,) 1 where a joint is inside the picture and hidden neither by things nor by the own arm.
        seen: share of the hand's silhouette that is inside the picture and not hidden by them.
        tone: of the skin, 0 the lightest and 1 the darkest of the Monk scale.
        pose: its kind, None where there is no hand.
    """

    index: int
    is_right: bool | None
    presence: int
    visible: tuple[int, ...]
    seen: float
    tone: float
    pose: str | None


@dataclass(frozen=True)
class FreiHand:
    """One split of a folder in FreiHAND's layout. Files are read when they are asked for.

    Pictures are named by id: recolouring v of hand i has id i + v * count, so a picture's annotation is that of id % count.

    Attributes:
        root: the folder that holds `training` and `training_K.json`.
        split: "training" or "evaluation".

    Raises:
        UserError: no such folder, no pictures, or not a whole number of recolourings; later: a file that is missing or broken.

    Example:
        pictures = FreiHand(Path("data/freihand"))
        train, validation = split_ids(pictures.count, pictures.versions)
        pictures.image(train[0]), pictures.annotation(train[0]).xyz_m
    """

    root: Path
    split: Literal["training", "evaluation"] = "training"

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(self.root))
        if self.split not in ("training", "evaluation"):
            raise UserError(f"expected split 'training' or 'evaluation', got '{self.split}'; choose one of them")
        if len(self) % self.count:
            raise UserError(
                f"expected {self.count} pictures in '{self._folder('rgb')}', or as many again for each recolouring, got {len(self)}; "
                "unpack the archive again"
            )

    def __len__(self) -> int:
        """How many pictures there are."""
        return self._pictures

    @cached_property
    def _pictures(self) -> int:
        folder = self._folder("rgb")
        try:
            names = {entry.name for entry in os.scandir(folder) if re.fullmatch(r"\d{8}\.jpg", entry.name)}
        except OSError as error:
            raise UserError(
                f"expected pictures in '{folder}' ({error.strerror}); give the folder that holds '{self.split}', see data/README.md"
            ) from error
        if not names:
            raise UserError(f"expected pictures named 00000000.jpg and so on in '{folder}', got none; unpack the archive again")
        missing = next((name for name in (f"{number:08d}.jpg" for number in range(len(names))) if name not in names), None)
        if missing:
            raise UserError(f"expected pictures numbered without gaps in '{folder}', but {missing} is missing; unpack the archive again")
        return len(names)

    @cached_property
    def count(self) -> int:
        """How many hands there are; every recolouring shows them all."""
        if self.has("K"):
            return len(self.K)
        # A folder of pictures without hands.
        if self.has("side"):
            return len({side.index for side in self.side})
        raise UserError(f"expected '{self._file('K')}', which is not there; give the folder that holds it, see data/README.md")

    @property
    def versions(self) -> int:
        """How many recolourings there are of each picture: 4 in FreiHAND's training split, else 1."""
        return len(self) // self.count

    def has(self, name: str) -> bool:
        """Whether there is a file of annotations: K, scale, xyz, verts, mano or side. FreiHAND's evaluation split came without most."""
        return self._file(name).is_file()

    @cached_property
    def K(self) -> np.ndarray:
        """(count, 3, 3) intrinsics in pixels."""
        K = read_numbers(self._file("K"), ENTRY_SHAPES["K"])
        if not ((K[:, 2] == (0, 0, 1)).all() and (K[:, [0, 1], [0, 1]] > 0).all()):
            raise UserError(
                f"expected [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in '{self._file('K')}', got {K[0].tolist()} first; are they transposed?"
            )
        return K

    @cached_property
    def scale_m(self) -> np.ndarray:
        """(count,) length of the bone between joints 9 and 10."""
        return self._lengths("scale")

    @cached_property
    def xyz_m(self) -> np.ndarray:
        """(count, 21, 3) joints in the camera."""
        return self._lengths("xyz")

    @cached_property
    def verts_m(self) -> np.ndarray:
        """(count, V, 3) vertices in the camera: f32 for training (300 MB for FreiHAND), f64 for evaluation, whose scores are exact."""
        return self._lengths("verts", np.float64 if self.split == "evaluation" else np.float32)

    @cached_property
    def mano(self) -> np.ndarray:
        """(count, 61) parameters, as `hand_model.mano_params.freihand_to_params` takes them."""
        return self._numbers("mano")[:, 0]

    @cached_property
    def side(self) -> tuple[Side, ...]:
        """What `handmesh-synth` says beside FreiHAND's files, by picture id."""
        path = self._file("side")
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
            return tuple(Side(**{**entry, "visible": tuple(entry["visible"])}) for entry in entries)
        except OSError as error:
            raise UserError(f"expected '{path}' ({error.strerror}); only sets of handmesh-synth have it") from error
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"expected the side file of handmesh-synth in '{path}', but it cannot be read; make the set again") from error

    def annotation(self, picture: int) -> Annotation:
        """What is known of the hand in a picture, by id; reads all five files the first time.

        Raises:
            UserError: a file that is missing or broken.
            IndexError: no such id.
        """
        index = self._index(picture)
        scale_m = float(self.scale_m[index])
        return Annotation(self.K[index], self.xyz_m[index], self.verts_m[index], self.mano[index], scale_m)

    def image(self, picture: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB, by id."""
        self._index(picture)
        return cv2.cvtColor(read_picture(self._folder("rgb") / f"{picture:08d}.jpg", cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)

    def mask(self, picture: int) -> np.ndarray:
        """(H, W) bool, True on the hand, by id. FreiHAND has none for its evaluation split."""
        index = self._index(picture)
        return read_picture(self._folder("mask") / f"{index:08d}.jpg", cv2.IMREAD_GRAYSCALE) >= 128

    def _index(self, picture: int) -> int:
        if not 0 <= picture < len(self):
            raise IndexError(f"expected a picture id in 0..{len(self) - 1}, got {picture}")
        return picture % self.count

    def _folder(self, name: str) -> Path:
        return self.root / self.split / name

    def _file(self, name: str) -> Path:
        return self.root / f"{self.split}_{name}.json"

    def _numbers(self, name: str, dtype: type = np.float64) -> np.ndarray:
        values = read_numbers(self._file(name), ENTRY_SHAPES[name], dtype)
        if len(values) != self.count:
            raise UserError(
                f"expected {self.count} entries in '{self._file(name)}', as many as cameras in '{self._file('K')}', got {len(values)}; "
                "take both from one archive"
            )
        return values

    def _lengths(self, name: str, dtype: type = np.float64) -> np.ndarray:
        """Numbers that must look like metres."""
        values = self._numbers(name, dtype)
        size_m = float(np.median(np.ptp(values, axis=1).max(axis=-1) if values.ndim == 3 else values))
        if not size_m < _LARGEST_HAND_M:
            raise UserError(f"expected metres in '{self._file(name)}', got a hand of {size_m:.3g}; are these millimetres? divide by 1000")
        if values.ndim == 3 and not (values[..., 2] > 0).all():
            raise UserError(
                f"expected points in front of the camera (z > 0) in '{self._file(name)}', got z = {values[..., 2].min():.3g}; "
                "z is forward, and hands are not relative to their root"
            )
        return values


def split_ids(count: int, versions: int, validation_share: float = 0.05, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Divide pictures between training and validation so that no hand is on both sides.

    All recolourings of a hand go together, and so do neighbours in the file, which may show one moment from several sides.

    Args:
        count: hands, `FreiHand.count`.
        versions: recolourings of each, `FreiHand.versions`.
        validation_share: of the hands, roughly; above 0 at least one group of neighbours.
        seed: other seeds give other splits.

    Returns:
        Sorted picture ids for training and for validation.

    Raises:
        UserError: a share outside 0..1.
    """
    if not 0 <= validation_share <= 1:
        raise UserError(f"expected a validation share in 0..1, got {validation_share:g}; 0.05 is usual")
    # Small sets have smaller groups, so that some are left to train on.
    neighbours = min(_NEIGHBOURS, max(1, count // 20))
    groups = -(-count // neighbours)
    held_out = np.random.default_rng(seed).permutation(groups)[: int(np.ceil(groups * validation_share))]
    is_held_out = np.isin(np.arange(count) // neighbours, held_out)
    ids = np.arange(count * versions)
    return ids[~is_held_out[ids % count]], ids[is_held_out[ids % count]]


def read_picture(path: Path, flags: int) -> np.ndarray:
    """A picture file as cv2 reads it.

    Args:
        flags: cv2.IMREAD_COLOR, or IMREAD_GRAYSCALE.

    Raises:
        UserError: no such file, or not a picture.
    """
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise UserError(f"expected a picture, got '{path}' ({error.strerror}); is the folder whole?") from error
    image = cv2.imdecode(data, flags) if len(data) else None
    if image is None:
        raise UserError(f"expected a picture, got '{path}', which cannot be read; unpack the archive or make the set again")
    return image


def read_numbers(path: Path, entry_shape: tuple[int | None, ...], dtype: type = np.float64) -> np.ndarray:
    """A JSON list of equally nested lists of numbers, however long, in little more memory than the array itself.

    Python's own reader takes some 100 bytes a number: gigabytes for FreiHAND's vertices.

    Args:
        path: the file.
        entry_shape: of one entry of the list; None for a length that the first entry says.
        dtype: of the array.

    Returns:
        (N, *entry_shape), every number finite.

    Raises:
        UserError: no such file, one that ends early, another nesting, or something that is not a finite number.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_CHUNK_BYTES)
            shape, unit = _first_entry(path, head, entry_shape)
            store, structure = bytearray(), _Structure(path, unit)
            entry_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
            for marks, text, is_last in split_lists(file, head):
                structure.feed(marks)
                if is_last:
                    structure.close()
                store += _parse(path, len(store) // entry_bytes, text).astype(dtype).tobytes()
    except OSError as error:
        raise UserError(f"expected '{path}' ({error.strerror}); give the folder that holds it, see data/README.md") from error
    return np.frombuffer(store, dtype).reshape(-1, *shape)


def split_lists(file: IO[bytes], head: bytes = b"") -> Iterator[tuple[bytes, bytes, bool]]:
    """Nested JSON lists of numbers, some megabytes at a time.

    Args:
        head: what was read of the file already.

    Yields:
        Brackets and commas; the text between them without brackets, cut at a comma that is left out; and whether this is the last part.
    """
    carry, chunk = b"", head or file.read(_CHUNK_BYTES)
    while chunk:
        chunk = carry + chunk
        cut = chunk.rfind(b",") + 1
        part, carry = chunk[:cut], chunk[cut:]
        if part:
            yield part.translate(None, _ALL_BUT_STRUCTURE), part[:-1].translate(None, b"[]"), False
        chunk = file.read(_CHUNK_BYTES)
    yield carry.translate(None, _ALL_BUT_STRUCTURE), carry.translate(None, b"[]"), True


def parse_numbers(text: bytes) -> np.ndarray | None:
    """(n,) f64 of numbers between commas, NaN and infinity among them; None where there is anything else."""
    # numpy only warns of text that is no number.
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        try:
            numbers = np.fromstring(text, np.float64, sep=",")
        except (ValueError, DeprecationWarning):
            return None
    return numbers if len(numbers) == text.count(b",") + 1 else None


@functools.cache
def text_template(shape: tuple[int, ...], number: str) -> str:
    """What an array of a shape is written with as JSON: `text_template(a.shape, "%.9g") % tuple(a.ravel().tolist())`."""
    return f"[{', '.join([text_template(shape[1:], number)] * shape[0])}]" if shape else number


def _first_entry(path: Path, head: bytes, entry_shape: tuple[int | None, ...]) -> tuple[tuple[int, ...], bytes]:
    """Shape of the first entry of a list, and the brackets and commas of an entry with the comma after it."""
    if not head.lstrip().startswith(b"["):
        raise UserError(f"expected a JSON list in '{path}', got {_show(head)}; is it another file?")
    depth = 0
    start = head.index(b"[") + 1
    end = None
    for found in re.finditer(rb"[\[\],]", head):
        depth += {b"[": 1, b"]": -1, b",": 0}[found[0]]
        if found.start() >= start and (depth == 0 or (depth == 1 and found[0] == b",")):
            end = found.start()
            break
    if end is None:
        raise _cut_short(path)
    try:
        entry = np.array(json.loads(head[start:end]), np.float64)
    except (ValueError, TypeError) as error:
        raise UserError(f"expected numbers nested evenly in '{path}', got {_show(head[start:end])} first; is it another file?") from error
    fits = len(entry.shape) == len(entry_shape) and all(want in (None, got) for want, got in zip(entry_shape, entry.shape, strict=True))
    if not fits or not entry.size:
        wanted = str(entry_shape).replace("None", "V")
        raise UserError(f"expected entries of shape {wanted} in '{path}', got {entry.shape}; is it another file, or nested otherwise?")
    return entry.shape, head[start:end].translate(None, _ALL_BUT_STRUCTURE) + b","


class _Structure:
    """Compares the brackets and commas of a file, as they come, with entries that all look like the first."""

    def __init__(self, path: Path, unit: bytes) -> None:
        self._path, self._unit = path, unit
        self._held, self._passed = b"", -1

    def feed(self, marks: bytes) -> None:
        found = self._held + marks
        # The last one may be the list's own end.
        found, self._held = found[:-1], found[-1:]
        if self._passed < 0 and found:
            found, self._passed = found[1:], 0
        at = self._passed % len(self._unit)
        expected = (self._unit * (len(found) // len(self._unit) + 2))[at : at + len(found)]
        if found != expected:
            first = next(place for place, (one, other) in enumerate(zip(found, expected, strict=True)) if one != other)
            entry = (self._passed + first) // len(self._unit)
            raise UserError(f"expected all entries of '{self._path}' nested like the first, but number {entry} is not; is the file whole?")
        self._passed += len(found)

    def close(self) -> None:
        if self._held != b"]" or self._passed % len(self._unit) != len(self._unit) - 1:
            raise _cut_short(self._path)


def _parse(path: Path, entry: int, text: bytes) -> np.ndarray:
    """Numbers between commas, of which the first belongs to `entry`; brackets are gone."""
    numbers = parse_numbers(text)
    if numbers is None:
        raise UserError(f"expected nothing but numbers in '{path}', but from entry {entry} on there is other text; make or unpack it again")
    if not np.isfinite(numbers).all():
        raise UserError(f"expected finite numbers in '{path}', but from entry {entry} on there is NaN or infinity; make or unpack it again")
    return numbers


def _cut_short(path: Path) -> UserError:
    return UserError(f"expected a whole JSON list in '{path}', but it ends early; make or unpack the file again")


def _show(text: bytes) -> str:
    return repr(text[:40].decode(errors="replace"))
