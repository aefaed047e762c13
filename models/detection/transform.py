"""From a list of images to a padded batch that a detector can run on, and back to the images' own coordinates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoofleet.errors import InvalidArgumentError
from zoofleet.models.detection._checks import positive
from zoofleet.models.detection._masks import paste_masks as paste
from zoofleet.models.detection.image_list import ImageList

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Detection", "GeneralizedRCNNTransform", "Target"]

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)

Detection = dict[str, Tensor]
"""What was found in one image; see `Detector.predict`."""

Target = Mapping[str, Tensor]
"""What is to be found in one image, for training; see `Detector.losses`."""


class GeneralizedRCNNTransform(nn.Module):
    """Normalises, resizes and pads.

    Args:
        min_size: pixels of the shorter side, or several of which training draws one for each image and inference takes
            the last.
        max_size: most pixels of the longer side, which the shorter side then yields to.
        image_mean: of each channel, for images in [0, 1].
        image_std: of each channel.
        size_divisible: the batch is padded to multiples of this.
        fixed_size: height and width that every image gets, instead of the above.

    Raises:
        InvalidArgumentError: a value that it cannot take.
    """

    def __init__(
        self,
        min_size: int | Sequence[int],
        max_size: int,
        image_mean: Sequence[float],
        image_std: Sequence[float],
        size_divisible: int = 32,
        fixed_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.min_size = (min_size,) if isinstance(min_size, int) else tuple(min_size)
        self.max_size = positive("max_size", max_size)
        self.image_mean, self.image_std = tuple(image_mean), tuple(image_std)
        self.size_divisible = positive("size_divisible", size_divisible)
        self.fixed_size = fixed_size
        if not self.min_size:
            raise InvalidArgumentError("min_size must be a positive integer or a sequence of some, got an empty one")
        for size in self.min_size:
            positive("min_size", size)
        if not self.image_mean or len(self.image_mean) != len(self.image_std) or not all(s > 0 for s in self.image_std):
            raise InvalidArgumentError(
                "image_mean and image_std hold a number for each channel, the latter above 0; got "
                f"{self.image_mean} and {self.image_std}"
            )

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
    ) -> tuple[ImageList, list[Target] | None]:
        """Batch images, and bring their targets to the new sizes.

        Args:
            images: float (C, H, W) in [0, 1].
            targets: for training, one for each image; None in inference.

        Returns:
            The batch, and the targets in its coordinates.
        """
        if targets is None:
            return self._batch(images, [self.min_size[-1]] * len(images)), None
        # The reference draws once an image, even where there is nothing to choose: equal seeds give equal losses.
        drawn = [self.min_size[int(torch.rand(1).item() * len(self.min_size))] for _ in images]
        batch = self._batch(images, drawn)
        dtype = torch.promote_types(batch.tensors.dtype, torch.float32)
        triples = zip(targets, images, batch.image_sizes, strict=True)
        return batch, [_resize_target(target, _size(image), new, dtype) for target, image, new in triples]

    def postprocess(
        self,
        result: Sequence[Detection],
        image_shapes: Sequence[tuple[int, int]],
        original_image_sizes: Sequence[tuple[int, int]],
        *,
        paste_masks: bool = True,
    ) -> list[Detection]:
        """Bring detections to the coordinates of the original images.

        Args:
            result: one for each image, in coordinates of the batch.
            image_shapes: height and width of each image within the batch.
            original_image_sizes: the same before it was resized.
            paste_masks: turn mask probabilities within the box (N, 1, M, M) into ones within the image (N, 1, H, W).
        """
        restored = []
        for detection, new, old in zip(result, image_shapes, original_image_sizes, strict=True):
            back = dict(detection)
            back["boxes"] = _scale_boxes(detection["boxes"], new, old)
            if "masks" in detection and paste_masks:
                back["masks"] = paste(detection["masks"], back["boxes"], old)
            if "keypoints" in detection:
                back["keypoints"] = _scale_keypoints(detection["keypoints"], new, old)
            restored.append(back)
        return restored

    def _batch(self, images: Sequence[Tensor], min_sizes: Sequence[int]) -> ImageList:
        mean = torch.tensor(self.image_mean, dtype=images[0].dtype, device=images[0].device)[:, None, None]
        std = torch.tensor(self.image_std, dtype=images[0].dtype, device=images[0].device)[:, None, None]
        sizes = [self._resized(*_size(image), m) for image, m in zip(images, min_sizes, strict=True)]
        step = self.size_divisible
        height, width = (math.ceil(max(side) / step) * step for side in zip(*sizes, strict=True))
        tensor = images[0].new_zeros((len(images), len(self.image_mean), height, width))
        for i, (image, (h, w)) in enumerate(zip(images, sizes, strict=True)):
            resized = F.interpolate(((image - mean) / std)[None], (h, w), mode="bilinear", align_corners=False)
            tensor[i, :, :h, :w] = resized[0]  # by index: autograd refuses to write into what iterating gives
        return ImageList(tensor, sizes)

    def _resized(self, height: int, width: int, min_size: int) -> tuple[int, int]:
        if self.fixed_size is not None:
            return self.fixed_size
        scale = min(min_size / min(height, width), self.max_size / max(height, width))
        # A strip one pixel high would vanish under a scale below one.
        return max(math.floor(height * scale), 1), max(math.floor(width * scale), 1)

    def extra_repr(self) -> str:
        """For printing the module."""
        if self.fixed_size is not None:
            return f"fixed_size={self.fixed_size}"
        return f"min_size={self.min_size}, max_size={self.max_size}"


def _size(image: Tensor) -> tuple[int, int]:
    return image.shape[-2], image.shape[-1]


def _resize_target(target: Target, old: tuple[int, int], new: tuple[int, int], dtype: torch.dtype) -> Target:
    resized = dict(target)
    resized["boxes"] = _scale_boxes(target["boxes"].to(dtype), old, new)
    if "masks" in target:
        masks = target["masks"][:, None].float()  # (N, 1, H, W)
        resized["masks"] = F.interpolate(masks, new)[:, 0].byte()
    if "keypoints" in target:
        resized["keypoints"] = _scale_keypoints(target["keypoints"].to(dtype), old, new)
    return resized


def _scale_boxes(boxes: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    y, x = new[0] / old[0], new[1] / old[1]
    return boxes * boxes.new_tensor((x, y, x, y))


def _scale_keypoints(keypoints: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    return keypoints * keypoints.new_tensor((new[1] / old[1], new[0] / old[0], 1))
