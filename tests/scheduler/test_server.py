"""The scheduler as a process: what it loads, when it is ready, how it ends."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import time

import grpc
import grpc.aio
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.scheduler.conftest import Client, Cluster, until

from zoofleet.errors import InvalidArgumentError, UnavailableError
from zoofleet.scheduler import Scheduler, SchedulerConfig
from zoofleet.scheduler.queue import Queue
from zoofleet.v1 import jobs_pb2, models_pb2

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


async def health(client: Client, service: str = "") -> int:
    stub = health_pb2_grpc.HealthStub(client.channel)
    response = await stub.Check(health_pb2.HealthCheckRequest(service=service))
    status: int = response.status
    return status


async def serving(client: Client) -> bool:
    try:
        return bool(await health(client) == SERVING)
    except grpc.aio.AioRpcError:
        return False


def test_it_loads_nothing_heavy() -> None:
    code = "import zoofleet.scheduler, sys; print({'torch', 'av', 'numpy', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


async def test_an_idle_scheduler_is_small_and_ends_on_sigterm(cluster: Cluster) -> None:
    process, address = await cluster.start_process()
    client = cluster.connect(address)
    await until(lambda: serving(client))
    name = await client.create([b"x"])
    await client.models.ListModels(models_pb2.ListModelsRequest())
    assert psutil.Process(process.pid).memory_info().rss < 100 * 1024 * 1024
    # Streams that wait for changes do not hold it up.
    watch = client.jobs.WatchJob(jobs_pb2.WatchJobRequest(name=name))
    await watch.read()
    begun = time.monotonic()
    process.terminate()
    assert await asyncio.to_thread(process.wait) == 0
    assert time.monotonic() - begun < cluster.config.shutdown_grace
    assert await watch.code() is grpc.StatusCode.UNAVAILABLE


async def test_it_is_ready_once_redis_answers(cluster: Cluster) -> None:
    cluster.redis.stop()
    await cluster.start()
    assert await health(cluster.client) == NOT_SERVING
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cluster.client.jobs.ListJobs(jobs_pb2.ListJobsRequest())
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "redis.sock" not in (caught.value.details() or "")
    cluster.redis.start()
    await until(lambda: serving(cluster.client))
    assert await health(cluster.client, "zoofleet.v1.Jobs") == SERVING
    cluster.redis.stop()

    async def noticed() -> bool:
        return bool(await health(cluster.client, "zoofleet.v1.Jobs") == NOT_SERVING)

    await until(noticed)
    assert await health(cluster.client) == SERVING  # interactive calls go on
    cluster.redis.start()


async def test_it_stops_while_redis_is_away(cluster: Cluster) -> None:
    scheduler = await cluster.start(shutdown_grace=0.3)
    worker = await cluster.start_worker("a")
    await cluster.client.create([b"sleep 0.1"] * 40)

    async def begun() -> bool:
        return bool(cluster.executions())

    await until(begun)
    cluster.redis.stop()
    worker.kill()
    async with asyncio.timeout(10):
        await cluster.stop(scheduler)
    cluster.redis.start()


async def test_a_taken_address_is_an_error(cluster: Cluster) -> None:
    await cluster.start()
    second = Scheduler(SchedulerConfig(address=cluster.address, redis_url=cluster.redis.url))
    with pytest.raises(UnavailableError, match=cluster.address):
        await second.start()
    await second.stop()


async def test_a_fault_shows_a_reference_and_no_trace(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(Queue, "list_jobs", fail)
    await cluster.start()
    with caplog.at_level(logging.ERROR), pytest.raises(grpc.aio.AioRpcError) as caught:
        await cluster.client.jobs.ListJobs(jobs_pb2.ListJobsRequest())
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    details = caught.value.details() or ""
    assert "secret" not in details
    assert details.split()[-1] in caplog.text and "a secret" in caplog.text


@pytest.mark.parametrize(
    "fields",
    [
        {"lease": 0},
        {"chunk_items": 257},
        {"max_attempts": 2},
        {"redis_timeout": 10.0},
        {"heartbeat_timeout": 2.0},
        {"lease": float("nan")},
    ],
)
def test_a_configuration_that_cannot_work_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(InvalidArgumentError, match=next(iter(fields))):
        SchedulerConfig(**fields)  # type: ignore[arg-type]
