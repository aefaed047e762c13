"""The results of the analysis of a video as plain dataclasses."""

from __future__ import annotations

from dataclasses import dataclass

from zoofleet._values.results import Result
from zoofleet._wire.status import from_status
from zoofleet.errors import ZoofleetError
from zoofleet.v1 import vision_pb2

__all__ = ["FrameResults", "VideoInfo", "VideoSummary"]


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What the container says of its video.

    Attributes:
        width: the frames' width in pixels.
        height: the frames' height in pixels.
        frame_rate: the average number of frames a second. 0 where unknown.
        frame_count: the number of frames. 0 where unknown.
    """

    width: int
    height: int
    frame_rate: float
    frame_count: int

    @classmethod
    def from_proto(cls, proto: vision_pb2.VideoInfo) -> VideoInfo:
        """Make one from the message of the same name."""
        return cls(proto.width, proto.height, proto.frame_rate, proto.frame_count)


@dataclass(frozen=True, slots=True, eq=False)
class FrameResults:
    """The results of one analysed frame.

    Attributes:
        frame_index: the frame's position in the video, from 0, in display order, among all frames.
        pts: the presentation time in seconds from the start of the video.
        results: one result for each task that had all the frames it needs, in the order of the tasks.
    """

    frame_index: int
    pts: float
    results: tuple[Result, ...]

    @classmethod
    def from_proto(cls, proto: vision_pb2.FrameResults) -> FrameResults:
        """Make one from the message of the same name.

        Raises:
            DataLossError: a result carries no outcome, or a broken one.
        """
        results = tuple(Result.from_proto(result) for result in proto.results)
        return cls(proto.frame_index, proto.pts.seconds + proto.pts.nanos / 1e9, results)


@dataclass(frozen=True, slots=True, eq=False)
class VideoSummary:
    """How an analysis ended.

    Attributes:
        decoded_frame_count: number of frames that were decoded.
        analyzed_frame_count: number of frames that were analysed.
        error: why the analysis ended before the video did. None where it reached the end.
    """

    decoded_frame_count: int
    analyzed_frame_count: int
    error: ZoofleetError | None

    @classmethod
    def from_proto(cls, proto: vision_pb2.VideoSummary) -> VideoSummary:
        """Make one from the message of the same name."""
        error = from_status(proto.error) if proto.HasField("error") else None
        return cls(proto.decoded_frame_count, proto.analyzed_frame_count, error)
