"""One labelled picture: a hand, what is around it, light, a camera and its faults."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from handmesh.geometry.rotation import rotvec_to_rotmat
from handmesh.hand_model import HandModel
from handmesh.hand_model.skinning import mirror_points, skin
from handmesh.skeleton import JOINTS, ROOT
from handmesh.synthetic import faults, raster
from handmesh.synthetic.config import SynthConfig
from handmesh.synthetic.light import LUMINANCE, Light, Panorama, panorama_background, procedural_background, sample_light, sample_view
from handmesh.synthetic.poses import random_rotation, sample_orientation, sample_pose
from handmesh.synthetic.surface import (
    FOREARM_PART,
    Cloth,
    ForearmShape,
    HandSurface,
    Mesh,
    Skin,
    box_mesh,
    cylinder_mesh,
    ellipsoid_mesh,
    forearm_mesh,
    hand_mesh,
    random_material,
    random_rgb,
    sample_skin,
    sleeve_mesh,
)

LABEL_DTYPE = np.dtype(
    [
        ("rotmats", "f4", (16, 3, 3)),
        ("betas", "f4", (10,)),
        ("root_m", "f4", (3,)),
        ("focal_px", "f4"),
        ("keypoints_px", "f4", (21, 2)),
        ("visible", "u1", (21,)),
        ("presence", "i1"),
    ]
)
PARTS_STRIDE = 4
NEAR_M = 0.03
# A joint lies inside the hand: a thing hides it only when it is nearer than this.
_HIDING_M = 0.015
_NEAREST_HAND_M = 0.22
_SHADOW_PX = 160
_AO_TAPS = np.stack([np.sqrt((np.arange(10) + 0.5) / 10) * f(np.arange(10) * 2.39996) for f in (np.cos, np.sin)], axis=1).astype(np.float32)


@dataclass(frozen=True)
class Sample:
    """A picture and what is in it.

    Attributes:
        image: (S, S, 3) uint8 RGB.
        label: () LABEL_DTYPE. `rotmats` parent-relative, the first in the crop camera; `root_m` joint `skeleton.ROOT`
            in the crop camera, whose principal point is ((S-1)/2, (S-1)/2); `visible` 1 where a joint is inside and not hidden by
            other things (the hand may hide it itself); `presence` 1, 0, or -1 for not scored. Without a hand: zeros and identities.
        parts: (S/4, S/4) uint8: 0 background or things, joint of `MANO_JOINTS` + 1, 17 forearm.
    """

    image: np.ndarray
    label: np.ndarray
    parts: np.ndarray


def presence_of(visible: np.ndarray) -> int:
    """1 when at least half of the joints are inside and visible, 0 under 30 %, -1 (not scored) between."""
    share = float(np.mean(visible))
    return 1 if share >= 0.5 else 0 if share < 0.3 else -1


def render_sample(model: HandModel | HandSurface, config: SynthConfig, backgrounds: tuple[Panorama, ...], seed: int, index: int) -> Sample:
    """Draw one picture; the same arguments give the same bytes.

    Args:
        model: a hand model, or its `HandSurface` when many pictures are drawn.
        config: what is drawn.
        backgrounds: from `load_panoramas`; empty for procedural ones only.
        seed, index: name the picture.
    """
    surface = HandSurface.of(model) if isinstance(model, HandModel) else model
    rng = np.random.default_rng([seed, index])
    has_hand = rng.random() >= config.negative_share
    size = config.size_px
    is_panorama = bool(backgrounds) and rng.random() < config.panorama_share
    place = backgrounds[rng.integers(len(backgrounds))] if backgrounds else None
    R_world_camera = sample_view(rng)
    light = sample_light(rng, place, R_world_camera)
    tone = sample_skin(rng)
    background = (
        panorama_background(rng, place, R_world_camera, size)
        if is_panorama and place is not None
        else procedural_background(rng, size, tone.rgb)
    )
    if is_panorama:
        background *= rng.uniform(0.06, 0.5) / max(float(np.minimum(background, 4).mean(axis=(0, 1)) @ LUMINANCE), 1e-3)

    label = _empty_label()
    focal_px = float(np.float32(size * np.exp(rng.uniform(*np.log(config.focal_over_size)))))
    if has_hand:
        meshes, joints_m = _hand_scene(rng, surface, config, tone, focal_px, label)
        focal_px = float(label["focal_px"])
    else:
        meshes, joints_m = _handless_scene(rng, surface, config, tone, focal_px), None
    picture = draw(surface, meshes, light, focal_px, size, rng, config.cast_shadow)
    # Automatic exposure: part of the way from the skin's own brightness to a middle one.
    gain = np.float32(rng.uniform(0.6, 1.25) * (0.25 / max(float(tone.rgb @ LUMINANCE), 0.02)) ** 0.35)
    linear = picture.rgb * gain + background * (1 - picture.alpha)[..., None]
    image = faults.take_picture(rng, linear, config)
    parts = picture.parts
    inside = np.ones((size, size), bool)
    if rng.random() < config.frame_edge:
        inside = _frame_edge(rng, size)
        image[~inside] = 0
        parts[~inside[PARTS_STRIDE // 2 :: PARTS_STRIDE, PARTS_STRIDE // 2 :: PARTS_STRIDE]] = 0
    if joints_m is not None:
        label["visible"] = _visible(joints_m, label["keypoints_px"], picture, inside)
        label["presence"] = presence_of(label["visible"])
    return Sample(image, label, parts)


def _empty_label() -> np.ndarray:
    label = np.zeros((), LABEL_DTYPE)
    label["rotmats"] = np.eye(3)
    return label


def _frame_edge(rng: np.random.Generator, size: int) -> np.ndarray:
    """(S, S) bool: the side of a line, almost along a side of the picture, that the camera saw."""
    angle = rng.integers(4) * np.pi / 2 + rng.normal(0, 0.06)
    x = np.arange(size) - (size - 1) / 2
    return np.cos(angle) * x[None] + np.sin(angle) * x[:, None] < size * rng.uniform(0.1, 0.45)


def _hand_scene(
    rng: np.random.Generator, surface: HandSurface, config: SynthConfig, tone: Skin, focal_px: float, label: np.ndarray
) -> tuple[list[Mesh], np.ndarray]:
    """Pose and place a hand, write its label, and put things around it: meshes and joints (21, 3) in the camera."""
    model, size = surface.model, config.size_px
    rotmats = sample_pose(rng, surface.anatomy, config.poses)
    rotmats[0] = sample_orientation(rng, config.frontal_share)
    betas = np.clip(rng.normal(0, 1, 10), -2.5, 2.5).astype(np.float32)
    joints_m = model.joints(skin(model, rotmats, betas))
    around_m = joints_m - joints_m[ROOT]
    shift = rng.normal(0, config.offset_sd, 2)
    if rng.random() < config.strayed_share:
        angle = rng.uniform(0, 2 * np.pi)
        shift = rng.uniform(0.4, 1.3) * np.array([np.cos(angle), np.sin(angle)])
    padding = rng.uniform(*config.padding)
    # A hand seen from its end is small: the crop is then a narrower view, not a camera at the fingertips.
    nearest_px = _NEAREST_HAND_M * size / (padding * float(np.ptp(around_m[:, :2], axis=0).max()))
    focal_px = float(np.float32(max(focal_px, nearest_px)))
    root_m = place_root(around_m, focal_px, size, padding, shift)
    vertices_m = skin(surface.drawn, rotmats, betas) - joints_m[ROOT] + root_m
    joints_m = joints_m - joints_m[ROOT] + root_m
    label["rotmats"], label["betas"], label["root_m"], label["focal_px"] = rotmats, betas, root_m, focal_px
    label["keypoints_px"] = joints_m[:, :2].astype(np.float64) / joints_m[:, 2:] * focal_px + (size - 1) / 2

    meshes = [hand_mesh(surface, vertices_m, tone)]
    meshes += _arm(rng, surface, config, vertices_m, tone, rotmats[0], FOREARM_PART)
    extent_m = float(np.ptp(joints_m, axis=0).max())
    middle_m = joints_m.mean(axis=0)
    if rng.random() < config.held_object:
        meshes.append(_held(rng, joints_m, rotmats[0]))
    if rng.random() < config.occluder:
        meshes.append(_thing(rng, middle_m, extent_m, in_front=True))
    if rng.random() < config.object_behind:
        meshes += [_thing(rng, middle_m, extent_m, in_front=False) for _ in range(rng.integers(1, 4))]
    if rng.random() < config.face_behind:
        meshes.append(_face(rng, middle_m, tone))
    if rng.random() < config.second_hand:
        meshes += _second_hand(rng, surface, config, middle_m, extent_m, tone)
    return meshes, joints_m


def place_root(around_m: np.ndarray, focal_px: float, size_px: int, padding: float, shift: np.ndarray) -> np.ndarray:
    """Where the root joint must be so that the joints' box fills the crop as asked.

    Args:
        around_m: (21, 3) joints relative to the root.
        padding: the crop's side over the larger side of the joints' box in the picture.
        shift: (2,) where the box's middle is from the picture's, over the box's larger side.

    Returns:
        (3,) f32 metres.
    """
    side_px = size_px / padding
    low, high = around_m.min(axis=0), around_m.max(axis=0)
    root = np.array([0.0, 0.0, focal_px * float((high - low)[:2].max()) / side_px])
    for _ in range(8):
        root[2] = max(root[2], NEAR_M + 0.02 - float(low[2]))
        points = around_m + root
        xy = points[:, :2] / points[:, 2:] * focal_px
        low_px, high_px = xy.min(axis=0), xy.max(axis=0)
        root[:2] += (shift * side_px - (low_px + high_px) / 2) * root[2] / focal_px
        root[2] *= float((high_px - low_px).max()) / side_px
    return root.astype(np.float32)


def _arm(
    rng: np.random.Generator,
    surface: HandSurface,
    config: SynthConfig,
    vertices_m: np.ndarray,
    tone: Skin,
    R_camera_hand: np.ndarray,
    part: int,
) -> list[Mesh]:
    """Forearm, with or without sleeve and bracelet."""
    bend = rng.normal(0, 1, 3) * (0.1, 0.18, 0.42)
    shape = ForearmShape(rng.uniform(0.18, 0.3), rng.uniform(1.15, 1.6), np.clip(bend, -0.9, 0.9))
    meshes = [forearm_mesh(surface, vertices_m, tone, shape, R_camera_hand, part)]
    if rng.random() < config.sleeve:
        start = rng.uniform(0.005, 0.03) if rng.random() < 0.6 else rng.uniform(0.03, 0.15)
        cloth = Cloth(random_rgb(rng), random_material(rng, 0.1), rng.uniform(0.002, 0.012), rng.uniform(1.0, 1.35))
        meshes.append(sleeve_mesh(surface, vertices_m, shape, R_camera_hand, part, cloth, (start, 0.4)))
    elif rng.random() < config.band:
        start = rng.uniform(0.01, 0.04)
        cloth = Cloth(random_rgb(rng), random_material(rng, 0.03), rng.uniform(0.001, 0.005), 1.0)
        meshes.append(sleeve_mesh(surface, vertices_m, shape, R_camera_hand, part, cloth, (start, start + rng.uniform(0.005, 0.03))))
    return meshes


def _axes(rng: np.random.Generator, half_m: np.ndarray) -> np.ndarray:
    return random_rotation(rng) * half_m


def _thing(rng: np.random.Generator, middle_m: np.ndarray, extent_m: float, in_front: bool) -> Mesh:
    """A box, bar, can or pebble near the hand."""
    depth = middle_m[2]
    nearer = rng.uniform(0.04, max(0.05, 0.35 * depth)) if in_front else -rng.uniform(0.06, 0.8)
    distance = max(depth - nearer, NEAR_M + 0.05)
    scale = distance / depth
    reach = 0.65 if in_front else 0.9
    centre = np.array([*(middle_m[:2] + rng.normal(0, 0.5 * reach, 2) * extent_m) * scale, distance])
    size_m = extent_m * scale * (rng.uniform(0.06, 0.3) if in_front else rng.uniform(0.1, 0.8))
    half = size_m * rng.uniform(0.3, 1.0, 3)
    if rng.random() < 0.4:
        half[2] *= rng.uniform(2, 5)
    half[2] = min(half[2], 0.8 * (distance - NEAR_M))
    rgb, material, axes = random_rgb(rng), random_material(rng, size_m), _axes(rng, half)
    kind = rng.integers(3)
    if kind == 0:
        return box_mesh(centre, axes, rgb, material)
    if kind == 1:
        return cylinder_mesh(centre, axes, rgb, material)
    return ellipsoid_mesh(centre, axes, rng.uniform(0.3, 1.0), rgb, material)


def _held(rng: np.random.Generator, joints_m: np.ndarray, R_camera_hand: np.ndarray) -> Mesh:
    """A pen, can or box across the palm."""
    names = {name: joints_m[JOINTS.index(name)] for name in ("index_mcp", "little_mcp", "middle_mcp", "middle_pip")}
    across = names["index_mcp"] - names["little_mcp"]
    across = across / np.linalg.norm(across) + R_camera_hand @ (rng.normal(0, 0.25, 3))
    third = across / np.linalg.norm(across)
    first = np.cross(third, rng.normal(0, 1, 3))
    first /= np.linalg.norm(first)
    frame = np.stack([first, np.cross(third, first), third], axis=1)
    radius = rng.uniform(0.005, 0.03)
    away = R_camera_hand @ np.array([-0.2, -1.0, 0.0]) * (0.012 + radius)
    centre = 0.5 * (names["middle_mcp"] + names["middle_pip"]) + away + third * rng.normal(0, 0.03)
    half = np.array([radius, radius * rng.uniform(0.4, 1.0), rng.uniform(0.04, 0.12)])
    rgb, material = random_rgb(rng), random_material(rng, 0.05)
    return (box_mesh if rng.random() < 0.3 else cylinder_mesh)(centre, frame * half, rgb, material)


def _face(rng: np.random.Generator, middle_m: np.ndarray, tone: Skin) -> Mesh:
    """A head-sized ellipsoid of the hand's own skin behind it."""
    distance = middle_m[2] + rng.uniform(0.12, 0.5)
    centre = np.array([*rng.normal(0, 0.11, 2), distance])
    turn = rotvec_to_rotmat(rng.normal(0, 0.3, 3))
    return ellipsoid_mesh(centre, turn * np.array([0.075, 0.11, 0.09]), 1.0, tone.rgb * rng.uniform(0.85, 1.15), tone.material)


