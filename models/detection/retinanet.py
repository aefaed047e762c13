"""RetinaNet: classes and boxes of anchors on every cell of a feature pyramid, trained with the focal loss.

Source: Lin et al., "Focal Loss for Dense Object Detection", arXiv:1708.02002. The second version: Zhang et al.,
"Bridging the Gap Between Anchor-based and Anchor-free Detection via Adaptive Training Sample Selection",
arXiv:1912.02424.

Letters in shapes: N images, C channels, H and W cells of a feature map or pixels of an image, K anchors at each cell, A
anchors of all maps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoofleet.errors import InvalidArgumentError
from zoofleet.models._layers import Conv2dNormActivation
from zoofleet.models._registry import load_published, register_model
from zoofleet.models._weight_sets import RetinaNet_ResNet50_FPN_V2_Weights, RetinaNet_ResNet50_FPN_Weights
from zoofleet.models._weights import WeightsEnum
from zoofleet.models.detection._boxes import BETWEEN, BoxCoder, at_least_float32, keep_best_anchors, match
from zoofleet.models.detection._checkpoints import upgrade_retinanet_keys_hook
from zoofleet.models.detection._detector import Detector
from zoofleet.models.detection._init import normal_init, rare_object_init
from zoofleet.models.detection._inputs import check_labels
from zoofleet.models.detection._options import (
    TransformOptions,
    check_counts,
    check_fractions,
    check_names,
    out_channels,
    positive,
)
from zoofleet.models.detection._selection import Candidates, best_of_maps, choose
from zoofleet.models.detection.anchor_utils import AnchorGenerator, by_anchor
from zoofleet.models.detection.backbone_utils import drop_norm_eps, resnet50_fpn
from zoofleet.models.detection.image_list import ImageList
from zoofleet.models.detection.transform import Detection, GeneralizedRCNNTransform, Target
from zoofleet.models.ops import LastLevelP6P7, box_iou, generalized_box_iou_loss, sigmoid_focal_loss
from zoofleet.models.resnet import ResNet50_Weights

__all__ = [
    "RetinaNet",
    "RetinaNetClassificationHead",
    "RetinaNetHead",
    "RetinaNetRegressionHead",
    "RetinaNet_ResNet50_FPN_V2_Weights",
    "RetinaNet_ResNet50_FPN_Weights",
    "retinanet_resnet50_fpn",
    "retinanet_resnet50_fpn_v2",
]

NormLayer = Callable[..., nn.Module]


class RetinaNetClassificationHead(nn.Module):
    """Computes the logits of every anchor, by four convolutions that all feature maps share.

    Args:
        in_channels: channels of each map.
        num_anchors: anchors at each cell.
        num_classes: logits of each anchor.
        prior_probability: share of anchors that the untrained head takes for an object, in (0, 1).
        norm_layer: makes the layer after each convolution from its number of channels; None for no such layer.

    Raises:
        InvalidArgumentError: `num_classes` is not a positive integer.
    """

    def __init__(
        self,
        in_channels: int,
        num_anchors: int,
        num_classes: int,
        prior_probability: float = 0.01,
        norm_layer: NormLayer | None = None,
    ) -> None:
        positive("num_classes", num_classes)
        super().__init__()
        self.conv = _tower(in_channels, norm_layer)
        normal_init(self.conv)
        self.cls_logits = nn.Conv2d(in_channels, num_anchors * num_classes, 3, padding=1)
        rare_object_init(self.cls_logits, prior_probability)
        self.num_classes = num_classes
        self.num_anchors = num_anchors

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Turn feature maps (N, C, H, W) into logits (N, H * W * K, num_classes) of each."""
        return [by_anchor(self.cls_logits(self.conv(x)), self.num_classes) for x in maps]


