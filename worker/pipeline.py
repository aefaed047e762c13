"""An item's way through the worker: prepare (decode and preprocess), batch, forward, finish.

Each step hands on to the next: a decoding thread, the device's thread, an encoding thread, and back to the event loop.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Generic, NoReturn, TypeAlias, TypeVar

from zoofleet._catalog import ModelName
from zoofleet._serving.faults import fault
from zoofleet._values.results import Outcome
from zoofleet._values.tasks import Precision
from zoofleet.errors import CancelledError, ResourceExhaustedError, ZoofleetError
from zoofleet.worker.batcher import Batcher, Entry, use_threads
from zoofleet.worker.config import WorkerConfig
from zoofleet.worker.decoders import Decoders
from zoofleet.worker.devices import find_device
from zoofleet.worker.encoders import Encoders
from zoofleet.worker.items import Item
from zoofleet.worker.plans.planner import Planner
from zoofleet.worker.residency import ModelUse, Residency
from zoofleet.worker.runner import Raw
from zoofleet.worker.transfer import transfer_for

__all__ = ["Encode", "Pipeline", "Spec"]

_T = TypeVar("_T")
_Answer = TypeVar("_Answer")


_RESERVED_SHARE: Final = 8
"""One in so many slots, and at least one of several, is never taken by bulk items: interactive ones need not wait."""

Encode: TypeAlias = Callable[[Outcome | ZoofleetError, Precision], _Answer]
"""Makes the caller's answer of an item's outcome, or of the error in its place, and of the precision that it ran at."""


@dataclass(frozen=True, slots=True)
class Spec:
    """What to do with an item.

    Attributes:
        model: the model.
        options: the task's options, of the class that the model's runner names.
        precision: what the client asks for.
        bulk: whether the item yields to those that somebody waits for.
    """

    model: ModelName
    options: Any
    precision: Precision
    bulk: bool = False


class _Work(Generic[_Answer]):
    """An item on its way; `answer` resolves to what `encode` made of its outcome."""

    __slots__ = ("_cancelled", "_entry", "answer", "encode", "spec", "use")

    def __init__(self, use: ModelUse, spec: Spec, encode: Encode[_Answer], answer: asyncio.Future[_Answer]) -> None:
        self.use = use
        self.spec = spec
        self.encode = encode
        self.answer = answer
        self._entry: Entry | None = None
        self._cancelled = False

    @property
    def cancelled(self) -> bool:
        """Whether nobody wants the answer any more."""
        return self._cancelled

    def cancel(self) -> None:
        """Drop the item unless it is running already."""
        self._cancelled = True
        if self._entry is not None:
            self._entry.cancelled = True

    def enter(self, entry: Entry) -> None:
        """Have `cancel` reach the item in the device's queue too."""
        self._entry = entry
        if self._cancelled:
            entry.cancelled = True

    @property
    def entry(self) -> Entry:
        """The item in the device's queue, from `enter` until `resolve`."""
        assert self._entry is not None  # noqa: S101 - it is asked for by what the entry calls
        return self._entry

    def resolve(self, answer: _Answer) -> None:
        """Give back what the item held, and the answer to whoever waits for it. Called in the event loop."""
        self.use.release()
        self._entry = None  # it leads back here: without this, the input would stay in memory for a while
        if not self.answer.done():
            self.answer.set_result(answer)


