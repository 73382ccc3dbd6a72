"""Files in exactly MANO's layout, of a made-up hand: pickles as Python 2 and Python 3 wrote them, zips, and what attackers write."""

from __future__ import annotations

import io
import pickle
import struct
import sys
import types
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from handmesh.skeleton import MANO_JOINTS, MANO_PARENTS

VERTICES, FACES = 778, 1538
Arrays = dict[str, Any]

# A right hand in MANO's rest frame, fingers -x, palm -y, thumb +z: knuckles in a row across, round numbers of nobody's hand.
_FIRST_JOINTS_M = {
    "wrist": (0.08, 0.0, 0.0),
    "index_mcp": (-0.01, 0.0, 0.03),
    "middle_mcp": (-0.01, 0.0, 0.01),
    "ring_mcp": (-0.01, 0.0, -0.01),
    "little_mcp": (0.0, 0.0, -0.03),
    "thumb_cmc": (0.05, -0.01, 0.025),
}
_PHALANX_M = 0.025


def rest_joints_m() -> np.ndarray:
    """(16, 3) of a right hand."""
    joints_m = np.zeros((16, 3))
    for index, (name, parent) in enumerate(zip(MANO_JOINTS, MANO_PARENTS, strict=True)):
        step = np.array([-0.7, -0.3, 0.65]) if name.startswith("thumb") else np.array([-1.0, 0.0, 0.0])
        joints_m[index] = _FIRST_JOINTS_M[name] if name in _FIRST_JOINTS_M else joints_m[parent] + _PHALANX_M * step
    return joints_m


def right_arrays(seed: int = 0) -> Arrays:
    """MANO's entries, random but valid: sizes, types and keys are MANO's, no number is. `J_regressor` is dense here."""
    rng = np.random.default_rng(seed)
    joints_m = rest_joints_m()
    owner = np.arange(VERTICES) % 16
    along = np.where(owner == 0, 0.02, _PHALANX_M / 2)
    template_m = joints_m[owner] + rng.normal(0, 0.004, (VERTICES, 3)) - np.outer(along * rng.uniform(0, 1, VERTICES), [1.0, 0, 0])
    regressor = np.zeros((16, VERTICES))
    weights = np.zeros((VERTICES, 16))
    for joint in range(16):
        regressor[joint, rng.choice(np.flatnonzero(owner == joint), 8, replace=False)] = rng.dirichlet(np.ones(8))
    for vertex in range(VERTICES):
        weights[vertex, rng.choice(16, 4, replace=False)] = rng.dirichlet(np.ones(4))
    # People differ in size, then in length, breadth and thickness, then a little everywhere.
    centred_m = template_m - template_m.mean(axis=0)
    shapedirs = rng.normal(0, 0.0002, (VERTICES, 3, 20))
    shapedirs[..., 0] += 0.05 * centred_m
    shapedirs[..., 1] += centred_m * (0.02, -0.01, -0.015)
    shapedirs[..., 2] += centred_m * (0.0, 0.01, -0.01)
    return {
        "hands_components": np.linalg.qr(rng.normal(0, 1, (45, 45)))[0],
        "f": np.array([rng.choice(VERTICES, 3, replace=False) for _ in range(FACES)], np.uint32),
        "J_regressor": regressor,
        "kintree_table": np.array([[4294967295, *MANO_PARENTS[1:]], range(16)], np.uint32),
        "J": regressor @ template_m,
        "hands_coeffs": rng.normal(0, 1, (1554, 45)),
        "weights": weights,
        "posedirs": rng.normal(0, 0.001, (VERTICES, 3, 135)),
        "bs_style": "lbs",
        "hands_mean": rng.normal(0, 0.2, 45),
        "v_template": template_m,
        # What Select takes its ten directions from.
        "shapedirs": shapedirs,
        "bs_type": "lrotmin",
    }


