"""Skin: its tones, and its detail (palm, nails, creases, knuckles, veins, relief) worked out from a hand model's joints."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from handmesh.hand_model import HandModel
from handmesh.hand_model.articulation import Anatomy
from handmesh.skeleton import FINGERS, MANO_JOINTS
from handmesh.synthetic import raster
from handmesh.synthetic.config import SynthConfig
from handmesh.synthetic.material import plain_material, smoothstep, srgb_to_linear

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


# Veins and wrinkles are worked out once for each of these.
_VARIANTS = 2


def skin_rgb(tone: float, ruddiness: float = 0.65) -> np.ndarray:
    """(3,) linear albedo; `tone` 0 (lightest) .. 1 (darkest), `ruddiness` 0 (the swatch) .. 1."""
    table = srgb_to_linear((_MONK * (1 - ruddiness) + _RUDDY * ruddiness) / 255)
    at = np.clip(tone, 0, 1) * (len(table) - 1)
    low = min(int(at), len(table) - 2)
    return table[low] + (at - low) * (table[low + 1] - table[low])


def skin_detail(model: HandModel, anatomy: Anatomy, noise: np.ndarray) -> tuple[np.ndarray, ...]:
    """Variants of (F, G, G, C) f32: `raster.DETAIL_CHANNELS` at the middle of each cell of a barycentric grid on each triangle.

    Args:
        noise: (64, 64, 64) of `surface.periodic_noise`.
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

    points, normal, skin = spread(model.template_m), spread(normals), spread(model.skin_weights)
    masks = skin_masks(points, normal, skin, model.template_m, anatomy)
    variants = []
    for variant in range(_VARIANTS):
        relief = skin_relief(points, normal, skin, masks, anatomy, noise, np.random.default_rng(variant))
        variants.append(np.concatenate([masks, relief], axis=1).reshape(-1, grid, grid, len(raster.DETAIL_CHANNELS)).astype(np.float32))
    return tuple(variants)


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
    palm = smoothstep(-0.15, 0.45, facing) * smoothstep(0.0, 0.028, template_m[:, 0].max() - points[:, 0])
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
            near = np.exp(-((along / 0.0055) ** 2)) * smoothstep(0.2, 0.6, own)
            dorsal = smoothstep(0.1, 0.6, -(normal @ anatomy.pads[joint]))
            volar = smoothstep(0.1, 0.6, normal @ anatomy.pads[joint])
            if not (finger == "thumb" and step == 0):
                knuckle = np.maximum(knuckle, dorsal * near)
            if step > 0:
                wrinkles = 0.5 + 0.5 * np.cos(2 * np.pi * along / 0.0021)
                crease = np.maximum(crease, 0.55 * dorsal * np.exp(-((along / 0.0042) ** 2)) * wrinkles * smoothstep(0.3, 0.7, own))
                lines = np.exp(-((along / 0.0008) ** 2)) + 0.6 * np.exp(-(((along - 0.0022) / 0.0007) ** 2))
                crease = np.maximum(crease, volar * np.minimum(lines, 1) * smoothstep(0.5, 0.8, own))
            elif finger != "thumb":
                # Where the finger leaves the palm, about 0.45 of the first bone beyond its joint.
                line = np.exp(-(((along - 0.45 * length) / 0.0009) ** 2))
                crease = np.maximum(crease, volar * line * smoothstep(0.5, 0.8, own))
            if step == 2:
                side = offset @ anatomy.flexion_axes[joint]
                back = (normal @ anatomy.pads[joint]) < -0.25
                width = 0.8 * np.abs(side[(own > 0.9) & (along > 0.3 * length)]).max(initial=1e-3)
                shape = ((along / length - 0.67) / 0.30) ** 4 + (side / width) ** 4
                on = own * back * (1 - smoothstep(0.75, 1.05, shape))
                nail = np.maximum(nail, on)
                rim = np.exp(-(((shape - 1.0) / 0.25) ** 2)) * back * own
                crease = np.maximum(crease, 0.5 * rim * (along > 0.3 * length))
    crease = np.maximum(crease, _palm_lines(points, anatomy) * palm * smoothstep(0.3, 0.7, normal[:, 1] * -1))
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
    for corners in arcs:
        mask = np.maximum(mask, np.exp(-((_distance_to_curve(flat, _bezier(*corners)) / 0.0011) ** 2)))
    return mask


