"""Where pictures come from: a picture file, a folder, a video, a camera or a URL. All are RGB, upright, one `Frame` at a time."""

from __future__ import annotations

import os
import re
import struct
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from PIL import Image, ImageOps

from handmesh.errors import UserError, one_line
from handmesh.quiet import quiet_stderr

PICTURE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".avif", ".jp2"))
MAX_MEGAPIXELS = 100
# OpenCV warps no larger ones.
MAX_SIDE_PX = 32_000
URL_TIMEOUT_S = 5
# A camera that opens but sends nothing for this long is the wrong one.
FIRST_PICTURE_PATIENCE_S = 5.0
# How often it is looked whether a camera is back.
RETRY_S = 0.5
# Who closes a source waits no longer than this for native code that cannot be interrupted.
_CLOSE_PATIENCE_S = 0.5
_ASSUMED_FRAME_RATE = 30.0


@dataclass(frozen=True)
class Frame:
    """One picture of a source.

    Attributes:
        image_rgb: (H, W, 3) uint8, upright, never mirrored.
        index: 0, 1, ...
        time_s: since the source's first frame; grows in streams, 0 for pictures.
        name: what files made from it are called; unique within the source.
        arrived_s: when it had been read, by `time.perf_counter`.
    """

    image_rgb: np.ndarray
    index: int
    time_s: float
    name: str
    arrived_s: float = field(default_factory=time.perf_counter)


class Source(Protocol):
    """Iterate once, then close. `close` may be called by any thread, also while another one iterates, which then comes to its end.

    Attributes:
        label: what the user called it.
        is_stream: frames follow each other in time; False for separate pictures.
        is_live: frames come when they come, and nobody knows how many.
        length: number of frames, if known.
        frame_rate: frames per second; the mean where it varies. 0 for pictures.
        skipped: files that could not be read so far.
    """

    label: str
    is_stream: bool
    is_live: bool
    length: int | None
    frame_rate: float
    skipped: int

    def __iter__(self) -> Iterator[Frame]: ...

    def close(self) -> None: ...


class Capture(Protocol):
    """What is used of a `cv2.VideoCapture`."""

    def isOpened(self) -> bool: ...

    def get(self, propId: int, /) -> float: ...

    def grab(self) -> bool: ...

    def retrieve(self) -> tuple[bool, np.ndarray]: ...

    def release(self) -> None: ...


def open_source(
    where: str | None,
    camera: int | str | None,
    size_px: tuple[int, int] | None = None,
    frame_rate: float | None = None,
    loops: bool = False,
) -> Source:
    """The source that a user asked for.

    Args:
        where: picture, folder, video or URL.
        camera: index or device path of a camera; exactly one of `where` and `camera` is given.
        size_px, frame_rate: what to ask the camera for.
        loops: play a video file again and again.

    Raises:
        UserError: there is nothing to read there.
    """
    if (where is None) == (camera is None):
        raise UserError("expected one of --input and --camera, got both; leave one out")
    silence_opencv()
    if loops and (camera is not None or (where is not None and _is_url(where))):
        raise UserError(f"--loop needs a video file for --input, got {where or f'camera {camera}'}; leave --loop out")
    if camera is not None:
        if isinstance(camera, str) and _is_url(camera):
            if size_px or frame_rate:
                raise UserError("--size and --fps are asked of a camera; leave them out with a URL")
            return open_url(camera)
        return open_camera(camera, size_px, frame_rate)
    assert where is not None
    if size_px or frame_rate:
        raise UserError("--size and --fps are asked of a camera; leave them out with --input")
    if _is_url(where):
        return open_url(where)
    path = Path(where).expanduser()
    try:
        is_there, is_folder = path.exists(), path.is_dir()
        pictures = sorted(file for file in path.iterdir() if _is_picture_name(file)) if is_folder else []
    except OSError as error:
        raise UserError(f"expected a picture, folder, video or URL, but it cannot be opened: {error.strerror}; check the path") from error
    if loops and (is_folder or path.suffix.lower() in PICTURE_SUFFIXES):
        raise UserError(f"--loop needs a video file for --input, got {path}; leave --loop out")
    if is_folder:
        if not pictures:
            raise UserError(f"expected pictures in the folder {path}, found none; known endings: {' '.join(sorted(PICTURE_SUFFIXES))}")
        return PictureSource(pictures, str(path))
    if not is_there:
        raise UserError(f"expected a picture, folder, video or URL, but {path} does not exist; check the path")
    if path.suffix.lower() in PICTURE_SUFFIXES:
        return PictureSource([path], str(path))
    return open_video(path, loops)


