"""Jobs, models and workers as plain dataclasses; protobuf only in `from_proto`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from types import MappingProxyType
from typing import Any

from google.protobuf import struct_pb2, timestamp_pb2

from zoofleet._values.enums import member
from zoofleet._values.tasks import Precision, Task
from zoofleet._wire.kinds import TaskKind as TaskName
from zoofleet._wire.status import from_status
from zoofleet.errors import DataLossError, ZoofleetError
from zoofleet.v1 import fleet_pb2, jobs_pb2, models_pb2

__all__ = [
    "Job",
    "JobState",
    "LoadedModel",
    "Model",
    "Plan",
    "PlanState",
    "TaskName",
    "WeightSet",
    "Worker",
    "WorkerState",
]


class JobState(Enum):
    """The states of a job."""

    QUEUED = jobs_pb2.Job.STATE_QUEUED
    """The job is stored, and nothing of it has run yet."""
    RUNNING = jobs_pb2.Job.STATE_RUNNING
    """Some of the job has run or is running."""
    SUCCEEDED = jobs_pb2.Job.STATE_SUCCEEDED
    """Every item has a result from every task. Some of the results may be errors."""
    FAILED = jobs_pb2.Job.STATE_FAILED
    """The job ended early, and `Job.error` says why."""
    CANCELLED = jobs_pb2.Job.STATE_CANCELLED
    """`cancel_job` ended the job."""


class WorkerState(Enum):
    """The states of a worker."""

    READY = fleet_pb2.Worker.STATE_READY
    """The worker takes work."""
    DRAINING = fleet_pb2.Worker.STATE_DRAINING
    """The worker finishes the work that it has and takes no more."""


def _time(parent: Any, field: str) -> datetime | None:
    if not parent.HasField(field):
        return None
    stamp: timestamp_pb2.Timestamp = getattr(parent, field)
    try:
        return stamp.ToDatetime(UTC)
    except (ValueError, OverflowError) as error:
        raise DataLossError(f"{field}: {error}") from None


def _plain(struct: struct_pb2.Struct) -> Mapping[str, Any]:
    """Return a struct of numbers and structs as a mapping of floats and mappings. NaN, a metric not measured, stays."""
    result: dict[str, Any] = {}
    for name, value in struct.fields.items():
        kind = value.WhichOneof("kind")
        if kind not in ("number_value", "struct_value"):
            raise DataLossError(f"metric {name!r} is a {kind}")
        result[name] = _plain(value.struct_value) if kind == "struct_value" else value.number_value
    return MappingProxyType(result)


@dataclass(frozen=True, slots=True)
class Job:
    """A unit of bulk work: items and the tasks that run on them.

    Attributes:
        name: `jobs/{job}`.
        tasks: the tasks; each runs on every item.
        tenant: the name that quotas and fairness count the job under.
        priority: -100 to 100. A job runs before all jobs of the same tenant with a lower priority.
        ttl: how long the job is kept after it has finished. None for the server's default.
        state: the present state.
        item_count: number of items.
        result_count: number of results that the job will have: items times tasks.
        committed_count: number of results that are stored, errors among them.
        error_count: number of results that are errors.
        create_time: when the job was created, UTC.
        start_time: when a worker got the first items. None before that.
        end_time: when the job finished. None before that.
        expire_time: when the job will be deleted. None before it has finished.
        error: why the job failed. None where it did not fail.
        wait_reason: what an unfinished job waits for where some of it cannot run at present. None where it waits only
            for its turn.
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
        """Make one from the message of the same name.

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
            state=member(JobState, proto.state),
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


class PlanState(Enum):
    """How far the search for the fastest way of running a model is."""

    BUILDING = models_pb2.Plan.STATE_BUILDING
    """Plans are being built and measured; `Precision.EXACT` serves meanwhile."""
    READY = models_pb2.Plan.STATE_READY
    """The fastest plan serves."""
    FAILED = models_pb2.Plan.STATE_FAILED
    """The search ended with an error; `Precision.EXACT` serves."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What serves `Precision.FAST` of a loaded model.

    Attributes:
        name: what it does, such as `compiled bfloat16`; `eager float32` where nothing faster was found.
        precision: what its results say that they ran at.
        state: how far the search for the fastest plan is.
        shape_class: the inputs that it serves: the number of frames of clips. Empty where it serves all.
        milliseconds: time of an item, measured when the plan was built.
        exact_milliseconds: time of an item at `Precision.EXACT`, measured in the same run.
        deviation: 1 minus the cosine of its raw outputs and those of `Precision.EXACT`.
        message: which other plans failed, and why.
    """

    name: str
    precision: Precision
    state: PlanState
    shape_class: tuple[int, ...]
    milliseconds: float
    exact_milliseconds: float
    deviation: float
    message: str

    @classmethod
    def from_proto(cls, proto: models_pb2.Plan) -> Plan:
        """Make one from the message of the same name.

        Raises:
            DataLossError: an unknown state or precision.
        """
        return cls(
            proto.name,
            member(Precision, proto.precision),
            member(PlanState, proto.state),
            tuple(proto.shape_class),
            proto.milliseconds,
            proto.exact_milliseconds,
            proto.deviation,
            proto.message,
        )


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in a worker's memory.

    Attributes:
        model: the model's name with its weights resolved: `resnet50@IMAGENET1K_V2`.
        worker: `workers/{worker}`.
        memory_bytes: memory that the model takes, as measured.
        pinned: whether the model stays in memory until it is unpinned.
        plans: what serves `Precision.FAST`, for each class of inputs that it was asked for.
    """

    model: str
    worker: str
    memory_bytes: int
    pinned: bool
    plans: tuple[Plan, ...] = ()

    @classmethod
    def from_proto(cls, proto: models_pb2.LoadedModel) -> LoadedModel:
        """Make one from the message of the same name."""
        plans = tuple(Plan.from_proto(plan) for plan in proto.plans)
        return cls(proto.model, proto.worker, proto.memory_bytes, proto.pinned, plans)


