"""Requests in a closed loop, each sent when an earlier one is answered, or in an open loop, sent by the clock.

In a closed loop a server that stalls is sent nothing meanwhile, so that a stall costs one sample for each caller
however long it lasts: coordinated omission (Tene, How NOT to Measure Latency). In an open loop requests have their
turns by the clock, and each latency counts from that turn, also where the request was sent late.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
import numpy as np

from zoofleet._bench.modes import Arrivals, Mode
from zoofleet._bench.senders import Calls, Jobs, Sender, Streams
from zoofleet._bench.summary import Sample, Summary
from zoofleet._client.async_client import AsyncClient
from zoofleet._client.items import ItemSource
from zoofleet._values.results import Result
from zoofleet._values.tasks import Task
from zoofleet._wire.status import grpc_code
from zoofleet.errors import InvalidArgumentError, ZoofleetError

__all__ = ["Load", "run", "sender_of"]

_AFTER_ERROR: Final = 0.1
"""Seconds that a caller of a closed loop rests after an error: a server that refuses at once is not to be stormed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The load to put on a server.

    Attributes:
        mode: what a request is: a call with one item, an item of a long stream, or a job.
        rate: requests a second, for an open loop. None for a closed one.
        arrivals: when the requests of an open loop have their turns.
        concurrency: requests on the way at once, 1 or more: how many callers a closed loop has, or the most that an
            open loop may have, whose further requests wait. None for no limit, which a closed loop must have.
        duration: seconds of sending after the warm-up, more than 0.
        count: number of requests after the warm-up, 1 or more, where that comes first. None for no limit.
        warmup: seconds of sending before anything counts.
        timeout: seconds after which a request that is not answered fails with DEADLINE_EXCEEDED, more than 0.
        streams: streams that requests are spread over in the mode STREAM, 1 or more.
        job_items: items of a job in the mode JOBS, 1 or more.
        seed: of the arrivals.

    Raises:
        InvalidArgumentError: a value is out of range.
    """

    mode: Mode = Mode.CALLS
    rate: float | None = None
    arrivals: Arrivals = Arrivals.POISSON
    concurrency: int | None = None
    duration: float = 10.0
    count: int | None = None
    warmup: float = 2.0
    timeout: float = 30.0
    streams: int = 1
    job_items: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rate", "duration", "timeout"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise InvalidArgumentError(f"{name} {value}; accepted: more than 0")
        for name in ("concurrency", "count", "streams", "job_items"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidArgumentError(f"{name} {value}; accepted: 1 or more")
        if not 0 <= self.warmup < float("inf"):
            raise InvalidArgumentError(f"warmup {self.warmup}; accepted: 0 or more")
        if self.rate is None and self.concurrency is None:
            raise InvalidArgumentError("a load without a rate; it needs a concurrency")

    def turns(self, rate: float) -> Iterator[float]:
        """Yield when each of `rate` requests a second has its turn, in seconds from the start of the warm-up."""
        rng = np.random.default_rng(self.seed)
        turn, gap = 0.0, 1 / rate
        while True:
            yield turn
            turn += rng.exponential(gap) if self.arrivals is Arrivals.POISSON else gap


def sender_of(client: AsyncClient, task: Task, media: Sequence[ItemSource], load: Load) -> Sender:
    """Return what sends the requests of a load.

    Args:
        client: a client with `retry_timeout=0`, so that errors are seen.
        task: what to run.
        media: what to run it on, in turn; at least one.
        load: the load.
    """
    if load.mode is Mode.STREAM:
        return Streams(client, task, media, load.streams)
    if load.mode is Mode.JOBS:
        return Jobs(client, task, media, load.job_items)
    return Calls(client, task, media)


async def run(
    sender: Sender, load: Load, *, stop: asyncio.Event | None = None, ahead: Callable[[], None] | None = None
) -> Summary:
    """Put a load on a server, and say how it did.

    Args:
        sender: what sends the requests. It is closed at the end.
        load: the load.
        stop: ends the load when it is set; what has been answered counts.
        ahead: called when a first request has been answered, which goes ahead without a limit on its time, so that the
            model is loaded before anything counts. None for no such request.

    Raises:
        ZoofleetError: the request ahead failed.
    """
    stopped = asyncio.create_task((stop or asyncio.Event()).wait())
    try:
        if ahead is not None:
            first = asyncio.create_task(_ahead(sender))
            if not await _ends(first, stopped):
                return _Test(sender, load).summary(is_cut_short=True)
            ahead()
        test = _Test(sender, load)
        is_whole = await _ends(asyncio.create_task(test.run()), stopped)
        return test.summary(is_cut_short=not is_whole)
    finally:
        await _cancel(stopped)
        await sender.close()


async def _ends(task: asyncio.Task[None], stopped: asyncio.Task[Any]) -> bool:
    """Wait for a task, or cancel it when `stopped` has ended first. Return whether it came to its end."""
    await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
        return True
    await _cancel(task)
    return False


async def _ahead(sender: Sender) -> None:
    for result in await sender.send(0):
        if result.error is not None:
            raise result.error


async def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


class _Test:
    """One run of a load."""

    def __init__(self, sender: Sender, load: Load) -> None:
        self._sender = sender
        self._load = load
        self._samples: list[Sample] = []
        self._lags: list[float] = []
        self._turn = 0
        self._room = asyncio.Semaphore(load.concurrency) if load.concurrency is not None else None
        self._start = time.perf_counter()
        self._measured_from = self._start + load.warmup
        self._until = self._measured_from + load.duration
        self._left = load.count
        self._cpu: tuple[float, float] | None = None
        """CPU seconds of this process when the warm-up ended, and when that was."""
        self._sending_ended: float | None = None

    async def run(self) -> None:
        meter = asyncio.create_task(self._measure_cpu())
        try:
            if self._load.rate is not None:
                await self._send_by_the_clock(self._load.rate)
            else:
                async with asyncio.TaskGroup() as callers:
                    for _ in range(self._load.concurrency or 1):
                        callers.create_task(self._caller())
        finally:
            await _cancel(meter)

    async def _measure_cpu(self) -> None:
        await asyncio.sleep(self._measured_from - time.perf_counter())
        self._cpu = time.process_time(), time.perf_counter()

    def _may_send(self, now: float) -> bool:
        """Whether a request may still be sent whose turn is now; it counts as sent."""
        if now >= self._until or self._left == 0:
            self._sending_ended = self._sending_ended or min(now, self._until)
            return False
        if self._left is not None and now >= self._measured_from:
            self._left -= 1
        return True

    async def _caller(self) -> None:
        while self._may_send(now := time.perf_counter()):
            sample = await self._request(now)
            if sample.errors and not sample.precisions:
                await asyncio.sleep(_AFTER_ERROR)

    async def _send_by_the_clock(self, rate: float) -> None:
        async with asyncio.TaskGroup() as requests:
            for turn in self._load.turns(rate):
                intended = self._start + turn
                if not self._may_send(intended):
                    break
                # Requests whose turn has passed already go out one after the other, without a look at the clock: what
                # the client is late by is in their latencies. But the answers must get their share of the event loop.
                await asyncio.sleep(max(intended - time.perf_counter(), 0))
                requests.create_task(self._request_in_turn(intended))

    async def _request_in_turn(self, intended: float) -> None:
        if intended >= self._measured_from:
            self._lags.append(time.perf_counter() - intended)
        if self._room is None:
            await self._request(intended)
        else:
            async with self._room:
                await self._request(intended)

    async def _request(self, intended: float) -> Sample:
        turn, self._turn = self._turn, self._turn + 1
        sent = intended if self._load.rate is None else time.perf_counter()
        results: Sequence[Result] = ()
        errors: list[str] = []
        try:
            async with asyncio.timeout(self._load.timeout):
                results = await self._sender.send(turn)
        except (TimeoutError, ZoofleetError) as error:
            errors.append(_code(error))
        errors += [_code(result.error) for result in results if result.error is not None]
        precisions = tuple(result.precision for result in results if result.error is None)
        sample = Sample(intended, sent, time.perf_counter(), precisions, tuple(errors))
        if intended >= self._measured_from:
            self._samples.append(sample)
        return sample

    def summary(self, *, is_cut_short: bool) -> Summary:
        now = time.perf_counter()
        cpu = 0.0
        if self._cpu is not None:
            used, since = self._cpu
            cpu = (time.process_time() - used) / max(now - since, 1e-9)
        return Summary.of(
            self._samples,
            began=min(self._measured_from, now),
            ended=self._sending_ended or min(now, self._until),
            lags=self._lags,
            asked_rate=self._load.rate,
            client_cpu=cpu,
            is_cut_short=is_cut_short,
        )


def _code(error: Exception) -> str:
    """Return the name of the gRPC status code of an error."""
    return grpc_code(error).name if isinstance(error, ZoofleetError) else grpc.StatusCode.DEADLINE_EXCEEDED.name
