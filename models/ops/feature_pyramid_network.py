"""Feature Pyramid Networks for Object Detection, arXiv:1612.03144."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d, relu

from zoofleet.models._layers import Conv2dNormActivation

__all__ = ["ExtraFPNBlock", "FeaturePyramidNetwork", "LastLevelMaxPool", "LastLevelP6P7"]


class ExtraFPNBlock(nn.Module):
    """Adds coarser levels to a pyramid."""

    @abstractmethod
    def forward(self, levels: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Append levels.

        Args:
            levels: the pyramid's, name to (N, C, H_i, W_i), from fine to coarse.
            inputs: what they were merged from, name to (N, C_i, H_i, W_i).

        Returns:
            `levels` and further ones, from fine to coarse.
        """


class LastLevelMaxPool(ExtraFPNBlock):
    """One more level, named `pool`: every second pixel of the coarsest one, for the region proposals."""

    def forward(self, levels: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Append `pool`, (N, C, ceil(H / 2), ceil(W / 2))."""
        return {**levels, "pool": max_pool2d(_coarsest(levels), kernel_size=1, stride=2)}


class LastLevelP6P7(ExtraFPNBlock):
    """Two more levels, `p6` and `p7`, by strided convolutions: RetinaNet, arXiv:1708.02002, section 4.

    Args:
        in_channels: channels of what `p6` is made from: the pyramid's coarsest level where it has `out_channels`, else
            the coarsest input.
        out_channels: channels of both.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.p6 = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(out_channels, out_channels, 3, stride=2, padding=1)
        _init(self)
        self.from_levels = in_channels == out_channels

    def forward(self, levels: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Append `p6`, (N, C, ceil(H / 2), ceil(W / 2)), and `p7`, half as large again."""
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
    """Carries the coarse levels' semantics down to the fine ones.

    Args:
        in_channels_list: channels of each input level, from fine to coarse.
        out_channels: channels of every output level.
        extra_blocks: adds levels to the result.
        norm_layer: after each convolution, made with `out_channels`; None for none.
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
        return levels if self.extra_blocks is None else self.extra_blocks(levels, x)
