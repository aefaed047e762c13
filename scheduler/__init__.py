"""The scheduler: jobs, queue, leases and routing. It loads redis and never torch."""

from __future__ import annotations

from zoofleet.scheduler.config import SchedulerConfig
from zoofleet.scheduler.server import Scheduler, serve

__all__ = ["Scheduler", "SchedulerConfig", "serve"]
