"""Box regression codes, and the matching and sampling of anchors against ground truth.

Letters in shapes: A anchors, G true boxes of an image. Boxes are xyxy: x0, y0, x1, y1 in pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

__all__ = [
    "BELOW_LOW",
    "BETWEEN",
    "SMOOTH_L1_BETA",
    "BoxCoder",
    "LinearBoxCoder",
    "at_least_float32",
    "claim_best_anchors",
    "keep_best_anchors",
    "match",
    "sample",
]

BELOW_LOW: Final = -1
"""The match of an anchor that overlaps no true box enough, and is background."""

BETWEEN: Final = -2
"""The match of an anchor that is neither clearly background nor clearly an object, and is ignored."""

# An untrained head may ask for any growth, of which exp() must stay finite. The bound is Detectron's BBOX_XFORM_CLIP,
# which the published weights were trained with: a side of 16 pixels grows to 1000.
_MAX_LOG_SCALE: Final = math.log(1000 / 16)

SMOOTH_L1_BETA: Final = 1 / 9
"""The distance of box codes at which their loss in the R-CNN family turns from quadratic to linear.

Faster R-CNN's published code writes it as sigma = 3, of which this is 1 / sigma squared.
"""


def at_least_float32(x: Tensor) -> Tensor:
    """Return a tensor in float32, or in float64 where it is that: boxes and scores lose too much in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


