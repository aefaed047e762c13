"""A whole cluster of real processes: redis-server, scheduler, workers."""

from __future__ import annotations

import io
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoofleet import Client
from zoofleet._local.redis_server import RedisServer


class Cluster:
    """Starts and kills the processes of one cluster.

    Attributes:
        address: host:port of the scheduler; the same after it has been started anew.
    """

    def __init__(self, redis_url: str, log: Path) -> None:
        self.address = f"127.0.0.1:{_free_port()}"
        self._redis_url = redis_url
        self._log = log.open("ab")
        self._processes: list[subprocess.Popen[bytes]] = []

    def start_scheduler(self) -> subprocess.Popen[bytes]:
        """Start a scheduler on the cluster's address and wait until it answers."""
        process = self._start("scheduler", "--address", self.address, "--redis-url", self._redis_url)
        with Client(self.address) as client:
            client.wait_ready(timeout=30)
        return process

    def start_worker(self) -> subprocess.Popen[bytes]:
        """Start a one-thread worker."""
        return self._start("worker", "--scheduler", self.address, "--device", "cpu", "--threads", "1")

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "zoofleet", *arguments], stdout=self._log, stderr=subprocess.STDOUT
        )
        self._processes.append(process)
        return process

    def close(self) -> None:
        """Stop all that still runs."""
        for process in reversed(self._processes):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(timeout=20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        self._log.close()


@pytest.fixture
def cluster(redis_server: RedisServer, tmp_path: Path) -> Iterator[Cluster]:
    """A cluster with nothing but its redis-server running."""
    cluster = Cluster(redis_server.url, tmp_path / "cluster.log")
    try:
        yield cluster
    finally:
        cluster.close()
        print((tmp_path / "cluster.log").read_text(errors="replace"))  # shown where the test fails


def jpegs(count: int) -> Iterator[bytes]:
    """Small, different JPEGs."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        pixels = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).resize((160, 120)).save(buffer, "JPEG")
        yield buffer.getvalue()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
