"""What passes between rooms: frozen records of numpy arrays. Units and frames are in the names."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Camera:
    """A pinhole camera with OpenCV's axes (x right, y down, z forward) and integer pixel centres.

    Attributes:
        fx, fy: focal lengths in pixels.
        cx, cy: principal point in pixels; the first pixel's centre is (0, 0).
        width, height: size of its picture in pixels.
        distortion: OpenCV's coefficients (k1, k2, p1, p2[, k3 ...]); empty for none.
        is_known: False when the focal length was assumed rather than given.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int
    distortion: tuple[float, ...] = ()
    is_known: bool = True

    @property
    def K(self) -> np.ndarray:
        """(3, 3) intrinsic matrix."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    @property
    def inverse_K(self) -> np.ndarray:
        """(3, 3) inverse of `K`, in closed form: LAPACK wakes a second thread for it, which spins long after."""
        return np.array([[1 / self.fx, 0.0, -self.cx / self.fx], [0.0, 1 / self.fy, -self.cy / self.fy], [0.0, 0.0, 1.0]])


@dataclass(frozen=True)
class Detection:
    """One hand as the detector sees it.

    Attributes:
        box_px: (4,) x0, y0, x1, y1, the tight box around `landmarks_px` (or a box of the caller's).
        is_right: True for a right hand.
        score: in 0..1, how sure the detector is (MediaPipe: of the side).
        landmarks_px: (21, 2) in `skeleton.JOINTS` order, or None when only a box is known.
        world_landmarks_m: (21, 3) MediaPipe's guess of the hand in space, about the hand's own middle, x right, y down, z away from
            the camera; None when the detector gives none.
    """

    box_px: np.ndarray
    is_right: bool
    score: float
    landmarks_px: np.ndarray | None = None
    world_landmarks_m: np.ndarray | None = None


@dataclass(frozen=True)
class Crop:
    """A square picture taken by a virtual camera that looks at the hand.

    Attributes:
        image: (S, S, 3) uint8 RGB, mirrored if `is_mirrored`.
        camera: the virtual pinhole camera of the crop before mirroring; principal point in the middle.
        R_camera_crop: (3, 3) turns directions of the crop camera into the full camera.
        is_mirrored: True when the picture was flipped so that a left hand looks like a right one.
    """

    image: np.ndarray
    camera: Camera
    R_camera_crop: np.ndarray
    is_mirrored: bool


@dataclass(frozen=True)
class HandParams:
    """What the network says about one crop, for the right-hand model in the (mirrored) crop camera.

    Attributes:
        rotmats: (16, 3, 3) parent-relative rotations in `skeleton.MANO_JOINTS` order; the first is the
            hand's in the crop camera. Absolute: a model's mean pose is already in them.
        betas: (10,) shape coefficients in standard deviations.
        camera: (3,) weak-perspective (s, tx, ty); see `geometry.camera.weak_perspective_to_translation`.
        presence: probability in 0..1 that there is a hand in the crop.
        right_logit: > 0 where the crop looks like a right hand.
        spread_m: (21,) how far off each keypoint is expected to be: standard deviation along either axis of the crop, in metres at the
            hand's depth; None where the network does not say.
    """

    rotmats: np.ndarray
    betas: np.ndarray
    camera: np.ndarray
    presence: float
    right_logit: float
    spread_m: np.ndarray | None = None


@dataclass(frozen=True)
class PlacedPose:
    """A hand in the full camera, as the right-hand model poses it.

    Attributes:
        rotmats: (16, 3, 3) parent-relative in `skeleton.MANO_JOINTS` order, the first in the camera; of a left hand as the mirror
            x -> -x shows it.
        betas: (10,) shape coefficients in standard deviations.
        root_m: (3,) where the root joint (`skeleton.ROOT`) is in the camera, not mirrored.
        is_right: True for a right hand.
    """

    rotmats: np.ndarray
    betas: np.ndarray
    root_m: np.ndarray
    is_right: bool


@dataclass(frozen=True)
class Hand:
    """A hand in the picture's own camera. Left hands are mirrored: use `HandModel.faces_for(is_right)`.

    Attributes:
        vertices_m: (V, 3) mesh in metres, camera frame.
        joints_m: (21, 3) in `skeleton.JOINTS` order, camera frame.
        keypoints_px: (21, 2) `joints_m` seen by the full camera.
        landmarks_px: (21, 2) where MediaPipe would put its landmarks on this hand: `joints_m` moved by one constant table
            (`hand_model.landmarks`), seen by the full camera. Never MediaPipe's own.
        T_camera_wrist: (4, 4) pose of the wrist joint in the camera.
        params: what the head or the network said, of the right-hand model (see `HandParams`), smoothed as the hand is.
        box_px: (4,) x0, y0, x1, y1 of the box that the crop was made for.
        score: in 0..1, the detection's score times the network's presence.
        is_right: True for a right hand.
        track_id: stays with a hand through a video; 0, 1, ... from left to right in a single picture.
        scale: mesh, joints and translation are so many times what the model and the network give: the hand's true length is known.
    """

    vertices_m: np.ndarray
    joints_m: np.ndarray
    keypoints_px: np.ndarray
    landmarks_px: np.ndarray
    T_camera_wrist: np.ndarray
    params: HandParams
    box_px: np.ndarray
    score: float
    is_right: bool
    track_id: int = 0
    scale: float = 1.0
