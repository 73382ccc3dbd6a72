"""Paired bootstrap: it covers what is true, takes pairs and blocks for what they are, and compares nothing that differs."""

import json
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from handmesh.errors import UserError
from handmesh.evaluation.comparison import compare, compare_all, comparison_table, read_samples
from handmesh.evaluation.scores import SCORES_FORMAT

ERROR, SHARE = "pa_mpjpe_mm", "f_5mm_aligned"


def made(rng, count=60, second_off=0.5):
    """Two methods that find the same hands hard: large errors in common, small differences."""
    hard = rng.gamma(4, 2, count)
    return {ERROR: hard + rng.normal(0, 0.3, count)}, {ERROR: hard + second_off + rng.normal(0, 0.8, count)}


def test_intervals_hold_the_true_difference_about_95_times_of_100():
    rng = np.random.default_rng(0)
    held = [(d.low <= 0.5 <= d.high) for d in (compare(*made(rng), draws=400, seed=seed)[0] for seed in range(400))]
    # Three standard errors are 0.033; percentile intervals of 60 hands are a little narrow.
    assert 0.9 < np.mean(held) < 0.985


def test_hands_are_paired_so_that_what_is_hard_for_both_does_not_count():
    first, second = made(np.random.default_rng(0), count=400)
    paired = compare(first, second, draws=2000)[0]
    mixed = compare(first, {ERROR: np.random.default_rng(1).permutation(second[ERROR])}, draws=2000)[0]
    assert paired.difference == pytest.approx(mixed.difference, abs=1e-12)
    assert mixed.high - mixed.low > 4 * (paired.high - paired.low)
    # The interval of a mean, where many hands make it normal.
    expected = 2 * 1.96 * (second[ERROR] - first[ERROR]).std() / np.sqrt(400)
    assert paired.high - paired.low == pytest.approx(expected, rel=0.1)


def test_neighbours_that_show_one_moment_need_blocks():
    rng = np.random.default_rng(0)
    moments = np.repeat(rng.normal(0, 1, 40), 10)
    first, second = {ERROR: np.full(400, 8.0)}, {ERROR: 8 + moments}
    single, blocks = (compare(first, second, draws=2000, block=block)[0] for block in (1, 10))
    assert blocks.high - blocks.low > 2.5 * (single.high - single.low)
    assert single.difference == blocks.difference
    # A last block that is shorter counts by its length.
    ragged = compare({ERROR: np.zeros(25)}, {ERROR: np.ones(25)}, draws=50, block=10)[0]
    assert ragged.low == pytest.approx(1) and ragged.high == pytest.approx(1)


def test_a_method_does_not_differ_from_itself():
    first, _ = made(np.random.default_rng(0))
    (same,) = compare(first, {name: values.copy() for name, values in first.items()}, draws=100)
    assert (same.difference, same.low, same.high, same.share_better, same.verdict) == (0, 0, 0, 0.5, "unclear")


def test_the_order_of_methods_flips_signs():
    first, second = made(np.random.default_rng(0))
    ab, ba = compare(first, second, draws=500)[0], compare(second, first, draws=500)[0]
    assert (ab.first, ab.second) == (ba.second, ba.first)
    assert (ab.difference, ab.low, ab.high) == pytest.approx((-ba.difference, -ba.high, -ba.low), abs=1e-12)
    assert ab.share_better == pytest.approx(1 - ba.share_better)
    assert {ab.verdict, ba.verdict} == {"better", "worse"}


def test_better_is_lower_errors_and_higher_shares():
    values = np.linspace(0.2, 0.9, 30)
    for name, better in ((ERROR, -0.1), (SHARE, 0.1)):
        (found,) = compare({name: values}, {name: values + better}, draws=100)
        assert (found.verdict, found.share_better) == ("better", 1) and found.difference == pytest.approx(better)


def test_draws_follow_the_seed_and_are_the_same_in_pieces(monkeypatch):
    first, second = made(np.random.default_rng(0))
    assert compare(first, second, 300, seed=3) == compare(first, second, 300, seed=3) != compare(first, second, 300, seed=4)
    whole = compare(first, second, 300)
    monkeypatch.setattr("handmesh.evaluation.comparison._HELD", 1000)
    pieces = compare(first, second, 300)
    assert (pieces[0].low, pieces[0].high) == pytest.approx((whole[0].low, whole[0].high), abs=1e-12)


def test_only_known_metrics_that_both_have():
    some = np.arange(10.0)
    found = compare({ERROR: some, SHARE: some, "mine": some}, {SHARE: some, "mine": some, "mpjpe_root_mm": some}, draws=10)
    assert [each.metric for each in found] == [SHARE]
    assert compare({ERROR: some}, {SHARE: some}) == []


