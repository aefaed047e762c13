"""From scored candidates to detections, for all images of a batch and all classes at once.

Letters in shapes: N images, A anchors, of which Ai are of feature map i, C classes, T best anchors or pairs of a map,
K candidates of all images.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoofleet.models.detection._boxes import at_least_float32
from zoofleet.models.detection._kept import constant
from zoofleet.models.detection.transform import Detection
from zoofleet.models.ops import batched_nms, remove_small_boxes

__all__ = ["Candidates", "Limits", "best_of_classes", "best_of_maps", "choose", "within"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Which of the detections of an image are needed; all, unless something is given.

    Attributes:
        score_threshold: least score, in [0, 1].
        max_detections: greatest number, at least 0; those of the highest scores are taken.
    """

    score_threshold: float = 0.0
    max_detections: int = sys.maxsize


@dataclass(frozen=True, slots=True)
class Candidates:
    """Boxes that may become detections, of all images of a batch.

    Attributes:
        boxes: float xyxy (K, 4), in pixels of the batch.
        scores: float (K,).
        labels: int64 (K,); boxes of different labels do not suppress each other.
        images: int64 (K,), the position of each box's image in the batch.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    images: Tensor

    def take(self, index: Tensor) -> Candidates:
        """Return the candidates at `index`, which holds positions, int64 (M,), or says which to keep, bool (K,)."""
        return Candidates(self.boxes[index], self.scores[index], self.labels[index], self.images[index])


def choose(
    candidates: Candidates,
    sizes: Sequence[tuple[int, int]],
    *,
    iou_threshold: float,
    limit: int,
    min_side: float | None = None,
) -> list[Detection]:
    """Clip boxes to their images, suppress those that better ones of their label overlap, and keep the best.

    Args:
        candidates: the candidates of all images.
        sizes: height and width in pixels of each image within the batch.
        iou_threshold: overlap (IoU) above which the weaker of two boxes of one label and image goes.
        limit: greatest number of detections of an image.
        min_side: least length in pixels of both sides of a clipped box; None for any length.

    Returns:
        `boxes`, `labels` and `scores` of each image, by descending score.
    """
    borders = constant([(w, h, w, h) for h, w in sizes], candidates.boxes)  # (N, 4)
    clipped = torch.minimum(candidates.boxes.clamp(min=0), borders[candidates.images])  # (K, 4)
    found = Candidates(clipped, candidates.scores, candidates.labels, candidates.images)
    if min_side is not None:
        found = found.take(remove_small_boxes(clipped, min_side))
    # A group for each label and image, so that one pass serves them all.
    groups = found.labels * len(sizes) + found.images
    found = found.take(batched_nms(found.boxes, found.scores, groups, iou_threshold))
    found = found.take(found.images.argsort(stable=True))  # by image, and still by falling score within each
    counts = found.images.bincount(minlength=len(sizes)).tolist()
    parts = [torch.split(x, counts) for x in (found.boxes, found.labels, found.scores)]
    return [
        {"boxes": boxes[:limit], "labels": labels[:limit], "scores": scores[:limit]}
        for boxes, labels, scores in zip(*parts, strict=True)
    ]


def within(detections: Sequence[Detection], limits: Sequence[Limits]) -> list[Detection]:
    """Return the detections of each image that its limits let through, in new dicts.

    Args:
        detections: `scores` (N,) by descending value, and other tensors (N, ...), of each image.
        limits: the limits of each image.
    """
    above = [(d["scores"] >= limit.score_threshold).sum() for d, limit in zip(detections, limits, strict=True)]
    counts = torch.stack(above).tolist()  # one transfer for all images
    return [
        {name: values[: min(count, limit.max_detections)] for name, values in detection.items()}
        for detection, count, limit in zip(detections, counts, limits, strict=True)
    ]


def best_of_classes(scores: Tensor, *, count: int, threshold: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Find the best anchors for each class in each image.

    Args:
        scores: (N, A, C).
        count: greatest number of anchors of a class in an image.
        threshold: scores must be above this.

    Returns:
        images, anchors, labels: int64 (K,), positions in the three dimensions of `scores`, by image.
        scores: float (K,).
    """
    images, anchors, classes = scores.shape
    above = scores > threshold
    # Sorting each class is what takes long, and where objects are few none has too many. If all together have more
    # than would fill each, one certainly has, and they need not even be listed.
    if int(above.count_nonzero()) <= images * classes * count:
        image, anchor, label = torch.where(above)
        if int((image * classes + label).bincount(minlength=1).max()) <= count:
            return image, anchor, label, scores[image, anchor, label]
    top, index = scores.transpose(1, 2).topk(min(count, anchors), dim=2)  # (N, C, T)
    image, label, rank = torch.where(top > threshold)
    return image, index[image, label, rank], label, top[image, label, rank]


def best_of_maps(
    logits: Sequence[Tensor], qualities: Sequence[Tensor] | None, *, count: int, threshold: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Find the best pairs of an anchor and a class in each feature map of each image.

    A pair's score is the sigmoid of its logit or, with qualities, the root of its product with the anchor's quality.

    Args:
        logits: (N, Ai, C) for each map.
        qualities: logits (N, Ai) of the anchors' qualities for each map; None where anchors have none.
        count: greatest number of pairs of a map in an image.
        threshold: scores must be above this.

    Returns:
        images, anchors, labels: int64 (K,), by image; anchors are counted through all maps.
        scores: float (K,).
    """
    scores, anchors, labels, start = [], [], [], 0
    for i, logit in enumerate(logits):
        quality = None if qualities is None else qualities[i]
        score, anchor, label = _best_of_map(logit, quality, count)  # (N, T) each
        scores.append(score)
        anchors.append(anchor + start)
        labels.append(label)
        start += logit.shape[1]
    score, anchor, label = torch.cat(scores, dim=1), torch.cat(anchors, dim=1), torch.cat(labels, dim=1)
    image, rank = torch.where(score > threshold)
    return image, anchor[image, rank], label[image, rank], score[image, rank]


def _best_of_map(logits: Tensor, quality: Tensor | None, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return scores, anchors and labels, (N, T) each, of the best pairs of one map's logits (N, Ai, C)."""
    classes = logits.shape[2]
    # The best pairs belong to the anchors with the best classes: the sigmoid of nearly all others is never needed.
    best = _score(logits.amax(dim=2), quality)  # (N, A)
    top = best.topk(min(count, logits.shape[1]), dim=1).indices  # (N, T)
    chosen = logits.gather(1, top[:, :, None].expand(-1, -1, classes))  # (N, T, C)
    scores = _score(chosen, None if quality is None else quality.gather(1, top)[:, :, None]).flatten(1)  # (N, T * C)
    score, pair = scores.topk(min(count, scores.shape[1]), dim=1)
    return score, top.gather(1, pair // classes), pair % classes


def _score(logits: Tensor, quality: Tensor | None) -> Tensor:
    """Return the sigmoid of logits or, with logits of quality, the root of its product with their sigmoid."""
    scores = at_least_float32(logits).sigmoid()
    return scores if quality is None else (scores * at_least_float32(quality).sigmoid()).sqrt()