@dataclass(frozen=True, slots=True)
class WeightSet:
    """A published set of weights.

    Attributes:
        weight_set_id: the name after the `@`, such as `IMAGENET1K_V2`.
        is_default: whether `@DEFAULT` means this weight set.
        url: where the file is published.
        size_bytes: size of the file.
        gflops: floating-point operations of one forward pass, in units of 10^9.
        metrics: the published accuracy, as a mapping from data sets to mappings from metrics to values.
    """

    weight_set_id: str
    is_default: bool
    url: str
    size_bytes: int
    gflops: float
    metrics: Mapping[str, Any]

    @classmethod
    def from_proto(cls, proto: models_pb2.WeightSet) -> WeightSet:
        """Make one from the message of the same name.

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
        task: the kind of task that the model serves.
        parameter_count: number of parameters.
        weight_sets: the published weight sets.
        loaded_models: the model in the memory of workers, one for each worker and weight set.
    """

    name: str
    task: TaskName
    parameter_count: int
    weight_sets: tuple[WeightSet, ...]
    loaded_models: tuple[LoadedModel, ...]

    @classmethod
    def from_proto(cls, proto: models_pb2.Model) -> Model:
        """Make one from the message of the same name.

        Raises:
            DataLossError: an unknown kind of task.
        """
        return cls(
            proto.name,
            member(TaskName, proto.task_kind),
            proto.parameter_count,
            tuple(WeightSet.from_proto(weights) for weights in proto.weight_sets),
            tuple(LoadedModel.from_proto(loaded) for loaded in proto.loaded_models),
        )


@dataclass(frozen=True, slots=True)
class Worker:
    """A process that hosts models on one device.

    Attributes:
        name: `workers/{worker}`.
        address: the `host:port` at which schedulers reach the worker.
        state: whether the worker takes work.
        device: the device, such as `cpu` or `cuda:0`, with the product's name in brackets where known.
        version: the version of Zoofleet that the worker runs.
        builders: names of the builders that the worker can load.
        max_inflight_items: number of items that the worker takes at once.
        memory_budget_bytes: memory that models may take.
        loaded_models: the models in memory.
        inflight_items: number of items that the worker has received and not answered yet.
        item_count: number of items answered since the process started.
        error_count: number of results that were errors since the process started.
        resident_bytes: resident memory of the process.
        device_bytes_used: memory of the device, of the machine where that is a CPU, in use by whatever process. 0, like
            the next two, for a worker that does not say.
        device_bytes_total: all of that memory.
        device_bytes_reserved: what of it the worker has taken, in use or kept for use.
        batch_start_time: when the device began its present batch, UTC. None while it has nothing to run.
        register_time: when the worker registered.
        heartbeat_time: when the scheduler last heard from the worker.
        kernels: where the operators' kernels come from, in words, or why a GPU has none and copies to the CPU. Empty
            where the worker does not say.
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
    device_bytes_used: int
    device_bytes_total: int
    device_bytes_reserved: int
    batch_start_time: datetime | None
    register_time: datetime | None
    heartbeat_time: datetime | None
    kernels: str = ""

    @classmethod
    def from_proto(cls, proto: fleet_pb2.Worker) -> Worker:
        """Make one from the message of the same name.

        Raises:
            DataLossError: an unknown state or a time out of range.
        """
        status = proto.status
        return cls(
            name=proto.name,
            address=proto.address,
            state=member(WorkerState, proto.state),
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
            device_bytes_used=status.device_bytes_used,
            device_bytes_total=status.device_bytes_total,
            device_bytes_reserved=status.device_bytes_reserved,
            batch_start_time=_time(proto.status, "batch_start_time"),
            register_time=_time(proto, "register_time"),
            heartbeat_time=_time(proto, "heartbeat_time"),
            kernels=proto.kernels,
        )
