"""The operator `zoofleet::paste_masks_to_rle`, which writes COCO's compressed run lengths of masks over boxes.

Letters in shapes: N masks, M rows and columns of a mask within its box, R runs of all masks.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from zoofleet.errors import InvalidArgumentError
from zoofleet.models.ops import _cuda, _library

__all__ = ["paste_masks_to_rle", "pasted_extents"]

torch.library.define(
    "zoofleet::paste_masks_to_rle",
    "(Tensor masks, Tensor boxes, int height, int width, float threshold) -> (Tensor, Tensor)",
)


def paste_masks_to_rle(masks: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float = 0.5) -> list[bytes]:
    """Encode where masks over boxes are above a threshold in their image.

    The result equals that of pasting each mask into the image, comparing and encoding it, but no image is ever held.

    Args:
        masks: (N, M, M), floating; probabilities within the box, taken as float32. A mask with a value that is not
            finite is encoded as empty.
        boxes: (N, 4), floating, on the same device; x1, y1, x2, y2 in pixels of the image.
        size: height and width of the image.
        threshold: a pixel belongs to a mask where its probability is above this; at least 0.

    Returns:
        N byte strings: COCO's compressed `counts`, which pycocotools reads.

    Raises:
        InvalidArgumentError: shapes, dtypes, devices, size or threshold are not as above.
    """
    counts, offsets = torch.ops.zoofleet.paste_masks_to_rle(masks, boxes, *size, threshold)
    data = counts.numpy().tobytes()
    return [data[begin:end] for begin, end in itertools.pairwise(offsets.tolist())]


def pasted_extents(boxes: Tensor, side: int) -> Tensor:
    """Return the pixels that masks with one zero on either side are stretched over.

    The zeros let a mask fade out at the edge of its box; boxes grow with it.

    Args:
        boxes: (N, 4), floating; x1, y1, x2, y2 in pixels.
        side: rows and columns of a mask without the zeros.

    Returns:
        (N, 4), int64: first column, first row, last column and last row, all of them covered.
    """
    center = (boxes[:, :2] + boxes[:, 2:]) * 0.5
    half = (boxes[:, 2:] - boxes[:, :2]) * (0.5 * (side + 2) / side)
    return torch.cat([center - half, center + half], dim=1).long()


def _check(masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float) -> None:
    if masks.ndim != 3 or masks.shape[1] != masks.shape[2] or masks.shape[1] == 0 or not masks.is_floating_point():
        raise InvalidArgumentError(
            f"masks are {tuple(masks.shape)} {masks.dtype}, not (N, M, M) of a floating dtype with M at least 1"
        )
    if boxes.shape != (masks.shape[0], 4) or not boxes.is_floating_point():
        raise InvalidArgumentError(
            f"boxes are {tuple(boxes.shape)} {boxes.dtype}, not ({masks.shape[0]}, 4) of a floating dtype"
        )
    if boxes.device != masks.device:
        raise InvalidArgumentError(f"boxes are on {boxes.device}, masks on {masks.device}")
    if height < 0 or width < 0 or height * width >= 1 << 32:
        raise InvalidArgumentError(f"size is ({height}, {width}), not two numbers of at least 0 and below 2**32 pixels")
    if not threshold >= 0:
        raise InvalidArgumentError(f"threshold is {threshold}, not a number of at least 0")


@torch.library.impl("zoofleet::paste_masks_to_rle", ("cpu", "cuda"))
def _paste_masks_to_rle(
    masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float
) -> tuple[Tensor, Tensor]:
    """Return the `counts` of all masks, uint8, and their offsets in there, int64 (N + 1,): both on the CPU."""
    _check(masks, boxes, height, width, threshold)
    if _cuda.lacks_kernels(masks):
        masks, boxes = masks.cpu(), boxes.cpu()
    count, side = masks.shape[:2]
    masks = masks.float().contiguous()
    finite = masks.isfinite().flatten(1).all(dim=1)
    # A single pixel outside the image stands for a mask that is not there.
    extents = pasted_extents(boxes, side).where(finite[:, None], -1).contiguous()
    params = _library.PasteParams(count, side, height, width, threshold)
    arguments = (ctypes.byref(params), masks.data_ptr(), extents.data_ptr())
    if (kernels := _cuda.kernels(masks.device)) is not None:
        return compress_runs(*_runs_on_cuda(kernels, arguments, masks, count, width))
    # Room for some runs in each column; masks that need more are encoded twice.
    return _encode(_library.cpu.zoofleet_paste_masks_to_rle, arguments, count, count * (4 * width + 16))


def _runs_on_cuda(
    kernels: _cuda.Kernels, arguments: tuple[object, ...], masks: Tensor, count: int, width: int
) -> tuple[Tensor, Tensor]:
    """Return the ends (R,) of the runs of all masks, and how many of them each mask has, (N,)."""
    changes = masks.new_empty(count, width, dtype=torch.int64)
    kernels.enqueue("zoofleet_paste_masks_runs_cuda", *arguments, changes.data_ptr(), None)
    runs = changes.sum(dim=1) + 1  # (N,)
    sums = changes.flatten().cumsum(0)
    ends = sums.new_zeros(int(runs.sum()))
    kernels.enqueue("zoofleet_paste_masks_runs_cuda", *arguments, sums.data_ptr(), ends.data_ptr())
    return ends, runs


def compress_runs(ends: Tensor, runs: Tensor) -> tuple[Tensor, Tensor]:
    """Compress runs that are given by where they end.

    Args:
        ends: (R,), int64, on any device: where the runs of each mask end, one mask after the other, counted in pixels
            from the mask's first, column by column.
        runs: (N,), int64: how many runs each mask has, at least 1.

    Returns:
        The `counts` of all masks, uint8, and their offsets in there, int64 (N + 1,): both on the CPU.
    """
    ends, runs = ends.cpu(), runs.cpu()
    kernel, arguments = _library.cpu.zoofleet_compress_runs, (ends.data_ptr(), runs.data_ptr(), len(runs))
    # Most runs are shorter than 1024 pixels, or differ by less from the run two before: two characters.
    return _encode(kernel, arguments, len(runs), 2 * len(ends))


def _encode(kernel: Callable[..., int], arguments: tuple[object, ...], count: int, room: int) -> tuple[Tensor, Tensor]:
    """Call a kernel that writes `counts`, again where they need more than `room` bytes."""
    offsets = torch.empty(count + 1, dtype=torch.int64)
    while True:
        counts = torch.empty(room, dtype=torch.uint8)
        _library.check(kernel(*arguments, torch.get_num_threads(), counts.data_ptr(), room, offsets.data_ptr()))
        needed = int(offsets[-1])
        if needed <= room:
            return counts[:needed].clone(), offsets
        room = needed


def _paste_masks_to_rle_fake(
    masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float
) -> tuple[Tensor, Tensor]:
    _check(masks, boxes, height, width, threshold)
    counts = torch.empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.uint8, device="cpu")
    return counts, torch.empty(masks.shape[0] + 1, dtype=torch.int64, device="cpu")


torch.library.register_fake("zoofleet::paste_masks_to_rle", _paste_masks_to_rle_fake)
