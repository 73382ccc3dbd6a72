"""The stream over UDP and on stdout: what is in it, that nobody waits who must not, and that no queue grows."""

import errno
import io
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from handmesh.errors import UserError
from handmesh.geometry.camera import camera_from_fov
from handmesh.geometry.rotation import rotvec_to_rotmat
from handmesh.hand_model.mano_params import pose_to_rotmats
from handmesh.hand_model.skinning import mirror_points, skin
from handmesh.live import stream
from handmesh.live.sinks import Shot
from handmesh.live.sources import Frame
from handmesh.live.stream import (
    MAX_DATAGRAM_BYTES,
    LineSender,
    NewestLineSender,
    ReaderLeft,
    StreamSink,
    UdpAddress,
    UdpSender,
    open_stream,
    parse_stream,
    rotmat_to_quaternion_wxyz,
    shot_to_texts,
)
from handmesh.skeleton import WRIST

PATIENCE_S = 10.0
CAMERA = camera_from_fov(640, 480, 65)
ROOT = Path(__file__).parents[1]
CONSUMER, DOCUMENT = ROOT / "demo" / "consumer.py", ROOT / "docs" / "stream.md"


def _shot(hands=(), index=3):
    return Shot(Frame(np.zeros((4, 4, 3), np.uint8), index, index / 10, f"{index:06d}"), hands, CAMERA)


@pytest.fixture
def two_hands(tiny_hand_model, make_hand):
    places = {"global_rotvec": (0.4, -2.0, 0.7), "root_m": (0.1, 0.05, 0.6)}
    return [make_hand(tiny_hand_model, CAMERA, is_right=is_right, track_id=5 + is_right, **places) for is_right in (False, True)]


def _receiver(family=socket.AF_INET, host="127.0.0.1"):
    receiver = socket.socket(family, socket.SOCK_DGRAM)
    receiver.settimeout(PATIENCE_S)
    receiver.bind((host, 0))
    return receiver


def test_a_message_has_all_that_there_is_to_say(tiny_hand_model, two_hands):
    (text,) = shot_to_texts(_shot(two_hands), tiny_hand_model)
    assert text.endswith(b"\n") and text.count(b"\n") == 1
    message = json.loads(text)
    assert (message["schema"], message["frame"], message["name"], message["time_s"]) == ("handmesh.stream/1", 3, "000003", 0.3)
    for hand, sent in zip(two_hands, message["hands"], strict=True):
        assert (sent["track_id"], sent["side"]) == (hand.track_id, "right" if hand.is_right else "left")
        assert np.abs(np.array(sent["joints_m"]) - hand.joints_m).max() <= 1e-5
        for name in ("keypoints_px", "landmarks_px"):
            assert np.abs(np.array(sent[name]) - getattr(hand, name)).max() <= 0.01
        assert sent["keypoint_spread_m"] is None
        assert sent["wrist"]["position_m"] == pytest.approx(sent["joints_m"][WRIST], abs=1e-9)


def test_spreads_are_those_of_the_true_size(tiny_hand_model, two_hands):
    spread_m = np.linspace(0.002, 0.01, 21)
    hands = [
        replace(hand, vertices_m=1.5 * hand.vertices_m, scale=1.5, params=replace(hand.params, spread_m=spread_m)) for hand in two_hands
    ]
    for sent in json.loads(shot_to_texts(_shot(hands), tiny_hand_model)[0])["hands"]:
        assert sent["keypoint_spread_m"] == pytest.approx(1.5 * spread_m, abs=1e-5)


def test_every_key_is_documented(tiny_hand_model, two_hands):
    message = json.loads(shot_to_texts(_shot(two_hands), tiny_hand_model)[0])
    hand = message["hands"][0]
    keys = [*message, *(key for key in hand if key != "wrist"), *(f"wrist.{key}" for key in hand["wrist"])]
    text = DOCUMENT.read_text(encoding="utf-8")
    assert [key for key in keys if f"`{key}`" not in text] == []
    assert message["schema"] in text


@pytest.mark.parametrize("scale", [1.0, 1.25])
def test_the_pose_that_is_sent_poses_the_hand_that_was_seen(tiny_hand_model, two_hands, scale):
    """Of the hand's own side: on a mirrored model for a left hand."""
    hands = [
        replace(hand, vertices_m=scale * hand.vertices_m, joints_m=scale * hand.joints_m, T_camera_wrist=_scaled(hand, scale), scale=scale)
        for hand in two_hands
    ]
    (text,) = shot_to_texts(_shot(hands), tiny_hand_model)
    for hand, sent in zip(hands, json.loads(text)["hands"], strict=True):
        pose = np.array(sent["mano_pose"]).reshape(16, 3)
        own = pose if sent["side"] == "right" else pose * (1, -1, -1)
        rotmats = pose_to_rotmats(tiny_hand_model, own[0], own[1:].reshape(45), flat_hand_mean=True)
        vertices_m = skin(tiny_hand_model, rotmats, np.array(sent["betas"]))
        vertices_m = sent["scale"] * (vertices_m if sent["side"] == "right" else mirror_points(vertices_m))
        wrist_m = tiny_hand_model.joints(vertices_m)[WRIST]
        assert np.abs(vertices_m - wrist_m + sent["wrist"]["position_m"] - hand.vertices_m).max() < 3e-5


