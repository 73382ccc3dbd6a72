"""Commands send nothing anywhere and run no code of MediaPipe's package.

They run in fresh processes, whose environment says nothing of tests (some libraries report nothing under pytest or on servers that build)
and whose home folder is empty. Watched are, in these processes and in all that they start:

- what Python asks of sockets (connections, datagrams, names of hosts) and the import of mediapipe: refused and written down, so that a
  thread that hides its errors is seen too;
- what native code asks, on Linux where strace may look;
- files that appear in the home folder: senders keep an identifier there before they send for the first time.

Loopback and UNIX sockets are allowed. The networks' files are there before: where no installed package carries them, this process downloads
them to the cache.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path

import cv2
import pytest
from generated_freihand import make_freihand
from generated_shards import GeneratedShards

from handmesh.deploy.parity import noise_pictures
from handmesh.detection.files import NETWORKS, cache_folder, network_path
from handmesh.hand_model import load_hand_model
from handmesh.live.command import DEMO_CLIP
from handmesh.training.command import DataConfig, ModelConfig, ScheduleConfig, TrainCommand
from handmesh.training.loop import train

GUARD = """
import os, sys, traceback
from ipaddress import ip_address

def is_here(host):
    if not isinstance(host, str) or host in ("", "localhost"):
        return not host or host == "localhost"
    try:
        address = ip_address(host)
    except ValueError:
        return False
    # 0.0.0.0 and :: are where servers listen.
    return address.is_loopback or address.is_unspecified

def watch(event, arguments):
    if event == "import" and arguments[0].partition(".")[0] == "mediapipe":
        what = f"import {arguments[0]}"
    elif event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        if not isinstance(address, tuple) or is_here(address[0]):
            return
        what = f"{event} {address}"
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        if is_here(arguments[0]):
            return
        what = f"{event} {arguments[0]}"
    else:
        return
    with open(os.environ["ATTEMPTS"], "a") as file:
        file.write(f"{what}\\n{''.join(traceback.format_stack())}\\n")
    raise OSError(f"{what} is refused by this test")

sys.addaudithook(watch)
"""
# What a process needs to run at all; nothing else of this one's environment reaches it.
NEEDED = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR", "TEMP", "TMP", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
STRACE = ("strace", "-f", "--seccomp-bpf", "-qq", "-e", "trace=connect,sendto,sendmsg,sendmmsg")
NATIVE_ADDRESS = re.compile(r'inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)"')


@dataclass(frozen=True)
class Watched:
    """What a process tried, did and left.

    Attributes:
        attempts: what Python asked for, with the stacks; empty for nothing.
        native: addresses that any code turned to; none where strace may not look.
        left: files in the home folder, relative to it.
        finished: the process.
    """

    attempts: str
    native: list[str]
    left: list[str]
    finished: subprocess.CompletedProcess[str]


def watched(folder: Path, code: str, *arguments: object) -> Watched:
    """Run Python code with these arguments in a guarded process."""
    home, guard = folder / "home", folder / "guard"
    for each in (home, guard):
        each.mkdir(parents=True)
    (guard / "sitecustomize.py").write_text(GUARD)
    environment = {name: os.environ[name] for name in NEEDED if name in os.environ}
    environment |= dict.fromkeys(("HOME", "USERPROFILE", "LOCALAPPDATA", "APPDATA"), str(home))
    environment |= {"ATTEMPTS": str(folder / "attempts.txt"), "HANDMESH_CACHE": str(cache_folder())}
    environment["PYTHONPATH"] = os.pathsep.join([str(guard), *(path for path in sys.path if path)])
    (folder / "attempts.txt").touch()
    looker = (*STRACE, "-o", str(folder / "native.txt")) if can_see_native_code() else ()
    finished = subprocess.run(
        [*looker, sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=600,
        env=environment,
        cwd=folder,
    )
    native = (folder / "native.txt").read_text() if looker else ""
    return Watched(
        (folder / "attempts.txt").read_text(),
        sorted(elsewhere(native.splitlines())),
        sorted(path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()),
        finished,
    )


@functools.cache
def can_see_native_code() -> bool:
    if shutil.which("strace") is None:
        return False
    return subprocess.run([*STRACE, "-o", os.devnull, "true"], capture_output=True).returncode == 0


def elsewhere(lines: Iterable[str]) -> set[str]:
    """Addresses in strace's lines that are not this computer's."""
    found = {four or six for line in lines for four, six in NATIVE_ADDRESS.findall(line)}
    return {address for address in found if not (ip_address(address).is_loopback or ip_address(address).is_unspecified)}


def run_command(folder: Path, name: str, *arguments: object) -> Watched:
    """One of handmesh's commands, by the name of its function in handmesh.cli."""
    return watched(folder, f"import sys; sys.argv[0] = 'handmesh'; from handmesh.cli import {name}; {name}()", *arguments)


def expect_silence(seen: Watched) -> None:
    assert seen.finished.returncode == 0, seen.finished.stderr
    assert (seen.attempts, seen.native, seen.left) == ("", [], [])


