"""What the pipeline asks of a loaded model: preprocess an item, run a batch, make the outcome of its output.

`zoofleet.worker.runners` has one runner for each kind of task.

Shapes: N items in a batch, H x W pixels of a picture.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
from zoofleet.worker.plan import EXACT, Plan, PlanState, PlanStatus
from zoofleet.worker.transfer import transfer_for

__all__ = ["FrameWindow", "Prepared", "Raw", "Runner"]

_log: Final = logging.getLogger(__name__)

Raw: TypeAlias = Mapping[str, Tensor]
"""What a forward pass gave for one item: tensors by name, on the device at first, on the CPU when it is finished."""

_MAX_INPUT_PIXELS: Final = 4 * 1024 * 1024
"""Most pixels of a picture that was resized for a model. Presets fix the shorter side, so that a long strip would grow
without bound; 4 Mi pixels let the common 232-pixel presets take strips of 1 to 77."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """One item, ready for the device.

    Attributes:
        inputs: float32 tensors on the CPU, without batch axis; or uint8 (3, ...) where `table` is given.
        image_size: (H, W) of the original picture.
        key: items of one model with equal keys may share a batch.
        max_batch: most items in that batch.
        limits: which detections the item's task wants, of those that a detector finds.
        table: what the model takes for each byte of each channel, float32 (3, 256); None where `inputs` is that.
    """

    inputs: tuple[Tensor, ...]
    image_size: tuple[int, int]
    key: tuple[int, ...]
    max_batch: int
    limits: Limits = field(default_factory=Limits)
    table: Tensor | None = None

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
        preset: the transforms of its weights; `levels` and `pixels` where bytes stand for what they give.
        device: the device that it runs on.
        config: the worker's settings, for batch sizes and limits.
    """

    options: ClassVar[type[Any]]
    """The dataclass of the task's options. Its fields are named as those of the task's options in the contract."""

    memory_format: ClassVar[torch.memory_format] = torch.channels_last
    """The memory format of batches on a CPU; on CUDA, in true float32, they are contiguous.

    On 2 CPU cores channels-last about doubled the images/s of MobileNetV3-Large and ResNet-50 in batches of 16, and
    slowed down no kind of task but optical flow, by a tenth.
    """

    builder_arguments: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """What the builders of the kind's models are called with beside their weights."""

    def __init__(
        self, name: ModelName, module: nn.Module, preset: Any, device: torch.device, config: WorkerConfig
    ) -> None:
        self.name = name
        on_cpu = device.type == "cpu"
        self._layout = self.memory_format if on_cpu else torch.contiguous_format
        self.module = module.to(memory_format=self._layout)  # type: ignore[call-overload]  # torch's stub lacks it
        self.categories = _catalog.categories(name)
        self.plans: dict[tuple[int, ...], PlanStatus] = {}
        """What serves the items that ask for FAST, by their class of shapes; the planner sets it."""
        self.forms: dict[Plan, nn.Module] = {}
        """The model in the form that each plan but EXACT runs."""
        self._preset = preset
        self.device = device
        self._transfer = transfer_for(device)
        # A quarter of the bytes travel to another device, which looks up what they mean. On a CPU the decoding threads
        # do that, of which there are several.
        ships_bytes = device.type != "cpu" and hasattr(preset, "levels")
        self._table: Tensor | None = preset.levels() if ships_bytes else None
        self._config = config
        self._batch_size = config.batch_size(kind_of(name).field)

    def default_options(self, **given: Any) -> _Options:
        """Return the task's options with the contract's defaults but for those that are given.

        Args:
            **given: options by name.
        """
        names = self.options.__dataclass_fields__
        defaults = {option.name: option.default for option in kind_of(self.name).options if option.name in names}
        options: _Options = self.options(**(defaults | given))
        return options

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
        status = self.plans.get(self.shape_class(prepared)) if precision is Precision.FAST else None
        return EXACT if status is None else status.plan

    def shape_class(self, prepared: Prepared) -> tuple[int, ...]:
        """Return what items must have in common to be served by one plan. All do, unless this is overridden."""
        return ()

    def form(self, plan: Plan) -> Any:
        """Return the model in the form that a plan runs."""
        return self.module if plan is EXACT else self.forms[plan]

    def drop(self, plan: Plan, error: Exception) -> None:
        """Serve EXACT in place of a plan that has failed in a forward pass."""
        for shape_class, status in list(self.plans.items()):
            if status.plan == plan:
                _log.warning("%s of %s failed; %s serves from now on: %s", plan.name, self.name, EXACT.name, error)
                message = f"{plan.name} failed in a forward pass: {error}"
                self.plans[shape_class] = PlanStatus(PlanState.FAILED, EXACT, shape_class, message=message)
                self.forms.pop(plan, None)

    @abstractmethod
    def outputs(self, batch: Sequence[Prepared], plan: Plan) -> Any:
        """Run one batch of items with equal keys by their plan, and return what the model gives for it."""

    @abstractmethod
    def forward(self, batch: Sequence[Prepared], plan: Plan) -> list[Raw]:
        """Run one batch of items with equal keys by their plan, and return the output of each."""

    @abstractmethod
    def finish(self, prepared: Prepared, raw: Raw, options: _Options) -> Outcome:
        """Turn one item's output into its outcome."""

    def _collate(self, batch: Sequence[Prepared], index: int = 0) -> Tensor:
        """Stack each item's `inputs[index]` to float (N, ...) on the device."""
        stacked = self._transfer.to_device([item.inputs[index] for item in batch], self._layout)
        return self._looked_up(stacked, batch[0].table, channel_axis=1)

    def _to_device(self, prepared: Prepared) -> Tensor:
        """Copy one item's picture, of a size of its own, to float (3, H, W) on the device."""
        (picture,) = self._transfer.to_device(prepared.inputs[:1], torch.contiguous_format)
        return self._looked_up(picture, prepared.table, channel_axis=0)

    def _looked_up(self, pixels: Tensor, table: Tensor | None, channel_axis: int) -> Tensor:
        """Return what a table has for the bytes of each channel, which is exact on any device."""
        if table is None:
            return pixels
        table = table.to(pixels.device, non_blocking=True)
        looked_up = torch.empty_like(pixels, dtype=table.dtype)
        for channel, levels in enumerate(table):
            of_channel = pixels.select(channel_axis, channel)
            looked_up.select(channel_axis, channel).copy_(levels[of_channel.int()])
        return looked_up

    def _picture(self, image: Image.Image) -> Tensor:
        """Preprocess an image to what the model takes, or where `_table` is given to the bytes that stand for it."""
        picture: Tensor = self._preset(image) if self._table is None else self._preset.pixels(image)
        return picture

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
