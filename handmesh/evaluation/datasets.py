"""Labelled pictures to measure on. One class describes them all (`records.EvaluationSet`); a reader makes it from files.

A reader of your own is a Python file with one function, `open_data(path) -> EvaluationSet`; `handmesh-eval --reader FILE.py` uses it.
docs/benchmark.md shows one.
"""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from handmesh.errors import UserError, one_line
from handmesh.evaluation.records import EvaluationSet
from handmesh.freihand import ENTRY_SHAPES, FreiHand, read_numbers
from handmesh.synthetic.manifest import FOLDERS, FREIHAND, MANIFEST, expect_complete, read_manifest

FREIHAND_TOPOLOGY = "mano-right"
FREIHAND_NAME = "FreiHAND"


def open_data(path: Path, reader: Path | None = None, truth_only: bool = False) -> EvaluationSet:
    """Whatever there is at a path: FreiHAND's annotated evaluation split, or a set of `handmesh-synth --format freihand`.

    Args:
        reader: a file of the caller's that reads other data.
        truth_only: pictures and cameras are not needed, and may be missing.

    Raises:
        UserError: nothing that is known, or broken files.
    """
    if reader is not None:
        return _read_by(reader, path)
    if path.is_file():
        raise UserError(f"expected a folder of labelled pictures, got the file '{path}'; give the folder that holds it")
    if not path.is_dir():
        raise UserError(f"expected a folder of labelled pictures, got '{path}', which is none; see docs/benchmark.md for what can be read")
    if (path / MANIFEST).is_file():
        return read_rendered(path)
    if (path / "evaluation_K.json").is_file() or (path / "evaluation_xyz.json").is_file():
        return read_freihand(path, truth_only)
    raise UserError(
        f"expected FreiHAND's evaluation files (evaluation_K.json ...) or a set of handmesh-synth ({MANIFEST}) in '{path}', got neither; "
        "draw one with handmesh-synth --config configs/eval_general.yaml --out DIR, or give --reader for other data"
    )


def read_freihand(root: Path, truth_only: bool = False) -> EvaluationSet:
    """FreiHAND's evaluation split with its annotations: 3,960 right hands.

    Args:
        root: holds evaluation_{xyz,verts,K}.json and evaluation/rgb; with `truth_only` the first two are enough, or one for joints alone.

    Raises:
        UserError: files that are missing or broken.
    """
    if not (root / "evaluation_xyz.json").is_file():
        raise UserError(
            f"expected '{root / 'evaluation_xyz.json'}', which is not there; it comes with FreiHAND's annotated evaluation archive, "
            "see data/README.md"
        )
    if truth_only and not (root / "evaluation" / "rgb").is_dir():
        joints_m = read_numbers(root / "evaluation_xyz.json", ENTRY_SHAPES["xyz"])
        if not (root / "evaluation_verts.json").is_file():
            return EvaluationSet(FREIHAND_NAME, joints_m, None, None, crop="centre")
        vertices_m = read_numbers(root / "evaluation_verts.json", ENTRY_SHAPES["verts"])
        if len(joints_m) != len(vertices_m):
            raise UserError(
                f"expected as many vertices as joints in '{root}', got {len(vertices_m)} and {len(joints_m)}; take both from one archive"
            )
        return EvaluationSet(FREIHAND_NAME, joints_m, None, None, vertices_m, FREIHAND_TOPOLOGY, crop="centre")
    files = FreiHand(root, "evaluation")
    if files.versions != 1:
        raise UserError(f"expected {files.count} pictures in '{root / 'evaluation' / 'rgb'}', got {len(files)}; unpack the archive again")
    return EvaluationSet(FREIHAND_NAME, files.xyz_m, files.K, files.image, files.verts_m, FREIHAND_TOPOLOGY, crop="centre")


def read_rendered(root: Path) -> EvaluationSet:
    """A set of `handmesh-synth` in FreiHAND's layout: its hands that are present, right ones and left ones, by index.

    Raises:
        UserError: not such a set, an incomplete one, or one without hands.
    """
    manifest = read_manifest(root, FREIHAND)
    expect_complete(root, manifest, sum(piece["count"] for piece in manifest["pieces"]))
    folders = [
        FreiHand(root / FOLDERS[piece["name"]]) for piece in manifest["pieces"] if piece.get("name") in ("right", "left") and piece["count"]
    ]
    # (index in the set, folder, picture) of every hand that counts; of several colourings the first.
    hands = sorted(
        (folder.side[picture].index, number, picture)
        for number, folder in enumerate(folders)
        for picture in range(folder.count)
        if folder.side[picture].presence == 1
    )
    if not hands:
        raise UserError(f"expected hands in '{root}', got none that are present; draw a larger set")
    _, which, pictures = (np.array(column) for column in zip(*hands, strict=True))

    def gathered(name: str) -> np.ndarray:
        first = getattr(folders[0], name)
        values = np.empty((len(hands), *first.shape[1:]))
        for number, folder in enumerate(folders):
            values[which == number] = getattr(folder, name)[pictures[which == number]]
        return values

    is_left = np.array([folder.side[0].is_right is False for folder in folders])[which]
    return EvaluationSet(
        root.resolve().name,
        gathered("xyz_m"),
        gathered("K"),
        lambda index: folders[which[index]].image(int(pictures[index])),
        gathered("verts_m"),
        manifest["hand_model"],
        is_left,
        order=f"of {manifest['count']} pictures those whose presence is 1, by index in training_side.json, right and left together",
    )


def _read_by(reader: Path, path: Path) -> EvaluationSet:
    """What the caller's own file makes of a path."""
    spec = importlib.util.spec_from_file_location("handmesh_reader", reader)
    if not reader.is_file() or spec is None or spec.loader is None:
        raise UserError(f"expected a Python file for --reader, got '{reader}'; see docs/benchmark.md for one")
    module = importlib.util.module_from_spec(spec)
    # As an import does: dataclasses look their module up, and files beside it can be imported.
    sys.modules[spec.name] = module
    sys.path.insert(0, str(reader.resolve().parent))
    with _readers_own(reader):
        spec.loader.exec_module(module)
    function = getattr(module, "open_data", None)
    if not callable(function):
        raise UserError(f"expected a function open_data(path) in '{reader}', got none; see docs/benchmark.md for one")
    with _readers_own(reader):
        data = function(path)
    if not isinstance(data, EvaluationSet):
        raise UserError(
            f"expected open_data of '{reader}' to give an EvaluationSet, got {type(data).__name__}; see docs/benchmark.md for one"
        )
    return data


@contextmanager
def _readers_own(reader: Path) -> Iterator[None]:
    """Whatever goes wrong in a caller's file is told in one line, with its place."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(reader)]
        where = f", line {lines[-1]}" if lines else ""
        raise UserError(f"expected --reader '{reader}' to work, got {type(error).__name__}{where}: {one_line(error)}; mend it") from error
