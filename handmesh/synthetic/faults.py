"""What a camera does to light: blur, exposure, tint, contrast, few pixels, noise, compression."""

from __future__ import annotations

import cv2
import numpy as np

from handmesh.synthetic import raster
from handmesh.synthetic.config import SynthConfig
from handmesh.synthetic.light import gamma_table

_GAMMA = gamma_table()
_TO_GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def take_picture(rng: np.random.Generator, linear: np.ndarray, config: SynthConfig) -> np.ndarray:
    """Linear RGB (S, S, 3) f32 to what a camera stores, uint8."""
    size = len(linear)
    # Faults are in pixels of a 128-pixel picture and grow with it.
    unit = size / 128
    if rng.random() < config.motion_blur:
        linear = cv2.filter2D(linear, -1, _motion_kernel(rng.uniform(2, 11) * unit, rng.uniform(0, np.pi)))
    if rng.random() < config.defocus:
        linear = cv2.GaussianBlur(linear, (0, 0), rng.uniform(0.4, 1.7) * unit)
    gain = np.exp(rng.normal(-0.02, 0.22)) * (1 + rng.normal(0, 0.05) * np.array([1.0, 0.1, -1.0])) * (1 + rng.normal(0, 0.02, 3))
    shown = raster.to_display(linear, gain.astype(np.float32), _GAMMA)
    contrast, lift = rng.uniform(0.8, 1.2), rng.normal(0, 0.03)
    shown = (shown - np.float32(0.45)) * np.float32(contrast) + np.float32(0.45 + lift)
    if rng.random() < config.grey:
        shown = np.repeat((shown @ _TO_GREY)[..., None], 3, axis=2)
    elif rng.random() < 0.5:
        grey = (shown @ _TO_GREY)[..., None]
        shown = grey + np.float32(rng.uniform(0.6, 1.25)) * (shown - grey)
    if rng.random() < config.low_resolution:
        small = max(16, round(size * rng.uniform(0.3, 0.8)))
        shown = cv2.resize(cv2.resize(shown, (small, small), interpolation=cv2.INTER_AREA), (size, size), interpolation=cv2.INTER_LINEAR)
    if rng.random() < config.noise:
        shown = shown + _noise(rng, size, rng.uniform(0, 1) ** 2 * config.noise_sd)
    image = (np.clip(shown, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)
    if rng.random() < config.jpeg:
        code = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.uniform(30, 95))])[1]
        image = cv2.imdecode(code, cv2.IMREAD_UNCHANGED)
    return image


def _noise(rng: np.random.Generator, size: int, sd: float) -> np.ndarray:
    """(S, S, 3) f32; grain as it leaves the sensor, or smeared by a phone's processing."""
    grain = rng.standard_normal((size, size, 3), dtype=np.float32) * np.float32(sd)
    if rng.random() < 0.3:
        grain = cv2.GaussianBlur(grain, (0, 0), 0.7) * np.float32(2)
    return grain


def _motion_kernel(length_px: float, angle: float) -> np.ndarray:
    """A line of `length_px` through the middle of a square kernel, sum 1."""
    half = int(np.ceil(length_px / 2))
    kernel = np.zeros((2 * half + 1, 2 * half + 1), np.float32)
    step = 0.5 * length_px * np.array([np.cos(angle), np.sin(angle)])
    # cv2 takes line ends in 1/16 pixel when shift is 4.
    start, end = (np.round(16 * (half + sign * step)).astype(int).tolist() for sign in (-1, 1))
    cv2.line(kernel, start, end, (1.0,), 1, cv2.LINE_AA, 4)
    total = kernel.sum()
    return kernel / total if total > 0 else np.ones((1, 1), np.float32)
