"""Laws of sampled poses and views: anatomy, what a kind's name promises, flesh outside of flesh, and labels' shares."""

from dataclasses import fields, replace

import numpy as np
import pytest
from measures import max_mm, self_penetration_mm

from handmesh.geometry.rotation import rotvec_to_rotmat
from handmesh.hand_model import HandModel
from handmesh.hand_model.articulation import (
    ABDUCTION,
    FIRST_JOINTS,
    FLEXION,
    LONG_FINGERS,
    PALM,
    POSES,
    THUMB_COLUMNS,
    Anatomy,
    angles_to_rotmats,
    limits_deg,
    rotmats_to_angles,
)
from handmesh.hand_model.skinning import chain_joints, shape_hand, skin
from handmesh.skeleton import FINGERS, JOINTS, MANO_JOINTS
from handmesh.synthetic import shares
from handmesh.synthetic.config import PoseMixture, SynthConfig
from handmesh.synthetic.penetration import Flesh
from handmesh.synthetic.poses import (
    KINDS,
    UPRIGHT_PALM,
    HandAngles,
    Pose,
    PoseSampler,
    random_rotation,
    sample_orientation,
)
from handmesh.synthetic.scene import LABEL_DTYPE

ROWS = np.array([FIRST_JOINTS[finger] - 1 for finger in LONG_FINGERS])
POSES_A_KIND = 40


@pytest.fixture(scope="module")
def sampler() -> PoseSampler:
    from handmesh.hand_model import load_hand_model

    model = load_hand_model("open")
    return PoseSampler.of(model, Anatomy.of(model))


@pytest.fixture(scope="module")
def poses(sampler) -> dict[str, list[Pose]]:
    rng = np.random.default_rng(0)
    return {kind: [sampler.of_kind(rng, kind) for _ in range(POSES_A_KIND)] for kind in KINDS}


def _angles(sampler: PoseSampler, poses: list[Pose]) -> np.ndarray:
    """(N, 15, 3) degrees."""
    return rotmats_to_angles(sampler.anatomy, np.stack([pose.rotmats for pose in poses]).astype(np.float64))


def _tips_m(sampler: PoseSampler, poses: list[Pose]) -> np.ndarray:
    """(N, 5, 3) thumb to little."""
    rotmats = np.stack([pose.rotmats for pose in poses]).astype(np.float64)
    world, posed = chain_joints(np.broadcast_to(sampler.anatomy.joints_m, (len(poses), 16, 3)), rotmats)
    last = [FIRST_JOINTS[finger] + 2 for finger in FINGERS]
    bones = sampler.anatomy.tips_m - sampler.anatomy.joints_m[last]
    return posed[:, last] + (world[:, last] @ bones[..., None])[..., 0]


def test_angles_stay_within_the_limits(sampler, poses):
    low, high = limits_deg()
    for kind in KINDS:
        angles = _angles(sampler, poses[kind])
        assert (angles >= low - 0.01).all() and (angles <= high + 0.01).all(), kind
        for pose in poses[kind]:
            assert pose.kind == kind and pose.rotmats.dtype == np.float32
            assert np.array_equal(pose.rotmats[0], np.eye(3, dtype=np.float32))
            assert np.abs(pose.rotmats @ np.swapaxes(pose.rotmats, 1, 2) - np.eye(3)).max() < 1e-5


def test_joints_are_coupled(sampler, poses):
    angles = _angles(sampler, [pose for kind in KINDS for pose in poses[kind]])
    mcp, pip, dip = (angles[:, ROWS + step, FLEXION] for step in range(3))
    bent = pip > 30
    ratio = dip[bent] / pip[bent]
    assert 0.55 < np.median(ratio) < 0.72 and ratio.min() > 0.05 and np.quantile(ratio, 0.98) < 0.85
    # Bent fingers lie side by side, and no ring finger is straight between two folded ones.
    spread = np.abs(angles[:, ROWS, ABDUCTION])
    assert spread[mcp > 70].max() < 12 < np.quantile(spread[mcp < 10], 0.9)
    behind = 0.5 * (mcp[:, 1] + mcp[:, 3]) - mcp[:, 2]
    assert behind.max() < 78
    assert np.corrcoef(pip[:, 2], pip[:, 1])[0, 1] > np.corrcoef(pip[:, 2], pip[:, 0])[0, 1]


