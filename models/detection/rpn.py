"""The region proposal network over the maps of a feature pyramid.

Source: Ren et al., "Faster R-CNN", arXiv:1506.01497, section 3.1.

Letters in shapes: N images, C channels, H and W cells of a feature map, K anchors at each cell, A anchors of all maps,
T best anchors of all maps, G true boxes of an image, P proposals of an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoofleet.models._layers import Conv2dNormActivation
from zoofleet.models.detection._boxes import (
    SMOOTH_L1_BETA,
    BoxCoder,
    at_least_float32,
    keep_best_anchors,
    match,
    sample,
)
from zoofleet.models.detection._init import normal_init
from zoofleet.models.detection._options import check_counts, check_fractions
from zoofleet.models.detection._selection import Candidates, choose
from zoofleet.models.detection.anchor_utils import AnchorGenerator, by_anchor
from zoofleet.models.detection.image_list import ImageList
from zoofleet.models.detection.transform import Target
from zoofleet.models.ops import box_iou

__all__ = ["AnchorGenerator", "RPNHead", "RegionProposalNetwork"]

_MIN_SIDE = 1e-3
"""Least length in pixels of a proposal's sides: removes what clipping leaves nothing of. The reference's value."""


class RPNHead(nn.Module):
    """Computes objectness and box codes of every anchor, by convolutions that all feature maps share.

    Args:
        in_channels: channels of each map.
        num_anchors: anchors at each cell.
        conv_depth: number of 3 x 3 convolutions before the two outputs.
    """

    def __init__(self, in_channels: int, num_anchors: int, conv_depth: int = 1) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            *(Conv2dNormActivation(in_channels, in_channels, norm_layer=None) for _ in range(conv_depth))
        )
        self.cls_logits = nn.Conv2d(in_channels, num_anchors, 1)
        self.bbox_pred = nn.Conv2d(in_channels, num_anchors * 4, 1)
        normal_init(self)

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Turn feature maps (N, C, H, W) into logits (N, K, H, W) and box codes (N, K * 4, H, W) of each."""
        hidden = [self.conv(x) for x in maps]
        return [self.cls_logits(x) for x in hidden], [self.bbox_pred(x) for x in hidden]


