"""Corruptions: what each does to the hand, how much, and what the robustness test makes of scores."""

from __future__ import annotations

import io
import json

import cv2
import numpy as np
import pytest
from rich.console import Console

from handmesh.evaluation.corruptions import (
    CORRUPTIONS,
    REACH_BOXES,
    REFERENCE_PX,
    ROBUSTNESS_METRICS,
    SEVERITIES,
    Corrupt,
    Corruption,
    Degradation,
    box_side_px,
    measure_robustness,
    robustness_table,
    robustness_to_json,
    surroundings,
)
from handmesh.evaluation.predict import Changed
from handmesh.evaluation.records import EvaluationSet
from handmesh.evaluation.scores import Scores
from handmesh.skeleton import JOINTS

NAMED = {corruption.name: corruption for corruption in CORRUPTIONS}
# The picture itself is harmed, everywhere alike.
OF_PIXELS = ("noise", "defocus", "motion blur", "compression", "low light", "low contrast", "low resolution")
every_corruption = pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda corruption: corruption.name)


def textured(height: int = 224, width: int = 224, seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8 with detail of all sizes, coarse detail strongest, and no black."""
    random = np.random.default_rng(seed)
    layers = [
        cv2.resize(random.uniform(-1, 1, (1 + height // cell, 1 + width // cell, 3)), (width, height), interpolation=cv2.INTER_CUBIC)
        * cell**0.5
        for cell in (1, 3, 8, 24)
    ]
    return np.clip(128 + 13 * sum(layers), 1, 255).astype(np.uint8)


def hand_in(middle_px: tuple[float, float], side_px: float, seed: int = 0) -> np.ndarray:
    """(21, 2) keypoints in general position whose box has this middle and larger side."""
    points = np.random.default_rng(seed).uniform(-0.5, 0.5, (len(JOINTS), 2)) * (0.8, 1.0)
    points -= (points.min(axis=0) + points.max(axis=0)) / 2
    return points / np.ptp(points, axis=0).max() * side_px + middle_px


def in_box(image: np.ndarray, keypoints_px: np.ndarray) -> np.ndarray:
    """The part of a picture in the keypoints' box, f64."""
    (x0, y0), (x1, y1) = np.rint(keypoints_px.min(axis=0)).astype(int), np.rint(keypoints_px.max(axis=0)).astype(int)
    return image[max(y0, 0) : y1 + 1, max(x0, 0) : x1 + 1].astype(np.float64)


def flat(value: int, height: int = 224, width: int = 224) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


HAND = hand_in((112.3, 108.7), REFERENCE_PX)


def test_there_are_ten_at_five_severities_under_ten_names():
    assert len(NAMED) == len(CORRUPTIONS) == 10
    assert all(len(corruption.strengths) == len(SEVERITIES) == 5 for corruption in CORRUPTIONS)


@every_corruption
def test_harm_grows_with_severity(corruption):
    harms = []
    for severity in SEVERITIES:
        of_index = []
        for index in range(6):
            image = textured(seed=index)
            changed = corruption.at(severity)(index, image, HAND)
            difference = np.square(in_box(changed.image, HAND) - in_box(image, HAND)).mean()
            of_index.append(difference + abs(changed.roll_rad))
        harms.append(np.mean(of_index))
    assert harms[0] > 0
    assert (np.diff(harms) > 0).all(), harms


@every_corruption
def test_the_same_whatever_the_order_and_the_threads_and_else_another(corruption):
    image = textured(300, 400)
    keypoints_px = hand_in((200, 150), 90)
    before, threads = image.copy(), cv2.getNumThreads()
    first = corruption.at(3, seed=7)(5, image, keypoints_px)
    try:
        cv2.setNumThreads(1)
        corruption.at(4, seed=7)(6, image, keypoints_px)
        again = corruption.at(3, seed=7)(5, image, keypoints_px)
    finally:
        cv2.setNumThreads(threads)
    np.testing.assert_array_equal(first.image, again.image)
    assert first.roll_rad == again.roll_rad
    np.testing.assert_array_equal(image, before)
    if corruption.name in ("noise", "motion blur", "low light", "occlusion", "truncation"):
        for seed, index in ((8, 5), (7, 6)):
            assert (corruption.at(3, seed)(index, image, keypoints_px).image != first.image).any()


def test_two_severities_do_not_share_their_chance():
    noise = NAMED["noise"]
    first, second = (noise.at(severity)(0, flat(128), HAND).image.astype(float).ravel() - 128 for severity in (1, 2))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02


@every_corruption
@pytest.mark.parametrize(
    ("image", "keypoints_px"),
    [
        (flat(128), HAND),
        (flat(0), HAND),
        (flat(255), HAND),
        (textured(64, 64), hand_in((32, 32), 40)),
        (textured(150, 331), hand_in((160, 70), 100)),
        (textured(480, 640), hand_in((635, 20), 110)),
        (textured(480, 640), hand_in((-900, 240), 110)),
        (textured(480, 640), np.full((21, 2), 100.0)),
        (textured(7, 5), hand_in((2, 3), 4)),
        (np.asfortranarray(textured(64, 64)), hand_in((32, 32), 40)),
        (textured(90, 60)[:, ::-1], hand_in((32, 32), 300)),
    ],
    ids=["grey", "black", "white", "tiny", "wide", "partly outside", "far outside", "a point", "minute", "fortran", "filling"],
)
def test_any_picture_keeps_its_size(corruption, image, keypoints_px):
    for severity in (1, 5):
        changed = corruption.at(severity)(0, image, keypoints_px)
        assert changed.image.shape == image.shape
        assert changed.image.dtype == np.uint8
        assert not np.shares_memory(changed.image, image)


@pytest.mark.parametrize("name", OF_PIXELS)
def test_of_large_pictures_the_hand_s_surroundings_are_harmed_and_no_more(name):
    image, keypoints_px = textured(600, 900), hand_in((430, 310), 70)
    is_changed = (NAMED[name].at(5)(0, image, keypoints_px).image != image).any(axis=2)
    rows, columns = np.nonzero(is_changed)
    reach = REACH_BOXES * 70 + 18
    assert max(abs(columns - 430).max(), abs(rows - 310).max()) <= reach
    # A crop sees 0.75 boxes to each side, rolled 1.1.
    near = is_changed[310 - 77 : 310 + 77, 430 - 77 : 430 + 77]
    assert near.mean() > 0.7


def test_small_pictures_are_harmed_whole():
    where = surroundings((224, 224, 3), hand_in((20, 20), 15))
    assert where == (slice(0, 224), slice(0, 224))


@pytest.mark.parametrize("side_px", [REFERENCE_PX, 1.7 * REFERENCE_PX])
@pytest.mark.parametrize("severity", [1, 2])
def test_noise_has_the_stated_deviation_at_middle_grey(severity, side_px):
    noise = NAMED["noise"]
    difference = noise.at(severity)(0, flat(128), hand_in((112, 112), side_px)).image.astype(float) - 128
    assert difference.std() == pytest.approx(noise.strengths[severity - 1], rel=0.03)
    assert abs(difference.mean()) < 0.3


def test_noise_grows_with_the_light_as_half_of_it_is_shot_noise():
    variances = [np.var(NAMED["noise"].at(1)(0, flat(value), HAND).image.astype(float)) for value in (64, 192)]
    assert variances[1] / variances[0] == pytest.approx((0.5 + 0.75) / (0.5 + 0.25), rel=0.06)


@pytest.mark.parametrize("name", ["noise", "low light"])
def test_noise_of_any_hand_is_the_same_once_it_is_as_small_as_the_smallest(name):
    # Averaged down to one size, a hand four times as large is as noisy.
    deviations = []
    for times in (1, 4):
        image = flat(140, 80 * times, 80 * times)
        harmed = NAMED[name].at(2)(0, image, hand_in((40 * times, 40 * times), 64 * times)).image
        deviations.append(cv2.resize(harmed, (20, 20), interpolation=cv2.INTER_AREA).astype(float).std(axis=(0, 1)).mean())
    assert deviations[1] == pytest.approx(deviations[0], rel=0.2)


@pytest.mark.parametrize("side_px", [100, 360])
@pytest.mark.parametrize("severity", SEVERITIES)
def test_defocus_makes_a_disc_of_a_point(severity, side_px):
    middle = 320
    image = flat(0, 2 * middle + 1, 2 * middle + 1)
    radius_px = NAMED["defocus"].strengths[severity - 1] * side_px
    # Not one pixel: its light, spread, would be lost in rounding.
    spot = np.hypot(*(np.mgrid[-middle : middle + 1, -middle : middle + 1])) <= 4
    image[spot] = 255
    light = NAMED["defocus"].at(severity)(0, image, hand_in((middle, middle), side_px)).image[..., 0].astype(float)
    y, x = np.mgrid[-middle : middle + 1, -middle : middle + 1]
    variance = (light * (x**2 + y**2)).sum() / light.sum()
    # Of a disc of radius r it is r^2 / 2, and variances add up.
    before = (x**2 + y**2)[spot].mean()
    assert np.sqrt(2 * (variance - before)) == pytest.approx(radius_px, rel=0.12, abs=0.5)


@pytest.mark.parametrize("side_px", [100, 360])
@pytest.mark.parametrize("severity", [2, 5])
def test_motion_makes_a_line_of_a_point(severity, side_px):
    middle = 320
    y, x = np.mgrid[-middle : middle + 1, -middle : middle + 1]
    image = flat(0, 2 * middle + 1, 2 * middle + 1)
    image[np.hypot(x, y) <= 4] = 255
    before = np.cov(np.stack([x, y])[:, image[..., 0] > 0])[0, 0]
    light = NAMED["motion blur"].at(severity)(0, image, hand_in((middle, middle), side_px)).image[..., 0].astype(float)
    across, along = np.linalg.eigvalsh(np.cov(np.stack([x.ravel(), y.ravel()]), aweights=light.ravel()))
    # Of a line of length l it is l^2 / 12.
    length_px = np.sqrt(12 * (along - before))
    assert length_px == pytest.approx(NAMED["motion blur"].strengths[severity - 1] * side_px, rel=0.12, abs=1.0)
    # A large hand is blurred at a smaller size, which smears it by less than a crop's pixel.
    assert np.sqrt(12 * max(across - before, 0)) < max(2.5, side_px / 60)


def test_motion_goes_anywhere():
    angles = []
    for index in range(40):
        image = flat(0, 101, 101)
        image[48:53, 48:53] = 255
        light = NAMED["motion blur"].at(5)(index, image, hand_in((50, 50), 100)).image[..., 0].astype(float)
        y, x = np.mgrid[:101, :101]
        _, axes = np.linalg.eigh(np.cov(np.stack([x.ravel(), y.ravel()]), aweights=light.ravel()))
        angles.append(np.arctan2(axes[1, 1], axes[0, 1]) % np.pi)
    assert (np.histogram(angles, 4, (0, np.pi))[0] >= 3).all()


@pytest.mark.parametrize("severity", SEVERITIES)
def test_compression_is_one_round_trip_through_jpeg(severity):
    image = textured(200, 240)
    quality = int(NAMED["compression"].strengths[severity - 1])
    code = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    expected = cv2.cvtColor(cv2.imdecode(code, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    np.testing.assert_array_equal(NAMED["compression"].at(severity)(0, image, HAND).image, expected)


def test_compression_of_a_part_has_its_blocks_where_the_whole_picture_has_them():
    image, keypoints_px = textured(500, 700), hand_in((333, 277), 75)
    compressed = NAMED["compression"].at(4)(0, image, keypoints_px).image
    code = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(NAMED["compression"].strengths[3])])[1]
    whole = cv2.imdecode(code, cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(in_box(compressed, keypoints_px), in_box(whole, keypoints_px))


@pytest.mark.parametrize("severity", SEVERITIES)
def test_low_light_darkens_by_the_root_of_the_light_and_drowns_detail(severity):
    light = NAMED["low light"].strengths[severity - 1]
    image = textured()
    dark = NAMED["low light"].at(severity)(0, image, HAND).image.astype(float)
    expected = image * np.sqrt(light)
    # Blurred, so that the noise is gone.
    assert cv2.blur(dark, (31, 31)).mean() == pytest.approx(expected.mean(), rel=0.05)
    ratio = np.var(dark - expected) / np.var(expected)
    brighter = NAMED["low light"].at(1)(0, image, HAND).image - image * np.sqrt(NAMED["low light"].strengths[0])
    assert severity == 1 or ratio > np.var(brighter) / np.var(image * np.sqrt(NAMED["low light"].strengths[0]))


@pytest.mark.parametrize("severity", SEVERITIES)
def test_low_contrast_scales_the_deviation_and_keeps_the_mean(severity):
    image = textured()
    pale = NAMED["low contrast"].at(severity)(0, image, HAND).image.astype(float)
    contrast = NAMED["low contrast"].strengths[severity - 1]
    np.testing.assert_allclose(pale.mean(axis=(0, 1)), image.mean(axis=(0, 1)), atol=0.5)
    # Rounding has a variance of 1/12.
    np.testing.assert_allclose(pale.var(axis=(0, 1)) - 1 / 12, np.square(contrast) * image.var(axis=(0, 1)), rtol=0.02)


@pytest.mark.parametrize("side_px", [100, 250])
@pytest.mark.parametrize("severity", SEVERITIES)
def test_low_resolution_leaves_no_detail_above_its_nyquist_frequency(severity, side_px):
    size = 480
    image = textured(size, size)
    across = NAMED["low resolution"].strengths[severity - 1]
    coarse = NAMED["low resolution"].at(severity)(0, image, hand_in((240, 240), side_px)).image
    part = slice(240 - 90, 240 + 90)
    power = [
        np.square(np.abs(np.fft.fft2((each[part, part, 1] - each[part, part, 1].mean()) * np.outer(np.hanning(180), np.hanning(180)))))
        for each in (image.astype(float), coarse.astype(float))
    ]
    frequency = np.maximum(*np.abs(np.meshgrid(np.fft.fftfreq(180), np.fft.fftfreq(180))))
    nyquist = 0.5 * across / side_px
    above, below = frequency > 2 * nyquist, (frequency < 0.4 * nyquist) & (frequency > 0)
    # Linear interpolation leaves faint images of what is below.
    assert power[1][above].sum() < 0.1 * power[0][above].sum()
    assert power[1][below].sum() > 0.6 * power[0][below].sum()


def test_low_resolution_spares_a_hand_that_has_no_more_pixels():
    image = textured(64, 64)
    np.testing.assert_array_equal(NAMED["low resolution"].at(1)(0, image, hand_in((32, 32), 30)).image, image)


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("shift", [0, 60], ids=["inside", "partly outside"])
def test_occlusion_covers_the_stated_share_of_the_box(severity, shift):
    share = NAMED["occlusion"].strengths[severity - 1]
    keypoints_px = HAND + (shift, 0)
    for index in range(12):
        covered = (in_box(NAMED["occlusion"].at(severity)(index, flat(0), keypoints_px).image, keypoints_px) > 0).any(axis=2)
        assert covered.mean() == pytest.approx(share, abs=0.025)


def test_occlusion_hides_joints_and_has_texture():
    hidden, spreads = [], []
    for index in range(30):
        image = NAMED["occlusion"].at(5)(index, flat(0), HAND).image
        covered = image.any(axis=2)
        x, y = np.rint(HAND).astype(int).T
        hidden.append(covered[y, x].mean())
        spreads.append(image[covered].std())
    assert np.mean(hidden) == pytest.approx(NAMED["occlusion"].strengths[4], abs=0.15)
    assert min(hidden) > 0
    assert np.median(spreads) > 15


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("width", [224, 640], ids=["small", "large"])
def test_truncation_hides_the_stated_joints_beyond_a_straight_line(severity, width):
    image = flat(200, 224, width)
    keypoints_px = np.rint(hand_in((width - 100, 108), 180))
    for index in range(8):
        is_black = ~NAMED["truncation"].at(severity)(index, image, keypoints_px).image.any(axis=2)
        x, y = keypoints_px.astype(int).T
        assert is_black[y, x].sum() == round(NAMED["truncation"].strengths[severity - 1] * len(JOINTS))
        # Both sides of a line are convex: the middle of two points of a side is on that side.
        assert _is_convex(is_black)
        assert _is_convex(~is_black)


def _is_convex(mask: np.ndarray) -> bool:
    points = np.argwhere(mask)
    if not len(points):
        return True
    middles = points + np.random.default_rng(0).permutation(points)
    rows, columns = middles[(middles % 2 == 0).all(axis=1)].T // 2
    return bool(mask[rows, columns].all())


@pytest.mark.parametrize("severity", SEVERITIES)
def test_rotation_only_rolls_to_either_side(severity):
    image = textured()
    changes = [NAMED["rotation"].at(severity)(index, image, HAND) for index in range(40)]
    assert all((changed.image == image).all() for changed in changes)
    rolls_deg = np.degrees([changed.roll_rad for changed in changes])
    np.testing.assert_allclose(np.abs(rolls_deg), NAMED["rotation"].strengths[severity - 1])
    assert 8 < (rolls_deg > 0).sum() < 32


@pytest.mark.parametrize("name", [name for name in NAMED if name != "rotation"])
def test_only_rotation_rolls(name):
    assert NAMED[name].at(3)(0, textured(), HAND).roll_rad == 0


def test_severities_are_one_to_five():
    for severity in (0, 6):
        with pytest.raises(ValueError, match="1 to 5"):
            NAMED["noise"].at(severity)


def test_the_unit_is_the_larger_side_of_the_box():
    assert box_side_px(np.array([[10.0, 20.0], [40.0, 25.0]])) == 30
    assert box_side_px(np.zeros((21, 2))) > 0


def made_scores(**columns: np.ndarray) -> Scores:
    zeros = np.zeros(len(JOINTS))
    return Scores(columns, zeros, zeros, np.zeros(100), None, None, None, ())


@pytest.fixture
def data() -> EvaluationSet:
    return EvaluationSet(
        "made", np.random.default_rng(0).uniform(0.4, 0.6, (3, 21, 3)), np.tile(np.eye(3), (3, 1, 1)), lambda index: flat(index)
    )


def of_change(change: Corrupt | None) -> float:
    if change is None:
        return 4.0
    return 4.0 + 10 * [corruption.name for corruption in CORRUPTIONS].index(change.corruption.name) + change.severity


def predicted(change, label):
    error = of_change(change)
    return made_scores(pa_mpjpe_proper_mm=error + np.array([-1.0, 0.0, 1.0]), mpjpe_root_mm=np.full(3, 2 * error))


def test_robustness_asks_51_conditions_and_takes_their_means(data):
    asked = []

    def predict_one(change, label):
        asked.append((change, label))
        return predicted(change, label)

    robustness = measure_robustness(data, predict_one, seed=3)
    assert len(asked) == 51
    assert [label.split(":")[0] for _, label in asked] == [f"condition {number} of 51" for number in range(1, 52)]
    assert asked[0][0] is None
    assert {(change.corruption.name, change.severity, change.seed) for change, _ in asked[1:]} == {
        (name, severity, 3) for name in NAMED for severity in SEVERITIES
    }
    expected = 4.0 + 10 * np.arange(10)[:, None] + np.arange(1, 6)
    assert robustness.names == tuple(NAMED)
    assert robustness.clean == 4
    np.testing.assert_allclose(robustness.errors, expected)
    np.testing.assert_allclose(robustness.relative, expected / 4)
    np.testing.assert_allclose(robustness.mean_error, 7 + 10 * np.arange(10))
    assert robustness.mean_relative == pytest.approx((7 + 45) / 4)
    # A metric that does not apply is not there.
    assert set(robustness.metrics) == set(ROBUSTNESS_METRICS[:2])
    np.testing.assert_allclose(robustness.metrics["mpjpe_root_mm"].errors, 2 * expected)


def test_robustness_does_not_ask_for_what_is_known(data):
    asked = []

    def predict_one(change, label):
        asked.append(change)
        return predicted(change, label)

    clean = predicted(None, "")
    robustness = measure_robustness(data, predict_one, corruptions=CORRUPTIONS[:2], clean=clean)
    assert len(asked) == 10
    assert None not in asked
    assert robustness.clean == 4
    assert robustness.errors.shape == (2, 5)


def test_a_corruption_of_one_s_own_reaches_the_pictures(data):
    def blacken(image, keypoints_px, strength, random):
        return Changed(image * 0)

    black = Corruption("black", "nothing is seen", "none", (1, 2, 3, 4, 5), blacken)
    seen = []

    def predict_one(change, label):
        seen.append(change is not None and change(0, flat(9), HAND).image.max())
        return predicted(None, label)

    measure_robustness(data, predict_one, corruptions=(black,))
    assert seen == [False, 0, 0, 0, 0, 0]


def test_errors_relative_to_another_network_s_are_imagenet_c_s():
    ours, theirs = Degradation(1.0, np.array([[1.0, 3.0], [2.0, 2.0]])), Degradation(9.0, np.array([[2.0, 2.0], [8.0, 8.0]]))
    assert ours.relative_to(theirs) == pytest.approx((4 / 4 + 4 / 16) / 2)
    assert ours.relative_to(ours) == 1


def test_the_table_and_the_json_say_the_same(data):
    robustness = measure_robustness(data, predicted)
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(robustness_table(robustness))
    text = console.export_text()
    stored = json.loads(json.dumps(robustness_to_json(robustness)))
    main = stored["metrics"][ROBUSTNESS_METRICS[0]]
    for name in NAMED:
        line = next(line for line in text.splitlines() if name in line)
        shown = [cell.strip() for cell in line.replace("┃", "│").split("│") if cell.strip()]
        assert shown[0] == name
        np.testing.assert_allclose([float(cell) for cell in shown[1:6]], main["relative"][name], atol=0.006)
        assert float(shown[6]) == pytest.approx(np.mean(main["relative"][name]), abs=0.006)
        assert float(shown[7]) == pytest.approx(main["mean_error"][name], abs=0.006)
    assert main["mean_relative"] == pytest.approx(robustness.mean_relative)
    assert stored["severities"] == [1, 2, 3, 4, 5]
