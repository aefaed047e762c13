"""What is looked at once the faults have stopped: every job, the fleet, what is left over, and the logs."""

from __future__ import annotations

import asyncio
import random
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Coroutine
from contextlib import aclosing, suppress
from typing import Any, Final

import grpc
from tests.chaos import checks
from tests.chaos.cluster import HEARTBEAT_TIMEOUT, UPLOAD_TIMEOUT, Cluster
from tests.chaos.load import Ledger, Record
from tests.chaos.plans import ITEM_ID, Answer, answer_of, make_plan

from zoofleet import AsyncClient, Job, Task
from zoofleet._wire.channels import CHANNEL_OPTIONS
from zoofleet.errors import JobNotFoundError, ZoofleetError
from zoofleet.v1 import jobs_pb2, jobs_pb2_grpc

CALM: Final = 90.0
"""Seconds within which all jobs must end once the faults have stopped."""
FORGET: Final = 20.0
"""Seconds within which nothing must be left over once all jobs are deleted."""

_GONE_SHOWN: Final = 200
_PAUSE: Final = 0.2
_TRIES: Final = 10


class Inspection:
    """The end of a run.

    Args:
        cluster: whole again, or about to be.
        ledger: what the clients did and saw.
        rng: chooses cursors and items.
    """

    def __init__(self, cluster: Cluster, ledger: Ledger, rng: random.Random) -> None:
        self._cluster = cluster
        self._ledger = ledger
        self._rng = rng
        # Past the proxies, and through both schedulers.
        self._one, self._other = (AsyncClient(address, retry_timeout=20) for address in cluster.scheduler_addresses)

    async def run(self) -> None:
        """Look at everything."""
        try:
            for client in (self._one, self._other):
                await client.wait_ready(30)
                await self._probe(client)
            began = time.monotonic()
            jobs = await self._settle()
            self._ledger.counts["seconds until all had ended"] = round(time.monotonic() - began)
            self._ledger.counts["jobs in Redis at the end"] = len(jobs)
            await self._check_jobs(jobs)
            await self._check_records({job.name for job in jobs})
            await self._eventually(self._check_fleet, 3 * HEARTBEAT_TIMEOUT)
            await self._delete(jobs)
            await self._eventually(self._check_leftovers, FORGET + UPLOAD_TIMEOUT)
        except (ZoofleetError, grpc.RpcError) as error:
            self._ledger.violations.append(f"AFTER CALM: {type(error).__name__}: {error}")
        finally:
            await self._one.close()
            await self._other.close()
        for scheduler in self._cluster.schedulers:
            lines = scheduler.log.read_text(errors="replace").splitlines()
            self._ledger.violations += checks.check_log(str(scheduler.log), lines)

    async def _probe(self, client: AsyncClient) -> None:
        """Create one more job at a scheduler that must work again."""
        plan = make_plan(f"j999x{len(self._ledger.records)}", self._rng)
        tasks = [Task(model) for model in plan.models]
        record = self._ledger.records[plan.name] = Record(plan, time.monotonic())
        record.name = (await client.create_job(plan.sources(), tasks, request_id=plan.request_id)).name
        record.acknowledged = time.monotonic()

    async def _settle(self) -> list[Job]:
        """Wait until all jobs have ended, within bounds, and return all."""
        deadline = time.monotonic() + CALM
        while True:
            jobs = [job async for job in self._one.list_jobs()]
            if all(job.finished for job in jobs) or time.monotonic() > deadline:
                return jobs
            await asyncio.sleep(_PAUSE)

    async def _check_jobs(self, jobs: list[Job]) -> None:
        names = defaultdict(set)
        by_name = {record.name: record for record in self._ledger.records.values() if record.name}
        for job in jobs:
            async with aclosing(self._one.read_results(job.name, follow=False)) as results:
                answers = [answer_of(result) async for result in results]
            record = by_name.get(job.name) or self._unacknowledged(answers)
            if record is None:
                self._ledger.violations.append(f"UNKNOWN JOB: {job.name}, {job.state.name}, {answers[:3]}")
                continue
            names[record.plan.name].add(job.name)
            self._check_job(record, job, answers)
            if not job.finished:
                self._ledger.violations += await self._describe(job.name)
            await self._check_cursor(record.plan.name, job.name, len(answers))
        self._ledger.violations += checks.check_doubles(names)

    def _unacknowledged(self, answers: list[Answer]) -> Record | None:
        """The record of a job whose client left before it learned the job's name."""
        for answer in answers:
            if match := ITEM_ID.fullmatch(answer.item_id):
                return self._ledger.records.get(match[1])
        return None

    def _check_job(self, record: Record, job: Job, answers: list[Answer]) -> None:
        now = time.monotonic()
        self._ledger.violations += checks.check_job(
            record.plan,
            job,
            answers,
            cancelling=record.cancelling,
            excused=lambda item_id: self._cluster.excuse(item_id, record.began, now),
        )

    async def _check_cursor(self, plan: str, name: str, count: int) -> None:
        """Read a job once more through the other scheduler, whole and from a position on."""
        async with grpc.aio.insecure_channel(self._cluster.scheduler_addresses[1], CHANNEL_OPTIONS) as channel:
            whole = await _read_patiently(channel, name, "")
            if len(whole) != count:
                self._ledger.violations.append(f"{plan}: READ AGAIN: {len(whole)} results, before {count}")
            if whole:
                position = self._rng.randint(1, len(whole))
                resumed = await _read_patiently(channel, name, whole[position - 1][2])
                shown = [entry[:2] for entry in whole], position, [entry[:2] for entry in resumed]
                self._ledger.violations += checks.check_cursor(plan, *shown)

    async def _check_records(self, names: set[str]) -> None:
        """Check that the jobs are there that must be, and that those that Redis lost are NOT_FOUND."""
        emptyings = self._cluster.emptyings
        kept = [record for record in self._ledger.records.values() if record.name and not record.deleting]
        for record in kept:
            found = record.name in names
            window = record.name, record.began, record.acknowledged, emptyings
            self._ledger.violations += checks.check_existence(*window, found=found)
        for record in [record for record in kept if record.name not in names][:_GONE_SHOWN]:
            try:
                await self._other.get_job(record.name)
                self._ledger.violations.append(f"{record.plan.name}: {record.name} is not listed, yet it is there")
            except JobNotFoundError:
                self._ledger.counts["lost with Redis's data, NOT_FOUND"] += 1

    async def _delete(self, jobs: list[Job]) -> None:
        for job in jobs:
            if not job.finished:
                await self._one.cancel_job(job.name)
            await self._one.delete_job(job.name)

    async def _check_fleet(self) -> list[str]:
        problems = []
        for client in (self._one, self._other):
            inflight = {worker.name: worker.inflight_items async for worker in client.list_workers()}
            names = {f"workers/{name}" for name in self._cluster.worker_names}
            problems += checks.check_fleet(inflight, names)
        return problems

    async def _check_leftovers(self) -> list[str]:
        async with self._cluster.redis_client() as redis:
            content = {key.decode(): await _value(redis, key) async for key in redis.scan_iter(count=1000)}
        return checks.check_leftovers(content, self._cluster.worker_names)

    async def _describe(self, name: str) -> list[str]:
        """What Redis says of a job that does not end."""
        job = name.removeprefix("jobs/")
        found = []
        async with self._cluster.redis_client() as redis:
            async for key in redis.scan_iter(count=1000):
                value = await _value(redis, key)
                lease = isinstance(value, dict) and value.get("job") == job.encode()
                if key.startswith(f"{{zoofleet}}:job:{job}".encode()) or lease:
                    found.append(f"    {key.decode()} = {str(value)[:160]}")
        return ["\n".join([f"WHAT REDIS HAS OF {name}:", *sorted(found)])]

    async def _eventually(self, check: Callable[[], Coroutine[Any, Any, list[str]]], seconds: float) -> None:
        """Give a check time to find nothing."""
        deadline = time.monotonic() + seconds
        while (problems := await check()) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(_PAUSE)
        self._ledger.violations += problems


