"""MobileNetV2.

Source: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, arXiv:1801.04381.

In shapes, N is the number of images, and H and W are the height and width of an image or a map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoofleet.errors import InvalidArgumentError
from zoofleet.models._layers import Conv2dNormActivation, Layer, make_divisible
from zoofleet.models._registry import register_model
from zoofleet.models._weight_sets import MobileNet_V2_Weights

__all__ = ["InvertedResidual", "MobileNetV2", "MobileNet_V2_Weights", "mobilenet_v2"]

# Table 2 of the paper: expansion t, channels c, blocks n, stride s of the first block.
_STAGES: Final = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter each channel by 3x3, project by 1x1 without activation; a shortcut where shapes allow.

    Args:
        inp: channels of the input.
        oup: channels of the output.
        stride: stride of the 3x3 convolution, 1 or 2.
        expand_ratio: widening between the 1x1 convolutions; 1 leaves the first of them out.
        norm_layer: makes a normalisation layer from its number of channels; None for batch norm.
        activation_layer: makes an activation, called with `inplace=True`.
    """

    def __init__(
        self,
        inp: int,
        oup: int,
        stride: int,
        expand_ratio: int,
        norm_layer: Layer | None = None,
        activation_layer: Layer = nn.ReLU6,
    ) -> None:
        super().__init__()
        self.use_shortcut = stride == 1 and inp == oup
        self.strided = stride > 1
        self.out_channels = oup
        norm_layer = nn.BatchNorm2d if norm_layer is None else norm_layer
        hidden = inp * expand_ratio
        layers: list[nn.Module] = []
        if expand_ratio != 1:
            layers.append(
                Conv2dNormActivation(
                    inp, hidden, kernel_size=1, norm_layer=norm_layer, activation_layer=activation_layer
                )
            )
        layers += [
            Conv2dNormActivation(
                hidden,
                hidden,
                stride=stride,
                groups=hidden,
                norm_layer=norm_layer,
                activation_layer=activation_layer,
            ),
            nn.Conv2d(hidden, oup, kernel_size=1, bias=False),
            norm_layer(oup),
        ]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inp, H, W) to (N, oup, H/stride, W/stride)."""
        y: Tensor = self.conv(x)
        return x + y if self.use_shortcut else y


class MobileNetV2(nn.Module):
    """Inverted residual blocks of total stride 32 and a linear classifier over the mean.

    Args:
        num_classes: length of the output.
        width_mult: scales all channels.
        inverted_residual_setting: expansion, channels, number of blocks and first stride of each stage; None for the
            paper's.
        round_nearest: channels are multiples of this.
        block: makes a block from the arguments of `InvertedResidual`, which is what None means.
        norm_layer: makes a normalisation layer from its number of channels; None for batch norm.
        dropout: probability before the classifier.
        activation_layer: makes an activation, called with `inplace=True`.

    Raises:
        InvalidArgumentError: no stages, or a stage of other than four numbers.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        width_mult: float = 1.0,
        inverted_residual_setting: Sequence[Sequence[int]] | None = None,
        round_nearest: int = 8,
        block: Callable[..., nn.Module] | None = None,
        norm_layer: Layer | None = None,
        dropout: float = 0.2,
        activation_layer: Layer = nn.ReLU6,
    ) -> None:
        super().__init__()
        stages = _STAGES if inverted_residual_setting is None else inverted_residual_setting
        if not stages or any(len(stage) != 4 for stage in stages):
            raise InvalidArgumentError(
                f"MobileNetV2 takes stages of expansion, channels, blocks, stride, got {inverted_residual_setting!r}"
            )
        block = InvertedResidual if block is None else block
        norm_layer = nn.BatchNorm2d if norm_layer is None else norm_layer
        channels = make_divisible(32 * width_mult, round_nearest)
        self.last_channel = make_divisible(1280 * max(1.0, width_mult), round_nearest)
        features: list[nn.Module] = [
            Conv2dNormActivation(3, channels, stride=2, norm_layer=norm_layer, activation_layer=activation_layer)
        ]
        for expand_ratio, base, blocks, first_stride in stages:
            out = make_divisible(base * width_mult, round_nearest)
            for i in range(blocks):
                stride = first_stride if i == 0 else 1
                features.append(block(channels, out, stride, expand_ratio, norm_layer, activation_layer))
                channels = out
        features.append(
            Conv2dNormActivation(
                channels,
                self.last_channel,
                kernel_size=1,
                norm_layer=norm_layer,
                activation_layer=activation_layer,
            )
        )
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(self.last_channel, num_classes))
        init_mobilenet(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images.

        Args:
            x: float (N, 3, H, W), normalised as the weights' transforms do.

        Returns:
            float (N, num_classes).
        """
        x = F.adaptive_avg_pool2d(self.features(x), 1)  # (N, 1280, 1, 1)
        logits: Tensor = self.classifier(torch.flatten(x, 1))  # (N, 1280) -> (N, num_classes)
        return logits


def init_mobilenet(model: nn.Module) -> None:
    """Initialise as both MobileNets do: He's normal by fan-out for convolutions, N(0, 0.01) for linear layers."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.ones_(module.weight)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)


@register_model(weights=MobileNet_V2_Weights)
def mobilenet_v2(**kwargs: Any) -> MobileNetV2:
    """Build MobileNetV2 (3.5 M parameters).

    Args:
        **kwargs: options of `MobileNetV2`: `num_classes`, `width_mult`, `inverted_residual_setting`, `round_nearest`,
            `block`, `norm_layer`, `dropout` and `activation_layer`.
    """
    return MobileNetV2(**kwargs)
