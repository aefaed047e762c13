"""Several items in a message, and several results: only with clients that know them, and each item for itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import grpc.aio
import pytest
from tests.worker.calls import item, png, responses_of

from zoofleet._values.results import Result
from zoofleet._wire.parts import Joiner
from zoofleet.errors import InvalidArgumentError, InvalidMediaError
from zoofleet.v1 import vision_pb2, vision_pb2_grpc
from zoofleet.worker import Worker

TASK = vision_pb2.Task(model="mobilenet_v3_large@random")


def batch(*items: vision_pb2.Item) -> vision_pb2.ClassifyRequest:
    return vision_pb2.ClassifyRequest(batch=vision_pb2.ItemBatch(items=items))


async def answers(address: str, *messages: vision_pb2.ClassifyRequest) -> Sequence[vision_pb2.ClassifyResponse]:
    async def requests() -> AsyncIterator[vision_pb2.ClassifyRequest]:
        for message in messages:
            yield message

    async with grpc.aio.insecure_channel(address) as channel:
        return [one async for one in responses_of(vision_pb2_grpc.VisionStub(channel).Classify(requests()))]


def results(responses: Sequence[vision_pb2.ClassifyResponse]) -> dict[str, Result]:
    joiner = Joiner(vision_pb2.Result, 1 << 20)
    taken = [result for response in responses for _, result in joiner.take(response)]
    found = {one.item_id: Result.from_proto(one) for one in taken if isinstance(one, vision_pb2.Result)}
    assert len(found) == len(taken)
    return found


@pytest.mark.parametrize("accepts", [False, True])
async def test_results_come_in_batches_where_the_client_says_so(worker: Worker, accepts: bool) -> None:
    image = png(8, 8, [bytes(8)] * 8)
    task = vision_pb2.ClassifyRequest(task=TASK, accepts_batches=accepts)
    singles = [vision_pb2.ClassifyRequest(item=item(image, item_id=f"single {n}")) for n in range(3)]
    several = batch(*(item(image, item_id=f"batched {n}") for n in range(40)))
    responses = await answers(worker.address, task, *singles, several)
    assert {response.WhichOneof("message") for response in responses} == {"batch" if accepts else "result"}
    found = results(responses)
    assert found.keys() == {*(f"single {n}" for n in range(3)), *(f"batched {n}" for n in range(40))}
    assert not any(result.error for result in found.values())


async def test_a_bad_item_in_a_batch_fails_alone(worker: Worker) -> None:
    image = png(8, 8, [bytes(8)] * 8)
    task = vision_pb2.ClassifyRequest(task=TASK, accepts_batches=True)
    messages = (
        batch(item(image), item(b"no image"), item(image, image), item(image, item_id="x" * 300)),
        batch(item(image)),
    )
    found = results(await answers(worker.address, task, *messages))
    errors = {item_id: type(result.error) for item_id, result in found.items() if result.error is not None}
    # Items without an id have their position in the stream as theirs.
    assert errors == {"1": InvalidMediaError, "2": InvalidArgumentError, "x" * 300: InvalidArgumentError}
    assert found.keys() - errors.keys() == {"0", "4"}


@pytest.mark.parametrize("count", [0, 257])
async def test_a_batch_of_another_size_ends_the_stream(worker: Worker, count: int) -> None:
    task = vision_pb2.ClassifyRequest(task=TASK, accepts_batches=True)
    with pytest.raises(InvalidArgumentError, match=f"a batch of {count}; accepted: 1 to 256"):
        await answers(worker.address, task, batch(*[item(b"x")] * count))
