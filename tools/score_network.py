"""What an exported network scores on rendered sets and photographs, and how still it is: one look at each image, 32 bits.

    python tools/score_network.py NET.onnx [--set DIR ...] [--every N] [--photographs DIR] [--jitter VIDEO [--frame N]]
        [--json FILE] [--card docs/model_card.md]

A set is one of handmesh-synth in FreiHAND's layout. Crops are those of run time around the labels' keypoints, mirrored where the label
says left. Pictures that no hand was drawn in give the square in their middle. Needs SciPy (the `test` extra).

Hands are the pictures whose presence is 1. For each of them: joints and mesh aligned separately by a similarity without reflection
(PA-), or relative to the root joint; F at 5 and 15 mm of the aligned mesh; area under the curve of aligned joints within 0-50 mm;
keypoints in the picture over the larger side of the labels' box; and whether the side is told, both as it is and mirrored. Behind ±
is half of the 95 % interval of the mean, from the standard error over hands.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from score_photographs import CHECKED, photograph_table, read_checked, score_photographs, summary
from score_tables import TextTable, split_at_marks, to_markdown, to_rich, write_between_marks
from score_video import JitterScores, measure_jitter

from handmesh.cli import guard
from handmesh.errors import UserError
from handmesh.evaluation.metrics import distances, f_scores, pck_auc
from handmesh.geometry.alignment import procrustes
from handmesh.geometry.camera import ASSUMED_FOV_DEG, camera_from_focal, camera_from_fov
from handmesh.geometry.crop import CROP_PADDING, crop_box, crop_points, mirror_picture
from handmesh.hand_model import HandModel, load_hand_model
from handmesh.hand_model.skinning import mirror_points, skin_at
from handmesh.photographs import PhotographReader
from handmesh.placement import place_hand
from handmesh.records import Crop, Detection, Hand, HandParams
from handmesh.runtime import Predictor
from handmesh.skeleton import ROOT
from handmesh.synthetic import shares
from handmesh.synthetic.freihand_layout import LayoutReader
from handmesh.synthetic.scene import POSE_KINDS
from handmesh.synthetic.sets import model_sha256
from handmesh.synthetic.sheet import Pictures
from handmesh.synthetic.stats import TONE_STEPS, tone_step, view_directions
from handmesh.tracking import Track
from handmesh.wholefile import replacing

# Share of the hand's silhouette that is seen, from the first to the second.
SEEN_STEPS = ((0.9, 1.0), (0.7, 0.9), (0.4, 0.7), (0.0, 0.4))
# Within 45 degrees of the fingers' line; within 60 of the picture's upright.
POINTING_COSINE, UPRIGHT_COSINE = math.cos(math.radians(45)), 0.5
# 95 % of a normal distribution.
_DEVIATIONS = 1.96


@dataclass(frozen=True)
class Metric:
    """A column of scores.

    Attributes:
        name: its field in SCORE_DTYPE.
        heading: for readers.
        factor: from the column's unit to the heading's.
        digits: after the point.
        is_share: a hit or a miss of each hand, rather than a size.
    """

    name: str
    heading: str
    factor: float = 1.0
    digits: int = 2
    is_share: bool = False


METRICS = (
    Metric("pa_mpjpe_mm", "PA-MPJPE mm"),
    Metric("pa_mpvpe_mm", "PA-MPVPE mm"),
    Metric("mpjpe_mm", "MPJPE mm"),
    Metric("mpvpe_mm", "MPVPE mm"),
    Metric("f_5mm", "F@5", digits=3),
    Metric("f_15mm", "F@15", digits=3),
    Metric("auc", "AUC", digits=3),
    Metric("keypoints_share", "2D % of box", 100),
    Metric("presence_hit", "present %", 100, 1, is_share=True),
    Metric("right_hit", "side %", 100, 1, is_share=True),
)
SCORE_DTYPE = np.dtype([(metric.name, "f8") for metric in METRICS])


@dataclass(frozen=True)
class SetScores:
    """What a network scored on one set.

    Attributes:
        name: of the set's folder.
        pictures: how many were looked at, without those whose presence is not scored.
        labels: (N,) LABEL_DTYPE of the hands that are present.
        is_left: (N,) bool.
        hands: (N,) SCORE_DTYPE.
        hidden_hit: (H,) 1 where a hand that is hardly to be seen was called absent.
        empty_hit: (M,) 1 where a picture without a hand was called so.
    """

    name: str
    pictures: int
    labels: np.ndarray
    is_left: np.ndarray
    hands: np.ndarray
    hidden_hit: np.ndarray
    empty_hit: np.ndarray


@dataclass(frozen=True)
class Mean:
    """A mean over `count` pictures and half of its 95 % interval; nan for none."""

    value: float
    half_width: float
    count: int


def mean_of(values: np.ndarray, is_share: bool = False) -> Mean:
    """Mean and standard error of (N,) values.

    Args:
        is_share: values are hits in 0..1. Their spread is that of a share with one more hit and one more miss, so that a few
            hits alone are no certainty.
    """
    count = len(values)
    if count == 0:
        return Mean(math.nan, math.nan, 0)
    smoothed = (values.sum() + 1) / (count + 2)
    variance = smoothed * (1 - smoothed) if is_share else values.var(ddof=1) if count > 1 else math.nan
    return Mean(float(values.mean()), float(_DEVIATIONS * math.sqrt(variance / count)), count)


def balanced(present: Mean, absent: Mean) -> Mean:
    """The mean of two recalls."""
    half_width = math.hypot(present.half_width, absent.half_width) / 2
    return Mean((present.value + absent.value) / 2, half_width, present.count + absent.count)


def true_hand(model: HandModel, label: np.ndarray, is_left: bool) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) and joints (21, 3) of () LABEL_DTYPE in the picture's camera, in metres."""
    params = HandParams(label["rotmats"], label["betas"], np.zeros(3), 1.0, 0.0)
    vertices_m, joints_m = skin_at(model, params, label["root_m"])
    return (mirror_points(vertices_m), mirror_points(joints_m)) if is_left else (vertices_m, joints_m)


