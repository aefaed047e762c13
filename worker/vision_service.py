"""The `Vision` service: streams of items, and whole videos."""

from __future__ import annotations

import asyncio
import functools
import io
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
import grpc.aio
from PIL import Image

from zoofleet._catalog import ModelName
from zoofleet._media.images import decode_image
from zoofleet._media.videos import sampled
from zoofleet._serving.faults import fault
from zoofleet._serving.handlers import aborting
from zoofleet._wire import kinds
from zoofleet._wire.kinds import TASK_KINDS, TaskKind
from zoofleet._wire.parts import MAX_ITEM_ID_BYTES, PART_BYTES, Assembler, split
from zoofleet._wire.status import error_result
from zoofleet.errors import (
    InvalidArgumentError,
    ItemTooLargeError,
    ResourceExhaustedError,
    UnavailableError,
    ZoofleetError,
)
from zoofleet.v1 import vision_pb2
from zoofleet.worker.config import WorkerConfig
from zoofleet.worker.draining import unless_draining
from zoofleet.worker.fetch import fetch
from zoofleet.worker.pipeline import Pipeline
from zoofleet.worker.residency import Residency
from zoofleet.worker.runner import Prepared, Runner
from zoofleet.worker.video_analysis import VideoAnalysis

__all__ = ["VisionService"]

_Context = grpc.aio.ServicerContext[Any, Any]


