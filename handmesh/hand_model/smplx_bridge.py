"""Between a `HandModel` and smplx, which is for non-commercial research only and optional here."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from dataclasses import replace
from typing import Any

import numpy as np

from handmesh.errors import UserError
from handmesh.geometry.rotation import MIRROR_X, mirror_rotvec
from handmesh.hand_model.mano import MANO_BETA_NAMES
from handmesh.hand_model.skinning import HandModel, mirror_points
from handmesh.skeleton import FREIHAND_TIP_VERTICES, MANO_JOINTS, MANO_PARENTS

# Where smplx keeps a layer's fingertips (thumb to little), and MANO's own there, which are not FreiHAND's.
_SMPLX_TIP_VERTICES = (744, 320, 443, 554, 671)


def from_smplx(layer: Any, model_id: str = "mano-right") -> HandModel:
    """The arrays of a `smplx.MANO` or `smplx.MANOLayer` that its user already holds.

    Tips are FreiHAND's on MANO's mesh, or the layer's own where they were set (`to_smplx` sets them). smplx keeps no mean pose in a
    layer made with `flat_hand_mean=True`, and only `num_pca_comps` components: make it with False and 45 for all that the file holds.

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
        raise UserError(
            "expected a right-hand smplx layer, got a left one; load it with is_rhand=True "
            "(left hands are mirrored, and mano_params.to_mano gives their parameters)"
        )

    def array(tensor: Any) -> np.ndarray:
        return np.asarray(tensor.detach().cpu().numpy() if hasattr(tensor, "detach") else tensor)

    vertices = len(layer.v_template)
    tips = tuple(layer.vertex_joint_selector.extra_joints_idxs.tolist())
    return HandModel(
        id=model_id,
        template_m=array(layer.v_template),
        shape_dirs=array(layer.shapedirs)[..., :10],
        # smplx keeps them as (135, V * 3).
        pose_dirs=array(layer.posedirs).T.reshape(vertices, 3, 135),
        joint_regressor=array(layer.J_regressor),
        skin_weights=array(layer.lbs_weights),
        faces=array(layer.faces).astype(np.int32),
        tip_vertices=np.array(FREIHAND_TIP_VERTICES if tips == _SMPLX_TIP_VERTICES else tips, dtype=np.int32),
        mean_pose=array(layer.hand_mean).reshape(15, 3),
        pose_components=array(layer.np_hand_components) if hasattr(layer, "np_hand_components") else np.zeros((0, 45), np.float32),
        beta_names=MANO_BETA_NAMES,
    )


def to_smplx(model: HandModel, **options: Any) -> Any:
    """A `smplx.MANO` with this model's arrays, whatever its number of vertices. Needs smplx, but no MANO file.

    smplx rounds the arrays to single precision; `from_smplx` gives a single-precision model back bit for bit, but for its id and the
    names of its betas, for which smplx has no place. The layer's `joints` are smplx's 16 of the kinematic chain, without fingertips:
    FreiHAND's 21 are `model.joints(output.vertices)`.

    Args:
        model: the right hand.
        options: of `smplx.MANO`. Here `use_pca` is False unless said otherwise (smplx: True); `is_rhand=False` gives the mirror image, a
            left hand whose shape directions are right, for the parameters of `mano_params.to_mano`.

    Raises:
        UserError: `use_pca` with more components than the model has.
        ModuleNotFoundError: smplx is not installed.
    """
    from smplx import MANO
    from smplx.utils import Struct

    options = {"use_pca": False, **options}
    options.setdefault("num_pca_comps", 6 if options["use_pca"] else 45)
    if options["use_pca"] and len(model.pose_components) < options["num_pca_comps"]:
        raise UserError(
            f"expected at most {len(model.pose_components)} PCA components of '{model.id}', got num_pca_comps={options['num_pca_comps']}; "
            "use use_pca=False"
        )
    side = model if options.get("is_rhand", True) else _mirrored(model)
    struct = Struct(
        v_template=side.template_m,
        shapedirs=side.shape_dirs,
        posedirs=side.pose_dirs,
        J_regressor=side.joint_regressor,
        weights=side.skin_weights,
        f=side.faces,
        kintree_table=np.stack([np.array(MANO_PARENTS), np.arange(len(MANO_JOINTS))]),
        hands_mean=side.mean_pose.reshape(45),
        hands_components=side.pose_components,
    )
    # smplx prints that 10 betas are few, on the stream that results may be written to.
    with redirect_stdout(io.StringIO()):
        layer = MANO("", data_struct=struct, **options)
    selector: Any = layer.vertex_joint_selector
    selector.extra_joints_idxs = selector.extra_joints_idxs.new_tensor(model.tip_vertices.tolist())
    return layer


def _mirrored(model: HandModel) -> HandModel:
    """The left hand in the same form: x -> -x of all that is a place, and mirrored rotations pose it alike."""
    signs = np.diag(MIRROR_X)
    # A pose feature is an entry (a, b) of a matrix, which the mirror multiplies by signs[a] * signs[b].
    feature_signs = np.tile(np.outer(signs, signs).ravel(), 15)
    dtype = model.template_m.dtype
    return replace(
        model,
        template_m=mirror_points(model.template_m),
        shape_dirs=model.shape_dirs * signs[:, None].astype(dtype),
        pose_dirs=model.pose_dirs * (signs[:, None] * feature_signs).astype(dtype),
        faces=model.faces[:, ::-1].copy(),
        mean_pose=mirror_rotvec(model.mean_pose),
        pose_components=mirror_rotvec(model.pose_components.reshape(-1, 15, 3)).reshape(-1, 45),
    )
