"""Data of your own for handmesh-eval: one function that makes an EvaluationSet.

handmesh-eval --data FOLDER --reader demo/my_dataset.py

FOLDER holds pictures and hands.json, a list of {"file", "K" [3 3], "joints_m" [21 3], "is_left"}, in the picture's camera.
"""

import json
from pathlib import Path

import numpy as np

from handmesh.evaluation.records import EvaluationSet
from handmesh.live.sources import read_picture


def open_data(folder: Path) -> EvaluationSet:
    """One hand a picture; without meshes, joints alone are scored."""
    hands = json.loads((folder / "hands.json").read_text(encoding="utf-8"))
    return EvaluationSet(
        name=folder.name,
        joints_m=np.array([hand["joints_m"] for hand in hands], float),
        K=np.array([hand["K"] for hand in hands], float),
        image=lambda index: read_picture(folder / hands[index]["file"]),
        is_left=np.array([hand["is_left"] for hand in hands], bool),
    )
