"""The operators that write COCO's compressed run lengths of masks, and the functions that call them."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from zoofleet.errors import InvalidArgumentError
from zoofleet.models.ops import _library

__all__ = ["paste_masks_to_rle", "pasted_extents", "rle_encode", "rle_encode_labels"]

torch.library.define(
    "zoofleet::paste_masks_to_rle",
    "(Tensor masks, Tensor boxes, int height, int width, float threshold) -> (Tensor, Tensor)",
)
torch.library.define("zoofleet::rle_encode", "(Tensor masks) -> (Tensor, Tensor)")
torch.library.define("zoofleet::rle_encode_labels", "(Tensor label_map) -> (Tensor, Tensor)")

_LABELS: Final = 256
_MAX_GROUPS: Final = 7
"""Characters that a number may take: 35 bits hold every 32-bit run length and every difference of two."""


def paste_masks_to_rle(masks: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float = 0.5) -> list[bytes]:
    """Run lengths of where masks over boxes are above a threshold in their image.

    Equal to pasting, comparing and encoding them one after the other, without ever holding an image of them.

    Args:
        masks: (N, M, M), floating; probabilities within the box, taken as float32. A mask with a value that is not
            finite is empty.
        boxes: (N, 4), floating, on the same device; x1, y1, x2, y2 in pixels of the image.
        size: height and width of the image.
        threshold: what a pixel must be above; at least 0.

    Returns:
        N times COCO's compressed `counts`, as pycocotools reads them.

    Raises:
        InvalidArgumentError: shapes, dtypes, devices, size or threshold are not as above.
        KernelLibraryError: the masks are on a CUDA device and the CUDA kernels do not load.
    """
    return _split(*torch.ops.zoofleet.paste_masks_to_rle(masks, boxes, *size, threshold))


def rle_encode(masks: Tensor) -> list[bytes]:
    """Run lengths of masks.

    Args:
        masks: (N, H, W), bool, or uint8 in which all but 0 counts as 1.

    Returns:
        N times COCO's compressed `counts`, as pycocotools reads them.

    Raises:
        InvalidArgumentError: the masks have another shape or dtype.
        KernelLibraryError: as for `paste_masks_to_rle`.
    """
    return _split(*torch.ops.zoofleet.rle_encode(masks))


def rle_encode_labels(label_map: Tensor) -> dict[int, bytes]:
    """Run lengths of each label of a label map.

    Args:
        label_map: (H, W), uint8.

    Returns:
        COCO's compressed `counts` of the mask of each label that is there, by rising label.

    Raises:
        InvalidArgumentError: the label map has another shape or dtype.
        KernelLibraryError: as for `paste_masks_to_rle`.
    """
    encoded = _split(*torch.ops.zoofleet.rle_encode_labels(label_map))
    return {label: counts for label, counts in enumerate(encoded) if counts}


def pasted_extents(boxes: Tensor, side: int) -> Tensor:
    """The pixels that masks with one zero on either side are stretched over, ends included.

    The zeros let a mask fade out at the edge of its box; boxes grow with it.

    Args:
        boxes: (N, 4), floating.
        side: rows and columns of a mask without the zeros.

    Returns:
        (N, 4), int64: first column, first row, last column, last row.
    """
    center = (boxes[:, :2] + boxes[:, 2:]) * 0.5
    half = (boxes[:, 2:] - boxes[:, :2]) * (0.5 * (side + 2) / side)
    return torch.cat([center - half, center + half], dim=1).long()


def _split(counts: Tensor, offsets: Tensor) -> list[bytes]:
    data, ends = counts.cpu().numpy().tobytes(), offsets.tolist()
    return [data[begin:end] for begin, end in itertools.pairwise(ends)]


def _check_paste(masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float) -> None:
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


def _check_masks(masks: Tensor) -> None:
    if masks.ndim != 3 or masks.dtype not in (torch.bool, torch.uint8):
        raise InvalidArgumentError(f"masks are {tuple(masks.shape)} {masks.dtype}, not (N, H, W) of bool or uint8")


def _check_label_map(label_map: Tensor) -> None:
    if label_map.ndim != 2 or label_map.dtype != torch.uint8:
        raise InvalidArgumentError(f"label_map is {tuple(label_map.shape)} {label_map.dtype}, not (H, W) of uint8")


@torch.library.impl("zoofleet::paste_masks_to_rle", ("cpu", "cuda"))
def _paste_masks_to_rle(
    masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float
) -> tuple[Tensor, Tensor]:
    _check_paste(masks, boxes, height, width, threshold)
    count, side = masks.shape[:2]
    masks = masks.float().contiguous()
    finite = masks.isfinite().flatten(1).all(dim=1)
    # A single pixel outside the image stands for a mask that is not there.
    extents = pasted_extents(boxes, side).where(finite[:, None], -1).contiguous()
    params = _library.PasteParams(count, side, height, width, threshold)
    arguments = (ctypes.byref(params), masks.data_ptr(), extents.data_ptr())
    if masks.is_cuda:
        return _encode_on_cuda("zoofleet_paste_masks_runs_cuda", arguments, masks, count, height, width)
    return _encode(_library.cpu.zoofleet_paste_masks_to_rle, arguments, count, _usual_bytes(count, width))


@torch.library.impl("zoofleet::rle_encode", ("cpu", "cuda"))
def _rle_encode(masks: Tensor) -> tuple[Tensor, Tensor]:
    _check_masks(masks)
    masks = masks.contiguous()
    arguments = (masks.data_ptr(), *masks.shape)
    if masks.is_cuda:
        return _encode_on_cuda("zoofleet_rle_runs_cuda", arguments, masks, *masks.shape)
    usual = _usual_bytes(len(masks), masks.shape[2])
    return _encode(_library.cpu.zoofleet_rle_encode, arguments, len(masks), usual)


@torch.library.impl("zoofleet::rle_encode_labels", "cpu")
def _rle_encode_labels(label_map: Tensor) -> tuple[Tensor, Tensor]:
    _check_label_map(label_map)
    label_map = label_map.contiguous()
    arguments = (label_map.data_ptr(), *label_map.shape)
    return _encode(_library.cpu.zoofleet_rle_encode_labels, arguments, _LABELS, _usual_bytes(16, label_map.shape[1]))


@torch.library.impl("zoofleet::rle_encode_labels", "cuda")
def _rle_encode_labels_on_cuda(label_map: Tensor) -> tuple[Tensor, Tensor]:
    _check_label_map(label_map)
    present = label_map.flatten().bincount(minlength=_LABELS).nonzero()  # (K, 1)
    counts, offsets = torch.ops.zoofleet.rle_encode(label_map == present[:, :, None])
    lengths = offsets.new_zeros(_LABELS)
    lengths[present[:, 0]] = offsets.diff()
    return counts, _offsets(lengths)


def _paste_masks_to_rle_fake(
    masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float
) -> tuple[Tensor, Tensor]:
    _check_paste(masks, boxes, height, width, threshold)
    return _encoded_fake(masks, masks.shape[0])


def _rle_encode_fake(masks: Tensor) -> tuple[Tensor, Tensor]:
    _check_masks(masks)
    return _encoded_fake(masks, masks.shape[0])


def _rle_encode_labels_fake(label_map: Tensor) -> tuple[Tensor, Tensor]:
    _check_label_map(label_map)
    return _encoded_fake(label_map, _LABELS)


def _encoded_fake(like: Tensor, count: int) -> tuple[Tensor, Tensor]:
    counts = like.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.uint8)
    return counts, like.new_empty(count + 1, dtype=torch.int64)


def _usual_bytes(count: int, width: int) -> int:
    """Room for some runs in each column; what needs more is encoded twice."""
    return count * (4 * width + 16)


def _encode(kernel: Callable[..., int], arguments: tuple[object, ...], count: int, room: int) -> tuple[Tensor, Tensor]:
    offsets = torch.empty(count + 1, dtype=torch.int64)
    while True:
        counts = torch.empty(room, dtype=torch.uint8)
        _library.check(kernel(*arguments, torch.get_num_threads(), counts.data_ptr(), room, offsets.data_ptr()))
        needed = int(offsets[-1])
        if needed <= room:
            return counts[:needed].clone(), offsets
        room = needed


def _encode_on_cuda(
    function: str, arguments: tuple[object, ...], like: Tensor, count: int, height: int, width: int
) -> tuple[Tensor, Tensor]:
    kernel = getattr(_library.cuda(), function)
    with torch.cuda.device(like.device):
        stream = torch.cuda.current_stream().cuda_stream
        changes = like.new_empty(count, width, dtype=torch.int64)
        _library.check(kernel(*arguments, changes.data_ptr(), None, stream))
        runs = changes.sum(dim=1) + 1  # (N,)
        sums = changes.flatten().cumsum(0)
        ends = sums.new_zeros(int(runs.sum()))
        _library.check(kernel(*arguments, sums.data_ptr(), ends.data_ptr(), stream))
    return compress(ends, runs)


def compress(ends: Tensor, runs: Tensor) -> tuple[Tensor, Tensor]:
    """Compress runs that are given by where they end: what the CUDA kernels leave to be done.

    Args:
        ends: (R,), int64: ends of the runs of all masks, one mask after the other.
        runs: (N,), int64: how many of them each mask has, at least 1.

    Returns:
        The `counts` of all masks, uint8, and their offsets in there, int64 (N + 1,).
    """
    first = runs.cumsum(0) - runs  # (N,)
    index = torch.arange(len(ends), device=ends.device) - first.repeat_interleave(runs)  # of each run in its mask
    numbers = ends - ends.roll(1).where(index > 0, 0)  # (R,)
    numbers = numbers - numbers.roll(2).where(index > 2, 0)
    shifts = 5 * torch.arange(_MAX_GROUPS, device=ends.device)
    groups = (numbers[:, None] >> shifts) & 31  # (R, _MAX_GROUPS)
    # `length` groups hold a number if nothing but its sign is left above their 5 * length - 1 value bits.
    above = numbers[:, None] >> (shifts[1:] - 1)
    lengths = 1 + ((above != 0) & (above != -1)).sum(dim=1)  # (R,)
    place = torch.arange(_MAX_GROUPS, device=ends.device)
    characters = 48 + groups + 32 * (place < lengths[:, None] - 1)
    counts = characters[place < lengths[:, None]].to(torch.uint8)
    last = _offsets(lengths)
    return counts, torch.cat([last[:1], last[first + runs]])


def _offsets(lengths: Tensor) -> Tensor:
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])


torch.library.register_fake("zoofleet::paste_masks_to_rle", _paste_masks_to_rle_fake)
torch.library.register_fake("zoofleet::rle_encode", _rle_encode_fake)
torch.library.register_fake("zoofleet::rle_encode_labels", _rle_encode_labels_fake)
