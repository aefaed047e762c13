"""Arithmetic on boxes x1, y1, x2, y2."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["box_area", "box_iou", "clip_boxes_to_image", "remove_small_boxes"]


def _upcast(boxes: Tensor) -> Tensor:
    """A dtype in which products of coordinates neither overflow nor round: a half ends at 65,504."""
    if boxes.is_floating_point():
        return boxes if boxes.dtype in (torch.float32, torch.float64) else boxes.float()
    return boxes.long()


def box_area(boxes: Tensor) -> Tensor:
    """Area of each box.

    Args:
        boxes: (N, 4), any real dtype.

    Returns:
        (N,): float32 or float64 for floating boxes, else int64.
    """
    x1, y1, x2, y2 = _upcast(boxes).unbind(-1)
    return (x2 - x1) * (y2 - y1)


def box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Intersection over union of each pair; NaN for a pair of empty boxes.

    Args:
        boxes1: (N, 4), any real dtype.
        boxes2: (M, 4), of the same dtype.

    Returns:
        (N, M), floating, in 0..1 where x1 <= x2 and y1 <= y2.
    """
    first, second = _upcast(boxes1)[:, None], _upcast(boxes2)[None]  # (N, 1, 4), (1, M, 4)
    low = torch.maximum(first[..., :2], second[..., :2])  # (N, M, 2)
    high = torch.minimum(first[..., 2:], second[..., 2:])  # (N, M, 2)
    intersection = (high - low).clamp(min=0).prod(-1)  # (N, M)
    return intersection / (box_area(boxes1)[:, None] + box_area(boxes2) - intersection)


def clip_boxes_to_image(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Move each corner to the nearest point of the image.

    Args:
        boxes: (..., 4), absolute pixels.
        size: height and width of the image.

    Returns:
        Boxes of the same shape and dtype, with x in 0..width and y in 0..height.
    """
    height, width = size
    x1, y1, x2, y2 = boxes.unbind(-1)
    clipped = (x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width), y2.clamp(0, height))
    return torch.stack(clipped, dim=-1)  # (..., 4)


def remove_small_boxes(boxes: Tensor, min_size: float) -> Tensor:
    """Find the boxes with both sides at least `min_size` long.

    Args:
        boxes: (N, 4), absolute pixels.
        min_size: in pixels.

    Returns:
        (M,), int64: their indices, ascending.
    """
    x1, y1, x2, y2 = boxes.unbind(-1)
    return ((x2 - x1 >= min_size) & (y2 - y1 >= min_size)).nonzero().squeeze(1)  # (M,)
