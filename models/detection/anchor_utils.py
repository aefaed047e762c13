"""Anchors: the boxes that detectors regress from, laid over the cells of their feature maps.

Letters in shapes: N images, C channels, H and W cells of a feature map, K anchors at each cell, A anchors of all maps.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn

from zoofleet.errors import InvalidArgumentError
from zoofleet.models.detection._kept import Kept
from zoofleet.models.detection.image_list import ImageList

__all__ = ["AnchorGenerator", "DefaultBoxGenerator", "by_anchor"]

_anchors: Final = Kept(16)
"""The anchors of the last sizes of batches. Those of 1333 x 1333 pixels take 7 MB."""


def by_anchor(values: Tensor, columns: int) -> Tensor:
    """Reorder what a head computed for each cell into a row for each anchor, in the order of the generators' boxes.

    Args:
        values: (N, K * columns, H, W).
        columns: values of each anchor.

    Returns:
        (N, H * W * K, columns).
    """
    return values.permute(0, 2, 3, 1).reshape(values.shape[0], -1, columns)


class _Generator(nn.Module):
    """Lays the same boxes over the cells of every image; a subclass says which boxes."""

    @abstractmethod
    def num_anchors_per_location(self) -> list[int]:
        """Return the number of boxes at each cell, by feature map."""

    @abstractmethod
    def _definition(self) -> str:
        """Return all that the boxes depend on beside the sizes of the maps and of the batch."""

    @abstractmethod
    def _lay(self, index: int, cells: tuple[int, int], size: tuple[int, int], device: torch.device) -> Tensor:
        """Return the boxes of one feature map, float32 xyxy (H, W, K, 4) in pixels of the batch.

        Args:
            index: the map's position among the maps.
            cells: rows H and columns W of the map.
            size: height and width of the batch in pixels.
            device: where to make them.
        """

    def forward(self, image_list: ImageList, feature_maps: Sequence[Tensor]) -> list[Tensor]:
        """Lay the boxes of all feature maps.

        Args:
            image_list: the batch that the maps were computed from.
            feature_maps: (N, C, H, W) each, as many as the generator was made for.

        Returns:
            The same tensor for each image: float32 xyxy (A, 4) in pixels of the batch, by map, then by row, column and
            position within the cell. It is kept for later batches of this size: do not write to it.

        Raises:
            InvalidArgumentError: the number of maps is another.
        """
        maps = len(self.num_anchors_per_location())
        if len(feature_maps) != maps:
            raise InvalidArgumentError(
                f"anchors are defined for {maps} feature maps, the backbone gave {len(feature_maps)}"
            )
        cells = tuple((fmap.shape[-2], fmap.shape[-1]) for fmap in feature_maps)
        size, device = image_list.size, feature_maps[0].device

        def lay() -> Tensor:
            return torch.cat([self._lay(i, each, size, device).reshape(-1, 4) for i, each in enumerate(cells)])

        boxes = _anchors.get((type(self), self._definition(), cells, size), feature_maps[0], lay)
        return [boxes] * len(image_list.image_sizes)


class AnchorGenerator(_Generator):
    """Lays anchors of several sizes and aspect ratios, centred on each cell's top left corner.

    Within a cell anchors are ordered by ratio, then by size. Source: Ren et al., "Faster R-CNN", arXiv:1506.01497,
    section 3.1.1.

    Args:
        sizes: for each feature map the square roots of its anchors' areas, in pixels; a number in the place of a
            sequence is the map's only size.
        aspect_ratios: for each feature map its anchors' ratios of height to width; numbers in the place of sequences
            are the ratios of every map.

    Raises:
        InvalidArgumentError: there is no feature map, or there are not as many of `aspect_ratios` as of `sizes`.
    """

    def __init__(
        self,
        sizes: Sequence[Sequence[float] | float] = ((128, 256, 512),),
        aspect_ratios: Sequence[Sequence[float] | float] = ((0.5, 1.0, 2.0),),
    ) -> None:
        super().__init__()
        self.sizes = [(s,) if isinstance(s, int | float) else tuple(s) for s in sizes]
        shared = [ratio for ratio in aspect_ratios if isinstance(ratio, int | float)]
        each = [shared] * len(self.sizes) if shared else aspect_ratios
        self.aspect_ratios: list[tuple[float, ...]] = [tuple(ratios) for ratios in each]  # type: ignore[arg-type]
        if not self.sizes or len(self.sizes) != len(self.aspect_ratios):
            raise InvalidArgumentError(
                "sizes and aspect_ratios hold one sequence for each feature map; got "
                f"{len(self.sizes)} and {len(self.aspect_ratios)}"
            )

    def num_anchors_per_location(self) -> list[int]:
        """Return the number of anchors at each cell, by feature map."""
        return [len(s) * len(r) for s, r in zip(self.sizes, self.aspect_ratios, strict=True)]

    def _definition(self) -> str:
        return repr((self.sizes, self.aspect_ratios))

    def _lay(self, index: int, cells: tuple[int, int], size: tuple[int, int], device: torch.device) -> Tensor:
        (rows, columns), (height, width) = cells, size
        x = torch.arange(columns, device=device) * (width // columns)
        y = torch.arange(rows, device=device) * (height // rows)
        corner_y, corner_x = torch.meshgrid(y, x, indexing="ij")
        corners = torch.stack((corner_x, corner_y, corner_x, corner_y), dim=-1)  # (H, W, 4)
        return corners[:, :, None] + self._around_origin(index).to(device)  # (H, W, K, 4)

    def _around_origin(self, index: int) -> Tensor:
        """Return a cell's anchors around (0, 0), rounded to pixels: float32 (K, 4)."""
        size = torch.tensor(self.sizes[index], dtype=torch.float32)
        root = torch.tensor(self.aspect_ratios[index], dtype=torch.float32).sqrt()
        w = (1 / root[:, None] * size).flatten()
        h = (root[:, None] * size).flatten()
        return (torch.stack((-w, -h, w, h), dim=1) / 2).round()

    def extra_repr(self) -> str:
        """Return what `print` shows of the module: its sizes and aspect ratios."""
        return f"sizes={self.sizes}, aspect_ratios={self.aspect_ratios}"