def skin_relief(
    points: np.ndarray,
    normal: np.ndarray,
    skin: np.ndarray,
    masks: np.ndarray,
    anatomy: Anatomy,
    noise: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """(N, 3) veins 0..1, free edges of the nails 0..1, and the height of the relief in metres, at points of the surface at rest.

    Args:
        points, normal, skin: as for `skin_masks`, which gives `masks`.
        rng: where the veins run.
    """
    normal = normal / np.linalg.norm(normal, axis=1, keepdims=True)
    palm, nail, crease, _ = masks.T
    joints = dict(zip(MANO_JOINTS, anatomy.joints_m, strict=True))
    flat = points[:, [0, 2]]
    knuckles = np.stack([joints[f"{finger}_mcp"][[0, 2]] for finger in FINGERS[1:]])
    wrist, across, down = joints["wrist"][[0, 2]], knuckles[-1] - knuckles[0], joints["wrist"][[0, 2]] - knuckles[1]
    # The back of the hand, from a little before the knuckles to the wrist.
    beyond = (flat - knuckles[1]) @ down / (down @ down)
    back = smoothstep(0.3, 0.8, normal[:, 1]) * smoothstep(0.3, 0.8, skin[:, 0] + 0.3) * smoothstep(-0.25, 0.0, beyond)
    height = np.zeros(len(points))

    on = np.flatnonzero(back > 0.01)
    tendon, vein = np.zeros(len(points)), np.zeros(len(points))
    for knuckle in knuckles:
        start = wrist + 0.25 * (knuckle - wrist) + 0.1 * (knuckle - knuckles[1])
        tendon[on] = np.maximum(tendon[on], np.exp(-((_distance_to_curve(flat[on], np.stack([start, knuckle])) / 0.0024) ** 2)))
    height += 0.0008 * tendon * back * (1 - smoothstep(0.6, 1.0, beyond))

    def run(strength: float, *corners: np.ndarray) -> None:
        nearest = _distance_to_curve(flat[on], _bezier(*corners))
        vein[on] = np.maximum(vein[on], strength * np.exp(-((nearest / 0.0018) ** 2)))

    valleys = (knuckles[:-1] + knuckles[1:]) / 2
    courses = [(valley, 1.0) for valley in valleys] + [(knuckles[0] - 0.25 * across / 3, 0.8), (knuckles[-1] + 0.2 * across / 3, 0.8)]
    ends = knuckles[0] + 0.95 * down + across * np.sort(rng.uniform(-0.15, 1.1, 3))[:, None]
    for start, strength in courses:
        end = ends[rng.integers(len(ends))]
        bends = [start + t * (end - start) + rng.normal(0, 0.12, 2) @ np.stack([across, 0.4 * down]) for t in (0.35, 0.7)]
        run(strength * rng.uniform(0.5, 1.0), start, *bends, end)
    run(0.8, *(knuckles[0] + across * (t + rng.normal(0, 0.04)) + down * rng.uniform(0.25, 0.5) for t in (0.1, 0.4, 0.65, 0.95)))
    vein *= back * smoothstep(0.02, 0.2, beyond)
    height += 0.0005 * vein

    def wander(wavelength_m: float) -> np.ndarray:
        """Noise with bumps of about this size."""
        at = np.floor(points / wavelength_m * 12 + rng.uniform(0, 64, 3)).astype(int) & 63
        return noise[at[:, 0], at[:, 1], at[:, 2]]

    height += 0.00035 * palm * wander(0.018) + 0.00012 * wander(0.009)
    # Skin is furrowed finer than the mesh; nails are not, and stand off.
    height += 0.00003 * (1 - nail) * wander(0.0035)
    height += 0.0003 * nail - 0.0003 * crease
    edge = np.zeros(len(points))
    for number in range(len(FINGERS)):
        first = MANO_JOINTS.index("thumb_cmc" if number == 0 else f"{FINGERS[number]}_mcp")
        own = skin[:, first : first + 3].sum(axis=1) > 0.8
        bone = anatomy.tips_m[number] - anatomy.joints_m[first + 2]
        along = (points - anatomy.joints_m[first + 2]) @ bone / (bone @ bone)
        edge = np.maximum(edge, own * nail * smoothstep(0.9, 0.94, along))
    return np.stack([vein, edge, height], axis=1)


def _bezier(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
    """(24, K) points of a cubic curve."""
    t = np.linspace(0, 1, 24)[:, None]
    return (1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * b + 3 * (1 - t) * t**2 * c + t**3 * d


def _distance_to_curve(points: np.ndarray, curve: np.ndarray) -> np.ndarray:
    """(N,) distance of points (N, K) to the nearest segment between successive points (M, K)."""
    nearest = np.full(len(points), np.inf)
    for start, end in itertools.pairwise(curve):
        step = end - start
        t = np.clip((points - start) @ step / max(float(step @ step), 1e-12), 0, 1)
        nearest = np.minimum(nearest, ((points - start - t[:, None] * step) ** 2).sum(axis=1))
    return np.sqrt(nearest)


@dataclass(frozen=True)
class Skin:
    """One person's skin.

    Attributes:
        rgb: (3,) linear albedo.
        material: its row.
        variant: which of `surface.HandSurface.details`.
    """

    rgb: np.ndarray
    material: np.ndarray
    variant: int = 0


def sample_skin(look: np.random.Generator, tone: float, config: SynthConfig) -> Skin:
    """Skin of a tone (0 the lightest .. 1 the darkest of the Monk scale), and how strongly its details show."""
    rgb = skin_rgb(tone, look.uniform(0.75, 1.1)) * look.uniform(0.85, 1.1) * (1 + look.normal(0, 0.02, 3))
    return Skin(np.clip(rgb, 0.01, 0.9), skin_material(look, tone, config), int(look.integers(_VARIANTS)))


def skin_material(look: np.random.Generator, tone: float, config: SynthConfig) -> np.ndarray:
    """(MATERIAL_COLUMNS,) of a skin whose tone is 0 (lightest) .. 1 (darkest)."""
    relief = look.uniform(*config.relief)
    speckle = look.uniform(*config.speckle)
    row = plain_material(
        noise_low=look.uniform(0.02, 0.09),
        freq_low=look.uniform(200, 700),
        noise_high=look.uniform(0.005, 0.03),
        freq_high=look.uniform(2500, 6000),
        specular=look.uniform(0.01, 0.07) * (1 + tone),
        shininess=look.uniform(8, 45),
        wrap=look.uniform(0.1, 0.4),
        speckle=speckle**3 * look.uniform(0.1, 0.35) * (1 - 0.6 * tone),
        speckle_freq=look.uniform(700, 2400),
        speckle_from=look.uniform(1.7, 2.8),
        relief=relief,
    )
    # The palm of a dark hand is much lighter than its back; that of a light one only pinker.
    palm = np.array([1.05, 0.95, 0.93]) + tone**1.5 * np.array([1.5, 1.5, 1.45]) * look.uniform(0.5, 1.2)
    nail = np.array([1.12, 1.0, 1.0]) + tone * look.uniform(0.2, 1.0) * np.array([1.0, 0.85, 0.85])
    edge = np.array([1.1, 1.18, 1.2]) + tone * look.uniform(0.2, 0.8)
    if look.random() < config.varnish:
        nail, edge = look.uniform(0.1, 1.6, 3), np.ones(3)
    crease = 1 - look.uniform(0.06, 0.32) * np.array([0.7, 1.0, 1.0])
    knuckle = 1 - look.uniform(0.0, 0.22) * np.array([0.25, 1.0, 0.9]) - 0.15 * tone
    vein = 1 - min(relief, 1.0) * look.uniform(0.0, 0.22) * (1 - 0.7 * tone) * np.array([1.0, 0.55, 0.35])
    row[raster.M_TINTS :] = np.concatenate([palm, nail, crease, knuckle, vein, edge])
    return row
