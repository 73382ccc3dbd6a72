"""What sets of pictures have in common, whatever their format: blocks of work, the manifest, and the recipe that it names.

A manifest says everything that decides the pictures; `recipe_sha256` is one number for all of it. `pieces` lists what is complete.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from handmesh import __version__
from handmesh.config import config_to_dict
from handmesh.errors import UserError
from handmesh.hand_model import HandModel
from handmesh.hand_model.assets import load_dense_twin
from handmesh.synthetic.config import PictureSet
from handmesh.synthetic.manifest import FORMATS, FREIHAND, MANIFEST, read_manifest, write_manifest
from handmesh.synthetic.scene import PICTURES, Sample
from handmesh.synthetic.sheet import Pictures

# What one worker draws at a time: half a second's work, so that all cores are busy in small sets too, and little is lost to a kill.
BLOCK_PICTURES = 16
# What a manifest holds besides the recipe.
_NOT_RECIPE = ("handmesh", "recipe_sha256", "pieces")

# Gives the picture at (index of the whole set, version).
Draw = Callable[[int, int], Sample]


class BlockJob(Protocol):
    """What a worker needs to know to write pictures; it is sent to other processes."""

    def write(self, block: range, draw: Draw) -> None:
        """Draw and write the pictures of a block; what it leaves says that the block is done, also after a kill."""
        ...


class SetWriter(Protocol):
    """Brings one set from the blocks that are left to a complete one, in the process that alone writes the manifest."""

    @property
    def job(self) -> BlockJob:
        """What the workers get."""
        ...

    def todo(self) -> list[range]:
        """Blocks of indices that are not there yet, in order."""
        ...

    def begin(self, block: range) -> None:
        """Make room for a block that is about to be given to a worker."""
        ...

    def done(self, block: range) -> None:
        """Take note of a block that a worker wrote."""
        ...

    def close(self) -> None:
        """Finish the set; all blocks are done."""
        ...


def blocks_of(start: int, stop: int) -> list[range]:
    """Indices start..stop-1 in pieces of work."""
    return [range(first, min(first + BLOCK_PICTURES, stop)) for first in range(start, stop, BLOCK_PICTURES)]


def model_sha256(model: HandModel) -> str:
    """Names the arrays of a hand model, whatever their precision on disk."""
    digest = hashlib.sha256()
    for field in fields(HandModel):
        value = getattr(model, field.name)
        digest.update(field.name.encode() + (value.encode() if isinstance(value, str) else np.ascontiguousarray(value).tobytes()))
    return digest.hexdigest()


def plan_manifest(pictures: PictureSet, model: HandModel, panoramas: Iterable[Path] = (), photos: Iterable[Path] = ()) -> dict[str, Any]:
    """A manifest with everything that decides the pictures, and nothing complete.

    Args:
        panoramas: the .hdr files that are used.
        photos: the background pictures, whose order counts; only their number and one checksum of names and bytes are kept.

    Raises:
        UserError: a file that cannot be read.
    """
    listed = [{"name": path.name, "sha256": _file_sha256(path)} for path in panoramas]
    behind, together = list(photos), hashlib.sha256()
    for path in behind:
        together.update(f"{path.name} {_file_sha256(path)}\n".encode())
    plan = {
        "format": FORMATS[pictures.format],
        "handmesh": __version__,
        "renderer": PICTURES,
        "count": pictures.count,
        "seed": pictures.seed,
        "versions": pictures.versions,
        "size_px": pictures.pictures.size_px,
        "width_px": pictures.pictures.width_px,
        "hand_model": model.id,
        "hand_model_sha256": model_sha256(model),
        "drawn_sha256": model_sha256(load_dense_twin(model)),
        "panoramas": listed,
        "backgrounds": {"count": len(behind), "sha256": together.hexdigest() if behind else ""},
        "config": config_to_dict(pictures.pictures),
    }
    return {**plan, "recipe_sha256": recipe_sha256(plan), "pieces": []}


def recipe_sha256(manifest: dict[str, Any]) -> str:
    """One number for what decides the pictures: not the version of handmesh, not how many are done."""
    recipe = {key: value for key, value in manifest.items() if key not in _NOT_RECIPE}
    return hashlib.sha256(json.dumps(recipe, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _file_sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"expected a file that can be read, got '{path}' ({error.strerror}); mend it or take it away") from error


def open_set(folder: Path, plan: dict[str, Any]) -> dict[str, Any]:
    """Start a set of pictures, or go on with one that the same plan began.

    Returns:
        The manifest, with the pieces that are complete.

    Raises:
        UserError: the folder cannot be written, holds something else, or another set.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / MANIFEST).exists():
            # A kill during the very first write leaves only its temporary file.
            if any(path.name != f".{Path(MANIFEST).stem}.part.json" for path in folder.iterdir()):
                raise UserError(
                    f"expected an empty folder or a set of pictures, got '{folder}', which holds other files; choose another --out"
                )
            write_manifest(folder, plan)
            return plan
        found = read_manifest(folder)
        different = [key for key in plan if key not in _NOT_RECIPE and found.get(key) != plan[key]]
        if different:
            values = [f" ({found.get(key)} there, {plan[key]} here)" if isinstance(plan[key], int) else "" for key in different]
            named = ", ".join(key + value for key, value in zip(different, values, strict=True))
            raise UserError(f"expected the set that '{folder}' began, but these differ: {named}; give the same arguments or another --out")
        # Also shows whether the folder can still be written.
        write_manifest(folder, found)
    except OSError as error:
        raise UserError(f"expected a folder that can be written, got '{folder}' ({error.strerror}); choose another --out") from error
    return found


def open_pictures(folder: Path) -> Pictures:
    """Read a complete set of either format.

    Raises:
        UserError: not a set, or an incomplete one.
    """
    # The readers need this module.
    from handmesh.synthetic.freihand_layout import LayoutReader
    from handmesh.synthetic.shards import ShardReader

    return LayoutReader(folder) if read_manifest(folder)["format"] == FREIHAND else ShardReader(folder)
