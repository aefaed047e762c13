"""A scheduler with short times, on a real redis-server, with real worker processes."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from tests.scheduler import queue_steps
from tests.scheduler.queue_steps import MODEL, OTHER_MODEL

from zoofleet._local.redis_server import RedisServer
from zoofleet._wire.channels import CHANNEL_OPTIONS
from zoofleet._wire.parts import Joiner, cut
from zoofleet.scheduler import Scheduler, SchedulerConfig
from zoofleet.scheduler.queue import Queue
from zoofleet.scheduler.store import Store
from zoofleet.v1 import fleet_pb2, fleet_pb2_grpc, jobs_pb2, jobs_pb2_grpc, models_pb2_grpc, vision_pb2

__all__ = ["FAKE_WORKER", "MODEL", "OTHER_MODEL", "Client", "Cluster", "free_port", "job_of", "messages", "until"]

FAKE_WORKER = Path(__file__).parent / "fake_worker.py"
_SERVE = """
import asyncio, json, logging, sys
from zoofleet.scheduler import SchedulerConfig, serve
logging.basicConfig(level="INFO", format="%(message)s")
asyncio.run(serve(SchedulerConfig(**json.loads(sys.argv[1]))))
"""


async def until(condition: Callable[[], Awaitable[Any]], timeout: float = 20.0) -> Any:
    """Wait until a condition holds, and return what it gave."""
    async with asyncio.timeout(timeout):
        while True:
            if value := await condition():
                return value
            await asyncio.sleep(0.02)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def messages(
    job: jobs_pb2.Job, items: Iterable[bytes | vision_pb2.Item], request_id: str = ""
) -> Iterable[jobs_pb2.CreateJobRequest]:
    """What a client sends to create a job; the items' ids are their positions where they are bytes."""
    yield jobs_pb2.CreateJobRequest(spec=jobs_pb2.JobSpec(job=job, request_id=request_id))
    for index, given in enumerate(items):
        item = given
        if isinstance(item, bytes):
            item = vision_pb2.Item(item_id=f"item-{index}", media=[vision_pb2.Media(data=item)])
        yield from cut(jobs_pb2.CreateJobRequest, item)


def job_of(*models: str, **fields: Any) -> jobs_pb2.Job:
    return jobs_pb2.Job(tasks=[vision_pb2.Task(model=model) for model in models or (MODEL,)], **fields)


