"""The runners of the five kinds of task, and how a model is loaded into one.

Shapes: N items in a batch, C categories, T frames of a clip, H x W pixels of the original picture, h x w of what a
model takes or gives.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from zoofleet import _catalog
from zoofleet._catalog import ModelName
from zoofleet._media.videos import sampled
from zoofleet._values.results import Classification, Detections, Flow, Outcome, Segmentation, categories_of
from zoofleet._wire.kinds import TaskKind, kind_of
from zoofleet.errors import InternalError, InvalidArgumentError, ItemTooLargeError, UnimplementedError
from zoofleet.models import get_model, get_model_weights, transforms
from zoofleet.models.detection import Detector, Limits
from zoofleet.models.ops import paste_masks_to_rle, upsampled_argmax
from zoofleet.models.optical_flow import RAFT
from zoofleet.models.segmentation import Segmenter
from zoofleet.worker.config import WorkerConfig
from zoofleet.worker.plan import Plan
from zoofleet.worker.runner import FrameWindow, Prepared, Raw, Runner

__all__ = ["make_runner", "memory_bytes", "runner_type"]

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

    def forward(self, batch: Sequence[Prepared], plan: Plan) -> list[Raw]:
        scores = self.module(self._collate(batch)).softmax(dim=1).cpu()  # (N, C)
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
        return Prepared((self._preset(image),), (image.height, image.width), (), self._batch_size)


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
        pixels: Tensor = self._preset(image)
        return Prepared((pixels,), (image.height, image.width), pixels.shape, self._batch_size)

    def forward(self, batch: Sequence[Prepared], plan: Plan) -> list[Raw]:
        logits = self.module(self._collate(batch))["out"]  # (N, C, h, w)
        # On the device: the logits of an image take a hundred times the memory of its labels.
        label_maps = [upsampled_argmax(x, item.image_size) for x, item in zip(logits, batch, strict=True)]  # (H, W)
        return [{"label_map": label_map.cpu()} for label_map in label_maps]

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
        pixels: Tensor = self._preset(image)
        # An image that is padded further than it would be alone has other features near its edges.
        key = self.module.batch_key(image.height, image.width)
        limits = Limits(options.score_threshold, options.max_detections)
        return Prepared((pixels,), (image.height, image.width), key, self._batch_size, limits)

    def forward(self, batch: Sequence[Prepared], plan: Plan) -> list[Raw]:
        images = [self._to_device(item.inputs[0]) for item in batch]
        limits = [item.limits for item in batch]
        found = self.module.predict(images, paste_masks=False, limits=limits)
        return [{name: values.cpu() for name, values in detection.items()} for detection in found]

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
    return tuple(_published(name).meta["keypoint_names"])


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
        one, two = (self._padded(image) for image in self._preset(first, second))
        key = (*one.shape, options.num_flow_updates)
        most = min(self._batch_size, max(_FLOW_BATCH_PIXELS // pixels, 1))
        return Prepared((one, two), (first.height, first.width), key, most)

    @staticmethod
    def _padded(image: Tensor) -> Tensor:
        """Repeat the last row and column of an image (3, H, W) up to the sides that RAFT takes: (3, h, w)."""
        height, width = (max(-(-side // _FLOW_STEP) * _FLOW_STEP, _FLOW_MIN_SIDE) for side in image.shape[1:])
        margin = (0, width - image.shape[2], 0, height - image.shape[1])
        return functional.pad(image[None], margin, mode="replicate")[0]

    def forward(self, batch: Sequence[Prepared], plan: Plan) -> list[Raw]:
        num_flow_updates = batch[0].key[-1]
        flows = self.module.predict(self._collate(batch, 0), self._collate(batch, 1), num_flow_updates).cpu()
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


def _published(name: ModelName) -> _catalog.WeightsInfo:
    """Return the model's weight set; for random weights the builder's default set, in whose place they stand."""
    info = name.weights_info or next((w for w in _catalog.weights(name.builder) if w.default), None)
    if info is None:
        raise InternalError(f"{name.builder} has no published weights, which say how its input is made")
    return info


_build_lock: Final = threading.Lock()


def make_runner(name: ModelName, device: torch.device, config: WorkerConfig) -> Runner[Any]:
    """Build a model and make it ready to run. Takes seconds, or minutes where its weights have to be downloaded.

    Random weights are drawn from seed 0, so that all workers host the same model.

    Raises:
        WeightsUnavailableError, InvalidWeightsError: the published weights cannot be fetched, or are not the model's.
        UnimplementedError: the model is an INT8 model and the device is not the CPU.
    """
    kind = runner_type(name)
    arguments = {**kind.builder_arguments, "weights": None if name.weights == _catalog.RANDOM else name.weights}
    if name.info.task == "quantization":
        if device.type != "cpu":
            raise UnimplementedError(f"{name} is an INT8 model, which runs on the CPU only, not on {device}")
        arguments["quantize"] = True
    if name.weights_info is not None:
        # Into the cache first: what may take minutes must not happen under the lock.
        get_model_weights(name.builder).named(name.weights).get_state_dict(progress=False)
    # Random weights are drawn from the process's one generator.
    with _build_lock, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = get_model(name.builder, **arguments, progress=False)
    module = module.eval().requires_grad_(False).to(device)
    preset = transforms.preset(_published(name).transforms)()
    return kind(name, module, preset, device, config)


def memory_bytes(runner: Runner[Any]) -> int:
    """Return the bytes of a model's parameters and buffers, packed INT8 weights among them."""
    state = runner.module.state_dict()
    return sum(value.numel() * value.element_size() for value in state.values() if isinstance(value, Tensor))
