"""The queue's promises, step by step, on a real Redis and without a scheduler."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from tests.scheduler.conftest import MODEL, OTHER_MODEL
from tests.scheduler.queue_steps import claim, dead_letters, left_over, outcomes, put, read, stored_bytes, try_claim

from zoofleet._wire.kinds import resolve
from zoofleet.errors import (
    AbortedError,
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    JobNotFoundError,
    LeaseLostError,
    ResourceExhaustedError,
)
from zoofleet.scheduler import SchedulerConfig, keys
from zoofleet.scheduler.queue import Queue
from zoofleet.scheduler.records import Cause, NewJob, Reaped, StagedItem
from zoofleet.scheduler.store import Store
from zoofleet.v1 import jobs_pb2, vision_pb2


async def test_a_claim_takes_a_run_of_items_and_the_next_one_goes_on(queue: Queue) -> None:
    job_id = await put(queue, 10)
    leases = [await claim(queue) for _ in range(3)]
    assert [[item.index for item in lease.items] for lease in leases] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [item.item_id for item in leases[2].items] == ["item-8", "item-9"]
    assert {item.data for lease in leases for item in lease.items} == {b"data"}
    assert leases[0].token < leases[1].token < leases[2].token
    assert await try_claim(queue) is None
    assert (await queue.get(job_id)).state == jobs_pb2.Job.STATE_RUNNING


async def test_a_claim_is_bounded_by_bytes(store: Store) -> None:
    queue = Queue(store, SchedulerConfig(chunk_bytes=250))
    await put(queue, 5, data=bytes(100))
    assert [len((await claim(queue, 16)).items) for _ in range(3)] == [2, 2, 1]
    await put(queue, 2, data=bytes(300))
    assert [len((await claim(queue, 16)).items) for _ in range(2)] == [1, 1]  # alone, but not never


async def test_results_are_committed_once(queue: Queue, store: Store) -> None:
    job_id = await put(queue, 4)
    lease = await claim(queue)
    await queue.commit(lease, outcomes(lease, 3, "first"))
    await queue.commit(lease, outcomes(lease, 3, "again"))
    assert (await queue.get(job_id)).committed == 3
    await queue.commit(lease, outcomes(lease, 4, "last"))
    with pytest.raises(LeaseLostError):
        await queue.commit(lease, outcomes(lease, 4, "late"))
    job = await queue.get(job_id)
    assert (job.state, job.committed, job.errors) == (jobs_pb2.Job.STATE_SUCCEEDED, 4, 0)
    assert [result.model for result in await read(queue, job)] == ["first", "first", "first", "last"]
    assert await store.call("EXISTS", f"{keys.job(job_id)}:items") == 0


async def test_a_commit_outside_its_lease_changes_nothing(queue: Queue) -> None:
    job_id = await put(queue, 8)
    first, second = await claim(queue), await claim(queue)
    await queue.commit(first, outcomes(second))
    assert (await queue.get(job_id)).committed == 0


async def test_an_expired_lease_moves_and_its_old_token_is_worthless(queue: Queue) -> None:
    job_id = await put(queue, 4)
    old = await claim(queue)
    await queue.commit(old, outcomes(old, 1, "old"))
    assert await queue.reap() == Reaped(0, 0, 0, 0, more=False)
    await asyncio.sleep(0.25)
    assert await queue.reap() == Reaped(1, 0, 0, 0, more=False)
    assert await queue.renew([(old, True)]) == {old.token}
    renewed = await claim(queue)
    assert [item.index for item in renewed.items] == [1, 2, 3]
    assert renewed.token > old.token
    with pytest.raises(LeaseLostError):
        await queue.commit(old, outcomes(old, 4, "old"))
    await queue.commit(renewed, outcomes(renewed, 3, "new"))
    results = await read(queue, await queue.get(job_id))
    assert sorted((result.item_id, result.model) for result in results) == [
        ("item-0", "old"),
        ("item-1", "new"),
        ("item-2", "new"),
        ("item-3", "new"),
    ]


async def test_a_renewed_lease_lasts(queue: Queue) -> None:
    await put(queue, 4)
    lease = await claim(queue)
    for _ in range(4):
        await asyncio.sleep(0.1)
        assert await queue.renew([(lease, True)]) == frozenset()
    assert await queue.reap() == Reaped(0, 0, 0, 0, more=False)
    await queue.commit(lease, outcomes(lease))


async def test_what_is_handed_back_comes_first(queue: Queue) -> None:
    await put(queue, 12)
    first, second = await claim(queue), await claim(queue)
    await queue.release(second, Cause.INNOCENT)
    await queue.release(first, Cause.INNOCENT)
    again = [await claim(queue) for _ in range(3)]
    assert sorted(lease.items[0].index for lease in again[:2]) == [0, 4]
    assert [lease.attempts for lease in again] == [0, 0, 0]
    assert again[2].items[0].index == 8


async def test_items_that_lose_workers_go_on_alone_and_end_as_errors(queue: Queue, store: Store) -> None:
    job_id = await put(queue, 3)
    lease = await claim(queue)
    await queue.release(lease, Cause.FAULT)
    singles = [await claim(queue) for _ in range(3)]
    assert [len(single.items) for single in singles] == [1, 1, 1]
    for single in singles[:2]:
        await queue.commit(single, outcomes(single))
    await queue.release(singles[2], Cause.FAULT)
    # Twice unlucky: from now on it runs with nothing else beside it.
    await put(queue, 8, tenant="other")
    for attempts in (2, 3):
        alone = await claim(queue)
        assert await try_claim(queue) is None
        assert (alone.attempts, [item.index for item in alone.items]) == (attempts, [2])
        await queue.release(alone, Cause.FAULT)
    job = await queue.get(job_id)
    assert (job.state, job.committed, job.errors) == (jobs_pb2.Job.STATE_SUCCEEDED, 3, 1)
    poison = (await read(queue, job))[-1]
    assert (poison.item_id, poison.error.code, poison.model) == ("item-2", 13, MODEL)
    assert await dead_letters(store) == [(job_id, 0, 2)]
    assert (await claim(queue)).tenant == "other"


async def test_tenants_take_turns_by_items(queue: Queue) -> None:
    await put(queue, 40, tenant="bulk")
    for _ in range(10):
        await put(queue, 1, tenant="small")
    order = []
    for _ in range(12):
        lease = await claim(queue)
        order.append((await queue.get(lease.job_id)).spec.tenant)
    # Four items each: one chunk of the one, four single-item jobs of the other.
    assert order == ["bulk", *["small"] * 4, "bulk", *["small"] * 4, "bulk", "small"]


async def test_a_tenant_that_comes_later_does_not_wait_for_the_first(queue: Queue) -> None:
    await put(queue, 40, tenant="a")
    first = await claim(queue)
    second = await put(queue, 4, tenant="b")
    leases = [await claim(queue), await claim(queue)]
    assert second in {lease.job_id for lease in leases}
    assert first.job_id != second


async def test_priority_is_strict_and_first_come_first_served_within(queue: Queue) -> None:
    low, normal, high = [await put(queue, 4, priority=priority) for priority in (-100, 0, 100)]
    later = await put(queue, 4, priority=100)
    assert [(await claim(queue)).job_id for _ in range(4)] == [high, later, normal, low]


async def test_a_loaded_model_goes_first_but_not_for_ever(queue: Queue) -> None:
    head = await put(queue, 4, MODEL)
    for _ in range(9):
        await put(queue, 4, OTHER_MODEL)
    order = [(await claim(queue, loaded=[OTHER_MODEL])).job_id for _ in range(10)]
    assert 0 < order.index(head) <= 8
    low = await put(queue, 4, OTHER_MODEL, priority=-1)
    high = await put(queue, 4, MODEL)
    assert [(await claim(queue, loaded=[OTHER_MODEL])).job_id for _ in range(2)] == [high, low]


async def test_a_worker_gets_only_what_it_can_run(queue: Queue) -> None:
    await put(queue, 4, MODEL)
    other = await put(queue, 4, OTHER_MODEL)
    assert await try_claim(queue, builders=[]) is None
    assert await try_claim(queue, refused=[MODEL, OTHER_MODEL]) is None
    found = await try_claim(queue, refused=[MODEL])
    assert found is not None and found.job_id == other


async def test_cancel_ends_it_and_late_commits_change_nothing(queue: Queue, store: Store) -> None:
    job_id = await put(queue, 10, MODEL, OTHER_MODEL)
    first, second = await claim(queue), await claim(queue)
    await queue.commit(first, outcomes(first))
    await queue.cancel(job_id)
    with pytest.raises(LeaseLostError):
        await queue.commit(second, outcomes(second))
    job = await queue.get(job_id)
    assert (job.state, job.committed, job.errors) == (jobs_pb2.Job.STATE_CANCELLED, 20, 16)
    assert await try_claim(queue) is None
    assert len(await read(queue, job)) == 4
    missing, end = await queue.read_missing(job, 0)
    assert end is None
    results = [vision_pb2.Result.FromString(result.data) for result in missing]
    done = {("item-0", MODEL), ("item-1", MODEL), ("item-2", MODEL), ("item-3", MODEL)}
    assert {(result.item_id, result.model) for result in results} == {
        (f"item-{index}", model) for index in range(10) for model in (MODEL, OTHER_MODEL)
    } - done
    assert {result.error.code for result in results} == {1}
    rest, _ = await queue.read_missing(job, missing[4].position)
    assert rest == missing[5:]
    await queue.cancel(job_id)  # once more is no error
    assert await queue.get(job_id) == job
    await queue.delete(job_id)
    assert await stored_bytes(store) == 0


async def test_cancelled_results_of_a_large_job_come_in_pages(store: Store) -> None:
    queue = Queue(store, SchedulerConfig())
    job_id = await put(queue, 5000)
    lease = await claim(queue, 16)
    await queue.commit(lease, outcomes(lease))
    await queue.cancel(job_id)
    job, names, pages = await queue.get(job_id), [], 0
    end: int | None = 0
    while end is not None:
        results, end = await queue.read_missing(job, end)
        names += [vision_pb2.Result.FromString(result.data).item_id for result in results]
        pages += 1
    assert names == [f"item-{index}" for index in range(16, 5000)]
    assert pages > 1


async def test_only_a_finished_job_is_deleted_and_nothing_stays(queue: Queue, store: Store) -> None:
    request_id = str(uuid.uuid4())
    job_id = await put(queue, 4, request_id=request_id)
    with pytest.raises(FailedPreconditionError):
        await queue.delete(job_id)
    lease = await claim(queue)
    await queue.commit(lease, outcomes(lease))
    await queue.delete(job_id)
    for step in (queue.get, queue.delete, queue.cancel):
        with pytest.raises(JobNotFoundError):
            await step(job_id)
    assert await queue.list_jobs("", None, 10) == ([], None)
    assert await left_over(store) == {"bytes", "sequence", "token"}
    assert await stored_bytes(store) == 0


async def test_a_finished_job_expires_with_all_its_keys(queue: Queue, store: Store) -> None:
    job_id = await put(queue, 4, ttl=0.1, request_id=str(uuid.uuid4()))
    lease = await claim(queue)
    await queue.commit(lease, outcomes(lease))
    for key in await store.call("KEYS", f"*{job_id}*"):
        assert 0 < await store.call("PTTL", key) <= 3_600_100
    await asyncio.sleep(0.15)
    assert await queue.reap() == Reaped(0, 0, 0, 1, more=False)
    assert await left_over(store) == {"bytes", "sequence", "token"}
    assert await stored_bytes(store) == 0


async def test_an_abandoned_upload_vanishes(store: Store) -> None:
    queue = Queue(store, SchedulerConfig(upload_timeout=0.1))
    await queue.stage("upload", 0, 1, [StagedItem("a", b"data")])
    for key in await store.call("KEYS", "*job:upload:*"):
        assert 0 < await store.call("PTTL", key) <= 3_600_100
    await asyncio.sleep(0.15)
    assert await queue.reap() == Reaped(0, 0, 1, 0, more=False)
    with pytest.raises(AbortedError):
        await queue.stage("upload", 1, 1, [StagedItem("b", b"data")])
    task = resolve(vision_pb2.Task(model=MODEL))[0]
    with pytest.raises(AbortedError):
        await queue.publish(NewJob("upload", "default", 0, 60, (task,), "", "", 1, 1))
    assert await left_over(store) == {"bytes"}
    assert await stored_bytes(store) == 0


async def test_a_request_id_makes_one_job(queue: Queue) -> None:
    request_id = str(uuid.uuid4())
    first = await put(queue, 4, request_id=request_id, digest="same")
    assert await put(queue, 4, request_id=request_id, digest="same") == first
    with pytest.raises(AlreadyExistsError):
        await put(queue, 4, request_id=request_id, digest="other")
    jobs, _ = await queue.list_jobs("", None, 10)
    assert [job.job_id for job in jobs] == [first]
    await claim(queue)
    assert await try_claim(queue) is None


async def test_quotas_refuse_and_then_accept_again(queue: Queue, store: Store) -> None:
    with pytest.raises(ResourceExhaustedError, match="50 items"):
        await put(queue, 51)
    with pytest.raises(ResourceExhaustedError, match="10000 bytes") as caught:
        await put(queue, 10, data=bytes(1000))
    assert caught.value.retry_after
    for _ in range(12):
        await put(queue, 1, tenant="busy")
    with pytest.raises(ResourceExhaustedError, match="'busy'") as caught:
        await put(queue, 1, tenant="busy")
    assert caught.value.retry_after
    await put(queue, 1, tenant="other")
    lease = await claim(queue)
    await queue.commit(lease, outcomes(lease))
    await put(queue, 1, tenant="busy")


async def test_duplicate_ids_are_refused_across_batches(queue: Queue, store: Store) -> None:
    await queue.stage("upload", 0, 1, [StagedItem("a", b"data"), StagedItem("b", b"data")])
    with pytest.raises(InvalidArgumentError, match="'a'"):
        await queue.stage("upload", 2, 1, [StagedItem("c", b"data"), StagedItem("a", b"data")])
    await queue.discard("upload")
    assert await left_over(store) == {"bytes"}
    assert await stored_bytes(store) == 0


async def test_items_that_failed_on_the_way_in_are_not_leased(queue: Queue) -> None:
    job_id = await put(queue, 6, MODEL, OTHER_MODEL, failed=[0, 3, 5])
    job = await queue.get(job_id)
    assert (job.committed, job.errors) == (6, 6)
    indices = []
    for _ in range(2):
        lease = await claim(queue)
        indices.append([item.index for item in lease.items])
        await queue.commit(lease, outcomes(lease))
    assert indices == [[1, 2, 4], [1, 2, 4]]
    job = await queue.get(job_id)
    assert (job.state, job.committed, job.errors) == (jobs_pb2.Job.STATE_SUCCEEDED, 12, 6)
    assert await try_claim(queue) is None
    only_failed = await queue.get(await put(queue, 2, failed=[0, 1]))
    assert (only_failed.state, only_failed.errors) == (jobs_pb2.Job.STATE_SUCCEEDED, 2)
    assert {result.error.message for result in await read(queue, only_failed)} == {"too large"}
    assert await try_claim(queue) is None


async def test_a_long_list_comes_in_pages_the_newest_first(queue: Queue) -> None:
    made = [await put(queue, 1, tenant=tenant) for tenant in ("a", "b", "a", "a")]
    page, end = await queue.list_jobs("a", None, 2)
    assert [job.job_id for job in page] == [made[3], made[2]]
    page, end = await queue.list_jobs("a", end, 2)
    assert ([job.job_id for job in page], end) == ([made[0]], None)
    page, end = await queue.list_jobs("", None, 4)
    assert ([job.job_id for job in page], end) == (made[::-1], None)


async def test_jobs_of_an_earlier_version_go_on(queue: Queue, store: Store) -> None:
    """As they stood before lanes were by tenant and model, attempts in their entries, and bytes in one number."""

    async def write(*commands: str) -> None:
        for command in commands:
            name, *fields = command.replace("K:", f"{keys.ROOT}:").split(" ")
            await store.call(name, *fields)

    made = [await put(queue, 6, MODEL, OTHER_MODEL, priority=priority) for priority in (0, 5)]
    finished = await put(queue, 1, failed=[0], request_id=str(uuid.uuid4()))
    lease = await claim(queue)
    await queue.commit(lease, outcomes(lease, 3))
    await queue.stage("upload", 0, 1, [StagedItem("a", b"data")])
    request = (await store.call("HGET", keys.job(finished), "request")).decode()
    left = await left_over(store)
    for key in left:
        if key.split(":")[0] in {"heads", "lane", "models", "waiting", "turns", "virtual", "rested", "held", "bytes"}:
            await write(f"DEL K:{key}")
    (ending,) = await store.call("ZRANGE", f"{keys.ROOT}:endings", 0, -1)
    await store.call("ZREM", f"{keys.ROOT}:endings", ending)
    await write(
        f"ZADD K:endings 99999999999999 {finished}:default:{request}",
        "SET K:queued_bytes 100",
        "SET K:token 7",
        "RPUSH K:tenants default",
        "HSET K:deficits default 4",
        f"ZADD K:lane:default 2 {made[0]}:0:0:6:0",
        f"ZADD K:quarantine 2 {made[0]}:1:2:1:2",
        *(f"DEL K:job:{job}:entries" for job in made),
        *(f"SADD K:job:{job}:entries {job}:0:0:6:0" for job in made),
        *(f"HDEL K:job:{job} left:0 left:1 result_bytes" for job in (*made, finished)),
    )
    await queue.migrate()
    await queue.migrate()
    with pytest.raises(LeaseLostError):
        await queue.commit(lease, outcomes(lease))
    found = []
    while (chunk := await try_claim(queue)) is not None:
        found.append((chunk.job_id, chunk.task_index, [item.index for item in chunk.items]))
        await queue.commit(chunk, outcomes(chunk))
    high, low = made[1], made[0]
    assert found == [
        (high, 0, [3, 4, 5]),
        (high, 1, [0, 1, 2, 3]),
        (high, 1, [4, 5]),
        *((low, task, items) for task in (0, 1) for items in ([0, 1, 2, 3], [4, 5])),
    ]
    for job_id in made:
        job = await queue.get(job_id)
        assert (job.state, job.committed, job.left) == (jobs_pb2.Job.STATE_SUCCEEDED, 12, (0, 0))
    for job_id in (*made, finished):
        await queue.delete(job_id)
    assert await left_over(store) == {"bytes", "sequence", "token"}
    assert await stored_bytes(store) == 0
