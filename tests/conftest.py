"""Fixtures that several rooms share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from zoofleet._redis_server import RedisServer, find_redis_server
from zoofleet.errors import UnavailableError

MEDIA = Path(__file__).parent / "data" / "media"


@pytest.fixture(scope="session")
def media() -> Path:
    """The folder of real photographs and a real clip."""
    return MEDIA


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A real, empty redis-server; skips where there is none, and fails in CI."""
    try:
        find_redis_server()
    except UnavailableError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    with RedisServer(tmp_path / "redis") as server:
        yield server
