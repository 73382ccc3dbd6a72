"""A contact sheet: what the pictures look like and whether their labels fit."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from handmesh.errors import UserError
from handmesh.skeleton import BONES
from handmesh.synthetic.shards import ShardReader
from handmesh.synthetic.surface import FOREARM_PART
from handmesh.wholefile import replacing

_COLUMNS, _ROWS = 10, 5
_FINGER_RGB = ((230, 60, 60), (240, 190, 40), (70, 200, 70), (60, 150, 240), (190, 90, 230))


def draw_sheet(pictures: ShardReader, path: Path) -> None:
    """Write the first pictures, plain above and with skeleton and parts below, as a PNG."""
    shown = np.arange(min(_COLUMNS * _ROWS, len(pictures)))
    images, parts, labels = pictures.images(shown), pictures.parts(shown), pictures.labels(shown)
    marked = np.stack([mark_labels(*sample) for sample in zip(images, parts, labels, strict=True)])
    sheet = np.concatenate([_tile(images), _tile(marked)])
    code = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))[1]
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(code.tobytes())
    except OSError as error:
        raise UserError(f"expected to write the sheet to '{path}', but: {error.strerror}; choose another --sheet") from error


def _tile(images: np.ndarray) -> np.ndarray:
    size = images.shape[1]
    tiles = np.zeros((_ROWS * _COLUMNS, size, size, 3), np.uint8)
    tiles[: len(images)] = images
    return tiles.reshape(_ROWS, _COLUMNS, size, size, 3).swapaxes(1, 2).reshape(_ROWS * size, _COLUMNS * size, 3)


def mark_labels(image: np.ndarray, parts: np.ndarray, label: np.ndarray) -> np.ndarray:
    """The picture (S, S, 3) with its parts tinted and its skeleton drawn; hidden joints hollow, pictures without a hand framed."""
    size = len(image)
    tint = cv2.applyColorMap((parts.astype(np.uint16) * 255 // FOREARM_PART).astype(np.uint8), cv2.COLORMAP_HSV)[..., ::-1]
    tint = cv2.resize(tint, (size, size), interpolation=cv2.INTER_NEAREST)
    is_part = cv2.resize(parts, (size, size), interpolation=cv2.INTER_NEAREST)[..., None] > 0
    marked = np.ascontiguousarray(np.where(is_part, (0.6 * image + 0.4 * tint).astype(np.uint8), image))
    frame = {1: None, 0: (220, 40, 40), -1: (240, 220, 40)}[int(label["presence"])]
    if frame is not None:
        cv2.rectangle(marked, (0, 0), (size - 1, size - 1), frame, 2)
    if not label["focal_px"]:
        return marked
    # cv2 counts pixels in sixteenths when shift is 4.
    points = np.clip(np.rint(label["keypoints_px"] * 16), -30000, 30000).astype(int)
    for number, (child, parent) in enumerate(BONES):
        cv2.line(marked, points[child].tolist(), points[parent].tolist(), _FINGER_RGB[number // 4], 1, cv2.LINE_AA, 4)
    for point, is_visible in zip(points, label["visible"], strict=True):
        cv2.circle(marked, point.tolist(), 24, (255, 255, 255), -1 if is_visible else 1, cv2.LINE_AA, 4)
    return marked
