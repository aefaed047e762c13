"""The runners of the five kinds of task.

Shapes: N items in a batch, C categories, T frames of a clip, H x W pixels of the original picture, h x w of what a
model takes or gives.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from zoofleet import _catalog
from zoofleet._catalog import ModelName
from zoofleet._media.videos import sampled
from zoofleet._values.results import Classification, Detections, Flow, Outcome, Segmentation, categories_of
from zoofleet._wire.kinds import TaskKind, kind_of
from zoofleet.errors import InternalError, InvalidArgumentError, ItemTooLargeError
from zoofleet.models.detection import Detector, Limits
from zoofleet.models.ops import paste_masks_to_rle, upsampled_argmax
from zoofleet.models.optical_flow import RAFT
from zoofleet.models.segmentation import Segmenter
from zoofleet.worker.plan import Plan
from zoofleet.worker.runner import FrameWindow, Prepared, Raw, Runner

__all__ = ["published", "runner_type"]

_WITHOUT_BACKBONE: Final = MappingProxyType({"weights_backbone": None})
"""Builders that take weights for the backbone alone would fetch its default ones."""

_FLOW_STEP: Final = 8
"""RAFT's features have an eighth of the image's sides, which must be whole (Teed and Deng 2020, section 3.1)."""

_FLOW_MIN_SIDE: Final = 128
"""Its fourth and smallest level of correlations halves those features three times, and needs two of them a side."""

_FLOW_BATCH_PIXELS: Final = 500_000
"""Most pixels of the first images of a batch of pairs: more fill the memory's bandwidth alone, and only take memory."""


@dataclass(frozen=True, slots=True)
class _ClassifyOptions:
    top_k: int


@dataclass(frozen=True, slots=True)
class _ClipOptions(_ClassifyOptions):
    num_frames: int


@dataclass(frozen=True, slots=True)
class _SegmentOptions:
    """Segmentation has no options."""


@dataclass(frozen=True, slots=True)
class _DetectOptions:
    score_threshold: float
    max_detections: int


@dataclass(frozen=True, slots=True)
class _FlowOptions:
    num_flow_updates: int


_Ranking = TypeVar("_Ranking", bound=_ClassifyOptions)


class _RankingRunner(Runner[_Ranking]):
    """What classifiers of images and of clips have in common."""

    def outputs(self, batch: Sequence[Prepared], plan: Plan) -> Tensor:
        logits: Tensor = self.form(plan)(self._collate(batch))  # (N, C)
        return logits

    def forward(self, batch: Sequence[Prepared], plan: Plan) -> list[Raw]:
        scores = self.outputs(batch, plan).softmax(dim=1)  # (N, C)
        return [{"scores": row} for row in scores]

    def finish(self, prepared: Prepared, raw: Raw, options: _Ranking) -> Outcome:
        scores = raw["scores"]
        best = scores.topk(min(options.top_k, len(scores)))
        labels = best.indices.numpy()
        return Classification(labels, best.values.numpy(), categories_of(labels, self.categories))


class _ClassifyRunner(_RankingRunner[_ClassifyOptions]):
    """Classifies images."""

    options = _ClassifyOptions

    def prepare(self, images: Iterable[Image.Image], options: _ClassifyOptions) -> Prepared:
        (image,) = images
        self._check_resized(image)
        return Prepared((self._picture(image),), (image.height, image.width), (), self._batch_size, table=self._table)


