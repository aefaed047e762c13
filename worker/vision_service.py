"""The `Vision` service: streams of items, and whole videos."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import grpc.aio

from zoofleet._serving.handlers import aborting, check_first
from zoofleet._wire import kinds
from zoofleet._wire.kinds import TaskKind
from zoofleet._wire.traffic import is_bulk
from zoofleet.errors import InvalidArgumentError, ResourceExhaustedError, UnavailableError, ZoofleetError
from zoofleet.v1 import vision_pb2
from zoofleet.worker.config import WorkerConfig
from zoofleet.worker.draining import unless_draining
from zoofleet.worker.item_stream import ItemStream
from zoofleet.worker.pipeline import Pipeline
from zoofleet.worker.residency import Residency
from zoofleet.worker.video_call import VideoCall
from zoofleet.worker.vision_task import VisionTask

__all__ = ["VisionService"]

_Context = grpc.aio.ServicerContext[Any, Any]


class VisionService:
    """Admits streams of items and videos, reads what is to be done with them, and ends them when the worker ends.

    Args:
        config: the worker's settings, for its limits.
        pipeline: does the work.
        residency: loads the models.
        draining: once it is set, no further streams and items are taken, and streams with nothing in flight end.
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
        """End all open streams with this error, whatever they have in flight."""
        self._failure = error
        for stream in self._streams:
            stream.cancel()

    def handler(self) -> grpc.GenericRpcHandler:
        """Return the service as a handler for a gRPC server."""
        methods = {
            kind.method: grpc.stream_stream_rpc_method_handler(
                functools.partial(self._serve, kind), kind.request.FromString, kind.response.SerializeToString
            )
            for kind in TaskKind
        }
        methods["AnalyzeVideo"] = grpc.stream_stream_rpc_method_handler(
            self._analyze_video,
            vision_pb2.AnalyzeVideoRequest.FromString,
            vision_pb2.AnalyzeVideoResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler("zoofleet.v1.Vision", methods)

    async def _serve(self, kind: TaskKind, requests: AsyncIterator[Any], context: _Context) -> None:
        """Serve one of the methods that take a stream of items; they differ in their kind of task alone."""
        async with aborting(context):
            with self._admitted():
                first = await self._first(requests, "task")
                precision = kinds.precision_of(self._config.default_precision)
                bulk = is_bulk(context.invocation_metadata())
                task = VisionTask.from_resolved(*kinds.resolve(first.task, precision), bulk=bulk)
                if task.kind is not kind:
                    raise InvalidArgumentError(f"{task.model} is served by {task.kind.method}, not by {kind.method}")
                # What keeps the model from loading concerns the whole stream.
                await unless_draining(self._draining, self._residency.load(task.model))
                stream = ItemStream(self._config, self._pipeline, task, context, takes_batches=first.accepts_batches)
                await stream.run(requests, self._draining)

    async def _analyze_video(self, requests: AsyncIterator[Any], context: _Context) -> None:
        async with aborting(context):
            with self._admitted():
                first = await self._first(requests, "header")
                call = VideoCall(self._config, self._pipeline, self._residency, first.header, context)
                await call.run(requests, self._draining)

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        """Count the current task as an open stream, which `fail` can end.

        Raises:
            UnavailableError: the worker drains.
            ResourceExhaustedError: as many streams are open as may be.
        """
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
        """Read the stream's first message, and check that it sets `field`."""

        async def read() -> Any:
            return await anext(requests, None)

        message = await unless_draining(self._draining, read())
        if message is None:
            raise InvalidArgumentError(f"the stream is empty; its first message must set {field!r}")
        check_first(message, field)
        return message