class VisionService:
    """Runs models over what clients stream in.

    Args:
        config: limits.
        pipeline: does the work.
        residency: has the models.
        draining: once set, no further streams and items are taken; those with nothing in flight end.
    """

    def __init__(self, config: WorkerConfig, pipeline: Pipeline, residency: Residency, draining: asyncio.Event) -> None:
        self._config = config
        self._pipeline = pipeline
        self._residency = residency
        self._draining = draining
        self._streams: set[asyncio.Task[Any]] = set()
        self._failure: ZoofleetError | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    async def ended(self) -> None:
        """Return once no stream is open."""
        await self._idle.wait()

    def fail(self, error: ZoofleetError) -> None:
        """End all open streams with an error, whatever they have in flight."""
        self._failure = error
        for stream in self._streams:
            stream.cancel()

    def handler(self) -> grpc.GenericRpcHandler:
        """The service as a handler: the five methods of `TASK_KINDS` are one, and `AnalyzeVideo`."""
        methods = {
            kind.method: grpc.stream_stream_rpc_method_handler(
                functools.partial(self._serve, kind), kind.request.FromString, kind.response.SerializeToString
            )
            for kind in TASK_KINDS
        }
        methods["AnalyzeVideo"] = grpc.stream_stream_rpc_method_handler(
            self._analyze_video,
            vision_pb2.AnalyzeVideoRequest.FromString,
            vision_pb2.AnalyzeVideoResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler("zoofleet.v1.Vision", methods)

    async def _analyze_video(self, requests: AsyncIterator[Any], context: _Context) -> None:
        async with aborting(context):
            with self._admitted():
                first = await self._first(requests, "header")
                analysis = VideoAnalysis(self._config, self._pipeline, self._residency, first.header)
                await analysis.run(requests, context, self._draining)

    async def _serve(self, kind: TaskKind, requests: AsyncIterator[Any], context: _Context) -> None:
        async with aborting(context):
            with self._admitted():
                first = await self._first(requests, "task")
                task, model, expected = kinds.resolve(first.task)
                if expected is not kind:
                    raise InvalidArgumentError(f"{model} is served by {expected.method}, not by {kind.method}")
                # What keeps the model from loading concerns the whole stream.
                await unless_draining(self._draining, self._residency.load(model))
                stream = _ItemStream(self._config, self._pipeline, kind, task, model, context)
                await stream.run(requests, self._draining)

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        if self._draining.is_set():
            raise UnavailableError("the worker is draining")
        if len(self._streams) >= self._config.max_streams:
            raise ResourceExhaustedError(f"{len(self._streams)} streams are open, which is the limit", retry_after=1.0)
        stream = asyncio.current_task()
        assert stream is not None  # noqa: S101 - grpc.aio runs each handler in a task
        self._streams.add(stream)
        self._idle.clear()
        try:
            yield
        except asyncio.CancelledError:
            if self._failure is None:
                raise
            stream.uncancel()
            raise self._failure from None
        finally:
            self._streams.discard(stream)
            if not self._streams:
                self._idle.set()

    async def _first(self, requests: AsyncIterator[Any], field: str) -> Any:
        """The stream's first message."""

        async def read() -> Any:
            return await anext(requests, None)

        message = await unless_draining(self._draining, read())
        if message is None:
            raise InvalidArgumentError(f"the stream is empty; its first message must set {field!r}")
        kinds.check_first(message, field)
        return message


class _ItemStream:
    """One stream: reads items, has them worked on, writes results as they are ready."""

    def __init__(
        self,
        config: WorkerConfig,
        pipeline: Pipeline,
        kind: TaskKind,
        task: vision_pb2.Task,
        model: ModelName,
        context: _Context,
    ) -> None:
        self._config = config
        self._pipeline = pipeline
        self._kind = kind
        self._task = task
        self._model = model
        self._context = context
        # None wakes the writer to look at what else has changed.
        self._results: asyncio.Queue[vision_pb2.Result | None] = asyncio.Queue()
        # Taken when an item is read, given back when its result is written; they end with the stream.
        self._slots = asyncio.Semaphore(config.max_stream_items)
        self._items: set[asyncio.Task[None]] = set()
        self._open_count = 0
        """Items read and not answered yet."""

    async def run(self, requests: AsyncIterator[Any], draining: asyncio.Event) -> None:
        """Serve the stream to its end.

        Raises:
            InvalidArgumentError: a message that is no item.
            UnavailableError: the worker drains, and everything that was read is answered.
        """
        reader = asyncio.create_task(self._read(requests))
        drained = asyncio.create_task(draining.wait())
        reader.add_done_callback(lambda _: self._results.put_nowait(None))
        drained.add_done_callback(lambda _: reader.cancel())
        try:
            while not reader.done() or self._open_count:
                result = await self._results.get()
                if result is not None:
                    await self._write(result)
                elif not reader.cancelled():
                    reader.result()
            if reader.cancelled():
                raise UnavailableError("the worker is draining")
        finally:
            # Nobody reads the results any more: what waits is dropped before it runs.
            for pending in (reader, drained, *self._items):
                pending.cancel()

    async def _read(self, requests: AsyncIterator[Any]) -> None:
        assembler = Assembler(vision_pb2.Item, self._config.max_item_bytes)
        position = 0
        async for message in requests:
            which = message.WhichOneof("message")
            item: vision_pb2.Item | ItemTooLargeError | None
            if which == "part":
                item = assembler.add(message.part)
                item_id = message.part.item_id
            elif which == "item" and not assembler.pending:
                item = message.item
                item_id = message.item.item_id
            else:
                raise InvalidArgumentError(
                    f"message {position + 1} after the task sets {which or 'nothing'!r}; accepted: "
                    + ("the next 'part' of the item that has begun" if assembler.pending else "'item' or 'part'")
                )
            if item is not None:
                await self._slots.acquire()
                work = await self._pipeline.start(functools.partial(self._answer, item, item_id or str(position)))
                self._open_count += 1
                self._items.add(work)
                work.add_done_callback(self._items.discard)
                position += 1
        if assembler.pending:
            raise InvalidArgumentError("the stream ended before the last part of an item")

    async def _answer(self, item: vision_pb2.Item | ItemTooLargeError, item_id: str) -> None:
        try:
            if isinstance(item, ItemTooLargeError):
                raise item
            result = await self._run(item, item_id)
        except ZoofleetError as error:
            result = error_result(item_id, self._task.model, error)
        except Exception:  # noqa: BLE001 - one item must not end the others
            result = error_result(item_id, self._task.model, fault("an item"))
        self._results.put_nowait(result)

    async def _run(self, item: vision_pb2.Item, item_id: str) -> vision_pb2.Result:
        if len(item_id.encode()) > MAX_ITEM_ID_BYTES:
            raise InvalidArgumentError(f"an item_id of {len(item_id.encode())} bytes; accepted: {MAX_ITEM_ID_BYTES}")
        if len(item.media) != self._kind.media_count:
            raise InvalidArgumentError(
                f"{len(item.media)} media in an item; {self._kind.method} takes {self._kind.media_count}"
            )
        data = [await self._bytes_of(media) for media in item.media]

        def prepare(runner: Runner) -> Prepared:
            return runner.prepare(self._images(data), self._task)

        return await self._pipeline.run(self._model, self._task, item_id, prepare)

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

    def _images(self, data: Sequence[bytes]) -> Iterator[Image.Image]:
        """An item's images, one at a time; called in a decoding thread."""
        if self._kind is kinds.CLASSIFY_CLIP:
            return sampled(io.BytesIO(data[0]), self._task.classify_clip.num_frames, self._config.max_pixels)
        return (decode_image(encoded, self._config.max_pixels) for encoded in data)

    async def _write(self, result: vision_pb2.Result) -> None:
        if result.ByteSize() <= PART_BYTES:
            await self._context.write(self._kind.response(result=result))
        else:
            for part in split(result.item_id, result.SerializeToString()):
                await self._context.write(self._kind.response(part=part))
        self._open_count -= 1
        self._slots.release()
