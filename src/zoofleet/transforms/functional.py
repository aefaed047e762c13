"""Conversions of tensors to images."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from zoofleet.errors import InvalidArgumentError

__all__ = ["to_pil_image"]


def to_pil_image(picture: Tensor) -> Image.Image:
    """Return a tensor as a Pillow image, of mode RGB, or of mode L for a single channel.

    Args:
        picture: (3, H, W), (1, H, W) or (H, W), uint8, or floating point in [0, 1]. Values beyond are clipped.

    Raises:
        InvalidArgumentError: the tensor has another shape or type.
    """
    planes = picture[None] if picture.ndim == 2 else picture
    if planes.ndim != 3 or planes.shape[0] not in (1, 3):
        raise InvalidArgumentError(f"a tensor of shape {tuple(picture.shape)}; accepted: (3, H, W), (1, H, W), (H, W)")
    if planes.is_floating_point():
        planes = planes.mul(255).clamp(0, 255).to(torch.uint8)
    elif planes.dtype != torch.uint8:
        raise InvalidArgumentError(f"a tensor of type {picture.dtype}; accepted: uint8, floating point")
    pixels = planes.permute(1, 2, 0).detach().cpu().numpy()  # (H, W, C)
    return Image.fromarray(pixels[..., 0] if planes.shape[0] == 1 else pixels)
