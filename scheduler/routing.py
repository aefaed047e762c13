"""Which worker a client's items go to: the least loaded one, where a model in memory is worth four items of load."""

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
"""Number of items by which a worker must be less loaded before a model is loaded on it, or a stream spreads to it.

docs/architecture.md, *Choices*, says why four.
"""

_MAX_STREAMS: Final = 64
"""Number of streams on a worker from which on no more spread to it.

A worker takes 256 streams by default; the rest are for streams that begin on it.
"""

_LOAD_TIMEOUT: Final = 600.0
"""Seconds that a model may take to load, with the download of its weights."""

_REFUSAL_PAUSE: Final = 10.0
"""Seconds for which a worker that could not load a model is not asked again."""


@dataclass(slots=True, eq=False)
class _Load:
    """What this replica knows of a worker's load.

    Attributes:
        items: the number of items that this replica has sent and that are not answered.
        streams: the number of this replica's streams on the worker.
        others: the number of items that everybody else has sent, as far as the heartbeats say.
        beat: the time of the heartbeat that was read last, in milliseconds since the epoch.
        loaded: the models that were loaded since that heartbeat.
        loading: the models that are being loaded, with the calls that load them.
        refused: the models that the worker could not load, with the loop's time from which on it may be asked again.
    """

    items: int = 0
    streams: int = 0
    others: float = 0.0
    beat: int = 0
    loaded: set[str] = field(default_factory=set)
    loading: dict[str, grpc.aio.Call] = field(default_factory=dict)
    refused: dict[str, float] = field(default_factory=dict)

    def read(self, worker: WorkerRecord) -> None:
        """Take in a worker's latest heartbeat. Call it before `items` changes: the difference is what others have sent.

        A heartbeat is up to two seconds old, and the other replicas act on it too: if each believed it to the full, all
        would move to the worker that looked idle, and back with the next heartbeat. The mean over heartbeats settles.
        """
        if worker.beat != self.beat:
            self.beat = worker.beat
            self.others = (self.others + max(worker.inflight_items - self.items, 0)) / 2
            self.loaded.clear()


class WorkerLostError(Exception):
    """A worker has ended a client's stream.

    Args:
        worker: the worker.
        error: the reason that the worker, or gRPC in its place, gave; None where there is none.
    """

    def __init__(self, worker: WorkerRecord, error: grpc.aio.AioRpcError | None) -> None:
        super().__init__(worker.name)
        self.worker = worker
        self.error = error


@contextmanager
def losing(worker: WorkerRecord, ending: Ending) -> Iterator[None]:
    """Turn what a worker's stream raises within the block into a `WorkerLostError`.

    Args:
        worker: the worker whose stream the block reads.
        ending: the status of the stream.

    Raises:
        WorkerLostError: the stream has failed, or its channel was closed.
    """
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise WorkerLostError(worker, ending.restore(error)) from None
    except asyncio.CancelledError:
        # The channel of a worker that leaves the fleet is closed, which looks as if somebody had cancelled this task.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise WorkerLostError(worker, None) from None


class Share:
    """The items that one stream has on one worker, which count as the worker's load.

    Args:
        router: the router that counts them.
        worker_id: the worker's id.
    """

    def __init__(self, router: Router, worker_id: str) -> None:
        self._router = router
        self._worker_id = worker_id
        self._items = 0

    def add(self, items: int) -> None:
        """Count `items` more items, or fewer where it is negative."""
        self._items += items
        self._router.count(self._worker_id, items)

    def clear(self) -> None:
        """Count no more items."""
        self.add(-self._items)


class Router:
    """Chooses workers for this replica's clients, without waiting for anything.

    Args:
        fleet: the workers to choose from.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._loads: dict[str, _Load] = {}
        self.kept_bytes = 0
        """Bytes of items that all streams of this replica keep together."""

    def channel(self, worker: WorkerRecord) -> grpc.aio.Channel:
        """Return the open channel to a worker.

        Raises:
            WorkerNotFoundError: the worker has left the fleet.
        """
        return self._fleet.channel(worker.worker_id)

    def load(self, worker: WorkerRecord) -> float:
        """Return the number of items that a worker has, as far as this replica knows."""
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
        """Count `items` more items on a worker, or fewer where it is negative."""
        self._load(worker_id).items += items

    def choose(self, models: Collection[ModelName]) -> WorkerRecord:
        """Return the worker for a new stream: the least loaded one of those that have all the models in memory.

        Where another worker has so much less to do that the models are worth loading there, that begins for the sake of
        later streams, and this one does not wait for it. Where no worker has all the models, the least loaded one is
        returned, with four items added to its load for each model that it lacks.

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
        """Return one more worker for a stream, or None where none is worth it.

        A worker is worth it that has the models in memory and four items less to do than the stream's workers. Where
        such a worker lacks the models only, they are loaded there, and it may be returned another time.

        Args:
            models: the stream's models.
            load: the least load of the stream's workers, in items.
            left_out: the ids of the workers that the stream has or had.
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
        """Return the workers that take work for the models: those that can be reached, or all where none can."""
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
        return {str(model) for model in models} - worker.loaded.keys() - self._load(worker.worker_id).loaded

    def _expand(self, able: Collection[WorkerRecord], models: Collection[ModelName], load: float) -> None:
        """Begin to load the models on the least loaded worker with room for them and four items less than `load`."""
        now = asyncio.get_running_loop().time()

        def is_spare(worker: WorkerRecord) -> bool:
            missing, known = self._missing(worker, models), self._load(worker.worker_id)
            return (
                bool(missing)
                and self.load(worker) + _AFFINITY <= load
                # Loading must not push other models out of memory: those in use would be loaded again, in turn.
                and sum(map(self._size, missing)) <= worker.free_bytes
                and not any(known.refused.get(model, 0.0) > now for model in missing)
            )

        spare = min(filter(is_spare, able), key=self.load, default=None)
        if spare is not None:
            for model in self._missing(spare, models) - self._load(spare.worker_id).loading.keys():
                self._begin_loading(spare, model)

    def _size(self, model: str) -> int:
        """Return the bytes that a model takes on a worker that has it in memory, or 0 where none has."""
        return max((worker.loaded.get(model, 0) for worker in self._fleet.view.values()), default=0)

    def _begin_loading(self, worker: WorkerRecord, model: str) -> None:
        """Ask a worker to load a model. The call ends with the worker's channel at the latest."""
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
