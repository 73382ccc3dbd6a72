"""A recording is read back as it was written, whole or cut off, and what is made of it says the same."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from measures import max_mm

from handmesh.errors import UserError
from handmesh.geometry.camera import project
from handmesh.geometry.rotation import mirror_rotmat, rotvec_to_rotmat
from handmesh.hand_model import HandModel
from handmesh.hand_model.landmarks import landmarks_m
from handmesh.hand_model.meshfile import save_meshes
from handmesh.hand_model.skinning import mirror_points, skin
from handmesh.live.convert_command import ConvertCommand, run_convert, write_animation
from handmesh.live.recording import SCHEMAS, frames_of_hands, read_recording, select, write_csv, write_npz
from handmesh.live.sinks import SCHEMA, JsonLinesSink, Shot
from handmesh.live.sources import Frame
from handmesh.records import Camera, Hand
from handmesh.skeleton import JOINTS, WRIST

CAMERA = Camera(fx=500, fy=480, cx=322.5, cy=239.5, width=640, height=480, distortion=(0.1, -0.02, 0, 0), is_known=True)
FRAMES = 8
AWAY = (3, 4)
MakeHand = Callable[..., Hand]


@pytest.fixture
def shots(hand_model: HandModel, make_hand: MakeHand) -> list[Shot]:
    """A scaled right hand in all frames but two, a left one from frame 1 on; times are not even."""
    rng = np.random.default_rng(0)
    times_s = 0.5 + np.cumsum(rng.uniform(0.02, 0.05, FRAMES))
    image = np.zeros((4, 4, 3), np.uint8)
    shots = []
    for index, time_s in enumerate(times_s):
        turn = (-1.4, 0.1 * index, 0.2)
        right = scaled(posed(make_hand(hand_model, CAMERA, (0.1, 0.02 * index, 0.5), turn, True, 0), hand_model, rng), 1.1)
        left = posed(make_hand(hand_model, CAMERA, (-0.1, 0, 0.6), turn, False, 4), hand_model, rng)
        hands = [*([left] if index >= 1 else []), *([right] if index not in AWAY else [])]
        shots.append(
            Shot(Frame(image_rgb=image, name=f"{index + 10:06d}", index=index + 10, time_s=float(time_s), arrived_s=0.0), hands, CAMERA)
        )
    return shots


def posed(hand: Hand, model: HandModel, rng: np.random.Generator) -> Hand:
    """The hand with bent fingers and a shape, its wrist where it was; the network's rotation is the crop's."""
    R_camera_wrist = hand.T_camera_wrist[:3, :3]
    rotmats = rotvec_to_rotmat(np.concatenate([np.zeros((1, 3)), model.mean_pose + rng.normal(0, 0.2, (15, 3))]))
    rotmats[0] = R_camera_wrist if hand.is_right else mirror_rotmat(R_camera_wrist)
    betas = np.linspace(-1, 1, 10)
    vertices_m = skin(model, rotmats, betas)
    vertices_m = vertices_m if hand.is_right else mirror_points(vertices_m)
    vertices_m = vertices_m + (hand.T_camera_wrist[:3, 3] - model.joints(vertices_m)[WRIST])
    joints_m = model.joints(vertices_m)
    rotmats[0] = rotvec_to_rotmat(rng.normal(size=3))
    params = replace(hand.params, rotmats=rotmats, betas=betas, camera=np.array([5.0, 0.1, -0.2]), presence=0.9, right_logit=2.5)
    landmarks_px = project(landmarks_m(joints_m, R_camera_wrist, rotmats, hand.is_right), CAMERA)
    points = {"joints_m": joints_m, "keypoints_px": project(joints_m, CAMERA), "landmarks_px": landmarks_px}
    return replace(hand, vertices_m=vertices_m, **points, params=params, score=0.75)


def scaled(hand: Hand, scale: float) -> Hand:
    T_camera_wrist = hand.T_camera_wrist.copy()
    T_camera_wrist[:3, 3] *= scale
    return replace(hand, vertices_m=scale * hand.vertices_m, joints_m=scale * hand.joints_m, T_camera_wrist=T_camera_wrist, scale=scale)


@pytest.fixture
def recorded(shots: list[Shot], hand_model: HandModel, tmp_path: Path) -> Path:
    """The json lines that the demo writes."""
    path = tmp_path / "hands.jsonl"
    sink = JsonLinesSink(path, hand_model.id)
    for shot in shots:
        sink.write(shot)
    sink.close()
    return path


def edited(path: Path, line: int, edit: Callable[[dict[str, Any]], Any]) -> Path:
    """Change the object of a line, counted from 1."""
    lines = path.read_text().splitlines()
    frame = json.loads(lines[line - 1])
    edit(frame)
    lines[line - 1] = json.dumps(frame)
    path.write_text("\n".join(lines) + "\n")
    return path


def test_every_hand_comes_back(recorded: Path, shots: list[Shot], hand_model: HandModel) -> None:
    recording = read_recording(recorded)
    assert recording.hand_model == hand_model.id and recording.camera == CAMERA and not recording.is_cut
    np.testing.assert_array_equal(recording.numbers, [shot.frame.index for shot in shots])
    np.testing.assert_allclose(recording.times_s, [shot.frame.time_s for shot in shots], atol=1e-6)
    frames = dict(frames_of_hands(recording, hand_model))
    assert list(frames) == list(range(FRAMES))
    for index, shot in enumerate(shots):
        assert [hand.track_id for hand in frames[index]] == [hand.track_id for hand in shot.hands]
        for found, hand in zip(frames[index], shot.hands, strict=True):
            assert found.is_right == hand.is_right and found.scale == hand.scale
            error_mm = max_mm(found.vertices_m, hand.vertices_m)
            assert error_mm < 2e-3, f"the mesh is {error_mm:.2g} mm off"
            assert max_mm(found.joints_m, hand.joints_m) < 0.01
            np.testing.assert_allclose(found.keypoints_px, hand.keypoints_px, atol=0.006)
            np.testing.assert_allclose(found.landmarks_px, hand.landmarks_px, atol=0.01 * hand.scale)
            np.testing.assert_allclose(found.box_px, hand.box_px, atol=0.006)
            for name in ("rotmats", "betas", "camera", "presence", "right_logit"):
                np.testing.assert_allclose(getattr(found.params, name), getattr(hand.params, name), atol=1e-4)


def test_a_hand_that_was_away_is_one_track_with_a_gap(recorded: Path) -> None:
    right, left = read_recording(recorded).tracks
    assert (right.name, left.name) == ("right_0", "left_4")
    np.testing.assert_array_equal(right.frames, [frame for frame in range(FRAMES) if frame not in AWAY])
    np.testing.assert_array_equal(left.frames, range(1, FRAMES))
    np.testing.assert_array_equal(right.times_s, read_recording(recorded).times_s[right.frames])


def test_a_hand_whose_side_was_mistaken_is_two_tracks(recorded: Path) -> None:
    edited(recorded, 2, lambda frame: frame["hands"][0].update(is_right=True))
    assert [(track.name, len(track.frames)) for track in read_recording(recorded).tracks] == [
        ("right_0", FRAMES - len(AWAY)),
        ("left_4", FRAMES - 2),
        ("right_4", 1),
    ]


def test_what_is_written_today_can_be_read() -> None:
    assert SCHEMAS[-1] == SCHEMA


def test_the_first_version_had_no_scale(recorded: Path) -> None:
    def to_first(frame: dict[str, Any]) -> None:
        frame["schema"] = "handmesh.hands/1"
        for hand in frame["hands"]:
            hand.pop("scale")

    for line in range(1, FRAMES + 1):
        edited(recorded, line, to_first)
    assert all((track.scale == 1).all() for track in read_recording(recorded).tracks)


@pytest.mark.parametrize("left_over", [0.001, 0.5, 0.999])
def test_a_last_line_that_is_cut_off_is_left_out(left_over: float, recorded: Path) -> None:
    lines = recorded.read_bytes().splitlines(keepends=True)
    end = max(1, min(int(left_over * len(lines[-1])), len(lines[-1]) - 2))
    recorded.write_bytes(b"".join(lines[:-1]) + lines[-1][:end])
    recording = read_recording(recorded)
    assert recording.is_cut and len(recording.times_s) == FRAMES - 1
    # Without its line break alone, a line is whole.
    recorded.write_bytes(b"".join(lines)[:-1])
    recording = read_recording(recorded)
    assert not recording.is_cut and len(recording.times_s) == FRAMES


def test_a_killed_writer_leaves_a_recording(tmp_path: Path, recorded: Path) -> None:
    # Copies the recording without end until it is killed, in pieces that do not end where lines do.
    code = (
        "import sys, json\n"
        "frames = [json.loads(line) for line in open(sys.argv[1])]\n"
        "with open(sys.argv[2], 'wb', buffering=0) as file:\n"
        "    for number in range(1000000):\n"
        "        text = json.dumps({**frames[number % len(frames)], 'frame': number, 'time_s': number / 30}).encode() + b'\\n'\n"
        "        for start in range(0, len(text), 1000):\n"
        "            file.write(text[start:start + 1000])\n"
        "        print(number, flush=True)\n"
    )
    killed = tmp_path / "killed.jsonl"
    with subprocess.Popen([sys.executable, "-c", code, str(recorded), str(killed)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        while int(writer.stdout.readline()) < 20:
            pass
        writer.kill()
    recording = read_recording(killed)
    assert len(recording.times_s) >= 20 and recording.is_cut != killed.read_bytes().endswith(b"\n")


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (lambda frame: frame.update(schema="handmesh.hands/9"), "expected a frame of schema .*got 'handmesh.hands/9'"),
        (lambda frame: frame.pop("schema"), "expected a frame of schema .*no schema"),
        (lambda frame: frame.pop("hands"), "expected 'hands'"),
        (lambda frame: frame.update(hands={}), "expected 'hands'"),
        (lambda frame: frame.update(hands=[3]), "expected a hand"),
        (lambda frame: frame.update(hand_model="another"), "expected the hand model of the lines before"),
        (lambda frame: frame.update(time_s=0.0), "expected 'time_s' to grow"),
        (lambda frame: frame.update(time_s=float("nan")), "expected 'time_s' to be a number"),
        (lambda frame: frame.update(frame=1), "expected 'frame' to grow"),
        (lambda frame: frame.update(frame="1"), "expected 'frame'"),
        (lambda frame: frame["hands"][0].pop("scale"), "expected 'scale'"),
        (lambda frame: frame["hands"][0].update(joints_m=[1, 2]), r"expected 'joints_m' to be numbers of shape \(21, 3\)"),
        (lambda frame: frame["hands"][0].update(joints_m=[[1], [2, 3]]), r"expected 'joints_m' to be numbers of shape \(21, 3\)"),
        (lambda frame: frame["hands"][0].update(box_px=[1, 2, 3, None]), "expected 'box_px' to be numbers"),
        (lambda frame: frame["hands"][0].update(score="high"), "expected 'score' to be a number"),
        (lambda frame: frame["hands"][0].update(params=[]), "expected a hand's track_id, is_right and params"),
        (lambda frame: frame["hands"][0]["params"].pop("betas"), "expected 'betas'"),
        (lambda frame: frame["hands"].append(frame["hands"][0]), "expected each hand once, got track 4 twice"),
    ],
)
def test_a_bad_line_is_told_by_its_number(edit: Callable[[dict[str, Any]], Any], complaint: str, recorded: Path) -> None:
    edited(recorded, 3, edit)
    with pytest.raises(UserError, match=f"^{complaint}.*line 3 of ") as caught:
        read_recording(recorded)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "got none"),
        ('{"schema":"handm', "got none"),
        ("time,x,y\n", "expected a frame in json.*line 1"),
        ('{\n "schema": "handmesh.hands/2"\n}\n', "expected a frame in json.*line 1"),
        ("[1, 2]\n", "expected a frame of schema.*line 1"),
        ("\xff\xfe\n", "expected a frame in json.*line 1"),
    ],
)
def test_what_is_no_recording_is_told(text: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=complaint):
        read_recording(tmp_path / "a.jsonl")
    for path in (tmp_path, tmp_path / "nowhere.jsonl"):
        with pytest.raises(UserError, match="cannot be read"):
            read_recording(path)


@pytest.mark.parametrize(
    "values", [{"fx": 0}, {"fx": "wide"}, {"width": -3}, {"distortion": 3}, {"distortion": ["a"]}, {"fy": float("nan")}]
)
def test_a_bad_camera_is_told(values: dict[str, Any], recorded: Path) -> None:
    edited(recorded, 1, lambda frame: frame["camera"].update(values))
    with pytest.raises(UserError, match="line 1 of"):
        read_recording(recorded)


def test_hands_and_times_can_be_chosen(recorded: Path) -> None:
    recording = read_recording(recorded)
    times_s = recording.times_s
    part = select(recording, 0, float(times_s[2]), float(times_s[6]))
    np.testing.assert_array_equal(part.times_s, times_s[2:7])
    np.testing.assert_array_equal(part.numbers, recording.numbers[2:7])
    (track,) = part.tracks
    np.testing.assert_array_equal(track.frames, [0, 3, 4])
    np.testing.assert_array_equal(track.times_s, times_s[[2, 5, 6]])
    np.testing.assert_array_equal(track.joints_m, recording.tracks[0].joints_m[[2, 3, 4]])
    assert select(recording).times_s.tolist() == times_s.tolist()
    # A hand that is away all the time that was chosen.
    assert select(recording, 0, float(times_s[3]), float(times_s[4])).tracks == ()
    with pytest.raises(UserError, match="--track to be one of 0, 4, got 2"):
        select(recording, 2)
    with pytest.raises(UserError, match="frames between --start 900"):
        select(recording, None, 900.0)


def test_the_table_holds_the_hands(recorded: Path, shots: list[Shot], tmp_path: Path) -> None:
    write_csv(read_recording(recorded), tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    expected = sorted((shot.frame.index, hand.track_id, shot, hand) for shot in shots for hand in shot.hands)
    assert [(int(row["frame"]), int(row["track_id"])) for row in rows] == [key[:2] for key in expected]
    for row, (_, _, shot, hand) in zip(rows, expected, strict=True):
        assert row["side"] == ("right" if hand.is_right else "left")
        assert float(row["time_s"]) == pytest.approx(shot.frame.time_s, abs=1e-6)
        joints_m = np.array([[float(row[f"{joint}_{axis}_m"]) for axis in "xyz"] for joint in JOINTS])
        assert max_mm(joints_m, hand.joints_m) < 0.01
        position_m = np.array([float(row[f"wrist_{axis}_m"]) for axis in "xyz"])
        assert max_mm(position_m, hand.T_camera_wrist[:3, 3]) < 0.01
        w, *xyz = (float(row[f"wrist_q{part}"]) for part in "wxyz")
        rotvec = 2 * np.arctan2(np.linalg.norm(xyz), w) * np.array(xyz) / np.linalg.norm(xyz)
        np.testing.assert_allclose(rotvec_to_rotmat(rotvec), hand.T_camera_wrist[:3, :3], atol=1e-5)


def test_the_arrays_hold_the_hands(recorded: Path, shots: list[Shot], hand_model: HandModel, tmp_path: Path) -> None:
    write_npz(read_recording(recorded), tmp_path / "a.npz")
    arrays = np.load(tmp_path / "a.npz", allow_pickle=False)
    assert str(arrays["hand_model"]) == hand_model.id
    np.testing.assert_array_equal(arrays["K"], CAMERA.K)
    np.testing.assert_array_equal(arrays["distortion"], CAMERA.distortion)
    np.testing.assert_array_equal(arrays["picture_size_px"], [640, 480])
    np.testing.assert_allclose(arrays["times_s"], [shot.frame.time_s for shot in shots], atol=1e-6)
    np.testing.assert_array_equal(arrays["numbers"], [shot.frame.index for shot in shots])
    rows = {(int(frame), int(track)): row for row, (frame, track) in enumerate(zip(arrays["row_frame"], arrays["track_id"], strict=True))}
    assert len(rows) == len(arrays["row_frame"]) == sum(len(shot.hands) for shot in shots)
    assert (np.diff(arrays["row_frame"]) >= 0).all()
    np.testing.assert_array_equal(arrays["row_time_s"], arrays["times_s"][arrays["row_frame"]])
    for frame, shot in enumerate(shots):
        for hand in shot.hands:
            row = rows[frame, hand.track_id]
            assert arrays["is_right"][row] == hand.is_right and arrays["scale"][row] == hand.scale
            assert max_mm(arrays["joints_m"][row], hand.joints_m) < 0.01
            np.testing.assert_allclose(arrays["T_camera_wrist"][row], hand.T_camera_wrist, atol=1e-5)
            np.testing.assert_allclose(arrays["rotmats"][row], hand.params.rotmats, atol=1e-5)
            np.testing.assert_allclose(arrays["betas"][row], hand.params.betas, atol=1e-5)
            np.testing.assert_allclose(arrays["weak_cameras"][row], hand.params.camera, atol=1e-5)


def test_a_recording_without_hands_has_empty_arrays_and_no_animation(recorded: Path, hand_model: HandModel, tmp_path: Path) -> None:
    for line in range(1, FRAMES + 1):
        edited(recorded, line, lambda frame: frame.update(hands=[]))
    recording = read_recording(recorded)
    assert recording.tracks == () and len(recording.times_s) == FRAMES
    write_npz(recording, tmp_path / "a.npz")
    arrays = np.load(tmp_path / "a.npz", allow_pickle=False)
    assert arrays["joints_m"].shape == (0, 21, 3) and arrays["track_id"].shape == (0,)
    with pytest.raises(UserError, match="expected hands"):
        run_convert(ConvertCommand(recorded, tmp_path / "a.glb"))
    assert write_animation(recorded, hand_model, tmp_path / "a.glb") is None
    # One that was stopped before its first frame.
    recorded.write_bytes(b"")
    assert write_animation(recorded, hand_model, tmp_path / "a.glb") is None
    assert not (tmp_path / "a.glb").exists()


def test_the_demo_can_write_the_animation_itself(recorded: Path, hand_model: HandModel, tmp_path: Path) -> None:
    from test_animation import GLTF_AXES, Glb

    report = write_animation(recorded, hand_model, tmp_path / "a.glb", correctives=True)
    again = write_animation(read_recording(recorded), hand_model, tmp_path / "b.glb", correctives=True)
    assert report == again and (tmp_path / "a.glb").read_bytes() == (tmp_path / "b.glb").read_bytes()
    assert report is not None and report.size_bytes == (tmp_path / "a.glb").stat().st_size
    assert report.difference.max_mm < 1e-3
    recording, glb = read_recording(recorded), Glb(tmp_path / "a.glb")
    for frame, hands in frames_of_hands(recording, hand_model):
        for hand in hands:
            time_s = float(np.float32(recording.times_s[frame] - recording.times_s[0]))
            played_m = glb.vertices_m(f"{'right' if hand.is_right else 'left'}_{hand.track_id}", time_s) * GLTF_AXES
            assert max_mm(played_m, hand.vertices_m) < 1e-3
    with pytest.raises(UserError, match="expected the hand model of the recording"):
        write_animation(recorded, replace(hand_model, id="another"), tmp_path / "c.glb")


@pytest.mark.parametrize(
    ("flags", "files"),
    [
        ({"out": "a.glb"}, ["a.glb"]),
        ({"out": "a.GLB", "correctives": True}, ["a.GLB"]),
        ({"out": "a.npz"}, ["a.npz"]),
        ({"out": "a.csv", "track": 4}, ["a.csv"]),
        ({"out": "a.bvh"}, ["a_left_4.bvh", "a_right_0.bvh"]),
        ({"out": "a.bvh", "track": 0}, ["a.bvh"]),
    ],
)
def test_the_ending_says_what_is_written(
    flags: dict[str, Any], files: list[str], recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    run_convert(ConvertCommand(recorded, **{**flags, "out": out / flags["out"]}))
    assert sorted(path.name for path in out.iterdir()) == files
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{FRAMES} frames of ") and " MB" in line
    assert ("mm (max)" in line) == flags["out"].lower().endswith("glb")
    assert all(path in line for path in files) and ("right_0" in line) == (flags.get("track") != 4)


def test_meshes_a_frame_are_those_of_the_demo(
    recorded: Path, shots: list[Shot], hand_model: HandModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "meshes"
    run_convert(ConvertCommand(recorded, out, per_frame="obj", track=0))
    seen = [shot for shot in shots if any(hand.track_id == 0 for hand in shot.hands)]
    assert sorted(path.name for path in out.iterdir()) == [f"{shot.frame.name}.obj" for shot in seen]
    save_meshes([hand for hand in seen[-1].hands if hand.track_id == 0], hand_model, tmp_path / "demo.obj")

    def numbers(path: Path) -> np.ndarray:
        return np.array([line.split()[1:4] for line in path.read_text().splitlines() if line.startswith("v ")], float)

    assert max_mm(numbers(out / f"{seen[-1].frame.name}.obj"), numbers(tmp_path / "demo.obj")) < 0.01
    assert f"{len(seen)} obj files" in capsys.readouterr().out


def test_a_cut_recording_is_converted_and_said_to_be(recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded.write_bytes(recorded.read_bytes()[:-50])
    run_convert(ConvertCommand(recorded, tmp_path / "a.csv"))
    assert f"{FRAMES - 1} frames" in (line := capsys.readouterr().out) and "cut off" in line


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ({"out": "a.gbl"}, "did you mean .glb"),
        ({"out": "a.mp4"}, "change the ending, or"),
        ({"out": "a"}, "--per-frame"),
        ({"out": "a.glb", "per_frame": "obj"}, "expected a folder"),
        ({"out": "a.csv", "correctives": True}, "leave --correctives out"),
        ({"out": "a.glb", "hand_model": "open-dense"}, "expected the hand model of the recording"),
        ({"out": "nowhere/a.glb"}, "No such file"),
        ({"out": "hands.jsonl/a.npz"}, "Not a directory"),
        ({"out": "a.glb", "track": 9}, "--track"),
        ({"out": "a.glb", "start": 5.0, "end": 1.0}, "frames between"),
    ],
)
def test_bad_flags_are_told_and_nothing_is_written(flags: dict[str, Any], complaint: str, recorded: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        run_convert(ConvertCommand(recorded, **{**flags, "out": tmp_path / flags["out"]}))
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["hands.jsonl"]


def test_a_recording_is_not_written_over(recorded: Path, tmp_path: Path) -> None:
    path = recorded.rename(tmp_path / "hands.csv")
    before = path.read_bytes()
    with pytest.raises(UserError, match="over the recording"):
        run_convert(ConvertCommand(path, path))
    assert path.read_bytes() == before
