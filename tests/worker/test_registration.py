"""A worker's place in the fleets of several schedulers."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from tests.worker.calls import until
from tests.worker.fleet import serving_fleet
from typer.testing import CliRunner

import zoofleet.worker
from zoofleet._cli import _commands
from zoofleet.errors import InvalidArgumentError
from zoofleet.worker import Worker, WorkerConfig


async def test_a_worker_is_known_to_each_of_its_schedulers() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        away = f"127.0.0.1:{taken.getsockname()[1]}"
        async with serving_fleet() as first, serving_fleet() as second:
            schedulers = (away, first.address, second.address, first.address)
            worker = Worker(WorkerConfig(schedulers=schedulers, device="cpu", threads=1))
            await worker.start()
            await until(lambda: bool(first.beats and second.beats))
            second.drain = True
            await asyncio.wait_for(worker._draining.wait(), 20)
            await until(lambda: first.status.draining and second.status.draining)
            await worker.stop()
            for fleet in (first, second):
                assert [each.name for each in fleet.registered] == [worker.name]
                assert [each.name for each in fleet.left] == [worker.name]
            said: list[Any] = [
                *first.registered,
                *second.registered,
                *first.beats,
                *second.beats,
                *first.left,
                *second.left,
            ]
            (instance_id,) = {each.instance_id for each in said}
            assert len(instance_id) == 32


async def test_a_scheduler_that_goes_away_leaves_the_worker_to_the_others() -> None:
    async with serving_fleet() as second:
        async with serving_fleet() as first:
            worker = Worker(WorkerConfig(schedulers=(first.address, second.address), device="cpu", threads=1))
            await worker.start()
            await until(lambda: bool(first.beats and second.beats))
        beats = len(second.beats)
        await until(lambda: len(second.beats) > beats + 20)
        assert len(second.registered) == 1
        await worker.stop()
        assert len(second.left) == 1


async def test_an_answer_that_cannot_be_read_is_asked_for_again(caplog: pytest.LogCaptureFixture) -> None:
    async with serving_fleet() as fleet:
        fleet.garbled = True
        worker = Worker(WorkerConfig(schedulers=(fleet.address,), device="cpu", threads=1))
        await worker.start()
        await until(lambda: len(fleet.registered) > 1)
        fleet.garbled = False
        await until(lambda: bool(fleet.beats))
        await worker.stop()
    assert "its answer cannot be read" in caplog.text


def settings(
    monkeypatch: pytest.MonkeyPatch, *arguments: str, environment: dict[str, str] | None = None
) -> WorkerConfig:
    """The settings with which the command line starts a worker."""
    given: list[WorkerConfig] = []

    async def serve(config: WorkerConfig) -> None:
        given.append(config)

    monkeypatch.setattr(zoofleet.worker, "serve", serve)
    CliRunner().invoke(_commands, ["worker", *arguments], env=environment, catch_exceptions=False)
    return given[0]


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        ((), "", ("127.0.0.1:50051",)),
        (("--scheduler", "a:1", "--scheduler", "b:2,c:3"), "d:4", ("a:1", "b:2", "c:3")),
        ((), "a:1 b:2,c:3", ("a:1", "b:2", "c:3")),
        ((), "ipv4:10.0.0.1:1,10.0.0.2:1 b:2", ("ipv4:10.0.0.1:1,10.0.0.2:1", "b:2")),
        (("--standalone",), "", ()),
    ],
)
def test_schedulers_on_the_command_line(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], environment: str, expected: tuple[str, ...]
) -> None:
    assert settings(monkeypatch, *arguments, environment={"ZOOFLEET_SCHEDULER": environment}).schedulers == expected


@pytest.mark.parametrize("arguments", [("--standalone", "--scheduler", "a:1"), ("--scheduler", "a:1,,b:2")])
def test_schedulers_that_make_no_sense_are_refused(monkeypatch: pytest.MonkeyPatch, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(InvalidArgumentError, match=r"a:1|schedulers"):
        settings(monkeypatch, *arguments)
