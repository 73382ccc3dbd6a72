"""What processes that render have in common."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from dataclasses import replace

import cv2

from handmesh.hand_model import HandModel
from handmesh.synthetic.config import SynthConfig
from handmesh.synthetic.light import Places
from handmesh.synthetic.scene import render_sample


def compile_once(model: HandModel, pictures: SynthConfig, places: Places, seed: int) -> None:
    """Draw one image here, which fills numba's cache before workers start, which would all compile otherwise."""
    render_sample(model, replace(pictures, negative_share=0.0), places, seed, 0)


def become_worker() -> None:
    """To be called first in a process that renders: Ctrl-C is left to the parent, and the process ends when that does."""
    # Ctrl-C reaches all processes of a terminal; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cv2.setNumThreads(1)


def _end_with_parent() -> None:
    """A killed parent cannot tell its workers to stop."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
