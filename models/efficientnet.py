"""EfficientNet and EfficientNetV2.

Sources: Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019,
arXiv:1905.11946; Tan and Le, "EfficientNetV2: Smaller Models and Faster Training", ICML 2021, arXiv:2104.00298.

In shapes, N is the number of images, and H and W are the height and width of an image or a map.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from zoofleet.errors import InvalidArgumentError
from zoofleet.models._layers import (
    Conv2dNormActivation,
    Layer,
    SqueezeExcitation,
    StochasticDepth,
    make_divisible,
)
from zoofleet.models._registry import register_model
from zoofleet.models._weight_sets import (
    EfficientNet_B0_Weights,
    EfficientNet_B1_Weights,
    EfficientNet_B2_Weights,
    EfficientNet_B3_Weights,
    EfficientNet_B4_Weights,
    EfficientNet_B5_Weights,
    EfficientNet_B6_Weights,
    EfficientNet_B7_Weights,
    EfficientNet_V2_L_Weights,
    EfficientNet_V2_M_Weights,
    EfficientNet_V2_S_Weights,
)

__all__ = [
    "EfficientNet",
    "EfficientNet_B0_Weights",
    "EfficientNet_B1_Weights",
    "EfficientNet_B2_Weights",
    "EfficientNet_B3_Weights",
    "EfficientNet_B4_Weights",
    "EfficientNet_B5_Weights",
    "EfficientNet_B6_Weights",
    "EfficientNet_B7_Weights",
    "EfficientNet_V2_L_Weights",
    "EfficientNet_V2_M_Weights",
    "EfficientNet_V2_S_Weights",
    "FusedMBConv",
    "MBConv",
    "StageConfig",
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
    "efficientnet_b3",
    "efficientnet_b4",
    "efficientnet_b5",
    "efficientnet_b6",
    "efficientnet_b7",
    "efficientnet_v2_l",
    "efficientnet_v2_m",
    "efficientnet_v2_s",
]


class _ResidualBlock(nn.Module):
    """Layers with a shortcut, where shapes allow, and stochastic depth."""

    def __init__(self, layers: Sequence[nn.Module], use_shortcut: bool, stochastic_depth_prob: float) -> None:
        super().__init__()
        self.use_shortcut = use_shortcut
        self.block = nn.Sequential(*layers)
        self.stochastic_depth = StochasticDepth(stochastic_depth_prob)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H/stride, W/stride)."""
        y: Tensor = self.block(x)
        return x + self.stochastic_depth(y) if self.use_shortcut else y


class MBConv(_ResidualBlock):
    """Expand by 1x1, filter each channel, squeeze and excite, project by 1x1.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        expand_ratio: widening between the 1x1 convolutions; 1 leaves the first of them out.
        kernel: side of the depthwise convolution.
        stride: stride of the depthwise convolution.
        stochastic_depth_prob: probability of dropping the block in training, where it has a shortcut.
        norm_layer: makes a normalisation layer from its number of channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        expand_ratio: int,
        kernel: int,
        stride: int,
        stochastic_depth_prob: float,
        norm_layer: Layer,
    ) -> None:
        conv = functools.partial(Conv2dNormActivation, norm_layer=norm_layer, activation_layer=nn.SiLU)
        hidden = in_channels * expand_ratio
        layers: list[nn.Module] = []
        if expand_ratio != 1:
            layers.append(conv(in_channels, hidden, kernel_size=1))
        layers += [
            conv(hidden, hidden, kernel_size=kernel, stride=stride, groups=hidden),
            SqueezeExcitation(hidden, max(1, in_channels // 4), activation=nn.SiLU),
            conv(hidden, out_channels, kernel_size=1, activation_layer=None),
        ]
        super().__init__(layers, stride == 1 and in_channels == out_channels, stochastic_depth_prob)


class FusedMBConv(_ResidualBlock):
    """Expand by a full convolution and project by 1x1; a single convolution where nothing expands.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        expand_ratio: widening before the 1x1 convolution; 1 leaves that convolution out.
        kernel: side of the full convolution.
        stride: stride of the full convolution.
        stochastic_depth_prob: probability of dropping the block in training, where it has a shortcut.
        norm_layer: makes a normalisation layer from its number of channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        expand_ratio: int,
        kernel: int,
        stride: int,
        stochastic_depth_prob: float,
        norm_layer: Layer,
    ) -> None:
        conv = functools.partial(Conv2dNormActivation, norm_layer=norm_layer, activation_layer=nn.SiLU)
        hidden = in_channels * expand_ratio
        if expand_ratio == 1:
            layers = [conv(in_channels, out_channels, kernel_size=kernel, stride=stride)]
        else:
            layers = [
                conv(in_channels, hidden, kernel_size=kernel, stride=stride),
                conv(hidden, out_channels, kernel_size=1, activation_layer=None),
            ]
        super().__init__(layers, stride == 1 and in_channels == out_channels, stochastic_depth_prob)


