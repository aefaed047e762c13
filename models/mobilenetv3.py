"""MobileNetV3.

Source: Howard et al., "Searching for MobileNetV3", ICCV 2019, arXiv:1905.02244. The reduced tail and the dilated last
stage are those of its sections 6.3 (detection) and 6.4 (segmentation).

In shapes, N is the number of images, and H and W are the height and width of an image or a map. A prime marks sizes of
the output.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoofleet.errors import InvalidArgumentError
from zoofleet.models._layers import Conv2dNormActivation, Layer, SqueezeExcitation, make_divisible
from zoofleet.models._registry import register_model
from zoofleet.models._weight_sets import MobileNet_V3_Large_Weights, MobileNet_V3_Small_Weights
from zoofleet.models.mobilenetv2 import init_mobilenet

__all__ = [
    "InvertedResidual",
    "InvertedResidualConfig",
    "MobileNetV3",
    "MobileNet_V3_Large_Weights",
    "MobileNet_V3_Small_Weights",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
]


class InvertedResidualConfig:
    """A block of table 1 or 2 of the paper.

    Args:
        input_channels: channels of the input.
        kernel: side of the depthwise convolution.
        expanded_channels: channels between the 1x1 convolutions.
        out_channels: channels of the output.
        use_se: whether the block has squeeze and excitation.
        activation: `HS` for hard swish, `RE` for ReLU.
        stride: stride of the depthwise convolution.
        dilation: dilation of the depthwise convolution; above 1 it stands in for the stride.
        width_mult: scales all channels, in multiples of 8.

    Raises:
        InvalidArgumentError: another activation.
    """

    def __init__(
        self,
        input_channels: int,
        kernel: int,
        expanded_channels: int,
        out_channels: int,
        use_se: bool,
        activation: str,
        stride: int,
        dilation: int,
        width_mult: float,
    ) -> None:
        if activation not in ("HS", "RE"):
            raise InvalidArgumentError(f"activation must be 'HS' or 'RE', got {activation!r}")
        self.input_channels = self.adjust_channels(input_channels, width_mult)
        self.kernel = kernel
        self.expanded_channels = self.adjust_channels(expanded_channels, width_mult)
        self.out_channels = self.adjust_channels(out_channels, width_mult)
        self.use_se = use_se
        self.use_hs = activation == "HS"
        self.stride = stride
        self.dilation = dilation

    @staticmethod
    def adjust_channels(channels: int, width_mult: float) -> int:
        """So many times the channels, in multiples of 8."""
        return make_divisible(channels * width_mult)


def gate_layer(channels: int, squeeze_channels: int) -> SqueezeExcitation:
    """Squeeze and excitation with the hard sigmoid of the paper's section 5.3."""
    return SqueezeExcitation(channels, squeeze_channels, scale_activation=nn.Hardsigmoid)


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter each channel, squeeze and excite, project by 1x1; a shortcut where shapes allow.

    Args:
        cnf: channels, kernel and so on.
        norm_layer: makes a normalisation layer from its number of channels.
        se_layer: makes squeeze and excitation from the expanded channels and a quarter of them.

    Attributes:
        strided: whether the block begins a new resolution, be it by stride or by the dilation in its place.
        out_channels: channels of the output.
    """

    def __init__(
        self,
        cnf: InvertedResidualConfig,
        norm_layer: Layer,
        se_layer: Callable[[int, int], nn.Module] = gate_layer,
    ) -> None:
        super().__init__()
        self.use_shortcut = cnf.stride == 1 and cnf.input_channels == cnf.out_channels
        self.strided = cnf.stride > 1
        self.out_channels = cnf.out_channels
        expanded = cnf.expanded_channels
        conv = functools.partial(
            Conv2dNormActivation,
            norm_layer=norm_layer,
            activation_layer=nn.Hardswish if cnf.use_hs else nn.ReLU,
        )
        layers: list[nn.Module] = []
        if expanded != cnf.input_channels:
            layers.append(conv(cnf.input_channels, expanded, kernel_size=1))
        layers.append(
            conv(
                expanded,
                expanded,
                kernel_size=cnf.kernel,
                stride=1 if cnf.dilation > 1 else cnf.stride,
                dilation=cnf.dilation,
                groups=expanded,
            )
        )
        if cnf.use_se:
            layers.append(se_layer(expanded, make_divisible(expanded // 4)))
        layers.append(conv(expanded, cnf.out_channels, kernel_size=1, activation_layer=None))
        self.block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H', W')."""
        y: Tensor = self.block(x)
        return y + x if self.use_shortcut else y


