"""The durable queue: a typed API over the Lua scripts, each of which is one atomic step.

Each item and task gets exactly one result because every script that stores results sets a bit for the item and task,
and stores nothing where the bit was set. Leases only keep work from being done twice.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Final

from google.rpc import status_pb2

from zoofleet._wire.names import job_name
from zoofleet._wire.status import error_result, from_status, to_status
from zoofleet.errors import (
    AbortedError,
    AlreadyExistsError,
    CancelledError,
    DataLossError,
    FailedPreconditionError,
    InvalidArgumentError,
    JobNotFoundError,
    LeaseLostError,
    PoisonItemError,
    ResourceExhaustedError,
    ZoofleetError,
)
from zoofleet.scheduler import keys
from zoofleet.scheduler.config import SchedulerConfig
from zoofleet.scheduler.records import (
    Cause,
    JobRecord,
    Lease,
    LeasedItem,
    NewJob,
    ReadyResult,
    Reaped,
    StagedItem,
    StoredResult,
)
from zoofleet.scheduler.store import Store
from zoofleet.v1 import jobs_pb2, vision_pb2

_log: Final = logging.getLogger(__name__)

_QUOTA_RETRY: Final = 5.0
"""Seconds after which a client that met a full queue should try again."""

_READ_RESULTS: Final = 500
"""Most results that are read in one step."""

_READ_BYTES: Final = 4 * 1024 * 1024
"""Bytes after which a step of reading takes no further result."""

_RESERVED_SWEEPS: Final = 5
"""Number of sweeps after its last claim for which a worker stays reserved for items in quarantine."""

_REFUSALS_KEPT: Final = 600.0
"""Seconds without a refusal of a model after which the next refusal counts as the first one again."""

_DATA_LOST: Final = to_status(DataLossError("the store has lost this item; submit it again")).SerializeToString()

_PAGE: Final = 4096
"""Results looked at in one step when those that a job lacks are listed; a multiple of 8."""


class Queue:
    """The jobs in Redis.

    Every method raises UnavailableError where Redis does not answer, ResourceExhaustedError where it is out of memory,
    and InternalError where it refuses the command.

    Args:
        store: the connection to Redis.
        config: the scheduler's limits and times.
    """

    def __init__(self, store: Store, config: SchedulerConfig) -> None:
        self._store = store
        self._config = config
        poison = PoisonItemError(
            f"given up after {config.max_attempts} attempts, each of which ended with a dead worker"
        )
        self._poison = to_status(poison).SerializeToString()
        # A worker that lives beats in this time, even if it has to find another scheduler first.
        self._verdict_ms = _milliseconds(config.heartbeat_timeout + 2 * config.heartbeat_interval)

    async def migrate(self) -> None:
        """Bring what an earlier version left in Redis into the present form. Call it before anything else."""
        if jobs := await self._store.run("migrate"):
            _log.warning("brought %d jobs of an earlier version over", jobs)

    async def check_tenant(self, tenant: str) -> None:
        """Raise ResourceExhaustedError where the tenant has as many unfinished jobs as it may."""
        if await self._store.call("SCARD", keys.tenant_active(tenant)) >= self._config.max_tenant_jobs:
            raise self._too_many_jobs(tenant)

    async def find_request(self, request_id: str) -> bool:
        """Return whether a job was made with this request id."""
        return bool(await self._store.call("EXISTS", keys.request(request_id)))

    async def stage(
        self, job_id: str, first: int, task_count: int, items: Sequence[StagedItem], tenant: str = "default"
    ) -> None:
        """Store the next items of an upload.

        Args:
            job_id: the job that is being uploaded, 32 hex digits.
            first: the index of the first of these items, from 0.
            task_count: the number of the job's tasks.
            items: the items.
            tenant: whose quota they count against.

        Raises:
            InvalidArgumentError: two items have the same id.
            ResourceExhaustedError: the job has too many items, or the tenant or the store too many bytes.
            AbortedError: the upload paused for too long and has expired, or Redis has lost some of it.
        """
        config = self._config
        fields = [field for item in items for field in (item.item_id, item.data, item.status)]
        outcome, *details = await self._store.run(
            "stage",
            job_id,
            tenant,
            first,
            task_count,
            config.max_job_items,
            config.max_tenant_bytes,
            config.max_stored_bytes,
            _milliseconds(config.upload_timeout),
            *fields,
        )
        if outcome == b"DUPLICATE":
            raise InvalidArgumentError(f"two items have the item_id {details[0].decode()[:80]!r}")
        if outcome == b"ITEMS":
            raise ResourceExhaustedError(f"more than {config.max_job_items} items; split the job")
        if outcome in (b"TENANT", b"ALL"):
            raise self._too_many_bytes(outcome, tenant)
        if outcome == b"GONE":
            raise self._expired()

    async def discard(self, job_id: str) -> None:
        """Drop an upload. Nothing happens where there is none."""
        await self._store.run("discard", job_id)

    async def publish(self, job: NewJob) -> str:
        """Make an upload a job, and return the job's id.

        Where the request id was used for the same job before, that job's id is returned, and the upload is dropped.

        Raises:
            AlreadyExistsError: the request id was used for a different job.
            ResourceExhaustedError: the tenant has as many unfinished jobs as it may.
            AbortedError: the upload has expired, or Redis has lost some of it.
        """
        spec = jobs_pb2.Job(tasks=job.tasks, tenant=job.tenant, priority=job.priority)
        spec.ttl.FromMilliseconds(_milliseconds(job.ttl))
        outcome, *details = await self._store.run(
            "publish",
            job.job_id,
            job.tenant,
            job.priority,
            _milliseconds(job.ttl),
            job.request_id,
            job.digest,
            self._config.max_tenant_jobs,
            spec.SerializeToString(),
            job.item_count,
            job.data_count,
            *(field for task in job.tasks for field in (task.model, task.SerializeToString(deterministic=True))),
        )
        if outcome == b"CONFLICT":
            raise AlreadyExistsError(f"request_id {job.request_id!r} was used for a different job")
        if outcome == b"JOBS":
            raise self._too_many_jobs(job.tenant)
        if outcome == b"GONE":
            raise self._expired()
        published: bytes = details[0]
        return published.decode()

    async def claim(
        self,
        worker_id: str,
        max_items: int,
        *,
        builders: Collection[str],
        instance: str,
        window: int,
        loaded: Collection[str] = (),
        refused: Collection[str] = (),
    ) -> Lease | None:
        """Lease the next chunk to a worker, and return the lease, or None where the worker gets none.

        Args:
            worker_id: the worker.
            max_items: the most items that the chunk may have.
            builders: the builders that the worker can load.
            instance: the id of the worker's process, which gets nothing where another one is registered.
            window: the most items that the worker may hold at once, from all replicas together.
            loaded: the models in the worker's memory, whose chunks go first within limits.
            refused: the models whose chunks the worker must not get now.
        """
        config = self._config
        chunk = await self._store.run(
            "claim",
            worker_id,
            instance,
            max_items,
            config.chunk_bytes,
            _milliseconds(config.lease),
            window,
            _milliseconds(_RESERVED_SWEEPS * config.sweep_interval),
            ",".join(builders),
            ",".join(loaded),
            ",".join(refused),
            _DATA_LOST,
        )
        if chunk is None:
            return None
        token, job_id, tenant, task_index, start, attempts, task, indices, ids, data = chunk
        items = tuple(
            LeasedItem(index, name.decode(), item) for index, name, item in zip(indices, ids, data, strict=True)
        )
        return Lease(int(token), job_id.decode(), tenant.decode(), task_index, start, attempts, task, items)

    async def renew(self, leases: Sequence[tuple[Lease, bool]]) -> frozenset[int]:
        """Renew leases, and return the tokens of those that are gone.

        Args:
            leases: the leases, each with whether its worker may have seen an item of it.
        """
        fields = [field for lease, sent in leases for field in (*lease.fence, int(sent))]
        lost = await self._store.run("renew", _milliseconds(self._config.lease), *fields)
        return frozenset(map(int, lost))

    async def commit(self, lease: Lease, results: Sequence[ReadyResult]) -> None:
        """Commit results of a leased chunk. The lease ends with the chunk's last result.

        A job whose results exceed the bytes of its tenant or of the store ends as FAILED.

        Raises:
            LeaseLostError: the lease is gone; nothing was committed.
        """
        config = self._config
        fields = [field for result in results for field in (result.index, int(result.failed), result.data)]
        answer = await self._store.run(
            "commit", *lease.fence, config.max_tenant_bytes, config.max_stored_bytes, *fields
        )
        if answer == b"GONE":
            raise LeaseLostError(f"lease {lease.token} is gone")
        if answer != b"OK":
            await self.fail(lease.job_id, self._too_many_bytes(answer, lease.tenant))

    async def fail(self, job_id: str, error: ZoofleetError) -> None:
        """End a job as FAILED that cannot go on. Nothing happens to a job that has finished."""
        if await self._store.run("fail", job_id, to_status(error).SerializeToString()):
            _log.warning("jobs/%s failed: %s", job_id, error)

    async def release(self, lease: Lease, cause: Cause, status: status_pb2.Status | None = None) -> None:
        """Hand back the items of a lease that have no result yet. Nothing happens where the lease is gone.

        Where the attempt counts, each item is leased alone from then on.

        Args:
            lease: the chunk's lease.
            cause: why the chunk comes back.
            status: the error that becomes the result of an item without attempts left; None says that the item's
                workers died.
        """
        final = self._poison if status is None else status.SerializeToString()
        await self._store.run("release", *lease.fence, cause, self._config.max_attempts, final, self._verdict_ms)

    async def refuse(
        self, lease: Lease, model: str, worker_id: str, able: Collection[str], error: ZoofleetError
    ) -> int:
        """Note that a worker could not load a model, and end the jobs that have waited for the model in vain.

        Args:
            lease: the lease whose items the worker refused.
            model: the model.
            worker_id: the worker.
            able: the ids of the workers that might run the model.
            error: why the worker could not load it.

        Returns:
            The number of jobs that were ended.
        """
        ended: int = await self._store.run(
            "refuse",
            model,
            worker_id,
            lease.job_id,
            to_status(error).SerializeToString(),
            _milliseconds(self._config.load_timeout),
            _milliseconds(_REFUSALS_KEPT),
            *able,
        )
        return ended

    async def accept(self, model: str) -> None:
        """Note that a worker could load a model after all."""
        await self._store.call("DEL", keys.refusals(model))

    async def refusal(self, model: str) -> ZoofleetError | None:
        """Return why workers could not load a model lately, or None where one could or none has tried."""
        status = await self._store.call("HGET", keys.refusals(model), "status")
        return None if status is None else from_status(status_pb2.Status.FromString(status))

    async def reap(self) -> Reaped:
        """Take back expired leases, give up items, and drop expired uploads and jobs: at most 100 of each."""
        answer = await self._store.run("reap", self._config.max_attempts, self._poison, self._verdict_ms)
        leases, given_up, uploads, jobs, more = answer
        return Reaped(leases, given_up, uploads, jobs, bool(more))

    async def get(self, job_id: str) -> JobRecord:
        """Return a job.

        Raises:
            JobNotFoundError: there is no such job, or it has expired.
        """
        fields = await self._store.call("HGETALL", keys.job(job_id))
        if not fields:
            raise _not_found(job_id)
        return JobRecord.parse(job_id, fields)

    async def list_jobs(self, tenant: str, before: int | None, count: int) -> tuple[list[JobRecord], int | None]:
        """Return a page of jobs, the newest first.

        Args:
            tenant: the tenant whose jobs are listed; those of all tenants where empty.
            before: the end of the previous page, None for the first page.
            count: the most jobs in the page, 1 or more.

        Returns:
            The jobs, and the end of the page, which is None for the last one.
        """
        index = keys.tenant_jobs(tenant) if tenant else keys.JOBS
        newest = "+inf" if before is None else f"({before}"
        flat = await self._store.call("ZREVRANGEBYSCORE", index, newest, "-inf", "WITHSCORES", "LIMIT", 0, count + 1)
        rows = [(name.decode(), int(score)) for name, score in zip(flat[::2], flat[1::2], strict=True)]
        entries = rows[:count]
        hashes = await self._store.call_many([("HGETALL", keys.job(job_id)) for job_id, _ in entries])
        # A job that has expired stays in the index until the next sweep.
        jobs = [JobRecord.parse(job_id, fields) for (job_id, _), fields in zip(entries, hashes, strict=True) if fields]
        return jobs, entries[-1][1] if len(rows) > count else None

    async def cancel(self, job_id: str) -> None:
        """End a job early. Nothing happens to a finished job.

        Raises:
            JobNotFoundError: there is no such job.
        """
        if not await self._store.run("cancel", job_id):
            raise _not_found(job_id)

    async def delete(self, job_id: str) -> None:
        """Delete a finished job.

        Raises:
            JobNotFoundError: there is no such job.
            FailedPreconditionError: the job has not finished.
        """
        outcome = await self._store.run("delete", job_id)
        if outcome == b"MISSING":
            raise _not_found(job_id)
        if outcome == b"UNFINISHED":
            raise FailedPreconditionError(f"{job_name(job_id)} has not finished; cancel it first")

    async def read_results(self, job: JobRecord, after: int) -> list[StoredResult]:
        """Return some of the results after the position `after`, 0 for the first ones; an empty list at the end."""
        rows = await self._store.run("read", job.job_id, after, _READ_RESULTS, _READ_BYTES)
        return [StoredResult(row[0], row[1] if len(row) == 2 else _status_result(job, *row[1:])) for row in rows]

    async def read_missing(self, job: JobRecord, after: int) -> tuple[list[StoredResult], int | None]:
        """Return some of the results that a job that ended early never got, each as an error.

        Args:
            job: a job that was cancelled or has failed.
            after: the end of the previous page, 0 for the first page.

        Returns:
            The results, whose positions start with 1, and the end of the page, which is None for the last one.
        """
        tasks = [task.model for task in job.spec.tasks]
        first, last = after, min((after // _PAGE + 1) * _PAGE, job.results)  # bits, not positions: one less
        bits, ids = await self._store.call_many(
            [
                ("GETRANGE", keys.done(job.job_id), first // 8, (last - 1) // 8),
                ("LRANGE", keys.ids(job.job_id), first // len(tasks), (last - 1) // len(tasks)),
            ]
        )
        if len(ids) <= (last - 1) // len(tasks) - first // len(tasks):
            raise _not_found(job.job_id)  # deleted since
        error = CancelledError("the job was cancelled before this ran") if job.error is None else from_status(job.error)
        missing = []
        for bit in range(first, last):
            byte = bit // 8 - first // 8
            if byte < len(bits) and bits[byte] >> (7 - bit % 8) & 1:
                continue
            index, task = divmod(bit, len(tasks))
            name = ids[index - first // len(tasks)].decode()
            missing.append(StoredResult(bit + 1, error_result(name, tasks[task], error).SerializeToString()))
        return missing, None if last == job.results else last

    def _too_many_jobs(self, tenant: str) -> ResourceExhaustedError:
        return ResourceExhaustedError(
            f"tenant {tenant!r} has its limit of {self._config.max_tenant_jobs} unfinished jobs", _QUOTA_RETRY
        )

    def _too_many_bytes(self, which: bytes, tenant: str) -> ResourceExhaustedError:
        if which == b"TENANT":
            held = f"tenant {tenant!r} has more than its limit of {self._config.max_tenant_bytes} bytes"
        else:
            held = f"the store has more than its limit of {self._config.max_stored_bytes} bytes"
        return ResourceExhaustedError(f"{held} of items and results; delete finished jobs, or try later", _QUOTA_RETRY)

    def _expired(self) -> AbortedError:
        return AbortedError(
            f"the upload paused for more than {self._config.upload_timeout:g} s, or the store lost some of it; it was "
            "discarded"
        )


def reach_end(results: Sequence[StoredResult]) -> bool:
    """Return whether there were no further ones when `Queue.read_results` returned these."""
    # What is returned for an error is larger than what is stored, so that this errs to the safe side.
    return len(results) < _READ_RESULTS and sum(len(result.data) for result in results) < _READ_BYTES


def _not_found(job_id: str) -> JobNotFoundError:
    return JobNotFoundError(f"no job is named '{job_name(job_id)}', or it has expired")


def _status_result(job: JobRecord, status: bytes, task: int, item_id: bytes) -> bytes:
    result = vision_pb2.Result(
        item_id=item_id.decode(),
        model=job.spec.tasks[task].model,
        precision=job.spec.tasks[task].precision,
        error=status_pb2.Status.FromString(status),
    )
    return result.SerializeToString()


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