@dataclasses.dataclass(frozen=True)
class StageConfig:
    """A run of equal blocks, of which the first may change the number of channels and stride.

    Attributes:
        block: `MBConv` or `FusedMBConv`.
        expand_ratio: widening within a block.
        kernel: side of a block's larger convolution.
        stride: stride of the first block.
        in_channels: channels of the input.
        out_channels: channels of the output.
        layers: number of blocks.
    """

    block: type[MBConv | FusedMBConv]
    expand_ratio: int
    kernel: int
    stride: int
    in_channels: int
    out_channels: int
    layers: int

    def scaled(self, width_mult: float, depth_mult: float) -> StageConfig:
        """The stage with channels and number of blocks multiplied, channels in multiples of 8."""
        return dataclasses.replace(
            self,
            in_channels=make_divisible(self.in_channels * width_mult),
            out_channels=make_divisible(self.out_channels * width_mult),
            layers=math.ceil(self.layers * depth_mult),
        )


class EfficientNet(nn.Module):
    """Stages of inverted residual blocks of total stride 32 and a linear classifier over the mean.

    Args:
        stages: in order.
        dropout: probability before the classifier.
        stochastic_depth_prob: a block is dropped in training with this probability times its place in the network,
            from 0 to 1.
        num_classes: length of the output.
        norm_layer: makes a normalisation layer from its number of channels; None for batch norm.
        last_channel: channels before the classifier; None for four times those of the last stage.

    Raises:
        InvalidArgumentError: no stages.
    """

    def __init__(
        self,
        stages: Sequence[StageConfig],
        dropout: float,
        stochastic_depth_prob: float = 0.2,
        num_classes: int = 1000,
        norm_layer: Layer | None = None,
        last_channel: int | None = None,
    ) -> None:
        super().__init__()
        if not stages:
            raise InvalidArgumentError("EfficientNet takes at least one stage, got none")
        norm_layer = nn.BatchNorm2d if norm_layer is None else norm_layer
        conv = functools.partial(Conv2dNormActivation, norm_layer=norm_layer, activation_layer=nn.SiLU)
        features: list[nn.Module] = [conv(3, stages[0].in_channels, stride=2)]
        total, number = sum(stage.layers for stage in stages), 0
        for stage in stages:
            blocks: list[nn.Module] = []
            channels, stride = stage.in_channels, stage.stride
            for _ in range(stage.layers):
                drop = stochastic_depth_prob * number / total
                blocks.append(
                    stage.block(
                        channels, stage.out_channels, stage.expand_ratio, stage.kernel, stride, drop, norm_layer
                    )
                )
                channels, stride, number = stage.out_channels, 1, number + 1
            features.append(nn.Sequential(*blocks))
        last = 4 * channels if last_channel is None else last_channel
        features.append(conv(channels, last, kernel_size=1))
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(dropout, inplace=True), nn.Linear(last, num_classes))
        self._init_weights()

    def _init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                bound = 1 / math.sqrt(module.out_features)
                nn.init.uniform_(module.weight, -bound, bound)
            else:
                continue
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images.

        Args:
            x: float (N, 3, H, W), normalised as the weights' transforms do.

        Returns:
            float (N, num_classes).
        """
        x = torch.flatten(self.avgpool(self.features(x)), 1)  # (N, last_channel)
        logits: Tensor = self.classifier(x)
        return logits


# Table 1 of the first paper.
_B0: Final = (
    StageConfig(MBConv, 1, 3, 1, 32, 16, 1),
    StageConfig(MBConv, 6, 3, 2, 16, 24, 2),
    StageConfig(MBConv, 6, 5, 2, 24, 40, 2),
    StageConfig(MBConv, 6, 3, 2, 40, 80, 3),
    StageConfig(MBConv, 6, 5, 1, 80, 112, 3),
    StageConfig(MBConv, 6, 5, 2, 112, 192, 4),
    StageConfig(MBConv, 6, 3, 1, 192, 320, 1),
)

# Table 4 of the second paper; the sizes M and L as the authors published them.
_V2_S: Final = (
    StageConfig(FusedMBConv, 1, 3, 1, 24, 24, 2),
    StageConfig(FusedMBConv, 4, 3, 2, 24, 48, 4),
    StageConfig(FusedMBConv, 4, 3, 2, 48, 64, 4),
    StageConfig(MBConv, 4, 3, 2, 64, 128, 6),
    StageConfig(MBConv, 6, 3, 1, 128, 160, 9),
    StageConfig(MBConv, 6, 3, 2, 160, 256, 15),
)
_V2_M: Final = (
    StageConfig(FusedMBConv, 1, 3, 1, 24, 24, 3),
    StageConfig(FusedMBConv, 4, 3, 2, 24, 48, 5),
    StageConfig(FusedMBConv, 4, 3, 2, 48, 80, 5),
    StageConfig(MBConv, 4, 3, 2, 80, 160, 7),
    StageConfig(MBConv, 6, 3, 1, 160, 176, 14),
    StageConfig(MBConv, 6, 3, 2, 176, 304, 18),
    StageConfig(MBConv, 6, 3, 1, 304, 512, 5),
)
_V2_L: Final = (
    StageConfig(FusedMBConv, 1, 3, 1, 32, 32, 4),
    StageConfig(FusedMBConv, 4, 3, 2, 32, 64, 7),
    StageConfig(FusedMBConv, 4, 3, 2, 64, 96, 7),
    StageConfig(MBConv, 4, 3, 2, 96, 192, 10),
    StageConfig(MBConv, 6, 3, 1, 192, 224, 19),
    StageConfig(MBConv, 6, 3, 2, 224, 384, 25),
    StageConfig(MBConv, 6, 3, 1, 384, 640, 7),
)

# What some sizes have in place of the defaults: the epsilon of the papers' code (github.com/tensorflow/tpu), and in the
# first paper's largest sizes its momentum too, which TensorFlow counts the other way round, as 0.99.
_SLOW_NORM: Final = functools.partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)
_V2: Final[dict[str, Any]] = {"norm_layer": functools.partial(nn.BatchNorm2d, eps=1e-3), "last_channel": 1280}


def _scaled(width_mult: float, depth_mult: float) -> list[StageConfig]:
    """The first paper's table 1 with more channels and blocks."""
    return [stage.scaled(width_mult, depth_mult) for stage in _B0]


