"""The window: one line without a display; pictures fitted into any size; keys where a display is."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from handmesh.render.window import NoDisplay, fit_picture, open_window

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


def test_a_window_shows_and_closes() -> None:
    try:
        window = open_window("handmesh test", 320, 240)
    except NoDisplay as reason:
        pytest.skip(str(reason))
    image = np.zeros((240, 320, 3), np.uint8)
    with window:
        for _ in range(3):
            assert window.show(image) is None
        assert window.show(np.zeros((100, 50, 3), np.uint8)) is None
    assert window.show(image) == "q"
    window.close()