def _scaled(hand, scale):
    T_camera_wrist = hand.T_camera_wrist.copy()
    T_camera_wrist[:3, 3] *= scale
    return T_camera_wrist


@pytest.mark.parametrize("is_right", [True, False])
def test_the_wrist_frame_is_as_the_picture_of_it_says(hand_model, make_hand, is_right):
    """x to a right hand's forearm and to a left hand's fingers, y out of the back, z to the thumb."""
    hand = make_hand(hand_model, CAMERA, is_right=is_right, global_rotvec=(0.9, -0.5, 1.3))
    (sent,) = json.loads(shot_to_texts(_shot([hand]), hand_model)[0])["hands"]
    w, *v = sent["wrist"]["quaternion_wxyz"]
    about_wrist_m = np.array(sent["joints_m"]) - sent["wrist"]["position_m"]
    # Turned by the inverse of the quaternion: into the wrist's frame.
    turned = 2 * np.cross(-np.array(v), about_wrist_m)
    own_m = about_wrist_m + w * turned + np.cross(-np.array(v), turned)
    knuckles, tips = own_m[[5, 9, 13, 17]], own_m[[8, 12, 16, 20]]
    fingers = -1 if is_right else 1
    assert (fingers * knuckles[:, 0] > 0.05).all()
    assert knuckles[0, 2] > knuckles[3, 2] + 0.03 and own_m[4, 2] > knuckles[0, 2]
    # A relaxed finger bends to the palm.
    assert (tips[:, 1] < knuckles[:, 1] - 0.01).all()


@pytest.mark.parametrize("angle_rad", [0.0, 1e-9, 1e-4, 1.0, 3.0, np.pi - 1e-6, np.pi])
def test_quaternions_are_unit_and_turn_as_the_matrix_does(angle_rad):
    axis = np.array([2.0, -1.0, 2.0]) / 3
    rotmat = rotvec_to_rotmat(angle_rad * axis)
    w, x, y, z = rotmat_to_quaternion_wxyz(rotmat)
    assert w >= 0 and w * w + x * x + y * y + z * z == pytest.approx(1, abs=1e-9)
    turned = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    assert np.abs(np.array(turned) - rotmat).max() < 1e-7


def test_captured_is_when_the_frame_was_read_by_the_wall_clock(tiny_hand_model):
    before_s = time.time()
    old = replace(_shot(), frame=replace(_shot().frame, arrived_s=time.perf_counter() - 100))
    message = json.loads(shot_to_texts(old, tiny_hand_model)[0])
    assert message["sent_unix_s"] - message["captured_unix_s"] == pytest.approx(100, abs=5)
    assert before_s - 1 <= message["sent_unix_s"] <= time.time() + 1


def test_udp_sends_one_datagram_a_frame(tiny_hand_model, two_hands):
    with _receiver() as receiver, closing(open_stream(f"udp://127.0.0.1:{receiver.getsockname()[1]}", tiny_hand_model)) as sink:
        for index, hands in enumerate(([], two_hands, two_hands[:1])):
            sink.write(_shot(hands, index))
        messages = [json.loads(receiver.recv(65535)) for _ in range(3)]
    assert [(each["frame"], len(each["hands"]), each["parts"]) for each in messages] == [(0, 0, 1), (1, 2, 1), (2, 1, 1)]


def test_udp_over_ipv6(tiny_hand_model):
    try:
        receiver = _receiver(socket.AF_INET6, "::1")
    except OSError:
        pytest.skip("no IPv6 on this machine")
    with receiver, closing(open_stream(f"udp://[::1]:{receiver.getsockname()[1]}", tiny_hand_model)) as sink:
        sink.write(_shot())
        assert json.loads(receiver.recv(65535))["frame"] == 3


