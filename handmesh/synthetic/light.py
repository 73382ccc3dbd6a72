"""Places: the light that falls on a hand from all around, and what is seen behind it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numba
import numpy as np

from handmesh.errors import UserError
from handmesh.geometry.rotation import rotvec_to_rotmat
from handmesh.synthetic.config import SynthConfig
from handmesh.synthetic.faults import defocused
from handmesh.synthetic.material import srgb_to_linear
from handmesh.synthetic.rooms import room_pictures, table_top

LUMINANCE = np.array([0.2126, 0.7152, 0.0722], dtype=np.float32)
PHOTO_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
# JPEG, PNG, WebP and BMP.
_PHOTO_STARTS = (b"\xff\xd8", b"\x89PNG", b"RIFF", b"BM")
_PANORAMA_HEIGHT = 512
_LAMP_HEIGHT = 128
_LAMP_CONE = math.cos(math.radians(25))
_UP = np.array([0.0, -1.0, 0.0])
# Normals of what a camera sees of a hand: towards it, and some way to the sides and up.
_SEEN_NORMALS = np.array([[0.0, 0, -1, 1], [0.6, 0, -0.8, 1], [-0.6, 0, -0.8, 1], [0, -0.6, -0.8, 1]])

_jit = numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")


@dataclass(frozen=True)
class Panorama:
    """An equirectangular picture of all around, white-balanced, and the light it sheds.

    In its own frame y is down; the first column looks along +z, later ones turn towards +x, and the first row looks up.

    Attributes:
        rgb: (H, 2H, 3) f32 linear; its brightest spots are cut.
        ambient: (3, 4, 4) quadratic forms of the light that falls on a surface, by its normal: the whole panorama's.
        shade: (3, 4, 4) the same without the lamp.
        lamp_direction: (3,) unit, towards its dominant bright region: sun, window or lamp.
        lamp_rgb: (3,) what that region alone sheds on a surface that faces it; 0 where the light is even.
    """

    rgb: np.ndarray
    ambient: np.ndarray
    shade: np.ndarray
    lamp_direction: np.ndarray
    lamp_rgb: np.ndarray


@dataclass(frozen=True)
class Places:
    """What pictures are lit by and what is seen behind hands.

    Attributes:
        panoramas: at least one.
        photos: files of ordinary pictures, may be empty.
    """

    panoramas: tuple[Panorama, ...]
    photos: tuple[Path, ...]


def load_places(hdri: Path | None, backgrounds: Path | None, config: SynthConfig) -> Places:
    """Read the panoramas that `config` allows, and list the photos.

    Args:
        hdri: folder of equirectangular .hdr files; None for procedural rooms.
        backgrounds: folder of photos, searched with its subfolders; None for none.

    Raises:
        UserError: a folder that is missing or holds nothing to use, or a panorama that cannot be read.
    """
    if hdri is None and config.panoramas:
        raise UserError(
            f"expected --hdri with the panoramas that the config lists ({', '.join(config.panoramas)}), got none; give their folder"
        )
    panoramas = procedural_rooms() if hdri is None else tuple(read_panorama(path) for path in panorama_paths(hdri, config))
    return Places(panoramas, () if backgrounds is None else tuple(photo_paths(backgrounds)))


def procedural_rooms(count: int = 16) -> tuple[Panorama, ...]:
    """The same `count` panoramas every time, for those who have none."""
    return tuple(panorama_of(picture) for picture in room_pictures(count))


def panorama_paths(hdri: Path, config: SynthConfig) -> list[Path]:
    """The .hdr files of a folder that `config` allows, by name: those it lists, or all but those held out for evaluation.

    Raises:
        UserError: no such folder, a listed file that is missing, or nothing left.
    """
    folder = Path(hdri)
    if not folder.is_dir():
        raise UserError(
            f"expected a folder of equirectangular .hdr files, got '{hdri}', which is no folder; leave --hdri out for procedural rooms"
        )
    found = sorted(path for path in folder.glob("*.hdr") if path.is_file())
    if not found:
        raise UserError(
            f"expected a folder of equirectangular .hdr files, got '{hdri}', which has none; leave --hdri out for procedural rooms"
        )
    if config.panoramas:
        missing = sorted(set(config.panoramas) - {path.name for path in found})
        if missing:
            raise UserError(f"expected the panoramas that the config lists in '{hdri}', missing {', '.join(missing)}; add them there")
        return [path for path in found if path.name in config.panoramas]
    allowed = [path for path in found if path.name not in config.held_out_panoramas]
    if not allowed:
        raise UserError(
            f"expected panoramas beside the held-out ones in '{hdri}', got only those; add .hdr files or list them in panoramas"
        )
    return allowed


def photo_paths(backgrounds: Path) -> list[Path]:
    """The photos of a folder and its subfolders, by path.

    Raises:
        UserError: no such folder, no photo in it, or a file that is none.
    """
    folder = Path(backgrounds)
    if not folder.is_dir():
        raise UserError(f"expected a folder of photos, got '{backgrounds}', which is no folder; leave --backgrounds out")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PHOTO_ENDINGS and path.is_file())
    if not found:
        raise UserError(
            f"expected a folder of photos ({' '.join(PHOTO_ENDINGS)}), got '{backgrounds}', which has none; leave --backgrounds out"
        )
    for path in found:
        with path.open("rb") as file:
            start = file.read(16)
        if not start.startswith(_PHOTO_STARTS):
            raise UserError(f"expected a photo, got '{path}', which is none; remove it from the folder of backgrounds")
    return found


def read_panorama(path: Path) -> Panorama:
    """Read one equirectangular .hdr file.

    Raises:
        UserError: not a picture twice as wide as high.
    """
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise UserError(f"expected an .hdr picture that can be read, got '{path}' ({error.strerror}); mend it or take it away") from error
    bgr = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    if bgr is None or bgr.ndim != 3:
        raise UserError(f"expected an equirectangular .hdr picture, got '{path}', which cannot be read; remove it from the folder")
    height, width = bgr.shape[:2]
    if abs(width - 2 * height) > 0.02 * width:
        raise UserError(f"expected a panorama twice as wide as high, got {width} x {height} in '{path}'; remove it from the folder")
    rgb = cv2.cvtColor(bgr[..., :3].astype(np.float32), cv2.COLOR_BGR2RGB)
    return panorama_of(np.nan_to_num(np.maximum(rgb, 0), posinf=1e4))


def panorama_of(rgb: np.ndarray) -> Panorama:
    """White-balance an equirectangular picture (H, 2H, 3) f32 of linear light, and find its lamp and its light."""
    if len(rgb) > _PANORAMA_HEIGHT:
        rgb = cv2.resize(rgb, (2 * _PANORAMA_HEIGHT, _PANORAMA_HEIGHT), interpolation=cv2.INTER_AREA)
    upright = np.sin((np.arange(len(rgb)) + 0.5) / len(rgb) * np.pi)[:, None]
    # The sun is some thousand times the sky: the colour of a place is that of the rest.
    bright = np.minimum(rgb, 60 * _usual(rgb))
    mean = (bright * upright[..., None]).sum(axis=(0, 1)) / (upright.sum() * bright.shape[1])
    # A camera's white balance takes most of the tint of a place away, not all.
    rgb = (rgb / np.maximum(mean**0.85 * (mean @ LUMINANCE) ** 0.15, 1e-9)).astype(np.float32)
    small = cv2.resize(rgb, (2 * _LAMP_HEIGHT, _LAMP_HEIGHT), interpolation=cv2.INTER_AREA)
    direction, lamp_rgb, rest = split_lamp(small)
    ambient = irradiance(small)
    return Panorama(np.minimum(rgb, 60 * _usual(rgb)).astype(np.float32), ambient, irradiance(rest), direction, lamp_rgb)


def _usual(rgb: np.ndarray) -> float:
    """Median luminance of what is not black: a studio may be little more than its lamps."""
    luminance = rgb @ LUMINANCE
    lit = luminance[luminance > 1e-4 * luminance.max()]
    return float(np.median(lit)) if lit.size else 1.0


def _sphere(height: int) -> tuple[np.ndarray, np.ndarray]:
    """Of an equirectangular grid: directions (H, 2H, 3) and solid angles (H, 1)."""
    lat = (np.arange(height) + 0.5) / height * np.pi - np.pi / 2
    lon = (np.arange(2 * height) + 0.5) / height * np.pi
    x = np.cos(lat)[:, None] * np.sin(lon)
    y = np.repeat(np.sin(lat)[:, None], 2 * height, axis=1)
    z = np.cos(lat)[:, None] * np.cos(lon)
    return np.stack([x, y, z], axis=2), np.cos(lat)[:, None] * (np.pi / height) ** 2


def split_lamp(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Take the dominant bright region out of an equirectangular picture.

    Args:
        rgb: (H, 2H, 3) linear.

    Returns:
        (3,) unit direction towards the region; (3,) its irradiance over pi on a surface that faces it; (H, 2H, 3) what is left.
    """
    height = len(rgb)
    directions, area = _sphere(height)
    luminance = rgb @ LUMINANCE
    # The region with the most light, not the single brightest pixel.
    coarse = cv2.resize(luminance * area, (64, 32), interpolation=cv2.INTER_AREA)
    row, column = np.unravel_index(int(np.argmax(coarse)), coarse.shape)
    middle = _sphere(32)[0][row, column]
    for _ in range(2):
        cone = directions @ middle > _LAMP_CONE
        around = float((luminance * area)[~cone].sum() / np.broadcast_to(area, luminance.shape)[~cone].sum())
        excess = np.where(cone, np.maximum(0, 1 - 2 * around / np.maximum(luminance, 1e-9)), 0)
        pull = np.einsum("hw,hwc->c", excess * luminance * area, directions)
        if np.linalg.norm(pull) < 1e-9:
            return _UP, np.zeros(3), rgb
        middle = pull / np.linalg.norm(pull)
    lamp = excess[..., None] * rgb
    facing = np.maximum(directions @ middle, 0) * area
    return middle, np.einsum("hw,hwc->c", facing, lamp) / np.pi, (rgb - lamp).astype(np.float32)