def left_arrays(right: Arrays, has_bug: bool) -> Arrays:
    """The mirrored hand, entry by entry and rotation by rotation; with MANO's bug its shapedirs are the right hand's."""
    mirror = np.diag([-1.0, 1.0, 1.0])
    left = dict(right)
    left["v_template"] = right["v_template"] @ mirror
    left["J"] = right["J"] @ mirror
    left["f"] = right["f"][:, [1, 0, 2]]
    left["shapedirs"] = right["shapedirs"] if has_bug else np.einsum("ij,vjk->vik", mirror, right["shapedirs"])
    posedirs = right["posedirs"].reshape(VERTICES, 3, 15, 3, 3)
    left["posedirs"] = np.einsum("ij,vjkab,ac,bd->vikcd", mirror, posedirs, mirror, mirror).reshape(VERTICES, 3, 135)
    signs = np.tile([1.0, -1.0, -1.0], 15)
    left["hands_mean"], left["hands_components"] = right["hands_mean"] * signs, right["hands_components"] * signs
    return left


def plain_arrays(arrays: Arrays) -> Arrays:
    """The same hand as people convert it: arrays and texts alone."""
    return {**arrays, "shapedirs": arrays["shapedirs"][..., :10]}


# As Python 2's cPickle wrote it


class Named:
    """An object of a class that need not be there, with its state."""

    def __init__(self, module: str, name: str, state: dict[str, Any]) -> None:
        self.module, self.name, self.state = module, name, state


def select_over_ch(values: np.ndarray, keep: int = 10) -> Named:
    """chumpy's `Ch(values)[..., :keep]`, with the bookkeeping that it keeps in its state."""
    rows = np.arange(values.size).reshape(values.shape)[..., :keep]
    book = {"_dirty_vars": set(), "_itr": None, "_depends_on_deps": {}}
    source = Named("chumpy.ch", "Ch", {**book, "_dirty_vars": {"x"}, "x": values})
    return Named("chumpy.reordering", "Select", {**book, "a": source, "idxs": rows.ravel(), "preferred_shape": rows.shape})


def csc(dense: np.ndarray) -> Named:
    """scipy's compressed sparse columns, as an old scipy kept them."""
    columns, rows = np.nonzero(dense.T)
    starts = np.searchsorted(columns, np.arange(dense.shape[1] + 1))
    state = {"_shape": dense.shape, "maxprint": 50, "data": dense[rows, columns]}
    return Named("scipy.sparse.csc", "csc_matrix", {**state, "indices": rows.astype(np.int32), "indptr": starts.astype(np.int32)})


def mano_entries(arrays: Arrays) -> Arrays:
    return {**arrays, "J_regressor": csc(arrays["J_regressor"]), "shapedirs": select_over_ch(arrays["shapedirs"])}


def python2_pickle(value: Any) -> bytes:
    """Protocol 2 with Python 2's `str` as (SHORT_)BINSTRING, for texts and for the bytes of arrays."""
    out, memo = io.BytesIO(), [0]

    def put() -> None:
        out.write(b"q" + struct.pack("<B", memo[0]) if memo[0] < 256 else b"r" + struct.pack("<I", memo[0]))
        memo[0] += 1

    def string(data: bytes) -> None:
        out.write(b"U" + bytes([len(data)]) + data if len(data) < 256 else b"T" + struct.pack("<i", len(data)) + data)
        put()

    def name(module: str, attribute: str) -> None:
        out.write(f"c{module}\n{attribute}\n".encode())
        put()

    def save(item: Any) -> None:
        if item is None or isinstance(item, bool):
            out.write({None: b"N", True: b"\x88", False: b"\x89"}[item])
        elif isinstance(item, int):
            small = b"K" + bytes([item]) if 0 <= item < 256 else None
            out.write(small or (b"M" + struct.pack("<H", item) if 0 <= item < 65536 else b"J" + struct.pack("<i", item)))
        elif isinstance(item, str):
            string(item.encode("latin1"))
        elif isinstance(item, tuple):
            save_tuple(item)
        elif isinstance(item, set):
            name("__builtin__", "set")
            out.write(b"]")
            put()
            for member in item:
                save(member)
                out.write(b"a")
            out.write(b"\x85R")
            put()
        elif isinstance(item, dict):
            out.write(b"}")
            put()
            save_items(item)
        elif isinstance(item, np.ndarray):
            save_array(item)
        elif isinstance(item, Named):
            name(item.module, item.name)
            out.write(b")\x81")
            put()
            out.write(b"}")
            put()
            save_items(item.state)
            out.write(b"b")
        else:
            raise TypeError(type(item))

    def save_tuple(items: tuple) -> None:
        if len(items) > 3:
            out.write(b"(")
        for item in items:
            save(item)
        out.write([b")", b"\x85", b"\x86", b"\x87", b"t"][min(len(items), 4)])
        put()

    def save_items(items: dict[str, Any]) -> None:
        out.write(b"(")
        for key, item in items.items():
            save(key)
            save(item)
        out.write(b"u")

    def save_array(array: np.ndarray) -> None:
        is_fortran = array.flags.f_contiguous and not array.flags.c_contiguous
        name("numpy.core.multiarray", "_reconstruct")
        name("numpy", "ndarray")
        save_tuple((0,))
        string(b"b")
        out.write(b"\x87R")
        put()
        out.write(b"(K\x01")
        save_tuple(array.shape)
        name("numpy", "dtype")
        save_tuple((array.dtype.str[1:], 0, 1))
        out.write(b"R")
        put()
        save_tuple((3, array.dtype.str[0], None, None, None, -1, -1, 0))
        out.write(b"b")
        save(bool(is_fortran))
        string(array.tobytes("F" if is_fortran else "C"))
        out.write(b"t")
        put()
        out.write(b"b")

    out.write(b"\x80\x02")
    save(value)
    out.write(b".")
    return out.getvalue()


