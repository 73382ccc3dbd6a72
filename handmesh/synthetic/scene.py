"""One labelled picture: a hand, what is around it, light, a camera and its faults.

Two streams of random numbers make a picture: `rng` decides what is there and where, `look` how it is coloured and lit and
what the camera does to it. The versions of a picture share the first and with it their labels.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import numpy as np

from handmesh.hand_model import HandModel
from handmesh.hand_model.skinning import mirror_points, skin
from handmesh.skeleton import BONES, JOINTS, ROOT
from handmesh.synthetic import faults, raster
from handmesh.synthetic.config import PoseMixture, SynthConfig
from handmesh.synthetic.light import LUMINANCE, Light, Places, background, sample_light, sample_view
from handmesh.synthetic.poses import Pose, sample_orientation
from handmesh.synthetic.skin import Skin, sample_skin
from handmesh.synthetic.surface import FOREARM_PART, HandSurface, Mesh, hand_mesh
from handmesh.synthetic.things import handless, held, occluder, person, things_behind
from handmesh.synthetic.worn import wear

# Raised whenever the same configuration and seed give other pictures.
PICTURES = "pictures-2"
LABEL_DTYPE = np.dtype(
    [
        ("rotmats", "f4", (16, 3, 3)),
        ("betas", "f4", (10,)),
        ("root_m", "f4", (3,)),
        ("focal_px", "f4"),
        ("keypoints_px", "f4", (21, 2)),
        ("visible", "u1", (21,)),
        ("presence", "i1"),
        ("tone", "f4"),
        ("seen", "f4"),
        ("pose", "u1"),
    ]
)
POSE_KINDS = tuple(field.name for field in fields(PoseMixture))
NO_POSE = 255
PARTS_STRIDE = 4
NEAR_M = 0.03
Kind = Literal["right", "left", "negative"]
# Whose a triangle is.
THING, HAND, ARM = 0, 1, 2
# A joint lies inside the hand: a thing hides it only when it is nearer by more than this, and the own arm, its cuffs and bands,
# which begin around the wrist, when they are nearer by more than that.
_HIDING_M, _OWN_ARM_M = 0.015, 0.04
_NEAREST_JOINT_M = 0.12
_SHADOW_PX = 160
_SILHOUETTE_PX = 128
# From the bones of one hand to the skin of another that touches it.
_TOUCHING_M = 0.011
_AO_TAPS = np.stack([np.sqrt((np.arange(10) + 0.5) / 10) * f(np.arange(10) * 2.39996) for f in (np.cos, np.sin)], axis=1).astype(np.float32)


@dataclass(frozen=True)
class Sample:
    """A picture and what is in it. H and W are the picture's height and width.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        label: () LABEL_DTYPE, of a right hand in the picture's camera, whose principal point is ((W-1)/2, (H-1)/2).
            `rotmats` parent-relative, the first in the camera; `root_m` joint `skeleton.ROOT`; `visible` 1 where a joint is inside
            and not hidden by things or by the own arm (the hand may hide it itself); `presence` 1, 0, or -1 for not scored; `tone`
            0..1 over the Monk scale; `seen` the share of the hand's silhouette that is inside and not hidden by them; `pose` in
            POSE_KINDS, or NO_POSE. Without a hand: zeros and identities.
        parts: (H/4, W/4) uint8: 0 background or things, joint of `MANO_JOINTS` + 1 (rings with their finger), 17 the arm and what it wears.
        depth_m: (H/4, W/4) float16: z of hand or forearm minus the root's, 0 where parts is 0.
        mask: (H, W) uint8: 255 where the labelled mesh is, whatever hides it, also beyond a black frame edge; without the forearm.
    """

    image: np.ndarray
    label: np.ndarray
    parts: np.ndarray
    depth_m: np.ndarray
    mask: np.ndarray


def presence_of(visible: np.ndarray) -> int:
    """1 when at least half of the joints are inside and visible, 0 under 30 %, -1 (not scored) between."""
    share = float(np.mean(visible))
    return 1 if share >= 0.5 else 0 if share < 0.3 else -1


def kind_of(config: SynthConfig, seed: int, index: int) -> Kind:
    """What a picture shows. Left hands are drawn as right ones: who stores them mirrors."""
    return _kind(np.random.default_rng([seed, index]), config)


def _kind(rng: np.random.Generator, config: SynthConfig) -> Kind:
    is_negative, is_left = rng.random(2) < (config.negative_share, config.left_share)
    return "negative" if is_negative else "left" if is_left else "right"


def render_sample(model: HandModel | HandSurface, config: SynthConfig, places: Places, seed: int, index: int, version: int = 0) -> Sample:
    """Draw one picture; the same arguments give the same bytes.

    Args:
        model: a hand model, or its `HandSurface` when many pictures are drawn.
        config: what is drawn.
        places: from `light.load_places`.
        seed, index: name the picture.
        version: other colours, light and place; what is in the picture stays.
    """
    surface = HandSurface.of(model) if isinstance(model, HandModel) else model
    rng, look = np.random.default_rng([seed, index]), np.random.default_rng([seed, index, 1 + version])
    has_hand = _kind(rng, config) != "negative"
    width, height = config.width_px, config.size_px
    place = places.panoramas[look.integers(len(places.panoramas))]
    R_world_camera = sample_view(look, config)
    light = sample_light(look, place, R_world_camera, config)
    tone = float(rng.uniform(*config.tone))
    skin_here = sample_skin(look, tone, config)

    label = _empty_label()
    focal_px = float(np.float32(height * np.exp(rng.uniform(*np.log(config.focal_over_size)))))
    if has_hand:
        meshes, vertices_m, joints_m = _hand_scene(rng, look, surface, config, skin_here, focal_px, label)
        focal_px = float(label["focal_px"])
        label["tone"] = tone
    else:
        depth_m = focal_px * 0.17 * 1.5 / height
        meshes, vertices_m, joints_m = handless(rng, look, config, np.array([0.0, 0.0, depth_m]), 0.17, skin_here), None, None
    behind = background(look, places, place, R_world_camera, width, height, focal_px, skin_here.rgb, config)
    root_z_m = float(label["root_m"][2])
    picture = draw(surface, meshes, light, focal_px, (width, height), look, config, skin_here.variant, root_z_m)
    # Automatic exposure: part of the way from the skin's own brightness to a middle one.
    gain = np.float32(look.uniform(0.65, 1.2) * (0.25 / max(float(skin_here.rgb @ LUMINANCE), 0.02)) ** 0.45)
    linear = picture.rgb * gain + behind * (1 - picture.alpha)[..., None]
    image = faults.take_picture(look, linear, config)
    parts, depth_m, mask = picture.parts, picture.depth_m, np.zeros((height, width), np.uint8)
    inside = np.ones((height, width), bool)
    if rng.random() < config.frame_edge:
        inside = _frame_edge(rng, height, width)
        image[~inside] = 0
        is_cut = ~inside[PARTS_STRIDE // 2 :: PARTS_STRIDE, PARTS_STRIDE // 2 :: PARTS_STRIDE]
        parts[is_cut] = 0
        depth_m[is_cut] = 0
    if joints_m is not None and vertices_m is not None:
        faces, nearness = np.ascontiguousarray(surface.model.faces, dtype=np.int32), np.zeros((height, width), np.float32)
        raster.silhouette(_projected(vertices_m, focal_px, width, height), faces, mask, nearness)
        shown = _shown(picture, inside, nearness)
        label["visible"] = _visible(joints_m, label["keypoints_px"], picture, inside)
        label["presence"] = presence_of(label["visible"])
        label["seen"] = min(1.0, np.count_nonzero(shown) / max(_area_px(vertices_m, faces, focal_px), 1.0))
    return Sample(image, label, parts, depth_m.astype(np.float16), mask)


def _empty_label() -> np.ndarray:
    label = np.zeros((), LABEL_DTYPE)
    label["rotmats"], label["pose"] = np.eye(3), NO_POSE
    return label


def _frame_edge(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(H, W) bool: the side of a line, almost along a side of the picture, that the camera saw."""
    angle = rng.integers(4) * np.pi / 2 + rng.normal(0, 0.06)
    x, y = np.arange(width) / width - 0.5, np.arange(height) / height - 0.5
    return np.cos(angle) * x[None] + np.sin(angle) * y[:, None] < rng.uniform(0.1, 0.45)


