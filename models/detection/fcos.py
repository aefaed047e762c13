"""FCOS: a class, a box and a centredness of every cell of a feature pyramid, without anchors of several shapes.

Source: Tian et al., "FCOS: Fully Convolutional One-Stage Object Detection", arXiv:1904.01355; "FCOS: A simple and
strong anchor-free object detector", arXiv:2006.09214.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoofleet.errors import InvalidArgumentError
from zoofleet.models._hub import load_weights
from zoofleet.models._registry import register_model
from zoofleet.models._weights import WeightsEnum, define_weights
from zoofleet.models.detection._anchors import AnchorGenerator, by_anchor
from zoofleet.models.detection._backbones import resnet50_fpn
from zoofleet.models.detection._boxes import BELOW_LOW, LinearBoxCoder, at_least_float32
from zoofleet.models.detection._checkpoints import upgrade_keys_hook
from zoofleet.models.detection._checks import check_labels, check_ranges, options_from, positive
from zoofleet.models.detection._detector import Detector
from zoofleet.models.detection._init import normal_init, rare_object_init
from zoofleet.models.detection._options import resizing_transform
from zoofleet.models.detection._selection import Candidates, best_of_maps, choose
from zoofleet.models.detection._transform import Detection, ImageBatch, Target
from zoofleet.models.ops import LastLevelP6P7, box_area, generalized_box_iou_loss, sigmoid_focal_loss
from zoofleet.models.resnet import ResNet50_Weights

__all__ = ["FCOS", "FCOSHead", "FCOSOptions", "FCOS_ResNet50_FPN_Weights", "fcos_resnet50_fpn"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FCOSOptions:
    """How detections are chosen.

    Attributes:
        score_thresh: least score of a detection, itself excluded.
        nms_thresh: overlap (IoU) above which the weaker of two detections of one class goes.
        detections_per_img: most detections of an image.
        topk_candidates: pairs of a cell and a class of each map that enter non-maximum suppression.
    """

    score_thresh: float = 0.2
    nms_thresh: float = 0.6
    detections_per_img: int = 100
    topk_candidates: int = 1000

    def __post_init__(self) -> None:
        check_ranges(self)


class _ClassificationHead(nn.Module):
    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv = _tower(channels)
        normal_init(self.conv)
        self.cls_logits = nn.Conv2d(channels, num_classes, 3, padding=1)
        rare_object_init(self.cls_logits)
        self.num_classes = num_classes

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return [by_anchor(self.cls_logits(self.conv(x)), self.num_classes) for x in maps]


class _RegressionHead(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = _tower(channels)
        self.bbox_reg = nn.Conv2d(channels, 4, 3, padding=1)
        self.bbox_ctrness = nn.Conv2d(channels, 1, 3, padding=1)
        for module in (self.bbox_reg, self.bbox_ctrness, self.conv):  # the reference's order of draws
            normal_init(module)

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        hidden = [self.conv(x) for x in maps]
        codes = [by_anchor(F.relu(self.bbox_reg(x)), 4) for x in hidden]
        return codes, [by_anchor(self.bbox_ctrness(x), 1)[:, :, 0] for x in hidden]


def _tower(channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(4):
        layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.GroupNorm(32, channels), nn.ReLU()]
    return nn.Sequential(*layers)


class FCOSHead(nn.Module):
    """Logits, box codes and centredness of every cell, by four convolutions each that all maps share.

    Args:
        in_channels: channels of each map, a multiple of 32.
        num_classes: logits of each cell.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.classification_head = _ClassificationHead(in_channels, num_classes)
        self.regression_head = _RegressionHead(in_channels)

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Maps (N, C, H, W) to logits (N, H * W, classes), codes (N, H * W, 4) and logits of centredness (N, H * W)."""
        return self.classification_head(maps), *self.regression_head(maps)


class FCOS(Detector):
    """FCOS. `Detector` says what goes in and out.

    Args:
        backbone: maps (N, 3, H, W) to a dict of feature maps of `backbone.out_channels` channels each.
        num_classes: background among them, which is learned as no class at all.
        anchor_generator: one square at each cell; None for the strides 8 to 128 of five maps.
        head: None for an `FCOSHead`.
        center_sampling_radius: cells at most so many of their sizes from an object's centre learn it.
        options: `min_size` (800, or a sequence that training draws from) and `max_size` (1333) of the resized images;
            `image_mean`, `image_std`; the fields of `FCOSOptions`.

    Raises:
        InvalidArgumentError: an option that is not there, or a value that it cannot take.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        *,
        anchor_generator: AnchorGenerator | None = None,
        head: nn.Module | None = None,
        center_sampling_radius: float = 1.5,
        **options: Any,
    ) -> None:
        self_options, rest = options_from(FCOSOptions, options)
        super().__init__(backbone, resizing_transform(rest, "center_sampling_radius and FCOSOptions' fields"))
        self.register_load_state_dict_pre_hook(upgrade_keys_hook)  # type: ignore[no-untyped-call]
        channels: int = backbone.out_channels  # type: ignore[assignment]
        self.anchor_generator = anchor_generator or AnchorGenerator(
            sizes=((8,), (16,), (32,), (64,), (128,)), aspect_ratios=((1.0,),) * 5
        )
        if set(self.anchor_generator.num_anchors_per_location()) != {1}:
            raise InvalidArgumentError(
                "anchor_generator must lay one anchor at each cell, got "
                f"{self.anchor_generator.num_anchors_per_location()} by map"
            )
        if not center_sampling_radius > 0:
            raise InvalidArgumentError(f"center_sampling_radius must be above 0, got {center_sampling_radius!r}")
        self.head = head or FCOSHead(channels, num_classes)
        self.center_sampling_radius = center_sampling_radius
        self.options = self_options
        self.box_coder = LinearBoxCoder()

    def _detect(self, batch: ImageBatch, features: dict[str, Tensor]) -> list[Detection]:
        options = self.options
        maps = list(features.values())
        logits, codes, centredness = self.head(maps)
        anchors = self.anchor_generator(batch.size, maps)
        image, anchor, label, score = best_of_maps(
            logits, centredness, count=options.topk_candidates, threshold=options.score_thresh
        )
        boxes = self.box_coder.decode(torch.cat(codes, dim=1)[image, anchor], anchors[anchor])
        return choose(
            Candidates(boxes, score, label, image),
            batch.sizes,
            iou_threshold=options.nms_thresh,
            limit=options.detections_per_img,
        )

    def _losses(self, batch: ImageBatch, features: dict[str, Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        maps = list(features.values())
        head = self.head(maps)
        # (N, A, classes), (N, A, 4), (N, A)
        logits, codes, centredness = (at_least_float32(torch.cat(x, dim=1)) for x in head)
        check_labels(targets, logits.shape[-1])
        anchors = self.anchor_generator(batch.size, maps)
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
        """The distances to an object's farthest side between which each of the anchors (A, 4) learns it: (A,) each.

        FCOS, section 3.2: each map has its octave of sizes, the finest map all below, the coarsest all above.
        """
        side = anchors[:, 2] - anchors[:, 0]
        least, most = side * 4, side * 8
        least[: counts[0]] = 0
        most[len(most) - counts[-1] :] = torch.inf
        return least, most

    def _match(self, boxes: Tensor, anchors: Tensor, reach: tuple[Tensor, Tensor]) -> Tensor:
        """Index of the true box (G, 4) that each of the anchors (A, 4) learns, or `BELOW_LOW`: int64 (A,)."""
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
    """1 in the middle of a box to 0 at its sides, from codes (K, 4) of `LinearBoxCoder`: (K,). FCOS, equation 3."""
    across, down = distances[:, 0::2], distances[:, 1::2]  # (K, 2) each
    return ((across.amin(dim=1) / across.amax(dim=1)) * (down.amin(dim=1) / down.amax(dim=1))).sqrt()


FCOS_ResNet50_FPN_Weights = define_weights("FCOS_ResNet50_FPN_Weights")


@register_model(weights=FCOS_ResNet50_FPN_Weights, weights_backbone=ResNet50_Weights)
def fcos_resnet50_fpn(
    *,
    weights: WeightsEnum | None = None,
    progress: bool = True,
    num_classes: int | None = None,
    weights_backbone: WeightsEnum | None = ResNet50_Weights.IMAGENET1K_V1,
    trainable_backbone_layers: int | None = None,
    **kwargs: Any,
) -> FCOS:
    """FCOS over ResNet-50 with a feature pyramid.

    Args:
        weights: of the whole model, instead of `weights_backbone`; None for random ones.
        progress: write a progress line to stderr while downloading.
        num_classes: background among them; None for 91, which the weights have.
        weights_backbone: of the backbone alone.
        trainable_backbone_layers: parts of a backbone with trained weights that are trained further, counted from
            the last; 0 to 5, 3 if left out. A random backbone is trained whole.
        kwargs: options of `FCOS`.
    """
    num_classes = positive("num_classes", 91 if num_classes is None else num_classes)
    backbone = resnet50_fpn(
        weights,
        weights_backbone,
        trainable_backbone_layers,
        progress=progress,
        first_stage=2,
        extra_blocks=partial(LastLevelP6P7, 256, 256),
    )
    model = FCOS(backbone, num_classes, **kwargs)
    if weights is not None:
        load_weights(model, weights, progress=progress)
    return model
