"""constraints/ holds a version for every dependency: after a change of pyproject.toml, `make lock` writes them anew."""

import tomllib
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements(extra: str | None, python: str) -> dict[str, Requirement]:
    """What one extra, or none, asks for on Linux, by name, with that of the extras it holds."""
    environment = {**default_environment(), "python_version": python, "sys_platform": "linux", "platform_system": "Linux"}
    found = {}
    for line in PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]:
        wanted = Requirement(line)
        if wanted.name == PROJECT["name"]:
            for inner in wanted.extras:
                found |= requirements(inner, python)
        elif wanted.marker is None or wanted.marker.evaluate(environment):
            found[wanted.name] = wanted
    return found


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_a_version_that_is_allowed_is_pinned_for_every_dependency(python: str) -> None:
    lines = (ROOT / "constraints" / f"py{python.replace('.', '')}.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    wanted = requirements(None, python) | requirements("test", python)
    assert {"numpy", "torch", "pytest"} <= set(wanted)
    wrong = [str(each) for name, each in wanted.items() if not each.specifier.contains(pins.get(name, "0"), prereleases=True)]
    assert wrong == [], "run make lock"
