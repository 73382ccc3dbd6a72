"""What MANO's parameters mean, in the words of smplx (global_orient, hand_pose, betas, transl, hands_mean) and of FreiHAND.

handmesh poses a hand with 16 absolute parent-relative matrices (`HandParams.rotmats`): the mean pose is in them, and identity
everywhere is the template. The files and layers of others hold rotation vectors, offsets from the mean pose, or PCA coefficients.
Knows nothing of smplx the package, and works with any model of MANO's form.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from handmesh.errors import UserError
from handmesh.geometry.rotation import mirror_rotmat, mirror_rotvec, rotmat_to_rotvec, rotvec_to_rotmat
from handmesh.hand_model.skinning import HandModel, mirror_points, skin
from handmesh.records import Hand
from handmesh.skeleton import ROOT

FREIHAND_LENGTH = 61
# Beyond this a hand was not posed with the model at hand; single precision costs a thousandth of it.
_OTHER_MODEL_M = 1e-4


@dataclass(frozen=True)
class ManoParams:
    """What `smplx.MANO` takes (made with `use_pca=False`), for a right hand or a left one.

    Attributes:
        global_orient: (..., 3) rotation vector of the wrist in the camera, radians.
        hand_pose: (..., 45) rotation vectors of the finger joints in `skeleton.MANO_JOINTS` order, radians; offsets from
            `hands_mean`, or with `flat_hand_mean` from the flat hand.
        betas: (..., 10) in standard deviations.
        transl: (..., 3) metres, added to the vertices after the hand was turned about its own wrist joint.
        is_right: True for MANO_RIGHT (`is_rhand=True`), False for MANO_LEFT.
        flat_hand_mean: the option of smplx.MANO that `hand_pose` is meant for.
    """

    global_orient: np.ndarray
    hand_pose: np.ndarray
    betas: np.ndarray
    transl: np.ndarray
    is_right: bool
    flat_hand_mean: bool

    def keywords(self) -> dict[str, np.ndarray]:
        """The keyword arguments of `smplx.MANO`'s call, with the batch axis it wants: (1, n), or (N, n) as they are.

        Example:
            layer(**{name: torch.from_numpy(value) for name, value in params.keywords().items()})
        """
        names = ("global_orient", "hand_pose", "betas", "transl")
        return {name: np.atleast_2d(getattr(self, name)) for name in names}


@dataclass(frozen=True)
class FreiHandParams:
    """One or more FreiHAND annotations as handmesh poses them.

    Attributes:
        rotmats: (..., 16, 3, 3) absolute, parent-relative, in `skeleton.MANO_JOINTS` order; the first in the camera.
        betas: (..., 10) in standard deviations.
        root_m: (..., 3) where joint `skeleton.ROOT` is in the camera, metres.
    """

    rotmats: np.ndarray
    betas: np.ndarray
    root_m: np.ndarray


def pose_to_rotmats(
    model: HandModel, global_orient: np.ndarray, hand_pose: np.ndarray, *, use_pca: bool = False, flat_hand_mean: bool = False
) -> np.ndarray:
    """The matrices that `smplx.MANO` makes of its arguments under the same options.

    `smplx.MANOLayer` takes the matrices themselves, `[..., :1, :, :]` and `[..., 1:, :, :]` of these, and never adds the mean pose.

    Args:
        model: whose `mean_pose` (hands_mean) and `pose_components` (hands_components) count.
        global_orient: (..., 3) rotation vector in radians.
        hand_pose: (..., 45) rotation vectors in radians; with `use_pca` (..., K) coefficients. As in smplx, 45 numbers are rotation
            vectors with `use_pca` too.
        use_pca: whether `hand_pose` holds coefficients of the first K components.
        flat_hand_mean: True for offsets from the flat hand, False (smplx's default, and FreiHAND's form) from the mean pose.

    Returns:
        (..., 16, 3, 3) parent-relative rotations.

    Raises:
        UserError: another number of values, or more coefficients than the model has components.
    """
    global_orient, hand_pose = np.asarray(global_orient), np.asarray(hand_pose)
    _expect_last_axis("global_orient", global_orient, 3)
    if use_pca and hand_pose.shape[-1:] != (45,):
        hand_pose = pca_to_pose(model, hand_pose)
    _expect_last_axis("hand_pose", hand_pose, 45)
    fingers = _mean_or_flat(model, flat_hand_mean) + hand_pose
    batch = np.broadcast_shapes(global_orient.shape[:-1], fingers.shape[:-1])
    rotvecs = np.concatenate([np.broadcast_to(global_orient, (*batch, 3)), np.broadcast_to(fingers, (*batch, 45))], axis=-1)
    return rotvec_to_rotmat(rotvecs.reshape(*batch, 16, 3))


def rotmats_to_pose(model: HandModel, rotmats: np.ndarray, *, flat_hand_mean: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The arguments of a `smplx.MANO(use_pca=False)`; inverse of `pose_to_rotmats` up to full turns of a joint.

    Args:
        rotmats: (..., 16, 3, 3) parent-relative rotations.
        flat_hand_mean: as in `pose_to_rotmats`.

    Returns:
        global_orient (..., 3) and hand_pose (..., 45), radians.
    """
    rotvecs = rotmat_to_rotvec(rotmats)
    fingers = rotvecs[..., 1:, :].reshape(*rotvecs.shape[:-2], 45)
    return rotvecs[..., 0, :], fingers - _mean_or_flat(model, flat_hand_mean)


