"""`zoofleet up`: Redis, a scheduler and workers on one machine, as one program.

A child leads a session of its own, so that a terminal's Ctrl-C reaches this process alone and the end keeps its order:
workers drain while the scheduler still takes their results, then the scheduler stops, then Redis. If this process dies
of itself, the kernel ends the children.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.console import Console
from rich.text import Text

from zoofleet._client.async_client import AsyncClient
from zoofleet._local import child
from zoofleet._local.redis_server import RedisServer
from zoofleet._values.resources import WorkerState
from zoofleet.errors import FailedPreconditionError, ZoofleetError

__all__ = ["UpConfig", "default_data_dir", "up"]

_WORKER_GRACE: Final = 40.0
_SCHEDULER_GRACE: Final = 20.0
"""Seconds after SIGTERM until SIGKILL: more than the programs themselves take at most."""
_STEADY: Final = 30.0
"""Seconds after which a restarted program counts as well again."""
_LINE_BYTES: Final = 64 * 1024

_COLORS: Final = ("cyan", "green", "magenta", "blue", "yellow")


@dataclass(frozen=True, slots=True, kw_only=True)
class UpConfig:
    """What runs on this machine.

    Attributes:
        port: the scheduler's, on 127.0.0.1; 0 for a free one.
        data_dir: where Redis keeps its data; one `up` at a time.
        redis_url: an existing Redis; None to start one.
        workers: number of workers; None for one for each device.
        device: the device of all workers; None for every CUDA device, or the CPU where there is none.
        ready_file: gets the address once everything is ready; None for no file.
    """

    port: int
    data_dir: Path
    redis_url: str | None = None
    workers: int | None = None
    device: str | None = None
    ready_file: Path | None = None


def default_data_dir() -> Path:
    """`zoofleet` in XDG_DATA_HOME, or in ~/.local/share."""
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "zoofleet"


async def up(config: UpConfig) -> int:
    """Run until SIGINT, SIGTERM, or something that cannot start.

    Returns:
        The exit code: 0, or 1 where a program ended before all was ready.

    Raises:
        FailedPreconditionError: the data directory or the port is in use.
        UnavailableError: Redis does not start.
    """
    console = Console(highlight=False)
    with ExitStack() as stack:
        stack.enter_context(_locked(config.data_dir))
        address = f"127.0.0.1:{_free_port(config.port)}"
        devices = await _devices(config)
        redis: RedisServer | None = None
        if config.redis_url is None:
            _say(console, "Starting Redis …")
            redis = stack.enter_context(RedisServer(config.data_dir / "redis"))
        cluster = _Cluster(console, address, config.redis_url or (redis.url if redis else ""), devices)
        return await cluster.run(redis, config)


@contextmanager
def _locked(data_dir: Path) -> Iterator[None]:
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / "up.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise FailedPreconditionError(
                f"another 'zoofleet up' (pid {lock.read(20).strip() or 'unknown'}) uses {data_dir}; "
                "end it, or name another directory with --data-dir"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _free_port(port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: old connections do not count
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise FailedPreconditionError(
                f"port {port} of 127.0.0.1: {error.strerror}; name another one with --port, or 0 for any"
            ) from None
        name: tuple[str, int] = probe.getsockname()
        return name[1]


async def _devices(config: UpConfig) -> list[str]:
    """A device for each worker."""
    if config.device is not None:
        return [config.device] * (config.workers or 1)
    gpus = await _cuda_count() if shutil.which("nvidia-smi") else 0
    if not gpus:
        return ["cpu"] * (config.workers or 1)
    return [f"cuda:{i % gpus}" for i in range(config.workers or gpus)]


async def _cuda_count() -> int:
    """How many devices torch can use; asked in a process of its own, since this one never loads torch."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import torch; print(torch.cuda.device_count())",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    output, _ = await process.communicate()
    return int(output) if process.returncode == 0 else 0


