"""Adult hands as betas of the open hand: drawn by sex so that length and breadth have the published spread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

# Hand length (wrist crease to middle fingertip) and breadth across the knuckles, mm, mean and standard deviation.
MALE_LENGTH_MM, MALE_BREADTH_MM = (183.0, 10.0), (84.0, 4.0)
FEMALE_LENGTH_MM, FEMALE_BREADTH_MM = (166.0, 8.0), (75.0, 4.0)
# Within a sex, long hands are broad hands: the correlation lies between 0.5 and 0.7 in published surveys.
LENGTH_TO_BREADTH = 0.6

# What one deviation of the open hand's first two betas does, so that both have mean 0 and deviation 1 over all adults.
MEAN_LENGTH_MM = (MALE_LENGTH_MM[0] + FEMALE_LENGTH_MM[0]) / 2
MEAN_BREADTH_MM = (MALE_BREADTH_MM[0] + FEMALE_BREADTH_MM[0]) / 2
LENGTH_SPREAD_MM = float(
    np.sqrt((MALE_LENGTH_MM[1] ** 2 + FEMALE_LENGTH_MM[1] ** 2) / 2 + ((MALE_LENGTH_MM[0] - FEMALE_LENGTH_MM[0]) / 2) ** 2)
)
# "size" changes breadth by as much as goes with length among men or women; "palm_breadth" does the rest.
BREADTH_PER_SIZE_MM = LENGTH_TO_BREADTH * MALE_BREADTH_MM[1] / MALE_LENGTH_MM[1] * LENGTH_SPREAD_MM

Sex = Literal["female", "male"]


@dataclass(frozen=True)
class _FirstBetas:
    """Mean and deviation of "size" and of "palm_breadth" in one sex; breadth is in units of `breadth_unit_mm`."""

    mean: tuple[float, float]
    deviation: tuple[float, float]


def _first_betas(length_mm: tuple[float, float], breadth_mm: tuple[float, float], breadth_unit_mm: float) -> _FirstBetas:
    size, size_spread = (length_mm[0] - MEAN_LENGTH_MM) / LENGTH_SPREAD_MM, length_mm[1] / LENGTH_SPREAD_MM
    breadth_left = breadth_mm[0] - MEAN_BREADTH_MM - BREADTH_PER_SIZE_MM * size
    spread_left = np.sqrt(breadth_mm[1] ** 2 - (BREADTH_PER_SIZE_MM * size_spread) ** 2)
    return _FirstBetas((size, breadth_left / breadth_unit_mm), (size_spread, float(spread_left) / breadth_unit_mm))


def _breadth_unit_mm() -> float:
    """The spread of what "size" leaves of breadth over both sexes."""
    sexes = [_first_betas(*measures, 1.0) for measures in ((MALE_LENGTH_MM, MALE_BREADTH_MM), (FEMALE_LENGTH_MM, FEMALE_BREADTH_MM))]
    return float(np.sqrt(np.mean([sex.mean[1] ** 2 + sex.deviation[1] ** 2 for sex in sexes])))


BREADTH_SPREAD_MM = _breadth_unit_mm()
_SEXES: dict[str, _FirstBetas] = {
    "male": _first_betas(MALE_LENGTH_MM, MALE_BREADTH_MM, BREADTH_SPREAD_MM),
    "female": _first_betas(FEMALE_LENGTH_MM, FEMALE_BREADTH_MM, BREADTH_SPREAD_MM),
}


def sample_betas(rng: np.random.Generator, sex: Sex, count: int) -> np.ndarray:
    """Betas of adults for the open hand (`load_hand_model("open")`).

    "size" and "palm_breadth" follow the sex; the other eight are standard normal. Over both sexes all ten have
    mean 0 and deviation 1, so a plain normal sample is a crowd of adults too, with sizes and breadths less paired.

    Args:
        rng: the source of chance.
        sex: "female" or "male".
        count: how many people.

    Returns:
        (count, 10).
    """
    betas = rng.normal(0, 1, (count, 10))
    first = _SEXES[sex]
    betas[:, :2] = np.array(first.mean) + np.array(first.deviation) * betas[:, :2]
    return betas
