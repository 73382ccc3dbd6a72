"""The loop, folder and start-up benchmarks: laws on things that need no network, and one small real run."""

import json
import math
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from handmesh.bench.loop import (
    OURS,
    BesideMirror,
    Contender,
    DetectorEveryFrame,
    FirstFrames,
    Paced,
    Pass,
    distance_over_box,
    distances_to,
    loop_rows,
    open_frames,
    run_in_turn,
    run_mediapipe,
    run_through_loop,
    stage_rows,
    time_over_one_hand,
)
from handmesh.bench.loop_charts import draw_loop, draw_startup
from handmesh.bench.loop_command import (
    DEMO_CLIP,
    FolderCommand,
    LoopCommand,
    StartupCommand,
    _demo_command,
    _loop_notes,
    run_folder,
    run_loop_bench,
    run_startup,
)
from handmesh.bench.records import Report
from handmesh.bench.startup import STEPS, Start, parse_profile, python_command, split_start, startup_rows, watch_process
from handmesh.config import parse_flags
from handmesh.errors import UserError
from handmesh.geometry.camera import camera_from_fov
from handmesh.live.command import DemoCommand, profile_table
from handmesh.live.loop import Artist, LoopReport
from handmesh.live.sources import Frame
from handmesh.records import Detection
from handmesh.timing import StageTimes

HEIGHT, WIDTH = 48, 64
POINTS_PX = np.stack(np.meshgrid(np.arange(7.0), np.arange(3.0)), -1).reshape(21, 2) * 4 + 10


class _Source:
    """Frames of random pixels, ten to the second; may fail after the last."""

    is_stream = True
    is_live = False
    skipped = 0
    label = "test"
    frame_rate = 10.0

    def __init__(self, length=6, failure=None):
        self.length: int | None = length
        self.failure = failure
        self.is_closed = False

    def __iter__(self):
        rng = np.random.default_rng(0)
        for index in range(self.length or 0):
            yield Frame(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8), index, index / 10, f"{index:06d}")
        if self.failure is not None:
            raise self.failure

    def close(self):
        self.is_closed = True


class _Estimator:
    """One hand in every frame; remembers what it was given."""

    def __init__(self, make_hand, model):
        self.hand_model = model
        self.times = StageTimes()
        self.given = []
        self.resets = 0
        self._hand = make_hand(model, camera_from_fov(WIDTH, HEIGHT, 65))

    def __call__(self, image_rgb, camera=None, detections=None):
        with self.times.stage("network"):
            self.given.append(detections)
            time.sleep(0.002)
        return [self._hand]

    def track(self, image_rgb, time_s, camera=None):
        return self(image_rgb, camera)

    def reset(self):
        self.resets += 1


class _Detector:
    """Sees a hand in every frame but the first; counts."""

    def __init__(self):
        self.times_s = []
        self.is_closed = False

    def __call__(self, image_rgb, time_s):
        self.times_s.append(time_s)
        return [_detection()] if len(self.times_s) > 1 else []

    def close(self):
        self.is_closed = True


def _detection(points_px=POINTS_PX):
    return Detection(np.concatenate([points_px.min(axis=0), points_px.max(axis=0)]), True, 0.9, points_px)


def _draw(image_rgb, hands, model, camera):
    time.sleep(0.001)
    return image_rgb


ARTIST = Artist(_draw, lambda shape_hw, hands, model, camera: np.zeros(shape_hw, np.uint8))


@pytest.fixture
def estimator(make_hand, tiny_hand_model):
    return _Estimator(make_hand, tiny_hand_model)


def _pass(frame_ms, hands_px=None, detections=None, stages_ms=None):
    """A pass whose frames took so long."""
    done_s = np.cumsum(frame_ms) / 1e3
    times = StageTimes()
    for name, values in (stages_ms or {"read": [1.0] * len(frame_ms)}).items():
        for value in values:
            times.add(name, value / 1e3)
    hands_px = [(POINTS_PX,)] * len(frame_ms) if hands_px is None else hands_px
    return Pass(float(done_s[-1]), tuple(done_s), times, StageTimes(), tuple(hands_px), detections)


