"""The dispatcher's side of one worker: what it is given, what came of it, and what it refuses."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio
from google.rpc import status_pb2

from zoofleet import errors
from zoofleet._grpc import CHANNEL_OPTIONS
from zoofleet._status import error_result, to_status
from zoofleet.errors import (
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
from zoofleet.scheduler.records import Lease
from zoofleet.scheduler.task_stream import Chunk, StreamEnd, TaskStream

_log: Final = logging.getLogger(__name__)

_COMMIT_BYTES: Final = 8 * 1024 * 1024
"""Results of a chunk are committed early once they are this large."""

_MAX_BACKOFF: Final = 30.0
_QUARANTINE_PAUSE: Final = 10.0
"""Seconds until a worker that can run nothing of the quarantine looks into it again."""

_REDIS_RETRY: Final = 0.2

REFUSALS: Final = 3
"""Refusals after which a worker counts as unable to run a model."""

_TASK_ERRORS: Final = (
    errors.InvalidArgumentError,
    errors.NotFoundError,
    errors.UnimplementedError,
    errors.PermissionDeniedError,
    errors.FailedPreconditionError,
    errors.DataLossError,
)
"""What a worker says of a task that cannot run anywhere."""


@dataclass(slots=True)
class Quarantine:
    """Which link of this replica runs the items that must run alone; the others go on meanwhile."""

    holder: WorkerLink | None = None


@dataclass(slots=True)
class _Refusal:
    count: int = 0
    lasting: int = 0
    until: float = 0.0


class WorkerLink:
    """Keeps one worker supplied: a window of items in flight, so that it decodes the next batch while one runs.

    Args:
        worker: as of now; `update` brings later records.
        queue: where chunks come from and results go.
        config: limits and times.
        quarantine: shared by the links of a dispatcher.
        hopeless: whether no live worker is left that may run a model.
    """

    def __init__(
        self,
        worker: WorkerRecord,
        queue: Queue,
        config: SchedulerConfig,
        quarantine: Quarantine,
        hopeless: Callable[[str], bool],
    ) -> None:
        self.worker = worker
        self._queue = queue
        self._config = config
        self._quarantine = quarantine
        self._quarantine_pause = 0.0
        self._hopeless = hopeless
        # Not the channel of interactive calls: bulk items would fill its flow-control window.
        self._channel = grpc.aio.insecure_channel(
            worker.info.address, (*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1))
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
    def tokens(self) -> Collection[int]:
        """Tokens of the leases to renew."""
        return self._chunks.keys()

    def refusals(self, model: str) -> int:
        """How often the worker refused a model since it last ran it, for reasons that time alone may not mend."""
        refusal = self._refusals.get(model)
        return refusal.lasting if refusal is not None else 0

    def update(self, worker: WorkerRecord) -> None:
        """Take note of a heartbeat."""
        self.worker = worker
        self.wake()

    def wake(self) -> None:
        """Look for work, if there is room."""
        self._wake.set()

    def drop(self, tokens: Collection[int]) -> None:
        """Give up chunks whose leases are gone; streams that carry nothing else are cancelled to free the worker."""
        for token in tokens:
            chunk = self._chunks.pop(token, None)
            if chunk is None:
                continue
            stream = self._streams.get(chunk.lease.task)
            if stream is not None and token in stream.chunks:
                stream.forget(chunk)
                if not stream.chunks:
                    del self._streams[chunk.lease.task]
                    self._spawn(stream.cancel())
        self.wake()

    def drop_job(self, job_id: str) -> None:
        """Give up the chunks of a cancelled job."""
        self.drop([token for token, chunk in self._chunks.items() if chunk.lease.job_id == job_id])

    def close_idle(self) -> None:
        """End streams that had nothing to carry for a while."""
        patience = 0.0 if self.worker.draining else self._config.stream_idle
        for task, stream in list(self._streams.items()):
            if not stream.chunks and time.monotonic() - stream.idle_since >= patience:
                del self._streams[task]
                stream.half_close()

    async def drain(self, timeout: float) -> None:
        """Claim no more, wait for what is in flight, and hand back what is not done in time."""
        self._closed = True
        self.wake()
        await self._pumping
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self._chunks:
                    self._wake.clear()
                    await self._wake.wait()
        closing = asyncio.create_task(self.close(counts=False))
        await asyncio.wait({closing}, timeout=timeout)
        self.abandon()
        await closing

    def abandon(self) -> None:
        """Wait no longer for Redis: leases that could not be handed back expire."""
        self._chunks.clear()

    async def close(self, *, counts: bool) -> None:
        """End all streams and hand back what they carried.

        Args:
            counts: whether the items that the worker has seen may be to blame.
        """
        self._closed = True
        if self._quarantine.holder is self:
            self._quarantine.holder = None
        self._watching.cancel()
        self.wake()
        await self._pumping  # not cancelled: a claim whose answer is not read would be lost until its lease expires
        for stream in list(self._streams.values()):
            chunks = list(stream.chunks.values())
            await stream.cancel()
            for chunk in chunks:
                self._hand_back(chunk, counts=counts and chunk.sent)
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
            except UnavailableError:
                pass  # Redis is away; the sweep wakes us again
            except Exception:  # noqa: BLE001 - a worker must not sit idle for ever because of one fault
                _log.exception("a fault in claiming for %s", self.worker.name)

    async def _take_one(self) -> bool:
        """Claim a chunk and send it; returns whether to try for another one at once."""
        reachable = self._channel.get_state() is grpc.ChannelConnectivity.READY
        if self._closed or self.worker.draining or not reachable:
            if self._quarantine.holder is self:
                self._quarantine.holder = None
            return False
        alone = self._quarantine.holder is self
        room = 1 if alone else self._room()
        if room < 1 or (alone and self._chunks):
            return False
        now = time.monotonic()
        refused = [model for model, refusal in self._refusals.items() if refusal.until > now]
        claim = await self._queue.claim(
            self.worker.worker_id,
            room,
            builders=self.worker.builders,
            loaded=self.worker.loaded | {stream.task.model for stream in self._streams.values()},
            refused=refused,
            quarantine=alone,
        )
        if claim.lease is not None:
            self._send(claim.lease)
        elif alone:
            self._quarantine.holder = None
            self._quarantine_pause = now + _QUARANTINE_PAUSE
            return True
        if claim.quarantined and self._quarantine.holder is None and self._quarantine_pause <= now:
            self._quarantine.holder = self
            return True
        return claim.lease is not None

    def _room(self) -> int:
        """Items to claim now: none until a good part of a chunk fits, lest chunks crumble."""
        window = max(self.worker.info.max_inflight_items, 1)
        waiting = [item for chunk in self._chunks.values() for item in chunk.waiting.values()]
        room = window - len(waiting)
        if room < min(self._config.chunk_items, (window + 1) // 2):
            return 0
        if sum(len(item.data) for item in waiting) >= self._config.inflight_bytes:
            return 0
        return min(room, self._config.chunk_items)

    def _send(self, lease: Lease) -> None:
        chunk = Chunk(lease)
        self._chunks[lease.token] = chunk
        if self._closed:  # while Redis answered
            self._hand_back(chunk, counts=False)
            return
        stream = self._streams.get(lease.task)
        if stream is None:
            stream = TaskStream(self._channel, lease.task, self._on_result, self._on_end)
            self._streams[lease.task] = stream
        stream.send(chunk)

    def _on_result(self, chunk: Chunk) -> None:
        self._refusals.pop(chunk.model, None)
        if not chunk.waiting or chunk.ready_bytes >= _COMMIT_BYTES:
            self._spawn(self._commit(chunk))
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
                self._hand_back(chunk, counts=chunk.sent and not self.worker.draining)
        elif isinstance(end.error, _TASK_ERRORS) or self._refuse(model, end.error):
            for chunk in chunks:
                self._fail(chunk, end.error or UnavailableError("the worker ended the stream early"))
        else:
            fault = end.error if isinstance(end.error, InternalError) else None
            for chunk in chunks:
                self._hand_back(chunk, counts=fault is not None, status=to_status(fault) if fault else None)

    def _refuse(self, model: str, error: ZoofleetError | None) -> bool:
        """Leave the worker alone with this model for a while; returns whether no worker is left to wait for."""
        refusal = self._refusals.setdefault(model, _Refusal())
        lasting = isinstance(error, WeightsUnavailableError) or (
            isinstance(error, ResourceExhaustedError) and error.retry_after is None
        )
        refusal.lasting += lasting
        if lasting and self._hopeless(model):
            return True
        pause = min(self._config.refusal_backoff * 2 ** min(refusal.count, 10), _MAX_BACKOFF)
        refusal.count += 1
        refusal.until = time.monotonic() + pause
        return False

    def _fail(self, chunk: Chunk, error: ZoofleetError) -> None:
        for item in list(chunk.waiting.values()):
            chunk.settle(item, error_result(item.item_id, chunk.model, error))
        self._spawn(self._commit(chunk))

    def _hand_back(self, chunk: Chunk, *, counts: bool, status: status_pb2.Status | None = None) -> None:
        self._spawn(self._release(chunk, counts=counts, status=status))

    async def _release(self, chunk: Chunk, *, counts: bool, status: status_pb2.Status | None) -> None:
        await self._commit(chunk)  # what it did get results for need not run again
        while chunk.lease.token in self._chunks:
            try:
                await self._queue.release(chunk.lease.token, counts=counts, status=status)
                self._chunks.pop(chunk.lease.token, None)
            except UnavailableError:
                await asyncio.sleep(_REDIS_RETRY)
        self.wake()

    async def _commit(self, chunk: Chunk) -> None:
        """Commit what is ready, whatever time it takes: Redis may be away, and results are dear."""
        token = chunk.lease.token
        async with chunk.lock:
            outcomes, chunk.ready, chunk.ready_bytes = chunk.ready, [], 0
            while outcomes and token in self._chunks:
                try:
                    await self._queue.commit(token, outcomes)
                    outcomes = []
                except LeaseLostError as error:
                    _log.info("results of jobs/%s come too late: %s", chunk.lease.job_id, error)
                    self.drop([token])
                except UnavailableError:
                    await asyncio.sleep(_REDIS_RETRY)
            if not chunk.waiting and not chunk.ready:
                self._chunks.pop(token, None)
        self.wake()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
