"""The loop and its files, with an estimator that needs no network."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from handmesh.errors import UserError
from handmesh.geometry.camera import camera_from_fov, project
from handmesh.hand_model.skinning import HandModel
from handmesh.live.command import profile_table, summary, with_bare_flags
from handmesh.live.loop import Artist, Wishes, run_loop
from handmesh.live.sinks import KINDS, SCHEMA, JsonLinesSink, Shot, VideoSink, open_sinks, parse_kinds, prepare_output
from handmesh.live.sources import Frame, PictureSource
from handmesh.live.stream import ReaderLeft
from handmesh.records import Hand, HandParams
from handmesh.timing import StageTimes

HEIGHT, WIDTH = 48, 64
CAMERA = camera_from_fov(WIDTH, HEIGHT, 65)


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(0)
    template = rng.normal(scale=0.05, size=(24, 3))
    return HandModel(
        id="test-hand",
        template_m=template,
        shape_dirs=np.zeros((24, 3, 10)),
        pose_dirs=np.zeros((24, 3, 135)),
        joint_regressor=np.eye(16, 24),
        skin_weights=np.eye(24, 16),
        faces=np.arange(24).reshape(8, 3),
        tip_vertices=np.arange(16, 21),
        mean_pose=np.zeros((15, 3)),
        pose_components=np.zeros((0, 45)),
        beta_names=tuple(f"b{k}" for k in range(10)),
    )


def _hand(model, index, track_id=0, is_right=True):
    vertices = model.template_m + (0.01 * index, 0, 0.6)
    joints = model.joints(vertices)
    T_camera_wrist = np.eye(4)
    T_camera_wrist[:3, 3] = joints[0]
    params = HandParams(model.mean_rotmats(), np.linspace(-1, 1, 10), np.array([5.0, 0.01, -0.02]), 0.9, 2.5, np.linspace(0.003, 0.012, 21))
    points_px = project(joints, CAMERA)
    return Hand(vertices, joints, points_px, points_px + 3, T_camera_wrist, params, np.array([1.0, 2, 30, 40]), 0.75, is_right, track_id)


class _Source:
    """Grey frames that get lighter, `rate` to the second; may fail after the last."""

    is_live = False
    skipped = 0
    label = "test"

    def __init__(self, length=6, is_stream=True, failure=None, rate=10.0):
        self.length: int | None = length
        self.is_stream = is_stream
        self.failure = failure
        self.frame_rate = rate
        self.is_closed = False

    def __iter__(self):
        for index in range(self.length or 0):
            image = np.full((HEIGHT, WIDTH, 3), 20 * index, np.uint8)
            yield Frame(image, index, index / self.frame_rate, f"{index:06d}")
        if self.failure is not None:
            raise self.failure

    def close(self):
        self.is_closed = True


class _Estimator:
    """Two hands in every frame but the first; remembers what it was given."""

    def __init__(self, model):
        self.hand_model = model
        self.times = StageTimes()
        self.seen = []

    def __call__(self, image_rgb, camera=None):
        return self.track(image_rgb, None, camera)

    def track(self, image_rgb, time_s, camera=None):
        with self.times.stage("detect"):
            self.seen.append((image_rgb.copy(), time_s, camera))
        index = len(self.seen) - 1
        return [_hand(self.hand_model, index, 3), _hand(self.hand_model, index, 4, is_right=False)] if index else []


class _Screen:
    """Gives the next key with every new picture; with `counts_all` with every call."""

    def __init__(self, keys, counts_all=False):
        self.keys = iter(keys)
        self.shown = []
        self.hands = []
        self.counts_all = counts_all
        self.is_closed = False

    def show(self, picture_rgb, hands, camera):
        if not self.counts_all and self.shown and self.shown[-1] is picture_rgb:
            return None
        self.shown.append(picture_rgb)
        self.hands.append(hands)
        return next(self.keys)

    def close(self):
        self.is_closed = True


def _draw_overlay(image_rgb, hands, _model, _camera):
    """Red in the left half."""
    drawn = image_rgb.copy()
    drawn[:, : WIDTH // 2] = (220, 30, 30)
    return drawn


def _draw_mask(shape_hw, hands, _model, _camera):
    mask = np.zeros(shape_hw, np.uint8)
    for index in range(len(hands)):
        mask[:, 10 * index : 10 * index + 5] = index + 1
    return mask


ARTIST = Artist(_draw_overlay, _draw_mask)


def _run(source, estimator, output, kinds=(), screen=None, is_mirrored=False, recorder=None):
    sinks = open_sinks(kinds, output, source, estimator.hand_model)
    wishes = Wishes(output, is_mirrored, "overlay" in kinds, "mask" in kinds, recorder)
    return run_loop(source, estimator, lambda width, height: camera_from_fov(width, height, 65), sinks, ARTIST, wishes, screen)


def _read_video(path):
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (found := capture.read())[0]:
        frames.append(found[1][..., ::-1])
    return frames, capture.get(cv2.CAP_PROP_FPS)


def test_a_stream_writes_every_kind(tmp_path, model):
    trimesh = pytest.importorskip("trimesh")
    report = _run(_Source(), _Estimator(model), tmp_path, KINDS)
    assert (report.frames, report.frames_with_hands, report.end, report.error) == (6, 5, "finished", None)

    frames, rate = _read_video(tmp_path / "overlay.mkv")
    assert len(frames) == 6 and rate == pytest.approx(10)
    assert np.abs(frames[4][:, : WIDTH // 2 - 4].mean(axis=(0, 1)) - (220, 30, 30)).max() < 12
    assert frames[4][:, WIDTH // 2 + 4 :].mean() == pytest.approx(80, abs=8)

    lines = [json.loads(line) for line in (tmp_path / "hands.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == list(range(6)) and lines[0]["hands"] == []
    assert {line["schema"] for line in lines} == {SCHEMA} and {line["hand_model"] for line in lines} == {"test-hand"}
    assert lines[3]["time_s"] == pytest.approx(0.3) and lines[3]["camera"]["fx"] == CAMERA.fx
    expected = _hand(model, 3, 3)
    right, left = lines[3]["hands"]
    assert (right["track_id"], right["is_right"], left["track_id"], left["is_right"]) == (3, True, 4, False)
    assert np.abs(np.array(right["joints_m"]) - expected.joints_m).max() < 1e-5
    for name in ("keypoints_px", "landmarks_px"):
        assert np.abs(np.array(right[name]) - getattr(expected, name)).max() < 0.01
    assert expected.params.spread_m is not None and right["keypoint_spread_m"] == pytest.approx(expected.params.spread_m, abs=1e-5)
    assert np.allclose(right["T_camera_wrist"], expected.T_camera_wrist, atol=1e-6)
    assert np.allclose(right["params"]["rotmats"], expected.params.rotmats) and np.allclose(
        right["params"]["betas"], expected.params.betas, atol=1e-5
    )

    arrays = np.load(tmp_path / "npz" / "000003.npz")
    assert np.abs(arrays["vertices_m"][0] - expected.vertices_m).max() < 1e-6 and arrays["is_right"].tolist() == [True, False]
    assert np.load(tmp_path / "npz" / "000000.npz")["vertices_m"].shape == (0, 24, 3)

    for kind in ("obj", "ply", "glb"):
        assert sorted(path.name for path in (tmp_path / kind).iterdir()) == [f"{index:06d}.{kind}" for index in range(1, 6)]
    loaded = trimesh.load(tmp_path / "ply" / "000003.ply", process=False)
    assert np.abs(loaded.vertices[:24] - expected.vertices_m).max() < 1e-5

    masks, rate = _read_video(tmp_path / "mask.mkv")
    assert len(masks) == 6 and rate == pytest.approx(10) and not masks[0].any()
    assert (masks[3] == _draw_mask((HEIGHT, WIDTH), [None, None], None, None)[..., None]).all()  # labels: to the digit


def test_animation_writes_the_lines_that_it_is_made_from(tmp_path, model):
    _run(_Source(), _Estimator(model), tmp_path, ("animation",))
    assert [path.name for path in tmp_path.iterdir()] == ["hands.jsonl"]


def test_pictures_are_named_after_themselves(tmp_path, model):
    cv2.imwrite(str(tmp_path / "ein Bild.png"), np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
    output = tmp_path / "out"
    output.mkdir()
    estimator = _Estimator(model)
    estimator.seen.append(None)  # so that the first picture has hands
    report = _run(PictureSource([tmp_path / "ein Bild.png"], "x"), estimator, output, [kind for kind in KINDS if kind != "animation"])
    assert report.frames == 1
    endings = ["_mask.png", "_overlay.png", ".glb", ".json", ".npz", ".obj", ".ply"]
    assert sorted(path.name for path in output.iterdir()) == sorted(f"ein Bild{ending}" for ending in endings)
    assert len(json.loads((output / "ein Bild.json").read_text())["hands"]) == 2


def test_the_estimator_gets_times_in_streams_and_the_camera_of_each_picture(tmp_path, model):
    estimator = _Estimator(model)
    _run(_Source(length=3), estimator, tmp_path)
    assert [time_s for _, time_s, _ in estimator.seen] == pytest.approx([0, 0.1, 0.2])
    assert all((camera.width, camera.height) == (WIDTH, HEIGHT) for _, _, camera in estimator.seen)
    pictures = _Estimator(model)
    _run(_Source(length=2, is_stream=False), pictures, tmp_path)
    assert [time_s for _, time_s, _ in pictures.seen] == [None, None]


class _Slow(_Estimator):
    def track(self, image_rgb, time_s, camera=None):
        time.sleep(0.01)
        return super().track(image_rgb, time_s, camera)


def test_files_keep_every_frame_and_cameras_the_newest(tmp_path, model):
    seen = {}
    for is_live in (False, True):
        source, output = _Source(length=12), tmp_path / str(is_live)
        source.is_live = is_live
        output.mkdir()
        report = _run(source, _Slow(model), output, ("json",))
        seen[is_live] = [json.loads(line)["frame"] for line in (output / "hands.jsonl").read_text().splitlines()]
        assert report.frames == len(seen[is_live])
    assert seen[False] == list(range(12))
    # All came while the first was looked at; of those, the newest is looked at next.
    assert seen[True][-1] == 11 and len(seen[True]) < 6 and seen[True] == sorted(set(seen[True]))


def test_the_loop_says_how_old_its_hands_are(tmp_path, model):
    report = _run(_Source(length=5), _Slow(model), tmp_path, ("overlay",))
    rows = {name: (calls, median_ms) for name, calls, median_ms, *_ in report.latency.table()}
    assert set(rows) == {"mesh", "overlay"} and {calls for calls, _ in rows.values()} == {5}
    assert 10 <= rows["mesh"][1] <= rows["overlay"][1] < 10_000


def test_mirror_turns_what_is_shown_and_nothing_else(tmp_path, model):
    results = {}
    for is_mirrored in (False, True):
        output = tmp_path / str(is_mirrored)
        output.mkdir()
        estimator, screen = _Estimator(model), _Screen([None] * 6)
        _run(_Source(), estimator, output, ("json", "mask"), screen, is_mirrored)
        mask = _read_video(output / "mask.mkv")[0][2]
        results[is_mirrored] = (screen.shown[2], (output / "hands.jsonl").read_text(), estimator.seen[2][0], mask)
    plain, mirrored = results[False], results[True]
    assert (plain[0][:, ::-1] == mirrored[0]).all() and not (plain[0] == mirrored[0]).all()
    assert plain[1] == mirrored[1] and (plain[2] == mirrored[2]).all() and (plain[3] == mirrored[3]).all()


@pytest.mark.parametrize("key", ["q", "escape"])
def test_keys_quit(tmp_path, model, key):
    source, screen = _Source(), _Screen([None, None, key])
    report = _run(source, _Estimator(model), tmp_path, ("overlay",), screen)
    assert (report.end, report.frames) == ("quit", 3)
    assert source.is_closed and screen.is_closed
    assert len(_read_video(tmp_path / "overlay.mkv")[0]) == 3


def test_a_picture_stays_on_the_screen_until_it_is_dismissed(tmp_path, model):
    screen = _Screen([None, None, None, "q"], counts_all=True)
    report = _run(_Source(length=2, is_stream=False), _Estimator(model), tmp_path, (), screen)
    assert report.frames == 2 and len(screen.shown) == 4


def test_s_saves_a_snapshot_with_its_mesh(tmp_path, model, capsys):
    _run(_Source(length=3), _Estimator(model), tmp_path, (), _Screen(["s", "s", None]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["snapshot_000000.png", "snapshot_000001.glb", "snapshot_000001.png"]
    assert "snapshot_000001.glb" in capsys.readouterr().out


def test_the_space_bar_holds_the_video(tmp_path, model):
    class Pauses(_Screen):
        """Pauses with the second picture, looks at it five times, and goes on."""

        def show(self, picture_rgb, hands, camera):
            super().show(picture_rgb, hands, camera)
            return " " if len(self.shown) in (2, 7) else None

    screen = Pauses([None] * 99, counts_all=True)
    report = _run(_Source(rate=1e6), _Estimator(model), tmp_path, ("json",), screen)
    # Nothing was lost, and nothing written twice.
    assert (report.end, report.frames) == ("finished", 6)
    assert [json.loads(line)["frame"] for line in (tmp_path / "hands.jsonl").read_text().splitlines()] == list(range(6))
    assert all(picture is screen.shown[1] for picture in screen.shown[1:7])


def test_a_video_on_the_screen_is_no_faster_than_life(tmp_path, model):
    for screen, least_s in ((_Screen([None] * 6), 5 / 40), (None, 0.0)):
        report = _run(_Source(rate=40), _Estimator(model), tmp_path, (), screen)
        assert report.frames == 6 and report.duration_s >= least_s


def test_a_screen_can_be_left_before_the_first_picture(tmp_path, model):
    class Slow(_Source):
        """A camera that sends nothing until it is closed."""

        is_live = True
        length = None

        def __init__(self):
            super().__init__()
            self.gone = threading.Event()

        def __iter__(self):
            self.gone.wait(60)
            yield from ()

        def close(self):
            self.gone.set()
            super().close()

    screen = _Screen([None, None, "s", "q"], counts_all=True)
    report = _run(Slow(), _Estimator(model), tmp_path, (), screen)
    assert (report.end, report.frames, screen.is_closed) == ("quit", 0, True)
    assert screen.hands == [[]] * 4 and len({id(picture) for picture in screen.shown}) == 1
    assert list(tmp_path.iterdir()) == []


class _Recorder:
    def __init__(self):
        self.frames, self.is_on, self.is_closed = [], False, False

    def toggle(self):
        self.is_on = not self.is_on
        return "recording" if self.is_on else "recorded"

    def write(self, shot):
        if self.is_on:
            self.frames.append(shot.frame.index)

    def close(self):
        self.is_closed = True


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["--web"], ["--web", "8080"]),
        (["--web", "9000"], ["--web", "9000"]),
        (["--camera", "0"], ["--camera", "0"]),
    ],
)
def test_flags_without_a_value_stand_for_one(given, meant):
    assert with_bare_flags(given) == meant


def test_r_starts_and_stops_a_recording(tmp_path, model, capsys):
    recorder = _Recorder()
    _run(_Source(), _Estimator(model), tmp_path, (), _Screen([None, "r", None, None, "r", None]), recorder=recorder)
    assert recorder.frames == [2, 3, 4] and recorder.is_closed
    assert capsys.readouterr().out.split() == ["recording", "recorded"]


def test_a_screen_is_looked_at_while_the_source_is_silent(tmp_path, model):
    """Else nobody could quit while a camera is unplugged."""

    class Silent(_Source):
        def __init__(self):
            super().__init__(length=1)
            self.is_live, self.has_ended = True, threading.Event()

        def __iter__(self):
            yield from super().__iter__()
            self.has_ended.wait(60)

        def close(self):
            super().close()
            self.has_ended.set()

    source, screen = Silent(), _Screen([None, None, None, "q"], counts_all=True)
    report = _run(source, _Estimator(model), tmp_path, (), screen)
    assert (report.end, report.frames) == ("quit", 1) and source.is_closed


def test_a_reader_that_leaves_ends_the_run(model, tmp_path):
    class Left:
        def write(self, shot):
            raise ReaderLeft

        def close(self):
            pass

    report = run_loop(_Source(), _Estimator(model), lambda width, height: CAMERA, [Left()], ARTIST, Wishes(tmp_path))
    assert (report.end, report.error, report.frames) == ("quit", None, 1)


def test_ctrl_c_and_a_lost_camera_leave_whole_files(tmp_path, model):
    for name, failure in (("interrupted", KeyboardInterrupt()), ("failed", UserError("camera 0 stopped"))):
        output = tmp_path / name
        output.mkdir()
        source = _Source(failure=failure)
        report = _run(source, _Estimator(model), output, ("overlay", "json"))
        assert (report.end, report.frames) == (name, 6) and source.is_closed
        assert (report.error is failure) == (name == "failed")
        assert len(_read_video(output / "overlay.mkv")[0]) == 6
        assert len((output / "hands.jsonl").read_text().splitlines()) == 6


class _FailsToClose:
    def __init__(self, failure):
        self.failure = failure

    def write(self, shot):
        pass

    def close(self):
        raise self.failure


def test_what_goes_wrong_while_closing_is_in_the_report_and_the_rest_is_closed(model, tmp_path):
    for end, failure in (("interrupted", KeyboardInterrupt()), ("failed", UserError("no room for the last frame"))):
        source = _Source()
        sinks = [_FailsToClose(failure)]
        report = run_loop(source, _Estimator(model), lambda width, height: CAMERA, sinks, ARTIST, Wishes(tmp_path))
        assert (report.end, report.frames, source.is_closed) == (end, 6, True)
        assert (report.error is failure) == (end == "failed")


def test_a_full_disk_is_one_line_and_what_is_there_can_be_read(tmp_path, model):
    resource = pytest.importorskip("resource", reason="needs limits on file sizes, which Windows has not")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        report = _run(_Source(length=8), _Estimator(model), tmp_path, ("json",))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert report.end == "failed" and "cannot write" in str(report.error) and "\n" not in str(report.error)
    lines = (tmp_path / "hands.jsonl").read_text().splitlines()
    assert 0 < len(lines) < 8 and [json.loads(line)["frame"] for line in lines] == list(range(len(lines)))


def test_a_full_disk_stops_the_video_too(tmp_path, monkeypatch):
    sink = VideoSink(tmp_path / "overlay.mkv", 10)
    shot = Shot(Frame(np.zeros((HEIGHT, WIDTH, 3), np.uint8), 0, 0.0, "0"), [], CAMERA, np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    sink.write(shot)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(OSError, match="space"):
        sink.write(shot)
    sink.close()
    assert len(_read_video(tmp_path / "overlay.mkv")[0]) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="kills with a signal that Windows has not")
def test_a_killed_run_leaves_what_it_flushed(tmp_path):
    program = """
        import os, sys
        from pathlib import Path
        import numpy as np
        from handmesh.geometry.camera import camera_from_fov
        from handmesh.live.sinks import JsonLinesSink, Shot, VideoSink
        from handmesh.live.sources import Frame
        output = Path(sys.argv[1])
        sinks = [VideoSink(output / "overlay.mkv", 10), JsonLinesSink(output / "hands.jsonl", "test-hand")]
        rng = np.random.default_rng(0)
        for index in range(60):
            noise = rng.integers(0, 255, (240, 320, 3), dtype=np.uint8)
            for sink in sinks:
                sink.write(Shot(Frame(noise, index, index / 10, str(index)), [], camera_from_fov(320, 240, 65), noise))
        os.kill(os.getpid(), 9)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(program), str(tmp_path)], env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert killed.returncode == -signal.SIGKILL
    assert len((tmp_path / "hands.jsonl").read_text().splitlines()) == 60
    assert len(_read_video(tmp_path / "overlay.mkv")[0]) >= 10


