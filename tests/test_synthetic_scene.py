"""Laws of a drawn picture: labels project, names decide bytes, maps agree with each other, every setting shows."""

import itertools
from dataclasses import replace

import cv2
import numpy as np
import pytest

from handmesh.errors import UserError
from handmesh.hand_model import load_hand_model
from handmesh.hand_model.skinning import skin, skin_at
from handmesh.records import HandParams
from handmesh.skeleton import BONES, FINGERS, JOINTS, MANO_JOINTS
from handmesh.synthetic import raster, scene
from handmesh.synthetic.config import PoseMixture, SynthConfig
from handmesh.synthetic.light import Light, Places, panorama_of
from handmesh.synthetic.poses import UPRIGHT_PALM
from handmesh.synthetic.scene import draw, kind_of, place_mesh, place_root, presence_of, render_sample
from handmesh.synthetic.skin import sample_skin, skin_rgb
from handmesh.synthetic.surface import FOREARM_PART, HandSurface, hand_mesh

# Nothing but a hand, its arm and a camera without faults.
CLEAN = SynthConfig(
    size_px=128,
    negative_share=0,
    strayed_share=0,
    occluder=0,
    object_behind=0,
    person_behind=0,
    second_hand=0,
    held_object=0,
    frame_edge=0,
    sleeve=0,
    band=0,
    ring=0,
    motion_blur=0,
    defocus=0,
    low_resolution=0,
    noise=0,
    jpeg=0,
    grey=0,
)


@pytest.fixture(scope="module")
def surface() -> HandSurface:
    return HandSurface.of(load_hand_model("open"))


@pytest.fixture(scope="module")
def places() -> Places:
    """One even grey place with a bright side."""
    rgb = np.full((64, 128, 3), 0.6, np.float32)
    rgb[10:20, 30:40] = 8
    return Places((panorama_of(rgb),), ())


def _only(kind: str) -> PoseMixture:
    return PoseMixture(**{name: float(name == kind) for name in PoseMixture.__dataclass_fields__})


def test_labels_project_to_the_keypoints(surface, places):
    for config in (CLEAN, replace(CLEAN, aspect=1.5, anywhere_share=1.0, padding=(2.0, 4.0))):
        for index in range(8):
            label = render_sample(surface, config, places, 3, index).label
            params = HandParams(label["rotmats"], label["betas"], np.ones(3), 1.0, 1.0)
            joints_m = skin_at(surface.model, params, label["root_m"])[1].astype(np.float64)
            middle_px = (config.width_px - 1) / 2, (config.size_px - 1) / 2
            keypoints_px = joints_m[:, :2] / joints_m[:, 2:] * label["focal_px"] + middle_px
            assert np.abs(keypoints_px - label["keypoints_px"]).max() < 1e-3
            rotmats = label["rotmats"].astype(np.float64)
            assert np.abs(rotmats @ np.swapaxes(rotmats, 1, 2) - np.eye(3)).max() < 1e-5
            assert np.linalg.det(rotmats).min() > 0.99


def test_the_box_has_the_padding_and_the_place_that_were_asked_for(surface, places):
    for index in range(8):
        keypoints_px = render_sample(surface, replace(CLEAN, offset_sd=0.0, padding=(1.5, 1.5)), places, 4, index).label["keypoints_px"]
        low, high = keypoints_px.min(axis=0), keypoints_px.max(axis=0)
        assert CLEAN.size_px / (high - low).max() == pytest.approx(1.5, rel=0.02)
        assert (low + high) / 2 == pytest.approx(np.full(2, (CLEAN.size_px - 1) / 2), abs=1.0)
    wide = replace(CLEAN, aspect=2.0, anywhere_share=1.0, padding=(4.0, 4.0), size_px=64)
    middles = np.array([render_sample(surface, wide, places, 4, index).label["keypoints_px"].mean(axis=0) for index in range(24)])
    # Over the whole picture, wide as it is.
    assert np.ptp(middles[:, 0]) > 70 and np.ptp(middles[:, 1]) > 25
    assert middles.min() > 0 and (middles < (128, 64)).all()


def test_a_picture_depends_on_its_name_alone(surface, places):
    config = SynthConfig(size_px=64)
    first = [render_sample(surface, config, places, 5, index) for index in range(4)]
    again = [render_sample(surface, config, places, 5, index) for index in reversed(range(4))][::-1]
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a.image, b.image) and np.array_equal(a.parts, b.parts) and a.label == b.label
        assert np.array_equal(a.mask, b.mask) and np.array_equal(a.depth_m, b.depth_m)
    assert not np.array_equal(first[0].image, render_sample(surface, config, places, 6, 0).image)


