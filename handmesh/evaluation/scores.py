"""All numbers about somebody's hands: FreiHAND's twelve, and what they leave out."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from handmesh.errors import UserError
from handmesh.evaluation.metrics import (
    acceleration_errors,
    distances,
    f_scores,
    fit_officially,
    pck_auc,
    pck_curve,
    projected,
    relative_to,
)
from handmesh.evaluation.records import EvaluationSet, Predictions
from handmesh.geometry.alignment import Similarity, fit_similarity
from handmesh.skeleton import FINGERS, JOINTS, ROOT, WRIST

SCORES_FORMAT = "handmesh-scores-1"
NOT_APPLICABLE = "n/a (topology)"
FAlignment = Literal["mesh", "joints"]

# Hands at a time: what is held beside the points themselves stays small.
_BLOCK = 256
_UNIT_MM = 1e3


@dataclass(frozen=True)
class Metric:
    """One number a hand.

    Attributes:
        name: its key in `Scores.samples`.
        heading: for readers.
        digits: after the point.
        about: what it means, in a sentence.
        factor: from the value to what is shown.
        lower_is_better: errors, rather than shares.
    """

    name: str
    heading: str
    digits: int
    about: str
    factor: float = 1.0
    lower_is_better: bool = True

    def shown(self, value: float) -> str:
        """As readers see it."""
        return f"{self.factor * value:.{self.digits}f}"


def proper_name(name: str) -> str:
    """The twin of an officially aligned metric, whose alignment mirrors nothing: "pa_mpjpe_mm" -> "pa_mpjpe_proper_mm"."""
    return f"{name.removesuffix('_mm')}_proper{'_mm' if name.endswith('_mm') else ''}"


def _share(name: str, heading: str, about: str) -> Metric:
    return Metric(name, heading, 3, about, lower_is_better=False)


_ALIGNED = (
    Metric("pa_mpjpe_mm", "PA-MPJPE mm", 2, "mean distance of the 21 joints after the best similarity (Procrustes)"),
    Metric("pa_mpvpe_mm", "PA-MPVPE mm", 2, "the same of the mesh's vertices, aligned by themselves"),
    _share("f_5mm_aligned", "F@5", "harmonic mean of the shares of either mesh within 5 mm of the other, aligned"),
    _share("f_15mm_aligned", "F@15", "the same within 15 mm"),
    _share("auc_joints_aligned", "AUC joints", "area under the share of aligned joints within 0 to 50 mm"),
    _share("auc_vertices_aligned", "AUC vertices", "the same of aligned vertices"),
)
METRICS = (
    *_ALIGNED,
    *(
        Metric(
            proper_name(metric.name),
            f"{metric.heading}, no reflection",
            metric.digits,
            f"{metric.about}; the alignment may turn a hand, but not mirror it",
            lower_is_better=metric.lower_is_better,
        )
        for metric in _ALIGNED
    ),
    Metric(
        "mpjpe_root_mm",
        "root-relative MPJPE mm",
        2,
        "mean distance of the joints, relative to the knuckle of the middle finger: size and turn count",
    ),
    Metric("mpvpe_root_mm", "root-relative MPVPE mm", 2, "the same of the vertices, relative to joint 9"),
    Metric("mpjpe_wrist_mm", "wrist-relative MPJPE mm", 2, "mean distance of the joints, relative to the wrist"),
    Metric("mpvpe_wrist_mm", "wrist-relative MPVPE mm", 2, "mean distance of the vertices, relative to the wrist"),
    Metric("translation_mm", "translation mm", 1, "distance of joint 9 in the camera: mostly depth, which one picture hardly shows"),
    Metric("depth_mm", "depth mm", 1, "error of joint 9 along the camera's axis"),
    Metric("keypoints_px", "2D px", 2, "mean distance of the joints in the picture"),
    Metric("keypoints_share", "2D % of box", 2, "the same, over the larger side of the true keypoints' box", factor=100),
    Metric(
        "acceleration_mm_s2",
        "acceleration mm/s²",
        0,
        "mean distance between predicted and true accelerations of the joints: jitter, in videos",
    ),
    Metric("mpjpe_camera_mm", "MPJPE mm, as predicted", 1, "mean distance of the joints in the camera, nothing aligned"),
    Metric("mpvpe_camera_mm", "MPVPE mm, as predicted", 1, "mean distance of the vertices in the camera, nothing aligned"),
    _share("f_5mm", "F@5, as predicted", "F within 5 mm, nothing aligned"),
    _share("f_15mm", "F@15, as predicted", "F within 15 mm, nothing aligned"),
    _share("auc_joints", "AUC joints, as predicted", "area under the share of joints within 0 to 50 mm, nothing aligned"),
    _share("auc_vertices", "AUC vertices, as predicted", "the same of vertices"),
)
METRIC = {metric.name: metric for metric in METRICS}

# The keys of FreiHAND's scores.txt, in its order, with the metric of each; distances are in centimetres there.
OFFICIAL = {
    "xyz_mean3d": "mpjpe_camera_mm",
    "xyz_auc3d": "auc_joints",
    "xyz_al_mean3d": "pa_mpjpe_mm",
    "xyz_al_auc3d": "auc_joints_aligned",
    "mesh_mean3d": "mpvpe_camera_mm",
    "mesh_auc3d": "auc_vertices",
    "mesh_al_mean3d": "pa_mpvpe_mm",
    "mesh_al_auc3d": "auc_vertices_aligned",
    "f_score_5": "f_5mm",
    "f_al_score_5": "f_5mm_aligned",
    "f_score_15": "f_15mm",
    "f_al_score_15": "f_15mm_aligned",
}


@dataclass(frozen=True)
class Scores:
    """What `score` found.

    Attributes:
        samples: (N,) of each metric in METRICS that applies, by name. Means over them are what is reported.
        joint_errors_mm: (21,) mean distance of each joint, aligned officially.
        joint_errors_root_mm: (21,) the same relative to joint 9, not aligned.
        pck_joints: (100,) share of aligned joints within each of `metrics.PCK_THRESHOLDS_M`.
        pck_vertices: (100,) of vertices; None where the mesh has another topology, or there is none.
        f_alignment: what F's alignment was fitted to: the mesh, the joints (another topology), or None without a mesh.
        acceleration_mm_s2: mean over videos' frames; None without videos.
        warnings: what a reader must know.
    """

    samples: dict[str, np.ndarray]
    joint_errors_mm: np.ndarray
    joint_errors_root_mm: np.ndarray
    pck_joints: np.ndarray
    pck_vertices: np.ndarray | None
    f_alignment: FAlignment | None
    acceleration_mm_s2: float | None
    warnings: tuple[str, ...]

    def mean(self, name: str) -> float | None:
        """Of a metric over all hands; None where it does not apply."""
        if name == "acceleration_mm_s2":
            return self.acceleration_mm_s2
        return float(self.samples[name].mean()) if name in self.samples else None

    @property
    def official(self) -> dict[str, float]:
        """FreiHAND's twelve numbers by its keys, distances in centimetres; nan where one does not apply."""
        values = {key: self.mean(name) for key, name in OFFICIAL.items()}
        return {key: math.nan if value is None else value / 10 if "mean3d" in key else value for key, value in values.items()}

    @property
    def finger_errors_mm(self) -> dict[str, float]:
        """Mean of `joint_errors_mm` over each finger's four joints, and the wrist's."""
        fingers = {finger: [index for index, joint in enumerate(JOINTS) if joint.startswith(finger)] for finger in FINGERS}
        return {
            "wrist": float(self.joint_errors_mm[WRIST]),
            **{name: float(self.joint_errors_mm[at].mean()) for name, at in fingers.items()},
        }


