"""Laws of the renderer: labels project to the keypoints, the same name gives the same bytes, parts lie where joints are."""

from dataclasses import replace

import numpy as np
import pytest

from handmesh.errors import UserError
from handmesh.geometry.rotation import rotvec_to_rotmat
from handmesh.hand_model import load_hand_model
from handmesh.hand_model.articulation import Anatomy, angles_to_rotmats
from handmesh.hand_model.skinning import skin_at
from handmesh.records import HandParams
from handmesh.skeleton import FINGERS, FROM_MANO_AND_TIPS, JOINTS, MANO_JOINTS
from handmesh.synthetic import raster
from handmesh.synthetic.config import PoseMixture, SynthConfig
from handmesh.synthetic.light import irradiance, load_panoramas
from handmesh.synthetic.poses import HandAngles, random_rotation, sample_orientation, sample_pose
from handmesh.synthetic.scene import place_root, presence_of, render_sample
from handmesh.synthetic.surface import (
    FOREARM_PART,
    ForearmShape,
    HandSurface,
    box_mesh,
    cylinder_mesh,
    ellipsoid_mesh,
    forearm_mesh,
    plain_material,
    sample_skin,
)

CLEAN = SynthConfig(
    size_px=128,
    negative_share=0,
    strayed_share=0,
    occluder=0,
    object_behind=0,
    face_behind=0,
    second_hand=0,
    held_object=0,
    frame_edge=0,
)


@pytest.fixture(scope="module")
def surface() -> HandSurface:
    return HandSurface.of(load_hand_model("open"))


def test_labels_project_to_the_keypoints(surface):
    for index in range(12):
        label = render_sample(surface, CLEAN, (), 3, index).label
        params = HandParams(label["rotmats"], label["betas"], np.ones(3), 1.0, 1.0)
        joints_m = skin_at(surface.model, params, label["root_m"])[1].astype(np.float64)
        keypoints_px = joints_m[:, :2] / joints_m[:, 2:] * label["focal_px"] + (CLEAN.size_px - 1) / 2
        assert np.abs(keypoints_px - label["keypoints_px"]).max() < 1e-3
        rotmats = label["rotmats"].astype(np.float64)
        assert np.abs(rotmats @ np.swapaxes(rotmats, 1, 2) - np.eye(3)).max() < 1e-5
        assert np.linalg.det(rotmats).min() > 0.99


def test_the_box_has_the_padding_that_was_asked_for(surface):
    config = replace(CLEAN, offset_sd=0.0, padding=(1.5, 1.5))
    for index in range(8):
        keypoints_px = render_sample(surface, config, (), 4, index).label["keypoints_px"]
        low, high = keypoints_px.min(axis=0), keypoints_px.max(axis=0)
        assert config.size_px / (high - low).max() == pytest.approx(1.5, rel=0.02)
        assert (low + high) / 2 == pytest.approx(np.full(2, (config.size_px - 1) / 2), abs=1.0)


def test_a_picture_depends_on_its_name_alone(surface):
    config = SynthConfig(size_px=64)
    first = [render_sample(surface, config, (), 5, index) for index in range(4)]
    again = [render_sample(surface, config, (), 5, index) for index in reversed(range(4))][::-1]
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a.image, b.image) and np.array_equal(a.parts, b.parts) and a.label == b.label
    assert not np.array_equal(first[0].image, render_sample(surface, config, (), 6, 0).image)


def test_parts_lie_where_the_joints_are(surface):
    # On an open hand that faces the camera, the middle of each finger's bones shows that finger.
    open_only = PoseMixture(**{name: float(name == "open") for name in PoseMixture.__dataclass_fields__})
    config = replace(CLEAN, poses=open_only, frontal_share=1.0)
    hits, total = 0, 0
    for index in range(12):
        sample = render_sample(surface, config, (), 7, index)
        for finger in FINGERS[1:]:
            ends = [JOINTS.index(f"{finger}_{joint}") for joint in ("pip", "dip")]
            x, y = np.rint((sample.label["keypoints_px"][ends].mean(axis=0) - 1.5) / 4).astype(int)
            if min(x, y) < 0 or max(x, y) >= len(sample.parts):
                continue
            first = MANO_JOINTS.index(f"{finger}_mcp")
            hits += int(first <= int(sample.parts[y, x]) - 1 < first + 3)
            total += 1
        assert sample.parts.max() <= FOREARM_PART
    assert total > 30 and hits > 0.7 * total