class PictureSource:
    """Picture files, one after the other. A bad one among several is skipped with a line; a bad one alone raises."""

    is_stream = False
    is_live = False
    frame_rate = 0.0

    def __init__(self, paths: list[Path], label: str) -> None:
        self.label = label
        self.length: int | None = len(paths)
        self.skipped = 0
        self._paths = paths
        # Read at once, so that a bad picture is refused before a network is loaded.
        self._only = read_picture(paths[0]) if len(paths) == 1 else None

    def __iter__(self) -> Iterator[Frame]:
        names = Counter(path.stem.lower() for path in self._paths)
        index = 0
        for path in self._paths:
            try:
                image_rgb = read_picture(path) if self._only is None else self._only
            except UserError as error:
                self.skipped += 1
                print(f"skipped: {error}", file=sys.stderr)
                continue
            is_unique = names[path.stem.lower()] == 1
            yield Frame(image_rgb, index, 0.0, path.stem if is_unique else path.name.replace(".", "_"))
            index += 1
        if index == 0:
            raise UserError(f"expected pictures in {self.label}, but none of its {self.skipped} files can be read; see the lines above")

    def close(self) -> None:
        """Nothing stays open."""


class VideoSource:
    """A video with an end, and the time stamps that are in it (so a variable frame rate keeps its timing).

    Args:
        capture: of the video, at its start.
        label: what to call it in messages.
        open_again: opens the video anew; given, it is played again and again. Index and time go on over the seam.

    Raises:
        UserError: not one frame can be read.
    """

    is_stream = True
    is_live = False
    skipped = 0

    def __init__(self, capture: Capture, label: str, open_again: Callable[[], Capture] | None = None) -> None:
        if not capture.isOpened() or not capture.grab():
            capture.release()
            raise UserError(f"expected a picture or a video, but no frame of {label} can be read; try converting it to mp4 or png")
        self.label = label
        count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.length = int(count) if _is_count(count) and open_again is None else None
        self.frame_rate = _frame_rate(capture)
        self._video = _SharedCapture(capture)
        self._open_again = open_again

    def __iter__(self) -> Iterator[Frame]:
        step_s = 1 / self.frame_rate
        index, last_s, start_s = 0, -step_s, 0.0
        while True:
            first = index
            for image_bgr, its_s in self._play(is_grabbed=index == 0):
                if index == first > 0:
                    start_s = last_s + step_s - its_s
                time_s = start_s + its_s
                last_s = time_s if time_s > last_s else last_s + step_s
                yield Frame(cv2.cvtColor(image_bgr, cv2.COLOR_BGR2RGB), index, last_s, f"{index:06d}")
                index += 1
            if self._video.is_closed:
                return
            if index == first:
                raise UserError(f"expected a video, but no frame of {self.label} can be decoded; try converting it to mp4")
            if self._open_again is None:
                return
            self._video.replace(self._open_again)

    def close(self) -> None:
        """Release the decoder."""
        self._video.close()

    def _play(self, is_grabbed: bool) -> Iterator[tuple[np.ndarray, float]]:
        """Pictures in OpenCV's BGR and their own times in seconds, once through."""
        while True:
            with self._video.reading() as capture:
                if capture is None or not (is_grabbed or capture.grab()):
                    return
                is_grabbed = False
                found, image_bgr = capture.retrieve()
                time_s = capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3
            if not found:
                return
            yield image_bgr, time_s


