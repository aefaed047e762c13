"""What each kind of task does with a model: preprocess, collate, forward, postprocess."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from zoofleet import _catalog
from zoofleet._catalog import ModelName
from zoofleet._values.results import Classification, Detections, Flow, Outcome, Segmentation, categories_of
from zoofleet._wire.kinds import CLASSIFY, CLASSIFY_CLIP, DETECT, ESTIMATE_FLOW, SEGMENT, kind_of
from zoofleet.errors import InternalError, InvalidArgumentError, ItemTooLargeError, UnimplementedError
from zoofleet.models import get_model, get_model_weights, transforms
from zoofleet.models.detection import Detector
from zoofleet.models.ops import paste_masks_to_rle
from zoofleet.v1 import vision_pb2
from zoofleet.worker.config import WorkerConfig

__all__ = ["ClipRunner", "Prepared", "Raw", "Runner", "make_runner", "memory_bytes", "set_outcome"]

Raw: TypeAlias = Mapping[str, Tensor]
"""What a forward pass gave for one item, on the CPU."""

_MAX_INPUT_PIXELS: Final = 4 * 1024 * 1024
"""Of a picture resized for a model: presets fix the shorter side, so that a long strip would grow without bound."""

_FLOW_STEP: Final = 8
_FLOW_MIN_SIDE: Final = 128
_FLOW_BATCH_PIXELS: Final = 500_000
"""Pairs of more pixels fill the memory's bandwidth alone; batches of them would only take more memory."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """One item, ready for the device.

    Attributes:
        inputs: float32 tensors on the CPU, without batch axis.
        image_size: (H, W) of the original.
        key: items with equal keys may share a batch.
        max_batch: most items in that batch.
    """

    inputs: tuple[Tensor, ...]
    image_size: tuple[int, int]
    key: tuple[int, ...]
    max_batch: int

    @property
    def nbytes(self) -> int:
        """Memory that the inputs take."""
        return sum(tensor.nbytes for tensor in self.inputs)


class Runner(ABC):
    """A loaded model with the steps of its kind of task.

    `prepare` and `finish` run in any thread, `forward` in the device's.

    Args:
        name: which model.
        module: in evaluation mode, on the device.
        preset: the transforms of its weights.
        device: where it runs.
        config: batch sizes and limits.
    """

    memory_format = torch.channels_last
    """Of images in a batch. On 2 CPU cores channels-last about doubled the images/s of MobileNetV3-Large and ResNet-50
    in batches of 16, and slowed down no kind of task but optical flow, by a tenth."""

    def __init__(
        self, name: ModelName, module: nn.Module, preset: nn.Module, device: torch.device, config: WorkerConfig
    ) -> None:
        self.name = name
        self.module = module.to(memory_format=self.memory_format)  # type: ignore[call-overload]  # torch's stub lacks it
        self.categories = _catalog.categories(name)
        self._preset = preset
        self._device = device
        self._config = config
        self._batch_size = config.batch_size(kind_of(name).name)

    @abstractmethod
    def prepare(self, images: Iterable[Image.Image], task: vision_pb2.Task) -> Prepared:
        """Turn an item's RGB images into the model's input.

        Raises:
            InvalidArgumentError: the images do not fit the task.
        """

    @abstractmethod
    def forward(self, batch: Sequence[Prepared]) -> list[Raw]:
        """Run one batch of items with equal keys."""

    @abstractmethod
    def finish(self, prepared: Prepared, raw: Raw, task: vision_pb2.Task) -> Outcome:
        """Turn one item's output into its result."""

    def _collate(self, batch: Sequence[Prepared], index: int = 0) -> Tensor:
        """Stack each item's `inputs[index]` on the device."""
        stacked = torch.stack([item.inputs[index] for item in batch])  # (N, ...)
        return self._to_device(stacked).contiguous(memory_format=self.memory_format)

    def _to_device(self, tensor: Tensor) -> Tensor:
        if self._device.type == "cuda":
            return tensor.pin_memory().to(self._device, non_blocking=True)
        return tensor

    def _check_resized(self, image: Image.Image) -> None:
        side = self._preset.resize_size
        if isinstance(side, int):
            scale = side / min(image.size)
            if image.width * image.height * scale**2 > _MAX_INPUT_PIXELS:
                raise ItemTooLargeError(
                    f"an image of {image.width} x {image.height} pixels, resized to a shorter side of {side}, has more "
                    f"than {_MAX_INPUT_PIXELS} pixels"
                )


