"""The window: one line without a display; pictures fitted into any size; what the mouse does; keys where a display is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from handmesh.geometry.camera import camera_from_fov
from handmesh.render.orbit import Orbit
from handmesh.render.window import NoDisplay, OrbitMouse, Window, fit_picture, open_window

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="displays are named by the environment on Linux only")


@on_linux
def test_without_a_display_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(NoDisplay) as caught:
        open_window("handmesh")
    assert "\n" not in str(caught.value)
    assert "DISPLAY" in str(caught.value)


@on_linux
def test_a_display_that_does_not_answer_is_one_line() -> None:
    # In a process of its own: GLFW keeps the first display it saw.
    code = """
from handmesh.render.window import NoDisplay, open_window
try:
    open_window("x")
except NoDisplay as error:
    print("NoDisplay", error)
"""
    environment = {**os.environ, "DISPLAY": ":4321", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.startswith("NoDisplay")
    assert finished.stdout.count("\n") == 1
    assert ":4321" in finished.stdout


@pytest.mark.parametrize("size", [(640, 480), (300, 900), (1, 1), (5, 2000)])
@pytest.mark.parametrize("shape_hw", [(480, 640), (1, 640), (6, 4)])
def test_pictures_are_fitted_whole_and_in_the_middle(size: tuple[int, int], shape_hw: tuple[int, int]) -> None:
    width, height = size
    frame = fit_picture(np.full((*shape_hw, 3), 255, np.uint8), width, height)
    assert frame.shape == (height, width, 3)
    rows, columns = np.nonzero((frame == 255).all(axis=-1))
    # One side is filled, and what is left is shared by both ends.
    assert np.ptp(columns) + 1 == width or np.ptp(rows) + 1 == height
    assert abs(columns.min() - (width - 1 - columns.max())) <= 1
    assert abs(rows.min() - (height - 1 - rows.max())) <= 1


def test_a_picture_of_the_windows_size_is_shown_as_it_is() -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    np.testing.assert_array_equal(fit_picture(image, 64, 48), image)


_SHOWS_AND_CLOSES = """
import numpy as np
from handmesh.render.window import open_window
image = np.zeros((240, 320, 3), np.uint8)
with open_window("handmesh test", width=320, height=240) as window:
    for _ in range(3):
        assert window.show(image) is None
    assert window.show(np.zeros((100, 50, 3), np.uint8)) is None
assert window.show(image) == "q"
window.close()
"""


@pytest.mark.skipif(not shutil.which("Xvfb"), reason="needs Xvfb")
def test_a_window_shows_and_closes() -> None:
    finished = _run_on_a_screen(_SHOWS_AND_CLOSES)
    assert finished.returncode == 0, finished.stderr


def _drag(mouse: OrbitMouse, button: int, modifiers: int, dx: float, dy: float) -> None:
    mouse.on_move(100, 100)
    mouse.on_button(button, 1, modifiers, 10.0)
    mouse.on_move(100 + dx, 100 + dy)
    mouse.on_button(button, 0, modifiers, 10.1)
    mouse.on_move(500, 500)


def test_a_drag_turns_and_the_other_button_or_shift_moves() -> None:
    turned = OrbitMouse()
    _drag(turned, 0, 0, 50, 25)
    assert turned.orbit.target_m == Orbit().target_m and turned.follows
    assert turned.orbit.yaw_deg > Orbit().yaw_deg and turned.orbit.pitch_deg > Orbit().pitch_deg
    for button, modifiers in ((1, 0), (0, 1)):
        moved = OrbitMouse()
        _drag(moved, button, modifiers, 50, 25)
        assert (moved.orbit.yaw_deg, moved.orbit.pitch_deg) == (Orbit().yaw_deg, Orbit().pitch_deg)
        target = moved.orbit.to_view(np.array(Orbit().target_m))
        assert target[0] > 0.01 and target[1] > 0.005 and not moved.follows


def test_the_wheel_zooms_and_zero_or_a_double_click_resets() -> None:
    mouse = OrbitMouse()
    mouse.on_scroll(2.0)
    nearer = mouse.orbit.distance_m
    mouse.on_scroll(-4.0)
    assert nearer < Orbit().distance_m < mouse.orbit.distance_m
    _drag(mouse, 1, 0, 30, 30)
    mouse.reset()
    assert mouse.orbit == Orbit() and mouse.follows
    for gap_s, is_reset in ((0.2, True), (1.0, False)):
        mouse = OrbitMouse()
        mouse.on_scroll(3.0)
        for time_s in (20.0, 20.0 + gap_s):
            mouse.on_button(0, 1, 0, time_s)
            mouse.on_button(0, 0, 0, time_s + 0.05)
        assert (mouse.orbit == Orbit()) == is_reset


def test_a_drag_between_two_clicks_is_no_double_click() -> None:
    mouse = OrbitMouse()
    mouse.on_scroll(1.0)
    zoomed = mouse.orbit.distance_m
    _drag(mouse, 0, 0, 5, 0)
    mouse.on_button(0, 1, 0, 10.2)
    assert mouse.orbit.distance_m == zoomed


class _Visualizer:
    """Open3D's window without one: remembers what it is asked, and what is shown in it."""

    def __init__(self) -> None:
        self.keys: dict[int, object] = {}
        self.geometry = None

    def register_key_callback(self, code: int, callback: object) -> None:
        self.keys[code] = callback

    def __getattr__(self, name: str) -> object:
        return lambda *_: True

    def get_view_control(self) -> _Visualizer:
        return self

    def convert_to_pinhole_camera_parameters(self) -> _Visualizer:
        return self

    intrinsic = type("Intrinsic", (), {"width": 400, "height": 120})

    def add_geometry(self, geometry: object) -> None:
        self.geometry = geometry


