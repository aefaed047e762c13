"""The `Jobs` service: jobs come in, are looked at, and their results go out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

import grpc.aio
from google.protobuf import empty_pb2

from zoofleet._catalog import ModelName
from zoofleet._serving.handlers import aborting, check_first
from zoofleet._wire import pages
from zoofleet._wire.limits import BATCHES_KEY
from zoofleet._wire.names import parse_job_name
from zoofleet._wire.parts import completed, cut, pack
from zoofleet._wire.status import to_status
from zoofleet.errors import InvalidArgumentError, UnavailableError, ZoofleetError
from zoofleet.scheduler.config import SchedulerConfig
from zoofleet.scheduler.fleet import Fleet
from zoofleet.scheduler.queue import Queue, reach_end
from zoofleet.scheduler.records import JobRecord, StoredResult
from zoofleet.scheduler.store import Store
from zoofleet.scheduler.upload import Upload, check_tenant
from zoofleet.v1 import jobs_pb2, jobs_pb2_grpc, vision_pb2

_DEFAULT_PAGE: Final = 50
_WATCH_INTERVAL: Final = 0.1
"""Least seconds between two reports on a watched job."""

_MISSING_PREFIX: Final = "c"
"""Begins the position of a cursor among the results that a job never got, since it ended early."""

_Context = grpc.aio.ServicerContext[Any, Any]


class JobsService(jobs_pb2_grpc.JobsServicer):
    """Takes jobs in, reports on them, and hands their results out.

    Args:
        queue: the queue that holds the jobs.
        fleet: the live workers, which decide what a job waits for.
        store: the connection to Redis, whose events say that a job has changed.
        config: the scheduler's limits and times.
    """

    def __init__(self, queue: Queue, fleet: Fleet, store: Store, config: SchedulerConfig) -> None:
        self._queue = queue
        self._fleet = fleet
        self._store = store
        self._config = config
        self._closing = False
        self._changes: set[asyncio.Event] = set()

    def close(self) -> None:
        """End the streams that wait for changes."""
        self._closing = True
        for change in self._changes:
            change.set()

    async def CreateJob(  # noqa: D102, N802
        self, requests: AsyncIterator[jobs_pb2.CreateJobRequest], context: _Context
    ) -> jobs_pb2.Job:
        async with aborting(context):
            first = await anext(requests, jobs_pb2.CreateJobRequest())
            check_first(first, "spec")
            upload = Upload(self._queue, self._config, first.spec)
            try:
                await upload.begin()
                if first.accepts_batches:
                    await context.send_initial_metadata(((BATCHES_KEY, "1"),))
                last = first
                async for last in requests:
                    await upload.add(last)
                # The requests of a call that broke off end like those of a complete one.
                if not first.accepts_batches:
                    # Only a complete call can still be answered: for the other this raises CancelledError.
                    await context.send_initial_metadata(())
                elif last is not first and not last.last:
                    raise InvalidArgumentError("the upload ends with a message that does not set 'last'")
                job_id = await upload.finish()
            finally:
                with suppress(UnavailableError):  # then it expires
                    await upload.close()
            return await self._to_proto(await self._queue.get(job_id))

    async def GetJob(self, request: jobs_pb2.GetJobRequest, context: _Context) -> jobs_pb2.Job:  # noqa: D102, N802
        async with aborting(context):
            return await self._to_proto(await self._queue.get(parse_job_name(request.name)))

    async def ListJobs(  # noqa: D102, N802
        self, request: jobs_pb2.ListJobsRequest, context: _Context
    ) -> jobs_pb2.ListJobsResponse:
        async with aborting(context):
            count = pages.size(request.page_size, _DEFAULT_PAGE)
            tenant = check_tenant(request.tenant) if request.tenant else ""
            scope = f"jobs {tenant}"
            before = pages.decode_number("page_token", scope, request.page_token) if request.page_token else None
            jobs, end = await self._queue.list_jobs(tenant, before, count)
            return jobs_pb2.ListJobsResponse(
                jobs=await self._to_protos(jobs),
                next_page_token="" if end is None else pages.encode(scope, str(end)),
            )

    async def CancelJob(  # noqa: D102, N802
        self, request: jobs_pb2.CancelJobRequest, context: _Context
    ) -> jobs_pb2.Job:
        async with aborting(context):
            job_id = parse_job_name(request.name)
            await self._queue.cancel(job_id)
            return await self._to_proto(await self._queue.get(job_id))

    async def DeleteJob(  # noqa: D102, N802
        self, request: jobs_pb2.DeleteJobRequest, context: _Context
    ) -> empty_pb2.Empty:
        async with aborting(context):
            await self._queue.delete(parse_job_name(request.name))
            return empty_pb2.Empty()

    async def WatchJob(  # noqa: D102, N802
        self, request: jobs_pb2.WatchJobRequest, context: _Context
    ) -> AsyncIterator[jobs_pb2.WatchJobResponse]:
        async with aborting(context):
            job_id = parse_job_name(request.name)
            last = None
            with self._following(job_id) as change:
                while True:
                    record = await self._queue.get(job_id)
                    job = await self._to_proto(record)
                    if job != last:
                        yield jobs_pb2.WatchJobResponse(job=job)
                        last = job
                    if record.finished:
                        return
                    sent = time.monotonic()
                    await self._wait(change)
                    await asyncio.sleep(max(0.0, sent + _WATCH_INTERVAL - time.monotonic()))

    async def ReadResults(  # noqa: D102, N802
        self, request: jobs_pb2.ReadResultsRequest, context: _Context
    ) -> AsyncIterator[jobs_pb2.ReadResultsResponse]:
        async with aborting(context):
            job_id = parse_job_name(request.name)
            scope = f"results {job_id}"
            cursor = pages.decode("cursor", scope, request.cursor) if request.cursor else "0"
            # The state is read before the results, so that a job that has finished is read to its end.
            job = await self._queue.get(job_id)
            if not cursor.startswith(_MISSING_PREFIX):
                after = pages.decode_number("cursor", scope, request.cursor) if request.cursor else 0
                with self._following(job_id) as change:
                    while True:
                        results = await self._queue.read_results(job, after)
                        for response in _responses(results, scope, "", in_batches=request.accepts_batches):
                            yield response
                        after = results[-1].position if results else after
                        is_end = reach_end(results)
                        if is_end and (job.finished or not request.follow):
                            break
                        if is_end:
                            await self._wait(change)
                        job = await self._queue.get(job_id)
                cursor = f"{_MISSING_PREFIX}0"
            if job.state in (jobs_pb2.Job.STATE_CANCELLED, jobs_pb2.Job.STATE_FAILED):
                async for response in self._read_missing(job_id, cursor, in_batches=request.accepts_batches):
                    yield response

    async def _read_missing(
        self, job_id: str, cursor: str, *, in_batches: bool
    ) -> AsyncIterator[jobs_pb2.ReadResultsResponse]:
        scope = f"results {job_id}"
        job = await self._queue.get(job_id)
        position = cursor.removeprefix(_MISSING_PREFIX)
        if not (position.isascii() and position.isdecimal() and len(position) < 16 and int(position) <= job.results):
            raise InvalidArgumentError(f"cursor position {cursor[:80]!r} is not one that this job gave out")
        after: int | None = int(position)
        while after is not None and after < job.results:
            results, after = await self._queue.read_missing(job, after)
            for response in _responses(results, scope, _MISSING_PREFIX, in_batches=in_batches):
                yield response

    async def _to_proto(self, job: JobRecord) -> jobs_pb2.Job:
        (message,) = await self._to_protos([job])
        return message

    async def _to_protos(self, jobs: Sequence[JobRecord]) -> list[jobs_pb2.Job]:
        """Return the jobs as messages, the unfinished ones with what they wait for."""
        to_run = {job.job_id: job.unfinished_models for job in jobs}
        reasons = {model: await self._wait_reason(model) for model in sorted(set().union(*to_run.values()))}
        messages = []
        for job in jobs:
            message = job.to_proto()
            reason = next((reason for model in to_run[job.job_id] if (reason := reasons[model])), None)
            if reason is not None:
                message.wait_reason.CopyFrom(to_status(reason))
            messages.append(message)
        return messages

    async def _wait_reason(self, model: str) -> ZoofleetError | None:
        """Return what keeps a model from running now, or None where nothing does."""
        if not self._fleet.view:
            return UnavailableError("no worker is registered")
        able = self._fleet.able(ModelName.parse(model))
        if not able:
            return UnavailableError(f"none of {len(self._fleet.view)} workers takes work for {model}")
        if any(model in worker.loaded for worker in able):
            return None
        return await self._queue.refusal(model)

    @contextmanager
    def _following(self, job_id: str) -> Iterator[asyncio.Event]:
        """Give the block an event that is set at each change of the job."""
        change = asyncio.Event()
        self._changes.add(change)
        try:
            with self._store.listening(f"job {job_id}", lambda _: change.set()):
                yield change
        finally:
            self._changes.discard(change)

    async def _wait(self, change: asyncio.Event) -> None:
        """Wait for a change, or for a sweep's interval in case its event was lost.

        Raises:
            UnavailableError: the scheduler is shutting down.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(self._config.sweep_interval):
                await change.wait()
        change.clear()
        if self._closing:
            raise UnavailableError("the scheduler is shutting down; try again")


def _responses(
    results: Sequence[StoredResult], scope: str, prefix: str, *, in_batches: bool
) -> Iterator[jobs_pb2.ReadResultsResponse]:
    """Yield results with cursors, whose positions begin with `prefix`."""
    wholes = (vision_pb2.Result.FromString(result.data) for result in results)
    if in_batches:
        responses = pack(jobs_pb2.ReadResultsResponse, wholes)
    else:
        responses = (response for whole in wholes for response in cut(jobs_pb2.ReadResultsResponse, whole))
    done = 0
    for response in responses:
        if count := completed(response):
            done += count
            response.cursor = pages.encode(scope, f"{prefix}{results[done - 1].position}")
        yield response
