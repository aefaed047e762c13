"""Mask R-CNN with a feature pyramid: Faster R-CNN with a branch that segments each detection.

Source: He et al., "Mask R-CNN", arXiv:1703.06870. The second version: Li et al., "Benchmarking Detection Transfer
Learning with Vision Transformers", arXiv:2111.11429.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from torch import nn

from zoofleet.errors import InvalidArgumentError
from zoofleet.models._hub import load_weights
from zoofleet.models._layers import Conv2dNormActivation
from zoofleet.models._registry import register_model
from zoofleet.models._weight_sets import MaskRCNN_ResNet50_FPN_V2_Weights, MaskRCNN_ResNet50_FPN_Weights
from zoofleet.models._weights import WeightsEnum
from zoofleet.models.detection._checks import check_classes, out_channels, positive
from zoofleet.models.detection.backbone_utils import drop_norm_eps, resnet50_fpn
from zoofleet.models.detection.faster_rcnn import FasterRCNN, conv_heads, pyramid_roi_pool
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
    """Convolutions over a pooled region.

    Args:
        in_channels: channels of the region.
        layers: channels of each convolution.
        dilation: of each convolution.
        norm_layer: after each convolution; None for none.
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
    """Upsampling by two, then logits of a mask for each class.

    Args:
        in_channels: channels of the region.
        dim_reduced: channels between the two layers.
        num_classes: background among them.
    """

    def __init__(self, in_channels: int, dim_reduced: int, num_classes: int) -> None:
        super().__init__()
        self.conv5_mask = nn.ConvTranspose2d(in_channels, dim_reduced, 2, 2)
        self.relu = nn.ReLU(inplace=True)
        self.mask_fcn_logits = nn.Conv2d(dim_reduced, num_classes, 1)
        for layer in (self.conv5_mask, self.mask_fcn_logits):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


class MaskRCNN(FasterRCNN):
    """Mask R-CNN. `Detector` says what goes in and out.

    Args:
        backbone: as `FasterRCNN` takes it.
        num_classes: background among them; None where `box_predictor` and `mask_predictor` are given.
        mask_roi_pool: None for 14 x 14 cells from the maps `0`..`3`.
        mask_head: None for four convolutions of 256 channels.
        mask_predictor: None for masks of twice the cells, by class.
        options: all others of `FasterRCNN`.

    Raises:
        InvalidArgumentError: an option that is not there, or a value that it cannot take.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int | None = None,
        *,
        mask_roi_pool: MultiScaleRoIAlign | None = None,
        mask_head: nn.Module | None = None,
        mask_predictor: nn.Module | None = None,
        **options: Any,
    ) -> None:
        check_classes(num_classes, "mask_predictor", mask_predictor)
        # Before the base's heads, because the reference draws their random weights in this order.
        if mask_head is None:
            mask_head = MaskRCNNHeads(out_channels(backbone), (256, 256, 256, 256), 1)
        if mask_predictor is None:
            mask_predictor = MaskRCNNPredictor(256, 256, num_classes)  # type: ignore[arg-type]
        super().__init__(backbone, num_classes, **options)
        self.roi_heads.mask_roi_pool = pyramid_roi_pool(14) if mask_roi_pool is None else mask_roi_pool
        self.roi_heads.mask_head = mask_head
        self.roi_heads.mask_predictor = mask_predictor

    def _check_targets(self, targets: Sequence[Target]) -> None:
        if any("masks" not in target for target in targets):
            raise InvalidArgumentError("every target must have masks, uint8 or bool of shape (N, H, W)")


@register_model(weights=MaskRCNN_ResNet50_FPN_Weights, weights_backbone=ResNet50_Weights)
def maskrcnn_resnet50_fpn(
    *,
    weights: WeightsEnum | None = None,
    progress: bool = True,
    num_classes: int | None = None,
    weights_backbone: WeightsEnum | None = ResNet50_Weights.IMAGENET1K_V1,
    trainable_backbone_layers: int | None = None,
    **kwargs: Any,
) -> MaskRCNN:
    """Mask R-CNN over ResNet-50 with a feature pyramid.

    Args:
        weights: of the whole model, instead of `weights_backbone`; None for random ones.
        progress: write a progress line to stderr while downloading.
        num_classes: background among them; None for 91, which the weights have.
        weights_backbone: of the backbone alone.
        trainable_backbone_layers: parts of a backbone with trained weights that are trained further, counted from
            the last; 0 to 5, 3 if left out. A random backbone is trained whole.
        kwargs: options of `MaskRCNN`.
    """
    num_classes = positive("num_classes", 91 if num_classes is None else num_classes)
    backbone = resnet50_fpn(weights, weights_backbone, trainable_backbone_layers, progress=progress)
    model = MaskRCNN(backbone, num_classes, **kwargs)
    if weights is not None:
        load_weights(model, weights, progress=progress)
        if weights is MaskRCNN_ResNet50_FPN_Weights.COCO_V1:
            drop_norm_eps(model)
    return model


@register_model(weights=MaskRCNN_ResNet50_FPN_V2_Weights, weights_backbone=ResNet50_Weights)
def maskrcnn_resnet50_fpn_v2(
    *,
    weights: WeightsEnum | None = None,
    progress: bool = True,
    num_classes: int | None = None,
    weights_backbone: WeightsEnum | None = None,
    trainable_backbone_layers: int | None = None,
    **kwargs: Any,
) -> MaskRCNN:
    """Mask R-CNN over ResNet-50 with deeper heads, and batch norm everywhere.

    Args are those of `maskrcnn_resnet50_fpn`, but the backbone is random unless `weights_backbone` are given.
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
    channels = backbone.out_channels
    heads = conv_heads(channels, kwargs.get("rpn_anchor_generator"))
    heads["mask_head"] = MaskRCNNHeads(channels, (256, 256, 256, 256), 1, norm_layer=nn.BatchNorm2d)
    model = MaskRCNN(backbone, num_classes, **heads | kwargs)
    if weights is not None:
        load_weights(model, weights, progress=progress)
    return model