def test_hands_in_space_stand_beside_the_picture(hand_model, make_hand) -> None:
    pytest.importorskip("open3d")
    camera = camera_from_fov(200, 120, 65)
    visualizer = _Visualizer()
    window = Window(visualizer, hand_model)
    picture = np.full((120, 200, 3), 255, np.uint8)
    hand = make_hand(hand_model, camera, (0.0, 0.0, 0.4))

    def shown() -> np.ndarray:
        window.show(picture, [hand], camera)
        return np.asarray(visualizer.geometry)

    assert shown().shape == (120, 400, 3)
    assert (shown()[:, :200] == 255).all() and not (shown()[:, 200:] == 255).all()
    without = [window.show(picture, [], camera), np.asarray(visualizer.geometry).copy()][1]
    assert (without[:, 200:] != shown()[:, 200:]).any()
    visualizer.keys[ord("3")](visualizer)  # type: ignore[operator]
    assert (shown()[:, 100:300] == 255).all()
    # Without a camera there is no space.
    visualizer.keys[ord("3")](visualizer)  # type: ignore[operator]
    window.show(picture)
    assert (np.asarray(visualizer.geometry)[:, 100:300] == 255).all()


_TURNED_BY_A_MOUSE = """
import subprocess, sys, time
import numpy as np
from handmesh.geometry.camera import camera_from_fov
from handmesh.hand_model import load_hand_model
from handmesh.render.orbit import Orbit
from handmesh.render.window import open_window
window = open_window("handmesh", load_hand_model("open"), width=400, height=150)
picture, camera = np.zeros((60, 80, 3), np.uint8), camera_from_fov(80, 60, 65)
keys = []

def until(is_so, *doing):
    end = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < end, "waited in vain"
        if doing:
            subprocess.run(["xdotool", *doing], check=True, stderr=subprocess.DEVNULL)
        for _ in range(5):
            keys.append(window.show(picture, [], camera))
            time.sleep(0.01)

start = window._view.orbit
subprocess.run(["xdotool", "mousemove", "250", "80", "mousedown", "1"], check=True)
until(lambda: window._view.orbit.yaw_deg != start.yaw_deg, "mousemove_relative", "--", "3", "2")
subprocess.run(["xdotool", "mouseup", "1"], check=True)
until(lambda: window._view.orbit.distance_m < start.distance_m, "click", "4")
until(lambda: "r" in keys, "key", "r")
until(lambda: window._view.orbit == Orbit(), "key", "0")
until(lambda: "q" in keys, "key", "q")
print("turned")
"""


@pytest.mark.skipif(not (shutil.which("Xvfb") and shutil.which("xdotool")), reason="needs Xvfb and xdotool")
def test_a_mouse_turns_the_hands() -> None:
    finished = _run_on_a_screen(_TURNED_BY_A_MOUSE)
    assert finished.stdout == "turned\n", finished.stderr


def _run_on_a_screen(code: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own, on a screen that nobody sees."""
    with subprocess.Popen(
        ["Xvfb", "-displayfd", "1", "-screen", "0", "500x300x24"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            assert server.stdout is not None
            display = f":{server.stdout.readline().strip()}"
            environment = {**os.environ, "DISPLAY": display, "LIBGL_ALWAYS_SOFTWARE": "1"}
            environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
            return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, env=environment)
        finally:
            server.terminate()