def test_kinds_do_what_their_names_say(sampler, poses):
    anatomy = sampler.anatomy
    mean = {kind: shares.mean_flexion_deg(np.stack([pose.rotmats for pose in poses[kind]]), anatomy) for kind in KINDS}
    assert mean["fist"].min() > shares.FIST_DEG - 8 and mean["thumbs_up"].min() > shares.FIST_DEG
    assert np.quantile(mean["open"], 0.75) < 20 and mean["spread"].max() < 40 and 10 < np.median(mean["relaxed"]) < 50
    palm_m = anatomy.joints_m[MANO_JOINTS.index("middle_mcp")] * 0.7
    straight_m = np.linalg.norm(anatomy.tips_m - palm_m, axis=1)
    fists_m = np.linalg.norm(_tips_m(sampler, poses["fist"]) - palm_m, axis=-1)
    assert (fists_m[:, 1:4] < 0.62 * straight_m[1:4]).all()

    pointing = _angles(sampler, poses["point"])
    assert pointing[:, ROWS[0] + 1, FLEXION].max() < 30 and pointing[:, ROWS[1:] + 1, FLEXION].min() > 60

    touching = _tips_m(sampler, poses["ok"])
    assert np.quantile(np.linalg.norm(touching[:, 0] - touching[:, 1], axis=1), 0.9) < 0.025
    pinching = _tips_m(sampler, poses["pinch"])
    gaps = np.linalg.norm(pinching[:, :1] - pinching[:, 1:3], axis=2).min(axis=1)
    assert np.median(gaps) < 0.022 and gaps.max() < 0.06

    # Fingers closed and thumb away from them: well out of the palm to the thumb's side or backwards.
    up = _tips_m(sampler, poses["thumbs_up"])
    knuckle = anatomy.joints_m[FIRST_JOINTS["index"]]
    assert (np.linalg.norm(up[:, 0] - knuckle, axis=1) > 0.05).all() and (up[:, 0, 2] > knuckle[2] + 0.02).all()

    spread = _tips_m(sampler, poses["spread"])
    together = _tips_m(sampler, poses["relaxed"])
    reach = [np.median(np.linalg.norm(tips[:, 1] - tips[:, 4], axis=1)) for tips in (spread, together)]
    assert reach[0] > 1.3 * reach[1]


def test_kinds_vary(sampler, poses):
    for kind in KINDS:
        tips = _tips_m(sampler, poses[kind])
        assert 1e3 * np.sqrt(tips.var(axis=0).sum(axis=-1)).mean() > 4, kind


def test_hands_do_not_reach_into_themselves(sampler, hand_model: HandModel):
    rng = np.random.default_rng(7)
    depths = []
    for _ in range(24):
        vertices = skin(hand_model, sampler.sample(rng, PoseMixture()).rotmats, np.zeros(10, np.float32))
        depths.append(self_penetration_mm(vertices, hand_model.faces)[1].max(initial=0))
    assert np.mean(np.array(depths) <= 4) >= 0.95 and max(depths) < 6


def test_a_pose_that_cannot_be_freed_by_drawing_is_opened(sampler):
    into_palm = POSES["fist"].angles_deg().copy()
    into_palm[*THUMB_COLUMNS] = (50, -40, 15, 60, 80)
    assert sampler.depth_m(into_palm) > 0.006
    assert sampler.depth_m(sampler._freed(into_palm)) <= 0.004


def test_flesh_moves_as_the_skin_does(sampler, hand_model: HandModel):
    # Half of the overlap of two fingers that cross is there at their middles; nothing at rest.
    flesh: Flesh = sampler.flesh
    assert max(flesh.overlap_m(np.zeros((15, 3)))) < 1e-9
    angles = POSES["fist"].angles_deg()
    world, shifts = flesh.bones_of(angles)
    rotmats, joints = chain_joints(sampler.anatomy.joints_m, angles_to_rotmats(sampler.anatomy, angles))
    assert np.abs(world - rotmats).max() < 1e-6
    assert max_mm((world @ sampler.anatomy.joints_m[..., None])[..., 0] + shifts, joints) < 1e-3
    crossed = np.zeros((15, 3))
    crossed[ROWS[0], ABDUCTION], crossed[ROWS[1], ABDUCTION] = -20, 20
    vertices = skin(hand_model, angles_to_rotmats(sampler.anatomy, crossed), np.zeros(10))
    true_mm = self_penetration_mm(vertices, hand_model.faces)[1].max()
    assert 1e3 * max(flesh.overlap_m(crossed)) > 0.5 * true_mm > 2
    # Balls are inside the skin.
    centres, radii = flesh.centres_m, flesh.radii_m
    gaps = np.linalg.norm(hand_model.template_m[None] - centres[:, None], axis=-1).min(axis=1)
    assert (np.abs(gaps - radii) < 0.002).all()


