"""The calls of the service `Vision`: one item, a stream of items, a video."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from typing import TypeVar

from zoofleet._client.connection import Connection
from zoofleet._client.items import Item, ItemSource, MediaSource, read_item
from zoofleet._client.single_calls import SingleCalls
from zoofleet._client.video_analysis import AsyncVideoAnalysis, VideoSource
from zoofleet._client.vision_stream import VisionStream
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
from zoofleet._wire.kinds import TaskKind
from zoofleet.errors import DataLossError, DeadlineExceededError, InvalidArgumentError, ZoofleetError
from zoofleet.v1 import vision_pb2, vision_pb2_grpc

_O = TypeVar("_O", bound=Outcome)


class VisionCalls(Connection):
    """The calls of the service `Vision`.

    The five methods for one item have docstrings of their own, although parts of them are equal: editors show them as
    they stand here. `Client` has no copy of them; its methods take over the docstrings of these.
    """

    def __init__(self, address: str | None = None, *, retry_timeout: float = 30.0) -> None:
        super().__init__(address, retry_timeout=retry_timeout)
        self._vision: vision_pb2_grpc.VisionAsyncStub = vision_pb2_grpc.VisionStub(self._channel)
        self._single_calls = SingleCalls(self._vision, retry_timeout)

    async def close(self) -> None:
        """End all calls and close the connection."""
        self._single_calls.close()
        await super().close()

    async def classify(
        self,
        image: MediaSource | Item,
        *,
        model: str,
        top_k: int | None = None,
        precision: Precision | None = None,
        timeout: float | None = None,
    ) -> Classification:
        """Rank the categories of an image.

        Args:
            image: a path, encoded bytes, a PIL image, a uint8 array (H, W, 3) or (H, W), or a `Uri`.
            model: the model's name, such as `resnet50` or `resnet50@IMAGENET1K_V2`.
            top_k: number of categories to return, 1 to 1000. None for 5.
            precision: how closely the result must follow the reference. None for the operator's choice.
            timeout: seconds to wait for the result at most. None for no limit.

        Returns:
            The categories, best first, with their softmax probabilities.

        Raises:
            MediaNotFoundError: the path names no file. This is a FileNotFoundError, too.
            PermissionDeniedError: the file may not be read, or the server's operator has not allowed the URI.
            InvalidMediaError: the bytes are no image.
            ItemTooLargeError: the image has more bytes or pixels than the server accepts.
            InvalidArgumentError: the model does not classify images, or an option is out of range.
            UnknownModelError, UnknownWeightsError: there is no such model or weight set.
            DeadlineExceededError: there was no result within `timeout` seconds.
            UnavailableError: the server cannot be reached, or no worker can run the model.
        """
        return await self._one(Classify(model, top_k, precision=precision), image, Classification, timeout)

    async def segment(
        self, image: MediaSource | Item, *, model: str, precision: Precision | None = None, timeout: float | None = None
    ) -> Segmentation:
        """Label each pixel of an image.

        Args:
            image: a path, encoded bytes, a PIL image, a uint8 array (H, W, 3) or (H, W), or a `Uri`.
            model: the model's name, such as `deeplabv3_resnet50`.
            precision: how closely the result must follow the reference. None for the operator's choice.
            timeout: seconds to wait for the result at most. None for no limit.

        Returns:
            The label map, uint8 (H, W), in the size of the image.

        Raises:
            MediaNotFoundError: the path names no file. This is a FileNotFoundError, too.
            PermissionDeniedError: the file may not be read, or the server's operator has not allowed the URI.
            InvalidMediaError: the bytes are no image.
            ItemTooLargeError: the image has more bytes or pixels than the server accepts.
            InvalidArgumentError: the model does not segment images.
            UnknownModelError, UnknownWeightsError: there is no such model or weight set.
            DeadlineExceededError: there was no result within `timeout` seconds.
            UnavailableError: the server cannot be reached, or no worker can run the model.
        """
        return await self._one(Segment(model, precision=precision), image, Segmentation, timeout)

    async def detect(
        self,
        image: MediaSource | Item,
        *,
        model: str,
        score_threshold: float | None = None,
        max_detections: int | None = None,
        mask_encoding: MaskEncoding | None = None,
        precision: Precision | None = None,
        timeout: float | None = None,
    ) -> Detections:
        """Find objects in an image, with masks and keypoints where the model has them.

        Args:
            image: a path, encoded bytes, a PIL image, a uint8 array (H, W, 3) or (H, W), or a `Uri`.
            model: the model's name, such as `maskrcnn_resnet50_fpn`.
            score_threshold: lowest score of a detection that is returned, 0 to 1. None for 0.5.
            max_detections: number of detections to return at most, best first, 1 to 1000. None for 100.
            mask_encoding: how masks travel; the result is the same. None for COCO's run lengths.
            precision: how closely the result must follow the reference. None for the operator's choice.
            timeout: seconds to wait for the result at most. None for no limit.

        Returns:
            The detections, best first, in pixels of the image.

        Raises:
            MediaNotFoundError: the path names no file. This is a FileNotFoundError, too.
            PermissionDeniedError: the file may not be read, or the server's operator has not allowed the URI.
            InvalidMediaError: the bytes are no image.
            ItemTooLargeError: the image has more bytes or pixels than the server accepts.
            InvalidArgumentError: the model does not detect objects, or an option is out of range.
            UnknownModelError, UnknownWeightsError: there is no such model or weight set.
            DeadlineExceededError: there was no result within `timeout` seconds.
            UnavailableError: the server cannot be reached, or no worker can run the model.
        """
        task = Detect(model, score_threshold, max_detections, mask_encoding, precision=precision)
        return await self._one(task, image, Detections, timeout)

    async def classify_clip(
        self,
        clip: MediaSource | Item,
        *,
        model: str,
        top_k: int | None = None,
        num_frames: int | None = None,
        precision: Precision | None = None,
        timeout: float | None = None,
    ) -> Classification:
        """Rank the categories of a video clip.

        Args:
            clip: a path, the bytes of an encoded video, or a `Uri`.
            model: the model's name, such as `r3d_18`.
            top_k: number of categories to return, 1 to 1000. None for 5.
            num_frames: number of frames that are sampled, spread evenly over the clip, 1 to 64. None for 16.
            precision: how closely the result must follow the reference. None for the operator's choice.
            timeout: seconds to wait for the result at most. None for no limit.

        Returns:
            The categories, best first, with their softmax probabilities.

        Raises:
            MediaNotFoundError: the path names no file. This is a FileNotFoundError, too.
            PermissionDeniedError: the file may not be read, or the server's operator has not allowed the URI.
            InvalidMediaError: the bytes are no video.
            ItemTooLargeError: the clip has more bytes, or its frames more pixels, than the server accepts.
            InvalidArgumentError: the model does not classify clips, or an option is out of range.
            UnknownModelError, UnknownWeightsError: there is no such model or weight set.
            DeadlineExceededError: there was no result within `timeout` seconds.
            UnavailableError: the server cannot be reached, or no worker can run the model.
        """
        return await self._one(
            ClassifyClip(model, top_k, num_frames, precision=precision), clip, Classification, timeout
        )

    async def estimate_flow(
        self,
        first: MediaSource,
        second: MediaSource,
        *,
        model: str,
        num_flow_updates: int | None = None,
        flow_encoding: FlowEncoding | None = None,
        precision: Precision | None = None,
        timeout: float | None = None,
    ) -> Flow:
        """Estimate the optical flow from one image to another of the same size.

        Args:
            first: a path, encoded bytes, a PIL image, a uint8 array (H, W, 3) or (H, W), or a `Uri`.
            second: the second image, in any of the same forms.
            model: the model's name, such as `raft_small`.
            num_flow_updates: number of times that the model refines the flow, 1 to 32. None for 12.
            flow_encoding: how the flow travels, which decides how exact it is. None for 16-bit floating point.
            precision: how closely the result must follow the reference. None for the operator's choice.
            timeout: seconds to wait for the result at most. None for no limit.

        Returns:
            The displacement of each pixel of the first image, float32 (2, H, W), in pixels.

        Raises:
            MediaNotFoundError: a path names no file. This is a FileNotFoundError, too.
            PermissionDeniedError: a file may not be read, or the server's operator has not allowed the URI.
            InvalidMediaError: the bytes are no image.
            ItemTooLargeError: an image has more bytes or pixels than the server accepts.
            InvalidArgumentError: the model does not estimate flow, the images differ in size, or an option is out of
                range.
            UnknownModelError, UnknownWeightsError: there is no such model or weight set.
            DeadlineExceededError: there was no result within `timeout` seconds.
            UnavailableError: the server cannot be reached, or no worker can run the model.
        """
        return await self._one(
            EstimateFlow(model, num_flow_updates, flow_encoding, precision=precision), (first, second), Flow, timeout
        )

    async def _one(self, task: Task, source: ItemSource, outcome: type[_O], timeout: float | None) -> _O:
        try:
            async with asyncio.timeout(timeout):
                result = await self._single_calls.run(_kind_of(task), task.to_proto(), await read_item(source))
        except TimeoutError as error:
            if isinstance(error, ZoofleetError):
                raise
            raise DeadlineExceededError(f"no result from {self.address} within {timeout:g} s") from None
        if isinstance(result.outcome, ZoofleetError):
            raise result.outcome
        if not isinstance(result.outcome, outcome):
            raise DataLossError(f"{task.model} gave {type(result.outcome).__name__}, not {outcome.__name__}")
        return result.outcome

    def stream(self, task: Task, items: Iterable[ItemSource] | AsyncIterable[ItemSource]) -> AsyncGenerator[Result]:
        """Run a task over many items, and yield the results as they become ready.

        Items are read while results come back, never more than 64 ahead of them. An item that fails has its error in
        its result and does not end the stream. When the connection breaks, the items without a result are sent again.

        Args:
            task: a `Classify`, `Segment`, `Detect`, `ClassifyClip` or `EstimateFlow`.
            items: media, pairs of images (tuples) for optical flow, or `Item`s with ids of their own. A plain iterable
                is read in a thread, one item at a time.

        Returns:
            An iterator over the results: for `async for` with `AsyncClient`, for `for` with `Client`. It raises a
            `ZoofleetError` where the stream as a whole fails, and `InvalidArgumentError` where two items have one id.

        Raises:
            InvalidArgumentError: `task` is a plain `Task`, whose method is not known.
        """
        kind = _kind_of(task)
        return VisionStream(getattr(self._vision, kind.method), kind, task, items, self._retry_timeout).results()

    def analyze_video(
        self, video: VideoSource, tasks: Iterable[Task], *, frame_step: int = 1, max_frames: int = 0
    ) -> AsyncVideoAnalysis:
        """Decode a video once and run tasks over its frames.

        Args:
            video: a path, the encoded bytes, or a binary file that is read as it is sent.
            tasks: 1 to 8 tasks. Image tasks run on each analysed frame, optical flow on each analysed frame and the one
                before it, clip classification on each run of `num_frames` analysed frames.
            frame_step: analyze every `frame_step`-th frame, beginning with the first.
            max_frames: stop after this many analysed frames. 0 for all.

        Returns:
            An iterator over the frames' results: for `async for` with `AsyncClient`, for `for` with `Client`. It raises
            `MediaNotFoundError`, `PermissionDeniedError` or `InvalidMediaError` where the video cannot be read, and
            another `ZoofleetError` where the analysis fails.

        Raises:
            InvalidArgumentError: a number is negative or too large for its field.
        """
        try:
            header = vision_pb2.VideoHeader(
                tasks=[task.to_proto() for task in tasks], frame_step=frame_step, max_frames=max_frames
            )
        except ValueError as error:
            raise InvalidArgumentError(f"frame_step {frame_step}, max_frames {max_frames}: {error}") from None
        return AsyncVideoAnalysis(self._vision.AnalyzeVideo, header, video)


def _kind_of(task: Task) -> TaskKind:
    if task.kind is None:
        raise InvalidArgumentError(f"{task}; accepted: Classify, Segment, Detect, ClassifyClip or EstimateFlow")
    return task.kind
