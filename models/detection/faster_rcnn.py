"""Faster R-CNN with a feature pyramid, the base of the R-CNN family.

Source: Ren et al., "Faster R-CNN", arXiv:1506.01497; Lin et al., "Feature Pyramid Networks", arXiv:1612.03144. The
second versions: Li et al., "Benchmarking Detection Transfer Learning with Vision Transformers", arXiv:2111.11429.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from zoofleet.models._hub import load_weights
from zoofleet.models._layers import Conv2dNormActivation
from zoofleet.models._registry import register_model
from zoofleet.models._weights import WeightsEnum, define_weights
from zoofleet.models.detection._anchors import AnchorGenerator
from zoofleet.models.detection._backbones import drop_norm_eps, mobilenet_v3_large_fpn, resnet50_fpn
from zoofleet.models.detection._checkpoints import upgrade_keys_hook
from zoofleet.models.detection._checks import options_from, positive
from zoofleet.models.detection._detector import Detector
from zoofleet.models.detection._options import resizing_transform
from zoofleet.models.detection._transform import Detection, ImageBatch, Target
from zoofleet.models.detection.roi_heads import RoIHeads, RoIOptions
from zoofleet.models.detection.rpn import RegionProposalNetwork, RPNHead, RPNOptions
from zoofleet.models.mobilenet_v3 import MobileNet_V3_Large_Weights
from zoofleet.models.ops import MultiScaleRoIAlign
from zoofleet.models.resnet import ResNet50_Weights

__all__ = [
    "FastRCNNConvFCHead",
    "FastRCNNPredictor",
    "FasterRCNN",
    "FasterRCNN_MobileNet_V3_Large_320_FPN_Weights",
    "FasterRCNN_MobileNet_V3_Large_FPN_Weights",
    "FasterRCNN_ResNet50_FPN_V2_Weights",
    "FasterRCNN_ResNet50_FPN_Weights",
    "TwoMLPHead",
    "conv_heads",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "pyramid_roi_pool",
]


_ANCHORS = AnchorGenerator(sizes=((32,), (64,), (128,), (256,), (512,)), aspect_ratios=((0.5, 1.0, 2.0),) * 5)


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


class FastRCNNConvFCHead(nn.Sequential):
    """Convolutions with batch norm, then one fully connected layer, over a pooled region.

    Args:
        in_channels: channels of the region.
        side: cells of the region along each axis.
        conv_layers: channels of each convolution.
        representation_size: values out.
    """

    def __init__(self, in_channels: int, side: int, conv_layers: Sequence[int], representation_size: int) -> None:
        channels = [in_channels, *conv_layers]
        super().__init__(
            *(Conv2dNormActivation(before, after) for before, after in pairwise(channels)),
            nn.Flatten(),
            nn.Linear(channels[-1] * side * side, representation_size),
            nn.ReLU(inplace=True),
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


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
        super().__init__(
            backbone,
            resizing_transform(
                options, "bbox_reg_weights, and those of RPNOptions and RoIOptions with the prefixes rpn_ and box_"
            ),
        )
        self.register_load_state_dict_pre_hook(upgrade_keys_hook)  # type: ignore[no-untyped-call]
        channels: int = backbone.out_channels  # type: ignore[assignment]
        anchors = rpn_anchor_generator or _ANCHORS
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


def conv_heads(channels: int, rpn_anchor_generator: AnchorGenerator | None) -> dict[str, nn.Module]:
    """The deeper `rpn_head` and `box_head` of the second versions, over maps of so many channels."""
    anchors = (rpn_anchor_generator or _ANCHORS).num_anchors_per_location()[0]
    return {
        "rpn_head": RPNHead(channels, anchors, conv_depth=2),
        "box_head": FastRCNNConvFCHead(channels, 7, (256, 256, 256, 256), 1024),
    }


FasterRCNN_ResNet50_FPN_Weights = define_weights("FasterRCNN_ResNet50_FPN_Weights")


@register_model(weights=FasterRCNN_ResNet50_FPN_Weights, weights_backbone=ResNet50_Weights)
def fasterrcnn_resnet50_fpn(
    *,
    weights: WeightsEnum | None = None,
    progress: bool = True,
    num_classes: int | None = None,
    weights_backbone: WeightsEnum | None = ResNet50_Weights.IMAGENET1K_V1,
    trainable_backbone_layers: int | None = None,
    **kwargs: Any,
) -> FasterRCNN:
    """Faster R-CNN over ResNet-50 with a feature pyramid.

    Args:
        weights: of the whole model, instead of `weights_backbone`; None for random ones.
        progress: write a progress line to stderr while downloading.
        num_classes: background among them; None for 91, which the weights have.
        weights_backbone: of the backbone alone.
        trainable_backbone_layers: parts of a backbone with trained weights that are trained further, counted from
            the last; 0 to 5, 3 if left out. A random backbone is trained whole.
        kwargs: options of `FasterRCNN`.
    """
    num_classes = positive("num_classes", 91 if num_classes is None else num_classes)
    backbone = resnet50_fpn(weights, weights_backbone, trainable_backbone_layers, progress=progress)
    model = FasterRCNN(backbone, num_classes, **kwargs)
    if weights is not None:
        load_weights(model, weights, progress=progress)
        if weights is FasterRCNN_ResNet50_FPN_Weights.COCO_V1:
            drop_norm_eps(model)
    return model


FasterRCNN_ResNet50_FPN_V2_Weights = define_weights("FasterRCNN_ResNet50_FPN_V2_Weights")


@register_model(weights=FasterRCNN_ResNet50_FPN_V2_Weights, weights_backbone=ResNet50_Weights)
def fasterrcnn_resnet50_fpn_v2(
    *,
    weights: WeightsEnum | None = None,
    progress: bool = True,
    num_classes: int | None = None,
    weights_backbone: WeightsEnum | None = None,
    trainable_backbone_layers: int | None = None,
    **kwargs: Any,
) -> FasterRCNN:
    """Faster R-CNN over ResNet-50 with deeper heads, and batch norm everywhere.

    Args are those of `fasterrcnn_resnet50_fpn`, but the backbone is random unless `weights_backbone` are given.
    """
    num_classes = positive("num_classes", 91 if num_classes is None else num_classes)
    backbone = resnet50_fpn(
        weights,
        weights_backbone,
        trainable_backbone_layers,
        progress=progress,
        freeze_norms=False,
        norm_layer=nn.BatchNorm2d,
    )
    heads = conv_heads(backbone.out_channels, kwargs.get("rpn_anchor_generator"))
    model = FasterRCNN(backbone, num_classes, **heads | kwargs)
    if weights is not None:
        load_weights(model, weights, progress=progress)
    return model


def _mobilenet_v3_large_fpn(
    weights: WeightsEnum | None,
    progress: bool,
    num_classes: int | None,
    weights_backbone: WeightsEnum | None,
    trainable_backbone_layers: int | None,
    options: dict[str, Any],
) -> FasterRCNN:
    num_classes = positive("num_classes", 91 if num_classes is None else num_classes)
    backbone = mobilenet_v3_large_fpn(weights, weights_backbone, trainable_backbone_layers, progress=progress)
    anchors = AnchorGenerator(sizes=((32, 64, 128, 256, 512),) * 3, aspect_ratios=((0.5, 1.0, 2.0),) * 3)
    defaults: dict[str, Any] = {"rpn_anchor_generator": anchors, "rpn_score_thresh": 0.05}
    model = FasterRCNN(backbone, num_classes, **defaults | options)
    if weights is not None:
        load_weights(model, weights, progress=progress)
    return model


FasterRCNN_MobileNet_V3_Large_FPN_Weights = define_weights("FasterRCNN_MobileNet_V3_Large_FPN_Weights")


@register_model(weights=FasterRCNN_MobileNet_V3_Large_FPN_Weights, weights_backbone=MobileNet_V3_Large_Weights)
def fasterrcnn_mobilenet_v3_large_fpn(
    *,
    weights: WeightsEnum | None = None,
    progress: bool = True,
    num_classes: int | None = None,
    weights_backbone: WeightsEnum | None = MobileNet_V3_Large_Weights.IMAGENET1K_V1,
    trainable_backbone_layers: int | None = None,
    **kwargs: Any,
) -> FasterRCNN:
    """Faster R-CNN over MobileNetV3-Large with a feature pyramid.

    Args are those of `fasterrcnn_resnet50_fpn`, but the backbone has six parts and `rpn_score_thresh` is 0.05 if left
    out.
    """
    return _mobilenet_v3_large_fpn(weights, progress, num_classes, weights_backbone, trainable_backbone_layers, kwargs)


FasterRCNN_MobileNet_V3_Large_320_FPN_Weights = define_weights("FasterRCNN_MobileNet_V3_Large_320_FPN_Weights")


@register_model(weights=FasterRCNN_MobileNet_V3_Large_320_FPN_Weights, weights_backbone=MobileNet_V3_Large_Weights)
def fasterrcnn_mobilenet_v3_large_320_fpn(
    *,
    weights: WeightsEnum | None = None,
    progress: bool = True,
    num_classes: int | None = None,
    weights_backbone: WeightsEnum | None = MobileNet_V3_Large_Weights.IMAGENET1K_V1,
    trainable_backbone_layers: int | None = None,
    **kwargs: Any,
) -> FasterRCNN:
    """Faster R-CNN over MobileNetV3-Large with a feature pyramid, for phones: small images and few proposals.

    Args are those of `fasterrcnn_mobilenet_v3_large_fpn`, but `min_size` is 320, `max_size` 640, and
    `rpn_pre_nms_top_n_test` and `rpn_post_nms_top_n_test` are 150 if left out.
    """
    small = {"min_size": 320, "max_size": 640, "rpn_pre_nms_top_n_test": 150, "rpn_post_nms_top_n_test": 150}
    return _mobilenet_v3_large_fpn(
        weights, progress, num_classes, weights_backbone, trainable_backbone_layers, small | kwargs
    )