def _second_hand(
    rng: np.random.Generator, surface: HandSurface, config: SynthConfig, middle_m: np.ndarray, extent_m: float, tone: Skin
) -> list[Mesh]:
    """Another hand, mostly a left one of the same person, beside, over or under the first."""
    rotmats = sample_pose(rng, surface.anatomy, config.poses)
    rotmats[0] = sample_orientation(rng, config.frontal_share)
    vertices_m = skin(surface.drawn, rotmats, np.clip(rng.normal(0, 0.9, 10), -2, 2).astype(np.float32))
    vertices_m = vertices_m - vertices_m.mean(axis=0)
    angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(0.55, 1.1) * extent_m
    centre = middle_m + np.array([np.cos(angle) * far, np.sin(angle) * far, rng.normal(0, 0.08)])
    centre[2] = max(centre[2], NEAR_M + 0.12)
    parts = [hand_mesh(surface, vertices_m, tone, is_labelled=False), *_arm(rng, surface, config, vertices_m, tone, rotmats[0], 0)]
    is_left = rng.random() < 0.85
    return [place_mesh(mesh, centre, is_left) for mesh in parts]


def place_mesh(mesh: Mesh, shift_m: np.ndarray, is_mirrored: bool) -> Mesh:
    """A mesh moved, mirrored first (x -> -x) if asked."""
    vertices = mirror_points(mesh.vertices_m) if is_mirrored else mesh.vertices_m
    # Swapping the last two corners swaps the axes of the skin's detail; its second half holds those.
    faces = np.ascontiguousarray(mesh.faces[:, [0, 2, 1]]) if is_mirrored else mesh.faces
    detail = np.where(mesh.detail >= 0, mesh.detail + len(mesh.faces), -1).astype(np.int32) if is_mirrored else mesh.detail
    return Mesh((vertices + shift_m).astype(np.float32), faces, mesh.texture_m, mesh.albedo, mesh.part, detail, mesh.material)


