"""Images of several sizes in one tensor.

Letters in shapes: N images, C channels, H and W pixels of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["ImageList"]


@dataclass(frozen=True, slots=True)
class ImageList:
    """A batch of images of several sizes, each in the upper left corner of its part of one tensor.

    Attributes:
        tensors: float (N, C, H, W), normalised; zero to the right of each image and below it.
        image_sizes: height and width in pixels of each image, without the zeros.
    """

    tensors: Tensor
    image_sizes: list[tuple[int, int]]

    @property
    def size(self) -> tuple[int, int]:
        """The height and width of the batch in pixels, with the zeros around the images."""
        return self.tensors.shape[-2], self.tensors.shape[-1]

    def to(self, device: torch.device) -> ImageList:
        """Return the same images on a device."""
        return ImageList(self.tensors.to(device), self.image_sizes)
