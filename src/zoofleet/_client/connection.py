"""What all calls of a client share: the channel, repeated calls, and pages of listings."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import grpc

from zoofleet._client.retry import Backoff
from zoofleet._wire.address import ADDRESS_VARIABLE, DEFAULT_ADDRESS
from zoofleet._wire.calls import typed_errors
from zoofleet._wire.channels import CHANNEL_OPTIONS
from zoofleet._wire.parts import Joiner
from zoofleet.errors import UnavailableError, ZoofleetError
from zoofleet.v1 import vision_pb2


class _Page(Protocol):
    next_page_token: str


_R = TypeVar("_R")
_P = TypeVar("_P", bound=_Page)
_W = TypeVar("_W", vision_pb2.Result, vision_pb2.FrameResults)


class Connection:
    """A channel to a server, and how calls on it are made.

    Args:
        address: the server as `host:port`. None for the value of ZOOFLEET_ADDRESS, or 127.0.0.1:50051 without one.
        retry_timeout: seconds without progress after which a call that the server does not answer fails. With 0, no
            call is repeated.
    """

    def __init__(self, address: str | None = None, *, retry_timeout: float = 30.0) -> None:
        self.address = address or os.environ.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS
        self._retry_timeout = retry_timeout
        self._channel = grpc.aio.insecure_channel(self.address, options=CHANNEL_OPTIONS)

    async def close(self) -> None:
        """End all calls and close the connection."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def wait_ready(self, timeout: float = 10.0) -> None:
        """Wait until the server accepts connections.

        Args:
            timeout: seconds to wait at most.

        Raises:
            UnavailableError: the server did not accept a connection in that time.
        """
        try:
            await asyncio.wait_for(self._channel.channel_ready(), timeout)
        except TimeoutError:
            raise UnavailableError(f"no Zoofleet server answers at {self.address}") from None

    async def _call(self, method: Callable[[Any], Awaitable[_R]], request: Any) -> _R:
        """Call a unary method; repeat it while the server cannot be reached. All unary methods may be repeated."""
        backoff = Backoff(self._retry_timeout)
        while True:
            try:
                with typed_errors():
                    return await method(request)
            except ZoofleetError as error:
                await backoff.pause(error)

    async def _pages(self, method: Callable[[Any], Awaitable[_P]], request: Any) -> AsyncGenerator[_P]:
        """Yield all pages of a listing."""
        while True:
            page = await self._call(method, request)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token


async def responses(call: grpc.aio.UnaryStreamCall[Any, _R]) -> AsyncGenerator[_R]:
    """Yield the responses of a call, and cancel the call where the reader leaves early."""
    try:
        with typed_errors():
            async for response in call:
                yield response
    finally:
        call.cancel()


def taken(joiner: Joiner[_W], response: Any) -> list[_W]:
    """Take the next response of a stream whose results may come in parts or in batches.

    Returns:
        The results that the response completes.

    Raises:
        ItemTooLargeError: a result has more bytes than the joiner accepts.
        InvalidArgumentError: the parts do not fit together.
    """
    wholes: list[_W] = []
    for _, whole in joiner.take(response):
        if isinstance(whole, ZoofleetError):
            raise whole
        wholes.append(whole)
    return wholes
