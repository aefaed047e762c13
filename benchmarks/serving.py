"""Measures Zoofleet beside what else could run the same models on this machine, in one run on the same cores.

The bare model, which is fed batches that were decoded before; the limit, which is the better one of a pipelined loop in
one process and a process of one thread for each core; a plain gRPC server with a hand-written batcher; LitServe; and
Zoofleet with its scheduler and Redis. All decode, preprocess and run alike (`rivals/engine.py`), which is checked:
their answers must agree before anything is measured. They take turns with the same items, several rounds, so that a
machine that changes speed changes it for all. `make bench` runs it and writes docs/data/bench.json, from which
`scripts/bench --report` draws docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from benchmarks import report
from benchmarks.cluster import Cluster, cluster
from benchmarks.contestants import Contestant, LitServe, Loops, PlainGrpc, Setup, Zoofleet, take_turn
from benchmarks.machine import Machine
from benchmarks.media import make_clips, make_images

from zoofleet import Classification, Detections, Result, Segmentation
from zoofleet._catalog import ModelName
from zoofleet._values.tasks import Precision
from zoofleet._wire.kinds import kind_of
from zoofleet.errors import ZoofleetError
from zoofleet.worker.config import WorkerConfig

FILES = 64
"""Different files: more than the batches that wait and run at once have."""
CLIPS = 8
ROUNDS_WITHIN = 90.0
"""Seconds of turns after which a model at a precision has no further round; it has one always."""
ONE_CALL_SHARE = 0.2
"""Of the items of a turn, how many are sent one at a time."""
MODELS: Final[tuple[tuple[str, str], ...]] = (
    ("resnet18@random", "512x512"),
    ("resnet18@random", "500x375"),
    ("resnet50@random", "500x375"),
    ("mobilenet_v3_large@random", "500x375"),
    ("ssdlite320_mobilenet_v3_large@SHAPES_V1", "512x512"),
    ("maskrcnn_resnet50_fpn@random", "500x375"),
    ("lraspp_mobilenet_v3_large@SHAPES_V1", "500x375"),
    ("r3d_18@random", "clips"),
)
"""Each with the media that it is run on. Random weights where the published ones would have to be downloaded."""
QUICK: Final[tuple[tuple[str, str], ...]] = (("mobilenet_v3_large@random", "500x375"),)


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured: seconds of a turn, rounds, and the most items of a turn."""

    seconds: float
    rounds: int
    most: int


def same(one: Result, other: Result, tolerance: float) -> bool:
    """Whether two results say the same, but for rounding: scores may differ by the tolerance."""
    a, b = one.outcome, other.outcome
    if isinstance(a, Classification) and isinstance(b, Classification):
        # The same top-1; or, where two categories are equal but for rounding, another one with its score.
        score = dict(zip(b.labels.tolist(), b.scores.tolist(), strict=True)).get(int(a.labels[0]), 0.0)
        return bool(abs(score - float(b.scores[0])) <= tolerance * float(b.scores[0]))
    if isinstance(a, Segmentation) and isinstance(b, Segmentation):
        return a.label_map.shape == b.label_map.shape and float((a.label_map == b.label_map).mean()) >= 1 - tolerance
    if isinstance(a, Detections) and isinstance(b, Detections):
        return has_all(a, b, tolerance) and has_all(b, a, tolerance)
    return False


def has_all(one: Detections, other: Detections, tolerance: float) -> bool:
    """Whether all objects of `other` are in `one`, but for those that the threshold, 0.5, may drop by rounding."""
    sure = other.scores > 0.5 + tolerance
    if sure.any() and (one.rles is None) != (other.rles is None):
        return False
    return all(
        any(one.labels[k] == label and np.abs(one.boxes[k] - box).max() <= 2.0 for k in range(len(one)))
        for label, box in zip(other.labels[sure], other.boxes[sure], strict=True)
    )


async def check_answers(contestants: Sequence[Contestant], precision: Precision, count: int) -> str:
    """Fail where a contestant answers anything else than the first one, or at another precision.

    Returns:
        The precision of all answers. EXACT where FAST was asked for and no plan is faster.
    """
    tolerance = 0.001 if precision is Precision.EXACT else 0.05
    first, *others = contestants
    expected = await first.answers(count)
    for contestant in others:
        contestant.wake()
        found = await contestant.answers(count)
        contestant.rest()
        for number, (one, other) in enumerate(zip(expected, found, strict=True)):
            if isinstance(other.outcome, ZoofleetError):
                raise SystemExit(f"{contestant.name} answers item {number} with {other.outcome}")
            if one.precision != other.precision:
                raise SystemExit(f"{contestant.name} ran at {other.precision}, {first.name} at {one.precision}")
            if not same(one, other, tolerance):
                raise SystemExit(f"{contestant.name} answers item {number} with {other.outcome}, not {one.outcome}")
    return expected[0].precision.removeprefix("PRECISION_")


