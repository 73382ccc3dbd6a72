"""Laws of what is around a hand: closed meshes that face outwards, worn things that fit, and forms that do not depend on colours."""

from collections.abc import Callable

import numpy as np
import pytest

from handmesh.hand_model import load_hand_model
from handmesh.hand_model.skinning import skin
from handmesh.skeleton import MANO_JOINTS
from handmesh.synthetic.config import SynthConfig
from handmesh.synthetic.poses import sample_orientation
from handmesh.synthetic.skin import sample_skin
from handmesh.synthetic.surface import FOREARM_PART, HandSurface, Mesh
from handmesh.synthetic.things import handless, held, occluder, person, things_behind
from handmesh.synthetic.worn import Arm, arm_mesh, phalanx_points, ring_meshes, sample_arm, sample_sleeve, sleeve_mesh, wear
from tests.measures import signed_volume_m3

Rng = np.random.Generator

MIDDLE_M, EXTENT_M = np.array([0.03, -0.02, 0.5]), 0.17
DRESSED = SynthConfig(sleeve=0.6, band=0.8, ring=0.9)
TONE = sample_skin(np.random.default_rng(0), 0.4, DRESSED)
SEEDS = range(40)
# A held thing reaches its grip's radius and no farther.
GRIP_M = 0.025
REACH_M = (0.03, 0.11)

AROUND: dict[str, Callable[[Rng, Rng], list[Mesh]]] = {
    "occluder": lambda rng, look: occluder(rng, look, MIDDLE_M, EXTENT_M),
    "things_behind": lambda rng, look: things_behind(rng, look, MIDDLE_M, EXTENT_M, 3),
    "held": lambda rng, look: held(rng, look, MIDDLE_M, np.array([0.6, 0.0, 0.8]), GRIP_M, False, REACH_M),
    "handless": lambda rng, look: handless(rng, look, DRESSED, MIDDLE_M, EXTENT_M, TONE),
    "person": lambda rng, look: person(rng, look, TONE, MIDDLE_M),
}


@pytest.fixture(scope="module")
def surface() -> HandSurface:
    return HandSurface.of(load_hand_model("open"))


@pytest.fixture(scope="module")
def dressed(surface) -> Callable[[Rng, Rng], list[Mesh]]:
    def make(rng: Rng, look: Rng) -> list[Mesh]:
        rotmats, vertices_m = posed(surface, rng)
        return wear(rng, look, surface, DRESSED, vertices_m, TONE, rotmats, FOREARM_PART)

    return make


