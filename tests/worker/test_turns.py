"""Who runs next, with models whose time is made up."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from tests.worker.fake_runner import Clock, FakeRunner, numbered

from zoofleet.worker.batch_sizes import BatchSizes
from zoofleet.worker.batcher import Entry
from zoofleet.worker.plan import EXACT
from zoofleet.worker.turns import Taken, Turns

QUICK, SLOW = "squeezenet1_1@random", "raft_large@random"


class Load:
    """Clients that have a new item waiting for each one that runs."""

    def __init__(self, most: int = 4) -> None:
        self.turns = Turns(lambda group: most)
        self._clock = Clock()
        self._number = itertools.count()
        self.used: dict[tuple[str, bool], float] = {}
        """Seconds of the device by model and traffic."""

    def runner(self, name: str, seconds: float) -> FakeRunner:
        return FakeRunner(name, self._clock, lambda count: seconds)

    def add(self, runner: FakeRunner, *, bulk: bool = False, key: tuple[int, ...] = (), count: int = 1) -> None:
        for _ in range(count):
            prepared = numbered(next(self._number), key)
            self.turns.add(Entry(runner.as_runner, EXACT, prepared, lambda raw: None, bulk=bulk))

    def step(self, *, refill: bool = True) -> Taken:
        """Run the next batch, and put as many items like it in line."""
        taken = self.turns.take()
        began = self._clock()
        runner = taken.batch[0].runner
        runner.forward([entry.prepared for entry in taken.batch], EXACT)
        seconds = self._clock() - began
        self.turns.charge(taken, seconds)
        for entry in taken.batch:
            place = str(runner.name), entry.bulk
            self.used[place] = self.used.get(place, 0.0) + seconds / len(taken.batch)
            if refill:
                prepared = dataclasses.replace(entry.prepared)
                self.turns.add(Entry(runner, EXACT, prepared, lambda raw: None, bulk=entry.bulk))
        return taken


def test_models_share_the_device_by_its_time_not_by_batches() -> None:
    load = Load()
    load.add(load.runner(QUICK, 0.01), count=8)
    load.add(load.runner(SLOW, 3.0), count=8)
    while load.used.get((SLOW, False), 0.0) < 60:
        load.step()
    assert load.used[QUICK, False] == pytest.approx(60, abs=3.1)


def test_keys_of_a_model_share_its_time_whatever_their_number() -> None:
    load = Load()
    many, one = load.runner(QUICK, 0.1), load.runner(SLOW, 0.1)
    for side in range(10):
        load.add(many, key=(side,), count=4)
    load.add(one, count=4)
    for _ in range(400):
        load.step()
    assert load.used[QUICK, False] == pytest.approx(load.used[SLOW, False], abs=0.2)


def test_a_model_that_was_idle_does_not_catch_up() -> None:
    load = Load()
    busy = load.runner(SLOW, 1.0)
    load.add(busy, count=4)
    for _ in range(100):
        load.step()
    load.add(load.runner(QUICK, 1.0), count=4)
    names = [load.step().group[0] for _ in range(8)]
    assert names == [QUICK, SLOW] * 4


def test_ever_new_keys_do_not_keep_out_one_that_stays() -> None:
    load = Load()
    runner = load.runner(QUICK, 0.1)
    load.add(runner, key=(0,), count=4)
    for side in range(1, 10):
        load.add(runner, key=(side,))
    turns_of_stayer = 0
    for side in range(10, 400):
        load.add(runner, key=(side,))
        taken = load.step(refill=False)
        if taken.group[2] == (0,):
            turns_of_stayer += 1
            load.add(runner, key=(0,), count=4)
    assert turns_of_stayer > 15


def test_interactive_items_go_first_and_bulk_keeps_a_quarter_of_each_batch() -> None:
    load = Load(most=8)
    runner = load.runner(QUICK, 1.0)
    load.add(runner, bulk=True, count=20)
    load.add(runner, count=20)
    for _ in range(3):
        assert [entry.bulk for entry in load.step(refill=False).batch] == [False] * 6 + [True] * 2
    assert [entry.bulk for entry in load.step(refill=False).batch] == [False] * 2 + [True] * 6
    assert [entry.bulk for entry in load.step(refill=False).batch] == [True] * 8
    assert not [entry for entry in load.turns.clear() if not entry.bulk]


@pytest.mark.parametrize("most", [1, 2, 3])
def test_bulk_has_a_quarter_of_the_turns_of_batches_too_small_to_share(most: int) -> None:
    load = Load(most)
    runner = load.runner(QUICK, 1.0)
    load.add(runner, bulk=True, count=4)
    load.add(runner, count=4)
    for _ in range(400):
        load.step()
    assert load.used[QUICK, True] / 400 == pytest.approx(0.25, abs=0.01)


def test_bulk_has_a_quarter_of_the_time_across_models() -> None:
    load = Load()
    load.add(load.runner(QUICK, 0.02), count=4)
    load.add(load.runner(SLOW, 2.0), bulk=True, count=4)
    while load.used.get((SLOW, True), 0.0) < 100:
        load.step()
    assert load.used[QUICK, False] == pytest.approx(300, abs=10)


def test_one_interactive_item_is_in_the_next_batch_of_a_busy_bulk_model() -> None:
    load = Load(most=8)
    runner = load.runner(QUICK, 1.0)
    load.add(runner, bulk=True, count=64)
    for _ in range(50):
        load.step()
        load.add(runner)
        taken = load.step(refill=False)
        assert [entry.bulk for entry in taken.batch] == [False] + [True] * 7
        load.add(runner, bulk=True, count=7)


def test_one_interactive_item_is_in_the_next_batch_while_another_model_has_bulk() -> None:
    load = Load(most=8)
    quick = load.runner(QUICK, 0.1)
    load.add(load.runner(SLOW, 1.0), bulk=True, count=64)
    for _ in range(50):
        load.step()
        load.add(quick)
        assert [entry.bulk for entry in load.step(refill=False).batch] == [False]


def test_rivals_that_have_gone_are_forgotten() -> None:
    load = Load()
    runner = load.runner(QUICK, 0.1)
    for side in range(1000):
        load.add(runner, key=(side,))
        load.step(refill=False)
    assert len(load.turns._groups[False, QUICK]._tags) < 100
    assert not load.turns._queues


class Device:
    """A device that runs full batches of one group."""

    def __init__(self, limit: int = 64) -> None:
        self.sizes = BatchSizes()
        self.group = (QUICK, EXACT, ())
        self._limit = limit

    def settle(self, seconds_of: dict[int, float] | None = None, *, each: float = 0.0, once: float = 0.0) -> int:
        """Run 40 full batches, and return the size that came of it."""
        for _ in range(40):
            most = self.sizes.most(self.group)
            seconds = seconds_of[most] if seconds_of is not None else once + each * most
            self.sizes.ran(self.group, most, self._limit, seconds)
        return self.sizes.most(self.group)


def test_batches_grow_while_that_pays_and_no_further() -> None:
    assert Device().settle(each=1.0) == 1
    assert Device().settle(once=1.0) == 64
    assert Device(limit=12).settle(once=1.0) == 12
    assert Device().settle({1: 1.0, 2: 1.2, 4: 1.6, 8: 3.1, 16: 9.0}) == 4


def test_batches_that_are_not_full_teach_nothing() -> None:
    device = Device()
    device.settle(once=1.0, each=0.001)
    for _ in range(100):
        device.sizes.ran(device.group, 1, 64, 100.0)
    assert device.sizes.most(device.group) == 64


def test_a_size_that_seemed_slow_is_tried_again() -> None:
    device = Device()
    assert device.settle(each=1.0) == 1
    for _ in range(8):
        device.settle(once=1.0)
    assert device.sizes.most(device.group) == 64


def test_other_keys_of_a_model_begin_where_the_last_one_stands() -> None:
    device = Device(limit=16)
    assert device.settle(once=1.0) == 16
    assert device.sizes.most((QUICK, EXACT, (3, 3))) == 16
    assert device.sizes.most((SLOW, EXACT, ())) == 1


def test_what_did_not_fit_into_memory_is_not_tried_again() -> None:
    device = Device()
    assert device.settle(once=1.0) == 64
    assert device.sizes.exhausted(device.group, 64) == 32
    assert device.sizes.exhausted(device.group, 7) == 3
    for _ in range(30):
        assert device.settle(once=1.0) == 3
    assert device.sizes.exhausted(device.group, 1) == 1


def test_sizes_of_many_groups_take_no_memory_for_ever() -> None:
    sizes = BatchSizes()
    for side in range(5000):
        sizes.most((QUICK, EXACT, (side,)))
    assert len(sizes._sizes) <= 1024
