"""What is drawn: the hand with its skin, forearm, sleeves and simple objects, as meshes ready for the rasteriser."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from handmesh.geometry.rotation import rotvec_to_rotmat
from handmesh.hand_model import HandModel
from handmesh.hand_model.articulation import Anatomy
from handmesh.hand_model.assets import load_dense_twin
from handmesh.skeleton import FINGERS, MANO_JOINTS
from handmesh.synthetic import raster

FOREARM_PART = len(MANO_JOINTS) + 1

# Skin from light to dark in sRGB: the ten Monk swatches (Monk 2019, CC BY 4.0), which are paler than skin in a picture ...
_MONK = np.array(
    [
        *([246, 237, 228], [243, 231, 219], [247, 234, 208], [234, 218, 186], [215, 189, 150]),
        *([160, 126, 86], [130, 92, 67], [96, 65, 52], [58, 49, 42], [41, 36, 32]),
    ],
    dtype=np.float64,
)
# ... pulled towards the redder tones that cameras record.
_RUDDY = np.array(
    [
        *([240, 203, 182], [236, 194, 170], [229, 184, 155], [219, 170, 139], [202, 150, 117]),
        *([174, 125, 95], [145, 101, 76], [115, 78, 60], [86, 58, 46], [64, 45, 37]),
    ],
    dtype=np.float64,
)


def srgb_to_linear(srgb: np.ndarray) -> np.ndarray:
    """Display values in 0..1 to light."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def skin_rgb(tone: float, ruddiness: float = 0.65) -> np.ndarray:
    """(3,) linear albedo; `tone` 0 (lightest) .. 1 (darkest), `ruddiness` 0 (the swatch) .. 1."""
    table = srgb_to_linear((_MONK * (1 - ruddiness) + _RUDDY * ruddiness) / 255)
    at = np.clip(tone, 0, 1) * (len(table) - 1)
    low = min(int(at), len(table) - 2)
    return table[low] + (at - low) * (table[low + 1] - table[low])


@dataclass(frozen=True)
class Mesh:
    """A part of a scene.

    Attributes:
        vertices_m: (N, 3) in the camera.
        faces: (F, 3) i32, counter-clockwise from outside.
        texture_m: (N, 3) where noise and stripes are looked up, in the thing's own frame.
        albedo: (N, 3) linear.
        part: (N,) u8 label.
        detail: (F,) i32 row of the skin's detail table, -1 for none.
        material: (MATERIAL_COLUMNS,).
    """

    vertices_m: np.ndarray
    faces: np.ndarray
    texture_m: np.ndarray
    albedo: np.ndarray
    part: np.ndarray
    detail: np.ndarray
    material: np.ndarray


@dataclass(frozen=True)
class HandSurface:
    """What the renderer works out once per hand model.

    Attributes:
        model: f32, the one whose parameters and joints are the labels.
        drawn: f32, the one that is drawn: its dense twin, where it has one.
        anatomy: for poses.
        loop: (L,) drawn vertices of the open wrist, in the order in which the forearm goes on.
        parts: (V,) u8, the joint that moves each drawn vertex most, plus one.
        detail: (F, G, G, 4) f32 masks of `raster.DETAIL_CHANNELS` on every triangle.
        noise: (64, 64, 64) f32 periodic noise, mean 0, deviation 1.
    """

    model: HandModel
    drawn: HandModel
    anatomy: Anatomy
    loop: np.ndarray
    parts: np.ndarray
    detail: np.ndarray
    noise: np.ndarray

    @staticmethod
    def of(model: HandModel) -> HandSurface:
        """Work it out: about a second."""
        model = model.astype(np.float32)
        drawn = load_dense_twin(model)
        anatomy = Anatomy.of(model)
        parts = (np.argmax(drawn.skin_weights, axis=1) + 1).astype(np.uint8)
        return HandSurface(model, drawn, anatomy, wrist_loop(drawn.faces), parts, skin_detail(drawn, anatomy), periodic_noise())