def _handless_scene(rng: np.random.Generator, surface: HandSurface, config: SynthConfig, tone: Skin, focal_px: float) -> list[Mesh]:
    """Things, faces, bare arms or nothing, as a false detection would crop them."""
    depth = focal_px * 0.17 * 1.5 / config.size_px
    middle_m = np.array([0.0, 0.0, depth])
    meshes: list[Mesh] = []
    kind = rng.random()
    if kind < 0.3:
        meshes.append(_face(rng, middle_m - np.array([0, 0, 0.2 * depth]), tone))
    elif kind < 0.55:
        # A forearm or upper arm: a long tapered pebble of skin, or of cloth.
        half = np.array([0.035, 0.045, 0.25]) * rng.uniform(0.7, 1.3)
        is_bare = rng.random() < 0.6
        rgb, material = (tone.rgb, tone.material) if is_bare else (random_rgb(rng), random_material(rng, 0.1))
        centre = middle_m + np.array([*rng.normal(0, 0.05, 2), 0.25])
        meshes.append(ellipsoid_mesh(centre, _axes(rng, half), rng.uniform(0.5, 1.0), rgb, material))
    if rng.random() < 0.7:
        meshes += [_thing(rng, middle_m, 0.17, in_front=rng.random() < 0.5) for _ in range(rng.integers(1, 5))]
    return meshes


