"""Layers that several architectures share.

In shapes, N is the number of images, C the number of channels, and H and W are the height and width of an image or a
map.
"""

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
    "stochastic_depth",
]

Layer = Callable[..., nn.Module]


class _ConvNormActivation(nn.Sequential):
    """Convolution, normalisation and activation, numbered 0, 1, 2 in the state dict.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: kernel size of the convolution, one number or one for each axis.
        stride: stride of the convolution.
        padding: padding of the convolution; None keeps the size at stride 1, for odd kernels.
        groups: number of groups of the convolution.
        norm_layer: makes a normalisation layer from its number of channels, `out_channels`; None for none.
        activation_layer: makes the activation; None for none.
        dilation: dilation of the convolution.
        inplace: passed to the activation; None for activations that do not take it.
        bias: whether the convolution has a bias; None gives it one where there is no normalisation.
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

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...] = 3,
        stride: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] | None = None,
        groups: int = 1,
        norm_layer: Layer | None = nn.BatchNorm3d,
        activation_layer: Layer | None = nn.ReLU,
        dilation: int | tuple[int, ...] = 1,
        inplace: bool | None = True,
        bias: bool | None = None,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            groups,
            norm_layer,
            activation_layer,
            dilation,
            inplace,
            bias,
        )


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


def stochastic_depth(input: Tensor, p: float, mode: str, training: bool = True) -> Tensor:  # noqa: A002
    """In training, drop a residual branch (https://arxiv.org/abs/1603.09382).

    Args:
        input: (N, ...), floating.
        p: probability that a branch becomes 0; what is not dropped is divided by 1 - p.
        mode: `row` to draw for each sample, `batch` for all of them at once.
        training: without, the input comes back.

    Returns:
        The same shape.

    Raises:
        InvalidArgumentError: p is not in [0, 1], or another mode.
    """
    if not 0 <= p <= 1:
        raise InvalidArgumentError(f"the probability of dropping a branch must be in [0, 1], got {p!r}")
    if mode not in ("row", "batch"):
        raise InvalidArgumentError(f"mode must be 'row' or 'batch', got {mode!r}")
    if not training or p == 0:
        return input
    rows = input.shape[0] if mode == "row" else 1
    kept = torch.empty((rows,) + (1,) * (input.dim() - 1), dtype=input.dtype, device=input.device)  # (N, 1, ...)
    kept.bernoulli_(1 - p)
    return input * (kept / (1 - p) if p < 1 else kept)


class StochasticDepth(nn.Module):
    """`stochastic_depth` as a module, active in training.

    Args:
        p: probability that a branch becomes 0.
        mode: `row` to draw for each sample, `batch` for all of them at once.

    Raises:
        InvalidArgumentError: p is not in [0, 1], or another mode.
    """

    def __init__(self, p: float, mode: str = "row") -> None:
        super().__init__()
        stochastic_depth(torch.empty(0), p, mode, training=False)
        self.p = p
        self.mode = mode

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 -- the reference's name
        """(N, ...) to the same shape."""
        return stochastic_depth(input, self.p, self.mode, self.training)

    def extra_repr(self) -> str:
        """For printing the module."""
        return f"p={self.p}, mode={self.mode}"


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
    """Linear layers over the last axis, each but the last with normalisation and activation, and all with dropout.

    Args:
        in_channels: number of channels of the input.
        hidden_channels: number of channels of each layer's output.
        norm_layer: makes a normalisation layer from its number of channels; None for none.
        activation_layer: between the layers; None for none.
        inplace: passed to activations and dropout; None for activations that do not take it.
        bias: whether the linear layers have a bias.
        dropout: probability after each of them.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: Sequence[int],
        norm_layer: Layer | None = None,
        activation_layer: Layer | None = nn.ReLU,
        inplace: bool | None = None,
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        layers: list[nn.Module] = []
        options = {} if inplace is None else {"inplace": inplace}
        for i, channels in enumerate(hidden_channels, start=1):
            layers.append(nn.Linear(in_channels, channels, bias=bias))
            if i < len(hidden_channels):
                if norm_layer is not None:
                    layers.append(norm_layer(channels))
                if activation_layer is not None:
                    layers.append(activation_layer(**options))
            layers.append(nn.Dropout(dropout, **options))
            in_channels = channels
        super().__init__(*layers)

    def init_xavier(self) -> None:
        """Draw both layers' weights uniformly by fan-in and fan-out, and biases close to zero."""
        for layer in self:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.normal_(layer.bias, std=1e-6)