def score_hand(model: HandModel, hand: Hand, label: np.ndarray, is_left: bool, flipped_logit: float) -> tuple[float, ...]:
    """One row of SCORE_DTYPE.

    Args:
        hand: as the network sees it, in the picture's camera.
        label: () LABEL_DTYPE.
        flipped_logit: `right_logit` of the mirrored crop.
    """
    true_vertices_m, true_joints_m = (points_m.astype(np.float64) for points_m in true_hand(model, label, is_left))
    vertices_m, joints_m = hand.vertices_m.astype(np.float64), hand.joints_m.astype(np.float64)
    aligned_vertices_m = procrustes(vertices_m[None], true_vertices_m[None])[0]
    aligned_joints_m = procrustes(joints_m[None], true_joints_m[None])[0]
    joint_errors_m = distances(aligned_joints_m, true_joints_m)
    root_error_m = joints_m[ROOT] - true_joints_m[ROOT]

    def distance_mm(ours_m: np.ndarray, true_m: np.ndarray) -> float:
        return 1e3 * float(distances(ours_m, true_m).mean())

    box_px = np.ptp(label["keypoints_px"], axis=0).max()
    return (
        1e3 * float(joint_errors_m.mean()),
        distance_mm(aligned_vertices_m, true_vertices_m),
        distance_mm(joints_m - root_error_m, true_joints_m),
        distance_mm(vertices_m - root_error_m, true_vertices_m),
        *f_scores(aligned_vertices_m[None], true_vertices_m[None], same_topology=True)[0],
        float(pck_auc(joint_errors_m)),
        float(np.linalg.norm(hand.keypoints_px - label["keypoints_px"], axis=1).mean() / box_px),
        float(hand.params.presence > 0.5),
        ((hand.params.right_logit > 0) + (flipped_logit < 0)) / 2,
    )


