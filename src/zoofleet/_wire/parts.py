"""Large items and results travel in parts, so that no gRPC message exceeds 4 MiB, and small ones together.

A stream's messages have a field for the whole (`item`, `result` or `frame`) and a field `part`; those with items or
results also have a field `batch`, since a message costs more than a small item does. `cut` and `pack` make such
messages, and a `Joiner` takes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, Generic, TypeAlias, TypeVar

from google.protobuf.message import DecodeError, Message

from zoofleet._wire.limits import BATCH_ITEMS, PART_BYTES
from zoofleet.errors import InvalidArgumentError, ItemTooLargeError
from zoofleet.v1 import vision_pb2

__all__ = ["Joiner", "completed", "cut", "pack", "split"]

Whole: TypeAlias = vision_pb2.Item | vision_pb2.Result | vision_pb2.FrameResults
"""What may travel in parts."""

_FIELDS: Final[dict[type[Message], str]] = {
    vision_pb2.Item: "item",
    vision_pb2.Result: "result",
    vision_pb2.FrameResults: "frame",
}

_BATCHES: Final[dict[type[Message], str]] = {vision_pb2.Item: "items", vision_pb2.Result: "results"}
"""What travels in batches, and the field of the batch that it stands in."""

_E = TypeVar("_E", bound=Message)
_M = TypeVar("_M", vision_pb2.Item, vision_pb2.Result, vision_pb2.FrameResults)


def _id_of(whole: Whole) -> str:
    return str(whole.frame_index) if isinstance(whole, vision_pb2.FrameResults) else whole.item_id


def cut(envelope: type[_E], whole: Whole) -> Iterator[_E]:
    """Yield the messages of a stream that carry one item, result or frame: one with the whole, or one for each part.

    Args:
        envelope: class of the stream's messages, such as `ClassifyRequest`.
        whole: the item, result or frame; it is copied.
    """
    make: Any = envelope
    if whole.ByteSize() <= PART_BYTES:
        yield make(**{_FIELDS[type(whole)]: whole})
        return
    for part in split(_id_of(whole), whole.SerializeToString()):
        yield make(part=part)


def pack(envelope: type[_E], wholes: Iterable[vision_pb2.Item] | Iterable[vision_pb2.Result]) -> Iterator[_E]:
    """Yield the messages of a stream that carry items or results: as many in a batch as fit, and large ones in parts.

    Args:
        envelope: class of the stream's messages, such as `ClassifyRequest`.
        wholes: the items or results, in their order; they are copied.
    """
    make: Any = envelope
    batch: list[Any] = []
    batch_bytes = 0
    for whole in wholes:
        size = whole.ByteSize()
        if len(batch) == BATCH_ITEMS or (batch_bytes + size > PART_BYTES and batch):
            yield _batch(make, batch)
            batch, batch_bytes = [], 0
        if size > PART_BYTES:
            yield from cut(envelope, whole)
        else:
            batch.append(whole)
            batch_bytes += size
    if batch:
        yield _batch(make, batch)


def _batch(make: Any, wholes: list[Any]) -> Any:
    return make(batch={_BATCHES[type(wholes[0])]: wholes})


def completed(message: Any) -> int:
    """Return how many items or results are complete with a message that `cut` or `pack` has made."""
    given = message.WhichOneof("message")
    if given == "part":
        return int(message.part.last)
    return sum(len(wholes) for _, wholes in message.batch.ListFields()) if given == "batch" else 1


def split(item_id: str, serialized: bytes) -> Iterator[vision_pb2.Part]:
    """Yield the parts of a serialized message."""
    for start in range(0, len(serialized), PART_BYTES):
        end = start + PART_BYTES
        yield vision_pb2.Part(item_id=item_id, data=serialized[start:end], last=end >= len(serialized))


class Joiner(Generic[_M]):
    """Takes the messages of one stream and gives back the items, results or frames in them, with bounded memory.

    Args:
        whole: class of what the stream carries, such as `Item`.
        max_bytes: most bytes of one that is joined from parts.
    """

    def __init__(self, whole: type[_M], max_bytes: int) -> None:
        self._whole: type[_M] = whole
        self._field = _FIELDS[whole]
        self._max_bytes = max_bytes
        self._item_id: str | None = None
        self._size = 0
        self._data = bytearray()

    def add(self, envelope: Any) -> tuple[str, _M | ItemTooLargeError] | None:
        """Take the stream's next message.

        Returns:
            None where more parts must come. Otherwise the id, as the last message has it, and the whole, or the error
            that stands for one over the limit: that concerns it alone.

        Raises:
            InvalidArgumentError: the stream itself is broken: a message of another kind, a part of another item in
                between, or parts that do not join into a message.
        """
        given = envelope.WhichOneof("message")
        if given == "part":
            joined = self._add_part(envelope.part)
            return None if joined is None else (envelope.part.item_id, joined)
        self._check_between(given)
        if given != self._field:
            raise InvalidArgumentError(
                f"a message after the first sets {given or 'nothing'!r}; accepted: {self._field!r} or 'part'"
            )
        whole: _M = getattr(envelope, self._field)
        return _id_of(whole), whole

    def take(self, envelope: Any) -> list[tuple[str, _M | ItemTooLargeError]]:
        """Take the stream's next message, which may also be a batch.

        Returns:
            What `add` returns, for each of the items, results or frames that the message completes.

        Raises:
            InvalidArgumentError: the stream itself is broken, as `add` says, or a batch has not 1 to 256.
        """
        if envelope.WhichOneof("message") != "batch":
            joined = self.add(envelope)
            return [] if joined is None else [joined]
        self._check_between("batch")
        wholes = getattr(envelope.batch, _BATCHES[self._whole])
        if not 1 <= len(wholes) <= BATCH_ITEMS:
            raise InvalidArgumentError(f"a batch of {len(wholes)}; accepted: 1 to {BATCH_ITEMS}")
        return [(whole.item_id, whole) for whole in wholes]

    def finish(self) -> None:
        """Take note of the stream's end.

        Raises:
            InvalidArgumentError: parts are missing.
        """
        if self._item_id is not None:
            raise InvalidArgumentError(f"the stream ended before the last part of item {self._item_id[:80]!r}")

    def _check_between(self, given: str | None) -> None:
        """Raise InvalidArgumentError where a message that is no part comes amid the parts of an item."""
        if self._item_id is not None:
            raise InvalidArgumentError(
                f"{given or 'nothing'!r} came before the last part of item {self._item_id[:80]!r}; accepted: 'part'"
            )

    def _add_part(self, part: vision_pb2.Part) -> _M | ItemTooLargeError | None:
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
        whole = self._whole()
        try:
            whole.ParseFromString(data)
        except DecodeError:
            raise InvalidArgumentError(f"the parts of item {part.item_id[:80]!r} do not join into an item") from None
        return whole
