"""The `Models` service of one worker."""

from __future__ import annotations

from typing import Any

import grpc.aio

from zoofleet._catalog import ModelName
from zoofleet._serving.handlers import aborting
from zoofleet._serving.model_messages import get_model, list_models
from zoofleet.errors import WorkerNotFoundError
from zoofleet.v1 import models_pb2, models_pb2_grpc
from zoofleet.worker.plan import PlanStatus
from zoofleet.worker.residency import Residency, Resident

__all__ = ["ModelsService", "loaded_model"]

_Context = grpc.aio.ServicerContext[Any, Any]


def loaded_model(resident: Resident, worker: str) -> models_pb2.LoadedModel:
    """A resident model as a message."""
    return models_pb2.LoadedModel(
        model=str(resident.name),
        worker=worker,
        memory_bytes=resident.memory_bytes,
        pinned=resident.pinned,
        plans=[_plan(status) for status in resident.plans],
    )


def _plan(status: PlanStatus) -> models_pb2.Plan:
    return models_pb2.Plan(
        name=status.plan.name,
        precision=status.plan.precision.value,
        state=models_pb2.Plan.State.Value(f"STATE_{status.state.name}"),
        shape_class=status.shape_class,
        milliseconds=status.milliseconds,
        exact_milliseconds=status.exact_milliseconds,
        deviation=status.deviation,
        message=status.message,
    )


class ModelsService(models_pb2_grpc.ModelsServicer):
    """Lists the catalog, and moves models in and out of this worker.

    Args:
        worker: its resource name.
        residency: has the models.
    """

    def __init__(self, worker: str, residency: Residency) -> None:
        self._worker = worker
        self._residency = residency

    async def ListModels(  # noqa: D102, N802
        self, request: models_pb2.ListModelsRequest, context: _Context
    ) -> models_pb2.ListModelsResponse:
        async with aborting(context):
            return list_models(request, self._loaded())

    async def GetModel(  # noqa: D102, N802
        self, request: models_pb2.GetModelRequest, context: _Context
    ) -> models_pb2.Model:
        async with aborting(context):
            return get_model(request, self._loaded())

    async def LoadModel(  # noqa: D102, N802
        self, request: models_pb2.LoadModelRequest, context: _Context
    ) -> models_pb2.LoadModelResponse:
        async with aborting(context):
            self._check_worker(request.worker)
            resident = await self._residency.load(ModelName.parse(request.model), pin=request.pin)
            return models_pb2.LoadModelResponse(loaded_model=loaded_model(resident, self._worker))

    async def UnloadModel(  # noqa: D102, N802
        self, request: models_pb2.UnloadModelRequest, context: _Context
    ) -> models_pb2.UnloadModelResponse:
        async with aborting(context):
            self._check_worker(request.worker)
            freed = await self._residency.unload(ModelName.parse(request.model))
            return models_pb2.UnloadModelResponse(workers=[self._worker], freed_bytes=freed)

    async def PinModel(  # noqa: D102, N802
        self, request: models_pb2.PinModelRequest, context: _Context
    ) -> models_pb2.PinModelResponse:
        async with aborting(context):
            self._check_worker(request.worker)
            resident = self._residency.pin(ModelName.parse(request.model), pinned=request.pinned)
            return models_pb2.PinModelResponse(loaded_model=loaded_model(resident, self._worker))

    def _loaded(self) -> list[models_pb2.LoadedModel]:
        return [loaded_model(resident, self._worker) for resident in self._residency.residents]

    def _check_worker(self, worker: str) -> None:
        if worker not in ("", self._worker):
            raise WorkerNotFoundError(f"this is {self._worker}, not {worker[:80]!r}")
