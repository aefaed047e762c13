"""FCOS: a class, a box and a centredness of every cell of a feature pyramid, without anchors of several shapes.

Sources: Tian et al., "FCOS: Fully Convolutional One-Stage Object Detection", arXiv:1904.01355; "FCOS: A simple and
strong anchor-free object detector", arXiv:2006.09214.

Letters in shapes: N images, C channels, H and W cells of a feature map or pixels of an image, A cells of all maps, G
true boxes of an image, K cells that learn an object.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoofleet.errors import InvalidArgumentError
from zoofleet.models._registry import register_model
from zoofleet.models._weight_sets import FCOS_ResNet50_FPN_Weights
from zoofleet.models._weights import WeightsEnum
from zoofleet.models.detection._boxes import BELOW_LOW, LinearBoxCoder, at_least_float32
from zoofleet.models.detection._checkpoints import upgrade_keys_hook
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
from zoofleet.models.detection.backbone_utils import resnet50_fpn
from zoofleet.models.detection.image_list import ImageList
from zoofleet.models.detection.transform import Detection, GeneralizedRCNNTransform, Target
from zoofleet.models.ops import LastLevelP6P7, box_area, generalized_box_iou_loss, sigmoid_focal_loss
from zoofleet.models.resnet import ResNet50_Weights

__all__ = [
    "FCOS",
    "FCOSClassificationHead",
    "FCOSHead",
    "FCOSRegressionHead",
    "FCOS_ResNet50_FPN_Weights",
    "fcos_resnet50_fpn",
]

NormLayer = Callable[..., nn.Module]


class FCOSClassificationHead(nn.Module):
    """Computes the logits of every cell, by convolutions that all feature maps share.

    Args:
        in_channels: channels of each map, a multiple of 32 for the default `norm_layer`.
        num_anchors: boxes of each cell; 1 for an `FCOS`.
        num_classes: logits of each cell.
        num_convs: number of convolutions before the logits.
        prior_probability: share of cells that the untrained head takes for an object, in (0, 1).
        norm_layer: makes the layer after each of these convolutions from its number of channels; None for group norm in
            32 groups.

    Raises:
        InvalidArgumentError: `num_classes` is not a positive integer.
    """

    def __init__(
        self,
        in_channels: int,
        num_anchors: int,
        num_classes: int,
        num_convs: int = 4,
        prior_probability: float = 0.01,
        norm_layer: NormLayer | None = None,
    ) -> None:
        positive("num_classes", num_classes)
        super().__init__()
        self.conv = _tower(in_channels, num_convs, norm_layer)
        normal_init(self.conv)
        self.cls_logits = nn.Conv2d(in_channels, num_anchors * num_classes, 3, padding=1)
        rare_object_init(self.cls_logits, prior_probability)
        self.num_classes = num_classes
        self.num_anchors = num_anchors

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Turn feature maps (N, C, H, W) into logits (N, H * W, num_classes) of each."""
        return [by_anchor(self.cls_logits(self.conv(x)), self.num_classes) for x in maps]


