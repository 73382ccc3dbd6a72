"""Where the networks' files come from: the cache, the installed package, or one download."""

import hashlib
import io
import sys
import urllib.request
from importlib.machinery import ModuleSpec
from urllib.error import URLError

import pytest

from handmesh.detection import files
from handmesh.detection.files import NETWORKS, NetworkFile, cache_folder, network_path
from handmesh.errors import UserError

NAME = "hand_landmark_lite"
DATA = b"a network"


@pytest.fixture(autouse=True)
def _a_small_network(tmp_path, monkeypatch):
    """No test reads the user's cache or goes online; the network is a few bytes, and no package carries it."""
    monkeypatch.setenv("HANDMESH_CACHE", str(tmp_path / "cache"))
    network = NetworkFile("modules/some/network.tflite", hashlib.sha256(DATA).hexdigest(), len(DATA))
    monkeypatch.setitem(NETWORKS, NAME, network)
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda _name: None)
    monkeypatch.setattr(urllib.request, "urlopen", _refuse)


def _refuse(*_arguments, **_options):
    raise URLError("no network")


def _carry(tmp_path, monkeypatch, data):
    """A package that carries the file."""
    path = tmp_path / "mediapipe" / NETWORKS[NAME].place
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    spec = ModuleSpec("mediapipe", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path / "mediapipe")]
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda _name: spec)
    return path


def _serve(monkeypatch, data):
    asked = []

    def reply(url, timeout):
        assert timeout > 0
        asked.append(url)
        return io.BytesIO(data)

    monkeypatch.setattr(urllib.request, "urlopen", reply)
    return asked


def test_the_package_carries_it(tmp_path, monkeypatch):
    carried = _carry(tmp_path, monkeypatch, DATA)
    assert network_path(NAME) == carried


def test_the_cache_comes_first(tmp_path, monkeypatch):
    _carry(tmp_path, monkeypatch, DATA)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "network.tflite").write_bytes(DATA)
    assert network_path(NAME) == tmp_path / "cache" / "network.tflite"


def test_another_file_in_the_cache_is_refused_in_one_line(tmp_path, monkeypatch):
    _carry(tmp_path, monkeypatch, DATA)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "network.tflite").write_bytes(b"half a download")
    with pytest.raises(UserError, match="delete it") as error:
        network_path(NAME)
    assert str(tmp_path / "cache" / "network.tflite") in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("carried", [None, b"another version's"])
def test_a_download_is_checked_and_kept(tmp_path, monkeypatch, capsys, carried):
    if carried is not None:
        _carry(tmp_path, monkeypatch, carried)
    asked = _serve(monkeypatch, DATA)
    assert network_path(NAME).read_bytes() == DATA
    assert asked == [NETWORKS[NAME].url] and asked[0].startswith("https://") and asked[0].endswith("/network.tflite")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["network.tflite"]
    assert "downloading" in capsys.readouterr().err
    monkeypatch.setattr(urllib.request, "urlopen", _refuse)
    assert network_path(NAME).read_bytes() == DATA
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("data", [b"", DATA[:-1], DATA + b"!", b"something else altogether"])
def test_a_wrong_download_leaves_nothing(tmp_path, monkeypatch, data):
    _serve(monkeypatch, data)
    with pytest.raises(UserError, match="checksum") as error:
        network_path(NAME)
    assert NETWORKS[NAME].url in str(error.value) and not (tmp_path / "cache").exists()


def test_a_download_that_breaks_off_leaves_nothing(tmp_path, monkeypatch):
    class Broken(io.BytesIO):
        def read(self, size=-1):
            raise ConnectionResetError("reset")

    monkeypatch.setattr(urllib.request, "urlopen", lambda *_arguments, **_options: Broken())
    with pytest.raises(UserError, match="reset"):
        network_path(NAME)
    assert not (tmp_path / "cache").exists()


def test_offline_says_what_to_download_and_where_to_put_it(tmp_path):
    with pytest.raises(UserError) as error:
        network_path(NAME)
    assert NETWORKS[NAME].url in str(error.value) and str(tmp_path / "cache" / "network.tflite") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_cache_that_cannot_be_written_says_so(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file where the folder should be")
    _serve(monkeypatch, DATA)
    with pytest.raises(UserError, match="HANDMESH_CACHE"):
        network_path(NAME)


def test_the_cache_is_where_the_user_says(monkeypatch, tmp_path):
    monkeypatch.setenv("HANDMESH_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("HANDMESH_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "handmesh"
