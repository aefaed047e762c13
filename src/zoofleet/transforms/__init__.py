"""The classic transforms, for code that puts its preprocessing together by hand.

Published weights bring their own: `weights.transforms()`. Images are RGB Pillow images or tensors (..., 3, H, W), uint8
or floating point.
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
    """One transform after the other.

    Attributes:
        transforms: each takes what the one before returns.
    """

    transforms: Sequence[Callable[[Any], Any]]

    def __call__(self, image: Any) -> Any:
        """Apply them all."""
        for transform in self.transforms:
            image = transform(image)
        return image


@dataclass(frozen=True)
class Resize:
    """Resize, bilinear and antialiased.

    Attributes:
        size: (height, width) in pixels, or of the shorter side alone.
    """

    size: int | Sequence[int]

    def __call__(self, image: Picture) -> Picture:
        """The resized image, of the type of the given one."""
        size = (self.size,) if isinstance(self.size, int) else self.size
        return _image.resize(_image.checked(image), size, "bilinear")


@dataclass(frozen=True)
class CenterCrop:
    """Cut out the middle; what the image lacks is added as black.

    Attributes:
        size: (height, width) in pixels, or the side of a square.
    """

    size: int | tuple[int, int]

    def __call__(self, image: Picture) -> Picture:
        """The middle, of the type of the given image."""
        size = (self.size, self.size) if isinstance(self.size, int) else self.size
        return _image.center_crop(_image.checked(image), size)


@dataclass(frozen=True)
class PILToTensor:
    """A Pillow image to a uint8 tensor."""

    def __call__(self, image: Image.Image) -> Tensor:
        """RGB to uint8 (3, H, W), L to (1, H, W)."""
        pixels = torch.from_numpy(np.atleast_3d(np.array(image)))  # (H, W, C)
        return pixels.permute(2, 0, 1).contiguous()  # (C, H, W)


@dataclass(frozen=True)
class ToTensor:
    """A Pillow image to a float tensor (3, H, W) in [0, 1]."""

    def __call__(self, image: Image.Image) -> Tensor:
        """RGB to float32 (3, H, W)."""
        return _image.to_float(_image.checked(image)).contiguous()


@dataclass(frozen=True)
class ConvertImageDtype:
    """Integers of 0 to 255 to floating point in [0, 1].

    Attributes:
        dtype: a floating-point type.
    """

    dtype: torch.dtype = torch.float32

    def __call__(self, image: Tensor) -> Tensor:
        """The tensor in that type.

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
    """Subtract a mean from each channel and divide by a deviation.

    Attributes:
        mean: for each channel.
        std: for each channel.
    """

    mean: Sequence[float]
    std: Sequence[float]

    def __call__(self, image: Tensor) -> Tensor:
        """Floating-point (..., C, H, W) to the same shape."""
        return _image.normalize(image, self.mean, self.std)
