"""Packed photographs of hands, format "handmesh-photographs-1": what tools/pack_photographs.py writes and training and scores read.

    DIR/images.npy      (N, S, S, 3) uint8 RGB: the square of `PADDING` times the hand's box, black beyond the photograph
    DIR/labels.npy      (N,) LABEL_DTYPE
    DIR/manifest.json   format, count, size_px, hand_model (of parameters, or null), origins: name, licence, largest_fraction (or null)

All hands are right hands: crops of left ones are mirrored. The manifest is written last, so a folder with one is complete.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from handmesh.errors import UserError, one_line
from handmesh.wholefile import replacing

FORMAT = "handmesh-photographs-1"
MANIFEST = "manifest.json"
# Side of the stored square over the larger side of the landmarks' box: room for cameras that are turned, rolled and zoomed out.
PADDING = 2.0
# Assumed focal length of the stored square, in its sides: half of it spans 9.5 degrees.
FOCAL_OVER_SIZE = 3.0
TRAINING, VALIDATION = 0, 1

# landmarks_px: MediaPipe's, in the order of `skeleton.JOINTS`, pixels of the stored square; the first pixel's centre is (0, 0).
# rotmats, betas: parameters of the manifest's hand model in the stored square's camera, which looks along its middle.
# weight_landmarks, weight_params: how much they count, 0 where there are none. has_side: whether the side is sure.
LABEL_DTYPE = np.dtype(
    [
        ("file", "S48"),
        ("origin", "u1"),
        ("split", "u1"),
        ("presence", "i1"),
        ("focal_px", "f4"),
        ("landmarks_px", "f4", (21, 2)),
        ("rotmats", "f4", (16, 3, 3)),
        ("betas", "f4", (10,)),
        ("weight_landmarks", "f4"),
        ("weight_params", "f4"),
        ("has_side", "?"),
    ]
)


@dataclass(frozen=True)
class Origin:
    """Where some of the photographs are from.

    Attributes:
        name: short.
        licence: of its photographs.
        largest_fraction: of the draws in training, at most; None for as many as it has photographs.
    """

    name: str
    licence: str
    largest_fraction: float | None = None


def write_photographs(
    folder: Path, images: np.ndarray, labels: np.ndarray, origins: Sequence[Origin], hand_model: str | None = None
) -> None:
    """Write a folder of photographs; one that is there is replaced file by file.

    Args:
        images: (N, S, S, 3) uint8 RGB.
        labels: (N,) LABEL_DTYPE; `origin` counts in `origins`.
        hand_model: id of the one that parameters are for; None where no label has parameters.

    Raises:
        UserError: the folder cannot be written.
    """
    manifest = {
        "format": FORMAT,
        "count": len(labels),
        "size_px": images.shape[1],
        "hand_model": hand_model,
        "origins": [asdict(origin) for origin in origins],
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST).unlink(missing_ok=True)
        for name, array in (("images", images), ("labels", labels)):
            with replacing(folder / f"{name}.npy") as temporary:
                np.save(temporary, array)
        with replacing(folder / MANIFEST) as temporary:
            temporary.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"expected a folder that can be written, got '{folder}' ({one_line(error)}); choose another") from error


class PhotographReader:
    """Packed photographs by index, images memory-mapped.

    Args:
        folder: what `write_photographs` wrote.

    Attributes:
        folder, size_px, hand_model, origins: as of `write_photographs`.
        labels: (N,) LABEL_DTYPE.

    Raises:
        UserError: no such folder, or one whose files do not fit together.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        path = self.folder / MANIFEST
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            if manifest["format"] != FORMAT:
                raise UserError(
                    f"expected packed photographs (format '{FORMAT}') in '{self.folder}', got format '{manifest['format']}'; give another "
                    "folder, or pack the photographs again"
                )
            self.size_px = int(manifest["size_px"])
            self.hand_model: str | None = manifest["hand_model"]
            self.origins = tuple(Origin(**origin) for origin in manifest["origins"])
            self.labels = np.load(self.folder / "labels.npy")
            self._images = np.load(self.folder / "images.npy", mmap_mode="r")
        except OSError as error:
            raise UserError(
                f"expected photographs that were packed in '{self.folder}', but they cannot be read ({one_line(error)}); "
                "pack them with tools/pack_photographs.py"
            ) from error
        except (ValueError, LookupError, TypeError) as error:
            raise UserError(
                f"expected photographs that were packed in '{self.folder}', but its files are damaged ({one_line(error)}); pack them again"
            ) from error
        shape, count = (int(manifest["count"]), self.size_px, self.size_px, 3), len(self.labels)
        if (self.labels.dtype, self._images.dtype, self._images.shape, count) != (LABEL_DTYPE, np.uint8, shape, shape[0]):
            raise UserError(
                f"expected {shape} images and as many labels in '{self.folder}', got {self._images.shape} and {count}; "
                "pack the photographs again"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, index: np.ndarray) -> np.ndarray:
        """(N, S, S, 3) uint8 RGB at (N,) indices."""
        return self._images[index]

    def of_split(self, split: int) -> np.ndarray:
        """(M,) indices of TRAINING or VALIDATION."""
        return np.flatnonzero(self.labels["split"] == split)