class LiveSource:
    """A camera or network stream. Frames carry the time at which they arrived.

    One that falls silent is waited for without limit, and time goes on meanwhile: `close` ends the wait at once.

    Args:
        open_capture: opens the device; called again when it falls silent.
        label: what to call it in messages.
        patience_s: how long to try for the first picture.
        retry_s: how long to wait before each attempt to open it again; None for `RETRY_S`.

    Raises:
        UserError: it does not open, or (while iterating) it never sends a picture.
    """

    is_stream = True
    is_live = True
    skipped = 0
    length: int | None = None

    def __init__(
        self,
        open_capture: Callable[[], Capture],
        label: str,
        patience_s: float = FIRST_PICTURE_PATIENCE_S,
        retry_s: float | None = None,
    ) -> None:
        capture = open_capture()
        if not capture.isOpened():
            capture.release()
            raise UserError(
                f"expected a camera or stream at {label}, but it cannot be opened; check that it exists and nothing else uses it"
            )
        self.label = label
        self.frame_rate = _frame_rate(capture)
        self._device = _SharedCapture(capture)
        self._open_capture = open_capture
        self._patience_s = patience_s
        self._retry_s = RETRY_S if retry_s is None else retry_s

    def __iter__(self) -> Iterator[Frame]:
        index, start_s = 0, None
        while True:
            image_bgr = self._device.grab()
            if image_bgr is None:
                image_bgr = self._wait_for_it(was_there=index > 0)
            if image_bgr is None:
                return
            now_s = time.monotonic()
            start_s = now_s if start_s is None else start_s
            yield Frame(cv2.cvtColor(image_bgr, cv2.COLOR_BGR2RGB), index, now_s - start_s, f"{index:06d}")
            index += 1

    def close(self) -> None:
        """Release the device. Native code that still waits for a picture is left to itself after half a second; its thread releases it."""
        self._device.close()

    def _wait_for_it(self, was_there: bool) -> np.ndarray | None:
        """The next picture, whenever it comes; None when the source is closed meanwhile."""
        image_bgr = None
        give_up_s = time.monotonic() + self._patience_s
        if was_there and not self._device.is_closed:
            print(f"{self.label} stopped sending pictures; waiting for it, Ctrl-C ends", file=sys.stderr)
        while image_bgr is None:
            if not was_there and time.monotonic() > give_up_s:
                raise UserError(f"expected pictures from {self.label}, but it opens and sends none; check what it is and start again")
            # A driver gives an unplugged device's number away again only when nobody holds it.
            self._device.release()
            if self._device.wait_until_closed(self._retry_s):
                return None
            self._device.replace(self._open_capture)
            image_bgr = self._device.grab()
        if was_there:
            print(f"{self.label} is back", file=sys.stderr)
        return image_bgr


class _SharedCapture:
    """A capture that one thread reads and any thread may close: a decoder must not go away in the middle of a picture."""

    def __init__(self, capture: Capture) -> None:
        self._capture = capture
        self._lock = threading.Lock()
        self._closed = threading.Event()

    @property
    def is_closed(self) -> bool:
        return self._closed.is_set()

    @contextmanager
    def reading(self) -> Iterator[Capture | None]:
        """The capture, which nobody takes away for the body of a `with`; None once closed."""
        with self._lock:
            try:
                yield None if self.is_closed else self._capture
            finally:
                if self.is_closed:
                    self._capture.release()

    def grab(self) -> np.ndarray | None:
        """The next picture in OpenCV's BGR, if there is one."""
        with self.reading() as capture:
            if capture is None or not capture.grab():
                return None
            found, image_bgr = capture.retrieve()
            return image_bgr if found else None

    def replace(self, open_capture: Callable[[], Capture]) -> None:
        """Release the capture and open another one, unless closed."""
        with self.reading() as capture:
            if capture is None:
                return
            capture.release()
            self._capture = open_capture()
            if not self._capture.isOpened():
                self._capture.release()

    def release(self) -> None:
        """Give the device back."""
        with self._lock:
            self._capture.release()

    def wait_until_closed(self, timeout_s: float) -> bool:
        """Sleep, but no longer than until `close`; True when closed."""
        return self._closed.wait(timeout_s)

    def close(self) -> None:
        """Release the capture; who is reading it now and does not come back in time does so."""
        patience_s = 0.0 if self.is_closed else _CLOSE_PATIENCE_S
        self._closed.set()
        if self._lock.acquire(timeout=patience_s):
            try:
                self._capture.release()
            finally:
                self._lock.release()


def open_video(path: Path, loops: bool = False) -> VideoSource:
    """A video file, played once or again and again."""

    def open_capture() -> Capture:
        return cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)

    try:
        is_empty = path.stat().st_size == 0
        path.open("rb").close()
    except OSError as error:
        raise UserError(f"expected a video that can be read, but {path}: {error.strerror}") from error
    if is_empty:
        raise UserError(f"expected a video, but {path} is empty (0 bytes); copy it again")
    with quiet_stderr():
        capture = open_capture()
    return VideoSource(capture, str(path), open_capture if loops else None)