class FCOSRegressionHead(nn.Module):
    """Computes box codes and centredness of every cell, by convolutions that all feature maps share.

    Args:
        in_channels: channels of each map, a multiple of 32 for the default `norm_layer`.
        num_anchors: boxes of each cell; 1 for an `FCOS`.
        num_convs: number of convolutions before the two outputs.
        norm_layer: makes the layer after each of these convolutions from its number of channels; None for group norm in
            32 groups.
    """

    def __init__(
        self, in_channels: int, num_anchors: int, num_convs: int = 4, norm_layer: NormLayer | None = None
    ) -> None:
        super().__init__()
        self.conv = _tower(in_channels, num_convs, norm_layer)
        self.bbox_reg = nn.Conv2d(in_channels, num_anchors * 4, 3, padding=1)
        self.bbox_ctrness = nn.Conv2d(in_channels, num_anchors, 3, padding=1)
        # The reference draws random weights in this order: equal seeds then give equal models.
        for module in (self.bbox_reg, self.bbox_ctrness, self.conv):
            normal_init(module)

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Turn feature maps (N, C, H, W) into codes (N, H * W, 4) and logits of centredness (N, H * W) of each."""
        hidden = [self.conv(x) for x in maps]
        codes = [by_anchor(F.relu(self.bbox_reg(x)), 4) for x in hidden]
        return codes, [by_anchor(self.bbox_ctrness(x), 1)[:, :, 0] for x in hidden]


def _tower(channels: int, num_convs: int, norm_layer: NormLayer | None) -> nn.Sequential:
    norm = partial(nn.GroupNorm, 32) if norm_layer is None else norm_layer
    layers: list[nn.Module] = []
    for _ in range(num_convs):
        layers += [nn.Conv2d(channels, channels, 3, padding=1), norm(channels), nn.ReLU()]
    return nn.Sequential(*layers)


class FCOSHead(nn.Module):
    """Computes logits, box codes and centredness of every cell, by convolutions that all feature maps share.

    Args:
        in_channels: channels of each map, a multiple of 32.
        num_anchors: boxes of each cell; 1 for an `FCOS`.
        num_classes: logits of each cell.
        num_convs: number of convolutions before the outputs; None for 4.

    Raises:
        InvalidArgumentError: `num_classes` is not a positive integer.
    """

    def __init__(self, in_channels: int, num_anchors: int, num_classes: int, num_convs: int | None = 4) -> None:
        super().__init__()
        convs = 4 if num_convs is None else num_convs
        self.classification_head = FCOSClassificationHead(in_channels, num_anchors, num_classes, convs)
        self.regression_head = FCOSRegressionHead(in_channels, num_anchors, convs)

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Turn feature maps (N, C, H, W) into what the detector learns of each cell.

        Returns:
            For each map logits (N, H * W, num_classes), codes (N, H * W, 4) and logits of centredness (N, H * W).
        """
        return self.classification_head(maps), *self.regression_head(maps)


