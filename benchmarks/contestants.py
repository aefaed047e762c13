"""The contestants: each a way to have a model run over media, started for one model at one precision.

They are up together and take turns. What polls while it is idle is stopped between its turns.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import grpc
import psutil
from benchmarks.cluster import Cluster, free_port, process
from benchmarks.machine import Sampler
from benchmarks.rivals.engine import result_of, task_of
from benchmarks.rivals.grpc_server import NUMBER_BYTES, SERVICE

from zoofleet import Result
from zoofleet._bench.load import Load, run
from zoofleet._bench.senders import Calls, Jobs, Sender, Streams
from zoofleet._bench.summary import Summary
from zoofleet._local import child
from zoofleet._values.resources import PlanState
from zoofleet._values.tasks import Precision

CALLS: Final = 32
"""Calls at once: two batches of a classifier."""
STREAM_ITEMS: Final = 64
"""Items of a stream on their way at once: what Zoofleet's own client has."""
STARTS_WITHIN: Final = 1200.0
"""Seconds; a plan may have to be built."""
UNTIL_DONE: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Setup:
    """What all contestants are started with.

    Attributes:
        model: the model's name.
        precision: what it runs at.
        media: a folder of files.
        files: their bytes.
        threads: cores, which each contestant may fill.
        logs: a folder.
    """

    model: str
    precision: Precision
    media: Path
    files: Sequence[bytes]
    threads: int
    logs: Path

    def command(self, module: str, *arguments: str, threads: int | None = None) -> list[str]:
        given = (
            self.model,
            "--precision",
            self.precision.name,
            "--threads",
            str(threads or self.threads),
            "--media",
            str(self.media),
        )
        return [sys.executable, "-m", f"benchmarks.rivals.{module}", *given, *arguments]

    def environment(self, threads: int | None = None) -> dict[str, str]:
        return {"OMP_NUM_THREADS": str(threads or self.threads)}


@dataclass(frozen=True, slots=True)
class Turn:
    """What a turn gave: items a second, and seconds of each request at its percentiles where it has requests."""

    rate: float
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


class Contestant(ABC):
    """One of those who take turns.

    Attributes:
        name: in tables.
        ways: what it is measured by.
    """

    name: str
    ways: Sequence[str]

    @abstractmethod
    def roles(self, way: str) -> Mapping[str, Sequence[psutil.Process]]:
        """The processes that take part in one of the ways, by what they are."""

    @abstractmethod
    async def turn(self, way: str, count: int) -> Turn:
        """Run so many items in one of the ways."""

    @abstractmethod
    async def answers(self, count: int) -> list[Result]:
        """The results of the first so many media, in order."""

    @abstractmethod
    async def start(self) -> None:
        """Wait until the model is served at the precision."""

    def wake(self) -> None:  # noqa: B027 - most take no CPU while they wait
        """Get ready for a turn."""

    def rest(self) -> None:  # noqa: B027
        """Take no CPU until the next turn."""


async def take_turn(contestant: Contestant, way: str, count: int) -> tuple[Turn, dict[str, Any]]:
    """Give a contestant its turn; return what it gave, and the same with what it took as a record."""
    contestant.wake()
    sampler = Sampler(contestant.roles(way))
    try:
        turn = await contestant.turn(way, count)
    finally:
        usage = sampler.close()
        contestant.rest()
    cpu = {role: used.cpu_seconds / count * 1000 for role, used in usage.items()}
    peak = {role: used.peak_bytes for role, used in usage.items()}
    return turn, asdict(turn) | {"cpu_ms": cpu, "peak_bytes": peak}


