"""MaxViT.

Source: Tu et al., "MaxViT: Multi-Axis Vision Transformer", ECCV 2022, arXiv:2204.01697.

In shapes, N is the number of images, C the number of channels, H and W are the height and width of an image or a map,
and L is the number of tokens in a window.
"""

from __future__ import annotations

import functools
import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoofleet.errors import InvalidArgumentError
from zoofleet.models._layers import Conv2dNormActivation, Layer, SqueezeExcitation, StochasticDepth
from zoofleet.models._registry import register_model
from zoofleet.models._weight_sets import MaxVit_T_Weights
from zoofleet.models.swin_transformer import join_windows, relative_position_index, split_windows

__all__ = ["MaxVit", "MaxVit_T_Weights", "maxvit_t"]

_BatchNorm = functools.partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)


class MBConv(nn.Module):
    """Expand by 1x1, filter each channel, squeeze and excite, project by 1x1; with a shortcut.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        expansion_ratio: channels in between as a multiple of `out_channels`.
        squeeze_ratio: channels of the squeeze as a multiple of `out_channels`.
        stride: 1 or 2.
        activation_layer: between the convolutions.
        norm_layer: makes a normalisation layer from its number of channels.
        p_stochastic_dropout: probability with which the branch is dropped.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        expansion_ratio: float,
        squeeze_ratio: float,
        stride: int,
        activation_layer: Layer,
        norm_layer: Layer,
        p_stochastic_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        shortcut: list[nn.Module] = []
        if stride > 1:
            shortcut.append(nn.AvgPool2d(3, stride=stride, padding=1))
        if stride > 1 or in_channels != out_channels:
            shortcut.append(nn.Conv2d(in_channels, out_channels, kernel_size=1))
        self.proj = nn.Sequential(*shortcut)
        expanded = int(out_channels * expansion_ratio)
        conv = functools.partial(
            Conv2dNormActivation, norm_layer=norm_layer, activation_layer=activation_layer, inplace=None
        )
        self.layers = nn.Sequential(
            OrderedDict(
                pre_norm=norm_layer(in_channels),
                conv_a=conv(in_channels, expanded, kernel_size=1),
                conv_b=conv(expanded, expanded, kernel_size=3, stride=stride, groups=expanded),
                squeeze_excitation=SqueezeExcitation(expanded, int(out_channels * squeeze_ratio), activation=nn.SiLU),
                conv_c=nn.Conv2d(expanded, out_channels, kernel_size=1),
            )
        )
        self.stochastic_depth = StochasticDepth(p_stochastic_dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        out: Tensor = self.proj(x) + self.stochastic_depth(self.layers(x))
        return out


class RelativePositionalMultiHeadAttention(nn.Module):
    """Self-attention among the tokens of a square, with a learned bias for each offset.

    Args:
        feat_dim: channels.
        head_dim: channels of a head; divides `feat_dim`.
        side: side of the square in tokens.
    """

    relative_position_index: Tensor

    def __init__(self, feat_dim: int, head_dim: int, side: int) -> None:
        super().__init__()
        if feat_dim % head_dim:
            raise InvalidArgumentError(f"heads of {head_dim} channels do not divide {feat_dim} channels")
        self.head_dim = head_dim
        self.to_qkv = nn.Linear(feat_dim, feat_dim * 3)
        # The published weights were trained with the root of all channels, not with that of a head's.
        self.scale_factor = feat_dim**-0.5
        self.merge = nn.Linear(feat_dim, feat_dim)
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * side - 1) ** 2, feat_dim // head_dim))
        self.register_buffer("relative_position_index", relative_position_index((side, side)))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(N, windows, side * side, feat_dim) to the same shape."""
        qkv = self.to_qkv(x).reshape(-1, x.shape[2], 3, x.shape[3] // self.head_dim, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (N * windows, heads, L, head_dim)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)  # (heads, L, L)
        y = F.scaled_dot_product_attention(q, k, v, bias.to(q.dtype), scale=self.scale_factor)
        out: Tensor = self.merge(y.transpose(1, 2).reshape(x.shape))  # (N, windows, L, feat_dim)
        return out


class PartitionAttentionLayer(nn.Module):
    """Attention and an MLP over the tokens of a window, or of a grid that is spread over the whole map.

    Args:
        in_channels: channels of input and output.
        head_dim: channels of a head of the attention.
        partition_size: side of a window or grid in tokens.
        over_grid: attend over a grid rather than a window.
        mlp_ratio: channels between the MLP's layers as a multiple of `in_channels`.
        activation_layer: between them.
        attention_dropout: probability after the attention.
        mlp_dropout: probability after the MLP.
        p_stochastic_dropout: probability with which either branch is dropped.
    """

    def __init__(
        self,
        in_channels: int,
        head_dim: int,
        partition_size: int,
        over_grid: bool,
        mlp_ratio: int,
        activation_layer: Layer,
        attention_dropout: float,
        mlp_dropout: float,
        p_stochastic_dropout: float,
    ) -> None:
        super().__init__()
        self.partition_size = partition_size
        self.over_grid = over_grid
        self.attn_layer = nn.Sequential(
            nn.LayerNorm(in_channels),
            RelativePositionalMultiHeadAttention(in_channels, head_dim, partition_size),
            nn.Dropout(attention_dropout),
        )
        self.mlp_layer = nn.Sequential(
            nn.LayerNorm(in_channels),
            nn.Linear(in_channels, in_channels * mlp_ratio),
            activation_layer(),
            nn.Linear(in_channels * mlp_ratio, in_channels),
            nn.Dropout(mlp_dropout),
        )
        self.stochastic_dropout = StochasticDepth(p_stochastic_dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape, with H and W multiples of `partition_size`."""
        x = x.permute(0, 2, 3, 1)  # (N, H, W, C)
        size, side = x.shape[1:3], self.partition_size
        # A grid takes one token, at the same place, from each of the cells into which it divides the map.
        window = [s // side for s in size] if self.over_grid else [side, side]
        x = split_windows(x, window).reshape(x.shape[0], -1, window[0] * window[1], x.shape[-1])  # (N, windows, L, C)
        if self.over_grid:
            x = x.transpose(1, 2)  # (N, grids, side * side, C)
        x = x + self.stochastic_dropout(self.attn_layer(x))
        x = x + self.stochastic_dropout(self.mlp_layer(x))
        if self.over_grid:
            x = x.transpose(1, 2)  # (N, side * side, grids, C)
        return join_windows(x.flatten(0, 1), window, size).permute(0, 3, 1, 2)  # (N, C, H, W)


class MaxVitLayer(nn.Module):
    """An MBConv, attention within windows and attention over grids.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: stride of the MBConv.
        expansion_ratio: channels within the MBConv as a multiple of `out_channels`.
        squeeze_ratio: channels of its squeeze as a multiple of `out_channels`.
        norm_layer: makes the MBConv's normalisation layers from their number of channels.
        activation_layer: between layers.
        head_dim: channels of a head of the attentions.
        mlp_ratio: channels between the MLPs' layers as a multiple of `out_channels`.
        mlp_dropout: probability after the MLPs.
        attention_dropout: probability after the attentions.
        p_stochastic_dropout: probability with which each branch is dropped.
        partition_size: side of a window or grid in tokens.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int,
        expansion_ratio: float,
        squeeze_ratio: float,
        norm_layer: Layer,
        activation_layer: Layer,
        head_dim: int,
        mlp_ratio: int,
        mlp_dropout: float,
        attention_dropout: float,
        p_stochastic_dropout: float,
        partition_size: int,
    ) -> None:
        super().__init__()
        attention = functools.partial(
            PartitionAttentionLayer,
            out_channels,
            head_dim,
            partition_size,
            mlp_ratio=mlp_ratio,
            activation_layer=activation_layer,
            attention_dropout=attention_dropout,
            mlp_dropout=mlp_dropout,
            p_stochastic_dropout=p_stochastic_dropout,
        )
        self.layers = nn.Sequential(
            OrderedDict(
                MBconv=MBConv(
                    in_channels,
                    out_channels,
                    expansion_ratio,
                    squeeze_ratio,
                    stride,
                    activation_layer,
                    norm_layer,
                    p_stochastic_dropout,
                ),
                window_attention=attention(over_grid=False),
                grid_attention=attention(over_grid=True),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        out: Tensor = self.layers(x)
        return out


class MaxVitBlock(nn.Module):
    """A stage: layers of which the first halves height and width.

    Args:
        layers: in order.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H / 2, W / 2)."""
        out: Tensor = self.layers(x)
        return out


class MaxVit(nn.Module):
    """A convolutional stem, stages of convolution and attention, and a classifier of two layers over the mean.

    Args:
        input_size: height and width of the input in pixels; each stage's map must divide into windows.
        stem_channels: channels of the stem.
        partition_size: side of a window or grid in tokens.
        block_channels: channels of each stage.
        block_layers: number of layers in each stage.
        head_dim: channels of a head of the attentions.
        stochastic_depth_prob: that of the last layer; it grows evenly from 0 at the first.
        norm_layer: makes the convolutions's normalisation layers from their number of channels; None for batch norm
            with the epsilon and momentum that the published weights were trained with.
        activation_layer: between layers.
        squeeze_ratio: channels of an MBConv's squeeze as a multiple of its output's.
        expansion_ratio: channels within an MBConv as a multiple of its output's.
        mlp_ratio: channels between an MLP's layers as a multiple of its input's.
        mlp_dropout: probability after the MLPs.
        attention_dropout: probability after the attentions.
        num_classes: length of the output.

    Raises:
        InvalidArgumentError: a stage's map does not divide into windows, or channels and layers differ in number.
    """

    def __init__(
        self,
        input_size: tuple[int, int],
        stem_channels: int,
        partition_size: int,
        block_channels: Sequence[int],
        block_layers: Sequence[int],
        head_dim: int,
        stochastic_depth_prob: float,
        norm_layer: Layer | None = None,
        activation_layer: Layer = nn.GELU,
        squeeze_ratio: float = 0.25,
        expansion_ratio: float = 4,
        mlp_ratio: int = 4,
        mlp_dropout: float = 0.0,
        attention_dropout: float = 0.0,
        num_classes: int = 1000,
    ) -> None:
        super().__init__()
        if len(block_channels) != len(block_layers):
            raise InvalidArgumentError(
                f"each stage takes channels and layers, got block_channels={block_channels!r}, "
                f"block_layers={block_layers!r}"
            )
        self.input_size = tuple(input_size)
        _check_divides(self.input_size, len(block_channels), partition_size)
        norm = _BatchNorm if norm_layer is None else norm_layer
        self.stem = nn.Sequential(
            Conv2dNormActivation(
                3, stem_channels, 3, 2, norm_layer=norm, activation_layer=activation_layer, inplace=None, bias=False
            ),
            Conv2dNormActivation(stem_channels, stem_channels, 3, norm_layer=None, activation_layer=None),
        )
        dropped = iter(torch.linspace(0, stochastic_depth_prob, sum(block_layers), device="cpu").tolist())
        layer = functools.partial(
            MaxVitLayer,
            expansion_ratio=expansion_ratio,
            squeeze_ratio=squeeze_ratio,
            norm_layer=norm,
            activation_layer=activation_layer,
            head_dim=head_dim,
            mlp_ratio=mlp_ratio,
            mlp_dropout=mlp_dropout,
            attention_dropout=attention_dropout,
            partition_size=partition_size,
        )
        channels = stem_channels
        self.blocks = nn.Sequential()
        for out_channels, number in zip(block_channels, block_layers, strict=True):
            layers = []
            for i in range(number):
                layers.append(layer(channels, out_channels, stride=1 if i else 2, p_stochastic_dropout=next(dropped)))
                channels = out_channels
            self.blocks.append(MaxVitBlock(layers))
        self.classifier = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.LayerNorm(channels),
            nn.Linear(channels, channels),
            nn.Tanh(),
            nn.Linear(channels, num_classes, bias=False),
        )
        self._init_weights()

    def _init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images.

        Args:
            x: float (N, 3, *input_size), normalised as the weights' transforms do.

        Returns:
            float (N, num_classes).

        Raises:
            InvalidArgumentError: images of another size.
        """
        if x.ndim != 4 or x.shape[2:] != self.input_size:
            height, width = self.input_size
            raise InvalidArgumentError(f"images of shape {tuple(x.shape)}: the model takes (N, 3, {height}, {width})")
        logits: Tensor = self.classifier(self.blocks(self.stem(x)))
        return logits


def _check_divides(input_size: Sequence[int], stages: int, partition_size: int) -> None:
    sizes = [math.ceil(s / 2) for s in input_size]
    for stage in range(stages):
        sizes = [math.ceil(s / 2) for s in sizes]
        if any(s % partition_size for s in sizes):
            raise InvalidArgumentError(
                f"input_size={tuple(input_size)} gives stage {stage} a map of {sizes[0]}x{sizes[1]}, which does not "
                f"divide into windows of partition_size={partition_size}"
            )


@register_model(weights=MaxVit_T_Weights, fixed={"input_size": lambda meta: tuple(meta["min_size"])})
def maxvit_t(
    *,
    input_size: tuple[int, int] = (224, 224),
    stochastic_depth_prob: float = 0.2,
    **kwargs: Any,
) -> MaxVit:
    """Build MaxViT-T (30.9 M parameters).

    Args:
        input_size: height and width of the images in pixels, multiples of 224; weights fix them.
        stochastic_depth_prob: probability with which the last layer's branches are dropped in training.
        **kwargs: options of `MaxVit`: `num_classes`, `norm_layer`, `activation_layer`, `squeeze_ratio`,
            `expansion_ratio`, `mlp_ratio`, `mlp_dropout` and `attention_dropout`.
    """
    return MaxVit(
        input_size,
        stem_channels=64,
        partition_size=7,
        block_channels=(64, 128, 256, 512),
        block_layers=(2, 2, 5, 2),
        head_dim=32,
        stochastic_depth_prob=stochastic_depth_prob,
        **kwargs,
    )
