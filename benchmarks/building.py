"""Measures what a search for plans costs the requests served meanwhile, and how soon a restarted worker is FAST.

One client asks a worker for one image after the other, first while nothing else happens, then while plans of the same
model are searched; then a new worker process's first FAST result is waited for, from the same cache.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from zoofleet import Classify, Client, Item, PlanState, Precision

STILL_SECONDS = 20.0
"""How long requests are measured while nothing is searched."""


class Worker:
    """A worker process of its own, without a scheduler."""

    def __init__(self, cache: str, port: int) -> None:
        self.address = f"127.0.0.1:{port}"
        command = [sys.executable, "-m", "zoofleet", "worker", "--standalone", "--address", self.address]
        self.started = time.monotonic()
        self._process = subprocess.Popen(
            [*command, "--threads", "1", "--plan-cache", cache], env={**os.environ, "OMP_NUM_THREADS": "1"}
        )

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()


def picture() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.jpg")
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)).resize((640, 480)).save(path)
        return path.read_bytes()


def latency(client: Client, model: str, image: bytes) -> float:
    start = time.perf_counter()
    client.classify(image, model=model, precision=Precision.EXACT)
    return time.perf_counter() - start


def show(name: str, seconds: list[float]) -> None:
    p50, p99 = np.percentile(seconds, [50, 99]) * 1e3
    print(f"| {name} | {len(seconds)} | {p50:.1f} ms | {p99:.1f} ms |", flush=True)


def is_fast(client: Client, model: str, image: bytes) -> bool:
    (result,) = client.stream(Classify(model, precision=Precision.FAST), [Item(image)])
    return result.precision == "PRECISION_FAST"


def is_building(client: Client, model: str) -> bool:
    name = model.partition("@")[0]
    loaded = [place for each in client.list_models() if each.name == f"models/{name}" for place in each.loaded_models]
    return any(plan.state is PlanState.BUILDING for place in loaded for plan in place.plans)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="resnet50@random")
    parser.add_argument("--port", type=int, default=50971)
    given = parser.parse_args()
    image = picture()
    with tempfile.TemporaryDirectory() as cache:
        worker = Worker(cache, given.port)
        try:
            with Client(worker.address) as client:
                latency(client, given.model, image)
                still: list[float] = []
                building: list[float] = []
                while sum(still) < STILL_SECONDS:
                    still.append(latency(client, given.model, image))
                show("nothing is searched", still)
                is_fast(client, given.model, image)
                while is_building(client, given.model):
                    building += [latency(client, given.model, image) for _ in range(10)]
                show("plans are searched", building)
        finally:
            worker.stop()
        again = Worker(cache, given.port + 1)
        try:
            with Client(again.address) as client:
                latency(client, given.model, image)
                answered = time.monotonic() - again.started
                while not is_fast(client, given.model, image):
                    time.sleep(0.02)
                fast = time.monotonic() - again.started
            print(f"a restarted worker: first result after {answered:.1f} s, first FAST one after {fast:.1f} s")
        finally:
            again.stop()


if __name__ == "__main__":
    main()
