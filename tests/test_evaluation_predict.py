"""Pictures through a network and back: a network that knows the truth must be believed to the micrometre, whatever the crop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from handmesh.errors import UserError
from handmesh.evaluation import predict as predict_module
from handmesh.evaluation.predict import LOOKS, Changed, Look, average_looks, camera_of, crop_picture, place_hands, predict
from handmesh.evaluation.records import EvaluationSet
from handmesh.geometry.alignment import procrustes
from handmesh.geometry.camera import project, translation_to_weak_perspective
from handmesh.geometry.crop import CROP_PADDING, camera_to_crop, look_at_points, take_crop
from handmesh.geometry.rotation import MIRROR_X, rotvec_to_rotmat
from handmesh.hand_model import HandModel
from handmesh.hand_model.skinning import mirror_points, skin_at
from handmesh.placement import place_hand
from handmesh.records import Camera, Crop, Detection, HandParams
from handmesh.runtime import NetworkInfo, Predictor
from handmesh.skeleton import JOINTS, ROOT
from handmesh.tracking import Track

SIZE_PX = 32
WIDTH, HEIGHT = 200, 160


@dataclass
class World:
    """Known hands, every picture of one grey that is its index, and a network that knows all of it.

    What it says is the truth seen by the camera of each crop, which it overhears when the crop is taken.
    """

    model: HandModel
    data: EvaluationSet
    params: list[HandParams]  # of the right-hand model, in the camera (of a left hand: in the mirrored one)
    info: NetworkInfo
    taken: list[Crop] = field(default_factory=list)
    answered: int = 0
    disturb: Callable[[int, HandParams], HandParams] = lambda number, params: params

    def __call__(self, crops: np.ndarray, /) -> list[HandParams]:
        return [self._answer(image) for image in crops]

    def _answer(self, image: np.ndarray) -> HandParams:
        index, crop = int(image[SIZE_PX // 2, SIZE_PX // 2, 0]), self.taken[self.answered]
        assert np.array_equal(crop.image, image)
        self.answered += 1
        is_left = bool(self.data.left()[index])
        assert crop.is_mirrored == is_left
        R_seen_camera = crop.R_camera_crop.T
        if is_left:
            R_seen_camera = MIRROR_X @ R_seen_camera @ MIRROR_X
        rotmats = self.params[index].rotmats.copy()
        rotmats[0] = R_seen_camera @ rotmats[0]
        root_m = camera_to_crop(self.data.joints_m[index, ROOT], crop)
        camera = translation_to_weak_perspective(root_m, crop.camera.fx, SIZE_PX)
        return self.disturb(self.answered - 1, replace(self.params[index], rotmats=rotmats, camera=camera))


@pytest.fixture
def make_world(hand_model, monkeypatch) -> Callable[..., World]:
    model = hand_model.astype(np.float64)

    def make(count: int = 6, seed: int = 0) -> World:
        rng = np.random.default_rng(seed)
        is_left = np.arange(count) % 2 == 1
        params, joints_m, vertices_m = [], [], []
        for row in range(count):
            rotmats = model.mean_rotmats() @ rotvec_to_rotmat(rng.normal(0, 0.1, (16, 3)))
            rotmats[0] = rotvec_to_rotmat(rng.normal(0, 1.5, 3))
            params.append(HandParams(rotmats, rng.normal(0, 1, 10), np.zeros(3), 1.0, 4.0))
            points_m = skin_at(model, params[-1], rng.uniform((-0.06, -0.04, 0.5), (0.06, 0.04, 0.7)))
            vertices, joints = (mirror_points(some) if is_left[row] else some for some in points_m)
            vertices_m.append(vertices)
            joints_m.append(joints)
        K = np.tile(np.array([[230.0, 0, 95], [0, 250, 83], [0, 0, 1]]), (count, 1, 1))

        def image(index: int) -> np.ndarray:
            return np.full((HEIGHT, WIDTH, 3), index, np.uint8)

        data = EvaluationSet("known", np.array(joints_m), K, image, np.array(vertices_m), model.id, is_left)
        world = World(model, data, params, NetworkInfo(model.id, SIZE_PX, "oracle", {}))

        def overheard(*arguments) -> Crop:
            world.taken.append(take_crop(*arguments))
            return world.taken[-1]

        monkeypatch.setattr(predict_module, "take_crop", overheard)
        return world

    return make


def _distance_m(predictions, data) -> float:
    joints = np.linalg.norm(predictions.joints_m - data.joints_m, axis=-1).max()
    return max(joints, np.linalg.norm(predictions.vertices_m - data.vertices_m, axis=-1).max())


class Roll:
    """Leaves pictures as they are and rolls the camera."""

    def __init__(self, roll_rad: float) -> None:
        self.roll_rad, self.seen = roll_rad, []

    def __call__(self, index: int, image: np.ndarray, keypoints_px: np.ndarray, /) -> Changed:
        self.seen.append((index, keypoints_px))
        return Changed(image, self.roll_rad)


@pytest.mark.parametrize("roll_rad", [0.0, 0.7, np.pi])
@pytest.mark.parametrize("crop", ["gt", "centre"])
def test_a_perfect_network_gives_the_true_hands(make_world, crop, roll_rad):
    world = make_world()
    predictions = predict(world.data, world, world.model, crop, change=Roll(roll_rad))
    assert _distance_m(predictions, world.data) < 1e-7
    assert predictions.topology == world.model.id and predictions.found is None
    assert predictions.joints_m.dtype == predictions.vertices_m.dtype == np.float64


@pytest.mark.parametrize("tta", ["metro", "fast"])
def test_many_looks_of_a_consistent_network_are_one_look(make_world, tta):
    world = make_world(2)
    assert _distance_m(predict(world.data, world, world.model, "gt", tta), world.data) < 1e-7
    assert world.answered == 2 * len(LOOKS[tta])


def test_other_looks_count_for_the_shape_alone(make_world):
    """A look that says the hand is elsewhere, nearer and turned changes nothing."""
    world, looks = make_world(2), len(LOOKS["fast"])

    def disturb(number: int, params: HandParams) -> HandParams:
        if number % looks == 0:
            return params
        rotmats = params.rotmats.copy()
        rotmats[0] = rotvec_to_rotmat(np.array([0.1, 0.2, 0.3])) @ rotmats[0]
        return replace(params, rotmats=rotmats, camera=params.camera * (1.3, 0.5, 2.0))

    world.disturb = disturb
    assert _distance_m(predict(world.data, world, world.model, "gt", "fast"), world.data) < 1e-7


def test_the_mean_of_noisy_looks_is_nearer_than_one():
    rng = np.random.default_rng(0)
    truth_m = rng.normal(0, 0.05, (100, 3))
    looks_m = truth_m + rng.normal(0, 0.005, (25, 100, 3))
    error, errors = (
        np.linalg.norm(points - truth_m, axis=-1).mean() for points in (procrustes(average_looks(looks_m)[None], truth_m[None]), looks_m)
    )
    assert error < errors / 3
    # Never mirrored: a look that is everything's mirror image is moved by a rotation, and spoils the mean.
    mirrored_m = average_looks(np.stack([truth_m, truth_m * (-1, 1, 1)]))
    assert np.linalg.norm(mirrored_m - truth_m, axis=-1).mean() > 0.01


def test_the_looks_are_metros():
    looks = LOOKS["metro"]
    assert looks[0] == Look() and len(set(looks)) == len(looks) == 95
    assert {round(np.degrees(look.roll_rad)) for look in looks} == set(range(-90, 91, 10))
    assert {look.scale for look in looks} == {0.7, 0.8, 0.9, 1.0, 1.1}
    assert LOOKS["none"] == (Look(),) and LOOKS["fast"][0] == Look() and len(LOOKS["fast"]) <= 6


def test_the_centre_crop_is_metros_square():
    """With the axis in the middle of 224 px, a crop of 180 px is the picture's own pixels."""
    image = np.random.default_rng(0).integers(0, 256, (224, 224, 3)).astype(np.uint8)
    K = np.array([[480.0, 0, 111.5], [0, 480, 111.5], [0, 0, 1]])
    data = EvaluationSet("noise", np.random.default_rng(1).uniform(0.4, 0.5, (1, 21, 3)), K[None], lambda index: image)
    (crop,), found = crop_picture(data, 0, "centre", LOOKS["none"], 180, None, None)
    assert found and np.abs(crop.image.astype(int) - image[22:202, 22:202]).max() <= 1