def _loops(*contenders):
    """Rows of (name, max hands, passes)."""
    rows = loop_rows(
        [Contender(name, hands, lambda source: _pass([1])) for name, hands, _ in contenders], [mine for *_, mine in contenders]
    )
    return {(row["contender"], row["max_hands"]): row for row in rows if row["by"] == "loop"}, rows


def test_percentiles_of_a_stage():
    times = StageTimes()
    seconds = np.random.default_rng(0).uniform(0, 1, 101)
    for value in seconds:
        times.add("a", value)
    assert times.percentiles_ms("a", (0, 50, 95, 100)) == pytest.approx(1e3 * np.sort(seconds)[[0, 50, 95, 100]])
    assert (times.calls("a"), times.total_s("a")) == (101, pytest.approx(seconds.sum()))
    assert (times.calls("b"), times.total_s("b"), times.names) == (0, 0.0, ("a",))
    with pytest.raises(KeyError):
        times.percentiles_ms("b", (50,))
    times.clear()
    assert times.names == () and times.table() == []


def test_a_pass_counts_every_frame_once(estimator):
    source = _Source(6)
    first = run_through_loop(source, estimator, ARTIST)
    again = run_through_loop(_Source(6), estimator, ARTIST)
    for each in (first, again):
        assert each.frames == len(each.keypoints_px) == each.times.calls("network") == each.times.calls("overlay") == 6
        assert each.latency.calls("mesh") == each.latency.calls("overlay") == 6
        assert each.frame_ms.sum() <= 1e3 * each.duration_s + 1e-6
        assert (each.frame_ms >= 0).all()
        assert each.frames_s == pytest.approx(6 / each.duration_s)
        assert each.megapixels == pytest.approx(6 * HEIGHT * WIDTH / 1e6)
    assert source.is_closed and estimator.resets == 2


def test_latency_holds_its_stages(estimator):
    mine = run_through_loop(_Source(8), estimator, ARTIST)
    percents = (0, 25, 50, 75, 100)
    to_mesh, to_overlay = (np.array(mine.latency.percentiles_ms(name, percents)) for name in ("mesh", "overlay"))
    network, overlay = (np.array(mine.times.percentiles_ms(name, percents)) for name in ("network", "overlay"))
    assert (to_mesh >= network).all()
    assert (to_overlay >= to_mesh).all()
    assert to_overlay[0] >= network[0] + overlay[0]


def test_nothing_is_drawn_without_an_artist(estimator):
    mine = run_through_loop(_Source(3), estimator, None)
    assert mine.frames == 3 and mine.times.calls("overlay") == 0 and "overlay" not in mine.latency.names


def test_a_source_that_fails_is_no_result(estimator):
    with pytest.raises(UserError, match="cable"):
        run_through_loop(_Source(3, UserError("the cable")), estimator, ARTIST)


def test_stage_rows_hold_stages_latencies_and_shares(estimator):
    passes = [run_through_loop(_Source(5), estimator, ARTIST) for _ in range(3)]
    rows = {(row["by"], row["name"]): row for row in stage_rows(passes)}
    assert set(rows) == {("stage", "read"), ("stage", "network"), ("stage", "overlay"), ("latency", "mesh"), ("latency", "overlay")}
    for (by, _), row in rows.items():
        assert 0 <= row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
        assert (row["share"] is None) == (by == "latency")
    shares = [each.times.total_s("network") / each.duration_s for each in passes]
    assert rows["stage", "network"]["share"] == pytest.approx(np.median(shares))


