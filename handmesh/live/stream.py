"""`--stream`: the hands of each frame for other programs, as json over UDP or on stdout. docs/stream.md explains the frames.

json, schema "handmesh.stream/1": one object a frame, in one line; over UDP one datagram each.
    schema, frame (index), name, time_s (by the source's clock),
    captured_unix_s (when the frame had been read), sent_unix_s (when this text was made), seconds since 1970,
    part, parts: 0 and 1, unless a frame has more hands than a datagram holds: then parts 0 .. parts - 1 have some of them each,
    hands: a list of
        track_id, side ("left" or "right"), score,
        wrist: position_m [3], quaternion_wxyz [4] (w >= 0), the pose of the wrist joint in the camera,
        joints_m [21][3], keypoints_px [21][2] and landmarks_px [21][2] in `skeleton.JOINTS` order,
        keypoint_spread_m [21], how far off each is expected to be; null where that is not known,
        mano_pose [48]: rotation vectors, the hand's in the camera first, then 15 finger joints in `skeleton.MANO_JOINTS` order; of the
            hand's own side, and absolute: zero is the flat hand, as with `flat_hand_mean=True`,
        betas [10], scale: joints_m are so many times what the model gives for the betas.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np

from handmesh.errors import UserError
from handmesh.geometry.rotation import rotmat_to_rotvec
from handmesh.hand_model.mano_params import to_mano
from handmesh.hand_model.skinning import HandModel
from handmesh.live.sinks import Shot, rounded, spread_to_json
from handmesh.records import Hand

SCHEMA = "handmesh.stream/1"
STDOUT = "stdout"
# macOS sends none that are larger than 9216 bytes; elsewhere the limit is 65507.
MAX_DATAGRAM_BYTES = 8192
# What a network does now and then: nobody listens yet, a queue is full, a cable is out. The next frame is tried again.
_PASSING_ERRORS = frozenset(
    (
        *(errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS, errno.ECONNREFUSED),
        *(errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH),
    )
)
# How long the end of a run waits for a reader to take the last line.
_LAST_LINE_S = 1.0


class ReaderLeft(Exception):  # noqa: N818 - it is no mistake of anybody
    """Nobody reads the stream any more: the run is over, and that is no error."""


class Sender(Protocol):
    """Takes one frame's objects."""

    max_bytes: int | None

    def send(self, text: bytes) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class UdpAddress:
    """Where datagrams go: the first address of a host's name, IPv4 before IPv6."""

    family: socket.AddressFamily
    address: tuple[Any, ...]


class StreamSink:
    """Sends each shot's hands; a `sinks.Sink`.

    Args:
        sender: of texts.
        hand_model: the model that made the hands.
    """

    def __init__(self, sender: Sender, hand_model: HandModel) -> None:
        self._sender = sender
        self._hand_model = hand_model

    def write(self, shot: Shot) -> None:
        """Send one frame.

        Raises:
            ReaderLeft: stdout was closed at its other end.
            UserError: it cannot be sent.
        """
        for text in shot_to_texts(shot, self._hand_model, self._sender.max_bytes):
            self._sender.send(text)

    def close(self) -> None:
        """Close the socket, or let the reader have the last line."""
        self._sender.close()


class UdpSender:
    """Datagrams without any wait: what cannot be sent now is lost."""

    max_bytes: int | None = MAX_DATAGRAM_BYTES

    def __init__(self, where: UdpAddress) -> None:
        self._socket = socket.socket(where.family, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._address = where.address

    def send(self, text: bytes) -> None:
        """One datagram.

        Raises:
            UserError: the system refuses the address.
        """
        try:
            self._socket.sendto(text, self._address)
        except OSError as error:
            if error.errno not in _PASSING_ERRORS:
                raise UserError(f"cannot send to udp {self._address[0]}: {error.strerror}; give another --stream") from error

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class LineSender:
    """Every line to a file descriptor, which is closed at the end; a slow reader is waited for. For files."""

    max_bytes: int | None = None

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def send(self, text: bytes) -> None:
        """One line.

        Raises:
            ReaderLeft: it was closed at its other end.
            UserError: it cannot be written.
        """
        try:
            _write_line(self._descriptor, text)
        except OSError as error:
            raise _reason(error) from error

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)


class NewestLineSender:
    """As `LineSender`, but nobody waits: while the reader is busy, a newer line takes the place of the one that waits. For cameras."""

    max_bytes: int | None = None

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._newest: bytes | None = None
        self._is_over = False
        self._error: OSError | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="handmesh stream", daemon=True)
        self._thread.start()

    def send(self, text: bytes) -> None:
        """Leave a line to be written.

        Raises:
            ReaderLeft: it was closed at its other end.
            UserError: an earlier line could not be written.
        """
        with self._changed:
            if self._error is not None:
                raise _reason(self._error) from self._error
            self._newest = text
            self._changed.notify()

    def close(self) -> None:
        """Let the reader have the last line, if it takes it soon. The thread closes the descriptor, whenever it can."""
        with self._changed:
            self._is_over = True
            self._changed.notify()
        self._thread.join(_LAST_LINE_S)

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._newest is not None or self._is_over)
                    text, self._newest = self._newest, None
                if text is None:
                    return
                _write_line(self._descriptor, text)
        except OSError as error:
            with self._changed:
                self._error = error
        finally:
            os.close(self._descriptor)