def pca_to_pose(model: HandModel, coefficients: np.ndarray) -> np.ndarray:
    """Finger rotation vectors of PCA coefficients.

    Args:
        coefficients: (..., K) of the model's first K components.

    Returns:
        (..., 45) offsets from the mean pose, radians.

    Raises:
        UserError: a single number, or more coefficients than the model has components.
    """
    coefficients = np.asarray(coefficients)
    if not coefficients.ndim:
        raise UserError(f"expected PCA coefficients (..., K), got the single number {coefficients}; put it in a list")
    return coefficients @ _first_components(model, coefficients.shape[-1])


def pose_to_pca(model: HandModel, hand_pose: np.ndarray, num_pca_comps: int) -> tuple[np.ndarray, np.ndarray]:
    """The nearest pose that the first components span (least squares over the 45 numbers).

    Args:
        hand_pose: (..., 45) offsets from the mean pose, radians.
        num_pca_comps: K, how many components.

    Returns:
        Coefficients (..., K), and (...) what they leave out: the largest length of a joint's rotation vector in
        `hand_pose - pca_to_pose(model, coefficients)`, radians. Zero with all 45 components.

    Raises:
        UserError: more components than the model has, or not 45 numbers.
    """
    hand_pose = np.asarray(hand_pose)
    _expect_last_axis("hand_pose", hand_pose, 45)
    components = _first_components(model, num_pca_comps)
    coefficients = hand_pose @ np.linalg.pinv(components)
    left_out = (hand_pose - coefficients @ components).reshape(*hand_pose.shape[:-1], 15, 3)
    return coefficients, np.linalg.norm(left_out, axis=-1).max(axis=-1)


def freihand_to_params(model: HandModel, mano: np.ndarray, K: np.ndarray) -> FreiHandParams:
    """Read FreiHAND's 61 numbers (the layout of its own `fh_utils`; `training_mano.json` holds each as a list of one).

    They are global_orient (3), hand_pose (45, offsets from the mean pose), betas (10), the root's pixel (2), and a scale s in pixels per
    metre. FreiHAND has one focal length, f = (K00 + K11) / 2, and puts the root at ((u - cx) / s, (v - cy) / s, f / s).

    Args:
        model: MANO's right hand; its mean pose counts.
        mano: (..., 61).
        K: (..., 3, 3) intrinsics in pixels, of `training_K.json`; one camera serves many entries, and one entry many cameras.

    Raises:
        UserError: another number of values, batches that do not go together, or a scale that is not positive.
    """
    mano, K = np.asarray(mano, dtype=np.float64), np.asarray(K, dtype=np.float64)
    _expect_last_axis("FreiHAND's mano entry", mano, FREIHAND_LENGTH)
    batch = _shared_batch({"entries": mano.shape[:-1], "K": _camera_batch(K)})
    mano, K = np.broadcast_to(mano, (*batch, FREIHAND_LENGTH)), np.broadcast_to(K, (*batch, 3, 3))
    uv_px, s = mano[..., 58:60], mano[..., 60:]
    if not (s > 0).all():
        raise UserError(f"expected a positive scale as the last of FreiHAND's 61 numbers, got {s.min():g}; is this entry from *_mano.json?")
    root_m = np.concatenate([uv_px - K[..., :2, 2], _freihand_focal_px(K)], axis=-1) / s
    return FreiHandParams(pose_to_rotmats(model, mano[..., :3], mano[..., 3:48]), mano[..., 48:58].copy(), root_m)


def params_to_freihand(model: HandModel, params: FreiHandParams, K: np.ndarray) -> np.ndarray:
    """FreiHAND's 61 numbers; inverse of `freihand_to_params` up to full turns of a joint.

    Args:
        K: (..., 3, 3) intrinsics in pixels.

    Returns:
        (..., 61).

    Raises:
        UserError: batches that do not go together, or a root that is not in front of the camera.
    """
    K = np.asarray(K, dtype=np.float64)
    depth_m = params.root_m[..., 2:]
    if not (depth_m > 0).all():
        raise UserError(f"expected the root in front of the camera, got a depth of {depth_m.min():g} m; x is right, y down, z forward")
    global_orient, hand_pose = rotmats_to_pose(model, params.rotmats)
    parts = {"rotmats": global_orient, "betas": params.betas, "root_m": params.root_m}
    batch = _shared_batch({"K": _camera_batch(K)} | {name: part.shape[:-1] for name, part in parts.items()})
    s = _freihand_focal_px(K) / depth_m
    numbers = (global_orient, hand_pose, params.betas, params.root_m[..., :2] * s + K[..., :2, 2], s)
    return np.concatenate([np.broadcast_to(each, (*batch, each.shape[-1])) for each in numbers], axis=-1)


