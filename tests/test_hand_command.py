"""`handmesh-hand show` and `fit` from outside: every flag, what is written, what is printed, and one-line errors."""

from __future__ import annotations

import re
import sys
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
from handmesh.render.hand_command import MEAN_POSE, ShowCommand, notes, pose_hand
from handmesh.skeleton import JOINTS, MANO_JOINTS, ROOT

CAMERA = camera_from_fov(640, 480, 65)


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
    assert hand_model.id in out and f"wrote hand.png: {width} x {height} px" in out


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


@pytest.mark.parametrize("pose", POSES)
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

    monkeypatch.setattr(window_module, "open_window", lambda *_: FakeWindow())
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
        ((), "handmesh-hand show"),
        (("shwo",), "did you mean 'show'?"),
        (("show", "--pose", "fits"), "did you mean 'fist'?"),
        (("show", "--angles", "index_pp=3"), "did you mean 'index_pip'?"),
        (("show", "--angles", "wrist=3"), "'wrist'"),
        (("show", "--angles", "index_pip"), "NAME=VALUE"),
        (("show", "--angles", "index_pip=1/2/3/4"), "flexion/abduction/twist"),
        (("show", "--angles", "index_pip=bent"), "'bent'"),
        (("show", "--angles", "index_pip=1,index_pip=2"), "twice"),
        (("show", "--betas", "10=1"), "'10'"),
        (("show", "--betas", "0=nan"), "finite"),
        (("show", "--betas", "0=1,00=1"), "twice"),
        (("show", "--views", "pam"), "did you mean 'palm'?"),
        (("show", "--views", ","), "--views"),
        (("show", "--out", "hand.gif"), ".png, .obj, .ply, .glb"),
        (("show", "--out", "nowhere/hand.png"), "make the folder"),
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
