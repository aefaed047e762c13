"""Procedural textures: two colours mixed by a pattern, with a grain over both."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

_LEAST_CONTRAST = 110.0
"""Distance in RGB between the main colours of a shape and of the background."""


def contrasting(random: np.random.Generator, colour: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A random colour that stands out from another one, float32 (3,), 0 to 255."""
    while True:
        other = random.uniform(30, 225, 3).astype(np.float32)
        if np.linalg.norm(other - colour) >= _LEAST_CONTRAST:
            return other


def texture(random: np.random.Generator, side: int, colour: npt.NDArray[np.float32], grain: float) -> Image.Image:
    """A square RGB image around a main colour.

    Args:
        random: decides everything else.
        side: in pixels.
        colour: float32 (3,), 0 to 255.
        grain: size in pixels of the coarsest spots.
    """
    other = colour + random.uniform(-1, 1, 3).astype(np.float32) * 60
    mix = _PATTERNS[random.integers(len(_PATTERNS))](random, side, grain)[..., None]  # (side, side, 1)
    fine = _spots(random, side, max(1.5, grain / 4))[..., None] - 0.5
    coarse = _spots(random, side, grain)[..., None] - 0.5
    pixels = colour + mix * (other - colour) + random.uniform(30, 80) * fine + random.uniform(20, 60) * coarse
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _spots(random: np.random.Generator, side: int, size: float) -> npt.NDArray[np.float32]:
    """Smooth noise of spots of that size, float32 (side, side), 0 to 1."""
    cells = max(2, int(side / size))
    noise = Image.fromarray(random.random((cells, cells), dtype=np.float32))
    return np.asarray(noise.resize((side, side), Image.Resampling.BICUBIC))


def _stripes(random: np.random.Generator, side: int, size: float) -> npt.NDArray[np.float32]:
    angle, period = random.uniform(0, np.pi), size * random.uniform(2, 5)
    line = np.arange(side, dtype=np.float32)
    phase = (np.cos(angle) * line[None, :] + np.sin(angle) * line[:, None]) * (2 * np.pi / period)
    return np.asarray(0.5 + 0.5 * np.tanh(3 * np.sin(phase)), dtype=np.float32)


def _checks(random: np.random.Generator, side: int, size: float) -> npt.NDArray[np.float32]:
    wave = np.sin(np.arange(side, dtype=np.float32) * (np.pi / (size * random.uniform(1.5, 3))))
    return np.asarray(0.5 + 0.5 * np.tanh(6 * wave[None, :] * wave[:, None]), dtype=np.float32)


def _dots(random: np.random.Generator, side: int, size: float) -> npt.NDArray[np.float32]:
    wave = np.cos(np.arange(side, dtype=np.float32) * (2 * np.pi / (size * random.uniform(2, 4))))
    return np.asarray(0.5 + 0.5 * np.tanh(4 * (wave[None, :] + wave[:, None] - 0.6)), dtype=np.float32)


_PATTERNS = (_spots, _stripes, _checks, _dots)
