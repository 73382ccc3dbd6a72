"""Robustness: ten ways in which pictures get worse, at five severities, and what becomes of a network's error.

In the manner of ImageNet-C (Hendrycks and Dietterich 2019, Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations). Lengths are in units of the hand, the larger side of its true keypoints' box, so that a hand is harmed alike however
many pixels it has. Chance is a function of (seed, corruption, severity, index) alone.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from rich.table import Table

from handmesh.evaluation.predict import Change, Changed
from handmesh.evaluation.records import EvaluationSet
from handmesh.evaluation.scores import METRIC, Scores

SEVERITIES = (1, 2, 3, 4, 5)
# What is kept of every condition's scores; the first is what "robustness" means where one number is shown.
ROBUSTNESS_METRICS = ("pa_mpjpe_proper_mm", "mpjpe_root_mm", "keypoints_share")
# About what a hand measures in FreiHAND's pictures; a pixel of noise is one of a hand so large.
REFERENCE_PX = 128
# Larger pictures are harmed no farther than this many boxes from the hand's middle; a crop and its roll see 1.1.
WHOLE_PICTURE_PX, REACH_BOXES = 256 * 256, 2.0
# So that no length vanishes.
_SMALLEST_BOX_PX = 8.0
# Chroma subsampled: a JPEG's smallest unit.
_JPEG_UNIT_PX = 16
# Electrons of a white pixel in good light, and those that reading a pixel out is wrong by.
_WHITE_ELECTRONS, _READ_ELECTRONS = 1500.0, 3.0

Random = np.random.Generator
# (picture, keypoints_px, strength, random) -> what became of it. The picture may be written to.
Harm = Callable[[np.ndarray, np.ndarray, float, Random], Changed]


@dataclass(frozen=True)
class Corruption:
    """One way in which pictures get worse.

    Attributes:
        name: for tables, and what chance depends on.
        about: what is done, in a sentence.
        strength: what the numbers of `strengths` are, with their unit.
        strengths: one for each of SEVERITIES, mild to hard.
        harm: does it with one of `strengths`.
    """

    name: str
    about: str
    strength: str
    strengths: tuple[float, float, float, float, float]
    harm: Harm

    def at(self, severity: int, seed: int = 0) -> Corrupt:
        """The change of one severity, 1 to 5."""
        return Corrupt(self, severity, seed)


@dataclass(frozen=True)
class Corrupt:
    """A corruption at one severity: a `predict.Change`.

    Attributes:
        severity: one of SEVERITIES.
        seed: of all chance, with the corruption's name, the severity and a picture's index.
    """

    corruption: Corruption
    severity: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES:
            raise ValueError(f"expected a severity of 1 to 5, got {self.severity}")

    def __call__(self, index: int, image: np.ndarray, keypoints_px: np.ndarray) -> Changed:
        """Harm one picture.

        Args:
            index: of the picture in its set.
            image: (H, W, 3) uint8 RGB; it is left as it is.
            keypoints_px: (21, 2) true joints; they may lie outside of the picture.
        """
        numbers = (self.seed, zlib.crc32(self.corruption.name.encode()), self.severity, index)
        random = np.random.Generator(np.random.SFC64(np.random.SeedSequence(numbers)))
        return self.corruption.harm(image.copy(), keypoints_px, self.corruption.strengths[self.severity - 1], random)


def box_side_px(keypoints_px: np.ndarray) -> float:
    """Larger side of the box around (K, 2) keypoints: the unit of lengths here."""
    return max(float(np.ptp(keypoints_px, axis=0).max()), _SMALLEST_BOX_PX)


def surroundings(shape: tuple[int, ...], keypoints_px: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of a picture of this shape that are harmed: all of a small one, `REACH_BOXES` around the hand of a large one.

    They begin at multiples of a JPEG's unit, so that its blocks lie where those of the whole picture would. Where the hand is so far
    outside of the picture that nothing would be harmed, everything is.
    """
    height, width = shape[:2]
    whole = slice(0, height), slice(0, width)
    if height * width <= WHOLE_PICTURE_PX:
        return whole
    middle = (keypoints_px.min(axis=0) + keypoints_px.max(axis=0)) / 2
    reach = REACH_BOXES * box_side_px(keypoints_px)
    x0, y0 = (max(int(low // _JPEG_UNIT_PX) * _JPEG_UNIT_PX, 0) for low in np.floor(middle - reach))
    x1, y1 = (int(high) + 1 for high in np.ceil(middle + reach))
    rows, columns = slice(y0, min(y1, height)), slice(x0, min(x1, width))
    return (rows, columns) if rows.start < rows.stop and columns.start < columns.stop else whole


def _around_hand(harm: Callable[[np.ndarray, float, float, Random], np.ndarray]) -> Harm:
    """A harm of all pixels (picture, strength, side_px, random) -> picture, done to the hand's surroundings."""

    def harm_surroundings(image: np.ndarray, keypoints_px: np.ndarray, strength: float, random: Random) -> Changed:
        where = surroundings(image.shape, keypoints_px)
        image[where] = harm(np.ascontiguousarray(image[where]), strength, box_side_px(keypoints_px), random)
        return Changed(image)

    return harm_surroundings


def _add_noise(picture: np.ndarray, sd: float, side_px: float, random: Random) -> np.ndarray:
    # At middle grey half of the variance is the same everywhere and half comes with the light.
    spread = (sd * np.sqrt(0.5 + np.arange(256) / 256)).astype(np.float32)
    grain = _grain(picture.shape, side_px, random)
    return cv2.add(picture, cv2.multiply(grain, cv2.LUT(picture, spread)), dtype=cv2.CV_8U)


def _grain(shape: tuple[int, ...], side_px: float, random: Random) -> np.ndarray:
    """(H, W, 3) f32 normal noise of the same power per area of the hand, however large that is.

    Its deviation is 1 from REFERENCE_PX on, where larger hands get larger grains. Smaller hands get less, as averaging would leave.
    """
    height, width = shape[:2]
    scale = side_px / REFERENCE_PX
    coarse = max(scale, 1.0)
    grain = random.standard_normal((math.ceil(height / coarse), math.ceil(width / coarse), 3), np.float32)
    if scale < 1:
        grain *= np.float32(scale)
    elif grain.shape[:2] != (height, width):
        grain = cv2.resize(grain, (width, height), interpolation=cv2.INTER_NEAREST)
    return grain


def _defocus(picture: np.ndarray, radius_boxes: float, side_px: float, random: Random) -> np.ndarray:
    del random
    radius_px = radius_boxes * side_px
    # A disc of 6 pixels leaves nothing that the smaller picture could not hold.
    shrink = max(radius_px / 6, 1.0)
    small = _shrunk(picture, shrink)
    half = math.ceil(radius_px / shrink)
    away = np.hypot(*np.mgrid[-half : half + 1, -half : half + 1])
    return _grown(_filtered(small, np.clip(radius_px / shrink + 0.5 - away, 0, 1)), picture.shape)


def _blur_by_motion(picture: np.ndarray, length_boxes: float, side_px: float, random: Random) -> np.ndarray:
    angle_rad = random.uniform(0, np.pi)
    # Across the motion detail stays, so that no more is shrunk away than a crop of 224 pixels, 149 of them the hand's, would lose.
    shrink = max(side_px / (1.25 * REFERENCE_PX), 1.0)
    length_px = length_boxes * side_px / shrink
    half = math.ceil(length_px / 2)
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    along, across = x * np.cos(angle_rad) + y * np.sin(angle_rad), y * np.cos(angle_rad) - x * np.sin(angle_rad)
    line = np.clip(length_px / 2 + 0.5 - np.abs(along), 0, 1) * np.clip(1 - np.abs(across), 0, 1)
    return _grown(_filtered(_shrunk(picture, shrink), line), picture.shape)


def _shrunk(picture: np.ndarray, factor: float) -> np.ndarray:
    if factor <= 1:
        return picture
    height, width = picture.shape[:2]
    return cv2.resize(picture, (max(round(width / factor), 1), max(round(height / factor), 1)), interpolation=cv2.INTER_AREA)


def _grown(picture: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    height, width = shape[:2]
    return picture if picture.shape[:2] == (height, width) else cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)


def _filtered(picture: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    return cv2.filter2D(picture, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)


# What JPEG can hold.
_LARGEST_JPEG_PX = 65_500


def _compress(picture: np.ndarray, quality: float, side_px: float, random: Random) -> np.ndarray:
    # Not in units of the hand: blocks are 8 of whatever pixels are stored, and to resample to a fixed size would be another harm.
    del side_px, random
    height, width = picture.shape[:2]
    whole = picture
    if max(height, width) > _LARGEST_JPEG_PX:
        scale = _LARGEST_JPEG_PX / max(height, width)
        small = (max(1, int(width * scale)), max(1, int(height * scale)))
        whole = cv2.resize(picture, small, interpolation=cv2.INTER_AREA)
    code = cv2.imencode(".jpg", whole[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, round(quality)])[1]
    return _grown(cv2.imdecode(code, cv2.IMREAD_COLOR)[..., ::-1], picture.shape)


def _take_light(picture: np.ndarray, light: float, side_px: float, random: Random) -> np.ndarray:
    # Square and root stand for the display's curve and its inverse.
    seen = light * np.square(np.arange(256) / 255)
    noise = np.sqrt(seen / _WHITE_ELECTRONS + (_READ_ELECTRONS / _WHITE_ELECTRONS) ** 2)
    sensed = cv2.multiply(_grain(picture.shape, side_px, random), cv2.LUT(picture, noise.astype(np.float32)))
    sensed = cv2.add(sensed, cv2.LUT(picture, seen.astype(np.float32)))
    return cv2.convertScaleAbs(cv2.sqrt(np.maximum(sensed, 0, out=sensed)), alpha=255)


def _flatten_contrast(picture: np.ndarray, contrast: float, side_px: float, random: Random) -> np.ndarray:
    del side_px, random
    means = np.array(cv2.mean(picture)[:3])
    table = np.rint(means + contrast * (np.arange(256)[:, None] - means)).astype(np.uint8)
    return cv2.LUT(picture, table[None])


def _lower_resolution(picture: np.ndarray, across_px: float, side_px: float, random: Random) -> np.ndarray:
    del random
    return _grown(_shrunk(picture, side_px / across_px), picture.shape)


def _occlude(image: np.ndarray, keypoints_px: np.ndarray, share: float, random: Random) -> Changed:
    low = np.maximum(keypoints_px.min(axis=0), -0.5)
    high = np.minimum(keypoints_px.max(axis=0), np.array(image.shape[1::-1]) - 0.5)
    if (high <= low).any():
        return Changed(image)
    count = int(random.integers(1, 4))
    middles = np.clip(keypoints_px[random.choice(len(keypoints_px), count, replace=False)], low, high)
    angles = np.linspace(-np.pi, np.pi, 121)
    outlines = [random.uniform(0.6, 1.0) * _outline(angles, random) for _ in range(count)]
    # How large the patches must be to cover each cell of the box; so large that they cover the share of them.
    cells = np.stack(np.meshgrid(*(np.linspace(a, b, 65)[:-1] + (b - a) / 128 for a, b in zip(low, high, strict=True))), -1).reshape(-1, 2)
    needed = [
        np.hypot(*(cells - middle).T) / np.interp(np.arctan2(*(cells - middle).T[::-1]), angles, outline)
        for middle, outline in zip(middles, outlines, strict=True)
    ]
    size_px = np.quantile(np.min(needed, axis=0), share)
    rim = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    for middle, outline in zip(middles, outlines, strict=True):
        _paint_patch(image, middle + size_px * outline[:, None] * rim, box_side_px(keypoints_px), random)
    return Changed(image)


def _outline(angles: np.ndarray, random: Random) -> np.ndarray:
    """(A,) distance of a patch's rim at each angle in -pi..pi: a turned rectangle, or something round with dents."""
    turn = random.uniform(-np.pi, np.pi)
    if random.random() < 0.5:
        longer = np.exp(random.uniform(0, 0.5))
        return np.minimum(
            longer / np.maximum(np.abs(np.cos(angles - turn)), 1e-6), 1 / longer / np.maximum(np.abs(np.sin(angles - turn)), 1e-6)
        )
    waves = np.arange(2, 6)
    dents = random.uniform(0, 0.45, len(waves)) / waves
    return 1 + (dents * np.cos(waves * (angles[:, None] - random.uniform(-np.pi, np.pi, len(waves))))).sum(axis=1)


def _paint_patch(image: np.ndarray, rim_px: np.ndarray, side_px: float, random: Random) -> None:
    """Fill a polygon (A, 2) of the picture with something of two colours: stripes, checks or blotches, lit from one side."""
    bits = 4
    # Drawn before clipping, so that chance does not depend on where the picture ends.
    colours, kind, turn = random.uniform(10, 245, (2, 3)), random.integers(3), random.uniform(0, np.pi)
    wave_px, phases, blotches = side_px * random.uniform(0.06, 0.25), random.uniform(0, 2 * np.pi, 2), random.random((6, 6), np.float32)
    x0, y0 = np.maximum(np.floor(rim_px.min(axis=0)).astype(int), 0)
    x1, y1 = np.minimum(np.ceil(rim_px.max(axis=0)).astype(int) + 1, image.shape[1::-1])
    if x0 >= x1 or y0 >= y1:
        return
    mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
    cv2.fillPoly(mask, [np.rint((rim_px - (x0, y0)) * 2**bits).astype(np.int32)], [1], shift=bits)
    x, y = np.arange(x1 - x0, dtype=np.float32), np.arange(y1 - y0, dtype=np.float32)[:, None]
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    if kind == 2:
        mix = np.clip(cv2.resize(blotches, mask.shape[::-1], interpolation=cv2.INTER_CUBIC), 0, 1)
    else:
        waves = np.sin(2 * np.pi / wave_px * along + phases[0])
        if kind == 1:
            waves = waves * np.sin(2 * np.pi / wave_px * across + phases[1])
        mix = np.clip(0.5 + 2 * waves, 0, 1)
    light = 1 - 0.35 * (across - across.min()) / max(float(np.ptp(across)), 1.0)
    texture = ((colours[0] + mix[..., None] * (colours[1] - colours[0])) * light[..., None]).astype(np.uint8)
    cv2.copyTo(texture, mask, image[y0:y1, x0:x1])


def _truncate(image: np.ndarray, keypoints_px: np.ndarray, share: float, random: Random) -> Changed:
    angle = random.uniform(0, 2 * np.pi)
    outwards = np.array([np.cos(angle), np.sin(angle)])
    along = np.sort(keypoints_px @ outwards)
    first_hidden = len(along) - round(share * len(along))
    limit = (along[first_hidden - 1] + along[first_hidden]) / 2
    height, width = image.shape[:2]
    image[np.arange(height)[:, None] * outwards[1] + np.arange(width) * outwards[0] > limit] = 0
    return Changed(image)


def _roll(image: np.ndarray, keypoints_px: np.ndarray, roll_deg: float, random: Random) -> Changed:
    del keypoints_px
    return Changed(image, math.copysign(math.radians(roll_deg), random.random() - 0.5))


CORRUPTIONS = (
    Corruption(
        "noise",
        "normal noise, half of its variance the same everywhere (Gaussian), half in proportion to the light (shot)",
        "deviation at middle grey, of 255, in pixels of 1/128 box",
        (10, 20, 35, 50, 70),
        _around_hand(_add_noise),
    ),
    Corruption(
        "defocus",
        "each point becomes a disc",
        "radius, boxes",
        (0.012, 0.025, 0.04, 0.055, 0.07),
        _around_hand(_defocus),
    ),
    Corruption(
        "motion blur",
        "each point becomes a line of a random direction",
        "length, boxes",
        (0.04, 0.08, 0.11, 0.15, 0.19),
        _around_hand(_blur_by_motion),
    ),
    Corruption("compression", "JPEG, at the picture's own resolution", "quality", (30, 20, 14, 10, 7), _around_hand(_compress)),
    Corruption(
        "low light",
        "less light on the sensor: darker, with shot and read-out noise, and nothing brightened afterwards",
        "share of the light",
        (0.3, 0.15, 0.08, 0.045, 0.025),
        _around_hand(_take_light),
    ),
    Corruption(
        "low contrast",
        "every value drawn towards the mean of its channel",
        "share of the contrast",
        (0.5, 0.3, 0.2, 0.14, 0.1),
        _around_hand(_flatten_contrast),
    ),
    Corruption(
        "low resolution",
        "shrunk by averaging, and enlarged again",
        "pixels across the box",
        (40, 30, 22, 16, 12),
        _around_hand(_lower_resolution),
    ),
    Corruption(
        "occlusion",
        "one to three textured patches over random joints",
        "share of the box that is covered",
        (0.08, 0.16, 0.24, 0.32, 0.4),
        _occlude,
    ),
    Corruption(
        "truncation",
        "black beyond a line of a random direction through the hand, as beyond the edge of a picture",
        "share of the joints that are hidden",
        (0.05, 0.1, 0.2, 0.3, 0.4),
        _truncate,
    ),
    Corruption("rotation", "the crop is rolled about its viewing axis, to either side", "degrees", (15, 30, 60, 90, 180), _roll),
)


@dataclass(frozen=True)
class Degradation:
    """One metric on clean and on corrupted pictures, errors E: smaller is better.

    Attributes:
        clean: its mean over clean pictures.
        errors: (C, 5) its mean for each corruption and severity.
    """

    clean: float
    errors: np.ndarray

    @property
    def relative(self) -> np.ndarray:
        """(C, 5) E_cs / E_clean; 1 is no harm."""
        return self.errors / self.clean

    @property
    def mean_error(self) -> np.ndarray:
        """(C,) mean over severities."""
        return self.errors.mean(axis=1)

    @property
    def mean_relative(self) -> float:
        """Mean over corruptions c and severities s of E_cs / E_clean.

        ImageNet-C's mCE divides by another network's errors instead, see `relative_to`; this needs no other network.
        """
        return float(self.relative.mean())

    def relative_to(self, reference: Degradation) -> float:
        """ImageNet-C's mean corruption error: the mean over c of sum_s E_cs / sum_s E'_cs, E' the reference network's.

        Args:
            reference: of the same corruptions on the same data.
        """
        return float((self.mean_error / reference.mean_error).mean())


@dataclass(frozen=True)
class Robustness:
    """What became of a network's error under corruptions.

    Attributes:
        data: name of the set.
        hands: how many hands each condition was measured on.
        names: C corruptions.
        severities: 1 to 5.
        metrics: by name, those of ROBUSTNESS_METRICS that apply. Numbers that are asked of the whole are those of the first.
    """

    data: str
    hands: int
    names: tuple[str, ...]
    severities: tuple[int, ...]
    metrics: dict[str, Degradation]

    @property
    def main(self) -> Degradation:
        """Of the first of ROBUSTNESS_METRICS."""
        return self.metrics[ROBUSTNESS_METRICS[0]]

    @property
    def clean(self) -> float:
        """Millimetres; see `Degradation`."""
        return self.main.clean

    @property
    def errors(self) -> np.ndarray:
        """(C, 5) millimetres."""
        return self.main.errors

    @property
    def relative(self) -> np.ndarray:
        """(C, 5)."""
        return self.main.relative

    @property
    def mean_error(self) -> np.ndarray:
        """(C,) millimetres."""
        return self.main.mean_error

    @property
    def mean_relative(self) -> float:
        """See `Degradation`."""
        return self.main.mean_relative


def measure_robustness(
    data: EvaluationSet,
    predict_one: Callable[[Change | None, str], Scores],
    corruptions: Sequence[Corruption] = CORRUPTIONS,
    seed: int = 0,
    clean: Scores | None = None,
) -> Robustness:
    """A network on clean pictures and under every corruption at every severity.

    Args:
        data: what `predict_one` predicts and scores.
        predict_one: scores under a change (None: clean pictures); the text says which condition of how many it is.
        seed: of all chance.
        clean: scores on clean pictures where they are known already.
    """
    conditions = [corruption.at(severity, seed) for corruption in corruptions for severity in SEVERITIES]
    total = len(conditions) + 1
    if clean is None:
        clean = predict_one(None, f"condition 1 of {total}: clean")
    clean_means = _means(clean)
    means = []
    for number, condition in enumerate(conditions, start=2):
        label = f"condition {number} of {total}: {condition.corruption.name} {condition.severity}"
        means.append(_means(predict_one(condition, label)))
    shape = len(corruptions), len(SEVERITIES)
    metrics = {name: Degradation(value, np.reshape([each[name] for each in means], shape)) for name, value in clean_means.items()}
    return Robustness(data.name, len(data), tuple(corruption.name for corruption in corruptions), SEVERITIES, metrics)


def _means(scores: Scores) -> dict[str, float]:
    means = {name: scores.mean(name) for name in ROBUSTNESS_METRICS}
    return {name: value for name, value in means.items() if value is not None}


def robustness_table(robustness: Robustness) -> Table:
    """Error over that of clean pictures, a row for each corruption; the mean error and its relative at the right."""
    metric = METRIC[ROBUSTNESS_METRICS[0]]
    table = Table(
        title=f"{metric.heading} over that of clean pictures ({robustness.clean:.{metric.digits}f}), {robustness.hands} hands",
        title_justify="left",
    )
    for heading in ("corruption", *(str(severity) for severity in robustness.severities), "mean", "mean error"):
        table.add_column(heading, justify="right" if table.columns else "left", no_wrap=True)
    for name, of_name, error in zip(robustness.names, robustness.relative, robustness.mean_error, strict=True):
        table.add_row(name, *(f"{value:.2f}" for value in (*of_name, of_name.mean())), f"{error:.{metric.digits}f}")
    table.add_section()
    by_severity = robustness.relative.mean(axis=0)
    mean_error = float(robustness.errors.mean())
    table.add_row("mean", *(f"{value:.2f}" for value in (*by_severity, robustness.mean_relative)), f"{mean_error:.{metric.digits}f}")
    return table


def robustness_to_json(robustness: Robustness) -> dict[str, Any]:
    """All of it, for scores.json; a list over severities for each corruption, in the metrics' stored units."""

    def by_name(values: np.ndarray) -> dict[str, Any]:
        return dict(zip(robustness.names, values.tolist(), strict=True))

    return {
        "data": {"name": robustness.data, "hands": robustness.hands},
        "severities": list(robustness.severities),
        "metrics": {
            name: {
                "clean": each.clean,
                "errors": by_name(each.errors),
                "mean_error": by_name(each.mean_error),
                "relative": by_name(each.relative),
                "mean_relative": each.mean_relative,
            }
            for name, each in robustness.metrics.items()
        },
    }
