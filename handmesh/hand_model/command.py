"""`handmesh-mano`: takes MANO from its own files into the user's data folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from handmesh.errors import UserError, one_line
from handmesh.hand_model.assets import MANO_MANUAL, mano_file, save_hand_model
from handmesh.hand_model.mano import read_mano


@dataclass(frozen=True)
class ManoCommand:
    """Import MANO once, so that --hand-model mano finds it.

    MANO is for research only and not part of handmesh: register at https://mano.is.tue.mpg.de and download "Models & Code".
    Its files are read without chumpy, and without running what a pickle could run. A left hand is mirrored into a right one.
    """

    action: tyro.conf.Positional[Literal["import", "path"]] = "import"
    """What to do: import MANO, or print where the imported file is."""
    source: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")] = None
    """MANO_RIGHT.pkl, mano_v1_2.zip, the folder it was unpacked to, or an npz."""


def run_mano(command: ManoCommand) -> None:
    """Do what the command line says.

    Raises:
        UserError: no MANO there, a file that is not MANO's, or a data folder that cannot be written to; a file after `path`.
    """
    target = mano_file()
    if command.action == "path":
        if command.source is not None:
            raise UserError(f"expected nothing after 'path', got '{command.source}'; run: handmesh-mano path")
        print(target)
        return
    if command.source is None or not os.path.exists(command.source):
        print("MANO is not part of handmesh. To get it:")
        print("\n".join(f"  {number}. {step}" for number, step in enumerate(MANO_MANUAL, 1)))
        came = "nothing" if command.source is None else f"'{command.source}', which is not there"
        raise UserError(f"expected MANO_RIGHT.pkl, mano_v1_2.zip, a folder or an npz, got {came}; run: handmesh-mano import PATH")
    found = read_mano(command.source)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        save_hand_model(found.model, target)
    except OSError as error:
        raise UserError(
            f"expected to write '{target}', but {one_line(error)}; set HANDMESH_DATA to a folder that can be written to"
        ) from error
    side = "a left hand, mirrored" if found.was_left else "a right hand"
    print(f"found {found.source}: {side}; {len(found.model.template_m)} vertices, {len(found.model.faces)} faces")
    print(f"wrote {target} ({found.model.id}); use it with --hand-model mano")
    for note in found.notes:
        print(f"note: {note}")
