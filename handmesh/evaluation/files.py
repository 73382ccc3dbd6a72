"""FreiHAND's pred.json: read anybody's, say what is wrong with it in one line, and write our own.

The official form is [xyz_list, verts_list]: for every picture in file order 21 joints and V vertices in metres, in the camera. A .zip
with pred.json in it is read as well, and so is a file of joints alone, [xyz_list] or [xyz_list, []].
"""

from __future__ import annotations

import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO

import numpy as np
from scipy.optimize import quadratic_assignment

from handmesh.errors import UserError
from handmesh.evaluation.metrics import distances
from handmesh.evaluation.records import EvaluationSet, Predictions
from handmesh.freihand import parse_numbers, split_lists, text_template
from handmesh.geometry.alignment import procrustes
from handmesh.hand_model.skinning import mirror_points
from handmesh.skeleton import FINGERS, JOINTS, MANO_JOINTS, TIPS
from handmesh.wholefile import replacing

UNKNOWN_TOPOLOGY = "unknown"

_FORM = "[xyz_list, verts_list]"
_MEMBER = "pred.json"
_HAND_SHAPE = (len(JOINTS), 3)
# Decimals of a metre: a hundredth of a micrometre.
_DIGITS = 8
# Hands of FreiHAND's splits; training has each of its own in four colourings.
_FREIHAND_TRAINING, _FREIHAND_EVALUATION = 32560, 3960
# How many hands a suspicion rests on, evenly spaced.
_SAMPLE = 200
# Fewer say nothing.
_FEW = 5
# Aligned errors below which joints look like those of a hand.
_HAND_LIKE_M = 0.02
# How often the search for an unknown order of joints starts anew.
_ORDER_STARTS = 12
# Metres, or whatever else: no camera sees a hand so far away, and squares of larger numbers overflow.
_FARTHEST = 1e6
# A hand no larger than this is a point; one no broader than this share of its length is a line.
_NO_EXTENT_M, _NO_BREADTH = 1e-7, 1e-5


def _by_finger(fingers: tuple[str, ...], tip_first: bool = False) -> tuple[str, ...]:
    """Each finger's four joints together, from the palm or from the tip."""
    chains = [[joint for joint in JOINTS if joint.startswith(finger)] for finger in fingers]
    return tuple(joint for chain in chains for joint in (reversed(chain) if tip_first else chain))


def _by_level() -> tuple[str, ...]:
    """The wrist, the five joints next to it, then each finger's other three."""
    chains = [[joint for joint in JOINTS if joint.startswith(finger)] for finger in FINGERS]
    return ("wrist", *(chain[0] for chain in chains), *(joint for chain in chains for joint in chain[1:]))


_MANO_FINGERS = ("index", "middle", "little", "ring", "thumb")
# Orders of 21 joints that libraries and data sets use, other than FreiHAND's (which is also that of OpenPose, MediaPipe and manopth).
JOINT_ORDERS: dict[str, tuple[str, ...]] = {
    "MANO's 16 and then the tips from thumb to little finger (smplx, HO-3D)": (*MANO_JOINTS, *TIPS),
    "MANO's 16 and then the tips in MANO's order": (*MANO_JOINTS, *(f"{finger}_tip" for finger in _MANO_FINGERS)),
    "InterHand2.6M's (tips first, wrist last)": (*_by_finger(FINGERS, tip_first=True), "wrist"),
    "RHD's (wrist, then every finger from its tip)": ("wrist", *_by_finger(FINGERS, tip_first=True)),
    "FPHA's (wrist, five knuckles, then the fingers)": _by_level(),
    "STB's (from little finger to thumb)": ("wrist", *_by_finger(FINGERS[::-1])),
}


