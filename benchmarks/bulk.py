"""Measures the cluster beside a plain in-process loop on the same JPEGs, in one run.

Both decode with Pillow, apply the model's preset and run float32 batches of 16. The two take turns, so that a machine
that changes speed changes it for both. Prints what it ran on. Run it with `make bench`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

import zoofleet
from zoofleet import Client, Task

MEDIA = Path(__file__).parent.parent / "tests" / "data" / "media"
BATCH = 16


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process took: CPU seconds during the measurement, and peak resident bytes."""

    cpu_seconds: float
    peak_bytes: int


def make_images(folder: Path, count: int) -> list[Path]:
    """Different 500 x 375 JPEGs (ImageNet's usual size), cut from real photographs."""
    rng = np.random.default_rng(0)
    sources = [Image.open(path).convert("RGB") for path in sorted((*MEDIA.glob("*.png"), *MEDIA.glob("*.jpg")))]
    paths = []
    for index in range(count):
        source = sources[index % len(sources)]
        scale = rng.uniform(0.6, 1.0)
        width, height = int(source.width * scale), int(source.height * scale)
        x, y = (int(rng.integers(0, room + 1)) for room in (source.width - width, source.height - height))
        path = folder / f"{index:04}.jpg"
        source.crop((x, y, x + width, y + height)).resize((500, 375)).save(path, quality=90)
        paths.append(path)
    return paths


def loop(model_name: str, folder: Path) -> None:
    """The in-process side, in a process of its own: for each line on stdin, runs all images and prints the seconds."""
    import torch  # only this side loads it

    import zoofleet.models as models

    builder, _, weights = model_name.partition("@")
    torch.manual_seed(0)
    model = models.get_model(builder, weights=None if weights == "random" else weights).eval()
    preset = models.get_model_weights(builder).DEFAULT.transforms()
    paths = sorted(folder.glob("*.jpg"))

    def run(batch: list[Path]) -> None:
        images = []
        for path in batch:
            with Image.open(path) as image:
                images.append(preset(image.convert("RGB")))
        model(torch.stack(images)).softmax(1).topk(5)

    with torch.inference_mode():
        run(paths[:BATCH])
        print("ready", flush=True)
        for _ in sys.stdin:
            started = time.perf_counter()
            for start in range(0, len(paths), BATCH):
                run(paths[start : start + BATCH])
            print(time.perf_counter() - started, flush=True)


class Sampler:
    """Samples CPU time and resident memory of processes until closed."""

    def __init__(self, roles: dict[str, psutil.Process]) -> None:
        self._roles = roles
        self._peak = dict.fromkeys(roles, 0)
        self._before = {role: _cpu_seconds(process) for role, process in roles.items()}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.05):
            for role, process in self._roles.items():
                self._peak[role] = max(self._peak[role], process.memory_info().rss)

    def close(self) -> dict[str, Usage]:
        """Stop, and return what each process took meanwhile."""
        self._stop.set()
        self._thread.join()
        return {
            role: Usage(_cpu_seconds(process) - self._before[role], self._peak[role])
            for role, process in self._roles.items()
        }


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def cluster(folder: Path) -> Iterator[tuple[str, dict[str, psutil.Process]]]:
    """A `zoofleet up`; yields the scheduler's address and the processes by role."""
    ready = folder / "address"
    with (folder / "up.log").open("wb") as log:
        up = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "zoofleet",
                "up",
                "--port",
                "0",
                "--data-dir",
                folder / "data",
                "--ready-file",
                ready,
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        while not ready.exists() or not ready.read_text():
            if up.poll() is not None:
                raise SystemExit((folder / "up.log").read_text())
            time.sleep(0.1)
        yield ready.read_text().strip(), _roles(psutil.Process(up.pid))
    finally:
        up.send_signal(signal.SIGINT)
        up.wait()


def _roles(up: psutil.Process) -> dict[str, psutil.Process]:
    roles = {"up": up}
    for child in up.children(recursive=True):
        command = child.cmdline()
        for role in ("redis-server", "scheduler", "worker"):
            # redis-server rewrites its command line.
            if child.name() == role or any(part.endswith(role) for part in command[:4]):
                roles[role] = child
    return roles


def run_job(client: Client, model_name: str, paths: list[Path]) -> float:
    """Seconds from the first byte sent to the last result read."""
    started = time.perf_counter()
    job = client.create_job(paths, [Task(model_name)])
    results = list(client.read_results(job.name, follow=True))
    elapsed = time.perf_counter() - started
    failed = [result for result in results if result.error is not None]
    if failed or len(results) != len(paths):
        raise SystemExit(
            f"{len(results)} results, {len(failed)} errors, the first: {failed[0].error if failed else None}"
        )
    client.delete_job(job.name)
    return elapsed


