"""Jobs, models and workers as plain dataclasses; protobuf only in `from_proto`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from types import MappingProxyType
from typing import Any, TypeVar

from google.protobuf import struct_pb2, timestamp_pb2

from zoofleet._values.tasks import Task
from zoofleet._wire.kinds import TaskKind as TaskName
from zoofleet._wire.status import from_status
from zoofleet.errors import DataLossError, ZoofleetError
from zoofleet.v1 import fleet_pb2, jobs_pb2, models_pb2

__all__ = ["Job", "JobState", "LoadedModel", "Model", "TaskName", "WeightSet", "Worker", "WorkerState"]


class JobState(Enum):
    """Where a job stands."""

    QUEUED = jobs_pb2.Job.STATE_QUEUED
    """Stored; nothing has run yet."""
    RUNNING = jobs_pb2.Job.STATE_RUNNING
    """Some of it has run or is running."""
    SUCCEEDED = jobs_pb2.Job.STATE_SUCCEEDED
    """Every item and task has its result; some of them may be errors."""
    FAILED = jobs_pb2.Job.STATE_FAILED
    """Ended early; `Job.error` says why."""
    CANCELLED = jobs_pb2.Job.STATE_CANCELLED
    """Ended by `cancel_job`."""


class WorkerState(Enum):
    """Whether a worker takes work."""

    READY = fleet_pb2.Worker.STATE_READY
    """Takes work."""
    DRAINING = fleet_pb2.Worker.STATE_DRAINING
    """Finishes what it has and takes no more."""


_E = TypeVar("_E", bound=Enum)


def _member(enum: type[_E], value: int) -> _E:
    try:
        return enum(value)
    except ValueError:
        raise DataLossError(f"{value} is no {enum.__name__} that this version knows") from None


def _time(parent: Any, field: str) -> datetime | None:
    if not parent.HasField(field):
        return None
    stamp: timestamp_pb2.Timestamp = getattr(parent, field)
    try:
        return stamp.ToDatetime(UTC)
    except (ValueError, OverflowError) as error:
        raise DataLossError(f"{field}: {error}") from None


def _plain(struct: struct_pb2.Struct) -> Mapping[str, Any]:
    """A struct of numbers and structs as a mapping of floats and mappings; NaN, a metric not measured, stays."""
    result: dict[str, Any] = {}
    for name, value in struct.fields.items():
        kind = value.WhichOneof("kind")
        if kind not in ("number_value", "struct_value"):
            raise DataLossError(f"metric {name!r} is a {kind}")
        result[name] = _plain(value.struct_value) if kind == "struct_value" else value.number_value
    return MappingProxyType(result)


@dataclass(frozen=True, slots=True)
class Job:
    """A unit of bulk work: items + tasks.

    Attributes:
        name: `jobs/{job}`.
        tasks: each is run on every item.
        tenant: whom quotas and fairness count it under.
        priority: before all jobs of the same tenant with a lower one.
        ttl: how long it is kept after it has finished; None for the server's default.
        state: where it stands.
        item_count: number of items.
        result_count: results to come in all: items x tasks.
        committed_count: results committed, errors among them.
        error_count: results that are errors.
        create_time: when it was created.
        start_time: when its first chunk was leased; None before.
        end_time: when it finished; None before.
        expire_time: when it will be deleted; None before it has finished.
        error: why it failed; None where it did not.
        wait_reason: what an unfinished job waits for where some of it cannot run at present; None where nothing keeps
            it from running but its turn.
    """

    name: str
    tasks: tuple[Task, ...]
    tenant: str
    priority: int
    ttl: timedelta | None
    state: JobState
    item_count: int
    result_count: int
    committed_count: int
    error_count: int
    create_time: datetime | None
    start_time: datetime | None
    end_time: datetime | None
    expire_time: datetime | None
    error: ZoofleetError | None
    wait_reason: ZoofleetError | None

    @property
    def finished(self) -> bool:
        """Whether no further results will come."""
        return self.state not in (JobState.QUEUED, JobState.RUNNING)

    @classmethod
    def from_proto(cls, proto: jobs_pb2.Job) -> Job:
        """From the message of the same name.

        Raises:
            DataLossError: an unknown state or a time out of range.
        """
        try:
            ttl = proto.ttl.ToTimedelta() if proto.HasField("ttl") else None
        except (ValueError, OverflowError) as error:
            raise DataLossError(f"ttl: {error}") from None
        return cls(
            name=proto.name,
            tasks=tuple(Task.from_proto(task) for task in proto.tasks),
            tenant=proto.tenant,
            priority=proto.priority,
            ttl=ttl,
            state=_member(JobState, proto.state),
            item_count=proto.item_count,
            result_count=proto.result_count,
            committed_count=proto.committed_count,
            error_count=proto.error_count,
            create_time=_time(proto, "create_time"),
            start_time=_time(proto, "start_time"),
            end_time=_time(proto, "end_time"),
            expire_time=_time(proto, "expire_time"),
            error=from_status(proto.error) if proto.HasField("error") else None,
            wait_reason=from_status(proto.wait_reason) if proto.HasField("wait_reason") else None,
        )


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in a worker's memory.

    Attributes:
        model: with its weights resolved: `resnet50@IMAGENET1K_V2`.
        worker: `workers/{worker}`.
        memory_bytes: memory that it takes, measured.
        pinned: whether it stays until unpinned.
    """

    model: str
    worker: str
    memory_bytes: int
    pinned: bool

    @classmethod
    def from_proto(cls, proto: models_pb2.LoadedModel) -> LoadedModel:
        """From the message of the same name."""
        return cls(proto.model, proto.worker, proto.memory_bytes, proto.pinned)


