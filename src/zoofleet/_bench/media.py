"""Pictures to send where the user has none at hand."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

__all__ = ["synthetic_jpegs"]

_CELLS = 12
"""Patches along the shorter side: with some noise on top, such JPEGs have about the bytes of photographs."""


def synthetic_jpegs(width: int, height: int, count: int, seed: int = 0) -> list[bytes]:
    """Return different JPEGs of quality 90 with soft patches of colour and fine noise.

    Args:
        width: pixels.
        height: pixels.
        count: number of pictures.
        seed: equal seeds give equal pictures.
    """
    rng = np.random.default_rng(seed)
    scale = _CELLS / min(width, height)
    cells = (max(round(height * scale), 2), max(round(width * scale), 2), 3)
    pictures = []
    for _ in range(count):
        patches = Image.fromarray(rng.integers(0, 256, cells, dtype=np.uint8))
        smooth = np.asarray(patches.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = (smooth + rng.normal(0, 6, smooth.shape)).clip(0, 255).astype(np.uint8)
        encoded = io.BytesIO()
        Image.fromarray(noisy).save(encoded, "JPEG", quality=90)
        pictures.append(encoded.getvalue())
    return pictures
