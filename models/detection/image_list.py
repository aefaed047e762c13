"""Images of several sizes in one tensor."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["ImageList"]


@dataclass(frozen=True, slots=True)
class ImageList:
    """Images of several sizes in one tensor.

    Attributes:
        tensors: float (N, C, H, W), normalised; zero right of and below each image.
        image_sizes: height and width of each image within it.
    """

    tensors: Tensor
    image_sizes: list[tuple[int, int]]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the batch, padding included."""
        return self.tensors.shape[-2], self.tensors.shape[-1]

    def to(self, device: torch.device) -> ImageList:
        """The same images on that device."""
        return ImageList(self.tensors.to(device), self.image_sizes)
