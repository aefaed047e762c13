"""Clients of a cluster under faults: they create, follow, cancel, repeat, dawdle, vanish, and check what they see."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from tests.chaos import checks
from tests.chaos.cluster import UPLOAD_TIMEOUT, Cluster
from tests.chaos.plans import Answer, Plan, answer_of, make_plan

from zoofleet import AsyncClient, Item, Job, JobState, Task
from zoofleet.errors import (
    AbortedError,
    JobNotFoundError,
    ResourceExhaustedError,
    UnavailableError,
    ZoofleetError,
)
from zoofleet.v1 import jobs_pb2, jobs_pb2_grpc

BEHAVIOURS: Final = {
    "follow": 12,
    "cancel": 3,
    "vanish in upload": 2,
    "dawdle in upload": 3,
    "vanish in read": 2,
    "deadline": 1,
    "repeat": 2,
    "leave": 2,
    "poison": 2.5,
}
"""How often clients do what, relative to each other."""

_RETRY: Final = 20.0
_PATIENCE: Final = 60.0
"""Seconds for which a client follows a job under faults; the end of the run looks at what it leaves."""

_EXPECTED: Final = (UnavailableError, AbortedError, JobNotFoundError, ResourceExhaustedError)
"""What a client may be told, where faults are, of a job that it was not promised."""


@dataclass(slots=True)
class Record:
    """What became of a plan.

    Attributes:
        plan: the plan.
        began: when its first `CreateJob` began.
        name: the job's name once acknowledged.
        acknowledged: when it was.
        cancelling: whether anybody asked to cancel it.
        deleting: whether anybody asked to delete it.
    """

    plan: Plan
    began: float
    name: str = ""
    acknowledged: float = 0.0
    cancelling: bool = False
    deleting: bool = False


@dataclass
class Ledger:
    """What all clients did and saw.

    Attributes:
        records: by the plans' names.
        violations: found so far.
        counts: of jobs, items, results and what clients did.
        longest_stall: the longest time without a result while somebody waited for one.
    """

    records: dict[str, Record] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    longest_stall: float = 0.0
    _waiting: int = 0
    _last: float = 0.0

    def wait(self, change: int) -> None:
        """Note that one reader more, or less, waits for results."""
        now = time.monotonic()
        if self._waiting == 0:
            self._last = now
        self.longest_stall = max(self.longest_stall, now - self._last)
        self._waiting += change

    def progress(self) -> None:
        """Note a result."""
        now = time.monotonic()
        self.longest_stall = max(self.longest_stall, now - self._last)
        self._last = now
        self.counts["results read"] += 1


class SlowItems:
    """A plan's items, with a pause after a part of them has been stored; without it when they are sent again.

    Args:
        plan: the plan.
        pause: seconds.
    """

    def __init__(self, plan: Plan, pause: float) -> None:
        self._plan = plan
        self._pause = pause

    async def __aiter__(self) -> AsyncIterator[Item]:
        pause, self._pause = self._pause, 0.0
        for place, item in enumerate(self._plan.sources()):
            if place == 12:
                await asyncio.sleep(pause)
            yield item


class Client:
    """A client that does one thing after another.

    Args:
        number: its own.
        cluster: whom it talks to.
        ledger: where it writes.
        rng: decides for it.
    """

    def __init__(self, number: int, cluster: Cluster, ledger: Ledger, rng: random.Random) -> None:
        self._number = number
        self._cluster = cluster
        self._ledger = ledger
        self._rng = rng
        self._jobs = 0
        self._address = cluster.fronts[number % 2].address

    async def run(self) -> None:
        """Go on until cancelled."""
        async with AsyncClient(self._address, retry_timeout=_RETRY) as client:
            while True:
                behaviour = self._rng.choices(list(BEHAVIOURS), list(BEHAVIOURS.values()))[0]
                try:
                    await self._behave(client, behaviour)
                except _EXPECTED as error:
                    self._ledger.counts[f"told {type(error).__name__}"] += 1
                except ZoofleetError as error:
                    self._ledger.violations.append(f"TOLD: {behaviour}: {type(error).__name__}: {error}")

    async def _behave(self, client: AsyncClient, behaviour: str) -> None:
        self._ledger.counts[behaviour] += 1
        kind = {"poison": "poison", "dawdle in upload": "padded", "vanish in upload": "padded"}.get(behaviour, "mixed")
        self._jobs += 1
        plan = make_plan(f"j{self._number}x{self._jobs}", self._rng, kind)
        record = self._ledger.records[plan.name] = Record(plan, time.monotonic())
        if behaviour == "vanish in upload":
            creating = asyncio.create_task(self._create(client, record, SlowItems(plan, self._rng.uniform(0, 1))))
            await self._vanish(creating, self._rng.uniform(0, 1))
            return
        # Shortly before or after the upload expires, or any time before.
        dawdling = SlowItems(plan, self._rng.choice([UPLOAD_TIMEOUT, UPLOAD_TIMEOUT / 2]) * self._rng.uniform(0.9, 1.1))
        await self._create(client, record, dawdling if behaviour == "dawdle in upload" else plan.sources())
        if behaviour == "leave":
            return
        if behaviour == "cancel":
            await asyncio.sleep(self._rng.uniform(0, 1))
            record.cancelling = True
            with suppress(JobNotFoundError):
                await client.cancel_job(record.name)
        if behaviour == "vanish in read":
            await self._vanish(asyncio.create_task(self._read(client, record.name)), self._rng.uniform(0, 0.5))
        if behaviour == "deadline":
            await self._exceed_deadline(record.name)
        if behaviour == "repeat":
            first = record.name
            await self._create(client, record, plan.sources())
            if not checks.may_be_gone(record.began, self._cluster.emptyings):
                self._ledger.violations += checks.check_repeat(plan.name, first, record.name)
        await self._follow(client, record)

    async def _create(self, client: AsyncClient, record: Record, items: list[Item] | SlowItems) -> None:
        plan = record.plan
        tasks = [Task(model) for model in plan.models]
        job = await client.create_job(items, tasks, tenant=plan.tenant, request_id=plan.request_id)
        self._ledger.counts["jobs acknowledged"] += 1
        self._ledger.counts["items"] += len(plan.items)
        record.name, record.acknowledged = job.name, time.monotonic()

    async def _follow(self, client: AsyncClient, record: Record) -> None:
        """Read a job's results as they come, check them, and mostly delete it."""
        self._ledger.wait(1)
        try:
            async with asyncio.timeout(_PATIENCE):
                answers = await self._read(client, record.name)
                job = await client.get_job(record.name)
        except TimeoutError:
            self._ledger.counts["left unfinished"] += 1
            return
        except JobNotFoundError:
            emptyings = self._cluster.emptyings
            self._ledger.violations += checks.check_existence(
                record.name, record.began, record.acknowledged, emptyings, found=False
            )
            return
        finally:
            self._ledger.wait(-1)
        self._ledger.violations += self._check(record, job, answers)
        if self._rng.random() < 0.7:
            record.deleting = True
            await client.delete_job(record.name)

    def _check(self, record: Record, job: Job, answers: list[Answer]) -> list[str]:
        def excused(item_id: str) -> bool:
            return self._cluster.excuse(item_id, record.began, time.monotonic())

        if checks.may_be_gone(record.began, self._cluster.emptyings):  # perhaps between two reads
            cancelled = job.state is JobState.CANCELLED
            return checks.check_results(record.plan, answers, cancelled=cancelled, complete=False, excused=excused)
        return checks.check_job(record.plan, job, answers, cancelling=record.cancelling, excused=excused)

    async def _read(self, client: AsyncClient, name: str) -> list[Answer]:
        answers = []
        async for result in client.read_results(name):
            answers.append(answer_of(result))
            self._ledger.progress()
        return answers

    async def _vanish(self, doing: asyncio.Task[Any], seconds: float) -> None:
        """Leave something in the middle."""
        try:
            await asyncio.wait({doing}, timeout=seconds)
        finally:
            doing.cancel()
        await asyncio.wait({doing})
        if not doing.cancelled():
            doing.result()

    async def _exceed_deadline(self, name: str) -> None:
        async with grpc.aio.insecure_channel(self._address) as channel:
            jobs: Any = jobs_pb2_grpc.JobsStub(channel)
            with suppress(grpc.RpcError):
                async for _ in jobs.ReadResults(jobs_pb2.ReadResultsRequest(name=name, follow=True), timeout=0.2):
                    pass
            with suppress(grpc.RpcError):
                await jobs.GetJob(jobs_pb2.GetJobRequest(name=name), timeout=0.005)