def test_what_is_held_does_not_cut_deep(sampler, poses, hand_model: HandModel):
    held = [pose for kind in ("grasp", "pinch", "fist", "ok") for pose in poses[kind] if pose.grip is not None]
    assert sum(pose.grip is not None for pose in poses["grasp"]) > 0.4 * POSES_A_KIND
    assert sum(pose.grip is not None for pose in poses["pinch"]) > 0.8 * POSES_A_KIND
    cuts, reaches = [], []
    for pose in held:
        grip = pose.grip
        assert grip is not None and np.linalg.norm(grip.axis) == pytest.approx(1) and 0.001 <= grip.radius_m < 0.05
        vertices = skin(hand_model, pose.rotmats, np.zeros(10, np.float32)).astype(np.float64) - grip.centre_m
        along = vertices @ grip.axis
        side = np.linalg.norm(vertices - along[:, None] * grip.axis, axis=1)
        if grip.is_ball:
            side = np.linalg.norm(vertices, axis=1)
        beside = (along > -grip.reach_m[0] + 0.002) & (along < grip.reach_m[1] - 0.002)
        cuts.append(1e3 * (grip.radius_m - side[beside]).max(initial=0))
        # Something of the hand is near on all sides: it is held.
        reaches.append(1e3 * np.sort(side - grip.radius_m)[:12].mean())
    assert np.quantile(cuts, 0.95) < 5 and max(cuts) < 9
    assert np.quantile(reaches, 0.9) < 8


def test_a_grip_grows_with_the_hand(sampler, poses, hand_model: HandModel):
    grip = next(pose.grip for pose in poses["grasp"] if pose.grip is not None)
    mean, same = (shape_hand(hand_model, np.zeros(10))[1] for _ in range(2))
    assert max_mm(grip.fitted(mean, same).centre_m, grip.centre_m) < 1e-6
    moved = grip.fitted(mean, 1.2 * mean + 0.1)
    assert moved.radius_m == pytest.approx(1.2 * grip.radius_m)
    assert moved.centre_m - 0.1 - 1.2 * mean[0] == pytest.approx(1.2 * (grip.centre_m - mean[0]))


def test_the_same_numbers_give_the_same_pose(sampler):
    first, again = ([sampler.sample(np.random.default_rng([3, k]), PoseMixture()) for k in range(12)] for _ in range(2))
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a.rotmats, b.rotmats) and a.kind == b.kind and (a.grip is None) == (b.grip is None)
    only = replace(PoseMixture(**{field.name: 0.0 for field in fields(PoseMixture)}), ok=1.0)
    assert {sampler.sample(np.random.default_rng(k), only).kind for k in range(5)} == {"ok"}


def test_flexion_brings_fingertips_to_the_palm(sampler, hand_model: HandModel):
    anatomy = sampler.anatomy
    flat = HandAngles(np.zeros(4), np.zeros(4), np.zeros(4), np.zeros(4), np.zeros(5))
    bent = HandAngles(np.full(4, 70.0), np.full(4, 90.0), np.full(4, 50.0), np.zeros(4), np.array([20, 20, 0, 40, 40.0]))
    assert angles_to_rotmats(anatomy, flat.joint_angles()) == pytest.approx(np.broadcast_to(np.eye(3), (16, 3, 3)))
    palm_m = anatomy.joints_m[MANO_JOINTS.index("middle_mcp")] * 0.6 + 0.02 * PALM
    tips = [JOINTS.index(f"{finger}_tip") for finger in FINGERS]
    posed = [skin(hand_model, angles_to_rotmats(anatomy, angles.joint_angles()), np.zeros(10)) for angles in (flat, bent)]
    far = [np.linalg.norm(hand_model.joints(vertices)[tips] - palm_m, axis=1) for vertices in posed]
    assert (far[1][1:] < 0.6 * far[0][1:]).all() and far[1][0] < far[0][0]


