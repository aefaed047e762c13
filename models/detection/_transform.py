"""From a list of images to a padded batch that a detector can run on, and back to the images' own coordinates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from zoofleet.errors import InvalidArgumentError
from zoofleet.models.detection._masks import paste_masks as paste

__all__ = ["Detection", "DetectionTransform", "ImageBatch", "Target"]

Detection = dict[str, Tensor]
"""What was found in one image; see `Detector.predict`."""

Target = Mapping[str, Tensor]
"""What is to be found in one image, for training; see `Detector.losses`."""


@dataclass(frozen=True, slots=True)
class ImageBatch:
    """Images of several sizes in one tensor.

    Attributes:
        tensor: float (N, C, H, W), normalised; zero right of and below each image.
        sizes: height and width of each image within it.
        original_sizes: height and width of each image before it was resized.
    """

    tensor: Tensor
    sizes: list[tuple[int, int]]
    original_sizes: list[tuple[int, int]]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the batch, padding included."""
        return self.tensor.shape[-2], self.tensor.shape[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionTransform:
    """Normalises, resizes and pads.

    Attributes:
        mean: of each channel, for images in [0, 1].
        std: of each channel.
        min_sizes: pixels of the shorter side; training draws one of these for each image, inference takes the last.
        max_size: most pixels of the longer side, which the shorter side then yields to.
        size_divisible: the batch is padded to multiples of this.
        fixed_size: height and width that every image gets, instead of the above.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    min_sizes: tuple[int, ...] = (800,)
    max_size: int = 1333
    size_divisible: int = 32
    fixed_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not self.mean or len(self.mean) != len(self.std) or not all(s > 0 for s in self.std):
            raise InvalidArgumentError(
                "image_mean and image_std hold a number for each channel, the latter above 0; got "
                f"{self.mean} and {self.std}"
            )

    def batch(self, images: Sequence[Tensor]) -> ImageBatch:
        """Batch float images (C, H, W) in [0, 1] for inference."""
        return self._batch(images, [self.min_sizes[-1]] * len(images))

    def training_batch(self, images: Sequence[Tensor], targets: Sequence[Target]) -> tuple[ImageBatch, list[Target]]:
        """Batch float images (C, H, W) in [0, 1] for training, and bring their targets to the new sizes."""
        # The reference draws once an image, even where there is nothing to choose: equal seeds give equal losses.
        drawn = [self.min_sizes[int(torch.rand(1).item() * len(self.min_sizes))] for _ in images]
        batch = self._batch(images, drawn)
        dtype = torch.promote_types(batch.tensor.dtype, torch.float32)
        sizes = zip(targets, batch.original_sizes, batch.sizes, strict=True)
        return batch, [_resize_target(target, old, new, dtype) for target, old, new in sizes]

    def restore(self, detections: list[Detection], batch: ImageBatch, *, paste_masks: bool) -> list[Detection]:
        """Bring detections to the coordinates of the original images.

        Args:
            detections: one for each image, in coordinates of the batch.
            batch: what they were found in.
            paste_masks: turn mask probabilities within the box (N, 1, M, M) into ones within the image (N, 1, H, W).
        """
        restored = []
        for detection, new, old in zip(detections, batch.sizes, batch.original_sizes, strict=True):
            result = dict(detection)
            result["boxes"] = _scale_boxes(detection["boxes"], new, old)
            if "masks" in detection and paste_masks:
                result["masks"] = paste(detection["masks"], result["boxes"], old)
            if "keypoints" in detection:
                result["keypoints"] = _scale_keypoints(detection["keypoints"], new, old)
            restored.append(result)
        return restored

    def _batch(self, images: Sequence[Tensor], min_sizes: Sequence[int]) -> ImageBatch:
        mean = torch.tensor(self.mean, dtype=images[0].dtype, device=images[0].device)[:, None, None]
        std = torch.tensor(self.std, dtype=images[0].dtype, device=images[0].device)[:, None, None]
        originals = [(image.shape[-2], image.shape[-1]) for image in images]
        sizes = [self._resized(h, w, m) for (h, w), m in zip(originals, min_sizes, strict=True)]
        step = self.size_divisible
        height, width = (math.ceil(max(side) / step) * step for side in zip(*sizes, strict=True))
        tensor = images[0].new_zeros((len(images), len(self.mean), height, width))
        for i, (image, (h, w)) in enumerate(zip(images, sizes, strict=True)):
            resized = F.interpolate(((image - mean) / std)[None], (h, w), mode="bilinear", align_corners=False)
            tensor[i, :, :h, :w] = resized[0]  # by index: autograd refuses to write into what iterating gives
        return ImageBatch(tensor, sizes, originals)

    def _resized(self, height: int, width: int, min_size: int) -> tuple[int, int]:
        if self.fixed_size is not None:
            return self.fixed_size
        scale = min(min_size / min(height, width), self.max_size / max(height, width))
        # A strip one pixel high would vanish under a scale below one.
        return max(math.floor(height * scale), 1), max(math.floor(width * scale), 1)


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
