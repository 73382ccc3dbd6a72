"""Charts are valid XML that shows what it was given, whatever that was."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from handmesh.evaluation.charts import Line, bar_chart, hand_diagram, heat_map, histogram, line_chart, round_ticks
from handmesh.skeleton import BONES, JOINTS

HOSTILE = '<script>alert("1")</script> & \x00 nothing'
X_MM = np.linspace(0, 50, 100)


def one_of_each(name: str = HOSTILE, broken: bool = False) -> dict[str, str]:
    """Every kind of chart, with some numbers missing where `broken`."""
    rng = np.random.default_rng(0)
    curve, of_fingers, cells, joints = rng.uniform(0, 1, 100), rng.uniform(1, 9, 3), rng.uniform(0.9, 4, (2, 5)), rng.uniform(2, 9, 21)
    if broken:
        for values in (curve, of_fingers, cells, joints):
            values.flat[1] = np.nan
    square = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    lines = [Line(name, "AUC 0.5", curve), Line("mean", "AUC 0.2", curve / 2)]
    bars = [Line(name, "", of_fingers), Line("mean", "", of_fingers * 2)]
    return {
        "line": line_chart(X_MM, lines, name, "mm", "%"),
        "histogram": histogram(rng.gamma(2, 4, 50), name, "mm", "hands", [("median 8", 8.0), ("most 20", 20.0)]),
        "bars": bar_chart((name, "thumb", "index"), bars, name, "mm"),
        "heat": heat_map([name, "blur"], list("12345"), cells, name, "severity"),
        "hand": hand_diagram([square], rng.uniform(-1, 1, (21, 2)), BONES, JOINTS, joints, name),
    }


def texts(svg: str) -> list[str]:
    return ["".join(element.itertext()) for element in ElementTree.fromstring(svg).iter("text")]


def numbers(svg: str) -> list[float]:
    """Every coordinate of a chart."""
    found = []
    for element in ElementTree.fromstring(svg).iter():
        for key in ("d", "x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "width", "height", "viewBox"):
            found += [float(text) for text in re.findall(r"-?\d+\.?\d*", element.get(key, ""))]
    return found


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("kind", ["line", "histogram", "bars", "heat", "hand"])
def test_every_chart_is_clean_xml_with_a_title(kind, broken):
    svg = one_of_each(broken=broken)[kind]
    root = ElementTree.fromstring(svg)
    assert root.tag == "svg"
    assert "alert" in (root.findtext("title") or "")
    assert root.find(".//script") is None
    assert not re.search(r"\b(nan|inf|None)\b", svg)
    assert "http" not in svg
    assert numbers(svg)


def test_a_missing_number_is_said():
    for kind in ("heat", "hand"):
        assert "n/a" in texts(one_of_each(broken=True)[kind])
        assert "n/a" not in texts(one_of_each(broken=False)[kind])


def test_a_missing_point_breaks_the_line():
    curve = np.linspace(0, 1, 100)
    whole = line_chart(X_MM, [Line("a", "", curve)], "t", "x", "y")
    curve[50] = np.nan
    broken = line_chart(X_MM, [Line("a", "", curve)], "t", "x", "y")

    def starts(svg: str) -> int:
        paths = [element.get("d", "") for element in ElementTree.fromstring(svg).iter("path") if element.get("class") == "line main"]
        return max(paths, key=len).count("M")

    assert (starts(whole), starts(broken)) == (1, 2)


def test_a_line_goes_through_its_values():
    svg = line_chart(np.array([0.0, 25.0, 50.0]), [Line("a", "", np.array([0.0, 0.5, 1.0]))], "t", "x", "y")
    path = next(element.get("d", "") for element in ElementTree.fromstring(svg).iter("path") if element.get("class") == "line main")
    points = np.array([[float(value) for value in point.split()] for point in path[1:].split("L")])
    assert np.allclose(points[1], points[[0, 2]].mean(axis=0), atol=0.02)
    # Up is less in a picture.
    assert points[2, 1] < points[0, 1] and points[2, 0] > points[0, 0]


@pytest.mark.parametrize(("low", "high"), [(0, 50), (0, 0.013), (0, 7e4), (0.3, 0.31), (0, 1)])
def test_ticks_are_round_few_and_inside(low, high):
    ticks = round_ticks(low, high)
    steps = np.diff(ticks)
    assert 2 <= len(ticks) <= 7
    assert low - 1e-9 <= min(ticks) and max(ticks) <= high * (1 + 1e-9)
    assert np.allclose(steps, steps[0])
    mantissa = steps[0] / 10 ** np.floor(np.log10(steps[0]) + 1e-9)
    assert np.isclose([1, 2, 5], mantissa, rtol=1e-6).any()


@pytest.mark.parametrize("values", [np.full(7, 3.0), np.zeros(5), np.array([1e-9]), np.append(np.ones(400), 900.0), np.zeros(0)])
def test_a_histogram_counts_every_hand_once(values):
    svg = histogram(values, "t", "mm", "hands")
    bars = [element.findtext("title") or "" for element in ElementTree.fromstring(svg).iter("rect")]
    counted = sum(int(bar.rsplit(" ", 1)[1]) for bar in bars)
    beyond = sum(int(text.split()[0]) for text in texts(svg) if "more beyond" in text)
    assert counted + beyond == len(values)
    assert beyond == (1 if len(values) == 401 else 0)


def test_heat_rises_with_the_value():
    values = np.array([[0.95, 1.0, 1.4, 2.0, 5.0]])
    svg = heat_map(["noise"], list("12345"), values, "t", "severity")
    heats = [float(element.get("fill-opacity", "")) for element in ElementTree.fromstring(svg).iter("rect")]
    assert heats == sorted(heats) and heats[0] == heats[1] < heats[2] and heats[-1] == 1
    assert [text for text in texts(svg) if "." in text] == ["0.95", "1.00", "1.40", "2.00", "5.00"]


def test_discs_lie_where_the_joints_are_and_grow_with_the_error():
    points = np.random.default_rng(1).uniform(-1, 1, (21, 2))
    values = np.arange(21.0)
    svg = hand_diagram([points], points, BONES, JOINTS, values, "t")
    rings = [element for element in ElementTree.fromstring(svg).iter("circle") if element.get("class") == "ring"]
    at = np.array([[float(ring.get("cx", "")), float(ring.get("cy", ""))] for ring in rings])
    radii = np.array([float(ring.get("r", "")) for ring in rings])
    # One scale and shift for all.
    scale = np.ptp(at, axis=0) / np.ptp(points, axis=0)
    assert np.allclose(scale, scale[0], rtol=1e-3)
    assert np.allclose((at - at[0]) / scale, points - points[0], atol=1e-3)
    assert (np.diff(radii) > 0).all()


def test_all_zero_errors_are_no_division_by_zero():
    points = np.random.default_rng(1).uniform(-1, 1, (21, 2))
    assert "0.0" in texts(hand_diagram([points], points, BONES, JOINTS, np.zeros(21), "t"))
    bar_chart(["thumb"], [Line("a", "", np.zeros(1))], "t", "mm")
    heat_map(["noise"], ["1"], np.ones((1, 1)), "t", "severity")
