"""Every input that must work and every input that must be refused in one line."""

import http.server
import os
import socketserver
import struct
import time
from contextlib import contextmanager
from functools import partial
from itertools import islice
from threading import Event, Thread

import cv2
import numpy as np
import pytest
from PIL import Image

from handmesh.errors import UserError
from handmesh.live import sources
from handmesh.live.background import InBackground
from handmesh.live.sources import LiveSource, VideoSource, open_source, read_picture
from handmesh.quiet import quiet_stderr

ORANGE = (230, 120, 40)
PATIENCE_S = 10.0


def _until(condition) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end_s, "waited in vain"
        time.sleep(0.001)


def _picture(height=30, width=40):
    """Orange with a blue top left corner."""
    image = np.full((height, width, 3), ORANGE, np.uint8)
    image[: height // 3, : width // 4] = (20, 40, 200)
    return image


def _write_video(path, frames=8, size=(64, 48), codec="mp4v"):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 20, size)
    for index in range(frames):
        writer.write(np.full((size[1], size[0], 3), 20 * index, np.uint8))
    writer.release()


def _save_rgb(path):
    Image.fromarray(_picture()).save(path)


def _save_grey(path):
    Image.fromarray(_picture()).convert("L").save(path)


def _save_rgba(path):
    Image.fromarray(_picture()).convert("RGBA").save(path)


def _save_rgb16(path):
    cv2.imwrite(str(path), _picture()[..., ::-1].astype(np.uint16) * 257)


def _save_grey16(path):
    cv2.imwrite(str(path), np.asarray(Image.fromarray(_picture()).convert("L")).astype(np.uint16) * 257)


def _save_cmyk(path):
    Image.fromarray(_picture()).convert("CMYK").save(path, quality=95)


def _save_palette(path):
    Image.fromarray(_picture()).quantize(8).save(path)


@pytest.mark.parametrize(
    ("name", "save", "is_grey"),
    [
        ("rgb.png", _save_rgb, False),
        ("grey.png", _save_grey, True),
        ("grey.jpg", _save_grey, True),
        ("rgba.png", _save_rgba, False),
        ("rgb16.png", _save_rgb16, False),
        ("grey16.png", _save_grey16, True),
        ("grey16.tif", _save_grey16, True),
        ("cmyk.jpg", _save_cmyk, False),
        ("palette.png", _save_palette, False),
        ("ünï çode and space 手.png", _save_rgb, False),
        ("UPPER.PNG", _save_rgb, False),
    ],
)
def test_pictures_of_every_kind_are_read_as_rgb(tmp_path, name, save, is_grey):
    path = tmp_path / name
    save(path)
    (frame,) = list(open_source(str(path), None))
    expected = _picture()
    if is_grey:
        expected = np.repeat(np.asarray(Image.fromarray(expected).convert("L"))[..., None], 3, axis=-1)
    assert frame.image_rgb.dtype == np.uint8 and frame.image_rgb.shape == expected.shape
    middle, corner = (slice(15, 25), slice(20, 35)), (slice(0, 5), slice(0, 5))
    for where in (middle, corner):
        assert np.abs(frame.image_rgb[where].astype(int) - expected[where]).mean() < 6


def test_transparency_becomes_white(tmp_path):
    image = np.zeros((4, 6, 4), np.uint8)
    image[:, 3:] = (*ORANGE, 255)
    Image.fromarray(image).save(tmp_path / "cutout.png")
    seen = read_picture(tmp_path / "cutout.png")
    assert (seen[:, :3] == 255).all() and (seen[:, 3:] == ORANGE).all()


def test_the_high_byte_of_16_bits_is_kept(tmp_path):
    values = np.array([[0, 255, 256, 0x8000, 0xFFFF]], np.uint16)
    cv2.imwrite(str(tmp_path / "ramp.png"), values)
    assert read_picture(tmp_path / "ramp.png")[0, :, 0].tolist() == [0, 0, 1, 128, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path, orientation):
    upright = Image.fromarray(_picture(32, 48))
    # What a camera that was held otherwise would have stored: the inverse of the viewer's operation.
    inverse = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(inverse[orientation]) if orientation in inverse else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "held.png", exif=exif)
    assert (read_picture(tmp_path / "held.png") == np.asarray(upright)).all()