@dataclass(frozen=True, slots=True)
class WeightSet:
    """A published set of weights.

    Attributes:
        weight_set_id: such as `IMAGENET1K_V2`.
        is_default: whether `@DEFAULT` means this one.
        url: where it is published.
        size_bytes: size of the file.
        gflops: floating-point operations of one forward pass, in units of 10^9.
        metrics: published accuracy: data set to metric to value.
    """

    weight_set_id: str
    is_default: bool
    url: str
    size_bytes: int
    gflops: float
    metrics: Mapping[str, Any]

    @classmethod
    def from_proto(cls, proto: models_pb2.WeightSet) -> WeightSet:
        """From the message of the same name.

        Raises:
            DataLossError: a metric is neither a number nor metrics by name.
        """
        metrics = _plain(proto.metrics)
        return cls(proto.weight_set_id, proto.is_default, proto.url, proto.size_bytes, proto.gflops, metrics)


@dataclass(frozen=True, slots=True)
class Model:
    """A builder of the zoo.

    Attributes:
        name: `models/{builder}`, such as `models/resnet50`.
        task: the kind of task it serves.
        parameter_count: number of parameters.
        weight_sets: its published weight sets.
        loaded_models: where it is loaded now.
    """

    name: str
    task: TaskName
    parameter_count: int
    weight_sets: tuple[WeightSet, ...]
    loaded_models: tuple[LoadedModel, ...]

    @classmethod
    def from_proto(cls, proto: models_pb2.Model) -> Model:
        """From the message of the same name.

        Raises:
            DataLossError: an unknown kind of task.
        """
        return cls(
            proto.name,
            _member(TaskName, proto.task_kind),
            proto.parameter_count,
            tuple(WeightSet.from_proto(weights) for weights in proto.weight_sets),
            tuple(LoadedModel.from_proto(loaded) for loaded in proto.loaded_models),
        )


@dataclass(frozen=True, slots=True)
class Worker:
    """A process that hosts models on one device.

    Attributes:
        name: `workers/{worker}`.
        address: host:port at which schedulers dial it.
        state: whether it takes work.
        device: such as `cpu` or `cuda:0`, with the product's name in brackets where known.
        version: Zoofleet's version.
        builders: names of the builders that it can load.
        max_inflight_items: items that it takes at once.
        memory_budget_bytes: memory that models may take.
        loaded_models: in memory now.
        inflight_items: items received and not answered yet.
        item_count: items answered since the process started.
        error_count: results that were errors since the process started.
        resident_bytes: resident memory of the process.
        batch_start_time: since when the device has been in its present batch; None while it has nothing to run.
        register_time: when it registered.
        heartbeat_time: when it last beat.
    """

    name: str
    address: str
    state: WorkerState
    device: str
    version: str
    builders: tuple[str, ...]
    max_inflight_items: int
    memory_budget_bytes: int
    loaded_models: tuple[LoadedModel, ...]
    inflight_items: int
    item_count: int
    error_count: int
    resident_bytes: int
    batch_start_time: datetime | None
    register_time: datetime | None
    heartbeat_time: datetime | None

    @classmethod
    def from_proto(cls, proto: fleet_pb2.Worker) -> Worker:
        """From the message of the same name.

        Raises:
            DataLossError: an unknown state or a time out of range.
        """
        status = proto.status
        return cls(
            name=proto.name,
            address=proto.address,
            state=_member(WorkerState, proto.state),
            device=proto.device,
            version=proto.version,
            builders=tuple(proto.builders),
            max_inflight_items=proto.max_inflight_items,
            memory_budget_bytes=proto.memory_budget_bytes,
            loaded_models=tuple(LoadedModel.from_proto(loaded) for loaded in status.loaded_models),
            inflight_items=status.inflight_items,
            item_count=status.item_count,
            error_count=status.error_count,
            resident_bytes=status.resident_bytes,
            batch_start_time=_time(proto.status, "batch_start_time"),
            register_time=_time(proto, "register_time"),
            heartbeat_time=_time(proto, "heartbeat_time"),
        )
