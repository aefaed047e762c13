"""Uploads at their edge, data that are lost, and bytes."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from tests.scheduler.queue_steps import MODEL, claim, left_over, put, read, stored_bytes, try_claim

from zoofleet._wire.kinds import resolve
from zoofleet._wire.status import from_status
from zoofleet.errors import AbortedError, DataLossError, ResourceExhaustedError
from zoofleet.scheduler import SchedulerConfig, keys
from zoofleet.scheduler.queue import Queue
from zoofleet.scheduler.records import NewJob, ReadyResult, StagedItem
from zoofleet.scheduler.store import Store
from zoofleet.v1 import jobs_pb2, vision_pb2

ITEMS = [StagedItem(f"item-{index}", b"data") for index in range(50)]


def job_of(job_id: str, count: int, data_count: int) -> NewJob:
    return NewJob(job_id, "default", 0, 60, (resolve(vision_pb2.Task(model=MODEL))[0],), "", "", count, data_count)


async def test_an_upload_past_its_expiry_is_never_acknowledged(store: Store) -> None:
    queue = Queue(store, SchedulerConfig(upload_timeout=0.1))
    await queue.stage("late", 0, 1, ITEMS)
    await asyncio.sleep(0.15)  # and no sweep
    with pytest.raises(AbortedError):
        await queue.stage("late", 50, 1, [StagedItem("one more", b"data")])
    with pytest.raises(AbortedError):
        await queue.publish(job_of("late", 50, 50))
    assert await left_over(store) == {"bytes"}
    assert await stored_bytes(store) == 0


@pytest.mark.parametrize("lost", ["items", "ids", "results"])
async def test_an_upload_of_which_something_is_lost_is_never_acknowledged(
    queue: Queue, store: Store, lost: str
) -> None:
    await queue.stage("upload", 0, 1, [*ITEMS[:40], StagedItem("failed", b"", b"\x08\x03")])
    await store.call("DEL", f"{keys.job('upload')}:{lost}")
    with pytest.raises(AbortedError):
        await queue.publish(job_of("upload", 41, 40))
    assert await stored_bytes(store) == 0


async def test_a_batch_that_was_lost_ends_the_upload(queue: Queue, store: Store) -> None:
    await queue.stage("upload", 0, 1, ITEMS[:10])
    await store.call("DEL", keys.ids("upload"))
    with pytest.raises(AbortedError):
        await queue.stage("upload", 10, 1, ITEMS[10:20])


async def test_an_item_whose_data_are_lost_ends_alone(queue: Queue, store: Store) -> None:
    job_id = await put(queue, 4)
    await store.call("HDEL", f"{keys.job(job_id)}:items", 1)
    lease = await claim(queue)
    assert [item.index for item in lease.items] == [0, 2, 3]
    job = await queue.get(job_id)
    assert (job.committed, job.errors) == (1, 1)
    (result,) = await read(queue, job)
    assert (result.item_id, type(from_status(result.error))) == ("item-1", DataLossError)
    gone = await put(queue, 2)
    await store.call("DEL", f"{keys.job(gone)}:items")
    assert await try_claim(queue) is None
    assert (await queue.get(gone)).state == jobs_pb2.Job.STATE_SUCCEEDED


async def test_a_job_that_is_lost_stops_nobody(queue: Queue, store: Store) -> None:
    await store.call("DEL", keys.job(await put(queue, 2)))
    job_id = await put(queue, 2)
    assert (await claim(queue)).job_id == job_id


async def test_one_tenants_bytes_are_not_anothers(queue: Queue, store: Store) -> None:
    await put(queue, 9, tenant="full", data=bytes(1000))
    with pytest.raises(ResourceExhaustedError, match=r"'full'.*10000 bytes") as caught:
        await put(queue, 2, tenant="full", data=bytes(1000))
    assert caught.value.retry_after
    await put(queue, 9, tenant="other", data=bytes(1000))


async def test_all_tenants_share_the_store(store: Store) -> None:
    queue = Queue(store, SchedulerConfig(max_stored_bytes=15_000))
    await put(queue, 9, tenant="a", data=bytes(1000))
    with pytest.raises(ResourceExhaustedError, match="15000 bytes"):
        await put(queue, 9, tenant="b", data=bytes(1000))


async def test_results_count_and_a_job_ends_where_they_are_too_many(queue: Queue, store: Store) -> None:
    job_id = await put(queue, 40)
    leases = [await claim(queue) for _ in range(4)]
    flow = vision_pb2.Result(item_id="x", model="y" * 1000).SerializeToString()
    for lease in leases[:2]:
        await queue.commit(lease, [ReadyResult(item.index, False, flow) for item in lease.items])
    with pytest.raises(ResourceExhaustedError):
        await put(queue, 20, data=bytes(100))
    await queue.commit(leases[2], [ReadyResult(item.index, False, flow) for item in leases[2].items])
    job = await queue.get(job_id)
    assert job.state == jobs_pb2.Job.STATE_FAILED
    assert job.error is not None and isinstance(from_status(job.error), ResourceExhaustedError)
    assert (job.committed, job.errors) == (40, 28)
    assert len(await read(queue, job)) == 12
    missing, _ = await queue.read_missing(job, 0)
    assert {type(from_status(vision_pb2.Result.FromString(row.data).error)) for row in missing} == {
        ResourceExhaustedError
    }
    assert len(missing) == 28
    assert await try_claim(queue) is None
    await queue.delete(job_id)
    assert await stored_bytes(store, "default") == 0
    assert await left_over(store) == {"bytes", "sequence", "token"}
    await put(queue, 20, data=bytes(100))


async def test_bytes_come_back_when_a_job_expires(queue: Queue, store: Store) -> None:
    job_id = await put(queue, 4, ttl=0.05, request_id=str(uuid.uuid4()), failed=[1])
    lease = await claim(queue)
    await queue.commit(lease, [ReadyResult(item.index, False, b"result") for item in lease.items])
    assert (await queue.get(job_id)).finished
    assert await stored_bytes(store) > 0
    await asyncio.sleep(0.1)
    await queue.reap()
    assert await stored_bytes(store) == 0
    assert await left_over(store) == {"bytes", "sequence", "token"}


async def test_a_full_sweep_says_that_there_is_more(queue: Queue) -> None:
    store_queue = queue
    for _ in range(11):
        for tenant in range(10):
            await put(store_queue, 1, tenant=f"tenant-{tenant}", ttl=0.001, failed=[0])
    await asyncio.sleep(0.05)
    first, second = await queue.reap(), await queue.reap()
    assert (first.jobs, first.more) == (100, True)
    assert (second.jobs, second.more) == (10, False)
