"""What a set of pictures holds, in numbers and on one page: angles, views, skin, visibility, boxes, kinds and shares."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from handmesh.errors import UserError
from handmesh.geometry.alignment import procrustes
from handmesh.hand_model.articulation import ABDUCTION, FIRST_JOINTS, FLEXION, TWIST, Anatomy, limits_deg, rotmats_to_angles
from handmesh.hand_model.skinning import HandModel, skin
from handmesh.skeleton import FINGERS, JOINTS
from handmesh.synthetic import shares
from handmesh.synthetic.scene import POSE_KINDS
from handmesh.synthetic.sheet import FINGER_RGB, Pictures, write_png
from handmesh.synthetic.skin import skin_rgb

TONE_STEPS = 10
# More would not move a mean by a tenth of a millimetre.
_MOST_ALIGNED = 20_000
_ALIGNED_AT_ONCE = 1000
# A joint this far beyond its limits is counted: poses carry some noise on top of their angles.
_BEYOND_DEG = 5.0


@dataclass(frozen=True)
class SetMeasures:
    """What a set holds. Arrays have one row for each of N hands: the pictures whose presence is 1.

    Attributes:
        pictures: how many there are in all.
        sides: share of all pictures that hold a right hand, a left hand, and none.
        presence: share of all pictures with presence 1, 0 and -1 (not scored).
        angles_deg: (N, 15, 3) flexion, abduction and twist, as `articulation.rotmats_to_angles` gives them.
        views: (N, 3) unit vectors from the root joint to the camera in the hand's frame (fingers -x, palm -y, thumb +z).
        tones: (N,) 0 the lightest and 1 the darkest of the Monk scale.
        visible: (N, 21) 1 where a joint is inside the picture and not hidden by other things.
        box_share: (N,) larger side of the joints' box over the picture's height.
        box_middle: (N, 2) middle of that box over the picture's width and height.
        focal_share: (N,) focal length over the picture's height.
        poses: (N,) indices into `scene.POSE_KINDS`, `scene.NO_POSE` for none.
        pa_mpjpe_mm: (M,) what the model's mean hand scores on an even choice of M <= N hands.
        shares: of the hands, by name.
        aspect: width over height of the pictures.
    """

    pictures: int
    sides: dict[str, float]
    presence: dict[str, float]
    angles_deg: np.ndarray
    views: np.ndarray
    tones: np.ndarray
    visible: np.ndarray
    box_share: np.ndarray
    box_middle: np.ndarray
    focal_share: np.ndarray
    poses: np.ndarray
    pa_mpjpe_mm: np.ndarray
    shares: dict[str, float]
    aspect: float

    @property
    def tone_shares(self) -> np.ndarray:
        """(10,) share of the hands in each step of the Monk scale, the lightest first."""
        return np.bincount(tone_step(self.tones), minlength=TONE_STEPS) / len(self.tones)

    @property
    def pose_shares(self) -> dict[str, float]:
        """Share of the hands with each kind of pose."""
        return {kind: float(np.mean(self.poses == number)) for number, kind in enumerate(POSE_KINDS)}

    @property
    def beyond_limits(self) -> float:
        """Share of joint angles that are more than 5 degrees outside of `articulation.LIMITS_DEG`."""
        low, high = limits_deg()
        return float(np.mean((self.angles_deg < low - _BEYOND_DEG) | (self.angles_deg > high + _BEYOND_DEG)))


def measure_set(pictures: Pictures, model: HandModel) -> SetMeasures:
    """Measure a set from its labels.

    Args:
        model: the hand model that the set was drawn with.

    Raises:
        UserError: no picture of the set shows a hand.
    """
    height, width = pictures.image(0).shape[:2]
    labels = np.asarray(pictures.labels())
    with_hand = shares.has_hand(labels)
    is_left = np.array([pictures.is_left(index) for index in range(len(pictures))])
    hands = labels[labels["presence"] == 1]
    if not len(hands):
        raise UserError(f"expected pictures of hands, got {len(labels)} without one; draw more with handmesh-synth")
    anatomy = Anatomy.of(model.astype(np.float64))
    low, high = hands["keypoints_px"].min(axis=1), hands["keypoints_px"].max(axis=1)
    chosen = hands[np.unique(np.linspace(0, len(hands) - 1, min(len(hands), _MOST_ALIGNED)).astype(int))]
    return SetMeasures(
        pictures=len(labels),
        sides={
            "right hands": float(np.mean(with_hand & ~is_left)),
            "left hands": float(np.mean(with_hand & is_left)),
            "no hand": float(np.mean(~with_hand)),
        },
        presence={name: float(np.mean(labels["presence"] == value)) for name, value in (("present", 1), ("absent", 0), ("not scored", -1))},
        angles_deg=rotmats_to_angles(anatomy, hands["rotmats"].astype(np.float64)),
        views=view_directions(hands),
        tones=hands["tone"],
        visible=hands["visible"],
        box_share=(high - low).max(axis=1) / height,
        box_middle=((low + high) / 2 + 0.5) / (width, height),
        focal_share=hands["focal_px"] / height,
        poses=hands["pose"],
        pa_mpjpe_mm=mean_hand_errors_mm(chosen, model),
        shares=hand_shares(hands, anatomy, (width, height)),
        aspect=width / height,
    )


def hand_shares(hands: np.ndarray, anatomy: Anatomy, size_px: tuple[int, int]) -> dict[str, float]:
    """Shares that the frozen sets promise, of (N,) LABEL_DTYPE of hands in pictures of `size_px` (width, height)."""
    thirds = shares.monk_third(hands)
    marks = {
        "fist-like": shares.fist_like(hands, anatomy),
        "edge-on": shares.edge_on(hands),
        "occluded": shares.occluded(hands, *size_px),
        "truncated": shares.truncated(hands, *size_px),
        **{name: thirds == third for third, name in enumerate(("light third", "middle third", "dark third"))},
    }
    return {name: float(np.mean(mark)) for name, mark in marks.items()}


def tone_step(tones: np.ndarray) -> np.ndarray:
    """Steps 0..9 of the Monk scale of tones in 0..1."""
    return np.clip((np.asarray(tones, np.float64) * TONE_STEPS).astype(int), 0, TONE_STEPS - 1)


def view_directions(hands: np.ndarray) -> np.ndarray:
    """(N, 3) unit vectors towards the camera in the hand's frame, of (N,) LABEL_DTYPE."""
    towards_camera = -hands["root_m"].astype(np.float64)
    views = np.einsum("nij,ni->nj", hands["rotmats"][:, 0].astype(np.float64), towards_camera)
    return views / np.linalg.norm(views, axis=1, keepdims=True)


