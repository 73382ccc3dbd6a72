"""The laws of docs/conventions.md: rotations, cameras, crops, the mirror."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from handmesh.errors import UserError
from handmesh.geometry.camera import (
    camera_from_focal,
    camera_from_fov,
    project,
    translation_to_weak_perspective,
    unproject,
    weak_perspective_to_translation,
)
from handmesh.geometry.crop import (
    bent_map,
    camera_to_crop,
    crop_box,
    crop_points,
    crop_to_camera,
    look_at_box,
    look_at_points,
    mirror_picture,
    resize_camera,
    take_crop,
)
from handmesh.geometry.rotation import (
    MIRROR_X,
    mirror_rotmat,
    mirror_rotvec,
    nearest_rotmat,
    rot6d_to_rotmat,
    rotmat_to_rot6d,
    rotmat_to_rotvec,
    rotvec_to_rotmat,
    shortest_arc,
)
from handmesh.hand_model.skinning import mirror_points
from handmesh.records import Camera

BATCHES = [(), (1,), (3, 1, 2)]
SKEWED = Camera(fx=620.0, fy=540.0, cx=250.3, cy=301.7, width=640, height=480)
DISTORTED = replace(SKEWED, distortion=(-0.12, 0.03, 0.001, -0.0007))
CAMERAS = {"skewed": SKEWED, "distorted": DISTORTED, "wide": camera_from_fov(640, 480, 100)}


def random_rotvecs(batch: tuple[int, ...], angle_rad: float, seed: int = 0) -> np.ndarray:
    axes = np.random.default_rng(seed).normal(size=(*batch, 3))
    return angle_rad * axes / np.linalg.norm(axes, axis=-1, keepdims=True)


# Rotations


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("angle_rad", [0.0, 1e-12, 1e-7, 1e-3, 1.0, 2.6, 3.0, np.pi - 1e-7])
def test_rotvec_round_trip(batch: tuple[int, ...], angle_rad: float) -> None:
    rotvecs = random_rotvecs(batch, angle_rad)
    rotmats = rotvec_to_rotmat(rotvecs)
    assert rotmats.shape == (*batch, 3, 3)
    again = rotmat_to_rotvec(rotmats)
    assert again.shape == rotvecs.shape
    np.testing.assert_allclose(again, rotvecs, rtol=1e-7, atol=1e-14 if angle_rad < 1e-3 else 1e-12)


@pytest.mark.parametrize("angle_rad", [0.0, 1e-7, 1.0, np.pi, 10.0])
def test_rotvec_to_rotmat_is_the_exponential(angle_rad: float) -> None:
    rotvecs = random_rotvecs((50,), angle_rad)
    np.testing.assert_allclose(rotvec_to_rotmat(rotvecs), Rotation.from_rotvec(rotvecs).as_matrix(), atol=1e-14)


@pytest.mark.parametrize("axis", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (-1, 2, 3)])
def test_half_turns_survive(axis: tuple[float, float, float]) -> None:
    rotmat = rotvec_to_rotmat(np.pi * np.array(axis) / np.linalg.norm(axis))
    rotvec = rotmat_to_rotvec(rotmat)
    np.testing.assert_allclose(np.linalg.norm(rotvec), np.pi, atol=1e-12)
    np.testing.assert_allclose(rotvec_to_rotmat(rotvec), rotmat, atol=1e-12)


def test_zero_rotation_is_exactly_the_identity_in_either_precision() -> None:
    for dtype in (np.float32, np.float64):
        rotmat = rotvec_to_rotmat(np.zeros(3, dtype))
        assert rotmat.dtype == dtype
        assert (rotmat == np.eye(3)).all()
        assert (rotmat_to_rotvec(rotmat) == 0).all()


@pytest.mark.parametrize("batch", BATCHES)
def test_rot6d_round_trip_and_orthonormalisation(batch: tuple[int, ...]) -> None:
    rotmats = rotvec_to_rotmat(random_rotvecs(batch, 2.0))
    rot6d = rotmat_to_rot6d(rotmats)
    assert rot6d.shape == (*batch, 6)
    np.testing.assert_allclose(rot6d_to_rotmat(rot6d), rotmats, atol=1e-14)
    # Length does not count, nor does what the second column shares with the first.
    first, second = rot6d[..., :3], rot6d[..., 3:]
    np.testing.assert_allclose(rot6d_to_rotmat(np.concatenate([7 * first, 1e-3 * second - 5 * first], axis=-1)), rotmats, atol=1e-11)
    anything = np.random.default_rng(1).normal(size=(*batch, 6))
    made = rot6d_to_rotmat(anything)
    np.testing.assert_allclose(made @ np.swapaxes(made, -1, -2), np.broadcast_to(np.eye(3), made.shape), atol=1e-13)
    np.testing.assert_allclose(np.linalg.det(made), 1, atol=1e-13)


def test_the_nearest_rotation_is_one_and_no_other_is_nearer() -> None:
    rng = np.random.default_rng(5)
    matrices = rng.normal(size=(20, 3, 3))  # of either handedness
    nearest = nearest_rotmat(matrices)
    assert np.allclose(nearest @ nearest.swapaxes(1, 2), np.eye(3)) and np.allclose(np.linalg.det(nearest), 1)
    assert np.allclose(nearest_rotmat(nearest), nearest)
    distance = np.linalg.norm(nearest - matrices, axis=(1, 2))
    for angle_rad in (0.01, 0.3, 2.0):
        others = nearest @ rotvec_to_rotmat(random_rotvecs((20,), angle_rad))
        assert (np.linalg.norm(others - matrices, axis=(1, 2)) > distance).all()


@pytest.mark.parametrize("angle_rad", [0.0, 1e-9, 0.5, np.pi / 2, np.pi - 1e-3])
def test_shortest_arc_turns_by_the_angle_between(angle_rad: float) -> None:
    rng = np.random.default_rng(2)
    source = rng.normal(size=3)
    axis = np.cross(source, rng.normal(size=3))
    target = 3.0 * rotvec_to_rotmat(angle_rad * axis / np.linalg.norm(axis)) @ source
    turn = shortest_arc(source, target)
    np.testing.assert_allclose(turn @ source / np.linalg.norm(source), target / np.linalg.norm(target), atol=1e-9)
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-9)
    # Nothing but that turn: no twist around the direction.
    np.testing.assert_allclose(np.linalg.norm(rotmat_to_rotvec(turn)), angle_rad, atol=1e-7)


@pytest.mark.parametrize("batch", BATCHES)
def test_mirror(batch: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    rotvecs, points_m = random_rotvecs(batch, 1.3), rng.normal(size=(*batch, 3))
    rotmats = rotvec_to_rotmat(rotvecs)
    np.testing.assert_array_equal(mirror_rotvec(mirror_rotvec(rotvecs)), rotvecs)
    np.testing.assert_array_equal(mirror_rotmat(mirror_rotmat(rotmats)), rotmats)
    np.testing.assert_array_equal(mirror_points(mirror_points(points_m)), points_m)
    np.testing.assert_allclose(rotvec_to_rotmat(mirror_rotvec(rotvecs)), mirror_rotmat(rotmats), atol=1e-14)
    # The mirror image of a turned point is the mirrored point turned by the mirrored rotation.
    turned_m = (rotmats @ points_m[..., None])[..., 0]
    np.testing.assert_allclose(mirror_points(turned_m), (mirror_rotmat(rotmats) @ mirror_points(points_m)[..., None])[..., 0], atol=1e-14)


# Cameras


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", CAMERAS)
def test_projection_round_trip(name: str, batch: tuple[int, ...]) -> None:
    camera = CAMERAS[name]
    rng = np.random.default_rng(4)
    pixels = rng.uniform((0, 0), (camera.width - 1, camera.height - 1), (*batch, 2))
    rays = unproject(pixels, camera)
    assert rays.shape == (*batch, 3)
    assert (rays[..., 2] == 1).all()
    depths_m = rng.uniform(0.2, 3.0, (*batch, 1))
    seen = project(rays * depths_m, camera)
    assert seen.shape == (*batch, 2)
    # OpenCV undistorts by iteration; five rounds of it leave less than a hundredth of a pixel.
    np.testing.assert_allclose(seen, pixels, atol=0.01 if camera.distortion else 1e-9)


def test_projection_follows_K_and_the_axes() -> None:
    point_m = np.array([0.1, -0.2, 0.8])
    homogeneous = SKEWED.K @ point_m
    np.testing.assert_allclose(project(point_m, SKEWED), homogeneous[:2] / homogeneous[2], rtol=1e-14)
    centre = project(np.array([0, 0, 1.0]), SKEWED)
    assert project(np.array([0.1, 0, 1.0]), SKEWED)[0] > centre[0]
    assert project(np.array([0, 0.1, 1.0]), SKEWED)[1] > centre[1]
    np.testing.assert_allclose(centre, (SKEWED.cx, SKEWED.cy))


def test_field_of_view_spans_the_picture_from_edge_to_edge() -> None:
    for width, height in ((640, 480), (480, 640)):
        camera = camera_from_fov(width, height, 65.0)
        # Pixel centres are integers, so the picture reaches from -0.5 to width - 0.5.
        low, high = unproject(np.array([[-0.5, -0.5], [width - 0.5, height - 0.5]]), camera)
        axis = int(np.argmax((width, height)))
        np.testing.assert_allclose(np.degrees(np.arctan(high[axis]) - np.arctan(low[axis])), 65.0, atol=1e-9)
        np.testing.assert_allclose(low + high, (0, 0, 2), atol=1e-12)


@pytest.mark.parametrize("bad", [0.0, 180.0, -5.0, float("nan")])
def test_impossible_cameras_are_refused_in_one_line(bad: float) -> None:
    with pytest.raises(UserError) as caught:
        camera_from_fov(640, 480, bad)
    assert "\n" not in str(caught.value)
    if not bad > 0:
        with pytest.raises(UserError):
            camera_from_focal(640, 480, bad)


@pytest.mark.parametrize("batch", BATCHES)
def test_weak_perspective_round_trip(batch: tuple[int, ...]) -> None:
    rng = np.random.default_rng(5)
    weak = np.concatenate([rng.uniform(2, 9, (*batch, 1)), rng.normal(0, 0.05, (*batch, 2))], axis=-1)
    translation_m = weak_perspective_to_translation(weak, 300.0, 224)
    assert translation_m.shape == (*batch, 3)
    np.testing.assert_allclose(translation_to_weak_perspective(translation_m, 300.0, 224), weak, rtol=1e-14)


def test_a_hand_is_drawn_where_weak_perspective_says() -> None:
    size, focal_px = 224, 310.0
    crop_camera = camera_from_focal(size, size, focal_px)
    s, tx, ty = 7.0, 0.03, -0.02
    root_m = weak_perspective_to_translation(np.array([s, tx, ty]), focal_px, size)
    # s half-crops a metre, at the root's depth.
    half_crop_px = size / 2
    expected_px = np.array([crop_camera.cx, crop_camera.cy]) + half_crop_px * s * np.array([tx, ty])
    np.testing.assert_allclose(project(root_m, crop_camera), expected_px, atol=1e-9)
    beside_m = root_m + np.array([0.01, 0, 0])
    np.testing.assert_allclose(project(beside_m, crop_camera)[0] - expected_px[0], half_crop_px * s * 0.01, atol=1e-9)


def test_resized_cameras_keep_pixel_centres_at_integers() -> None:
    camera = resize_camera(SKEWED, 1280, 240)
    point_m = np.array([0.07, 0.11, 0.6])
    before, after = project(point_m, SKEWED), project(point_m, camera)
    np.testing.assert_allclose(after + 0.5, (before + 0.5) * (2.0, 0.5), atol=1e-10)
    # And cv2.resize agrees: the pixel's middle moves with the picture.
    ramp = np.tile(np.arange(SKEWED.width, dtype=np.float32), (SKEWED.height, 1))
    resized = cv2.resize(ramp, (1280, 240), interpolation=cv2.INTER_LINEAR)
    x = round(after[0])
    np.testing.assert_allclose(resized[100, x], before[0] + (x - after[0]) / 2, atol=1e-3)


# Crops


def pattern(rays: np.ndarray, cycles_per_unit: float) -> np.ndarray:
    """A smooth coloured pattern on the sphere of directions: (..., 3) rays to (..., 3) in 0..255."""
    directions = rays / np.linalg.norm(rays, axis=-1, keepdims=True)
    waves = np.array([[1.0, 0.3, 0.1], [-0.2, 1.0, 0.4], [0.6, -0.7, 0.2]])
    return 128 + 70 * np.sin(2 * np.pi * cycles_per_unit * directions @ waves.T + np.array([0.0, 1.0, 2.0]))


def photograph(camera: Camera, cycles_per_unit: float, R_camera_world: np.ndarray | None = None, shift_px: float = 0.0) -> np.ndarray:
    """What a camera sees of the pattern when the world is turned; (H, W, 3) uint8."""
    columns, rows = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    rays = unproject(np.stack([columns, rows], axis=-1) + shift_px, camera)
    if R_camera_world is not None:
        rays = rays @ R_camera_world
    return np.rint(pattern(rays, cycles_per_unit)).astype(np.uint8)


def mean_difference(a: np.ndarray, b: np.ndarray, border: int = 2) -> float:
    inner = (slice(border, -border), slice(border, -border))
    return float(np.abs(a[inner].astype(float) - b[inner].astype(float)).mean())


HAND_M = np.random.default_rng(6).uniform((-0.08, -0.1, 0.45), (0.08, 0.1, 0.6), (21, 3))


@pytest.mark.parametrize("name", CAMERAS)
@pytest.mark.parametrize(("size", "half_box_px"), [(224, 60), (64, 100), (32, 100)])
def test_a_crop_is_what_the_virtual_camera_would_have_seen(name: str, size: int, half_box_px: float) -> None:
    camera = CAMERAS[name]
    middle = np.array([380.0, 190.0])
    box_px = np.concatenate([middle - half_box_px, middle + half_box_px])
    # Waves of some sixteen pixels, in the picture or in the crop, whichever is coarser.
    cycles = camera.fx / (16 * max(1.0, 3 * half_box_px / size))
    crop = crop_box(box_px, photograph(camera, cycles), camera, size)
    expected = photograph(crop.camera, cycles, crop.R_camera_crop.T)
    assert mean_difference(crop.image, expected) < 1
    # Half a pixel would be seen.
    assert mean_difference(crop.image, photograph(crop.camera, cycles, crop.R_camera_crop.T, shift_px=0.5)) > 4


@pytest.mark.parametrize("size", [224, 256, 700, 97])
def test_a_bent_map_is_that_of_every_pixel(size: int) -> None:
    # Strong for a webcam, and a crop that reaches to the rim.
    camera = replace(SKEWED, distortion=(-0.25, 0.08, 0.002, -0.001))
    crop_camera, R_camera_crop = look_at_box(np.array([350.0, 20.0, 620.0, 280.0]), camera, size)
    pixels = np.stack(np.meshgrid(np.arange(size), np.arange(size)), axis=-1)
    expected = project(unproject(pixels, crop_camera) @ R_camera_crop.T, camera)
    where = bent_map(crop_camera, R_camera_crop, camera)
    inside = np.all((expected > 0) & (expected < (camera.width - 1, camera.height - 1)), axis=-1)
    assert where.shape == (size, size, 2) and inside.mean() > 0.3
    assert np.abs(where - expected)[inside].max() < 0.05 * 224 / size


@pytest.mark.parametrize("distortion", [(), (-0.1, 0.02, 0.0, 0.0)])
@pytest.mark.parametrize("size", [340, 175, 88, 44])
def test_a_crop_that_shrinks_the_picture_first_keeps_the_half_pixel(size: int, distortion: tuple[float, ...]) -> None:
    # Sides that no power of two divides, and a box that reaches beyond two edges.
    camera = replace(camera_from_focal(1803, 1701, 1500.0), fy=1400.0, cx=930.0, distortion=distortion)
    box_px = np.array([900.0, 800.0, 1900.0, 1790.0])
    _, R_camera_crop = look_at_box(box_px, camera, size)
    shown = crop_box(box_px, np.full((1701, 1803, 3), 255, np.uint8), camera, size)
    shrink = camera.fx / shown.camera.fx
    assert shrink > 4
    cycles = camera.fx / (16 * shrink)
    crop = crop_box(box_px, photograph(camera, cycles), camera, size)
    # Pixels that the picture fills, away from its edge.
    inner = cv2.erode((shown.image[..., 0] == 255).astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=0) > 0
    assert 0.3 < inner.mean() < 0.9

    def difference(shift_px: float) -> float:
        expected = photograph(crop.camera, cycles, R_camera_crop.T, shift_px)
        return float(np.abs(crop.image[inner].astype(float) - expected[inner]).mean())

    assert difference(0.0) < 1.5
    assert difference(0.5) > 3


@pytest.mark.parametrize("turn_deg", [-30.0, 30.0])
@pytest.mark.parametrize("axis", [(0.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.6, 0.8, 0.0)])
def test_off_axis_law(turn_deg: float, axis: tuple[float, float, float]) -> None:
    size = 128
    camera = camera_from_focal(1400, 1400, 700.0)
    # A hand that the camera looks straight at, and the same one turned about the camera's centre.
    _, R_first = look_at_points(project(HAND_M, camera), camera, size)
    hand_m = HAND_M @ R_first
    turn = rotvec_to_rotmat(np.radians(turn_deg) * np.array(axis))
    turned_m = hand_m @ turn.T
    cycles = 40.0
    straight = crop_points(project(hand_m, camera), photograph(camera, cycles), camera, size)
    turned = crop_points(project(turned_m, camera), photograph(camera, cycles, turn), camera, size)

    assert abs(turned.camera.fx / straight.camera.fx - 1) < 1e-6
    np.testing.assert_allclose(straight.R_camera_crop, np.eye(3), atol=1e-8)
    np.testing.assert_allclose(turned.R_camera_crop, turn, atol=1e-8)
    np.testing.assert_allclose(camera_to_crop(turned_m, turned), camera_to_crop(hand_m, straight), atol=1e-9)
    assert mean_difference(turned.image, straight.image) < 2
    # The pattern is fine enough for a crop pixel to count.
    assert mean_difference(np.roll(turned.image, 1, axis=1), straight.image) > 4


@pytest.mark.parametrize("name", CAMERAS)
def test_the_crop_holds_the_points_in_its_middle(name: str) -> None:
    camera = CAMERAS[name]
    points_px = project(HAND_M + np.array([0.1, -0.05, 0]), camera)
    crop_camera, R_camera_crop = look_at_points(points_px, camera, 224, padding=1.5)
    seen = project(unproject(points_px, camera) @ R_camera_crop, crop_camera)
    low, high = seen.min(axis=0), seen.max(axis=0)
    np.testing.assert_allclose((low + high) / 2, (223 / 2, 223 / 2), atol=1e-5)
    np.testing.assert_allclose((high - low).max(), 224 / 1.5, rtol=1e-9)


def test_a_crop_of_a_box_looks_at_its_middle() -> None:
    box_px = np.array([100.0, 120.0, 260.0, 220.0])
    _, R_camera_crop = look_at_box(box_px, SKEWED, 224)
    axis_px = project(R_camera_crop @ np.array([0, 0, 1.0]), SKEWED)
    np.testing.assert_allclose(axis_px, (180, 170), atol=2.0)


@pytest.mark.parametrize("is_mirrored", [False, True])
def test_reprojection(is_mirrored: bool) -> None:
    points_m = HAND_M + np.array([0.1, -0.05, 0])
    image = photograph(SKEWED, 20.0)
    crop = crop_points(project(points_m, SKEWED), image, SKEWED, 224, is_mirrored)
    in_crop = project(camera_to_crop(points_m, crop), crop.camera)
    H_crop_picture = crop.camera.K @ crop.R_camera_crop.T @ np.linalg.inv(SKEWED.K)
    by_homography = cv2.perspectiveTransform(project(points_m, SKEWED)[:, None], H_crop_picture)[:, 0]
    if is_mirrored:
        by_homography[:, 0] = 223 - by_homography[:, 0]
    np.testing.assert_allclose(in_crop, by_homography, atol=1e-8)


@pytest.mark.parametrize("is_mirrored", [False, True])
@pytest.mark.parametrize("batch", BATCHES)
def test_crop_and_camera_frames_are_inverse(batch: tuple[int, ...], is_mirrored: bool) -> None:
    crop = crop_points(project(HAND_M, SKEWED), photograph(SKEWED, 20.0), SKEWED, 64, is_mirrored)
    points_m = np.random.default_rng(7).normal(size=(*batch, 3))
    np.testing.assert_allclose(crop_to_camera(camera_to_crop(points_m, crop), crop), points_m, atol=1e-14)
    np.testing.assert_allclose(camera_to_crop(crop_to_camera(points_m, crop), crop), points_m, atol=1e-14)


def test_a_mirrored_crop_is_the_flipped_crop_and_its_points_the_mirrored_points() -> None:
    image = photograph(SKEWED, 20.0)
    points_px = project(HAND_M, SKEWED)
    plain, mirrored = (crop_points(points_px, image, SKEWED, 224, is_mirrored) for is_mirrored in (False, True))
    np.testing.assert_array_equal(mirrored.image, plain.image[:, ::-1])
    np.testing.assert_array_equal(mirror_picture(mirror_picture(image)), image)
    np.testing.assert_allclose(camera_to_crop(HAND_M, mirrored), mirror_points(camera_to_crop(HAND_M, plain)), atol=1e-15)
    np.testing.assert_array_equal(MIRROR_X @ MIRROR_X, np.eye(3))


def test_the_flipped_picture_gives_the_mirrored_crop() -> None:
    camera = camera_from_fov(640, 480, 65)
    image, points_px = photograph(camera, 20.0), project(HAND_M + np.array([0.1, 0, 0]), camera)
    flipped_px = np.stack([camera.width - 1 - points_px[:, 0], points_px[:, 1]], axis=-1)
    crop = crop_points(points_px, image, camera, 224)
    from_flipped = crop_points(flipped_px, mirror_picture(image), camera, 224, is_mirrored=True)
    assert mean_difference(crop.image, from_flipped.image) < 1


def test_the_distortion_path_meets_the_plain_one_at_zero() -> None:
    image = photograph(SKEWED, 20.0)
    points_px = project(HAND_M, SKEWED)
    plain = crop_points(points_px, image, SKEWED, 224)
    barely = crop_points(points_px, image, replace(SKEWED, distortion=(1e-12, 0.0, 0.0, 0.0)), 224)
    np.testing.assert_allclose(barely.camera.fx, plain.camera.fx, rtol=1e-9)
    assert mean_difference(barely.image, plain.image) < 0.5


def test_a_big_picture_is_averaged_not_skipped_through() -> None:
    noise = np.random.default_rng(8).integers(0, 256, (1000, 1000, 3), dtype=np.uint8)
    image = np.tile(noise, (6, 8, 1))
    camera = camera_from_fov(8000, 6000, 65)
    crop = crop_box(np.array([2000.0, 1000.0, 6000.0, 5000.0]), image, camera, 64)
    inside = crop.image[8:-8, 8:-8].astype(float)
    assert abs(inside.mean() - noise.mean()) < 2
    # A crop pixel covers some 90 x 90 pixels; single samples would spread by 74, four of them by 37.
    assert inside.std() < 6


@pytest.mark.parametrize("size", [224, 16])
def test_channels_keep_their_order_and_outside_is_black(size: int) -> None:
    image = np.full((480, 640, 3), (200, 100, 20), np.uint8)
    inside = crop_box(np.array([200.0, 150.0, 400.0, 350.0]), image, SKEWED, size)
    assert inside.image.shape == (size, size, 3)
    assert inside.image.dtype == np.uint8
    assert (inside.image[size // 2, size // 2] == (200, 100, 20)).all()
    outside = crop_box(np.array([-400.0, 150.0, -200.0, 350.0]), image, SKEWED, size)
    assert (outside.image[size // 2, size // 2] == 0).all()


def test_one_pixel_high_pictures_are_cropped() -> None:
    camera = camera_from_fov(640, 1, 65)
    image = np.full((1, 640, 3), 255, np.uint8)
    crop = take_crop(image, camera, *look_at_box(np.array([100.0, -50.0, 200.0, 50.0]), camera, 64))
    assert crop.image.shape == (64, 64, 3)