def crop_picture(image: np.ndarray, label: np.ndarray, is_left: bool, size_px: int) -> Crop:
    """The network's view of a labelled picture: around its keypoints, or the square in the middle where no hand was drawn."""
    height, width = image.shape[:2]
    if shares.has_hand(label):
        camera = camera_from_focal(width, height, float(label["focal_px"]))
        return crop_points(label["keypoints_px"], image, camera, size_px, is_left)
    middle_px, half_px = np.array([width - 1, height - 1]) / 2, min(width, height) / CROP_PADDING / 2
    box_px = np.concatenate([middle_px - half_px, middle_px + half_px])
    return crop_box(box_px, image, camera_from_fov(width, height, ASSUMED_FOV_DEG, is_known=False), size_px)


def score_set(pictures: Pictures, name: str, model: HandModel, predictor: Predictor, every: int = 1) -> SetScores:
    """Look at every n-th picture.

    Raises:
        UserError: none of them shows a hand.
    """
    labels = np.asarray(pictures.labels())
    chosen = [index for index in range(0, len(labels), every) if labels["presence"][index] >= 0]
    hands, scores, hidden_hit, empty_hit = [], [], [], []
    for index in track(chosen, name):
        label, is_left, image = labels[index], pictures.is_left(index), pictures.image(index)
        crop = crop_picture(image, label, is_left, predictor.info.input_size_px)
        if label["presence"] == 0:
            hit = float(predictor(crop.image[None])[0].presence <= 0.5)
            (hidden_hit if shares.has_hand(label) else empty_hit).append(hit)
            continue
        params, flipped = predictor(np.stack([crop.image, mirror_picture(crop.image)]))
        height, width = image.shape[:2]
        camera = camera_from_focal(width, height, float(label["focal_px"]))
        keypoints_px = label["keypoints_px"]
        box_px = np.concatenate([keypoints_px.min(axis=0), keypoints_px.max(axis=0)])
        hand = place_hand(model, params, crop, camera, Track(0, Detection(box_px, not is_left, 1.0), 0.0, 0.0))
        hands.append((index, is_left))
        scores.append(score_hand(model, hand, label, is_left, flipped.right_logit))
    if not hands:
        raise UserError(f"expected pictures of hands in '{name}', got {len(chosen)} without one; take a larger set or a smaller --every")
    indices, is_left = (np.array(column) for column in zip(*hands, strict=True))
    return SetScores(name, len(chosen), labels[indices], is_left, np.array(scores, SCORE_DTYPE), np.array(hidden_hit), np.array(empty_hit))


