"""Anchors: the boxes that detectors regress from, laid over the cells of their feature maps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoofleet.errors import InvalidArgumentError
from zoofleet.models.detection.image_list import ImageList

__all__ = ["AnchorGenerator", "DefaultBoxGenerator", "by_anchor"]


def by_anchor(values: Tensor, columns: int) -> Tensor:
    """A head's (N, A * columns, H, W) as (N, H * W * A, columns), in the order of the generators' boxes."""
    return values.permute(0, 2, 3, 1).reshape(values.shape[0], -1, columns)


class AnchorGenerator(nn.Module):
    """Anchors of several sizes and aspect ratios centred on each cell's top left corner (Faster R-CNN).

    Args:
        sizes: for each feature map the square roots of its anchors' areas, in pixels; a number stands for itself alone.
        aspect_ratios: for each feature map its anchors' ratios of height to width; numbers rather than sequences are
            every map's.

    Raises:
        InvalidArgumentError: no feature map, or not as many of `aspect_ratios` as of `sizes`.
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
        """Anchors at each cell, by feature map."""
        return [len(s) * len(r) for s, r in zip(self.sizes, self.aspect_ratios, strict=True)]

    def forward(self, image_list: ImageList, feature_maps: Sequence[Tensor]) -> list[Tensor]:
        """Anchors of all feature maps, as float32 xyxy (A, 4), by map, row, column, ratio and size.

        Args:
            image_list: the batch that the maps were computed from.
            feature_maps: (N, C, H, W) each.

        Returns:
            The same tensor for each image.

        Raises:
            InvalidArgumentError: not as many maps as there are `sizes`.
        """
        if len(feature_maps) != len(self.sizes):
            raise InvalidArgumentError(
                f"anchors are defined for {len(self.sizes)} feature maps, the backbone gave {len(feature_maps)}"
            )
        device = feature_maps[0].device
        height, width = image_list.size
        levels = []
        for sizes, ratios, fmap in zip(self.sizes, self.aspect_ratios, feature_maps, strict=True):
            rows, columns = fmap.shape[-2:]
            x = torch.arange(columns, device=device) * (width // columns)
            y = torch.arange(rows, device=device) * (height // rows)
            corner_y, corner_x = torch.meshgrid(y, x, indexing="ij")
            corners = torch.stack((corner_x, corner_y, corner_x, corner_y), dim=-1)  # (H, W, 4)
            anchors = corners[:, :, None] + _cell_anchors(sizes, ratios).to(device)  # (H, W, A, 4)
            levels.append(anchors.reshape(-1, 4))  # (H * W * A, 4)
        return [torch.cat(levels)] * len(image_list.image_sizes)

    def extra_repr(self) -> str:
        """For printing the module."""
        return f"sizes={self.sizes}, aspect_ratios={self.aspect_ratios}"


def _cell_anchors(sizes: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """Anchors around the origin, rounded to pixels: float32 (len(ratios) * len(sizes), 4)."""
    size = torch.tensor(sizes, dtype=torch.float32)
    root = torch.tensor(ratios, dtype=torch.float32).sqrt()
    w = (1 / root[:, None] * size).flatten()
    h = (root[:, None] * size).flatten()
    return (torch.stack((-w, -h, w, h), dim=1) / 2).round()


class DefaultBoxGenerator(nn.Module):
    """SSD's default boxes (arXiv:1512.02325, section 2.2), centred in each cell.

    Args:
        aspect_ratios: for each feature map the ratios besides 1; each stands for itself and its inverse.
        min_ratio: size of the first map's boxes, as a fraction of the image's.
        max_ratio: size of the last map's boxes; those between are spaced evenly. Above it, 1 follows.
        scales: these sizes themselves, one for each map and one more, instead of `min_ratio` and `max_ratio`.
        steps: pixels between neighbouring cells by map, where it is not the image's size over the map's.
        clip: no box is wider or higher than the image.

    Raises:
        InvalidArgumentError: no feature map, or not as many `steps` and `scales` as it takes.
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
        """Default boxes at each cell, by feature map."""
        return [2 + 2 * len(ratios) for ratios in self.aspect_ratios]

    def forward(self, image_list: ImageList, feature_maps: Sequence[Tensor]) -> list[Tensor]:
        """Default boxes of all feature maps, as float32 xyxy in pixels (A, 4), by map, row, column and shape.

        Args:
            image_list: the batch that the maps were computed from.
            feature_maps: (N, C, H, W) each.

        Returns:
            The same tensor for each image.

        Raises:
            InvalidArgumentError: not as many maps as there are `aspect_ratios`.
        """
        if len(feature_maps) != len(self.aspect_ratios):
            raise InvalidArgumentError(
                f"default boxes are defined for {len(self.aspect_ratios)} feature maps, the backbone gave "
                f"{len(feature_maps)}"
            )
        device = feature_maps[0].device
        height, width = image_list.size
        levels = []
        for k, fmap in enumerate(feature_maps):
            rows, columns = fmap.shape[-2:]
            # Cells along each axis, as the image's size over the step: a fraction where the step does not divide it.
            down, across = (height / self.steps[k], width / self.steps[k]) if self.steps else (rows, columns)
            y = (torch.arange(rows, dtype=torch.float32, device=device) + 0.5) / down
            x = (torch.arange(columns, dtype=torch.float32, device=device) + 0.5) / across
            center_y, center_x = torch.meshgrid(y, x, indexing="ij")
            centers = torch.stack((center_x, center_y), dim=-1)[:, :, None]  # (H, W, 1, 2)
            half = self._shapes(k).to(device) / 2  # (K, 2)
            levels.append(torch.cat((centers - half, centers + half), dim=-1).reshape(-1, 4))  # (H * W * K, 4)
        boxes = torch.cat(levels) * torch.tensor((width, height, width, height), device=device)
        return [boxes] * len(image_list.image_sizes)

    def _shapes(self, k: int) -> Tensor:
        """Widths and heights of the boxes of map `k`, as fractions of the image's: float32 (K, 2)."""
        scale = self.scales[k]
        between = math.sqrt(scale * self.scales[k + 1])
        shapes = [(scale, scale), (between, between)]
        for ratio in self.aspect_ratios[k]:
            root = math.sqrt(ratio)
            shapes += [(scale * root, scale / root), (scale / root, scale * root)]
        made = torch.tensor(shapes, dtype=torch.float32)
        return made.clamp(0, 1) if self.clip else made