class Pipeline:
    """Decoding threads, the device's thread and encoding threads, each handing on to the next without the event loop.

    Slots bound the items that wait for the decoders, the batcher bounds the bytes that wait for the device. Must be
    made and called in the event loop.

    Args:
        config: the worker's settings, for threads and limits.
        residency: the models of the device.
        lost: called in the device's thread where the device is lost with all that it was given. Must end the process.
    """

    def __init__(self, config: WorkerConfig, residency: Residency, lost: Callable[[BaseException], NoReturn]) -> None:
        threads = config.resolved_decode_threads()
        transfer = transfer_for(find_device(config.device))
        self.batcher = Batcher(config.resolved_threads(), config.max_prepared_bytes, transfer, lost)
        self.batcher.measured = residency.activations.measured
        slots = config.resolved_inflight_items()
        self._slots = asyncio.Semaphore(slots)
        self._bulk_slots = asyncio.Semaphore(slots - max(slots // _RESERVED_SHARE, min(slots - 1, 1)))
        self.decoders = Decoders(threads, functools.partial(use_threads, 1), lambda: self.batcher.has_bulk_room)
        """The threads that decode, for the decoding of whole videos too."""
        self.batcher.has_taken = self.decoders.wake
        self._encoders: Encoders[Callable[[], None]] = Encoders(threads, lambda hand_over: hand_over())
        self._planner = Planner(config, residency.activations.on_growth)
        self._residency = residency
        self._loop = asyncio.get_running_loop()
        self.inflight_count = 0
        """Items that `run` has begun with and that are not answered."""
        self.item_count = 0
        """Items answered."""
        self.error_count = 0
        """Items answered with an error."""

    async def start(self, work: Callable[[], Coroutine[Any, Any, _T]], *, bulk: bool = False) -> asyncio.Task[_T]:
        """Start a task that works on one item, and calls `run` for it, once one of the slots is free.

        The slot is free again when the task is done, also where the task was cancelled before its first step. Bulk
        items never take the last slots.
        """
        if bulk:
            await self._bulk_slots.acquire()
        try:
            await self._slots.acquire()
        except BaseException:
            if bulk:
                self._bulk_slots.release()
            raise
        task = asyncio.create_task(work())
        task.add_done_callback(lambda _: self._free_slot(bulk))
        return task

    def _free_slot(self, bulk: bool) -> None:
        self._slots.release()
        if bulk:
            self._bulk_slots.release()

    async def run(self, spec: Spec, item: Item, encode: Encode[_Answer]) -> _Answer:
        """Run a model on one item. If the caller is cancelled, the item is dropped unless the device has begun with it.

        Args:
            spec: what to do with the item.
            item: what to run the model on.
            encode: makes the caller's answer. It is called in an encoding thread, or in the event loop where the model
                cannot be used.

        Returns:
            What `encode` returned.
        """
        try:
            use = await self._residency.acquire(spec.model)
        except ZoofleetError as error:
            return encode(error, spec.precision)
        # The use is the work's from here on: the device may need the model longer than the caller waits for the answer.
        work: _Work[_Answer] = _Work(use, spec, encode, self._loop.create_future())
        self.inflight_count += 1
        self.decoders.post(functools.partial(self._prepare, work, item), bulk=spec.bulk)
        try:
            return await work.answer
        except asyncio.CancelledError:
            work.cancel()
            raise

    def close(self) -> None:
        """Drop what waits, and finish what runs unless the device has been abandoned. Blocks until that is done."""
        self._planner.close()
        self.batcher.close()
        self.decoders.shutdown(wait=not self.batcher.is_abandoned, cancel_futures=True)
        self._encoders.close(wait=not self.batcher.is_abandoned)

    def _prepare(self, work: _Work[Any], item: Item) -> None:
        """Make the model's input, in a decoding thread, and hand it to the device."""
        try:
            if work.cancelled:
                raise CancelledError("cancelled before it was decoded")
            runner = work.use.runner
            prepared = item.prepare(runner, work.spec.options)
            if work.spec.precision is Precision.FAST:
                self._planner.ask(runner, runner.shape_class(prepared))
            entry = Entry(
                runner,
                runner.plan(work.spec.precision, prepared),
                prepared,
                lambda raw: self._encoders.post(functools.partial(self._finish, work, raw)),
                bulk=work.spec.bulk,
            )
            work.enter(entry)
            self.batcher.add(entry)
        except ZoofleetError as error:
            self._fail(work, error)
        except MemoryError:
            self._fail(work, ResourceExhaustedError("the worker has no memory for this item", retry_after=1.0))
        except Exception:  # noqa: BLE001 - one item must not end the others
            self._fail(work, fault("preprocessing"))

    def _finish(self, work: _Work[Any], raw: Raw | ZoofleetError) -> Callable[[], None]:
        """Make the caller's answer of what the device gave, in an encoding thread, and return what hands it over."""
        try:
            if isinstance(raw, ZoofleetError):
                raise raw
            entry = work.entry
            outcome = work.use.runner.finish(entry.prepared, raw, work.spec.options)
            answer = work.encode(outcome, entry.plan.precision)
        except ZoofleetError as error:
            return self._failure(work, error)
        except Exception:  # noqa: BLE001 - one item must not end the others
            return self._failure(work, fault("postprocessing"))
        return functools.partial(self._answered, work, answer)

    def _fail(self, work: _Work[Any], error: ZoofleetError) -> None:
        self._loop.call_soon_threadsafe(self._failure(work, error))

    def _failure(self, work: _Work[Any], error: ZoofleetError) -> Callable[[], None]:
        return functools.partial(self._failed, work, work.encode(error, work.spec.precision))

    def _failed(self, work: _Work[Any], answer: Any) -> None:
        self.error_count += 1
        self._answered(work, answer)

    def _answered(self, work: _Work[Any], answer: Any) -> None:
        self.inflight_count -= 1
        self.item_count += 1
        work.resolve(answer)
