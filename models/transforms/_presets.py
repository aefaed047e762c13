"""Transforms presets: one for each way in which published weights want their input."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from PIL import Image
from torch import Tensor, nn

from zoofleet.errors import InvalidArgumentError
from zoofleet.models.transforms._image import (
    Interpolation,
    Picture,
    center_crop,
    checked,
    normalize,
    resize,
    resize_crop_normalize,
    to_bytes,
    to_float,
)

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)
_KINETICS_MEAN: Final = (0.43216, 0.394666, 0.37645)
_KINETICS_STD: Final = (0.22803, 0.22145, 0.216989)


def _levels(mean: Sequence[float] = (0.0,) * 3, std: Sequence[float] = (1.0,) * 3) -> Tensor:
    """Return the normalised value of each byte in each channel, float32 (3, 256)."""
    return normalize(to_float(torch.arange(256, dtype=torch.uint8).expand(3, 1, 256)), mean, std)[:, 0]


class _Preset(nn.Module):
    def extra_repr(self) -> str:
        return ", ".join(f"{k}={v!r}" for k, v in vars(self).items() if not k.startswith("_") and k != "training")


class ImageClassification(_Preset):
    """Resize the shorter side, crop the middle, normalise.

    Args:
        crop_size: side of the square output in pixels.
        resize_size: length of the shorter side before the crop in pixels.
        mean: one value for each of R, G and B in [0, 1].
        std: one value for each of R, G and B.
        interpolation: `bilinear` or `bicubic`.
        antialias: filter tensors before they shrink; Pillow images always are.
    """

    def __init__(
        self,
        *,
        crop_size: int,
        resize_size: int = 256,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        interpolation: Interpolation = "bilinear",
        antialias: bool = True,
    ) -> None:
        super().__init__()
        self.crop_size = crop_size
        self.resize_size = resize_size
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.interpolation = interpolation
        self.antialias = antialias

    def forward(self, image: Picture) -> Tensor:
        """PIL image, or uint8 or float tensor (..., 3, H, W), to a float tensor (..., 3, crop_size, crop_size)."""
        return resize_crop_normalize(
            checked(image),
            self.resize_size,
            self.crop_size,
            self.mean,
            self.std,
            self.interpolation,
            self.antialias,
        )

    def pixels(self, image: Image.Image) -> Tensor:
        """PIL image to the bytes, uint8 (3, crop_size, crop_size), whose `levels` are what `forward` gives."""
        resized = resize(checked(image), (self.resize_size,), self.interpolation)
        return to_bytes(center_crop(resized, (self.crop_size, self.crop_size)))

    def levels(self) -> Tensor:
        """Return what `forward` makes of each byte in each channel, float32 (3, 256)."""
        return _levels(self.mean, self.std)


class SemanticSegmentation(_Preset):
    """Resize the shorter side and normalise; nothing is cropped.

    Args:
        resize_size: length of the shorter side in pixels, None to keep the image's size.
        mean: one value for each of R, G and B in [0, 1].
        std: one value for each of R, G and B.
        interpolation: `bilinear` or `bicubic`.
        antialias: filter tensors before they shrink; Pillow images always are.
    """

    def __init__(
        self,
        *,
        resize_size: int | None = 520,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        interpolation: Interpolation = "bilinear",
        antialias: bool = True,
    ) -> None:
        super().__init__()
        self.resize_size = resize_size
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.interpolation = interpolation
        self.antialias = antialias

    def forward(self, image: Picture) -> Tensor:
        """PIL image, or uint8 or float tensor (..., 3, H, W), to a normalised float tensor (..., 3, H', W')."""
        return normalize(to_float(self._resized(image)), self.mean, self.std)

    def pixels(self, image: Image.Image) -> Tensor:
        """PIL image to the bytes, uint8 (3, H', W'), whose `levels` are what `forward` gives."""
        return to_bytes(self._resized(image))

    def levels(self) -> Tensor:
        """Return what `forward` makes of each byte in each channel, float32 (3, 256)."""
        return _levels(self.mean, self.std)

    def _resized(self, image: Picture) -> Picture:
        image = checked(image)
        if self.resize_size is None:
            return image
        return resize(image, (self.resize_size,), self.interpolation, self.antialias)


class ObjectDetection(_Preset):
    """Only scale to [0, 1]: detectors resize and normalise themselves."""

    def forward(self, image: Picture) -> Tensor:
        """PIL image, or uint8 or float tensor (..., 3, H, W), to a float tensor (..., 3, H, W) in [0, 1]."""
        return to_float(checked(image))

    def pixels(self, image: Image.Image) -> Tensor:
        """PIL image to the bytes, uint8 (3, H, W), whose `levels` are what `forward` gives."""
        return to_bytes(checked(image))

    def levels(self) -> Tensor:
        """Return what `forward` makes of each byte in each channel, float32 (3, 256)."""
        return _levels()


class VideoClassification(_Preset):
    """Resize and crop every frame, normalise, and put channels before time.

    Args:
        crop_size: (height, width) of the output in pixels.
        resize_size: (height, width) before the crop, or (shorter side,) alone, in pixels.
        mean: one value for each of R, G and B in [0, 1].
        std: one value for each of R, G and B.
        interpolation: `bilinear` or `bicubic`.
    """

    def __init__(
        self,
        *,
        crop_size: tuple[int, int],
        resize_size: Sequence[int],
        mean: Sequence[float] = _KINETICS_MEAN,
        std: Sequence[float] = _KINETICS_STD,
        interpolation: Interpolation = "bilinear",
    ) -> None:
        super().__init__()
        self.crop_size = (crop_size[0], crop_size[1])
        self.resize_size = tuple(resize_size)
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.interpolation = interpolation

    def forward(self, clip: Picture) -> Tensor:
        """uint8 or float tensor (T, 3, H, W) or (N, T, 3, H, W) to a float tensor (3, T, h, w) or (N, 3, T, h, w).

        Raises:
            InvalidArgumentError: another shape or type.
        """
        if not isinstance(clip, Tensor) or clip.ndim not in (4, 5):
            got = tuple(clip.shape) if isinstance(clip, Tensor) else type(clip).__name__
            raise InvalidArgumentError(f"expected a tensor (T, 3, H, W) or (N, T, 3, H, W), got {got}")
        # The published video weights were evaluated on frames that were shrunk without antialiasing.
        resized = resize(checked(clip), self.resize_size, self.interpolation, antialias=False)
        frames = normalize(to_float(center_crop(resized, self.crop_size)), self.mean, self.std)
        return frames.transpose(-4, -3)  # (..., T, 3, h, w) -> (..., 3, T, h, w)


class OpticalFlow(_Preset):
    """Scale both images to [-1, 1]; their sides must be divisible by 8 for RAFT."""

    def forward(self, first: Picture, second: Picture) -> tuple[Tensor, Tensor]:
        """Two PIL images, or uint8 or float tensors (..., 3, H, W), to two float tensors (..., 3, H, W) in [-1, 1]."""
        one, two = (normalize(to_float(checked(i)), (0.5,) * 3, (0.5,) * 3).contiguous() for i in (first, second))
        return one, two

    def pixels(self, image: Image.Image) -> Tensor:
        """One of the two PIL images to the bytes, uint8 (3, H, W), whose `levels` are what `forward` gives."""
        return to_bytes(checked(image))

    def levels(self) -> Tensor:
        """Return what `forward` makes of each byte in each channel, float32 (3, 256)."""
        return _levels((0.5,) * 3, (0.5,) * 3)


_PRESETS: Final[Mapping[str, type[_Preset]]] = {
    cls.__name__: cls
    for cls in (ImageClassification, ObjectDetection, OpticalFlow, SemanticSegmentation, VideoClassification)
}


def preset(row: Mapping[str, Any]) -> Callable[..., nn.Module]:
    """Factory of the preset that a `transforms` row of the catalog names, with the row's parameters."""
    params = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items() if k != "preset"}
    return functools.partial(_PRESETS[row["preset"]], **params)
