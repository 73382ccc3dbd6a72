"""The loop: it learns, stops, goes on as if nothing had happened, and says what is wrong in one line."""

from __future__ import annotations

import csv
import pickle
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from generated_shards import GeneratedShards
from torch import nn

from handmesh.errors import UserError
from handmesh.training.checkpoint import load_checkpoint, load_weights, net_from_checkpoint, save_checkpoint
from handmesh.training.command import DataConfig, ModelConfig, ScheduleConfig, TrainCommand
from handmesh.training.loop import decay_groups, learning_rate_at, schedule_progress, train, update_average
from handmesh.training.model import HandNet


@pytest.fixture
def shards(hand_model):
    return GeneratedShards(hand_model)


@pytest.fixture
def command(tmp_path) -> TrainCommand:
    """Five steps of four pictures on the CPU."""
    return TrainCommand(
        out=tmp_path / "run",
        device="cpu",
        precision="f32",
        log_every_batches=2,
        validate_every_pictures=12,
        model=ModelConfig(size_px=64, drop_path=0.1),
        data=DataConfig(batch_size=4, validation_pictures=8, prefetch_batches=0),
        schedule=ScheduleConfig(pictures=20, warmup_pictures=8),
    )


def test_resuming_gives_the_weights_of_an_uninterrupted_run(shards, command, tmp_path, capsys):
    whole = load_checkpoint(train(command, shards.folders()))
    reads = iter(range(100))
    folders = shards.folders()
    shards.on_read = lambda: signal.raise_signal(signal.SIGINT) if next(reads) == 2 else None
    stopped = replace(command, out=tmp_path / "stopped")
    middle = load_checkpoint(train(stopped, folders))
    assert 0 < middle.pictures < 20 and "--resume" in capsys.readouterr().out
    shards.on_read = lambda: None
    resumed = load_checkpoint(train(replace(stopped, resume=True), shards.folders()))
    assert (resumed.step, resumed.pictures) == (whole.step, whole.pictures) == (5, 20)
    for ours, theirs in ((resumed.model, whole.model), (resumed.ema, whole.ema)):
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert any(not torch.equal(middle.model[name], whole.model[name]) for name in whole.model)


def test_writes_numbers_and_a_checkpoint_that_knows_what_it_is(shards, command, hand_model):
    path = train(command, shards.folders())
    with path.with_name("metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["split"] for row in rows] == ["train", "validation", "train", "validation"]
    assert [int(row["pictures"]) for row in rows] == [8, 12, 16, 20]
    assert all(np.isfinite(float(row["mpjpe_mm"])) for row in rows if row["split"] == "validation")
    assert all(float(row["loss"]) > 0 for row in rows if row["split"] == "train")
    checkpoint = load_checkpoint(path)
    assert checkpoint.hand_model == hand_model.id and checkpoint.command() == command
    assert sorted(file.name for file in path.parent.iterdir()) == ["last.pt", "metrics.csv"]
    net = net_from_checkpoint(checkpoint)
    assert not net.training and torch.equal(net.head.output.bias, checkpoint.ema["head.output.bias"])


def test_starts_from_another_runs_averaged_weights(shards, command, tmp_path):
    first = train(replace(command, schedule=replace(command.schedule, pictures=4)), shards.folders())
    frozen = ScheduleConfig(pictures=4, learning_rate=0.0, final_learning_rate=0.0)
    second = train(replace(command, out=tmp_path / "second", init_from=first, schedule=frozen), shards.folders())
    ours, theirs = load_checkpoint(second), load_checkpoint(first)
    assert torch.equal(ours.model["head.output.weight"], theirs.ema["head.output.weight"]) and ours.pictures == 4


def test_bf16_trains_too(shards, command):
    path = train(replace(command, precision="bf16", schedule=replace(command.schedule, pictures=8)), shards.folders())
    assert all(value.dtype != torch.bfloat16 and value.isfinite().all() for value in load_checkpoint(path).model.values())


def test_a_loss_that_is_no_number_stops_with_one_line(shards, command):
    broken = shards.folders()
    shards._labels["rotmats"][10:] = np.nan
    with pytest.raises(UserError, match="expected a finite loss, got nan") as caught:
        train(command, broken)
    assert "\n" not in str(caught.value)


def test_does_not_overwrite_a_run(shards, command, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.pt").write_bytes(b"precious")
    with pytest.raises(UserError, match="--resume"):
        train(command, shards.folders())
    with pytest.raises(UserError, match="torn or not one"):
        train(replace(command, resume=True), shards.folders())
    with pytest.raises(UserError, match="is no file"):
        train(replace(command, out=tmp_path / "none", resume=True), shards.folders())


def test_torn_and_foreign_files_get_one_line_and_run_no_code(shards, command, tmp_path):
    path = train(replace(command, schedule=replace(command.schedule, pictures=4)), shards.folders())
    torn, foreign, evil = tmp_path / "torn.pt", tmp_path / "foreign.pt", tmp_path / "evil.pt"
    torn.write_bytes(path.read_bytes()[:-1000])
    torch.save({"weights": torch.zeros(3)}, foreign)
    evil.write_bytes(pickle.dumps(_Touch(tmp_path / "touched"), protocol=2))
    for bad in (torn, foreign, evil):
        with pytest.raises(UserError) as caught:
            load_checkpoint(bad)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "touched").exists()

    checkpoint = load_checkpoint(path)
    with pytest.raises(UserError, match="to fit the configured network"):
        load_weights(HandNet("fastvit_t8", "pooled", 64), checkpoint.ema, "the weights")
    with pytest.raises(UserError, match="expected to write the checkpoint"):
        save_checkpoint(checkpoint, tmp_path / "no such folder" / "last.pt")


class _Touch:
    """Unpickling it would make a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_the_schedule_ends_by_pictures_or_by_time():
    schedule = ScheduleConfig(pictures=1000, max_minutes=10, warmup_pictures=100, learning_rate=1e-3, final_learning_rate=1e-6)
    assert schedule_progress(schedule, 500, 60.0) == 0.5
    assert schedule_progress(schedule, 500, 480.0) == pytest.approx(0.8)
    assert schedule_progress(replace(schedule, max_minutes=None), 500, 1e9) == 0.5
    rates = [learning_rate_at(schedule, pictures / 1000, pictures) for pictures in range(0, 1001, 10)]
    assert rates[0] < 2e-5 and np.argmax(rates) == 10 and max(rates) == pytest.approx(1e-3, rel=0.05)
    assert all(np.diff(rates[10:]) < 0) and rates[-1] == pytest.approx(1e-6)


def test_weights_decay_and_scales_do_not():
    net = HandNet("fastvit_t8", "keypoint", 64)
    decaying, rest = decay_groups(net, 0.05)
    assert decaying["weight_decay"] == 0.05 and rest["weight_decay"] == 0
    assert sum(len(group["params"]) for group in (decaying, rest)) == len(list(net.parameters()))
    kernels = {id(module.weight) for module in net.modules() if isinstance(module, (nn.Conv2d, nn.Linear))}
    assert {id(parameter) for parameter in decaying["params"]} == kernels


def test_the_average_follows_the_weights():
    net, average = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    nn.init.constant_(net.weight, 3.0)
    update_average(average, net, 0.9, step=10_000)
    assert torch.allclose(average.weight, torch.tensor(1.2))
    # At first it is hardly more than the weights themselves.
    update_average(average, net, 0.9, step=0)
    assert average.weight.min() > 2.5
