"""An item's way through the worker: decode and preprocess, batch, forward, postprocess and encode."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from zoofleet._catalog import ModelName
from zoofleet._serving.faults import fault
from zoofleet._wire.status import error_result
from zoofleet.errors import CancelledError, ResourceExhaustedError, ZoofleetError
from zoofleet.v1 import vision_pb2
from zoofleet.worker.batcher import Batcher, Entry, use_threads
from zoofleet.worker.config import WorkerConfig
from zoofleet.worker.residency import Lease, Residency
from zoofleet.worker.runner import Prepared, Raw, Runner, set_outcome

__all__ = ["Pipeline"]

_T = TypeVar("_T")


class _Work:
    """An item on its way; `result` resolves to its result, which may carry an error."""

    __slots__ = ("_cancelled", "arrived", "entry", "item_id", "lease", "result", "task")

    def __init__(
        self,
        lease: Lease,
        task: vision_pb2.Task,
        item_id: str,
        result: asyncio.Future[vision_pb2.Result],
        arrived: float,
    ) -> None:
        self.lease = lease
        self.task = task
        self.item_id = item_id
        self.result = result
        self.arrived = arrived
        self.entry: Entry | None = None
        self._cancelled = False

    @property
    def cancelled(self) -> bool:
        """Whether nobody wants the result any more."""
        return self._cancelled

    def cancel(self) -> None:
        """Drop the item unless it is running already."""
        self._cancelled = True
        if self.entry is not None:
            self.entry.cancelled = True


class Pipeline:
    """Decoding threads, the device's thread and encoding threads, each handing on to the next without the event loop.

    Slots bound the items that wait for the decoders, the batcher bounds the bytes that wait for the device. To be made,
    and submitted to, in the event loop.
    """

    def __init__(self, config: WorkerConfig, residency: Residency) -> None:
        threads = config.resolved_decode_threads()
        self.batcher = Batcher(config.resolved_threads(), config.max_prepared_bytes)
        self._slots = asyncio.Semaphore(config.max_inflight_items)
        self.decoders = ThreadPoolExecutor(threads, "decode", initializer=use_threads, initargs=(1,))
        """For the decoding of videos too."""
        self._encoders = ThreadPoolExecutor(threads, "encode", initializer=use_threads, initargs=(1,))
        self._residency = residency
        self._loop = asyncio.get_running_loop()
        self.inflight_count = 0
        """Items submitted and not resolved."""
        self.item_count = 0
        """Items resolved."""
        self.error_count = 0
        """Items resolved with an error."""

    async def start(self, work: Callable[[], Coroutine[Any, Any, _T]]) -> asyncio.Task[_T]:
        """Start a task that works on one item, and calls `run` for it, once one of the slots is free.

        The slot is free again when the task is done, also where the task was cancelled before its first step.
        """
        await self._slots.acquire()
        task = asyncio.create_task(work())
        task.add_done_callback(lambda _: self._slots.release())
        return task

    async def run(
        self,
        model: ModelName,
        task: vision_pb2.Task,
        item_id: str,
        prepare: Callable[[Runner], Prepared],
    ) -> vision_pb2.Result:
        """Run one item. If the caller is cancelled, the item is dropped unless the device has begun with it.

        Args:
            model: the task's.
            task: resolved.
            item_id: of the result.
            prepare: called in a decoding thread.

        Returns:
            The item's result, which may carry an error.
        """
        arrived = time.monotonic()
        try:
            lease = await self._residency.acquire(model)
        except ZoofleetError as error:
            return error_result(item_id, task.model, error)
        # The lease is the work's from here on: the device may have it longer than the caller waits for the result.
        work = _Work(lease, task, item_id, self._loop.create_future(), arrived)
        self.inflight_count += 1
        self.decoders.submit(self._prepare, work, prepare)
        try:
            return await work.result
        except asyncio.CancelledError:
            work.cancel()
            raise

    def close(self) -> None:
        """Drop what waits, finish what runs, unless the device has been abandoned. Blocks."""
        self.batcher.close()
        for threads in (self.decoders, self._encoders):
            threads.shutdown(wait=not self.batcher.is_abandoned, cancel_futures=True)

    def _prepare(self, work: _Work, prepare: Callable[[Runner], Prepared]) -> None:
        try:
            if work.cancelled:
                raise CancelledError("cancelled before it was decoded")
            prepared = prepare(work.lease.runner)

            def forwarded(raw: Raw | ZoofleetError) -> None:
                self._encoders.submit(self._finish, work, prepared, raw)

            work.entry = Entry(work.lease.runner, prepared, forwarded)
            work.entry.cancelled = work.cancelled
            self.batcher.add(work.entry)
        except ZoofleetError as error:
            self._fail(work, error)
        except MemoryError:
            self._fail(work, ResourceExhaustedError("the worker has no memory for this item", retry_after=1.0))
        except Exception:  # noqa: BLE001 - one item must not end the others
            self._fail(work, fault("preprocessing"))

    def _finish(self, work: _Work, prepared: Prepared, raw: Raw | ZoofleetError) -> None:
        try:
            if isinstance(raw, ZoofleetError):
                raise raw
            result = vision_pb2.Result(item_id=work.item_id, model=work.task.model, precision=work.task.precision)
            set_outcome(result, work.lease.runner.finish(prepared, raw, work.task), work.task)
        except ZoofleetError as error:
            self._fail(work, error)
        except Exception:  # noqa: BLE001 - one item must not end the others
            self._fail(work, fault("postprocessing"))
        else:
            self._resolve(work, result)

    def _fail(self, work: _Work, error: ZoofleetError) -> None:
        self._resolve(work, error_result(work.item_id, work.task.model, error))

    def _resolve(self, work: _Work, result: vision_pb2.Result) -> None:
        result.duration.FromNanoseconds(int((time.monotonic() - work.arrived) * 1e9))
        self._loop.call_soon_threadsafe(self._resolved, work, result)

    def _resolved(self, work: _Work, result: vision_pb2.Result) -> None:
        work.lease.release()
        self.inflight_count -= 1
        self.item_count += 1
        self.error_count += result.HasField("error")
        if not work.result.done():
            work.result.set_result(result)