class _ClipRunner(_RankingRunner[_ClipOptions]):
    """Classifies clips. Each frame is preprocessed once it is decoded, so that no raw clip stays in memory."""

    options = _ClipOptions
    memory_format = torch.channels_last_3d

    @classmethod
    def window(cls, options: _ClipOptions) -> FrameWindow:
        return FrameWindow(options.num_frames, prepares_each=True)

    def decode(self, media: Sequence[bytes], options: _ClipOptions) -> Iterator[Image.Image]:
        (clip,) = media
        return sampled(io.BytesIO(clip), options.num_frames, self._config.max_pixels)

    def prepare(self, images: Iterable[Image.Image], options: _ClipOptions) -> Prepared:
        return self._prepared([self._frame(image) for image in images])

    def join(self, parts: Sequence[Prepared]) -> Prepared:
        return self._prepared([part.inputs[0] for part in parts])

    def shape_class(self, prepared: Prepared) -> tuple[int, ...]:
        return (prepared.inputs[0].shape[1],)  # frames

    def _frame(self, image: Image.Image) -> Tensor:
        """Preprocess a frame to (3, 1, h, w)."""
        self._check_resized(image)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)  # (3, H, W)
        frame: Tensor = self._preset(pixels[None])
        return frame

    def _prepared(self, frames: Sequence[Tensor]) -> Prepared:
        clip = torch.cat(list(frames), dim=1)  # (3, T, h, w)
        return Prepared((clip,), (clip.shape[2], clip.shape[3]), clip.shape, self._batch_size)


class _SegmentRunner(Runner[_SegmentOptions]):
    """Labels each pixel of an image."""

    options = _SegmentOptions
    builder_arguments = _WITHOUT_BACKBONE

    def __init__(self, name: ModelName, module: nn.Module, *arguments: Any) -> None:
        if isinstance(module, Segmenter):
            module.aux_classifier = None  # its output only helps training
        super().__init__(name, module, *arguments)

    def prepare(self, images: Iterable[Image.Image], options: _SegmentOptions) -> Prepared:
        (image,) = images
        self._check_resized(image)
        pixels = self._picture(image)
        return Prepared((pixels,), (image.height, image.width), pixels.shape, self._batch_size, table=self._table)

    def outputs(self, batch: Sequence[Prepared], plan: Plan) -> Mapping[str, Tensor]:
        maps: Mapping[str, Tensor] = self.form(plan)(self._collate(batch))  # each (N, C, h, w)
        return maps

    def forward(self, batch: Sequence[Prepared], plan: Plan) -> list[Raw]:
        logits = self.outputs(batch, plan)["out"]  # (N, C, h, w)
        # On the device: the logits of an image take a hundred times the memory of its labels.
        label_maps = [upsampled_argmax(x, item.image_size) for x, item in zip(logits, batch, strict=True)]  # (H, W)
        return [{"label_map": label_map} for label_map in label_maps]

    def finish(self, prepared: Prepared, raw: Raw, options: _SegmentOptions) -> Outcome:
        return Segmentation(raw["label_map"].numpy(), self.categories)


class _DetectRunner(Runner[_DetectOptions]):
    """Finds objects.

    Detectors themselves drop what is below their own score threshold (0.05, or 0.001 for SSDlite) and keep a fixed
    number of detections (100, or 300 for SSDlite), as the reference does. The task's options choose among those, before
    masks and keypoints are computed.
    """

    options = _DetectOptions
    builder_arguments = _WITHOUT_BACKBONE
    module: Detector

    def prepare(self, images: Iterable[Image.Image], options: _DetectOptions) -> Prepared:
        (image,) = images
        pixels = self._picture(image)
        # An image that is padded further than it would be alone has other features near its edges.
        key = self.module.batch_key(image.height, image.width)
        limits = Limits(options.score_threshold, options.max_detections)
        return Prepared((pixels,), (image.height, image.width), key, self._batch_size, limits, self._table)

    def outputs(self, batch: Sequence[Prepared], plan: Plan) -> Sequence[Raw]:
        images = [self._to_device(item) for item in batch]
        limits = [item.limits for item in batch]
        found: Sequence[Raw] = self.form(plan).predict(images, paste_masks=False, limits=limits)
        return found

    def forward(self, batch: Sequence[Prepared], plan: Plan) -> list[Raw]:
        return list(self.outputs(batch, plan))

    def finish(self, prepared: Prepared, raw: Raw, options: _DetectOptions) -> Outcome:
        labels = raw["labels"].numpy()
        with_keypoints = "keypoints" in raw
        return Detections(
            image_size=prepared.image_size,
            boxes=raw["boxes"].numpy(),
            scores=raw["scores"].numpy(),
            labels=labels,
            categories=categories_of(labels, self.categories),
            rles=tuple(paste_masks_to_rle(raw["masks"][:, 0], raw["boxes"], prepared.image_size))
            if "masks" in raw
            else None,
            keypoints=raw["keypoints"].numpy() if with_keypoints else None,
            keypoint_scores=raw["keypoints_scores"].numpy() if with_keypoints else None,
            keypoint_names=_keypoint_names(self.name) if with_keypoints else (),
        )


