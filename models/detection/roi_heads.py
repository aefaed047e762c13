"""The second stage of the R-CNN family: classes, refined boxes, masks and keypoints of each proposal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoofleet.errors import InvalidArgumentError
from zoofleet.models.detection._boxes import BoxCoder, at_least_float32, match, sample
from zoofleet.models.detection._checks import check_counts, check_fractions, check_labels
from zoofleet.models.detection._keypoints import keypoint_loss, locate_keypoints
from zoofleet.models.detection._masks import mask_loss, mask_probabilities
from zoofleet.models.detection._selection import Candidates, choose
from zoofleet.models.detection.transform import Detection, Target
from zoofleet.models.ops import box_iou

__all__ = ["RoIHeads"]

_MIN_SIDE = 1e-2
_BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)

Sizes = Sequence[tuple[int, int]]
Features = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class _Samples:
    """Proposals of an image drawn for the losses: `boxes` (S, 4), `labels` (S,) and `truths` (S,), the true boxes'
    indices, which mean nothing where the label is background."""

    boxes: Tensor
    labels: Tensor
    truths: Tensor

    def objects(self) -> _Samples:
        keep = self.labels > 0
        return _Samples(self.boxes[keep], self.labels[keep], self.truths[keep])


class RoIHeads(nn.Module):
    """Heads over regions of interest, with branches for masks and keypoints where these are given.

    Args:
        box_roi_pool: cuts (R, C, P, P) for the boxes out of the feature maps.
        box_head: (R, C, P, P) to (R, D).
        box_predictor: (R, D) to logits (R, classes) and box codes (R, classes * 4).
        fg_iou_thresh: overlap with a true box from which a proposal is an object.
        bg_iou_thresh: overlap below which it is background.
        batch_size_per_image: proposals of each image that the loss is taken over.
        positive_fraction: how many of these may be objects.
        bbox_reg_weights: of the box codes; None for (10, 10, 5, 5).
        score_thresh: least score of a detection, itself excluded.
        nms_thresh: overlap (IoU) above which the weaker of two detections of one class goes.
        detections_per_img: most detections of an image.
        mask_roi_pool: cuts regions for masks; None for no masks.
        mask_head: (R, C, P, P) to (R, D, P, P).
        mask_predictor: to logits (R, classes, M, M).
        keypoint_roi_pool: cuts regions for keypoints; None for no keypoints.
        keypoint_head: (R, C, P, P) to (R, D, P, P).
        keypoint_predictor: to heatmaps (R, K, M, M).

    Raises:
        InvalidArgumentError: a fraction or threshold outside [0, 1], or a number that is not positive.
    """

    def __init__(
        self,
        box_roi_pool: nn.Module,
        box_head: nn.Module,
        box_predictor: nn.Module,
        fg_iou_thresh: float,
        bg_iou_thresh: float,
        batch_size_per_image: int,
        positive_fraction: float,
        bbox_reg_weights: Sequence[float] | None,
        score_thresh: float,
        nms_thresh: float,
        detections_per_img: int,
        mask_roi_pool: nn.Module | None = None,
        mask_head: nn.Module | None = None,
        mask_predictor: nn.Module | None = None,
        keypoint_roi_pool: nn.Module | None = None,
        keypoint_head: nn.Module | None = None,
        keypoint_predictor: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_fractions(
            fg_iou_thresh=fg_iou_thresh,
            bg_iou_thresh=bg_iou_thresh,
            positive_fraction=positive_fraction,
            score_thresh=score_thresh,
            nms_thresh=nms_thresh,
        )
        check_counts(batch_size_per_image=batch_size_per_image, detections_per_img=detections_per_img)
        self.box_roi_pool = box_roi_pool
        self.box_head = box_head
        self.box_predictor = box_predictor
        self.fg_iou_thresh = fg_iou_thresh
        self.bg_iou_thresh = bg_iou_thresh
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        self.box_coder = BoxCoder(_BOX_WEIGHTS if bbox_reg_weights is None else tuple(bbox_reg_weights))  # type: ignore[arg-type]
        self.score_thresh = score_thresh
        self.nms_thresh = nms_thresh
        self.detections_per_img = detections_per_img
        # None stands for a branch that is not there: nothing calls it then.
        self.mask_roi_pool: Any = mask_roi_pool
        self.mask_head: Any = mask_head
        self.mask_predictor: Any = mask_predictor
        self.keypoint_roi_pool: Any = keypoint_roi_pool
        self.keypoint_head: Any = keypoint_head
        self.keypoint_predictor: Any = keypoint_predictor

    def has_mask(self) -> bool:
        """Whether each detection is segmented."""
        return None not in (self.mask_roi_pool, self.mask_head, self.mask_predictor)

    def has_keypoint(self) -> bool:
        """Whether the keypoints of each detection are found."""
        return None not in (self.keypoint_roi_pool, self.keypoint_head, self.keypoint_predictor)

    def forward(
        self,
        features: Features,
        proposals: Sequence[Tensor],
        image_shapes: Sizes,
        targets: Sequence[Target] | None = None,
    ) -> tuple[list[Detection], dict[str, Tensor]]:
        """`losses` beside no detections where there are targets, `detect` beside no losses where there are none."""
        if targets is None:
            return self.detect(features, proposals, image_shapes), {}
        return [], self.losses(features, proposals, image_shapes, targets)

    def detect(self, features: Features, proposals: Sequence[Tensor], sizes: Sizes) -> list[Detection]:
        """Detections of each image, in coordinates of the batch.

        Args:
            features: maps (N, C, H, W).
            proposals: float xyxy (P, 4) for each image.
            sizes: height and width of each image within the batch.

        Returns:
            Dicts as `Detector.predict` gives them, with masks (N, 1, M, M) over their boxes.
        """
        logits, codes = self._classify(features, proposals, sizes)
        found = self._choose(logits.softmax(dim=-1), codes, proposals, sizes)
        kept = [d["boxes"] for d in found]
        counts = [len(b) for b in kept]
        if self.has_mask():
            labels = torch.cat([d["labels"] for d in found])
            masks = mask_probabilities(self._masks(features, kept, sizes), labels)
            for detection, part in zip(found, torch.split(masks, counts), strict=True):
                detection["masks"] = part
        if self.has_keypoint():
            points, scores = locate_keypoints(self._heatmaps(features, kept, sizes), torch.cat(kept))
            for i, parts in enumerate(zip(torch.split(points, counts), torch.split(scores, counts), strict=True)):
                found[i]["keypoints"], found[i]["keypoints_scores"] = parts
        return found

    def losses(
        self, features: Features, proposals: Sequence[Tensor], sizes: Sizes, targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """Losses over proposals that are drawn here.

        Args:
            features: maps (N, C, H, W).
            proposals: float xyxy (P, 4) for each image.
            sizes: height and width of each image within the batch.
            targets: as `Detector.losses` takes them, in coordinates of the batch.

        Returns:
            `loss_classifier`, `loss_box_reg`, and `loss_mask` and `loss_keypoint` where the heads are there.

        Raises:
            InvalidArgumentError: a label that the predictor has no class for, or a number of keypoints that it has not.
        """
        samples = [self._sample(p, t) for p, t in zip(proposals, targets, strict=True)]
        logits, codes = self._classify(features, [s.boxes for s in samples], sizes)
        check_labels(targets, logits.shape[-1])
        losses = self._box_losses(logits, codes, samples, targets)
        objects = [s.objects() for s in samples]
        boxes, truths = [s.boxes for s in objects], [s.truths for s in objects]
        if self.has_mask():
            mask_logits = self._masks(features, boxes, sizes)
            labels = [s.labels for s in objects]
            losses["loss_mask"] = mask_loss(mask_logits, boxes, labels, truths, [t["masks"] for t in targets])
        if self.has_keypoint():
            heatmaps = self._heatmaps(features, boxes, sizes)
            points = [t["keypoints"] for t in targets]
            wrong = next((p.shape[1] for p in points if p.shape[1] != heatmaps.shape[1]), None)
            if wrong is not None:
                raise InvalidArgumentError(f"keypoints must have shape (N, {heatmaps.shape[1]}, 3), got {wrong} each")
            losses["loss_keypoint"] = keypoint_loss(heatmaps, boxes, truths, points)
        return losses

    def _classify(self, features: Features, boxes: Sequence[Tensor], sizes: Sizes) -> tuple[Tensor, Tensor]:
        """Logits (R, classes) and box codes (R, classes, 4) of the boxes of all images."""
        pooled = self.box_roi_pool(features, list(boxes), list(sizes))
        logits, codes = self.box_predictor(self.box_head(pooled))
        return at_least_float32(logits), codes.reshape(len(codes), codes.shape[1] // 4, 4)  # (R, classes, 4)

    def _masks(self, features: Features, boxes: Sequence[Tensor], sizes: Sizes) -> Tensor:
        """Mask logits (R, classes, M, M) of the boxes of all images."""
        pooled = self.mask_roi_pool(features, list(boxes), list(sizes))
        logits: Tensor = self.mask_predictor(self.mask_head(pooled))
        return logits

    def _heatmaps(self, features: Features, boxes: Sequence[Tensor], sizes: Sizes) -> Tensor:
        """Keypoint logits (R, K, M, M) of the boxes of all images."""
        pooled = self.keypoint_roi_pool(features, list(boxes), list(sizes))
        logits: Tensor = self.keypoint_predictor(self.keypoint_head(pooled))
        return logits

    def _choose(self, scores: Tensor, codes: Tensor, proposals: Sequence[Tensor], sizes: Sizes) -> list[Detection]:
        """The best of the proposals' boxes by codes (R, classes, 4) with their scores (R, classes)."""
        region, label = torch.where(scores[:, 1:] > self.score_thresh)
        label = label + 1  # 0 is background
        image = torch.cat([torch.full_like(p[:, 0], i, dtype=torch.int64) for i, p in enumerate(proposals)])  # (R,)
        boxes = self.box_coder.decode(codes[region, label], torch.cat(list(proposals))[region])
        return choose(
            Candidates(boxes, scores[region, label], label, image[region]),
            sizes,
            iou_threshold=self.nms_thresh,
            limit=self.detections_per_img,
            min_side=_MIN_SIDE,
        )

    def _sample(self, proposals: Tensor, target: Target) -> _Samples:
        """Draw proposals of one image, its true boxes among them: else an untrained network would offer no objects."""
        boxes = torch.cat((proposals, target["boxes"]))
        matches = match(box_iou(target["boxes"], boxes), self.bg_iou_thresh, self.fg_iou_thresh)
        # Background (-1) gets label 0, what is between (-2) gets -1, so that it is never drawn.
        labels = torch.where(matches >= 0, 0, matches + 1)
        labels[matches >= 0] = target["labels"][matches[matches >= 0]]
        positive, negative = sample(labels, self.batch_size_per_image, self.positive_fraction)
        drawn = positive | negative
        return _Samples(boxes[drawn], labels[drawn], matches[drawn])

    def _box_losses(
        self, logits: Tensor, codes: Tensor, samples: Sequence[_Samples], targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        labels = torch.cat([s.labels for s in samples])
        objects = [s.objects() for s in samples]
        wanted = [self.box_coder.encode(t["boxes"][s.truths], s.boxes) for s, t in zip(objects, targets, strict=True)]
        predicted = at_least_float32(codes[labels > 0, labels[labels > 0]])
        box_loss = F.smooth_l1_loss(predicted, torch.cat(wanted), beta=1 / 9, reduction="sum")
        return {
            "loss_classifier": F.cross_entropy(logits, labels),
            "loss_box_reg": box_loss / len(labels),
        }
