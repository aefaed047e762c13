"""The operator `zoofleet::resize_normalize`: from the bytes of an image to what a model takes, in one go.

Letters in shapes: H and W pixels of the image.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from zoofleet.errors import InvalidArgumentError
from zoofleet.models.ops import _cuda, _library

__all__ = ["resize_normalize"]

torch.library.define(
    "zoofleet::resize_normalize",
    "(Tensor image, int[] origin, int[] full_size, int[] size, int[] crop, bool bicubic, Tensor table) -> Tensor",
)

_BITS: Final = 22
"""Bits of a weight after the binary point, as Pillow has them for 8-bit images (PRECISION_BITS of its Resample.c)."""

_DTYPES: Final = (torch.float32, torch.bfloat16, torch.float16)


def resize_normalize(
    image: Image.Image | Tensor,
    size: tuple[int, int],
    crop: tuple[int, int, int, int],
    mean: Sequence[float],
    std: Sequence[float],
    interpolation: Literal["bilinear", "bicubic"] = "bilinear",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Resize an image as Pillow does, to the last bit, crop it, scale it to [0, 1] and normalise it.

    The width is changed first. So does Pillow, but for versions from 13 on where the height loses more than twice as
    many pixels as the width.

    Args:
        image: RGB Pillow image, or uint8 (H, W, 3); not empty.
        size: (height, width) to resize to, at least 1; antialiased where that is smaller.
        crop: (top, left, height, width) in pixels of the resized image; what lies outside of it is black.
        mean: mean of each of R, G and B, for values in [0, 1].
        std: standard deviation of each of R, G and B.
        interpolation: the filter, `bilinear` or `bicubic`.
        dtype: float32, or bfloat16 or float16, to which the float32 result is rounded.

    Returns:
        (3, height, width) of the crop, on the image's device.

    Raises:
        InvalidArgumentError: an argument is not as above.
    """
    bicubic = interpolation == "bicubic"
    if interpolation not in ("bilinear", "bicubic"):
        raise InvalidArgumentError(f"interpolation is {interpolation!r}, not 'bilinear' or 'bicubic'")
    if dtype not in _DTYPES:
        raise InvalidArgumentError(f"dtype is {dtype}, not one of {', '.join(map(str, _DTYPES))}")
    table = _table(tuple(mean), tuple(std), dtype)
    full_size: tuple[int, ...]
    if isinstance(image, Tensor):
        full_size, origin = tuple(image.shape[:2]), (0, 0)
    else:
        if image.mode != "RGB":
            raise InvalidArgumentError(f"a Pillow image of mode {image.mode!r}, not 'RGB'")
        # Pillow takes longer to hand pixels out than they take to be resized: only those that the crop needs.
        full_size = (image.height, image.width)
        rows, columns = _plan(full_size, size, crop, bicubic)
        origin = (rows.begin, columns.begin)
        part = image.crop((columns.begin, rows.begin, columns.end, rows.end))
        image = torch.from_numpy(np.require(part, np.uint8, "W"))  # (h, w, 3), copied only where it is read-only
    done: Tensor = torch.ops.zoofleet.resize_normalize(image, origin, full_size, size, crop, bicubic, table)
    return done


@lru_cache(maxsize=64)
def _table(mean: tuple[float, ...], std: tuple[float, ...], dtype: torch.dtype) -> Tensor:
    """Return the normalised value of each byte in each channel, (3, 256)."""
    if len(mean) != 3 or len(std) != 3:
        raise InvalidArgumentError(f"mean is {mean} and std {std}, not three numbers each")
    levels = torch.arange(256).float().div(255)
    return ((levels - torch.tensor(mean)[:, None]) / torch.tensor(std)[:, None]).to(dtype)


@dataclass(frozen=True, slots=True, eq=False)
class _Taps:
    """What output pixels along one axis read.

    Attributes:
        firsts: the first pixel that each output pixel reads.
        weights: for each output pixel the weights of the pixels from that one on, as multiples of 2**-22.
        begin: the first pixel that any of them reads.
        end: the pixel after the last that any of them reads.
    """

    firsts: npt.NDArray[np.int32]
    weights: npt.NDArray[np.int32]
    begin: int
    end: int


@lru_cache(maxsize=64)
def _taps(full: int, out: int, start: int, count: int, bicubic: bool) -> _Taps:
    """Return what output pixels [start, start + count) read when `full` pixels become `out`, in Pillow's arithmetic."""
    scale = full / out
    stretch = max(scale, 1.0)
    support = (2.0 if bicubic else 1.0) * stretch
    index = np.arange(start, start + count)
    center = (index.clip(0, out - 1) + 0.5) * scale
    begin = (center - support + 0.5).astype(np.int64).clip(min=0)
    end = (center + support + 0.5).astype(np.int64).clip(max=full)
    width = int((end - begin).max(initial=1))
    weights = np.zeros((count, width))
    total = np.zeros(count)
    for k in range(width):  # one by one, as the order of the sum decides its last bit
        weights[:, k] = np.where(begin + k < end, _filter((k + begin - center + 0.5) * (1.0 / stretch), bicubic), 0)
        total += weights[:, k]
    weights /= np.where(total == 0, 1, total)[:, None]
    fixed = np.trunc(weights * (1 << _BITS) + np.copysign(0.5, weights)).astype(np.int32)
    fixed[(index < 0) | (index >= out)] = 0  # outside is black
    # Windows at the far edge are shorter: they begin earlier, with zeros.
    firsts = np.minimum(begin, full - width)
    shift = (begin - firsts)[:, None]
    place = np.arange(width) - shift
    fixed = np.where(place >= 0, np.take_along_axis(fixed, place.clip(min=0), 1), 0)
    low = int(firsts.min(initial=full - width))
    high = int(firsts.max(initial=0)) + width
    return _Taps(firsts.astype(np.int32), np.ascontiguousarray(fixed, np.int32), low, max(high, low + width))