def _hand_scene(
    rng: np.random.Generator,
    look: np.random.Generator,
    surface: HandSurface,
    config: SynthConfig,
    tone: Skin,
    focal_px: float,
    label: np.ndarray,
) -> tuple[list[Mesh], np.ndarray, np.ndarray]:
    """Pose and place a hand, write its label, and put things around it: meshes, labelled vertices (V, 3) and joints (21, 3)."""
    model, width, height = surface.model, config.width_px, config.size_px
    pose = surface.poses.sample(rng, config.poses)
    rotmats = pose.rotmats.copy()
    rotmats[0] = sample_orientation(rng, config, pose.kind)
    betas = np.clip(config.beta_sd * rng.normal(0, 1, 10), -2.5, 2.5).astype(np.float32)
    vertices_m = skin(model, rotmats, betas)
    joints_m = model.joints(vertices_m)
    around_m = joints_m - joints_m[ROOT]
    padding = float(np.exp(rng.uniform(*np.log(config.padding))))
    shift = _shift(rng, config, padding)
    root_m = place_root(around_m, focal_px, height / padding, shift)
    # A hand seen from its end is small: the picture is then a narrower view, not a camera at the fingertips.
    while float(root_m[2] + around_m[:, 2].min()) < _NEAREST_JOINT_M:
        focal_px = float(np.float32(1.2 * focal_px))
        root_m = place_root(around_m, focal_px, height / padding, shift)
    move_m = root_m - joints_m[ROOT]
    drawn_m = skin(surface.drawn, rotmats, betas) + move_m
    vertices_m, joints_m = vertices_m + move_m, joints_m + move_m
    label["rotmats"], label["betas"], label["root_m"], label["focal_px"] = rotmats, betas, root_m, focal_px
    label["keypoints_px"] = joints_m[:, :2].astype(np.float64) / joints_m[:, 2:] * focal_px + ((width - 1) / 2, (height - 1) / 2)
    label["pose"] = POSE_KINDS.index(pose.kind)

    meshes = [hand_mesh(surface, drawn_m, tone), *wear(rng, look, surface, config, drawn_m, tone, rotmats, FOREARM_PART)]
    extent_m = float(np.ptp(joints_m, axis=0).max())
    middle_m = joints_m.mean(axis=0)
    if pose.grip is not None and rng.random() < config.held_object:
        meshes += _held(rng, look, surface, pose, betas, joints_m, rotmats[0])
    if rng.random() < config.occluder:
        meshes += occluder(rng, look, middle_m, extent_m)
    if rng.random() < config.object_behind:
        meshes += things_behind(rng, look, middle_m, extent_m, int(rng.integers(1, 4)))
    if rng.random() < config.person_behind:
        meshes += person(rng, look, tone, middle_m)
    if rng.random() < config.second_hand:
        meshes += _second_hand(rng, look, surface, config, joints_m, betas, tone)
    return meshes, vertices_m, joints_m


