"""The commands from outside: exit codes, and exactly one line on stderr."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from handmesh import cli
from handmesh.config import parse_flags
from handmesh.errors import UserError
from handmesh.live.command import DemoCommand


def _command(name, *arguments, folder, **environment):
    program = f"from handmesh.cli import {name}; {name}()"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )


def _truncated_jpg(folder):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 60, 3), dtype=np.uint8)).save(folder / "cut.jpg")
    data = (folder / "cut.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--camra", "0"), "did you mean '--camera'?"),
        (("--max-hands", "two"), "--max-hands"),
        (("--runtime", "tensorflow"), "openvino"),
        (("--input",), "--input"),
        (("--input", "nothing.png"), "nothing.png does not exist"),
        (("--input", "cut.jpg"), "cut.jpg"),
        (("--input", "cut.jpg", "--camera", "0"), "leave one out"),
        (("--camera", "93"), "camera 93"),
        (("--save", "overlay,jason"), "did you mean json?"),
        (("--size", "big", "--camera", "93"), "1280x720"),
        (("--fov", "300"), "179 degrees"),
        (("--max-hands", "0"), "at least 1"),
        (("--intrinsics", "cut.jpg"), "cut.jpg"),
        (("--input", "whole.png", "--output", "cut.jpg"), "another --output"),
    ],
)
def test_bad_flags_and_inputs_are_one_line_and_exit_2(tmp_path, capfd, monkeypatch, arguments, says):
    _truncated_jpg(tmp_path)
    Image.new("RGB", (20, 20)).save(tmp_path / "whole.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["handmesh-demo", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.demo()
    lines = capfd.readouterr().err.splitlines()
    assert end.value.code == 2
    assert len(lines) == 1 and lines[0].startswith("handmesh-demo: error: ") and says in lines[0]


@pytest.mark.parametrize(("arguments", "says"), [(("--camra", "0"), "--camra"), (("--input", "nothing.mp4"), "does not exist")])
def test_the_same_in_a_process_of_its_own(tmp_path, arguments, says):
    done = _command("demo", *arguments, folder=tmp_path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and says in done.stderr, done.stderr


def test_help_names_every_flag(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["handmesh-demo", "--help"])
    with pytest.raises(SystemExit) as end:
        cli.demo()
    text = capsys.readouterr().out
    assert not end.value.code
    flags = "camera input output save no-window max-hands fov focal intrinsics mirror size fps model hand-model runtime precision profile"
    assert [flag for flag in flags.split() if f"--{flag}" not in text] == []
    assert "--no-no-window" not in text and "--no-mirror" not in text


def test_flags_reach_the_command():
    command = parse_flags(DemoCommand, ["--camera", "1", "--no-window", "--save", "json,glb", "--hand-model", "x.npz"], "handmesh-demo")
    assert command == DemoCommand(camera=1, no_window=True, save="json,glb", hand_model="x.npz")
    assert parse_flags(DemoCommand, ["--camera", "/dev/video2"], "handmesh-demo").camera == "/dev/video2"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ImportError("libGL.so.1: cannot open shared object file: No such file or directory"), "apt-get install libgl1"),
        (ImportError("libgthread-2.0.so.0: cannot open shared object file: No such file"), "apt-get install libglib2.0-0"),
        (OSError("libusb-1.0.so.0: cannot open shared object file: No such file or directory"), "apt-get install libusb-1.0-0"),
        (ImportError("libodd.so.7: cannot open shared object file: No such file or directory"), "libodd.so.7"),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), 'pip install "handmesh[train]"'),
        (ModuleNotFoundError("No module named 'timm.models'", name="timm.models"), 'pip install "handmesh[train]"'),
        (ModuleNotFoundError("No module named 'nncf'", name="nncf"), 'pip install "handmesh[export]"'),
    ],
)
def test_a_missing_part_is_one_line_with_its_cure(capsys, error, says):
    def body(_arguments):
        raise error

    assert cli.guard("handmesh-train", body) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("handmesh-train: error: ") and says in line


def test_a_bug_is_not_dressed_up():
    def body(_arguments):
        raise ModuleNotFoundError("No module named 'handmesh.nothing'", name="handmesh.nothing")

    with pytest.raises(ModuleNotFoundError):
        cli.guard("handmesh-demo", body)


def test_ctrl_c_and_errors_of_several_lines(capsys):
    def interrupt(_arguments):
        raise KeyboardInterrupt

    def fail(_arguments):
        raise UserError("first\n  second")

    assert cli.guard("handmesh-demo", interrupt) == 130
    assert capsys.readouterr().err == ""
    assert cli.guard("handmesh-demo", fail) == 2
    assert capsys.readouterr().err == "handmesh-demo: error: first second\n"


def test_opencv_without_libgl_says_what_to_install(tmp_path):
    (tmp_path / "cv2.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file: No such file or directory')")
    done = _command("demo", folder=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "apt-get install libgl1" in done.stderr, done.stderr


def test_the_guard_itself_needs_nothing_that_can_be_missing(tmp_path):
    check = "import sys, handmesh.cli; sys.exit(any(name in sys.modules for name in ('cv2', 'tyro', 'torch', 'open3d', 'mediapipe')))"
    assert subprocess.run([sys.executable, "-c", check], cwd=tmp_path).returncode == 0
