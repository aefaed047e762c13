"""RegNet X and Y.

Source: Radosavovic et al., "Designing Network Design Spaces", CVPR 2020, arXiv:2003.13678. The names tell the number of
floating-point operations; Y has squeeze and excitation, X has not.

In shapes, N is the number of images, C the number of channels, and H and W are the height and width of an image or a
map.
"""

from __future__ import annotations

import functools
import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoofleet.errors import InvalidArgumentError
from zoofleet.models._layers import Conv2dNormActivation, Layer, SqueezeExcitation
from zoofleet.models._registry import register_model
from zoofleet.models._weight_sets import (
    RegNet_X_1_6GF_Weights,
    RegNet_X_3_2GF_Weights,
    RegNet_X_8GF_Weights,
    RegNet_X_16GF_Weights,
    RegNet_X_32GF_Weights,
    RegNet_X_400MF_Weights,
    RegNet_X_800MF_Weights,
    RegNet_Y_1_6GF_Weights,
    RegNet_Y_3_2GF_Weights,
    RegNet_Y_8GF_Weights,
    RegNet_Y_16GF_Weights,
    RegNet_Y_32GF_Weights,
    RegNet_Y_128GF_Weights,
    RegNet_Y_400MF_Weights,
    RegNet_Y_800MF_Weights,
)

__all__ = [
    "RegNet",
    "RegNet_X_1_6GF_Weights",
    "RegNet_X_3_2GF_Weights",
    "RegNet_X_8GF_Weights",
    "RegNet_X_16GF_Weights",
    "RegNet_X_32GF_Weights",
    "RegNet_X_400MF_Weights",
    "RegNet_X_800MF_Weights",
    "RegNet_Y_1_6GF_Weights",
    "RegNet_Y_3_2GF_Weights",
    "RegNet_Y_8GF_Weights",
    "RegNet_Y_16GF_Weights",
    "RegNet_Y_32GF_Weights",
    "RegNet_Y_128GF_Weights",
    "RegNet_Y_400MF_Weights",
    "RegNet_Y_800MF_Weights",
    "regnet_x_1_6gf",
    "regnet_x_3_2gf",
    "regnet_x_8gf",
    "regnet_x_16gf",
    "regnet_x_32gf",
    "regnet_x_400mf",
    "regnet_x_800mf",
    "regnet_y_1_6gf",
    "regnet_y_3_2gf",
    "regnet_y_8gf",
    "regnet_y_16gf",
    "regnet_y_32gf",
    "regnet_y_128gf",
    "regnet_y_400mf",
    "regnet_y_800mf",
]


class _Block(nn.Module):
    """The paper's X and Y blocks: 1x1, grouped 3x3, squeeze and excitation (Y), 1x1, and a shortcut."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        group_width: int,
        se_ratio: float | None,
        norm_layer: Layer,
        activation: Layer,
    ) -> None:
        super().__init__()
        conv = functools.partial(Conv2dNormActivation, norm_layer=norm_layer, activation_layer=activation)
        self.proj: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.proj = conv(in_channels, out_channels, kernel_size=1, stride=stride, activation_layer=None)
        layers = OrderedDict[str, nn.Module](
            a=conv(in_channels, out_channels, kernel_size=1),
            b=conv(out_channels, out_channels, stride=stride, groups=out_channels // group_width),
        )
        if se_ratio is not None:
            # Relative to the block's input, not to what is squeezed.
            layers["se"] = SqueezeExcitation(out_channels, round(se_ratio * in_channels), activation)
        layers["c"] = conv(out_channels, out_channels, kernel_size=1, activation_layer=None)
        self.f = nn.Sequential(layers)
        self.activation = activation(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H/stride, W/stride)."""
        shortcut = x if self.proj is None else self.proj(x)
        y: Tensor = self.activation(shortcut + self.f(x))
        return y