def test_a_live_recording_runs_as_fast_as_life(tmp_path):
    sink = VideoSink(tmp_path / "overlay.mkv", 20, keeps_time=True)
    for index in range(6):  # at 5 frames per second into a video of 20, then one frame too early
        image = np.full((HEIGHT, WIDTH, 3), 40 * index, np.uint8)
        sink.write(Shot(Frame(image, index, 0.2 * index, "x"), [], CAMERA, image))
        sink.write(Shot(Frame(image, index, 0.2 * index + 0.001, "x"), [], CAMERA, image))
    sink.close()
    frames, rate = _read_video(tmp_path / "overlay.mkv")
    assert rate == pytest.approx(20) and len(frames) == 21


def test_stages_and_summary(tmp_path, model):
    source = _Source()
    report = _run(source, _Estimator(model), tmp_path, ("overlay",))
    rows = [line.split()[0] for line in profile_table(report).splitlines()]
    assert rows == ["stage", "read", "detect", "overlay", "write"]
    assert sum(row[-1] for row in report.times.table()) == pytest.approx(1)
    line = summary(report, source, tmp_path)
    assert line.startswith("6 frames") and "hands in 83 %" in line and str(tmp_path) in line and "\n" not in line
    source.skipped = 2
    assert "2 files skipped" in summary(report, source, None)


