"""The options of every channel that we open."""

from __future__ import annotations

from typing import Any, Final

__all__ = ["CHANNEL_OPTIONS", "KEEPALIVE"]

KEEPALIVE: Final[tuple[tuple[str, Any], ...]] = (
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)
"""Options of every channel and every server: a peer that has gone silent is noticed within half a minute."""

CHANNEL_OPTIONS: Final[tuple[tuple[str, Any], ...]] = (
    *KEEPALIVE,
    # A server that restarts is found again within seconds, not after gRPC's default of up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)
"""Options of every channel we open. Messages stay within gRPC's default of 4 MiB."""
