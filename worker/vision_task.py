"""A client's task, between protobuf and what the pipeline takes and gives."""

from __future__ import annotations

import dataclasses
import functools
import time
from dataclasses import dataclass
from typing import Any

from zoofleet._catalog import ModelName
from zoofleet._values.results import Classification, Detections, Outcome, Segmentation
from zoofleet._values.tasks import Precision
from zoofleet._wire.kinds import TaskKind
from zoofleet._wire.status import error_result
from zoofleet.errors import ZoofleetError
from zoofleet.v1 import vision_pb2
from zoofleet.worker.items import Item
from zoofleet.worker.pipeline import Pipeline, Spec
from zoofleet.worker.runners import runner_type

__all__ = ["VisionTask"]


@dataclass(frozen=True, slots=True)
class VisionTask:
    """A client's task with its defaults filled in.

    Attributes:
        model: the model, its weights resolved.
        kind: the model's kind of task.
        options: the task's options, of the class that the model's runner takes.
        precision: what the client asks for.
        bulk: whether its items yield to those of other streams.
        message: the task as a message, for the encodings that results travel in.
    """

    model: ModelName
    kind: TaskKind
    options: Any
    precision: Precision
    bulk: bool
    message: vision_pb2.Task

    @classmethod
    def from_resolved(
        cls, message: vision_pb2.Task, model: ModelName, kind: TaskKind, *, bulk: bool = False
    ) -> VisionTask:
        """Make a task of what `kinds.resolve` returned for it, and of what its stream says of its traffic."""
        given = getattr(message, kind.field)
        options = runner_type(model).options
        values = {field.name: getattr(given, field.name) for field in dataclasses.fields(options)}
        return cls(model, kind, options(**values), Precision(message.precision), bulk, message)

    async def run(self, pipeline: Pipeline, item_id: str, item: Item) -> vision_pb2.Result:
        """Run the task on one item, and return its result, which may carry an error."""
        encode = functools.partial(self._result, item_id, time.monotonic())
        return await pipeline.run(Spec(self.model, self.options, self.precision, self.bulk), item, encode)

    def failed(self, item_id: str, error: ZoofleetError) -> vision_pb2.Result:
        """Return the result of an item that has none but this error."""
        return error_result(item_id, self.message.model, error)

    def _result(
        self, item_id: str, arrived: float, outcome: Outcome | ZoofleetError, precision: Precision
    ) -> vision_pb2.Result:
        """Write a result, in the encodings that the task asks for.

        Args:
            item_id: the item's id.
            arrived: when the item arrived, by the monotonic clock in seconds.
            outcome: what the item's run came to.
            precision: what it ran at.
        """
        if isinstance(outcome, ZoofleetError):
            result = self.failed(item_id, outcome)
        else:
            result = vision_pb2.Result(item_id=item_id, model=self.message.model)
            result.precision = precision.value
            self._set_outcome(result, outcome)
        result.duration.FromNanoseconds(int((time.monotonic() - arrived) * 1e9))
        return result

    def _set_outcome(self, result: vision_pb2.Result, outcome: Outcome) -> None:
        if isinstance(outcome, Classification):
            result.classification.CopyFrom(outcome.to_proto())
        elif isinstance(outcome, Segmentation):
            result.segmentation.CopyFrom(outcome.to_proto())
        elif isinstance(outcome, Detections):
            result.detections.CopyFrom(outcome.to_proto(self.message.detect.mask_encoding))
        else:
            result.flow.CopyFrom(outcome.to_proto(self.message.estimate_flow.flow_encoding))
