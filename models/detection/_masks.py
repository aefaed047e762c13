"""Masks of Mask R-CNN: from logits to probabilities in the image, and the loss.

Source: He et al., "Mask R-CNN", arXiv:1703.06870, section 3.

Letters in shapes: N boxes of all images, of which Ni are of image i, Gi true objects of image i, C classes, M rows and
columns of a mask within its box, H and W pixels of an image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from zoofleet.models.detection._boxes import at_least_float32
from zoofleet.models.ops import roi_align
from zoofleet.models.ops._masks import pasted_extents

__all__ = ["mask_loss", "mask_probabilities", "paste_masks"]


def mask_probabilities(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the probabilities (N, 1, M, M) of each box's own class.

    Args:
        logits: (N, C, M, M), a mask of every class for each box.
        labels: int64 (N,) in [0, C), the class of each box.
    """
    rows = torch.arange(len(labels), device=labels.device)
    return at_least_float32(logits[rows, labels]).sigmoid()[:, None]  # (N, 1, M, M)


def mask_loss(
    logits: Tensor,
    proposals: Sequence[Tensor],
    labels: Sequence[Tensor],
    truths: Sequence[Tensor],
    masks: Sequence[Tensor],
) -> Tensor:
    """Return the mean binary cross-entropy between proposals' masks and the parts of true masks they cover: a scalar.

    Args:
        logits: (N, C, M, M), the masks of the proposals of all images, one of every class.
        proposals: float xyxy (Ni, 4) for each image, N in all.
        labels: int64 (Ni,) for each image, the class of each proposal in [0, C).
        truths: int64 (Ni,) for each image, the true object of each proposal, as an index into its `masks`.
        masks: uint8 (Gi, H, W) for each image, 0 or 1.
    """
    if logits.shape[0] == 0:
        return logits.sum() * 0  # nothing to learn from, but a gradient for every parameter
    size = (logits.shape[-1], logits.shape[-1])
    wanted = torch.cat(
        [
            _crop(true, boxes, index, size)
            for true, boxes, index in zip(masks, proposals, truths, strict=True)
            if len(boxes)
        ]
    )
    classes = torch.cat(list(labels))
    rows = torch.arange(len(classes), device=classes.device)
    return F.binary_cross_entropy_with_logits(at_least_float32(logits[rows, classes]), wanted)


def _crop(masks: Tensor, boxes: Tensor, index: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut boxes (Ni, 4) out of the masks (Gi, H, W) at `index` (Ni,), and resample them to `size`: (Ni, M, M)."""
    rois = torch.cat((index[:, None].to(boxes), boxes), dim=1)  # (N, 5)
    return roi_align(masks[:, None].to(boxes), rois, size, 1.0)[:, 0]


def paste_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Stretch masks over their boxes in the image, bilinearly; they are zero outside.

    Args:
        masks: float (N, 1, M, M), probabilities within the box.
        boxes: float xyxy (N, 4), in pixels of the image.
        size: height and width of the image in pixels.

    Returns:
        Probabilities (N, 1, H, W), of the dtype of the masks.
    """
    side = masks.shape[-1]
    extents = pasted_extents(boxes, side)  # (N, 4)
    first, last = extents[:, :2], torch.maximum(extents[:, :2], extents[:, 2:])  # (N, 2) each, x and y
    # The part of each within the image; one transfer for all of them.
    border = extents.new_tensor((size[1], size[0]) * 2)
    parts = torch.cat((first, last + 1), dim=1).clamp(min=0).minimum(border).tolist()
    pasted = masks.new_zeros(len(masks), 1, *size)
    # One matrix product for many masks would fill whole images, and takes twice as long as one after the other.
    for i, (left, top, right, bottom) in enumerate(parts):
        scale = (side + 2) / (last[i] - first[i] + 1)  # (2,)
        across = _resampling(left, right, first[i, 0], scale[0], side)  # (right - left, M)
        down = _resampling(top, bottom, first[i, 1], scale[1], side)  # (bottom - top, M)
        # In double the products of floats are exact, so that the sums, of two products that are not 0, are rounded
        # once in whatever order and however fused a matrix product adds them. A pixel on a threshold is thus decided
        # alike on all machines, and as `paste_masks_to_rle` decides it.
        rows = (down.double() @ masks[i, 0].double()).to(masks.dtype)  # (bottom - top, M)
        pasted[i, 0, top:bottom, left:right] = rows.double() @ across.double().T
    return pasted


def _resampling(begin: int, end: int, first: Tensor, scale: Tensor, side: int) -> Tensor:
    """Return the weights (end - begin, side) of a mask's samples in the pixels [begin, end) of an axis.

    Args:
        begin: the first pixel.
        end: the pixel after the last.
        first: the pixel, as int64 (), from which on the mask and one zero on either side are stretched.
        scale: samples in a pixel, float ().
        side: samples of the mask. The zeros need no weights of their own.
    """
    pixel = torch.arange(begin, end, device=first.device)
    source = (pixel - first + 0.5) * scale - 0.5  # (end - begin,), in samples of the grown mask
    sample = torch.arange(1, side + 1, device=first.device)
    return (1 - (source[:, None] - sample).abs()).clamp(min=0)  # (end - begin, M)
