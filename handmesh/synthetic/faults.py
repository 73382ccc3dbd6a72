"""What a camera does to light: blur, exposure, tint, vignetting, noise, tone, denoising, sharpening, few pixels, compression."""

from __future__ import annotations

import cv2
import numba
import numpy as np

from handmesh.synthetic.config import SynthConfig
from handmesh.synthetic.material import srgb_to_linear

_CURVE_TOP = 4.0
_CURVE_STEPS = 16384
_GREY_RGB = np.array([0.299, 0.587, 0.114], dtype=np.float32)

_jit = numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")


def _tone_curves() -> np.ndarray:
    """(3, _CURVE_STEPS + 1) f32 display values of linear light 0.._CURVE_TOP: sRGB, a soft shoulder as of film, a contrasty phone."""
    light = np.linspace(0, _CURVE_TOP, _CURVE_STEPS + 1)
    shown = np.linspace(0, 1, 2048)

    def to_srgb(linear: np.ndarray) -> np.ndarray:
        return np.interp(linear, srgb_to_linear(shown), shown)

    # The shoulder starts at the skin's brightness; the slope there is 1.
    knee = 0.35
    rolled = np.where(light < knee, light, knee + (1 - knee) * (1 - np.exp(-(light - knee) / (1 - knee))))
    film = to_srgb(rolled)
    steep = film * film * (3 - 2 * film)
    return np.stack([to_srgb(light), film, 0.5 * film + 0.5 * steep]).astype(np.float32)


_CURVES = _tone_curves()


def take_picture(look: np.random.Generator, linear: np.ndarray, config: SynthConfig) -> np.ndarray:
    """What a camera stores of light.

    Args:
        look: all chance; the same state gives the same picture.
        linear: (H, W, 3) f32 linear RGB, about 0.2 for middle grey.

    Returns:
        (H, W, 3) uint8 sRGB.
    """
    height, width = linear.shape[:2]
    # Blur is in pixels of a picture 128 px high and grows with it.
    unit = height / 128
    if look.random() < config.motion_blur:
        linear = motion_blurred(linear, look.uniform(*config.motion_blur_px) * unit, look.uniform(0, np.pi))
    if look.random() < config.defocus:
        linear = defocused(linear, look.uniform(*config.defocus_px) * unit)
    is_coarse = look.random() < config.low_resolution
    if is_coarse:
        # A sensor of few pixels: noise, sharpening and compression are as coarse as it is.
        share = look.uniform(*config.resolution)
        size = max(16, round(width * share)), max(16, round(height * share))
        linear = cv2.resize(linear, size, interpolation=cv2.INTER_AREA)
    image = _develop_with(look, linear, config)
    if look.random() < 0.12:
        image = cv2.medianBlur(image, 3)
    if look.random() < 0.35:
        image = _sharpened(image, look.uniform(0.2, 1.0), look.uniform(0.6, 1.3))
    if look.random() < config.jpeg:
        quality = look.uniform(*config.jpeg_quality)
        if look.random() < 0.2:
            # Stored once before, with its blocks elsewhere, as in a picture that was cut out of another.
            dy, dx = look.integers(1, 8, 2)
            before = cv2.copyMakeBorder(image, int(dy), 0, int(dx), 0, cv2.BORDER_REPLICATE)
            image = np.ascontiguousarray(_compressed(before, look.uniform(*config.jpeg_quality))[dy:, dx:])
        image = _compressed(image, quality)
    if is_coarse:
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC if look.random() < 0.3 else cv2.INTER_LINEAR)
    return image


