"""A window that shows pictures, made by Open3D. Use it from the main thread: window systems ask for that."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import cv2
import numpy as np

from handmesh.errors import one_line
from handmesh.quiet import quiet_stderr

# GLFW's key codes.
_KEYS = {ord("Q"): "q", 256: "escape", ord("S"): "s"}
_BACKGROUND = 24


class NoDisplay(Exception):  # noqa: N818 - it is no mistake of anybody
    """No window can be opened; the message is one line that says why."""


class Window:
    """An open window, made by `open_window`. Pictures are fitted into whatever size the user gives it."""

    def __init__(self, visualizer: Any) -> None:
        self._visualizer = visualizer
        self._image: Any = None
        self._shown_hw: tuple[int, int] | None = None
        self._pressed: str | None = None
        self._is_open = True
        for code, name in _KEYS.items():
            visualizer.register_key_callback(code, self._callback(name))

    def show(self, image_rgb: np.ndarray) -> str | None:
        """Show a picture and handle what the user did, without waiting.

        Args:
            image_rgb: (H, W, 3) uint8.

        Returns:
            "q", "escape" or "s" when pressed since the last call (the last of them), else None. A window that
            was closed answers "q", from then on always.
        """
        if not self._is_open:
            return "q"
        self._draw(image_rgb)
        is_alive = self._visualizer.poll_events()
        if not is_alive:
            self.close()
            return "q"
        self._visualizer.update_renderer()
        pressed, self._pressed = self._pressed, None
        return pressed

    def close(self) -> None:
        """Close the window; a second call does nothing."""
        if self._is_open:
            self._is_open = False
            self._visualizer.destroy_window()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _draw(self, image_rgb: np.ndarray) -> None:
        import open3d as o3d

        intrinsic = self._visualizer.get_view_control().convert_to_pinhole_camera_parameters().intrinsic
        height, width = max(1, intrinsic.height), max(1, intrinsic.width)
        picture = fit_picture(image_rgb, width, height)
        if self._shown_hw == (height, width):
            np.asarray(self._image)[:] = picture
            self._visualizer.update_geometry(self._image)
            return
        self._visualizer.clear_geometries()
        self._image, self._shown_hw = o3d.geometry.Image(picture), (height, width)
        self._visualizer.add_geometry(self._image)

    def _callback(self, name: str) -> Any:
        def remember(_: object) -> bool:
            self._pressed = name
            return False

        return remember


def open_window(title: str, width: int = 1280, height: int = 960) -> Window:
    """Open a window that the user can resize.

    Args:
        title: of the window.
        width, height: its size in pixels at the start.

    Raises:
        NoDisplay: there is no display, or Open3D cannot use it.
    """
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise NoDisplay("no display (neither DISPLAY nor WAYLAND_DISPLAY is set)")
    try:
        import open3d as o3d
    except (ImportError, OSError) as error:
        raise NoDisplay(f"Open3D cannot be loaded ({one_line(error)})") from error
    visualizer = o3d.visualization.VisualizerWithKeyCallback()  # pyright: ignore[reportAttributeAccessIssue]
    # GLFW complains on stderr about surroundings that do no harm; what matters comes as `is_created`.
    with quiet_stderr(), _prefer_x11(), o3d.utility.VerbosityContextManager(o3d.utility.VerbosityLevel.Error):
        is_created = visualizer.create_window(title, width, height)
    if not is_created:
        where = ", ".join(f"{name}={os.environ[name]}" for name in ("DISPLAY", "WAYLAND_DISPLAY") if os.environ.get(name))
        raise NoDisplay(f"Open3D could not open an OpenGL window ({where or sys.platform}); it needs X11 or XWayland on Linux")
    return Window(visualizer)


def fit_picture(image_rgb: np.ndarray, width: int, height: int) -> np.ndarray:
    """The largest copy of a picture that fits in a (height, width, 3) frame, in its middle.

    Args:
        image_rgb: (H, W, 3) uint8.
    """
    scale = min(width / image_rgb.shape[1], height / image_rgb.shape[0])
    w, h = (min(limit, max(1, round(side * scale))) for side, limit in ((image_rgb.shape[1], width), (image_rgb.shape[0], height)))
    frame = np.full((height, width, 3), _BACKGROUND, np.uint8)
    x, y = (width - w) // 2, (height - h) // 2
    frame[y : y + h, x : x + w] = cv2.resize(image_rgb, (w, h), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return frame


@contextmanager
def _prefer_x11() -> Iterator[None]:
    """Where X11 is there beside Wayland, let GLFW see only X11: Open3D's OpenGL loader fails on Wayland (Open3D#7162)."""
    if not os.environ.get("DISPLAY"):
        yield
        return
    hidden = {name: os.environ.pop(name) for name in ("WAYLAND_DISPLAY", "XDG_SESSION_TYPE") if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)