def irradiance(rgb: np.ndarray) -> np.ndarray:
    """(3, 4, 4) quadratic forms of irradiance over pi (Ramamoorthi & Hanrahan 2001) of an equirectangular (H, 2H, 3)."""
    small = cv2.resize(rgb, (64, 32), interpolation=cv2.INTER_AREA).astype(np.float64)
    directions, area = _sphere(32)
    x, y, z = np.moveaxis(directions, 2, 0)
    basis = np.stack(
        [
            *(0.282095 * np.ones_like(x), 0.488603 * y, 0.488603 * z, 0.488603 * x),
            *(1.092548 * x * y, 1.092548 * y * z, 0.315392 * (3 * z * z - 1), 1.092548 * x * z, 0.546274 * (x * x - y * y)),
        ]
    )
    lengths = np.einsum("nhw,hwc,hw->cn", basis, small, np.broadcast_to(area, x.shape))
    c1, c2, c3, c4, c5 = 0.429043, 0.511664, 0.743125, 0.886227, 0.247708
    forms = [
        [
            [c1 * q[8], c1 * q[4], c1 * q[7], c2 * q[3]],
            [c1 * q[4], -c1 * q[8], c1 * q[5], c2 * q[1]],
            [c1 * q[7], c1 * q[5], c3 * q[6], c2 * q[2]],
            [c2 * q[3], c2 * q[1], c2 * q[2], c4 * q[0] - c5 * q[6]],
        ]
        for q in lengths
    ]
    return np.array(forms) / np.pi