@dataclass(frozen=True, slots=True)
class BoxCoder:
    """Converts between boxes and their codes (dx, dy, dw, dh) relative to anchors.

    dx and dy are the distance of the centres in units of the anchor's width and height; dw and dh are the logarithms of
    the ratios of width and height. Source: Girshick et al., R-CNN, arXiv:1311.2524, appendix C.

    Attributes:
        weights: factors that dx, dy, dw and dh are multiplied by.
    """

    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)

    def encode(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """Return the codes of boxes relative to anchors.

        Args:
            boxes: float xyxy (..., 4), of positive width and height.
            anchors: float xyxy of the same shape, of positive width and height.

        Returns:
            Codes of the same shape.
        """
        wx, wy, ww, wh = self.weights
        cx, cy, w, h = _center_size(boxes)
        anchor_cx, anchor_cy, anchor_w, anchor_h = _center_size(anchors)
        dx = wx * (cx - anchor_cx) / anchor_w
        dy = wy * (cy - anchor_cy) / anchor_h
        return torch.stack((dx, dy, ww * torch.log(w / anchor_w), wh * torch.log(h / anchor_h)), dim=-1)

    def decode(self, codes: Tensor, anchors: Tensor) -> Tensor:
        """Return the boxes that codes stand for.

        Args:
            codes: float (..., 4), of any dtype, as `encode` returns them.
            anchors: float xyxy, of a shape that broadcasts to that of the codes.

        Returns:
            Boxes xyxy (..., 4), float32 or float64.
        """
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
    """Converts between boxes and the distances of their four sides from an anchor's centre.

    The distances are in units of the anchor's width and height. Source: Tian et al., FCOS, arXiv:1904.01355, section
    3.1.
    """

    def encode(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """Return the distances to the left, top, right and bottom side of boxes from the centres of anchors.

        Args:
            boxes: float xyxy (..., 4).
            anchors: float xyxy of the same shape, of positive width and height.

        Returns:
            Distances of the same shape, negative where the centre lies outside the box.
        """
        cx, cy, w, h = _center_size(anchors)
        x0, y0, x1, y1 = boxes.unbind(-1)
        return torch.stack(((cx - x0) / w, (cy - y0) / h, (x1 - cx) / w, (y1 - cy) / h), dim=-1)

    def decode(self, codes: Tensor, anchors: Tensor) -> Tensor:
        """Return the boxes that distances stand for.

        Args:
            codes: float (..., 4), of any dtype, as `encode` returns them.
            anchors: float xyxy, of a shape that broadcasts to that of the codes.

        Returns:
            Boxes xyxy (..., 4), float32 or float64.
        """
        cx, cy, w, h = _center_size(anchors)
        left, up, right, down = at_least_float32(codes).unbind(-1)
        return torch.stack((cx - left * w, cy - up * h, cx + right * w, cy + down * h), dim=-1)


def _center_size(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x0, y0, x1, y1 = boxes.unbind(-1)
    w, h = x1 - x0, y1 - y0
    return x0 + 0.5 * w, y0 + 0.5 * h, w, h


def match(iou: Tensor, low: float, high: float) -> Tensor:
    """Match each anchor with the true box that it overlaps most.

    Args:
        iou: float (G, A), the overlap (IoU) of each true box with each anchor.
        low: an anchor whose greatest overlap is below this is background.
        high: an anchor whose greatest overlap is this or more is an object.

    Returns:
        int64 (A,): the index of the true box, `BELOW_LOW` or `BETWEEN`.
    """
    if iou.shape[0] == 0:
        return torch.full((iou.shape[1],), BELOW_LOW, dtype=torch.int64, device=iou.device)
    best, matches = iou.max(dim=0)
    matches = torch.where(best < high, BETWEEN, matches)
    return torch.where(best < low, BELOW_LOW, matches)


def keep_best_anchors(matches: Tensor, iou: Tensor) -> Tensor:
    """Give every true box an anchor, however little they overlap.

    An anchor that overlaps some true box as much as no other anchor does is matched with the true box that it itself
    overlaps most. Source: Ren et al., Faster R-CNN, arXiv:1506.01497, section 3.1.2.

    Args:
        matches: int64 (A,), the result of `match`.
        iou: float (G, A), the overlap (IoU) of each true box with each anchor.

    Returns:
        int64 (A,): the matches, changed for these anchors.
    """
    if iou.shape[0] == 0:
        return matches
    best_of_truth = iou.amax(dim=1, keepdim=True)
    return torch.where((iou == best_of_truth).any(dim=0), iou.argmax(dim=0), matches)


def claim_best_anchors(matches: Tensor, iou: Tensor) -> Tensor:
    """Match each true box with the one anchor that overlaps it most, whatever that anchor was matched with.

    Source: Liu et al., SSD, arXiv:1512.02325, section 2.2.

    Args:
        matches: int64 (A,), the result of `match`.
        iou: float (G, A), the overlap (IoU) of each true box with each anchor.

    Returns:
        int64 (A,): the matches, changed for these anchors.
    """
    if iou.shape[0] == 0:
        return matches
    claimed = matches.clone()
    claimed[iou.argmax(dim=1)] = torch.arange(iou.shape[0], device=iou.device)
    return claimed


def sample(labels: Tensor, count: int, positive_fraction: float) -> tuple[Tensor, Tensor]:
    """Draw positive and negative anchors at random for a loss.

    Args:
        labels: int64 (A,); an anchor is positive from 1 on, negative at 0, and never drawn below.
        count: how many to draw in all, where there are enough.
        positive_fraction: greatest share of positives in these, in [0, 1]; negatives fill up the rest.

    Returns:
        Two bool masks (A,): the positives and the negatives drawn.
    """
    positives = torch.where(labels >= 1)[0]
    negatives = torch.where(labels == 0)[0]
    # Positives are drawn first, as in the reference: equal seeds then give equal losses.
    num_positives = min(len(positives), int(count * positive_fraction))
    drawn_positives = positives[torch.randperm(len(positives), device=labels.device)[:num_positives]]
    order = torch.randperm(len(negatives), device=labels.device)
    drawn_negatives = negatives[order[: count - num_positives]]
    return _mask(drawn_positives, labels), _mask(drawn_negatives, labels)


def _mask(indices: Tensor, like: Tensor) -> Tensor:
    mask = torch.zeros_like(like, dtype=torch.bool)
    mask[indices] = True
    return mask
