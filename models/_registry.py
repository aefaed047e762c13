"""The registry: builders by name, with their weight sets, and the calling conventions all of them share."""

from __future__ import annotations

import difflib
import fnmatch
import functools
import inspect
import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol, TypeVar

from torch import nn

from zoofleet import _catalog
from zoofleet.errors import (
    AlreadyExistsError,
    InternalError,
    InvalidArgumentError,
    UnknownModelError,
    UnknownWeightsError,
)
from zoofleet.models._weights import WeightsEnum, defined_weights, fixed_by_weights

__all__ = [
    "by_name",
    "get_model",
    "get_model_builder",
    "get_model_weights",
    "get_weight",
    "list_models",
    "register_model",
    "resolve",
]

M = TypeVar("M", bound=nn.Module)
M_co = TypeVar("M_co", bound=nn.Module, covariant=True)


class Builder(Protocol[M_co]):
    """A registered builder: `weights` may be a member, the name of one, or None."""

    def __call__(
        self, *args: Any, weights: WeightsEnum | str | None = None, progress: bool = True, **kwargs: Any
    ) -> M_co: ...


@dataclass(frozen=True)
class _Entry:
    builder: Builder[nn.Module]
    weights: type[WeightsEnum]


_entries: dict[str, _Entry] = {}

# What `pretrained=True` meant before there was more than one weight set for a builder.
_FIRST_PUBLISHED = re.compile(r"(IMAGENET1K|COCO|COCO_WITH_VOC_LABELS|KINETICS400)(_FBGEMM|_QNNPACK)?_V1")


def register_model(
    *,
    weights: type[WeightsEnum],
    weights_backbone: type[WeightsEnum] | None = None,
    unquantized: type[WeightsEnum] | None = None,
    name: str | None = None,
) -> Callable[[Callable[..., M]], Builder[M]]:
    """Register a builder; the function's body then receives members or None for its weights, never names.

    The registered builder also accepts what code written for older releases passes: positional arguments in the order
    of the signature, and `pretrained` and `pretrained_backbone`, each with a UserWarning that names the replacement.

    Args:
        weights: the builder's weight sets.
        weights_backbone: those of its backbone, where the builder takes `weights_backbone`.
        unquantized: those it takes instead of `weights` unless it is called with `quantize=True`.
        name: registered name, where it is not the function's.

    Raises:
        AlreadyExistsError: the name is registered already.
        InternalError: name, function or weights differ from the catalog's.
    """

    def register(fn: Callable[..., M]) -> Builder[M]:
        key = name or fn.__name__
        if key in _entries:
            raise AlreadyExistsError(f"a model named {key!r} is registered already")
        info = _catalog.builders().get(key)
        if info is None or info.function != fn.__name__:
            raise InternalError(f"the catalog has no builder {key!r} with a function named {fn.__name__!r}")
        enums = {row.enum for row in _catalog.weights(key)}
        if enums != {weights.__name__}:
            raise InternalError(f"the catalog gives {key} the weights {sorted(enums)}, not {weights.__name__}")
        parameters = list(inspect.signature(fn).parameters)

        @functools.wraps(fn)
        def build(*args: Any, **kwargs: Any) -> M:
            kwargs |= by_name(fn.__name__, parameters, args, kwargs)
            quantize = bool(kwargs.get("quantize"))
            enum = weights if unquantized is None or quantize else unquantized
            resolve(kwargs, "weights", "pretrained", enum)
            if weights_backbone is not None:
                resolve(kwargs, "weights_backbone", "pretrained_backbone", weights_backbone)
            _fix_num_classes(kwargs)
            return fn(**kwargs)

        _entries[key] = _Entry(build, weights)
        return build

    return register


def by_name(function: str, parameters: list[str], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Name positional arguments: builders took them until the weight enums came."""
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
    """Replace `kwargs[param]`, or its predecessor `kwargs[old]`, by a member of `enum` or None."""
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


def _fix_num_classes(kwargs: dict[str, Any]) -> None:
    """Build for as many classes as the weights have, and refuse another number before they are downloaded."""
    weights = kwargs.get("weights")
    if weights is not None and "categories" in weights.meta:
        given, has = kwargs.get("num_classes"), len(weights.meta["categories"])
        kwargs["num_classes"] = fixed_by_weights(weights, "num_classes", given, has)


def _first_published(enum: type[WeightsEnum]) -> WeightsEnum:
    return next((w for w in enum if _FIRST_PUBLISHED.fullmatch(w.name)), enum.DEFAULT)


def list_models(
    module: ModuleType | None = None,
    include: Iterable[str] | str | None = None,
    exclude: Iterable[str] | str | None = None,
) -> list[str]:
    """Names of the registered models, sorted.

    Args:
        module: only builders of this module, such as `zoofleet.models.quantization`; `zoofleet.models` itself holds
            the classifiers.
        include: shell patterns, of which a name must match one.
        exclude: shell patterns, of which a name must match none.
    """
    names = [n for n, e in _entries.items() if module is None or _package(e.builder) == module.__name__]
    if include is not None:
        names = [n for n in names if _matches(n, include)]
    if exclude is not None:
        names = [n for n in names if not _matches(n, exclude)]
    return sorted(names)


def _package(builder: Builder[nn.Module]) -> str:
    module: str = builder.__module__
    return module.rpartition(".")[0]


def _matches(name: str, patterns: Iterable[str] | str) -> bool:
    return any(fnmatch.fnmatch(name, p) for p in ([patterns] if isinstance(patterns, str) else patterns))


def get_model_builder(name: str) -> Builder[nn.Module]:
    """The builder of that name, in upper or lower case.

    Raises:
        UnknownModelError: no such model; the message suggests the nearest ones.
    """
    return _entry(name).builder


def get_model(name: str, **config: Any) -> nn.Module:
    """Build the model of that name.

    Args:
        name: a name in `list_models()`.
        config: the builder's arguments, such as `weights="DEFAULT"`.

    Raises:
        UnknownModelError: no such model; the message suggests the nearest ones.
    """
    return get_model_builder(name)(**config)


def get_model_weights(name: str | Callable[..., nn.Module]) -> type[WeightsEnum]:
    """The weight enum of a model, given by name or as its builder.

    Raises:
        UnknownModelError: no such model, or a function that is not a registered builder.
    """
    if isinstance(name, str):
        return _entry(name).weights
    for entry in _entries.values():
        if entry.builder is name:
            return entry.weights
    raise UnknownModelError(f"{name!r} is not a registered builder")


def get_weight(name: str) -> WeightsEnum:
    """The member with that full name, such as `"ResNet50_Weights.IMAGENET1K_V2"`.

    Raises:
        InvalidArgumentError: the name is not written `Enum.MEMBER`.
        UnknownWeightsError: no such enum or member; the message suggests the nearest ones.
    """
    enum_name, dot, member = name.partition(".")
    if not dot or not member:
        raise InvalidArgumentError(f"weight name {name[:80]!r} is not written 'ResNet50_Weights.IMAGENET1K_V2'")
    enum = defined_weights().get(enum_name)
    if enum is None:
        raise UnknownWeightsError(f"no weights are named {enum_name[:80]!r}{_hint(enum_name, defined_weights())}")
    return enum.named(member)


def _entry(name: str) -> _Entry:
    entry = _entries.get(name.lower())
    if entry is None:
        raise UnknownModelError(f"no model is named {name[:80]!r}{_hint(name.lower(), _entries)}")
    return entry


def _hint(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name[:80], list(known), n=3)
    return f"; did you mean {', '.join(near)}?" if near else ""
