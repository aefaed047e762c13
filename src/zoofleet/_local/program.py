"""A program that is kept running, and the lines that it and `zoofleet up` write to the terminal."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from rich.console import Console
from rich.text import Text

from zoofleet._local import child
from zoofleet._wire.backoff import backoff

__all__ = ["Program", "say"]

_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 10.0
"""Seconds before a program is started again; the pause doubles from the first one to the longest."""
_STEADY: Final = 30.0
"""Seconds that a program must run before its next restart is again as quick as its first."""
_LINE_BYTES: Final = 64 * 1024
"""Bytes after which a line of a program's output is shown although it has no end yet."""


def say(console: Console, text: str, style: str = "dim") -> None:
    """Write a line of our own to the terminal."""
    console.print(Text(text, style=style), soft_wrap=True)


class Program:
    """A child process that is started again when it dies.

    Args:
        console: the terminal that shows its output.
        name: the prefix of its lines there.
        color: the prefix's colour.
        arguments: the arguments of `python -m zoofleet`.
        environment: its environment variables; None for those of this process.
    """

    def __init__(
        self,
        console: Console,
        name: str,
        color: str,
        arguments: list[str],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._console = console
        self._color = color
        self._environment = {**(os.environ if environment is None else environment), "PYTHONUNBUFFERED": "1"}
        self._command = child.command(signal.SIGKILL, [sys.executable, "-m", "zoofleet", *arguments])
        self._process: asyncio.subprocess.Process | None = None
        self._ending = asyncio.Event()

    async def run(self, ready: asyncio.Event) -> None:
        """Start it, and start it again whenever it dies, until `signal` is called or it dies before `ready` is set."""
        pauses = backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        while not self._ending.is_set():
            started = time.monotonic()
            code = await self._run_once()
            if self._ending.is_set():
                return
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            if not ready.is_set():
                say(self._console, f"{self.name} ended before all was ready ({how})", "red")
                return
            if time.monotonic() - started > _STEADY:
                pauses = backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
            pause = next(pauses)
            say(self._console, f"{self.name} ended ({how}); starting it again in {pause:g} s", "yellow")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), pause)

    async def _run_once(self) -> int:
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            env=self._environment,
        )
        if self._ending.is_set():
            self._process.terminate()
        if self._process.stdout is not None:
            await self._print_lines(self._process.stdout)
        return await self._process.wait()

    async def _print_lines(self, output: asyncio.StreamReader) -> None:
        buffer = b""
        while data := await output.read(_LINE_BYTES):
            *lines, buffer = (buffer + data).split(b"\n")
            if len(buffer) > _LINE_BYTES:
                lines, buffer = [*lines, buffer], b""
            for line in lines:
                self._print(line)
        if buffer:
            self._print(buffer)

    def _print(self, line: bytes) -> None:
        text = Text.assemble((f"{self.name:<9} │ ", self._color), line.decode("utf-8", "replace").rstrip())
        self._console.print(text, soft_wrap=True)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; it is not started again from now on."""
        self._ending.set()
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)
