"""What a task is run on, in the three states in which it comes to the pipeline."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from zoofleet.worker.runner import Prepared, Runner

__all__ = ["DecodedItem", "EncodedItem", "Item", "PreparedItem"]


class Item(ABC):
    """One image, image pair or clip on its way to a model's input."""

    @abstractmethod
    def prepare(self, runner: Runner[Any], options: Any) -> Prepared:
        """Take what steps are left to the model's input. Called in a decoding thread.

        Args:
            runner: the model.
            options: the task's options, of the class `runner.options`.

        Raises:
            InvalidMediaError: bytes that cannot be decoded.
            InvalidArgumentError: the images do not fit the task.
            ItemTooLargeError: a picture, or the model's input, is over a limit.
        """


@dataclass(frozen=True, slots=True)
class EncodedItem(Item):
    """An item as clients send it.

    Attributes:
        media: encoded bytes: one image, the two images of a pair, or one video as a clip.
    """

    media: Sequence[bytes]

    def prepare(self, runner: Runner[Any], options: Any) -> Prepared:
        """Decode, and preprocess each image as soon as it is decoded."""
        return runner.prepare(runner.decode(self.media, options), options)


@dataclass(frozen=True, slots=True)
class DecodedItem(Item):
    """An item of a video that has been decoded.

    Attributes:
        images: upright RGB images.
    """

    images: Sequence[Image.Image]

    def prepare(self, runner: Runner[Any], options: Any) -> Prepared:
        """Preprocess the images."""
        return runner.prepare(self.images, options)


@dataclass(frozen=True, slots=True)
class PreparedItem(Item):
    """An item whose parts have been preprocessed, each by itself.

    Attributes:
        parts: what the runner made of each part, in order.
    """

    parts: Sequence[Prepared]

    def prepare(self, runner: Runner[Any], options: Any) -> Prepared:
        """Join the parts."""
        return runner.join(self.parts)
