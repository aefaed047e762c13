"""VGG, with and without batch normalisation.

Source: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015,
arXiv:1409.1556.

In shapes, N is the number of images, and H and W are the height and width of an image or a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from zoofleet.models._registry import register_model
from zoofleet.models._weight_sets import (
    VGG11_BN_Weights,
    VGG11_Weights,
    VGG13_BN_Weights,
    VGG13_Weights,
    VGG16_BN_Weights,
    VGG16_Weights,
    VGG19_BN_Weights,
    VGG19_Weights,
)
from zoofleet.models._weights import WeightsEnum

__all__ = [
    "VGG",
    "VGG11_BN_Weights",
    "VGG11_Weights",
    "VGG13_BN_Weights",
    "VGG13_Weights",
    "VGG16_BN_Weights",
    "VGG16_Weights",
    "VGG19_BN_Weights",
    "VGG19_Weights",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
]

# Table 1 of the paper: number of 3x3 convolutions before each pooling, and their channels.
_VGG11: Final = (1, 1, 2, 2, 2)
_VGG13: Final = (2, 2, 2, 2, 2)
_VGG16: Final = (2, 2, 3, 3, 3)
_VGG19: Final = (2, 2, 4, 4, 4)
_CHANNELS: Final = (64, 128, 256, 512, 512)


def _features(depths: Sequence[int], batch_norm: bool) -> nn.Sequential:
    """The convolutions and poolings: (N, 3, H, W) to (N, 512, H/32, W/32)."""
    layers: list[nn.Module] = []
    channels = 3
    for depth, out in zip(depths, _CHANNELS, strict=True):
        for _ in range(depth):
            layers.append(nn.Conv2d(channels, out, kernel_size=3, padding=1))
            if batch_norm:
                layers.append(nn.BatchNorm2d(out))
            layers.append(nn.ReLU(inplace=True))
            channels = out
        layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
    return nn.Sequential(*layers)


class VGG(nn.Module):
    """Convolutions of total stride 32 and three linear layers over a 7x7 grid.

    Args:
        features: (N, 3, H, W) to (N, 512, H/32, W/32).
        num_classes: length of the output.
        init_weights: initialise as below; False leaves torch's own initialisation, which is faster.
        dropout: probability after each of the first two linear layers.
    """

    def __init__(
        self, features: nn.Module, num_classes: int = 1000, init_weights: bool = True, dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.features = features
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(4096, num_classes),
        )
        if init_weights:
            self._init_weights()

    def _init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
            else:
                continue  # batch norm starts with ones and zeros anyway
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images.

        Args:
            x: float (N, 3, H, W), at least 32 pixels a side, normalised as the weights' transforms do.

        Returns:
            float (N, num_classes).
        """
        x = torch.flatten(self.avgpool(self.features(x)), 1)  # (N, 25088)
        logits: Tensor = self.classifier(x)
        return logits


def _vgg(depths: Sequence[int], *, batch_norm: bool, weights: WeightsEnum | None, **kwargs: Any) -> VGG:
    if weights is not None:  # they replace whatever random values there are, and drawing those takes a second
        kwargs["init_weights"] = False
    return VGG(_features(depths, batch_norm), **kwargs)


@register_model(weights=VGG11_Weights)
def vgg11(*, weights: WeightsEnum | None = None, **kwargs: Any) -> VGG:
    """Build VGG-11 (132.9 M parameters).

    Args:
        **kwargs: options of `VGG`: `num_classes`, `init_weights` and `dropout`.
    """
    return _vgg(_VGG11, batch_norm=False, weights=weights, **kwargs)


@register_model(weights=VGG11_BN_Weights)
def vgg11_bn(*, weights: WeightsEnum | None = None, **kwargs: Any) -> VGG:
    """Build VGG-11 with batch norm (132.9 M parameters).

    Args:
        **kwargs: options of `VGG`: `num_classes`, `init_weights` and `dropout`.
    """
    return _vgg(_VGG11, batch_norm=True, weights=weights, **kwargs)


@register_model(weights=VGG13_Weights)
def vgg13(*, weights: WeightsEnum | None = None, **kwargs: Any) -> VGG:
    """Build VGG-13 (133.0 M parameters).

    Args:
        **kwargs: options of `VGG`: `num_classes`, `init_weights` and `dropout`.
    """
    return _vgg(_VGG13, batch_norm=False, weights=weights, **kwargs)


@register_model(weights=VGG13_BN_Weights)
def vgg13_bn(*, weights: WeightsEnum | None = None, **kwargs: Any) -> VGG:
    """Build VGG-13 with batch norm (133.1 M parameters).

    Args:
        **kwargs: options of `VGG`: `num_classes`, `init_weights` and `dropout`.
    """
    return _vgg(_VGG13, batch_norm=True, weights=weights, **kwargs)


@register_model(weights=VGG16_Weights)
def vgg16(*, weights: WeightsEnum | None = None, **kwargs: Any) -> VGG:
    """Build VGG-16 (138.4 M parameters).

    Args:
        **kwargs: options of `VGG`: `num_classes`, `init_weights` and `dropout`.
    """
    return _vgg(_VGG16, batch_norm=False, weights=weights, **kwargs)


@register_model(weights=VGG16_BN_Weights)
def vgg16_bn(*, weights: WeightsEnum | None = None, **kwargs: Any) -> VGG:
    """Build VGG-16 with batch norm (138.4 M parameters).

    Args:
        **kwargs: options of `VGG`: `num_classes`, `init_weights` and `dropout`.
    """
    return _vgg(_VGG16, batch_norm=True, weights=weights, **kwargs)


@register_model(weights=VGG19_Weights)
def vgg19(*, weights: WeightsEnum | None = None, **kwargs: Any) -> VGG:
    """Build VGG-19 (143.7 M parameters).

    Args:
        **kwargs: options of `VGG`: `num_classes`, `init_weights` and `dropout`.
    """
    return _vgg(_VGG19, batch_norm=False, weights=weights, **kwargs)


@register_model(weights=VGG19_BN_Weights)
def vgg19_bn(*, weights: WeightsEnum | None = None, **kwargs: Any) -> VGG:
    """Build VGG-19 with batch norm (143.7 M parameters).

    Args:
        **kwargs: options of `VGG`: `num_classes`, `init_weights` and `dropout`.
    """
    return _vgg(_VGG19, batch_norm=True, weights=weights, **kwargs)
