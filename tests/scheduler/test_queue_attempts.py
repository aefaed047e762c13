"""What a lease is worth, what counts against an item, and what a worker holds."""

from __future__ import annotations

import asyncio
import dataclasses
import time

import pytest
from tests.scheduler.queue_steps import LIMITS, beat, claim, dead_letters, outcomes, put, read, register, try_claim

from zoofleet.errors import LeaseLostError
from zoofleet.scheduler import keys
from zoofleet.scheduler.queue import Queue
from zoofleet.scheduler.records import Cause, Lease
from zoofleet.scheduler.store import Store
from zoofleet.v1 import jobs_pb2


async def die(queue: Queue, store: Store, lease: Lease, worker: str = "w") -> None:
    """The worker's stream breaks under a lease, and another process takes its name."""
    await queue.release(lease, Cause.DIED)
    await register(store, worker, f"after-{lease.token}")


async def test_a_store_that_forgets_gives_no_job_the_answers_of_another(queue: Queue, store: Store) -> None:
    await put(queue, 4)
    old = await claim(queue)
    await store.call("FLUSHALL")
    await register(store)
    job_id = await put(queue, 4)
    await claim(queue)
    with pytest.raises(LeaseLostError):
        await queue.commit(old, outcomes(old, text="old"))
    assert (await queue.get(job_id)).committed == 0
    assert await queue.renew([(old, True)]) == {old.token}
    await queue.release(old, Cause.INNOCENT)
    assert await try_claim(queue) is None  # the new lease stands


async def test_a_token_is_worth_nothing_for_another_lease(queue: Queue) -> None:
    await put(queue, 8)
    first, second = await claim(queue), await claim(queue)
    stale = dataclasses.replace(first, token=second.token)
    with pytest.raises(LeaseLostError):
        await queue.commit(stale, outcomes(second))
    assert await queue.renew([(stale, True)]) == {second.token}
    await queue.release(stale, Cause.DIED)
    assert await try_claim(queue) is None


async def test_tokens_never_go_back(queue: Queue, store: Store) -> None:
    await put(queue, 50)
    before = time.time_ns() // 1000
    first = await claim(queue)
    assert first.token >= before - 1_000_000
    await store.call("DEL", f"{keys.ROOT}:token")
    second = await claim(queue)
    assert second.token > first.token
    await store.call("SET", f"{keys.ROOT}:token", 2**52)  # a clock that was ahead
    assert [(await claim(queue)).token for _ in range(2)] == [2**52 + 1, 2**52 + 2]


async def test_an_attempt_does_not_count_where_the_worker_lives(queue: Queue, store: Store) -> None:
    await put(queue, 2)
    await queue.release(await claim(queue), Cause.DIED)
    assert await try_claim(queue) is None  # nothing more for a worker that may be dead
    await beat(store)  # may have been under way when it died
    again = await claim(queue)
    assert (again.attempts, len(again.items)) == (1, 1)
    await asyncio.sleep(0.6)
    await beat(store)
    assert [(await claim(queue)).attempts] == [0]
    await queue.release(again, Cause.INNOCENT)
    assert (await claim(queue)).attempts == 0


async def test_no_last_attempt_is_final_before_the_worker_is_dead(queue: Queue, store: Store) -> None:
    job_id = await put(queue, 1)
    for _ in range(3):
        await die(queue, store, await claim_by(queue, store, "w"))
    await queue.release(await claim_by(queue, store, "w"), Cause.DIED)
    assert not (await queue.get(job_id)).finished
    instance = (await store.call("HGET", keys.worker("w"), "instance")).decode()
    await beat(store, "w", instance)
    assert await claim_by(queue, store, "w", ok=False) is None
    await asyncio.sleep(0.6)
    await beat(store, "w", instance)  # it was only cut off
    last = await claim_by(queue, store, "w")
    assert last.attempts == 3
    await queue.release(last, Cause.DIED)
    assert (await queue.reap()).given_up == 0
    await asyncio.sleep(0.35)  # LIMITS: its heartbeats' timeout and two intervals
    assert (await queue.reap()).given_up == 1
    job = await queue.get(job_id)
    assert (job.state, job.errors) == (jobs_pb2.Job.STATE_SUCCEEDED, 1)
    assert "4 attempts" in (await read(queue, job))[0].error.message
    assert await dead_letters(store) == [(job_id, 0, 0)]


