"""A network on the validation split of packed photographs: agreement with MediaPipe's landmarks, side, and presence."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import track
from score_tables import TextTable

from handmesh.errors import UserError, one_line
from handmesh.geometry.camera import camera_from_focal
from handmesh.geometry.crop import CROP_PADDING, crop_box, crop_points, mirror_picture
from handmesh.hand_model import HandModel
from handmesh.photographs import FOCAL_OVER_SIZE, VALIDATION, PhotographReader
from handmesh.placement import place_hand
from handmesh.records import Detection
from handmesh.runtime import Predictor
from handmesh.tracking import Track

CHECKED = Path(__file__).resolve().parent.parent / "docs" / "photographs_checked.csv"


@dataclass(frozen=True)
class PhotographScores:
    """What a network scored on N hands and M images without one.

    Attributes:
        origins: (N,) names of their origins.
        is_checked: (N,) bool: a person looked at the landmarks and the side and found them right.
        moved: (N,) mean distance of `Hand.landmarks_px` to the landmarks, over the larger side of their box.
        plain: (N,) that of the keypoints as they are.
        side_hit: (N,) fraction of the image and its mirror image whose side is told.
        present_hit: (N,) whether a hand is seen.
        absent_hit: (M,) whether none is seen.
    """

    origins: np.ndarray
    is_checked: np.ndarray
    moved: np.ndarray
    plain: np.ndarray
    side_hit: np.ndarray
    present_hit: np.ndarray
    absent_hit: np.ndarray


def read_checked(path: Path) -> set[str]:
    """Names of the files that a person found right.

    Raises:
        UserError: no table with the columns file and checked.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return {row["file"] for row in csv.DictReader(file) if row["checked"] == "ok"}
    except (OSError, UnicodeDecodeError, KeyError, csv.Error) as error:
        raise UserError(f"expected a table with the columns file and checked in '{path}', but: {one_line(error)}; mend it") from error


def score_photographs(reader: PhotographReader, model: HandModel, predictor: Predictor, checked: set[str]) -> PhotographScores:
    """Look at every photograph of the validation split, from a crop around the given landmarks.

    Args:
        checked: names of files whose labels are known to be right.

    Raises:
        UserError: no hand to validate with.
    """
    size_px, stored_px = predictor.info.input_size_px, reader.size_px
    rows, absent_hit = [], []
    for index in track(reader.of_split(VALIDATION), "photographs"):
        label, image = reader.labels[index], reader.images(np.array([index]))[0]
        if label["presence"] == 0:
            # The whole square was kept of these, as large as a crop.
            margin_px = stored_px * (1 - 1 / CROP_PADDING) / 2
            box_px = np.array([margin_px, margin_px, stored_px - 1 - margin_px, stored_px - 1 - margin_px])
            camera = camera_from_focal(stored_px, stored_px, FOCAL_OVER_SIZE * stored_px)
            absent_hit.append(float(predictor(crop_box(box_px, image, camera, size_px).image[None])[0].presence <= 0.5))
            continue
        camera, landmarks_px = camera_from_focal(stored_px, stored_px, float(label["focal_px"])), label["landmarks_px"]
        crop = crop_points(landmarks_px, image, camera, size_px)
        params, flipped = predictor(np.stack([crop.image, mirror_picture(crop.image)]))
        box_px = np.concatenate([landmarks_px.min(axis=0), landmarks_px.max(axis=0)])
        hand = place_hand(model, params, crop, camera, Track(0, Detection(box_px, True, 1.0), 0.0, 0.0))

        def distance(points_px: np.ndarray, landmarks_px: np.ndarray = landmarks_px) -> float:
            return float(np.linalg.norm(points_px - landmarks_px, axis=1).mean() / np.ptp(landmarks_px, axis=0).max())

        rows.append(
            (
                reader.origins[label["origin"]].name,
                label["file"].decode() in checked,
                distance(hand.landmarks_px),
                distance(hand.keypoints_px),
                ((params.right_logit > 0) + (flipped.right_logit < 0)) / 2,
                float(params.presence > 0.5),
            )
        )
    if not rows:
        raise UserError(f"expected hands to validate with in '{reader.folder}', got none; pack a set with a validation split")
    return PhotographScores(*map(np.array, zip(*rows, strict=True)), absent_hit=np.array(absent_hit))


def photograph_table(scores: PhotographScores) -> TextTable:
    """A row for all hands, for those whose labels a person found right, and for each origin."""
    groups = {"all": np.ones(len(scores.origins), bool)}
    if scores.is_checked.any():
        groups["labels checked by eye"] = scores.is_checked
    groups |= {str(name): scores.origins == name for name in np.unique(scores.origins)}

    def row(name: str, mask: np.ndarray) -> tuple[str, ...]:
        distances = [np.quantile(values[mask], quantile) for values in (scores.moved, scores.plain) for quantile in (0.5, 0.95)]
        hits = [f"{100 * hit[mask].mean():.1f}" for hit in (scores.side_hit, scores.present_hit)]
        return (name, str(mask.sum()), *(f"{value:.4f}" for value in distances), *hits)

    rows = [row(name, mask) for name, mask in groups.items()]
    if len(scores.absent_hit):
        rows.append(("without a hand", str(len(scores.absent_hit)), *["-"] * 5, f"{100 * scores.absent_hit.mean():.1f}"))
    columns = ("", "images", "moved keypoints, median", "95 %", "plain keypoints, median", "95 %", "side %", "presence %")
    return TextTable("Photographs: distance to MediaPipe's landmarks over the box", columns, tuple(rows))


def summary(scores: PhotographScores) -> dict[str, float | int | None]:
    """The row of all hands, for a file of numbers."""
    return {
        "hands": len(scores.origins),
        **{f"{name}_{q}": float(np.quantile(getattr(scores, name), q / 100)) for name in ("moved", "plain") for q in (50, 95)},
        "side": float(scores.side_hit.mean()),
        "presence_on_hands": float(scores.present_hit.mean()),
        "presence_on_none": float(scores.absent_hit.mean()) if len(scores.absent_hit) else None,
    }
