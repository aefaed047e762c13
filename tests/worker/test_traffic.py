"""Bulk traffic is known as such from the scheduler to the device, and leaves room for others."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import torch
from tests.worker.calls import item, until
from tests.worker.fake_runner import never

from zoofleet import AsyncClient, Task
from zoofleet._local.redis_server import RedisServer
from zoofleet._wire.traffic import BULK_METADATA, is_bulk, traffic_metadata
from zoofleet.scheduler import Scheduler, SchedulerConfig
from zoofleet.v1 import vision_pb2, vision_pb2_grpc
from zoofleet.worker import Worker, WorkerConfig
from zoofleet.worker.pipeline import Pipeline, Spec
from zoofleet.worker.residency import Residency

TASK = vision_pb2.Task(model="shufflenet_v2_x0_5@random")
URGENT = (("zoofleet-traffic", "urgent"),)


@pytest.fixture
def traffic(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each item that reaches a pipeline is bulk."""
    seen: list[bool] = []
    run = Pipeline.run

    async def noted(self: Pipeline, spec: Spec, *arguments: Any) -> Any:
        seen.append(spec.bulk)
        return await run(self, spec, *arguments)

    monkeypatch.setattr(Pipeline, "run", noted)
    return seen


async def classify(address: str, media: Path, metadata: tuple[tuple[str, str], ...]) -> None:
    """Send one picture in a stream with metadata."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = vision_pb2_grpc.VisionStub(channel)
        call = stub.Classify(metadata=metadata)
        await call.write(vision_pb2.ClassifyRequest(task=TASK))
        await call.write(vision_pb2.ClassifyRequest(item=item((media / "rocket.jpg").read_bytes())))
        assert (await call.read()).result.HasField("classification")
        call.cancel()


async def test_a_stream_says_what_it_is_and_unknown_values_say_nothing(
    worker: Worker, media: Path, traffic: list[bool]
) -> None:
    for metadata in ((), BULK_METADATA, URGENT):
        await classify(worker.address, media, metadata)
    assert traffic == [False, True, False]


async def test_jobs_are_bulk_and_streams_through_the_scheduler_what_they_say(
    redis_server: RedisServer, media: Path, traffic: list[bool]
) -> None:
    scheduler = Scheduler(SchedulerConfig(address="127.0.0.1:0", redis_url=redis_server.url))
    await scheduler.start()
    worker = Worker(WorkerConfig(schedulers=(scheduler.address,), device="cpu", threads=1))
    await worker.start()
    async with AsyncClient(scheduler.address) as client:
        job = await client.create_job([(media / "rocket.jpg").read_bytes()], [Task(TASK.model)])
        await client.wait_job(job.name, timeout=100)
    for metadata in ((), BULK_METADATA, URGENT):
        await classify(scheduler.address, media, metadata)
    await worker.stop()
    await scheduler.stop()
    assert traffic == [True, False, True, False]


@pytest.mark.parametrize(("slots", "for_bulk"), [(1, 1), (2, 1), (4, 3), (64, 56)])
async def test_bulk_never_takes_the_last_slots(slots: int, for_bulk: int) -> None:
    config = WorkerConfig(schedulers=(), device="cpu", threads=1, max_inflight_items=slots)
    pipeline = Pipeline(config, Residency(torch.device("cpu"), 1, config), never)
    end = asyncio.Event()
    running: list[bool] = []

    async def occupy(bulk: bool) -> None:
        running.append(bulk)
        await end.wait()

    async def flood(bulk: bool) -> None:
        for _ in range(slots):
            await pipeline.start(lambda: occupy(bulk), bulk=bulk)

    flooding = asyncio.create_task(flood(True))
    await until(lambda: len(running) == for_bulk)
    others = asyncio.create_task(flood(False))
    await until(lambda: len(running) == slots)
    assert running.count(False) == slots - for_bulk
    others.cancel()
    await asyncio.wait([others])
    end.set()
    await flooding  # all slots come back
    assert running.count(True) == slots
    pipeline.close()


def test_metadata_goes_on_as_far_as_it_is_known() -> None:
    assert is_bulk(None) is is_bulk(URGENT) is False
    assert traffic_metadata([("authorization", "secret"), *BULK_METADATA]) == BULK_METADATA
    assert traffic_metadata(URGENT) == ()
