"""`zoofleet bench` on servers that stall, fail, or are not there."""

from __future__ import annotations

import asyncio
import io
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from PIL import Image
from tests.client.conftest import Server
from tests.client.test_cli import zoofleet

from zoofleet import AsyncClient, Classify
from zoofleet._bench.load import Load, run, sender_of
from zoofleet._bench.media import synthetic_jpegs
from zoofleet._bench.modes import Arrivals, Mode
from zoofleet._bench.summary import Distribution, Sample, Summary
from zoofleet._wire.status import to_status
from zoofleet.errors import InvalidArgumentError, NotFoundError, ResourceExhaustedError
from zoofleet.v1 import vision_pb2, vision_pb2_grpc

STALL = 0.6
"""Seconds for which the server answers nothing, once."""


@dataclass
class Stalling(vision_pb2_grpc.VisionServicer):
    """Answers every item at once, but for one stall, in which nothing is answered.

    Attributes:
        stall_at: number of the item whose answer, and all that come meanwhile, wait for the stall to end.
        fail_every: each so many-th item ends with RESOURCE_EXHAUSTED. 0 for none.
        count: items that came.
    """

    stall_at: int = -1
    fail_every: int = 0
    count: int = 0
    _open: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._open.set()

    def Classify(  # noqa: N802
        self, request_iterator: Iterator[vision_pb2.ClassifyRequest], context: grpc.ServicerContext
    ) -> Iterator[vision_pb2.ClassifyResponse]:
        """Answer in the order of arrival."""
        task = next(request_iterator).task
        for request in request_iterator:
            self.count += 1
            if self.count == self.stall_at:
                self._open.clear()
                threading.Timer(STALL, self._open.set).start()
            result = vision_pb2.Result(
                item_id=request.item.item_id, model=task.model, precision=vision_pb2.PRECISION_EXACT
            )
            if self.fail_every and self.count % self.fail_every == 0:
                result.error.CopyFrom(to_status(ResourceExhaustedError("full")))
            else:
                result.classification.labels.append(1)
                result.classification.scores.append(1.0)
                result.classification.categories.append("one")
            self._open.wait()
            yield vision_pb2.ClassifyResponse(result=result)


@pytest.fixture
def stalling() -> Iterator[tuple[Stalling, str]]:
    """A server that can stall, and its address."""
    servicer = Stalling()  # type: ignore[abstract]  # methods that it lacks answer UNIMPLEMENTED
    server = grpc.server(ThreadPoolExecutor(128))
    vision_pb2_grpc.add_VisionServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer, f"127.0.0.1:{port}"
    server.stop(None).wait()


TASK = Classify("resnet18@random")


async def bench(address: str, **load: Any) -> Summary:
    async with AsyncClient(address, retry_timeout=0) as client:
        asked = Load(**load)
        return await run(sender_of(client, TASK, [b"x"], asked), asked, ahead=lambda: None)


RATE = 50.0


@pytest.mark.parametrize("mode", [Mode.CALLS, Mode.STREAM])
async def test_a_stall_shows_in_the_percentiles_of_an_open_loop(stalling: tuple[Stalling, str], mode: Mode) -> None:
    servicer, address = stalling
    servicer.stall_at = 25
    load = {"arrivals": Arrivals.CONSTANT, "duration": 3.0, "warmup": 0.2}
    summary = await bench(address, mode=mode, rate=RATE, **load)
    # A fifth of the requests have their turn within the stall, and wait for what is left of it.
    assert summary.latency.max >= STALL * 0.95
    assert summary.latency.p99 >= STALL * 0.9
    assert summary.latency.p95 >= STALL * 0.6
    assert summary.request_count == pytest.approx(RATE * 3.0, abs=1)
    assert summary.error_count == 0 and summary.codes == {"OK": summary.item_count}


async def test_requests_that_wait_for_room_count_from_their_turn(stalling: tuple[Stalling, str]) -> None:
    servicer, address = stalling
    servicer.stall_at = 25
    load = {"rate": RATE, "arrivals": Arrivals.CONSTANT, "duration": 3.0, "warmup": 0.2}
    summary = await bench(address, concurrency=1, **load)
    # One call at a time: only one was on its way during the stall. Its time is all that the server's side saw.
    assert summary.latency.p95 >= STALL * 0.6
    assert summary.service_time.p95 < summary.latency.p95


