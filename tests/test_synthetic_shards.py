"""Sets of pictures on disk, in both formats: round trip, resuming, refusing what does not fit. The renderer is replaced by noise."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from generated_shards import GeneratedShards

from handmesh.errors import UserError
from handmesh.freihand import FreiHand
from handmesh.hand_model import load_hand_model
from handmesh.synthetic import command, sets, shards
from handmesh.synthetic.command import SynthCommand, run_synth
from handmesh.synthetic.freihand_layout import KINDS, LayoutReader
from handmesh.synthetic.light import Places
from handmesh.synthetic.manifest import FOLDERS, FORMATS, MANIFEST
from handmesh.synthetic.scene import Sample, kind_of
from handmesh.synthetic.shards import ShardReader

COUNT, SIZE = 40, 32


def noise_sample(model, config, places, seed, index, version=0):
    """As `render_sample`: geometry of (seed, index), colours of the version, nothing in pictures that `kind_of` says are empty."""
    generated = GeneratedShards(model, count=6, size_px=config.size_px, seed=seed * 1000 + index)
    # The fourth of its labels has no hand in it.
    row = 3 if kind_of(config, seed, index) == "negative" else 0
    label = generated.labels(np.arange(6))[row]
    # Coarse noise, which JPEG keeps.
    coarse = np.random.default_rng([seed, index, version]).integers(0, 256, (config.size_px // 8, config.size_px // 8, 3), dtype=np.uint8)
    image = coarse.repeat(8, axis=0).repeat(8, axis=1)
    mask = np.zeros((config.size_px, config.size_px), np.uint8)
    if row == 0:
        cv2.circle(mask, (8 + index % 10, 16), 7, 255, -1)
    depth_m = np.full((config.size_px // 4,) * 2, index / 100, np.float16)
    return Sample(image, label, generated.parts(np.arange(1))[0], depth_m, mask)


def without_renderer(monkeypatch):
    model = load_hand_model("open")
    monkeypatch.setattr(command, "render_sample", noise_sample)
    monkeypatch.setattr(command, "load_places", lambda *_: Places((), ()))
    monkeypatch.setattr(command.HandSurface, "of", lambda _: model)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    without_renderer(monkeypatch)
    # Small, so that sets of a few pictures have several of each.
    monkeypatch.setattr(sets, "BLOCK_PICTURES", 3)
    monkeypatch.setattr(shards, "SHARD_PICTURES", 16)


@pytest.fixture(scope="module")
def sets_folder(tmp_path_factory):
    """A whole set in each format."""
    folder = tmp_path_factory.mktemp("synth")
    with pytest.MonkeyPatch.context() as patch:
        without_renderer(patch)
        patch.setattr(shards, "SHARD_PICTURES", 16)
        for name in FORMATS:
            run_synth(asked_for(folder, name))
    return folder


def asked_for(folder: Path, name: str, **changes) -> SynthCommand:
    return SynthCommand(**{"out": folder / name, "count": COUNT, "seed": 3, "size": SIZE, "workers": 1, "format": name, **changes})


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def config_of(folder: Path):
    return command.choose_pictures(asked_for(folder, "shards")).pictures


def test_shards_hold_what_was_drawn(sets_folder):
    pictures = ShardReader(sets_folder / "shards", check_labels=True)
    assert len(pictures) == COUNT and pictures.size_px == SIZE and [piece["count"] for piece in pictures.manifest["pieces"]] == [16, 16, 8]
    for index in range(COUNT):
        sample = noise_sample(load_hand_model("open"), config_of(sets_folder), None, 3, index)
        assert np.array_equal(pictures.image(index), sample.image)
        assert np.array_equal(pictures.overlay(index), sample.parts)
        assert np.array_equal(pictures.depth(index), sample.depth_m) and pictures.depth(index).dtype == np.float16
        assert pictures.label(index) == sample.label and not pictures.is_left(index)
    assert pictures.images(np.array([39, 0])).shape == (2, SIZE, SIZE, 3) and pictures.depth(np.arange(20)).shape == (20, 8, 8)
    assert np.array_equal(pictures.labels(), pictures.labels(np.arange(COUNT)))
    with pytest.raises(IndexError):
        pictures.images(COUNT)


def test_the_layout_holds_what_was_drawn_left_hands_mirrored(sets_folder):
    pictures = sets.open_pictures(sets_folder / "freihand")
    assert isinstance(pictures, LayoutReader) and len(pictures) == len(pictures.labels()) == COUNT
    found = []
    for index in range(COUNT):
        sample = noise_sample(load_hand_model("open"), config_of(sets_folder), None, 3, index)
        kind = kind_of(config_of(sets_folder), 3, index)
        found.append(kind)
        assert pictures.is_left(index) == (kind == "left")
        mirror = slice(None, None, -1) if kind == "left" else slice(None)
        image, mask = sample.image[:, mirror], sample.mask[:, mirror] > 0
        # Other pictures of noise are 85 levels away.
        assert np.abs(pictures.image(index).astype(int) - image).mean() < 20
        assert ((pictures.overlay(index) > 0) == mask).mean() > 0.995
        expected = sample.label.copy()
        if kind == "left":
            expected["keypoints_px"][:, 0] = SIZE - 1 - expected["keypoints_px"][:, 0]
        assert pictures.label(index) == expected
    assert set(found) == set(KINDS)
    for kind, name in FOLDERS.items():
        one_kind = FreiHand(sets_folder / "freihand" / name)
        assert len(one_kind) == one_kind.count == found.count(kind)
        assert [side.index for side in one_kind.side] == [index for index in range(COUNT) if found[index] == kind]
        assert {side.is_right for side in one_kind.side} == {{"right": True, "left": False, "negative": None}[kind]}
        assert all((side.pose is None) == (kind == "negative") for side in one_kind.side)


@pytest.mark.parametrize("is_renamed", [False, True])
@pytest.mark.parametrize("name", list(FORMATS))
def test_a_set_cut_short_anywhere_is_finished_with_the_same_bytes(sets_folder, tmp_path, monkeypatch, name, is_renamed):
    """Every run ends at a rename, before or after it, each one rename later than the run before: blocks, joining, manifests."""
    asked, real = asked_for(tmp_path, name), os.replace
    drawn, ends = [], []

    def note(*arguments):
        drawn.append(arguments)
        return noise_sample(*arguments)

    monkeypatch.setattr(command, "render_sample", note)
    for renames in range(2, 40):
        left = iter(range(renames, -1, -1))

        def cut(source, target, left=left):
            is_last = not next(left)
            if is_renamed or not is_last:
                real(source, target)
            if is_last:
                ends.append(Path(target).name)
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", cut)
            try:
                run_synth(asked)
                break
            except KeyboardInterrupt:
                continue
    assert len(set(ends)) >= 4 and contents(asked.out) == contents(sets_folder / name)
    # At most one block is drawn again after each cut, and nothing of a set that is whole.
    assert len(drawn) <= COUNT + sets.BLOCK_PICTURES * len(ends)
    drawn.clear()
    run_synth(asked)
    assert not drawn and contents(asked.out) == contents(sets_folder / name)


def test_shards_are_read_while_others_are_drawn(sets_folder, tmp_path, monkeypatch):
    seen = []

    def look(model, config, places, seed, index, version=0):
        if index in (17, 33):
            seen.append(len(ShardReader(tmp_path / "shards", allow_partial=True)))
        return noise_sample(model, config, places, seed, index, version)

    monkeypatch.setattr(command, "render_sample", look)
    run_synth(asked_for(tmp_path, "shards"))
    assert seen == [16, 32]


def test_four_versions_share_hands_and_masks(tmp_path):
    run_synth(asked_for(tmp_path, "freihand", versions=4, count=20))
    pictures = FreiHand(tmp_path / "freihand")
    assert pictures.versions == 4 and len(pictures) == 4 * pictures.count == 4 * len(pictures.K) == len(pictures.side)
    assert len(list((tmp_path / "freihand/training/mask").iterdir())) == pictures.count
    for picture in range(pictures.count):
        ids = picture + pictures.count * np.arange(4)
        images = [pictures.image(each).astype(int) for each in ids]
        assert all(np.abs(images[0] - other).mean() > 40 for other in images[1:])
        assert len({pictures.side[each].index for each in ids}) == 1
    assert FreiHand(tmp_path / "freihand/negative").versions == 4


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_full_disk_is_one_line_and_can_be_gone_on_from(sets_folder, tmp_path, monkeypatch, name):
    asked = asked_for(tmp_path, name)
    with monkeypatch.context() as patch:
        usage = shutil.disk_usage(tmp_path)._replace(free=10**4)
        patch.setattr(shutil, "disk_usage", lambda _: usage)
        with pytest.raises(UserError, match="GB free"):
            run_synth(asked)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with monkeypatch.context() as patch:
        patch.setattr(np, "save" if name == "shards" else "savez", lambda *_, **__: (_ for _ in ()).throw(full))
        with pytest.raises(UserError, match="No space left on device; free some and run again"):
            run_synth(asked)
    run_synth(asked)
    assert contents(asked.out) == contents(sets_folder / name)


def test_other_arguments_and_folders_are_refused(sets_folder, tmp_path):
    written = asked_for(sets_folder, "shards")
    for other in (
        replace(written, seed=4),
        replace(written, count=COUNT + 1),
        replace(written, size=36),
        replace(written, format="freihand"),
    ):
        with pytest.raises(UserError, match="differ"):
            run_synth(other)
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        run_synth(replace(written, out=tmp_path))
    with pytest.raises(UserError, match="can be written"):
        run_synth(replace(written, out=tmp_path / "letter.txt" / "set"))
    # Nothing but what a kill during the first write leaves.
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun/.manifest.part.json").write_text("{")
    run_synth(replace(written, out=tmp_path / "begun", count=1))


def test_a_newer_handmesh_with_the_same_renderer_goes_on(sets_folder, tmp_path, monkeypatch):
    shutil.copytree(sets_folder / "shards", tmp_path / "shards")
    monkeypatch.setattr(sets, "__version__", "99.0")
    run_synth(asked_for(tmp_path, "shards"))
    monkeypatch.setattr(sets, "PICTURES", "pictures-99")
    with pytest.raises(UserError, match="differ: renderer"):
        run_synth(asked_for(tmp_path, "shards"))


def test_broken_sets_are_one_line(sets_folder, tmp_path):
    def copy(name, of="shards"):
        return shutil.copytree(sets_folder / of, tmp_path / name)

    def break_manifest(folder, **changes):
        manifest = json.loads((folder / MANIFEST).read_text())
        (folder / MANIFEST).write_text(json.dumps(manifest | changes))
        return folder

    (tmp_path / "empty").mkdir()
    missing = copy("missing")
    (missing / "shard-00000" / "depth.npy").unlink()
    changed = copy("changed")
    labels = np.load(changed / "shard-00000" / "labels.npy")
    labels["betas"][0, 0] += 1
    np.save(changed / "shard-00000" / "labels.npy", labels)
    text = copy("text")
    (text / MANIFEST).write_text("not json")
    old = break_manifest(copy("format"), format="handmesh-shards-1")
    for folder in (tmp_path / "empty", missing, changed, text, old, break_manifest(copy("size"), size_px=64)):
        with pytest.raises(UserError) as caught:
            ShardReader(folder, check_labels=True)
        assert "\n" not in str(caught.value)
    layout = copy("layout", "freihand")
    (layout / "labels.npy").unlink()
    with pytest.raises(UserError, match="labels"):
        LayoutReader(layout)
    picture = copy("picture", "freihand")
    (picture / "training/rgb/00000000.jpg").write_bytes(b"\xff\xd8")
    first = next(index for index in range(COUNT) if kind_of(config_of(sets_folder), 3, index) == "right")
    with pytest.raises(UserError, match="00000000"):
        LayoutReader(picture).image(first)


# Run by a process that is killed: pictures that take a while, and a set that its parent can go on with.
_SLOW_RUN = """
import itertools, sys, time
from pathlib import Path
import pytest
import test_synthetic_shards as tests
from handmesh.synthetic import command, sets, shards

