"""Dataclasses to messages and back, and messages that nobody should have sent."""

from __future__ import annotations

import math
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from google.protobuf import struct_pb2

from zoofleet import (
    Classify,
    ClassifyClip,
    Detect,
    EstimateFlow,
    FlowEncoding,
    MaskEncoding,
    Precision,
    Segment,
    Task,
    TaskName,
)
from zoofleet._cli import console
from zoofleet._cli import models as models_command
from zoofleet._media.rle import encode
from zoofleet._values import tasks
from zoofleet._values.resources import Job, JobState, Model, Worker
from zoofleet._values.results import Classification, Detections, Flow, Outcome, Result, Segmentation
from zoofleet._values.video import VideoSummary
from zoofleet._wire.kinds import resolve
from zoofleet._wire.status import to_status
from zoofleet.errors import DataLossError, InvalidArgumentError, InvalidMediaError, UnavailableError, ZoofleetError
from zoofleet.v1 import fleet_pb2, jobs_pb2, models_pb2, vision_pb2

TASKS = [
    Task("resnet50"),
    Classify("resnet50"),
    Classify("resnet50", top_k=3),
    Segment("lraspp_mobilenet_v3_large"),
    Detect("maskrcnn_resnet50_fpn", score_threshold=0.0),
    Detect("maskrcnn_resnet50_fpn", score_threshold=0.25, max_detections=7),
    ClassifyClip("r3d_18", num_frames=8),
    EstimateFlow("raft_small", num_flow_updates=4),
    *(Detect("maskrcnn_resnet50_fpn", mask_encoding=encoding) for encoding in MaskEncoding),
    *(EstimateFlow("raft_small", flow_encoding=encoding) for encoding in FlowEncoding),
    *(Classify("resnet50", 3, precision=precision) for precision in Precision),
    Task("resnet50", precision=Precision.FAST),
]


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_tasks_come_back_as_they_went(task: Task) -> None:
    assert Task.from_proto(task.to_proto()) == task
    resolve(task.to_proto())  # and mean the same to a server


def test_without_options_a_task_sends_none() -> None:
    assert not Detect("x").to_proto().detect.ListFields()
    assert not EstimateFlow("x").to_proto().estimate_flow.ListFields()


def test_every_kind_of_task_and_every_encoding_of_the_contract_can_be_asked_for() -> None:
    assert set(tasks.TASK_CLASSES) == set(TaskName)
    for kind, cls in tasks.TASK_CLASSES.items():
        assert set(tasks.option_names(cls)) == {option.name for option in kind.options}
    assert {kind.name for kind in models_command._Kind} == {kind.name for kind in TaskName}
    assert {name.name for name in console.PrecisionName} == {precision.name for precision in Precision}
    for ours, theirs in ((MaskEncoding, vision_pb2.MaskEncoding), (FlowEncoding, vision_pb2.FlowEncoding)):
        assert {member.value for member in ours} == set(theirs.values()) - {0}


def test_an_encoding_of_a_later_version_is_data_loss() -> None:
    proto = vision_pb2.Task(model="x")
    proto.detect.mask_encoding = 99  # type: ignore[assignment]
    with pytest.raises(DataLossError, match="MaskEncoding"):
        Task.from_proto(proto)


@pytest.mark.parametrize(
    "task",
    [
        Classify("resnet50", top_k=-1),
        Detect("x", max_detections=1 << 40),
        Detect("x", mask_encoding="no such"),  # type: ignore[arg-type]
        Task("\ud800"),
    ],
    ids=repr,
)
def test_values_that_no_message_holds_are_refused(task: Task) -> None:
    with pytest.raises(InvalidArgumentError):
        task.to_proto()