def _filter(x: npt.NDArray[np.float64], bicubic: bool) -> npt.NDArray[np.float64]:
    """Return the filter's weights at distances x from the centre: the triangle's, or Keys' cubic's with a = -0.5."""
    x = np.abs(x)
    if not bicubic:
        return np.where(x < 1, 1 - x, 0)
    a = -0.5
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def _plan(full_size: Sequence[int], size: Sequence[int], crop: Sequence[int], bicubic: bool) -> tuple[_Taps, _Taps]:
    """Return what the rows and what the columns of the crop read."""
    if len(size) != 2 or min(size) < 1 or max(size) >= 1 << 31:
        raise InvalidArgumentError(f"size is {tuple(size)}, not two numbers of at least 1")
    if len(crop) != 4 or min(crop[2:]) < 0:
        raise InvalidArgumentError(f"crop is {tuple(crop)}, not top, left, height and width, the latter at least 0")
    if len(full_size) != 2 or min(full_size) < 1:
        raise InvalidArgumentError(f"an image of {tuple(full_size)} pixels, not of at least one each way")
    return (
        _taps(full_size[0], size[0], crop[0], crop[2], bicubic),
        _taps(full_size[1], size[1], crop[1], crop[3], bicubic),
    )


def _check(image: Tensor, crop: Sequence[int], table: Tensor) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != torch.uint8:
        raise InvalidArgumentError(f"image is {tuple(image.shape)} {image.dtype}, not (H, W, 3) of uint8")
    if table.shape != (3, 256) or table.dtype not in _DTYPES:
        raise InvalidArgumentError(f"table is {tuple(table.shape)} {table.dtype}, not (3, 256) of {_DTYPES}")


@torch.library.impl("zoofleet::resize_normalize", ("cpu", "cuda"))
def _resize_normalize(
    image: Tensor,
    origin: Sequence[int],
    full_size: Sequence[int],
    size: Sequence[int],
    crop: Sequence[int],
    bicubic: bool,
    table: Tensor,
) -> Tensor:
    _check(image, crop, table)
    rows, columns = _plan(full_size, size, crop, bicubic)
    for taps, first, length in zip((rows, columns), origin, image.shape, strict=False):
        if taps.begin < first or taps.end > first + length:
            raise InvalidArgumentError(
                f"an image that starts at {tuple(origin)} and is {tuple(image.shape[:2])} lacks pixels of the crop"
            )
    if _cuda.lacks_kernels(image):
        options = (origin, full_size, size, crop, bicubic)
        resized: Tensor = _cuda.on_host(torch.ops.zoofleet.resize_normalize, image, *options, table)
        return resized
    image, table = image.contiguous(), table.to(image.device).contiguous()
    output = torch.empty(3, *crop[2:], dtype=table.dtype, device=image.device)
    arrays = [
        torch.from_numpy(array).to(image.device)
        for taps, first in zip((rows, columns), origin, strict=True)
        for array in (taps.firsts - np.int32(first), taps.weights)
    ]
    taps_pointer = _library.ResizeTaps(*(array.data_ptr() for array in arrays))
    params = _library.ResizeParams(
        *image.shape[:2], *crop[2:], rows.weights.shape[1], columns.weights.shape[1], table.element_size()
    )
    pointers = (ctypes.byref(params), ctypes.byref(taps_pointer), image.data_ptr(), table.data_ptr())
    if (kernels := _cuda.kernels(image.device)) is not None:
        workspace = image.new_empty(image.shape[0], crop[3], 3)
        kernels.enqueue("zoofleet_resize_normalize_cuda", *pointers, workspace.data_ptr(), output.data_ptr())
    else:
        kernel = _library.cpu.zoofleet_resize_normalize
        _library.check(kernel(*pointers, torch.get_num_threads(), output.data_ptr()))
    return output


def _resize_normalize_fake(
    image: Tensor,
    origin: Sequence[int],
    full_size: Sequence[int],
    size: Sequence[int],
    crop: Sequence[int],
    bicubic: bool,
    table: Tensor,
) -> Tensor:
    _check(image, crop, table)
    return image.new_empty(3, *crop[2:], dtype=table.dtype)


torch.library.register_fake("zoofleet::resize_normalize", _resize_normalize_fake)
