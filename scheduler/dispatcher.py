"""Brings queued chunks to workers and their results back: one `WorkerLink` for each live worker, and the sweep.

Nothing here polls for work: links wake on events of the queue, of the fleet and of their own streams. The sweep renews
leases, takes back expired ones, and wakes all links every second or so in case an event was lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from zoofleet.errors import ZoofleetError
from zoofleet.scheduler.config import SchedulerConfig
from zoofleet.scheduler.fleet import Fleet
from zoofleet.scheduler.queue import Queue
from zoofleet.scheduler.records import Cause, Reaped
from zoofleet.scheduler.store import Store
from zoofleet.scheduler.worker_link import WorkerLink

_log: Final = logging.getLogger(__name__)

_NOTHING: Final = Reaped(0, 0, 0, 0, more=False)


class Dispatcher:
    """Keeps every live worker supplied.

    Args:
        queue: the queue that chunks come from and results go to.
        fleet: the live workers.
        store: the connection to Redis, whose events wake the links.
        config: the scheduler's limits and times.
    """

    def __init__(self, queue: Queue, fleet: Fleet, store: Store, config: SchedulerConfig) -> None:
        self._queue = queue
        self._fleet = fleet
        self._store = store
        self._config = config
        self._links: dict[str, WorkerLink] = {}
        self._closing: dict[WorkerLink, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Dispatch until cancelled. Call `stop` afterwards."""
        # A worker lives as long as its heartbeats come and its stream is open; its leases are renewed well within time.
        pause = min(self._config.sweep_interval, self._config.lease / 3)
        while not await self._try(self._queue.migrate):  # noqa: ASYNC110 - what it waits for is Redis
            await asyncio.sleep(pause)
        self._fleet.on_change = self._follow_fleet
        self._follow_fleet()
        with self._store.listening("work", self._on_work), self._store.listening("cancel", self._on_cancel):
            while True:
                await self._try(self._sweep)
                await asyncio.sleep(pause)

    async def stop(self, timeout: float) -> None:
        """Claim no more, wait up to `timeout` seconds for chunks in flight, and hand the rest back."""
        self._fleet.on_change = lambda: None
        await asyncio.gather(*(link.drain(timeout) for link in self._links.values()))
        for link in self._closing:
            link.abandon()
        await asyncio.gather(*self._closing.values())

    async def _try(self, step: Callable[[], Awaitable[None]]) -> bool:
        """Take a step in Redis, and return whether it succeeded."""
        try:
            await step()
        except ZoofleetError as error:
            _log.warning("the queue cannot be swept: %s", error)
            return False
        return True

    async def _sweep(self) -> None:
        leases = [held for link in self._links.values() for held in link.leases]
        if leases:
            lost = await self._queue.renew(leases)
            for link in self._links.values():
                link.drop(lost)
        await self._store.check()
        # Right after an outage all leases have expired: replicas that live get the time to renew theirs.
        while self._store.is_settled and (reaped := await self._queue.reap()) != _NOTHING:
            _log.info("swept: %s", reaped)
            if not reaped.more:
                break
        for link in self._links.values():
            link.flush()
            link.close_idle()
            link.wake()

    def _follow_fleet(self) -> None:
        for worker_id in self._links.keys() - self._fleet.view.keys():
            self._close(worker_id)
        for worker_id, worker in self._fleet.view.items():
            link = self._links.get(worker_id)
            if link is not None and link.worker.process != worker.process:
                self._close(worker_id)
                link = None
            if link is None:
                self._links[worker_id] = WorkerLink(worker, self._queue, self._config, self._fleet.able)
            else:
                link.update(worker)

    def _close(self, worker_id: str) -> None:
        link = self._links.pop(worker_id)
        # A worker that drained has left in good order; one that fell silent may have died of the items it had.
        task = asyncio.create_task(link.close(Cause.INNOCENT if link.worker.draining else Cause.DIED))
        self._closing[link] = task
        task.add_done_callback(lambda _: self._closed(link, task))

    def _closed(self, link: WorkerLink, task: asyncio.Task[None]) -> None:
        del self._closing[link]
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("the link to %s ended with a fault", link.worker.name, exc_info=error)

    def _on_work(self, _: str) -> None:
        for link in self._links.values():
            link.wake()

    def _on_cancel(self, job_id: str) -> None:
        # Now, and not when the sweep finds the leases gone: by then the stream may carry other work as well.
        for link in self._links.values():
            link.drop_job(job_id)
