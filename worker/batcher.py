"""The device's thread: runs batches, and finds out what is to be done when one fails."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

import torch

from zoofleet._catalog import ModelName
from zoofleet._serving.faults import fault
from zoofleet.errors import CancelledError, ResourceExhaustedError, UnavailableError, ZoofleetError
from zoofleet.worker.batch_sizes import BatchSizes
from zoofleet.worker.plan import EXACT, Plan
from zoofleet.worker.runner import Prepared, Raw, Runner
from zoofleet.worker.transfer import Transfer
from zoofleet.worker.turns import Group, Taken, Turns

__all__ = ["Batch", "Batcher", "Entry", "use_threads"]

_log: Final = logging.getLogger(__name__)

_BULK_ROOM: Final = 0.75
"""Share of the waiting inputs' bytes from which on no more bulk items are prepared: interactive ones find room."""

_NO_MEMORY: Final = "DefaultCPUAllocator"
"""What the RuntimeError of torch's CPU allocator names, which has no type of its own."""


class Entry:
    """A prepared item that waits for the device.

    Args:
        runner: the model to run.
        plan: how to run it.
        prepared: the model's input.
        done: called once, in the device's thread, with the output or the error in its place. Must return quickly.
        bulk: whether it yields to items that somebody waits for.

    Attributes:
        group: what the item has in common with those that may share its batch.
        cancelled: whether the item is to be dropped unless it has begun to run. May be set from any thread.
    """

    __slots__ = ("bulk", "cancelled", "done", "group", "plan", "prepared", "runner")

    def __init__(
        self,
        runner: Runner[Any],
        plan: Plan,
        prepared: Prepared,
        done: Callable[[Raw | ZoofleetError], object],
        *,
        bulk: bool = False,
    ) -> None:
        self.runner = runner
        self.plan = plan
        self.prepared = prepared
        self.done = done
        self.bulk = bulk
        self.group: Group = (str(runner.name), plan, prepared.key)
        self.cancelled = False

    def fall_back(self) -> None:
        """Run it by EXACT, since its plan has failed."""
        self.plan = EXACT
        self.group = (str(self.runner.name), EXACT, self.prepared.key)


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """A forward pass that has begun.

    Attributes:
        model: the model that runs.
        start_time: the time at which it began, in seconds since the epoch.
    """

    model: ModelName
    start_time: float = field(default_factory=time.time)


@dataclass(slots=True)
class _Flight:
    """A batch that the device has been given.

    Attributes:
        taken: its items.
        batch: what is said of it.
        began: when it was given to the device, by the clock.
        wait: waits for its outputs.
    """

    taken: Taken
    batch: Batch
    began: float
    wait: Callable[[], Sequence[Raw]]


