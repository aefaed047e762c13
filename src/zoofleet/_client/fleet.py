"""The calls of the services `Models` and `Fleet`: what can run, and where."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from zoofleet._client.connection import Connection
from zoofleet._values.resources import LoadedModel, Model, TaskName, Worker
from zoofleet._wire.names import model_name
from zoofleet.v1 import fleet_pb2, fleet_pb2_grpc, models_pb2, models_pb2_grpc


class FleetCalls(Connection):
    """The calls of the services `Models`, which every server serves, and `Fleet`, which a scheduler serves."""

    def __init__(self, address: str | None = None, *, retry_timeout: float = 30.0) -> None:
        super().__init__(address, retry_timeout=retry_timeout)
        self._models: models_pb2_grpc.ModelsAsyncStub = models_pb2_grpc.ModelsStub(self._channel)
        self._fleet: fleet_pb2_grpc.FleetAsyncStub = fleet_pb2_grpc.FleetStub(self._channel)

    async def list_models(self, *, task: TaskName | None = None) -> AsyncGenerator[Model]:
        """Yield the models of the catalog, sorted by name.

        Args:
            task: yield the models for this kind of task only. None for all models.

        Raises:
            UnavailableError: the server cannot be reached.
        """
        request = models_pb2.ListModelsRequest(task_kind=task.value if task else models_pb2.TASK_KIND_UNSPECIFIED)
        async for page in self._pages(self._models.ListModels, request):
            for model in page.models:
                yield Model.from_proto(model)

    async def get_model(self, builder: str) -> Model:
        """Return one model with its weight sets and the workers that have it in memory.

        Args:
            builder: the builder's name, such as `resnet50`, or the resource name, `models/resnet50`.

        Raises:
            UnknownModelError: there is no such model.
            UnavailableError: the server cannot be reached.
        """
        request = models_pb2.GetModelRequest(name=model_name(builder.removeprefix("models/")))
        return Model.from_proto(await self._call(self._models.GetModel, request))

    async def load_model(self, model: str, *, worker: str = "", pin: bool = False) -> LoadedModel:
        """Load a model into a worker's memory, and return once it is ready.

        Args:
            model: the model's name, such as `resnet50@IMAGENET1K_V2`.
            worker: the worker's name, `workers/{worker}`. Empty for the worker with the most free memory.
            pin: do not unload the model to make room for others.

        Raises:
            UnknownModelError, UnknownWeightsError, WorkerNotFoundError: there is no such model, weight set or worker.
            ResourceExhaustedError: the model does not fit into the worker's memory budget.
            UnavailableError: the server cannot be reached, there is no worker, or the published weights cannot be
                fetched.
        """
        request = models_pb2.LoadModelRequest(model=model, worker=worker, pin=pin)
        return LoadedModel.from_proto((await self._call(self._models.LoadModel, request)).loaded_model)

    async def unload_model(self, model: str, *, worker: str = "") -> int:
        """Unload a model once what runs on it has ended.

        Args:
            model: the model's name, such as `resnet50@IMAGENET1K_V2`.
            worker: the worker's name, `workers/{worker}`. Empty for all workers that have the model.

        Returns:
            The memory that came free, in bytes, as measured.

        Raises:
            NotFoundError: there is no such worker, or the model is not loaded there.
            FailedPreconditionError: the model is pinned.
            UnavailableError: the server cannot be reached.
        """
        request = models_pb2.UnloadModelRequest(model=model, worker=worker)
        return (await self._call(self._models.UnloadModel, request)).freed_bytes

    async def pin_model(self, model: str, *, worker: str, pinned: bool = True) -> LoadedModel:
        """Pin a loaded model, so that the worker does not unload it to make room for others, or unpin it.

        Args:
            model: the model's name, such as `resnet50@IMAGENET1K_V2`.
            worker: the worker's name, `workers/{worker}`.
            pinned: False to unpin the model.

        Raises:
            NotFoundError: there is no such worker, or the model is not loaded there.
            UnavailableError: the server cannot be reached.
        """
        request = models_pb2.PinModelRequest(model=model, worker=worker, pinned=pinned)
        return LoadedModel.from_proto((await self._call(self._models.PinModel, request)).loaded_model)

    async def list_workers(self) -> AsyncGenerator[Worker]:
        """Yield the live workers, sorted by name.

        Raises:
            UnavailableError: the server cannot be reached.
        """
        async for page in self._pages(self._fleet.ListWorkers, fleet_pb2.ListWorkersRequest()):
            for worker in page.workers:
                yield Worker.from_proto(worker)

    async def drain_worker(self, name: str) -> Worker:
        """Drain a worker: it finishes the work that it has and gets no more.

        Args:
            name: the worker's name, `workers/{worker}`.

        Returns:
            The worker after the call.

        Raises:
            WorkerNotFoundError: there is no such worker.
            UnavailableError: the server cannot be reached.
        """
        return Worker.from_proto(await self._call(self._fleet.DrainWorker, fleet_pb2.DrainWorkerRequest(name=name)))
