"""Laws of light, places and the camera's faults."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from handmesh.errors import UserError
from handmesh.geometry.rotation import rotvec_to_rotmat
from handmesh.synthetic import rooms
from handmesh.synthetic.config import SynthConfig
from handmesh.synthetic.faults import grain_of, motion_blurred, take_picture
from handmesh.synthetic.light import (
    LUMINANCE,
    Places,
    background,
    irradiance,
    load_places,
    panorama_of,
    panorama_paths,
    panorama_view,
    photo_paths,
    procedural_rooms,
    sample_light,
    sample_view,
    split_lamp,
)

CONFIG = SynthConfig(size_px=64)
SKIN = np.array([0.4, 0.25, 0.18])
FAULTLESS = replace(
    CONFIG, motion_blur=0.0, defocus=0.0, low_resolution=0.0, noise=0.0, jpeg=0.0, grey=0.0, exposure_sd=0.0, white_balance_sd=0.0
)


def _direction_to_pixel(direction: np.ndarray, height: int) -> tuple[int, int]:
    lon = np.arctan2(direction[0], direction[2]) % (2 * np.pi)
    lat = np.arcsin(direction[1])
    return int((lat / np.pi + 0.5) * height), int(lon / np.pi * height)


def _sunny(direction: np.ndarray, strength: float = 300.0, height: int = 128) -> np.ndarray:
    """An even sky with a sun of a few degrees in `direction`."""
    lat = (np.arange(height) + 0.5) / height * np.pi - np.pi / 2
    lon = (np.arange(2 * height) + 0.5) / height * np.pi
    x, y = np.cos(lat)[:, None] * np.sin(lon), np.repeat(np.sin(lat)[:, None], 2 * height, axis=1)
    towards = np.stack([x, y, np.cos(lat)[:, None] * np.cos(lon)], axis=2) @ direction
    rgb = np.full((height, 2 * height, 3), 0.5, np.float32)
    rgb[towards > np.cos(np.radians(4))] = strength * np.array([1.0, 0.9, 0.7])
    return rgb


def _shed(forms: np.ndarray, normal: np.ndarray) -> np.ndarray:
    n = np.append(normal, 1)
    return np.einsum("i,cij,j->c", n, forms, n)


def _unit(rng: np.random.Generator) -> np.ndarray:
    v = rng.normal(0, 1, 3)
    return v / np.linalg.norm(v)


@pytest.fixture(scope="module")
def places() -> Places:
    return Places((panorama_of(_sunny(np.array([0.6, -0.64, 0.48]))), *procedural_rooms(2)), ())


def _backgrounds(places: Places, config: SynthConfig, count: int = 4) -> np.ndarray:
    look = np.random.default_rng(5)
    return np.stack([background(look, places, places.panoramas[0], np.eye(3), 64, 64, 120.0, SKIN, config) for _ in range(count)])


def _pictures(config: SynthConfig, linear: np.ndarray, count: int = 6, seed: int = 1) -> np.ndarray:
    look = np.random.default_rng(seed)
    return np.stack([take_picture(look, linear, config) for _ in range(count)]).astype(np.float64)


def _scene() -> np.ndarray:
    """A picture of soft and sharp edges, wider than high."""
    rng = np.random.default_rng(0)
    return cv2.resize(rng.uniform(0.05, 0.7, (9, 12, 3)).astype(np.float32), (96, 64), interpolation=cv2.INTER_NEAREST)


def test_even_light_lights_evenly():
    forms = irradiance(np.full((64, 128, 3), 0.7, np.float32))
    rng = np.random.default_rng(0)
    for _ in range(5):
        assert _shed(forms, _unit(rng)) == pytest.approx(np.full(3, 0.7), rel=0.01)
    sky = np.zeros((64, 128, 3), np.float32)
    sky[:32] = 1
    assert _shed(irradiance(sky), np.array([0, -1, 0]))[0] > 0.9 > 0.1 > _shed(irradiance(sky), np.array([0, 1, 0]))[0]


def test_an_even_place_has_no_lamp_and_one_brightness():
    furnace = panorama_of(np.full((64, 128, 3), 3.0, np.float32))
    assert furnace.lamp_rgb == pytest.approx(0) and furnace.shade == pytest.approx(furnace.ambient)
    light = sample_light(np.random.default_rng(0), furnace, sample_view(np.random.default_rng(1), CONFIG), replace(CONFIG, lamp_share=0.0))
    rng = np.random.default_rng(2)
    shed = np.stack([_shed(light.ambient, _unit(rng)) for _ in range(6)])
    assert shed == pytest.approx(np.full((6, 3), shed.mean()), rel=0.02)


def test_a_planted_sun_is_found_and_not_counted_twice():
    rng = np.random.default_rng(3)
    for direction in [_unit(rng) for _ in range(6)] + [np.array([0.0, -0.995, 0.0999])]:
        direction = direction / np.linalg.norm(direction)
        rgb = _sunny(direction)
        found, lamp_rgb, rest = split_lamp(rgb)
        assert np.degrees(np.arccos(min(found @ direction, 1.0))) < 2
        assert lamp_rgb[0] > lamp_rgb[1] > lamp_rgb[2] and rest.max() < 2.5
        # What the sun sheds on a surface that faces it: its radiance times its solid angle, over pi.
        assert lamp_rgb[0] == pytest.approx(300 * 2 * (1 - np.cos(np.radians(4))), rel=0.1)
        # Mean over all normals of what falls on a surface: a quarter of a lamp's, and the forms' own mean.
        whole, shade = irradiance(rgb), irradiance(rest)
        mean = [np.trace(form[:, :3, :3], axis1=1, axis2=2) / 3 + form[:, 3, 3] for form in (whole, shade)]
        assert mean[1] + lamp_rgb / 4 == pytest.approx(mean[0], rel=0.05)


def test_the_lamp_of_a_place_turns_with_the_camera(places):
    place, R = places.panoramas[0], sample_view(np.random.default_rng(4), CONFIG)
    look = np.random.default_rng(0)
    lights = [sample_light(look, place, R, replace(CONFIG, lamp_share=1.0)) for _ in range(40)]
    own = [light for light in lights if np.allclose(R @ light.direction, place.lamp_direction, atol=1e-4)]
    assert 10 < len(own) < 35
    assert all(light.ambient.dtype == np.float32 and light.rgb.dtype == np.float32 for light in lights)


def test_lamp_share_is_obeyed_and_light_is_about_one(places):
    look = np.random.default_rng(7)
    for place in places.panoramas:
        none = [sample_light(look, place, sample_view(look, CONFIG), replace(CONFIG, lamp_share=0.0)) for _ in range(20)]
        all_ = [sample_light(look, place, sample_view(look, CONFIG), replace(CONFIG, lamp_share=1.0)) for _ in range(40)]
        assert all(not light.rgb.any() for light in none) and all(light.rgb.min() > 0 for light in all_)
        towards = np.array([0, 0, -1.0])
        bright = [(_shed(light.ambient, towards) + max(0, light.direction @ towards) * light.rgb) @ LUMINANCE for light in none + all_]
        assert 0.6 < np.median(bright) < 1.4 and min(bright) > 0.03 and max(bright) < 2.5
    # From flat to hard: the lamp's part of all light varies.
    parts = [light.rgb.mean() / (light.rgb.mean() + np.abs(light.ambient[:, 3, 3]).mean()) for light in all_]
    assert min(parts) < 0.4 and max(parts) > 0.6


def test_a_bright_dot_is_seen_where_the_camera_says():
    rng = np.random.default_rng(5)
    for _ in range(8):
        R, focal_px = sample_view(rng, CONFIG) @ rotvec_to_rotmat(rng.normal(0, 0.3, 3)), rng.uniform(60, 150)
        pixel = rng.uniform((15, 10), (80, 53))
        ray = np.array([(pixel[0] - 47.5) / focal_px, (pixel[1] - 31.5) / focal_px, 1.0])
        direction = R @ ray / np.linalg.norm(ray)
        picture = panorama_view(_sunny(direction, height=512), R, focal_px, 96, 64)
        assert picture.shape == (64, 96, 3)
        weight = picture[..., 0] - 0.5
        seen = np.array([(weight * np.arange(96)).sum(), (weight * np.arange(64)[:, None]).sum()]) / weight.sum()
        assert seen == pytest.approx(pixel, abs=0.75)


def test_backgrounds_come_from_where_the_shares_say(places, tmp_path):
    photo = np.zeros((90, 160, 3), np.uint8)
    photo[..., 0], photo[..., 2] = np.linspace(250, 10, 90)[:, None], np.linspace(10, 250, 90)[:, None]
    (tmp_path / "deep" / "er").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "deep" / "er" / "a.PNG"), photo[..., ::-1])
    with_photos = replace(places, photos=tuple(photo_paths(tmp_path)))
    shares = {
        (photo_share, share): _backgrounds(with_photos, replace(CONFIG, photo_share=photo_share, panorama_share=share))
        for photo_share in (0.0, 1.0)
        for share in (0.0, 1.0)
    }
    # Photos are upright: what was above stays above.
    for share in (0.0, 1.0):
        top, low = shares[1.0, share][:, :8].mean(axis=(1, 2)), shares[1.0, share][:, -8:].mean(axis=(1, 2))
        assert (top[:, 0] > 1.3 * low[:, 0]).all() and (low[:, 2] > 1.3 * top[:, 2]).all()
    # Views of the place are of its colour (an even grey sky); the others are not.
    tint = {key: np.ptp(value.mean(axis=(1, 2)), axis=1) / value.mean(axis=(1, 2, 3)) for key, value in shares.items()}
    assert (tint[0.0, 1.0] < 0.5).all() and tint[0.0, 0.0].max() > 0.1 and not np.array_equal(shares[0.0, 0.0], shares[0.0, 1.0])
    assert np.array_equal(_backgrounds(places, replace(CONFIG, photo_share=1.0)), _backgrounds(places, replace(CONFIG, photo_share=0.0)))
    # A torn photo gives way to the next; one that is none is refused before anything is drawn.
    whole, torn = with_photos.photos[0], tmp_path / "torn.png"
    torn.write_bytes(whole.read_bytes()[:40])
    only = replace(CONFIG, photo_share=1.0)
    assert np.array_equal(
        _backgrounds(replace(places, photos=(torn, whole)), only), _backgrounds(replace(places, photos=(whole, whole)), only)
    )
    with pytest.raises(UserError, match="none in"):
        _backgrounds(replace(places, photos=(torn,)), only)
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError, match="which is none") as caught:
        photo_paths(tmp_path)
    assert "\n" not in str(caught.value)


def test_backgrounds_have_the_size_and_a_fit_exposure(places):
    look = np.random.default_rng(8)
    for share in (0.0, 1.0):
        config = replace(CONFIG, panorama_share=share)
        views = [(place, sample_view(look, CONFIG)) for place in places.panoramas * 6]
        pictures = [background(look, places, place, R, 96, 64, 70.0, SKIN, config) for place, R in views]
        assert all(picture.shape == (64, 96, 3) and picture.dtype == np.float32 and picture.flags.c_contiguous for picture in pictures)
        means = [float(np.minimum(picture, 2).mean()) for picture in pictures]
        assert all(np.isfinite(picture).all() and picture.min() >= 0 for picture in pictures)
        assert 0.06 < np.median(means) < 0.6


def test_a_wide_frame_shows_the_place_at_its_own_focal_length():
    # The camera's focal length is kept where it is wide: a dot ends up where the camera law says.
    direction = np.array([0.3, 0.1, 0.95]) / np.linalg.norm([0.3, 0.1, 0.95])
    place = panorama_of(_sunny(direction, 40.0, height=512))
    picture = background(
        np.random.default_rng(0), Places((place,), ()), place, np.eye(3), 128, 96, 80.0, SKIN, replace(CONFIG, panorama_share=1.0)
    )
    weight = np.where(picture[..., 0] > 0.5 * picture[..., 0].max(), 1.0, 0.0)
    seen = np.array([(weight * np.arange(128)).sum(), (weight * np.arange(96)[:, None]).sum()]) / weight.sum()
    assert seen == pytest.approx(np.array([63.5, 47.5]) + 80 * direction[:2] / direction[2], abs=1.5)


def test_procedural_rooms_are_places(monkeypatch):
    monkeypatch.setattr(rooms, "_HEIGHT", 96)
    first, again = procedural_rooms(8), procedural_rooms(8)
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a.rgb, b.rgb) and np.array_equal(a.ambient, b.ambient)
        assert np.isfinite(a.rgb).all() and a.rgb.min() >= 0 and a.rgb.shape == (96, 192, 3)
        # Windows, lamps and suns are much brighter than walls, and there is something to see.
        assert a.rgb.max() > 3 * np.median(a.rgb) and a.rgb.std() > 0.2
    levels = [float(panorama.lamp_rgb @ LUMINANCE) for panorama in first]
    assert max(levels) > 0.5 and not np.array_equal(first[0].rgb, first[1].rgb)
    with pytest.raises(UserError, match="--hdri"):
        load_places(None, None, replace(CONFIG, panoramas=("not_there.hdr",)))


def test_a_dark_studio_keeps_its_lamp():
    rgb = np.zeros((64, 128, 3), np.float32)
    rgb[10:20, 30:40] = 5
    panorama = panorama_of(rgb)
    assert panorama.rgb.max() > 1 and 0.2 < panorama.ambient.max() < 50


def test_folders_and_lists_of_panoramas(tmp_path):
    sun = _sunny(np.array([0.0, 0.0, 1.0]))
    for name in ("b.hdr", "a.hdr", "lobby.hdr"):
        cv2.imwrite(str(tmp_path / name), sun)
    names = lambda config: [path.name for path in panorama_paths(tmp_path, config)]  # noqa: E731
    assert names(CONFIG) == ["a.hdr", "b.hdr"]
    assert names(replace(CONFIG, held_out_panoramas=())) == ["a.hdr", "b.hdr", "lobby.hdr"]
    assert names(replace(CONFIG, panoramas=("lobby.hdr",))) == ["lobby.hdr"]
    loaded = load_places(tmp_path, None, CONFIG)
    assert len(loaded.panoramas) == 2 and loaded.photos == () and loaded.panoramas[0].lamp_direction @ [0, 0, 1] > 0.99


def test_bad_folders_are_one_line(tmp_path):
    empty, held, broken, narrow = (tmp_path / name for name in ("empty", "held", "broken", "narrow"))
    for folder in (empty, held, broken, narrow):
        folder.mkdir()
    cv2.imwrite(str(held / "lobby.hdr"), np.ones((8, 16, 3), np.float32))
    (broken / "x.hdr").write_bytes(b"#?RADIANCE\nnothing")
    cv2.imwrite(str(narrow / "x.hdr"), np.ones((16, 16, 3), np.float32))
    for make, says in (
        (lambda: load_places(empty, None, CONFIG), "has none"),
        (lambda: load_places(tmp_path / "missing", None, CONFIG), "no folder"),
        (lambda: load_places(held, None, CONFIG), "held-out"),
        (lambda: load_places(held, None, replace(CONFIG, panoramas=("lobby.hdr", "z.hdr", "y.hdr"))), "y.hdr, z.hdr"),
        (lambda: load_places(broken, None, CONFIG), "cannot be read"),
        (lambda: load_places(narrow, None, CONFIG), "twice as wide"),
        (lambda: photo_paths(empty), "has none"),
        (lambda: photo_paths(tmp_path / "missing"), "no folder"),
    ):
        with pytest.raises(UserError, match=says) as caught:
            make()
        assert "\n" not in str(caught.value)


def test_each_fault_is_there_when_asked_for_and_strong_as_asked():
    scene = _scene()
    clean = _pictures(FAULTLESS, scene)
    edges = lambda pictures: np.square(np.diff(pictures, axis=2)).mean()  # noqa: E731
    for weak, strong in (
        (dict(motion_blur=1.0, motion_blur_px=(3.0, 3.0)), dict(motion_blur=1.0, motion_blur_px=(14.0, 14.0))),
        (dict(defocus=1.0, defocus_px=(1.0, 1.0)), dict(defocus=1.0, defocus_px=(5.0, 5.0))),
        (dict(low_resolution=1.0, resolution=(0.5, 0.5)), dict(low_resolution=1.0, resolution=(0.2, 0.2))),
    ):
        assert edges(clean) > edges(_pictures(replace(FAULTLESS, **weak), scene)) > edges(_pictures(replace(FAULTLESS, **strong), scene))
    even = np.full((64, 96, 3), 0.2, np.float32)
    grainy = [_pictures(replace(FAULTLESS, noise=1.0, noise_sd=(sd, sd)), even, 16).std(axis=2).mean() for sd in (0.0, 0.01, 0.04)]
    assert grainy[0] < 2 < 1.8 * grainy[1] < grainy[2]
    coarse = [np.abs(_pictures(replace(FAULTLESS, jpeg=1.0, jpeg_quality=(q, q)), scene) - clean).mean() for q in (95.0, 40.0, 12.0)]
    assert 0 < coarse[0] < coarse[1] < coarse[2]
    for name in ("exposure_sd", "white_balance_sd"):
        spread = []
        for sd in (0.0, 0.3):
            pictures = _pictures(replace(FAULTLESS, **{name: sd}), even, 24)
            value = pictures.mean(axis=(1, 2, 3)) if name == "exposure_sd" else (pictures[..., 0] - pictures[..., 2]).mean(axis=(1, 2))
            spread.append(value.std())
        assert spread[1] > spread[0] + 10
    grey = _pictures(replace(CONFIG, grey=1.0), scene)
    assert np.array_equal(grey[..., 0], grey[..., 1]) and np.array_equal(grey[..., 0], grey[..., 2])
    assert np.abs(clean[..., 0] - clean[..., 2]).mean() > 5


def test_pictures_depend_on_their_chance_alone():
    scene = _scene()
    assert np.array_equal(_pictures(CONFIG, scene, 20), _pictures(CONFIG, scene, 20))
    assert not np.array_equal(_pictures(CONFIG, scene), _pictures(CONFIG, scene, seed=2))
    picture = take_picture(np.random.default_rng(0), scene, CONFIG)
    assert picture.shape == (64, 96, 3) and picture.dtype == np.uint8 and picture.flags.c_contiguous


def test_more_light_is_brighter_and_black_stays_dark():
    steps = np.repeat(np.array([0, 0.02, 0.1, 0.3, 0.8, 3.0], np.float32), 16)
    linear = np.ascontiguousarray(np.broadcast_to(steps[None, :, None], (64, 96, 3)))
    for picture in _pictures(FAULTLESS, linear, 12):
        middles = picture[32, 8::16].mean(axis=1)
        assert (np.diff(middles) >= 0).all() and middles[0] < 40 and middles[-1] > 190


def test_grain_is_white_and_as_alike_between_channels_as_asked():
    for likeness in (0.2, 0.8):
        grain = grain_of(7, 128, 160, likeness)
        assert grain.mean(axis=(0, 1)) == pytest.approx(0, abs=0.03) and grain.std(axis=(0, 1)) == pytest.approx(1, abs=0.03)
        assert np.corrcoef(grain.reshape(-1, 3).T)[0, 1:] == pytest.approx(likeness, abs=0.04)
        assert abs(np.corrcoef(grain[:, 1:, 0].ravel(), grain[:, :-1, 0].ravel())[0, 1]) < 0.03
        assert abs(np.corrcoef(grain[1:, :, 0].ravel(), grain[:-1, :, 0].ravel())[0, 1]) < 0.03


def test_shot_noise_grows_with_light():
    # A deviation that grows as the root of light, divided by a tone curve that flattens, still grows in linear light.
    config = replace(FAULTLESS, noise=1.0, noise_sd=(0.03, 0.03))
    sd = []
    for level in (0.05, 0.4):
        even = np.full((64, 96, 3), level, np.float32)
        pictures = _pictures(config, even, 24) / 255
        sd.append(np.mean([(p[8:-8, 8:-8] ** 2.2).std(axis=(0, 1)).mean() for p in pictures]))
    assert sd[1] > 1.3 * sd[0]


def test_motion_blur_is_a_line_that_keeps_the_light():
    dot = np.zeros((41, 61, 3), np.float32)
    dot[20, 30] = 1
    for angle in (0.0, 0.4, 1.3, 2.6):
        line = motion_blurred(dot, 11.0, angle)[..., 1]
        assert line.sum() == pytest.approx(1, rel=1e-4)
        y, x = np.nonzero(line)
        along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
        offsets = np.stack([x - 30, y - 20], axis=1)
        assert np.ptp(offsets @ along) == pytest.approx(10, abs=2.2) and np.abs(offsets @ across).max() < 1.5
    even = np.full((20, 30, 3), 0.4, np.float32)
    assert motion_blurred(even, 9.0, 0.7) == pytest.approx(even, abs=1e-5)