drawn = itertools.count()

def slow(*arguments):
    # However late the kill comes, the set is not complete.
    time.sleep(0.02 if next(drawn) < tests.COUNT // 2 else 600)
    return tests.noise_sample(*arguments)

with pytest.MonkeyPatch.context() as patch:
    tests.without_renderer(patch)
    patch.setattr(command, "render_sample", slow)
    patch.setattr(sets, "BLOCK_PICTURES", 3)
    patch.setattr(shards, "SHARD_PICTURES", 16)
    command.run_synth(tests.asked_for(Path(sys.argv[1]), sys.argv[2]))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_a_killed_process_leaves_a_set_to_go_on_with(sets_folder, tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])}
    started = {
        name: subprocess.Popen([sys.executable, "-c", _SLOW_RUN, tmp_path, name], env=environment, stdout=subprocess.DEVNULL)
        for name in FORMATS
    }
    for name, process in started.items():
        until = time.monotonic() + 60
        while not list((tmp_path / name).glob("**/blocks/0000000[0-9]*.np[yz]")):
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.005)
        process.kill()
        process.wait()
        with pytest.raises(UserError, match="complete"):
            sets.open_pictures(tmp_path / name)
        run_synth(asked_for(tmp_path, name))
        assert contents(tmp_path / name) == contents(sets_folder / name)