@pytest.mark.parametrize("row", [0, 1])
def test_crops_show_what_their_cameras_say(make_world, row):
    """A bright spot on a fingertip is where the rolled, scaled and mirrored crop's camera sees the fingertip."""
    world, tip = make_world(), JOINTS.index("index_tip")
    camera = camera_of(world.data.K[row], world.data.picture(row))
    x, y = project(world.data.joints_m[row, tip], camera)
    columns, rows = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    spot = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8)
    picture = np.repeat(spot[..., None], 3, axis=2).astype(np.uint8)
    data = replace(world.data, image=lambda index: picture)
    looks = (Look(), Look(0.5, 1.0), Look(-1.0, 1.1))
    crops, _ = crop_picture(data, row, "gt", looks, 128, None, lambda index, image, keypoints_px: Changed(image, 0.4))
    for crop, look in zip(crops, looks, strict=True):
        weights = crop.image[..., 0].astype(float)
        found_px = np.array([(weights.sum(axis=1 - axis) * np.arange(128)).sum() / weights.sum() for axis in (1, 0)])
        joints_m = camera_to_crop(data.joints_m[row], crop)
        assert np.abs(found_px - project(joints_m[tip], crop.camera)).max() < 0.7
        assert crop.camera.fx == crop.camera.fy and crop.camera.width == crop.camera.height == 128
        # A camera that rolls one way sees the hand turned the other way.
        turn = -(0.4 + look.roll_rad) * (-1) ** row
        straight_px = project(joints_m @ rotvec_to_rotmat(np.array([0, 0, turn])), crop.camera)
        assert np.ptp(straight_px, axis=0).max() == pytest.approx(128 / (CROP_PADDING * look.scale), rel=1e-6)


