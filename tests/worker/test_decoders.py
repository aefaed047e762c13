"""The decoding threads, in order and at their end."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from zoofleet.worker.decoders import Decoders


class Held:
    """One decoding thread that is held until all its work is there, and notes what it then does."""

    def __init__(self) -> None:
        self.takes_bulk = True
        self.done: list[str] = []
        self.decoders = Decoders(1, lambda: None, lambda: self.takes_bulk)
        self._go_on = threading.Event()
        reached = threading.Event()

        def hold() -> None:
            reached.set()
            self._go_on.wait(60)

        self.decoders.submit(hold)
        assert reached.wait(60)

    def post(self, name: str, count: int, *, bulk: bool) -> None:
        for _ in range(count):
            self.decoders.post(lambda: self.done.append(name), bulk=bulk)

    def run(self) -> str:
        """Let the thread go on, and return what it did before it ended."""
        self._go_on.set()
        self.decoders.shutdown()
        return "".join(self.done)


@pytest.fixture
def held() -> Iterator[Held]:
    held = Held()
    yield held
    held.run()


def test_interactive_work_goes_first_and_bulk_has_each_fourth_turn(held: Held) -> None:
    held.post("b", 6, bulk=True)
    held.post("i", 8, bulk=False)
    assert held.run() == "iiib" * 2 + "iib" + "bbb"


def test_bulk_waits_until_the_device_has_room(held: Held) -> None:
    held.takes_bulk = False
    held.post("b", 2, bulk=True)
    held.post("i", 5, bulk=False)
    held._go_on.set()
    held.decoders.submit(lambda: None).result(60)
    assert held.done == ["i"] * 5
    held.takes_bulk = True
    done = threading.Event()
    held.decoders.wake()
    held.decoders.post(done.set, bulk=True)
    assert done.wait(60)
    assert held.done == ["i"] * 5 + ["b"] * 2


def test_the_outcome_of_a_function_comes_back(held: Held) -> None:
    def fail() -> None:
        raise ValueError("no")

    held._go_on.set()
    assert held.decoders.submit(divmod, 7, 2).result(60) == (3, 1)
    with pytest.raises(ValueError, match="no"):
        held.decoders.submit(fail).result(60)


def test_what_waits_is_done_before_the_end_or_forgotten() -> None:
    for forget, done in ((False, "iibb"), (True, "")):
        held = Held()
        held.takes_bulk = False
        held.post("b", 2, bulk=True)
        held.post("i", 2, bulk=False)
        held.decoders.shutdown(wait=False, cancel_futures=forget)
        with pytest.raises(RuntimeError, match="after shutdown"):
            held.decoders.submit(print)
        held._go_on.set()
        held.decoders.shutdown()
        assert "".join(held.done) == done
