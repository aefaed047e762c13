"""What the worker's tests share: real media, and calls over real gRPC."""

from __future__ import annotations

import asyncio
import struct
import tempfile
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import av
import grpc.aio

from zoofleet._values.results import Result
from zoofleet._wire.calls import Ending, typed_errors
from zoofleet._wire.kinds import TaskKind
from zoofleet._wire.parts import Joiner
from zoofleet.v1 import vision_pb2, vision_pb2_grpc


def item(*media: bytes, item_id: str = "") -> vision_pb2.Item:
    """An item of inline media."""
    return vision_pb2.Item(item_id=item_id, media=[vision_pb2.Media(data=data) for data in media])


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Wait for something that must come; the test's own timeout is the limit."""
    while True:
        met = condition()
        if met if isinstance(met, bool) else await met:
            return
        await asyncio.sleep(0.01)


async def responses_of(call: Any) -> AsyncIterator[Any]:
    """A stream's responses; the server's error at its end, which grpc.aio alone would lose now and then."""
    with typed_errors(Ending(call)):
        async for response in call:
            yield response


async def run(
    address: str, kind: TaskKind, task: vision_pb2.Task, items: Iterable[vision_pb2.Item | vision_pb2.Part]
) -> dict[str, Result]:
    """Send items through one stream and return their results by id; each must come exactly once."""

    async def requests() -> AsyncIterator[Any]:
        yield kind.request(task=task)
        for each in items:
            yield kind.request(item=each) if isinstance(each, vision_pb2.Item) else kind.request(part=each)

    results: dict[str, Result] = {}
    joiner = Joiner(vision_pb2.Result, 1 << 30)
    async with grpc.aio.insecure_channel(address) as channel:
        call = getattr(vision_pb2_grpc.VisionStub(channel), kind.method)(requests())
        async for response in responses_of(call):
            if (joined := joiner.add(response)) is not None:
                item_id, proto = joined
                assert isinstance(proto, vision_pb2.Result)
                assert item_id not in results
                results[item_id] = Result.from_proto(proto)
    return results


async def analyze(address: str, header: vision_pb2.VideoHeader, video: bytes) -> list[vision_pb2.AnalyzeVideoResponse]:
    """Send a video through `AnalyzeVideo` and return all responses, frames in parts joined."""

    async def requests() -> AsyncIterator[vision_pb2.AnalyzeVideoRequest]:
        yield vision_pb2.AnalyzeVideoRequest(header=header)
        for start in range(0, len(video), 500_000):
            yield vision_pb2.AnalyzeVideoRequest(data=video[start : start + 500_000])

    responses = []
    joiner = Joiner(vision_pb2.FrameResults, 1 << 30)
    async with grpc.aio.insecure_channel(address) as channel:
        async for response in responses_of(vision_pb2_grpc.VisionStub(channel).AnalyzeVideo(requests())):
            if response.HasField("part"):
                if (joined := joiner.add(response)) is not None:
                    frame = joined[1]
                    assert isinstance(frame, vision_pb2.FrameResults)
                    responses.append(vision_pb2.AnalyzeVideoResponse(frame=frame))
            else:
                responses.append(response)
    return responses


def small_clip(source: Path, frames: int, size: tuple[int, int] = (160, 128), rotation: int = 0) -> bytes:
    """The first frames of a video, shrunk to (width, height), as an MP4 whose index stands before its frames."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "clip.mp4")
        with av.open(str(source)) as reader, av.open(str(path), "w", options={"movflags": "faststart"}) as writer:
            stream = writer.add_stream("mpeg4", rate=25)
            stream.width, stream.height = size
            if rotation:
                stream.set_display_rotation(rotation)
            for index, frame in enumerate(reader.decode(video=0)):
                if index == frames:
                    break
                # By way of an array, which leaves the source's frame types and times behind.
                shrunk = av.VideoFrame.from_ndarray(frame.reformat(*size).to_ndarray(format="rgb24"), format="rgb24")
                writer.mux(stream.encode(shrunk))
            writer.mux(stream.encode(None))
        return path.read_bytes()


def png(width: int, height: int, rows: Sequence[bytes] = ()) -> bytes:
    """A greyscale PNG written by hand: its header may claim any size, whatever data follows."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
