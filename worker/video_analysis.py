"""`AnalyzeVideo`: any number of tasks over one decode of one video."""

from __future__ import annotations

import asyncio
import functools
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final

import grpc.aio
from PIL import Image
from torch import Tensor

from zoofleet._catalog import ModelName
from zoofleet._media.videos import Frame, VideoReader
from zoofleet._wire import kinds
from zoofleet._wire.kinds import TaskKind
from zoofleet._wire.parts import PART_BYTES, split
from zoofleet._wire.status import to_status
from zoofleet.errors import (
    InternalError,
    InvalidArgumentError,
    InvalidMediaError,
    ItemTooLargeError,
    ResourceExhaustedError,
    ZoofleetError,
)
from zoofleet.v1 import vision_pb2
from zoofleet.worker.config import WorkerConfig
from zoofleet.worker.draining import unless_draining
from zoofleet.worker.pipeline import Pipeline
from zoofleet.worker.residency import Residency
from zoofleet.worker.runner import ClipRunner, Prepared, Runner

__all__ = ["VideoAnalysis"]

_MAX_TASKS: Final = 8
_LOOKAHEAD_FRAMES: Final = 16
_LOOKAHEAD_PIXELS: Final = 64_000_000

_Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(eq=False)
class _TaskState:
    """One task of the header, with what it keeps from frame to frame."""

    task: vision_pb2.Task
    model: ModelName
    kind: TaskKind
    clip: list[Tensor] = field(default_factory=list)
    """Preprocessed frames of the clip that has begun."""


@dataclass(frozen=True, slots=True)
class _FrameWork:
    """A frame whose results are being made."""

    frame_index: int
    pts: float
    results: list[asyncio.Task[vision_pb2.Result]]

    @property
    def is_done(self) -> bool:
        """Whether nothing of it runs any more."""
        return all(result.done() for result in self.results)


