"""FCN: a fully convolutional head over a dilated ResNet.

Source: Long, Shelhamer and Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015,
arXiv:1411.4038. Dilation in the place of strides keeps an eighth of the resolution, so there are no skips.
"""

from __future__ import annotations

import functools

from zoofleet.models._registry import register_model
from zoofleet.models._weights import WeightsEnum, define_weights
from zoofleet.models.resnet import ResNet50_Weights, ResNet101_Weights, resnet50, resnet101
from zoofleet.models.segmentation._segmenter import (
    TRAINED_WITH_HEAD,
    DilatedBackbone,
    FCNHead,
    Segmenter,
    build_segmenter,
)

__all__ = ["FCN", "FCNHead", "FCN_ResNet50_Weights", "FCN_ResNet101_Weights", "fcn_resnet50", "fcn_resnet101"]


class FCN(Segmenter):
    """FCN; arguments, input and output are those of `Segmenter`."""


FCN_ResNet50_Weights = define_weights("FCN_ResNet50_Weights")


@register_model(weights=FCN_ResNet50_Weights, weights_backbone=ResNet50_Weights, fixed=TRAINED_WITH_HEAD)
def fcn_resnet50(
    *,
    progress: bool = True,
    num_classes: int = 21,
    aux_loss: bool = False,
    weights_backbone: WeightsEnum | None = ResNet50_Weights.IMAGENET1K_V1,
) -> FCN:
    """Build FCN on a dilated ResNet-50 (33.0 M parameters, 35.3 M with the auxiliary head).

    Args:
        num_classes: channels of the output, the background among them; published weights have 21.
        aux_loss: with an auxiliary head over the third stage; None for what `weights` have, which is one, and for
            none without weights.
        weights_backbone: published weights of the backbone, used unless `weights` are given; None for random ones.
    """
    return build_segmenter(
        FCN,
        FCNHead,
        functools.partial(DilatedBackbone.resnet, resnet50),
        progress=progress,
        num_classes=num_classes,
        aux_loss=aux_loss,
        weights_backbone=weights_backbone,
    )


FCN_ResNet101_Weights = define_weights("FCN_ResNet101_Weights")


@register_model(weights=FCN_ResNet101_Weights, weights_backbone=ResNet101_Weights, fixed=TRAINED_WITH_HEAD)
def fcn_resnet101(
    *,
    progress: bool = True,
    num_classes: int = 21,
    aux_loss: bool = False,
    weights_backbone: WeightsEnum | None = ResNet101_Weights.IMAGENET1K_V1,
) -> FCN:
    """Build FCN on a dilated ResNet-101 (51.9 M parameters); the arguments are those of `fcn_resnet50`."""
    return build_segmenter(
        FCN,
        FCNHead,
        functools.partial(DilatedBackbone.resnet, resnet101),
        progress=progress,
        num_classes=num_classes,
        aux_loss=aux_loss,
        weights_backbone=weights_backbone,
    )
