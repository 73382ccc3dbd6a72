"""The loop: it learns, writes down how, stops on what is no number, and says what is wrong in one line."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from generated_shards import GeneratedShards
from torch import nn

from handmesh.errors import UserError
from handmesh.training.checkpoint import load_checkpoint, net_from_checkpoint
from handmesh.training.command import DataConfig, DistillConfig, ModelConfig, ScheduleConfig, TrainCommand
from handmesh.training.loop import train
from handmesh.training.model import HandNet
from handmesh.training.optimizer import learning_rate_at, parameter_groups, schedule_progress, set_learning_rate, update_average


def command_for(out: Path) -> TrainCommand:
    """Five steps of four pictures on the CPU."""
    return TrainCommand(
        out=out,
        device="cpu",
        precision="f32",
        log_every_batches=2,
        validate_every_pictures=12,
        keep_every_pictures=10,
        model=ModelConfig(size_px=64, drop_path=0.1),
        data=DataConfig(batch_size=4, validation_pictures=8, prefetch_batches=1),
        schedule=ScheduleConfig(pictures=20, warmup_pictures=8),
    )


def shortened(command: TrainCommand, pictures: int) -> TrainCommand:
    return replace(command, schedule=replace(command.schedule, pictures=pictures), validate_every_pictures=1000)


@pytest.fixture
def shards(hand_model):
    return GeneratedShards(hand_model)


@pytest.fixture
def command(tmp_path) -> TrainCommand:
    return command_for(tmp_path / "run")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, hand_model) -> Path:
    """The checkpoint of a run that ended."""
    return train(command_for(tmp_path_factory.mktemp("trained")), GeneratedShards(hand_model).data(batch_size=4))


def test_writes_numbers_and_checkpoints_that_know_what_they_are(trained, hand_model):
    with trained.with_name("metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["split"] for row in rows] == ["train", "validation", "train", "validation"]
    assert [int(row["pictures"]) for row in rows] == [8, 12, 16, 20]
    assert all(np.isfinite(float(row["mpjpe_mm"])) for row in rows if row["split"] == "validation")
    assert all(float(row["loss"]) > 0 and 0 <= float(row["waiting_share"]) <= 1 for row in rows if row["split"] == "train")
    checkpoint = load_checkpoint(trained)
    assert checkpoint.hand_model == hand_model.id and checkpoint.command() == command_for(trained.parent)
    kept = ["pictures-000000012.pt", "pictures-000000020.pt"]
    assert sorted(path.name for path in trained.parent.glob("*.pt")) == ["best.pt", "last.pt", *kept]
    assert load_checkpoint(trained.with_name(kept[0])).step == 3
    net = net_from_checkpoint(checkpoint)
    assert not net.training and torch.equal(net.head.output.bias, checkpoint.ema["head.output.bias"])


def test_the_best_is_the_lowest_validation(trained):
    with trained.with_name("metrics.csv").open(encoding="utf-8") as file:
        scores = {int(row["pictures"]): float(row["pa_mpjpe_mm"]) for row in csv.DictReader(file) if row["split"] == "validation"}
    best = load_checkpoint(trained.with_name("best.pt"))
    assert best.best == pytest.approx(min(scores.values()), rel=1e-4) == pytest.approx(scores[best.pictures], rel=1e-4)
    assert load_checkpoint(trained).best == best.best


def test_starts_from_another_runs_averaged_weights(trained, shards, command):
    still = ScheduleConfig(pictures=4, learning_rate=1e-30, final_learning_rate=0.0)
    ours = load_checkpoint(
        train(replace(shortened(command, 4), init_from=trained, schedule=still), shards.data(batch_size=4))
    )  # fmt: skip
    theirs = load_checkpoint(trained)
    assert torch.equal(ours.model["head.output.weight"], theirs.ema["head.output.weight"]) and ours.pictures == 4


def test_bf16_trains_too(shards, command):
    path = train(replace(shortened(command, 8), precision="bf16"), shards.data(batch_size=4))
    assert all(value.isfinite().all() for value in load_checkpoint(path).model.values())


def test_a_teacher_trains_a_map_that_is_not_exported(trained, shards, command):
    plain = replace(shortened(command, 8), model=ModelConfig(size_px=64, head="pooled"), log_every_batches=1)
    path = train(replace(plain, distill=DistillConfig(teacher=trained)), shards.data(batch_size=4))
    checkpoint = load_checkpoint(path)
    assert sorted(checkpoint.student_map) == ["bias", "weight"] and not any("student_map" in name for name in checkpoint.ema)
    net_from_checkpoint(checkpoint)
    with path.with_name("metrics.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train"]
    assert all(float(row["teacher_features"]) > 0 and float(row["teacher_vertices"]) > 0 for row in rows)
    # It learns: its optimiser has moments for it.
    assert len(checkpoint.optimizer["state"]) == sum(len(group["params"]) for group in checkpoint.optimizer["param_groups"])
    longer = replace(plain, distill=DistillConfig(teacher=trained), resume=True, schedule=replace(plain.schedule, pictures=12))
    resumed = load_checkpoint(train(longer, shards.data(batch_size=4)))
    moved = (resumed.student_map["weight"] - checkpoint.student_map["weight"]).abs().max()
    assert 0 < moved < 0.01
    with pytest.raises(UserError, match=r"expected distill\.teacher"):
        train(replace(longer, distill=DistillConfig()), shards.data(batch_size=4))


def test_a_loss_that_is_no_number_stops_and_names_the_pictures(shards, command):
    broken = shortened(command, 8)
    path = train(broken, shards.data(batch_size=4))
    before = path.read_bytes()
    data = shards.data(batch_size=4)
    # Pictures that are trained on after the checkpoint.
    wanted = data.batch(broken.seed, 2)
    row = int(torch.nonzero(wanted.has_joints)[0])
    shards._labels["root_m"][wanted.index[row]] = np.nan
    with pytest.raises(UserError, match="expected a finite loss, got nan after 8 pictures") as caught:
        train(replace(broken, resume=True, schedule=replace(broken.schedule, pictures=20)), data)
    assert "\n" not in str(caught.value) and "bad-batch-2.json" in str(caught.value)
    report = json.loads((command.out / "bad-batch-2.json").read_text())
    assert (report["step"], report["seed"], report["loss"]) == (2, 0, "nan")
    (rank,) = report["ranks"]
    assert rank["rank"] == 0 and rank["terms"]["camera_shift"] == "nan" and rank["terms"]["presence"] > 0
    assert rank["pictures"] == [{"source": "shards", "index": index} for index in wanted.index.tolist()]
    assert path.read_bytes() == before


def test_does_not_overwrite_a_run(shards, command, tmp_path):
    command.out.mkdir()
    (command.out / "last.pt").write_bytes(b"precious")
    with pytest.raises(UserError, match="--resume"):
        train(command, shards.data())
    with pytest.raises(UserError, match="torn or not one"):
        train(replace(command, resume=True), shards.data(batch_size=4))
    with pytest.raises(UserError, match="is no file"):
        train(replace(command, out=tmp_path / "none", resume=True), shards.data(batch_size=4))


def test_the_schedule_ends_by_pictures_or_by_time():
    schedule = ScheduleConfig(pictures=1000, max_minutes=10, warmup_pictures=100, learning_rate=1e-3, final_learning_rate=1e-6)
    assert schedule_progress(schedule, 500, 60.0) == 0.5
    assert schedule_progress(schedule, 500, 480.0) == pytest.approx(0.8)
    assert schedule_progress(replace(schedule, max_minutes=None), 500, 1e9) == 0.5
    rates = [learning_rate_at(schedule, pictures / 1000, pictures) for pictures in range(0, 1001, 10)]
    assert rates[0] < 2e-5 and np.argmax(rates) == 10 and max(rates) == pytest.approx(1e-3, rel=0.05)
    assert all(np.diff(rates[10:]) < 0) and rates[-1] == pytest.approx(1e-6)
    steps = [learning_rate_at(replace(schedule, shape="step"), share, 500) for share in (0.2, 0.499, 0.5, 1.0)]
    assert steps == pytest.approx([1e-3, 1e-3, 1e-6, 1e-6])


def test_weights_decay_and_scales_do_not():
    net, another = HandNet("fastvit_t8", "keypoint", 64), nn.Linear(3, 4)
    decaying, rest = parameter_groups(net, ScheduleConfig(weight_decay=0.05), another)
    assert decaying["weight_decay"] == 0.05 and rest["weight_decay"] == 0
    assert sum(len(group["params"]) for group in (decaying, rest)) == len(list(net.parameters())) + 2
    modules = [*net.modules(), another]
    kernels = {id(module.weight) for module in modules if isinstance(module, (nn.Conv2d, nn.Linear))}
    assert {id(parameter) for parameter in decaying["params"]} == kernels


def test_early_layers_learn_slower_and_heads_at_the_full_rate():
    net = HandNet("fastvit_t8", "pooled", 64)
    groups = parameter_groups(net, ScheduleConfig(layer_decay=0.8, weight_decay=0.05))
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    scales = {names[id(parameter)]: group["lr_scale"] for group in groups for parameter in group["params"]}
    assert scales.keys() == dict(net.named_parameters()).keys()
    assert all(scale == 1 for name, scale in scales.items() if not name.startswith("backbone."))

    def slowest(prefix: str) -> float:
        return min(scale for name, scale in scales.items() if name.startswith(prefix))

    order = [slowest(f"backbone.{part}") for part in ("stem", "stages.0", "stages.1", "stages.2", "stages.3", "final_conv")]
    assert all(np.diff(order) > 0) and order[-1] == 1
    decays = {names[id(parameter)]: group["weight_decay"] for group in groups for parameter in group["params"]}
    assert all((decays[name] > 0) == (parameter.ndim in (2, 4)) for name, parameter in net.named_parameters())
    optimizer = torch.optim.AdamW(groups)
    set_learning_rate(optimizer, 2.0)
    assert {group["lr"] for group in optimizer.param_groups} == {2.0 * scale for scale in scales.values()}


def test_the_average_follows_the_weights():
    net, average = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    nn.init.constant_(net.weight, 3.0)
    update_average(average, net, 0.9, step=10_000)
    assert torch.allclose(average.weight, torch.tensor(1.2))
    # At first it is hardly more than the weights themselves.
    update_average(average, net, 0.9, step=0)
    assert average.weight.min() > 2.5