@dataclass(frozen=True)
class Light:
    """All light on a hand, in the camera's frame, scaled so that a surface towards the camera gets about 1.

    Attributes:
        ambient: (3, 4, 4) f32.
        direction: (3,) f32 unit, towards the lamp.
        rgb: (3,) f32 the lamp's strength; 0 for no lamp.
    """

    ambient: np.ndarray
    direction: np.ndarray
    rgb: np.ndarray


def sample_light(look: np.random.Generator, place: Panorama, R_world_camera: np.ndarray, config: SynthConfig) -> Light:
    """Light of a place and, in `config.lamp_share` of pictures, of one lamp: the place's own sun or window, or a free one."""
    has_lamp, has_own, cap = look.random() < config.lamp_share, look.random() < 0.55, look.uniform(1, 7)
    shade = _turned(place.shade, R_world_camera)
    own = float(place.lamp_rgb @ LUMINANCE)
    # Film and screens cannot hold a sun of any strength.
    held = min(1.0, cap * _facing(shade) / max(own, 1e-6))
    whole = shade + held * _turned(place.ambient - place.shade, R_world_camera)
    level = _facing(whole)
    if not has_lamp:
        ambient, direction, lamp = whole, _UP, np.zeros(3)
    elif has_own and held * own > 0.15 * level:
        ambient, direction, lamp = shade, place.lamp_direction @ R_world_camera, held * place.lamp_rgb
    else:
        ambient = whole
        direction, lamp = _free_lamp(look)
        lamp = lamp * level
    # Some places leave the side of a thing that is away from their light almost black; real ones have walls that send light back.
    ambient[:, 3, 3] += 0.06 * level
    share = max(0.15, float(np.maximum(_SEEN_NORMALS[:, :3] @ direction, 0).mean()))
    lit = np.maximum(np.einsum("ni,cij,nj->c", _SEEN_NORMALS, ambient, _SEEN_NORMALS) / len(_SEEN_NORMALS), 0.01 * level) + share * lamp
    # Cameras leave an evening a little dark, and balance about half of the light's tint.
    bright = look.uniform(0.4, 0.8) if look.random() < 0.12 else look.uniform(0.85, 1.15)
    scale = bright / (lit @ LUMINANCE) ** 0.5 / lit**0.5
    scale *= bright / float(lit * scale @ LUMINANCE)
    ambient = ambient * scale[:, None, None]
    return Light(ambient.astype(np.float32), direction.astype(np.float32), (lamp * scale).astype(np.float32))