def mean_hand_errors_mm(hands: np.ndarray, model: HandModel) -> np.ndarray:
    """(N,) PA-MPJPE of the model's mean hand (relaxed pose, zero betas) on (N,) LABEL_DTYPE."""
    mean_m = model.joints(skin(model, model.mean_rotmats(), np.zeros(10, model.template_m.dtype))).astype(np.float64)
    errors = []
    for start in range(0, len(hands), _ALIGNED_AT_ONCE):
        batch = hands[start : start + _ALIGNED_AT_ONCE]
        joints_m = model.joints(skin(model, batch["rotmats"], batch["betas"])).astype(np.float64)
        aligned_m = procrustes(np.broadcast_to(mean_m, joints_m.shape), joints_m)
        errors.append(1e3 * np.linalg.norm(aligned_m - joints_m, axis=-1).mean(axis=1))
    return np.concatenate(errors)


def stats_table(measures: SetMeasures) -> str:
    """The numbers of a set as lines of text."""

    def spread(values: np.ndarray, form: str) -> str:
        return "  ".join(f"{name} {np.percentile(values, share):{form}}" for name, share in (("5 %", 5), ("median", 50), ("95 %", 95)))

    rows = [
        ("pictures", f"{measures.pictures}, of them {len(measures.tones)} with a hand that is present"),
        *((name, f"{share:.1%} of the pictures") for name, share in (measures.sides | measures.presence).items()),
        *((name, f"{share:.1%} of the hands") for name, share in measures.shares.items()),
        *((f"pose {name}", f"{share:.1%}") for name, share in measures.pose_shares.items()),
        ("Monk steps 1-10", "  ".join(f"{share:.1%}" for share in measures.tone_shares)),
        ("joints visible", f"{np.mean(measures.visible):.1%}"),
        ("box over height", spread(measures.box_share, ".2f")),
        ("focal over height", spread(measures.focal_share, ".2f")),
        ("beyond limits", f"{measures.beyond_limits:.2%} of the joint angles, by more than {_BEYOND_DEG:g} degrees"),
        ("mean hand PA-MPJPE", f"{np.mean(measures.pa_mpjpe_mm):.2f} mm  {spread(measures.pa_mpjpe_mm, '.1f')}"),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)


