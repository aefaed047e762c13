"""`Vision` through the scheduler: routed, unchanged, and ended on either side when the other one ends."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import grpc
import grpc.aio
import pytest
from tests.scheduler.conftest import MODEL, OTHER_MODEL, Cluster, until
from tests.scheduler.fake_worker import label

from zoofleet import errors
from zoofleet._calls import Ending, typed_errors
from zoofleet._status import from_rpc_error
from zoofleet.errors import ZoofleetError
from zoofleet.v1 import fleet_pb2, vision_pb2, vision_pb2_grpc


def task(model: str = MODEL) -> vision_pb2.ClassifyRequest:
    return vision_pb2.ClassifyRequest(task=vision_pb2.Task(model=model))


def item(data: bytes, item_id: str = "0") -> vision_pb2.ClassifyRequest:
    return vision_pb2.ClassifyRequest(item=vision_pb2.Item(item_id=item_id, media=[vision_pb2.Media(data=data)]))


def stub(cluster: Cluster) -> Any:
    return vision_pb2_grpc.VisionStub(cluster.client.channel)


async def ask(cluster: Cluster, *requests: vision_pb2.ClassifyRequest) -> list[vision_pb2.Result]:
    return [response.result async for response in stub(cluster).Classify(iter(requests))]


async def failure(cluster: Cluster, *requests: Any, method: str = "Classify") -> ZoofleetError:
    call = getattr(stub(cluster), method)(iter(requests))
    with pytest.raises(ZoofleetError) as caught, typed_errors(Ending(call)):
        async for _ in call:
            pass
    return caught.value


async def see(cluster: Cluster, model: str = MODEL) -> None:
    """Wait until the scheduler's own view has a worker for the model."""

    async def answered() -> bool:
        try:
            return bool(await ask(cluster, task(model), item(b"x")))
        except grpc.aio.AioRpcError:
            return False

    await until(answered)


async def test_a_stream_goes_to_a_worker_and_back(cluster: Cluster) -> None:
    await cluster.start()
    await cluster.start_worker("a")
    await see(cluster)
    results = await ask(cluster, task(), *(item(f"{i}".encode(), f"id {i}") for i in range(100)))
    assert {result.item_id: result.classification.labels[0] for result in results} == {
        f"id {i}": label(f"{i}".encode()) for i in range(100)
    }
    assert await ask(cluster, task()) == []


async def test_a_worker_that_has_the_model_is_preferred(cluster: Cluster) -> None:
    await cluster.start()
    await cluster.start_worker("a", "--loaded", OTHER_MODEL)
    await cluster.start_worker("b", "--loaded", MODEL)
    await cluster.start_worker("c", "--builders", "resnet50")
    await see(cluster)
    for model, name in ((MODEL, "workers/b"), (OTHER_MODEL, "workers/a")):
        for _ in range(5):
            [result] = await ask(cluster, task(model), item(b"x"))
            assert result.classification.categories[0] == name


async def test_load_is_spread(cluster: Cluster) -> None:
    await cluster.start()
    await cluster.start_worker("a")
    await cluster.start_worker("b")
    await see(cluster)

    async def spread() -> bool:
        results = await asyncio.gather(*(ask(cluster, task(), item(b"sleep 0.1")) for _ in range(8)))
        return {result[0].classification.categories[0] for result in results} == {"workers/a", "workers/b"}

    await until(spread)  # once both are reached


async def test_errors_are_typed_before_any_worker_is_asked(cluster: Cluster) -> None:
    await cluster.start()
    for requests, expected in (
        ((), errors.InvalidArgumentError),
        ((item(b"x"),), errors.InvalidArgumentError),
        ((task("resnet_50"),), errors.UnknownModelError),
        ((task("resnet50@V9"),), errors.UnknownWeightsError),
        ((task("raft_small@random"),), errors.InvalidArgumentError),
        ((task(),), errors.UnavailableError),  # there is no worker
    ):
        assert type(await failure(cluster, *requests)) is expected
    header = vision_pb2.VideoHeader(tasks=[vision_pb2.Task(model=MODEL), vision_pb2.Task(model="no_such")])
    request = vision_pb2.AnalyzeVideoRequest(header=header)
    assert type(await failure(cluster, request, method="AnalyzeVideo")) is errors.UnknownModelError
    empty = vision_pb2.AnalyzeVideoRequest(header=vision_pb2.VideoHeader())
    assert type(await failure(cluster, empty, method="AnalyzeVideo")) is errors.InvalidArgumentError
    raw: Any = cluster.client.channel.stream_stream("/zoofleet.v1.Vision/Classify")
    call = raw(iter([b"\xff\xff"]))
    with pytest.raises(errors.InvalidArgumentError), typed_errors(Ending(call)):
        await call.read()


