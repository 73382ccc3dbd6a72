"""handmesh-synth as users run it: real pictures, both formats, and what their labels must fulfil."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from generated_mano import Arrays
from measures import max_mm
from threadpoolctl import threadpool_limits

from handmesh import cli
from handmesh.config import config_to_dict
from handmesh.errors import UserError
from handmesh.freihand import FreiHand
from handmesh.hand_model import load_hand_model
from handmesh.hand_model.assets import mano_file, save_hand_model
from handmesh.hand_model.mano import MANO_ID, read_mano
from handmesh.hand_model.mano_params import freihand_points, freihand_to_params
from handmesh.hand_model.skinning import mirror_points
from handmesh.skeleton import FREIHAND_TIP_VERTICES, MANO_PARENTS
from handmesh.synthetic import command, sets
from handmesh.synthetic.command import SynthCommand, choose_pictures, run_synth
from handmesh.synthetic.config import PictureSet, SynthConfig
from handmesh.synthetic.freihand_layout import LayoutReader, mirror_mano
from handmesh.synthetic.light import load_places
from handmesh.synthetic.scene import render_sample
from handmesh.synthetic.shards import ShardReader
from handmesh.synthetic.surface import HandSurface

SIZE = 224
MIXED = PictureSet(
    count=14,
    seed=5,
    format="freihand",
    versions=4,
    pictures=SynthConfig(size_px=SIZE, negative_share=0.15, left_share=0.4, strayed_share=0.2, cast_shadow=0.0),
)


@pytest.fixture(scope="module", autouse=True)
def loaded_once():
    """What every run works out anew is worked out once here."""
    surfaces, rooms = {}, {}
    of = HandSurface.of

    def surface(model):
        return (
            surfaces.setdefault(sets.model_sha256(model), None) or surfaces.update({sets.model_sha256(model): of(model)}) or surface(model)
        )

    def places(hdri, backgrounds, config):
        if hdri is not None or backgrounds is not None:
            return load_places(hdri, backgrounds, config)
        return rooms["procedural"] if rooms else rooms.setdefault("procedural", load_places(None, None, config))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HandSurface, "of", surface)
        patch.setattr(command, "load_places", places)
        yield places


def write_config(path: Path, pictures: PictureSet) -> Path:
    path.write_text(yaml.safe_dump(config_to_dict(pictures)))
    return path


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A small set with everything in it, in FreiHAND's layout."""
    folder = tmp_path_factory.mktemp("mixed")
    config = write_config(folder / "mixed.yaml", MIXED)
    run_synth(SynthCommand(out=folder / "set", config=config, workers=1, sheet=folder / "sheet.png", stats=folder / "stats.png"))
    assert (folder / "sheet.png").stat().st_size > 1000 and (folder / "stats.png").stat().st_size > 1000
    return folder / "set"


def hands(folder: Path):
    """Side, FreiHand, and the labels of its hands in the order of ids."""
    labels = LayoutReader(folder).labels()
    for is_left, root in ((False, folder), (True, folder / "left")):
        pictures = FreiHand(root)
        assert pictures.count >= 3
        yield is_left, pictures, labels[[side.index for side in pictures.side[: pictures.count]]]


def test_projected_joints_are_the_keypoints(mixed):
    for _, pictures, labels in hands(mixed):
        projected = np.einsum("nij,nkj->nki", pictures.K, pictures.xyz_m)
        assert np.abs(projected[..., :2] / projected[..., 2:] - labels["keypoints_px"]).max() < 1e-3
        assert np.abs(pictures.scale_m - np.linalg.norm(pictures.xyz_m[:, 9] - pictures.xyz_m[:, 10], axis=-1)).max() < 1e-8


def test_skinning_the_mano_vector_gives_verts(mixed, hand_model):
    for is_left, pictures, _ in hands(mixed):
        mano, verts_m, xyz_m = pictures.mano, pictures.verts_m, pictures.xyz_m
        if is_left:
            mano, verts_m, xyz_m = mirror_mano(mano, SIZE), mirror_points(verts_m), mirror_points(xyz_m)
        skinned_m, joints_m = freihand_points(hand_model, freihand_to_params(hand_model, mano, pictures.K))
        assert max_mm(skinned_m, verts_m) < 0.01 and max_mm(joints_m, xyz_m) < 0.01


