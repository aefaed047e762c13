"""Small items and results that travel several in a message."""

from __future__ import annotations

from typing import Any

import pytest

from zoofleet._wire.limits import BATCH_ITEMS, PART_BYTES
from zoofleet._wire.parts import Joiner, completed, cut, pack
from zoofleet.errors import InvalidArgumentError, ItemTooLargeError
from zoofleet.v1 import jobs_pb2, vision_pb2

LIMIT = 8 * 1024 * 1024


def item(item_id: str, size: int = 1) -> vision_pb2.Item:
    return vision_pb2.Item(item_id=item_id, media=[vision_pb2.Media(data=bytes(size))])


def batch(*items: vision_pb2.Item) -> vision_pb2.ClassifyRequest:
    return vision_pb2.ClassifyRequest(batch=vision_pb2.ItemBatch(items=items))


@pytest.mark.parametrize("envelope", [vision_pb2.DetectRequest, jobs_pb2.CreateJobRequest])
def test_items_come_back_in_their_order_whatever_their_sizes(envelope: Any) -> None:
    sizes = [1, PART_BYTES // 2, PART_BYTES // 2, 0, PART_BYTES + 1, 7, 3 * PART_BYTES, 1, *[2] * 600]
    items = [item(str(number), size) for number, size in enumerate(sizes)]
    joiner = Joiner(vision_pb2.Item, LIMIT)
    messages = list(pack(envelope, items))
    assert [whole for message in messages for _, whole in joiner.take(message)] == items
    assert max(message.ByteSize() for message in messages) < 1.5 * PART_BYTES
    assert sum(completed(message) for message in messages) == len(items)
    assert len(messages) < 20


def test_nothing_makes_no_message() -> None:
    assert list(pack(vision_pb2.ClassifyResponse, list[vision_pb2.Result]())) == []


def test_a_batch_holds_256_at_most() -> None:
    sizes = [len(message.batch.items) for message in pack(vision_pb2.ClassifyRequest, [item("")] * 600)]
    assert sizes == [BATCH_ITEMS, BATCH_ITEMS, 600 - 2 * BATCH_ITEMS]
    for refused in ([], [item("")] * (BATCH_ITEMS + 1)):
        with pytest.raises(InvalidArgumentError, match=f"a batch of {len(refused)}; accepted: 1 to 256"):
            Joiner(vision_pb2.Item, LIMIT).take(batch(*refused))


def test_one_too_large_among_others_is_its_own_error() -> None:
    joiner = Joiner(vision_pb2.Item, 3 * PART_BYTES)
    items = [item("a"), item("b", 4 * PART_BYTES), item("c")]
    taken = [one for message in pack(vision_pb2.ClassifyRequest, items) for one in joiner.take(message)]
    assert [item_id for item_id, _ in taken] == ["a", "b", "c"]
    assert isinstance(taken[1][1], ItemTooLargeError)
    assert (taken[0][1], taken[2][1]) == (items[0], items[2])


def test_a_batch_between_the_parts_of_an_item_is_refused() -> None:
    joiner = Joiner(vision_pb2.Item, LIMIT)
    joiner.take(next(cut(vision_pb2.ClassifyRequest, item("large", 2 * PART_BYTES))))
    with pytest.raises(InvalidArgumentError, match="'batch' came before the last part of item 'large'"):
        joiner.take(batch(item("a")))
