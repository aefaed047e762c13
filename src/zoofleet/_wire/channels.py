"""The gRPC options of our channels."""

from __future__ import annotations

from typing import Any, Final

__all__ = ["CHANNEL_OPTIONS", "KEEPALIVE"]

KEEPALIVE: Final[tuple[tuple[str, Any], ...]] = (
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)
"""Options of every channel and server, which notice within half a minute that the other side has gone silent."""

CHANNEL_OPTIONS: Final[tuple[tuple[str, Any], ...]] = (
    *KEEPALIVE,
    # A server that restarts is found again within seconds; gRPC's default pauses for up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)
"""Options of every channel that we open. Messages stay within gRPC's default limit of 4 MiB."""
