"""Which models are in memory, and that memory comes back."""

from __future__ import annotations

import asyncio

import psutil
import pytest
import torch
from tests.worker.calls import until

from zoofleet._catalog import ModelName
from zoofleet.errors import FailedPreconditionError, NotFoundError, ResourceExhaustedError
from zoofleet.models import get_model
from zoofleet.worker import WorkerConfig
from zoofleet.worker.residency import Residency

SMALL = ModelName.parse("mobilenet_v3_large@random")  # 22 MB
SMALLER = ModelName.parse("mobilenet_v2@random")  # 14 MB
TINY = ModelName.parse("raft_small@random")  # 4 MB


def residency(budget: int) -> Residency:
    return Residency(torch.device("cpu"), budget, WorkerConfig(schedulers=(), device="cpu"))


def names(models: Residency) -> list[ModelName]:
    return [resident.name for resident in models.residents]


async def test_concurrent_callers_load_a_model_once() -> None:
    models = residency(10**9)
    leases = await asyncio.gather(*(models.acquire(SMALL) for _ in range(8)))
    assert len({id(lease.runner) for lease in leases}) == 1
    (resident,) = models.residents
    assert resident.use_count == 8
    torch.manual_seed(0)
    expected = get_model("mobilenet_v3_large", weights=None).state_dict()
    assert resident.memory_bytes == sum(value.nbytes for value in expected.values())
    found = resident.runner.module.state_dict()
    assert all(torch.equal(found[key], value) for key, value in expected.items())  # random, but the same everywhere


async def test_the_least_recently_used_model_makes_room() -> None:
    models = residency(42_000_000)
    for name in (SMALL, SMALLER, TINY):
        (await models.acquire(name)).release()
    assert names(models) == [SMALL, SMALLER, TINY]
    (await models.acquire(SMALL)).release()
    (await models.acquire(ModelName.parse("ssdlite320_mobilenet_v3_large@random"))).release()  # 14 MB
    assert names(models) == [TINY, SMALL, ModelName.parse("ssdlite320_mobilenet_v3_large@random")]


async def test_a_model_in_use_is_not_unloaded() -> None:
    models = residency(30_000_000)
    lease = await models.acquire(SMALL)
    waiting = asyncio.create_task(models.acquire(SMALLER))
    await until(lambda: models.residents[0].is_retiring)
    again = asyncio.create_task(models.acquire(SMALL))
    for _ in range(20):
        await asyncio.sleep(0.01)
    # In use it stays, but new uses wait their turn behind the model that needs the room.
    assert names(models) == [SMALL]
    assert not waiting.done() and not again.done()
    assert lease.runner.module is models.residents[0].runner.module
    lease.release()
    (await waiting).release()
    (await again).release()
    assert names(models) == [SMALL]


async def test_pinned_models_stay() -> None:
    models = residency(30_000_000)
    assert (await models.load(SMALL, pin=True)).pinned
    with pytest.raises(ResourceExhaustedError, match="pinned"):
        await models.acquire(SMALLER)
    with pytest.raises(FailedPreconditionError, match="pinned"):
        await models.unload(SMALL)
    models.pin(SMALL, pinned=False)
    (await models.acquire(SMALLER)).release()
    assert names(models) == [SMALLER]
    for name in (SMALL, TINY):
        with pytest.raises(NotFoundError):
            models.pin(name, pinned=True)
        with pytest.raises(NotFoundError):
            await models.unload(name)


async def test_a_model_over_the_budget_is_refused() -> None:
    models = residency(10_000_000)
    (await models.acquire(TINY)).release()
    with pytest.raises(ResourceExhaustedError, match="10000000") as caught:
        await models.acquire(SMALL)
    assert caught.value.retry_after is None
    assert names(models) == [TINY]  # nothing was unloaded for it


async def test_unloading_gives_memory_back() -> None:
    models = residency(10**9)
    large = ModelName.parse("r3d_18@random")  # 133 MB
    in_use = []
    for _ in range(3):
        await models.load(large, pin=False)
        (resident,) = models.residents
        loaded = psutil.Process().memory_info().rss
        freed = await models.unload(large)
        in_use.append(psutil.Process().memory_info().rss)
        assert loaded - in_use[-1] > 0.5 * resident.memory_bytes
        assert freed > 0.5 * resident.memory_bytes
    # What the first round leaves behind may stay, but nothing adds up.
    assert in_use[2] - in_use[0] < 0.5 * resident.memory_bytes
