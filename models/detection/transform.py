"""From a list of images to a padded batch that a detector can run on, and back to the images' own coordinates.

Letters in shapes: N images of a batch or objects of an image, C channels, H and W pixels, M rows and columns of a mask
within its box, K keypoints of an object.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoofleet.errors import InvalidArgumentError
from zoofleet.models.detection._kept import constant
from zoofleet.models.detection._masks import paste_masks as paste
from zoofleet.models.detection._options import positive
from zoofleet.models.detection.image_list import ImageList
from zoofleet.models.transforms._presets import IMAGENET_MEAN, IMAGENET_STD

__all__ = ["Detection", "GeneralizedRCNNTransform", "Target"]

Detection = dict[str, Tensor]
"""What was found in one image: `boxes`, `labels`, `scores` and so on, as `Detector.predict` documents them."""

Target = Mapping[str, Tensor]
"""What is to be found in one image, for training: `boxes`, `labels` and so on, as `Detector.losses` documents them."""


class GeneralizedRCNNTransform(nn.Module):
    """Normalises, resizes and pads images, and brings detections back to the images' own coordinates.

    Args:
        min_size: length in pixels that an image's shorter side is resized to, or several lengths, of which training
            draws one for each image and inference takes the last.
        max_size: greatest length in pixels of the longer side; where it would be exceeded, the shorter side becomes
            shorter than `min_size`.
        image_mean: mean of each channel, for images in [0, 1]; None for ImageNet's.
        image_std: standard deviation of each channel, above 0; None for ImageNet's.
        size_divisible: the batch's height and width are padded to multiples of this, in pixels.
        fixed_size: height and width in pixels that every image is resized to, whatever `min_size` and `max_size` are;
            None to keep the images' aspect ratios.

    Raises:
        InvalidArgumentError: a size is not a positive integer, `min_size` is empty, or the mean and the standard
            deviation have different lengths or none, or a deviation is not above 0.
    """

    def __init__(
        self,
        min_size: int | Sequence[int],
        max_size: int,
        image_mean: Sequence[float] | None,
        image_std: Sequence[float] | None,
        size_divisible: int = 32,
        fixed_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.min_size = (min_size,) if isinstance(min_size, int) else tuple(min_size)
        self.max_size = positive("max_size", max_size)
        self.image_mean = IMAGENET_MEAN if image_mean is None else tuple(image_mean)
        self.image_std = IMAGENET_STD if image_std is None else tuple(image_std)
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
        """Make a batch of images, and bring their targets to the new sizes.

        Args:
            images: float tensors (C, H, W) in [0, 1], of any sizes.
            targets: a target for each image, for training; None in inference.

        Returns:
            The batch, and the targets in its coordinates; None for them where there were none.
        """
        if targets is None:
            return self._batch(images, [self.min_size[-1]] * len(images)), None
        # One draw an image even where there is one size to choose from, as the reference does: equal seeds then give
        # equal losses.
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
            result: what was found in each image, in coordinates of the batch.
            image_shapes: height and width in pixels of each image within the batch.
            original_image_sizes: height and width in pixels of each image before it was resized.
            paste_masks: whether to turn mask probabilities over the box, (N, 1, M, M), into ones over the image,
                (N, 1, H, W).

        Returns:
            The same detections, in new dicts.
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
        mean = constant(self.image_mean, images[0])[:, None, None]
        std = constant(self.image_std, images[0])[:, None, None]
        sizes = [self._resized(*_size(image), m) for image, m in zip(images, min_sizes, strict=True)]
        tensor = images[0].new_zeros((len(images), len(self.image_mean), *self._padded(sizes)))
        for i, (image, (h, w)) in enumerate(zip(images, sizes, strict=True)):
            resized = F.interpolate(((image - mean) / std)[None], (h, w), mode="bilinear", align_corners=False)
            tensor[i, :, :h, :w] = resized[0]  # by index: autograd refuses to write into what iterating gives
        return ImageList(tensor, sizes)

    def sizes(self, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return the sizes, (height, width), that inference resizes an image to, and that it pads it to if alone.

        Args:
            height: rows of the image in pixels.
            width: columns of the image in pixels.
        """
        resized = self._resized(height, width, self.min_size[-1])
        return resized, self._padded([resized])

    def _padded(self, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
        """Return the height and width of the batch that holds images of some sizes."""
        step = self.size_divisible
        height, width = (math.ceil(max(side) / step) * step for side in zip(*sizes, strict=True))
        return height, width

    def _resized(self, height: int, width: int, min_size: int) -> tuple[int, int]:
        if self.fixed_size is not None:
            return self.fixed_size
        scale = min(min_size / min(height, width), self.max_size / max(height, width))
        # A strip one pixel high would vanish under a scale below one.
        return max(math.floor(height * scale), 1), max(math.floor(width * scale), 1)

    def extra_repr(self) -> str:
        """Return what `print` shows of the module: the size that images get."""
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
    return boxes * constant((x, y, x, y), boxes)


def _scale_keypoints(keypoints: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    return keypoints * constant((new[1] / old[1], new[0] / old[0], 1), keypoints)
