"""What passes between the parts of the evaluation: a set of labelled pictures, and what somebody predicted for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from handmesh.errors import UserError, one_line
from handmesh.skeleton import JOINTS

# No joints lie so near to each other.
_SMALLEST_HAND_M = 1e-6

CropMode = Literal["centre", "gt", "detector"]
Tta = Literal["none", "metro", "fast"]


@dataclass(frozen=True)
class EvaluationSet:
    """Pictures of one hand each, with true 3D in the picture's camera (x right, y down, z forward).

    Attributes:
        name: for tables.
        joints_m: (N, 21, 3) f64 in `skeleton.JOINTS` order.
        K: (N, 3, 3) f64 intrinsics in pixels; the first pixel's centre is (0, 0). None where only others' predictions are scored.
        image: the picture of an index, (H, W, 3) uint8 RGB; None as for K.
        vertices_m: (N, V, 3) f64, or None where no mesh is known.
        topology: id of the hand model whose mesh `vertices_m` is: "mano-right", or `HandModel.id`; None with no mesh.
        is_left: (N,) bool; None where all are right hands. Numbers are those of the hand in its picture, left or right.
        crop: how this data is cropped where the caller does not choose.
        sequence: (N,) int, number of the video that a picture is a frame of, frames of a video in order; None for single pictures.
        rate_hz: frames a second of the videos.
        order: in words, which hands these are and in which order; for those who bring predictions.

    Raises:
        UserError: arrays of other shapes, or numbers that are not finite.
    """

    name: str
    joints_m: np.ndarray
    K: np.ndarray | None
    image: Callable[[int], np.ndarray] | None
    vertices_m: np.ndarray | None = None
    topology: str | None = None
    is_left: np.ndarray | None = None
    crop: CropMode = "gt"
    sequence: np.ndarray | None = None
    rate_hz: float = 30.0
    order: str = "in the order of the pictures' numbers"

    def __post_init__(self) -> None:
        for name, dtype in (
            ("joints_m", np.float64),
            ("K", np.float64),
            ("vertices_m", np.float64),
            ("is_left", bool),
            ("sequence", np.int64),
        ):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _array(self, name, dtype))
        count = len(self.joints_m)
        if not count:
            raise UserError(f"expected hands in '{self.name}', got none; choose other data")
        _expect(self, "joints_m", (count, len(JOINTS), 3))
        for name in ("is_left", "sequence"):
            if getattr(self, name) is not None:
                _expect(self, name, (count,))
        if self.vertices_m is not None:
            _expect(self, "vertices_m", (count, self.vertices_m.shape[1] if self.vertices_m.ndim == 3 else 0, 3))
        if (self.vertices_m is None) != (self.topology is None):
            raise UserError(f"expected vertices_m and topology of '{self.name}' both or neither, got one; name the hand model of the mesh")
        if self.crop not in get_args(CropMode):
            raise UserError(f"expected crop of '{self.name}' to be one of {', '.join(get_args(CropMode))}, got '{self.crop}'; choose one")
        flat = np.ptp(self.joints_m, axis=1).max(axis=1) < _SMALLEST_HAND_M
        if flat.any():
            raise UserError(f"expected hands in '{self.name}', got joints that are all one point at index {int(np.argmax(flat))}; mend it")
        if self.K is not None:
            _expect(self, "K", (count, 3, 3))
            if not ((self.K[:, 2] == (0, 0, 1)).all() and (self.K[:, [0, 1], [0, 1]] > 0).all()):
                raise UserError(
                    f"expected K of '{self.name}' as [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], got {self.K[0].tolist()}; transposed?"
                )
            behind = (self.joints_m[..., 2] <= 0).any(axis=1)
            if behind.any():
                raise UserError(
                    f"expected hands of '{self.name}' before the camera (z > 0), not so at index {int(np.argmax(behind))}; z is forward"
                )

    def __len__(self) -> int:
        """How many hands there are."""
        return len(self.joints_m)

    def cameras(self) -> np.ndarray:
        """(N, 3, 3) `K`.

        Raises:
            UserError: there are none.
        """
        if self.K is None:
            raise UserError(f"expected cameras in '{self.name}', which has none (evaluation_K.json); unpack the whole archive")
        return self.K

    def picture(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB.

        Raises:
            UserError: there are none, or it cannot be read.
        """
        if self.image is None:
            raise UserError(f"expected pictures in '{self.name}', which has none; unpack the whole archive")
        try:
            image = self.image(index)
        except UserError:
            raise
        # A reader's own code may fail in any way.
        except Exception as error:
            said = f"{type(error).__name__}: {one_line(error)}"
            raise UserError(f"expected picture {index} of '{self.name}', got {said}; mend it or what reads it") from error
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            got = f"{image.shape} {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
            raise UserError(f"expected picture {index} of '{self.name}' as (H, W, 3) uint8 RGB, got {got}; mend what reads this data")
        return image

    def left(self) -> np.ndarray:
        """(N,) bool, True where the hand is a left one."""
        return np.zeros(len(self), bool) if self.is_left is None else self.is_left

    def every(self, step: int) -> EvaluationSet:
        """Every step-th hand, the first included."""
        return self if step == 1 else replace(self.take(np.arange(0, len(self), step)), rate_hz=self.rate_hz / step)

    def take(self, rows: np.ndarray) -> EvaluationSet:
        """The hands of (M,) indices, M > 0."""
        image = self.image

        def some(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else values[rows]

        return replace(
            self,
            joints_m=self.joints_m[rows],
            K=some(self.K),
            image=None if image is None else lambda index: image(int(rows[index])),
            vertices_m=some(self.vertices_m),
            is_left=some(self.is_left),
            sequence=some(self.sequence),
        )


@dataclass(frozen=True)
class Predictions:
    """Somebody's hands for the pictures of an `EvaluationSet`, in its order.

    Attributes:
        joints_m: (N, 21, 3) f64 in the picture's camera, or relative to anything where that is all a method gives.
        vertices_m: (N, V, 3) f64 in the same frame; None for a method without a mesh.
        topology: id of the hand model whose mesh it is; None with no mesh.
        found: (N,) bool, where a detector found the hand; None where none was asked.
    """

    joints_m: np.ndarray
    vertices_m: np.ndarray | None = None
    topology: str | None = None
    found: np.ndarray | None = None

    def __len__(self) -> int:
        """How many hands there are."""
        return len(self.joints_m)

    def every(self, step: int) -> Predictions:
        """Every step-th hand, the first included."""
        rows = slice(None, None, step)
        vertices_m, found = (None if values is None else values[rows] for values in (self.vertices_m, self.found))
        return Predictions(self.joints_m[rows], vertices_m, self.topology, found)


def _array(data: EvaluationSet, name: str, dtype: type) -> np.ndarray:
    try:
        return np.asarray(getattr(data, name), dtype)
    except (ValueError, TypeError) as error:
        raise UserError(f"expected an array of numbers for {name} of '{data.name}', got {one_line(error)}; mend what reads it") from error


def _expect(data: EvaluationSet, name: str, shape: tuple[int, ...]) -> None:
    values = getattr(data, name)
    if values.shape != shape or 0 in shape:
        raise UserError(f"expected {name} of shape {shape} in '{data.name}', got {values.shape}; mend what reads this data")
    if not np.isfinite(values).all():
        first = int(np.argwhere(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))[0, 0])
        raise UserError(f"expected finite {name} in '{data.name}', got nan or infinity at index {first}; mend what reads this data")