async def _read_patiently(channel: grpc.aio.Channel, name: str, cursor: str) -> list[tuple[str, int, str]]:
    """As `_read`, again where a busy machine makes Redis seem away."""
    for _ in range(_TRIES):
        with suppress(grpc.RpcError):
            return await _read(channel, name, cursor)
        await asyncio.sleep(1)
    return await _read(channel, name, cursor)


async def _read(channel: grpc.aio.Channel, name: str, cursor: str) -> list[tuple[str, int, str]]:
    """Results by the contract alone: item id, checksum, and the cursor after each."""
    jobs: Any = jobs_pb2_grpc.JobsStub(channel)
    results, checksum = [], 0
    async for response in jobs.ReadResults(jobs_pb2.ReadResultsRequest(name=name, cursor=cursor), timeout=30):
        payload = response.part if response.HasField("part") else response.result
        checksum = zlib.crc32(payload.SerializeToString(deterministic=True), checksum)
        if response.cursor:
            results.append((payload.item_id, checksum, response.cursor))
            checksum = 0
    return results


async def _value(redis: Any, key: bytes) -> object:
    """What stands under a key: text, or a list of members; hashes as fields."""
    kind = (await redis.type(key)).decode()
    if kind == "string":
        return (await redis.get(key))[:200].decode("latin-1")
    if kind == "hash":
        return {name.decode("latin-1"): value[:60] for name, value in (await redis.hgetall(key)).items()}
    read = {"set": redis.smembers, "list": lambda k: redis.lrange(k, 0, 99), "zset": lambda k: redis.zrange(k, 0, 99)}
    if kind in read:
        return sorted(member.decode("latin-1") for member in await read[kind](key))
    return kind