def wrist_loop(faces: np.ndarray) -> np.ndarray:
    """The longest open border of a mesh, (L,) vertices, walked so that faces (a, next(a), outer) face outwards."""
    directed = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    edges = {tuple(edge) for edge in directed.tolist()}
    # The neighbour across the border would walk the edge the other way.
    after = {b: a for a, b in edges if (b, a) not in edges}
    loops: list[list[int]] = []
    while after:
        start, vertex = next(iter(after.items()))
        loop = [start]
        del after[start]
        while vertex in after:
            loop.append(vertex)
            vertex = after.pop(vertex)
        loops.append(loop)
    return np.array(max(loops, key=len), dtype=np.int32)


def periodic_noise() -> np.ndarray:
    """(64, 64, 64) f32: octaves of smooth noise that repeat at the border."""
    rng = np.random.default_rng(64)
    spectrum = np.fft.rfftn(rng.standard_normal((64, 64, 64)))
    fx, fy, fz = np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(64), np.fft.rfftfreq(64), indexing="ij")
    frequency = np.sqrt(fx**2 + fy**2 + fz**2)
    spectrum *= np.where((frequency > 0) & (frequency < 0.3), 1 / np.maximum(frequency, 1 / 64) ** 2, 0)
    noise = np.fft.irfftn(spectrum, s=(64, 64, 64))
    return (noise / noise.std()).astype(np.float32)


def _smoothstep(low: float, high: float, x: np.ndarray) -> np.ndarray:
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def skin_detail(model: HandModel, anatomy: Anatomy) -> np.ndarray:
    """(2 F, G, G, 4) masks 0..1 of palm, nail, crease and knuckle at the middle of each cell of a barycentric grid.

    The second half is the first for mirrored hands, whose triangles have their last two corners swapped.
    """
    grid = raster.DETAIL_GRID
    cell = (np.arange(grid) + 0.5) / grid
    w1, w2 = np.meshgrid(cell, cell, indexing="ij")
    over = np.maximum(w1 + w2, 1.0)
    w1, w2 = (w1 / over).ravel(), (w2 / over).ravel()
    weights = np.stack([1 - w1 - w2, w1, w2], axis=1)
    normals = raster.vertex_normals(np.ascontiguousarray(model.template_m), np.ascontiguousarray(model.faces, dtype=np.int32))

    def spread(values: np.ndarray) -> np.ndarray:
        return np.einsum("gk,fkc->fgc", weights, values[model.faces]).reshape(-1, values.shape[1])

    masks = skin_masks(spread(model.template_m), spread(normals), spread(model.skin_weights), model.template_m, anatomy)
    detail = masks.reshape(-1, grid, grid, 4).astype(np.float32)
    return np.concatenate([detail, detail.swapaxes(1, 2)])