class Loops(Contestant):
    """Loops in one process with all threads, and two processes with one thread each."""

    name = "in-process"
    ways = ("bare model", "pipelined loop", "one-thread processes")

    def __init__(self, setup: Setup, stack: ExitStack) -> None:
        self._count = len(setup.files)
        self._pipelined = LoopProcess(setup, stack, setup.threads)
        self._singles = [LoopProcess(setup, stack, 1) for _ in range(setup.threads)] if setup.threads > 1 else []

    def roles(self, way: str) -> Mapping[str, Sequence[psutil.Process]]:
        return {"loop": [one.process for one in self._of(way)]}

    def _of(self, way: str) -> list[LoopProcess]:
        return self._singles if way == "one-thread processes" and self._singles else [self._pipelined]

    async def start(self) -> None:
        for one in (self._pipelined, *self._singles):
            if await one.answer() != "ready":
                raise SystemExit("an in-process loop did not start")

    async def turn(self, way: str, count: int) -> Turn:
        loops = self._of(way)
        told = {"bare model": "bare", "pipelined loop": "pipelined", "one-thread processes": "serial"}[way]
        share = -(-count // len(loops))
        began = time.perf_counter()
        for one in loops:
            one.tell(told, share)
        seconds = [float(await one.answer()) for one in loops]
        elapsed = time.perf_counter() - began
        # Of one process, its own clock; of several at once, the whole turn, in which the slowest counts.
        return Turn(share * len(loops) / (elapsed if len(loops) > 1 else seconds[0]))

    async def answers(self, count: int) -> list[Result]:
        self._pipelined.tell("answers", count)
        return [result_of(base64.b64decode(text)) for text in json.loads(await self._pipelined.answer())]


class LoopProcess:
    """A process of `rivals/loop.py`."""

    def __init__(self, setup: Setup, stack: ExitStack, threads: int) -> None:
        command = child.command(signal.SIGKILL, setup.command("loop", threads=threads))
        self._log = setup.logs / f"loop-{threads}.log"
        log = stack.enter_context(self._log.open("ab"))
        self.process: psutil.Popen = stack.enter_context(
            psutil.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, **setup.environment(threads)},
            )
        )
        stack.callback(self.process.terminate)

    def tell(self, way: str, count: int) -> None:
        self.process.stdin.write(json.dumps({"way": way, "count": count}) + "\n")
        self.process.stdin.flush()

    async def answer(self) -> str:
        line: str = await asyncio.to_thread(self.process.stdout.readline)
        if not line:
            raise SystemExit(f"an in-process loop ended: {self._log.read_text(errors='replace')}")
        return line.strip()


class Served(Contestant):
    """Something behind a port, which a client sends requests to."""

    _roles: Mapping[str, Sequence[psutil.Process]]

    def roles(self, way: str) -> Mapping[str, Sequence[psutil.Process]]:
        return self._roles

    async def turn(self, way: str, count: int) -> Turn:
        sender = await self.sender(way, count)
        at_once = {"calls": CALLS, "one call": 1, "stream": STREAM_ITEMS, "bulk": 1}[way]
        requests = 1 if isinstance(sender, Jobs) else count
        load = Load(concurrency=at_once, count=requests, duration=UNTIL_DONE, warmup=0.0, timeout=UNTIL_DONE)
        summary = await run(sender, load)
        if summary.error_count or summary.item_count != count:
            raise SystemExit(f"{self.name}, {way}: {summary.item_count} answers of {count} items, {summary.codes}")
        return _turn(summary)

    @abstractmethod
    async def sender(self, way: str, count: int) -> Sender:
        """What sends so many items in one of the ways."""

    async def answers(self, count: int) -> list[Result]:
        sender = await self.sender("one call", count)
        try:
            return [(await sender.send(turn))[0] for turn in range(count)]
        finally:
            await sender.close()


def _turn(summary: Summary) -> Turn:
    return Turn(summary.throughput, summary.latency.p50, summary.latency.p95, summary.latency.p99)


class Zoofleet(Served):
    """A cluster: calls and streams through its scheduler, and jobs."""

    name = "Zoofleet"
    ways = ("calls", "stream", "bulk", "one call")

    def __init__(self, setup: Setup, cluster: Cluster) -> None:
        self._client = cluster.client
        self._task = task_of(setup.model, setup.precision)
        self._setup = setup
        self._roles = cluster.roles

    async def start(self) -> None:
        """Wait until the cluster serves the model, and has done so with the plan of the precision."""
        deadline = time.monotonic() + STARTS_WITHIN
        calls = Calls(self._client, self._task, self._setup.files)
        names = [worker.name async for worker in self._client.list_workers()]
        for name in names:
            await self._client.load_model(self._setup.model, worker=name)
        (result,) = await calls.send(0)  # which asks for the plan
        if result.error is not None:
            raise SystemExit(f"Zoofleet: {result.error}")
        # Nothing runs meanwhile that would disturb the plans' timing.
        while self._setup.precision is Precision.FAST and not await self._has_plans(names):
            if time.monotonic() > deadline:
                raise SystemExit(f"Zoofleet has no plan of {self._setup.model} after {STARTS_WITHIN:g} s")
            await asyncio.sleep(0.5)

    async def _has_plans(self, names: Sequence[str]) -> bool:
        """Whether all workers have ended their search for the model's fastest plan."""
        loaded = [
            await self._client.load_model(self._setup.model, worker=name)  # what is loaded already it describes
            for name in names
        ]
        return all(one.plans and all(plan.state is not PlanState.BUILDING for plan in one.plans) for one in loaded)

    async def sender(self, way: str, count: int) -> Sender:
        files = self._setup.files
        if way == "bulk":
            return Jobs(self._client, self._task, files, count)
        if way == "stream":
            return Streams(self._client, self._task, files, 1)
        return Calls(self._client, self._task, files)