def _efficientnet(
    stages: Sequence[StageConfig],
    kwargs: dict[str, Any],
    **defaults: Any,
) -> EfficientNet:
    """Build one size; `kwargs`, the caller's arguments of `EfficientNet`, go before the `defaults` of this size."""
    return EfficientNet(stages, **(defaults | kwargs))


@register_model(weights=EfficientNet_B0_Weights)
def efficientnet_b0(**kwargs: Any) -> EfficientNet:
    """Build EfficientNet-B0 (5.3 M parameters).

    Args:
        **kwargs: options of `EfficientNet`: `num_classes`, `dropout`, `stochastic_depth_prob`, `norm_layer` and
            `last_channel`.
    """
    return _efficientnet(_scaled(1.0, 1.0), kwargs, dropout=0.2)


@register_model(weights=EfficientNet_B1_Weights)
def efficientnet_b1(**kwargs: Any) -> EfficientNet:
    """Build EfficientNet-B1 (7.8 M parameters).

    Args:
        **kwargs: options of `EfficientNet`: `num_classes`, `dropout`, `stochastic_depth_prob`, `norm_layer` and
            `last_channel`.
    """
    return _efficientnet(_scaled(1.0, 1.1), kwargs, dropout=0.2)


@register_model(weights=EfficientNet_B2_Weights)
def efficientnet_b2(**kwargs: Any) -> EfficientNet:
    """Build EfficientNet-B2 (9.1 M parameters).

    Args:
        **kwargs: options of `EfficientNet`: `num_classes`, `dropout`, `stochastic_depth_prob`, `norm_layer` and
            `last_channel`.
    """
    return _efficientnet(_scaled(1.1, 1.2), kwargs, dropout=0.3)


