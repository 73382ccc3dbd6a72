"""Checkpoints: whole or one line, today's and yesterday's, and small enough to publish."""

from __future__ import annotations

import math
import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from handmesh.config import config_to_dict
from handmesh.errors import UserError
from handmesh.training.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_weights,
    net_from_checkpoint,
    save_checkpoint,
    save_weights,
)
from handmesh.training.command import DataConfig, ModelConfig, SourceConfig, TrainCommand
from handmesh.training.model import HandNet, build_net

MODEL = ModelConfig(size_px=64)
# Settings that format 1 had and that are no more.
OLD_AUGMENT = {"camera_probability": 0.25, "roll_deg": 30.0, "zoom": 0.15}


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    """Of an untrained network whose normalisation has seen something."""
    torch.manual_seed(0)
    net = build_net(MODEL).train()
    for _ in range(3):
        net(torch.randint(0, 256, (2, 64, 64, 3)))
    source = SourceConfig(folders=(Path("/somewhere/secret/pictures"),))
    command = TrainCommand(out=Path("/somewhere/secret/run"), model=MODEL, data=DataConfig(sources=(source,)))
    state = net.state_dict()
    return Checkpoint(config_to_dict(command), "open-hand-2", "abc", 3, 12, 1.5, state, state, {"state": {}}, 9.5)


def write_old_format(checkpoint: Checkpoint, path: Path) -> None:
    """As format 1 was: no dense depth, no `best`, no `student_map`, other settings."""
    config = {name: value for name, value in checkpoint.config.items() if name not in ("distill", "devices", "nodes")}
    config["augment"] = OLD_AUGMENT
    state = {name: value for name, value in checkpoint.ema.items() if not name.startswith("head.depth")}
    values = {name: getattr(checkpoint, name) for name in ("hand_model", "commit", "step", "pictures", "seconds", "optimizer")}
    torch.save({"format": "handmesh-checkpoint-1", "config": config, "model": state, "ema": state, **values}, path)


def test_what_is_saved_is_loaded(checkpoint, tmp_path):
    save_checkpoint(checkpoint, tmp_path / "last.pt")
    loaded = load_checkpoint(tmp_path / "last.pt")
    assert loaded.best == 9.5 and loaded.command() == checkpoint.command()
    assert all(torch.equal(loaded.ema[name], checkpoint.ema[name]) for name in checkpoint.ema)
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def test_the_form_to_publish_is_small_and_the_same_network(checkpoint, tmp_path):
    save_checkpoint(checkpoint, tmp_path / "last.pt")
    save_weights(load_checkpoint(tmp_path / "last.pt"), tmp_path / "slim.pt")
    assert (tmp_path / "slim.pt").stat().st_size < 25e6
    slim = load_checkpoint(tmp_path / "slim.pt")
    assert slim.model == slim.optimizer == {}
    assert not any("secret" in str(value) for value in (slim.config["out"], slim.config["data"]))
    crops = torch.randint(0, 256, (4, 64, 64, 3))
    with torch.no_grad():
        whole, half = net_from_checkpoint(checkpoint)(crops), net_from_checkpoint(slim)(crops)
    assert half.rot6d.dtype == torch.float32
    assert torch.allclose(half.rot6d, whole.rot6d, atol=0.01) and not torch.equal(half.rot6d, whole.rot6d)


def test_numbers_too_large_for_half_precision_stay_as_they_are(checkpoint, tmp_path):
    ema = {**checkpoint.ema, "head.output.bias": torch.full_like(checkpoint.ema["head.output.bias"], 1e6)}
    save_weights(replace(checkpoint, ema=ema), tmp_path / "slim.pt")
    assert net_from_checkpoint(load_checkpoint(tmp_path / "slim.pt")).head.output.bias.max() == 1e6


def test_the_format_before_still_loads(checkpoint, tmp_path):
    write_old_format(checkpoint, tmp_path / "old.pt")
    old = load_checkpoint(tmp_path / "old.pt")
    assert math.isinf(old.best) and old.student_map == {}
    assert old.command().augment.camera_probability == 0.25
    crops = torch.randint(0, 256, (2, 64, 64, 3))
    with torch.no_grad():
        ours, theirs = net_from_checkpoint(old)(crops), net_from_checkpoint(checkpoint)(crops)
    assert torch.equal(ours.rot6d, theirs.rot6d)


def test_torn_and_foreign_files_get_one_line_and_run_no_code(checkpoint, tmp_path):
    path, torn, foreign, evil = (tmp_path / f"{name}.pt" for name in ("whole", "torn", "foreign", "evil"))
    save_checkpoint(checkpoint, path)
    torn.write_bytes(path.read_bytes()[:-1000])
    torch.save({"weights": torch.zeros(3)}, foreign)
    evil.write_bytes(pickle.dumps(_Touch(tmp_path / "touched"), protocol=2))
    for bad in (torn, foreign, evil, tmp_path / "none.pt"):
        with pytest.raises(UserError) as caught:
            load_checkpoint(bad)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "touched").exists()
    with pytest.raises(UserError, match="to fit the configured network"):
        load_weights(HandNet("fastvit_t8", "pooled", 64), checkpoint.ema, "the weights")
    with pytest.raises(UserError, match="expected to write the checkpoint"):
        save_checkpoint(checkpoint, tmp_path / "no such folder" / "last.pt")


def test_a_failed_write_leaves_the_old_file(checkpoint, tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    save_checkpoint(checkpoint, path)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(UserError, match="disk full"):
        save_checkpoint(replace(checkpoint, step=4), path)
    assert load_checkpoint(path).step == 3 and len(list(tmp_path.iterdir())) == 1


class _Touch:
    """Unpickling it would make a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_the_mean_of_checkpoints(checkpoint, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent.parent / "tools"))
    from average_checkpoints import average

    def moved(by: int) -> Checkpoint:
        return replace(checkpoint, pictures=by, ema={name: values + by for name, values in checkpoint.ema.items()})

    mean = average([moved(0), moved(1), moved(5)])
    assert mean.pictures == 5 and not mean.model and not mean.optimizer
    for name, values in checkpoint.ema.items():
        expected = values + 2 if values.is_floating_point() else values + 5
        assert mean.ema[name].dtype == values.dtype and torch.allclose(mean.ema[name], expected, atol=1e-5)
    save_checkpoint(mean, tmp_path / "mean.pt")
    net_from_checkpoint(load_checkpoint(tmp_path / "mean.pt"))
    with pytest.raises(UserError, match="one hand model"):
        average([checkpoint, replace(checkpoint, hand_model="mano-right")])
