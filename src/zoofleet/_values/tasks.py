"""Tasks as plain dataclasses: a model with its options, for streams, jobs and videos alike."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

from zoofleet._wire import kinds
from zoofleet._wire.kinds import TaskKind
from zoofleet.errors import InvalidArgumentError
from zoofleet.v1 import vision_pb2

__all__ = ["Classify", "ClassifyClip", "Detect", "EstimateFlow", "Segment", "Task"]


@dataclass(frozen=True, slots=True)
class Task:
    """A model of any kind, with the server's default options.

    Attributes:
        model: `builder`, `builder@MEMBER`, `builder@DEFAULT` or `builder@random`, such as `resnet50@IMAGENET1K_V2`.
    """

    kind: ClassVar[TaskKind | None] = None

    model: str

    def to_proto(self) -> vision_pb2.Task:
        """As the message of the same name.

        Raises:
            InvalidArgumentError: a value that its field cannot hold; ranges are the server's to check.
        """
        try:
            task = vision_pb2.Task(model=self.model)
            if self.kind is not None:
                options = getattr(task, self.kind.field)
                options.SetInParent()
                for name in _option_names(type(self)):
                    value = getattr(self, name)
                    if value is not None:
                        setattr(options, name, value)
        except (TypeError, ValueError) as error:
            raise InvalidArgumentError(f"{self}: {error}") from None
        return task

    @staticmethod
    def from_proto(proto: vision_pb2.Task) -> Task:
        """From the message of the same name: of the class that its options call for, `Task` where it has none."""
        cls = _BY_OPTIONS.get(proto.WhichOneof("options") or "")
        if cls is None or cls.kind is None:
            return Task(proto.model)
        options = getattr(proto, cls.kind.field)
        given = {field.name: value for field, value in options.ListFields()}
        return cls(proto.model, **{name: given[name] for name in _option_names(cls) if name in given})


def _option_names(cls: type[Task]) -> list[str]:
    return [field.name for field in fields(cls) if field.name != "model"]


@dataclass(frozen=True, slots=True)
class Classify(Task):
    """Ranks an image's categories.

    Attributes:
        top_k: number of categories, best first, 1 to 1000; None for the server's default, 5.
    """

    kind: ClassVar = kinds.CLASSIFY

    top_k: int | None = None


@dataclass(frozen=True, slots=True)
class Segment(Task):
    """Labels each pixel of an image."""

    kind: ClassVar = kinds.SEGMENT


@dataclass(frozen=True, slots=True)
class Detect(Task):
    """Finds objects in an image.

    Attributes:
        score_threshold: leaves out detections below it, 0 to 1; None for the server's default, 0.5.
        max_detections: most detections an image, best first, 1 to 1000; None for the server's default, 100.
    """

    kind: ClassVar = kinds.DETECT

    score_threshold: float | None = None
    max_detections: int | None = None


@dataclass(frozen=True, slots=True)
class ClassifyClip(Task):
    """Ranks a video clip's categories.

    Attributes:
        top_k: number of categories, best first, 1 to 1000; None for the server's default, 5.
        num_frames: frames sampled from the clip, 1 to 64; None for the server's default, 16.
    """

    kind: ClassVar = kinds.CLASSIFY_CLIP

    top_k: int | None = None
    num_frames: int | None = None


@dataclass(frozen=True, slots=True)
class EstimateFlow(Task):
    """Estimates the optical flow from the first image of a pair to the second.

    Attributes:
        num_flow_updates: refinements of the flow, 1 to 32; None for the server's default, 12.
    """

    kind: ClassVar = kinds.ESTIMATE_FLOW

    num_flow_updates: int | None = None


_BY_OPTIONS: dict[str, type[Task]] = {
    cls.kind.field: cls for cls in (Classify, Segment, Detect, ClassifyClip, EstimateFlow)
}