class RetinaNetRegressionHead(nn.Module):
    """Computes the box codes of every anchor, by four convolutions that all feature maps share.

    Args:
        in_channels: channels of each map.
        num_anchors: anchors at each cell.
        norm_layer: makes the layer after each convolution from its number of channels; None for no such layer.
    """

    def __init__(self, in_channels: int, num_anchors: int, norm_layer: NormLayer | None = None) -> None:
        super().__init__()
        self.conv = _tower(in_channels, norm_layer)
        self.bbox_reg = nn.Conv2d(in_channels, num_anchors * 4, 3, padding=1)
        # The reference draws random weights in this order: equal seeds then give equal models.
        for module in (self.bbox_reg, self.conv):
            normal_init(module)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Turn feature maps (N, C, H, W) into codes (N, H * W * K, 4) of each."""
        return [by_anchor(self.bbox_reg(self.conv(x)), 4) for x in maps]


def _tower(channels: int, norm_layer: NormLayer | None) -> nn.Sequential:
    return nn.Sequential(*(Conv2dNormActivation(channels, channels, norm_layer=norm_layer) for _ in range(4)))


class RetinaNetHead(nn.Module):
    """Computes logits and box codes of every anchor, by four convolutions each that all feature maps share.

    Args:
        in_channels: channels of each map.
        num_anchors: anchors at each cell.
        num_classes: logits of each anchor.
        norm_layer: makes the layer after each convolution from its number of channels; None for no such layer.

    Raises:
        InvalidArgumentError: `num_classes` is not a positive integer.
    """

    def __init__(
        self, in_channels: int, num_anchors: int, num_classes: int, norm_layer: NormLayer | None = None
    ) -> None:
        super().__init__()
        self.classification_head = RetinaNetClassificationHead(
            in_channels, num_anchors, num_classes, norm_layer=norm_layer
        )
        self.regression_head = RetinaNetRegressionHead(in_channels, num_anchors, norm_layer)

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Turn feature maps (N, C, H, W) into logits (N, H * W * K, num_classes) and codes (N, H * W * K, 4)."""
        return self.classification_head(maps), self.regression_head(maps)


