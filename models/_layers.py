"""Layers that several architectures share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from zoofleet.errors import InvalidArgumentError

__all__ = [
    "MLP",
    "Conv2dNormActivation",
    "Conv3dNormActivation",
    "Permute",
    "SqueezeExcitation",
    "StochasticDepth",
    "make_divisible",
]

Layer = Callable[..., nn.Module]


class _ConvNormActivation(nn.Sequential):
    """Convolution, normalisation and activation, numbered 0, 1, 2 in the state dict.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: of the convolution, one number or one for each axis.
        stride: of the convolution.
        padding: of the convolution; None keeps the size at stride 1, for odd kernels.
        groups: of the convolution.
        norm_layer: made with `out_channels`; None for none.
        activation_layer: None for none.
        dilation: of the convolution.
        inplace: passed to the activation; None for activations that do not take it.
        bias: of the convolution; None gives it one where there is no normalisation.
    """

    _conv: ClassVar[type[nn.Conv2d | nn.Conv3d]]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...] = 3,
        stride: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] | None = None,
        groups: int = 1,
        norm_layer: Layer | None = nn.BatchNorm2d,
        activation_layer: Layer | None = nn.ReLU,
        dilation: int | tuple[int, ...] = 1,
        inplace: bool | None = True,
        bias: bool | None = None,
    ) -> None:
        if padding is None:
            padding = _same_padding(kernel_size, dilation)
        layers: list[nn.Module] = [
            self._conv(
                in_channels,
                out_channels,
                kernel_size,  # type: ignore[arg-type]
                stride,  # type: ignore[arg-type]
                padding,  # type: ignore[arg-type]
                dilation=dilation,  # type: ignore[arg-type]
                groups=groups,
                bias=norm_layer is None if bias is None else bias,
            )
        ]
        if norm_layer is not None:
            layers.append(norm_layer(out_channels))
        if activation_layer is not None:
            layers.append(activation_layer() if inplace is None else activation_layer(inplace=inplace))
        super().__init__(*layers)
        self.out_channels = out_channels


def _same_padding(kernel_size: int | tuple[int, ...], dilation: int | tuple[int, ...]) -> int | tuple[int, ...]:
    if isinstance(kernel_size, int) and isinstance(dilation, int):
        return (kernel_size - 1) // 2 * dilation
    axes = len(kernel_size if isinstance(kernel_size, tuple) else dilation)  # type: ignore[arg-type]
    kernels = (kernel_size,) * axes if isinstance(kernel_size, int) else kernel_size
    dilations = (dilation,) * axes if isinstance(dilation, int) else dilation
    return tuple((k - 1) // 2 * d for k, d in zip(kernels, dilations, strict=True))


class Conv2dNormActivation(_ConvNormActivation):
    __doc__ = _ConvNormActivation.__doc__
    _conv = nn.Conv2d


class Conv3dNormActivation(_ConvNormActivation):
    __doc__ = _ConvNormActivation.__doc__
    _conv = nn.Conv3d


class SqueezeExcitation(nn.Module):
    """Scale each channel by a gate computed from all channels' means (https://arxiv.org/abs/1709.01507, figure 1).

    Args:
        input_channels: channels of input and output.
        squeeze_channels: channels between the gate's two layers.
        activation: between the two layers.
        scale_activation: after them, giving the gate.
    """

    def __init__(
        self,
        input_channels: int,
        squeeze_channels: int,
        activation: Layer = nn.ReLU,
        scale_activation: Layer = nn.Sigmoid,
    ) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(input_channels, squeeze_channels, 1)
        self.fc2 = nn.Conv2d(squeeze_channels, input_channels, 1)
        self.activation = activation()
        self.scale_activation = scale_activation()

    def gate(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the gate (N, C, 1, 1)."""
        gate: Tensor = self.scale_activation(self.fc2(self.activation(self.fc1(self.avgpool(x)))))
        return gate

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        return self.gate(x) * x


def make_divisible(value: float, divisor: int = 8) -> int:
    """The multiple of `divisor` nearest to `value`, but at least `divisor` and not under 0.9 of `value`."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


class StochasticDepth(nn.Module):
    """In training, drop a residual branch for some of the batch (https://arxiv.org/abs/1603.09382).

    Args:
        p: probability that a sample's branch becomes 0; the others are divided by 1 - p.

    Raises:
        InvalidArgumentError: p is not in [0, 1].
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise InvalidArgumentError(f"the probability of dropping a branch must be in [0, 1], got {p!r}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) to the same shape."""
        if not self.training or self.p == 0:
            return x
        kept = torch.empty((len(x),) + (1,) * (x.dim() - 1), dtype=x.dtype, device=x.device)  # (N, 1, ...)
        kept.bernoulli_(1 - self.p)
        return x * (kept / (1 - self.p) if self.p < 1 else kept)

    def extra_repr(self) -> str:
        """For printing the module."""
        return f"p={self.p}"


class Permute(nn.Module):
    """Reorder axes.

    Args:
        dims: the input's axes in the order of the output.
    """

    def __init__(self, dims: Sequence[int]) -> None:
        super().__init__()
        self.dims = tuple(dims)

    def forward(self, x: Tensor) -> Tensor:
        """A view of the input."""
        return x.permute(self.dims)

    def extra_repr(self) -> str:
        """For printing the module."""
        return f"dims={self.dims}"


class MLP(nn.Sequential):
    """A transformer's two linear layers over the last axis, numbered 0 and 3 in the state dict.

    Args:
        channels: of the input.
        hidden_channels: between the layers.
        activation_layer: between them.
        dropout: probability after each of them.
        out_channels: of the output; None for as many as the input has.
    """

    def __init__(
        self,
        channels: int,
        hidden_channels: int,
        activation_layer: Layer = nn.GELU,
        dropout: float = 0.0,
        out_channels: int | None = None,
    ) -> None:
        super().__init__(
            nn.Linear(channels, hidden_channels),
            activation_layer(),
            nn.Dropout(dropout),
            nn.Linear(hidden_channels, channels if out_channels is None else out_channels),
            nn.Dropout(dropout),
        )

    def init_xavier(self) -> None:
        """Draw both layers' weights uniformly by fan-in and fan-out, and biases close to zero."""
        for layer in self:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.normal_(layer.bias, std=1e-6)
