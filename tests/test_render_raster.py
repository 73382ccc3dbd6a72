"""The z-buffer against slow twins: a point in a triangle, pixel by pixel, and ray casting."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numba
import numpy as np
import pytest

from handmesh.geometry.camera import camera_from_fov, project, unproject
from handmesh.render import raster
from handmesh.render.overlay import draw_mask, draw_overlay
from handmesh.render.raster import blend_triangles, label_pixels

WIDTH, HEIGHT = 48, 40
WHOLE = (0, 0, WIDTH, HEIGHT)


def _labels_naive(screen, faces, points):
    """The nearest triangle at each of (N, 2) points, -1 for none, in double precision; and whether the answer is on an edge or a tie."""
    nearest, best = np.full(len(points), -1), np.zeros(len(points))
    is_close = np.zeros(len(points), bool)
    for index, face in enumerate(faces):
        corners = screen[face].astype(np.float64)
        if (corners[:, 2] <= 0).any():
            continue
        system = np.concatenate([corners[:, :2].T, np.ones((1, 3))])
        if abs(np.linalg.det(system)) < 1e-9:
            continue
        weights = np.linalg.solve(system, np.concatenate([points.T, np.ones((1, len(points)))]))
        inside = (weights >= 0).all(axis=0)
        value = weights.T @ corners[:, 2]
        is_close |= (np.abs(weights).min(axis=0) < 1e-3) | (inside & (np.abs(value - best) < 1e-4))
        wins = inside & (value > best)
        nearest[wins], best[wins] = index, value[wins]
    return nearest, is_close


def _soup(seed, count=30):
    rng = np.random.default_rng(seed)
    screen = np.column_stack([rng.uniform(-15, 60, (3 * count, 2)), rng.uniform(0.5, 2, 3 * count)]).astype(np.float32)
    return screen, np.arange(3 * count, dtype=np.int32).reshape(-1, 3)


@pytest.mark.parametrize("seed", range(4))
def test_labels_are_those_of_the_slow_twin(seed):
    screen, faces = _soup(seed)
    screen[7, 2] = 0  # its triangle is dropped
    mask = np.full((HEIGHT, WIDTH), 200, np.uint8)
    label_pixels(mask, screen, faces, np.arange(len(faces), dtype=np.uint8), WHOLE)
    rows, columns = np.indices((HEIGHT, WIDTH))
    expected, is_close = _labels_naive(screen, faces, np.stack([columns, rows], axis=-1).reshape(-1, 2).astype(float))
    agrees = mask.ravel() == np.where(expected < 0, 200, expected)
    assert (agrees | is_close).all() and is_close.mean() < 0.1
    assert 2 not in mask


def test_a_posed_hand_is_that_of_the_slow_twin(hand_model, make_hand):
    camera = camera_from_fov(96, 72, 65)
    vertices_m = make_hand(hand_model, camera, root_m=(0.01, 0.0, 0.25)).vertices_m
    screen = np.column_stack([project(vertices_m, camera), 1 / vertices_m[:, 2]]).astype(np.float32)
    mask, labels = np.zeros((72, 96), np.uint8), (np.arange(len(hand_model.faces)) % 255 + 1).astype(np.uint8)
    label_pixels(mask, screen, np.ascontiguousarray(hand_model.faces, np.int32), labels, (0, 0, 96, 72))
    rows, columns = np.indices(mask.shape)
    nearest, is_close = _labels_naive(screen, hand_model.faces, np.stack([columns, rows], axis=-1).reshape(-1, 2).astype(float))
    agrees = mask.ravel() == np.where(nearest < 0, 0, labels[nearest])
    assert (mask > 0).sum() > 400
    assert (agrees | is_close).all() and agrees.mean() > 0.99


@pytest.mark.parametrize("seed", range(3))
def test_edges_have_the_shares_that_many_samples_find(seed):
    """Black and white triangles, one behind the other: each pixel is as bright as the white part of it, to within a sample."""
    screen, faces = _soup(seed, count=6)
    # None pierces another: along such a line nothing is nearer than its neighbour, and no edge is found.
    screen[:, 2] = np.repeat(np.linspace(0.5, 2, len(faces)), 3)
    is_white = np.arange(len(faces)) % 2 == 0
    image, white = np.zeros((HEIGHT, WIDTH, 3), np.uint8), np.zeros((len(screen), 3), np.float32)
    white[faces[is_white]] = 255
    blend_triangles(image, screen, faces, white, 1.0, WHOLE)
    steps = (np.arange(8) + 0.5) / 8 - 0.5
    across, down = (np.arange(count)[:, None] + steps for count in (WIDTH, HEIGHT))
    nearest, _ = _labels_naive(screen, faces, np.stack(np.meshgrid(across, down), axis=-1).reshape(-1, 2))
    shares = ((nearest >= 0) & is_white[nearest]).reshape(HEIGHT, 8, WIDTH, 8).mean(axis=(1, 3))
    is_edge = (shares > 0.05) & (shares < 0.95)
    off = np.abs(image[..., 0] / 255 - shares)
    # One sample a pixel would be off by a quarter, four are by a tenth; a sliver between the centres may be missed.
    assert is_edge.sum() > 100 and off[is_edge].mean() < 0.15
    assert (off > 0.3).mean() < 0.003


@pytest.mark.parametrize("seed", range(3))
def test_colours_are_linear_and_edges_are_shares(seed):
    """One triangle over grey: inside its colour is linear in x and y, and in all it covers its own area."""
    rng = np.random.default_rng(seed)
    screen = np.array([[5.2, 4.1, 1], [42.7, 9.4, 2], [17.3, 36.6, 1.5]], np.float32)
    rgb = rng.uniform(0, 255, (3, 3)).astype(np.float32)
    image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    faces = np.array([[0, 1, 2]], np.int32)
    blend_triangles(image, screen, faces, rgb, 1.0, WHOLE)
    rows, columns = np.indices((HEIGHT, WIDTH))
    system = np.concatenate([screen[:, :2].T, np.ones((1, 3))])
    weights = np.linalg.solve(system, np.stack([columns.ravel(), rows.ravel(), np.ones(WIDTH * HEIGHT)]))
    inside = weights.min(axis=0) > 0.05
    np.testing.assert_allclose(image.reshape(-1, 3)[inside], weights.T[inside] @ rgb, atol=0.6)
    # White on black, the sum of all shares is the area.
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    blend_triangles(image, screen, faces, np.full((3, 3), 255, np.float32), 1.0, WHOLE)
    (ax, ay), (bx, by), (cx, cy) = screen[:, :2].astype(float)
    area = abs((bx - ax) * (cy - ay) - (by - ay) * (cx - ax)) / 2
    assert (image[..., 0] / 255).sum() == pytest.approx(area, rel=0.01)


def test_a_mesh_has_no_pinholes():
    """Neighbours share edges: where a sheet of small triangles is drawn in white, no pixel inside may be less than white."""
    rng = np.random.default_rng(0)
    side = 24
    rows, columns = np.indices((side, side))
    points = np.stack([columns, rows], axis=-1).reshape(-1, 2) * 2.1 + rng.uniform(-0.7, 0.7, (side * side, 2)) - 1 + 1000
    screen = np.column_stack([points, np.ones(side * side)]).astype(np.float32)
    corner = (rows[:-1, :-1] * side + columns[:-1, :-1]).ravel()
    faces = np.concatenate([np.stack([corner, corner + 1, corner + side], 1), np.stack([corner + 1, corner + side + 1, corner + side], 1)])
    image = np.zeros((1050, 1050, 3), np.uint8)
    blend_triangles(image, screen, faces.astype(np.int32), np.full((side * side, 3), 255, np.float32), 1.0, (990, 990, 1050, 1050))
    assert (image[1002:1044, 1002:1044] == 255).all()


def test_only_the_box_is_drawn_on_whatever_its_height():
    screen, faces = _soup(5)
    colours = np.full((len(screen), 3), 255, np.float32)
    box = (11, 7, 31, 29)
    image, whole = np.zeros((HEIGHT, WIDTH, 3), np.uint8), np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    blend_triangles(image, screen, faces, colours, 1.0, box)
    blend_triangles(whole, screen, faces, colours, 1.0, WHOLE)
    inside = np.zeros((HEIGHT, WIDTH), bool)
    inside[7:29, 11:31] = True
    assert not image[~inside].any()
    # But for its rim, where what is an edge is not known.
    assert (image[8:28, 12:30] == whole[8:28, 12:30]).all()


def test_bands_do_not_show():
    """A picture of many bands equals the same triangles drawn in narrow strips of one band each."""
    rng = np.random.default_rng(1)
    screen = np.column_stack([rng.uniform(0, 900, (60, 2)), rng.uniform(0.5, 2, 60)]).astype(np.float32)
    faces = np.arange(60, dtype=np.int32).reshape(-1, 3)
    colours = rng.uniform(0, 255, (60, 3)).astype(np.float32)
    whole, strips = np.zeros((900, 900, 3), np.uint8), np.zeros((900, 900, 3), np.uint8)
    blend_triangles(whole, screen, faces, colours, 0.9, (0, 0, 900, 900))
    for x in range(0, 900, 30):
        blend_triangles(strips, screen, faces, colours, 0.9, (x, 0, x + 30, 900))
    rim = np.zeros(900, bool)
    rim[np.r_[0:900:30, 29:900:30]] = True
    assert (whole[:, ~rim] == strips[:, ~rim]).all()


@pytest.mark.parametrize("value", [1e7, -1e7, 3e30])
def test_huge_coordinates_neither_hang_nor_crash(value):
    screen = np.array([[value, 5, 1], [20, -value, 1], [10, 30, 1], [5, 5, 1], [5, 5, 1], [9, 9, 1]], np.float32)
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    blend_triangles(image, screen, np.array([[0, 1, 2], [3, 4, 5]], np.int32), np.full((6, 3), 99, np.float32), 1.0, WHOLE)
    assert set(np.unique(image)) <= set(range(100))


@pytest.mark.parametrize("is_right", [True, False])
def test_a_hand_is_where_rays_meet_it(is_right, hand_model, make_hand):
    o3d = pytest.importorskip("open3d")
    camera = camera_from_fov(640, 480, 65)
    hand = make_hand(hand_model, camera, root_m=(0.02, 0.01, 0.35), is_right=is_right)
    scene = o3d.t.geometry.RaycastingScene()
    faces = hand_model.faces_for(is_right).astype(np.uint32)
    scene.add_triangles(o3d.core.Tensor(np.asarray(hand.vertices_m, np.float32)), o3d.core.Tensor(faces))
    rows, columns = np.indices((480, 640))
    rays = unproject(np.stack([columns, rows], axis=-1), camera)
    hits = scene.cast_rays(o3d.core.Tensor(np.concatenate([np.zeros_like(rays), rays], axis=-1).astype(np.float32)))
    expected = np.isfinite(hits["t_hit"].numpy())
    mask = draw_mask((480, 640), [hand], hand_model, camera) > 0
    assert expected.sum() > 5000
    assert (mask != expected).sum() <= 3


@pytest.mark.parametrize("where", [1e17, 1e25, np.nan, np.inf, -np.inf])
def test_a_vertex_that_is_nowhere_leaves_the_rest(where, hand_model, make_hand):
    camera = camera_from_fov(640, 480, 65)
    hand = make_hand(hand_model, camera, root_m=(0, 0, 0.4))
    expected = draw_mask((480, 640), [hand], hand_model, camera) > 0
    vertices_m = hand.vertices_m.copy()
    vertices_m[100, 0] = where
    drawn = draw_mask((480, 640), [replace(hand, vertices_m=vertices_m)], hand_model, camera) > 0
    assert 0.9 * expected.sum() < (drawn & expected).sum() and (drawn & ~expected).sum() < 50
    vertices_m[:, 0] = where
    assert not draw_mask((480, 640), [replace(hand, vertices_m=vertices_m)], hand_model, camera).any()


def test_in_place_draws_on_the_picture_itself(hand_model, make_hand):
    camera = camera_from_fov(640, 480, 65)
    hand = make_hand(hand_model, camera, root_m=(0, 0, 0.4))
    image = np.full((480, 640, 3), 90, np.uint8)
    expected = draw_overlay(image, [hand], hand_model, camera)
    assert (image == 90).all() and (expected != 90).any()
    drawn = draw_overlay(image, [hand], hand_model, camera, in_place=True)
    assert drawn is image and (image == expected).all()
    # What cannot be written to is copied.
    frozen = np.full((480, 640, 3), 90, np.uint8)
    frozen.flags.writeable = False
    assert (draw_overlay(frozen, [hand], hand_model, camera, in_place=True) == expected).all() and (frozen == 90).all()
    slanted = np.full((480, 1280, 3), 90, np.uint8)[:, ::2]
    assert (draw_overlay(slanted, [hand], hand_model, camera, in_place=True) == expected).all()


def test_hands_apart_and_hands_that_meet_are_drawn_alike(hand_model, make_hand):
    """Three hands in a row: the outer two meet only through the middle one."""
    camera = camera_from_fov(640, 480, 65)
    hands = [make_hand(hand_model, camera, root_m=(x, 0, 0.6), is_right=x < 0) for x in (-0.2, 0.2, 0.0)]
    masks = [draw_mask((480, 640), order, hand_model, camera) > 0 for order in (hands, hands[::-1], [hands[0], hands[2], hands[1]])]
    alone = np.any([draw_mask((480, 640), [hand], hand_model, camera) > 0 for hand in hands], axis=0)
    assert all((mask == alone).all() for mask in masks)


def test_pictures_drawn_at_the_same_time_are_those_drawn_in_turn(hand_model, make_hand):
    """The kernels run without Python's lock."""
    camera = camera_from_fov(640, 480, 65)
    hands = [make_hand(hand_model, camera, root_m=(0.01 * index, 0, 0.3 + 0.05 * index)) for index in range(8)]

    def draw(hand):
        return draw_overlay(np.full((480, 640, 3), 90, np.uint8), [hand], hand_model, camera, in_place=True)

    with ThreadPoolExecutor(4) as pool:
        assert all((drawn == draw(hand)).all() for hand, drawn in zip(hands, pool.map(draw, hands), strict=True))


def test_where_nothing_can_be_kept_kernels_are_compiled_each_time(monkeypatch):
    njit = numba.njit

    def without_a_folder(**options):
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return njit(**options)

    monkeypatch.setattr(numba, "njit", without_a_folder)
    assert raster._compile(lambda x: x + 1)(1) == 2