class _ClassifyRunner(Runner):
    def prepare(self, images: Iterable[Image.Image], task: vision_pb2.Task) -> Prepared:
        (image,) = images
        self._check_resized(image)
        return Prepared((self._preset(image),), (image.height, image.width), (), self._batch_size)

    def forward(self, batch: Sequence[Prepared]) -> list[Raw]:
        scores = self.module(self._collate(batch)).softmax(dim=1).cpu()  # (N, C)
        return [{"scores": row} for row in scores]

    def finish(self, prepared: Prepared, raw: Raw, task: vision_pb2.Task) -> Outcome:
        scores = raw["scores"]
        top_k = task.classify_clip.top_k if task.HasField("classify_clip") else task.classify.top_k
        best = scores.topk(min(top_k, len(scores)))
        labels = best.indices.numpy()
        return Classification(labels, best.values.numpy(), categories_of(labels, self.categories))


class ClipRunner(_ClassifyRunner):
    """Clips; their frames are preprocessed one by one, as they are decoded, so that no raw clip stays in memory."""

    memory_format = torch.channels_last_3d

    def prepare(self, images: Iterable[Image.Image], task: vision_pb2.Task) -> Prepared:
        """Preprocess and join the frames of a clip."""
        return self.join([self.prepare_frame(image) for image in images])

    def prepare_frame(self, image: Image.Image) -> Tensor:
        """One RGB frame as float32 (3, h, w) of the model's size."""
        self._check_resized(image)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)  # (3, H, W)
        frame: Tensor = self._preset(pixels[None])  # (3, 1, h, w)
        return frame[:, 0]

    def join(self, frames: Sequence[Tensor]) -> Prepared:
        """A clip (3, T, h, w) of T preprocessed frames."""
        clip = torch.stack(list(frames), dim=1)  # (3, T, h, w)
        return Prepared((clip,), (clip.shape[2], clip.shape[3]), clip.shape, self._batch_size)


class _SegmentRunner(Runner):
    def prepare(self, images: Iterable[Image.Image], task: vision_pb2.Task) -> Prepared:
        (image,) = images
        self._check_resized(image)
        pixels: Tensor = self._preset(image)
        return Prepared((pixels,), (image.height, image.width), pixels.shape, self._batch_size)

    def forward(self, batch: Sequence[Prepared]) -> list[Raw]:
        logits = self.module(self._collate(batch))["out"].cpu()  # (N, C, h, w)
        return [{"logits": rows} for rows in logits]

    def finish(self, prepared: Prepared, raw: Raw, task: vision_pb2.Task) -> Outcome:
        label_map = upsampled_argmax(raw["logits"], prepared.image_size)
        return Segmentation(label_map.numpy(), self.categories)


_BAND_ELEMENTS: Final = 16 * 1024 * 1024


