"""What people look at while a network trains: a table of numbers, TensorBoard, the same hands at every validation, and curves.

One process writes all of it. Nothing here changes the training.
"""

from __future__ import annotations

import csv
import importlib.util
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from handmesh.errors import UserError, one_line
from handmesh.hand_model import HandModel
from handmesh.skeleton import BONES, JOINTS
from handmesh.training.command import LossWeights
from handmesh.training.data import Batch
from handmesh.training.layer import HandLayer
from handmesh.training.losses import Errors, measure_errors, pose_prediction, weak_perspective_to_translation
from handmesh.wholefile import replacing

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

METRICS_NAME = "metrics.csv"
CURVES_NAME = "curves.png"
OVERLAYS_NAME = "overlays"
TENSORBOARD_NAME = "tensorboard"
WATCHED_HANDS = 16

_COLUMNS = 4
_TILE_PX, _GAP_PX, _CAPTION_PX, _HEADER_PX = 240, 10, 24, 40
# Drawn larger, then averaged: smooth edges.
_FINER = 2
_MESH_OPACITY = 0.62
# Fixed-point bits of cv2's coordinates.
_SHIFT = 4
_NEAREST_M = 0.05
_BACKGROUND, _TEXT, _WARNING = (22, 24, 28), (226, 228, 232), (255, 150, 90)
_SKIN_RGB = np.array([255.0, 190.0, 150.0])
# Thumb to little; the palm's bones are those of the fingers.
_FINGER_RGB = ((255, 92, 92), (255, 190, 60), (90, 220, 110), (70, 190, 255), (190, 130, 255))
# Towards the light, in camera axes: from above, from the left, from behind the camera.
_LIGHT = np.array([-0.4, -0.6, -0.7]) / np.linalg.norm([-0.4, -0.6, -0.7])


class Watch:
    """Everything that shows how a training goes, in its folder.

    Args:
        out: folder of the training.
        layer: of the hand model that is trained, on the device of the network.
        hand_model: the same hand, for its triangles.
        keep: pictures seen so far by the training that goes on: what was written up to there stays, what came after goes,
            because it will be written again. None for a training that starts.

    Raises:
        UserError: a table of numbers that is not one.
    """

    def __init__(self, out: Path, layer: HandLayer, hand_model: HandModel, keep: int | None = None):
        self._out, self._layer, self._faces = out, layer, np.asarray(hand_model.faces)
        self._metrics = MetricsFile(out / METRICS_NAME, keep=keep is not None)
        if keep is not None:
            self._metrics.drop_after(keep)
        for path in (out / OVERLAYS_NAME).glob("*.jpg"):
            if keep is None or not path.stem.isdecimal() or int(path.stem) > keep:
                path.unlink()
        self._writer = _summary_writer(out / TENSORBOARD_NAME, keep)
        self._hands: Batch | None = None

    def step(self, row: dict[str, Any]) -> None:
        """Numbers of the training since the last such row, by `MetricsFile.columns`."""
        self._add({"split": "train", **row})

    def validated(self, pictures: int, minutes: float, errors: dict[str, float], net: nn.Module, batches: Iterable[Batch]) -> None:
        """Numbers of one validation, and the watched hands as the network sees them now.

        Args:
            pictures: seen so far.
            minutes: spent so far.
            errors: means, by the names of `Errors`.
            net: a HandNet in evaluation mode.
            batches: the held-out pictures; read the first time only, to choose the hands.
        """
        self._add({"split": "validation", "pictures": pictures, "minutes": minutes, **errors})
        if self._hands is None:
            self._hands = pick_hands(batches, WATCHED_HANDS)
        if self._hands is None:
            return
        title = f"{pictures:,} pictures seen    PA-MPJPE {errors['pa_mpjpe_mm']:.1f} mm on all that are held out"
        sheet = draw_overlays(net, self._layer, self._faces, self._hands.to(self._layer.template_m.device), title)
        path = self._out / OVERLAYS_NAME / f"{pictures:09d}.jpg"
        path.parent.mkdir(exist_ok=True)
        _write_picture(sheet, path)
        if self._writer is not None:
            self._writer.add_image(OVERLAYS_NAME, sheet, pictures, dataformats="HWC")

    def close(self) -> None:
        """Draw the curves; nothing may be added afterwards."""
        draw_curves(self._out / METRICS_NAME, self._out / CURVES_NAME)
        if self._writer is not None:
            self._writer.close()

    def _add(self, row: dict[str, Any]) -> None:
        self._metrics.write(row)
        if self._writer is None:
            return
        for name, value in row.items():
            if name not in ("split", "pictures") and math.isfinite(value):
                self._writer.add_scalar(f"{row['split']}/{name}", value, row["pictures"])


