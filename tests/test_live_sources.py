"""Every input that must work and every input that must be refused in one line."""

import http.server
import os
from functools import partial
from threading import Thread

import cv2
import numpy as np
import pytest
from PIL import Image

from handmesh.errors import UserError
from handmesh.live.sources import LiveSource, open_source, read_picture
from handmesh.quiet import quiet_stderr

ORANGE = (230, 120, 40)


def _picture(height=30, width=40):
    """Orange with a blue top left corner."""
    image = np.full((height, width, 3), ORANGE, np.uint8)
    image[: height // 3, : width // 4] = (20, 40, 200)
    return image


def _write_video(path, frames=8, size=(64, 48)):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 20, size)
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


def test_a_video_behind_a_url_has_an_end(tmp_path):
    _write_video(tmp_path / "clip.mp4")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with quiet_stderr(), http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        source = open_source(f"http://127.0.0.1:{server.server_port}/clip.mp4", None)
        means = [frame.image_rgb.mean() for frame in source]
        source.close()
        server.shutdown()
    assert source.is_stream and not source.is_live
    assert means == pytest.approx([20 * index for index in range(8)], abs=4)


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
    """Sends some pictures, then nothing."""

    def __init__(self, pictures, opens=True):
        self.left = pictures
        self.opens = opens
        self.is_released = False

    def isOpened(self):
        return self.opens

    def get(self, propId, /):
        return 0.0

    def grab(self):
        self.left -= 1
        return self.left >= 0

    def retrieve(self):
        return True, np.zeros((8, 8, 3), np.uint8)

    def release(self):
        self.is_released = True


def test_a_camera_that_comes_back_goes_on():
    cameras = [_Camera(2), _Camera(0), _Camera(3)]
    opened = iter(cameras)
    frames = iter(LiveSource(lambda: next(opened), "camera 0", patience_s=1.0))
    times = [next(frames).time_s for _ in range(5)]
    assert times[0] == 0 and all(np.diff(times) >= 0)
    assert cameras[0].is_released and cameras[1].is_released


def test_a_camera_that_is_lost_for_good_says_so():
    cameras = iter([_Camera(2), *[_Camera(0, opens=False) for _ in range(100)]])
    frames = iter(LiveSource(lambda: next(cameras), "camera 0", patience_s=0.1))
    assert [next(frames).index for _ in range(2)] == [0, 1]
    with pytest.raises(UserError, match="camera 0 stopped"):
        next(frames)


def test_quiet_stderr_is_quiet_only_inside(capfd):
    with quiet_stderr():
        os.write(2, b"noise\n")
    os.write(2, b"signal\n")
    assert capfd.readouterr().err == "signal\n"
