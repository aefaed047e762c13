"""Large items and results travel in parts: no gRPC message exceeds 4 MiB."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Generic, TypeVar

from google.protobuf.message import DecodeError, Message

from zoofleet.errors import InvalidArgumentError, ItemTooLargeError
from zoofleet.v1 import vision_pb2

PART_BYTES: Final = 2 * 1024 * 1024
"""Most bytes of `data` in one `Part`; messages up to this size travel whole."""

MAX_ITEM_ID_BYTES: Final = 256

_M = TypeVar("_M", bound=Message)


def split(item_id: str, serialized: bytes) -> Iterator[vision_pb2.Part]:
    """Cut a serialized message into parts."""
    for start in range(0, len(serialized), PART_BYTES):
        end = start + PART_BYTES
        yield vision_pb2.Part(item_id=item_id, data=serialized[start:end], last=end >= len(serialized))


class Assembler(Generic[_M]):
    """Joins the parts of one stream's messages, with bounded memory.

    Args:
        message: class of the joined message.
        max_bytes: most bytes of a joined message.
    """

    def __init__(self, message: type[_M], max_bytes: int) -> None:
        self._message = message
        self._max_bytes = max_bytes
        self._item_id: str | None = None
        self._size = 0
        self._data = bytearray()

    @property
    def pending(self) -> bool:
        """Whether a message has begun and not ended."""
        return self._item_id is not None

    def add(self, part: vision_pb2.Part) -> _M | ItemTooLargeError | None:
        """Take the next part.

        Returns:
            None where more parts must come, the whole message after its last one, and the error after the last part of
            one that was too large: it concerns that item alone.

        Raises:
            InvalidArgumentError: the stream itself is broken (a part of another item in between, or bytes that are no
                message).
        """
        if self._item_id is None:
            self._item_id, self._size = part.item_id, 0
        elif part.item_id != self._item_id:
            raise InvalidArgumentError(
                f"a part of item {part.item_id[:80]!r} came before the last part of item {self._item_id[:80]!r}"
            )
        self._size += len(part.data)
        if self._size <= self._max_bytes:
            self._data += part.data
        else:
            self._data.clear()  # counted on, kept no longer
        if not part.last:
            return None
        data, self._data, self._item_id = bytes(self._data), bytearray(), None
        if self._size > self._max_bytes:
            return ItemTooLargeError(f"{self._size} bytes; accepted: at most {self._max_bytes} bytes an item")
        message = self._message()
        try:
            message.ParseFromString(data)
        except DecodeError:
            raise InvalidArgumentError(f"the parts of item {part.item_id[:80]!r} do not join into an item") from None
        return message
