"""The items that callers may pass, and the messages that they become."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from zoofleet._media.png import encode_png
from zoofleet._media.sources import read_error
from zoofleet._wire.limits import MAX_ITEM_ID_BYTES, PART_BYTES
from zoofleet.errors import InvalidArgumentError, InvalidMediaError, ItemTooLargeError, ZoofleetError
from zoofleet.v1 import vision_pb2

__all__ = ["Item", "ItemSource", "MediaSource", "Uri"]

_MAX_MEDIA_BYTES: Final = 1 << 30
"""A protobuf message holds 2 GiB at most; servers accept far less."""


@dataclass(frozen=True, slots=True)
class Uri:
    """Media that the worker reads by itself. The worker's operator must have allowed a prefix of the URI.

    Attributes:
        uri: the URI, such as `https://example.org/cat.jpg`.
    """

    uri: str


MediaSource: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[np.uint8] | Uri
"""One image or clip: the path of a file, its encoded bytes, or a `Uri`. An image may also be a PIL image or a uint8
array, (H, W, 3) RGB, (H, W, 4) RGBA or (H, W) grey; these travel as PNG."""


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """An item with an id of the caller's choice.

    Attributes:
        media: one image or clip, or a pair of images for optical flow.
        item_id: the item's name in its results: at most 256 bytes in UTF-8, unique in the stream or job. Empty for the
            item's position, counted from 0.
    """

    media: MediaSource | tuple[MediaSource, MediaSource]
    item_id: str = ""


ItemSource: TypeAlias = MediaSource | tuple[MediaSource, MediaSource] | Item
"""An item: media, a pair of images for optical flow, or an `Item` with an id of its own."""


def item_to_proto(source: ItemSource, position: int) -> vision_pb2.Item:
    """Return the message for an item. Reads and encodes the item's media, so call it off the event loop.

    Args:
        source: the item.
        position: the item's position in its stream, from 0, which is its id where it has none.

    Raises:
        MediaNotFoundError: a file does not exist.
        PermissionDeniedError: a file may not be read.
        InvalidMediaError: the media cannot be read for another reason: a path is a folder, for example.
        ItemTooLargeError: the media have over 1 GiB.
        InvalidArgumentError: the media have another type, or the id is no text of at most 256 bytes.
    """
    media = source.media if isinstance(source, Item) else source
    proto = vision_pb2.Item(item_id=item_id_of(source, position))
    for one in media if isinstance(media, tuple) else (media,):
        if isinstance(one, Uri):
            proto.media.add(uri=one.uri)
        else:
            proto.media.add(data=_encoded(one))
    return proto


def item_id_of(source: ItemSource, position: int) -> str:
    """Return the item's id, or its position in decimal where it has none.

    Raises:
        InvalidArgumentError: the id is no text of at most 256 bytes in UTF-8.
    """
    item_id = source.item_id if isinstance(source, Item) else ""
    try:
        size = len(item_id.encode())
    except UnicodeEncodeError:
        raise InvalidArgumentError(f"item_id {item_id[:80]!r} is no valid Unicode text") from None
    if size > MAX_ITEM_ID_BYTES:
        raise InvalidArgumentError(f"item_id {item_id[:80]!r}… has {size} bytes; accepted: {MAX_ITEM_ID_BYTES}")
    return item_id or str(position)


def _encoded(media: str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[np.uint8]) -> bytes:
    if isinstance(media, bytes):
        data = media
    elif isinstance(media, str | os.PathLike):
        data = _read(Path(media))
    elif isinstance(media, Image.Image):
        data = _png(media)
    elif isinstance(media, np.ndarray):
        if media.dtype != np.uint8 or not (media.ndim == 2 or (media.ndim == 3 and media.shape[2] in (3, 4))):
            raise InvalidArgumentError(
                f"an array of shape {media.shape} and type {media.dtype}; "
                "accepted: uint8 (H, W, 3), (H, W, 4) or (H, W)"
            )
        data = _png(Image.fromarray(media))
    else:
        raise InvalidArgumentError(
            f"media of type {type(media).__name__}; accepted: a path, bytes, a PIL image, a uint8 array or a Uri"
        )
    if len(data) > _MAX_MEDIA_BYTES:
        raise ItemTooLargeError(f"{len(data)} bytes; accepted: at most {_MAX_MEDIA_BYTES}")
    return data


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size <= _MAX_MEDIA_BYTES:
            return path.read_bytes()
    except (OSError, ValueError) as error:
        raise read_error(path, error) from None
    raise ItemTooLargeError(f"{path} has {size} bytes; accepted: at most {_MAX_MEDIA_BYTES}")


def _png(image: Image.Image) -> bytes:
    try:
        return encode_png(image)
    except (OSError, ValueError) as error:
        raise InvalidMediaError(f"a PIL image of mode {image.mode} does not save as PNG: {error}") from None


class ItemReader:
    """Reads a caller's items: no further ahead than is asked for, and hands each on as soon as it is read.

    Iterables that are not asynchronous run in a thread, which reads several items where it may, since each visit to a
    thread costs more than a small item does.

    Args:
        sources: the items.

    Raises:
        InvalidArgumentError: `sources` is a single item.
    """

    def __init__(self, sources: Iterable[ItemSource] | AsyncIterable[ItemSource]) -> None:
        if isinstance(sources, str | bytes | os.PathLike | Image.Image | np.ndarray | Item):
            raise InvalidArgumentError(f"a single {type(sources).__name__}; accepted: an iterable of items")
        self.ready: deque[tuple[str, vision_pb2.Item | ZoofleetError]] = deque()
        """Items that are read and not taken yet: the id, and the message or the error that says why there is none."""
        self._source = aiter(sources) if isinstance(sources, AsyncIterable) else iter(sources)
        self._loop = asyncio.get_running_loop()
        self._position = 0
        self._is_closed = False
        self._is_exhausted = False
        self._filling: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._is_waking = False

    async def wait(self, most: int) -> bool:
        """Wait until an item is ready.

        What is read meanwhile is not lost where the waiting is cancelled.

        Args:
            most: how many items may be read ahead, 1 or more.

        Returns:
            Whether there is one; else all were taken.

        Raises:
            InvalidArgumentError: an id is no text of at most 256 bytes.
            Exception: whatever the caller's iterator raises.
        """
        while not self.ready:
            if self._filling is None:
                if self._is_exhausted:
                    return False
                self._filling = asyncio.create_task(self._fill(most))
                self._filling.add_done_callback(lambda _: self._changed.set())
            elif self._filling.done():
                filled, self._filling = self._filling, None
                filled.result()
            else:
                self._changed.clear()
                await self._changed.wait()
        return True

    async def close(self) -> None:
        """Read no more."""
        self._is_closed = True
        if self._filling is not None:
            self._filling.cancel()
            await asyncio.gather(self._filling, return_exceptions=True)

    async def _fill(self, most: int) -> None:
        if isinstance(self._source, AsyncIterator):
            try:
                source = await anext(self._source)
            except StopAsyncIteration:
                self._is_exhausted = True
                return
            self.ready.append(await asyncio.to_thread(_read_one, source, self._position))
            self._position += 1
        else:
            await asyncio.to_thread(self._read, self._source, most)

    def _read(self, source: Iterator[ItemSource], most: int) -> None:
        """Read up to `most` items and 2 MiB, in a thread."""
        size = 0
        while most > 0 and size < PART_BYTES and not self._is_closed:
            try:
                item_source = next(source)
            except StopIteration:
                self._is_exhausted = True
                return
            read = _read_one(item_source, self._position)
            self._position += 1
            self.ready.append(read)
            if not self._is_waking:
                self._is_waking = True
                self._loop.call_soon_threadsafe(self._wake)
            most -= 1
            size += 0 if isinstance(read[1], ZoofleetError) else read[1].ByteSize()

    def _wake(self) -> None:
        self._is_waking = False
        self._changed.set()


async def read_item(source: ItemSource) -> vision_pb2.Item:
    """Return the message for a single item.

    Raises:
        ZoofleetError: whatever `item_to_proto` raises.
    """
    media = source.media if isinstance(source, Item) else source
    if isinstance(media, bytes | Uri):  # nothing that would keep the event loop waiting
        return item_to_proto(source, 0)
    return await asyncio.to_thread(item_to_proto, source, 0)


def _read_one(source: ItemSource, position: int) -> tuple[str, vision_pb2.Item | ZoofleetError]:
    item_id = item_id_of(source, position)
    try:
        return item_id, item_to_proto(source, position)
    except ZoofleetError as error:
        return item_id, error


def item_ids(paths: Iterable[Path]) -> dict[str, Path]:
    """Return an id for each path: the path itself. Where that is no valid id, a number and the end of the path."""
    ids: dict[str, Path] = {}
    for position, path in enumerate(paths):
        name = os.fsencode(path).decode("utf-8", "replace")
        if len(name.encode()) > MAX_ITEM_ID_BYTES or "\ufffd" in name:
            tail = name.encode()[-(MAX_ITEM_ID_BYTES - 16) :].decode("utf-8", "ignore")
            name = f"{position}:{tail}"
        ids[name] = path
    return ids
