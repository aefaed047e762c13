"""Residual networks over space and time for video classification.

Source: Tran et al., "A Closer Look at Spatiotemporal Convolutions for Action Recognition", CVPR 2018,
arXiv:1711.11248: R3D has full 3-D convolutions, MC3 has them in its first stage and 2-D ones after it, and R(2+1)D
filters space and time one after the other.

In shapes, N is the number of clips, and T, H and W are the frames, height and width of a clip or a map, with a prime
for those of an output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, fx, nn

from zoofleet.errors import InvalidArgumentError
from zoofleet.models._registry import register_model
from zoofleet.models._weight_sets import MC3_18_Weights, R2Plus1D_18_Weights, R3D_18_Weights

__all__ = [
    "MC3_18_Weights",
    "R2Plus1D_18_Weights",
    "R3D_18_Weights",
    "VideoResNet",
    "mc3_18",
    "r2plus1d_18",
    "r3d_18",
]

Stride = tuple[int, int, int]
"""In time, height and width."""

ConvMaker = Callable[[int, int, int, Stride], nn.Module]
"""Makes a block's convolution from its input, middle and output channels and its stride."""


def conv3d_simple(in_channels: int, _mid_channels: int, out_channels: int, stride: Stride) -> nn.Conv3d:
    """3x3x3 convolution."""
    return nn.Conv3d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)


def conv3d_no_temporal(in_channels: int, _mid_channels: int, out_channels: int, stride: Stride) -> nn.Conv3d:
    """1x3x3 convolution."""
    return nn.Conv3d(in_channels, out_channels, (1, 3, 3), stride=stride, padding=(0, 1, 1), bias=False)


def conv2plus1d(in_channels: int, mid_channels: int, out_channels: int, stride: Stride) -> nn.Sequential:
    """1x3x3 convolution to the middle channels and 3x1x1 convolution to the output's."""
    time, height, width = stride
    return nn.Sequential(
        nn.Conv3d(in_channels, mid_channels, (1, 3, 3), stride=(1, height, width), padding=(0, 1, 1), bias=False),
        nn.BatchNorm3d(mid_channels),
        nn.ReLU(inplace=True),
        nn.Conv3d(mid_channels, out_channels, (3, 1, 1), stride=(time, 1, 1), padding=(1, 0, 0), bias=False),
    )


def basic_stem() -> nn.Sequential:
    """Stem of R3D and MC3: (N, 3, T, H, W) -> (N, 64, T, H/2, W/2)."""
    return nn.Sequential(
        nn.Conv3d(3, 64, kernel_size=(3, 7, 7), stride=(1, 2, 2), padding=(1, 3, 3), bias=False),
        nn.BatchNorm3d(64),
        nn.ReLU(inplace=True),
    )


def r2plus1d_stem() -> nn.Sequential:
    """Stem of R(2+1)D: (N, 3, T, H, W) -> (N, 64, T, H/2, W/2)."""
    return nn.Sequential(
        nn.Conv3d(3, 45, kernel_size=(1, 7, 7), stride=(1, 2, 2), padding=(0, 3, 3), bias=False),
        nn.BatchNorm3d(45),
        nn.ReLU(inplace=True),
        nn.Conv3d(45, 64, kernel_size=(3, 1, 1), padding=(1, 0, 0), bias=False),
        nn.BatchNorm3d(64),
        nn.ReLU(inplace=True),
    )


