"""A window that shows pictures and, beside them, the hands in space; made by Open3D.

Use it from the main thread: window systems ask for that.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import cv2
import numpy as np

from handmesh.errors import one_line
from handmesh.quiet import quiet_stderr
from handmesh.records import Camera, Hand
from handmesh.render.orbit import Orbit, draw_view, follow

if TYPE_CHECKING:
    from handmesh.hand_model import HandModel

# GLFW's key codes.
_KEYS = {ord("Q"): "q", 256: "escape", ord("S"): "s", ord(" "): " ", ord("R"): "r"}
_LEFT_BUTTON, _RIGHT_BUTTON = 0, 1
_SHIFT_KEY = 1
_TURN_DEG_PER_PX = 0.4
# Of the distance to the target, for each pixel of a drag.
_MOVE_PER_PX = 0.0015
_ZOOM_PER_NOTCH = 0.9
_DOUBLE_CLICK_S = 0.35
_BACKGROUND = 24


class NoDisplay(Exception):  # noqa: N818 - it is no mistake of anybody
    """No window can be opened; the message is one line that says why."""


class Window:
    """An open window, made by `open_window`. Pictures are fitted into whatever size the user gives it.

    Beside the picture are the hands in space: a drag turns them, a drag with the right button or shift moves them, the wheel zooms,
    "0" or a double click takes the first viewpoint again, and "3" hides or shows them.
    """

    def __init__(self, visualizer: Any, hand_model: HandModel | None) -> None:
        self._visualizer = visualizer
        self._hand_model = hand_model
        self._image: Any = None
        self._shown_hw: tuple[int, int] | None = None
        self._pressed: str | None = None
        self._is_open = True
        self._view = OrbitMouse()
        self._shows_view = hand_model is not None
        self._followed_s = time.perf_counter()
        for code, name in _KEYS.items():
            visualizer.register_key_callback(code, self._callback(name))
        if hand_model is not None:
            visualizer.register_key_callback(ord("3"), self._toggle_view)
            visualizer.register_key_callback(ord("0"), lambda _: self._view.reset())
        # Without these Open3D would zoom and move the picture itself.
        visualizer.register_mouse_button_callback(
            lambda _, button, action, modifiers: self._view.on_button(button, action, modifiers, time.perf_counter())
        )
        visualizer.register_mouse_move_callback(lambda _, x, y: self._view.on_move(x, y))
        visualizer.register_mouse_scroll_callback(lambda _, __, notches: self._view.on_scroll(notches))

    def show(self, picture_rgb: np.ndarray, hands: Sequence[Hand] = (), camera: Camera | None = None) -> str | None:
        """Show a picture with its hands and handle what the user did, without waiting.

        Args:
            picture_rgb: (H, W, 3) uint8, with whatever was drawn on it.
            hands: in the frame of `camera`.
            camera: of the picture; without it there is no view in space.

        Returns:
            "q", "escape", "s", " " or "r" when pressed since the last call (the last of them), else None. A window that was closed
            answers "q", from then on always.
        """
        if not self._is_open:
            return "q"
        now_s = time.perf_counter()
        if self._view.follows:
            self._view.orbit = follow(self._view.orbit, hands, now_s - self._followed_s)
        self._followed_s = now_s
        self._draw(picture_rgb, hands, camera)
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

    def _draw(self, picture_rgb: np.ndarray, hands: Sequence[Hand], camera: Camera | None) -> None:
        import open3d as o3d

        intrinsic = self._visualizer.get_view_control().convert_to_pinhole_camera_parameters().intrinsic
        height, width = max(1, intrinsic.height), max(1, intrinsic.width)
        picture = self._compose(picture_rgb, hands, camera, width, height)
        if self._shown_hw == (height, width):
            np.asarray(self._image)[:] = picture
            self._visualizer.update_geometry(self._image)
            return
        self._visualizer.clear_geometries()
        self._image, self._shown_hw = o3d.geometry.Image(picture), (height, width)
        self._visualizer.add_geometry(self._image)

    def _compose(self, picture_rgb: np.ndarray, hands: Sequence[Hand], camera: Camera | None, width: int, height: int) -> np.ndarray:
        """(height, width, 3) the whole window."""
        if self._hand_model is None or camera is None or not self._shows_view or width < 2:
            return fit_picture(picture_rgb, width, height)
        left = width // 2
        view = draw_view(hands, self._hand_model, camera, self._view.orbit, width - left, height)
        return np.concatenate([fit_picture(picture_rgb, left, height), view], axis=1)

    def _toggle_view(self, _: object) -> bool:
        self._shows_view = not self._shows_view
        return False

    def _callback(self, name: str) -> Any:
        def remember(_: object) -> bool:
            self._pressed = name
            return False

        return remember


class OrbitMouse:
    """A viewpoint in the user's hand. The methods take GLFW's events and say that these are dealt with.

    Attributes:
        orbit: where the eye is now.
        follows: the user has not moved the view off the hands.
    """

    def __init__(self) -> None:
        self.orbit = Orbit()
        self.follows = True
        self._at_px: tuple[float, float] | None = None
        self._drag: str | None = None
        self._clicked_s: float | None = None

    def on_button(self, button: int, action: int, modifiers: int, time_s: float) -> bool:
        """A button went down (action 1) or up (0)."""
        self._drag = None
        if action == 1 and button in (_LEFT_BUTTON, _RIGHT_BUTTON):
            self._drag = "move" if button == _RIGHT_BUTTON or modifiers & _SHIFT_KEY else "turn"
            if self._drag == "turn" and self._clicked_s is not None and time_s - self._clicked_s < _DOUBLE_CLICK_S:
                self.reset()
            self._clicked_s = time_s if self._drag == "turn" else None
        return True

    def on_move(self, x_px: float, y_px: float) -> bool:
        """The pointer is now there."""
        if self._drag is not None and self._at_px is not None:
            dx, dy = x_px - self._at_px[0], y_px - self._at_px[1]
            if self._drag == "turn":
                self.orbit = self.orbit.turned(_TURN_DEG_PER_PX * dx, _TURN_DEG_PER_PX * dy)
            else:
                step_m = _MOVE_PER_PX * self.orbit.distance_m
                self.orbit, self.follows = self.orbit.moved(step_m * dx, step_m * dy), False
            self._clicked_s = None
        self._at_px = (x_px, y_px)
        return True

    def on_scroll(self, notches: float) -> bool:
        """The wheel was turned; up is positive and comes nearer."""
        self.orbit = self.orbit.zoomed(_ZOOM_PER_NOTCH**notches)
        return True

    def reset(self) -> bool:
        """Take the first viewpoint again."""
        self.orbit, self.follows = Orbit(), True
        return False


def open_window(title: str, hand_model: HandModel | None = None, *, width: int = 1280, height: int = 480) -> Window:
    """Open a window that the user can resize.

    Args:
        title: of the window.
        hand_model: of the hands that are shown; None for a window of pictures alone.
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
        is_created = _display_answers() and visualizer.create_window(title, width, height)
    if not is_created:
        where = ", ".join(f"{name}={os.environ[name]}" for name in ("DISPLAY", "WAYLAND_DISPLAY") if os.environ.get(name))
        raise NoDisplay(f"Open3D could not open an OpenGL window ({where or sys.platform}); it needs X11 or XWayland on Linux")
    return Window(visualizer, hand_model)


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


def _display_answers() -> bool:
    """Whether the X server that DISPLAY names lets us in, asked as GLFW asks it: Open3D from 0.20 on draws unseen where none does."""
    if sys.platform != "linux" or not os.environ.get("DISPLAY"):
        return True
    try:
        x11 = ctypes.CDLL("libX11.so.6")
    except OSError:
        return False
    x11.XOpenDisplay.restype = ctypes.c_void_p
    display = x11.XOpenDisplay(None)
    if display:
        x11.XCloseDisplay(ctypes.c_void_p(display))
    return bool(display)


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
