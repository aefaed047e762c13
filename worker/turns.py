"""Which items run next: interactive ones before bulk, and models in turn by the device time that they take."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeAlias, TypeVar

from zoofleet.worker.plan import Plan

if TYPE_CHECKING:
    from zoofleet.worker.batcher import Entry

__all__ = ["BULK_SHARE", "Group", "Taken", "Turns"]

Group: TypeAlias = tuple[str, Plan, tuple[int, ...]]
"""What the items of a batch have in common: the model's name, the plan, and the key."""

BULK_SHARE: Final = 4
"""One in so many places, and one in so many seconds of the device, is for bulk while interactive items wait too."""

_IDLE_RIVALS: Final = 64
"""Rivals that do not wait, from which number on those are forgotten whose turn has long been made up for."""

_Rival = TypeVar("_Rival", bound=Hashable)


class _FairTurns(Generic[_Rival]):
    """Turns among rivals, who get equal device time while they wait, however long each of their turns is.

    Start-time fair queueing (Goyal, Vin and Cheng 1996): the rival goes next whose tag, the time that it has used, is
    the least; between equal ones, whose last turn is the longest ago. One that has not waited for a while begins at the
    tag of the last turn, so that it does not catch up.

    Args:
        is_open: whether there may be ever new rivals, as with pictures of all sizes. A new one then goes behind all
            that wait, or those that stay would be kept out.
    """

    def __init__(self, *, is_open: bool = False) -> None:
        self._is_open = is_open
        self._tags: dict[_Rival, tuple[float, int]] = {}  # with the number of the last turn
        self._waiting: set[_Rival] = set()
        self._clock = 0.0
        self._turn = 0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def join(self, rival: _Rival) -> None:
        """Let a rival wait for turns, unless it does."""
        if rival in self._waiting:
            return
        if len(self._tags) - len(self._waiting) > _IDLE_RIVALS:
            self._tags = {r: tag for r, tag in self._tags.items() if r in self._waiting or tag[0] > self._clock}
        if rival in self._tags or not self._is_open:
            tag, turn = self._tags.get(rival, (0.0, 0))
        else:
            tag, turn = max((self._tags[each][0] for each in self._waiting), default=0.0), self._turn
        self._tags[rival] = max(tag, self._clock), turn
        self._waiting.add(rival)

    def leave(self, rival: _Rival) -> None:
        """Let a rival wait no more. What it has used stays known."""
        self._waiting.discard(rival)

    def next(self) -> _Rival:
        """Return the rival whose turn it is."""
        rival = min(self._waiting, key=self._tags.__getitem__)
        self._clock = max(self._clock, self._tags[rival][0])
        return rival

    def charge(self, rival: _Rival, used: float) -> None:
        """Note what a rival has used in its turn."""
        self._turn += 1
        self._tags[rival] = self._tags.get(rival, (self._clock, 0))[0] + used, self._turn
        if not self._waiting:
            self._clock = max(self._clock, self._tags[rival][0])


@dataclass(slots=True)
class Taken:
    """Items whose turn it is.

    Attributes:
        group: what they have in common.
        batch: the items to run, interactive ones first.
        dropped: cancelled items that stood among them.
    """

    group: Group
    batch: list[Entry]
    dropped: list[Entry]


class Turns:
    """Items that wait for the device, and who of them goes next.

    While interactive and bulk items wait, interactive ones get three of four seconds of the device, and three of four
    places in batches that both can share; whoever is alone gets all. Within each of the two, models share the device by
    time, and so do the plans and keys of a model.

    Args:
        most: says how many items of a group may run at once; each item's own `max_batch` holds too.
    """

    def __init__(self, most: Callable[[Group], int]) -> None:
        self._most = most
        self._traffic: _FairTurns[bool] = _FairTurns()
        self._models: tuple[_FairTurns[str], _FairTurns[str]] = (_FairTurns(), _FairTurns())
        self._groups: dict[tuple[bool, str], _FairTurns[Group]] = {}
        self._queues: dict[tuple[bool, Group], deque[Entry]] = {}

    def __bool__(self) -> bool:
        return bool(self._traffic)

    def add(self, entry: Entry) -> None:
        """Let an item wait."""
        bulk, group = entry.bulk, entry.group
        queue = self._queues.get((bulk, group))
        if queue is None:
            queue = self._queues[bulk, group] = deque()
            self._groups.setdefault((bulk, group[0]), _FairTurns(is_open=True)).join(group)
            self._models[bulk].join(group[0])
            self._traffic.join(bulk)
        queue.append(entry)

    def take(self) -> Taken:
        """Take the items whose turn it is. There must be some that wait."""
        bulk = self._traffic.next()
        group = self._groups[bulk, self._models[bulk].next()].next()
        most = min(self._queues[bulk, group][0].prepared.max_batch, self._most(group))
        waiting = len(self._queues.get((True, group), ()))
        kept = min(max(most // BULK_SHARE, int(bulk)), waiting)  # a turn of bulk's has an item of bulk's
        taken = Taken(group, [], [])
        self._fill(taken, False, most - kept)
        self._fill(taken, True, most)
        return taken

    def charge(self, taken: Taken, seconds: float) -> None:
        """Note how long the device took for a batch."""
        model = taken.group[0]
        bulk_count = sum(entry.bulk for entry in taken.batch)
        for bulk, count in ((False, len(taken.batch) - bulk_count), (True, bulk_count)):
            if count:
                used = seconds * count / len(taken.batch)
                self._traffic.charge(bulk, used if bulk else used / (BULK_SHARE - 1))
                self._models[bulk].charge(model, used)
                self._groups[bulk, model].charge(taken.group, used)

    def clear(self) -> list[Entry]:
        """Forget all that waits, and return it."""
        left = [entry for queue in self._queues.values() for entry in queue]
        self.__init__(self._most)  # type: ignore[misc]
        return left

    def _fill(self, taken: Taken, bulk: bool, most: int) -> None:
        """Take items of one kind of traffic until the batch has `most`."""
        group = taken.group
        queue = self._queues.get((bulk, group))
        if queue is None:
            return
        while queue and len(taken.batch) < most:
            entry = queue.popleft()
            (taken.dropped if entry.cancelled else taken.batch).append(entry)
        if not queue:
            del self._queues[bulk, group]
            groups = self._groups[bulk, group[0]]
            groups.leave(group)
            if not groups:
                self._models[bulk].leave(group[0])
            if not self._models[bulk]:
                self._traffic.leave(bulk)
