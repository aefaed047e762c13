"""The scheduler: jobs, queue, leases and routing. It loads redis and never torch.

The settings load at once and without the server, since the command line shows them in its help; the server loads when
it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoofleet.scheduler.config import SchedulerConfig

if TYPE_CHECKING:
    from zoofleet.scheduler.server import Scheduler, serve

__all__ = ["Scheduler", "SchedulerConfig", "serve"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from zoofleet.scheduler import server

    return getattr(server, name)