async def test_a_stall_hides_in_a_closed_loop(stalling: tuple[Stalling, str]) -> None:
    """What the documentation warns of: one sample for each caller, whatever the stall's length."""
    servicer, address = stalling
    servicer.stall_at = 60
    summary = await bench(address, concurrency=1, count=300, duration=60.0, warmup=0.0)
    assert summary.request_count == 300
    assert summary.latency.max >= STALL * 0.95
    assert summary.latency.p99 < summary.latency.max


async def test_errors_are_counted_by_their_code_and_not_as_answers(stalling: tuple[Stalling, str]) -> None:
    servicer, address = stalling
    servicer.fail_every = 4
    summary = await bench(address, concurrency=2, count=40, duration=60.0, warmup=0.0)
    assert summary.codes == {"OK": summary.item_count, "RESOURCE_EXHAUSTED": summary.error_count}
    assert summary.request_count == 40 and summary.error_count == 10
    assert summary.precisions == {"PRECISION_EXACT": 30}


async def test_requests_without_an_answer_fail_at_their_timeout(stalling: tuple[Stalling, str]) -> None:
    servicer, address = stalling
    servicer.stall_at = 10
    load = {"rate": 40.0, "arrivals": Arrivals.CONSTANT, "duration": 1.0, "warmup": 0.0}
    summary = await bench(address, timeout=STALL / 3, **load)
    assert summary.codes["DEADLINE_EXCEEDED"] > 0
    assert summary.item_count + summary.error_count == summary.request_count


async def test_the_warm_up_does_not_count(stalling: tuple[Stalling, str]) -> None:
    servicer, address = stalling
    servicer.stall_at = 5
    load = {"rate": RATE, "arrivals": Arrivals.CONSTANT, "duration": 1.0}
    summary = await bench(address, warmup=1.5, **load)
    assert summary.request_count == pytest.approx(RATE, abs=1)
    assert servicer.count >= 2 * summary.request_count
    assert summary.latency.p50 < STALL / 2  # the stall was over before


@pytest.mark.parametrize("mode", [Mode.CALLS, Mode.STREAM])
async def test_a_server_that_goes_away_is_counted_and_does_not_end_the_load(server: Server, mode: Mode) -> None:
    async def end() -> None:
        while (  # noqa: ASYNC110 - the server has threads
            not server.flaky.streams or len(server.flaky.streams) + len(server.flaky.streams[-1]) < 20
        ):
            await asyncio.sleep(0.05)
        await asyncio.to_thread(server.stop)

    ending = asyncio.create_task(end())
    summary = await bench(server.address, mode=mode, concurrency=2, duration=3.0, warmup=0.0)
    await ending
    assert set(summary.codes) == {"OK", "UNAVAILABLE"}
    assert summary.codes["OK"] > 0 and summary.codes["UNAVAILABLE"] > 0


async def test_jobs_are_requests_too(server: Server) -> None:
    summary = await bench(server.address, mode=Mode.JOBS, concurrency=1, count=2, job_items=3, duration=60, warmup=0)
    assert summary.request_count == 2 and summary.item_count == 6
    assert len(server.flaky.job_items) == 3


async def test_what_the_first_request_fails_with_is_raised(server: Server) -> None:
    server.flaky.failures, server.flaky.error = 1, lambda: NotFoundError("no such weights")
    with pytest.raises(NotFoundError, match="no such weights"):
        await bench(server.address, concurrency=1)


@pytest.mark.parametrize(
    ("name", "value"),
    [("rate", 0), ("rate", -1), ("duration", 0), ("timeout", float("nan")), ("concurrency", 0), ("warmup", -1)],
)
def test_values_out_of_range_are_named(name: str, value: float) -> None:
    with pytest.raises(InvalidArgumentError, match=f"{name} {value}; accepted"):
        Load(**{"concurrency": 1, name: value})  # type: ignore[arg-type]


def test_a_closed_loop_needs_a_concurrency() -> None:
    with pytest.raises(InvalidArgumentError, match="concurrency"):
        Load()