def test_the_detector_is_asked_in_every_frame(estimator):
    asked = []

    def detector(image_rgb, camera):
        asked.append(camera.width == image_rgb.shape[1])
        return [_detection()] if len(asked) > 1 else []

    asking = DetectorEveryFrame(estimator, detector)
    mine = run_through_loop(_Source(5), asking, ARTIST)
    assert mine.times.calls("detect") == 5
    assert mine.detections is not None and [len(found) for found in mine.detections] == [0, 1, 1, 1, 1]
    assert [len(given) for given in estimator.given] == [0, 1, 1, 1, 1]
    assert asked == [True] * 5


def test_mediapipe_alone_reads_and_asks():
    source, detector = _Source(4), _Detector()
    mine = run_mediapipe(source, detector)
    assert source.is_closed and detector.is_closed
    assert mine.times.names == ("read", "detect") and mine.frames == mine.times.calls("detect") == 4
    assert mine.detections is not None and len(mine.detections[0]) == 0 and len(mine.keypoints_px[3]) == 1
    assert mine.latency.percentiles_ms("landmarks", (0,))[0] >= mine.times.percentiles_ms("detect", (0,))[0]
    assert 1e3 * mine.duration_s >= mine.frame_ms.sum()


def test_rounds_take_turns():
    log = []

    def contender(name):
        def run(source):
            log.append((name, source))
            return _pass([1.0])

        return Contender(name, 1, run)

    passes = run_in_turn([contender("a"), contender("b")], lambda most: most, rounds=3, warm_up_frames=7)  # pyright: ignore
    turn = [("a", 7), ("a", None), ("b", 7), ("b", None)]
    assert log == 3 * turn
    assert [len(mine) for mine in passes] == [3, 3]


def test_ratios_agree_with_the_rows():
    rng = np.random.default_rng(0)
    ours, theirs, every = ([_pass(rng.uniform(5, 30, 20), detections=((),) * 20) for _ in range(3)] for _ in range(3))
    loops, rows = _loops((OURS, 1, ours), ("mediapipe", 1, theirs), ("detector-every-frame", 1, every), ("as-seen", 1, every))
    mine, mediapipe = loops[OURS, 1], loops["mediapipe", 1]
    ratios = np.array(mine["rounds_frames_s"]) / mediapipe["rounds_frames_s"]
    assert mine["vs_mediapipe"] == pytest.approx(np.median(ratios))
    assert mine["vs_as_seen"] == pytest.approx(np.median(np.array(mine["rounds_frames_s"]) / loops["as-seen", 1]["rounds_frames_s"]))
    assert mine["frames_s"] == pytest.approx(np.median(mine["rounds_frames_s"]))
    assert mediapipe["vs_mediapipe"] is None and loops["detector-every-frame", 1]["vs_detector_every_frame"] is None
    assert mine["calls"] == 20 and mine["time_vs_one_hand"] is None
    assert len({tuple(row) for row in rows}) == 1


def test_twice_as_fast_is_two():
    loops, _ = _loops((OURS, 1, [_pass([10] * 4)]), ("mediapipe", 1, [_pass([20] * 4, detections=((),) * 4)]))
    assert loops[OURS, 1]["vs_mediapipe"] == pytest.approx(2)
    assert loops[OURS, 1]["frames_s"] == pytest.approx(100)


def test_two_hands_count_only_where_both_are_seen():
    one, two = (POINTS_PX,), (POINTS_PX, POINTS_PX)
    both = _pass([10, 15, 15, 99], [one, two, two, ()])
    single = _pass([10, 10, 10, 1])
    assert time_over_one_hand([both], [single], 2) == pytest.approx(1.5)
    assert time_over_one_hand([single], [single], 2) is None
    loops, rows = _loops((OURS, 1, [single]), (OURS, 2, [both]))
    assert loops[OURS, 2]["time_vs_one_hand"] == pytest.approx(1.5) and loops[OURS, 1]["time_vs_one_hand"] is None
    assert not _loop_notes(rows, "it")
    _, rows = _loops((OURS, 1, [single]), (OURS, 2, [single]))
    assert any("No frame of it shows 2 hands" in note for note in _loop_notes(rows, "it"))


