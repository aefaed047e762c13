"""How the device's thread runs batches and recovers from those that fail, with a model that computes nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import pytest
import torch
from tests.worker.fake_runner import Clock, FakeRunner, never, numbered

from zoofleet.errors import CancelledError, InternalError, InvalidArgumentError, ResourceExhaustedError, ZoofleetError
from zoofleet.worker.batch_sizes import BatchSizes
from zoofleet.worker.batcher import Batcher, Entry
from zoofleet.worker.plan import EXACT
from zoofleet.worker.runner import Raw
from zoofleet.worker.transfer import HostTransfer

CULPRIT = 11


class Bench:
    """A batcher whose device is held until all that is to run has been added."""

    def __init__(self, transfer: HostTransfer, lost: Callable[[BaseException], NoReturn]) -> None:
        self.clock = Clock()
        self.batcher = Batcher(1, 1 << 20, transfer, lost, self.clock)
        self.runner = FakeRunner("squeezenet1_1@random", self.clock, lambda count: 1.0)
        self.answers: list[tuple[int, Raw | ZoofleetError]] = []
        self._go_on, self._done = threading.Event(), threading.Event()
        self._count = 0
        reached = threading.Event()
        held = FakeRunner("raft_small@random", self.clock, lambda count: 0.0)

        def hold(_: object) -> None:
            reached.set()
            self._go_on.wait(60)

        self.batcher.add(Entry(held.as_runner, EXACT, numbered(0), hold))
        assert reached.wait(60)

    def add(self, number: int, *, bulk: bool = False, max_batch: int = 16) -> Entry:
        def done(answer: Raw | ZoofleetError) -> None:
            self.answers.append((number, answer))
            if len(self.answers) == self._count:
                self._done.set()

        self._count += 1
        entry = Entry(self.runner.as_runner, EXACT, numbered(number, max_batch=max_batch), done, bulk=bulk)
        self.batcher.add(entry)
        return entry

    def run(self) -> dict[int, Raw | ZoofleetError]:
        self._go_on.set()
        assert self._done.wait(60)
        return dict(self.answers)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """All batches are as large as their items allow."""
    monkeypatch.setattr(BatchSizes, "most", lambda self, group: 16)
    bench = Bench(HostTransfer(), never)
    yield bench
    bench.batcher.close()


def test_items_get_their_own_outputs(bench: Bench) -> None:
    for number in range(40):
        bench.add(number)
    answers = bench.run()
    assert [len(batch) for batch in bench.runner.batches] == [16, 16, 8]
    outputs = {number: answer for number, answer in answers.items() if not isinstance(answer, ZoofleetError)}
    assert {number: int(output["number"]) for number, output in outputs.items()} == {i: i for i in range(40)}


def test_interactive_items_run_before_the_bulk_ones_that_came_first(bench: Bench) -> None:
    for number in range(64):
        bench.add(number, bulk=True)
    bench.add(100)
    bench.run()
    assert bench.runner.batches[0] == [100, *range(15)]


def test_one_item_at_fault_costs_two_batches_for_each_halving(bench: Bench) -> None:
    def fail(numbers: list[int]) -> None:
        if CULPRIT in numbers:
            raise ValueError("a bad item")

    bench.runner.fails = fail
    for number in range(16):
        bench.add(number)
    answers = bench.run()
    assert [number for number, _ in bench.answers] == list(range(16))
    assert [number for number, answer in answers.items() if isinstance(answer, ZoofleetError)] == [CULPRIT]
    assert isinstance(answers[CULPRIT], InternalError)
    assert len(bench.runner.batches) == 1 + 2 * 4  # log2(16) halvings


def test_a_typed_error_reaches_the_item_at_fault(bench: Bench) -> None:
    def fail(numbers: list[int]) -> None:
        if CULPRIT in numbers:
            raise InvalidArgumentError("out of range")

    bench.runner.fails = fail
    for number in (10, CULPRIT, 12):
        bench.add(number)
    assert isinstance(bench.run()[CULPRIT], InvalidArgumentError)


def test_items_cancelled_while_a_batch_is_halved_do_not_run(bench: Bench) -> None:
    entries: list[Entry] = []

    def fail(numbers: list[int]) -> None:
        for entry in entries[1:]:
            entry.cancelled = True
        raise ValueError("a bad batch")

    bench.runner.fails = fail
    entries += [bench.add(number) for number in range(8)]
    answers = bench.run()
    assert isinstance(answers[0], InternalError)
    assert all(isinstance(answers[number], CancelledError) for number in range(1, 8))
    assert bench.runner.batches == [list(range(8)), [0]]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_batch_that_memory_does_not_hold_is_halved_for_good(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    released: list[bool] = []
    monkeypatch.setattr(HostTransfer, "release", lambda self: released.append(True))
    bench = Bench(HostTransfer(), never)
    sizes = bench.batcher._sizes
    sizes._settled["squeezenet1_1@random", EXACT] = 16

    def fail(numbers: list[int]) -> None:
        if len(numbers) > 4:
            raise error

    bench.runner.fails = fail
    for number in range(32):
        bench.add(number)
    answers = bench.run()
    bench.batcher.close()
    assert not [answer for answer in answers.values() if isinstance(answer, ZoofleetError)]
    assert [number for number, _ in bench.answers] == list(range(32))
    # Only the first batch finds out; the other sixteen items run in fours.
    assert [len(batch) for batch in bench.runner.batches] == [16, 8, 4, 4, 8, 4, 4] + [4] * 4
    assert len(released) == 3


def test_a_single_item_that_memory_does_not_hold_may_be_sent_again(bench: Bench) -> None:
    def fail(numbers: list[int]) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    bench.runner.fails = fail
    bench.add(0)
    error = bench.run()[0]
    assert isinstance(error, ResourceExhaustedError)
    assert error.retry_after == 1.0


class Lost(BaseException):
    """In the place of the end of the process."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_nothing_is_answered_once_the_device_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BatchSizes, "most", lambda self, group: 16)
    monkeypatch.setattr(HostTransfer, "is_lost", lambda self: True)
    ended = threading.Event()

    def lost(error: BaseException) -> NoReturn:
        ended.set()
        raise Lost

    bench = Bench(HostTransfer(), lost)

    def fail(numbers: list[int]) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    bench.runner.fails = fail
    for number in range(20):
        bench.add(number)
    bench._go_on.set()
    assert ended.wait(60)
    bench.batcher._thread.join()
    assert bench.answers == []
    assert len(bench.runner.batches) == 1