@pytest.mark.parametrize("size", [(1, 700), (700, 1), (1, 1), (6000, 8000)])
def test_pictures_of_extreme_sizes(tmp_path, size):
    Image.new("L", (size[1], size[0]), 200).save(tmp_path / "extreme.png", compress_level=1)
    image = read_picture(tmp_path / "extreme.png")
    assert image.shape == (*size, 3) and (image[0, 0] == 200).all()


def test_a_folder_with_a_bad_file_goes_on_and_counts_it(tmp_path, capsys):
    _save_rgb(tmp_path / "b.png")
    _save_grey(tmp_path / "b.jpg")
    (tmp_path / "a.jpg").write_text("not a picture")
    (tmp_path / "notes.txt").write_text("not meant to be one")
    _save_rgb(tmp_path / ".hidden.png")
    source = open_source(str(tmp_path), None)
    frames = list(source)
    assert source.length == 3 and source.skipped == 1
    assert [frame.index for frame in frames] == [0, 1]
    assert len({frame.name for frame in frames}) == 2, "b.png and b.jpg would overwrite each other's results"
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_video_frames_are_rgb_in_order_with_their_times(tmp_path):
    path = tmp_path / "clip one.mp4"
    _write_video(path)
    source = open_source(str(path), None)
    frames = list(source)
    source.close()
    assert source.is_stream and source.length == 8 and source.frame_rate == pytest.approx(20)
    assert [frame.image_rgb.mean() for frame in frames] == pytest.approx([20 * index for index in range(8)], abs=4)
    assert [frame.time_s for frame in frames] == pytest.approx([index / 20 for index in range(8)], abs=1e-3)


def test_videos_are_rgb(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "red.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 20, (64, 48))
    writer.write(np.full((48, 64, 3), (0, 0, 255), np.uint8))
    writer.release()
    (frame,) = list(open_source(str(tmp_path / "red.mp4"), None))
    assert np.abs(frame.image_rgb.mean(axis=(0, 1)) - (255, 0, 0)).max() < 8


def test_a_variable_frame_rate_keeps_its_times(tmp_path):
    pictures = [Image.fromarray(np.full((40, 60, 3), 30 * index, np.uint8)) for index in range(5)]
    pictures[0].save(tmp_path / "vfr.gif", save_all=True, append_images=pictures[1:], duration=[50, 200, 50, 400, 50])
    times = [frame.time_s for frame in open_source(str(tmp_path / "vfr.gif"), None)]
    assert times == pytest.approx([0, 0.05, 0.25, 0.3, 0.7], abs=1e-3)


@contextmanager
def _http_server(handler):
    with quiet_stderr(), http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(("name", "codec"), [("clip.mp4", "mp4v"), ("clip.avi", "MJPG")])
def test_a_video_behind_a_url_has_an_end(tmp_path, name, codec):
    _write_video(tmp_path / name, codec=codec)
    with _http_server(partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))) as address:
        source = open_source(f"{address}/{name}", None)
        means = [frame.image_rgb.mean() for frame in source]
        source.close()
    assert source.is_stream and not source.is_live
    assert means == pytest.approx([20 * index for index in range(8)], abs=4)


