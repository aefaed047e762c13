"""Interactive streams: laziness, retries, errors, the facade without asyncio."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.client.conftest import Server

from zoofleet import AsyncClient, Classify, Client, Item, ItemSource, Result, Task
from zoofleet._values.results import Classification
from zoofleet.errors import (
    DeadlineExceededError,
    InvalidArgumentError,
    InvalidMediaError,
    ItemTooLargeError,
    MediaNotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnavailableError,
    UnknownModelError,
    WeightsUnavailableError,
)

TASK = Classify("resnet50@random")


def size(result: Result) -> int:
    """What the test's server answers: how many bytes the item had."""
    assert isinstance(result.outcome, Classification)
    return int(result.outcome.labels[0])


def test_one_item_gives_its_outcome(client: Client, media: Path) -> None:
    outcome = client.classify(media / "rocket.jpg", model="resnet50@random")
    assert outcome.labels.tolist() == [(media / "rocket.jpg").stat().st_size]


def test_an_unreadable_file_raises_before_anything_is_sent(client: Client, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing\.jpg.*No such file") as missing:
        client.classify(tmp_path / "missing.jpg", model="resnet50")
    assert type(missing.value) is MediaNotFoundError
    (tmp_path / "file").touch()
    with pytest.raises(MediaNotFoundError, match="Not a directory"):
        client.classify(tmp_path / "file" / "cat.jpg", model="resnet50")
    with pytest.raises(InvalidMediaError, match="Is a directory"):
        client.classify(tmp_path, model="resnet50")


def test_a_file_over_the_limit_of_a_message_is_too_large(client: Client, tmp_path: Path) -> None:
    with (tmp_path / "large.tif").open("wb") as sparse:
        sparse.truncate((1 << 30) + 1)
    with pytest.raises(ItemTooLargeError, match=r"large\.tif has 1073741825 bytes"):
        client.classify(tmp_path / "large.tif", model="resnet50")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(client: Client, tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").touch(mode=0)
    with pytest.raises(PermissionDeniedError, match=r"secret\.jpg.*Permission denied"):
        client.classify(tmp_path / "secret.jpg", model="resnet50")
    with pytest.raises(PermissionDeniedError, match=r"secret\.jpg.*Permission denied"):
        list(client.analyze_video(tmp_path / "secret.jpg", [TASK]))


def test_stream_answers_every_kind_of_source(client: Client, media: Path) -> None:
    pixels = np.zeros((4, 6, 3), dtype=np.uint8)
    sources: list[ItemSource] = [b"12345", str(media / "rocket.jpg"), pixels, Image.fromarray(pixels)]
    sources.append(Item(b"123", "mine"))
    sizes = {result.item_id: size(result) for result in client.stream(TASK, sources)}
    assert sizes.keys() == {"0", "1", "2", "3", "mine"}
    assert sizes["0"] == 5 and sizes["mine"] == 3
    assert sizes["1"] == (media / "rocket.jpg").stat().st_size
    assert sizes["2"] == sizes["3"]


def test_a_file_that_cannot_be_read_fails_alone(client: Client, tmp_path: Path) -> None:
    results = {r.item_id: r for r in client.stream(TASK, [b"1", tmp_path / "missing.png", b"333"])}
    assert isinstance(results["1"].error, MediaNotFoundError)
    assert size(results["0"]) == 1 and size(results["2"]) == 3


def test_items_and_results_above_a_message_travel_in_parts(client: Client, server: Server) -> None:
    server.flaky.result_bytes = 5 << 20
    (result,) = client.stream(TASK, [bytes(9 << 20)])
    assert size(result) == 9 << 20


def test_items_are_read_no_further_than_64_ahead(client: Client) -> None:
    read = itertools.count()

    def endless() -> Iterator[bytes]:
        for _ in read:
            yield b"x"

    stream = client.stream(TASK, endless())
    for _ in range(10):
        next(stream)
    stream.close()  # type: ignore[attr-defined]  # a generator
    assert next(read) <= 10 + 64 + 16 + 2


def test_leaving_a_stream_ends_its_call(client: Client, server: Server) -> None:
    for _ in client.stream(TASK, itertools.repeat(b"x")):
        break
    assert server.flaky.ended.wait(10)


@pytest.mark.parametrize("fail_after", [0, 1, 7])
def test_unanswered_items_are_sent_again(client: Client, server: Server, fail_after: int) -> None:
    server.flaky.failures, server.flaky.fail_after = 3, fail_after
    server.flaky.error = lambda: UnavailableError("the worker is draining")
    ids = [result.item_id for result in client.stream(TASK, (b"x" for _ in range(100)))]
    assert sorted(ids, key=int) == [str(i) for i in range(100)]
    assert len(server.flaky.streams) == 4


def test_a_stream_rides_out_a_restart(client: Client, server: Server) -> None:
    stream = client.stream(TASK, (b"x" for _ in range(500)))
    ids = [next(stream).item_id for _ in range(20)]
    server.stop()
    server.start()
    ids += [result.item_id for result in stream]
    assert sorted(ids, key=int) == [str(i) for i in range(500)]


def test_a_server_that_ends_the_stream_early_is_asked_again_then_given_up(server: Server) -> None:
    server.flaky.failures, server.flaky.error = 1000, lambda: UnavailableError("no worker")
    with Client(server.address, retry_timeout=0.5) as client, pytest.raises(UnavailableError, match="no worker"):
        list(client.stream(TASK, [b"x"]))
    assert len(server.flaky.streams) > 1


@pytest.mark.parametrize("error", [WeightsUnavailableError("no internet"), UnknownModelError("no model")])
def test_errors_that_stay_are_not_tried_again(
    client: Client, server: Server, error: WeightsUnavailableError | UnknownModelError
) -> None:
    server.flaky.failures, server.flaky.error = 1000, lambda: error
    with pytest.raises(type(error), match=str(error)):
        list(client.stream(TASK, [b"x"]))
    assert len(server.flaky.streams) == 1


def test_a_full_queue_is_tried_again_after_its_hint(client: Client, server: Server) -> None:
    server.flaky.failures, server.flaky.error = 1, lambda: ResourceExhaustedError("full", retry_after=0.01)
    assert len(list(client.stream(TASK, [b"x"]))) == 1
    server.flaky.failures, server.flaky.error = 1, lambda: ResourceExhaustedError("too large for the budget")
    with pytest.raises(ResourceExhaustedError, match="too large"):
        list(client.stream(TASK, [b"x"]))


def test_what_the_items_raise_reaches_the_caller(client: Client) -> None:
    def broken() -> Iterator[bytes]:
        yield b"x"
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        list(client.stream(TASK, broken()))


def test_bad_arguments(client: Client) -> None:
    with pytest.raises(InvalidArgumentError, match="an iterable of items"):
        list(client.stream(TASK, "cat.jpg"))
    with pytest.raises(InvalidArgumentError, match="Classify, Segment"):
        client.stream(Task("resnet50"), [])
    with pytest.raises(InvalidArgumentError, match="not unique"):
        list(client.stream(TASK, [Item(b"x", "same")] * 100))
    with pytest.raises(InvalidArgumentError, match="257 bytes"):
        list(client.stream(TASK, [Item(b"x", "i" * 257)]))
    with pytest.raises(InvalidArgumentError, match="top_k"):
        client.classify(b"x", model="resnet50", top_k=-1)
    with pytest.raises(InvalidArgumentError, match="float64"):
        client.classify(np.zeros((2, 2, 3)), model="resnet50")  # type: ignore[arg-type]


@pytest.mark.timeout(20)
def test_wrong_arguments_are_a_type_error_and_hang_nobody(client: Client, media: Path) -> None:
    with pytest.raises(TypeError, match="positional arguments"):
        client.classify(media / "rocket.jpg", "resnet50")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="no_such"):
        client.get_job("jobs/1", no_such=1)  # type: ignore[call-arg]


def test_no_server_is_said_within_the_timeout() -> None:
    with Client("127.0.0.1:1", retry_timeout=0) as client:
        with pytest.raises(UnavailableError, match=r"no Zoofleet server answers at 127\.0\.0\.1:1"):
            client.wait_ready(timeout=0.2)
        with pytest.raises(UnavailableError):
            client.classify(b"x", model="resnet50")


def test_a_deadline_ends_a_call(server: Server) -> None:
    server.flaky.failures, server.flaky.error = 1000, lambda: UnavailableError("no worker")
    with Client(server.address) as client, pytest.raises(DeadlineExceededError, match=r"within 0\.3 s"):
        client.classify(b"x", model="resnet50", timeout=0.3)


def test_a_closed_client_says_so(server: Server) -> None:
    client = Client(server.address, retry_timeout=0)
    client.close()
    with pytest.raises(UnavailableError, match="closed"):
        client.get_job("jobs/1")


def test_several_threads_share_a_client(client: Client) -> None:
    def work(count: int) -> int:
        return len(list(client.stream(TASK, [b"x"] * count)))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(1, 33))) == list(range(1, 33))


