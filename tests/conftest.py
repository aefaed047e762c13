"""Fixtures that several rooms share."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.models import parts

from zoofleet._local.redis_server import RedisServer, find_redis_server
from zoofleet.errors import UnavailableError

MEDIA = Path(__file__).parent / "data" / "media"


def pytest_configure() -> None:
    """Let tests interrupt what they start."""
    # What a shell runs in the background ignores Ctrl-C, and so would all processes that tests start and interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> str:
    """Say which of the zoo's tests this run has."""
    return f"zoo: {parts.VARIABLE}={parts.chosen()}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests of this run's part."""
    part = parts.chosen()
    config.hook.pytest_deselected(items=[item for item in items if not parts.takes(part, item)])
    items[:] = [item for item in items if parts.takes(part, item)]


@pytest.fixture(scope="session")
def media() -> Path:
    """The folder of real photographs and a real clip."""
    return MEDIA


@pytest.fixture(scope="session")
def redis_installed() -> None:
    """Skips what needs a redis-server where there is none; fails in CI."""
    try:
        find_redis_server()
    except UnavailableError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


@pytest.fixture
def redis_server(redis_installed: None, tmp_path: Path) -> Iterator[RedisServer]:
    """A real, empty redis-server."""
    with RedisServer(tmp_path / "redis") as server:
        yield server
