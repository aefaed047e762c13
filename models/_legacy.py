"""How builders were called before the weight enums came: by position, and with `pretrained=True`.

Code written for torchvision 0.12 and older calls builders in this way, and so does code that was never changed since
then. Each such call works with a UserWarning that names its replacement.
"""

from __future__ import annotations

import re
import warnings
from typing import Any

from zoofleet.errors import InvalidArgumentError
from zoofleet.models._weights import WeightsEnum

__all__ = ["by_name", "resolve"]

# What `pretrained=True` meant before there was more than one weight set for a builder.
_FIRST_PUBLISHED = re.compile(r"(IMAGENET1K|COCO|COCO_WITH_VOC_LABELS|KINETICS400)(_FBGEMM|_QNNPACK)?_V1")


def by_name(function: str, parameters: list[str], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Give positional arguments their names, with a UserWarning that shows the call to write instead.

    Call it from the function that the user called, since the warning points two frames up.

    Args:
        function: the called function's name, for messages.
        parameters: its parameters in the order of their positions.
        args: what was passed by position.
        kwargs: what was passed by name.

    Returns:
        The arguments of `args` by name.

    Raises:
        InvalidArgumentError: there are more arguments than parameters, or one was passed by name too.
    """
    if not args:
        return {}
    named = dict(zip(parameters, args, strict=False))
    clash = sorted(named.keys() & kwargs.keys())
    if len(args) > len(named) or clash:
        raise InvalidArgumentError(
            f"{function} got {len(args)} positional arguments"
            + (f" and {', '.join(clash)} by name too" if clash else "")
            + f"; its parameters are {', '.join(parameters)}"
        )
    # A boolean in the place of weights is the old `pretrained`, which gets its own warning.
    if not isinstance(args[0], bool) or len(args) > 1:
        shown = ", ".join(f"{k}=..." for k in named)
        warnings.warn(f"positional arguments of {function} are deprecated; call {function}({shown})", stacklevel=3)
    return named


def resolve(kwargs: dict[str, Any], param: str, old: str, enum: type[WeightsEnum]) -> None:
    """Replace a builder's weights in place, however they were given, by a member of their enum or None.

    Call it from the function that the user called, since the warning points two frames up.

    Args:
        kwargs: the builder's arguments; weights that are left out stay so.
        param: the parameter that takes weights: `weights` or `weights_backbone`.
        old: the boolean that it replaced: `pretrained` or `pretrained_backbone`.
        enum: the weights that fit.

    Raises:
        InvalidArgumentError: both were given, `old` is no boolean, or the weights belong to another model.
        UnknownWeightsError: the enum has no member of that name.
    """
    if old in kwargs or isinstance(kwargs.get(param), bool):
        if old in kwargs and param in kwargs:
            raise InvalidArgumentError(f"{param!r} replaces the deprecated {old!r}; give only one of them")
        pretrained = kwargs.pop(old) if old in kwargs else kwargs.pop(param)
        if not isinstance(pretrained, bool):
            raise InvalidArgumentError(f"{old!r} is deprecated and takes True or False, got {pretrained!r}")
        kwargs[param] = _first_published(enum) if pretrained else None
        instead = f"{param}={kwargs[param]!r}"
        newest = f", or {param}={enum.__name__}.DEFAULT for the best weights" if pretrained else ""
        warnings.warn(
            f"the parameter {old!r} is deprecated, use {param!r}: {old}={pretrained} is {instead}{newest}",
            UserWarning,
            stacklevel=3,
        )
    if param in kwargs:
        kwargs[param] = enum.verify(kwargs[param])


def _first_published(enum: type[WeightsEnum]) -> WeightsEnum:
    return next((w for w in enum if _FIRST_PUBLISHED.fullmatch(w.name)), enum.DEFAULT)
