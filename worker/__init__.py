"""The worker: one process per device that hosts the zoo behind gRPC. Loads torch, never redis.

The settings load at once and without the server, since the command line shows them in its help; the server loads when
it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoofleet.worker.config import WorkerConfig

if TYPE_CHECKING:
    from zoofleet.worker.server import Worker, serve

__all__ = ["Worker", "WorkerConfig", "serve"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from zoofleet.worker import server

    return getattr(server, name)
