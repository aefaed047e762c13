"""The device's thread, and what it runs next."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import torch

from zoofleet._catalog import ModelName
from zoofleet._serving.faults import fault
from zoofleet.errors import CancelledError, UnavailableError, ZoofleetError
from zoofleet.worker.plan import EXACT, Plan
from zoofleet.worker.runner import Prepared, Raw, Runner

__all__ = ["Batch", "Batcher", "Entry", "use_threads"]

_log: Final = logging.getLogger(__name__)

_Shared: TypeAlias = tuple[Plan, tuple[int, ...]]
"""What the items of a batch have in common beside the model: the plan and the key."""


class Entry:
    """A prepared item that waits for the device.

    Args:
        runner: the model to run.
        plan: how to run it.
        prepared: the model's input.
        done: called once, in the device's thread, with the output or the error in its place. Must return quickly.

    Attributes:
        cancelled: whether the item is to be dropped unless it has begun to run. May be set from any thread.
    """

    __slots__ = ("cancelled", "done", "plan", "prepared", "runner")

    def __init__(
        self, runner: Runner[Any], plan: Plan, prepared: Prepared, done: Callable[[Raw | ZoofleetError], object]
    ) -> None:
        self.runner = runner
        self.plan = plan
        self.prepared = prepared
        self.done = done
        self.cancelled = False


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """A forward pass that has begun.

    Attributes:
        model: the model that runs.
        start_time: the time at which it began, in seconds since the epoch.
    """

    model: ModelName
    start_time: float = field(default_factory=time.time)


class Batcher:
    """Runs prepared items in batches on one thread.

    Work-conserving: as soon as the device is idle it takes what is there, up to a full batch, and never waits for more.
    Items of one model, plan and key share a batch whichever streams they come from; models take turns, and so do the
    plans and keys of a model. If a batch fails its items run one by one, so that only the one at fault ends in an
    error.

    Args:
        threads: CPU threads of a forward pass.
        max_bytes: bytes of inputs that may wait. `add` blocks while there are more.
    """

    def __init__(self, threads: int, max_bytes: int) -> None:
        self.running: Batch | None = None
        """The forward pass that the device is in, None while it is idle."""
        self.is_abandoned = False
        """Whether nobody waits for the device any more."""
        self._max_bytes = max_bytes
        self._bytes = 0
        # By model, then by plan and key; the first of each is next.
        self._ready: OrderedDict[str, OrderedDict[_Shared, deque[Entry]]] = OrderedDict()
        self._closed = False
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        self._thread = threading.Thread(target=self._run, args=(threads,), name="device", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the device's thread runs."""
        return self._thread.is_alive()

    def add(self, entry: Entry) -> None:
        """Queue an item. Blocks while `max_bytes` or more wait, until the device has taken some of them.

        Raises:
            UnavailableError: the batcher is closed.
        """
        with self._lock:
            self._room.wait_for(lambda: self._bytes < self._max_bytes or self._closed)
            if self._closed:
                raise UnavailableError("the worker is shutting down")
            keys = self._ready.setdefault(str(entry.runner.name), OrderedDict())
            keys.setdefault((entry.plan, entry.prepared.key), deque()).append(entry)
            self._bytes += entry.prepared.nbytes
            self._work.notify()

    def close(self) -> None:
        """Drop what waits. Blocks until the device is done with what it runs, unless it has been abandoned."""
        self._refuse()
        if not self.is_abandoned:
            self._thread.join()

    def abandon(self) -> None:
        """Take no more items, and wait no more for the device, which hangs."""
        self.is_abandoned = True
        self._refuse()

    def _refuse(self) -> None:
        with self._lock:
            self._closed = True
            self._work.notify()
            self._room.notify_all()

    def _run(self, threads: int) -> None:
        use_threads(threads)
        while True:
            with self._lock:
                self._work.wait_for(lambda: self._ready or self._closed)
                if self._closed:
                    left = [e for keys in self._ready.values() for queue in keys.values() for e in queue]
                    self._ready.clear()
                    break
                batch, dropped = self._take()
            for entry in dropped:
                entry.done(CancelledError("cancelled before it ran"))
            if batch:
                self._forward(batch)
            del batch, dropped  # not to hold the inputs, and the model, until the next batch
        for entry in left:
            entry.done(UnavailableError("the worker is shutting down"))

    def _take(self) -> tuple[list[Entry], list[Entry]]:
        """Return the next batch, and the cancelled items that stood among its items."""
        model, keys = next(iter(self._ready.items()))
        key, queue = next(iter(keys.items()))
        batch: list[Entry] = []
        dropped: list[Entry] = []
        most = queue[0].prepared.max_batch
        while queue and len(batch) < most:
            entry = queue.popleft()
            self._bytes -= entry.prepared.nbytes
            (dropped if entry.cancelled else batch).append(entry)
        keys.move_to_end(key)
        self._ready.move_to_end(model)
        if not queue:
            del keys[key]
        if not keys:
            del self._ready[model]
        self._room.notify_all()
        return batch, dropped

    def _forward(self, batch: list[Entry]) -> None:
        runner = batch[0].runner
        outputs: Sequence[Raw | ZoofleetError] | None = None
        again = [[entry] for entry in batch]
        self.running = Batch(runner.name)
        try:
            with torch.inference_mode():
                outputs = runner.forward([entry.prepared for entry in batch], batch[0].plan)
        except Exception as error:  # noqa: BLE001 - a model may raise anything, and the device must go on
            if batch[0].plan is not EXACT:
                runner.drop(batch[0].plan, error)
                for entry in batch:
                    entry.plan = EXACT
                again = [batch]
            elif len(batch) == 1:
                outputs = [error if isinstance(error, ZoofleetError) else fault(f"a forward pass of {runner.name}")]
            else:
                _log.warning(
                    "a batch of %d for %s failed (%s); running its items alone", len(batch), runner.name, error
                )
        finally:
            self.running = None
        if outputs is None:
            for part in again:
                self._forward(part)
            return
        for entry, output in zip(batch, outputs, strict=True):
            entry.done(output)


def use_threads(count: int) -> None:
    """Let the calling thread compute on `count` threads.

    The setting is each thread's own, but a thread that looks at it for the first time takes over the last one that was
    made in any thread: so it looks first.
    """
    torch.get_num_threads()
    torch.set_num_threads(count)
