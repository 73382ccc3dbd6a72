"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Write under a temporary name beside `path`; it becomes `path` when the body of the `with` ends without an error.

    Example:
        with replacing("hands.json") as temporary:
            temporary.write_text(text)

    Yields:
        The temporary name, with the ending of `path`. It is removed when the body fails.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
