"""What several rooms' tests need: hand models and hands."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from handmesh.geometry.camera import project
from handmesh.geometry.rotation import mirror_rotmat, rotvec_to_rotmat
from handmesh.hand_model import HandModel, load_hand_model
from handmesh.hand_model.landmarks import landmarks_m
from handmesh.hand_model.skinning import mirror_points, skin_at
from handmesh.records import Camera, Hand, HandParams
from handmesh.skeleton import WRIST


def random_hand_model(vertices: int = 40, seed: int = 0) -> HandModel:
    """Arrays of the right form and size without any likeness to a hand; every term of the skinning counts."""
    rng = np.random.default_rng(seed)
    return HandModel(
        id=f"random-{vertices}",
        template_m=rng.uniform(-0.1, 0.1, (vertices, 3)),
        shape_dirs=rng.normal(0, 0.005, (vertices, 3, 10)),
        pose_dirs=rng.normal(0, 0.002, (vertices, 3, 135)),
        joint_regressor=rng.dirichlet(np.ones(vertices), 16),
        skin_weights=rng.dirichlet(np.full(16, 0.3), vertices),
        faces=np.stack([rng.permutation(vertices)[:3] for _ in range(2 * vertices)]).astype(np.int32),
        tip_vertices=rng.permutation(vertices)[:5].astype(np.int32),
        mean_pose=rng.normal(0, 0.3, (15, 3)),
        pose_components=np.linalg.qr(rng.normal(0, 1, (45, 45)))[0],
        beta_names=tuple(f"b{k}" for k in range(10)),
    )


@pytest.fixture
def tiny_hand_model() -> HandModel:
    """40 random vertices, double precision."""
    return random_hand_model()


@pytest.fixture
def mano_sized_model() -> HandModel:
    """778 random vertices, double precision: smplx picks fingertips by MANO's indices."""
    return random_hand_model(778)


@pytest.fixture(scope="session")
def hand_model() -> HandModel:
    """The embedded open hand."""
    return load_hand_model("open")


@pytest.fixture
def make_hand() -> Callable[..., Hand]:
    """A function that poses and places a hand as the estimator would, without a network."""

    def make(
        model: HandModel,
        camera: Camera,
        root_m: tuple[float, float, float] = (0.0, 0.0, 0.5),
        global_rotvec: tuple[float, float, float] = (-np.pi / 2, 0.0, 0.0),
        is_right: bool = True,
        track_id: int = 0,
    ) -> Hand:
        """`global_rotvec` turns the right-hand model; a left hand is its mirror image, then placed by its root at `root_m`."""
        rotmats = model.mean_rotmats().copy()
        rotmats[0] = rotvec_to_rotmat(np.array(global_rotvec))
        params = HandParams(rotmats, np.zeros(10), np.array([1.0, 0.0, 0.0]), presence=1.0, right_logit=4.0)
        root = np.array(root_m)
        vertices_m, joints_m = skin_at(model, params, root if is_right else mirror_points(root))
        if not is_right:
            vertices_m, joints_m = mirror_points(vertices_m), mirror_points(joints_m)
        T_camera_wrist = np.eye(4)
        T_camera_wrist[:3, :3] = rotmats[0] if is_right else mirror_rotmat(rotmats[0])
        T_camera_wrist[:3, 3] = joints_m[WRIST]
        keypoints_px = project(joints_m, camera)
        box_px = np.concatenate([keypoints_px.min(axis=0), keypoints_px.max(axis=0)])
        landmarks_px = project(landmarks_m(joints_m, T_camera_wrist[:3, :3], rotmats, is_right), camera)
        return Hand(vertices_m, joints_m, keypoints_px, landmarks_px, T_camera_wrist, params, box_px, 1.0, is_right, track_id)

    return make
