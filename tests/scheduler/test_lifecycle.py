"""A scheduler a part of which fails says so, stops in good order, and ends with an error."""

from __future__ import annotations

import subprocess
import sys

import pytest

from zoofleet._local.redis_server import RedisServer
from zoofleet.scheduler import Scheduler, SchedulerConfig
from zoofleet.scheduler.store import Store

_PROGRAM = """
import asyncio, logging, sys
from zoofleet.scheduler import SchedulerConfig, dispatcher, serve

async def run(self):
    await asyncio.sleep(0.2)
    {fault}

logging.basicConfig(level="INFO", format="%(message)s")
dispatcher.Dispatcher.run = run
asyncio.run(serve(SchedulerConfig(address="127.0.0.1:0", redis_url=sys.argv[1], shutdown_grace=1.0)))
"""


@pytest.mark.parametrize(
    ("fault", "said"), [("raise ValueError('injected')", "ValueError: injected"), ("return", "the dispatcher ended")]
)
def test_a_part_that_fails_ends_the_process_with_an_error(redis_server: RedisServer, fault: str, said: str) -> None:
    command = [sys.executable, "-c", _PROGRAM.format(fault=fault), redis_server.url]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert said in ended.stderr
    assert "a part of the server failed" in ended.stderr and "\nstopped\n" in ended.stderr


def test_a_connection_that_broke_after_it_was_given_up_is_no_error(redis_server: RedisServer) -> None:
    fault = """for error in (BrokenPipeError("a"), ValueError("nobody waited for this")):
        asyncio.get_running_loop().create_future().set_exception(error)
    raise ValueError"""
    command = [sys.executable, "-c", _PROGRAM.format(fault=fault), redis_server.url]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "ValueError: nobody waited for this" in ended.stderr and "BrokenPipeError" not in ended.stderr


async def test_a_step_of_the_shutdown_that_fails_skips_none(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = Scheduler(SchedulerConfig(address="127.0.0.1:0", redis_url=redis_server.url, shutdown_grace=0.2))
    await scheduler.start()
    closed: list[str] = []
    close = Store.close

    async def broken(_: object, __: float = 0.0) -> None:
        raise RuntimeError("injected")

    async def noted(store: Store) -> None:
        closed.append("store")
        await close(store)

    monkeypatch.setattr("zoofleet.scheduler.dispatcher.Dispatcher.stop", broken)
    monkeypatch.setattr("zoofleet.scheduler.fleet.Fleet.close", broken)
    monkeypatch.setattr(Store, "close", noted)
    with pytest.raises(RuntimeError, match="injected"):
        await scheduler.stop()
    assert closed == ["store"]
