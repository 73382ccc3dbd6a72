"""Materials: rows of numbers that the shader reads, and colours of light."""

from __future__ import annotations

import numpy as np

from handmesh.synthetic import raster


def srgb_to_linear(srgb: np.ndarray) -> np.ndarray:
    """Display values in 0..1 to light."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def smoothstep(low: float, high: float, x: np.ndarray) -> np.ndarray:
    """0 up to `low`, 1 from `high` on, level at both ends: for masks and forms that blend."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def plain_material(**columns: float) -> np.ndarray:
    """A material row with neutral tints; keywords: noise_low, freq_low, noise_high, freq_high, specular, shininess, wrap,
    speckle, speckle_freq, speckle_from, relief."""
    row = np.zeros(raster.MATERIAL_COLUMNS, np.float32)
    row[raster.M_TINTS :] = 1.0
    row[raster.M_FREQ_LOW] = row[raster.M_FREQ_HIGH] = row[raster.M_SHININESS] = 1.0
    names = {
        "noise_low": raster.M_NOISE_LOW,
        "freq_low": raster.M_FREQ_LOW,
        "noise_high": raster.M_NOISE_HIGH,
        "freq_high": raster.M_FREQ_HIGH,
        "specular": raster.M_SPECULAR,
        "shininess": raster.M_SHININESS,
        "wrap": raster.M_WRAP,
        "speckle": raster.M_SPECKLE,
        "speckle_freq": raster.M_SPECKLE_FREQ,
        "speckle_from": raster.M_SPECKLE_FROM,
        "relief": raster.M_RELIEF,
    }
    for name, value in columns.items():
        row[names[name]] = value
    return row


def random_rgb(rng: np.random.Generator) -> np.ndarray:
    """(3,) linear albedo of cloth and things: often grey or muted, sometimes strong, dark as often as light."""
    value = rng.uniform(0.02, 0.8) ** 1.3
    saturation = rng.choice([rng.uniform(0, 0.15), rng.uniform(0.1, 0.6), rng.uniform(0.5, 1.0)])
    hue = rng.uniform(0, 6) + np.array([0.0, 4.0, 2.0])
    pure = np.clip(np.abs(hue % 6 - 3) - 1, 0, 1)
    return np.clip(value * (1 - saturation * (1 - pure)), 0.005, 0.9)


def random_material(rng: np.random.Generator, size_m: float) -> np.ndarray:
    """The row of a cloth-like or plastic-like thing of about `size_m`: grain, sometimes stripes, dull or glossy."""
    row = plain_material(
        noise_low=rng.uniform(0, 0.35) if rng.random() < 0.6 else 0.02,
        freq_low=rng.uniform(4, 40) / size_m,
        noise_high=rng.uniform(0, 0.2) if rng.random() < 0.5 else 0.0,
        freq_high=rng.uniform(40, 200) / size_m,
        specular=rng.uniform(0.0, 0.02) if rng.random() < 0.6 else rng.uniform(0.05, 0.4),
        shininess=rng.uniform(5, 80),
        wrap=0.1,
    )
    if rng.random() < 0.3:
        direction = rng.normal(0, 1, 3)
        row[raster.M_STRIPE] = rng.uniform(0.3, 1)
        row[raster.M_STRIPE_VECTOR : raster.M_STRIPE_VECTOR + 3] = direction / np.linalg.norm(direction) * rng.uniform(8, 60) / size_m
        row[raster.M_STRIPE_RGB : raster.M_STRIPE_RGB + 3] = random_rgb(rng)
    return row
