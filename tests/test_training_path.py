"""The way of somebody who brings FreiHAND and MANO, walked on files of exactly their form: every configuration, and from the archive
to the demo."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from generated_freihand import make_freihand
from generated_mano import mano_pickle, right_arrays
from generated_photographs import make_photographs

from handmesh import cli
from handmesh.freihand import FreiHand
from handmesh.hand_model import load_hand_model
from handmesh.training.checkpoint import load_checkpoint, net_from_checkpoint
from handmesh.training.data import open_data
from handmesh.training.layer import HandLayer
from handmesh.training.losses import measure_errors

CONFIGS = Path(__file__).parents[1] / "configs"
CONFIGURATIONS = ("smoke", "synthetic_t8", "freihand_t8", "freihand_sa12", "freihand_ma36", "mixed_ma36", "distill_t8", "photographs_t8")
BATCH = 4


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Path]:
    """A folder with FreiHAND (16 hands in 4 versions), MANO's pickle, 48 rendered images and 40 photographs, as a user would have them."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "MANO_RIGHT.pkl").write_bytes(mano_pickle(right_arrays()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HANDMESH_DATA", str(folder / "models"))
        assert run(cli.mano, "import", folder / "MANO_RIGHT.pkl") == 0
        make_freihand(folder / "freihand", load_hand_model("mano"), count=16, versions=4, evaluation=8)
        assert run(cli.synth, "--out", folder / "synthetic", "--count", 48, "--size", 64, "--workers", 1) == 0
        make_photographs(folder / "photographs", load_hand_model("open"))
        yield folder