async def test_what_a_worker_says_arrives_unchanged(cluster: Cluster) -> None:
    await cluster.start()
    await cluster.start_worker("a", "--refuse", "ResourceExhaustedError")
    for _ in range(20):
        error = await failure_from_worker(cluster)
        assert type(error) is errors.ResourceExhaustedError
        assert str(error) == f"workers/a refuses {MODEL}"


async def failure_from_worker(cluster: Cluster) -> ZoofleetError:
    async def typed() -> ZoofleetError | None:
        error = await failure(cluster, task(), *(item(bytes(1000), str(i)) for i in range(50)))
        return None if isinstance(error, errors.UnavailableError) else error

    error = await until(typed)
    assert isinstance(error, ZoofleetError)
    return error


async def test_a_client_that_leaves_frees_the_worker(cluster: Cluster) -> None:
    await cluster.start()
    await cluster.start_worker("a", "--parallel", "1")
    await see(cluster)
    ended = cluster.log.read_text().count("stream ended")
    call = stub(cluster).Classify(iter([task(), *(item(b"sleep 30", str(i)) for i in range(5))]))

    async def begun() -> bool:
        return "sleep 30" in cluster.executions()

    await until(begun)
    call.cancel()

    async def freed() -> bool:
        return cluster.log.read_text().count("stream ended") == ended + 1

    await until(freed)
    assert len(await ask(cluster, task(), item(b"next"))) == 1


async def test_a_worker_that_dies_ends_the_clients_stream(cluster: Cluster) -> None:
    await cluster.start()
    worker = await cluster.start_worker("a")
    await see(cluster)
    call = stub(cluster).Classify(iter([task(), item(b"sleep 30")]))

    async def begun() -> bool:
        return "sleep 30" in cluster.executions()

    await until(begun)
    worker.send_signal(signal.SIGKILL)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    error = from_rpc_error(caught.value)
    assert type(error) is errors.UnavailableError and "workers/a" in str(error)


async def test_draining_workers_get_no_streams(cluster: Cluster) -> None:
    await cluster.start()
    await cluster.start_worker("a")
    await see(cluster)
    await cluster.client.fleet.DrainWorker(fleet_pb2.DrainWorkerRequest(name="workers/a"))

    async def refused() -> bool:
        try:
            await ask(cluster, task(), item(b"x"))
        except grpc.aio.AioRpcError as error:
            return error.code() is grpc.StatusCode.UNAVAILABLE
        return False

    await until(refused)


async def test_streams_outlive_an_outage_in_which_registrations_expire(cluster: Cluster) -> None:
    await cluster.start()
    worker = await cluster.start_worker("a")
    await see(cluster)
    call = stub(cluster).Classify(iter([task(), item(b"sleep 0.5")]))

    async def begun() -> bool:
        return "sleep 0.5" in cluster.executions()

    await until(begun)
    worker.send_signal(signal.SIGSTOP)  # so that no heartbeat comes before the fleet is read again
    cluster.redis.stop()
    await asyncio.sleep(cluster.config.heartbeat_timeout)
    cluster.redis.start()

    async def read_again() -> bool:
        try:
            return not await cluster.client.workers()
        except grpc.aio.AioRpcError:
            return False

    await until(read_again)
    await asyncio.sleep(2 * cluster.config.sweep_interval)
    worker.send_signal(signal.SIGCONT)
    assert len([response async for response in call]) == 1


async def test_streams_go_on_without_redis(cluster: Cluster) -> None:
    await cluster.start()
    await cluster.start_worker("a")
    await see(cluster)
    cluster.redis.stop()
    assert len(await ask(cluster, task(), item(b"x"))) == 1
    cluster.redis.start()
