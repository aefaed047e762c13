"""Measures what the services cost an item: CPU time of each process around a model that costs nothing.

The worker is a real one whose model answers a constant, and whose items are a few bytes that nobody decodes. So what is
left is gRPC, protobuf, asyncio, Redis, and the threads that items pass. Run it with `scripts/bench-services`; run the
same module with another checkout's Python to compare the two.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
from benchmarks.machine import Machine

import zoofleet
from zoofleet import Classify
from zoofleet._local.redis_server import RedisServer

MODEL = "resnet18@random"
_PAYLOAD = b"x" * 64
_CALLERS = 32
_ROLES = ("client", "scheduler", "worker", "redis")
_SCHEDULER = """
import asyncio, json, sys
from zoofleet.scheduler import SchedulerConfig, serve
asyncio.run(serve(SchedulerConfig(**json.loads(sys.argv[1]))))
"""


def worker(settings: dict[str, Any]) -> None:
    """Run a worker whose model costs nothing, in this process. Its threads have their names in /proc.

    Args:
        settings: the worker's, and `seconds` that the model sleeps an item.
    """
    import torch

    from zoofleet.worker import WorkerConfig, residency, runners, serve
    from zoofleet.worker.runner import Prepared

    seconds = settings.pop("seconds")
    scores = torch.zeros(1000)
    scores[7] = 1.0

    class NullRunner(runners._ClassifyRunner):
        def prepare(self, images: Iterable[Any], options: Any) -> Any:
            return Prepared((scores,), (1, 1), (), 16)

        def forward(self, batch: Sequence[Any], plan: Any) -> list[Any]:
            time.sleep(seconds * len(batch))
            return [{"scores": scores}] * len(batch)

    def make_null(name: Any, device: Any, config: Any) -> Any:
        return NullRunner(name, torch.nn.Identity(), torch.nn.Identity(), device, config)

    run = threading.Thread.run

    def named(thread: threading.Thread) -> None:
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(thread.name.rstrip("0123456789_-")[:15])
        run(thread)

    threading.Thread.run = named  # type: ignore[method-assign,assignment]
    vars(residency)["make_runner"] = make_null
    settings["schedulers"] = tuple(settings["schedulers"])
    asyncio.run(serve(WorkerConfig(device="cpu", threads=1, **settings)))


def thread_seconds(process: psutil.Process) -> dict[str, float]:
    """CPU seconds of a process by the name of the thread, to the nanosecond."""
    seconds: dict[str, float] = defaultdict(float)
    for task in Path(f"/proc/{process.pid}/task").iterdir():
        try:
            name = "main" if int(task.name) == process.pid else (task / "comm").read_text().strip()
            seconds[name] += int((task / "schedstat").read_text().split()[0]) / 1e9
        except FileNotFoundError:
            continue  # it has ended meanwhile
    return seconds


def process_seconds(process: psutil.Process) -> float:
    """CPU seconds of a process, those of threads that have ended as well."""
    times = process.cpu_times()
    return float(times.user + times.system)


Drive = Callable[[int], Awaitable[None]]


def drives(client: zoofleet.AsyncClient, streams: int) -> dict[str, Drive]:
    """The ways in which items are sent, by name; each takes a number of items."""

    async def stream(count: int) -> None:
        check([result.error async for result in client.stream(Classify(MODEL), [_PAYLOAD] * count)], count)

    async def several(count: int) -> None:
        await asyncio.gather(*(stream(count // streams) for _ in range(streams)))

    async def calls(count: int) -> None:
        left = iter(range(count))

        async def caller() -> None:
            for _ in left:
                await client.classify(_PAYLOAD, model=MODEL)

        await asyncio.gather(*(caller() for _ in range(_CALLERS)))

    return {"1 stream": stream, f"{streams} streams": several, f"{_CALLERS} calls": calls}


def job(client: zoofleet.AsyncClient) -> Drive:
    """A bulk job, from its first byte to its last result."""

    async def drive(count: int) -> None:
        made = await client.create_job([_PAYLOAD] * count, [Classify(MODEL)])
        check([result.error async for result in client.read_results(made.name)], count)
        await client.delete_job(made.name)

    return drive


def check(errors: Sequence[Exception | None], count: int) -> None:
    if len(errors) != count or any(errors):
        raise SystemExit(f"{len(errors)} results of {count}, errors: {next(filter(None, errors), None)}")


async def measure(
    name: str, drive: Drive, count: int, processes: dict[str, psutil.Process], rounds: int
) -> dict[str, Any]:
    """Run `drive`, and return the CPU microseconds an item, by process and by thread: the least of the rounds."""
    await drive(max(count // 10, 64))
    best: dict[str, Any] = {}
    for _ in range(rounds):
        before = {role: process_seconds(process) for role, process in processes.items()}
        threads = thread_seconds(processes["worker"])
        started = time.perf_counter()
        await drive(count)
        elapsed = time.perf_counter() - started
        by_thread = {name: total - threads[name] for name, total in thread_seconds(processes["worker"]).items()}
        cpu = {role: (process_seconds(process) - before[role]) / count * 1e6 for role, process in processes.items()}
        figures = {
            "way": name,
            "items_per_second": count / elapsed,
            "cpu_us": cpu,
            "worker_thread_us": {thread: seconds / count * 1e6 for thread, seconds in by_thread.items() if seconds > 0},
        }
        if not best or sum(cpu.values()) < sum(best["cpu_us"].values()):
            best = figures
    return best


def start(stack: ExitStack, arguments: list[str], log: Path) -> psutil.Process:
    """Start a process that ends with the stack."""
    process = subprocess.Popen([sys.executable, *arguments], stdout=log.open("wb"), stderr=subprocess.STDOUT)
    stack.callback(process.wait)
    stack.callback(process.kill)
    return psutil.Process(process.pid)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


async def run(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Start everything, and measure way by way."""
    figures = []
    with tempfile.TemporaryDirectory(prefix="zf-null-") as name, ExitStack() as stack:
        folder = Path(name)
        scheduler_address, worker_address = (f"127.0.0.1:{free_port()}" for _ in range(2))
        redis = stack.enter_context(RedisServer(folder / "redis"))
        settings = json.dumps({"address": scheduler_address, "redis_url": redis.url})
        scheduler = start(stack, ["-c", _SCHEDULER, settings], folder / "scheduler.log")
        settings = json.dumps(
            {"schedulers": [scheduler_address], "address": worker_address, "seconds": arguments.milliseconds / 1000}
        )
        null = start(stack, ["-m", "benchmarks.null", "--worker", settings], folder / "worker.log")
        processes = {"client": psutil.Process(), "worker": null}
        everything = {**processes, "scheduler": scheduler, "redis": psutil.Process(redis.pid)}
        if arguments.pids:
            print({role: process.pid for role, process in everything.items()}, flush=True)
        async with zoofleet.AsyncClient(worker_address) as direct, zoofleet.AsyncClient(scheduler_address) as through:
            await direct.wait_ready(60)
            await through.wait_ready(60)
            ways = [
                *((f"worker, {way}", drive, processes) for way, drive in drives(direct, arguments.streams).items()),
                *(
                    (f"scheduler, {way}", drive, everything)
                    for way, drive in drives(through, arguments.streams).items()
                ),
                ("bulk job", job(through), everything),
            ]
            for way, drive, roles in ways:
                if re.search(arguments.only, way):
                    figures.append(await measure(way, drive, arguments.items, roles, arguments.rounds))
                    print(row(figures[-1]), flush=True)
    return figures


def row(figures: dict[str, Any]) -> str:
    cpu = figures["cpu_us"]
    cells = [f"{cpu[role]:.0f}" if role in cpu else "" for role in _ROLES]
    threads = ", ".join(f"{name} {us:.0f}" for name, us in sorted(figures["worker_thread_us"].items()) if us >= 1)
    return f"| {figures['way']} | {' | '.join(cells)} | {figures['items_per_second']:.0f} | {threads} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3, help="the cheapest one counts")
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--milliseconds", type=float, default=0.0, help="what the model takes an item, asleep")
    parser.add_argument("--only", default="", help="a regular expression that names of ways must match")
    parser.add_argument("--pids", action="store_true", help="print the processes, for a profiler")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(json.loads(arguments.worker))
        return
    print(f"On: {Machine.here()}\nZoofleet: {Path(zoofleet.__file__).parent}; CPU microseconds an item\n")
    print(f"| way | {' | '.join(_ROLES)} | items/s | worker's threads |")
    print("| --- " * (len(_ROLES) + 3) + "|")
    figures = asyncio.run(run(arguments))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
