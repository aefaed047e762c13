"""A cluster of real processes on this machine: redis-server, scheduler and workers, as `zoofleet up` starts them."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from zoofleet import AsyncClient
from zoofleet._local import child
from zoofleet._local.redis_server import RedisServer


@dataclass(frozen=True, slots=True)
class Cluster:
    """A scheduler with its workers: the client of it, and the processes by role."""

    client: AsyncClient
    roles: Mapping[str, Sequence[psutil.Process]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def process(log: Path, arguments: Sequence[str], environment: Mapping[str, str]) -> Iterator[psutil.Popen]:
    """A program, ended in good order, and at the latest when this process has ended."""
    with log.open("ab") as output:
        command = child.command(signal.SIGKILL, list(arguments))
        started = psutil.Popen(command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **environment})
    try:
        yield started
    finally:
        started.send_signal(signal.SIGTERM)
        started.wait()


@asynccontextmanager
async def cluster(folder: Path, workers: int, threads: int) -> AsyncIterator[Cluster]:
    """A cluster of so many workers, each of so many threads.

    Args:
        folder: for Redis and the logs.
        workers: their number.
        threads: of a forward pass, and as many that decode.
    """
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer(folder / "redis"))
        address = f"127.0.0.1:{free_port()}"
        roles = {"client": [psutil.Process()], "redis-server": [psutil.Process(redis.pid)]}
        zoofleet = [sys.executable, "-m", "zoofleet"]
        environment = {"OMP_NUM_THREADS": str(threads)}
        command = [*zoofleet, "scheduler", "--address", address, "--redis-url", redis.url]
        roles["scheduler"] = [stack.enter_context(process(folder / "scheduler.log", command, environment))]
        for number in range(workers):
            counts = ("--threads", str(threads), "--decode-threads", str(threads), "--device", "cpu")
            command = [*zoofleet, "worker", "--scheduler", address, "--name", f"worker-{number}", *counts]
            log = folder / f"worker-{number}.log"
            roles[f"worker {number}" if workers > 1 else "worker"] = [
                stack.enter_context(process(log, command, environment))
            ]
        async with AsyncClient(address, retry_timeout=0) as client:
            await client.wait_ready(60)
            async with asyncio.timeout(120):
                while len([worker async for worker in client.list_workers()]) < workers:  # noqa: ASYNC110 - of another process
                    await asyncio.sleep(0.2)
            yield Cluster(client, roles)