class RetinaNet(Detector):
    """RetinaNet; `Detector.predict` and `Detector.losses` say what goes in and out.

    Args:
        backbone: a network that turns images (N, 3, H, W) into a dict of feature maps of `backbone.out_channels`
            channels each, the finest first.
        num_classes: number of classes, with the background, which is learned as no class at all.
        min_size: length in pixels that an image's shorter side is resized to, or several lengths, of which training
            draws one for each image and inference takes the last.
        max_size: greatest length in pixels of the longer side of a resized image.
        image_mean: mean of each channel, for images in [0, 1]; None for ImageNet's.
        image_std: standard deviation of each channel; None for ImageNet's.
        anchor_generator: lays the anchors; None for three sizes, a third of an octave apart, and three aspect ratios on
            each of five maps.
        head: turns the list of feature maps into logits and codes, as `RetinaNetHead` does; None for a `RetinaNetHead`
            without normalisation.
        proposal_matcher: must be None; anchors are matched by `fg_iou_thresh` and `bg_iou_thresh`.
        score_thresh: scores of detections must be above this, in [0, 1].
        nms_thresh: overlap (IoU) above which the weaker of two detections of one class goes, in [0, 1].
        detections_per_img: greatest number of detections of an image.
        fg_iou_thresh: overlap (IoU) with a true box from which on an anchor counts as an object in the losses.
        bg_iou_thresh: overlap (IoU) below which an anchor counts as background in the losses.
        topk_candidates: greatest number of pairs of an anchor and a class of each map that enter non-maximum
            suppression.
        giou_loss: whether boxes are learned by their generalised IoU rather than by the distance of their codes.
        options: `size_divisible`, to multiples of which in pixels a batch is padded, 32 if left out; `fixed_size`, the
            height and width in pixels that every image gets in the place of `min_size` and `max_size`.

    Raises:
        InvalidArgumentError: an option has another name; a threshold is outside [0, 1]; a number is not a positive
            integer; `proposal_matcher` is not None; or the backbone has no `out_channels`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        min_size: int | Sequence[int] = 800,
        max_size: int = 1333,
        image_mean: Sequence[float] | None = None,
        image_std: Sequence[float] | None = None,
        anchor_generator: AnchorGenerator | None = None,
        head: nn.Module | None = None,
        proposal_matcher: None = None,
        score_thresh: float = 0.05,
        nms_thresh: float = 0.5,
        detections_per_img: int = 300,
        fg_iou_thresh: float = 0.5,
        bg_iou_thresh: float = 0.4,
        topk_candidates: int = 1000,
        *,
        giou_loss: bool = False,
        **options: Unpack[TransformOptions],
    ) -> None:
        check_names(RetinaNet, options)
        if proposal_matcher is not None:
            raise InvalidArgumentError("proposal_matcher must be None; set fg_iou_thresh and bg_iou_thresh")
        check_fractions(
            score_thresh=score_thresh,
            nms_thresh=nms_thresh,
            fg_iou_thresh=fg_iou_thresh,
            bg_iou_thresh=bg_iou_thresh,
        )
        check_counts(detections_per_img=detections_per_img, topk_candidates=topk_candidates)
        super().__init__(backbone, GeneralizedRCNNTransform(min_size, max_size, image_mean, image_std, **options))
        self.register_load_state_dict_pre_hook(upgrade_retinanet_keys_hook)  # type: ignore[no-untyped-call]
        channels = out_channels(backbone)
        self.anchor_generator = _anchors() if anchor_generator is None else anchor_generator
        if head is None:
            head = RetinaNetHead(channels, self.anchor_generator.num_anchors_per_location()[0], num_classes)
        self.head = head
        self.giou_loss = giou_loss
        self.score_thresh = score_thresh
        self.nms_thresh = nms_thresh
        self.detections_per_img = detections_per_img
        self.fg_iou_thresh = fg_iou_thresh
        self.bg_iou_thresh = bg_iou_thresh
        self.topk_candidates = topk_candidates
        self.box_coder = BoxCoder()

    def _detect(self, batch: ImageList, features: dict[str, Tensor]) -> list[Detection]:
        maps = list(features.values())
        logits, codes = self.head(maps)
        anchors = self.anchor_generator(batch, maps)[0]
        image, anchor, label, score = best_of_maps(
            logits, None, count=self.topk_candidates, threshold=self.score_thresh
        )
        boxes = self.box_coder.decode(torch.cat(codes, dim=1)[image, anchor], anchors[anchor])
        return choose(
            Candidates(boxes, score, label, image),
            batch.image_sizes,
            iou_threshold=self.nms_thresh,
            limit=self.detections_per_img,
        )

    def _losses(self, batch: ImageList, features: dict[str, Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        maps = list(features.values())
        logits, codes = (at_least_float32(torch.cat(x, dim=1)) for x in self.head(maps))  # (N, A, classes), (N, A, 4)
        check_labels(targets, logits.shape[-1])
        anchors = self.anchor_generator(batch, maps)[0]
        class_losses, box_losses = [], []
        for logit, code, target in zip(logits, codes, targets, strict=True):
            iou = box_iou(target["boxes"], anchors)
            matches = match(iou, self.bg_iou_thresh, self.fg_iou_thresh)
            matches = keep_best_anchors(matches, iou)
            objects = torch.where(matches >= 0)[0]
            truth = matches[objects]
            wanted = torch.zeros_like(logit)
            wanted[objects, target["labels"][truth]] = 1
            counted = matches != BETWEEN
            # One object at least, so that an image without any has a finite loss.
            class_loss = sigmoid_focal_loss(logit[counted], wanted[counted], reduction="sum")
            class_losses.append(class_loss / max(len(truth), 1))
            box_loss = self._box_loss(code[objects], anchors[objects], target["boxes"][truth])
            box_losses.append(box_loss / max(len(truth), 1))
        return {
            "classification": torch.stack(class_losses).mean(),
            "bbox_regression": torch.stack(box_losses).mean(),
        }

    def _box_loss(self, codes: Tensor, anchors: Tensor, boxes: Tensor) -> Tensor:
        """Return the summed loss of codes of anchors that are to give boxes, all of one shape (..., 4)."""
        if self.giou_loss:
            return generalized_box_iou_loss(self.box_coder.decode(codes, anchors), boxes, reduction="sum")
        return F.l1_loss(codes, self.box_coder.encode(boxes, anchors), reduction="sum")


def _anchors() -> AnchorGenerator:
    """Return three sizes and three aspect ratios for each of five maps: arXiv:1708.02002, section 4."""
    return AnchorGenerator(
        sizes=tuple((size, int(size * 2 ** (1 / 3)), int(size * 2 ** (2 / 3))) for size in (32, 64, 128, 256, 512)),
        aspect_ratios=((0.5, 1.0, 2.0),) * 5,
    )


@register_model(
    weights=RetinaNet_ResNet50_FPN_Weights,
    weights_backbone=ResNet50_Weights,
    finish=(load_published, drop_norm_eps),
)
def retinanet_resnet50_fpn(
    *,
    weights: WeightsEnum | None = None,
    progress: bool = True,
    num_classes: int = 91,
    weights_backbone: WeightsEnum | None = ResNet50_Weights.IMAGENET1K_V1,
    trainable_backbone_layers: int | None = None,
    **kwargs: Any,
) -> RetinaNet:
    """Build RetinaNet over ResNet-50 with a feature pyramid (34.1 M parameters).

    Args:
        num_classes: number of classes, with the background; the published weights have 91.
        weights_backbone: weights of the ResNet alone: a member of `ResNet50_Weights`, the name of one, or None for
            random ones. They are not used where there are `weights`.
        trainable_backbone_layers: how many of the ResNet's five parts, counted from its last stage, are trained; 0 to
            5, or None for 3. A ResNet without trained weights is trained whole.
        **kwargs: options of `RetinaNet`: `min_size`, `max_size`, `image_mean`, `image_std`, `anchor_generator`, `head`,
            `score_thresh`, `nms_thresh`, `detections_per_img`, `fg_iou_thresh`, `bg_iou_thresh`, `topk_candidates`,
            `giou_loss`, `size_divisible` and `fixed_size`.
    """
    backbone = resnet50_fpn(
        weights,
        weights_backbone,
        trainable_backbone_layers,
        progress=progress,
        returned_layers=(2, 3, 4),
        extra_blocks=partial(LastLevelP6P7, 256, 256),
    )
    return RetinaNet(backbone, num_classes, **kwargs)


@register_model(weights=RetinaNet_ResNet50_FPN_V2_Weights, weights_backbone=ResNet50_Weights)
def retinanet_resnet50_fpn_v2(
    *,
    weights: WeightsEnum | None = None,
    progress: bool = True,
    num_classes: int = 91,
    weights_backbone: WeightsEnum | None = None,
    trainable_backbone_layers: int | None = None,
    **kwargs: Any,
) -> RetinaNet:
    """Build RetinaNet over ResNet-50 with a feature pyramid, and group norm in its heads (38.2 M parameters).

    It learns boxes by their generalised IoU.

    Args:
        num_classes: number of classes, with the background; the published weights have 91.
        weights_backbone: weights of the ResNet alone: a member of `ResNet50_Weights`, the name of one, or None for
            random ones. They are not used where there are `weights`.
        trainable_backbone_layers: how many of the ResNet's five parts, counted from its last stage, are trained; 0 to
            5, or None for 3. A ResNet without trained weights is trained whole.
        **kwargs: options of `RetinaNet`: `min_size`, `max_size`, `image_mean`, `image_std`, `anchor_generator`, `head`,
            `score_thresh`, `nms_thresh`, `detections_per_img`, `fg_iou_thresh`, `bg_iou_thresh`, `topk_candidates`,
            `giou_loss`, `size_divisible` and `fixed_size`; if left out, `giou_loss` is True and `head` has group norm
            in 32 groups.
    """
    backbone = resnet50_fpn(
        weights,
        weights_backbone,
        trainable_backbone_layers,
        progress=progress,
        freeze_norms=False,
        returned_layers=(2, 3, 4),
        extra_blocks=partial(LastLevelP6P7, 2048, 256),
    )
    anchors: AnchorGenerator = kwargs.get("anchor_generator") or _anchors()
    head = RetinaNetHead(
        backbone.out_channels, anchors.num_anchors_per_location()[0], num_classes, partial(nn.GroupNorm, 32)
    )
    defaults: dict[str, Any] = {"head": head, "giou_loss": True}
    return RetinaNet(backbone, num_classes, **defaults | kwargs)
