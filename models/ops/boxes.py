"""Arithmetic on boxes x1, y1, x2, y2.

Letters in shapes: N boxes or masks, M boxes of a second set or that are kept, H and W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zoofleet.errors import InvalidArgumentError
from zoofleet.models.ops._kernels import batched_nms, nms

__all__ = [
    "batched_nms",
    "box_area",
    "box_convert",
    "box_iou",
    "clip_boxes_to_image",
    "generalized_box_iou",
    "masks_to_boxes",
    "nms",
    "remove_small_boxes",
]


def _upcast(boxes: Tensor) -> Tensor:
    """Return boxes in a dtype in which products of coordinates do not overflow: a half ends at 65,504."""
    if boxes.is_floating_point():
        return boxes if boxes.dtype in (torch.float32, torch.float64) else boxes.float()
    return boxes.long()


def box_area(boxes: Tensor) -> Tensor:
    """Compute the area of each box.

    Args:
        boxes: (N, 4), of any real dtype.

    Returns:
        (N,): float32 or float64 for floating boxes, else int64.
    """
    x1, y1, x2, y2 = _upcast(boxes).unbind(-1)
    return (x2 - x1) * (y2 - y1)


def box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Compute the intersection over union of each pair of boxes.

    Args:
        boxes1: (N, 4), of any real dtype.
        boxes2: (M, 4), of the same dtype.

    Returns:
        (N, M), floating, in [0, 1] where x1 <= x2 and y1 <= y2; NaN for a pair of empty boxes.
    """
    intersection, union = _intersection_and_union(boxes1, boxes2)
    return intersection / union


def generalized_box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Compute the generalised intersection over union of each pair of boxes.

    Source: Rezatofighi et al., "Generalized Intersection over Union", arXiv:1902.09630, algorithm 1.

    Args:
        boxes1: (N, 4), of any real dtype.
        boxes2: (M, 4), of the same dtype.

    Returns:
        (N, M), floating, in [-1, 1] where x1 <= x2 and y1 <= y2; NaN for a pair of empty boxes.
    """
    first, second = _upcast(boxes1)[:, None], _upcast(boxes2)[None]  # (N, 1, 4), (1, M, 4)
    intersection, union = _intersection_and_union(boxes1, boxes2)
    low = torch.minimum(first[..., :2], second[..., :2])  # (N, M, 2)
    high = torch.maximum(first[..., 2:], second[..., 2:])  # (N, M, 2)
    around = (high - low).prod(-1)  # (N, M)
    return intersection / union - (around - union) / around


def _intersection_and_union(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    """Return the area that both boxes of each pair cover, and the area that at least one covers: (N, M) each."""
    first, second = _upcast(boxes1)[:, None], _upcast(boxes2)[None]  # (N, 1, 4), (1, M, 4)
    low = torch.maximum(first[..., :2], second[..., :2])  # (N, M, 2)
    high = torch.minimum(first[..., 2:], second[..., 2:])  # (N, M, 2)
    intersection = (high - low).clamp(min=0).prod(-1)  # (N, M)
    return intersection, box_area(boxes1)[:, None] + box_area(boxes2) - intersection


def box_convert(boxes: Tensor, in_fmt: str, out_fmt: str) -> Tensor:
    """Convert boxes from one format to another.

    Args:
        boxes: (..., 4), in the format `in_fmt`.
        in_fmt: `xyxy` for two corners, `xywh` for the first corner with width and height, `cxcywh` for the centre with
            width and height.
        out_fmt: one of the same three.

    Returns:
        Boxes of the same shape, in the format `out_fmt`; a copy also where the two formats are the same.

    Raises:
        InvalidArgumentError: a format is something else.
    """
    for fmt in (in_fmt, out_fmt):
        if fmt not in ("xyxy", "xywh", "cxcywh"):
            raise InvalidArgumentError(f"a format of boxes must be 'xyxy', 'xywh' or 'cxcywh', got {fmt!r}")
    if in_fmt == out_fmt:
        return boxes.clone()
    first, second = boxes[..., :2], boxes[..., 2:]
    if in_fmt == "xyxy":
        start, size = first, second - first
    else:
        start, size = (first if in_fmt == "xywh" else first - second / 2), second
    if out_fmt == "xyxy":
        return torch.cat((start, start + size), dim=-1)
    return torch.cat((start if out_fmt == "xywh" else start + size / 2, size), dim=-1)


def masks_to_boxes(masks: Tensor) -> Tensor:
    """Find the boxes around masks.

    Args:
        masks: (N, H, W), of any dtype; a pixel belongs to the object where it is not 0. None may be empty.

    Returns:
        (N, 4), float32: the first and the last column and row of each object, as x1, y1, x2, y2.

    Raises:
        InvalidArgumentError: a mask is empty.
    """
    boxes = masks.new_zeros((len(masks), 4), dtype=torch.float32)
    for box, mask in zip(boxes, masks, strict=True):
        y, x = torch.where(mask != 0)
        if not len(x):
            raise InvalidArgumentError("masks_to_boxes takes masks with an object in each, got an empty one")
        box.copy_(torch.stack((x.min(), y.min(), x.max(), y.max())))
    return boxes


def clip_boxes_to_image(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Move each corner to the nearest point of the image.

    Args:
        boxes: (..., 4), in pixels.
        size: height and width of the image in pixels.

    Returns:
        Boxes of the same shape and dtype, with x in [0, width] and y in [0, height].
    """
    height, width = size
    x1, y1, x2, y2 = boxes.unbind(-1)
    clipped = (x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width), y2.clamp(0, height))
    return torch.stack(clipped, dim=-1)  # (..., 4)


def remove_small_boxes(boxes: Tensor, min_size: float) -> Tensor:
    """Find the boxes that are not small.

    Args:
        boxes: (N, 4), in pixels.
        min_size: least length in pixels of both sides of a box that is kept.

    Returns:
        (M,), int64: the indices of these boxes, ascending.
    """
    x1, y1, x2, y2 = boxes.unbind(-1)
    return ((x2 - x1 >= min_size) & (y2 - y1 >= min_size)).nonzero().squeeze(1)  # (M,)