def skin_masks(points: np.ndarray, normal: np.ndarray, skin: np.ndarray, template_m: np.ndarray, anatomy: Anatomy) -> np.ndarray:
    """(N, 4) masks 0..1 of palm, nail, crease and knuckle (`assets.MASKS`) at points of the surface at rest.

    Args:
        points: (N, 3) metres.
        normal: (N, 3) outward, of any length.
        skin: (N, 16) skinning weights there.
        template_m: (V, 3) the whole hand.
    """
    normal = normal / np.linalg.norm(normal, axis=1, keepdims=True)
    nail, crease, knuckle = np.zeros(len(points)), np.zeros(len(points)), np.zeros(len(points))
    # How far a point's normal faces the soft side of the segment that moves it.
    pads = np.where(np.arange(16)[:, None] == 0, [[0.0, -1.0, 0.0]], anatomy.pads)
    facing = np.einsum("pj,jc,pc->p", skin, pads, normal)
    # The forearm has no palm's colour: it fades over the last centimetres before the wrist.
    palm = _smoothstep(-0.15, 0.45, facing) * _smoothstep(0.0, 0.028, template_m[:, 0].max() - points[:, 0])
    for number, finger in enumerate(FINGERS):
        first = MANO_JOINTS.index("thumb_cmc" if finger == "thumb" else f"{finger}_mcp")
        own = skin[:, first : first + 3].sum(axis=1)
        ends = (anatomy.joints_m[first + 1], anatomy.joints_m[first + 2], anatomy.tips_m[number])
        for step, end in enumerate(ends):
            joint = first + step
            offset = points - anatomy.joints_m[joint]
            bone = end - anatomy.joints_m[joint]
            length = np.linalg.norm(bone)
            along = offset @ (bone / length)
            near = np.exp(-((along / 0.0055) ** 2)) * _smoothstep(0.2, 0.6, own)
            dorsal = _smoothstep(0.1, 0.6, -(normal @ anatomy.pads[joint]))
            volar = _smoothstep(0.1, 0.6, normal @ anatomy.pads[joint])
            if not (finger == "thumb" and step == 0):
                knuckle = np.maximum(knuckle, dorsal * near)
            if step > 0:
                wrinkles = 0.5 + 0.5 * np.cos(2 * np.pi * along / 0.0021)
                crease = np.maximum(crease, 0.55 * dorsal * np.exp(-((along / 0.0042) ** 2)) * wrinkles * _smoothstep(0.3, 0.7, own))
                lines = np.exp(-((along / 0.0008) ** 2)) + 0.6 * np.exp(-(((along - 0.0022) / 0.0007) ** 2))
                crease = np.maximum(crease, volar * np.minimum(lines, 1) * _smoothstep(0.5, 0.8, own))
            elif finger != "thumb":
                # Where the finger leaves the palm, about 0.45 of the first bone beyond its joint.
                line = np.exp(-(((along - 0.45 * length) / 0.0009) ** 2))
                crease = np.maximum(crease, volar * line * _smoothstep(0.5, 0.8, own))
            if step == 2:
                side = offset @ anatomy.flexion_axes[joint]
                back = (normal @ anatomy.pads[joint]) < -0.25
                width = 0.8 * np.abs(side[(own > 0.9) & (along > 0.3 * length)]).max()
                shape = ((along / length - 0.67) / 0.30) ** 4 + (side / width) ** 4
                on = own * back * (1 - _smoothstep(0.75, 1.05, shape))
                nail = np.maximum(nail, on)
                rim = np.exp(-(((shape - 1.0) / 0.25) ** 2)) * back * own
                crease = np.maximum(crease, 0.5 * rim * (along > 0.3 * length))
    crease = np.maximum(crease, _palm_lines(points, anatomy) * palm * _smoothstep(0.3, 0.7, normal[:, 1] * -1))
    return np.stack([palm, nail, np.clip(crease, 0, 1), knuckle], axis=1)