def draw_stats(pictures: Pictures, path: Path, model: HandModel) -> SetMeasures:
    """Measure a set and write its distributions as one page, a PNG.

    Args:
        model: the hand model that the set was drawn with.

    Raises:
        UserError: no picture of the set shows a hand, or `path` cannot be written.
    """
    measures = measure_set(pictures, model)
    write_png(stats_page(measures), path, "--stats")
    return measures


_PAGE_PX = (2000, 1810)
_INK, _PLAIN, _LIMIT = (40, 40, 40), (96, 138, 190), (210, 60, 50)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_ANGLE_ROWS = (
    ("nearest joint, flexion", 0, FLEXION),
    ("second joint, flexion", 1, FLEXION),
    ("last joint, flexion", 2, FLEXION),
    ("nearest joint, sideways", 0, ABDUCTION),
    ("nearest joint, twist", 0, TWIST),
)


@dataclass(frozen=True)
class _Frame:
    """A rectangle of the page: left, top, width and height in pixels."""

    x: int
    y: int
    w: int
    h: int


def stats_page(measures: SetMeasures) -> np.ndarray:
    """The page of a set's distributions: (H, W, 3) uint8 RGB."""
    page = np.full((_PAGE_PX[1], _PAGE_PX[0], 3), 255, np.uint8)
    counted = f"{measures.pictures} pictures, {len(measures.tones)} hands present"
    _text(page, counted, (40, 50), 0.9)
    sides = ", ".join(f"{name} {share:.1%}" for name, share in (measures.sides | measures.presence).items())
    _text(page, sides, (40, 84), 0.55)
    _draw_angles(page, measures, _Frame(40, 165, 1180, 800))
    _draw_views(page, measures, _Frame(1290, 150, 670, 335))
    _draw_shares(page, measures.shares, _Frame(1290, 610, 670, 340))
    _draw_tones(page, measures, _Frame(60, 1030, 420, 290))
    _draw_poses(page, measures, _Frame(540, 1030, 500, 290))
    _draw_visibility(page, measures, _Frame(1110, 1030, 850, 290))
    _draw_boxes(page, measures, _Frame(60, 1420, 420, 300))
    _draw_places(page, measures, _Frame(540, 1420, 420, 300))
    _draw_focals(page, measures, _Frame(1040, 1420, 400, 300))
    _draw_errors(page, measures, _Frame(1530, 1420, 430, 300))
    return page


def _draw_angles(page: np.ndarray, measures: SetMeasures, frame: _Frame) -> None:
    low, high = limits_deg()
    step_x, step_y = frame.w // len(FINGERS), frame.h // len(_ANGLE_ROWS)
    _title(page, frame, "joint angles in degrees, with their limits in red", rise=30)
    for row, (name, joint, kind) in enumerate(_ANGLE_ROWS):
        for column, finger in enumerate(FINGERS):
            at = FIRST_JOINTS[finger] - 1 + joint
            cell = _Frame(frame.x + column * step_x, frame.y + row * step_y + 22, step_x - 24, step_y - 58)
            if column == 0:
                _text(page, name, (cell.x, cell.y - 8), 0.42)
            if row == 0:
                _text(page, finger, (cell.x + cell.w - 60, cell.y - 8), 0.48, FINGER_RGB[column])
            limits = (float(low[at, kind]), float(high[at, kind]))
            margin = max(12.0, 0.15 * (limits[1] - limits[0]))
            ends = (limits[0] - margin, limits[1] + margin)
            values = measures.angles_deg[:, at, kind]
            _histogram(page, cell, values, ends, 36, rgb=FINGER_RGB[column], lines=limits, line_text=True)


def _draw_views(page: np.ndarray, measures: SetMeasures, frame: _Frame) -> None:
    """Equal areas of the map are equal shares of the sphere: even views give an even grey."""
    _title(page, frame, "where the camera stands around the hand (equal areas)")
    azimuth_deg = np.degrees(np.arctan2(measures.views[:, 2], -measures.views[:, 1]))
    # Row 0 is the top: the camera before the fingertips, which point along -x.
    counts = np.histogram2d(measures.views[:, 0], azimuth_deg, bins=(10, 24), range=((-1, 1), (-180, 180)))[0]
    _heat(page, frame, counts)
    for azimuth, name in ((-180, "back"), (-90, "little's side"), (0, "palm"), (90, "thumb's side"), (180, "back")):
        x = frame.x + round((azimuth + 180) / 360 * frame.w)
        _text(page, name, (x, frame.y + frame.h + 20), 0.45, centred=True)
    _text(page, "top: from the fingertips; bottom: from the wrist", (frame.x, frame.y + frame.h + 44), 0.45)


