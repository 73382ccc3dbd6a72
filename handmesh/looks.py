"""What a landmark network and a hand network saw of hands whose pose is known: shards that a head is trained on.

    DIR/manifest.json           format "handmesh-looks-1" and what the looks were made of
    DIR/SHARD/pooled.npy        (N, P) float16, the landmark network's pooled vector
    DIR/SHARD/map.npy           (N, C, 7, 7) float16, its last map before the pooling
    DIR/SHARD/answer.npy        (N, 111) float16, the hand network's answer (`head.answer_in_region`)
    DIR/SHARD/labels.npy        (N,) LABEL_DTYPE

A shard is a folder that is renamed into place when it is whole.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from handmesh.errors import UserError, one_line
from handmesh.wholefile import replacing

FORMAT = "handmesh-looks-1"
MANIFEST = "manifest.json"

# Of one look, as the region shows it: turned upright, and mirrored where the region is. `rotmats`, `betas` and `root_m` (in the region's
# camera) hold where `has_params`; `points_px` are the hand model's keypoints there, else a detector's landmarks with their weight.
LABEL_DTYPE = np.dtype(
    [
        ("rotmats", "f4", (16, 3, 3)),
        ("betas", "f4", (10,)),
        ("root_m", "f4", (3,)),
        ("focal_px", "f4"),
        ("points_px", "f4", (21, 2)),
        ("has_params", "u1"),
        ("landmark_weight", "f4"),
        ("presence", "i1"),
        ("right", "i1"),
        ("source", "u1"),
        ("image", "i4"),
        ("is_validation", "u1"),
    ]
)
_ARRAYS = ("pooled", "map", "answer", "labels")


@dataclass(frozen=True)
class Looks:
    """N looks.

    Attributes:
        pooled: (N, P) float16.
        map: (N, C, 7, 7) float16.
        answer: (N, 111) float16.
        labels: (N,) LABEL_DTYPE.
    """

    pooled: np.ndarray
    map: np.ndarray
    answer: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


def write_shard(looks: Looks, folder: Path) -> None:
    """Write one shard whole, or not at all."""
    partial = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name in _ARRAYS:
        np.save(partial / f"{name}.npy", getattr(looks, name))
    partial.rename(folder)


def write_manifest(folder: Path, made_of: dict[str, Any]) -> None:
    """Say what the looks of a folder are made of.

    Raises:
        UserError: the folder holds looks of something else.
    """
    path = folder / MANIFEST
    text = json.dumps({"format": FORMAT, **made_of}, indent=2, sort_keys=True) + "\n"
    if path.exists():
        if path.read_text(encoding="utf-8") != text:
            raise UserError(f"expected the looks that these settings began in '{folder}', got those of others; give another folder")
        return
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_looks(folders: Sequence[Path]) -> Looks:
    """All looks of some shards, in memory.

    Raises:
        UserError: none, or files that do not fit together.
    """
    try:
        parts = [{name: np.load(folder / f"{name}.npy") for name in _ARRAYS} for folder in folders]
        looks = Looks(**{name: np.concatenate([part[name] for part in parts]) for name in _ARRAYS})
    except (OSError, ValueError) as error:
        raise UserError(f"expected whole shards of looks, but: {one_line(error)}; delete the folder and run again") from error
    if looks.labels.dtype != LABEL_DTYPE or len({len(getattr(looks, name)) for name in _ARRAYS}) != 1:
        raise UserError("expected shards of looks of this version, got others; delete the folder and run again")
    return looks