class MetricsFile:
    """A table of numbers that grows while training runs, readable up to the last row.

    Args:
        path: of the csv file.
        keep: go on with the rows that are there.
    """

    columns = (
        *("split", "pictures", "minutes", "learning_rate", "pictures_per_s", "waiting_share", "loss"),
        *(field.name for field in fields(LossWeights)),
        *(field.name for field in fields(Errors)),
    )

    def __init__(self, path: Path, keep: bool):
        self._path = path
        if not (keep and path.is_file()):
            path.write_text(",".join(self.columns) + "\n", encoding="utf-8")

    def write(self, row: dict[str, Any]) -> None:
        """Append one row; columns that it lacks stay empty."""
        rounded = {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()}
        with _writing(self._path), self._path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns, lineterminator="\n").writerow(rounded)

    def drop_after(self, pictures: int) -> None:
        """Take out the rows of later than so many pictures, and a last one that was torn.

        Raises:
            UserError: not such a table.
        """
        kept = [row for row in read_metrics(self._path) if int(row["pictures"]) <= pictures]
        with replacing(self._path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(kept)


def read_metrics(path: Path) -> list[dict[str, str]]:
    """The whole rows of a `MetricsFile`, as text; a last row that was torn by a crash is left out.

    Raises:
        UserError: no such file, or another kind of table.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"expected the numbers of a training in '{path}', but it cannot be read ({type(error).__name__})") from error
    reader = csv.DictReader(text[: text.rfind("\n") + 1].splitlines())
    if not {"split", "pictures"} <= set(reader.fieldnames or ()):
        raise UserError(f"expected a table with the columns split and pictures in '{path}', got another; move it away")
    return [row for row in reader if row["pictures"].isdecimal() and None not in row.values()]


def pick_hands(batches: Iterable[Batch], count: int) -> Batch | None:
    """Right hands, evenly from all sources and from all over each: always the same of the same batches.

    Returns:
        At most `count`; None if there are none.
    """
    found: dict[int, list[Batch]] = {}
    every: dict[int, int] = {}
    seen: dict[int, int] = {}
    for batch in batches:
        wanted = (batch.presence == 1) & (batch.right == 1) & batch.has_keypoints
        for row in torch.nonzero(wanted).flatten().tolist():
            source = int(batch.source[row])
            place = seen.get(source, 0)
            seen[source] = place + 1
            if place % every.setdefault(source, 1):
                continue
            mine = found.setdefault(source, [])
            mine.append(batch.rows(slice(row, row + 1)))
            # Too many: every other one goes, and so do half of those to come.
            if len(mine) == 2 * count:
                found[source], every[source] = mine[::2], 2 * every[source]
    picked = []
    for number, source in enumerate(sorted(found)):
        mine = found[source]
        share = min(count // len(found) + (number < count % len(found)), len(mine))
        picked += [mine[place * len(mine) // share] for place in range(share)]
    return Batch.join(picked) if picked else None


@torch.no_grad()
def draw_overlays(net: nn.Module, layer: HandLayer, faces: np.ndarray, batch: Batch, title: str) -> np.ndarray:
    """A sheet of crops, each with the predicted mesh, predicted keypoints (coloured) and true ones (white rings) over it.

    Args:
        net: a HandNet in evaluation mode.
        layer: of its hand model.
        faces: (F, 3) triangles of the hand model.
        batch: crops with their labels, on the network's device.
        title: one line above.

    Returns:
        (H, W, 3) uint8.
    """
    size = batch.crops.shape[1]
    prediction = net(batch.crops)
    posed = pose_prediction(layer, prediction, batch)
    root_m = weak_perspective_to_translation(prediction.camera, batch.focal_px, size)
    vertices_m = _numpy(posed.vertices_m + root_m[:, None])
    keypoints_px, true_px = _numpy(posed.keypoints_px), _numpy(batch.keypoints_px)
    crops = _numpy(batch.crops).clip(0, 255).astype(np.uint8)
    tiles = [
        draw_tile(crops[i], vertices_m[i], faces, float(batch.focal_px[i]), keypoints_px[i], true_px[i] if batch.has_keypoints[i] else None)
        for i in range(len(batch))
    ]
    presence, right = _numpy(prediction.presence_logit.sigmoid()), _numpy(prediction.right_logit.sigmoid())
    pa_mpjpe_mm = _numpy(measure_errors(layer, prediction, batch).pa_mpjpe_mm)
    return _sheet(tiles, [_caption(*values) for values in zip(presence, right, pa_mpjpe_mm, strict=True)], title)


def draw_tile(
    crop: np.ndarray, vertices_m: np.ndarray, faces: np.ndarray, focal_px: float, keypoints_px: np.ndarray, true_px: np.ndarray | None
) -> np.ndarray:
    """One crop with a hand over it.

    Args:
        crop: (S, S, 3) uint8.
        vertices_m: (V, 3) in the crop camera.
        faces: (F, 3), counter-clockwise from outside.
        focal_px: of the crop camera.
        keypoints_px: (21, 2) predicted, in pixels of the crop.
        true_px: (21, 2), or None if unknown.

    Returns:
        (240, 240, 3) uint8.
    """
    side = _FINER * _TILE_PX
    scale = side / len(crop)
    canvas = cv2.resize(crop, (side, side), interpolation=cv2.INTER_CUBIC)
    depth_m = np.maximum(vertices_m[:, 2:], _NEAREST_M)
    outline_px = vertices_m[:, :2] / depth_m * focal_px + (len(crop) - 1) / 2
    canvas = _draw_mesh(canvas, vertices_m, (outline_px + 0.5) * scale - 0.5, faces)
    _draw_bones(canvas, (keypoints_px + 0.5) * scale - 0.5)
    if true_px is not None:
        for point in _fixed((true_px + 0.5) * scale - 0.5):
            cv2.circle(canvas, point, 5 << _SHIFT, (0, 0, 0), 4, cv2.LINE_AA, _SHIFT)
            cv2.circle(canvas, point, 5 << _SHIFT, (255, 255, 255), 2, cv2.LINE_AA, _SHIFT)
    return cv2.resize(canvas, (_TILE_PX, _TILE_PX), interpolation=cv2.INTER_AREA)


def draw_curves(metrics_csv: Path, png: Path) -> None:
    """Losses, errors, answers, learning rate and speed against pictures seen.

    Args:
        metrics_csv: a `MetricsFile`.
        png: the picture to write.

    Raises:
        UserError: no such table.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.ticker import EngFormatter

    rows = read_metrics(metrics_csv)
    train, validation = (_Curves([row for row in rows if row["split"] == split]) for split in ("train", "validation"))
    # No pyplot: its global state and its window system are not needed.
    figure = Figure(figsize=(16, 8.5), dpi=110, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12, wspace=0.02, hspace=0.02))
    canvas = FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 3, width_ratios=(1.25, 1, 1))
    panels = {
        "loss": figure.add_subplot(grid[:, 0]),
        "errors": figure.add_subplot(grid[0, 1]),
        "answers": figure.add_subplot(grid[0, 2]),
        "learning_rate": figure.add_subplot(grid[1, 1]),
        "speed": figure.add_subplot(grid[1, 2]),
    }

    losses = [name for name in ("loss", *(field.name for field in fields(LossWeights))) if train.has(name)]
    for number, name in enumerate(losses):
        color = "black" if name == "loss" else _TERM_COLORS[number % len(_TERM_COLORS)]
        train.plot(panels["loss"], name, color, "weighted sum" if name == "loss" else name, width=2.2 if name == "loss" else 1.4)
    panels["loss"].set_yscale("log")
    panels["loss"].set_title("loss: each term before its weight, and the weighted sum")
    for name, label, color in (
        ("pa_mpjpe_mm", "PA-MPJPE", "tab:blue"),
        ("pa_mpvpe_mm", "PA-MPVPE", "tab:green"),
        ("mpjpe_mm", "MPJPE", "tab:orange"),
    ):
        _plot_both(panels["errors"], train, validation, name, label, color, "{:.1f} mm")
    panels["errors"].set_title("joints and vertices: error in mm")
    panels["errors"].set_yscale("log")
    panels["errors"].yaxis.set_major_formatter("{x:g}")
    panels["errors"].yaxis.set_minor_formatter("{x:g}")
    for name, label, color in (("presence_hit", "presence", "tab:purple"), ("right_hit", "handedness", "tab:red")):
        _plot_both(panels["answers"], train, validation, name, label, color, "{:.1%}")
    panels["answers"].set_title("presence and handedness: share of right answers")
    panels["answers"].yaxis.set_major_formatter("{x:.0%}")
    train.plot(panels["learning_rate"], "learning_rate", "tab:gray", "", smooth=False)
    panels["learning_rate"].set_title("learning rate")
    train.plot(panels["speed"], "pictures_per_s", "tab:cyan", "")
    panels["speed"].set_title("pictures per second")
    panels["speed"].set_ylim(bottom=0)
    for name, axes in panels.items():
        axes.set_xlabel("pictures seen")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.grid(True, which="major", color="0.9")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            below: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.06), "ncols": 4}
            axes.legend(fontsize=9, edgecolor="none", framealpha=0.7, **(below if name == "loss" else {}))
    png.parent.mkdir(parents=True, exist_ok=True)
    with replacing(png) as temporary:
        canvas.print_png(temporary)


