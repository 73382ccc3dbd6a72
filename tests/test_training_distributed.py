"""Many processes, or many parts, train as one: the same weights for the same global batch."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from generated_shards import GeneratedShards

from handmesh.errors import UserError
from handmesh.hand_model import load_hand_model
from handmesh.training.checkpoint import load_checkpoint
from handmesh.training.command import AugmentConfig, DataConfig, ModelConfig, ScheduleConfig, TrainCommand
from handmesh.training.data import TrainingData
from handmesh.training.loop import train
from handmesh.training.processes import check_devices

LEARNING_RATE = 1e-4
STEPS = 3
# Sums in another order. The optimiser divides each gradient by its own size, so a weight whose gradient is next to nothing may be
# moved by something else than it; all the others agree to a thousandth of what one step moves them.
MEDIAN_TOLERANCE, LARGEST_TOLERANCE = 1e-3 * LEARNING_RATE, 0.5 * LEARNING_RATE

SCRIPT = """
import sys
from pathlib import Path
import torch
sys.path.insert(0, {tests!r})
from test_training_distributed import command_for, pictures
from handmesh.training.loop import train
torch.set_num_threads(1)
train(command_for(Path({out!r}), devices=2), pictures())
"""


def command_for(out: Path, **changes) -> TrainCommand:
    """Nothing random, normalisation frozen: what is left to differ is the order of sums."""
    nothing = AugmentConfig(
        camera_probability=0, roll_probability=0, colour_probability=0, noise_probability=0, blur_probability=0, cutout_probability=0
    )
    return TrainCommand(
        out=out,
        device="cpu",
        precision="f32",
        log_every_batches=1,
        # At every step: all processes must be of one mind about when.
        save_every_minutes=1e-6,
        model=ModelConfig(size_px=64, head="pooled", freeze_norm=True),
        data=DataConfig(batch_size=8, validation_pictures=8, mirror_share=0.25, prefetch_batches=1),
        augment=nothing,
        schedule=ScheduleConfig(pictures=8 * STEPS, warmup_pictures=0, learning_rate=LEARNING_RATE, final_learning_rate=LEARNING_RATE),
        **changes,
    )


def pictures() -> TrainingData:
    return GeneratedShards(load_hand_model("open")).data(batch_size=8)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """Checkpoint of one process that takes each batch whole."""
    return train(command_for(tmp_path_factory.mktemp("alone")), pictures())


def expect_same_weights(path: Path, other: Path) -> None:
    ours, theirs = load_checkpoint(path), load_checkpoint(other)
    assert (ours.step, ours.pictures) == (theirs.step, theirs.pictures) == (STEPS, 8 * STEPS)
    for state, expected in ((ours.model, theirs.model), (ours.ema, theirs.ema)):
        apart = torch.cat([(state[name] - expected[name]).abs().flatten() for name in expected if expected[name].is_floating_point()])
        assert apart.median() < MEDIAN_TOLERANCE and apart.max() < LARGEST_TOLERANCE, (apart.median(), apart.max())
    assert ours.best == pytest.approx(theirs.best, abs=1e-2)


def test_two_processes_train_as_one(alone, tmp_path):
    out, script = tmp_path / "both", tmp_path / "start.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent), out=str(out)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    answer = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stderr
    expect_same_weights(out / "last.pt", alone)
    # One of them speaks.
    assert answer.stdout.count("finished: ") == answer.stdout.count("2 x cpu") == 1
    assert "distributed" not in answer.stderr


def test_a_batch_in_parts_teaches_the_same(alone, tmp_path):
    command = command_for(tmp_path)
    expect_same_weights(train(replace(command, schedule=replace(command.schedule, accumulate=2)), pictures()), alone)


def test_frozen_normalisation_keeps_its_statistics_and_learns_its_scales(alone):
    state = load_checkpoint(alone).model
    means = [state[name] for name in state if name.endswith("running_mean")]
    assert means and all(not mean.any() for mean in means)
    assert any((state[name.replace("running_mean", "weight")] != 1).any() for name in state if name.endswith("running_mean"))


def test_what_cannot_be_shared_out_is_one_line(tmp_path, monkeypatch):
    command = command_for(tmp_path)
    refused = [
        (replace(command, devices=3), "divides by devices x nodes x schedule.accumulate = 3, got 8; set it to 9"),
        (replace(command, schedule=replace(command.schedule, accumulate=16)), "set it to 16"),
        (replace(command, nodes=2), "torchrun --nnodes 2"),
        (replace(command, compile=True), "expected a GPU for --compile"),
        (replace(command, sync_bn=True), "expected GPUs for --sync-bn"),
    ]
    for bad, said in refused:
        with pytest.raises(UserError, match=said) as caught:
            check_devices(bad)
        assert "\n" not in str(caught.value)
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="expected --devices 2 --nodes 2, as torchrun started"):
        check_devices(command)
    check_devices(replace(command, devices=2, nodes=2))
