"""One task over a stream of items, which outlives the connections that it runs on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Iterator, Sequence
from typing import Any

import grpc

from zoofleet._client.connection import taken
from zoofleet._client.items import ItemReader, ItemSource
from zoofleet._client.retry import Backoff
from zoofleet._values.results import Result
from zoofleet._values.tasks import Task
from zoofleet._wire.calls import Ending, typed_errors
from zoofleet._wire.kinds import TaskKind
from zoofleet._wire.limits import MAX_RESULT_BYTES, STREAM_WINDOW, STREAM_WINDOW_BYTES
from zoofleet._wire.parts import Joiner, cut, pack
from zoofleet.errors import InvalidArgumentError, UnavailableError, ZoofleetError
from zoofleet.v1 import vision_pb2


class VisionStream:
    """Sends items, keeps those that are not answered, and sends them again when the connection breaks.

    At most 64 items or 64 MiB of them (but one item always) are outstanding. Results wait in a short queue until they
    are taken, so that a slow caller slows the server down.

    Args:
        open_call: opens a call of the task's method.
        kind: the task's kind.
        task: the task to run on every item.
        sources: the items.
        retry_timeout: seconds without progress after which an error is raised. With 0, nothing is sent again.
    """

    def __init__(
        self,
        open_call: Callable[[], grpc.aio.StreamStreamCall[Any, Any]],
        kind: TaskKind,
        task: Task,
        sources: Iterable[ItemSource] | AsyncIterable[ItemSource],
        retry_timeout: float,
    ) -> None:
        self._open_call = open_call
        self._kind = kind
        self._task = task.to_proto()
        self._sources = sources
        self._backoff = Backoff(retry_timeout)
        self._exhausted = False
        self._outstanding: dict[str, vision_pb2.Item] = {}
        self._outstanding_bytes = 0
        self._room = asyncio.Event()
        self._results: asyncio.Queue[Result | None] = asyncio.Queue(maxsize=16)
        self._takes_batches = False
        """Whether the server of the present call has shown that it knows batches."""

    async def results(self) -> AsyncGenerator[Result]:
        """Yield the results, one for each item, as they become ready.

        Raises:
            ZoofleetError: the stream as a whole failed.
        """
        self._items = ItemReader(self._sources)
        driver = asyncio.create_task(self._drive())
        try:
            while (result := await self._results.get()) is not None:
                yield result
            await driver
        finally:
            while not self._results.empty():  # makes room for what the driver puts last
                self._results.get_nowait()
            driver.cancel()
            await asyncio.gather(driver, return_exceptions=True)
            await self._items.close()

    async def _drive(self) -> None:
        try:
            while not (self._exhausted and not self._outstanding):
                error = await self._session()
                if error is None and self._outstanding:
                    error = UnavailableError(f"the stream ended with {len(self._outstanding)} items unanswered")
                if error is not None:
                    await self._backoff.pause(error)
        finally:
            await self._results.put(None)

    async def _session(self) -> ZoofleetError | None:
        """Run one call until it ends, and return its error. Raise what reading the caller's items raises."""
        call = self._open_call()
        self._takes_batches = False
        writer, reader = asyncio.create_task(self._write(call)), asyncio.create_task(self._read(call))
        try:
            done, _ = await asyncio.wait((writer, reader), return_when=asyncio.FIRST_COMPLETED)
            if writer in done and not writer.cancelled():  # gRPC cancels it when the server ends the call
                writer.result()
            try:
                await reader
            except ZoofleetError as error:
                return error
            return None
        finally:
            writer.cancel()
            reader.cancel()
            call.cancel()
            await asyncio.gather(writer, reader, return_exceptions=True)

    async def _write(self, call: grpc.aio.StreamStreamCall[Any, Any]) -> None:
        try:
            await call.write(self._kind.request(task=self._task, accepts_batches=True))
            items = list(self._outstanding.values())
            while items or (items := await self._next()):
                for request in self._requests(items):
                    await call.write(request)
                items = []
            await call.done_writing()
        except (grpc.RpcError, asyncio.InvalidStateError):
            return  # the call has ended: the reader says why

    def _requests(self, items: Sequence[vision_pb2.Item]) -> Iterator[Any]:
        if self._takes_batches:
            yield from pack(self._kind.request, items)
        else:
            for item in items:
                yield from cut(self._kind.request, item)

    async def _next(self) -> list[vision_pb2.Item]:
        """Wait for room, and return the next items, which then count as outstanding. Return none after the last."""
        while not self._exhausted:
            while self._is_full:
                self._room.clear()
                await self._room.wait()
            self._exhausted = not await self._items.wait(STREAM_WINDOW - len(self._outstanding))
            items = []
            while self._items.ready and not self._is_full:
                item_id, item = self._items.ready[0]
                if isinstance(item, ZoofleetError):
                    await self._results.put(Result(item_id, self._task.model, item))
                elif item_id in self._outstanding:
                    raise InvalidArgumentError(f"item_id {item_id!r} is not unique in the stream")
                else:
                    self._outstanding[item_id] = item
                    self._outstanding_bytes += item.ByteSize()
                    items.append(item)
                self._items.ready.popleft()  # not before: a session that ends in between would lose it
            if items:
                return items
        return []

    @property
    def _is_full(self) -> bool:
        """Whether no further item may be sent before one is answered."""
        return bool(self._outstanding) and (
            len(self._outstanding) >= STREAM_WINDOW or self._outstanding_bytes >= STREAM_WINDOW_BYTES
        )

    async def _read(self, call: grpc.aio.StreamStreamCall[Any, Any]) -> None:
        joiner = Joiner(vision_pb2.Result, MAX_RESULT_BYTES)
        with typed_errors(Ending(call)):
            async for response in call:
                self._takes_batches |= response.HasField("batch")
                for result in taken(joiner, response):
                    await self._answer(result)

    async def _answer(self, proto: vision_pb2.Result) -> None:
        item = self._outstanding.get(proto.item_id)
        if item is None:
            return
        result = Result.from_proto(proto)
        await self._results.put(result)
        # Not before it is on its way: a session that ends in between would lose it.
        del self._outstanding[proto.item_id]
        self._outstanding_bytes -= item.ByteSize()
        self._room.set()
        self._backoff.progress()
