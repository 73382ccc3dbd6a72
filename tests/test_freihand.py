"""Folders in FreiHAND's layout, made here: what is read, in how much memory, and what is said of broken ones."""

import json
import shutil
import tracemalloc

import cv2
import numpy as np
import pytest

from handmesh.errors import UserError
from handmesh.freihand import FreiHand, read_numbers, split_ids
from handmesh.hand_model.mano_params import FreiHandParams, freihand_points, freihand_to_params, params_to_freihand

COUNT, VERSIONS, VERTICES = 5, 4, 778


def write_pictures(folder, count, size=(20, 16), is_grey=False):
    folder.mkdir(parents=True)
    for number in range(count):
        picture = np.full((size[1], size[0]) if is_grey else (size[1], size[0], 3), 10 * number, np.uint8)
        assert cv2.imwrite(str(folder / f"{number:08d}.jpg"), picture)


def annotations(model, count=COUNT):
    """Hands of a model, as the files hold them."""
    rng = np.random.default_rng(0)
    K = np.tile(np.array([[480.0, 0, 112], [0, 478.0, 111], [0, 0, 1]]), (count, 1, 1))
    root_m = rng.uniform((-0.05, -0.05, 0.5), (0.05, 0.05, 0.9), (count, 3))
    params = FreiHandParams(np.tile(model.mean_rotmats(), (count, 1, 1, 1)), rng.normal(0, 1, (count, 10)), root_m)
    verts_m, xyz_m = freihand_points(model, params)
    scale_m = np.linalg.norm(xyz_m[:, 9] - xyz_m[:, 10], axis=-1)
    return {"K": K, "xyz": xyz_m, "verts": verts_m, "mano": params_to_freihand(model, params, K)[:, None], "scale": scale_m}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, hand_model):
    """A training split of 5 hands in 4 colourings, and an evaluation split that came without annotations."""
    root = tmp_path_factory.mktemp("freihand")
    write_pictures(root / "training/rgb", COUNT * VERSIONS)
    write_pictures(root / "training/mask", COUNT, is_grey=True)
    write_pictures(root / "evaluation/rgb", 2)
    for name, values in annotations(hand_model.astype(np.float64)).items():
        (root / f"training_{name}.json").write_text(json.dumps(values.tolist()))
        if name in ("K", "scale"):
            (root / f"evaluation_{name}.json").write_text(json.dumps(values[:2].tolist()))
    return root


def test_everything_is_read_as_it_was_written(whole, hand_model):
    pictures, written = FreiHand(whole), annotations(hand_model.astype(np.float64))
    assert (len(pictures), pictures.count, pictures.versions) == (COUNT * VERSIONS, COUNT, VERSIONS)
    for picture in (0, 7, 19):
        found, index = pictures.annotation(picture), picture % COUNT
        assert np.array_equal(found.K, written["K"][index]) and np.array_equal(found.xyz_m, written["xyz"][index])
        assert np.array_equal(found.mano, written["mano"][index, 0]) and found.scale_m == written["scale"][index]
        assert found.verts_m.shape == (VERTICES, 3) and np.abs(found.verts_m - written["verts"][index]).max() < 1e-7
        assert np.abs(pictures.image(picture).astype(int) - 10 * picture).max() < 4 and pictures.image(picture).shape == (16, 20, 3)
        assert pictures.mask(picture).dtype == bool and pictures.mask(picture).all() == (10 * index >= 128)
    params = freihand_to_params(hand_model, pictures.mano, pictures.K)
    assert np.abs(params.root_m - written["xyz"][:, 9]).max() < 1e-9
    with pytest.raises(IndexError):
        pictures.annotation(COUNT * VERSIONS)


def test_an_evaluation_split_without_annotations_still_has_pictures_and_cameras(whole):
    pictures = FreiHand(whole, "evaluation")
    assert (len(pictures), pictures.versions, len(pictures.K), len(pictures.scale_m)) == (2, 1, 2, 2)
    assert pictures.has("K") and not pictures.has("xyz") and not pictures.has("side")
    assert pictures.image(1).shape == (16, 20, 3)
    for read in (lambda: pictures.annotation(0), lambda: pictures.mask(0), lambda: pictures.side):
        with pytest.raises(UserError):
            read()


