"""The soak: what counts as growth and as a leak, that leaks are found, and the loop on a looped video and an unplugged camera."""

import json
import os

import cv2
import numpy as np
import pytest

from handmesh.bench import soak as soak_module
from handmesh.bench.records import Report
from handmesh.bench.soak import FRAMES_A_PLUG, Sample, Soak, soak, take_sample, unplugged
from handmesh.bench.soak_command import DEMO_CLIP, SoakCommand, draw_soak, run_soak, soak_row, verdict
from handmesh.errors import UserError
from handmesh.geometry.camera import camera_from_fov
from handmesh.live.loop import Artist
from handmesh.live.sources import open_source
from handmesh.timing import StageTimes

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux")


def _soak(rss_mb, threads=None, handles=None, settled_frames=0):
    count = len(rss_mb)
    samples = tuple(
        Sample(100 * index, index / 10, float(memory), thread, handle)
        for index, (memory, thread, handle) in enumerate(
            zip(rss_mb, threads or [5] * count, [7] * count if handles is None else handles, strict=True)
        )
    )
    return Soak(samples[0], samples, samples[-1], settled_frames, 10.0)


def test_growth_counts_from_where_it_has_settled():
    run = _soak([100, 300, 310, 311, 312], settled_frames=200)
    assert run.growth_mb == 2
    # One MB in 100 frames.
    assert run.slope_mb == pytest.approx(100)
    assert verdict(run) == "holds"


@pytest.mark.parametrize(
    ("run", "says"),
    [
        (_soak([300, 310, 319.9]), "holds"),
        (_soak([300, 310, 320]), "BEYOND: grew by 20.0 MB, at most 20"),
        (_soak([300, 325, 290]), "BEYOND: grew by 25.0 MB, at most 20"),
        (_soak([300] * 30, threads=[5] * 20 + [6] * 10), "BEYOND: 1 threads more"),
        (_soak([300] * 30, handles=list(range(30))), "BEYOND: 27 handles more"),
        (_soak([300] * 30, threads=[9, *[5] * 29]), "holds"),
        # A moment's handle, as of a video that starts over, is no leak.
        (_soak([300] * 30, handles=[*[7] * 29, 8]), "holds"),
    ],
)
def test_what_is_beyond_a_bar_is_said(run, says):
    assert verdict(run) == says


def test_a_sample_sees_memory_threads_and_files(tmp_path):
    before = take_sample(0, 0.0)
    held = np.ones(50_000_000, np.uint8)
    with (tmp_path / "open").open("w"):
        after = take_sample(0, 0.0)
    assert after.handles == before.handles + 1
    assert after.rss_mb - before.rss_mb > 0.8 * len(held) / 1e6
    assert take_sample(0, 0.0).handles == before.handles


class _Estimator:
    """Finds a hand in every frame; may keep a file and a thousand bytes of each."""

    def __init__(self, model, hand, leaks_in=None):
        self.hand_model = model
        self.times = StageTimes()
        self._hand = hand
        self._leaks_in = leaks_in
        self.kept = []

    def __call__(self, image_rgb, camera=None):
        raise AssertionError("a video is tracked")

    def track(self, image_rgb, time_s, camera=None):
        if self._leaks_in is not None:
            self.kept.append((self._leaks_in / str(time_s)).open("w"))
        return [self._hand]


ARTIST = Artist(lambda image, *_: image, lambda shape, *_: np.zeros(shape, np.uint8))


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 20, (64, 48))
    for index in range(8):
        writer.write(np.full((48, 64, 3), 20 * index, np.uint8))
    writer.release()
    return str(path)


@pytest.fixture
def hand(tiny_hand_model, make_hand):
    return make_hand(tiny_hand_model, camera_from_fov(64, 48, 65))


def test_a_looped_video_leaves_nothing_over(video, tiny_hand_model, hand):
    run = soak(open_source(video, None, loops=True), _Estimator(tiny_hand_model, hand), ARTIST, 120, settled_frames=20)
    assert run.after.frames == 120 and run.samples[-1].frames == 120
    assert [sample.frames for sample in run.settled] == list(range(20, 121))
    # A decoder that is just being opened counts, too; a leak would be one for each time that it was.
    assert run.more_threads < 5 and run.more_handles < 5
    # The video was open before.
    assert run.after.handles == run.before.handles - 1
    assert run.messages == ()


def test_what_leaks_is_found(video, tiny_hand_model, hand, tmp_path):
    estimator = _Estimator(tiny_hand_model, hand, tmp_path)
    run = soak(open_source(video, None, loops=True), estimator, ARTIST, 60, settled_frames=10)
    for file in estimator.kept:
        file.close()
    assert run.more_handles > 30 and "handles more" in verdict(run)


def test_a_camera_that_is_unplugged_again_and_again_leaves_nothing_over(video, tiny_hand_model, hand, monkeypatch):
    monkeypatch.setattr(soak_module, "PLUG_FRAMES_S", 2000.0)
    monkeypatch.setattr(soak_module, "FRAMES_A_PLUG", 5)
    run = soak(unplugged(video, 12), _Estimator(tiny_hand_model, hand), ARTIST, 12 * 5 + 5, settled_frames=1)
    assert sum(line.endswith("Ctrl-C ends") for line in run.messages) == 12
    assert sum(line.endswith("is back") for line in run.messages) == 12
    # A decoder that is just being opened counts, too; a leak would be one for each time that it was.
    assert run.more_threads < 5 and run.more_handles < 5
    # The video was open before.
    assert run.after.handles == run.before.handles - 1


def test_rows_tell_what_the_plot_and_the_table_show(tmp_path):
    rows = [soak_row("looped video", _soak([300, 310, 320, 345])), soak_row("unplugged camera", _soak([200, 201]))]
    draw_soak(Report("soak", {}, rows, [], {}), tmp_path / "soak.png")
    assert cv2.imread(str(tmp_path / "soak.png")) is not None
    assert rows[0]["growth_mb"] == 45 and rows[0]["verdict"].startswith("BEYOND") and rows[1]["verdict"] == "holds"


@pytest.mark.parametrize("flags", [{"frames": 0}, {"unplugs": -1}, {"max_hands": 0}])
def test_bad_flags_are_refused_in_one_line(flags):
    with pytest.raises(UserError, match="at least"):
        SoakCommand(**flags)


def test_pictures_are_no_video(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(UserError, match="needs a video file"):
        run_soak(SoakCommand(input=str(tmp_path / "a.png"), out=tmp_path))


@pytest.mark.skipif(not DEMO_CLIP.is_file(), reason="this copy comes without its demo clip")
def test_the_command_runs_the_real_estimator_and_writes_its_report(tmp_path, capsys):
    report = run_soak(SoakCommand(frames=24, unplugs=1, max_hands=1, out=tmp_path))
    written = json.loads((tmp_path / "soak.json").read_text())
    assert [row["name"] for row in written["rows"]] == ["looped video", "unplugged camera"] == [row["name"] for row in report.rows]
    assert written["rows"][0]["frames"] == 24 and 1 <= written["rows"][1]["frames"] <= 2 * FRAMES_A_PLUG
    assert "away 1 times and back 1 times" in capsys.readouterr().out
    assert (tmp_path / "soak.png").exists()
