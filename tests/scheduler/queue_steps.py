"""The queue driven step by step, on a real Redis and without a scheduler: what its tests share."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from google.rpc import status_pb2

from zoofleet._wire.kinds import resolve
from zoofleet.scheduler import SchedulerConfig, keys
from zoofleet.scheduler.queue import Queue
from zoofleet.scheduler.records import JobRecord, Lease, NewJob, ReadyResult, StagedItem
from zoofleet.scheduler.store import Store
from zoofleet.v1 import vision_pb2

MODEL = "resnet50@random"
OTHER_MODEL = "mobilenet_v3_large@random"
BUILDERS = ["resnet50", "mobilenet_v3_large"]
LIMITS = SchedulerConfig(
    redis_timeout=0.1,
    heartbeat_interval=0.05,
    heartbeat_timeout=0.2,
    lease=0.2,
    chunk_items=4,
    max_job_items=50,
    max_tenant_jobs=12,
    max_tenant_bytes=10_000,
)


async def register(store: Store, worker: str = "w", instance: str = "", timeout: float = 60) -> None:
    """Register a worker's process, whose instance id is its name where not given."""
    await store.run("register", worker, instance or worker, b"", b"", round(timeout * 1000))


async def beat(store: Store, worker: str = "w", instance: str = "", timeout: float = 60) -> int:
    answer: int = await store.run("beat", worker, instance or worker, b"", round(timeout * 1000))
    return answer


async def put(
    queue: Queue,
    count: int,
    *models: str,
    tenant: str = "default",
    priority: int = 0,
    ttl: float = 60,
    request_id: str = "",
    digest: str = "",
    failed: Sequence[int] = (),
    data: bytes = b"data",
) -> str:
    """Upload and publish a job; returns its id."""
    tasks = tuple(resolve(vision_pb2.Task(model=model))[0] for model in models or (MODEL,))
    job_id = uuid.uuid4().hex
    status = status_pb2.Status(code=3, message="too large").SerializeToString()
    items = [
        StagedItem(f"item-{i}", b"", status) if i in failed else StagedItem(f"item-{i}", data) for i in range(count)
    ]
    await queue.stage(job_id, 0, len(tasks), items, tenant)
    data_count = count - len(failed)
    return await queue.publish(NewJob(job_id, tenant, priority, ttl, tasks, request_id, digest, count, data_count))


async def try_claim(
    queue: Queue,
    items: int = 4,
    *,
    worker: str = "w",
    instance: str = "",
    builders: Sequence[str] = BUILDERS,
    window: int = 10_000,
    loaded: Sequence[str] = (),
    refused: Sequence[str] = (),
) -> Lease | None:
    return await queue.claim(
        worker, items, instance=instance or worker, builders=builders, window=window, loaded=loaded, refused=refused
    )


async def claim(queue: Queue, items: int = 4, *, worker: str = "w", loaded: Sequence[str] = ()) -> Lease:
    found = await try_claim(queue, items, worker=worker, loaded=loaded)
    assert found is not None
    return found


def outcomes(lease: Lease, count: int | None = None, text: str = "") -> list[ReadyResult]:
    results = [(item.index, vision_pb2.Result(item_id=item.item_id, model=text)) for item in lease.items[:count]]
    return [ReadyResult(index, False, result.SerializeToString()) for index, result in results]


async def read(queue: Queue, job: JobRecord) -> list[vision_pb2.Result]:
    return [vision_pb2.Result.FromString(result.data) for result in await queue.read_results(job, 0)]


async def stored_bytes(store: Store, tenant: str = "*") -> int:
    return int(await store.call("HGET", f"{keys.ROOT}:bytes", tenant) or 0)


async def left_over(store: Store) -> set[str]:
    """Names of all keys but those of the worker that the tests register, without the hash tag."""
    names = {key.decode().removeprefix(f"{keys.ROOT}:") for key in await store.call("KEYS", "*")}
    return names - {"workers", "worker:w"}


async def dead_letters(store: Store) -> list[tuple[str, int, int]]:
    """Job id, task index and item index of the items that were given up, the newest first."""
    rows = await store.call("LRANGE", f"{keys.ROOT}:dead_letters", 0, -1)
    letters = (row.decode().split(":") for row in rows)
    return [(job_id, int(task), int(index)) for job_id, task, index in letters]
