"""Which worker a client's items go to: the least loaded, where a model in memory is worth a few items and no more."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
import grpc.aio

from zoofleet._catalog import ModelName
from zoofleet._wire.calls import Ending
from zoofleet.errors import UnavailableError
from zoofleet.scheduler.fleet import Fleet, WorkerRecord
from zoofleet.v1 import models_pb2, models_pb2_grpc

_log: Final = logging.getLogger(__name__)

_AFFINITY: Final = 4
"""Items by which a worker must be less loaded before a model is loaded on it, or a stream spreads to it."""

_MAX_STREAMS: Final = 64
"""Most streams on a worker until no more spread to it: it takes 256 by default, and those that begin on it go first."""

_LOAD_TIMEOUT: Final = 600.0
"""Seconds that a model may take to load, its published weights to be fetched included."""

_REFUSAL_PAUSE: Final = 10.0
"""Seconds for which a worker that could not load a model is not asked again."""


@dataclass(slots=True, eq=False)
class _Load:
    """What this replica knows of a worker's load.

    Attributes:
        items: sent by this replica and not answered.
        streams: of this replica.
        others: everybody else's, as far as its heartbeats say.
        beat: the heartbeat that was read last.
        loaded: models that were loaded since that heartbeat.
        loading: models that are being loaded.
        refused: models that it could not load, and the time from which on it may be asked again.
    """

    items: int = 0
    streams: int = 0
    others: float = 0.0
    beat: int = 0
    loaded: set[str] = field(default_factory=set)
    loading: dict[str, grpc.aio.Call] = field(default_factory=dict)
    refused: dict[str, float] = field(default_factory=dict)

    def read(self, worker: WorkerRecord) -> None:
        """Take in a heartbeat, once; called before `items` changes, so that it is known what was ours then.

        A heartbeat is up to two seconds old, and the other replicas act on it, too: if each believed it to the full,
        all would move to the worker that looked idle, and back with the next one. The mean over heartbeats settles.
        """
        if worker.beat != self.beat:
            self.beat = worker.beat
            self.others = (self.others + max(worker.status.inflight_items - self.items, 0)) / 2
            self.loaded.clear()


class WorkerLostError(Exception):
    """A worker has ended a client's stream.

    Args:
        worker: which.
        error: what it, or gRPC in its place, gave as the reason; None where there is none.
    """

    def __init__(self, worker: WorkerRecord, error: grpc.aio.AioRpcError | None) -> None:
        super().__init__(worker.name)
        self.worker = worker
        self.error = error


@contextmanager
def losing(worker: WorkerRecord, ending: Ending) -> Iterator[None]:
    """Around what reads a worker's stream.

    Raises:
        WorkerLostError: in the place of what the call raises.
    """
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise WorkerLostError(worker, ending.restore(error)) from None
    except asyncio.CancelledError:
        # The channel of a worker that has left the fleet is closed, which looks as if somebody had cancelled this task.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise WorkerLostError(worker, None) from None


class Share:
    """What one stream has on one worker, which counts as the worker's load.

    Args:
        router: counts it.
        worker_id: the worker.
    """

    def __init__(self, router: Router, worker_id: str) -> None:
        self._router = router
        self._worker_id = worker_id
        self._items = 0

    def add(self, items: int) -> None:
        """Count so many more items, or fewer."""
        self._items += items
        self._router.count(self._worker_id, items)

    def clear(self) -> None:
        """Count no items any more."""
        self.add(-self._items)


class Router:
    """Chooses workers for this replica's clients; never waits, and asks nobody but to load a model.

    Args:
        fleet: the workers.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._loads: dict[str, _Load] = {}
        self.kept_bytes = 0
        """Bytes of items that this replica's streams keep, all together."""

    @property
    def items(self) -> dict[str, int]:
        """Items sent by this replica and not answered, by worker; only where there are any."""
        return {worker_id: load.items for worker_id, load in self._loads.items() if load.items}

    def channel(self, worker: WorkerRecord) -> grpc.aio.Channel:
        """The open channel to a worker."""
        return self._fleet.channel(worker.worker_id)

    def load(self, worker: WorkerRecord) -> float:
        """Items that a worker has, by all that is known."""
        load = self._load(worker.worker_id)
        return load.items + load.others

    @contextmanager
    def share(self, worker: WorkerRecord) -> Iterator[Share]:
        """Count a stream with its items on a worker until the end of the block."""
        share = Share(self, worker.worker_id)
        self._load(worker.worker_id).streams += 1
        try:
            yield share
        finally:
            share.clear()
            self._load(worker.worker_id).streams -= 1

    def count(self, worker_id: str, items: int) -> None:
        """Count so many more items on a worker, or fewer."""
        self._load(worker_id).items += items

    def choose(self, models: Collection[ModelName]) -> WorkerRecord:
        """Choose a worker for a stream that begins: the least loaded of those that have all the models in memory.

        Where others have so much less to do that it is worth loading the models there, that is begun for later
        streams; this one does not wait for it. Where nobody has all of them, it goes to the least loaded worker.

        Raises:
            UnavailableError: no live worker can run these models.
        """
        able = self._able(models)
        if not able:
            wanted = ", ".join(sorted(map(str, models)))
            raise UnavailableError(f"none of {len(self._fleet.view)} workers takes work for {wanted}; try again")
        ready = [worker for worker in able if not self._missing(worker, models)]
        if not ready:
            return min(able, key=lambda worker: self.load(worker) + _AFFINITY * len(self._missing(worker, models)))
        best = min(ready, key=self.load)
        self._expand(able, models, self.load(best))
        return best

    def further(self, models: Collection[ModelName], load: float, left_out: Collection[str]) -> WorkerRecord | None:
        """Choose one more worker for a stream whose workers all have a load of so much, if there is one worth it.

        It has the models in memory. Where it does not, they are loaded there, and it may be chosen another time.
        """
        if load < _AFFINITY:
            return None
        able = [worker for worker in self._able(models) if worker.worker_id not in left_out]
        able = [worker for worker in able if self._load(worker.worker_id).streams < _MAX_STREAMS]
        ready = [worker for worker in able if not self._missing(worker, models)]
        best = min(ready, key=self.load, default=None)
        if best is None or self.load(best) + _AFFINITY > load:
            self._expand(able, models, load)
            return None
        return best

    def _able(self, models: Collection[ModelName]) -> Sequence[WorkerRecord]:
        """Workers that take work for the models: those that can be reached, or all of them where none can."""
        able = self._fleet.able(*models)
        return [worker for worker in able if self._is_reachable(worker)] or able

    def _is_reachable(self, worker: WorkerRecord) -> bool:
        return self.channel(worker).get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY

    def _load(self, worker_id: str) -> _Load:
        live = self._fleet.view
        load = self._loads.get(worker_id)
        if load is None:
            self._loads = {name: kept for name, kept in self._loads.items() if name in live or kept.streams}
            load = self._loads[worker_id] = _Load()
        if worker_id in live:
            load.read(live[worker_id])
        return load

    def _missing(self, worker: WorkerRecord, models: Collection[ModelName]) -> set[str]:
        return {str(model) for model in models} - worker.loaded - self._load(worker.worker_id).loaded

    def _expand(self, able: Collection[WorkerRecord], models: Collection[ModelName], load: float) -> None:
        """Load the models where there is room for them and less to do than `load` by more than a little."""
        now = asyncio.get_running_loop().time()

        def is_spare(worker: WorkerRecord) -> bool:
            missing, known = self._missing(worker, models), self._load(worker.worker_id)
            return (
                bool(missing)
                and self.load(worker) + _AFFINITY <= load
                # Models in use elsewhere must not be pushed out of memory for it: they would come back, in turn.
                and sum(map(self._size, missing)) <= worker.free_bytes
                and not any(known.refused.get(model, 0.0) > now for model in missing)
            )

        spare = min(filter(is_spare, able), key=self.load, default=None)
        if spare is not None:
            for model in self._missing(spare, models) - self._load(spare.worker_id).loading.keys():
                self._begin_loading(spare, model)

    def _size(self, model: str) -> int:
        """Bytes that a model takes where it is in memory; 0 where nobody says so."""
        workers = self._fleet.view.values()
        sizes = (one.memory_bytes for worker in workers for one in worker.status.loaded_models if one.model == model)
        return max(sizes, default=0)

    def _begin_loading(self, worker: WorkerRecord, model: str) -> None:
        """Have a worker load a model. The call lives on the worker's channel, and ends with it."""
        load = self._load(worker.worker_id)
        stub: Any = models_pb2_grpc.ModelsStub(self.channel(worker))
        call = stub.LoadModel(models_pb2.LoadModelRequest(model=model, worker=worker.name), timeout=_LOAD_TIMEOUT)
        ending = Ending(call)
        load.loading[model] = call
        _log.info("%s is to load %s, too", worker.name, model)

        def ended(_: grpc.aio.Call) -> None:
            del load.loading[model]
            if ending.error is None:
                load.loaded.add(model)
            else:
                load.refused[model] = asyncio.get_running_loop().time() + _REFUSAL_PAUSE
                _log.info("%s cannot load %s: %s", worker.name, model, ending.error.details())

        call.add_done_callback(ended)
