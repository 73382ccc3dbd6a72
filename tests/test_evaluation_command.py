"""handmesh-eval from files to files."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import sys
import zipfile

import numpy as np
import pytest
import slow_freihand_metric
from generated_freihand import make_freihand, mano_shaped_model
from test_synthetic_shards import without_renderer

from handmesh import cli
from handmesh.config import parse_flags
from handmesh.errors import UserError
from handmesh.evaluation import command as eval_command
from handmesh.evaluation.command import EvalCommand, run_eval
from handmesh.evaluation.datasets import open_data
from handmesh.evaluation.files import write_predictions
from handmesh.evaluation.records import Predictions
from handmesh.evaluation.scores import METRICS, OFFICIAL
from handmesh.head import HEADS
from handmesh.runtime import DEFAULT_MODEL
from handmesh.synthetic.command import SynthCommand, run_synth

HANDS = 8


@pytest.fixture(scope="module")
def freihand(tmp_path_factory):
    """Hands of a MANO-shaped model, whose 778 vertices are not the open hand's."""
    return make_freihand(tmp_path_factory.mktemp("freihand"), mano_shaped_model(), count=4, versions=1, evaluation=HANDS)


@pytest.fixture(scope="module")
def measured(freihand, tmp_path_factory):
    """The embedded network on it, with a baseline."""
    out = tmp_path_factory.mktemp("eval")
    evaluate("--data", freihand, "--out", out, "--baselines", "mean", "zero")
    return out


def evaluate(*flags) -> None:
    words = [str(flag) for flag in flags]
    run_eval(parse_flags(EvalCommand, words, "handmesh-eval"), tuple(words))


def scores_of(folder):
    return json.loads((folder / "scores.json").read_text())


def noisy_predictions(folder, sd_m=0.004, seed=0) -> Predictions:
    data, rng = open_data(folder), np.random.default_rng(seed)
    joints_m, vertices_m = (points_m + rng.normal(0, sd_m, points_m.shape) for points_m in (data.joints_m, data.vertices_m))
    return Predictions(joints_m, vertices_m, data.topology)


def test_a_network_is_measured_and_everything_is_written(measured, freihand):
    assert {path.name for path in measured.iterdir()} == {"pred.json", "pred.zip", "scores.json", "scores.txt", "report.html"}
    xyz, verts = json.loads((measured / "pred.json").read_text())
    assert np.shape(xyz) == (HANDS, 21, 3) and np.shape(verts) == (HANDS, 778, 3)
    with zipfile.ZipFile(measured / "pred.zip") as archive:
        assert archive.namelist() == ["pred.json"] and archive.read("pred.json") == (measured / "pred.json").read_bytes()
    values = scores_of(measured)
    assert values["data"]["hands"] == HANDS and values["name"] == "hand_t8.onnx"
    assert "crop centre" in values["setting"] and values["f_alignment"] == "joints"
    # The open hand's vertices have no twins on MANO's mesh.
    assert values["scores"]["pa_mpvpe_mm"] is None and values["official"]["mesh_al_mean3d"] is None
    assert 0 < values["scores"]["pa_mpjpe_mm"] < 60 and 0 <= values["scores"]["f_15mm_aligned"] <= 1
    assert set(values["baselines"]) == {"mean hand", "zeros"}
    # Zeros come to lie in the middle of the hand.
    joints_m = open_data(freihand).joints_m
    middle_mm = 1e3 * np.linalg.norm(joints_m - joints_m.mean(axis=1, keepdims=True), axis=2).mean()
    assert values["baselines"]["zeros"]["pa_mpjpe_mm"] == pytest.approx(middle_mm)
    assert "mesh_al_mean3d: n/a (topology)" in (measured / "scores.txt").read_text()
    report = (measured / "report.html").read_text()
    assert "handmesh-eval --data" in report and "n/a (topology)" in report


def test_its_own_predictions_score_the_same_from_the_file(measured, freihand, tmp_path):
    evaluate("--pred", measured / "pred.zip", "--gt", freihand, "--other-topology", "--out", tmp_path)
    first, second = scores_of(measured)["scores"], scores_of(tmp_path)["scores"]
    assert all(second[name] == (None if value is None else pytest.approx(value, abs=1e-3)) for name, value in first.items())


def test_anybodys_predictions_score_officially(freihand, tmp_path):
    predictions, data = noisy_predictions(freihand), open_data(freihand)
    (tmp_path / "their").mkdir()
    write_predictions(tmp_path / "their" / "pred.json", predictions)
    truth = tmp_path / "truth"
    truth.mkdir()
    for name in ("xyz", "verts"):
        shutil.copy(freihand / f"evaluation_{name}.json", truth)
    evaluate("--pred", tmp_path / "their" / "pred.json", "--gt", truth, "--name", "theirs", "--out", tmp_path / "out")
    slow = slow_freihand_metric.official_scores(predictions.joints_m, predictions.vertices_m, data.joints_m, data.vertices_m)
    values = scores_of(tmp_path / "out")
    assert values["name"] == "theirs" and not (tmp_path / "out" / "pred.json").exists()
    for line in (tmp_path / "out" / "scores.txt").read_text().splitlines():
        key, value = line.split(": ")
        assert float(value) == pytest.approx(slow[key], abs=2e-6)
        assert values["official"][key] == pytest.approx(slow[key], abs=1e-6)
    assert {line.split(":")[0] for line in (tmp_path / "out" / "scores.txt").read_text().splitlines()} == set(OFFICIAL)
    # Without pictures and cameras the report still stands.
    assert "theirs" in (tmp_path / "out" / "report.html").read_text()


