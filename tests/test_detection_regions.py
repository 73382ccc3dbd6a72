"""Regions: upright, the same wherever in the picture a hand is, and in MediaPipe's proportions."""

import numpy as np
import pytest

from handmesh.detection.regions import REGION_PX, region_from_landmarks, region_from_palm, region_to_picture
from handmesh.geometry.camera import camera_from_fov, project, unproject
from handmesh.geometry.crop import take_crop
from handmesh.geometry.rotation import rotvec_to_rotmat
from handmesh.records import Camera, Crop
from handmesh.skeleton import JOINTS

CAMERA = camera_from_fov(1280, 720, 70)
LENS = Camera(900.0, 870.0, 610.0, 380.0, 1280, 720, (-0.2, 0.05, 1e-3, -5e-4, 0.0))
WRIST, INDEX, MIDDLE, RING = (JOINTS.index(name) for name in ("wrist", "index_mcp", "middle_mcp", "ring_mcp"))
BOXED = [0, 1, 2, 3, 5, 6, 9, 10, 13, 14, 17, 18]


def a_hand(seed: int = 0) -> np.ndarray:
    """(21, 3) metres in front of a camera: fingers somewhere above the wrist, at any turn."""
    rng = np.random.default_rng(seed)
    hand_m = rng.uniform((-0.05, -0.17, -0.03), (0.05, -0.06, 0.03), (21, 3))
    hand_m[WRIST] = 0
    return hand_m @ rotvec_to_rotmat(np.array([0.2, -0.3, rng.uniform(-3, 3)])).T + (0, 0, 0.6)


def palm_of(hand_m: np.ndarray) -> np.ndarray:
    """(6, 3): the edge middles of a square about the knuckles, and two keypoints, in one plane."""
    middle_m, up_m = hand_m[MIDDLE], hand_m[MIDDLE] - hand_m[WRIST]
    side_m = np.cross(up_m, (0, 0, 1.0))
    return np.array([middle_m - side_m / 2, middle_m + side_m / 2, middle_m - up_m / 2, middle_m + up_m / 2, hand_m[WRIST], middle_m])


def seen(points_m: np.ndarray, region: tuple[Camera, np.ndarray]) -> np.ndarray:
    """Points of the full camera's frame in pixels of a region."""
    return project(points_m @ region[1], region[0])


@pytest.mark.parametrize("camera", [CAMERA, LENS])
@pytest.mark.parametrize("seed", range(4))
def test_a_region_of_landmarks_is_upright_and_in_proportion(camera, seed):
    hand_m = a_hand(seed)
    crop_camera, R_camera_crop = region_from_landmarks(project(hand_m, camera), camera)
    assert (crop_camera.width, crop_camera.height, crop_camera.cx, crop_camera.cy) == (REGION_PX, REGION_PX, 111.5, 111.5)
    assert np.allclose(R_camera_crop.T @ R_camera_crop, np.eye(3), atol=1e-12) and np.linalg.det(R_camera_crop) > 0
    points = seen(hand_m, (crop_camera, R_camera_crop))
    up = (points[INDEX] + points[RING]) / 4 + points[MIDDLE] / 2 - points[WRIST]
    assert up[1] < 0 and abs(up[0]) < 1e-3
    low, high = points[BOXED].min(axis=0), points[BOXED].max(axis=0)
    assert (high - low).max() == pytest.approx(REGION_PX / 2, abs=1e-3)
    assert np.allclose((low + high) / 2 - (0, 0.1 * (high - low)[1]), 111.5, atol=1e-3)


@pytest.mark.parametrize("camera", [CAMERA, LENS])
def test_a_region_of_a_palm_is_upright_and_in_proportion(camera):
    box_px, keypoints_px = np.array([300.0, 200, 380, 260]), np.random.default_rng(0).uniform(300, 380, (7, 2))
    region = region_from_palm(box_px, keypoints_px, camera)
    wrist, middle = seen(unproject(keypoints_px[[0, 2]], camera), region)
    assert middle[1] < wrist[1] and abs(middle[0] - wrist[0]) < 1e-3
    x, y = (box_px[:2] + box_px[2:]) / 2
    edges = seen(unproject(np.array([[300.0, y], [380, y], [x, 200], [x, 260]]), camera), region)
    width, height = np.linalg.norm(edges[1] - edges[0]), np.linalg.norm(edges[3] - edges[2])
    assert 2.6 * width == pytest.approx(REGION_PX, abs=1e-3)
    assert np.allclose(edges.mean(axis=0) - (0, 0.5 * height), 111.5, atol=1e-3)


