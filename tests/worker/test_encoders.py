"""Answers come back to the event loop together, and none waits for a slow one."""

from __future__ import annotations

import asyncio
import threading
import time

from tests.worker.calls import until

from zoofleet.worker.encoders import Encoders


async def test_each_answer_is_delivered_once_and_those_of_a_batch_together() -> None:
    delivered: list[int] = []
    turns: set[int] = set()
    count = 0

    def deliver(answer: int) -> None:
        assert threading.current_thread() is threading.main_thread()
        delivered.append(answer)
        turns.add(count)

    encoders = Encoders(2, deliver)
    gate = threading.Event()
    for _ in range(2):
        encoders.post(lambda: gate.wait(20) and -1)
    for number in range(200):
        encoders.post(lambda number=number: number)  # type: ignore[misc]
    gate.set()
    while len(delivered) < 202:
        await asyncio.sleep(0)
        count += 1
    encoders.close(wait=True)
    assert sorted(delivered) == [-1, -1, *range(200)]
    assert len(turns) < 20


async def test_an_answer_does_not_wait_for_the_next_one() -> None:
    delivered: list[str] = []
    encoders = Encoders(1, delivered.append)
    gate = threading.Event()

    def slow() -> str:
        gate.wait(20)
        return "slow"

    encoders.post(lambda: "quick")
    encoders.post(slow)
    async with asyncio.timeout(10):
        await until(lambda: delivered == ["quick"])
        gate.set()
        await until(lambda: delivered == ["quick", "slow"])
    encoders.close(wait=True)


async def test_what_waits_at_the_end_is_dropped() -> None:
    made: list[int] = []
    encoders: Encoders[None] = Encoders(1, lambda _: None)
    encoders.post(lambda: time.sleep(0.2))
    for number in range(5):
        encoders.post(lambda number=number: made.append(number))  # type: ignore[misc]
    await asyncio.to_thread(encoders.close, wait=True)
    assert made == []