def open_camera(camera: int | str, size_px: tuple[int, int] | None = None, frame_rate: float | None = None) -> LiveSource:
    """A camera by index (0 is the first) or device path, asked for a size (width, height) and frames per second."""

    def open_capture() -> cv2.VideoCapture:
        capture = cv2.VideoCapture(camera)
        if size_px is not None:
            capture.set(cv2.CAP_PROP_FRAME_WIDTH, size_px[0])
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size_px[1])
        if frame_rate is not None:
            capture.set(cv2.CAP_PROP_FPS, frame_rate)
        return capture

    # Only now: later openings happen in a thread, and what others write must not be lost. OpenCV's own lines are off (`silence_opencv`).
    with quiet_stderr():
        return LiveSource(open_capture, f"camera {camera}")


def open_url(url: str) -> Source:
    """What FFmpeg finds behind a URL.

    A known number of frames makes it a video. Without one, rtsp and all else that streams is live; over http only motion JPEG is (what
    phones and network cameras serve): anything else is a video that ends where it ends, and is not opened again and again.
    """
    timeout_ms = 1000 * URL_TIMEOUT_S
    timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, timeout_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, timeout_ms]

    def open_capture() -> cv2.VideoCapture:
        return cv2.VideoCapture(url, cv2.CAP_FFMPEG, timeouts)

    with quiet_stderr():
        first = open_capture()
    if first.isOpened() and _has_an_end(first, url):
        return VideoSource(first, url)
    captures = chain([first], iter(open_capture, None))
    return LiveSource(lambda: next(captures), url)


def read_picture(path: str | Path) -> np.ndarray:
    """Read any common picture file.

    Grey and palette become RGB, CMYK is converted, the high byte of 16-bit values is kept, transparency is laid
    over white, and EXIF's rotation is applied.

    Returns:
        (H, W, 3) uint8 RGB, upright.

    Raises:
        UserError: missing, not a picture, damaged, or beyond `MAX_MEGAPIXELS` (found from the header, before decoding).
    """
    path = Path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns from 89 megapixels on and about odd EXIF
            with Image.open(path) as picture:
                megapixels = picture.width * picture.height / 1e6
                if megapixels > MAX_MEGAPIXELS or max(picture.size) > MAX_SIDE_PX:
                    raise UserError(_too_large(path, f"{megapixels:.0f}"))
                return _to_rgb(ImageOps.exif_transpose(picture))
    except Image.DecompressionBombError as error:
        raise UserError(_too_large(path, "far more")) from error
    except FileNotFoundError as error:
        raise UserError(f"expected a picture, but {path} does not exist; check the path") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        reason = "it is not a picture" if isinstance(error, Image.UnidentifiedImageError) else one_line(error)
        raise UserError(f"expected a picture that can be read, but {path}: {reason}; convert it to png or copy it again") from error


def silence_opencv() -> None:
    """Stop OpenCV and FFmpeg from writing on the terminal; a user's own environment variables win."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    if "OPENCV_LOG_LEVEL" not in os.environ:
        # OpenCV 4.12 moved it.
        logging: Any = cv2 if hasattr(cv2, "setLogLevel") else cv2.utils.logging  # pyright: ignore[reportAttributeAccessIssue]
        logging.setLogLevel(0)


def _to_rgb(picture: Image.Image) -> np.ndarray:
    if picture.mode.startswith("I"):
        grey = np.clip(np.asarray(picture) >> 8, 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    if picture.has_transparency_data:
        colours = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours)
    return np.array(picture.convert("RGB"))


def _too_large(path: Path, megapixels: str) -> str:
    return f"expected at most {MAX_MEGAPIXELS} megapixels, but {path} has {megapixels}; make it smaller"


def _is_picture_name(path: Path) -> bool:
    return path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _is_url(where: str) -> bool:
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", where) is not None


def _has_an_end(capture: Capture, url: str) -> bool:
    if _is_count(capture.get(cv2.CAP_PROP_FRAME_COUNT)):
        return True
    is_mjpeg = int(capture.get(cv2.CAP_PROP_FOURCC)) == cv2.VideoWriter.fourcc(*"MJPG")
    return url.lower().startswith(("http:", "https:")) and not is_mjpeg


def _is_count(count: float) -> bool:
    """FFmpeg says 0 or nonsense where it does not know."""
    return 0 < count < 1e9


def _frame_rate(capture: Capture) -> float:
    rate = capture.get(cv2.CAP_PROP_FPS)
    return rate if 0.1 < rate < 1000 else _ASSUMED_FRAME_RATE
