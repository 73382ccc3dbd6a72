"""Linear blend skinning of a MANO-like hand in numpy. `training/layer.py` is its torch twin."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np

from handmesh.geometry.rotation import MIRROR_X, rotvec_to_rotmat
from handmesh.records import HandParams
from handmesh.skeleton import FROM_MANO_AND_TIPS, JOINTS, MANO_JOINTS, MANO_PARENTS, ROOT, TIPS


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
        pose_components: (K, 45) principal components of the finger joints' rotation vectors about the mean pose
            (MANO's `hands_components`); K is 0 for a model that has none.
        beta_names: what each of the 10 betas changes.
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
    pose_components: np.ndarray
    beta_names: tuple[str, ...]

    @staticmethod
    def from_smplx(layer: Any, model_id: str = "mano-right") -> HandModel:
        """The model in a `smplx.MANO` or `smplx.MANOLayer`; see `smplx_bridge.from_smplx`."""
        from handmesh.hand_model.smplx_bridge import from_smplx

        return from_smplx(layer, model_id)

    def to_smplx(self, **options: Any) -> Any:
        """This model as a `smplx.MANO`; see `smplx_bridge.to_smplx`."""
        from handmesh.hand_model.smplx_bridge import to_smplx

        return to_smplx(self, **options)

    @cached_property
    def rest_joints_m(self) -> np.ndarray:
        """(16, 3) joints of the template."""
        return self.joint_regressor @ self.template_m

    @cached_property
    def joint_shape_dirs(self) -> np.ndarray:
        """(16, 3, 10) metres that a beta moves each joint."""
        return (self.joint_regressor @ self.shape_dirs.reshape(len(self.template_m), -1)).reshape(-1, *self.shape_dirs.shape[1:])

    @cached_property
    def _extent_form(self) -> tuple[float, np.ndarray, np.ndarray]:
        """The square of `extent_m` is quadratic in betas: its constant, slope (10,) and curvature (10, 10)."""
        centred_m = (self.rest_joints_m - self.rest_joints_m.mean(axis=0)).ravel()
        dirs_m = (self.joint_shape_dirs - self.joint_shape_dirs.mean(axis=0)).reshape(len(centred_m), -1)
        joints = len(self.rest_joints_m)
        return float(centred_m @ centred_m) / joints, 2 * dirs_m.T @ centred_m / joints, dirs_m.T @ dirs_m / joints

    @cached_property
    def for_joints(self) -> HandModel:
        """The same model with no more vertices than `joints` needs, and no faces: where only joints are wanted, a third of the work."""
        used = np.flatnonzero(np.any(self.joint_regressor != 0, axis=0) | np.isin(np.arange(len(self.template_m)), self.tip_vertices))
        return replace(
            self,
            template_m=self.template_m[used],
            shape_dirs=self.shape_dirs[used],
            pose_dirs=self.pose_dirs[used],
            joint_regressor=self.joint_regressor[:, used],
            skin_weights=self.skin_weights[used],
            faces=self.faces[:0],
            tip_vertices=np.searchsorted(used, self.tip_vertices),
        )

    @cached_property
    def _blend_dirs(self) -> np.ndarray:
        """(145, 3 V) offsets of betas, then pose features, all x before all y before all z."""
        dirs = np.concatenate([self.shape_dirs, self.pose_dirs], axis=2)
        return np.ascontiguousarray(dirs.transpose(2, 1, 0).reshape(dirs.shape[2], -1))

    @cached_property
    def _weights_t(self) -> np.ndarray:
        return np.ascontiguousarray(self.skin_weights.T)

    @cached_property
    def _template_t(self) -> np.ndarray:
        return np.ascontiguousarray(self.template_m.T).ravel()

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

    def length_m(self, betas: np.ndarray) -> float:
        """From the wrist joint to the tip of the middle finger of the flat hand with betas (10,), as hands are measured."""
        tip = self.tip_vertices[_MIDDLE_TIP]
        middle_tip_m = self.template_m[tip] + self.shape_dirs[tip] @ betas
        wrist_m = self.rest_joints_m[0] + self.joint_shape_dirs[0] @ betas
        return float(np.linalg.norm(middle_tip_m - wrist_m))

    def extent_m(self, betas: np.ndarray) -> float:
        """Root mean square distance of the unposed hand's 16 joints from their middle, with betas (10,): how large a picture of it is."""
        constant, slope, curvature = self._extent_form
        return float(np.sqrt(constant + (slope + curvature @ betas) @ betas))

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
    world_rotmats, world_joints_m = np.empty_like(rotmats), np.empty(rotmats.shape[:-1], np.result_type(joints_m, rotmats))
    world_rotmats[..., 0, :, :], world_joints_m[..., 0, :] = rotmats[..., 0, :, :], joints_m[..., 0, :]
    for children, parents in _LEVELS:
        bones_m = joints_m[..., children, :] - joints_m[..., parents, :]
        above = world_rotmats[..., parents, :, :]
        world_rotmats[..., children, :, :] = above @ rotmats[..., children, :, :]
        world_joints_m[..., children, :] = world_joints_m[..., parents, :] + (above @ bones_m[..., None])[..., 0]
    return world_rotmats, world_joints_m