def test_presence_and_pictures_without_a_hand(surface):
    visible = np.zeros(21, bool)
    assert presence_of(visible) == 0
    visible[:8] = True
    assert presence_of(visible) == -1
    visible[:11] = True
    assert presence_of(visible) == 1
    for index in range(6):
        sample = render_sample(surface, replace(SynthConfig(size_px=64), negative_share=1.0), (), 8, index)
        assert sample.label["presence"] == 0 and not sample.parts.any() and not sample.label["visible"].any()
        assert np.array_equal(sample.label["rotmats"], np.broadcast_to(np.eye(3), (16, 3, 3))) and sample.label["focal_px"] == 0


def test_what_a_thing_hides_is_not_visible(surface):
    pictures = [render_sample(surface, replace(CLEAN, occluder=1.0, size_px=64), (), 9, index).label for index in range(24)]
    plain = [render_sample(surface, replace(CLEAN, size_px=64), (), 9, index).label for index in range(24)]
    assert sum(int(label["visible"].sum()) for label in pictures) < sum(int(label["visible"].sum()) for label in plain)
    inside = [((label["keypoints_px"] > 0) & (label["keypoints_px"] < 63)).all() for label in plain]
    assert any(inside) and all(label["visible"].all() for label, is_in in zip(plain, inside, strict=True) if is_in)


def test_sampled_hands_stay_within_anatomy(surface):
    rng = np.random.default_rng(0)
    for _ in range(50):
        rotmats = sample_pose(rng, surface.anatomy, PoseMixture())
        angles = np.degrees(np.arccos(np.clip((np.trace(rotmats, axis1=1, axis2=2) - 1) / 2, -1, 1)))
        assert rotmats.dtype == np.float32 and angles[0] == 0 and angles.max() < 125
    for share in (0.0, 1.0):
        R = sample_orientation(rng, share)
        assert pytest.approx(np.eye(3), abs=1e-9) == R.T @ R and np.linalg.det(R) == pytest.approx(1)
    assert np.linalg.det(random_rotation(rng)) == pytest.approx(1)


def test_flexion_brings_fingertips_to_the_palm(surface):
    anatomy: Anatomy = surface.anatomy
    flat = HandAngles(np.zeros(4), np.zeros(4), np.zeros(4), np.zeros(4), np.zeros(5))
    bent = HandAngles(np.full(4, 70.0), np.full(4, 90.0), np.full(4, 50.0), np.zeros(4), np.array([20, 20, 0, 40, 40.0]))
    assert angles_to_rotmats(anatomy, flat.joint_angles()) == pytest.approx(np.broadcast_to(np.eye(3), (16, 3, 3)))
    zero = np.zeros(10, np.float32)
    palm_m = anatomy.joints_m[MANO_JOINTS.index("middle_mcp")] * 0.6 + np.array([0.0, -0.02, 0.0])
    far = []
    for angles in (flat, bent):
        params = HandParams(angles_to_rotmats(anatomy, angles.joint_angles()).astype(np.float32), zero, np.ones(3), 1.0, 1.0)
        root = anatomy.joints_m[MANO_JOINTS.index("middle_mcp")]
        joints_m = skin_at(surface.model, params, root)[1]
        far.append(np.linalg.norm(joints_m[[JOINTS.index(f"{finger}_tip") for finger in FINGERS]] - palm_m, axis=1))
    assert (far[1][1:] < 0.6 * far[0][1:]).all() and far[1][0] < far[0][0]
    assert len(FROM_MANO_AND_TIPS) == 21


def _signed_volume(vertices, faces) -> float:
    a, b, c = (vertices[faces[:, k]].astype(np.float64) for k in range(3))
    return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6)


