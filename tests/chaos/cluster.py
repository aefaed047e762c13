"""A cluster of real processes behind fault proxies: a redis-server, two schedulers, three workers without models."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from redis.asyncio import Redis
from tests.chaos.checks import Emptying
from tests.chaos.plans import ITEM_ID
from tests.chaos.proxy import FaultProxy

from zoofleet._local.child import command as child_command
from zoofleet._local.redis_server import RedisServer

HEARTBEAT_TIMEOUT: Final = 5.0
"""More than the 3 s after which a fake worker turns from a silent scheduler to the other one."""
UPLOAD_TIMEOUT: Final = 3.0
MAX_ATTEMPTS: Final = 3
_CONFIG: Final = {
    "redis_timeout": 1.0,
    "heartbeat_interval": 0.3,
    "heartbeat_timeout": HEARTBEAT_TIMEOUT,
    "lease": 6.0,
    "sweep_interval": 0.2,
    "refusal_backoff": 0.05,
    "shutdown_grace": 3.0,
    "stream_idle": 2.0,
    "upload_timeout": UPLOAD_TIMEOUT,
    "max_attempts": MAX_ATTEMPTS,
}
_SERVE: Final = """
import asyncio, json, logging, sys
from zoofleet.scheduler import SchedulerConfig, serve
logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(message)s")
asyncio.run(serve(SchedulerConfig(**json.loads(sys.argv[1]))))
"""
_TERM_PATIENCE: Final = 25.0
_LAST_RESTART: Final = 1.5
_AFTER: Final = 2.0
"""Seconds after a fault in which its effects may last."""


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens at, below those that outgoing connections take while a process is down."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.randint(20_000, 30_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            ports.append(port)
    return ports


class Child:
    """A process that is started again whenever it dies.

    Args:
        kind: `scheduler` or `worker`.
        number: among its kind.
        command: the command line, for the number of times that it was started before.
        directory: of its logs, `{kind}-{number}.log`.
    """

    def __init__(self, kind: str, number: int, command: Callable[[int], list[str]], directory: Path) -> None:
        self.kind = kind
        self.number = number
        self.busy = asyncio.Lock()
        """Held by the one fault at a time that it has."""
        self.log = directory / f"{kind}-{number}.log"
        self.starts = 0
        self.expected: set[int] = {-signal.SIGKILL} if kind == "worker" else set()  # poison kills workers
        """Exit codes that are no violation."""
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def ended(self) -> int | None:
        """The exit code, None while it runs."""
        return self._process.poll() if self._process is not None else 0

    def start(self) -> None:
        """Start it; the kernel kills it when this process is gone."""
        if self.kind == "scheduler":
            self.expected = set()
        with self.log.open("ab") as log:
            command = child_command(signal.SIGKILL, self._command(self.starts))
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.starts += 1

    def send(self, number: signal.Signals) -> None:
        """Send a signal, which then is no violation where it ends the process."""
        if self._process is not None and self._process.poll() is None:
            if number is signal.SIGKILL:
                self.expected.add(-number)
            if number is signal.SIGTERM:
                self.expected |= {0, -number}  # before it has its handler
            self._process.send_signal(number)

    async def wait(self, timeout: float) -> bool:
        """Wait for its end; returns whether it came."""
        process, deadline = self._process, time.monotonic() + timeout
        while process is not None and process.poll() is None and process is self._process:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.05)
        return True

    def kill(self) -> None:
        """End it for good."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class Cluster:
    """The processes, the proxies between them, and what befell them.

    Args:
        directory: for data and logs.
        rng: chooses pauses before restarts, and names.
    """

    def __init__(self, directory: Path, rng: random.Random) -> None:
        self.directory = directory
        self.redis = RedisServer(directory / "redis")
        self.redis_busy = asyncio.Lock()
        self.emptyings: list[Emptying] = []
        self.violations: list[str] = []
        self.restarts: Counter[str] = Counter()
        self.hits: Counter[str] = Counter()
        """How often a fault of ours killed a worker while it had an item, by item id."""
        self._silences: list[tuple[float, float]] = []
        self._outages: list[tuple[int, float, float]] = []
        self._rng = rng
        # A server's life is bound to the thread that starts it.
        self._redis_thread = ThreadPoolExecutor(1)
        self._keepers: list[asyncio.Task[None]] = []
        self.redis_proxies = [FaultProxy(self._connect_redis) for _ in range(2)]
        ports = _free_ports(5)
        self.scheduler_addresses = [f"127.0.0.1:{port}" for port in ports[:2]]
        self.fronts = [_proxy_to(port) for port in ports[:2]]
        self.worker_proxies = [_proxy_to(port) for port in ports[2:]]
        self.schedulers = [Child("scheduler", n, self._scheduler_command(n), directory) for n in range(2)]
        self.workers = [
            Child("worker", n, self._worker_command(n, port), directory) for n, port in enumerate(ports[2:])
        ]
        self._names = [""] * len(self.workers)

    @property
    def proxies(self) -> list[FaultProxy]:
        """All proxies."""
        return [*self.redis_proxies, *self.fronts, *self.worker_proxies]

    @property
    def children(self) -> list[Child]:
        """All processes but redis-server."""
        return [*self.schedulers, *self.workers]

    @property
    def worker_names(self) -> list[str]:
        """Names of the workers' present processes, without `workers/`."""
        return self._names

    async def start(self) -> None:
        """Start everything."""
        await self._in_redis_thread(self.redis.start)
        for proxy in self.proxies:
            await proxy.start()
        for child in self.children:
            child.start()
            self._keepers.append(asyncio.create_task(self._keep(child)))

    async def close(self) -> None:
        """End every process."""
        for keeper in self._keepers:
            keeper.cancel()
        for child in self.children:
            child.kill()
        await self._in_redis_thread(self.redis.stop)
        self._redis_thread.shutdown()
        for proxy in self.proxies:
            await proxy.close()

    async def restart_redis(self, *, empty: bool) -> None:
        """SIGKILL redis-server and start it with its data, or with none."""
        began = time.monotonic()
        if empty:
            self.emptyings.append(Emptying(began, float("inf")))

        def restart() -> None:
            os.kill(self.redis.pid, signal.SIGKILL)
            while self.redis.alive:
                time.sleep(0.01)
            if empty:
                for path in (self.directory / "redis").iterdir():
                    if path.is_dir():
                        shutil.rmtree(path)
                    elif path.suffix != ".log":
                        path.unlink()
            self.redis.start(timeout=30)

        await self._in_redis_thread(restart)
        if empty:
            self.emptyings[-1] = Emptying(began, time.monotonic())

    async def flush_redis(self) -> None:
        """Empty redis-server while it runs."""
        began = time.monotonic()
        self.emptyings.append(Emptying(began, float("inf")))
        async with self.redis_client() as client:
            await client.flushall()
        self.emptyings[-1] = Emptying(began, time.monotonic())

    def note(self, event: str) -> None:
        """Write down what happened, in the form of the schedulers' logs."""
        with (self.directory / "events.log").open("a") as log:
            log.write(f"{datetime.now():%Y-%m-%d %H:%M:%S,%f} {event}\n")

    def redis_client(self) -> Any:
        """A connection of our own, past the proxies."""
        return Redis.from_url(self.redis.url, protocol=2, decode_responses=False)

    def blame(self, worker: int) -> None:
        """Note that a fault of ours ends a worker with all items that it has."""
        log = self._item_log(worker, self.workers[worker].starts - 1)
        with suppress(FileNotFoundError):
            self.hits.update({match[0] for match in ITEM_ID.finditer(log.read_text(errors="replace"))})

    def silence(self, seconds: float) -> None:
        """Note that a worker will be out of reach for so long, perhaps long enough to be taken for dead."""
        if seconds > HEARTBEAT_TIMEOUT / 2:
            self._silences.append((time.monotonic(), time.monotonic() + seconds + _AFTER))

    def disturb(self, scheduler: int, seconds: float) -> None:
        """Note that a scheduler will be out of reach; where both are, no heartbeat of a worker arrives."""
        began, ended = time.monotonic(), time.monotonic() + seconds + _AFTER
        for other, start, end in self._outages:
            if other != scheduler and start <= ended and began <= end:
                self._silences.append((min(start, began), max(end, ended)))
        self._outages.append((scheduler, began, ended))

    def excuse(self, item_id: str, began: float, ended: float) -> bool:
        """Whether faults may have cost a harmless item all its attempts, of which neighbours may cost two."""
        silent = sum(start <= ended and began <= end for start, end in self._silences)
        return self.hits[item_id] + silent >= MAX_ATTEMPTS - 2

    async def _keep(self, child: Child) -> None:
        while True:
            if (code := child.ended) is not None:
                if code not in child.expected:
                    self.violations.append(f"DIED: {child.log.stem} ended by itself with {code}; see {child.log}")
                self.restarts[child.kind] += 1
                self.note(f"{child.log.stem} ended with {code}")
                await asyncio.sleep(self._rng.uniform(0, _LAST_RESTART))
                child.start()
                self.note(f"{child.log.stem} started, number {child.starts - 1}")
            await asyncio.sleep(0.05)

    async def terminate(self, child: Child) -> None:
        """SIGTERM a process, as a rolling restart does, and wait for its end."""
        child.send(signal.SIGTERM)
        if child.kind == "worker":
            self.blame(child.number)  # a fake worker that reaches no scheduler does not wait for its items
        if not await child.wait(_TERM_PATIENCE):
            if child.kind == "scheduler":
                self.violations.append(f"SLOW END: {child.log.stem} runs {_TERM_PATIENCE:g} s after SIGTERM")
            child.send(signal.SIGKILL)

    def _scheduler_command(self, number: int) -> Callable[[int], list[str]]:
        def command(_: int) -> list[str]:
            redis_url = f"redis://{self.redis_proxies[number].address}/0"
            config = {**_CONFIG, "address": self.scheduler_addresses[number], "redis_url": redis_url}
            return [sys.executable, "-c", _SERVE, json.dumps(config)]

        return command

    def _worker_command(self, number: int, port: int) -> Callable[[int], list[str]]:
        def command(starts: int) -> list[str]:
            # Half of them come back under another name.
            if not self._names[number] or self._rng.random() < 0.5:
                self._names[number] = f"w{number}-{starts}"
            turn = [self.fronts[(number + turn) % 2].address for turn in range(2)]
            arguments = [
                "--name",
                self._names[number],
                "--schedulers",
                *turn,
                "--parallel",
                "8",
                "--max-inflight",
                "32",
            ]
            script = str(Path(__file__).parent / "proxied_worker.py")
            log = str(self._item_log(number, starts))
            proxy = str(self.worker_proxies[number].port)
            return [sys.executable, script, str(port), proxy, *arguments, "--log", log]

        return command

    def _item_log(self, worker: int, starts: int) -> Path:
        return self.directory / f"items-{worker}-{starts}.log"

    async def _connect_redis(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(self.redis.url.removeprefix("unix://"))

    async def _in_redis_thread(self, function: Callable[..., None], *arguments: Any) -> None:
        await asyncio.get_running_loop().run_in_executor(self._redis_thread, function, *arguments)


def _proxy_to(port: int) -> FaultProxy:
    return FaultProxy(lambda: asyncio.open_connection("127.0.0.1", port))