def silhouette(points_px: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(S, S) bool: pixels whose centre is in a triangle."""
    inside = np.zeros((SIZE, SIZE), bool)
    for a, b, c in points_px[faces]:
        corners = np.stack([a, b, c])
        low = np.clip(np.ceil(corners.min(axis=0)), 0, SIZE).astype(int)
        high = np.clip(np.floor(corners.max(axis=0)) + 1, 0, SIZE).astype(int)
        x, y = np.meshgrid(np.arange(low[0], high[0]), np.arange(low[1], high[1]))
        sides = [(q[0] - p[0]) * (y - p[1]) - (q[1] - p[1]) * (x - p[0]) for p, q in ((a, b), (b, c), (c, a))]
        inside[low[1] : high[1], low[0] : high[0]] |= np.all([side >= 0 for side in sides], axis=0) | np.all(
            [side <= 0 for side in sides], axis=0
        )
    return inside


def test_masks_are_the_silhouettes_of_verts(mixed, hand_model):
    compared = 0
    for _, pictures, _ in hands(mixed):
        for index in range(pictures.count):
            projected = pictures.verts_m[index] @ pictures.K[index].T
            expected, found = silhouette(projected[:, :2] / projected[:, 2:], hand_model.faces), pictures.mask(index)
            union = (expected | found).sum()
            # Slivers of hands that strayed out of the picture have hardly an area.
            if union > 500:
                compared += 1
                assert (expected & found).sum() / union >= 0.99
    assert compared >= 6


def test_left_hands_are_mirrored_pictures(mixed, hand_model, loaded_once):
    surface, places = HandSurface.of(hand_model), loaded_once(None, None, MIXED.pictures)
    read = LayoutReader(mixed)
    shown = {read.is_left(index): index for index in range(len(read))}
    for is_left, index in shown.items():
        for version in (0, 3):
            sample = render_sample(surface, MIXED.pictures, places, MIXED.seed, index, version)
            drawn, found = sample.image[:, ::-1] if is_left else sample.image, read.image(index, version).astype(int)
            # JPEG keeps half of the colours of noise.
            assert np.abs(found - drawn).mean() < min(10, 0.5 * np.abs(found - drawn[:, ::-1]).mean())


def test_versions_differ_in_colour_alone(mixed):
    for _, pictures, _ in hands(mixed):
        assert pictures.versions == 4
        for index in range(pictures.count):
            sides = [replace(pictures.side[index + version * pictures.count]) for version in range(4)]
            assert len(set(sides)) == 1
            images = [pictures.image(index + version * pictures.count).astype(int) for version in range(4)]
            assert all(np.abs(images[a] - images[b]).mean() > 2 for a in range(4) for b in range(a))


def test_shards_of_the_renderer(tmp_path, hand_model, loaded_once):
    run_synth(SynthCommand(out=tmp_path / "set", count=5, seed=3, size=32, workers=1))
    pictures, config = ShardReader(tmp_path / "set", check_labels=True), SynthConfig(size_px=32)
    for index in range(5):
        sample = render_sample(HandSurface.of(hand_model), config, loaded_once(None, None, config), 3, index)
        assert np.array_equal(pictures.image(index), sample.image) and np.array_equal(pictures.parts(index), sample.parts)
        assert np.array_equal(pictures.depth(index), sample.depth_m) and pictures.label(index) == sample.label


def mano_arrays() -> Arrays:
    """The open hand under MANO's names, as people convert MANO, with fingertips where FreiHAND has them."""
    model = load_hand_model("open").astype(np.float64)
    order = np.arange(len(model.template_m))
    for ours, mano in zip(model.tip_vertices, FREIHAND_TIP_VERTICES, strict=True):
        here = int(np.flatnonzero(order == ours)[0])
        order[[here, mano]] = order[[mano, here]]
    return {
        "v_template": model.template_m[order],
        "shapedirs": model.shape_dirs[order],
        "posedirs": model.pose_dirs[order],
        "J_regressor": model.joint_regressor[:, order],
        "weights": model.skin_weights[order],
        "f": np.argsort(order)[model.faces].astype(np.uint32),
        "hands_mean": model.mean_pose.ravel(),
        "hands_components": np.eye(45),
        "kintree_table": np.array([[2**32 - 1, *MANO_PARENTS[1:]], range(16)], np.uint32),
    }


def test_mano_is_drawn_too(tmp_path, monkeypatch):
    monkeypatch.setenv("HANDMESH_DATA", str(tmp_path))
    np.savez(tmp_path / "mano.npz", **mano_arrays())
    save_hand_model(read_mano(tmp_path / "mano.npz").model, mano_file())
    run_synth(SynthCommand(out=tmp_path / "set", count=4, size=32, workers=1, format="freihand", hand_model="mano"))
    pictures, model = FreiHand(tmp_path / "set"), load_hand_model("mano")
    assert LayoutReader(tmp_path / "set").manifest["hand_model"] == MANO_ID == model.id and pictures.verts_m.shape[1:] == (778, 3)
    assert max_mm(freihand_points(model, freihand_to_params(model, pictures.mano, pictures.K))[0], pictures.verts_m) < 0.01
    with pytest.raises(UserError, match="hand_model"):
        run_synth(SynthCommand(out=tmp_path / "set", count=4, size=32, workers=1, format="freihand"))


def test_flags_count_more_than_the_file_and_the_file_more_than_defaults(tmp_path):
    config = write_config(tmp_path / "a.yaml", MIXED)
    assert choose_pictures(SynthCommand(out=tmp_path, config=config)) == MIXED
    changed = choose_pictures(SynthCommand(out=tmp_path, config=config, count=3, seed=9, size=64, versions=1))
    assert changed == replace(MIXED, count=3, seed=9, versions=1, pictures=replace(MIXED.pictures, size_px=64))
    assert choose_pictures(SynthCommand(out=tmp_path)) == PictureSet()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--count", "0"), "at least 1"),
        (("--size", "30"), "multiple of 4"),
        (("--versions", "4"), "--format freihand"),
        (("--config", "wide.yaml"), "square"),
        (("--config", "nothing.yaml"), "nothing.yaml"),
        (("--config", "unknown.yaml"), "did you mean 'negative_share'"),
        (("--format", "coco"), "--format"),
        (("--hdri", "empty"), ".hdr"),
        (("--backgrounds", "empty"), "photos"),
        (("--hand-model", "wide.yaml"), "hand model"),
        (("--sheet", "nowhere/a.png"), "--sheet"),
        (("--stats", "nowhere/a.png"), "--stats"),
        (("--out", "wide.yaml"), "can be written"),
        (("--out", "full"), "holds other files"),
        (("--config", "frozen.yaml"), "frozen set of 'frozen.yaml'"),
    ],
)
def test_bad_flags_and_folders_are_one_line_and_exit_2(tmp_path, capfd, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/letter.txt").write_text("mine")
    write_config(tmp_path / "wide.yaml", PictureSet(pictures=SynthConfig(aspect=1.5)))
    (tmp_path / "unknown.yaml").write_text("pictures: {negative_shares: 0.1}")
    write_config(tmp_path / "frozen.yaml", PictureSet(count=2, sha256="0" * 64))
    monkeypatch.setattr(sys, "argv", ["handmesh-synth", *([] if "--out" in arguments else ["--out", "set"]), *arguments])
    with pytest.raises(SystemExit) as end:
        cli.synth()
    lines = capfd.readouterr().err.splitlines()
    assert end.value.code == 2
    assert len(lines) == 1 and lines[0].startswith("handmesh-synth: error: ") and says in lines[0]


def test_a_frozen_set_notices_every_change(tmp_path, hand_model):
    def recipe(pictures, panoramas=(), photos=(), model=hand_model):
        return sets.plan_manifest(pictures, model, panoramas, photos)["recipe_sha256"]

    for name in ("a.hdr", "b.hdr"):
        (tmp_path / name).write_bytes(b"light of " + name.encode())
    a, b = tmp_path / "a.hdr", tmp_path / "b.hdr"
    frozen = recipe(MIXED, [a], [a])
    assert frozen == recipe(replace(MIXED, sha256=frozen), [a], [a])
    others = [
        *(recipe(replace(MIXED, **{name: value}), [a], [a]) for name, value in (("count", 15), ("seed", 6), ("versions", 1))),
        *(recipe(replace(MIXED, format="shards"), [a], [a]), recipe(MIXED, [b], [a]), recipe(MIXED, [a], [a, b]), recipe(MIXED, [a])),
        recipe(replace(MIXED, pictures=replace(MIXED.pictures, ring=0.5)), [a], [a]),
        recipe(MIXED, [a], [a], replace(hand_model, id="another")),
    ]
    a.write_bytes(b"another light")
    others.append(recipe(MIXED, [a], [a]))
    assert len({frozen, *others}) == 1 + len(others)
    config = write_config(tmp_path / "frozen.yaml", replace(MIXED, count=1, versions=1, sha256=recipe(replace(MIXED, count=1, versions=1))))
    run_synth(SynthCommand(out=tmp_path / "set", config=config, workers=1))
    with pytest.raises(UserError, match=r"got --size as well"):
        run_synth(SynthCommand(out=tmp_path / "other", config=config, workers=1, size=64))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_two_workers_killed_with_their_parent_and_then_one(tmp_path):
    """The same bytes as an undisturbed run with one worker."""
    light = np.random.default_rng(0).uniform(0, 1, (16, 32, 3)).astype(np.float32)
    (tmp_path / "hdri").mkdir()
    assert cv2.imwrite(str(tmp_path / "hdri/noise.hdr"), light)
    asked = SynthCommand(out=tmp_path / "whole", count=160, seed=1, size=32, workers=1, format="freihand", hdri=tmp_path / "hdri")
    program = "from handmesh.cli import synth; synth()"
    flags = ["--count", "160", "--seed", "1", "--size", "32", "--format", "freihand", "--workers", "2"]
    flags += ["--hdri", asked.hdri, "--out", tmp_path / "cut"]
    run_synth(asked)
    process = subprocess.Popen(
        [sys.executable, "-c", program, *flags], stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    until = time.monotonic() + 120
    while not list((tmp_path / "cut").glob("blocks/0*.npz")):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.005)
    process.kill()
    process.wait()
    # Workers see that their parent is gone.
    time.sleep(0.5)
    assert len(list((tmp_path / "cut").glob("blocks/0*.npz"))) < 10
    run_synth(replace(asked, out=tmp_path / "cut"))

    def contents(folder):
        return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}

    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_clip_shows_one_hand_then_two():
    from handmesh.synthetic.clip import clip_frames

    frames = list(clip_frames(load_hand_model("open"), 0, 2, (96, 72)))
    assert [frame.shape for frame in frames] == [(72, 96, 3)] * 2
    skin_like = [(frame[..., 0].astype(int) > frame[..., 2] + 45).mean() for frame in frames]
    assert frames[0].dtype == np.uint8 and 0.01 < skin_like[0] < skin_like[1]