def test_versions_share_what_is_there_and_differ_in_how_it_looks(surface, places):
    config = replace(
        SynthConfig(size_px=64), negative_share=0.1, occluder=0.5, second_hand=0.5, held_object=1.0, person_behind=0.5, band=0.5, ring=0.5
    )
    for index in range(12):
        first, other = (render_sample(surface, config, places, 6, index, version) for version in (0, 3))
        assert first.label == other.label
        for name in ("mask", "parts", "depth_m"):
            assert np.array_equal(getattr(first, name), getattr(other, name)), name
        assert np.abs(first.image.astype(int) - other.image).mean() > 1


def test_kinds_are_known_before_anything_is_drawn(surface, places):
    config = replace(CLEAN, size_px=32, negative_share=0.3, left_share=0.5)
    kinds = [kind_of(config, 2, index) for index in range(400)]
    assert np.mean([kind == "negative" for kind in kinds]) == pytest.approx(0.3, abs=0.08)
    assert np.mean([kind == "left" for kind in kinds]) == pytest.approx(0.35, abs=0.08)
    for index in range(12):
        sample = render_sample(surface, config, places, 2, index)
        assert (sample.label["focal_px"] == 0) == (kinds[index] == "negative")
        if kinds[index] == "negative":
            assert sample.label["presence"] == 0 and not sample.parts.any() and not sample.mask.any() and not sample.depth_m.any()
            assert np.array_equal(sample.label["rotmats"], np.broadcast_to(np.eye(3), (16, 3, 3)))
            assert sample.label["pose"] == scene.NO_POSE and sample.label["seen"] == 0


def test_parts_lie_where_the_joints_are(surface, places):
    # On an open hand that faces the camera, the middle of each finger's bones shows that finger.
    config = replace(CLEAN, poses=_only("spread"), frontal_share=1.0)
    hits, total = 0, 0
    for index in range(16):
        sample = render_sample(surface, config, places, 7, index)
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


def test_the_depth_map_passes_near_the_joints(surface, places):
    config = replace(CLEAN, poses=_only("spread"), frontal_share=1.0)
    gaps = []
    for index in range(16):
        sample = render_sample(surface, config, places, 8, index)
        label = sample.label
        params = HandParams(label["rotmats"], label["betas"], np.ones(3), 1.0, 1.0)
        joints_m = skin_at(surface.model, params, label["root_m"])[1]
        x, y = np.rint((label["keypoints_px"] - 1.5) / 4).astype(int).T
        inside = (np.minimum(x, y) >= 0) & (np.maximum(x, y) < 32)
        on_hand = inside & (sample.parts[np.clip(y, 0, 31), np.clip(x, 0, 31)] > 0)
        gaps += (joints_m[on_hand, 2] - label["root_m"][2] - sample.depth_m[y[on_hand], x[on_hand]]).tolist()
        assert (sample.depth_m != 0).sum() == pytest.approx((sample.parts > 0).sum(), abs=2)
    # Skin is in front of most joints, by less than a thumb; where a finger points at the camera, by more.
    assert 0.0 < np.median(gaps) < 0.02 and np.percentile(np.abs(gaps), 90) < 0.05


def test_the_mask_is_the_silhouette(surface, places):
    for index in range(6):
        sample = render_sample(surface, replace(CLEAN, occluder=1.0), places, 9, index)
        label = sample.label
        params = HandParams(label["rotmats"], label["betas"], np.ones(3), 1.0, 1.0)
        vertices_m = skin_at(surface.model, params, label["root_m"])[0].astype(np.float64)
        xy = vertices_m[:, :2] / vertices_m[:, 2:] * label["focal_px"] + (CLEAN.size_px - 1) / 2
        covered = np.zeros(sample.mask.shape, bool)
        for a, b, c in xy[surface.model.faces]:
            low, high = np.ceil(np.minimum(np.minimum(a, b), c)), np.floor(np.maximum(np.maximum(a, b), c))
            x, y = np.meshgrid(np.arange(max(low[0], 0), min(high[0], 127) + 1), np.arange(max(low[1], 0), min(high[1], 127) + 1))
            turns = [(q - p)[0] * (y - p[1]) - (q - p)[1] * (x - p[0]) for p, q in ((a, b), (b, c), (c, a))]
            on = np.all([turn <= 0 for turn in turns], axis=0) | np.all([turn >= 0 for turn in turns], axis=0)
            covered[y[on].astype(int), x[on].astype(int)] = True
        mask = sample.mask > 0
        assert (covered & mask).sum() / (covered | mask).sum() > 0.995
        assert set(np.unique(sample.mask)) <= {0, 255}


