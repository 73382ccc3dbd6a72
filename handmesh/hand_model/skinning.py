"""Linear blend skinning of a MANO-like hand in numpy. `training/layer.py` is its torch twin."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from handmesh.geometry.rotation import MIRROR_X, rotvec_to_rotmat
from handmesh.records import HandParams
from handmesh.skeleton import FROM_MANO_AND_TIPS, JOINTS, MANO_JOINTS, MANO_PARENTS, ROOT


@dataclass(frozen=True)
class HandModel:
    """A right hand: a template that betas shape and 16 rotations pose (MANO's form, Romero et al. 2017).

    V, the number of vertices, and F, that of triangles, are the model's own. Lengths in metres. Joints in
    `skeleton.MANO_JOINTS` order with `skeleton.MANO_PARENTS`.

    Attributes:
        id: names the model in every file made with it ("open-hand-1").
        template_m: (V, 3) mesh at zero pose and zero betas.
        shape_dirs: (V, 3, 10) metres per standard deviation of each beta.
        pose_dirs: (V, 3, 135) metres per entry of (rotmat - identity) of the 15 finger joints.
        joint_regressor: (16, V) rows sum to 1.
        skin_weights: (V, 16) rows sum to 1.
        faces: (F, 3) vertex indices, counter-clockwise from outside.
        tip_vertices: (5,) fingertip vertices, thumb to little.
        mean_pose: (15, 3) rotation vectors in radians of the relaxed hand, relative to the template's pose.
    """

    id: str
    template_m: np.ndarray
    shape_dirs: np.ndarray
    pose_dirs: np.ndarray
    joint_regressor: np.ndarray
    skin_weights: np.ndarray
    faces: np.ndarray
    tip_vertices: np.ndarray
    mean_pose: np.ndarray

    def astype(self, dtype: type) -> HandModel:
        """The same model with floating-point arrays of another precision."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        floats = {name: v.astype(dtype) for name, v in values.items() if isinstance(v, np.ndarray) and v.dtype.kind == "f"}
        return replace(self, **floats)

    def faces_for(self, is_right: bool) -> np.ndarray:
        """(F, 3) triangles that face outwards on a right hand, or on its mirror image."""
        return self.faces if is_right else self.faces[:, ::-1]

    def joints(self, vertices_m: np.ndarray) -> np.ndarray:
        """FreiHAND's joints: regressed from the posed mesh, with fingertip vertices.

        Args:
            vertices_m: (..., V, 3).

        Returns:
            (..., 21, 3) in `skeleton.JOINTS` order.
        """
        articulated = self.joint_regressor @ vertices_m
        tips = vertices_m[..., self.tip_vertices, :]
        return np.concatenate([articulated, tips], axis=-2)[..., FROM_MANO_AND_TIPS, :]

    def mean_rotmats(self) -> np.ndarray:
        """(16, 3, 3) rotations of the relaxed hand."""
        rotvecs = np.concatenate([np.zeros((1, 3), self.mean_pose.dtype), self.mean_pose])
        return rotvec_to_rotmat(rotvecs)


def shape_hand(model: HandModel, betas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The unposed hand of a person.

    Args:
        betas: (..., 10) in standard deviations.

    Returns:
        Vertices (..., V, 3) and joints (..., 16, 3) in metres.
    """
    offsets = betas @ model.shape_dirs.reshape(-1, model.shape_dirs.shape[-1]).T
    shaped_m = model.template_m + offsets.reshape(*betas.shape[:-1], *model.template_m.shape)
    return shaped_m, model.joint_regressor @ shaped_m


def chain_joints(joints_m: np.ndarray, rotmats: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Forward kinematics.

    Args:
        joints_m: (..., 16, 3) joints at rest.
        rotmats: (..., 16, 3, 3) parent-relative rotations.

    Returns:
        World rotations (..., 16, 3, 3) and posed joints (..., 16, 3).
    """
    world_rotmats, world_joints = [rotmats[..., 0, :, :]], [joints_m[..., 0, :]]
    for child in range(1, len(MANO_JOINTS)):
        parent = MANO_PARENTS[child]
        bone_m = joints_m[..., child, :] - joints_m[..., parent, :]
        world_rotmats.append(world_rotmats[parent] @ rotmats[..., child, :, :])
        world_joints.append(world_joints[parent] + (world_rotmats[parent] @ bone_m[..., None])[..., 0])
    return np.stack(world_rotmats, axis=-3), np.stack(world_joints, axis=-2)


def skin(model: HandModel, rotmats: np.ndarray, betas: np.ndarray) -> np.ndarray:
    """Pose a hand (Romero et al. 2017, equations 1-4).

    Args:
        rotmats: (..., 16, 3, 3) parent-relative rotations; identity everywhere gives the template.
        betas: (..., 10) in standard deviations.

    Returns:
        (..., V, 3) vertices in metres, in the model's frame: the wrist joint stays where the shape puts it.
    """
    batch = rotmats.shape[:-3]
    shaped_m, joints_m = shape_hand(model, betas)
    features = (rotmats[..., 1:, :, :] - np.eye(3, dtype=rotmats.dtype)).reshape(*batch, -1)
    correctives = features @ model.pose_dirs.reshape(-1, features.shape[-1]).T
    rest_m = shaped_m + correctives.reshape(*batch, *model.template_m.shape)

    world_rotmats, posed_joints_m = chain_joints(joints_m, rotmats)
    offsets_m = posed_joints_m - (world_rotmats @ joints_m[..., None])[..., 0]
    transforms = np.concatenate([world_rotmats, offsets_m[..., None]], axis=-1)
    blended = (model.skin_weights @ transforms.reshape(*batch, 16, 12)).reshape(*batch, -1, 3, 4)
    return (blended[..., :3] @ rest_m[..., None])[..., 0] + blended[..., 3]


def skin_at(model: HandModel, params: HandParams, root_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A posed hand placed by its root joint (`skeleton.ROOT`).

    Args:
        params: of one hand.
        root_m: (3,) where the root joint is, in metres.

    Returns:
        Vertices (V, 3) and joints (21, 3) in metres.
    """
    vertices_m = skin(model, params.rotmats, params.betas)
    joints_m = model.joints(vertices_m)
    shift_m = root_m - joints_m[ROOT]
    return vertices_m + shift_m, joints_m + shift_m


def mirror_points(points_m: np.ndarray) -> np.ndarray:
    """The left hand of a right one: x -> -x for (..., 3). Its own inverse."""
    return points_m @ MIRROR_X.astype(points_m.dtype)


def check_model(model: HandModel) -> list[str]:
    """What is wrong with a model's arrays, as short sentences; empty for a good one."""
    v = len(model.template_m)
    expected = {
        "template_m": (v, 3),
        "shape_dirs": (v, 3, 10),
        "pose_dirs": (v, 3, 135),
        "joint_regressor": (16, v),
        "skin_weights": (v, 16),
        "faces": (len(model.faces), 3),
        "tip_vertices": (len(JOINTS) - len(MANO_JOINTS),),
        "mean_pose": (15, 3),
    }
    faults = [
        f"{name} is {getattr(model, name).shape}, expected {shape}"
        for name, shape in expected.items()
        if getattr(model, name).shape != shape
    ]
    if faults:
        return faults
    faults = [f"{name} holds values that are not finite" for name in expected if not np.isfinite(getattr(model, name)).all()]
    for name in ("faces", "tip_vertices"):
        indices = getattr(model, name)
        if indices.min() < 0 or indices.max() >= v:
            faults.append(f"{name} names vertices outside 0..{v - 1}")
    for name in ("joint_regressor", "skin_weights"):
        if np.abs(getattr(model, name).sum(axis=1) - 1).max() > 1e-3:
            faults.append(f"rows of {name} do not sum to 1")
    return faults
