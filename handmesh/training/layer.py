"""The torch twin of `hand_model/skinning.py`, so that losses can be taken on the posed mesh."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from handmesh.hand_model.landmarks import LANDMARK_OFFSETS_M, OWNERS
from handmesh.hand_model.skinning import HandModel
from handmesh.skeleton import FROM_MANO_AND_TIPS, MANO_JOINTS, MANO_PARENTS


def rot6d_to_rotmat(rot6d: Tensor) -> Tensor:
    """Gram-Schmidt on two columns, as `geometry.rotation.rot6d_to_rotmat`.

    Args:
        rot6d: (..., 6) the first column, then the second.

    Returns:
        (..., 3, 3) rotation matrices.
    """
    a, b = rot6d[..., :3], rot6d[..., 3:]
    x = nn.functional.normalize(a, dim=-1)
    y = nn.functional.normalize(b - (x * b).sum(-1, keepdim=True) * x, dim=-1)
    return torch.stack([x, y, torch.linalg.cross(x, y)], dim=-1)


def world_rotmats(rotmats: Tensor) -> Tensor:
    """Rotations of the joints in the hand's frame.

    Args:
        rotmats: (N, 16, 3, 3) parent-relative rotations.

    Returns:
        (N, 16, 3, 3).
    """
    world = [rotmats[:, 0]]
    for child in range(1, len(MANO_JOINTS)):
        world.append(world[MANO_PARENTS[child]] @ rotmats[:, child])
    return torch.stack(world, dim=1)


class HandLayer(nn.Module):
    """Poses a batch of hands; every array of the `HandModel` is a buffer.

    Args:
        model: the hand.
        dtype: of the buffers; inputs must have it too.
    """

    template_m: Tensor
    shape_dirs: Tensor
    pose_dirs: Tensor
    joint_regressor: Tensor
    rest_joints_m: Tensor
    joint_shape_dirs: Tensor
    skin_weights: Tensor
    tip_vertices: Tensor
    joint_order: Tensor
    landmark_offsets_m: Tensor
    landmark_owners: Tensor

    def __init__(self, model: HandModel, dtype: torch.dtype = torch.float32):
        super().__init__()
        # The arithmetic that needs no pose is done once, in double precision.
        double = model.astype(np.float64)
        shape_dirs = double.shape_dirs.reshape(-1, 10)
        joint_shape_dirs = np.einsum("jv,vck->jck", double.joint_regressor, double.shape_dirs).reshape(-1, 10)
        floats = {
            "template_m": double.template_m,
            "shape_dirs": shape_dirs.T,
            "pose_dirs": double.pose_dirs.reshape(-1, 135).T,
            "joint_regressor": double.joint_regressor,
            "rest_joints_m": double.joint_regressor @ double.template_m,
            "joint_shape_dirs": joint_shape_dirs.T,
            "skin_weights": double.skin_weights,
            "landmark_offsets_m": LANDMARK_OFFSETS_M[..., None],
        }
        for name, array in floats.items():
            self.register_buffer(name, torch.tensor(array, dtype=dtype), persistent=False)
        self.register_buffer("tip_vertices", torch.tensor(np.asarray(model.tip_vertices, dtype=np.int64)), persistent=False)
        self.register_buffer("joint_order", torch.tensor(FROM_MANO_AND_TIPS), persistent=False)
        self.register_buffer("landmark_owners", torch.tensor(OWNERS), persistent=False)

    def forward(self, rotmats: Tensor, betas: Tensor) -> Tensor:
        """Vertices in metres, in the model's frame.

        Args:
            rotmats: (N, 16, 3, 3) parent-relative rotations.
            betas: (N, 10) in standard deviations.

        Returns:
            (N, V, 3).
        """
        n = len(rotmats)
        joints_m = self.rest_joints_m + (betas @ self.joint_shape_dirs).view(n, -1, 3)
        features = (rotmats[:, 1:] - torch.eye(3, dtype=rotmats.dtype, device=rotmats.device)).reshape(n, -1)
        rest_m = self.template_m + (betas @ self.shape_dirs + features @ self.pose_dirs).view(n, -1, 3)

        world, world_joints_m = world_rotmats(rotmats), [joints_m[:, 0]]
        for child in range(1, len(MANO_JOINTS)):
            parent = MANO_PARENTS[child]
            bone_m = (joints_m[:, child] - joints_m[:, parent]).unsqueeze(-1)
            world_joints_m.append(world_joints_m[parent] + (world[:, parent] @ bone_m).squeeze(-1))
        offsets_m = torch.stack(world_joints_m, dim=1) - (world @ joints_m.unsqueeze(-1)).squeeze(-1)
        transforms = torch.cat([world, offsets_m.unsqueeze(-1)], dim=-1).view(n, -1, 12)
        blended = (self.skin_weights @ transforms).view(n, -1, 3, 4)
        return (blended[..., :3] * rest_m.unsqueeze(-2)).sum(-1) + blended[..., 3]

    def joints(self, vertices_m: Tensor) -> Tensor:
        """FreiHAND's 21 joints (N, 21, 3) of posed vertices (N, V, 3), as `HandModel.joints`."""
        articulated = self.joint_regressor @ vertices_m
        return torch.cat([articulated, vertices_m[:, self.tip_vertices]], dim=1)[:, self.joint_order]

    def landmarks(self, joints_m: Tensor, rotmats: Tensor) -> Tensor:
        """Where MediaPipe puts its landmarks on posed hands: the joints moved by `hand_model.landmarks.LANDMARK_OFFSETS_M`.

        Args:
            joints_m: (N, 21, 3) posed by `rotmats`, in any place.
            rotmats: (N, 16, 3, 3) parent-relative rotations.

        Returns:
            (N, 21, 3).
        """
        return joints_m + (world_rotmats(rotmats)[:, self.landmark_owners] @ self.landmark_offsets_m).squeeze(-1)
