"""How long to wait between attempts at something that fails."""

from __future__ import annotations

import random
from collections.abc import Iterator


def backoff(first: float, longest: float, *, jitter: float = 0.0) -> Iterator[float]:
    """Yield the pauses between attempts without end, each twice as long as the one before it; sleeps for none of them.

    Args:
        first: seconds of the first pause.
        longest: seconds that no pause exceeds.
        jitter: largest share of each pause that is left out at random, 0 to 1, so that those who failed together do
            not all come back together.
    """
    pause = min(first, longest)
    while True:
        yield pause * random.uniform(1.0 - jitter, 1.0)  # noqa: S311 - spreads load, guards nothing
        pause = min(2 * pause, longest)
