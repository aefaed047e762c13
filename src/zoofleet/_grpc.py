"""What all our gRPC servers and channels have in common."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc
import grpc.aio

from zoofleet._faults import fault
from zoofleet._status import grpc_code, trailing_metadata
from zoofleet.errors import ZoofleetError

__all__ = ["CHANNEL_OPTIONS", "SERVER_OPTIONS", "aborting"]

_KEEPALIVE: Final = (
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)

CHANNEL_OPTIONS: Final[tuple[tuple[str, Any], ...]] = (
    *_KEEPALIVE,
    # A server that restarts is found again within seconds, not after gRPC's default of up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)
"""Options of every channel we open. Messages stay within gRPC's default of 4 MiB."""

SERVER_OPTIONS: Final[tuple[tuple[str, Any], ...]] = (
    *_KEEPALIVE,
    # Clients ping every 20 s; gRPC's default takes a second ping within 5 min for an attack.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    # Two servers on one port would each get a share of the connections: the second must fail instead.
    ("grpc.so_reuseport", 0),
)
"""Options of every server we start. Messages stay within gRPC's default of 4 MiB."""


@asynccontextmanager
async def aborting(context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[None]:
    """Around a handler's body: what it raises ends the call with a typed status.

    A `ZoofleetError` travels under its code with its message and details. Anything else is a fault of ours: the log
    gets the traceback under a reference, the client gets the reference alone.
    """
    try:
        yield
    except ZoofleetError as error:
        await context.abort(grpc_code(error), str(error), trailing_metadata(error))
    except grpc.aio.AbortError:
        raise
    except Exception:  # noqa: BLE001 - no traceback of ours may reach a client
        internal = fault("a call")
        await context.abort(grpc_code(internal), str(internal), trailing_metadata(internal))