def test_presence_counts_visible_joints():
    visible = np.zeros(21, bool)
    assert presence_of(visible) == 0
    visible[:8] = True
    assert presence_of(visible) == -1
    visible[:11] = True
    assert presence_of(visible) == 1


def test_what_a_thing_hides_is_not_visible(surface, places):
    def labels(config: SynthConfig) -> list[np.ndarray]:
        return [render_sample(surface, replace(config, size_px=64), places, 9, index).label for index in range(24)]

    # Upright, so that the arm is not in front.
    upright = replace(CLEAN, frontal_share=1.0)
    hidden, plain = labels(replace(upright, occluder=1.0)), labels(upright)
    assert sum(int(label["visible"].sum()) for label in hidden) < sum(int(label["visible"].sum()) for label in plain)
    assert np.mean([label["seen"] for label in hidden]) < np.mean([label["seen"] for label in plain]) - 0.05
    inside = [((label["keypoints_px"] > 4) & (label["keypoints_px"] < 59)).all() for label in plain]
    # An arm that points at the camera hides the wrist.
    assert any(inside) and all(label["visible"][1:].all() for label, is_in in zip(plain, inside, strict=True) if is_in)
    assert np.mean([label["seen"] for label, is_in in zip(plain, inside, strict=True) if is_in]) > 0.93


def test_the_own_arm_hides_too_but_not_where_it_begins():
    hidden = []
    for nearer_m in (0.0, 0.1):
        picture = scene.Picture(
            *(np.zeros((8, 8), np.float32) for _ in range(4)),
            nearness=np.full((16, 16), 1 / (0.5 - nearer_m), np.float32),
            face_id=np.zeros((16, 16), np.int32),
            face_owner=np.array([scene.ARM], np.uint8),
        )
        joints_m = np.repeat([[0.0, 0.0, 0.51]], 21, axis=0)
        inside = np.ones((8, 8), bool)
        hidden.append(21 - int(scene._visible(joints_m, np.full((21, 2), 4.0), picture, inside).sum()))
        shown = scene._shown(picture, inside, np.full((8, 8), 1 / 0.5, np.float32))
        assert shown.all() == (nearer_m == 0.0) and shown.any() == (nearer_m == 0.0)
    assert hidden == [0, 21]


def test_hands_that_stray_are_seen_less(surface, places):
    for index in range(12):
        label = render_sample(surface, replace(CLEAN, size_px=64, strayed_share=1.0), places, 10, index).label
        inside = ((label["keypoints_px"] >= 0) & (label["keypoints_px"] <= 63)).all(axis=1).mean()
        assert abs(float(label["seen"]) - inside) < 0.45
        if inside == 0:
            assert label["presence"] == 0
    assert (
        np.mean([render_sample(surface, replace(CLEAN, size_px=64, strayed_share=1.0), places, 10, i).label["seen"] for i in range(12)])
        < 0.8
    )


def test_a_second_hand_stays_out_of_the_first(surface, places):
    rng, look = np.random.default_rng(0), np.random.default_rng(1)
    tone = sample_skin(look, 0.4, CLEAN)
    nearest = []
    for _ in range(12):
        pose = surface.poses.sample(rng, CLEAN.poses)
        rotmats = pose.rotmats.copy()
        rotmats[0] = UPRIGHT_PALM
        joints_m = surface.model.joints(skin(surface.model, rotmats, np.zeros(10, np.float32))) + np.array([0.0, 0.0, 0.6])
        other = scene._second_hand(rng, look, surface, CLEAN, joints_m, np.zeros(10, np.float32), tone)[0]
        child, parent = np.array(BONES).T
        bones_m = np.concatenate([joints_m, (joints_m[child] + joints_m[parent]) / 2])
        nearest.append(np.linalg.norm(other.vertices_m[:, None] - bones_m[None], axis=-1).min())
    # Skin of one hand and bones of the other: a finger's radius, less where flesh is pressed.
    assert min(nearest) > 0.003 and np.median(nearest) > 0.009 and min(nearest) < 0.03


