"""The catalog of builders and weight sets, as data that needs no torch.

The scheduler validates model names with it, the CLI lists it, and `zoofleet.models` builds its `Weights` enums from it.
The data stand beside this file: `builders.json` (a row for each builder this version implements), `weights.json` (all
published weight sets, and those that come with the repository) and `categories.json` (the category lists those name).
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from zoofleet.errors import InvalidModelNameError, UnknownModelError, UnknownWeightsError

_DATA: Final = Path(__file__).parent

RANDOM: Final = "random"
"""The weight name for a model with randomly initialised weights."""


@dataclass(frozen=True, slots=True)
class BuilderInfo:
    """One builder of the zoo.

    Attributes:
        name: registered name, such as `quantized_mobilenet_v2`; unique.
        task: `classification`, `quantization`, `segmentation`, `detection`, `video` or `optical_flow`.
        function: name of the function in its module, such as `mobilenet_v2`.
        num_params: number of parameters with default arguments.
    """

    name: str
    task: str
    function: str
    num_params: int


@dataclass(frozen=True, slots=True)
class WeightsInfo:
    """One weight set.

    Attributes:
        builder: name of the builder it fits.
        enum: name of its enum class, such as `ResNet50_Weights`.
        member: name within the enum, such as `IMAGENET1K_V2`.
        default: whether `DEFAULT` is an alias of it.
        url: where it is published, or its path where it comes with Zoofleet's repository; the 8 hex digits before the
            suffix start the file's SHA-256.
        transforms: name (`preset`) and parameters of its transforms preset.
        meta: metrics, minimum size, recipe and so on; `categories` is a list name for `categories`.
    """

    builder: str
    enum: str
    member: str
    default: bool
    url: str
    transforms: Mapping[str, Any]
    meta: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ModelName:
    """A builder with a weight set, written `builder@member`.

    Attributes:
        builder: a name in `builders()`.
        weights: a member of the builder's weights, or `random`; never `DEFAULT`, which is resolved on parsing.
    """

    builder: str
    weights: str

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """Parse `resnet50`, `resnet50@DEFAULT`, `resnet50@IMAGENET1K_V2` or `resnet50@random`.

        Raises:
            InvalidModelNameError: the text is not of that form.
            UnknownModelError: no such builder.
            UnknownWeightsError: the builder has no such weight set.
        """
        builder, at, member = text.partition("@")
        if not builder or (at and not member) or "@" in member or len(text) > 256:
            raise InvalidModelNameError(
                f"model name {text[:80]!r} is not written 'builder', 'builder@MEMBER', 'builder@DEFAULT' or "
                "'builder@random'"
            )
        if builder not in builders():
            near = difflib.get_close_matches(builder, builders(), n=3)
            hint = f"; did you mean {', '.join(near)}?" if near else ""
            raise UnknownModelError(f"no model is named {builder[:80]!r}{hint}")
        if member == RANDOM:
            return cls(builder, RANDOM)
        published = weights(builder)
        for info in published:
            if info.member == member or (info.default and member in ("", "DEFAULT")):
                return cls(builder, info.member)
        if member in ("", "DEFAULT"):
            raise UnknownWeightsError(f"{builder} has no published weights; write '{builder}@random'")
        names = ", ".join([*(w.member for w in published), "DEFAULT", RANDOM])
        raise UnknownWeightsError(f"{builder} has no weights {member[:80]!r}; it has {names}")

    @property
    def info(self) -> BuilderInfo:
        """The builder's row in the catalog."""
        return builders()[self.builder]

    @property
    def weights_info(self) -> WeightsInfo | None:
        """The weight set's row in the catalog, None for random weights."""
        return next((w for w in weights(self.builder) if w.member == self.weights), None)

    def __str__(self) -> str:
        return f"{self.builder}@{self.weights}"


def _load(name: str) -> Any:
    return json.loads((_DATA / name).read_text(encoding="utf-8"))


@cache
def builders() -> Mapping[str, BuilderInfo]:
    """All builders of this version by name."""
    rows = _load("builders.json")
    return MappingProxyType({name: BuilderInfo(name, **row) for name, row in rows.items()})


@cache
def all_weights() -> tuple[WeightsInfo, ...]:
    """All weight sets, those of builders that this version lacks among them."""
    return tuple(WeightsInfo(**row) for row in _load("weights.json"))


def weights(builder: str) -> tuple[WeightsInfo, ...]:
    """The weight sets of one builder, in their enum's order."""
    return tuple(w for w in all_weights() if w.builder == builder)


@cache
def category_lists() -> Mapping[str, tuple[str, ...]]:
    """The label names by index of each category list that `WeightsInfo.meta` names."""
    return {name: tuple(rows) for name, rows in _load("categories.json").items()}


def categories(model: ModelName) -> tuple[str, ...]:
    """Names of the model's labels by index; empty where it has none (optical flow).

    A model with random weights has the categories of its builder's default weight set.
    """
    info = model.weights_info or next((w for w in weights(model.builder) if w.default), None)
    name = info.meta.get("categories") if info else None
    return category_lists()[name] if name else ()
