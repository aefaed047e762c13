"""Faster R-CNN with a feature pyramid, the base of the R-CNN family.

Source: Ren et al., "Faster R-CNN", arXiv:1506.01497; Lin et al., "Feature Pyramid Networks", arXiv:1612.03144.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from zoofleet.errors import InvalidArgumentError
from zoofleet.models.detection._anchors import AnchorGenerator
from zoofleet.models.detection._checkpoints import upgrade_keys_hook
from zoofleet.models.detection._checks import options_from, positive
from zoofleet.models.detection._detector import Detector
from zoofleet.models.detection._transform import Detection, DetectionTransform, ImageBatch, Target
from zoofleet.models.detection.roi_heads import RoIHeads, RoIOptions
from zoofleet.models.detection.rpn import RegionProposalNetwork, RPNHead, RPNOptions
from zoofleet.models.ops import MultiScaleRoIAlign

__all__ = ["FastRCNNPredictor", "FasterRCNN", "TwoMLPHead", "pyramid_roi_pool"]


class TwoMLPHead(nn.Module):
    """Two fully connected layers over a pooled region.

    Args:
        in_channels: values of a region.
        representation_size: values out.
    """

    def __init__(self, in_channels: int, representation_size: int) -> None:
        super().__init__()
        self.fc6 = nn.Linear(in_channels, representation_size)
        self.fc7 = nn.Linear(representation_size, representation_size)

    def forward(self, x: Tensor) -> Tensor:
        """(R, C, P, P) to (R, representation_size)."""
        return F.relu(self.fc7(F.relu(self.fc6(x.flatten(1)))))


class FastRCNNPredictor(nn.Module):
    """Classes and box codes of a region.

    Args:
        in_channels: values of a region.
        num_classes: background among them.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(in_channels, num_classes)
        self.bbox_pred = nn.Linear(in_channels, num_classes * 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(R, in_channels) or (R, in_channels, 1, 1) to logits (R, classes) and codes (R, classes * 4)."""
        x = x.flatten(1)  # (R, in_channels)
        return self.cls_score(x), self.bbox_pred(x)


class FasterRCNN(Detector):
    """Faster R-CNN. `Detector` says what goes in and out.

    Args:
        backbone: maps (N, 3, H, W) to a dict of feature maps of `backbone.out_channels` channels each.
        num_classes: background among them.
        rpn_anchor_generator: None for one size and three aspect ratios on each of five maps.
        rpn_head: None for one convolution.
        box_roi_pool: None for 7 x 7 cells from the maps `0`..`3`.
        box_head: None for two layers of 1024.
        box_predictor: None for one layer each for classes and codes.
        options: `min_size` (800, or a sequence that training draws from) and `max_size` (1333) of the resized images;
            `image_mean`, `image_std`; `bbox_reg_weights` (10, 10, 5, 5); the fields of `RPNOptions` with the prefix
            `rpn_`; those of `RoIOptions` with the prefix `box_`.

    Raises:
        InvalidArgumentError: an option that is not there, or a value that it cannot take.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        *,
        rpn_anchor_generator: AnchorGenerator | None = None,
        rpn_head: nn.Module | None = None,
        box_roi_pool: MultiScaleRoIAlign | None = None,
        box_head: nn.Module | None = None,
        box_predictor: nn.Module | None = None,
        **options: Any,
    ) -> None:
        rpn_options, options = options_from(RPNOptions, options, prefix="rpn_")
        box_options, options = options_from(RoIOptions, options, prefix="box_")
        bbox_reg_weights = options.pop("bbox_reg_weights", None) or (10.0, 10.0, 5.0, 5.0)
        super().__init__(backbone, _transform(**options))
        self.register_load_state_dict_pre_hook(upgrade_keys_hook)  # type: ignore[no-untyped-call]
        channels: int = backbone.out_channels  # type: ignore[assignment]
        anchors = rpn_anchor_generator or AnchorGenerator(
            sizes=((32,), (64,), (128,), (256,), (512,)), aspect_ratios=((0.5, 1.0, 2.0),) * 5
        )
        head = rpn_head or RPNHead(channels, anchors.num_anchors_per_location()[0])
        self.rpn = RegionProposalNetwork(anchors, head, rpn_options)
        self.roi_heads = RoIHeads(
            box_roi_pool=box_roi_pool or pyramid_roi_pool(7),
            box_head=box_head or TwoMLPHead(channels * 7 * 7, 1024),
            box_predictor=box_predictor or FastRCNNPredictor(1024, num_classes),
            options=box_options,
            bbox_reg_weights=tuple(bbox_reg_weights),
        )

    def _detect(self, batch: ImageBatch, features: dict[str, Tensor]) -> list[Detection]:
        proposals, _ = self.rpn(batch, features)
        return self.roi_heads.detect(features, proposals, batch.sizes)

    def _losses(self, batch: ImageBatch, features: dict[str, Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        proposals, losses = self.rpn(batch, features, targets)
        return {**self.roi_heads.losses(features, proposals, batch.sizes, targets), **losses}


def pyramid_roi_pool(output_size: int) -> MultiScaleRoIAlign:
    """Regions as `output_size` squared cells, cut from the maps `0`..`3` of a pyramid."""
    return MultiScaleRoIAlign(featmap_names=["0", "1", "2", "3"], output_size=output_size, sampling_ratio=2)


def _transform(
    min_size: int | Sequence[int] = 800,
    max_size: int = 1333,
    image_mean: Sequence[float] | None = None,
    image_std: Sequence[float] | None = None,
    **unknown: Any,
) -> DetectionTransform:
    if unknown:
        raise InvalidArgumentError(
            f"no option is named {', '.join(sorted(unknown))}; options are min_size, max_size, image_mean, image_std, "
            "bbox_reg_weights, and those of RPNOptions and RoIOptions with the prefixes rpn_ and box_"
        )
    min_sizes = [min_size] if isinstance(min_size, int) else list(min_size)
    if not min_sizes:
        raise InvalidArgumentError("min_size must be a positive integer or a sequence of some, got an empty one")
    return DetectionTransform(
        min_sizes=tuple(positive("min_size", size) for size in min_sizes),
        max_size=positive("max_size", max_size),
        mean=tuple(image_mean or (0.485, 0.456, 0.406)),
        std=tuple(image_std or (0.229, 0.224, 0.225)),
    )
