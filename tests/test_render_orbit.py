"""The view in space: where the eye is, how it moves, and what is drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from handmesh.geometry.camera import camera_from_fov, project
from handmesh.render.orbit import _BACKGROUND_RGB, VIEW_FOV_DEG, Orbit, draw_view, follow
from handmesh.skeleton import ROOT

CAMERA = camera_from_fov(640, 480, 65)
WIDTH, HEIGHT = 320, 240


def _shows(image: np.ndarray, rgb: tuple[int, int, int]) -> np.ndarray:
    return (np.abs(image.astype(int) - rgb) <= 2).all(axis=-1)


def _warm(image: np.ndarray) -> np.ndarray:
    """The skin of a right hand, which is redder than the yellow frustum."""
    red, green, blue = np.moveaxis(image.astype(int), -1, 0)
    return (red > blue + 25) & (green < 0.78 * red)


def _yellow(image: np.ndarray) -> np.ndarray:
    """The frustum, whose thin lines are mixed with what is behind them."""
    red, green, blue = np.moveaxis(image.astype(int), -1, 0)
    return (red > blue + 25) & (green > 0.8 * red)


def _cool(image: np.ndarray) -> np.ndarray:
    red, _, blue = np.moveaxis(image.astype(int), -1, 0)
    return blue > red + 25


@pytest.mark.parametrize("orbit", [Orbit(), Orbit(170.0, -80.0, 0.3, (0.1, -0.2, 0.6))])
def test_the_view_is_a_rigid_motion_with_the_target_in_its_middle(orbit: Orbit):
    np.testing.assert_allclose(orbit.R_view_camera @ orbit.R_view_camera.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(orbit.R_view_camera) == pytest.approx(1)
    np.testing.assert_allclose(orbit.to_view(np.array(orbit.target_m)), (0, 0, orbit.distance_m), atol=1e-12)
    points_m = np.random.default_rng(0).normal(size=(7, 3))
    seen_m = orbit.to_view(points_m)
    np.testing.assert_allclose(np.linalg.norm(seen_m - seen_m[0], axis=1), np.linalg.norm(points_m - points_m[0], axis=1))


def test_without_turns_the_view_is_the_camera_s_own():
    orbit = Orbit(0.0, 0.0, 0.5, (0.0, 0.0, 0.5))
    points_m = np.random.default_rng(0).normal(size=(5, 3))
    np.testing.assert_allclose(orbit.to_view(points_m), points_m, atol=1e-12)


def test_drags_move_what_is_seen_with_the_mouse():
    orbit = Orbit(0.0, 0.0)
    behind, above = (np.array(orbit.target_m) + way for way in ((0, 0, -0.1), (0, -0.1, 0)))
    # What is before the target goes along with the mouse.
    assert orbit.turned(10, 0).to_view(behind)[0] > orbit.to_view(behind)[0] + 0.01
    assert orbit.turned(0, 10).to_view(behind)[1] > orbit.to_view(behind)[1] + 0.01
    # Seen from above, the eye looks down: up stays up.
    assert orbit.turned(0, 60).to_view(above)[1] < 0
    np.testing.assert_allclose(orbit.moved(0.03, -0.02).to_view(above) - orbit.to_view(above), (0.03, -0.02, 0), atol=1e-12)
    turned = Orbit(50.0, 30.0)
    np.testing.assert_allclose(turned.moved(0.03, -0.02).to_view(above) - turned.to_view(above), (0.03, -0.02, 0), atol=1e-12)
    assert orbit.zoomed(0.5).distance_m == orbit.distance_m / 2


def test_the_view_never_goes_over_the_pole_nor_through_the_hand_nor_away():
    assert Orbit().turned(0, 1e3).pitch_deg == 85 and Orbit().turned(0, -1e3).pitch_deg == -85
    assert -180 <= Orbit().turned(1234.5, 0).yaw_deg <= 180
    assert Orbit().zoomed(1e-6).distance_m == 0.1 and Orbit().zoomed(1e6).distance_m == 5


def test_the_target_goes_to_the_hands_and_stays_without_them(hand_model, make_hand):
    hands = [make_hand(hand_model, CAMERA, (x, 0.05, 0.6), is_right=x < 0) for x in (-0.1, 0.2)]
    start = Orbit()
    assert follow(start, [], 1.0) is start
    np.testing.assert_allclose(follow(start, hands, 0.0).target_m, start.target_m)
    np.testing.assert_allclose(follow(start, hands, 100.0).target_m, (0.05, 0.05, 0.6), atol=1e-9)
    # Two short steps are one long one.
    twice = follow(follow(start, hands, 0.2), hands, 0.3)
    np.testing.assert_allclose(twice.target_m, follow(start, hands, 0.5).target_m)


def test_hands_are_drawn_where_they_are(hand_model, make_hand):
    orbit = Orbit(target_m=(0.0, 0.0, 0.5))
    hands = [make_hand(hand_model, CAMERA, (-0.12, 0.0, 0.5)), make_hand(hand_model, CAMERA, (0.12, 0.0, 0.5), is_right=False)]
    image = draw_view(hands, hand_model, CAMERA, orbit, WIDTH, HEIGHT)
    assert image.shape == (HEIGHT, WIDTH, 3) and image.dtype == np.uint8
    view = camera_from_fov(WIDTH, HEIGHT, VIEW_FOV_DEG)
    for hand, looks in zip(hands, (_warm(image), _cool(image)), strict=True):
        rows, columns = np.nonzero(looks)
        points_px = project(orbit.to_view(hand.vertices_m), view)
        np.testing.assert_allclose([columns.min(), columns.max()], [points_px[:, 0].min(), points_px[:, 0].max()], atol=4)
        np.testing.assert_allclose([rows.min(), rows.max()], [points_px[:, 1].min(), points_px[:, 1].max()], atol=4)


def test_the_nearer_hand_hides_the_other_from_the_eye(hand_model, make_hand):
    near, far = (make_hand(hand_model, CAMERA, (0.0, 0.0, z), is_right=z < 0.5) for z in (0.4, 0.6))
    before = draw_view([near, far], hand_model, CAMERA, Orbit(0.0, 0.0, 0.5, (0.0, 0.0, 0.5)), WIDTH, HEIGHT)
    behind = draw_view([near, far], hand_model, CAMERA, Orbit(180.0, 0.0, 0.5, (0.0, 0.0, 0.5)), WIDTH, HEIGHT)
    assert _warm(before).sum() > 3 * _cool(before).sum()
    assert _cool(behind).sum() > 3 * _warm(behind).sum()


def test_the_frustum_and_the_floor_are_there(hand_model):
    image = draw_view([], hand_model, CAMERA, Orbit(), WIDTH, HEIGHT)
    assert _yellow(image).sum() > 50
    below = image[HEIGHT * 2 // 3 :]
    assert (~_shows(below, _BACKGROUND_RGB)).mean() > 0.02
    # A wide camera's is wider.
    wide = draw_view([], hand_model, camera_from_fov(640, 480, 120), Orbit(), WIDTH, HEIGHT)
    assert np.ptp(np.nonzero(_yellow(wide))[0]) > 1.5 * np.ptp(np.nonzero(_yellow(image))[0])


def test_the_picture_hangs_in_the_frustum(hand_model):
    green = np.zeros((48, 64, 3), np.uint8)
    green[..., 1] = 255
    orbit = Orbit(0.0, 0.0, 0.4, (0.0, 0.0, 0.12))
    plain = draw_view([], hand_model, CAMERA, orbit, WIDTH, HEIGHT)
    hung = draw_view([], hand_model, CAMERA, orbit, WIDTH, HEIGHT, picture_rgb=green)
    assert _shows(plain, (0, 255, 0)).sum() == 0 and _shows(hung, (0, 255, 0)).mean() > 0.05


def test_bones_lie_over_the_hand(hand_model, make_hand):
    hand = make_hand(hand_model, CAMERA, (0.0, 0.0, 0.5))
    orbit = Orbit(target_m=tuple(hand.joints_m[ROOT]), distance_m=0.5)
    images = [draw_view([hand], hand_model, CAMERA, orbit, WIDTH, HEIGHT, draws_bones=draws) for draws in (False, True)]
    assert [(image.min(axis=-1) > 180).sum() > 100 for image in images] == [False, True]


@pytest.mark.parametrize("place_m", [(0.0, 0.0, -0.6), (0.0, 0.0, 0.001), (50.0, 0.0, 0.5)])
@pytest.mark.parametrize("size", [(320, 240), (1, 1), (2, 500)])
def test_nothing_that_is_behind_or_beside_or_around_the_eye_is_an_error(hand_model, make_hand, place_m, size):
    orbit = Orbit(0.0, 0.0, 0.5, (0.0, 0.0, 0.5))
    hand = make_hand(hand_model, CAMERA, (0.0, 0.0, 0.5))
    moved = replace(hand, vertices_m=hand.vertices_m + place_m, joints_m=hand.joints_m + place_m)
    assert draw_view([moved], hand_model, CAMERA, orbit, *size, draws_bones=True).shape == (size[1], size[0], 3)
