"""Loading of cached published weights: what the worker does, beside what `get_model` does as the worker did before.

    python benchmarks/loading.py resnet50 vit_l_16

Each way runs in a process of its own, in turns, on one thread, with a file of made up numbers in the cache. Prints
seconds, wall and CPU, the least of a few runs, and the growth of the peak resident memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch

from zoofleet._catalog import ModelName, download
from zoofleet.models import get_model, get_model_weights
from zoofleet.worker import WorkerConfig
from zoofleet.worker.loading import make_runner


def write(name: ModelName) -> None:
    """Put a file of the published size into the cache."""
    url = get_model_weights(name.builder).named(name.weights).url
    path = download.cache_dir() / download.file_name(url)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(get_model(name.builder, weights=None).state_dict(), path)


def _hash_only(path: Path, name: str, advice: str) -> None:
    """Hash as the check does: no made up file has the digits of a published name."""
    import hashlib

    with path.open("rb") as file:
        hashlib.file_digest(file, "sha256")


def before(name: ModelName) -> None:
    """Load as workers did before: fetched and read, then built with random weights, and read again."""
    weights = get_model_weights(name.builder).named(name.weights)
    weights.get_state_dict(progress=False)
    with torch.random.fork_rng(devices=[]):
        module = get_model(name.builder, weights=weights, progress=False)
    module.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def measure(way: str, name: ModelName) -> None:
    """Print the figures of one way, as JSON."""
    torch.set_num_threads(1)
    download._check_hash = _hash_only
    process = psutil.Process()
    resident, wall, cpu = process.memory_info().rss, time.perf_counter(), time.process_time()
    if way == "before":
        before(name)
    else:
        make_runner(name, torch.device("cpu"), WorkerConfig(schedulers=(), device="cpu"))
    taken = (time.perf_counter() - wall, time.process_time() - cpu)
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(json.dumps([*taken, int(peak.split()[1]) * 1024 - resident]))


def main() -> None:
    """Measure the models that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", metavar="BUILDER")
    parser.add_argument("--runs", type=int, default=3, help="of each way")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        measure(arguments.way, ModelName.parse(arguments.models[0]))
        return
    print(f"{'model':24}{'way':8}{'wall s':>8}{'CPU s':>8}{'peak MB':>9}")
    for builder in arguments.models:
        with tempfile.TemporaryDirectory() as home:
            os.environ["TORCH_HOME"] = home
            write(ModelName.parse(builder))
            runs: dict[str, list[list[float]]] = {"before": [], "now": []}
            for _ in range(arguments.runs):
                for way, found in runs.items():
                    command = [sys.executable, __file__, "--way", way, builder]
                    found.append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
        for way, found in runs.items():
            wall, cpu, peak = (min(column) for column in zip(*found, strict=True))
            print(f"{builder:24}{way:8}{wall:8.2f}{cpu:8.2f}{peak / 1e6:9.0f}", flush=True)


if __name__ == "__main__":
    main()
