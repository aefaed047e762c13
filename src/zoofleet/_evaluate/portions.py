"""A dataset cut into jobs, and its files as the items of those jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from PIL import Image

from zoofleet._client.items import Item, MediaSource
from zoofleet._evaluate.metrics import Sample
from zoofleet._media.sources import IMAGE_SUFFIXES, VIDEO_SUFFIXES, unreadable
from zoofleet.errors import InvalidMediaError

JOB_BYTES: Final = 512 << 20
"""Most bytes of a job's files. Two jobs at once stay below what a scheduler stores for a tenant by default, 2 GiB."""


def portions(samples: Sequence[Sample]) -> Iterator[list[Sample]]:
    """Yield the samples in runs whose files have at most `JOB_BYTES`, or that are a single sample."""
    portion: list[Sample] = []
    size = 0
    for sample in samples:
        paths = sample.media if isinstance(sample.media, tuple) else (sample.media,)
        added = sum(_size(path) for path in paths)
        if portion and size + added > JOB_BYTES:
            yield portion
            portion, size = [], 0
        portion.append(sample)
        size += added
    if portion:
        yield portion


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


class Portion:
    """The items of one job. It can be iterated again, so that the client may send the job again.

    Args:
        samples: the samples; those whose files cannot be read are left out.
        sent_before: number of samples of the dataset that come before these.
        on_sent: called after each sample with the number of samples of the dataset so far.

    Attributes:
        samples: the samples.
        unreadable: the reason for each item that was left out.
    """

    def __init__(self, samples: Sequence[Sample], sent_before: int, on_sent: Callable[[int], None]) -> None:
        self.samples = samples
        self.unreadable: dict[str, str] = {}
        self._sent_before = sent_before
        self._on_sent = on_sent

    def __iter__(self) -> Iterator[Item]:
        self.unreadable.clear()
        for count, sample in enumerate(self.samples, start=1):
            try:
                media = _media_of(sample)
            except InvalidMediaError as error:
                self.unreadable[sample.item_id] = str(error)
            else:
                yield Item(media, sample.item_id)
            self._on_sent(self._sent_before + count)


def _media_of(sample: Sample) -> MediaSource | tuple[MediaSource, MediaSource]:
    if isinstance(sample.media, tuple):
        first, second = map(_one_media, sample.media)
        return first, second
    return _one_media(sample.media)


def _one_media(path: Path) -> MediaSource:
    reason = unreadable(path)
    if reason is not None:
        raise InvalidMediaError(f"cannot read {path}: {reason}")
    if path.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
        return path
    try:  # a format that no server reads, such as PPM: it travels as PNG
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InvalidMediaError(f"cannot read {path}: {error}") from None