class DefaultBoxGenerator(_Generator):
    """Lays SSD's default boxes, centred in each cell.

    Source: Liu et al., "SSD: Single Shot MultiBox Detector", arXiv:1512.02325, section 2.2. Sizes are fractions of the
    image's height and width.

    Args:
        aspect_ratios: for each feature map its boxes' ratios besides 1; each stands for itself and its inverse.
        min_ratio: size of the first map's boxes.
        max_ratio: size of the last map's boxes; the sizes between are spaced evenly, and 1 follows the last.
        scales: the sizes themselves, one for each map and one more, in the place of `min_ratio` and `max_ratio`.
        steps: pixels between neighbouring cells of each map; None for the image's size over the map's.
        clip: whether boxes are cut to be no wider and no higher than the image.

    Raises:
        InvalidArgumentError: there is no feature map, or not one of `steps`, or of `scales`, for each.
    """

    def __init__(
        self,
        aspect_ratios: Sequence[Sequence[float]],
        min_ratio: float = 0.15,
        max_ratio: float = 0.9,
        scales: Sequence[float] | None = None,
        steps: Sequence[float] | None = None,
        clip: bool = True,
    ) -> None:
        super().__init__()
        maps = len(aspect_ratios)
        if not maps:
            raise InvalidArgumentError("aspect_ratios holds a sequence for each feature map; got none")
        if steps is not None and len(steps) != maps:
            raise InvalidArgumentError(f"steps needs {maps} values, one for each feature map; got {steps}")
        if scales is not None and len(scales) != maps + 1:
            raise InvalidArgumentError(f"scales needs {maps + 1} values, one more than maps; got {scales}")
        if scales is None:
            step = (max_ratio - min_ratio) / max(maps - 1, 1)
            scales = [min_ratio + step * k for k in range(maps)] + [1.0]
        self.aspect_ratios = aspect_ratios
        self.scales = list(scales)
        self.steps = steps
        self.clip = clip

    def num_anchors_per_location(self) -> list[int]:
        """Return the number of default boxes at each cell, by feature map."""
        return [2 + 2 * len(ratios) for ratios in self.aspect_ratios]

    def _definition(self) -> str:
        return repr((self.aspect_ratios, self.scales, self.steps, self.clip))

    def _lay(self, index: int, cells: tuple[int, int], size: tuple[int, int], device: torch.device) -> Tensor:
        (rows, columns), (height, width) = cells, size
        # Cells along each axis, as the image's size over the step: a fraction where the step does not divide it.
        down, across = (height / self.steps[index], width / self.steps[index]) if self.steps else (rows, columns)
        y = (torch.arange(rows, dtype=torch.float32, device=device) + 0.5) / down
        x = (torch.arange(columns, dtype=torch.float32, device=device) + 0.5) / across
        center_y, center_x = torch.meshgrid(y, x, indexing="ij")
        centers = torch.stack((center_x, center_y), dim=-1)[:, :, None]  # (H, W, 1, 2)
        half = self._shapes(index).to(device) / 2  # (K, 2)
        boxes = torch.cat((centers - half, centers + half), dim=-1)  # (H, W, K, 4)
        return boxes * torch.tensor((width, height, width, height), device=device)

    def _shapes(self, index: int) -> Tensor:
        """Return widths and heights of a map's boxes, as fractions of the image's: float32 (K, 2)."""
        scale = self.scales[index]
        between = math.sqrt(scale * self.scales[index + 1])
        shapes = [(scale, scale), (between, between)]
        for ratio in self.aspect_ratios[index]:
            root = math.sqrt(ratio)
            shapes += [(scale * root, scale / root), (scale / root, scale * root)]
        made = torch.tensor(shapes, dtype=torch.float32)
        return made.clamp(0, 1) if self.clip else made
