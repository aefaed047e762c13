"""Streams of items: bad ones, large ones, cancelled ones, and ones from several streams at once."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import io
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import pytest
from PIL import Image
from tests.odd_media import clip_with_latin1_tags
from tests.worker.calls import item, png, responses_of, run, until

from zoofleet._values.results import Classification, Flow
from zoofleet._wire import kinds
from zoofleet._wire.kinds import TaskKind
from zoofleet._wire.parts import split
from zoofleet.errors import (
    InvalidArgumentError,
    InvalidMediaError,
    ItemTooLargeError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnknownModelError,
    WeightsUnavailableError,
    ZoofleetError,
)
from zoofleet.v1 import vision_pb2, vision_pb2_grpc
from zoofleet.worker import Worker, WorkerConfig
from zoofleet.worker.items import PreparedItem
from zoofleet.worker.vision_task import VisionTask

MOBILENET = vision_pb2.Task(model="mobilenet_v3_large@random")
RAFT = vision_pb2.Task(model="raft_small@random", estimate_flow=vision_pb2.EstimateFlowOptions(num_flow_updates=1))


def noise(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((width, height), 80).save(buffer, "PNG")
    return buffer.getvalue()


async def refusal(address: str, kind: TaskKind, *messages: Any) -> ZoofleetError:
    """The error with which a stream of these messages ends."""

    async def requests() -> AsyncIterator[Any]:
        for message in messages:
            yield message

    async with grpc.aio.insecure_channel(address) as channel:
        with pytest.raises(ZoofleetError) as caught:
            async for _ in responses_of(getattr(vision_pb2_grpc.VisionStub(channel), kind.method)(requests())):
                pass
    assert "Traceback" not in str(caught.value)
    return caught.value


async def test_each_bad_item_is_its_own_error_and_the_rest_goes_on(worker: Worker, media: Path) -> None:
    rocket = (media / "rocket.jpg").read_bytes()
    outside = vision_pb2.Item(media=[vision_pb2.Media(uri=f"file://{media}/rocket.jpg")])
    items = {
        "good": item(rocket),
        "text": item(b"Dear worker, this is no picture."),
        "empty": item(b""),
        "truncated": item(rocket[: len(rocket) // 2]),
        "huge": item(png(50_000, 50_000)),
        "strip": item(png(100_000, 2, [bytes(100_000)] * 2)),
        "two": item(rocket, rocket),
        "none": item(),
        "unset": vision_pb2.Item(media=[vision_pb2.Media()]),
        "outside": outside,
        "last": item(rocket),
    }
    for item_id, each in items.items():
        each.item_id = item_id
    results = await run(worker.address, TaskKind.CLASSIFY, MOBILENET, items.values())
    assert results.keys() == items.keys()
    errors = {item_id: result.error for item_id, result in results.items() if result.error}
    assert {item_id: type(error) for item_id, error in errors.items()} == {
        "text": InvalidMediaError,
        "empty": InvalidMediaError,
        "truncated": InvalidMediaError,
        "huge": ItemTooLargeError,
        "strip": ItemTooLargeError,
        "two": InvalidArgumentError,
        "none": InvalidArgumentError,
        "unset": InvalidArgumentError,
        "outside": PermissionDeniedError,
    }
    assert "50000 x 50000" in str(errors["huge"]) and "50000000" in str(errors["huge"])
    status = worker.status()
    assert (status.item_count, status.inflight_items) == (7, 0)  # what never reached the pipeline does not count


@pytest.mark.parametrize("container", ["avi", "mp4", "matroska"])
async def test_clips_whose_tags_are_no_utf8_are_classified(worker: Worker, container: str) -> None:
    task = vision_pb2.Task(model="r3d_18@random")
    task.classify_clip.num_frames = 2
    results = await run(worker.address, TaskKind.CLASSIFY_CLIP, task, [item(clip_with_latin1_tags(container))])
    assert isinstance(results["0"].outcome, Classification)


async def test_bad_clips_and_pairs_are_their_own_errors(worker: Worker, clip: bytes) -> None:
    task = vision_pb2.Task(model="r3d_18@random")
    task.classify_clip.num_frames = 2
    clips = {"cut": clip[: len(clip) * 9 // 10], "text": b"no video", "good": clip, "empty": b""}
    items = [item(data, item_id=item_id) for item_id, data in clips.items()]
    results = await run(worker.address, TaskKind.CLASSIFY_CLIP, task, items)
    assert isinstance(results["good"].outcome, Classification)
    for item_id in ("cut", "text", "empty"):
        assert isinstance(results[item_id].error, InvalidMediaError)
    assert "12 frames" in str(results["cut"].error)

    pairs = [item(noise(128, 128), noise(136, 128)), item(*[png(1500, 1500, [bytes(1500)] * 1500)] * 2)]
    results = await run(worker.address, TaskKind.ESTIMATE_FLOW, RAFT, pairs)
    assert "same size" in str(results["0"].error)
    assert isinstance(results["1"].error, ItemTooLargeError)


async def test_items_and_results_travel_in_parts(worker: Worker) -> None:
    size = (600, 440)  # 8 bytes a pixel make a result of 2.11 MB
    task = vision_pb2.Task()
    task.CopyFrom(RAFT)
    task.estimate_flow.flow_encoding = vision_pb2.FLOW_ENCODING_FLO
    pair = item(noise(*size), noise(*size), item_id="large")
    parts = list(split("large", pair.SerializeToString()))
    pieces = [vision_pb2.Part(item_id="large", data=parts[0].data[:1000]), vision_pb2.Part(item_id="large", last=True)]
    pieces[1].data = parts[0].data[1000:]
    results = await run(worker.address, TaskKind.ESTIMATE_FLOW, task, pieces)
    found = results["large"].outcome
    assert isinstance(found, Flow)
    assert found.flow.shape == (2, 440, 600)


async def test_an_item_over_the_limit_in_parts_is_its_own_error(media: Path) -> None:
    config = WorkerConfig(schedulers=(), device="cpu", max_item_bytes=200_000)
    worker = Worker(config)
    await worker.start()
    rocket = item((media / "rocket.jpg").read_bytes())  # 113 kB
    too_large = item(bytes(200_001), item_id="large")
    results = await run(
        worker.address, TaskKind.CLASSIFY, MOBILENET, [*split("large", too_large.SerializeToString()), rocket]
    )
    await worker.stop()
    assert isinstance(results["large"].error, ItemTooLargeError)
    assert isinstance(results["1"].outcome, Classification)


async def test_streams_that_are_no_streams_of_items_are_refused(worker: Worker) -> None:
    request = vision_pb2.ClassifyRequest
    first = request(task=MOBILENET)
    part = vision_pb2.Part(item_id="a", data=b"x")
    cases: list[tuple[type[ZoofleetError], str, list[Any]]] = [
        (InvalidArgumentError, "empty", []),
        (InvalidArgumentError, "first message", [request(item=item(b""))]),
        (InvalidArgumentError, "'task'", [first, first]),
        (InvalidArgumentError, "nothing", [first, request()]),
        (InvalidArgumentError, "last part", [first, request(part=part)]),
        (InvalidArgumentError, "'part'", [first, request(part=part), request(item=item(b""))]),
        (
            InvalidArgumentError,
            "before the last part",
            [first, request(part=part), request(part=vision_pb2.Part(item_id="b"))],
        ),
        (InvalidArgumentError, "do not join", [first, request(part=vision_pb2.Part(data=b"\xff\xff", last=True))]),
        (UnknownModelError, "resnet50", [request(task=vision_pb2.Task(model="resnet5"))]),
        (InvalidArgumentError, "Detect", [request(task=vision_pb2.Task(model="maskrcnn_resnet50_fpn@random"))]),
        (
            InvalidArgumentError,
            "'segment'",
            [request(task=vision_pb2.Task(model=MOBILENET.model, segment=vision_pb2.SegmentOptions()))],
        ),
        (
            InvalidArgumentError,
            "precision is 7",
            [request(task=vision_pb2.Task(model=MOBILENET.model, precision=7))],  # type: ignore[arg-type]
        ),
    ]
    for expected, said, messages in cases:
        error = await refusal(worker.address, TaskKind.CLASSIFY, *messages)
        assert type(error) is expected, (said, error)
        assert said in str(error)


async def test_weights_that_cannot_be_fetched_end_the_stream(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("ZOOFLEET_WEIGHTS_MIRROR", str(tmp_path / "nothing"))
    task = vision_pb2.Task(model="mobilenet_v3_large")
    error = await refusal(worker.address, TaskKind.CLASSIFY, vision_pb2.ClassifyRequest(task=task))
    assert isinstance(error, WeightsUnavailableError)


async def test_a_model_over_the_budget_ends_the_stream() -> None:
    worker = Worker(WorkerConfig(schedulers=(), device="cpu", memory_budget_bytes=1_000_000))
    await worker.start()
    error = await refusal(worker.address, TaskKind.CLASSIFY, vision_pb2.ClassifyRequest(task=MOBILENET))
    await worker.stop()
    assert isinstance(error, ResourceExhaustedError)
    assert error.retry_after is None


async def test_streams_over_the_limit_are_refused(media: Path) -> None:
    worker = Worker(WorkerConfig(schedulers=(), device="cpu", max_streams=1))
    await worker.start()
    async with grpc.aio.insecure_channel(worker.address) as channel:
        call = vision_pb2_grpc.VisionStub(channel).Classify()
        await call.write(vision_pb2.ClassifyRequest(task=MOBILENET))
        await until(lambda: bool(worker.status().loaded_models))
        error = await refusal(worker.address, TaskKind.CLASSIFY, vision_pb2.ClassifyRequest(task=MOBILENET))
        assert isinstance(error, ResourceExhaustedError)
        assert error.retry_after == 1.0
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
    await run(worker.address, TaskKind.CLASSIFY, MOBILENET, [item((media / "rocket.jpg").read_bytes())])
    await worker.stop()


async def test_items_of_several_streams_share_batches(worker: Worker, media: Path, batches: list[int]) -> None:
    rocket = (media / "rocket.jpg").read_bytes()
    streams = [run(worker.address, TaskKind.CLASSIFY, MOBILENET, [item(rocket)] * 8) for _ in range(4)]
    for results in await asyncio.gather(*streams):
        assert results.keys() == {str(i) for i in range(8)}
        scores = [r.outcome.scores for r in results.values() if isinstance(r.outcome, Classification)]
        for each in scores:
            np.testing.assert_allclose(each, scores[0], rtol=1e-5)
    assert sum(batches) == 32
    assert len(batches) < 32


async def test_reading_stops_while_the_worker_is_full(media: Path) -> None:
    config = WorkerConfig(schedulers=(), device="cpu", max_inflight_items=4, max_stream_items=3)
    worker = Worker(config)
    await worker.start()
    highest = 0

    async def watch() -> None:
        nonlocal highest
        while True:
            highest = max(highest, worker._pipeline.inflight_count)
            await asyncio.sleep(0.001)  # or it would keep the device from the interpreter

    watcher = asyncio.create_task(watch())
    items = [item((media / "rocket.jpg").read_bytes())] * 20
    both = await asyncio.gather(*(run(worker.address, TaskKind.CLASSIFY, MOBILENET, items) for _ in range(2)))
    watcher.cancel()
    await worker.stop()
    assert [len(results) for results in both] == [20, 20]
    assert 1 < highest <= 4


async def test_cancelling_a_stream_drops_what_waits(worker: Worker, batches: list[int]) -> None:
    pair = item(noise(128, 128), noise(128, 128))
    async with grpc.aio.insecure_channel(worker.address) as channel:
        call = vision_pb2_grpc.VisionStub(channel).EstimateFlow()
        await call.write(vision_pb2.EstimateFlowRequest(task=vision_pb2.Task(model=RAFT.model)))
        for _ in range(30):
            await call.write(vision_pb2.EstimateFlowRequest(item=pair))
        await until(lambda: bool(batches))
        call.cancel()
    await until(lambda: worker.status().inflight_items == 0)
    assert sum(batches) < 30
    # All that was held is free again.
    assert all(resident.use_count == 0 for resident in worker._residency.residents)
    results = await run(worker.address, TaskKind.ESTIMATE_FLOW, RAFT, [pair] * 3)
    assert len(results) == 3


async def test_a_failing_item_does_not_take_its_batch_with_it(worker: Worker, media: Path) -> None:
    """A fault in the device's thread, made by hand: an input of a shape that its key does not tell."""
    rocket = (media / "rocket.jpg").read_bytes()
    await run(worker.address, TaskKind.CLASSIFY, MOBILENET, [item(rocket)])
    (resident,) = worker._residency.residents
    task = VisionTask.from_resolved(*kinds.resolve(MOBILENET))
    good = resident.runner.prepare([Image.open(media / "rocket.jpg")], task.options)
    bad = dataclasses.replace(good, inputs=(good.inputs[0][:2],))
    prepared = [good, good, bad, good]
    results = await asyncio.gather(
        *(task.run(worker._pipeline, str(i), PreparedItem((each,))) for i, each in enumerate(prepared))
    )
    assert [result.HasField("error") for result in results] == [False, False, True, False]
    message = results[2].error.message
    assert results[2].error.code == 13
    assert "its log has the details under" in message and "channels" not in message


