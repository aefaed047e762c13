"""What the pipeline asks of a loaded model: preprocess an item, run a batch, make the outcome of its output.

`zoofleet.worker.runners` has one runner for each kind of task.

Shapes: N items in a batch, H x W pixels of a picture.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Final, Generic, TypeAlias, TypeVar

import torch
from PIL import Image
from torch import Tensor, nn

from zoofleet import _catalog
from zoofleet._catalog import ModelName
from zoofleet._media.images import decode_image
from zoofleet._values.results import Outcome
from zoofleet._values.tasks import Precision
from zoofleet._wire.kinds import kind_of
from zoofleet.errors import ItemTooLargeError
from zoofleet.models.detection import Limits
from zoofleet.worker.config import WorkerConfig
from zoofleet.worker.plan import EXACT, Plan

__all__ = ["FrameWindow", "Prepared", "Raw", "Runner"]

Raw: TypeAlias = Mapping[str, Tensor]
"""What a forward pass gave for one item: tensors on the CPU, by name."""

_MAX_INPUT_PIXELS: Final = 4 * 1024 * 1024
"""Most pixels of a picture that was resized for a model. Presets fix the shorter side, so that a long strip would grow
without bound; 4 Mi pixels let the common 232-pixel presets take strips of 1 to 77."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """One item, ready for the device.

    Attributes:
        inputs: float32 tensors on the CPU, without batch axis.
        image_size: (H, W) of the original picture.
        key: items of one model with equal keys may share a batch.
        max_batch: most items in that batch.
        limits: which detections the item's task wants, of those that a detector finds.
    """

    inputs: tuple[Tensor, ...]
    image_size: tuple[int, int]
    key: tuple[int, ...]
    max_batch: int
    limits: Limits = Limits()

    @property
    def nbytes(self) -> int:
        """Memory that the inputs take."""
        return sum(tensor.nbytes for tensor in self.inputs)


@dataclass(frozen=True, slots=True)
class FrameWindow:
    """How the frames of a video make items of one kind of task.

    Attributes:
        size: frames in an item.
        overlap: how many of an item's last frames the next item begins with.
        prepares_each: whether each frame is preprocessed when it comes and joined with the others later, since the
            decoded frames of an item would take too much memory; otherwise an item's frames are preprocessed at once.
    """

    size: int = 1
    overlap: int = 0
    prepares_each: bool = False


_Options = TypeVar("_Options")


class Runner(ABC, Generic[_Options]):
    """A loaded model with the steps of its kind of task. `_Options` is the dataclass of the task's options.

    `forward` runs in the device's thread, everything else in any thread.

    Args:
        name: the model's name.
        module: the model, in evaluation mode, on the device.
        preset: the transforms of its weights.
        device: the device that it runs on.
        config: the worker's settings, for batch sizes and limits.
    """

    options: ClassVar[type[Any]]
    """The dataclass of the task's options. Its fields are named as those of the task's options in the contract."""

    memory_format: ClassVar[torch.memory_format] = torch.channels_last
    """The memory format of batches. On 2 CPU cores channels-last about doubled the images/s of MobileNetV3-Large and
    ResNet-50 in batches of 16, and slowed down no kind of task but optical flow, by a tenth."""

    builder_arguments: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """What the builders of the kind's models are called with beside their weights."""

    def __init__(
        self, name: ModelName, module: nn.Module, preset: nn.Module, device: torch.device, config: WorkerConfig
    ) -> None:
        self.name = name
        self.module = module.to(memory_format=self.memory_format)  # type: ignore[call-overload]  # torch's stub lacks it
        self.categories = _catalog.categories(name)
        self._preset = preset
        self._device = device
        self._config = config
        self._batch_size = config.batch_size(kind_of(name).field)

    @classmethod
    def window(cls, options: _Options) -> FrameWindow:
        """Return how the frames of a video make items of this kind of task. An item is one frame unless overridden."""
        return FrameWindow()

    def decode(self, media: Sequence[bytes], options: _Options) -> Iterator[Image.Image]:
        """Decode an item's media to upright RGB images, one at a time.

        Raises:
            InvalidMediaError: bytes that cannot be decoded.
            ItemTooLargeError: a picture of more pixels than the worker takes.
        """
        return (decode_image(encoded, self._config.max_pixels) for encoded in media)

    @abstractmethod
    def prepare(self, images: Iterable[Image.Image], options: _Options) -> Prepared:
        """Turn an item's upright RGB images into the model's input.

        Raises:
            InvalidArgumentError: the images do not fit the task.
            ItemTooLargeError: the model's input would be too large.
        """

    def join(self, parts: Sequence[Prepared]) -> Prepared:
        """Join what was prepared of an item part by part; only `FrameWindow.prepares_each` gives more than one part."""
        (prepared,) = parts
        return prepared

    def plan(self, precision: Precision, prepared: Prepared) -> Plan:
        """Return the plan by which an item is run that asks for a precision. It may be one of a higher precision."""
        return EXACT

    @abstractmethod
    def forward(self, batch: Sequence[Prepared], plan: Plan) -> list[Raw]:
        """Run one batch of items with equal keys by their plan, and return the output of each."""

    @abstractmethod
    def finish(self, prepared: Prepared, raw: Raw, options: _Options) -> Outcome:
        """Turn one item's output into its outcome."""

    def _collate(self, batch: Sequence[Prepared], index: int = 0) -> Tensor:
        """Stack each item's `inputs[index]` to (N, ...) on the device."""
        stacked = torch.stack([item.inputs[index] for item in batch])  # (N, ...)
        return self._to_device(stacked).contiguous(memory_format=self.memory_format)

    def _to_device(self, tensor: Tensor) -> Tensor:
        if self._device.type == "cuda":
            return tensor.pin_memory().to(self._device, non_blocking=True)
        return tensor

    def _check_resized(self, image: Image.Image) -> None:
        """Raise ItemTooLargeError where the preset would make too large a picture of the image."""
        side = self._preset.resize_size
        if isinstance(side, int):
            scale = side / min(image.size)
            if image.width * image.height * scale**2 > _MAX_INPUT_PIXELS:
                raise ItemTooLargeError(
                    f"an image of {image.width} x {image.height} pixels, resized to a shorter side of {side}, has more "
                    f"than {_MAX_INPUT_PIXELS} pixels"
                )
