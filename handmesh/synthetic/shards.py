"""Pictures for training, format "handmesh-shards-2": a manifest and folders of memory-mapped arrays.

    DIR/manifest.json
    DIR/shard-00000/images.npy  (N, S, S, 3) uint8
    DIR/shard-00000/parts.npy   (N, S/4, S/4) uint8
    DIR/shard-00000/depth.npy   (N, S/4, S/4) float16, metres from the root joint, away from the camera
    DIR/shard-00000/labels.npy  (N,) scene.LABEL_DTYPE

A shard grows in "shard-00000.part", whose arrays have their whole length from the start: workers fill in blocks, each of which is
there when its labels are (`blocks/`, renamed into place). The folder is renamed when all of them are, so a kill costs a block a worker.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from handmesh.errors import UserError
from handmesh.synthetic.manifest import MANIFEST, SHARDS, expect_complete, read_manifest, write_manifest
from handmesh.synthetic.scene import LABEL_DTYPE, PARTS_STRIDE
from handmesh.synthetic.sets import Draw, blocks_of
from handmesh.wholefile import replacing

SHARD_PICTURES = 8192
_DEPTH_DTYPE = np.dtype("<f2")
# More pictures at once are better copied from mapped memory.
_MANY = 4096


def shard_counts(count: int) -> list[int]:
    """How many pictures each shard of a set of `count` holds."""
    full, rest = divmod(count, SHARD_PICTURES)
    return [SHARD_PICTURES] * full + ([rest] if rest else [])


def shard_name(shard: int) -> str:
    """The folder of a shard."""
    return f"shard-{shard:05d}"


def _part_folder(folder: Path, shard: int) -> Path:
    return folder / f"{shard_name(shard)}.part"


def _block_file(folder: Path, block: range, pictures_per_shard: int) -> Path:
    return _part_folder(folder, block.start // pictures_per_shard) / "blocks" / f"{block.start:09d}.npy"


def _array_kinds(count: int, size_px: int) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    """Type and shape of a shard's pixel arrays."""
    coarse = size_px // PARTS_STRIDE
    return {
        "images": (np.dtype(np.uint8), (count, size_px, size_px, 3)),
        "parts": (np.dtype(np.uint8), (count, coarse, coarse)),
        "depth": (_DEPTH_DTYPE, (count, coarse, coarse)),
    }


@dataclass(frozen=True)
class ShardJob:
    """Writes blocks into the shards that `ShardWriter` laid out.

    Attributes:
        folder: of the set.
        pictures_per_shard: all shards but the last hold as many.
    """

    folder: Path
    pictures_per_shard: int

    def write(self, block: range, draw: Draw) -> None:
        """See `sets.BlockJob`. A block lies in one shard."""
        samples = [draw(index, 0) for index in block]
        shard, row = divmod(block.start, self.pictures_per_shard)
        part = _part_folder(self.folder, shard)
        drawn = {
            "images": np.stack([sample.image for sample in samples]),
            "parts": np.stack([sample.parts for sample in samples]),
            "depth": np.stack([sample.depth_m for sample in samples]).astype(_DEPTH_DTYPE),
        }
        for name, values in drawn.items():
            # Written, not memory-mapped: a full disk is then an error that can be caught, not a bus error.
            with (part / f"{name}.npy").open("r+b") as file:
                np.lib.format.read_magic(file)
                np.lib.format.read_array_header_1_0(file)
                file.seek(row * values[0].nbytes, os.SEEK_CUR)
                file.write(values.tobytes())
        labels = np.array([sample.label for sample in samples], LABEL_DTYPE)
        with replacing(_block_file(self.folder, block, self.pictures_per_shard)) as temporary:
            np.save(temporary, labels)


def bytes_a_picture(size_px: int) -> float:
    """Room on disk that one picture takes, a little generous."""
    kinds = _array_kinds(1, size_px).values()
    return 1.01 * sum(dtype.itemsize * float(np.prod(shape)) for dtype, shape in kinds) + 2 * LABEL_DTYPE.itemsize


