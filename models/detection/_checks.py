"""What detectors demand of their images, targets and options."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zoofleet.errors import InvalidArgumentError

if TYPE_CHECKING:
    from zoofleet.models.detection.transform import Target

__all__ = [
    "check_classes",
    "check_counts",
    "check_fractions",
    "check_images",
    "check_labels",
    "check_options",
    "check_targets",
    "out_channels",
    "positive",
]


def check_images(images: object, channels: int) -> None:
    """Demand a non-empty list of float tensors (channels, H, W).

    Raises:
        InvalidArgumentError: something else.
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
    """Demand a target with `boxes` and `labels` for each image; masks and keypoints are checked where they are given.

    Args:
        images: those that passed `check_images`.
        targets: see `Detector.losses`.

    Returns:
        The targets.

    Raises:
        InvalidArgumentError: something else.
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
    """Demand labels in [0, num_classes): a wrong one would take down a CUDA context.

    Raises:
        InvalidArgumentError: a label outside.
    """
    labels = torch.cat([target["labels"] for target in targets])
    bad = labels[(labels < 0) | (labels >= num_classes)]
    if len(bad):
        raise InvalidArgumentError(f"labels must be in [0, {num_classes}), got {int(bad[0])}")


def check_fractions(**values: Any) -> None:
    """Demand thresholds and shares in [0, 1].

    Raises:
        InvalidArgumentError: the first value outside.
    """
    for name, value in values.items():
        if not (isinstance(value, int | float) and 0 <= value <= 1):
            raise InvalidArgumentError(f"{name} must be in [0, 1], got {value!r}")


def check_counts(**values: Any) -> None:
    """Demand positive integers.

    Raises:
        InvalidArgumentError: the first value that is none.
    """
    for name, value in values.items():
        positive(name, value)


def positive(name: str, value: Any) -> int:
    """The value, if it is a positive integer.

    Raises:
        InvalidArgumentError: it is not.
    """
    if not isinstance(value, int) or value < 1:
        raise InvalidArgumentError(f"{name} must be a positive integer, got {value!r}")
    return value


def check_options(detector: type, options: Mapping[str, Any]) -> None:
    """Demand that a detector's further options are those of `GeneralizedRCNNTransform` that it does not set itself.

    Raises:
        InvalidArgumentError: another name; the message lists the detector's.
    """
    unknown = sorted(options.keys() - {"size_divisible", "fixed_size"})
    if unknown:
        known = [name for name in inspect.signature(detector).parameters if name != "options"]
        raise InvalidArgumentError(f"no option is named {', '.join(unknown)}; those of the detector are {known}")


def check_classes(num_classes: int | None, part: str, given: nn.Module | None) -> None:
    """Demand a number of classes where a detector makes the part that depends on it, and none where it is given.

    Raises:
        InvalidArgumentError: both, neither, or a number that is not positive.
    """
    if given is None:
        positive("num_classes", num_classes)
    elif num_classes is not None:
        raise InvalidArgumentError(f"num_classes must be None where {part} is given, got {num_classes!r}")


def out_channels(backbone: nn.Module) -> int:
    """The number of channels of a backbone's maps, which detectors read from `backbone.out_channels`.

    Raises:
        InvalidArgumentError: it has no such attribute.
    """
    channels = getattr(backbone, "out_channels", None)
    if not isinstance(channels, int):
        raise InvalidArgumentError(
            f"a detector's backbone needs an attribute out_channels, the channels of each of its maps; "
            f"{type(backbone).__name__} has {channels!r}"
        )
    return channels


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"a {type(value).__name__} of {len(value)}"
    return type(value).__name__