class _Program:
    """A child process that is started again when it dies.

    Args:
        console: where its lines go.
        name: its prefix there.
        color: the prefix's colour.
        arguments: of `python -m zoofleet`.
    """

    def __init__(self, console: Console, name: str, color: str, arguments: list[str]) -> None:
        self.name = name
        self._console = console
        self._color = color
        self._command = child.command(signal.SIGKILL, [sys.executable, "-m", "zoofleet", *arguments])
        self._process: asyncio.subprocess.Process | None = None
        self._ending = asyncio.Event()

    async def run(self, ready: asyncio.Event) -> None:
        """Start it, and again when it has died, until `stop`; returns too where it dies before `ready`."""
        pause = 0.5
        while not self._ending.is_set():
            started = time.monotonic()
            code = await self._run_once()
            if self._ending.is_set():
                return
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            if not ready.is_set():
                _say(self._console, f"{self.name} ended before all was ready ({how})", "red")
                return
            pause = 0.5 if time.monotonic() - started > _STEADY else pause
            _say(self._console, f"{self.name} ended ({how}); starting it again in {pause:g} s", "yellow")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), pause)
            pause = min(2 * pause, 10.0)

    async def _run_once(self) -> int:
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            env=environment,
        )
        if self._ending.is_set():
            self._process.terminate()
        if self._process.stdout is not None:
            await self._print_lines(self._process.stdout)
        return await self._process.wait()

    async def _print_lines(self, output: asyncio.StreamReader) -> None:
        buffer = b""
        while data := await output.read(_LINE_BYTES):
            *lines, buffer = (buffer + data).split(b"\n")
            if len(buffer) > _LINE_BYTES:
                lines, buffer = [*lines, buffer], b""
            for line in lines:
                self._print(line)
        if buffer:
            self._print(buffer)

    def _print(self, line: bytes) -> None:
        text = Text.assemble((f"{self.name:<9} │ ", self._color), line.decode("utf-8", "replace").rstrip())
        self._console.print(text, soft_wrap=True)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; from now on it is not started again."""
        self._ending.set()
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)


class _Cluster:
    """The scheduler and the workers, from start to end."""

    def __init__(self, console: Console, address: str, redis_url: str, devices: list[str]) -> None:
        self._console = console
        self._address = address
        self._devices = devices
        self._ready = asyncio.Event()
        self._stop = asyncio.Event()
        self._interrupts = 0
        cores = len(os.sched_getaffinity(0))
        shares = max(1, cores // devices.count("cpu")) if "cpu" in devices else 0
        self._scheduler = _Program(
            console, "scheduler", "bold white", ["scheduler", "--address", address, "--redis-url", redis_url]
        )
        self._workers = [
            _Program(
                console,
                f"worker-{i}" if len(devices) > 1 else "worker",
                _COLORS[i % len(_COLORS)],
                [
                    *("worker", "--scheduler", address, "--address", "127.0.0.1:0", "--device", device),
                    *(("--threads", str(shares)) if device == "cpu" else ()),
                ],
            )
            for i, device in enumerate(devices)
        ]

    async def run(self, redis: RedisServer | None, config: UpConfig) -> int:
        """Run until a signal; returns the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._interrupt)
        _say(self._console, f"Starting a scheduler and {self._worker_words()} …")
        running = {
            program: asyncio.create_task(program.run(self._ready)) for program in (self._scheduler, *self._workers)
        }
        watch = asyncio.create_task(self._announce(config))
        guard = asyncio.create_task(self._keep_redis(redis))
        stop = asyncio.create_task(self._stop.wait())
        try:
            done, _ = await asyncio.wait({stop, guard, *running.values()}, return_when=asyncio.FIRST_COMPLETED)
            if guard in done:
                guard.result()
            failed = stop not in done
        finally:
            watch.cancel()
            guard.cancel()
            stop.cancel()
            if config.ready_file is not None:
                config.ready_file.unlink(missing_ok=True)
            await self._end([running[worker] for worker in self._workers], self._workers, _WORKER_GRACE)
            await self._end([running[self._scheduler]], [self._scheduler], _SCHEDULER_GRACE)
            await asyncio.gather(watch, guard, stop, return_exceptions=True)
        return 1 if failed else 0

    def _interrupt(self) -> None:
        self._interrupts += 1
        self._stop.set()
        if self._interrupts == 1:
            _say(self._console, "Stopping: workers finish what they have. Again to stop at once.")
        else:
            for program in (*self._workers, self._scheduler):
                program.signal(signal.SIGKILL)

    async def _end(self, tasks: list[asyncio.Task[None]], programs: list[_Program], grace: float) -> None:
        number = signal.SIGTERM if self._interrupts < 2 else signal.SIGKILL
        for program in programs:
            program.signal(number)
        _, late = await asyncio.wait(tasks, timeout=grace)
        if late:
            for program in programs:
                program.signal(signal.SIGKILL)
            await asyncio.wait(late)

    async def _announce(self, config: UpConfig) -> None:
        """Wait until the scheduler is healthy and every worker is ready, and say so."""
        async with AsyncClient(self._address) as client, grpc.aio.insecure_channel(self._address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            while not await self._is_ready(client, health):  # noqa: ASYNC110 - what it waits for is another process
                await asyncio.sleep(0.1)
        self._ready.set()
        if config.ready_file is not None:
            partial = config.ready_file.with_name(config.ready_file.name + ".partial")
            partial.write_text(self._address + "\n", encoding="utf-8")
            partial.replace(config.ready_file)
        self._say_ready(config)

    async def _is_ready(self, client: AsyncClient, health: health_pb2_grpc.HealthStub) -> bool:
        try:
            answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=5)
            if answer.status != health_pb2.HealthCheckResponse.SERVING:
                return False
            ready = [worker async for worker in client.list_workers() if worker.state is WorkerState.READY]
        except (grpc.aio.AioRpcError, ZoofleetError):
            return False
        return len(ready) >= len(self._workers)

    async def _keep_redis(self, redis: RedisServer | None) -> None:
        """Start Redis again when it dies."""
        while True:
            await asyncio.sleep(0.5)
            if redis is not None and not redis.alive:
                _say(self._console, "redis-server ended; starting it again", "yellow")
                redis.stop()
                redis.start()

    def _worker_words(self) -> str:
        count = len(self._devices)
        kinds = ", ".join(dict.fromkeys(self._devices))
        return f"{count} worker{'s' if count > 1 else ''} on {kinds}"

    def _say_ready(self, config: UpConfig) -> None:
        port = self._address.rpartition(":")[2]
        examples = Text(no_wrap=True)
        if port != "50051":
            examples.append(f"  export ZOOFLEET_ADDRESS={self._address}\n", "bold")
        examples.append("  zoofleet submit PHOTOS/ --model maskrcnn_resnet50_fpn\n", "bold")
        examples.append("  zoofleet video CLIP.mp4 --model raft_small\n", "bold")
        examples.append("  zoofleet workers list", "bold")
        where = f"jobs in {config.data_dir}" if config.redis_url is None else f"jobs in {config.redis_url}"
        self._console.print()
        self._console.print(
            Text.assemble(("✓ ready ", "bold green"), (self._address, "bold"), f"  {self._worker_words()}, {where}"),
            soft_wrap=True,
        )
        self._console.print(examples)
        self._console.print("  Ctrl-C ends everything; unfinished jobs go on at the next start.", style="dim")
        self._console.print()


def _say(console: Console, text: str, style: str = "dim") -> None:
    console.print(Text(text, style=style), soft_wrap=True)