@dataclass(frozen=True)
class Picture:
    """What `draw` gives: linear light (S, S, 3) premultiplied, coverage (S, S), parts (S/4, S/4) and the z-buffer with its labels."""

    rgb: np.ndarray
    alpha: np.ndarray
    parts: np.ndarray
    nearness: np.ndarray
    face_id: np.ndarray
    face_is_hand: np.ndarray


def draw(
    surface: HandSurface, meshes: list[Mesh], light: Light, focal_px: float, size_px: int, rng: np.random.Generator, shadow_share: float
) -> Picture:
    """Rasterise and shade meshes in a camera with its principal point in the middle of the picture."""
    fine = raster.SUPERSAMPLE * size_px
    rgb, alpha = np.zeros((size_px, size_px, 3), np.float32), np.zeros((size_px, size_px), np.float32)
    parts = np.zeros((size_px // PARTS_STRIDE, size_px // PARTS_STRIDE), np.uint8)
    nearness, face_id = np.zeros((fine, fine), np.float32), np.full((fine, fine), -1, np.int32)
    turn, soft, reach_m, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 2.5), rng.uniform(0.008, 0.02), rng.uniform(0.4, 1.0)
    noise_offset = rng.uniform(0, 64, 3).astype(np.float32)
    has_shadow = rng.random() < shadow_share and light.rgb.max() > 0.05
    if not meshes:
        return Picture(rgb, alpha, parts, nearness, face_id, np.zeros(0, bool))
    starts = np.cumsum([0] + [len(mesh.vertices_m) for mesh in meshes])
    vertices_m = np.concatenate([mesh.vertices_m for mesh in meshes])
    faces = np.concatenate([mesh.faces + start for mesh, start in zip(meshes, starts[:-1], strict=True)]).astype(np.int32)
    vertex_part = np.concatenate([mesh.part for mesh in meshes])
    screen = raster.project_vertices(vertices_m, np.float32(focal_px), size_px, np.float32(NEAR_M))
    raster.rasterise(screen, faces, fine, fine, nearness, face_id)
    raster.vote_parts(face_id, screen, faces, vertex_part, parts)
    cos, sin = np.cos(turn), np.sin(turn)
    taps = (_AO_TAPS @ np.array([[cos, sin], [-sin, cos]])).astype(np.float32)
    occlusion = raster.ambient_occlusion(nearness, np.float32(focal_px), size_px, np.float32(reach_m), np.float32(strength), taps)
    T_shadow_camera, shadow_map = _shadow_map(vertices_m, faces, len(meshes[0].vertices_m), light.direction, has_shadow)
    raster.shade(
        vertices_m=vertices_m,
        screen=screen,
        normals=raster.vertex_normals(vertices_m, faces),
        texture_m=np.concatenate([mesh.texture_m for mesh in meshes]),
        albedo=np.concatenate([mesh.albedo for mesh in meshes]),
        faces=faces,
        face_material=np.repeat(np.arange(len(meshes), dtype=np.int32), [len(mesh.faces) for mesh in meshes]),
        face_detail=np.concatenate([mesh.detail for mesh in meshes]),
        materials=np.stack([mesh.material for mesh in meshes]),
        detail=surface.detail,
        noise=surface.noise,
        noise_offset=noise_offset,
        ambient=light.ambient,
        light_direction=light.direction,
        light_rgb=light.rgb,
        T_shadow_camera=T_shadow_camera,
        shadow_map=shadow_map,
        shadow_soft=np.float32(soft),
        occlusion=occlusion,
        face_id=face_id,
        focal_px=np.float32(focal_px),
        size_px=size_px,
        rgb=rgb,
        alpha=alpha,
    )
    return Picture(rgb, alpha, parts, nearness, face_id, vertex_part[faces[:, 0]] > 0)


def _shadow_map(
    vertices_m: np.ndarray, faces: np.ndarray, first_count: int, direction: np.ndarray, is_cast: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The scene as the lamp sees it, framed on the first mesh: the map's transform (3, 4) and the map, 1 x 1 for none."""
    if not is_cast:
        return np.zeros((3, 4), np.float32), np.zeros((1, 1), np.float32)
    # x right, y down, and forward away from the lamp, so that the same faces face it.
    right = np.cross(direction, [0.0, 1.0, 0.0] if abs(direction[1]) < 0.9 else [1.0, 0.0, 0.0])
    right /= np.linalg.norm(right)
    R = np.stack([right, np.cross(-direction, right), direction])
    seen = vertices_m @ R.T.astype(np.float32)
    low, high = seen[:first_count].min(axis=0), seen[:first_count].max(axis=0)
    scale = (_SHADOW_PX - 8) / max(float((high - low)[:2].max()), 1e-3)
    T = np.zeros((3, 4), np.float32)
    T[:2, :3], T[2, :3] = R[:2] * scale, R[2]
    T[:2, 3] = 4 - low[:2] * scale
    # Nearness must be positive; metres keep the bias meaningful.
    T[2, 3] = 0.01 - float(seen[:, 2].min())
    shadow_map, ids = np.empty((_SHADOW_PX, _SHADOW_PX), np.float32), np.empty((_SHADOW_PX, _SHADOW_PX), np.int32)
    raster.rasterise((vertices_m @ T[:, :3].T + T[:, 3]).astype(np.float32), faces, _SHADOW_PX, _SHADOW_PX, shadow_map, ids)
    return T, shadow_map


def _visible(joints_m: np.ndarray, keypoints_px: np.ndarray, picture: Picture, inside: np.ndarray) -> np.ndarray:
    """(21,) u8: inside the picture, and nothing but the hand and its arm nearer than the joint by `_HIDING_M`."""
    size = len(inside)
    pixel = np.rint(keypoints_px).astype(int)
    is_in = ((pixel >= 0) & (pixel < size)).all(axis=1)
    x, y = np.clip(pixel, 0, size - 1).T
    is_in &= inside[y, x]
    face = picture.face_id[raster.SUPERSAMPLE * y, raster.SUPERSAMPLE * x]
    depth_m = 1 / np.maximum(picture.nearness[raster.SUPERSAMPLE * y, raster.SUPERSAMPLE * x], 1e-6)
    is_thing = (face >= 0) & ~picture.face_is_hand[face] if len(picture.face_is_hand) else np.zeros(len(face), bool)
    return (is_in & ~(is_thing & (depth_m < joints_m[:, 2] - _HIDING_M))).astype(np.uint8)
