"""Settings: frozen dataclasses that are schema, defaults, help and validation; YAML files that hold differences."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import io
import json
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from handmesh.errors import UserError, one_line

Config = TypeVar("Config")


def load_config(cls: type[Config], path: str | Path) -> Config:
    """Read a YAML file of differences from a dataclass's defaults.

    Args:
        cls: a frozen dataclass whose fields are dataclasses, numbers, texts, booleans, paths, literals or tuples.
        path: the YAML file; an empty one gives the defaults.

    Raises:
        UserError: no such file, not YAML, an unknown key, a value of the wrong type, a required field left out.
    """
    values = _read_yaml(Path(path))
    return config_from_dict(cls, {} if values is None else values, where=f"'{path}'")


def setting_of(path: str, name: str) -> Any:
    """One setting at the top of a YAML file; None where there is none, or no such file, which `load_config` is to complain about."""
    if not Path(path).is_file():
        return None
    values = _read_yaml(Path(path))
    return values.get(name) if isinstance(values, dict) else None


def _read_yaml(path: Path) -> Any:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"expected a YAML file of settings, got '{path}', which cannot be read ({one_line(error)}); see configs/"
        ) from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"expected YAML in '{path}', but it does not parse: {one_line(error)}") from error


def config_from_dict(cls: type[Config], values: Any, where: str = "settings") -> Config:
    """The dataclass of nested dictionaries; unlisted fields keep their defaults. Inverse of `config_to_dict`.

    Raises:
        UserError: as `load_config`.
    """
    return _dataclass_from(cls, values, where, "")


def config_to_dict(config: Any) -> dict[str, Any]:
    """Nested dictionaries of plain values that JSON, YAML and checkpoints can hold."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        if isinstance(value, Path):
            return str(value)
        if isinstance(value, tuple):
            return [plain(item) for item in value]
        return value

    return plain(config)


