"""What a folder of rendered pictures says about itself. Reading it needs no renderer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from handmesh.errors import UserError
from handmesh.wholefile import replacing

SHARDS, FREIHAND = "handmesh-shards-2", "handmesh-freihand-1"
FORMATS = {"shards": SHARDS, "freihand": FREIHAND}
MANIFEST = "manifest.json"
# Where a set in FreiHAND's layout keeps each kind of picture.
FOLDERS = {"right": ".", "left": "left", "negative": "negative"}


def read_manifest(folder: Path, format_id: str | None = None) -> dict[str, Any]:
    """The manifest of a set of pictures, checked for form.

    Args:
        format_id: SHARDS or FREIHAND; None for either.

    Raises:
        UserError: no manifest, not JSON, another format, or entries that are missing.
    """
    path = Path(folder) / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"expected a set of pictures with a {MANIFEST}, got '{folder}' ({error.strerror}); make one with handmesh-synth"
        ) from error
    except ValueError as error:
        raise UserError(f"expected '{path}' to be JSON, but it cannot be read ({error}); delete the folder and draw it again") from error
    wanted = (format_id,) if format_id else tuple(FORMATS.values())
    found = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
    if format_id and found != format_id and found in FORMATS.values():
        raise UserError(
            f"expected a set of format '{format_id}', got '{folder}' with '{found}'; read it with open_pictures, or draw another set"
        )
    if found not in wanted:
        raise UserError(
            f"expected format '{' or '.join(wanted)}' in '{path}', got {found!r}; give another folder, or delete it and draw it with this "
            "version"
        )
    missing = [key for key in ("count", "versions", "size_px", "width_px", "hand_model", "pieces") if key not in manifest]
    if missing:
        raise UserError(f"expected {', '.join(missing)} in '{path}', which leaves them out; delete the folder and draw it again")
    pieces = manifest["pieces"]
    if not isinstance(pieces, list) or not all(isinstance(piece, dict) and isinstance(piece.get("count"), int) for piece in pieces):
        raise UserError(f"expected pieces with a count in '{path}', got {str(pieces)[:60]}; delete the folder and draw it again")
    return manifest


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Replace a folder's manifest at once."""
    with replacing(folder / MANIFEST) as temporary:
        temporary.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def expect_complete(folder: Path, manifest: dict[str, Any], complete: int) -> None:
    """Refuse a set with fewer pictures than it is to hold.

    Raises:
        UserError: says how to finish it.
    """
    if complete < manifest["count"]:
        raise UserError(
            f"expected {manifest['count']} pictures in '{folder}', but only {complete} are complete; "
            "run handmesh-synth with the same arguments again to finish"
        )