class VideoAnalysis:
    """One call: spools the video, decodes it a bounded way ahead of the models, and writes results in frame order.

    Args:
        config: limits.
        pipeline: does the work; frames share batches with whatever else runs.
        residency: has the models.
        header: as the client sent it.

    Raises:
        InvalidArgumentError: not 1 to 8 tasks, or a task that is not valid.
        NotFoundError: an unknown model or weight set.
        UnimplementedError: a precision that is not served.
    """

    def __init__(
        self, config: WorkerConfig, pipeline: Pipeline, residency: Residency, header: vision_pb2.VideoHeader
    ) -> None:
        if not 1 <= len(header.tasks) <= _MAX_TASKS:
            raise InvalidArgumentError(f"{len(header.tasks)} tasks in the header; accepted: 1 to {_MAX_TASKS}")
        self._config = config
        self._pipeline = pipeline
        self._residency = residency
        self._tasks = [_TaskState(*kinds.resolve(task)) for task in header.tasks]
        self._step = header.frame_step or 1
        self._max_frames = header.max_frames or None
        self._previous: Image.Image | None = None
        self._analyzed_count = 0
        self._error: ZoofleetError | None = None
        self._pending: set[asyncio.Task[vision_pb2.Result]] = set()

    async def run(self, requests: AsyncIterator[Any], context: _Context, draining: asyncio.Event) -> None:
        """Serve the call to its end.

        Raises:
            InvalidMediaError: no frame can be decoded.
            ItemTooLargeError: the video or its frames are over a limit.
            ResourceExhaustedError: a model does not fit, or there is no space for the video.
            UnavailableError: the worker began to drain before the video was complete.
        """
        for state in self._tasks:
            # What keeps a model from loading concerns the whole call.
            await unless_draining(draining, self._residency.load(state.model))
        with tempfile.TemporaryFile(prefix="zoofleet-") as file:
            await unless_draining(draining, self._spool(requests, file))
            reader = await self._decode(VideoReader, file, self._config.max_pixels)
            try:
                await self._analyze(reader, context)
            finally:
                for pending in self._pending:
                    pending.cancel()
                # It may still be at a frame, in a thread that cancellation does not reach.
                await asyncio.shield(self._decode(reader.close))

    async def _decode(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pipeline.decoders, function, *arguments)

    async def _spool(self, requests: AsyncIterator[Any], file: BinaryIO) -> None:
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

    async def _analyze(self, reader: VideoReader, context: _Context) -> None:
        first: Frame | None = await self._decode(reader.next)
        if first is None:
            raise InvalidMediaError("the video has no frame that can be decoded")
        image: Image.Image = await self._decode(first.image)
        info = vision_pb2.VideoInfo(
            width=image.width, height=image.height, frame_rate=reader.frame_rate, frame_count=reader.frame_count
        )
        await context.write(vision_pb2.AnalyzeVideoResponse(info=info))
        lookahead = min(max(_LOOKAHEAD_PIXELS // (image.width * image.height), 2), _LOOKAHEAD_FRAMES)
        started: deque[_FrameWork] = deque()
        try:
            async for work in self._started(reader, first, image):
                started.append(work)
                while len(started) >= lookahead or (started and started[0].is_done):
                    await self._write(started.popleft(), context)
        except ZoofleetError as error:
            self._error = error  # it goes into the summary, after the results of the frames before
        while started:
            await self._write(started.popleft(), context)
        summary = vision_pb2.VideoSummary(
            decoded_frame_count=reader.decoded_count, analyzed_frame_count=self._analyzed_count
        )
        if self._error is not None:
            summary.error.CopyFrom(to_status(self._error))
        await context.write(vision_pb2.AnalyzeVideoResponse(summary=summary))

    async def _started(self, reader: VideoReader, first: Frame, image: Image.Image) -> AsyncIterator[_FrameWork]:
        """Decode the frames to analyse and set the tasks going on them."""
        frame: Frame | None = first
        while frame is not None:
            if frame.index % self._step == 0:
                if frame is not first:
                    image = await self._decode(frame.image)
                yield await self._start(frame, image)
                self._analyzed_count += 1
                if self._analyzed_count == self._max_frames:
                    return
            frame = await self._decode(reader.next)

    async def _start(self, frame: Frame, image: Image.Image) -> _FrameWork:
        work = _FrameWork(frame.index, frame.pts, [])
        for state in self._tasks:
            prepare = await self._preparation(state, image)
            if prepare is not None:
                result = await self._pipeline.start(
                    functools.partial(self._pipeline.run, state.model, state.task, str(frame.index), prepare)
                )
                self._pending.add(result)
                result.add_done_callback(self._pending.discard)
                work.results.append(result)
        self._previous = image
        return work

    async def _preparation(self, state: _TaskState, image: Image.Image) -> Callable[[Runner], Prepared] | None:
        """What makes the task's input of this frame and those before; None where it has not all it needs."""
        if state.kind is kinds.ESTIMATE_FLOW:
            if self._previous is None:
                return None
            images: tuple[Image.Image, ...] = (self._previous, image)
        elif state.kind is kinds.CLASSIFY_CLIP:
            return await self._clip_preparation(state, image)
        else:
            images = (image,)
        return lambda runner: runner.prepare(images, state.task)

    async def _clip_preparation(self, state: _TaskState, image: Image.Image) -> Callable[[Runner], Prepared] | None:
        async with self._residency.use(state.model) as runner:
            state.clip.append(await self._decode(_clip_runner(runner).prepare_frame, image))
        if len(state.clip) < state.task.classify_clip.num_frames:
            return None
        clip, state.clip = state.clip, []
        return lambda runner: _clip_runner(runner).join(clip)

    async def _write(self, work: _FrameWork, context: _Context) -> None:
        frame = vision_pb2.FrameResults(frame_index=work.frame_index, results=await asyncio.gather(*work.results))
        frame.pts.FromNanoseconds(int(work.pts * 1e9))
        if frame.ByteSize() <= PART_BYTES:
            await context.write(vision_pb2.AnalyzeVideoResponse(frame=frame))
            return
        for part in split(str(work.frame_index), frame.SerializeToString()):
            await context.write(vision_pb2.AnalyzeVideoResponse(part=part))


def _clip_runner(runner: Runner) -> ClipRunner:
    if not isinstance(runner, ClipRunner):
        raise InternalError(f"{runner.name} does not take clips")
    return runner
