"""When a failed call is tried again."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Final

from zoofleet.errors import (
    AbortedError,
    ResourceExhaustedError,
    UnavailableError,
    WeightsUnavailableError,
    ZoofleetError,
)

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 2.0


class Backoff:
    """Pauses between attempts, doubled each time, with jitter.

    Args:
        timeout: seconds without progress after which an error is raised in place of a pause; 0 never tries again.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self.progress()

    def progress(self) -> None:
        """Something got through: start over."""
        self._deadline = time.monotonic() + self._timeout
        self._pause = _FIRST_PAUSE

    async def pause(self, error: ZoofleetError) -> None:
        """Sleep before the next attempt.

        Raises:
            ZoofleetError: the error itself where another attempt will not help or the time is up.
        """
        if isinstance(error, ResourceExhaustedError) and error.retry_after is not None:
            pause = error.retry_after
        elif isinstance(error, UnavailableError | AbortedError) and not isinstance(error, WeightsUnavailableError):
            pause = self._pause * random.uniform(0.5, 1.0)  # noqa: S311 - spreads clients, guards nothing
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        else:
            raise error
        if time.monotonic() + pause >= self._deadline:
            raise error
        await asyncio.sleep(pause)