def _shift(rng: np.random.Generator, config: SynthConfig, padding: float) -> np.ndarray:
    """(2,) where the middle of the hand's box is from the picture's, over the box's larger side."""
    # Half of the picture, over the box's larger side.
    half = 0.5 * padding * np.array([config.width_px / config.size_px, 1.0])
    shift = rng.normal(0, config.offset_sd, 2)
    if rng.random() < config.anywhere_share:
        shift = rng.uniform(-1, 1, 2) * np.maximum(half - 0.55, 0)
    if rng.random() < config.strayed_share:
        angle = rng.uniform(0, 2 * np.pi)
        away = np.array([np.cos(angle), np.sin(angle)])
        # From the middle to the picture's border that way, then between just inside of it and just outside.
        border = float(np.min(half / np.maximum(np.abs(away), 1e-6)))
        shift = away * (border + rng.uniform(-0.45, 0.4))
    return shift


def place_root(around_m: np.ndarray, focal_px: float, side_px: float, shift: np.ndarray) -> np.ndarray:
    """Where the root joint must be so that the joints' box is as large as asked, where asked.

    Args:
        around_m: (21, 3) joints relative to the root.
        side_px: larger side of the joints' box in the picture.
        shift: (2,) where the box's middle is from the picture's, over the box's larger side.

    Returns:
        (3,) f32 metres.
    """
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