def test_many_hands_are_placed_like_each(make_world):
    world = make_world()
    crops = [crop_picture(world.data, row, "gt", (Look(0.3, 0.9),), SIZE_PX, None, None)[0][0] for row in range(len(world.data))]
    params = [replace(each, camera=np.array([8.0, 0.01, -0.02])) for each in world.params]
    placed_m = place_hands(world.model, params, crops)
    for row, crop in enumerate(crops):
        camera = camera_of(world.data.cameras()[row], world.data.picture(row))
        track = Track(0, Detection(np.zeros(4), True, 1.0), 0.0, 0.0)
        hand = place_hand(world.model, params[row], crop, camera, track)
        assert np.abs(placed_m[row] - np.concatenate([hand.joints_m, hand.vertices_m])).max() < 1e-7  # single precision


def test_a_change_gets_the_true_keypoints_and_its_picture_is_seen(make_world):
    world, change = make_world(), Roll(0.0)
    predict(world.data, world, world.model, "gt", change=change)
    assert [index for index, _ in change.seen] == list(range(len(world.data)))
    for index, keypoints_px in change.seen:
        K, joints_m = world.data.cameras()[index], world.data.joints_m[index]
        assert np.allclose(keypoints_px, ((joints_m / joints_m[:, 2:]) @ K.T)[:, :2])
    crops, _ = crop_picture(world.data, 0, "gt", (Look(),), SIZE_PX, None, lambda index, image, keypoints_px: Changed(image + 99))
    assert (crops[0].image[SIZE_PX // 2, SIZE_PX // 2] == 99).all()
    with pytest.raises(ValueError, match="changed picture"):
        crop_picture(world.data, 0, "gt", (Look(),), SIZE_PX, None, lambda index, image, keypoints_px: Changed(image[1:]))


class FakeDetector:
    """Finds a wrong-sided, shifted hand in pictures of even index; deaf to odd ones."""

    def __init__(self, max_hands: int) -> None:
        assert max_hands == 1

    def __call__(self, image: np.ndarray, camera: Camera) -> list[Detection]:
        assert (camera.height, camera.width) == image.shape[:2]
        index = int(image[0, 0, 0])
        landmarks_px = self.landmarks_px(index)
        box_px = np.concatenate([landmarks_px.min(axis=0), landmarks_px.max(axis=0)])
        return [] if index % 3 == 0 else [Detection(box_px, index % 2 == 1, 0.9, landmarks_px)]

    @staticmethod
    def landmarks_px(index: int) -> np.ndarray:
        return np.random.default_rng(index).uniform((70, 50), (130, 110), (21, 2))


def test_the_detector_places_the_crop_and_the_data_says_the_side(make_world, monkeypatch):
    monkeypatch.setattr(predict_module, "HandDetector", FakeDetector)
    world = make_world()
    predictions = predict(world.data, world, world.model, "detector")
    assert predictions.found.tolist() == [False, True, True, False, True, True]
    assert _distance_m(predictions, world.data) < 1e-7
    centre = make_world()
    predict(centre.data, centre, centre.model, "centre")
    for row, (crop, of_centre) in enumerate(zip(world.taken, centre.taken, strict=True)):
        camera = camera_of(world.data.cameras()[row], world.data.picture(row))
        expected = look_at_points(FakeDetector.landmarks_px(row), camera, SIZE_PX)
        if not predictions.found[row]:
            expected = of_centre.camera, of_centre.R_camera_crop
        assert crop.camera == expected[0] and np.allclose(crop.R_camera_crop, expected[1])


def test_pictures_are_never_all_held(make_world):
    world, reads = make_world(200), 0
    image = world.data.image

    def count_reads(index: int) -> np.ndarray:
        nonlocal reads
        reads += 1
        return image(index)

    ahead = []

    def network(crops: np.ndarray) -> list[HandParams]:
        ahead.append(reads - world.answered)
        return world(crops)

    network.info = world.info
    predictions = predict(replace(world.data, image=count_reads), network, world.model, "gt")
    assert _distance_m(predictions, world.data) < 1e-7
    assert reads == 200 and max(ahead) <= 150 and len(ahead) > 4


def test_a_picture_that_cannot_be_read_ends_it(make_world, capsys):
    world = make_world(100)

    def broken(index: int) -> np.ndarray:
        if index == 70:
            raise UserError("expected a picture, got none")
        return np.full((HEIGHT, WIDTH, 3), index, np.uint8)

    with pytest.raises(UserError, match="expected a picture"):
        predict(replace(world.data, image=broken), world, world.model, "gt")
    with pytest.raises(UserError, match="expected cameras"):
        predict(replace(world.data, K=None), world, world.model, "gt")
    assert capsys.readouterr().out == ""


# A checkpoint, run by torch


@pytest.fixture(scope="module")
def checkpoint_path(tmp_path_factory) -> Path:
    """An untrained network of 64 px, its last layer moved away from the relaxed hand."""
    import torch

    from handmesh.config import config_to_dict
    from handmesh.hand_model import load_hand_model
    from handmesh.training.checkpoint import Checkpoint, save_checkpoint
    from handmesh.training.command import ModelConfig, TrainCommand
    from handmesh.training.model import build_net

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("run") / "last.pt"
    command = TrainCommand(out=path.parent, model=ModelConfig(size_px=64))
    net = build_net(command.model)
    state = net.state_dict()
    for name, values in state.items():
        if name.startswith("head.output"):
            values += 0.5 * torch.randn(values.shape)
    save_checkpoint(Checkpoint(config_to_dict(command), load_hand_model("open").id, "none", 1, 4, 1.0, {}, state, {}), path)
    return path


def test_torch_gives_what_the_exported_network_gives(checkpoint_path, hand_model, monkeypatch):
    from handmesh.deploy import parity
    from handmesh.deploy.export import export_checkpoint
    from handmesh.evaluation.torch_network import TorchNetwork
    from handmesh.hand_model.skinning import skin

    crops = parity.noise_pictures(64, 19)
    monkeypatch.setattr(parity, "PARITY_PICTURES", 2)
    export_checkpoint(checkpoint_path, checkpoint_path.with_suffix(".onnx"))
    networks = TorchNetwork(checkpoint_path, hand_model.id), Predictor(checkpoint_path.with_suffix(".onnx"), hand_model.id)
    ours, theirs = (network(crops) for network in networks)
    one, other = (
        skin(hand_model, *(np.stack(a) for a in zip(*((p.rotmats, p.betas) for p in some), strict=True))) for some in (ours, theirs)
    )
    assert 1e3 * np.linalg.norm(one - other, axis=-1).mean() <= 0.01
    assert one.std(axis=0).max() > 1e-4, "crops must matter"
    for name in ("camera", "presence", "right_logit"):
        assert np.allclose(*([getattr(p, name) for p in some] for some in (ours, theirs)), atol=1e-3)
    info, exported = networks[0].info, networks[1].info
    assert (info.hand_model, info.input_size_px, info.variant) == (exported.hand_model, exported.input_size_px, exported.variant)
    assert info.metadata.items() <= exported.metadata.items()
    assert networks[0](crops[:0]) == []
    with pytest.raises(ValueError, match="uint8"):
        networks[0](crops[:, 1:])


def test_a_bad_checkpoint_gets_one_line(checkpoint_path, tmp_path):
    from handmesh.evaluation.torch_network import TorchNetwork

    torn = tmp_path / "torn.pt"
    torn.write_bytes(checkpoint_path.read_bytes()[:5000])
    for path, model_id, said in (
        (tmp_path / "none.pt", None, "is no file"),
        (torn, None, "torn"),
        (checkpoint_path, "mano-right", "mano-right"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            TorchNetwork(path, model_id)
        assert "\n" not in str(caught.value)
