"""Rendered pictures on disk, format "handmesh-shards-1": a manifest and folders of memory-mapped arrays.

    DIR/manifest.json
    DIR/shard-00000/images.npy  (N, S, S, 3) uint8
    DIR/shard-00000/parts.npy   (N, S/4, S/4) uint8
    DIR/shard-00000/labels.npy  (N,) scene.LABEL_DTYPE

A shard is written to "shard-00000.part" and renamed when it is complete, so what a kill loses is drawn again.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np

from handmesh import __version__
from handmesh.errors import UserError
from handmesh.hand_model import HandModel
from handmesh.synthetic.config import SynthConfig
from handmesh.synthetic.scene import LABEL_DTYPE, PARTS_STRIDE, Sample
from handmesh.wholefile import replacing

FORMAT = "handmesh-shards-1"
SHARD_PICTURES = 8192
MANIFEST = "manifest.json"


def shard_counts(count: int) -> list[int]:
    """How many pictures each shard of a set of `count` holds."""
    full, rest = divmod(count, SHARD_PICTURES)
    return [SHARD_PICTURES] * full + ([rest] if rest else [])


def shard_name(shard: int) -> str:
    """The folder of a shard."""
    return f"shard-{shard:05d}"


def model_sha256(model: HandModel) -> str:
    """Names the arrays of a hand model, whatever their precision on disk."""
    digest = hashlib.sha256()
    for field in fields(HandModel):
        value = getattr(model, field.name)
        digest.update(field.name.encode() + (value.encode() if isinstance(value, str) else np.ascontiguousarray(value).tobytes()))
    return digest.hexdigest()


def plan_manifest(model: HandModel, config: SynthConfig, panoramas: list[str], count: int, seed: int) -> dict:
    """Everything that decides the pictures, and no shard yet."""
    return {
        "format": FORMAT,
        "count": count,
        "size_px": config.size_px,
        "seed": seed,
        "handmesh": __version__,
        "hand_model": model.id,
        "hand_model_sha256": model_sha256(model),
        "panoramas": panoramas,
        "config": asdict(config),
        "shards": [],
    }


def open_set(folder: Path, plan: dict) -> dict:
    """Start a set of shards, or go on with one that the same plan began.

    Returns:
        The manifest with the shards that are complete.

    Raises:
        UserError: the folder cannot be written, holds something else, or another set.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / MANIFEST
        if not path.exists():
            if any(folder.iterdir()):
                raise UserError(
                    f"expected an empty folder or a set of shards, got '{folder}', which holds other files; choose another --out"
                )
            write_manifest(folder, plan)
            return plan
    except OSError as error:
        raise UserError(f"expected a folder that can be written, got '{folder}' ({error.strerror}); choose another --out") from error
    found = read_manifest(folder)
    # Through JSON, because it turns tuples into lists.
    wanted = json.loads(json.dumps(plan))
    different = [key for key in wanted if key != "shards" and found.get(key) != wanted[key]]
    if different:
        raise UserError(
            f"expected the set that '{folder}' began, but {', '.join(different)} differ; give the same arguments or another --out"
        )
    return found


