"""tools/gpu: its data is packed, and it trains where there is nothing but what its machine has. On the CPU."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import cv2
import numpy as np
import pytest
from generated_photographs import make_photographs

from handmesh.errors import UserError
from handmesh.photographs import MANIFEST, Origin, PhotographReader, write_photographs
from handmesh.training.checkpoint import load_checkpoint, net_from_checkpoint

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ROOT / "tools" / "gpu"
sys.path.insert(0, str(TOOLS))
import packing  # noqa: E402

# What the machine lacks of what handmesh uses elsewhere.
MISSING = ("tyro", "mediapipe", "openvino", "open3d", "viser", "trimesh", "threadpoolctl", "onnx", "onnxruntime", "onnxscript", "smplx")

# Not there at all, rather than raising: libraries look what there is.
SITE = f"""
import sys
from importlib.machinery import PathFinder

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in {MISSING} else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
"""


@pytest.fixture
def packed(tmp_path, hand_model, monkeypatch) -> Path:
    """Photographs and a panorama, packed for a repository of a megabyte."""
    monkeypatch.setattr(packing, "tracked_bytes", lambda root: 2**20)
    make_photographs(tmp_path / "photographs", hand_model)
    (tmp_path / "hdri").mkdir()
    picture = np.random.default_rng(0).uniform(0.2, 1.0, (32, 64, 3)).astype(np.float32)
    cv2.imwrite(str(tmp_path / "hdri" / "room.hdr"), picture)
    packing.pack(tmp_path / "photographs", tmp_path / "hdri", tmp_path / "packed", ROOT)
    return tmp_path / "packed"


def run_tool(folder: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python in which what the machine lacks cannot be imported, in processes that it starts neither, and torch sees no GPU."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(SITE)
    path = os.pathsep.join([str(folder), str(ROOT), str(TOOLS)])
    environment = {**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *(["-c", code] if code else []), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment, cwd=folder)


def test_everything_imports_there(tmp_path):
    code = "import train, packing, latency, ma36, handmesh.training.loop, handmesh.training.pool, handmesh.training.freihand"
    finished = run_tool(tmp_path / "bare", code)
    assert finished.returncode == 0, finished.stderr
    assert "No module named 'tyro'" in run_tool(tmp_path / "bare", "import tyro").stderr


def test_a_machine_without_a_gpu_is_refused(tmp_path):
    finished = run_tool(tmp_path / "bare", "", str(TOOLS / "train.py"), "data", "out")
    assert finished.returncode == 2
    assert "expected a GPU" in finished.stderr and "--device cpu" in finished.stderr


def test_it_trains_stops_and_goes_on_there(tmp_path, packed):
    (tmp_path / "pictures.yaml").write_text("{seed: 5, pictures: {size_px: 64}}")
    settings = {
        "pictures": str(tmp_path / "pictures.yaml"), "first": 32, "capacity": 64, "ahead": 64, "batch_sizes": [4],
        "train": {
            "precision": "f32", "model": {"size_px": 64, "head": "pooled"}, "data": {"validation_pictures": 16},
            "schedule": {"pictures": 16}, "log_every_batches": 2,
        },
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(json.dumps(settings))
    out = tmp_path / "out"
    flags = [str(TOOLS / "train.py"), str(packed), str(out), "--config", str(tmp_path / "run.yaml"), "--device", "cpu"]
    flags += ["--workers", "1", "--memory", str(tmp_path / "memory")]
    stopped = run_tool(tmp_path / "bare", "", *flags, "--stop-after", "0.001")
    assert stopped.returncode == 0, stopped.stderr
    assert load_checkpoint(out / "last.pt").step == 0
    finished = run_tool(tmp_path / "bare", "", *flags)
    assert finished.returncode == 0, finished.stderr
    lines = finished.stdout.strip().splitlines()
    assert lines[-2].startswith("after 16 images, rendered: pa_mpjpe_mm") and lines[-1].startswith(
        "after 16 images, photographs: landmarks"
    )
    assert "images/s" in lines[-3]
    assert load_checkpoint(out / "last.pt").step == 4
    assert (out / "weights.pt").stat().st_size <= 10e6
    net_from_checkpoint(load_checkpoint(out / "weights.pt"))


def test_what_was_packed_comes_back(tmp_path, packed):
    photographs, hdri = packing.unpack(packed, tmp_path / "work")
    ours, theirs = PhotographReader(photographs), PhotographReader(tmp_path / "photographs")
    assert ours.origins == theirs.origins and len(ours) == len(theirs)
    every = np.arange(len(ours))
    difference = ours.images(every).astype(int) - theirs.images(every)
    assert np.abs(difference).mean() < 12
    np.testing.assert_allclose(ours.labels["landmarks_px"], theirs.labels["landmarks_px"], atol=1 / 32)
    for name in ("file", "origin", "split", "presence", "weight_landmarks", "has_side"):
        np.testing.assert_array_equal(ours.labels[name], theirs.labels[name])
    assert cv2.imread(str(hdri / "room.hdr"), cv2.IMREAD_UNCHANGED).shape == (256, 512, 3)
    (packed / "photographs.bin").write_bytes(b"")
    with pytest.raises(UserError, match="WebP"):
        packing.unpack(packed, tmp_path / "work")


def test_colours_stay_what_they_are(tmp_path):
    red = np.zeros((4, 128, 128, 3), np.uint8)
    red[..., 0] = 200
    (decoded,) = {
        tuple(cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)[64, 64, ::-1] // 50) for file in packing.encoded(red, 70)
    }
    assert decoded == (3, 0, 0) or decoded == (4, 0, 0)


def test_origins_of_few_people_are_thinned(tmp_path, hand_model):
    reader = make_photographs(tmp_path / "photographs", hand_model, count=60)
    origins = [Origin("emre", "MIT"), Origin("others", "MIT")]
    every = np.arange(60)
    write_photographs(tmp_path / "emre", reader.images(every), reader.labels, origins)
    labels = reader.labels[packing.kept_photographs(PhotographReader(tmp_path / "emre"))]
    before, after = (int(((rows["origin"] == 0) & (rows["split"] == 0)).sum()) for rows in (reader.labels, labels))
    assert after == -(-before // 3)
    assert len(reader.labels) - len(labels) == before - after


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_tracked_files_are_counted(tmp_path):
    with pytest.raises(UserError, match="git repository"):
        packing.tracked_bytes(tmp_path)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    for name in ("tracked", "other"):
        (tmp_path / name).write_bytes(bytes(1000))
    subprocess.run(["git", "add", "tracked"], cwd=tmp_path, check=True)
    assert packing.tracked_bytes(tmp_path) == 1000


def test_what_fails_leaves_the_folder_as_it_was(tmp_path, packed, monkeypatch):
    before = {path: path.read_bytes() for path in packed.rglob("*") if path.is_file()}
    monkeypatch.setattr(packing, "LARGEST_TOTAL_BYTES", 2**20)
    with pytest.raises(UserError, match="with the tracked files"):
        packing.pack(tmp_path / "photographs", tmp_path / "hdri", packed, ROOT)
    (tmp_path / "hdri" / "torn.hdr").write_bytes(b"no panorama")
    with pytest.raises(UserError, match="cannot be read"):
        packing.pack(tmp_path / "photographs", tmp_path / "hdri", packed, ROOT)
    assert before == {path: path.read_bytes() for path in packed.rglob("*") if path.is_file()}
    assert not list(tmp_path.glob(".*.part"))
    with pytest.raises(UserError, match="other files"):
        packing.pack(tmp_path / "photographs", tmp_path / "hdri", tmp_path, ROOT)
    assert (tmp_path / "photographs" / MANIFEST).is_file()


def test_the_train_extra_allows_torch_2_11():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert "torch>=2.11" in extras["train"]
