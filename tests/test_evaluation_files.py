"""pred.json: what is written comes back, every wrong file is one line that names the mistake, and bad methods are no mistakes."""

import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from generated_freihand import make_freihand, random_hands

from handmesh.errors import UserError
from handmesh.evaluation.files import JOINT_ORDERS, find_mistake, find_turned_axes, read_predictions, write_predictions
from handmesh.evaluation.records import EvaluationSet, Predictions
from handmesh.freihand import FreiHand
from handmesh.geometry.rotation import rotvec_to_rotmat
from handmesh.hand_model.mano_params import freihand_points
from handmesh.skeleton import FINGERS, JOINTS, MANO_JOINTS, ROOT

COUNT, VERTICES = 24, 60
# Of a good method, metres in each coordinate.
GOOD_M = 0.004


def make_data(model, count=COUNT, vertices=VERTICES, seed=0):
    """True hands; `vertices` of the model's, evenly spaced, are quick to write."""
    params, K = random_hands(model, count, np.random.default_rng(seed))
    vertices_m, joints_m = freihand_points(model, params)
    some = np.linspace(0, vertices_m.shape[1] - 1, vertices).astype(int)
    return EvaluationSet("made-up", joints_m, K, None, vertices_m[:, some], model.id)


@pytest.fixture(scope="module")
def model(hand_model):
    return hand_model.astype(np.float64)


@pytest.fixture(scope="module")
def data(model):
    return make_data(model)


def noisy(data, sigma_m=GOOD_M, seed=1):
    """Joints and vertices of a method that errs by chance."""
    rng = np.random.default_rng(seed)
    return tuple(points + rng.normal(0, sigma_m, points.shape) for points in (data.joints_m, data.vertices_m))


def predicted(data, joints_m, vertices_m=None):
    return Predictions(joints_m, vertices_m, None if vertices_m is None else data.topology)


def write(path, *lists, **options):
    """As anybody would, with Python's own json."""
    path.write_text(json.dumps([some.tolist() if isinstance(some, np.ndarray) else some for some in lists], **options))
    return path


# ---- round trips


@pytest.mark.parametrize("name", ["pred.json", "pred.zip"])
@pytest.mark.parametrize("has_mesh", [True, False])
def test_what_is_written_comes_back(tmp_path, data, name, has_mesh):
    joints_m, vertices_m = noisy(data)
    write_predictions(tmp_path / "pred.json", predicted(data, joints_m, vertices_m if has_mesh else None))
    found = read_predictions(tmp_path / name, data)
    assert np.abs(found.joints_m - joints_m).max() < 1e-8 and found.joints_m.dtype == np.float64
    if has_mesh:
        assert np.abs(found.vertices_m - vertices_m).max() < 1e-8 and found.topology == data.topology
    else:
        assert found.vertices_m is None and found.topology is None
    assert {path.name for path in tmp_path.iterdir()} == {"pred.json", "pred.zip"}


def test_the_official_form_is_two_lists_of_all_hands_and_a_flat_zip(tmp_path, data):
    joints_m, vertices_m = noisy(data)
    write_predictions(tmp_path / "a.json", predicted(data, joints_m, vertices_m))
    xyz, verts = json.loads((tmp_path / "a.json").read_text())
    assert np.shape(xyz) == (COUNT, 21, 3) and np.shape(verts) == (COUNT, VERTICES, 3)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == ["pred.json"] and archive.read("pred.json") == (tmp_path / "a.json").read_bytes()


@pytest.mark.parametrize("indent", [None, 1])
def test_every_digit_of_somebodys_file_is_read_whatever_its_white_space(tmp_path, data, indent):
    joints_m, vertices_m = noisy(data)
    found = read_predictions(write(tmp_path / "pred.json", joints_m, vertices_m, indent=indent), data)
    assert np.array_equal(found.joints_m, joints_m) and np.array_equal(found.vertices_m, vertices_m)


def test_the_truth_of_an_evaluation_split_is_read_to_the_last_digit(tmp_path, model):
    folder = make_freihand(tmp_path, model, count=1, versions=1, evaluation=2)
    evaluation, training = (FreiHand(folder, split).verts_m for split in ("evaluation", "training"))
    assert np.array_equal(evaluation, json.loads((folder / "evaluation_verts.json").read_text())) and training.dtype == np.float32


