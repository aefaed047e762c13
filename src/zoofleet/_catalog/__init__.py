"""The catalog of builders and weight sets, as data that needs no torch.

The scheduler validates model names with it, the command line lists it, and `zoofleet.models` makes its `Weights` enums
from it. The data stand beside this file: `builders.json` (a row for each builder that this version implements),
`weights.json` (all published weight sets, and those that come with the repository) and `categories.json` (the category
lists that weight sets name).
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
        name: the builder's unique name, such as `quantized_mobilenet_v2`.
        task: `classification`, `quantization`, `segmentation`, `detection`, `video` or `optical_flow`.
        function: the name of the function in its module, such as `mobilenet_v2`.
        num_params: the number of parameters with default arguments.
    """

    name: str
    task: str
    function: str
    num_params: int


@dataclass(frozen=True, slots=True)
class WeightsInfo:
    """One weight set.

    Attributes:
        builder: the name of the builder that the weights fit.
        enum: the name of the enum class, such as `ResNet50_Weights`.
        member: the name within the enum, such as `IMAGENET1K_V2`.
        default: whether `DEFAULT` is an alias of this weight set.
        url: where the file is published, or its path where it comes with Zoofleet's repository. The 8 hex digits before
            the suffix are the first of the file's SHA-256.
        transforms: the name (`preset`) and the parameters of the transforms preset.
        meta: metrics, minimum size, recipe and so on. `categories` is the name of a list in `category_lists`.
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
        weights: a member of the builder's weights, or `random`. Never `DEFAULT`, which parsing resolves.
    """

    builder: str
    weights: str

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """Parse a name such as `resnet50`, `resnet50@DEFAULT`, `resnet50@IMAGENET1K_V2` or `resnet50@random`.

        Raises:
            InvalidModelNameError: the text is not of that form.
            UnknownModelError: the catalog has no such builder.
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
        """The weight set's row in the catalog. None for random weights."""
        return next((w for w in weights(self.builder) if w.member == self.weights), None)

    @property
    def published(self) -> WeightsInfo | None:
        """The row of the weight set, or of the builder's default one where the weights are random.

        It says what input and which labels the model has, with random weights, too. None where the builder has no
        published weights.
        """
        return self.weights_info or next((w for w in weights(self.builder) if w.default), None)

    def __str__(self) -> str:
        return f"{self.builder}@{self.weights}"


def _load(name: str) -> Any:
    return json.loads((_DATA / name).read_text(encoding="utf-8"))


@cache
def builders() -> Mapping[str, BuilderInfo]:
    """Return all builders of this version by name."""
    rows = _load("builders.json")
    return MappingProxyType({name: BuilderInfo(name, **row) for name, row in rows.items()})


@cache
def all_weights() -> tuple[WeightsInfo, ...]:
    """Return all weight sets, including those of builders that this version lacks."""
    return tuple(WeightsInfo(**row) for row in _load("weights.json"))


def weights(builder: str) -> tuple[WeightsInfo, ...]:
    """Return the weight sets of one builder, in the order of their enum."""
    return tuple(w for w in all_weights() if w.builder == builder)


@cache
def category_lists() -> Mapping[str, tuple[str, ...]]:
    """Return all category lists by name: the names of labels by index."""
    return {name: tuple(rows) for name, rows in _load("categories.json").items()}


def categories(model: ModelName) -> tuple[str, ...]:
    """Return the names of a model's labels by index. Empty where it has none, as for optical flow.

    A model with random weights has the categories of its builder's default weight set.
    """
    info = model.published
    name = info.meta.get("categories") if info else None
    return category_lists()[name] if name else ()
