"""The `Jobs` service as clients see it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import uuid
from typing import Any

import grpc
import grpc.aio
import pytest
from tests.scheduler.conftest import MODEL, OTHER_MODEL, Client, Cluster, job_of, messages, until

from zoofleet import errors
from zoofleet._wire.calls import Ending, typed_errors
from zoofleet._wire.status import from_status
from zoofleet.errors import ZoofleetError
from zoofleet.v1 import jobs_pb2, vision_pb2

GONE = f"jobs/{'0' * 32}"


async def failure(call: Any) -> ZoofleetError:
    """The typed error that a unary call ends with."""
    with pytest.raises(ZoofleetError) as caught, typed_errors():
        await call
    return caught.value


async def create_failure(client: Client, *requests: jobs_pb2.CreateJobRequest) -> ZoofleetError:
    call = client.jobs.CreateJob(iter(requests))
    with pytest.raises(ZoofleetError) as caught, typed_errors(Ending(call)):
        await call
    return caught.value


def spec(request_id: str = "", **fields: Any) -> jobs_pb2.CreateJobRequest:
    return jobs_pb2.CreateJobRequest(spec=jobs_pb2.JobSpec(job=job_of(**fields), request_id=request_id))


def item(data: bytes = b"x", item_id: str = "") -> jobs_pb2.CreateJobRequest:
    media = [vision_pb2.Media(data=data)]
    return jobs_pb2.CreateJobRequest(item=vision_pb2.Item(item_id=item_id, media=media))


async def test_a_new_job_says_what_it_is(cluster: Cluster) -> None:
    await cluster.start()
    requests = iter([spec(tenant="t-1", priority=7), item(), item(item_id="b"), item()])
    job = await cluster.client.jobs.CreateJob(requests)
    assert (job.tenant, job.priority, job.state) == ("t-1", 7, jobs_pb2.Job.STATE_QUEUED)
    assert (job.item_count, job.result_count, job.committed_count) == (3, 3, 0)
    assert job.tasks[0].model == MODEL and job.tasks[0].classify.top_k == 5  # defaults are filled in
    assert job.HasField("create_time") and not job.HasField("start_time") and not job.HasField("expire_time")
    assert await cluster.client.get(job.name) == job
    await cluster.start_worker("a")
    assert (await cluster.client.results(job.name)).keys() == {"0", "b", "2"}


REFUSED: list[tuple[list[jobs_pb2.CreateJobRequest], type[ZoofleetError], str]] = [
    ([], errors.InvalidArgumentError, "spec"),
    ([item()], errors.InvalidArgumentError, "spec"),
    ([spec()], errors.InvalidArgumentError, "no items"),
    ([spec(), spec()], errors.InvalidArgumentError, "'spec'"),
    ([spec(), item(item_id="a"), item(item_id="a")], errors.InvalidArgumentError, "'a'"),
    ([spec(), item(item_id="1"), item()], errors.InvalidArgumentError, "'1'"),
    ([spec(), item(item_id="a" * 257)], errors.InvalidArgumentError, "256"),
    ([spec(), jobs_pb2.CreateJobRequest()], errors.InvalidArgumentError, "nothing"),
    ([spec(), jobs_pb2.CreateJobRequest(manifest_uri="file:///x")], errors.UnimplementedError, "manifest"),
    (
        [spec(), jobs_pb2.CreateJobRequest(part=vision_pb2.Part(item_id="a", data=b"x"))],
        errors.InvalidArgumentError,
        "last part",
    ),
    (
        [spec(), jobs_pb2.CreateJobRequest(part=vision_pb2.Part(item_id="a", data=b"\xff", last=True))],
        errors.InvalidArgumentError,
        "join",
    ),
    (
        [spec(), jobs_pb2.CreateJobRequest(part=vision_pb2.Part(item_id="a", data=b"x")), item()],
        errors.InvalidArgumentError,
        "last part",
    ),
    ([spec(tenant="Not A Tenant"), item()], errors.InvalidArgumentError, "Not A Tenant"),
    ([spec(priority=101), item()], errors.InvalidArgumentError, "101"),
    ([spec(ttl={"seconds": -1}), item()], errors.InvalidArgumentError, "ttl"),
    ([spec(ttl={"seconds": 10**9}), item()], errors.InvalidArgumentError, "ttl"),
    ([spec(request_id="not-a-uuid"), item()], errors.InvalidArgumentError, "not-a-uuid"),
]


async def test_a_job_that_can_never_run_is_refused(cluster: Cluster) -> None:
    await cluster.start()
    for requests, expected, message in REFUSED:
        error = await create_failure(cluster.client, *requests)
        assert type(error) is expected and message in str(error)

    async def nothing_is_left() -> bool:
        return all(b"uploads" not in key and b":job:" not in key for key in await cluster.store.call("KEYS", "*"))

    await until(nothing_is_left)


NO_PRECISION: Any = 7
"""No value of the enum `Precision`."""


async def test_tasks_are_checked_first(cluster: Cluster) -> None:
    await cluster.start()
    for tasks, expected in (
        ([vision_pb2.Task(model="resnet_50")], errors.UnknownModelError),
        ([vision_pb2.Task(model="resnet50@V9")], errors.UnknownWeightsError),
        ([vision_pb2.Task(model="@")], errors.InvalidModelNameError),
        ([vision_pb2.Task(model=MODEL, detect=vision_pb2.DetectOptions())], errors.InvalidArgumentError),
        ([vision_pb2.Task(model=MODEL, precision=NO_PRECISION)], errors.InvalidArgumentError),
        ([], errors.InvalidArgumentError),
        ([vision_pb2.Task(model=MODEL)] * 9, errors.InvalidArgumentError),
    ):
        request = jobs_pb2.CreateJobRequest(spec=jobs_pb2.JobSpec(job=jobs_pb2.Job(tasks=tasks)))
        assert type(await create_failure(cluster.client, request, item())) is expected


async def test_an_item_over_the_limit_fails_alone(cluster: Cluster) -> None:
    await cluster.start(max_item_bytes=3 * 1024 * 1024)
    await cluster.start_worker("a")
    large = vision_pb2.Item(item_id="large", media=[vision_pb2.Media(data=bytes(5 * 1024 * 1024))])
    medium = vision_pb2.Item(item_id="medium", media=[vision_pb2.Media(data=bytes(2_500_000))])
    name = await cluster.client.create([b"a", large, medium, b"b"], MODEL, OTHER_MODEL)
    results = [result for result, _ in await cluster.client.read(name)]
    failed = [result for result in results if result.HasField("error")]
    assert len(results) == 8
    assert [(result.item_id, result.model) for result in failed] == [("large", MODEL), ("large", OTHER_MODEL)]
    assert isinstance(from_status(failed[0].error), errors.ItemTooLargeError)
    assert (await cluster.client.get(name)).error_count == 2


async def test_the_same_request_makes_one_job(cluster: Cluster) -> None:
    await cluster.start()
    request_id = str(uuid.uuid4())
    client = cluster.client
    name = await client.create([b"a", b"b"], request_id=request_id)
    assert await client.create([b"a", b"b"], request_id=request_id.upper()) == name
    both = await asyncio.gather(*(client.create([b"c"], request_id=str(uuid.UUID(int=1))) for _ in range(4)))
    assert len(set(both)) == 1
    for items, fields in (([b"a"], {}), ([b"a", b"c"], {}), ([b"a", b"b"], {"priority": 1})):
        error = await failure(client.jobs.CreateJob(messages(job_of(**fields), items, request_id)))
        assert type(error) is errors.AlreadyExistsError and request_id in str(error)
    assert len((await client.jobs.ListJobs(jobs_pb2.ListJobsRequest())).jobs) == 2


async def test_quotas_tell_when_to_try_again(cluster: Cluster) -> None:
    await cluster.start(max_tenant_jobs=1, max_job_items=5, max_tenant_bytes=1000)
    client = cluster.client
    error = await failure(client.jobs.CreateJob(messages(job_of(), [b"x"] * 6)))
    assert isinstance(error, errors.ResourceExhaustedError) and "5 items" in str(error)
    error = await failure(client.jobs.CreateJob(messages(job_of(), [bytes(900)] * 2)))
    assert isinstance(error, errors.ResourceExhaustedError) and error.retry_after
    request_id = str(uuid.uuid4())
    name = await client.create([b"x"], request_id=request_id)
    error = await failure(client.jobs.CreateJob(messages(job_of(), [b"x"])))
    assert isinstance(error, errors.ResourceExhaustedError) and error.retry_after
    assert await client.create([b"x"], request_id=request_id) == name  # nothing new, so nothing to refuse
    await client.create([b"x"], tenant="other")
    await client.jobs.CancelJob(jobs_pb2.CancelJobRequest(name=name))
    await client.create([b"x"])


async def test_a_cancelled_job_keeps_what_it_has(cluster: Cluster) -> None:
    await cluster.start()
    await cluster.start_worker("a", "--parallel", "1", "--max-inflight", "16")
    client = cluster.client
    name = await client.create([b"sleep 0.02"] * 100)

    async def begun() -> bool:
        return (await client.get(name)).committed_count > 0

    await until(begun)
    cancelled = await client.jobs.CancelJob(jobs_pb2.CancelJobRequest(name=name))
    assert cancelled.state == jobs_pb2.Job.STATE_CANCELLED and cancelled.committed_count == 100
    results = await client.results(name)
    assert len(results) == 100
    failed = [result.error for result in results.values() if result.HasField("error")]
    assert len(failed) == cancelled.error_count < 100
    assert {error.code for error in failed} == {1}
    # The worker is free for the next job, and what it still had changes nothing.
    await client.results(await client.create([b"next"]))
    assert await client.get(name) == cancelled
    assert len(cluster.executions()) < 60
    # Every cursor resumes right after its result, in either part of the results.
    read = await client.read(name)
    for place in (0, 10, 50, 98, 99):
        assert await client.read(name, read[place][1]) == read[place + 1 :]


async def test_cancel_frees_the_worker_from_what_runs(cluster: Cluster) -> None:
    await cluster.start(sweep_interval=60.0, lease=180.0)  # so that nothing happens but by events
    await cluster.start_worker("a", "--parallel", "1")
    name = await cluster.client.create([b"sleep 30"] * 3)

    async def begun() -> bool:
        return bool(cluster.executions())

    await until(begun)
    await cluster.client.jobs.CancelJob(jobs_pb2.CancelJobRequest(name=name))

    async def freed() -> bool:
        return "stream ended" in cluster.log.read_text()

    await until(freed)
    assert len(await cluster.client.results(await cluster.client.create([b"next"]))) == 1


async def test_a_deleted_job_is_gone(cluster: Cluster) -> None:
    await cluster.start()
    client = cluster.client
    name = await client.create([b"x"])
    delete = jobs_pb2.DeleteJobRequest(name=name)
    assert type(await failure(client.jobs.DeleteJob(delete))) is errors.FailedPreconditionError
    watch = client.jobs.WatchJob(jobs_pb2.WatchJobRequest(name=name))
    await watch.read()
    await client.jobs.CancelJob(jobs_pb2.CancelJobRequest(name=name))
    await client.jobs.DeleteJob(delete)
    assert type(await failure(client.get(name))) is errors.JobNotFoundError
    with contextlib.suppress(grpc.aio.AioRpcError):
        while await watch.read() is not grpc.aio.EOF:
            pass
    assert await watch.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.OK)  # OK: it saw the end before


async def test_a_reader_goes_on_where_it_was(cluster: Cluster) -> None:
    await cluster.start()
    client = cluster.client
    name = await client.create([f"sleep 0.01 {index}".encode() for index in range(100)])
    assert await client.read(name, follow=False) == []
    await cluster.start_worker("a")
    seen: list[str] = []
    cursor = ""
    while len(seen) < 100:
        # A reader that is cut off after every seventh result.
        call = client.jobs.ReadResults(jobs_pb2.ReadResultsRequest(name=name, cursor=cursor, follow=True))
        for _ in range(7):
            response = await call.read()
            if response is grpc.aio.EOF:
                break
            seen.append(response.result.item_id)
            cursor = response.cursor
        call.cancel()
    assert len(set(seen)) == len(seen) == 100
    assert [result.item_id for result, _ in await client.read(name)] == seen  # the same order, ever again
    assert await client.read(name, cursor) == []


async def test_a_watcher_sees_the_job_through(cluster: Cluster) -> None:
    await cluster.start()
    await cluster.start_worker("a")
    name = await cluster.client.create([b"sleep 0.05"] * 60)
    jobs = [response.job async for response in cluster.client.jobs.WatchJob(jobs_pb2.WatchJobRequest(name=name))]
    assert jobs[-1].state == jobs_pb2.Job.STATE_SUCCEEDED and jobs[-1].committed_count == 60
    counts = [job.committed_count for job in jobs]
    assert counts == sorted(counts) and len(jobs) >= 3
    assert all(earlier != later for earlier, later in itertools.pairwise(jobs))
    seconds = jobs[-1].end_time.ToMilliseconds() / 1000 - jobs[0].create_time.ToMilliseconds() / 1000
    assert len(jobs) <= 10 * seconds + 3
    again = [response async for response in cluster.client.jobs.WatchJob(jobs_pb2.WatchJobRequest(name=name))]
    assert len(again) == 1


async def test_jobs_are_listed_in_pages(cluster: Cluster) -> None:
    await cluster.start()
    client = cluster.client
    names = [await client.create([b"x"], tenant=tenant) for tenant in ("a", "b", "a", "a", "a")]

    async def page(**fields: Any) -> jobs_pb2.ListJobsResponse:
        response: jobs_pb2.ListJobsResponse = await client.jobs.ListJobs(jobs_pb2.ListJobsRequest(**fields))
        return response

    assert [job.name for job in (await page()).jobs] == names[::-1]
    first = await page(tenant="a", page_size=2)
    second = await page(tenant="a", page_size=2, page_token=first.next_page_token)
    assert [job.name for job in [*first.jobs, *second.jobs]] == [names[4], names[3], names[2], names[0]]
    assert not second.next_page_token
    for fields in (
        {"page_token": "nonsense"},
        {"page_token": "é"},
        {"page_token": first.next_page_token},  # of another tenant's list
        {"page_size": -1},
        {"tenant": "A B"},
    ):
        assert type(await failure(page(**fields))) is errors.InvalidArgumentError


async def test_malformed_names_are_refused(cluster: Cluster) -> None:
    await cluster.start()
    jobs = cluster.client.jobs
    for name in ("", "x", "jobs/", "jobs/../..", f"jobs/{'0' * 31}", f"jobs/{'A' * 32}", f"{GONE}\n"):
        calls = (
            jobs.GetJob(jobs_pb2.GetJobRequest(name=name)),
            jobs.CancelJob(jobs_pb2.CancelJobRequest(name=name)),
            jobs.DeleteJob(jobs_pb2.DeleteJobRequest(name=name)),
            jobs.WatchJob(jobs_pb2.WatchJobRequest(name=name)).read(),
            jobs.ReadResults(jobs_pb2.ReadResultsRequest(name=name)).read(),
        )
        for call in calls:
            assert type(await failure(call)) is errors.InvalidArgumentError


async def test_unknown_jobs_and_foreign_cursors_are_refused(cluster: Cluster) -> None:
    await cluster.start()
    client = cluster.client
    assert type(await failure(client.get(GONE))) is errors.JobNotFoundError
    assert type(await failure(client.jobs.WatchJob(jobs_pb2.WatchJobRequest(name=GONE)).read())) is (
        errors.JobNotFoundError
    )
    first, second = await client.create([b"x"]), await client.create([b"x"])
    await client.jobs.CancelJob(jobs_pb2.CancelJobRequest(name=first))
    await client.jobs.CancelJob(jobs_pb2.CancelJobRequest(name=second))
    [(_, cursor)] = await client.read(first)
    for wrong in ("nonsense", "AAAA", cursor[:-2], "é" * 10):
        assert type(await failure(client.read(first, wrong))) is errors.InvalidArgumentError
    assert type(await failure(client.read(second, cursor))) is errors.InvalidArgumentError


async def test_an_upload_in_parts_is_the_same_job(cluster: Cluster) -> None:
    await cluster.start()
    request_id = str(uuid.uuid4())
    whole = vision_pb2.Item(item_id="a", media=[vision_pb2.Media(data=bytes(1_000_000))])
    name = await cluster.client.create([whole], request_id=request_id)
    data = whole.SerializeToString()
    pieces = [
        vision_pb2.Part(item_id="a", data=data[:1000]),
        vision_pb2.Part(item_id="a", data=data[1000:], last=True),
    ]
    parts = [jobs_pb2.CreateJobRequest(part=piece) for piece in pieces]
    again = await cluster.client.jobs.CreateJob(iter([spec(request_id=request_id), *parts]))
    assert again.name == name


async def test_refusals_of_a_worker_become_results_or_wait(cluster: Cluster) -> None:
    await cluster.start()
    refusing = await cluster.start_worker("a", "--refuse", "NotFoundError")
    results = await cluster.client.results(await cluster.client.create([b"x"] * 20))
    assert {type(from_status(result.error)) for result in results.values()} == {errors.NotFoundError}
    # One refusal a chunk is enough: what the worker said was understood.
    assert sum("a stream resnet50" in line for line in cluster.log.read_text().splitlines()) <= 2
    refusing.terminate()
    await asyncio.to_thread(refusing.wait)

    await cluster.start_worker("c", "--refuse", "AbortedError")
    name = await cluster.client.create([b"x"] * 20)

    async def refused() -> bool:
        return "c stream" in cluster.log.read_text()

    await until(refused)
    await cluster.start_worker("d")
    results = await cluster.client.results(name)
    assert {result.classification.categories[0] for result in results.values()} == {"workers/d"}