def _develop_with(look: np.random.Generator, linear: np.ndarray, config: SynthConfig) -> np.ndarray:
    """Draw how the camera turns light into bytes, and do so."""
    warm, green, exposure = look.normal(0, 1, 3)
    warm, green = warm * config.white_balance_sd, 0.4 * green * config.white_balance_sd
    gain = np.exp(exposure * config.exposure_sd + np.array([warm, green, -warm]))
    vignette = look.uniform(0.05, 0.4) if look.random() < 0.4 else 0.0
    mix = look.dirichlet((0.6, 0.6, 0.4))
    contrast, lift = look.uniform(0.85, 1.15), look.normal(0, 0.02)
    curve = ((mix.astype(np.float32) @ _CURVES) - np.float32(0.45)) * np.float32(255 * contrast) + np.float32(255 * (0.45 + lift))
    saturation = 0.0 if look.random() < config.grey else look.uniform(0.65, 1.3)
    sd = 0.0
    if look.random() < config.noise:
        low, high = config.noise_sd
        sd = low + (high - low) * look.random() ** 3
    read_share, likeness, is_soft, seed = look.random(), look.uniform(0.2, 0.95), look.random() < 0.4, look.integers(2**62)
    grain = np.zeros((1, 1, 3), np.float32)
    if sd > 0:
        grain = grain_of(int(seed), linear.shape[0], linear.shape[1], likeness)
        if is_soft:
            # Denoising leaves wider and weaker grain; 1.6 brings back about half of what the average took.
            grain = cv2.blur(grain, (3, 3)) * np.float32(1.6)
    # At middle grey the noise is `sd` whichever way it is made up; all of it is stronger in less light after the tone curve.
    shot, read = sd**2 * (1 - read_share) / 0.2, sd**2 * (0.003 + 0.3 * read_share)
    image = np.empty(linear.shape, np.uint8)
    # Fewer photons in red and blue, which the white balance lifts: noisier than green.
    spread = np.array([1.25, 1.0, 1.5], np.float32)
    numbers = np.array([vignette, shot, read, saturation], np.float32)
    _develop(linear, gain.astype(np.float32), grain, spread, numbers, curve, image)
    return image


@_jit
def _develop(linear, gain, grain, spread, numbers, curve, image):
    """Linear (H, W, 3) f32 to display bytes: vignetting, gain, noise, tone curve (0..255), saturation, in this order."""
    height, width = linear.shape[0], linear.shape[1]
    vignette, shot, read, saturation = numbers[0], numbers[1], numbers[2], numbers[3]
    has_grain = grain.shape[0] == height and (shot > 0 or read > 0)
    one, zero = np.float32(1.0), np.float32(0.0)
    last = np.float32(len(curve) - 1)
    per_light = last / np.float32(_CURVE_TOP)
    middle_x, middle_y = np.float32((width - 1) / 2), np.float32((height - 1) / 2)
    inverse = one / (middle_x * middle_x + middle_y * middle_y)
    for y in range(height):
        dy = np.float32(y) - middle_y
        for x in range(width):
            dx = np.float32(x) - middle_x
            fall = one - vignette * (dx * dx + dy * dy) * inverse
            r = linear[y, x, 0] * gain[0] * fall
            g = linear[y, x, 1] * gain[1] * fall
            b = linear[y, x, 2] * gain[2] * fall
            if has_grain:
                r += grain[y, x, 0] * spread[0] * np.sqrt(shot * max(r, zero) + read)
                g += grain[y, x, 1] * spread[1] * np.sqrt(shot * max(g, zero) + read)
                b += grain[y, x, 2] * spread[2] * np.sqrt(shot * max(b, zero) + read)
            r = curve[int(min(max(r * per_light, zero), last))]
            g = curve[int(min(max(g * per_light, zero), last))]
            b = curve[int(min(max(b * per_light, zero), last))]
            grey = _GREY_RGB[0] * r + _GREY_RGB[1] * g + _GREY_RGB[2] * b + np.float32(0.5)
            shift = np.float32(0.5) - grey
            image[y, x, 0] = int(min(max(grey + saturation * (r + shift), zero), np.float32(255.0)))
            image[y, x, 1] = int(min(max(grey + saturation * (g + shift), zero), np.float32(255.0)))
            image[y, x, 2] = int(min(max(grey + saturation * (b + shift), zero), np.float32(255.0)))


def grain_of(seed: int, height_px: int, width_px: int, likeness: float) -> np.ndarray:
    """(H, W, 3) f32 with mean 0 and deviation 1; `likeness` is the correlation of the channels, 1 for grey grain."""
    grain = np.empty((height_px, width_px, 3), np.float32)
    _grain(np.uint64(seed), np.float32(np.sqrt(likeness)), np.float32(np.sqrt(1 - likeness)), grain)
    return grain


