"""Box regression codes, and the matching and sampling of anchors against ground truth."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

__all__ = [
    "BELOW_LOW",
    "BETWEEN",
    "BoxCoder",
    "LinearBoxCoder",
    "at_least_float32",
    "claim_best_anchors",
    "keep_best_anchors",
    "match",
    "sample",
]

BELOW_LOW: Final = -1
"""Match of an anchor that overlaps no ground truth enough: background."""

BETWEEN: Final = -2
"""Match of an anchor that is neither clearly background nor clearly an object: ignored."""

# An untrained head may ask for any growth; exp() of it must stay finite.
_MAX_LOG_SCALE: Final = math.log(1000 / 16)


def at_least_float32(x: Tensor) -> Tensor:
    """The tensor in float32, or in float64 where it is: boxes and scores lose too much in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


@dataclass(frozen=True, slots=True)
class BoxCoder:
    """The (dx, dy, dw, dh) parametrisation of a box relative to an anchor (R-CNN, arXiv:1311.2524, appendix C).

    Attributes:
        weights: factors of dx, dy, dw and dh.
    """

    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)

    def encode(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """Codes of `boxes` relative to `anchors`, both float xyxy of one shape (..., 4); the same shape."""
        wx, wy, ww, wh = self.weights
        cx, cy, w, h = _center_size(boxes)
        anchor_cx, anchor_cy, anchor_w, anchor_h = _center_size(anchors)
        dx = wx * (cx - anchor_cx) / anchor_w
        dy = wy * (cy - anchor_cy) / anchor_h
        return torch.stack((dx, dy, ww * torch.log(w / anchor_w), wh * torch.log(h / anchor_h)), dim=-1)

    def decode(self, codes: Tensor, anchors: Tensor) -> Tensor:
        """Boxes (..., 4) as float xyxy of `codes` (..., 4) relative to `anchors`, whose shape broadcasts to it."""
        wx, wy, ww, wh = self.weights
        dx, dy, dw, dh = at_least_float32(codes).unbind(-1)
        anchor_cx, anchor_cy, anchor_w, anchor_h = _center_size(anchors)
        cx = dx / wx * anchor_w + anchor_cx
        cy = dy / wy * anchor_h + anchor_cy
        half_w = 0.5 * (dw / ww).clamp(max=_MAX_LOG_SCALE).exp() * anchor_w
        half_h = 0.5 * (dh / wh).clamp(max=_MAX_LOG_SCALE).exp() * anchor_h
        return torch.stack((cx - half_w, cy - half_h, cx + half_w, cy + half_h), dim=-1)


@dataclass(frozen=True, slots=True)
class LinearBoxCoder:
    """Distances of a box's four sides from an anchor's centre, in units of the anchor's (FCOS, arXiv:1904.01355)."""

    def encode(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """Distances left, up, right and down of `boxes` from `anchors`, both float xyxy (..., 4); the same shape.

        They are negative where the centre lies outside the box.
        """
        cx, cy, w, h = _center_size(anchors)
        x0, y0, x1, y1 = boxes.unbind(-1)
        return torch.stack(((cx - x0) / w, (cy - y0) / h, (x1 - cx) / w, (y1 - cy) / h), dim=-1)

    def decode(self, codes: Tensor, anchors: Tensor) -> Tensor:
        """Boxes (..., 4) as float xyxy of `codes` (..., 4) relative to `anchors`, whose shape broadcasts to it."""
        cx, cy, w, h = _center_size(anchors)
        left, up, right, down = at_least_float32(codes).unbind(-1)
        return torch.stack((cx - left * w, cy - up * h, cx + right * w, cy + down * h), dim=-1)


def _center_size(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x0, y0, x1, y1 = boxes.unbind(-1)
    w, h = x1 - x0, y1 - y0
    return x0 + 0.5 * w, y0 + 0.5 * h, w, h


def match(iou: Tensor, low: float, high: float) -> Tensor:
    """Give each anchor the ground truth that it overlaps most.

    Args:
        iou: float (G, A), overlap of each ground truth with each anchor.
        low: below it an anchor is background.
        high: from it on an anchor is an object.

    Returns:
        int64 (A,): index of the ground truth, `BELOW_LOW` or `BETWEEN`.
    """
    if iou.shape[0] == 0:
        return torch.full((iou.shape[1],), BELOW_LOW, dtype=torch.int64, device=iou.device)
    best, matches = iou.max(dim=0)
    matches = torch.where(best < high, BETWEEN, matches)
    return torch.where(best < low, BELOW_LOW, matches)


def keep_best_anchors(matches: Tensor, iou: Tensor) -> Tensor:
    """`match`, but an anchor that overlaps some ground truth more than all others do keeps its own best match.

    So every ground truth has an anchor, however small their overlap. Faster R-CNN, section 3.1.2.
    """
    if iou.shape[0] == 0:
        return matches
    best_of_truth = iou.amax(dim=1, keepdim=True)
    return torch.where((iou == best_of_truth).any(dim=0), iou.argmax(dim=0), matches)


def claim_best_anchors(matches: Tensor, iou: Tensor) -> Tensor:
    """`match`, but each ground truth claims the one anchor that overlaps it most. SSD, section 2.2."""
    if iou.shape[0] == 0:
        return matches
    claimed = matches.clone()
    claimed[iou.argmax(dim=1)] = torch.arange(iou.shape[0], device=iou.device)
    return claimed


def sample(labels: Tensor, count: int, positive_fraction: float) -> tuple[Tensor, Tensor]:
    """Draw positives and negatives for a loss.

    Args:
        labels: (A,); positive from 1 on, negative at 0, ignored below.
        count: how many to draw in all, as far as there are enough.
        positive_fraction: how many of these may be positives; negatives fill up the rest.

    Returns:
        Two bool masks (A,): the positives and the negatives drawn.
    """
    positives = torch.where(labels >= 1)[0]
    negatives = torch.where(labels == 0)[0]
    # The order of these two draws is the reference's: equal seeds give equal losses.
    num_positives = min(len(positives), int(count * positive_fraction))
    drawn_positives = positives[torch.randperm(len(positives), device=labels.device)[:num_positives]]
    order = torch.randperm(len(negatives), device=labels.device)
    drawn_negatives = negatives[order[: count - num_positives]]
    return _mask(drawn_positives, labels), _mask(drawn_negatives, labels)


def _mask(indices: Tensor, like: Tensor) -> Tensor:
    mask = torch.zeros_like(like, dtype=torch.bool)
    mask[indices] = True
    return mask