def test_joints_alone_are_enough(tmp_path, data):
    joints_m, _ = noisy(data)
    for lists in ([joints_m], [joints_m, []]):
        found = read_predictions(write(tmp_path / "pred.json", *lists), data)
        assert np.array_equal(found.joints_m, joints_m) and found.vertices_m is None


def test_a_file_longer_than_what_is_read_at_a_time(tmp_path, model):
    data = make_data(model, count=100, vertices=778)
    joints_m, vertices_m = noisy(data)
    path = write(tmp_path / "pred.json", joints_m, vertices_m)
    assert path.stat().st_size > 4 << 20
    found = read_predictions(path, data)
    assert np.array_equal(found.joints_m, joints_m) and np.array_equal(found.vertices_m, vertices_m)


def test_a_mesh_of_another_topology_is_said_to_be(tmp_path, data):
    joints_m, vertices_m = noisy(data)
    more = write(tmp_path / "more.json", joints_m, np.concatenate([vertices_m, vertices_m], axis=1))
    assert read_predictions(more, data).topology == "unknown"
    same = write(tmp_path / "same.json", joints_m, vertices_m)
    assert read_predictions(same, data, other_topology=True).topology == "unknown"
    assert read_predictions(same, replace(data, vertices_m=None, topology=None)).topology == "unknown"


def test_what_cannot_be_read_again_is_not_written(tmp_path, data):
    joints_m = data.joints_m.copy()
    joints_m[5, 2, 1] = np.nan
    with pytest.raises(UserError, match="entry 5"):
        write_predictions(tmp_path / "pred.json", predicted(data, joints_m))
    with pytest.raises(UserError, match="ends in .json"):
        write_predictions(tmp_path / "pred.zip", predicted(data, data.joints_m))
    assert not list(tmp_path.iterdir())


# ---- files of another form


def _with(values, index, entry):
    """A list of entries, one of them replaced."""
    return [*values[:index].tolist(), entry, *values[index + 1 :].tolist()]


def _value(values, index, value):
    entries = values.tolist()
    entries[index][-1][2] = value
    return entries


def _short_joints(j):
    return j[:, [JOINTS.index(joint) for joint in MANO_JOINTS]]


