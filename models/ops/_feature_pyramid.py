"""Feature Pyramid Networks for Object Detection, arXiv:1612.03144."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d

from zoofleet.models._layers import Conv2dNormActivation

__all__ = ["FeaturePyramidNetwork", "LastLevelMaxPool"]


class LastLevelMaxPool(nn.Module):
    """One more level, named `pool`: every second pixel of the coarsest one, for the region proposals."""

    def forward(self, levels: dict[str, Tensor]) -> dict[str, Tensor]:
        """Append `pool`, (N, C, ceil(H / 2), ceil(W / 2)), to levels ordered from fine to coarse."""
        coarsest = next(reversed(levels.values()))
        return {**levels, "pool": max_pool2d(coarsest, kernel_size=1, stride=2)}


class FeaturePyramidNetwork(nn.Module):
    """Carries the coarse levels' semantics down to the fine ones.

    Args:
        in_channels_list: channels of each input level, from fine to coarse.
        out_channels: channels of every output level.
        extra_blocks: adds levels to the result.
    """

    def __init__(
        self, in_channels_list: Sequence[int], out_channels: int, extra_blocks: LastLevelMaxPool | None = None
    ) -> None:
        super().__init__()
        self.inner_blocks = nn.ModuleList()
        self.layer_blocks = nn.ModuleList()
        for in_channels in in_channels_list:
            self.inner_blocks.append(_convolution(in_channels, out_channels, kernel_size=1))
            self.layer_blocks.append(_convolution(out_channels, out_channels, kernel_size=3))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.extra_blocks = extra_blocks

    def forward(self, x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Merge the levels.

        Args:
            x: name to (N, C_i, H_i, W_i), floating, as many as `in_channels_list` and from fine to coarse.

        Returns:
            The same names, then those of `extra_blocks`, to (N, out_channels, H_i, W_i).
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
        return levels if self.extra_blocks is None else self.extra_blocks(levels)


def _convolution(in_channels: int, out_channels: int, kernel_size: int) -> nn.Module:
    return Conv2dNormActivation(in_channels, out_channels, kernel_size, norm_layer=None, activation_layer=None)
