"""Cancels many streams of a real worker process, then has it fill all its slots at once.

    python -m tests.worker.cancel_streams --count 20000

Ends with exit code 1 where a slot is missing. A thousand streams take some seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
import time
from typing import Any, Final

import grpc.aio
from tests.worker.calls import item, png, until
from tests.worker.fleet import Fleet, serving_fleet

from zoofleet.v1 import vision_pb2, vision_pb2_grpc

TASK = vision_pb2.Task(model="shufflenet_v2_x0_5@random")
SLOW = vision_pb2.Task(model="raft_small@random", estimate_flow=vision_pb2.EstimateFlowOptions(num_flow_updates=32))
IMAGE = png(128, 128, [bytes(128)] * 128)

_SETTLE_SECONDS: Final = 20.0


async def hang_up(vision: Any, dice: random.Random) -> None:
    """Open a stream, send items that take next to no time or a little, and cancel it at a random moment.

    Half of the streams have had a first result by then.
    """
    call = vision.Classify()
    data = item(dice.choice([b"x", b"x", b"x", IMAGE]))
    with contextlib.suppress(TimeoutError, asyncio.CancelledError, grpc.aio.AioRpcError):
        await call.write(vision_pb2.ClassifyRequest(task=TASK))
        await call.write(vision_pb2.ClassifyRequest(item=data))
        if dice.random() < 0.5:
            reading = asyncio.create_task(call.read())
            done, _ = await asyncio.wait([reading], timeout=_SETTLE_SECONDS)
            assert done, "a stream gets no result any more"
        async with asyncio.timeout(dice.uniform(0.0, 0.02)):
            while True:
                await call.write(vision_pb2.ClassifyRequest(item=data))
    call.cancel()


async def cancel(address: str, count: int, at_once: int = 16) -> None:
    """Cancel that many streams, some at a time."""
    dice = random.Random(count)
    left, done = count, 0
    begun = time.monotonic()

    async def one_after_another(vision: Any) -> None:
        nonlocal left, done
        while left > 0:
            left -= 1
            await hang_up(vision, dice)
            done += 1
            if done % 1000 == 0:
                print(f"{done} streams cancelled in {time.monotonic() - begun:.0f} s", flush=True)

    async with grpc.aio.insecure_channel(address) as channel:
        vision: Any = vision_pb2_grpc.VisionStub(channel)
        await asyncio.gather(*(one_after_another(vision) for _ in range(at_once)))


async def most_inflight(fleet: Fleet, address: str, wanted: int) -> int:
    """The items that the worker has at once where it is offered more than enough."""
    pair = vision_pb2.EstimateFlowRequest(item=item(IMAGE, IMAGE))

    async def offer(vision: Any) -> None:
        call = vision.EstimateFlow()
        await call.write(vision_pb2.EstimateFlowRequest(task=SLOW))
        while True:
            await call.write(pair)

    most = 0

    def filled() -> bool:
        nonlocal most
        most = max(most, fleet.status.inflight_items)
        return most >= wanted

    async with grpc.aio.insecure_channel(address) as channel:
        vision: Any = vision_pb2_grpc.VisionStub(channel)
        offers = [asyncio.create_task(offer(vision)) for _ in range(wanted // 32 + 1)]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(until(filled), _SETTLE_SECONDS)
        for each in offers:
            each.cancel()
        await asyncio.gather(*offers, return_exceptions=True)
    return most


async def check(count: int) -> tuple[int, int]:
    """Cancel that many streams; returns the slots that could be filled after that, and the slots that there are."""
    async with serving_fleet() as fleet:
        command = ("-m", "zoofleet", "worker", "--scheduler", fleet.address, "--device", "cpu", "--threads", "1")
        worker = await asyncio.create_subprocess_exec(sys.executable, *command, stderr=asyncio.subprocess.DEVNULL)
        try:
            await asyncio.wait_for(until(lambda: bool(fleet.registered)), _SETTLE_SECONDS)
            address, slots = fleet.registered[0].address, fleet.registered[0].max_inflight_items
            await cancel(address, count)
            await asyncio.wait_for(until(lambda: fleet.status.inflight_items == 0), _SETTLE_SECONDS)
            filled = await most_inflight(fleet, address, slots)
            worker.terminate()
            assert await asyncio.wait_for(worker.wait(), _SETTLE_SECONDS) == 0
        finally:
            if worker.returncode is None:
                worker.kill()
                await worker.wait()
    return filled, slots


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000, help="streams to cancel")
    filled, slots = asyncio.run(check(parser.parse_args().count))
    print(f"{filled} of {slots} slots can be filled")
    sys.exit(filled != slots)


if __name__ == "__main__":
    main()