@dataclass
class _Sums:
    """What is gathered block by block."""

    samples: dict[str, list[np.ndarray]] = field(default_factory=dict)
    joints: np.ndarray = field(default_factory=lambda: np.zeros(len(JOINTS)))
    joints_root: np.ndarray = field(default_factory=lambda: np.zeros(len(JOINTS)))
    pck_joints: np.ndarray | float = 0.0
    pck_vertices: np.ndarray | float = 0.0

    def add(self, **columns: np.ndarray) -> None:
        for name, values in columns.items():
            self.samples.setdefault(name, []).append(values)


def score(predictions: Predictions, data: EvaluationSet) -> Scores:
    """Every metric that applies.

    Args:
        predictions: as many as hands, finite.

    Raises:
        UserError: another number of hands, or one that is not finite, with its index.
    """
    expect_finite(predictions, data)
    has_mesh = predictions.vertices_m is not None and data.vertices_m is not None
    is_own = has_mesh and predictions.topology == data.topology and predictions.vertices_m.shape == data.vertices_m.shape  # pyright: ignore
    is_placed = _is_placed(predictions.joints_m)
    sums = _Sums()
    for start in range(0, len(data), _BLOCK):
        rows = slice(start, start + _BLOCK)
        fits = joint_fits = _score_joints(
            sums, predictions.joints_m[rows], data.joints_m[rows], None if data.K is None else data.K[rows], is_placed
        )
        if has_mesh:
            ours_m, true_m = predictions.vertices_m[rows], data.vertices_m[rows]  # pyright: ignore
            if is_own:
                roots = [(name, predictions.joints_m[rows, at], data.joints_m[rows, at]) for name, at in (("root", ROOT), ("wrist", WRIST))]
                fits = _score_vertices(sums, ours_m, true_m, roots)
            _score_clouds(sums, ours_m, true_m, fits, is_own)
        sums.add(mirrors=joint_fits[0].mirrors)
    samples = {name: np.concatenate(parts) for name, parts in sums.samples.items()}
    mirrors = samples.pop("mirrors").astype(bool)
    acceleration = None
    if data.sequence is not None:
        errors = acceleration_errors(predictions.joints_m, data.joints_m, data.sequence, data.rate_hz)
        acceleration = _UNIT_MM * float(errors.mean()) if len(errors) else None
    count = len(data)
    return Scores(
        samples={metric.name: samples[metric.name] for metric in METRICS if metric.name in samples},
        joint_errors_mm=_UNIT_MM * sums.joints / count,
        joint_errors_root_mm=_UNIT_MM * sums.joints_root / count,
        pck_joints=np.asarray(sums.pck_joints) / count,
        pck_vertices=np.asarray(sums.pck_vertices) / count if is_own else None,
        f_alignment=("mesh" if is_own else "joints") if has_mesh else None,
        acceleration_mm_s2=acceleration,
        warnings=tuple(_warnings(predictions, data, samples, mirrors, is_own, is_placed)),
    )


