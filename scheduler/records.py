"""What the queue takes and gives, as plain values. A job's spec and tasks stay the messages that Redis stores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import status_pb2

from zoofleet._wire.names import job_name
from zoofleet.v1 import jobs_pb2, vision_pb2

FINISHED = frozenset({jobs_pb2.Job.STATE_SUCCEEDED, jobs_pb2.Job.STATE_FAILED, jobs_pb2.Job.STATE_CANCELLED})
"""States that a job never leaves."""


@dataclass(frozen=True, slots=True)
class StagedItem:
    """An item on its way into the queue.

    Attributes:
        item_id: the item's id, unique in its job.
        data: the serialized `Item` without its id; empty where `status` is set.
        status: the serialized `google.rpc.Status` that stands for the item's results; empty where the item can run.
    """

    item_id: str
    data: bytes
    status: bytes = b""


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job whose items are staged.

    Attributes:
        job_id: the id in its name, 32 hex digits.
        tenant: the tenant's name, 1 to 63 of a-z, 0-9 and '-'.
        priority: its priority among the tenant's jobs, -100 to 100.
        ttl: seconds for which it is kept once it has finished.
        tasks: the resolved tasks.
        request_id: the client's UUID for the request; empty where it gave none.
        digest: SHA-256 over spec and items, in hex.
        item_count: the number of items that were staged.
        data_count: the number of those that have data.
    """

    job_id: str
    tenant: str
    priority: int
    ttl: float
    tasks: tuple[vision_pb2.Task, ...]
    request_id: str
    digest: str
    item_count: int
    data_count: int


@dataclass(frozen=True, slots=True)
class JobRecord:
    """The state of a job. Times are milliseconds since the epoch, and 0 until they are known.

    Attributes:
        job_id: the id in its name, 32 hex digits.
        spec: what the client asked for, with tasks resolved.
        state: a value of the enum `Job.State`.
        items: the number of items.
        results: the number of results that it has once it has finished: items times tasks.
        committed: the number of results that are in.
        errors: the number of those that are errors.
        create: the time at which it was published.
        start: the time at which its first chunk was leased.
        end: the time at which it finished.
        expire: the time at which it will be deleted.
        left: for each task the number of results that are not in yet.
        error: why it failed; None where it did not.
    """

    job_id: str
    spec: jobs_pb2.Job
    state: jobs_pb2.Job.State.ValueType
    items: int
    results: int
    committed: int
    errors: int
    create: int
    start: int
    end: int
    expire: int
    left: tuple[int, ...]
    error: status_pb2.Status | None

    @classmethod
    def parse(cls, job_id: str, fields: Mapping[bytes, bytes]) -> JobRecord:
        """Make a record from the fields of the job's hash."""

        def number(name: bytes) -> int:
            return int(fields.get(name, 0))

        error = fields.get(b"error")
        return cls(
            job_id=job_id,
            spec=jobs_pb2.Job.FromString(fields[b"spec"]),
            state=jobs_pb2.Job.State.ValueType(number(b"state")),
            items=number(b"items"),
            results=number(b"results"),
            committed=number(b"committed"),
            errors=number(b"errors"),
            create=number(b"create"),
            start=number(b"start"),
            end=number(b"end"),
            expire=number(b"expire"),
            left=tuple(number(b"left:%d" % task) for task in range(number(b"tasks"))),
            error=status_pb2.Status.FromString(error) if error else None,
        )

    @property
    def finished(self) -> bool:
        """Whether the job has ended, so that nothing about it changes any more."""
        return self.state in FINISHED

    @property
    def unfinished_models(self) -> list[str]:
        """The models of the tasks that lack results; none once the job has finished."""
        if self.finished:
            return []
        return [task.model for task, left in zip(self.spec.tasks, self.left, strict=True) if left]

    def to_proto(self) -> jobs_pb2.Job:
        """Return the message that clients see, without `wait_reason`."""
        job = jobs_pb2.Job(
            name=job_name(self.job_id),
            state=self.state,
            item_count=self.items,
            result_count=self.results,
            committed_count=self.committed,
            error_count=self.errors,
            error=self.error,
        )
        job.MergeFrom(self.spec)
        for field, milliseconds in (
            ("create_time", self.create),
            ("start_time", self.start),
            ("end_time", self.end),
            ("expire_time", self.expire),
        ):
            if milliseconds:
                timestamp: Timestamp = getattr(job, field)
                timestamp.FromMilliseconds(milliseconds)
        return job


@dataclass(frozen=True, slots=True)
class LeasedItem:
    """An item of a leased chunk.

    Attributes:
        index: the item's place in the job, from 0.
        item_id: the id that its results carry.
        data: the serialized `Item` without its id.
    """

    index: int
    item_id: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Lease:
    """A chunk, leased to one worker.

    Attributes:
        token: the fencing token. A later lease of the same items has a higher one, and this one then commits nothing.
        job_id: the job's id, 32 hex digits.
        tenant: the job's tenant.
        task_index: the place of the task among the job's tasks, from 0.
        start: the index of the first item, or of an earlier item whose result was in already.
        attempts: the number of attempts that count against the first item.
        task: the resolved task, serialized.
        items: the items, one or more.
    """

    token: int
    job_id: str
    tenant: str
    task_index: int
    start: int
    attempts: int
    task: bytes
    items: tuple[LeasedItem, ...]

    @property
    def fence(self) -> tuple[int, str, int, int]:
        """What scripts find the lease by. The token alone may name another lease where Redis has lost data."""
        return self.token, self.job_id, self.task_index, self.start


class Cause(StrEnum):
    """Why a chunk comes back before it is done."""

    INNOCENT = "INNOCENT"
    """Its items did nothing wrong: the attempt does not count."""
    DIED = "DIED"
    """The worker seems to have died: the attempt counts unless its process is seen alive again."""
    FAULT = "FAULT"
    """The worker or the scheduler failed at it: the attempt counts."""


@dataclass(frozen=True, slots=True)
class Reaped:
    """What a sweep has cleared away.

    Attributes:
        leases: the number of expired leases that were taken back.
        given_up: the number of items that were given up, since their last worker has died beyond doubt.
        uploads: the number of abandoned uploads that were dropped.
        jobs: the number of expired jobs that were deleted.
        more: whether there is more to clear away at once.
    """

    leases: int
    given_up: int
    uploads: int
    jobs: int
    more: bool


@dataclass(frozen=True, slots=True)
class ReadyResult:
    """A result that is ready to be committed.

    Attributes:
        index: the item's place in the job, from 0.
        failed: whether the result is an error.
        data: the serialized `Result`.
    """

    index: int
    failed: bool
    data: bytes


@dataclass(frozen=True, slots=True)
class StoredResult:
    """A result that was committed.

    Attributes:
        position: where a reader stands that has had it, from 1; a later result has a higher one.
        data: the serialized `Result`.
    """

    position: int
    data: bytes