# As Python 3 writes it, once chumpy was read


@contextmanager
def pretended_modules() -> Iterator[types.SimpleNamespace]:
    """chumpy's and an old scipy's classes, for plain pickle to find; gone at the end."""
    made: dict[str, types.ModuleType] = {}
    for name in ("chumpy", "chumpy.ch", "chumpy.reordering", "scipy.sparse.csc"):
        made[name] = types.ModuleType(name)
    classes = {}
    for module, name in (("chumpy.ch", "Ch"), ("chumpy.reordering", "Select"), ("scipy.sparse.csc", "csc_matrix")):
        classes[name] = type(name, (), {"__module__": module})
        setattr(made[module], name, classes[name])
    before = {name: sys.modules.get(name) for name in made}
    sys.modules.update(made)
    try:
        yield types.SimpleNamespace(**classes)
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def python3_pickle(value: Any, protocol: int = 2) -> bytes:
    """pickle's own output for the same entries."""
    with pretended_modules() as classes:

        def real(item: Any) -> Any:
            if isinstance(item, Named):
                made = getattr(classes, item.name)()
                made.__dict__.update({key: real(inner) for key, inner in item.state.items()})
                return made
            return item

        return pickle.dumps({key: real(item) for key, item in value.items()}, protocol)


def plain_load(data: bytes) -> dict[str, Any]:
    """What an unguarded pickle.load makes of a file of ours: the arrays that other MANO readers see."""
    with pretended_modules() as classes:
        entries = pickle.loads(data, encoding="latin1")
        for key, value in entries.items():
            if isinstance(value, classes.Select):
                entries[key] = value.a.x.ravel()[value.idxs].reshape(value.preferred_shape)
            if isinstance(value, classes.csc_matrix):
                rows, columns = value._shape
                dense = np.zeros((rows, columns))
                for column in range(columns):
                    some = slice(value.indptr[column], value.indptr[column + 1])
                    dense[value.indices[some], column] = value.data[some]
                entries[key] = dense
    return entries


def mano_pickle(arrays: Arrays) -> bytes:
    """MANO_RIGHT.pkl or MANO_LEFT.pkl."""
    return python2_pickle(mano_entries(arrays))


def zip_of(files: dict[str, bytes], change: Callable[[zipfile.ZipInfo], None] | None = None) -> bytes:
    """A zip; `change` edits each entry before it is written."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            if change:
                change(entry)
            archive.writestr(entry, data)
    return out.getvalue()


# As attackers write it


class _Call:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, tuple]:
        return self.function, self.arguments


def call_pickle(function: Any, *arguments: Any) -> bytes:
    """A pickle that calls a function when plain pickle reads it."""
    return pickle.dumps({"v_template": _Call(function, *arguments)}, 2)


def raw_call(module: str, name: str, *arguments: str) -> bytes:
    """The same for a function that is named by text."""
    packed = b"".join(b"X" + struct.pack("<I", len(text.encode())) + text.encode() for text in arguments)
    return b"\x80\x02c" + module.encode() + b"\n" + name.encode() + b"\n(" + packed + b"tR."
