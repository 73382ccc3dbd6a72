"""Draws docs/frames.png: the wrist's axes and the numbered joints on either hand, and both hands before the camera.

python tools/draw_frames.py docs/frames.png
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from handmesh.hand_model import HandModel, load_hand_model
from handmesh.hand_model.articulation import POSES, Anatomy, angles_to_rotmats
from handmesh.hand_model.skinning import mirror_points, skin
from handmesh.render.portrait import Direction, Frame, caption, crop_white, draw_portrait, left_view
from handmesh.skeleton import BONES, WRIST
from handmesh.wholefile import replacing

COLOURS = 256
AXIS_RGB = ((206, 32, 38), (20, 140, 50), (30, 80, 210))
INK, PALE_INK = (40, 40, 40), (120, 120, 120)
# Lines are drawn so many times larger and then made smaller: smooth edges.
FINER = 3
# (towards the eye, up): a right hand in its wrist's frame, mostly from its palm; both hands in the camera's frame, from behind it.
PALM_VIEW: tuple[Direction, Direction] = ((-0.10, -0.85, -0.45), (-1.0, 0.0, 0.0))
CAMERA_VIEW: tuple[Direction, Direction] = ((-0.62, -0.38, -0.72), (0.0, -1.0, 0.0))
# Fingers up, palm to the camera: the wrist's axes as columns, in the camera's.
R_CAMERA_RIGHT = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
R_CAMERA_LEFT = np.array([[0.0, 0.0, -1.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
WRISTS_M = {True: np.array([-0.12, 0.09, 0.42]), False: np.array([0.12, 0.09, 0.42])}


@dataclass(frozen=True)
class Sheet:
    """A portrait that lines in its space are drawn on: rays are parallel, along a view."""

    image: np.ndarray
    view: tuple[Direction, Direction]
    frame: Frame

    def pixels(self, points_m: np.ndarray) -> np.ndarray:
        """(..., 3) -> (..., 2) in the picture as `draw_portrait` made it."""
        towards, up = (np.array(direction) / np.linalg.norm(direction) for direction in self.view)
        right = np.cross(up, towards)
        right /= np.linalg.norm(right)
        offsets_m = np.asarray(points_m) - self.frame.centre_m
        across, above = offsets_m @ right, offsets_m @ np.cross(towards, right)
        return len(self.image) * (0.5 + np.stack([across, -above], axis=-1) / self.frame.width_m)


class Pen:
    """Lines, arrows and words on a sheet."""

    def __init__(self, sheet: Sheet) -> None:
        self._sheet = sheet
        image = Image.fromarray(sheet.image)
        self._image = image.resize((FINER * image.width, FINER * image.height), Image.Resampling.BICUBIC)
        self._draw = ImageDraw.Draw(self._image)

    def line(self, start_m: np.ndarray, end_m: np.ndarray, rgb: tuple[int, int, int], width_px: float = 2) -> None:
        self._draw.line([*self._at(start_m), *self._at(end_m)], fill=rgb, width=round(FINER * width_px))

    def dashes(self, start_m: np.ndarray, end_m: np.ndarray, rgb: tuple[int, int, int], count: int = 24) -> None:
        for share in np.arange(count) / count:
            self.line(start_m + share * (end_m - start_m), start_m + (share + 0.5 / count) * (end_m - start_m), rgb, 1.5)

    def arrow(self, start_m: np.ndarray, end_m: np.ndarray, rgb: tuple[int, int, int], word: str) -> None:
        self.line(start_m, end_m, rgb, 4)
        tip, tail = np.array(self._at(end_m)), np.array(self._at(start_m))
        along = (tip - tail) / max(np.linalg.norm(tip - tail), 1e-6)
        beside = np.array([-along[1], along[0]])
        head = FINER * 13
        corners = (
            tip + 0.6 * head * along,
            tip - 0.4 * head * along + 0.42 * head * beside,
            tip - 0.4 * head * along - 0.42 * head * beside,
        )
        self._draw.polygon([tuple(corner) for corner in corners], fill=rgb)
        self._text(tip + FINER * 20 * along, word, rgb, 20)

    def axes(self, origin_m: np.ndarray, R: np.ndarray, length_m: float) -> None:
        for axis, word in enumerate("xyz"):
            self.arrow(origin_m, origin_m + length_m * R[:, axis], AXIS_RGB[axis], word)

    def dot(self, point_m: np.ndarray, word: str) -> None:
        x, y = self._at(point_m)
        radius = FINER * 9
        self._draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill="white", outline=INK, width=FINER)
        self._text(np.array([x, y]), word, INK, 12)

    def word(self, point_m: np.ndarray, offset_px: tuple[float, float], text: str, rgb: tuple[int, int, int] = INK) -> None:
        self._text(np.array(self._at(point_m)) + FINER * np.array(offset_px), text, rgb, 17)

    def picture(self) -> np.ndarray:
        """(H, W, 3) uint8, of the sheet's size."""
        return np.asarray(self._image.resize((self._image.width // FINER, self._image.height // FINER), Image.Resampling.LANCZOS))

    def _at(self, point_m: np.ndarray) -> tuple[float, float]:
        x, y = FINER * self._sheet.pixels(point_m)
        return float(x), float(y)

    def _text(self, at: np.ndarray, text: str, rgb: tuple[int, int, int], size_px: float) -> None:
        font = ImageFont.load_default(FINER * size_px)
        outline = {"stroke_width": 2 * FINER, "stroke_fill": "white"}
        self._draw.text((float(at[0]), float(at[1])), text, fill=rgb, font=font, anchor="mm", **outline)


def hand_at(model: HandModel, is_right: bool, pose: str, R: np.ndarray, wrist_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) and joints (21, 3) of the mean hand, its wrist's frame at `R` and `wrist_m`."""
    vertices_m = skin(model, angles_to_rotmats(Anatomy.of(model), POSES[pose].angles_deg()), np.zeros(10))
    vertices_m = vertices_m if is_right else mirror_points(vertices_m)
    joints_m = model.joints(vertices_m)
    about_wrist_m = (vertices_m - joints_m[WRIST], joints_m - joints_m[WRIST])
    vertices_m, joints_m = (points_m @ R.T + wrist_m for points_m in about_wrist_m)
    return vertices_m, joints_m


def draw_wrist_frame(model: HandModel, is_right: bool) -> np.ndarray:
    """One hand in its wrist's frame, with axes and numbered joints."""
    vertices_m, joints_m = hand_at(model, is_right, "spread", np.eye(3), np.zeros(3))
    view = PALM_VIEW if is_right else left_view(PALM_VIEW)
    around = Frame.around([vertices_m])
    # Room below for the axes; the same for both hands.
    middle_m = around.centre_m + np.array([0.025 if is_right else -0.025, 0, 0])
    frame = Frame(middle_m, 1.4 * around.width_m)
    pen = Pen(Sheet(draw_portrait(vertices_m, model.faces_for(is_right), view, frame, 520), view, frame))
    for child, parent in BONES:
        pen.line(joints_m[parent], joints_m[child], INK, 1.5)
    pen.axes(joints_m[WRIST], np.eye(3), 0.062)
    for index, joint_m in enumerate(joints_m):
        pen.dot(joint_m, str(index))
    return pen.picture()


def draw_camera_frame(model: HandModel) -> np.ndarray:
    """Both hands before the camera, which is seen from behind."""
    hands = {
        is_right: hand_at(model, is_right, "spread", R_CAMERA_RIGHT if is_right else R_CAMERA_LEFT, wrist_m)
        for is_right, wrist_m in WRISTS_M.items()
    }
    vertices_m = np.concatenate([hands[True][0], hands[False][0]])
    faces = np.concatenate([model.faces_for(True), model.faces_for(False) + len(model.template_m)])
    frame = Frame(np.array([0.0, 0.0, 0.22]), 0.78)
    pen = Pen(Sheet(draw_portrait(vertices_m, faces, CAMERA_VIEW, frame, 1000), CAMERA_VIEW, frame))
    corners_m = np.array([[x, y, 0.11] for x, y in ((-0.075, -0.056), (0.075, -0.056), (0.075, 0.056), (-0.075, 0.056))])
    for start_m, end_m in zip(corners_m, np.roll(corners_m, -1, axis=0), strict=True):
        pen.line(start_m, end_m, PALE_INK)
        pen.line(np.zeros(3), start_m, PALE_INK)
    for is_right, (_, joints_m) in hands.items():
        pen.dashes(np.zeros(3), joints_m[WRIST], PALE_INK)
        pen.axes(joints_m[WRIST], R_CAMERA_RIGHT if is_right else R_CAMERA_LEFT, 0.06)
        pen.word(joints_m[WRIST], (-62 if is_right else 78, 30), f"{'right' if is_right else 'left'} wrist")
    pen.axes(np.zeros(3), np.eye(3), 0.09)
    pen.word(np.zeros(3), (52, 26), "camera")
    return pen.picture()


def main(target: Path) -> None:
    """Draw the sheet and write it."""
    model = load_hand_model("open-dense")
    words = (
        "right hand: x to the forearm, y out of the back, z to the thumb",
        "left hand: x to the fingers, y out of the back, z to the thumb",
    )
    images = crop_white([draw_wrist_frame(model, is_right) for is_right in (True, False)], axes=[0])
    hands = [caption(image, text, 30) for image, text in zip(images, words, strict=True)]
    above = np.concatenate(hands, axis=1)
    (scene,) = crop_white([draw_camera_frame(model)], margin_px=16)
    left = (above.shape[1] - scene.shape[1]) // 2
    margins = ((0, 0), (max(left, 0), max(above.shape[1] - scene.shape[1] - left, 0)), (0, 0))
    below = caption(
        np.pad(scene, margins, constant_values=255),
        "the camera, from behind: x right, y down, z forward; both hands' wrist frames in it",
        30,
    )
    whole = np.concatenate([above, below])
    with replacing(target) as temporary:
        Image.fromarray(whole).quantize(COLOURS, kmeans=2, dither=Image.Dither.NONE).save(temporary, "PNG", optimize=True)
    print(f"{target}: {whole.shape[1]} x {whole.shape[0]} px, {target.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/draw_frames.py OUT.png")
    main(Path(sys.argv[1]))
