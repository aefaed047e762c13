"""Multiscale Vision Transformers over clips.

Sources: Fan et al., "Multiscale Vision Transformers", ICCV 2021, arXiv:2104.11227; Li et al., "MViTv2: Improved
Multiscale Vision Transformers for Classification and Detection", CVPR 2022, arXiv:2112.01526.

A clip is a sequence of tokens: one for the class, then those of the map in the order of time, height and width.

In shapes, N is the number of clips, C the number of channels, T, H and W are the frames, height and width of a clip or
a map, with a prime for those after a layer that shrinks it, L is the number of tokens, and Q and K are the numbers of
tokens but the class's among queries and keys.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoofleet.errors import InvalidArgumentError
from zoofleet.models._layers import MLP, Layer, StochasticDepth
from zoofleet.models._registry import register_model
from zoofleet.models._weight_sets import MViT_V1_B_Weights, MViT_V2_S_Weights

__all__ = ["MSBlockConfig", "MViT", "MViT_V1_B_Weights", "MViT_V2_S_Weights", "mvit_v1_b", "mvit_v2_s"]

Size = tuple[int, int, int]
"""In time, height and width."""

_LayerNorm = functools.partial(nn.LayerNorm, eps=1e-6)


@dataclass(frozen=True)
class MSBlockConfig:
    """One block.

    Attributes:
        num_heads: number of attention heads.
        input_channels: length of a token before the block.
        output_channels: length of a token after it.
        kernel_q: kernel size of the convolution that pools queries; all 1, with a stride of 1, for no pooling.
        kernel_kv: kernel size of those that pool keys and values.
        stride_q: stride of the convolution that pools queries, by which the block shrinks the map.
        stride_kv: stride of those that pool keys and values.
    """

    num_heads: int
    input_channels: int
    output_channels: int
    kernel_q: Size
    kernel_kv: Size
    stride_q: Size
    stride_kv: Size


def _shrunk(size: Size, stride: Size) -> Size:
    return size[0] // stride[0], size[1] // stride[1], size[2] // stride[2]


class Pool(nn.Module):
    """Pool the tokens of a map and leave the class token as it is.

    Args:
        pool: (N, C, T, H, W) to (N, C, T', H', W').
        norm: over all tokens, after the pooling; None for none.
    """

    def __init__(self, pool: nn.Module, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.pool = pool
        self.norm_act = nn.Sequential() if norm is None else nn.Sequential(norm)

    def forward(self, x: Tensor, size: Size) -> tuple[Tensor, Size]:
        """(N, heads, 1 + T * H * W, C) and its (T, H, W) to (N, heads, 1 + T' * H' * W', C) and (T', H', W')."""
        n, heads, _, channels = x.shape
        maps = x[:, :, 1:].mT.reshape(n * heads, channels, *size)  # (N * heads, C, T, H, W)
        maps = self.pool(maps)
        pooled = maps.reshape(n, heads, channels, -1).mT  # (N, heads, T' * H' * W', C)
        time, height, width = maps.shape[2:]
        return self.norm_act(torch.cat([x[:, :, :1], pooled], dim=2)), (time, height, width)


def _conv_pool(channels: int, kernel: Size, stride: Size, norm_layer: Layer) -> Pool | None:
    """Pooling by a convolution of each channel; None where it would change nothing."""
    if math.prod(kernel) == 1 and math.prod(stride) == 1:
        return None
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    conv = nn.Conv3d(channels, channels, kernel, stride=stride, padding=padding, groups=channels, bias=False)
    return Pool(conv, norm_layer(channels))


def _at_distances(table: Tensor, queries: int, keys: int) -> Tensor:
    """The entries of a table of relative positions, for each query and key on one axis.

    Args:
        table: (distances, C); resampled if it was made for a map of another size.
        queries: on this axis.
        keys: on this axis; where they differ in number, both are spread over the same length.

    Returns:
        (queries, keys, C)
    """
    distances = 2 * max(queries, keys) - 1
    if len(table) != distances:
        table = F.interpolate(table.mT[None], size=distances, mode="linear")[0].mT  # (distances, C)
    q_step, k_step = max(keys / queries, 1.0), max(queries / keys, 1.0)
    q = torch.arange(queries, device=table.device)[:, None] * q_step
    k = torch.arange(keys, device=table.device) * k_step
    return table[(q - k + (keys - 1) * k_step).long()]


class MultiscaleAttention(nn.Module):
    """Self-attention whose queries, keys and values are pooled first.

    Args:
        input_size: size of the map for which relative positions are made.
        embed_dim: length of a token before it.
        output_dim: length of a token after it.
        config: heads and pooling.
        residual_pool: add the pooled queries to the result.
        residual_with_cls_embed: add that of the class token too.
        rel_pos_embed: let a query's products with learned vectors, one for each distance, bias its attention.
        dropout: probability on the output.
        norm_layer: makes a normalisation layer from its number of channels.
    """

    def __init__(
        self,
        input_size: Size,
        embed_dim: int,
        output_dim: int,
        config: MSBlockConfig,
        *,
        residual_pool: bool,
        residual_with_cls_embed: bool,
        rel_pos_embed: bool,
        dropout: float,
        norm_layer: Layer,
    ) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.residual_pool = residual_pool
        self.residual_with_cls_embed = residual_with_cls_embed
        self.rel_pos_embed = rel_pos_embed
        head_dim = output_dim // config.num_heads
        self.qkv = nn.Linear(embed_dim, 3 * output_dim)
        self.project = nn.Sequential(nn.Linear(output_dim, output_dim), nn.Dropout(dropout))
        self.pool_q = _conv_pool(head_dim, config.kernel_q, config.stride_q, norm_layer)
        self.pool_k = _conv_pool(head_dim, config.kernel_kv, config.stride_kv, norm_layer)
        self.pool_v = _conv_pool(head_dim, config.kernel_kv, config.stride_kv, norm_layer)
        if rel_pos_embed:
            sizes = zip(_shrunk(input_size, config.stride_q), _shrunk(input_size, config.stride_kv), strict=True)
            time, height, width = (2 * max(q, k) - 1 for q, k in sizes)
            self.rel_pos_h = nn.Parameter(nn.init.trunc_normal_(torch.empty(height, head_dim), std=0.02))
            self.rel_pos_w = nn.Parameter(nn.init.trunc_normal_(torch.empty(width, head_dim), std=0.02))
            self.rel_pos_t = nn.Parameter(nn.init.trunc_normal_(torch.empty(time, head_dim), std=0.02))

    def _position_bias(self, q: Tensor, q_size: Size, k_size: Size) -> Tensor:
        """(N, heads, 1 + Q, C) to (N, heads, 1 + Q, 1 + K); 0 for the class token."""
        maps = q[:, :, 1:].reshape(*q.shape[:2], *q_size, q.shape[3])  # (N, heads, T, H, W, C)
        time, height, width = (
            _at_distances(table, queries, keys)
            for table, queries, keys in zip(
                (self.rel_pos_t, self.rel_pos_h, self.rel_pos_w), q_size, k_size, strict=True
            )
        )
        bias = (
            torch.einsum("nythwc,tkc->nythwk", maps, time)[..., :, None, None]
            + torch.einsum("nythwc,hkc->nythwk", maps, height)[..., None, :, None]
            + torch.einsum("nythwc,wkc->nythwk", maps, width)[..., None, None, :]
        )  # (N, heads, T, H, W, T', H', W')
        return F.pad(bias.reshape(*q.shape[:2], math.prod(q_size), math.prod(k_size)), (1, 0, 1, 0))

    def forward(self, x: Tensor, size: Size) -> tuple[Tensor, Size]:
        """(N, 1 + T * H * W, embed_dim) and its (T, H, W) to (N, 1 + T' * H' * W', output_dim) and (T', H', W')."""
        qkv = self.qkv(x).reshape(*x.shape[:2], 3, self.num_heads, -1)  # (N, L, 3, heads, head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (N, heads, L, head_dim)
        q_size = k_size = size
        if self.pool_q is not None:
            q, q_size = self.pool_q(q, size)
        if self.pool_k is not None and self.pool_v is not None:
            k, k_size = self.pool_k(k, size)
            v, _ = self.pool_v(v, size)
        bias = self._position_bias(q, q_size, k_size) if self.rel_pos_embed else None
        y = F.scaled_dot_product_attention(q, k, v, bias)  # (N, heads, 1 + Q, head_dim)
        if self.residual_pool and self.residual_with_cls_embed:
            y = y + q
        elif self.residual_pool:
            y = torch.cat([y[:, :, :1], y[:, :, 1:] + q[:, :, 1:]], dim=2)
        return self.project(y.transpose(1, 2).flatten(2)), q_size


class MultiscaleBlock(nn.Module):
    """Pooled attention and an MLP, each normalised before and with a shortcut.

    Args:
        input_size: size of the map for which relative positions are made.
        config: channels, heads and pooling.
        residual_pool: add the pooled queries to the attention's result.
        residual_with_cls_embed: add that of the class token too.
        rel_pos_embed: let a query's products with learned vectors, one for each distance, bias its attention.
        proj_after_attn: change the number of channels in the attention rather than in the MLP.
        dropout: probability after the attention and after each layer of the MLP.
        stochastic_depth_prob: probability with which either branch is dropped.
        norm_layer: makes a normalisation layer from its number of channels.
    """

    def __init__(
        self,
        input_size: Size,
        config: MSBlockConfig,
        *,
        residual_pool: bool,
        residual_with_cls_embed: bool,
        rel_pos_embed: bool,
        proj_after_attn: bool,
        dropout: float = 0.0,
        stochastic_depth_prob: float = 0.0,
        norm_layer: Layer = _LayerNorm,
    ) -> None:
        super().__init__()
        before, after = config.input_channels, config.output_channels
        attn_dim = after if proj_after_attn else before
        self.proj_after_attn = proj_after_attn
        self.norm1 = norm_layer(before)
        self.norm2 = norm_layer(attn_dim)
        self.attn = MultiscaleAttention(
            input_size,
            before,
            attn_dim,
            config,
            residual_pool=residual_pool,
            residual_with_cls_embed=residual_with_cls_embed,
            rel_pos_embed=rel_pos_embed,
            dropout=dropout,
            norm_layer=norm_layer,
        )
        self.mlp = MLP(attn_dim, [4 * attn_dim, after], activation_layer=nn.GELU, dropout=dropout)
        self.stochastic_depth = StochasticDepth(stochastic_depth_prob)
        self.pool_skip: Pool | None = None
        if math.prod(config.stride_q) > 1:
            kernel = [s + 1 if s > 1 else 1 for s in config.stride_q]
            self.pool_skip = Pool(nn.MaxPool3d(kernel, config.stride_q, padding=[k // 2 for k in kernel]))  # type: ignore[arg-type]
        self.project = nn.Linear(before, after) if before != after else None

    def forward(self, x: Tensor, size: Size) -> tuple[Tensor, Size]:
        """(N, 1 + T * H * W, C) and its (T, H, W) to (N, 1 + T' * H' * W', C') and (T', H', W')."""
        y = self.norm1(x)
        attended, new_size = self.attn(y, size)
        skip = self.project(y) if self.project is not None and self.proj_after_attn else x
        if self.pool_skip is not None:
            skip = self.pool_skip(skip[:, None], size)[0][:, 0]
        x = skip + self.stochastic_depth(attended)

        y = self.norm2(x)
        skip = self.project(y) if self.project is not None and not self.proj_after_attn else x
        return skip + self.stochastic_depth(self.mlp(y)), new_size


class PositionalEncoding(nn.Module):
    """Put the class token before a map's tokens and, where wanted, add what is learned for each place and time.

    Args:
        embed_size: length of a token.
        spatial_size: height and width of the map.
        temporal_size: its length.
        rel_pos_embed: add nothing, since the attention knows positions.
    """

    def __init__(self, embed_size: int, spatial_size: tuple[int, int], temporal_size: int, rel_pos_embed: bool) -> None:
        super().__init__()
        self.class_token = nn.Parameter(torch.zeros(embed_size))
        self.rel_pos_embed = rel_pos_embed
        if not rel_pos_embed:
            self.spatial_pos = nn.Parameter(torch.zeros(spatial_size[0] * spatial_size[1], embed_size))
            self.temporal_pos = nn.Parameter(torch.zeros(temporal_size, embed_size))
            self.class_pos = nn.Parameter(torch.zeros(embed_size))

    def forward(self, x: Tensor) -> Tensor:
        """(N, T * H * W, embed_size) to (N, 1 + T * H * W, embed_size)."""
        x = torch.cat([self.class_token.expand(x.shape[0], 1, -1), x], dim=1)  # (N, 1 + T * H * W, embed_size)
        if self.rel_pos_embed:
            return x
        places = (self.temporal_pos[:, None] + self.spatial_pos).flatten(0, 1)  # (T * H * W, embed_size)
        return x + torch.cat([self.class_pos[None], places])


class MViT(nn.Module):
    """Overlapping patches, blocks of pooled attention, and a linear classifier over what the class token became.

    Args:
        spatial_size: height and width of the input in pixels.
        temporal_size: its length in frames.
        block_setting: the blocks in order.
        residual_pool: add the pooled queries to each attention's result.
        residual_with_cls_embed: also that of the class token.
        rel_pos_embed: relative positions in each attention rather than absolute ones before the first block; they are
            resampled for clips of another size.
        proj_after_attn: change the number of channels in the attention rather than in the MLP.
        dropout: probability before the classifier.
        attention_dropout: probability after each attention and after each layer of the MLPs.
        stochastic_depth_prob: that of the last block; it grows evenly from 0 at the first.
        num_classes: length of the output.
        norm_layer: over the last axis, made with the number of channels.
        patch_embed_kernel: kernel size of the convolution that makes tokens of patches.
        patch_embed_stride: stride of that convolution.
        patch_embed_padding: padding of that convolution.

    Raises:
        InvalidArgumentError: no blocks, or a size that `patch_embed_stride` does not divide.
    """

    def __init__(
        self,
        spatial_size: tuple[int, int],
        temporal_size: int,
        block_setting: Sequence[MSBlockConfig],
        *,
        residual_pool: bool,
        residual_with_cls_embed: bool,
        rel_pos_embed: bool,
        proj_after_attn: bool,
        dropout: float = 0.5,
        attention_dropout: float = 0.0,
        stochastic_depth_prob: float = 0.0,
        num_classes: int = 400,
        norm_layer: Layer = _LayerNorm,
        patch_embed_kernel: Size = (3, 7, 7),
        patch_embed_stride: Size = (2, 4, 4),
        patch_embed_padding: Size = (1, 3, 3),
    ) -> None:
        super().__init__()
        if not block_setting:
            raise InvalidArgumentError("MViT takes at least one block, got none")
        self.input_size = (temporal_size, *spatial_size)
        if any(s < 1 or s % by for s, by in zip(self.input_size, patch_embed_stride, strict=True)):
            raise InvalidArgumentError(
                f"clips must be multiples of {patch_embed_stride} in time, height and width, got {self.input_size}"
            )
        self.rel_pos_embed = rel_pos_embed
        channels = block_setting[0].input_channels
        self.conv_proj = nn.Conv3d(3, channels, patch_embed_kernel, patch_embed_stride, patch_embed_padding)
        size = _shrunk(self.input_size, patch_embed_stride)
        self.pos_encoding = PositionalEncoding(channels, size[1:], size[0], rel_pos_embed)
        self.blocks = nn.ModuleList()
        for i, config in enumerate(block_setting):
            self.blocks.append(
                MultiscaleBlock(
                    size,
                    config,
                    residual_pool=residual_pool,
                    residual_with_cls_embed=residual_with_cls_embed,
                    rel_pos_embed=rel_pos_embed,
                    proj_after_attn=proj_after_attn,
                    dropout=attention_dropout,
                    stochastic_depth_prob=stochastic_depth_prob * i / max(len(block_setting) - 1, 1),
                    norm_layer=norm_layer,
                )
            )
            size = _shrunk(size, config.stride_q)
        channels = block_setting[-1].output_channels
        self.norm = norm_layer(channels)
        self.head = nn.Sequential(nn.Dropout(dropout, inplace=True), nn.Linear(channels, num_classes))
        self._init_weights()

    def _init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            elif isinstance(module, PositionalEncoding):
                for parameter in module.parameters():
                    nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Classify clips.

        Args:
            x: (N, 3, T, H, W) float, normalised as the weights' transforms do; with absolute positions of the size
                that the model is built for.

        Returns:
            Logits (N, num_classes).

        Raises:
            InvalidArgumentError: the input is of another shape.
        """
        if x.ndim != 5 or x.shape[1] != 3 or (x.shape[2:] != self.input_size and not self.rel_pos_embed):
            sizes = ["T", "H", "W"] if self.rel_pos_embed else [str(s) for s in self.input_size]
            raise InvalidArgumentError(f"clips of shape {tuple(x.shape)}: the model takes (N, 3, {', '.join(sizes)})")
        x = self.conv_proj(x)  # (N, C, T', H', W')
        size = x.shape[2:]
        x = self.pos_encoding(x.flatten(2).mT)  # (N, 1 + T' * H' * W', C)
        for block in self.blocks:
            x, size = block(x, size)
        logits: Tensor = self.head(self.norm(x)[:, 0])
        return logits


def _mvit(
    *,
    rel_pos_embed: bool,
    proj_after_attn: bool,
    kernel_q: Size,
    **kwargs: Any,
) -> MViT:
    return MViT(
        block_setting=_block_setting(proj_after_attn, kernel_q),
        rel_pos_embed=rel_pos_embed,
        proj_after_attn=proj_after_attn,
        **kwargs,
    )


def _block_setting(proj_after_attn: bool, kernel_q: Size) -> list[MSBlockConfig]:
    """Sixteen blocks, of which the second, fourth and fifteenth halve height and width.

    Args:
        proj_after_attn: whether the block in which the number of channels grows is the one that halves the map, or the
            one before it.
        kernel_q: kernel size of the pooling of queries in the blocks that keep the map's size.
    """
    widths = [96] + [192] * 2 + [384] * 11 + [768] * 2  # of the attention
    channels = [96, *widths] if proj_after_attn else [*widths, 768]
    strides_kv = [8] + [4] * 2 + [2] * 11 + [1] * 2
    return [
        MSBlockConfig(
            num_heads=width // 96,
            input_channels=channels[i],
            output_channels=channels[i + 1],
            kernel_q=(3, 3, 3) if i in (1, 3, 14) else kernel_q,
            kernel_kv=(3, 3, 3),
            stride_q=(1, 2, 2) if i in (1, 3, 14) else (1, 1, 1),
            stride_kv=(1, stride_kv, stride_kv),
        )
        for i, (width, stride_kv) in enumerate(zip(widths, strides_kv, strict=True))
    ]


_TRAINED_SIZE: Final = {
    "spatial_size": lambda meta: tuple(meta["min_size"]),
    "temporal_size": lambda meta: meta["min_temporal_size"],
}
"""Position embeddings are of the size that weights were trained with."""


@register_model(weights=MViT_V1_B_Weights, fixed=_TRAINED_SIZE)
def mvit_v1_b(
    *,
    spatial_size: tuple[int, int] = (224, 224),
    temporal_size: int = 16,
    stochastic_depth_prob: float = 0.2,
    **kwargs: Any,
) -> MViT:
    """Build MViT-B of the first version (36.6 M parameters).

    Args:
        spatial_size: height and width of the clips in pixels; weights fix them.
        temporal_size: length of the clips in frames; weights fix it.
        stochastic_depth_prob: probability with which the last block's branches are dropped in training.
        **kwargs: options of `MViT`: `num_classes`, `dropout`, `attention_dropout`, `norm_layer`, `patch_embed_kernel`,
            `patch_embed_stride` and `patch_embed_padding`.
    """
    return _mvit(
        residual_pool=False,
        residual_with_cls_embed=True,
        rel_pos_embed=False,
        proj_after_attn=False,
        kernel_q=(1, 1, 1),
        spatial_size=spatial_size,
        temporal_size=temporal_size,
        stochastic_depth_prob=stochastic_depth_prob,
        **kwargs,
    )


@register_model(weights=MViT_V2_S_Weights, fixed=_TRAINED_SIZE)
def mvit_v2_s(
    *,
    spatial_size: tuple[int, int] = (224, 224),
    temporal_size: int = 16,
    stochastic_depth_prob: float = 0.2,
    **kwargs: Any,
) -> MViT:
    """Build MViT-S of the second version (34.5 M parameters).

    Args:
        spatial_size: height and width of the clips in pixels; weights fix them.
        temporal_size: length of the clips in frames; weights fix it.
        stochastic_depth_prob: probability with which the last block's branches are dropped in training.
        **kwargs: options of `MViT`: `num_classes`, `dropout`, `attention_dropout`, `norm_layer`, `patch_embed_kernel`,
            `patch_embed_stride` and `patch_embed_padding`.
    """
    return _mvit(
        residual_pool=True,
        residual_with_cls_embed=False,
        rel_pos_embed=True,
        proj_after_attn=True,
        kernel_q=(3, 3, 3),
        spatial_size=spatial_size,
        temporal_size=temporal_size,
        stochastic_depth_prob=stochastic_depth_prob,
        **kwargs,
    )
