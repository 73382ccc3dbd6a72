"""The head: what it reads of the hand network, its training on looks, its file, and the recipe from nothing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from handmesh.config import setting_of
from handmesh.errors import UserError
from handmesh.geometry.camera import camera_from_fov, project, translation_to_weak_perspective
from handmesh.geometry.crop import camera_to_crop, crop_points, take_crop
from handmesh.geometry.rotation import mirror_rotmat, rotvec_to_rotmat
from handmesh.hand_model import load_hand_model
from handmesh.hand_model.landmarks import landmarks_m
from handmesh.hand_model.skinning import skin
from handmesh.head import ANSWER_SIZE, HEADS, TYPICAL_S, Head, answer_in_region, read_head_info
from handmesh.looks import LABEL_DTYPE, Looks, read_looks, write_manifest, write_shard
from handmesh.records import HandParams
from handmesh.skeleton import ROOT

torch = pytest.importorskip("torch", reason="the head is trained with torch; pip install 'handmesh[train]'")

from handmesh.deploy.head import export_head  # noqa: E402
from handmesh.detection.landmarks import LandmarkAnswer  # noqa: E402
from handmesh.detection.regions import REGION_PX, region_from_landmarks  # noqa: E402
from handmesh.recipes import head as recipe  # noqa: E402
from handmesh.recipes.head import _PART, HeadCommand, make_heads  # noqa: E402
from handmesh.recipes.looks import _look_once, rendered_subjects  # noqa: E402
from handmesh.synthetic.config import SynthConfig  # noqa: E402
from handmesh.synthetic.light import load_places  # noqa: E402
from handmesh.synthetic.scene import render_sample  # noqa: E402
from handmesh.training.head import HeadTraining, measure_head, train_head  # noqa: E402

POOLED, CHANNELS = 24, 6


@pytest.fixture(scope="module")
def made_up_looks(hand_model):
    """Hands whose pose is linear in what is seen, so that a head can learn it; photographs and empty regions beside them."""
    rng = np.random.default_rng(0)
    count, focal_px = 900, 500.0
    labels = np.zeros(count, LABEL_DTYPE)
    hidden = rng.normal(size=(count, 8))
    mixing = rng.normal(size=(8, POOLED)) / 3
    rotmats = np.tile(np.eye(3), (count, 16, 1, 1))
    rotmats[:, 0] = rotvec_to_rotmat(0.3 * hidden[:, :3] + (np.pi / 2, 0, 0))
    rotmats[:, 1:] = rotvec_to_rotmat(0.6 * np.abs(hidden[:, 3:4, None]) * (0, 0, 1) * np.ones((1, 15, 1)))
    root_m = np.stack([0.02 * hidden[:, 4], 0.02 * hidden[:, 5], 0.5 * np.exp(0.1 * hidden[:, 6])], axis=1)
    betas = 0.3 * rng.normal(size=(count, 10))
    joints_m = hand_model.joints(skin(hand_model, rotmats, betas))
    joints_m = joints_m - joints_m[:, ROOT : ROOT + 1] + root_m[:, None]
    camera = replace(camera_from_fov(REGION_PX, REGION_PX, 40), fx=focal_px, fy=focal_px)
    labels["rotmats"], labels["betas"], labels["root_m"], labels["focal_px"] = rotmats, betas, root_m, focal_px
    labels["points_px"], labels["has_params"], labels["presence"], labels["right"] = project(joints_m, camera), 1, 1, 1
    labels["is_validation"] = np.arange(count) % 3 == 0
    pooled = hidden @ mixing
    nothing = np.arange(count) % 10 == 1
    pooled[nothing] += 4
    labels["presence"][nothing], labels["has_params"][nothing], labels["right"][nothing] = 0, 0, -1
    photographs = np.arange(count) % 10 == 2
    labels["has_params"][photographs], labels["landmark_weight"][photographs], labels["source"][photographs] = 0, 1, 1
    seen_m = [landmarks_m(j, R[0], R, is_right=True) for j, R in zip(joints_m[photographs], rotmats[photographs], strict=True)]
    labels["points_px"][photographs] = project(np.stack(seen_m), camera)
    maps = 0.1 * rng.normal(size=(count, CHANNELS, 7, 7))
    return Looks(pooled.astype(np.float16), maps.astype(np.float16), np.zeros((count, ANSWER_SIZE), np.float16), labels)


@pytest.fixture(scope="module")
def trained(made_up_looks, hand_model):
    return train_head(
        made_up_looks, hand_model, REGION_PX, HeadTraining(width=64, map_channels=4, steps=300, batch_size=128, photographs=32)
    )


def test_what_is_seen_is_learnt(trained, made_up_looks, hand_model):
    untrained, _ = train_head(made_up_looks, hand_model, REGION_PX, HeadTraining(width=64, map_channels=4, steps=1))
    from handmesh.training.head import _Rows
    from handmesh.training.layer import HandLayer

    before = measure_head(untrained, HandLayer(hand_model), _Rows(made_up_looks, REGION_PX))
    after = trained[1]
    assert after.pa_mpjpe_mm < 0.6 * before.pa_mpjpe_mm and after.mpjpe_mm < 0.5 * before.mpjpe_mm
    assert after.presence > 0.95
    # Photographs know landmarks alone: the keypoints moved to these fit better than the keypoints.
    assert after.moved[0] < after.plain[0] < before.plain[0]
    # What is expected is about what happens.
    assert 0.6 < after.spread_ratio < 1.6


def test_its_file_says_the_same(trained, made_up_looks, hand_model, tmp_path):
    net, rows = trained[0], np.arange(20)
    metadata = {"head_format": 1, "landmarks": "full", "hand_model": "open", "network_sha256": "0" * 64}
    distance_mm = export_head(net, hand_model, made_up_looks, rows, metadata, tmp_path / "head.onnx")
    assert 0 < distance_mm < 0.1
    regions = [_region(False) for _ in rows]
    seen = _answer_of(made_up_looks, rows)
    told = [Head(tmp_path / "head.onnx", runtime)(seen, regions) for runtime in ("openvino", "onnxruntime")]
    with torch.no_grad():
        ours = net(
            *(torch.from_numpy(np.float32(a[rows])) for a in (made_up_looks.pooled, made_up_looks.map, made_up_looks.answer)),
            torch.zeros(20, 1),
        )
    for params in told:
        assert np.allclose([p.camera for p in params], ours.camera, atol=2e-3)
        assert np.allclose([p.spread_m for p in params], ours.spread_m, rtol=0.05)
        assert np.allclose([p.betas for p in params], ours.betas, atol=1e-2)
    assert read_head_info(tmp_path / "head.onnx").network_sha256 == "0" * 64


@pytest.mark.parametrize("is_mirrored", [False, True])
def test_an_answer_does_not_depend_on_its_crop(hand_model, is_mirrored):
    """The same hand, seen in two crops, is one and the same answer in the region's frame."""
    camera, image = camera_from_fov(640, 480, 65), np.zeros((480, 640, 3), np.uint8)
    rng = np.random.default_rng(3)
    rotmats = rotvec_to_rotmat(rng.normal(0, 0.4, (16, 3)))
    root_m = np.array([0.1, -0.05, 0.6])
    points_px = np.array([[300.0, 200], [420, 210], [350, 330], [310, 300]] + [[330.0, 250]] * 17)
    region = take_crop(image, camera, *region_from_landmarks(points_px, camera), is_mirrored)
    answers = []
    for shift in (0, 40):
        crop = crop_points(points_px + shift, image, camera, 96, is_mirrored)
        in_crop = crop.R_camera_crop.T @ rotmats[0]
        first = mirror_rotmat(in_crop) if is_mirrored else in_crop
        weak = translation_to_weak_perspective(camera_to_crop(root_m, crop), crop.camera.fx, 96)
        answers.append(
            answer_in_region(HandParams(np.concatenate([first[None], rotmats[1:]]), np.arange(10.0), weak, 0.9, 1.5), crop, region)
        )
    assert answers[0].shape == (ANSWER_SIZE,)
    assert np.allclose(answers[0], answers[1], atol=1e-5)
    # The aim is where the region sees the root, in half regions from its middle, mirrored as the region is.
    seen = project(root_m @ region.R_camera_crop, region.camera)
    aim = (seen - (REGION_PX - 1) / 2) / (REGION_PX / 2) * (-1 if is_mirrored else 1, 1)
    assert np.allclose(answers[0][107:109], aim, atol=1e-5)
    assert answers[0][106] == pytest.approx(
        np.log(2 * region.camera.fx / (REGION_PX * (root_m @ region.R_camera_crop)[2]) / TYPICAL_S), abs=1e-5
    )


