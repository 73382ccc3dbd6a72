"""Where hand models come from: the embedded open hand, an npz of one's own, or a smplx layer."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from handmesh.errors import UserError
from handmesh.hand_model.skinning import HandModel, check_model
from handmesh.skeleton import FREIHAND_TIP_VERTICES, MANO_JOINTS, MANO_PARENTS
from handmesh.wholefile import replacing

ASSETS = Path(__file__).resolve().parent.parent / "assets"
OPEN_HAND = ASSETS / "open_hand.npz"

_ARRAYS = ("template_m", "shape_dirs", "pose_dirs", "joint_regressor", "skin_weights", "faces", "tip_vertices", "mean_pose")


def load_hand_model(name_or_path: str | Path = "open") -> HandModel:
    """Load a hand model.

    Args:
        name_or_path: "open" for the embedded open hand, or the path of an npz as `save_hand_model` writes it.

    Raises:
        UserError: no such file, or not a hand model.
    """
    path = OPEN_HAND if str(name_or_path) == "open" else Path(name_or_path)
    if not path.is_file():
        raise UserError(f"expected 'open' or the path of a hand model's .npz, got '{name_or_path}', which is no file; see data/README.md")
    try:
        with path.open("rb") as file:
            arrays = np.load(file, allow_pickle=False)
            if isinstance(arrays, np.ndarray):
                raise UserError(f"expected a hand model in '{path}', but it holds a single array; make it with save_hand_model")
            missing = [name for name in (*_ARRAYS, "id") if name not in arrays]
            if missing:
                raise UserError(f"expected a hand model in '{path}', but it has no {', '.join(missing)}; make it with save_hand_model")
            values = {name: arrays[name] for name in _ARRAYS}
            model_id = str(arrays["id"])
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"expected a hand model's .npz, got '{path}', which cannot be read ({error}); make it again") from error
    # Stored in half precision where that costs less than a micrometre, computed in single.
    model = HandModel(id=model_id, **values).astype(np.float32)
    faults = check_model(model)
    if faults:
        raise UserError(f"expected a hand model in '{path}', but {'; '.join(faults)}; make it again")
    return model


def save_hand_model(model: HandModel, path: str | Path) -> None:
    """Write a model to a temporary name beside `path`, then rename it. The same model gives the same bytes."""
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in (*_ARRAYS, "id"):
            # A fixed date, so that the bytes depend on the arrays alone.
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w") as stream:
                np.lib.format.write_array(stream, np.asarray(getattr(model, name)), allow_pickle=False)


def from_smplx(layer: Any, model_id: str = "mano-right") -> HandModel:
    """The arrays of a `smplx.MANO` or `smplx.MANOLayer` that its user already holds.

    Args:
        layer: a right-hand smplx layer.
        model_id: what files made with it will be called.

    Raises:
        UserError: a left hand, or another skeleton.
    """
    parents = tuple(layer.parents.tolist())
    if parents != MANO_PARENTS:
        raise UserError(f"expected a smplx MANO layer with {len(MANO_JOINTS)} joints, got parents {parents}; pass smplx.MANO(...)")
    if not getattr(layer, "is_rhand", True):
        raise UserError("expected a right-hand smplx layer, got a left one; load it with is_rhand=True (left hands are mirrored)")

    def array(tensor: Any) -> np.ndarray:
        return np.asarray(tensor.detach().cpu().numpy() if hasattr(tensor, "detach") else tensor)

    vertices = len(layer.v_template)
    return HandModel(
        id=model_id,
        template_m=array(layer.v_template),
        shape_dirs=array(layer.shapedirs)[..., :10],
        # smplx keeps them as (135, V * 3).
        pose_dirs=array(layer.posedirs).T.reshape(vertices, 3, 135),
        joint_regressor=array(layer.J_regressor),
        skin_weights=array(layer.lbs_weights),
        faces=array(layer.faces).astype(np.int32),
        tip_vertices=np.array(FREIHAND_TIP_VERTICES, dtype=np.int32),
        mean_pose=array(layer.hand_mean).reshape(15, 3),
    )