async def request_latencies(
    targets: dict[str, str], model_name: str, image: bytes, count: int
) -> dict[str, list[float]]:
    """Seconds of single requests on an idle cluster, the targets taking turns; each on a stream of its own."""
    latencies: dict[str, list[float]] = {name: [] for name in targets}
    clients = {name: zoofleet.AsyncClient(address) for name, address in targets.items()}
    try:
        for turn in range(count + 5):
            for name, client in clients.items():
                started = time.perf_counter()
                await client.classify(image, model=model_name)
                if turn >= 5:  # the first ones connect and warm up
                    latencies[name].append(time.perf_counter() - started)
    finally:
        for client in clients.values():
            await client.close()
    return latencies


def machine() -> str:
    """What this ran on."""
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    memory = psutil.virtual_memory().total / 2**30
    from importlib.metadata import version

    return (
        f"{cpu}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, torch {version('torch')}, grpcio {version('grpcio')}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnet50@random")
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--loop", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    if arguments.loop:
        loop(arguments.model, arguments.loop)
        return
    with tempfile.TemporaryDirectory(prefix="zoofleet-bench-") as name:
        figures = measure(Path(name), arguments)
    report(figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1))


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, object]:
    """All figures, by name."""
    images = folder / "images"
    images.mkdir()
    paths = make_images(images, arguments.images)
    size = sum(path.stat().st_size for path in paths)
    print(
        f"{len(paths)} JPEGs of 500 x 375, {size / len(paths) / 1024:.0f} KiB on average; {arguments.model}, float32",
        flush=True,
    )
    with (
        subprocess.Popen(
            [sys.executable, __file__, "--model", arguments.model, "--loop", images],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as reference,
        cluster(folder) as (address, roles),
        Client(address) as client,
    ):
        assert reference.stdin is not None
        assert reference.stdout is not None
        if reference.stdout.readline().strip() != "ready":
            raise SystemExit("the in-process loop did not start")
        client.load_model(arguments.model)
        run_job(client, arguments.model, paths[:BATCH])
        loop_seconds: list[float] = []
        job_seconds: list[float] = []
        usages: list[dict[str, Usage]] = []
        for _ in range(arguments.rounds):
            sampler = Sampler({"loop": psutil.Process(reference.pid)})
            reference.stdin.write("go\n")
            reference.stdin.flush()
            loop_seconds.append(float(reference.stdout.readline()))
            usage = sampler.close()
            sampler = Sampler(roles | {"client": psutil.Process()})
            job_seconds.append(run_job(client, arguments.model, paths))
            usages.append(usage | sampler.close())
            print(f"  in-process {loop_seconds[-1]:.1f} s, cluster {job_seconds[-1]:.1f} s", flush=True)
        reference.stdin.close()
        worker = next(iter(client.list_workers())).address
        latencies = asyncio.run(
            request_latencies(
                {"through the scheduler": address, "to the worker": worker},
                arguments.model,
                paths[0].read_bytes(),
                arguments.requests,
            )
        )
    return {
        "machine": machine(),
        "model": arguments.model,
        "images": len(paths),
        "rounds": arguments.rounds,
        "loop_seconds": loop_seconds,
        "job_seconds": job_seconds,
        "cpu_seconds": {role: [usage[role].cpu_seconds for usage in usages] for role in usages[0]},
        "peak_bytes": {role: max(usage[role].peak_bytes for usage in usages) for role in usages[0]},
        "latency_seconds": latencies,
    }


def report(figures: dict[str, object]) -> None:
    """Print the figures as the Markdown tables that docs/benchmarks.md holds."""
    images = figures["images"]
    loop_seconds, job_seconds = figures["loop_seconds"], figures["job_seconds"]
    assert isinstance(images, int)
    assert isinstance(loop_seconds, list)
    assert isinstance(job_seconds, list)
    rate, job_rate = (images * len(s) / sum(s) for s in (loop_seconds, job_seconds))
    print(
        f"\nOn: {figures['machine']}\nModel: {figures['model']}, float32, {images} JPEGs, {figures['rounds']} rounds\n"
    )
    print("| | images/s | ratio |\n| --- | --- | --- |")
    print(f"| in-process loop, batch {BATCH} | {rate:.2f} | 1 |")
    print(f"| bulk job through the cluster | {job_rate:.2f} | {job_rate / rate:.2f} |")
    latencies = figures["latency_seconds"]
    assert isinstance(latencies, dict)
    print("\n| single request, idle | p50 | p99 |\n| --- | --- | --- |")
    for name, seconds in latencies.items():
        p50, p99 = np.percentile(seconds, [50, 99]) * 1000
        print(f"| {name} | {p50:.1f} ms | {p99:.1f} ms |")
    medians = [float(np.median(seconds)) * 1000 for seconds in latencies.values()]
    print(f"\nThe scheduler adds {medians[0] - medians[1]:.1f} ms at p50.")
    cpu, peak = figures["cpu_seconds"], figures["peak_bytes"]
    assert isinstance(cpu, dict)
    assert isinstance(peak, dict)
    print("\n| process | CPU ms per image | peak resident |\n| --- | --- | --- |")
    for role, seconds in cpu.items():
        per_image = sum(seconds) / len(seconds) / images * 1000
        print(f"| {role} | {per_image:.1f} | {peak[role] / 2**20:.0f} MiB |")


if __name__ == "__main__":
    main()