def test_labels_of_looks_fit_what_the_region_shows(hand_model):
    config = SynthConfig(size_px=128, padding=(1.9, 2.3), negative_share=0.0, strayed_share=0.0)
    places = load_places(None, None, config)
    samples = [render_sample(hand_model, config, places, 7, index) for index in range(4)]
    images, labels = np.stack([s.image for s in samples]), np.stack([s.label for s in samples])
    counts = {"right": 0, "wrong": 0}
    for subject in rendered_subjects(images, labels, hand_model, 0, is_validation=False):
        for number in range(40):
            region, crop, label = _look_once(subject, np.random.default_rng(number), 96)
            assert region.is_mirrored == crop.is_mirrored
            if label["presence"] != 1:
                assert not label["has_params"] and label["right"] == -1
            elif region.is_mirrored:
                counts["wrong"] += 1
                assert label["right"] == 0 and not label["has_params"]
            else:
                counts["right"] += 1
                joints_m = hand_model.joints(skin(hand_model, label["rotmats"].astype(float), label["betas"].astype(float)))
                seen = project(joints_m - joints_m[ROOT] + label["root_m"], region.camera)
                assert np.abs(seen - label["points_px"]).max() < 0.01
    assert counts["right"] > 80 and counts["wrong"] > 5


def test_a_wrong_head_is_refused(tmp_path):
    missing = tmp_path / "none.onnx"
    with pytest.raises(UserError, match="does not exist"):
        Head(missing)
    network = HEADS["full"].parent / "hand_t8.onnx"
    with pytest.raises(UserError, match="head"):
        Head(network)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(HEADS["full"].read_bytes()[:1000])
    with pytest.raises(UserError, match="corrupted"):
        Head(broken)