class ShardWriter:
    """Lays out shards, and completes each when its blocks are there.

    Args:
        folder: of the set.
        manifest: of `sets.open_set`; kept up to date.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.job = ShardJob(folder, SHARD_PICTURES)
        self._folder, self._manifest = folder, manifest
        self._left: dict[int, set[int]] = {}

    def todo(self) -> list[range]:
        """See `sets.SetWriter`. Completes shards that lack nothing but their last name."""
        complete = {entry["name"] for entry in self._manifest["pieces"]}
        left = []
        for shard, count in enumerate(shard_counts(self._manifest["count"])):
            if shard_name(shard) in complete:
                continue
            # What a kill left between the two renames.
            if (self._folder / shard_name(shard)).exists() or (_part_folder(self._folder, shard) / "labels.npy").exists():
                self._complete(shard)
                continue
            start = shard * SHARD_PICTURES
            blocks = [block for block in blocks_of(start, start + count) if not self._block_file(block).exists()]
            if not blocks:
                self._complete(shard)
                continue
            self._left[shard] = {block.start for block in blocks}
            left += blocks
        return left

    def begin(self, block: range) -> None:
        """See `sets.SetWriter`. Makes a shard's files in their whole length; those of an earlier run stay if they are whole."""
        shard = block.start // SHARD_PICTURES
        part = _part_folder(self._folder, shard)
        if (part / "blocks").exists():
            return
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        count = shard_counts(self._manifest["count"])[shard]
        for name, (dtype, shape) in _array_kinds(count, self._manifest["size_px"]).items():
            with (part / f"{name}.npy").open("wb") as file:
                header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                file.truncate(file.tell() + dtype.itemsize * int(np.prod(shape)))
        # Last, so that its being there says that the files are.
        (part / "blocks").mkdir()

    def done(self, block: range) -> None:
        """See `sets.SetWriter`."""
        shard = block.start // SHARD_PICTURES
        self._left[shard].discard(block.start)
        if not self._left[shard]:
            self._complete(shard)

    def close(self) -> None:
        """See `sets.SetWriter`."""

    def _block_file(self, block: range) -> Path:
        return _block_file(self._folder, block, SHARD_PICTURES)

    def _complete(self, shard: int) -> None:
        """Join the labels of the blocks, rename the folder, and say so in the manifest; goes on where a kill cut it short."""
        part, final = _part_folder(self._folder, shard), self._folder / shard_name(shard)
        if not final.exists():
            if not (part / "labels.npy").exists():
                with replacing(part / "labels.npy") as temporary:
                    np.save(temporary, np.concatenate([np.load(path) for path in sorted((part / "blocks").glob("[0-9]*.npy"))]))
            shutil.rmtree(part / "blocks", ignore_errors=True)
            os.replace(part, final)
        labels = np.load(final / "labels.npy")
        entry = {"name": shard_name(shard), "count": len(labels), "labels_sha256": hashlib.sha256(labels.tobytes()).hexdigest()}
        self._manifest["pieces"] = sorted([*self._manifest["pieces"], entry], key=lambda entry: entry["name"])
        write_manifest(self._folder, self._manifest)


