"""The `Models` service for the whole fleet: it lists the catalog itself and forwards the rest to workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc.aio

from zoofleet._catalog import ModelName
from zoofleet._serving.handlers import aborting
from zoofleet._serving.model_messages import get_model, list_models
from zoofleet._wire.names import parse_worker_name
from zoofleet._wire.status import from_rpc_error
from zoofleet.errors import NotFoundError, UnavailableError
from zoofleet.scheduler.fleet import Fleet, WorkerRecord
from zoofleet.v1 import models_pb2, models_pb2_grpc

_Context = grpc.aio.ServicerContext[Any, Any]


class ModelsService(models_pb2_grpc.ModelsServicer):
    """Lists the zoo and forwards what concerns a worker to its own `Models` service.

    Args:
        fleet: the live workers, with the models that each holds.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

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
            model = ModelName.parse(request.model)
            if not request.worker:
                worker = self._roomiest(model)
                request = models_pb2.LoadModelRequest(model=str(model), worker=worker.name, pin=request.pin)
            response: models_pb2.LoadModelResponse = await self._forward("LoadModel", request.worker, request, context)
            return response

    async def UnloadModel(  # noqa: D102, N802
        self, request: models_pb2.UnloadModelRequest, context: _Context
    ) -> models_pb2.UnloadModelResponse:
        async with aborting(context):
            model = str(ModelName.parse(request.model))
            names = [request.worker] if request.worker else [worker.name for worker in self._holders(model)]
            if not names:
                raise NotFoundError(f"{model} is loaded on no worker")
            total = models_pb2.UnloadModelResponse()
            for name in names:
                one = models_pb2.UnloadModelRequest(model=model, worker=name)
                freed = await self._forward("UnloadModel", name, one, context)
                total.workers.append(name)
                total.freed_bytes += freed.freed_bytes
            return total

    async def PinModel(  # noqa: D102, N802
        self, request: models_pb2.PinModelRequest, context: _Context
    ) -> models_pb2.PinModelResponse:
        async with aborting(context):
            ModelName.parse(request.model)
            response: models_pb2.PinModelResponse = await self._forward("PinModel", request.worker, request, context)
            return response

    async def _forward(self, method: str, worker: str, request: Any, context: _Context) -> Any:
        stub = models_pb2_grpc.ModelsStub(self._fleet.channel(parse_worker_name(worker)))
        try:
            return await getattr(stub, method)(request, timeout=context.time_remaining())
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None

    def _holders(self, model: str) -> Sequence[WorkerRecord]:
        return [worker for worker in self._fleet.view.values() if model in worker.loaded]

    def _roomiest(self, model: ModelName) -> WorkerRecord:
        able = self._fleet.able(model)
        if not able:
            raise UnavailableError(f"none of {len(self._fleet.view)} workers can load {model}; try again")
        return max(able, key=lambda worker: (str(model) in worker.loaded, worker.free_bytes))

    def _loaded(self) -> list[models_pb2.LoadedModel]:
        return [loaded for worker in self._fleet.view.values() for loaded in worker.message.status.loaded_models]
