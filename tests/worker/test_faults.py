"""A worker whose device hangs, or a part of which fails, says so and ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
from tests.worker.calls import item, png, until
from tests.worker.faulty_worker import HANGING_SIZE
from tests.worker.fleet import serving_fleet

from zoofleet import AsyncClient, JobState, Task
from zoofleet._local.redis_server import RedisServer
from zoofleet._wire.calls import Ending, typed_errors
from zoofleet.errors import DeviceHungError, InternalError
from zoofleet.scheduler import Scheduler, SchedulerConfig
from zoofleet.v1 import vision_pb2, vision_pb2_grpc
from zoofleet.worker import Worker, WorkerConfig
from zoofleet.worker.server import HUNG_EXIT_CODE, POISONED_EXIT_CODE

TASK = vision_pb2.Task(model="shufflenet_v2_x0_5@random")
HANGING = png(HANGING_SIZE[1], HANGING_SIZE[0], [bytes(HANGING_SIZE[1])] * HANGING_SIZE[0])
GOOD = png(32, 32, [bytes(32)] * 32)


@contextlib.asynccontextmanager
async def faulty_worker(fault: str, scheduler: str, **settings: Any) -> AsyncIterator[Process]:
    """A worker process with a fault, which registers with that scheduler alone."""
    options = json.dumps(settings | {"schedulers": [scheduler]})
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.worker.faulty_worker", fault, options, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(120):
            yield worker
    finally:
        if worker.returncode is None:
            worker.kill()
            await worker.wait()


async def log_of(worker: Process) -> str:
    """What a process that comes to its end has written."""
    _, output = await worker.communicate()
    return output.decode()


async def test_a_device_that_hangs_ends_its_streams_with_a_reason_and_then_the_process() -> None:
    async with serving_fleet() as fleet, faulty_worker("hang", fleet.address, hang_timeout=1.0, grace=30.0) as worker:
        await until(lambda: bool(fleet.registered))
        async with grpc.aio.insecure_channel(fleet.registered[0].address) as channel:
            stub: Any = vision_pb2_grpc.VisionStub(channel)
            calls = [stub.Classify(), stub.Classify()]
            for call in calls:
                await call.write(vision_pb2.ClassifyRequest(task=TASK))
                # Loading takes longer than a batch may, and is no hang.
                await call.write(vision_pb2.ClassifyRequest(item=item(GOOD)))
                assert (await call.read()).result.HasField("classification")
            assert not fleet.left
            await until(lambda: not fleet.status.HasField("batch_start_time"))
            await calls[0].write(vision_pb2.ClassifyRequest(item=item(HANGING)))
            await until(lambda: fleet.status.HasField("batch_start_time"))
            begun = fleet.status.batch_start_time.ToNanoseconds()
            for call in calls:
                with pytest.raises(DeviceHungError, match=TASK.model), typed_errors(Ending(call)):
                    await call.read()
        log = await log_of(worker)
        assert worker.returncode == HUNG_EXIT_CODE == 70
        assert f"in one batch of {TASK.model}" in log and "draining" in log
        hung = [beat.status for beat in fleet.beats if beat.status.HasField("batch_start_time")]
        assert hung[-1].batch_start_time.ToNanoseconds() == begun
        assert [each.instance_id for each in fleet.left] == [fleet.registered[0].instance_id]


@pytest.mark.parametrize("fault", ["fail_status", "end_device"])
async def test_a_part_that_fails_ends_the_process_with_an_error(fault: str) -> None:
    async with serving_fleet() as fleet, faulty_worker(fault, fleet.address, address="127.0.0.1:0") as worker:
        if fault == "end_device":
            await until(lambda: bool(fleet.registered))
            async with grpc.aio.insecure_channel(fleet.registered[0].address) as channel:
                stub: Any = vision_pb2_grpc.VisionStub(channel)
                call = stub.Classify()
                await call.write(vision_pb2.ClassifyRequest(task=TASK))
                await call.write(vision_pb2.ClassifyRequest(item=item(GOOD)))
                with pytest.raises(InternalError, match="device's thread"), typed_errors(Ending(call)):
                    await call.read()
        log = await log_of(worker)
        assert worker.returncode == 1
        assert "a part of the server failed" in log and "injected" in log and "stopped" in log


async def test_a_worker_with_a_failed_part_stops_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Worker) -> None:
        raise RuntimeError("injected")

    monkeypatch.setattr(Worker, "status", broken)
    async with serving_fleet() as fleet:
        worker = Worker(WorkerConfig(schedulers=(fleet.address,), device="cpu", threads=1, grace=0.0))
        await worker.start()
        with pytest.raises(RuntimeError, match="injected"):
            await worker.run()
        await worker.stop()
        assert len(fleet.left) == 1
    with pytest.raises(RuntimeError, match="after shutdown"):
        worker._pipeline.decoders.submit(print)


async def test_a_job_with_an_item_that_hangs_comes_to_its_end(redis_server: RedisServer) -> None:
    config = SchedulerConfig(
        address="127.0.0.1:0", redis_url=redis_server.url, heartbeat_interval=0.2, max_attempts=3, refusal_backoff=0.05
    )
    scheduler = Scheduler(config)
    await scheduler.start()
    codes: list[int | None] = []

    async def supervise() -> None:
        while True:
            async with faulty_worker("hang", scheduler.address, hang_timeout=0.5) as worker:
                await log_of(worker)
                codes.append(worker.returncode)

    supervisor = asyncio.create_task(supervise())
    async with AsyncClient(scheduler.address) as client:
        job = await client.create_job([GOOD, HANGING, GOOD], [Task(TASK.model)])
        ended = await client.wait_job(job.name, timeout=200)
        results = [result async for result in client.read_results(job.name)]
    await until(lambda: len(codes) == 3)  # the last worker ends after the job
    supervisor.cancel()
    await asyncio.wait([supervisor])
    await scheduler.stop()
    assert ended.state is JobState.SUCCEEDED
    assert len(results) == 3
    (error,) = (result.error for result in results if result.error)
    assert isinstance(error, InternalError)
    assert codes == [HUNG_EXIT_CODE] * 3


async def test_a_poisoned_device_ends_the_process_and_no_item_of_its_job_as_an_error(redis_server: RedisServer) -> None:
    config = SchedulerConfig(
        address="127.0.0.1:0", redis_url=redis_server.url, heartbeat_interval=0.2, refusal_backoff=0.05
    )
    scheduler = Scheduler(config)
    await scheduler.start()
    ended: list[tuple[int | None, str]] = []

    async def supervise() -> None:
        for fault in ("poison", "nothing"):
            async with faulty_worker(fault, scheduler.address) as worker:
                log = await log_of(worker)
                ended.append((worker.returncode, log))

    supervisor = asyncio.create_task(supervise())
    async with AsyncClient(scheduler.address) as client:
        job = await client.create_job([GOOD] * 60, [Task(TASK.model)])
        state = (await client.wait_job(job.name, timeout=100)).state
        results = [result async for result in client.read_results(job.name)]
    supervisor.cancel()
    await asyncio.wait([supervisor])
    await scheduler.stop()
    assert state is JobState.SUCCEEDED
    assert len(results) == 60
    assert not [result.error for result in results if result.error]
    ((code, log),) = ended
    assert code == POISONED_EXIT_CODE == 71
    assert "illegal memory access" in log and "ending the process" in log
