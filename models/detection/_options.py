"""Checks of the options that detectors are built with."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, TypedDict

from torch import nn

from zoofleet.errors import InvalidArgumentError

__all__ = [
    "TransformOptions",
    "check_classes",
    "check_counts",
    "check_fractions",
    "check_names",
    "out_channels",
    "positive",
]


class TransformOptions(TypedDict, total=False):
    """The options of `GeneralizedRCNNTransform` that detectors pass on, besides those in their own signatures.

    Attributes:
        size_divisible: the batch's height and width are padded to multiples of this, in pixels.
        fixed_size: height and width in pixels that every image gets, whatever `min_size` and `max_size` are.
    """

    size_divisible: int
    fixed_size: tuple[int, int] | None


def check_names(detector: type[nn.Module], options: Mapping[str, Any]) -> None:
    """Check that what a detector was given beyond its signature are `TransformOptions`.

    Args:
        detector: the class, whose signature the error message lists.
        options: the `**options` that its constructor received.

    Raises:
        InvalidArgumentError: an option has another name.
    """
    unknown = sorted(options.keys() - TransformOptions.__annotations__.keys())
    if unknown:
        own = [name for name in inspect.signature(detector).parameters if name != "options"]
        known = [*own, *TransformOptions.__annotations__]
        raise InvalidArgumentError(f"no option is named {', '.join(unknown)}; those of {detector.__name__} are {known}")


def check_fractions(**values: Any) -> None:
    """Check that thresholds and shares are numbers in [0, 1].

    Args:
        values: each value under the name of its option.

    Raises:
        InvalidArgumentError: a value is something else; the message has the first, with its name.
    """
    for name, value in values.items():
        if not (isinstance(value, int | float) and 0 <= value <= 1):
            raise InvalidArgumentError(f"{name} must be in [0, 1], got {value!r}")


def check_counts(**values: Any) -> None:
    """Check that values are positive integers.

    Args:
        values: each value under the name of its option.

    Raises:
        InvalidArgumentError: a value is something else; the message has the first, with its name.
    """
    for name, value in values.items():
        positive(name, value)


def positive(name: str, value: Any) -> int:
    """Return the value, which must be a positive integer.

    Args:
        name: the option's name, for the error message.
        value: the option's value.

    Raises:
        InvalidArgumentError: the value is something else.
    """
    if not isinstance(value, int) or value < 1:
        raise InvalidArgumentError(f"{name} must be a positive integer, got {value!r}")
    return value


def check_classes(num_classes: int | None, part: str, given: nn.Module | None) -> None:
    """Check that a number of classes is given just where the detector itself makes the part that depends on it.

    Args:
        num_classes: the detector's option of that name.
        part: the name of the option for that part, such as `box_predictor`.
        given: that option's value; None where the detector makes the part.

    Raises:
        InvalidArgumentError: both are given, neither is, or the number is not positive.
    """
    if given is None:
        positive("num_classes", num_classes)
    elif num_classes is not None:
        raise InvalidArgumentError(f"num_classes must be None where {part} is given, got {num_classes!r}")


def out_channels(backbone: nn.Module) -> int:
    """Return `backbone.out_channels`, the number of channels of each of a backbone's feature maps.

    Args:
        backbone: the network that a detector was given.

    Raises:
        InvalidArgumentError: it has no such attribute, or one that is not an integer.
    """
    channels = getattr(backbone, "out_channels", None)
    if not isinstance(channels, int):
        raise InvalidArgumentError(
            f"a detector's backbone needs an attribute out_channels, the channels of each of its maps; "
            f"{type(backbone).__name__} has {channels!r}"
        )
    return channels