def test_views_cover_the_sphere():
    rng = np.random.default_rng(0)
    turns = np.stack([sample_orientation(rng, SynthConfig()) for _ in range(4000)])
    assert np.abs(turns @ np.swapaxes(turns, 1, 2) - np.eye(3)).max() < 1e-9 and np.linalg.det(turns).min() > 0.99
    # The camera's direction in the hand's frame, in 26 cells around the sphere.
    cells = np.array([(x, y, z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1) if (x, y, z) != (0, 0, 0)], float)
    cells /= np.linalg.norm(cells, axis=1, keepdims=True)
    seen = np.bincount(np.argmax(-turns[:, 2] @ cells.T, axis=1), minlength=26) / len(turns)
    assert seen.min() > 0.005
    # Webcams see palms and backs, of upright forearms and of others.
    facing = np.abs(turns[:, :, 1][:, 2])
    assert (facing > 0.8).mean() > 0.3 and 0.15 < (facing < shares.EDGE_ON_COSINE).mean() < 0.4
    fingers_up = turns[:, 1, 0]
    assert (fingers_up > 0.7).mean() > 0.3 and (np.abs(turns[:, 0, 0]) > 0.7).mean() > 0.1 and (turns[:, 2, 0] > 0.7).mean() > 0.06
    upright = np.stack([sample_orientation(rng, SynthConfig(frontal_share=1.0)) for _ in range(500)])
    assert (np.abs(upright[:, 2, 1]) > shares.EDGE_ON_COSINE).mean() > 0.9 and (upright[:, 1, 0] > 0).mean() > 0.95
    thumbs = np.stack([sample_orientation(rng, SynthConfig(), "thumbs_up") for _ in range(500)])
    assert (thumbs[:, 1, 2] < -0.8).mean() > 0.3 and (thumbs[:, 1, 2] > 0.8).mean() > 0.08 and np.linalg.det(thumbs).min() > 0.99
    # x down, y away, z right: UPRIGHT_PALM has fingers (-x) up and the palm (-y) towards the camera.
    assert np.allclose(UPRIGHT_PALM @ [-1, 0, 0], [0, -1, 0]) and np.allclose(UPRIGHT_PALM @ PALM, [0, 0, -1])
    assert np.linalg.det(random_rotation(rng)) == pytest.approx(1)


def _labels(count: int) -> np.ndarray:
    """Whole and fully seen flat hands in the middle of a 64 x 64 picture, palm to the camera."""
    labels = np.zeros(count, LABEL_DTYPE)
    labels["rotmats"] = np.eye(3)
    labels["rotmats"][:, 0] = UPRIGHT_PALM
    labels["root_m"], labels["focal_px"], labels["keypoints_px"] = (0, 0, 0.5), 100, 32
    labels["visible"], labels["presence"], labels["seen"] = 1, 1, 1
    return labels


def test_shares_of_labels(sampler):
    labels = _labels(8)
    labels["tone"] = [0, 0.3, 0.34, 0.5, 0.66, 0.67, 1, 0.1]
    labels["rotmats"][1, 1:] = angles_to_rotmats(sampler.anatomy, POSES["fist"].angles_deg())[1:]
    labels["rotmats"][2, 1:] = angles_to_rotmats(sampler.anatomy, POSES["relaxed"].angles_deg())[1:]
    for k, about_forearm in ((3, 90), (4, 180), (5, 72)):
        labels["rotmats"][k, 0] = UPRIGHT_PALM @ rotvec_to_rotmat(np.radians([about_forearm, 0.0, 0.0]))
    labels["focal_px"][7] = 0
    assert shares.fist_like(labels, sampler.anatomy).tolist() == [False, True] + [False] * 6
    assert shares.edge_on(labels).tolist() == [False, False, False, True, False, True, False, False]
    assert np.abs(shares.palm_cosine(labels)[[0, 3, 4, 5]]) == pytest.approx(np.sin(np.radians([90, 0, 90, 18])), abs=1e-4)
    assert np.isnan(shares.palm_cosine(labels)[7])
    assert shares.palm_cosine(labels)[[0, 4]] == pytest.approx([-1, 1])
    assert shares.monk_third(labels).tolist() == [0, 0, 1, 1, 1, 2, 2, -1]
    # Off-axis: a palm that faces along the picture's normal is turned from the ray that sees it.
    labels["root_m"][0] = (0.5, 0, 0.5)
    assert abs(shares.palm_cosine(labels)[0]) == pytest.approx(np.sqrt(0.5))


def test_shares_of_what_is_cut_and_hidden():
    labels = _labels(7)
    labels["keypoints_px"][0, 3] = (64, 32)
    labels["visible"][0, 3] = 0
    labels["visible"][1, :4] = 0
    labels["visible"][2, :3] = 0
    labels["seen"][3] = 0.7
    labels["seen"][4], labels["keypoints_px"][4, 3] = 0.7, (10, -3)
    labels["keypoints_px"][5], labels["visible"][5], labels["seen"][5] = -10, 0, 0
    labels["focal_px"][6], labels["visible"][6], labels["seen"][6] = 0, 0, 0
    assert shares.truncated(labels, 64, 64).tolist() == [True, False, False, False, True, True, False]
    assert shares.truncated(labels, 96, 64).tolist() == [False, False, False, False, True, True, False]
    assert shares.occluded(labels, 64, 64).tolist() == [False, True, False, True, False, False, False]
