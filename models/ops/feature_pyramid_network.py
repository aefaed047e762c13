"""Feature pyramids, which carry what coarse feature maps mean down to the fine ones.

Source: Lin et al., "Feature Pyramid Networks for Object Detection", arXiv:1612.03144.

Letters in shapes: N images, C channels of the pyramid, C_i channels of input level i, H_i and W_i cells of level i, H
and W cells of the coarsest level.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d, relu

from zoofleet.models._layers import Conv2dNormActivation

__all__ = ["ExtraFPNBlock", "FeaturePyramidNetwork", "LastLevelMaxPool", "LastLevelP6P7"]


class ExtraFPNBlock(nn.Module):
    """The base class of what adds coarser levels to a pyramid."""

    @abstractmethod
    def forward(self, levels: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Append levels to a pyramid.

        Args:
            levels: the pyramid's levels by name, (N, C, H_i, W_i), from fine to coarse.
            inputs: the input levels that it was merged from, by name, (N, C_i, H_i, W_i), from fine to coarse.

        Returns:
            The pyramid's levels and further ones by name, from fine to coarse.
        """


class LastLevelMaxPool(ExtraFPNBlock):
    """Adds one level, named `pool`: every second cell of the coarsest one, for the proposals of large regions."""

    def forward(self, levels: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Append `pool`, (N, C, ceil(H / 2), ceil(W / 2)), to a pyramid's levels (N, C, H_i, W_i).

        Args:
            levels: the pyramid's levels by name, from fine to coarse.
            inputs: not used.
        """
        return {**levels, "pool": max_pool2d(_coarsest(levels), kernel_size=1, stride=2)}


class LastLevelP6P7(ExtraFPNBlock):
    """Adds two levels, `p6` and `p7`, by strided convolutions: RetinaNet, arXiv:1708.02002, section 4.

    Args:
        in_channels: channels of what `p6` is made from. Where they are `out_channels`, that is the pyramid's coarsest
            level, else the coarsest input level.
        out_channels: channels of both levels.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.p6 = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(out_channels, out_channels, 3, stride=2, padding=1)
        _init(self)
        self.from_levels = in_channels == out_channels

    def forward(self, levels: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Append `p6`, (N, C, ceil(H / 2), ceil(W / 2)), and `p7`, of half as many rows and columns, to a pyramid.

        Args:
            levels: the pyramid's levels by name, (N, C, H_i, W_i), from fine to coarse.
            inputs: the input levels that it was merged from, by name, (N, C_i, H_i, W_i), from fine to coarse.
        """
        p6 = self.p6(_coarsest(levels if self.from_levels else inputs))
        return {**levels, "p6": p6, "p7": self.p7(relu(p6))}


def _coarsest(levels: Mapping[str, Tensor]) -> Tensor:
    return list(levels.values())[-1]


def _init(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_uniform_(layer.weight, a=1)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class FeaturePyramidNetwork(nn.Module):
    """Merges the levels of a network from coarse to fine: each gets what those above it have found.

    Args:
        in_channels_list: channels of each input level, from fine to coarse.
        out_channels: channels of every output level.
        extra_blocks: adds coarser levels to the result; None for none.
        norm_layer: makes the layer after each convolution from its number of channels; None for no such layer.
    """

    def __init__(
        self,
        in_channels_list: Sequence[int],
        out_channels: int,
        extra_blocks: ExtraFPNBlock | None = None,
        norm_layer: Callable[..., nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.inner_blocks = nn.ModuleList()
        self.layer_blocks = nn.ModuleList()
        for in_channels in in_channels_list:
            for blocks, channels, kernel in ((self.inner_blocks, in_channels, 1), (self.layer_blocks, out_channels, 3)):
                blocks.append(
                    Conv2dNormActivation(channels, out_channels, kernel, norm_layer=norm_layer, activation_layer=None)
                )
        _init(self)
        self.extra_blocks = extra_blocks

    def forward(self, x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Merge the levels of a network.

        Args:
            x: levels by name, (N, C_i, H_i, W_i), floating, as many as `in_channels_list`, from fine to coarse.

        Returns:
            Levels (N, out_channels, H_i, W_i) under the same names, then those of `extra_blocks`.
        """
        levels: dict[str, Tensor] = {}
        merged: Tensor | None = None
        for (name, level), inner, layer in reversed(
            list(zip(x.items(), self.inner_blocks, self.layer_blocks, strict=True))
        ):
            lateral = inner(level)  # (N, out_channels, H_i, W_i)
            merged = lateral if merged is None else lateral + interpolate(merged, size=lateral.shape[-2:])
            levels[name] = layer(merged)
        levels = dict(reversed(levels.items()))
        return levels if self.extra_blocks is None else self.extra_blocks(levels, x)
