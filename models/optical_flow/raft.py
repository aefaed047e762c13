"""RAFT: optical flow by recurrent lookups in an all-pairs correlation volume.

Source: Teed and Deng, "RAFT: Recurrent All-Pairs Field Transforms for Optical Flow", ECCV 2020, arXiv:2003.12039.

In shapes, N is the number of image pairs, C channels, H and W the images' height and width in pixels, and h and w those
of the feature maps, H/8 and W/8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoofleet.errors import InvalidArgumentError
from zoofleet.models._layers import Conv2dNormActivation
from zoofleet.models._registry import register_model
from zoofleet.models._weight_sets import Raft_Large_Weights, Raft_Small_Weights
from zoofleet.models.ops import correlation_lookup

__all__ = [
    "RAFT",
    "CorrBlock",
    "LinearCorrBlock",
    "Raft_Large_Weights",
    "Raft_Small_Weights",
    "raft_large",
    "raft_small",
]

_STRIDE = 8
"""Pixels of the image per pixel of the feature maps, on which flow is estimated."""


class ResidualBlock(nn.Module):
    """Residual block of two 3x3 convolutions (the large model's block).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        norm_layer: makes a normalisation layer from its number of channels; None for no normalisation.
        stride: stride of the first convolution.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, norm_layer: Callable[..., nn.Module] | None, stride: int = 1
    ) -> None:
        super().__init__()
        self.convnormrelu1 = Conv2dNormActivation(
            in_channels, out_channels, kernel_size=3, stride=stride, norm_layer=norm_layer, bias=True
        )
        self.convnormrelu2 = Conv2dNormActivation(
            out_channels, out_channels, kernel_size=3, norm_layer=norm_layer, bias=True
        )
        self.downsample = _downsample(in_channels, out_channels, norm_layer, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H/stride, W/stride), not negative."""
        y = self.convnormrelu2(self.convnormrelu1(x))
        return F.relu(self.downsample(x) + y)


class BottleneckBlock(nn.Module):
    """Residual block of 1x1, 3x3 and 1x1 convolutions, a quarter as wide inside (the small model's block).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output, divisible by 4.
        norm_layer: makes a normalisation layer from its number of channels; None for no normalisation.
        stride: stride of the 3x3 convolution.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, norm_layer: Callable[..., nn.Module] | None, stride: int = 1
    ) -> None:
        super().__init__()
        width = out_channels // 4
        self.convnormrelu1 = Conv2dNormActivation(in_channels, width, kernel_size=1, norm_layer=norm_layer, bias=True)
        self.convnormrelu2 = Conv2dNormActivation(
            width, width, kernel_size=3, stride=stride, norm_layer=norm_layer, bias=True
        )
        self.convnormrelu3 = Conv2dNormActivation(width, out_channels, kernel_size=1, norm_layer=norm_layer, bias=True)
        self.downsample = _downsample(in_channels, out_channels, norm_layer, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H/stride, W/stride), not negative."""
        y = self.convnormrelu3(self.convnormrelu2(self.convnormrelu1(x)))
        return F.relu(self.downsample(x) + y)


def _downsample(
    in_channels: int, out_channels: int, norm_layer: Callable[..., nn.Module] | None, stride: int
) -> nn.Module:
    """The shortcut of a residual block, which changes number of channels and size together."""
    if stride == 1:
        return nn.Identity()
    return Conv2dNormActivation(
        in_channels,
        out_channels,
        kernel_size=1,
        stride=stride,
        norm_layer=norm_layer,
        activation_layer=None,
        bias=True,
    )


class FeatureEncoder(nn.Module):
    """Convolutional encoder to an eighth of the resolution; serves as feature and as context encoder.

    Args:
        block: residual block, called as `block(in_channels, out_channels, norm_layer=..., stride=...)`.
        layers: channels of the stem, of three stages of two blocks each, and of the output.
        norm_layer: makes a normalisation layer from its number of channels; None for no normalisation.
    """

    def __init__(
        self,
        *,
        block: Callable[..., nn.Module],
        layers: tuple[int, int, int, int, int],
        norm_layer: Callable[..., nn.Module] | None,
    ) -> None:
        super().__init__()

        def stage(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
            first = block(in_channels, out_channels, norm_layer=norm_layer, stride=stride)
            return nn.Sequential(first, block(out_channels, out_channels, norm_layer=norm_layer, stride=1))

        self.convnormrelu = Conv2dNormActivation(
            3, layers[0], kernel_size=7, stride=2, norm_layer=norm_layer, bias=True
        )
        self.layer1 = stage(layers[0], layers[1], stride=1)
        self.layer2 = stage(layers[1], layers[2], stride=2)
        self.layer3 = stage(layers[2], layers[3], stride=2)
        self.conv = nn.Conv2d(layers[3], layers[4], kernel_size=1)
        self.out_channels = layers[4]

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, out_channels, H/8, W/8)."""
        x = self.layer3(self.layer2(self.layer1(self.convnormrelu(x))))
        out: Tensor = self.conv(x)
        return out