def test_a_phone_that_serves_motion_jpeg_is_waited_for(monkeypatch):
    """multipart/x-mixed-replace, which breaks off after six pictures; the next connection gets lighter ones."""
    monkeypatch.setattr(sources, "RETRY_S", 0.01)
    connections = []

    class Phone(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            connections.append(self.path)
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            grey = np.full((48, 64, 3), 50 * len(connections), np.uint8)
            jpeg = cv2.imencode(".jpg", grey)[1].tobytes()
            for _ in range(6):
                self.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%b\r\n" % (len(jpeg), jpeg))

        def log_message(self, format, *args):
            pass

    with _http_server(Phone) as address:
        source = open_source(f"{address}/video", None)
        assert source.is_live and source.length is None
        frames = []
        for frame in source:
            frames.append(frame)
            if frame.image_rgb.mean() > 140:
                source.close()
    assert len(connections) >= 3
    assert [frame.index for frame in frames] == list(range(len(frames)))
    assert all(np.diff([frame.time_s for frame in frames]) > 0)


class _RtspCamera(socketserver.StreamRequestHandler):
    """Motion JPEG by RTSP (RFC 2326) with RTP in the same connection (RFC 2435), which breaks off after 25 pictures."""

    def handle(self):
        self.server.connections += 1
        while lines := self._request():
            method, url, _ = lines[0].split()
            heads = dict(line.lower().split(": ", 1) for line in lines[1:])
            status, more, body = "200 OK", "Session: 1\r\n", ""
            if method == "OPTIONS":
                more = "Public: DESCRIBE, SETUP, PLAY\r\n"
            elif method == "DESCRIBE":
                body = "v=0\r\no=- 0 0 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\nm=video 0 RTP/AVP 26\r\nc=IN IP4 0.0.0.0\r\na=control:1\r\n"
                more = f"Content-Type: application/sdp\r\nContent-Base: {url}/\r\nContent-Length: {len(body)}\r\n"
            elif method == "SETUP" and "tcp" not in heads["transport"]:
                status = "461 Unsupported Transport"
            elif method == "SETUP":
                more += "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"
            self.wfile.write(f"RTSP/1.0 {status}\r\nCSeq: {heads['cseq']}\r\n{more}\r\n{body}".encode())
            if method == "PLAY":
                self._play()
                return

    def _request(self):
        lines = []
        while line := self.rfile.readline().strip().decode():
            lines.append(line)
        return lines

    def _play(self):
        tables, scan = _parts_of_jpeg(cv2.imencode(".jpg", np.full((48, 64, 3), 50 * self.server.connections, np.uint8))[1].tobytes())
        # Offset, type (4:2:0), Q (255: tables follow), width and height in blocks.
        picture = struct.pack(">IBBBB", 0, 1, 255, 64 // 8, 48 // 8) + struct.pack(">HH", 0, len(tables)) + tables + scan
        for index in range(25):
            packet = struct.pack(">BBHII", 0x80, 0x80 | 26, index, 3000 * index, 1) + picture
            self.wfile.write(b"$" + struct.pack(">BH", 0, len(packet)) + packet)


def _parts_of_jpeg(jpeg):
    """Its tables of quantisation, and the data of its scan."""
    tables, at = b"", 2
    while True:
        marker, size = struct.unpack(">HH", jpeg[at : at + 4])
        body = jpeg[at + 4 : at + 2 + size]
        at += 2 + size
        if marker == 0xFFDB:
            tables += b"".join(body[start + 1 : start + 65] for start in range(0, len(body), 65))
        elif marker == 0xFFDA:
            return tables, jpeg[at:-2]


def test_a_network_camera_that_breaks_off_is_waited_for(monkeypatch, capsys):
    monkeypatch.setattr(sources, "RETRY_S", 0.01)
    with quiet_stderr(), socketserver.ThreadingTCPServer(("127.0.0.1", 0), _RtspCamera) as server:
        server.daemon_threads, server.connections = True, 0
        Thread(target=server.serve_forever, daemon=True).start()
        source = open_source(f"rtsp://127.0.0.1:{server.server_address[1]}/camera", None)
        frames = []
        for frame in source:
            frames.append(frame)
            if frame.image_rgb.mean() > 140:
                source.close()
        server.shutdown()
    assert source.is_live and server.connections == 3
    # Decoders differ by a shade or two.
    assert {10 * round(frame.image_rgb.mean() / 10) for frame in frames} == {50, 100, 150}
    assert all(np.diff([frame.time_s for frame in frames]) > 0)
    assert sum(line.endswith("is back") for line in capsys.readouterr().err.splitlines()) == 2


class _Described:
    """What FFmpeg says of a stream."""

    def __init__(self, frames, codec, fps=25.0):
        self.said = {cv2.CAP_PROP_FRAME_COUNT: frames, cv2.CAP_PROP_FOURCC: cv2.VideoWriter.fourcc(*codec), cv2.CAP_PROP_FPS: fps}

    def isOpened(self):
        return True

    def get(self, propId, /):
        return float(self.said.get(propId, 0))

    def grab(self):
        return True

    def retrieve(self):
        return True, np.zeros((8, 8, 3), np.uint8)

    def release(self):
        pass


UNKNOWN = -(2.0**63)


@pytest.mark.parametrize(
    ("url", "frames", "codec", "is_live"),
    [
        ("http://phone:8080/video", UNKNOWN, "MJPG", True),
        ("https://phone/video", 0, "MJPG", True),
        ("http://host/clip.mp4", 90, "avc1", False),
        ("http://host/clip.avi", 90, "MJPG", False),
        ("http://host/unknown.webm", UNKNOWN, "VP80", False),
        ("rtsp://camera/1", UNKNOWN, "avc1", True),
        ("rtsp://camera/1", 0, "MJPG", True),
        ("rtsp://host/recording", 90, "avc1", False),
    ],
)
def test_what_a_url_is(monkeypatch, url, frames, codec, is_live):
    monkeypatch.setattr(sources.cv2, "VideoCapture", lambda *_: _Described(frames, codec))
    assert open_source(url, None).is_live == is_live


def test_a_looped_video_goes_on_over_the_seam(tmp_path):
    _write_video(tmp_path / "clip.mp4")
    source = open_source(str(tmp_path / "clip.mp4"), None, loops=True)
    frames = list(islice(source, 27))
    source.close()
    assert source.length is None and not source.is_live
    assert [frame.index for frame in frames] == list(range(27))
    assert [frame.time_s for frame in frames] == pytest.approx([index / 20 for index in range(27)], abs=1e-3)
    assert [frame.image_rgb.mean() for frame in frames] == pytest.approx([20 * (index % 8) for index in range(27)], abs=4)
    assert len({frame.name for frame in frames}) == 27


def test_a_looped_video_of_a_variable_frame_rate_never_goes_back_in_time(tmp_path):
    pictures = [Image.fromarray(np.full((40, 60, 3), 30 * index, np.uint8)) for index in range(3)]
    pictures[0].save(tmp_path / "vfr.gif", save_all=True, append_images=pictures[1:], duration=[50, 400, 50])
    source = open_source(str(tmp_path / "vfr.gif"), None, loops=True)
    times = [frame.time_s for frame in islice(source, 12)]
    source.close()
    assert np.diff(times).min() > 0.04
    # Each time through has the gaps of the first.
    assert np.diff(times[:3]) == pytest.approx(np.diff(times[9:]), abs=1e-6)


def test_a_video_that_is_gone_at_the_seam_says_so(tmp_path):
    """Rather than looking for it without end."""
    _write_video(tmp_path / "clip.mp4")
    source = open_source(str(tmp_path / "clip.mp4"), None, loops=True)
    frames = iter(source)
    for _ in range(8):
        next(frames)
    (tmp_path / "clip.mp4").unlink()
    with pytest.raises(UserError, match="clip.mp4"):
        next(frames)


def test_a_loop_holds_one_decoder_at_a_time():
    opened = []

    def open_capture():
        opened.append(_Camera(3))
        return opened[-1]

    source = VideoSource(open_capture(), "clip", open_capture)
    # A picture was taken from the first to see whether there is one; it comes out as the first frame.
    assert len(list(islice(source, 30))) == 30
    assert len(opened) == 10 and all(each.is_released for each in opened[:-1])
    source.close()
    assert opened[-1].is_released


def _is_a_picture(folder):
    _save_rgb(folder / "a.png")
    return str(folder / "a.png"), None


def _is_a_folder(folder):
    _save_rgb(folder / "a.png")
    return str(folder), None


def _is_a_camera(_folder):
    return None, 0


def _is_a_url(_folder):
    return "http://127.0.0.1:9/video", None


@pytest.mark.parametrize("make", [_is_a_picture, _is_a_folder, _is_a_camera, _is_a_url])
def test_only_a_video_file_is_looped(tmp_path, make):
    where, camera = make(tmp_path)
    with pytest.raises(UserError, match="--loop needs a video file") as error:
        open_source(where, camera, loops=True)
    assert "\n" not in str(error.value)


def _missing(folder):
    return folder / "nothing.jpg"


def _missing_video(folder):
    return folder / "nothing.mp4"


def _no_pictures(folder):
    (folder / "notes.txt").write_text("nothing here")
    return folder


def _only_bad_pictures(folder):
    for name in ("a.png", "b.png"):
        (folder / name).write_text("text")
    return folder


def _text_as_jpg(folder):
    (folder / "text.jpg").write_text("I am text")
    return folder / "text.jpg"


def _empty_jpg(folder):
    (folder / "empty.jpg").touch()
    return folder / "empty.jpg"


def _truncated(suffix):
    def make(folder):
        noise = np.random.default_rng(0).integers(0, 255, (80, 80, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"whole{suffix}")
        data = (folder / f"whole{suffix}").read_bytes()
        (folder / f"cut{suffix}").write_bytes(data[: len(data) // 2])
        return folder / f"cut{suffix}"

    return make


def _empty_video(folder):
    (folder / "empty.mp4").touch()
    return folder / "empty.mp4"


def _text_as_video(folder):
    (folder / "text.mp4").write_text("I am text" * 100)
    return folder / "text.mp4"


def _too_large(width, height):
    def make(folder):
        Image.new("1", (width, height)).save(folder / "large.png")
        # Only the header is left: the size must be refused before anything is decoded.
        (folder / "large.png").write_bytes((folder / "large.png").read_bytes()[:200])
        return folder / "large.png"

    return make


def _refused_url(_folder):
    return "http://127.0.0.1:9/stream"


def _unknown_host(_folder):
    return "rtsp://no-such-host.invalid/stream"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_missing, "does not exist"),
        (_missing_video, "does not exist"),
        (_no_pictures, "found none"),
        (_only_bad_pictures, "none of its 2 files"),
        (_text_as_jpg, "not a picture"),
        (_empty_jpg, "not a picture"),
        (_truncated(".jpg"), "cut.jpg"),
        (_truncated(".png"), "cut.png"),
        (_empty_video, "0 bytes"),
        (_text_as_video, "no frame"),
        (_too_large(11000, 10000), "at most 100 megapixels"),
        (_too_large(20000, 10000), "at most 100 megapixels"),
        (_refused_url, "cannot be opened"),
        (_unknown_host, "cannot be opened"),
    ],
)
def test_bad_inputs_are_refused_in_one_line(tmp_path, capfd, make, says):
    where = make(tmp_path)
    with pytest.raises(UserError, match=says) as error:
        list(open_source(str(where), None))
    assert "\n" not in str(error.value)
    lines = capfd.readouterr().err.splitlines()
    assert all(line.startswith("skipped: ") for line in lines), "a library wrote on the terminal"


def test_no_such_camera(capfd):
    with pytest.raises(UserError, match="camera 93"):
        open_source(None, 93)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("where", "camera"), [("x.png", 0), (None, None)])
def test_exactly_one_input(where, camera):
    with pytest.raises(UserError, match="one of"):
        open_source(where, camera)


class _Camera:
    """Sends some pictures, then nothing; or waits in its driver for as long as it is told."""

    def __init__(self, pictures, opens=True, hangs_until=None):
        self.left = pictures
        self.opens = opens
        self.hangs_until = hangs_until
        self.is_hanging = False
        self.is_released = False
        self.was_released_while_reading = False

    def isOpened(self):
        return self.opens

    def get(self, propId, /):
        return 0.0

    def grab(self):
        self.left -= 1
        if self.left < 0 and self.hangs_until is not None:
            self.is_hanging = True
            self.hangs_until.wait(PATIENCE_S)
            self.is_hanging = False
        return self.left >= 0

    def retrieve(self):
        return True, np.zeros((8, 8, 3), np.uint8)

    def release(self):
        self.was_released_while_reading |= self.is_hanging
        self.is_released = True


class _Port:
    """Where a camera is plugged in: gives one after the other, the last one for ever."""

    def __init__(self, *cameras):
        self.cameras = list(cameras)
        self.opened = []

    def __call__(self):
        self.opened.append(self.cameras.pop(0) if self.cameras else _Camera(0, opens=False))
        return self.opened[-1]


def test_a_camera_that_comes_back_goes_on(capsys):
    port = _Port(_Camera(2), _Camera(0, opens=False), _Camera(0), _Camera(0, opens=False), _Camera(3))
    source = LiveSource(port, "camera 0", patience_s=0.0, retry_s=0.001)
    frames = list(islice(source, 5))
    times = [frame.time_s for frame in frames]
    assert [frame.index for frame in frames] == list(range(5))
    assert times[0] == 0 and all(np.diff(times) > 0)
    assert times[2] - times[1] >= 3 * 0.001, "time went on while it was away"
    assert all(camera.is_released for camera in port.opened[:-1]) and not port.opened[-1].is_released
    source.close()
    assert port.opened[-1].is_released
    assert capsys.readouterr().err.splitlines() == [
        "camera 0 stopped sending pictures; waiting for it, Ctrl-C ends",
        "camera 0 is back",
    ]


def test_a_camera_that_never_sends_a_picture_says_so():
    port = _Port(_Camera(0))
    with pytest.raises(UserError, match="camera 0, but it opens and sends none"):
        next(iter(LiveSource(port, "camera 0", patience_s=0.02, retry_s=0.001)))
    assert all(camera.is_released for camera in port.opened)


def test_a_camera_that_does_not_open_at_the_start_is_refused_and_released():
    port = _Port()
    with pytest.raises(UserError, match="camera 0, but it cannot be opened"):
        LiveSource(port, "camera 0")
    assert len(port.opened) == 1 and port.opened[0].is_released


def test_closing_ends_the_wait_for_a_camera_at_once():
    """The next attempt is an hour away: neither is it made, nor is it waited for."""
    port = _Port(_Camera(1))
    source = LiveSource(port, "camera 0", retry_s=3600)
    with InBackground(source, newest_only=True, patience_s=PATIENCE_S) as frames:
        assert next(frames).index == 0
        _until(lambda: port.opened[0].is_released)
        assert frames.take(0.001) is None
        source.close()
        assert list(frames) == []
    assert not frames._thread.is_alive() and len(port.opened) == 1


def test_a_camera_that_hangs_in_its_driver_holds_nobody_up(monkeypatch):
    """It cannot be interrupted, and must not be released under its reader's hands, who does so in the end."""
    monkeypatch.setattr(sources, "_CLOSE_PATIENCE_S", 0.01)
    let_go = Event()
    camera = _Camera(1, hangs_until=let_go)
    source = LiveSource(_Port(camera), "camera 0")
    frames = InBackground(source, newest_only=True, patience_s=0.01)
    assert next(frames).index == 0
    _until(lambda: camera.is_hanging)
    source.close()
    frames.close()
    assert frames._thread.is_alive() and not camera.is_released
    let_go.set()
    frames._thread.join(PATIENCE_S)
    assert camera.is_released and not camera.was_released_while_reading


def test_a_video_can_be_closed_by_another_thread(tmp_path):
    _write_video(tmp_path / "clip.mp4")
    source = open_source(str(tmp_path / "clip.mp4"), None, loops=True)
    with InBackground(source, ahead=2) as frames:
        next(frames)
        source.close()
        # Two wait, one is in hand.
        assert len(list(frames)) <= 3


def test_a_slow_reader_of_a_camera_gets_its_newest_picture():
    camera = _Camera(500)
    source = LiveSource(_Port(camera), "camera 0", retry_s=3600)
    with InBackground(source, newest_only=True) as frames:
        _until(lambda: camera.is_released)
        assert next(frames).index == 499
        assert frames.take(0.001) is None, "an older picture waited"
        source.close()


def test_quiet_stderr_is_quiet_only_inside(capfd):
    with quiet_stderr():
        os.write(2, b"noise\n")
    os.write(2, b"signal\n")
    assert capfd.readouterr().err == "signal\n"