async def test_an_answered_item_leaves_no_input_in_memory(worker: Worker, media: Path) -> None:
    rocket = (media / "rocket.jpg").read_bytes()
    await run(worker.address, TaskKind.CLASSIFY, MOBILENET, [item(rocket)])
    (resident,) = worker._residency.residents
    task = VisionTask.from_resolved(*kinds.resolve(MOBILENET))
    prepared = resident.runner.prepare([Image.open(media / "rocket.jpg")], task.options)
    tensor = weakref.ref(prepared.inputs[0])
    gc.disable()  # which would find cycles sooner or later
    try:
        result = await task.run(worker._pipeline, "0", PreparedItem((prepared,)))
        del prepared
        await until(lambda: tensor() is None)
    finally:
        gc.enable()
    assert result.HasField("classification")


async def test_uris_within_the_prefixes_are_read(media: Path) -> None:
    worker = Worker(WorkerConfig(schedulers=(), device="cpu", uri_prefixes=(f"file://{media}",)))
    await worker.start()
    uris = [f"file://{media}/rocket.jpg", f"file://{media}/../zoo", f"file://{media}/missing.jpg"]
    items = [vision_pb2.Item(media=[vision_pb2.Media(uri=uri)]) for uri in uris]
    results = await run(worker.address, TaskKind.CLASSIFY, MOBILENET, items)
    await worker.stop()
    assert isinstance(results["0"].outcome, Classification)
    assert isinstance(results["1"].error, PermissionDeniedError)
    assert "no such file" in str(results["2"].error)
