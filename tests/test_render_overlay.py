"""Overlays and masks: meshes are drawn where the camera sees them, and the nearer hand hides the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from handmesh.geometry.camera import camera_from_fov, project
from handmesh.geometry.crop import resize_camera
from handmesh.hand_model import HandModel
from handmesh.records import Camera, Hand
from handmesh.render.overlay import draw_mask, draw_overlay

SKEWED = Camera(fx=620.0, fy=500.0, cx=250.3, cy=301.7, width=640, height=480)
CAMERAS = {
    "plain": camera_from_fov(640, 480, 65),
    "skewed": SKEWED,
    "distorted": replace(SKEWED, distortion=(-0.25, 0.08, 0.002, -0.001)),
}
MakeHand = Callable[..., Hand]


def grey(camera: Camera) -> np.ndarray:
    return np.full((camera.height, camera.width, 3), 90, np.uint8)


def grown(mask: np.ndarray) -> np.ndarray:
    """A mask and the pixels around it."""
    return np.any([np.roll(mask > 0, (dy, dx), (0, 1)) for dy in (-1, 0, 1) for dx in (-1, 0, 1)], axis=0)


def plate(hand: Hand, depth_m: float, low_px: tuple[float, float], high_px: tuple[float, float], camera: Camera) -> tuple[Hand, HandModel]:
    """A flat rectangle between two pixel positions at some depth, in the form of a hand and its model."""
    (x0, y0), (x1, y1) = low_px, high_px
    pixels = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
    vertices_m = np.concatenate([(pixels - (camera.cx, camera.cy)) / (camera.fx, camera.fy), np.ones((4, 1))], axis=1) * depth_m
    faces = np.array([[0, 2, 1], [0, 3, 2]], np.int32)
    empty = np.zeros(0)
    model = HandModel("plate", vertices_m, empty, empty, empty, empty, faces, empty, empty, empty, ())
    return replace(hand, vertices_m=vertices_m), model


@pytest.mark.parametrize("name", CAMERAS)
@pytest.mark.parametrize("is_right", [True, False])
def test_every_seen_vertex_is_inside_the_mask(name: str, is_right: bool, hand_model: HandModel, make_hand: MakeHand) -> None:
    camera = CAMERAS[name]
    hand = make_hand(hand_model, camera, root_m=(0.06, -0.05, 0.4), is_right=is_right)
    mask = draw_mask((480, 640), [hand], hand_model, camera)
    pixels = project(hand.vertices_m, camera)
    rows, columns = np.nonzero(mask)
    # The silhouette's box is the vertices' box, to the pixel: half a pixel off would show on one of the sides.
    np.testing.assert_allclose((columns.min(), rows.min()), pixels.min(axis=0), atol=1.2)
    np.testing.assert_allclose((columns.max(), rows.max()), pixels.max(axis=0), atol=1.2)
    # A vertex on the silhouette may round to the pixel beside it.
    nearest = np.rint(pixels).astype(int)
    assert grown(mask)[nearest[:, 1], nearest[:, 0]].all()


def test_the_mask_follows_pixel_centres(hand_model: HandModel, make_hand: MakeHand) -> None:
    camera = SKEWED
    # A rectangle from 99.6 to 200.4 covers the centres 100 to 200; moved by half a pixel it would not.
    hand, model = plate(make_hand(hand_model, camera), 0.5, (99.6, 149.6), (200.4, 180.4), camera)
    mask = draw_mask((480, 640), [hand], model, camera)
    expected = np.zeros((480, 640), np.uint8)
    expected[150:181, 100:201] = 1
    np.testing.assert_array_equal(mask, expected)


def test_silhouettes_are_antialiased(hand_model: HandModel, make_hand: MakeHand) -> None:
    camera = SKEWED
    hand, model = plate(make_hand(hand_model, camera), 0.5, (99.5, 149.5), (200.0, 180.5), camera)
    drawn = draw_overlay(grey(camera), [hand], model, camera)[165].astype(float)
    full, none = drawn[150], drawn[300]
    assert np.abs(full - none).max() > 30
    # The last column is covered by half.
    np.testing.assert_allclose(drawn[200], (full + none) / 2, atol=4)
    np.testing.assert_allclose(drawn[199], full, atol=2)
    np.testing.assert_array_equal(drawn[201], none)


@pytest.mark.parametrize("name", CAMERAS)
def test_the_nearer_hand_hides_the_other(name: str, hand_model: HandModel, make_hand: MakeHand) -> None:
    camera = CAMERAS[name]
    near = make_hand(hand_model, camera, root_m=(0.0, 0.0, 0.40), is_right=True)
    far = make_hand(hand_model, camera, root_m=(0.03, 0.02, 0.60), is_right=False)
    alone_near, alone_far = (draw_mask((480, 640), [hand], hand_model, camera) > 0 for hand in (near, far))
    assert (alone_near & alone_far).sum() > 500
    for order, near_label, far_label in (([near, far], 1, 2), ([far, near], 2, 1)):
        mask = draw_mask((480, 640), order, hand_model, camera)
        np.testing.assert_array_equal(mask == near_label, alone_near)
        np.testing.assert_array_equal(mask == far_label, alone_far & ~alone_near)
    # In the picture too, whatever the order; edges between hands are mixed, so only what is well inside is compared.
    pictures = [draw_overlay(grey(camera), order, hand_model, camera).astype(int) for order in ([near, far], [far, near])]
    # A ray through the edge between two triangles may meet either.
    assert (pictures[0] != pictures[1]).mean() < 1e-3
    np.testing.assert_allclose(pictures[0], pictures[1], atol=16)
    only_near = draw_overlay(grey(camera), [near], hand_model, camera).astype(int)
    assert (np.abs(pictures[0] - only_near).max(axis=-1)[alone_near] > 0).mean() < 0.1


def test_right_and_left_differ_in_colour_and_the_picture_outside_is_untouched(hand_model: HandModel, make_hand: MakeHand) -> None:
    camera = CAMERAS["plain"]
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    before = image.copy()
    colours = []
    for is_right in (True, False):
        hand = make_hand(hand_model, camera, root_m=(0, 0, 0.5), is_right=is_right)
        drawn = draw_overlay(image, [hand], hand_model, camera)
        assert drawn.dtype == np.uint8
        assert drawn.shape == image.shape
        mask = draw_mask((480, 640), [hand], hand_model, camera) > 0
        changed = (drawn != image).any(axis=-1)
        assert changed[mask].mean() > 0.99
        assert not changed[~grown(mask)].any()
        colours.append(drawn[mask].mean(axis=0))
    np.testing.assert_array_equal(image, before)
    red_minus_blue = [colour[0] - colour[2] for colour in colours]
    assert red_minus_blue[0] > 30
    assert red_minus_blue[1] < -30


def test_the_mirrored_scene_gives_the_mirrored_mask(hand_model: HandModel, make_hand: MakeHand) -> None:
    camera = CAMERAS["plain"]
    right = make_hand(hand_model, camera, root_m=(0.05, 0, 0.5))
    vertices_m = right.vertices_m * (-1, 1, 1)
    left = replace(right, vertices_m=vertices_m, is_right=False)
    masks = [draw_mask((480, 640), [hand], hand_model, camera) for hand in (right, left)]
    assert (masks[0] != masks[1][:, ::-1]).mean() < 1e-4


@pytest.mark.parametrize(
    "root_m", [(0.0, 0.0, 0.02), (0.0, 0.0, -0.5), (3.0, 0.0, 0.5), (0.25, 0.1, 0.4), (0.0, 0.0, 0.1), (0.0, 0.0, 80.0)]
)
def test_hands_behind_or_beside_the_picture_do_not_crash(
    root_m: tuple[float, float, float], hand_model: HandModel, make_hand: MakeHand
) -> None:
    for camera in CAMERAS.values():
        inside = make_hand(hand_model, camera, root_m=(-0.05, 0, 0.6))
        odd = make_hand(hand_model, camera, root_m=root_m, is_right=False)
        drawn = draw_overlay(grey(camera), [odd, inside], hand_model, camera)
        assert drawn.shape == (480, 640, 3)
        mask = draw_mask((480, 640), [odd, inside], hand_model, camera)
        assert set(np.unique(mask)) <= {0, 1, 2}
        if root_m[2] < 0 or root_m[0] > 1:
            assert 1 not in mask
            np.testing.assert_array_equal(drawn, draw_overlay(grey(camera), [inside], hand_model, camera))


@pytest.mark.parametrize("shape_hw", [(1, 640), (480, 1), (1, 1)])
def test_slim_pictures(shape_hw: tuple[int, int], hand_model: HandModel, make_hand: MakeHand) -> None:
    camera = camera_from_fov(shape_hw[1], shape_hw[0], 65)
    hand = make_hand(hand_model, camera, root_m=(0, 0, 0.4))
    assert draw_overlay(np.zeros((*shape_hw, 3), np.uint8), [hand], hand_model, camera).shape == (*shape_hw, 3)
    assert draw_mask(shape_hw, [hand], hand_model, camera).shape == shape_hw


def test_no_hands_no_change(hand_model: HandModel) -> None:
    image = grey(SKEWED)
    drawn = draw_overlay(image, [], hand_model, SKEWED)
    np.testing.assert_array_equal(drawn, image)
    assert drawn is not image
    assert not draw_mask((480, 640), [], hand_model, SKEWED).any()


def test_big_pictures_show_the_same_hand(hand_model: HandModel, make_hand: MakeHand) -> None:
    # Large boxes are cast at a lower resolution: shrunk again, the picture must be the small one, to the half pixel.
    small = CAMERAS["plain"]
    big = resize_camera(small, 2560, 1920)
    hand = make_hand(hand_model, small, root_m=(0, 0, 0.35))
    drawn = draw_overlay(grey(big), [hand], hand_model, big).reshape(480, 4, 640, 4, 3).mean(axis=(1, 3))
    expected = draw_overlay(grey(small), [hand], hand_model, small).astype(float)
    difference = np.abs(drawn - expected)[expected.std(axis=-1) > 2].mean()
    assert difference < 3
    shifted = np.abs(np.roll(drawn, 1, axis=1) - expected)[expected.std(axis=-1) > 2].mean()
    assert shifted > 1.5 * difference
