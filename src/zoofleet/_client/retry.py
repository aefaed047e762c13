"""When a failed call is tried again."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from zoofleet._wire.backoff import backoff
from zoofleet.errors import (
    AbortedError,
    ResourceExhaustedError,
    UnavailableError,
    WeightsUnavailableError,
    ZoofleetError,
)

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 2.0
_JITTER: Final = 0.5
"""Seconds and a share; short beside the 30 s after which a client gives up, long beside a call."""


class Backoff:
    """The pauses between the attempts of one call, each about twice as long as the one before, with jitter.

    Args:
        timeout: seconds without progress after which an error is raised in place of a pause. With 0, no attempt is
            repeated.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self.progress()

    def progress(self) -> None:
        """Start over, because something got through."""
        self._deadline = time.monotonic() + self._timeout
        self._pauses = backoff(_FIRST_PAUSE, _LONGEST_PAUSE, jitter=_JITTER)

    async def pause(self, error: ZoofleetError) -> None:
        """Sleep before the next attempt.

        Args:
            error: what the last attempt raised.

        Raises:
            ZoofleetError: the error itself, where another attempt will not help or the time is up.
        """
        if isinstance(error, ResourceExhaustedError) and error.retry_after is not None:
            pause = error.retry_after
        elif isinstance(error, UnavailableError | AbortedError) and not isinstance(error, WeightsUnavailableError):
            pause = next(self._pauses)
        else:
            raise error
        if time.monotonic() + pause >= self._deadline:
            raise error
        await asyncio.sleep(pause)