def _held(
    rng: np.random.Generator,
    look: np.random.Generator,
    surface: HandSurface,
    pose: Pose,
    betas: np.ndarray,
    joints_m: np.ndarray,
    R_camera_hand: np.ndarray,
) -> list[Mesh]:
    """What the pose's grip is for, moved and scaled with the hand."""
    assert pose.grip is not None
    rest = surface.model.rest_joints_m + np.einsum("jck,k->jc", surface.model.joint_shape_dirs.reshape(16, 3, 10), betas)
    grip = pose.grip.fitted(surface.anatomy.joints_m, rest)
    # Skinning turns the hand about its wrist.
    centre_m = joints_m[JOINTS.index("wrist")] + R_camera_hand @ (grip.centre_m - rest[0])
    reach_m = (float(grip.reach_m[0]), float(grip.reach_m[1]))
    return held(rng, look, centre_m, R_camera_hand @ grip.axis, grip.radius_m, grip.is_ball, reach_m)


def _second_hand(
    rng: np.random.Generator,
    look: np.random.Generator,
    surface: HandSurface,
    config: SynthConfig,
    joints_m: np.ndarray,
    betas: np.ndarray,
    tone: Skin,
) -> list[Mesh]:
    """Another hand, mostly the left one of the same person, apart from the first, beside it or touching it."""
    is_left = rng.random() < 0.85
    pose = surface.poses.sample(rng, config.poses)
    rotmats = pose.rotmats.copy()
    rotmats[0] = sample_orientation(rng, config, pose.kind)
    vertices_m = skin(surface.drawn, rotmats, betas)
    vertices_m = vertices_m - vertices_m.mean(axis=0)
    angle = rng.uniform(0, 2 * np.pi)
    away = np.array([np.cos(angle), np.sin(angle), rng.normal(0, 0.35)])
    away /= np.linalg.norm(away)
    gap_m = _TOUCHING_M + (0.0 if rng.random() < 0.4 else rng.uniform(0.0, 0.15))
    start_m = joints_m.mean(axis=0)
    # Where the last point of its skin leaves the last ball of that radius around a bone of the first hand, along the line.
    skin_m = (mirror_points(vertices_m) if is_left else vertices_m)[::6] + start_m
    apart = (skin_m[:, None] - _bone_points(joints_m)[None]).reshape(-1, 3)
    along = apart @ away
    inside = along**2 - (apart**2).sum(axis=1) + gap_m**2
    steps_m = np.sqrt(np.maximum(inside, 0)) - along
    centre_m = start_m + max(0.0, float(steps_m[inside > 0].max(initial=0.0))) * away
    centre_m[2] = max(centre_m[2], NEAR_M + 0.12)
    eye_m = -mirror_points(centre_m) if is_left else -centre_m
    parts = [
        hand_mesh(surface, vertices_m, tone, is_labelled=False),
        *wear(rng, look, surface, config, vertices_m, tone, rotmats, 0, eye_m),
    ]
    return [place_mesh(mesh, centre_m, is_left) for mesh in parts]


def _bone_points(joints_m: np.ndarray) -> np.ndarray:
    """(41, 3) joints and middles of bones."""
    child, parent = np.array(BONES).T
    return np.concatenate([joints_m, (joints_m[child] + joints_m[parent]) / 2])


def place_mesh(mesh: Mesh, shift_m: np.ndarray, is_mirrored: bool) -> Mesh:
    """A mesh moved, mirrored first (x -> -x) if asked."""
    vertices = mirror_points(mesh.vertices_m) if is_mirrored else mesh.vertices_m
    # Swapping the last two corners swaps the axes of the skin's detail: rows from the number of triangles on say so to the shader.
    faces = np.ascontiguousarray(mesh.faces[:, [0, 2, 1]]) if is_mirrored else mesh.faces
    detail = np.where(mesh.detail >= 0, mesh.detail + len(mesh.faces), -1).astype(np.int32) if is_mirrored else mesh.detail
    return Mesh((vertices + shift_m).astype(np.float32), faces, mesh.texture_m, mesh.albedo, mesh.part, detail, mesh.material)


