"""The page and strangers: who is let in, what its clients may say, and that none of them is in the way of the others or of the end."""

from __future__ import annotations

import math
import socket
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import msgspec
import numpy as np
import pytest
import viser
from test_render_web import CAMERA, PATIENCE_S, TIMES, _Browser, _free_port, needs_chromium, wait_for
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from handmesh.errors import UserError
from handmesh.hand_model import load_hand_model
from handmesh.render.web import HOST, open_page
from handmesh.render.web_access import Access, is_bool

PICTURE = np.zeros((240, 320, 3), np.uint8)
LOOKING = {
    "type": "ViewerCameraMessage",
    "wxyz": [1, 0, 0, 0],
    "position": [0.0, 0.0, -1.0],
    "look_at": [0.0, 0.0, 0.0],
    "up_direction": [0.0, -1.0, 0.0],
    "fov": 1.3,
    "near": 0.01,
    "far": 1000,
    "image_height": 600,
    "image_width": 960,
}


@pytest.fixture(scope="module")
def model():
    return load_hand_model("open")


@pytest.fixture
def page(model):
    smooths: list[float] = []
    page = open_page(_free_port(), model, lambda: TIMES, smooths.append, 0.5)
    page.smooths = smooths  # type: ignore[attr-defined]
    yield page
    page.close()


def _where(page) -> tuple[int, str]:
    address = urlsplit(page.address)
    return address.port or 0, address.path


def _ask(page, path: str, *headers: str) -> tuple[int, dict[str, str]]:
    """Status and headers of the answer to a request that is written as it is."""
    with socket.create_connection((HOST, _where(page)[0]), PATIENCE_S) as client:
        client.sendall("\r\n".join((f"GET {path} HTTP/1.1", *headers, "", "")).encode())
        head = b""
        while b"\r\n\r\n" not in head and (more := client.recv(65536)):
            head += more
    status, *lines = head.split(b"\r\n\r\n")[0].decode().split("\r\n")
    return int(status.split()[1]), {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}


def _opening(origin: str | None) -> tuple[str, ...]:
    opening = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
    return opening if origin is None else (*opening, f"Origin: {origin}")


def _join(page):
    """A client like the page's script, which looks on."""
    port, path = _where(page)
    before = len(page._server.get_clients())
    client = connect(
        f"ws://{HOST}:{port}{path}",
        origin=f"http://{HOST}:{port}",  # type: ignore[arg-type]
        subprotocols=[f"viser-v{viser.__version__}"],  # type: ignore[list-item]
        max_size=None,
        compression=None,
        open_timeout=PATIENCE_S,
    )
    client.send(msgspec.msgpack.encode(LOOKING))
    wait_for(lambda: len(page._server.get_clients()) == before + 1)
    return client


def _closed(client) -> bool:
    """Whether the page hangs up, having sent what it likes."""
    until_s = time.monotonic() + 5
    try:
        while time.monotonic() < until_s:
            client.recv(timeout=until_s - time.monotonic())
    except ConnectionClosed:
        return True
    except TimeoutError:
        pass
    return False


def _control(page, label: str) -> tuple[str, object]:
    """Identifier and handle."""
    return next(each for each in page._server.gui._gui_input_handle_from_uuid.items() if getattr(each[1], "label", None) == label)


def _set(page, label: str, /, **updates) -> dict[str, object]:
    return {"type": "GuiUpdateMessage", "uuid": _control(page, label)[0], "updates": updates}


@pytest.mark.parametrize("origin", [None, "own"], ids=["page", "socket"])
@pytest.mark.parametrize("path", ["/", "/index.html", "/?token={}", "/{}x", "/{}/../{}", "//{}", "http://127.0.0.1{}", "/\xff", "/wrong"])
def test_without_the_token_nothing_is_served(page, path, origin):
    port, own = _where(page)
    headers = () if origin is None else _opening(f"http://{HOST}:{port}")
    assert _ask(page, path.replace("{}", own[1:]), f"Host: {HOST}:{port}", *headers)[0] in (400, 403)


def test_every_run_has_a_token_of_its_own(page, model):
    other = open_page(_free_port(), model, lambda: TIMES)
    try:
        own, others = _where(page)[1], _where(other)[1]
        assert own != others and min(len(own), len(others)) > 30
    finally:
        other.close()


@pytest.mark.parametrize("host", ["elsewhere.example", "127.0.0.1.elsewhere.example", "localhost@elsewhere.example", "0.0.0.0", "", None])
def test_another_host_is_refused(page, host):
    port, path = _where(page)
    named = () if host is None else (f"Host: {host}:{port}" if host else "Host:",)
    assert _ask(page, path, *named)[0] == 403
    assert _ask(page, path, *named, *_opening(f"http://{host}:{port}"))[0] == 403


