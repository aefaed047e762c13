"""One client's stream of items, spread over workers and joined again without a look into the media."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from zoofleet._catalog import ModelName
from zoofleet._wire.calls import Ending
from zoofleet._wire.kinds import TaskKind
from zoofleet._wire.limits import BATCH_ITEMS, MAX_ITEM_ID_BYTES, STREAM_WINDOW, STREAM_WINDOW_BYTES
from zoofleet._wire.parts import cut, pack
from zoofleet._wire.traffic import traffic_metadata
from zoofleet.scheduler.fleet import WorkerRecord
from zoofleet.scheduler.routing import Router, Share, WorkerLostError, losing
from zoofleet.v1 import vision_pb2

_log: Final = logging.getLogger(__name__)

_MAX_KEPT_BYTES: Final = STREAM_WINDOW_BYTES
"""Most bytes of a stream's items that are kept in case a further worker is lost; our client has no more under way."""

_MAX_ALL_KEPT_BYTES: Final = 256 * 1024 * 1024
"""Most bytes that all streams of this replica keep. Streams do not spread while it is used up."""

_LOOK_EVERY: Final = 0.05
"""Seconds between two looks for a further worker, each of which goes over the whole fleet."""

_FINAL: Final = frozenset({grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.DEADLINE_EXCEEDED})
"""Codes with which a worker refuses the client's messages or time. Any other worker would refuse them as well."""

Context: TypeAlias = grpc.aio.ServicerContext[bytes, bytes]


@dataclass(slots=True, eq=False)
class _Lane:
    """The part of the stream that goes to one worker.

    Attributes:
        worker: the worker.
        share: the worker's load from this stream.
        call: the call to the worker.
        ending: the status of the call once it has ended.
        keeps: whether the messages of an item are kept until the item is answered.
        outgoing: the messages to write; None half-closes the call. It is short, so that the worker's flow control
            reaches the client.
        unanswered: the items without a result by id, with their messages where those are kept.
        takes_batches: whether the worker has shown that it knows batches.
        is_closed: whether the call is half-closed.
        is_torn: whether the client has the beginning of a result and not its end.
    """

    worker: WorkerRecord
    share: Share
    call: grpc.aio.StreamStreamCall[bytes, bytes]
    ending: Ending
    keeps: bool
    outgoing: asyncio.Queue[bytes | None] = field(default_factory=lambda: asyncio.Queue(maxsize=2))
    unanswered: dict[str, list[bytes]] = field(default_factory=dict)
    takes_batches: bool = False
    is_closed: bool = False
    is_torn: bool = False

    def begin(self, item_id: str) -> None:
        """Count an item whose messages will follow."""
        if item_id not in self.unanswered:
            self.unanswered[item_id] = []
            self.share.add(1)


