"""A model that computes nothing, on a device whose time is made up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn, cast

import torch

from zoofleet._catalog import ModelName
from zoofleet.worker.plan import Plan
from zoofleet.worker.runner import Prepared, Raw, Runner


class Clock:
    """A clock that only stands and is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class FakeRunner:
    """Gives each item its own number back, and moves the clock by what the batch takes.

    Args:
        name: the model's name.
        clock: the clock to move.
        seconds: how long a batch of so many items takes.
    """

    def __init__(self, name: str, clock: Clock, seconds: Callable[[int], float]) -> None:
        self.name = ModelName.parse(name)
        self.batches: list[list[int]] = []
        """The items' numbers of all batches that were begun."""
        self.fails: Callable[[list[int]], None] = lambda numbers: None
        """Raises for a batch that is to fail."""
        self._clock = clock
        self._seconds = seconds

    def forward(self, batch: Sequence[Prepared], plan: Plan) -> list[Raw]:
        numbers = [int(item.inputs[0]) for item in batch]
        self.batches.append(numbers)
        self._clock.now += self._seconds(len(batch))
        self.fails(numbers)
        return [{"number": item.inputs[0]} for item in batch]

    @property
    def as_runner(self) -> Runner[Any]:
        return cast("Runner[Any]", self)


def numbered(number: int, key: tuple[int, ...] = (), max_batch: int = 8) -> Prepared:
    """An item that is nothing but a number."""
    return Prepared((torch.tensor(number),), (1, 1), key, max_batch)


def never(error: BaseException) -> NoReturn:
    """A device that is lost, where none may be."""
    raise AssertionError(error)
