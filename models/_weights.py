"""Weight sets as enums, built from the catalog's data.

`ResNet50_Weights.IMAGENET1K_V2` is a member of an enum class that `weights_enum` makes from the catalog's rows; its
value says where the file is, which transforms belong to it and how well it does.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, EnumMeta
from typing import TYPE_CHECKING, Any, Final

import torch

from zoofleet import _catalog
from zoofleet.errors import InvalidArgumentError, UnknownWeightsError
from zoofleet.models import _hub, transforms

__all__ = ["Weights", "WeightsEnum", "weights_enum"]


WEIGHT_SETS: Final = "zoofleet.models._weight_sets"
"""The module that all weight enums can be imported from, and where an enum belongs until its builder is registered."""

_enums: dict[str, type[WeightsEnum]] = {}


@dataclass(frozen=True, eq=False)
class Weights:
    """One weight set: the value of a member of a `WeightsEnum`.

    Attributes:
        url: where the file is published, or its path where it comes with Zoofleet's repository; the hex digits before
            the suffix start its SHA-256.
        transforms: makes the preset that turns images into the model's input.
        meta: `categories`, `num_params`, `min_size`, `recipe`, `_metrics`, `_ops` (GFLOPs), `_file_size` (MB) and so
            on; quantized sets name the member they were made from as `unquantized`.
    """

    url: str
    transforms: Callable[..., torch.nn.Module]
    meta: Mapping[str, Any] = field(repr=False)


class _WeightsMeta(EnumMeta):
    if TYPE_CHECKING:  # every weight enum has it, which `type[WeightsEnum]` alone would not tell

        @property
        def DEFAULT(cls) -> WeightsEnum: ...


class WeightsEnum(Enum, metaclass=_WeightsMeta):
    """Base of all weight enums; `DEFAULT` is an alias of the best member."""

    if TYPE_CHECKING:
        _value_: Weights

        @property
        def value(self) -> Weights:
            """The weight set itself."""

    @property
    def url(self) -> str:
        """Where the file is published, or its path where it comes with Zoofleet's repository."""
        return self.value.url

    @property
    def transforms(self) -> Callable[..., torch.nn.Module]:
        """Factory of the matching preset: `weights.transforms()(image)` is the model's input without batch axis."""
        return self.value.transforms

    @property
    def meta(self) -> Mapping[str, Any]:
        """Categories, metrics and other facts; see `Weights.meta`."""
        return self.value.meta

    @classmethod
    def verify(cls, weights: WeightsEnum | str | None) -> WeightsEnum | None:
        """Turn what a builder was given into a member of this class, or None.

        Args:
            weights: a member, its name (`"DEFAULT"`, `"IMAGENET1K_V1"`, `"ResNet50_Weights.IMAGENET1K_V1"`) or None.

        Raises:
            UnknownWeightsError: this class has no member of that name.
            InvalidArgumentError: a member of another class, or something that is not a name.
        """
        if weights is None or isinstance(weights, cls):
            return weights
        if isinstance(weights, str):
            return cls.named(weights)
        raise InvalidArgumentError(
            f"weights must be a member of {cls.__name__}, the name of one, or None; got {weights!r}"
        )

    @classmethod
    def named(cls, name: str) -> WeightsEnum:
        """The member of that name, which may be written with or without the class's.

        Raises:
            UnknownWeightsError: this class has no such member.
        """
        member = cls.__members__.get(name.removeprefix(f"{cls.__name__}."))
        if member is None:
            names = ", ".join(cls.__members__)
            raise UnknownWeightsError(f"{cls.__name__} has no member {name[:80]!r}; it has {names}")
        return member

    def get_state_dict(self, progress: bool = True, check_hash: bool = True) -> dict[str, Any]:
        """Download the file unless it is in the cache, and read it onto the CPU.

        Args:
            progress: write a progress line to stderr while downloading.
            check_hash: compare the file with the SHA-256 prefix in its name.

        Raises:
            WeightsUnavailableError: neither the cache nor the URL, checkout or mirror has the file.
            InvalidWeightsError: the file is not the published one, or holds code.
        """
        return _hub.load_state_dict(self.url, progress=progress, check_hash=check_hash)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # By name: a weight set equals only itself, so its value would not find the member again.
        return getattr, (type(self), self.name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}.{self.name}"


def weights_enum(name: str) -> type[WeightsEnum]:
    """The enum class of that name, made from the catalog when it is first asked for.

    Builders import their enums from `zoofleet.models._weight_sets`, which asks here.

    Raises:
        UnknownWeightsError: the catalog has no such enum; the message suggests the nearest ones.
    """
    if name in _enums:
        return _enums[name]
    rows = [row for row in _catalog.all_weights() if row.enum == name]
    if not rows:
        known = {row.enum for row in _catalog.all_weights()}
        raise UnknownWeightsError(f"no weights are named {name[:80]!r}{hint(name, known)}")
    members = {row.member: _value(row) for row in rows}
    members["DEFAULT"] = next(members[row.member] for row in rows if row.default)
    made: type[WeightsEnum] = WeightsEnum(name, members, module=WEIGHT_SETS)  # type: ignore[call-arg,assignment]
    return _enums.setdefault(name, made)  # the first one, where threads make the same


def hint(name: str, known: Iterable[str]) -> str:
    """What an error says of a name that there is not: the nearest ones that there are, or nothing."""
    near = difflib.get_close_matches(name[:80], list(known), n=3)
    return f"; did you mean {', '.join(near)}?" if near else ""


def _value(row: _catalog.WeightsInfo) -> Weights:
    meta = dict(row.meta)
    if "categories" in meta:
        meta["categories"] = list(_catalog.category_lists()[meta["categories"]])
    if "unquantized" in meta:
        enum, _, member = meta["unquantized"].partition(".")
        meta["unquantized"] = weights_enum(enum)[member]
    return Weights(row.url, transforms.preset(row.transforms), meta)
