"""Faults at random moments, the same ones for the same seed."""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from tests.chaos.cluster import Child, Cluster
from tests.chaos.proxy import FaultProxy

WEIGHTS: Final = {
    "kill worker": 4,
    "stop worker": 3,
    "restart worker": 2,
    "cut worker": 4,
    "refuse worker": 2,
    "stall worker": 2,
    "delay worker": 1,
    "kill scheduler": 2,
    "stop scheduler": 3,
    "restart scheduler": 1,
    "cut scheduler": 2,
    "stall scheduler": 1,
    "cut redis": 3,
    "stall redis": 2,
    "delay redis": 1,
    "restart redis": 1.5,
    "flush redis": 1,
    "wipe redis": 1,
}
"""How often each fault happens, relative to the others."""

_LONGEST: Final = 8.0
_DELAY: Final = 0.05


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Attributes:
        pause: seconds since the one before.
        kind: one of WEIGHTS.
        target: which worker, scheduler or connection.
        seconds: how long it lasts, where it lasts.
    """

    pause: float
    kind: str
    target: int
    seconds: float


def schedule(rng: random.Random, mean_pause: float) -> Iterator[Fault]:
    """Faults without end."""
    while True:
        kind = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        # From a blink to longer than heartbeats and leases, mostly short.
        seconds = _LONGEST * (0.1 / _LONGEST) ** rng.random()
        yield Fault(rng.expovariate(1 / mean_pause), kind, rng.randrange(6), seconds)


class Chaos:
    """Brings faults upon a cluster.

    Args:
        cluster: the cluster.
        rng: chooses the faults.
        mean_pause: seconds between two faults.
    """

    def __init__(self, cluster: Cluster, rng: random.Random, mean_pause: float) -> None:
        self.counts: Counter[str] = Counter()
        self._cluster = cluster
        self._faults = schedule(rng, mean_pause)
        self._calm = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()

    async def run(self, seconds: float) -> None:
        """Bring faults for so long, then end all that last."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for fault in self._faults:
                    await asyncio.sleep(fault.pause)
                    self._running.add(asyncio.create_task(self._bring(fault)))
        self._calm.set()
        for ended in await asyncio.gather(*self._running, return_exceptions=True):
            if isinstance(ended, BaseException):
                self._cluster.violations.append(f"HARNESS: a fault failed: {ended!r}")

    def _note(self, fault: Fault) -> None:
        self.counts[fault.kind] += 1
        self._cluster.note(f"{fault.kind} {fault.target}, {fault.seconds:.1f} s where it lasts")

    async def _bring(self, fault: Fault) -> None:
        what, whom = fault.kind.split()
        if whom == "redis":
            await self._bring_redis(what, fault)
            return
        children, proxies = {
            "worker": (self._cluster.workers, self._cluster.worker_proxies),
            "scheduler": (self._cluster.schedulers, self._cluster.fronts),
        }[whom]
        number = fault.target % len(children)
        child = children[number]
        if child.busy.locked() or child.ended is not None:
            return
        async with child.busy:
            self._note(fault)
            if whom == "scheduler":
                self._cluster.disturb(number, fault.seconds)
            elif what in ("stop", "refuse", "stall"):
                self._cluster.silence(fault.seconds)
            if what in ("kill", "stop", "restart"):
                await self._bring_process(what, child, fault.seconds)
            else:
                await self._bring_connection(what, proxies[number], fault.seconds)

    async def _bring_process(self, what: str, child: Child, seconds: float) -> None:
        if what == "restart":
            await self._cluster.terminate(child)
        elif what == "kill":
            child.send(signal.SIGKILL)
            if child.kind == "worker":
                self._cluster.blame(child.number)
            await child.wait(5)
        else:
            child.send(signal.SIGSTOP)
            await self._last(seconds)
            child.send(signal.SIGCONT)

    async def _bring_redis(self, what: str, fault: Fault) -> None:
        if what in ("cut", "stall", "delay"):
            self._note(fault)
            number = fault.target % 2
            self._cluster.disturb(number, fault.seconds)
            await self._bring_connection(what, self._cluster.redis_proxies[number], fault.seconds)
        elif not self._cluster.redis_busy.locked():
            async with self._cluster.redis_busy:
                self._note(fault)
                await self._empty_or_restart(what)
                if what != "restart" and fault.target % 2:
                    # Numbers that Redis gave out start over: twice in a row, old and new ones are the same.
                    await self._last(fault.seconds)
                    await self._empty_or_restart(what)

    async def _empty_or_restart(self, what: str) -> None:
        if what == "flush":
            await self._cluster.flush_redis()
        else:
            await self._cluster.restart_redis(empty=what == "wipe")

    async def _bring_connection(self, what: str, proxy: FaultProxy, seconds: float) -> None:
        if what in ("cut", "refuse"):
            proxy.refusing = what == "refuse"
            proxy.cut()
        elif what == "stall":
            proxy.flowing.clear()
        else:
            proxy.delay = _DELAY
        if what != "cut":
            await self._last(seconds)
        proxy.heal()

    async def _last(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._calm.wait()