def _palm_lines(points: np.ndarray, anatomy: Anatomy) -> np.ndarray:
    """The three large creases of a palm, as arcs through points given relative to the knuckles."""
    joints = dict(zip(MANO_JOINTS, anatomy.joints_m, strict=True))
    wrist, index, middle, little = (joints[name][[0, 2]] for name in ("wrist", "index_mcp", "middle_mcp", "little_mcp"))

    def at(across: float, down: float) -> np.ndarray:
        """0 = index side, 1 = little side; 0 = knuckles, 1 = wrist."""
        return index + across * (little - index) + down * (wrist - middle)

    arcs = (
        [at(-0.15, 0.28), at(0.25, 0.34), at(0.38, 0.62), at(0.36, 0.95)],
        [at(-0.15, 0.26), at(0.35, 0.30), at(0.75, 0.44), at(1.05, 0.62)],
        [at(0.15, -0.12), at(0.4, 0.08), at(0.75, 0.15), at(1.15, 0.14)],
    )
    flat, mask = points[:, [0, 2]], np.zeros(len(points))
    t = np.linspace(0, 1, 24)[:, None]
    for a, b, c, d in arcs:
        curve = (1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * b + 3 * (1 - t) * t**2 * c + t**3 * d
        nearest = np.full(len(points), np.inf)
        for point in curve:
            nearest = np.minimum(nearest, ((flat - point) ** 2).sum(axis=1))
        mask = np.maximum(mask, np.exp(-nearest / 0.0011**2))
    return mask


def plain_material(**columns: float) -> np.ndarray:
    """A material row with neutral tints; keywords: noise_low, freq_low, noise_high, freq_high, specular, shininess, wrap."""
    row = np.zeros(raster.MATERIAL_COLUMNS, np.float32)
    row[raster.M_TINTS :] = 1.0
    row[raster.M_FREQ_LOW] = row[raster.M_FREQ_HIGH] = row[raster.M_SHININESS] = 1.0
    names = {
        "noise_low": raster.M_NOISE_LOW,
        "freq_low": raster.M_FREQ_LOW,
        "noise_high": raster.M_NOISE_HIGH,
        "freq_high": raster.M_FREQ_HIGH,
        "specular": raster.M_SPECULAR,
        "shininess": raster.M_SHININESS,
        "wrap": raster.M_WRAP,
    }
    for name, value in columns.items():
        row[names[name]] = value
    return row


@dataclass(frozen=True)
class Skin:
    """One person's skin: linear albedo (3,) and its material row."""

    rgb: np.ndarray
    material: np.ndarray


def sample_skin(rng: np.random.Generator) -> Skin:
    """A tone, evenly over the Monk scale with a little less of its very ends, and how strongly its details show."""
    tone = np.clip(rng.uniform(-0.04, 1.0), 0, 1)
    rgb = skin_rgb(tone, rng.uniform(0.55, 1.0)) * rng.uniform(0.85, 1.1) * (1 + rng.normal(0, 0.02, 3))
    return Skin(np.clip(rgb, 0.01, 0.9), skin_material(rng, tone))


def skin_material(rng: np.random.Generator, tone: float) -> np.ndarray:
    """(MATERIAL_COLUMNS,) of a skin whose tone is 0 (lightest) .. 1 (darkest)."""
    row = plain_material(
        noise_low=rng.uniform(0.03, 0.10),
        freq_low=rng.uniform(300, 900),
        noise_high=rng.uniform(0.02, 0.07),
        freq_high=rng.uniform(2500, 6000),
        specular=rng.uniform(0.01, 0.09) * (1 + tone),
        shininess=rng.uniform(8, 45),
        wrap=rng.uniform(0.1, 0.4),
    )
    # The palm of a dark hand is much lighter than its back; that of a light one only pinker.
    palm = np.array([1.05, 0.95, 0.93]) + tone**1.5 * np.array([1.5, 1.5, 1.45]) * rng.uniform(0.5, 1.2)
    nail = np.array([1.12, 1.0, 1.0]) + tone * rng.uniform(0.2, 1.0) * np.array([1.0, 0.85, 0.85])
    if rng.random() < 0.06:
        # Varnish.
        nail = rng.uniform(0.1, 1.6, 3)
    crease = 1 - rng.uniform(0.15, 0.5) * np.array([0.7, 1.0, 1.0])
    knuckle = 1 - rng.uniform(0.0, 0.22) * np.array([0.25, 1.0, 0.9]) - 0.15 * tone
    row[raster.M_TINTS :] = np.concatenate([palm, nail, crease, knuckle])
    return row


def hand_mesh(surface: HandSurface, vertices_m: np.ndarray, skin: Skin, is_labelled: bool = True) -> Mesh:
    """A posed hand in the camera."""
    model = surface.drawn
    count = len(vertices_m)
    faces = np.ascontiguousarray(model.faces, dtype=np.int32)
    detail = np.arange(len(faces), dtype=np.int32)
    part = surface.parts if is_labelled else np.zeros(count, np.uint8)
    albedo = np.broadcast_to(skin.rgb.astype(np.float32), (count, 3))
    return Mesh(vertices_m, faces, model.template_m, albedo, part, detail, skin.material)


@dataclass(frozen=True)
class ForearmShape:
    """How a forearm leaves the wrist.

    Attributes:
        length_m: up to its cut.
        swelling: its girth near the elbow over the wrist's.
        bend: (3,) rotation vector in radians, in the hand's frame, of forearm against hand.
    """

    length_m: float
    swelling: float
    bend: np.ndarray

    def girth(self, distance_m: np.ndarray) -> np.ndarray:
        """Girth over the wrist's, at distances (N,) beyond the wrist."""
        return 1 + (self.swelling - 1) * np.sin(np.clip(distance_m / 0.2, 0, 1) * np.pi / 2) ** 2


# Distance from the wrist over the forearm's length at each ring.
_RINGS = np.array([0.03, 0.07, 0.12, 0.18, 0.26, 0.36, 0.5, 0.66, 0.82, 1.0])


def forearm_path(axis: np.ndarray, bend: np.ndarray, shape: ForearmShape) -> tuple[np.ndarray, np.ndarray]:
    """Ring centres (R, 3) relative to the wrist, and the rotation (R, 3, 3) of each ring: the bend is spread over the first rings."""
    at_m = _RINGS * shape.length_m
    ease = np.clip(at_m / 0.03, 0, 1)
    rotations = rotvec_to_rotmat(ease[:, None] * bend)
    steps = np.diff(at_m, prepend=0.0)
    centres = np.cumsum(rotations @ axis * steps[:, None], axis=0)
    return centres, rotations


def forearm_mesh(
    surface: HandSurface, vertices_m: np.ndarray, skin: Skin, shape: ForearmShape, R_camera_hand: np.ndarray, part: int
) -> Mesh:
    """A tube from the wrist's border, closed at its far end.

    Args:
        vertices_m: (V, 3) of the right hand in the camera.
        R_camera_hand: (3, 3) of the wrist.
        part: label of its vertices.
    """
    rest = surface.drawn.template_m
    loop = surface.loop
    border = vertices_m[loop]
    middle = border.mean(axis=0)
    centres, rotations = forearm_path(R_camera_hand @ np.array([1.0, 0.0, 0.0]), R_camera_hand @ shape.bend, shape)
    girth = shape.girth(_RINGS * shape.length_m)
    rings = np.concatenate(
        [border[None], middle + centres[:, None] + girth[:, None, None] * np.einsum("rij,lj->rli", rotations, border - middle)]
    )
    along = np.concatenate([[0.0], _RINGS * shape.length_m])[:, None, None] * np.array([1.0, 0, 0])
    texture = rest[loop][None] + along
    return _tube(rings, texture, skin.rgb, skin.material, part)


def sleeve_mesh(
    surface: HandSurface,
    vertices_m: np.ndarray,
    shape: ForearmShape,
    R_camera_hand: np.ndarray,
    part: int,
    cloth: Cloth,
    span: tuple[float, float],
) -> Mesh:
    """Cloth, or a band, around the forearm from `span[0]` to `span[1]` metres beyond the wrist, `cloth.thickness_m` off the skin."""
    border = vertices_m[surface.loop]
    middle = border.mean(axis=0)
    axis, bend = R_camera_hand @ np.array([1.0, 0.0, 0.0]), R_camera_hand @ shape.bend
    centres, rotations = forearm_path(axis, bend, shape)
    at_m = np.concatenate([[0.0], _RINGS * shape.length_m])
    centres = np.concatenate([np.zeros((1, 3)), centres])
    rotations = np.concatenate([np.eye(3)[None], rotations])
    where = np.linspace(span[0], min(span[1], shape.length_m * 1.02), 8)
    centre = np.stack([np.interp(where, at_m, centres[:, k]) for k in range(3)], axis=1)
    nearest = np.clip(np.searchsorted(at_m, where), 0, len(at_m) - 1)
    girth = shape.girth(where)
    offsets = border - middle
    radius = np.linalg.norm(offsets, axis=1).mean()
    flare = np.linspace(1.0, cloth.flare, len(where))
    scale = girth * flare * (1 + cloth.thickness_m / radius)
    rings = middle + centre[:, None] + scale[:, None, None] * np.einsum("rij,lj->rli", rotations[nearest], offsets)
    # The opening: a ring on the skin closes the cloth towards the hand.
    inner = middle + centre[:1, None] + girth[0] * np.einsum("rij,lj->rli", rotations[nearest[:1]], offsets)
    texture = surface.drawn.template_m[surface.loop][None] + where[:, None, None] * np.array([1.0, 0, 0])
    return _tube(np.concatenate([inner, rings]), np.concatenate([texture[:1], texture]), cloth.rgb, cloth.material, part)


def _tube(rings: np.ndarray, texture: np.ndarray, rgb: np.ndarray, material: np.ndarray, part: int) -> Mesh:
    """Rings (R, L, 3) joined one after the other, and a cap on the last."""
    count, length = rings.shape[:2]
    vertices = np.concatenate([rings.reshape(-1, 3), rings[-1].mean(axis=0, keepdims=True)]).astype(np.float32)
    texture = np.concatenate([texture.reshape(-1, 3), texture[-1].mean(axis=0, keepdims=True)]).astype(np.float32)
    i = np.arange(length)
    j = (i + 1) % length
    faces = []
    for ring in range(count - 1):
        a, b = ring * length + i, ring * length + j
        c, d = a + length, b + length
        faces += [np.stack([a, b, d], axis=1), np.stack([a, d, c], axis=1)]
    last = (count - 1) * length
    faces.append(np.stack([last + i, last + j, np.full(length, count * length)], axis=1))
    faces = np.concatenate(faces).astype(np.int32)
    return _single(vertices, faces, texture, rgb, material, part)


def _single(vertices: np.ndarray, faces: np.ndarray, texture: np.ndarray, rgb: np.ndarray, material: np.ndarray, part: int) -> Mesh:
    count = len(vertices)
    albedo = np.broadcast_to(np.asarray(rgb, np.float32), (count, 3))
    return Mesh(
        np.ascontiguousarray(vertices, dtype=np.float32),
        faces,
        np.ascontiguousarray(texture, dtype=np.float32),
        albedo,
        np.full(count, part, np.uint8),
        np.full(len(faces), -1, np.int32),
        material,
    )


@dataclass(frozen=True)
class Cloth:
    """A covering: linear albedo (3,), material row, how far it stands off and how much it widens."""

    rgb: np.ndarray
    material: np.ndarray
    thickness_m: float
    flare: float


def random_rgb(rng: np.random.Generator) -> np.ndarray:
    """(3,) linear albedo of cloth and things: often grey or muted, sometimes strong, dark as often as light."""
    value = rng.uniform(0.02, 0.8) ** 1.3
    saturation = rng.choice([rng.uniform(0, 0.15), rng.uniform(0.1, 0.6), rng.uniform(0.5, 1.0)])
    hue = rng.uniform(0, 6) + np.array([0.0, 4.0, 2.0])
    pure = np.clip(np.abs(hue % 6 - 3) - 1, 0, 1)
    return np.clip(value * (1 - saturation * (1 - pure)), 0.005, 0.9)


def random_material(rng: np.random.Generator, size_m: float) -> np.ndarray:
    """The row of a cloth-like or plastic-like thing of about `size_m`: grain, sometimes stripes, dull or glossy."""
    row = plain_material(
        noise_low=rng.uniform(0, 0.35) if rng.random() < 0.6 else 0.02,
        freq_low=rng.uniform(4, 40) / size_m,
        noise_high=rng.uniform(0, 0.2) if rng.random() < 0.5 else 0.0,
        freq_high=rng.uniform(40, 200) / size_m,
        specular=rng.uniform(0.0, 0.02) if rng.random() < 0.6 else rng.uniform(0.05, 0.4),
        shininess=rng.uniform(5, 80),
        wrap=0.1,
    )
    if rng.random() < 0.3:
        direction = rng.normal(0, 1, 3)
        row[raster.M_STRIPE] = rng.uniform(0.3, 1)
        row[raster.M_STRIPE_VECTOR : raster.M_STRIPE_VECTOR + 3] = direction / np.linalg.norm(direction) * rng.uniform(8, 60) / size_m
        row[raster.M_STRIPE_RGB : raster.M_STRIPE_RGB + 3] = random_rgb(rng)
    return row


def _sphere_topology(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    theta = np.linspace(0, np.pi, rows)
    phi = np.arange(columns) * 2 * np.pi / columns
    points = np.stack(
        [np.sin(theta)[:, None] * np.cos(phi), np.sin(theta)[:, None] * np.sin(phi), np.repeat(np.cos(theta)[:, None], columns, axis=1)],
        axis=-1,
    )
    i, j = np.meshgrid(np.arange(rows - 1), np.arange(columns), indexing="ij")
    a, b = i * columns + j, i * columns + (j + 1) % columns
    faces = np.concatenate([np.stack([a, a + columns, b + columns], -1).reshape(-1, 3), np.stack([a, b + columns, b], -1).reshape(-1, 3)])
    return points.reshape(-1, 3).astype(np.float32), faces.astype(np.int32)


_SPHERE = _sphere_topology(9, 14)


def ellipsoid_mesh(centre_m: np.ndarray, axes_m: np.ndarray, power: float, rgb: np.ndarray, material: np.ndarray) -> Mesh:
    """A superellipsoid: power 1 is an ellipsoid, towards 0 a rounded box.

    Args:
        axes_m: (3, 3) columns are its half axes in the camera, right-handed.
    """
    points, faces = _SPHERE
    shaped = np.sign(points) * np.abs(points) ** power
    own = shaped * np.linalg.norm(axes_m, axis=0)
    return _single(shaped @ axes_m.T + centre_m, faces, own, rgb, material, 0)


_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=np.float32)
_QUADS = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))