def posed(surface: HandSurface, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """A hand half a metre before the camera: rotations and drawn vertices."""
    rotmats = surface.poses.sample(rng, DRESSED.poses).rotmats.copy()
    rotmats[0] = sample_orientation(rng, SynthConfig())
    vertices_m = skin(surface.drawn, rotmats, np.clip(rng.normal(0, 1, 10), -2.5, 2.5).astype(np.float32))
    return rotmats, (vertices_m - vertices_m.mean(axis=0) + [0, 0, 0.5]).astype(np.float32)


def welded(mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    """Points at the same place as one, and the triangles that are left: sharp edges are split in the mesh."""
    points, same = np.unique(np.round(mesh.vertices_m.astype(np.float64), 6), axis=0, return_inverse=True)
    faces = same.ravel()[mesh.faces]
    return points, faces[(faces != np.roll(faces, 1, axis=1)).all(axis=1)]


def assert_closed_and_outward(mesh: Mesh) -> None:
    points, faces = welded(mesh)
    walked = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    there, back = (np.sort(edges[:, 0] * len(points) + edges[:, 1]) for edges in (walked, walked[:, ::-1]))
    assert (there == back).all()
    assert signed_volume_m3(points, faces) > 0


def all_meshes(make: Callable[[Rng, Rng], list[Mesh]], look_seed: int) -> list[Mesh]:
    return [mesh for seed in SEEDS for mesh in make(np.random.default_rng(seed), np.random.default_rng([seed, look_seed]))]


@pytest.mark.parametrize("name", [*AROUND, "wear"])
def test_meshes_are_closed_and_their_forms_do_not_depend_on_the_look(name, dressed):
    make = dressed if name == "wear" else AROUND[name]
    first, other, again = (all_meshes(make, look_seed) for look_seed in (1, 2, 1))
    assert len(first) == len(other) > len(SEEDS) / 2
    for one, two, three in zip(first, other, again, strict=True):
        np.testing.assert_array_equal(one.vertices_m, two.vertices_m)
        np.testing.assert_array_equal(one.faces, two.faces)
        np.testing.assert_array_equal(one.albedo, three.albedo)
        assert_closed_and_outward(one)
        assert one.vertices_m.dtype == one.albedo.dtype == one.material.dtype == np.float32
        assert len(one.vertices_m) == len(one.albedo) == len(one.texture_m) == len(one.part)
        assert np.isfinite(one.vertices_m).all() and one.albedo.min() >= 0
    assert any((one.albedo[0] != two.albedo[0]).any() for one, two in zip(first, other, strict=True))


def test_a_scene_has_a_few_thousand_triangles(dressed):
    for make in (*AROUND.values(), dressed):
        assert sum(len(mesh.faces) for mesh in all_meshes(make, 1)) < 3000 * len(SEEDS)


def test_occluders_are_before_the_hand_and_other_things_behind_it():
    for mesh in all_meshes(AROUND["occluder"], 1):
        assert mesh.vertices_m[:, 2].mean() < MIDDLE_M[2]
    for mesh in all_meshes(AROUND["things_behind"], 1):
        assert mesh.vertices_m[:, 2].min() > MIDDLE_M[2] + EXTENT_M / 2
    for mesh in all_meshes(AROUND["person"], 1):
        # Heads lean; a shirt's front may reach past the head.
        assert mesh.vertices_m[:, 2].mean() > MIDDLE_M[2] + 0.1


def test_occluders_hide_a_part_of_a_disc_in_the_hands_place():
    shares = []
    radius = 0.3 * EXTENT_M
    at = np.stack(np.meshgrid(np.linspace(-1, 1, 24), np.linspace(-1, 1, 24)), axis=-1).reshape(-1, 2)
    at = (MIDDLE_M[:2] + radius * at[np.hypot(*at.T) < 1]) / MIDDLE_M[2]
    for seed in SEEDS:
        hidden = np.zeros(len(at), bool)
        for mesh in occluder(np.random.default_rng(seed), np.random.default_rng(0), MIDDLE_M, EXTENT_M):
            hidden |= covered(at, mesh)
        shares.append(hidden.mean())
    assert 0.1 < np.median(shares) < 0.5
    assert np.mean(np.array(shares) > 0.8) < 0.1


def covered(at: np.ndarray, mesh: Mesh) -> np.ndarray:
    """(N,) bool: directions (N, 2) x / z, y / z that meet a triangle."""
    a, b, c = (mesh.vertices_m[mesh.faces[:, k], :2] / mesh.vertices_m[mesh.faces[:, k], 2:] for k in range(3))

    def side(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        return (q[:, 0] - p[:, 0]) * (at[:, None, 1] - p[:, 1]) - (q[:, 1] - p[:, 1]) * (at[:, None, 0] - p[:, 0])

    sides = np.stack([side(a, b), side(b, c), side(c, a)])
    return (sides < 0).all(axis=0).any(axis=1)


@pytest.mark.parametrize(("radius_m", "is_ball"), [(0.004, False), (0.015, False), (0.03, False), (0.02, True)])
def test_held_things_stay_inside_of_the_grip(radius_m, is_ball):
    axis = np.array([0.6, 0.0, 0.8])
    for seed in SEEDS:
        meshes = held(np.random.default_rng(seed), np.random.default_rng(seed), MIDDLE_M, axis, radius_m, is_ball, REACH_M)
        offset = np.concatenate([mesh.vertices_m for mesh in meshes]) - MIDDLE_M
        along = offset @ axis
        across = np.linalg.norm(offset - along[:, None] * axis, axis=1)
        # The head of a tool begins 1 cm before the end of its handle, and only where that is clear of the fingers.
        in_hand = np.abs(along) < 0.036
        assert across[in_hand].max() < radius_m + 1e-5
        assert along.min() > -max(REACH_M[0], radius_m) - 1e-5
        if is_ball:
            assert np.linalg.norm(offset, axis=1).max() < radius_m + 1e-5


def test_the_arm_starts_with_the_hands_own_border(surface):
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        rotmats, vertices_m = posed(surface, rng)
        arm = sample_arm(rng, surface, vertices_m, rotmats[0])
        mesh = arm_mesh(surface, arm, vertices_m, TONE, FOREARM_PART)
        border = vertices_m[surface.loop]
        gaps = np.linalg.norm(mesh.vertices_m[:, None] - border, axis=-1).min(axis=0)
        assert gaps.max() < 1e-6
        # Where hand and arm meet, neither steps in or out: the next ring of the arm is at most 1.5 mm thicker or thinner.
        s = np.array([0.0, 0.007])
        radius, _ = arm.section_m(s, arm.angle)
        assert np.abs(radius[0] - arm.radius_m).max() < 1e-9
        assert np.abs(radius[1] - radius[0]).max() < 0.0015
        assert np.linalg.norm(mesh.vertices_m[-1] - border.mean(axis=0)) > 0.15


def test_an_arm_grows_towards_the_elbow_and_keeps_its_length(surface):
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        rotmats, vertices_m = posed(surface, rng)
        arm = sample_arm(rng, surface, vertices_m, rotmats[0])
        radius, _ = arm.section_m(np.array([0.0, 0.7 * arm.elbow_m]), arm.angle)
        assert 1.2 < radius[1].mean() / radius[0].mean() < 2.0
        steps = np.diff(arm.path_m[arm.path_s <= arm.elbow_m], axis=0)
        assert np.linalg.norm(steps, axis=1).sum() == pytest.approx(arm.elbow_m + 0.04, abs=0.02)


def off_skin_m(arm: Arm, points_m: np.ndarray) -> np.ndarray:
    """How far points (N, 3) are outside of an arm, looked up on its middle line."""
    s = np.linspace(-0.02, arm.end_m, 400)
    centres, turns = arm.centres_m(s), arm.turns(s)
    local = np.einsum("nki,kij->nkj", points_m[:, None] - centres, turns)
    nearest = np.argmin(np.abs(local[..., 0]) + 0.2 * np.linalg.norm(local, axis=-1), axis=1)
    here = local[np.arange(len(points_m)), nearest]
    skin_m = np.array([arm.section_m(s[[k]], np.arctan2([y[2]], [y[1]]))[0][0, 0] for k, y in zip(nearest, here, strict=True)])
    return np.hypot(here[:, 1], here[:, 2]) - skin_m


def test_sleeves_lie_outside_of_the_arm(surface):
    for seed in range(12):
        rng = np.random.default_rng(seed)
        rotmats, vertices_m = posed(surface, rng)
        arm = sample_arm(rng, surface, vertices_m, rotmats[0])
        sleeve = sample_sleeve(rng)
        mesh = sleeve_mesh(rng, rng, arm, sleeve, FOREARM_PART)
        assert (mesh.part == FOREARM_PART).all()
        # Two rings of lining and the last cap lie inside; the forearm is straight, there distances are exact.
        rings = mesh.vertices_m.reshape(-1, 24, 3)[3:-1]
        s = np.linalg.norm(rings.mean(axis=1) - arm.middle_m, axis=1)
        straight = rings[(s > 0.045) & (s < arm.elbow_m - 0.06)].reshape(-1, 3)
        if len(straight):
            assert off_skin_m(arm, straight).min() > 0.0003


@pytest.mark.parametrize("finger", ["index", "ring", "thumb"])
def test_rings_fit_their_fingers(surface, finger):
    joint = MANO_JOINTS.index("thumb_mcp" if finger == "thumb" else f"{finger}_mcp")
    for seed in range(25):
        rng = np.random.default_rng(seed)
        _, vertices_m = posed(surface, rng)
        ring = ring_meshes(rng, rng, surface, vertices_m, finger, is_labelled=True)[0]
        assert (ring.part == joint + 1).all()
        start, end = surface.drawn.joint_regressor[joint : joint + 2] @ vertices_m
        axis = (end - start) / np.linalg.norm(end - start)
        middle = ring.vertices_m.astype(np.float64).mean(axis=0)
        points = phalanx_points(surface, vertices_m, joint, start + axis * ((middle - start) @ axis), axis)
        offsets = ring.vertices_m - middle
        offsets = offsets - np.outer(offsets @ axis, axis)
        gaps_mm = []
        for point in points:
            across = point - middle - axis * ((point - middle) @ axis)
            towards = across / np.linalg.norm(across)
            # The ring in the direction of this vertex: its outermost and innermost radius.
            near = offsets[offsets @ towards > 0.94 * np.linalg.norm(offsets, axis=1)]
            radii = np.linalg.norm(near, axis=1)
            assert radii.max() > np.linalg.norm(across)
            gaps_mm.append(1e3 * (radii.min() - np.linalg.norm(across)))
        assert max(gaps_mm) < 4 and np.mean(gaps_mm) < 1.5


def test_labels_are_left_out_for_a_hand_that_is_not_labelled(surface):
    rng = np.random.default_rng(3)
    rotmats, vertices_m = posed(surface, rng)
    meshes = wear(rng, rng, surface, DRESSED, vertices_m, TONE, rotmats, 0)
    assert not any(mesh.part.any() for mesh in meshes)
