"""Calls of one item, which take turns on streams that stay open for a while.

Opening a stream costs client, scheduler and worker about a millisecond of CPU time each, an item on an open one a tenth
of that.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import grpc

from zoofleet._client.connection import taken
from zoofleet._client.retry import Backoff
from zoofleet._values.results import Result
from zoofleet._wire.calls import Ending, typed_errors
from zoofleet._wire.kinds import TaskKind
from zoofleet._wire.limits import MAX_RESULT_BYTES
from zoofleet._wire.parts import Joiner, cut
from zoofleet.errors import UnavailableError, ZoofleetError
from zoofleet.v1 import vision_pb2

_IDLE_SECONDS: Final = 1.0
"""How long a stream stays open without a call. It counts among the streams that a worker admits."""

_AGE_SECONDS: Final = 5.0
"""Age at which a stream takes no further call: it stays with its first worker, and servers that end wait for it."""


class SingleCalls:
    """Runs tasks on single items, each on a stream of the task that no other call uses at the time.

    So a call that is cancelled, or out of time, ends its stream, and with it the work of nobody else.

    Args:
        vision: the stub of the service `Vision`.
        retry_timeout: seconds without progress after which an error is raised. With 0, nothing is sent again.
    """

    def __init__(self, vision: Any, retry_timeout: float) -> None:
        self._vision = vision
        self._retry_timeout = retry_timeout
        self._idle: dict[tuple[TaskKind, bytes], list[_OpenStream]] = {}

    async def run(self, kind: TaskKind, task: vision_pb2.Task, item: vision_pb2.Item) -> Result:
        """Return the result of a task on one item.

        Raises:
            ZoofleetError: the stream as a whole failed.
        """
        key = kind, task.SerializeToString()
        backoff = Backoff(self._retry_timeout)
        while True:
            stream = self._take(key)
            is_used = stream is not None
            if stream is None:
                stream = _OpenStream(getattr(self._vision, kind.method)(), kind, task)
            try:
                result = await stream.ask(item)
            except ZoofleetError as error:
                stream.close()
                # One that has ended while it was idle says nothing of the server; a fresh one does.
                if not (is_used and isinstance(error, UnavailableError)):
                    await backoff.pause(error)
            except BaseException:
                stream.close()
                raise
            else:
                self._give_back(key, stream)
                return result

    def close(self) -> None:
        """End the streams that wait for a call."""
        for streams in self._idle.values():
            for stream in streams:
                stream.expiry.cancel()
                stream.close()
        self._idle.clear()

    def _take(self, key: tuple[TaskKind, bytes]) -> _OpenStream | None:
        streams = self._idle.get(key, [])
        while streams:
            stream = streams.pop()  # the one that was used last, so that those in excess grow idle
            stream.expiry.cancel()
            if not stream.has_ended:
                return stream
        return None

    def _give_back(self, key: tuple[TaskKind, bytes], stream: _OpenStream) -> None:
        loop = asyncio.get_running_loop()
        if stream.has_ended or loop.time() - stream.opened >= _AGE_SECONDS:
            stream.close()
            return
        streams = self._idle.setdefault(key, [])
        streams.append(stream)
        stream.expiry = loop.call_later(_IDLE_SECONDS, self._expire, key, stream)

    def _expire(self, key: tuple[TaskKind, bytes], stream: _OpenStream) -> None:
        stream.close()
        self._idle[key].remove(stream)
        if not self._idle[key]:
            del self._idle[key]


class _OpenStream:
    """A stream of one task, for one call at a time.

    Args:
        call: the stream, which has just been opened.
        kind: the kind of its task.
        task: the task.
    """

    expiry: asyncio.TimerHandle
    """Ends the stream when it has been idle for too long; set while it is idle."""

    def __init__(self, call: grpc.aio.StreamStreamCall[Any, Any], kind: TaskKind, task: vision_pb2.Task) -> None:
        self.opened = asyncio.get_running_loop().time()
        """When it was opened, by the loop's clock in seconds."""
        self._call = call
        self._ending = Ending(call)
        self._kind = kind
        self._task: vision_pb2.Task | None = task
        self._joiner = Joiner(vision_pb2.Result, MAX_RESULT_BYTES)
        self._item_count = 0

    @property
    def has_ended(self) -> bool:
        """Whether it cannot be used any more."""
        return self._call.done()

    def close(self) -> None:
        """End it, and what it has under way."""
        self._call.cancel()

    async def ask(self, item: vision_pb2.Item) -> Result:
        """Send an item, and return its result. The item's id is replaced by one that is unique in the stream.

        Raises:
            ZoofleetError: the stream has ended.
        """
        item.item_id = str(self._item_count)
        self._item_count += 1
        with typed_errors(self._ending):
            try:
                if self._task is not None:
                    await self._call.write(self._kind.request(task=self._task))
                    self._task = None
                for request in cut(self._kind.request, item):
                    await self._call.write(request)
            except (grpc.RpcError, asyncio.InvalidStateError):
                pass  # the stream has ended: reading says why
            while (response := await self._call.read()) is not grpc.aio.EOF:
                for result in taken(self._joiner, response):
                    return Result.from_proto(result)
        raise UnavailableError("the stream ended without a result")