@dataclass(frozen=True)
class Picture:
    """What `draw` gives.

    Attributes:
        rgb: (H, W, 3) f32 linear light, premultiplied.
        alpha: (H, W) f32 coverage.
        parts: (H/4, W/4) u8.
        depth_m: (H/4, W/4) f32 behind the root.
        nearness: (2H, 2W) f32 1/z.
        face_id: (2H, 2W) i32, -1 for none.
        face_owner: (F,) u8 THING, HAND (rings too) or ARM (with what it wears); (1,) when nothing is drawn.
    """

    rgb: np.ndarray
    alpha: np.ndarray
    parts: np.ndarray
    depth_m: np.ndarray
    nearness: np.ndarray
    face_id: np.ndarray
    face_owner: np.ndarray


def draw(
    surface: HandSurface,
    meshes: list[Mesh],
    light: Light,
    focal_px: float,
    size: tuple[int, int],
    look: np.random.Generator,
    config: SynthConfig,
    variant: int = 0,
    root_z_m: float = 0.0,
) -> Picture:
    """Rasterise and shade meshes in a camera with its principal point in the middle of a picture of `size` (width, height).

    Args:
        config: of shadows and ambient occlusion.
        variant: of `surface.details`.
        root_z_m: what the depth map counts from.
    """
    width, height = size
    coarse = (height // PARTS_STRIDE, width // PARTS_STRIDE)
    rgb, alpha = np.zeros((height, width, 3), np.float32), np.zeros((height, width), np.float32)
    parts, depth_m = np.zeros(coarse, np.uint8), np.zeros(coarse, np.float32)
    fine = (raster.SUPERSAMPLE * height, raster.SUPERSAMPLE * width)
    nearness, face_id = np.zeros(fine, np.float32), np.full(fine, -1, np.int32)
    turn, soft, reach_m = look.uniform(0, 2 * np.pi), look.uniform(0.3, 2.5), look.uniform(0.008, 0.02)
    strength = look.uniform(*config.occlusion_strength)
    noise_offset = look.uniform(0, 64, 3).astype(np.float32)
    has_shadow = look.random() < config.cast_shadow and light.rgb.max() > 0.05
    if not meshes:
        return Picture(rgb, alpha, parts, depth_m, nearness, face_id, np.zeros(1, np.uint8))
    starts = np.cumsum([0] + [len(mesh.vertices_m) for mesh in meshes])
    vertices_m = np.concatenate([mesh.vertices_m for mesh in meshes]).astype(np.float32)
    faces = np.concatenate([mesh.faces + start for mesh, start in zip(meshes, starts[:-1], strict=True)]).astype(np.int32)
    vertex_part = np.concatenate([mesh.part for mesh in meshes])
    screen = raster.project_vertices(vertices_m, np.float32(focal_px), width, height, np.float32(NEAR_M))
    raster.rasterise(screen, faces, *fine, nearness, face_id)
    raster.vote_parts(face_id, screen, faces, vertex_part, np.float32(root_z_m), parts, depth_m)
    cos, sin = np.cos(turn), np.sin(turn)
    taps = (_AO_TAPS @ np.array([[cos, sin], [-sin, cos]])).astype(np.float32)
    occlusion = raster.ambient_occlusion(nearness, np.float32(focal_px), np.float32(reach_m), np.float32(strength), taps)
    T_shadow_camera, shadow_map, bias_m = _shadow_map(vertices_m, faces, len(meshes[0].vertices_m), light.direction, has_shadow)
    raster.shade(
        vertices_m=vertices_m,
        screen=screen,
        normals=raster.vertex_normals(vertices_m, faces),
        texture_m=np.concatenate([mesh.texture_m for mesh in meshes]).astype(np.float32),
        albedo=np.concatenate([mesh.albedo for mesh in meshes]).astype(np.float32),
        faces=faces,
        face_material=np.repeat(np.arange(len(meshes), dtype=np.int32), [len(mesh.faces) for mesh in meshes]),
        face_detail=np.concatenate([mesh.detail for mesh in meshes]),
        materials=np.stack([mesh.material for mesh in meshes]),
        detail=surface.details[variant],
        noise=surface.noise,
        noise_offset=noise_offset,
        ambient=light.ambient,
        light_direction=light.direction,
        light_rgb=light.rgb,
        T_shadow_camera=T_shadow_camera,
        shadow_map=shadow_map,
        shadow_soft=np.float32(soft),
        shadow_bias_m=np.float32(bias_m),
        occlusion=occlusion,
        face_id=face_id,
        nearness=nearness,
        focal_px=np.float32(focal_px),
        rgb=rgb,
        alpha=alpha,
    )
    part = vertex_part[faces[:, 0]]
    owner = np.where(part == 0, THING, np.where(part == FOREARM_PART, ARM, HAND)).astype(np.uint8)
    return Picture(rgb, alpha, parts, depth_m, nearness, face_id, owner)


def _shadow_map(
    vertices_m: np.ndarray, faces: np.ndarray, first_count: int, direction: np.ndarray, is_cast: bool
) -> tuple[np.ndarray, np.ndarray, float]:
    """The scene as the lamp sees it, framed on the first mesh: the map's transform (3, 4), the map (1 x 1 for none), and its bias."""
    if not is_cast:
        return np.zeros((3, 4), np.float32), np.zeros((1, 1), np.float32), 0.0
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
    # A pixel of the map covers a slope of the surface.
    return T, shadow_map, max(0.003, 1.5 / scale)


def _projected(vertices_m: np.ndarray, focal_px: float, width: int, height: int) -> np.ndarray:
    """(V, 3) f32 pixel x, y and 1/z of vertices; 1/z = 0 marks what is too near."""
    z = vertices_m[:, 2:]
    is_far = z >= NEAR_M
    near = np.where(is_far, 1 / np.where(is_far, z, 1), 0)
    return np.concatenate([vertices_m[:, :2] * focal_px * near + ((width - 1) / 2, (height - 1) / 2), near], axis=1).astype(np.float32)


def _shown(picture: Picture, inside: np.ndarray, nearness: np.ndarray) -> np.ndarray:
    """(H, W) bool: where the hand is, by its own `nearness`, and nothing that is clearly nearer hides it."""
    at = slice(None, None, raster.SUPERSAMPLE)
    face, in_front = picture.face_id[at, at], picture.nearness[at, at]
    # The twin that is drawn differs from the labelled mesh by a millimetre or two.
    gap_m = 1 / np.maximum(nearness, 1e-6) - 1 / np.maximum(in_front, 1e-6)
    owner = picture.face_owner[face]
    is_own = (owner == HAND) | ((owner == ARM) & (gap_m < _OWN_ARM_M)) | ((owner == THING) & (gap_m < 0.001))
    return (nearness > 0) & inside & (face >= 0) & is_own


def _area_px(vertices_m: np.ndarray, faces: np.ndarray, focal_px: float) -> float:
    """Area of a mesh's silhouette in pixels, inside of the picture or not: in a small picture of its own."""
    screen = _projected(vertices_m, focal_px, 1, 1)
    low, high = screen[:, :2].min(axis=0), screen[:, :2].max(axis=0)
    step = float((high - low).max()) / (_SILHOUETTE_PX - 2)
    screen[:, :2] = (screen[:, :2] - low) / step + 0.5
    mask, nearness = np.zeros((_SILHOUETTE_PX, _SILHOUETTE_PX), np.uint8), np.zeros((_SILHOUETTE_PX, _SILHOUETTE_PX), np.float32)
    raster.silhouette(screen, faces, mask, nearness)
    return float(np.count_nonzero(mask)) * step**2


def _visible(joints_m: np.ndarray, keypoints_px: np.ndarray, picture: Picture, inside: np.ndarray) -> np.ndarray:
    """(21,) u8: inside the picture, and nothing but the hand itself is clearly nearer than the joint."""
    height, width = inside.shape
    pixel = np.rint(keypoints_px).astype(int)
    is_in = ((pixel >= 0) & (pixel < (width, height))).all(axis=1)
    x, y = np.clip(pixel, 0, (width - 1, height - 1)).T
    is_in &= inside[y, x]
    face = picture.face_id[raster.SUPERSAMPLE * y, raster.SUPERSAMPLE * x]
    gap_m = joints_m[:, 2] - 1 / np.maximum(picture.nearness[raster.SUPERSAMPLE * y, raster.SUPERSAMPLE * x], 1e-6)
    owner = picture.face_owner[face]
    is_hidden = (face >= 0) & (((owner == THING) & (gap_m > _HIDING_M)) | ((owner == ARM) & (gap_m > _OWN_ARM_M)))
    return (is_in & ~is_hidden).astype(np.uint8)
