"""RoIAlign over the levels of a feature pyramid.

Letters in shapes: N images, C channels, H and W cells of a feature map, H_i and W_i cells of level i, L boxes of an
image, K boxes of all images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from zoofleet.errors import InvalidArgumentError
from zoofleet.models.ops._kernels import roi_align
from zoofleet.models.ops.boxes import box_area

__all__ = ["MultiScaleRoIAlign", "RoIAlign"]


class RoIAlign(nn.Module):
    """Averages bilinear samples of a feature map in each bin of each box, as the function `roi_align` does.

    Args:
        output_size: number of bins as (height, width), or one number for both; at least 1.
        spatial_scale: factor from box coordinates to cells of the feature map, such as 1/16.
        sampling_ratio: samples in each bin along each axis; 0 or less for as many as the bin has cells, rounded up.
        aligned: whether to shift boxes by half a cell, so that they meet the centres of cells; boxes are otherwise
            taken to be at least one cell high and wide.
    """

    def __init__(
        self, output_size: int | tuple[int, int], spatial_scale: float, sampling_ratio: int, aligned: bool = False
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned

    def forward(self, input: Tensor, rois: Tensor | Sequence[Tensor]) -> Tensor:  # noqa: A002 -- the reference's name
        """Pool the boxes of a batch.

        Args:
            input: (N, C, H, W), floating: the feature maps.
            rois: (K, 5), floating: batch index, x1, y1, x2, y2; or N tensors (L, 4), one for each image.

        Returns:
            (K, C, height, width) of the dtype of input.

        Raises:
            InvalidArgumentError: shapes, dtypes or devices are not as above or a batch index names no image. On a CUDA
                device the result of such a row is NaN instead.
            KernelLibraryError: the feature maps are on a CUDA device and the CUDA kernels do not load.
        """
        return roi_align(input, rois, self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned)

    def extra_repr(self) -> str:
        """Return what `print` shows of the module: its arguments."""
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}"
        )


class MultiScaleRoIAlign(nn.Module):
    """Pools each box from the level of a pyramid that fits its size: arXiv:1612.03144, equation 1.

    Args:
        featmap_names: names of the levels to pool from, from fine to coarse; others are ignored.
        output_size: number of bins as (height, width), or one number for both; at least 1.
        sampling_ratio: samples in each bin along each axis; 0 or less for as many as the bin has cells, rounded up.
        canonical_scale: side in pixels of the square boxes from which on `canonical_level` is pooled; 224 are
            ImageNet's images.
        canonical_level: log2 of the stride of the level that such boxes are pooled from.
    """

    def __init__(
        self,
        featmap_names: Sequence[str],
        output_size: int | tuple[int, int],
        sampling_ratio: int,
        *,
        canonical_scale: int = 224,
        canonical_level: int = 4,
    ) -> None:
        super().__init__()
        self.featmap_names = tuple(featmap_names)
        self.output_size = (output_size, output_size) if isinstance(output_size, int) else output_size
        self.sampling_ratio = sampling_ratio
        self.canonical_scale = canonical_scale
        self.canonical_level = canonical_level

    def forward(
        self, x: Mapping[str, Tensor], boxes: Sequence[Tensor], image_shapes: Sequence[tuple[int, int]]
    ) -> Tensor:
        """Pool the boxes of a batch.

        Args:
            x: levels by name, (N, C, H_i, W_i), floating.
            boxes: N tensors (L, 4), floating; x1, y1, x2, y2 in pixels of the batch.
            image_shapes: height and width in pixels of each of the N images, before they were padded to one size.

        Returns:
            (K, C, height, width) for the K boxes of all images, image by image, of the dtype of x.

        Raises:
            InvalidArgumentError: x has none of `featmap_names`, or shapes, dtypes or devices are not as above.
            KernelLibraryError: the levels are on a CUDA device and the CUDA kernels do not load.
        """
        features = [x[name] for name in self.featmap_names if name in x]
        if not features:
            raise InvalidArgumentError(f"x has levels {list(x)}, none of {list(self.featmap_names)}")
        size = [max(sides) for sides in zip(*image_shapes, strict=True)]
        exponents = [round(math.log2(level.shape[-2] / size[0])) for level in features]
        if len(features) == 1:
            return roi_align(features[0], boxes, self.output_size, 2.0 ** exponents[0], self.sampling_ratio)
        levels = self._levels(torch.cat(list(boxes)), -exponents[0], -exponents[-1])  # (K,)
        images = torch.cat([b.new_full((len(b), 1), i, dtype=torch.float32) for i, b in enumerate(boxes)])  # (K, 1)
        rois = torch.cat([images, torch.cat(list(boxes))], dim=1)  # (K, 5)
        pooled = features[0].new_zeros(len(rois), features[0].shape[1], *self.output_size)
        for level, (feature, exponent) in enumerate(zip(features, exponents, strict=True)):
            chosen = (levels == level).nonzero().squeeze(1)
            pooled = pooled.index_put(
                (chosen,), roi_align(feature, rois[chosen], self.output_size, 2.0**exponent, self.sampling_ratio)
            )
        return pooled

    def _levels(self, boxes: Tensor, finest: int, coarsest: int) -> Tensor:
        """Return the index of the level that each of the boxes (K, 4) is pooled from: (K,), int64."""
        side = box_area(boxes).sqrt()
        # A box of exactly the canonical size belongs to its level, whatever the logarithm rounds to.
        level = torch.floor(self.canonical_level + torch.log2(side / self.canonical_scale) + 1e-6)
        return level.clamp(finest, coarsest).nan_to_num(nan=finest).long() - finest  # NaN: a box that is not finite