def test_arrivals_have_the_rate_that_was_asked_for() -> None:
    for arrivals in Arrivals:
        load = Load(rate=100.0, arrivals=arrivals)
        last = next(turn for k, turn in enumerate(load.turns(100.0)) if k == 10_000)
        assert last == pytest.approx(100.0, rel=0.05)  # 5 standard deviations of 10,000 exponential gaps


def test_percentiles_are_latencies_that_were_measured() -> None:
    found = Distribution.of([k / 1000 for k in range(1, 101)])
    assert (found.min, found.p50, found.p90, found.p99, found.max) == (0.001, 0.051, 0.091, 0.1, 0.1)


def test_a_client_that_lags_or_is_busy_says_so() -> None:
    samples = [Sample(k, k + 0.1, k + 0.2, ("PRECISION_EXACT",)) for k in range(10)]
    slow = Summary.of(samples, began=0, ended=10, lags=[0.1] * 10, asked_rate=2.0, client_cpu=0.99)
    assert [word in text for word, text in zip(("cores", "behind", "not 2"), slow.warnings, strict=True)] == [True] * 3
    fine = Summary.of(samples, began=0, ended=10, lags=[0.001] * 10, asked_rate=1.0, client_cpu=0.2)
    assert fine.warnings == []


def test_nothing_measured_is_null_in_json() -> None:
    record = json.loads(Summary.of([], began=0, ended=0, lags=[], asked_rate=None, client_cpu=0.0).to_json(title="t"))
    assert record["latency"]["p99"] is None and record["title"] == "t"


def test_synthetic_jpegs_differ_and_have_their_size() -> None:
    pictures = synthetic_jpegs(50, 37, 3)
    assert len(set(pictures)) == 3 and synthetic_jpegs(50, 37, 3) == pictures
    assert {Image.open(io.BytesIO(picture)).size for picture in pictures} == {(50, 37)}


def test_the_command_prints_and_writes(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    short = ("--duration", "0.5", "--warmup", "0.1")
    done = zoofleet("bench", "-m", "resnet18@random", "--json", out, "--rate", "40", *short, address=server.address)
    assert done.returncode == 0, done.stderr
    for words in ("open loop", "p99.9", "latency, from its turn", "codes: OK", "precision: EXACT", "client: "):
        assert words in done.stdout
    record = json.loads(out.read_text())
    assert record["asked_rate"] == 40 and record["item_count"] > 0 and record["codes"]["OK"] == record["item_count"]


def test_ctrl_c_prints_what_there_is(server: Server) -> None:
    command = [sys.executable, "-m", "zoofleet", "bench", "-m", "resnet18@random", "-d", "600", "--warmup", "0"]
    with subprocess.Popen(
        [*command, "--address", server.address], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 60
        while len(server.flaky.streams) < 50 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said, complained = process.communicate(timeout=60)
    assert process.returncode == 130, complained
    assert "closed loop" in said and "codes: OK" in said


def test_the_command_asks_for_a_precision(server: Server) -> None:
    short = ("--duration", "0.3", "--warmup", "0")
    done = zoofleet("bench", "-m", "resnet18@random", "--precision", "fast", *short, address=server.address)
    assert done.returncode == 0, done.stderr
    assert "precision: EXACT" in done.stdout  # what the server says that it ran at


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-m", "resnet18", "--rate", "-1"], "rate -1.0; accepted: more than 0"),
        (["-m", "resnet18", "--size", "5by3"], "WIDTHxHEIGHT"),
        (["-m", "resnet81"], "resnet18"),
        (["-m", "r3d_18"], "takes clips"),
        (["-m", "resnet18", "nowhere/"], "does not exist"),
        (["-m", "resnet18", "--json", "nowhere/x.json"], "no folder"),
        (["-m", "resnet18"], "no Zoofleet server answers at 127.0.0.1:1; start one with 'zoofleet up'"),
    ],
)
def test_bad_arguments_and_a_dead_server_are_named(arguments: list[str], words: str) -> None:
    done = zoofleet("bench", *arguments)
    assert done.returncode in (1, 2)
    assert words in done.stderr and "Traceback" not in done.stderr


async def test_a_lone_server_answers_jobs_with_unimplemented(stalling: tuple[Stalling, str]) -> None:
    _, address = stalling
    with pytest.raises(NotImplementedError):
        await bench(address, mode=Mode.JOBS, concurrency=1)
