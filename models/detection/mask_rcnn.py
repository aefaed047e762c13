"""Mask R-CNN with a feature pyramid: Faster R-CNN with a branch that segments each detection.

Source: He et al., "Mask R-CNN", arXiv:1703.06870. The second version: Li et al., "Benchmarking Detection Transfer
Learning with Vision Transformers", arXiv:2111.11429.

Letters in shapes: N images or objects of an image, C channels, H and W pixels, R regions of all images, Q rows and
columns of a pooled region, D channels of a region, M rows and columns of a mask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Unpack

from torch import nn

from zoofleet.errors import InvalidArgumentError
from zoofleet.models._layers import Conv2dNormActivation
from zoofleet.models._registry import load_published, register_model
from zoofleet.models._weight_sets import MaskRCNN_ResNet50_FPN_V2_Weights, MaskRCNN_ResNet50_FPN_Weights
from zoofleet.models._weights import WeightsEnum
from zoofleet.models.detection._options import check_classes, out_channels
from zoofleet.models.detection.backbone_utils import drop_norm_eps, resnet50_fpn
from zoofleet.models.detection.faster_rcnn import FasterRCNN, FasterRCNNOptions, conv_heads, pyramid_roi_pool
from zoofleet.models.detection.roi_heads import Branches
from zoofleet.models.detection.transform import Target
from zoofleet.models.ops import MultiScaleRoIAlign
from zoofleet.models.resnet import ResNet50_Weights

__all__ = [
    "MaskRCNN",
    "MaskRCNNHeads",
    "MaskRCNNPredictor",
    "MaskRCNN_ResNet50_FPN_V2_Weights",
    "MaskRCNN_ResNet50_FPN_Weights",
    "maskrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn_v2",
]


class MaskRCNNHeads(nn.Sequential):
    """Convolutions over pooled regions: (R, in_channels, Q, Q) to (R, layers[-1], Q, Q).

    Args:
        in_channels: channels of a pooled region.
        layers: channels that come out of each convolution.
        dilation: dilation of each convolution.
        norm_layer: makes the layer after each convolution from its number of channels; None for no such layer.
    """

    def __init__(
        self,
        in_channels: int,
        layers: Sequence[int],
        dilation: int,
        norm_layer: Callable[..., nn.Module] | None = None,
    ) -> None:
        channels = [in_channels, *layers]
        super().__init__(
            *(
                Conv2dNormActivation(before, after, dilation=dilation, norm_layer=norm_layer)
                for before, after in pairwise(channels)
            )
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)


class MaskRCNNPredictor(nn.Sequential):
    """Upsampling by two, then a mask of each class: (R, in_channels, Q, Q) to logits (R, num_classes, 2 * Q, 2 * Q).

    Args:
        in_channels: channels of a region.
        dim_reduced: channels between the two layers.
        num_classes: number of classes, with the background.
    """

    def __init__(self, in_channels: int, dim_reduced: int, num_classes: int) -> None:
        super().__init__()
        self.conv5_mask = nn.ConvTranspose2d(in_channels, dim_reduced, 2, 2)
        self.relu = nn.ReLU(inplace=True)
        self.mask_fcn_logits = nn.Conv2d(dim_reduced, num_classes, 1)
        for layer in (self.conv5_mask, self.mask_fcn_logits):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


class MaskRCNN(FasterRCNN):
    """Mask R-CNN; `Detector.predict` and `Detector.losses` say what goes in and out.

    Args:
        backbone: a network that turns images (N, 3, H, W) into a dict of feature maps of `backbone.out_channels`
            channels each, or into one such map.
        num_classes: number of classes, with the background; None where `box_predictor` and `mask_predictor` are given.
        min_size: length in pixels that an image's shorter side is resized to, or several lengths, of which training
            draws one for each image and inference takes the last.
        mask_roi_pool: cuts a region for each detection out of the feature maps; None for regions of 14 x 14 cells from
            the maps `0`, `1`, `2` and `3`.
        mask_head: turns regions (R, C, Q, Q) into (R, D, Q, Q); None for four convolutions of 256 channels.
        mask_predictor: turns these into mask logits (R, num_classes, M, M); None for a `MaskRCNNPredictor`, whose masks
            are of twice the cells.
        options: all other options of `FasterRCNN`, which documents them, by name.

    Raises:
        InvalidArgumentError: an option has another name; a threshold, fraction or score is outside [0, 1]; a number is
            not a positive integer; both or neither of `num_classes` and a predictor are given; or the backbone has no
            `out_channels`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int | None = None,
        min_size: int | Sequence[int] = 800,
        *,
        mask_roi_pool: MultiScaleRoIAlign | None = None,
        mask_head: nn.Module | None = None,
        mask_predictor: nn.Module | None = None,
        **options: Unpack[FasterRCNNOptions],
    ) -> None:
        check_classes(num_classes, "mask_predictor", mask_predictor)
        # Made before the heads of `FasterRCNN`, because the reference draws random weights in this order.
        if mask_head is None:
            mask_head = MaskRCNNHeads(out_channels(backbone), (256, 256, 256, 256), 1)
        if mask_predictor is None:
            mask_predictor = MaskRCNNPredictor(256, 256, num_classes)  # type: ignore[arg-type]
        branches: Branches = {
            "mask_roi_pool": pyramid_roi_pool(14) if mask_roi_pool is None else mask_roi_pool,
            "mask_head": mask_head,
            "mask_predictor": mask_predictor,
        }
        super().__init__(backbone, num_classes, min_size, branches=branches, **options)

    def _check_targets(self, targets: Sequence[Target]) -> None:
        if any("masks" not in target for target in targets):
            raise InvalidArgumentError("every target must have masks, uint8 or bool of shape (N, H, W)")


