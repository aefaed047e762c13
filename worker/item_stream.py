"""One stream of items: from messages to values, through the pipeline, and back to messages."""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc.aio

from zoofleet._serving.faults import fault
from zoofleet._wire.limits import MAX_ITEM_ID_BYTES
from zoofleet._wire.parts import Joiner, completed, cut, pack
from zoofleet.errors import InvalidArgumentError, ItemTooLargeError, UnavailableError, ZoofleetError
from zoofleet.v1 import vision_pb2
from zoofleet.worker.config import WorkerConfig
from zoofleet.worker.fetch import fetch
from zoofleet.worker.items import EncodedItem
from zoofleet.worker.pipeline import Pipeline
from zoofleet.worker.vision_task import VisionTask

__all__ = ["ItemStream"]


class ItemStream:
    """Reads items, has them worked on, and writes results as they are ready.

    Args:
        config: the worker's settings, for its limits.
        pipeline: does the work; items of all streams share it.
        task: what to do with each item.
        context: the call that results are written to.
        takes_batches: whether the client takes several results in one message.
    """

    def __init__(
        self,
        config: WorkerConfig,
        pipeline: Pipeline,
        task: VisionTask,
        context: grpc.aio.ServicerContext[Any, Any],
        *,
        takes_batches: bool,
    ) -> None:
        self._config = config
        self._pipeline = pipeline
        self._task = task
        self._context = context
        self._takes_batches = takes_batches
        self._results: deque[vision_pb2.Result] = deque()
        """Results that are not written yet."""
        self._changed = asyncio.Event()
        """Set when there are results, or nothing more is read."""
        # Taken when an item is read, given back when its result is written; they end with the stream.
        self._slots = asyncio.Semaphore(config.resolved_stream_items())
        self._items: set[asyncio.Task[None]] = set()
        self._open_count = 0
        """Items read and not answered yet."""

    async def run(self, requests: AsyncIterator[Any], draining: asyncio.Event) -> None:
        """Serve the stream to its end.

        Args:
            requests: the messages after the first one.
            draining: no more items are read once it is set.

        Raises:
            InvalidArgumentError: a message is no item, nor a part of one.
            UnavailableError: the worker drains, and everything that was read is answered.
        """
        reader = asyncio.create_task(self._read(requests))
        drained = asyncio.create_task(draining.wait())
        reader.add_done_callback(lambda _: self._changed.set())
        drained.add_done_callback(lambda _: reader.cancel())
        try:
            while not reader.done() or self._open_count:
                await self._changed.wait()
                self._changed.clear()
                await self._write_results()
                if reader.done() and not reader.cancelled():
                    reader.result()
            if reader.cancelled():
                raise UnavailableError("the worker is draining")
        finally:
            # Nobody reads the results any more: what waits is dropped before it runs.
            for pending in (reader, drained, *self._items):
                pending.cancel()

    async def _read(self, requests: AsyncIterator[Any]) -> None:
        joiner = Joiner(vision_pb2.Item, self._config.max_item_bytes)
        position = 0
        async for message in requests:
            for item_id, item in joiner.take(message):
                await self._slots.acquire()
                work = await self._pipeline.start(
                    functools.partial(self._answer, item_id or str(position), item), bulk=self._task.bulk
                )
                self._open_count += 1
                self._items.add(work)
                work.add_done_callback(self._items.discard)
                position += 1
        joiner.finish()

    async def _answer(self, item_id: str, item: vision_pb2.Item | ItemTooLargeError) -> None:
        try:
            if isinstance(item, ItemTooLargeError):
                raise item
            if len(item_id.encode()) > MAX_ITEM_ID_BYTES:
                raise InvalidArgumentError(
                    f"an item_id of {len(item_id.encode())} bytes; accepted: {MAX_ITEM_ID_BYTES}"
                )
            result = await self._task.run(self._pipeline, item_id, await self._encoded(item))
        except ZoofleetError as error:
            result = self._task.failed(item_id, error)
        except Exception:  # noqa: BLE001 - one item must not end the others
            result = self._task.failed(item_id, fault("an item"))
        self._results.append(result)
        self._changed.set()

    async def _encoded(self, item: vision_pb2.Item) -> EncodedItem:
        """Check an item, and fetch those of its media that are given by URI."""
        kind = self._task.kind
        if len(item.media) != kind.media_count:
            raise InvalidArgumentError(f"{len(item.media)} media in an item; {kind.method} takes {kind.media_count}")
        return EncodedItem([await self._bytes_of(media) for media in item.media])

    async def _bytes_of(self, media: vision_pb2.Media) -> bytes:
        limit = self._config.max_item_bytes
        which = media.WhichOneof("source")
        if which == "uri":
            return await asyncio.to_thread(fetch, media.uri, self._config.uri_prefixes, limit)
        if which is None:
            raise InvalidArgumentError("a media without data or uri")
        if len(media.data) > limit:
            raise ItemTooLargeError(f"{len(media.data)} bytes; accepted: at most {limit} bytes an item")
        return media.data

    async def _write_results(self) -> None:
        """Write the results that are ready, several in a message where the client takes that."""
        response = self._task.kind.response
        if self._takes_batches:
            messages = pack(response, self._ready())
        else:
            messages = (message for result in self._ready() for message in cut(response, result))
        for message in messages:
            await self._context.write(message)
            for _ in range(completed(message)):
                self._open_count -= 1
                self._slots.release()

    def _ready(self) -> Iterator[vision_pb2.Result]:
        """Take the results that are ready out one by one, also those that become ready meanwhile."""
        while self._results:
            yield self._results.popleft()