def run(command: Callable[[], None], *arguments: object) -> int:
    """A command's exit code."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr("sys.argv", [f"handmesh-{command.__name__}", *map(str, arguments)])
        command()
    return int(end.value.code or 0)


def train(place: Path, name: str, *flags: object) -> Path:
    """A short training by one of the configurations, on the CPU, with small pictures; its last checkpoint."""
    out = place / name
    command = [CONFIGS / f"{name.split('-')[0]}.yaml", "--out", out, "--device", "cpu", "--model.size-px", 64, "--log-every-batches", 5]
    command += ["--model.no-pretrained", "--data.readers", 1, "--data.batch-size", BATCH]
    if name.startswith(("freihand", "mixed", "distill")):
        command += ["--data.sources.0.folders", place / "freihand"]
    if name.startswith("photographs"):
        command += ["--data.sources.1.folders", place / "photographs", "--init-from", CONFIGS.parent / "weights" / "hand_t8.pt"]
    if name.startswith(("smoke", "synthetic", "mixed", "distill", "photographs")):
        command += [f"--data.sources.{int(name.startswith(('mixed', 'distill')))}.folders", place / "synthetic"]
    if name.startswith("distill"):
        # What mixed_ma36 gives; which of the tests runs first does not matter.
        if not (place / "mixed_ma36" / "best.pt").is_file():
            train(place, "mixed_ma36", *flags)
        command += ["--distill.teacher", place / "mixed_ma36" / "best.pt"]
    if name == "smoke":
        # Its own minute may be too short on a busy machine.
        command += ["--schedule.max-minutes", 30]
    assert run(cli.train, *command, *flags) == 0
    return out / "last.pt"


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_configuration_trains_for_20_steps(place, name):
    done = place / name / "last.pt"
    path = (
        done
        if done.is_file()
        else train(place, name, "--schedule.pictures", 20 * BATCH, "--data.validation-pictures", 8, "--validate-every-pictures", 20 * BATCH)
    )
    checkpoint = load_checkpoint(path)
    assert checkpoint.step == 20
    assert np.isfinite(checkpoint.best)
    with path.with_name("metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    steps = [row for row in rows if row["split"] == "train"]
    assert len(steps) == 4
    assert all(np.isfinite(float(row["loss"])) for row in steps)
    learnt = {key for key, value in steps[-1].items() if value}
    model, data = checkpoint.command().model, checkpoint.command().data
    assert {"vertices", "joints", "keypoints_2d", "rotmats", "presence", "right"} <= learnt
    assert ("parts" in learnt) == model.dense
    assert ("heatmaps" in learnt) == (model.head == "keypoint")
    assert ("teacher_vertices" in learnt) == (name == "distill_t8")
    assert (float(steps[-1]["landmarks"]) > 0) == (name == "photographs_t8")
    assert (data.sources[0].kind == "freihand") == (name not in ("smoke", "synthetic_t8", "photographs_t8"))


def test_freihand_without_mano_teaches_the_open_hand_by_joints(place, capfd):
    path = train(place, "freihand_t8-open", "--hand-model", "open", "--schedule.pictures", 5 * BATCH, "--data.validation-pictures", 8)
    assert "joints alone" in capfd.readouterr().out
    with path.with_name("metrics.csv").open(encoding="utf-8") as file:
        row = next(csv.DictReader(file))
    assert float(row["joints"]) > 0 and float(row["keypoints_2d"]) > 0
    assert float(row["vertices"]) == float(row["rotmats"]) == 0


def as_evaluation(folder, target):
    """The first colouring of a training split, as an evaluation split."""
    (target / "evaluation" / "rgb").mkdir(parents=True)
    for name in ("K", "scale", "xyz", "verts", "mano"):
        shutil.copy(folder / f"training_{name}.json", target / f"evaluation_{name}.json")
    for number in range(FreiHand(folder).count):
        shutil.copy(folder / "training" / "rgb" / f"{number:08d}.jpg", target / "evaluation" / "rgb")
    return target


def test_from_the_archive_to_the_demo(place, capfd):
    """64 pictures are learnt by heart with a stop in between, exported, scored through the runtime, and shown by the demo."""
    quiet = [f"--augment.{name}-probability" for name in ("camera", "roll", "colour", "noise", "blur", "cutout")]
    flags = [part for flag in quiet for part in (flag, 0)]
    flags += ["--data.batch-size", 16, "--data.mirror-share", 0, "--data.validation-pictures", 0, "--precision", "f32"]
    flags += ["--schedule.learning-rate", 2e-3, "--schedule.ema-decay", 0.98, "--schedule.warmup-pictures", 320]
    train(place, "freihand_t8-heart", *flags, "--schedule.pictures", 1600)
    assert "'mano-right' posed with parameters of 16 hands is 0.00 mm" in capfd.readouterr().out
    checkpoint = train(place, "freihand_t8-heart", *flags, "--schedule.pictures", 4800, "--resume")
    assert load_checkpoint(checkpoint).pictures == 4800

    model = load_hand_model("mano")
    settings = load_checkpoint(checkpoint).command()
    net, layer = net_from_checkpoint(load_checkpoint(checkpoint)), HandLayer(model)
    batch = open_data(settings.data, model, settings.model.size_px).batch(0, 0, slice(0, 16))
    with torch.no_grad():
        errors = measure_errors(layer, net(batch.crops), batch)
    assert errors.pa_mpjpe_mm.mean() < 3
    assert errors.pa_mpvpe_mm.mean() < 3
    assert errors.mpjpe_mm.mean() < 3

    network = place / "heart.onnx"
    assert run(cli.export, checkpoint, "--out", network, "--hand-model", "mano") == 0
    truth = as_evaluation(place / "freihand", place / "learnt")
    assert run(cli.evaluate, "--data", truth, "--model", network, "--crop", "gt", "--out", place / "scores") == 0
    scores = json.loads((place / "scores" / "scores.json").read_text(encoding="utf-8"))["scores"]
    assert scores["pa_mpjpe_proper_mm"] < 3 and scores["pa_mpvpe_mm"] < 3
    assert scores["mpjpe_root_mm"] < 5 and scores["keypoints_share"] < 0.05
    # The checkpoint itself, by torch, is the same network.
    assert run(cli.evaluate, "--data", truth, "--model", checkpoint, "--crop", "gt", "--out", place / "by_torch") == 0
    by_torch = json.loads((place / "by_torch" / "scores.json").read_text(encoding="utf-8"))["scores"]
    assert by_torch["pa_mpvpe_mm"] == pytest.approx(scores["pa_mpvpe_mm"], abs=0.01)

    reader = cv2.VideoCapture(str(Path(cli.__file__).parent / "assets" / "demo_clip.mp4"))
    cv2.imwrite(str(place / "frame.png"), reader.read()[1])
    shown = ["--input", place / "frame.png", "--output", place / "shown", "--hand-model", "mano", "--model", network]
    assert run(cli.demo, *shown, "--save", "json,overlay,obj") == 0
    (lines,) = [path.read_text(encoding="utf-8") for path in (place / "shown").glob("*.json*")]
    assert model.id in lines
    assert json.loads(lines)