def _is_placed(joints_m: np.ndarray) -> bool:
    """Whether hands are in front of a camera, farther away than they are long, rather than relative to a joint."""
    return bool(np.median(joints_m[:, ROOT, 2]) > np.median(np.ptp(joints_m, axis=1).max(axis=1)))


def expect_finite(predictions: Predictions, data: EvaluationSet) -> None:
    """One finite prediction for each hand.

    Raises:
        UserError: it is not so.
    """
    for name, values, shape in (
        ("joints", predictions.joints_m, (len(data), len(JOINTS), 3)),
        ("vertices", predictions.vertices_m, (len(data), None, 3)),
    ):
        if values is None:
            continue
        if values.ndim != 3 or any(want not in (None, got) for want, got in zip(shape, values.shape, strict=True)):
            raise UserError(f"expected predicted {name} of shape {shape}".replace("None", "V") + f", got {values.shape}; one for each hand")
        bad = ~np.isfinite(values).all(axis=(1, 2))
        if bad.any():
            raise UserError(f"expected finite {name}, got nan or infinity in prediction {int(np.argmax(bad))}; mend what made them")


def _score_joints(
    sums: _Sums, ours_m: np.ndarray, true_m: np.ndarray, K: np.ndarray | None, is_placed: bool
) -> tuple[Similarity, Similarity]:
    """Everything about joints; gives their official and proper alignments."""
    fits = _fit_both(ours_m, true_m)
    for fit, named in zip(fits, (str, proper_name), strict=True):
        errors_m = distances(fit(ours_m), true_m)
        sums.add(**{named("pa_mpjpe_mm"): _mean_mm(errors_m), named("auc_joints_aligned"): pck_auc(errors_m)})
        if fit is fits[0]:
            sums.joints += errors_m.sum(axis=0)
            sums.pck_joints += pck_curve(errors_m) * len(errors_m)
    for name, at in (("root", ROOT), ("wrist", WRIST)):
        errors_m = distances(relative_to(ours_m, ours_m[:, at]), relative_to(true_m, true_m[:, at]))
        sums.add(**{f"mpjpe_{name}_mm": _mean_mm(errors_m)})
        if at == ROOT:
            sums.joints_root += errors_m.sum(axis=0)
    errors_m = distances(ours_m, true_m)
    sums.add(mpjpe_camera_mm=_mean_mm(errors_m), auc_joints=pck_auc(errors_m))
    if is_placed:
        away_m = ours_m[:, ROOT] - true_m[:, ROOT]
        sums.add(translation_mm=_UNIT_MM * np.linalg.norm(away_m, axis=1), depth_mm=_UNIT_MM * np.abs(away_m[:, 2]))
    if is_placed and K is not None:
        true_px = projected(true_m, K)
        errors_px = distances(projected(ours_m, K), true_px).mean(axis=1)
        sums.add(keypoints_px=errors_px, keypoints_share=errors_px / np.ptp(true_px, axis=1).max(axis=1))
    return fits


def _score_vertices(
    sums: _Sums, ours_m: np.ndarray, true_m: np.ndarray, roots: list[tuple[str, np.ndarray, np.ndarray]]
) -> tuple[Similarity, Similarity]:
    """Everything that compares vertices of one index; gives the mesh's official and proper alignments."""
    fits = _fit_both(ours_m, true_m)
    for fit, named in zip(fits, (str, proper_name), strict=True):
        errors_m = distances(fit(ours_m), true_m)
        sums.add(**{named("pa_mpvpe_mm"): _mean_mm(errors_m), named("auc_vertices_aligned"): pck_auc(errors_m)})
        if fit is fits[0]:
            sums.pck_vertices += pck_curve(errors_m) * len(errors_m)
    for name, our_root_m, true_root_m in roots:
        errors_m = distances(relative_to(ours_m, our_root_m), relative_to(true_m, true_root_m))
        sums.add(**{f"mpvpe_{name}_mm": _mean_mm(errors_m)})
    errors_m = distances(ours_m, true_m)
    sums.add(mpvpe_camera_mm=_mean_mm(errors_m), auc_vertices=pck_auc(errors_m))
    return fits


