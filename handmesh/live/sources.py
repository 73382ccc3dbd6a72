"""Where pictures come from: a picture file, a folder, a video, a camera or a URL. All are RGB, upright, one `Frame` at a time."""

from __future__ import annotations

import os
import re
import struct
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
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
# A camera that is silent for this long is gone.
CAMERA_PATIENCE_S = 3.0
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
    """Iterate once, then close.

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
    where: str | None, camera: int | str | None, size_px: tuple[int, int] | None = None, frame_rate: float | None = None
) -> Source:
    """The source that a user asked for.

    Args:
        where: picture, folder, video or URL.
        camera: index or device path of a camera; exactly one of `where` and `camera` is given.
        size_px, frame_rate: what to ask the camera for.

    Raises:
        UserError: there is nothing to read there.
    """
    if (where is None) == (camera is None):
        raise UserError("expected one of --input and --camera, got both; leave one out")
    silence_opencv()
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
    if is_folder:
        if not pictures:
            raise UserError(f"expected pictures in the folder {path}, found none; known endings: {' '.join(sorted(PICTURE_SUFFIXES))}")
        return PictureSource(pictures, str(path))
    if not is_there:
        raise UserError(f"expected a picture, folder, video or URL, but {path} does not exist; check the path")
    if path.suffix.lower() in PICTURE_SUFFIXES:
        return PictureSource([path], str(path))
    return open_video(path)


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

    Raises:
        UserError: not one frame can be read.
    """

    is_stream = True
    is_live = False
    skipped = 0

    def __init__(self, capture: Capture, label: str) -> None:
        if not capture.isOpened() or not capture.grab():
            raise UserError(f"expected a picture or a video, but no frame of {label} can be read; try converting it to mp4 or png")
        self.label = label
        self._capture = capture
        count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.length = int(count) if _is_count(count) else None
        self.frame_rate = _frame_rate(capture)

    def __iter__(self) -> Iterator[Frame]:
        index, last_s = 0, -1 / self.frame_rate
        # The first frame was grabbed to see whether there is one.
        found, image_bgr = self._capture.retrieve()
        if not found:
            raise UserError(f"expected a video, but no frame of {self.label} can be decoded; try converting it to mp4")
        while found:
            time_s = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3
            last_s = time_s if time_s > last_s else last_s + 1 / self.frame_rate
            yield Frame(cv2.cvtColor(image_bgr, cv2.COLOR_BGR2RGB), index, last_s, f"{index:06d}")
            index += 1
            if not self._capture.grab():
                break
            found, image_bgr = self._capture.retrieve()

    def close(self) -> None:
        """Release the decoder."""
        self._capture.release()


class LiveSource:
    """A camera or network stream. Frames carry the time at which they arrived.

    Args:
        open_capture: opens the device; called again when it falls silent.
        label: what to call it in messages.
        patience_s: how long to try before the source counts as lost.

    Raises:
        UserError: it does not open, or (while iterating) it is lost for good.
    """

    is_stream = True
    is_live = True
    skipped = 0
    length: int | None = None

    def __init__(self, open_capture: Callable[[], Capture], label: str, patience_s: float = CAMERA_PATIENCE_S) -> None:
        self.label = label
        self._open_capture = open_capture
        self._patience_s = patience_s
        self._capture = open_capture()
        if not self._capture.isOpened():
            raise UserError(
                f"expected a camera or stream at {label}, but it cannot be opened; check that it exists and nothing else uses it"
            )
        self.frame_rate = _frame_rate(self._capture)

    def __iter__(self) -> Iterator[Frame]:
        index, start_s = 0, None
        while True:
            image_bgr = self._read()
            now_s = time.monotonic()
            start_s = now_s if start_s is None else start_s
            yield Frame(cv2.cvtColor(image_bgr, cv2.COLOR_BGR2RGB), index, now_s - start_s, f"{index:06d}")
            index += 1

    def close(self) -> None:
        """Release the device."""
        self._capture.release()

    def _read(self) -> np.ndarray:
        image_bgr = _grab(self._capture)
        give_up_s = time.monotonic() + self._patience_s
        while image_bgr is None:
            if time.monotonic() > give_up_s:
                raise UserError(f"{self.label} stopped sending pictures and did not come back; check its cable or network and start again")
            time.sleep(min(0.3, self._patience_s / 10))
            self._capture.release()
            self._capture = self._open_capture()
            image_bgr = _grab(self._capture)
        return image_bgr


def open_video(path: Path) -> VideoSource:
    """A video file."""
    try:
        is_empty = path.stat().st_size == 0
        path.open("rb").close()
    except OSError as error:
        raise UserError(f"expected a video that can be read, but {path}: {error.strerror}") from error
    if is_empty:
        raise UserError(f"expected a video, but {path} is empty (0 bytes); copy it again")
    with quiet_stderr():
        capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    return VideoSource(capture, str(path))


def open_camera(camera: int | str, size_px: tuple[int, int] | None = None, frame_rate: float | None = None) -> LiveSource:
    """A camera by index (0 is the first) or device path, asked for a size (width, height) and frames per second."""

    def open_capture() -> cv2.VideoCapture:
        with quiet_stderr():
            capture = cv2.VideoCapture(camera)
        if size_px is not None:
            capture.set(cv2.CAP_PROP_FRAME_WIDTH, size_px[0])
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size_px[1])
        if frame_rate is not None:
            capture.set(cv2.CAP_PROP_FPS, frame_rate)
        return capture

    return LiveSource(open_capture, f"camera {camera}")


def open_url(url: str) -> Source:
    """What FFmpeg finds behind a URL: a video where it has a known length or comes by http, else a live stream."""
    timeout_ms = 1000 * URL_TIMEOUT_S
    timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, timeout_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, timeout_ms]

    def open_capture() -> cv2.VideoCapture:
        with quiet_stderr():
            return cv2.VideoCapture(url, cv2.CAP_FFMPEG, timeouts)

    first = open_capture()
    # What ends over http must not be opened again and again, whether or not its length is known.
    if first.isOpened() and (_is_count(first.get(cv2.CAP_PROP_FRAME_COUNT)) or url.lower().startswith(("http:", "https:"))):
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


def _grab(capture: Capture) -> np.ndarray | None:
    """The next picture in OpenCV's BGR."""
    if not capture.grab():
        return None
    found, image_bgr = capture.retrieve()
    return image_bgr if found else None


def _is_count(count: float) -> bool:
    """FFmpeg says 0 or nonsense where it does not know."""
    return 0 < count < 1e9


def _frame_rate(capture: Capture) -> float:
    rate = capture.get(cv2.CAP_PROP_FPS)
    return rate if 0.1 < rate < 1000 else _ASSUMED_FRAME_RATE
