"""Portraits show the right side, the right way up, at the right size, and blue where a surface is seen from inside."""

from __future__ import annotations

import numpy as np
import pytest

from handmesh.hand_model import HandModel
from handmesh.hand_model.skinning import mirror_points, skin
from handmesh.render.portrait import VIEWS, Frame, caption, crop_white, draw_portrait, grid, left_view
from handmesh.skeleton import MANO_JOINTS

trimesh = pytest.importorskip("trimesh")

SIZE_PX = 200


def box(extents_m: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    mesh = trimesh.creation.box(extents_m)
    return np.asarray(mesh.vertices), np.asarray(mesh.faces)


def silhouette(image: np.ndarray) -> np.ndarray:
    return (image < 250).any(axis=-1)


def extent_px(mask: np.ndarray) -> tuple[int, int]:
    """Width and height of what is drawn."""
    rows, columns = np.nonzero(mask)
    return int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1


def is_blue(image: np.ndarray) -> np.ndarray:
    return image[..., 2].astype(int) - image[..., 0] > 40


@pytest.mark.parametrize(("view", "across_down"), [("palm", (2, 0)), ("back", (2, 0)), ("thumb", (1, 0)), ("little", (1, 0))])
def test_silhouettes_are_as_wide_as_the_frame_says(view: str, across_down: tuple[int, int]) -> None:
    extents_m = (0.11, 0.03, 0.07)
    vertices_m, faces = box(extents_m)
    centre_m = np.array([0.2, -0.1, 0.3])
    mask = silhouette(draw_portrait(vertices_m + centre_m, faces, view, Frame(centre_m, 0.2), SIZE_PX))
    for got_px, axis in zip(extent_px(mask), across_down, strict=True):
        assert abs(got_px - extents_m[axis] / 0.2 * SIZE_PX) <= 1.5
    rows, columns = np.nonzero(mask)
    assert abs(rows.mean() - (SIZE_PX - 1) / 2) < 0.6 and abs(columns.mean() - (SIZE_PX - 1) / 2) < 0.6


@pytest.mark.parametrize("view", VIEWS)
def test_a_closed_convex_surface_is_never_blue_and_its_inside_is(view: str) -> None:
    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.08)
    vertices_m, faces = np.asarray(ball.vertices), np.asarray(ball.faces)
    frame = Frame.around([vertices_m])
    outside = draw_portrait(vertices_m, faces, view, frame, SIZE_PX)
    assert silhouette(outside).sum() > 0.6 * SIZE_PX**2
    assert not is_blue(outside).any()
    inside = draw_portrait(vertices_m, faces[:, ::-1], view, frame, SIZE_PX)
    assert is_blue(inside)[silhouette(inside)].mean() > 0.98


def with_coloured_thumb(model: HandModel) -> np.ndarray:
    """(V, 3): green thumb, red hand."""
    weight = model.skin_weights[:, [MANO_JOINTS.index(f"thumb_{joint}") for joint in ("mcp", "ip")]].sum(axis=1)
    return np.where(weight[:, None] > 0.9, [0.0, 1.0, 0.0], [1.0, 0.0, 0.0])


