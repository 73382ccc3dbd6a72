"""How many threads numpy's libraries take."""

from __future__ import annotations

import importlib.util
from contextlib import AbstractContextManager, nullcontext
from typing import Any


def one_thread(user_api: str | None = None) -> AbstractContextManager[Any]:
    """Hold the libraries to one thread; without threadpoolctl, which a machine that only trains may lack, they keep theirs.

    Args:
        user_api: "blas" or "openmp" alone; None for both.
    """
    if importlib.util.find_spec("threadpoolctl") is None:
        return nullcontext()
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1, user_api=user_api)
