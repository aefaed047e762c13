"""MNASNet.

Source: Tan et al., "MnasNet: Platform-Aware Neural Architecture Search for Mobile", CVPR 2019, arXiv:1807.11626: its
MnasNet-B1, the one without squeeze and excitation.

In shapes, N is the number of images, and H and W are the height and width of an image or a map.
"""

from __future__ import annotations

import warnings
from typing import Any, Final

from torch import Tensor, nn

from zoofleet.errors import InvalidArgumentError, InvalidWeightsError
from zoofleet.models._layers import make_divisible
from zoofleet.models._registry import register_model
from zoofleet.models._weight_sets import MNASNet0_5_Weights, MNASNet0_75_Weights, MNASNet1_0_Weights, MNASNet1_3_Weights

__all__ = [
    "MNASNet",
    "MNASNet0_5_Weights",
    "MNASNet0_75_Weights",
    "MNASNet1_0_Weights",
    "MNASNet1_3_Weights",
    "mnasnet0_5",
    "mnasnet0_75",
    "mnasnet1_0",
    "mnasnet1_3",
]

# The paper's 0.9997 is the part of the running average that stays.
_BN_MOMENTUM: Final = 1 - 0.9997

# Figure 7 of the paper: channels, kernel, stride of the first block, expansion, blocks.
_STACKS: Final = (
    (24, 3, 2, 3, 3),
    (40, 5, 2, 3, 3),
    (80, 5, 2, 6, 3),
    (96, 3, 1, 6, 2),
    (192, 5, 2, 6, 4),
    (320, 3, 1, 6, 1),
)


def _conv(
    in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, groups: int = 1, relu: bool = True
) -> list[nn.Module]:
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels, momentum=_BN_MOMENTUM),
    ]
    return [*layers, nn.ReLU(inplace=True)] if relu else layers


class _InvertedResidual(nn.Module):
    """Expand by 1x1, filter each channel, project by 1x1 without activation; a shortcut where shapes allow."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        self.use_shortcut = in_channels == out_channels and stride == 1
        hidden = in_channels * expansion
        self.layers = nn.Sequential(
            *_conv(in_channels, hidden),
            *_conv(hidden, hidden, kernel, stride, groups=hidden),
            *_conv(hidden, out_channels, relu=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H/stride, W/stride)."""
        y: Tensor = self.layers(x)
        return y + x if self.use_shortcut else y


def _stack(in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(
        _InvertedResidual(in_channels, out_channels, kernel, stride, expansion),
        *(_InvertedResidual(out_channels, out_channels, kernel, 1, expansion) for _ in range(1, blocks)),
    )


def _stem(first: int, second: int, stack: int) -> list[nn.Module]:
    """A separable convolution, as eight layers, and the first stack of blocks: (N, 3, H, W) to (N, stack, H/4, W/4)."""
    return [
        *_conv(3, first, 3, stride=2),
        *_conv(first, first, 3, groups=first),
        *_conv(first, second, relu=False),
        _stack(second, stack, *_STACKS[0][1:]),
    ]


class MNASNet(nn.Module):
    """Inverted residual blocks of total stride 32 and a linear classifier over the mean.

    State dicts of version 1 come from a time when `alpha` did not scale the first two numbers of channels. Loading one
    gives the model that stem.

    Args:
        alpha: scales all channels but those of the last convolution.
        num_classes: length of the output.
        dropout: probability before the classifier.

    Raises:
        InvalidArgumentError: alpha is not above 0.
    """

    _version: int = 2

    def __init__(self, alpha: float, num_classes: int = 1000, dropout: float = 0.2) -> None:
        super().__init__()
        if not alpha > 0:
            raise InvalidArgumentError(f"alpha must be above 0, got {alpha!r}")
        self.alpha = alpha
        first, second, *widths = (make_divisible(c * alpha) for c in (32, 16, *(row[0] for row in _STACKS)))
        layers = _stem(first, second, widths[0])
        for i in range(1, len(_STACKS)):
            layers.append(_stack(widths[i - 1], widths[i], *_STACKS[i][1:]))
        self.layers = nn.Sequential(*layers, *_conv(widths[-1], 1280))
        self.classifier = nn.Sequential(nn.Dropout(dropout, inplace=True), nn.Linear(1280, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.kaiming_uniform_(module.weight, mode="fan_out", nonlinearity="sigmoid")
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images.

        Args:
            x: float (N, 3, H, W), normalised as the weights' transforms do.

        Returns:
            float (N, num_classes).
        """
        x = self.layers(x)  # (N, 1280, H/32, W/32)
        logits: Tensor = self.classifier(x.mean((2, 3)))  # (N, 1280) -> (N, num_classes)
        return logits

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        # A state dict without metadata, such as a copy made item by item, does not tell; it is taken for a current one.
        version = local_metadata.get("version", 2)
        if version not in (1, 2):
            raise InvalidWeightsError(f"MNASNet reads state dicts of versions 1 and 2, got {version!r}")
        if version == 1 and self.alpha != 1:
            warnings.warn("an MNASNet state dict of version 1 replaces the stem by an unscaled one", stacklevel=2)
            stem = _stem(32, 16, make_divisible(_STACKS[0][0] * self.alpha))
            for i, layer in enumerate(stem):
                self.layers[i] = layer
            self._version = 1
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


@register_model(weights=MNASNet0_5_Weights)
def mnasnet0_5(**kwargs: Any) -> MNASNet:
    """Build MNASNet with 0.5 times the channels (2.2 M parameters).

    Args:
        **kwargs: options of `MNASNet`: `num_classes` and `dropout`.
    """
    return MNASNet(0.5, **kwargs)


@register_model(weights=MNASNet0_75_Weights)
def mnasnet0_75(**kwargs: Any) -> MNASNet:
    """Build MNASNet with 0.75 times the channels (3.2 M parameters).

    Args:
        **kwargs: options of `MNASNet`: `num_classes` and `dropout`.
    """
    return MNASNet(0.75, **kwargs)


@register_model(weights=MNASNet1_0_Weights)
def mnasnet1_0(**kwargs: Any) -> MNASNet:
    """Build MNASNet with 1.0 times the channels (4.4 M parameters).

    Args:
        **kwargs: options of `MNASNet`: `num_classes` and `dropout`.
    """
    return MNASNet(1.0, **kwargs)


@register_model(weights=MNASNet1_3_Weights)
def mnasnet1_3(**kwargs: Any) -> MNASNet:
    """Build MNASNet with 1.3 times the channels (6.3 M parameters).

    Args:
        **kwargs: options of `MNASNet`: `num_classes` and `dropout`.
    """
    return MNASNet(1.3, **kwargs)