def box_mesh(centre_m: np.ndarray, axes_m: np.ndarray, rgb: np.ndarray, material: np.ndarray) -> Mesh:
    """A box with flat sides; `axes_m` as for `ellipsoid_mesh`."""
    corners = np.concatenate([_CORNERS[list(quad)] for quad in _QUADS])
    start = 4 * np.arange(6)[:, None]
    faces = np.concatenate([start + np.array([0, 1, 2]), start + np.array([0, 2, 3])]).astype(np.int32)
    return _single(corners @ axes_m.T + centre_m, faces, corners * np.linalg.norm(axes_m, axis=0), rgb, material, 0)


def cylinder_mesh(centre_m: np.ndarray, axes_m: np.ndarray, rgb: np.ndarray, material: np.ndarray) -> Mesh:
    """A closed cylinder along the third axis; `axes_m` as for `ellipsoid_mesh`."""
    phi = np.arange(12) * 2 * np.pi / 12
    circle = np.stack([np.cos(phi), np.sin(phi), np.zeros(12)], axis=1)
    levels = np.array([[0.0, 0, -1], [0, 0, -1], [0, 0, 1], [0, 0, 1]])
    radii = np.array([0.0, 1.0, 1.0, 0.0])
    rings = radii[:, None, None] * circle + levels[:, None]
    own = rings * np.linalg.norm(axes_m, axis=0)
    mesh = _tube(rings, own, rgb, material, 0)
    return Mesh(mesh.vertices_m @ axes_m.T.astype(np.float32) + centre_m.astype(np.float32), *_rest(mesh))


def _rest(mesh: Mesh) -> tuple:
    return (mesh.faces, mesh.texture_m, mesh.albedo, mesh.part, mesh.detail, mesh.material)