class MotionEncoder(nn.Module):
    """Encodes looked-up correlations together with the current flow.

    Args:
        in_channels_corr: channels of the looked-up correlations.
        corr_layers: widths of the convolutions over the correlations: a 1x1, and a 3x3 if there are two.
        flow_layers: widths of the two convolutions over the flow, 7x7 and 3x3.
        out_channels: channels of the output; its last two are the flow itself.
    """

    def __init__(
        self,
        *,
        in_channels_corr: int,
        corr_layers: tuple[int] | tuple[int, int],
        flow_layers: tuple[int, int],
        out_channels: int,
    ) -> None:
        super().__init__()
        self.convcorr1 = Conv2dNormActivation(in_channels_corr, corr_layers[0], kernel_size=1, norm_layer=None)
        self.convcorr2: nn.Module = nn.Identity()
        if len(corr_layers) == 2:
            self.convcorr2 = Conv2dNormActivation(*corr_layers, kernel_size=3, norm_layer=None)
        self.convflow1 = Conv2dNormActivation(2, flow_layers[0], kernel_size=7, norm_layer=None)
        self.convflow2 = Conv2dNormActivation(flow_layers[0], flow_layers[1], kernel_size=3, norm_layer=None)
        self.conv = Conv2dNormActivation(
            corr_layers[-1] + flow_layers[1], out_channels - 2, kernel_size=3, norm_layer=None
        )
        self.out_channels = out_channels

    def forward(self, flow: Tensor, corr: Tensor) -> Tensor:
        """Flow (N, 2, h, w) and correlations (N, in_channels_corr, h, w) -> (N, out_channels, h, w)."""
        encoded = torch.cat([self.convcorr2(self.convcorr1(corr)), self.convflow2(self.convflow1(flow))], dim=1)
        return torch.cat([self.conv(encoded), flow], dim=1)