# One other value for each setting that this module reads; faults, light and backgrounds have their own tests.
_CHANGES = {
    "size_px": 68,
    "aspect": 1.25,
    "padding": (2.0, 2.2),
    "offset_sd": 0.3,
    "anywhere_share": 1.0,
    "focal_over_size": (1.0, 1.1),
    "negative_share": 1.0,
    "strayed_share": 1.0,
    "frontal_share": 1.0,
    "palm_share": 1.0,
    "view_spread": 0.0,
    "poses": _only("fist"),
    "beta_sd": 0.0,
    "tone": (1.0, 1.0),
    "relief": (2.0, 2.0),
    "speckle": (1.0, 1.0),
    "varnish": 1.0,
    "cast_shadow": 0.0,
    "occlusion_strength": (0.0, 0.0),
    "occluder": 1.0,
    "object_behind": 1.0,
    "person_behind": 1.0,
    "second_hand": 1.0,
    "held_object": 1.0,
    "sleeve": 1.0,
    "band": 1.0,
    "ring": 1.0,
    "frame_edge": 1.0,
}


@pytest.mark.parametrize("name", _CHANGES)
def test_every_setting_shows(surface, places, name):
    before = replace(CLEAN, size_px=64, cast_shadow=1.0, lamp_share=1.0, frontal_share=0.0, speckle=(0.0, 0.0), tone=(0.0, 0.1))
    if name in ("palm_share", "view_spread"):
        before = replace(before, frontal_share=1.0)
    if name == "held_object":
        before = replace(before, poses=_only("grasp"))
    after = replace(before, **{name: _CHANGES[name]})
    pictures = [[render_sample(surface, config, places, 11, index).image for index in range(4)] for config in (before, after)]
    assert any(a.shape != b.shape or np.abs(a.astype(int) - b).max() > 8 for a, b in zip(*pictures, strict=True))


def test_a_mirrored_hand_gives_the_mirrored_picture(surface):
    # Its skin's detail and relief too.
    rotmats = surface.model.mean_rotmats().astype(np.float32)
    rotmats[0] = UPRIGHT_PALM @ np.diag([1.0, -1.0, -1.0])
    vertices_m = skin(surface.drawn, rotmats, np.zeros(10, np.float32))
    vertices_m = vertices_m - vertices_m.mean(axis=0)
    tone = sample_skin(np.random.default_rng(3), 0.3, replace(CLEAN, relief=(1.5, 1.5)))
    forms = np.zeros((3, 4, 4), np.float32)
    forms[:, 3, 3] = 0.3
    direction = np.array([0.6, -0.6, -0.53], np.float32)
    mesh, shift = hand_mesh(surface, vertices_m, tone), np.array([0.0, 0.0, 0.5])
    config = replace(CLEAN, cast_shadow=0.0, occlusion_strength=(0.0, 0.0))

    def picture(mirrored: bool, relief: bool = True) -> np.ndarray:
        towards = direction * (-1, 1, 1) if mirrored else direction
        drawn = place_mesh(mesh, shift, mirrored)
        drawn.material[raster.M_RELIEF] = 1.5 * relief
        light = Light(forms, towards.astype(np.float32), np.ones(3, np.float32))
        # Blurred: a pixel is shaded at one of its samples, which the mirror does not keep.
        return cv2.blur(draw(surface, [drawn], light, 800.0, (320, 320), np.random.default_rng(0), config).rgb, (5, 5))

    plain = picture(False) - picture(False, relief=False)
    mirrored = (picture(True) - picture(True, relief=False))[:, ::-1]
    assert np.corrcoef(plain.ravel(), mirrored.ravel())[0, 1] > 0.85
    assert np.abs(picture(False, relief=False) - picture(True, relief=False)[:, ::-1]).mean() < 0.01