class TwoInFlight(HostTransfer):
    """A device that computes when it is waited for, and notes the order."""

    depth = 2

    def __init__(self) -> None:
        self.log: list[str] = []
        self.fails_at: set[int] = set()

    def to_host(self, outputs: Sequence[Raw]) -> Callable[[], Sequence[Raw]]:
        first = int(outputs[0]["number"])
        self.log.append(f"launch {first}")

        def wait() -> Sequence[Any]:
            self.log.append(f"wait {first}")
            if any(int(output["number"]) in self.fails_at for output in outputs):
                raise RuntimeError("a fault that shows late")
            return outputs

        return wait


def test_the_next_batch_is_launched_before_the_last_one_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BatchSizes, "most", lambda self, group: 16)
    transfer = TwoInFlight()
    bench = Bench(transfer, never)
    transfer.log.clear()
    for number in range(48):
        bench.add(number)
    bench.run()
    bench.batcher.close()
    assert transfer.log == ["launch 0", "launch 16", "wait 0", "launch 32", "wait 16", "wait 32"]
    assert bench.batcher.running is None


def test_a_fault_that_shows_while_the_next_batch_is_in_flight_hits_its_own_item(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(BatchSizes, "most", lambda self, group: 16)
    transfer = TwoInFlight()
    transfer.fails_at = {3, 20}
    bench = Bench(transfer, never)
    for number in range(40):
        bench.add(number)
    answers = bench.run()
    bench.batcher.close()
    assert sorted(n for n, answer in answers.items() if isinstance(answer, ZoofleetError)) == [3, 20]
    assert len(answers) == 40
