"""Who may use the page, and what browsers may say to it: the checks in front of viser's server, which has none.

The page's path is a random token. A browser sends it for the page and for the page's socket, and for nothing else: unlike a cookie, it is
never sent along by a page of another origin, nor to another server of the same computer.
"""

from __future__ import annotations

import asyncio
import hmac
import math
import re
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec
import websockets.asyncio.server
from websockets.exceptions import ConnectionClosed, ConnectionClosedError
from websockets.frames import CloseCode

from handmesh.errors import UserError

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection
    from websockets.http11 import Request, Response

Rule = Callable[[object], bool]

MAX_MESSAGE_BYTES = 1_000_000
# A browser that does not answer when the page closes is not waited for longer.
_CLOSE_TIMEOUT_S = 0.5
_OPEN_TIMEOUT_S = 5.0
_TOKEN_BYTES = 24
# A tunnel may come from any port. Other names are those of DNS rebinding: they can be made to mean this computer.
_OWN_HOST = re.compile(r"(127\.0\.0\.1|localhost)(:\d{1,5})?", re.ASCII)
_REFUSED = "This page belongs to one run of handmesh-demo. Open the address that its terminal shows.\n"
_CAMERA = {"wxyz": 4, "position": 3, "look_at": 3, "up_direction": 3}
_LENS = ("fov", "near", "far", "image_height", "image_width")
_MAX_NUMBER = 1e9


class Access:
    """The token of one run and the rules of its controls; `guard` puts both in front of a server.

    Attributes:
        path: of the page, and of its socket: "/" and the token.
    """

    def __init__(self) -> None:
        self.path = f"/{secrets.token_urlsafe(_TOKEN_BYTES)}"
        self._rule_from_control: dict[str, Rule] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._transports: set[asyncio.BaseTransport] = set()
        self._is_over = False

    def hang_up(self) -> None:
        """Drop all connections at once, also those that do not read or have not said yet what they want, and every later one."""
        self._is_over = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(lambda: [_abort(each) for each in self._transports])

    def allow(self, control: Any, rule: Rule) -> None:
        """Let browsers set the value of `control`, a handle of viser, to what `rule` is true for. They can set nothing else.

        Raises:
            UserError: this viser names its controls in another way.
        """
        uuid = getattr(getattr(control, "_impl", None), "uuid", None)
        if not isinstance(uuid, str):
            raise _unknown_viser("its controls have no identifier to check messages by")
        self._rule_from_control[uuid] = rule

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Servers that are started within, which websockets serves, check every request and every message.

        Raises:
            UserError: none was started through `websockets.asyncio.server.serve` with a `process_request`. What was started is not safe.
        """
        guarded: list[bool] = []
        serve = websockets.asyncio.server.serve

        def serve_guarded(handler: Callable[[ServerConnection], Any], *where: Any, process_request: Any = None, **options: Any) -> Any:
            guarded.append(process_request is not None)
            options |= {
                "max_size": MAX_MESSAGE_BYTES,
                "open_timeout": _OPEN_TIMEOUT_S,
                "close_timeout": _CLOSE_TIMEOUT_S,
                "create_connection": self._connection_class(),
                "process_request": lambda connection, request: self._answer(connection, request, process_request),
            }
            return serve(_in_one_line(handler), *where, **options)

        # viser has no option for any of this; it looks the function up when it starts.
        websockets.asyncio.server.serve = serve_guarded
        try:
            yield
        finally:
            websockets.asyncio.server.serve = serve
        if not guarded or not all(guarded):
            raise _unknown_viser("it serves in another way")

    def _connection_class(self) -> type[ServerConnection]:
        access = self

        class CheckedConnection(websockets.asyncio.server.ServerConnection):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                access._loop = asyncio.get_running_loop()
                access._transports.add(transport)
                super().connection_made(transport)  # type: ignore[arg-type]
                if access._is_over:
                    _abort(transport)

            def connection_lost(self, exc: Exception | None) -> None:
                access._transports.discard(self.transport)
                super().connection_lost(exc)

            async def recv(self, decode: bool | None = None) -> bytes | str:  # type: ignore[override]
                try:
                    raw = await super().recv(decode)
                except ConnectionClosed as error:
                    if error.sent is not None and error.sent.code == CloseCode.MESSAGE_TOO_BIG and not error.rcvd_then_sent:
                        _say(f"closed a browser's connection: expected messages of at most {MAX_MESSAGE_BYTES} bytes, got a longer one")
                    raise
                if (reason := access._fault(raw)) is not None:
                    _say(f"closed a browser's connection: expected a message of the page's own script, but {reason}")
                    await self.close(CloseCode.POLICY_VIOLATION, "not a message of this page")
                    raise ConnectionClosedError(None, None)
                return raw

        return CheckedConnection

    def _answer(self, connection: ServerConnection, request: Request, serve_file: Any) -> Response | None:
        """None opens a socket; otherwise the page, or why not."""
        path, question_mark, _ = request.path.partition("?")
        reaches = "'none'"
        is_socket = bool(request.headers.get_all("Upgrade"))
        if not (self._is_own_path(path) and _is_own_origin(request, is_socket) and not (is_socket and question_mark)):
            response = connection.respond(HTTPStatus.FORBIDDEN, _REFUSED)
        elif is_socket:
            return None
        elif question_mark:
            # viser's script takes orders from the query, such as another server to get its scene from, and writes its own address there.
            response = connection.respond(HTTPStatus.SEE_OTHER, "")
            response.headers["Location"] = self.path
        else:
            response = serve_file(connection, replace(request, path="/"))
            # Only here: it holds the token.
            reaches = f"ws://{request.headers['Host']}{self.path} data: blob:"
        for name, value in _headers(reaches).items():
            response.headers[name] = value
        return response

    def _is_own_path(self, path: str) -> bool:
        return hmac.compare_digest(path.encode("utf-8", "surrogateescape"), self.path.encode())

    def _fault(self, raw: bytes | str) -> str | None:
        """What is wrong with a message; None for one that the page's own script sends."""
        if not isinstance(raw, bytes):
            return "it is text"
        try:
            message = msgspec.msgpack.decode(raw)
        except (msgspec.DecodeError, RecursionError, ValueError):
            return "it is not MessagePack"
        if not isinstance(message, dict):
            return f"it is a {type(message).__name__}"
        kind = message.pop("type", None)
        if kind == "ViewerCameraMessage":
            return None if _is_camera(message) else "its camera is none"
        if kind == "GuiUpdateMessage":
            return self._update_fault(message)
        return f"its type is {_short(kind)}"

    def _update_fault(self, message: dict[Any, Any]) -> str | None:
        uuid, updates = message.get("uuid"), message.get("updates")
        if message.keys() != {"uuid", "updates"} or not isinstance(updates, dict) or updates.keys() != {"value"}:
            return "it sets something else than the value of a control"
        rule = self._rule_from_control.get(uuid) if isinstance(uuid, str) else None
        if rule is None:
            return "it sets a control that is not there"
        return None if rule(updates["value"]) else f"it sets a control to {_short(updates['value'])}"