def test_distance_is_in_boxes():
    shifted = POINTS_PX + (0.1 * 24, 0)  # the box's larger side is 24 px
    assert distance_over_box(shifted, _detection()) == pytest.approx(0.1)
    reference = _pass([1] * 4, detections=((_detection(),), (_detection(),), (), (_detection(),)))
    far = POINTS_PX + 100
    judged = _pass([1] * 4, [(far, shifted), (far,), (shifted,), ()])
    distances, missed = distances_to(reference, judged)
    assert distances == pytest.approx([0.1]) and missed == 2


@pytest.mark.parametrize("rival", ["mediapipe", "detector-every-frame"])
def test_accuracy_is_held_against_whoever_asked_mediapipe(rival):
    detections = ((_detection(),),) * 3
    ours = _pass([1] * 3, [(POINTS_PX + (2.4, 0),)] * 3)
    loops, rows = _loops((OURS, 1, [ours, ours]), (rival, 1, [_pass([1] * 3, [(POINTS_PX + (1.2, 0),)] * 3, detections)] * 2))
    assert loops[OURS, 1]["distance_median"] == pytest.approx(0.1) and loops[OURS, 1]["missed_share"] == 0
    said = [note for note in _loop_notes(rows, "it") if "2.000 x" in note]
    assert len(said) == (rival == "detector-every-frame")


def test_a_video_without_hands_is_said():
    nothing = _pass([1] * 3, [()] * 3)
    loops, rows = _loops((OURS, 2, [nothing]), ("mediapipe", 2, [_pass([1] * 3, [()] * 3, ((),) * 3)]))
    assert loops[OURS, 2]["seen_share"] == 0 and loops[OURS, 2]["distance_median"] is None
    assert any("No hand was seen in it" in note for note in _loop_notes(rows, "it"))


def test_a_machine_that_stands_still_is_said():
    for worst_ms, is_said in ((5000.0, True), (100.0, False)):
        loops, rows = _loops((OURS, 1, [_pass([10, 10]), _pass([10, worst_ms])]))
        assert loops[OURS, 1]["worst_ms"] == pytest.approx(worst_ms)
        assert any("stood still" in note for note in _loop_notes(rows, "it")) == is_said


def test_first_frames_and_mirror_images():
    source = _Source(6)
    first = FirstFrames(source, 2)
    doubled = [frame.image_rgb for frame in BesideMirror(first)]
    assert first.length == len(doubled) == 2
    for frame, image in zip(_Source(6), doubled, strict=False):
        assert (image[:, :WIDTH] == frame.image_rgb).all()
        assert (image[:, ::-1] == image).all() and image.flags.c_contiguous
    BesideMirror(first).close()
    assert source.is_closed


def test_paced_frames_never_come_early(estimator):
    paced = Paced(_Source(4))
    start_s = time.perf_counter()
    frames = list(paced)
    assert [frame.index for frame in frames] == [0, 1, 2, 3]
    assert all(frame.arrived_s - start_s >= frame.time_s for frame in frames)
    mine = run_through_loop(Paced(_Source(4)), estimator, ARTIST)
    assert 1 <= mine.frames <= 4
    # Reading takes as long as the video does, whoever is fast enough to wait.
    assert mine.duration_s >= 0.3


