"""A worker process with a fault: `python -m tests.worker.faulty_worker FAULT SETTINGS`, the settings in JSON."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from zoofleet.worker import Worker, WorkerConfig, batcher, loading, residency, runners, serve, transfer
from zoofleet.worker.plan import Plan
from zoofleet.worker.runner import Prepared, Raw, Runner

HANGING_SIZE: Final = (31, 17)
"""(H, W) of images at which the device hangs."""

LOADING_SECONDS: Final = 1.5

POISONED_BATCH: Final = 3


def hang() -> None:
    """Models take a while to load, and never come back from an image of `HANGING_SIZE`."""
    forward, make_runner = runners._ClassifyRunner.forward, loading.make_runner

    def hanging(self: Any, batch: Sequence[Prepared], plan: Plan) -> list[Raw]:
        if any(prepared.image_size == HANGING_SIZE for prepared in batch):
            threading.Event().wait()
        return forward(self, batch, plan)

    def slow(*arguments: Any) -> Runner[Any]:
        time.sleep(LOADING_SECONDS)
        return make_runner(*arguments)

    runners._ClassifyRunner.forward = hanging  # type: ignore[method-assign]
    vars(residency)["make_runner"] = slow


def fail_status() -> None:
    """The worker cannot say how it fares."""

    def status(_: Worker) -> None:
        raise RuntimeError("injected")

    Worker.status = status  # type: ignore[method-assign,assignment]


def end_device() -> None:
    """The device's thread ends at its first batch."""

    def take(_: object) -> None:
        raise RuntimeError("injected")

    batcher.Batcher._take = take  # type: ignore[method-assign,assignment]


def poison() -> None:
    """The device fails at its `POISONED_BATCH`th batch, and at everything from then on."""
    forward = runners._ClassifyRunner.forward
    batches = itertools.count(1)

    def failing(self: Any, batch: Sequence[Prepared], plan: Plan) -> list[Raw]:
        if next(batches) >= POISONED_BATCH:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return forward(self, batch, plan)

    runners._ClassifyRunner.forward = failing  # type: ignore[method-assign]
    transfer.HostTransfer.is_lost = lambda _: True  # type: ignore[method-assign,assignment]


def nothing() -> None:
    """The worker has no fault."""


FAULTS: Final[dict[str, Callable[[], None]]] = {
    each.__name__: each for each in (hang, fail_status, end_device, poison, nothing)
}


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    FAULTS[sys.argv[1]]()
    settings = json.loads(sys.argv[2])
    asyncio.run(
        serve(WorkerConfig(device="cpu", threads=1, **settings | {"schedulers": tuple(settings["schedulers"])}))
    )