def test_methods_stand_side_by_side(measured, freihand, tmp_path, capsys):
    write_predictions(tmp_path / "better.json", noisy_predictions(freihand))
    evaluate("--pred", tmp_path / "better.json", "--gt", freihand, "--out", tmp_path / "better")
    ours, theirs = (scores_of(folder)["scores"]["pa_mpjpe_mm"] for folder in (measured, tmp_path / "better"))

    def row_of(*files) -> str:
        capsys.readouterr()
        evaluate("--compare", *files)
        text = capsys.readouterr().out
        assert "F of 'better' is aligned by the mesh, not the joints" in " ".join(text.split())
        (row,) = [line for line in text.splitlines() if "PA-MPJPE mm ↓" in line]
        return row

    from_scores = row_of(measured / "scores.json", tmp_path / "better" / "scores.json")
    assert f"{ours:.2f}" in from_scores and f"{theirs:.2f}" in from_scores and f"{theirs - ours:+.3f}" in from_scores
    # Predictions are scored on the way.
    assert row_of(measured / "scores.json", tmp_path / "better.json", "--gt", freihand) == from_scores


def test_methods_of_one_name_are_told_apart(measured, tmp_path, capsys):
    for name in ("one", "two"):
        shutil.copytree(measured, tmp_path / name)
    capsys.readouterr()
    evaluate("--compare", tmp_path / "one", tmp_path / "two" / "scores.json")
    text = capsys.readouterr().out
    assert "one/hand_t8.onnx" in text and "two/hand_t8.onnx" in text and "(50 %)" in text
    with pytest.raises(UserError, match="got one twice"):
        evaluate("--compare", measured, measured / "scores.json")


def test_names_are_only_text(freihand, tmp_path, capsys):
    write_predictions(tmp_path / "pred.json", noisy_predictions(freihand))
    evaluate("--pred", tmp_path / "pred.json", "--gt", freihand, "--name", "[/b]<i>\udcff", "--out", tmp_path / "out")
    assert "[/b]<i>?" in capsys.readouterr().out
    assert scores_of(tmp_path / "out")["name"] == "[/b]<i>?" and "<i>" not in (tmp_path / "out" / "report.html").read_text()


def test_wrist_relative_hands_are_not_in_the_camera(freihand, tmp_path, capsys):
    """As METRO and most others write them."""
    predictions = noisy_predictions(freihand)
    wrist_m = predictions.joints_m[:, :1]
    write_predictions(tmp_path / "pred.json", Predictions(predictions.joints_m - wrist_m, predictions.vertices_m - wrist_m, "x"))
    evaluate("--pred", tmp_path / "pred.json", "--gt", freihand, "--out", tmp_path / "out")
    values = scores_of(tmp_path / "out")
    assert values["scores"]["translation_mm"] is None and values["scores"]["keypoints_px"] is None
    assert any("relative to a joint" in warning for warning in values["warnings"]) and "relative to a joint" in capsys.readouterr().out


def test_what_an_earlier_run_left_is_said_to_be_old(freihand, tmp_path, capsys):
    evaluate("--data", freihand, "--out", tmp_path)
    assert "crop gt or detector suit it" in capsys.readouterr().out
    evaluate("--data", freihand, "--out", tmp_path, "--every", "2")
    text = capsys.readouterr().out
    assert "is of an earlier run" in text and "written: report.html, scores.json, scores.txt in" in text


def test_results_name_their_network(measured):
    versions = scores_of(measured)["versions"]
    assert versions["SHA-256 of the network"] == hashlib.sha256(DEFAULT_MODEL.read_bytes()).hexdigest()
    assert versions["SHA-256 of the network"] in (measured / "report.html").read_text()


