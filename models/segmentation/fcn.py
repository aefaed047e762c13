"""FCN: a fully convolutional head over a dilated ResNet.

Source: Long, Shelhamer and Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015,
arXiv:1411.4038. Dilation in the place of strides keeps an eighth of the resolution, so there are no skips.

In shapes, N is the number of images, and H and W are the height and width of an image or a map.
"""

from __future__ import annotations

from zoofleet.models._registry import register_model
from zoofleet.models._weight_sets import FCN_ResNet50_Weights, FCN_ResNet101_Weights
from zoofleet.models._weights import WeightsEnum
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
    """FCN, which gives logits (N, num_classes, H, W) for images (N, 3, H, W).

    Args:
        backbone: gives a dict with the features `out` and, with an auxiliary head, `aux`.
        classifier: maps the features `out` to logits of their size.
        aux_classifier: maps the features `aux` to logits of their size, whose loss helps training; None for none.
    """


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
        num_classes: number of channels of the output, the background among them; weights fix it.
        aux_loss: whether the model has an auxiliary head over an earlier stage, for training; weights fix it to True.
        weights_backbone: the backbone's own weights, a member of `ResNet50_Weights` or the name of one, used
            only without `weights`; None for random ones.
    """
    dilated = DilatedBackbone.resnet(resnet50, weights_backbone, progress)
    return build_segmenter(FCN, FCNHead, dilated, num_classes, aux_loss)


@register_model(weights=FCN_ResNet101_Weights, weights_backbone=ResNet101_Weights, fixed=TRAINED_WITH_HEAD)
def fcn_resnet101(
    *,
    progress: bool = True,
    num_classes: int = 21,
    aux_loss: bool = False,
    weights_backbone: WeightsEnum | None = ResNet101_Weights.IMAGENET1K_V1,
) -> FCN:
    """Build FCN on a dilated ResNet-101 (51.9 M parameters).

    Args:
        num_classes: number of channels of the output, the background among them; weights fix it.
        aux_loss: whether the model has an auxiliary head over an earlier stage, for training; weights fix it to True.
        weights_backbone: the backbone's own weights, a member of `ResNet101_Weights` or the name of one, used
            only without `weights`; None for random ones.
    """
    dilated = DilatedBackbone.resnet(resnet101, weights_backbone, progress)
    return build_segmenter(FCN, FCNHead, dilated, num_classes, aux_loss)