class ConvGRU(nn.Module):
    """Gated recurrent unit whose gates are convolutions that keep height and width."""

    def __init__(self, *, input_size: int, hidden_size: int, kernel_size: tuple[int, int]) -> None:
        super().__init__()
        channels = hidden_size + input_size
        padding = (kernel_size[0] // 2, kernel_size[1] // 2)
        self.convz = nn.Conv2d(channels, hidden_size, kernel_size=kernel_size, padding=padding)
        self.convr = nn.Conv2d(channels, hidden_size, kernel_size=kernel_size, padding=padding)
        self.convq = nn.Conv2d(channels, hidden_size, kernel_size=kernel_size, padding=padding)

    def forward(self, hidden: Tensor, x: Tensor) -> Tensor:
        """Hidden state (N, hidden_size, h, w) and input (N, input_size, h, w) -> the next hidden state."""
        both = torch.cat([hidden, x], dim=1)
        update = torch.sigmoid(self.convz(both))
        reset = torch.sigmoid(self.convr(both))
        candidate = torch.tanh(self.convq(torch.cat([reset * hidden, x], dim=1)))
        return (1 - update) * hidden + update * candidate


class RecurrentBlock(nn.Module):
    """One GRU (the small model's) or two, of which the second goes on with the first one's state (the large model's).

    Args:
        input_size: channels of the input.
        hidden_size: channels of the hidden state.
        kernel_sizes: kernel size of the convolutions of each GRU, odd.
    """

    def __init__(
        self,
        *,
        input_size: int,
        hidden_size: int,
        kernel_sizes: tuple[tuple[int, int]] | tuple[tuple[int, int], tuple[int, int]],
    ) -> None:
        super().__init__()
        self.convgru1 = ConvGRU(input_size=input_size, hidden_size=hidden_size, kernel_size=kernel_sizes[0])
        self.convgru2 = None
        if len(kernel_sizes) == 2:
            self.convgru2 = ConvGRU(input_size=input_size, hidden_size=hidden_size, kernel_size=kernel_sizes[1])
        self.hidden_size = hidden_size

    def forward(self, hidden: Tensor, x: Tensor) -> Tensor:
        """Hidden state (N, hidden_size, h, w) and input (N, input_size, h, w) -> the next hidden state."""
        hidden = self.convgru1(hidden, x)
        return hidden if self.convgru2 is None else self.convgru2(hidden, x)


class FlowHead(nn.Module):
    """Reads a flow update off the hidden state."""

    def __init__(self, *, in_channels: int, hidden_size: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, hidden_size, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(hidden_size, 2, kernel_size=3, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        """(N, in_channels, h, w) -> (N, 2, h, w)."""
        out: Tensor = self.conv2(F.relu(self.conv1(hidden)))
        return out


class UpdateBlock(nn.Module):
    """One step of the recurrence: encodes motion, updates the hidden state, predicts a change of flow."""

    def __init__(self, *, motion_encoder: MotionEncoder, recurrent_block: RecurrentBlock, flow_head: FlowHead) -> None:
        super().__init__()
        self.motion_encoder = motion_encoder
        self.recurrent_block = recurrent_block
        self.flow_head = flow_head
        self.hidden_size = recurrent_block.hidden_size

    def forward(self, hidden: Tensor, context: Tensor, corr: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next hidden state and the flow's change, (N, 2, h, w)."""
        x = torch.cat([context, self.motion_encoder(flow, corr)], dim=1)
        hidden = self.recurrent_block(hidden, x)
        return hidden, self.flow_head(hidden)


class MaskPredictor(nn.Module):
    """Reads off the hidden state how every image pixel's flow mixes the flows around its feature pixel.

    Args:
        in_channels: channels of the hidden state.
        hidden_size: channels between the two convolutions.
    """

    def __init__(self, *, in_channels: int, hidden_size: int) -> None:
        super().__init__()
        self.convrelu = Conv2dNormActivation(in_channels, hidden_size, kernel_size=3, norm_layer=None)
        self.conv = nn.Conv2d(hidden_size, 9 * _STRIDE**2, kernel_size=1)

    def forward(self, hidden: Tensor) -> Tensor:
        """(N, in_channels, h, w) -> logits (N, 9 * 8 * 8, h, w): neighbour, then the image pixel's row and column."""
        # The paper does not mention the factor. Its authors' code has it to keep this branch's gradients in balance
        # with the others' (core/update.py in github.com/princeton-vl/RAFT), and the published weights were trained so.
        out: Tensor = 0.25 * self.conv(self.convrelu(hidden))
        return out


@dataclass(frozen=True, slots=True)
class Pyramid:
    """What the lookups of one call read; iterating over it gives the levels.

    Attributes:
        levels: a tensor for each scale, the finest first, each half as high and wide as the one before.
        shared: what the lookups on all levels need beside them.
    """

    levels: tuple[Tensor, ...]
    shared: Tensor

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.levels)


@dataclass(frozen=True, slots=True)
class CorrBlock:
    """Correlation of all pairs of feature vectors at several scales, and lookups in it.

    A block holds sizes only. The pyramid of a call is a value that the caller keeps, so calls in several threads do not
    disturb each other.

    Attributes:
        num_levels: number of scales of the pyramid.
        radius: a lookup reads (2 * radius + 1) x (2 * radius + 1) correlations on every level.
    """

    num_levels: int = 4
    radius: int = 4

    @property
    def out_channels(self) -> int:
        """Number of channels of a lookup."""
        return self.num_levels * (2 * self.radius + 1) ** 2

    @property
    def min_feature_size(self) -> int:
        """Smallest height and width of feature maps whose coarsest level still has two pixels each way."""
        return 1 << self.num_levels

    def build_pyramid(self, features1: Tensor, features2: Tensor) -> Pyramid:
        """Correlate two feature maps.

        Args:
            features1: features of the first images, (N, C, h, w).
            features2: features of the second images, the same shape.

        Returns:
            Levels (N * h * w, 1, h / 2**level, w / 2**level): for each pixel of the first map its dot products with
            the second map, divided by the root of C. Shared: the largest x and y of each level, int64
            (num_levels, 2).
        """
        n, c, h, w = features1.shape
        corr = features1.flatten(2).transpose(1, 2) @ features2.flatten(2)  # (N, h*w, h*w)
        level = (corr / c**0.5).reshape(n * h * w, 1, h, w)
        levels = [level]
        for _ in range(self.num_levels - 1):
            levels.append(F.avg_pool2d(levels[-1], kernel_size=2, stride=2))
        # Copied to the device once a call: a copy for every lookup would have each of them wait for the host.
        largest = torch.tensor([[level.shape[3] - 1, level.shape[2] - 1] for level in levels], device=corr.device)
        return Pyramid(tuple(levels), largest)

    def look_up(self, pyramid: Pyramid, coords: Tensor) -> Tensor:
        """Read the correlations around where each pixel has moved to, bilinearly, zero outside the map.

        Args:
            pyramid: what this block's `build_pyramid` returned.
            coords: x and y in the second feature map, (N, 2, h, w).

        Returns:
            (N, out_channels, h, w), level by level. Within a level the window's x offset is the slower index.
        """
        n, _, h, w = coords.shape
        window = 2 * self.radius + 1
        steps = torch.arange(-self.radius, self.radius + 1, dtype=coords.dtype, device=coords.device)
        offsets = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), dim=-1)  # (window, window, 2) as x, y
        centers = coords.permute(0, 2, 3, 1).reshape(n * h * w, 1, 1, 2)
        looked_up = []
        for i, level in enumerate(pyramid):
            # (N*h*w, window, window, 2) in -1..1
            grid = 2 * (centers / 2**i + offsets) / pyramid.shared[i].to(coords.dtype) - 1
            sampled = F.grid_sample(level, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
            looked_up.append(sampled.reshape(n, h, w, window * window))
        return torch.cat(looked_up, dim=-1).permute(0, 3, 1, 2).contiguous()  # (N, out_channels, h, w)


class LinearCorrBlock(CorrBlock):
    """A `CorrBlock` without the volume: each lookup computes the correlations that it reads.

    Equal to it within rounding, in memory that grows with the pixels instead of with their square, for lookups that
    take longer: `raft_large(corr_block=LinearCorrBlock(num_levels=4, radius=4))`.
    """

    __slots__ = ()

    def build_pyramid(self, features1: Tensor, features2: Tensor) -> Pyramid:
        """Make feature maps ready for lookups.

        Args:
            features1: features of the first images, (N, C, h, w).
            features2: features of the second images, the same shape.

        Returns:
            Levels (N, h / 2**level, w / 2**level, C): the second map at each scale. Shared: the first map divided by
            the root of C, (N, h, w, C).
        """
        levels = [features2]
        for _ in range(self.num_levels - 1):
            # Averages of correlations are correlations with averages.
            levels.append(F.avg_pool2d(levels[-1], kernel_size=2, stride=2))
        shared, *levels = (
            features.permute(0, 2, 3, 1).contiguous() for features in (features1 / features1.shape[1] ** 0.5, *levels)
        )
        return Pyramid(tuple(levels), shared)

    def look_up(self, pyramid: Pyramid, coords: Tensor) -> Tensor:
        """Compute the correlations around where each pixel has moved to, bilinearly, zero outside the map.

        Args:
            pyramid: what this block's `build_pyramid` returned.
            coords: x and y in the second feature map, (N, 2, h, w).

        Returns:
            (N, out_channels, h, w), level by level. Within a level the window's x offset is the slower index.
        """
        looked_up = [
            correlation_lookup(pyramid.shared, level, coords / 2**i, self.radius) for i, level in enumerate(pyramid)
        ]
        return torch.cat(looked_up, dim=1)  # (N, out_channels, h, w)


class RAFT(nn.Module):
    """Optical flow between two images, refined over a number of recurrent updates.

    Args:
        feature_encoder: (N, 3, H, W) -> (N, C, H/8, W/8), applied to both images.
        context_encoder: (N, 3, H, W) -> (N, hidden + context, H/8, W/8), applied to the first image.
        corr_block: correlates the features and looks up in the result.
        update_block: `(hidden, context, correlations, flow) -> (hidden, change of flow)`, with `hidden_size`.
        mask_predictor: hidden -> (N, 576, H/8, W/8), by which flow is upsampled; None for bilinear upsampling.
    """

    def __init__(
        self,
        *,
        feature_encoder: nn.Module,
        context_encoder: nn.Module,
        corr_block: CorrBlock,
        update_block: UpdateBlock,
        mask_predictor: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.feature_encoder = feature_encoder
        self.context_encoder = context_encoder
        self.corr_block = corr_block
        self.update_block = update_block
        self.mask_predictor = mask_predictor
        self.hidden_size = update_block.hidden_size

    def forward(self, image1: Tensor, image2: Tensor, num_flow_updates: int = 12) -> list[Tensor]:
        """Estimate where the pixels of `image1` are in `image2`.

        Args:
            image1: (N, 3, H, W) float, in -1..1; H and W divisible by 8 and at least 128.
            image2: the same shape.
            num_flow_updates: recurrent updates, at least 1.

        Returns:
            A flow (N, 2, H, W) for each update, the last one the best: x and y displacement in pixels.

        Raises:
            InvalidArgumentError: shapes or `num_flow_updates` are not as said.
        """
        return [self._upsample(*update) for update in self._updates(image1, image2, num_flow_updates)]

    def predict(self, image1: Tensor, image2: Tensor, num_flow_updates: int = 12) -> Tensor:
        """Estimate where the pixels of `image1` are in `image2`, and upsample the last flow alone.

        Args:
            image1: (N, 3, H, W) float, in -1..1; H and W divisible by 8 and at least 128.
            image2: the same shape.
            num_flow_updates: recurrent updates, at least 1.

        Returns:
            The last of the flows that a call of the model returns: (N, 2, H, W).

        Raises:
            InvalidArgumentError: shapes or `num_flow_updates` are not as said.
        """
        for update in self._updates(image1, image2, num_flow_updates):
            last = update
        return self._upsample(*last)

    def _updates(self, image1: Tensor, image2: Tensor, num_flow_updates: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the flow (N, 2, h, w) and the hidden state after each update."""
        self._check(image1, image2, num_flow_updates)
        features = self.feature_encoder(torch.cat([image1, image2]))
        count = image1.shape[0]
        pyramid = self.corr_block.build_pyramid(features[:count], features[count:])
        hidden, context = self._split_context(self.context_encoder(image1))

        start = _pixel_grid(hidden)  # (1, 2, H/8, W/8)
        coords = start.expand(image1.shape[0], -1, -1, -1)
        for _ in range(num_flow_updates):
            coords = coords.detach()  # gradients do not flow back through earlier updates' coordinates
            corr = self.corr_block.look_up(pyramid, coords)
            hidden, change = self.update_block(hidden, context, corr, coords - start)
            coords = coords + change
            yield coords - start, hidden

    def _split_context(self, encoded: Tensor) -> tuple[Tensor, Tensor]:
        return torch.tanh(encoded[:, : self.hidden_size]), F.relu(encoded[:, self.hidden_size :])

    def _upsample(self, flow: Tensor, hidden: Tensor) -> Tensor:
        if self.mask_predictor is None:
            return _upsample_bilinear(flow)
        return _upsample_convex(flow, self.mask_predictor(hidden))

    def _check(self, image1: Tensor, image2: Tensor, num_flow_updates: int) -> None:
        if image1.ndim != 4 or image1.shape[1] != 3 or image1.shape != image2.shape:
            raise InvalidArgumentError(
                f"images of shapes {tuple(image1.shape)} and {tuple(image2.shape)}: RAFT takes two of the same "
                "shape (N, 3, H, W)"
            )
        height, width = image1.shape[2:]
        minimum = _STRIDE * self.corr_block.min_feature_size
        if height % _STRIDE or width % _STRIDE or min(height, width) < minimum:
            raise InvalidArgumentError(
                f"image size {height}x{width}: RAFT takes heights and widths that are divisible by {_STRIDE} and at "
                f"least {minimum}"
            )
        if num_flow_updates < 1:
            raise InvalidArgumentError(f"num_flow_updates is {num_flow_updates}; it must be at least 1")


def _pixel_grid(like: Tensor) -> Tensor:
    """Each pixel's own x and y, (1, 2, h, w)."""
    h, w = like.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(h, dtype=like.dtype, device=like.device),
        torch.arange(w, dtype=like.dtype, device=like.device),
        indexing="ij",
    )
    return torch.stack([x, y])[None]


def _upsample_bilinear(flow: Tensor) -> Tensor:
    """From feature to image pixels, (N, 2, h, w) -> (N, 2, 8h, 8w); displacements grow too."""
    return _STRIDE * F.interpolate(flow, scale_factor=_STRIDE, mode="bilinear", align_corners=True)


def _upsample_convex(flow: Tensor, mask: Tensor) -> Tensor:
    """From feature to image pixels, each a convex combination of the 3x3 flows around its feature pixel.

    Args:
        flow: (N, 2, h, w).
        mask: logits of the nine weights, (N, 9 * 8 * 8, h, w).

    Returns:
        (N, 2, 8h, 8w); displacements grow too.
    """
    n, _, h, w = flow.shape
    weights = mask.reshape(n, 1, 9, _STRIDE, _STRIDE, h, w).softmax(dim=2)
    around = F.unfold(_STRIDE * flow, kernel_size=3, padding=1).reshape(n, 2, 9, 1, 1, h, w)
    fine = (weights * around).sum(dim=2)  # (N, 2, 8, 8, h, w)
    return fine.permute(0, 1, 4, 2, 5, 3).reshape(n, 2, _STRIDE * h, _STRIDE * w)  # (N, 2, 8h, 8w)


def _raft(given: dict[str, Any], **own: Callable[[], nn.Module]) -> RAFT:
    """RAFT of the parts that the caller gives and, for the others, of the model's own, which are made only then."""
    return RAFT(**(given | {name: make() for name, make in own.items() if name not in given}))


@register_model(weights=Raft_Large_Weights)
def raft_large(**kwargs: Any) -> RAFT:
    """Build RAFT (5.3 M parameters): residual encoders, GRUs of 1x5 and 5x1, and learned upsampling.

    Args:
        **kwargs: parts of `RAFT` in the place of this model's own: `feature_encoder`, `context_encoder`, `corr_block`,
            `update_block` and `mask_predictor`.
    """
    corr_block = kwargs.setdefault("corr_block", CorrBlock(num_levels=4, radius=4))
    stages = (64, 64, 96, 128)
    hidden = 128
    context = 128
    motion = 128
    return _raft(
        kwargs,
        feature_encoder=lambda: FeatureEncoder(
            block=ResidualBlock, layers=(*stages, 256), norm_layer=nn.InstanceNorm2d
        ),
        context_encoder=lambda: FeatureEncoder(
            block=ResidualBlock, layers=(*stages, hidden + context), norm_layer=nn.BatchNorm2d
        ),
        update_block=lambda: UpdateBlock(
            motion_encoder=MotionEncoder(
                in_channels_corr=corr_block.out_channels,
                corr_layers=(256, 192),
                flow_layers=(128, 64),
                out_channels=motion,
            ),
            recurrent_block=RecurrentBlock(
                input_size=context + motion, hidden_size=hidden, kernel_sizes=((1, 5), (5, 1))
            ),
            flow_head=FlowHead(in_channels=hidden, hidden_size=256),
        ),
        mask_predictor=lambda: MaskPredictor(in_channels=hidden, hidden_size=256),
    )


@register_model(weights=Raft_Small_Weights)
def raft_small(**kwargs: Any) -> RAFT:
    """Build RAFT-small (1.0 M parameters): narrow encoders of bottleneck blocks, one 3x3 GRU, and bilinear upsampling.

    Args:
        **kwargs: parts of `RAFT` in the place of this model's own: `feature_encoder`, `context_encoder`, `corr_block`,
            `update_block` and `mask_predictor`.
    """
    corr_block = kwargs.setdefault("corr_block", CorrBlock(num_levels=4, radius=3))
    stages = (32, 32, 64, 96)
    hidden = 96
    context = 64
    motion = 82
    return _raft(
        kwargs,
        feature_encoder=lambda: FeatureEncoder(
            block=BottleneckBlock, layers=(*stages, 128), norm_layer=nn.InstanceNorm2d
        ),
        context_encoder=lambda: FeatureEncoder(
            block=BottleneckBlock, layers=(*stages, hidden + context), norm_layer=None
        ),
        update_block=lambda: UpdateBlock(
            motion_encoder=MotionEncoder(
                in_channels_corr=corr_block.out_channels,
                corr_layers=(96,),
                flow_layers=(64, 32),
                out_channels=motion,
            ),
            recurrent_block=RecurrentBlock(input_size=context + motion, hidden_size=hidden, kernel_sizes=((3, 3),)),
            flow_head=FlowHead(in_channels=hidden, hidden_size=128),
        ),
    )
