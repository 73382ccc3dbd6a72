"""What the rasteriser draws: meshes, and the hand's own with its skin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from handmesh.hand_model import HandModel
from handmesh.hand_model.articulation import Anatomy
from handmesh.hand_model.assets import load_dense_twin
from handmesh.skeleton import MANO_JOINTS
from handmesh.synthetic.poses import PoseSampler
from handmesh.synthetic.skin import Skin, skin_detail

FOREARM_PART = len(MANO_JOINTS) + 1


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
        anatomy: of `model`.
        poses: draws poses for it.
        loop: (L,) drawn vertices of the open wrist, in the order in which the forearm goes on.
        parts: (V,) u8, the joint that moves each drawn vertex most, plus one.
        details: variants of (F, G, G, C) f32, `raster.DETAIL_CHANNELS` on every triangle: hands differ in their veins and wrinkles.
        noise: (64, 64, 64) f32 periodic noise, mean 0, deviation 1.
    """

    model: HandModel
    drawn: HandModel
    anatomy: Anatomy
    poses: PoseSampler
    loop: np.ndarray
    parts: np.ndarray
    details: tuple[np.ndarray, ...]
    noise: np.ndarray

    @staticmethod
    def of(model: HandModel) -> HandSurface:
        """Work it out: a second or two."""
        model = model.astype(np.float32)
        drawn = load_dense_twin(model)
        anatomy = Anatomy.of(model)
        parts = (np.argmax(drawn.skin_weights, axis=1) + 1).astype(np.uint8)
        noise = periodic_noise()
        poses = PoseSampler.of(model, anatomy)
        return HandSurface(model, drawn, anatomy, poses, wrist_loop(drawn.faces), parts, skin_detail(drawn, anatomy, noise), noise)


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


def hand_mesh(surface: HandSurface, vertices_m: np.ndarray, skin: Skin, is_labelled: bool = True) -> Mesh:
    """A posed hand in the camera."""
    model = surface.drawn
    count = len(vertices_m)
    faces = np.ascontiguousarray(model.faces, dtype=np.int32)
    detail = np.arange(len(faces), dtype=np.int32)
    part = surface.parts if is_labelled else np.zeros(count, np.uint8)
    albedo = np.broadcast_to(skin.rgb.astype(np.float32), (count, 3))
    return Mesh(vertices_m, faces, model.template_m, albedo, part, detail, skin.material)