def test_bytes_do_not_depend_on_threads(loaded_once):
    # BLAS divides sums among its threads; at this size its results differ with their number.
    job = _Collect([])
    pictures = PictureSet(seed=11, pictures=SynthConfig(size_px=224))
    places = load_places(None, None, pictures.pictures)
    paint = command._painter_of(load_hand_model("open"), places, pictures, job)
    for threads in (1, 2):
        with threadpool_limits(threads):
            paint(range(40))
    assert np.array_equal(job.images[:40], job.images[40:])


@dataclass(frozen=True)
class _Collect:
    """A job that keeps pictures instead of writing them."""

    images: list[np.ndarray]

    def write(self, block: range, draw: sets.Draw) -> None:
        self.images.extend(draw(index, 0).image for index in block)


def test_sets_too_large_leave_nothing_behind(tmp_path, capfd, monkeypatch):
    for arguments in (["--count", "1" + 30 * "0"], ["--count", "1000000000", "--format", "freihand"]):
        monkeypatch.setattr(sys, "argv", ["handmesh-synth", "--out", str(tmp_path / "set"), *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.synth()
        said = capfd.readouterr().err
        assert caught.value.code == 2 and "GB free" in said and said.count("\n") == 1 and not (tmp_path / "set").exists()
    for sheet in (tmp_path / "sheet.jpg", tmp_path):
        with pytest.raises(UserError, match=r"\.png"):
            run_synth(SynthCommand(out=tmp_path / "set", count=1, sheet=sheet))
