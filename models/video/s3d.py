"""S3D, an Inception network whose convolutions are separated into space and time.

Source: Xie et al., "Rethinking Spatiotemporal Feature Learning: Speed-Accuracy Trade-offs in Video Classification",
ECCV 2018, arXiv:1712.04851. The widths of its branches are those of GoogLeNet.

In shapes, N is the number of clips, and T, H and W are the frames, height and width of a clip or a map, with a prime
for those of an output.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, fx, nn

from zoofleet.errors import InvalidArgumentError
from zoofleet.models._layers import Conv3dNormActivation, Layer
from zoofleet.models._registry import register_model
from zoofleet.models._weight_sets import S3D_Weights

__all__ = ["S3D", "S3D_Weights", "s3d"]

MIN_FRAMES, MIN_SIDE = 13, 209
"""The smallest clip whose last map fills the pooling's window of 2 frames and 7 x 7."""

_BatchNorm = functools.partial(nn.BatchNorm3d, eps=0.001, momentum=0.001)


class TemporalSeparableConv(nn.Sequential):
    """A convolution over space and one over time, each with normalisation and ReLU.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: in time, height and width.
        stride: in time, height and width.
        padding: in time, height and width.
        norm_layer: makes a normalisation layer from its number of channels.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int, padding: int, norm_layer: Layer
    ) -> None:
        super().__init__(
            Conv3dNormActivation(
                in_channels,
                out_channels,
                kernel_size=(1, kernel_size, kernel_size),
                stride=(1, stride, stride),
                padding=(0, padding, padding),
                norm_layer=norm_layer,
            ),
            Conv3dNormActivation(
                out_channels,
                out_channels,
                kernel_size=(kernel_size, 1, 1),
                stride=(stride, 1, 1),
                padding=(padding, 0, 0),
                norm_layer=norm_layer,
            ),
        )


class SepInceptionBlock3D(nn.Module):
    """Four branches side by side: 1x1x1, two of 1x1x1 and separated 3x3x3, and pooling with 1x1x1.

    Args:
        in_channels: channels of the input.
        b0_out: channels of the first branch.
        b1_mid: channels between the second branch's convolutions.
        b1_out: channels of the second branch.
        b2_mid: channels between the third branch's convolutions.
        b2_out: channels of the third branch.
        b3_out: channels of the fourth branch.
        norm_layer: makes a normalisation layer from its number of channels.
    """

    def __init__(
        self,
        in_channels: int,
        b0_out: int,
        b1_mid: int,
        b1_out: int,
        b2_mid: int,
        b2_out: int,
        b3_out: int,
        norm_layer: Layer,
    ) -> None:
        super().__init__()
        conv = functools.partial(Conv3dNormActivation, kernel_size=1, norm_layer=norm_layer)
        self.branch0 = conv(in_channels, b0_out)
        self.branch1 = nn.Sequential(
            conv(in_channels, b1_mid), TemporalSeparableConv(b1_mid, b1_out, 3, 1, 1, norm_layer)
        )
        self.branch2 = nn.Sequential(
            conv(in_channels, b2_mid), TemporalSeparableConv(b2_mid, b2_out, 3, 1, 1, norm_layer)
        )
        self.branch3 = nn.Sequential(nn.MaxPool3d(kernel_size=3, stride=1, padding=1), conv(in_channels, b3_out))

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, T, H, W) -> (N, b0_out + b1_out + b2_out + b3_out, T, H, W)."""
        return torch.cat([self.branch0(x), self.branch1(x), self.branch2(x), self.branch3(x)], dim=1)


fx.wrap("_check_clips")  # a branch that torch.fx would not trace


def _check_clips(x: Tensor) -> None:
    if x.ndim != 5 or x.shape[1] != 3 or x.shape[2] < MIN_FRAMES or min(x.shape[3:]) < MIN_SIDE:
        raise InvalidArgumentError(
            f"clips of shape {tuple(x.shape)}: the model takes (N, 3, T, H, W) with T >= {MIN_FRAMES} and "
            f"H, W >= {MIN_SIDE}"
        )


class S3D(nn.Module):
    """A separated Inception network over clips, whose logits are means over time and space.

    Args:
        num_classes: length of the output.
        dropout: probability before the classifier.
        norm_layer: makes a normalisation layer from its number of channels; None for batch norm with the epsilon and
            momentum that the published weights were trained with.
    """

    def __init__(self, num_classes: int = 400, dropout: float = 0.2, norm_layer: Layer | None = None) -> None:
        super().__init__()
        norm = _BatchNorm if norm_layer is None else norm_layer
        self.features = nn.Sequential(
            TemporalSeparableConv(3, 64, 7, 2, 3, norm),
            nn.MaxPool3d(kernel_size=(1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)),
            Conv3dNormActivation(64, 64, kernel_size=1, norm_layer=norm),
            TemporalSeparableConv(64, 192, 3, 1, 1, norm),
            nn.MaxPool3d(kernel_size=(1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)),
            SepInceptionBlock3D(192, 64, 96, 128, 16, 32, 32, norm),
            SepInceptionBlock3D(256, 128, 128, 192, 32, 96, 64, norm),
            nn.MaxPool3d(kernel_size=3, stride=2, padding=1),
            SepInceptionBlock3D(480, 192, 96, 208, 16, 48, 64, norm),
            SepInceptionBlock3D(512, 160, 112, 224, 24, 64, 64, norm),
            SepInceptionBlock3D(512, 128, 128, 256, 24, 64, 64, norm),
            SepInceptionBlock3D(512, 112, 144, 288, 32, 64, 64, norm),
            SepInceptionBlock3D(528, 256, 160, 320, 32, 128, 128, norm),
            nn.MaxPool3d(kernel_size=2, stride=2),
            SepInceptionBlock3D(832, 256, 160, 320, 32, 128, 128, norm),
            SepInceptionBlock3D(832, 384, 192, 384, 48, 128, 128, norm),
        )
        self.avgpool = nn.AvgPool3d(kernel_size=(2, 7, 7), stride=1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Conv3d(1024, num_classes, kernel_size=1))

    def forward(self, x: Tensor) -> Tensor:
        """Classify clips.

        Args:
            x: (N, 3, T, H, W) float with T >= 13 and H, W >= 209, normalised as the weights' transforms do.

        Returns:
            Logits (N, num_classes).

        Raises:
            InvalidArgumentError: the input is of another shape or smaller.
        """
        _check_clips(x)
        maps = self.classifier(self.avgpool(self.features(x)))  # (N, num_classes, T', H', W')
        logits: Tensor = maps.mean((2, 3, 4))
        return logits


@register_model(weights=S3D_Weights)
def s3d(**kwargs: Any) -> S3D:
    """Build S3D (8.3 M parameters).

    Args:
        **kwargs: options of `S3D`: `num_classes`, `dropout` and `norm_layer`.
    """
    return S3D(**kwargs)