def test_looks_are_whole_or_refused(made_up_looks, tmp_path):
    write_shard(made_up_looks, tmp_path / "image-0000000")
    assert np.array_equal(read_looks([tmp_path / "image-0000000"]).pooled, made_up_looks.pooled)
    (tmp_path / "image-0000000" / "map.npy").unlink()
    with pytest.raises(UserError, match="whole shards"):
        read_looks([tmp_path / "image-0000000"])
    write_manifest(tmp_path, {"seed": 1})
    write_manifest(tmp_path, {"seed": 1})
    with pytest.raises(UserError, match="others"):
        write_manifest(tmp_path, {"seed": 2})


def test_the_recipe_from_nothing(tmp_path, capsys, monkeypatch):
    """Renders, looks, trains and exports; a second run has nothing to do."""
    monkeypatch.setattr("handmesh.recipes.head._SLICE", 16)
    command = HeadCommand(
        out=tmp_path / "head",
        landmarks=("lite",),
        images=32,
        validation_images=16,
        looks=1,
        workers=1,
        pictures=SynthConfig(size_px=96, padding=(1.9, 2.3), negative_share=0.0, strayed_share=0.0),
        training=HeadTraining(width=16, map_channels=2, steps=3, batch_size=8),
    )
    (made,) = make_heads(command)
    info = read_head_info(made)
    assert info.landmarks == "lite" and info.hand_model == load_hand_model("open").id
    assert not list((tmp_path / "head").glob("images-*"))
    written = made.stat().st_mtime_ns
    make_heads(command)
    assert made.stat().st_mtime_ns == written and "there already" in capsys.readouterr().out
    with pytest.raises(UserError, match="others"):
        make_heads(replace(command, looks=2))


