"""The workers of the fleet: the registry in Redis, this replica's view of it, and a channel to each worker."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import grpc
import grpc.aio

from zoofleet._catalog import ModelName
from zoofleet._wire.channels import CHANNEL_OPTIONS
from zoofleet._wire.names import worker_name
from zoofleet.errors import WorkerNotFoundError, ZoofleetError
from zoofleet.scheduler import keys
from zoofleet.scheduler.config import SchedulerConfig
from zoofleet.scheduler.store import Store
from zoofleet.v1 import fleet_pb2

_log: Final = logging.getLogger(__name__)

_RETRY: Final = 0.2
"""Seconds after which the registry is read again where it could not be."""


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """A worker as of its last heartbeat.

    Attributes:
        worker_id: its name without `workers/`.
        instance: the id of its process; `worker_id` where it registered without one.
        address: the host:port at which it listens.
        window: the most items that it takes at once, 1 or more.
        free_bytes: the memory that further models may take.
        inflight_items: the items that it was working on.
        draining: whether it takes no more work, by its own will or an operator's.
        builders: the builders that it can load.
        loaded: the models in its memory, each with its bytes.
        beat: the time of the heartbeat, in milliseconds since the epoch.
        message: the same worker as clients see it.
    """

    worker_id: str
    instance: str
    address: str
    window: int
    free_bytes: int
    inflight_items: int
    draining: bool
    builders: frozenset[str]
    loaded: Mapping[str, int]
    beat: int
    message: fleet_pb2.Worker

    @classmethod
    def parse(cls, worker_id: str, fields: Mapping[bytes, bytes]) -> WorkerRecord:
        """Make a record from the fields of the worker's hash."""
        message = fleet_pb2.Worker.FromString(fields[b"info"])
        status = fleet_pb2.WorkerStatus.FromString(fields[b"status"])
        draining = status.draining or b"drain" in fields
        beat = int(fields[b"beat"])
        loaded = {model.model: model.memory_bytes for model in status.loaded_models}
        message.name = worker_name(worker_id)
        message.status.CopyFrom(status)
        message.state = fleet_pb2.Worker.STATE_DRAINING if draining else fleet_pb2.Worker.STATE_READY
        message.register_time.FromMilliseconds(int(fields[b"register"]))
        message.heartbeat_time.FromMilliseconds(beat)
        return cls(
            worker_id=worker_id,
            instance=fields.get(b"instance", worker_id.encode()).decode(),
            address=message.address,
            window=max(message.max_inflight_items, 1),
            free_bytes=message.memory_budget_bytes - sum(loaded.values()),
            inflight_items=status.inflight_items,
            draining=draining,
            builders=frozenset(message.builders),
            loaded=MappingProxyType(loaded),
            beat=beat,
            message=message,
        )

    @property
    def name(self) -> str:
        """The resource name, `workers/{worker}`."""
        return worker_name(self.worker_id)

    @property
    def process(self) -> tuple[str, str]:
        """What tells the worker's process, and where that listens, from an earlier one of the same name."""
        return self.instance, self.address


