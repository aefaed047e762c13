"""The durable queue: a typed API over the Lua scripts, each of which is one atomic step.

Results are exactly-once because `commit.lua` and its like set a bit for each (item, task) and store nothing where it
was set; leases only save work from being done twice.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from google.rpc import status_pb2

from zoofleet._status import error_result, to_status
from zoofleet.errors import (
    AbortedError,
    AlreadyExistsError,
    CancelledError,
    FailedPreconditionError,
    InvalidArgumentError,
    JobNotFoundError,
    LeaseLostError,
    PoisonItemError,
    ResourceExhaustedError,
)
from zoofleet.scheduler import keys
from zoofleet.scheduler.config import SchedulerConfig
from zoofleet.scheduler.records import Claim, JobRecord, Lease, LeasedItem, NewJob, Outcome, StagedItem, StoredResult
from zoofleet.scheduler.store import Store
from zoofleet.v1 import jobs_pb2, vision_pb2

_QUOTA_RETRY: Final = 5.0
"""Seconds after which a client that met a full queue should try again."""

_READ_RESULTS: Final = 500
_READ_BYTES: Final = 4 * 1024 * 1024
"""Results are read in steps of at most so many results, and of few more bytes than this."""

_PAGE: Final = 4096
"""Results looked at in one step when those that a cancelled job lacks are listed; a multiple of 8."""


class Queue:
    """The jobs in Redis. Every method raises UnavailableError where Redis does not answer.

    Args:
        store: where they are.
        config: limits and times.
    """

    def __init__(self, store: Store, config: SchedulerConfig) -> None:
        self._store = store
        self._config = config
        poison = PoisonItemError(
            f"given up after {config.max_attempts} attempts, each of which ended with a dead worker"
        )
        self._poison = to_status(poison).SerializeToString()

    async def check_tenant(self, tenant: str) -> None:
        """Raise ResourceExhaustedError where the tenant has as many unfinished jobs as it may."""
        if await self._store.call("SCARD", keys.tenant_active(tenant)) >= self._config.max_tenant_jobs:
            raise self._too_many_jobs(tenant)

    async def find_request(self, request_id: str) -> bool:
        """Whether a job was made with this request id."""
        return bool(await self._store.call("EXISTS", keys.request(request_id)))

    async def stage(self, job_id: str, first: int, task_count: int, items: Sequence[StagedItem]) -> None:
        """Store the next items of an upload, the first of which has the index `first`.

        Raises:
            InvalidArgumentError: two items have the same id.
            ResourceExhaustedError: over a quota in items or bytes.
            AbortedError: the upload paused for too long and has expired.
        """
        config = self._config
        fields = [field for item in items for field in (item.item_id, item.data, item.status)]
        outcome, *details = await self._store.run(
            "stage",
            job_id,
            first,
            task_count,
            config.max_job_items,
            config.max_queued_bytes,
            _milliseconds(config.upload_timeout),
            *fields,
        )
        if outcome == b"DUPLICATE":
            raise InvalidArgumentError(f"two items have the item_id {details[0].decode()[:80]!r}")
        if outcome == b"ITEMS":
            raise ResourceExhaustedError(f"more than {config.max_job_items} items; split the job")
        if outcome == b"BYTES":
            raise ResourceExhaustedError(
                f"the queue holds its limit of {config.max_queued_bytes} bytes of items", _QUOTA_RETRY
            )
        if outcome == b"GONE":
            raise self._expired()

    async def discard(self, job_id: str) -> None:
        """Drop an upload; nothing happens where there is none."""
        await self._store.run("discard", job_id)

    async def publish(self, job: NewJob) -> str:
        """Make an upload a job, and return its id: that of the first time where the request id was used before.

        Raises:
            AlreadyExistsError: the request id was used for a different job.
            ResourceExhaustedError: the tenant has as many unfinished jobs as it may.
            AbortedError: the upload has expired.
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
        loaded: Collection[str] = (),
        refused: Collection[str] = (),
        quarantine: bool = False,
    ) -> Claim:
        """Lease the next chunk to a worker.

        Args:
            worker_id: who gets it.
            max_items: most items in it.
            builders: what it can load.
            loaded: models that it has in memory, which go first within limits.
            refused: models that it must not get now.
            quarantine: whether to lease an item that must run alone.
        """
        config = self._config
        quarantined, *leases = await self._store.run(
            "claim",
            worker_id,
            max_items,
            config.chunk_bytes,
            _milliseconds(config.lease),
            config.chunk_items,
            "quarantine" if quarantine else "lanes",
            ",".join(builders),
            ",".join(loaded),
            ",".join(refused),
        )
        if not leases or leases[0] is None:
            return Claim(None, quarantined)
        token, job_id, task_index, attempts, task, indices, ids, data = leases[0]
        items = tuple(
            LeasedItem(index, name.decode(), item) for index, name, item in zip(indices, ids, data, strict=True)
        )
        return Claim(Lease(token, job_id.decode(), task_index, attempts, task, items), quarantined)

    async def renew(self, tokens: Collection[int]) -> frozenset[int]:
        """Renew leases; returns the tokens of those that are gone."""
        lost = await self._store.run("renew", _milliseconds(self._config.lease), *tokens)
        return frozenset(map(int, lost))

    async def commit(self, token: int, outcomes: Sequence[Outcome]) -> None:
        """Commit results of a leased chunk; with the last one the lease ends.

        Raises:
            LeaseLostError: the lease is gone; nothing was committed.
        """
        fields = [field for outcome in outcomes for field in (outcome.index, int(outcome.failed), outcome.data)]
        if not await self._store.run("commit", token, *fields):
            raise LeaseLostError(f"lease {token} is gone")

    async def release(self, token: int, *, counts: bool, status: status_pb2.Status | None = None) -> None:
        """Hand back what a lease has left; nothing happens where it is gone.

        Args:
            token: of the lease.
            counts: whether its items may be to blame: each then goes on alone, with one attempt less.
            status: the result of an item that has no attempts left; that of a poison item where left out.
        """
        final = self._poison if status is None else status.SerializeToString()
        await self._store.run("release", token, int(counts), self._config.max_attempts, final)

    async def reap(self) -> tuple[int, int, int]:
        """Take back expired leases, drop expired uploads and jobs; returns how many of each."""
        leases, uploads, jobs = await self._store.run("reap", self._config.max_attempts, self._poison)
        return leases, uploads, jobs

    async def get(self, job_id: str) -> JobRecord:
        """Return a job.

        Raises:
            JobNotFoundError: there is none, or it has expired.
        """
        fields = await self._store.call("HGETALL", keys.job(job_id))
        if not fields:
            raise _not_found(job_id)
        return JobRecord.parse(job_id, fields)

    async def list_jobs(self, tenant: str, before: int | None, count: int) -> tuple[list[JobRecord], int | None]:
        """Return up to `count` jobs, the newest first.

        Args:
            tenant: whose; everybody's where empty.
            before: where the page before ended, None for the first one.
            count: at least 1.

        Returns:
            The jobs, and where the page ends, None for the last one.
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
        """End a job early; nothing happens to a finished one.

        Raises:
            JobNotFoundError: there is none.
        """
        if not await self._store.run("cancel", job_id):
            raise _not_found(job_id)

    async def delete(self, job_id: str) -> None:
        """Delete a finished job.

        Raises:
            JobNotFoundError: there is none.
            FailedPreconditionError: it has not finished.
        """
        outcome = await self._store.run("delete", job_id)
        if outcome == b"MISSING":
            raise _not_found(job_id)
        if outcome == b"UNFINISHED":
            raise FailedPreconditionError(f"jobs/{job_id} has not finished; cancel it first")

    async def read_results(self, job: JobRecord, after: int) -> list[StoredResult]:
        """Return some results committed after the position `after` (0 for the first ones); none where all were."""
        rows = await self._store.run("read", job.job_id, after, _READ_RESULTS, _READ_BYTES)
        return [await self._stored(job, int(name.partition(b"-")[0]), fields) for name, fields in rows]

    async def read_cancelled(self, job: JobRecord, after: int) -> tuple[list[StoredResult], int | None]:
        """Return some of the results that a cancelled job never got, each as an error.

        Args:
            job: cancelled.
            after: where the page before ended, 0 for the first one.

        Returns:
            The results, whose positions start with 1, and where the page ends, None for the last one.
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
        error = CancelledError("the job was cancelled before this ran")
        missing = []
        for bit in range(first, last):
            byte = bit // 8 - first // 8
            if byte < len(bits) and bits[byte] >> (7 - bit % 8) & 1:
                continue
            index, task = divmod(bit, len(tasks))
            name = ids[index - first // len(tasks)].decode()
            missing.append(StoredResult(bit + 1, error_result(name, tasks[task], error).SerializeToString()))
        return missing, None if last == job.results else last

    async def dead_letters(self, count: int) -> list[tuple[str, int, int]]:
        """Return job id, task index and item index of the last items that were given up, the newest first."""
        rows = await self._store.call("LRANGE", keys.DEAD_LETTERS, 0, count - 1)
        letters = (row.decode().split(":") for row in rows)
        return [(job_id, int(task), int(index)) for job_id, task, index in letters]

    async def _stored(self, job: JobRecord, position: int, flat: list[bytes]) -> StoredResult:
        fields = dict(zip(flat[::2], flat[1::2], strict=True))
        if b"r" in fields:
            return StoredResult(position, fields[b"r"])
        task, index = map(int, fields[b"p"].split(b":"))
        name = await self._store.call("LINDEX", keys.ids(job.job_id), index)
        if name is None:
            raise _not_found(job.job_id)  # deleted since
        result = vision_pb2.Result(
            item_id=name.decode(),
            model=job.spec.tasks[task].model,
            precision=job.spec.tasks[task].precision,
            error=status_pb2.Status.FromString(fields[b"s"]),
        )
        return StoredResult(position, result.SerializeToString())

    def _too_many_jobs(self, tenant: str) -> ResourceExhaustedError:
        return ResourceExhaustedError(
            f"tenant {tenant!r} has its limit of {self._config.max_tenant_jobs} unfinished jobs", _QUOTA_RETRY
        )

    def _expired(self) -> AbortedError:
        return AbortedError(f"the upload paused for more than {self._config.upload_timeout:g} s and was discarded")


def _not_found(job_id: str) -> JobNotFoundError:
    return JobNotFoundError(f"no job is named 'jobs/{job_id}', or it has expired")


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
