"""What the device runs next, with real models on its real thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import pytest
import torch
from tests.worker.fake_runner import never

from zoofleet._catalog import ModelName
from zoofleet.errors import CancelledError, UnavailableError, ZoofleetError
from zoofleet.worker import WorkerConfig
from zoofleet.worker.batcher import Batcher, Entry
from zoofleet.worker.loading import make_runner
from zoofleet.worker.plan import EXACT
from zoofleet.worker.runner import Prepared, Raw, Runner
from zoofleet.worker.transfer import HostTransfer

AnyRunner: TypeAlias = Runner[Any]

CONFIG = WorkerConfig(schedulers=(), device="cpu", batch_sizes={"classify": 4})


@pytest.fixture(scope="module")
def runners() -> list[AnyRunner]:
    names = ("mobilenet_v3_large@random", "mobilenet_v2@random")
    return [make_runner(ModelName.parse(name), torch.device("cpu"), CONFIG) for name in names]


@pytest.fixture
def batcher() -> Iterator[Batcher]:
    batcher = Batcher(1, 1 << 30, HostTransfer(), never)
    yield batcher
    batcher.close()


def image(side: int = 32, key: tuple[int, ...] = ()) -> Prepared:
    return Prepared((torch.zeros(3, side, side),), (side, side), key, 4)


class Held:
    """Keeps the device's thread at a first item until told to go on, and notes what it does next."""

    def __init__(self, batcher: Batcher, runner: AnyRunner) -> None:
        self._batcher = batcher
        self._reached, self._go_on, self._all_done = threading.Event(), threading.Event(), threading.Event()
        self._left = 0
        self.done: list[tuple[str, Raw | ZoofleetError]] = []
        batcher.add(Entry(runner, EXACT, image(), self._hold))
        self._reached.wait()

    def _hold(self, _: Raw | ZoofleetError) -> None:
        self._reached.set()
        self._go_on.wait()

    def add(self, name: str, runner: AnyRunner, prepared: Prepared) -> Entry:
        entry = Entry(runner, EXACT, prepared, self._note(name))
        self._batcher.add(entry)
        self._left += 1
        return entry

    def _note(self, name: str) -> Callable[[Raw | ZoofleetError], None]:
        def note(outcome: Raw | ZoofleetError) -> None:
            self.done.append((name, outcome))
            if len(self.done) == self._left:
                self._all_done.set()

        return note

    def release(self) -> str:
        """Let the device go on; the names of what it did, in order, once it has done all."""
        self._go_on.set()
        self._all_done.wait()
        return "".join(name for name, _ in self.done)


def test_cancelled_items_do_not_run(batcher: Batcher, runners: list[AnyRunner], batches: list[int]) -> None:
    held = Held(batcher, runners[0])
    entries = [held.add(str(i), runners[0], image()) for i in range(6)]
    for entry in entries[:5]:
        entry.cancelled = True
    held.release()
    assert [isinstance(outcome, CancelledError) for _, outcome in sorted(held.done, key=lambda d: d[0])] == [
        True
    ] * 5 + [False]
    assert sum(batches) == 2


def test_adding_blocks_while_too_many_bytes_wait(runners: list[AnyRunner]) -> None:
    batcher = Batcher(1, 2 * image().nbytes, HostTransfer(), never)
    held = Held(batcher, runners[0])
    held.add("a", runners[0], image())
    held.add("b", runners[0], image())
    adding = threading.Thread(target=held.add, args=("c", runners[0], image()))
    adding.start()
    adding.join(timeout=0.2)
    assert adding.is_alive()
    assert held.release().startswith("ab")
    adding.join()
    batcher.close()


def test_closing_drops_what_waits(runners: list[AnyRunner]) -> None:
    batcher = Batcher(1, 1 << 30, HostTransfer(), never)
    held = Held(batcher, runners[0])
    held.add("a", runners[0], image())
    closing = threading.Thread(target=batcher.close)
    closing.start()

    def add_for_ever() -> None:
        while True:
            held.add("b", runners[0], image())

    with pytest.raises(UnavailableError):  # once it knows; until then it takes items, and drops them
        add_for_ever()
    held.release()
    closing.join()
    assert all(isinstance(outcome, UnavailableError) for _, outcome in held.done)
