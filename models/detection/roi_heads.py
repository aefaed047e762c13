"""The second stage of the R-CNN family: classes, refined boxes, masks and keypoints of each proposal.

Sources: Girshick, "Fast R-CNN", arXiv:1504.08083; He et al., "Mask R-CNN", arXiv:1703.06870.

Letters in shapes: N images or objects of an image, C channels, H and W cells of a feature map, P proposals of an image,
R regions of all images, Q rows and columns of a pooled region, D values of a region, S sampled proposals of an image, M
rows and columns of a mask or heatmap, K keypoints of an object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoofleet.errors import InvalidArgumentError
from zoofleet.models.detection._boxes import SMOOTH_L1_BETA, BoxCoder, at_least_float32, match, sample
from zoofleet.models.detection._inputs import check_labels
from zoofleet.models.detection._keypoints import keypoint_loss, locate_keypoints
from zoofleet.models.detection._masks import mask_loss, mask_probabilities
from zoofleet.models.detection._options import check_counts, check_fractions
from zoofleet.models.detection._selection import Candidates, Limits, choose, within
from zoofleet.models.detection.transform import Detection, Target
from zoofleet.models.ops import box_iou

__all__ = ["Branches", "RoIHeads"]

_MIN_SIDE = 1e-2
"""Least length in pixels of a detection's sides: removes what clipping leaves nothing of. The reference's value."""

_BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
"""Factors of the box codes: 1 over the deviations 0.1 and 0.2 by which Faster R-CNN's published code divides them."""

Sizes = Sequence[tuple[int, int]]
Features = dict[str, Tensor]


class Branches(TypedDict, total=False):
    """The arguments of `RoIHeads` that add a branch for masks, one for keypoints, or both.

    Attributes:
        mask_roi_pool: pools the regions that masks are found in.
        mask_head: turns pooled regions (R, C, Q, Q) into (R, D, Q, Q).
        mask_predictor: turns these into mask logits (R, classes, M, M).
        keypoint_roi_pool: pools the regions that keypoints are found in.
        keypoint_head: turns pooled regions (R, C, Q, Q) into (R, D, Q, Q).
        keypoint_predictor: turns these into heatmaps (R, K, M, M).
    """

    mask_roi_pool: nn.Module
    mask_head: nn.Module
    mask_predictor: nn.Module
    keypoint_roi_pool: nn.Module
    keypoint_head: nn.Module
    keypoint_predictor: nn.Module


@dataclass(frozen=True, slots=True)
class _Samples:
    """Proposals of an image that were drawn for the losses.

    Attributes:
        boxes: float xyxy (S, 4) in pixels of the batch.
        labels: int64 (S,); 0 is background.
        truths: int64 (S,), the index of the true box of each, which means nothing where it is background.
    """

    boxes: Tensor
    labels: Tensor
    truths: Tensor

    def objects(self) -> _Samples:
        """Return those that are not background."""
        keep = self.labels > 0
        return _Samples(self.boxes[keep], self.labels[keep], self.truths[keep])


