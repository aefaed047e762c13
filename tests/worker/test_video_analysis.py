"""Whole videos: several tasks over one decode, in frame order."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.odd_media import FRAMES, clip_with_latin1_tags
from tests.worker.calls import analyze, item, run, small_clip

from zoofleet._media.videos import VideoReader
from zoofleet._values.results import Classification, Flow, Result
from zoofleet._wire.kinds import TaskKind
from zoofleet._wire.status import from_status
from zoofleet.errors import InvalidArgumentError, InvalidMediaError, ItemTooLargeError, UnknownModelError, ZoofleetError
from zoofleet.v1 import vision_pb2
from zoofleet.worker import Worker, WorkerConfig

CLASSIFY = vision_pb2.Task(model="mobilenet_v3_large@random")
CLIP = vision_pb2.Task(model="r3d_18@random", classify_clip=vision_pb2.ClassifyClipOptions(num_frames=2))
FLOW = vision_pb2.Task(model="raft_small@random", estimate_flow=vision_pb2.EstimateFlowOptions(num_flow_updates=1))


def frames_of(responses: list[vision_pb2.AnalyzeVideoResponse]) -> list[vision_pb2.FrameResults]:
    assert responses[0].HasField("info")
    assert responses[-1].HasField("summary")
    assert all(response.HasField("frame") for response in responses[1:-1])
    return [response.frame for response in responses[1:-1]]


def encoded_frames(clip: bytes) -> list[bytes]:
    reader = VideoReader(io.BytesIO(clip), 10**6)
    frames = []
    while (frame := reader.next()) is not None:
        buffer = io.BytesIO()
        frame.image().save(buffer, "PNG")
        frames.append(buffer.getvalue())
    reader.close()
    return frames


async def test_all_kinds_of_task_over_one_decode(worker: Worker, clip: bytes) -> None:
    header = vision_pb2.VideoHeader(tasks=[CLASSIFY, FLOW, CLIP], frame_step=3, max_frames=6)
    responses = await analyze(worker.address, header, clip)
    info, summary = responses[0].info, responses[-1].summary
    assert (info.width, info.height, info.frame_rate, info.frame_count) == (160, 128, 25.0, 20)
    assert (summary.analyzed_frame_count, summary.HasField("error")) == (6, False)

    frames = frames_of(responses)
    assert [frame.frame_index for frame in frames] == [0, 3, 6, 9, 12, 15]
    assert [frame.pts.ToMilliseconds() for frame in frames] == [0, 120, 240, 360, 480, 600]
    models = [[result.model for result in frame.results] for frame in frames]
    assert models[0] == [CLASSIFY.model]
    assert models[1::2] == [[CLASSIFY.model, FLOW.model, CLIP.model]] * 3
    assert models[2::2] == [[CLASSIFY.model, FLOW.model]] * 2
    assert all(result.item_id == str(frame.frame_index) for frame in frames for result in frame.results)

    # The same frames as single images and pairs give the same.
    pictures = encoded_frames(clip)
    alone = await run(worker.address, TaskKind.CLASSIFY, CLASSIFY, [item(pictures[i]) for i in range(0, 18, 3)])
    pair = await run(worker.address, TaskKind.ESTIMATE_FLOW, FLOW, [item(pictures[3], pictures[6])])
    for position, frame in enumerate(frames):
        found, expected = Result.from_proto(frame.results[0]).outcome, alone[str(position)].outcome
        assert isinstance(found, Classification) and isinstance(expected, Classification)
        np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)
    flow, expected_flow = Result.from_proto(frames[2].results[1]).outcome, pair["0"].outcome
    assert isinstance(flow, Flow) and isinstance(expected_flow, Flow)
    np.testing.assert_allclose(flow.flow, expected_flow.flow, atol=0.02)


async def test_every_frame_is_analysed_by_default(worker: Worker, clip: bytes, batches: list[int]) -> None:
    frames = frames_of(await analyze(worker.address, vision_pb2.VideoHeader(tasks=[CLASSIFY]), clip))
    assert [frame.frame_index for frame in frames] == list(range(20))
    # Frames share batches.
    assert sum(batches) == 20
    assert len(batches) < 20


async def test_a_truncated_video_gives_its_frames_and_then_the_error(worker: Worker, clip: bytes) -> None:
    header = vision_pb2.VideoHeader(tasks=[CLASSIFY])
    responses = await analyze(worker.address, header, clip[: len(clip) * 9 // 10])
    assert [frame.frame_index for frame in frames_of(responses)] == list(range(12))
    summary = responses[-1].summary
    assert (summary.decoded_frame_count, summary.analyzed_frame_count) == (12, 12)
    error = from_status(summary.error)
    assert isinstance(error, InvalidMediaError)
    assert "12 frames" in str(error)


@pytest.mark.parametrize("container", ["avi", "mp4", "matroska"])
async def test_videos_whose_tags_are_no_utf8_are_analysed(worker: Worker, container: str) -> None:
    header = vision_pb2.VideoHeader(tasks=[CLASSIFY])
    responses = await analyze(worker.address, header, clip_with_latin1_tags(container))
    assert len(frames_of(responses)) == FRAMES
    assert not responses[-1].summary.HasField("error")


async def test_large_frame_results_travel_in_parts(worker: Worker, media: Path) -> None:
    clip = small_clip(media / "bigbuckbunny.mp4", 2, size=(608, 448))
    task = vision_pb2.Task()
    task.CopyFrom(FLOW)
    task.estimate_flow.flow_encoding = vision_pb2.FLOW_ENCODING_FLO  # 8 bytes a pixel: 2.2 MB
    frames = frames_of(await analyze(worker.address, vision_pb2.VideoHeader(tasks=[task]), clip))
    assert [len(frame.results) for frame in frames] == [0, 1]
    found = Result.from_proto(frames[1].results[0]).outcome
    assert isinstance(found, Flow)
    assert found.flow.shape == (2, 448, 608)


async def test_an_error_of_one_task_is_its_own_result(media: Path) -> None:
    worker = Worker(WorkerConfig(schedulers=(), device="cpu", max_flow_pixels=1000))
    await worker.start()
    clip = small_clip(media / "bigbuckbunny.mp4", 2)
    frames = frames_of(await analyze(worker.address, vision_pb2.VideoHeader(tasks=[FLOW, CLASSIFY]), clip))
    await worker.stop()
    assert [result.HasField("error") for result in frames[1].results] == [True, False]


@pytest.mark.parametrize(
    ("header", "video", "expected"),
    [
        (vision_pb2.VideoHeader(), b"", InvalidArgumentError),
        (vision_pb2.VideoHeader(tasks=[CLASSIFY] * 9), b"", InvalidArgumentError),
        (vision_pb2.VideoHeader(tasks=[vision_pb2.Task(model="nothing")]), b"", UnknownModelError),
        (vision_pb2.VideoHeader(tasks=[CLASSIFY]), b"", InvalidMediaError),
        (vision_pb2.VideoHeader(tasks=[CLASSIFY]), b"Dear worker, this is no video.", InvalidMediaError),
        (vision_pb2.VideoHeader(tasks=[CLASSIFY]), bytes(100_001), ItemTooLargeError),
    ],
    ids=["no tasks", "nine tasks", "unknown model", "empty", "text", "too large"],
)
async def test_what_cannot_be_analysed_is_refused(
    header: vision_pb2.VideoHeader, video: bytes, expected: type[ZoofleetError]
) -> None:
    worker = Worker(WorkerConfig(schedulers=(), device="cpu", max_video_bytes=100_000))
    await worker.start()
    with pytest.raises(ZoofleetError) as caught:
        await analyze(worker.address, header, video)
    await worker.stop()
    assert type(caught.value) is expected


async def test_frames_over_the_limit_are_refused(clip: bytes) -> None:
    worker = Worker(WorkerConfig(schedulers=(), device="cpu", max_pixels=160 * 128 - 1))
    await worker.start()
    with pytest.raises(ItemTooLargeError):
        await analyze(worker.address, vision_pb2.VideoHeader(tasks=[CLASSIFY]), clip)
    await worker.stop()


def test_the_clip_is_what_the_tests_take_it_for(clip: bytes) -> None:
    pictures = encoded_frames(clip)
    assert len(pictures) == 20
    assert Image.open(io.BytesIO(pictures[0])).size == (160, 128)
