"""The `Fleet` and `Models` services."""

from __future__ import annotations

from typing import Any

import grpc.aio
import pytest
from tests.scheduler.conftest import MODEL, OTHER_MODEL, Cluster, until

from zoofleet import _catalog, errors
from zoofleet._wire.status import from_rpc_error
from zoofleet.errors import ZoofleetError
from zoofleet.v1 import fleet_pb2, models_pb2


async def failure(call: Any) -> ZoofleetError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


def worker(name: str = "workers/a", address: str = "127.0.0.1:1") -> fleet_pb2.RegisterWorkerRequest:
    return fleet_pb2.RegisterWorkerRequest(worker=fleet_pb2.Worker(name=name, address=address))


async def test_a_worker_comes_beats_and_goes(cluster: Cluster) -> None:
    await cluster.start()
    fleet = cluster.client.fleet
    request = worker()
    request.worker.device = "cpu"
    request.worker.state = fleet_pb2.Worker.STATE_DRAINING  # output only
    response = await fleet.RegisterWorker(request)
    assert response.heartbeat_interval.ToMilliseconds() == 200
    assert response.heartbeat_timeout.ToMilliseconds() == 1200
    found = await fleet.GetWorker(fleet_pb2.GetWorkerRequest(name="workers/a"))
    assert (found.state, found.device) == (fleet_pb2.Worker.STATE_READY, "cpu")
    status = fleet_pb2.WorkerStatus(item_count=5)
    beat = fleet_pb2.HeartbeatWorkerRequest(name="workers/a", status=status)
    assert not (await fleet.HeartbeatWorker(beat)).drain
    await fleet.DrainWorker(fleet_pb2.DrainWorkerRequest(name="workers/a"))
    assert (await fleet.HeartbeatWorker(beat)).drain
    await fleet.RegisterWorker(request)  # after a pause; an operator's word still holds
    assert (await fleet.HeartbeatWorker(beat)).drain
    assert (await cluster.client.workers())["workers/a"].status.item_count == 5
    await fleet.UnregisterWorker(fleet_pb2.UnregisterWorkerRequest(name="workers/a"))
    await fleet.UnregisterWorker(fleet_pb2.UnregisterWorkerRequest(name="workers/a"))
    assert await cluster.client.workers() == {}
    assert type(await failure(fleet.HeartbeatWorker(beat))) is errors.WorkerNotFoundError


async def test_a_silent_worker_is_given_up(cluster: Cluster) -> None:
    await cluster.start()
    fleet = cluster.client.fleet
    await fleet.RegisterWorker(worker())

    async def gone() -> bool:
        return not await cluster.client.workers()

    await until(gone)
    for call in (
        fleet.GetWorker(fleet_pb2.GetWorkerRequest(name="workers/a")),
        fleet.DrainWorker(fleet_pb2.DrainWorkerRequest(name="workers/a")),
    ):
        assert type(await failure(call)) is errors.WorkerNotFoundError


async def test_malformed_workers_are_refused(cluster: Cluster) -> None:
    await cluster.start()
    fleet = cluster.client.fleet
    for name in ("", "a", "workers/", "workers/a/b", "workers/a b", f"workers/{'a' * 129}", "workers/a\n"):
        assert type(await failure(fleet.RegisterWorker(worker(name)))) is errors.InvalidArgumentError
        get = fleet.GetWorker(fleet_pb2.GetWorkerRequest(name=name))
        assert type(await failure(get)) is errors.InvalidArgumentError
    for address in ("", "host", "host:", ":1", "host:0", "host:99999", "unix:/x:1", "dns:///a:1", "a b:1"):
        assert type(await failure(fleet.RegisterWorker(worker(address=address)))) is errors.InvalidArgumentError
    for address in ("[::1]:50052", "worker-0.workers.svc:50052"):
        await fleet.RegisterWorker(worker(address=address))


async def test_workers_are_listed_in_pages(cluster: Cluster) -> None:
    await cluster.start()
    fleet = cluster.client.fleet
    for name in ("c", "a", "b"):
        await fleet.RegisterWorker(worker(f"workers/{name}"))
    first = await fleet.ListWorkers(fleet_pb2.ListWorkersRequest(page_size=2))
    second = await fleet.ListWorkers(fleet_pb2.ListWorkersRequest(page_token=first.next_page_token))
    assert [found.name for found in (*first.workers, *second.workers)] == ["workers/a", "workers/b", "workers/c"]
    assert not second.next_page_token
    for request in (
        fleet_pb2.ListWorkersRequest(page_token="nonsense"),
        fleet_pb2.ListWorkersRequest(page_size=-1),
    ):
        assert type(await failure(fleet.ListWorkers(request))) is errors.InvalidArgumentError


