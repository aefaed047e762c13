"""The process: health, signals, and its place in a fleet."""

from __future__ import annotations

import asyncio
import contextlib
import io
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image
from tests.odd_media import clip_with_latin1_tags, odd_images
from tests.worker.calls import item, run, until

from zoofleet._local.redis_server import RedisServer
from zoofleet._serving import handlers
from zoofleet._wire.kinds import TaskKind
from zoofleet.errors import InvalidArgumentError, InvalidMediaError
from zoofleet.scheduler import Scheduler, SchedulerConfig
from zoofleet.v1 import fleet_pb2, fleet_pb2_grpc, vision_pb2, vision_pb2_grpc
from zoofleet.worker import Worker, WorkerConfig

TASK = vision_pb2.Task(model="mobilenet_v3_large@random")
SLOW = vision_pb2.Task(model="raft_small@random", estimate_flow=vision_pb2.EstimateFlowOptions(num_flow_updates=32))

_PROGRAM = """
import asyncio, logging, sys
from zoofleet.worker import WorkerConfig, serve
logging.basicConfig(level=logging.INFO)
asyncio.run(serve(WorkerConfig(schedulers=(), device="cpu", threads=1, address=sys.argv[1], grace=float(sys.argv[2]))))
"""


def small(path: Path) -> bytes:
    """A picture that optical flow takes a fraction of a second for."""
    buffer = io.BytesIO()
    Image.open(path).resize((160, 128)).save(buffer, "PNG")
    return buffer.getvalue()