class RoIHeads(nn.Module):
    """Heads over regions of interest, with branches for masks and keypoints where these are given.

    Args:
        box_roi_pool: cuts regions (R, C, Q, Q) for the boxes out of the feature maps; called as `MultiScaleRoIAlign`.
        box_head: turns pooled regions (R, C, Q, Q) into values (R, D).
        box_predictor: turns these into logits (R, classes) and box codes (R, classes * 4).
        fg_iou_thresh: overlap (IoU) with a true box from which on a proposal counts as an object in the losses.
        bg_iou_thresh: overlap (IoU) below which a proposal counts as background in the losses.
        batch_size_per_image: greatest number of proposals of an image that the losses are taken over.
        positive_fraction: greatest share of objects among these, in [0, 1].
        bbox_reg_weights: factors of the four values of a box code; None for (10, 10, 5, 5).
        score_thresh: scores of detections must be above this, in [0, 1].
        nms_thresh: overlap (IoU) above which the weaker of two detections of one class goes.
        detections_per_img: greatest number of detections of an image.
        mask_roi_pool: pools the regions that masks are found in; None for no masks.
        mask_head: turns pooled regions (R, C, Q, Q) into (R, D, Q, Q); None for no masks.
        mask_predictor: turns these into mask logits (R, classes, M, M); None for no masks.
        keypoint_roi_pool: pools the regions that keypoints are found in; None for no keypoints.
        keypoint_head: turns pooled regions (R, C, Q, Q) into (R, D, Q, Q); None for no keypoints.
        keypoint_predictor: turns these into heatmaps (R, K, M, M); None for no keypoints.

    Raises:
        InvalidArgumentError: a fraction or threshold is outside [0, 1], or a number is not a positive integer.
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
        """Return whether there is a branch for masks."""
        return None not in (self.mask_roi_pool, self.mask_head, self.mask_predictor)

    def has_keypoint(self) -> bool:
        """Return whether there is a branch for keypoints."""
        return None not in (self.keypoint_roi_pool, self.keypoint_head, self.keypoint_predictor)

    def forward(
        self,
        features: Features,
        proposals: Sequence[Tensor],
        image_shapes: Sizes,
        targets: Sequence[Target] | None = None,
        limits: Sequence[Limits] | None = None,
    ) -> tuple[list[Detection], dict[str, Tensor]]:
        """Return what `losses` computes where there are targets, and what `detect` finds where there are none.

        Args:
            features: feature maps (N, C, H, W) by name.
            proposals: float xyxy (P, 4) in pixels of the batch for each image.
            image_shapes: height and width in pixels of each image within the batch.
            targets: what is to be found in each image, in coordinates of the batch; None in inference.
            limits: as `detect` takes them.

        Returns:
            detections: a dict for each image; no dicts where there are targets.
            losses: scalars by name; empty where there are no targets.
        """
        if targets is None:
            return self.detect(features, proposals, image_shapes, limits), {}
        return [], self.losses(features, proposals, image_shapes, targets)

    def detect(
        self,
        features: Features,
        proposals: Sequence[Tensor],
        sizes: Sizes,
        limits: Sequence[Limits] | None = None,
    ) -> list[Detection]:
        """Find the objects of each image.

        Args:
            features: feature maps (N, C, H, W) by name.
            proposals: float xyxy (P, 4) in pixels of the batch for each image.
            sizes: height and width in pixels of each image within the batch.
            limits: which of its detections each image needs, so that masks and keypoints are computed for these alone;
                None for all.

        Returns:
            A dict for each image, of what `Detector.predict` documents, but in coordinates of the batch and with masks
            (N, 1, M, M) over their boxes.
        """
        logits, codes = self._classify(features, proposals, sizes)
        found = self._choose(logits.softmax(dim=-1), codes, proposals, sizes)
        if limits is not None:
            found = within(found, limits)
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
        """Compute the losses over some of the proposals and true boxes, which are drawn at random.

        Args:
            features: feature maps (N, C, H, W) by name.
            proposals: float xyxy (P, 4) in pixels of the batch for each image.
            sizes: height and width in pixels of each image within the batch.
            targets: a dict for each image, of what `Detector.losses` documents, but in coordinates of the batch.

        Returns:
            Scalars under `loss_classifier` and `loss_box_reg`, and under `loss_mask` and `loss_keypoint` where there
            are these branches.

        Raises:
            InvalidArgumentError: there is a label that the predictor has no class for, or objects do not have as many
                keypoints as there are heatmaps.
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
        """Return logits (R, classes) and box codes (R, classes, 4) of the boxes of all images."""
        pooled = self.box_roi_pool(features, list(boxes), list(sizes))
        logits, codes = self.box_predictor(self.box_head(pooled))
        return at_least_float32(logits), codes.reshape(len(codes), codes.shape[1] // 4, 4)  # (R, classes, 4)

    def _masks(self, features: Features, boxes: Sequence[Tensor], sizes: Sizes) -> Tensor:
        """Return mask logits (R, classes, M, M) of the boxes of all images."""
        pooled = self.mask_roi_pool(features, list(boxes), list(sizes))
        logits: Tensor = self.mask_predictor(self.mask_head(pooled))
        return logits

    def _heatmaps(self, features: Features, boxes: Sequence[Tensor], sizes: Sizes) -> Tensor:
        """Return heatmaps, logits (R, K, M, M), of the boxes of all images."""
        pooled = self.keypoint_roi_pool(features, list(boxes), list(sizes))
        logits: Tensor = self.keypoint_predictor(self.keypoint_head(pooled))
        return logits

    def _choose(self, scores: Tensor, codes: Tensor, proposals: Sequence[Tensor], sizes: Sizes) -> list[Detection]:
        """Return the best of the boxes that codes (R, classes, 4) make of proposals, by their scores (R, classes)."""
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
        """Draw from the proposals and true boxes of one image: an untrained network proposes no objects itself."""
        boxes = torch.cat((proposals, target["boxes"]))
        matches = match(box_iou(target["boxes"], boxes), self.bg_iou_thresh, self.fg_iou_thresh)
        # Background (-1) gets label 0; what is between (-2) gets -1, so that it is never drawn.
        labels = torch.where(matches >= 0, 0, matches + 1)
        labels[matches >= 0] = target["labels"][matches[matches >= 0]]
        positive, negative = sample(labels, self.batch_size_per_image, self.positive_fraction)
        drawn = positive | negative
        return _Samples(boxes[drawn], labels[drawn], matches[drawn])

    def _box_losses(
        self, logits: Tensor, codes: Tensor, samples: Sequence[_Samples], targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """Return the losses of classes and boxes, by logits (R, classes) and codes (R, classes, 4) of the samples."""
        labels = torch.cat([s.labels for s in samples])
        objects = [s.objects() for s in samples]
        wanted = [self.box_coder.encode(t["boxes"][s.truths], s.boxes) for s, t in zip(objects, targets, strict=True)]
        predicted = at_least_float32(codes[labels > 0, labels[labels > 0]])
        box_loss = F.smooth_l1_loss(predicted, torch.cat(wanted), beta=SMOOTH_L1_BETA, reduction="sum")
        return {
            "loss_classifier": F.cross_entropy(logits, labels),
            "loss_box_reg": box_loss / len(labels),
        }
