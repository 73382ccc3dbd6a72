"""From what the network says about a crop to a hand in the picture's camera, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from handmesh.geometry.camera import project, translation_to_weak_perspective, unproject, weak_perspective_to_translation
from handmesh.geometry.crop import camera_to_crop, crop_to_camera
from handmesh.geometry.rotation import mirror_rotmat, nearest_rotmat, rotvec_to_rotmat
from handmesh.hand_model.landmarks import landmarks_m
from handmesh.hand_model.skinning import HandModel, mirror_points, skin
from handmesh.records import Camera, Crop, Hand, HandParams, PlacedPose
from handmesh.skeleton import ROOT, WRIST
from handmesh.tracking import Track

# Against turns that keypoints hardly tell, in squared sides of a picture at unit depth.
_TURN_DAMPING = 1e-3


def place_hand(model: HandModel, params: HandParams, crop: Crop, camera: Camera, track: Track) -> Hand:
    """Pose the model and bring it from the crop into the picture's camera.

    Args:
        params: what the network said about `crop`.
        camera: of the full picture.
        track: whose hand it is.
    """
    return pose_hand(model, params_to_pose(params, crop), params, crop, camera, track)


def pose_hand(model: HandModel, pose: PlacedPose, params: HandParams, crop: Crop, camera: Camera, track: Track, scale: float = 1.0) -> Hand:
    """The hand of a pose that has been worked on since the network gave it.

    Args:
        pose: in the full camera.
        params: what the network said about `crop`: whether there is a hand, and of which side.
        camera: of the full picture.
        track: whose hand it is.
        scale: makes the hand as much larger, and moves it as much farther away.
    """
    vertices_m, joints_m, R_camera_wrist = _placed(model, pose, scale)
    T_camera_wrist = np.eye(4)
    T_camera_wrist[:3, :3] = R_camera_wrist
    T_camera_wrist[:3, 3] = joints_m[WRIST]
    return Hand(
        vertices_m=vertices_m,
        joints_m=joints_m,
        keypoints_px=project(joints_m, camera),
        landmarks_px=project(landmarks_m(joints_m, R_camera_wrist, pose.rotmats, pose.is_right, scale), camera),
        T_camera_wrist=T_camera_wrist,
        params=_pose_to_params(pose, params, crop),
        box_px=track.box_px,
        score=track.detection.score * params.presence,
        is_right=not crop.is_mirrored,
        track_id=track.id,
        scale=scale,
    )


def params_to_points(model: HandModel, params: HandParams, crop: Crop, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Where the hand of a crop is in the picture: `Hand.keypoints_px` and `Hand.landmarks_px`, without the rest.

    Args:
        model: `HandModel.for_joints` will do.

    Returns:
        (21, 2) twice.
    """
    pose = params_to_pose(params, crop)
    _, joints_m, R_camera_wrist = _placed(model, pose)
    return project(joints_m, camera), project(landmarks_m(joints_m, R_camera_wrist, pose.rotmats, pose.is_right), camera)


def match_keypoints(model: HandModel, pose: PlacedPose, keypoints_px: np.ndarray, camera: Camera) -> PlacedPose:
    """Turn and move a hand so that its keypoints lie where they were seen: one damped step of Gauss and Newton.

    Args:
        model: `HandModel.for_joints` will do.
        pose: near the answer.
        keypoints_px: (21, 2) of the full picture.
        camera: of the full picture.
    """
    _, joints_m, R_camera_wrist = _placed(model, pose)
    arms_m, depth_m = joints_m - pose.root_m, joints_m[:, 2:]
    seen = joints_m[:, :2] / depth_m
    # Of seen by the place (3), and by a turn about the root (3): the place moves by turn x arm.
    by_place = np.zeros((len(joints_m), 2, 3))
    by_place[:, 0, 0] = by_place[:, 1, 1] = 1 / depth_m[:, 0]
    by_place[:, :, 2] = -seen / depth_m
    by_turn = np.cross(arms_m[:, None], by_place)
    jacobian = np.concatenate([by_place, by_turn], axis=2).reshape(-1, 6)
    missing = (unproject(keypoints_px, camera)[:, :2] - seen).ravel()
    step = np.linalg.solve(jacobian.T @ jacobian + np.diag([0, 0, 0, *[_TURN_DAMPING] * 3]), jacobian.T @ missing)
    first = rotvec_to_rotmat(step[3:]) @ R_camera_wrist
    rotmats = np.concatenate([(first if pose.is_right else mirror_rotmat(first))[None], pose.rotmats[1:]])
    return replace(pose, rotmats=rotmats, root_m=pose.root_m + step[:3])


def mean_pose(poses: Sequence[PlacedPose], weights: np.ndarray) -> PlacedPose:
    """The weighted mean of poses of one hand; of rotations the one nearest to the mean of their matrices.

    Args:
        poses: of the same side, in the same camera.
        weights: (N,) positive.
    """
    rotmats, betas, root_m = (
        np.average([getattr(pose, name) for pose in poses], axis=0, weights=weights) for name in ("rotmats", "betas", "root_m")
    )
    return replace(poses[0], rotmats=nearest_rotmat(rotmats), betas=betas, root_m=root_m)


def params_to_pose(params: HandParams, crop: Crop) -> PlacedPose:
    """What the network saw in a crop, in the picture's camera."""
    root_m = weak_perspective_to_translation(params.camera, crop.camera.fx, crop.camera.width)
    R_camera_wrist = crop.R_camera_crop @ (mirror_rotmat(params.rotmats[0]) if crop.is_mirrored else params.rotmats[0])
    return PlacedPose(_with_first(params.rotmats, R_camera_wrist, crop), params.betas, crop_to_camera(root_m, crop), not crop.is_mirrored)


def _placed(model: HandModel, pose: PlacedPose, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices, joints and the wrist's rotation in the camera, of the hand's own side."""
    precision = model.template_m.dtype
    vertices_m = skin(model, pose.rotmats.astype(precision), pose.betas.astype(precision))
    joints_m = model.joints(vertices_m)
    if not pose.is_right:
        vertices_m, joints_m = mirror_points(vertices_m), mirror_points(joints_m)
    shift_m = pose.root_m - joints_m[ROOT]
    R_camera_wrist = pose.rotmats[0] if pose.is_right else mirror_rotmat(pose.rotmats[0])
    return scale * (vertices_m + shift_m), scale * (joints_m + shift_m), R_camera_wrist


def _pose_to_params(pose: PlacedPose, params: HandParams, crop: Crop) -> HandParams:
    """Inverse of `params_to_pose`; `params` says the rest."""
    R_camera_wrist = mirror_rotmat(pose.rotmats[0]) if crop.is_mirrored else pose.rotmats[0]
    rotmats = _with_first(pose.rotmats, crop.R_camera_crop.T @ R_camera_wrist, crop)
    camera = translation_to_weak_perspective(camera_to_crop(pose.root_m, crop), crop.camera.fx, crop.camera.width)
    return replace(params, rotmats=rotmats, betas=pose.betas, camera=camera)


def _with_first(rotmats: np.ndarray, first: np.ndarray, crop: Crop) -> np.ndarray:
    """The rotations with another first one, which is given as the hand's own side has it."""
    return np.concatenate([(mirror_rotmat(first) if crop.is_mirrored else first)[None], rotmats[1:]])
