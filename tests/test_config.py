"""Settings: YAML and flags become checked dataclasses, and nothing is read that nobody uses."""

from __future__ import annotations

import dataclasses
import re
import typing
from pathlib import Path
from typing import Any

import pytest

from handmesh.config import config_from_dict, config_hash, config_to_dict, load_config, parse_config
from handmesh.errors import UserError
from handmesh.recipes.head import HeadCommand
from handmesh.synthetic.config import PictureSet
from handmesh.training.command import SourceConfig, TrainCommand, parse_train

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def yaml_file(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "settings.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_values_become_their_fields_types(yaml_file):
    # PyYAML reads 1e-3 as text, 5 as int where a float is meant, and 2e3 as text where an int is meant.
    text = "schedule: {learning_rate: 1e-3, clip_norm: 5, pictures: 2e3, max_minutes: null}\n"
    text += "data: {sources: [{folders: [a, b c]}]}\nresume: true"
    command = load_config(TrainCommand, yaml_file(text))
    assert command.schedule.learning_rate == 1e-3
    assert isinstance(command.schedule.clip_norm, float) and command.schedule.clip_norm == 5
    assert isinstance(command.schedule.pictures, int) and command.schedule.pictures == 2000
    assert command.schedule.max_minutes is None
    assert command.data.sources == (SourceConfig(folders=(Path("a"), Path("b c"))),)
    assert command.resume is True
    assert command.model == TrainCommand().model


def test_an_empty_file_gives_the_defaults(yaml_file):
    assert load_config(TrainCommand, yaml_file("")) == TrainCommand()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("schedule: {learning_rat: 1}", "did you mean 'learning_rate'?"),
        ("modle: {}", "did you mean 'model'?"),
        ("schedule: {learning_rate: fast}", "a number for 'schedule.learning_rate'"),
        ("schedule: {pictures: 1.5}", "a whole number for 'schedule.pictures'"),
        ("schedule: {pictures: true}", "a whole number"),
        ("model: {head: dense}", "one of pooled, keypoint"),
        ("model: fastvit_t8", "settings by name"),
        ("data: {sources: here}", "a list for 'data.sources'"),
        ("resume: 1", "true or false"),
        ("a: [", "does not parse"),
        ("- a", "settings by name"),
    ],
)
def test_bad_files_get_one_line(yaml_file, text, says):
    with pytest.raises(UserError) as caught:
        load_config(TrainCommand, yaml_file(text))
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_gets_one_line(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        load_config(TrainCommand, tmp_path / "none.yaml")


def test_flags_override_the_file(yaml_file):
    path = yaml_file("schedule: {pictures: 5}\nmodel: {variant: fastvit_sa12}")
    command = parse_train([str(path), "--schedule.pictures", "7", "--resume", "--data.sources.0.folders", "x", "y"])
    assert (command.schedule.pictures, command.model.variant, command.resume) == (7, "fastvit_sa12", True)
    assert command.data.sources == (SourceConfig(folders=(Path("x"), Path("y"))),)
    assert parse_train([str(path), "--no-resume"]).resume is False


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--schedule.picture", "7"], "did you mean '--schedule.pictures'?"),
        (["--data.sources.0.folder", "x"], "did you mean '--data.sources.0.folders'?"),
        (["--data.sources.1.folders", "x"], "did you mean '--data.sources.0.folders'?"),
        (["--schedule.pictures", "many"], "--schedule.pictures"),
        (["extra"], "unknown argument 'extra'"),
    ],
)
def test_bad_flags_get_one_line(yaml_file, flags, says):
    with pytest.raises(UserError) as caught:
        parse_train([str(yaml_file("")), *flags])
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_the_file_comes_first():
    with pytest.raises(UserError, match="a YAML file first"):
        parse_train(["--resume"])
    with pytest.raises(SystemExit) as left:
        parse_train(["--help"])
    assert left.value.code == 0


def test_dictionaries_and_back():
    command = dataclasses.replace(TrainCommand(), out=Path("x"), resume=True)
    assert config_from_dict(TrainCommand, config_to_dict(command)) == command


def test_the_hash_names_the_values():
    command = TrainCommand()
    assert config_hash(command) == config_hash(config_from_dict(TrainCommand, config_to_dict(command)))
    assert config_hash(command) != config_hash(dataclasses.replace(command, seed=1))


def test_required_fields_are_asked_for(yaml_file):
    @dataclasses.dataclass(frozen=True)
    class Needs:
        count: int

    with pytest.raises(UserError, match="expected 'count'"):
        load_config(Needs, yaml_file(""))
    assert parse_config(Needs, [str(yaml_file("count: 2"))], "needs").count == 2


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_files_are_valid_and_hold_differences(path):
    import yaml

    if path.name.startswith(("eval_", "pictures_")):
        # What is in a set may well be today's defaults.
        load_config(PictureSet, path)
        return
    command = HeadCommand if path.name == "head.yaml" else TrainCommand
    load_config(command, path)

    def differs(values: dict, defaults: dict, name: str) -> None:
        for key, value in values.items():
            if isinstance(value, dict):
                differs(value, defaults[key], f"{name}{key}.")
            elif key not in ("shards", "recipe"):
                assert value != defaults[key], f"{name}{key} is the default"

    differs(yaml.safe_load(path.read_text(encoding="utf-8")), config_to_dict(command()), "")


def test_every_field_is_read_by_the_code():
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "handmesh" / "training").glob("*.py") if path.name != "command.py"]
    code = "\n".join(sources)

    def names(cls: Any) -> list[str]:
        hints = typing.get_type_hints(cls)
        fields = [(field.name, hints[field.name]) for field in dataclasses.fields(cls)]
        return [inner for name, kind in fields for inner in ([name, *names(kind)] if dataclasses.is_dataclass(kind) else [name])]

    # Loss weights are looked up by the names of the loss terms.
    unread = [name for name in names(TrainCommand) if not re.search(rf'\.{name}\b|"{name}":|\["{name}"\]', code)]
    assert unread == []


@pytest.mark.parametrize("flag", ["--schedule.pictures", "--schedule.max-minutes", "--data.batch-size", "--log-every-batches"])
def test_nothing_lasts_no_time(yaml_file, flag):
    with pytest.raises(UserError, match="expected a positive"):
        parse_train([str(yaml_file("")), flag, "0"])