class Client:
    """The services of one scheduler."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.channel = grpc.aio.insecure_channel(address, CHANNEL_OPTIONS)
        self.jobs: Any = jobs_pb2_grpc.JobsStub(self.channel)
        self.fleet: Any = fleet_pb2_grpc.FleetStub(self.channel)
        self.models: Any = models_pb2_grpc.ModelsStub(self.channel)

    async def create(
        self, items: Iterable[bytes | vision_pb2.Item], *models: str, request_id: str = "", **fields: Any
    ) -> str:
        job = await self.jobs.CreateJob(messages(job_of(*models, **fields), items, request_id))
        return str(job.name)

    async def get(self, name: str) -> jobs_pb2.Job:
        job: jobs_pb2.Job = await self.jobs.GetJob(jobs_pb2.GetJobRequest(name=name))
        return job

    async def read(self, name: str, cursor: str = "", follow: bool = True) -> list[tuple[vision_pb2.Result, str]]:
        """Results with the cursors after them."""
        joiner = Joiner(vision_pb2.Result, 2**30)
        results = []
        request = jobs_pb2.ReadResultsRequest(name=name, cursor=cursor, follow=follow)
        async for response in self.jobs.ReadResults(request):
            joined = joiner.add(response)
            if joined is not None:
                _, result = joined
                assert isinstance(result, vision_pb2.Result)
                results.append((result, response.cursor))
        return results

    async def results(self, name: str) -> dict[str, vision_pb2.Result]:
        """All results of a one-task job by item id, once it has finished; fails where an item has two."""
        results = [result for result, _ in await self.read(name)]
        by_id = {result.item_id: result for result in results}
        assert len(by_id) == len(results)
        return by_id

    async def workers(self) -> dict[str, fleet_pb2.Worker]:
        response = await self.fleet.ListWorkers(fleet_pb2.ListWorkersRequest())
        return {worker.name: worker for worker in response.workers}

    async def wait_for_workers(self, *names: str) -> None:
        async def there() -> bool:
            return (await self.workers()).keys() == {f"workers/{name}" for name in names}

        await until(there)

    async def close(self) -> None:
        await self.channel.close()


class Cluster:
    """Everything around one redis-server; stops all it has started."""

    def __init__(self, redis: RedisServer, directory: Path) -> None:
        self.redis = redis
        self.log = directory / "worker.log"
        self.log.touch()
        self.config = SchedulerConfig(
            address="127.0.0.1:0",
            redis_url=redis.url,
            redis_timeout=1.0,
            heartbeat_interval=0.2,
            heartbeat_timeout=1.2,
            lease=1.5,
            sweep_interval=0.1,
            refusal_backoff=0.05,
            shutdown_grace=3.0,
        )
        self.address = ""
        self.client: Client
        self.store = Store(redis.url, 5.0)
        self.queue = Queue(self.store, self.config)
        self._schedulers: list[Scheduler] = []
        self._clients: list[Client] = []
        self._processes: list[subprocess.Popen[bytes]] = []

    def connect(self, address: str) -> Client:
        client = Client(address)
        self._clients.append(client)
        return client

    async def start(self, **changes: Any) -> Scheduler:
        """Start a scheduler in this process; `client` and further workers then talk to it."""
        self.config = dataclasses.replace(self.config, **changes)
        self.queue = Queue(self.store, self.config)
        scheduler = Scheduler(self.config)
        await scheduler.start()
        self._schedulers.append(scheduler)
        self.address = scheduler.address
        self.client = self.connect(self.address)
        return scheduler

    async def stop(self, scheduler: Scheduler) -> None:
        self._schedulers.remove(scheduler)
        await scheduler.stop()

    async def start_process(self, **changes: Any) -> tuple[subprocess.Popen[bytes], str]:
        """Start a scheduler as a process of its own; returns it and its address."""
        fields = dataclasses.asdict(self.config) | {"address": f"127.0.0.1:{free_port()}"} | changes
        process = self._spawn([sys.executable, "-c", _SERVE, json.dumps(fields)])
        return process, fields["address"]

    async def start_worker(
        self, name: str, *options: str, addresses: list[str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a fake worker and wait until the fleet has it."""
        schedulers = addresses or [self.address]
        arguments = ["--name", name, "--schedulers", *schedulers, "--log", str(self.log), *options]
        process = self._spawn([sys.executable, str(FAKE_WORKER), *arguments])

        async def there() -> bool:
            return f"workers/{name}" in await self.client.workers()

        await until(there)
        return process

    def executions(self) -> list[str]:
        """Data of all items that workers have begun."""
        lines = (line.split(" ", 2) for line in self.log.read_text().splitlines())
        return [line[2] for line in lines if line[1] == "item"]

    async def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        for client in self._clients:
            await client.close()
        for scheduler in self._schedulers:
            await scheduler.stop()
        await self.store.close()

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
        self._processes.append(process)
        return process


@pytest.fixture
async def cluster(redis_server: RedisServer, tmp_path: Path) -> AsyncIterator[Cluster]:
    """Redis, with no scheduler yet."""
    cluster = Cluster(redis_server, tmp_path)
    yield cluster
    await cluster.close()


@pytest.fixture
async def store(redis_server: RedisServer) -> AsyncIterator[Store]:
    """An empty Redis, with the worker `w` registered."""
    store = Store(redis_server.url, 5.0)
    await queue_steps.register(store)
    yield store
    await store.close()


@pytest.fixture
def queue(store: Store) -> Queue:
    """The queue with small limits and short times."""
    return Queue(store, queue_steps.LIMITS)