class FCOS(Detector):
    """FCOS; `Detector.predict` and `Detector.losses` say what goes in and out.

    Args:
        backbone: a network that turns images (N, 3, H, W) into a dict of feature maps of `backbone.out_channels`
            channels each, the finest first.
        num_classes: number of classes, with the background, which is learned as no class at all.
        min_size: length in pixels that an image's shorter side is resized to, or several lengths, of which training
            draws one for each image and inference takes the last.
        max_size: greatest length in pixels of the longer side of a resized image.
        image_mean: mean of each channel, for images in [0, 1]; None for ImageNet's.
        image_std: standard deviation of each channel; None for ImageNet's.
        anchor_generator: lays one square at each cell, of the size of the cell; None for five maps of strides 8, 16,
            32, 64 and 128.
        head: turns the list of feature maps into logits, codes and centredness, as `FCOSHead` does; None for an
            `FCOSHead`.
        center_sampling_radius: cells whose centres are nearer than this to an object's centre, in units of the cells'
            size, learn the object; above 0.
        score_thresh: scores of detections must be above this, in [0, 1].
        nms_thresh: overlap (IoU) above which the weaker of two detections of one class goes, in [0, 1].
        detections_per_img: greatest number of detections of an image.
        topk_candidates: greatest number of pairs of a cell and a class of each map that enter non-maximum suppression.
        options: `size_divisible`, to multiples of which in pixels a batch is padded, 32 if left out; `fixed_size`, the
            height and width in pixels that every image gets in the place of `min_size` and `max_size`.

    Raises:
        InvalidArgumentError: an option has another name; a threshold is outside [0, 1]; a number is not a positive
            integer; `center_sampling_radius` is not above 0; there is not one anchor at each cell; or the backbone has
            no `out_channels`.
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
        center_sampling_radius: float = 1.5,
        score_thresh: float = 0.2,
        nms_thresh: float = 0.6,
        detections_per_img: int = 100,
        topk_candidates: int = 1000,
        **options: Unpack[TransformOptions],
    ) -> None:
        check_names(FCOS, options)
        check_fractions(score_thresh=score_thresh, nms_thresh=nms_thresh)
        check_counts(detections_per_img=detections_per_img, topk_candidates=topk_candidates)
        super().__init__(backbone, GeneralizedRCNNTransform(min_size, max_size, image_mean, image_std, **options))
        self.register_load_state_dict_pre_hook(upgrade_keys_hook)  # type: ignore[no-untyped-call]
        channels = out_channels(backbone)
        if anchor_generator is None:
            anchor_generator = AnchorGenerator(sizes=((8,), (16,), (32,), (64,), (128,)), aspect_ratios=((1.0,),) * 5)
        if set(anchor_generator.num_anchors_per_location()) != {1}:
            raise InvalidArgumentError(
                "anchor_generator must lay one anchor at each cell, got "
                f"{anchor_generator.num_anchors_per_location()} by map"
            )
        if not center_sampling_radius > 0:
            raise InvalidArgumentError(f"center_sampling_radius must be above 0, got {center_sampling_radius!r}")
        self.anchor_generator = anchor_generator
        self.head = FCOSHead(channels, 1, num_classes) if head is None else head
        self.center_sampling_radius = center_sampling_radius
        self.score_thresh = score_thresh
        self.nms_thresh = nms_thresh
        self.detections_per_img = detections_per_img
        self.topk_candidates = topk_candidates
        self.box_coder = LinearBoxCoder()

    def _detect(self, batch: ImageList, features: dict[str, Tensor]) -> list[Detection]:
        maps = list(features.values())
        logits, codes, centredness = self.head(maps)
        anchors = self.anchor_generator(batch, maps)[0]
        image, anchor, label, score = best_of_maps(
            logits, centredness, count=self.topk_candidates, threshold=self.score_thresh
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
        head = self.head(maps)
        # (N, A, classes), (N, A, 4), (N, A)
        logits, codes, centredness = (at_least_float32(torch.cat(x, dim=1)) for x in head)
        check_labels(targets, logits.shape[-1])
        anchors = self.anchor_generator(batch, maps)[0]
        reach = self._reach(anchors, [x.shape[1] for x in head[0]])
        matches = torch.stack([self._match(target["boxes"], anchors, reach) for target in targets])  # (N, A)
        image, anchor = torch.where(matches >= 0)
        # Boxes and labels of all images in a row; `first` tells where each image's begin.
        counts = torch.tensor([0, *(len(target["boxes"]) for target in targets)], device=matches.device)
        truth = matches[image, anchor] + counts.cumsum(0)[image]
        boxes = torch.cat([target["boxes"] for target in targets])[truth]
        labels = torch.cat([target["labels"] for target in targets])[truth]
        wanted = torch.zeros_like(logits)
        wanted[image, anchor, labels] = 1
        anchors = anchors[anchor]
        losses = {
            "classification": sigmoid_focal_loss(logits, wanted, reduction="sum"),
            "bbox_regression": generalized_box_iou_loss(
                self.box_coder.decode(codes[image, anchor], anchors), boxes, reduction="sum"
            ),
            "bbox_ctrness": F.binary_cross_entropy_with_logits(
                centredness[image, anchor], _centredness(self.box_coder.encode(boxes, anchors)), reduction="sum"
            ),
        }
        # One object at least, so that a batch without any has finite losses.
        return {name: loss / max(len(truth), 1) for name, loss in losses.items()}

    def _reach(self, anchors: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the distances to an object's farthest side between which each of the anchors (A, 4) learns it.

        Each map has its octave of sizes, the finest map all sizes below too, and the coarsest all above:
        arXiv:1904.01355, section 3.2, whose octaves of 64 to 512 pixels are these multiples of the strides.

        Args:
            anchors: float xyxy (A, 4), the squares of all maps, the finest map first.
            counts: number of cells of each map.

        Returns:
            The least and the greatest distance in pixels, (A,) each.
        """
        side = anchors[:, 2] - anchors[:, 0]
        least, most = side * 4, side * 8
        least[: counts[0]] = 0
        most[len(most) - counts[-1] :] = torch.inf
        return least, most

    def _match(self, boxes: Tensor, anchors: Tensor, reach: tuple[Tensor, Tensor]) -> Tensor:
        """Return the index of the true box (G, 4) that each anchor (A, 4) learns, or `BELOW_LOW`: int64 (A,)."""
        if len(boxes) == 0:
            return torch.full_like(anchors[:, 0], BELOW_LOW, dtype=torch.int64)
        centers = (anchors[:, :2] + anchors[:, 2:]) / 2  # (A, 2)
        side = anchors[:, 2] - anchors[:, 0]
        from_center = (centers[:, None] - (boxes[:, :2] + boxes[:, 2:]) / 2).abs().amax(dim=2)  # (A, G)
        start, end = centers[:, None] - boxes[:, :2], boxes[:, 2:] - centers[:, None]  # (A, G, 2)
        from_sides = torch.cat((start, end), dim=2)  # (A, G, 4)
        farthest = from_sides.amax(dim=2)
        least, most = (bound[:, None] for bound in reach)
        fits = (from_center < self.center_sampling_radius * side[:, None]) & (from_sides.amin(dim=2) > 0)
        fits &= (farthest > least) & (farthest < most)
        # Where several objects fit, the smallest is the hardest to find elsewhere.
        area, truth = torch.where(fits, box_area(boxes), torch.inf).min(dim=1)
        return torch.where(area.isinf(), BELOW_LOW, truth)


