"""The page: what it serves, to whom, what its controls do, and what a browser makes of it."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import replace

import cv2
import numpy as np
import pytest

from handmesh.errors import UserError
from handmesh.geometry.camera import camera_from_fov, project
from handmesh.hand_model import load_hand_model
from handmesh.hand_model.articulation import POSES, Anatomy, angles_to_rotmats
from handmesh.hand_model.skinning import skin
from handmesh.records import Hand, HandParams
from handmesh.render.overlay import draw_overlay
from handmesh.render.web import _R_CAMERA_MODEL, HOST, open_page

CAMERA = camera_from_fov(320, 240, 65)
TIMES = [("network", 9, 5.25, 7.5, 0.8)]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE_S = 60


@pytest.fixture(scope="module")
def model():
    return load_hand_model("open")


def _hand(model, track_id: int = 0, is_right: bool = True, x_m: float = 0.0) -> Hand:
    rotmats = angles_to_rotmats(Anatomy.of(model), POSES["relaxed"].angles_deg()).astype(np.float32)
    rotmats[0] = _R_CAMERA_MODEL
    vertices_m = skin(model, rotmats, np.zeros(10, np.float32)) * ((1, 1, 1) if is_right else (-1, 1, 1)) + (x_m, 0.0, 0.45)
    joints_m = model.joints(vertices_m)
    params = HandParams(rotmats, np.zeros(10), np.array([7.0, 0, 0]), 0.9, 2.0)
    points_px = project(joints_m, CAMERA)
    return Hand(vertices_m, joints_m, points_px, points_px, np.eye(4), params, np.zeros(4), 0.9, is_right, track_id)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


class _Somebody:
    """Lets the page believe that a browser looks on."""

    def __init__(self, page, monkeypatch):
        monkeypatch.setattr(page._server, "get_clients", lambda: {0: object()})


@pytest.fixture
def page(model):
    smooths: list[float] = []
    page = open_page(_free_port(), model, lambda: TIMES, smooths.append, 0.5)
    page.smooths = smooths  # type: ignore[attr-defined]
    yield page
    page.close()
    page.close()


def _control(page, label: str):
    return next(handle for handle in page._server.gui._gui_input_handle_from_uuid.values() if getattr(handle, "label", None) == label)


def test_the_page_is_there_for_this_computer_only(page):
    port = page._server.get_port()
    with urllib.request.urlopen(page.address, timeout=PATIENCE_S) as reply:
        assert reply.status == 200 and b"<html" in reply.read().lower()
    # All of 127.x is this computer, and a server of all addresses answers at each of them.
    addresses = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {HOST}
    for address in {*addresses, "127.0.0.2"}:
        with socket.socket() as probe:
            probe.settimeout(2)
            assert probe.connect_ex((address, port)) != 0, f"answers on {address}"


def test_hands_are_in_the_scene_in_metres_and_go_when_they_go(page, model, monkeypatch):
    _Somebody(page, monkeypatch)
    picture = np.zeros((240, 320, 3), np.uint8)
    right, left = _hand(model, 0), _hand(model, 1, is_right=False, x_m=0.2)
    assert page.show(picture, [right, left], CAMERA) is None
    assert set(page._meshes) == {(0, True), (1, False)}
    for hand in (right, left):
        mesh = page._meshes[hand.track_id, hand.is_right]
        assert np.abs(mesh.vertices - hand.vertices_m).max() < 1e-6 and (mesh.faces == model.faces_for(hand.is_right)).all()
    mesh = page._meshes[0, True]
    page.show(picture, [replace(right, vertices_m=right.vertices_m + 0.1)], CAMERA)
    assert set(page._meshes) == {(0, True)} and page._meshes[0, True] is mesh
    assert np.abs(mesh.vertices - right.vertices_m - 0.1).max() < 1e-6
    page.show(picture, [], CAMERA)
    assert not page._meshes
    fov_rad = 2 * np.arctan(120 / CAMERA.fy)
    assert (page._frustum.fov, page._frustum.aspect) == pytest.approx((fov_rad, 4 / 3))


def test_the_panel_tells_times_and_frames(page, model, monkeypatch):
    _Somebody(page, monkeypatch)
    page.show(np.zeros((240, 320, 3), np.uint8), [_hand(model)], CAMERA)
    assert "1 hand," in page._text.content and "| network | 5.2 | 7.5 |" in page._text.content


def test_nobody_looks_nothing_is_sent(page, model):
    page.show(np.zeros((240, 320, 3), np.uint8), [_hand(model)], CAMERA)
    assert not page._meshes and page._text.content == ""


def test_what_waits_for_a_slow_browser_does_not_grow(page, model, monkeypatch):
    _Somebody(page, monkeypatch)
    monkeypatch.setattr("handmesh.render.web._PICTURES_A_SECOND", 1e9)
    monkeypatch.setattr("handmesh.render.web._TEXTS_A_SECOND", 1e9)
    hand, rng = _hand(model), np.random.default_rng(0)

    def buffered() -> int:
        page.show(rng.integers(0, 255, (48, 64, 3), np.uint8), [replace(hand, vertices_m=hand.vertices_m + rng.normal(0, 0.01, 3))], CAMERA)
        page._painting.result(PATIENCE_S)
        return len(page._server._websock_server._broadcast_buffer.message_from_id)

    first = [buffered() for _ in range(3)][-1]
    assert {buffered() for _ in range(100)} == {first}


def test_buttons_mean_something_from_the_first_frame_on(page, model, monkeypatch):
    _Somebody(page, monkeypatch)
    picture = np.zeros((240, 320, 3), np.uint8)
    assert page.show(picture, [], None) is None
    page._click("Pause", None)
    assert page.show(picture, [], CAMERA) is None and page._buttons.options[0] == "Pause"
    for label, key, then in (("Pause", " ", "Go on"), ("Record", "r", "Stop"), ("Go on", " ", "Pause"), ("Stop", "r", "Record")):
        page._click(label, None)
        # By another browser, at the same moment.
        page._click(label, None)
        assert then in page._buttons.options and label not in page._buttons.options
        assert [page.show(picture, [], CAMERA) for _ in range(2)] == [key, None]


def test_a_taken_port_is_one_line(model):
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        with pytest.raises(UserError, match="give another: --web"):
            open_page(other.getsockname()[1], model, lambda: TIMES)
    with pytest.raises(UserError, match="1 to 65535"):
        open_page(70_000, model, lambda: TIMES)


def test_the_hand_model_is_posed_and_shaped(page, model):
    def drawn() -> np.ndarray:
        return np.array(page._server.scene._handle_from_node_name["/model"].vertices)

    assert "/model" not in page._server.scene._handle_from_node_name
    _control(page, "Show").value = True
    relaxed = drawn()
    size = _control(page, model.beta_names[0])
    size.value = 2.0
    # A larger hand, from the same wrist.
    assert np.ptp(drawn(), axis=0).max() > 1.05 * np.ptp(relaxed, axis=0).max()
    size.value = 0.0
    _control(page, "Pose").value = "fist"
    assert np.ptp(drawn(), axis=0).max() < 0.95 * np.ptp(relaxed, axis=0).max()
    _control(page, "Share of pose").value = 0.0
    flat = drawn()
    at_rest_m = skin(model, np.tile(np.eye(3, dtype=np.float32), (16, 1, 1)), np.zeros(10, np.float32))
    assert np.abs(flat - at_rest_m @ _R_CAMERA_MODEL.T).max() < 1e-5
    # Upright: the longest way is along y.
    assert np.ptp(flat, axis=0).argmax() == 1
    _control(page, "Curl index").value = 90.0
    assert np.linalg.norm(drawn() - flat, axis=1).max() > 0.05
    _control(page, "Show").value = False
    assert not page._server.scene._handle_from_node_name["/model"].visible


class _Browser:
    """Chromium without a screen, told what to do through its DevTools protocol."""

    def __init__(self, folder, size: tuple[int, int]):
        flags = ("--headless", "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
        quiet = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run")
        where = (f"--user-data-dir={folder}", f"--window-size={size[0]},{size[1]}", "--remote-debugging-port=0", "about:blank")
        assert CHROMIUM is not None
        self._process = subprocess.Popen([CHROMIUM, *flags, *quiet, *where], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        noted = folder / "DevToolsActivePort"
        wait_for(lambda: noted.is_file() and "\n" in noted.read_text())
        port = noted.read_text().split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=PATIENCE_S) as reply:
            target = next(each for each in json.load(reply) if each["type"] == "page")
        from websockets.sync.client import connect

        self._socket = connect(target["webSocketDebuggerUrl"], max_size=None, open_timeout=PATIENCE_S, ping_interval=None)
        self._id = 0
        self.requested: list[str] = []
        self.ask("Network.enable")
        self.ask("Emulation.setDeviceMetricsOverride", width=size[0], height=size[1], deviceScaleFactor=1, mobile=size[0] < 500)

    def ask(self, method: str, **params):
        self._id += 1
        self._socket.send(json.dumps({"id": self._id, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=PATIENCE_S))
            if message.get("method") == "Network.requestWillBeSent":
                self.requested.append(message["params"]["request"]["url"])
            if message.get("id") == self._id:
                return message["result"]

    def run(self, script: str):
        return self.ask("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def picture(self) -> np.ndarray:
        data = base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"])
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]

    def close(self) -> None:
        try:
            # It clears up behind itself, which it does not when it is killed.
            self.ask("Browser.close")
            self._process.wait(PATIENCE_S)
        finally:
            self._process.kill()
            self._process.wait()
            self._socket.close()


def wait_for(is_so, meanwhile=lambda: None) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < until_s, "waited in vain"
        meanwhile()
        time.sleep(0.05)


@contextmanager
def _browse(page, folder, size):
    browser = _Browser(folder, size)
    try:
        browser.ask("Page.navigate", url=page.address)
        wait_for(lambda: len(page._server.get_clients()) == 1)
        yield browser
    finally:
        browser.close()


needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (chromium or google-chrome on the path)")


@needs_chromium
@pytest.mark.parametrize("size", [(960, 600), (390, 844)], ids=["desktop", "phone"])
def test_a_browser_shows_the_hands_and_its_buttons_work(page, model, tmp_path, size):
    hands = [_hand(model, 0, x_m=-0.06), _hand(model, 1, is_right=False, x_m=0.1)]
    picture = draw_overlay(np.full((240, 320, 3), 90, np.uint8), hands, model, CAMERA)
    pressed = []

    def show():
        if (key := page.show(picture, hands, CAMERA)) is not None:
            pressed.append(key)

    with _browse(page, tmp_path, size) as browser:

        def button(label: str) -> str:
            return f"[...document.querySelectorAll('button')].find(each => each.innerText.trim() == '{label}')"

        wait_for(lambda: browser.run(f"Boolean({button('Pause')})"), show)

        def skin_shares() -> tuple[float, float]:
            """Of warm and of cool pixels left of the panel, or above it."""
            shot = browser.picture().astype(int)
            scene = shot[:, : size[0] * 2 // 3] if size[0] > 500 else shot[: size[1] // 2]
            red, _, blue = np.moveaxis(scene, -1, 0)
            return float(((red > blue + 40) & (red > 120)).mean()), float(((blue > red + 40) & (blue > 120)).mean())

        # The yellow frustum alone has a fraction of that.
        wait_for(lambda: min(skin_shares()) > 0.003, show)
        assert browser.run("document.documentElement.scrollWidth <= window.innerWidth")
        for label, key in (("Pause", " "), ("Go on", " "), ("Record", "r"), ("Snapshot", "s")):
            browser.run(f"{button(label)}.click()")
            wait_for(lambda key=key: pressed and pressed[-1] == key, show)
            pressed.clear()
            wait_for(lambda: browser.run(f"Boolean({button('Pause')})") or label == "Pause", show)  # noqa: B023
        assert browser.run("[...document.images].some(each => each.naturalWidth == 320 && each.naturalHeight == 240)")
        (client,) = page._server.get_clients().values()
        before_m = client.camera.position
        client.camera.position = before_m + 1.0
        wait_for(lambda: np.allclose(client.camera.position, before_m + 1.0), show)
        browser.run(f"{button('Reset view')}.click()")
        wait_for(lambda: np.allclose(client.camera.position, before_m, atol=1e-3), show)
        # Nobody else is asked for anything.
        elsewhere = [url for url in browser.requested if not url.startswith((f"http://{HOST}:", "data:", "blob:"))]
        assert not elsewhere


def test_the_slider_smooths(page):
    slider = _control(page, "Smoothing")
    assert slider.value == 0.5
    for update in slider._impl.update_cb:
        slider.value = 0.8
        update(None)
    assert page.smooths and page.smooths[-1] == pytest.approx(0.8)