class RegionProposalNetwork(nn.Module):
    """Proposes boxes that may hold an object of any class.

    Args:
        anchor_generator: lays the anchors over the feature maps.
        head: turns the list of feature maps (N, C, H, W) into logits of objectness (N, K, H, W) and box codes
            (N, K * 4, H, W) of each, as `RPNHead` does.
        fg_iou_thresh: overlap (IoU) with a true box from which on an anchor counts as an object in the loss.
        bg_iou_thresh: overlap (IoU) below which an anchor counts as background in the loss.
        batch_size_per_image: greatest number of anchors of an image that the loss is taken over.
        positive_fraction: greatest share of objects among these, in [0, 1].
        pre_nms_top_n: greatest number of candidates of a feature map that enter non-maximum suppression, under
            `training` and `testing`.
        post_nms_top_n: greatest number of proposals of an image, under `training` and `testing`.
        nms_thresh: overlap (IoU) above which the weaker of two candidates of a feature map goes.
        score_thresh: least objectness of a proposal, in [0, 1].

    Raises:
        InvalidArgumentError: a fraction or threshold is outside [0, 1], or a number is not a positive integer.
    """

    def __init__(
        self,
        anchor_generator: AnchorGenerator,
        head: nn.Module,
        fg_iou_thresh: float,
        bg_iou_thresh: float,
        batch_size_per_image: int,
        positive_fraction: float,
        pre_nms_top_n: Mapping[str, int],
        post_nms_top_n: Mapping[str, int],
        nms_thresh: float,
        score_thresh: float = 0.0,
    ) -> None:
        super().__init__()
        check_fractions(
            fg_iou_thresh=fg_iou_thresh,
            bg_iou_thresh=bg_iou_thresh,
            positive_fraction=positive_fraction,
            nms_thresh=nms_thresh,
            score_thresh=score_thresh,
        )
        check_counts(batch_size_per_image=batch_size_per_image)
        for when in ("training", "testing"):
            check_counts(pre_nms_top_n=pre_nms_top_n.get(when), post_nms_top_n=post_nms_top_n.get(when))
        self.anchor_generator = anchor_generator
        self.head = head
        self.fg_iou_thresh = fg_iou_thresh
        self.bg_iou_thresh = bg_iou_thresh
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        self.pre_nms_top_n = dict(pre_nms_top_n)
        self.post_nms_top_n = dict(post_nms_top_n)
        self.nms_thresh = nms_thresh
        self.score_thresh = score_thresh
        self.box_coder = BoxCoder()

    def forward(
        self, images: ImageList, features: dict[str, Tensor], targets: Sequence[Target] | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Propose boxes, and compute losses where there are targets.

        Args:
            images: the batch that the feature maps were computed from.
            features: feature maps (N, C, H, W) by name.
            targets: a dict for each image with its true `boxes`, float xyxy (G, 4) in pixels of the batch; None in
                inference.

        Returns:
            proposals: float xyxy (P, 4) in pixels of the batch for each image, by descending objectness.
            losses: scalars under `loss_objectness` and `loss_rpn_box_reg`; empty in inference.
        """
        maps = list(features.values())
        logit_maps, code_maps = self.head(maps)
        anchors = self.anchor_generator(images, maps)[0]
        rows = [by_anchor(x, 1)[:, :, 0] for x in logit_maps]
        counts = [x.shape[1] for x in rows]
        logits = at_least_float32(torch.cat(rows, dim=1))  # (N, A)
        codes = torch.cat([by_anchor(x, 4) for x in code_maps], dim=1)  # (N, A, 4)
        # Proposals are constants to the heads that refine them: the gradient does not pass through.
        best, levels = self._best(logits.detach(), counts, training=targets is not None)
        boxes = self.box_coder.decode(codes.detach().gather(1, best[:, :, None].expand(-1, -1, 4)), anchors[best])
        scores = logits.detach().gather(1, best).sigmoid()
        proposals = self._choose(boxes, scores, levels, images.image_sizes, training=targets is not None)
        if targets is None:
            return proposals, {}
        return proposals, self._losses(anchors, logits, codes, targets)

    def _best(self, logits: Tensor, counts: Sequence[int], *, training: bool) -> tuple[Tensor, Tensor]:
        """Return the anchors with the highest logits (N, A) of each map, (N, T), and the maps they are of, (T,).

        Args:
            logits: objectness of every anchor, map by map.
            counts: how many of the anchors belong to each map.
            training: whether to take as many as in training.
        """
        most = self.pre_nms_top_n["training" if training else "testing"]
        best, levels, start = [], [], 0
        for level, (count, part) in enumerate(zip(counts, torch.split(logits, list(counts), dim=1), strict=True)):
            best.append(part.topk(min(most, count), dim=1).indices + start)  # (N, T)
            levels.append(torch.full_like(best[-1][0], level))
            start += count
        return torch.cat(best, dim=1), torch.cat(levels)

    def _choose(
        self, boxes: Tensor, scores: Tensor, levels: Tensor, sizes: Sequence[tuple[int, int]], *, training: bool
    ) -> list[Tensor]:
        """Return the best of the boxes (N, T, 4) by scores (N, T) and maps `levels` (T,): (P, 4) for each image."""
        image, rank = torch.where(scores >= self.score_thresh)
        found = choose(
            Candidates(boxes[image, rank], scores[image, rank], levels[rank], image),
            sizes,
            iou_threshold=self.nms_thresh,
            limit=self.post_nms_top_n["training" if training else "testing"],
            min_side=_MIN_SIDE,
        )
        return [detection["boxes"] for detection in found]

    def _losses(self, anchors: Tensor, logits: Tensor, codes: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Return the losses of anchors (A, 4) with logits (N, A) and codes (N, A, 4); Faster R-CNN, section 3.1.2."""
        objects, sampled, wanted = [], [], []
        for target in targets:
            iou = box_iou(target["boxes"], anchors)
            matches = match(iou, self.bg_iou_thresh, self.fg_iou_thresh)
            matches = keep_best_anchors(matches, iou)
            # 1 for objects, 0 for background (-1), -1 for what is between (-2).
            labels = torch.where(matches >= 0, 1, matches + 1)
            positive, negative = sample(labels, self.batch_size_per_image, self.positive_fraction)
            objects.append(positive)
            sampled.append(positive | negative)
            wanted.append(self.box_coder.encode(target["boxes"][matches[positive]], anchors[positive]))
        positives, drawn = torch.stack(objects), torch.stack(sampled)  # (N, A)
        predicted = at_least_float32(codes[positives])
        box_loss = F.smooth_l1_loss(predicted, torch.cat(wanted), beta=SMOOTH_L1_BETA, reduction="sum")
        return {
            "loss_objectness": F.binary_cross_entropy_with_logits(logits[drawn], positives[drawn].to(logits)),
            "loss_rpn_box_reg": box_loss / drawn.sum(),
        }
