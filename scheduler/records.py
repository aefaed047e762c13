"""What the queue takes and gives, as plain values; protobuf only in `to_proto`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import status_pb2

from zoofleet.v1 import jobs_pb2, vision_pb2

FINISHED = frozenset({jobs_pb2.Job.STATE_SUCCEEDED, jobs_pb2.Job.STATE_FAILED, jobs_pb2.Job.STATE_CANCELLED})
"""States that a job never leaves."""


@dataclass(frozen=True, slots=True)
class StagedItem:
    """An item on its way into the queue.

    Attributes:
        item_id: unique in its job.
        data: the serialized item without its id; empty where `status` is set.
        status: a serialized `google.rpc.Status` that stands for the item's results, empty where it can run.
    """

    item_id: str
    data: bytes
    status: bytes = b""


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job whose items are staged.

    Attributes:
        job_id: 32 hex digits.
        tenant: 1 to 63 of a-z, 0-9 and '-'.
        priority: -100 to 100.
        ttl: seconds to keep it once finished.
        tasks: resolved.
        request_id: empty where there is none.
        digest: of spec and items.
        item_count: items that were staged.
        data_count: those of them that have data.
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
    """A job as it stands. Times are milliseconds since the epoch, 0 where not yet known.

    Attributes:
        job_id: 32 hex digits.
        spec: what the client asked for, resolved.
        state: a `Job.State`.
        items: number of items.
        results: results to come in all.
        committed: results that are in.
        errors: those of them that are errors.
        create: when it was published.
        start: when its first chunk was leased.
        end: when it finished.
        expire: when it will be deleted.
        left: results to come of each task.
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
        """From the fields of the job's hash."""

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
        """Whether nothing about it changes any more."""
        return self.state in FINISHED

    @property
    def unfinished_models(self) -> list[str]:
        """Models of the tasks that have results to come."""
        if self.finished:
            return []
        return [task.model for task, left in zip(self.spec.tasks, self.left, strict=True) if left]

    def to_proto(self) -> jobs_pb2.Job:
        """As the message that clients see, but for `wait_reason`."""
        job = jobs_pb2.Job(
            name=f"jobs/{self.job_id}",
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
        index: its place in the job.
        item_id: what its results are called.
        data: the serialized item without its id.
    """

    index: int
    item_id: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Lease:
    """A chunk, leased to one worker.

    Attributes:
        token: fencing token; a later lease of the same items has a higher one, and this one then commits nothing.
        job_id: 32 hex digits.
        tenant: the job's.
        task_index: which of the job's tasks.
        start: index of its first item, or of one before whose result was in already.
        attempts: attempts that count against its first item.
        task: resolved, serialized.
        items: at least one.
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
        """What scripts find the lease by: a token alone may be another lease's, where Redis has lost data."""
        return self.token, self.job_id, self.task_index, self.start


class Cause(StrEnum):
    """Why a chunk comes back before it is done."""

    INNOCENT = "INNOCENT"
    """Nothing that its items did: the attempt does not count."""
    DIED = "DIED"
    """The worker seems to have died: the attempt counts unless its process is seen alive again."""
    FAULT = "FAULT"
    """The worker or the scheduler failed at it: the attempt counts."""


@dataclass(frozen=True, slots=True)
class Reaped:
    """What a sweep has cleared away.

    Attributes:
        leases: that had expired.
        given_up: items whose last worker has died beyond doubt.
        uploads: that were abandoned.
        jobs: that had expired.
        more: whether there is more of any of them.
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
        index: its item's place in the job.
        failed: whether it is an error.
        data: the serialized `Result`.
    """

    index: int
    failed: bool
    data: bytes


@dataclass(frozen=True, slots=True)
class StoredResult:
    """A result that was committed.

    Attributes:
        position: of a reader that has had it; positions grow.
        data: the serialized `Result`.
    """

    position: int
    data: bytes
