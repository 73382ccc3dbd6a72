"""A contact sheet: what the pictures look like and whether their labels fit."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from handmesh.errors import UserError
from handmesh.skeleton import BONES, FINGERS, MANO_JOINTS
from handmesh.synthetic.scene import POSE_KINDS
from handmesh.wholefile import replacing

FINGER_RGB = ((230, 60, 60), (240, 190, 40), (70, 200, 70), (60, 150, 240), (190, 90, 230))
ABSENT_RGB, UNSCORED_RGB = (230, 40, 40), (245, 220, 40)
_PALM_RGB, _FOREARM_RGB, _MASK_RGB = (225, 225, 225), (150, 110, 70), (0, 200, 230)
_TINT = 0.4
_SQUARE_GRID, _WIDE_GRID = (10, 5), (5, 4)
_WIDEST_ASPECT_OF_A_CROP = 1.15
_SHEET_PX = 2400
_GAP_PX = 12
_FONT = cv2.FONT_HERSHEY_SIMPLEX


class Pictures(Protocol):
    """A set on disk, whatever its layout. Numbers as in `scene.LABEL_DTYPE`; `keypoints_px` fit the picture as it is stored."""

    def __len__(self) -> int: ...
    def image(self, index: int, /) -> np.ndarray:
        """(H, W, 3) uint8 RGB."""
        ...

    def label(self, index: int, /) -> np.ndarray:
        """() LABEL_DTYPE."""
        ...

    def labels(self) -> np.ndarray:
        """(N,) LABEL_DTYPE."""
        ...

    def is_left(self, index: int, /) -> bool:
        """Whether the picture is stored mirrored, as that of a left hand."""
        ...

    def overlay(self, index: int, /) -> np.ndarray:
        """(H/4, W/4) uint8 parts 0..17, or (H, W) uint8 mask 0 or 1."""
        ...


def draw_sheet(pictures: Pictures, path: Path) -> None:
    """Write the first pictures, plain above and with their labels below, as a PNG at most 2400 px wide.

    Skeletons are coloured by finger, hidden joints hollow; parts or mask are tinted; a red frame says that no hand is there,
    a yellow one that presence is not scored. The text names the kind of pose, and left hands.

    Raises:
        UserError: `path` cannot be written.
    """
    height, width = pictures.image(0).shape[:2]
    columns, rows = _SQUARE_GRID if width <= _WIDEST_ASPECT_OF_A_CROP * height else _WIDE_GRID
    scale = min(1.0, _SHEET_PX / (columns * width))
    tile = (round(width * scale), round(height * scale))
    shown = range(min(columns * rows, len(pictures)))
    rows = -(-len(shown) // columns)
    images = [cv2.resize(pictures.image(index), tile, interpolation=cv2.INTER_AREA) for index in shown]
    marked = [
        mark_labels(image, pictures.overlay(index), _scaled(pictures.label(index), scale), pictures.is_left(index))
        for index, image in zip(shown, images, strict=True)
    ]
    gap = np.full((_GAP_PX, columns * tile[0], 3), 255, np.uint8)
    write_png(np.concatenate([tiled(images, columns, rows), gap, tiled(marked, columns, rows)]), path, "--sheet")


def mark_labels(image: np.ndarray, overlay: np.ndarray, label: np.ndarray, is_left: bool = False) -> np.ndarray:
    """A picture with its labels drawn over it.

    Args:
        image: (H, W, 3) uint8.
        overlay: parts 0..17 or a mask 0 or 1, of any size.
        label: () LABEL_DTYPE in pixels of `image`.
        is_left: said in the text.

    Returns:
        (H, W, 3) uint8.
    """
    height, width = image.shape[:2]
    spread = cv2.resize(overlay, (width, height), interpolation=cv2.INTER_NEAREST)
    colours = _PART_RGB if overlay.max(initial=0) > 1 else np.array([(0, 0, 0), _MASK_RGB], np.uint8)
    tinted = ((1 - _TINT) * image + _TINT * colours[np.asarray(spread, np.uint8)]).astype(np.uint8)
    marked = np.ascontiguousarray(np.where(spread[..., None] > 0, tinted, image))
    has_hand = bool(label["focal_px"])
    if has_hand:
        draw_skeleton(marked, label["keypoints_px"], label["visible"])
    words = [POSE_KINDS[label["pose"]]] if has_hand and label["pose"] < len(POSE_KINDS) else []
    words += ["left"] * (has_hand and is_left)
    if label["presence"] != 1:
        absent = "out of sight" if has_hand else "no hand"
        rgb, word = (ABSENT_RGB, absent) if label["presence"] == 0 else (UNSCORED_RGB, "not scored")
        cv2.rectangle(marked, (1, 1), (width - 2, height - 2), rgb, 3)
        words.append(word)
    write_words(marked, " ".join(words))
    return marked


def draw_skeleton(image: np.ndarray, keypoints_px: np.ndarray, visible: np.ndarray) -> None:
    """Draw bones, full circles at visible joints and hollow ones at the others into an RGB picture.

    Args:
        keypoints_px: (21, 2).
        visible: (21,), not 0 where the joint can be seen.
    """
    # cv2 counts pixels in sixteenths when shift is 4.
    points = np.clip(np.rint(keypoints_px * 16), -100_000, 100_000).astype(int)
    ends = [(points[child].tolist(), points[parent].tolist()) for child, parent in BONES]
    for start, end in ends:
        cv2.line(image, start, end, (20, 20, 20), 3, cv2.LINE_AA, 4)
    for number, (start, end) in enumerate(ends):
        cv2.line(image, start, end, FINGER_RGB[number // 4], 1, cv2.LINE_AA, 4)
    for point, is_visible in zip(points, visible, strict=True):
        if not is_visible:
            cv2.circle(image, point.tolist(), 40, (20, 20, 20), -1, cv2.LINE_AA, 4)
        cv2.circle(image, point.tolist(), 30 if is_visible else 40, (255, 255, 255), -1 if is_visible else 1, cv2.LINE_AA, 4)


def write_words(image: np.ndarray, words: str) -> None:
    """Small white text with a dark edge at the bottom left of an RGB picture."""
    at = (5, image.shape[0] - 7)
    cv2.putText(image, words, at, _FONT, 0.42, (0, 0, 0), 3, cv2.LINE_AA)
    cv2.putText(image, words, at, _FONT, 0.42, (255, 255, 255), 1, cv2.LINE_AA)


def tiled(images: list[np.ndarray], columns: int, rows: int) -> np.ndarray:
    """Pictures of one size, row by row, in a grid whose empty places are black."""
    height, width = images[0].shape[:2]
    tiles = np.zeros((rows * columns, height, width, 3), np.uint8)
    tiles[: len(images)] = images
    return tiles.reshape(rows, columns, height, width, 3).swapaxes(1, 2).reshape(rows * height, columns * width, 3)


def write_png(image: np.ndarray, path: Path, option: str) -> None:
    """Write an RGB picture whole or not at all.

    Raises:
        UserError: it cannot be written; names the command's `option` that said where.
    """
    code = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(code.tobytes())
    except OSError as error:
        raise UserError(f"expected to write a picture to '{path}', but: {error.strerror}; choose another {option}") from error


def _scaled(label: np.ndarray, scale: float) -> np.ndarray:
    """A label of a picture resized by `scale`: pixel centres are integers."""
    scaled = label.copy()
    scaled["keypoints_px"] = (label["keypoints_px"] + 0.5) * scale - 0.5
    return scaled


def _part_colours() -> np.ndarray:
    """(18, 3) uint8: fingers in their colours, darker towards the tip, between palm and forearm."""
    colours = [(0, 0, 0), _PALM_RGB]
    for number in range(1, len(MANO_JOINTS)):
        finger = FINGERS.index(MANO_JOINTS[number].partition("_")[0])
        red, green, blue = (round(channel * (1.0, 0.78, 0.56)[(number - 1) % 3]) for channel in FINGER_RGB[finger])
        colours.append((red, green, blue))
    return np.array([*colours, _FOREARM_RGB], np.uint8)


_PART_RGB = _part_colours()