def _turned(forms: np.ndarray, R_world_camera: np.ndarray) -> np.ndarray:
    turn = np.eye(4)
    turn[:3, :3] = R_world_camera
    return turn.T @ forms @ turn


def _facing(forms: np.ndarray) -> float:
    """Luminance that falls on what the camera sees of a hand, positive."""
    return max(float(np.einsum("ni,cij,nj->nc", _SEEN_NORMALS, forms, _SEEN_NORMALS).mean(axis=0) @ LUMINANCE), 0.02)


def _free_lamp(look: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Direction towards a lamp in the camera's frame, and its strength over that of the light from all around."""
    side = look.choice([-1.0, 1.0])
    # Where to, how far it strays, strength, warmth: window, ceiling lamp, ring light, screen, low sun, light from behind, any.
    kinds = (
        (0.22, (side, -0.35, -0.5), 0.35, (0.4, 3.0), (-0.12, 0.08)),
        (0.22, (0.0, -1.0, -0.25), 0.3, (0.3, 1.8), (-0.03, 0.2)),
        (0.10, (0.0, -0.1, -1.0), 0.12, (0.3, 2.0), (-0.05, 0.08)),
        (0.12, (0.0, 0.35, -1.0), 0.25, (0.2, 1.5), (-0.3, -0.05)),
        (0.10, (side, -0.1, -0.3), 0.3, (0.8, 4.0), (0.05, 0.35)),
        (0.12, (0.5 * side, -0.4, 0.9), 0.3, (1.0, 5.0), (-0.1, 0.15)),
        (0.12, (0.0, -0.6, -0.5), 1.0, (0.2, 2.0), (-0.1, 0.1)),
    )
    _, towards, stray, strength, warmth = kinds[look.choice(len(kinds), p=[kind[0] for kind in kinds])]
    direction = np.array(towards) + look.normal(0, stray, 3)
    warm = look.uniform(*warmth)
    return direction / np.linalg.norm(direction), look.uniform(*strength) * np.exp(warm * np.array([1.0, 0.1, -1.2]))


def sample_view(look: np.random.Generator, config: SynthConfig) -> np.ndarray:
    """(3, 3) R_world_camera of somebody holding a camera: any heading, some pitch, a little roll."""
    heading, pitch, roll = look.uniform(0, 2 * np.pi), look.normal(0, config.tilt_sd), look.normal(0, 0.5 * config.tilt_sd)
    turns = np.array([[0.0, heading, 0.0], [pitch, 0.0, 0.0], [0.0, 0.0, roll]])
    about_y, about_x, about_z = rotvec_to_rotmat(turns)
    return about_y @ about_x @ about_z


def background(
    look: np.random.Generator,
    places: Places,
    place: Panorama,
    R_world_camera: np.ndarray,
    width_px: int,
    height_px: int,
    focal_px: float,
    skin_rgb: np.ndarray,
    config: SynthConfig,
) -> np.ndarray:
    """What is seen behind a hand that gets light of about 1: a view of the place, a photo, or something abstract.

    Args:
        places, place: all of them, and the panorama that lights the scene.
        R_world_camera: (3, 3) camera to panorama.
        focal_px: the camera's. Crops (a focal length above the height) may see a wider view than it says.
        skin_rgb: (3,) linear albedo; some things have the colour of skin.

    Returns:
        (H, W, 3) f32 linear, more often than not out of focus.

    Raises:
        UserError: a photo that cannot be read.
    """
    kind = look.random(2)
    if places.photos and kind[0] < config.photo_share:
        picture = _photo(look, places.photos, width_px, height_px)
        return defocused(picture, 0.5 * _background_blur_px(look, height_px)) * np.float32(look.uniform(0.6, 1.3))
    if kind[1] < config.panorama_share:
        widest_px = 0.9 * height_px
        focal_px = focal_px * max(1.0, focal_px / widest_px) ** -look.uniform(0.35, 1.0)
        picture = panorama_view(place.rgb, R_world_camera, focal_px, width_px, height_px)
        # What is seen larger than the panorama holds it is soft, not blocky.
        grain_px = 2 * np.pi * focal_px / place.rgb.shape[1]
        picture = defocused(picture, max(_background_blur_px(look, height_px), 0.4 * grain_px))
        # As bright as the hand's light says, but cameras expose for the whole picture.
        level = _facing(_turned(place.ambient, R_world_camera))
        mean = max(float(cv2.mean(np.minimum(picture, 8))[:3] @ LUMINANCE) / level, 1e-3)
        wanted = np.clip(mean**0.6 * 0.22**0.4 * np.exp(look.normal(0, 0.3)), 0.03, 1.0)
        return picture * np.float32(wanted / mean / level)
    soft_px = max(0.7 * _background_blur_px(look, height_px), height_px / 224 * 0.8)
    return defocused(table_top(look, width_px, height_px, skin_rgb), soft_px) * np.float32(look.uniform(0.6, 1.3))


def _background_blur_px(look: np.random.Generator, height_px: int) -> float:
    """Deviation of the blur of what is behind a near hand, 0 for sharp."""
    is_soft, strength = look.random() < 0.65, look.random()
    return height_px / 224 * (0.5 + 4.5 * strength**2) if is_soft else 0.0


def panorama_view(rgb: np.ndarray, R_world_camera: np.ndarray, focal_px: float, width_px: int, height_px: int) -> np.ndarray:
    """(H, W, 3) f32: what a pinhole camera with its principal point in the middle sees of an equirectangular picture."""
    picture = np.empty((height_px, width_px, 3), np.float32)
    _look_through(rgb, R_world_camera.astype(np.float32), np.float32(focal_px), picture)
    return picture


@_jit
def _atan2(y, x):
    """Arc tangent to 1e-5, many times as fast as the exact one."""
    ax, ay = abs(x), abs(y)
    a = min(ax, ay) / (max(ax, ay) + np.float32(1e-20))
    s = a * a
    r = np.float32(-0.01172120) * s + np.float32(0.05265332)
    r = r * s - np.float32(0.11643287)
    r = r * s + np.float32(0.19354346)
    r = r * s - np.float32(0.33262347)
    r = (r * s + np.float32(0.99997726)) * a
    if ay > ax:
        r = np.float32(1.5707964) - r
    if x < 0:
        r = np.float32(3.1415927) - r
    return -r if y < 0 else r


@_jit
def _look_through(panorama, R_world_camera, focal_px, rgb):
    """A pinhole picture (H, W, 3) of an equirectangular panorama (h, 2h, 3) f32, y down, bilinear."""
    height, width = panorama.shape[0], panorama.shape[1]
    middle_x, middle_y = np.float32((rgb.shape[1] - 1) / 2), np.float32((rgb.shape[0] - 1) / 2)
    one, half = np.float32(1.0), np.float32(0.5)
    per_turn, per_half_turn = np.float32(width / (2 * math.pi)), np.float32(height / math.pi)
    inverse = one / focal_px
    last = np.float32(height - 1.001)
    for y in range(rgb.shape[0]):
        dy = (np.float32(y) - middle_y) * inverse
        for x in range(rgb.shape[1]):
            dx = (np.float32(x) - middle_x) * inverse
            wx = R_world_camera[0, 0] * dx + R_world_camera[0, 1] * dy + R_world_camera[0, 2]
            wy = R_world_camera[1, 0] * dx + R_world_camera[1, 1] * dy + R_world_camera[1, 2]
            wz = R_world_camera[2, 0] * dx + R_world_camera[2, 1] * dy + R_world_camera[2, 2]
            # Half a pixel less, and one turn more, which keeps it positive.
            u = _atan2(wx, wz) * per_turn + np.float32(width) - half
            v = _atan2(wy, math.sqrt(wx * wx + wz * wz)) * per_half_turn + np.float32(height) * half - half
            v = min(max(v, np.float32(0.0)), last)
            iu, iv = int(u), int(v)
            fu, fv = u - np.float32(iu), v - np.float32(iv)
            u0 = iu % width
            u1 = u0 + 1 if u0 + 1 < width else 0
            for k in range(3):
                top = panorama[iv, u0, k] * (one - fu) + panorama[iv, u1, k] * fu
                low = panorama[iv + 1, u0, k] * (one - fu) + panorama[iv + 1, u1, k] * fu
                rgb[y, x, k] = top * (one - fv) + low * fv


_LINEAR_OF_BYTE = srgb_to_linear(np.arange(256) / 255).astype(np.float32)


def _read_photo(path: Path) -> np.ndarray | None:
    """(H, W, 3) uint8 BGR, or None for what cannot be decoded."""
    data = np.fromfile(path, np.uint8)
    # Large files are large pictures: decoding them at a part of their size is several times as fast.
    flag = cv2.IMREAD_COLOR if data.size < 200_000 else cv2.IMREAD_REDUCED_COLOR_2 if data.size < 1_500_000 else cv2.IMREAD_REDUCED_COLOR_4
    return cv2.imdecode(data, flag) if data.size else None


def _photo(look: np.random.Generator, photos: tuple[Path, ...], width_px: int, height_px: int) -> np.ndarray:
    """A random part of a random photo, upright, perhaps mirrored: (H, W, 3) f32 linear."""
    first = int(look.integers(len(photos)))
    share, across, down, is_mirrored = look.uniform(0.5, 1.0), look.random(), look.random(), look.random() < 0.5
    # A torn file gives way to the next: it must not stop a set that is half drawn.
    for path in photos[first:] + photos[:first]:
        bgr = _read_photo(path)
        if bgr is not None:
            break
    else:
        raise UserError(f"expected photos, got none in '{photos[0].parent}' that can be read; choose another --backgrounds")
    height, width = bgr.shape[:2]
    scale = share * min(width / width_px, height / height_px)
    w, h = max(1, int(scale * width_px)), max(1, int(scale * height_px))
    x, y = int(across * (width - w)), int(down * (height - h))
    part = cv2.resize(bgr[y : y + h, x : x + w], (width_px, height_px), interpolation=cv2.INTER_AREA if scale > 1 else cv2.INTER_LINEAR)
    return np.ascontiguousarray(_LINEAR_OF_BYTE[np.asarray(part, np.uint8)][:, :: -1 if is_mirrored else 1, ::-1])


def gamma_table() -> np.ndarray:
    """(4097,) f32: linear light 0..1 to sRGB 0..1."""
    shown = np.linspace(0, 1, 1024)
    return np.interp(np.linspace(0, 1, 4097), srgb_to_linear(shown), shown).astype(np.float32)
