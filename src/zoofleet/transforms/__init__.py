"""The classic transforms, for code that composes its preprocessing by hand.

Published weights have transforms of their own: `weights.transforms()`. Images are RGB Pillow images, or tensors
(..., 3, H, W), uint8 or floating point.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from zoofleet.errors import InvalidArgumentError
from zoofleet.models.transforms import _image
from zoofleet.models.transforms._image import Picture

__all__ = ["CenterCrop", "Compose", "ConvertImageDtype", "Normalize", "PILToTensor", "Resize", "ToTensor"]


@dataclass(frozen=True)
class Compose:
    """Apply transforms one after the other.

    Attributes:
        transforms: the transforms. Each takes what the one before returns.
    """

    transforms: Sequence[Callable[[Any], Any]]

    def __call__(self, image: Any) -> Any:
        """Return what the last transform makes of the image."""
        for transform in self.transforms:
            image = transform(image)
        return image


@dataclass(frozen=True)
class Resize:
    """Resize an image, bilinear and antialiased.

    Attributes:
        size: (height, width) in pixels, or the length of the shorter side, which keeps the aspect ratio.
    """

    size: int | Sequence[int]

    def __call__(self, image: Picture) -> Picture:
        """Return the resized image, of the same type as the image."""
        size = (self.size,) if isinstance(self.size, int) else self.size
        return _image.resize(_image.checked(image), size, "bilinear")


@dataclass(frozen=True)
class CenterCrop:
    """Cut out the middle of an image. Where the image is smaller, black is added around it.

    Attributes:
        size: (height, width) in pixels, or the side of a square.
    """

    size: int | tuple[int, int]

    def __call__(self, image: Picture) -> Picture:
        """Return the middle of the image, of the same type as the image."""
        size = (self.size, self.size) if isinstance(self.size, int) else self.size
        return _image.center_crop(_image.checked(image), size)


@dataclass(frozen=True)
class PILToTensor:
    """Convert a Pillow image to a uint8 tensor."""

    def __call__(self, image: Image.Image) -> Tensor:
        """Return uint8 (3, H, W) for mode RGB, (1, H, W) for mode L."""
        pixels = torch.from_numpy(np.atleast_3d(np.array(image)))  # (H, W, C)
        return pixels.permute(2, 0, 1).contiguous()  # (C, H, W)


@dataclass(frozen=True)
class ToTensor:
    """Convert a Pillow image to a float tensor."""

    def __call__(self, image: Image.Image) -> Tensor:
        """Return float32 (3, H, W) in [0, 1] for mode RGB."""
        return _image.to_float(_image.checked(image)).contiguous()


@dataclass(frozen=True)
class ConvertImageDtype:
    """Convert integers of 0 to 255 to floating point in [0, 1].

    Attributes:
        dtype: the type to convert to, a floating-point one.
    """

    dtype: torch.dtype = torch.float32

    def __call__(self, image: Tensor) -> Tensor:
        """Return the image in that type. Floating-point values stay as they are.

        Raises:
            InvalidArgumentError: the tensor is neither uint8 nor floating point, or the type is an integer one.
        """
        if not self.dtype.is_floating_point or not (image.dtype == torch.uint8 or image.is_floating_point()):
            raise InvalidArgumentError(
                f"{image.dtype} to {self.dtype}; accepted: uint8 or floating point, to floating point"
            )
        return _image.to_float(image).to(self.dtype)


@dataclass(frozen=True)
class Normalize:
    """Subtract a mean from each channel, and divide by a standard deviation.

    Attributes:
        mean: the mean of each channel.
        std: the standard deviation of each channel.
    """

    mean: Sequence[float]
    std: Sequence[float]

    def __call__(self, image: Tensor) -> Tensor:
        """Return a floating-point image (..., C, H, W), normalized, in the same shape and type."""
        return _image.normalize(image, self.mean, self.std)
