"""A TCP proxy that cuts, refuses, stalls and delays."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, TypeAlias

Connection: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]

_READ: Final = 256 * 1024


class FaultProxy:
    """Listens on a port of 127.0.0.1 and passes bytes on.

    Args:
        connect: opens the connection to what stands behind it.
    """

    def __init__(self, connect: Callable[[], Awaitable[Connection]]) -> None:
        self.port = 0
        self.refusing = False
        self.delay = 0.0
        """Seconds that each piece takes."""
        self.flowing = asyncio.Event()
        """Cleared, nothing passes; it arrives once it is set again."""
        self.flowing.set()
        self._connect = connect
        self._open: set[asyncio.StreamWriter] = set()
        self._passing: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def address(self) -> str:
        """host:port at which it listens."""
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """Break all connections at once."""
        for writer in self._open:
            writer.transport.abort()

    def heal(self) -> None:
        """Pass everything on again."""
        self.refusing, self.delay = False, 0.0
        self.flowing.set()

    async def close(self) -> None:
        """Listen no more and end all connections."""
        self.heal()
        if self._server is not None:
            self._server.close()
        while self._passing:
            self.cut()
            await asyncio.wait(self._passing, timeout=0.1)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._passing.add(task)
            task.add_done_callback(self._passing.discard)
        self._open.add(writer)
        try:
            if not self.refusing:
                with suppress(OSError):
                    await self._join(reader, writer)
        finally:
            self._open.discard(writer)
            if not writer.is_closing():
                writer.transport.abort()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back_reader, back_writer = await self._connect()
        self._open.add(back_writer)
        both = [
            asyncio.create_task(self._pass(reader, back_writer)),
            asyncio.create_task(self._pass(back_reader, writer)),
        ]
        try:
            await asyncio.gather(*both)
            writer.close()  # what is written is still sent
            back_writer.close()
        finally:
            for task in both:
                task.cancel()
            self._open.discard(back_writer)
            if not back_writer.is_closing():
                back_writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_READ):
            await self.flowing.wait()
            if self.delay:
                await asyncio.sleep(self.delay)
            writer.write(data)
            await writer.drain()
        writer.write_eof()