async def test_the_catalog_is_listed_with_what_is_loaded(cluster: Cluster) -> None:
    await cluster.start()
    await cluster.start_worker("a", "--loaded", MODEL)
    models = cluster.client.models
    names: list[str] = []
    token = ""
    while True:
        page = await models.ListModels(models_pb2.ListModelsRequest(page_size=7, page_token=token))
        names += [model.name for model in page.models]
        token = page.next_page_token
        if not token:
            break
    assert names == sorted(f"models/{name}" for name in _catalog.builders())
    flows = await models.ListModels(models_pb2.ListModelsRequest(task_kind=models_pb2.TASK_KIND_ESTIMATE_FLOW))
    assert "models/raft_small" in {model.name for model in flows.models}
    assert {model.task_kind for model in flows.models} == {models_pb2.TASK_KIND_ESTIMATE_FLOW}

    async def loaded() -> models_pb2.Model | None:
        model: models_pb2.Model = await models.GetModel(models_pb2.GetModelRequest(name="models/resnet50"))
        return model if model.loaded_models else None

    model = await until(loaded)
    assert (model.loaded_models[0].model, model.loaded_models[0].worker) == (MODEL, "workers/a")
    assert model.task_kind == models_pb2.TASK_KIND_CLASSIFY and model.parameter_count == 25_557_032
    assert [(found.weight_set_id, found.is_default) for found in model.weight_sets] == [
        ("IMAGENET1K_V1", False),
        ("IMAGENET1K_V2", True),
    ]
    published = model.weight_sets[1]
    assert published.metrics["ImageNet-1K"]["acc@1"] == 80.858
    assert published.size_bytes > 90_000_000 and published.gflops > 4 and published.url.startswith("https://")
    for request, expected in (
        (models_pb2.GetModelRequest(name="resnet50"), errors.InvalidArgumentError),
        (models_pb2.GetModelRequest(name="models/no_such"), errors.UnknownModelError),
    ):
        assert type(await failure(models.GetModel(request))) is expected
    bad = models_pb2.ListModelsRequest(page_token=page.next_page_token or "nonsense")
    assert type(await failure(models.ListModels(bad))) is errors.InvalidArgumentError


async def test_models_are_moved_on_the_right_worker(cluster: Cluster) -> None:
    await cluster.start()
    await cluster.start_worker("a", "--memory", "10", "--builders", "resnet50", "vgg11")
    await cluster.start_worker("b", "--memory", "20", "--builders", "resnet50", "vgg11")
    models = cluster.client.models

    async def load(**fields: Any) -> models_pb2.LoadedModel:
        response = await models.LoadModel(models_pb2.LoadModelRequest(**fields))
        loaded: models_pb2.LoadedModel = response.loaded_model
        return loaded

    async def both() -> bool:
        try:
            await load(model=MODEL, worker="workers/b")
            return bool((await load(model=MODEL, worker="workers/a", pin=True)).pinned)
        except grpc.aio.AioRpcError:
            return False

    await until(both)
    assert (await load(model="resnet50@IMAGENET1K_V2")).worker == "workers/b"  # it has the most room

    async def known() -> bool:
        model = await models.GetModel(models_pb2.GetModelRequest(name="models/resnet50"))
        return len({(loaded.model, loaded.worker) for loaded in model.loaded_models}) == 3

    await until(known)
    unloaded = await models.UnloadModel(models_pb2.UnloadModelRequest(model=MODEL))
    assert (sorted(unloaded.workers), unloaded.freed_bytes) == (["workers/a", "workers/b"], 14)
    pinned = await models.PinModel(models_pb2.PinModelRequest(model=MODEL, worker="workers/a", pinned=True))
    assert pinned.loaded_model.worker == "workers/a"

    assert type(await failure(load(model="vgg11@random", worker="workers/a"))) is errors.ResourceExhaustedError
    assert type(await failure(load(model="no_such"))) is errors.UnknownModelError
    assert type(await failure(load(model=MODEL, worker="a"))) is errors.InvalidArgumentError
    assert type(await failure(load(model=MODEL, worker="workers/x"))) is errors.WorkerNotFoundError
    assert type(await failure(load(model=OTHER_MODEL))) is errors.UnavailableError
    unload = models.UnloadModel(models_pb2.UnloadModelRequest(model=OTHER_MODEL))
    assert type(await failure(unload)) is errors.NotFoundError
