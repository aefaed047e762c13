"""Video Swin Transformer.

Source: Liu et al., "Video Swin Transformer", CVPR 2022, arXiv:2106.13230. Windows, blocks and stages are those of
`zoofleet.models.swin_transformer` with time as a third axis.

In shapes, N is the number of clips, C the number of channels, T, H and W are the frames, height and width of a clip or
a map, with a prime for those of an output, and L is the number of tokens in a window.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from zoofleet.errors import InvalidArgumentError
from zoofleet.models._layers import Layer
from zoofleet.models._registry import register_model
from zoofleet.models._weight_sets import Swin3D_B_Weights, Swin3D_S_Weights, Swin3D_T_Weights
from zoofleet.models.swin_transformer import (
    PatchMerging,
    ShiftedWindowAttention,
    SwinTransformerBlock,
    init_linear,
    relative_position_index,
    swin_stages,
)

__all__ = [
    "PatchEmbed3d",
    "ShiftedWindowAttention3d",
    "Swin3D_B_Weights",
    "Swin3D_S_Weights",
    "Swin3D_T_Weights",
    "SwinTransformer3d",
    "swin3d_b",
    "swin3d_s",
    "swin3d_t",
]


class ShiftedWindowAttention3d(ShiftedWindowAttention):
    """Attention within windows over time, height and width, which shrink to maps smaller than they are."""

    def _define_positions(self) -> None:
        super()._define_positions()
        self.relative_position_index = relative_position_index(self.window_size)  # (L, L)

    def _window(self, size: Sequence[int]) -> tuple[int, ...]:
        return tuple(min(s, w) for s, w in zip(size, self.window_size, strict=True))


class SwinTransformerBlock3d(SwinTransformerBlock):
    """Window attention over time, height and width, and an MLP: (N, T, H, W, dim) to the same shape."""

    _attention = ShiftedWindowAttention3d


class PatchEmbed3d(nn.Module):
    """Project patches to tokens: (N, in_channels, T, H, W) to (N, T', H', W', embed_dim).

    Args:
        patch_size: in time, height and width; the last patch of an axis is filled up with zeros.
        in_channels: channels of the input.
        embed_dim: channels of the output.
        norm_layer: makes a normalisation layer from its number of channels, `embed_dim`; None for none.
    """

    def __init__(
        self,
        patch_size: Sequence[int],
        in_channels: int = 3,
        embed_dim: int = 96,
        norm_layer: Layer | None = None,
    ) -> None:
        super().__init__()
        patch = (patch_size[0], patch_size[1], patch_size[2])
        self.patch_size = patch
        self.proj = nn.Conv3d(in_channels, embed_dim, kernel_size=patch, stride=patch)
        self.norm = nn.Identity() if norm_layer is None else norm_layer(embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, T, H, W) to (N, T', H', W', embed_dim)."""
        time, height, width = (-s % p for s, p in zip(x.shape[2:], self.patch_size, strict=True))
        x = self.proj(F.pad(x, (0, width, 0, height, 0, time)))
        out: Tensor = self.norm(x.permute(0, 2, 3, 4, 1))  # (N, T', H', W', embed_dim)
        return out


class SwinTransformer3d(nn.Module):
    """Patches over time and space, stages of window attention, and a linear classifier over the mean.

    Args:
        patch_size: size of a patch in frames, and height and width in pixels.
        embed_dim: channels of the first stage; they double from stage to stage.
        depths: number of blocks in each stage.
        num_heads: number of attention heads in each stage.
        window_size: size of a window in patches, in time, height and width.
        mlp_ratio: channels between the MLPs' layers as a multiple of a stage's.
        dropout: probability after the patches, after the attention and after each layer of the MLPs.
        attention_dropout: probability on the attention's weights.
        stochastic_depth_prob: that of the last block; it grows evenly from 0 at the first.
        num_classes: length of the output.
        norm_layer: makes a normalisation layer from its number of channels.
        block: makes a block; takes the arguments of `SwinTransformerBlock3d`.
        downsample_layer: makes the layer between two stages from the number of channels and `norm_layer`.
        patch_embed: makes the projection of patches; takes the arguments of `PatchEmbed3d`.

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
        num_classes: int = 400,
        norm_layer: Layer = nn.LayerNorm,
        block: Callable[..., nn.Module] = SwinTransformerBlock3d,
        downsample_layer: Callable[[int, Layer], nn.Module] = PatchMerging,
        patch_embed: Callable[..., nn.Module] = PatchEmbed3d,
    ) -> None:
        super().__init__()
        self.patch_embed = patch_embed(patch_size=patch_size, embed_dim=embed_dim, norm_layer=norm_layer)
        self.pos_drop = nn.Dropout(dropout)
        self.features = nn.Sequential(
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
            )
        )
        channels = embed_dim << (len(depths) - 1)
        self.norm = norm_layer(channels)
        self.head = nn.Linear(channels, num_classes)
        init_linear(self)

    def forward(self, x: Tensor) -> Tensor:
        """Classify clips.

        Args:
            x: (N, 3, T, H, W) float of any length and size, normalised as the weights' transforms do.

        Returns:
            Logits (N, num_classes).

        Raises:
            InvalidArgumentError: the input is not five-dimensional with three channels.
        """
        if x.ndim != 5 or x.shape[1] != 3:
            raise InvalidArgumentError(f"clips of shape {tuple(x.shape)}: the model takes (N, 3, T, H, W)")
        x = self.norm(self.features(self.pos_drop(self.patch_embed(x))))  # (N, T', H', W', C)
        logits: Tensor = self.head(x.mean((1, 2, 3)))
        return logits


def _swin3d(
    *,
    depths: Sequence[int],
    num_heads: Sequence[int] = (3, 6, 12, 24),
    embed_dim: int = 96,
    **kwargs: Any,
) -> SwinTransformer3d:
    return SwinTransformer3d((2, 4, 4), embed_dim, depths, num_heads, (8, 7, 7), **kwargs)


@register_model(weights=Swin3D_T_Weights)
def swin3d_t(**kwargs: Any) -> SwinTransformer3d:
    """Build Video Swin-T (28.2 M parameters).

    Args:
        **kwargs: options of `SwinTransformer3d`: `num_classes`, `mlp_ratio`, `dropout`, `attention_dropout`,
            `stochastic_depth_prob`, `norm_layer` and `patch_embed`.
    """
    return _swin3d(depths=(2, 2, 6, 2), **kwargs)


@register_model(weights=Swin3D_S_Weights)
def swin3d_s(**kwargs: Any) -> SwinTransformer3d:
    """Build Video Swin-S (49.8 M parameters).

    Args:
        **kwargs: options of `SwinTransformer3d`: `num_classes`, `mlp_ratio`, `dropout`, `attention_dropout`,
            `stochastic_depth_prob`, `norm_layer` and `patch_embed`.
    """
    return _swin3d(depths=(2, 2, 18, 2), **kwargs)


@register_model(weights=Swin3D_B_Weights)
def swin3d_b(**kwargs: Any) -> SwinTransformer3d:
    """Build Video Swin-B (88.0 M parameters).

    Args:
        **kwargs: options of `SwinTransformer3d`: `num_classes`, `mlp_ratio`, `dropout`, `attention_dropout`,
            `stochastic_depth_prob`, `norm_layer` and `patch_embed`.
    """
    return _swin3d(
        depths=(2, 2, 18, 2),
        embed_dim=128,
        num_heads=(4, 8, 16, 32),
        **kwargs,
    )
