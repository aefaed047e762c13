"""A long-lived `Vision` stream to a worker, over which the chunks of one task travel."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
import grpc.aio

from zoofleet._catalog import ModelName
from zoofleet._serving.faults import fault
from zoofleet._wire.calls import Ending
from zoofleet._wire.kinds import kind_of
from zoofleet._wire.parts import Joiner, cut, pack
from zoofleet._wire.status import DETAILS_KEY, error_result, from_rpc_error
from zoofleet._wire.traffic import BULK_METADATA
from zoofleet.errors import InternalError, ItemTooLargeError, UnavailableError, ZoofleetError
from zoofleet.scheduler.records import Lease, LeasedItem, ReadyResult
from zoofleet.v1 import vision_pb2

_log: Final = logging.getLogger(__name__)

_MAX_RESULT_BYTES: Final = 256 * 1024 * 1024
"""Most bytes of one result of a job. It becomes one value in Redis, which takes 512 MiB at most."""

_TRANSPORT_CODES: Final = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}
)
"""Codes that gRPC itself reports where the other side is gone."""


@dataclass(slots=True, eq=False)
class Chunk:
    """A leased chunk on its way through a worker.

    Attributes:
        lease: the chunk's lease.
        model: the model of its task.
        waiting: its items that have no result yet, by index.
        waiting_bytes: the size of those items together.
        committed: the number of results that are committed.
        ready: the results to commit.
        ready_bytes: the size of those results together.
        sent: whether the worker may have seen an item of it.
        lock: held while results are committed, so that commits follow one another.
    """

    lease: Lease
    model: str = field(init=False)
    waiting: dict[int, LeasedItem] = field(init=False)
    waiting_bytes: int = field(init=False)
    committed: int = 0
    ready: list[ReadyResult] = field(default_factory=list)
    ready_bytes: int = 0
    sent: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self.model = vision_pb2.Task.FromString(self.lease.task).model
        self.waiting = {item.index: item for item in self.lease.items}
        self.waiting_bytes = sum(len(item.data) for item in self.lease.items)

    def settle(self, item: LeasedItem, result: vision_pb2.Result) -> None:
        """Note an item's result, and give it the item's own id."""
        del self.waiting[item.index]
        self.waiting_bytes -= len(item.data)
        result.item_id = item.item_id
        outcome = ReadyResult(item.index, result.HasField("error"), result.SerializeToString())
        self.ready.append(outcome)
        self.ready_bytes += len(outcome.data)


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """Why a stream has ended.

    Attributes:
        error: the error with which the worker ended it, or None where it ended well.
        crashed: whether the connection broke before the worker could give a reason.
    """

    error: ZoofleetError | None
    crashed: bool = False


class TaskStream:
    """A stream of one task to one worker.

    Args:
        channel: the channel to the worker.
        task: the resolved task, serialized.
        on_result: called with the chunk for each result that a chunk gets.
        on_end: called once when the stream has ended, unless it was cancelled.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        task: bytes,
        on_result: Callable[[Chunk], None],
        on_end: Callable[[TaskStream, StreamEnd], None],
    ) -> None:
        self.task = vision_pb2.Task.FromString(task)
        self.chunks: dict[int, Chunk] = {}
        """Chunks with items that have no result yet, by token."""
        self.idle_since = time.monotonic()
        """When the last chunk was done, by `time.monotonic`; without meaning while there are chunks."""
        self._kind = kind_of(ModelName.parse(self.task.model))
        self._on_result = on_result
        self._on_end = on_end
        self._outgoing: deque[tuple[Chunk, LeasedItem]] = deque()
        self._is_half_closed = False
        self._takes_batches = False
        """Whether the worker has shown that it knows batches."""
        self._changed = asyncio.Event()
        """Set when there is more to send, or nothing more will come."""
        self._numbers = itertools.count()
        self._expected: dict[str, tuple[Chunk, LeasedItem]] = {}
        self._fault: InternalError | None = None
        """What kept the writer from sending, which the reader reports when the call has ended."""
        self._call: grpc.aio.StreamStreamCall[Any, Any] = channel.stream_stream(
            self._kind.path,
            request_serializer=self._kind.request.SerializeToString,
            response_deserializer=self._kind.response.FromString,
        )(metadata=BULK_METADATA)
        self._ending = Ending(self._call)
        self._writer = asyncio.create_task(self._write())
        self._reader = asyncio.create_task(self._read())

    def send(self, chunk: Chunk) -> None:
        """Send a chunk's items, as fast as the worker takes them. Returns at once."""
        self.chunks[chunk.lease.token] = chunk
        self._outgoing.extend((chunk, item) for item in chunk.lease.items)
        self._changed.set()

    def forget(self, chunk: Chunk) -> None:
        """Send no more of a chunk, and ignore its results."""
        if self.chunks.pop(chunk.lease.token, None) is not None:
            self.idle_since = time.monotonic()
            if chunk.waiting:  # their bytes need not wait for the worker's answers
                self._expected = {key: sent for key, sent in self._expected.items() if sent[0] is not chunk}

    def half_close(self) -> None:
        """End the stream once all that was sent is answered."""
        self._is_half_closed = True
        self._changed.set()

    async def cancel(self) -> None:
        """End the stream at once, without a call of `on_end`."""
        self._reader.cancel()
        self._writer.cancel()
        self._call.cancel()
        await asyncio.gather(self._reader, self._writer, return_exceptions=True)

    async def _write(self) -> None:
        try:
            await self._call.wait_for_connection()
            await self._call.write(self._kind.request(task=self.task, accepts_batches=True))
            while self._outgoing or not self._is_half_closed:
                self._changed.clear()
                for request in self._requests():
                    await self._call.write(request)
                if not self._is_half_closed:
                    await self._changed.wait()
            await self._call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # the stream has ended; the reader learns why
        except Exception:  # noqa: BLE001 - what cannot be sent must come back
            self._fault = fault(f"sending a chunk of {self.task.model}")
            self._call.cancel()

    def _requests(self) -> Iterator[Any]:
        """Yield the messages for all that is to be sent, also for what comes to that meanwhile."""
        if self._takes_batches:
            return pack(self._kind.request, self._items())
        return (request for item in self._items() for request in cut(self._kind.request, item))

    def _items(self) -> Iterator[vision_pb2.Item]:
        while self._outgoing:
            chunk, leased = self._outgoing.popleft()
            if chunk.lease.token not in self.chunks:
                continue
            item = vision_pb2.Item.FromString(leased.data)
            # Several chunks share the stream, and item ids are unique in their job only.
            item.item_id = str(next(self._numbers))
            self._expected[item.item_id] = chunk, leased
            chunk.sent = True
            yield item

    async def _read(self) -> None:
        joiner = Joiner(vision_pb2.Result, _MAX_RESULT_BYTES)
        try:
            async for response in self._call:
                self._takes_batches |= response.HasField("batch")
                for wire_id, result in joiner.take(response):
                    self._settle(wire_id, result)
            end = StreamEnd(None)
        except grpc.aio.AioRpcError as raised:
            error = self._ending.restore(raised)
            if self._fault is not None:
                end = StreamEnd(self._fault)
            elif any(key == DETAILS_KEY for key, _ in error.trailing_metadata() or ()):
                end = StreamEnd(from_rpc_error(error))
            else:  # gRPC says this, or whatever listens there now, but not a worker
                lost = UnavailableError(f"{error.code().name}: {error.details()}")
                end = StreamEnd(lost, crashed=error.code() in _TRANSPORT_CODES)
        except asyncio.CancelledError:
            if self._fault is None:  # else it was the writer that ended the call
                raise
            end = StreamEnd(self._fault)
        except ZoofleetError as error:
            self._call.cancel()
            _log.error("a worker broke the contract: %s", error)
            end = StreamEnd(InternalError(f"a worker broke the contract: {error}"))
        except Exception:  # noqa: BLE001 - what cannot be read must run again
            self._call.cancel()
            end = StreamEnd(fault(f"reading results of {self.task.model}"))
        self._writer.cancel()
        self._on_end(self, end)

    def _settle(self, wire_id: str, result: vision_pb2.Result | ItemTooLargeError) -> None:
        if isinstance(result, ItemTooLargeError):
            result = error_result(wire_id, self.task.model, result)
        expected = self._expected.pop(wire_id, None)
        if expected is None:
            return  # of a chunk that was given up
        chunk, item = expected
        chunk.settle(item, result)
        if not chunk.waiting:
            self.forget(chunk)
        self._on_result(chunk)
