"""The queue's promises, step by step, on a real Redis and without a scheduler."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence

import pytest
from google.rpc import status_pb2
from tests.scheduler.conftest import MODEL, OTHER_MODEL

from zoofleet._redis_server import RedisServer
from zoofleet._tasks import resolve
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
from zoofleet.scheduler.records import JobRecord, Lease, NewJob, Outcome, StagedItem
from zoofleet.scheduler.store import Store
from zoofleet.v1 import jobs_pb2, vision_pb2

BUILDERS = ["resnet50", "mobilenet_v3_large"]
LIMITS = SchedulerConfig(
    redis_timeout=0.1, lease=0.2, chunk_items=4, max_job_items=50, max_tenant_jobs=12, max_queued_bytes=10_000
)


@pytest.fixture
async def store(redis_server: RedisServer) -> AsyncIterator[Store]:
    store = Store(redis_server.url, 5.0)
    yield store
    await store.close()


@pytest.fixture
def queue(store: Store) -> Queue:
    return Queue(store, LIMITS)


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
    tasks = tuple(resolve(vision_pb2.Task(model=model))[0] for model in models or (MODEL,))
    job_id = uuid.uuid4().hex
    status = status_pb2.Status(code=3, message="too large").SerializeToString()
    items = [
        StagedItem(f"item-{i}", b"", status) if i in failed else StagedItem(f"item-{i}", data) for i in range(count)
    ]
    await queue.stage(job_id, 0, len(tasks), items)
    return await queue.publish(NewJob(job_id, tenant, priority, ttl, tasks, request_id, digest))


async def claim(queue: Queue, items: int = 4, loaded: Sequence[str] = (), quarantine: bool = False) -> Lease:
    found = await queue.claim("w", items, builders=BUILDERS, loaded=loaded, quarantine=quarantine)
    assert found.lease is not None
    return found.lease


async def is_empty(queue: Queue) -> bool:
    return (await queue.claim("w", 4, builders=BUILDERS)).lease is None


def outcomes(lease: Lease, count: int | None = None, text: str = "") -> list[Outcome]:
    results = [(item.index, vision_pb2.Result(item_id=item.item_id, model=text)) for item in lease.items[:count]]
    return [Outcome(index, False, result.SerializeToString()) for index, result in results]


async def read(queue: Queue, job: JobRecord) -> list[vision_pb2.Result]:
    return [vision_pb2.Result.FromString(result.data) for result in await queue.read_results(job, 0)]


async def test_a_claim_takes_a_run_of_items_and_the_next_one_goes_on(queue: Queue) -> None:
    job_id = await put(queue, 10)
    leases = [await claim(queue) for _ in range(3)]
    assert [[item.index for item in lease.items] for lease in leases] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [item.item_id for item in leases[2].items] == ["item-8", "item-9"]
    assert {item.data for lease in leases for item in lease.items} == {b"data"}
    assert leases[0].token < leases[1].token < leases[2].token
    assert await is_empty(queue)
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
    await queue.commit(lease.token, outcomes(lease, 3, "first"))
    await queue.commit(lease.token, outcomes(lease, 3, "again"))
    assert (await queue.get(job_id)).committed == 3
    await queue.commit(lease.token, outcomes(lease, 4, "last"))
    with pytest.raises(LeaseLostError):
        await queue.commit(lease.token, outcomes(lease, 4, "late"))
    job = await queue.get(job_id)
    assert (job.state, job.committed, job.errors) == (jobs_pb2.Job.STATE_SUCCEEDED, 4, 0)
    assert [result.model for result in await read(queue, job)] == ["first", "first", "first", "last"]
    assert await store.call("GET", keys.QUEUED_BYTES) == b"0"
    assert await store.call("EXISTS", f"{keys.job(job_id)}:items") == 0


async def test_a_commit_outside_its_lease_changes_nothing(queue: Queue) -> None:
    job_id = await put(queue, 8)
    first, second = await claim(queue), await claim(queue)
    await queue.commit(first.token, outcomes(second))
    assert (await queue.get(job_id)).committed == 0


async def test_an_expired_lease_moves_and_its_old_token_is_worthless(queue: Queue) -> None:
    job_id = await put(queue, 4)
    old = await claim(queue)
    await queue.commit(old.token, outcomes(old, 1, "old"))
    assert await queue.reap() == (0, 0, 0)
    await asyncio.sleep(0.25)
    assert await queue.reap() == (1, 0, 0)
    assert await queue.renew([old.token]) == {old.token}
    renewed = [await claim(queue) for _ in range(3)]
    assert [[item.index for item in lease.items] for lease in renewed] == [[1], [2], [3]]
    assert {lease.attempts for lease in renewed} == {1}
    with pytest.raises(LeaseLostError):
        await queue.commit(old.token, outcomes(old, 4, "old"))
    for lease in renewed:
        await queue.commit(lease.token, outcomes(lease, 1, "new"))
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
        assert await queue.renew([lease.token]) == frozenset()
    assert await queue.reap() == (0, 0, 0)
    await queue.commit(lease.token, outcomes(lease))


async def test_what_is_handed_back_comes_first(queue: Queue) -> None:
    await put(queue, 12)
    first, second = await claim(queue), await claim(queue)
    await queue.release(second.token, counts=False)
    await queue.release(first.token, counts=False)
    again = [await claim(queue) for _ in range(3)]
    assert sorted(lease.items[0].index for lease in again[:2]) == [0, 4]
    assert [lease.attempts for lease in again] == [0, 0, 0]
    assert again[2].items[0].index == 8


async def test_items_that_lose_workers_go_on_alone_and_end_as_errors(queue: Queue, store: Store) -> None:
    job_id = await put(queue, 3)
    lease = await claim(queue)
    await queue.release(lease.token, counts=True)
    singles = [await claim(queue) for _ in range(3)]
    assert [len(single.items) for single in singles] == [1, 1, 1]
    for single in singles[:2]:
        await queue.commit(single.token, outcomes(single))
    await queue.release(singles[2].token, counts=True)
    # Twice unlucky: from now on it runs with nothing else beside it.
    found = await queue.claim("w", 4, builders=BUILDERS)
    assert (found.lease, found.quarantined) == (None, 1)
    for attempts in (2, 3):
        alone = await claim(queue, quarantine=True)
        assert (alone.attempts, [item.index for item in alone.items]) == (attempts, [2])
        await queue.release(alone.token, counts=True)
    job = await queue.get(job_id)
    assert (job.state, job.committed, job.errors) == (jobs_pb2.Job.STATE_SUCCEEDED, 3, 1)
    poison = (await read(queue, job))[-1]
    assert (poison.item_id, poison.error.code, poison.model) == ("item-2", 13, MODEL)
    assert await queue.dead_letters(10) == [(job_id, 0, 2)]
    assert (await queue.claim("w", 4, builders=BUILDERS)).quarantined == 0


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
    assert (await queue.claim("w", 4, builders=[])).lease is None
    assert (await queue.claim("w", 4, builders=BUILDERS, refused=[MODEL, OTHER_MODEL])).lease is None
    found = await queue.claim("w", 4, builders=BUILDERS, refused=[MODEL])
    assert found.lease is not None and found.lease.job_id == other


async def test_cancel_ends_it_and_late_commits_change_nothing(queue: Queue, store: Store) -> None:
    job_id = await put(queue, 10, MODEL, OTHER_MODEL)
    first, second = await claim(queue), await claim(queue)
    await queue.commit(first.token, outcomes(first))
    await queue.cancel(job_id)
    with pytest.raises(LeaseLostError):
        await queue.commit(second.token, outcomes(second))
    job = await queue.get(job_id)
    assert (job.state, job.committed, job.errors) == (jobs_pb2.Job.STATE_CANCELLED, 20, 16)
    assert await is_empty(queue)
    assert len(await read(queue, job)) == 4
    missing, end = await queue.read_cancelled(job, 0)
    assert end is None
    results = [vision_pb2.Result.FromString(result.data) for result in missing]
    done = {("item-0", MODEL), ("item-1", MODEL), ("item-2", MODEL), ("item-3", MODEL)}
    assert {(result.item_id, result.model) for result in results} == {
        (f"item-{index}", model) for index in range(10) for model in (MODEL, OTHER_MODEL)
    } - done
    assert {result.error.code for result in results} == {1}
    rest, _ = await queue.read_cancelled(job, missing[4].position)
    assert rest == missing[5:]
    await queue.cancel(job_id)  # once more is no error
    assert await queue.get(job_id) == job
    assert await store.call("GET", keys.QUEUED_BYTES) == b"0"


async def test_cancelled_results_of_a_large_job_come_in_pages(store: Store) -> None:
    queue = Queue(store, SchedulerConfig())
    job_id = await put(queue, 5000)
    lease = await claim(queue, 16)
    await queue.commit(lease.token, outcomes(lease))
    await queue.cancel(job_id)
    job, names, pages = await queue.get(job_id), [], 0
    end: int | None = 0
    while end is not None:
        results, end = await queue.read_cancelled(job, end)
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
    await queue.commit(lease.token, outcomes(lease))
    await queue.delete(job_id)
    for step in (queue.get, queue.delete, queue.cancel):
        with pytest.raises(JobNotFoundError):
            await step(job_id)
    assert await queue.list_jobs("", None, 10) == ([], None)
    left = {key.decode().removeprefix(f"{keys.ROOT}:") for key in await store.call("KEYS", "*")}
    assert left == {"queued_bytes", "sequence", "token"}


async def test_a_finished_job_expires_with_all_its_keys(queue: Queue, store: Store) -> None:
    job_id = await put(queue, 4, ttl=0.1, request_id=str(uuid.uuid4()))
    lease = await claim(queue)
    await queue.commit(lease.token, outcomes(lease))
    for key in await store.call("KEYS", f"*{job_id}*"):
        assert 0 < await store.call("PTTL", key) <= 100
    await asyncio.sleep(0.15)
    assert await queue.reap() == (0, 0, 1)
    left = {key.decode().removeprefix(f"{keys.ROOT}:") for key in await store.call("KEYS", "*")}
    assert left == {"queued_bytes", "sequence", "token"}


async def test_an_abandoned_upload_vanishes(store: Store) -> None:
    queue = Queue(store, SchedulerConfig(upload_timeout=0.1))
    await queue.stage("upload", 0, 1, [StagedItem("a", b"data")])
    for key in await store.call("KEYS", "*upload:*"):
        assert 0 < await store.call("PTTL", key) <= 100 or key.endswith(b":bytes")
    await asyncio.sleep(0.15)
    assert await queue.reap() == (0, 1, 0)
    with pytest.raises(AbortedError):
        await queue.stage("upload", 1, 1, [StagedItem("b", b"data")])
    task = resolve(vision_pb2.Task(model=MODEL))[0]
    with pytest.raises(AbortedError):
        await queue.publish(NewJob("upload", "default", 0, 60, (task,), "", ""))
    assert await store.call("KEYS", "*") == [keys.QUEUED_BYTES.encode()]
    assert await store.call("GET", keys.QUEUED_BYTES) == b"0"


async def test_a_request_id_makes_one_job(queue: Queue) -> None:
    request_id = str(uuid.uuid4())
    first = await put(queue, 4, request_id=request_id, digest="same")
    assert await put(queue, 4, request_id=request_id, digest="same") == first
    with pytest.raises(AlreadyExistsError):
        await put(queue, 4, request_id=request_id, digest="other")
    jobs, _ = await queue.list_jobs("", None, 10)
    assert [job.job_id for job in jobs] == [first]
    await claim(queue)
    assert await is_empty(queue)


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
    await queue.commit(lease.token, outcomes(lease))
    await put(queue, 1, tenant="busy")


async def test_duplicate_ids_are_refused_across_batches(queue: Queue, store: Store) -> None:
    await queue.stage("upload", 0, 1, [StagedItem("a", b"data"), StagedItem("b", b"data")])
    with pytest.raises(InvalidArgumentError, match="'a'"):
        await queue.stage("upload", 2, 1, [StagedItem("c", b"data"), StagedItem("a", b"data")])
    await queue.discard("upload")
    assert await store.call("KEYS", "*") == [keys.QUEUED_BYTES.encode()]
    assert await store.call("GET", keys.QUEUED_BYTES) == b"0"


async def test_items_that_failed_on_the_way_in_are_not_leased(queue: Queue) -> None:
    job_id = await put(queue, 6, MODEL, OTHER_MODEL, failed=[0, 3, 5])
    job = await queue.get(job_id)
    assert (job.committed, job.errors) == (6, 6)
    indices = []
    for _ in range(2):
        lease = await claim(queue)
        indices.append([item.index for item in lease.items])
        await queue.commit(lease.token, outcomes(lease))
    assert indices == [[1, 2, 4], [1, 2, 4]]
    job = await queue.get(job_id)
    assert (job.state, job.committed, job.errors) == (jobs_pb2.Job.STATE_SUCCEEDED, 12, 6)
    assert await is_empty(queue)
    only_failed = await queue.get(await put(queue, 2, failed=[0, 1]))
    assert (only_failed.state, only_failed.errors) == (jobs_pb2.Job.STATE_SUCCEEDED, 2)
    assert {result.error.message for result in await read(queue, only_failed)} == {"too large"}
    assert await is_empty(queue)


async def test_a_long_list_comes_in_pages_the_newest_first(queue: Queue) -> None:
    made = [await put(queue, 1, tenant=tenant) for tenant in ("a", "b", "a", "a")]
    page, end = await queue.list_jobs("a", None, 2)
    assert [job.job_id for job in page] == [made[3], made[2]]
    page, end = await queue.list_jobs("a", end, 2)
    assert ([job.job_id for job in page], end) == ([made[0]], None)
    page, end = await queue.list_jobs("", None, 4)
    assert ([job.job_id for job in page], end) == (made[::-1], None)
