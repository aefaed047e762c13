"""Tasks as plain dataclasses: a model with its options, for streams, jobs and videos alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import ClassVar, Final

from zoofleet._values.enums import member
from zoofleet._wire.kinds import TaskKind
from zoofleet.errors import InvalidArgumentError
from zoofleet.v1 import vision_pb2

__all__ = [
    "TASK_CLASSES",
    "Classify",
    "ClassifyClip",
    "Detect",
    "EstimateFlow",
    "FlowEncoding",
    "MaskEncoding",
    "Precision",
    "Segment",
    "Task",
    "option_names",
]


class Precision(Enum):
    """How closely results must follow the reference."""

    EXACT = vision_pb2.PRECISION_EXACT
    """float32 throughout, equal to the reference within float32 rounding."""
    FAST = vision_pb2.PRECISION_FAST
    """The fastest way of running the model on the device that was found to give nearly the same."""


class MaskEncoding(Enum):
    """How the masks of detections travel. Both are exact; `Detections` gives the same masks for both."""

    COCO_RLE = vision_pb2.MASK_ENCODING_COCO_RLE
    """COCO's compressed run lengths, as pycocotools reads them; the server's default."""
    PNG = vision_pb2.MASK_ENCODING_PNG
    """A PNG of 1 bit a pixel for each mask: smaller where masks have many short runs."""


class FlowEncoding(Enum):
    """How a flow field travels, which decides how exact it is and how many bytes it takes."""

    FLOAT16 = vision_pb2.FLOW_ENCODING_FLOAT16
    """16-bit floating point, 4 bytes a pixel: 11 significant bits, up to 65504 pixels; the server's default."""
    FLO = vision_pb2.FLOW_ENCODING_FLO
    """Middlebury's .flo file, 8 bytes a pixel: 32-bit floating point, exact."""
    KITTI_PNG = vision_pb2.FLOW_ENCODING_KITTI_PNG
    """KITTI's PNG of 16 bits a channel: steps of 1/64 pixel, up to 512 pixels; compressed, so of varying size."""


@dataclass(frozen=True, slots=True)
class Task:
    """A model of any kind, with the server's default options.

    Attributes:
        model: `builder`, `builder@MEMBER`, `builder@DEFAULT` or `builder@random`, such as `resnet50@IMAGENET1K_V2`.
        precision: how closely results must follow the reference. None for the operator's choice, which is
            `Precision.EXACT` unless they changed it. Every kind of task has it, as a keyword.
    """

    kind: ClassVar[TaskKind | None] = None

    model: str
    precision: Precision | None = field(default=None, kw_only=True)

    def to_proto(self) -> vision_pb2.Task:
        """Return the message of the same name.

        Raises:
            InvalidArgumentError: a value has the wrong type, or its field cannot hold it. The server checks the ranges.
        """
        try:
            task = vision_pb2.Task(model=self.model)
            if self.precision is not None:
                task.precision = self.precision.value
            if self.kind is not None:
                options = getattr(task, self.kind.field)
                options.SetInParent()
                for name in option_names(type(self)):
                    value = getattr(self, name)
                    if value is not None:
                        setattr(options, name, value.value if isinstance(value, Enum) else value)
        except (TypeError, ValueError) as error:
            raise InvalidArgumentError(f"{self}: {error}") from None
        return task

    @staticmethod
    def from_proto(proto: vision_pb2.Task) -> Task:
        """Make one from the message of the same name: of the class for its options, a plain `Task` where it has none.

        Raises:
            DataLossError: the precision or an option has a value that this version does not know.
        """
        precision = member(Precision, proto.precision) if proto.precision else None
        cls = _BY_OPTIONS.get(proto.WhichOneof("options") or "")
        if cls is None or cls.kind is None:
            return Task(proto.model, precision=precision)
        given = {field.name: value for field, value in getattr(proto, cls.kind.field).ListFields()}
        for name, enum in _ENUMS.items():
            if name in given:
                given[name] = member(enum, given[name])
        options = {name: given[name] for name in option_names(cls) if name in given}
        return cls(proto.model, precision=precision, **options)


_ENUMS: Final[Mapping[str, type[Enum]]] = {"mask_encoding": MaskEncoding, "flow_encoding": FlowEncoding}
"""The options whose values are an enum's."""


def option_names(cls: type[Task]) -> list[str]:
    """Return the names of the options of a class of tasks, such as `top_k`."""
    return [field.name for field in fields(cls) if field.name not in ("model", "precision")]


@dataclass(frozen=True, slots=True)
class Classify(Task):
    """Rank the categories of an image.

    Attributes:
        model: `builder`, `builder@MEMBER`, `builder@DEFAULT` or `builder@random`, such as `resnet50@IMAGENET1K_V2`.
        top_k: number of categories to return, best first, 1 to 1000. None for the server's default, 5.
    """

    kind: ClassVar = TaskKind.CLASSIFY

    top_k: int | None = None


@dataclass(frozen=True, slots=True)
class Segment(Task):
    """Label each pixel of an image.

    Attributes:
        model: `builder`, `builder@MEMBER`, `builder@DEFAULT` or `builder@random`, such as `deeplabv3_resnet50`.
    """

    kind: ClassVar = TaskKind.SEGMENT


@dataclass(frozen=True, slots=True)
class Detect(Task):
    """Find objects in an image.

    Attributes:
        model: `builder`, `builder@MEMBER`, `builder@DEFAULT` or `builder@random`, such as `maskrcnn_resnet50_fpn`.
        score_threshold: lowest score of a detection that is returned, 0 to 1. None for the server's default, 0.5.
        max_detections: number of detections to return at most, best first, 1 to 1000. None for the server's default,
            100.
        mask_encoding: how masks travel; the result is the same. None for the server's default, `COCO_RLE`.
    """

    kind: ClassVar = TaskKind.DETECT

    score_threshold: float | None = None
    max_detections: int | None = None
    mask_encoding: MaskEncoding | None = None


@dataclass(frozen=True, slots=True)
class ClassifyClip(Task):
    """Rank the categories of a video clip.

    Attributes:
        model: `builder`, `builder@MEMBER`, `builder@DEFAULT` or `builder@random`, such as `r3d_18`.
        top_k: number of categories to return, best first, 1 to 1000. None for the server's default, 5.
        num_frames: number of frames that are sampled, spread evenly over the clip, 1 to 64. None for the server's
            default, 16.
    """

    kind: ClassVar = TaskKind.CLASSIFY_CLIP

    top_k: int | None = None
    num_frames: int | None = None


@dataclass(frozen=True, slots=True)
class EstimateFlow(Task):
    """Estimate the optical flow from the first image of a pair to the second.

    Attributes:
        model: `builder`, `builder@MEMBER`, `builder@DEFAULT` or `builder@random`, such as `raft_small`.
        num_flow_updates: number of times that the model refines the flow, 1 to 32. None for the server's default, 12.
        flow_encoding: how the flow travels, which decides how exact it is. None for the server's default, `FLOAT16`.
    """

    kind: ClassVar = TaskKind.ESTIMATE_FLOW

    num_flow_updates: int | None = None
    flow_encoding: FlowEncoding | None = None


TASK_CLASSES: Final[Mapping[TaskKind, type[Task]]] = {
    cls.kind: cls for cls in (Classify, Segment, Detect, ClassifyClip, EstimateFlow)
}
"""The class of tasks of each kind."""

_BY_OPTIONS: Final = {kind.field: cls for kind, cls in TASK_CLASSES.items()}
