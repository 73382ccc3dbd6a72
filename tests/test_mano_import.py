"""MANO's files in, a checked right hand out; whatever else a file holds is refused in one line and runs nothing."""

from __future__ import annotations

import builtins
import functools
import io
import operator
import os
import pickle
import pickletools
import re
import struct
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generated_mano import (
    Named,
    call_pickle,
    csc,
    left_arrays,
    mano_entries,
    mano_pickle,
    plain_arrays,
    plain_load,
    python2_pickle,
    python3_pickle,
    raw_call,
    right_arrays,
    select_over_ch,
    zip_of,
)
from measures import max_mm

from handmesh import cli
from handmesh.errors import UserError
from handmesh.geometry.rotation import mirror_rotmat, rotvec_to_rotmat
from handmesh.hand_model import HandModel, load_hand_model
from handmesh.hand_model.assets import save_hand_model
from handmesh.hand_model.mano import MANO_FROM_LEFT_ID, MANO_ID, has_shape_bug, read_mano
from handmesh.hand_model.skinning import check_model, mirror_points, skin
from handmesh.hand_model.smplx_bridge import MANO_BETA_NAMES
from handmesh.hand_model.unpickle import LARGEST_FILE_BYTES, read_pickle
from handmesh.skeleton import FREIHAND_TIP_VERTICES

RIGHT = right_arrays()
RIGHT_PICKLE = mano_pickle(RIGHT)
LEFT_PICKLE = mano_pickle(left_arrays(RIGHT, has_bug=True))


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nobody's own data is read or written."""
    folder = tmp_path / "data of the user"
    monkeypatch.setenv("HANDMESH_DATA", str(folder))
    return folder


def assert_is(model: HandModel, arrays: dict[str, Any]) -> None:
    """Every number to single precision."""
    assert check_model(model) == []
    expected = plain_arrays(arrays)
    pairs = [
        (model.template_m, expected["v_template"]),
        (model.shape_dirs, expected["shapedirs"]),
        (model.pose_dirs, expected["posedirs"]),
        (model.joint_regressor, expected["J_regressor"]),
        (model.skin_weights, expected["weights"]),
        (model.mean_pose.ravel(), expected["hands_mean"]),
        (model.pose_components, expected["hands_components"]),
    ]
    for got, wanted in pairs:
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, wanted.astype(np.float32))
    np.testing.assert_array_equal(model.faces, expected["f"])
    assert tuple(model.tip_vertices) == FREIHAND_TIP_VERTICES
    assert model.beta_names == MANO_BETA_NAMES


def refusal(path: Path) -> str:
    """The one line that a file is refused with."""
    with pytest.raises(UserError) as caught:
        read_mano(path)
    message = str(caught.value)
    assert "\n" not in message and "expected" in message and path.name in message, message
    assert len(message) < 400, message
    return message


