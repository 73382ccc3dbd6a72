"""Keeps C++ libraries from writing on the user's terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Send the process's stderr nowhere for the body of a `with`, native code and threads included.

    Python's exceptions are unaffected; keep the body short, since a crash in it dies in silence.
    """
    try:
        kept = os.dup(2)
    except OSError:  # the process was started without a stderr
        yield
        return
    sys.stderr.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(nowhere)
        os.close(kept)
