"""The five kinds of task: which method, options and messages each goes with.

The one place that says so; client, scheduler and worker all read it here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import Message

from zoofleet._catalog import ModelName
from zoofleet.errors import InvalidArgumentError, UnimplementedError
from zoofleet.v1 import models_pb2, vision_pb2


@dataclass(frozen=True, slots=True)
class TaskKind:
    """One kind of task.

    Attributes:
        name: the name of its field in `Task.options`, such as `classify_clip`.
        method: the name of its method in `Vision`, such as `ClassifyClip`.
        value: its value in the enum `zoofleet.v1.TaskKind`.
        media_count: how many media one item has.
        request: class of the method's requests; all have the fields `task`, `item` and `part`.
        response: class of the method's responses; all have the fields `result` and `part`.
    """

    name: str
    method: str
    value: models_pb2.TaskKind.ValueType
    media_count: int
    request: Any
    response: Any

    @property
    def path(self) -> str:
        """The method's full gRPC path."""
        return f"/zoofleet.v1.Vision/{self.method}"


CLASSIFY: Final = TaskKind(
    "classify",
    "Classify",
    models_pb2.TASK_KIND_CLASSIFY,
    1,
    vision_pb2.ClassifyRequest,
    vision_pb2.ClassifyResponse,
)
SEGMENT: Final = TaskKind(
    "segment",
    "Segment",
    models_pb2.TASK_KIND_SEGMENT,
    1,
    vision_pb2.SegmentRequest,
    vision_pb2.SegmentResponse,
)
DETECT: Final = TaskKind(
    "detect",
    "Detect",
    models_pb2.TASK_KIND_DETECT,
    1,
    vision_pb2.DetectRequest,
    vision_pb2.DetectResponse,
)
CLASSIFY_CLIP: Final = TaskKind(
    "classify_clip",
    "ClassifyClip",
    models_pb2.TASK_KIND_CLASSIFY_CLIP,
    1,
    vision_pb2.ClassifyClipRequest,
    vision_pb2.ClassifyClipResponse,
)
ESTIMATE_FLOW: Final = TaskKind(
    "estimate_flow",
    "EstimateFlow",
    models_pb2.TASK_KIND_ESTIMATE_FLOW,
    2,
    vision_pb2.EstimateFlowRequest,
    vision_pb2.EstimateFlowResponse,
)

TASK_KINDS: Final = (CLASSIFY, SEGMENT, DETECT, CLASSIFY_CLIP, ESTIMATE_FLOW)

_BY_CATALOG_TASK: Final = {
    "classification": CLASSIFY,
    "quantization": CLASSIFY,
    "segmentation": SEGMENT,
    "detection": DETECT,
    "video": CLASSIFY_CLIP,
    "optical_flow": ESTIMATE_FLOW,
}


def kind_of(model: ModelName) -> TaskKind:
    """The kind of task that a model serves."""
    return _BY_CATALOG_TASK[model.info.task]


def _in_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # NaN is out of range too
        raise InvalidArgumentError(f"{name} is {value:g}; accepted: {low:g} to {high:g}")


def _known(name: str, value: int, enum: Any) -> None:
    if value not in enum.values():
        raise InvalidArgumentError(f"{name} is {value}; accepted: {', '.join(enum.keys())}")


def resolve(task: vision_pb2.Task) -> tuple[vision_pb2.Task, ModelName, TaskKind]:
    """Validate a client's task and fill in its defaults.

    Returns:
        A copy whose model name is canonical and whose precision and options are set, the model, and its kind.

    Raises:
        InvalidArgumentError: options of another kind of task, or out of range.
        UnknownModelError, UnknownWeightsError, InvalidModelNameError: as `ModelName.parse`.
        UnimplementedError: a precision that this version does not serve.
    """
    model = ModelName.parse(task.model)
    kind = kind_of(model)
    given = task.WhichOneof("options")
    if given is not None and given != kind.name:
        raise InvalidArgumentError(f"{model} takes the options {kind.name!r}, not {given!r}")
    _known("precision", task.precision, vision_pb2.Precision)
    if task.precision == vision_pb2.PRECISION_FAST:
        raise UnimplementedError("precision FAST is not served yet; accepted: EXACT")
    resolved = vision_pb2.Task(model=str(model), precision=vision_pb2.PRECISION_EXACT)
    options = getattr(resolved, kind.name)
    options.SetInParent()
    options.CopyFrom(getattr(task, kind.name))
    _fill_defaults(kind, options)
    return resolved, model, kind


def _fill_defaults(kind: TaskKind, options: Any) -> None:
    if kind in (CLASSIFY, CLASSIFY_CLIP):
        options.top_k = options.top_k or 5
        _in_range("top_k", options.top_k, 1, 1000)
    if kind is CLASSIFY_CLIP:
        options.num_frames = options.num_frames or 16
        _in_range("num_frames", options.num_frames, 1, 64)
    elif kind is DETECT:
        if not options.HasField("score_threshold"):
            options.score_threshold = 0.5
        options.max_detections = options.max_detections or 100
        _known("mask_encoding", options.mask_encoding, vision_pb2.MaskEncoding)
        options.mask_encoding = options.mask_encoding or vision_pb2.MASK_ENCODING_COCO_RLE
        _in_range("score_threshold", options.score_threshold, 0, 1)
        _in_range("max_detections", options.max_detections, 1, 1000)
    elif kind is ESTIMATE_FLOW:
        options.num_flow_updates = options.num_flow_updates or 12
        _known("flow_encoding", options.flow_encoding, vision_pb2.FlowEncoding)
        options.flow_encoding = options.flow_encoding or vision_pb2.FLOW_ENCODING_FLOAT16
        _in_range("num_flow_updates", options.num_flow_updates, 1, 32)


def check_first(message: Message, field: str) -> None:
    """Raise InvalidArgumentError unless the first message of a stream sets `field`."""
    given = message.WhichOneof("message")
    if given != field:
        raise InvalidArgumentError(f"the stream's first message sets {given or 'nothing'!r}; accepted: {field!r}")
