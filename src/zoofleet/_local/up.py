"""`zoofleet up`: Redis, a scheduler and workers on one machine, as one program.

Each child leads a session of its own, so that a terminal's Ctrl-C reaches this process alone and the programs end in
order: workers drain while the scheduler still takes their results, then the scheduler stops, then Redis. If this
process dies, the kernel ends the children.

Children read their settings from this process's environment variables, as they would on their own. What this process
decides itself, such as addresses and devices, it passes as options, which take precedence; but the URL of Redis, which
may hold a password, it passes by its variable, since other users of the machine can read command lines.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import shutil
import signal
import socket
import sys
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
from zoofleet._local.program import Program, say
from zoofleet._local.redis_server import RedisServer
from zoofleet._serving.settings import Setting
from zoofleet._values.resources import WorkerState
from zoofleet._wire.address import ADDRESS_VARIABLE, DEFAULT_PORT
from zoofleet.errors import FailedPreconditionError, ZoofleetError
from zoofleet.scheduler.config import SchedulerConfig
from zoofleet.worker.config import WorkerConfig

__all__ = ["UpConfig", "default_data_dir", "up"]

_AFTER_GRACE: Final = 10.0
"""Seconds that a program may take to stop beyond its own grace before it is killed."""

_COLORS: Final = ("cyan", "green", "magenta", "blue", "yellow")

_REDIS_URL: Final = SchedulerConfig.describe("redis_url").variable
_NOT_FOR_WORKERS: Final = (
    _REDIS_URL,  # only the scheduler needs it, and it may hold a password
    "ZOOFLEET_STANDALONE",
    WorkerConfig.describe("advertise_address").variable,
    WorkerConfig.describe("name").variable,
)
"""Variables that workers must not see: they would contradict what `up` decides, or make all workers the same one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpConfig:
    """The cluster that `up` runs on this machine.

    Attributes:
        port: the scheduler's port on 127.0.0.1, 0 to 65535; 0 takes a free one.
        data_dir: the directory in which Redis keeps its data, used by one `up` at a time.
        redis_url: the URL of an existing Redis; None to start one.
        workers: the number of workers, 1 or more; None for one worker for each device.
        device: the device of all workers; None for every CUDA device, or the CPU where there is none.
        threads: the CPU threads of each worker's forward pass, 1 or more; None to let the workers share the cores.
        ready_file: the file that gets the address once everything is ready; None for no file.
    """

    port: int
    data_dir: Path
    redis_url: str | None = None
    workers: int | None = None
    device: str | None = None
    threads: int | None = None
    ready_file: Path | None = None


def default_data_dir() -> Path:
    """Return `zoofleet` in $XDG_DATA_HOME, or in ~/.local/share where that is not set."""
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "zoofleet"


async def up(config: UpConfig) -> int:
    """Run a cluster until SIGINT or SIGTERM, or until one of its programs cannot start.

    Returns:
        The exit code: 0, or 1 where a program ended before all was ready.

    Raises:
        FailedPreconditionError: the data directory or the port is in use.
        UnavailableError: redis-server does not start.
    """
    console = Console(highlight=False)
    with ExitStack() as stack:
        stack.enter_context(_locked(config.data_dir))
        address = f"127.0.0.1:{_free_port(config.port)}"
        devices = await _devices(config)
        redis: RedisServer | None = None
        if config.redis_url is None:
            say(console, "Starting Redis …")
            redis = stack.enter_context(RedisServer(config.data_dir / "redis"))
        cluster = _Cluster(console, address, config.redis_url or (redis.url if redis else ""), devices, config.threads)
        return await cluster.run(redis, config)


@contextmanager
def _locked(data_dir: Path) -> Iterator[None]:
    """Make the data directory and keep other `zoofleet up` from it."""
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
    """Return the port, or a free one in the place of 0."""
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
    """Return the device of each worker."""
    if config.device is not None:
        return [config.device] * (config.workers or 1)
    gpus = await _cuda_count() if shutil.which("nvidia-smi") else 0
    if not gpus:
        return ["cpu"] * (config.workers or 1)
    return [f"cuda:{i % gpus}" for i in range(config.workers or gpus)]