WRONG_LISTS = {
    "nothing": (lambda j, v: [], "without lists"),
    "empty lists": (lambda j, v: [[], []], "empty first list"),
    "one list": (lambda j, v: j.tolist(), "one list of 24"),
    "pairs": (lambda j, v: [[a, b] for a, b in zip(j.tolist(), v.tolist(), strict=True)], "24 pairs"),
    "three lists": (lambda j, v: [j, v, j], "3 lists"),
    "null for a list": (lambda j, v: [j, None], "null in place of the second list"),
    "empty meshes": (lambda j, v: [j, [[]] * COUNT], "(V, 3) in each entry of 'FILE', got an empty list"),
    "swapped": (lambda j, v: [v, j], "swap the lists"),
    "joints twice": (lambda j, v: [j, j], "joints again"),
    "null joints": (lambda j, v: [_with(j, 7, None), v], "null in entry 7"),
    "null vertices": (lambda j, v: [j, _with(v, 23, None)], "null in entry 23"),
    "empty entry": (lambda j, v: [_with(j, 3, []), v], "an empty list in entry 3"),
    "a joint missing": (lambda j, v: [_with(j, 4, j[4, :20].tolist()), v], "(20, 3) in entry 4"),
    "a vertex missing": (lambda j, v: [j, _with(v, 5, v[5, 1:].tolist())], "(59, 3) in entry 5"),
    "an uneven first entry": (lambda j, v: [j, _with(v, 0, [*v[0, :-1].tolist(), [0.1]])], "an uneven list in entry 0"),
    "another nesting in one": (lambda j, v: [_with(j, 6, [j[6].tolist()]), v], "(1, 21, 3) in entry 6"),
    "another nesting in all": (lambda j, v: [j[:, None], v], "axis of length 1"),
    "flat": (lambda j, v: [j.reshape(COUNT, -1), v], "(63,); nest"),
    "flat vertices": (lambda j, v: [j, v.reshape(COUNT, -1)], "(180,); nest"),
    "transposed": (lambda j, v: [j.swapaxes(1, 2), v], "transpose"),
    "2D": (lambda j, v: [j[..., :2], v], "points in the picture"),
    "MANO's 16": (lambda j, v: [_short_joints(j), v], "fingertips"),
    "one missing": (lambda j, v: [j[:-1], v[:-1]], "joints of 24 hands in 'FILE', got 23; one is missing"),
    "vertices missing": (lambda j, v: [j, v[:-1]], "vertices of 24 hands in 'FILE', got 23; one is missing"),
    "four colourings": (lambda j, v: [np.tile(j, (4, 1, 1)), np.tile(v, (4, 1, 1))], "got 96; 4 for each picture"),
    "half": (lambda j, v: [j[:12], v[:12]], "got 12; predict every hand, in the order of"),
    "null value": (lambda j, v: [_value(j, 9, None), v], "null among the joints of entry 9"),
    "null in vertices": (lambda j, v: [j, _value(v, 10, None)], "null among the vertices of entry 10"),
    "text": (lambda j, v: [j, _value(v, 11, "a")], '"a" among the vertices of entry 11'),
    "NaN": (lambda j, v: [_value(j, 12, float("nan")), v], "NaN or infinity among the joints of entry 12"),
    "infinity": (lambda j, v: [j, _value(v, 13, float("-inf"))], "NaN or infinity among the vertices of entry 13"),
    "zeros": (lambda j, v: [np.zeros_like(j), np.zeros_like(v)], "joints all at one point in entry 0 (24 of 24"),
    "one zero": (lambda j, v: [_with(j, 14, np.full((21, 3), 0.1).tolist()), v], "joints all at one point in entry 14 (1 of"),
    "zero vertices": (lambda j, v: [j, _with(v, 15, np.zeros((VERTICES, 3)).tolist())], "vertices all at one point in entry 15"),
    "a line": (lambda j, v: [_with(j, 16, np.outer(np.arange(21), [0.01, 0.02, 0.1]).tolist()), v], "joints all on one line in entry 16"),
}