# Distortion is removed by iteration, to some thousandths of a pixel.
@pytest.mark.parametrize(("camera", "within_px"), [(CAMERA, 1e-3), (LENS, 0.05)])
@pytest.mark.parametrize("turn", [(0.0, 0.5, 0.0), (0.3, -0.4, 0.0), (0.0, 0.0, 2.0), (-0.2, 0.5, -1.0)])
def test_a_hand_moved_off_the_axis_or_rolled_gives_the_same_region(camera, within_px, turn):
    hand_m, R = a_hand(), rotvec_to_rotmat(np.array(turn))
    plain, moved = (region_from_landmarks(project(points_m, camera), camera) for points_m in (hand_m, hand_m @ R.T))
    assert np.allclose(seen(hand_m, plain), seen(hand_m @ R.T, moved), atol=within_px)


def test_a_palm_moved_off_the_axis_or_rolled_gives_the_same_region():
    palm_m, R = palm_of(a_hand()), rotvec_to_rotmat(np.array([0.2, 0.45, 0.0]))

    def region(points_m):
        px = project(points_m, CAMERA)
        # An upright box has its edge middles where these are, once the palm is small.
        box_px = np.array([px[:4, 0].min(), px[:4, 1].min(), px[:4, 0].max(), px[:4, 1].max()])
        return region_from_palm(box_px, np.stack([px[4], px[4], px[5], *[px[5]] * 4]), CAMERA)

    upright_m = palm_m - palm_m[5]
    angle = np.arctan2(upright_m[4, 0], upright_m[4, 1])
    upright_m = upright_m @ rotvec_to_rotmat(np.array([0.0, 0.0, angle])).T
    small_m = 0.02 * upright_m + (0, 0, 0.6)
    plain, moved = region(small_m), region(small_m @ R.T)
    assert np.allclose(seen(small_m, plain), seen(small_m @ R.T, moved), atol=0.03 * REGION_PX)


def test_mirrored_landmarks_give_the_mirrored_region():
    hand_m = a_hand() + (0.1, 0.05, 0)
    mirrored_m = hand_m * (-1, 1, 1)
    plain, mirrored = (region_from_landmarks(project(points_m, CAMERA), CAMERA) for points_m in (hand_m, mirrored_m))
    assert np.allclose(seen(hand_m, plain) * (-1, 1) + (REGION_PX - 1, 0), seen(mirrored_m, mirrored), atol=1e-3)


@pytest.mark.parametrize("is_mirrored", [False, True])
@pytest.mark.parametrize("camera", [CAMERA, LENS])
def test_points_of_a_region_go_back_to_the_picture(camera, is_mirrored):
    hand_m = a_hand()
    points_px = project(hand_m, camera)
    crop_camera, R_camera_crop = region_from_landmarks(points_px, camera)
    region = Crop(np.zeros((REGION_PX, REGION_PX, 3), np.uint8), crop_camera, R_camera_crop, is_mirrored)
    inside_px = seen(hand_m, (crop_camera, R_camera_crop))
    if is_mirrored:
        inside_px = inside_px * (-1, 1) + (REGION_PX - 1, 0)
    assert np.allclose(region_to_picture(inside_px, region, camera), points_px, atol=1e-3)


def test_what_is_seen_in_a_region_lies_where_its_points_say():
    """A bright spot at one landmark is found where the region's camera puts it."""
    points_px = project(a_hand(), CAMERA)
    image = np.zeros((720, 1280, 3), np.uint8)
    column, row = np.round(points_px[MIDDLE]).astype(int)
    image[row - 2 : row + 3, column - 2 : column + 3] = 255
    crop = take_crop(image, CAMERA, *region_from_landmarks(points_px, CAMERA))
    rows, columns = np.nonzero(crop.image[..., 0] > 100)
    found_px = region_to_picture(np.array([columns.mean(), rows.mean()]), crop, CAMERA)
    assert np.abs(found_px - (column, row)).max() < 0.5


def test_points_in_one_place_still_give_a_region():
    crop_camera, R_camera_crop = region_from_landmarks(np.full((21, 2), 50.0), CAMERA)
    assert np.isfinite(crop_camera.fx) and np.isfinite(R_camera_crop).all()