def test_two_hosts_are_refused(page):
    port, path = _where(page)
    assert _ask(page, path, f"Host: {HOST}:{port}", "Host: elsewhere.example")[0] == 403


@pytest.mark.parametrize(
    "origin", ["http://elsewhere.example", "http://127.0.0.1:1", "http://localhost:{}", "https://127.0.0.1:{}", "null", None]
)
def test_a_socket_of_another_origin_is_refused(page, origin):
    port, path = _where(page)
    # With the token, too.
    assert _ask(page, path, f"Host: {HOST}:{port}", *_opening(origin and origin.replace("{}", str(port))))[0] == 403
    if origin is not None:
        assert _ask(page, path, f"Host: {HOST}:{port}", f"Origin: {origin}")[0] == 403


@pytest.mark.parametrize("host", ["127.0.0.1:{}", "localhost:{}", "127.0.0.1:9123", "localhost:9123", "localhost"])
def test_a_tunnel_may_come_from_any_port(page, host):
    port, path = _where(page)
    host = host.replace("{}", str(port))
    assert _ask(page, path, f"Host: {host}")[0] == 200
    assert _ask(page, path, f"Host: {host}", *_opening(f"http://{host}"))[0] == 101


def test_an_order_in_the_query_is_dropped(page):
    port, path = _where(page)
    host = f"Host: {HOST}:{port}"
    for query in ("?websocket=ws://elsewhere.example", "?playbackPath=http://elsewhere.example", "?", "?darkMode"):
        status, headers = _ask(page, path + query, host)
        assert (status, headers["location"]) == (303, path)
        assert _ask(page, path + query, host, *_opening(f"http://{HOST}:{port}"))[0] == 403


def test_the_page_talks_to_its_own_socket_alone_and_is_in_no_frame(page):
    port, path = _where(page)
    for asked, status in ((path, 200), ("/", 403)):
        got, headers = _ask(page, asked, f"Host: {HOST}:{port}")
        policy = {name: rest for name, _, rest in (part.partition(" ") for part in headers["content-security-policy"].split("; "))}
        assert got == status and headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
        reached = [each for each in policy["connect-src"].split() if each not in ("data:", "blob:")]
        assert reached == ([f"ws://{HOST}:{port}{path}"] if status == 200 else ["'none'"])


def test_a_refusal_does_not_tell_the_token(page):
    port, path = _where(page)
    for asked in ("/", "/?websocket=ws://elsewhere.example", f"{path}x"):
        for headers in ((), _opening(f"http://{HOST}:{port}"), _opening(None)):
            assert path[1:] not in str(_ask(page, asked, f"Host: {HOST}:{port}", *headers)[1])


def _bad_messages(page) -> dict[str, object]:
    smoothing, pose, show = "Smoothing", "Pose", "Show"
    camera = {name: value for name, value in LOOKING.items() if name != "fov"}
    return {
        "text": "hello",
        "not MessagePack": b"\xc1",
        "nothing": b"",
        "nested": b"\x91" * 100_000 + b"\xc0",
        "a list": [1],
        "no type": {},
        "a type that is a list": {"type": [1]},
        "unknown type": {"type": "Nonsense"},
        "share": {"type": "ShareUrlRequest"},
        "end sharing": {"type": "ShareUrlDisconnect"},
        "script": {"type": "RunJavascriptMessage", "source": "alert(1)"},
        "remove": {"type": "GuiRemoveMessage", "uuid": _control(page, smoothing)[0]},
        "upload": {"type": "FileTransferStartUpload", "source_component_uuid": _control(page, smoothing)[0]},
        "form": {"type": "GuiFormDirtyMessage", "uuid": "x"},
        "no such control": {"type": "GuiUpdateMessage", "uuid": "x", "updates": {"value": 0.1}},
        "control that is a list": {"type": "GuiUpdateMessage", "uuid": [], "updates": {"value": 0.1}},
        "removed": _set(page, smoothing, removed=True),
        "another label": _set(page, smoothing, label="Mine"),
        "value and label": _set(page, smoothing, value=0.1, label="Mine"),
        "range": _set(page, smoothing, max=9.0),
        "options": _set(page, pose, options=["mine"]),
        "callbacks": _set(page, smoothing, update_cb=[]),
        "no update": _set(page, smoothing),
        "slider: string": _set(page, smoothing, value="0.7"),
        "slider: list": _set(page, smoothing, value=[0.7]),
        "slider: bool": _set(page, smoothing, value=True),
        "slider: nothing": _set(page, smoothing, value=None),
        "slider: NaN": _set(page, smoothing, value=math.nan),
        "slider: infinite": _set(page, smoothing, value=math.inf),
        "slider: too high": _set(page, smoothing, value=1.01),
        "slider: too low": _set(page, smoothing, value=-1),
        "finger: too high": _set(page, "Curl index", value=1e6),
        "beta: NaN": _set(page, load_hand_model("open").beta_names[0], value=math.nan),
        "dropdown: unknown": _set(page, pose, value="no such pose"),
        "dropdown: number": _set(page, pose, value=3),
        "checkbox: string": _set(page, show, value="yes"),
        "checkbox: number": _set(page, show, value=1),
        "button: unknown": _set(page, "", value="no such button"),
        "camera: incomplete": camera,
        "camera: more": {**LOOKING, "more": 1},
        "camera: string": {**LOOKING, "fov": "wide"},
        "camera: NaN": {**LOOKING, "position": [0.0, math.nan, 0.0]},
        "camera: long": {**LOOKING, "position": [0.0] * 4},
        "camera: no vector": {**LOOKING, "wxyz": 1.0},
        "camera: no rotation": {**LOOKING, "wxyz": [0, 0, 0, 0]},
        "too long": b"\x00" * 1_000_001,
    }


