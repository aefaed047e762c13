"""Region proposal network (Ren et al., "Faster R-CNN", arXiv:1506.01497) over the maps of a feature pyramid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoofleet.models._layers import Conv2dNormActivation
from zoofleet.models.detection._anchors import AnchorGenerator
from zoofleet.models.detection._boxes import (
    BoxCoder,
    at_least_float32,
    keep_best_anchors,
    match,
    sample,
)
from zoofleet.models.detection._checks import check_ranges
from zoofleet.models.detection._transform import ImageBatch, Target
from zoofleet.models.ops import batched_nms, box_iou, clip_boxes_to_image, remove_small_boxes

__all__ = ["RPNHead", "RPNOptions", "RegionProposalNetwork"]

_MIN_SIDE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class RPNOptions:
    """How proposals are chosen, and how the network learns.

    Attributes:
        pre_nms_top_n_train: candidates of each map that enter non-maximum suppression, in training.
        pre_nms_top_n_test: the same in inference.
        post_nms_top_n_train: proposals of each image, in training.
        post_nms_top_n_test: the same in inference.
        nms_thresh: overlap (IoU) above which the weaker candidate goes.
        score_thresh: least objectness of a proposal.
        fg_iou_thresh: overlap with a true box from which an anchor is an object.
        bg_iou_thresh: overlap below which it is background.
        batch_size_per_image: anchors of each image that the loss is taken over.
        positive_fraction: how many of these may be objects.
    """

    pre_nms_top_n_train: int = 2000
    pre_nms_top_n_test: int = 1000
    post_nms_top_n_train: int = 2000
    post_nms_top_n_test: int = 1000
    nms_thresh: float = 0.7
    score_thresh: float = 0.0
    fg_iou_thresh: float = 0.7
    bg_iou_thresh: float = 0.3
    batch_size_per_image: int = 256
    positive_fraction: float = 0.5

    def __post_init__(self) -> None:
        check_ranges(self)


class RPNHead(nn.Module):
    """Objectness and box codes of every anchor, by convolutions that all maps share.

    Args:
        in_channels: channels of each map.
        num_anchors: anchors at each cell.
        conv_depth: convolutions before the two outputs.
    """

    def __init__(self, in_channels: int, num_anchors: int, conv_depth: int = 1) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            *(Conv2dNormActivation(in_channels, in_channels, norm_layer=None) for _ in range(conv_depth))
        )
        self.cls_logits = nn.Conv2d(in_channels, num_anchors, 1)
        self.bbox_pred = nn.Conv2d(in_channels, num_anchors * 4, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Maps (N, C, H, W) to logits (N, A, H, W) and box codes (N, A * 4, H, W) of each."""
        hidden = [self.conv(x) for x in maps]
        return [self.cls_logits(x) for x in hidden], [self.bbox_pred(x) for x in hidden]


class RegionProposalNetwork(nn.Module):
    """Proposes boxes that may hold an object of any class.

    Args:
        anchor_generator: lays the anchors.
        head: gives objectness and box codes of each map.
        options: see there.
    """

    def __init__(self, anchor_generator: AnchorGenerator, head: nn.Module, options: RPNOptions) -> None:
        super().__init__()
        self.anchor_generator = anchor_generator
        self.head = head
        self.options = options
        self.box_coder = BoxCoder()

    def forward(
        self, batch: ImageBatch, features: dict[str, Tensor], targets: Sequence[Target] | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Propose boxes, and compute losses where there are targets.

        Args:
            batch: the images.
            features: maps (N, C, H, W).
            targets: `boxes` of each image, float xyxy (G, 4); None in inference.

        Returns:
            proposals: float xyxy (P, 4) for each image, by descending objectness.
            losses: `loss_objectness` and `loss_rpn_box_reg`; empty in inference.
        """
        maps = list(features.values())
        logit_maps, code_maps = self.head(maps)
        anchors = self.anchor_generator(batch.size, maps)
        logits = at_least_float32(torch.cat([x.permute(0, 2, 3, 1).flatten(1) for x in logit_maps], dim=1))  # (N, A)
        codes = torch.cat([_by_anchor(x) for x in code_maps], dim=1)  # (N, A, 4)
        # Proposals are constants to the heads that refine them: the gradient does not pass through.
        boxes = self.box_coder.decode(codes.detach(), anchors)  # (N, A, 4)
        counts = [x[0].numel() for x in logit_maps]
        proposals = self._choose(boxes, logits.detach(), counts, batch.sizes, training=targets is not None)
        if targets is None:
            return proposals, {}
        return proposals, self._losses(anchors, logits, codes, targets)

    def _choose(
        self,
        boxes: Tensor,
        logits: Tensor,
        counts: Sequence[int],
        sizes: Sequence[tuple[int, int]],
        *,
        training: bool,
    ) -> list[Tensor]:
        """The best of the boxes (N, A, 4), `counts` of which belong to each map: (P, 4) for each image."""
        options = self.options
        pre = options.pre_nms_top_n_train if training else options.pre_nms_top_n_test
        post = options.post_nms_top_n_train if training else options.post_nms_top_n_test
        best, levels, start = [], [], 0
        for level, (count, part) in enumerate(zip(counts, torch.split(logits, list(counts), dim=1), strict=True)):
            top = part.topk(min(pre, count), dim=1).indices + start  # (N, T)
            best.append(top)
            levels.append(torch.full_like(top[0], level))
            start += count
        index, level_of = torch.cat(best, dim=1), torch.cat(levels)
        scores = logits.gather(1, index).sigmoid()
        boxes = boxes.gather(1, index[:, :, None].expand(-1, -1, 4))
        proposals = []
        for candidates, score, size in zip(boxes, scores, sizes, strict=True):
            clipped = clip_boxes_to_image(candidates, size)
            keep = remove_small_boxes(clipped, _MIN_SIDE)
            keep = keep[score[keep] >= options.score_thresh]
            clipped, score = clipped[keep], score[keep]
            proposals.append(clipped[batched_nms(clipped, score, level_of[keep], options.nms_thresh)[:post]])
        return proposals

    def _losses(self, anchors: Tensor, logits: Tensor, codes: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        options = self.options
        objects, sampled, wanted = [], [], []
        for target in targets:
            iou = box_iou(target["boxes"], anchors)
            matches = match(iou, options.bg_iou_thresh, options.fg_iou_thresh)
            matches = keep_best_anchors(matches, iou)
            # 1 for objects, 0 for background (-1), -1 for what is between (-2).
            labels = torch.where(matches >= 0, 1, matches + 1)
            positive, negative = sample(labels, options.batch_size_per_image, options.positive_fraction)
            objects.append(positive)
            sampled.append(positive | negative)
            wanted.append(self.box_coder.encode(target["boxes"][matches[positive]], anchors[positive]))
        positives, drawn = torch.stack(objects), torch.stack(sampled)  # (N, A)
        box_loss = F.smooth_l1_loss(at_least_float32(codes[positives]), torch.cat(wanted), beta=1 / 9, reduction="sum")
        return {
            "loss_objectness": F.binary_cross_entropy_with_logits(logits[drawn], positives[drawn].to(logits)),
            "loss_rpn_box_reg": box_loss / drawn.sum(),
        }


def _by_anchor(codes: Tensor) -> Tensor:
    """(N, A * 4, H, W) to (N, H * W * A, 4)."""
    return codes.permute(0, 2, 3, 1).reshape(codes.shape[0], -1, 4)