def _score_clouds(sums: _Sums, ours_m: np.ndarray, true_m: np.ndarray, fits: tuple[Similarity, Similarity], same_topology: bool) -> None:
    """F, which asks nothing of topology."""
    official, proper = fits
    raw, aligned = (f_scores(points_m, true_m, same_topology=same_topology) for points_m in (ours_m, official(ours_m)))
    unmirrored = aligned.copy()
    # Where the best alignment mirrors nothing, the two are one.
    differ = official.mirrors
    if differ.any():
        unmirrored[differ] = f_scores(proper(ours_m)[differ], true_m[differ], same_topology=same_topology)
    for at, name in enumerate(("f_5mm", "f_15mm")):
        sums.add(**{name: raw[:, at], f"{name}_aligned": aligned[:, at], proper_name(f"{name}_aligned"): unmirrored[:, at]})


def _fit_both(ours_m: np.ndarray, true_m: np.ndarray) -> tuple[Similarity, Similarity]:
    return fit_officially(ours_m, true_m), fit_similarity(ours_m, true_m)


def _mean_mm(errors_m: np.ndarray) -> np.ndarray:
    return _UNIT_MM * errors_m.mean(axis=1)


def _warnings(
    predictions: Predictions, data: EvaluationSet, samples: dict[str, np.ndarray], mirrors: np.ndarray, is_own: bool, is_placed: bool
) -> list[str]:
    lines = []
    if mirrors.any():
        official, proper = (float(samples[name].mean()) for name in ("pa_mpjpe_mm", "pa_mpjpe_proper_mm"))
        lines.append(
            f"the official alignment mirrors {int(mirrors.sum())} of {len(data)} hands, which no hand can do: "
            f"PA-MPJPE is {official:.2f} mm by it, {proper:.2f} mm without reflections"
        )
    if not is_placed:
        lines.append(
            "these hands are relative to a joint, not placed in the camera: unaligned numbers measure the distance to the camera "
            "(about 70 cm on FreiHAND), not the hand; read the aligned and the root-relative ones"
        )
    if predictions.vertices_m is not None and not is_own:
        if data.vertices_m is None:
            lines.append("this data has no meshes: joints alone are scored")
        else:
            lines.append(
                f"the predicted mesh ({predictions.topology}, {predictions.vertices_m.shape[1]} vertices) is not the truth's "
                f"({data.topology}, {data.vertices_m.shape[1]}): no vertex has a twin to be compared with, and F is aligned by the joints"
            )
    return lines


def truth_sha256(data: EvaluationSet) -> str:
    """What tells one truth from another: of its joints to the micrometre."""
    return hashlib.sha256(np.rint(data.joints_m * 1e6).astype("<i8").tobytes()).hexdigest()


def scores_to_json(name: str, scores: Scores, data: EvaluationSet, **more: Any) -> dict[str, Any]:
    """What scores.json holds: means, official numbers, and every hand's, so that methods can be compared hand by hand."""
    return {
        "format": SCORES_FORMAT,
        "name": name,
        "data": {"name": data.name, "hands": len(data), "sha256": truth_sha256(data)},
        **more,
        "f_alignment": scores.f_alignment,
        "warnings": list(scores.warnings),
        "official": {key: None if math.isnan(value) else value for key, value in scores.official.items()},
        "scores": {metric.name: scores.mean(metric.name) for metric in METRICS},
        "joint_errors_mm": dict(zip(JOINTS, scores.joint_errors_mm.tolist(), strict=True)),
        "joint_errors_root_mm": dict(zip(JOINTS, scores.joint_errors_root_mm.tolist(), strict=True)),
        "finger_errors_mm": scores.finger_errors_mm,
        "samples": {name: values.tolist() for name, values in scores.samples.items()},
    }


def official_text(scores: Scores) -> str:
    """What scores.txt holds, as FreiHAND's script writes it; distances in centimetres."""
    missing = why_missing("pa_mpvpe_mm", scores.f_alignment)
    return "".join(f"{key}: {missing if math.isnan(value) else format(value, 'f')}\n" for key, value in scores.official.items())


def why_missing(name: str, f_alignment: str | None) -> str:
    """What stands for a metric that there is no number of, by what F was aligned to (`Scores.f_alignment`)."""
    if "mpvpe" not in name and "vertices" not in name and not name.startswith("f_"):
        return "n/a"
    return NOT_APPLICABLE if f_alignment == "joints" else "n/a (no mesh)"
