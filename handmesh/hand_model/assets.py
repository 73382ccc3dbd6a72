"""Where hand models come from: the embedded open hand, an imported MANO, or an npz of one's own."""

from __future__ import annotations

import os
import struct
import sys
import tokenize
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from handmesh.errors import UserError, one_line
from handmesh.hand_model.skinning import HandModel, check_model
from handmesh.wholefile import replacing

ASSETS = Path(__file__).resolve().parent.parent / "assets"
OPEN_HAND = ASSETS / "open_hand.npz"
OPEN_HAND_DENSE = ASSETS / "open_hand_dense.npz"
# Where to get MANO, step by step.
MANO_MANUAL = (
    "register at https://mano.is.tue.mpg.de and accept its licence (research only)",
    'download "Models & Code" there: mano_v1_2.zip',
    "run: handmesh-mano import mano_v1_2.zip",
)

_ARRAYS = (
    *("template_m", "shape_dirs", "pose_dirs", "joint_regressor", "skin_weights"),
    *("faces", "tip_vertices", "mean_pose", "pose_components"),
)
_INDICES = ("faces", "tip_vertices")
_TEXTS = ("id", "beta_names")
_DETAIL = ("uv", "uv_faces", "masks")
# What numpy and zipfile raise for files that are broken, encrypted, packed in a way they do not know, or claim to be huge.
NPZ_FAULTS = (
    *(OSError, ValueError, TypeError, AttributeError, EOFError, OverflowError, MemoryError, RuntimeError),
    *(SyntaxError, struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)
# Columns of `SurfaceDetail.masks`.
MASKS = ("palm", "nail", "crease", "knuckle")


@dataclass(frozen=True)
class SurfaceDetail:
    """What the skin of a hand model looks like, for rendering.

    Attributes:
        uv: (T, 2) texture coordinates in 0..1.
        uv_faces: (F, 3) indices into `uv`, corner by corner those of the model's faces; seams are why they differ.
        masks: (V, 4) 0..1, how much each vertex belongs to what `MASKS` names.
    """

    uv: np.ndarray
    uv_faces: np.ndarray
    masks: np.ndarray


def load_hand_model(name_or_path: str | Path = "open") -> HandModel:
    """Load a hand model.

    Args:
        name_or_path: "open" for the embedded open hand, "open-dense" for its twin with more vertices, "mano" for what
            `handmesh-mano import` wrote, or the path of an npz as `save_hand_model` writes it.

    Raises:
        UserError: no such file, or not a hand model.
    """
    path = {"open": OPEN_HAND, "open-dense": OPEN_HAND_DENSE, "mano": mano_file()}.get(str(name_or_path), Path(name_or_path))
    if path == mano_file() and not os.path.isfile(path):
        raise UserError(f"expected MANO in '{path}', which is not there yet; {'; '.join(MANO_MANUAL)}")
    if path.suffix == ".pkl":
        raise UserError(f"expected the path of a hand model's .npz, got '{path}', a pickle; run: handmesh-mano import '{path}'")
    if not os.path.isfile(path):
        raise UserError(
            f"expected 'open', 'open-dense', 'mano' or a hand model's .npz, got '{name_or_path}', which is no file; see data/README.md"
        )
    try:
        with path.open("rb") as file:
            arrays = np.load(file, allow_pickle=False)
            if isinstance(arrays, np.ndarray):
                raise UserError(f"expected a hand model in '{path}', but it holds a single array; make it with save_hand_model")
            missing = [name for name in (*_ARRAYS, *_TEXTS) if name not in arrays]
            if missing:
                raise UserError(f"expected a hand model in '{path}', but it has no {', '.join(missing)}; make it with save_hand_model")
            values = {name: arrays[name] for name in _ARRAYS}
            model_id, beta_names = str(arrays["id"]), tuple(str(name) for name in np.atleast_1d(arrays["beta_names"]))
    except NPZ_FAULTS as error:
        raise UserError(f"expected a hand model's .npz, got '{path}', which cannot be read ({one_line(error)}); make it again") from error
    faults = [
        f"{name} holds {value.dtype}, expected {'indices' if name in _INDICES else 'floating-point numbers'}"
        for name, value in values.items()
        if value.dtype.kind not in ("iu" if name in _INDICES else "f")
    ]
    # Stored in half precision where that costs a few micrometres, computed in single.
    model = HandModel(id=model_id, beta_names=beta_names, **values).astype(np.float32)
    faults = faults or check_model(model)
    if faults:
        raise UserError(f"expected a hand model in '{path}', but {'; '.join(faults)}; make it again")
    return model


def load_dense_twin(model: HandModel) -> HandModel:
    """The model with the same parameters and joints and a finer mesh for rendering; itself where there is none."""
    if not model.id.startswith("open-hand-"):
        return model
    twin = load_hand_model("open-dense").astype(model.template_m.dtype.type)
    same = np.allclose(twin.rest_joints_m, model.rest_joints_m, atol=1e-6)
    same = same and np.allclose(twin.joint_shape_dirs, model.joint_shape_dirs, atol=1e-6)
    return twin if same and twin.id == f"{model.id}-dense" else model


def load_surface_detail() -> SurfaceDetail:
    """The surface of `load_hand_model("open-dense")`."""
    with OPEN_HAND_DENSE.open("rb") as file:
        arrays = np.load(file, allow_pickle=False)
        detail = SurfaceDetail(*(arrays[name] for name in _DETAIL))
    return replace(detail, masks=detail.masks.astype(np.float32))


def save_hand_model(model: HandModel, path: str | Path, detail: SurfaceDetail | None = None) -> None:
    """Write a model to a temporary name beside `path`, then rename it. The same model gives the same bytes."""
    values = {name: getattr(model, name) for name in (*_ARRAYS, *_TEXTS)}
    if detail is not None:
        values.update({name: getattr(detail, name) for name in _DETAIL})
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, value in values.items():
            # A fixed date, so that the bytes depend on the arrays alone.
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w") as stream:
                np.lib.format.write_array(stream, np.asarray(value), allow_pickle=False)


def mano_file() -> Path:
    """Where `handmesh-mano import` writes MANO's right hand, and `load_hand_model("mano")` finds it."""
    return data_folder() / "mano_right.npz"


def data_folder() -> Path:
    """What users bring is kept in: $HANDMESH_DATA, or the platform's folder for a user's data."""
    if chosen := os.environ.get("HANDMESH_DATA"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData/Local")) / "handmesh" / "Data"
    if sys.platform == "darwin":
        return Path.home() / "Library/Application Support/handmesh"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "handmesh"