def test_a_bad_message_closes_its_client_with_one_line_and_touches_nobody_else(page, capfd, caplog):
    capfd.readouterr()
    with _join(page) as witness:
        for name, message in _bad_messages(page).items():
            handles = page._server.gui._gui_input_handle_from_uuid
            before = {uuid: (handle.value, handle._impl.removed) for uuid, handle in handles.items()}
            with _join(page) as client:
                client.send(message if isinstance(message, bytes | str) else msgspec.msgpack.encode(message))
                assert _closed(client), f"{name}: still open"
            wait_for(lambda: len(page._server.get_clients()) == 1)
            captured = capfd.readouterr()
            lines = (captured.out + captured.err).splitlines()
            assert len(lines) == 1 and lines[0].startswith("page: closed a browser's connection"), f"{name}: {lines}"
            assert {uuid: (handle.value, handle._impl.removed) for uuid, handle in handles.items()} == before, name
            assert page._server.gui._gui_input_handle_from_uuid.keys() == before.keys(), name
        assert not [record for record in caplog.records if record.exc_info]
        # What the others do still works.
        witness.send(msgspec.msgpack.encode(_set(page, "Smoothing", value=0.25)))
        wait_for(lambda: page.smooths and page.smooths[-1] == 0.25)
        page.show(PICTURE, [], CAMERA)
        witness.send(msgspec.msgpack.encode(_set(page, "", value="Snapshot")))
        wait_for(lambda: page.show(PICTURE, [], CAMERA) == "s")
        assert capfd.readouterr().err == ""


def test_odd_cameras_are_no_fault_of_the_page(page, capfd):
    capfd.readouterr()
    odd = (
        {"image_height": 0, "image_width": 0},
        {"position": [0.0, 0.0, 0.0]},
        {"up_direction": [0.0, 0.0, 0.0]},
        {"look_at": [0.0, -5.0, -1.0]},
    )
    with ExitStack() as stack:
        for each in odd:
            client = stack.enter_context(_join(page))
            client.send(msgspec.msgpack.encode({**LOOKING, **each}))
            client.send(msgspec.msgpack.encode(_set(page, "", value="Reset view")))
        time.sleep(1)
        assert len(page._server.get_clients()) == len(odd)
    assert capfd.readouterr().err == ""


def test_no_client_opens_the_public_tunnel(page, monkeypatch):
    asked = []
    monkeypatch.setattr(viser.ViserServer, "request_share_url", lambda *_: asked.append(True))
    with _join(page) as client:
        client.send(msgspec.msgpack.encode({"type": "ShareUrlRequest"}))
        assert _closed(client)
    assert not asked and page._server.request_share_url() is None


@pytest.mark.parametrize("joins", [True, False], ids=["joined", "half open"])
def test_clients_that_do_not_read_do_not_delay_the_end(page, joins):
    port, path = _where(page)
    request = (f"GET {path} HTTP/1.1", f"Host: {HOST}:{port}", *_opening(f"http://{HOST}:{port}"))
    opening = "\r\n".join((*request, f"Sec-WebSocket-Protocol: viser-v{viser.__version__}", "", "")).encode()
    payload = msgspec.msgpack.encode(LOOKING)
    # Masked with zeros: RFC 6455, 5.2.
    frame = bytes((0x82, 0x80 | 126)) + len(payload).to_bytes(2, "big") + bytes(4) + payload
    rng = np.random.default_rng(0)
    with ExitStack() as stack:
        for _ in range(20):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect((HOST, port))
            client.sendall(opening + frame if joins else opening[:-2])
        wait_for(lambda: len(page._server.get_clients()) == (20 if joins else 0))
        if joins:
            # More than the buffers between them hold.
            until_s = time.monotonic() + 3
            while time.monotonic() < until_s:
                page.show(rng.integers(0, 255, (480, 640, 3), np.uint8), [], CAMERA)
                time.sleep(0.02)
        start_s = time.perf_counter()
        page.close()
        took_s = time.perf_counter() - start_s
    assert took_s < 2, f"{took_s:.1f} s"


