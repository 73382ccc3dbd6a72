"""MANO's pickles, read without pickle, chumpy or scipy: an interpreter that makes numbers, texts and arrays, and nothing else.

A pickle is a program. This one has no way to run anybody's code: names are looked up in the table below, each stands
for one step written here, and any other name or instruction ends the reading. Python's own unpickler with another
`find_class` was not enough: tuples of tuples as keys hang it, and a large memo index makes it allocate gigabytes.
What is allocated here is bounded by the file's size and `BUDGET_BYTES`.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable
from enum import Enum, auto
from typing import Any

import numpy as np

from handmesh.errors import UserError, one_line

# MANO's files have less than 4 MB.
LARGEST_FILE_BYTES = 16 * 2**20
# Arrays and byte strings that the program makes out of the file's.
BUDGET_BYTES = 4 * LARGEST_FILE_BYTES
# MANO's files have a few hundred.
_MOST_STEPS = 5000
_NEWEST_PROTOCOL = 2

_NUMBERS = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}


class _Name(Enum):
    """What a pickle may name."""

    NDARRAY = auto()
    DTYPE = auto()
    RECONSTRUCT = auto()
    SCALAR = auto()
    CSC = auto()
    CSR = auto()
    CH = auto()
    SELECT = auto()
    NEW = auto()
    OBJECT = auto()
    SET = auto()
    ENCODE = auto()


# Python 2 and 3, older and newer numpy and scipy spell them differently.
_NAMES = {
    "numpy ndarray": _Name.NDARRAY,
    "numpy dtype": _Name.DTYPE,
    **{f"numpy.{core}.multiarray _reconstruct": _Name.RECONSTRUCT for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray scalar": _Name.SCALAR for core in ("core", "_core")},
    **{f"scipy.sparse.{module} csc_matrix": _Name.CSC for module in ("csc", "_csc")},
    **{f"scipy.sparse.{module} csr_matrix": _Name.CSR for module in ("csr", "_csr")},
    "chumpy.ch Ch": _Name.CH,
    "chumpy.reordering Select": _Name.SELECT,
    **{f"{module} {name}": _Name.NEW for module in ("copy_reg", "copyreg") for name in ("_reconstructor", "__newobj__")},
    **{f"{module} object": _Name.OBJECT for module in ("__builtin__", "builtins")},
    **{f"{module} set": _Name.SET for module in ("__builtin__", "builtins")},
    "_codecs encode": _Name.ENCODE,
}


class _Object:
    """Something that a pickle makes in two steps: named first, given its state later."""

    __slots__ = ("name", "value")

    def __init__(self, name: _Name, value: Any = None) -> None:
        self.name = name
        self.value = value


def read_pickle(data: bytes, where: str) -> dict[str, np.ndarray | str]:
    """The arrays and texts of a pickled dictionary.

    Args:
        data: a pickle of protocol 2 or older, as Python 2 or 3 write it; bytes of Python 2 are latin1.
        where: names the file in errors.

    Returns:
        Arrays of numbers in the file's byte order, read-only; chumpy's `Ch` and `Select` and scipy's sparse matrices as
        the dense arrays that they stand for. Other values are left out.

    Raises:
        UserError: the pickle asks for anything else, is cut short or malformed, or is too large.
    """
    if len(data) > LARGEST_FILE_BYTES:
        raise UserError(f"expected at most {LARGEST_FILE_BYTES >> 20} MB in '{where}', got {len(data) >> 20} MB; MANO's files have 4 MB")
    try:
        if not data.startswith(b"\x80"):
            raise ValueError("it does not begin like one")
        return _Interpreter().run(data)
    except ValueError as error:
        raise UserError(f"expected MANO's pickle in '{where}', but {one_line(error)}; get the original file again") from error


class _Interpreter:
    """pickle's machine, as far as MANO's files need it. Everything that is wrong is a ValueError."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._spent_bytes = 0

    def run(self, data: bytes) -> dict[str, np.ndarray | str]:
        for step, (opcode, argument, position) in enumerate(pickletools.genops(data)):
            if step >= _MOST_STEPS:
                raise ValueError(f"it has more than {_MOST_STEPS} instructions")
            if opcode.name == "STOP":
                if position is None or position + 1 != len(data):
                    raise ValueError("bytes follow its end")
                break
            self._step(opcode.name, argument)
        result = self._pop()
        if not isinstance(result, dict) or self._stack:
            raise ValueError("it holds no dictionary of arrays")
        return {key: value for key, value in ((key, self._result(thing)) for key, thing in result.items()) if value is not None}

    def _result(self, thing: Any) -> np.ndarray | str | None:
        if isinstance(thing, str):
            return thing
        if isinstance(thing, _Object) and thing.name in (_Name.CSC, _Name.CSR) and thing.value is not None:
            return self._dense(thing.name, thing.value)
        return thing.value if isinstance(thing, _Object) and isinstance(thing.value, np.ndarray) else None

    def _step(self, opcode: str, argument: Any) -> None:
        match opcode:
            case "PROTO":
                if argument > _NEWEST_PROTOCOL:
                    raise ValueError(f"it was saved again with pickle protocol {argument}, newer than MANO's {_NEWEST_PROTOCOL}")
            case "MARK":
                self._marks.append(len(self._stack))
            case "NONE":
                self._stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                self._stack.append(opcode == "NEWTRUE")
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINSTRING" | "SHORT_BINSTRING" | "BINUNICODE":
                self._stack.append(argument)
            case "EMPTY_LIST":
                self._stack.append([])
            case "EMPTY_TUPLE":
                self._stack.append(())
            case "EMPTY_DICT":
                self._stack.append({})
            case "TUPLE":
                self._stack.append(tuple(self._pop_to_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [self._pop() for _ in range(int(opcode[-1]))]
                self._stack.append(tuple(reversed(items)))
            case "APPEND":
                self._extend([self._pop()])
            case "APPENDS":
                self._extend(self._pop_to_mark())
            case "SETITEM":
                value, key = self._pop(), self._pop()
                self._update([key, value])
            case "SETITEMS":
                self._update(self._pop_to_mark())
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = self._top()
            case "BINGET" | "LONG_BINGET":
                if argument not in self._memo:
                    raise ValueError(f"it recalls value {argument} before it is there")
                self._stack.append(self._memo[argument])
            case "GLOBAL":
                if argument not in _NAMES:
                    name = argument.replace(" ", ".")[:60]
                    raise ValueError(f"it asks for {name!a}, which no MANO file needs: refused")
                self._stack.append(_NAMES[argument])
            case "NEWOBJ" | "REDUCE":
                arguments, name = self._pop(), self._pop()
                if not isinstance(name, _Name) or not isinstance(arguments, tuple):
                    raise ValueError("it calls something that has no name")
                self._stack.append(self._new((name, *arguments)) if opcode == "NEWOBJ" else self._call(name, arguments))
            case "BUILD":
                state, thing = self._pop(), self._top()
                if (
                    not isinstance(thing, _Object)
                    or thing.name not in _BUILDERS
                    or (thing.value is not None and thing.name is not _Name.DTYPE)
                ):
                    raise ValueError("it gives a state to something that takes none")
                thing.value = _BUILDERS[thing.name](self, thing.value, state)
            case _:
                raise ValueError(f"it uses the instruction {opcode}, which no MANO file needs: refused")

    # The stack

    def _top(self) -> Any:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise ValueError("it takes from an empty stack")
        return self._stack[-1]

    def _pop(self) -> Any:
        self._top()
        return self._stack.pop()

    def _pop_to_mark(self) -> list[Any]:
        if not self._marks:
            raise ValueError("it goes back to a mark that it never made")
        mark = self._marks.pop()
        items = self._stack[mark:]
        del self._stack[mark:]
        return items

    def _extend(self, items: list[Any]) -> None:
        if not isinstance(self._top(), list):
            raise ValueError("it appends to something that is no list")
        self._stack[-1].extend(items)

    def _update(self, items: list[Any]) -> None:
        keys, values = items[::2], items[1::2]
        # Only texts: the hash of nested tuples can take forever.
        if not isinstance(self._top(), dict) or len(keys) != len(values) or not all(isinstance(key, str) for key in keys):
            raise ValueError("it fills something that is no dictionary of named values")
        self._stack[-1].update(zip(keys, values, strict=True))

    # What names stand for

    def _call(self, name: _Name, arguments: tuple) -> Any:
        match name, arguments:
            case _Name.NEW, (_Name(), *_):
                return self._new(arguments)
            case _Name.RECONSTRUCT, (_Name.NDARRAY, tuple(), str() | bytes()):
                return _Object(_Name.NDARRAY)
            case _Name.DTYPE, (str(code), *_) if code in _NUMBERS:
                return _Object(_Name.DTYPE, np.dtype(code))
            case _Name.DTYPE, (str(code), *_):
                raise ValueError(f"it holds an array of type {code[:20]!a}, which is no number: refused")
            case _Name.SCALAR, (_Object() as dtype, data):
                values = np.frombuffer(self._bytes(data), self._dtype(dtype))
                if values.size != 1:
                    raise ValueError("it holds a number of another size than its type's")
                return values[0].item()
            case _Name.SET, (list(),):
                # chumpy's bookkeeping, which nothing here reads.
                return None
            case _Name.ENCODE, (str(text), str(encoding)) if encoding in ("latin1", "latin-1"):
                return self._bytes(text)
        raise ValueError(f"it calls {name.name.lower()} in a way that no MANO file does: refused")

    def _new(self, arguments: tuple) -> _Object:
        match arguments:
            case (_Name.CH | _Name.SELECT | _Name.CSC | _Name.CSR as name,) | (
                _Name.CH | _Name.SELECT | _Name.CSC | _Name.CSR as name,
                _Name.OBJECT,
                None,
            ):
                return _Object(name)
        raise ValueError("it makes an object of a kind that no MANO file has: refused")

    def spend(self, count_bytes: int) -> None:
        self._spent_bytes += count_bytes
        if self._spent_bytes > BUDGET_BYTES:
            raise ValueError(f"its arrays need more than {BUDGET_BYTES >> 20} MB")

    def _bytes(self, data: Any) -> bytes:
        """Bytes, or the text that Python 2's bytes were read as."""
        if isinstance(data, str):
            self.spend(len(data))
            return data.encode("latin1")
        if isinstance(data, bytes):
            return data
        raise ValueError("an array of it has no bytes")

    def _dtype(self, thing: Any) -> np.dtype:
        if not isinstance(thing, _Object) or thing.name is not _Name.DTYPE:
            raise ValueError("an array of it has no type")
        return thing.value

    # States, by name

    def build_dtype(self, dtype: np.dtype, state: Any) -> np.dtype:
        match state:
            # Version, byte order, and no sub-arrays, no fields.
            case (int(), ("<" | ">" | "|" | "=") as order, None, None, None, *_):
                return dtype.newbyteorder(order)
        raise ValueError("an array of it has a type with parts: refused")

    def build_array(self, _: None, state: Any) -> np.ndarray:
        match state:
            case (1, tuple(shape), dtype, bool() | 0 | 1 as is_fortran, data):
                buffer, kind = self._bytes(data), self._dtype(dtype)
            case _:
                raise ValueError("an array of it has a state that is not numpy's")
        sizes = _sizes(shape)
        if math.prod(sizes) * kind.itemsize != len(buffer):
            raise ValueError(f"an array of it claims {' x '.join(map(str, sizes))[:60]} values of {kind} but has {len(buffer)} bytes")
        return np.frombuffer(buffer, kind).reshape(sizes, order="F" if is_fortran else "C")

    def build_ch(self, _: None, state: Any) -> np.ndarray:
        return _array(_entries(state), "x")

    def build_select(self, _: None, state: Any) -> np.ndarray:
        entries = _entries(state)
        source, indices = _array(entries, "a"), self._integers(entries, "idxs")
        self.spend(source.nbytes + indices.size * source.itemsize)
        if indices.size and (indices.min() < 0 or indices.max() >= source.size):
            raise ValueError("a selection of it points outside its array")
        selected = source.ravel()[indices]
        return selected.reshape(_sizes(entries["preferred_shape"])) if "preferred_shape" in entries else selected

    def build_sparse(self, _: None, state: Any) -> dict[str, Any]:
        # Dense only if the file's reader asks for it: chumpy keeps huge ones as its bookkeeping.
        return _entries(state)

    def _dense(self, name: _Name, entries: dict[str, Any]) -> np.ndarray:
        sizes = _sizes(entries.get("_shape", entries.get("shape")))
        if len(sizes) != 2:
            raise ValueError("a sparse matrix of it has no rows and columns")
        majors, minors = sizes if name is _Name.CSR else sizes[::-1]
        data = _array(entries, "data").ravel()
        minor, starts = self._integers(entries, "indices"), self._integers(entries, "indptr")
        self.spend(majors * minors * data.itemsize)
        if len(starts) != majors + 1 or starts[0] != 0 or starts[-1] != len(data) or len(minor) != len(data) or (np.diff(starts) < 0).any():
            raise ValueError("a sparse matrix of it does not fit its own size")
        if len(minor) and (minor.min() < 0 or minor.max() >= minors):
            raise ValueError("a sparse matrix of it has entries outside")
        dense = np.zeros((majors, minors), data.dtype)
        np.add.at(dense, (np.repeat(np.arange(majors), np.diff(starts)), minor), data)
        return dense if name is _Name.CSR else dense.T

    def _integers(self, entries: dict[str, Any], name: str) -> np.ndarray:
        array = _array(entries, name)
        if array.dtype.kind not in "iu":
            raise ValueError(f"'{name}' of an object of it should hold indices, but holds {array.dtype}")
        self.spend(8 * array.size)
        # Unsigned differences would wrap around.
        return array.ravel().astype(np.int64)


_BUILDERS: dict[_Name, Callable[[_Interpreter, Any, Any], Any]] = {
    _Name.DTYPE: _Interpreter.build_dtype,
    _Name.NDARRAY: _Interpreter.build_array,
    _Name.CH: _Interpreter.build_ch,
    _Name.SELECT: _Interpreter.build_select,
    _Name.CSC: _Interpreter.build_sparse,
    _Name.CSR: _Interpreter.build_sparse,
}


def _entries(state: Any) -> dict[str, Any]:
    if not isinstance(state, dict):
        raise ValueError("an object of it has a state without names")
    return state


def _array(entries: dict[str, Any], name: str) -> np.ndarray:
    thing = entries.get(name)
    if not isinstance(thing, _Object) or not isinstance(thing.value, np.ndarray):
        raise ValueError(f"an object of it has no array '{name}'")
    return thing.value


def _sizes(shape: Any) -> tuple[int, ...]:
    """A shape: up to four sizes, none negative."""
    if not isinstance(shape, (tuple, list)) or len(shape) > 4 or not all(type(size) is int and 0 <= size < 2**31 for size in shape):
        raise ValueError("an array of it has a shape that is none")
    return tuple(shape)
