"""What calls and streams of a client share: items in batches, and streams that stay open from call to call."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Iterator

import pytest
from tests.client.conftest import Server

from zoofleet import AsyncClient, Classify, Client, ItemSource
from zoofleet._client import single_calls
from zoofleet._client.items import ItemReader
from zoofleet.errors import DeadlineExceededError, MediaNotFoundError, UnavailableError, UnknownModelError

MODEL = "resnet50@random"


@pytest.mark.parametrize("fail_after", [1, 100, 170])
def test_items_of_a_batch_that_is_cut_off_are_sent_again(client: Client, server: Server, fail_after: int) -> None:
    server.flaky.batches = True
    server.flaky.failures, server.flaky.fail_after = 3, fail_after
    server.flaky.error = lambda: UnavailableError("the worker is draining")
    ids = [result.item_id for result in client.stream(Classify(MODEL), [b"x"] * 1000)]
    assert sorted(ids, key=int) == [str(i) for i in range(1000)]
    assert len(server.flaky.streams) == 4
    assert max(server.flaky.batch_sizes) > 1


def test_calls_one_after_the_other_share_a_stream(client: Client, server: Server) -> None:
    for size in range(1, 21):
        assert client.classify(bytes(size), model=MODEL).labels.tolist() == [size]
    assert server.flaky.streams == [[str(n) for n in range(20)]]
    client.classify(b"x", model=MODEL, top_k=3)
    assert len(server.flaky.streams) == 2  # of another task


async def test_calls_at_once_have_a_stream_each(server: Server) -> None:
    async with AsyncClient(server.address) as client:
        for _ in range(3):
            outcomes = await asyncio.gather(*(client.classify(bytes(n), model=MODEL) for n in range(1, 9)))
            assert [outcome.labels[0] for outcome in outcomes] == list(range(1, 9))
    assert len(server.flaky.streams) == 8


def test_a_stream_that_has_ended_between_calls_is_replaced(server: Server) -> None:
    with Client(server.address, retry_timeout=20.0) as client:
        client.classify(b"x", model=MODEL)
        server.stop()
        server.start()
        assert client.classify(b"xx", model=MODEL).labels.tolist() == [2]
        server.flaky.failures, server.flaky.error = 1, lambda: UnavailableError("the worker is draining")
        assert client.classify(b"xxx", model=MODEL).labels.tolist() == [3]
        server.flaky.failures, server.flaky.error = 1, lambda: UnknownModelError("no such model")
        with pytest.raises(UnknownModelError):
            client.classify(b"x", model=MODEL)


def test_a_call_that_is_out_of_time_ends_its_stream(server: Server) -> None:
    with Client(server.address) as client:
        client.classify(b"x", model=MODEL)
        gate = threading.Event()

        def wait() -> UnavailableError:
            gate.wait(20)
            return UnavailableError("too late")

        server.flaky.failures, server.flaky.error = 1, wait
        with pytest.raises(DeadlineExceededError):
            client.classify(b"x", model=MODEL, timeout=0.2)
        assert server.flaky.ended.wait(10)
        gate.set()
        assert client.classify(b"xx", model=MODEL).labels.tolist() == [2]


def test_a_stream_without_calls_ends(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(single_calls, "_IDLE_SECONDS", 0.05)
    with Client(server.address) as client:
        client.classify(b"x", model=MODEL)
        assert server.flaky.ended.wait(10)
        client.classify(b"x", model=MODEL)
        assert len(server.flaky.streams) == 2


def test_a_stream_takes_no_calls_for_ever(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(single_calls, "_AGE_SECONDS", 0.0)
    with Client(server.address) as client:
        for _ in range(3):
            client.classify(b"x", model=MODEL)
    assert len(server.flaky.streams) == 3


def test_a_generator_that_waits_for_a_result_gets_it(client: Client, server: Server) -> None:
    server.flaky.batches = True
    answered = threading.Semaphore(1)

    def dialogue() -> Iterator[bytes]:
        for _ in range(30):
            assert answered.acquire(timeout=20)
            yield b"x"

    count = 0
    for _ in client.stream(Classify(MODEL), dialogue()):
        count += 1
        answered.release()
    assert count == 30


async def _all(reader: ItemReader, most: int) -> list[str]:
    ids = []
    while await reader.wait(most):
        ids.append(reader.ready.popleft()[0])
    return ids


async def test_items_are_read_in_order_and_no_further_than_asked() -> None:
    taken = itertools.count()
    reader = ItemReader(b"x" for _ in taken)
    for _ in range(10):
        assert await reader.wait(5)
        reader.ready.popleft()
    await reader.close()
    assert next(taken) <= 15
    assert await _all(ItemReader([b"x"] * 100), 7) == [str(n) for n in range(100)]

    async def source() -> AsyncIterator[ItemSource]:
        for _ in range(10):
            yield b"x"

    assert await _all(ItemReader(source()), 7) == [str(n) for n in range(10)]


async def test_an_item_is_ready_before_the_next_one_is_read() -> None:
    gate = threading.Event()

    def source() -> Iterator[bytes]:
        yield b"x"
        gate.wait(20)
        yield b"x"

    reader = ItemReader(source())
    async with asyncio.timeout(10):
        assert await reader.wait(64)
    assert len(reader.ready) == 1
    reader.ready.clear()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.wait(64), 0.05)
    gate.set()
    assert await _all(reader, 64) == ["1"]  # a cancelled wait loses nothing


async def test_what_an_iterator_raises_comes_after_its_items() -> None:
    def source() -> Iterator[ItemSource]:
        yield b"x"
        yield "missing.jpg"
        raise RuntimeError("the caller's own")

    reader = ItemReader(source())
    for _ in range(100):
        await asyncio.sleep(0.001)
        assert await reader.wait(64)
        if len(reader.ready) == 2:
            break
    assert isinstance(reader.ready[1][1], MediaNotFoundError)
    reader.ready.clear()
    with pytest.raises(RuntimeError, match="the caller's own"):
        await reader.wait(64)
    await reader.close()
