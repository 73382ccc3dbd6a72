"""`import handmesh` is light: measured and watched in fresh interpreters."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

HEAVY = ("torch", "open3d", "mediapipe", "timm", "openvino", "onnxruntime", "trimesh", "numba", "smplx", "lightning", "jax", "viser")

BLOCKER = f"""
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HEAVY}:
            raise ImportError(f"{{name}} is blocked by this test")
        return None

sys.meta_path.insert(0, Blocker())
"""


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment)


def seconds(code: str) -> float:
    start = time.perf_counter()
    finished = run_python(code)
    assert finished.returncode == 0, finished.stderr
    return time.perf_counter() - start


@pytest.mark.parametrize(
    "code",
    [
        "import handmesh; handmesh.__version__",
        "from handmesh import Camera, Hand, HandModel",
        "from handmesh.hand_model import load_hand_model; load_hand_model()",
        "import handmesh.geometry.crop, handmesh.render.overlay, handmesh.render.window",
    ],
)
def test_works_without_heavy_libraries(code: str) -> None:
    finished = run_python(BLOCKER + code)
    assert finished.returncode == 0, finished.stderr


def test_the_blocker_blocks() -> None:
    finished = run_python(BLOCKER + "import torch")
    assert finished.returncode != 0
    assert "blocked by this test" in finished.stderr


def test_import_loads_nothing_heavy() -> None:
    finished = run_python(f"import sys, handmesh; print([name for name in {HEAVY} if name in sys.modules])")
    assert finished.stdout.strip() == "[]", finished.stdout + finished.stderr


def test_import_is_fast() -> None:
    # Pairs in turn, and the best of each, so that a busy machine slows both alike.
    pairs = [(seconds("pass"), seconds("import handmesh")) for _ in range(3)]
    nothing_s, handmesh_s = (min(column) for column in zip(*pairs, strict=True))
    assert handmesh_s - nothing_s < 0.3, f"import handmesh takes {handmesh_s - nothing_s:.2f} s"


def test_public_names_are_there_and_others_are_not() -> None:
    finished = run_python("import handmesh; handmesh.Nonsense")
    assert "AttributeError" in finished.stderr
    assert "Nonsense" in finished.stderr
