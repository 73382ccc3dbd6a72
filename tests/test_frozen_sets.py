"""The evaluation sets are frozen: whoever changes what they hold hears of it here.

After an intended change raise `scene.PICTURES` and run tools/freeze_sets.py; scores on the sets before and after do not compare.
"""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from handmesh.config import load_config
from handmesh.errors import UserError
from handmesh.hand_model import load_hand_model
from handmesh.synthetic.command import SynthCommand, run_synth
from handmesh.synthetic.config import PictureSet, SynthConfig
from handmesh.synthetic.sets import plan_manifest, recipe_sha256
from handmesh.synthetic.surface import HandSurface

ROOT = Path(__file__).parent.parent
SETS = sorted((ROOT / "configs").glob("eval_*.yaml"))
RECORD = json.loads((Path(__file__).parent / "frozen_sets.json").read_text(encoding="utf-8"))
spec = importlib.util.spec_from_file_location("freeze_sets", ROOT / "tools" / "freeze_sets.py")
assert spec is not None and spec.loader is not None
freeze_sets = importlib.util.module_from_spec(spec)
spec.loader.exec_module(freeze_sets)


@pytest.fixture(scope="module")
def surface() -> HandSurface:
    return HandSurface.of(load_hand_model("open"))


def _recipe(path: Path, **changes: object) -> tuple[str, PictureSet]:
    pictures = load_config(PictureSet, path)
    plan = plan_manifest(replace(pictures, **changes), load_hand_model("open"))
    return recipe_sha256({**plan, "panoramas": RECORD[path.stem]["panoramas"]}), pictures


@pytest.mark.parametrize("path", SETS, ids=lambda path: path.stem)
def test_the_recipe_is_the_recorded_one(path):
    found, pictures = _recipe(path)
    assert found == pictures.sha256
    assert {panorama["name"] for panorama in RECORD[path.stem]["panoramas"]} == set(pictures.pictures.panoramas)
    assert _recipe(path, seed=1)[0] != found
    assert _recipe(path, pictures=replace(pictures.pictures, tone=(0.0, 0.5)))[0] != found


@pytest.mark.parametrize("path", SETS, ids=lambda path: path.stem)
def test_the_first_pictures_are_the_recorded_ones(surface, path):
    found = freeze_sets.fingerprint(surface, load_config(PictureSet, path))
    for now, then in zip(found, RECORD[path.stem]["first"], strict=True):
        # Processors differ in the last bits, and a threshold of the camera's may then fall the other way.
        assert np.abs(np.array(now["keypoints"]) - then["keypoints"]).max() <= 2
        assert now["presence"] == then["presence"] and abs(now["seen"] - then["seen"]) <= 1
        assert np.abs(np.array(now["colours"]) - then["colours"]).mean() < 2


def test_nobody_trains_on_their_places():
    held_out = SynthConfig().held_out_panoramas
    assert len(SETS) == 2
    for path in SETS:
        assert set(load_config(PictureSet, path).pictures.panoramas) <= set(held_out)


def test_other_pictures_do_not_pass_under_their_name(tmp_path):
    for changes in ({"count": 10}, {"hdri": None}):
        command = SynthCommand(out=tmp_path / "set", config=SETS[0], **{"count": 10, **changes})
        with pytest.raises(UserError) as caught:
            run_synth(command)
        assert "\n" not in str(caught.value) and not (tmp_path / "set").exists()