class Batcher:
    """Runs prepared items in batches on one thread.

    Work-conserving: as soon as the device is idle it takes what is there, up to a full batch, and never waits for more.
    Items of one model, plan and key share a batch whichever streams they come from; `Turns` says who goes next, and
    `BatchSizes` how many of them. Where the device can, the next batch is given to it before the last one is waited
    for. A batch that fails is run again in halves, so that only the item at fault ends in an error.

    Args:
        threads: CPU threads of a forward pass.
        max_bytes: bytes of inputs that may wait. `add` blocks while there are more.
        transfer: the way to the device.
        lost: called in the device's thread where the device is lost with all that it was given. Must end the process.
        clock: the time in seconds from any beginning.
    """

    def __init__(
        self,
        threads: int,
        max_bytes: int,
        transfer: Transfer,
        lost: Callable[[BaseException], NoReturn],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.running: Batch | None = None
        """The forward pass that the device is in, None while it is idle."""
        self.is_abandoned = False
        """Whether nobody waits for the device any more."""
        self.has_taken: Callable[[], object] = lambda: None
        """Called in the device's thread whenever `has_bulk_room` may have become true."""
        self.measured: Callable[[ModelName, Plan, tuple[int, ...], int], AbstractContextManager[None]] = lambda *_: (
            contextlib.nullcontext()
        )
        """Makes the context of each forward pass of its model, plan, key and number of items."""
        self._max_bytes = max_bytes
        self._transfer = transfer
        self._lost = lost
        self._clock = clock
        self._landed = 0.0  # when the last batch was done
        self._bytes = 0
        self._sizes = BatchSizes()
        self._turns = Turns(self._sizes.most)
        self._flights: deque[_Flight] = deque()
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

    @property
    def has_bulk_room(self) -> bool:
        """Whether bulk items may be prepared now."""
        return self._bytes < _BULK_ROOM * self._max_bytes or self._closed

    def add(self, entry: Entry) -> None:
        """Queue an item. Blocks while `max_bytes` or more wait, until the device has taken some of them.

        A bulk item never blocks, since others would have to wait for its thread; ask `has_bulk_room` before it is made.

        Raises:
            UnavailableError: the batcher is closed.
        """
        with self._lock:
            self._room.wait_for(lambda: entry.bulk or self._bytes < self._max_bytes or self._closed)
            if self._closed:
                raise UnavailableError("the worker is shutting down")
            self._turns.add(entry)
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
        self.has_taken()

    def _run(self, threads: int) -> None:
        use_threads(threads)
        while True:
            with self._lock:
                if not self._flights:
                    self._work.wait_for(lambda: self._turns or self._closed)
                if self._closed:
                    left = self._turns.clear()
                    break
                taken = self._take() if self._turns else None
            if taken is not None:
                self.has_taken()
                self._drop(taken.dropped)
                if taken.batch:
                    self._launch(taken)
            if self._flights and (taken is None or len(self._flights) >= self._transfer.depth):
                self._land()
            del taken  # not to hold the inputs, and the model, until the next batch
        while self._flights:
            self._land()
        for entry in left:
            entry.done(UnavailableError("the worker is shutting down"))

    def _take(self) -> Taken:
        taken = self._turns.take()
        self._bytes -= sum(entry.prepared.nbytes for entry in (*taken.batch, *taken.dropped))
        self._room.notify_all()
        return taken

    @staticmethod
    def _drop(entries: Sequence[Entry]) -> None:
        for entry in entries:
            entry.done(CancelledError("cancelled before it ran"))

    def _launch(self, taken: Taken) -> None:
        """Give a batch to the device, and the answers where it fails at once."""
        batch = Batch(taken.batch[0].runner.name)
        began = self._clock()
        self.running = self.running or batch
        try:
            wait = self._forward(taken.batch)
        except Exception as error:  # noqa: BLE001 - a model may raise anything, and the device must go on
            reason = self._reason(taken, error)
        else:
            self._flights.append(_Flight(taken, batch, began, wait))
            return
        self._next_runs()
        self._recover(taken, reason)

    def _forward(self, batch: list[Entry]) -> Callable[[], Sequence[Raw]]:
        """Begin a forward pass, and return what waits for its outputs."""
        shape = (batch[0].runner.name, batch[0].plan, batch[0].prepared.key, len(batch))
        with torch.inference_mode(), self.measured(*shape):
            outputs = batch[0].runner.forward([entry.prepared for entry in batch], batch[0].plan)
            return self._transfer.to_host(outputs)

    def _land(self) -> None:
        """Wait for the batch that was launched first, and give the answers."""
        flight = self._flights.popleft()
        taken = flight.taken
        try:
            outputs = flight.wait()
        except Exception as error:  # noqa: BLE001 - as above: on CUDA, faults show only here
            reason = self._reason(taken, error)
        else:
            self._note(flight)
            self._next_runs()
            for entry, output in zip(taken.batch, outputs, strict=True):
                entry.done(output)
            return
        del flight
        self._next_runs()
        self._recover(taken, reason)

    def _note(self, flight: _Flight) -> None:
        """Learn from how long a batch took, counted from the end of the one before if that was later."""
        now, taken = self._clock(), flight.taken
        seconds = now - max(flight.began, self._landed)
        self._landed = now
        self._sizes.ran(taken.group, len(taken.batch), taken.batch[0].prepared.max_batch, seconds)
        with self._lock:
            self._turns.charge(taken, seconds)

    def _next_runs(self) -> None:
        self.running = self._flights[0].batch if self._flights else None

    def _reason(self, taken: Taken, error: Exception) -> ZoofleetError | None:
        """Return what the only item of a batch that failed is told, None where the batch has several.

        Called while the error is handled. Nothing of the error must be kept: its traceback holds the tensors that the
        batch had in memory.
        """
        if self._transfer.is_lost():
            self._lost(error)
        count, name = len(taken.batch), taken.batch[0].runner.name
        if _is_out_of_memory(error):
            most = self._sizes.exhausted(taken.group, count)
            _log.warning("no memory for %d items of %s at once; from now on at most %d", count, name, most)
            self._transfer.release()
            if count == 1:
                return ResourceExhaustedError(f"the worker has no memory to run {name} on this item", retry_after=1.0)
        elif taken.batch[0].plan is not EXACT:
            taken.batch[0].runner.drop(taken.batch[0].plan, error)
            for entry in taken.batch:
                entry.fall_back()
        elif count > 1:
            _log.warning("a batch of %d for %s failed (%s); running it again in halves", count, name, error)
        else:
            return error if isinstance(error, ZoofleetError) else fault(f"a forward pass of {name}")
        return None

    def _recover(self, taken: Taken, reason: ZoofleetError | None) -> None:
        """Answer the only item of a batch that failed with the reason, or run the batch's halves one after the other.

        One item at fault among N costs 2 log2(N) more batches. Where a plan failed, they run by EXACT.
        """
        if reason is not None:
            taken.batch[0].done(reason)
            return
        middle = len(taken.batch) // 2
        for entries in (taken.batch[:middle], taken.batch[middle:]):
            self._drop([entry for entry in entries if entry.cancelled])
            if left := [entry for entry in entries if not entry.cancelled]:
                self._launch(Taken(left[0].group, left, []))
            while self._flights:
                self._land()


def _is_out_of_memory(error: Exception) -> bool:
    """Return whether an error says that the device, or the host, has no memory left for what was asked."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and _NO_MEMORY in str(error)
    )


def use_threads(count: int) -> None:
    """Let the calling thread compute on `count` threads.

    The setting is each thread's own, but a thread that looks at it for the first time takes over the last one that was
    made in any thread: so it looks first.
    """
    torch.get_num_threads()
    torch.set_num_threads(count)
