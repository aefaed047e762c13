"""A real worker in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.worker.calls import small_clip

from zoofleet.worker import Worker, WorkerConfig
from zoofleet.worker.batcher import Batcher
from zoofleet.worker.turns import Taken


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    """A worker on its own, listening on a free port."""
    worker = Worker(WorkerConfig(schedulers=(), device="cpu", threads=1))
    await worker.start()
    yield worker
    await worker.stop()


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of all forward passes from here on, in order; those of a batch's items that run alone too."""
    sizes: list[int] = []
    launch = Batcher._launch

    def counted(self: Batcher, taken: Taken) -> None:
        sizes.append(len(taken.batch))
        launch(self, taken)

    monkeypatch.setattr(Batcher, "_launch", counted)
    return sizes


@pytest.fixture(scope="session")
def clip(media: Path) -> bytes:
    """Twenty small frames of the real clip."""
    return small_clip(media / "bigbuckbunny.mp4", 20)
