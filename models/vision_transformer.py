"""Vision Transformer.

Source: Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale", ICLR 2021,
arXiv:2010.11929. The convolutional stem that can take the place of the patches follows Xiao et al., arXiv:2106.14881.

In shapes, N is the number of images, and L the number of tokens: one for the class, and one for each patch.
"""

from __future__ import annotations

import functools
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from zoofleet.errors import InvalidArgumentError
from zoofleet.models._layers import MLP, Conv2dNormActivation, Layer
from zoofleet.models._registry import register_model
from zoofleet.models._weight_sets import (
    ViT_B_16_Weights,
    ViT_B_32_Weights,
    ViT_H_14_Weights,
    ViT_L_16_Weights,
    ViT_L_32_Weights,
)

__all__ = [
    "ConvStemConfig",
    "Encoder",
    "EncoderBlock",
    "ViT_B_16_Weights",
    "ViT_B_32_Weights",
    "ViT_H_14_Weights",
    "ViT_L_16_Weights",
    "ViT_L_32_Weights",
    "VisionTransformer",
    "interpolate_embeddings",
    "vit_b_16",
    "vit_b_32",
    "vit_h_14",
    "vit_l_16",
    "vit_l_32",
]

_LayerNorm = functools.partial(nn.LayerNorm, eps=1e-6)


