"""The ways in which requests are sent: as calls, on long streams, and as jobs."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress

from zoofleet._client.async_client import AsyncClient
from zoofleet._client.items import Item, ItemSource, MediaSource
from zoofleet._values.results import Result
from zoofleet._values.tasks import Task
from zoofleet.errors import UnavailableError, ZoofleetError

__all__ = ["Calls", "Jobs", "Sender", "Streams"]


class Sender(ABC):
    """A way to send requests."""

    @abstractmethod
    async def send(self, turn: int) -> Sequence[Result]:
        """Send a request, and wait for its results.

        Args:
            turn: the request's number from 0, which chooses its media.

        Raises:
            ZoofleetError: the request failed as a whole.
        """

    async def close(self) -> None:  # noqa: B027 - most have nothing open
        """End what is still open."""


class _TaskSender(Sender):
    """A sender of items for a task.

    Args:
        client: the client. It should not repeat calls: errors are to be counted.
        task: the task to run.
        media: what it is run on, in turn.
    """

    def __init__(self, client: AsyncClient, task: Task, media: Sequence[ItemSource]) -> None:
        self._client = client
        self._task = task
        self._media = media

    def _of(self, turn: int) -> ItemSource:
        return self._media[turn % len(self._media)]


class Calls(_TaskSender):
    """Each request is a call of its own with one item."""

    async def send(self, turn: int) -> Sequence[Result]:
        """Send one item."""
        return [result async for result in self._client.stream(self._task, [self._of(turn)])]


class Streams(_TaskSender):
    """Each request is an item of a stream that stays open.

    Args:
        count: number of streams, which take turns.
    """

    def __init__(self, client: AsyncClient, task: Task, media: Sequence[ItemSource], count: int) -> None:
        super().__init__(client, task, media)
        self._streams = [_Stream(client, task) for _ in range(count)]

    async def send(self, turn: int) -> Sequence[Result]:
        """Send one item."""
        return [await self._streams[turn % len(self._streams)].send(self._of(turn), str(turn))]

    async def close(self) -> None:
        """End the streams."""
        for stream in self._streams:
            await stream.close()


class _Stream:
    """A stream that is opened again after it has failed."""

    def __init__(self, client: AsyncClient, task: Task) -> None:
        self._client = client
        self._task = task
        self._items: asyncio.Queue[Item] = asyncio.Queue()
        self._waiting: dict[str, asyncio.Future[Result]] = {}
        self._reader: asyncio.Task[None] | None = None

    async def send(self, media: ItemSource, item_id: str) -> Result:
        if self._reader is None:
            self._reader = asyncio.create_task(self._read())
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting[item_id] = future
        self._items.put_nowait(Item(_media(media), item_id))
        return await future

    async def close(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            with suppress(asyncio.CancelledError):
                await self._reader

    async def _read(self) -> None:
        failure: ZoofleetError = UnavailableError("the stream ended")
        try:
            async for result in self._client.stream(self._task, self._sources()):
                future = self._waiting.pop(result.item_id)
                if not future.done():
                    future.set_result(result)
        except ZoofleetError as error:
            failure = error
        finally:
            self._reader = None
            # What was not sent yet fails too: the next stream begins empty.
            self._items = asyncio.Queue()
            waiting, self._waiting = self._waiting, {}
            for future in waiting.values():
                if not future.done():
                    future.set_exception(failure)

    async def _sources(self) -> AsyncGenerator[Item]:
        while True:
            yield await self._items.get()


def _media(source: ItemSource) -> MediaSource | tuple[MediaSource, MediaSource]:
    """Return an item's media without its id."""
    return source.media if isinstance(source, Item) else source


class Jobs(_TaskSender):
    """Each request is a job, which is deleted once its results are read.

    Args:
        item_count: items of each job.
    """

    def __init__(self, client: AsyncClient, task: Task, media: Sequence[ItemSource], item_count: int) -> None:
        super().__init__(client, task, media)
        self._item_count = item_count

    async def send(self, turn: int) -> Sequence[Result]:
        """Send a job, and read its results."""
        first = turn * self._item_count
        items = [Item(_media(self._of(first + k)), str(k)) for k in range(self._item_count)]
        job = await self._client.create_job(items, [self._task])
        try:
            return [result async for result in self._client.read_results(job.name)]
        finally:
            with suppress(ZoofleetError):  # the job has finished, unless this task was cancelled
                await self._client.cancel_job(job.name)
            with suppress(ZoofleetError):
                await self._client.delete_job(job.name)