class Fleet:
    """The registry, and this replica's view of it, so that requests are routed without asking Redis.

    Args:
        store: the connection to Redis.
        config: the times of heartbeats and sweeps.
    """

    def __init__(self, store: Store, config: SchedulerConfig) -> None:
        self._store = store
        self._config = config
        self._timeout_ms = round(config.heartbeat_timeout * 1000)
        self._workers: dict[str, WorkerRecord] = {}
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._changed: set[str] = set()
        self._wake = asyncio.Event()
        self._closing: set[asyncio.Task[None]] = set()
        self.on_change: Callable[[], None] = lambda: None
        """Called after each change of the view."""

    @property
    def view(self) -> Mapping[str, WorkerRecord]:
        """The live workers by id, as this replica last saw them."""
        return MappingProxyType(self._workers)

    def able(self, *models: ModelName) -> list[WorkerRecord]:
        """Return the live workers that might run all of the models, without those that drain."""
        builders = {model.builder for model in models}
        return [worker for worker in self._workers.values() if not worker.draining and builders <= worker.builders]

    async def register(self, worker_id: str, worker: fleet_pb2.Worker) -> None:
        """Register a worker, for the first time or again."""
        info = fleet_pb2.Worker()
        info.CopyFrom(worker)
        info.ClearField("status")
        same = await self._store.run(
            "register",
            worker_id,
            worker.instance_id or worker_id,
            info.SerializeToString(),
            worker.status.SerializeToString(),
            self._timeout_ms,
        )
        if same:
            _log.info("workers/%s registered at %s", worker_id, worker.address)
        else:
            _log.warning("workers/%s registered at %s in the place of another process", worker_id, worker.address)

    async def beat(self, worker_id: str, instance: str, status: fleet_pb2.WorkerStatus) -> bool:
        """Note a heartbeat, and return whether an operator wants the worker to drain.

        Raises:
            WorkerNotFoundError: the worker is not registered, or another process has taken its place.
        """
        drain: int = await self._store.run(
            "beat", worker_id, instance or worker_id, status.SerializeToString(), self._timeout_ms
        )
        if drain < 0:
            raise _not_found(worker_id)
        return bool(drain)

    async def unregister(self, worker_id: str, instance: str) -> None:
        """Take a worker out of the registry, unless another process is registered under its name."""
        await self._store.run("unregister", worker_id, instance or worker_id)
        _log.info("workers/%s unregistered", worker_id)

    async def drain(self, worker_id: str) -> WorkerRecord:
        """Mark a worker as draining, so that it gets no further work, and return it.

        Raises:
            WorkerNotFoundError: the worker is not registered.
        """
        if not await self._store.run("drain", worker_id):
            raise _not_found(worker_id)
        _log.info("workers/%s is to drain", worker_id)
        return await self.get(worker_id)

    async def get(self, worker_id: str) -> WorkerRecord:
        """Return a worker from the registry.

        Raises:
            WorkerNotFoundError: the worker is not registered.
        """
        fields = await self._store.call("HGETALL", keys.worker(worker_id))
        if not fields:
            raise _not_found(worker_id)
        return WorkerRecord.parse(worker_id, fields)

    async def read(self) -> dict[str, WorkerRecord]:
        """Return all workers of the registry by id."""
        workers = {}
        for name, flat in await self._store.run("workers"):
            fields = dict(zip(flat[::2], flat[1::2], strict=True))
            workers[name.decode()] = WorkerRecord.parse(name.decode(), fields)
        return workers

    def channel(self, worker_id: str) -> grpc.aio.Channel:
        """Return the open channel to a live worker, for calls of clients. Bulk work has channels of its own.

        Raises:
            WorkerNotFoundError: this replica sees no such worker.
        """
        if worker_id not in self._channels:
            raise _not_found(worker_id)
        return self._channels[worker_id]

    async def run(self) -> None:
        """Keep the view up to date until cancelled."""
        swept = -math.inf
        with self._store.listening("worker", self._note):
            while True:
                # Each beat is announced, but nobody announces a registration that has expired.
                if time.monotonic() - swept >= self._config.sweep_interval:
                    self._changed.add("")
                    swept = time.monotonic()
                try:
                    await self._refresh()
                except ZoofleetError as error:
                    self._changed.add("")
                    _log.warning("the fleet cannot be read: %s", error)
                    await asyncio.sleep(_RETRY)
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._config.sweep_interval):
                        await self._wake.wait()

    async def close(self) -> None:
        """Close all channels."""
        for worker_id in list(self._workers):
            self._drop(worker_id)
        await asyncio.gather(*self._closing)

    def _note(self, worker_id: str) -> None:
        self._changed.add(worker_id)
        self._wake.set()

    async def _refresh(self) -> None:
        changed, self._changed = self._changed, set()
        self._wake.clear()
        if "" in changed:
            await self._store.check()
            found = await self.read()
            gone = self._workers.keys() - found.keys()
        else:
            hashes = await self._store.call_many([("HGETALL", keys.worker(worker_id)) for worker_id in changed])
            rows = zip(changed, hashes, strict=True)
            found = {worker_id: WorkerRecord.parse(worker_id, fields) for worker_id, fields in rows if fields}
            gone = self._workers.keys() & changed - found.keys()
        if not self._store.is_settled:
            # During an outage registrations of live workers may have expired: they get the time to come back.
            gone = set()
        for worker_id in gone:
            self._drop(worker_id)
        for worker_id, worker in found.items():
            known = self._workers.get(worker_id)
            if known is not None and known.process != worker.process:
                self._drop(worker_id)
                known = None
            self._workers[worker_id] = worker
            if known is None:
                channel = grpc.aio.insecure_channel(worker.address, CHANNEL_OPTIONS)
                channel.get_state(try_to_connect=True)
                self._channels[worker_id] = channel
        self.on_change()

    def _drop(self, worker_id: str) -> None:
        del self._workers[worker_id]
        task = asyncio.create_task(self._channels.pop(worker_id).close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        _log.info("workers/%s has left the fleet", worker_id)


def _not_found(worker_id: str) -> WorkerNotFoundError:
    return WorkerNotFoundError(f"no live worker is named 'workers/{worker_id}'")
