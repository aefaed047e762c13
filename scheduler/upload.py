"""A job on its way in: it is validated, cut into batches, and staged in Redis as it arrives."""

from __future__ import annotations

import hashlib
import re
import uuid
from typing import Final

from zoofleet._wire.kinds import precision_of, resolve_all
from zoofleet._wire.limits import MAX_ITEM_ID_BYTES
from zoofleet._wire.parts import Joiner
from zoofleet._wire.status import to_status
from zoofleet.errors import InvalidArgumentError, ItemTooLargeError, UnimplementedError
from zoofleet.scheduler.config import SchedulerConfig
from zoofleet.scheduler.queue import Queue
from zoofleet.scheduler.records import NewJob, StagedItem
from zoofleet.v1 import jobs_pb2, vision_pb2

_TENANT: Final = re.compile(r"[a-z0-9-]{1,63}")
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_MAX_PRIORITY: Final = 100

_BATCH_ITEMS: Final = 256
"""Items from which on a batch is staged."""

_BATCH_BYTES: Final = 4 * 1024 * 1024
"""Bytes of items from which on a batch is staged."""


def check_tenant(tenant: str) -> str:
    """Return the tenant's name.

    Raises:
        InvalidArgumentError: a tenant cannot have this name.
    """
    if not _TENANT.fullmatch(tenant):
        raise InvalidArgumentError(f"tenant {tenant[:80]!r} is not 1 to 63 of a-z, 0-9 and '-'")
    return tenant


class Upload:
    """The job of one `CreateJob` call. Its memory is bounded by a batch and the largest item.

    Args:
        queue: the queue that the job is staged in.
        config: the scheduler's limits.
        spec: what the client asks for.

    Raises:
        InvalidArgumentError: a field of the spec is malformed or out of range.
        NotFoundError: a task names an unknown model or weight set.
    """

    def __init__(self, queue: Queue, config: SchedulerConfig, spec: jobs_pb2.JobSpec) -> None:
        self._queue = queue
        self._config = config
        job = spec.job
        self._tasks = tuple(task for task, _, _ in resolve_all(job.tasks, precision_of(config.default_precision)))
        self._tenant = check_tenant(job.tenant or "default")
        self._priority = job.priority
        if not -_MAX_PRIORITY <= job.priority <= _MAX_PRIORITY:
            raise InvalidArgumentError(f"priority is {job.priority}; accepted: -{_MAX_PRIORITY} to {_MAX_PRIORITY}")
        self._ttl = job.ttl.seconds + job.ttl.nanos / 1e9 if job.HasField("ttl") else config.default_ttl
        if not 0 < self._ttl <= config.max_ttl:
            raise InvalidArgumentError(f"ttl is {self._ttl:g} s; accepted: more than 0 s, at most {config.max_ttl:g} s")
        if spec.request_id and not _UUID.fullmatch(spec.request_id):
            raise InvalidArgumentError(f"request_id {spec.request_id[:80]!r} is no UUID")
        self._request_id = spec.request_id.lower()
        self._job_id = uuid.uuid4().hex
        self._known = False
        self._published = False
        self._joiner = Joiner(vision_pb2.Item, config.max_item_bytes)
        self._batch: list[StagedItem] = []
        self._batch_bytes = 0
        self._staged = 0
        self._staged_data = 0
        self._digest = hashlib.sha256()
        for task in self._tasks:
            self._hash(task.SerializeToString(deterministic=True))
        self._hash(f"{self._tenant} {self._priority} {self._ttl}".encode())

    async def begin(self) -> None:
        """Check whether the job is welcome before its items come.

        Raises:
            ResourceExhaustedError: the tenant has as many unfinished jobs as it may.
        """
        # A job that was made before is compared by its digest, and its items are not stored again.
        self._known = bool(self._request_id) and await self._queue.find_request(self._request_id)
        if not self._known:
            await self._queue.check_tenant(self._tenant)

    async def add(self, request: jobs_pb2.CreateJobRequest) -> None:
        """Take the next message of the call after the spec.

        Raises:
            InvalidArgumentError: the message does not belong there, or its item has the id of another one.
            ResourceExhaustedError: the job has too many items, or the tenant or the store too many bytes.
            UnimplementedError: the message names a manifest.
            AbortedError: the upload has expired, or Redis has lost some of it.
        """
        if request.HasField("manifest_uri"):
            raise UnimplementedError("manifest_uri is not served yet; accepted: items")
        for item_id, item in self._joiner.take(request):
            await self._add_item(item_id, item)

    async def finish(self) -> str:
        """Publish the job, and return its id.

        Raises:
            InvalidArgumentError: the job has no items, or the last one is incomplete.
            AlreadyExistsError: the request id was used for a different job.
            ResourceExhaustedError: the tenant has as many unfinished jobs as it may, or too many bytes.
            AbortedError: the upload has expired, or Redis has lost some of it.
        """
        self._joiner.finish()
        if not self._staged + len(self._batch):
            raise InvalidArgumentError("the job has no items; accepted: 1 or more")
        await self._flush()
        job = NewJob(
            self._job_id,
            self._tenant,
            self._priority,
            self._ttl,
            self._tasks,
            self._request_id,
            self._digest.hexdigest(),
            self._staged,
            self._staged_data,
        )
        published = await self._queue.publish(job)
        self._published = True
        return published

    async def close(self) -> None:
        """Drop what was staged, unless the job was published."""
        if self._staged and not self._published and not self._known:
            await self._queue.discard(self._job_id)

    async def _add_item(self, item_id: str, item: vision_pb2.Item | ItemTooLargeError) -> None:
        item_id = item_id or str(self._staged + len(self._batch))
        if len(item_id.encode()) > MAX_ITEM_ID_BYTES:
            raise InvalidArgumentError(f"item_id {item_id[:80]!r} has more than {MAX_ITEM_ID_BYTES} bytes")
        staged = self._to_stage(item_id, item)
        for field in (item_id.encode(), staged.data, staged.status):
            self._hash(field)
        self._batch.append(staged)
        self._batch_bytes += len(staged.data)
        if len(self._batch) >= _BATCH_ITEMS or self._batch_bytes >= _BATCH_BYTES:
            await self._flush()

    def _to_stage(self, item_id: str, item: vision_pb2.Item | ItemTooLargeError) -> StagedItem:
        if isinstance(item, vision_pb2.Item):
            item.ClearField("item_id")
            data = item.SerializeToString(deterministic=True)
            if len(data) <= self._config.max_item_bytes:
                return StagedItem(item_id, data)
            item = ItemTooLargeError(
                f"{len(data)} bytes; accepted: at most {self._config.max_item_bytes} bytes an item"
            )
        return StagedItem(item_id, b"", to_status(item).SerializeToString(deterministic=True))

    async def _flush(self) -> None:
        batch, self._batch, self._batch_bytes = self._batch, [], 0
        first = self._staged
        self._staged += len(batch)
        self._staged_data += sum(not item.status for item in batch)
        if batch and not self._known:
            await self._queue.stage(self._job_id, first, len(self._tasks), batch, self._tenant)

    def _hash(self, field: bytes) -> None:
        self._digest.update(len(field).to_bytes(8, "big"))
        self._digest.update(field)
