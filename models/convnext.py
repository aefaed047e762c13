"""ConvNeXt.

Source: Liu et al., "A ConvNet for the 2020s", CVPR 2022, arXiv:2201.03545.

In shapes, N is the number of images, C the number of channels, and H and W are the height and width of an image or a
map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoofleet.errors import InvalidArgumentError
from zoofleet.models._layers import Conv2dNormActivation, Layer, Permute, StochasticDepth
from zoofleet.models._registry import register_model
from zoofleet.models._weight_sets import (
    ConvNeXt_Base_Weights,
    ConvNeXt_Large_Weights,
    ConvNeXt_Small_Weights,
    ConvNeXt_Tiny_Weights,
)

__all__ = [
    "CNBlock",
    "ConvNeXt",
    "ConvNeXt_Base_Weights",
    "ConvNeXt_Large_Weights",
    "ConvNeXt_Small_Weights",
    "ConvNeXt_Tiny_Weights",
    "LayerNorm2d",
    "convnext_base",
    "convnext_large",
    "convnext_small",
    "convnext_tiny",
]


class LayerNorm2d(nn.LayerNorm):
    """Normalise over the channels of (N, C, H, W).

    Args:
        channels: C.
        eps: added to the variance.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__(channels, eps)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)  # (N, H, W, C) -> (N, C, H, W)


class CNBlock(nn.Module):
    """A depthwise 7x7 convolution and an MLP over the channels, with a shortcut: (N, C, H, W) to the same shape.

    Args:
        dim: number of channels.
        layer_scale: initial factor of each channel's result.
        stochastic_depth_prob: probability of dropping the block in training.
    """

    def __init__(self, dim: int, layer_scale: float, stochastic_depth_prob: float) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(dim, dim, kernel_size=7, padding=3, groups=dim),
            Permute((0, 2, 3, 1)),  # (N, H, W, C)
            nn.LayerNorm(dim, eps=1e-6),
            nn.Linear(dim, 4 * dim),
            nn.GELU(),
            nn.Linear(4 * dim, dim),
            Permute((0, 3, 1, 2)),  # (N, C, H, W)
        )
        self.layer_scale = nn.Parameter(torch.full((dim, 1, 1), layer_scale))
        self.stochastic_depth = StochasticDepth(stochastic_depth_prob)

    def forward(self, x: Tensor) -> Tensor:
        """(N, dim, H, W) to the same shape."""
        y: Tensor = self.stochastic_depth(self.layer_scale * self.block(x))
        return x + y


class ConvNeXt(nn.Module):
    """Patches of 4x4, stages of blocks with strides of 2 between them, and a linear classifier over the mean.

    Args:
        depths: number of blocks in each stage.
        dims: channels of each stage.
        stochastic_depth_prob: the last block's probability to be dropped in training; it grows linearly from 0.
        layer_scale: initial factor of each channel of a block's result.
        num_classes: length of the output.
        norm_layer: makes a normalisation layer from its number of channels; normalises (N, C, H, W) between the stages;
            None for layer norm over the channels.

    Raises:
        InvalidArgumentError: depths and dims are empty or differ in number.
    """

    def __init__(
        self,
        depths: Sequence[int],
        dims: Sequence[int],
        stochastic_depth_prob: float = 0.0,
        layer_scale: float = 1e-6,
        num_classes: int = 1000,
        norm_layer: Layer | None = None,
    ) -> None:
        super().__init__()
        norm_layer = LayerNorm2d if norm_layer is None else norm_layer
        if not depths or len(depths) != len(dims):
            raise InvalidArgumentError(
                f"ConvNeXt takes a depth and a dim for each stage, got depths={depths!r}, dims={dims!r}"
            )
        features: list[nn.Module] = [
            Conv2dNormActivation(
                3, dims[0], kernel_size=4, stride=4, padding=0, norm_layer=norm_layer, activation_layer=None, bias=True
            )
        ]
        last, number = max(1, sum(depths) - 1), 0
        for i, (depth, dim) in enumerate(zip(depths, dims, strict=True)):
            if i:
                features.append(nn.Sequential(norm_layer(dims[i - 1]), nn.Conv2d(dims[i - 1], dim, 2, stride=2)))
            drops = [stochastic_depth_prob * (number + j) / last for j in range(depth)]
            features.append(nn.Sequential(*(CNBlock(dim, layer_scale, drop) for drop in drops)))
            number += depth
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(norm_layer(dims[-1]), nn.Flatten(1), nn.Linear(dims[-1], num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images.

        Args:
            x: float (N, 3, H, W), at least 32 pixels a side, normalised as the weights' transforms do.

        Returns:
            float (N, num_classes).
        """
        x = self.avgpool(self.features(x))  # (N, C, 1, 1)
        logits: Tensor = self.classifier(x)
        return logits


@register_model(weights=ConvNeXt_Tiny_Weights)
def convnext_tiny(*, stochastic_depth_prob: float = 0.1, **kwargs: Any) -> ConvNeXt:
    """Build ConvNeXt-Tiny (28.6 M parameters).

    Args:
        stochastic_depth_prob: probability with which the last block's branch is dropped in training.
        **kwargs: options of `ConvNeXt`: `num_classes`, `layer_scale` and `norm_layer`.
    """
    return ConvNeXt((3, 3, 9, 3), (96, 192, 384, 768), stochastic_depth_prob=stochastic_depth_prob, **kwargs)


@register_model(weights=ConvNeXt_Small_Weights)
def convnext_small(*, stochastic_depth_prob: float = 0.4, **kwargs: Any) -> ConvNeXt:
    """Build ConvNeXt-Small (50.2 M parameters).

    Args:
        stochastic_depth_prob: probability with which the last block's branch is dropped in training.
        **kwargs: options of `ConvNeXt`: `num_classes`, `layer_scale` and `norm_layer`.
    """
    return ConvNeXt((3, 3, 27, 3), (96, 192, 384, 768), stochastic_depth_prob=stochastic_depth_prob, **kwargs)


@register_model(weights=ConvNeXt_Base_Weights)
def convnext_base(*, stochastic_depth_prob: float = 0.5, **kwargs: Any) -> ConvNeXt:
    """Build ConvNeXt-Base (88.6 M parameters).

    Args:
        stochastic_depth_prob: probability with which the last block's branch is dropped in training.
        **kwargs: options of `ConvNeXt`: `num_classes`, `layer_scale` and `norm_layer`.
    """
    return ConvNeXt((3, 3, 27, 3), (128, 256, 512, 1024), stochastic_depth_prob=stochastic_depth_prob, **kwargs)


@register_model(weights=ConvNeXt_Large_Weights)
def convnext_large(*, stochastic_depth_prob: float = 0.5, **kwargs: Any) -> ConvNeXt:
    """Build ConvNeXt-Large (197.8 M parameters).

    Args:
        stochastic_depth_prob: probability with which the last block's branch is dropped in training.
        **kwargs: options of `ConvNeXt`: `num_classes`, `layer_scale` and `norm_layer`.
    """
    return ConvNeXt((3, 3, 27, 3), (192, 384, 768, 1536), stochastic_depth_prob=stochastic_depth_prob, **kwargs)
