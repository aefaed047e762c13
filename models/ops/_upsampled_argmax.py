"""The operator `zoofleet::upsampled_argmax`: from a segmenter's logits to the label of each pixel of an image.

Letters in shapes: C categories, h and w rows and columns of the logits, H and W pixels of the image.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from zoofleet.errors import InvalidArgumentError
from zoofleet.models.ops import _cuda, _library

__all__ = ["upsampled_argmax"]

torch.library.define("zoofleet::upsampled_argmax", "(Tensor logits, int height, int width) -> Tensor")

_MOST_CATEGORIES: Final = 256
"""What a byte counts."""


def upsampled_argmax(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the best category of each pixel after the bilinear interpolation of logits to an image's size.

    The result equals that of `torch.lerp` between rows, `interpolate` between columns and `argmax`, but the logits of
    the image are never held: those of a photograph of 50 megapixels would take 4 GB.

    Args:
        logits: (C, h, w), floating, taken as float32; C at most 256, none of the sizes 0. In memory either each
            category's map lies in one piece or, as in channels-last batches, each cell's categories do; otherwise they
            are copied first.
        size: H and W of the image.

    Returns:
        (H, W), uint8, on the device of the logits. Of equal categories the first counts, and NaN is the highest.

    Raises:
        InvalidArgumentError: shape, dtype or size are not as above.
    """
    labels: Tensor = torch.ops.zoofleet.upsampled_argmax(logits, *size)
    return labels


def _check(logits: Tensor, height: int, width: int) -> None:
    if logits.ndim != 3 or 0 in logits.shape or not logits.is_floating_point():
        raise InvalidArgumentError(
            f"logits are {tuple(logits.shape)} {logits.dtype}, not (C, h, w) of a floating dtype and without a 0"
        )
    if logits.shape[0] > _MOST_CATEGORIES:
        raise InvalidArgumentError(f"logits of {logits.shape[0]} categories; accepted: at most {_MOST_CATEGORIES}")
    if min(height, width) < 0:
        raise InvalidArgumentError(f"size is ({height}, {width}), not two numbers of at least 0")


_Floats = npt.NDArray[np.float32]


@lru_cache(maxsize=64)
def _rows(full: int, out: int) -> tuple[npt.NDArray[np.int32], _Floats]:
    """Return the row above each output row, and the weight of the row below, in float32 step by step."""
    half = np.float32(0.5)
    source = ((np.arange(out, dtype=np.float32) + half) * np.float32(full / max(out, 1)) - half).clip(min=0)
    above = source.astype(np.int32).clip(max=full - 1)
    return above, source - above.astype(np.float32)


@lru_cache(maxsize=64)
def _columns(full: int, out: int) -> tuple[npt.NDArray[np.int32], _Floats, _Floats]:
    """Return the column left of each output column, and the weights of that and of the next, as `interpolate` has them.

    It computes a position by one fused multiply-add in float32, which is what double gives when it is rounded at the
    end, since the product of two floats fits into it.
    """
    scale = np.float32(full) / np.float32(max(out, 1))
    center = np.arange(out, dtype=np.float32) + np.float32(0.5)
    source = (center.astype(np.float64) * np.float64(scale) - 0.5).astype(np.float32).clip(min=0)
    left = source.astype(np.int32).clip(max=full - 1)
    right_weight = (source - left.astype(np.float32)).clip(0, 1)
    return left, np.float32(1) - right_weight, right_weight


@torch.library.impl("zoofleet::upsampled_argmax", ("cpu", "cuda"))
def _upsampled_argmax(logits: Tensor, height: int, width: int) -> Tensor:
    _check(logits, height, width)
    if _cuda.lacks_kernels(logits):
        labels: Tensor = _cuda.on_host(torch.ops.zoofleet.upsampled_argmax, logits, height, width)
        return labels
    logits = logits.float()
    interleaved = logits.permute(1, 2, 0).is_contiguous()
    if not interleaved:
        logits = logits.contiguous()
    output = torch.empty(height, width, dtype=torch.uint8, device=logits.device)
    arrays = [
        torch.from_numpy(array).to(logits.device)
        for array in (*_rows(logits.shape[1], height), *_columns(logits.shape[2], width))
    ]
    taps = _library.ArgmaxTaps(*(array.data_ptr() for array in arrays))
    params = _library.ArgmaxParams(*logits.shape, height, width, interleaved)
    pointers = (ctypes.byref(params), ctypes.byref(taps), logits.data_ptr())
    if (kernels := _cuda.kernels(logits.device)) is not None:
        kernels.enqueue("zoofleet_upsampled_argmax_cuda", *pointers, output.data_ptr())
    else:
        kernel = _library.cpu.zoofleet_upsampled_argmax
        _library.check(kernel(*pointers, torch.get_num_threads(), output.data_ptr()))
    return output


def _upsampled_argmax_fake(logits: Tensor, height: int, width: int) -> Tensor:
    _check(logits, height, width)
    return logits.new_empty(height, width, dtype=torch.uint8)


torch.library.register_fake("zoofleet::upsampled_argmax", _upsampled_argmax_fake)
