"""`handmesh-hand show` and `fit` from outside: every flag, what is written, what is printed, and one-line errors."""

from __future__ import annotations

import io
import os
import re
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from measures import max_mm

from handmesh import cli
from handmesh.geometry.camera import camera_from_fov
from handmesh.geometry.rotation import rotvec_to_rotmat
from handmesh.hand_model import HandModel, load_hand_model
from handmesh.hand_model.articulation import LIMITS_DEG, POSES, Anatomy, angles_to_rotmats
from handmesh.hand_model.assets import save_hand_model
from handmesh.hand_model.skinning import mirror_points, shape_hand, skin
from handmesh.live.sinks import Shot, open_sinks
from handmesh.live.sources import Frame
from handmesh.records import Hand
from handmesh.render import window as window_module
from handmesh.render.hand_command import MEAN_POSE, ShowCommand, breadth_of_mm, notes, pose_hand
from handmesh.skeleton import JOINTS, MANO_JOINTS, ROOT

CAMERA = camera_from_fov(640, 480, 65)
# Longer than a file's name may be.
LONG = "x" * 300


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs handmesh-hand in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)

    def run_it(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["handmesh-hand", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.hand()
        said = capfd.readouterr()
        return int(end.value.code or 0), said.out, said.err

    return run_it


def vertices_of(path: Path) -> np.ndarray:
    trimesh = pytest.importorskip("trimesh")
    return np.asarray(trimesh.load(path, process=False).vertices)


def posed(model: HandModel, angles_deg: np.ndarray, betas: np.ndarray | None = None) -> np.ndarray:
    return skin(model, angles_to_rotmats(Anatomy.of(model), angles_deg), np.zeros(10) if betas is None else betas)


def size_px(path: Path) -> tuple[int, int]:
    from PIL import Image

    with Image.open(path) as image:
        return image.size


# show


def test_without_flags_a_picture_and_a_table(run: Callable, hand_model: HandModel) -> None:
    code, out, err = run("show")
    assert (code, err) == (0, "")
    width, height = size_px(Path("hand.png"))
    assert width == 4 * (width // 4) and height > width // 4
    joints_m = hand_model.joints(hand_model.template_m)
    length_mm = 1e3 * np.linalg.norm(joints_m[JOINTS.index("middle_tip")] - joints_m[JOINTS.index("wrist")])
    said = re.search(r"hand length ([\d.]+) mm", out)
    assert said and abs(float(said[1]) - length_mm) < 0.06
    # Breadth is taken over the skin: more than from joint to joint.
    knuckles_mm = 1e3 * np.linalg.norm(joints_m[JOINTS.index("index_mcp")] - joints_m[JOINTS.index("little_mcp")])
    said = re.search(r"breadth ([\d.]+) mm", out)
    assert said and knuckles_mm + 10 < float(said[1]) < 1.7 * knuckles_mm
    assert hand_model.id in out and f"wrote hand.png: {width} x {height} px" in out


def test_calipers_measure_the_skin_across_the_knuckles(hand_model: HandModel) -> None:
    # A model twice as broad is twice as broad, thumb or not.
    betas = np.r_[0.5, 1, np.zeros(8)]
    breadth_mm = breadth_of_mm(hand_model, betas)
    scale = np.array([1, 1, 2], np.float32)
    broad = replace(hand_model, template_m=hand_model.template_m * scale, shape_dirs=hand_model.shape_dirs * scale[:, None])
    assert breadth_of_mm(broad, betas) == pytest.approx(2 * breadth_mm, rel=1e-4)
    thumb = hand_model.skin_weights[:, [MANO_JOINTS.index(f"thumb_{joint}") for joint in ("cmc", "mcp", "ip")]].sum(axis=1)
    away_m = hand_model.template_m + np.where(thumb > 0.3, 0.05, 0)[:, None].astype(np.float32) * np.array([0, 0, 1], np.float32)
    assert breadth_of_mm(replace(hand_model, template_m=away_m), betas) == pytest.approx(breadth_mm, abs=0.01)
    nowhere = replace(hand_model, skin_weights=np.eye(16, dtype=np.float32)[np.full(len(thumb), MANO_JOINTS.index("thumb_ip"))])
    assert breadth_of_mm(nowhere, betas) == 0


def test_the_table_holds_the_bones(run: Callable, hand_model: HandModel) -> None:
    _, out, _ = run("show", "--out", "hand.obj", "--betas", "0=1.5", "--pose", "fist")
    shaped_m, _ = shape_hand(hand_model, np.r_[1.5, np.zeros(9)])
    joints_m = hand_model.joints(shaped_m)
    for finger in ("thumb", "little"):
        first = next(index for index, name in enumerate(JOINTS) if name.startswith(finger))
        chain = joints_m[[0, first, first + 1, first + 2, first + 3]]
        expected_mm = 1e3 * np.linalg.norm(np.diff(chain, axis=0), axis=1)
        row = next(line for line in out.splitlines() if line.startswith(finger))
        np.testing.assert_allclose([float(word) for word in row.split()[1:]], expected_mm, atol=0.06)


@pytest.mark.parametrize("pose", ["fist", "ok"])
@pytest.mark.parametrize("extension", ["obj", "ply", "glb"])
def test_a_pose_as_a_mesh(run: Callable, hand_model: HandModel, pose: str, extension: str) -> None:
    code, out, _ = run("show", "--pose", pose, "--out", f"hand.{extension}")
    assert code == 0 and f"wrote hand.{extension}: {len(hand_model.template_m)} vertices" in out
    trimesh = pytest.importorskip("trimesh")
    mesh = trimesh.load(Path(f"hand.{extension}"), force="mesh", process=False)
    assert max_mm(np.asarray(mesh.vertices), posed(hand_model, POSES[pose].angles_deg())) < 0.01


def test_the_mean_pose_is_the_models(run: Callable, hand_model: HandModel) -> None:
    assert run("show", "--pose", MEAN_POSE, "--out", "hand.ply")[0] == 0
    assert max_mm(vertices_of(Path("hand.ply")), skin(hand_model, hand_model.mean_rotmats(), np.zeros(10))) < 0.01


def test_angles_replace_those_of_the_pose_and_leave_the_others(run: Callable, hand_model: HandModel) -> None:
    assert run("show", "--pose", "fist", "--angles", "index_pip=60,thumb_cmc=20/10/5, ring-mcp=/5", "--out", "hand.ply")[0] == 0
    angles_deg = POSES["fist"].angles_deg()
    index, thumb, ring = (MANO_JOINTS.index(name) - 1 for name in ("index_pip", "thumb_cmc", "ring_mcp"))
    angles_deg[index, 0], angles_deg[thumb], angles_deg[ring, 1] = 60, (20, 10, 5), 5
    assert max_mm(vertices_of(Path("hand.ply")), posed(hand_model, angles_deg)) < 0.01


def test_angles_and_betas_out_of_the_ordinary_are_drawn_with_a_note(run: Callable, hand_model: HandModel) -> None:
    low, high = LIMITS_DEG["index_pip"][0]
    asked = high + 20
    code, _, err = run("show", "--angles", f"index_pip={asked:g},middle_pip={high:g}", "--betas", "1=-4,2=3", "--out", "hand.ply")
    assert code == 0
    joint_note, beta_note = err.splitlines()
    assert all(word in joint_note for word in ("index_pip flexion", f"{asked:g}", f"{low:g} to {high:g}"))
    assert hand_model.beta_names[1] in beta_note and "-4" in beta_note
    angles_deg = np.zeros((15, 3))
    angles_deg[[MANO_JOINTS.index(name) - 1 for name in ("index_pip", "middle_pip")], 0] = asked, high
    assert max_mm(vertices_of(Path("hand.ply")), posed(hand_model, angles_deg, np.r_[0, -4, 3, np.zeros(7)])) < 0.01


@pytest.mark.parametrize("pose", [*POSES, MEAN_POSE])
def test_named_poses_need_no_note(pose: str, hand_model: HandModel) -> None:
    assert notes(pose_hand(hand_model, ShowCommand(pose=pose))) == []


def test_betas_by_number_and_by_name(run: Callable, hand_model: HandModel, tmp_path: Path) -> None:
    names = ("size", "palm breadth", "thumb_length", *(f"b{index}" for index in range(3, 10)))
    save_hand_model(replace(hand_model, beta_names=names, id="named"), tmp_path / "named.npz")
    expected_m = skin(hand_model, np.broadcast_to(np.eye(3), (16, 3, 3)), np.r_[0, -1, 2, np.zeros(7)])
    for text in ("1=-1,2=2", "palm breadth=-1,thumb length=2", "palm_breadth=-1, thumb_length=2.0", "Palm-Breadth=-1,2=2"):
        code, out, _ = run("show", "--hand-model", "named.npz", "--betas", text, "--out", "hand.ply")
        assert code == 0 and "; named" in out
        assert max_mm(vertices_of(Path("hand.ply")), expected_m) < 0.01, text


def test_a_left_hand_is_the_mirror_image(run: Callable) -> None:
    trimesh = pytest.importorskip("trimesh")
    outputs = [run("show", "--pose", "point", "--out", "right.ply"), run("show", "--pose", "point", "--left", "--out", "left.ply")]
    right, left = (trimesh.load(Path(f"{side}.ply"), process=False) for side in ("right", "left"))
    assert max_mm(np.asarray(left.vertices), mirror_points(np.asarray(right.vertices))) < 0.01
    assert left.volume > 0 and right.volume > 0
    # Measures are of the same hand.
    assert outputs[0][1].splitlines()[:-1] == outputs[1][1].splitlines()[:-1]
    assert "left hand" in outputs[1][1]


def test_views_are_drawn_side_by_side(run: Callable) -> None:
    assert run("show", "--views", "back", "--out", "one.png")[0] == 0
    code, out, _ = run("show", "--views", "front,thumb,little", "--out", "three.PNG")
    assert code == 0 and "front, thumb, little" in out
    (one, height), three = size_px(Path("one.png")), size_px(Path("three.PNG"))
    assert three == (3 * one, height)


def test_list_names_everything(run: Callable, hand_model: HandModel) -> None:
    code, out, err = run("show", "--list")
    assert (code, err) == (0, "")
    for name in (*POSES, MEAN_POSE, *hand_model.beta_names, *MANO_JOINTS[1:]):
        assert re.search(rf"\b{re.escape(name)}\b", out), name
    low, high = LIMITS_DEG["thumb_ip"][0]
    assert re.search(rf"thumb_ip +{low:g} to {high:g}", out)
    assert list(Path().iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="displays are named by the environment on Linux only")
def test_without_a_display_the_picture_is_written(run: Callable) -> None:
    code, out, err = run("show", "--window")
    assert (code, err) == (0, "")
    assert sum("no display" in line for line in out.splitlines()) == 1
    assert Path("hand.png").is_file()


def test_the_window_shows_the_picture_until_it_is_closed(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[np.ndarray] = []

    class FakeWindow:
        def __enter__(self) -> FakeWindow:
            return self

        def __exit__(self, *_: object) -> None:
            shown.append(np.zeros(0))

        def show(self, image: np.ndarray) -> str | None:
            shown.append(image)
            return (None, "s", "escape")[len(shown) - 1]

    monkeypatch.setattr(window_module, "open_window", lambda *_, **__: FakeWindow())
    code, out, _ = run("show", "--window", "--views", "palm,back")
    assert code == 0 and len(shown) == 4, "three pictures, then closed"
    assert shown[0].shape[1] == 2 * 400 and shown[0].dtype == np.uint8
    assert "wrote" not in out and list(Path().iterdir()) == []
    shown.clear()
    run("show", "--window", "--out", "hand.png")
    assert Path("hand.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "handmesh-hand {show,fit}"),
        (("shwo",), "did you mean 'show'?"),
        (("show", "--pose", "fits"), "did you mean 'fist'?"),
        (("show", "--angles", "index_pp=3"), "did you mean 'index_pip'?"),
        (("show", "--angles", "wrist=3"), "'wrist'"),
        (("show", "--angles", "index_pip"), "NAME=VALUE"),
        (("show", "--angles", "index_pip=1/2/3/4"), "flexion/abduction/twist"),
        (("show", "--angles", "index_pip=bent"), "'bent'"),
        (("show", "--angles", "index_pip=1,index_pip=2"), "twice"),
        (("show", "--betas", "10=1"), "'10'"),
        *[(("show", "--betas", f"0={value}"), "-20 to 20") for value in ("nan", "inf", "1e300", "1e7", "-20.1")],
        *[(("show", "--angles", f"index_pip={value}"), "-360 to 360") for value in ("nan", "1e308", "361", "0/-400")],
        (("show", "--betas", f"{'1' * 5000}=1"), "unknown name"),
        (("show", "--betas", "0=1,00=1"), "twice"),
        (("show", "--views", "pam"), "did you mean 'palm'?"),
        (("show", "--views", ","), "--views"),
        (("show", "--out", "hand.gif"), ".png, .obj, .ply, .glb"),
        (("show", "--out", "nowhere/hand.png"), "make the folder"),
        (("show", "--out", f"{LONG}/hand.png"), "make the folder"),
        (("show", "--out", f"{LONG}.png"), "shorter"),
        (("show", "--hand-model", LONG), "which is no file"),
        (("show", "--list", "--pose", "fits"), "did you mean 'fist'?"),
        (("show", "--list", "--betas", "10=1"), "'10'"),
        (("show", "--list", "--angles", "wrist=3"), "'wrist'"),
        (("show", "--list", "--views", "pam"), "did you mean 'palm'?"),
        (("show", "--list", "--out", "hand.gif"), ".png, .obj, .ply, .glb"),
        (("show", "--hand-model", "nothing.npz"), "nothing.npz"),
        (
            (
                "show",
                "--lft",
            ),
            "did you mean '--left'?",
        ),
        (("fit",), "--input"),
        (("fit", "--input", "nothing.npz"), "which is not there"),
        (("fit", "--input", f"{LONG}.npz"), "which is not there"),
        (("fit", "--input", ""), "got ''"),
        (("fit", "--input", "hands.npz", "--to", "open", "--out", f"{LONG}.npz"), "shorter"),
        (("fit", "--input", "hands.npz", "--to", "open", "--out", f"{LONG}/fitted.npz"), "make the folder"),
        (("fit", "--input", "hands.npz", "--to", LONG), "which is no file"),
        (("fit", "--input", "text.npz"), "text.npz"),
        (("fit", "--input", "text.json"), "does not parse"),
        (("fit", "--input", "text.txt"), ".npz, .json, .jsonl"),
        (("fit", "--input", "other.npz"), "neither"),
        (("fit", "--input", "other.json"), "missing"),
        (("fit", "--input", "flat.npz"), "joints_m (N, 21, 3)"),
        (("fit", "--input", "nan.npz"), "finite"),
        (("fit", "--input", "none.npz"), "holds none"),
        (("fit", "--input", "mixed"), "1 of 2 lack it"),
        (("fit", "--input", "hands.npz", "--to", "nothing.npz"), "nothing.npz"),
        (("fit", "--input", "hands.npz", "--to", "open", "--out", "hands.json"), ".npz"),
        (("fit", "--input", "hands.npz", "--to", "open", "--from", "open"), "rotmats and betas"),
        (("fit", "--input", "sided.npz", "--to", "open", "--left"), "leave --left out"),
    ],
)
def test_bad_flags_and_files_are_one_line_and_exit_2(run: Callable, hand_model: HandModel, arguments: tuple[str, ...], says: str) -> None:
    for name in ("text.npz", "text.json", "text.txt"):
        Path(name).write_text("not a hand")
    joints_m = hand_model.joints(hand_model.template_m)[None]
    Path("mixed").mkdir()
    np.savez("mixed/a.npz", joints_m=joints_m)
    np.savez("mixed/b.npz", joints_m=joints_m, is_right=[True])
    np.savez("other.npz", anything=np.zeros(3))
    Path("other.json").write_text('{"hands": [{}]}')
    np.savez("flat.npz", joints_m=joints_m[0])
    np.savez("nan.npz", joints_m=joints_m * np.nan)
    np.savez("none.npz", joints_m=joints_m[:0])
    np.savez("hands.npz", joints_m=joints_m)
    np.savez("sided.npz", joints_m=joints_m, is_right=[True])
    before = sorted(Path().iterdir())
    code, _, err = run(*arguments)
    assert code == 2
    (line,) = err.splitlines()
    assert line.startswith("handmesh-hand: error: ") and says in line, line
    assert sorted(Path().iterdir()) == before


def npy_header(shape: tuple[int, ...]) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"shape": shape, "fortran_order": False, "descr": "<f8"})
    return header.getvalue()


def save_claim(path: Path, shape: tuple[int, ...]) -> None:
    """An npz whose header says more than the file holds."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("joints_m.npy", npy_header(shape))


def save_altered(path: Path, joints_m: np.ndarray, local_at: int, value: int) -> None:
    """An npz with two bytes of its first member's local and central headers changed."""
    np.savez(path, joints_m=joints_m)
    data = bytearray(path.read_bytes())
    for mark, at in ((b"PK\x03\x04", local_at), (b"PK\x01\x02", local_at + 2)):
        start = data.index(mark) + at
        data[start : start + 2] = value.to_bytes(2, "little")
    path.write_bytes(data)


def save_bare(path: Path, joints_m: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, joints_m)


def save_params(path: Path, model: HandModel, scale: float = 1.0, beta: float = 0.0) -> None:
    np.savez(path, rotmats=scale * model.mean_rotmats()[None].astype(np.float64), betas=np.full((1, 10), beta))


# What is written, which words the refusal has, and flags.
BAD_FILES: dict[str, tuple[Callable[[Path, np.ndarray, HandModel], object], str, tuple[str, ...]]] = {
    "nested.json": (lambda path, *_: path.write_text("[" * 100_000), "does not parse", ()),
    "nested.jsonl": (lambda path, *_: path.write_text("[" * 100_000), "line 1", ()),
    "digits.json": (lambda path, *_: path.write_text("1" * 10_000), "does not parse", ()),
    "encrypted.npz": (lambda path, joints_m, _: save_altered(path, joints_m, 6, 1), "cannot be read", ()),
    "method.npz": (lambda path, joints_m, _: save_altered(path, joints_m, 8, 99), "cannot be read", ()),
    "claim.npz": (lambda path, *_: save_claim(path, (10**12, 21, 3)), "cannot be read", ()),
    "many of nothing.npz": (lambda path, *_: save_claim(path, (10**12, 0, 3)), "joints_m (N, 21, 3)", ()),
    "array.npz": (lambda path, joints_m, _: save_bare(path, joints_m), "a single array", ()),
    "complex.npz": (lambda path, joints_m, _: np.savez(path, joints_m=joints_m + 0.1j), "complex", ()),
    "words.npz": (lambda path, joints_m, _: np.savez(path, joints_m=joints_m.astype(str)), "real numbers", ()),
    "half right.npz": (lambda path, joints_m, _: np.savez(path, joints_m=joints_m, is_right=[0.5]), "true or false", ()),
    "right 2.npz": (lambda path, joints_m, _: np.savez(path, joints_m=joints_m, is_right=[2]), "true or false", ()),
    "frame 1.5.npz": (lambda path, joints_m, _: np.savez(path, joints_m=joints_m, frame=[1.5]), "whole numbers", ()),
    "track nan.npz": (lambda path, joints_m, _: np.savez(path, joints_m=joints_m, track_id=[np.nan]), "finite", ()),
    "huge.npz": (lambda path, joints_m, _: np.savez(path, joints_m=1e300 * joints_m), "to metres", ()),
    "zeros.npz": (lambda path, joints_m, _: np.savez(path, joints_m=0 * joints_m), "in one place", ()),
    "line.npz": (lambda path, joints_m, _: np.savez(path, joints_m=joints_m[..., :1] * [0.6, 0.8, 0]), "on one line", ()),
    "left.npz": (lambda path, joints_m, _: np.savez(path, joints_m=mirror_points(joints_m)), "add --left", ()),
    "right.npz": (lambda path, joints_m, _: np.savez(path, joints_m=joints_m), "leave --left out", ("--left",)),
    "wrong side.npz": (lambda path, joints_m, _: np.savez(path, joints_m=joints_m, is_right=[False]), "mend is_right", ()),
    "left 70.npz": (
        lambda path, joints_m, _: np.savez(path, joints_m=np.concatenate([*[joints_m] * 70, mirror_points(joints_m)])),
        "hand 70 of",
        (),
    ),
    "turns.npz": (lambda path, _, model: save_params(path, model, scale=1e200), "rotations", ("--from", "open")),
    "mirrors.npz": (lambda path, _, model: save_params(path, model, scale=-1), "rotations", ("--from", "open")),
    "shrunk.npz": (lambda path, _, model: save_params(path, model, scale=0.9), "rotations", ("--from", "open")),
    "shape.npz": (lambda path, _, model: save_params(path, model, beta=1e300), "-20 to 20", ("--from", "open")),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_one_line_and_exit_2(run: Callable, hand_model: HandModel, name: str) -> None:
    write, says, flags = BAD_FILES[name]
    write(Path(name), hand_model.joints(hand_model.template_m.astype(np.float64))[None], hand_model)
    code, _, err = run("fit", "--input", name, "--to", "open", *flags)
    assert code == 2
    (line,) = err.splitlines()
    assert line.startswith("handmesh-hand: error: ") and says in line, line
    assert [path.name for path in Path().iterdir()] == [name]


def test_a_folder_in_a_folder_is_no_file(run: Callable, hand_model: HandModel) -> None:
    Path("hands/y.json").mkdir(parents=True)
    code, _, err = run("fit", "--input", "hands", "--to", "open")
    assert code == 2 and "holds none" in err
    np.savez("hands/a.npz", joints_m=hand_model.joints(hand_model.template_m)[None])
    assert run("fit", "--input", "hands", "--to", "open")[0] == 0


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["hands.json", "hands.jsonl", "hands.npz", "folder"])
def test_what_may_not_be_read_is_one_line(run: Callable, name: str) -> None:
    Path(name).mkdir() if name == "folder" else Path(name).touch()
    Path(name).chmod(0)
    code, _, err = run("fit", "--input", name, "--to", "open")
    Path(name).chmod(0o700)
    assert code == 2 and len(err.splitlines()) == 1 and name in err


@pytest.mark.parametrize("name", ["hands.json", "folder"])
@pytest.mark.parametrize("fault", [PermissionError(13, "Permission denied"), MemoryError()])
def test_what_cannot_be_read_is_one_line(run: Callable, monkeypatch: pytest.MonkeyPatch, name: str, fault: Exception) -> None:
    def refuse(_: Path) -> None:
        raise fault

    Path(name).mkdir() if name == "folder" else Path(name).touch()
    with monkeypatch.context() as patched:
        patched.setattr(Path, "iterdir", refuse)
        patched.setattr(Path, "read_bytes", refuse)
        code, _, err = run("fit", "--input", name, "--to", "open")
    assert code == 2 and len(err.splitlines()) == 1 and name in err


def test_help_names_every_flag(run: Callable) -> None:
    code, out, _ = run("--help")
    assert code == 0 and "show" in out and "fit" in out
    flags = {"show": "hand-model pose betas angles left views out window list", "fit": "input to from out left"}
    for name, expected in flags.items():
        code, out, _ = run(name, "--help")
        assert code == 0 and [flag for flag in expected.split() if f"--{flag}" not in out] == []
        assert "--no-" not in out


# fit


@pytest.fixture
def other_model(hand_model: HandModel, tmp_path: Path) -> HandModel:
    """Another hand's proportions, in other.npz."""
    template_m = hand_model.template_m * np.array([1.05, 1.02, 0.95], np.float32)
    save_hand_model(replace(hand_model, template_m=template_m, id="other-hand"), tmp_path / "other.npz")
    return load_hand_model(tmp_path / "other.npz")


def random_hands(model: HandModel, count: int, angle_rad: float = 0.25) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    rotmats = model.mean_rotmats() @ rotvec_to_rotmat(rng.normal(0, angle_rad, (count, 16, 3)))
    return rotmats, rng.normal(0, 0.7, (count, 10))


def refitted_joints(model: HandModel, fitted: np.lib.npyio.NpzFile) -> np.ndarray:
    """Where the written parameters put the joints, by what the help says of them."""
    joints_m = model.joints(skin(model, fitted["rotmats"], fitted["betas"])) + fitted["transl_m"][:, None]
    return np.where(fitted["is_right"][:, None, None], joints_m, mirror_points(joints_m))


def test_joints_of_one_model_become_parameters_of_another(run: Callable, hand_model: HandModel, other_model: HandModel) -> None:
    rotmats, betas = random_hands(hand_model, 5)
    joints_m = hand_model.joints(skin(hand_model, rotmats, betas)) + np.array([0.1, 0.0, 0.6])
    is_right = np.array([True, False, True, True, False])
    joints_m = np.where(is_right[:, None, None], joints_m, mirror_points(joints_m))
    np.savez("hands.npz", joints_m=joints_m, is_right=is_right, track_id=[3, 1, 4, 1, 5])
    code, out, err = run("fit", "--input", "hands.npz", "--to", "other.npz", "--out", "fitted.npz")
    assert (code, err) == (0, "")
    with np.load("fitted.npz") as fitted:
        assert fitted["rotmats"].shape == (5, 16, 3, 3) and fitted["betas"].shape == (5, 10)
        np.testing.assert_array_equal(fitted["is_right"], is_right)
        np.testing.assert_array_equal(fitted["track_id"], [3, 1, 4, 1, 5])
        assert str(fitted["hand_model"]) == "other-hand"
        again_m = refitted_joints(other_model, fitted)
        assert max_mm(again_m, fitted["joints_m"]) < 1e-3
        np.testing.assert_array_equal(fitted["root_m"], fitted["joints_m"][:, ROOT])
        residual_mm = 1e3 * np.linalg.norm(again_m - joints_m, axis=-1)
        np.testing.assert_allclose(fitted["residual_mm"], residual_mm, atol=1e-2)
    assert residual_mm.mean() < 3, f"{residual_mm.mean():.2f} mm"
    said = re.search(r"5 hands as other-hand: joints are ([\d.]+) mm", out)
    assert said and abs(float(said[1]) - residual_mm.mean()) < 0.01
    worst = JOINTS[int(residual_mm.mean(axis=0).argmax())]
    assert f"worst joint {worst} with {residual_mm.mean(axis=0).max():.2f} mm" in out


def test_a_models_own_hands_come_back(run: Callable, hand_model: HandModel) -> None:
    rotmats, betas = random_hands(hand_model, 3)
    np.savez("hands.npz", joints_m=hand_model.joints(skin(hand_model, rotmats, betas)))
    assert run("fit", "--input", "hands.npz", "--to", "open", "--out", "fitted.npz")[0] == 0
    # What was written can be read again, and fits itself.
    assert run("fit", "--input", "fitted.npz", "--to", "open", "--out", "twice.npz")[0] == 0
    with np.load("fitted.npz") as first, np.load("twice.npz") as second:
        assert first["residual_mm"].mean() < 0.5
        assert second["residual_mm"].mean() < 0.5


def save_as_the_demo_does(model: HandModel, shots: Sequence[Shot], is_stream: bool, folder: Path) -> None:
    source: Any = SimpleNamespace(is_stream=is_stream, is_live=False, frame_rate=30.0)
    folder.mkdir()
    for sink in open_sinks(("json", "npz"), folder, source, model):
        for shot in shots:
            sink.write(shot)
        sink.close()


def test_files_of_the_demo_are_read(run: Callable, hand_model: HandModel, make_hand: Callable[..., Hand]) -> None:
    hands = [make_hand(hand_model, CAMERA, root_m=(x, 0.0, 0.5), is_right=x > 0, track_id=int(x > 0)) for x in (-0.1, 0.1)]
    image = np.zeros((480, 640, 3), np.uint8)
    # The middle frame shows no hand.
    shots = [Shot(Frame(image, index, index / 30, f"{index:06d}"), [] if index == 1 else hands, CAMERA) for index in range(3)]
    save_as_the_demo_does(hand_model, shots[:1], False, Path("picture"))
    save_as_the_demo_does(hand_model, shots, True, Path("video"))
    expected_m = np.stack([hand.joints_m for hand in hands])
    inputs = {"picture/000000.json": 1, "picture/000000.npz": 1, "video/hands.jsonl": 2, "video/npz": 2}
    for source, frames in inputs.items():
        code, _, err = run("fit", "--input", source, "--to", "open", "--out", "fitted.npz")
        assert code == 0, err
        with np.load("fitted.npz") as fitted:
            np.testing.assert_array_equal(fitted["frame"], [0, 0, 2, 2][: 2 * frames], err_msg=source)
            np.testing.assert_array_equal(fitted["is_right"], [False, True] * frames)
            np.testing.assert_array_equal(fitted["track_id"], [0, 1] * frames)
            assert max_mm(refitted_joints(hand_model, fitted), np.tile(expected_m, (frames, 1, 1))) < 2
            assert fitted["residual_mm"].mean() < 0.5


def test_parameters_without_joints_need_their_model(run: Callable, hand_model: HandModel, other_model: HandModel) -> None:
    rotmats, betas = random_hands(other_model, 2)
    np.savez("params.npz", rotmats=rotmats, betas=betas)
    code, _, err = run("fit", "--input", "params.npz", "--to", "open")
    assert code == 2 and "--from" in err
    assert run("fit", "--input", "params.npz", "--from", "other.npz", "--to", "open")[0] == 0
    with np.load("fitted.npz") as fitted:
        assert max_mm(fitted["joints_m"], other_model.joints(skin(other_model, rotmats, betas))) < 10
        assert fitted["residual_mm"].mean() < 3


def test_left_says_what_a_plain_file_does_not(run: Callable, hand_model: HandModel) -> None:
    rotmats, betas = random_hands(hand_model, 2)
    joints_m = mirror_points(hand_model.joints(skin(hand_model, rotmats, betas)))
    np.savez("hands.npz", joints_m=joints_m)
    code, _, err = run("fit", "--input", "hands.npz", "--to", "open")
    assert code == 2 and "left" in err
    assert run("fit", "--input", "hands.npz", "--to", "open", "--left")[0] == 0
    with np.load("fitted.npz") as fitted:
        assert not fitted["is_right"].any()
        assert max_mm(fitted["joints_m"], joints_m) < 3


def test_many_hands_have_a_bar_and_keep_their_order(run: Callable, hand_model: HandModel) -> None:
    rotmats, betas = random_hands(hand_model, 1)
    x_m = np.arange(210.0)
    joints_m = hand_model.joints(skin(hand_model, rotmats, betas)) + x_m[:, None, None] * np.array([0.01, 0, 0])
    np.savez("hands.npz", joints_m=joints_m)
    code, out, _ = run("fit", "--input", "hands.npz", "--to", "open")
    assert code == 0 and "210 hands" in out
    with np.load("fitted.npz") as fitted:
        assert max_mm(fitted["root_m"], joints_m[:, ROOT]) < 2
