"""What every method of our gRPC servers goes through: typed errors, and requests that do not parse."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf import descriptor_pool
from google.protobuf.message import DecodeError, Message

from zoofleet._serving.faults import fault
from zoofleet._wire.channels import KEEPALIVE
from zoofleet._wire.status import grpc_code, trailing_metadata
from zoofleet.errors import InvalidArgumentError, ZoofleetError

__all__ = ["SERVER_OPTIONS", "RequestCheck", "aborting", "check_first"]

_log: Final = logging.getLogger(__name__)

SERVER_OPTIONS: Final[tuple[tuple[str, Any], ...]] = (
    *KEEPALIVE,
    # Clients ping every 20 s; by default gRPC takes a second ping within 5 min for an attack.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    # Two servers on one port would each get a share of the connections: the second one must fail instead.
    ("grpc.so_reuseport", 0),
)
"""Options of every server that we start. Messages stay within gRPC's default limit of 4 MiB."""


@asynccontextmanager
async def aborting(context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[None]:
    """End a call with a typed status where the block, a handler's body, raises.

    A `ZoofleetError` travels under its code with its message and details. Any other exception is a fault of ours: the
    log gets its traceback under a reference, and the client gets the reference. Where the caller has gone, the handler
    ends like one that was cancelled.

    Args:
        context: the call.
    """
    try:
        yield
    except ZoofleetError as error:
        await context.abort(grpc_code(error), str(error), trailing_metadata(error))
    except grpc.aio.AbortError:
        raise
    except grpc.aio.InternalError as error:  # a write to a caller who has gone, before gRPC cancels the handler
        raise asyncio.CancelledError from error
    except Exception:  # noqa: BLE001 - no traceback of ours may reach a client
        internal = fault("a call")
        await context.abort(grpc_code(internal), str(internal), trailing_metadata(internal))


def check_first(message: Message, field: str) -> None:
    """Raise InvalidArgumentError unless the first message of a stream sets `field`."""
    given = message.WhichOneof("message")
    if given != field:
        raise InvalidArgumentError(f"the stream's first message sets {given or 'nothing'!r}; accepted: {field!r}")


_LOG_SECONDS: Final = 60.0
"""Least seconds between two lines of the log about requests that do not parse."""


class RequestCheck(grpc.aio.ServerInterceptor):
    """Answers INVALID_ARGUMENT to requests that do not parse, and to calls of one request that have none.

    gRPC by itself answers UNKNOWN to the former, with a traceback in the log for each, and never answers the latter.
    Here the log gets a line for the first request that does not parse, then at most one a minute, with their number.
    """

    def __init__(self) -> None:
        self._refused_count = 0
        self._silent_until = 0.0

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_deserializer is None:
            return handler  # no such method, or one that parses by itself
        # Handlers of streams read, and so parse, within `aborting`. Those of one request are made into such handlers.
        parse = functools.partial(self._parse, handler_call_details.method, handler.request_deserializer)
        if handler.response_streaming:
            stream = _writing(handler.stream_stream or handler.unary_stream)
            behavior = stream if handler.request_streaming else _reading(stream)
            return grpc.stream_stream_rpc_method_handler(behavior, parse, handler.response_serializer)
        behavior = handler.stream_unary or _reading(handler.unary_unary)
        return grpc.stream_unary_rpc_method_handler(behavior, parse, handler.response_serializer)

    def _parse(self, method: str, deserializer: Callable[[bytes], Any], data: bytes) -> Any:
        try:
            return deserializer(data)
        except DecodeError:
            self._log_refusal(method)
            path = method.removeprefix("/").replace("/", ".")
            expected = descriptor_pool.Default().FindMethodByName(path).input_type.full_name
            raise InvalidArgumentError(f"a request of {len(data)} bytes that do not parse as {expected}") from None

    def _log_refusal(self, method: str) -> None:
        self._refused_count += 1
        now = time.monotonic()
        if now >= self._silent_until:
            _log.warning("requests that do not parse: %d refused, the last one of %s", self._refused_count, method)
            self._refused_count = 0
            self._silent_until = now + _LOG_SECONDS


async def _first(requests: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]) -> Any:
    async with aborting(context):
        async for request in requests:
            return request
        raise InvalidArgumentError("the call has no request")


def _reading(behavior: Callable[..., Any]) -> Callable[..., Any]:
    async def read(requests: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        return await behavior(await _first(requests, context), context)

    return read


def _writing(behavior: Callable[..., Any]) -> Callable[..., Any]:
    """Return a handler that yields its responses as one that writes them within `aborting`."""
    if not inspect.isasyncgenfunction(behavior):
        return behavior

    async def write(asked: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        async with aborting(context), aclosing(behavior(asked, context)) as responses:
            async for response in responses:
                await context.write(response)

    return write
