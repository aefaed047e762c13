"""Deterministic weights and inputs, so that two implementations of one architecture can be compared
without exchanging weight files.

`fill(state_dict)` overwrites every floating-point tensor in place from a NumPy legacy stream that is
seeded by the tensor's own key, so equal keys and shapes give equal weights on any machine.
`image(h, w, seed)` and `clip(t, h, w, seed)` are smooth, natural-looking uint8 RGB inputs.

Needs numpy and torch only.
"""

from __future__ import annotations

import math
import zlib

import numpy as np
import torch
from numpy.typing import NDArray


def fill(state_dict: dict[str, torch.Tensor], salt: int = 0) -> None:
    """Overwrite each float tensor of `state_dict` in place; integer buffers keep what the builder put there."""
    for key, tensor in state_dict.items():
        if not tensor.is_floating_point() or tensor.is_quantized:
            continue
        rng = np.random.RandomState((zlib.crc32(key.encode()) + salt) % 2**32)
        shape = tuple(tensor.shape)
        name = key.rsplit(".", 1)[-1]
        if name == "running_var":
            value = rng.uniform(0.5, 1.5, shape)
        elif name == "running_mean" or name.endswith("bias"):
            value = 0.1 * rng.standard_normal(shape)
        elif tensor.dim() <= 1 or math.prod(shape[1:]) == 1:
            value = 1 + 0.1 * rng.standard_normal(shape)  # norm scales, layer scales, logit scales
        else:
            value = rng.standard_normal(shape) / math.sqrt(math.prod(shape[1:]))
        tensor.copy_(torch.from_numpy(np.asarray(value, dtype=np.float32)).to(tensor.dtype))


def image(h: int, w: int, seed: int = 0) -> NDArray[np.uint8]:
    """uint8 RGB image, shape (h, w, 3): a few smooth colour waves and hard-edged discs."""
    rng = np.random.RandomState(seed)
    y, x = np.mgrid[0:h, 0:w].astype(np.float64)
    out = np.zeros((h, w, 3))
    for c in range(3):
        for _ in range(4):
            fy, fx = rng.uniform(-6, 6, 2)
            phase = 2 * math.pi * (fy * y / h + fx * x / w)
            out[..., c] += np.sin(phase + rng.uniform(0, 6.283)) * rng.uniform(0.3, 1)
    for _ in range(6):
        cy, cx, r = rng.uniform(0, h), rng.uniform(0, w), rng.uniform(0.05, 0.25) * min(h, w)
        out[(y - cy) ** 2 + (x - cx) ** 2 < r * r] = rng.uniform(-2, 2, 3)
    return np.clip((out + 2.5) * 51, 0, 255).astype(np.uint8)


def clip(t: int, h: int, w: int, seed: int = 0) -> NDArray[np.uint8]:
    """uint8 RGB clip, shape (t, h, w, 3): `image` seen through a window that moves 2 px a frame."""
    big = image(h + 2 * t, w + 2 * t, seed)
    return np.stack([big[2 * i : 2 * i + h, 2 * i : 2 * i + w] for i in range(t)])
