"""DeepLabV3: parallel dilated convolutions at several rates over a dilated backbone.

Source: Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", arXiv:1706.05587, section 3.3 and
figure 5; the rates are those for an eighth of the resolution.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoofleet.models._registry import register_model
from zoofleet.models._weights import WeightsEnum, define_weights
from zoofleet.models.mobilenetv3 import MobileNet_V3_Large_Weights
from zoofleet.models.resnet import ResNet50_Weights, ResNet101_Weights, resnet50, resnet101
from zoofleet.models.segmentation._segmenter import (
    TRAINED_WITH_HEAD,
    DilatedBackbone,
    Segmenter,
    build_segmenter,
    upsample,
)

__all__ = [
    "ASPP",
    "ASPPConv",
    "ASPPPooling",
    "DeepLabHead",
    "DeepLabV3",
    "DeepLabV3_MobileNet_V3_Large_Weights",
    "DeepLabV3_ResNet50_Weights",
    "DeepLabV3_ResNet101_Weights",
    "deeplabv3_mobilenet_v3_large",
    "deeplabv3_resnet50",
    "deeplabv3_resnet101",
]


def _conv_norm_relu(in_channels: int, out_channels: int, kernel_size: int, dilation: int = 1) -> list[nn.Module]:
    padding = kernel_size // 2 * dilation
    return [
        nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    ]


class ASPPConv(nn.Sequential):
    """A dilated 3x3 convolution with batch norm and ReLU.

    Args:
        in_channels: channels of the features.
        out_channels: channels of the output.
        dilation: of the convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, dilation: int) -> None:
        super().__init__(*_conv_norm_relu(in_channels, out_channels, kernel_size=3, dilation=dilation))


class ASPPPooling(nn.Sequential):
    """The image-level branch: the features' mean through a 1x1 convolution, the same at every pixel."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), *_conv_norm_relu(in_channels, out_channels, kernel_size=1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, h, w) -> (N, out_channels, h, w)."""
        y = x
        for layer in self:
            y = layer(y)
        return upsample(y, x)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: a 1x1 convolution, 3x3 ones at several rates, and the mean, joined by a 1x1 one.

    In training its batch norm over the mean needs a batch of at least two images.

    Args:
        in_channels: channels of the features.
        atrous_rates: dilations of the 3x3 convolutions.
        out_channels: channels of every branch and of the output.
    """

    def __init__(self, in_channels: int, atrous_rates: Sequence[int], out_channels: int = 256) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            [
                nn.Sequential(*_conv_norm_relu(in_channels, out_channels, kernel_size=1)),
                *(ASPPConv(in_channels, out_channels, rate) for rate in atrous_rates),
                ASPPPooling(in_channels, out_channels),
            ]
        )
        self.project = nn.Sequential(
            *_conv_norm_relu(len(self.convs) * out_channels, out_channels, kernel_size=1), nn.Dropout(0.5)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, h, w) -> (N, out_channels, h, w)."""
        out: Tensor = self.project(torch.cat([conv(x) for conv in self.convs], dim=1))
        return out


class DeepLabHead(nn.Sequential):
    """Pyramid pooling, a 3x3 convolution and a 1x1 classifier.

    Args:
        in_channels: channels of the features.
        num_classes: channels of the logits.
        atrous_rates: dilations of the pyramid's 3x3 convolutions.
    """

    def __init__(self, in_channels: int, num_classes: int, atrous_rates: Sequence[int] = (12, 24, 36)) -> None:
        super().__init__(
            ASPP(in_channels, atrous_rates),
            *_conv_norm_relu(256, 256, kernel_size=3),
            nn.Conv2d(256, num_classes, kernel_size=1),
        )


class DeepLabV3(Segmenter):
    """DeepLabV3; arguments, input and output are those of `Segmenter`."""


DeepLabV3_ResNet50_Weights = define_weights("DeepLabV3_ResNet50_Weights")


@register_model(weights=DeepLabV3_ResNet50_Weights, weights_backbone=ResNet50_Weights, fixed=TRAINED_WITH_HEAD)
def deeplabv3_resnet50(
    *,
    progress: bool = True,
    num_classes: int = 21,
    aux_loss: bool = False,
    weights_backbone: WeightsEnum | None = ResNet50_Weights.IMAGENET1K_V1,
) -> DeepLabV3:
    """Build DeepLabV3 on a dilated ResNet-50 (39.6 M parameters, 42.0 M with the auxiliary head).

    Args:
        num_classes: channels of the output, the background among them; published weights have 21.
        aux_loss: with an auxiliary head over an earlier stage; None for what `weights` have, which is one, and for
            none without weights.
        weights_backbone: published weights of the backbone, used unless `weights` are given; None for random ones.
    """
    return build_segmenter(
        DeepLabV3,
        DeepLabHead,
        functools.partial(DilatedBackbone.resnet, resnet50),
        progress=progress,
        num_classes=num_classes,
        aux_loss=aux_loss,
        weights_backbone=weights_backbone,
    )


DeepLabV3_ResNet101_Weights = define_weights("DeepLabV3_ResNet101_Weights")


@register_model(weights=DeepLabV3_ResNet101_Weights, weights_backbone=ResNet101_Weights, fixed=TRAINED_WITH_HEAD)
def deeplabv3_resnet101(
    *,
    progress: bool = True,
    num_classes: int = 21,
    aux_loss: bool = False,
    weights_backbone: WeightsEnum | None = ResNet101_Weights.IMAGENET1K_V1,
) -> DeepLabV3:
    """Build DeepLabV3 on a dilated ResNet-101 (58.6 M parameters); arguments as of `deeplabv3_resnet50`."""
    return build_segmenter(
        DeepLabV3,
        DeepLabHead,
        functools.partial(DilatedBackbone.resnet, resnet101),
        progress=progress,
        num_classes=num_classes,
        aux_loss=aux_loss,
        weights_backbone=weights_backbone,
    )


DeepLabV3_MobileNet_V3_Large_Weights = define_weights("DeepLabV3_MobileNet_V3_Large_Weights")


@register_model(
    weights=DeepLabV3_MobileNet_V3_Large_Weights,
    weights_backbone=MobileNet_V3_Large_Weights,
    fixed=TRAINED_WITH_HEAD,
)
def deeplabv3_mobilenet_v3_large(
    *,
    progress: bool = True,
    num_classes: int = 21,
    aux_loss: bool = False,
    weights_backbone: WeightsEnum | None = MobileNet_V3_Large_Weights.IMAGENET1K_V1,
) -> DeepLabV3:
    """Build DeepLabV3 on a dilated MobileNetV3-Large (11.0 M parameters); arguments as of `deeplabv3_resnet50`."""
    return build_segmenter(
        DeepLabV3,
        DeepLabHead,
        DilatedBackbone.mobilenet_v3_large,
        progress=progress,
        num_classes=num_classes,
        aux_loss=aux_loss,
        weights_backbone=weights_backbone,
    )
