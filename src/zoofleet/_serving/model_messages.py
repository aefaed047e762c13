"""What every server of `Models` answers from the catalog."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from zoofleet import _catalog
from zoofleet._catalog import ModelName
from zoofleet._wire import pages
from zoofleet._wire.kinds import kind_of
from zoofleet._wire.names import model_name, parse_model_name
from zoofleet.errors import InvalidArgumentError, UnknownModelError
from zoofleet.v1 import models_pb2

_MIB: Final = 1024 * 1024
_DEFAULT_PAGE: Final = 200


def list_models(
    request: models_pb2.ListModelsRequest, loaded: Iterable[models_pb2.LoadedModel]
) -> models_pb2.ListModelsResponse:
    """Answer `ListModels`: a page of the catalog, by name.

    Args:
        request: as it came.
        loaded: the models that are loaded anywhere.

    Raises:
        InvalidArgumentError: the kind of task is none, the page's size is negative, or the token is of another list.
    """
    kind = request.task_kind
    if kind not in models_pb2.TaskKind.values():
        raise InvalidArgumentError(f"task_kind is {kind}; accepted: {', '.join(models_pb2.TaskKind.keys())}")
    builders = [name for name in _catalog.builders() if kind in (models_pb2.TASK_KIND_UNSPECIFIED, _kind(name))]
    names, token = pages.page(f"models {kind}", builders, request.page_size, request.page_token, _DEFAULT_PAGE)
    return models_pb2.ListModelsResponse(models=[_model(name, loaded) for name in names], next_page_token=token)


def get_model(request: models_pb2.GetModelRequest, loaded: Iterable[models_pb2.LoadedModel]) -> models_pb2.Model:
    """Answer `GetModel`.

    Args:
        request: as it came.
        loaded: the models that are loaded anywhere.

    Raises:
        InvalidArgumentError: the name is not written `models/{builder}`.
        UnknownModelError: the catalog has no such builder.
    """
    builder = parse_model_name(request.name)
    if builder not in _catalog.builders():
        raise UnknownModelError(f"no model is named {request.name[:80]!r}")
    return _model(builder, loaded)


def _kind(builder: str) -> int:
    value: int = kind_of(ModelName(builder, _catalog.RANDOM)).value
    return value


def _model(builder: str, loaded: Iterable[models_pb2.LoadedModel]) -> models_pb2.Model:
    """Return a builder with its weight sets, and those of the loaded models that are its."""
    model = models_pb2.Model(
        name=model_name(builder),
        task_kind=models_pb2.TaskKind.ValueType(_kind(builder)),
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