def test_no_hand_is_on_both_sides_of_a_split():
    train, validation = split_ids(1000, 4, 0.1)
    assert sorted([*train, *validation]) == list(range(4000))
    assert not set(train % 1000) & set(validation % 1000)
    assert 0.09 < len(validation) / 4000 < 0.14
    # Neighbours stay together.
    held_out = np.isin(np.arange(1000), validation % 1000)
    assert (np.diff(held_out.astype(int)) != 0).sum() <= 2 * len(set(np.flatnonzero(held_out) // 32))
    assert not np.array_equal(validation, split_ids(1000, 4, 0.1, seed=1)[1])
    assert len(split_ids(10, 1, 0.0)[1]) == 0 and len(split_ids(10, 1, 0.01)[1]) == 1
    # Small sets keep most for training.
    assert all(len(split_ids(count, 1)[0]) > 0.6 * count for count in (4, 20, 33, 64))
    with pytest.raises(UserError, match="0..1"):
        split_ids(10, 1, 5)


def _cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _edit(path, change):
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def _set(path, value):
    def change(entries):
        entries[3][0][0] = value
        return entries

    _edit(path, change)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda root: shutil.rmtree(root / "training"), "training/rgb"),
        (lambda root: (root / "training_K.json").unlink(), "training_K.json"),
        (lambda root: (root / "training_xyz.json").unlink(), "training_xyz.json"),
        (lambda root: (root / "training_xyz.json").write_text(""), "JSON list"),
        (lambda root: (root / "training_xyz.json").write_text("{}"), "JSON list"),
        (lambda root: (root / "training_xyz.json").write_text("[]"), "xyz"),
        (lambda root: _cut(root / "training_verts.json"), "ends early"),
        (lambda root: _cut(root / "training_scale.json"), "ends early"),
        (lambda root: _edit(root / "training_xyz.json", lambda entries: entries[:-1]), "expected 5 entries"),
        (lambda root: _set(root / "training_xyz.json", float("nan")), "NaN"),
        (lambda root: _set(root / "training_xyz.json", None), "from entry 0 on"),
        (lambda root: _set(root / "training_xyz.json", "0.1"), "from entry 0 on"),
        (lambda root: _set(root / "training_xyz.json", [0.1]), "number 3"),
        (lambda root: _edit(root / "training_xyz.json", lambda entries: [entries[0], entries[1][:-1], *entries[2:]]), "number 1"),
        (lambda root: _edit(root / "training_xyz.json", lambda entries: (1000 * np.array(entries)).tolist()), "millimetres"),
        (lambda root: _edit(root / "training_verts.json", lambda entries: (1000 * np.array(entries)).tolist()), "millimetres"),
        (lambda root: _edit(root / "training_scale.json", lambda entries: (1000 * np.array(entries)).tolist()), "millimetres"),
        (lambda root: _edit(root / "training_xyz.json", lambda entries: (np.array(entries) - (0, 0, 2)).tolist()), "in front"),
        (lambda root: _edit(root / "training_K.json", lambda entries: np.swapaxes(entries, 1, 2).tolist()), "transposed"),
        (lambda root: _edit(root / "training_mano.json", lambda entries: [entry[0] for entry in entries]), "(1, 61)"),
        (lambda root: shutil.copy(root / "training_verts.json", root / "training_xyz.json"), "(21, 3)"),
        (lambda root: (root / "training/rgb/00000019.jpg").unlink(), "expected 5 pictures"),
        (lambda root: (root / "training/rgb/00000007.jpg").unlink(), "00000007.jpg"),
        (lambda root: _cut(root / "training/rgb/00000003.jpg") or (root / "training/rgb/00000003.jpg").write_bytes(b"no"), "00000003"),
        (lambda root: (root / "training/mask/00000003.jpg").write_bytes(b""), "00000003"),
        (lambda root: (root / "training_side.json").write_text('[{"index": 0}]'), "side file"),
    ],
)
def test_a_broken_folder_is_one_line_that_names_the_file(whole, tmp_path, spoil, says):
    root = shutil.copytree(whole, tmp_path / "copy")
    spoil(root)
    with pytest.raises(UserError) as caught:
        pictures = FreiHand(root)
        pictures.annotation(3)
        pictures.image(3), pictures.mask(3)
        if pictures.has("side"):
            assert pictures.side
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_another_split_is_refused(whole):
    with pytest.raises(UserError, match="'training' or 'evaluation'"):
        FreiHand(whole, "validation")  # pyright: ignore[reportArgumentType]


def test_long_files_take_little_memory_and_chunks_do_not_show(tmp_path):
    values = np.random.default_rng(0).normal(0, 1, (300, VERTICES, 3))
    path = tmp_path / "verts.json"
    path.write_text(json.dumps(values.tolist()) + "\n")
    assert path.stat().st_size > 3 * 2**22
    tracemalloc.start()
    found = read_numbers(path, (None, 3), np.float32)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(found, values.astype(np.float32))
    # Some chunks at a time; json.load alone would take five times the file.
    assert peak < found.nbytes + 8 * 2**22 < 3 * path.stat().st_size


@pytest.mark.parametrize("indent", [None, 1])
def test_white_space_does_not_matter(tmp_path, indent):
    values = np.arange(24.0).reshape(2, 4, 3)
    (tmp_path / "a.json").write_text(json.dumps(values.tolist(), indent=indent))
    assert np.array_equal(read_numbers(tmp_path / "a.json", (None, 3)), values)
    (tmp_path / "b.json").write_text(json.dumps([0.5], indent=indent))
    assert read_numbers(tmp_path / "b.json", ()).tolist() == [0.5]
