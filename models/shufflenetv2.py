"""ShuffleNet V2.

Source: Ma et al., "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design", ECCV 2018,
arXiv:1807.11164.

In shapes, N is the number of images, C the number of channels, and H and W are the height and width of an image or a
map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoofleet.errors import InvalidArgumentError
from zoofleet.models._layers import Conv2dNormActivation
from zoofleet.models._registry import register_model
from zoofleet.models._weight_sets import (
    ShuffleNet_V2_X0_5_Weights,
    ShuffleNet_V2_X1_0_Weights,
    ShuffleNet_V2_X1_5_Weights,
    ShuffleNet_V2_X2_0_Weights,
)

__all__ = [
    "InvertedResidual",
    "ShuffleNetV2",
    "ShuffleNet_V2_X0_5_Weights",
    "ShuffleNet_V2_X1_0_Weights",
    "ShuffleNet_V2_X1_5_Weights",
    "ShuffleNet_V2_X2_0_Weights",
    "channel_shuffle",
    "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0",
    "shufflenet_v2_x1_5",
    "shufflenet_v2_x2_0",
]


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Interleave the channels of groups, each a run of channels: (N, C, H, W) to the same shape."""
    n, c, h, w = x.shape
    x = x.view(n, groups, c // groups, h, w).transpose(1, 2)  # (N, C/groups, groups, H, W)
    return x.reshape(n, c, h, w)


class InvertedResidual(nn.Module):
    """Figures 3c and 3d of the paper: (N, inp, H, W) to (N, oup, H/stride, W/stride).

    With stride 1 the first half of the channels passes unchanged; otherwise it has a branch of its own.

    Args:
        inp: channels of the input.
        oup: channels of the output, even.
        stride: 1, 2 or 3.

    Raises:
        InvalidArgumentError: another stride, or stride 1 with different numbers of channels.
    """

    def __init__(self, inp: int, oup: int, stride: int) -> None:
        super().__init__()
        if not 1 <= stride <= 3 or oup % 2 or (stride == 1 and inp != oup):
            raise InvalidArgumentError(
                "a block takes stride 1 with inp = oup, or 2 or 3, and even oup; got "
                f"inp={inp!r}, oup={oup!r}, stride={stride!r}"
            )
        self.stride = stride
        half = oup // 2
        self.branch1 = nn.Sequential()
        if stride > 1:
            self.branch1 = nn.Sequential(
                nn.Conv2d(inp, inp, 3, stride, padding=1, groups=inp, bias=False),
                nn.BatchNorm2d(inp),
                nn.Conv2d(inp, half, 1, bias=False),
                nn.BatchNorm2d(half),
                nn.ReLU(inplace=True),
            )
        self.branch2 = nn.Sequential(
            nn.Conv2d(inp if stride > 1 else half, half, 1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(inplace=True),
            nn.Conv2d(half, half, 3, stride, padding=1, groups=half, bias=False),
            nn.BatchNorm2d(half),
            nn.Conv2d(half, half, 1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, inp, H, W) to (N, oup, H/stride, W/stride)."""
        first, second = x.chunk(2, dim=1) if self.stride == 1 else (x, x)
        return channel_shuffle(torch.cat((self.branch1(first), self.branch2(second)), dim=1), 2)


class ShuffleNetV2(nn.Module):
    """A stem of stride 4, three stages of stride 2 and a linear classifier over the mean.

    Args:
        stages_repeats: number of blocks in each of the three stages.
        stages_out_channels: channels of the stem, the three stages and the last convolution.
        num_classes: length of the output.
        inverted_residual: makes a block from the arguments of `InvertedResidual`.

    Raises:
        InvalidArgumentError: not three and five numbers.
    """

    def __init__(
        self,
        stages_repeats: Sequence[int],
        stages_out_channels: Sequence[int],
        num_classes: int = 1000,
        inverted_residual: Callable[[int, int, int], nn.Module] = InvertedResidual,
    ) -> None:
        super().__init__()
        if len(stages_repeats) != 3 or len(stages_out_channels) != 5:
            raise InvalidArgumentError(
                "ShuffleNetV2 takes 3 numbers of blocks and 5 of channels, got "
                f"stages_repeats={stages_repeats!r}, stages_out_channels={stages_out_channels!r}"
            )
        channels, *widths, last = stages_out_channels
        self.conv1 = Conv2dNormActivation(3, channels, stride=2)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        stages: list[nn.Sequential] = []
        for repeats, width in zip(stages_repeats, widths, strict=True):
            blocks = [inverted_residual(channels, width, 2)]
            blocks += [inverted_residual(width, width, 1) for _ in range(1, repeats)]
            stages.append(nn.Sequential(*blocks))
            channels = width
        self.stage2, self.stage3, self.stage4 = stages
        self.conv5 = Conv2dNormActivation(channels, last, kernel_size=1)
        self.fc = nn.Linear(last, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images.

        Args:
            x: float (N, 3, H, W), normalised as the weights' transforms do.

        Returns:
            float (N, num_classes).
        """
        x = self.maxpool(self.conv1(x))  # (N, C, H/4, W/4)
        x = self.conv5(self.stage4(self.stage3(self.stage2(x))))  # (N, last, H/32, W/32)
        logits: Tensor = self.fc(x.mean((2, 3)))  # (N, last) -> (N, num_classes)
        return logits


@register_model(weights=ShuffleNet_V2_X0_5_Weights)
def shufflenet_v2_x0_5(**kwargs: Any) -> ShuffleNetV2:
    """Build ShuffleNet V2 0.5x (1.4 M parameters).

    Args:
        **kwargs: options of `ShuffleNetV2`: `num_classes` and `inverted_residual`.
    """
    return ShuffleNetV2((4, 8, 4), (24, 48, 96, 192, 1024), **kwargs)


@register_model(weights=ShuffleNet_V2_X1_0_Weights)
def shufflenet_v2_x1_0(**kwargs: Any) -> ShuffleNetV2:
    """Build ShuffleNet V2 1.0x (2.3 M parameters).

    Args:
        **kwargs: options of `ShuffleNetV2`: `num_classes` and `inverted_residual`.
    """
    return ShuffleNetV2((4, 8, 4), (24, 116, 232, 464, 1024), **kwargs)


@register_model(weights=ShuffleNet_V2_X1_5_Weights)
def shufflenet_v2_x1_5(**kwargs: Any) -> ShuffleNetV2:
    """Build ShuffleNet V2 1.5x (3.5 M parameters).

    Args:
        **kwargs: options of `ShuffleNetV2`: `num_classes` and `inverted_residual`.
    """
    return ShuffleNetV2((4, 8, 4), (24, 176, 352, 704, 1024), **kwargs)


@register_model(weights=ShuffleNet_V2_X2_0_Weights)
def shufflenet_v2_x2_0(**kwargs: Any) -> ShuffleNetV2:
    """Build ShuffleNet V2 2.0x (7.4 M parameters).

    Args:
        **kwargs: options of `ShuffleNetV2`: `num_classes` and `inverted_residual`.
    """
    return ShuffleNetV2((4, 8, 4), (24, 244, 488, 976, 2048), **kwargs)