def test_meshes_face_outwards(surface):
    axes = rotvec_to_rotmat(np.array([0.3, -0.4, 0.5])) * np.array([0.1, 0.2, 0.3])
    centre, rgb, row = np.array([0.1, 0.2, 0.9]), np.ones(3), plain_material()
    box = box_mesh(centre, axes, rgb, row)
    assert _signed_volume(box.vertices_m - centre, box.faces) == pytest.approx(8 * 0.1 * 0.2 * 0.3, rel=1e-4)
    ball = ellipsoid_mesh(centre, axes, 1.0, rgb, row)
    assert _signed_volume(ball.vertices_m - centre, ball.faces) == pytest.approx(4 / 3 * np.pi * 0.1 * 0.2 * 0.3, rel=0.2)
    can = cylinder_mesh(centre, axes, rgb, row)
    assert _signed_volume(can.vertices_m - centre, can.faces) == pytest.approx(np.pi * 0.1 * 0.2 * 0.6, rel=0.1)
    template, skin_tone = surface.drawn.template_m, sample_skin(np.random.default_rng(0))
    arm = forearm_mesh(surface, template, skin_tone, ForearmShape(0.25, 1.3, np.zeros(3)), np.eye(3), FOREARM_PART)
    # Hand and arm together are closed: each directed edge has its opposite.
    merged = np.concatenate([template, arm.vertices_m])
    faces = np.concatenate([surface.drawn.faces, arm.faces + len(template)])
    same = {len(template) + k: int(v) for k, v in enumerate(surface.loop)}
    edges = {(same.get(int(f[i]), int(f[i])), same.get(int(f[(i + 1) % 3]), int(f[(i + 1) % 3]))) for f in faces for i in range(3)}
    assert all((b, a) in edges for a, b in edges)
    assert _signed_volume(merged, faces) > 4e-4


def test_z_buffer_keeps_the_nearest_and_drops_what_is_too_near():
    def square(z: float, half: float) -> np.ndarray:
        return np.array([[-half, -half, z], [half, -half, z], [half, half, z], [-half, half, z]], np.float32)

    # Towards the camera: clockwise in x right, y down.
    quad = np.array([[0, 2, 1], [0, 3, 2]], np.int32)
    vertices = np.concatenate([square(2.0, 1.0), square(1.0, 0.1), square(0.01, 0.1)])
    faces = np.concatenate([quad, quad + 4, quad + 8])
    size, focal = 32, 32.0
    screen = raster.project_vertices(vertices, np.float32(focal), size, np.float32(0.03))
    nearness, face_id = np.zeros((64, 64), np.float32), np.zeros((64, 64), np.int32)
    raster.rasterise(screen, faces, 64, 64, nearness, face_id)
    assert face_id[32, 32] in (2, 3) and face_id[32, 45] in (0, 1) and face_id.max() == 3
    assert nearness[32, 32] == pytest.approx(1.0) and nearness[32, 45] == pytest.approx(0.5, rel=1e-5)
    # The half-width 1 at depth 2 ends at 16 pixels from the middle, which is the picture's edge.
    assert face_id[0, 0] >= 0
    raster.rasterise(screen, np.ascontiguousarray(faces[:, ::-1]), 64, 64, nearness, face_id)
    assert face_id.max() == -1


def test_even_light_lights_evenly():
    forms = irradiance(np.full((64, 128, 3), 0.7, np.float32))
    for normal in np.random.default_rng(0).normal(0, 1, (5, 3)):
        n = np.append(normal / np.linalg.norm(normal), 1)
        assert np.einsum("i,cij,j->c", n, forms, n) == pytest.approx(np.full(3, 0.7), rel=0.01)
    sky = np.zeros((64, 128, 3), np.float32)
    sky[:32] = 1
    up, down = np.array([0, -1, 0, 1.0]), np.array([0, 1, 0, 1.0])
    forms = irradiance(sky)
    assert up @ forms[0] @ up > 0.9 > 0.1 > down @ forms[0] @ down


def test_place_root_fits_the_box():
    around = np.random.default_rng(1).normal(0, 0.04, (21, 3))
    root = place_root(around, 300.0, 128, 1.4, np.array([0.1, -0.2]))
    xy = (around + root)[:, :2] / (around + root)[:, 2:] * 300.0
    low, high = xy.min(axis=0), xy.max(axis=0)
    assert (high - low).max() == pytest.approx(128 / 1.4, rel=0.02)
    assert (low + high) / 2 == pytest.approx(np.array([0.1, -0.2]) * 128 / 1.4, abs=1.0)


def test_bad_settings_are_one_line(tmp_path):
    for make in (
        lambda: SynthConfig(size_px=30),
        lambda: SynthConfig(noise=1.5),
        lambda: SynthConfig(padding=(1.8, 1.2)),
        lambda: load_panoramas(tmp_path),
        lambda: load_panoramas(tmp_path / "missing"),
    ):
        with pytest.raises(UserError) as caught:
            make()
        assert "\n" not in str(caught.value)
    (tmp_path / "broken.hdr").write_bytes(b"#?RADIANCE\nnothing")
    with pytest.raises(UserError, match="cannot be read"):
        load_panoramas(tmp_path)
