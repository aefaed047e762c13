"""The dispatcher's side of one worker: the chunks that it is given, their results, and the models that it refuses."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio
from google.rpc import status_pb2

from zoofleet import errors
from zoofleet._catalog import ModelName
from zoofleet._serving.faults import fault
from zoofleet._wire.backoff import backoff
from zoofleet._wire.channels import CHANNEL_OPTIONS
from zoofleet._wire.status import error_result, to_status
from zoofleet.errors import (
    DataLossError,
    InternalError,
    LeaseLostError,
    ResourceExhaustedError,
    UnavailableError,
    WeightsUnavailableError,
    ZoofleetError,
)
from zoofleet.scheduler.config import SchedulerConfig
from zoofleet.scheduler.fleet import WorkerRecord
from zoofleet.scheduler.queue import Queue
from zoofleet.scheduler.records import Cause, Lease
from zoofleet.scheduler.task_stream import Chunk, StreamEnd, TaskStream

_log: Final = logging.getLogger(__name__)

_COMMIT_BYTES: Final = 8 * 1024 * 1024
"""Bytes of results from which on a chunk commits what it has before it is complete."""

_LONGEST_REFUSAL: Final = 30.0
"""Most seconds for which a worker is left alone with a model that it has refused."""

_FIRST_RETRY: Final = 0.2
_LONGEST_RETRY: Final = 2.0
"""Seconds between attempts at a step in Redis: the first pause and the longest."""

_TASK_ERRORS: Final = (
    errors.InvalidArgumentError,
    errors.NotFoundError,
    errors.UnimplementedError,
    errors.PermissionDeniedError,
    errors.FailedPreconditionError,
)
"""Errors with which a worker refuses a task that cannot run on any worker."""

_LOAD_ERRORS: Final = (WeightsUnavailableError, DataLossError)
"""Errors with which a worker says that it cannot load a model now: a mirror is away, or serves other bytes."""


@dataclass(slots=True)
class _Refusal:
    """The refusals of a model by this worker since it last gave a result of it.

    Attributes:
        pauses: the seconds for which the worker is left alone after each further refusal.
        until: when this pause ends, by `time.monotonic`.
        noted: whether Redis was told.
    """

    pauses: Iterator[float]
    until: float = 0.0
    noted: bool = False


class WorkerLink:
    """Keeps one worker supplied with a window of items, so that it decodes the next batch while one runs.

    Args:
        worker: the worker; `update` brings later records of it.
        queue: the queue that chunks come from and results go to.
        config: the scheduler's limits and times.
        able: returns the live workers that might run a model.
    """

    def __init__(
        self,
        worker: WorkerRecord,
        queue: Queue,
        config: SchedulerConfig,
        able: Callable[[ModelName], Sequence[WorkerRecord]],
    ) -> None:
        self.worker = worker
        self._queue = queue
        self._config = config
        self._able = able
        # Not the channel of interactive calls: bulk items would fill its flow-control window.
        self._channel = grpc.aio.insecure_channel(
            worker.address, (*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1))
        )
        self._streams: dict[bytes, TaskStream] = {}
        self._chunks: dict[int, Chunk] = {}
        self._refusals: dict[str, _Refusal] = {}
        self._wake = asyncio.Event()
        self._closed = False
        self._ending: set[asyncio.Task[None]] = set()
        self._pumping = asyncio.create_task(self._pump())
        self._watching = asyncio.create_task(self._watch_channel())

    @property
    def leases(self) -> list[tuple[Lease, bool]]:
        """The leases that must be renewed, each with whether the worker may have seen an item of it."""
        return [(chunk.lease, chunk.sent) for chunk in self._chunks.values()]

    def update(self, worker: WorkerRecord) -> None:
        """Take in a heartbeat: the worker's latest record."""
        self.worker = worker
        self.wake()

    def wake(self) -> None:
        """Look for work if the worker has room."""
        self._wake.set()

    def drop(self, tokens: Collection[int]) -> None:
        """Give up the chunks with these tokens, whose leases are gone.

        Streams that carry nothing else are cancelled, so that the worker does not work on for nobody.
        """
        for token in tokens:
            chunk = self._chunks.pop(token, None)
            if chunk is not None:
                self._detach(chunk)
        self.wake()

    def drop_job(self, job_id: str) -> None:
        """Give up the chunks of a cancelled job."""
        self.drop([token for token, chunk in self._chunks.items() if chunk.lease.job_id == job_id])

    def flush(self) -> None:
        """Commit what chunks have so far, so that readers see it and a crash of this process loses less."""
        for chunk in self._chunks.values():
            if chunk.ready:
                self._spawn(self._commit(chunk), chunk)

    def close_idle(self) -> None:
        """End the streams that have carried nothing for `stream_idle` seconds; at once where the worker drains."""
        patience = 0.0 if self.worker.draining else self._config.stream_idle
        for task, stream in list(self._streams.items()):
            if not stream.chunks and time.monotonic() - stream.idle_since >= patience:
                del self._streams[task]
                stream.half_close()

    async def drain(self, timeout: float) -> None:
        """Claim no more, wait up to `timeout` seconds for what is in flight, and hand the rest back."""
        self._closed = True
        self.wake()
        await self._pumping
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self._chunks:
                    self._wake.clear()
                    await self._wake.wait()
        closing = asyncio.create_task(self.close(Cause.INNOCENT))
        await asyncio.wait({closing}, timeout=timeout)
        self.abandon()
        await closing

    def abandon(self) -> None:
        """Stop waiting for Redis: leases that could not be handed back expire."""
        self._chunks.clear()

    async def close(self, cause: Cause) -> None:
        """End all streams and hand back what they carried.

        Args:
            cause: why the items come back that the worker may have seen.
        """
        self._closed = True
        self._watching.cancel()
        self.wake()
        await self._pumping  # not cancelled: a chunk whose claim is answered to nobody waits until its lease expires
        for stream in list(self._streams.values()):
            chunks = list(stream.chunks.values())
            await stream.cancel()
            for chunk in chunks:
                self._hand_back(chunk, cause if chunk.sent else Cause.INNOCENT)
        self._streams.clear()
        await asyncio.gather(self._watching, *self._ending, return_exceptions=True)
        await self._channel.close()

    async def _watch_channel(self) -> None:
        while True:
            state = self._channel.get_state(try_to_connect=True)
            self.wake()
            await self._channel.wait_for_state_change(state)

    async def _pump(self) -> None:
        while not self._closed:
            await self._wake.wait()
            self._wake.clear()
            try:
                while await self._take_one():
                    pass
            except ZoofleetError as error:  # the sweep wakes us again
                _log.warning("cannot claim for %s: %s", self.worker.name, error)
            except Exception:  # noqa: BLE001 - a worker must not sit idle for ever because of one fault
                _log.exception("a fault in claiming for %s", self.worker.name)

    async def _take_one(self) -> bool:
        """Claim a chunk and send it, and return whether to try for another one at once."""
        reachable = self._channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY
        room = self._room()
        if self._closed or self.worker.draining or not reachable or room < 1:
            return False
        now = time.monotonic()
        refused = [model for model, refusal in self._refusals.items() if refusal.until > now]
        lease = await self._queue.claim(
            self.worker.worker_id,
            room,
            builders=self.worker.builders,
            instance=self.worker.instance,
            window=self.worker.window,
            loaded=self.worker.loaded.keys() | {stream.task.model for stream in self._streams.values()},
            refused=refused,
        )
        if lease is not None:
            self._send(lease)
        return lease is not None

    def _room(self) -> int:
        """Return how many items to claim now.

        It is 0 until a whole chunk or half the window fits, so that chunks do not crumble into small ones.

        The script that claims checks the window as well, against what other replicas have given the worker. For it,
        too, the worker holds an item until its result is committed.
        """
        window = self.worker.window
        chunks = self._chunks.values()
        room = window - sum(len(chunk.lease.items) - chunk.committed for chunk in chunks)
        if room < min(self._config.chunk_items, (window + 1) // 2):
            return 0
        if sum(chunk.waiting_bytes for chunk in chunks) >= self._config.inflight_bytes:
            return 0
        return min(room, self._config.chunk_items)

    def _send(self, lease: Lease) -> None:
        chunk = Chunk(lease)
        self._chunks[lease.token] = chunk
        if self._closed:  # the link was closed while Redis answered
            self._hand_back(chunk, Cause.INNOCENT)
            return
        try:
            stream = self._streams.get(lease.task)
            if stream is None:
                stream = TaskStream(self._channel, lease.task, self._on_result, self._on_end)
                self._streams[lease.task] = stream
            stream.send(chunk)
        except Exception:  # noqa: BLE001 - what cannot be sent must come back, or its lease would be renewed for ever
            self._back_off(chunk.model)
            self._hand_back(chunk, Cause.FAULT, fault(f"sending a chunk of {chunk.model}"))

    def _on_result(self, chunk: Chunk) -> None:
        refusal = self._refusals.pop(chunk.model, None)
        if refusal is not None and refusal.noted:
            self._spawn(self._note_success(chunk.model), chunk)
        if not chunk.waiting or chunk.ready_bytes >= _COMMIT_BYTES:
            self._spawn(self._commit(chunk), chunk)
        self.wake()

    def _on_end(self, stream: TaskStream, end: StreamEnd) -> None:
        for task, open_stream in list(self._streams.items()):
            if open_stream is stream:
                del self._streams[task]
        if not stream.chunks:
            return
        chunks, model = list(stream.chunks.values()), stream.task.model
        _log.warning("%s ended a stream of %s: %s", self.worker.name, model, end.error or "early")
        if end.crashed:
            for chunk in chunks:
                innocent = self.worker.draining or not chunk.sent
                self._hand_back(chunk, Cause.INNOCENT if innocent else Cause.DIED)
        elif isinstance(end.error, _TASK_ERRORS):
            for chunk in chunks:
                self._fail(chunk, end.error)
        elif isinstance(end.error, InternalError):
            self._back_off(model)
            for chunk in chunks:
                self._hand_back(chunk, Cause.FAULT, end.error)
        else:
            refusal = self._back_off(model)
            for chunk in chunks:
                self._hand_back(chunk, Cause.INNOCENT)
            too_large = isinstance(end.error, ResourceExhaustedError) and end.error.retry_after is None
            if end.error is not None and (too_large or isinstance(end.error, _LOAD_ERRORS)):
                refusal.noted = True
                self._spawn(self._note_refusal(chunks[0], end.error), chunks[0])

    def _back_off(self, model: str) -> _Refusal:
        """Leave the worker alone with this model for a while, longer with each refusal."""
        first = _Refusal(backoff(self._config.refusal_backoff, _LONGEST_REFUSAL))
        refusal = self._refusals.setdefault(model, first)
        refusal.until = time.monotonic() + next(refusal.pauses)
        return refusal

    async def _note_refusal(self, chunk: Chunk, error: ZoofleetError) -> None:
        """Tell all replicas that this worker cannot load the model, which ends jobs that have waited for too long."""
        able = self._able(ModelName.parse(chunk.model))
        if any(chunk.model in worker.loaded for worker in able):
            return
        names = [worker.worker_id for worker in able]
        try:
            ended = await self._queue.refuse(chunk.lease, chunk.model, self.worker.worker_id, names, error)
        except ZoofleetError as away:
            _log.warning("a refusal of %s is not noted: %s", chunk.model, away)  # the next one will be
            return
        if ended:
            _log.error("%d jobs failed, none of %d workers could load %s: %s", ended, len(able), chunk.model, error)

    async def _note_success(self, model: str) -> None:
        """Tell all replicas that the model can be loaded after all."""
        try:
            await self._queue.accept(model)
        except ZoofleetError as away:
            _log.warning("that %s can be loaded is not noted: %s", model, away)

    def _fail(self, chunk: Chunk, error: ZoofleetError) -> None:
        for item in list(chunk.waiting.values()):
            chunk.settle(item, error_result(item.item_id, chunk.model, error))
        self._spawn(self._commit(chunk), chunk)

    def _hand_back(self, chunk: Chunk, cause: Cause, error: ZoofleetError | None = None) -> None:
        self._spawn(self._release(chunk, cause, to_status(error) if error else None), chunk)

    async def _release(self, chunk: Chunk, cause: Cause, status: status_pb2.Status | None = None) -> None:
        await self._commit(chunk)  # what it did get results for need not run again
        if await self._persist(chunk, lambda: self._queue.release(chunk.lease, cause, status)):
            self._chunks.pop(chunk.lease.token, None)
        self.wake()

    async def _commit(self, chunk: Chunk) -> None:
        """Commit the results that are ready, however long Redis is away: to compute them again would cost more."""
        token = chunk.lease.token
        async with chunk.lock:
            outcomes, chunk.ready, chunk.ready_bytes = chunk.ready, [], 0
            try:
                if outcomes:
                    await self._persist(chunk, lambda: self._queue.commit(chunk.lease, outcomes))
                    chunk.committed += len(outcomes)
            except LeaseLostError as error:
                _log.info("results of jobs/%s come too late: %s", chunk.lease.job_id, error)
                self.drop([token])
            except InternalError as error:
                # Redis would refuse the same results again and again.
                self._detach(chunk)
                status = to_status(error)
                await self._persist(chunk, lambda: self._queue.release(chunk.lease, Cause.FAULT, status))
                self._chunks.pop(token, None)
            if not chunk.waiting and not chunk.ready:
                self._chunks.pop(token, None)
        self.wake()

    async def _persist(self, chunk: Chunk, step: Callable[[], Awaitable[None]]) -> bool:
        """Take a step in Redis, and try it again while Redis is away or full.

        Returns:
            Whether the step was taken: it is not where the chunk was given up meanwhile.
        """
        pauses = backoff(_FIRST_RETRY, _LONGEST_RETRY)
        while chunk.lease.token in self._chunks:
            try:
                await step()
            except (UnavailableError, ResourceExhaustedError):
                await asyncio.sleep(next(pauses))
            else:
                return True
        return False

    def _detach(self, chunk: Chunk) -> None:
        """Send no more of a chunk, and cancel its stream if that carries nothing else, which frees the worker."""
        stream = self._streams.get(chunk.lease.task)
        if stream is not None and chunk.lease.token in stream.chunks:
            stream.forget(chunk)
            if not stream.chunks:
                del self._streams[chunk.lease.task]
                self._spawn(stream.cancel(), chunk)

    def _spawn(self, work: Coroutine[Any, Any, None], chunk: Chunk) -> None:
        """Run work for a chunk in the background. Where it fails, the chunk is given up, and its lease expires."""

        def ended(task: asyncio.Task[None]) -> None:
            self._ending.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                _log.error("gave up a chunk of jobs/%s for %s", chunk.lease.job_id, self.worker.name, exc_info=error)
                self.drop([chunk.lease.token])

        task = asyncio.create_task(work)
        self._ending.add(task)
        task.add_done_callback(ended)