class EncoderBlock(nn.Module):
    """Self-attention and an MLP, each normalised before and with a shortcut: (N, L, hidden_dim) to the same shape.

    Args:
        num_heads: number of attention heads.
        hidden_dim: length of a token.
        mlp_dim: channels between the MLP's layers.
        dropout: probability after the attention and after each layer of the MLP.
        attention_dropout: probability on the attention's weights.
        norm_layer: makes a normalisation layer from its number of channels.
    """

    def __init__(
        self,
        num_heads: int,
        hidden_dim: int,
        mlp_dim: int,
        dropout: float,
        attention_dropout: float,
        norm_layer: Layer = _LayerNorm,
    ) -> None:
        super().__init__()
        self.ln_1 = norm_layer(hidden_dim)
        self.self_attention = nn.MultiheadAttention(hidden_dim, num_heads, dropout=attention_dropout, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.ln_2 = norm_layer(hidden_dim)
        self.mlp = MLP(hidden_dim, [mlp_dim, hidden_dim], activation_layer=nn.GELU, dropout=dropout)
        self.mlp.init_xavier()

    def forward(self, x: Tensor) -> Tensor:
        """(N, L, hidden_dim) to the same shape."""
        y = self.ln_1(x)
        x = x + self.dropout(self.self_attention(y, y, y, need_weights=False)[0])
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class Encoder(nn.Module):
    """Learned positions and a stack of blocks.

    Args:
        seq_length: number of tokens L.
        num_layers: number of blocks.
        num_heads: number of attention heads of each block.
        hidden_dim: length of a token.
        mlp_dim: channels between the layers of each block's MLP.
        dropout: probability after the positions are added, and in the blocks.
        attention_dropout: probability on the attention's weights.
        norm_layer: makes a normalisation layer from its number of channels.
    """

    def __init__(
        self,
        seq_length: int,
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        mlp_dim: int,
        dropout: float,
        attention_dropout: float,
        norm_layer: Layer = _LayerNorm,
    ) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.empty(1, seq_length, hidden_dim).normal_(std=0.02))
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.Sequential(
            OrderedDict(
                (
                    f"encoder_layer_{i}",
                    EncoderBlock(num_heads, hidden_dim, mlp_dim, dropout, attention_dropout, norm_layer),
                )
                for i in range(num_layers)
            )
        )
        self.ln = norm_layer(hidden_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(N, seq_length, hidden_dim) to the same shape."""
        out: Tensor = self.ln(self.layers(self.dropout(x + self.pos_embedding)))
        return out


@dataclass(frozen=True)
class ConvStemConfig:
    """One convolution of a stem in place of the patches.

    Attributes:
        out_channels: channels of the output.
        kernel_size: side of the kernel.
        stride: stride of the convolution; those of all convolutions multiply to the patch size.
        norm_layer: makes a normalisation layer from its number of channels.
        activation_layer: after the normalisation.
    """

    out_channels: int
    kernel_size: int
    stride: int
    norm_layer: Layer = nn.BatchNorm2d
    activation_layer: Layer = nn.ReLU


fx.wrap("_check_images")  # a branch that torch.fx would not trace


def _check_images(x: Tensor, side: int) -> None:
    if x.ndim != 4 or x.shape[2:] != (side, side):
        raise InvalidArgumentError(f"images of shape {tuple(x.shape)}: the model takes (N, 3, {side}, {side})")


class VisionTransformer(nn.Module):
    """Patches and a class token through an encoder, and a linear classifier over what the class token became.

    Args:
        image_size: side of the square input in pixels.
        patch_size: side of a patch in pixels; divides `image_size`.
        num_layers: number of the encoder's blocks.
        num_heads: number of attention heads of each block.
        hidden_dim: length of a token.
        mlp_dim: channels between the layers of each block's MLP.
        dropout: probability in the encoder.
        attention_dropout: probability on the attention's weights.
        num_classes: length of the output.
        representation_size: channels of a hidden layer with tanh before the classifier; None for no such layer.
        norm_layer: makes a normalisation layer from its number of channels.
        conv_stem_configs: convolutions before the projection to tokens, None to project the patches.

    Raises:
        InvalidArgumentError: `patch_size` does not divide `image_size`.
    """

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        mlp_dim: int,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        num_classes: int = 1000,
        representation_size: int | None = None,
        norm_layer: Layer = _LayerNorm,
        conv_stem_configs: Sequence[ConvStemConfig] | None = None,
    ) -> None:
        super().__init__()
        if patch_size < 1 or image_size < 1 or image_size % patch_size:
            raise InvalidArgumentError(
                f"image_size must be a positive multiple of patch_size, got {image_size} with patches of {patch_size}"
            )
        self.image_size = image_size
        self.patch_size = patch_size
        self.hidden_dim = hidden_dim
        self.conv_proj: nn.Module = (
            nn.Conv2d(3, hidden_dim, kernel_size=patch_size, stride=patch_size)
            if conv_stem_configs is None
            else _conv_stem(conv_stem_configs, hidden_dim)
        )
        self.class_token = nn.Parameter(torch.zeros(1, 1, hidden_dim))
        seq_length = (image_size // patch_size) ** 2 + 1
        self.encoder = Encoder(
            seq_length, num_layers, num_heads, hidden_dim, mlp_dim, dropout, attention_dropout, norm_layer
        )
        heads: OrderedDict[str, nn.Module] = OrderedDict()
        if representation_size is not None:
            heads["pre_logits"] = nn.Linear(hidden_dim, representation_size)
            heads["act"] = nn.Tanh()
        heads["head"] = nn.Linear(hidden_dim if representation_size is None else representation_size, num_classes)
        self.heads = nn.Sequential(heads)
        self._init_weights()
        self.register_load_state_dict_pre_hook(_rename_old_mlp)  # type: ignore[no-untyped-call]

    def _init_weights(self) -> None:
        if isinstance(self.conv_proj, nn.Conv2d):
            std = 1 / math.sqrt(self.conv_proj.weight[0].numel())
            nn.init.trunc_normal_(self.conv_proj.weight, std=std)
            nn.init.zeros_(self.conv_proj.get_parameter("bias"))
        else:
            last = self.conv_proj.get_submodule("conv_last")
            nn.init.normal_(last.get_parameter("weight"), std=math.sqrt(2 / self.hidden_dim))
            nn.init.zeros_(last.get_parameter("bias"))
        for name, layer in self.heads.named_children():
            if isinstance(layer, nn.Linear):
                if name == "head":
                    nn.init.zeros_(layer.weight)
                else:
                    nn.init.trunc_normal_(layer.weight, std=math.sqrt(1 / layer.in_features))
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images.

        Args:
            x: float (N, 3, image_size, image_size), normalised as the weights' transforms do.

        Returns:
            float (N, num_classes).

        Raises:
            InvalidArgumentError: images of another size.
        """
        _check_images(x, self.image_size)
        patches = self.conv_proj(x).flatten(2).mT  # (N, L - 1, hidden_dim)
        tokens = torch.cat([self.class_token.expand(x.shape[0], -1, -1), patches], dim=1)  # (N, L, hidden_dim)
        logits: Tensor = self.heads(self.encoder(tokens)[:, 0])
        return logits


def _conv_stem(configs: Sequence[ConvStemConfig], hidden_dim: int) -> nn.Sequential:
    stem: OrderedDict[str, nn.Module] = OrderedDict()
    channels = 3
    for i, config in enumerate(configs):
        stem[f"conv_bn_relu_{i}"] = Conv2dNormActivation(
            channels,
            config.out_channels,
            config.kernel_size,
            config.stride,
            norm_layer=config.norm_layer,
            activation_layer=config.activation_layer,
        )
        channels = config.out_channels
    stem["conv_last"] = nn.Conv2d(channels, hidden_dim, kernel_size=1)
    return nn.Sequential(stem)


def _rename_old_mlp(_module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Rename, in place, what checkpoints from before 2022 call the layers of an MLP."""
    for key in [k for k in state_dict if k.startswith(prefix) and ".mlp.linear_" in k]:
        new = key.replace(".mlp.linear_1.", ".mlp.0.").replace(".mlp.linear_2.", ".mlp.3.")
        state_dict[new] = state_dict.pop(key)


def interpolate_embeddings(
    image_size: int,
    patch_size: int,
    model_state: Mapping[str, Tensor],
    interpolation_mode: str = "bicubic",
    reset_heads: bool = False,
) -> OrderedDict[str, Tensor]:
    """A state dict whose learned positions are resampled for images of another size.

    Args:
        image_size: side of the new images in pixels.
        patch_size: side of a patch in pixels.
        model_state: a `VisionTransformer`'s state dict; not changed.
        interpolation_mode: `mode` of `torch.nn.functional.interpolate`.
        reset_heads: leave out the classifier, to train one for other classes.

    Raises:
        InvalidArgumentError: the state dict has no positions of shape (1, 1 + side * side, hidden_dim).
    """
    key = "encoder.pos_embedding"
    old = model_state.get(key)
    side = 0 if old is None or old.ndim != 3 else math.isqrt(max(old.shape[1] - 1, 0))
    if old is None or side == 0 or old.shape[:2] != (1, 1 + side * side):
        raise InvalidArgumentError(
            f"{key} must be of shape (1, 1 + side * side, hidden_dim), got {None if old is None else tuple(old.shape)}"
        )
    state = OrderedDict((k, v) for k, v in model_state.items() if not (reset_heads and k.startswith("heads")))
    new_side = image_size // patch_size
    if new_side != side:
        grid = old[:, 1:].mT.reshape(1, -1, side, side)  # (1, hidden_dim, side, side)
        grid = F.interpolate(grid, size=(new_side, new_side), mode=interpolation_mode, align_corners=True)
        # (1, 1 + new_side * new_side, hidden_dim); the class token's position stays
        state[key] = torch.cat([old[:, :1], grid.flatten(2).mT], dim=1)
    return state


_TRAINED_SIZE: Final = {"image_size": lambda meta: meta["min_size"][0]}
"""Position embeddings are of the size that weights were trained with."""


@register_model(weights=ViT_B_16_Weights, fixed=_TRAINED_SIZE)
def vit_b_16(*, image_size: int = 224, **kwargs: Any) -> VisionTransformer:
    """Build ViT-B/16 (86.6 M parameters).

    Args:
        image_size: height and width of the images in pixels, a multiple of the patches'; weights fix it.
        **kwargs: options of `VisionTransformer`: `num_classes`, `dropout`, `attention_dropout`, `representation_size`,
            `norm_layer` and `conv_stem_configs`.
    """
    return VisionTransformer(image_size, 16, 12, 12, 768, 3072, **kwargs)


@register_model(weights=ViT_B_32_Weights, fixed=_TRAINED_SIZE)
def vit_b_32(*, image_size: int = 224, **kwargs: Any) -> VisionTransformer:
    """Build ViT-B/32 (88.2 M parameters).

    Args:
        image_size: height and width of the images in pixels, a multiple of the patches'; weights fix it.
        **kwargs: options of `VisionTransformer`: `num_classes`, `dropout`, `attention_dropout`, `representation_size`,
            `norm_layer` and `conv_stem_configs`.
    """
    return VisionTransformer(image_size, 32, 12, 12, 768, 3072, **kwargs)


@register_model(weights=ViT_L_16_Weights, fixed=_TRAINED_SIZE)
def vit_l_16(*, image_size: int = 224, **kwargs: Any) -> VisionTransformer:
    """Build ViT-L/16 (304.3 M parameters).

    Args:
        image_size: height and width of the images in pixels, a multiple of the patches'; weights fix it.
        **kwargs: options of `VisionTransformer`: `num_classes`, `dropout`, `attention_dropout`, `representation_size`,
            `norm_layer` and `conv_stem_configs`.
    """
    return VisionTransformer(image_size, 16, 24, 16, 1024, 4096, **kwargs)


@register_model(weights=ViT_L_32_Weights, fixed=_TRAINED_SIZE)
def vit_l_32(*, image_size: int = 224, **kwargs: Any) -> VisionTransformer:
    """Build ViT-L/32 (306.5 M parameters).

    Args:
        image_size: height and width of the images in pixels, a multiple of the patches'; weights fix it.
        **kwargs: options of `VisionTransformer`: `num_classes`, `dropout`, `attention_dropout`, `representation_size`,
            `norm_layer` and `conv_stem_configs`.
    """
    return VisionTransformer(image_size, 32, 24, 16, 1024, 4096, **kwargs)


@register_model(weights=ViT_H_14_Weights, fixed=_TRAINED_SIZE)
def vit_h_14(*, image_size: int = 224, **kwargs: Any) -> VisionTransformer:
    """Build ViT-H/14 (632.0 M parameters).

    Args:
        image_size: height and width of the images in pixels, a multiple of the patches'; weights fix it.
        **kwargs: options of `VisionTransformer`: `num_classes`, `dropout`, `attention_dropout`, `representation_size`,
            `norm_layer` and `conv_stem_configs`.
    """
    return VisionTransformer(image_size, 14, 32, 16, 1280, 5120, **kwargs)