def groups_of(labels: np.ndarray, is_left: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """Which of (N,) present hands belong to each group, (N,) bool, by what they are grouped by. Each grouping divides all hands."""
    tone, seen = tone_step(labels["tone"]), labels["seen"]
    fingers_to_camera = -view_directions(labels)[:, 0]
    # Fingers are -x of the hand, up is -y of the picture.
    is_upright = labels["rotmats"][:, 0, 1, 0] > UPRIGHT_COSINE
    facing = np.select(
        [fingers_to_camera > POINTING_COSINE, fingers_to_camera < -POINTING_COSINE, shares.edge_on(labels), shares.palm_cosine(labels) < 0],
        ["pointing at the camera", "pointing away", "edge-on", "palm"],
        "back",
    )
    views = ("palm", "back", "edge-on", "pointing at the camera", "pointing away")
    return {
        "Monk tone": {str(step + 1): tone == step for step in range(TONE_STEPS)},
        "pose": {kind: labels["pose"] == number for number, kind in enumerate(POSE_KINDS)},
        "view": {view: facing == view for view in views},
        "fingers": {"up in the picture": is_upright, "other ways": ~is_upright},
        "share seen": {f"{low:g}-{high:g}": (seen > low if low else seen >= 0) & (seen <= high) for low, high in SEEN_STEPS},
        "side": {"right": ~is_left, "left": is_left},
    }


def means_of(hands: np.ndarray) -> dict[str, Mean]:
    """Each metric over (N,) SCORE_DTYPE, in the units of the columns."""
    return {metric.name: mean_of(hands[metric.name], metric.is_share) for metric in METRICS}


def presence_of(scores: SetScores) -> dict[str, Mean]:
    """How well presence is told: recall of either answer, their mean, and the plain share of right answers."""
    absent_hit = np.concatenate([scores.hidden_hit, scores.empty_hit])
    present, absent = (mean_of(hit, is_share=True) for hit in (scores.hands["presence_hit"], absent_hit))
    return {
        "balanced": balanced(present, absent),
        "all": mean_of(np.concatenate([scores.hands["presence_hit"], absent_hit]), is_share=True),
        "present": present,
        "absent": absent,
        "absent, a hand is hidden": mean_of(scores.hidden_hit, is_share=True),
        "absent, no hand": mean_of(scores.empty_hit, is_share=True),
    }


def summary_table(every_set: Sequence[SetScores]) -> TextTable:
    """Every metric of every set, with its interval."""
    means = [means_of(scores.hands) for scores in every_set]
    presence = [presence_of(scores) for scores in every_set]
    rows: list[tuple[str, ...] | None] = [("hands", *(str(len(scores.hands)) for scores in every_set))]
    for metric in METRICS:
        if metric.name == "presence_hit":
            rows += [
                (f"presence %, {name} (n)", *(f"{_cell(of_set[name], 100, 1)} ({of_set[name].count})" for of_set in presence))
                for name in presence[0]
            ]
        else:
            rows.append((metric.heading, *(_cell(of_set[metric.name], metric.factor, metric.digits) for of_set in means)))
    return TextTable("All hands", ("", *(scores.name for scores in every_set)), tuple(rows))


def group_table(scores: SetScores) -> TextTable:
    """A row for each group of hands; only the first metric has its interval here."""
    rows: list[tuple[str, ...] | None] = [_group_row("all", scores.hands)]
    for by, groups in groups_of(scores.labels, scores.is_left).items():
        rows += [None, *(_group_row(f"{by}: {name}", scores.hands[mask]) for name, mask in groups.items())]
    return TextTable(f"{scores.name} by group", ("", "hands", *(metric.heading for metric in METRICS)), tuple(rows))


def _group_row(name: str, hands: np.ndarray) -> tuple[str, ...]:
    means = means_of(hands)
    cells = [_cell(means[metric.name], metric.factor, metric.digits, with_interval=metric is METRICS[0]) for metric in METRICS]
    return (name, str(len(hands)), *cells)


def _cell(mean: Mean, factor: float, digits: int, with_interval: bool = True) -> str:
    if mean.count == 0:
        return "-"
    text = f"{factor * mean.value:.{digits}f}"
    return f"{text} ± {factor * mean.half_width:.{digits}f}" if with_interval and not math.isnan(mean.half_width) else text


def jitter_table(jitter: JitterScores) -> TextTable:
    """What was measured on one frame of a video."""
    row = (f"jitter, RMS of {jitter.draws} draws of noise of {jitter.noise_sd:g}/255", f"{jitter.rms_mm:.3f} mm")
    return TextTable("One frame of a video", ("", "value"), (row,))


def caption_of(path: Path, predictor: Predictor, every: int) -> str:
    """Which network, and how much of the sets it saw."""
    info = predictor.info
    share = "" if every == 1 else f"; only one picture in {every} of the sets"
    return (
        f"{path.name} (SHA-256 {file_sha256(path)[:12]}): {info.variant}, crops of {info.input_size_px} px, OpenVINO f32, one look{share}."
    )


def file_sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def to_json(path: Path, predictor: Predictor, every: int, every_set: Sequence[SetScores], extras: dict[str, Any]) -> str:
    """Everything that the tables say, unrounded; no number is null."""
    sets = [
        {
            "name": scores.name,
            "pictures": scores.pictures,
            "all": _plain(means_of(scores.hands)),
            "presence": _plain(presence_of(scores)),
            "groups": {
                by: {name: _plain(means_of(scores.hands[mask])) for name, mask in groups.items()}
                for by, groups in groups_of(scores.labels, scores.is_left).items()
            },
        }
        for scores in every_set
    ]
    network = {
        "file": path.name,
        "sha256": file_sha256(path),
        **{key: getattr(predictor.info, key) for key in ("variant", "input_size_px", "hand_model")},
    }
    return json.dumps({"network": network, "every": every, "sets": sets, **extras}, indent=1) + "\n"


def _plain(means: dict[str, Mean]) -> dict[str, dict[str, float | int | None]]:
    return {name: {key: None if math.isnan(value) else value for key, value in asdict(mean).items()} for name, mean in means.items()}


def open_set(folder: Path, model: HandModel) -> LayoutReader:
    """A set whose labels are this model's.

    Raises:
        UserError: no set in FreiHAND's layout, or one of another hand model.
    """
    pictures = LayoutReader(folder)
    found = pictures.manifest["hand_model"]
    if found != model.id or pictures.manifest.get("hand_model_sha256", model_sha256(model)) != model_sha256(model):
        raise UserError(f"expected a set of the hand model '{model.id}' as it is here, got '{folder}' of another '{found}'; draw it anew")
    return pictures


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="score_network", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("network", type=Path, help="an .onnx file of handmesh-export")
    parser.add_argument("--set", dest="sets", type=Path, action="append", default=[], help="a set in FreiHAND's layout; may be repeated")
    parser.add_argument("--every", type=int, default=1, help="look at every n-th picture of the sets")
    parser.add_argument("--photographs", type=Path, help="what pack_photographs.py wrote; its validation split is looked at")
    parser.add_argument("--jitter", type=Path, help="a video, of one frame of which noisy copies are compared")
    parser.add_argument("--frame", type=int, default=0, help="number of that frame")
    parser.add_argument("--hand-model", default="open", help="'open', 'mano' or an .npz: the one that the network was trained for")
    parser.add_argument("--threads", type=int, default=0, help="of the network; 0 lets the runtime choose")
    parser.add_argument("--json", type=Path, help="write all numbers here")
    parser.add_argument("--card", type=Path, help="write the tables into this markdown file, between its marks")
    arguments = parser.parse_args(argv)
    if not (arguments.sets or arguments.photographs or arguments.jitter):
        raise UserError("expected something to look at, got none; give --set, --photographs or --jitter")
    if arguments.every < 1 or arguments.frame < 0:
        raise UserError(f"expected --every from 1 and --frame from 0 on, got {arguments.every} and {arguments.frame}; leave them out")
    if arguments.card:
        split_at_marks(arguments.card)
    if arguments.json and not arguments.json.resolve().parent.is_dir():
        raise UserError(f"expected a folder that is there for --json, got '{arguments.json}'; make it first")

    model = load_hand_model(arguments.hand_model)
    predictor = Predictor(arguments.network, model.id, "openvino", "f32", arguments.threads)
    opened = [(folder.resolve().name, open_set(folder, model)) for folder in arguments.sets]
    reader = PhotographReader(arguments.photographs) if arguments.photographs else None
    every_set = [score_set(pictures, name, model, predictor, arguments.every) for name, pictures in opened]
    photographs = score_photographs(reader, model, predictor, read_checked(CHECKED)) if reader else None
    jitter = measure_jitter(arguments.jitter, arguments.frame, model, predictor) if arguments.jitter else None

    tables = [summary_table(every_set), *map(group_table, every_set)] if every_set else []
    tables += [photograph_table(photographs)] if photographs else []
    tables += [jitter_table(jitter)] if jitter else []
    # Wide enough for the widest table, also where the output goes into a file.
    console, caption = Console(width=190), caption_of(arguments.network, predictor, arguments.every)
    console.print(caption)
    for table in tables:
        console.print(to_rich(table))
    if arguments.json:
        extras = {
            "photographs": photographs and summary(photographs),
            "jitter": jitter and asdict(jitter),
        }
        with replacing(arguments.json) as temporary:
            temporary.write_text(to_json(arguments.network, predictor, arguments.every, every_set, extras), encoding="utf-8")
    if arguments.card:
        write_between_marks(arguments.card, "\n".join([f"{caption}\n", *map(to_markdown, tables)]))


if __name__ == "__main__":
    sys.exit(guard("score_network", main))