@register_model(weights=EfficientNet_B3_Weights)
def efficientnet_b3(**kwargs: Any) -> EfficientNet:
    """Build EfficientNet-B3 (12.2 M parameters).

    Args:
        **kwargs: options of `EfficientNet`: `num_classes`, `dropout`, `stochastic_depth_prob`, `norm_layer` and
            `last_channel`.
    """
    return _efficientnet(_scaled(1.2, 1.4), kwargs, dropout=0.3)


@register_model(weights=EfficientNet_B4_Weights)
def efficientnet_b4(**kwargs: Any) -> EfficientNet:
    """Build EfficientNet-B4 (19.3 M parameters).

    Args:
        **kwargs: options of `EfficientNet`: `num_classes`, `dropout`, `stochastic_depth_prob`, `norm_layer` and
            `last_channel`.
    """
    return _efficientnet(_scaled(1.4, 1.8), kwargs, dropout=0.4)


@register_model(weights=EfficientNet_B5_Weights)
def efficientnet_b5(**kwargs: Any) -> EfficientNet:
    """Build EfficientNet-B5 (30.4 M parameters).

    Args:
        **kwargs: options of `EfficientNet`: `num_classes`, `dropout`, `stochastic_depth_prob`, `norm_layer` and
            `last_channel`.
    """
    return _efficientnet(_scaled(1.6, 2.2), kwargs, dropout=0.4, norm_layer=_SLOW_NORM)


@register_model(weights=EfficientNet_B6_Weights)
def efficientnet_b6(**kwargs: Any) -> EfficientNet:
    """Build EfficientNet-B6 (43.0 M parameters).

    Args:
        **kwargs: options of `EfficientNet`: `num_classes`, `dropout`, `stochastic_depth_prob`, `norm_layer` and
            `last_channel`.
    """
    return _efficientnet(_scaled(1.8, 2.6), kwargs, dropout=0.5, norm_layer=_SLOW_NORM)


@register_model(weights=EfficientNet_B7_Weights)
def efficientnet_b7(**kwargs: Any) -> EfficientNet:
    """Build EfficientNet-B7 (66.3 M parameters).

    Args:
        **kwargs: options of `EfficientNet`: `num_classes`, `dropout`, `stochastic_depth_prob`, `norm_layer` and
            `last_channel`.
    """
    return _efficientnet(_scaled(2.0, 3.1), kwargs, dropout=0.5, norm_layer=_SLOW_NORM)


@register_model(weights=EfficientNet_V2_S_Weights)
def efficientnet_v2_s(**kwargs: Any) -> EfficientNet:
    """Build EfficientNetV2-S (21.5 M parameters).

    Args:
        **kwargs: options of `EfficientNet`: `num_classes`, `dropout`, `stochastic_depth_prob`, `norm_layer` and
            `last_channel`.
    """
    return _efficientnet(_V2_S, kwargs, dropout=0.2, **_V2)


@register_model(weights=EfficientNet_V2_M_Weights)
def efficientnet_v2_m(**kwargs: Any) -> EfficientNet:
    """Build EfficientNetV2-M (54.1 M parameters).

    Args:
        **kwargs: options of `EfficientNet`: `num_classes`, `dropout`, `stochastic_depth_prob`, `norm_layer` and
            `last_channel`.
    """
    return _efficientnet(_V2_M, kwargs, dropout=0.3, **_V2)


@register_model(weights=EfficientNet_V2_L_Weights)
def efficientnet_v2_l(**kwargs: Any) -> EfficientNet:
    """Build EfficientNetV2-L (118.5 M parameters).

    Args:
        **kwargs: options of `EfficientNet`: `num_classes`, `dropout`, `stochastic_depth_prob`, `norm_layer` and
            `last_channel`.
    """
    return _efficientnet(_V2_L, kwargs, dropout=0.4, **_V2)
