"""Loops in one process, which nothing comes in to and nothing goes out of: the limit of what a server can give.

A process of its own, told what to do on stdin: a line of JSON with a `way` and a `count` of items; it answers with the
seconds, or with the answers themselves.

`bare`: batches that were decoded before, the model alone. `serial`: decode a batch, run it, finish it, in one thread.
`pipelined`: threads decode and finish while the main thread runs batches, as a worker does.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from benchmarks.rivals.engine import Engine, add_arguments, media_of

from zoofleet._values.tasks import Precision
from zoofleet.v1 import vision_pb2
from zoofleet.worker.batcher import use_threads
from zoofleet.worker.runner import Prepared

AHEAD = 3
"""Batches that are decoded or being decoded while one runs."""


class Loop:
    def __init__(self, engine: Engine, media: list[bytes], threads: int) -> None:
        self._engine = engine
        self._media = media
        self._pool = ThreadPoolExecutor(threads, initializer=use_threads, initargs=(1,))

    def bare(self, count: int) -> int:
        first = self._engine.prepare(self._media[0])
        batch = [first] * first.max_batch
        plan = self._engine.plan(first)
        began = time.perf_counter_ns()
        for start in range(0, count, len(batch)):
            self._engine.forward(batch[: count - start], plan)
        return time.perf_counter_ns() - began

    def serial(self, count: int) -> int:
        began = time.perf_counter_ns()
        self._run(self._engine.prepare(media) for media in self._cycle(count))
        return time.perf_counter_ns() - began

    def pipelined(self, count: int) -> int:
        began = time.perf_counter_ns()
        answers: list[Future[vision_pb2.Result]] = []
        for batch in self._batches(self._decoded(count)):
            plan = self._engine.plan(batch[0])
            for prepared, raw in zip(batch, self._engine.forward(batch, plan), strict=True):
                answers.append(self._pool.submit(self._engine.finish, prepared, raw, plan))
        if sum(answer.result() is not None for answer in answers) != count:
            raise SystemExit("the loop lost items")
        return time.perf_counter_ns() - began

    def answers(self, count: int) -> list[vision_pb2.Result]:
        """One at a time, in order."""
        return [self._run(iter([self._engine.prepare(media)]))[0] for media in self._cycle(count)]

    def _run(self, items: Iterator[Prepared]) -> list[vision_pb2.Result]:
        found = []
        for batch in self._batches(items):
            plan = self._engine.plan(batch[0])
            raws = self._engine.forward(batch, plan)
            found += [self._engine.finish(prepared, raw, plan) for prepared, raw in zip(batch, raws, strict=True)]
        return found

    def _cycle(self, count: int) -> Iterator[bytes]:
        return (self._media[k % len(self._media)] for k in range(count))

    def _decoded(self, count: int) -> Iterator[Prepared]:
        """Decode in the pool, in order, so far ahead that a batch is ready when the last one is done."""
        media = self._cycle(count)
        pending: deque[Future[Prepared]] = deque()
        ahead = AHEAD * self._engine.prepare(self._media[0]).max_batch
        while True:
            pending.extend(self._pool.submit(self._engine.prepare, one) for one in islice(media, ahead - len(pending)))
            if not pending:
                return
            yield pending.popleft().result()

    @staticmethod
    def _batches(items: Iterator[Prepared]) -> Iterator[list[Prepared]]:
        """Batches of items with equal keys, each run as soon as it is full."""
        waiting: dict[tuple[int, ...], list[Prepared]] = {}
        for item in items:
            batch = waiting.setdefault(item.key, [])
            batch.append(item)
            if len(batch) >= item.max_batch:
                yield waiting.pop(item.key)
        yield from waiting.values()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    arguments = parser.parse_args()
    media = media_of(arguments)
    engine = Engine(arguments.model, Precision[arguments.precision], arguments.threads)
    engine.wait(media[0])
    loop = Loop(engine, media, arguments.threads)
    ways: dict[str, Callable[[int], int]] = {"bare": loop.bare, "serial": loop.serial, "pipelined": loop.pipelined}
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["way"] == "answers":
            found = [base64.b64encode(result.SerializeToString()).decode() for result in loop.answers(asked["count"])]
            print(json.dumps(found), flush=True)
        else:
            print(ways[asked["way"]](asked["count"]) / 1e9, flush=True)


if __name__ == "__main__":
    main()