def detections(**changes: Any) -> Detections:
    mask = np.zeros((4, 6), dtype=np.bool_)
    mask[1:3, 2:5] = True
    fields: dict[str, Any] = {
        "image_size": (4, 6),
        "boxes": np.array([[2, 1, 5, 3]], dtype=np.float32),
        "scores": np.array([0.5], dtype=np.float32),
        "labels": np.array([7]),
        "categories": ("train",),
        "rles": (encode(mask),),
    }
    return Detections(**fields | changes)


OUTCOMES: list[Outcome] = [
    Classification(np.array([3, 1]), np.array([0.75, 0.25], dtype=np.float32), ("c", "a")),
    Segmentation(np.arange(24, dtype=np.uint8).reshape(4, 6), ("background", "cat")),
    detections(),
    detections(rles=None),
    detections(
        keypoints=np.ones((1, 2, 3), dtype=np.float32),
        keypoint_scores=np.ones((1, 2), dtype=np.float32),
        keypoint_names=("nose", "tail"),
    ),
    Flow(np.array([[[0.5, -2]], [[1, 3]]], dtype=np.float32)),
]


OUTCOME_NAMES = ["classification", "segmentation", "masks", "boxes", "keypoints", "flow"]


def message_of(outcome: Any) -> vision_pb2.Result:
    field = {Classification: "classification", Segmentation: "segmentation", Detections: "detections", Flow: "flow"}
    return vision_pb2.Result(item_id="1", model="m@random", **{field[type(outcome)]: outcome.to_proto()})


