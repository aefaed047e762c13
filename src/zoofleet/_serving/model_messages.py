"""The catalog as messages, for all servers of `Models`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from zoofleet import _catalog
from zoofleet._catalog import ModelName
from zoofleet._wire.kinds import kind_of
from zoofleet.errors import InvalidArgumentError, UnknownModelError
from zoofleet.v1 import models_pb2

_MIB: Final = 1024 * 1024


def parse_model_resource(name: str) -> str:
    """The builder that `models/{builder}` names.

    Raises:
        InvalidArgumentError: not of that form.
        UnknownModelError: no such builder.
    """
    collection, slash, builder = name.partition("/")
    if collection != "models" or not slash or not builder or "/" in builder:
        raise InvalidArgumentError(f"model name {name[:80]!r} is not written 'models/BUILDER'")
    if builder not in _catalog.builders():
        raise UnknownModelError(f"no model is named {name[:80]!r}")
    return builder


def builders_of(task_kind: int) -> list[str]:
    """Names of the builders of a kind of task, of all where it is 0, sorted.

    Raises:
        InvalidArgumentError: not a value of the enum `TaskKind`.
    """
    if task_kind not in models_pb2.TaskKind.values():
        raise InvalidArgumentError(f"task_kind is {task_kind}; accepted: {', '.join(models_pb2.TaskKind.keys())}")
    return sorted(b for b in _catalog.builders() if task_kind in (0, kind_of(ModelName(b, _catalog.RANDOM)).value))


def model_message(builder: str, loaded: Iterable[models_pb2.LoadedModel]) -> models_pb2.Model:
    """A builder with its weight sets, and those of the loaded models that are its."""
    model = models_pb2.Model(
        name=f"models/{builder}",
        task_kind=kind_of(ModelName(builder, _catalog.RANDOM)).value,
        parameter_count=_catalog.builders()[builder].num_params,
    )
    for weights in _catalog.weights(builder):
        weight_set = model.weight_sets.add(
            weight_set_id=weights.member,
            is_default=weights.default,
            url=weights.url,
            size_bytes=round(weights.meta["_file_size"] * _MIB),
            gflops=weights.meta["_ops"],
        )
        weight_set.metrics.update(weights.meta["_metrics"])
    model.loaded_models.extend(one for one in loaded if one.model.partition("@")[0] == builder)
    return model