def freihand_points(model: HandModel, params: FreiHandParams) -> tuple[np.ndarray, np.ndarray]:
    """FreiHAND's `verts` and `xyz`: joints are regressed from the posed mesh, not those of the kinematic chain.

    Returns:
        Vertices (..., V, 3) and joints (..., 21, 3), metres, camera frame.
    """
    vertices_m = skin(model, params.rotmats, params.betas)
    joints_m = model.joints(vertices_m)
    shift_m = (params.root_m - joints_m[..., ROOT, :])[..., None, :]
    return vertices_m + shift_m, joints_m + shift_m


def to_mano(hand: Hand, model: HandModel, *, flat_hand_mean: bool = False) -> ManoParams:
    """A hand in the camera as MANO parameters of its own side: `smplx.MANO(**...)` with them gives `hand.vertices_m`.

    A left hand is the mirror image of the right model (x -> -x): rotation vectors (a, b, c) become (a, -b, -c) and betas stay. That is
    MANO_LEFT with `shapedirs` mended: in the published left file the x of `shapedirs` has the wrong sign, so smplx draws a different
    hand for any betas but zero. Mend it once with `layer.shapedirs[:, 0, :] *= -1`, or use `HandModel.to_smplx(is_rhand=False)`.

    The mesh of a hand whose true length is known is `hand.scale` times what these parameters, `transl` included, give.

    Args:
        hand: of the estimator.
        model: the right-hand model it was posed with.
        flat_hand_mean: the option of the smplx.MANO that will be given the parameters; smplx's default is False.

    Raises:
        UserError: the hand was posed with another model.
    """
    if hand.vertices_m.shape != model.template_m.shape:
        raise _posed_with_another(model, f"of {len(hand.vertices_m)} vertices, the model has {len(model.template_m)}")
    # T_camera_wrist already is the pose of the side's own model; `hand.params` are the right model's in the mirrored crop.
    R_camera_wrist = hand.T_camera_wrist[:3, :3]
    rotmats = np.concatenate([(R_camera_wrist if hand.is_right else mirror_rotmat(R_camera_wrist))[None], hand.params.rotmats[1:]])
    posed_m = skin(model, rotmats, hand.params.betas)
    offsets_m = hand.vertices_m / hand.scale - (posed_m if hand.is_right else mirror_points(posed_m))
    transl = offsets_m.mean(axis=0)
    worst_m = float(np.abs(offsets_m - transl).max())
    if worst_m > _OTHER_MODEL_M:
        raise _posed_with_another(model, f"whose vertices are up to {1e3 * worst_m:.2g} mm elsewhere")
    global_orient, hand_pose = rotmats_to_pose(model, rotmats, flat_hand_mean=flat_hand_mean)
    if not hand.is_right:
        global_orient, hand_pose = mirror_rotvec(global_orient), mirror_rotvec(hand_pose.reshape(15, 3)).reshape(45)
    return ManoParams(global_orient, hand_pose, hand.params.betas, transl, hand.is_right, flat_hand_mean)


def _posed_with_another(model: HandModel, difference: str) -> UserError:
    return UserError(f"expected a hand posed with '{model.id}', got one {difference}; pass the hand model of the estimator")


def _camera_batch(K: np.ndarray) -> tuple[int, ...]:
    if K.shape[-2:] != (3, 3):
        raise UserError(f"expected intrinsics K (..., 3, 3) in pixels, got {K.shape}; take them from *_K.json")
    return K.shape[:-2]


def _shared_batch(batches: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
    try:
        return np.broadcast_shapes(*batches.values())
    except ValueError as error:
        came = ", ".join(f"{name} of {batch}" for name, batch in batches.items())
        raise UserError(f"expected batches that broadcast together, got {came}; give as many of each, or one") from error


def _freihand_focal_px(K: np.ndarray) -> np.ndarray:
    """(..., 1) the one focal length that FreiHAND's root position is made with."""
    return (K[..., 0, 0] + K[..., 1, 1])[..., None] / 2


def _mean_or_flat(model: HandModel, flat_hand_mean: bool) -> np.ndarray:
    """(45,) what smplx adds to hand_pose."""
    return np.zeros(45, model.mean_pose.dtype) if flat_hand_mean else model.mean_pose.reshape(45)


def _first_components(model: HandModel, count: int) -> np.ndarray:
    known = len(model.pose_components)
    if not known:
        raise UserError(f"expected rotation vectors (use_pca=False) for '{model.id}', got {count} PCA coefficients; it has no components")
    if not 0 < count <= known:
        raise UserError(f"expected 1 to {known} PCA coefficients for '{model.id}', got {count}; use rotation vectors (use_pca=False)")
    return model.pose_components[:count]


def _expect_last_axis(name: str, values: np.ndarray, length: int) -> None:
    if not values.ndim or values.shape[-1] != length:
        raise UserError(f"expected {length} numbers in the last axis of {name}, got an array of shape {values.shape}; reshape it")
