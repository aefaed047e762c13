"""Measures two workers of one thread beside one of them, in one run: calls at once, one stream, and a bulk job.

Both clusters run all the time and take turns; each has a Redis and a scheduler of its own. Two workers get twice the
images of one, so that beginning and end, where not all of them have work, weigh the same; the whole turn counts. Beside
them stands the machine's own limit: two plain in-process loops of one thread at once, beside one. The model is heavy
and the JPEGs are small: what decoding and the services take runs on the idle core beside one worker, and has no core of
its own beside two. Prints what it ran on. `make bench-scaling` runs it.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.cluster import cluster
from benchmarks.contestants import CALLS, LoopProcess, Setup, Zoofleet, take_turn
from benchmarks.machine import Machine
from benchmarks.media import make_images

from zoofleet._values.tasks import Precision

WAYS = {"calls": f"{CALLS} calls at once", "stream": "one stream", "bulk": "bulk job"}
LOOP_IMAGES = 32
"""Images of a loop's turn: two batches."""


async def limit(loops: Sequence[LoopProcess]) -> list[float]:
    """Images per second of one loop alone, and of all at once."""
    rates = []
    for together in (loops[:1], loops):
        for one in together:
            one.tell("serial", LOOP_IMAGES)
        rates.append(sum([LOOP_IMAGES / float(await one.answer()) for one in together]))
    return rates


async def measure(
    folder: Path, arguments: argparse.Namespace
) -> tuple[list[list[float]], dict[str, list[list[dict[str, Any]]]]]:
    """The loops' rates, one and two, and the clusters' records, one and two workers, by way: a list for each round."""
    images = folder / "images"
    images.mkdir()
    encoded = [image.read_bytes() for image in make_images(images, 2 * arguments.images, (256, 256))]
    size = sum(map(len, encoded)) / len(encoded) / 1024
    print(f"{arguments.images} JPEGs of 256 x 256 a worker, {size:.0f} KiB on average; {arguments.model}", flush=True)
    setup = Setup(arguments.model, Precision.EXACT, images, encoded, 1, folder)
    limits: list[list[float]] = []
    records: dict[str, list[list[dict[str, Any]]]] = defaultdict(list)
    with ExitStack() as stack:
        loops = [LoopProcess(setup, stack, 1) for _ in range(2)]
        for one in loops:
            await one.answer()
        async with cluster(folder / "one", 1, 1) as first, cluster(folder / "two", 2, 1) as second:
            clusters = [Zoofleet(setup, first), Zoofleet(setup, second)]
            for warm in clusters:
                await warm.start()
                await warm.turn("calls", CALLS)
            for _ in range(arguments.rounds):
                limits.append(await limit(loops))
                print(f"  loops: {limits[-1][0]:.2f}, {limits[-1][1]:.2f} images/s", flush=True)
                for way, name in WAYS.items():
                    pair = [
                        (await take_turn(one, way, workers * arguments.images))[1]
                        for workers, one in enumerate(clusters, 1)
                    ]
                    records[name].append(pair)
                    print(f"  {name}: {pair[0]['rate']:.2f}, {pair[1]['rate']:.2f} images/s", flush=True)
    return limits, records


def report(limits: list[list[float]], records: dict[str, list[list[dict[str, Any]]]], model: str) -> None:
    """Print the figures as the Markdown tables that docs/benchmarks.md holds."""
    print(f"\nOn: {Machine.here()}\nModel: {model}, float32, one thread a worker, {len(limits)} rounds\n")
    print("| images/s | one worker | two workers | ratio | of the limit |\n| --- | --- | --- | --- | --- |")
    alone, together = np.mean(limits, axis=0)
    print(f"| in-process loops: the limit | {alone:.2f} | {together:.2f} | {together / alone:.2f} | |")
    for name, rounds in records.items():
        one, two = (float(np.mean([pair[k]["rate"] for pair in rounds])) for k in range(2))
        share = two / one / (together / alone)
        print(f"| {name} | {one:.2f} | {two:.2f} | {two / one:.2f} | {share:.0%} |")
    print("\n| CPU ms per image | client | redis-server | scheduler | each worker |\n| --- | --- | --- | --- | --- |")
    for name, rounds in records.items():
        for k, workers in enumerate(("one worker", "two workers")):
            each = [pair[k]["cpu_ms"] for pair in rounds]
            cpu = {role: float(np.mean([one[role] for one in each])) for role in each[0]}
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
        limits, records = asyncio.run(measure(Path(name), arguments))
    report(limits, records, arguments.model)


if __name__ == "__main__":
    main()