class MobileNetV3(nn.Module):
    """Inverted residual blocks of total stride 32 and a classifier of two linear layers over the mean.

    Args:
        inverted_residual_setting: the blocks in order.
        last_channel: channels between the classifier's layers.
        num_classes: length of the output.
        block: makes a block from its configuration and `norm_layer`; None for `InvertedResidual`.
        norm_layer: makes a normalisation layer from its number of channels; None for batch norm with the paper's
            epsilon and momentum.
        dropout: probability before the last layer.

    Raises:
        InvalidArgumentError: no blocks.
    """

    def __init__(
        self,
        inverted_residual_setting: Sequence[InvertedResidualConfig],
        last_channel: int,
        num_classes: int = 1000,
        block: Callable[[InvertedResidualConfig, Layer], nn.Module] | None = None,
        norm_layer: Layer | None = None,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        if not inverted_residual_setting:
            raise InvalidArgumentError("MobileNetV3 takes at least one block, got none")
        block = InvertedResidual if block is None else block
        norm = functools.partial(nn.BatchNorm2d, eps=0.001, momentum=0.01) if norm_layer is None else norm_layer
        conv = functools.partial(Conv2dNormActivation, norm_layer=norm, activation_layer=nn.Hardswish)
        last = inverted_residual_setting[-1].out_channels
        self.features = nn.Sequential(
            conv(3, inverted_residual_setting[0].input_channels, stride=2),
            *(block(config, norm) for config in inverted_residual_setting),
            conv(last, 6 * last, kernel_size=1),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(6 * last, last_channel),
            nn.Hardswish(inplace=True),
            nn.Dropout(dropout, inplace=True),
            nn.Linear(last_channel, num_classes),
        )
        init_mobilenet(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images.

        Args:
            x: float (N, 3, H, W), normalised as the weights' transforms do.

        Returns:
            float (N, num_classes).
        """
        x = torch.flatten(self.avgpool(self.features(x)), 1)  # (N, 6 * last)
        logits: Tensor = self.classifier(x)
        return logits


def large_config(
    *, width_mult: float = 1.0, dilated: bool = False, reduced_tail: bool = False
) -> tuple[list[InvertedResidualConfig], int]:
    """Table 1 of the paper: the blocks and the classifier's width.

    Args:
        width_mult: scales all channels.
        dilated: dilate the last stage rather than stride, for segmentation.
        reduced_tail: halve the channels of the last stage, for detection.
    """
    tail = 2 if reduced_tail else 1
    dilation = 2 if dilated else 1
    block = functools.partial(InvertedResidualConfig, width_mult=width_mult)
    rows = [
        block(16, 3, 16, 16, False, "RE", 1, 1),
        block(16, 3, 64, 24, False, "RE", 2, 1),
        block(24, 3, 72, 24, False, "RE", 1, 1),
        block(24, 5, 72, 40, True, "RE", 2, 1),
        block(40, 5, 120, 40, True, "RE", 1, 1),
        block(40, 5, 120, 40, True, "RE", 1, 1),
        block(40, 3, 240, 80, False, "HS", 2, 1),
        block(80, 3, 200, 80, False, "HS", 1, 1),
        block(80, 3, 184, 80, False, "HS", 1, 1),
        block(80, 3, 184, 80, False, "HS", 1, 1),
        block(80, 3, 480, 112, True, "HS", 1, 1),
        block(112, 3, 672, 112, True, "HS", 1, 1),
        block(112, 5, 672, 160 // tail, True, "HS", 2, dilation),
        block(160 // tail, 5, 960 // tail, 160 // tail, True, "HS", 1, dilation),
        block(160 // tail, 5, 960 // tail, 160 // tail, True, "HS", 1, dilation),
    ]
    return rows, make_divisible(1280 // tail * width_mult)


def small_config(
    *, width_mult: float = 1.0, dilated: bool = False, reduced_tail: bool = False
) -> tuple[list[InvertedResidualConfig], int]:
    """Table 2 of the paper: the blocks and the classifier's width.

    Args:
        width_mult: scales all channels.
        dilated: dilate the last stage rather than stride, for segmentation.
        reduced_tail: halve the channels of the last stage, for detection.
    """
    tail = 2 if reduced_tail else 1
    dilation = 2 if dilated else 1
    block = functools.partial(InvertedResidualConfig, width_mult=width_mult)
    rows = [
        block(16, 3, 16, 16, True, "RE", 2, 1),
        block(16, 3, 72, 24, False, "RE", 2, 1),
        block(24, 3, 88, 24, False, "RE", 1, 1),
        block(24, 5, 96, 40, True, "HS", 2, 1),
        block(40, 5, 240, 40, True, "HS", 1, 1),
        block(40, 5, 240, 40, True, "HS", 1, 1),
        block(40, 5, 120, 48, True, "HS", 1, 1),
        block(48, 5, 144, 48, True, "HS", 1, 1),
        block(48, 5, 288, 96 // tail, True, "HS", 2, dilation),
        block(96 // tail, 5, 576 // tail, 96 // tail, True, "HS", 1, dilation),
        block(96 // tail, 5, 576 // tail, 96 // tail, True, "HS", 1, dilation),
    ]
    return rows, make_divisible(1024 // tail * width_mult)


@register_model(weights=MobileNet_V3_Large_Weights)
def mobilenet_v3_large(
    *,
    width_mult: float = 1.0,
    dilated: bool = False,
    reduced_tail: bool = False,
    **kwargs: Any,
) -> MobileNetV3:
    """Build MobileNetV3-Large (5.5 M parameters).

    Args:
        width_mult: scales all channels; published weights fit 1.
        dilated: dilate the last stage rather than stride; takes the same weights.
        reduced_tail: halve the channels of the last stage; no published weights fit.
        **kwargs: options of `MobileNetV3`: `num_classes`, `block`, `norm_layer` and `dropout`.
    """
    configs, last_channel = large_config(width_mult=width_mult, dilated=dilated, reduced_tail=reduced_tail)
    return MobileNetV3(configs, last_channel, **kwargs)


@register_model(weights=MobileNet_V3_Small_Weights)
def mobilenet_v3_small(
    *,
    width_mult: float = 1.0,
    dilated: bool = False,
    reduced_tail: bool = False,
    **kwargs: Any,
) -> MobileNetV3:
    """Build MobileNetV3-Small (2.5 M parameters).

    Args:
        width_mult: scales all channels; published weights fit 1.
        dilated: dilate the last stage rather than stride; takes the same weights.
        reduced_tail: halve the channels of the last stage; no published weights fit.
        **kwargs: options of `MobileNetV3`: `num_classes`, `block`, `norm_layer` and `dropout`.
    """
    configs, last_channel = small_config(width_mult=width_mult, dilated=dilated, reduced_tail=reduced_tail)
    return MobileNetV3(configs, last_channel, **kwargs)
