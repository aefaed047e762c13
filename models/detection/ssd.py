"""SSD: classes and boxes of default boxes over several feature maps, in one pass.

Source: Liu et al., "SSD: Single Shot MultiBox Detector", arXiv:1512.02325.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoofleet.models.detection._anchors import DefaultBoxGenerator
from zoofleet.models.detection._boxes import BELOW_LOW, BoxCoder, at_least_float32, claim_best_anchors, match
from zoofleet.models.detection._checks import check_labels, check_ranges
from zoofleet.models.detection._detector import Detector
from zoofleet.models.detection._transform import Detection, DetectionTransform, ImageBatch, Target
from zoofleet.models.ops import batched_nms, box_iou, clip_boxes_to_image

__all__ = ["SSD", "SSDHead", "SSDOptions", "SSDScoringHead"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SSDOptions:
    """How detections are chosen, and how the network learns.

    Attributes:
        score_thresh: least score of a detection, itself excluded.
        nms_thresh: overlap (IoU) above which the weaker of two detections of one class goes.
        detections_per_img: most detections of an image.
        topk_candidates: boxes of each class that enter non-maximum suppression.
        iou_thresh: overlap with a true box from which a default box is an object.
        positive_fraction: share of objects among the default boxes that the loss is taken over.
    """

    score_thresh: float = 0.01
    nms_thresh: float = 0.45
    detections_per_img: int = 200
    topk_candidates: int = 400
    iou_thresh: float = 0.5
    positive_fraction: float = 0.25

    def __post_init__(self) -> None:
        check_ranges(self)


class SSDScoringHead(nn.Module):
    """A block for each feature map, whose results are put in one row.

    Args:
        module_list: a block for each map, to (N, A * columns, H, W).
        num_columns: values of each default box.
    """

    def __init__(self, module_list: nn.ModuleList, num_columns: int) -> None:
        super().__init__()
        self.module_list = module_list
        self.num_columns = num_columns

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (N, C, H, W) to (N, boxes of all maps, num_columns), in the order of `DefaultBoxGenerator`."""
        rows = []
        for block, x in zip(self.module_list, maps, strict=True):
            values = block(x).permute(0, 2, 3, 1)  # (N, H, W, A * columns)
            rows.append(values.reshape(x.shape[0], -1, self.num_columns))  # (N, H * W * A, columns)
        return torch.cat(rows, dim=1)


class SSDHead(nn.Module):
    """Logits and box codes of every default box.

    Args:
        classification_head: to (N, boxes, classes).
        regression_head: to (N, boxes, 4).
    """

    def __init__(self, classification_head: nn.Module, regression_head: nn.Module) -> None:
        super().__init__()
        self.classification_head = classification_head
        self.regression_head = regression_head

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Maps (N, C, H, W) to logits (N, boxes, classes) and codes (N, boxes, 4)."""
        return self.classification_head(maps), self.regression_head(maps)


class SSD(Detector):
    """SSD. `Detector` says what goes in and out.

    Args:
        backbone: maps (N, 3, H, W) to a dict of feature maps.
        anchor_generator: lays the default boxes over them.
        head: gives logits (N, boxes, classes) and codes (N, boxes, 4).
        transform: to images of one size.
        options: see there.
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        anchor_generator: DefaultBoxGenerator,
        head: nn.Module,
        transform: DetectionTransform,
        options: SSDOptions,
    ) -> None:
        super().__init__(backbone, transform)
        self.anchor_generator = anchor_generator
        self.head = head
        self.options = options
        self.box_coder = BoxCoder((10.0, 10.0, 5.0, 5.0))

    def _detect(self, batch: ImageBatch, features: dict[str, Tensor]) -> list[Detection]:
        logits, codes, anchors = self._scores(batch, features)
        boxes = self.box_coder.decode(codes, anchors)  # (N, A, 4)
        scores = logits.softmax(dim=-1)
        return [self._choose(b, s, size) for b, s, size in zip(boxes, scores, batch.sizes, strict=True)]

    def _losses(self, batch: ImageBatch, features: dict[str, Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        logits, codes, anchors = self._scores(batch, features)
        check_labels(targets, logits.shape[-1])
        labels = torch.zeros(logits.shape[:2], dtype=torch.int64, device=logits.device)  # (N, A)
        box_loss = codes.new_zeros(())
        matched = 0
        for i, target in enumerate(targets):
            iou = box_iou(target["boxes"], anchors)
            matches = match(iou, self.options.iou_thresh, self.options.iou_thresh)
            matches = claim_best_anchors(matches, iou)
            objects = matches != BELOW_LOW
            truth = matches[objects]
            labels[i, objects] = target["labels"][truth]
            wanted = self.box_coder.encode(target["boxes"][truth], anchors[objects])
            box_loss = box_loss + F.smooth_l1_loss(codes[i, objects], wanted, reduction="sum")
            matched += len(truth)
        class_loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)  # (N, A)
        counted = self._hard_examples(class_loss.detach(), labels > 0)
        # One object at least, so that a batch without any has a finite loss.
        return {
            "bbox_regression": box_loss / max(matched, 1),
            "classification": class_loss[counted].sum() / max(matched, 1),
        }

    def _scores(self, batch: ImageBatch, features: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (N, A, classes), codes (N, A, 4) and default boxes (A, 4)."""
        maps = list(features.values())
        logits, codes = self.head(maps)
        return at_least_float32(logits), at_least_float32(codes), self.anchor_generator(batch.size, maps)

    def _hard_examples(self, loss: Tensor, objects: Tensor) -> Tensor:
        """The objects, and the background with the highest loss: a mask over (N, A). SSD, section 2.2."""
        negatives_each = (1 - self.options.positive_fraction) / self.options.positive_fraction
        wanted = negatives_each * objects.sum(dim=1, keepdim=True)
        order = loss.masked_fill(objects, -torch.inf).argsort(dim=1, descending=True)
        return objects | (order.argsort(dim=1) < wanted)

    def _choose(self, boxes: Tensor, scores: Tensor, size: tuple[int, int]) -> Detection:
        """The best of an image's boxes (A, 4) with their scores (A, classes)."""
        options = self.options
        by_class = scores[:, 1:].T  # (classes - 1, A), without background
        top, index = by_class.topk(min(options.topk_candidates, len(boxes)), dim=1)
        label, rank = torch.where(top > options.score_thresh)
        score, box = top[label, rank], clip_boxes_to_image(boxes[index[label, rank]], size)
        label = label + 1
        keep = batched_nms(box, score, label, options.nms_thresh)[: options.detections_per_img]
        return {"boxes": box[keep], "scores": score[keep], "labels": label[keep]}
