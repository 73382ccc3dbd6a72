"""What "r" starts and stops: recordings of their own, whole, one after another."""

from __future__ import annotations

import json
from errno import ENOSPC
from pathlib import Path

import cv2
import numpy as np
import pytest
import trimesh

from handmesh.errors import UserError
from handmesh.geometry.camera import camera_from_fov
from handmesh.live.recorder import Recorder
from handmesh.live.sinks import Shot
from handmesh.live.sources import Frame

CAMERA = camera_from_fov(64, 48, 65)


class _Source:
    frame_rate, is_live, is_stream = 10.0, False, True


def _shots(hand_model, make_hand, count):
    for index in range(count):
        frame = Frame(np.zeros((48, 64, 3), np.uint8), index, index / 10, f"{index:06d}")
        hands = [make_hand(hand_model, CAMERA, (0.01 * index, 0.0, 0.5))]
        yield Shot(frame, hands, CAMERA, np.full((48, 64, 3), 9 * index, np.uint8))


def test_each_recording_has_a_folder_of_its_own(tmp_path, hand_model, make_hand):
    recorder = Recorder(tmp_path, _Source(), hand_model)  # type: ignore[arg-type]
    shots = list(_shots(hand_model, make_hand, 6))
    recorder.write(shots[0])
    assert not recorder.is_on and not list(tmp_path.iterdir())
    assert recorder.toggle() == f"recording to {tmp_path / 'recording_000'}" and recorder.is_on
    for shot in shots[1:4]:
        recorder.write(shot)
    assert recorder.toggle() == f"recorded 3 frames in {tmp_path / 'recording_000'}" and not recorder.is_on
    recorder.write(shots[4])
    recorder.toggle()
    recorder.write(shots[5])
    # The end of the program ends it as well.
    recorder.close()
    recorder.close()
    frames = {}
    for folder in sorted(tmp_path.iterdir()):
        lines = (folder / "hands.jsonl").read_text().splitlines()
        frames[folder.name] = [json.loads(line)["frame"] for line in lines]
        assert trimesh.load(folder / "hands.glb").geometry
        video = cv2.VideoCapture(str(folder / "overlay.mkv"))
        assert sum(video.read()[0] for _ in range(9)) == len(lines)
    assert frames == {"recording_000": [1, 2, 3], "recording_001": [5]}


def test_a_recording_without_hands_has_no_animation(tmp_path, hand_model):
    recorder = Recorder(tmp_path, _Source(), hand_model)  # type: ignore[arg-type]
    recorder.toggle()
    recorder.write(Shot(Frame(np.zeros((48, 64, 3), np.uint8), 0, 0.0, "000000"), [], CAMERA, np.zeros((48, 64, 3), np.uint8)))
    recorder.close()
    assert sorted(path.name for path in (tmp_path / "recording_000").iterdir()) == ["hands.jsonl", "overlay.mkv"]


def test_a_full_disk_leaves_the_recording_and_says_how_to_go_on(tmp_path, hand_model, make_hand, monkeypatch):
    recorder = Recorder(tmp_path, _Source(), hand_model)  # type: ignore[arg-type]
    recorder.toggle()
    for shot in _shots(hand_model, make_hand, 2):
        recorder.write(shot)

    def full(self: Path, *_):
        raise OSError(ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="No space left on device; the recording is whole, turn it with handmesh-convert"):
        recorder.close()
    assert not recorder.is_on
    folder = tmp_path / "recording_000"
    assert len((folder / "hands.jsonl").read_text().splitlines()) == 2
    assert sorted(path.name for path in folder.iterdir()) == ["hands.jsonl", "overlay.mkv"]