def open_stream(where: str, hand_model: HandModel, is_live: bool = False) -> StreamSink:
    """The sink of `--stream`.

    On stdout nothing else may be printed from then on; what is sent goes to a copy of its file descriptor, so that
    `contextlib.redirect_stdout(sys.stderr)` can move all that is printed out of the way.

    Args:
        where: udp://HOST:PORT, or "stdout".
        hand_model: the model that makes the hands.
        is_live: frames come from a camera: they never wait for a slow reader of stdout, who then gets the newest.

    Raises:
        UserError: see `parse_stream`; or stdout is closed.
    """
    address = parse_stream(where)
    if address is not None:
        return StreamSink(UdpSender(address), hand_model)
    try:
        descriptor = os.dup(1)
    except OSError as error:
        raise UserError("expected an open stdout for --stream stdout, but it is closed; pipe it into a program or a file") from error
    return StreamSink(NewestLineSender(descriptor) if is_live else LineSender(descriptor), hand_model)


def parse_stream(where: str) -> UdpAddress | None:
    """Where `--stream` sends: an address, or None for stdout. Looks up the host's name; needs no hand model, so it can be asked early.

    Raises:
        UserError: another form, or a host that nobody knows.
    """
    if where == STDOUT:
        return None
    expected = "expected --stream as udp://HOST:PORT, like udp://127.0.0.1:9000, or stdout"
    try:
        parts = urlsplit(where)
        host, port = parts.hostname, parts.port
    except ValueError as error:  # a port beyond 65535, half a bracket
        raise UserError(f"{expected}, got {where!r}: {error}") from error
    if parts.scheme != "udp" or not host or not port or parts.path not in ("", "/") or parts.query or parts.username:
        raise UserError(f"{expected}, got {where!r}")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        raise UserError(f"expected a host that is known for --stream, got {host!r}; check its name or give its number") from error
    family, _, _, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    return UdpAddress(family, address)


def shot_to_texts(shot: Shot, hand_model: HandModel, max_bytes: int | None = None) -> list[bytes]:
    """A frame as the module's head describes it: one text, or several where all hands together have more than `max_bytes`.

    Raises:
        UserError: a hand was posed with another model.
    """
    hands = [_hand_to_json(hand, hand_model) for hand in shot.hands]
    whole = _to_text(shot, hands, 0, 1)
    if max_bytes is None or len(whole) <= max_bytes or len(hands) < 2:
        return [whole]
    return [_to_text(shot, [hand], part, len(hands)) for part, hand in enumerate(hands)]


def _to_text(shot: Shot, hands: Sequence[dict[str, Any]], part: int, parts: int) -> bytes:
    # A frame carries the clock that never jumps; the wall clock of that moment is as far in the past.
    sent_s = time.time()
    captured_s = sent_s - (time.perf_counter() - shot.frame.arrived_s)
    message = {
        "schema": SCHEMA,
        "frame": shot.frame.index,
        "name": shot.frame.name,
        "time_s": round(shot.frame.time_s, 6),
        "captured_unix_s": round(captured_s, 6),
        "sent_unix_s": round(sent_s, 6),
        "part": part,
        "parts": parts,
        "hands": hands,
    }
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def _hand_to_json(hand: Hand, hand_model: HandModel) -> dict[str, Any]:
    mano = to_mano(hand, hand_model, flat_hand_mean=True)
    return {
        "track_id": hand.track_id,
        "side": "right" if hand.is_right else "left",
        "score": round(float(hand.score), 4),
        "wrist": {
            "position_m": rounded(hand.T_camera_wrist[:3, 3], 5),
            "quaternion_wxyz": rounded(rotmat_to_quaternion_wxyz(hand.T_camera_wrist[:3, :3]), 6),
        },
        "joints_m": rounded(hand.joints_m, 5),
        "keypoints_px": rounded(hand.keypoints_px, 2),
        "landmarks_px": rounded(hand.landmarks_px, 2),
        "keypoint_spread_m": spread_to_json(hand),
        "mano_pose": rounded(np.concatenate([mano.global_orient, mano.hand_pose]), 5),
        "betas": rounded(mano.betas, 4),
        "scale": round(float(hand.scale), 5),
    }


def rotmat_to_quaternion_wxyz(rotmat: np.ndarray) -> np.ndarray:
    """(3, 3) rotation -> (4,) unit quaternion (w, x, y, z) with w >= 0."""
    rotvec = rotmat_to_rotvec(np.asarray(rotmat, np.float64))
    angle_rad = float(np.linalg.norm(rotvec))
    # np.sinc(x) is sin(pi x) / (pi x): no division by an angle of zero.
    return np.concatenate([[np.cos(angle_rad / 2)], rotvec * (0.5 * np.sinc(angle_rad / (2 * np.pi)))])


def _write_line(descriptor: int, text: bytes) -> None:
    left = memoryview(text)
    while left:
        left = left[os.write(descriptor, left) :]


def _reason(error: OSError) -> Exception:
    if isinstance(error, BrokenPipeError):
        return ReaderLeft("nobody reads stdout any more")
    return UserError(f"cannot write the stream to stdout: {error.strerror}; what was written before can be read")
