"""DenseNet.

Source: Huang et al., "Densely Connected Convolutional Networks", CVPR 2017, arXiv:1608.06993. Recomputing the
concatenations in the backward pass follows Pleiss et al., arXiv:1707.06990.

In shapes, N is the number of images, C the number of channels, and H and W are the height and width of an image or a
map.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import checkpoint

from zoofleet.models._registry import register_model
from zoofleet.models._weight_sets import (
    DenseNet121_Weights,
    DenseNet161_Weights,
    DenseNet169_Weights,
    DenseNet201_Weights,
)

__all__ = [
    "DenseNet",
    "DenseNet121_Weights",
    "DenseNet161_Weights",
    "DenseNet169_Weights",
    "DenseNet201_Weights",
    "densenet121",
    "densenet161",
    "densenet169",
    "densenet201",
    "rename_legacy_keys",
]

_LEGACY_KEY: Final = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")


class _DenseLayer(nn.Module):
    """A bottleneck that adds `growth_rate` channels to those of all layers before it in the block."""

    def __init__(
        self, in_channels: int, growth_rate: int, bn_size: int, drop_rate: float, memory_efficient: bool
    ) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(in_channels, bn_size * growth_rate, kernel_size=1, bias=False)
        self.norm2 = nn.BatchNorm2d(bn_size * growth_rate)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(bn_size * growth_rate, growth_rate, kernel_size=3, padding=1, bias=False)
        self.drop_rate = drop_rate
        self.memory_efficient = memory_efficient

    def _bottleneck(self, *features: Tensor) -> Tensor:
        y: Tensor = self.conv1(self.relu1(self.norm1(torch.cat(features, 1))))
        return y

    def forward(self, features: list[Tensor]) -> Tensor:
        """A list of (N, C_i, H, W), of which the C_i add up to in_channels, to (N, growth_rate, H, W)."""
        if self.memory_efficient and any(f.requires_grad for f in features):
            y: Tensor = checkpoint.checkpoint(self._bottleneck, *features, use_reentrant=False)
        else:
            y = self._bottleneck(*features)
        y = self.conv2(self.relu2(self.norm2(y)))
        return F.dropout(y, p=self.drop_rate, training=self.training)


class _DenseBlock(nn.ModuleDict):
    """Dense layers: (N, in_channels, H, W) to (N, in_channels + layers * growth_rate, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to the concatenation of the input and all layers' results."""
        features = [x]
        for layer in self.values():
            features.append(layer(features))
        return torch.cat(features, 1)


class _Transition(nn.Sequential):
    """Between blocks: halve channels and sides."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False)
        self.pool = nn.AvgPool2d(kernel_size=2, stride=2)


class DenseNet(nn.Module):
    """A stem of stride 4, dense blocks with transitions of stride 2 between them, a linear classifier over the mean.

    Args:
        growth_rate: channels that each layer adds (the paper's k).
        block_config: number of layers in each block.
        num_init_features: channels of the stem.
        bn_size: width of a layer's bottleneck in multiples of `growth_rate`.
        drop_rate: dropout probability after each layer.
        num_classes: length of the output.
        memory_efficient: in training, recompute the bottlenecks in the backward pass: less memory, more time.
    """

    def __init__(
        self,
        growth_rate: int = 32,
        block_config: Sequence[int] = (6, 12, 24, 16),
        num_init_features: int = 64,
        bn_size: int = 4,
        drop_rate: float = 0,
        num_classes: int = 1000,
        memory_efficient: bool = False,
    ) -> None:
        super().__init__()
        channels = num_init_features
        self.features = nn.Sequential()
        self.features.conv0 = nn.Conv2d(3, channels, kernel_size=7, stride=2, padding=3, bias=False)
        self.features.norm0 = nn.BatchNorm2d(channels)
        self.features.relu0 = nn.ReLU(inplace=True)
        self.features.pool0 = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        for number, layers in enumerate(block_config, start=1):
            if number > 1:
                self.features.add_module(f"transition{number - 1}", _Transition(channels, channels // 2))
                channels //= 2
            block = _DenseBlock()
            for i in range(1, layers + 1):
                block[f"denselayer{i}"] = _DenseLayer(channels, growth_rate, bn_size, drop_rate, memory_efficient)
                channels += growth_rate
            self.features.add_module(f"denseblock{number}", block)
        self.features.norm5 = nn.BatchNorm2d(channels)
        self.classifier = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        nn.init.zeros_(self.classifier.bias)
        self.register_load_state_dict_pre_hook(rename_legacy_keys)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images.

        Args:
            x: float (N, 3, H, W), at least 29 pixels a side, normalised as the weights' transforms do.

        Returns:
            float (N, num_classes).
        """
        x = F.relu(self.features(x), inplace=True)  # (N, C, H/32, W/32)
        x = torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1)  # (N, C)
        logits: Tensor = self.classifier(x)
        return logits


def rename_legacy_keys(module: nn.Module, state_dict: dict[str, Any], *_: object) -> None:
    """Before loading, rename in place the keys of files written when module names could hold dots.

    The published files are such: they have `denselayer1.norm.1.weight` for `denselayer1.norm1.weight`.
    """
    for key in list(state_dict):
        renamed = _LEGACY_KEY.sub(r"\1\2", key)
        if renamed != key:
            state_dict[renamed] = state_dict.pop(key)


@register_model(weights=DenseNet121_Weights)
def densenet121(**kwargs: Any) -> DenseNet:
    """Build DenseNet-121 (8.0 M parameters).

    Args:
        **kwargs: options of `DenseNet`: `num_classes`, `bn_size`, `drop_rate` and `memory_efficient`.
    """
    return DenseNet(32, (6, 12, 24, 16), 64, **kwargs)


@register_model(weights=DenseNet161_Weights)
def densenet161(**kwargs: Any) -> DenseNet:
    """Build DenseNet-161 (28.7 M parameters).

    Args:
        **kwargs: options of `DenseNet`: `num_classes`, `bn_size`, `drop_rate` and `memory_efficient`.
    """
    return DenseNet(48, (6, 12, 36, 24), 96, **kwargs)


@register_model(weights=DenseNet169_Weights)
def densenet169(**kwargs: Any) -> DenseNet:
    """Build DenseNet-169 (14.1 M parameters).

    Args:
        **kwargs: options of `DenseNet`: `num_classes`, `bn_size`, `drop_rate` and `memory_efficient`.
    """
    return DenseNet(32, (6, 12, 32, 32), 64, **kwargs)


@register_model(weights=DenseNet201_Weights)
def densenet201(**kwargs: Any) -> DenseNet:
    """Build DenseNet-201 (20.0 M parameters).

    Args:
        **kwargs: options of `DenseNet`: `num_classes`, `bn_size`, `drop_rate` and `memory_efficient`.
    """
    return DenseNet(32, (6, 12, 48, 32), 64, **kwargs)
