"""SSD: classes and boxes of default boxes over several feature maps, in one pass.

Source: Liu et al., "SSD: Single Shot MultiBox Detector", arXiv:1512.02325.

Letters in shapes: N images, C channels, H and W cells of a feature map or pixels of an image, K default boxes at each
cell, A default boxes of all maps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoofleet.errors import InvalidArgumentError
from zoofleet.models._registry import register_model
from zoofleet.models._weight_sets import SSD300_VGG16_Weights
from zoofleet.models._weights import WeightsEnum
from zoofleet.models.detection._boxes import BELOW_LOW, BoxCoder, at_least_float32, claim_best_anchors, match
from zoofleet.models.detection._detector import Detector
from zoofleet.models.detection._init import xavier_init
from zoofleet.models.detection._inputs import check_labels
from zoofleet.models.detection._options import (
    TransformOptions,
    check_counts,
    check_fractions,
    check_names,
    positive,
)
from zoofleet.models.detection._selection import Candidates, best_of_classes, choose
from zoofleet.models.detection._utils import retrieve_out_channels
from zoofleet.models.detection.anchor_utils import DefaultBoxGenerator, by_anchor
from zoofleet.models.detection.backbone_utils import freeze_first, num_trainable_layers
from zoofleet.models.detection.image_list import ImageList
from zoofleet.models.detection.transform import Detection, GeneralizedRCNNTransform, Target
from zoofleet.models.ops import box_iou
from zoofleet.models.vgg import VGG, VGG16_Weights, vgg16

__all__ = [
    "SSD",
    "SSD300_VGG16_Weights",
    "SSDClassificationHead",
    "SSDHead",
    "SSDRegressionHead",
    "SSDScoringHead",
    "SSDVGGBackbone",
    "refuse_size",
    "ssd300_vgg16",
]


class SSDScoringHead(nn.Module):
    """A block for each feature map, whose results are put in one row.

    Args:
        module_list: for each map what turns it into (N, K * num_columns, H, W).
        num_columns: values of each default box.
    """

    def __init__(self, module_list: nn.ModuleList, num_columns: int) -> None:
        super().__init__()
        self.module_list = module_list
        self.num_columns = num_columns

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Turn feature maps (N, C, H, W) into values (N, A, num_columns), in the order of `DefaultBoxGenerator`."""
        pairs = zip(self.module_list, maps, strict=True)
        return torch.cat([by_anchor(block(x), self.num_columns) for block, x in pairs], dim=1)


class SSDClassificationHead(SSDScoringHead):
    """Computes the logits of every default box, by a convolution for each feature map.

    Args:
        in_channels: channels of each map.
        num_anchors: default boxes at each cell of each map.
        num_classes: number of classes, with the background.

    Raises:
        InvalidArgumentError: `num_classes` is not a positive integer.
    """

    def __init__(self, in_channels: Sequence[int], num_anchors: Sequence[int], num_classes: int) -> None:
        positive("num_classes", num_classes)
        super().__init__(_convolutions(in_channels, num_anchors, num_classes), num_classes)


class SSDRegressionHead(SSDScoringHead):
    """Computes the box codes of every default box, by a convolution for each feature map.

    Args:
        in_channels: channels of each map.
        num_anchors: default boxes at each cell of each map.
    """

    def __init__(self, in_channels: Sequence[int], num_anchors: Sequence[int]) -> None:
        super().__init__(_convolutions(in_channels, num_anchors, 4), 4)


def _convolutions(in_channels: Sequence[int], num_anchors: Sequence[int], columns: int) -> nn.ModuleList:
    pairs = zip(in_channels, num_anchors, strict=True)
    blocks = nn.ModuleList(nn.Conv2d(channels, anchors * columns, 3, padding=1) for channels, anchors in pairs)
    xavier_init(blocks)
    return blocks