def test_relief_tips_the_normal_towards_its_slope(surface):
    # A square facing the camera whose height rises to the right looks left.
    detail = np.zeros((2, raster.DETAIL_GRID, raster.DETAIL_GRID, len(raster.DETAIL_CHANNELS)), np.float32)
    cell = (np.arange(raster.DETAIL_GRID) + 0.5) / raster.DETAIL_GRID
    # Face 0 has corners (left top, right bottom, right top), face 1 (left top, left bottom, right bottom).
    detail[0, ..., raster.HEIGHT] = 0.1 * (cell[:, None] + cell[None])
    detail[1, ..., raster.HEIGHT] = 0.1 * cell[None]
    vertices = np.array([[-0.5, -0.5, 2], [0.5, -0.5, 2], [0.5, 0.5, 2], [-0.5, 0.5, 2]], np.float32)
    faces = np.array([[0, 2, 1], [0, 3, 2]], np.int32)
    tone = sample_skin(np.random.default_rng(0), 0.2, CLEAN)
    material = np.zeros_like(tone.material)
    material[raster.M_TINTS :] = 1
    flat = scene.Mesh(vertices, faces, vertices, np.ones((4, 3), np.float32), np.ones(4, np.uint8), np.arange(2, dtype=np.int32), material)
    bumpy = replace(surface, details=(detail,))
    config = replace(CLEAN, cast_shadow=0.0)
    no_sky = np.zeros((3, 4, 4), np.float32)

    def brightness(side: float, relief: float) -> float:
        material[raster.M_RELIEF] = relief
        light = Light(no_sky, np.array([side, 0, -np.sqrt(1 - side**2)], np.float32), np.ones(3, np.float32))
        return float(draw(bumpy, [flat], light, 64.0, (64, 64), np.random.default_rng(0), config).rgb[28:36, 28:36].mean())

    assert brightness(-0.6, 1.0) > brightness(-0.6, 0.0) + 0.02
    assert brightness(0.6, 1.0) < brightness(0.6, 0.0) - 0.02


def test_skin_runs_from_light_to_dark():
    levels = [float(skin_rgb(tone).sum()) for tone in np.linspace(0, 1, 11)]
    assert all(a > b for a, b in itertools.pairwise(levels)) and levels[0] > 8 * levels[-1]


def test_z_buffer_keeps_the_nearest_and_drops_what_is_too_near():
    def square(z: float, half: float) -> np.ndarray:
        return np.array([[-half, -half, z], [half, -half, z], [half, half, z], [-half, half, z]], np.float32)

    # Towards the camera: clockwise in x right, y down.
    quad = np.array([[0, 2, 1], [0, 3, 2]], np.int32)
    vertices = np.concatenate([square(2.0, 1.0), square(1.0, 0.1), square(0.01, 0.1)])
    faces = np.concatenate([quad, quad + 4, quad + 8])
    screen = raster.project_vertices(vertices, np.float32(32.0), 32, 32, np.float32(0.03))
    nearness, face_id = np.zeros((64, 64), np.float32), np.zeros((64, 64), np.int32)
    raster.rasterise(screen, faces, 64, 64, nearness, face_id)
    assert face_id[32, 32] in (2, 3) and face_id[32, 45] in (0, 1) and face_id.max() == 3
    assert nearness[32, 32] == pytest.approx(1.0) and nearness[32, 45] == pytest.approx(0.5, rel=1e-5)
    # The half-width 1 at depth 2 ends at 16 pixels from the middle, which is the picture's edge.
    assert face_id[0, 0] >= 0
    raster.rasterise(screen, np.ascontiguousarray(faces[:, ::-1]), 64, 64, nearness, face_id)
    assert face_id.max() == -1


def test_place_root_fits_the_box():
    around = np.random.default_rng(1).normal(0, 0.04, (21, 3))
    root = place_root(around, 300.0, 128 / 1.4, np.array([0.1, -0.2]))
    xy = (around + root)[:, :2] / (around + root)[:, 2:] * 300.0
    low, high = xy.min(axis=0), xy.max(axis=0)
    assert (high - low).max() == pytest.approx(128 / 1.4, rel=0.02)
    assert (low + high) / 2 == pytest.approx(np.array([0.1, -0.2]) * 128 / 1.4, abs=1.0)


@pytest.mark.parametrize(
    "values",
    [
        {"size_px": 30},
        {"aspect": 4.0},
        {"noise": 1.5},
        {"padding": (1.8, 1.2)},
        {"tone": (0.0, 1.2)},
        {"exposure_sd": -1.0},
        {"tilt_sd": float("nan")},
        {"padding": (1.0, float("inf"))},
        {"poses": PoseMixture(fist=float("nan"))},
        {"poses": PoseMixture(**dict.fromkeys(PoseMixture.__dataclass_fields__, 0.0))},
    ],
)
def test_bad_settings_are_one_line(values):
    with pytest.raises(UserError) as caught:
        SynthConfig(**values)
    assert "\n" not in str(caught.value) and "expected" in str(caught.value)
