"""Packed photographs in the form of dots on dark squares: what tests train on and score instead of real ones."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from generated_shards import GeneratedShards

from handmesh.hand_model import HandModel
from handmesh.photographs import LABEL_DTYPE, TRAINING, VALIDATION, Origin, PhotographReader, write_photographs

# Side of a training crop; that of the stored squares is twice as large.
SIZE_PX = 64


def make_photographs(folder: Path, hand_model: HandModel, count: int = 40, with_params: bool = False) -> PhotographReader:
    """Dark squares with a bright dot at each landmark of a posed hand, of two origins and some without a hand."""
    hands = GeneratedShards(hand_model, count, 2 * SIZE_PX)
    shards = hands.labels(np.arange(count))
    labels = np.zeros(count, LABEL_DTYPE)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 20, (count, 2 * SIZE_PX, 2 * SIZE_PX, 3), dtype=np.uint8)
    for index in range(count):
        labels["file"][index] = f"hand_{index}.jpg".encode()
        labels["origin"][index], labels["split"][index] = index % 4 == 0, VALIDATION if index % 5 == 4 else TRAINING
        labels["rotmats"][index] = np.eye(3)
        if shards["presence"][index] == 0:
            continue
        labels["presence"][index], labels["has_side"][index], labels["focal_px"][index] = 1, True, 6.0 * SIZE_PX
        labels["weight_landmarks"][index] = 1.0 if index % 3 else 0.5
        # Half as large as the square, as packed hands are.
        points = shards["keypoints_px"][index]
        points = (points - (points.min(axis=0) + points.max(axis=0)) / 2) / np.ptp(points, axis=0).max() * SIZE_PX + SIZE_PX - 0.5
        labels["landmarks_px"][index] = points
        for x, y in points:
            cv2.circle(images[index], (round(float(x)), round(float(y))), 2, (255, 255, 255), -1)
        if with_params:
            labels["rotmats"][index], labels["betas"][index] = shards["rotmats"][index], shards["betas"][index]
            labels["weight_params"][index] = 0.25
    origins = [Origin("many", "MIT", 0.3), Origin("few", "CC BY 4.0")]
    write_photographs(folder, images, labels, origins, hand_model.id if with_params else None)
    return PhotographReader(folder)
