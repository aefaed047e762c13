"""SqueezeNet.

Source: Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size", 2016,
arXiv:1602.07360. Version 1.1, by the same authors, pools earlier and takes 2.4 times less computation.

In shapes, N is the number of images, and H and W are the height and width of an image or a map.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zoofleet.errors import InvalidArgumentError
from zoofleet.models._registry import register_model
from zoofleet.models._weight_sets import SqueezeNet1_0_Weights, SqueezeNet1_1_Weights

__all__ = [
    "Fire",
    "SqueezeNet",
    "SqueezeNet1_0_Weights",
    "SqueezeNet1_1_Weights",
    "squeezenet1_0",
    "squeezenet1_1",
]


class Fire(nn.Module):
    """Squeeze by 1x1, expand by 1x1 and 3x3 side by side: (N, inplanes, H, W) to the sum of both planes.

    Args:
        inplanes: channels of the input.
        squeeze_planes: channels between.
        expand1x1_planes: channels of the expanding 1x1 convolution.
        expand3x3_planes: channels of the expanding 3x3 convolution.
    """

    def __init__(self, inplanes: int, squeeze_planes: int, expand1x1_planes: int, expand3x3_planes: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inplanes, squeeze_planes, kernel_size=1)
        self.squeeze_activation = nn.ReLU(inplace=True)
        self.expand1x1 = nn.Conv2d(squeeze_planes, expand1x1_planes, kernel_size=1)
        self.expand1x1_activation = nn.ReLU(inplace=True)
        self.expand3x3 = nn.Conv2d(squeeze_planes, expand3x3_planes, kernel_size=3, padding=1)
        self.expand3x3_activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inplanes, H, W) to (N, expand1x1_planes + expand3x3_planes, H, W)."""
        x = self.squeeze_activation(self.squeeze(x))
        return torch.cat(
            [self.expand1x1_activation(self.expand1x1(x)), self.expand3x3_activation(self.expand3x3(x))], 1
        )


def _pool() -> nn.MaxPool2d:
    return nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)


def _features(version: str) -> nn.Sequential:
    """Return the layers before the classifier: table 1 of the paper, and the cheaper ones of release 1.1."""
    if version == "1_0":
        return nn.Sequential(
            nn.Conv2d(3, 96, kernel_size=7, stride=2),
            nn.ReLU(inplace=True),
            _pool(),
            Fire(96, 16, 64, 64),
            Fire(128, 16, 64, 64),
            Fire(128, 32, 128, 128),
            _pool(),
            Fire(256, 32, 128, 128),
            Fire(256, 48, 192, 192),
            Fire(384, 48, 192, 192),
            Fire(384, 64, 256, 256),
            _pool(),
            Fire(512, 64, 256, 256),
        )
    if version == "1_1":
        return nn.Sequential(
            nn.Conv2d(3, 64, kernel_size=3, stride=2),
            nn.ReLU(inplace=True),
            _pool(),
            Fire(64, 16, 64, 64),
            Fire(128, 16, 64, 64),
            _pool(),
            Fire(128, 32, 128, 128),
            Fire(256, 32, 128, 128),
            _pool(),
            Fire(256, 48, 192, 192),
            Fire(384, 48, 192, 192),
            Fire(384, 64, 256, 256),
            Fire(512, 64, 256, 256),
        )
    raise InvalidArgumentError(f"SqueezeNet has the versions '1_0' and '1_1', got {version!r}")


class SqueezeNet(nn.Module):
    """Fire modules of total stride 16 and a convolution that gives each class a map, whose mean is its logit.

    Args:
        version: `1_0` or `1_1`.
        num_classes: length of the output.
        dropout: probability before the last convolution.

    Raises:
        InvalidArgumentError: another version.
    """

    def __init__(self, version: str = "1_0", num_classes: int = 1000, dropout: float = 0.5) -> None:
        super().__init__()
        self.features = _features(version)
        last = nn.Conv2d(512, num_classes, kernel_size=1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), last, nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d((1, 1)))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                if module is last:
                    nn.init.normal_(module.weight, 0, 0.01)
                else:
                    nn.init.kaiming_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images.

        Args:
            x: float (N, 3, H, W), at least 21 (version 1_0) or 17 (1_1) pixels a side, normalised as the weights'
                transforms do.

        Returns:
            float (N, num_classes), never negative.
        """
        return torch.flatten(self.classifier(self.features(x)), 1)  # (N, num_classes, 1, 1) -> (N, num_classes)


@register_model(weights=SqueezeNet1_0_Weights)
def squeezenet1_0(**kwargs: Any) -> SqueezeNet:
    """Build SqueezeNet 1.0 (1.2 M parameters).

    Args:
        **kwargs: options of `SqueezeNet`: `num_classes` and `dropout`.
    """
    return SqueezeNet("1_0", **kwargs)


@register_model(weights=SqueezeNet1_1_Weights)
def squeezenet1_1(**kwargs: Any) -> SqueezeNet:
    """Build SqueezeNet 1.1 (1.2 M parameters).

    Args:
        **kwargs: options of `SqueezeNet`: `num_classes` and `dropout`.
    """
    return SqueezeNet("1_1", **kwargs)
