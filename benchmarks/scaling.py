"""Measures two workers of one thread beside one of them, in one run: calls at once, one stream, and a bulk job.

Both clusters run all the time and take turns; each has a Redis and a scheduler of its own. Two workers get twice the
images of one, so that beginning and end, where not all of them have work, weigh the same; the whole turn counts. Beside
them stands the machine's own limit: two plain in-process loops of one thread at once, beside one. The model is heavy
and the JPEGs are small: what decoding and the services take runs on the idle core beside one worker, and has no core of
its own beside two. Prints what it ran on. `make bench` runs it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from benchmarks.bulk import BATCH, Sampler, machine, make_images
from PIL import Image

from zoofleet import AsyncClient, Classify
from zoofleet._local.redis_server import RedisServer

CALLS = 32
"""Calls at once."""
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True)
class Cluster:
    """A scheduler with its workers: the client of it, and the processes by role."""

    client: AsyncClient
    roles: dict[str, psutil.Process]


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one turn: images per second, and CPU milliseconds per image by role."""

    rate: float
    cpu: dict[str, float]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "zoofleet", *arguments]


@contextmanager
def process(log: Path, arguments: Sequence[str]) -> Iterator[psutil.Process]:
    """A program, ended in good order."""
    with log.open("ab") as output:
        started = psutil.Popen(arguments, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **ONE_THREAD})
    try:
        yield started
    finally:
        started.send_signal(signal.SIGTERM)
        started.wait()


@asynccontextmanager
async def cluster(folder: Path, count: int, model: str) -> AsyncIterator[Cluster]:
    """A cluster of so many workers of one thread that have the model in memory."""
    with ExitStack() as stack, socket.socket() as probe:
        redis = stack.enter_context(RedisServer(folder / "redis"))
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
        probe.close()
        roles = {"client": psutil.Process(), "redis-server": psutil.Process(redis.pid)}
        arguments = command("scheduler", "--address", address, "--redis-url", redis.url)
        roles["scheduler"] = stack.enter_context(process(folder / "scheduler.log", arguments))
        for number in range(count):
            threads = ("--threads", "1", "--decode-threads", "1", "--device", "cpu")
            arguments = command("worker", "--scheduler", address, "--name", f"worker-{number}", *threads)
            roles[f"worker {number}"] = stack.enter_context(process(folder / f"worker-{number}.log", arguments))
        async with AsyncClient(address) as client:
            await client.wait_ready(60)
            names: list[str] = []
            async with asyncio.timeout(120):
                while len(names) < count:
                    await asyncio.sleep(0.2)
                    names = [worker.name async for worker in client.list_workers()]
            for name in names:
                await client.load_model(model, worker=name)
            yield Cluster(client, roles)


async def call_at_once(client: AsyncClient, model: str, images: Sequence[Path]) -> int:
    """Single calls, so many at once; returns how many were answered."""
    answered = 0
    queue = iter(images)

    async def caller() -> None:
        nonlocal answered
        for image in queue:
            await client.classify(image, model=model)
            answered += 1

    await asyncio.gather(*(caller() for _ in range(CALLS)))
    return answered


async def stream(client: AsyncClient, model: str, images: Sequence[Path]) -> int:
    """One stream; returns how many results it had."""
    return len([result async for result in client.stream(Classify(model), images) if result.error is None])


async def run_job(client: AsyncClient, model: str, images: Sequence[Path]) -> int:
    """A bulk job; returns how many results it had."""
    job = await client.create_job(images, [Classify(model)])
    results = [result async for result in client.read_results(job.name) if result.error is None]
    await client.delete_job(job.name)
    return len(results)


Way = Callable[[AsyncClient, str, Sequence[Path]], Awaitable[int]]
WAYS: dict[str, Way] = {f"{CALLS} calls at once": call_at_once, "one stream": stream, "bulk job": run_job}


async def turn(cluster: Cluster, way: Way, model: str, images: Sequence[Path]) -> Figures:
    sampler = Sampler(cluster.roles)
    began = time.perf_counter()
    count = await way(cluster.client, model, images)
    seconds = time.perf_counter() - began
    usage = sampler.close()
    if count != len(images):
        raise SystemExit(f"{count} results of {len(images)} images")
    return Figures(len(images) / seconds, {role: used.cpu_seconds / len(images) * 1000 for role, used in usage.items()})


