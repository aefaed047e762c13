"""DeepLabV3: parallel dilated convolutions at several rates over a dilated backbone.

Source: Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", arXiv:1706.05587, section 3.3 and
figure 5; the rates are those for an eighth of the resolution.

In shapes, N is the number of images, and H and W are the height and width of an image or a map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoofleet.models._registry import register_model
from zoofleet.models._weight_sets import (
    DeepLabV3_MobileNet_V3_Large_Weights,
    DeepLabV3_ResNet50_Weights,
    DeepLabV3_ResNet101_Weights,
)
from zoofleet.models._weights import WeightsEnum
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
        dilation: dilation of the convolution.
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
    """DeepLabV3, which gives logits (N, num_classes, H, W) for images (N, 3, H, W).

    Args:
        backbone: gives a dict with the features `out` and, with an auxiliary head, `aux`.
        classifier: maps the features `out` to logits of their size.
        aux_classifier: maps the features `aux` to logits of their size, whose loss helps training; None for none.
    """


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
        num_classes: number of channels of the output, the background among them; weights fix it.
        aux_loss: whether the model has an auxiliary head over an earlier stage, for training; weights fix it to True.
        weights_backbone: the backbone's own weights, a member of `ResNet50_Weights` or the name of one, used
            only without `weights`; None for random ones.
    """
    dilated = DilatedBackbone.resnet(resnet50, weights_backbone, progress)
    return build_segmenter(DeepLabV3, DeepLabHead, dilated, num_classes, aux_loss)


@register_model(weights=DeepLabV3_ResNet101_Weights, weights_backbone=ResNet101_Weights, fixed=TRAINED_WITH_HEAD)
def deeplabv3_resnet101(
    *,
    progress: bool = True,
    num_classes: int = 21,
    aux_loss: bool = False,
    weights_backbone: WeightsEnum | None = ResNet101_Weights.IMAGENET1K_V1,
) -> DeepLabV3:
    """Build DeepLabV3 on a dilated ResNet-101 (58.6 M parameters).

    Args:
        num_classes: number of channels of the output, the background among them; weights fix it.
        aux_loss: whether the model has an auxiliary head over an earlier stage, for training; weights fix it to True.
        weights_backbone: the backbone's own weights, a member of `ResNet101_Weights` or the name of one, used
            only without `weights`; None for random ones.
    """
    dilated = DilatedBackbone.resnet(resnet101, weights_backbone, progress)
    return build_segmenter(DeepLabV3, DeepLabHead, dilated, num_classes, aux_loss)


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
    """Build DeepLabV3 on a dilated MobileNetV3-Large (11.0 M parameters).

    Args:
        num_classes: number of channels of the output, the background among them; weights fix it.
        aux_loss: whether the model has an auxiliary head over an earlier stage, for training; weights fix it to True.
        weights_backbone: the backbone's own weights, a member of `MobileNet_V3_Large_Weights` or the name of one, used
            only without `weights`; None for random ones.
    """
    dilated = DilatedBackbone.mobilenet_v3_large(weights_backbone, progress)
    return build_segmenter(DeepLabV3, DeepLabHead, dilated, num_classes, aux_loss)