class SSDHead(nn.Module):
    """Computes logits and box codes of every default box.

    Args:
        in_channels: channels of each feature map.
        num_anchors: default boxes at each cell of each map.
        num_classes: number of classes, with the background.

    Raises:
        InvalidArgumentError: `num_classes` is not a positive integer.
    """

    def __init__(self, in_channels: Sequence[int], num_anchors: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.classification_head = SSDClassificationHead(in_channels, num_anchors, num_classes)
        self.regression_head = SSDRegressionHead(in_channels, num_anchors)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Turn feature maps (N, C, H, W) into logits (N, A, num_classes) and codes (N, A, 4)."""
        return self.classification_head(maps), self.regression_head(maps)


class SSD(Detector):
    """SSD; `Detector.predict` and `Detector.losses` say what goes in and out.

    Args:
        backbone: a network that turns images (N, 3, H, W) into a dict of feature maps.
        anchor_generator: lays the default boxes over these maps.
        size: height and width in pixels that every image is resized to.
        num_classes: number of classes, with the background.
        image_mean: mean of each channel, for images in [0, 1]; None for ImageNet's.
        image_std: standard deviation of each channel; None for ImageNet's.
        head: turns the list of feature maps into logits (N, A, num_classes) and codes (N, A, 4); None for an `SSDHead`.
        score_thresh: scores of detections must be above this, in [0, 1].
        nms_thresh: overlap (IoU) above which the weaker of two detections of one class goes, in [0, 1].
        detections_per_img: greatest number of detections of an image.
        iou_thresh: overlap (IoU) with a true box from which on a default box counts as an object in the losses.
        topk_candidates: greatest number of boxes of a class in an image that enter non-maximum suppression.
        positive_fraction: share of objects among the default boxes that the loss of classes is taken over, above 0.
        options: `size_divisible`, to multiples of which in pixels a batch is padded, 1 if left out; `fixed_size`, the
            height and width in pixels that images get in the place of `size`.

    Raises:
        InvalidArgumentError: an option has another name; a threshold or fraction is outside [0, 1]; or a number is not
            a positive integer.
    """

    def __init__(
        self,
        backbone: nn.Module,
        anchor_generator: DefaultBoxGenerator,
        size: tuple[int, int],
        num_classes: int,
        image_mean: Sequence[float] | None = None,
        image_std: Sequence[float] | None = None,
        head: nn.Module | None = None,
        score_thresh: float = 0.01,
        nms_thresh: float = 0.45,
        detections_per_img: int = 200,
        iou_thresh: float = 0.5,
        topk_candidates: int = 400,
        positive_fraction: float = 0.25,
        **options: Unpack[TransformOptions],
    ) -> None:
        check_names(SSD, options)
        check_fractions(
            score_thresh=score_thresh,
            nms_thresh=nms_thresh,
            iou_thresh=iou_thresh,
            positive_fraction=positive_fraction,
        )
        check_counts(detections_per_img=detections_per_img, topk_candidates=topk_candidates)
        resizing: TransformOptions = {"size_divisible": 1, "fixed_size": (size[0], size[1])}
        resizing.update(options)
        transform = GeneralizedRCNNTransform(min(size), max(size), image_mean, image_std, **resizing)
        super().__init__(backbone, transform)
        self.anchor_generator = anchor_generator
        if head is None:
            anchors = anchor_generator.num_anchors_per_location()
            head = SSDHead(retrieve_out_channels(backbone, size), anchors, num_classes)
        self.head = head
        self.score_thresh = score_thresh
        self.nms_thresh = nms_thresh
        self.detections_per_img = detections_per_img
        self.iou_thresh = iou_thresh
        self.topk_candidates = topk_candidates
        self.positive_fraction = positive_fraction
        # 1 over what SSD's published code calls the variances of default boxes, 0.1 and 0.2.
        self.box_coder = BoxCoder((10.0, 10.0, 5.0, 5.0))

    def _detect(self, batch: ImageList, features: dict[str, Tensor]) -> list[Detection]:
        logits, codes, anchors = self._scores(batch, features)
        image, anchor, label, score = best_of_classes(
            logits.softmax(dim=-1)[:, :, 1:], count=self.topk_candidates, threshold=self.score_thresh
        )
        boxes = self.box_coder.decode(codes[image, anchor], anchors[anchor])
        return choose(
            Candidates(boxes, score, label + 1, image),  # 0 is background
            batch.image_sizes,
            iou_threshold=self.nms_thresh,
            limit=self.detections_per_img,
        )

    def _losses(self, batch: ImageList, features: dict[str, Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        logits, codes, anchors = self._scores(batch, features)
        check_labels(targets, logits.shape[-1])
        labels = torch.zeros(logits.shape[:2], dtype=torch.int64, device=logits.device)  # (N, A)
        box_loss = codes.new_zeros(())
        matched = 0
        for i, target in enumerate(targets):
            iou = box_iou(target["boxes"], anchors)
            matches = match(iou, self.iou_thresh, self.iou_thresh)
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

    def _scores(self, batch: ImageList, features: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (N, A, num_classes), codes (N, A, 4) and default boxes (A, 4)."""
        maps = list(features.values())
        logits, codes = self.head(maps)
        return at_least_float32(logits), at_least_float32(codes), self.anchor_generator(batch, maps)[0]

    def _hard_examples(self, loss: Tensor, objects: Tensor) -> Tensor:
        """Return the objects, and the background with the highest loss: bool (N, A). arXiv:1512.02325, section 2.2.

        Args:
            loss: (N, A), the loss of each default box.
            objects: bool (N, A), the boxes that are matched with a true one.
        """
        negatives_each = (1 - self.positive_fraction) / self.positive_fraction
        wanted = negatives_each * objects.sum(dim=1, keepdim=True)
        order = loss.masked_fill(objects, -torch.inf).argsort(dim=1, descending=True)
        return objects | (order.argsort(dim=1) < wanted)


class SSDVGGBackbone(nn.Module):
    """VGG-16 cut before its fourth pooling, and five smaller maps behind it: arXiv:1512.02325, section 3.

    Args:
        network: the VGG-16; it is taken apart, and its first parts are frozen.
        trainable_layers: how many of its five parts, counted from the last, are left to train; 0 to 5. All parts but
            the first begin with a pooling.
    """

    def __init__(self, network: VGG, trainable_layers: int) -> None:
        super().__init__()
        layers = list(network.features.children())
        pools = [i for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
        freeze_first(layers, [0, *pools[:-1]], trainable_layers)
        # Rounding up gives the paper's map of 38 cells for images of 300 pixels.
        layers[pools[2]].ceil_mode = True  # type: ignore[assignment]
        self.scale_weight = nn.Parameter(torch.full((512,), 20.0))  # the first scale in section 3.1
        self.features = nn.Sequential(*layers[: pools[3]])
        smaller = nn.ModuleList(
            [
                _shrinking_block(1024, 512, stride=2, padding=1),
                _shrinking_block(512, 256, stride=2, padding=1),
                _shrinking_block(256, 256, stride=1, padding=0),
                _shrinking_block(256, 256, stride=1, padding=0),
            ]
        )
        xavier_init(smaller)
        # VGG's linear layers as convolutions, the first of them thinned out.
        linear = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1),
            nn.Conv2d(512, 1024, 3, padding=6, dilation=6),
            nn.ReLU(inplace=True),
            nn.Conv2d(1024, 1024, 1),
            nn.ReLU(inplace=True),
        )
        xavier_init(linear)
        self.extra = nn.ModuleList([nn.Sequential(*layers[pools[3] : pools[4]], linear), *smaller])

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Turn images (N, 3, H, W) into six maps by number, of 38, 19, 10, 5, 3 and 1 squared cells for 300 pixels."""
        x = self.features(x)
        # This map's values are much larger than the others': arXiv:1512.02325, section 3.1.
        maps = [self.scale_weight[:, None, None] * F.normalize(x)]
        for block in self.extra:
            x = block(x)
            maps.append(x)
        return {str(i): x for i, x in enumerate(maps)}


def _shrinking_block(in_channels: int, out_channels: int, *, stride: int, padding: int) -> nn.Sequential:
    """Return what makes a smaller map from the one before: a narrow 1 x 1 and a 3 x 3 convolution."""
    narrow = out_channels // 2
    return nn.Sequential(
        nn.Conv2d(in_channels, narrow, 1),
        nn.ReLU(inplace=True),
        nn.Conv2d(narrow, out_channels, 3, stride=stride, padding=padding),
        nn.ReLU(inplace=True),
    )


def refuse_size(options: Mapping[str, Any], side: int) -> None:
    """Check that a builder is not asked for another size than the one that its images have.

    Args:
        options: what the builder was given for `SSD`.
        side: height and width in pixels of the builder's images.

    Raises:
        InvalidArgumentError: `size` is among the options.
    """
    if "size" in options:
        raise InvalidArgumentError(f"no option is named size: this model's images are {side} x {side}; build an SSD")


@register_model(weights=SSD300_VGG16_Weights, weights_backbone=VGG16_Weights)
def ssd300_vgg16(
    *,
    weights: WeightsEnum | None = None,
    progress: bool = True,
    num_classes: int = 91,
    weights_backbone: WeightsEnum | None = VGG16_Weights.IMAGENET1K_FEATURES,
    trainable_backbone_layers: int | None = None,
    **kwargs: Any,
) -> SSD:
    """Build SSD over VGG-16 (35.6 M parameters), for images of 300 x 300 pixels.

    Args:
        num_classes: number of classes, with the background; the published weights have 91.
        weights_backbone: weights of the VGG-16 alone: a member of `VGG16_Weights`, the name of one, or None for random
            ones. They are not used where there are `weights`.
        trainable_backbone_layers: how many of the VGG's five parts, counted from the last, are trained; 0 to 5, or None
            for 4. A VGG without trained weights is trained whole.
        **kwargs: options of `SSD`: `image_mean`, `image_std`, `head`, `score_thresh`, `nms_thresh`,
            `detections_per_img`, `iou_thresh`, `topk_candidates` and `positive_fraction`; if left out, `image_mean` and
            `image_std` are those of the first VGG weights.

    Raises:
        InvalidArgumentError: `size` is among the options.
    """
    refuse_size(kwargs, 300)
    is_trained = weights is not None or weights_backbone is not None
    trainable = num_trainable_layers(trainable_backbone_layers, is_trained=is_trained, most=5, default=4)
    backbone = SSDVGGBackbone(vgg16(weights=weights_backbone, progress=progress), trainable)
    # arXiv:1512.02325, section 3.1, for the ratios, and section 3.4, on COCO, for the sizes; the steps are those of its
    # published code.
    anchors = DefaultBoxGenerator(
        [[2], [2, 3], [2, 3], [2, 3], [2], [2]],
        scales=[0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05],
        steps=[8, 16, 32, 64, 100, 300],
    )
    # VGG's first weights were trained on values up to 255, from which a mean was subtracted.
    defaults: dict[str, Any] = {"image_mean": (0.48235, 0.45882, 0.40784), "image_std": (1 / 255,) * 3}
    return SSD(backbone, anchors, (300, 300), num_classes, **defaults | kwargs)