async def measure_one(setup: Setup, shared: Cluster, effort: Effort) -> dict[str, Any]:
    """All contestants with one model at one precision: what it was served at, and each way of each contestant."""
    batch = WorkerConfig().batch_size(kind_of(ModelName.parse(setup.model)).field)
    with ExitStack() as stack:
        # One after the other: the first ones may build plans, whose timing nothing else should disturb.
        zoofleet = Zoofleet(setup, shared)
        await zoofleet.start()
        loops = Loops(setup, stack)
        await loops.start()
        rivals = [PlainGrpc(setup, stack), LitServe(setup, stack, batch)]
        await asyncio.gather(*(rival.start() for rival in rivals))
        contestants: list[Contestant] = [loops, *rivals, zoofleet]
        for contestant in contestants:
            contestant.rest()
        served = await check_answers(contestants, setup.precision, max(batch // 2, 2))
        print(f"  served at {served}", flush=True)
        rate = 0.0
        for contestant in contestants:  # also as a warm-up
            for way in contestant.ways:
                turn, _ = await take_turn(contestant, way, 2 if way == "one call" else 2 * batch)
                rate = turn.rate if way == "pipelined loop" else rate
        # Whole batches, so that no way is at a loss by the last one.
        count = min(max(round(rate * effort.seconds / batch), 2) * batch, effort.most)
        print(f"  {count} items a turn", flush=True)
        rounds: dict[tuple[str, str], list[dict[str, Any]]] = {}
        began = time.monotonic()
        for number in range(effort.rounds):
            shift = number % len(contestants)  # nobody always follows the same one
            for contestant in (*contestants[shift:], *contestants[:shift]):
                for way in contestant.ways:
                    items = max(round(count * ONE_CALL_SHARE), 2) if way == "one call" else count
                    _, record = await take_turn(contestant, way, items)
                    rounds.setdefault((contestant.name, way), []).append(record)
                    print(f"  {contestant.name}, {way}: {record['rate']:.2f} items/s", flush=True)
            if time.monotonic() - began > ROUNDS_WITHIN:
                break
    await shared.client.unload_model(setup.model)
    ways = [
        {"contestant": name, "way": way, "count": count, "rounds": records} for (name, way), records in rounds.items()
    ]
    return {"served": served, "ways": ways}


def make_media(folder: Path, media: str) -> Path:
    """The folder of files that a model is run on; made where it is not there yet."""
    files = folder / media
    if not files.exists():
        files.mkdir()
        if media == "clips":
            make_clips(files, CLIPS)
        else:
            width, height = media.split("x")
            make_images(files, FILES, (int(width), int(height)))
    return files


async def measure(folder: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A record for each model and precision, with its contestants."""
    models = QUICK if arguments.quick else MODELS
    if arguments.models:
        models = tuple(row for row in MODELS if any(row[0].startswith(name) for name in arguments.models))
    effort = Effort(0.0, 1, 32) if arguments.quick else Effort(arguments.seconds, arguments.rounds, 5000)
    threads = arguments.threads or len(os.sched_getaffinity(0))
    found = []
    async with AsyncExitStack() as stack:
        shared = await stack.enter_async_context(cluster(folder, 1, threads))
        for model, media in models:
            files = make_media(folder, media)
            encoded = [path.read_bytes() for path in sorted(files.iterdir())]
            size = sum(map(len, encoded)) / len(encoded) / 1024
            for precision in arguments.precisions:
                print(f"{model}, {media} ({size:.0f} KiB), {precision}, {threads} threads", flush=True)
                setup = Setup(model, Precision[precision], files, encoded, threads, folder)
                of = {"model": model, "media": media, "precision": precision, "threads": threads}
                found.append(of | await measure_one(setup, shared, effort))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", metavar="PREFIX", help="only those whose names begin so")
    parser.add_argument("--precisions", nargs="+", default=["EXACT", "FAST"], choices=["EXACT", "FAST"])
    parser.add_argument("--seconds", type=float, default=2.5, help="of a turn of the pipelined loop")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, help="of each contestant; one for each core unless said otherwise")
    parser.add_argument("--quick", action="store_true", help="one small model and few items; nothing is written")
    parser.add_argument("--json", type=Path, help="write the figures here rather than to docs/data/bench.json")
    parser.add_argument("--report", action="store_true", help="measure nothing, draw docs/benchmarks.md from the data")
    parser.add_argument("--keep", type=Path, help="a folder for the logs")
    arguments = parser.parse_args()
    if arguments.report:
        report.write()
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended, as after Ctrl-C
    machine = Machine.here()
    print(f"On: {machine}", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="zoofleet-bench-") as name:
        try:
            cells = asyncio.run(measure(Path(name), arguments))
        finally:
            if arguments.keep:
                shutil.copytree(name, arguments.keep, dirs_exist_ok=True, ignore=shutil.ignore_patterns("redis"))
    run = {"machine": asdict(machine), "date": f"{datetime.now(UTC):%Y-%m-%d}", "cells": cells}
    print(f"\nOn: {machine}\n\n{report.tables(run)}\nIn {(time.monotonic() - began) / 60:.1f} minutes.")
    if arguments.json or not arguments.quick:
        report.add(run, arguments.json or report.DATA)


if __name__ == "__main__":
    main()
