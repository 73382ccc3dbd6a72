"""Where the files of MediaPipe's networks are: in the cache, in the installed mediapipe, which is never imported, or downloaded once."""

from __future__ import annotations

import hashlib
import http.client
import importlib.util
import os
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from handmesh.errors import UserError
from handmesh.wholefile import replacing

NetworkName = Literal["palm_detection_full", "hand_landmark_full", "hand_landmark_lite"]

_DOWNLOAD_TIMEOUT_S = 30


@dataclass(frozen=True)
class NetworkFile:
    """One of MediaPipe's networks.

    Attributes:
        place: of its .tflite file in the package mediapipe 0.10.21.
        sha256: of that file.
        size: bytes.
    """

    place: str
    sha256: str
    size: int

    @property
    def file(self) -> str:
        """The file's own name, in the cache too."""
        return self.place.rsplit("/", 1)[-1]

    @property
    def url(self) -> str:
        """MediaPipe's own copy, the one that third_party/external_files.bzl of its sources names."""
        return f"https://storage.googleapis.com/mediapipe-assets/{self.file}"


NETWORKS: dict[NetworkName, NetworkFile] = {
    "palm_detection_full": NetworkFile(
        "modules/palm_detection/palm_detection_full.tflite",
        "1b14e9422c6ad006cde6581a46c8b90dd573c07ab7f3934b5589e7cea3f89a54",
        2_339_846,
    ),
    "hand_landmark_full": NetworkFile(
        "modules/hand_landmark/hand_landmark_full.tflite",
        "11c272b891e1a99ab034208e23937a8008388cf11ed2a9d776ed3d01d0ba00e3",
        5_478_917,
    ),
    "hand_landmark_lite": NetworkFile(
        "modules/hand_landmark/hand_landmark_lite.tflite",
        "048edd3645c9bf7397d19a9f6e3a42957d6e414c9bea6598030a2e9b624156e6",
        2_071_597,
    ),
}


def network_path(name: NetworkName) -> Path:
    """The checked .tflite file of a network.

    Raises:
        UserError: a file in the cache is another one, or there is none and it cannot be downloaded; says what to do by hand.
    """
    network = NETWORKS[name]
    cached = cache_folder() / network.file
    if cached.is_file():
        found = _sha256(cached.read_bytes())
        if found != network.sha256:
            raise UserError(
                f"expected {cached} with the checksum {network.sha256[:16]}..., got {found[:16]}...; delete it and run again, "
                f"or save {network.url} there"
            )
        return cached
    carried = _in_mediapipe(network)
    return carried if carried is not None else _download(network, cached)


def cache_folder() -> Path:
    """Where downloads are kept: $HANDMESH_CACHE, or the platform's cache folder."""
    if chosen := os.environ.get("HANDMESH_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData/Local")) / "handmesh" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/handmesh"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "handmesh"


def _in_mediapipe(network: NetworkFile) -> Path | None:
    """The file in the installed package, found without running any of it; None where there is none or another."""
    spec = importlib.util.find_spec("mediapipe")
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder) / network.place
        if path.is_file() and _sha256(path.read_bytes()) == network.sha256:
            return path
    return None


def _download(network: NetworkFile, target: Path) -> Path:
    by_hand = f"download {network.url} on another machine and save it as {target}"
    print(f"downloading MediaPipe's {network.file} once ({network.size / 1e6:.1f} MB) to {target}", file=sys.stderr)
    try:
        with urllib.request.urlopen(network.url, timeout=_DOWNLOAD_TIMEOUT_S) as reply:
            # One byte more than there should be: an answer that never ends is another file.
            data = reply.read(network.size + 1)
    except (OSError, http.client.HTTPException) as error:
        raise UserError(f"expected {network.file} in the cache or from its maker, but the download failed ({error}); {by_hand}") from error
    found = _sha256(data)
    if found != network.sha256:
        raise UserError(f"expected a download with the checksum {network.sha256[:16]}..., got {found[:16]}...; {by_hand}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise UserError(
            f"expected a folder to keep {network.file} in, got {target.parent} ({error.strerror}); "
            "set HANDMESH_CACHE to a folder that can be written to"
        ) from error
    return target


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