@pytest.mark.parametrize("encoding", FlowEncoding)
def test_every_encoding_of_a_flow_comes_back(encoding: FlowEncoding) -> None:
    random = np.random.default_rng(0)
    flow = random.uniform(-300, 300, (2, 7, 5)).astype(np.float32)
    proto = Flow(flow).to_proto(encoding.value)
    tolerance = {FlowEncoding.FLOAT16: 0.125, FlowEncoding.FLO: 0, FlowEncoding.KITTI_PNG: 1 / 128}[encoding]
    np.testing.assert_allclose(Flow.from_proto(proto).flow, flow, rtol=0, atol=tolerance)
    for width, height, data in ((5, 7, proto.data[: len(proto.data) // 2]), (5, 7, b""), (5, 8, proto.data)):
        with pytest.raises(DataLossError):
            Flow.from_proto(vision_pb2.Flow(width=width, height=height, encoding=encoding.value, data=data))


@pytest.mark.parametrize("outcome", OUTCOMES, ids=OUTCOME_NAMES)
def test_outcomes_come_back_as_they_went(outcome: Any) -> None:
    back = Result.from_proto(message_of(outcome)).outcome
    assert type(back) is type(outcome)
    for name in vars(type(outcome))["__slots__"]:
        np.testing.assert_array_equal(getattr(back, name), getattr(outcome, name))


def broken_results() -> list[vision_pb2.Result]:
    segmentation, found, flow = (message_of(outcome) for outcome in (OUTCOMES[1], OUTCOMES[2], OUTCOMES[5]))
    wrong_size, no_png, boxes, masks, cut = (vision_pb2.Result() for _ in range(5))
    wrong_size.CopyFrom(segmentation)
    wrong_size.segmentation.width = 60_000
    no_png.CopyFrom(segmentation)
    no_png.segmentation.label_map = b"GIF89a"
    boxes.CopyFrom(found)
    boxes.detections.boxes.append(1.0)
    masks.CopyFrom(found)
    masks.detections.masks.add(coco_rle=b"x")
    cut.CopyFrom(flow)
    cut.flow.data = cut.flow.data[:-1]
    return [vision_pb2.Result(item_id="1"), wrong_size, no_png, boxes, masks, cut]


@pytest.mark.parametrize("proto", broken_results(), ids=range(6))
def test_broken_results_are_data_loss(proto: vision_pb2.Result) -> None:
    with pytest.raises(DataLossError):
        Result.from_proto(proto)


def test_an_error_keeps_its_class() -> None:
    result = Result.from_proto(vision_pb2.Result(item_id="1", error=to_status(InvalidMediaError("no image"))))
    assert type(result.error) is InvalidMediaError
    assert str(result.error) == "no image"
    summary = VideoSummary.from_proto(vision_pb2.VideoSummary(error=to_status(InvalidMediaError("cut off"))))
    assert isinstance(summary.error, InvalidMediaError)
    assert VideoSummary.from_proto(vision_pb2.VideoSummary()).error is None


def test_jobs() -> None:
    proto = jobs_pb2.Job(name="jobs/1", tasks=[TASKS[4].to_proto()], state=jobs_pb2.Job.STATE_FAILED, committed_count=3)
    proto.create_time.FromDatetime(datetime(2026, 1, 2, tzinfo=UTC))
    proto.ttl.FromTimedelta(timedelta(hours=3))
    proto.error.CopyFrom(to_status(UnavailableError("gone")))
    job = Job.from_proto(proto)
    assert (job.state, job.tasks, job.ttl) == (JobState.FAILED, (TASKS[4],), timedelta(hours=3))
    assert job.create_time == datetime(2026, 1, 2, tzinfo=UTC) and job.end_time is None
    assert isinstance(job.error, UnavailableError) and job.finished and job.wait_reason is None
    proto.wait_reason.CopyFrom(to_status(UnavailableError("no worker")))
    assert str(Job.from_proto(proto).wait_reason) == "no worker"


def test_workers_say_since_when_they_are_in_a_batch() -> None:
    proto = fleet_pb2.Worker(name="workers/1", state=fleet_pb2.Worker.STATE_READY)
    assert Worker.from_proto(proto).batch_start_time is None
    proto.status.batch_start_time.FromDatetime(datetime(2026, 1, 2, tzinfo=UTC))
    assert Worker.from_proto(proto).batch_start_time == datetime(2026, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize("seconds", [1 << 62, -(1 << 62)])
def test_times_out_of_range_are_data_loss(seconds: int) -> None:
    job = jobs_pb2.Job(state=jobs_pb2.Job.STATE_QUEUED)
    job.end_time.seconds = seconds
    worker = fleet_pb2.Worker(state=fleet_pb2.Worker.STATE_READY)
    worker.heartbeat_time.seconds = seconds
    ttl = jobs_pb2.Job(state=jobs_pb2.Job.STATE_QUEUED)
    ttl.ttl.seconds = seconds
    for parse in (lambda: Job.from_proto(job), lambda: Worker.from_proto(worker), lambda: Job.from_proto(ttl)):
        with pytest.raises(DataLossError):
            parse()


def test_metrics_of_weights_may_be_missing_values() -> None:
    metrics = struct_pb2.Struct()
    metrics.update({"ImageNet-1K": {"acc@1": 80.5, "acc@5": math.nan}})
    proto = models_pb2.Model(name="models/resnet50", task_kind=models_pb2.TASK_KIND_CLASSIFY)
    proto.weight_sets.add(weight_set_id="V1", metrics=metrics)
    (weights,) = Model.from_proto(proto).weight_sets
    assert weights.metrics["ImageNet-1K"]["acc@1"] == 80.5
    assert math.isnan(weights.metrics["ImageNet-1K"]["acc@5"])
    proto.weight_sets[0].metrics.update({"x": "text"})
    with pytest.raises(DataLossError, match="string_value"):
        Model.from_proto(proto)


def test_random_bytes_never_raise_anything_else() -> None:
    random = np.random.default_rng(0)
    template = message_of(OUTCOMES[4]).SerializeToString() + message_of(OUTCOMES[1]).SerializeToString()
    for _ in range(2000):
        data = bytearray(template)
        for _ in range(random.integers(1, 6)):
            data[random.integers(len(data))] = random.integers(256)
        proto = vision_pb2.Result()
        try:
            proto.ParseFromString(bytes(data))
        except Exception:  # protobuf's own: gRPC turns it into an error of the call
            continue
        with suppress(ZoofleetError):
            Result.from_proto(proto)