def _draw_shares(page: np.ndarray, named: dict[str, float], frame: _Frame) -> None:
    _title(page, frame, "shares of the hands")
    _bars(page, frame, named, [_PLAIN] * len(named), 130)


def _draw_tones(page: np.ndarray, measures: SetMeasures, frame: _Frame) -> None:
    _title(page, frame, "skin tone, steps of the Monk scale")
    colours = [_display_rgb(skin_rgb((step + 0.5) / TONE_STEPS)) for step in range(TONE_STEPS)]
    _columns(page, frame, measures.tone_shares, colours, [str(step + 1) for step in range(TONE_STEPS)])


def _draw_poses(page: np.ndarray, measures: SetMeasures, frame: _Frame) -> None:
    _title(page, frame, "kind of pose")
    _bars(page, frame, measures.pose_shares, [_PLAIN] * len(POSE_KINDS), 110)


def _draw_visibility(page: np.ndarray, measures: SetMeasures, frame: _Frame) -> None:
    _title(page, frame, "share of the hands in which each joint is visible")
    colours = [(120, 120, 120)] + [FINGER_RGB[(joint - 1) // 4] for joint in range(1, len(JOINTS))]
    names = [joint.partition("_")[2] or joint for joint in JOINTS]
    _columns(page, frame, measures.visible.astype(bool).mean(axis=0), colours, names, top=1.1)


def _draw_places(page: np.ndarray, measures: SetMeasures, frame: _Frame) -> None:
    _title(page, frame, "where the middle of the box is in the picture")
    width, height = (
        (frame.w, round(frame.w / measures.aspect)) if measures.aspect > frame.w / frame.h else (round(frame.h * measures.aspect), frame.h)
    )
    bins = (24, max(1, round(24 * measures.aspect)))
    counts = np.histogram2d(measures.box_middle[:, 1], measures.box_middle[:, 0], bins=bins, range=((0, 1), (0, 1)))[0]
    _heat(page, _Frame(frame.x, frame.y, width, height), counts)


def _draw_boxes(page: np.ndarray, measures: SetMeasures, frame: _Frame) -> None:
    _title(page, frame, "larger side of the box over the picture's height")
    quarters = max(5, int(np.ceil(4 * np.percentile(measures.box_share, 99))))
    _histogram(page, frame, measures.box_share, (0.0, quarters / 4), 8 * quarters, ticks=quarters + 1)


def _draw_focals(page: np.ndarray, measures: SetMeasures, frame: _Frame) -> None:
    _title(page, frame, "focal length over the picture's height")
    halves = 2 * np.log2(measures.focal_share)
    low, high = int(np.floor(halves.min())), int(np.floor(halves.max())) + 1
    _histogram(page, frame, halves, (low, high), 5 * (high - low), ticks=high - low + 1, tick_text=lambda half: f"{2 ** (half / 2):.2g}")


def _draw_errors(page: np.ndarray, measures: SetMeasures, frame: _Frame) -> None:
    mean_mm = float(np.mean(measures.pa_mpjpe_mm))
    _title(page, frame, f"mean hand's PA-MPJPE in mm: mean {mean_mm:.2f}")
    tens = max(3, int(np.ceil(measures.pa_mpjpe_mm.max() / 10)))
    _histogram(page, frame, measures.pa_mpjpe_mm, (0.0, 10.0 * tens), 10 * tens, ticks=tens + 1, lines=(mean_mm,))


def _histogram(
    page: np.ndarray,
    frame: _Frame,
    values: np.ndarray,
    ends: tuple[float, float],
    bins: int,
    rgb: tuple[int, ...] = _PLAIN,
    ticks: int = 0,
    tick_text=lambda value: f"{value:.3g}",
    lines: tuple[float, ...] = (),
    line_text: bool = False,
) -> None:
    """Bars as high as the fullest bin, `ticks` marks from end to end, and upright red lines. What lies beyond the ends counts there."""
    counts = np.histogram(np.clip(values, *ends), bins=bins, range=ends)[0]
    edges = np.linspace(frame.x, frame.x + frame.w, bins + 1).round().astype(int)
    tops = frame.y + frame.h - np.round(counts / max(counts.max(), 1) * frame.h).astype(int)
    for left, right, top in zip(edges[:-1].tolist(), edges[1:].tolist(), tops.tolist(), strict=True):
        page[top : frame.y + frame.h, left:right] = rgb
    cv2.line(page, (frame.x, frame.y + frame.h), (frame.x + frame.w, frame.y + frame.h), _INK, 1)

    def place(value: float) -> int:
        return frame.x + round((value - ends[0]) / (ends[1] - ends[0]) * frame.w)

    for value in np.linspace(*ends, ticks).tolist() if ticks else []:
        _text(page, tick_text(value), (place(value), frame.y + frame.h + 20), 0.45, centred=True)
    for value in lines:
        cv2.line(page, (place(value), frame.y), (place(value), frame.y + frame.h), _LIMIT, 1)
        if line_text:
            _text(page, f"{value:.0f}", (place(value), frame.y + frame.h + 18), 0.4, centred=True)


def _columns(
    page: np.ndarray, frame: _Frame, values: np.ndarray, colours: list[tuple[int, ...]], names: list[str], top: float | None = None
) -> None:
    """Upright bars with their percentage above and their name below; `top` is what the frame's height stands for."""
    top = top or 1.15 * max(float(values.max()), 1e-9)
    edges = np.linspace(frame.x, frame.x + frame.w, len(values) + 1).round().astype(int)
    base = frame.y + frame.h
    for value, colour, name, left, right in zip(values.tolist(), colours, names, edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        peak = base - round(value / top * frame.h)
        page[peak:base, left + 2 : right - 2] = colour
        _text(page, f"{100 * value:.0f}", ((left + right) // 2, peak - 6), 0.42, centred=True)
        _text(page, name, ((left + right) // 2, base + 20), 0.42, centred=True)
    cv2.line(page, (frame.x, base), (frame.x + frame.w, base), _INK, 1)


def _bars(page: np.ndarray, frame: _Frame, named: dict[str, float], colours: list[tuple[int, ...]], names_px: int) -> None:
    """Lying bars with their name to the left and their percentage to the right."""
    top = 1.15 * max([*named.values(), 1e-9])
    step = frame.h / max(len(named), 1)
    for row, ((name, value), colour) in enumerate(zip(named.items(), colours, strict=True)):
        y0, y1 = round(frame.y + row * step + 3), round(frame.y + (row + 1) * step - 3)
        end = frame.x + names_px + round(value / top * (frame.w - names_px - 50))
        page[y0:y1, frame.x + names_px : end] = colour
        _text(page, name, (frame.x, (y0 + y1) // 2 + 5), 0.48)
        _text(page, f"{value:.1%}", (end + 6, (y0 + y1) // 2 + 5), 0.45)


def _heat(page: np.ndarray, frame: _Frame, counts: np.ndarray) -> None:
    """Cells from white (none) to dark blue (the fullest)."""
    share = (counts / max(counts.max(), 1))[..., None]
    cells = (255 + share * (np.array([20, 45, 110]) - 255)).round().astype(np.uint8)
    page[frame.y : frame.y + frame.h, frame.x : frame.x + frame.w] = cv2.resize(cells, (frame.w, frame.h), interpolation=cv2.INTER_NEAREST)
    cv2.rectangle(page, (frame.x, frame.y), (frame.x + frame.w, frame.y + frame.h), _INK, 1)


def _title(page: np.ndarray, frame: _Frame, words: str, rise: int = 14) -> None:
    _text(page, words, (frame.x, frame.y - rise), 0.55)


def _text(page: np.ndarray, words: str, at: tuple[int, int], size: float, rgb: tuple[int, ...] = _INK, centred: bool = False) -> None:
    """`at` is where the line of writing begins, or its middle."""
    x = at[0] - (cv2.getTextSize(words, _FONT, size, 1)[0][0] // 2 if centred else 0)
    cv2.putText(page, words, (x, at[1]), _FONT, size, rgb, 1, cv2.LINE_AA)


def _display_rgb(linear: np.ndarray) -> tuple[int, ...]:
    """(3,) light in 0..1 as a colour of the page, by the sRGB curve."""
    linear = np.clip(linear, 0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return tuple(int(channel) for channel in np.rint(255 * srgb))
