"""Swin Transformer, both versions, over images.

Sources: Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", ICCV 2021,
arXiv:2103.14030; Liu et al., "Swin Transformer V2: Scaling Up Capacity and Resolution", CVPR 2022, arXiv:2111.09883.

Windows are written for any number of axes, so that Video Swin builds on them; feature maps have their channels last.

In shapes, N is the number of images, C the number of channels, H and W are the height and width of an image or a map,
with a prime for those of the last map, and L is the number of tokens in a window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoofleet.errors import InvalidArgumentError
from zoofleet.models._layers import MLP, Layer, Permute, StochasticDepth
from zoofleet.models._registry import register_model
from zoofleet.models._weight_sets import (
    Swin_B_Weights,
    Swin_S_Weights,
    Swin_T_Weights,
    Swin_V2_B_Weights,
    Swin_V2_S_Weights,
    Swin_V2_T_Weights,
)

__all__ = [
    "PatchMerging",
    "PatchMergingV2",
    "ShiftedWindowAttention",
    "ShiftedWindowAttentionV2",
    "SwinTransformer",
    "SwinTransformerBlock",
    "SwinTransformerBlockV2",
    "Swin_B_Weights",
    "Swin_S_Weights",
    "Swin_T_Weights",
    "Swin_V2_B_Weights",
    "Swin_V2_S_Weights",
    "Swin_V2_T_Weights",
    "swin_b",
    "swin_s",
    "swin_t",
    "swin_v2_b",
    "swin_v2_s",
    "swin_v2_t",
]

_MASKED = -100.0
"""Added to the attention between tokens that only the cyclic shift made neighbours. The value is that of the authors'
code (models/swin_transformer.py in github.com/microsoft/Swin-Transformer), with which the weights were trained."""


def relative_position_index(window_size: Sequence[int]) -> Tensor:
    """For each pair of a window's tokens, the row of their offset in a table of all (2 * w - 1) * ... offsets.

    Returns:
        int64 (L, L), with L the product of `window_size`; row and column are query and key.
    """
    coords = torch.cartesian_prod(*(torch.arange(w) for w in window_size)).reshape(-1, len(window_size))  # (L, axes)
    offsets = coords[:, None] - coords + torch.tensor(window_size) - 1  # (L, L, axes), from 0
    strides = [math.prod(2 * w - 1 for w in window_size[axis + 1 :]) for axis in range(len(window_size))]
    return (offsets * torch.tensor(strides)).sum(-1)


def split_windows(x: Tensor, window_size: Sequence[int]) -> Tensor:
    """(N, *size, C) to (N * windows, L, C), where the window's sides divide `size`."""
    shape = [n for s, w in zip(x.shape[1:-1], window_size, strict=True) for n in (s // w, w)]
    x = x.reshape(x.shape[0], *shape, x.shape[-1])  # (N, windows on axis 1, w1, windows on axis 2, w2, ..., C)
    outer, inner = range(1, x.ndim - 1, 2), range(2, x.ndim - 1, 2)
    x = x.permute(0, *outer, *inner, x.ndim - 1)  # (N, windows on each axis, *window_size, C)
    return x.reshape(-1, math.prod(window_size), x.shape[-1])  # (N * windows, L, C)


def join_windows(x: Tensor, window_size: Sequence[int], size: Sequence[int]) -> Tensor:
    """The inverse of `split_windows`: (N * windows, L, C) to (N, *size, C)."""
    axes = len(size)
    x = x.reshape(-1, *(s // w for s, w in zip(size, window_size, strict=True)), *window_size, x.shape[-1])
    pairs = [axis for i in range(1, axes + 1) for axis in (i, axes + i)]
    x = x.permute(0, *pairs, 2 * axes + 1)  # (N, windows on axis 1, w1, windows on axis 2, w2, ..., C)
    return x.reshape(x.shape[0], *size, x.shape[-1])  # (N, *size, C)


def _shift_mask(size: Sequence[int], window_size: Sequence[int], shift: Sequence[int], like: Tensor) -> Tensor:
    """What to add to the attention in each window of a map that was rolled by `shift`: (windows, L, L), like `like`."""
    regions = torch.zeros(1, *size, 1, dtype=torch.int64, device=like.device)
    for axis, (s, w, by) in enumerate(zip(size, window_size, shift, strict=True)):
        if by:
            at = torch.arange(s, device=like.device)
            region = (at >= s - w).long() + (at >= s - by)  # the last windows hold both ends of the map
            regions = regions * 3 + region.reshape(-1, *(1,) * (len(size) - axis))
    regions = split_windows(regions, window_size)  # (windows, L, 1)
    return torch.where(regions == regions.mT, 0.0, _MASKED).to(like.dtype)


class ShiftedWindowAttention(nn.Module):
    """Self-attention within windows of a map, whose borders may be shifted: (N, *size, dim) to the same shape.

    Maps are padded to whole windows. On an axis that one window covers there is no shift.

    Args:
        dim: channels.
        window_size: sides of a window.
        shift_size: by how much the windows are shifted on each axis; 0 for not.
        num_heads: divides `dim`.
        qkv_bias: whether queries, keys and values have a bias.
        proj_bias: whether the output projection has one.
        attention_dropout: probability on the attention's weights.
        dropout: probability on the output.
    """

    relative_position_bias_table: Tensor
    relative_position_index: Tensor

    def __init__(
        self,
        dim: int,
        window_size: Sequence[int],
        shift_size: Sequence[int],
        num_heads: int,
        qkv_bias: bool = True,
        proj_bias: bool = True,
        attention_dropout: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.window_size = tuple(window_size)
        self.shift_size = tuple(shift_size)
        self.num_heads = num_heads
        self.attention_dropout = attention_dropout
        self.dropout = dropout
        self.qkv = nn.Linear(dim, dim * 3, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim, bias=proj_bias)
        self._define_positions()

    def _define_positions(self) -> None:
        offsets = math.prod(2 * w - 1 for w in self.window_size)
        self.relative_position_bias_table = nn.Parameter(torch.empty(offsets, self.num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", relative_position_index(self.window_size).flatten())

    def _position_bias(self, tokens: int) -> Tensor:
        """What the first `tokens` of a window add to each other's attention: (num_heads, tokens, tokens)."""
        length = math.prod(self.window_size)
        index = self.relative_position_index.view(length, length)[:tokens, :tokens]  # (tokens, tokens)
        return self.relative_position_bias_table[index].permute(2, 0, 1)

    def _queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(windows, L, dim) to three of (windows, num_heads, L, dim / num_heads); attention is their scaled product."""
        q, k, v = self._split_heads(self.qkv(x))
        return q * q.shape[-1] ** -0.5, k, v

    def _split_heads(self, qkv: Tensor) -> Tensor:
        """(windows, L, 3 * dim) to (3, windows, num_heads, L, dim / num_heads)."""
        return qkv.reshape(*qkv.shape[:2], 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)

    def _window(self, size: Sequence[int]) -> tuple[int, ...]:
        """The sides of the windows of a map."""
        return self.window_size

    def forward(self, x: Tensor) -> Tensor:
        """(N, *size, dim) to the same shape."""
        size = x.shape[1:-1]
        window = self._window(size)
        padded = [math.ceil(s / w) * w for s, w in zip(size, window, strict=True)]
        shift = [by if s > w else 0 for s, w, by in zip(size, self.window_size, self.shift_size, strict=True)]
        axes = tuple(range(1, x.ndim - 1))
        x = F.pad(x, [0, 0, *(n for s, p in zip(size[::-1], padded[::-1], strict=True) for n in (0, p - s))])
        if any(shift):
            x = x.roll([-by for by in shift], axes)
        x = split_windows(x, window)  # (N * windows, L, dim)

        q, k, v = self._queries_keys_values(x)
        bias = self._position_bias(x.shape[1]).to(q.dtype)  # (num_heads, L, L)
        if any(shift):
            masks = bias + _shift_mask(padded, window, shift, like=bias)[:, None]  # (windows, num_heads, L, L)
            bias = masks.repeat(x.shape[0] // masks.shape[0], 1, 1, 1)  # (N * windows, num_heads, L, L)
        dropout = self.attention_dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, bias, dropout, scale=1.0)  # (N * windows, num_heads, L, C)
        y = self.proj(y.transpose(1, 2).flatten(2))  # (N * windows, L, dim)

        y = join_windows(F.dropout(y, self.dropout, self.training), window, padded)  # (N, *padded, dim)
        if any(shift):
            y = y.roll(shift, axes)
        return y[(slice(None), *(slice(s) for s in size))]


class ShiftedWindowAttentionV2(ShiftedWindowAttention):
    """The second version's: cosine attention, keys without bias, and a small network that gives an offset's bias."""

    relative_coords_table: Tensor

    def _define_positions(self) -> None:
        # Offsets on a logarithmic scale (the second paper's section 3.3), from -8 to 8 before it and from about -1 to 1
        # after it (3 is the binary logarithm of 8): those ends, and 16 below, are from the authors' code.
        axes = [torch.arange(1.0 - w, w) / (w - 1) * 8 for w in self.window_size]
        offsets = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)[None]  # (1, 2 * w1 - 1, 2 * w2 - 1, 2)
        table = offsets.sign() * torch.log2(offsets.abs() + 1.0) / 3.0
        self.register_buffer("relative_coords_table", table)
        self.register_buffer("relative_position_index", relative_position_index(self.window_size).flatten())
        self.logit_scale = nn.Parameter(torch.log(10 * torch.ones(self.num_heads, 1, 1)))
        self.cpb_mlp = nn.Sequential(
            nn.Linear(len(self.window_size), 512), nn.ReLU(inplace=True), nn.Linear(512, self.num_heads, bias=False)
        )

    def _position_bias(self, tokens: int) -> Tensor:
        table = 16 * torch.sigmoid(self.cpb_mlp(self.relative_coords_table).flatten(0, -2))  # (offsets, num_heads)
        return table[self.relative_position_index.view(tokens, tokens)].permute(2, 0, 1)

    def _queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        bias: Tensor | None = self.qkv.bias
        if bias is not None:
            query, key, value = bias.chunk(3)
            bias = torch.cat([query, torch.zeros_like(key), value])  # (3 * dim)
        q, k, v = self._split_heads(F.linear(x, self.qkv.weight, bias))
        scale = self.logit_scale.clamp(max=math.log(100)).exp()  # the paper's section 3.2: temperatures above 0.01
        return F.normalize(q, dim=-1) * scale, F.normalize(k, dim=-1), v


class SwinTransformerBlock(nn.Module):
    """Window attention and an MLP, each normalised before and with a shortcut: (N, *size, dim) to the same shape.

    Args:
        dim: channels.
        num_heads: divides `dim`.
        window_size: sides of a window.
        shift_size: by how much the windows are shifted on each axis.
        mlp_ratio: channels between the MLP's layers as a multiple of `dim`.
        dropout: probability after the attention and after each layer of the MLP.
        attention_dropout: probability on the attention's weights.
        stochastic_depth_prob: probability with which either branch is dropped.
        norm_layer: makes a normalisation layer from its number of channels.
    """

    _attention: ClassVar[type[ShiftedWindowAttention]] = ShiftedWindowAttention

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: Sequence[int],
        shift_size: Sequence[int],
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        stochastic_depth_prob: float = 0.0,
        norm_layer: Layer = nn.LayerNorm,
    ) -> None:
        super().__init__()
        self.norm1 = norm_layer(dim)
        self.attn = self._attention(
            dim, window_size, shift_size, num_heads, attention_dropout=attention_dropout, dropout=dropout
        )
        self.stochastic_depth = StochasticDepth(stochastic_depth_prob)
        self.norm2 = norm_layer(dim)
        self.mlp = MLP(dim, [int(dim * mlp_ratio), dim], activation_layer=nn.GELU, dropout=dropout)
        self.mlp.init_xavier()

    def forward(self, x: Tensor) -> Tensor:
        """(N, *size, dim) to the same shape."""
        x = x + self.stochastic_depth(self.attn(self.norm1(x)))
        out: Tensor = x + self.stochastic_depth(self.mlp(self.norm2(x)))
        return out


class SwinTransformerBlockV2(SwinTransformerBlock):
    """The second version's: cosine attention, and each branch is normalised after rather than before."""

    _attention = ShiftedWindowAttentionV2

    def forward(self, x: Tensor) -> Tensor:
        """(N, *size, dim) to the same shape."""
        x = x + self.stochastic_depth(self.norm1(self.attn(x)))
        out: Tensor = x + self.stochastic_depth(self.norm2(self.mlp(x)))
        return out


def _join_neighbours(x: Tensor) -> Tensor:
    """(..., H, W, C) to (..., ceil(H / 2), ceil(W / 2), 4 * C); odd sides are padded with zeros."""
    x = F.pad(x, (0, 0, 0, x.shape[-2] % 2, 0, x.shape[-3] % 2))
    # Of four neighbours the upper left, lower left, upper right and lower right, in this order.
    return torch.cat([x[..., row::2, column::2, :] for column in (0, 1) for row in (0, 1)], dim=-1)


class PatchMerging(nn.Module):
    """Halve height and width and double the channels: (..., H, W, dim) to (..., ceil(H / 2), ceil(W / 2), 2 * dim).

    Args:
        dim: channels of the input.
        norm_layer: makes a normalisation layer from its number of channels, `4 * dim`, before the reduction.
    """

    def __init__(self, dim: int, norm_layer: Layer = nn.LayerNorm) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = norm_layer(4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., H, W, dim) to (..., ceil(H / 2), ceil(W / 2), 2 * dim)."""
        out: Tensor = self.reduction(self.norm(_join_neighbours(x)))
        return out


class PatchMergingV2(nn.Module):
    """The second version's, which normalises after the reduction.

    Args:
        dim: channels of the input.
        norm_layer: makes a normalisation layer from its number of channels, `2 * dim`.
    """

    def __init__(self, dim: int, norm_layer: Layer = nn.LayerNorm) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = norm_layer(2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., H, W, dim) to (..., ceil(H / 2), ceil(W / 2), 2 * dim)."""
        out: Tensor = self.norm(self.reduction(_join_neighbours(x)))
        return out


def swin_stages(
    *,
    embed_dim: int,
    depths: Sequence[int],
    num_heads: Sequence[int],
    window_size: Sequence[int],
    stochastic_depth_prob: float,
    norm_layer: Layer,
    block: Callable[..., nn.Module],
    downsample_layer: Callable[[int, Layer], nn.Module],
    **options: Any,
) -> list[nn.Module]:
    """Stages of blocks with a downsampling layer between each two.

    In each stage every second block has shifted windows; stochastic depth grows evenly from 0 at the first block.

    Args:
        embed_dim: channels of the first stage; they double from stage to stage.
        depths: number of blocks in each stage.
        num_heads: number of attention heads in each stage.
        window_size: sides of a window.
        stochastic_depth_prob: that of the last block.
        norm_layer: makes a normalisation layer from its number of channels.
        block: makes a block; takes the arguments of `SwinTransformerBlock`.
        downsample_layer: makes the layer between two stages from the number of channels and `norm_layer`.
        **options: passed to each block.

    Raises:
        InvalidArgumentError: there are not as many depths as heads.
    """
    if len(depths) != len(num_heads) or not depths:
        raise InvalidArgumentError(
            f"each stage takes a depth and heads, got depths={depths!r}, num_heads={num_heads!r}"
        )
    layers: list[nn.Module] = []
    done, last = 0, max(sum(depths) - 1, 1)
    for stage, (depth, heads) in enumerate(zip(depths, num_heads, strict=True)):
        dim = embed_dim << stage
        if stage:
            layers.append(downsample_layer(dim // 2, norm_layer))
        blocks = [
            block(
                dim,
                heads,
                window_size=window_size,
                shift_size=[w // 2 if i % 2 else 0 for w in window_size],
                stochastic_depth_prob=stochastic_depth_prob * (done + i) / last,
                norm_layer=norm_layer,
                **options,
            )
            for i in range(depth)
        ]
        layers.append(nn.Sequential(*blocks))
        done += depth
    return layers


def init_linear(model: nn.Module) -> None:
    """Start all linear layers with small weights and no bias."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class SwinTransformer(nn.Module):
    """Patches, stages of window attention, and a linear classifier over the mean.

    Args:
        patch_size: height and width of a patch in pixels.
        embed_dim: channels of the first stage; they double from stage to stage.
        depths: number of blocks in each stage.
        num_heads: number of attention heads in each stage.
        window_size: height and width of a window in patches.
        mlp_ratio: channels between the MLPs' layers as a multiple of a stage's.
        dropout: probability after the attention and after each layer of the MLPs.
        attention_dropout: probability on the attention's weights.
        stochastic_depth_prob: that of the last block; it grows evenly from 0 at the first.
        num_classes: length of the output.
        norm_layer: makes a normalisation layer from its number of channels; None for layer norm.
        block: makes a block; takes the arguments of `SwinTransformerBlock`, which is what None means.
        downsample_layer: makes the layer between two stages from the number of channels and `norm_layer`.

    Raises:
        InvalidArgumentError: not as many depths as heads.
    """

    def __init__(
        self,
        patch_size: Sequence[int],
        embed_dim: int,
        depths: Sequence[int],
        num_heads: Sequence[int],
        window_size: Sequence[int],
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        stochastic_depth_prob: float = 0.1,
        num_classes: int = 1000,
        norm_layer: Layer | None = None,
        block: Callable[..., nn.Module] | None = None,
        downsample_layer: Callable[[int, Layer], nn.Module] = PatchMerging,
    ) -> None:
        super().__init__()
        norm_layer = nn.LayerNorm if norm_layer is None else norm_layer
        block = SwinTransformerBlock if block is None else block
        patch = (patch_size[0], patch_size[1])
        self.features = nn.Sequential(
            nn.Sequential(
                nn.Conv2d(3, embed_dim, kernel_size=patch, stride=patch), Permute([0, 2, 3, 1]), norm_layer(embed_dim)
            ),
            *swin_stages(
                embed_dim=embed_dim,
                depths=depths,
                num_heads=num_heads,
                window_size=window_size,
                stochastic_depth_prob=stochastic_depth_prob,
                norm_layer=norm_layer,
                block=block,
                downsample_layer=downsample_layer,
                mlp_ratio=mlp_ratio,
                dropout=dropout,
                attention_dropout=attention_dropout,
            ),
        )
        channels = embed_dim << (len(depths) - 1)
        self.norm = norm_layer(channels)
        self.head = nn.Linear(channels, num_classes)
        init_linear(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images.

        Args:
            x: float (N, 3, H, W) of any size from one patch, normalised as the weights' transforms do.

        Returns:
            float (N, num_classes).
        """
        x = self.norm(self.features(x))  # (N, H', W', C)
        logits: Tensor = self.head(x.mean((1, 2)))
        return logits


def _swin(
    *,
    depths: Sequence[int],
    num_heads: Sequence[int],
    embed_dim: int = 96,
    window_size: Sequence[int] = (7, 7),
    **kwargs: Any,
) -> SwinTransformer:
    return SwinTransformer((4, 4), embed_dim, depths, num_heads, window_size, **kwargs)


def _swin_v2(**kwargs: Any) -> SwinTransformer:
    return _swin(window_size=(8, 8), block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2, **kwargs)


@register_model(weights=Swin_T_Weights)
def swin_t(
    *,
    stochastic_depth_prob: float = 0.2,
    **kwargs: Any,
) -> SwinTransformer:
    """Build Swin-T (28.3 M parameters).

    Args:
        stochastic_depth_prob: probability with which the last block's branches are dropped in training.
        **kwargs: options of `SwinTransformer`: `num_classes`, `mlp_ratio`, `dropout`, `attention_dropout` and
            `norm_layer`.
    """
    return _swin(
        depths=(2, 2, 6, 2),
        num_heads=(3, 6, 12, 24),
        stochastic_depth_prob=stochastic_depth_prob,
        **kwargs,
    )


@register_model(weights=Swin_S_Weights)
def swin_s(
    *,
    stochastic_depth_prob: float = 0.3,
    **kwargs: Any,
) -> SwinTransformer:
    """Build Swin-S (49.6 M parameters).

    Args:
        stochastic_depth_prob: probability with which the last block's branches are dropped in training.
        **kwargs: options of `SwinTransformer`: `num_classes`, `mlp_ratio`, `dropout`, `attention_dropout` and
            `norm_layer`.
    """
    return _swin(
        depths=(2, 2, 18, 2),
        num_heads=(3, 6, 12, 24),
        stochastic_depth_prob=stochastic_depth_prob,
        **kwargs,
    )


@register_model(weights=Swin_B_Weights)
def swin_b(
    *,
    stochastic_depth_prob: float = 0.5,
    **kwargs: Any,
) -> SwinTransformer:
    """Build Swin-B (87.8 M parameters).

    Args:
        stochastic_depth_prob: probability with which the last block's branches are dropped in training.
        **kwargs: options of `SwinTransformer`: `num_classes`, `mlp_ratio`, `dropout`, `attention_dropout` and
            `norm_layer`.
    """
    return _swin(
        embed_dim=128,
        depths=(2, 2, 18, 2),
        num_heads=(4, 8, 16, 32),
        stochastic_depth_prob=stochastic_depth_prob,
        **kwargs,
    )


@register_model(weights=Swin_V2_T_Weights)
def swin_v2_t(
    *,
    stochastic_depth_prob: float = 0.2,
    **kwargs: Any,
) -> SwinTransformer:
    """Build Swin-T of the second version (28.4 M parameters).

    Args:
        stochastic_depth_prob: probability with which the last block's branches are dropped in training.
        **kwargs: options of `SwinTransformer`: `num_classes`, `mlp_ratio`, `dropout`, `attention_dropout` and
            `norm_layer`.
    """
    return _swin_v2(
        depths=(2, 2, 6, 2),
        num_heads=(3, 6, 12, 24),
        stochastic_depth_prob=stochastic_depth_prob,
        **kwargs,
    )


@register_model(weights=Swin_V2_S_Weights)
def swin_v2_s(
    *,
    stochastic_depth_prob: float = 0.3,
    **kwargs: Any,
) -> SwinTransformer:
    """Build Swin-S of the second version (49.7 M parameters).

    Args:
        stochastic_depth_prob: probability with which the last block's branches are dropped in training.
        **kwargs: options of `SwinTransformer`: `num_classes`, `mlp_ratio`, `dropout`, `attention_dropout` and
            `norm_layer`.
    """
    return _swin_v2(
        depths=(2, 2, 18, 2),
        num_heads=(3, 6, 12, 24),
        stochastic_depth_prob=stochastic_depth_prob,
        **kwargs,
    )


@register_model(weights=Swin_V2_B_Weights)
def swin_v2_b(
    *,
    stochastic_depth_prob: float = 0.5,
    **kwargs: Any,
) -> SwinTransformer:
    """Build Swin-B of the second version (87.9 M parameters).

    Args:
        stochastic_depth_prob: probability with which the last block's branches are dropped in training.
        **kwargs: options of `SwinTransformer`: `num_classes`, `mlp_ratio`, `dropout`, `attention_dropout` and
            `norm_layer`.
    """
    return _swin_v2(
        embed_dim=128,
        depths=(2, 2, 18, 2),
        num_heads=(4, 8, 16, 32),
        stochastic_depth_prob=stochastic_depth_prob,
        **kwargs,
    )
