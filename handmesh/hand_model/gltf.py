"""glTF 2.0 binary files (glb) by hand: a json tree beside one buffer of numbers (Khronos, glTF 2.0 specification, chapters 3 and 4).

Knows accessors and chunks, and nothing of hands: `animation.py` writes the tree.
"""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np

_MAGIC, _VERSION, _JSON_CHUNK, _BINARY_CHUNK = 0x46546C67, 2, 0x4E4F534A, 0x004E4942
_COMPONENT_TYPES = {np.dtype(np.uint8): 5121, np.dtype(np.uint16): 5123, np.dtype(np.uint32): 5125, np.dtype(np.float32): 5126}
_TYPES = {(): "SCALAR", (2,): "VEC2", (3,): "VEC3", (4,): "VEC4", (4, 4): "MAT4"}
# What a buffer view is for: `target` of the specification.
VERTICES, TRIANGLES = 34962, 34963


class GlbBuffer:
    """The numbers of a glb and the accessors that name them; equal arrays are stored once."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._views: list[dict[str, int]] = []
        self._accessors: list[dict[str, Any]] = []
        self._known_views: dict[tuple[bytes, int | None], int] = {}
        self._known_accessors: dict[str, int] = {}

    def add(self, values: np.ndarray, target: int | None = None, *, with_range: bool = False) -> int:
        """Store an array.

        Args:
            values: (N,), (N, 2..4) or (N, 4, 4, row by row) of uint8, uint16, uint32 or float32.
            target: `VERTICES`, `TRIANGLES`, or None for what is neither.
            with_range: write the smallest and largest values, which positions and times must have.

        Returns:
            The index of its accessor.
        """
        # glTF stores matrices column by column.
        stored = values.swapaxes(1, 2) if values.ndim == 3 else values
        return self._accessor(values, {"bufferView": self._view(stored, target)}, with_range)

    def add_sparse(self, values: np.ndarray) -> int:
        """Store (N, 3) float32 that is mostly zero, with its range: only the rows that are not, where that takes less room."""
        rows = np.flatnonzero(values.any(axis=1)).astype(np.uint16 if len(values) <= 0xFFFF else np.uint32)
        if len(rows) * (rows.itemsize + values.itemsize * 3) >= values.nbytes or not len(rows):
            return self.add(values, VERTICES, with_range=True)
        sparse = {
            "count": len(rows),
            "indices": {"bufferView": self._view(rows), "componentType": _COMPONENT_TYPES[rows.dtype]},
            "values": {"bufferView": self._view(values[rows])},
        }
        return self._accessor(values, {"sparse": sparse}, True)

    def to_glb(self, tree: dict[str, Any]) -> bytes:
        """The file: `tree` with this buffer's accessors, then the buffer."""
        _pad(self._data, b"\0")
        full = {
            **tree,
            "accessors": self._accessors,
            "bufferViews": self._views,
            "buffers": [{"byteLength": len(self._data)}],
        }
        text = bytearray(json.dumps(full, separators=(",", ":"), allow_nan=False).encode())
        _pad(text, b" ")
        length = 12 + 8 + len(text) + 8 + len(self._data)
        return b"".join(
            [
                struct.pack("<III", _MAGIC, _VERSION, length),
                *(struct.pack("<II", len(text), _JSON_CHUNK), text),
                *(struct.pack("<II", len(self._data), _BINARY_CHUNK), self._data),
            ]
        )

    def _accessor(self, values: np.ndarray, where: dict[str, Any], with_range: bool) -> int:
        accessor = {**where, "componentType": _COMPONENT_TYPES[values.dtype], "count": len(values), "type": _TYPES[values.shape[1:]]}
        if with_range:
            columns = values.reshape(len(values), -1)
            accessor |= {"min": columns.min(axis=0).tolist(), "max": columns.max(axis=0).tolist()}
        index = self._known_accessors.setdefault(json.dumps(accessor), len(self._accessors))
        if index == len(self._accessors):
            self._accessors.append(accessor)
        return index

    def _view(self, values: np.ndarray, target: int | None = None) -> int:
        data = values.tobytes()
        index = self._known_views.setdefault((data, target), len(self._views))
        if index == len(self._views):
            _pad(self._data, b"\0")
            view = {"buffer": 0, "byteOffset": len(self._data), "byteLength": len(data)}
            self._views.append(view if target is None else {**view, "target": target})
            self._data += data
        return index


def _pad(data: bytearray, with_byte: bytes) -> None:
    """To a multiple of 4 bytes."""
    data += with_byte * (-len(data) % 4)
