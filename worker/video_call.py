"""`AnalyzeVideo`: any number of tasks over one decode of one video.

A call is a line: spool the video, decode its frames, make items of them, run those, and write the results in frame
order. It decodes a bounded way ahead of what is written.
"""

from __future__ import annotations

import asyncio
import functools
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final, TypeVar

import grpc.aio
from PIL import Image

from zoofleet._media.videos import Frame, VideoReader
from zoofleet._wire import kinds
from zoofleet._wire.parts import cut
from zoofleet._wire.status import to_status
from zoofleet._wire.traffic import is_bulk
from zoofleet.errors import (
    InvalidArgumentError,
    InvalidMediaError,
    ItemTooLargeError,
    ResourceExhaustedError,
    ZoofleetError,
)
from zoofleet.v1 import vision_pb2
from zoofleet.worker.config import WorkerConfig
from zoofleet.worker.draining import unless_draining
from zoofleet.worker.items import DecodedItem, Item, PreparedItem
from zoofleet.worker.pipeline import Pipeline
from zoofleet.worker.residency import Residency
from zoofleet.worker.runner import FrameWindow
from zoofleet.worker.runners import runner_type
from zoofleet.worker.vision_task import VisionTask

__all__ = ["VideoCall"]

_T = TypeVar("_T")

_LOOKAHEAD_FRAMES: Final = 16
"""Most frames whose results are not written yet, which fill a default batch of classification."""

_LOOKAHEAD_PIXELS: Final = 64_000_000
"""Most pixels of those frames, 192 MB decoded; two frames there may always be."""


@dataclass(eq=False)
class _TaskState:
    """One task of the call, with what it keeps from frame to frame.

    Attributes:
        task: the task.
        window: how frames make items of the task's kind.
        kept: the frames of the item that has begun: images, or what was prepared of them if `window.prepares_each`.
    """

    task: VisionTask
    window: FrameWindow
    kept: list[Any] = field(default_factory=list)

    def completed(self) -> Item | None:
        """Return the item that the last frame has completed, None where more frames must come."""
        if len(self.kept) < self.window.size:
            return None
        frames = tuple(self.kept)
        del self.kept[: self.window.size - self.window.overlap]
        return PreparedItem(frames) if self.window.prepares_each else DecodedItem(frames)


@dataclass(frozen=True, slots=True)
class _FrameWork:
    """A frame whose results are being made.

    Attributes:
        frame_index: the frame's position in the video, from 0.
        pts: seconds from the start of the video.
        results: one for each task that the frame has completed an item of, in the order of the tasks.
    """

    frame_index: int
    pts: float
    results: list[asyncio.Task[vision_pb2.Result]] = field(default_factory=list)

    @property
    def is_done(self) -> bool:
        """Whether all results are there."""
        return all(result.done() for result in self.results)

    def cancel(self) -> None:
        """Drop what is not there yet."""
        for result in self.results:
            result.cancel()