async def _cuda_count() -> int:
    """Return how many CUDA devices torch can use; asks in another process, since this one never loads torch."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import torch; print(torch.cuda.device_count())",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    output, _ = await process.communicate()
    return int(output) if process.returncode == 0 else 0


class _Cluster:
    """The scheduler and the workers, from start to end.

    Args:
        console: the terminal that shows their output.
        address: host:port of the scheduler.
        redis_url: the URL of Redis.
        devices: the device of each worker.
        threads: the CPU threads of each worker; None to let the workers share the cores.
    """

    def __init__(self, console: Console, address: str, redis_url: str, devices: list[str], threads: int | None) -> None:
        self._console = console
        self._address = address
        self._devices = devices
        self._ready = asyncio.Event()
        self._stop = asyncio.Event()
        self._interrupts = 0
        self._scheduler = Program(
            console,
            "scheduler",
            "bold white",
            ["scheduler", "--address", address],
            {**os.environ, _REDIS_URL: redis_url},
        )
        environment = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_WORKERS}
        self._workers = []
        for i, device in enumerate(devices):
            name = f"worker-{i}" if len(devices) > 1 else "worker"
            arguments = ["worker", "--scheduler", address, "--address", "127.0.0.1:0", "--device", device]
            arguments += _share(device, devices, threads)
            self._workers.append(Program(console, name, _COLORS[i % len(_COLORS)], arguments, environment))

    async def run(self, redis: RedisServer | None, config: UpConfig) -> int:
        """Run until SIGINT or SIGTERM, or until a program ends before all is ready; return the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._interrupt)
        say(self._console, f"Starting a scheduler and {self._worker_words()} …")
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
            await self._end(
                [running[worker] for worker in self._workers], self._workers, _patience(WorkerConfig.describe("grace"))
            )
            patience = _patience(SchedulerConfig.describe("shutdown_grace"))
            await self._end([running[self._scheduler]], [self._scheduler], patience)
            await asyncio.gather(watch, guard, stop, return_exceptions=True)
        return 1 if failed else 0

    def _interrupt(self) -> None:
        self._interrupts += 1
        self._stop.set()
        if self._interrupts == 1:
            say(self._console, "Stopping: workers finish what they have. Again to stop at once.")
        else:
            for program in (*self._workers, self._scheduler):
                program.signal(signal.SIGKILL)

    async def _end(self, tasks: list[asyncio.Task[None]], programs: list[Program], patience: float) -> None:
        """Stop programs; after `patience` seconds, or a second interrupt, kill them."""
        number = signal.SIGTERM if self._interrupts < 2 else signal.SIGKILL
        for program in programs:
            program.signal(number)
        _, late = await asyncio.wait(tasks, timeout=patience)
        if late:
            for program in programs:
                program.signal(signal.SIGKILL)
            await asyncio.wait(late)

    async def _announce(self, config: UpConfig) -> None:
        """Wait until the scheduler is healthy and every worker is ready, then say so."""
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
        """Start redis-server again whenever it dies; nothing happens where it is not ours."""
        while True:
            await asyncio.sleep(0.5)
            if redis is not None and not redis.alive:
                say(self._console, "redis-server ended; starting it again", "yellow")
                redis.stop()
                redis.start()

    def _worker_words(self) -> str:
        count = len(self._devices)
        kinds = ", ".join(dict.fromkeys(self._devices))
        return f"{count} worker{'s' if count > 1 else ''} on {kinds}"

    def _say_ready(self, config: UpConfig) -> None:
        port = self._address.rpartition(":")[2]
        examples = Text(no_wrap=True)
        if port != str(DEFAULT_PORT):
            examples.append(f"  export {ADDRESS_VARIABLE}={self._address}\n", "bold")
        examples.append("  zoofleet submit PHOTOS/ --model maskrcnn_resnet50_fpn\n", "bold")
        examples.append("  zoofleet video CLIP.mp4 --model raft_small\n", "bold")
        examples.append("  zoofleet workers list", "bold")
        where = f"jobs in {config.data_dir if config.redis_url is None else _public(config.redis_url)}"
        self._console.print()
        self._console.print(
            Text.assemble(("✓ ready ", "bold green"), (self._address, "bold"), f"  {self._worker_words()}, {where}"),
            soft_wrap=True,
        )
        self._console.print(examples)
        self._console.print("  Ctrl-C ends everything; unfinished jobs go on at the next start.", style="dim")
        self._console.print()


def _share(device: str, devices: list[str], threads: int | None) -> list[str]:
    """Return the options by which a worker takes its share of what the workers on one machine have in common.

    Workers on one device share its memory. All of them share the cores: those on a CPU for forward passes, of which
    they get all, the others for decoding and for the little that their forward passes do on the CPU.
    """
    cores = len(os.sched_getaffinity(0))
    options = []
    if threads or device == "cpu" or len(devices) > 1:
        sharers = devices.count("cpu") if device == "cpu" else len(devices)
        options += ["--threads", str(threads or max(1, cores // sharers))]
    decoding = WorkerConfig.describe("decode_threads")
    if device != "cpu" and len(devices) > 1 and decoding.variable not in os.environ:
        options += ["--decode-threads", str(max(1, cores // len(devices)))]
    if devices.count(device) > 1:
        options += ["--device-sharers", str(devices.count(device))]
    return options


def _patience(grace: Setting) -> float:
    """Return the seconds from SIGTERM to SIGKILL of a program whose own grace is this setting."""
    with suppress(ValueError):  # the program has said so, and ended
        return float(os.environ.get(grace.variable) or grace.default) + _AFTER_GRACE
    return _AFTER_GRACE


def _public(url: str) -> str:
    """Return the URL of a Redis without user, password and query, which may all be secret."""
    return re.sub(r"(?<=://)[^/]*@", "", url.partition("?")[0])
