"""From what users pass to a detector's constructor to its transform."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zoofleet.errors import InvalidArgumentError
from zoofleet.models.detection._checks import positive
from zoofleet.models.detection._transform import DetectionTransform

__all__ = ["fixed_transform", "resizing_transform"]

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def resizing_transform(options: Mapping[str, Any], others: str) -> DetectionTransform:
    """A transform to images whose sides keep their ratio.

    Args:
        options: `min_size` (800, or a sequence that training draws from) and `max_size` (1333) of the resized images;
            `image_mean`, `image_std`.
        others: the detector's further options, for the message about one that is not there.

    Raises:
        InvalidArgumentError: an option that is not there, or a value that it cannot take.
    """
    _refuse_unknown(options, ("min_size", "max_size", "image_mean", "image_std"), others)
    min_size = options.get("min_size", 800)
    min_sizes = [min_size] if isinstance(min_size, int) else list(min_size)
    if not min_sizes:
        raise InvalidArgumentError("min_size must be a positive integer or a sequence of some, got an empty one")
    return DetectionTransform(
        min_sizes=tuple(positive("min_size", size) for size in min_sizes),
        max_size=positive("max_size", options.get("max_size", 1333)),
        mean=tuple(options.get("image_mean") or _MEAN),
        std=tuple(options.get("image_std") or _STD),
    )


def fixed_transform(
    options: Mapping[str, Any], others: str, *, size: tuple[int, int], mean: Sequence[float], std: Sequence[float]
) -> DetectionTransform:
    """A transform to images of one size.

    Args:
        options: `image_mean`, `image_std`.
        others: the detector's further options, for the message about one that is not there.
        size: height and width.
        mean: of each channel, if left out.
        std: of each channel, if left out.

    Raises:
        InvalidArgumentError: an option that is not there, or a value that it cannot take.
    """
    _refuse_unknown(options, ("image_mean", "image_std"), others)
    return DetectionTransform(
        mean=tuple(options.get("image_mean") or mean),
        std=tuple(options.get("image_std") or std),
        size_divisible=1,
        fixed_size=size,
    )


def _refuse_unknown(options: Mapping[str, Any], known: Sequence[str], others: str) -> None:
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise InvalidArgumentError(
            f"no option is named {', '.join(unknown)}; options are {', '.join(known)}, and {others}"
        )