def test_more_hands_than_a_datagram_holds_are_split(tiny_hand_model, two_hands):
    hands = [replace(hand, track_id=track_id) for track_id, hand in enumerate(6 * two_hands)]
    texts = shot_to_texts(_shot(hands), tiny_hand_model, MAX_DATAGRAM_BYTES)
    messages = [json.loads(text) for text in texts]
    assert max(map(len, texts)) <= MAX_DATAGRAM_BYTES < len(shot_to_texts(_shot(hands), tiny_hand_model)[0])
    assert [each["part"] for each in messages] == list(range(messages[0]["parts"]))
    assert {each["frame"] for each in messages} == {3}
    assert [hand["track_id"] for each in messages for hand in each["hands"]] == list(range(12))


def test_one_hand_always_fits_into_a_datagram(tiny_hand_model, two_hands):
    far = replace(two_hands[1], keypoints_px=np.full((21, 2), -1.2345678e17), score=1 / 3)
    (text,) = shot_to_texts(_shot([far], 10**9), tiny_hand_model, MAX_DATAGRAM_BYTES)
    assert len(text) <= MAX_DATAGRAM_BYTES


def test_nobody_who_listens_is_no_error(tiny_hand_model):
    with _receiver() as receiver:
        port = receiver.getsockname()[1]
    with closing(open_stream(f"udp://127.0.0.1:{port}", tiny_hand_model)) as sink:
        for index in range(20):
            sink.write(_shot(index=index))


def test_a_full_network_loses_frames_and_makes_nobody_wait(tiny_hand_model, two_hands):
    """Nobody takes these: the system keeps a few hundred kilobytes and forgets the rest."""
    with _receiver() as receiver, closing(open_stream(f"udp://127.0.0.1:{receiver.getsockname()[1]}", tiny_hand_model)) as sink:
        for index in range(300):
            sink.write(_shot(two_hands, index))
        receiver.setblocking(False)
        received = []
        with suppress(BlockingIOError):
            while True:
                received.append(json.loads(receiver.recv(65535))["frame"])
    assert received and received == sorted(received)


@pytest.mark.parametrize("code", ["EAGAIN", "ENETUNREACH", "ENOBUFS"])
def test_a_network_that_is_away_for_a_moment_is_tried_again(monkeypatch, code):
    sender = UdpSender(UdpAddress(socket.AF_INET, ("127.0.0.1", 9000)))
    sent = []

    class Socket:
        def sendto(self, text, address):
            sent.append(text)
            if len(sent) == 1:
                raise OSError(getattr(stream.errno, code), "away")

    monkeypatch.setattr(sender, "_socket", Socket())
    sender.send(b"a")
    sender.send(b"b")
    assert sent == [b"a", b"b"]


def test_an_address_that_the_system_refuses_says_so(monkeypatch):
    sender = UdpSender(UdpAddress(socket.AF_INET, ("127.0.0.1", 9000)))

    class Socket:
        def sendto(self, text, address):
            raise OSError(stream.errno.EACCES, "Permission denied")

    monkeypatch.setattr(sender, "_socket", Socket())
    with pytest.raises(UserError, match=r"127\.0\.0\.1: Permission denied"):
        sender.send(b"a")


@pytest.mark.parametrize(
    "where",
    [
        "udp://127.0.0.1",
        "udp://:9000",
        "udp://127.0.0.1:0",
        "udp://127.0.0.1:99999",
        "udp://127.0.0.1:nine",
        "udp://127.0.0.1:9000/hands",
        "udp://[::1:9000",
        "tcp://127.0.0.1:9000",
        "127.0.0.1:9000",
        "udp://no-such-host.invalid:9000",
        "stderr",
        "",
    ],
)
def test_bad_addresses_are_refused_in_one_line(where, tiny_hand_model):
    with pytest.raises(UserError, match="--stream") as error:
        open_stream(where, tiny_hand_model)
    assert "\n" not in str(error.value)


def test_a_name_with_both_kinds_of_addresses_means_ipv4(monkeypatch):
    found = [(socket.AF_INET6, 2, 17, "", ("::1", 9, 0, 0)), (socket.AF_INET, 2, 17, "", ("127.0.0.1", 9))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    address = parse_stream("udp://here:9")
    assert address is not None and address.address == ("127.0.0.1", 9)


class _Reader:
    """The other end of a pipe, read in a thread or not at all."""

    def __init__(self):
        self.end, self.descriptor = os.pipe()
        self.lines = []
        self._thread = threading.Thread(target=self._read, daemon=True)

    def start(self):
        self._thread.start()

    def join(self):
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), "the writer left its end open"
        return [json.loads(line) for line in self.lines]

    def _read(self):
        with os.fdopen(self.end, "rb") as pipe:
            self.lines = pipe.readlines()


def _padded(index):
    return json.dumps({"frame": index, "padding": "x" * 2000}).encode() + b"\n"


