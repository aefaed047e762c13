"""How a stream says that nobody waits for its items one by one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

__all__ = ["BULK_METADATA", "is_bulk", "traffic_metadata"]

_KEY: Final = "zoofleet-traffic"

_BULK: Final = "bulk"

BULK_METADATA: Final = ((_KEY, _BULK),)
"""The metadata of a stream whose items yield to those of other streams, such as the scheduler's streams of jobs."""


def is_bulk(metadata: Iterable[tuple[str, Any]] | None) -> bool:
    """Return whether a call's metadata says that its items yield to others. Values that are not known say nothing."""
    return (_KEY, _BULK) in tuple(metadata or ())


def traffic_metadata(metadata: Iterable[tuple[str, Any]] | None) -> tuple[tuple[str, str], ...]:
    """Return what of a client's metadata goes on to the worker."""
    return BULK_METADATA if is_bulk(metadata) else ()
