"""Sets of rendered pictures on disk: round trip, resuming, refusing what does not fit."""

import json
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest

from handmesh.errors import UserError
from handmesh.hand_model import load_hand_model
from handmesh.synthetic import shards
from handmesh.synthetic.clip import clip_frames
from handmesh.synthetic.command import SynthCommand, run_synth
from handmesh.synthetic.config import SynthConfig
from handmesh.synthetic.scene import render_sample
from handmesh.synthetic.shards import ShardReader
from handmesh.synthetic.surface import HandSurface

COUNT = 5


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synth")
    command = SynthCommand(out=folder / "set", count=COUNT, seed=3, size=32, workers=1, sheet=folder / "sheet.png")
    run_synth(command)
    return command


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(shards, "SHARD_PICTURES", 2)


def test_round_trip(written):
    pictures = ShardReader(written.out, check_labels=True)
    assert len(pictures) == COUNT and pictures.size_px == 32
    surface, config = HandSurface.of(load_hand_model("open")), SynthConfig(size_px=32)
    for index in range(COUNT):
        sample = render_sample(surface, config, (), 3, index)
        assert np.array_equal(pictures.images(index), sample.image)
        assert np.array_equal(pictures.parts(index), sample.parts)
        assert pictures.labels(index) == sample.label
    assert pictures.images(np.array([4, 0])).shape == (2, 32, 32, 3)
    with pytest.raises(IndexError):
        pictures.images(COUNT)
    sheet = cv2.imread(str(written.sheet))
    assert sheet.shape == (10 * 32, 10 * 32, 3) and sheet.max() > 0


def test_other_arguments_are_refused(written, tmp_path):
    for other in (replace(written, seed=4), replace(written, count=COUNT + 1), replace(written, size=36)):
        with pytest.raises(UserError, match="differ"):
            run_synth(other)
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        run_synth(replace(written, out=tmp_path))
    with pytest.raises(UserError, match="at least 1"):
        run_synth(replace(written, count=0))
    with pytest.raises(UserError, match="can be written"):
        run_synth(replace(written, out=tmp_path / "letter.txt" / "set"))


def test_a_set_cut_short_is_finished_with_the_same_bytes(written, tmp_path, small_shards):
    surface, config = HandSurface.of(load_hand_model("open")), SynthConfig(size_px=32)
    counts = shards.shard_counts(COUNT)
    assert counts == [2, 2, 1]
    plan = shards.plan_manifest(surface.model, config, [], COUNT, 3)
    manifest = shards.open_set(tmp_path / "set", plan)

    def draw(index):
        return render_sample(surface, config, (), 3, index)

    def write(shard):
        return shards.write_shard(tmp_path / "set", shard, 32, counts[shard], draw, lambda: None)

    manifest["shards"] = [write(0), write(1)]
    shards.write_manifest(tmp_path / "set", manifest)
    with pytest.raises(UserError, match="only 4 are complete"):
        ShardReader(tmp_path / "set")
    assert len(ShardReader(tmp_path / "set", allow_partial=True)) == 4
    # What a killed worker leaves behind.
    (tmp_path / "set" / "shard-00002.part").mkdir()
    manifest = shards.open_set(tmp_path / "set", plan)
    manifest["shards"].append(write(2))
    shards.write_manifest(tmp_path / "set", manifest)
    everything, whole = np.arange(COUNT), ShardReader(written.out)
    pieces = ShardReader(tmp_path / "set", check_labels=True)
    assert np.array_equal(pieces.images(everything), whole.images(everything))
    assert np.array_equal(pieces.labels(everything), whole.labels(everything))


def test_broken_sets_are_one_line(written, tmp_path):
    def copy(name):
        return shutil.copytree(written.out, tmp_path / name)

    def break_manifest(folder, **changes):
        manifest = json.loads((folder / shards.MANIFEST).read_text())
        (folder / shards.MANIFEST).write_text(json.dumps(manifest | changes))
        return folder

    (tmp_path / "empty").mkdir()
    missing = copy("missing")
    (missing / "shard-00000" / "parts.npy").unlink()
    changed = copy("changed")
    labels = np.load(changed / "shard-00000" / "labels.npy")
    labels["betas"][0, 0] += 1
    np.save(changed / "shard-00000" / "labels.npy", labels)
    text = copy("text")
    (text / shards.MANIFEST).write_text("not json")
    for folder in (
        tmp_path / "empty",
        missing,
        changed,
        text,
        break_manifest(copy("format"), format="other-1"),
        break_manifest(copy("size"), size_px=64),
    ):
        with pytest.raises(UserError) as caught:
            ShardReader(folder, check_labels=True)
        assert "\n" not in str(caught.value)


def test_clip_shows_one_hand_then_two():
    frames = list(clip_frames(load_hand_model("open"), 0, 2, (96, 72)))
    assert [frame.shape for frame in frames] == [(72, 96, 3)] * 2
    skin_like = [(frame[..., 0].astype(int) > frame[..., 2] + 45).mean() for frame in frames]
    assert frames[0].dtype == np.uint8 and 0.01 < skin_like[0] < skin_like[1]
