"""Keypoints of Mask R-CNN's keypoint branch: from heatmaps to points, and the loss.

Source: He et al., "Mask R-CNN", arXiv:1703.06870, section 5.

Letters in shapes: N boxes of all images, of which Ni are of image i, Gi true objects of image i, K keypoints of an
object, M rows and columns of a heatmap, H and W pixels of a box.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from zoofleet.models.detection._boxes import at_least_float32

__all__ = ["keypoint_loss", "locate_keypoints"]


def locate_keypoints(heatmaps: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Find the highest point of each heatmap, stretched over its box.

    Args:
        heatmaps: logits (N, K, M, M).
        boxes: float xyxy (N, 4), in pixels.

    Returns:
        keypoints: float (N, K, 3), x and y in pixels, and visibility, which is always 1.
        scores: float (N, K), the logits at these points.
    """
    heatmaps = at_least_float32(heatmaps)
    extent = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)  # (N, 2), width and height
    pixels = extent.ceil().long()
    peaks = heatmaps.new_zeros((*heatmaps.shape[:2], 2))
    scores = heatmaps.new_zeros(heatmaps.shape[:2])
    # Boxes differ in size, so each is resampled on its own; one transfer for all sizes. Two matrix products take less
    # than half the time of `interpolate` over the whole heatmap, but would lose precision to autocasting.
    with torch.autocast(heatmaps.device.type, enabled=False):
        for i, (width, height) in enumerate(pixels.tolist()):
            across, down = (_resampling(heatmaps, length) for length in (width, height))  # (W, M), (H, M)
            stretched = down @ (heatmaps[i] @ across.T)  # (K, H, W)
            scores[i], position = stretched.flatten(1).max(dim=1)  # (K,)
            peaks[i, :, 0] = position % width
            peaks[i, :, 1] = position // width
    places = (peaks + 0.5) * (extent / pixels)[:, None] + boxes[:, None, :2]  # (N, K, 2)
    return torch.cat((places, torch.ones_like(places[..., :1])), dim=-1), scores


def _resampling(heatmaps: Tensor, length: int) -> Tensor:
    """Return the weights (length, M) of a row's cells in each pixel that heatmaps (..., M, M) are stretched to."""
    side = heatmaps.shape[-1]
    cells = torch.eye(side, dtype=heatmaps.dtype, device=heatmaps.device)
    return F.interpolate(cells[None, None], (length, side), mode="bicubic", align_corners=False)[0, 0]


def keypoint_loss(
    logits: Tensor, proposals: Sequence[Tensor], truths: Sequence[Tensor], keypoints: Sequence[Tensor]
) -> Tensor:
    """Return the mean cross-entropy between heatmaps and the cells that visible keypoints lie in: a scalar.

    Args:
        logits: (N, K, M, M), the heatmaps of the proposals of all images.
        proposals: float xyxy (Ni, 4) for each image, N in all.
        truths: int64 (Ni,) for each image, the true object of each proposal, as an index into its `keypoints`.
        keypoints: float (Gi, K, 3) for each image, x, y and visibility, which is 0 for points to ignore.
    """
    side = logits.shape[-1]
    true = torch.cat([points[index] for points, index in zip(keypoints, truths, strict=True)])  # (N, K, 3)
    cells, counted = _cells(true, torch.cat(list(proposals)), side)
    if not counted.any():
        return logits.sum() * 0  # nothing to learn from, but a gradient for every parameter
    return F.cross_entropy(at_least_float32(logits.flatten(2)[counted]), cells[counted])


def _cells(keypoints: Tensor, boxes: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return the cell of each keypoint in a grid of `side` squared over its box, and whether it counts: (N, K) each."""
    places = keypoints[..., :2]
    start, end = boxes[:, None, :2], boxes[:, None, 2:]  # (N, 1, 2)
    cell = ((places - start) * (side / (end - start))).floor().long()  # (N, K, 2)
    cell = torch.where(places == end, side - 1, cell)  # the far edge belongs to the last cell
    inside = ((cell >= 0) & (cell < side)).all(dim=-1)
    return cell[..., 1] * side + cell[..., 0], inside & (keypoints[..., 2] > 0)