@contextlib.asynccontextmanager
async def process(grace: float) -> AsyncIterator[tuple[Process, str]]:
    """A worker process, once it is healthy, and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    program = (sys.executable, "-c", _PROGRAM, address, str(grace))
    worker = await asyncio.create_subprocess_exec(*program, stderr=asyncio.subprocess.PIPE)
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), wait_for_ready=True)
            assert (await check).status == health_pb2.HealthCheckResponse.SERVING
        yield worker, address
    finally:
        if worker.returncode is None:
            worker.kill()
            await worker.wait()


async def ended(worker: Process) -> str:
    """What a process that exited with 0 wrote to stderr."""
    _, output = await worker.communicate()
    assert worker.returncode == 0, output.decode()
    assert b"Traceback" not in output
    return output.decode()


async def read(call: Any) -> vision_pb2.Result:
    """The next result of a stream."""
    result: vision_pb2.Result = (await call.read()).result
    return result


async def read_all(call: Any) -> int:
    """Read a stream that fails to its end, without which its status does not come; returns how many results came."""
    count = 0
    with contextlib.suppress(grpc.aio.AioRpcError):
        while not (await read(call)).HasField("error"):
            count += 1
    return count


async def test_sigterm_finishes_what_is_in_flight_and_ends_idle_streams(media: Path) -> None:
    rocket = (media / "rocket.jpg").read_bytes()
    async with process(grace=60.0) as (worker, address), grpc.aio.insecure_channel(address) as channel:
        idle = vision_pb2_grpc.VisionStub(channel).Classify()
        await idle.write(vision_pb2.ClassifyRequest(task=TASK))
        silent = vision_pb2_grpc.VisionStub(channel).Classify()  # not even a task
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        busy = vision_pb2_grpc.VisionStub(channel).Classify()
        await busy.write(vision_pb2.ClassifyRequest(task=TASK))
        await busy.write(vision_pb2.ClassifyRequest(item=item(rocket)))
        assert (await read(busy)).HasField("classification")
        for _ in range(10):
            await busy.write(vision_pb2.ClassifyRequest(item=item(rocket)))
        assert (await read(busy)).item_id  # the first of ten: the others are in flight or on the wire
        worker.send_signal(signal.SIGTERM)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        await read_all(busy)  # what was in flight is answered, then the stream ends
        for stream in (busy, idle, silent):
            assert await stream.code() is grpc.StatusCode.UNAVAILABLE
            assert "draining" in await stream.details()
        log = await ended(worker)
    assert "draining" in log and "stopped" in log


async def test_nothing_is_said_of_odd_files() -> None:
    async with process(grace=10) as (worker, address):
        items = [item(data, item_id=name) for name, data in odd_images().items()]
        results = await run(address, TaskKind.CLASSIFY, TASK, items)
        clip = clip_with_latin1_tags("avi")
        broken = item(clip[: len(clip) // 2] + bytes(len(clip) // 2))
        clips = await run(address, TaskKind.CLASSIFY_CLIP, vision_pb2.Task(model="r3d_18@random"), [broken])
        worker.terminate()
        output = await ended(worker)
    assert [name for name, result in results.items() if result.error] == ["samples.tif"]
    assert isinstance(clips["0"].error, InvalidMediaError)
    # Log lines of ours, and nothing else.
    assert all(line.startswith("INFO:zoofleet.") for line in output.splitlines()), output


async def test_requests_that_do_not_parse_are_counted_in_the_log(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    times = iter((1000.0, 1001.0, 1002.0, 1070.0, 1071.0))
    monkeypatch.setattr(handlers, "time", SimpleNamespace(monotonic=times.__next__))
    async with grpc.aio.insecure_channel(worker.address) as channel:
        get_model: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/zoofleet.v1.Models/GetModel")
        for _ in range(5):
            with pytest.raises(grpc.aio.AioRpcError, match=r"do not parse as zoofleet\.v1\.GetModelRequest"):
                await get_model(b"\xff")
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    last = "the last one of /zoofleet.v1.Models/GetModel"
    assert said == [f"requests that do not parse: {count} refused, {last}" for count in (1, 3)]


async def test_a_stream_that_is_half_closed_ends_well_at_sigterm(media: Path) -> None:
    pair = item(*[small(media / "chelsea.png")] * 2)
    async with process(grace=60.0) as (worker, address), grpc.aio.insecure_channel(address) as channel:
        call = vision_pb2_grpc.VisionStub(channel).EstimateFlow()
        await call.write(vision_pb2.EstimateFlowRequest(task=SLOW))
        for _ in range(2):
            await call.write(vision_pb2.EstimateFlowRequest(item=pair))
        await call.done_writing()
        first = await read(call)
        worker.send_signal(signal.SIGTERM)
        second = await read(call)
        assert {first.item_id, second.item_id} == {"0", "1"}
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK
        await ended(worker)


async def test_what_is_not_done_within_the_grace_is_cut_off(media: Path) -> None:
    pair = item(*[small(media / "chelsea.png")] * 2)
    async with process(grace=0.0) as (worker, address), grpc.aio.insecure_channel(address) as channel:
        call = vision_pb2_grpc.VisionStub(channel).EstimateFlow()
        await call.write(vision_pb2.EstimateFlowRequest(task=SLOW))
        for _ in range(8):
            await call.write(vision_pb2.EstimateFlowRequest(item=pair))
        assert not (await read(call)).HasField("error")
        worker.send_signal(signal.SIGTERM)
        assert await read_all(call) < 7
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
        await ended(worker)


async def test_a_worker_registers_beats_drains_and_leaves(redis_server: RedisServer, media: Path) -> None:
    scheduler = Scheduler(SchedulerConfig(address="127.0.0.1:0", redis_url=redis_server.url, heartbeat_interval=0.05))
    await scheduler.start()
    worker = Worker(WorkerConfig(schedulers=(scheduler.address,), device="cpu", name="w1"))
    await worker.start()
    async with grpc.aio.insecure_channel(scheduler.address) as channel:
        fleet = fleet_pb2_grpc.FleetStub(channel)

        async def listed() -> fleet_pb2.Worker | None:
            response = await fleet.ListWorkers(fleet_pb2.ListWorkersRequest())
            return next(iter(response.workers), None)

        async def is_listed() -> bool:
            return await listed() is not None

        async def has_beaten() -> bool:
            seen = await listed()
            return seen is not None and seen.status.item_count == 2

        await until(is_listed)
        seen = await listed()
        assert seen is not None
        assert (seen.name, seen.address, seen.device) == ("workers/w1", worker.address, "cpu")
        assert seen.state == fleet_pb2.Worker.STATE_READY
        assert seen.kernels == "CPU"
        assert "resnet50" in seen.builders and seen.memory_budget_bytes == worker._residency.budget

        await run(worker.address, TaskKind.CLASSIFY, TASK, [item((media / "rocket.jpg").read_bytes()), item(b"")])
        await until(has_beaten)
        seen = await listed()
        assert seen is not None
        assert seen.status.error_count == 1
        assert [loaded.model for loaded in seen.status.loaded_models] == [TASK.model]

        # A scheduler that has forgotten it gets it back.
        await fleet.UnregisterWorker(fleet_pb2.UnregisterWorkerRequest(name=worker.name))
        await until(is_listed)

        await fleet.DrainWorker(fleet_pb2.DrainWorkerRequest(name=worker.name))
        await asyncio.wait_for(worker._draining.wait(), 60)
        await worker.stop()
        assert await listed() is None
    await scheduler.stop()


async def test_a_worker_without_its_scheduler_serves_and_stops(media: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        worker = Worker(WorkerConfig(schedulers=(f"127.0.0.1:{taken.getsockname()[1]}",), device="cpu"))
        await worker.start()
        results = await run(worker.address, TaskKind.CLASSIFY, TASK, [item((media / "rocket.jpg").read_bytes())])
        assert results["0"].error is None
        await worker.stop()


@pytest.mark.parametrize(
    "options",
    [
        {"address": "0.0.0.0:0"},
        {"device": "tpu"},
        {"device": "cuda:99"},
        {"threads": 0},
        {"batch_sizes": {"dance": 3}},
        {"batch_sizes": {"detect": 0}},
        {"grace": -1.0},
        {"hang_timeout": 0.0},
        {"schedulers": ("a:1", "")},
        {"uri_prefixes": ("ftp://a",)},
        {"name": "Not a name"},
    ],
    ids=str,
)
async def test_settings_that_cannot_work_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(InvalidArgumentError):
        Worker(WorkerConfig(**options))  # type: ignore[arg-type]
