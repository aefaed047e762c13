"""Losses of one-stage detectors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from zoofleet.errors import InvalidArgumentError
from zoofleet.models.ops.boxes import box_area

__all__ = ["generalized_box_iou_loss", "sigmoid_focal_loss"]


def sigmoid_focal_loss(
    inputs: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0, reduction: str = "none"
) -> Tensor:
    """Compute the focal loss: cross-entropy that counts examples less the better they are classified.

    Source: Lin et al., "Focal Loss for Dense Object Detection", arXiv:1708.02002, equation 5.

    Args:
        inputs: logits, floating, of any shape.
        targets: 0 or 1, of the same shape and dtype.
        alpha: weight of the positives, in [0, 1]; negatives get 1 - alpha. Below 0 all have the weight 1.
        gamma: how fast well classified examples fade; at least 0.
        reduction: "none", "mean" or "sum".

    Returns:
        The losses, of the shape of inputs, or their mean or sum.

    Raises:
        InvalidArgumentError: `reduction` is something else.
    """
    p = inputs.sigmoid()
    wrong = p * (1 - targets) + (1 - p) * targets  # probability given to the other class
    loss = F.binary_cross_entropy_with_logits(inputs, targets, reduction="none") * wrong**gamma
    if alpha >= 0:
        loss = loss * (alpha * targets + (1 - alpha) * (1 - targets))
    return _reduced(loss, reduction)


def generalized_box_iou_loss(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
    """Compute 1 - generalised IoU of each box with its partner.

    Source: Rezatofighi et al., "Generalized Intersection over Union", arXiv:1902.09630, algorithm 1.

    Args:
        boxes1: (..., 4), float32 or float64; x1, y1, x2, y2 with x1 <= x2 and y1 <= y2.
        boxes2: the partners, of the same shape and dtype.
        reduction: "none", "mean" or "sum".
        eps: added to the areas that are divided by, which may be 0.

    Returns:
        The losses (...), in [0, 2], or their mean or sum; the mean of no boxes is 0.

    Raises:
        InvalidArgumentError: `reduction` is something else.
    """
    low, high = torch.minimum(boxes1, boxes2), torch.maximum(boxes1, boxes2)
    # Corners of the intersection and of the smallest box around both: (..., 2) each.
    intersection = (low[..., 2:] - high[..., :2]).clamp(min=0).prod(-1)
    around = (high[..., 2:] - low[..., :2]).prod(-1)
    union = box_area(boxes1) + box_area(boxes2) - intersection
    loss = 1 - intersection / (union + eps) + (around - union) / (around + eps)
    return _reduced(loss, reduction)


def _reduced(loss: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    if reduction == "mean":
        return loss.mean() if loss.numel() else loss.sum()
    raise InvalidArgumentError(f"reduction must be 'none', 'mean' or 'sum', got {reduction!r}")