def test_bad_input_is_one_line(tmp_path):
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    picture = tmp_path / "picture.png"
    cv2.imwrite(str(picture), np.zeros((8, 8, 3), np.uint8))
    empty = tmp_path / "empty"
    empty.mkdir()
    for run in (
        lambda: run_loop_bench(LoopCommand(input=str(tmp_path / "missing.mp4"))),
        lambda: run_loop_bench(LoopCommand(input=str(text))),
        lambda: run_loop_bench(LoopCommand(input=str(picture))),
        lambda: run_folder(FolderCommand(input=tmp_path / "missing")),
        lambda: run_folder(FolderCommand(input=picture)),
        lambda: run_folder(FolderCommand(input=empty)),
        lambda: run_startup(StartupCommand(input=text)),
        lambda: LoopCommand(max_hands=(1, 1)),
        lambda: LoopCommand(max_hands=(0,)),
        lambda: LoopCommand(max_hands=()),
        lambda: LoopCommand(frames=0),
        lambda: LoopCommand(paced=True, against=("mediapipe",)),
        lambda: LoopCommand(paced=True, max_hands=(1, 2)),
        lambda: FolderCommand(threads=-1),
        lambda: StartupCommand(runs=0),
    ):
        with pytest.raises(UserError) as caught:
            run()
        assert "\n" not in str(caught.value)


def test_a_fresh_process_is_timed_from_outside(tmp_path):
    wait_s = 0.25
    code = (
        f"import sys, time, pathlib; time.sleep({wait_s}); pathlib.Path(sys.argv[1]).write_text('x'); time.sleep({wait_s}); print('done')"
    )
    start = watch_process(python_command(code, str(tmp_path / "file")), tmp_path / "file")
    assert start.written_ms is not None
    # File systems may round a time down by a tick.
    assert 1e3 * wait_s - 20 <= start.written_ms <= start.ended_ms - 1e3 * wait_s + 20
    assert start.output == "done\n"
    assert start.peak_mb is None or start.peak_mb > 1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell")
def test_memory_is_that_of_the_process():
    # A parent that is small itself, which pytest is not. Linux hands a process's peak on to what it starts, but no further.
    megabytes = 300
    code = f"""
from handmesh.bench.startup import python_command, watch_process
small, large = (watch_process(python_command(f"x = b'1' * {{size}}")).peak_mb for size in (1, {megabytes * 10**6}))
print(small, large)
"""
    in_between = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]], check=True)"
    small, large = watch_process(python_command(in_between, code)).output.split()
    assert small == "None" or float(small) < megabytes
    assert megabytes <= float(large) < 2 * megabytes


def test_a_process_that_fails_says_why(tmp_path):
    with pytest.raises(UserError, match=r"exit code 3: the last line$"):
        watch_process(python_command("import sys; print('first\\nthe last line', file=sys.stderr); sys.exit(3)"))
    with pytest.raises(UserError, match="did not"):
        watch_process(python_command("pass"), tmp_path / "never")


def test_the_profile_that_the_demo_prints_can_be_read():
    times = StageTimes()
    for name, seconds in (("read", 0.001), ("network", 0.010), ("network", 0.020), ("overlay", 1.5)):
        times.add(name, seconds)
    table = profile_table(LoopReport(1, 1, 1.0, "finished", None, times, StageTimes()))
    said = f"1 pictures, 0.7 pictures/s, hands in 100 %; output in 8 9.0 %\n{table}\n"
    assert parse_profile(said) == pytest.approx({"read": 1, "network": 30, "overlay": 1500}, abs=0.02)


def test_parts_of_a_start_add_up():
    stages = {"read": 1.0, "detect": 30, "crop": 2, "network": 20, "mesh": 3, "overlay": 40, "write": 10}
    times = StageTimes()
    for name, ms in stages.items():
        times.add(name, ms / 1e3)
    output = profile_table(LoopReport(1, 1, 1.0, "finished", None, times, StageTimes()))
    moments, parts = split_start(Start(2000.0, 2300.0, 500.0, output), python_ms=30)
    assert sum(parts.values()) == pytest.approx(moments["process ended"]) == 2300
    assert moments["first mesh"] == pytest.approx(2000 - 10 - 40)
    assert list(moments.values()) == sorted(moments.values())
    assert parts["exit"] == pytest.approx(300)
    with pytest.raises(UserError, match="hand"):
        split_start(Start(2000.0, 2300.0, 500.0, output.replace("network", "nothing")), 30)