@pytest.mark.parametrize("is_right", [True, False])
def test_the_thumb_is_on_its_side_and_fingers_point_up(is_right: bool, hand_model: HandModel) -> None:
    vertices_m = hand_model.template_m if is_right else mirror_points(hand_model.template_m)
    faces, frame = hand_model.faces_for(is_right), Frame.around([vertices_m])
    # Looking at one's own right palm, fingers up, the thumb is to the right; seen from the back, to the left.
    for view, thumb_to_the_right in (("palm", is_right), ("back", not is_right)):
        image = draw_portrait(
            vertices_m, faces, VIEWS[view] if is_right else left_view(view), frame, SIZE_PX, with_coloured_thumb(hand_model)
        ).astype(int)
        drawn = silhouette(image)
        thumb = drawn & (image[..., 1] > image[..., 0] + 30)
        assert thumb.sum() > 50
        offset_px = np.nonzero(thumb)[1].mean() - np.nonzero(drawn)[1].mean()
        assert abs(offset_px) > 15 and (offset_px > 0) == thumb_to_the_right
        # Fingers part at the top: more runs of skin there than at the wrist.
        rows = np.flatnonzero(drawn.any(axis=1))
        runs = [np.count_nonzero(np.diff(np.r_[0, drawn[row].astype(int)]) > 0) for row in (rows[len(rows) // 4], rows[-5])]
        assert runs[0] >= 3 and runs[1] == 1, runs


@pytest.mark.parametrize("view", VIEWS)
def test_a_left_hand_is_the_mirror_image(view: str, hand_model: HandModel) -> None:
    vertices_m = skin(hand_model, hand_model.mean_rotmats(), np.zeros(10, np.float32))
    frame = Frame.around([vertices_m])
    right = draw_portrait(vertices_m, hand_model.faces, view, frame, SIZE_PX)
    mirrored = Frame(mirror_points(frame.centre_m), frame.width_m)
    left = draw_portrait(mirror_points(vertices_m), hand_model.faces_for(False), left_view(view), mirrored, SIZE_PX)
    different = silhouette(left) != silhouette(right)[:, ::-1]
    assert different.sum() < 0.01 * silhouette(right).sum()
    assert abs(int(is_blue(left).sum()) - int(is_blue(right).sum())) < 0.01 * silhouette(right).sum()


@pytest.mark.parametrize("view", ["palm", "back", "thumb", "little"])
def test_a_frame_around_hands_holds_them(view: str, hand_model: HandModel) -> None:
    frame = Frame.around([hand_model.template_m])
    drawn = silhouette(draw_portrait(hand_model.template_m, hand_model.faces, view, frame, SIZE_PX))
    assert drawn.any()
    assert not drawn[[0, -1]].any() and not drawn[:, [0, -1]].any()


def test_what_is_outside_the_frame_is_not_drawn(hand_model: HandModel) -> None:
    frame = Frame(np.array([0.0, 0.0, 5.0]), 0.2)
    assert (draw_portrait(hand_model.template_m, hand_model.faces, "palm", frame, 40) == 255).all()


def test_skin_is_darker_where_skin_is_near() -> None:
    mesh = trimesh.creation.box((0.2, 0.01, 0.2))
    for _ in range(4):
        mesh = mesh.subdivide()
    plate, faces = np.asarray(mesh.vertices), np.asarray(mesh.faces)
    wall, wall_faces = box((0.2, 0.02, 0.01))
    both = np.concatenate([plate, wall - [0, 0.015, 0]])
    frame = Frame(np.zeros(3), 0.2)
    alone = draw_portrait(plate, faces, "palm", frame, 100).astype(int)
    beside = draw_portrait(both, np.concatenate([faces, wall_faces + len(plate)]), "palm", frame, 100).astype(int)
    # Near the wall in the middle, and far from it.
    assert (alone[50, 54] - beside[50, 54]).min() > 20
    assert np.abs(alone[50, 90] - beside[50, 90]).max() <= 2


def test_captions_and_grids_keep_the_pictures() -> None:
    picture = np.random.default_rng(0).integers(0, 200, (30, 60, 3), dtype=np.uint8)
    for text in ("palm", "a caption of 60 px"):
        captioned = caption(picture, text, 20)
        assert captioned.shape == (50, 60, 3)
        np.testing.assert_array_equal(captioned[:30], picture)
        strip = captioned[30:]
        assert (strip < 170).any(), "no legible text"
        assert (strip[:, [0, -1]] == 255).all(), "text that is cut off"
    whole = grid([[picture, picture], [picture, picture]], gap_px=6)
    assert whole.shape == (66, 126, 3)
    np.testing.assert_array_equal(whole[36:, 66:], picture)
    assert (whole[:, 60:66] == 255).all() and (whole[30:36] == 255).all()


def test_white_is_cut_alike_from_all_pictures() -> None:
    pictures = [np.full((50, 80, 3), 255, np.uint8) for _ in range(2)]
    pictures[0][10:20, 30:40] = 0
    pictures[1][15:30, 35:60] = 0
    cut = crop_white(pictures, margin_px=2)
    assert [image.shape for image in cut] == [(24, 34, 3)] * 2
    assert crop_white(pictures, axes=[0], margin_px=2)[0].shape == (24, 80, 3)
    assert crop_white(pictures, axes=[1], margin_px=50)[0].shape == (50, 80, 3)
    assert sum(int((image == 0).all(axis=-1).sum()) for image in cut) == 100 + 375
