"""The calls of the service `Jobs`: bulk work that outlives its client."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator
from contextlib import aclosing
from datetime import timedelta
from typing import Any, Final

import grpc

from zoofleet._client.connection import Connection, responses, taken
from zoofleet._client.items import ItemReader, ItemSource
from zoofleet._client.retry import Backoff
from zoofleet._values.resources import Job
from zoofleet._values.results import Result
from zoofleet._values.tasks import Task
from zoofleet._wire.calls import Ending, typed_errors
from zoofleet._wire.limits import BATCH_ITEMS, BATCHES_KEY, MAX_RESULT_BYTES
from zoofleet._wire.parts import Joiner, cut, pack
from zoofleet.errors import DeadlineExceededError, InvalidArgumentError, UnavailableError, ZoofleetError
from zoofleet.v1 import jobs_pb2, jobs_pb2_grpc, vision_pb2

_ANSWER_SECONDS: Final = 0.05
"""How long an upload waits to hear that the server takes batches, which one that does says at once."""


class JobsCalls(Connection):
    """The calls of the service `Jobs`, which a scheduler serves."""

    def __init__(self, address: str | None = None, *, retry_timeout: float = 30.0) -> None:
        super().__init__(address, retry_timeout=retry_timeout)
        self._jobs: jobs_pb2_grpc.JobsAsyncStub = jobs_pb2_grpc.JobsStub(self._channel)

    async def create_job(
        self,
        items: Iterable[ItemSource] | AsyncIterable[ItemSource],
        tasks: Iterable[Task],
        *,
        tenant: str = "",
        priority: int = 0,
        ttl: float | None = None,
        request_id: str | None = None,
    ) -> Job:
        """Queue a job. Once this returns, all of the job is stored, and the client is no longer needed.

        While the server cannot be reached, the job is sent again, provided that `items` can be iterated again (a list
        can, a generator cannot). The request id makes sure that the job is queued once.

        Args:
            items: media, pairs of images (tuples) for optical flow, or `Item`s with ids of their own. A plain iterable
                is read in a thread, one item at a time. An item that cannot be read fails the call.
            tasks: 1 to 8 tasks; each runs on every item.
            tenant: the name that quotas and fairness count the job under, 1 to 63 of a-z, 0-9 and '-'. Empty for
                `default`.
            priority: -100 to 100. A job runs before all jobs of the same tenant with a lower priority.
            ttl: seconds that the job is kept after it has finished. None for the server's default, 24 hours unless its
                operator has set another.
            request_id: a UUID. A second call with the same one returns the job of the first call. None for a new one.

        Returns:
            The queued job.

        Raises:
            MediaNotFoundError, PermissionDeniedError, InvalidMediaError: a file is not there or cannot be read.
            InvalidArgumentError: an argument is out of range, or two items have one id.
            UnknownModelError, UnknownWeightsError: there is no such model or weight set.
            AlreadyExistsError: the request id belongs to a different job.
            ResourceExhaustedError: a quota or the queue is full.
            UnavailableError: the server cannot be reached.
        """
        try:
            job = jobs_pb2.Job(tasks=[task.to_proto() for task in tasks], tenant=tenant, priority=priority)
            if ttl is not None:
                job.ttl.FromTimedelta(timedelta(seconds=ttl))
        except (ValueError, OverflowError) as error:
            raise InvalidArgumentError(f"tenant {tenant!r}, priority {priority}, ttl {ttl}: {error}") from None
        spec = jobs_pb2.JobSpec(job=job, request_id=request_id or str(uuid.uuid4()))
        backoff = Backoff(0 if isinstance(items, Iterator | AsyncIterator) else self._retry_timeout)
        while True:
            try:
                return await self._upload(spec, items)
            except ZoofleetError as error:
                await backoff.pause(error)

    async def _upload(self, spec: jobs_pb2.JobSpec, items: Iterable[ItemSource] | AsyncIterable[ItemSource]) -> Job:
        call = self._jobs.CreateJob()
        # Where the server does not know batches, this ends with the call.
        answered = asyncio.ensure_future(call.initial_metadata())
        reader = ItemReader(items)
        with typed_errors(Ending(call)):
            try:
                await call.write(jobs_pb2.CreateJobRequest(spec=spec, accepts_batches=True))
                await asyncio.wait((answered,), timeout=_ANSWER_SECONDS)
                last: jobs_pb2.CreateJobRequest | None = None
                while await reader.wait(BATCH_ITEMS):
                    for request in _requests(_taken_from(reader), in_batches=_takes_batches(answered)):
                        if last is not None:
                            await call.write(last)
                        last = request
                if last is not None:
                    last.last = True
                    await call.write(last)
                await call.done_writing()
            except (grpc.RpcError, asyncio.InvalidStateError):
                pass  # the call has ended: its status says why
            except BaseException:
                call.cancel()
                raise
            finally:
                answered.cancel()
                await asyncio.gather(answered, reader.close(), return_exceptions=True)
            return Job.from_proto(await call)

    async def get_job(self, name: str) -> Job:
        """Return a job in its present state.

        Args:
            name: the job's name, `jobs/{job}`.

        Raises:
            JobNotFoundError: there is no such job, or it has expired.
            UnavailableError: the server cannot be reached.
        """
        return Job.from_proto(await self._call(self._jobs.GetJob, jobs_pb2.GetJobRequest(name=name)))

    async def list_jobs(self, *, tenant: str = "") -> AsyncGenerator[Job]:
        """Yield all jobs, the newest first.

        Args:
            tenant: yield the jobs of this tenant only. Empty for the jobs of all tenants.

        Raises:
            UnavailableError: the server cannot be reached.
        """
        request = jobs_pb2.ListJobsRequest(tenant=tenant)
        async for page in self._pages(self._jobs.ListJobs, request):
            for job in page.jobs:
                yield Job.from_proto(job)

    async def cancel_job(self, name: str) -> Job:
        """Stop a job. What has not run yet gets a `CancelledError` as its result. A finished job stays as it is.

        Args:
            name: the job's name, `jobs/{job}`.

        Returns:
            The job after the call.

        Raises:
            JobNotFoundError: there is no such job, or it has expired.
            UnavailableError: the server cannot be reached.
        """
        return Job.from_proto(await self._call(self._jobs.CancelJob, jobs_pb2.CancelJobRequest(name=name)))

    async def delete_job(self, name: str) -> None:
        """Delete a finished job with its items and results.

        Args:
            name: the job's name, `jobs/{job}`.

        Raises:
            JobNotFoundError: there is no such job, or it has expired.
            FailedPreconditionError: the job has not finished. Cancel it first.
            UnavailableError: the server cannot be reached.
        """
        await self._call(self._jobs.DeleteJob, jobs_pb2.DeleteJobRequest(name=name))

    async def watch_job(self, name: str) -> AsyncGenerator[Job]:
        """Yield a job now and at each change, until it has finished. A restart of the scheduler does not end this.

        Args:
            name: the job's name, `jobs/{job}`.

        Raises:
            JobNotFoundError: there is no such job, it has expired, or it was deleted in the meantime.
            UnavailableError: the server cannot be reached.
        """
        backoff = Backoff(self._retry_timeout)
        while True:
            try:
                async for response in responses(self._jobs.WatchJob(jobs_pb2.WatchJobRequest(name=name))):
                    backoff.progress()
                    job = Job.from_proto(response.job)
                    yield job
                    if job.finished:
                        return
                raise UnavailableError(f"the server ended its report on {name} before the job had finished")
            except UnavailableError as error:
                await backoff.pause(error)

    async def wait_job(self, name: str, *, timeout: float | None = None) -> Job:
        """Wait until a job has finished, and return it.

        Args:
            name: the job's name, `jobs/{job}`.
            timeout: seconds to wait at most. None for no limit.

        Raises:
            DeadlineExceededError: the job has not finished within `timeout` seconds.
            JobNotFoundError: there is no such job, it has expired, or it was deleted in the meantime.
            UnavailableError: the server cannot be reached.
        """
        try:
            async with asyncio.timeout(timeout), aclosing(self.watch_job(name)) as states:
                async for job in states:
                    if job.finished:
                        return job
        except TimeoutError as error:
            if isinstance(error, ZoofleetError):
                raise
            raise DeadlineExceededError(f"{name} has not finished within {timeout:g} s") from None
        raise UnavailableError(f"{name} was not watched to its end")

    async def read_results(self, name: str, *, follow: bool = True) -> AsyncGenerator[Result]:
        """Yield the results of a job, each once, in the order in which they were committed.

        Args:
            name: the job's name, `jobs/{job}`.
            follow: wait for further results until the job has finished. Without it, end after the present ones.

        Raises:
            JobNotFoundError: there is no such job, it has expired, or it was deleted in the meantime.
            UnavailableError: the server cannot be reached.
        """
        backoff = Backoff(self._retry_timeout)
        cursor = ""
        while True:
            request = jobs_pb2.ReadResultsRequest(name=name, cursor=cursor, follow=follow, accepts_batches=True)
            joiner = Joiner(vision_pb2.Result, MAX_RESULT_BYTES)
            try:
                async for response in responses(self._jobs.ReadResults(request)):
                    backoff.progress()
                    cursor = response.cursor or cursor
                    for result in taken(joiner, response):
                        yield Result.from_proto(result)
                return
            except UnavailableError as error:
                await backoff.pause(error)


def _takes_batches(answered: asyncio.Future[Any]) -> bool:
    """Return whether the initial metadata of a call have come, and say that the server takes batches."""
    if not answered.done() or answered.cancelled() or answered.exception() is not None:
        return False
    return any(key == BATCHES_KEY for key, _ in answered.result() or ())


def _taken_from(reader: ItemReader) -> Iterator[vision_pb2.Item]:
    """Take the items out that are ready.

    Raises:
        ZoofleetError: an item cannot be read.
    """
    while reader.ready:
        item_id, item = reader.ready.popleft()
        if isinstance(item, ZoofleetError):
            raise type(item)(f"item {item_id!r}: {item}")
        yield item


def _requests(items: Iterator[vision_pb2.Item], *, in_batches: bool) -> Iterator[jobs_pb2.CreateJobRequest]:
    if in_batches:
        yield from pack(jobs_pb2.CreateJobRequest, items)
    else:
        for item in items:
            yield from cut(jobs_pb2.CreateJobRequest, item)
