"""Hands that move, as the skeletons of motion capture: Biovision's bvh, one hand a file.

Centimetres, y up and z backwards as in `animation.py`. A bvh has one frame rate and no way to hide a hand: times are made even, and a
hand that is not in view stays as it was. There is no mesh, so no shape but the length of the bones.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from handmesh.hand_model.animation import HandMotion, Rig, bind_rig, quat_to_rotmat
from handmesh.hand_model.skinning import HandModel
from handmesh.skeleton import FINGERS, MANO_JOINTS, MANO_PARENTS
from handmesh.wholefile import replacing

_CM_PER_M = 100
_POSITION, _ROTATION = "Xposition Yposition Zposition", "Zrotation Yrotation Xrotation"


def save_bvh(motion: HandMotion, times_s: np.ndarray, model: HandModel, path: str | Path) -> None:
    """Write the bones of one hand, with end sites at the fingertips.

    Args:
        motion: the hand.
        times_s: (F,) of the video's frames, growing; their median distance becomes the file's.
        model: that the hand was posed with.
        path: written to a temporary name and renamed.
    """
    rig = bind_rig(model.astype(np.float64), motion, correctives=False)
    even_s, step_s = _even_times(times_s)
    quats, wrists_m = (
        _at_times(rig.quats_xyzw, motion.frames, times_s, even_s),
        _at_times(rig.translations_m[:, 0], motion.frames, times_s, even_s),
    )
    quats = quats / np.linalg.norm(quats, axis=-1, keepdims=True)
    angles_deg = np.degrees(np.unwrap(_rotmat_to_zyx(quat_to_rotmat(quats)), axis=0))
    # MANO's joints are in the order of the file already: finger by finger, from the palm outwards.
    table = np.concatenate([_CM_PER_M * wrists_m, angles_deg.reshape(len(even_s), -1)], axis=1)
    lines = ["HIERARCHY", *_skeleton(0, motion.name, rig, model, ""), "MOTION", f"Frames: {len(even_s)}", f"Frame Time: {step_s:.8f}"]
    lines += [" ".join(f"{value:.5f}" for value in row) for row in table]
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _skeleton(joint: int, name: str, rig: Rig, model: HandModel, indent: str) -> Iterator[str]:
    """The lines of a joint and of all below it."""
    parent, inner = MANO_PARENTS[joint], f"{indent}  "
    bone_m = rig.joints_m[joint] - rig.joints_m[parent] if parent >= 0 else np.zeros(3)
    yield f"{indent}{'JOINT' if parent >= 0 else 'ROOT'} {name}_{MANO_JOINTS[joint]}"
    yield f"{indent}{{"
    yield f"{inner}OFFSET {_offset(bone_m)}"
    yield f"{inner}CHANNELS {f'3 {_ROTATION}' if parent >= 0 else f'6 {_POSITION} {_ROTATION}'}"
    children = _children(joint)
    for child in children:
        yield from _skeleton(child, name, rig, model, inner)
    if not children:
        finger = MANO_JOINTS[joint].split("_")[0]
        tip_m = rig.rest_m[model.tip_vertices[FINGERS.index(finger)]]
        yield from (f"{inner}End Site", f"{inner}{{", f"{inner}  OFFSET {_offset(tip_m - rig.joints_m[joint])}", f"{inner}}}")
    yield f"{indent}}}"


def _offset(offset_m: np.ndarray) -> str:
    return " ".join(f"{_CM_PER_M * value:.6f}" for value in offset_m)


def _children(joint: int) -> list[int]:
    return [child for child, parent in enumerate(MANO_PARENTS) if parent == joint]


def _even_times(times_s: np.ndarray) -> tuple[np.ndarray, float]:
    """As many times at the median distance as reach from the first frame to the last, and that distance."""
    if len(times_s) == 1:
        return times_s, 1.0
    step_s = float(np.median(np.diff(times_s)))
    return times_s[0] + step_s * np.arange(round(float(times_s[-1] - times_s[0]) / step_s) + 1), step_s


def _at_times(values: np.ndarray, frames: np.ndarray, times_s: np.ndarray, wanted_s: np.ndarray) -> np.ndarray:
    """(T, ...) of a hand's frames at other times: straight between neighbouring frames, held while the hand is not in view."""
    lasts = np.flatnonzero(np.diff(frames) > 1)
    keys = np.concatenate([frames, frames[lasts + 1] - 1])
    rows = np.concatenate([np.arange(len(frames)), lasts])
    order = np.argsort(keys, kind="stable")
    flat = values[rows[order]].reshape(len(keys), -1)
    columns = [np.interp(wanted_s, times_s[keys[order]], column) for column in flat.T]
    return np.stack(columns, axis=-1).reshape(len(wanted_s), *values.shape[1:])


def _rotmat_to_zyx(rotmats: np.ndarray) -> np.ndarray:
    """(..., 3, 3) = Rz(a) Ry(b) Rx(c) to (..., 3) angles a, b, c in radians.

    `a` is found from what is left after Rx(c) is undone, so that the product is right at b = 90 degrees too, where a and c are one angle.
    """
    c = np.arctan2(rotmats[..., 2, 1], rotmats[..., 2, 2])
    b = np.arctan2(-rotmats[..., 2, 0], np.hypot(rotmats[..., 0, 0], rotmats[..., 1, 0]))
    sine, cosine = np.sin(c), np.cos(c)
    a = np.arctan2(
        sine * rotmats[..., 0, 2] - cosine * rotmats[..., 0, 1],
        cosine * rotmats[..., 1, 1] - sine * rotmats[..., 1, 2],
    )
    return np.stack([a, b, c], axis=-1)