class RegNet(nn.Module):
    """A stem of stride 2, four stages of stride 2 each, and a linear classifier over the mean.

    Args:
        depths: number of blocks in each stage.
        widths: channels of each stage.
        group_width: channels in each group of the 3x3 convolutions; a narrower stage has one group.
        se_ratio: channels between squeeze and excitation, relative to the block's input; None for none.
        num_classes: length of the output.
        stem_width: channels of the stem.
        norm_layer: makes a normalisation layer from its number of channels; None for batch norm.
        activation: makes an activation, called with `inplace=True`; None for ReLU.

    Raises:
        InvalidArgumentError: depths and widths differ in number, or a width is no multiple of the group's.
    """

    def __init__(
        self,
        depths: Sequence[int],
        widths: Sequence[int],
        group_width: int,
        se_ratio: float | None = None,
        num_classes: int = 1000,
        stem_width: int = 32,
        norm_layer: Layer | None = None,
        activation: Layer | None = None,
    ) -> None:
        super().__init__()
        norm_layer = nn.BatchNorm2d if norm_layer is None else norm_layer
        activation = nn.ReLU if activation is None else activation
        fit = all(w > 0 and group_width > 0 and w % min(w, group_width) == 0 for w in widths)
        if not depths or len(depths) != len(widths) or not fit:
            raise InvalidArgumentError(
                "RegNet takes a depth and a width for each stage, widths in multiples of group_width; got "
                f"depths={depths!r}, widths={widths!r}, group_width={group_width!r}"
            )
        self.stem = Conv2dNormActivation(3, stem_width, stride=2, norm_layer=norm_layer, activation_layer=activation)
        self.trunk_output = nn.Sequential()
        channels = stem_width
        for number, (depth, width) in enumerate(zip(depths, widths, strict=True), start=1):
            stage = nn.Sequential()
            for i in range(depth):
                stride, group = 1 if i else 2, min(width, group_width)
                block = _Block(channels, width, stride, group, se_ratio, norm_layer, activation)
                stage.add_module(f"block{number}-{i}", block)
                channels = width
            self.trunk_output.add_module(f"block{number}", stage)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(channels, num_classes)
        self._init_weights()

    def _init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # Like the paper's code, this counts the outputs as if there were no groups.
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
                nn.init.normal_(module.weight, 0, math.sqrt(2 / fan_out))
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images.

        Args:
            x: float (N, 3, H, W), normalised as the weights' transforms do.

        Returns:
            float (N, num_classes).
        """
        x = self.trunk_output(self.stem(x))  # (N, C, H/32, W/32)
        x = torch.flatten(self.avgpool(x), 1)  # (N, C)
        logits: Tensor = self.fc(x)
        return logits


@register_model(weights=RegNet_Y_400MF_Weights)
def regnet_y_400mf(**kwargs: Any) -> RegNet:
    """Build RegNetY-400MF (4.3 M parameters).

    Args:
        **kwargs: options of `RegNet`: `num_classes`, `stem_width`, `norm_layer` and `activation`.
    """
    return RegNet((1, 3, 6, 6), (48, 104, 208, 440), 8, 0.25, **kwargs)


@register_model(weights=RegNet_Y_800MF_Weights)
def regnet_y_800mf(**kwargs: Any) -> RegNet:
    """Build RegNetY-800MF (6.4 M parameters).

    Args:
        **kwargs: options of `RegNet`: `num_classes`, `stem_width`, `norm_layer` and `activation`.
    """
    return RegNet((1, 3, 8, 2), (64, 144, 320, 784), 16, 0.25, **kwargs)


@register_model(weights=RegNet_Y_1_6GF_Weights)
def regnet_y_1_6gf(**kwargs: Any) -> RegNet:
    """Build RegNetY-1.6GF (11.2 M parameters).

    Args:
        **kwargs: options of `RegNet`: `num_classes`, `stem_width`, `norm_layer` and `activation`.
    """
    return RegNet((2, 6, 17, 2), (48, 120, 336, 888), 24, 0.25, **kwargs)


@register_model(weights=RegNet_Y_3_2GF_Weights)
def regnet_y_3_2gf(**kwargs: Any) -> RegNet:
    """Build RegNetY-3.2GF (19.4 M parameters).

    Args:
        **kwargs: options of `RegNet`: `num_classes`, `stem_width`, `norm_layer` and `activation`.
    """
    return RegNet((2, 5, 13, 1), (72, 216, 576, 1512), 24, 0.25, **kwargs)


@register_model(weights=RegNet_Y_8GF_Weights)
def regnet_y_8gf(**kwargs: Any) -> RegNet:
    """Build RegNetY-8GF (39.4 M parameters).

    Args:
        **kwargs: options of `RegNet`: `num_classes`, `stem_width`, `norm_layer` and `activation`.
    """
    return RegNet((2, 4, 10, 1), (224, 448, 896, 2016), 56, 0.25, **kwargs)


@register_model(weights=RegNet_Y_16GF_Weights)
def regnet_y_16gf(**kwargs: Any) -> RegNet:
    """Build RegNetY-16GF (83.6 M parameters).

    Args:
        **kwargs: options of `RegNet`: `num_classes`, `stem_width`, `norm_layer` and `activation`.
    """
    return RegNet((2, 4, 11, 1), (224, 448, 1232, 3024), 112, 0.25, **kwargs)


@register_model(weights=RegNet_Y_32GF_Weights)
def regnet_y_32gf(**kwargs: Any) -> RegNet:
    """Build RegNetY-32GF (145.0 M parameters).

    Args:
        **kwargs: options of `RegNet`: `num_classes`, `stem_width`, `norm_layer` and `activation`.
    """
    return RegNet((2, 5, 12, 1), (232, 696, 1392, 3712), 232, 0.25, **kwargs)


@register_model(weights=RegNet_Y_128GF_Weights)
def regnet_y_128gf(**kwargs: Any) -> RegNet:
    """Build RegNetY-128GF (644.8 M parameters).

    Args:
        **kwargs: options of `RegNet`: `num_classes`, `stem_width`, `norm_layer` and `activation`.
    """
    return RegNet((2, 7, 17, 1), (528, 1056, 2904, 7392), 264, 0.25, **kwargs)


@register_model(weights=RegNet_X_400MF_Weights)
def regnet_x_400mf(**kwargs: Any) -> RegNet:
    """Build RegNetX-400MF (5.5 M parameters).

    Args:
        **kwargs: options of `RegNet`: `num_classes`, `stem_width`, `norm_layer` and `activation`.
    """
    return RegNet((1, 2, 7, 12), (32, 64, 160, 400), 16, None, **kwargs)


@register_model(weights=RegNet_X_800MF_Weights)
def regnet_x_800mf(**kwargs: Any) -> RegNet:
    """Build RegNetX-800MF (7.3 M parameters).

    Args:
        **kwargs: options of `RegNet`: `num_classes`, `stem_width`, `norm_layer` and `activation`.
    """
    return RegNet((1, 3, 7, 5), (64, 128, 288, 672), 16, None, **kwargs)


@register_model(weights=RegNet_X_1_6GF_Weights)
def regnet_x_1_6gf(**kwargs: Any) -> RegNet:
    """Build RegNetX-1.6GF (9.2 M parameters).

    Args:
        **kwargs: options of `RegNet`: `num_classes`, `stem_width`, `norm_layer` and `activation`.
    """
    return RegNet((2, 4, 10, 2), (72, 168, 408, 912), 24, None, **kwargs)


@register_model(weights=RegNet_X_3_2GF_Weights)
def regnet_x_3_2gf(**kwargs: Any) -> RegNet:
    """Build RegNetX-3.2GF (15.3 M parameters).

    Args:
        **kwargs: options of `RegNet`: `num_classes`, `stem_width`, `norm_layer` and `activation`.
    """
    return RegNet((2, 6, 15, 2), (96, 192, 432, 1008), 48, None, **kwargs)


@register_model(weights=RegNet_X_8GF_Weights)
def regnet_x_8gf(**kwargs: Any) -> RegNet:
    """Build RegNetX-8GF (39.6 M parameters).

    Args:
        **kwargs: options of `RegNet`: `num_classes`, `stem_width`, `norm_layer` and `activation`.
    """
    return RegNet((2, 5, 15, 1), (80, 240, 720, 1920), 120, None, **kwargs)


@register_model(weights=RegNet_X_16GF_Weights)
def regnet_x_16gf(**kwargs: Any) -> RegNet:
    """Build RegNetX-16GF (54.3 M parameters).

    Args:
        **kwargs: options of `RegNet`: `num_classes`, `stem_width`, `norm_layer` and `activation`.
    """
    return RegNet((2, 6, 13, 1), (256, 512, 896, 2048), 128, None, **kwargs)


@register_model(weights=RegNet_X_32GF_Weights)
def regnet_x_32gf(**kwargs: Any) -> RegNet:
    """Build RegNetX-32GF (107.8 M parameters).

    Args:
        **kwargs: options of `RegNet`: `num_classes`, `stem_width`, `norm_layer` and `activation`.
    """
    return RegNet((2, 7, 13, 1), (336, 672, 1344, 2520), 168, None, **kwargs)
