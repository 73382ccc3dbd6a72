"""tools/ablate.py: runs differ in one thing, are not repeated, and are what the table says."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from handmesh.cli import guard
from handmesh.config import config_to_dict, load_config
from handmesh.errors import UserError
from handmesh.synthetic.manifest import SHARDS
from handmesh.training.command import DataConfig, DistillConfig, ModelConfig, ScheduleConfig, TrainCommand

TOOLS = Path(__file__).resolve().parent.parent / "tools"
HEADER = "split,pictures,pictures_per_s,pa_mpjpe_mm,pa_mpvpe_mm,keypoints_share,presence_hit,right_hit\n"
ROWS = "train,500,10,,,,,\ntrain,600,30,,,,,\nvalidation,600,,20,19,0.2,0.9,0.8\ntrain,1000,20,,,,,\nvalidation,1000,,12.5,,0.1,0.95,0.9\n"


@pytest.fixture(scope="module")
def ablate():
    sys.path.insert(0, str(TOOLS))
    try:
        import ablate
    finally:
        sys.path.remove(str(TOOLS))
    return ablate


@pytest.fixture
def base():
    return TrainCommand(
        init_from=Path("before.pt"),
        model=ModelConfig(variant="fastvit_ma36", head="pooled", pretrained=True, dense=False),
        data=DataConfig(batch_size=8),
        distill=DistillConfig(teacher=Path("teacher.pt")),
        schedule=ScheduleConfig(max_minutes=5, warmup_pictures=20_000),
    )


def test_runs_differ_in_one_setting_of_the_network_and_nothing_else(ablate, base):
    commands = {name: ablate.variant_command(base, name, [Path("a")], 1000, 64, Path("out")) for name in ablate.VARIANTS}
    first = commands.pop("base")
    assert first.init_from is None and first.distill.teacher is None and first.schedule.max_minutes is None
    assert first.schedule.pictures == 1000 and first.schedule.warmup_pictures == 100 and first.data.batch_size == 8
    for name, command in commands.items():
        assert command.out == Path("out") / name
        assert replace(command, out=first.out, model=first.model) == first
        changed = [key for key, value in config_to_dict(command.model).items() if value != getattr(first.model, key)]
        assert changed == list(ablate.VARIANTS[name].changes) and len(changed) == 1


def test_a_run_counts_when_it_saw_all_its_pictures(ablate, tmp_path):
    metrics = tmp_path / "metrics.csv"
    assert ablate.read_result(metrics, 1000) is None
    metrics.write_text(HEADER + ROWS)
    assert ablate.read_result(metrics, 1001) is None
    result = ablate.read_result(metrics, 1000)
    assert result.pictures == 1000 and result.errors["pa_mpjpe_mm"] == 12.5 and result.pictures_per_s == 20
    assert result.errors["pa_mpvpe_mm"] != result.errors["pa_mpvpe_mm"]
    metrics.write_text("split,pictures\nvalidation,1000\n")
    with pytest.raises(UserError, match="pa_mpjpe_mm"):
        ablate.read_result(metrics, 1000)


def test_settings_are_what_handmesh_train_reads_and_may_not_change(ablate, base, tmp_path):
    command = ablate.variant_command(base, "pooled", [tmp_path], 1000, 64, tmp_path)
    settings = tmp_path / "made" / "pooled.yaml"
    for _ in range(2):
        ablate.keep_settings(settings, command)
        assert load_config(TrainCommand, settings) == command
    with pytest.raises(UserError, match="began with"):
        ablate.keep_settings(settings, replace(command, seed=1))


def test_complete_runs_are_not_repeated_and_stopped_ones_go_on(ablate, tmp_path, capsys, monkeypatch):
    started = []

    def train(settings, resume):
        started.append((settings.stem, resume))
        folder = settings.with_suffix("")
        folder.mkdir(exist_ok=True)
        (folder / "last.pt").touch()
        # The first call is stopped half way.
        (folder / "metrics.csv").write_text(HEADER + (ROWS if len(started) > 1 else ""))

    monkeypatch.setattr(ablate, "run_training", train)
    monkeypatch.setattr(ablate, "ShardReader", Path)
    flags = ["--shards", "pictures", "--pictures", "1000", "--out", str(tmp_path), "--only", "base", "--only", "no_dense"]
    monkeypatch.setattr(sys, "argv", ["ablate", *flags])
    assert guard("ablate", ablate.main) == 2
    assert "stopped before" in capsys.readouterr().err and not (tmp_path / "ablation.md").exists()
    assert guard("ablate", ablate.main) == 0 and guard("ablate", ablate.main) == 0
    assert started == [("base", False), ("base", True), ("no_dense", False)]
    table = (tmp_path / "ablation.md").read_text()
    rows = [line for line in table.splitlines() if line.startswith(("| base", "| no_dense"))]
    assert len(rows) == 2 and all("| 12.50 | - | 10.00 | 95.0 | 90.0 | 20 |" in row for row in rows)
    # Dense heads are weights while training, and are not exported.
    (base_m, base_out_m), (plain_m, plain_out_m) = ([float(cell) for cell in row.split("|")[8:10]] for row in rows)
    assert base_m > plain_m > plain_out_m == base_out_m


def test_a_run_that_fails_ends_the_command(ablate, tmp_path):
    settings = tmp_path / "bad.yaml"
    settings.write_text("nonsense: 1\n")
    with pytest.raises(UserError, match="ended with 2"):
        ablate.run_training(settings, resume=False)


def test_a_set_that_still_grows_is_refused(ablate, tmp_path):
    manifest = {"format": SHARDS, "count": 64, "versions": 1, "size_px": 64, "width_px": 64, "hand_model": "open-hand-2", "pieces": []}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="0 are complete"):
        ablate.main(["--shards", str(tmp_path), "--pictures", "100", "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