def read_predictions(path: Path, data: EvaluationSet, as_is: bool = False, other_topology: bool = False) -> Predictions:
    """Somebody's hands for a set.

    Args:
        path: pred.json, or a .zip that holds it.
        data: what they were predicted for.
        as_is: take them though they look like a mistake (`find_mistake`).
        other_topology: their vertices are not those of the truth, though there may be as many.

    Raises:
        UserError: no such file, another form, another number of hands, numbers that are not finite, hands without extent, or a likely
            mistake; one line, with the index of the first hand where one is to blame.
    """
    path = Path(path)
    with _opened(path) as file:
        scanned = _scan(path, file)
    joints_m, vertices_m = _arrange(path, scanned, data)
    is_own = vertices_m is not None and data.vertices_m is not None and vertices_m.shape == data.vertices_m.shape and not other_topology
    topology = None if vertices_m is None else data.topology if is_own else UNKNOWN_TOPOLOGY
    predictions = Predictions(joints_m, vertices_m, topology)
    _expect_extent(path, predictions)
    mistake = None if as_is else find_mistake(predictions, data)
    if mistake:
        raise UserError(f"{mistake}, or add --as-is to score '{path}' as it is")
    return predictions


def write_predictions(path: Path, predictions: Predictions, digits: int = _DIGITS) -> None:
    """The official pred.json, and a .zip of the same name beside it that holds it as pred.json.

    Args:
        path: ends in .json.
        predictions: finite; without vertices, [xyz_list, []] is written.
        digits: decimals of a metre.

    Raises:
        UserError: another ending, or numbers that are not finite.
    """
    path = Path(path)
    if path.suffix != ".json":
        raise UserError(f"expected a name that ends in .json for predictions, got '{path}'; a .zip is written beside it")
    lists = [predictions.joints_m, predictions.vertices_m if predictions.vertices_m is not None else predictions.joints_m[:0]]
    for values in lists:
        bad = ~np.isfinite(values).all(axis=(1, 2))
        if bad.any():
            raise UserError(
                f"expected finite predictions to write, got nan or infinity in entry {int(np.argmax(bad))}; mend what made them"
            )
    with replacing(path) as temporary, temporary.open("w", encoding="ascii") as file:
        for number, values in enumerate(lists):
            file.write(", [" if number else "[[")
            template = text_template(values.shape[1:], f"%.{digits}f")
            for index, hand in enumerate(values):
                file.write((", " if index else "") + template % tuple(hand.ravel().tolist()))
            file.write("]")
        file.write("]")
    with (
        replacing(path.with_suffix(".zip")) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        archive.write(path, _MEMBER)


# ---- reading


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The JSON of a file, or of the archive that it is."""
    try:
        if not zipfile.is_zipfile(path):
            with path.open("rb") as file:
                yield file
            return
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".json") and not name.startswith("__MACOSX")]
            if _MEMBER not in names and len(names) != 1:
                held = ", ".join(archive.namelist()[:4]) or "nothing"
                raise UserError(f"expected pred.json in '{path}', which holds {held}; zip pred.json alone, without a folder")
            with archive.open(_MEMBER if _MEMBER in names else names[0]) as file:
                yield file
    except OSError as error:
        raise UserError(f"expected predictions in '{path}' ({error.strerror or error}); give a pred.json or a .zip of it") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"expected a whole .zip in '{path}', but it cannot be unpacked ({error}); copy or zip it again") from error


@dataclass(frozen=True)
class _Scanned:
    """A JSON file of nested lists.

    Attributes:
        marks: all its brackets and commas.
        numbers: (n,) f64, up to the first value that is none.
        bad: that value, as text; None where all are numbers.
    """

    marks: bytes
    numbers: np.ndarray
    bad: str | None


def _scan(path: Path, file: IO[bytes]) -> _Scanned:
    head = file.read(1 << 16)
    start = head.lstrip()
    if not start.startswith(b"["):
        got = "an empty file" if not start else "a JSON object" if start.startswith(b"{") else repr(start[:30].decode(errors="replace"))
        raise UserError(f"expected the JSON list {_FORM} in '{path}', got {got}; write it with json.dump([xyz_list, verts_list], file)")
    marks, store, bad = [], bytearray(), None
    for some, text, is_last in split_lists(file, head):
        marks.append(some)
        # The last list may be an empty one, [xyz_list, []].
        if bad is not None or (is_last and not text.strip()):
            continue
        numbers = parse_numbers(text)
        if numbers is None:
            numbers, bad = _up_to_bad(text)
        store += numbers.tobytes()
    return _Scanned(b"".join(marks), np.frombuffer(store, np.float64), bad)


def _up_to_bad(text: bytes) -> tuple[np.ndarray, str]:
    """The numbers before the first value that is none, and that value."""
    numbers = []
    for value in text.split(b","):
        try:
            numbers.append(float(value))
        except ValueError:
            return np.array(numbers, np.float64), value.strip()[:30].decode(errors="replace")
    return np.array(numbers, np.float64), ""


def _marks_of(shape: tuple[int, ...]) -> bytes:
    """Brackets and commas of an array."""
    if not shape:
        return b""
    return b"[" + b",".join([_marks_of(shape[1:])] * shape[0]) + b"]"


def _arrange(path: Path, scanned: _Scanned, data: EvaluationSet) -> tuple[np.ndarray, np.ndarray | None]:
    """Joints (N, 21, 3), and vertices (N, V, 3) or None."""
    marks, count = scanned.marks, len(data)
    joints = _marks_of((count, *_HAND_SHAPE))
    start = 1 + len(joints)
    vertices = 0
    if not marks.startswith(b"[" + joints):
        raise _otherwise(path, scanned, data)
    if marks[start:] not in (b"]", b",[]]"):
        vertices = marks.count(b"[,,]", start, marks.find(b"]]", start)) + 1
        # As many vertices as joints are no mesh.
        if vertices == len(JOINTS) or marks[start:] != b"," + _marks_of((count, vertices, 3)) + b"]":
            raise _otherwise(path, scanned, data)
    split = count * len(JOINTS) * 3
    at = len(scanned.numbers)
    if at < split + count * vertices * 3:
        which, index = ("joints", at // (len(JOINTS) * 3)) if at < split else ("vertices", (at - split) // (vertices * 3))
        raise UserError(
            f"expected nothing but numbers in '{path}', got {scanned.bad or 'nothing'} among the {which} of entry {index} "
            "(null is how some write NaN and infinity); mend what made them"
        )
    joints_m = scanned.numbers[:split].reshape(count, *_HAND_SHAPE)
    vertices_m = scanned.numbers[split:].reshape(count, vertices, 3) if vertices else None
    for which, values in (("joints", joints_m), ("vertices", vertices_m)):
        # A sum is not finite where one of its terms is not.
        if values is not None and not np.isfinite(values.sum()):
            bad = ~np.isfinite(values).all(axis=(1, 2))
            if bad.any():
                raise UserError(
                    f"expected finite numbers in '{path}', got NaN or infinity among the {which} of entry {int(np.argmax(bad))} "
                    f"({int(bad.sum())} of {count} entries have some); mend what made them"
                )
        if values is not None and max(values.max(), -values.min()) > _FARTHEST:
            index = int(np.argmax(np.abs(values).max(axis=(1, 2)) > _FARTHEST))
            raise UserError(f"expected metres in '{path}', got numbers beyond {_FARTHEST:g} among the {which} of entry {index}; mend it")
    return joints_m, vertices_m


# ---- what a file of another form is


def _otherwise(path: Path, scanned: _Scanned, data: EvaluationSet) -> UserError:
    """What is wrong with brackets and commas that are not those of the official form."""
    marks, count = scanned.marks, len(data)
    depth = np.cumsum(_steps(marks), dtype=np.int32)
    if depth[-1] != 0:
        return UserError(f"expected a whole JSON list in '{path}', but it ends early; write or unpack it again")
    if depth[:-1].min(initial=1) < 1:
        return UserError(f"expected one JSON list in '{path}', but there is more after its end; write it again with json.dump")
    lists = _elements(marks)
    said = _wrong_lists(lists, count, scanned.bad)
    if said:
        return UserError(f"expected {_FORM} in '{path}', {said}")
    names = ("joints", "vertices")[: len(lists)]
    entries = {name: _elements(some) for name, some in zip(names, lists, strict=True)}
    shapes = {name: _shape(some[0]) if some else None for name, some in entries.items()}
    if shapes.get("vertices") == _HAND_SHAPE:
        if _is_points(shapes["joints"]):
            return UserError(
                f"expected joints first and vertices second in '{path}', got {shapes['joints'][0]} points a hand first and 21 second; "  # pyright: ignore
                "swap the lists"
            )
        if shapes["joints"] == _HAND_SHAPE:
            return UserError(f"expected vertices in the second list of '{path}', got joints again; write {_FORM}, or [xyz_list] alone")
    for name, some in entries.items():
        said = _wrong_entries(name, some, scanned.bad)
        if said:
            wanted, came = said
            return UserError(f"expected {name} of shape {wanted} in each entry of '{path}', got {came}")
    got = {name: len(some) for name, some in entries.items() if name == "joints" or some}
    wrong = {name: number for name, number in got.items() if number != count}
    name, number = next(iter(wrong.items()))
    return UserError(f"expected {name} of {count} hands in '{path}', got {number}; {_why_so_many(number, count)}, {data.order}")


def _steps(marks: bytes) -> np.ndarray:
    values = np.frombuffer(marks, np.uint8)
    return (values == ord("[")).astype(np.int8) - (values == ord("]")).astype(np.int8)


def _elements(marks: bytes) -> list[bytes]:
    """What the commas of a list separate, as marks; of a lone value nothing."""
    if marks in (b"", b"[]"):
        return []
    depth = np.cumsum(_steps(marks), dtype=np.int32)
    cuts = np.flatnonzero((depth == 1) & (np.frombuffer(marks, np.uint8) == ord(",")))
    return [marks[start + 1 : end] for start, end in pairwise((0, *cuts.tolist(), len(marks) - 1))]


def _shape(marks: bytes) -> tuple[int, ...] | None:
    """Of an array with these marks; None where it is nested unevenly."""
    if not marks:
        return ()
    elements = _elements(marks)
    if not elements:
        return (0,)
    first = _shape(elements[0])
    return None if first is None or any(element != elements[0] for element in elements) else (len(elements), *first)


def _is_points(shape: tuple[int, ...] | None) -> bool:
    return shape is not None and len(shape) == 2 and shape[1] == 3 and shape[0] > len(JOINTS)


def _wrong_lists(lists: list[bytes], count: int, bad: str | None) -> str | None:
    """What is wrong with the outermost list."""
    if not lists or not lists[0]:
        return "got a list without lists in it; write one entry of 21 joints, and one of all vertices, for each picture"
    first = _shape(_elements(lists[0])[0]) if _elements(lists[0]) else None
    if first == (3,):
        return f"got one list of {len(lists)} entries; put both lists into one, or write [xyz_list] for joints alone"
    if len(lists) > 2:
        pair = len(_elements(lists[0])) == 2
        return f"got {len(lists)} {'pairs, one a hand; write all joints first, then all vertices' if pair else 'lists; write two'}"
    if not _elements(lists[0]):
        return f"got an empty first list; write the joints of {count} hands"
    if not lists[-1]:
        return f"got {bad or 'nothing'} in place of the second list; write [xyz_list] for joints alone"
    return None


def _wrong_entries(name: str, entries: list[bytes], bad: str | None) -> tuple[str, str] | None:
    """The shape that entries of one list should have, and how all of them, or one of them, are otherwise; None where none is."""
    if not entries:
        return None
    usual, _ = Counter(entries).most_common(1)[0]
    shape = _shape(usual)
    wanted = _HAND_SHAPE if name == "joints" else shape
    if wanted is None or len(wanted) != 2 or wanted[1] != 3:
        return "(V, 3)", f"{_shape_text(usual, bad)}; {_why_shape(shape)}"
    if shape != wanted:
        return str(wanted), f"{_shape_text(usual, bad)}; {_why_shape(shape)}"
    wrong = [index for index, entry in enumerate(entries) if entry != usual]
    if not wrong:
        return None
    more = f" ({len(wrong)} entries are wrong)" if len(wrong) > 1 else ""
    return str(wanted), f"{_shape_text(entries[wrong[0]], bad)} in entry {wrong[0]}{more}; predict every picture"


def _shape_text(marks: bytes, bad: str | None) -> str:
    shape = _shape(marks)
    if shape == ():
        return bad or "a number"
    return "an uneven list" if shape is None else "an empty list" if 0 in shape else str(shape)


def _why_shape(shape: tuple[int, ...] | None) -> str:
    if shape is not None and shape[:1] == (1,):
        return "drop the axis of length 1"
    if shape == (len(MANO_JOINTS), 3):
        return "MANO's 16 joints have no fingertips: add the five tip vertices, in FreiHAND's order"
    if shape is not None and len(shape) == 1:
        return "nest the numbers point by point"
    if shape is not None and len(shape) == 2 and shape[0] == 3:
        return "transpose them"
    if shape is not None and len(shape) == 2 and shape[1] == 2:
        return "these are points in the picture: write x, y, z in metres"
    return f"write {_FORM}, x, y, z of every point"


def _why_so_many(got: int, expected: int) -> str:
    if got in (_FREIHAND_TRAINING, 4 * _FREIHAND_TRAINING):
        return "that many are in FreiHAND's training split: predict the evaluation split"
    if got == _FREIHAND_EVALUATION:
        return "that many are in FreiHAND's evaluation split: give its folder as the truth"
    if got and got % expected == 0:
        return f"{got // expected} for each picture? keep one of them"
    if got == expected - 1:
        return "one is missing: predict every hand, the first and the last too"
    return "predict every hand" if got < expected else "predict every hand once"


# ---- hands that cannot be, and hands that look like a mistake


def _expect_extent(path: Path, predictions: Predictions) -> None:
    """Every hand has a size, and joints that are not in one line."""
    for which, values in (("joints", predictions.joints_m), ("vertices", predictions.vertices_m)):
        if values is None:
            continue
        # (N, 3) squares of the extents along each hand's own axes, the largest last; block by block to stay small.
        squares = np.concatenate([_squared_extents(values[start : start + 256]) for start in range(0, len(values), 256)])
        largest_m = np.sqrt(np.maximum(squares[:, 2], 0))
        for wrong, what in (
            (largest_m <= _NO_EXTENT_M, "all at one point"),
            (squares[:, 1] <= np.square(_NO_BREADTH * largest_m), "all on one line"),
        ):
            if wrong.any():
                index, many = int(np.argmax(wrong)), int(wrong.sum())
                raise UserError(
                    f"expected hands in '{path}', got {which} {what} in entry {index} ({many} of {len(values)} entries); "
                    "predict every picture (--baselines zero scores zeros on purpose)"
                )


def _squared_extents(points: np.ndarray) -> np.ndarray:
    centred = points - points.mean(axis=1, keepdims=True)
    return np.linalg.eigvalsh(centred.swapaxes(1, 2) @ centred / points.shape[1])


def find_mistake(predictions: Predictions, data: EvaluationSet) -> str | None:
    """The mistake that predictions look like, judged by at most 200 hands: unit, joint order, reflection, topology or frame.

    A method that is only bad fits no mistake: each one is named only where undoing it makes nearly all hands much better.

    Args:
        predictions: finite, as many as hands.

    Returns:
        What was expected, what came, and what to do; None where nothing looks wrong.
    """
    rows = _some_rows(len(data))
    pairs = {"joints": (predictions.joints_m[rows], data.joints_m[rows])}
    vertices_m, is_own = predictions.vertices_m, False
    if vertices_m is not None and data.vertices_m is not None:
        is_own = predictions.topology == data.topology and vertices_m.shape == data.vertices_m.shape
        pairs["vertices"] = (vertices_m[rows], data.vertices_m[rows])
    comparable = {name: pair for name, pair in pairs.items() if name == "joints" or is_own}
    checks: tuple[Callable[[], str | None], ...] = (
        lambda: _other_unit(pairs),
        lambda: _other_file_order(predictions.joints_m, data.joints_m),
        lambda: _other_order(*pairs["joints"]),
        lambda: _mirrored(comparable, data.left()[rows]),
        lambda: _other_topology(pairs) if is_own else None,
        lambda: _other_frame(pairs),
    )
    return next((said for check in checks if (said := check())), None)


def find_turned_axes(predictions: Predictions, data: EvaluationSet) -> str | None:
    """A note where the camera's axes look like another convention's, which aligned scores do not show; None where they do not."""
    rows = _some_rows(len(data))
    # A mirrored hand is another mistake, which alignment shows.
    if _mirrored({"joints": (predictions.joints_m[rows], data.joints_m[rows])}, data.left()[rows]):
        return None
    ours, truth = (points - points.mean(axis=1, keepdims=True) for points in (predictions.joints_m[rows], data.joints_m[rows]))
    own = distances(ours, truth).mean(axis=1)
    for signs, what in (
        ((1, -1, -1), "y up and z backward (OpenGL)"),
        ((-1, -1, 1), "x left and y up"),
        ((-1, 1, -1), "x left and z backward"),
    ):
        if _is_much_better(distances(ours * signs, truth).mean(axis=1), own):
            return (
                f"these hands look like ones with {what}; FreiHAND's camera has x right, y down, z forward: aligned scores are the same, "
                "unaligned ones are not"
            )
    return None


def _some_rows(count: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, _SAMPLE)).round().astype(int))


def _is_much_better(other: np.ndarray, own: np.ndarray) -> bool:
    """Whether nearly all of (n,) errors in metres are smaller, by a quarter and more in the middle, and were not small before."""
    middle_m = float(np.median(own))
    return len(own) >= _FEW and middle_m > 0.005 and float(np.median(other)) < 0.75 * middle_m and float((other < own).mean()) >= 0.9


def _aligned_errors(ours: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(n,) metres after the best similarity that mirrors nothing."""
    return distances(procrustes(ours, truth), truth).mean(axis=1)


def _sizes(points: np.ndarray) -> np.ndarray:
    """(n,) root mean square distances from the middle."""
    return np.sqrt(np.square(points - points.mean(axis=1, keepdims=True)).sum(axis=2).mean(axis=1))


def _other_unit(pairs: dict[str, tuple[np.ndarray, np.ndarray]]) -> str | None:
    ratios = {name: float(np.median(_sizes(ours) / _sizes(truth))) for name, (ours, truth) in pairs.items()}
    ratio = ratios["joints"]
    ours, truth = pairs["joints"]
    # What looks like hands at all; noise may be of any size.
    is_hand = min(float(np.median(_aligned_errors(points, truth))) for points in (ours, mirror_points(ours))) < 0.035
    if ratio > 200 or (is_hand and not 0.1 < ratio < 10):
        return f"expected hands in metres, got ones {_times(ratio)} as large as the true ones; {_why_unit(ratio)}"
    between = ratios.get("vertices", ratio) / ratio
    if not 0.1 < between < 10:
        return f"expected vertices and joints in metres, got vertices {_times(between)} as large as joints; {_why_unit(between)}"
    return None


def _times(ratio: float) -> str:
    return f"{ratio:.3g} times"


def _why_unit(ratio: float) -> str:
    if 700 < ratio < 1400:
        return "these look like millimetres: divide by 1000"
    if 70 < ratio < 140:
        return "these look like centimetres: divide by 100"
    return "are they normalised, or in another unit? write metres"


def _other_order(ours: np.ndarray, truth: np.ndarray) -> str | None:
    own = np.minimum(_aligned_errors(ours, truth), _aligned_errors(mirror_points(ours), truth))
    errors = {}
    for name, order in JOINT_ORDERS.items():
        reordered = ours[:, [order.index(joint) for joint in JOINTS]]
        errors[name] = np.minimum(_aligned_errors(reordered, truth), _aligned_errors(mirror_points(reordered), truth))
    name = min(errors, key=lambda name: float(np.median(errors[name])))
    if not _is_much_better(errors[name], own):
        order = _matching_order(ours, truth)
        name = f"an order of its own ({', '.join(map(str, order))}, counted in FreiHAND's)"
        reordered = ours[:, np.argsort(order)]
        errors[name] = np.minimum(_aligned_errors(reordered, truth), _aligned_errors(mirror_points(reordered), truth))
        # Noise, too, comes nearer by a free choice of order, but not near.
        if not _is_much_better(errors[name], own) or float(np.median(errors[name])) > _HAND_LIKE_M:
            return None
    return (
        f"expected joints in FreiHAND's order (wrist, then thumb to little finger, tips last), got what looks like {name}: aligned errors "
        f"are {_mm(own)} as they are and {_mm(errors[name])} reordered; reorder them"
    )


def _matching_order(ours: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(21,) which true joint each predicted one is, by their distances to all others alone (Vogelstein et al. 2015)."""
    apart = [np.linalg.norm(points[:, :, None] - points[:, None], axis=3) for points in (truth, ours)]
    true_apart, our_apart = ((each / each.mean(axis=(1, 2), keepdims=True)).mean(axis=0) for each in apart)
    rng = np.random.default_rng(0)
    found = [
        quadratic_assignment(our_apart, true_apart, options={"maximize": True, "P0": "randomized", "rng": rng})
        for _ in range(_ORDER_STARTS)
    ]
    return max(found, key=lambda result: result.fun).col_ind


def _other_file_order(ours: np.ndarray, truth: np.ndarray) -> str | None:
    """Hands of other pictures: all of them, (N, 21, 3)."""
    count = len(truth)
    orders = {
        "names sorted as text ('0', '1', '10', '100')": np.array(sorted(range(count), key=str)),
        "the pictures backwards": np.arange(count)[::-1],
    }
    own = _aligned_errors(ours, truth)
    for name, order in orders.items():
        other = _aligned_errors(ours[np.argsort(order)], truth)
        moved = order != np.arange(count)
        if moved.any() and _is_much_better(other[moved], own[moved]):
            return (
                f"expected hands in the order of the pictures' numbers, got what looks like {name}: aligned errors are {_mm(own[moved])} "
                f"as they are and {_mm(other[moved])} in that order; write them in order"
            )
    return None


def _mirrored(pairs: dict[str, tuple[np.ndarray, np.ndarray]], is_left: np.ndarray) -> str | None:
    sides = {"": np.ones(len(is_left), bool)}
    if is_left.any() and not is_left.all():
        sides |= {"left ": is_left, "right ": ~is_left}
    for side, some in sides.items():
        for name, (ours, truth) in pairs.items():
            own, other = _aligned_errors(ours[some], truth[some]), _aligned_errors(mirror_points(ours[some]), truth[some])
            if _is_much_better(other, own):
                what = "hands" if name == "joints" else "meshes"
                return (
                    f"expected {side}{what} as the picture shows them, got mirrored ones: {name} are {_mm(own)} off aligned as they are, "
                    f"{_mm(other)} with x -> -x; mirror them back (x right, y down, z forward)"
                )
    return None


def _other_topology(pairs: dict[str, tuple[np.ndarray, np.ndarray]]) -> str | None:
    joints, vertices = (_aligned_errors(*pairs[name]) for name in ("joints", "vertices"))
    if float(np.median(vertices)) > 0.02 and float((vertices > 2 * joints).mean()) >= 0.9:
        return (
            f"expected vertices in the truth's own order, got ones that are {_mm(vertices)} off aligned where joints are {_mm(joints)}: "
            "another mesh? add --other-topology to score its joints and its surface"
        )
    return None


def _other_frame(pairs: dict[str, tuple[np.ndarray, np.ndarray]]) -> str | None:
    if "vertices" not in pairs:
        return None
    joints, vertices = pairs["joints"][0], pairs["vertices"][0]
    apart = np.linalg.norm(joints.mean(axis=1) - vertices.mean(axis=1), axis=1)
    true_apart = np.linalg.norm(pairs["joints"][1].mean(axis=1) - pairs["vertices"][1].mean(axis=1), axis=1)
    # A joint's distance from the middle of the hand is no less than its size.
    if float((apart > true_apart + 0.8 * _sizes(joints)).mean()) < 0.9:
        return None
    return (
        f"expected joints and vertices in one frame, got their middles {1e3 * float(np.median(apart)):.0f} mm apart, where the truth's are "
        f"{1e3 * float(np.median(true_apart)):.0f} mm; is one relative to a joint? write both in the camera"
    )


def _mm(errors_m: np.ndarray) -> str:
    return f"{1e3 * float(np.median(errors_m)):.1f} mm"
