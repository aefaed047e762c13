"""A real worker in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.worker.calls import small_clip

from zoofleet.worker import Worker, WorkerConfig


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    """A worker on its own, listening on a free port."""
    worker = Worker(WorkerConfig(schedulers=(), device="cpu", threads=1))
    await worker.start()
    yield worker
    await worker.stop()


@pytest.fixture(scope="session")
def clip(media: Path) -> bytes:
    """Twenty small frames of the real clip."""
    return small_clip(media / "bigbuckbunny.mp4", 20)