def test_the_facade_works_inside_a_running_loop(client: Client) -> None:
    async def main() -> int:
        return int(client.classify(b"xyz", model="resnet50").labels[0])

    assert asyncio.run(main()) == 3


def test_the_facade_has_every_method_of_the_asynchronous_client() -> None:
    def public(cls: type) -> set[str]:
        return {name for name in dir(cls) if not name.startswith("_")}

    assert public(AsyncClient) | {"address"} == public(Client)


@pytest.mark.parametrize(
    ("name", "returns"),
    [
        ("classify", "Classification"),
        ("stream", "Iterator[Result]"),
        ("analyze_video", "VideoAnalysis"),
        ("create_job", "Job"),
        ("list_workers", "Iterator[Worker]"),
    ],
)
def test_the_facade_has_docstrings_and_signatures_for_help(name: str, returns: str) -> None:
    method, counterpart = getattr(Client, name), getattr(AsyncClient, name)
    signature = inspect.signature(method)
    assert method.__doc__ == counterpart.__doc__ and "Raises:" in method.__doc__
    assert signature.parameters == inspect.signature(counterpart).parameters
    assert signature.return_annotation == returns
    assert method.__qualname__ == f"Client.{name}" and not inspect.iscoroutinefunction(method)


def test_results_come_while_items_are_still_read(client: Client) -> None:
    answered = threading.Event()

    def items() -> Iterator[bytes]:
        yield b"first"
        assert answered.wait(30)
        yield b"second"

    stream = client.stream(TASK, items())
    assert size(next(stream)) == 5
    answered.set()
    assert [size(result) for result in stream] == [6]