@pytest.mark.parametrize(
    ("first", "second", "block", "says"),
    [
        ([1, 2, np.nan, 4], [1, 2, 3, 4], 1, "nan for pa_mpjpe_mm of hand 2"),
        ([1, 2, 3, 4], [1, np.inf, 3, 4], 1, "inf for pa_mpjpe_mm of hand 1"),
        ([1, 2, 3, 4], [1, 2, 3], 1, "got 4 and 3"),
        ([1, 2, 3, 4], [1, 2, 3, 4], 3, "got 3"),
        ([1, 2, 3, 4], [1, 2, 3, 4], 0, "got 0"),
    ],
)
def test_what_cannot_be_compared_is_one_line(first, second, block, says):
    with pytest.raises(UserError, match=says):
        compare({ERROR: np.array(first, float)}, {ERROR: np.array(second, float)}, draws=10, block=block)


# ---- files


def entries(name="ours", seed=0, data=None):
    rng = np.random.default_rng(seed)
    return {
        "format": SCORES_FORMAT,
        "name": name,
        "data": {"name": "set", "hands": 12, "sha256": "ab" * 32} | (data or {}),
        "scores": {},
        "samples": {ERROR: rng.uniform(5, 9, 12).tolist(), SHARE: rng.uniform(0, 1, 12).tolist()},
    }


def written(path, values):
    path.write_text(json.dumps(values))
    return path


def test_samples_are_read_as_they_were_written(tmp_path):
    values = entries()
    name, samples, data, extras = read_samples(written(tmp_path / "scores.json", values))
    assert (name, data, extras["data"]["hands"], "samples" in extras) == ("ours", "set", 12, False)
    assert samples[ERROR].tolist() == values["samples"][ERROR] and set(samples) == {ERROR, SHARE}


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda text: text[:100], "not whole JSON"),
        (lambda text: "", "not whole JSON"),
        (lambda text: "[[1], [2]]", "pred.json"),
        (lambda text: "{}", "no form"),
        (lambda text: text.replace(SCORES_FORMAT, "handmesh-scores-9"), "handmesh-scores-9"),
        (lambda text: text.replace('"samples"', '"values"'), "expected data and samples"),
        (lambda text: text.replace('"sha256"', '"md5"'), "expected data and samples"),
        (lambda text: text.replace('"hands": 12', '"hands": 13'), "expected 13 values"),
        (lambda text: text.replace(f'"{ERROR}": [', f'"{ERROR}": ["a", '), "expected numbers"),
        (
            lambda text: text.replace(f'"{SHARE}": [', f'"{SHARE}": [NaN, ').replace(f'"{ERROR}": [', f'"{ERROR}": [1, '),
            "expected 12 values",
        ),
        (lambda text: text.replace("[", "[NaN, ").replace('"hands": 12', '"hands": 13'), "nan for hand 0"),
    ],
)
def test_another_file_is_one_line(tmp_path, spoil, says):
    path = written(tmp_path / "scores.json", entries())
    path.write_text(spoil(path.read_text()))
    with pytest.raises(UserError) as caught:
        read_samples(path)
    assert says in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        read_samples(tmp_path / "none.json")


@pytest.mark.parametrize(("other", "says"), [({"sha256": "cd" * 32}, "same truth")])
def test_other_data_is_refused(tmp_path, other, says):
    methods = [read_samples(written(tmp_path / f"{each}.json", entries(data=data))) for each, data in (("a", {}), ("b", other))]
    with pytest.raises(UserError, match=says):
        compare_all(methods)
    with pytest.raises(UserError, match="two methods"):
        compare_all(methods[:1])


def shown(table):
    text = StringIO()
    Console(file=text, width=200).print(table)
    return text.getvalue()


def test_the_table_shows_every_method_and_what_one_lacks(tmp_path):
    values = [entries("first"), entries("[second]", seed=1), entries("third")]
    # The third is worse in every hand, and has no mesh.
    values[2]["samples"] = {ERROR: [value + 3 for value in values[0]["samples"][ERROR]]}
    methods = [read_samples(written(tmp_path / f"{number}.json", each)) for number, each in enumerate(values)]
    text = shown(comparison_table(methods, draws=200))
    assert all(word in text for word in ("first", "[second]", "third", "set, 12 hands", "PA-MPJPE mm ↓", "F@5 ↑"))
    assert "+3.000 [+3.000, +3.000] (0 %)" in text and "n/a (no mesh)" in text
    assert "[red]" not in text and f"{np.mean(values[0]['samples'][ERROR]):.2f}" in text
    assert "blocks of 3 hands" in shown(comparison_table(methods, draws=20, block=3))