class Loop:
    """A plain in-process loop of one thread, in a process of its own."""

    def __init__(self, stack: ExitStack, model: str, folder: Path) -> None:
        arguments = [sys.executable, "-m", "benchmarks.bulk", "--model", model, "--loop", str(folder)]
        self._process = stack.enter_context(
            subprocess.Popen(
                arguments,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, **ONE_THREAD},
            )
        )
        stack.callback(self._process.terminate)
        self._images = len(list(folder.glob("*.jpg")))
        self.answer()

    def go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def rate(self) -> float:
        return self._images / float(self.answer())


def limit(loops: Sequence[Loop]) -> list[float]:
    """Images per second of one loop alone, and of all at once."""
    rates = []
    for together in (loops[:1], loops):
        for one in together:
            one.go()
        rates.append(sum(one.rate() for one in together))
    return rates


async def measure(
    folder: Path, arguments: argparse.Namespace
) -> tuple[list[list[float]], dict[str, list[list[Figures]]]]:
    """The loops' rates, one and two, and the clusters' figures, one and two workers, by way: a list for each round."""
    images = make_images(folder, 2 * arguments.images)
    for image in images:
        Image.open(image).resize((256, 256)).save(image, quality=90)
    few = folder / "few"
    few.mkdir()
    for image in images[: 2 * BATCH]:
        (few / image.name).hardlink_to(image)
    size = sum(image.stat().st_size for image in images) / len(images) / 1024
    print(f"{arguments.images} JPEGs of 256 x 256 a worker, {size:.0f} KiB on average; {arguments.model}", flush=True)
    limits: list[list[float]] = []
    figures: dict[str, list[list[Figures]]] = defaultdict(list)
    with ExitStack() as stack:
        loops = [Loop(stack, arguments.model, few) for _ in range(2)]
        async with (
            cluster(folder / "one", 1, arguments.model) as one,
            cluster(folder / "two", 2, arguments.model) as two,
        ):
            for warm in (one, two):
                await call_at_once(warm.client, arguments.model, images[:CALLS])
            for _ in range(arguments.rounds):
                limits.append(limit(loops))
                print(f"  loops: {limits[-1][0]:.2f}, {limits[-1][1]:.2f} images/s", flush=True)
                for name, way in WAYS.items():
                    pair = [
                        await turn(one, way, arguments.model, images[: arguments.images]),
                        await turn(two, way, arguments.model, images),
                    ]
                    figures[name].append(pair)
                    print(f"  {name}: {pair[0].rate:.2f}, {pair[1].rate:.2f} images/s", flush=True)
    return limits, figures


def report(limits: list[list[float]], figures: dict[str, list[list[Figures]]], model: str) -> None:
    """Print the figures as the Markdown tables that docs/benchmarks.md holds."""
    print(f"\nOn: {machine()}\nModel: {model}, float32, one thread a worker, {len(limits)} rounds\n")
    print("| images/s | one worker | two workers | ratio | of the limit |\n| --- | --- | --- | --- | --- |")
    alone, together = np.mean(limits, axis=0)
    print(f"| in-process loops: the limit | {alone:.2f} | {together:.2f} | {together / alone:.2f} | |")
    for name, rounds in figures.items():
        one, two = (float(np.mean([pair[k].rate for pair in rounds])) for k in range(2))
        share = two / one / (together / alone)
        print(f"| {name} | {one:.2f} | {two:.2f} | {two / one:.2f} | {share:.0%} |")
    print("\n| CPU ms per image | client | redis-server | scheduler | each worker |\n| --- | --- | --- | --- | --- |")
    for name, rounds in figures.items():
        for k, workers in enumerate(("one worker", "two workers")):
            cpu = {role: float(np.mean([pair[k].cpu[role] for pair in rounds])) for role in rounds[0][k].cpu}
            worked = " + ".join(f"{value:.1f}" for role, value in cpu.items() if role.startswith("worker"))
            services = " | ".join(f"{cpu[role]:.1f}" for role in ("client", "redis-server", "scheduler"))
            print(f"| {name}, {workers} | {services} | {worked} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="vit_b_16@random")
    parser.add_argument("--images", type=int, default=128, help="for each worker")
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="zoofleet-bench-") as name:
        limits, figures = asyncio.run(measure(Path(name), arguments))
    report(limits, figures, arguments.model)


if __name__ == "__main__":
    main()