def _levels() -> list[tuple[list[int], list[int]]]:
    """(joints, their parents) from the palm outwards: all joints of one level move at once."""
    levels, above = [], {0}
    while children := [joint for joint, parent in enumerate(MANO_PARENTS) if parent in above]:
        levels.append((children, [MANO_PARENTS[joint] for joint in children]))
        above = set(children)
    return levels


_LEVELS = _levels()
_MIDDLE_TIP = TIPS.index("middle_tip")


def skin(model: HandModel, rotmats: np.ndarray, betas: np.ndarray) -> np.ndarray:
    """Pose a hand (Romero et al. 2017, equations 1-4).

    Args:
        rotmats: (..., 16, 3, 3) parent-relative rotations; identity everywhere gives the template.
        betas: (..., 10) in standard deviations; leading axes are broadcast against those of `rotmats`.

    Returns:
        (..., V, 3) vertices in metres, in the model's frame: the wrist joint stays where the shape puts it.
    """
    batch, v = np.broadcast_shapes(rotmats.shape[:-3], betas.shape[:-1]), len(model.template_m)
    rotmats = np.broadcast_to(rotmats, (*batch, 16, 3, 3)).reshape(-1, 16, 3, 3)
    betas = np.broadcast_to(betas, (*batch, 10)).reshape(-1, 10)
    n = len(rotmats)
    # Coordinate by coordinate, (N, 3, V): every step is one matrix product or runs along the vertices.
    features = (rotmats[:, 1:] - np.eye(3, dtype=rotmats.dtype)).reshape(n, 135)
    offsets_m = np.concatenate([betas, features], axis=1) @ model._blend_dirs
    rest_m = (model._template_t + offsets_m).reshape(n, 3, v)

    joints_m = model.rest_joints_m + (betas @ model.joint_shape_dirs.reshape(-1, 10).T).reshape(n, 16, 3)
    world_rotmats, posed_joints_m = chain_joints(joints_m, rotmats)
    shifts_m = posed_joints_m - (world_rotmats @ joints_m[..., None])[..., 0]
    transforms = np.concatenate([world_rotmats, shifts_m[..., None]], axis=-1).reshape(n, 16, 12)
    blended = (transforms.transpose(0, 2, 1).reshape(-1, 16) @ model._weights_t).reshape(n, 3, 4, v)
    posed_m = blended[:, :, 3]
    for axis in range(3):
        posed_m = posed_m + blended[:, :, axis] * rest_m[:, None, axis]
    return np.ascontiguousarray(posed_m.transpose(0, 2, 1)).reshape(*batch, v, 3)


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
        "pose_components": (len(model.pose_components), 45),
    }
    faults = [
        f"{name} is {getattr(model, name).shape}, expected {shape}"
        for name, shape in expected.items()
        if getattr(model, name).shape != shape
    ]
    if len(model.beta_names) != 10:
        faults.append(f"beta_names are {len(model.beta_names)}, expected 10")
    if faults:
        return faults
    faults = [f"{name} holds values that are not finite" for name in expected if not np.isfinite(getattr(model, name)).all()]
    for name in ("faces", "tip_vertices"):
        indices = getattr(model, name)
        if indices.min(initial=0) < 0 or indices.max(initial=0) >= v:
            faults.append(f"{name} names vertices outside 0..{v - 1}")
    for name in ("joint_regressor", "skin_weights"):
        if np.abs(getattr(model, name).sum(axis=1) - 1).max() > 1e-3:
            faults.append(f"rows of {name} do not sum to 1")
    return faults