def within(low: float, high: float) -> Rule:
    """Numbers of low..high."""
    return lambda value: _is_number(value) and low <= value <= high  # type: ignore[operator]


def one_of(*values: str) -> Rule:
    """These strings."""
    return lambda value: isinstance(value, str) and value in values


def is_bool(value: object) -> bool:
    """True and False, and nothing that stands for them."""
    return isinstance(value, bool)


def _headers(reaches: str) -> dict[str, str]:
    policy = (
        "default-src 'none'",
        # viser's page is one file that unpacks its own scripts, of which one compiles others.
        "script-src 'unsafe-inline' 'unsafe-eval' blob:",
        "worker-src blob: data:",
        "style-src 'unsafe-inline'",
        "img-src data: blob:",
        "font-src data:",
        f"connect-src {reaches}",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
    return {
        "Content-Security-Policy": "; ".join(policy),
        "X-Frame-Options": "DENY",
        "X-Content-Type-Options": "nosniff",
        # The address is the key.
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-store",
    }


def _is_own_origin(request: Request, is_socket: bool) -> bool:
    """Whether the browser opened it for this page, and by a name that can only be this computer's or a tunnel's."""
    hosts, origins = request.headers.get_all("Host"), request.headers.get_all("Origin")
    if len(hosts) != 1 or _OWN_HOST.fullmatch(hosts[0]) is None:
        return False
    # Browsers name the origin for every socket, and not for an address that somebody opens.
    return origins == [f"http://{hosts[0]}"] or (not origins and not is_socket)


def _is_camera(message: dict[Any, Any]) -> bool:
    if message.keys() != {*_CAMERA, *_LENS} or not all(_is_number(message[name]) for name in _LENS):
        return False
    vectors = [(message[name], length) for name, length in _CAMERA.items()]
    if not all(isinstance(vector, list) and len(vector) == length and all(map(_is_number, vector)) for vector, length in vectors):
        return False
    sees = message["fov"] > 0 and min(message["image_height"], message["image_width"]) >= 0
    return sees and math.hypot(*message["wxyz"]) > 0.5


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MAX_NUMBER


def _abort(transport: asyncio.BaseTransport) -> None:
    if isinstance(transport, asyncio.WriteTransport):
        transport.abort()


def _in_one_line(handler: Callable[[ServerConnection], Any]) -> Callable[[ServerConnection], Any]:
    async def handle(connection: ServerConnection) -> None:
        try:
            await handler(connection)
        except Exception as error:
            _say(f"closed a browser's connection after a fault: {type(error).__name__}: {error}")
            await connection.close(CloseCode.INTERNAL_ERROR)

    return handle


def _say(text: str) -> None:
    print(f"page: {' '.join(text.split())}", file=sys.stderr)


def _short(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _unknown_viser(why: str) -> UserError:
    import viser

    return UserError(
        f"expected a viser whose page can be kept from strangers, but {viser.__version__} cannot: {why}; "
        "nothing is served: install viser 1.1.1, or leave --web out"
    )