@_jit
def _grain(seed, shared, own, grain):
    """Splitmix64 of the pixel's number: four sums of four 4-bit pieces, which are bell-shaped; the first is shared by the channels."""
    # The sum of four even draws of 0..15 has mean 30 and this deviation.
    scale = np.float32(1 / np.sqrt(4 * (256 - 1) / 12))
    count = np.uint64(0)
    for y in range(grain.shape[0]):
        for x in range(grain.shape[1]):
            count += np.uint64(1)
            z = seed + count * np.uint64(0x9E3779B97F4A7C15)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z = z ^ (z >> np.uint64(31))
            # Adds neighbouring 4-bit pieces into bytes, then bytes into 16-bit sums.
            z = (z & np.uint64(0x0F0F0F0F0F0F0F0F)) + ((z >> np.uint64(4)) & np.uint64(0x0F0F0F0F0F0F0F0F))
            z = (z & np.uint64(0x00FF00FF00FF00FF)) + ((z >> np.uint64(8)) & np.uint64(0x00FF00FF00FF00FF))
            grey = (np.float32(z & np.uint64(255)) - np.float32(30.0)) * scale * shared
            for k in range(3):
                piece = np.float32((z >> np.uint64(16 * (k + 1))) & np.uint64(255))
                grain[y, x, k] = grey + (piece - np.float32(30.0)) * scale * own


def motion_blurred(linear: np.ndarray, length_px: float, angle: float) -> np.ndarray:
    """The mean of (H, W, 3) f32 over a line of `length_px` through each pixel; `angle` in radians from x towards y."""
    dx, dy = np.cos(angle), np.sin(angle)
    if abs(dx) >= abs(dy):
        out = np.empty_like(linear)
        _blur_along(np.ascontiguousarray(linear), dy / dx, max(length_px * abs(dx), 1.0), out)
        return out
    swapped = np.ascontiguousarray(linear.transpose(1, 0, 2))
    out = np.empty_like(swapped)
    _blur_along(swapped, dx / dy, max(length_px * abs(dy), 1.0), out)
    return np.ascontiguousarray(out.transpose(1, 0, 2))


@_jit
def _blur_along(linear, slope, length, out):
    """Running means along digital lines y = start + floor(slope x): each pixel is on one of them, whatever `length`."""
    height, width = linear.shape[0], linear.shape[1]
    total = np.zeros((width + 1, 3))
    half = 0.5 * (length - 1)
    whole = int(half)
    part = half - whole
    step = np.floor(slope * np.arange(width)).astype(np.int64)
    for start in range(min(0, -step[width - 1]), height + max(0, -step[width - 1]) + 1):
        for x in range(width):
            y = min(max(start + step[x], 0), height - 1)
            for k in range(3):
                total[x + 1, k] = total[x, k] + linear[y, x, k]
        for x in range(width):
            y = start + step[x]
            if y < 0 or y >= height:
                continue
            low, high = max(x - whole, 0), min(x + whole + 1, width)
            before, after = max(low - 1, 0), min(high + 1, width)
            weight = (high - low) + part * (low - before + after - high)
            for k in range(3):
                inner = total[high, k] - total[low, k]
                rim = total[low, k] - total[before, k] + total[after, k] - total[high, k]
                out[y, x, k] = (inner + part * rim) / weight


def defocused(linear: np.ndarray, sd_px: float) -> np.ndarray:
    """(H, W, 3) f32 blurred by about a Gaussian; wide blurs are made at a third of the size."""
    if sd_px < 2.4:
        return cv2.GaussianBlur(linear, (0, 0), sd_px) if sd_px >= 0.3 else linear
    height, width = linear.shape[:2]
    small = cv2.resize(linear, (max(width // 3, 1), max(height // 3, 1)), interpolation=cv2.INTER_AREA)
    return cv2.resize(cv2.GaussianBlur(small, (0, 0), sd_px / 3), (width, height), interpolation=cv2.INTER_LINEAR)


def _sharpened(image: np.ndarray, amount: float, sd_px: float) -> np.ndarray:
    """Bytes with halos along edges."""
    return cv2.addWeighted(image, 1 + amount, cv2.GaussianBlur(image, (5, 5), sd_px), -amount, 0)


def _compressed(image: np.ndarray, quality: float) -> np.ndarray:
    # Red and blue are swapped for cv2 both ways, which its colour subsampling does not mind.
    code = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, round(quality)])[1]
    return np.ascontiguousarray(cv2.imdecode(code, cv2.IMREAD_COLOR)[..., ::-1])
