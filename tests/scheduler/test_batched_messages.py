"""Several items in a message through the scheduler, between old and new clients and workers, and amid deaths."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import grpc.aio
import pytest
from tests.scheduler.conftest import MODEL, Cluster, job_of, messages, until
from tests.scheduler.fake_worker import label

import zoofleet
from zoofleet import Classify
from zoofleet._values.results import Classification
from zoofleet._wire.calls import Ending, typed_errors
from zoofleet._wire.limits import BATCHES_KEY
from zoofleet._wire.parts import Joiner, pack
from zoofleet.errors import InvalidArgumentError, InvalidMediaError
from zoofleet.v1 import jobs_pb2, vision_pb2


def batch_sizes(cluster: Cluster, worker: str) -> list[int]:
    """The sizes of the batches that a worker has got."""
    lines = [line.split() for line in cluster.log.read_text().splitlines()]
    return [int(line[2]) for line in lines if line[:2] == [worker, "batch"]]


async def stream(cluster: Cluster, data: list[bytes]) -> Counter[str]:
    """What the SDK's stream gives for each item; fails where one is wrong."""
    answered: Counter[str] = Counter()
    async with zoofleet.AsyncClient(cluster.address) as client:
        async for result in client.stream(Classify(MODEL), data):
            answered[result.item_id] += 1
            if data[int(result.item_id)] == b"bad":
                assert isinstance(result.error, InvalidMediaError)
            else:
                assert isinstance(result.outcome, Classification)
                assert result.outcome.labels[0] == label(data[int(result.item_id)])
    return answered


@pytest.mark.parametrize("knowing", [(), ("a",), ("a", "b")])
async def test_a_stream_over_old_and_new_workers_answers_each_item_once(
    cluster: Cluster, knowing: tuple[str, ...]
) -> None:
    await cluster.start()
    for name in ("a", "b"):
        await cluster.start_worker(name, "--loaded", MODEL, *["--batches"][: name in knowing])
    data = [b"bad" if n % 50 == 7 else b"sleep 0.001 %d" % n for n in range(600)]
    assert await stream(cluster, data) == Counter(map(str, range(600)))
    assert {line.split()[0] for line in cluster.log.read_text().splitlines() if " item " in line} == {"a", "b"}
    for name in ("a", "b"):
        assert any(size > 1 for size in batch_sizes(cluster, name)) == (name in knowing)


async def test_items_in_batches_of_a_worker_that_dies_are_answered_by_others(cluster: Cluster) -> None:
    await cluster.start()
    workers = [await cluster.start_worker(name, "--loaded", MODEL, "--batches") for name in ("a", "b")]
    streaming = asyncio.create_task(stream(cluster, [b"sleep 0.005 %d" % n for n in range(1000)]))

    async def both() -> bool:
        return all(len(batch_sizes(cluster, name)) > 5 for name in ("a", "b"))

    await until(both)
    workers[1].kill()
    assert await streaming == Counter(map(str, range(1000)))


@pytest.mark.parametrize("options", [[], ["--batches"]])
async def test_a_job_is_answered_once_by_old_and_new_workers_though_an_item_kills_them(
    cluster: Cluster, options: list[str]
) -> None:
    await cluster.start(max_attempts=3)
    for name in ("a", "b", "c", "d"):
        await cluster.start_worker(name, *options)
    data = [b"bad" if n == 33 else b"poison" if n == 50 else b"%d" % n for n in range(100)]
    async with zoofleet.AsyncClient(cluster.address) as client:
        job = await client.create_job(data, [Classify(MODEL)])
        results = [result async for result in client.read_results(job.name)]
    assert Counter(result.item_id for result in results) == Counter(map(str, range(100)))
    assert {result.item_id for result in results if result.error is not None} == {"33", "50"}
    sizes = [size for name in "abcd" for size in batch_sizes(cluster, name)]
    assert bool(sizes) == bool(options)


async def test_results_in_batches_go_on_from_any_cursor(cluster: Cluster) -> None:
    await cluster.start(chunk_items=8)
    await cluster.start_worker("a", "--batches")
    name = await cluster.client.create([b"%d" % n for n in range(200)])
    whole = await cluster.client.read(name)  # of a client that knows no batches
    everything = [result.item_id for result, _ in whole]
    joiner = Joiner(vision_pb2.Result, 1 << 20)
    for start in (0, 1, 100, 199, 200):
        cursor = whole[start - 1][1] if start else ""
        request = jobs_pb2.ReadResultsRequest(name=name, cursor=cursor, accepts_batches=True)
        responses = [response async for response in cluster.client.jobs.ReadResults(request)]
        read = [item_id for response in responses for item_id, _ in joiner.take(response)]
        assert read == everything[start:]
        assert len(responses) == (start < 200)
        if responses:
            assert responses[-1].cursor == whole[-1][1]


async def upload(cluster: Cluster, *requests: jobs_pb2.CreateJobRequest) -> jobs_pb2.Job:
    async def sent() -> AsyncIterator[jobs_pb2.CreateJobRequest]:
        for request in requests:
            yield request

    call = cluster.client.jobs.CreateJob(sent())
    with typed_errors(Ending(call)):
        assert BATCHES_KEY in dict(await call.initial_metadata())
        job: jobs_pb2.Job = await call
        return job


async def test_an_upload_in_batches_is_a_job_only_with_its_last_message(cluster: Cluster) -> None:
    await cluster.start()
    first, *singles = messages(job_of(), [b"%d" % n for n in range(300)])
    first.accepts_batches = True
    batches = list(pack(jobs_pb2.CreateJobRequest, [single.item for single in singles]))
    with pytest.raises(InvalidArgumentError, match="does not set 'last'"):
        await upload(cluster, first, *batches)
    assert not (await cluster.client.jobs.ListJobs(jobs_pb2.ListJobsRequest())).jobs
    batches[-1].last = True
    job = await upload(cluster, first, *batches)
    assert (len(batches), job.item_count) == (2, 300)


async def test_an_upload_that_breaks_off_between_batches_is_no_job(cluster: Cluster) -> None:
    await cluster.start()
    first, *singles = messages(job_of(), [b"%d" % n for n in range(300)])
    first.accepts_batches = True
    channel = grpc.aio.insecure_channel(cluster.address)
    call = channel.stream_unary(
        "/zoofleet.v1.Jobs/CreateJob", jobs_pb2.CreateJobRequest.SerializeToString, jobs_pb2.Job.FromString
    )()
    await call.write(first)
    for request in pack(jobs_pb2.CreateJobRequest, [single.item for single in singles]):
        await call.write(request)
    await channel.close()

    async def dropped() -> bool:
        uploads: int = await cluster.store.call("ZCARD", "{zoofleet}:uploads")
        return uploads == 0

    await until(dropped)
    assert not (await cluster.client.jobs.ListJobs(jobs_pb2.ListJobsRequest())).jobs
