"""The life of a server process: it starts, runs until a signal or a fault, and stops in good order."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, Protocol

from zoofleet.errors import InternalError

__all__ = ["Parts", "Server", "in_order", "serve_until_signal", "together"]

_log: Final = logging.getLogger(__name__)

_CANCEL_AGAIN: Final = 0.5
"""Seconds after which a part that has not ended is cancelled again."""


class Parts:
    """The tasks that a server runs beside its calls. A task that ends before the server stops has failed."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, name: str, part: Coroutine[Any, Any, None]) -> None:
        """Run a part from now on, under a name for the log."""
        self._tasks.add(asyncio.create_task(part, name=name))

    async def watch(self) -> None:
        """Wait until a part ends, and raise its error.

        Raises:
            Exception: the error that the part ended with.
            InternalError: the part ended without an error.
        """
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        part = done.pop()
        if not part.cancelled() and (error := part.exception()) is not None:
            raise error
        raise InternalError(f"the {part.get_name()} ended, which it never should")

    async def cancel(self) -> None:
        """Cancel all parts, and wait until they have ended."""
        pending = self._tasks
        while pending:
            for task in pending:
                task.cancel()
            # redis-py may swallow a cancellation while it reconnects.
            _, pending = await asyncio.wait(pending, timeout=_CANCEL_AGAIN)


class Server(Protocol):
    """A server that `serve_until_signal` can run."""

    async def start(self) -> None:
        """Begin to serve."""

    async def run(self) -> None:
        """Wait until a part of the server fails, and raise the part's error."""

    async def stop(self) -> None:
        """Stop in good order. Called once, whether or not a part has failed."""


async def serve_until_signal(server: Server) -> None:
    """Run a server until SIGTERM or SIGINT, or until a part of it fails; then stop it in good order.

    Raises:
        Exception: the error of the part that failed, or else what `start` or `stop` raised.
    """
    signalled = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_log_unhandled)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled.set)
    await server.start()
    running = asyncio.create_task(server.run())
    stopping = asyncio.create_task(signalled.wait())
    await asyncio.wait((running, stopping), return_when=asyncio.FIRST_COMPLETED)
    failure = running.exception() if running.done() else None
    running.cancel()
    stopping.cancel()
    if failure is not None:
        _log.error("a part of the server failed, which ends it", exc_info=failure)
    try:
        await server.stop()
    finally:
        if failure is not None:
            raise failure  # what `stop` raised as well is in the log


def _log_unhandled(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log errors that nobody waited for, but at level DEBUG that a connection broke that was given up already."""
    if isinstance(context.get("exception"), ConnectionError):
        _log.debug("%s: %r", context["message"], context["exception"])
    else:
        loop.default_exception_handler(context)


async def in_order(*steps: Callable[[], Awaitable[object] | None]) -> None:
    """Take the steps of a shutdown one after the other, and go on after a step that fails.

    Raises:
        Exception: the first failure. All failures are in the log.
    """
    failures: list[Exception] = []
    for step in steps:
        try:
            if (ended := step()) is not None:
                await ended
        except Exception as error:  # noqa: BLE001 - the steps after it must not be skipped
            _log.error("a step of the shutdown failed", exc_info=error)
            failures.append(error)
    if failures:
        raise failures[0]


async def together(*work: Awaitable[object]) -> None:
    """Wait for all of the work, even where some of it fails.

    Raises:
        BaseException: the first failure.
    """
    for result in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