def test_every_line_of_a_file_is_written_however_slow_the_reader():
    reader = _Reader()
    sender = LineSender(reader.descriptor)
    thread = threading.Thread(target=lambda: [sender.send(_padded(index)) for index in range(200)] and sender.close(), daemon=True)
    thread.start()
    # More than a pipe holds: whoever writes waits for the reader.
    thread.join(0.05)
    assert thread.is_alive()
    reader.start()
    assert [line["frame"] for line in reader.join()] == list(range(200))


def test_a_camera_never_waits_for_a_slow_reader_and_the_newest_line_wins():
    reader = _Reader()
    sender = NewestLineSender(reader.descriptor)
    # Nobody reads; were there a wait, this would never end. Were there a queue, all would come out below.
    for index in range(2000):
        sender.send(_padded(index))
    reader.start()
    sender.close()
    frames = [line["frame"] for line in reader.join()]
    assert frames == sorted(set(frames)) and frames[-1] == 1999
    # What a pipe holds (64 kB, or more where pages are larger), a line in hand and one that waits.
    assert len(frames) < 1000


@pytest.mark.parametrize("kind", [LineSender, NewestLineSender])
def test_a_reader_that_leaves_ends_the_run(kind, tiny_hand_model):
    end, descriptor = os.pipe()
    os.close(end)
    with closing(StreamSink(kind(descriptor), tiny_hand_model)) as sink, pytest.raises(ReaderLeft):
        _write_until_it_fails(sink)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("kind", [LineSender, NewestLineSender])
def test_a_full_disk_behind_stdout_is_one_line(kind, tiny_hand_model):
    sender = kind(os.open("/dev/full", os.O_WRONLY))
    with closing(StreamSink(sender, tiny_hand_model)) as sink, pytest.raises(UserError, match=os.strerror(errno.ENOSPC)):
        _write_until_it_fails(sink)


def _write_until_it_fails(sink):
    end_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < end_s:
        sink.write(_shot())
        time.sleep(0.001)


def test_a_reader_that_takes_nothing_does_not_hold_up_the_end(monkeypatch):
    monkeypatch.setattr(stream, "_LAST_LINE_S", 0.01)
    end, descriptor = os.pipe()
    sender = NewestLineSender(descriptor)
    for index in range(200):
        sender.send(_padded(index))
        time.sleep(0.0005)
    sender.close()
    assert sender._thread.is_alive()
    os.close(end)
    sender._thread.join(PATIENCE_S)
    with pytest.raises(OSError) as closed:
        os.fstat(descriptor)
    assert closed.value.errno == errno.EBADF


def test_stdout_carries_the_stream_and_prints_go_elsewhere():
    script = """if True:
        import sys
        from contextlib import redirect_stdout
        import numpy as np
        from handmesh.geometry.camera import camera_from_fov
        from handmesh.hand_model import load_hand_model
        from handmesh.live.sinks import Shot
        from handmesh.live.sources import Frame
        from handmesh.live.stream import open_stream
        with redirect_stdout(sys.stderr):
            sink = open_stream("stdout", load_hand_model("open"))
            print("for people")
            for index in range(3):
                sink.write(Shot(Frame(np.zeros((2, 2, 3), np.uint8), index, index / 10, str(index)), [], camera_from_fov(2, 2, 65)))
            sink.close()
            print("a summary")
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert [json.loads(line)["frame"] for line in done.stdout.splitlines()] == [0, 1, 2]
    assert done.stderr.splitlines() == ["for people", "a summary"]


def test_the_consumer_prints_wrist_and_pinch(tiny_hand_model, two_hands):
    with _receiver() as receiver:
        port = receiver.getsockname()[1]
    with subprocess.Popen([sys.executable, str(CONSUMER), str(port)], stdout=subprocess.PIPE) as consumer:
        try:
            assert consumer.stdout is not None
            lines = io.TextIOWrapper(consumer.stdout)
            assert str(port) in lines.readline()
            with closing(open_stream(f"udp://127.0.0.1:{port}", tiny_hand_model)) as sink:
                sink.write(_shot(two_hands))
            assert select.select([consumer.stdout], [], [], PATIENCE_S)[0]
            printed = [lines.readline(), lines.readline()]
        finally:
            consumer.kill()
    for hand, line in zip(two_hands, printed, strict=True):
        x, y, z = hand.T_camera_wrist[:3, 3]
        pinch_mm = 1e3 * np.linalg.norm(hand.joints_m[4] - hand.joints_m[8])
        assert line.startswith(f"{'right' if hand.is_right else 'left'} hand {hand.track_id}: wrist at {x:+.3f} {y:+.3f} {z:+.3f} m")
        assert f"pinch {pinch_mm:.0f} mm" in line