@pytest.mark.parametrize("name", WRONG_LISTS)
def test_another_form_is_one_line_that_names_the_mistake(tmp_path, data, name):
    make, says = WRONG_LISTS[name]
    path = tmp_path / "pred.json"
    write(path, *make(*noisy(data)))
    # No flag makes such a file a good one.
    for as_is in (False, True):
        with pytest.raises(UserError) as caught:
            read_predictions(path, data, as_is=as_is)
        message = str(caught.value)
        assert says.replace("FILE", str(path)) in message and message.startswith("expected ") and "\n" not in message and ";" in message


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda text: text[: len(text) // 2], "ends early"),
        (lambda text: text[: len(text) // 60], "ends early"),
        (lambda text: text[:-1], "ends early"),
        (lambda text: "[", "ends early"),
        (lambda text: "", "an empty file"),
        (lambda text: '{"xyz": 1}', "a JSON object"),
        (lambda text: "<html></html>", "<html>"),
        (lambda text: "[1, 2]", "without lists"),
        (lambda text: text + text, "more after its end"),
        (lambda text: text.replace("]]]]", ", ]]]]"), "(60, 3) in each entry"),
        (lambda text: text[: text.rindex(",")] + ", ]]]]", "nothing among the vertices of entry 23"),
    ],
)
def test_what_is_no_such_json_is_one_line(tmp_path, data, spoil, says):
    path = write(tmp_path / "pred.json", *noisy(data))
    path.write_text(spoil(path.read_text()))
    with pytest.raises(UserError) as caught:
        read_predictions(path, data)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_how_many_there_are_names_freihands_splits(tmp_path, data):
    path = tmp_path / "pred.json"
    for count, says in ((32560, "training split"), (3960, "FreiHAND's evaluation split")):
        path.write_text(json.dumps([[[[0, 0, 0]] * 21] * count]))
        with pytest.raises(UserError, match=says):
            read_predictions(path, data)


def test_archives_that_hold_no_predictions_are_one_line(tmp_path, data):
    written = write(tmp_path / "pred.json", *noisy(data))
    path = tmp_path / "some.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("joints.npy", "")
    with pytest.raises(UserError, match="holds joints.npy"):
        read_predictions(path, data)
    # Another name than pred.json will do where there is but one.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(written, "results/mine.json")
    assert len(read_predictions(path, data)) == COUNT
    raw = bytearray(path.read_bytes())
    raw[200:300] = bytes(100)
    path.write_bytes(raw)
    with pytest.raises(UserError, match="cannot be unpacked"):
        read_predictions(path, data)
    with pytest.raises(UserError, match="No such file"):
        read_predictions(tmp_path / "none.json", data)


# ---- likely mistakes


def reordered(joints_m, order):
    return joints_m[:, [JOINTS.index(joint) for joint in order]]


TEXT_ORDER = sorted(range(COUNT), key=str)
MISTAKES = {
    "millimetres": (lambda j, v: (1000 * j, 1000 * v), "millimetres"),
    "centimetres": (lambda j, v: (100 * j, 100 * v), "centimetres"),
    "relative millimetres": (lambda j, v: (1000 * (j - j[:, :1]), 1000 * (v - j[:, :1])), "millimetres"),
    "normalised": (lambda j, v: ((j - j[:, :1]) / 0.028, (v - j[:, :1]) / 0.028), "normalised"),
    "vertices in millimetres": (lambda j, v: (j, 1000 * v), "vertices and joints in metres"),
    "mirrored": (lambda j, v: (j * (-1, 1, 1), v * (-1, 1, 1)), "mirrored"),
    "depth turned over": (lambda j, v: (j * (1, 1, -1), v * (1, 1, -1)), "mirrored"),
    "vertices mirrored": (lambda j, v: (j, v * (-1, 1, 1)), "mirrored ones: vertices"),
    "another topology": (lambda j, v: (j, v[:, np.random.default_rng(2).permutation(v.shape[1])]), "--other-topology"),
    "two frames": (lambda j, v: (j - j[:, ROOT : ROOT + 1], v), "one frame"),
    "joints of the wrist, vertices of joint 9": (lambda j, v: (j - j[:, :1], v - j[:, ROOT : ROOT + 1]), "one frame"),
    "an order of its own": (lambda j, v: (j[:, np.random.default_rng(3).permutation(len(JOINTS))], v), "an order of its own"),
    "thumb last": (lambda j, v: (j[:, [0, *range(5, 21), *range(1, 5)]], v), "order"),
    "pictures sorted as text": (lambda j, v: (j[TEXT_ORDER], v[TEXT_ORDER]), "sorted as text"),
    "backwards": (lambda j, v: (j[::-1], v[::-1]), "backwards"),
    **{name: (lambda j, v, order=order: (reordered(j, order), v), name) for name, order in JOINT_ORDERS.items()},
}


@pytest.mark.parametrize("name", MISTAKES)
@pytest.mark.parametrize("sigma_m", [0.0, GOOD_M, 0.012])
def test_a_likely_mistake_is_named_and_can_be_scored_as_it_is(tmp_path, data, name, sigma_m):
    make, says = MISTAKES[name]
    if name in ("pictures sorted as text", "backwards"):
        # Hands are not so different that this is seen through more noise.
        sigma_m = min(sigma_m, GOOD_M)
    joints_m, vertices_m = make(*noisy(data, sigma_m))
    path = write(tmp_path / "pred.json", joints_m, vertices_m)
    with pytest.raises(UserError) as caught:
        read_predictions(path, data)
    message = str(caught.value)
    assert says in message and message.startswith("expected ") and "--as-is" in message and "\n" not in message
    assert np.array_equal(read_predictions(path, data, as_is=True).joints_m, joints_m)


def test_numbers_that_no_camera_sees_are_refused(tmp_path, data):
    joints_m, vertices_m = noisy(data)
    vertices_m[3, 5, 1] = 1e200
    with pytest.raises(UserError, match="beyond 1e\\+06 among the vertices of entry 3"):
        read_predictions(write(tmp_path / "pred.json", joints_m, vertices_m), data, as_is=True)


def test_vertices_in_another_order_are_no_mistake_where_that_is_said(tmp_path, data):
    joints_m, vertices_m = MISTAKES["another topology"][0](*noisy(data))
    path = write(tmp_path / "pred.json", joints_m, vertices_m)
    assert read_predictions(path, data, other_topology=True).topology == "unknown"


def test_every_order_names_every_joint_once_and_none_is_freihands():
    for order in JOINT_ORDERS.values():
        assert sorted(order) == sorted(JOINTS) and order != JOINTS
    assert len(set(JOINT_ORDERS.values())) == len(JOINT_ORDERS)
    assert JOINT_ORDERS["FPHA's (wrist, five knuckles, then the fingers)"][1:6] == ("thumb_cmc", *(f"{each}_mcp" for each in FINGERS[1:]))


def test_only_the_left_hands_are_mirrored(data):
    is_left = np.arange(COUNT) % 3 == 0
    mixed = replace(data, is_left=is_left)
    joints_m, vertices_m = noisy(data)
    sign = np.where(is_left, -1.0, 1.0)[:, None, None] * (1, 0, 0) + (0, 1, 1)
    said = find_mistake(predicted(data, joints_m * sign, vertices_m * sign), mixed)
    assert said is not None and said.startswith("expected left hands")
    assert find_mistake(predicted(data, joints_m, vertices_m), mixed) is None


def bad_methods(data, others, seed):
    """Methods that are bad, odd or random, and make none of the mistakes."""
    rng = np.random.default_rng(seed)
    j, v = data.joints_m, data.vertices_m
    root = j[:, ROOT : ROOT + 1]
    yield "perfect", j, v
    yield "relative to the root", j - root, v - root
    for sigma_m in (0.01, 0.04, 0.1):
        yield f"off by {sigma_m} m", *noisy(data, sigma_m, seed)
    for sigma_m in (0.001, 0.06, 1.0):
        yield f"noise of {sigma_m} m about zero", rng.normal(0, sigma_m, j.shape), rng.normal(0, sigma_m, v.shape)
    yield "the same noise for all", *(np.repeat(rng.normal(0, 0.06, (1, *x.shape[1:])), len(j), axis=0) for x in (j, v))
    yield "other hands", others.joints_m, others.vertices_m
    yield "the same hand for all", *(np.repeat(x[:1], len(j), axis=0) for x in (others.joints_m, others.vertices_m))
    for scale in (0.3, 3.0):
        yield f"scaled by {scale}", scale * j, scale * v
    turn = rotvec_to_rotmat(rng.normal(0, 1.5, (len(j), 3)))
    yield "turned any way", (j - root) @ turn, (v - root) @ turn
    yield "flat", j * (1, 1, 0), v * (1, 1, 0)
    yield "fingers astray", j + np.repeat(rng.normal(0, 0.03, (len(j), 7, 3)), 3, axis=1), v


def test_a_bad_method_is_no_mistake(model):
    for seed, count in enumerate((1, 2, 5, 8, 24, 24, 24, 260)):
        data, others = make_data(model, count, seed=seed), make_data(model, count, seed=100 + seed)
        for name, joints_m, vertices_m in bad_methods(data, others, seed):
            if name == "fingers astray":
                vertices_m = vertices_m + np.random.default_rng(seed).normal(0, 0.03, vertices_m.shape)
            assert find_mistake(predicted(data, joints_m, vertices_m), data) is None, (seed, name)
            assert find_mistake(predicted(data, joints_m), data) is None, (seed, name)


def test_turned_axes_are_noted_but_no_mistake(data):
    joints_m, vertices_m = noisy(data)
    for signs, what in (((1, -1, -1), "OpenGL"), ((-1, -1, 1), "x left")):
        turned = predicted(data, joints_m * signs, vertices_m * signs)
        note = find_turned_axes(turned, data)
        assert find_mistake(turned, data) is None and note is not None and what in note
    assert find_turned_axes(predicted(data, joints_m, vertices_m), data) is None
    assert find_turned_axes(predicted(data, np.random.default_rng(0).normal(0, 0.06, joints_m.shape)), data) is None
