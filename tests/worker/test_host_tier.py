"""Models that make room on a device wait in the host's memory; here the device is the CPU, too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.worker.test_residency import SMALL, SMALLER, TINY

from zoofleet._catalog import ModelName
from zoofleet.errors import InternalError
from zoofleet.worker import WorkerConfig, loading, residency
from zoofleet.worker.host_tier import HostTier, move_to_host
from zoofleet.worker.plan import EXACT, Plan
from zoofleet.worker.residency import Residency
from zoofleet.worker.runner import Runner

CONFIG = WorkerConfig(schedulers=(), device="cpu")
CPU = torch.device("cpu")


def with_tier(budget: int, host: int) -> tuple[Residency, HostTier]:
    tier = HostTier(host)
    return Residency(CPU, budget, CONFIG, tier=tier), tier


async def touch(models: Residency, name: ModelName) -> Runner[Any]:
    use = await models.acquire(name)
    runner = use.runner
    use.release()
    return runner


async def test_a_model_that_made_room_is_not_built_again(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    make = loading.make_runner

    def noting(name: ModelName, *rest: Any) -> Runner[Any]:
        built.append(name)
        return make(name, *rest)

    monkeypatch.setattr(residency, "make_runner", noting)
    models, tier = with_tier(30_000_000, 100_000_000)
    before = (await touch(models, SMALL)).module.state_dict()
    await touch(models, SMALLER)
    assert tier.names == [SMALL] and [r.name for r in models.residents] == [SMALLER]
    after = (await touch(models, SMALL)).module.state_dict()
    assert built == [SMALL, SMALLER] and tier.names == [SMALLER]
    assert all(torch.equal(before[key], value) for key, value in after.items())
    assert [value.stride() for value in before.values()] == [value.stride() for value in after.values()]


async def test_the_host_keeps_those_that_left_last(monkeypatch: pytest.MonkeyPatch) -> None:
    models, tier = with_tier(23_000_000, 20_000_000)
    for name in (TINY, SMALLER, SMALL):  # 4, 14 and 22 MB
        await touch(models, name)
    assert tier.names == [TINY, SMALLER] and tier.used <= tier.budget
    await touch(models, TINY)
    assert tier.names == [SMALLER]  # SMALL is larger than the tier, and nothing is dropped for it
    await touch(models, ModelName.parse("ssdlite320_mobilenet_v3_large@random"))
    await touch(models, SMALL)
    assert tier.used <= tier.budget


async def test_what_an_operator_unloads_is_kept_nowhere() -> None:
    models, tier = with_tier(10**9, 10**9)
    await models.load(TINY)
    await models.unload(TINY)
    assert tier.names == [] and models.residents == []


def test_moving_to_the_host_keeps_values_and_strides() -> None:
    module = torch.nn.Conv2d(3, 4, 3)
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    weight = module.weight.detach().clone(memory_format=torch.preserve_format)
    assert move_to_host(module) is module
    assert torch.equal(module.weight, weight) and module.weight.stride() == weight.stride()


@pytest.mark.parametrize(
    "name",
    [
        "mobilenet_v3_small",
        "lraspp_mobilenet_v3_large",
        "ssdlite320_mobilenet_v3_large",
        "mc3_18",
        "raft_small",
        "quantized_shufflenet_v2_x0_5",
    ],
)
def test_every_kind_of_model_can_be_warmed_up(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = loading.make_runner(ModelName.parse(f"{name}@random"), CPU, CONFIG)
    ran = []
    forward = runner.forward

    def noting(batch: Any, plan: Plan) -> Any:
        ran.append((len(batch), plan))
        return forward(batch, plan)

    monkeypatch.setattr(runner, "forward", noting)
    loading.warm_up(runner)
    assert ran == [(1, EXACT)]


async def test_a_warm_up_that_fails_is_an_error_of_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> Runner[Any]:
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(residency, "make_runner", failing)
    models, _ = with_tier(10**9, 0)
    with pytest.raises(InternalError, match="loading raft_small"):
        await models.load(TINY)
    assert models.residents == []
