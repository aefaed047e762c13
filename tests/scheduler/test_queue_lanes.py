"""Who gets the next chunk, and what finding it costs."""

from __future__ import annotations

from typing import Any

from tests.scheduler.queue_steps import MODEL, OTHER_MODEL, claim, outcomes, put, read, register, try_claim

from zoofleet.scheduler import SchedulerConfig
from zoofleet.scheduler.queue import Queue
from zoofleet.scheduler.records import Cause
from zoofleet.scheduler.store import Store

ONLY_HERE = "squeezenet1_0@random"


class CountingStore(Store):
    """Counts round trips."""

    trips = 0

    async def call(self, *command: Any) -> Any:
        self.trips += 1
        return await super().call(*command)

    async def call_many(self, commands: Any) -> list[Any]:
        self.trips += 1
        return await super().call_many(commands)

    async def run(self, name: str, *arguments: Any) -> Any:
        self.trips += 1
        return await super().run(name, *arguments)


async def commands(store: Store) -> int:
    """Commands that Redis has run since `CONFIG RESETSTAT`, those of scripts among them."""
    stats = await store.call("INFO", "commandstats")
    return sum(int(values["calls"]) for values in stats.values())


async def cost_of_claim(queue: Queue, store: Store, items: int = 4) -> int:
    """Commands of a claim that finds something, or nothing."""
    await try_claim(queue, items)  # loads the script
    await store.call("CONFIG", "RESETSTAT")
    await try_claim(queue, items)
    return await commands(store)


async def test_a_job_is_passed_over_a_bounded_number_of_times_by_each_worker(queue: Queue, store: Store) -> None:
    await register(store, "v")
    job = await put(queue, 4, ONLY_HERE)
    await put(queue, 50, OTHER_MODEL)
    seen = []
    for _ in range(12):
        for worker in ("v", "v", "w"):
            builders = ["mobilenet_v3_large"] if worker == "v" else ["mobilenet_v3_large", "squeezenet1_0"]
            lease = await try_claim(queue, 1, worker=worker, builders=builders, loaded=[OTHER_MODEL])
            assert lease is not None
            if worker == "w":
                seen.append(lease.job_id)
    assert job in seen[:9]


async def test_what_nobody_can_run_hides_nothing(store: Store) -> None:
    queue = Queue(store, SchedulerConfig())
    for _ in range(300):
        await put(queue, 1, ONLY_HERE)
    job = await put(queue, 1, MODEL)
    lease = await try_claim(queue)
    assert lease is not None and lease.job_id == job


async def test_what_has_lost_workers_and_cannot_run_here_hides_nothing_either(queue: Queue) -> None:
    for model in (ONLY_HERE, MODEL):
        await put(queue, 1, model)
        for _ in range(2):
            lease = await try_claim(queue, builders=[model.partition("@")[0]])
            assert lease is not None
            await queue.release(lease, Cause.FAULT)
    alone = await claim(queue)
    assert (alone.attempts, alone.items[0].item_id) == (2, "item-0")
    assert b"resnet50" in alone.task


async def test_tasks_of_a_job_run_in_their_order(queue: Queue) -> None:
    await put(queue, 1, MODEL, OTHER_MODEL)
    await put(queue, 1, OTHER_MODEL, MODEL)
    tasks = [(await claim(queue)).task for _ in range(4)]
    assert [b"resnet50" in task for task in tasks] == [True, False, False, True]


async def test_a_tenant_gains_nothing_from_having_rested(queue: Queue) -> None:
    await put(queue, 50, tenant="busy")
    for _ in range(8):
        await claim(queue)
    await put(queue, 50, tenant="rested")
    turns = [(await claim(queue)).tenant for _ in range(4)]
    assert turns in (["rested", "busy"] * 2, ["busy", "rested"] * 2, ["rested", "rested", "busy", "rested"])


async def test_a_tenant_that_nobody_could_serve_takes_over_nobody(store: Store) -> None:
    queue = Queue(store, SchedulerConfig())
    await put(queue, 5000, ONLY_HERE, tenant="waiting", data=b"")
    await put(queue, 5000, MODEL, tenant="busy", data=b"")
    for _ in range(20):
        assert (await claim(queue, 256)).tenant == "busy"
    await put(queue, 5000, MODEL, tenant="busy", data=b"")
    builders = ["squeezenet1_0", "resnet50"]
    leases = [await try_claim(queue, 256, builders=builders) for _ in range(10)]
    assert sum(lease is not None and lease.tenant == "busy" for lease in leases) >= 3


async def test_a_claim_costs_the_same_beside_many_tenants(store: Store) -> None:
    queue = Queue(store, SchedulerConfig())
    await put(queue, 40, MODEL, tenant="few")
    few = await cost_of_claim(queue, store)
    for number in range(400):
        await put(queue, 1, ONLY_HERE, tenant=f"other-{number}")
        await put(queue, 4, MODEL, tenant=f"same-{number}")
    assert await cost_of_claim(queue, store) <= few + 10
    nothing = await cost_of_nothing(queue, store)
    assert nothing <= 10


async def cost_of_nothing(queue: Queue, store: Store) -> int:
    await store.call("CONFIG", "RESETSTAT")
    assert await try_claim(queue, builders=["vgg11"]) is None
    return await commands(store)


async def test_failed_uploads_are_not_walked_through(store: Store) -> None:
    queue = Queue(store, SchedulerConfig())
    await put(queue, 40)
    few = await cost_of_claim(queue, store)
    while lease := await try_claim(queue):
        await queue.commit(lease, outcomes(lease))
    await put(queue, 20_002, MODEL, failed=range(20_000))
    await store.call("CONFIG", "RESETSTAT")
    lease = await claim(queue)
    assert [item.index for item in lease.items] == [20_000, 20_001]
    await queue.commit(lease, [])
    await queue.release(lease, Cause.FAULT)
    assert await commands(store) <= few + 150


async def test_failed_uploads_between_others_are_left_out(store: Store) -> None:
    queue = Queue(store, SchedulerConfig())
    failed = [index for index in range(600) if 5 <= index < 500 or index % 3 == 0]
    for models in ([MODEL], [MODEL, OTHER_MODEL], [MODEL, OTHER_MODEL, MODEL]):
        await put(queue, 600, *models, failed=failed)
        for task, _ in enumerate(models):
            found: list[int] = []
            while len(found) < 600 - len(failed):
                lease = await claim(queue, 7)
                assert lease.task_index == task
                found += [item.index for item in lease.items]
                assert [item.item_id for item in lease.items] == [f"item-{item.index}" for item in lease.items]
                await queue.commit(lease, outcomes(lease))
            assert found == [index for index in range(600) if index not in failed]
        assert await try_claim(queue) is None


async def test_many_errors_are_read_in_one_round_trip(store: Store, redis_server: Any) -> None:
    counting = CountingStore(redis_server.url, 5.0)
    queue = Queue(counting, SchedulerConfig())
    job = await queue.get(await put(queue, 500, failed=range(500)))
    counting.trips = 0
    results = await read(queue, job)
    assert [result.item_id for result in results] == [f"item-{index}" for index in range(500)]
    assert counting.trips == 1
    await counting.close()
