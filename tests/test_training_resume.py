"""A training that is killed, interrupted, or started twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from generated_shards import GeneratedShards

from handmesh.config import config_to_dict
from handmesh.errors import UserError
from handmesh.hand_model import HandModel
from handmesh.synthetic.manifest import SHARDS, write_manifest
from handmesh.synthetic.shards import shard_name
from handmesh.training.checkpoint import Checkpoint, load_checkpoint
from handmesh.training.command import DataConfig, ModelConfig, ScheduleConfig, SourceConfig, TrainCommand
from handmesh.training.loop import train

STEPS, BATCH = 8, 4
KILLED_AFTER = 3 * BATCH


def write_shards(shards: GeneratedShards, folder: Path, model: HandModel) -> Path:
    """The pictures as handmesh-synth leaves them."""
    every = np.arange(len(shards))
    images = shards.images(every)
    (folder / shard_name(0)).mkdir(parents=True)
    for name, array in {
        "images": images, "parts": shards.parts(every), "depth": shards.depth(every), "labels": shards.labels(every)
    }.items():  # fmt: skip
        np.save(folder / shard_name(0) / f"{name}.npy", array)
    size, pieces = images.shape[1], [{"name": shard_name(0), "count": len(every), "labels_sha256": ""}]
    write_manifest(
        folder,
        {"format": SHARDS, "count": len(every), "versions": 1, "size_px": size, "width_px": size, "hand_model": model.id, "pieces": pieces},
    )
    return folder


@pytest.fixture
def command(tmp_path, hand_model) -> TrainCommand:
    """Everything that is random is on: drop-path, augmentation, order."""
    folder = write_shards(GeneratedShards(hand_model), tmp_path / "pictures", hand_model)
    return TrainCommand(
        out=tmp_path / "run",
        device="cpu",
        precision="f32",
        validate_every_pictures=2 * BATCH,
        keep_every_pictures=KILLED_AFTER,
        save_every_minutes=1e-6,
        model=ModelConfig(size_px=64, head="pooled", drop_path=0.1),
        data=DataConfig(sources=(SourceConfig(folders=(folder,)),), batch_size=BATCH, validation_pictures=4, prefetch_batches=2, readers=2),
        schedule=ScheduleConfig(pictures=STEPS * BATCH, warmup_pictures=2 * BATCH),
    )


def start(command: TrainCommand, *flags: str) -> subprocess.Popen:
    """handmesh-train, in a process of its own."""
    script, settings = command.out.with_name("handmesh-train"), command.out.with_suffix(".yaml")
    script.write_text("from handmesh.cli import train\ntrain()\n")
    # JSON is YAML.
    settings.write_text(json.dumps(config_to_dict(command)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, script, settings, *flags], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen) -> str:
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return out


def wait_for(path: Path, process: subprocess.Popen) -> None:
    until = time.monotonic() + 240
    while not path.exists():
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.005)


def expect_equal(ours, theirs) -> None:
    """Bit for bit, however nested."""
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for name in theirs:
            expect_equal(ours[name], theirs[name])
    elif isinstance(theirs, (list, tuple)):
        assert len(ours) == len(theirs)
        for our, their in zip(ours, theirs, strict=True):
            expect_equal(our, their)
    elif isinstance(theirs, torch.Tensor):
        assert torch.equal(ours, theirs)
    else:
        assert ours == theirs


def test_killed_and_resumed_is_bit_for_bit_what_it_would_have_been(command, tmp_path):
    killed = replace(command, out=tmp_path / "killed")
    process = start(killed)
    # One after the other, so that the two do not take each other's cores.
    wait_for(killed.out / f"pictures-{KILLED_AFTER:09d}.pt", process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    middle = load_checkpoint(killed.out / "last.pt")
    assert 0 < middle.step < STEPS
    finish(start(killed, "--resume"))
    finish(start(command))
    ours, theirs = load_checkpoint(killed.out / "last.pt"), load_checkpoint(command.out / "last.pt")
    assert ours.step == theirs.step == STEPS
    assert ours.best == theirs.best
    for name in ("model", "ema", "optimizer"):
        expect_equal(getattr(ours, name), getattr(theirs, name))
    # It did go on: the weights in the middle are others.
    assert not torch.equal(middle.model["head.output.weight"], ours.model["head.output.weight"])
    expect_equal(load_checkpoint(killed.out / "best.pt").ema, load_checkpoint(command.out / "best.pt").ema)


def test_sigterm_saves_and_tells_the_command_to_go_on_with(command):
    process = start(replace(command, schedule=replace(command.schedule, pictures=100_000)))
    wait_for(command.out / "last.pt", process)
    process.send_signal(signal.SIGTERM)
    said = finish(process)
    settings = command.out.with_suffix(".yaml")
    assert f"handmesh-train {settings} --resume" in said.replace("\n", " ")
    assert load_checkpoint(command.out / "last.pt").pictures < 100_000


def interrupted_at(command: TrainCommand, hand_model: HandModel, reads: int) -> Checkpoint:
    """The checkpoint of a training that Ctrl-C ended while it read its batch number `reads`."""
    shards, left = GeneratedShards(hand_model), iter(range(1000))
    data = shards.data(batch_size=BATCH, validation_pictures=4)
    shards.on_read = lambda: signal.raise_signal(signal.SIGINT) if next(left) == reads else None
    return load_checkpoint(train(command, data))


def test_other_settings_are_refused_or_said(command, hand_model, capsys):
    checkpoint = interrupted_at(command, hand_model, reads=3)
    assert 0 < checkpoint.pictures < STEPS * BATCH and "--resume" in capsys.readouterr().out
    resumed = replace(command, resume=True)
    refused = [
        (replace(resumed, model=replace(command.model, variant="fastvit_t12")), "expected model.variant fastvit_t8"),
        (replace(resumed, data=replace(command.data, batch_size=8)), "expected data.batch_size 4"),
        (replace(resumed, seed=5), "expected seed 0"),
        (replace(resumed, schedule=replace(command.schedule, layer_decay=0.5)), "expected schedule.layer_decay 1.0"),
    ]
    for bad, said in refused:
        with pytest.raises(UserError, match=said) as caught:
            train(bad)
        assert "\n" not in str(caught.value) and "--init-from" in str(caught.value)
    pictures = checkpoint.pictures + BATCH
    longer = replace(resumed, schedule=replace(command.schedule, pictures=pictures, weight_decay=0.1), log_every_batches=7)
    after = load_checkpoint(train(longer))
    said = capsys.readouterr().out.replace("\n", " ")
    assert f"schedule.pictures {STEPS * BATCH} -> {pictures}" in said and "schedule.weight_decay 0.05 -> 0.1" in said
    assert "log_every" not in said
    assert after.pictures == pictures and after.optimizer["param_groups"][0]["weight_decay"] == 0.1
    train(longer)
    assert "already" in capsys.readouterr().out


def test_time_already_spent_counts(command, hand_model, capsys):
    short = replace(command, schedule=replace(command.schedule, pictures=100_000, max_minutes=2e-3))
    first = load_checkpoint(train(short, GeneratedShards(hand_model).data(batch_size=BATCH)))
    assert "used its max_minutes = 0.002" in capsys.readouterr().out
    again = load_checkpoint(train(replace(short, resume=True), GeneratedShards(hand_model).data(batch_size=BATCH)))
    assert again.step == first.step > 0 and "already" in capsys.readouterr().out


def test_two_trainings_do_not_share_a_folder(command, hand_model):
    shards = GeneratedShards(hand_model)
    data, caught = shards.data(batch_size=BATCH), []

    def start_another() -> None:
        shards.on_read = lambda: None
        with pytest.raises(UserError, match="another one writes there") as refusal:
            train(command, GeneratedShards(hand_model).data(batch_size=BATCH))
        caught.append(str(refusal.value))

    shards.on_read = start_another
    train(replace(command, schedule=replace(command.schedule, pictures=BATCH)), data)
    assert len(caught) == 1 and "\n" not in caught[0]