def upsampled_argmax(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """The best category of each pixel, after bilinear interpolation of logits (C, h, w) to `size`: uint8 (H, W).

    Works in bands of rows: the logits of a photograph of 50 megapixels would take 4 GB.
    """
    channels, rows, _ = logits.shape
    height, width = size
    source = ((torch.arange(height) + 0.5) * (rows / height) - 0.5).clamp(min=0)  # row in `logits` of each output row
    above = source.long().clamp(max=rows - 1)
    below = (above + 1).clamp(max=rows - 1)
    weight = (source - above)[:, None]
    label_map = torch.empty(height, width, dtype=torch.uint8)
    step = max(_BAND_ELEMENTS // (channels * width), 1)
    for start in range(0, height, step):
        band = slice(start, min(start + step, height))
        mixed = torch.lerp(logits[:, above[band]], logits[:, below[band]], weight[band])  # (C, n, w)
        wide = functional.interpolate(mixed[None], (mixed.shape[1], width), mode="bilinear", align_corners=False)[0]
        label_map[band] = wide.argmax(dim=0)  # (C, n, W) -> (n, W)
    return label_map


class _DetectRunner(Runner):
    """Detectors drop what is below their own score threshold (0.05, or 0.001 for SSDlite) and keep a fixed number of
    detections (100, or 300 for SSDlite), as the reference does; the task's options choose among those."""

    module: Detector

    def prepare(self, images: Iterable[Image.Image], task: vision_pb2.Task) -> Prepared:
        (image,) = images
        pixels: Tensor = self._preset(image)
        # A batch of several sizes would be padded, and a padded image has other features near its edges. Detectors of
        # a fixed input size never pad.
        key = () if self.module.transform.fixed_size else tuple(pixels.shape)
        return Prepared((pixels,), (image.height, image.width), key, self._batch_size)

    def forward(self, batch: Sequence[Prepared]) -> list[Raw]:
        images = [self._to_device(item.inputs[0]) for item in batch]
        found = self.module.predict(images, paste_masks=False)
        return [{name: values.cpu() for name, values in detection.items()} for detection in found]

    def finish(self, prepared: Prepared, raw: Raw, task: vision_pb2.Task) -> Outcome:
        options = task.detect
        keep = (raw["scores"] >= options.score_threshold).nonzero()[:, 0][: options.max_detections]
        found = {name: values[keep] for name, values in raw.items()}
        labels = found["labels"].numpy()
        with_keypoints = "keypoints" in found
        return Detections(
            image_size=prepared.image_size,
            boxes=found["boxes"].numpy(),
            scores=found["scores"].numpy(),
            labels=labels,
            categories=categories_of(labels, self.categories),
            rles=tuple(paste_masks_to_rle(found["masks"][:, 0], found["boxes"], prepared.image_size))
            if "masks" in found
            else None,
            keypoints=found["keypoints"].numpy() if with_keypoints else None,
            keypoint_scores=found["keypoints_scores"].numpy() if with_keypoints else None,
            keypoint_names=_keypoint_names(self.name) if with_keypoints else (),
        )


def _keypoint_names(name: ModelName) -> tuple[str, ...]:
    return tuple(_published(name).meta["keypoint_names"])


class _FlowRunner(Runner):
    memory_format = torch.contiguous_format

    def prepare(self, images: Iterable[Image.Image], task: vision_pb2.Task) -> Prepared:
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
        key = (*one.shape, task.estimate_flow.num_flow_updates)
        most = min(self._batch_size, max(_FLOW_BATCH_PIXELS // pixels, 1))
        return Prepared((one, two), (first.height, first.width), key, most)

    @staticmethod
    def _padded(image: Tensor) -> Tensor:
        """(3, H, W) with its last row and column repeated up to the sides that RAFT takes."""
        height, width = (max(-(-side // _FLOW_STEP) * _FLOW_STEP, _FLOW_MIN_SIDE) for side in image.shape[1:])
        margin = (0, width - image.shape[2], 0, height - image.shape[1])
        return functional.pad(image[None], margin, mode="replicate")[0]

    def forward(self, batch: Sequence[Prepared]) -> list[Raw]:
        num_flow_updates = batch[0].key[-1]
        flows = self.module(self._collate(batch, 0), self._collate(batch, 1), num_flow_updates)[
            -1
        ].cpu()  # (N, 2, H, W)
        return [{"flow": flow} for flow in flows]

    def finish(self, prepared: Prepared, raw: Raw, task: vision_pb2.Task) -> Outcome:
        height, width = prepared.image_size
        return Flow(raw["flow"][:, :height, :width].numpy())


_RUNNERS: Final[Mapping[str, type[Runner]]] = {
    CLASSIFY.name: _ClassifyRunner,
    SEGMENT.name: _SegmentRunner,
    DETECT.name: _DetectRunner,
    CLASSIFY_CLIP.name: ClipRunner,
    ESTIMATE_FLOW.name: _FlowRunner,
}


def _published(name: ModelName) -> _catalog.WeightsInfo:
    """The model's weight set; the builder's default one for a model with random weights, as what it stands in for."""
    info = name.weights_info or next((w for w in _catalog.weights(name.builder) if w.default), None)
    if info is None:
        raise InternalError(f"{name.builder} has no published weights, which say how its input is made")
    return info


_build_lock: Final = threading.Lock()


def make_runner(name: ModelName, device: torch.device, config: WorkerConfig) -> Runner:
    """Build a model and make it ready to run.

    Random weights are drawn from seed 0, so that all workers host the same model.

    Raises:
        WeightsUnavailableError, InvalidWeightsError: published weights cannot be had.
        UnimplementedError: an INT8 model on a device other than the CPU.
    """
    arguments: dict[str, Any] = {"weights": None if name.weights == _catalog.RANDOM else name.weights}
    if name.info.task == "quantization":
        if device.type != "cpu":
            raise UnimplementedError(f"{name} is an INT8 model, which runs on the CPU only, not on {device}")
        arguments["quantize"] = True
    elif name.info.task in ("segmentation", "detection"):
        arguments["weights_backbone"] = None
    if name.weights_info is not None:
        # Into the cache first: what may take minutes must not happen under the lock.
        get_model_weights(name.builder).named(name.weights).get_state_dict(progress=False)
    # The generator that random weights are drawn from is the process's.
    with _build_lock, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = get_model(name.builder, **arguments, progress=False)
    module = module.eval().requires_grad_(False).to(device)
    preset = transforms.preset(_published(name).transforms)()
    return _RUNNERS[kind_of(name).name](name, module, preset, device, config)


def memory_bytes(runner: Runner) -> int:
    """Bytes of the model's parameters and buffers, packed INT8 weights among them."""
    state = runner.module.state_dict()
    return sum(value.numel() * value.element_size() for value in state.values() if isinstance(value, Tensor))


def set_outcome(result: vision_pb2.Result, outcome: Outcome, task: vision_pb2.Task) -> None:
    """Put an outcome into its result message, in the encodings that the task asks for."""
    if isinstance(outcome, Classification):
        result.classification.CopyFrom(outcome.to_proto())
    elif isinstance(outcome, Segmentation):
        result.segmentation.CopyFrom(outcome.to_proto())
    elif isinstance(outcome, Detections):
        result.detections.CopyFrom(outcome.to_proto(task.detect.mask_encoding))
    else:
        result.flow.CopyFrom(outcome.to_proto(task.estimate_flow.flow_encoding))
