"""Resizing, cropping and normalising with the arithmetic that the published weights were evaluated with.

Pictures are Pillow images or tensors of shape (..., C, H, W), uint8 or floating point. Pillow images keep Pillow's own
filters; tensors agree with them within 1/255, but for hard edges in pure black or white under bicubic, which
overshoots: Pillow cuts that off after each axis, tensors once at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from zoofleet.errors import InvalidArgumentError
from zoofleet.models.ops import resize_normalize

Picture = Image.Image | Tensor
Interpolation = Literal["bilinear", "bicubic"]

_PILLOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def checked(image: Picture) -> Picture:
    """The image as RGB, if it is a Pillow image; a tensor is only looked at.

    Raises:
        InvalidArgumentError: neither an image nor a tensor (..., 3, H, W) of uint8 or floating point.
    """
    if isinstance(image, Image.Image):
        return image if image.mode == "RGB" else image.convert("RGB")
    if not isinstance(image, Tensor):
        raise InvalidArgumentError(f"expected a PIL image or a tensor, got {type(image).__name__}")
    if image.ndim < 3 or image.shape[-3] != 3 or 0 in image.shape:
        raise InvalidArgumentError(f"expected a tensor of shape (..., 3, H, W), got {tuple(image.shape)}")
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise InvalidArgumentError(f"expected a tensor of uint8 or floating point, got {image.dtype}")
    return image


def size_of(image: Picture) -> tuple[int, int]:
    """Height and width in pixels."""
    if isinstance(image, Image.Image):
        return image.height, image.width
    return image.shape[-2], image.shape[-1]


def resized_size(image_size: tuple[int, int], size: Sequence[int]) -> tuple[int, int]:
    """What `resize` makes of an image's height and width."""
    h, w = image_size
    if len(size) == 2:
        return size[0], size[1]
    long = int(size[0] * max(h, w) / min(h, w))
    return (size[0], long) if h <= w else (long, size[0])


def resize(image: Picture, size: Sequence[int], mode: Interpolation, antialias: bool = True) -> Picture:
    """Resize to (height, width), or with one number to that shorter side, the longer one rounded down.

    A Pillow image is always antialiased; `antialias` is for tensors.
    """
    out = resized_size(size_of(image), size)
    if out == size_of(image):
        return image
    if isinstance(image, Image.Image):
        return image.resize((out[1], out[0]), _PILLOW[mode])
    flat = image.reshape(-1, *image.shape[-3:])  # (N, C, H, W)
    work = flat if flat.dtype in (torch.float32, torch.float64) else flat.float()
    done = F.interpolate(work, out, mode=mode, align_corners=False, antialias=antialias)
    if image.dtype == torch.uint8:
        done = done.round().clamp(0, 255)  # bicubic overshoots
    return done.to(image.dtype).reshape(*image.shape[:-2], *out)  # (..., C, H', W')


def center_crop(image: Picture, size: tuple[int, int]) -> Picture:
    """The middle (height, width); what an image lacks is added as black, the odd pixel right and below."""
    h, w = size_of(image)
    ch, cw = size
    top, left = crop_origin((h, w), size)
    if isinstance(image, Image.Image):
        return image.crop((left, top, left + cw, top + ch))  # outside is black
    inside = image[..., max(top, 0) : max(top, 0) + min(ch, h), max(left, 0) : max(left, 0) + min(cw, w)]
    pad_left, pad_top = max(-left, 0), max(-top, 0)
    return F.pad(inside, (pad_left, max(cw - w, 0) - pad_left, pad_top, max(ch - h, 0) - pad_top))


def crop_origin(image_size: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Top and left of the middle (height, width); negative where the image is smaller."""
    # An odd margin is halved to the nearest even number, in the way the reference rounds.
    top, left = (
        round((have - want) / 2) if want <= have else -((want - have) // 2)
        for have, want in zip(image_size, size, strict=True)
    )
    return top, left


def to_bytes(image: Picture) -> Tensor:
    """uint8 tensor (C, H, W), channels last in memory, of a Pillow image; a tensor as it is."""
    if isinstance(image, Image.Image):
        return torch.from_numpy(np.require(image, np.uint8, "W")).permute(2, 0, 1)
    return image


def to_float(image: Picture) -> Tensor:
    """Float tensor (..., C, H, W) in [0, 1]; a floating-point tensor is taken to be in that range already."""
    image = to_bytes(image)
    if image.dtype == torch.uint8:
        return image.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
    return image


def normalize(image: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(image - mean) / std for each channel of a floating-point tensor (..., C, H, W)."""
    shift = torch.tensor(mean, dtype=image.dtype, device=image.device).view(-1, 1, 1)
    scale = torch.tensor(std, dtype=image.dtype, device=image.device).view(-1, 1, 1)
    return (image - shift) / scale


def resize_crop_normalize(
    image: Picture,
    resize_size: int,
    crop_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    interpolation: Interpolation,
    antialias: bool,
) -> Tensor:
    """`resize`, `center_crop`, `to_float` and `normalize`, for Pillow images in one go with the same result."""
    crop = (crop_size, crop_size)
    if isinstance(image, Image.Image):
        h, w = size_of(image)
        out = resized_size((h, w), (resize_size,))
        # Where the height loses more than twice as many pixels as the width, Pillow 13 begins with the height; earlier
        # ones never do.
        if h - out[0] <= 2 * max(w - out[1], 0) or h <= out[0]:
            return resize_normalize(image, out, (*crop_origin(out, crop), *crop), mean, std, interpolation)
    resized = resize(image, (resize_size,), interpolation, antialias)
    return normalize(to_float(center_crop(resized, crop)), mean, std)