# Told apart by hue and by lightness; black is the sum.
_TERM_COLORS = (
    *("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf"),
    *("#aec7e8", "#ffbb78", "#98df8a", "#ff9896", "#c5b0d5", "#c49c94"),
)


class _Curves:
    """Columns of some rows of the table."""

    def __init__(self, rows: Sequence[dict[str, str]]):
        self.pictures = np.array([int(row["pictures"]) for row in rows], np.int64)
        self._rows = rows

    def column(self, name: str) -> np.ndarray:
        """Numbers; nan where the table has none."""
        return np.array([float(row.get(name) or "nan") for row in self._rows], np.float64)

    def has(self, name: str) -> bool:
        return bool(np.isfinite(self.column(name)).any())

    def plot(self, axes: Any, name: str, color: str, label: str, width: float = 1.6, smooth: bool = True) -> None:
        """A line; noisy ones are drawn faintly with their running mean over them."""
        known = np.isfinite(values := self.column(name))
        pictures, values = self.pictures[known], values[known]
        if smooth and len(values) > 40:
            axes.plot(pictures, values, color=color, linewidth=0.6, alpha=0.25)
            values = _running_mean(values, len(values) // 40 * 2 + 1)
        axes.plot(pictures, values, color=color, linewidth=width, label=label)


def _plot_both(axes: Any, train: _Curves, validation: _Curves, name: str, label: str, color: str, form: str) -> None:
    """A validation's line with its last number in the legend; that of the training pictures beside it, dashed."""
    if train.has(name):
        known = np.isfinite(values := train.column(name))
        smooth = _running_mean(values[known], max(1, int(known.sum()) // 40 * 2 + 1))
        axes.plot(train.pictures[known], smooth, color=color, linewidth=1.0, alpha=0.55, linestyle="--", label=f"{label}, training")
    if validation.has(name):
        known = np.isfinite(values := validation.column(name))
        last = form.format(values[known][-1])
        axes.plot(validation.pictures[known], values[known], color=color, linewidth=2, marker="o", markersize=3.5, label=f"{label} {last}")


def _running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Over an odd number of neighbours, fewer at the ends."""
    kernel = np.ones(width)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones_like(values), kernel, "same")


def _draw_mesh(canvas: np.ndarray, vertices_m: np.ndarray, points_px: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """The side of a mesh that faces the camera, translucent, the farthest triangles first."""
    corners = vertices_m[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    middles = corners.mean(1)
    facing = -(normals * middles).sum(1) / np.maximum(np.linalg.norm(middles, axis=1), 1e-9)
    is_seen = (facing > 0) & (corners[:, :, 2].min(1) > _NEAREST_M)
    order = np.flatnonzero(is_seen)[np.argsort(-middles[is_seen, 2])]
    light = 0.30 + 0.30 * facing + 0.50 * np.clip(normals @ _LIGHT, 0, 1)
    colors = np.clip(_SKIN_RGB * light[:, None], 0, 255)
    mesh, mask = canvas.copy(), np.zeros(canvas.shape[:2], np.uint8)
    triangles = _fixed(points_px)[faces]
    for face in order:
        cv2.fillConvexPoly(mesh, triangles[face], colors[face].tolist(), cv2.LINE_8, _SHIFT)
        cv2.fillConvexPoly(mask, triangles[face], (255,), cv2.LINE_8, _SHIFT)
    blended = cv2.addWeighted(mesh, _MESH_OPACITY, canvas, 1 - _MESH_OPACITY, 0)
    outlines, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(blended, outlines, -1, (90, 45, 25), 2, cv2.LINE_AA)
    return blended


def _draw_bones(canvas: np.ndarray, points_px: np.ndarray) -> None:
    points = _fixed(points_px)
    for child, parent in BONES:
        cv2.line(canvas, points[parent], points[child], _color_of(child), 2, cv2.LINE_AA, _SHIFT)
    for joint, point in enumerate(points):
        cv2.circle(canvas, point, 5 << _SHIFT, (0, 0, 0), -1, cv2.LINE_AA, _SHIFT)
        cv2.circle(canvas, point, 4 << _SHIFT, _color_of(joint), -1, cv2.LINE_AA, _SHIFT)


def _color_of(joint: int) -> tuple[int, int, int]:
    return (255, 255, 255) if JOINTS[joint] == "wrist" else _FINGER_RGB[(joint - 1) // 4]


def _fixed(points_px: np.ndarray) -> np.ndarray:
    """cv2's fixed-point coordinates; an untrained network's may be anywhere."""
    return np.round(np.clip(points_px, -4096, 4096) * (1 << _SHIFT)).astype(np.int32)


def _caption(presence: float, right: float, pa_mpjpe_mm: float) -> tuple[str, bool]:
    """A line about a right hand that is there, and whether the network got that wrong."""
    side = f"right {right:.0%}" if right > 0.5 else f"left {1 - right:.0%}"
    error = f"PA {pa_mpjpe_mm:.1f} mm" if math.isfinite(pa_mpjpe_mm) else "not measured"
    return f"hand {presence:.0%}   {side}   {error}", presence < 0.5 or right < 0.5


def _sheet(tiles: list[np.ndarray], captions: list[tuple[str, bool]], title: str) -> np.ndarray:
    from PIL import Image, ImageDraw, ImageFont

    rows = math.ceil(len(tiles) / _COLUMNS)
    row_px = _TILE_PX + _CAPTION_PX + _GAP_PX
    sheet = Image.new("RGB", (_COLUMNS * (_TILE_PX + _GAP_PX) + _GAP_PX, _HEADER_PX + rows * row_px), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    small, large = ImageFont.load_default(13), ImageFont.load_default(16)
    draw.text((_GAP_PX, _HEADER_PX / 2), title, _TEXT, large, anchor="lm")
    _legend(draw, sheet.width - _GAP_PX, small)
    for number, (tile, (caption, is_wrong)) in enumerate(zip(tiles, captions, strict=True)):
        x, y = _GAP_PX + number % _COLUMNS * (_TILE_PX + _GAP_PX), _HEADER_PX + number // _COLUMNS * row_px
        sheet.paste(Image.fromarray(tile), (x, y))
        draw.text((x + 2, y + _TILE_PX + _CAPTION_PX / 2), caption, _WARNING if is_wrong else _TEXT, small, anchor="lm")
    return np.asarray(sheet)


def _legend(draw: ImageDraw, right_px: int, font: Any) -> None:
    """What rings and dots are."""
    middle = _HEADER_PX / 2
    for text, fill in (("predicted", _FINGER_RGB[3]), ("true", None)):
        draw.text((right_px, middle), text, _TEXT, font, anchor="rm")
        right_px -= round(draw.textlength(text, font)) + 10
        draw.ellipse((right_px - 4, middle - 4, right_px + 4, middle + 4), fill, (255, 255, 255) if fill is None else fill)
        right_px -= 18


def _write_picture(picture: np.ndarray, path: Path) -> None:
    coded = cv2.imencode(path.suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
    with _writing(path), replacing(path) as temporary:
        temporary.write_bytes(coded.tobytes())


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turns what the disk refuses into one line."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"expected to write '{path}', but that failed ({one_line(error)}); free the disk, then go on with --resume"
        ) from error


def _summary_writer(folder: Path, keep: int | None) -> Any:
    """TensorBoard's writer, which hides what it has of later than `keep` pictures; None, and a line, if it is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        print("no TensorBoard numbers, because tensorboard is not installed; metrics.csv has them all")
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=0 if keep is None else keep + 1)


def _numpy(values: Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy()
