"""Freeze the evaluation sets anew, after an intended change of the renderer, the hand or their settings.

    python tools/freeze_sets.py HDRI

Writes each set's `recipe_sha256` into configs/eval_*.yaml, and into tests/frozen_sets.json what the tests hold the renderer to:
the panoramas' checksums, and labels and coarse colours of each set's first pictures in an even grey light.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import cv2
import numpy as np

from handmesh.config import load_config
from handmesh.hand_model import load_hand_model
from handmesh.synthetic.config import PictureSet
from handmesh.synthetic.light import Places, panorama_of, panorama_paths
from handmesh.synthetic.scene import render_sample
from handmesh.synthetic.sets import plan_manifest
from handmesh.synthetic.surface import HandSurface
from handmesh.wholefile import replacing

ROOT = Path(__file__).parent.parent
RECORD = ROOT / "tests" / "frozen_sets.json"
PICTURES = 6
COLOUR_CELLS = 4


def fingerprint(surface: HandSurface, pictures: PictureSet) -> list[dict]:
    """Of each of the first pictures: keypoints in hundredths of a pixel, presence, share seen in percent, and mean colours of cells."""
    grey = Places((panorama_of(np.full((64, 128, 3), 0.6, np.float32)),), ())
    prints = []
    for index in range(PICTURES):
        sample = render_sample(surface, pictures.pictures, grey, pictures.seed, index)
        coarse = cv2.resize(sample.image, (COLOUR_CELLS, COLOUR_CELLS), interpolation=cv2.INTER_AREA)
        prints.append(
            {
                "keypoints": np.rint(100 * sample.label["keypoints_px"]).astype(int).tolist(),
                "presence": int(sample.label["presence"]),
                "seen": round(100 * float(sample.label["seen"])),
                "colours": coarse.reshape(-1).tolist(),
            }
        )
    return prints


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("hdri", type=Path, help="folder with the panoramas that the sets list")
    arguments = parser.parse_args()
    model = load_hand_model("open")
    surface = HandSurface.of(model)
    record = {}
    for path in sorted((ROOT / "configs").glob("eval_*.yaml")):
        pictures = load_config(PictureSet, path)
        plan = plan_manifest(pictures, model, panorama_paths(arguments.hdri, pictures.pictures))
        text = re.sub(r"(?m)^sha256: .*\n", "", path.read_text(encoding="utf-8"))
        text = re.sub(r"(?m)^format: ", f"sha256: {plan['recipe_sha256']}\nformat: ", text)
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        record[path.stem] = {"panoramas": plan["panoramas"], "first": fingerprint(surface, pictures)}
        print(path.name, plan["recipe_sha256"])
    with replacing(RECORD) as temporary:
        temporary.write_text(json.dumps(record, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