def _centredness(distances: Tensor) -> Tensor:
    """Return how near the middle of a box a cell lies, from 0 at the sides to 1: (K,). arXiv:1904.01355, equation 3.

    Args:
        distances: codes (K, 4) of `LinearBoxCoder`, none below 0.
    """
    across, down = distances[:, 0::2], distances[:, 1::2]  # (K, 2) each
    return ((across.amin(dim=1) / across.amax(dim=1)) * (down.amin(dim=1) / down.amax(dim=1))).sqrt()


@register_model(weights=FCOS_ResNet50_FPN_Weights, weights_backbone=ResNet50_Weights)
def fcos_resnet50_fpn(
    *,
    weights: WeightsEnum | None = None,
    progress: bool = True,
    num_classes: int = 91,
    weights_backbone: WeightsEnum | None = ResNet50_Weights.IMAGENET1K_V1,
    trainable_backbone_layers: int | None = None,
    **kwargs: Any,
) -> FCOS:
    """Build FCOS over ResNet-50 with a feature pyramid (32.3 M parameters).

    Args:
        num_classes: number of classes, with the background; the published weights have 91.
        weights_backbone: weights of the ResNet alone: a member of `ResNet50_Weights`, the name of one, or None for
            random ones. They are not used where there are `weights`.
        trainable_backbone_layers: how many of the ResNet's five parts, counted from its last stage, are trained; 0 to
            5, or None for 3. A ResNet without trained weights is trained whole.
        **kwargs: options of `FCOS`: `min_size`, `max_size`, `image_mean`, `image_std`, `anchor_generator`, `head`,
            `center_sampling_radius`, `score_thresh`, `nms_thresh`, `detections_per_img`, `topk_candidates`,
            `size_divisible` and `fixed_size`.
    """
    backbone = resnet50_fpn(
        weights,
        weights_backbone,
        trainable_backbone_layers,
        progress=progress,
        returned_layers=(2, 3, 4),
        extra_blocks=partial(LastLevelP6P7, 256, 256),
    )
    return FCOS(backbone, num_classes, **kwargs)
