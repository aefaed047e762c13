"""Where a scheduler listens, and where clients and workers look for one, unless told otherwise."""

from __future__ import annotations

from typing import Final

DEFAULT_PORT: Final = 50051
"""The port that gRPC's own examples use."""

DEFAULT_ADDRESS: Final = f"127.0.0.1:{DEFAULT_PORT}"
"""A scheduler on this machine, which only this machine can reach."""

ADDRESS_VARIABLE: Final = "ZOOFLEET_ADDRESS"
"""The environment variable that names the scheduler's host:port for clients."""
