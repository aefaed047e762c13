"""Measures how long one interactive request takes on a worker that a bulk job keeps busy with the same model.

The worker runs in this process. A bulk stream always has more items than the worker takes; beside it one request at a
time is sent in a stream of its own. Then the same without the mark of bulk traffic, as if all items were equal. Prints
the requests' latencies beside the time of a batch. Run it with `python -m benchmarks.interactive`.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc.aio
from benchmarks.bulk import MEDIA

from zoofleet._catalog import ModelName
from zoofleet._wire.kinds import kind_of
from zoofleet._wire.traffic import BULK_METADATA
from zoofleet.v1 import vision_pb2
from zoofleet.worker import Worker, WorkerConfig
from zoofleet.worker.batcher import Batcher

_WARM_UP_SECONDS = 5.0


class Sent:
    """One client's stream to the worker.

    Args:
        channel: the channel to the worker.
        model: the model.
        bulk: whether the stream says that it is bulk.
    """

    def __init__(self, channel: grpc.aio.Channel, model: str, *, bulk: bool) -> None:
        self._kind = kind_of(ModelName.parse(model))
        self._call: grpc.aio.StreamStreamCall[Any, Any] = channel.stream_stream(
            self._kind.path,
            request_serializer=self._kind.request.SerializeToString,
            response_deserializer=self._kind.response.FromString,
        )(metadata=BULK_METADATA if bulk else ())
        self._first = self._kind.request(task=vision_pb2.Task(model=model))
        picture = (MEDIA / "rocket.jpg").read_bytes()
        self._item = self._kind.request(item=vision_pb2.Item(media=[vision_pb2.Media(data=picture)]))

    async def flood(self) -> None:
        """Send items for as long as the worker takes them, and read the results."""
        await self._call.write(self._first)

        async def write() -> None:
            while True:
                await self._call.write(self._item)

        async with asyncio.TaskGroup() as group:
            group.create_task(write())
            group.create_task(self._read())

    async def _read(self) -> None:
        async for _ in self._call:
            pass

    async def latencies(self, count: int) -> AsyncIterator[float]:
        """Send one item at a time, and yield the seconds until each has its result."""
        await self._call.write(self._first)
        for _ in range(count):
            began = time.perf_counter()
            await self._call.write(self._item)
            response: Any = await self._call.read()
            if response.result.HasField("error"):
                raise RuntimeError(response.result.error.message)
            latency = time.perf_counter() - began
            yield latency
            await asyncio.sleep(random.uniform(0, latency))  # or each would come right after a batch has begun

    def cancel(self) -> None:
        """End the stream."""
        self._call.cancel()


async def measure(worker: Worker, model: str, count: int, *, bulk: bool) -> tuple[list[float], list[float]]:
    """Return the requests' latencies, and the times of the batches meanwhile, in seconds."""
    batches: list[float] = []
    note = Batcher._note

    def noted(self: Batcher, flight: Any) -> None:
        batches.append(self._clock() - max(flight.began, self._landed))
        note(self, flight)

    async with grpc.aio.insecure_channel(worker.address) as channel:
        flood = Sent(channel, model, bulk=bulk)
        flooding = asyncio.create_task(flood.flood())
        await asyncio.sleep(_WARM_UP_SECONDS)
        single = Sent(channel, model, bulk=False)
        [_ async for _ in single.latencies(1)]
        single.cancel()
        Batcher._note = noted  # type: ignore[method-assign]
        single = Sent(channel, model, bulk=False)
        latencies = [seconds async for seconds in single.latencies(count)]
        Batcher._note = note  # type: ignore[method-assign]
        single.cancel()
        flooding.cancel()
        flood.cancel()
        await asyncio.wait([flooding])
    return latencies, batches


def _row(name: str, latencies: Sequence[float], batches: Sequence[float]) -> str:
    batch = statistics.median(batches)
    p50, p95 = statistics.median(latencies), statistics.quantiles(latencies, n=20)[-1]
    return f"{name:20} {1e3 * p50:10.0f} {1e3 * p95:10.0f} {1e3 * batch:10.0f} {p50 / batch:12.2f}"


async def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnet18@random")
    parser.add_argument("--count", type=int, default=40, help="requests to send")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    worker = Worker(WorkerConfig(schedulers=(), device=arguments.device))
    await worker.start()
    print(f"{arguments.model}, milliseconds")
    print(f"{'bulk stream':20} {'p50':>10} {'p95':>10} {'batch':>10} {'p50 / batch':>12}")
    for name, bulk in (("marked as bulk", True), ("not marked", False)):
        print(_row(name, *await measure(worker, arguments.model, arguments.count, bulk=bulk)), flush=True)
    await worker.stop()


if __name__ == "__main__":
    asyncio.run(main())
