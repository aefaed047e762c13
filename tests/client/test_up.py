"""`zoofleet up`: one command, real processes, and none of them left behind."""

from __future__ import annotations

import asyncio
import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from zoofleet import Client, JobState, Task
from zoofleet._local.up import _Program

pytestmark = pytest.mark.cluster

WAIT = 120.0


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something, and fail where it does not come."""
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def command(*options: str, data_dir: Path, port: str = "0") -> list[str]:
    return [sys.executable, "-m", "zoofleet", "up", "--port", port, "--data-dir", str(data_dir), *options]


def refused(*options: str, data_dir: Path, port: str = "0") -> subprocess.CompletedProcess[str]:
    """Run one that ends by itself, with exit code 1."""
    run = subprocess.run(
        command(*options, data_dir=data_dir, port=port), capture_output=True, text=True, timeout=WAIT, check=False
    )
    assert run.returncode == 1
    assert "Traceback" not in run.stdout + run.stderr
    return run


class Up:
    """A running `zoofleet up`."""

    def __init__(self, folder: Path) -> None:
        self.data_dir = folder / "data"
        self.log = folder / "up.log"
        self._ready_file = folder / "ready"
        self.process = self.start()
        self.wait_ready()

    def start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                command("--device", "cpu", "--ready-file", str(self._ready_file), data_dir=self.data_dir),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )

    def wait_ready(self) -> None:
        def ready() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            return self._ready_file.exists()

        until(ready, self.log.read_text())

    @property
    def address(self) -> str:
        return self._ready_file.read_text().strip()

    def children(self) -> list[psutil.Process]:
        """Redis, the scheduler and the worker."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def child(self, role: str) -> psutil.Process:
        (child,) = [child for child in self.children() if role in child.cmdline()[:4]]
        return child

    def stop(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(WAIT)


@pytest.fixture
def up(redis_installed: None, tmp_path: Path) -> Iterator[Up]:
    """A cluster that has its first process of each kind."""
    up = Up(tmp_path)
    yield up
    if up.process.poll() is None:
        up.stop(signal.SIGTERM)


def test_jobs_outlive_it_and_nothing_else_does(up: Up, media: Path) -> None:
    with Client(up.address) as client:
        job = client.create_job([media / "rocket.jpg"], [Task("mobilenet_v3_small@random")])
        assert client.wait_job(job.name, timeout=WAIT).state is JobState.SUCCEEDED
    children = up.children()
    assert len(children) == 3
    assert up.stop(signal.SIGINT) == 0
    assert not any(child.is_running() for child in children)
    log = re.sub(r"\x1b\[[0-9;]*m", "", up.log.read_text())
    assert "ready 127.0.0.1:" in log and "scheduler │" in log and "worker    │" in log
    assert log.index("Stopping") < log.rindex("worker    │") < log.rindex("scheduler │")

    up.process = up.start()
    up.wait_ready()
    with Client(up.address) as client:
        assert client.get_job(job.name).state is JobState.SUCCEEDED
        assert len(list(client.read_results(job.name))) == 1


def test_a_second_one_on_the_same_data_is_refused(up: Up) -> None:
    second = refused(data_dir=up.data_dir)
    assert f"another 'zoofleet up' (pid {up.process.pid}) uses" in second.stderr
    port = up.address.rpartition(":")[2]
    third = refused(data_dir=up.data_dir.parent / "other", port=port)
    assert f"port {port} of 127.0.0.1: Address already in use" in third.stderr


def test_what_dies_is_started_again(up: Up, media: Path) -> None:
    for role in ("worker", "scheduler"):
        victim = up.child(role)
        victim.kill()
        until(
            lambda gone=victim, role=role: any(  # type: ignore[misc]
                child.pid != gone.pid and role in child.cmdline()[:4] for child in up.children()
            ),
            f"no new {role}",
        )
    redis = next(child for child in up.children() if child.name() == "redis-server")
    redis.kill()
    with Client(up.address, retry_timeout=WAIT) as client:
        job = client.create_job([media / "rocket.jpg"], [Task("mobilenet_v3_small@random")])
        assert client.wait_job(job.name, timeout=WAIT).state is JobState.SUCCEEDED
    log = up.log.read_text()
    assert "worker ended (killed by SIGKILL); starting it again" in log
    assert "redis-server ended; starting it again" in log


def test_no_process_is_left_when_it_is_killed(up: Up) -> None:
    children = up.children()
    assert len(children) == 3
    assert up.stop(signal.SIGKILL) == -signal.SIGKILL
    until(lambda: not any(child.is_running() and child.status() != "zombie" for child in children), str(children))


def test_a_second_interrupt_ends_it_at_once(up: Up) -> None:
    children = up.children()
    up.child("worker").suspend()  # it would never drain
    up.process.send_signal(signal.SIGINT)
    until(lambda: "Stopping" in up.log.read_text(), "no word of stopping")
    up.process.send_signal(signal.SIGINT)
    up.process.wait(WAIT)
    assert not any(child.is_running() for child in children)


def test_what_cannot_start_ends_it(tmp_path: Path) -> None:
    run = refused("--device", "toaster", data_dir=tmp_path / "data")
    assert "device is 'toaster'" in run.stdout
    assert "worker ended before all was ready (exit code 1)" in run.stdout


async def test_a_program_that_gives_up_by_itself_is_started_again() -> None:
    output = io.StringIO()
    program = _Program(Console(file=output, width=200), "worker", "red", ["no-such-command"])
    ready = asyncio.Event()
    ready.set()
    running = asyncio.create_task(program.run(ready))
    async with asyncio.timeout(WAIT):
        while output.getvalue().count("worker ended (exit code 2); starting it again") < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        program.signal(signal.SIGTERM)
        await running
