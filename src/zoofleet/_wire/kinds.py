"""The kinds of task, and what the programs must know of each: its method, messages, models and options.

A new kind is a member here beside its messages in `protos/`, a dataclass in `_values/tasks.py` and a runner in
`worker/runners.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Self

from zoofleet._catalog import ModelName
from zoofleet._wire.limits import MAX_TASKS
from zoofleet.errors import InvalidArgumentError
from zoofleet.v1 import models_pb2, vision_pb2


@dataclass(frozen=True, slots=True)
class NumberOption:
    """An option whose value is a number.

    Attributes:
        name: its field in the kind's options.
        default: the value where a client leaves it out.
        low: the least value accepted.
        high: the largest value accepted.
    """

    name: str
    default: float
    low: float
    high: float

    def check(self, value: float) -> None:
        """Raise InvalidArgumentError unless the value is in range."""
        if not self.low <= value <= self.high:  # NaN is out of range too
            raise InvalidArgumentError(f"{self.name} is {value:g}; accepted: {self.low:g} to {self.high:g}")


@dataclass(frozen=True, slots=True)
class EnumOption:
    """An option whose value is one of an enum of the contract.

    Attributes:
        name: its field in the kind's options.
        default: the value where a client leaves it out.
        enum: the enum.
    """

    name: str
    default: int
    enum: Any

    def check(self, value: int) -> None:
        """Raise InvalidArgumentError unless the enum has the value."""
        if value not in self.enum.values():
            raise InvalidArgumentError(f"{self.name} is {value}; accepted: {', '.join(self.enum.keys())}")


_TOP_K: Final = NumberOption("top_k", 5, 1, 1000)
_PRECISION: Final = EnumOption("precision", vision_pb2.PRECISION_EXACT, vision_pb2.Precision)


class TaskKind(Enum):
    """A kind of task; the values are those of the enum `zoofleet.v1.TaskKind`.

    Attributes:
        method: name of its method in `Vision`, such as `ClassifyClip`.
        catalog_tasks: the `task` of the builders in the catalog that serve it.
        options: its options, all of them.
        media_count: how many media one of its items has.
    """

    CLASSIFY = (
        models_pb2.TASK_KIND_CLASSIFY,
        "Classify",
        ("classification", "quantization"),
        (_TOP_K,),
    )
    SEGMENT = (
        models_pb2.TASK_KIND_SEGMENT,
        "Segment",
        ("segmentation",),
    )
    DETECT = (
        models_pb2.TASK_KIND_DETECT,
        "Detect",
        ("detection",),
        (
            EnumOption("mask_encoding", vision_pb2.MASK_ENCODING_COCO_RLE, vision_pb2.MaskEncoding),
            NumberOption("score_threshold", 0.5, 0, 1),
            NumberOption("max_detections", 100, 1, 1000),
        ),
    )
    CLASSIFY_CLIP = (
        models_pb2.TASK_KIND_CLASSIFY_CLIP,
        "ClassifyClip",
        ("video",),
        (_TOP_K, NumberOption("num_frames", 16, 1, 64)),
    )
    ESTIMATE_FLOW = (
        models_pb2.TASK_KIND_ESTIMATE_FLOW,
        "EstimateFlow",
        ("optical_flow",),
        (
            EnumOption("flow_encoding", vision_pb2.FLOW_ENCODING_FLOAT16, vision_pb2.FlowEncoding),
            NumberOption("num_flow_updates", 12, 1, 32),
        ),
        2,
    )

    method: str
    catalog_tasks: tuple[str, ...]
    options: tuple[NumberOption | EnumOption, ...]
    media_count: int

    def __new__(
        cls,
        value: int,
        method: str,
        catalog_tasks: tuple[str, ...],
        options: tuple[NumberOption | EnumOption, ...] = (),
        media_count: int = 1,
    ) -> Self:
        kind = object.__new__(cls)
        kind._value_ = value
        kind.method = method
        kind.catalog_tasks = catalog_tasks
        kind.options = options
        kind.media_count = media_count
        return kind

    @property
    def field(self) -> str:
        """Name of its field in `Task.options`, such as `classify_clip`."""
        return self.name.lower()

    @property
    def path(self) -> str:
        """The method's full gRPC path."""
        return f"/zoofleet.v1.Vision/{self.method}"

    @property
    def request(self) -> Any:
        """Class of the method's requests; all have the fields `task`, `item` and `part`."""
        return getattr(vision_pb2, f"{self.method}Request")

    @property
    def response(self) -> Any:
        """Class of the method's responses; all have the fields `result` and `part`."""
        return getattr(vision_pb2, f"{self.method}Response")


_BY_CATALOG_TASK: Final = {task: kind for kind in TaskKind for task in kind.catalog_tasks}


def precision_of(name: str) -> vision_pb2.Precision.ValueType:
    """Return the value of the enum `Precision` of a setting's `exact` or `fast`."""
    return vision_pb2.Precision.Value(f"PRECISION_{name.upper()}")


def kind_of(model: ModelName) -> TaskKind:
    """Return the kind of task that a model serves."""
    return _BY_CATALOG_TASK[model.info.task]


def resolve(
    task: vision_pb2.Task, default_precision: vision_pb2.Precision.ValueType = vision_pb2.PRECISION_EXACT
) -> tuple[vision_pb2.Task, ModelName, TaskKind]:
    """Validate a client's task and fill in its defaults.

    Args:
        task: the task.
        default_precision: the operator's choice for tasks that ask for no precision.

    Returns:
        A copy whose model name is canonical and whose precision and options are set, the model, and its kind.

    Raises:
        InvalidArgumentError: the options are another kind's, or out of range.
        InvalidModelNameError: the model's name is malformed.
        UnknownModelError: the catalog has no such builder.
        UnknownWeightsError: the builder has no such weight set.
    """
    model = ModelName.parse(task.model)
    kind = kind_of(model)
    given = task.WhichOneof("options")
    if given is not None and given != kind.field:
        raise InvalidArgumentError(f"{model} takes the options {kind.field!r}, not {given!r}")
    _PRECISION.check(task.precision)
    resolved = vision_pb2.Task(model=str(model), precision=task.precision or default_precision)
    options = getattr(resolved, kind.field)
    options.SetInParent()
    options.CopyFrom(getattr(task, kind.field))
    set_names = {field.name for field, _ in options.ListFields()}
    for option in kind.options:
        if option.name not in set_names:
            setattr(options, option.name, option.default)
        option.check(getattr(options, option.name))
    return resolved, model, kind


def resolve_all(
    tasks: Sequence[vision_pb2.Task], default_precision: vision_pb2.Precision.ValueType = vision_pb2.PRECISION_EXACT
) -> list[tuple[vision_pb2.Task, ModelName, TaskKind]]:
    """Validate the tasks of a job or a video and fill in their defaults.

    Args:
        tasks: the tasks.
        default_precision: the operator's choice for tasks that ask for no precision.

    Returns:
        For each task a copy whose model name is canonical and whose precision and options are set, the model, and its
        kind.

    Raises:
        InvalidArgumentError: there are not 1 to 8 tasks, or one has options that are another kind's or out of range.
        InvalidModelNameError: a model's name is malformed.
        UnknownModelError: the catalog has no such builder.
        UnknownWeightsError: a builder has no such weight set.
    """
    if not 1 <= len(tasks) <= MAX_TASKS:
        raise InvalidArgumentError(f"{len(tasks)} tasks; accepted: 1 to {MAX_TASKS}")
    return [resolve(task, default_precision) for task in tasks]
