"""All weight enums, each made from the catalog when it is first imported: `from ... import ResNet50_Weights`.

Type checkers and editors read the classes and their members from `_weight_sets.pyi`, which `scripts/weights` generates
from the catalog. Users import an enum from beside its builder, such as `zoofleet.models.resnet`.
"""

from __future__ import annotations

from zoofleet.errors import UnknownWeightsError
from zoofleet.models._weights import WeightsEnum, weights_enum


def __getattr__(name: str) -> type[WeightsEnum]:
    try:
        return weights_enum(name)
    except UnknownWeightsError as error:
        raise AttributeError(f"module {__name__} has no attribute {name!r}") from error