def config_hash(config: Any) -> str:
    """12 hexadecimal digits that name a configuration."""
    canonical = json.dumps(config_to_dict(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def parse_config(cls: type[Config], arguments: Sequence[str], program: str) -> Config:
    """What `PROGRAM FILE.yaml [--field value ...]` asks for: the file's values, overridden by the flags.

    Args:
        cls: the dataclass of the settings.
        arguments: the command line without the program's name.
        program: its name, for the help.

    Raises:
        UserError: no file, a bad file, an unknown flag, or a flag's value of the wrong type.
        SystemExit: after the help was printed.
    """
    if arguments and not arguments[0].startswith("-"):
        default, flags = load_config(cls, arguments[0]), list(arguments[1:])
    elif {"-h", "--help"} & set(arguments):
        default, flags = cls(), ["--help"]
    else:
        raise UserError(f"expected a YAML file first, as in '{program} configs/smoke.yaml', got '{' '.join(arguments)}'")
    return parse_flags(cls, flags, f"{program} FILE.yaml", default)


def parse_flags(cls: type[Config], arguments: Sequence[str], program: str, default: Config | None = None) -> Config:
    """The dataclass that flags ask for, by tyro, with its complaints in one line.

    Args:
        cls: the dataclass of the settings.
        arguments: the flags.
        program: its name, for the help.
        default: what the flags override; None for the dataclass's own defaults.

    Raises:
        UserError: an unknown flag (names the nearest), a flag left out that is needed, or a value of the wrong type.
        SystemExit: after the help was printed.
    """
    import tyro

    complaint = io.StringIO()
    given: dict[str, Any] = {} if default is None else {"default": default}
    try:
        with redirect_stderr(complaint):
            config, unknown = tyro.cli(cls, prog=program, args=list(arguments), return_unknown_args=True, **given)
    except SystemExit as end:
        if not end.code:
            raise
        raise UserError(f"{_without_box(complaint.getvalue())}; see {program} --help") from end
    if unknown:
        known = [f"--{name}" for name in _flag_names(cls, default)]
        flag = unknown[0].split("=")[0].replace("_", "-")
        raise UserError(f"unknown argument '{unknown[0]}' of {program};{nearest(flag, known)} --help lists all")
    return config


def parse_subcommand(commands: Mapping[str, type], arguments: Sequence[str], program: str) -> Any:
    """The dataclass that `PROGRAM NAME [flags]` asks for.

    Args:
        commands: name -> dataclass; the first line of its docstring is its help.
        arguments: the name, then its flags.
        program: its name, for the help.

    Raises:
        UserError: no name or an unknown one, or as `parse_flags`.
        SystemExit: after the help was printed.
    """
    name = arguments[0] if arguments else ""
    names = ",".join(commands)
    if name in ("-h", "--help"):
        width = max(map(len, commands)) + 2
        print(f"usage: {program} {{{names}}} [--help] [flags]\n")
        for each, cls in commands.items():
            print(f"  {each:<{width}}{(cls.__doc__ or '').splitlines()[0]}")
        raise SystemExit(0)
    if name not in commands:
        came = f"got '{name}';{nearest(name, commands)}" if name else "got nothing;"
        raise UserError(f"expected one of '{program} {{{names}}}', {came} {program} --help says what they do")
    return parse_flags(commands[name], arguments[1:], f"{program} {name}")


def _without_box(text: str) -> str:
    """tyro's complaint: the words between the title and the rule of the box that it draws."""
    lines = [line.strip("│╭╮╰╯ ") for line in text.splitlines()]
    rules = [index for index, line in enumerate(lines) if set(line) == {"─"}]
    return " ".join(lines[1 : rules[0]] if rules else lines).rstrip(". ")


def _flag_names(cls: Any, default: Any) -> list[str]:
    """Names of the flags of a dataclass; an entry of a list of dataclasses has its number in `default`."""
    hints = typing.get_type_hints(cls)
    names = []
    for field in dataclasses.fields(cls):
        kind, name, value = hints[field.name], field.name.replace("_", "-"), getattr(default, field.name, None)
        parts = {name: (kind, value)}
        if isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
            parts = {f"{name}.{number}": (type(item), item) for number, item in enumerate(value)}
        for part, (inner_kind, inner_value) in parts.items():
            is_nested = dataclasses.is_dataclass(inner_kind)
            names += [f"{part}.{inner}" for inner in _flag_names(inner_kind, inner_value)] if is_nested else [part]
    return names


def _dataclass_from(cls: Any, values: Any, where: str, prefix: str) -> Any:
    if values is None:
        # A heading with nothing under it.
        return cls()
    if not isinstance(values, dict):
        raise UserError(f"expected settings by name in {where}{f' under {prefix[:-1]}' if prefix else ''}, got {_show(values)}")
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    hints = typing.get_type_hints(cls)
    converted = {}
    for key, value in values.items():
        if key not in fields:
            raise UserError(f"unknown setting '{prefix}{key}' in {where};{nearest(str(key), fields)} known: {', '.join(fields)}")
        converted[key] = _convert(hints[key], value, where, f"{prefix}{key}")
    required = [
        name
        for name, field in fields.items()
        if name not in converted and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if required:
        raise UserError(f"expected '{prefix}{required[0]}' in {where}, which leaves it out; add it")
    return cls(**converted)


def _convert(kind: Any, value: Any, where: str, name: str) -> Any:
    """One value as its field's type; PyYAML reads 1e-3 as text, and 1 where 1.0 is meant."""

    def wrong(expected: str) -> UserError:
        return UserError(f"expected {expected} for '{name}' in {where}, got {_show(value)}")

    if dataclasses.is_dataclass(kind):
        return _dataclass_from(kind, value, where, f"{name}.")
    origin = get_origin(kind)
    if origin is Literal:
        choices = get_args(kind)
        if value not in choices:
            raise wrong(f"one of {', '.join(map(str, choices))}")
        return value
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        return _convert(next(inner for inner in get_args(kind) if inner is not type(None)), value, where, name)
    if origin is tuple:
        if not isinstance(value, list):
            raise wrong("a list")
        inner = get_args(kind)
        if inner[-1] is not Ellipsis and len(inner) != len(value):
            raise wrong(f"a list of {len(inner)}")
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
        return tuple(_convert(each, item, where, f"{name}[{index}]") for index, (each, item) in enumerate(zip(kinds, value, strict=True)))
    if kind is bool:
        if not isinstance(value, bool):
            raise wrong("true or false")
        return value
    if kind in (int, float):
        return _number(kind, value, wrong)
    if kind in (str, Path):
        if not isinstance(value, str):
            raise wrong("text")
        return kind(value)
    raise TypeError(f"field '{name}' has type {kind}, which settings cannot hold")


def _number(kind: type, value: Any, wrong: Any) -> int | float:
    expected = "a whole number" if kind is int else "a number"
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise wrong(expected)
    try:
        number = float(value)
    except ValueError as error:
        raise wrong(expected) from error
    if kind is float:
        return number
    if not number.is_integer():
        raise wrong(expected)
    return int(value) if isinstance(value, int) else int(number)


def nearest(name: str, known: Iterable[str]) -> str:
    """ " did you mean 'X'?" where one of the known names is near, else nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" did you mean '{close[0]}'?" if close else ""


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
