"""Checks of the images and targets that detectors are called with.

Letters in shapes: N objects of an image, K keypoints of an object, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from zoofleet.errors import InvalidArgumentError
from zoofleet.models.detection.transform import Target

__all__ = ["check_images", "check_labels", "check_targets"]


def check_images(images: object, channels: int) -> None:
    """Check that images are a non-empty list of float tensors (channels, H, W).

    Args:
        images: whatever a detector was called with.
        channels: the channels that the detector's transform normalises.

    Raises:
        InvalidArgumentError: they are something else.
    """
    if isinstance(images, Tensor) or not isinstance(images, Sequence) or not images:
        raise InvalidArgumentError(f"images must be a non-empty list of tensors, got {_kind(images)}")
    for i, image in enumerate(images):
        if not isinstance(image, Tensor):
            raise InvalidArgumentError(f"image {i} must be a tensor, got {_kind(image)}")
        if image.dim() != 3 or image.shape[0] != channels or not image.numel():
            raise InvalidArgumentError(
                f"image {i} must have shape ({channels}, H, W) with H, W > 0, got {_kind(image)}"
            )
        if not image.is_floating_point():
            raise InvalidArgumentError(f"image {i} must be of floating type, scaled to [0, 1], got {_kind(image)}")


def check_targets(images: Sequence[Tensor], targets: object) -> list[Target]:
    """Check that there is a target with `boxes` and `labels` for each image; `masks` and `keypoints` are optional here.

    Args:
        images: the images, each (C, H, W), which passed `check_images`.
        targets: whatever a detector was called with; `Detector.losses` says what it takes.

    Returns:
        The targets.

    Raises:
        InvalidArgumentError: they are something else.
    """
    if targets is None:
        raise InvalidArgumentError("a detector in training mode needs targets, got None")
    if isinstance(targets, Tensor) or not isinstance(targets, Sequence) or len(targets) != len(images):
        raise InvalidArgumentError(f"targets must be a list of {len(images)}, one an image, got {_kind(targets)}")
    for i, (image, target) in enumerate(zip(images, targets, strict=True)):
        _check_target(f"target {i}", target, (image.shape[-2], image.shape[-1]))
    return list(targets)


def _check_target(name: str, target: object, size: tuple[int, int]) -> None:
    if not isinstance(target, Mapping):
        raise InvalidArgumentError(f"{name} must be a dict of tensors, got {_kind(target)}")
    boxes = _entry(name, target, "boxes")
    if boxes.dim() != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
        raise InvalidArgumentError(f"{name}: boxes must be float of shape (N, 4), got {_kind(boxes)}")
    count = len(boxes)
    # Not >= rather than <, so that NaN is caught too.
    bad = ~((boxes[:, 2:] > boxes[:, :2]).all(dim=1) & boxes.isfinite().all(dim=1))
    if bad.any():
        box = [round(value, 3) for value in boxes[bad][0].tolist()]
        raise InvalidArgumentError(f"{name}: boxes must be finite (x0, y0, x1, y1) with x1 > x0 and y1 > y0, got {box}")
    labels = _entry(name, target, "labels")
    if labels.shape != (count,) or labels.dtype != torch.int64:
        raise InvalidArgumentError(f"{name}: labels must be int64 of shape ({count},), got {_kind(labels)}")
    if "masks" in target:
        masks = _entry(name, target, "masks")
        if masks.shape != (count, *size) or masks.dtype not in (torch.uint8, torch.bool):
            raise InvalidArgumentError(
                f"{name}: masks must be uint8 or bool of shape {(count, *size)}, got {_kind(masks)}"
            )
    if "keypoints" in target:
        points = _entry(name, target, "keypoints")
        if points.dim() != 3 or points.shape[::2] != (count, 3) or not points.is_floating_point():
            raise InvalidArgumentError(f"{name}: keypoints must be float of shape ({count}, K, 3), got {_kind(points)}")


def _entry(name: str, target: Mapping[Any, Any], key: str) -> Tensor:
    value = target.get(key)
    if not isinstance(value, Tensor):
        raise InvalidArgumentError(f"{name} must have a tensor {key!r}, got {_kind(value)}")
    return value


def check_labels(targets: Sequence[Target], num_classes: int) -> None:
    """Check that all labels are in [0, num_classes), as a wrong one would make every later CUDA call fail.

    Args:
        targets: targets that passed `check_targets`.
        num_classes: the classes that the detector tells apart, with the background.

    Raises:
        InvalidArgumentError: a label is outside; the message has the first.
    """
    labels = torch.cat([target["labels"] for target in targets])
    bad = labels[(labels < 0) | (labels >= num_classes)]
    if len(bad):
        raise InvalidArgumentError(f"labels must be in [0, {num_classes}), got {int(bad[0])}")


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"a {type(value).__name__} of {len(value)}"
    return type(value).__name__
