"""A job's way through scheduler, queue and workers, and what may die on it."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from tests.scheduler import queue_steps
from tests.scheduler.conftest import MODEL, OTHER_MODEL, Cluster, until
from tests.scheduler.fake_worker import label

from zoofleet.scheduler import keys
from zoofleet.v1 import fleet_pb2, jobs_pb2

SUCCEEDED = jobs_pb2.Job.STATE_SUCCEEDED


async def test_a_job_ends_with_a_result_for_each_item_and_task(cluster: Cluster) -> None:
    await cluster.start()
    await cluster.start_worker("a")
    items = [f"image {index}".encode() for index in range(100)] + [b"bad"]
    name = await cluster.client.create(items, MODEL, OTHER_MODEL)
    results = [result for result, _ in await cluster.client.read(name)]
    assert sorted((result.item_id, result.model) for result in results) == sorted(
        (f"item-{index}", model) for index in range(101) for model in (MODEL, OTHER_MODEL)
    )
    for result in results:
        data = items[int(result.item_id.removeprefix("item-"))]
        assert result.HasField("error") if data == b"bad" else result.classification.labels == [label(data)]
    job = await cluster.client.get(name)
    assert (job.state, job.committed_count, job.error_count) == (SUCCEEDED, 202, 2)
    assert job.create_time.ToMilliseconds() <= job.start_time.ToMilliseconds() <= job.end_time.ToMilliseconds()
    assert job.expire_time.ToMilliseconds() - job.end_time.ToMilliseconds() == 24 * 3600 * 1000
    assert len(cluster.executions()) == 202


async def test_large_items_and_results_travel_in_parts(cluster: Cluster) -> None:
    await cluster.start()
    await cluster.start_worker("a")
    item = b"large " + bytes(5 * 1024 * 1024)
    results = await cluster.client.results(await cluster.client.create([item] * 5))
    for result in results.values():
        assert result.classification.labels == [label(item)]
        assert len(result.classification.categories[0]) == 3 * 1024 * 1024


async def test_a_killed_worker_loses_nothing(cluster: Cluster) -> None:
    await cluster.start()
    worker = await cluster.start_worker("a")
    items = [b"sleep 0.02 " + str(index).encode() for index in range(200)]
    name = await cluster.client.create(items)

    async def half_done() -> bool:
        return (await cluster.client.get(name)).committed_count >= 60

    await until(half_done)
    worker.kill()
    await cluster.start_worker("b")
    results = await cluster.client.results(name)
    assert {int(key.removeprefix("item-")): result.classification.labels[0] for key, result in results.items()} == {
        index: label(item) for index, item in enumerate(items)
    }
    assert (await cluster.client.get(name)).error_count == 0


async def test_what_a_dead_worker_has_answered_does_not_run_again(cluster: Cluster) -> None:
    await cluster.start()
    worker = await cluster.start_worker("a", "--parallel", "1")
    name = await cluster.client.create([*(f"fast {index}".encode() for index in range(15)), b"sleep 0.6"])

    async def at_the_last() -> bool:
        return len(cluster.executions()) == 16

    await until(at_the_last)
    await asyncio.sleep(0.2)  # the other answers arrive
    worker.kill()
    await cluster.start_worker("b")
    assert len(await cluster.client.results(name)) == 16
    assert sorted(cluster.executions()) == sorted([*(f"fast {index}" for index in range(15)), *["sleep 0.6"] * 2])


async def test_a_chunk_slower_than_its_lease_runs_once(cluster: Cluster) -> None:
    await cluster.start(lease=0.6, redis_timeout=0.5)
    await cluster.start_worker("a")
    await cluster.start_worker("b")
    results = await cluster.client.results(await cluster.client.create([b"sleep 1.5"]))
    assert [result.HasField("error") for result in results.values()] == [False]
    assert cluster.executions() == ["sleep 1.5"]


async def test_a_hung_worker_loses_its_work(cluster: Cluster) -> None:
    await cluster.start()
    worker = await cluster.start_worker("a")
    name = await cluster.client.create([b"sleep 0.1"] * 20)

    async def begun() -> bool:
        return bool(cluster.executions())

    await until(begun)
    worker.send_signal(signal.SIGSTOP)
    await cluster.start_worker("b")
    assert len(await cluster.client.results(name)) == 20
    assert "workers/a" not in await cluster.client.workers()


async def test_a_draining_worker_hands_nothing_to_blame(cluster: Cluster) -> None:
    await cluster.start()
    worker = await cluster.start_worker("a", "--parallel", "2")
    name = await cluster.client.create([b"sleep 0.05"] * 120)

    async def begun() -> bool:
        return len(cluster.executions()) > 4

    await until(begun)
    worker.terminate()
    await cluster.start_worker("b")
    assert len(await cluster.client.results(name)) == 120
    assert await asyncio.to_thread(worker.wait) == 0
    assert len(cluster.executions()) == 120  # what it had, it finished
    assert "workers/a" not in await cluster.client.workers()


async def test_an_operator_drains_a_worker(cluster: Cluster) -> None:
    await cluster.start()
    await cluster.start_worker("a")
    drained = await cluster.client.fleet.DrainWorker(fleet_pb2.DrainWorkerRequest(name="workers/a"))
    assert drained.state == fleet_pb2.Worker.STATE_DRAINING
    await cluster.start_worker("b")
    results = await cluster.client.results(await cluster.client.create([b"x"] * 50))
    assert {result.classification.categories[0] for result in results.values()} == {"workers/b"}


@pytest.mark.parametrize("poison", ["poison", "freeze"])
async def test_a_poison_item_ends_alone(cluster: Cluster, poison: str) -> None:
    await cluster.start()
    for number in range(5):
        await cluster.start_worker(f"w{number}", "--parallel", "64")
    items = [f"fine {index}".encode() for index in range(40)]
    items[5] = poison.encode()
    name = await cluster.client.create(items)
    results = await cluster.client.results(name)
    errors = {key: result.error for key, result in results.items() if result.HasField("error")}
    assert list(errors) == ["item-5"]
    assert errors["item-5"].code == 13 and "4 attempts" in errors["item-5"].message
    assert cluster.executions().count(poison) == 4
    assert await queue_steps.dead_letters(cluster.store) == [(name.removeprefix("jobs/"), 0, 5)]
    assert await cluster.store.call("EXISTS", f"{keys.ROOT}:heads:~") == 0
    # One worker lives on.
    assert len(await cluster.client.results(await cluster.client.create([b"x"] * 10))) == 10


async def test_a_killed_scheduler_is_replaced(cluster: Cluster) -> None:
    process, address = await cluster.start_process()
    cluster.address, cluster.client = address, cluster.connect(address)

    async def ready() -> bool:
        try:
            return (await cluster.client.workers()) is not None
        except Exception:
            return False

    await until(ready)
    await cluster.start_worker("a")
    items = [b"sleep 0.02 " + str(index).encode() for index in range(200)]
    name = await cluster.client.create(items)

    async def half_done() -> bool:
        return (await cluster.client.get(name)).committed_count >= 60

    await until(half_done)
    process.kill()
    await asyncio.to_thread(process.wait)
    _, address = await cluster.start_process(address=address)
    await until(ready)
    results = await cluster.client.results(name)
    assert len(results) == 200
    assert (await cluster.client.get(name)).error_count == 0


async def test_one_of_two_schedulers_may_die(cluster: Cluster) -> None:
    await cluster.start()
    process, other = await cluster.start_process()
    await cluster.start_worker("a", addresses=[cluster.address, other])
    second = cluster.connect(other)

    async def sees_worker() -> bool:
        try:
            return "workers/a" in await second.workers()
        except Exception:
            return False

    await until(sees_worker)
    name = await second.create([b"sleep 0.02 " + str(index).encode() for index in range(200)])

    async def begun() -> bool:
        # Work is leased by both: each has its own stream.
        streams = sum(" stream " in line and "ended" not in line for line in cluster.log.read_text().splitlines())
        return streams == 2 and (await cluster.client.get(name)).committed_count > 20

    await until(begun)
    process.kill()
    results = await cluster.client.results(name)
    assert len(results) == 200
    assert (await cluster.client.get(name)).error_count == 0


async def test_an_orderly_stop_hands_back_at_once(cluster: Cluster) -> None:
    scheduler = await cluster.start(shutdown_grace=0.3, lease=30.0)
    await cluster.start_worker("a")
    name = await cluster.client.create([b"sleep 0.5"] * 40)

    async def begun() -> bool:
        return bool(cluster.executions())

    await until(begun)
    await cluster.stop(scheduler)
    tokens = await cluster.store.call("ZCARD", f"{keys.ROOT}:leases")
    assert tokens == 0
    await queue_steps.register(cluster.store, "test")
    lease = await queue_steps.claim(cluster.queue, 16, worker="test")
    assert (lease.attempts, lease.job_id) == (0, name.removeprefix("jobs/"))


async def test_a_frozen_redis_only_delays(cluster: Cluster) -> None:
    await cluster.start()
    await cluster.start()  # either could take the other's leases for expired
    await cluster.start_worker("a")
    name = await cluster.client.create([b"sleep 0.05 " + str(index).encode() for index in range(100)])

    async def begun() -> bool:
        return (await cluster.client.get(name)).committed_count > 0

    await until(begun)
    os.kill(cluster.redis.pid, signal.SIGSTOP)
    try:
        with pytest.raises(Exception, match="UNAVAILABLE"):
            await cluster.client.get(name)
        await asyncio.sleep(2.0)  # longer than leases and heartbeats last
    finally:
        os.kill(cluster.redis.pid, signal.SIGCONT)
    assert len(await cluster.client.results(name)) == 100
    assert (await cluster.client.get(name)).error_count == 0
    assert len(cluster.executions()) == 100  # nobody was to blame, nothing ran again


async def test_a_killed_redis_comes_back_with_everything(cluster: Cluster) -> None:
    await cluster.start()
    await cluster.start_worker("a")
    name = await cluster.client.create([b"sleep 0.02 " + str(index).encode() for index in range(200)])

    async def begun() -> bool:
        return (await cluster.client.get(name)).committed_count > 20

    await until(begun)
    os.kill(cluster.redis.pid, signal.SIGKILL)
    cluster.redis.stop()
    with pytest.raises(Exception, match="UNAVAILABLE"):
        await cluster.client.get(name)
    cluster.redis.start()

    async def back() -> bool:
        try:
            return bool(await cluster.client.get(name))
        except Exception:
            return False

    await until(back)
    results = await cluster.client.results(name)
    assert len(results) == 200
    assert (await cluster.client.get(name)).error_count == 0