def test_a_viser_that_cannot_be_guarded_is_not_served(model, monkeypatch):
    stopped = []

    class Another:
        def __init__(self, *_, **__):
            pass

        def stop(self):
            stopped.append(True)

    monkeypatch.setattr(viser, "ViserServer", Another)
    with pytest.raises(UserError, match="nothing is served"):
        open_page(_free_port(), model, lambda: TIMES)
    assert stopped


def test_a_control_that_cannot_be_checked_is_not_shown():
    with pytest.raises(UserError, match="nothing is served"):
        Access().allow(object(), is_bool)


@contextmanager
def _site(html: str):
    """A page of another origin; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(html.encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer((HOST, 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://{HOST}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@needs_chromium
def test_a_page_of_another_origin_gets_nothing(page, tmp_path):
    port, path = _where(page)
    script = f"""
        <script>
        window.said = [];
        for (const path of ["", "{path}"]) {{
            const socket = new WebSocket("ws://{HOST}:{port}" + path, ["viser-v{viser.__version__}"]);
            socket.onopen = () => said.push("open");
            socket.onmessage = () => said.push("message");
            socket.onerror = () => said.push("refused");
            fetch("http://{HOST}:{port}" + path).then(() => said.push("read"), () => said.push("refused"));
            fetch("http://{HOST}:{port}" + path, {{mode: "no-cors"}}).then(() => said.push("opaque"), () => said.push("refused"));
        }}
        </script>
        <iframe src="{page.address}"></iframe>
        """
    with _site(script) as address:
        browser = _Browser(tmp_path, (600, 400))
        try:
            browser.ask("Page.navigate", url=address)
            wait_for(lambda: len(browser.run("window.said") or []) == 6)
            # The frame would have had the time.
            time.sleep(3)
            assert browser.run("said") == ["refused"] * 6 and not page._server.get_clients()
            # A person who opens the address is let in all the same, by a link too.
            browser.run(f"location.href = '{page.address}'")
            wait_for(lambda: len(page._server.get_clients()) == 1)
        finally:
            browser.close()


@needs_chromium
def test_a_link_makes_the_page_join_no_other_server(page, tmp_path):
    with socket.socket() as elsewhere:
        elsewhere.bind((HOST, 0))
        elsewhere.listen()
        elsewhere.settimeout(3)
        other = f"{HOST}:{elsewhere.getsockname()[1]}"
        browser = _Browser(tmp_path, (600, 400))
        try:
            browser.ask("Page.navigate", url=f"{page.address}?websocket=ws://{other}")
            wait_for(lambda: len(page._server.get_clients()) == 1)
            # The address bar's address can be opened again.
            browser.ask("Page.reload")
            wait_for(lambda: not page._server.get_clients())
            wait_for(lambda: len(page._server.get_clients()) == 1)
            # Nor does a script that is on the page get out.
            browser.run(
                f"window.tried = []; for (const url of ['http://{other}', 'ws://{other}']) try {{"
                "url[0] == 'w' ? new WebSocket(url).onerror = () => tried.push(1) : fetch(url).catch(() => tried.push(1))"
                "} catch { tried.push(1) }"
            )
            wait_for(lambda: len(browser.run("tried")) == 2)
            with pytest.raises(TimeoutError):
                elsewhere.accept()
        finally:
            browser.close()


@contextmanager
def _tunnel(port: int):
    """As `ssh -L` does it: another port of this computer, whose bytes go to `port` and back. Yields that port."""
    ends: list[socket.socket] = []

    def pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)

    def accept() -> None:
        with suppress(OSError):
            while True:
                pair = listener.accept()[0], socket.create_connection((HOST, port))
                ends.extend(pair)
                for source, target in (pair, pair[::-1]):
                    threading.Thread(target=pump, args=(source, target), daemon=True).start()

    with socket.create_server((HOST, 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        try:
            yield listener.getsockname()[1]
        finally:
            for end in ends:
                end.close()


@needs_chromium
def test_a_browser_comes_through_a_tunnel(page, tmp_path):
    port, path = _where(page)
    with _tunnel(port) as other:
        browser = _Browser(tmp_path, (600, 400))
        try:
            browser.ask("Page.navigate", url=f"http://localhost:{other}{path}")
            wait_for(lambda: len(page._server.get_clients()) == 1)
            wait_for(lambda: browser.run("document.body.innerText.includes('Snapshot')"))
        finally:
            browser.close()
