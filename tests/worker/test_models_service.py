"""The `Models` service of one worker."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc.aio
import pytest

from zoofleet import _catalog
from zoofleet.v1 import models_pb2, models_pb2_grpc
from zoofleet.worker import Worker

MODEL = "mobilenet_v2@random"


@pytest.fixture
async def models(worker: Worker) -> AsyncIterator[models_pb2_grpc.ModelsAsyncStub]:
    async with grpc.aio.insecure_channel(worker.address) as channel:
        yield models_pb2_grpc.ModelsStub(channel)


async def refused(call: object) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]
    code: grpc.StatusCode = caught.value.code()
    return code


async def test_a_model_is_loaded_pinned_and_unloaded(worker: Worker, models: models_pb2_grpc.ModelsAsyncStub) -> None:
    loaded = (await models.LoadModel(models_pb2.LoadModelRequest(model=MODEL))).loaded_model
    assert (loaded.model, loaded.worker, loaded.pinned) == (MODEL, worker.name, False)
    assert loaded.memory_bytes > 4 * 3_504_872
    described = await models.GetModel(models_pb2.GetModelRequest(name="models/mobilenet_v2"))
    assert list(described.loaded_models) == [loaded]
    assert [w.weight_set_id for w in described.weight_sets] == ["IMAGENET1K_V1", "IMAGENET1K_V2"]
    assert described.parameter_count == 3_504_872
    assert list(worker.status().loaded_models) == [loaded]

    pin = models_pb2.PinModelRequest(model=MODEL, worker=worker.name, pinned=True)
    assert (await models.PinModel(pin)).loaded_model.pinned
    unload = models_pb2.UnloadModelRequest(model=MODEL)
    assert await refused(models.UnloadModel(unload)) is grpc.StatusCode.FAILED_PRECONDITION
    await models.PinModel(models_pb2.PinModelRequest(model=MODEL))
    assert list((await models.UnloadModel(unload)).workers) == [worker.name]
    assert await refused(models.UnloadModel(unload)) is grpc.StatusCode.NOT_FOUND
    assert await refused(models.PinModel(pin)) is grpc.StatusCode.NOT_FOUND


async def test_the_catalog_is_listed_in_pages(models: models_pb2_grpc.ModelsAsyncStub) -> None:
    names: list[str] = []
    request = models_pb2.ListModelsRequest(page_size=3)
    while True:
        page = await models.ListModels(request)
        names += [model.name for model in page.models]
        if not page.next_page_token:
            break
        assert len(page.models) == 3
        request.page_token = page.next_page_token
    assert names == sorted(f"models/{name}" for name in _catalog.builders())
    flow = await models.ListModels(models_pb2.ListModelsRequest(task_kind=models_pb2.TASK_KIND_ESTIMATE_FLOW))
    assert "models/raft_small" in [model.name for model in flow.models]
    assert all(model.task_kind == models_pb2.TASK_KIND_ESTIMATE_FLOW for model in flow.models)


async def test_bad_requests_are_refused(models: models_pb2_grpc.ModelsAsyncStub) -> None:
    invalid, missing = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
    assert await refused(models.ListModels(models_pb2.ListModelsRequest(page_size=-1))) is invalid
    assert await refused(models.ListModels(models_pb2.ListModelsRequest(page_token="x"))) is invalid
    assert await refused(models.ListModels(models_pb2.ListModelsRequest(task_kind=99))) is invalid  # type: ignore[arg-type]
    assert await refused(models.GetModel(models_pb2.GetModelRequest(name="resnet50"))) is invalid
    assert await refused(models.GetModel(models_pb2.GetModelRequest(name="models/nothing"))) is missing
    assert await refused(models.LoadModel(models_pb2.LoadModelRequest(model="a@b@c"))) is invalid
    elsewhere = models_pb2.LoadModelRequest(model=MODEL, worker="workers/another")
    assert await refused(models.LoadModel(elsewhere)) is missing
