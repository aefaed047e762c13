"""The worker: one process per device that hosts the zoo behind gRPC. Loads torch, never redis."""

from __future__ import annotations

from zoofleet.worker.config import WorkerConfig
from zoofleet.worker.server import Worker, serve

__all__ = ["Worker", "WorkerConfig", "serve"]
