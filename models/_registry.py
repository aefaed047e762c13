"""The registry: builders by name, with their weight sets, and the calling conventions all of them share."""

from __future__ import annotations

import fnmatch
import functools
import inspect
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType, ModuleType
from typing import Any, Final, Protocol, TypeVar

from torch import nn

from zoofleet import _catalog
from zoofleet.errors import (
    AlreadyExistsError,
    InternalError,
    InvalidArgumentError,
    UnknownModelError,
)
from zoofleet.models._docs import entries, merged
from zoofleet.models._hub import load_weights
from zoofleet.models._legacy import by_name, resolve
from zoofleet.models._weights import WEIGHT_SETS, WeightsEnum, hint, weights_enum

__all__ = [
    "get_model",
    "get_model_builder",
    "get_model_weights",
    "get_weight",
    "list_models",
    "register_model",
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


def load_published(model: nn.Module, *, weights: WeightsEnum | None = None, progress: bool = True) -> None:
    """Load the weights that a builder was called with into the model that it built.

    Args:
        model: its parameters and buffers are overwritten.
        weights: the weight set; None for leaving the model as it is.
        progress: write a progress line to stderr while the weights are downloaded.

    Raises:
        WeightsUnavailableError: neither the cache nor the URL, checkout or mirror has the file.
        InvalidWeightsError: the file is not the published one, holds code, or does not fit the model.
    """
    if weights is not None:
        load_weights(model, weights, progress=progress)


def register_model(
    *,
    weights: type[WeightsEnum],
    weights_backbone: type[WeightsEnum] | None = None,
    unquantized: type[WeightsEnum] | None = None,
    name: str | None = None,
    fixed: Mapping[str, Callable[[Mapping[str, Any]], Any]] = MappingProxyType({}),
    finish: Sequence[Callable[..., None]] = (load_published,),
) -> Callable[[Callable[..., M]], Builder[M]]:
    """Register a builder, whose body only builds: the registry loads the weights into the model that it returns.

    The registered builder takes the body's parameters and those of the steps in `finish`: by default `weights` and
    `progress`. The body declares those alone that it needs: `weights` where the model depends on them, as a member or
    None and never as a name, and `progress` where it downloads a backbone. It gets `weights_backbone=None` where there
    are `weights`. It gets `num_classes` and the options of `fixed` as the weights have them, and does not get those
    that the caller gave as None, so that its own defaults are the numbers themselves.

    The registered builder may also be called as `zoofleet.models._legacy` says. Its docstring is the body's, which
    describes the body's own parameters, with entries for the steps' parameters and errors.

    Args:
        weights: the builder's weight sets.
        weights_backbone: the weight sets of its backbone, where the body declares `weights_backbone`.
        unquantized: the weight sets it takes instead of `weights` unless it is called with `quantize=True`.
        name: registered name, where it is not the function's.
        fixed: the options that weights fix, beside `num_classes`, each with what takes its value from their `meta`.
        finish: what is done, in order, with the model that the body returned. Each step is called with the model and,
            by name, those of the builder's arguments that it declares, with the body's defaults before its own.

    Raises:
        AlreadyExistsError: the name is registered already.
        InternalError: name, function or weights differ from the catalog's.
    """

    def register(fn: Callable[..., M]) -> Builder[M]:
        key = name or fn.__name__
        _check_catalog(key, fn.__name__, weights)
        own = inspect.signature(fn).parameters
        steps = [dict(list(inspect.signature(step).parameters.items())[1:]) for step in finish]  # but for the model
        parameters = functools.reduce(operator.or_, [*steps, own])
        positions = [p.name for p in parameters.values() if p.kind is not p.VAR_KEYWORD]

        @functools.wraps(fn)
        def build(*args: Any, **kwargs: Any) -> M:
            kwargs |= by_name(fn.__name__, positions, args, kwargs)
            resolve(kwargs, "weights", "pretrained", weights if kwargs.get("quantize") else unquantized or weights)
            if weights_backbone is not None:
                resolve(kwargs, "weights_backbone", "pretrained_backbone", weights_backbone)
                if kwargs.get("weights") is not None:
                    kwargs["weights_backbone"] = None
            _fix(kwargs, fixed)
            model = fn(**{key: kwargs[key] for key in kwargs if key in own or key not in parameters})
            for step, accepted in zip(finish, steps, strict=True):
                step(model, **{key: kwargs.get(key, parameters[key].default) for key in accepted})
            return model

        build.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            list(parameters.values()), return_annotation=inspect.signature(fn).return_annotation
        )
        if weights.__module__ == WEIGHT_SETS:
            weights.__module__ = fn.__module__  # where users find it, and so do their pickles
        build.__doc__ = _documentation(fn, finish, parameters.values(), weights, unquantized)
        _entries[key] = _Entry(build, weights)
        return build

    return register


def _documentation(
    fn: Callable[..., Any],
    finish: Iterable[Callable[..., None]],
    parameters: Iterable[inspect.Parameter],
    weights: type[WeightsEnum],
    unquantized: type[WeightsEnum] | None,
) -> str:
    """The docstring of a builder's body, with what the registry and the steps after it add."""
    accepted = f"a member of `{weights.__name__}`"
    if unquantized is not None:
        accepted += f" with `quantize` and of `{unquantized.__name__}` without"
    args = {name: says for step in finish for name, says in entries(step, "Args").items()}
    raises = [_REFUSALS, *(entries(step, "Raises") for step in finish)]
    args["weights"] = f'{accepted}, or the name of one, such as "DEFAULT"; None for random weights.'
    names = (f"**{p.name}" if p.kind is p.VAR_KEYWORD else p.name for p in parameters)
    return merged(fn, args, raises, names)


_REFUSALS: Final = {
    "UnknownWeightsError": "there are no weights of that name.",
    "InvalidArgumentError": "the weights belong to another model, or fix an option that was given another value.",
}


def _check_catalog(name: str, function: str, weights: type[WeightsEnum]) -> None:
    if name in _entries:
        raise AlreadyExistsError(f"a model named {name!r} is registered already")
    info = _catalog.builders().get(name)
    if info is None or info.function != function:
        raise InternalError(f"the catalog has no builder {name!r} with a function named {function!r}")
    enums = {row.enum for row in _catalog.weights(name)}
    if enums != {weights.__name__}:
        raise InternalError(f"the catalog gives {name} the weights {sorted(enums)}, not {weights.__name__}")


def _fix(kwargs: dict[str, Any], fixed: Mapping[str, Callable[[Mapping[str, Any]], Any]]) -> None:
    """Set the options that the weights fix, and refuse what contradicts them before they are downloaded."""
    weights = kwargs.get("weights")
    if weights is not None:
        published = {option: value(weights.meta) for option, value in fixed.items()}
        if "categories" in weights.meta:
            published["num_classes"] = len(weights.meta["categories"])
        for option, value in published.items():
            given = kwargs.get(option)
            if given is not None and given != value:
                raise InvalidArgumentError(
                    f"{weights!r} has {option}={value!r}, got {given!r}; build with weights=None"
                )
            kwargs[option] = value
    for option in fixed.keys() | {"num_classes"}:
        if option in kwargs and kwargs[option] is None:
            del kwargs[option]


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
    return weights_enum(enum_name).named(member)


def _entry(name: str) -> _Entry:
    entry = _entries.get(name.lower())
    if entry is None:
        raise UnknownModelError(f"no model is named {name[:80]!r}{hint(name.lower(), _entries)}")
    return entry