class VideoCall:
    """One call of `AnalyzeVideo`.

    Args:
        config: the worker's settings, for its limits.
        pipeline: does the work; frames share batches with whatever else runs.
        residency: loads the models.
        header: what to do with the video, as the client sent it.
        context: the call that results are written to.

    Raises:
        InvalidArgumentError: there are not 1 to 8 tasks, or one is not valid.
        UnknownModelError: no such builder.
        UnknownWeightsError: the builder has no such weight set.
    """

    def __init__(
        self,
        config: WorkerConfig,
        pipeline: Pipeline,
        residency: Residency,
        header: vision_pb2.VideoHeader,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> None:
        self._config = config
        self._pipeline = pipeline
        self._residency = residency
        self._context = context
        precision = kinds.precision_of(config.default_precision)
        bulk = is_bulk(context.invocation_metadata())
        resolved = kinds.resolve_all(header.tasks, precision)
        tasks = [VisionTask.from_resolved(*each, bulk=bulk) for each in resolved]
        self._tasks = [_TaskState(task, runner_type(task.model).window(task.options)) for task in tasks]
        self._step = header.frame_step or 1
        self._max_frames = header.max_frames or None

    async def run(self, requests: AsyncIterator[Any], draining: asyncio.Event) -> None:
        """Serve the call to its end.

        Args:
            requests: the messages after the first one.
            draining: the video is read no further once it is set.

        Raises:
            InvalidMediaError: no frame can be decoded.
            ItemTooLargeError: the video or its frames are over a limit.
            ResourceExhaustedError: a model does not fit, or there is no space for the video.
            UnavailableError: the worker began to drain before the video was complete.
        """
        for state in self._tasks:
            # What keeps a model from loading concerns the whole call.
            await unless_draining(draining, self._residency.load(state.task.model))
        with tempfile.TemporaryFile(prefix="zoofleet-") as file:
            await unless_draining(draining, self._spool(requests, file))
            async with self._opened(file) as reader:
                await self._analyze(reader)

    async def _spool(self, requests: AsyncIterator[Any], file: BinaryIO) -> None:
        """Write the video's bytes to a file, and go back to its start."""
        size = 0
        async for message in requests:
            which = message.WhichOneof("message")
            if which != "data":
                raise InvalidArgumentError(f"a message after the header sets {which or 'nothing'!r}; accepted: 'data'")
            size += len(message.data)
            if size > self._config.max_video_bytes:
                raise ItemTooLargeError(f"the video has more than {self._config.max_video_bytes} bytes, the limit")
            try:
                await asyncio.to_thread(file.write, message.data)
            except OSError as error:
                raise ResourceExhaustedError(
                    f"the video cannot be spooled: {error.strerror}", retry_after=10.0
                ) from None
        if size == 0:
            raise InvalidMediaError("the video has 0 bytes")
        file.seek(0)

    @asynccontextmanager
    async def _opened(self, file: BinaryIO) -> AsyncIterator[VideoReader]:
        reader = await self._decode(VideoReader, file, self._config.max_pixels)
        try:
            yield reader
        finally:
            # It may still be at a frame, in a thread that cancellation does not reach.
            await asyncio.shield(self._decode(reader.close))

    async def _decode(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function in a decoding thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pipeline.decoders, function, *arguments)

    async def _analyze(self, reader: VideoReader) -> None:
        """Write what the container says, the results of each frame, and how the video ended."""
        frames = self._frames(reader)
        first = await anext(frames, None)
        if first is None:
            raise InvalidMediaError("the video has no frame that can be decoded")
        width, height = first[1].size
        info = vision_pb2.VideoInfo(
            width=width, height=height, frame_rate=reader.frame_rate, frame_count=reader.frame_count
        )
        await self._context.write(vision_pb2.AnalyzeVideoResponse(info=info))
        summary = vision_pb2.VideoSummary()
        lookahead = min(max(_LOOKAHEAD_PIXELS // (width * height), 2), _LOOKAHEAD_FRAMES)
        started: deque[_FrameWork] = deque()
        try:
            try:
                async for frame, image in _chain(first, frames):
                    started.append(await self._start(frame, image))
                    summary.analyzed_frame_count += 1
                    while len(started) >= lookahead or (started and started[0].is_done):
                        await self._write_first(started)
            except ZoofleetError as error:
                summary.error.CopyFrom(to_status(error))  # it comes after the results of the frames before
            while started:
                await self._write_first(started)
        finally:
            for work in started:
                work.cancel()
        summary.decoded_frame_count = reader.decoded_count
        await self._context.write(vision_pb2.AnalyzeVideoResponse(summary=summary))

    async def _frames(self, reader: VideoReader) -> AsyncIterator[tuple[Frame, Image.Image]]:
        """Decode the frames to analyse, each with its upright RGB image."""
        count = 0
        while count != self._max_frames and (frame := await self._decode(reader.next)) is not None:
            if frame.index % self._step == 0:
                yield frame, await self._decode(frame.image)
                count += 1

    async def _start(self, frame: Frame, image: Image.Image) -> _FrameWork:
        """Start those tasks that the frame completes an item of."""
        work = _FrameWork(frame.index, frame.pts)
        try:
            for state in self._tasks:
                item = await self._item(state, image)
                if item is not None:
                    run = functools.partial(state.task.run, self._pipeline, str(frame.index), item)
                    work.results.append(await self._pipeline.start(run, bulk=state.task.bulk))
        except BaseException:
            work.cancel()
            raise
        return work

    async def _item(self, state: _TaskState, image: Image.Image) -> Item | None:
        """Give a task a frame, and return the item that this completes, None where more frames must come."""
        if state.window.prepares_each:
            async with self._residency.use(state.task.model) as runner:
                state.kept.append(await self._decode(runner.prepare, (image,), state.task.options))
        else:
            state.kept.append(image)
        return state.completed()

    async def _write_first(self, started: deque[_FrameWork]) -> None:
        """Write the results of the first frame, once they are there."""
        work = started[0]
        frame = vision_pb2.FrameResults(frame_index=work.frame_index, results=await asyncio.gather(*work.results))
        frame.pts.FromNanoseconds(int(work.pts * 1e9))
        for message in cut(vision_pb2.AnalyzeVideoResponse, frame):
            await self._context.write(message)
        started.popleft()


async def _chain(first: _T, rest: AsyncIterator[_T]) -> AsyncIterator[_T]:
    yield first
    async for each in rest:
        yield each