def _keypoint_names(name: ModelName) -> tuple[str, ...]:
    return tuple(published(name).meta["keypoint_names"])


class _FlowRunner(Runner[_FlowOptions]):
    """Estimates the flow of image pairs, which are padded to the sides that RAFT takes and cropped again."""

    options = _FlowOptions
    memory_format = torch.contiguous_format
    module: RAFT

    @classmethod
    def window(cls, options: _FlowOptions) -> FrameWindow:
        return FrameWindow(2, overlap=1)

    def prepare(self, images: Iterable[Image.Image], options: _FlowOptions) -> Prepared:
        first, second = images
        if first.size != second.size:
            raise InvalidArgumentError(
                f"a pair of {first.width} x {first.height} and {second.width} x {second.height} pixels; both images "
                "must have the same size"
            )
        pixels = first.width * first.height
        if pixels > self._config.max_flow_pixels:
            raise ItemTooLargeError(
                f"a pair of {first.width} x {first.height} pixels; accepted: at most {self._config.max_flow_pixels} "
                "pixels for optical flow"
            )
        pair = self._preset(first, second) if self._table is None else map(self._preset.pixels, (first, second))
        one, two = (self._padded(image) for image in pair)
        key = (*one.shape, options.num_flow_updates)
        most = min(self._batch_size, max(_FLOW_BATCH_PIXELS // pixels, 1))
        return Prepared((one, two), (first.height, first.width), key, most, table=self._table)

    @staticmethod
    def _padded(image: Tensor) -> Tensor:
        """Repeat the last row and column of an image (3, H, W) up to the sides that RAFT takes: (3, h, w)."""
        height, width = (max(-(-side // _FLOW_STEP) * _FLOW_STEP, _FLOW_MIN_SIDE) for side in image.shape[1:])
        rows = torch.arange(height).clamp(max=image.shape[1] - 1)
        columns = torch.arange(width).clamp(max=image.shape[2] - 1)
        return image[:, rows][:, :, columns]

    def outputs(self, batch: Sequence[Prepared], plan: Plan) -> Tensor:
        num_flow_updates = batch[0].key[-1]
        flows: Tensor = self.form(plan).predict(self._collate(batch, 0), self._collate(batch, 1), num_flow_updates)
        return flows  # (N, 2, h, w)

    def forward(self, batch: Sequence[Prepared], plan: Plan) -> list[Raw]:
        flows = self.outputs(batch, plan)
        return [{"flow": flow} for flow in flows]

    def finish(self, prepared: Prepared, raw: Raw, options: _FlowOptions) -> Outcome:
        height, width = prepared.image_size
        return Flow(raw["flow"][:, :height, :width].numpy())


_RUNNERS: Final[Mapping[TaskKind, type[Runner[Any]]]] = {
    TaskKind.CLASSIFY: _ClassifyRunner,
    TaskKind.SEGMENT: _SegmentRunner,
    TaskKind.DETECT: _DetectRunner,
    TaskKind.CLASSIFY_CLIP: _ClipRunner,
    TaskKind.ESTIMATE_FLOW: _FlowRunner,
}


def runner_type(name: ModelName) -> type[Runner[Any]]:
    """Return the class of the runners of a model's kind of task."""
    return _RUNNERS[kind_of(name)]


def published(name: ModelName) -> _catalog.WeightsInfo:
    """Return the model's weight set; for random weights the builder's default set, in whose place they stand."""
    info = name.weights_info or next((w for w in _catalog.weights(name.builder) if w.default), None)
    if info is None:
        raise InternalError(f"{name.builder} has no published weights, which say how its input is made")
    return info
