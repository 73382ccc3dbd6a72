"""report.html: one file that needs nothing, holds every number, and is honest where there is none."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from handmesh.errors import UserError
from handmesh.evaluation import report as report_module
from handmesh.evaluation.cases import PREDICTION_RGB, TRUTH_RGB, choose_random, choose_worst, draw_case
from handmesh.evaluation.corruptions import ROBUSTNESS_METRICS, Degradation, Robustness
from handmesh.evaluation.published import NOT_STATED, PUBLISHED
from handmesh.evaluation.records import EvaluationSet, Predictions
from handmesh.evaluation.report import Entry, Report, report_html
from handmesh.evaluation.scores import METRIC, METRICS, score
from handmesh.geometry.rotation import rotvec_to_rotmat
from handmesh.hand_model.skinning import skin

HOSTILE = "<script>alert(1)</script>"
FOCAL_PX = 260.0
K = np.array([[FOCAL_PX, 0, 79.5], [0, FOCAL_PX, 59.5], [0, 0, 1]])
VOID = {"meta", "img", "link", "br", "hr", "input"}


def hands_of(model, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and joints of relaxed hands turned in all ways, about 0.6 m before the camera."""
    rng = np.random.default_rng(seed)
    rotmats = np.repeat(model.mean_rotmats()[None], count, axis=0).astype(np.float64)
    rotmats[:, 0] = rotvec_to_rotmat(rng.normal(0, 1, (count, 3)))
    vertices_m = skin(model.astype(np.float64), rotmats, np.zeros((count, 10)))
    vertices_m += [0, 0, 0.6] - vertices_m.mean(axis=1, keepdims=True)
    return vertices_m, model.joints(vertices_m)


def picture(index: int) -> np.ndarray:
    return np.full((120, 160, 3), 40 + index, np.uint8)


def a_set(model, count: int, **changes) -> EvaluationSet:
    vertices_m, joints_m = hands_of(model, count)
    data = EvaluationSet("some hands", joints_m, np.repeat(K[None], count, 0), picture, vertices_m, model.id)
    return replace(data, **changes)


def noisy(data: EvaluationSet, noise_m: float = 0.004) -> Predictions:
    rng = np.random.default_rng(1)
    moved = 1 + rng.normal(0, 0.02, (len(data), 1, 1))
    assert data.vertices_m is not None
    return Predictions(data.joints_m * moved + rng.normal(0, noise_m, data.joints_m.shape), data.vertices_m * moved, data.topology)


def a_report(model, count: int = 4, data: EvaluationSet | None = None, predictions: Predictions | None = None, **changes) -> Report:
    data = a_set(model, count) if data is None else data
    predictions = noisy(data) if predictions is None else predictions
    mean = Predictions(np.repeat(data.joints_m[:1], len(data), 0))
    faces = None if predictions.topology != model.id else model.faces
    entry = Entry("net.onnx", "crop gt, nothing else", predictions, score(predictions, data))
    baselines = (Entry("mean hand", "the same hand always", mean, score(mean, data)),)
    versions = {"numpy": np.__version__}
    truth_faces = None if data.vertices_m is None else model.faces
    return replace(Report(data, entry, baselines, None, "handmesh-eval --data x", versions, 1, faces, truth_faces), **changes)


def robustness() -> Robustness:
    errors = np.array([[6.0, 7, 8, 9, 10], [5.5, 6, 7, 8, 12.34]])
    return Robustness("some hands", 4, ("noise", HOSTILE), (1, 2, 3, 4, 5), {ROBUSTNESS_METRICS[0]: Degradation(5.0, errors)})


