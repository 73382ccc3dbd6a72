"""The landmark network: what it says of hands, sides and nothing, in batches and from threads."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields

import cv2
import numpy as np
import pytest

from handmesh.detection.compiled import output_named, read_network
from handmesh.detection.landmarks import MAP_CHANNELS, POOLED_CHANNELS, LandmarkAnswer, LandmarkNetwork
from handmesh.detection.regions import REGION_PX
from handmesh.errors import UserError
from handmesh.hand_model.assets import ASSETS


@pytest.fixture(scope="module", params=["full", "lite"])
def network(request):
    return LandmarkNetwork(request.param, threads=1)


@pytest.fixture(scope="module")
def regions():
    """Squares around the right hand that the clip's first frames show, upright more or less."""
    video = cv2.VideoCapture(str(ASSETS / "demo_clip.mp4"))
    squares = []
    for index, x, y in ((0, 310, 240), (20, 286, 290), (40, 290, 270), (60, 296, 250), (80, 214, 230)):
        video.set(cv2.CAP_PROP_POS_FRAMES, index)
        square = video.read()[1][y - 130 : y + 130, x - 130 : x + 130, ::-1]
        squares.append(cv2.resize(square, (REGION_PX, REGION_PX), interpolation=cv2.INTER_AREA))
    return np.stack(squares)


def differences(one: LandmarkAnswer, other: LandmarkAnswer) -> list[float]:
    return [float(np.abs(getattr(one, field.name) - getattr(other, field.name)).max()) for field in fields(one)]


def test_shapes(network, regions):
    answer = network(regions[:3])
    shapes = [getattr(answer, field.name).shape for field in fields(answer)]
    assert shapes == [(3, 21, 3), (3,), (3,), (3, 21, 3), (3, POOLED_CHANNELS[network.kind]), (3, MAP_CHANNELS[network.kind], 7, 7)]
    assert all(getattr(answer, field.name).dtype == np.float32 for field in fields(answer))
    assert len(answer) == 3 and len(answer.take([2])) == 1
    assert (answer.presence >= 0).all() and (answer.presence <= 1).all() and (answer.right >= 0).all() and (answer.right <= 1).all()


def test_several_regions_are_seen_as_one_by_one(network, regions):
    together, alone = network(regions), [network(region[None]) for region in regions]
    for index, answer in enumerate(alone):
        assert max(differences(together.take([index]), answer)) < 1e-3


def test_threads_do_not_disturb_each_other(network, regions):
    expected = [network(region[None]) for region in regions]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda index: network(regions[[index % 5]]), range(40)))
    for index, answer in enumerate(found):
        assert max(differences(answer, expected[index % 5])) < 1e-3


def test_an_answer_is_not_overwritten_by_the_next(network, regions):
    first = network(regions[:1])
    kept = [getattr(first, field.name).copy() for field in fields(first)]
    network(regions[1:2])
    assert all(np.array_equal(getattr(first, field.name), values) for field, values in zip(fields(first), kept, strict=True))


def test_hands_are_there_and_nothing_is_not(network, regions):
    assert np.median(network(regions).presence) > 0.8
    noise = np.random.default_rng(0).integers(0, 256, (1, REGION_PX, REGION_PX, 3)).astype(np.uint8)
    assert network(noise).presence[0] < 0.1 and network(np.full_like(noise, 90)).presence[0] < 0.1


def test_sides_and_points_are_mirrored_in_mirrored_regions(network, regions):
    """A right hand in a picture that is no mirror is called right."""
    plain, mirrored = network(regions), network(np.ascontiguousarray(regions[:, :, ::-1]))
    assert np.median(plain.right) > 0.8 and np.median(mirrored.right) < 0.2
    offsets_px = plain.points_px[..., :2] * (-1, 1) + (REGION_PX - 1, 0) - mirrored.points_px[..., :2]
    assert np.median(np.linalg.norm(offsets_px, axis=-1)) < 6


def test_points_are_linear_in_the_pooled_vector(network, regions):
    """The features that are given are those that the network itself answers by: its last layer's weights make its points of them."""
    layer = "model_1/model/conv_landmarks/"
    model = read_network(f"hand_landmark_{network.kind}")
    weights, bias = (
        output_named(model, f"{layer}{name}_dequantize", shape).get_node().input_value(0).get_node().data
        for name, shape in (("MatMul", [63, POOLED_CHANNELS[network.kind]]), ("BiasAdd/ReadVariableOp/resource", [63]))
    )
    answer = network(regions)
    expected = (answer.pooled @ weights.astype(np.float32).T + bias).reshape(-1, 21, 3) - (0.5, 0.5, 0)
    assert np.abs(answer.points_px - expected).max() < 0.01


@pytest.mark.parametrize("bad", [np.zeros((1, 64, 64, 3), np.uint8), np.zeros((1, 224, 224, 3), np.float32)])
def test_other_pictures_are_refused(network, bad):
    with pytest.raises(ValueError, match="expected crops"):
        network(bad)


def test_batch_sizes_are_those_of_the_runtime(network):
    with pytest.raises(ValueError, match="batch sizes"):
        network.prepare(7)


def test_there_are_two():
    with pytest.raises(UserError, match="full, lite"):
        LandmarkNetwork("huge")  # pyright: ignore
