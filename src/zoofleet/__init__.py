"""Zoofleet: a gRPC batch-processing worker cluster for vision.

    from zoofleet import Client, Detect

    with Client("127.0.0.1:50051") as client:
        found = client.detect("street.jpg", model="maskrcnn_resnet50_fpn")
        print(found.categories, found.boxes)

Each name is loaded at its first use, so that the zoo can be used without gRPC, and the command line starts at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from zoofleet import errors
    from zoofleet._client.async_client import AsyncClient
    from zoofleet._client.client import Client, VideoAnalysis
    from zoofleet._client.items import Item, ItemSource, MediaSource, Uri
    from zoofleet._client.video_analysis import AsyncVideoAnalysis, VideoSource
    from zoofleet._values.resources import (
        Job,
        JobState,
        LoadedModel,
        Model,
        Plan,
        PlanState,
        TaskName,
        WeightSet,
        Worker,
        WorkerState,
    )
    from zoofleet._values.results import Classification, Detections, Flow, Outcome, Result, Segmentation
    from zoofleet._values.tasks import (
        Classify,
        ClassifyClip,
        Detect,
        EstimateFlow,
        FlowEncoding,
        MaskEncoding,
        Precision,
        Segment,
        Task,
    )
    from zoofleet._values.video import FrameResults, VideoInfo, VideoSummary
    from zoofleet.errors import ZoofleetError

__all__ = [
    "AsyncClient",
    "AsyncVideoAnalysis",
    "Classification",
    "Classify",
    "ClassifyClip",
    "Client",
    "Detect",
    "Detections",
    "EstimateFlow",
    "Flow",
    "FlowEncoding",
    "FrameResults",
    "Item",
    "ItemSource",
    "Job",
    "JobState",
    "LoadedModel",
    "MaskEncoding",
    "MediaSource",
    "Model",
    "Outcome",
    "Plan",
    "PlanState",
    "Precision",
    "Result",
    "Segment",
    "Segmentation",
    "Task",
    "TaskName",
    "Uri",
    "VideoAnalysis",
    "VideoInfo",
    "VideoSource",
    "VideoSummary",
    "WeightSet",
    "Worker",
    "WorkerState",
    "ZoofleetError",
    "errors",
]

_HOMES: Final = {
    "_client.async_client": ("AsyncClient",),
    "_client.client": ("Client", "VideoAnalysis"),
    "_client.items": ("Item", "ItemSource", "MediaSource", "Uri"),
    "_values.resources": (
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
    ),
    "_values.results": ("Classification", "Detections", "Flow", "Outcome", "Result", "Segmentation"),
    "_values.tasks": (
        "Classify",
        "ClassifyClip",
        "Detect",
        "EstimateFlow",
        "FlowEncoding",
        "MaskEncoding",
        "Precision",
        "Segment",
        "Task",
    ),
    "_client.video_analysis": ("AsyncVideoAnalysis", "VideoSource"),
    "_values.video": ("FrameResults", "VideoInfo", "VideoSummary"),
    "errors": ("ZoofleetError",),
}
_HOME_OF: Final = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("zoofleet")
        except PackageNotFoundError:  # run from a source tree that is not installed
            return "0+source"
    if name == "errors":
        return importlib.import_module("zoofleet.errors")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'zoofleet' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"zoofleet.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