class BasicBlock(nn.Module):
    """Residual block of two convolutions.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        conv_maker: makes both convolutions.
        stride: stride of the first convolution.
        downsample: brings the input to the output's shape; None where it has it already.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        conv_maker: ConvMaker,
        stride: Stride = (1, 1, 1),
        downsample: nn.Module | None = None,
    ) -> None:
        super().__init__()
        # As many as give a convolution in two parts the parameters of a full one (section 3.5 of the paper).
        mid = in_channels * out_channels * 27 // (in_channels * 9 + out_channels * 3)
        self.conv1 = nn.Sequential(
            conv_maker(in_channels, mid, out_channels, stride), nn.BatchNorm3d(out_channels), nn.ReLU(inplace=True)
        )
        self.conv2 = nn.Sequential(conv_maker(out_channels, mid, out_channels, (1, 1, 1)), nn.BatchNorm3d(out_channels))
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, T, H, W) -> (N, out_channels, T', H', W'), not negative."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(self.conv2(self.conv1(x)) + shortcut)


fx.wrap("_check_clips")  # a branch that torch.fx would not trace


def _check_clips(x: Tensor) -> None:
    if x.ndim != 5 or x.shape[1] != 3:
        raise InvalidArgumentError(f"clips of shape {tuple(x.shape)}: the model takes (N, 3, T, H, W)")


class VideoResNet(nn.Module):
    """18-layer-style residual network over clips.

    Args:
        stem: (N, 3, T, H, W) -> (N, 64, T, H/2, W/2).
        conv_makers: makers of the convolutions of the four stages.
        layers: blocks in each stage.
        stride: stride of the second, third and fourth stage.
        num_classes: size of the output.
    """

    def __init__(
        self,
        *,
        stem: nn.Module,
        conv_makers: Sequence[ConvMaker],
        layers: Sequence[int],
        stride: Stride = (2, 2, 2),
        num_classes: int = 400,
    ) -> None:
        super().__init__()
        self.stem = stem
        self.layer1 = _stage(64, 64, conv_makers[0], layers[0], stride=(1, 1, 1))
        self.layer2 = _stage(64, 128, conv_makers[1], layers[1], stride)
        self.layer3 = _stage(128, 256, conv_makers[2], layers[2], stride)
        self.layer4 = _stage(256, 512, conv_makers[3], layers[3], stride)
        self.avgpool = nn.AdaptiveAvgPool3d(1)
        self.fc = nn.Linear(512, num_classes)

        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Classify clips.

        Args:
            x: (N, 3, T, H, W) float, normalised; the published weights are made for T = 16 and H = W = 112.

        Returns:
            Logits (N, num_classes).

        Raises:
            InvalidArgumentError: the input is not five-dimensional with three channels.
        """
        _check_clips(x)
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))
        out: Tensor = self.fc(self.avgpool(x).flatten(1))
        return out


def _stage(in_channels: int, out_channels: int, conv_maker: ConvMaker, blocks: int, stride: Stride) -> nn.Sequential:
    downsample = None
    if stride != (1, 1, 1):
        downsample = nn.Sequential(
            nn.Conv3d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False),
            nn.BatchNorm3d(out_channels),
        )
    first = BasicBlock(in_channels, out_channels, conv_maker=conv_maker, stride=stride, downsample=downsample)
    rest = (BasicBlock(out_channels, out_channels, conv_maker=conv_maker) for _ in range(1, blocks))
    return nn.Sequential(first, *rest)


def _video_resnet(
    *,
    stem: Callable[[], nn.Module],
    conv_makers: Sequence[ConvMaker],
    **kwargs: Any,
) -> VideoResNet:
    return VideoResNet(stem=stem(), conv_makers=conv_makers, layers=(2, 2, 2, 2), **kwargs)


@register_model(weights=R3D_18_Weights)
def r3d_18(**kwargs: Any) -> VideoResNet:
    """Build R3D-18 (33.4 M parameters): 3x3x3 convolutions throughout.

    Args:
        **kwargs: `num_classes`, the option of `VideoResNet`.
    """
    return _video_resnet(stem=basic_stem, conv_makers=[conv3d_simple] * 4, **kwargs)


@register_model(weights=MC3_18_Weights)
def mc3_18(**kwargs: Any) -> VideoResNet:
    """Build MC3-18 (11.7 M parameters): 3x3x3 convolutions in the first stage, 1x3x3 ones in the others.

    Args:
        **kwargs: `num_classes`, the option of `VideoResNet`.
    """
    return _video_resnet(
        stem=basic_stem,
        conv_makers=[conv3d_simple] + [conv3d_no_temporal] * 3,
        stride=(1, 2, 2),
        **kwargs,
    )


@register_model(weights=R2Plus1D_18_Weights)
def r2plus1d_18(**kwargs: Any) -> VideoResNet:
    """Build R(2+1)D-18 (31.5 M parameters): each convolution is one over space and one over time.

    Args:
        **kwargs: `num_classes`, the option of `VideoResNet`.
    """
    return _video_resnet(stem=r2plus1d_stem, conv_makers=[conv2plus1d] * 4, **kwargs)
