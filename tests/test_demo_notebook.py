"""The notebook runs from its first cell to its last, shows its pictures and writes its files."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

nbclient = pytest.importorskip("nbclient", reason="needs the test extra")
nbformat = pytest.importorskip("nbformat", reason="needs the test extra")
pytest.importorskip("ipykernel", reason="needs the test extra")

NOTEBOOK = Path(__file__).parents[1] / "demo" / "handmesh.ipynb"


def test_the_notebook_is_kept_without_results():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells if cell["cell_type"] == "code")


def test_the_notebook_runs(tmp_path, monkeypatch):
    # A kernel of this very Python, whatever the machine has.
    spec = tmp_path / "share" / "kernels" / "python3"
    spec.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "Python 3", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share"))
    for name in ("JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    pictures = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    shown = [cv2.imdecode(np.frombuffer(base64.b64decode(picture), np.uint8), cv2.IMREAD_COLOR) for picture in pictures]
    assert len(shown) == 5 and all(picture.std() > 5 for picture in shown)
    text = "".join(output.get("text", "") for output in outputs)
    assert "right hand" in text and "left hand" in text
    assert sorted(path.name for path in (tmp_path / "notebook_out").iterdir()) == ["hands.glb", "hands.npz"]
    for number, picture in enumerate(shown):
        cv2.imwrite(str(tmp_path / f"shown_{number}.png"), picture)