def read_manifest(folder: Path) -> dict:
    """The manifest of a folder of shards, checked for form.

    Raises:
        UserError: no manifest, not JSON, or another format.
    """
    path = Path(folder) / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"expected a folder of shards with a {MANIFEST}, got '{folder}' ({error.strerror}); make one with handmesh-synth"
        ) from error
    except ValueError as error:
        raise UserError(f"expected '{path}' to be JSON, but it cannot be read ({error}); make the set again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
        raise UserError(f"expected format '{FORMAT}' in '{path}', got {found!r}; make the set again with this version")
    return manifest


def write_manifest(folder: Path, manifest: dict) -> None:
    """Replace a folder's manifest at once."""
    with replacing(folder / MANIFEST) as temporary:
        temporary.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def write_shard(folder: Path, shard: int, size_px: int, count: int, draw: Callable[[int], Sample], drawn: Callable[[], None]) -> dict:
    """Draw and write one shard.

    Args:
        draw: gives the picture at an index of the whole set.
        drawn: called after each picture.

    Returns:
        The shard's entry in the manifest.
    """
    final, part = folder / shard_name(shard), folder / f"{shard_name(shard)}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    coarse = size_px // PARTS_STRIDE
    labels = np.zeros(count, LABEL_DTYPE)
    # Streamed, not memory-mapped: a full disk is then an error that can be caught, not a bus error.
    with open(part / "images.npy", "wb") as images, open(part / "parts.npy", "wb") as parts:
        _write_header(images, (count, size_px, size_px, 3))
        _write_header(parts, (count, coarse, coarse))
        for row in range(count):
            sample = draw(shard * SHARD_PICTURES + row)
            images.write(sample.image.tobytes())
            parts.write(sample.parts.tobytes())
            labels[row] = sample.label
            drawn()
    np.save(part / "labels.npy", labels)
    shutil.rmtree(final, ignore_errors=True)
    os.replace(part, final)
    return {"name": shard_name(shard), "count": count, "labels_sha256": hashlib.sha256(labels.tobytes()).hexdigest()}


def _write_header(file, shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


class ShardReader:
    """Pictures by index, memory-mapped.

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
        self.manifest = read_manifest(self.folder)
        self.size_px: int = self.manifest["size_px"]
        complete = {entry["name"]: entry for entry in self.manifest["shards"]}
        # Without gaps, so that a picture keeps its index while later shards are still being drawn.
        names = itertools.takewhile(complete.__contains__, map(shard_name, itertools.count()))
        shards = [complete[name] for name in names]
        total = sum(entry["count"] for entry in shards)
        if total == 0 or (total < self.manifest["count"] and not allow_partial):
            raise UserError(
                f"expected {self.manifest['count']} pictures in '{folder}', but only {total} are complete; "
                "run handmesh-synth with the same arguments again to finish"
            )
        coarse = self.size_px // PARTS_STRIDE
        self._images = [self._map(e, "images", np.dtype(np.uint8), (e["count"], self.size_px, self.size_px, 3)) for e in shards]
        self._parts = [self._map(e, "parts", np.dtype(np.uint8), (e["count"], coarse, coarse)) for e in shards]
        self._labels = [self._map(e, "labels", LABEL_DTYPE, (e["count"],)) for e in shards]
        self._ends = np.cumsum([entry["count"] for entry in shards])
        if check_labels:
            for entry, labels in zip(shards, self._labels, strict=True):
                if hashlib.sha256(labels.tobytes()).hexdigest() != entry["labels_sha256"]:
                    raise UserError(
                        f"expected the labels of '{self.folder / entry['name']}' as the manifest says, but they differ; delete it"
                    )

    def _map(self, entry: dict, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        path = self.folder / entry["name"] / f"{name}.npy"
        try:
            array = np.load(path, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise UserError(
                f"expected '{path}' as {self.folder / MANIFEST} says, but it cannot be read ({error}); make the set again"
            ) from error
        if array.dtype != dtype or array.shape != shape:
            raise UserError(f"expected {shape} {dtype} in '{path}', got {array.shape} {array.dtype}; make the set again")
        return array

    def __len__(self) -> int:
        return int(self._ends[-1])

    def images(self, index: int | np.ndarray) -> np.ndarray:
        """(S, S, 3) uint8 at an index, (N, S, S, 3) at an array of them."""
        return self._take(self._images, index)

    def parts(self, index: int | np.ndarray) -> np.ndarray:
        """(S/4, S/4) uint8, or (N, S/4, S/4)."""
        return self._take(self._parts, index)

    def labels(self, index: int | np.ndarray) -> np.ndarray:
        """() LABEL_DTYPE, or (N,)."""
        return self._take(self._labels, index)

    def _take(self, arrays: list[np.ndarray], index: int | np.ndarray) -> np.ndarray:
        flat = np.atleast_1d(np.asarray(index))
        if flat.size and (flat.min() < 0 or flat.max() >= len(self)):
            raise IndexError(f"expected indices in 0..{len(self) - 1}, got {flat.min()}..{flat.max()}")
        shard = np.searchsorted(self._ends, flat, side="right")
        row = flat - np.concatenate([[0], self._ends[:-1]])[shard]
        out = np.empty((len(flat), *arrays[0].shape[1:]), arrays[0].dtype)
        for number in np.unique(shard):
            here = shard == number
            out[here] = arrays[number][row[here]]
        return out if np.ndim(index) else out[0]
