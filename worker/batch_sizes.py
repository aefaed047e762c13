"""How many items run at once: as many as make the device faster, and no more than its memory takes."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from zoofleet.worker.plan import Plan
from zoofleet.worker.turns import Group

__all__ = ["BatchSizes"]

_GAIN: Final = 1.05
"""By what factor a batch twice as large must raise the items a second to be kept. Waiting grows with the batch."""

_TRIALS: Final = 3
"""Full batches of a size before it is judged by its fastest: the first one of a shape is slow, others are disturbed."""

_RETRY_BATCHES: Final = 256
"""Full batches after which a larger size is tried once more, since what else the machine did may have misled."""

_GROUPS: Final = 1024
"""Most groups whose sizes are remembered. Pictures of all sizes make many."""


@dataclass(slots=True)
class _Size:
    """What is known of a group.

    Attributes:
        most: items in a full batch now.
        smaller: the full batch before the last growth.
        smaller_rate: most items a second at that size.
        rate: most items a second at this size.
        count: full batches at this size.
        settled: whether the last growth did not pay, or none is possible.
        ceiling: most items that the memory takes, None while it has taken all.
    """

    most: int = 1
    smaller: int = 1
    smaller_rate: float = 0.0
    rate: float = 0.0
    count: int = 0
    settled: bool = False
    ceiling: int | None = None

    def turn_to(self, most: int) -> None:
        """Go on with another size."""
        self.most, self.rate, self.count = most, 0.0, 0


class BatchSizes:
    """Learns for each group of items how many run at once.

    A group begins with one item. Its batch doubles while that raises the items a second by more than 5 %; another key
    of the same model and plan begins where the last one stands. What did not fit into memory is not tried again.
    """

    def __init__(self) -> None:
        self._sizes: OrderedDict[Group, _Size] = OrderedDict()  # least recently used first
        self._settled: dict[tuple[str, Plan], int] = {}

    def most(self, group: Group) -> int:
        """Return how many items of a group may run at once."""
        return self._size(group).most

    def ran(self, group: Group, count: int, limit: int, seconds: float) -> None:
        """Learn from a batch that has run.

        Args:
            group: what its items have in common.
            count: number of its items.
            limit: most items that may ever run at once.
            seconds: how long it took.
        """
        size = self._size(group)
        if count != size.most:  # not full: the larger batch would have been as empty
            return
        size.count += 1
        size.rate = max(size.rate, count / max(seconds, 1e-9))
        if size.count < (_RETRY_BATCHES if size.settled else _TRIALS):
            return
        if not size.settled and size.rate <= size.smaller_rate * _GAIN:
            size.settled = True
            size.turn_to(size.smaller)
        else:
            larger = min(2 * size.most, limit, size.ceiling or limit)
            size.settled = larger <= size.most
            if not size.settled:
                size.smaller, size.smaller_rate = size.most, size.rate
                size.turn_to(larger)
        if size.settled:
            self._settled[group[0], group[1]] = size.most

    def exhausted(self, group: Group, count: int) -> int:
        """Learn that a batch of so many items did not fit into memory, and return how many may run from now on."""
        size = self._size(group)
        size.ceiling = min(max(count // 2, 1), size.ceiling or count)
        size.settled = True
        if size.most > size.ceiling:
            size.turn_to(size.ceiling)
        return size.most

    def _size(self, group: Group) -> _Size:
        size = self._sizes.get(group)
        if size is None:
            known = self._settled.get((group[0], group[1]))
            size = self._sizes[group] = _Size() if known is None else _Size(most=known, settled=True)
            if len(self._sizes) > _GROUPS:
                self._sizes.popitem(last=False)
        else:
            self._sizes.move_to_end(group)
        return size