def test_startup_rows_are_medians_with_their_bars():
    moments = [{"first mesh": ms} for ms in (1.0, 9.0, 2.0)]
    rows = startup_rows(moments, [{"python": 1.0}] * 3, [{"flags": 1.0}] * 3, [500.0, 700.0, 600.0])
    assert len({tuple(row) for row in rows}) == 1
    mesh, memory = rows[0], rows[-1]
    assert (mesh["median_ms"], mesh["runs"]) == (2, 3) and mesh["bar_ms"] > 0
    assert (memory["median_mb"], memory["worst_mb"]) == (600, 700)
    assert all(row["by"] != "memory" for row in startup_rows(moments, [], [], []))


def test_the_demo_understands_what_it_is_started_with(tmp_path):
    picture, network = tmp_path / "picture.png", tmp_path / "net.onnx"
    command = StartupCommand(network, "mano", "onnxruntime", "f32", input=picture, max_hands=1)
    words = _demo_command(command, tmp_path / "picture.png", tmp_path / "out")
    demo = parse_flags(DemoCommand, words[words.index("--input") :], "handmesh-demo")
    assert (demo.input, demo.output, demo.max_hands) == (str(tmp_path / "picture.png"), tmp_path / "out", 1)
    assert (demo.model, demo.hand_model, demo.runtime) == (tmp_path / "net.onnx", "mano", "onnxruntime")
    assert demo.profile and demo.no_window and demo.save == "overlay"
    for name, code in STEPS.items():
        compile(code, name, "exec")


def test_plots_are_written(tmp_path):
    pytest.importorskip("matplotlib")
    _, rows = _loops((OURS, 1, [_pass([10] * 4)]), ("mediapipe", 1, [_pass([20] * 4, detections=((),) * 4)]))
    draw_loop(Report("loop", {}, rows), tmp_path / "loop.png")
    rows = startup_rows([{"first mesh": 100.0}], [{"python": 30.0, "exit": 80.0}], [{"flags": 50.0}], [])
    draw_startup(Report("startup", {}, rows), tmp_path / "startup.png")
    for name in ("loop.png", "startup.png"):
        image = cv2.imread(str(tmp_path / name))
        assert image is not None and image.std() > 10
    with pytest.raises(UserError, match="--out"):
        draw_loop(Report("loop", {}, _loops((OURS, 1, [_pass([1])]))[1]), tmp_path / "no" / "folder.png")


@pytest.mark.skipif(not DEMO_CLIP.is_file(), reason="without the demo clip")
def test_the_real_loop_on_the_clip(tmp_path: Path, capsys):
    report = run_loop_bench(LoopCommand(frames=6, rounds=1, max_hands=(1,), against=("detector-every-frame", "as-seen"), out=tmp_path))
    loops = {row["contender"]: row for row in report.rows if row["by"] == "loop"}
    ours, every = loops[OURS], loops["detector-every-frame"]
    assert ours["calls"] == every["calls"] == 6 and ours["seen_share"] == 1
    assert every["vs_mediapipe"] is None and ours["vs_detector_every_frame"] > 0 and ours["vs_as_seen"] > 0
    assert loops["as-seen"]["calls"] == 6
    assert 0 < ours["distance_median"] < 0.5 and ours["missed_share"] == 0
    stages = {row["name"]: row for row in report.rows if row["contender"] == OURS and row["by"] == "stage"}
    assert {"read", "detect", "find", "landmarks", "head", "mesh", "smooth", "overlay"} == set(stages)
    assert all(math.isfinite(row["p99_ms"]) for row in stages.values())
    written = json.loads((tmp_path / "loop.json").read_text())
    assert written["what"] == "loop" and written["rows"] == report.rows
    assert "frames/s" in capsys.readouterr().out
    assert open_frames(str(DEMO_CLIP), 3).length == 3