@pytest.fixture(scope="module", autouse=True)
def _networks_are_here():
    for name in NETWORKS:
        network_path(name)


@pytest.fixture(scope="module")
def frames():
    video = cv2.VideoCapture(str(DEMO_CLIP))
    read = [video.read()[1] for _ in range(8)]
    video.release()
    return read


def test_demo_on_a_video(tmp_path, frames):
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(tmp_path / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 30, (width, height))
    for frame in frames:
        writer.write(frame)
    writer.release()
    seen = run_command(tmp_path / "run", "demo", "--input", tmp_path / "clip.mp4", "--output", tmp_path / "out", "--no-window")
    expect_silence(seen)
    assert "hands in 100 %" in seen.finished.stdout


def test_demo_on_an_image_with_onnx_runtime(tmp_path, frames):
    cv2.imwrite(str(tmp_path / "hands.png"), frames[0])
    flags = ("--save", "json", "--no-window", "--runtime", "onnxruntime")
    seen = run_command(tmp_path / "run", "demo", "--input", tmp_path / "hands.png", "--output", tmp_path / "out", *flags)
    expect_silence(seen)
    assert "hands in 100 %" in seen.finished.stdout


def test_eval_with_the_detector_and_all_baselines(tmp_path):
    make_freihand(tmp_path / "data", load_hand_model("open"), count=1, versions=1, evaluation=2)
    flags = ("--crop", "detector", "--baselines", "mean", "mediapipe", "--out", tmp_path / "out")
    expect_silence(run_command(tmp_path / "run", "evaluate", "--data", tmp_path / "data", *flags))
    assert (tmp_path / "out" / "report.html").is_file()


def test_export_to_int8(tmp_path):
    if find_spec("nncf") is None:
        pytest.skip("int8 needs nncf, of the export extra")
    command = TrainCommand(
        out=tmp_path / "train",
        device="cpu",
        precision="f32",
        model=ModelConfig(size_px=64),
        data=DataConfig(batch_size=4, validation_pictures=8),
        schedule=ScheduleConfig(pictures=8, warmup_pictures=0),
    )
    checkpoint = train(command, GeneratedShards(load_hand_model("open")).data(command.data.batch_size))
    crops = tmp_path / "crops"
    crops.mkdir()
    for index, crop in enumerate(noise_pictures(64, 80)):
        cv2.imwrite(str(crops / f"{index}.png"), crop)
    flags = ("--format", "openvino", "--precision", "int8", "--calibration", crops, "--out", tmp_path / "hand.xml")
    expect_silence(run_command(tmp_path / "run", "export", checkpoint, *flags))
    assert (tmp_path / "hand.xml").is_file()


# 192.0.2.1 is an address of documentation (RFC 5737), .invalid a name that is never given (RFC 2606).
SENDER = """
import contextlib, socket, subprocess, sys, threading, urllib.request

def hide(send, *arguments):
    with contextlib.suppress(Exception):
        send(*arguments)

thread = threading.Thread(target=hide, args=(urllib.request.urlopen, "https://collector.invalid/"))
thread.start()
thread.join()
hide(socket.create_connection, ("192.0.2.1", 80))
hide(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"used", ("192.0.2.2", 80)))
subprocess.run([sys.executable, "-c", "import socket; socket.create_connection(('192.0.2.3', 80))"], stderr=subprocess.DEVNULL)
hide(__import__, "mediapipe")
"""


def test_senders_are_caught_in_threads_and_children_and_behind_hidden_errors(tmp_path):
    seen = watched(tmp_path, SENDER)
    for what in ("collector.invalid", "192.0.2.1", "192.0.2.2", "192.0.2.3", "import mediapipe"):
        assert what in seen.attempts
    assert seen.finished.returncode == 0 and seen.native == []


def test_this_computer_may_be_asked(tmp_path):
    code = """
import socket
with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(("localhost", server.getsockname()[1])):
    pass
"""
    seen = watched(tmp_path, code)
    assert seen.finished.returncode == 0 and (seen.attempts, seen.native, seen.left) == ("", [], [])


def test_identifiers_in_the_home_folder_are_seen(tmp_path):
    seen = watched(tmp_path, "import pathlib; (pathlib.Path.home() / 'device_id').touch()")
    assert seen.left == ["device_id"]


@pytest.mark.skipif(not can_see_native_code(), reason="native code is watched on Linux where strace may look")
def test_native_code_is_seen(tmp_path):
    # A datagram's socket: it is connected without a packet.
    code = """
import ctypes, socket
address = socket.AF_INET.to_bytes(2, "little") + (80).to_bytes(2, "big") + socket.inet_aton("192.0.2.1") + bytes(8)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
    ctypes.CDLL(None).connect(end.fileno(), address, len(address))
"""
    seen = watched(tmp_path, code)
    assert seen.native == ["192.0.2.1"] and seen.attempts == ""