def _tiny(out: Path) -> HeadCommand:
    return HeadCommand(out=out, images=8, validation_images=4)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"photographs": Path("no-such-folder")}, "no-such-folder"),
        ({"hdri": Path("no-such-folder")}, "no-such-folder"),
        ({"network": Path("no-such-file.onnx")}, "no-such-file"),
        ({"hand_model": "no-such-model"}, "no-such-model"),
    ],
)
def test_what_the_recipe_cannot_read_is_said_before_anything_is_written(tmp_path, change, says):
    with pytest.raises(UserError, match=says):
        make_heads(replace(_tiny(tmp_path / "head"), **change))
    assert not (tmp_path / "head").exists()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("a file, no folder")
    with pytest.raises(UserError, match="choose another"):
        make_heads(_tiny(tmp_path / "file" / "head"))


@pytest.mark.parametrize(
    ("images", "validation"), [(40, 8), (2048, 100), (_PART + 5, 3), (_PART + 5, 30), (3 * _PART, 2048), (2 * _PART, _PART + 1)]
)
def test_just_the_last_images_are_not_trained_on(tmp_path, monkeypatch, images, validation):
    """However many there are: slices that are half of either would be all of one."""
    command = replace(_tiny(tmp_path), images=images, validation_images=validation, landmarks=("lite",))
    looked_at = []
    monkeypatch.setattr(recipe, "run_synth", lambda synth: synth.out.mkdir(parents=True))
    monkeypatch.setattr(recipe, "_look_at", lambda command, what, slices, folder: looked_at.extend(slices))
    recipe.look_at_all(command)
    assert sorted(row for each in looked_at for row in range(each.start, each.stop)) == list(range(images))
    held_out = sum(each.stop - each.start for each in looked_at if recipe.is_held_out(command, each))
    assert held_out == validation
    assert len({each.name for each in looked_at}) == len(looked_at)


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 0},
        {"batch_size": 0},
        {"width": -1},
        {"map_channels": 0},
        {"learning_rate": np.nan},
        {"learning_rate": np.inf},
        {"noise": -1.0},
        {"drop_answer": 2.0},
        {"dropout": 0.6},
        {"seed": -1},
    ],
)
def test_settings_that_no_head_can_be_trained_with_are_refused(settings):
    with pytest.raises(UserError, match=f"expected .*{next(iter(settings))}"):
        HeadTraining(**settings)


@pytest.mark.parametrize("settings", [{"images": 0}, {"workers": -1}, {"seed": -1}, {"landmarks": ()}, {"looks": 0}])
def test_a_recipe_of_nothing_is_refused(settings):
    with pytest.raises(UserError, match=f"expected {next(iter(settings))}"):
        HeadCommand(**settings)


def test_the_recipe_is_chosen_by_its_file(monkeypatch, capsys, tmp_path):
    assert setting_of(str(Path(__file__).parent.parent / "configs/head.yaml"), "recipe") == "head"
    assert setting_of(str(Path(__file__).parent.parent / "configs/smoke.yaml"), "recipe") is None
    from handmesh import cli

    config = tmp_path / "head.yaml"
    config.write_text("recipe: head\nimages: 8\nvalidation_images: 8\n")
    monkeypatch.setattr("sys.argv", ["handmesh-train", str(config)])
    with pytest.raises(SystemExit) as end:
        cli.train()
    assert end.value.code == 2 and "validation_images" in capsys.readouterr().err


def _region(is_mirrored):
    camera = camera_from_fov(REGION_PX, REGION_PX, 40)
    return take_crop(np.zeros((REGION_PX, REGION_PX, 3), np.uint8), camera, camera, np.eye(3), is_mirrored)


def _answer_of(looks, rows):
    count = len(rows)
    return LandmarkAnswer(
        np.zeros((count, 21, 3), np.float32),
        np.ones(count, np.float32),
        np.ones(count, np.float32),
        np.zeros((count, 21, 3), np.float32),
        looks.pooled[rows].astype(np.float32),
        looks.map[rows].astype(np.float32),
    )