@register_model(
    weights=MaskRCNN_ResNet50_FPN_Weights,
    weights_backbone=ResNet50_Weights,
    finish=(load_published, drop_norm_eps),
)
def maskrcnn_resnet50_fpn(
    *,
    weights: WeightsEnum | None = None,
    progress: bool = True,
    num_classes: int = 91,
    weights_backbone: WeightsEnum | None = ResNet50_Weights.IMAGENET1K_V1,
    trainable_backbone_layers: int | None = None,
    **kwargs: Any,
) -> MaskRCNN:
    """Build Mask R-CNN over ResNet-50 with a feature pyramid (44.5 M parameters).

    Args:
        num_classes: number of classes, with the background; the published weights have 91.
        weights_backbone: weights of the ResNet alone: a member of `ResNet50_Weights`, the name of one, or None for
            random ones. They are not used where there are `weights`.
        trainable_backbone_layers: how many of the ResNet's five parts, counted from its last stage, are trained; 0 to
            5, or None for 3. A ResNet without trained weights is trained whole.
        **kwargs: further options of `MaskRCNN` and `FasterRCNN`, such as `min_size`, `box_score_thresh` and
            `mask_predictor`.
    """
    backbone = resnet50_fpn(weights, weights_backbone, trainable_backbone_layers, progress=progress)
    return MaskRCNN(backbone, num_classes, **kwargs)


@register_model(weights=MaskRCNN_ResNet50_FPN_V2_Weights, weights_backbone=ResNet50_Weights)
def maskrcnn_resnet50_fpn_v2(
    *,
    weights: WeightsEnum | None = None,
    progress: bool = True,
    num_classes: int = 91,
    weights_backbone: WeightsEnum | None = None,
    trainable_backbone_layers: int | None = None,
    **kwargs: Any,
) -> MaskRCNN:
    """Build Mask R-CNN over ResNet-50 with a feature pyramid, and deeper heads with batch norm (46.4 M parameters).

    Args:
        num_classes: number of classes, with the background; the published weights have 91.
        weights_backbone: weights of the ResNet alone: a member of `ResNet50_Weights`, the name of one, or None for
            random ones. They are not used where there are `weights`.
        trainable_backbone_layers: how many of the ResNet's five parts, counted from its last stage, are trained; 0 to
            5, or None for 3. A ResNet without trained weights is trained whole.
        **kwargs: further options of `MaskRCNN` and `FasterRCNN`, such as `min_size`, `box_score_thresh` and
            `mask_predictor`.
    """
    backbone = resnet50_fpn(
        weights,
        weights_backbone,
        trainable_backbone_layers,
        progress=progress,
        freeze_norms=False,
        norm_layer=nn.BatchNorm2d,
    )
    channels = backbone.out_channels
    heads = conv_heads(channels, kwargs.get("rpn_anchor_generator"))
    heads["mask_head"] = MaskRCNNHeads(channels, (256, 256, 256, 256), 1, norm_layer=nn.BatchNorm2d)
    return MaskRCNN(backbone, num_classes, **heads | kwargs)