class PlainGrpc(Served):
    """A gRPC server with a hand-written batcher."""

    name = "plain gRPC"
    ways = ("calls", "stream", "one call")

    def __init__(self, setup: Setup, stack: ExitStack) -> None:
        self._files = setup.files
        self._log = setup.logs / "grpc.log"
        command = setup.command("grpc_server")
        self._process = stack.enter_context(process(self._log, command, setup.environment()))
        self._roles = {"client": [psutil.Process()], "server": [self._process]}
        self._address = ""

    async def start(self) -> None:
        while "ready " not in (said := self._log.read_text(errors="replace")):
            if self._process.poll() is not None:
                raise SystemExit(said)
            await asyncio.sleep(0.2)
        self._address = f"127.0.0.1:{said.partition('ready ')[2].split()[0]}"

    async def sender(self, way: str, count: int) -> Sender:
        return (_PlainStream if way == "stream" else _PlainCalls)(self._address, self._files)


class _PlainSender(Sender):
    """A client of the gRPC server, which reads the answers as Zoofleet's client does."""

    def __init__(self, address: str, files: Sequence[bytes]) -> None:
        self._channel = grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        self._files = files


class _PlainCalls(_PlainSender):
    def __init__(self, address: str, files: Sequence[bytes]) -> None:
        super().__init__(address, files)
        self._call: Any = self._channel.unary_unary(f"/{SERVICE}/Call")

    async def send(self, turn: int) -> Sequence[Result]:
        return [result_of(await self._call(self._files[turn % len(self._files)]))]

    async def close(self) -> None:
        await self._channel.close()


class _PlainStream(_PlainSender):
    def __init__(self, address: str, files: Sequence[bytes]) -> None:
        super().__init__(address, files)
        self._requests: asyncio.Queue[bytes | None] = asyncio.Queue()
        stream: Any = self._channel.stream_stream(f"/{SERVICE}/Stream")
        self._call = stream(self._written())
        self._waiting: dict[int, asyncio.Future[Result]] = {}
        self._reader = asyncio.create_task(self._read())

    async def send(self, turn: int) -> Sequence[Result]:
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting[turn] = future
        self._requests.put_nowait(turn.to_bytes(NUMBER_BYTES) + self._files[turn % len(self._files)])
        return [await future]

    async def _written(self) -> AsyncIterator[bytes]:
        while (request := await self._requests.get()) is not None:
            yield request

    async def _read(self) -> None:
        async for answer in self._call:
            self._waiting.pop(int.from_bytes(answer[:NUMBER_BYTES])).set_result(result_of(answer[NUMBER_BYTES:]))

    async def close(self) -> None:
        self._requests.put_nowait(None)
        await self._reader
        await self._channel.close()


class LitServe(Served):
    """LitServe, whose workers poll while they wait, and are stopped between turns."""

    name = "LitServe"
    ways = ("calls", "one call")

    def __init__(self, setup: Setup, stack: ExitStack, max_batch_size: int) -> None:
        self._files = setup.files
        self._log = setup.logs / "litserve.log"
        self._port = free_port()
        arguments = ("--port", str(self._port), "--max-batch-size", str(max_batch_size))
        command = setup.command("litserve_server", *arguments)
        stack.callback(self._kill)
        self._process = stack.enter_context(process(self._log, command, setup.environment(1)))
        stack.callback(self.wake)
        self._roles = {"client": [psutil.Process()], "server": [self._process]}

    async def start(self) -> None:
        async with aiohttp.ClientSession() as session:
            while True:
                with suppress(aiohttp.ClientError):
                    async with session.get(f"http://127.0.0.1:{self._port}/health") as response:
                        if response.status == 200:
                            break
                if self._process.poll() is not None:
                    raise SystemExit(self._log.read_text(errors="replace"))
                await asyncio.sleep(0.2)
        self._roles = {"client": [psutil.Process()], "server": [self._process, *self._process.children(recursive=True)]}

    async def sender(self, way: str, count: int) -> Sender:
        return _HttpCalls(f"http://127.0.0.1:{self._port}/predict", self._files)

    def wake(self) -> None:
        self._signal(signal.SIGCONT)

    def rest(self) -> None:
        self._signal(signal.SIGSTOP)

    def _kill(self) -> None:
        """End the processes that the server has left behind."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        for one in self._roles["server"]:
            with suppress(psutil.NoSuchProcess):
                one.send_signal(number)


class _HttpCalls(Sender):
    def __init__(self, url: str, files: Sequence[bytes]) -> None:
        self._url = url
        self._files = files
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=UNTIL_DONE)
        )

    async def send(self, turn: int) -> Sequence[Result]:
        async with self._session.post(self._url, data=self._files[turn % len(self._files)]) as response:
            if response.status != 200:
                raise SystemExit(f"LitServe answers {response.status}: {await response.text()}")
            return [result_of(await response.read())]

    async def close(self) -> None:
        await self._session.close()