def random_pose(seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rotvec_to_rotmat(rng.normal(0, 0.5, (16, 3))), rng.normal(0, 1, 10)


# Good files


def _write_folder(path: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)


GOOD: dict[str, Callable[[Path], object]] = {
    "MANO_RIGHT.pkl": lambda path: path.write_bytes(RIGHT_PICKLE),
    "read and saved again by Python 3.pkl": lambda path: path.write_bytes(python3_pickle(mano_entries(RIGHT))),
    "without chumpy, protocol 2.pkl": lambda path: path.write_bytes(python3_pickle(plain_arrays(RIGHT))),
    "mano_v1_2.zip": lambda path: (
        path.write_bytes(zip_of({"mano_v1_2/models/MANO_RIGHT.pkl": RIGHT_PICKLE, "mano_v1_2/webuser/serialization.py": b"import os"}))
        and None
    ),
    "models/mano": lambda path: _write_folder(path, {"MANO_RIGHT.pkl": RIGHT_PICKLE}),
    "a parent": lambda path: _write_folder(path, {"here/mano_v1_2/models/MANO_RIGHT.pkl": RIGHT_PICKLE, "notes/a.txt": b"no hand"}),
    "raw.npz": lambda path: np.savez(path, **plain_arrays(RIGHT)),
    "compressed f32.npz": lambda path: np.savez_compressed(
        path,
        **{
            key: v.astype(np.float32) if key not in ("f", "kintree_table", "bs_style", "bs_type") else v
            for key, v in plain_arrays(RIGHT).items()
        },
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_every_form_of_mano_gives_the_same_hand(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    GOOD[name](path)
    found = read_mano(path)
    assert not found.was_left and found.notes == ()
    assert found.model.id == MANO_ID
    assert_is(found.model, RIGHT)


def test_the_generated_file_is_what_plain_pickle_reads(tmp_path: Path) -> None:
    # The maker of these tests' files is itself tested: pickle finds MANO's types and numbers in them.
    entries = plain_load(RIGHT_PICKLE)
    assert list(entries) == list(RIGHT)
    assert entries["bs_style"] == "lbs" and entries["kintree_table"].dtype == np.uint32
    for name, array in plain_arrays(RIGHT).items():
        np.testing.assert_array_equal(entries[name], array)
    opcodes = {opcode.name for opcode, _, _ in pickletools.genops(RIGHT_PICKLE)}
    assert {"BINSTRING", "SHORT_BINSTRING", "NEWOBJ", "BUILD"} <= opcodes
    assert not {"BINUNICODE", "BINBYTES", "STACK_GLOBAL"} & opcodes


def test_arrays_keep_their_order_and_type() -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "fortran": np.asfortranarray(rng.normal(0, 1, (3, 4))),
        "big endian": rng.normal(0, 1, (2, 5)).astype(">f4"),
        "bytes": np.arange(256, dtype=np.uint8),
        "one": np.array(2.5),
    }
    for data in (python2_pickle(arrays), python3_pickle(arrays)):
        read = read_pickle(data, "test")
        for name, array in arrays.items():
            np.testing.assert_array_equal(read[name], array)
            assert np.asarray(read[name]).dtype == array.dtype


def test_sparse_matrices_are_scipys(tmp_path: Path) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    dense = np.random.default_rng(0).normal(0, 1, (5, 7)) * (np.random.default_rng(1).uniform(size=(5, 7)) < 0.3)
    for matrix in (sparse.csc_matrix(dense), sparse.csr_matrix(dense)):
        read = read_pickle(pickle.dumps({"J_regressor": matrix}, 2), "test")
        np.testing.assert_array_equal(read["J_regressor"], dense)


def test_smplx_poses_the_same_arrays_alike(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    smplx = pytest.importorskip("smplx")
    struct = pytest.importorskip("smplx.utils").Struct(**plain_load(RIGHT_PICKLE))
    layer = smplx.MANOLayer("", data_struct=struct, dtype=torch.float64)
    (tmp_path / "MANO_RIGHT.pkl").write_bytes(RIGHT_PICKLE)
    model = read_mano(tmp_path / "MANO_RIGHT.pkl").model
    rotmats, betas = random_pose()
    said = layer(torch.from_numpy(betas[None]), torch.from_numpy(rotmats[None, :1]), torch.from_numpy(rotmats[None, 1:]))
    error_mm = max_mm(skin(model, rotmats, betas), said.vertices.numpy()[0])
    assert error_mm < 1e-3, f"vertices are {error_mm:.2g} mm from smplx"


# Left hands


@pytest.mark.parametrize("has_bug", [True, False])
def test_a_left_hand_becomes_the_right_one(has_bug: bool, tmp_path: Path) -> None:
    path = tmp_path / "MANO_LEFT.pkl"
    left = left_arrays(RIGHT, has_bug)
    path.write_bytes(mano_pickle(left))
    found = read_mano(path)
    assert found.was_left and found.model.id == MANO_FROM_LEFT_ID
    assert [note for note in found.notes if "shapedirs[:, 0, :]" in note and "mended" in note] == list(found.notes)
    assert len(found.notes) == has_bug
    for name in ("template_m", "shape_dirs", "pose_dirs", "mean_pose", "pose_components"):
        expected = getattr(_right_model(tmp_path), name)
        np.testing.assert_allclose(getattr(found.model, name), expected, atol=1e-7)
    # Wherever a triangle starts, it goes round the same way.
    assert sorted(map(_from_its_smallest, found.model.faces.tolist())) == sorted(map(_from_its_smallest, RIGHT["f"].tolist()))


def _from_its_smallest(face: list[int]) -> tuple[int, ...]:
    start = face.index(min(face))
    return (*face[start:], *face[:start])


def _right_model(tmp_path: Path) -> HandModel:
    path = tmp_path / "the right one.pkl"
    path.write_bytes(RIGHT_PICKLE)
    return read_mano(path).model


def test_the_mirrored_left_hand_poses_as_smplx_poses_the_left(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    smplx = pytest.importorskip("smplx")
    data = mano_pickle(left_arrays(RIGHT, has_bug=False))
    struct = pytest.importorskip("smplx.utils").Struct(**plain_load(data))
    layer = smplx.MANOLayer("", data_struct=struct, dtype=torch.float64, is_rhand=False)
    (tmp_path / "MANO_LEFT.pkl").write_bytes(data)
    model = read_mano(tmp_path / "MANO_LEFT.pkl").model
    rotmats, betas = random_pose()
    left = layer(*(torch.from_numpy(a[None]) for a in (betas, rotmats[:1], rotmats[1:]))).vertices.numpy()[0]
    error_mm = max_mm(mirror_points(skin(model, mirror_rotmat(rotmats), betas)), left)
    assert error_mm < 1e-3, f"vertices are {error_mm:.2g} mm from smplx's left hand"


@pytest.mark.parametrize("seed", range(5))
def test_the_shape_bug_is_seen_with_and_without_the_right_hand(seed: int) -> None:
    right = plain_arrays(right_arrays(seed))
    for has_bug in (True, False):
        left = left_arrays(right, has_bug)
        assert has_shape_bug(left["v_template"], left["shapedirs"]) == has_bug
        assert has_shape_bug(left["v_template"], left["shapedirs"], right["shapedirs"]) == has_bug


def test_the_shape_bug_is_seen_on_a_hand_with_the_spread_of_adults(hand_model: HandModel) -> None:
    # The open hand's betas follow published statistics, not this file's maker.
    mirrored_m = mirror_points(hand_model.template_m)
    assert has_shape_bug(mirrored_m, hand_model.shape_dirs)
    assert not has_shape_bug(mirrored_m, hand_model.shape_dirs * np.array([-1.0, 1.0, 1.0])[:, None])


@pytest.mark.parametrize("is_zip", [True, False])
def test_of_both_hands_the_right_one_is_taken_and_the_left_checked(is_zip: bool, tmp_path: Path) -> None:
    files = {"mano_v1_2/models/MANO_LEFT.pkl": LEFT_PICKLE, "mano_v1_2/models/MANO_RIGHT.pkl": RIGHT_PICKLE}
    path = tmp_path / "mano.zip"
    if is_zip:
        path.write_bytes(zip_of(files))
    else:
        _write_folder(path, files)
    found = read_mano(path)
    assert not found.was_left and "MANO_RIGHT.pkl" in found.source
    assert len(found.notes) == 1 and "MANO_LEFT.pkl" in found.notes[0] and "shapedirs[:, 0, :]" in found.notes[0]
    assert "mended" not in found.notes[0]
    assert_is(found.model, RIGHT)


def test_the_side_is_the_contents_not_the_names(tmp_path: Path) -> None:
    _write_folder(tmp_path / "swapped", {"MANO_RIGHT.pkl": LEFT_PICKLE, "MANO_LEFT.pkl": RIGHT_PICKLE})
    found = read_mano(tmp_path / "swapped")
    assert not found.was_left
    assert_is(found.model, RIGHT)
    assert sum("whatever its name says" in note for note in found.notes) == 2


def test_a_broken_left_file_does_not_stop_the_right_one(tmp_path: Path) -> None:
    _write_folder(tmp_path / "both", {"MANO_RIGHT.pkl": RIGHT_PICKLE, "MANO_LEFT.pkl": LEFT_PICKLE[:-1000]})
    found = read_mano(tmp_path / "both")
    assert_is(found.model, RIGHT)
    assert len(found.notes) == 1 and "MANO_LEFT.pkl" in found.notes[0]


def test_a_broken_right_file_is_not_replaced_by_the_left_one(tmp_path: Path) -> None:
    _write_folder(tmp_path / "both", {"MANO_RIGHT.pkl": RIGHT_PICKLE[:-1000], "MANO_LEFT.pkl": LEFT_PICKLE})
    with pytest.raises(UserError, match=r"MANO_RIGHT\.pkl"):
        read_mano(tmp_path / "both")


# The command


def run_command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["handmesh-mano", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.mano()
    return int(end.value.code or 0)


def test_an_import_is_found_by_name(tmp_path: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    (tmp_path / "MANO_RIGHT.pkl").write_bytes(RIGHT_PICKLE)
    assert run_command(monkeypatch, "import", str(tmp_path / "MANO_RIGHT.pkl")) == 0
    said = capsys.readouterr()
    assert "right hand" in said.out and str(data_folder) in said.out and said.err == ""
    assert_is(load_hand_model("mano"), RIGHT)
    # What was written can itself be imported, and gives the same bytes.
    (written,) = data_folder.iterdir()
    before = written.read_bytes()
    copy = tmp_path / "copy.npz"
    copy.write_bytes(before)
    assert run_command(monkeypatch, "import", str(copy)) == 0
    assert [file.read_bytes() for file in data_folder.iterdir()] == [before]


def test_a_failed_import_leaves_everything_as_it_was(
    tmp_path: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    bad = tmp_path / "MANO_RIGHT.pkl"
    bad.write_bytes(RIGHT_PICKLE[:-7])
    assert run_command(monkeypatch, "import", str(bad)) == 2
    assert not data_folder.exists()
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("arguments", [(), ("import",), ("import", "nothing.pkl"), ("import", "x" * 300)])
def test_without_a_file_the_command_is_a_manual(arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    assert run_command(monkeypatch, *arguments) == 2
    said = capsys.readouterr()
    assert "mano.is.tue.mpg.de" in said.out and "handmesh-mano import" in said.out
    assert len(said.err.splitlines()) == 1 and "handmesh-mano: error: expected" in said.err


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    (tmp_path / "MANO_RIGHT.pkl").write_bytes(RIGHT_PICKLE)
    (tmp_path / "a file").write_bytes(b"")
    monkeypatch.setenv("HANDMESH_DATA", str(tmp_path / "a file" / "data"))
    assert run_command(monkeypatch, "import", str(tmp_path / "MANO_RIGHT.pkl")) == 2
    assert "HANDMESH_DATA" in capsys.readouterr().err


def test_the_path_is_printed(data_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    assert run_command(monkeypatch, "path") == 0
    assert Path(capsys.readouterr().out.strip()).parent == data_folder


def test_nothing_follows_path(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    assert run_command(monkeypatch, "path", "extra") == 2
    said = capsys.readouterr()
    assert said.out == "" and len(said.err.splitlines()) == 1 and "'extra'" in said.err


def test_help(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    assert run_command(monkeypatch, "--help") == 0
    assert "MANO_RIGHT.pkl" in capsys.readouterr().out


def test_loading_by_name_without_an_import_says_where_to_get_it() -> None:
    with pytest.raises(UserError, match=r"mano\.is\.tue\.mpg\.de.*handmesh-mano import") as caught:
        load_hand_model("mano")
    assert "\n" not in str(caught.value)


def test_loading_another_name_names_the_known_ones() -> None:
    with pytest.raises(UserError, match="'open'.*'mano' or a hand model"):
        load_hand_model("nimble")
    with pytest.raises(UserError, match="handmesh-mano import 'MANO_RIGHT.pkl'"):
        load_hand_model("MANO_RIGHT.pkl")


# Hostile pickles: refused, and nothing runs


def _raw(program: bytes) -> bytes:
    return b"\x80\x02" + program + b"."


def _array(dtype: bytes, shape: bytes, data: bytes, calls: bytes = b"") -> bytes:
    """An ndarray with a state of one's own."""
    head = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01" + shape + dtype
    return head + b"\x89" + (calls or b"T" + struct.pack("<i", len(data)) + data) + b"tb"


F8 = b"cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
O8 = F8.replace(b"f8", b"O8").replace(b"U\x01<", b"U\x01|")


def _short(text: str) -> bytes:
    return b"U" + bytes([len(text)]) + text.encode()


def hostile(marker: str) -> dict[str, bytes]:
    """Pickles that would make a file named `marker`, most by a name that they ask for."""
    touch = f"touch {marker}"
    code = f"open({marker!r}, 'w')"
    shell = b"cos\nsystem\n(" + _short(touch) + b"tR"
    good_state = b"}" + _short("x") + _array(F8, b"K\x01\x85", bytes(8)) + b"s"
    return {
        "os.system": raw_call("os", "system", touch),
        "posix.system": call_pickle(os.system, touch),
        "builtins.eval": raw_call("builtins", "eval", code),
        "__builtin__.eval": raw_call("__builtin__", "eval", code),
        "builtins.exec": call_pickle(builtins.exec, code),
        "builtins.open": raw_call("builtins", "open", marker, "w"),
        "builtins.__import__": call_pickle(builtins.__import__, "os"),
        "getattr chain": _raw(
            b"c__builtin__\ngetattr\n(c__builtin__\n__import__\n("
            + _short("os")
            + b"tR"
            + _short("system")
            + b"tR("
            + _short(touch)
            + b"tR"
        ),
        "operator.attrgetter": call_pickle(operator.attrgetter, "system"),
        "functools.partial": pickle.dumps(functools.partial(os.system, touch), 2),
        "subprocess.Popen": raw_call("subprocess", "Popen", touch),
        "pickle.loads, nested": call_pickle(pickle.loads, raw_call("os", "system", touch)),
        "numpy.load": call_pickle(np.load, marker),
        "numpy's loader": raw_call("numpy.lib.npyio", "load", marker),
        "dotted name": _raw(b"cnumpy.core.multiarray\n_reconstruct.__globals__\n."),
        "dotted module": raw_call("numpy.core.multiarray._reconstruct", "__class__", marker),
        "numpy.testing's exec": raw_call("numpy.testing._private.utils", "runstring", code),
        "code in __reduce__ of an array's entry": _raw(
            b"}" + _short("v_template") + _array(O8, b"K\x01\x85", b"", b"](" + shell + b"e") + b"s"
        ),
        "array of objects": pickle.dumps({"v_template": np.array([{"a": 1}], object)}, 2),
        "array with fields": pickle.dumps({"v_template": np.zeros(3, [("a", "f8")])}, 2),
        "copyreg makes a class": _raw(b"ccopy_reg\n_reconstructor\n(cos\n_Environ\nc__builtin__\nobject\nNtR"),
        "copyreg makes an object": _raw(b"ccopy_reg\n_reconstructor\n(c__builtin__\nobject\nc__builtin__\nobject\nNtR"),
        "copyreg.add_extension": raw_call("copyreg", "add_extension", "os", "system"),
        "codecs to another encoding": _raw(b"c_codecs\nencode\n(" + _short(marker) + _short("zlib") + b"tR"),
        "codecs.lookup": raw_call("_codecs", "lookup", "rot13"),
        "state on a name": _raw(b"cchumpy.ch\nCh\n}" + _short("__setstate__") + b"cos\nsystem\nsb"),
        "state on a known name": _raw(b"cchumpy.ch\nCh\n}" + _short("__setstate__") + b"K\x01sb"),
        "call of an array": _raw(_array(F8, b"K\x01\x85", bytes(8)) + b")R"),
        "call of a text": _raw(_short("os.system") + b"(" + _short(touch) + b"tR"),
        "state twice": _raw(b"}" + _short("a") + b"cchumpy.ch\nCh\n)\x81" + good_state + b"b" + good_state + b"bs"),
        "new with arguments": _raw(b"cchumpy.ch\nCh\n(" + _short(touch) + b"t\x81"),
        "INST": _raw(b"(" + _short(touch) + b"ios\nsystem\n"),
        "OBJ": _raw(b"(cos\nsystem\n" + _short(touch) + b"o"),
        "OBJ of a known name": _raw(b"(cchumpy.ch\nCh\no"),
        "STACK_GLOBAL without its protocol": _raw(b"U\x02osU\x06system\x93"),
        "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x01a\x85R.",
        "PERSID": _raw(b"Pos.system\n"),
        "EXT1": _raw(b"\x82\x01"),
        "protocol 5": pickle.dumps({"a": np.zeros(3)}, 5),
        "protocol 0": pickle.dumps({"a": 1}, 0),
        "after the end": RIGHT_PICKLE + shell + b".",
    }


@pytest.mark.parametrize("attack", hostile("x"))
def test_hostile_pickles_run_nothing(attack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "it ran"
    path = tmp_path / "MANO_RIGHT.pkl"
    monkeypatch.chdir(tmp_path)
    path.write_bytes(hostile(str(marker).replace(" ", "\\ "))[attack])
    before, modules = sorted(tmp_path.iterdir()), set(sys.modules)
    message = refusal(path)
    assert sorted(tmp_path.iterdir()) == before
    assert "subprocess" in modules or "subprocess" not in sys.modules
    named = re.fullmatch(r"[\w]+\.[\w]+", attack)
    assert named is None or attack.split(".")[-1] in message, message


def test_one_of_the_attacks_works_on_plain_pickle(tmp_path: Path) -> None:
    # So that the test above would notice.
    marker = tmp_path / "ran"
    with pytest.raises((TypeError, pickle.UnpicklingError)):
        pickle.loads(RIGHT_PICKLE[:2] + hostile(str(marker))["builtins.open"][2:-1] + b"R.")
    assert marker.exists()


def _bombs() -> dict[str, bytes]:
    deep = 100_000
    keys = b")q\x00" + b"".join(b"(" + (b"h" + bytes([level])) * 10 + b"tq" + bytes([level + 1]) for level in range(60))
    megabyte = b"X" + struct.pack("<I", 2**20) + bytes(2**20) + b"q\x00"
    eye = csc(np.eye(3)).state
    return {
        "nested lists": _raw(b"]" * deep + b"a" * (deep - 1)),
        "nested tuples": _raw(b")" + b"\x85" * deep),
        "nested tuples as a key": _raw(b"})" + b"\x85" * 4000 + b"K\x01s"),
        "tuples of tuples as a key": _raw(b"}" + keys + b"K\x01s"),
        "a list in itself": _raw(b"]q\x00" + b"h\x00a" * 20),
        "billion laughs": _raw(b"}" + _short("v_template") + b"]q\x00" + b"(" + b"h\x00" * 4000 + b"es"),
        "marks": _raw(b"(" * deep),
        "claimed text": _raw(b"T\xff\xff\xff\x7fabc"),
        "negative text": _raw(b"T\xff\xff\xff\xffabc"),
        "claimed unicode": _raw(b"X\xff\xff\xff\xffabc"),
        "claimed 8-byte text": _raw(b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc"),
        "claimed 8-byte bytes": _raw(b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc"),
        "claimed number": _raw(b"\x8b\xff\xff\xff\x7fabc"),
        "digits": _raw(b"L" + b"9" * 1_000_000 + b"L\n"),
        "large memo": _raw(b"]r\xff\xff\xff\xff"),
        "huge shape": _raw(_array(F8, b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86", bytes(8))),
        "huge number in a shape": _raw(_array(F8, b"\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x7f\x85", bytes(8))),
        "negative shape": _raw(_array(F8, b"J\xff\xff\xff\xff\x85", bytes(8))),
        "many copies of a text": _raw(b"(" + megabyte + b"c_codecs\nencode\nh\x00U\x06latin1\x86R" * 900 + b"l"),
        "many sparse matrices": python2_pickle(
            {f"{index}": Named("scipy.sparse.csc", "csc_matrix", {**eye, "_shape": (2**20, 3)}) for index in range(30)}
        ),
        "huge sparse matrix": python2_pickle({"a": Named("scipy.sparse.csc", "csc_matrix", {**eye, "_shape": (2**30, 3)})}),
        "many selections": _many_selections(),
    }


def _many_selections() -> bytes:
    """Hundreds of selections of one array of a megabyte: a small file that asks for gigabytes."""
    source = b"cchumpy.ch\nCh\n)\x81}" + _short("x") + _array(F8, b"J\x00\x00\x02\x00\x85", bytes(2**20)) + b"sbq\x00"
    indices = _array(F8.replace(b"f8", b"i8"), b"J\x00\x00\x02\x00\x85", bytes(2**20)) + b"q\x01"
    one = b"cchumpy.reordering\nSelect\n)\x81}(" + _short("a") + b"h\x00" + _short("idxs") + b"h\x01ub"
    return _raw(b"(" + source + indices + one * 300 + b"t")


def test_budgets_and_not_other_rules_stop_what_multiplies(tmp_path: Path) -> None:
    path = tmp_path / "MANO_RIGHT.pkl"
    for bomb in ("many copies of a text", "many sparse matrices", "huge sparse matrix", "many selections"):
        path.write_bytes(_bombs()[bomb])
        assert "its arrays need more than" in refusal(path), bomb
    path.write_bytes(_bombs()["nested tuples as a key"])
    assert "dictionary" in refusal(path)


@pytest.mark.parametrize("bomb", _bombs())
def test_bombs_are_refused_before_they_grow(bomb: str, tmp_path: Path) -> None:
    path = tmp_path / "MANO_RIGHT.pkl"
    path.write_bytes(_bombs()[bomb])
    tracemalloc.start()
    refusal(path)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 100 * 2**20, f"{peak_bytes >> 20} MB"


def test_files_beyond_the_limit_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "MANO_RIGHT.pkl"
    with path.open("wb") as file:
        file.write(RIGHT_PICKLE)
        file.truncate(2**34)
    tracemalloc.start()
    assert f"{LARGEST_FILE_BYTES >> 20} MB" in refusal(path)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 4 * LARGEST_FILE_BYTES


@pytest.mark.parametrize("share", [0, 1e-6, 1e-5, 1e-4, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.9999, 0.999999])
def test_truncated_files(share: float, tmp_path: Path) -> None:
    path = tmp_path / "MANO_RIGHT.pkl"
    path.write_bytes(RIGHT_PICKLE[: int(share * len(RIGHT_PICKLE))])
    refusal(path)


def _structure(data: bytes) -> np.ndarray:
    """Offsets of all bytes but those inside arrays."""
    steps = [position or 0 for _, _, position in pickletools.genops(data)]
    ends = [*steps[1:], len(data)]
    return np.concatenate([np.arange(start, min(end, start + 40)) for start, end in zip(steps, ends, strict=True)])


def test_mutated_files_are_refused_or_valid(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    structure = _structure(RIGHT_PICKLE)
    path = tmp_path / "MANO_RIGHT.pkl"
    outcomes = {"refused": 0, "valid": 0}
    for _ in range(300):
        data = bytearray(RIGHT_PICKLE)
        for _ in range(rng.integers(1, 4)):
            place = int(rng.choice(structure)) if rng.uniform() < 0.9 else int(rng.integers(len(data)))
            change = rng.integers(4)
            if change == 0:
                data[place] ^= 1 << int(rng.integers(8))
            elif change == 1:
                data[place] = int(rng.integers(256))
            elif change == 2:
                del data[place : place + int(rng.integers(1, 5))]
            else:
                data[place:place] = bytes(rng.integers(0, 256, rng.integers(1, 5), dtype=np.uint8))
            structure = structure[structure < len(data)]
        path.write_bytes(data)
        try:
            model = read_mano(path).model
        except UserError as error:
            assert "\n" not in str(error)
            outcomes["refused"] += 1
        else:
            assert check_model(model) == []
            outcomes["valid"] += 1
    assert min(outcomes.values()) > 10, outcomes


# Wrong contents


def _changed(name: str, change: Callable[[np.ndarray], Any]) -> Callable[[], dict[str, Any]]:
    return lambda: {**RIGHT, name: change(np.array(RIGHT[name]))}


def _with(array: np.ndarray, index: Any, value: float) -> np.ndarray:
    array[index] = value
    return array


def _turned(axes: list[int]) -> dict[str, Any]:
    return {**RIGHT, "v_template": RIGHT["v_template"][:, axes]}


WRONG: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "no template": (lambda: {key: value for key, value in RIGHT.items() if key != "v_template"}, "no v_template"),
    "fewer vertices": (_changed("v_template", lambda a: a[:-1]), "v_template is (777, 3)"),
    "other skinning": (lambda: {**RIGHT, "bs_style": "dqbs"}, "dqbs"),
    "flat posedirs": (_changed("posedirs", lambda a: a.reshape(-1, 135)), "posedirs"),
    "six components": (_changed("hands_components", lambda a: a[:6]), "hands_components"),
    "NaN": (_changed("v_template", lambda a: _with(a, (3, 1), np.nan)), "v_template"),
    "infinite": (_changed("posedirs", lambda a: _with(a, (3, 1, 7), np.inf)), "posedirs"),
    "larger than single precision": (_changed("hands_mean", lambda a: _with(a, 3, 1e300)), "hands_mean"),
    "integers": (_changed("weights", lambda a: a.astype(np.int32)), "weights"),
    "real faces": (_changed("f", lambda a: a.astype(np.float64)), "f is not"),
    "face out of range": (_changed("f", lambda a: _with(a, (0, 0), 778)), "0..777"),
    "negative face": (_changed("f", lambda a: _with(a.astype(np.int64), (0, 0), -1)), "0..777"),
    "face that wraps around": (_changed("f", lambda a: _with(a.astype(np.int64), (0, 0), 2**32 + 5)), "0..777"),
    "another skeleton": (_changed("kintree_table", lambda a: _with(a, (0, 5), 0)), "kintree_table"),
    "two roots": (_changed("kintree_table", lambda a: _with(a, (0, 5), 4294967295)), "kintree_table"),
    "weights that do not sum to one": (_changed("weights", lambda a: a * 1.1), "weights"),
    "regressor that does not sum to one": (_changed("J_regressor", lambda a: a * 0.5), "J_regressor"),
    "millimetres": (_changed("v_template", lambda a: a * 1000), "m long"),
    "centimetres": (_changed("v_template", lambda a: a * 100), "m long"),
    "turned to y": (lambda: _turned([1, 0, 2]), "turned"),
    "thumb to y": (lambda: _turned([0, 2, 1]), "turned"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_wrong_contents_are_named(fault: str, tmp_path: Path) -> None:
    make, says = WRONG[fault]
    path = tmp_path / "MANO_RIGHT.pkl"
    arrays = make()
    entries = {**arrays, "J_regressor": csc(arrays["J_regressor"]), "shapedirs": select_over_ch(arrays["shapedirs"])}
    path.write_bytes(python2_pickle(entries))
    assert says in refusal(path)


def test_a_selection_outside_its_array_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "MANO_RIGHT.pkl"
    for index in (-1, RIGHT["shapedirs"].size):
        entries = mano_entries(RIGHT)
        entries["shapedirs"].state["idxs"] = _with(entries["shapedirs"].state["idxs"].copy(), 5, index)
        path.write_bytes(python2_pickle(entries))
        assert "selection" in refusal(path)


OTHER: dict[str, tuple[bytes, str]] = {
    "empty.pkl": (b"", "expected"),
    "text.pkl": (b"this is not a pickle", "expected"),
    "page.zip": (b"<!DOCTYPE html><html>Sign in</html>", "web page"),
    "a list.pkl": (pickle.dumps([1, 2], 2), "no dictionary"),
    "a dictionary.pkl": (pickle.dumps({"a": 1}, 2), "v_template"),
    "cut.zip": (zip_of({"MANO_RIGHT.pkl": RIGHT_PICKLE})[:-30], "cannot be read"),
    "without.zip": (zip_of({"models/SMPL.pkl": b"x"}), "MANO_RIGHT.pkl"),
    "nothing.zip": (zip_of({}), "MANO_RIGHT.pkl"),
    "up.zip": (zip_of({"../../MANO_RIGHT.pkl": RIGHT_PICKLE}), "leads out"),
    "up elsewhere.zip": (zip_of({"MANO_RIGHT.pkl": RIGHT_PICKLE, "a/../../b": b""}), "leads out"),
    "windows.zip": (zip_of({"..\\MANO_RIGHT.pkl": RIGHT_PICKLE}), "leads out"),
    "root.zip": (zip_of({"/tmp/MANO_RIGHT.pkl": RIGHT_PICKLE}), "leads out"),
    "drive.zip": (zip_of({"C:\\MANO_RIGHT.pkl": RIGHT_PICKLE}), "leads out"),
    "escapes.zip": (zip_of({"\x1b[2J\n/MANO_RIGHT.pkl": RIGHT_PICKLE}), "leads out"),
    "bomb.zip": (zip_of({"MANO_RIGHT.pkl": bytes(LARGEST_FILE_BYTES + 1)}), "16 MB"),
    "corrupt.zip": (zip_of({"MANO_RIGHT.pkl": RIGHT_PICKLE}).replace(RIGHT_PICKLE[:0] or b"PK\x01\x02", b"PK\x01\x03"), "expected"),
    "hostile.zip": (zip_of({"MANO_RIGHT.pkl": raw_call("os", "system", "true")}), "os.system"),
}


@pytest.mark.parametrize("name", OTHER)
def test_other_files_are_refused(name: str, tmp_path: Path) -> None:
    content, says = OTHER[name]
    path = tmp_path / "here" / name
    path.parent.mkdir()
    path.write_bytes(content)
    assert says in refusal(path)
    assert [file.name for file in tmp_path.rglob("*")] == ["here", name]


def _link(entry: zipfile.ZipInfo) -> None:
    entry.external_attr = 0o120777 << 16


def test_links_and_encrypted_files_in_zips_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "links.zip"
    path.write_bytes(zip_of({"MANO_RIGHT.pkl": b"/etc/passwd"}, _link))
    assert "leads out" in refusal(path)
    data = bytearray(zip_of({"MANO_RIGHT.pkl": RIGHT_PICKLE}))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.rindex(signature) + offset] |= 1
    path = tmp_path / "secret.zip"
    path.write_bytes(data)
    assert "encrypted" in refusal(path)


def test_a_zip_that_lies_about_its_size(tmp_path: Path) -> None:
    # Declares 100 bytes, holds 64 MB: no more than declared is ever unpacked, and the checksum tells.
    data = bytearray(zip_of({"MANO_RIGHT.pkl": bytes(2**26)}))
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        place = data.rindex(signature) + offset
        data[place : place + 4] = struct.pack("<I", 100)
    path = tmp_path / "lies.zip"
    path.write_bytes(data)
    tracemalloc.start()
    refusal(path)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 4 * LARGEST_FILE_BYTES


def test_folders_without_mano_and_too_deep_ones(tmp_path: Path) -> None:
    _write_folder(tmp_path / "empty", {"a/b.txt": b""})
    assert "MANO_RIGHT.pkl" in refusal(tmp_path / "empty")
    _write_folder(tmp_path / "deep", {"1/2/3/4/MANO_RIGHT.pkl": RIGHT_PICKLE})
    assert "MANO_RIGHT.pkl" in refusal(tmp_path / "deep")


def test_mutated_archives_are_refused_or_valid(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    raw = io.BytesIO()
    np.savez(raw, **{key: value for key, value in plain_arrays(RIGHT).items() if key != "hands_coeffs"})
    originals = {"mano.zip": zip_of({"MANO_RIGHT.pkl": RIGHT_PICKLE}), "raw.npz": raw.getvalue()}
    for name, original in originals.items():
        places = [
            place + offset
            for signature, length in ((b"PK\x03\x04", 60), (b"PK\x01\x02", 60), (b"PK\x05\x06", 22), (b"\x93NUMPY", 128))
            for place in (match.start() for match in re.finditer(re.escape(signature), original))
            for offset in range(length)
            if place + offset < len(original)
        ]
        for _ in range(60):
            data = bytearray(original)
            for place in rng.choice(places, rng.integers(1, 4)):
                data[place] = int(rng.choice([0, 1, 127, 255, data[place] ^ 1 << rng.integers(8)]))
            path = tmp_path / name
            path.write_bytes(data)
            try:
                assert check_model(read_mano(path).model) == []
            except UserError as error:
                assert "\n" not in str(error)


def test_a_zip_whose_file_has_no_name(tmp_path: Path) -> None:
    path = tmp_path / "nameless.zip"
    path.write_bytes(zip_of({"": b"x"}))
    refusal(path)


# npz


def _npz(path: Path, **changes: Any) -> Path:
    np.savez(path, **{**plain_arrays(RIGHT), **changes})
    return path


def test_npz_with_objects_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "it ran"

    class Payload:
        def __reduce__(self) -> tuple[Any, tuple]:
            return open, (str(marker), "w")

    message = refusal(_npz(tmp_path / "a.npz", J_regressor=np.array(Payload(), object)))
    assert "pickled" in message and "J_regressor" in message
    assert not marker.exists()


def test_npz_that_claims_what_it_has_not(tmp_path: Path) -> None:
    claims = io.BytesIO()
    np.lib.format.write_array_header_1_0(claims, {"shape": (2**40, 3), "fortran_order": False, "descr": "<f8"})
    nested = io.BytesIO()
    nested.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"(" * 9000)
    for name, member in (("claims.npz", claims.getvalue()), ("nested.npz", nested.getvalue()), ("junk.npz", b"junk"), ("none.npz", b"")):
        path = tmp_path / name
        path.write_bytes(zip_of({"v_template.npy": member}))
        tracemalloc.start()
        refusal(path)
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak_bytes < 2**26


def test_npz_with_wrong_arrays(tmp_path: Path) -> None:
    assert "posedirs" in refusal(_npz(tmp_path / "shape.npz", posedirs=np.zeros((135, 2334))))
    assert "more than" in refusal(_npz(tmp_path / "large.npz", more=np.zeros(2**20), still_more=np.zeros(2**20)))


def test_another_hand_model_is_not_mano(tmp_path: Path, hand_model: HandModel) -> None:
    save_hand_model(hand_model, tmp_path / "open.npz")
    assert "open-hand" in refusal(tmp_path / "open.npz")
