"""`import handmesh` is light: watched in fresh interpreters."""

from __future__ import annotations

import os
import subprocess
import sys

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


def test_import_loads_no_other_package() -> None:
    code = """
import sys
before = set(sys.modules)
import handmesh
packages = {name.partition(".")[0] for name in set(sys.modules) - before if sys.modules[name]}
print(*sorted(packages - sys.stdlib_module_names))
"""
    finished = run_python(code)
    assert finished.stdout.split() == ["handmesh"], finished.stdout + finished.stderr


def test_public_names_are_there_and_others_are_not() -> None:
    finished = run_python("import handmesh; handmesh.Nonsense")
    assert "AttributeError" in finished.stderr
    assert "Nonsense" in finished.stderr