class SpreadStream:
    """A client's stream on its way to workers.

    The stream begins on one worker. While that one has more than a few items to do, further workers that have the model
    in memory take items as well: each item goes to the least loaded worker. A further worker that is lost takes nothing
    along, since its items are kept, within bounds, and go to the first worker. The stream ends with the first worker's
    call.

    Args:
        router: chooses the workers.
        kind: the kind of the stream's task, which decides its method.
        model: the model of the stream's task.
        first: the serialized message with the task.
        context: the client's call.
    """

    def __init__(self, router: Router, kind: TaskKind, model: ModelName, first: bytes, context: Context) -> None:
        self._router = router
        self._kind = kind
        self._models = (model,)
        self._task = first
        self._context = context
        self._lanes: list[_Lane] = []
        """The lanes that items go to; the first worker's is the first."""
        self._known: set[str] = set()
        """The ids of all workers that have or had a lane."""
        self._further: list[asyncio.Task[None]] = []
        self._kept_bytes = 0
        self._next_look = 0.0
        self._changed = asyncio.Event()
        """Set when a lane may have room again."""
        self._sending = asyncio.Lock()
        """Held from an item's first message to its last."""
        self._begun: _Lane | None = None
        """The lane that takes the remaining parts of an item."""
        self._writing = asyncio.Lock()
        """Held from a result's first message to its last."""

    async def run(self, requests: AsyncIterator[bytes]) -> None:
        """Serve the stream to its end.

        Raises:
            WorkerLostError: a worker has ended the stream.
            UnavailableError: no live worker can run the model.
        """
        worker = self._router.choose(self._models)
        with ExitStack() as self._stack:
            self._stack.callback(lambda: self._keep(-self._kept_bytes))
            try:
                async with asyncio.TaskGroup() as self._group:
                    self._open(worker)
                    await self._send(requests)
            except BaseExceptionGroup as group:
                raise group.exceptions[0] from None

    def _open(self, worker: WorkerRecord) -> None:
        """Open a call to a worker. All that belongs to it ends with this stream at the latest."""
        share = self._stack.enter_context(self._router.share(worker))
        channel, timeout = self._router.channel(worker), self._context.time_remaining()
        metadata = traffic_metadata(self._context.invocation_metadata())
        call: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream(self._kind.path)(
            timeout=timeout, metadata=metadata
        )
        self._stack.callback(call.cancel)
        lane = _Lane(worker, share, call, Ending(call), keeps=bool(self._lanes))
        self._lanes.append(lane)
        self._known.add(worker.worker_id)
        serving = self._group.create_task(self._serve(lane))
        if lane.keeps:
            _log.debug("a stream spreads to %s", worker.name)
            self._further.append(serving)

    async def _send(self, requests: AsyncIterator[bytes]) -> None:
        position = 0
        async for message in requests:
            request = self._parse(message)
            batch = [] if request is None or self._begun is not None else request.batch.items
            if 1 <= len(batch) <= BATCH_ITEMS:
                await self._send_batch(batch, position)
                position += len(batch)
                continue
            item_id, is_last, message = self._identify(request, message, position)
            if self._begun is None:
                await self._sending.acquire()
                # A message that is no item goes to the first worker, which refuses it.
                self._begun = self._lanes[0] if item_id is None else await self._roomy_lane()
                if item_id is not None:
                    self._begun.begin(item_id)
            if item_id is not None:
                self._remember(self._begun, item_id, message)
            await self._begun.outgoing.put(message)
            if is_last:
                position += 1
                self._begun = None
                self._sending.release()
        if self._begun is not None:
            await self._begun.outgoing.put(None)  # the worker refuses an item that is cut short
            return
        # The first lane is the last to close: it may still get the items of the others.
        for lane in self._lanes[1:]:
            await lane.outgoing.put(None)
        if self._further:
            await asyncio.wait(self._further)
        await self._lanes[0].outgoing.put(None)

    def _parse(self, message: bytes) -> Any:
        """Return the request, or None where the message is none."""
        try:
            return self._kind.request.FromString(message)
        except DecodeError:
            return None

    async def _send_batch(self, items: Sequence[vision_pb2.Item], position: int) -> None:
        """Give each item of a batch to the least loaded lane, and to each lane what it gets in as few messages."""
        async with self._sending:
            shares: dict[_Lane, list[vision_pb2.Item]] = {}
            for number, item in enumerate(items, position):
                lane = self._free_lane()
                if lane is None:
                    await self._send_shares(shares)
                    lane = await self._roomy_lane()
                item.item_id = item.item_id or str(number)
                if len(item.item_id) > MAX_ITEM_ID_BYTES:
                    lane = self._lanes[0]  # which refuses it
                else:
                    lane.begin(item.item_id)
                if lane.keeps:
                    for message in cut(self._kind.request, item):
                        self._remember(lane, item.item_id, message.SerializeToString())
                shares.setdefault(lane, []).append(item)
            await self._send_shares(shares)

    async def _send_shares(self, shares: dict[_Lane, list[vision_pb2.Item]]) -> None:
        for lane, items in shares.items():
            request = self._kind.request
            if lane.takes_batches:
                messages = pack(request, items)
            else:
                messages = (message for item in items for message in cut(request, item))
            for message in messages:
                if lane in self._lanes:  # else it is lost, and the first worker gets what it had
                    await lane.outgoing.put(message.SerializeToString())
        shares.clear()

    def _identify(self, request: Any, message: bytes, position: int) -> tuple[str | None, bool, bytes]:
        """Return the id of a message's item, whether it is the item's last message, and the message with the id in it.

        The id is None where the message is no item that a worker would take. An item without an id gets its position in
        the client's stream, since a worker would number the items of its own stream instead.
        """
        which = None if request is None else request.WhichOneof("message")
        if which not in ("item", "part"):
            return None, True, message
        named = getattr(request, which)
        if not named.item_id:
            named.item_id = str(position)
            message = request.SerializeToString()
        is_named = len(named.item_id) <= MAX_ITEM_ID_BYTES
        return named.item_id if is_named else None, which == "item" or named.last, message

    async def _roomy_lane(self) -> _Lane:
        """Wait until a lane takes an item, and return the least loaded one of those that do."""
        while (lane := self._free_lane()) is None:
            self._changed.clear()
            await self._changed.wait()
        return lane

    def _free_lane(self) -> _Lane | None:
        """Return the least loaded lane of those that take an item without waiting, None where there is none."""
        self._look_further()
        roomy = [lane for lane in self._lanes if self._has_room(lane)]
        if len(roomy) == 1:
            return roomy[0]
        return min(roomy, key=lambda lane: self._router.load(lane.worker), default=None)

    def _has_room(self, lane: _Lane) -> bool:
        """Return whether a lane takes an item without waiting."""
        may_keep = self._kept_bytes < _MAX_KEPT_BYTES and self._router.kept_bytes < _MAX_ALL_KEPT_BYTES
        is_free = not lane.outgoing.full() and len(lane.unanswered) < STREAM_WINDOW
        return is_free and (may_keep or not lane.keeps)

    def _remember(self, lane: _Lane, item_id: str, message: bytes) -> None:
        """Keep a message until its item is answered.

        Where a single item exceeds twice the limit, the lane keeps no more messages, and a loss of its worker ends
        the stream.
        """
        if lane.keeps and item_id in lane.unanswered:
            lane.unanswered[item_id].append(message)
            self._keep(len(message))
            if self._kept_bytes > 2 * _MAX_KEPT_BYTES:
                lane.keeps = False
                for messages in lane.unanswered.values():
                    self._keep(-sum(map(len, messages)))
                    messages.clear()

    def _keep(self, size: int) -> None:
        """Count `size` more bytes that are kept, or fewer where it is negative."""
        self._kept_bytes += size
        self._router.kept_bytes += size

    def _look_further(self) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._next_look:
            load = min(self._router.load(lane.worker) for lane in self._lanes)
            worker = self._router.further(self._models, load, self._known)
            if worker is not None:
                self._open(worker)
            self._next_look = now + _LOOK_EVERY

    async def _serve(self, lane: _Lane) -> None:
        writer = self._group.create_task(self._write(lane))
        try:
            await self._receive(lane)
        except WorkerLostError as lost:
            is_final = lost.error is not None and lost.error.code() in _FINAL
            if not lane.keeps or is_final or lane.is_torn or lane is self._begun:
                raise
            await self._replace(lane)
        finally:
            writer.cancel()

    async def _write(self, lane: _Lane) -> None:
        try:
            await lane.call.write(self._task)
            while (message := await lane.outgoing.get()) is not None:
                self._changed.set()
                await lane.call.write(message)
            lane.is_closed = True
            await lane.call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # the call has ended; whoever reads it learns why

    async def _receive(self, lane: _Lane) -> None:
        """Pass a worker's results on until it has answered everything.

        Raises:
            WorkerLostError: the call has ended before that.
        """
        with losing(lane.worker, lane.ending):
            responses = aiter(lane.call)
            async for message in responses:
                async with self._writing:
                    lane.is_torn = True
                    item_ids = await self._pass_on(lane, message)
                    while not item_ids:  # the parts of one result follow each other
                        item_ids = await self._pass_on(lane, await anext(responses))
                    lane.is_torn = False
                for item_id in item_ids:
                    self._answered(lane, item_id)
        if lane.unanswered or not lane.is_closed:
            raise WorkerLostError(lane.worker, None)

    def _answered(self, lane: _Lane, item_id: str) -> None:
        messages = lane.unanswered.pop(item_id, None)
        if messages is not None:
            self._keep(-sum(map(len, messages)))
            lane.share.add(-1)
        self._changed.set()

    async def _pass_on(self, lane: _Lane, message: bytes) -> list[str]:
        """Give the client a message, and return the ids of the results that it completes: none before the last part."""
        response = self._kind.response.FromString(message)
        await self._context.write(message)
        which = response.WhichOneof("message")
        if which == "batch":
            lane.takes_batches = True
            return [result.item_id for result in response.batch.results]
        if which == "part":
            return [response.part.item_id] if response.part.last else []
        return [response.result.item_id]

    async def _replace(self, lane: _Lane) -> None:
        """Give the first worker the items that a further worker has left unanswered."""
        _log.info("%s left a stream; %d items go elsewhere", lane.worker.name, len(lane.unanswered))
        self._lanes.remove(lane)
        lane.share.clear()
        while not lane.outgoing.empty():  # its messages are kept, and whoever waits to put one in goes on
            lane.outgoing.get_nowait()
        self._changed.set()
        first = self._lanes[0]
        for item_id, messages in lane.unanswered.items():
            async with self._sending:
                first.begin(item_id)
                for message in messages:
                    await first.outgoing.put(message)
                    self._keep(-len(message))