def test_an_error_of_the_estimator_is_not_blamed_on_the_disk(tmp_path, model):
    class Broken(_Estimator):
        def track(self, image_rgb, time_s, camera=None):
            raise OSError("libodd.so.7: cannot open shared object file")

    source = _Source()
    with pytest.raises(OSError, match="libodd"):
        _run(source, Broken(model), tmp_path, ("json",))
    assert source.is_closed


def test_save_takes_a_list_and_names_the_nearest():
    assert parse_kinds("overlay, JSON,overlay") == ("overlay", "json") and parse_kinds("") == ()
    with pytest.raises(UserError, match="did you mean overlay"):
        parse_kinds("json,overlai")


def test_an_output_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("I am not a folder")
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="another --output"):
            prepare_output(output, _Source())
    prepare_output(tmp_path / "new" / "folder", _Source())
    assert list((tmp_path / "new" / "folder").iterdir()) == []


def test_the_input_is_never_overwritten(tmp_path):
    for label in (tmp_path, tmp_path / "overlay.mkv"):
        source = _Source()
        source.label = str(label)
        with pytest.raises(UserError, match="over the input"):
            prepare_output(tmp_path, source)


def test_sinks_that_cannot_open_say_so(tmp_path, model):
    (tmp_path / "npz").write_text("in the way")
    with pytest.raises(UserError, match="another --output"):
        open_sinks(("npz",), tmp_path, _Source(), model)
    (tmp_path / "hands.jsonl").mkdir()
    with pytest.raises(UserError, match="another --output"):
        open_sinks(("json",), tmp_path, _Source(), model)


def test_json_lines_are_there_before_closing(tmp_path):
    sink = JsonLinesSink(tmp_path / "hands.jsonl", "test-hand")
    sink.write(Shot(Frame(np.zeros((2, 2, 3), np.uint8), 7, 0.5, "7"), [], CAMERA))
    assert json.loads((tmp_path / "hands.jsonl").read_text())["frame"] == 7
    sink.close()
