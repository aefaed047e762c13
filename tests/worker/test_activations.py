"""What forward passes take is measured, and models make room for it."""

from __future__ import annotations

import pytest
import torch
from tests.worker.calls import until
from tests.worker.test_residency import SMALL, SMALLER, TINY

from zoofleet.worker import WorkerConfig
from zoofleet.worker.activations import Activations
from zoofleet.worker.plan import EXACT
from zoofleet.worker.residency import Residency

CPU = torch.device("cpu")
CONFIG = WorkerConfig(schedulers=(), device="cpu")


def run(measuring: Activations, megabytes: int, count: int = 1) -> None:
    with measuring.measured(TINY, EXACT, (), count):
        torch.ones(megabytes * 1024 * 256)  # float32


def test_the_peak_is_measured_although_it_is_given_back() -> None:
    measuring = Activations(CPU)
    assert measuring.most(TINY) == 0
    for _ in range(2):
        run(measuring, 200)
    assert 180e6 < measuring.most(TINY) < 300e6
    assert measuring.most(SMALL) == 0
    run(measuring, 10, count=2)  # another shape, which takes less
    assert measuring.most(TINY) > 180e6


def test_what_others_took_during_one_run_is_forgotten_with_the_next() -> None:
    measuring = Activations(CPU)
    run(measuring, 200)
    run(measuring, 20)
    assert measuring.most(TINY) < 100e6
    run(measuring, 300)  # measured twice: nobody looks any more
    assert measuring.most(TINY) < 100e6


def test_a_failed_pass_tells_nothing() -> None:
    measuring = Activations(CPU)
    with pytest.raises(RuntimeError, match="shape"), measuring.measured(TINY, EXACT, (), 1):
        torch.ones(100 * 1024 * 256).view(7)
    assert measuring.most(TINY) == 0


def test_the_number_of_shapes_is_bounded() -> None:
    measuring = Activations(CPU)
    for side in range(3000):
        measuring.note(TINY, EXACT, (side,), 1, side)
    assert measuring.most(TINY) == 2999 and len(measuring._taken) <= 1024


async def test_the_largest_pass_of_the_residents_is_kept_free_not_the_sum() -> None:
    models = Residency(CPU, 50_000_000, CONFIG, spare=10_000_000)
    for name, size in ((SMALL, 15_000_000), (SMALLER, 18_000_000), (TINY, 19_000_000)):
        models.activations.note(name, EXACT, (), 1, size)  # 5, 8 and 9 MB beyond the spare ones
        (await models.acquire(name)).release()  # 22, 14 and 4 MB
    assert [r.name for r in models.residents] == [SMALL, SMALLER, TINY]


async def test_a_pass_that_grows_makes_room() -> None:
    models = Residency(CPU, 50_000_000, CONFIG, spare=10_000_000)
    for name in (SMALLER, SMALL):
        (await models.acquire(name)).release()
    models.activations.note(SMALL, EXACT, (), 1, 30_000_000)
    await until(lambda: [r.name for r in models.residents] == [SMALL])


async def test_no_model_is_refused_for_its_activations() -> None:
    models = Residency(CPU, 25_000_000, CONFIG)
    models.activations.note(SMALL, EXACT, (), 1, 10**9)
    await models.load(SMALL)
    await models.load(TINY)
    assert [r.name for r in models.residents] in ([SMALL, TINY], [TINY])