@pytest.mark.parametrize(
    ("sent", "ending", "attempts"),
    [(True, "lives", 0), (False, "dies", 0), (True, "leaves", 0), (True, "dies", 1), (True, "is replaced", 1)],
)
async def test_an_expired_lease_counts_only_where_the_worker_died(
    queue: Queue, store: Store, sent: bool, ending: str, attempts: int
) -> None:
    await put(queue, 1)
    lease = await claim(queue)
    await queue.renew([(lease, sent)])
    if ending == "dies":
        await store.call("DEL", keys.worker("w"))  # as its expiry does
    elif ending == "leaves":
        await store.run("unregister", "w", "w")
    elif ending == "is replaced":
        await register(store, "w", "another process")
    await asyncio.sleep(0.25)
    assert (await queue.reap()).leases == 1
    await register(store, "x")
    assert (await claim(queue, worker="x")).attempts == attempts


async def test_a_process_that_was_replaced_neither_beats_nor_claims(queue: Queue, store: Store) -> None:
    await put(queue, 8)
    await register(store, "w", "new")
    assert await beat(store, "w", "w") == -1
    assert await try_claim(queue, instance="w") is None
    await store.run("unregister", "w", "w")
    assert await try_claim(queue, instance="new") is not None


async def test_replicas_share_a_workers_window(queue: Queue, store: Store) -> None:
    await put(queue, 50)
    replicas = [queue, Queue(store, LIMITS)]
    leases = []
    for turn in range(20):
        lease = await try_claim(replicas[turn % 2], window=16)
        if lease is not None:
            leases.append(lease)
    assert sum(len(lease.items) for lease in leases) == 16
    await queue.commit(leases[0], outcomes(leases[0], 2))
    assert await try_claim(queue, window=16) is None  # half a chunk is not worth it
    await queue.commit(leases[1], outcomes(leases[1], 2))
    assert await try_claim(queue, window=16) is not None


async def test_what_must_run_alone_runs_alone_for_all_replicas(queue: Queue, store: Store) -> None:
    await put(queue, 1)
    for _ in range(2):
        await die(queue, store, await claim_by(queue, store, "w"))
    await put(queue, 40)
    other = Queue(store, LIMITS)
    alone = await claim_by(queue, store, "w")
    assert (alone.attempts, len(alone.items)) == (2, 1)
    assert await claim_by(other, store, "w", ok=False) is None
    await register(store, "x")  # others go on meanwhile
    assert len((await claim_by(other, store, "x")).items) == 4
    await queue.commit(alone, outcomes(alone))
    assert len((await claim_by(other, store, "w")).items) == 4


async def test_a_worker_is_emptied_before_something_runs_alone(queue: Queue, store: Store) -> None:
    await put(queue, 1)
    for _ in range(2):
        await die(queue, store, await claim_by(queue, store, "w"))
    await register(store, "x")
    await put(queue, 40)
    alone = await claim_by(queue, store, "x")
    await queue.release(alone, Cause.INNOCENT)
    await store.call("DEL", f"{keys.ROOT}:reserved")
    await store.call("DEL", keys.worker("x"))
    # It holds a chunk from before the item came back.
    held = await put_one_chunk_on(queue, store)
    assert await claim_by(queue, store, "w", ok=False) is None
    await queue.commit(held, outcomes(held))
    assert (await claim_by(queue, store, "w")).attempts == 2


async def claim_by(queue: Queue, store: Store, worker: str, ok: bool = True) -> Lease:
    """Claim for whatever process is registered under that name."""
    instance = (await store.call("HGET", keys.worker(worker), "instance")).decode()
    lease = await try_claim(queue, worker=worker, instance=instance)
    if ok:
        assert lease is not None
    return lease  # type: ignore[return-value]  # the callers that pass ok=False look


async def put_one_chunk_on(queue: Queue, store: Store) -> Lease:
    """Lease a chunk to `w` as if the quarantine had been empty then."""
    heads = await store.call("ZRANGE", f"{keys.ROOT}:heads:~", 0, -1, "WITHSCORES")
    await store.call("DEL", f"{keys.ROOT}:heads:~")
    lease = await claim_by(queue, store, "w")
    await store.call("ZADD", f"{keys.ROOT}:heads:~", heads[1], heads[0])
    return lease