class _Page(HTMLParser):
    """Checks that tags are closed in order, and gathers what a browser would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value or "" for key, value in attrs if key in ("src", "href", "data", "srcset", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def shown_text(html: str) -> str:
    """What stands on the page, without pictures and tags."""
    text = re.sub(r"<style>.*?</style>", "", html, flags=re.S)
    return unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", text)))


@pytest.fixture(scope="module")
def page(hand_model) -> str:
    return report_html(a_report(hand_model, robustness=robustness()))


def test_one_file_that_loads_nothing(page):
    parsed = _Page(page)
    assert all(source.startswith(("data:image/webp;base64,", "#")) for source in parsed.sources)
    assert "script" not in parsed.tags and "link" not in parsed.tags
    assert "http" not in page and "url(" not in page and "@import" not in page
    assert len(page) < 6e6 / 12


def test_links_lead_to_sections(page):
    for target in re.findall(r'href="#(\w+)"', page):
        assert page.count(f'id="{target}"') == 1


def test_charts_are_valid_and_nothing_is_nan(page):
    charts = re.findall(r"<svg.*?</svg>", page, flags=re.S)
    assert len(charts) == 6
    for chart in charts:
        assert ElementTree.fromstring(chart).findtext("title")
    assert not re.search(r"\b(nan|inf|None)\b", shown_text(page))


def test_every_metric_has_its_heading_value_and_meaning(hand_model):
    report = a_report(hand_model)
    text = shown_text(report_html(report))
    for metric in METRICS:
        value = report.entry.scores.mean(metric.name)
        # Twins are a column of their official metric's row.
        if "_proper" not in metric.name:
            assert metric.heading in text
        if value is not None:
            assert metric.shown(value) in text
    assert report.data.name in text and report.entry.setting in text and "n/a (no video)" in text


def test_what_users_wrote_is_text(hand_model):
    report = a_report(hand_model, command=f"handmesh-eval {HOSTILE}", versions={HOSTILE: HOSTILE}, robustness=robustness())
    entry, data = replace(report.entry, name=HOSTILE, setting=HOSTILE), replace(report.data, name=HOSTILE)
    html = report_html(replace(report, entry=entry, data=data, baselines=(entry,)))
    assert "<script" not in html
    assert _Page(html).tags.count("script") == 0
    assert shown_text(html).count(HOSTILE) > 8


def test_published_numbers_are_all_there_and_set_apart(hand_model):
    text = shown_text(report_html(a_report(hand_model)))
    for row in PUBLISHED:
        assert row.name in text
    assert "not on this data" in text and NOT_STATED in text
    data = a_set(hand_model, 3, name="FreiHAND", topology="mano-right")
    same = shown_text(report_html(a_report(hand_model, data=data)))
    assert "not on this data" not in same and "Same pictures, same metric" in same


def test_published_values_are_plausible():
    for row in PUBLISHED:
        for millimetres in (row.pa_mpjpe_mm, row.pa_mpvpe_mm):
            assert millimetres is None or 4 < millimetres < 15
        assert row.f_5mm is not None and (row.f_15mm is None or row.f_5mm < row.f_15mm < 1)
    assert len({row.name for row in PUBLISHED}) == len(PUBLISHED)


def test_another_topology_has_no_vertex_numbers(hand_model):
    data = a_set(hand_model, 3)
    assert data.vertices_m is not None
    predictions = Predictions(data.joints_m * 1.01, data.vertices_m[:, ::2] * 1.01, "another")
    report = a_report(hand_model, data=data, predictions=predictions)
    text = shown_text(report_html(report))
    assert "n/a (topology)" in text and "aligned by the 21 joints" in text
    assert report.entry.scores.f_alignment == "joints"


def test_joints_alone_are_drawn_as_bones(hand_model):
    data = a_set(hand_model, 3, vertices_m=None, topology=None)
    text = report_html(a_report(hand_model, data=data, predictions=Predictions(data.joints_m * 1.02)))
    assert "n/a (no mesh)" in text and text.count('class="case"') == 6


def test_warnings_are_said_above_the_numbers(hand_model):
    data = a_set(hand_model, 4)
    predictions = Predictions(data.joints_m * [-1, 1, 1])
    report = a_report(hand_model, data=data, predictions=predictions)
    assert report.entry.scores.warnings
    html = report_html(report)
    for line in report.entry.scores.warnings:
        assert line[1:] in unescape(html[: html.index("PA-MPJPE</div>")])
    assert "without reflection" in html[html.index('class="case"') :]


def test_hands_that_are_not_placed_are_drawn_where_they_align(hand_model):
    data = a_set(hand_model, 2)
    root = data.joints_m[:, 9:10]
    predictions = Predictions(data.joints_m - root, data.vertices_m - root, data.topology)
    html = report_html(a_report(hand_model, data=data, predictions=predictions))
    assert "aligned to the truth, as it is not placed" in html
    assert "n/a (not placed)" in html and "outside of this crop" not in html


def test_tiles_are_the_worst_and_the_random_ones(hand_model, monkeypatch):
    monkeypatch.setattr(report_module, "TILES", 3)
    report = a_report(hand_model, 7, every=5)
    html = report_html(report)
    order = np.argsort(-report.entry.scores.samples["pa_mpjpe_mm"], kind="stable")
    numbers = [int(number) for number in re.findall(r"<span>hand (\d+)</span>", html)]
    assert numbers == [*(5 * order[:3]), *(5 * choose_random(7, 3))]
    assert "one in 5" in shown_text(html)
    images = [Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall(r"base64,([^\"]+)", html)]
    assert len(images) == 18
    assert {image.size for image in images} == {images[0].size}


def test_the_same_report_is_the_same_text(hand_model, monkeypatch):
    monkeypatch.setattr(report_module, "TILES", 2)
    report = a_report(hand_model, 3)
    assert report_html(report) == report_html(report)


def test_robustness_is_there_where_it_was_measured(page, hand_model):
    text = shown_text(page)
    assert "12.34" in text and "2.47" in text and "When pictures get worse" in text
    assert METRIC[ROBUSTNESS_METRICS[0]].heading in text
    assert "When pictures get worse" not in shown_text(report_html(a_report(hand_model, 2)))


def test_numbers_alone_are_enough(hand_model):
    data = a_set(hand_model, 2, K=None, image=None)
    html = report_html(a_report(hand_model, data=data))
    assert html.count("no picture here") == 4


def test_a_picture_that_cannot_be_read_is_said(hand_model):
    def missing(index: int) -> np.ndarray:
        raise UserError("no picture")

    data = a_set(hand_model, 2, image=missing)
    case = draw_case(data, noisy(data), 1, hand_model.faces, hand_model.faces, is_placed=True)
    assert not case.has_picture and not case.is_outside
    assert (case.picture == case.picture[0, 0]).all() and (case.overlay != case.picture).any()


def test_choosing():
    errors = np.array([1.0, 5.0, 2.0, 5.0])
    assert choose_worst(errors, 3).tolist() == [1, 3, 2]
    assert choose_worst(errors, 9).tolist() == [1, 3, 2, 0]
    chosen = choose_random(100, 24)
    assert len(set(chosen.tolist())) == 24 and chosen.max() < 100 and (np.diff(chosen) > 0).all()
    assert (chosen == choose_random(100, 24)).all()
    assert choose_random(5, 24).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("has_mesh", [True, False])
def test_a_case_shows_the_hand_where_it_is(hand_model, has_mesh):
    data = a_set(hand_model, 2)
    exact = Predictions(data.joints_m, data.vertices_m, data.topology)
    faces = hand_model.faces if has_mesh else None
    case = draw_case(data, exact, 0, faces, faces, is_placed=True)
    drawn = (case.overlay != case.picture).any(axis=-1)
    rows, columns = np.nonzero(drawn)
    size = len(drawn)
    # The crop is 1.5 times the box of the joints, and turned to its middle.
    assert abs(rows.min() + rows.max() - size) < 0.25 * size and abs(columns.min() + columns.max() - size) < 0.25 * size
    assert 0.5 < max(np.ptp(rows), np.ptp(columns)) / size < 0.95
    away = replace(exact, joints_m=data.joints_m + [3, 0, 0], vertices_m=None if data.vertices_m is None else data.vertices_m + [3, 0, 0])
    far = draw_case(data, away, 0, faces, faces, is_placed=True)
    assert far.is_outside and (far.overlay == far.picture).all()
    # Aligned, they are one hand.
    assert np.abs(far.side.astype(int) - case.side).mean() < 1
    behind = replace(exact, joints_m=-data.joints_m, vertices_m=None if data.vertices_m is None else -data.vertices_m)
    assert draw_case(data, behind, 0, faces, faces, is_placed=True).is_outside


@pytest.mark.parametrize("has_mesh", [True, False])
def test_the_side_view_shows_depth_which_the_picture_hides(hand_model, has_mesh):
    """A hand stretched in depth: from the side, its colour reaches over the truth at the left and at the right, not above."""
    data = a_set(hand_model, 1)
    assert data.vertices_m is not None
    faces = hand_model.faces if has_mesh else None
    middle_m = data.joints_m.mean(axis=1, keepdims=True)

    def deep(points_m: np.ndarray) -> np.ndarray:
        return middle_m + (points_m - middle_m) * [1, 1, 3]

    case = draw_case(data, Predictions(deep(data.joints_m), deep(data.vertices_m), data.topology), 0, faces, faces, is_placed=True)
    solid = case.side[..., 3] > 200
    blue = case.side[..., 2].astype(int) - case.side[..., 0]
    ours, truth = solid & (blue > 40), solid & (np.abs(blue) < 15)
    across_ours, across_truth = (np.ptp(np.nonzero(mask)[1]) for mask in (ours, truth))
    assert PREDICTION_RGB[2] > PREDICTION_RGB[0] + 0.2 and abs(TRUTH_RGB[2] - TRUTH_RGB[0]) < 0.05
    assert across_ours > 1.2 * across_truth
    assert solid.any(axis=0).sum() >= ours.any(axis=0).sum()


def test_a_left_hand_is_lit_as_a_right_one(hand_model):
    """Mirrored hands have their triangles the other way round."""
    data = a_set(hand_model, 1)
    assert data.vertices_m is not None
    mirror = np.array([-1.0, 1.0, 1.0])
    left = replace(data, joints_m=data.joints_m * mirror, vertices_m=data.vertices_m * mirror, is_left=np.ones(1, bool))
    cases = []
    for one in (data, left):
        assert one.vertices_m is not None
        cases.append(draw_case(one, Predictions(one.joints_m, one.vertices_m, one.topology), 0, hand_model.faces, hand_model.faces, True))
    ours, mirrored = ((case.overlay != case.picture).any(axis=-1) for case in cases)
    assert np.mean(ours != mirrored[:, ::-1]) < 0.02
    brightness = [case.overlay[mask].mean() for case, mask in zip(cases, (ours, mirrored), strict=True)]
    assert abs(brightness[0] - brightness[1]) < 25