class ShardReader:
    """Pictures by index, memory-mapped; a `sheet.Pictures`. All hands are right hands.

    Args:
        folder: a set of shards.
        allow_partial: read the shards that are complete while others are still being drawn.
        check_labels: compare every shard's labels with the manifest's checksum.

    Raises:
        UserError: not a set of shards, an incomplete one, or one whose files do not fit its manifest.

    Example:
        pictures = ShardReader(Path("pictures"))
        pictures.images(0), pictures.labels(np.arange(64))["keypoints_px"]
    """

    def __init__(self, folder: Path, allow_partial: bool = False, check_labels: bool = False) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder, SHARDS)
        self.size_px: int = self.manifest["size_px"]
        self._files: dict[str, int] = {}
        complete = {entry["name"]: entry for entry in self.manifest["pieces"]}
        # Without gaps, so that a picture keeps its index while later shards are still being drawn.
        names = itertools.takewhile(complete.__contains__, map(shard_name, itertools.count()))
        shards = [complete[name] for name in names]
        total = sum(entry["count"] for entry in shards)
        if total == 0 or not allow_partial:
            expect_complete(self.folder, self.manifest, total)
        self._arrays = {
            name: [self._map(entry, name, *_array_kinds(entry["count"], self.size_px)[name]) for entry in shards]
            for name in ("images", "parts", "depth")
        }
        self._labels = [self._map(entry, "labels", LABEL_DTYPE, (entry["count"],)) for entry in shards]
        self._ends = np.cumsum([entry["count"] for entry in shards])
        if check_labels:
            for entry, labels in zip(shards, self._labels, strict=True):
                if hashlib.sha256(labels.tobytes()).hexdigest() != entry["labels_sha256"]:
                    raise UserError(
                        f"expected the labels of '{self.folder / entry['name']}' as the manifest says, but they differ; draw the set again"
                    )

    def _map(self, entry: dict, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        path = self.folder / entry["name"] / f"{name}.npy"
        try:
            array = np.load(path, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise UserError(
                f"expected '{path}' as {self.folder / MANIFEST} says, but it cannot be read ({error}); delete it and draw it again"
            ) from error
        if array.dtype != dtype or array.shape != shape:
            raise UserError(f"expected {shape} {dtype} in '{path}', got {array.shape} {array.dtype}; delete it and draw it again")
        return array

    def __len__(self) -> int:
        return int(self._ends[-1])

    def images(self, index: int | np.ndarray) -> np.ndarray:
        """(S, S, 3) uint8 at an index, (N, S, S, 3) at an array of them."""
        return self._take(self._arrays["images"], index)

    def parts(self, index: int | np.ndarray) -> np.ndarray:
        """(S/4, S/4) uint8, or (N, S/4, S/4): 0 background or things, joint of `MANO_JOINTS` + 1, 17 forearm."""
        return self._take(self._arrays["parts"], index)

    def depth(self, index: int | np.ndarray) -> np.ndarray:
        """(S/4, S/4) f16, or (N, S/4, S/4): z of hand or forearm minus that of the root joint in metres, 0 elsewhere."""
        return self._take(self._arrays["depth"], index)

    def labels(self, index: int | np.ndarray | None = None) -> np.ndarray:
        """() LABEL_DTYPE, or (N,); without an index those of all pictures."""
        if index is None:
            return self._labels[0] if len(self._labels) == 1 else np.concatenate(self._labels)
        return self._take(self._labels, index)

    def image(self, index: int, /) -> np.ndarray:
        """(S, S, 3) uint8 RGB."""
        return self.images(index)

    def label(self, index: int, /) -> np.ndarray:
        """() LABEL_DTYPE."""
        return self.labels(index)

    def overlay(self, index: int, /) -> np.ndarray:
        """(S/4, S/4) uint8: what `parts` gives."""
        return self.parts(index)

    def is_left(self, index: int, /) -> bool:
        """False: training mirrors pictures itself."""
        return False

    def _take(self, arrays: list[np.ndarray], index: int | np.ndarray) -> np.ndarray:
        flat = np.atleast_1d(np.asarray(index))
        if flat.size and (flat.min() < 0 or flat.max() >= len(self)):
            raise IndexError(f"expected indices in 0..{len(self) - 1}, got {flat.min()}..{flat.max()}")
        shard = np.searchsorted(self._ends, flat, side="right")
        row = flat - np.concatenate([[0], self._ends[:-1]])[shard]
        out = np.empty((len(flat), *arrays[0].shape[1:]), arrays[0].dtype)
        if len(flat) > _MANY or not out.size or not hasattr(os, "preadv"):
            for number in np.unique(shard):
                here = shard == number
                out[here] = arrays[number][row[here]]
            return out if np.ndim(index) else out[0]
        # A fault of mapped memory stops all threads of Python until the disk answers; reading a file does not.
        buffers = out.view(np.uint8).reshape(len(flat), -1)
        for buffer, number, place in zip(buffers, shard.tolist(), row.tolist(), strict=True):
            array: Any = arrays[number]
            _read_at(self._file(array.filename), memoryview(buffer), array.offset + place * buffer.size)
        return out if np.ndim(index) else out[0]

    def _file(self, path: str) -> int:
        if path not in self._files:
            file = os.open(path, os.O_RDONLY)
            # Another reading thread may have been quicker.
            if self._files.setdefault(path, file) != file:
                os.close(file)
        return self._files[path]

    def __del__(self) -> None:
        for file in getattr(self, "_files", {}).values():
            os.close(file)


def _read_at(file: int, buffer: memoryview, offset: int) -> None:
    """Fill a buffer from a place in a file."""
    while buffer:
        count = os.preadv(file, [buffer], offset)
        if count == 0:
            raise OSError(errno.EIO, "the file ends too early")
        buffer, offset = buffer[count:], offset + count
