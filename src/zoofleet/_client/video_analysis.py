"""The analysis of a video as an iterator over its frames."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Self, TypeAlias

import grpc

from zoofleet._client.connection import taken
from zoofleet._media.sources import read_error
from zoofleet._values.video import FrameResults, VideoInfo, VideoSummary
from zoofleet._wire.calls import Ending, typed_errors
from zoofleet._wire.limits import MAX_RESULT_BYTES, PART_BYTES
from zoofleet._wire.parts import Joiner
from zoofleet.errors import InvalidMediaError, UnavailableError
from zoofleet.v1 import vision_pb2

__all__ = ["AsyncVideoAnalysis", "VideoSource"]

VideoSource: TypeAlias = str | os.PathLike[str] | bytes | BinaryIO
"""A path, the encoded bytes, or a binary file, which is read as it is sent and left open."""


class AsyncVideoAnalysis:
    """An asynchronous iterator over the results of a video's frames, in frame order.

    Attributes:
        info: what the container says of the video. None before the first frame has come.
        summary: how the analysis ended. None before it has ended. Where the video turned unreadable on the way, the
            iteration raises `summary.error` after the results of all frames before.
        frames: the generator behind the iterator.
    """

    def __init__(
        self,
        open_call: Callable[[], grpc.aio.StreamStreamCall[Any, Any]],
        header: vision_pb2.VideoHeader,
        video: VideoSource,
    ) -> None:
        self.info: VideoInfo | None = None
        self.summary: VideoSummary | None = None
        self.frames = self._run(open_call, header, video)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> FrameResults:
        return await anext(self.frames)

    async def aclose(self) -> None:
        """End the analysis early."""
        await self.frames.aclose()

    async def _run(
        self,
        open_call: Callable[[], grpc.aio.StreamStreamCall[Any, Any]],
        header: vision_pb2.VideoHeader,
        video: VideoSource,
    ) -> AsyncGenerator[FrameResults]:
        with _reader(video) as read:
            call = open_call()
            writer = asyncio.create_task(_send_video(call, header, read))
            joiner = Joiner(vision_pb2.FrameResults, MAX_RESULT_BYTES)
            try:
                with typed_errors(Ending(call)):
                    async for response in call:
                        frame = self._take(response, joiner)
                        if frame is not None:
                            yield FrameResults.from_proto(frame)
                if self.summary is None:
                    raise UnavailableError("the stream ended before the video's summary")
                if self.summary.error is not None:
                    raise self.summary.error
            except UnavailableError:
                # A video that cannot be read ends the call from this side; its error says more.
                if writer.done() and not writer.cancelled():
                    writer.result()
                raise
            finally:
                writer.cancel()
                call.cancel()
                await asyncio.gather(writer, return_exceptions=True)

    def _take(
        self, response: vision_pb2.AnalyzeVideoResponse, joiner: Joiner[vision_pb2.FrameResults]
    ) -> vision_pb2.FrameResults | None:
        """Note what a response says of the video, or return the frame that it completes."""
        which = response.WhichOneof("message")
        if which == "info":
            self.info = VideoInfo.from_proto(response.info)
        elif which == "summary":
            self.summary = VideoSummary.from_proto(response.summary)
        else:
            return next(iter(taken(joiner, response)), None)
        return None


async def _send_video(
    call: grpc.aio.StreamStreamCall[Any, Any], header: vision_pb2.VideoHeader, read: Callable[[], bytes]
) -> None:
    try:
        await call.write(vision_pb2.AnalyzeVideoRequest(header=header))
        while data := await asyncio.to_thread(read):
            await call.write(vision_pb2.AnalyzeVideoRequest(data=data))
        await call.done_writing()
    except (grpc.RpcError, asyncio.InvalidStateError):
        return  # the call has ended: whoever reads it learns why
    except OSError as error:
        call.cancel()
        raise InvalidMediaError(f"cannot read the video: {error.strerror or error}") from None


@contextmanager
def _reader(video: VideoSource) -> Iterator[Callable[[], bytes]]:
    if isinstance(video, str | os.PathLike):
        try:
            opened = open(video, "rb")  # noqa: PTH123, SIM115 - closed below
        except (OSError, ValueError) as error:
            raise read_error(video, error) from None
        with opened:
            yield lambda: opened.read(PART_BYTES)
    else:
        file = io.BytesIO(video) if isinstance(video, bytes) else video
        yield lambda: file.read(PART_BYTES)