def test_a_rendered_set_is_measured_whole(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        without_renderer(patch)
        run_synth(SynthCommand(out=tmp_path / "set", count=12, size=64, format="freihand", workers=1))
    evaluate("--data", tmp_path / "set", "--out", tmp_path / "out", "--runtime", "onnxruntime", "--every", "2")
    values = scores_of(tmp_path / "out")
    assert values["scores"]["pa_mpvpe_mm"] > 0 and values["f_alignment"] == "mesh" and "crop gt" in values["setting"]
    assert values["every"] == 2 and not (tmp_path / "out" / "pred.json").exists()
    # Everything but videos' acceleration.
    assert {name for name, value in values["scores"].items() if value is None} == {"acceleration_mm_s2"}
    assert len(values["samples"]) == len(METRICS) - 1


def test_the_head_answers_with_the_landmark_network_that_it_reads(tmp_path):
    data = tmp_path / "set"
    with pytest.MonkeyPatch.context() as patch:
        without_renderer(patch)
        run_synth(SynthCommand(out=data, count=4, size=64, format="freihand", workers=1))
    evaluate("--data", data, "--out", tmp_path / "network")
    evaluate("--data", data, "--out", tmp_path / "head", "--answer", "head", "--head", HEADS["lite"])
    network, head = (scores_of(tmp_path / name) for name in ("network", "head"))
    assert "landmark network lite" in head["setting"] and "network's answer" in network["setting"]
    assert head["scores"]["pa_mpjpe_mm"] not in (None, network["scores"]["pa_mpjpe_mm"])
    with pytest.raises(UserError, match="landmark network lite, not full"):
        evaluate("--data", data, "--out", tmp_path / "none", "--answer", "head", "--head", HEADS["lite"], "--landmarks", "full")


def test_corruptions_are_measured(freihand, tmp_path, capsys):
    evaluate("--data", freihand, "--out", tmp_path, "--corruptions", "--every", "4")
    robustness = scores_of(tmp_path)["robustness"]["metrics"]["pa_mpjpe_proper_mm"]
    relative = np.array(list(robustness["relative"].values()))
    assert robustness["clean"] == pytest.approx(scores_of(tmp_path)["scores"]["pa_mpjpe_proper_mm"])
    assert relative.shape == (10, 5) and np.isfinite(relative).all() and (relative > 0).all()
    assert "motion blur" in (tmp_path / "report.html").read_text().lower() and "motion blur" in capsys.readouterr().out.lower()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "expected --data DIR"),
        (("--pred", "p.json"), "expected --gt DIR"),
        (("--pred", "p.json", "--gt", "g", "--tta", "fast"), "--tta here, which would do nothing with --pred"),
        (("--data", "d", "--as-is"), "--as-is here, which"),
        (("--compare", "a.json"), "two files or more"),
        (("--compare", "a.json", "b.json", "--model", "x"), "--model here, which"),
        (("--compare", "a.json", "b.json", "--as-is"), "--as-is here, which"),
        (("--compare", "a.json", "b.json", "--out", "x"), "--out here, which"),
        (("--pred", "p.json", "--gt", "g", "--crop", "gt"), "--crop here, which"),
        (("--data", "d", "--every", "0"), "--every and --block from 1"),
        (("--data", "d", "--landmarks", "full"), "without --answer head"),
        (("--data", "d", "--answer", "head", "--tta", "fast"), "--tta none with --answer head"),
        (("--data", "d", "--threads", "-3"), "--threads from 0"),
        (("--data", "nowhere"), "which is none"),
    ],
)
def test_flags_that_do_not_go_together(flags, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=said):
        evaluate(*flags)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--model", "no.onnx"), "does not exist"),
        (("--runtime", "torch"), r"expected a \.pt"),
        (("--hand-model", "no.npz"), "no.npz"),
        (("--precision", "bf16", "--runtime", "onnxruntime"), "f32"),
    ],
)
def test_networks_that_cannot_run(freihand, tmp_path, flags, said):
    with pytest.raises(UserError, match=said):
        evaluate("--data", freihand, "--out", tmp_path, *flags)
    assert not list(tmp_path.glob("*.json"))


def test_a_network_of_another_hand_is_refused(freihand, tmp_path, monkeypatch):
    monkeypatch.setattr(eval_command, "load_hand_model", lambda name: mano_shaped_model())
    with pytest.raises(UserError, match="expected a network for the hand model 'mano-right'"):
        evaluate("--data", freihand, "--out", tmp_path)


def test_the_command_exits_with_2_and_one_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["handmesh-eval", "--data", str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit) as end:
        cli.evaluate()
    error = capsys.readouterr().err
    assert end.value.code == 2 and error.count("\n") == 1 and error.startswith("handmesh-eval: error: expected a folder")


def test_nothing_is_torch(freihand, tmp_path):
    """Where torch is not installed, everything but checkpoints is measured."""
    import subprocess

    program = (
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('torch', 'numba'):\n"
        "            raise ModuleNotFoundError(f'No module named {name}', name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "from handmesh.cli import evaluate\n"
        f"sys.argv = ['handmesh-eval', '--data', {str(freihand)!r}, '--every', '4', '--out', {str(tmp_path)!r}]; evaluate()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    assert (tmp_path / "report.html").is_file()


def test_official_numbers_of_a_perfect_prediction(freihand, tmp_path):
    data = open_data(freihand)
    write_predictions(tmp_path / "pred.json", Predictions(data.joints_m, data.vertices_m, data.topology))
    evaluate("--pred", tmp_path / "pred.json", "--gt", freihand, "--out", tmp_path / "out")
    official = scores_of(tmp_path / "out")["official"]
    for key, value in official.items():
        assert math.isclose(value, 0 if "mean3d" in key else 1, abs_tol=6e-3 if "auc" in key else 2e-5), key
